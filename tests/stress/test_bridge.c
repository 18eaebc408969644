/* Random work between threads, loops and pools, from a seed: everything accepted ends once, every
 * argument is dropped once, every order that is promised is kept, and nothing is left over. */
#include "duet_test.h"

#include <sched.h>

enum {
    LOOPS = 2,
    POOLS = 2,
    THREADS = 4,
    ROUNDS = 3000
};

static duet_loop *loops[LOOPS];
static duet_pool *pools[POOLS];
static atomic_long submitted, dropped, results_made, results_dropped, callbacks_promised,
    callbacks_ran;

/* One piece of random work: what it does next, how deep it may go on. */
struct job {
    uint64_t random;
    int depth;
};

static void drop_job(void *job)
{
    atomic_fetch_add(&dropped, 1);
    free(job);
}

static void drop_result(void *result)
{
    atomic_fetch_add(&results_dropped, 1);
    free(result);
}

static struct job *new_job(uint64_t *random, int depth)
{
    struct job *job = malloc(sizeof *job);
    must(job != NULL);
    *job = (struct job){test_random(random), depth};
    atomic_fetch_add(&submitted, 1);
    return job;
}

static duet_deadline random_deadline(uint64_t *random)
{
    switch (test_random(random) % 4) {
    case 0:
        return DUET_NOW;
    case 1:
        return duet_us((int64_t)(test_random(random) % 300));
    default:
        return SURELY;
    }
}

static duet_result random_work(void *arg);

static const duet_opts opts = {.name = "random", .drop = drop_job, .drop_result = drop_result};

static duet_future *start_random(uint64_t *random, int depth)
{
    struct job *job = new_job(random, depth);
    if (test_random(random) % 2)
        return duet_submit_with(loops[test_random(random) % LOOPS], random_work, job, &opts);
    return duet_pool_submit_with(pools[test_random(random) % POOLS], random_work, job, &opts);
}

static void callback_ran(void *arg)
{
    (void)arg;
    atomic_fetch_add(&callbacks_ran, 1);
}

static void end_random(duet_future *f, uint64_t *random)
{
    duet_result r;
    switch (test_random(random) % 5) {
    case 0:
        duet_future_unref(f);
        return;
    case 1:
        must(duet_future_close(f, &r) == 0);
        if (r.kind == DUET_PTR && r.err == 0)
            drop_result(r.as.ptr);
        return;
    case 2:
        duet_future_wait(f, random_deadline(random), NULL);
        duet_future_cancel(f);
        break;
    case 3:
        if (duet_future_then(f, loops[test_random(random) % LOOPS], callback_ran, NULL,
                             callback_ran) == 0)
            atomic_fetch_add(&callbacks_promised, 1);
        break;
    default:
        duet_future_wait(f, random_deadline(random), NULL);
    }
    duet_future_unref(f);
}

static void check_call(int rc, duet_result r)
{
    must(rc == 0 || rc == -ETIME || rc == -ECANCELED);
    must(rc == 0 || r.err == -ECANCELED);
    if (r.kind == DUET_PTR && r.err == 0)
        drop_result(r.as.ptr);
}

static void call_loop(uint64_t *random)
{
    duet_result r;
    int rc = duet_call_with(loops[test_random(random) % LOOPS], random_work, new_job(random, 0),
                            &opts, random_deadline(random), &r);
    check_call(rc, r);
}

static void call_random(uint64_t *random, int depth)
{
    duet_result r;
    if (test_random(random) % 2) {
        call_loop(random);
        return;
    }
    int rc = duet_offload_with(pools[test_random(random) % POOLS], random_work,
                               new_job(random, depth), &opts, random_deadline(random), &r);
    check_call(rc, r);
}

static void group_random(uint64_t *random, int depth)
{
    duet_group group = DUET_GROUP_INIT;
    for (uint64_t i = test_random(random) % 4; i > 0; i--) {
        if (test_random(random) % 2)
            duet_group_spawn(&group, loops[test_random(random) % LOOPS], random_work,
                             new_job(random, depth), &opts);
        else
            duet_group_add(&group, start_random(random, depth));
    }
    if (test_random(random) % 4 == 0)
        duet_group_cancel(&group);
    if (test_random(random) % 2)
        duet_group_wait(&group, random_deadline(random), NULL);
    must_equal(duet_group_close(&group), 0);
}

static void many_random(uint64_t *random, int depth)
{
    enum {
        N = 5
    };
    duet_future *fs[N];
    size_t index = N + 1;
    for (int i = 0; i < N; i++)
        fs[i] = start_random(random, depth);
    enum duet_until until = (enum duet_until)(test_random(random) % 3);
    int rc = duet_future_wait_many(fs, N, until, random_deadline(random), &index);
    if (rc == 0 && until == DUET_UNTIL_ANY)
        must(index < N && duet_future_settled(fs[index]));
    if (rc == 0 && until == DUET_UNTIL_ALL)
        for (int i = 0; i < N; i++)
            must(duet_future_settled(fs[i]));
    for (int i = 0; i < N; i++)
        duet_future_unref(fs[i]);
}

static duet_result random_work(void *arg)
{
    struct job *job = arg;
    uint64_t *random = &job->random;
    if (job->depth > 0 && duet_loop_self())
        switch (test_random(random) % 8) {
        case 0:
            end_random(start_random(random, job->depth - 1), random);
            break;
        case 1:
            call_random(random, 0);
            break;
        case 2:
            group_random(random, 0);
            break;
        case 3:
            many_random(random, 0);
            break;
        default:
            duet_sleep(duet_us((int64_t)(test_random(random) % 200)));
        }
    else if (job->depth > 0) /* a job: one that waited for its own pool could wait for itself */
        call_loop(random);
    if (test_random(random) % 3)
        return duet_err(test_random(random) % 8 ? 0 : -ECANCELED);
    void *result = malloc(16);
    must(result != NULL);
    atomic_fetch_add(&results_made, 1);
    return duet_ptr(result);
}

static void *random_thread(void *arg)
{
    uint64_t random = *(uint64_t *)arg;
    for (int i = test_rounds(ROUNDS); i > 0; i--)
        switch (test_random(&random) % 5) {
        case 0:
            call_random(&random, 2);
            break;
        case 1:
            group_random(&random, 2);
            break;
        case 2:
            many_random(&random, 1);
            break;
        default:
            end_random(start_random(&random, 2), &random);
        }
    return NULL;
}

static void open_all(void)
{
    for (int i = 0; i < LOOPS; i++) {
        const duet_loop_config config = {.inbox_max = i == 0 ? 4 : 0, .spin_us = i == 0 ? -1 : 0};
        must_equal(duet_loop_start(&loops[i], &config), 0);
    }
    for (int i = 0; i < POOLS; i++) {
        const duet_pool_config config = {.workers_max = i == 0 ? 1 : 4, .queue_max = 0};
        must_equal(duet_pool_open(&pools[i], &config), 0);
    }
}

static void everything_ends_once(void **state)
{
    (void)state;
    uint64_t seed = test_seed(), seeds[THREADS];
    pthread_t threads[THREADS];
    open_all();
    for (int i = 0; i < THREADS; i++) {
        seeds[i] = test_random(&seed);
        must_equal(pthread_create(&threads[i], NULL, random_thread, &seeds[i]), 0);
    }
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    for (int i = 0; i < LOOPS; i++)
        duet_loop_ref(loops[i]); /* jobs may still submit while we close */
    for (int i = 0; i < POOLS; i++)
        must_equal(duet_pool_drain(pools[i], SURELY, NULL), 0);
    for (int i = 0; i < LOOPS; i++)
        must_equal(duet_loop_close(loops[i], SURELY), 0);
    for (int i = 0; i < POOLS; i++)
        must_equal(duet_pool_close(pools[i], SURELY), 0);
    for (int i = 0; i < LOOPS; i++)
        duet_loop_unref(loops[i]);
    must_equal(dropped, submitted);
    must_equal(results_dropped, results_made);
    must_equal(callbacks_ran, callbacks_promised);
}

/* ---- First in, first out for each producer, in every form of submission ---- */

enum {
    ITEMS = 20000,
    PRODUCERS = 4
};

struct producer {
    long next_sent;
    long last_seen; /* the loop's thread only */
};

struct item {
    struct producer *producer;
    long number;
};

static struct item items[PRODUCERS][ITEMS];
static struct producer producers[PRODUCERS];
static duet_loop *fifo_loop;

static void see(void *arg)
{
    struct item *item = arg;
    must_equal(item->number, item->producer->last_seen + 1);
    item->producer->last_seen = item->number;
}

static duet_result see_in_coroutine(void *arg)
{
    see(arg);
    return duet_ok();
}

static void *produce(void *arg)
{
    long p = (struct producer *)arg - producers;
    int n = test_rounds(ITEMS);
    for (int i = 0; i < n; i++) {
        items[p][i] = (struct item){&producers[p], i + 1};
        if (i / 100 % 2)
            while (duet_call_soon(fifo_loop, see, &items[p][i]) == -EAGAIN)
                sched_yield(); /* full: it never waits by itself */
        else
            duet_future_unref(duet_submit(fifo_loop, see_in_coroutine, &items[p][i]));
    }
    return NULL;
}

static void each_producer_is_first_in_first_out(void **state)
{
    (void)state;
    const duet_loop_config config = {.inbox_max = 50};
    pthread_t threads[PRODUCERS];
    must_equal(duet_loop_start(&fifo_loop, &config), 0);
    for (int i = 0; i < PRODUCERS; i++)
        must_equal(pthread_create(&threads[i], NULL, produce, &producers[i]), 0);
    for (int i = 0; i < PRODUCERS; i++)
        pthread_join(threads[i], NULL);
    must_equal(duet_call(fifo_loop, return_ok, NULL, SURELY, NULL), 0); /* behind all of them */
    must_equal(duet_loop_close(fifo_loop, SURELY), 0);
    for (int i = 0; i < PRODUCERS; i++)
        must_equal(producers[i].last_seen, test_rounds(ITEMS));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(everything_ends_once),
        cmocka_unit_test(each_producer_is_first_in_first_out),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
