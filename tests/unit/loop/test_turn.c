/* The loop alone: no bridge, no pool, no second thread. */
#include "duet_test.h"
#include "loop_impl.h"

#include <time.h>

/* Runs main_fn as the first coroutine of a loop, which then stops. */
static void run_alone(duet_fn *main_fn, void *arg, const duet_loop_config *config)
{
    duet_loop *loop;
    int threads = count_threads();
    must_equal(duet_loop_open(&loop, config), 0);
    struct duet__task *task = duet__task_new(loop, main_fn, arg, NULL);
    must(task != NULL);
    duet__port_post(loop->port, &task->node);
    must_equal(duet_loop_run(loop), 0);
    must_equal(count_threads(), threads);
    must_equal(duet_future_result(&task->work.future).err, 0);
    duet_future_unref(&task->work.future);
    must_equal(duet_loop_close(loop, DUET_NEVER), 0);
}

static duet_result stop_with(int err)
{
    duet_loop_stop(duet_loop_self());
    return duet_err(err);
}

static int order[64], order_size;

static duet_result note_order(void *number)
{
    order[order_size++] = *(int *)number;
    return duet_ok();
}

static duet_result spawns_in_order(void *arg)
{
    enum {
        N = 10
    };
    static int numbers[N];
    duet_future *fs[N];
    (void)arg;
    order_size = 0;
    for (int i = 0; i < N; i++) {
        numbers[i] = i;
        fs[i] = duet_spawn(note_order, &numbers[i]);
        must_equal(order_size, 0); /* none runs before we wait */
    }
    must_equal(duet_gather(fs, N, DUET_NEVER, NULL), 0);
    for (int i = 0; i < N; i++) {
        must_equal(order[i], i);
        duet_future_unref(fs[i]);
    }
    return stop_with(0);
}

static void coroutines_start_in_the_order_of_their_spawn(void **state)
{
    (void)state;
    run_alone(spawns_in_order, NULL, NULL);
}

struct sleeper {
    duet_deadline until;
    int number;
};

static duet_result sleep_and_note(void *arg)
{
    struct sleeper *sleeper = arg;
    must_equal(duet_sleep(sleeper->until), 0);
    must(duet_now_ns() >= sleeper->until.ns);
    order[order_size++] = sleeper->number;
    return duet_ok();
}

static duet_result sleeps_in_order(void *arg)
{
    enum {
        N = 20
    };
    static struct sleeper sleepers[N];
    duet_future *fs[N];
    int64_t now = duet_now_ns();
    (void)arg;
    order_size = 0;
    for (int i = 0; i < N; i++) {
        int place = i * 7 % N;
        sleepers[i] = (struct sleeper){{now + place * 1000000}, place};
        fs[i] = duet_spawn(sleep_and_note, &sleepers[i]);
    }
    must_equal(duet_gather(fs, N, DUET_NEVER, NULL), 0);
    for (int i = 0; i < N; i++) {
        must_equal(order[i], i);
        duet_future_unref(fs[i]);
    }
    return stop_with(0);
}

static void sleepers_wake_in_the_order_of_their_moments(void **state)
{
    (void)state;
    run_alone(sleeps_in_order, NULL, NULL);
}

static duet_result yield_for_ever(void *yields)
{
    while (duet_yield() == 0)
        ++*(long *)yields;
    return duet_ok();
}

static duet_result starves_nobody(void *arg)
{
    long yields[100] = {0};
    duet_future *fs[100];
    (void)arg;
    for (int i = 0; i < 100; i++)
        fs[i] = duet_spawn(yield_for_ever, &yields[i]);
    for (int i = 0; i < 20; i++) /* the timer is looked at though somebody is always ready */
        must_equal(duet_sleep(duet_us(100)), 0);
    long least = yields[0], most = yields[0];
    for (int i = 1; i < 100; i++) {
        least = yields[i] < least ? yields[i] : least;
        most = yields[i] > most ? yields[i] : most;
    }
    must(most - least <= 1); /* each had its turn, in turn */
    for (int i = 0; i < 100; i++)
        must_equal(duet_future_close(fs[i], NULL), 0);
    return stop_with(0);
}

static void yielding_is_fair_and_keeps_no_timer_waiting(void **state)
{
    (void)state;
    run_alone(starves_nobody, NULL, NULL);
}

static duet_result make_ready_again_and_again(void *arg)
{
    int rc = 0;
    (void)arg;
    for (long i = 0; rc == 0; i++) { /* a loop around a wait that fails at once */
        int failed = duet_future_wait(arg, DUET_NOW, NULL);
        if (failed == -ECANCELED)
            rc = failed;
        else
            must_equal(failed, -ETIME);
    }
    return duet_err(rc);
}

static duet_result failing_waits(void *arg)
{
    duet_future *never;
    (void)arg;
    must_equal(duet_future_open(&never), 0);
    duet_future *busy = duet_spawn(make_ready_again_and_again, never);
    for (int i = 0; i < 10; i++)
        must_equal(duet_sleep(duet_us(200)), 0);
    duet_result r;
    must_equal(duet_future_close(busy, &r), 0);
    must_equal(r.err, -ECANCELED);
    duet_future_unref(never);
    return stop_with(0);
}

static void a_loop_around_a_failing_wait_freezes_nothing(void **state)
{
    (void)state;
    run_alone(failing_waits, NULL, NULL);
}

static duet_result succeed_for_ever(void *settled)
{
    while (!duet_cancelled())
        must_equal(duet_future_wait(settled, DUET_NEVER, NULL), 0);
    return duet_err(-ECANCELED);
}

static duet_result succeeding_waits(void *arg)
{
    duet_future *settled;
    (void)arg;
    must_equal(duet_future_open(&settled), 0);
    must_equal(duet_future_settle(settled, duet_ok()), 0);
    duet_future *busy = duet_spawn(succeed_for_ever, settled);
    for (int i = 0; i < 10; i++)
        must_equal(duet_sleep(duet_us(200)), 0);
    must_equal(duet_future_close(busy, NULL), 0);
    duet_future_unref(settled);
    return stop_with(0);
}

static void a_loop_around_a_succeeding_wait_freezes_nothing(void **state)
{
    (void)state;
    run_alone(succeeding_waits, NULL, NULL);
}

static duet_result many_timers(void *arg)
{
    enum {
        N = 500
    };
    static struct sleeper sleepers[N];
    static duet_future *fs[N];
    int cancelled = 0;
    (void)arg;
    for (int i = 0; i < N; i++)
        fs[i] = duet_spawn(sleep_long, &sleepers[i]);
    must_equal(duet_yield(), 0);
    for (int i = 0; i < N; i++) {
        duet_result r;
        must_equal(duet_future_close(fs[i * 7 % N], &r), 0);
        cancelled += r.err == -ECANCELED;
    }
    must_equal(cancelled, N);
    must_equal(duet_loop_self()->timers.levels, 0); /* no timer outlives its sleep */
    return stop_with(0);
}

static void cancelled_sleeps_leave_no_timer_behind(void **state)
{
    (void)state;
    run_alone(many_timers, NULL, NULL);
}

static int64_t thread_cpu_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

/* The kernel can leave its flag for deferred work set though there is none. */
static duet_result sleep_under_a_stale_flag(void *arg)
{
    (void)arg;
    *duet_loop_self()->ring.uring.sq.kflags |= 1u << 2; /* IORING_SQ_TASKRUN */
    int64_t start_ns = duet_now_ns(), cpu_ns = thread_cpu_ns();
    must_equal(duet_sleep(duet_ms(200)), 0);
    must((thread_cpu_ns() - cpu_ns) * 2 < duet_now_ns() - start_ns); /* it slept, not spun */
    return stop_with(0);
}

static void a_stale_flag_of_the_kernel_neither_spins_the_loop_nor_keeps_it_from_ending(void **state)
{
    (void)state;
    const duet_loop_config configs[] = {{.spin_us = -1}, {.spin_us = 0}, {.spin_us = 20}};
    for (size_t i = 0; i < 3; i++)
        run_alone(sleep_under_a_stale_flag, NULL, &configs[i]);
}

static duet_result overflow_watch_off(void *arg)
{
    (void)arg;
    return stop_with(0);
}

static void tiny_rings_and_spinning_forms_work(void **state)
{
    (void)state;
    const duet_loop_config configs[] = {
        {.ring_entries = 1},
        {.spin_us = -1},
        {.spin_us = 50},
        {.stack_size = 16384, .name = "a name"},
    };
    for (size_t i = 0; i < sizeof configs / sizeof configs[0]; i++) {
        run_alone(overflow_watch_off, NULL, &configs[i]);
        run_alone(sleeps_in_order, NULL, &configs[i]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(coroutines_start_in_the_order_of_their_spawn),
        cmocka_unit_test(sleepers_wake_in_the_order_of_their_moments),
        cmocka_unit_test(yielding_is_fair_and_keeps_no_timer_waiting),
        cmocka_unit_test(a_loop_around_a_failing_wait_freezes_nothing),
        cmocka_unit_test(a_loop_around_a_succeeding_wait_freezes_nothing),
        cmocka_unit_test(cancelled_sleeps_leave_no_timer_behind),
        cmocka_unit_test(
            a_stale_flag_of_the_kernel_neither_spins_the_loop_nor_keeps_it_from_ending),
        cmocka_unit_test(tiny_rings_and_spinning_forms_work),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
