/* Two loops measured beside one: how many a second, what each costs in processor time, and the ratio.
 * The two take turns, round by round, and a ratio is of the same round: only ratios mean anything on
 * a shared machine. Whatever drives the loops runs on the same processors: with two of them, two loops
 * are on their own only in `spawn` and `yield`.
 *
 *   bench-loops [--quick] [NAME…]   runs the workloads whose names begin so; all by default */
#include "echo_client.h"
#include "load.h"
#include "measure.h"

#include <duet/duet.h>

#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
    LOOPS = 2,
    BATCH = 1000,
    AT_ONCE = 64,
    CONNECTIONS = 64,
    SECONDS_MOST = 180, /* against a hang */
};

static struct {
    int rounds;
    int64_t warm_ns, ns; /* of a round; what warms up is for echoes */
} options = {.rounds = 9, .warm_ns = 20000000, .ns = 200000000};

/* What came of a round. */
struct round {
    double per_s, cpu_ns; /* the latter for each, of all threads; of echo, of the server's alone */
};

static duet_loop *loops[LOOPS];

static duet_result nothing(void *arg)
{
    (void)arg;
    return duet_ok();
}

/* ---- Spans: so much of a round as one loop or thread does ---- */

struct span {
    duet_loop *to; /* whom it calls, or submits to */
    int64_t end_ns;
    int64_t n; /* how many it has done */
};

static bool goes_on(const struct span *span)
{
    return measure_now_ns() < span->end_ns;
}

/* Begins so many. */
struct spans {
    int64_t start_ns, start_cpu_ns;
    struct span of[LOOPS];
};

static void begin(struct spans *spans)
{
    spans->start_cpu_ns = measure_cpu_ns();
    spans->start_ns = measure_now_ns();
    for (unsigned i = 0; i < LOOPS; i++)
        spans->of[i] = (struct span){loops[i], spans->start_ns + options.ns, 0};
}

static struct round end(const struct spans *spans)
{
    double ns = (double)(measure_now_ns() - spans->start_ns), n = 0;
    for (unsigned i = 0; i < LOOPS; i++)
        n += (double)spans->of[i].n;
    return (struct round){.per_s = n / ns * 1e9,
                          .cpu_ns = (double)(measure_cpu_ns() - spans->start_cpu_ns) / n};
}

/* ---- Independent work on each loop ---- */

static struct round on_each(unsigned count, duet_fn *fn)
{
    struct spans spans;
    duet_future *futures[LOOPS];
    begin(&spans);
    for (unsigned i = 0; i < count; i++)
        futures[i] = duet_submit(loops[i], fn, &spans.of[i]);
    need(duet_gather(futures, count, DUET_NEVER, NULL) == 0, "duet_gather");
    struct round round = end(&spans);
    for (unsigned i = 0; i < count; i++)
        duet_future_unref(futures[i]);
    return round;
}

static duet_result spawn_batches(void *arg)
{
    struct span *span = arg;
    duet_future *futures[BATCH];
    for (; goes_on(span); span->n += BATCH) {
        for (int i = 0; i < BATCH; i++)
            futures[i] = duet_spawn(nothing, NULL);
        for (int i = 0; i < BATCH; i++) {
            need(duet_future_wait(futures[i], DUET_NEVER, NULL) == 0, "duet_future_wait");
            duet_future_unref(futures[i]);
        }
    }
    return duet_ok();
}

static struct round measure_spawn(unsigned count)
{
    return on_each(count, spawn_batches);
}

static duet_result yield_often(void *arg)
{
    struct span *span = arg;
    for (; goes_on(span); span->n += BATCH)
        for (int i = 0; i < BATCH; i++)
            need(duet_yield() == 0, "duet_yield");
    return duet_ok();
}

static duet_result yield_pair(void *span)
{
    duet_future *other = duet_spawn(yield_often, span);
    yield_often(span);
    need(duet_future_wait(other, DUET_NEVER, NULL) == 0, "duet_future_wait");
    duet_future_unref(other);
    return duet_ok();
}

static struct round measure_yield(unsigned count)
{
    return on_each(count, yield_pair);
}

/* ---- Threads that submit as fast as they can ---- */

/* What one thread submits starts in that order: when the last has ended, all have. */
static void *produce(void *arg)
{
    struct span *span = arg;
    for (; goes_on(span); span->n += BATCH)
        for (int i = 0; i < BATCH; i++)
            duet_future_unref(duet_submit(span->to, nothing, NULL));
    need(duet_call(span->to, nothing, NULL, DUET_NEVER, NULL) == 0, "duet_call");
    return NULL;
}

static struct round measure_producers(unsigned producers, unsigned count)
{
    struct spans spans;
    pthread_t threads[LOOPS];
    begin(&spans);
    for (unsigned i = 0; i < producers; i++) {
        spans.of[i].to = loops[i % count];
        need(pthread_create(&threads[i], NULL, produce, &spans.of[i]) == 0, "pthread_create");
    }
    for (unsigned i = 0; i < producers; i++)
        pthread_join(threads[i], NULL);
    return end(&spans);
}

static struct round measure_submit(unsigned count)
{
    return measure_producers(count, count);
}

static struct round measure_submit_two(unsigned count)
{
    return measure_producers(LOOPS, count);
}

/* ---- Coroutines on one loop call coroutines: on the same, or on the other ---- */

static duet_result call_often(void *arg)
{
    struct span *span = arg;
    while (goes_on(span))
        for (int i = 0; i < 10; i++, span->n++)
            need(duet_call(span->to, nothing, NULL, DUET_NEVER, NULL) == 0, "duet_call");
    return duet_ok();
}

static duet_result call_from_many(void *span)
{
    duet_group group = DUET_GROUP_INIT;
    for (int i = 0; i < AT_ONCE; i++)
        need(duet_group_spawn(&group, NULL, call_often, span, NULL) == 0, "duet_group_spawn");
    need(duet_group_wait(&group, DUET_NEVER, NULL) == 0, "duet_group_wait");
    return duet_err(duet_group_close(&group));
}

static struct round measure_calls(duet_fn *fn, unsigned count)
{
    struct spans spans;
    begin(&spans);
    spans.of[0].to = loops[count - 1];
    need(duet_call(loops[0], fn, &spans.of[0], DUET_NEVER, NULL) == 0, "duet_call");
    return end(&spans);
}

static struct round measure_call(unsigned count)
{
    return measure_calls(call_often, count);
}

static struct round measure_call_many(unsigned count)
{
    return measure_calls(call_from_many, count);
}

/* ---- An echo over TCP, from a process with that many loops ---- */

/* By how many loops, less one. The client is this process, in one thread. */
static struct server {
    pid_t pid;
    clockid_t cpu;
    struct echo_client *client;
} servers[LOOPS];

static char port[8];

static duet_result echo(duet_stream *stream, void *arg)
{
    char bytes[256];
    ssize_t n;
    (void)arg;
    while ((n = duet_stream_read(stream, bytes, sizeof bytes, DUET_NEVER)) > 0)
        need(duet_stream_write(stream, bytes, (size_t)n, DUET_NEVER) == 0, "duet_stream_write");
    return duet_ok();
}

static duet_result listen_here(void *server)
{
    const duet_server_config config = {.port = port, .handler = echo, .reuse_port = true};
    struct sockaddr_storage address;
    need(duet_server_open(server, &config) == 0, "duet_server_open");
    need(duet_server_address(*(duet_server **)server, &address) == 0, "duet_server_address");
    snprintf(port, sizeof port, "%d", ntohs(((struct sockaddr_in *)&address)->sin_port));
    return duet_ok();
}

static duet_result serve_here(void *server)
{
    return duet_err(duet_server_serve(server, DUET_NEVER));
}

/* Never returns; the other one kills it. */
static void be_server(unsigned count, int port_fd)
{
    duet_server *listening[LOOPS];
    duet_loop *serving[LOOPS];
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    strcpy(port, "0");
    for (unsigned i = 0; i < count; i++) {
        need(duet_loop_start(&serving[i], NULL) == 0, "duet_loop_start");
        need(duet_call(serving[i], listen_here, &listening[i], DUET_NEVER, NULL) == 0, "listen");
    }
    for (unsigned i = 0; i < count; i++)
        duet_future_unref(duet_submit(serving[i], serve_here, listening[i]));
    int at = atoi(port);
    need(write(port_fd, &at, sizeof at) == sizeof at, "write");
    for (;;)
        pause();
}

static void start_server(unsigned count)
{
    struct server *server = &servers[count - 1];
    int fds[2], at;
    need(pipe(fds) == 0, "pipe");
    fflush(stdout);
    server->pid = fork();
    need(server->pid >= 0, "fork");
    if (server->pid == 0) {
        close(fds[0]);
        be_server(count, fds[1]);
    }
    close(fds[1]);
    need(read(fds[0], &at, sizeof at) == sizeof at, "a server starts");
    close(fds[0]);
    need(clock_getcpuclockid(server->pid, &server->cpu) == 0, "clock_getcpuclockid");
    server->client = echo_connect(at, CONNECTIONS);
}

static void stop_server(const struct server *server)
{
    kill(server->pid, SIGKILL);
    waitpid(server->pid, NULL, 0);
    echo_disconnect(server->client);
}

static struct round measure_echo(unsigned count)
{
    const struct server *server = &servers[count - 1];
    struct echo_round asked = echo_ask(server->client, server->cpu, options.warm_ns, options.ns);
    return (struct round){.per_s = asked.requests / asked.s, .cpu_ns = asked.cpu_us * 1000};
}

/* ---- The table ---- */

static const struct workload {
    const char *name, *what;
    struct round (*measure)(unsigned loops);
    bool forked;
} workloads[] = {
    {"spawn", "spawn: and finish, on each loop", measure_spawn, false},
    {"yield", "yield: between two, on each loop", measure_yield, false},
    {"submit-1", "submit-1: by one thread for each loop", measure_submit, false},
    {"submit-2", "submit-2: by two threads in any case", measure_submit_two, false},
    {"call-1", "call-1: to the same loop, the other", measure_call, false},
    {"call-64", "call-64: likewise, 64 at once", measure_call_many, false},
    {"echo-64", "echo-64: over TCP, 64 connections", measure_echo, true},
};

static void start(const struct workload *workload)
{
    for (unsigned i = 0; i < LOOPS; i++)
        if (workload->forked)
            start_server(i + 1);
        else
            need(duet_loop_start(&loops[i], NULL) == 0, "duet_loop_start");
}

static void stop(const struct workload *workload)
{
    for (unsigned i = 0; i < LOOPS; i++)
        if (workload->forked)
            stop_server(&servers[i]);
        else
            need(duet_loop_close(loops[i], DUET_NEVER) == 0, "duet_loop_close");
}

static void print_heading(void)
{
    char medians[64];
    snprintf(medians, sizeof medians, "%u processors, medians of %d rounds", duet_cpu_count(),
             options.rounds);
    printf("%-38s %13s %11s %13s %11s %7s\n", medians, "one loop", "CPU each", "two loops",
           "CPU each", "ratio");
}

static void print_medians(double *per_s, double *cpu_ns)
{
    printf(" %9.1f k/s %8.0f ns", quantile(per_s, (size_t)options.rounds, 0.5) / 1000,
           quantile(cpu_ns, (size_t)options.rounds, 0.5));
}

static void run(const struct workload *workload)
{
    double per_s[LOOPS][ROUNDS_MAX], cpu_ns[LOOPS][ROUNDS_MAX], ratios[ROUNDS_MAX];
    start(workload);
    for (unsigned i = 0; i < LOOPS; i++)
        workload->measure(i + 1); /* a warm-up */
    for (int r = 0; r < options.rounds; r++) {
        for (unsigned k = 0; k < LOOPS; k++) {
            unsigned i = ((unsigned)r + k) % LOOPS; /* neither always comes first */
            struct round round = workload->measure(i + 1);
            per_s[i][r] = round.per_s;
            cpu_ns[i][r] = round.cpu_ns;
        }
        ratios[r] = per_s[1][r] / per_s[0][r];
    }
    stop(workload);
    printf("%-38s", workload->what);
    for (unsigned i = 0; i < LOOPS; i++)
        print_medians(per_s[i], cpu_ns[i]);
    double median = quantile(ratios, (size_t)options.rounds, 0.5);
    printf(" %7.2f (%.2f to %.2f)\n", median, ratios[0], ratios[options.rounds - 1]);
    fflush(stdout);
}

static bool wanted(const char *name, int argc, char **argv)
{
    bool any = false;
    for (int i = 1; i < argc; i++) {
        any |= argv[i][0] != '-';
        if (strncmp(name, argv[i], strlen(argv[i])) == 0)
            return true;
    }
    return !any;
}

static bool take_option(const char *text)
{
    if (strcmp(text, "--quick") != 0)
        return false;
    options.rounds = 5;
    options.warm_ns = 10000000;
    options.ns = 60000000;
    return true;
}

int main(int argc, char **argv)
{
    int ran = 0;
    bool known = true;
    for (int i = 1; i < argc; i++)
        known &= argv[i][0] != '-' || take_option(argv[i]);
    alarm(SECONDS_MOST);
    struct load before = load_now();
    for (size_t i = 0; known && i < sizeof workloads / sizeof workloads[0]; i++)
        if (wanted(workloads[i].name, argc, argv)) {
            if (ran++ == 0)
                print_heading();
            run(&workloads[i]);
        }
    if (ran > 0)
        print_load(&before);
    else
        fprintf(stderr, "bench-loops [--quick] [NAME…]; there are: spawn yield submit-1 submit-2 "
                        "call-1 call-64 echo-64\n");
    return ran == 0;
}
