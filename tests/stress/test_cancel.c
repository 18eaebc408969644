/* Cancellation, deadlines and closing at every moment of a wait, from a seed. */
#include "duet_test.h"

enum {
    ROUNDS = 4000
};

static duet_loop *loop;
static duet_pool *pool;
static atomic_int drops;
static const duet_opts opts = {.name = "victim", .drop = count_drop};

/* Sits in one wait after the other until it is cancelled. */
static duet_result wait_for_ever(void *arg)
{
    (void)arg;
    for (;;) {
        duet_result r;
        int rc = duet_sleep(duet_us(50));
        if (rc == 0)
            rc = duet_offload(pool, return_ok, NULL, SURELY, &r);
        if (rc == 0 && duet_loop_self())
            rc = duet_yield();
        if (rc < 0) {
            must_equal(rc, -ECANCELED);
            must(duet_cancelled());
            must_equal(duet_sleep(SURELY), -ECANCELED); /* a level */
            duet_shield_begin();
            must_equal(duet_sleep(duet_us(20)), 0);
            duet_shield_end();
            return duet_err(rc);
        }
    }
}

static void spin_a_little(uint64_t *random)
{
    for (volatile uint64_t i = test_random(random) % 2000; i > 0; i--)
        ;
}

static void a_coroutine_is_cancelled_wherever_it_is(void **state)
{
    (void)state;
    uint64_t random = test_seed();
    int rounds = test_rounds(ROUNDS);
    const duet_pool_config config = {.workers_max = 2};
    must_equal(duet_pool_open(&pool, &config), 0);
    must_equal(duet_loop_start(&loop, NULL), 0);
    drops = 0;
    for (int i = 0; i < rounds; i++) {
        duet_result r;
        duet_future *f = duet_submit_with(loop, wait_for_ever, &drops, &opts);
        spin_a_little(&random);
        if (i % 2)
            duet_future_wait(f, duet_us((int64_t)(test_random(&random) % 100)), NULL);
        must_equal(duet_future_close(f, &r), 0);
        must_equal(r.err, -ECANCELED);
    }
    must_equal(drops, rounds);
    must_equal(duet_loop_close(loop, SURELY), 0);
    must_equal(duet_pool_close(pool, SURELY), 0);
}

static void a_job_is_cancelled_queued_or_running(void **state)
{
    (void)state;
    uint64_t random = test_seed();
    int rounds = test_rounds(ROUNDS);
    const duet_pool_config config = {.workers_max = 1}, other = {.workers_max = 2};
    duet_pool *victims;
    must_equal(duet_pool_open(&pool, &other), 0);
    must_equal(duet_pool_open(&victims, &config), 0);
    drops = 0;
    for (int i = 0; i < rounds; i++) {
        enum {
            N = 3
        };
        duet_future *fs[N];
        for (int k = 0; k < N; k++)
            fs[k] = duet_pool_submit_with(victims, wait_for_ever, &drops, &opts);
        spin_a_little(&random);
        for (int k = 0; k < N; k++)
            duet_future_cancel(fs[(k + i) % N]);
        for (int k = 0; k < N; k++) {
            duet_result r;
            must_equal(duet_future_close(fs[k], &r), 0);
            must_equal(r.err, -ECANCELED);
        }
    }
    must_equal(drops, rounds * 3);
    duet_pool_stats stats;
    duet_pool_stats_get(victims, &stats);
    must_equal(stats.submitted, stats.completed + stats.cancelled);
    must_equal(duet_pool_close(victims, SURELY), 0);
    must_equal(duet_pool_close(pool, SURELY), 0);
}

/* ---- A loop is closed while threads are inside submits ---- */

enum {
    SUBMITTERS = 4
};

struct submitter {
    duet_loop *loop;
    long tried, accepted, refused;
};

static void *submit_until_refused(void *arg)
{
    struct submitter *me = arg;
    for (bool open = true; open;) {
        duet_result r;
        me->tried++;
        duet_future *f = duet_submit_with(me->loop, return_ok, &drops, &opts);
        must_equal(duet_future_wait(f, SURELY, &r), 0); /* everybody gets an answer */
        open = r.err != -ESHUTDOWN;
        me->accepted += r.err == 0 || r.err == -ECANCELED;
        me->refused += r.err == -ESHUTDOWN;
        duet_future_unref(f);
    }
    duet_loop_unref(me->loop);
    return NULL;
}

static void closing_races_submitting(void **state)
{
    (void)state;
    uint64_t random = test_seed();
    for (int round = test_rounds(300); round > 0; round--) {
        pthread_t threads[SUBMITTERS];
        struct submitter submitters[SUBMITTERS] = {0};
        long tried = 0;
        must_equal(duet_loop_start(&loop, NULL), 0);
        drops = 0;
        for (int i = 0; i < SUBMITTERS; i++) {
            submitters[i].loop = duet_loop_ref(loop);
            must_equal(pthread_create(&threads[i], NULL, submit_until_refused, &submitters[i]), 0);
        }
        for (uint64_t i = test_random(&random) % 50; i > 0; i--)
            must_equal(duet_call(loop, return_ok, NULL, SURELY, NULL), 0);
        must_equal(duet_loop_close(loop, SURELY), 0);
        for (int i = 0; i < SUBMITTERS; i++) {
            pthread_join(threads[i], NULL);
            tried += submitters[i].tried;
            must_equal(submitters[i].tried, submitters[i].accepted + submitters[i].refused);
        }
        must_equal(drops, tried);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_coroutine_is_cancelled_wherever_it_is),
        cmocka_unit_test(a_job_is_cancelled_queued_or_running),
        cmocka_unit_test(closing_races_submitting),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
