#include "overflow.h"
#include "co.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* The handler's own frame is small; whoever is chained behind it may print a backtrace. */
enum {
    ALTSTACK_SIZE = 64 * 1024
};

static const int signals[] = {SIGSEGV, SIGBUS};
enum {
    SIGNALS = sizeof signals / sizeof signals[0]
};

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER; /* guards the next three */
static unsigned watchers;
/* What was there before ours; constant while ours is installed, so the handler may read it. */
static struct sigaction before[SIGNALS];
static bool installed[SIGNALS];
static _Thread_local void *altstack; /* ours, if this thread had none */
static _Thread_local unsigned nested;

/* A child finds the three as they are between two changes, and the mutex free. */
static void lock_for_fork(void)
{
    pthread_mutex_lock(&mutex);
}

static void unlock_after_fork(void)
{
    pthread_mutex_unlock(&mutex);
}

__attribute__((constructor)) static void watch_forks(void)
{
    pthread_atfork(lock_for_fork, unlock_after_fork, unlock_after_fork);
}

/* ---- In the handler: only what is safe in a signal ---- */

struct text {
    char bytes[256];
    size_t size;
};

static void add(struct text *text, const char *part)
{
    size_t n = strlen(part), room = sizeof text->bytes - text->size;
    n = n < room ? n : room;
    memcpy(text->bytes + text->size, part, n);
    text->size += n;
}

static void add_number(struct text *text, size_t number)
{
    char digits[24], *at = digits + sizeof digits - 1;
    *at = '\0';
    do
        *--at = (char)('0' + number % 10);
    while ((number /= 10) > 0);
    add(text, at);
}

static void report(const struct duet__co *co)
{
    struct text text = {.size = 0};
    add(&text, "duet: error: stack overflow in coroutine '");
    add(&text, co->name ? co->name : "unnamed");
    add(&text, "': its ");
    add_number(&text, co->size_kib);
    add(&text, " KiB are used up. Give it more by duet_opts.stack_size or "
               "duet_loop_config.stack_size\n");
    if (write(STDERR_FILENO, text.bytes, text.size) < 0)
        return; /* nowhere to say it; the signal itself still ends the process */
}

static void chain(const struct sigaction *old, int signo, siginfo_t *info, void *context)
{
    if (old->sa_flags & SA_SIGINFO) {
        old->sa_sigaction(signo, info, context);
    } else if (old->sa_handler != SIG_DFL && old->sa_handler != SIG_IGN) {
        old->sa_handler(signo);
    } else {
        /* The default: return to the faulting instruction, which faults again and ends the process
         * at its true place. A signal that was sent does not come back by itself. */
        signal(signo, SIG_DFL);
        if (info->si_code <= 0)
            raise(signo);
    }
}

static bool is_in_guard(const struct duet__co *co, const char *address)
{
    return co && co->guarded && address < co->low && address >= co->low - DUET__GUARD_SIZE;
}

static void on_fault(int signo, siginfo_t *info, void *context)
{
    int saved_errno = errno;
    const struct duet__co *co = duet__co_running;
    if (info->si_code > 0 && is_in_guard(co, info->si_addr))
        report(co);
    for (int i = 0; i < SIGNALS; i++)
        if (signals[i] == signo)
            chain(&before[i], signo, info, context);
    errno = saved_errno;
}

/* ---- Outside ---- */

static int altstack_begin(void)
{
    stack_t old;
    if (sigaltstack(NULL, &old) == 0 && !(old.ss_flags & SS_DISABLE))
        return 0; /* the program, or a sanitizer, has one */
    altstack =
        mmap(NULL, ALTSTACK_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (altstack == MAP_FAILED) {
        altstack = NULL;
        return -ENOMEM;
    }
    stack_t ours = {.ss_sp = altstack, .ss_size = ALTSTACK_SIZE};
    sigaltstack(&ours, NULL);
    return 0;
}

static void altstack_end(void)
{
    stack_t now, none = {.ss_flags = SS_DISABLE};
    if (!altstack)
        return;
    if (sigaltstack(NULL, &now) == 0 && now.ss_sp == altstack)
        sigaltstack(&none, NULL);
    munmap(altstack, ALTSTACK_SIZE);
    altstack = NULL;
}

static void handlers_begin(void)
{
    struct sigaction ours = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    sigemptyset(&ours.sa_mask);
    for (int i = 0; i < SIGNALS; i++) {
        if (installed[i])
            continue; /* beneath a later handler of the program's, which calls us or not */
        sigaction(signals[i], NULL, &before[i]); /* before ours can run */
        sigaction(signals[i], &ours, NULL);
        installed[i] = true;
    }
}

/* Takes ours away, unless the program has put another on top of it: that one may call us. */
static void handlers_end(void)
{
    for (int i = 0; i < SIGNALS; i++) {
        struct sigaction now;
        sigaction(signals[i], NULL, &now);
        if ((now.sa_flags & SA_SIGINFO) && now.sa_sigaction == on_fault) {
            sigaction(signals[i], &before[i], NULL);
            installed[i] = false;
        }
    }
}

int duet__overflow_watch(void)
{
    if (nested++ > 0)
        return 0;
    int rc = altstack_begin();
    if (rc < 0) {
        nested--;
        return rc;
    }
    pthread_mutex_lock(&mutex);
    if (watchers++ == 0)
        handlers_begin();
    pthread_mutex_unlock(&mutex);
    return 0;
}

void duet__overflow_unwatch(void)
{
    if (--nested > 0)
        return;
    pthread_mutex_lock(&mutex);
    if (--watchers == 0)
        handlers_end();
    pthread_mutex_unlock(&mutex);
    altstack_end();
}
