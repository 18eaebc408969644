/* What sync.h says of bad arguments, and of rules whose breaking aborts. A program of its own: its
 * parent process has no threads. */
#include "duet_test.h"
#include "parties.h"
#include "shared.h"

#include <signal.h>

/* ---- Bad arguments ---- */

static duet_mutex mutex;
static duet_cond cond;

static int lock_null(void)
{
    return duet_mutex_lock(NULL, DUET_NEVER);
}

static int try_null(void)
{
    return duet_mutex_lock(NULL, DUET_NOW);
}

static int unlock_null(void)
{
    return duet_mutex_unlock(NULL);
}

static int cond_wait_for_null(void)
{
    return duet_cond_wait(NULL, &mutex, DUET_NEVER);
}

static int cond_wait_with_null(void)
{
    return duet_cond_wait(&cond, NULL, DUET_NEVER);
}

static int cond_signal_null(void)
{
    duet_cond_signal(NULL);
    return -EINVAL;
}

static int cond_broadcast_null(void)
{
    duet_cond_broadcast(NULL);
    return -EINVAL;
}

static int sem_init_null(void)
{
    duet_sem_init(NULL, 1);
    return -EINVAL;
}

static int sem_wait_null(void)
{
    return duet_sem_wait(NULL, DUET_NEVER);
}

static int sem_post_null(void)
{
    return duet_sem_post(NULL);
}

static int event_wait_null(void)
{
    return duet_event_wait(NULL, DUET_NEVER);
}

static int event_set_null(void)
{
    duet_event_set(NULL);
    return -EINVAL;
}

static int event_clear_null(void)
{
    duet_event_clear(NULL);
    return -EINVAL;
}

static int event_is_set_null(void)
{
    return duet_event_is_set(NULL) ? 1 : -EINVAL;
}

static int barrier_init_null(void)
{
    return duet_barrier_init(NULL, 1);
}

static int barrier_init_for_nobody(void)
{
    duet_barrier b;
    return duet_barrier_init(&b, 0);
}

static int barrier_wait_null(void)
{
    return duet_barrier_wait(NULL, DUET_NEVER);
}

static int barrier_wait_for_one_never_set_up(void)
{
    static duet_barrier never;
    return duet_barrier_wait(&never, DUET_NEVER);
}

static int barrier_try_one_never_set_up(void)
{
    static duet_barrier never;
    return duet_barrier_wait(&never, DUET_NOW);
}

static int barrier_abort_null(void)
{
    duet_barrier_abort(NULL);
    return -EINVAL;
}

/* sync.h: -EINVAL: an argument is bad; the log says which. */
thread_test(a_bad_argument_is_einval_and_a_line_in_the_log)
{
    static const struct {
        const char *function;
        int (*call)(void);
    } cases[] = {{"duet_mutex_lock", lock_null},
                 {"duet_mutex_lock", try_null},
                 {"duet_mutex_unlock", unlock_null},
                 {"duet_cond_wait", cond_wait_for_null},
                 {"duet_cond_wait", cond_wait_with_null},
                 {"duet_cond_signal", cond_signal_null},
                 {"duet_cond_broadcast", cond_broadcast_null},
                 {"duet_sem_init", sem_init_null},
                 {"duet_sem_wait", sem_wait_null},
                 {"duet_sem_post", sem_post_null},
                 {"duet_event_wait", event_wait_null},
                 {"duet_event_set", event_set_null},
                 {"duet_event_clear", event_clear_null},
                 {"duet_event_is_set", event_is_set_null},
                 {"duet_barrier_init", barrier_init_null},
                 {"duet_barrier_init", barrier_init_for_nobody},
                 {"duet_barrier_wait", barrier_wait_null},
                 {"duet_barrier_wait", barrier_wait_for_one_never_set_up},
                 {"duet_barrier_wait", barrier_try_one_never_set_up},
                 {"duet_barrier_abort", barrier_abort_null}};
    int failed = 0;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        log_capture();
        int rc = cases[i].call();
        int lines = log_count(cases[i].function), all = log_count("");
        log_release();
        if (rc != -EINVAL || lines != 1 || all != 1) {
            fprintf(stderr, "case %zu, %s: %d, %d lines of %d\n", i, cases[i].function, rc, lines,
                    all);
            failed++;
        }
    }
    assert_int_equal(failed, 0);
}

/* A condition without its argument has not let go of the mutex either. */
thread_test(a_wait_with_a_bad_argument_has_no_effect)
{
    log_capture();
    must_equal(duet_mutex_lock(&mutex, DUET_NOW), 0);
    must_equal(duet_cond_wait(NULL, &mutex, DUET_NEVER), -EINVAL);
    must_equal(duet_mutex_unlock(&mutex), 0);
    log_release();
}

/* ---- Ending as a holder ---- */

static const char unlocks[] = "unlocks it before it ends";
static duet_mutex other;

static duet_result end_as_holder(void *unused)
{
    (void)unused;
    must_equal(duet_mutex_lock(&mutex, DUET_NEVER), 0);
    return duet_ok();
}

static duet_result end_as_holder_of_one_of_two(void *unused)
{
    (void)unused;
    must_equal(duet_mutex_lock(&mutex, DUET_NEVER), 0);
    must_equal(duet_mutex_lock(&other, DUET_NEVER), 0);
    must_equal(duet_mutex_unlock(&mutex), 0);
    return duet_ok();
}

static duet_result end_after_a_condition(void *unused)
{
    (void)unused;
    must_equal(duet_mutex_lock(&mutex, DUET_NEVER), 0);
    must_equal(duet_cond_wait(&cond, &mutex, duet_ms(1)), -ETIME);
    return duet_ok();
}

static duet_event locked;

static duet_result end_cancelled_as_holder(void *unused)
{
    (void)unused;
    must_equal(duet_mutex_lock(&mutex, DUET_NEVER), 0);
    duet_event_set(&locked);
    return duet_err(duet_sleep(DUET_NEVER));
}

static duet_result hold_then_hand_over(void *unused)
{
    (void)unused;
    must_equal(duet_mutex_lock(&mutex, DUET_NEVER), 0);
    duet_event_set(&locked);
    must_equal(duet_sleep(duet_ms(20)), 0);
    must_equal(duet_mutex_unlock(&mutex), 0);
    must_equal(duet_sleep(DUET_NEVER), 0);
    return duet_ok();
}

static duet_result end_as_who_was_handed_it(void *unused)
{
    (void)unused;
    duet_future_unref(duet_pool_submit(duet_pool_default(), hold_then_hand_over, NULL));
    must_equal(duet_event_wait(&locked, DUET_NEVER), 0);
    must_equal(duet_mutex_lock(&mutex, DUET_NEVER), 0);
    return duet_ok();
}

/* None of the following returns. */

static void as_main_coroutine(void *fn)
{
    alarm(60);
    (void)duet_run(*(duet_fn **)fn, NULL, NULL);
}

static void as_coroutine(void *fn)
{
    alarm(60);
    (void)finish(duet_submit(start_loop(), *(duet_fn **)fn, NULL));
}

static void as_job(void *fn)
{
    alarm(60);
    (void)finish(duet_pool_submit(open_pool(1), *(duet_fn **)fn, NULL));
}

static void cancel_when_it_holds(duet_future *f)
{
    alarm(60);
    must_equal(duet_event_wait(&locked, SURELY), 0);
    duet_future_cancel(f);
    (void)finish(f);
}

static void as_cancelled_coroutine(void *unused)
{
    (void)unused;
    cancel_when_it_holds(duet_submit(start_loop(), end_cancelled_as_holder, NULL));
}

static void as_cancelled_job(void *unused)
{
    (void)unused;
    cancel_when_it_holds(duet_pool_submit(open_pool(1), end_cancelled_as_holder, NULL));
}

static void *thread_body(void *fn)
{
    (void)(*(duet_fn **)fn)(NULL);
    return NULL;
}

static void as_thread(void *fn)
{
    pthread_t id;
    alarm(60);
    must_equal(pthread_create(&id, NULL, thread_body, fn), 0);
    must_equal(pthread_join(id, NULL), 0);
}

static duet_result exit_as_holder(void *unused)
{
    (void)end_as_holder(unused);
    pthread_exit(NULL);
}

/* A job that runs in the thread that submits it. */
static void as_job_in_place(void *fn)
{
    struct gate gate = GATE_INIT;
    duet_pool *pool;
    duet_pool_config config = {.workers_max = 1, .queue_max = 1, .when_full = DUET_FULL_RUN_HERE};
    alarm(60);
    must_equal(duet_pool_open(&pool, &config), 0);
    duet_future_unref(duet_pool_submit(pool, gate_pass_job, &gate));
    gate_await_arrivals(&gate, 1);
    for (int i = 0; i < 2; i++)
        duet_future_unref(duet_pool_submit(pool, i ? *(duet_fn **)fn : return_ok, NULL));
}

/* sync.h: it unlocks before it ends, else the program aborts. */
thread_test(who_ends_as_the_holder_of_a_mutex_aborts)
{
    static void (*const places[])(void *) = {as_main_coroutine, as_coroutine, as_job, as_thread};
    static duet_fn *const works[] = {end_as_holder, end_as_holder_of_one_of_two,
                                     end_after_a_condition, end_as_who_was_handed_it};
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++)
        for (size_t k = 0; k < sizeof works / sizeof works[0]; k++) {
            duet_fn *fn = works[k];
            expect_death(places[i], &fn, SIGABRT, unlocks);
        }
}

thread_test(who_ends_cancelled_as_the_holder_of_a_mutex_aborts)
{
    expect_death(as_cancelled_coroutine, NULL, SIGABRT, unlocks);
    expect_death(as_cancelled_job, NULL, SIGABRT, unlocks);
}

thread_test(a_thread_that_exits_as_the_holder_of_a_mutex_aborts)
{
    duet_fn *fn = exit_as_holder;
    expect_death(as_thread, &fn, SIGABRT, unlocks);
}

thread_test(a_job_in_place_that_ends_as_the_holder_of_a_mutex_aborts)
{
    duet_fn *fn = end_as_holder;
    expect_death(as_job_in_place, &fn, SIGABRT, unlocks);
}

/* ---- The mutex of a condition that can never be had ---- */

struct twin {
    duet_loop *loop; /* where it runs, or */
    duet_pool *pool;
    struct twin *other; /* whose handle it closes */
    duet_future *f;
    duet_event asleep;
};

static duet_result sleep_in_condition(void *arg)
{
    struct twin *twin = arg;
    must_equal(duet_mutex_lock(&mutex, DUET_NEVER), 0);
    duet_event_set(&twin->asleep); /* it is when the other one has the mutex */
    int rc = duet_cond_wait(&cond, &mutex, DUET_NEVER);
    fprintf(stderr, "came back with %d\n", rc);
    _exit(42);
}

static duet_result close_the_other(void *arg)
{
    struct twin *twin = arg;
    must_equal(duet_mutex_lock(&mutex, DUET_NEVER), 0);
    int rc = duet_future_close(twin->other->f, NULL);
    fprintf(stderr, "came back with %d\n", rc);
    _exit(42);
}

static void start_twin(struct twin *twin, duet_fn *fn)
{
    const duet_opts opts = {.name = "twin"};
    twin->f = twin->loop ? duet_submit_with(twin->loop, fn, twin, &opts)
                         : duet_pool_submit_with(twin->pool, fn, twin, &opts);
}

static void close_who_needs_what_the_closer_holds(void *kinds)
{
    static struct twin twins[2];
    const char *kind = kinds;
    alarm(60);
    for (int i = 0; i < 2; i++) {
        twins[i].other = &twins[!i];
        if (kind[i] == 'c')
            twins[i].loop = start_loop();
        else
            twins[i].pool = open_pool(1);
    }
    start_twin(&twins[0], sleep_in_condition);
    must_equal(duet_event_wait(&twins[0].asleep, SURELY), 0);
    start_twin(&twins[1], close_the_other);
    for (;;)
        (void)duet_sleep(SURELY);
}

/* sync.h: if that can never come, the program aborts with the chain. The only other wait in the
 * circle ends ownership. */
thread_test(a_circle_through_the_mutex_of_a_condition_that_no_wait_can_leave_aborts)
{
    expect_death(close_who_needs_what_the_closer_holds, (char[]){"cc"}, SIGABRT,
                 "coroutine 'twin' waits for");
    expect_death(close_who_needs_what_the_closer_holds, (char[]){"jj"}, SIGABRT, "which waits for");
    expect_death(close_who_needs_what_the_closer_holds, (char[]){"cj"}, SIGABRT, "which waits for");
    expect_death(close_who_needs_what_the_closer_holds, (char[]){"jc"}, SIGABRT, "which waits for");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_bad_argument_is_einval_and_a_line_in_the_log),
        cmocka_unit_test(a_wait_with_a_bad_argument_has_no_effect),
        cmocka_unit_test(who_ends_as_the_holder_of_a_mutex_aborts),
        cmocka_unit_test(who_ends_cancelled_as_the_holder_of_a_mutex_aborts),
        cmocka_unit_test(a_thread_that_exits_as_the_holder_of_a_mutex_aborts),
        cmocka_unit_test(a_job_in_place_that_ends_as_the_holder_of_a_mutex_aborts),
        cmocka_unit_test(a_circle_through_the_mutex_of_a_condition_that_no_wait_can_leave_aborts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
