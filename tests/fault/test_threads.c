/* The system has no more threads: pool.h says what becomes of the jobs.
 *
 * pthread_create is wrapped by the linker (-Wl,--wrap=pthread_create). */
#include "../semantics/shared.h"
#include "duet_test.h"

#include <time.h>

/* ---- Threads that cannot be had ---- */

static atomic_int allowed = -1; /* so many more threads can be had; < 0: any number */
static atomic_int percent_refused; /* of the others */
static atomic_ullong chance;
static atomic_int asked, refused; /* since threads_reset() */
static _Atomic(struct gate *) refused_behind; /* who is refused passes it before; NULL: none */

static bool is_refused(void)
{
    int left = atomic_load(&allowed);
    while (left >= 0) {
        if (left == 0)
            return true;
        if (atomic_compare_exchange_weak(&allowed, &left, left - 1))
            return false;
    }
    uint64_t random = atomic_fetch_add(&chance, 0x9e3779b97f4a7c15) | 1;
    return test_random(&random) >> 32 < (uint64_t)atomic_load(&percent_refused) * 42949673;
}

int __real_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*fn)(void *),
                          void *arg);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*fn)(void *),
                          void *arg);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*fn)(void *),
                          void *arg)
{
    if (fn == thread_main) /* the test's own */
        return __real_pthread_create(thread, attr, fn, arg);
    atomic_fetch_add(&asked, 1);
    if (is_refused()) {
        atomic_fetch_add(&refused, 1);
        struct gate *gate = atomic_load(&refused_behind);
        if (gate)
            gate_pass(gate);
        return EAGAIN;
    }
    return __real_pthread_create(thread, attr, fn, arg);
}

static void threads_allow(int n)
{
    atomic_store(&allowed, n);
}

static void threads_allow_all(void)
{
    atomic_store(&percent_refused, 0);
    threads_allow(-1);
}

static void threads_reset(void)
{
    threads_allow_all();
    atomic_store(&asked, 0);
    atomic_store(&refused, 0);
}

/* ---- What the tests of this file share ---- */

/* How many threads there are between two tests. */
static int resting;

static duet_pool *open_with(duet_pool_config config)
{
    duet_pool *pool;
    must_equal(duet_pool_open(&pool, &config), 0);
    return pool;
}

static duet_pool_stats stats_of(const duet_pool *pool)
{
    duet_pool_stats stats;
    duet_pool_stats_get(pool, &stats);
    return stats;
}

static void await_workers(const duet_pool *pool, unsigned n)
{
    duet_deadline by = SURELY;
    while (stats_of(pool).workers != n) {
        must(duet_now_ns() < by.ns);
        sched_yield();
    }
}

static void await_waiting(const duet_pool *pool, unsigned n)
{
    duet_deadline by = SURELY;
    while (stats_of(pool).blocked_in_wait != n) {
        must(duet_now_ns() < by.ns);
        sched_yield();
    }
}

static void let_others_run(void)
{
    for (int i = 0; i < 100; i++)
        sched_yield();
}

struct tally {
    atomic_int ran, dropped;
};

static duet_result tally_run(void *arg)
{
    atomic_fetch_add(&((struct tally *)arg)->ran, 1);
    return duet_i64(atomic_load(&((struct tally *)arg)->dropped));
}

static void tally_drop(void *arg)
{
    atomic_fetch_add(&((struct tally *)arg)->dropped, 1);
}

static const duet_opts tally_opts = {.drop = tally_drop};
static const duet_opts urgent = {.priority = 1};

static void must_tally(struct tally *tally, int ran, int dropped)
{
    must_equal(atomic_load(&tally->ran), ran);
    must_equal(atomic_load(&tally->dropped), dropped);
}

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

/* One job at a gate. */
struct holder {
    struct gate gate;
    duet_future *f;
    atomic_bool released;
};

static void hold_with(struct holder *h, duet_pool *pool, const duet_opts *opts)
{
    h->gate = (struct gate)GATE_INIT;
    atomic_init(&h->released, false);
    h->f = duet_pool_submit_with(pool, gate_pass_job, &h->gate, opts);
    gate_await_arrivals(&h->gate, 1);
}

static void release(struct holder *h)
{
    atomic_store(&h->released, true);
    gate_open(&h->gate);
    must_equal(finish(h->f).err, 0);
}

/* ---- Opening ---- */

/* pool.h: -EAGAIN with a line in the log, and those that had started are gone. */
thread_test(a_pool_that_cannot_have_its_least_is_not_opened)
{
    for (int round = 0; round < 40; round++) {
        int n = round % 4;
        duet_pool *pool = NULL;
        duet_pool_config config = {.workers_min = 4, .workers_max = 8, .name = "ann"};
        threads_reset();
        threads_allow(n);
        log_capture();
        must_equal(duet_pool_open(&pool, &config), -EAGAIN);
        must(log_has("thread"));
        must(atomic_load(&asked) > n);
        await_threads(resting);
        threads_allow_all();
        must_equal(duet_pool_open(&pool, &config), 0);
        must_equal(finish(duet_pool_submit(pool, return_ok, NULL)).err, 0);
        must_equal(stats_of(pool).threads_refused, 0);
        close_pool(pool);
        await_threads(resting);
    }
}

/* pool.h: a pool that must have no threads needs none to be opened. */
thread_test(a_pool_without_a_least_is_opened_though_there_are_no_threads)
{
    threads_reset();
    threads_allow(0);
    duet_pool *pool = open_with((duet_pool_config){.workers_max = 2});
    must_equal(atomic_load(&asked), 0);
    must_equal(duet_pool_drain(pool, SURELY, NULL), 0);
    close_pool(pool);
    threads_allow_all();
}

/* ---- Submitting ---- */

/* pool.h: there is no worker that could come to it, so it is refused, at once. */
thread_test(a_job_for_which_no_thread_can_be_had_is_refused)
{
    duet_pool *pool = open_with((duet_pool_config){.workers_max = 2, .idle_ns = 1});
    for (int round = 1; round <= 20; round++) {
        struct tally tally = {0}, later = {0};
        duet_result r;
        threads_reset();
        threads_allow(0);
        duet_future *f = duet_pool_submit_with(pool, tally_run, &tally, &tally_opts);
        must(duet_future_settled(f));
        must_tally(&tally, 0, 1);
        must_equal(finish(f).err, -EAGAIN);
        duet_opts opts = tally_opts;
        opts.priority = 1;
        must_equal(duet_offload_with(pool, tally_run, &tally, &opts, SURELY, &r), 0);
        must_equal(r.err, -EAGAIN);
        must_tally(&tally, 0, 2);
        duet_pool_stats stats = stats_of(pool);
        must_equal(stats.queued, 0);
        must_equal(stats.busy, 0);
        must_equal(stats.workers, 0);
        must_equal(stats.submitted, round - 1);
        must_equal(stats.refused, 2 * round);
        must_equal(stats.threads_refused, 2 * round);
        must_equal(stats.threads_started, round - 1);
        threads_allow_all();
        f = duet_pool_submit_with(pool, tally_run, &later, &tally_opts);
        must_equal(finish(f).err, 0);
        must_tally(&later, 1, 1);
        must_tally(&tally, 0, 2);
        await_workers(pool, 0);
    }
    close_pool(pool);
}

static duet_result offload_in_vain(void *arg)
{
    duet_pool *pool = arg;
    struct tally tally = {0};
    duet_result r;
    must_equal(duet_offload_with(pool, tally_run, &tally, &tally_opts, SURELY, &r), 0);
    must_equal(r.err, -EAGAIN);
    must_tally(&tally, 0, 1);
    threads_allow_all();
    must_equal(duet_offload_with(pool, tally_run, &tally, &tally_opts, SURELY, &r), 0);
    must_equal(r.err, 0);
    must_tally(&tally, 1, 2);
    return duet_ok();
}

/* bridge.h: a refusal is the result of an offload. */
thread_test(a_coroutine_is_told_that_no_thread_can_be_had)
{
    threads_reset();
    duet_pool *pool = open_pool(2);
    threads_allow(0);
    run_in_coroutine(offload_in_vain, pool);
    close_pool(pool);
}

/* pool.h: the worker that there is comes to it. */
thread_test(a_job_waits_for_the_only_worker_if_no_further_one_can_be_had)
{
    duet_pool *pool = open_pool(3);
    for (int round = 0; round < 20; round++) {
        struct holder holder;
        threads_reset();
        threads_allow(round == 0 ? 1 : 0);
        uint64_t before = stats_of(pool).threads_refused;
        hold_with(&holder, pool, NULL);
        duet_future *fs[3];
        for (int i = 0; i < 3; i++) {
            fs[i] = duet_pool_submit(pool, run_after, &holder.released);
            must(!duet_future_settled(fs[i]));
        }
        let_others_run();
        duet_pool_stats stats = stats_of(pool);
        must_equal(stats.workers, 1);
        must_equal(stats.busy, 1);
        must_equal(stats.queued, 3);
        must_equal(stats.refused, 0);
        must(stats.threads_refused > before);
        must_equal(stats.threads_refused - before, atomic_load(&refused));
        release(&holder);
        for (int i = 0; i < 3; i++)
            must_equal(finish(fs[i]).err, 0);
    }
    threads_allow_all();
    must_equal(stats_of(pool).workers_peak, 1);
    must_equal(stats_of(pool).threads_started, 1);
    close_pool(pool);
}

/* pool.h: threads come with work, also with the work that comes later. */
thread_test(a_thread_comes_with_the_next_job_when_it_can_be_had_again)
{
    duet_pool *pool = open_pool(2);
    struct holder holder;
    threads_reset();
    threads_allow(1);
    hold_with(&holder, pool, NULL);
    duet_future *first = duet_pool_submit(pool, return_ok, NULL);
    must(!duet_future_settled(first));
    threads_allow_all();
    duet_future *second = duet_pool_submit(pool, return_ok, NULL);
    must_equal(finish(second).err, 0); /* while the holder runs */
    must_equal(finish(first).err, 0);
    must_equal(stats_of(pool).workers, 2);
    release(&holder);
    close_pool(pool);
}

/* pool.h: one thread does for both lanes, whatever is reserved. */
thread_test(the_only_thread_that_can_be_had_runs_jobs_of_both_lanes)
{
    static const duet_opts *const first[] = {NULL, &urgent, NULL, &urgent};
    static const duet_opts *const second[] = {&urgent, NULL, NULL, &urgent};
    for (int i = 0; i < 4; i++) {
        duet_pool *pool = open_with((duet_pool_config){.workers_max = 3, .workers_reserved = 1});
        struct holder holder;
        threads_reset();
        threads_allow(1);
        hold_with(&holder, pool, first[i]);
        duet_future *f = duet_pool_submit_with(pool, run_after, &holder.released, second[i]);
        must(!duet_future_settled(f));
        let_others_run();
        must_equal(stats_of(pool).queued, 1);
        release(&holder);
        must_equal(finish(f).err, 0);
        must_equal(stats_of(pool).workers_peak, 1);
        threads_allow_all();
        close_pool(pool);
    }
}

/* pool.h: draining and closing need no threads. */
static void close_plainly(void *pool)
{
    close_pool(pool);
}

thread_test(a_pool_that_can_have_no_further_threads_is_drained_and_closed)
{
    for (int round = 0; round < 20; round++) {
        bool drains = round % 2 == 0;
        duet_pool *pool = open_pool(2);
        struct thread closer;
        struct holder holder;
        struct tally tally = {0};
        threads_reset();
        threads_allow(1);
        hold_with(&holder, pool, NULL);
        duet_future *f = duet_pool_submit_with(pool, tally_run, &tally, &tally_opts);
        if (drains) {
            must_equal(duet_future_wait(f, DUET_NOW, NULL), -ETIME);
            release(&holder);
            must_equal(duet_pool_drain(pool, SURELY, NULL), 0);
            must_tally(&tally, 1, 1);
            close_pool(pool);
            must_equal(finish(f).err, 0);
        } else {
            thread_start(&closer, close_plainly, pool);
            must_equal(finish(f).err, -ECANCELED); /* though the holder runs on */
            must_tally(&tally, 0, 1);
            release(&holder);
            thread_join(&closer);
        }
    }
    threads_allow_all();
}

/* ---- Waiting ---- */

/* pool.h: no spare can be had; the job that waits ends all the same, and then the queued run. */
thread_test(a_job_whose_spare_is_refused_ends_and_what_is_queued_runs)
{
    for (int round = 0; round < 20; round++) {
        duet_pool *pool = open_pool(1);
        struct holder holder;
        struct tally tally = {0};
        duet_future *promise = open_promise(), *waiter, *fs[3];
        threads_reset();
        threads_allow(1);
        hold_with(&holder, pool, NULL);
        waiter = duet_pool_submit(pool, wait_for, promise);
        for (int i = 0; i < 3; i++) {
            fs[i] = duet_pool_submit_with(pool, tally_run, &tally, &tally_opts);
            must(!duet_future_settled(fs[i]));
        }
        release(&holder);
        let_others_run();
        must_tally(&tally, 0, 0); /* where could they run? */
        must_equal(stats_of(pool).workers, 1);
        settle(promise);
        must_equal(finish(waiter).err, 0);
        for (int i = 0; i < 3; i++)
            must_equal(finish(fs[i]).err, 0);
        must_tally(&tally, 3, 3);
        duet_pool_stats stats = stats_of(pool);
        must_equal(stats.threads_refused, atomic_load(&refused));
        must_equal(stats.threads_started, 1);
        must_equal(stats.workers_peak, 1);
        must_equal(stats.refused, 0);
        threads_allow_all();
        duet_future_unref(promise);
        close_pool(pool);
    }
}

/* pool.h: a job that comes while the only worker waits is refused, or runs when that has ended. */
thread_test(a_job_that_comes_while_the_only_worker_waits_is_answered)
{
    duet_pool *pool = open_pool(1);
    for (int round = 0; round < 20; round++) {
        struct tally tally = {0};
        duet_future *promise = open_promise();
        threads_reset();
        threads_allow(round == 0 ? 1 : 0);
        duet_future *waiter = duet_pool_submit(pool, wait_for, promise);
        await_waiting(pool, 1);
        duet_future *f = duet_pool_submit_with(pool, tally_run, &tally, &tally_opts);
        bool was_refused = duet_future_settled(f);
        must(atomic_load(&refused) > 0);
        must_tally(&tally, 0, was_refused);
        settle(promise);
        must_equal(finish(waiter).err, 0);
        must_equal(finish(f).err, was_refused ? -EAGAIN : 0);
        must_tally(&tally, !was_refused, 1);
        must_equal(stats_of(pool).workers, 1);
        duet_future_unref(promise);
    }
    threads_allow_all();
    close_pool(pool);
}

struct trust {
    struct thread thread;
    duet_pool *pool;
    struct gate refusal;
    duet_future *first, *others[5];
};

static void submit_first(void *arg)
{
    struct trust *trust = arg;
    trust->first = duet_pool_submit(trust->pool, return_ok, NULL);
}

/* A thread that submits stands in a start that will be refused. */
static void stand_in_a_start(struct trust *trust, duet_pool *pool)
{
    trust->pool = pool;
    trust->refusal = (struct gate)GATE_INIT;
    threads_allow(0);
    atomic_store(&refused_behind, &trust->refusal);
    thread_start(&trust->thread, submit_first, trust);
    gate_await_arrivals(&trust->refusal, 1);
}

static void submit_others(struct trust *trust)
{
    for (int i = 0; i < 5; i++)
        trust->others[i] = duet_pool_submit(trust->pool, return_ok, NULL);
}

static void refuse_the_start(struct trust *trust)
{
    atomic_store(&refused_behind, NULL);
    gate_open(&trust->refusal);
    thread_join(&trust->thread);
}

/* pool.h: a job waits for no other's end while a worker is idle, though another was to come. */
thread_test(who_goes_idle_in_trust_of_a_thread_that_is_refused_runs_what_came)
{
    struct trust trust;
    struct gate gate = GATE_INIT;
    duet_pool *pool = open_with((duet_pool_config){.workers_min = 1, .workers_max = 2});
    threads_reset();
    duet_future *held = duet_pool_submit(pool, gate_pass_job, &gate);
    gate_await_arrivals(&gate, 1);
    stand_in_a_start(&trust, pool);
    gate_open(&gate);
    must_equal(finish(held).err, 0);
    while (stats_of(pool).completed < 2) /* the one for which the start is, too */
        sched_yield();
    let_others_run();
    submit_others(&trust);
    refuse_the_start(&trust);
    must_equal(finish(trust.first).err, 0);
    for (int i = 0; i < 5; i++)
        must_equal(finish(trust.others[i]).err, 0);
    threads_allow_all();
    close_pool(pool);
}

/* pool.h: no thread can be started, and there is no worker that could come to them. */
thread_test(what_came_in_trust_of_a_thread_that_is_refused_is_refused_with_it)
{
    struct trust trust;
    duet_future *promise = open_promise();
    duet_pool *pool =
        open_with((duet_pool_config){.workers_min = 1, .workers_max = 1, .spares_max = 1});
    threads_reset();
    duet_future *waiter = duet_pool_submit(pool, wait_for, promise);
    await_waiting(pool, 1);
    stand_in_a_start(&trust, pool);
    submit_others(&trust);
    refuse_the_start(&trust);
    must_equal(finish(trust.first).err, -EAGAIN);
    for (int i = 0; i < 5; i++)
        must_equal(finish(trust.others[i]).err, -EAGAIN);
    settle(promise);
    must_equal(finish(waiter).err, 0);
    duet_future_unref(promise);
    threads_allow_all();
    close_pool(pool);
}

static duet_result nap(void *arg)
{
    (void)arg;
    must_equal(duet_sleep(duet_us(200)), 0);
    return duet_ok();
}

/* pool.h: many that wait, one after the other, on the one thread that there is. */
thread_test(jobs_that_sleep_run_on_the_only_thread_that_can_be_had)
{
    enum {
        COUNT = 100
    };
    duet_future *fs[COUNT];
    threads_reset();
    duet_pool *pool = open_with((duet_pool_config){.workers_max = 1, .idle_ns = -1});
    struct holder holder;
    threads_allow(1);
    hold_with(&holder, pool, NULL);
    for (int i = 0; i < COUNT; i++)
        fs[i] = duet_pool_submit(pool, nap, NULL);
    release(&holder);
    for (int i = 0; i < COUNT; i++)
        must_equal(finish(fs[i]).err, 0);
    must_equal(stats_of(pool).workers_peak, 1);
    must_equal(stats_of(pool).threads_refused, atomic_load(&refused));
    threads_allow_all();
    close_pool(pool);
}

/* pool.h: and comes with the next job, if the system has one again. */
thread_test(a_spare_comes_with_the_next_job_when_it_can_be_had_again)
{
    duet_pool *pool = open_pool(1);
    duet_future *promise = open_promise();
    struct holder holder;
    threads_reset();
    threads_allow(1);
    hold_with(&holder, pool, NULL);
    duet_future *waiter = duet_pool_submit(pool, wait_for, promise);
    duet_future *first = duet_pool_submit(pool, return_ok, NULL);
    release(&holder);
    await_waiting(pool, 1);
    threads_allow_all();
    duet_future *second = duet_pool_submit(pool, return_ok, NULL);
    must_equal(finish(first).err, 0); /* while the waiter waits */
    must_equal(finish(second).err, 0);
    must(!duet_future_settled(waiter));
    settle(promise);
    must_equal(finish(waiter).err, 0);
    duet_future_unref(promise);
    close_pool(pool);
}

struct own {
    duet_pool *pool;
    struct tally tally;
    duet_future *inner;
};

static duet_result wait_for_own_queue(void *arg)
{
    struct own *own = arg;
    own->inner = duet_pool_submit_with(own->pool, tally_run, &own->tally, &tally_opts);
    int rc = duet_future_wait(own->inner, duet_ms(20), NULL);
    must(rc == -ETIME || rc == -EDEADLK); /* nothing but a further thread could satisfy it */
    must_tally(&own->tally, 0, 0);
    return duet_ok();
}

/* pool.h: it waits for what only a spare could run; its wait fails, and then there is a worker. */
thread_test(a_job_that_waits_for_what_only_a_spare_could_run_ends)
{
    struct own own = {.pool = open_pool(1)};
    threads_reset();
    threads_allow(1);
    must_equal(finish(duet_pool_submit(own.pool, wait_for_own_queue, &own)).err, 0);
    must_equal(finish(own.inner).err, 0);
    must_tally(&own.tally, 1, 1);
    must(stats_of(own.pool).threads_refused >= 1);
    threads_allow_all();
    close_pool(own.pool);
}

/* ---- By chance ---- */

struct submitter {
    struct thread thread;
    duet_pool *pool;
    uint64_t random;
    uint64_t accepted, refused;
};

static duet_result tally_and_nap(void *arg)
{
    must_equal(duet_sleep(duet_us(20)), 0);
    return tally_run(arg);
}

static void submit_by_chance(void *arg)
{
    struct submitter *s = arg;
    for (int round = test_rounds(1500); round > 0; round--) {
        struct tally tallies[6];
        duet_future *fs[6];
        int burst = 1 + (int)(test_random(&s->random) % 6);
        for (int i = 0; i < burst; i++) {
            duet_opts opts = {.drop = tally_drop,
                              .priority = (uint32_t)(test_random(&s->random) % 2)};
            bool naps = test_random(&s->random) % 6 == 0;
            tallies[i] = (struct tally){0};
            fs[i] = duet_pool_submit_with(s->pool, naps ? tally_and_nap : tally_run, &tallies[i],
                                          &opts);
        }
        for (int i = 0; i < burst; i++) {
            duet_result r = finish(fs[i]);
            must(r.err == 0 || r.err == -EAGAIN);
            if (r.err == 0)
                must_equal(duet_as_i64(r), 0);
            must_tally(&tallies[i], r.err == 0, 1);
            s->accepted += r.err == 0;
            s->refused += r.err != 0;
        }
        if (test_random(&s->random) % 4 == 0) {
            struct timespec moment = {.tv_nsec = (long)(test_random(&s->random) % 100000)};
            nanosleep(&moment, NULL);
        }
    }
}

static duet_result offload_by_chance(void *arg)
{
    struct submitter *s = arg;
    for (int round = test_rounds(1500); round > 0; round--) {
        struct tally tally = {0};
        duet_result r;
        must_equal(duet_offload_with(s->pool, tally_run, &tally, &tally_opts, SURELY, &r), 0);
        must(r.err == 0 || r.err == -EAGAIN);
        must_tally(&tally, r.err == 0, 1);
        s->accepted += r.err == 0;
        s->refused += r.err != 0;
        if (round % 4 == 0)
            must_equal(duet_sleep(duet_us(round % 100)), 0);
    }
    return duet_ok();
}

static void stress(int percent, unsigned max, unsigned reserved, int64_t idle_ns)
{
    enum {
        THREADS = 3,
        ALL = 5
    };
    struct submitter submitters[ALL];
    duet_future *coroutines[ALL];
    uint64_t random = test_seed(), accepted = 0, rejected = 0;
    threads_reset();
    duet_loop *loop = start_loop();
    duet_pool *pool = open_with(
        (duet_pool_config){.workers_max = max, .workers_reserved = reserved, .idle_ns = idle_ns});
    atomic_store(&chance, random);
    atomic_store(&asked, 0);
    atomic_store(&percent_refused, percent);
    for (int i = 0; i < ALL; i++) {
        submitters[i] = (struct submitter){.pool = pool, .random = test_random(&random) | 1};
        if (i < THREADS)
            thread_start(&submitters[i].thread, submit_by_chance, &submitters[i]);
        else
            coroutines[i] = duet_submit(loop, offload_by_chance, &submitters[i]);
    }
    for (int i = 0; i < ALL; i++) {
        if (i < THREADS)
            thread_join(&submitters[i].thread);
        else
            must_equal(finish(coroutines[i]).err, 0);
        accepted += submitters[i].accepted;
        rejected += submitters[i].refused;
    }
    await_workers(pool, 0);
    duet_pool_stats stats = stats_of(pool);
    must_equal(stats.submitted, accepted);
    must_equal(stats.completed, accepted);
    must_equal(stats.refused, rejected);
    must_equal(stats.busy, 0);
    must_equal(stats.queued, 0);
    must_equal(stats.threads_refused, atomic_load(&refused));
    must_equal(stats.threads_started, atomic_load(&asked) - atomic_load(&refused));
    must(percent == 100 || accepted > 0);
    must(percent < 100 || accepted == 0);
    must(stats.threads_refused > 0);
    threads_allow_all();
    must_equal(finish(duet_pool_submit(pool, return_ok, NULL)).err, 0);
    close_pool(pool);
    close_loop(loop);
    await_threads(resting);
}

/* pool.h: every future settles, either with its value or with -EAGAIN. */
thread_test(every_job_is_answered_though_half_of_the_threads_are_refused)
{
    stress(50, 4, 0, 1);
    stress(50, 3, 1, 50000);
}

thread_test(every_job_is_answered_though_most_threads_are_refused)
{
    stress(95, 2, 0, 1);
    stress(95, 1, 0, 1);
}

thread_test(every_job_is_refused_if_all_threads_are)
{
    stress(100, 4, 0, 1);
}

static void submit_few(void *arg)
{
    struct submitter *s = arg;
    struct tally tallies[4];
    duet_future *fs[4];
    for (int i = 0; i < 4; i++) {
        tallies[i] = (struct tally){0};
        fs[i] = duet_pool_submit_with(s->pool, tally_run, &tallies[i], &tally_opts);
    }
    for (int i = 0; i < 4; i++) {
        int err = finish(fs[i]).err;
        must(err == 0 || err == -EAGAIN);
        must_tally(&tallies[i], err == 0, 1);
    }
}

/* pool.h: the last worker comes to a job that was accepted on its account, else it is refused. */
thread_test(a_job_that_counts_on_a_worker_that_leaves_is_answered)
{
    duet_pool *pool = open_with((duet_pool_config){.workers_max = 2, .idle_ns = 1});
    uint64_t random = test_seed();
    for (int round = test_rounds(500); round > 0; round--) {
        struct submitter submitters[2] = {{.pool = pool}, {.pool = pool}};
        threads_reset();
        must_equal(finish(duet_pool_submit(pool, return_ok, NULL)).err, 0);
        threads_allow(0);
        for (uint64_t i = test_random(&random) % 5000; i > 0; i--)
            __asm__ volatile("" : : "r"(i));
        for (int i = 0; i < 2; i++)
            thread_start(&submitters[i].thread, submit_few, &submitters[i]);
        for (int i = 0; i < 2; i++)
            thread_join(&submitters[i].thread);
        if (round % 8 == 0) { /* once it has left there is none */
            await_workers(pool, 0);
            must_equal(finish(duet_pool_submit(pool, return_ok, NULL)).err, -EAGAIN);
        }
    }
    threads_allow_all();
    close_pool(pool);
}

/* ---- ---- */

static void end_at_once(void *arg)
{
    (void)arg;
}

/* A first thread, so that what counts threads is not misled by those that come with it. And each
 * refusal is a line in the log. */
static int prepare(void **state)
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
    log_capture();
    return 0;
}

static int clean_up(void **state)
{
    (void)state;
    log_release();
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_pool_that_cannot_have_its_least_is_not_opened),
        cmocka_unit_test(a_pool_without_a_least_is_opened_though_there_are_no_threads),
        cmocka_unit_test(a_job_for_which_no_thread_can_be_had_is_refused),
        cmocka_unit_test(a_coroutine_is_told_that_no_thread_can_be_had),
        cmocka_unit_test(a_job_waits_for_the_only_worker_if_no_further_one_can_be_had),
        cmocka_unit_test(a_thread_comes_with_the_next_job_when_it_can_be_had_again),
        cmocka_unit_test(the_only_thread_that_can_be_had_runs_jobs_of_both_lanes),
        cmocka_unit_test(a_pool_that_can_have_no_further_threads_is_drained_and_closed),
        cmocka_unit_test(a_job_whose_spare_is_refused_ends_and_what_is_queued_runs),
        cmocka_unit_test(a_job_that_comes_while_the_only_worker_waits_is_answered),
        cmocka_unit_test(who_goes_idle_in_trust_of_a_thread_that_is_refused_runs_what_came),
        cmocka_unit_test(what_came_in_trust_of_a_thread_that_is_refused_is_refused_with_it),
        cmocka_unit_test(jobs_that_sleep_run_on_the_only_thread_that_can_be_had),
        cmocka_unit_test(a_spare_comes_with_the_next_job_when_it_can_be_had_again),
        cmocka_unit_test(a_job_that_waits_for_what_only_a_spare_could_run_ends),
        cmocka_unit_test(every_job_is_answered_though_half_of_the_threads_are_refused),
        cmocka_unit_test(every_job_is_answered_though_most_threads_are_refused),
        cmocka_unit_test(every_job_is_refused_if_all_threads_are),
        cmocka_unit_test(a_job_that_counts_on_a_worker_that_leaves_is_answered),
    };
    return cmocka_run_group_tests(tests, prepare, clean_up);
}
