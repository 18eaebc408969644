#include "duet_test.h"

#include <dirent.h>
#include <sched.h>
#include <signal.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* ---- Gates ---- */

void gate_open(struct gate *gate)
{
    pthread_mutex_lock(&gate->mutex);
    gate->open = true;
    pthread_cond_broadcast(&gate->cond);
    pthread_mutex_unlock(&gate->mutex);
}

void gate_pass(struct gate *gate)
{
    pthread_mutex_lock(&gate->mutex);
    gate->arrived++;
    pthread_cond_broadcast(&gate->cond);
    while (!gate->open)
        pthread_cond_wait(&gate->cond, &gate->mutex);
    pthread_mutex_unlock(&gate->mutex);
}

void gate_await_arrivals(struct gate *gate, int n)
{
    pthread_mutex_lock(&gate->mutex);
    while (gate->arrived < n)
        pthread_cond_wait(&gate->cond, &gate->mutex);
    pthread_mutex_unlock(&gate->mutex);
}

duet_result gate_pass_job(void *gate)
{
    gate_pass(gate);
    return duet_ok();
}

/* ---- Work ---- */

#ifndef TEST_LOOP_ALONE /* there is no bridge then */
void run_in_coroutine(duet_result (*body)(void *arg), void *arg)
{
    must_equal(duet_run(body, arg, NULL), 0);
}
#endif

duet_result return_ok(void *arg)
{
    (void)arg;
    return duet_ok();
}

duet_result return_arg(void *arg)
{
    return duet_ptr(arg);
}

duet_result fail_eio(void *arg)
{
    (void)arg;
    return duet_err(-EIO);
}

duet_result sleep_long(void *arg)
{
    (void)arg;
    int rc = duet_sleep(duet_sec(3600));
    return rc < 0 ? duet_err(rc) : duet_ok();
}

duet_result yield_often(void *count)
{
    for (int i = *(int *)count; i > 0; i--)
        if (duet_yield() < 0)
            return duet_err(-ECANCELED);
    return duet_ok();
}

void count_drop(void *counter)
{
    atomic_fetch_add((atomic_int *)counter, 1);
}

/* ---- The log ---- */

static pthread_mutex_t log_mutex = PTHREAD_MUTEX_INITIALIZER;
static char log_lines[256][600];
static int log_size;

static void keep_line(void *ctx, enum duet_level level, const char *line)
{
    (void)ctx;
    (void)level;
    pthread_mutex_lock(&log_mutex);
    if (log_size < 256)
        snprintf(log_lines[log_size++], sizeof log_lines[0], "%s", line);
    pthread_mutex_unlock(&log_mutex);
}

void log_capture(void)
{
    pthread_mutex_lock(&log_mutex);
    log_size = 0;
    pthread_mutex_unlock(&log_mutex);
    duet_log_set(keep_line, NULL, DUET_DEBUG);
}

int log_count(const char *part)
{
    int count = 0;
    pthread_mutex_lock(&log_mutex);
    for (int i = 0; i < log_size; i++)
        count += strstr(log_lines[i], part) != NULL;
    pthread_mutex_unlock(&log_mutex);
    return count;
}

bool log_has(const char *part)
{
    return log_count(part) > 0;
}

void log_release(void)
{
    duet_log_set(NULL, NULL, DUET_WARNING);
}

/* ---- Deaths ---- */

static void read_all(int fd, char *text, size_t size)
{
    size_t used = 0;
    ssize_t n;
    while (used < size - 1 && (n = read(fd, text + used, size - 1 - used)) > 0)
        used += (size_t)n;
    text[used] = '\0';
}

void expect_death(void (*body)(void *arg), void *arg, int signo, const char *text)
{
    int fds[2], status;
    char output[16384];
    must(pipe(fds) == 0);
    fflush(NULL);
    pid_t child = fork();
    must(child >= 0);
    if (child == 0) {
        dup2(fds[1], STDERR_FILENO);
        close(fds[0]);
        close(fds[1]);
        static const int signals[] = {SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGSYS};
        for (size_t i = 0; i < sizeof signals / sizeof signals[0]; i++)
            signal(signals[i], SIG_DFL); /* cmocka catches them */
        body(arg);
        _exit(42);
    }
    close(fds[1]);
    read_all(fds[0], output, sizeof output);
    close(fds[0]);
    must(waitpid(child, &status, 0) == child);
    bool died = WIFSIGNALED(status) && WTERMSIG(status) == signo;
#ifdef TEST_SANITIZED
    died =
        died || (WIFEXITED(status) && WEXITSTATUS(status) != 42); /* its report ends the process */
#endif
    if (!died || !strstr(output, text)) {
        fprintf(stderr, "expected death by signal %d with '%s'; status %#x, output:\n%s\n", signo,
                text, (unsigned)status, output);
        abort();
    }
}

/* ---- Counting ---- */

static int count_entries(const char *path)
{
    int count = 0;
    DIR *dir = opendir(path);
    must(dir != NULL);
    while (readdir(dir))
        count++;
    closedir(dir);
    return count;
}

bool run_in_child(void (*body)(void))
{
    int status;
    fflush(NULL);
    pid_t pid = fork();
    must(pid >= 0);
    if (pid == 0) {
        alarm(60);
        body();
        _exit(0);
    }
    must_equal(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

int count_fds(void)
{
    return count_entries("/proc/self/fd");
}

int count_threads(void)
{
    return count_entries("/proc/self/task");
}

void await_threads(int n)
{
    duet_deadline by = SURELY;
    while (count_threads() > n) {
        must(duet_now_ns() < by.ns);
        sched_yield();
    }
}

/* ---- Chance ---- */

uint64_t test_seed(void)
{
    const char *given = getenv("DUET_TEST_SEED");
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    uint64_t seed =
        given ? (uint64_t)strtoull(given, NULL, 0)
              : (uint64_t)now.tv_nsec * UINT64_C(0x9e3779b97f4a7c15) ^ (uint64_t)(unsigned)getpid();
    seed = seed ? seed : 1;
    print_message("DUET_TEST_SEED=%llu\n", (unsigned long long)seed);
    return seed;
}

uint64_t test_random(uint64_t *state)
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * UINT64_C(0x2545f4914f6cdd1d);
}

int test_rounds(int normal)
{
    const char *percent = getenv("DUET_TEST_ROUNDS");
    long long rounds = normal;
#ifdef TEST_SANITIZED
    rounds = rounds / 10;
#endif
    if (percent)
        rounds = rounds * atoll(percent) / 100;
    return rounds > 1 ? (int)rounds : 1;
}
