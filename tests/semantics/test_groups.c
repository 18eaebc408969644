/* Groups: items 22 to 27. */
#include "duet_test.h"
#include "shared.h"

#include <malloc.h>
#include <sched.h>

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

/* The failure of a group, all of whose children end. */
static int failure_of(duet_group *group)
{
    duet_result r = duet_i64(99);
    must_equal(duet_group_wait(group, SURELY, &r), 0);
    must(r.err < 0 || r.kind == DUET_VOID);
    return r.err;
}

static void spawn(duet_group *group, duet_fn *fn, void *arg)
{
    must_equal(duet_group_spawn(group, NULL, fn, arg, NULL), 0);
}

/* A child that can be met, and counts how it ends. */
struct child {
    duet_future *ready, *go;
    int err; /* what it ends with */
    atomic_int runs, drops, cleaned;
    duet_group *group;
};

#define CHILD                                                                                      \
    {                                                                                              \
        .ready = open_promise(), .go = open_promise()                                              \
    }

static void child_close(struct child *c)
{
    duet_future_unref(c->ready);
    duet_future_unref(c->go);
}

static void drop_child(void *arg)
{
    atomic_fetch_add(&((struct child *)arg)->drops, 1);
}

static const duet_opts dropping = {.drop = drop_child};

static duet_result run_child(void *arg)
{
    struct child *c = arg;
    atomic_fetch_add(&c->runs, 1);
    return c->err ? duet_err(c->err) : duet_ok();
}

static duet_result end_after_go(void *arg)
{
    struct child *c = arg;
    atomic_fetch_add(&c->runs, 1);
    must_equal(duet_future_wait(c->go, SURELY, NULL), 0);
    return c->err ? duet_err(c->err) : duet_ok();
}

/* Waits until it is cancelled, and then takes its time: until go. */
static duet_result clean_up_until_go(void *arg)
{
    struct child *c = arg;
    atomic_fetch_add(&c->runs, 1);
    must_equal(duet_sleep(SURELY), -ECANCELED);
    must_equal(duet_future_settle(c->ready, duet_ok()), 0);
    duet_shield_begin();
    must_equal(duet_future_wait(c->go, SURELY, NULL), 0);
    duet_shield_end();
    atomic_fetch_add(&c->cleaned, 1);
    return duet_err(c->err ? c->err : -ECANCELED);
}

/* ---- Waiting and failing ---- */

/* 23 */
coroutine_test(a_group_waits_for_all_its_children)
{
    duet_group group = DUET_GROUP_INIT;
    struct child a = CHILD, b = CHILD;
    spawn(&group, end_after_go, &a);
    spawn(&group, end_after_go, &b);
    must_equal(duet_group_wait(&group, duet_ms(1), NULL), -ETIME);
    must_equal(a.runs + b.runs, 2);
    must_equal(duet_future_settle(a.go, duet_ok()), 0);
    must_equal(duet_group_wait(&group, duet_ms(1), NULL), -ETIME); /* and leaves them alone */
    must_equal(duet_group_wait(&group, DUET_NOW, NULL), -ETIME);
    must_equal(duet_future_settle(b.go, duet_ok()), 0);
    must_equal(failure_of(&group), 0);
    must_equal(failure_of(&group), 0);
    must_equal(duet_group_close(&group), 0);
    child_close(&a);
    child_close(&b);
    return duet_ok();
}

static duet_result wait_for_group(void *group)
{
    return duet_err(failure_of(group));
}

/* 6, 23 */
coroutine_test(several_may_wait_for_one_group)
{
    duet_group group = DUET_GROUP_INIT;
    duet_pool *pool = open_pool(2);
    duet_future *pending = duet_group_add(&group, open_promise());
    duet_future *waiters[4];
    for (int i = 0; i < 4; i++)
        waiters[i] = i % 2 == 0 ? duet_spawn(wait_for_group, &group)
                                : duet_pool_submit(pool, wait_for_group, &group);
    let_run();
    must_equal(duet_future_settle(pending, duet_err(-EIO)), 0);
    for (int i = 0; i < 4; i++)
        must_equal(end_of(waiters[i]), -EIO);
    must_equal(duet_group_close(&group), 0);
    must_equal(duet_pool_close(pool, SURELY), 0);
    return duet_ok();
}

/* 27 */
coroutine_test(an_empty_group_has_ended)
{
    duet_group group, zeroed;
    memset(&zeroed, 0, sizeof zeroed);
    group = (duet_group)DUET_GROUP_INIT;
    must_equal(duet_group_wait(&group, DUET_NOW, NULL), 0);
    must_equal(failure_of(&group), 0);
    must_equal(duet_group_close(&group), 0);
    must_equal(duet_group_close(&zeroed), 0);
    must_equal(failure_of(&zeroed), 0);
    spawn(&zeroed, return_ok, NULL);
    must_equal(failure_of(&zeroed), 0);
    must_equal(duet_group_close(&zeroed), 0);
    return duet_ok();
}

/* 23 */
coroutine_test(the_first_failure_cancels_the_siblings_and_waits_for_all)
{
    duet_group group = DUET_GROUP_INIT;
    struct child sibling = CHILD, failing = CHILD;
    duet_result r = duet_ok();
    failing.err = -EIO;
    sibling.err = -EPIPE; /* a second failure, which is not the first */
    spawn(&group, clean_up_until_go, &sibling);
    spawn(&group, end_after_go, &failing);
    let_run();
    must_equal(duet_future_settle(failing.go, duet_ok()), 0);
    must_equal(error_of(sibling.ready), 0); /* it was cancelled, and is cleaning up */
    must_equal(duet_group_wait(&group, duet_ms(1), NULL), -ETIME);
    must_equal(sibling.cleaned, 0);
    must_equal(duet_future_settle(sibling.go, duet_ok()), 0);
    must_equal(duet_group_wait(&group, SURELY, &r), 0);
    must_equal(r.err, -EIO);
    must_equal(sibling.cleaned, 1);
    must_equal(duet_group_close(&group), 0);
    child_close(&sibling);
    child_close(&failing);
    return duet_ok();
}

/* 23 */
coroutine_test(a_failure_cancels_a_sibling_before_its_first_step)
{
    duet_group group = DUET_GROUP_INIT;
    struct child sibling = CHILD;
    duet_future *f = duet_group_add(&group, open_promise());
    must_equal(duet_group_spawn(&group, NULL, run_child, &sibling, &dropping), 0);
    must_equal(duet_future_settle(f, duet_err(-EIO)), 0);
    must_equal(failure_of(&group), -EIO);
    must_equal(sibling.runs, 0);
    must_equal(sibling.drops, 1);
    must_equal(duet_group_close(&group), 0);
    must_equal(sibling.drops, 1);
    child_close(&sibling);
    return duet_ok();
}

/* 22: the three ways to wait for several, and what each does about a failure. */
coroutine_test(gather_and_until_failure_let_the_others_go_on_and_a_group_does_not)
{
    for (int way = 0; way < 3; way++) {
        struct child other = CHILD;
        duet_group group = DUET_GROUP_INIT;
        duet_future *fs[] = {duet_spawn(fail_eio, NULL), duet_spawn(end_after_go, &other)};
        if (way == 0) {
            duet_result r[2];
            must_equal(duet_gather(fs, 2, duet_ms(1), r), -ETIME);
            must(duet_future_settled(fs[0]));
            must(!duet_future_settled(fs[1]));
            must_equal(duet_future_settle(other.go, duet_ok()), 0);
            must_equal(duet_gather(fs, 2, SURELY, r), 0);
            must_equal(r[0].err, -EIO);
            must_equal(r[1].err, 0);
        } else if (way == 1) {
            size_t index = 7;
            must_equal(duet_future_wait_many(fs, 2, DUET_UNTIL_FAILURE, SURELY, &index), 0);
            must_equal(index, 0);
            let_run();
            must(!duet_future_settled(fs[1]));
            must_equal(duet_future_settle(other.go, duet_ok()), 0);
            must_equal(error_of(fs[1]), 0);
        } else {
            duet_future_close(fs[1], NULL);
            fs[1] = duet_spawn(sleep_long, NULL);
            for (int i = 0; i < 2; i++)
                duet_group_add(&group, duet_future_ref(fs[i]));
            must_equal(failure_of(&group), -EIO);
            must_equal(error_of(fs[1]), -ECANCELED);
            must_equal(duet_group_close(&group), 0);
        }
        duet_future_unref(fs[0]);
        duet_future_unref(fs[1]);
        child_close(&other);
    }
    return duet_ok();
}

/* 23 */
coroutine_test(a_child_that_was_cancelled_alone_is_no_failure)
{
    duet_group group = DUET_GROUP_INIT;
    struct child other = CHILD;
    duet_future *f = duet_spawn(sleep_long, NULL);
    must(duet_group_add(&group, duet_future_ref(f)) == f);
    spawn(&group, end_after_go, &other);
    let_run();
    duet_future_cancel(f);
    must_equal(end_of(f), -ECANCELED);
    let_run();
    spawn(&group, return_ok, NULL); /* it still accepts */
    must_equal(duet_future_settle(other.go, duet_ok()), 0);
    must_equal(failure_of(&group), 0);
    must_equal(duet_group_close(&group), 0);
    child_close(&other);
    return duet_ok();
}

/* 23, 27 */
coroutine_test(a_cancelled_group_has_not_failed_but_a_child_of_it_can)
{
    for (int i = 0; i < 2; i++) {
        duet_group group = DUET_GROUP_INIT;
        struct child c = CHILD;
        c.err = i == 0 ? 0 : -EIO;
        spawn(&group, clean_up_until_go, &c);
        spawn(&group, sleep_long, NULL);
        let_run();
        duet_group_cancel(&group);
        must_equal(duet_future_settle(c.go, duet_ok()), 0);
        must_equal(failure_of(&group), c.err);
        must_equal(duet_group_close(&group), 0);
        child_close(&c);
    }
    return duet_ok();
}

/* 23 */
thread_test(a_failure_that_no_wait_returned_is_reported_at_close)
{
    log_capture();
    for (int i = 0; i < 3; i++) {
        duet_group group = DUET_GROUP_INIT;
        duet_future *f;
        duet_opts opts = {.name = i == 0 ? "seen-child" : i == 1 ? "unseen-child" : "calm-child"};
        must_equal(duet_future_open_with(&f, &opts), 0);
        duet_group_add(&group, f);
        if (i < 2)
            must_equal(duet_future_settle(f, duet_err(-EIO)), 0);
        if (i == 0)
            must_equal(failure_of(&group), -EIO);
        must_equal(duet_group_close(&group), 0);
    }
    must_equal(log_count("seen-child"), 1); /* a part of the other name, too */
    must_equal(log_count("unseen-child"), 1);
    must_equal(log_count("calm-child"), 0);
    log_release();
}

static duet_result abandon_failing_group(void *unused)
{
    (void)unused;
    duet_group group = DUET_GROUP_INIT;
    duet_opts opts = {.name = "forgotten-child"};
    must_equal(duet_group_spawn(&group, NULL, fail_eio, NULL, &opts), 0);
    let_run();
    must_equal(duet_group_close(&group), 0);
    return duet_ok();
}

/* 8, 23 */
thread_test(the_failure_of_a_spawned_child_is_reported_at_close)
{
    log_capture();
    run_in_coroutine(abandon_failing_group, NULL);
    must(log_has("forgotten-child") || log_has("EIO"));
    log_release();
}

/* ---- A parent that is cancelled ---- */

struct parent {
    duet_future *me;
    struct child cleaner, failing;
};

static duet_result be_cancelled_in_wait(void *arg)
{
    struct parent *p = arg;
    duet_group group = DUET_GROUP_INIT;
    duet_result r = duet_i64(99);
    p->failing.err = -EIO;
    spawn(&group, clean_up_until_go, &p->cleaner);
    spawn(&group, end_after_go, &p->failing);
    int rc = duet_group_wait(&group, SURELY, &r);
    must_equal(rc, -ECANCELED);
    must(!p->cleaner.cleaned);
    must_equal(duet_future_settle(p->cleaner.go, duet_ok()), 0);
    duet_shield_begin();
    must_equal(duet_group_wait(&group, SURELY, &r), 0);
    duet_shield_end();
    must_equal(r.err, -EIO); /* the child's error is not lost … */
    must_equal(duet_sleep(DUET_NOW), -ECANCELED); /* … nor is the cancellation */
    must_equal(duet_group_close(&group), 0);
    return r;
}

/* 24 */
coroutine_test(a_parent_cancelled_while_a_child_failed_gets_both)
{
    struct parent p = {.cleaner = CHILD, .failing = CHILD};
    p.me = duet_spawn(be_cancelled_in_wait, &p);
    let_run();
    must_equal(duet_future_settle(p.failing.go, duet_ok()), 0);
    must_equal(error_of(p.cleaner.ready), 0);
    must(!duet_future_settled(p.me));
    duet_future_cancel(p.me);
    must_equal(end_of(p.me), -EIO);
    child_close(&p.cleaner);
    child_close(&p.failing);
    return duet_ok();
}

static duet_result wait_when_cancelled(void *arg)
{
    struct parent *p = arg;
    duet_group group = DUET_GROUP_INIT;
    duet_result r = duet_i64(99);
    spawn(&group, fail_eio, NULL);
    let_run();
    duet_future_cancel(p->me);
    must_equal(duet_group_wait(&group, SURELY, &r), 0);
    must_equal(r.err, -EIO);
    must_equal(duet_sleep(DUET_NOW), -ECANCELED);
    must_equal(duet_group_close(&group), 0);
    return duet_ok();
}

/* 16, 24: what has settled gives its result. */
coroutine_test(a_cancelled_parent_gets_the_failure_of_a_group_that_has_ended)
{
    struct parent p = {0};
    p.me = duet_spawn(wait_when_cancelled, &p);
    must_equal(end_of(p.me), 0);
    return duet_ok();
}

static duet_result wait_and_close(void *arg)
{
    struct parent *p = arg;
    duet_group group = DUET_GROUP_INIT;
    spawn(&group, clean_up_until_go, &p->cleaner);
    must_equal(duet_group_wait(&group, SURELY, NULL), -ECANCELED);
    must_equal(duet_group_wait(&group, SURELY, NULL), -ECANCELED);
    must(!duet_future_settled(p->cleaner.ready)); /* it was left alone */
    must_equal(duet_group_close(&group), 0); /* shielded by itself */
    must_equal(p->cleaner.cleaned, 1);
    return duet_ok();
}

/* 22, 24 */
coroutine_test(cancelling_a_waiting_parent_leaves_the_children_alone_and_close_ends_them)
{
    struct parent p = {.cleaner = CHILD};
    p.me = duet_spawn(wait_and_close, &p);
    let_run();
    duet_future_cancel(p.me);
    must_equal(error_of(p.cleaner.ready), 0);
    let_run();
    must(!duet_future_settled(p.me));
    must_equal(duet_future_settle(p.cleaner.go, duet_ok()), 0);
    must_equal(end_of(p.me), 0);
    child_close(&p.cleaner);
    return duet_ok();
}

/* ---- Starting in a group that ends ---- */

static void check_refusal(duet_group *group)
{
    struct child c = CHILD;
    must_equal(duet_group_spawn(group, NULL, run_child, &c, &dropping), -ECANCELED);
    must_equal(c.drops, 1);
    let_run();
    must_equal(c.drops, 1);
    must_equal(c.runs, 0);
    duet_future *f = duet_future_ref(open_promise());
    must(duet_group_add(group, f) == f);
    must_equal(error_of(f), -ECANCELED); /* a promise is cancelled at once */
    duet_future_unref(f);
    f = duet_spawn_with(run_child, &c, &dropping);
    must(duet_group_add(group, duet_future_ref(f)) == f);
    must_equal(end_of(f), -ECANCELED);
    must_equal(c.drops, 2);
    must_equal(c.runs, 0);
    child_close(&c);
}

/* 25 */
coroutine_test(a_cancelled_group_refuses_children_and_drops_their_argument)
{
    duet_group group = DUET_GROUP_INIT;
    duet_group_cancel(&group);
    check_refusal(&group);
    must_equal(failure_of(&group), 0);
    check_refusal(&group); /* a wait does not change that */
    must_equal(duet_group_close(&group), 0);
    return duet_ok();
}

/* 25 */
coroutine_test(a_failed_group_refuses_children_and_drops_their_argument)
{
    duet_group group = DUET_GROUP_INIT;
    duet_future *f = open_promise();
    must_equal(duet_future_settle(f, duet_err(-EIO)), 0);
    must(duet_group_add(&group, f) == f);
    check_refusal(&group);
    must_equal(failure_of(&group), -EIO);
    check_refusal(&group);
    must_equal(duet_group_close(&group), 0);
    /* And at the moment of the failure. */
    f = duet_group_add(&group, open_promise());
    must_equal(duet_future_settle(f, duet_err(-EIO)), 0);
    check_refusal(&group);
    must_equal(failure_of(&group), -EIO);
    must_equal(duet_group_close(&group), 0);
    return duet_ok();
}

/* 25 */
coroutine_test(a_refused_child_leaves_the_group_as_it_was)
{
    duet_group group = DUET_GROUP_INIT;
    struct child c = CHILD;
    duet_loop *stopped = duet_loop_ref(start_loop());
    duet_opts unknown = {.drop = drop_child, .flags = 1u << 20};
    must_equal(duet_loop_close(stopped, SURELY), 0);
    must_equal(duet_group_spawn(&group, NULL, run_child, &c, &unknown), -EINVAL);
    must_equal(c.drops, 1);
    must_equal(duet_group_spawn(&group, stopped, run_child, &c, &dropping), -ESHUTDOWN);
    must_equal(c.drops, 2);
    must_equal(c.runs, 0);
    must_equal(duet_group_wait(&group, DUET_NOW, NULL), 0);
    must_equal(duet_group_spawn(&group, NULL, run_child, &c, &dropping), 0);
    must_equal(failure_of(&group), 0);
    must_equal(c.runs, 1);
    must_equal(c.drops, 3);
    must_equal(duet_group_close(&group), 0);
    duet_loop_unref(stopped);
    child_close(&c);
    return duet_ok();
}

struct hydra {
    duet_group *group;
    atomic_int heads, refused;
};

static void refuse_head(void *arg)
{
    atomic_fetch_add(&((struct hydra *)arg)->refused, 1);
}

/* Spawns two more whenever it is cancelled. */
static duet_result grow_heads(void *arg)
{
    struct hydra *hydra = arg;
    duet_opts opts = {.drop = refuse_head};
    atomic_fetch_add(&hydra->heads, 1);
    must_equal(duet_sleep(SURELY), -ECANCELED);
    for (int i = 0; i < 2; i++)
        must_equal(duet_group_spawn(hydra->group, NULL, grow_heads, hydra, &opts), -ECANCELED);
    for (int i = 0; i < 2; i++)
        duet_group_add(hydra->group, duet_spawn_with(grow_heads, hydra, &opts));
    return duet_err(-EIO);
}

/* 26 */
coroutine_test(children_that_start_others_while_they_are_cancelled_still_end)
{
    log_capture(); /* the failures that are not the first may be reported */
    for (int way = 0; way < 3; way++) {
        duet_group group = DUET_GROUP_INIT;
        struct hydra hydra = {.group = &group};
        for (int i = 0; i < 10; i++)
            spawn(&group, grow_heads, &hydra);
        let_run();
        if (way == 0) {
            spawn(&group, fail_eio, NULL);
            must_equal(failure_of(&group), -EIO);
        } else if (way == 1) {
            duet_group_cancel(&group);
            must_equal(failure_of(&group), -EIO);
        }
        must_equal(duet_group_close(&group), 0);
        must_equal(hydra.heads, 10);
        must_equal(hydra.refused, 40);
    }
    log_release();
    return duet_ok();
}

static duet_result spawn_more(void *arg)
{
    struct child *c = arg;
    if (atomic_fetch_add(&c->runs, 1) < 50)
        spawn(c->group, spawn_more, c);
    return duet_ok();
}

/* 26 */
coroutine_test(a_group_waits_for_children_of_its_children)
{
    duet_group group = DUET_GROUP_INIT;
    struct child c = {.group = &group};
    spawn(&group, spawn_more, &c);
    must_equal(failure_of(&group), 0);
    must_equal(c.runs, 51);
    must_equal(duet_group_close(&group), 0);
    return duet_ok();
}

/* ---- Cancelling ---- */

/* 27 */
coroutine_test(cancel_is_idempotent_and_valid_before_and_after)
{
    duet_group group = DUET_GROUP_INIT;
    for (int round = 0; round < 3; round++) {
        spawn(&group, sleep_long, NULL);
        let_run();
        for (int i = 0; i < 3; i++)
            duet_group_cancel(&group);
        must_equal(failure_of(&group), 0);
        duet_group_cancel(&group);
        must_equal(failure_of(&group), 0);
        must_equal(duet_group_close(&group), 0);
        duet_group_cancel(&group); /* before there is anything in it */
        must_equal(duet_group_spawn(&group, NULL, return_ok, NULL, NULL), -ECANCELED);
        must_equal(duet_group_close(&group), 0);
    }
    return duet_ok();
}

static duet_result cancel_own_group(void *arg)
{
    struct child *c = arg;
    duet_group_cancel(c->group);
    must(duet_cancelled());
    must_equal(duet_yield(), -ECANCELED);
    return duet_ok();
}

/* 27 */
coroutine_test(a_child_that_cancels_its_group_is_cancelled_itself)
{
    duet_group group = DUET_GROUP_INIT;
    struct child c = {.group = &group};
    spawn(&group, sleep_long, NULL);
    spawn(&group, cancel_own_group, &c);
    must_equal(failure_of(&group), 0);
    must_equal(duet_group_close(&group), 0);
    return duet_ok();
}

/* ---- Who must not wait for a group ---- */

static duet_result wait_for_own_group(void *arg)
{
    struct child *c = arg;
    must_equal(duet_group_wait(c->group, duet_sec(20), NULL), -EDEADLK);
    must_equal(duet_group_close(c->group), -EDEADLK);
    atomic_fetch_add(&c->runs, 1);
    return duet_ok();
}

static void wait_in_callback(void *arg)
{
    struct child *c = arg;
    duet_group empty = DUET_GROUP_INIT;
    must_equal(duet_group_wait(c->group, SURELY, NULL), -EDEADLK);
    must_equal(duet_group_close(c->group), -EDEADLK);
    must_equal(duet_group_wait(&empty, SURELY, NULL), 0); /* can be answered at once */
    atomic_fetch_add(&c->runs, 1);
    must_equal(duet_future_settle(c->ready, duet_ok()), 0);
}

/* 9: also one that was added, and a job. */
coroutine_test(a_child_that_waits_for_its_group_gets_an_error)
{
    duet_pool *pool = open_pool(1);
    for (int i = 0; i < 3; i++) {
        duet_group group = DUET_GROUP_INIT;
        struct child c = CHILD;
        struct gate gate = GATE_INIT;
        c.group = &group;
        duet_future *sibling = duet_group_add(&group, open_promise());
        if (i == 0) {
            spawn(&group, wait_for_own_group, &c);
        } else if (i == 1) {
            duet_group_add(&group, duet_spawn(wait_for_own_group, &c));
        } else {
            /* The worker is held up until the job is in the group. */
            duet_future *blocker = duet_pool_submit(pool, gate_pass_job, &gate);
            duet_group_add(&group, duet_pool_submit(pool, wait_for_own_group, &c));
            gate_open(&gate);
            must_equal(end_of(blocker), 0);
        }
        for (int64_t limit = SURELY.ns; atomic_load(&c.runs) == 0;) {
            must(duet_now_ns() < limit);
            must_equal(duet_yield(), 0);
        }
        /* Neither has done anything to the group. */
        if (!duet_future_settled(sibling))
            must_equal(duet_future_settle(sibling, duet_ok()), 0);
        must_equal(error_of(sibling), 0);
        must_equal(failure_of(&group), 0);
        must_equal(c.runs, 1);
        must_equal(duet_group_close(&group), 0);
        child_close(&c);
    }
    must_equal(duet_pool_close(pool, SURELY), 0);
    return duet_ok();
}

/* 10 */
coroutine_test(a_bare_callback_that_waits_for_a_group_gets_an_error)
{
    duet_group group = DUET_GROUP_INIT;
    struct child c = CHILD;
    c.group = &group;
    spawn(&group, end_after_go, &c);
    let_run();
    must_equal(duet_call_soon(duet_loop_self(), wait_in_callback, &c), 0);
    must_equal(error_of(c.ready), 0);
    must_equal(duet_future_settle(c.go, duet_ok()), 0);
    must_equal(failure_of(&group), 0);
    must_equal(duet_group_close(&group), 0);
    child_close(&c);
    return duet_ok();
}

/* ---- What is added ---- */

/* 23 */
coroutine_test(what_was_added_is_borrowed_until_the_close)
{
    atomic_int drops = 0;
    duet_group group = DUET_GROUP_INIT;
    duet_opts opts = {.drop_result = count_drop};
    duet_pool *pool = open_pool(1);
    duet_future *coroutine = duet_group_add(&group, duet_spawn_with(return_arg, &drops, &opts));
    duet_future *job =
        duet_group_add(&group, duet_pool_submit_with(pool, return_arg, &drops, &opts));
    duet_future *pending = duet_group_add(&group, open_promise());
    must_equal(error_of(coroutine), 0);
    must_equal(error_of(job), 0);
    must_equal(duet_group_wait(&group, DUET_NOW, NULL), -ETIME);
    must_equal(duet_future_settle(pending, duet_i64(5)), 0);
    must_equal(failure_of(&group), 0);
    must(duet_as_ptr(duet_future_result(coroutine)) == &drops);
    must(duet_as_ptr(duet_future_result(job)) == &drops);
    must_equal(duet_as_i64(duet_future_result(pending)), 5);
    must_equal(drops, 0);
    must_equal(duet_group_close(&group), 0);
    must_equal(duet_pool_close(pool, SURELY), 0); /* the worker may have been the last to let go */
    must_equal(drops, 2);
    return duet_ok();
}

/* 23 */
coroutine_test(a_failure_of_what_was_added_cancels_coroutines_jobs_and_promises)
{
    duet_group group = DUET_GROUP_INIT;
    duet_pool *pool = open_pool(2);
    struct child c = CHILD;
    duet_future *f = duet_group_add(&group, open_promise());
    duet_future *job = duet_group_add(&group, duet_pool_submit(pool, sleep_long, NULL));
    duet_future *other = duet_group_add(&group, open_promise());
    spawn(&group, clean_up_until_go, &c);
    let_run();
    must_equal(duet_future_settle(c.go, duet_ok()), 0);
    must_equal(duet_future_settle(f, duet_err(-ENOLINK)), 0);
    must_equal(failure_of(&group), -ENOLINK);
    must_equal(c.cleaned, 1);
    must_equal(error_of(job), -ECANCELED);
    must_equal(error_of(other), -ECANCELED);
    must_equal(duet_group_close(&group), 0);
    must_equal(duet_pool_close(pool, SURELY), 0);
    child_close(&c);
    return duet_ok();
}

/* 16, 23 */
coroutine_test(what_has_settled_may_be_added)
{
    duet_group group = DUET_GROUP_INIT;
    duet_future *good = open_promise(), *cancelled = open_promise(), *bad = open_promise();
    must_equal(duet_future_settle(good, duet_i64(1)), 0);
    duet_future_cancel(cancelled);
    must_equal(duet_future_settle(bad, duet_err(-EIO)), 0);
    must(duet_group_add(&group, good) == good);
    must(duet_group_add(&group, cancelled) == cancelled);
    must_equal(duet_group_wait(&group, DUET_NOW, NULL), 0);
    must_equal(failure_of(&group), 0);
    must(duet_group_add(&group, bad) == bad);
    must_equal(failure_of(&group), -EIO);
    must_equal(duet_as_i64(duet_future_result(good)), 1);
    must_equal(duet_group_close(&group), 0);
    return duet_ok();
}

/* ---- Using it anew, and for long ---- */

/* 27 */
coroutine_test(a_group_may_be_used_anew_after_its_close)
{
    duet_group group = DUET_GROUP_INIT;
    for (int i = 0; i < 4; i++) {
        struct child c = CHILD;
        must_equal(duet_group_spawn(&group, NULL, run_child, &c, NULL), 0);
        must_equal(failure_of(&group), 0); /* nothing is left of the round before */
        must_equal(c.runs, 1);
        if (i == 1)
            duet_group_cancel(&group);
        if (i == 2) {
            spawn(&group, fail_eio, NULL);
            must_equal(failure_of(&group), -EIO);
        }
        must_equal(duet_group_close(&group), 0);
        must_equal(duet_group_close(&group), 0);
        child_close(&c);
    }
    return duet_ok();
}

/* 27 */
coroutine_test(a_group_accepts_more_after_a_wait)
{
    duet_group group = DUET_GROUP_INIT;
    struct child c = CHILD;
    for (int i = 0; i < 10; i++) {
        spawn(&group, run_child, &c);
        must_equal(failure_of(&group), 0);
        must_equal(c.runs, i + 1);
    }
    c.err = -EIO;
    spawn(&group, run_child, &c);
    must_equal(failure_of(&group), -EIO);
    must_equal(failure_of(&group), -EIO);
    must_equal(duet_group_close(&group), 0);
    child_close(&c);
    return duet_ok();
}

/* 27 */
coroutine_test(a_child_that_has_ended_is_let_go_while_the_group_lives)
{
    atomic_int values_dropped = 0;
    duet_group group = DUET_GROUP_INIT;
    struct child c = CHILD;
    duet_opts opts = {.drop_result = count_drop};
    spawn(&group, end_after_go, &c); /* it goes on all the time */
    for (int i = 0; i < 10; i++) {
        must_equal(duet_group_spawn(&group, NULL, return_arg, &values_dropped, &opts), 0);
        let_run();
        must_equal(values_dropped, i + 1);
    }
    must_equal(duet_future_settle(c.go, duet_ok()), 0);
    must_equal(failure_of(&group), 0);
    must_equal(duet_group_close(&group), 0);
    must_equal(values_dropped, 10);
    child_close(&c);
    return duet_ok();
}

static void spawn_batches(duet_group *group, duet_loop *loop, struct child *c, int n)
{
    enum {
        BATCH = 100
    };
    for (int done = 0; done < n; done += BATCH) {
        int target = atomic_load(&c->drops) + BATCH;
        for (int i = 0; i < BATCH; i++)
            must_equal(duet_group_spawn(group, loop, run_child, c, &dropping), 0);
        for (int64_t limit = SURELY.ns; atomic_load(&c->drops) < target;) {
            must(duet_now_ns() < limit);
            must_equal(duet_yield(), 0);
        }
    }
}

/* 27 */
coroutine_test(a_hundred_thousand_children_leave_no_memory_behind)
{
#ifdef TEST_SANITIZED
    enum {
        WARM_UP = 200,
        CHILDREN = 2000
    }; /* whose allocators do not count this way */
#else
    enum {
        WARM_UP = 2000,
        CHILDREN = 100000
    };
#endif
    duet_group group = DUET_GROUP_INIT;
    struct child c = CHILD, first = CHILD;
    spawn(&group, end_after_go, &first);
    spawn_batches(&group, NULL, &c, WARM_UP);
    size_t before = mallinfo2().uordblks + mallinfo2().hblkhd;
    spawn_batches(&group, NULL, &c, CHILDREN);
    size_t after = mallinfo2().uordblks + mallinfo2().hblkhd;
    must_equal(c.runs, WARM_UP + CHILDREN);
    must(after < before + 256 * 1024); /* fewer than 3 bytes a child */
    must_equal(duet_future_settle(first.go, duet_ok()), 0);
    must_equal(failure_of(&group), 0);
    must_equal(duet_group_close(&group), 0);
    child_close(&c);
    child_close(&first);
    return duet_ok();
}

/* ---- Several loops ---- */

/* 23 */
thread_test(children_may_live_on_several_loops_and_their_parent_on_a_thread)
{
    enum {
        EACH = 50
    };
    duet_loop *loops[3] = {start_loop(), start_loop(), start_loop()};
    for (int round = 0; round < 5; round++) {
        duet_group group = DUET_GROUP_INIT;
        struct child failing = CHILD, good = CHILD;
        failing.err = -EIO;
        for (int i = 0; i < 3 * EACH; i++) {
            must_equal(duet_group_spawn(&group, loops[i % 3], sleep_long, NULL, NULL), 0);
            must_equal(duet_group_spawn(&group, loops[i % 3], run_child, &good, &dropping), 0);
        }
        must_equal(duet_group_spawn(&group, loops[0], end_after_go, &failing, &dropping), 0);
        must_equal(duet_group_wait(&group, duet_ms(1), NULL), -ETIME);
        must_equal(failing.drops, 0);
        /* All may be cancelled before their first step, but for this one, which is waiting. */
        for (int64_t limit = SURELY.ns; atomic_load(&failing.runs) == 0; sched_yield())
            must(duet_now_ns() < limit);
        must_equal(duet_future_settle(failing.go, duet_ok()), 0);
        must_equal(failure_of(&group), -EIO);
        must_equal(failing.drops, 1);
        must_equal(good.drops, 3 * EACH);
        must_equal(duet_group_close(&group), 0);
        child_close(&failing);
        child_close(&good);
    }
    for (int i = 0; i < 3; i++)
        must_equal(duet_loop_close(loops[i], SURELY), 0);
}

/* 23, 26: several fail at once, on several loops; exactly one is the failure. */
thread_test(of_failures_at_once_on_several_loops_one_is_the_first)
{
    duet_loop *loops[2] = {start_loop(), start_loop()};
    log_capture(); /* the failure that is not the first may be reported */
    for (int round = 0; round < 100; round++) {
        duet_group group = DUET_GROUP_INIT;
        struct child a = {.err = -EIO}, b = {.err = -EPIPE};
        int expected_refusals = 0;
        must_equal(duet_group_spawn(&group, loops[0], run_child, &a, &dropping), 0);
        int rc = duet_group_spawn(&group, loops[1], run_child, &b, &dropping);
        must(rc == 0 || rc == -ECANCELED); /* the first may have failed already */
        expected_refusals += rc < 0;
        int err = failure_of(&group);
        must(err == -EIO || (err == -EPIPE && expected_refusals == 0));
        must_equal(failure_of(&group), err);
        must_equal(duet_group_close(&group), 0);
        must_equal(a.drops, 1);
        must_equal(b.drops, 1);
    }
    for (int i = 0; i < 2; i++)
        must_equal(duet_loop_close(loops[i], SURELY), 0);
    log_release();
}

/* 25, 26: each spawn is in time, or is refused, or is cancelled as soon as it is in the group. */
thread_test(a_spawn_may_race_with_a_failure_on_another_loop)
{
    duet_loop *loops[2] = {start_loop(), start_loop()};
    for (int round = 0; round < 3000; round++) {
        duet_group group = DUET_GROUP_INIT;
        struct child failing = {.err = -EIO}, others = {0};
        int spawned = 0, rc;
        must_equal(duet_group_spawn(&group, loops[0], run_child, &failing, &dropping), 0);
        do {
            rc = duet_group_spawn(&group, loops[1], run_child, &others, &dropping);
            spawned++;
            must(rc == 0 || rc == -ECANCELED);
        } while (rc == 0 && spawned < 500);
        must_equal(failure_of(&group), -EIO);
        must_equal(others.drops, spawned);
        must(others.runs <= spawned - (rc < 0));
        must_equal(duet_group_close(&group), 0);
    }
    for (int i = 0; i < 2; i++)
        must_equal(duet_loop_close(loops[i], SURELY), 0);
}

struct remote {
    duet_group *group;
    struct child *child;
    duet_loop *loop;
};

static duet_result spawn_remotely(void *arg)
{
    struct remote *r = arg;
    spawn_batches(r->group, r->loop, r->child, 1000);
    return duet_ok();
}

/* 23, 27: loops that start children on each other, in one group. */
thread_test(a_group_may_be_filled_from_several_loops_at_once)
{
    duet_loop *loops[2] = {start_loop(), start_loop()};
    duet_group group = DUET_GROUP_INIT;
    struct child children[2] = {{0}, {0}};
    struct remote remotes[2];
    duet_future *fs[2];
    for (int i = 0; i < 2; i++) {
        remotes[i] = (struct remote){&group, &children[i], loops[1 - i]};
        fs[i] = duet_submit(loops[i], spawn_remotely, &remotes[i]);
    }
    for (int i = 0; i < 2; i++)
        must_equal(end_of(fs[i]), 0);
    must_equal(failure_of(&group), 0);
    must_equal(duet_group_close(&group), 0);
    for (int i = 0; i < 2; i++) {
        must_equal(children[i].runs, 1000);
        must_equal(children[i].drops, 1000);
        must_equal(duet_loop_close(loops[i], SURELY), 0);
    }
}

static duet_result use_group_once(void *arg)
{
    duet_loop **loops = arg;
    duet_group *group = malloc(sizeof *group); /* so that a use after the close is seen */
    struct child c = {0};
    must(group != NULL);
    memset(group, 0, sizeof *group);
    for (int i = 0; i < 6; i++)
        must_equal(duet_group_spawn(group, loops[i % 2], run_child, &c, &dropping), 0);
    must_equal(failure_of(group), 0);
    must_equal(duet_group_close(group), 0);
    free(group);
    must_equal(c.runs, 6);
    must_equal(c.drops, 6);
    return duet_ok();
}

/* 23: the last child may still be on its way out when its parent frees the group. */
thread_test(a_group_may_be_freed_as_soon_as_it_is_closed)
{
    duet_loop *loops[2] = {start_loop(), start_loop()};
    for (int i = 0; i < 300; i++) {
        if (i % 2 == 0)
            use_group_once(loops);
        else
            must_equal(duet_call(loops[0], use_group_once, loops, SURELY, NULL), 0);
    }
    for (int i = 0; i < 2; i++)
        must_equal(duet_loop_close(loops[i], SURELY), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_group_waits_for_all_its_children),
        cmocka_unit_test(several_may_wait_for_one_group),
        cmocka_unit_test(an_empty_group_has_ended),
        cmocka_unit_test(the_first_failure_cancels_the_siblings_and_waits_for_all),
        cmocka_unit_test(a_failure_cancels_a_sibling_before_its_first_step),
        cmocka_unit_test(gather_and_until_failure_let_the_others_go_on_and_a_group_does_not),
        cmocka_unit_test(a_child_that_was_cancelled_alone_is_no_failure),
        cmocka_unit_test(a_cancelled_group_has_not_failed_but_a_child_of_it_can),
        cmocka_unit_test(a_failure_that_no_wait_returned_is_reported_at_close),
        cmocka_unit_test(the_failure_of_a_spawned_child_is_reported_at_close),
        cmocka_unit_test(a_parent_cancelled_while_a_child_failed_gets_both),
        cmocka_unit_test(a_cancelled_parent_gets_the_failure_of_a_group_that_has_ended),
        cmocka_unit_test(cancelling_a_waiting_parent_leaves_the_children_alone_and_close_ends_them),
        cmocka_unit_test(a_cancelled_group_refuses_children_and_drops_their_argument),
        cmocka_unit_test(a_failed_group_refuses_children_and_drops_their_argument),
        cmocka_unit_test(a_refused_child_leaves_the_group_as_it_was),
        cmocka_unit_test(children_that_start_others_while_they_are_cancelled_still_end),
        cmocka_unit_test(a_group_waits_for_children_of_its_children),
        cmocka_unit_test(cancel_is_idempotent_and_valid_before_and_after),
        cmocka_unit_test(a_child_that_cancels_its_group_is_cancelled_itself),
        cmocka_unit_test(a_child_that_waits_for_its_group_gets_an_error),
        cmocka_unit_test(a_bare_callback_that_waits_for_a_group_gets_an_error),
        cmocka_unit_test(what_was_added_is_borrowed_until_the_close),
        cmocka_unit_test(a_failure_of_what_was_added_cancels_coroutines_jobs_and_promises),
        cmocka_unit_test(what_has_settled_may_be_added),
        cmocka_unit_test(a_group_may_be_used_anew_after_its_close),
        cmocka_unit_test(a_group_accepts_more_after_a_wait),
        cmocka_unit_test(a_child_that_has_ended_is_let_go_while_the_group_lives),
        cmocka_unit_test(a_hundred_thousand_children_leave_no_memory_behind),
        cmocka_unit_test(children_may_live_on_several_loops_and_their_parent_on_a_thread),
        cmocka_unit_test(of_failures_at_once_on_several_loops_one_is_the_first),
        cmocka_unit_test(a_spawn_may_race_with_a_failure_on_another_loop),
        cmocka_unit_test(a_group_may_be_filled_from_several_loops_at_once),
        cmocka_unit_test(a_group_may_be_freed_as_soon_as_it_is_closed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
