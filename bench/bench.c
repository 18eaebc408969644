/* duet measured: one line a workload, medians of several rounds. Beside the round trips stands the
 * least that the machine can do, in the same run: only ratios mean anything on a shared machine.
 *
 *   bench [NAME…]    runs the workloads whose names begin so; all by default */
#include "measure.h"
#include "sync.h"

#include <duet/duet.h>

#include <linux/futex.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

enum {
    ROUNDS = 9
};

static duet_loop *start_loop(int spin_us)
{
    duet_loop_config config = {.name = "bench", .spin_us = spin_us};
    duet_loop *loop;
    need(duet_loop_start(&loop, &config) == 0, "duet_loop_start");
    return loop;
}

static void close_loop(duet_loop *loop)
{
    need(duet_loop_close(loop, DUET_NEVER) == 0, "duet_loop_close");
}

static duet_result nothing(void *arg)
{
    (void)arg;
    return duet_ok();
}

/* ---- A thread calls a coroutine and blocks for the answer ---- */

enum {
    CALLS = 20000
};

struct call_bench {
    duet_loop *loop;
    double p99_us;
};

static double call_round(void *arg)
{
    static double us[CALLS];
    struct call_bench *bench = arg;
    for (int i = 0; i < CALLS; i++) {
        int64_t start = measure_now_ns();
        duet_call(bench->loop, nothing, NULL, DUET_NEVER, NULL);
        us[i] = (double)(measure_now_ns() - start) / 1000;
    }
    double median = quantile(us, CALLS, 0.5);
    bench->p99_us = quantile(us, CALLS, 0.99);
    return median;
}

static void bench_call(void)
{
    struct call_bench hot = {start_loop(0), 0}, cold = {start_loop(-1), 0};
    report("call: submit and wait, back to back, p50", "us", ROUNDS, call_round, &hot);
    printf("%-44s %10.3f us\n", "call: … p99 of the last round", hot.p99_us);
    report("call: loop never spins, p50", "us", ROUNDS, call_round, &cold);
    close_loop(hot.loop);
    close_loop(cold.loop);
}

/* ---- The limit of the same: an eventfd wakes a thread, a futex answers ---- */

struct limit_bench {
    int event_fd;
    _Atomic uint32_t answer;
};

static void *limit_thread(void *arg)
{
    struct limit_bench *bench = arg;
    uint64_t count;
    while (read(bench->event_fd, &count, sizeof count) == sizeof count && count < 1000) {
        atomic_store(&bench->answer, 1);
        syscall(SYS_futex, &bench->answer, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
    }
    return NULL;
}

static double limit_round(void *arg)
{
    static double us[CALLS];
    struct limit_bench *bench = arg;
    uint64_t one = 1;
    for (int i = 0; i < CALLS; i++) {
        int64_t start = measure_now_ns();
        atomic_store(&bench->answer, 0);
        need(write(bench->event_fd, &one, sizeof one) == sizeof one, "write");
        while (atomic_load(&bench->answer) == 0)
            syscall(SYS_futex, &bench->answer, FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0);
        us[i] = (double)(measure_now_ns() - start) / 1000;
    }
    return quantile(us, CALLS, 0.5);
}

static void bench_limit(void)
{
    struct limit_bench bench = {.event_fd = eventfd(0, EFD_CLOEXEC)};
    uint64_t end = 1000;
    pthread_t thread;
    need(pthread_create(&thread, NULL, limit_thread, &bench) == 0, "pthread_create");
    report("limit: eventfd wakes, futex answers, p50", "us", ROUNDS, limit_round, &bench);
    need(write(bench.event_fd, &end, sizeof end) == sizeof end, "write");
    pthread_join(thread, NULL);
    close(bench.event_fd);
}

/* ---- Producers submit as fast as they can ---- */

enum {
    SUBMISSIONS = 400000,
    PRODUCERS_MAX = 8
};

struct submit_bench {
    duet_loop *loop;
    int producers;
    bool callbacks;
    atomic_int left;
    duet_future *all_ran;
};

static void count_callback(void *arg)
{
    struct submit_bench *bench = arg;
    if (atomic_fetch_sub(&bench->left, 1) == 1)
        duet_future_settle(bench->all_ran, duet_ok());
}

static duet_result count_coroutine(void *arg)
{
    count_callback(arg);
    return duet_ok();
}

static void *produce(void *arg)
{
    struct submit_bench *bench = arg;
    for (int i = SUBMISSIONS / bench->producers; i > 0; i--) {
        if (!bench->callbacks)
            duet_future_unref(duet_submit(bench->loop, count_coroutine, bench));
        else
            while (duet_call_soon(bench->loop, count_callback, bench) < 0)
                sched_yield(); /* the inbox is full: never waits by itself */
    }
    return NULL;
}

static double submit_round(void *arg)
{
    struct submit_bench *bench = arg;
    pthread_t threads[PRODUCERS_MAX];
    atomic_store(&bench->left, SUBMISSIONS / bench->producers * bench->producers);
    need(duet_future_open(&bench->all_ran) == 0, "duet_future_open");
    int64_t start = measure_now_ns();
    for (int i = 0; i < bench->producers; i++)
        need(pthread_create(&threads[i], NULL, produce, bench) == 0, "pthread_create");
    duet_future_wait(bench->all_ran, DUET_NEVER, NULL);
    double ns = (double)(measure_now_ns() - start);
    for (int i = 0; i < bench->producers; i++)
        pthread_join(threads[i], NULL);
    duet_future_unref(bench->all_ran);
    return SUBMISSIONS / ns * 1000;
}

static void bench_submit(void)
{
    for (int callbacks = 0; callbacks <= 1; callbacks++)
        for (int producers = 1; producers <= PRODUCERS_MAX; producers *= 2) {
            struct submit_bench bench = {start_loop(0), producers, callbacks, 0, NULL};
            char name[64];
            snprintf(name, sizeof name, "submit: %s, %d producer%s",
                     callbacks ? "callbacks" : "coroutines", producers, producers > 1 ? "s" : "");
            report(name, "M/s", 5, submit_round, &bench);
            close_loop(bench.loop);
        }
}

/* ---- A coroutine offloads ---- */

enum {
    OFFLOADS = 20000,
    MANY = 1000
};

static duet_result offload_one_by_one(void *pool)
{
    for (int i = 0; i < OFFLOADS; i++)
        duet_offload(pool, nothing, NULL, DUET_NEVER, NULL);
    return duet_ok();
}

static double offload_round(void *arg)
{
    void **pair = arg;
    int64_t start = measure_now_ns();
    duet_call(pair[0], offload_one_by_one, pair[1], DUET_NEVER, NULL);
    return (double)(measure_now_ns() - start) / OFFLOADS / 1000;
}

static duet_result offload_few(void *pool)
{
    for (int i = 0; i < OFFLOADS / MANY; i++)
        duet_offload(pool, nothing, NULL, DUET_NEVER, NULL);
    return duet_ok();
}

static duet_result offload_by_many(void *pool)
{
    duet_group group = DUET_GROUP_INIT;
    for (int i = 0; i < MANY; i++)
        duet_group_spawn(&group, NULL, offload_few, pool, NULL);
    duet_group_wait(&group, DUET_NEVER, NULL);
    duet_group_close(&group);
    return duet_ok();
}

static double offload_many_round(void *arg)
{
    void **pair = arg;
    int64_t start = measure_now_ns();
    duet_call(pair[0], offload_by_many, pair[1], DUET_NEVER, NULL);
    return OFFLOADS / (double)(measure_now_ns() - start) * 1000;
}

static void bench_offload(void)
{
    duet_pool_config config = {.workers_max = 2};
    duet_pool *pool;
    need(duet_pool_open(&pool, &config) == 0, "duet_pool_open");
    duet_loop *loop = start_loop(0);
    void *pair[] = {loop, pool};
    report("offload: and back, one at a time", "us", ROUNDS, offload_round, pair);
    report("offload: 1000 coroutines at once", "M/s", ROUNDS, offload_many_round, pair);
    close_loop(loop);
    duet_pool_close(pool, DUET_NEVER);
}

/* ---- Inside one loop ---- */

enum {
    SPAWNS = 200000,
    BATCH = 1000,
    YIELDS = 1000000
};

static duet_result spawn_batches(void *arg)
{
    double *ns = arg;
    static duet_future *futures[BATCH];
    int64_t start = measure_now_ns();
    for (int i = 0; i < SPAWNS / BATCH; i++) {
        for (int k = 0; k < BATCH; k++)
            futures[k] = duet_spawn(nothing, NULL);
        for (int k = 0; k < BATCH; k++) {
            duet_future_wait(futures[k], DUET_NEVER, NULL);
            duet_future_unref(futures[k]);
        }
    }
    *ns = (double)(measure_now_ns() - start) / SPAWNS;
    return duet_ok();
}

static duet_result yield_often(void *arg)
{
    (void)arg;
    for (int i = 0; i < YIELDS; i++)
        duet_yield();
    return duet_ok();
}

static duet_result yield_pair(void *arg)
{
    double *ns = arg;
    int64_t start = measure_now_ns();
    duet_future *other = duet_spawn(yield_often, NULL);
    yield_often(NULL);
    duet_future_close(other, NULL);
    *ns = (double)(measure_now_ns() - start) / (2.0 * YIELDS);
    return duet_ok();
}

static double run_round(void *body)
{
    double ns;
    need(duet_run(*(duet_fn **)body, &ns, NULL) == 0, "duet_run");
    return ns;
}

static void bench_spawn(void)
{
    duet_fn *body = spawn_batches;
    report("spawn: and finish, in batches of 1000", "ns", ROUNDS, run_round, &body);
}

static void bench_yield(void)
{
    duet_fn *body = yield_pair;
    report("yield: between two coroutines", "ns", ROUNDS, run_round, &body);
}

/* ---- Memory of sleeping coroutines ---- */

enum {
    SLEEPERS = 100000
};

static duet_result sleeper(void *arg)
{
    (void)arg;
    duet_sleep(DUET_NEVER);
    return duet_ok();
}

static long status_kib(const char *field)
{
    char line[256];
    long kib = -1;
    FILE *file = fopen("/proc/self/status", "re");
    need(file != NULL, "/proc/self/status");
    while (fgets(line, sizeof line, file))
        if (strncmp(line, field, strlen(field)) == 0)
            kib = strtol(line + strlen(field) + 1, NULL, 10);
    fclose(file);
    return kib;
}

static duet_result spawn_sleepers(void *arg)
{
    double *bytes = arg;
    long rss = status_kib("VmRSS"), tables = status_kib("VmPTE");
    for (int i = 0; i < SLEEPERS; i++)
        duet_future_unref(duet_spawn(sleeper, NULL));
    duet_yield();
    for (int i = 0; i < SLEEPERS; i++)
        duet_yield(); /* a turn runs 64 of them */
    bytes[0] = (double)(status_kib("VmRSS") - rss) * 1024 / SLEEPERS;
    bytes[1] = (double)(status_kib("VmPTE") - tables) * 1024 / SLEEPERS;
    return duet_ok();
}

static void bench_memory(void)
{
    double bytes[2];
    need(duet_run(spawn_sleepers, bytes, NULL) == 0, "duet_run");
    printf("%-44s %10.0f bytes    (and %.0f of page tables; 100,000 of them)\n",
           "memory: resident, per sleeping coroutine", bytes[0], bytes[1]);
}

/* ---- Which ---- */

static const struct {
    const char *name;
    void (*run)(void);
} workloads[] = {
    {"limit", bench_limit},         {"call", bench_call},
    {"submit", bench_submit},       {"offload", bench_offload},
    {"spawn", bench_spawn},         {"yield", bench_yield},
    {"memory", bench_memory},       {"uncontended", bench_uncontended},
    {"channel", bench_channel},     {"across", bench_across},
    {"contended", bench_contended},
};

static bool wanted(const char *name, int argc, char **argv)
{
    for (int i = 1; i < argc; i++)
        if (strncmp(name, argv[i], strlen(argv[i])) == 0)
            return true;
    return argc <= 1;
}

int main(int argc, char **argv)
{
    int ran = 0;
    for (size_t i = 0; i < sizeof workloads / sizeof workloads[0]; i++)
        if (wanted(workloads[i].name, argc, argv)) {
            workloads[i].run();
            ran++;
        }
    if (ran == 0)
        fprintf(stderr, "bench: no such workload; there are: limit call submit offload spawn yield "
                        "memory uncontended channel across contended\n");
    return ran == 0;
}
