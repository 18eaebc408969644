/* What pool.h promises of workers that come and go, of the two lanes, of the slots that jobs lend
 * while they wait, and of the statistics. */
#include "duet_test.h"
#include "shared.h"

#include <dirent.h>
#include <time.h>
#include <unistd.h>

/* ---- What the tests of this file share ---- */

/* How many threads there are between two tests. */
static int resting;

enum {
    NANOSECOND = 1,
    SHORT = 50000,
};

static duet_pool *open_with(duet_pool_config config)
{
    duet_pool *pool;
    must_equal(duet_pool_open(&pool, &config), 0);
    return pool;
}

/* Until the statistics are so; *stats is then what they are. */
#define await_stats(pool, stats, condition)                                                        \
    do {                                                                                           \
        duet_deadline await_by = SURELY;                                                           \
        for (;;) {                                                                                 \
            duet_pool_stats_get(pool, stats);                                                      \
            if (condition)                                                                         \
                break;                                                                             \
            if (duet_now_ns() >= await_by.ns)                                                      \
                print_stats(stats);                                                                \
            must(duet_now_ns() < await_by.ns);                                                     \
            sched_yield();                                                                         \
        }                                                                                          \
    } while (0)

static void print_stats(const duet_pool_stats *s)
{
    fprintf(stderr, "workers %u, busy %u, blocked %u, abandoned %u, queued %llu (urgent %llu), ",
            s->workers, s->busy, s->blocked_in_wait, s->abandoned, (unsigned long long)s->queued,
            (unsigned long long)s->urgent);
    fprintf(stderr, "submitted %llu, completed %llu, cancelled %llu, refused %llu, ",
            (unsigned long long)s->submitted, (unsigned long long)s->completed,
            (unsigned long long)s->cancelled, (unsigned long long)s->refused);
    fprintf(stderr, "peak %llu, started %llu, refused by the system %llu\n",
            (unsigned long long)s->workers_peak, (unsigned long long)s->threads_started,
            (unsigned long long)s->threads_refused);
}

static duet_pool_stats stats_of(const duet_pool *pool)
{
    duet_pool_stats stats;
    duet_pool_stats_get(pool, &stats);
    return stats;
}

/* The threads of this process that are workers, of whatever pool. */
static int count_worker_threads(void)
{
    int count = 0;
    struct dirent *entry;
    DIR *dir = opendir("/proc/self/task");
    must(dir != NULL);
    while ((entry = readdir(dir)) != NULL) {
        char path[320], name[32] = "";
        snprintf(path, sizeof path, "/proc/self/task/%s/comm", entry->d_name);
        FILE *file = fopen(path, "r");
        if (file == NULL) /* it has ended */
            continue;
        name[fread(name, 1, sizeof name - 1, file)] = '\0';
        fclose(file);
        count += strncmp(name, "duet-w/", 7) == 0;
    }
    closedir(dir);
    return count;
}

static void await_worker_threads(int n)
{
    duet_deadline by = SURELY;
    while (count_worker_threads() != n) {
        must(duet_now_ns() < by.ns);
        sched_yield();
    }
}

static void await_workers(const duet_pool *pool, unsigned n)
{
    duet_pool_stats stats;
    await_stats(pool, &stats, stats.workers == n);
}

static void await_rest(const duet_pool *pool)
{
    duet_pool_stats stats;
    await_stats(pool, &stats, stats.busy == 0 && stats.queued == 0);
}

/* Gives others the processor for a moment, so that what must not happen could. */
static void let_others_run(void)
{
    for (int i = 0; i < 100; i++)
        sched_yield();
}

static void pause_us(long us)
{
    struct timespec moment = {.tv_nsec = us * 1000};
    nanosleep(&moment, NULL);
}

/* Work that the compiler does not leave out. */
static void spin(unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        __asm__ volatile("" : : "r"(i));
}

/* Jobs at a gate, each on a worker of its own. */
struct holders {
    struct gate gate;
    duet_future *fs[16];
    int count;
};

static void hold_with(struct holders *h, duet_pool *pool, int count, const duet_opts *opts)
{
    h->gate = (struct gate)GATE_INIT;
    h->count = count;
    for (int i = 0; i < count; i++) {
        h->fs[i] = duet_pool_submit_with(pool, gate_pass_job, &h->gate, opts);
        gate_await_arrivals(&h->gate, i + 1);
    }
}

static void hold(struct holders *h, duet_pool *pool, int count)
{
    hold_with(h, pool, count, NULL);
}

static void release(struct holders *h)
{
    gate_open(&h->gate);
    for (int i = 0; i < h->count; i++)
        must_equal(finish(h->fs[i]).err, 0);
}

struct tally {
    atomic_int ran, dropped;
};

static duet_result tally_run(void *arg)
{
    atomic_fetch_add(&((struct tally *)arg)->ran, 1);
    return duet_ok();
}

static void tally_drop(void *arg)
{
    atomic_fetch_add(&((struct tally *)arg)->dropped, 1);
}

static const duet_opts tally_opts = {.drop = tally_drop};
static const duet_opts urgent = {.priority = 1};

/* A job that may only run once something has happened. */
static duet_result run_after(void *happened)
{
    must(atomic_load((atomic_bool *)happened));
    return duet_ok();
}

static duet_result wait_for(void *f)
{
    duet_result r;
    int rc = duet_future_wait(f, SURELY, &r);
    return rc < 0 ? duet_err(rc) : r;
}

/* ---- Workers come and go ---- */

/* pool.h: workers_min threads are started with the pool, and no more. */
thread_test(a_new_pool_has_the_threads_that_it_must_have_and_no_more)
{
    static const unsigned least[] = {0, 1, 3, 8};
    for (size_t i = 0; i < sizeof least / sizeof least[0]; i++) {
        duet_pool *pool = open_with((duet_pool_config){.workers_min = least[i], .workers_max = 8});
        await_threads(resting + (int)least[i]);
        await_worker_threads((int)least[i]);
        duet_pool_stats stats = stats_of(pool);
        must_equal(stats.workers, least[i]);
        must_equal(stats.workers_peak, least[i]);
        must_equal(stats.threads_started, least[i]);
        close_pool(pool);
        await_threads(resting);
    }
}

/* pool.h: nobody had to come for it. */
thread_test(a_pool_that_never_had_a_thread_is_drained_and_closed)
{
    duet_pool *pool = open_pool(4);
    unsigned left = 7;
    must_equal(duet_pool_drain(pool, DUET_NEVER, &left), 0);
    must_equal(finish(duet_pool_submit(pool, return_ok, NULL)).err, -ESHUTDOWN);
    must_equal(count_worker_threads(), 0);
    must_equal(duet_pool_close(pool, DUET_NOW), 0);
    pool = open_pool(4);
    must_equal(duet_pool_close(pool, DUET_NOW), 0);
    await_threads(resting);
}

/* pool.h: a thread for each job that runs, up to workers_max; what is above stays queued. */
thread_test(threads_come_with_work_up_to_the_most)
{
    struct gate gate = GATE_INIT;
    duet_pool *pool = open_pool(5);
    atomic_bool released = false;
    duet_future *fs[5], *further[3];
    for (int i = 0; i < 5; i++) {
        fs[i] = duet_pool_submit(pool, gate_pass_job, &gate);
        gate_await_arrivals(&gate, i + 1);
        must_equal(stats_of(pool).workers, i + 1);
    }
    for (int i = 0; i < 3; i++)
        further[i] = duet_pool_submit(pool, run_after, &released);
    let_others_run();
    duet_pool_stats stats = stats_of(pool);
    must_equal(stats.workers, 5);
    must_equal(stats.queued, 3);
    await_worker_threads(5);
    atomic_store(&released, true);
    gate_open(&gate);
    for (int i = 0; i < 5; i++)
        must_equal(finish(fs[i]).err, 0);
    for (int i = 0; i < 3; i++)
        must_equal(finish(further[i]).err, 0);
    must_equal(stats_of(pool).workers_peak, 5);
    must_equal(stats_of(pool).threads_started, 5);
    close_pool(pool);
    await_worker_threads(0);
}

/* pool.h: all jobs that were submitted in one go, too, run beside each other. */
thread_test(a_burst_of_jobs_gets_all_the_threads_at_once)
{
    for (int round = test_rounds(200); round > 0; round--) {
        struct gate gate = GATE_INIT;
        duet_pool *pool = open_pool(8);
        duet_future *fs[8];
        for (int i = 0; i < 8; i++)
            fs[i] = duet_pool_submit(pool, gate_pass_job, &gate);
        gate_await_arrivals(&gate, 8);
        gate_open(&gate);
        for (int i = 0; i < 8; i++)
            must_equal(finish(fs[i]).err, 0);
        close_pool(pool);
    }
}

static pthread_key_t slow_end; /* its destructor passes the gate that is its value */

static void end_slowly(void *gate)
{
    gate_pass(gate);
}

static duet_result end_its_thread_slowly(void *gate)
{
    must_equal(pthread_setspecific(slow_end, gate), 0);
    return duet_ok();
}

/* A worker that has left ends slowly, for a destructor of the program's. Jobs do not wait for that,
 * even if there may be no other worker than the one that comes after it, and then leaves too. */
thread_test(jobs_do_not_wait_for_the_end_of_threads_that_leave)
{
    for (unsigned max = 1; max <= 3; max++) {
        struct gate gate = GATE_INIT;
        must_equal(pthread_key_create(&slow_end, end_slowly), 0);
        duet_pool *pool = open_with((duet_pool_config){.workers_max = max, .idle_ns = NANOSECOND});
        must_equal(finish(duet_pool_submit(pool, end_its_thread_slowly, &gate)).err, 0);
        gate_await_arrivals(&gate, 1);
        for (int i = 0; i < 100; i++)
            must_equal(finish(duet_pool_submit(pool, return_ok, NULL)).err, 0);
        gate_open(&gate);
        close_pool(pool);
        must_equal(pthread_key_delete(slow_end), 0);
        await_threads(resting);
    }
}

/* A thread that has many waits when it ends. */
struct last_waits {
    pthread_key_t key;
    duet_pool *pool; /* NULL: none to submit to */
    duet_loop *loop; /* of the coroutine that waits for the end */
    duet_mutex mutex; /* which that holds */
    duet_future *job, *ended; /* what was waited for; settled when all have been answered */
};

static void end_with_waits(void *arg)
{
    struct last_waits *last = arg;
    struct gate gate = GATE_INIT;
    if (last->pool) {
        last->job = duet_pool_submit(last->pool, gate_pass_job, &gate);
        must_equal(duet_future_wait(last->job, duet_sec(3600), NULL), -EDEADLK);
        gate_open(&gate);
        gate_await_arrivals(&gate, 1);
        must_equal(duet_offload(last->pool, return_ok, NULL, DUET_NEVER, NULL), -EDEADLK);
    }
    must_equal(duet_call(last->loop, return_ok, NULL, DUET_NEVER, NULL), -EDEADLK);
    must_equal(duet_mutex_lock(&last->mutex, DUET_NEVER), -EDEADLK);
    must_equal(duet_sleep(duet_sec(3600)), -EDEADLK);
    settle(last->ended);
}

static duet_result have_last_waits(void *arg)
{
    struct last_waits *last = arg;
    must_equal(pthread_setspecific(last->key, last), 0);
    return duet_ok();
}

static void last_waits_begin(struct last_waits *last, duet_pool *pool)
{
    *last = (struct last_waits){.pool = pool, .loop = duet_loop_self()};
    must_equal(pthread_key_create(&last->key, end_with_waits), 0);
    must_equal(duet_future_open(&last->ended), 0);
    must_equal(duet_mutex_lock(&last->mutex, DUET_NEVER), 0);
}

static void last_waits_end(struct last_waits *last)
{
    must_equal(finish(last->ended).err, 0);
    must_equal(duet_mutex_unlock(&last->mutex), 0);
    must_equal(pthread_key_delete(last->key), 0);
}

/* base.h: a thread-local destructor is a bare callback. For who leaves next joins its thread, and
 * who closes the pool or the loop does: each wait there could be for one who waits for it. */
coroutine_test(a_destructor_of_a_workers_thread_does_not_wait)
{
    struct last_waits last;
    duet_pool *pool = open_with((duet_pool_config){.workers_max = 1, .idle_ns = NANOSECOND});
    last_waits_begin(&last, pool);
    must_equal(finish(duet_pool_submit(pool, have_last_waits, &last)).err, 0);
    last_waits_end(&last);
    must_equal(finish(last.job).err, 0);
    close_pool(pool);
    return duet_ok();
}

static void drop_by_waiting(void *arg)
{
    duet_future **next = arg;
    must_equal(duet_future_wait(*next, DUET_NEVER, NULL), -EDEADLK);
}

/* Likewise what runs as a job settles: its worker has no slot any more, and is the only one. */
thread_test(what_runs_as_a_job_settles_does_not_wait_for_the_next_one)
{
    struct gate gate = GATE_INIT;
    duet_future *next;
    duet_opts opts = {.drop = drop_by_waiting};
    duet_pool *pool = open_pool(1);
    duet_future *before = duet_pool_submit(pool, gate_pass_job, &gate);
    duet_future *f = duet_pool_submit_with(pool, return_ok, &next, &opts);
    next = duet_pool_submit(pool, return_ok, NULL);
    gate_open(&gate);
    must_equal(finish(before).err, 0);
    must_equal(finish(f).err, 0);
    must_equal(finish(next).err, 0);
    close_pool(pool);
}

coroutine_test(a_destructor_does_not_wait_for_the_loop_that_closes_its_pool)
{
    struct last_waits last;
    duet_pool *pool = open_with((duet_pool_config){.workers_max = 1, .idle_ns = -1});
    last_waits_begin(&last, NULL);
    must_equal(finish(duet_pool_submit(pool, have_last_waits, &last)).err, 0);
    close_pool(pool);
    last_waits_end(&last);
    return duet_ok();
}

coroutine_test(a_destructor_does_not_wait_for_the_loop_that_closes_its_own)
{
    struct last_waits last;
    duet_loop *loop;
    last_waits_begin(&last, NULL);
    must_equal(duet_loop_start(&loop, NULL), 0);
    must_equal(duet_call(loop, have_last_waits, &last, DUET_NEVER, NULL), 0);
    must_equal(duet_loop_close(loop, DUET_NEVER), 0);
    last_waits_end(&last);
    return duet_ok();
}

/* pool.h: above workers_min they leave, and the others stay; again and again. */
thread_test(idle_workers_leave_down_to_the_least)
{
    static const int64_t idle[] = {NANOSECOND, SHORT};
    static const unsigned least[] = {0, 1, 2};
    for (int i = 0; i < 6; i++) {
        unsigned min = least[i % 3];
        duet_pool *pool = open_with(
            (duet_pool_config){.workers_min = min, .workers_max = 6, .idle_ns = idle[i / 3]});
        for (int round = 0; round < 5; round++) {
            struct holders holders;
            hold(&holders, pool, 6);
            must_equal(stats_of(pool).workers, 6);
            must_equal(count_worker_threads(), 6);
            release(&holders);
            await_workers(pool, min);
            await_threads(resting + (int)min);
        }
        must_equal(stats_of(pool).workers_peak, 6);
        must_equal(stats_of(pool).threads_started, min + (6 - min) * 5);
        close_pool(pool);
        await_threads(resting);
    }
}

/* pool.h: a thread comes for every job that finds none. */
thread_test(a_pool_whose_workers_have_left_takes_work_again)
{
    duet_pool *pool = open_with((duet_pool_config){.workers_max = 3, .idle_ns = NANOSECOND});
    int rounds = test_rounds(300);
    for (int i = 0; i < rounds; i++) {
        int value = i;
        must(duet_as_ptr(finish(duet_pool_submit(pool, return_arg, &value))) == &value);
        await_workers(pool, 0);
    }
    must_equal(stats_of(pool).threads_started, rounds);
    must_equal(stats_of(pool).workers_peak, 1);
    await_threads(resting);
    close_pool(pool);
}

/* pool.h: idle_ns < 0. */
thread_test(workers_that_may_stay_for_ever_stay)
{
    duet_pool *pool = open_with((duet_pool_config){.workers_max = 4, .idle_ns = -1});
    struct holders holders;
    for (int round = 0; round < 3; round++) {
        hold(&holders, pool, 4);
        release(&holders);
        must_equal(duet_sleep(duet_ms(20)), 0); /* they would have the time to leave */
        must_equal(stats_of(pool).workers, 4);
        must_equal(count_worker_threads(), 4);
    }
    must_equal(stats_of(pool).threads_started, 4);
    close_pool(pool);
    await_worker_threads(0);
}

/* pool.h: those of workers_min never leave, whatever comes and goes beside them. */
thread_test(there_are_never_fewer_workers_than_the_least)
{
    duet_pool *pool =
        open_with((duet_pool_config){.workers_min = 2, .workers_max = 4, .idle_ns = NANOSECOND});
    for (int i = test_rounds(2000); i > 0; i--) {
        duet_future *fs[4];
        for (int k = 0; k < 4; k++)
            fs[k] = duet_pool_submit(pool, return_ok, NULL);
        must(stats_of(pool).workers >= 2);
        for (int k = 0; k < 4; k++)
            must_equal(finish(fs[k]).err, 0);
        duet_pool_stats stats = stats_of(pool);
        must(stats.workers >= 2 && stats.workers <= 4);
    }
    await_workers(pool, 2);
    await_worker_threads(2);
    must_equal(stats_of(pool).workers_peak <= 4, 1);
    close_pool(pool);
}

#ifndef TEST_SANITIZED
static size_t virtual_bytes(void)
{
    unsigned long pages;
    FILE *file = fopen("/proc/self/statm", "r");
    must(file != NULL);
    must_equal(fscanf(file, "%lu", &pages), 1);
    fclose(file);
    return (size_t)pages * (size_t)sysconf(_SC_PAGESIZE);
}

/* pool.h: one that has left is gone, with its stack, though the pool lives on. */
thread_test(workers_that_leave_give_back_their_stacks)
{
    enum {
        ROUNDS = 300,
        STACK = 16 << 20
    };
    duet_pool *pool =
        open_with((duet_pool_config){.workers_max = 1, .idle_ns = NANOSECOND, .stack_size = STACK});
    size_t before = virtual_bytes();
    for (int i = 0; i < ROUNDS; i++) {
        must_equal(finish(duet_pool_submit(pool, return_ok, NULL)).err, 0);
        await_workers(pool, 0);
    }
    must_equal(stats_of(pool).threads_started, ROUNDS);
    size_t after = virtual_bytes();
    must(after < before || after - before < (size_t)STACK * ROUNDS / 3);
    close_pool(pool);
}
#endif

/* A flood: bursts of jobs, some of which wait, with pauses in which workers leave. */
struct flood {
    struct thread thread;
    duet_pool *pool;
    uint64_t random;
    int rounds, tried;
    struct tally tally;
};

static duet_result tally_and_nap(void *arg)
{
    must_equal(duet_sleep(duet_us(20)), 0);
    return tally_run(arg);
}

static void pause_by_chance(uint64_t *random)
{
    switch (test_random(random) % 4) {
    case 0:
        pause_us((long)(test_random(random) % 100));
        break;
    case 1:
        spin((unsigned)(test_random(random) % 20000));
        break;
    default:
        break;
    }
}

static void submit_in_bursts(void *arg)
{
    struct flood *flood = arg;
    for (int round = 0; round < flood->rounds; round++) {
        duet_future *fs[6];
        int burst = 1 + (int)(test_random(&flood->random) % 6);
        for (int i = 0; i < burst; i++) {
            duet_opts opts = {.drop = tally_drop,
                              .priority = (uint32_t)(test_random(&flood->random) % 2)};
            bool naps = test_random(&flood->random) % 8 == 0;
            fs[i] = duet_pool_submit_with(flood->pool, naps ? tally_and_nap : tally_run,
                                          &flood->tally, &opts);
            flood->tried++;
        }
        for (int i = 0; i < burst; i++)
            must_equal(finish(fs[i]).err, 0);
        must_equal(atomic_load(&flood->tally.ran), flood->tried);
        must_equal(atomic_load(&flood->tally.dropped), flood->tried);
        pause_by_chance(&flood->random);
    }
}

static duet_result offload_in_turn(void *arg)
{
    struct flood *flood = arg;
    for (int round = 0; round < flood->rounds; round++) {
        duet_result r;
        must_equal(
            duet_offload_with(flood->pool, tally_run, &flood->tally, &tally_opts, SURELY, &r), 0);
        must_equal(r.err, 0);
        flood->tried++;
        if (test_random(&flood->random) % 4 == 0)
            must_equal(duet_sleep(duet_us((int64_t)(test_random(&flood->random) % 100))), 0);
    }
    return duet_ok();
}

/* Until it ends there are never many more threads than there may be: some are on their way out. */
static void watch_threads(struct thread *thread, int most)
{
    while (!duet_future_settled(thread->ended)) {
        must(count_threads() <= most + 200);
        pause_us(500);
    }
}

static void flood_pool(int64_t idle_ns, unsigned min, unsigned max)
{
    enum {
        THREADS = 4,
        ALL = 7
    };
    struct flood floods[ALL];
    duet_future *coroutines[ALL];
    uint64_t random = test_seed(), tried = 0;
    duet_loop *loop = start_loop();
    duet_pool *pool =
        open_with((duet_pool_config){.workers_min = min, .workers_max = max, .idle_ns = idle_ns});
    for (int i = 0; i < ALL; i++) {
        floods[i] = (struct flood){
            .pool = pool, .random = test_random(&random) | 1, .rounds = test_rounds(1500)};
        if (i < THREADS)
            thread_start(&floods[i].thread, submit_in_bursts, &floods[i]);
        else
            coroutines[i] = duet_submit(loop, offload_in_turn, &floods[i]);
    }
    for (int i = 0; i < ALL; i++) {
        if (i < THREADS) {
            watch_threads(&floods[i].thread, resting + 1 + THREADS + (int)max + 64);
            thread_join(&floods[i].thread);
        } else {
            must_equal(finish(coroutines[i]).err, 0);
        }
        must_equal(atomic_load(&floods[i].tally.ran), floods[i].tried);
        must_equal(atomic_load(&floods[i].tally.dropped), floods[i].tried);
        tried += (uint64_t)floods[i].tried;
    }
    duet_pool_stats stats;
    await_stats(pool, &stats,
                stats.busy == 0 && stats.queued == 0 && stats.workers == min &&
                    stats.completed == tried);
    must_equal(stats.submitted, tried);
    must_equal(stats.cancelled, 0);
    must_equal(stats.refused, 0);
    must_equal(stats.blocked_in_wait, 0);
    must_equal(stats.urgent, 0);
    must_equal(stats.threads_refused, 0);
    must(stats.workers_peak <= max + 64);
    must(stats.threads_started >= stats.workers_peak);
    close_pool(pool);
    close_loop(loop);
    await_threads(resting);
}

/* pool.h: each job's future settles, though every worker leaves as soon as it can. */
thread_test(no_job_is_lost_to_workers_that_leave_at_once)
{
    flood_pool(NANOSECOND, 0, 3);
}

thread_test(no_job_is_lost_to_workers_that_leave_soon)
{
    flood_pool(SHORT, 0, 3);
}

thread_test(no_job_is_lost_to_the_only_worker_that_leaves)
{
    flood_pool(NANOSECOND, 0, 1);
}

thread_test(no_job_is_lost_between_a_worker_that_stays_and_those_that_leave)
{
    flood_pool(NANOSECOND, 1, 3);
}

static void close_and_open_anew(void *arg)
{
    struct flood *flood = arg;
    for (int round = 0; round < flood->rounds; round++) {
        struct tally tally = {0};
        duet_future *fs[5];
        int jobs = (int)(test_random(&flood->random) % 6), ran = 0;
        int awaited = jobs > 0 ? (int)(test_random(&flood->random) % (unsigned)(jobs + 1)) : 0;
        bool drains = test_random(&flood->random) % 2;
        duet_pool *pool = open_with((duet_pool_config){
            .workers_min = (unsigned)(test_random(&flood->random) % 2),
            .workers_max = 1 + (unsigned)(test_random(&flood->random) % 3),
            .idle_ns = test_random(&flood->random) % 2 ? NANOSECOND : SHORT,
        });
        for (int i = 0; i < jobs; i++)
            fs[i] = duet_pool_submit_with(pool, tally_run, &tally, &tally_opts);
        for (int i = 0; i < awaited; i++)
            must_equal(duet_future_wait(fs[i], SURELY, NULL), 0);
        pause_by_chance(&flood->random);
        if (drains)
            must_equal(duet_pool_drain(pool, SURELY, NULL), 0);
        close_pool(pool);
        for (int i = 0; i < jobs; i++) {
            must(duet_future_settled(fs[i]));
            int err = finish(fs[i]).err;
            must(err == 0 || (err == -ECANCELED && i >= awaited && !drains));
            ran += err == 0;
        }
        must_equal(atomic_load(&tally.ran), ran);
        must_equal(atomic_load(&tally.dropped), jobs);
    }
}

/* pool.h: close joins the workers, also those that are about to leave. */
thread_test(pools_are_closed_and_opened_anew_while_workers_leave)
{
    struct flood floods[3];
    uint64_t random = test_seed();
    for (int i = 0; i < 3; i++) {
        floods[i] = (struct flood){.random = test_random(&random) | 1, .rounds = test_rounds(1000)};
        thread_start(&floods[i].thread, close_and_open_anew, &floods[i]);
    }
    for (int i = 0; i < 3; i++)
        thread_join(&floods[i].thread);
    await_threads(resting);
}

/* pool.h: the thread that came for it finds nothing, and leaves. */
thread_test(a_job_may_be_cancelled_while_a_thread_comes_for_it)
{
    duet_pool *pool = open_with((duet_pool_config){.workers_max = 2, .idle_ns = NANOSECOND});
    int rounds = test_rounds(2000);
    struct tally tally = {0};
    int ran = 0;
    for (int i = 0; i < rounds; i++) {
        duet_future *f = duet_pool_submit_with(pool, tally_run, &tally, &tally_opts);
        duet_future_cancel(f);
        int err = finish(f).err;
        must(err == 0 || err == -ECANCELED);
        ran += err == 0;
        must_equal(atomic_load(&tally.dropped), i + 1);
    }
    must_equal(atomic_load(&tally.ran), ran);
    duet_pool_stats stats;
    await_stats(pool, &stats, stats.busy == 0 && stats.workers == 0);
    must_equal(stats.queued, 0);
    must_equal(stats.completed, ran);
    must_equal(stats.cancelled, rounds - ran);
    must_equal(finish(duet_pool_submit(pool, return_ok, NULL)).err, 0);
    close_pool(pool);
    await_worker_threads(0);
}

/* pool.h: the spares leave, too. */
thread_test(workers_that_came_for_jobs_that_wait_leave_again)
{
    duet_pool *pool =
        open_with((duet_pool_config){.workers_min = 1, .workers_max = 1, .idle_ns = NANOSECOND});
    for (int round = 0; round < 5; round++) {
        duet_future *promise = open_promise(), *fs[10];
        duet_pool_stats stats;
        for (int i = 0; i < 10; i++)
            fs[i] = duet_pool_submit(pool, wait_for, promise);
        await_stats(pool, &stats, stats.blocked_in_wait == 10);
        must(stats.workers >= 10);
        settle(promise);
        for (int i = 0; i < 10; i++)
            must_equal(finish(fs[i]).err, 0);
        await_workers(pool, 1);
        await_worker_threads(1);
        duet_future_unref(promise);
    }
    close_pool(pool);
}

/* ---- Lanes ---- */

/* Jobs that note the order in which they run, on a pool of one worker. */
enum {
    ORDER_MAX = 128
};
struct order {
    atomic_int next;
    int ran[ORDER_MAX];
};
struct ordered {
    struct order *order;
    int number;
};

static duet_result note_order(void *arg)
{
    struct ordered *ordered = arg;
    ordered->order->ran[atomic_fetch_add(&ordered->order->next, 1)] = ordered->number;
    return duet_ok();
}

/* pool.h: the urgent first, each lane in its own order. */
thread_test(urgent_jobs_pass_normal_ones)
{
    /* in the order submitted; the number is the place in which it runs */
    static const struct {
        int place;
        uint32_t priority;
    } jobs[] = {{4, 0}, {0, 1}, {5, 0}, {1, 1}, {2, 1}, {6, 0}, {7, 0}, {3, 1}};
    enum {
        COUNT = sizeof jobs / sizeof jobs[0]
    };
    struct order order = {.next = 0};
    struct ordered ordered[COUNT];
    duet_future *fs[COUNT];
    struct holders holders;
    duet_pool *pool = open_pool(1);
    hold(&holders, pool, 1);
    for (int i = 0; i < COUNT; i++) {
        ordered[i] = (struct ordered){&order, jobs[i].place};
        fs[i] = duet_pool_submit_with(pool, note_order, &ordered[i],
                                      &(duet_opts){.priority = jobs[i].priority});
    }
    must_equal(stats_of(pool).queued, COUNT);
    must_equal(stats_of(pool).urgent, 4);
    release(&holders);
    for (int i = 0; i < COUNT; i++)
        must_equal(finish(fs[i]).err, 0);
    for (int i = 0; i < COUNT; i++)
        must_equal(order.ran[i], i);
    close_pool(pool);
}

/* pool.h: seven pass, then a normal one has its turn, and so on. */
thread_test(no_more_than_seven_urgent_jobs_pass_in_a_row)
{
    enum {
        URGENT = 40,
        NORMAL = 4,
        ALL = URGENT + NORMAL
    };
    struct order order = {.next = 0};
    struct ordered ordered[ALL];
    duet_future *fs[ALL];
    struct holders holders;
    duet_pool *pool = open_pool(1);
    hold(&holders, pool, 1);
    for (int i = 0; i < ALL; i++) { /* the normal ones have the higher numbers */
        ordered[i] = (struct ordered){&order, i};
        fs[i] = duet_pool_submit_with(pool, note_order, &ordered[i], i < URGENT ? &urgent : NULL);
    }
    release(&holders);
    for (int i = 0; i < ALL; i++)
        must_equal(finish(fs[i]).err, 0);
    int next_urgent = 0, next_normal = URGENT, row = 0;
    for (int i = 0; i < ALL; i++) {
        bool normal_is_due = next_normal < ALL && row == 7;
        must_equal(order.ran[i], normal_is_due ? next_normal : next_urgent);
        next_normal += normal_is_due;
        next_urgent += !normal_is_due;
        row = normal_is_due ? 0 : row + 1;
    }
    close_pool(pool);
}

struct heir {
    duet_pool *pool;
    atomic_int generations;
    atomic_bool stop;
    duet_future *ended;
};

static duet_result beget(void *arg)
{
    struct heir *heir = arg;
    if (atomic_load(&heir->stop)) {
        settle(heir->ended);
        return duet_ok();
    }
    atomic_fetch_add(&heir->generations, 1);
    duet_future_unref(duet_pool_submit_with(heir->pool, beget, heir, &urgent));
    return duet_ok();
}

static duet_result stop_begetting(void *arg)
{
    struct heir *heir = arg;
    int generations = atomic_load(&heir->generations);
    atomic_store(&heir->stop, true);
    return duet_i64(generations);
}

/* pool.h: though there is always a further urgent one. */
thread_test(a_normal_job_is_not_starved)
{
    struct heir heir = {.pool = open_pool(1), .ended = open_promise()};
    struct holders holders;
    hold(&holders, heir.pool, 1);
    duet_future *first = duet_pool_submit_with(heir.pool, beget, &heir, &urgent);
    duet_future *normal = duet_pool_submit(heir.pool, stop_begetting, &heir);
    release(&holders);
    must(duet_as_i64(finish(normal)) <= 7);
    must_equal(finish(first).err, 0);
    must_equal(finish(heir.ended).err, 0);
    close_pool(heir.pool);
}

/* base.h: 0 and 1 only. */
thread_test(a_priority_above_one_is_refused)
{
    static const uint32_t bad[] = {2, 3, 256, UINT32_MAX};
    duet_pool *pool = open_pool(1);
    struct tally tally = {0};
    log_capture();
    for (int i = 0; i < 4; i++) {
        duet_opts opts = {.drop = tally_drop, .priority = bad[i]};
        duet_result r;
        duet_future *f = duet_pool_submit_with(pool, tally_run, &tally, &opts);
        must(duet_future_settled(f));
        must_equal(atomic_load(&tally.dropped), 2 * i + 1);
        must_equal(finish(f).err, -EINVAL);
        must_equal(duet_offload_with(pool, tally_run, &tally, &opts, SURELY, &r), 0);
        must_equal(r.err, -EINVAL);
        must_equal(atomic_load(&tally.dropped), 2 * i + 2);
    }
    log_release();
    must_equal(atomic_load(&tally.ran), 0);
    must_equal(stats_of(pool).submitted, 0);
    close_pool(pool);
}

/* pool.h: how many jobs wait is counted over both lanes. */
thread_test(the_queue_is_full_of_both_kinds_together)
{
    duet_pool *pool = open_with(
        (duet_pool_config){.workers_max = 1, .queue_max = 2, .when_full = DUET_FULL_REFUSE});
    struct holders holders;
    hold(&holders, pool, 1);
    duet_future *f = duet_pool_submit_with(pool, return_ok, NULL, &urgent);
    duet_future *g = duet_pool_submit(pool, return_ok, NULL);
    must_equal(finish(duet_pool_submit(pool, return_ok, NULL)).err, -EAGAIN);
    must_equal(finish(duet_pool_submit_with(pool, return_ok, NULL, &urgent)).err, -EAGAIN);
    duet_future_cancel(f);
    must_equal(finish(f).err, -ECANCELED);
    must_equal(stats_of(pool).urgent, 0);
    f = duet_pool_submit_with(pool, return_ok, NULL, &urgent);
    must(!duet_future_settled(f));
    must_equal(stats_of(pool).urgent, 1);
    must_equal(stats_of(pool).queued, 2);
    release(&holders);
    must_equal(finish(f).err, 0);
    must_equal(finish(g).err, 0);
    close_pool(pool);
}

/* pool.h: normal jobs fill the rest; an urgent one finds a worker all the same. */
thread_test(reserved_workers_run_urgent_jobs_only)
{
    static const struct {
        unsigned max, reserved;
    } cases[] = {{2, 1}, {3, 1}, {3, 2}, {8, 5}};
    for (int i = 0; i < 4; i++) {
        duet_pool *pool = open_with(
            (duet_pool_config){.workers_max = cases[i].max, .workers_reserved = cases[i].reserved});
        struct holders normal, pressing;
        atomic_bool released = false;
        hold(&normal, pool, (int)(cases[i].max - cases[i].reserved));
        duet_future *further = duet_pool_submit(pool, run_after, &released);
        for (int k = 0; k < 20; k++)
            must_equal(finish(duet_pool_submit_with(pool, return_ok, NULL, &urgent)).err, 0);
        let_others_run();
        must_equal(stats_of(pool).queued, 1);
        hold_with(&pressing, pool, (int)cases[i].reserved, &urgent);
        must_equal(stats_of(pool).busy, cases[i].max);
        must_equal(stats_of(pool).workers, cases[i].max);
        duet_future *late = duet_pool_submit_with(pool, run_after, &released, &urgent);
        let_others_run();
        must_equal(stats_of(pool).queued, 2);
        must(!duet_future_settled(further));
        atomic_store(&released, true);
        release(&normal);
        must_equal(finish(further).err, 0);
        must_equal(finish(late).err, 0);
        release(&pressing);
        close_pool(pool);
    }
}

/* pool.h: the rest is not less because urgent jobs run, nor is there a worker that they may not
 * have. */
thread_test(normal_jobs_have_the_rest_whatever_the_urgent_ones_do)
{
    duet_pool *pool = open_with((duet_pool_config){.workers_max = 3, .workers_reserved = 1});
    struct holders pressing, normal;
    hold_with(&pressing, pool, 1, &urgent);
    hold(&normal, pool, 2);
    release(&normal);
    release(&pressing);
    await_rest(pool);
    hold_with(&pressing, pool, 3, &urgent);
    release(&pressing);
    close_pool(pool);
}

/* pool.h: less than workers_max. */
thread_test(workers_are_not_all_reserved)
{
    static const duet_pool_config bad[] = {
        {.workers_max = 1, .workers_reserved = 1},
        {.workers_max = 4, .workers_reserved = 4},
        {.workers_max = 4, .workers_reserved = 5},
        {.workers_max = 4, .workers_reserved = UINT32_MAX},
        {.workers_reserved = 2048},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        duet_pool *pool = NULL;
        log_capture();
        must_equal(duet_pool_open(&pool, &bad[i]), -EINVAL);
        must_equal(log_count("workers_reserved"), 1);
        log_release();
    }
    close_pool(open_with((duet_pool_config){.workers_max = 4, .workers_reserved = 3}));
}

/* pool.h: a bound on the workers is one on the spares, too. */
thread_test(too_many_spares_are_refused)
{
    duet_pool *pool = NULL;
    log_capture();
    must_equal(duet_pool_open(&pool, &(duet_pool_config){.workers_max = 1, .spares_max = 1025}),
               -EINVAL);
    must_equal(log_count("spares_max"), 1);
    log_release();
    close_pool(open_with((duet_pool_config){.workers_max = 1, .spares_max = 1024}));
}

/* ---- Slots are lent ---- */

/* On a pool of one worker a job waits in some way, and only the next job can end that wait. */
struct loan {
    duet_pool *pool, *other;
    duet_loop *loop, *other_loop;
    duet_future *promise, *waiter, *pending;
    struct gate gate;
    atomic_bool waiter_ended;
};

static duet_result end_the_wait(void *arg)
{
    struct loan *loan = arg;
    must(!atomic_load(&loan->waiter_ended));
    gate_open(&loan->gate);
    settle(loan->promise);
    return duet_ok();
}

static duet_result cancel_the_waiter(void *arg)
{
    struct loan *loan = arg;
    must(!atomic_load(&loan->waiter_ended));
    duet_future_cancel(loan->waiter);
    return duet_ok();
}

/* A coroutine or job, that is not deterred by its cancellation. */
static duet_result wait_shielded(void *promise)
{
    duet_shield_begin();
    must_equal(duet_future_wait(promise, SURELY, NULL), 0);
    duet_shield_end();
    return duet_ok();
}

/* Until the loop has started what this thread has submitted before. Without a wait of duet, which
 * would lend the slot. */
static void spin_until_started(duet_loop *loop)
{
    duet_deadline by = SURELY;
    duet_future *f = duet_submit(loop, return_ok, NULL);
    while (!duet_future_settled(f)) {
        must(duet_now_ns() < by.ns);
        sched_yield();
    }
    duet_future_unref(f);
}

static void must_lend(duet_fn *wait, duet_fn *end)
{
    struct loan loan = {.pool = open_pool(1),
                        .other = open_with((duet_pool_config){.workers_max = 1, .queue_max = 1}),
                        .loop = start_loop(),
                        .other_loop = start_loop(),
                        .promise = open_promise(),
                        .pending = open_promise(),
                        .gate = GATE_INIT};
    struct holders holders;
    hold(&holders, loan.pool, 1);
    loan.waiter = duet_pool_submit(loan.pool, wait, &loan);
    duet_future *next = duet_pool_submit(loan.pool, end, &loan);
    release(&holders);
    must_equal(finish(next).err, 0); /* it does not touch the waiter any more */
    must_equal(finish(loan.waiter).err, 0);
    if (loan.other)
        close_pool(loan.other);
    if (loan.other_loop)
        close_loop(loan.other_loop);
    close_pool(loan.pool);
    close_loop(loan.loop);
    duet_future_unref(loan.promise);
    duet_future_unref(loan.pending);
}

#define lending_test(name, end)                                                                    \
    static void name##_body(struct loan *loan);                                                    \
    static duet_result name##_job(void *arg)                                                       \
    {                                                                                              \
        struct loan *loan = arg;                                                                   \
        name##_body(loan);                                                                         \
        atomic_store(&loan->waiter_ended, true);                                                   \
        return duet_ok();                                                                          \
    }                                                                                              \
    static void name(void **state)                                                                 \
    {                                                                                              \
        (void)state;                                                                               \
        must_lend(name##_job, end);                                                                \
    }                                                                                              \
    static void name##_body(struct loan *loan)

lending_test(a_job_that_waits_for_a_future_lends_its_slot, end_the_wait)
{
    must_equal(duet_future_wait(loan->promise, SURELY, NULL), 0);
}

lending_test(a_job_that_waits_for_ever_lends_its_slot, end_the_wait)
{
    must_equal(duet_future_wait(loan->promise, DUET_NEVER, NULL), 0);
}

lending_test(a_job_that_waits_for_any_of_several_lends_its_slot, end_the_wait)
{
    duet_future *fs[] = {loan->pending, loan->promise};
    size_t index;
    must_equal(duet_future_wait_many(fs, 2, DUET_UNTIL_ANY, SURELY, &index), 0);
    must_equal(index, 1);
}

lending_test(a_job_that_gathers_lends_its_slot, end_the_wait)
{
    duet_future *fs[] = {loan->promise, loan->promise};
    duet_result results[2];
    must_equal(duet_gather(fs, 2, SURELY, results), 0);
    must_equal(results[1].err, 0);
}

lending_test(a_job_that_sleeps_lends_its_slot, cancel_the_waiter)
{
    (void)loan;
    must_equal(duet_sleep(duet_sec(3600)), -ECANCELED);
}

lending_test(a_job_that_offloads_into_its_own_pool_lends_its_slot, return_ok)
{
    duet_result r;
    struct tally tally = {0};
    must_equal(duet_offload(loan->pool, tally_run, &tally, SURELY, &r), 0);
    must_equal(r.err, 0);
    must_equal(atomic_load(&tally.ran), 1);
}

lending_test(a_job_that_offloads_into_another_pool_lends_its_slot, end_the_wait)
{
    duet_result r;
    must_equal(duet_offload(loan->other, wait_for, loan->promise, SURELY, &r), 0);
    must_equal(r.err, 0);
}

static duet_result offload_back(void *arg)
{
    struct loan *loan = arg;
    duet_result r;
    must_equal(duet_offload(loan->pool, return_arg, loan, SURELY, &r), 0);
    return r;
}

lending_test(a_job_that_calls_a_loop_that_offloads_back_lends_its_slot, return_ok)
{
    duet_result r;
    must_equal(duet_call(loan->loop, offload_back, loan, SURELY, &r), 0);
    must(duet_as_ptr(r) == loan);
}

lending_test(a_job_that_calls_a_loop_lends_its_slot, end_the_wait)
{
    duet_result r;
    must_equal(duet_call(loan->loop, wait_for, loan->promise, SURELY, &r), 0);
    must_equal(r.err, 0);
}

lending_test(a_job_that_closes_a_future_lends_its_slot, end_the_wait)
{
    duet_result r;
    duet_future *f = duet_submit(loan->loop, wait_shielded, loan->promise);
    spin_until_started(loan->loop);
    must_equal(duet_future_close(f, &r), 0);
    must_equal(r.err, 0);
}

lending_test(a_job_that_ends_a_future_lends_its_slot, end_the_wait)
{
    duet_result r;
    duet_future *f = duet_submit(loan->loop, wait_for, loan->promise);
    must_equal(duet_future_end(f, SURELY, 1, &r), DUET_FINISHED);
    must_equal(r.err, 0);
}

lending_test(a_job_that_waits_for_a_group_lends_its_slot, end_the_wait)
{
    duet_group group = DUET_GROUP_INIT;
    duet_result r;
    must_equal(duet_group_spawn(&group, loan->loop, wait_for, loan->promise, NULL), 0);
    must_equal(duet_group_wait(&group, SURELY, &r), 0);
    must_equal(r.err, 0);
    must_equal(duet_group_close(&group), 0);
}

lending_test(a_job_that_closes_a_group_lends_its_slot, end_the_wait)
{
    duet_group group = DUET_GROUP_INIT;
    must_equal(duet_group_spawn(&group, loan->loop, wait_shielded, loan->promise, NULL), 0);
    spin_until_started(loan->loop);
    must_equal(duet_group_close(&group), 0);
}

lending_test(a_job_that_drains_another_pool_lends_its_slot, end_the_wait)
{
    duet_future *f = duet_pool_submit(loan->other, wait_for, loan->promise);
    must_equal(duet_pool_drain(loan->other, SURELY, NULL), 0);
    must_equal(finish(f).err, 0);
}

lending_test(a_job_that_closes_another_pool_lends_its_slot, end_the_wait)
{
    duet_future *f = duet_pool_submit(loan->other, wait_shielded, loan->promise);
    duet_pool_stats stats;
    await_stats(loan->other, &stats, stats.blocked_in_wait == 1);
    must_equal(duet_pool_close(loan->other, SURELY), 0);
    loan->other = NULL;
    must_equal(finish(f).err, 0);
}

lending_test(a_job_that_shuts_another_pool_down_lends_its_slot, end_the_wait)
{
    duet_receipt *receipt = NULL;
    duet_future *f = duet_pool_submit(loan->other, wait_for, loan->promise);
    must_equal(duet_pool_shutdown(loan->other, SURELY, &receipt), 0);
    duet_receipt_free(receipt);
    loan->other = NULL;
    must_equal(finish(f).err, 0);
}

lending_test(a_job_that_closes_a_loop_lends_its_slot, end_the_wait)
{
    duet_future *f = duet_submit(loan->other_loop, wait_shielded, loan->promise);
    spin_until_started(loan->other_loop);
    must_equal(duet_loop_close(loan->other_loop, SURELY), 0);
    loan->other_loop = NULL;
    must_equal(finish(f).err, 0);
}

lending_test(a_job_that_waits_for_room_elsewhere_lends_its_slot, end_the_wait)
{
    duet_future *fs[3];
    fs[0] = duet_pool_submit(loan->other, gate_pass_job, &loan->gate);
    gate_await_arrivals(&loan->gate, 1);
    fs[1] = duet_pool_submit(loan->other, return_ok, NULL);
    fs[2] = duet_pool_submit(loan->other, return_ok, NULL); /* waits for room */
    for (int i = 0; i < 3; i++)
        must_equal(finish(fs[i]).err, 0);
}

static duet_result fill_own_queue(void *arg)
{
    duet_pool *pool = arg;
    struct tally tally = {0};
    duet_future *fs[10];
    for (int i = 0; i < 10; i++)
        fs[i] = duet_pool_submit(pool, tally_run, &tally);
    for (int i = 0; i < 10; i++)
        must_equal(finish(fs[i]).err, 0);
    must_equal(atomic_load(&tally.ran), 10);
    return duet_ok();
}

/* pool.h: what it waits for is then made, in its place. */
thread_test(a_job_that_waits_for_room_in_its_own_pool_lends_its_slot)
{
    duet_pool *pool = open_with((duet_pool_config){.workers_max = 1, .queue_max = 1});
    must_equal(finish(duet_pool_submit(pool, fill_own_queue, pool)).err, 0);
    close_pool(pool);
}

/* Pool, loop, pool, …, each waiting for the next. */
struct nest {
    duet_pool *pool;
    duet_loop *loop;
    int depth;
};
static duet_result nest_job(void *arg);

static duet_result nest_coroutine(void *arg)
{
    struct nest *nest = arg;
    duet_result r;
    must_equal(duet_offload(nest->pool, nest_job, nest, SURELY, &r), 0);
    return r;
}

static duet_result nest_job(void *arg)
{
    struct nest *nest = arg, inner = *nest;
    duet_result r;
    if (nest->depth == 0)
        return duet_i64(0);
    inner.depth--;
    if (nest->loop)
        must_equal(duet_call(nest->loop, nest_coroutine, &inner, SURELY, &r), 0);
    else
        must_equal(duet_offload(nest->pool, nest_job, &inner, SURELY, &r), 0);
    return duet_i64(duet_as_i64(r) + 1);
}

static void nest_deeply(duet_loop *loop)
{
    struct nest nest = {.pool = open_pool(1), .loop = loop, .depth = 20};
    duet_result r;
    for (int round = test_rounds(20); round > 0; round--) {
        must_equal(duet_offload(nest.pool, nest_job, &nest, SURELY, &r), 0);
        must_equal(duet_as_i64(r), 20);
    }
    duet_pool_stats stats = stats_of(nest.pool);
    must(stats.workers_peak >= 21); /* twenty wait, one runs */
    must(stats.workers_peak <= 1 + 64);
    close_pool(nest.pool);
}

/* pool.h: with one worker, and a thread for each that waits. */
thread_test(jobs_and_coroutines_that_wait_for_each_other_nest_deeply)
{
    duet_loop *loop = start_loop();
    nest_deeply(loop);
    close_loop(loop);
}

thread_test(jobs_that_wait_for_jobs_of_their_own_pool_nest_deeply)
{
    nest_deeply(NULL);
}

/* pool.h: several of them at once, while workers come and go. */
struct nester {
    struct thread thread;
    struct nest nest;
};

static void nest_often(void *arg)
{
    struct nester *nester = arg;
    for (int round = test_rounds(100); round > 0; round--) {
        struct nest nest = nester->nest;
        duet_result r;
        nest.depth = round % 6;
        must_equal(duet_offload(nest.pool, nest_job, &nest, SURELY, &r), 0);
        must_equal(duet_as_i64(r), nest.depth);
    }
}

thread_test(several_nest_at_once_while_workers_leave)
{
    struct nester nesters[4];
    duet_loop *loop = start_loop();
    duet_pool *pool = open_with((duet_pool_config){.workers_max = 1, .idle_ns = NANOSECOND});
    for (int i = 0; i < 4; i++) {
        nesters[i].nest = (struct nest){.pool = pool, .loop = i % 2 ? loop : NULL};
        thread_start(&nesters[i].thread, nest_often, &nesters[i]);
    }
    for (int i = 0; i < 4; i++)
        thread_join(&nesters[i].thread);
    await_workers(pool, 0);
    close_pool(pool);
    close_loop(loop);
}

/* pool.h: there may be many that wait; one worker runs them all. */
thread_test(many_jobs_wait_at_once_on_one_slot)
{
    enum {
        COUNT = 60
    };
    duet_pool *pool = open_pool(1);
    duet_future *promise = open_promise(), *fs[COUNT];
    duet_pool_stats stats;
    for (int i = 0; i < COUNT; i++)
        fs[i] = duet_pool_submit(pool, wait_for, promise);
    await_stats(pool, &stats, stats.blocked_in_wait == COUNT);
    must_equal(stats.busy, COUNT);
    must_equal(stats.queued, 0);
    must(stats.workers >= COUNT && stats.workers <= 1 + 64);
    must_equal(finish(duet_pool_submit(pool, return_ok, NULL)).err, 0);
    settle(promise);
    for (int i = 0; i < COUNT; i++)
        must_equal(finish(fs[i]).err, 0);
    await_stats(pool, &stats, stats.busy == 0);
    must_equal(stats.blocked_in_wait, 0);
    duet_future_unref(promise);
    close_pool(pool);
}

/* pool.h: it does not queue for its slot. */
thread_test(a_waiter_resumes_at_once_though_the_pool_is_full)
{
    for (int round = 0; round < 3; round++) {
        unsigned max = (unsigned)round % 2 + 1;
        duet_pool *pool = open_pool(max);
        duet_future *promise = open_promise(), *waiters[2];
        struct holders holders;
        atomic_bool released = false;
        duet_pool_stats stats;
        waiters[0] = duet_pool_submit(pool, wait_for, promise);
        waiters[1] = duet_pool_submit(pool, sleep_long, NULL);
        await_stats(pool, &stats, stats.blocked_in_wait == 2);
        hold(&holders, pool, (int)max);
        duet_future *queued = duet_pool_submit(pool, run_after, &released);
        settle(promise);
        must_equal(finish(waiters[0]).err, 0); /* the holders still run */
        duet_future_cancel(waiters[1]);
        must_equal(finish(waiters[1]).err, -ECANCELED);
        let_others_run();
        await_stats(pool, &stats, stats.busy == max);
        must_equal(stats.queued, 1);
        atomic_store(&released, true);
        release(&holders);
        must_equal(finish(queued).err, 0);
        duet_future_unref(promise);
        close_pool(pool);
    }
}

/* pool.h: a wait that ends at its deadline resumes as well. */
static duet_result wait_in_vain(void *promise)
{
    must_equal(duet_future_wait(promise, duet_ms(1), NULL), -ETIME);
    return duet_ok();
}

thread_test(a_waiter_whose_deadline_has_passed_resumes_though_the_pool_is_full)
{
    duet_pool *pool = open_pool(1);
    for (int round = test_rounds(50); round > 0; round--) {
        duet_future *promise = open_promise();
        struct holders holders;
        duet_future *waiter = duet_pool_submit(pool, wait_in_vain, promise);
        hold(&holders, pool, 1);
        must_equal(finish(waiter).err, 0);
        release(&holders);
        duet_future_unref(promise);
    }
    close_pool(pool);
}

/* Once more run than may, because one has resumed, the next start waits until fewer do. */
struct last_holder {
    struct gate gate;
    atomic_bool about_to_end;
};

static duet_result pass_and_tell(void *arg)
{
    struct last_holder *holder = arg;
    gate_pass(&holder->gate);
    atomic_store(&holder->about_to_end, true);
    return duet_ok();
}

struct resumed {
    duet_future *promise;
    struct gate gate;
};

static duet_result wait_then_hold(void *arg)
{
    struct resumed *resumed = arg;
    must_equal(duet_future_wait(resumed->promise, SURELY, NULL), 0);
    gate_pass(&resumed->gate);
    return duet_ok();
}

/* pool.h: a further one starts while fewer than workers_max run. */
thread_test(a_job_starts_only_while_fewer_than_the_most_run)
{
    duet_pool *pool = open_pool(2);
    for (int round = test_rounds(50); round > 0; round--) {
        struct resumed resumed = {open_promise(), GATE_INIT};
        struct last_holder holder = {GATE_INIT, false};
        struct holders holders;
        duet_pool_stats stats;
        duet_future *waiter = duet_pool_submit(pool, wait_then_hold, &resumed);
        await_stats(pool, &stats, stats.blocked_in_wait == 1);
        hold(&holders, pool, 1);
        duet_future *last = duet_pool_submit(pool, pass_and_tell, &holder);
        gate_await_arrivals(&holder.gate, 1);
        settle(resumed.promise);
        gate_await_arrivals(&resumed.gate, 1); /* now three run */
        duet_future *f = duet_pool_submit(pool, run_after, &holder.about_to_end);
        release(&holders); /* two */
        let_others_run();
        await_stats(pool, &stats, stats.busy == 2);
        must_equal(stats.queued, 1);
        must_equal(stats.blocked_in_wait, 0);
        gate_open(&holder.gate); /* one */
        must_equal(finish(last).err, 0);
        must_equal(finish(f).err, 0);
        gate_open(&resumed.gate);
        must_equal(finish(waiter).err, 0);
        duet_future_unref(resumed.promise);
    }
    close_pool(pool);
}

/* A job that keeps its slot. */
struct keeper {
    duet_future *promise;
    atomic_int tid;
    atomic_bool about_to_end;
};

static duet_result wait_and_tell(void *arg)
{
    struct keeper *keeper = arg;
    atomic_store(&keeper->tid, gettid());
    must_equal(duet_future_wait(keeper->promise, SURELY, NULL), 0);
    atomic_store(&keeper->about_to_end, true);
    return duet_ok();
}

/* Until the thread sleeps in the kernel. */
static void await_blocked(atomic_int *thread_id)
{
    duet_deadline by = SURELY;
    for (int seen = 0; seen < 5; sched_yield()) {
        char path[64], text[512] = "", *end;
        int tid = atomic_load(thread_id);
        must(duet_now_ns() < by.ns);
        if (tid == 0)
            continue;
        snprintf(path, sizeof path, "/proc/self/task/%d/stat", tid);
        FILE *file = fopen(path, "r");
        must(file != NULL);
        text[fread(text, 1, sizeof text - 1, file)] = '\0';
        fclose(file);
        end = strrchr(text, ')');
        must(end != NULL);
        seen = end[2] == 'S' ? seen + 1 : 0;
    }
}

static const duet_opts keep_slot = {.flags = DUET_KEEP_SLOT};

/* base.h: nothing else starts while it waits, on a pool of one worker. */
thread_test(a_job_that_keeps_its_slot_lets_nothing_start_in_its_place)
{
    duet_pool *pool = open_pool(1);
    for (int round = test_rounds(100); round > 0; round--) {
        struct keeper keeper = {.promise = open_promise()};
        duet_future *f = duet_pool_submit_with(pool, wait_and_tell, &keeper, &keep_slot);
        duet_future *before = duet_pool_submit(pool, run_after, &keeper.about_to_end);
        await_blocked(&keeper.tid);
        duet_future *after = duet_pool_submit_with(pool, run_after, &keeper.about_to_end, &urgent);
        let_others_run();
        duet_pool_stats stats = stats_of(pool);
        must_equal(stats.busy, 1);
        must_equal(stats.blocked_in_wait, 0);
        must_equal(stats.queued, 2);
        must_equal(stats.workers, 1);
        settle(keeper.promise);
        must_equal(finish(f).err, 0);
        must_equal(finish(before).err, 0);
        must_equal(finish(after).err, 0);
        duet_future_unref(keeper.promise);
        await_rest(pool);
    }
    close_pool(pool);
}

/* base.h: the flag speaks for one job; others lend theirs, and the rest of the workers work. */
thread_test(a_job_that_keeps_its_slot_keeps_no_other)
{
    duet_pool *pool = open_pool(2);
    struct keeper keeper = {.promise = open_promise()};
    duet_future *promise = open_promise();
    duet_pool_stats stats;
    duet_future *f = duet_pool_submit_with(pool, wait_and_tell, &keeper, &keep_slot);
    duet_future *lender = duet_pool_submit(pool, wait_for, promise);
    await_stats(pool, &stats, stats.blocked_in_wait == 1);
    await_blocked(&keeper.tid);
    struct holders holders;
    hold(&holders, pool, 1);
    duet_future *queued = duet_pool_submit(pool, return_ok, NULL);
    let_others_run();
    must_equal(stats_of(pool).queued, 1);
    release(&holders);
    must_equal(finish(queued).err, 0);
    settle(promise);
    must_equal(finish(lender).err, 0);
    settle(keeper.promise);
    must_equal(finish(f).err, 0);
    duet_future_unref(promise);
    duet_future_unref(keeper.promise);
    close_pool(pool);
}

static atomic_int inside;

static duet_result enter_alone(void *arg)
{
    (void)arg;
    must_equal(atomic_fetch_add(&inside, 1), 0);
    must_equal(duet_sleep(duet_us(50)), 0);
    must_equal(atomic_fetch_sub(&inside, 1), 1);
    return duet_ok();
}

/* pool.h: a pool of one worker all of whose jobs keep their slot is a lock. */
thread_test(one_worker_whose_jobs_all_keep_their_slot_is_a_lock)
{
    duet_pool *pool = open_pool(1);
    int rounds = test_rounds(300);
    duet_future **fs = calloc((size_t)rounds, sizeof *fs);
    must(fs != NULL);
    for (int i = 0; i < rounds; i++) {
        duet_opts opts = {.flags = DUET_KEEP_SLOT, .priority = (uint32_t)i % 2};
        fs[i] = duet_pool_submit_with(pool, enter_alone, NULL, &opts);
    }
    for (int i = 0; i < rounds; i++)
        must_equal(finish(fs[i]).err, 0);
    must_equal(stats_of(pool).workers_peak, 1);
    free(fs);
    close_pool(pool);
}

static duet_result wait_for_own_queue(void *arg)
{
    struct loan *loan = arg;
    duet_future *f = duet_pool_submit(loan->pool, run_after, &loan->waiter_ended);
    must_equal(duet_future_wait(f, DUET_NEVER, NULL), -EDEADLK);
    atomic_store(&loan->waiter_ended, true);
    return duet_ptr(f);
}

/* base.h: it keeps the slot that the job needs for which it waits. */
thread_test(a_job_that_keeps_its_slot_and_waits_for_its_own_queue_is_told)
{
    struct loan loan = {.pool = open_pool(1)};
    log_capture();
    duet_result r = finish(duet_pool_submit_with(loan.pool, wait_for_own_queue, &loan, &keep_slot));
    must_equal(finish(duet_as_ptr(r)).err, 0); /* it runs once there is room */
    log_release();
    close_pool(loan.pool);
}

/* ---- Spares ---- */

/* pool.h: workers_max and spares_max together bound the threads. */
thread_test(spares_bound_the_threads)
{
    duet_pool *pool = open_with((duet_pool_config){.workers_max = 2, .spares_max = 1});
    duet_future *promises[3], *waiters[3], *queued[5];
    atomic_bool room = false;
    duet_pool_stats stats;
    for (int i = 0; i < 3; i++) {
        promises[i] = open_promise();
        waiters[i] = duet_pool_submit(pool, wait_for, promises[i]);
        await_stats(pool, &stats, stats.busy == (unsigned)i + 1);
    }
    for (int i = 0; i < 5; i++)
        queued[i] = duet_pool_submit(pool, run_after, &room);
    let_others_run();
    stats = stats_of(pool);
    must_equal(stats.workers, 3);
    must_equal(stats.queued, 5);
    must(count_worker_threads() <= 3);
    atomic_store(&room, true);
    settle(promises[1]);
    must_equal(finish(waiters[1]).err, 0);
    for (int i = 0; i < 5; i++)
        must_equal(finish(queued[i]).err, 0); /* on the one that is free again */
    for (int i = 0; i < 3; i += 2) {
        settle(promises[i]);
        must_equal(finish(waiters[i]).err, 0);
    }
    must_equal(stats_of(pool).workers_peak, 3);
    for (int i = 0; i < 3; i++)
        duet_future_unref(promises[i]);
    close_pool(pool);
    await_worker_threads(0);
}

struct sampler {
    struct thread thread;
    duet_pool *pool;
    unsigned most;
    atomic_bool stop;
};

static void sample(void *arg)
{
    struct sampler *sampler = arg;
    while (!atomic_load(&sampler->stop)) {
        duet_pool_stats stats = stats_of(sampler->pool);
        must(stats.workers <= sampler->most);
        must(stats.workers_peak <= sampler->most);
        sched_yield();
    }
}

static duet_result nap_and_work(void *arg)
{
    uint64_t random = (uint64_t)(uintptr_t)arg;
    for (int i = 0; i < 3; i++) {
        spin((unsigned)(test_random(&random) % 2000));
        if (test_random(&random) % 2)
            must_equal(duet_sleep(duet_us((int64_t)(test_random(&random) % 100))), 0);
    }
    return duet_ok();
}

static void submit_nappers(void *arg)
{
    struct flood *flood = arg;
    for (int round = 0; round < flood->rounds; round++) {
        duet_future *fs[12];
        for (int i = 0; i < 12; i++) {
            uint64_t seed = test_random(&flood->random) | 1;
            fs[i] = duet_pool_submit(flood->pool, nap_and_work, (void *)(uintptr_t)seed);
        }
        for (int i = 0; i < 12; i++)
            must_equal(finish(fs[i]).err, 0);
    }
}

static void nap_with_spares(unsigned max, unsigned spares, int64_t idle_ns)
{
    struct flood floods[3];
    uint64_t random = test_seed();
    duet_pool *pool =
        open_with((duet_pool_config){.workers_max = max, .spares_max = spares, .idle_ns = idle_ns});
    struct sampler sampler = {.pool = pool, .most = max + spares};
    thread_start(&sampler.thread, sample, &sampler);
    for (int i = 0; i < 3; i++) {
        floods[i] = (struct flood){
            .pool = pool, .random = test_random(&random) | 1, .rounds = test_rounds(150)};
        thread_start(&floods[i].thread, submit_nappers, &floods[i]);
    }
    for (int i = 0; i < 3; i++)
        thread_join(&floods[i].thread);
    atomic_store(&sampler.stop, true);
    thread_join(&sampler.thread);
    duet_pool_stats stats;
    await_stats(pool, &stats, stats.busy == 0);
    must(stats.workers_peak <= max + spares);
    must_equal(stats.blocked_in_wait, 0);
    must_equal(stats.submitted, stats.completed);
    close_pool(pool);
    await_worker_threads(0);
}

thread_test(one_spare_bounds_the_threads_of_jobs_that_sleep)
{
    nap_with_spares(1, 1, 0);
    nap_with_spares(2, 1, NANOSECOND);
}

thread_test(few_spares_bound_the_threads_of_jobs_that_sleep)
{
    nap_with_spares(3, 4, SHORT);
}

struct chain {
    duet_pool *pool;
    int depth, told;
    duet_future *last;
};

static duet_result wait_for_the_next(void *arg)
{
    struct chain *chain = arg;
    if (chain->depth == 0)
        return duet_ok();
    chain->depth--;
    duet_future *f = duet_pool_submit(chain->pool, wait_for_the_next, chain);
    int rc = duet_future_wait(f, DUET_NEVER, NULL);
    must(rc == 0 || rc == -EDEADLK);
    if (rc < 0) {
        chain->told++;
        chain->last = f;
    } else {
        duet_future_unref(f);
    }
    return duet_ok();
}

/* base.h: all threads that there may be wait for a job that none can start. */
thread_test(jobs_that_wait_for_more_than_the_spares_are_told)
{
    struct chain chain = {.pool = open_with((duet_pool_config){.workers_max = 1, .spares_max = 2}),
                          .depth = 3};
    log_capture();
    must_equal(finish(duet_pool_submit(chain.pool, wait_for_the_next, &chain)).err, 0);
    must_equal(chain.told, 1);
    must_equal(finish(chain.last).err, 0);
    log_release();
    must_equal(stats_of(chain.pool).workers_peak, 3);
    close_pool(chain.pool);
}

/* ---- How many run ---- */

/* Jobs that have started, and have not waited yet, are counted from inside: such a one runs, so
 * there are at most workers_max of them whatever the others do. */
struct crowd {
    duet_pool *pool;
    int max;
    bool may_wait;
    atomic_int fresh, ran;
};

struct member {
    struct crowd *crowd;
    uint64_t random;
};

static void run_fresh(struct crowd *crowd, uint64_t *random)
{
    must(atomic_fetch_add(&crowd->fresh, 1) < crowd->max);
    spin((unsigned)(test_random(random) % 4000));
    if (test_random(random) % 8 == 0)
        sched_yield();
    must(atomic_load(&crowd->fresh) <= crowd->max);
    atomic_fetch_sub(&crowd->fresh, 1);
    atomic_fetch_add(&crowd->ran, 1);
}

static duet_result only_run(void *arg)
{
    struct member *member = arg;
    run_fresh(member->crowd, &member->random);
    return duet_ok();
}

static duet_result run_and_wait(void *arg)
{
    struct member *member = arg, inner = *member;
    struct crowd *crowd = member->crowd;
    run_fresh(crowd, &member->random);
    duet_future *f;
    duet_result r;
    switch (test_random(&member->random) % 4) {
    case 0:
        must_equal(duet_sleep(duet_us((int64_t)(test_random(&member->random) % 50))), 0);
        break;
    case 1:
        inner.random ^= 99;
        must_equal(duet_offload(crowd->pool, only_run, &inner, SURELY, &r), 0);
        must_equal(r.err, 0);
        break;
    case 2:
        f = open_promise();
        int rc = duet_future_wait(f, duet_us(30), NULL);
        must_equal(rc, -ETIME);
        duet_future_unref(f);
        break;
    default:
        break;
    }
    spin((unsigned)(test_random(&member->random) % 2000));
    return duet_ok();
}

struct caller {
    struct thread thread;
    struct crowd *crowd;
    uint64_t random;
};

static void add_to_the_crowd(void *arg)
{
    struct caller *caller = arg;
    for (int round = test_rounds(200); round > 0; round--) {
        struct member members[12];
        duet_future *fs[12];
        for (int i = 0; i < 12; i++) {
            members[i] = (struct member){caller->crowd, test_random(&caller->random) | 1};
            bool waits = caller->crowd->may_wait && test_random(&caller->random) % 2;
            duet_opts opts = {
                .priority = (uint32_t)(test_random(&caller->random) % 2),
                .flags = test_random(&caller->random) % 8 == 0 && !waits ? DUET_KEEP_SLOT : 0};
            fs[i] = duet_pool_submit_with(caller->crowd->pool, waits ? run_and_wait : only_run,
                                          &members[i], &opts);
        }
        for (int i = 0; i < 12; i++)
            must_equal(finish(fs[i]).err, 0);
    }
}

static void run_a_crowd(unsigned max, bool may_wait, int64_t idle_ns)
{
    struct crowd crowd = {
        .pool = open_with(
            (duet_pool_config){.workers_max = max, .spares_max = 128, .idle_ns = idle_ns}),
        .max = (int)max,
        .may_wait = may_wait,
    };
    struct caller callers[3];
    uint64_t random = test_seed();
    for (int i = 0; i < 3; i++) {
        callers[i].crowd = &crowd;
        callers[i].random = test_random(&random) | 1;
        thread_start(&callers[i].thread, add_to_the_crowd, &callers[i]);
    }
    for (int i = 0; i < 3; i++)
        thread_join(&callers[i].thread);
    must_equal(atomic_load(&crowd.fresh), 0);
    must(atomic_load(&crowd.ran) >= 3 * 12 * test_rounds(200));
    must(stats_of(crowd.pool).workers_peak <= (may_wait ? max + 128 : max));
    close_pool(crowd.pool);
}

/* pool.h: at most workers_max jobs. */
thread_test(never_more_jobs_run_than_may)
{
    run_a_crowd(1, false, 0);
    run_a_crowd(3, false, NANOSECOND);
}

/* pool.h: at most workers_max, those not counted that wait. */
thread_test(never_more_jobs_are_started_than_may_run_though_others_wait)
{
    run_a_crowd(1, true, 0);
    run_a_crowd(2, true, NANOSECOND);
    run_a_crowd(4, true, SHORT);
}

/* Jobs that do as they are told, so that between two orders all is at rest, and what the pool does
 * can be held against what it must do. */
enum order_to {
    NOTHING,
    WAIT,
    END
};
struct puppet {
    duet_future *f, *promise;
    pthread_mutex_t mutex;
    pthread_cond_t cond;
    enum order_to order;
    bool is_urgent, keeps;
    atomic_bool started;
    bool must_have_started, waits; /* the model */
};

static duet_result obey(void *arg)
{
    struct puppet *puppet = arg;
    atomic_store(&puppet->started, true);
    for (;;) {
        pthread_mutex_lock(&puppet->mutex);
        while (puppet->order == NOTHING)
            pthread_cond_wait(&puppet->cond, &puppet->mutex);
        enum order_to order = puppet->order;
        duet_future *promise = puppet->promise;
        puppet->order = NOTHING;
        pthread_cond_broadcast(&puppet->cond);
        pthread_mutex_unlock(&puppet->mutex);
        if (order == END)
            return duet_ok();
        must_equal(duet_future_wait(promise, SURELY, NULL), 0);
        duet_future_unref(promise);
    }
}

static void tell(struct puppet *puppet, enum order_to order)
{
    pthread_mutex_lock(&puppet->mutex);
    puppet->order = order;
    if (order == WAIT)
        puppet->promise = duet_future_ref(open_promise());
    pthread_cond_broadcast(&puppet->cond);
    while (puppet->order != NOTHING)
        pthread_cond_wait(&puppet->cond, &puppet->mutex);
    pthread_mutex_unlock(&puppet->mutex);
}

static void let_resume(struct puppet *puppet)
{
    pthread_mutex_lock(&puppet->mutex);
    duet_future *promise = puppet->promise;
    puppet->promise = NULL;
    pthread_mutex_unlock(&puppet->mutex);
    settle(promise);
    duet_future_unref(promise);
}

enum {
    PUPPETS = 24
};
struct theatre {
    duet_pool *pool;
    unsigned max, reserved;
    struct puppet *puppets[PUPPETS]; /* in the order submitted */
    int count;
};

struct scene {
    unsigned running, running_normal, waiting, queued, queued_urgent;
};

/* What is so by what the puppets themselves have told. */
static struct scene look(const struct theatre *theatre)
{
    struct scene scene = {0};
    for (int i = 0; i < theatre->count; i++) {
        struct puppet *puppet = theatre->puppets[i];
        if (!atomic_load(&puppet->started)) {
            scene.queued++;
            scene.queued_urgent += puppet->is_urgent;
        } else if (puppet->waits && !puppet->keeps) {
            scene.waiting++;
        } else {
            scene.running++;
            scene.running_normal += !puppet->is_urgent;
        }
    }
    return scene;
}

static bool at_rest(const struct theatre *theatre, duet_pool_stats *stats)
{
    struct scene scene = look(theatre);
    unsigned queued_normal = scene.queued - scene.queued_urgent;
    duet_pool_stats_get(theatre->pool, stats);
    if (stats->busy != scene.running + scene.waiting || stats->blocked_in_wait != scene.waiting ||
        stats->queued != scene.queued || stats->urgent != scene.queued_urgent)
        return false;
    if (scene.running >= theatre->max)
        return true;
    return scene.queued_urgent == 0 &&
           (queued_normal == 0 || scene.running_normal >= theatre->max - theatre->reserved);
}

/* Until no job could start any more; then those that did were allowed to. */
static void await_scene(struct theatre *theatre)
{
    duet_deadline by = SURELY;
    duet_pool_stats stats;
    bool started = false, started_normal = false, still_queued[2] = {false, false};
    while (!at_rest(theatre, &stats)) {
        if (duet_now_ns() >= by.ns)
            print_stats(&stats);
        must(duet_now_ns() < by.ns);
        sched_yield();
    }
    for (int i = 0; i < theatre->count; i++) {
        struct puppet *puppet = theatre->puppets[i];
        bool has_started = atomic_load(&puppet->started);
        if (has_started && !puppet->must_have_started) {
            started = true;
            started_normal |= !puppet->is_urgent;
            must(!still_queued[puppet->is_urgent]); /* in order */
        }
        still_queued[puppet->is_urgent] |= !has_started;
        puppet->must_have_started = has_started;
    }
    struct scene scene = look(theatre);
    must(!started || scene.running <= theatre->max);
    must(!started_normal || scene.running_normal <= theatre->max - theatre->reserved);
    must(stats.workers >= stats.busy);
    must(stats.workers <= theatre->max + 64);
}

static void bring(struct theatre *theatre, bool is_urgent, bool keeps)
{
    struct puppet *puppet = calloc(1, sizeof *puppet);
    must(puppet != NULL);
    must_equal(pthread_mutex_init(&puppet->mutex, NULL), 0);
    must_equal(pthread_cond_init(&puppet->cond, NULL), 0);
    puppet->is_urgent = is_urgent;
    puppet->keeps = keeps;
    theatre->puppets[theatre->count++] = puppet;
    duet_opts opts = {.priority = is_urgent, .flags = keeps ? DUET_KEEP_SLOT : 0};
    puppet->f = duet_pool_submit_with(theatre->pool, obey, puppet, &opts);
}

static void dismiss(struct theatre *theatre, int index)
{
    struct puppet *puppet = theatre->puppets[index];
    tell(puppet, END);
    must_equal(finish(puppet->f).err, 0);
    must_equal(pthread_cond_destroy(&puppet->cond), 0);
    must_equal(pthread_mutex_destroy(&puppet->mutex), 0);
    free(puppet);
    theatre->count--;
    memmove(&theatre->puppets[index], &theatre->puppets[index + 1],
            (size_t)(theatre->count - index) * sizeof theatre->puppets[0]);
}

/* Ends one puppet, or makes it wait or resume, if it has started. */
static void move_one(struct theatre *theatre, int index, bool ends)
{
    struct puppet *puppet = theatre->puppets[index];
    if (!atomic_load(&puppet->started))
        return;
    if (puppet->waits) {
        let_resume(puppet);
        puppet->waits = false;
    } else if (ends) {
        dismiss(theatre, index);
    } else {
        puppet->waits = true;
        tell(puppet, WAIT);
    }
}

static void play(unsigned max, unsigned reserved, bool lanes)
{
    uint64_t random = test_seed();
    struct theatre theatre = {
        .pool = open_with((duet_pool_config){.workers_max = max, .workers_reserved = reserved}),
        .max = max,
        .reserved = reserved,
    };
    for (int step = test_rounds(1500); step > 0; step--) {
        uint64_t chance = test_random(&random);
        if (theatre.count == 0 || (theatre.count < PUPPETS && chance % 3 == 0))
            bring(&theatre, lanes && chance / 3 % 2, chance / 6 % 6 == 0);
        else
            move_one(&theatre, (int)(chance / 3 % (unsigned)theatre.count), chance / 128 % 2);
        await_scene(&theatre);
    }
    while (theatre.count > 0)
        for (int i = theatre.count - 1; i >= 0; i--) {
            move_one(&theatre, i, true);
            await_scene(&theatre);
        }
    await_rest(theatre.pool);
    close_pool(theatre.pool);
}

/* pool.h: whatever happens, a job starts exactly when fewer run than may. */
thread_test(a_job_starts_whenever_fewer_than_the_most_run)
{
    play(1, 0, false);
    play(3, 0, false);
}

/* pool.h: and in each lane what it may have. */
thread_test(a_job_of_either_lane_starts_whenever_it_may)
{
    play(1, 0, true);
    play(3, 1, true);
    play(4, 3, true);
}

/* ---- Ends while slots are lent ---- */

struct pair {
    duet_pool *pool;
    duet_future *second;
    struct gate gate;
    struct tally tally;
};

static duet_result pass_then_wait(void *arg)
{
    struct pair *pair = arg;
    gate_pass(&pair->gate);
    return wait_for(pair->second);
}

static void drain_plainly(void *pool)
{
    must_equal(duet_pool_drain(pool, SURELY, NULL), 0);
}

/* pool.h: the queued ones run, so one that waits for them still lends its slot. */
thread_test(a_job_lends_its_slot_while_its_pool_drains)
{
    struct pair pair = {.pool = open_pool(1), .gate = GATE_INIT};
    struct thread drainer;
    struct holders holders;
    hold(&holders, pair.pool, 1);
    duet_future *first = duet_pool_submit(pair.pool, pass_then_wait, &pair);
    pair.second = duet_pool_submit(pair.pool, tally_run, &pair.tally);
    release(&holders);
    gate_await_arrivals(&pair.gate, 1);
    thread_start(&drainer, drain_plainly, pair.pool);
    thread_await_blocked(&drainer); /* it has begun, since it refuses: */
    must_equal(finish(duet_pool_submit(pair.pool, return_ok, NULL)).err, -ESHUTDOWN);
    gate_open(&pair.gate);
    thread_join(&drainer);
    must_equal(finish(first).err, 0);
    must_equal(atomic_load(&pair.tally.ran), 1);
    duet_future_unref(pair.second);
    close_pool(pair.pool);
}

/* pool.h: their waits fail, wherever their slots are. */
thread_test(close_asks_the_jobs_that_have_lent_their_slots)
{
    for (int round = test_rounds(50); round > 0; round--) {
        duet_pool *pool = open_pool(1);
        duet_future *fs[8];
        duet_pool_stats stats;
        struct tally tally = {0};
        struct holders holders;
        for (int i = 0; i < 8; i++)
            fs[i] = duet_pool_submit(pool, sleep_long, NULL);
        await_stats(pool, &stats, stats.blocked_in_wait == 8);
        hold(&holders, pool, 1);
        duet_future *queued = duet_pool_submit_with(pool, tally_run, &tally, &tally_opts);
        gate_open(&holders.gate);
        close_pool(pool);
        for (int i = 0; i < 8; i++) {
            must(duet_future_settled(fs[i]));
            must_equal(finish(fs[i]).err, -ECANCELED);
        }
        must_equal(finish(holders.fs[0]).err, 0);
        int err = finish(queued).err;
        must_equal(atomic_load(&tally.ran), err == 0);
        must_equal(atomic_load(&tally.dropped), 1);
    }
    await_threads(resting);
}

/* ---- Statistics ---- */

/* pool.h: all is 0, but for the threads that it must have. */
thread_test(the_statistics_of_a_new_pool_are_zero)
{
    duet_pool_stats stats;
    for (unsigned min = 0; min < 3; min++) {
        duet_pool *pool = open_with((duet_pool_config){.workers_min = min, .workers_max = 4});
        memset(&stats, 0xff, sizeof stats);
        duet_pool_stats_get(pool, &stats);
        must_equal(stats.workers, min);
        must_equal(stats.workers_peak, min);
        must_equal(stats.threads_started, min);
        must_equal(stats.busy, 0);
        must_equal(stats.blocked_in_wait, 0);
        must_equal(stats.abandoned, 0);
        must_equal(stats.queued, 0);
        must_equal(stats.submitted, 0);
        must_equal(stats.completed, 0);
        must_equal(stats.cancelled, 0);
        must_equal(stats.refused, 0);
        must_equal(stats.urgent, 0);
        must_equal(stats.threads_refused, 0);
        close_pool(pool);
    }
}

static duet_result poll_cancellation(void *begun)
{
    settle(begun);
    while (!duet_cancelled())
        sched_yield();
    return duet_err(-ECANCELED);
}

/* pool.h: each field, in a state that is known. */
thread_test(the_statistics_say_what_is_so)
{
    duet_pool *pool = open_with(
        (duet_pool_config){.workers_max = 2, .queue_max = 4, .when_full = DUET_FULL_REFUSE});
    duet_future *promise = open_promise(), *queued[4];
    struct holders holders;
    duet_pool_stats stats;
    duet_future *waiter = duet_pool_submit(pool, wait_for, promise);
    await_stats(pool, &stats, stats.blocked_in_wait == 1);
    must_equal(stats.busy, 1);
    must_equal(stats.workers, 1);
    must_equal(stats.queued, 0);
    must_equal(stats.submitted, 1);
    hold(&holders, pool, 2);
    for (int i = 0; i < 4; i++)
        queued[i] =
            duet_pool_submit_with(pool, i % 2 ? fail_eio : return_ok, NULL, i < 3 ? &urgent : NULL);
    for (int i = 0; i < 3; i++)
        must_equal(finish(duet_pool_submit(pool, return_ok, NULL)).err, -EAGAIN);
    duet_future_cancel(queued[2]);
    must_equal(finish(queued[2]).err, -ECANCELED);
    stats = stats_of(pool);
    must_equal(stats.workers, 3);
    must_equal(stats.busy, 3);
    must_equal(stats.blocked_in_wait, 1);
    must_equal(stats.abandoned, 0);
    must_equal(stats.queued, 3);
    must_equal(stats.urgent, 2);
    must_equal(stats.submitted, 7);
    must_equal(stats.completed, 0);
    must_equal(stats.cancelled, 1);
    must_equal(stats.refused, 3);
    must_equal(stats.workers_peak, 3);
    must_equal(stats.threads_started, 3);
    must_equal(stats.threads_refused, 0);

    settle(promise);
    must_equal(finish(waiter).err, 0);
    await_stats(pool, &stats, stats.completed == 1);
    must_equal(stats.busy, 2);
    must_equal(stats.blocked_in_wait, 0);
    must_equal(stats.queued, 3);

    release(&holders);
    must_equal(finish(queued[0]).err, 0);
    must_equal(finish(queued[1]).err, -EIO);
    must_equal(finish(queued[3]).err, -EIO);
    duet_future *begun = open_promise();
    duet_future *cancelled = duet_pool_submit(pool, poll_cancellation, begun);
    must_equal(finish(begun).err, 0);
    duet_future_cancel(cancelled); /* it runs, so it ends as one that has run */
    must_equal(finish(cancelled).err, -ECANCELED);
    must_equal(duet_pool_drain(pool, SURELY, NULL), 0);
    must_equal(finish(duet_pool_submit(pool, return_ok, NULL)).err, -ESHUTDOWN);
    stats = stats_of(pool);
    must_equal(stats.busy, 0);
    must_equal(stats.blocked_in_wait, 0);
    must_equal(stats.abandoned, 0);
    must_equal(stats.queued, 0);
    must_equal(stats.urgent, 0);
    must_equal(stats.submitted, 8);
    must_equal(stats.completed, 7);
    must_equal(stats.cancelled, 1);
    must_equal(stats.refused, 4);
    must_equal(stats.workers_peak, 3);
    duet_future_unref(promise);
    close_pool(pool);
}

/* pool.h: the most threads at one time stays when they have left; those started add up. */
thread_test(the_statistics_remember_the_threads_that_have_left)
{
    duet_pool *pool = open_with((duet_pool_config){.workers_max = 4, .idle_ns = NANOSECOND});
    static const int turns[] = {2, 4, 1, 3};
    uint64_t started = 0, peak = 0;
    for (int i = 0; i < 4; i++) {
        struct holders holders;
        hold(&holders, pool, turns[i]);
        started += (unsigned)turns[i];
        peak = (unsigned)turns[i] > peak ? (unsigned)turns[i] : peak;
        must_equal(stats_of(pool).workers, turns[i]);
        release(&holders);
        await_workers(pool, 0);
        must_equal(stats_of(pool).workers_peak, peak);
        must_equal(stats_of(pool).threads_started, started);
    }
    close_pool(pool);
}

/* pool.h, future.h: one that was left behind is counted until it ends, and keeps its worker. */
thread_test(the_statistics_count_what_was_left_behind)
{
    duet_pool *pool = open_pool(1);
    static struct gate gate = GATE_INIT;
    static atomic_bool opened;
    duet_pool_stats stats;
    duet_result r;
    log_capture();
    duet_future *f =
        duet_pool_submit_with(pool, gate_pass_job, &gate, &(duet_opts){.name = "Bartolo"});
    gate_await_arrivals(&gate, 1);
    duet_future *next = duet_pool_submit(pool, run_after, &opened);
    must_equal(duet_future_end(f, DUET_NOW, 1, &r), DUET_ABANDONED);
    must_equal(r.err, -ETIME);
    must(log_has("Bartolo"));
    let_others_run();
    stats = stats_of(pool);
    must_equal(stats.abandoned, 1);
    must_equal(stats.busy, 1);
    must_equal(stats.queued, 1);
    must_equal(stats.completed, 0);
    atomic_store(&opened, true);
    gate_open(&gate);
    must_equal(finish(next).err, 0);
    await_stats(pool, &stats, stats.completed == 2);
    must_equal(stats.abandoned, 0);
    must_equal(stats.busy, 0);
    log_release();
    close_pool(pool);
}

/* ---- ---- */

static void end_at_once(void *arg)
{
    (void)arg;
}

/* A first thread, so that what counts threads is not misled by those that come with it. */
static int have_had_a_thread(void **state)
{
    (void)state;
    struct thread thread;
    char task[64];
    thread_start(&thread, end_at_once, NULL);
    thread_join(&thread);
    snprintf(task, sizeof task, "/proc/self/task/%d", atomic_load(&thread.tid));
    while (access(task, F_OK) == 0) /* it is joined before it is gone */
        sched_yield();
    resting = count_threads();
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_new_pool_has_the_threads_that_it_must_have_and_no_more),
        cmocka_unit_test(a_pool_that_never_had_a_thread_is_drained_and_closed),
        cmocka_unit_test(threads_come_with_work_up_to_the_most),
        cmocka_unit_test(a_burst_of_jobs_gets_all_the_threads_at_once),
        cmocka_unit_test(jobs_do_not_wait_for_the_end_of_threads_that_leave),
        cmocka_unit_test(a_destructor_of_a_workers_thread_does_not_wait),
        cmocka_unit_test(what_runs_as_a_job_settles_does_not_wait_for_the_next_one),
        cmocka_unit_test(a_destructor_does_not_wait_for_the_loop_that_closes_its_pool),
        cmocka_unit_test(a_destructor_does_not_wait_for_the_loop_that_closes_its_own),
        cmocka_unit_test(idle_workers_leave_down_to_the_least),
        cmocka_unit_test(a_pool_whose_workers_have_left_takes_work_again),
        cmocka_unit_test(workers_that_may_stay_for_ever_stay),
        cmocka_unit_test(there_are_never_fewer_workers_than_the_least),
#ifndef TEST_SANITIZED
        cmocka_unit_test(workers_that_leave_give_back_their_stacks),
#endif
        cmocka_unit_test(no_job_is_lost_to_workers_that_leave_at_once),
        cmocka_unit_test(no_job_is_lost_to_workers_that_leave_soon),
        cmocka_unit_test(no_job_is_lost_to_the_only_worker_that_leaves),
        cmocka_unit_test(no_job_is_lost_between_a_worker_that_stays_and_those_that_leave),
        cmocka_unit_test(pools_are_closed_and_opened_anew_while_workers_leave),
        cmocka_unit_test(a_job_may_be_cancelled_while_a_thread_comes_for_it),
        cmocka_unit_test(workers_that_came_for_jobs_that_wait_leave_again),
        cmocka_unit_test(urgent_jobs_pass_normal_ones),
        cmocka_unit_test(no_more_than_seven_urgent_jobs_pass_in_a_row),
        cmocka_unit_test(a_normal_job_is_not_starved),
        cmocka_unit_test(a_priority_above_one_is_refused),
        cmocka_unit_test(the_queue_is_full_of_both_kinds_together),
        cmocka_unit_test(reserved_workers_run_urgent_jobs_only),
        cmocka_unit_test(normal_jobs_have_the_rest_whatever_the_urgent_ones_do),
        cmocka_unit_test(workers_are_not_all_reserved),
        cmocka_unit_test(too_many_spares_are_refused),
        cmocka_unit_test(a_job_that_waits_for_a_future_lends_its_slot),
        cmocka_unit_test(a_job_that_waits_for_ever_lends_its_slot),
        cmocka_unit_test(a_job_that_waits_for_any_of_several_lends_its_slot),
        cmocka_unit_test(a_job_that_gathers_lends_its_slot),
        cmocka_unit_test(a_job_that_sleeps_lends_its_slot),
        cmocka_unit_test(a_job_that_offloads_into_its_own_pool_lends_its_slot),
        cmocka_unit_test(a_job_that_offloads_into_another_pool_lends_its_slot),
        cmocka_unit_test(a_job_that_calls_a_loop_that_offloads_back_lends_its_slot),
        cmocka_unit_test(a_job_that_calls_a_loop_lends_its_slot),
        cmocka_unit_test(a_job_that_closes_a_future_lends_its_slot),
        cmocka_unit_test(a_job_that_ends_a_future_lends_its_slot),
        cmocka_unit_test(a_job_that_waits_for_a_group_lends_its_slot),
        cmocka_unit_test(a_job_that_closes_a_group_lends_its_slot),
        cmocka_unit_test(a_job_that_drains_another_pool_lends_its_slot),
        cmocka_unit_test(a_job_that_closes_another_pool_lends_its_slot),
        cmocka_unit_test(a_job_that_shuts_another_pool_down_lends_its_slot),
        cmocka_unit_test(a_job_that_closes_a_loop_lends_its_slot),
        cmocka_unit_test(a_job_that_waits_for_room_elsewhere_lends_its_slot),
        cmocka_unit_test(a_job_that_waits_for_room_in_its_own_pool_lends_its_slot),
        cmocka_unit_test(jobs_and_coroutines_that_wait_for_each_other_nest_deeply),
        cmocka_unit_test(jobs_that_wait_for_jobs_of_their_own_pool_nest_deeply),
        cmocka_unit_test(several_nest_at_once_while_workers_leave),
        cmocka_unit_test(many_jobs_wait_at_once_on_one_slot),
        cmocka_unit_test(a_waiter_resumes_at_once_though_the_pool_is_full),
        cmocka_unit_test(a_waiter_whose_deadline_has_passed_resumes_though_the_pool_is_full),
        cmocka_unit_test(a_job_starts_only_while_fewer_than_the_most_run),
        cmocka_unit_test(a_job_that_keeps_its_slot_lets_nothing_start_in_its_place),
        cmocka_unit_test(a_job_that_keeps_its_slot_keeps_no_other),
        cmocka_unit_test(one_worker_whose_jobs_all_keep_their_slot_is_a_lock),
        cmocka_unit_test(a_job_that_keeps_its_slot_and_waits_for_its_own_queue_is_told),
        cmocka_unit_test(spares_bound_the_threads),
        cmocka_unit_test(one_spare_bounds_the_threads_of_jobs_that_sleep),
        cmocka_unit_test(few_spares_bound_the_threads_of_jobs_that_sleep),
        cmocka_unit_test(jobs_that_wait_for_more_than_the_spares_are_told),
        cmocka_unit_test(never_more_jobs_run_than_may),
        cmocka_unit_test(never_more_jobs_are_started_than_may_run_though_others_wait),
        cmocka_unit_test(a_job_starts_whenever_fewer_than_the_most_run),
        cmocka_unit_test(a_job_of_either_lane_starts_whenever_it_may),
        cmocka_unit_test(a_job_lends_its_slot_while_its_pool_drains),
        cmocka_unit_test(close_asks_the_jobs_that_have_lent_their_slots),
        cmocka_unit_test(the_statistics_of_a_new_pool_are_zero),
        cmocka_unit_test(the_statistics_say_what_is_so),
        cmocka_unit_test(the_statistics_remember_the_threads_that_have_left),
        cmocka_unit_test(the_statistics_count_what_was_left_behind),
    };
    return cmocka_run_group_tests(tests, have_had_a_thread, NULL);
}
