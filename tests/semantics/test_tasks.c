/* Coroutines, jobs and their cancellation; moments and deadlines; calls: items 11 to 16, 19, 28 to
 * 33, 35, 36 and 39. */
#include "duet_test.h"
#include "shared.h"

#include <sched.h>

static duet_loop *start_loop_with(const duet_loop_config *config)
{
    duet_loop *loop;
    must_equal(duet_loop_start(&loop, config), 0);
    return loop;
}

/* The error of a work that is then let go. */
static int end_of(duet_future *f)
{
    int err = error_of(f);
    duet_future_unref(f);
    return err;
}

/* Lets the other coroutines run until they wait. */
static void let_run(void)
{
    for (int i = 0; i < 5; i++)
        must_equal(duet_yield(), 0);
}

static duet_result run_check(void *arg)
{
    (*(void (**)(void))arg)();
    return duet_ok();
}

/* The same by each kind of waiter: a plain thread, a coroutine, a pool job. */
static void by_every_kind(void (*check)(void))
{
    duet_pool *pool = open_pool(1);
    check();
    run_in_coroutine(run_check, &check);
    must_equal(duet_offload(pool, run_check, &check, SURELY, NULL), 0);
    must_equal(duet_pool_close(pool, SURELY), 0);
}

/* ---- Starting ---- */

static duet_result copy_name(void *arg)
{
    strcpy(arg, duet_self_name());
    return duet_ok();
}

/* 12 */
thread_test(names_are_copied_and_set_before_the_first_step)
{
    duet_loop *loop = start_loop();
    duet_pool *pool = open_pool(1);
    for (int i = 0; i < 2; i++) {
        struct gate gate = GATE_INIT;
        char given[32] = "the-name", seen[200] = "";
        duet_opts opts = {.name = given};
        /* Held up, so that the name is overwritten before the first step. */
        duet_future *blocker = i == 0 ? duet_submit(loop, gate_pass_job, &gate)
                                      : duet_pool_submit(pool, gate_pass_job, &gate);
        duet_future *f = i == 0 ? duet_submit_with(loop, copy_name, seen, &opts)
                                : duet_pool_submit_with(pool, copy_name, seen, &opts);
        strcpy(given, "another");
        gate_open(&gate);
        must_equal(end_of(blocker), 0);
        must_equal(end_of(f), 0);
        must(strcmp(seen, "the-name") == 0);
    }
    must_equal(duet_pool_close(pool, SURELY), 0);
    must_equal(duet_loop_close(loop, SURELY), 0);
}

static duet_result compare_names(void *expected)
{
    for (int i = 0; i < 3; i++) {
        must(strcmp(duet_self_name(), expected) == 0);
        must_equal(duet_sleep(duet_us(100)), 0);
    }
    return duet_ok();
}

/* 12 */
coroutine_test(each_coroutine_keeps_its_own_name_across_waits)
{
    duet_future *a = duet_spawn_with(compare_names, "name-a", &(duet_opts){.name = "name-a"});
    duet_future *b = duet_spawn_with(compare_names, "name-b", &(duet_opts){.name = "name-b"});
    must_equal(end_of(a), 0);
    must_equal(end_of(b), 0);
    return duet_ok();
}

struct ended {
    duet_future *gate;
    bool ended;
};

static duet_result end_after_gate(void *arg)
{
    struct ended *e = arg;
    must_equal(duet_future_wait(e->gate, SURELY, NULL), 0);
    e->ended = true;
    return duet_ok();
}

/* 11 */
coroutine_test(letting_go_of_the_handle_does_not_end_the_work)
{
    struct ended e = {.gate = open_promise()};
    duet_pool *pool = open_pool(1);
    duet_future_unref(duet_spawn(end_after_gate, &e));
    let_run();
    must(!e.ended);
    must_equal(duet_future_settle(e.gate, duet_ok()), 0);
    let_run();
    must(e.ended);
    e.ended = false;
    duet_future_unref(duet_pool_submit(pool, end_after_gate, &e));
    must_equal(duet_pool_drain(pool, SURELY, NULL), 0);
    must(e.ended);
    must_equal(duet_pool_close(pool, SURELY), 0);
    duet_future_unref(e.gate);
    return duet_ok();
}

struct counted {
    atomic_int runs, drops;
};

static duet_result count_run(void *arg)
{
    struct counted *c = arg;
    must_equal(c->drops, 0);
    atomic_fetch_add(&c->runs, 1);
    return duet_i64(1);
}

static void count_drop_of(void *arg)
{
    struct counted *c = arg;
    atomic_fetch_add(&c->drops, 1);
}

/* 38 */
thread_test(the_argument_is_dropped_once_after_the_body_and_before_the_end_is_seen)
{
    duet_loop *loop = start_loop();
    duet_pool *pool = open_pool(1);
    duet_opts opts = {.drop = count_drop_of};
    for (int i = 0; i < 200; i++) {
        struct counted c = {0};
        duet_future *f = i % 2 == 0 ? duet_submit_with(loop, count_run, &c, &opts)
                                    : duet_pool_submit_with(pool, count_run, &c, &opts);
        must_equal(error_of(f), 0);
        must_equal(c.runs, 1);
        must_equal(c.drops, 1);
        duet_future_unref(f);
        must_equal(c.drops, 1);
    }
    must_equal(duet_pool_close(pool, SURELY), 0);
    must_equal(duet_loop_close(loop, SURELY), 0);
}

/* 38 */
coroutine_test(unknown_options_are_refused_and_the_argument_is_dropped)
{
    duet_pool *pool = open_pool(1);
    const struct {
        duet_opts opts;
        int err;
    } cases[] = {{{.drop = count_drop_of, .flags = 1u << 20}, -EINVAL},
                 {{.drop = count_drop_of, .priority = 2}, -EINVAL}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct counted c = {0};
        must_equal(end_of(duet_spawn_with(count_run, &c, &cases[i].opts)), cases[i].err);
        must_equal(c.drops, 1);
        c.drops = 0;
        must_equal(end_of(duet_submit_with(duet_loop_self(), count_run, &c, &cases[i].opts)),
                   cases[i].err);
        must_equal(c.drops, 1);
        c.drops = 0;
        must_equal(end_of(duet_pool_submit_with(pool, count_run, &c, &cases[i].opts)),
                   cases[i].err);
        must_equal(c.drops, 1);
        must_equal(c.runs, 0);
    }
    must_equal(duet_pool_close(pool, SURELY), 0);
    return duet_ok();
}

/* ---- Cancelling before the first step ---- */

/* 13 */
coroutine_test(cancel_before_first_step_never_runs_the_body)
{
    struct counted c = {0};
    duet_opts opts = {.drop = count_drop_of};
    duet_future *f = duet_spawn_with(count_run, &c, &opts);
    duet_future_cancel(f);
    must_equal(error_of(f), -ECANCELED);
    must_equal(c.drops, 1);
    duet_future_unref(f);
    let_run();
    must_equal(c.drops, 1);
    must_equal(c.runs, 0);
    return duet_ok();
}

/* 11, 13 */
coroutine_test(cancel_before_first_step_holds_when_the_handle_is_let_go)
{
    struct counted c = {0};
    duet_future *f = duet_spawn_with(count_run, &c, &(duet_opts){.drop = count_drop_of});
    duet_future_cancel(f);
    duet_future_cancel(f);
    duet_future_unref(f);
    let_run();
    must_equal(c.runs, 0);
    must_equal(c.drops, 1);
    return duet_ok();
}

static duet_result stop_here(void *unused)
{
    (void)unused;
    duet_loop_stop(duet_loop_self());
    return duet_ok();
}

/* 13 */
thread_test(cancel_before_the_loop_runs_never_runs_the_body)
{
    struct counted cancelled = {0}, other = {0};
    duet_opts opts = {.drop = count_drop_of};
    duet_loop *loop;
    must_equal(duet_loop_open(&loop, NULL), 0);
    duet_future *f = duet_submit_with(loop, count_run, &cancelled, &opts);
    duet_future *g = duet_submit_with(loop, count_run, &other, &opts);
    duet_future *last = duet_submit(loop, stop_here, NULL);
    duet_future_cancel(f);
    must_equal(duet_loop_run(loop), 0);
    must_equal(end_of(f), -ECANCELED);
    must_equal(end_of(g), 0);
    must_equal(end_of(last), 0);
    must_equal(duet_loop_close(loop, SURELY), 0);
    must_equal(cancelled.runs, 0);
    must_equal(cancelled.drops, 1);
    must_equal(other.runs, 1);
    must_equal(other.drops, 1);
}

/* 13, 45 */
thread_test(a_queued_job_that_is_cancelled_never_runs)
{
    struct gate gate = GATE_INIT;
    struct counted c = {0};
    duet_pool *pool = open_pool(1);
    duet_future *blocker = duet_pool_submit(pool, gate_pass_job, &gate);
    gate_await_arrivals(&gate, 1);
    duet_future *f =
        duet_pool_submit_with(pool, count_run, &c, &(duet_opts){.drop = count_drop_of});
    duet_future_cancel(f);
    must_equal(error_of(f), -ECANCELED); /* while the worker is still busy */
    must_equal(c.drops, 1);
    gate_open(&gate);
    must_equal(end_of(blocker), 0);
    must_equal(duet_pool_close(pool, SURELY), 0);
    duet_future_unref(f);
    must_equal(c.runs, 0);
    must_equal(c.drops, 1);
}

/* ---- Cancellation is a level ---- */

/* A work that can cancel itself, and be met. */
struct work {
    duet_future *me, *ready, *go, *pending, *settled;
    struct counted counted;
    duet_loop *loop;
    duet_pool *pool;
};

static void work_open(struct work *w, duet_loop *loop, duet_pool *pool)
{
    *w = (struct work){.ready = open_promise(),
                       .go = open_promise(),
                       .pending = open_promise(),
                       .settled = open_promise(),
                       .loop = loop,
                       .pool = pool};
    must_equal(duet_future_settle(w->settled, duet_i64(8)), 0);
}

static void work_close(struct work *w)
{
    duet_future_unref(w->me);
    duet_future_unref(w->ready);
    duet_future_unref(w->go);
    duet_future_unref(w->pending);
    duet_future_unref(w->settled);
}

/* Says that it is there and waits until it is cancelled. */
static void await_cancel(struct work *w)
{
    must(!duet_cancelled());
    must_equal(duet_future_settle(w->ready, duet_ok()), 0);
    must_equal(duet_future_wait(w->pending, SURELY, NULL), -ECANCELED);
    must(duet_cancelled());
}

static void every_wait_fails(struct work *w)
{
    duet_future *both[] = {w->pending, w->settled};
    duet_result r[2];
    must_equal(duet_future_wait(w->pending, SURELY, NULL), -ECANCELED);
    must_equal(duet_future_wait(w->pending, DUET_NEVER, NULL), -ECANCELED);
    must_equal(duet_future_wait_many(both, 2, DUET_UNTIL_ALL, SURELY, NULL), -ECANCELED);
    must_equal(duet_gather(both, 2, SURELY, r), -ECANCELED);
    must_equal(duet_sleep(SURELY), -ECANCELED);
    must_equal(duet_sleep(DUET_NOW), -ECANCELED);
    must_equal(duet_sleep(duet_ns(-1)), -ECANCELED);
    must_equal(duet_call(w->loop, count_run, &w->counted, SURELY, r), -ECANCELED);
    must_equal(r[0].err, -ECANCELED);
    must_equal(duet_offload(w->pool, count_run, &w->counted, SURELY, r), -ECANCELED);
    must_equal(w->counted.runs, 0);
}

static duet_result outlive_cancel(void *arg)
{
    struct work *w = arg;
    await_cancel(w);
    for (int i = 0; i < 3; i++)
        every_wait_fails(w);
    must(duet_cancelled());
    return duet_i64(7);
}

static duet_result outlive_cancel_in_coroutine(void *arg)
{
    struct work *w = arg;
    await_cancel(w);
    for (int i = 0; i < 3; i++) {
        every_wait_fails(w);
        must_equal(duet_yield(), -ECANCELED);
    }
    return duet_i64(7);
}

/* Runs a body as a coroutine and as a job, cancels each when it is ready, and gets its result. */
static void cancel_each_kind(duet_fn *coroutine, duet_fn *job, duet_result *ret)
{
    duet_loop *loop = start_loop();
    duet_pool *pool = open_pool(1), *other_pool = open_pool(1);
    for (int i = 0; i < 2; i++) {
        struct work w;
        work_open(&w, loop, other_pool);
        w.me = i == 0 ? duet_submit(loop, coroutine, &w) : duet_pool_submit(pool, job, &w);
        must_equal(error_of(w.ready), 0);
        duet_future_cancel(w.me);
        duet_future_cancel(w.me);
        must_equal(duet_future_settle(w.go, duet_ok()), 0);
        must_equal(duet_future_wait(w.me, SURELY, &ret[i]), 0);
        work_close(&w);
    }
    must_equal(duet_pool_close(pool, SURELY), 0);
    must_equal(duet_pool_close(other_pool, SURELY), 0);
    must_equal(duet_loop_close(loop, SURELY), 0);
}

/* 14 */
thread_test(once_cancelled_every_wait_fails_and_nothing_starts)
{
    duet_result r[2];
    cancel_each_kind(outlive_cancel_in_coroutine, outlive_cancel, r);
}

/* 14 */
thread_test(cancelled_work_may_return_a_result_all_the_same)
{
    duet_result r[2];
    cancel_each_kind(outlive_cancel_in_coroutine, outlive_cancel, r);
    for (int i = 0; i < 2; i++)
        must_equal(duet_as_i64(r[i]), 7);
}

static duet_result drain_when_cancelled(void *arg)
{
    struct work *w = arg;
    duet_result r = duet_ok();
    await_cancel(w);
    must_equal(duet_pool_drain(w->pool, SURELY, NULL), -ECANCELED);
    duet_shield_begin(); /* it was before any effect: the pool still accepts */
    must_equal(duet_offload(w->pool, count_run, &w->counted, SURELY, &r), 0);
    duet_shield_end();
    return r;
}

/* 14 */
thread_test(who_is_cancelled_does_not_drain_a_pool)
{
    duet_result r[2];
    cancel_each_kind(drain_when_cancelled, drain_when_cancelled, r);
    for (int i = 0; i < 2; i++)
        must_equal(duet_as_i64(r[i]), 1);
}

static duet_result fail_when_cancelled(void *arg)
{
    await_cancel(arg);
    return duet_err(-EPIPE);
}

/* 14 */
thread_test(cancelled_work_may_fail_in_its_own_way)
{
    duet_result r[2];
    cancel_each_kind(fail_when_cancelled, fail_when_cancelled, r);
    for (int i = 0; i < 2; i++)
        must_equal(r[i].err, -EPIPE);
}

static duet_result wait_under_shield(void *arg)
{
    struct work *w = arg;
    duet_result r = duet_ok();
    await_cancel(w);
    duet_shield_begin();
    must_equal(duet_sleep(duet_us(100)), 0);
    must_equal(duet_future_wait(w->pending, duet_us(100), NULL), -ETIME);
    must_equal(duet_future_wait(w->go, SURELY, NULL), 0);
    must_equal(duet_call(w->loop, count_run, &w->counted, SURELY, &r), 0);
    must_equal(duet_as_i64(r), 1);
    duet_shield_begin();
    must_equal(duet_sleep(duet_us(100)), 0);
    duet_shield_end();
    must_equal(duet_sleep(duet_us(100)), 0); /* they nest: one is still there */
    duet_shield_end();
    must_equal(duet_sleep(duet_us(100)), -ECANCELED);
    duet_shield_begin();
    must_equal(duet_sleep(duet_us(100)), 0);
    duet_shield_end();
    must_equal(duet_sleep(duet_us(100)), -ECANCELED);
    must(duet_cancelled());
    return duet_i64(w->counted.runs);
}

/* 14, 19 */
thread_test(a_shield_holds_cancellation_back_and_nests)
{
    duet_result r[2];
    cancel_each_kind(wait_under_shield, wait_under_shield, r);
    for (int i = 0; i < 2; i++)
        must_equal(duet_as_i64(r[i]), 1);
}

static duet_result be_shielded_already(void *arg)
{
    struct work *w = arg;
    duet_shield_begin();
    must_equal(duet_future_settle(w->ready, duet_ok()), 0);
    /* The cancellation comes during these, mostly; none may notice it. */
    must_equal(duet_future_wait(w->go, SURELY, NULL), 0);
    must_equal(duet_sleep(duet_us(100)), 0);
    duet_shield_end();
    must_equal(duet_sleep(SURELY), -ECANCELED);
    return duet_ok();
}

/* 19 */
thread_test(a_cancellation_during_a_shield_comes_at_its_end)
{
    for (int round = 0; round < 20; round++) {
        duet_result r[2];
        cancel_each_kind(be_shielded_already, be_shielded_already, r);
        for (int i = 0; i < 2; i++)
            must_equal(r[i].err, 0);
    }
}

static duet_result park_under_shield(void *arg)
{
    struct work *w = arg;
    duet_shield_begin();
    must_equal(duet_future_wait(w->go, SURELY, NULL), 0);
    duet_shield_end();
    must_equal(duet_yield(), -ECANCELED);
    return duet_ok();
}

/* 19: here it is parked for certain when the cancellation comes. */
coroutine_test(a_cancellation_does_not_wake_who_waits_under_a_shield)
{
    struct work w;
    work_open(&w, NULL, NULL);
    w.me = duet_spawn(park_under_shield, &w);
    let_run();
    duet_future_cancel(w.me);
    let_run();
    must(!duet_future_settled(w.me));
    must_equal(duet_future_settle(w.go, duet_ok()), 0);
    must_equal(error_of(w.me), 0);
    work_close(&w);
    return duet_ok();
}

static duet_result wait_one(void *arg)
{
    return duet_err(duet_future_wait(((struct work *)arg)->pending, SURELY, NULL));
}

static duet_result wait_any(void *arg)
{
    struct work *w = arg;
    duet_future *fs[] = {w->pending, w->go};
    return duet_err(duet_future_wait_many(fs, 2, DUET_UNTIL_ANY, SURELY, NULL));
}

static duet_result wait_gather(void *arg)
{
    struct work *w = arg;
    duet_future *fs[] = {w->settled, w->pending};
    return duet_err(duet_gather(fs, 2, SURELY, NULL));
}

static duet_result wait_call(void *arg)
{
    struct work *w = arg;
    return duet_err(duet_call(w->loop, sleep_long, NULL, SURELY, NULL));
}

static duet_result wait_offload(void *arg)
{
    struct work *w = arg;
    return duet_err(duet_offload(w->pool, sleep_long, NULL, SURELY, NULL));
}

static duet_result wait_asleep(void *unused)
{
    (void)unused;
    return duet_err(duet_sleep(SURELY));
}

static duet_result wait_for_ever(void *unused)
{
    (void)unused;
    return duet_err(duet_sleep(DUET_NEVER));
}

static duet_fn *const waits[] = {wait_one,  wait_any,     wait_gather, wait_call,
                                 wait_call, wait_offload, wait_asleep, wait_for_ever};
enum {
    WAITS = sizeof waits / sizeof waits[0]
};

/* 14 */
coroutine_test(cancelling_wakes_a_parked_coroutine_from_every_wait)
{
    struct work w;
    duet_loop *loop = start_loop();
    duet_pool *pool = open_pool(2);
    work_open(&w, loop, pool);
    for (size_t i = 0; i < WAITS; i++) {
        w.me = duet_spawn(waits[i], &w);
        let_run();
        must(!duet_future_settled(w.me));
        duet_future_cancel(w.me);
        must_equal(end_of(w.me), -ECANCELED);
    }
    w.me = NULL;
    work_close(&w);
    must_equal(duet_pool_close(pool, SURELY), 0);
    must_equal(duet_loop_close(loop, SURELY), 0);
    return duet_ok();
}

/* 14: from another thread, at whatever point it is then. */
thread_test(cancelling_from_a_thread_ends_every_wait)
{
    struct work w;
    duet_loop *loop = start_loop(), *other = start_loop();
    duet_pool *pool = open_pool(2), *jobs = open_pool(2);
    work_open(&w, other, pool);
    for (int round = 0; round < 20; round++) {
        for (size_t i = 0; i < WAITS; i++) {
            duet_future *coroutine = duet_submit(loop, waits[i], &w);
            duet_future *job = duet_pool_submit(jobs, waits[i], &w);
            duet_future_cancel(coroutine);
            duet_future_cancel(job);
            must_equal(end_of(coroutine), -ECANCELED);
            must_equal(end_of(job), -ECANCELED);
        }
    }
    work_close(&w);
    must_equal(duet_pool_close(jobs, SURELY), 0);
    must_equal(duet_pool_close(pool, SURELY), 0);
    must_equal(duet_loop_close(loop, SURELY), 0);
    must_equal(duet_loop_close(other, SURELY), 0);
}

/* 15 */
thread_test(cancelling_what_has_ended_changes_nothing)
{
    struct counted c = {0};
    duet_loop *loop = start_loop();
    duet_pool *pool = open_pool(1);
    duet_opts opts = {.drop = count_drop_of};
    duet_future *works[] = {open_promise(), duet_submit_with(loop, count_run, &c, &opts),
                            duet_pool_submit(pool, return_ok, NULL)};
    must_equal(duet_future_settle(works[0], duet_i64(1)), 0);
    for (int i = 0; i < 3; i++) {
        must_equal(error_of(works[i]), 0);
        duet_future_cancel(works[i]);
        duet_future_cancel(works[i]);
        must_equal(duet_future_result(works[i]).err, 0);
        must_equal(end_of(works[i]), 0);
    }
    must_equal(c.drops, 1);
    must_equal(duet_pool_close(pool, SURELY), 0);
    must_equal(duet_loop_close(loop, SURELY), 0);
}

static duet_result be_innocent(void *unused)
{
    (void)unused;
    must(!duet_cancelled());
    must_equal(duet_sleep(duet_us(10)), 0);
    return duet_ok();
}

static duet_result leave_shielded(void *arg)
{
    await_cancel(arg);
    duet_shield_begin(); /* never ended */
    return duet_ok();
}

/* 44: what runs next on the worker, or on a stack that is used again, starts anew. */
thread_test(a_cancellation_or_a_shield_is_not_inherited_by_the_next_work)
{
    duet_loop *loop = start_loop();
    duet_pool *pool = open_pool(1);
    for (int i = 0; i < 4; i++) {
        struct work w;
        duet_fn *fn = i < 2 ? fail_when_cancelled : leave_shielded;
        work_open(&w, loop, pool);
        w.me = i % 2 == 0 ? duet_submit(loop, fn, &w) : duet_pool_submit(pool, fn, &w);
        must_equal(error_of(w.ready), 0);
        duet_future_cancel(w.me);
        must_equal(error_of(w.me), i < 2 ? -EPIPE : 0);
        work_close(&w);
        must_equal(end_of(i % 2 == 0 ? duet_submit(loop, be_innocent, NULL)
                                     : duet_pool_submit(pool, be_innocent, NULL)),
                   0);
        /* If the shield were inherited, this would not end before SURELY. */
        work_open(&w, loop, pool);
        w.me = i % 2 == 0 ? duet_submit(loop, fail_when_cancelled, &w)
                          : duet_pool_submit(pool, fail_when_cancelled, &w);
        must_equal(error_of(w.ready), 0);
        duet_future_cancel(w.me);
        must_equal(error_of(w.me), -EPIPE);
        work_close(&w);
    }
    must(!duet_cancelled());
    must_equal(duet_pool_close(pool, SURELY), 0);
    must_equal(duet_loop_close(loop, SURELY), 0);
}

/* ---- What has settled wins ---- */

static duet_result look_when_cancelled(void *arg)
{
    struct work *w = arg;
    duet_result r = duet_ok();
    await_cancel(w);
    must_equal(duet_future_wait(w->settled, SURELY, &r), 0);
    must_equal(duet_as_i64(r), 8);
    must_equal(duet_future_wait(w->settled, DUET_NOW, &r), 0);
    must_equal(duet_future_wait(w->settled, duet_ns(-1000), &r), 0);
    must_equal(duet_future_wait(w->pending, duet_ns(-1000), &r), -ECANCELED);
    return r;
}

/* 16 */
thread_test(a_settled_result_is_had_by_who_was_cancelled)
{
    duet_result r[2];
    cancel_each_kind(look_when_cancelled, look_when_cancelled, r);
    for (int i = 0; i < 2; i++)
        must_equal(duet_as_i64(r[i]), 8);
}

static void check_deadline_past(void)
{
    duet_future *f = open_promise();
    duet_result r = duet_ok();
    must_equal(duet_future_wait(f, DUET_NOW, &r), -ETIME);
    must_equal(duet_future_wait(f, duet_ns(-1), &r), -ETIME);
    must_equal(duet_future_wait(f, (duet_deadline){-5}, &r), -ETIME);
    must_equal(duet_future_wait(f, (duet_deadline){INT64_MIN}, &r), -ETIME);
    must_equal(duet_future_settle(f, duet_i64(8)), 0);
    must_equal(duet_future_wait(f, DUET_NOW, &r), 0);
    must_equal(duet_as_i64(r), 8);
    must_equal(duet_future_wait(f, (duet_deadline){INT64_MIN}, &r), 0);
    must_equal(duet_sleep(DUET_NOW), 0);
    must_equal(duet_sleep((duet_deadline){INT64_MIN}), 0);
    must_equal(duet_sleep(duet_sec(INT64_MIN)), 0);
    duet_future_unref(f);
}

/* 16, 30 */
thread_test(a_deadline_in_the_past_tries_and_never_waits)
{
    by_every_kind(check_deadline_past);
}

/* 30 */
thread_test(moments_saturate)
{
    int64_t before = duet_now_ns();
    duet_deadline far[] = {duet_ns(INT64_MAX), duet_us(INT64_MAX), duet_ms(INT64_MAX),
                           duet_sec(INT64_MAX), duet_sec(INT64_MAX / 2)};
    duet_deadline past[] = {duet_ns(INT64_MIN),  duet_us(INT64_MIN), duet_ms(INT64_MIN),
                            duet_sec(INT64_MIN), duet_ns(-1),        duet_sec(-1000000)};
    for (size_t i = 0; i < sizeof far / sizeof far[0]; i++)
        must_equal(far[i].ns, DUET_NEVER.ns);
    int64_t after = duet_now_ns();
    for (size_t i = 0; i < sizeof past / sizeof past[0]; i++)
        must(past[i].ns < after);
    must(duet_ns(1000).ns >= before + 1000);
    must(duet_us(2).ns >= before + 2000);
    must(duet_ms(2).ns >= before + 2000000);
    must(duet_sec(2).ns >= before + 2000000000);
}

static duet_result wait_and_return(void *arg)
{
    struct work *w = arg;
    duet_result r = duet_i64(-1);
    int rc = duet_future_wait(w->go, SURELY, &r);
    return rc < 0 ? duet_err(rc) : r;
}

/* 16, 29 */
coroutine_test(who_is_cancelled_in_the_turn_in_which_the_result_came_gets_the_result)
{
    struct work w;
    work_open(&w, NULL, NULL);
    w.me = duet_spawn(wait_and_return, &w);
    let_run();
    must_equal(duet_future_settle(w.go, duet_i64(9)), 0);
    duet_future_cancel(w.me);
    duet_result r = duet_ok();
    must_equal(duet_future_wait(w.me, SURELY, &r), 0);
    must_equal(duet_as_i64(r), 9);
    work_close(&w);
    return duet_ok();
}

/* 16: by then the future has settled; a settled future gives its result, whoever was cancelled. */
coroutine_test(who_gets_the_result_in_the_turn_in_which_it_was_cancelled_has_it)
{
    struct work w;
    work_open(&w, NULL, NULL);
    w.me = duet_spawn(wait_and_return, &w);
    let_run();
    duet_future_cancel(w.me);
    must_equal(duet_future_settle(w.go, duet_i64(9)), 0);
    duet_result r = duet_ok();
    must_equal(duet_future_wait(w.me, SURELY, &r), 0);
    must_equal(duet_as_i64(r), 9);
    work_close(&w);
    return duet_ok();
}

struct late {
    duet_future *f;
    duet_deadline by;
};

static duet_result wait_by(void *arg)
{
    struct late *late = arg;
    duet_result r = duet_i64(-1);
    int rc = duet_future_wait(late->f, late->by, &r);
    return rc < 0 ? duet_err(rc) : r;
}

/* 29 */
coroutine_test(a_result_and_a_deadline_in_one_turn_are_a_result)
{
    bool in_one_turn = false;
    for (int64_t limit = SURELY.ns; !in_one_turn;) {
        struct late late = {open_promise(), duet_ms(5)};
        duet_result r = duet_ok();
        duet_future *waiter = duet_spawn(wait_by, &late);
        let_run();
        in_one_turn = duet_now_ns() < late.by.ns; /* else a slow machine: once more */
        while (duet_now_ns() <= late.by.ns) /* the loop cannot turn meanwhile */
            sched_yield();
        must_equal(duet_future_settle(late.f, duet_i64(9)), 0);
        must_equal(duet_future_wait(waiter, SURELY, &r), 0);
        if (in_one_turn)
            must_equal(duet_as_i64(r), 9);
        duet_future_unref(waiter);
        duet_future_unref(late.f);
        must(duet_now_ns() < limit);
    }
    return duet_ok();
}

/* ---- Moments ---- */

static void check_never_early(void)
{
    const int64_t spans[] = {0, 1, 999, 1000, 50001, 999999, 1000001, 3000000};
    duet_future *f = open_promise();
    for (size_t i = 0; i < sizeof spans / sizeof spans[0]; i++) {
        duet_deadline until = duet_ns(spans[i]);
        must_equal(duet_sleep(until), 0);
        must(duet_now_ns() >= until.ns);
        until = duet_ns(spans[i]);
        must_equal(duet_future_wait(f, until, NULL), -ETIME);
        must(duet_now_ns() >= until.ns);
        until = duet_ns(spans[i]);
        must_equal(duet_future_wait_many(&f, 1, DUET_UNTIL_ANY, until, NULL), -ETIME);
        must(duet_now_ns() >= until.ns);
    }
    duet_future_unref(f);
}

/* 32 */
thread_test(nobody_wakes_early)
{
    by_every_kind(check_never_early);
}

static duet_result sleep_exactly(void *arg)
{
    duet_deadline *until = arg;
    must_equal(duet_sleep(*until), 0);
    must(duet_now_ns() >= until->ns);
    return duet_ok();
}

/* 32: many timers at once, in no order, some at one moment, some cancelled. */
coroutine_test(none_of_many_sleepers_wakes_early_or_never)
{
    enum {
        N = 300
    };
    duet_future *sleepers[N];
    duet_deadline until[N];
    uint64_t seed = test_seed();
    for (int i = 0; i < N; i++) {
        until[i] = duet_us((int64_t)(test_random(&seed) % 20000));
        if (i % 5 == 1)
            until[i] = until[i - 1];
        sleepers[i] = duet_spawn(i % 7 == 0 ? sleep_long : sleep_exactly, &until[i]);
    }
    for (int i = 0; i < N; i++) {
        if (i % 7 == 0)
            duet_future_cancel(sleepers[i]);
        must_equal(error_of(sleepers[i]), i % 7 == 0 ? -ECANCELED : 0);
        duet_future_unref(sleepers[i]);
    }
    return duet_ok();
}

/* ---- Calls ---- */

static void check_call_in_the_past(void)
{
    duet_loop *loop = start_loop();
    duet_pool *pool = open_pool(1);
    struct counted c = {0};
    duet_opts opts = {.drop = count_drop_of};
    duet_deadline past[] = {DUET_NOW, {-1}, duet_sec(-1), {INT64_MIN}};
    int drops = 0;
    for (int i = 0; i < 100; i++) {
        duet_result r = duet_i64(99);
        must_equal(duet_call_with(loop, count_run, &c, &opts, past[i % 4], &r), -ETIME);
        must_equal(r.err, -ECANCELED);
        must_equal(c.drops, ++drops);
        r = duet_i64(99);
        must_equal(duet_offload_with(pool, count_run, &c, &opts, past[i % 4], &r), -ETIME);
        must_equal(r.err, -ECANCELED);
        must_equal(c.drops, ++drops);
    }
    must_equal(duet_pool_close(pool, SURELY), 0);
    must_equal(duet_loop_close(loop, SURELY), 0);
    must_equal(c.runs, 0);
}

/* 30 */
thread_test(a_call_with_a_deadline_in_the_past_never_starts_the_function)
{
    by_every_kind(check_call_in_the_past);
}

static void check_call_just_past(void)
{
    duet_loop *loop = start_loop();
    duet_pool *pool = open_pool(1);
    struct counted c = {0};
    for (int i = 0; i < 100; i++) {
        /* Much may happen in one turn of a loop; the moment is past all the same. */
        for (int64_t then = duet_now_ns(); duet_now_ns() < then + 50000;)
            ;
        must_equal(duet_call(loop, count_run, &c, duet_ns(-1), NULL), -ETIME);
        for (int64_t then = duet_now_ns(); duet_now_ns() < then + 50000;)
            ;
        must_equal(duet_offload(pool, count_run, &c, (duet_deadline){duet_now_ns()}, NULL), -ETIME);
    }
    must_equal(duet_pool_close(pool, SURELY), 0);
    must_equal(duet_loop_close(loop, SURELY), 0);
    must_equal(c.runs, 0);
}

/* 30 */
thread_test(a_call_with_a_deadline_just_past_never_starts_the_function)
{
    by_every_kind(check_call_just_past);
}

static duet_result call_own_loop_in_the_past(void *arg)
{
    struct counted *c = arg;
    duet_result r = duet_i64(99);
    duet_opts opts = {.drop = count_drop_of};
    must_equal(duet_call_with(duet_loop_self(), count_run, c, &opts, DUET_NOW, &r), -ETIME);
    must_equal(r.err, -ECANCELED);
    must_equal(c->drops, 1);
    let_run();
    must_equal(c->runs, 0);
    return duet_ok();
}

/* 30 */
thread_test(a_call_in_the_past_to_ones_own_loop_never_starts_the_function)
{
    struct counted c = {0};
    run_in_coroutine(call_own_loop_in_the_past, &c);
}

static void check_call(void)
{
    duet_loop *loop = start_loop();
    duet_pool *pool = open_pool(1);
    atomic_int value = 0;
    duet_opts opts = {.drop_result = count_drop};
    duet_result r = duet_i64(99);
    must_equal(duet_call_with(loop, return_arg, &value, &opts, DUET_NEVER, &r), 0);
    must(duet_as_ptr(r) == &value);
    must_equal(duet_offload_with(pool, return_arg, &value, &opts, DUET_NEVER, &r), 0);
    must(duet_as_ptr(r) == &value);
    must_equal(value, 0); /* taken: the caller's */
    must_equal(duet_call(loop, fail_eio, NULL, SURELY, &r), 0);
    must_equal(r.err, -EIO);
    must_equal(duet_offload(pool, fail_eio, NULL, SURELY, &r), 0);
    must_equal(r.err, -EIO);
    must_equal(duet_call(loop, fail_eio, NULL, SURELY, NULL), 0);
    must_equal(duet_pool_close(pool, SURELY), 0);
    must_equal(duet_loop_close(loop, SURELY), 0);
}

/* 33 */
thread_test(a_call_speaks_of_itself_and_the_result_of_the_work)
{
    by_every_kind(check_call);
}

struct lateness {
    bool started;
    int x;
};

static duet_result ignore_cancellation(void *arg)
{
    struct lateness *l = arg;
    l->started = true;
    duet_shield_begin();
    must_equal(duet_sleep(duet_ms(6)), 0);
    duet_shield_end();
    return duet_ptr(&l->x);
}

static duet_result succeed_when_cancelled(void *arg)
{
    struct lateness *l = arg;
    l->started = true;
    must_equal(duet_sleep(SURELY), -ECANCELED);
    return duet_ptr(&l->x);
}

static duet_result fail_after_cancel(void *arg)
{
    struct lateness *l = arg;
    l->started = true;
    must_equal(duet_sleep(SURELY), -ECANCELED);
    return duet_err(-EPIPE);
}

static void check_late_result(void)
{
    duet_fn *const fns[] = {ignore_cancellation, succeed_when_cancelled, fail_after_cancel};
    duet_loop *loop = start_loop();
    duet_pool *pool = open_pool(1);
    for (int i = 0; i < 6; i++) {
        struct lateness l = {0};
        duet_result r = duet_i64(99);
        duet_deadline by = duet_ms(3);
        int rc = i % 2 == 0 ? duet_call(loop, fns[i / 2], &l, by, &r)
                            : duet_offload(pool, fns[i / 2], &l, by, &r);
        must(duet_now_ns() >= by.ns);
        must_equal(rc,
                   l.started ? 0 : -ETIME); /* on a busy machine it may come too late to start */
        if (l.started)
            must(i / 2 == 2 ? r.err == -EPIPE : duet_as_ptr(r) == &l.x);
    }
    must_equal(duet_pool_close(pool, SURELY), 0);
    must_equal(duet_loop_close(loop, SURELY), 0);
}

/* 28, 29 */
thread_test(the_late_result_of_a_call_wins_over_its_deadline)
{
    by_every_kind(check_late_result);
}

struct cleaning {
    duet_future *started;
    int begun, cleaned;
    struct counted counted;
};

static duet_result clean_up(void *arg)
{
    struct cleaning *c = arg;
    if (c->started)
        must_equal(duet_future_settle(c->started, duet_ok()), 0);
    c->begun++;
    int rc = duet_sleep(SURELY);
    duet_shield_begin();
    must_equal(duet_sleep(duet_ms(2)), 0);
    duet_shield_end();
    c->cleaned++;
    return duet_err(rc);
}

static void check_call_deadline(void)
{
    duet_loop *loop = start_loop();
    duet_pool *pool = open_pool(1);
    struct cleaning c = {0}; /* not shared: the call returns after the function */
    duet_result r = duet_i64(99);
    must_equal(duet_call(loop, clean_up, &c, duet_ms(3), &r), -ETIME);
    must_equal(r.err, -ECANCELED);
    must_equal(c.cleaned, c.begun);
    must_equal(duet_offload(pool, clean_up, &c, duet_ms(3), &r), -ETIME);
    must_equal(r.err, -ECANCELED);
    must_equal(c.cleaned, c.begun);
    must_equal(duet_call(loop, clean_up, &c, duet_ms(3), NULL), -ETIME);
    must_equal(c.cleaned, c.begun);
    must_equal(duet_pool_close(pool, SURELY), 0);
    must_equal(duet_loop_close(loop, SURELY), 0);
}

/* 28 */
thread_test(a_call_returns_after_the_function_has_ended_also_at_its_deadline)
{
    by_every_kind(check_call_deadline);
}

struct caller {
    duet_loop *loop;
    duet_pool *pool; /* NULL: call the loop */
    struct cleaning cleaning;
};

static duet_result call_and_be_cancelled(void *arg)
{
    struct caller *caller = arg;
    duet_result r = duet_i64(99);
    int rc = caller->pool ? duet_offload(caller->pool, clean_up, &caller->cleaning, SURELY, &r)
                          : duet_call(caller->loop, clean_up, &caller->cleaning, SURELY, &r);
    must_equal(rc, -ECANCELED);
    must_equal(r.err, -ECANCELED);
    must_equal(caller->cleaning.begun, 1);
    must_equal(caller->cleaning.cleaned, 1);
    must_equal(duet_sleep(DUET_NOW), -ECANCELED);
    return duet_ok();
}

/* 28, 31: to another loop, to one's own, and to a pool; the outer cancellation stays one. */
coroutine_test(cancelling_the_caller_ends_the_call_with_canceled_after_the_clean_up)
{
    duet_loop *loop = start_loop();
    duet_pool *pool = open_pool(1);
    for (int i = 0; i < 3; i++) {
        struct caller caller = {.loop = i == 0 ? loop : duet_loop_self(),
                                .pool = i == 2 ? pool : NULL,
                                .cleaning = {.started = open_promise()}};
        duet_future *f = duet_spawn(call_and_be_cancelled, &caller);
        must_equal(error_of(caller.cleaning.started), 0);
        duet_future_cancel(f);
        must_equal(end_of(f), 0);
        duet_future_unref(caller.cleaning.started);
    }
    must_equal(duet_pool_close(pool, SURELY), 0);
    must_equal(duet_loop_close(loop, SURELY), 0);
    return duet_ok();
}

static duet_result call_with_short_deadline(void *loop)
{
    must_equal(duet_call(loop, sleep_long, NULL, duet_ms(2), NULL), -ETIME);
    must(!duet_cancelled());
    must_equal(duet_sleep(duet_us(100)), 0);
    return duet_i64(3);
}

static duet_result call_with_long_deadline(void *loop)
{
    int rc = duet_call(loop, sleep_long, NULL, SURELY, NULL);
    must_equal(rc, -ECANCELED); /* its own has not passed */
    return duet_err(rc);
}

/* 31 */
thread_test(of_nested_deadlines_the_one_that_passed_reports)
{
    duet_loop *loop = start_loop(), *inner = start_loop();
    duet_result r = duet_ok();
    must_equal(duet_call(loop, call_with_short_deadline, inner, SURELY, &r), 0);
    must_equal(duet_as_i64(r), 3);
    must_equal(duet_call(loop, call_with_short_deadline, loop, SURELY, &r), 0);
    must_equal(duet_as_i64(r), 3);
    must_equal(duet_call(loop, call_with_long_deadline, inner, duet_ms(2), &r), -ETIME);
    must_equal(duet_call(loop, call_with_long_deadline, loop, duet_ms(2), &r), -ETIME);
    must_equal(duet_loop_close(loop, SURELY), 0);
    must_equal(duet_loop_close(inner, SURELY), 0);
}

static duet_result report_timeout(void *err)
{
    return duet_err(*(int *)err);
}

static void check_timed_out_wait(void)
{
    duet_loop *loop = start_loop();
    duet_future *gate = open_promise();
    struct ended e = {.gate = gate};
    duet_future *f = duet_submit(loop, end_after_gate, &e);
    must_equal(duet_future_wait(f, duet_ms(1), NULL), -ETIME);
    must_equal(duet_future_wait(f, DUET_NOW, NULL), -ETIME);
    must_equal(duet_future_settle(gate, duet_ok()), 0);
    must_equal(end_of(f), 0);
    must(e.ended);
    duet_future_unref(gate);
    /* The work's own time-outs are told apart from the wait's. */
    int errs[] = {-ETIME, -ETIMEDOUT, -ECANCELED, -EDEADLK};
    for (int i = 0; i < 4; i++) {
        duet_result r = duet_ok();
        f = duet_submit(loop, report_timeout, &errs[i]);
        must_equal(duet_future_wait(f, SURELY, &r), 0);
        must_equal(r.err, errs[i]);
        duet_future_unref(f);
    }
    int rc = -ETIME;
    duet_result r = duet_ok();
    must_equal(duet_call(loop, report_timeout, &rc, SURELY, &r), 0);
    must_equal(r.err, -ETIME);
    must_equal(duet_loop_close(loop, SURELY), 0);
}

/* 33 */
thread_test(a_wait_that_timed_out_leaves_the_work_alone)
{
    by_every_kind(check_timed_out_wait);
}

/* 35 */
thread_test(a_cancellation_from_a_thread_is_acknowledged_after_the_clean_up)
{
    duet_loop *loop = start_loop();
    for (int i = 0; i < 2; i++) {
        struct cleaning c = {.started = open_promise()};
        duet_opts opts = {.drop = NULL};
        duet_future *f = duet_submit_with(loop, clean_up, &c, &opts);
        must_equal(error_of(c.started), 0);
        if (i == 0) {
            duet_result r = duet_ok();
            must_equal(duet_future_close(f, &r), 0);
            must_equal(r.err, -ECANCELED);
        } else {
            duet_future_cancel(f);
            must_equal(end_of(f), -ECANCELED);
        }
        must_equal(c.cleaned, 1);
        duet_future_unref(c.started);
    }
    must_equal(duet_loop_close(loop, SURELY), 0);
}

static duet_result sum_to(void *arg)
{
    intptr_t n = (intptr_t)arg;
    duet_result r = duet_ok();
    if (n == 0)
        return duet_i64(0);
    must_equal(duet_call(duet_loop_self(), sum_to, (void *)(n - 1), SURELY, &r), 0);
    return duet_i64(duet_as_i64(r) + n);
}

/* 36 */
coroutine_test(a_coroutine_may_call_its_own_loop_and_is_suspended)
{
    must_equal(duet_as_i64(sum_to((void *)50)), 1275);
    return duet_ok();
}

struct bare_call {
    struct counted counted;
    duet_future *done;
    duet_pool *pool;
};

static void call_in_callback(void *arg)
{
    struct bare_call *b = arg;
    duet_result r = duet_i64(99);
    duet_opts opts = {.drop = count_drop_of};
    must_equal(duet_call_with(duet_loop_self(), count_run, &b->counted, &opts, SURELY, &r),
               -EDEADLK);
    must(r.err < 0); /* always written */
    must_equal(b->counted.drops, 1);
    r = duet_i64(99);
    must_equal(duet_offload_with(b->pool, count_run, &b->counted, &opts, SURELY, &r), -EDEADLK);
    must(r.err < 0);
    must_equal(b->counted.drops, 2);
    must_equal(duet_future_settle(b->done, duet_ok()), 0);
}

/* 36: before queueing: the function never starts, and its argument is dropped. */
thread_test(a_call_in_a_bare_callback_is_refused_before_queueing)
{
    duet_loop *loop = start_loop();
    struct bare_call b = {.done = open_promise(), .pool = open_pool(1)};
    must_equal(duet_call_soon(loop, call_in_callback, &b), 0);
    must_equal(end_of(b.done), 0);
    must_equal(duet_loop_close(loop, SURELY), 0);
    must_equal(duet_pool_close(b.pool, SURELY), 0);
    must_equal(b.counted.runs, 0);
    must_equal(b.counted.drops, 2);
}

/* ---- Fairness ---- */

struct greed {
    duet_future *me, *settled, *pending;
    bool timer_ran, neighbour_ran;
    void (*attempt)(struct greed *greed);
};

static duet_result tick(void *arg)
{
    struct greed *greed = arg;
    greed->neighbour_ran = true;
    must_equal(duet_sleep(duet_ms(1)), 0);
    greed->timer_ran = true;
    return duet_ok();
}

static duet_result be_greedy(void *arg)
{
    struct greed *greed = arg;
    for (int64_t limit = duet_sec(20).ns; !greed->timer_ran;) {
        if (duet_now_ns() >= limit)
            return duet_err(-EBUSY);
        greed->attempt(greed);
    }
    return duet_ok();
}

static duet_result cancelled_greed(void *arg)
{
    struct greed *greed = arg;
    must_equal(duet_future_wait(greed->pending, SURELY, NULL), -ECANCELED);
    return be_greedy(greed);
}

struct starvation {
    void (*attempt)(struct greed *greed);
    bool cancelled;
};

static duet_result starve_body(void *arg)
{
    struct starvation *s = arg;
    struct greed greed = {
        .settled = open_promise(), .pending = open_promise(), .attempt = s->attempt};
    must_equal(duet_future_settle(greed.settled, duet_ok()), 0);
    greed.me = duet_spawn(s->cancelled ? cancelled_greed : be_greedy, &greed);
    if (s->cancelled) {
        let_run();
        duet_future_cancel(greed.me);
    }
    duet_future *neighbour = duet_spawn(tick, &greed);
    must_equal(error_of(greed.me), 0);
    must_equal(end_of(neighbour), 0);
    duet_future_unref(greed.me);
    duet_future_unref(greed.settled);
    duet_future_unref(greed.pending);
    return duet_ok();
}

static void starve(void (*attempt)(struct greed *greed), bool cancelled)
{
    struct starvation s = {attempt, cancelled};
    run_in_coroutine(starve_body, &s);
}

static void get_settled(struct greed *greed)
{
    must_equal(duet_future_wait(greed->settled, SURELY, NULL), 0);
}

static void get_several_settled(struct greed *greed)
{
    duet_future *both[] = {greed->pending, greed->settled};
    must_equal(duet_future_wait_many(both, 2, DUET_UNTIL_ANY, SURELY, NULL), 0);
    must_equal(duet_gather(&greed->settled, 1, SURELY, NULL), 0);
}

static void try_pending(struct greed *greed)
{
    must_equal(duet_future_wait(greed->pending, DUET_NOW, NULL), -ETIME);
}

static void try_several_pending(struct greed *greed)
{
    must_equal(duet_future_wait_many(&greed->pending, 1, DUET_UNTIL_ANY, DUET_NOW, NULL), -ETIME);
}

static void sleep_not_at_all(struct greed *greed)
{
    (void)greed;
    must_equal(duet_sleep(DUET_NOW), 0);
}

static void yield_to_others(struct greed *greed)
{
    (void)greed;
    must_equal(duet_yield(), 0);
}

static void fail_to_sleep(struct greed *greed)
{
    (void)greed;
    must_equal(duet_sleep(SURELY), -ECANCELED);
}

static void fail_to_yield(struct greed *greed)
{
    (void)greed;
    must_equal(duet_yield(), -ECANCELED);
}

static void fail_to_wait(struct greed *greed)
{
    must_equal(duet_future_wait(greed->pending, SURELY, NULL), -ECANCELED);
}

static void fail_to_wait_for_several(struct greed *greed)
{
    duet_future *both[] = {greed->settled, greed->pending};
    must_equal(duet_future_wait_many(&greed->pending, 1, DUET_UNTIL_ANY, SURELY, NULL), -ECANCELED);
    must_equal(duet_gather(both, 2, SURELY, NULL), -ECANCELED);
}

static void wait_for_me(struct greed *greed)
{
    must_equal(duet_future_wait(greed->me, SURELY, NULL), -EDEADLK);
}

static void call_in_the_past(struct greed *greed)
{
    (void)greed;
    must_equal(duet_call(duet_loop_self(), return_ok, NULL, DUET_NOW, NULL), -ETIME);
}

static void close_another(struct greed *greed)
{
    (void)greed;
    duet_future *f = open_promise();
    must_equal(duet_future_close(f, NULL), 0);
}

/* 39 */
thread_test(waiting_for_what_has_settled_does_not_starve_the_others)
{
    starve(get_settled, false);
    starve(get_several_settled, false);
    starve(get_settled, true);
}

/* 39 */
thread_test(trying_what_is_pending_does_not_starve_the_others)
{
    starve(try_pending, false);
    starve(try_several_pending, false);
}

/* 39 */
thread_test(sleeping_until_the_past_or_yielding_does_not_starve_the_others)
{
    starve(sleep_not_at_all, false);
    starve(yield_to_others, false);
}

/* 14, 39 */
thread_test(ignoring_a_cancellation_does_not_starve_the_others)
{
    starve(fail_to_sleep, true);
    starve(fail_to_yield, true);
    starve(fail_to_wait, true);
    starve(fail_to_wait_for_several, true);
}

/* 9, 39 */
thread_test(waiting_for_oneself_does_not_starve_the_others)
{
    starve(wait_for_me, false);
}

/* 30, 39 */
thread_test(calls_in_the_past_and_closes_do_not_starve_the_others)
{
    starve(call_in_the_past, false);
    starve(close_another, false);
}

/* A waiter that is ready is not overtaken for ever by one that always has something to do. */
static duet_result flood(void *arg)
{
    struct greed *greed = arg;
    if (!greed->timer_ran)
        duet_future_unref(duet_spawn(flood, greed));
    return duet_ok();
}

static void soon_again(void *arg)
{
    struct greed *greed = arg;
    if (!greed->timer_ran)
        must_equal(duet_call_soon(duet_loop_self(), soon_again, greed), 0);
}

/* 39 */
coroutine_test(coroutines_and_callbacks_that_start_the_next_do_not_starve_a_timer)
{
    for (int i = 0; i < 2; i++) {
        struct greed greed = {0};
        duet_future *timer = duet_spawn(tick, &greed);
        if (i == 0)
            duet_future_unref(duet_spawn(flood, &greed));
        else
            must_equal(duet_call_soon(duet_loop_self(), soon_again, &greed), 0);
        must_equal(end_of(timer), 0);
        let_run();
    }
    return duet_ok();
}

static duet_result take_turns(void *arg)
{
    int *shared = arg;
    for (int i = 0; i < 100; i++) {
        must_equal(*shared % 2, 0);
        ++*shared;
        must_equal(duet_yield(), 0);
        must_equal(*shared % 2, 0); /* the other one has been here in between */
    }
    return duet_ok();
}

static duet_result take_other_turns(void *arg)
{
    int *shared = arg;
    for (int i = 0; i < 100; i++) {
        must_equal(*shared % 2, 1);
        ++*shared;
        must_equal(duet_yield(), 0);
    }
    return duet_ok();
}

/* 39 */
coroutine_test(yielding_coroutines_take_turns)
{
    int shared = 0;
    duet_future *a = duet_spawn(take_turns, &shared), *b = duet_spawn(take_other_turns, &shared);
    must_equal(end_of(a), 0);
    must_equal(end_of(b), 0);
    must_equal(shared, 200);
    return duet_ok();
}

/* ---- errno ---- */

static duet_result keep_errno(void *arg)
{
    int mine = *(int *)arg;
    errno = mine;
    for (int i = 0; i < 5; i++) {
        must_equal(duet_yield(), 0);
        must_equal(errno, mine);
        must_equal(duet_sleep(duet_us(200)), 0);
        must_equal(errno, mine);
    }
    return duet_ok();
}

/* 70 */
coroutine_test(errno_is_kept_for_each_coroutine)
{
    int values[] = {EIO, EPIPE, ENOENT, 0};
    duet_future *fs[4];
    errno = EXDEV;
    for (int i = 0; i < 4; i++)
        fs[i] = duet_spawn(keep_errno, &values[i]);
    for (int i = 0; i < 4; i++) {
        must_equal(end_of(fs[i]), 0);
        must_equal(errno, EXDEV);
    }
    return duet_ok();
}

static duet_result spoil_errno(void *unused)
{
    (void)unused;
    errno = ERANGE;
    return duet_err(-EIO);
}

static void check_errno(void)
{
    duet_loop *loop = start_loop();
    duet_pool *pool = open_pool(1);
    duet_result r;
    errno = EXDEV;
    duet_future *f = open_promise();
    must_equal(duet_future_wait(f, duet_ms(1), NULL), -ETIME);
    must_equal(errno, EXDEV);
    must_equal(duet_future_wait(f, DUET_NOW, NULL), -ETIME);
    must_equal(duet_future_wait_many(&f, 1, DUET_UNTIL_ANY, duet_ms(1), NULL), -ETIME);
    must_equal(errno, EXDEV);
    must_equal(duet_sleep(duet_ms(1)), 0);
    must_equal(errno, EXDEV);
    must_equal(duet_call(loop, spoil_errno, NULL, SURELY, &r), 0);
    must_equal(errno, EXDEV);
    must_equal(duet_offload(pool, spoil_errno, NULL, SURELY, &r), 0);
    must_equal(errno, EXDEV);
    must_equal(duet_call(loop, sleep_long, NULL, duet_ms(1), &r), -ETIME);
    must_equal(errno, EXDEV);
    duet_future_cancel(f);
    must_equal(duet_future_settle(f, duet_ok()), -EALREADY);
    duet_future_unref(f);
    must_equal(errno, EXDEV);
    must_equal(duet_pool_close(pool, SURELY), 0);
    must_equal(duet_loop_close(loop, SURELY), 0);
    must_equal(errno, EXDEV);
}

/* 33 */
thread_test(errno_is_left_alone)
{
    by_every_kind(check_errno);
}

/* ---- Limits and stacks ---- */

/* 38 */
thread_test(a_coroutine_above_the_limit_is_refused_and_its_argument_dropped)
{
    duet_loop_config config = {.coroutines_max = 2};
    duet_loop *loop = start_loop_with(&config);
    for (int round = 0; round < 20; round++) {
        struct ended e = {.gate = open_promise()};
        struct counted c = {0};
        duet_opts opts = {.drop = count_drop_of};
        duet_future *a = duet_submit(loop, end_after_gate, &e);
        duet_future *b = duet_submit(loop, end_after_gate, &e);
        duet_future *refused = duet_submit_with(loop, count_run, &c, &opts);
        must_equal(end_of(refused), -EAGAIN);
        must_equal(c.runs, 0);
        must_equal(c.drops, 1);
        must_equal(duet_future_settle(e.gate, duet_ok()), 0);
        must_equal(end_of(a), 0);
        must_equal(end_of(b), 0);
        /* What has ended does not count any more. */
        must_equal(end_of(duet_submit(loop, return_ok, NULL)), 0);
        duet_future_unref(e.gate);
    }
    must_equal(duet_loop_close(loop, SURELY), 0);
}

static size_t touch_stack(size_t size)
{
    volatile char frame[4096];
    for (size_t i = 0; i < sizeof frame; i += 512)
        frame[i] = (char)i;
    size_t below = size > sizeof frame * 2 ? touch_stack(size - sizeof frame) : 0;
    return below + (size_t)frame[512] * 0 + sizeof frame;
}

static duet_result use_stack(void *size)
{
    must(touch_stack(*(size_t *)size) > 0);
    must_equal(duet_yield(), 0);
    must(touch_stack(*(size_t *)size) > 0);
    return duet_ok();
}

/* 12 */
thread_test(stack_sizes_are_as_asked_for)
{
    /* A recursion that uses a good half of each; sanitized frames are larger. */
    duet_loop_config config = {.stack_size = 1 << 20};
    duet_loop *loop = start_loop_with(&config);
    size_t use = (1 << 20) / 4;
    must_equal(end_of(duet_submit(loop, use_stack, &use)), 0);
    for (size_t size = 1 << 18; size <= 1 << 23; size = size * 2 + 1000) {
        duet_opts opts = {.stack_size = size};
        use = size / 4;
        must_equal(end_of(duet_submit_with(loop, use_stack, &use, &opts)), 0);
    }
    must_equal(duet_loop_close(loop, SURELY), 0);
    loop = start_loop();
    use = (256 << 10) / 4;
    must_equal(end_of(duet_submit(loop, use_stack, &use)), 0);
    must_equal(duet_loop_close(loop, SURELY), 0);
}

/* 30 */
thread_test(a_stack_size_that_is_too_small_is_raised_and_one_too_large_refused)
{
    duet_loop *loop;
    duet_loop_config small = {.stack_size = 1}, large = {.stack_size = (size_t)2 << 30};
    duet_opts tiny = {.stack_size = 1};
    must_equal(duet_loop_open(&loop, &large), -EINVAL);
    loop = start_loop_with(&small);
    must_equal(end_of(duet_submit(loop, be_innocent, NULL)), 0);
    must_equal(end_of(duet_submit_with(loop, be_innocent, NULL, &tiny)), 0);
    must_equal(duet_loop_close(loop, SURELY), 0);
    struct counted c = {0};
    duet_opts opts = {.stack_size = SIZE_MAX, .drop = count_drop_of};
    loop = start_loop();
    must_equal(end_of(duet_submit_with(loop, count_run, &c, &opts)), -EINVAL);
    must_equal(c.runs, 0);
    must_equal(c.drops, 1);
    must_equal(duet_loop_close(loop, SURELY), 0);
}

/* ---- Callbacks at a moment ---- */

struct appointment {
    duet_deadline at;
    duet_loop *loop;
    atomic_int runs;
};

static void keep_appointment(void *arg)
{
    struct appointment *a = arg;
    must(duet_now_ns() >= a->at.ns);
    must(duet_loop_self() == a->loop);
    atomic_fetch_add(&a->runs, 1);
}

static void check_call_at(void)
{
    const int64_t spans[] = {-1000000, 0, 1, 1000, 999999, 3000000};
    duet_loop *loop = start_loop();
    for (int round = 0; round < 10; round++) {
        for (size_t i = 0; i < sizeof spans / sizeof spans[0]; i++) {
            struct appointment a = {.at = duet_ns(spans[i]), .loop = loop};
            duet_future *f = duet_call_at(loop, a.at, keep_appointment, &a);
            must_equal(end_of(f), 0);
            must_equal(a.runs, 1); /* the future settles when it has run */
        }
    }
    must_equal(duet_loop_close(loop, SURELY), 0);
}

/* 32 */
thread_test(a_callback_at_a_moment_is_never_early_whoever_asks_for_it)
{
    by_every_kind(check_call_at);
}

/* 3, 32 */
coroutine_test(a_callback_at_a_moment_in_the_past_does_not_run_inline)
{
    struct appointment a = {.loop = duet_loop_self()};
    duet_future *f = duet_call_at(a.loop, DUET_NOW, keep_appointment, &a);
    must_equal(a.runs, 0);
    must_equal(end_of(f), 0);
    must_equal(a.runs, 1);
    return duet_ok();
}

/* A crowd of callbacks and of sleepers, between each other's moments. */
static void check_crowd(int slack_us)
{
    enum {
        CROWD = 200,
    };
    duet_loop_config config = {.timer_slack_us = slack_us};
    duet_loop *loop = start_loop_with(&config);
    struct appointment a[CROWD];
    duet_deadline until[CROWD];
    duet_future *f[2 * CROWD];
    for (int i = 0; i < CROWD; i++) {
        a[i] = (struct appointment){.at = duet_us(i * 37), .loop = loop};
        until[i] = duet_us((CROWD - i) * 41);
        f[2 * i] = duet_call_at(loop, a[i].at, keep_appointment, &a[i]);
        f[2 * i + 1] = duet_submit(loop, sleep_exactly, &until[i]);
    }
    for (int i = 0; i < 2 * CROWD; i++)
        must_equal(end_of(f[i]), 0);
    must_equal(duet_loop_close(loop, SURELY), 0);
}

/* 32: however many share a wake-up. */
static void in_a_crowd_nobody_is_early(void **state)
{
    (void)state;
    check_crowd(0);
    check_crowd(-1);
    check_crowd(1);
    check_crowd(20000);
}

static void check_call_at_cancelled(void)
{
    duet_loop *loop = start_loop();
    struct appointment a = {.loop = loop};
    for (int i = 0; i < 50; i++) {
        a.at = i % 3 == 0 ? DUET_NEVER : i % 3 == 1 ? duet_sec(3600) : SURELY;
        duet_future *f = duet_call_at(loop, a.at, keep_appointment, &a);
        if (i % 2 == 0) /* have it armed */
            must_equal(duet_call(loop, return_ok, NULL, SURELY, NULL), 0);
        duet_future_cancel(f);
        duet_future_cancel(f);
        must_equal(end_of(f), -ECANCELED);
    }
    must_equal(a.runs, 0);
    must_equal(duet_loop_close(loop, SURELY), 0);
    must_equal(a.runs, 0);
}

/* 13, 32 */
thread_test(a_callback_at_a_moment_that_is_cancelled_before_never_runs)
{
    by_every_kind(check_call_at_cancelled);
}

/* 16, 32: whoever is first, what the future says is what happened. */
thread_test(a_callback_at_a_moment_ran_or_was_cancelled_but_not_both)
{
    duet_loop *loop = start_loop();
    for (int i = 0; i < 500; i++) {
        struct appointment a = {.at = duet_us(i % 50), .loop = loop};
        duet_future *f = duet_call_at(loop, a.at, keep_appointment, &a);
        if (i % 2 == 0)
            while (duet_now_ns() < a.at.ns)
                ;
        duet_future_cancel(f);
        int err = end_of(f);
        must(err == 0 || err == -ECANCELED);
        must_equal(a.runs, err == 0);
    }
    must_equal(duet_loop_close(loop, SURELY), 0);
}

/* 38 */
thread_test(a_callback_at_a_moment_does_not_hold_up_the_end_of_its_loop)
{
    struct appointment a = {0};
    duet_loop *loop = duet_loop_ref(start_loop());
    duet_future *f = duet_call_at(loop, duet_sec(3600), keep_appointment, &a);
    must_equal(duet_loop_close(loop, SURELY), 0);
    must_equal(end_of(f), -ECANCELED);
    must_equal(end_of(duet_call_at(loop, DUET_NOW, keep_appointment, &a)), -ESHUTDOWN);
    duet_loop_unref(loop);
    must_equal(a.runs, 0);
}

/* ---- Callbacks soon ---- */

struct sequence {
    int next, size;
    duet_loop *loop;
    duet_future *done;
};

struct element {
    struct sequence *sequence;
    int number;
};

static void come_in_order(void *arg)
{
    struct element *e = arg;
    must_equal(e->number, e->sequence->next);
    must(duet_loop_self() == e->sequence->loop);
    if (++e->sequence->next == e->sequence->size)
        must_equal(duet_future_settle(e->sequence->done, duet_ok()), 0);
}

static duet_result start_in_order(void *arg)
{
    come_in_order(arg);
    return duet_ok();
}

enum {
    LONG = 1000
};

static void check_soon_order(void)
{
    static struct element elements[LONG]; /* one check runs at a time */
    duet_loop *loop = start_loop();
    struct sequence sequence = {.size = LONG, .loop = loop, .done = open_promise()};
    for (int i = 0; i < LONG; i++) {
        elements[i] = (struct element){&sequence, i};
        must_equal(duet_call_soon(loop, come_in_order, &elements[i]), 0);
    }
    must_equal(end_of(sequence.done), 0);
    must_equal(duet_loop_close(loop, SURELY), 0);
    must_equal(sequence.next, LONG);
}

/* 39 */
thread_test(callbacks_soon_run_in_the_order_of_their_thread)
{
    by_every_kind(check_soon_order);
}

static void check_submit_order(void)
{
    static struct element elements[LONG];
    duet_loop *loop = start_loop();
    struct sequence sequence = {.size = LONG, .loop = loop, .done = open_promise()};
    for (int i = 0; i < LONG; i++) {
        elements[i] = (struct element){&sequence, i};
        duet_future_unref(duet_submit(loop, start_in_order, &elements[i]));
    }
    must_equal(end_of(sequence.done), 0);
    must_equal(duet_loop_close(loop, SURELY), 0);
    must_equal(sequence.next, LONG);
}

/* 39 */
thread_test(what_one_thread_submits_starts_in_that_order)
{
    by_every_kind(check_submit_order);
}

/* 2, 39 */
coroutine_test(a_callback_soon_from_its_own_loop_runs_later_and_in_order)
{
    struct element elements[20];
    struct sequence sequence = {.size = 20, .loop = duet_loop_self(), .done = open_promise()};
    for (int i = 0; i < 20; i++) {
        elements[i] = (struct element){&sequence, i};
        must_equal(duet_call_soon(sequence.loop, come_in_order, &elements[i]), 0);
    }
    must_equal(sequence.next, 0);
    must_equal(end_of(sequence.done), 0);
    return duet_ok();
}

static struct {
    atomic_int drops;
    pthread_t thread;
} soon_drop;

static void note_soon_drop(void *arg)
{
    (void)arg;
    soon_drop.thread = pthread_self();
    atomic_fetch_add(&soon_drop.drops, 1);
}

/* 38 */
thread_test(a_callback_soon_whose_loop_never_ran_is_dropped_once)
{
    atomic_int calls = 0;
    duet_loop *loop;
    must_equal(duet_loop_open(&loop, NULL), 0);
    atomic_store(&soon_drop.drops, 0);
    must_equal(duet_call_soon_with(loop, count_drop, &calls, note_soon_drop), 0);
    must_equal(duet_call_soon_with(loop, count_drop, &calls, NULL), 0);
    must_equal(soon_drop.drops, 0);
    must_equal(duet_loop_close(loop, SURELY), 0);
    must_equal(soon_drop.drops, 1);
    must(pthread_equal(soon_drop.thread, pthread_self()));
    must_equal(calls, 0);
}

/* 38 */
thread_test(a_callback_soon_runs_or_is_dropped_and_after_an_error_neither)
{
    for (int round = 0; round < 30; round++) {
        duet_loop *loop = duet_loop_ref(start_loop());
        atomic_int calls = 0;
        int accepted = 0;
        atomic_store(&soon_drop.drops, 0);
        for (int i = 0; i < 50; i++) {
            if (i == 25)
                duet_loop_stop(loop);
            int rc = duet_call_soon_with(loop, count_drop, &calls, note_soon_drop);
            must(rc == 0 || (i >= 25 && rc == -ESHUTDOWN));
            accepted += rc == 0;
        }
        must_equal(accepted, 25); /* a stopped loop refuses at once */
        must_equal(duet_loop_close(loop, SURELY), 0);
        must_equal(duet_call_soon(loop, count_drop, &calls), -ESHUTDOWN);
        must_equal(calls + soon_drop.drops, accepted);
        duet_loop_unref(loop);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_are_copied_and_set_before_the_first_step),
        cmocka_unit_test(each_coroutine_keeps_its_own_name_across_waits),
        cmocka_unit_test(letting_go_of_the_handle_does_not_end_the_work),
        cmocka_unit_test(the_argument_is_dropped_once_after_the_body_and_before_the_end_is_seen),
        cmocka_unit_test(unknown_options_are_refused_and_the_argument_is_dropped),
        cmocka_unit_test(cancel_before_first_step_never_runs_the_body),
        cmocka_unit_test(cancel_before_first_step_holds_when_the_handle_is_let_go),
        cmocka_unit_test(cancel_before_the_loop_runs_never_runs_the_body),
        cmocka_unit_test(a_queued_job_that_is_cancelled_never_runs),
        cmocka_unit_test(once_cancelled_every_wait_fails_and_nothing_starts),
        cmocka_unit_test(cancelled_work_may_return_a_result_all_the_same),
        cmocka_unit_test(who_is_cancelled_does_not_drain_a_pool),
        cmocka_unit_test(cancelled_work_may_fail_in_its_own_way),
        cmocka_unit_test(a_shield_holds_cancellation_back_and_nests),
        cmocka_unit_test(a_cancellation_during_a_shield_comes_at_its_end),
        cmocka_unit_test(a_cancellation_does_not_wake_who_waits_under_a_shield),
        cmocka_unit_test(cancelling_wakes_a_parked_coroutine_from_every_wait),
        cmocka_unit_test(cancelling_from_a_thread_ends_every_wait),
        cmocka_unit_test(cancelling_what_has_ended_changes_nothing),
        cmocka_unit_test(a_cancellation_or_a_shield_is_not_inherited_by_the_next_work),
        cmocka_unit_test(a_settled_result_is_had_by_who_was_cancelled),
        cmocka_unit_test(a_deadline_in_the_past_tries_and_never_waits),
        cmocka_unit_test(moments_saturate),
        cmocka_unit_test(who_is_cancelled_in_the_turn_in_which_the_result_came_gets_the_result),
        cmocka_unit_test(who_gets_the_result_in_the_turn_in_which_it_was_cancelled_has_it),
        cmocka_unit_test(a_result_and_a_deadline_in_one_turn_are_a_result),
        cmocka_unit_test(nobody_wakes_early),
        cmocka_unit_test(none_of_many_sleepers_wakes_early_or_never),
        cmocka_unit_test(a_call_with_a_deadline_in_the_past_never_starts_the_function),
        cmocka_unit_test(a_call_with_a_deadline_just_past_never_starts_the_function),
        cmocka_unit_test(a_call_in_the_past_to_ones_own_loop_never_starts_the_function),
        cmocka_unit_test(a_call_speaks_of_itself_and_the_result_of_the_work),
        cmocka_unit_test(the_late_result_of_a_call_wins_over_its_deadline),
        cmocka_unit_test(a_call_returns_after_the_function_has_ended_also_at_its_deadline),
        cmocka_unit_test(cancelling_the_caller_ends_the_call_with_canceled_after_the_clean_up),
        cmocka_unit_test(of_nested_deadlines_the_one_that_passed_reports),
        cmocka_unit_test(a_wait_that_timed_out_leaves_the_work_alone),
        cmocka_unit_test(a_cancellation_from_a_thread_is_acknowledged_after_the_clean_up),
        cmocka_unit_test(a_coroutine_may_call_its_own_loop_and_is_suspended),
        cmocka_unit_test(a_call_in_a_bare_callback_is_refused_before_queueing),
        cmocka_unit_test(waiting_for_what_has_settled_does_not_starve_the_others),
        cmocka_unit_test(trying_what_is_pending_does_not_starve_the_others),
        cmocka_unit_test(sleeping_until_the_past_or_yielding_does_not_starve_the_others),
        cmocka_unit_test(ignoring_a_cancellation_does_not_starve_the_others),
        cmocka_unit_test(waiting_for_oneself_does_not_starve_the_others),
        cmocka_unit_test(calls_in_the_past_and_closes_do_not_starve_the_others),
        cmocka_unit_test(coroutines_and_callbacks_that_start_the_next_do_not_starve_a_timer),
        cmocka_unit_test(yielding_coroutines_take_turns),
        cmocka_unit_test(errno_is_kept_for_each_coroutine),
        cmocka_unit_test(errno_is_left_alone),
        cmocka_unit_test(a_coroutine_above_the_limit_is_refused_and_its_argument_dropped),
        cmocka_unit_test(stack_sizes_are_as_asked_for),
        cmocka_unit_test(a_stack_size_that_is_too_small_is_raised_and_one_too_large_refused),
        cmocka_unit_test(a_callback_at_a_moment_is_never_early_whoever_asks_for_it),
        cmocka_unit_test(in_a_crowd_nobody_is_early),
        cmocka_unit_test(a_callback_at_a_moment_in_the_past_does_not_run_inline),
        cmocka_unit_test(a_callback_at_a_moment_that_is_cancelled_before_never_runs),
        cmocka_unit_test(a_callback_at_a_moment_ran_or_was_cancelled_but_not_both),
        cmocka_unit_test(a_callback_at_a_moment_does_not_hold_up_the_end_of_its_loop),
        cmocka_unit_test(callbacks_soon_run_in_the_order_of_their_thread),
        cmocka_unit_test(what_one_thread_submits_starts_in_that_order),
        cmocka_unit_test(a_callback_soon_from_its_own_loop_runs_later_and_in_order),
        cmocka_unit_test(a_callback_soon_whose_loop_never_ran_is_dropped_once),
        cmocka_unit_test(a_callback_soon_runs_or_is_dropped_and_after_an_error_neither),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
