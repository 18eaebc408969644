/* Those who wait for futures come and go while others settle them: threads, jobs and coroutines,
 * with deadlines that pass as the result comes, cancelled as it comes, for one, for several, in a
 * select, by callbacks that are taken back. Whoever is answered sees the result, and the whole of
 * it; each future is settled by one; each value is taken or dropped once. */
#include "duet_test.h"

#include <duet/sync.h>
#include <sched.h>

enum {
    FUTURES = 12,
    LOOPS = 2,
    COROUTINES = 4, /* that wait */
    JOBS = 2, /* likewise */
    SETTLERS = 2,
    PARTIES = COROUTINES + JOBS + SETTLERS + 1
};

static duet_loop *loops[LOOPS];
static duet_pool *pool;
static atomic_long values_made, values_taken, values_dropped, callbacks_added, callbacks_ran;

/* What future i settles with: a failure, a number, or a value with its number in it. */
struct value {
    int number;
};

static duet_result result_of(int i)
{
    if (i % 3 == 0)
        return duet_err(-EIO);
    if (i % 3 == 1)
        return duet_i64(i);
    struct value *v = malloc(sizeof *v);
    must(v != NULL);
    v->number = i;
    atomic_fetch_add(&values_made, 1);
    return duet_ptr(v);
}

static void drop_value(void *value)
{
    atomic_fetch_add(&values_dropped, 1);
    free(value);
}

struct round {
    duet_future *fs[FUTURES];
    atomic_int settled_by[FUTURES];
    bool may_take; /* else a value can be looked into by all */
};

/* One who takes part in a round. */
struct party {
    struct round *round;
    uint64_t random;
    duet_future *work;
};

static void must_be_result(const struct round *round, int i, duet_result r)
{
    if (i % 3 == 0) {
        must_equal(r.err, -EIO);
        return;
    }
    must_equal(r.err, 0);
    if (i % 3 == 1)
        must_equal(duet_as_i64(r), i);
    else if (!round->may_take)
        must_equal(((struct value *)duet_as_ptr(r))->number, i);
}

static void must_look(const struct round *round, int i)
{
    must(duet_future_settled(round->fs[i]));
    must_be_result(round, i, duet_future_result(round->fs[i]));
}

static duet_deadline soon(uint64_t *random)
{
    return test_random(random) % 4 == 0 ? DUET_NOW : duet_us((int64_t)(test_random(random) % 40));
}

static void must_be_answer(int rc)
{
    must(rc == 0 || rc == -ETIME || (rc == -ECANCELED && duet_cancelled()));
}

/* Each party has a reference of its own to each, as DUET_SETTLER_HOLDS wants it. */
static void hold_all(struct round *round)
{
    for (int i = 0; i < FUTURES; i++)
        (void)duet_future_ref(round->fs[i]);
}

static void let_go_of_all(struct round *round)
{
    for (int i = 0; i < FUTURES; i++)
        duet_future_unref(round->fs[i]);
}

/* ---- Ways to wait ---- */

static void wait_for_one(struct party *me, int i)
{
    duet_result r;
    int rc = duet_future_wait(me->round->fs[i], soon(&me->random), &r);
    must_be_answer(rc);
    if (rc == 0) {
        must_be_result(me->round, i, r);
        must_look(me->round, i);
    }
}

static void wait_for_several(struct party *me, int from)
{
    int n = 1 + (int)(test_random(&me->random) % (uint64_t)(FUTURES - from));
    size_t index = FUTURES + 1;
    enum duet_until until = (enum duet_until)(test_random(&me->random) % 3);
    int rc =
        duet_future_wait_many(me->round->fs + from, (size_t)n, until, soon(&me->random), &index);
    must_be_answer(rc);
    if (rc < 0) {
        must_equal(index, FUTURES + 1);
    } else if (until == DUET_UNTIL_ALL || index == (size_t)n) {
        must_equal(index, n);
        must(until != DUET_UNTIL_ANY);
        for (int i = from; i < from + n; i++)
            must_look(me->round, i);
    } else {
        must(index < (size_t)n);
        must_look(me->round, from + (int)index);
        must(until == DUET_UNTIL_ANY || (from + (int)index) % 3 == 0);
    }
}

static void gather(struct party *me)
{
    duet_result results[FUTURES];
    int rc = duet_gather(me->round->fs, FUTURES, soon(&me->random), results);
    must_be_answer(rc);
    for (int i = 0; rc == 0 && i < FUTURES; i++)
        must_be_result(me->round, i, results[i]);
}

static void select_of_two(struct party *me, int i)
{
    int other = (i + 1) % FUTURES;
    duet_case cases[] = {duet_case_future(me->round->fs[i]),
                         duet_case_future(me->round->fs[other])};
    int rc = duet_select(cases, 2, soon(&me->random));
    must(rc >= 0 ? rc < 2 : rc == -ETIME || (rc == -ECANCELED && duet_cancelled()));
    if (rc >= 0)
        must_look(me->round, rc == 0 ? i : other);
}

static void count_callback(void *arg)
{
    (void)arg;
    atomic_fetch_add(&callbacks_ran, 1);
}

static void add_and_take_back(struct party *me, int i)
{
    duet_loop *loop = loops[test_random(&me->random) % LOOPS];
    void *mine = &me->random;
    must_equal(duet_future_then(me->round->fs[i], loop, count_callback, mine, count_callback), 0);
    atomic_fetch_add(&callbacks_added, 1);
    if (test_random(&me->random) % 4 == 0)
        wait_for_one(me, i);
    if (test_random(&me->random) % 4 && duet_future_forget(me->round->fs[i], count_callback, mine))
        atomic_fetch_sub(&callbacks_added, 1);
}

static void ref_and_unref(struct party *me, int i)
{
    duet_future *mine = duet_future_ref(me->round->fs[i]);
    (void)duet_future_settled(mine);
    must_be_answer(duet_future_wait(mine, soon(&me->random), NULL));
    duet_future_unref(mine);
}

/* A coroutine that is cancelled in its wait: it was, or it has the result. */
struct victim {
    struct round *round;
    int i;
};

static duet_result wait_for_it(void *arg)
{
    struct victim *v = arg;
    duet_result r;
    duet_future *mine = duet_future_ref(v->round->fs[v->i]);
    int rc = duet_future_wait(mine, SURELY, &r);
    if (rc == 0)
        must_be_result(v->round, v->i, r);
    else
        must_equal(rc, -ECANCELED);
    duet_future_unref(mine);
    return duet_i64(rc);
}

static void cancel_one_who_waits(struct party *me, int i)
{
    struct victim v = {me->round, i};
    duet_result r;
    int rc =
        duet_call(loops[test_random(&me->random) % LOOPS], wait_for_it, &v, soon(&me->random), &r);
    must_be_answer(rc);
    if (rc == 0 && r.err == 0 && duet_as_i64(r) == 0)
        must_look(me->round, i);
}

static void wait_in_a_group(struct party *me, int i)
{
    duet_group group = DUET_GROUP_INIT;
    struct victim v[3];
    for (int k = 0; k < 3; k++) {
        v[k] = (struct victim){me->round, (i + k) % FUTURES};
        int rc = duet_group_spawn(&group, loops[test_random(&me->random) % LOOPS], wait_for_it,
                                  &v[k], NULL);
        must(rc == 0 || rc == -ECANCELED);
    }
    if (test_random(&me->random) % 3 == 0)
        duet_group_cancel(&group);
    must_be_answer(duet_group_wait(&group, soon(&me->random), NULL));
    must_equal(duet_group_close(&group), 0);
}

static void take(struct party *me, int i)
{
    duet_result r;
    if (!me->round->may_take || i % 3 != 2)
        return;
    int rc = duet_future_take(me->round->fs[i], &r);
    must(rc == 0 || rc == -EALREADY || rc == -EAGAIN);
    if (rc < 0)
        return;
    must_equal(((struct value *)duet_as_ptr(r))->number, i);
    atomic_fetch_add(&values_taken, 1);
    free(r.as.ptr);
}

static void do_one_thing(struct party *me)
{
    int i = (int)(test_random(&me->random) % FUTURES);
    switch (test_random(&me->random) % 12) {
    case 0:
        wait_for_several(me, i);
        break;
    case 1:
        gather(me);
        break;
    case 2:
        select_of_two(me, i);
        break;
    case 3:
        add_and_take_back(me, i);
        break;
    case 4:
        ref_and_unref(me, i);
        break;
    case 5:
        cancel_one_who_waits(me, i);
        break;
    case 6:
        wait_in_a_group(me, i);
        break;
    case 7:
        take(me, i);
        break;
    default:
        wait_for_one(me, i);
    }
}

static bool all_settled(const struct round *round)
{
    for (int i = 0; i < FUTURES; i++)
        if (!duet_future_settled(round->fs[i]))
            return false;
    return true;
}

static duet_result come_and_go(void *arg)
{
    struct party *me = arg;
    while (!all_settled(me->round))
        do_one_thing(me);
    for (int i = 0; i < 4; i++)
        do_one_thing(me);
    for (int i = 0; i < FUTURES; i++)
        must_look(me->round, i);
    let_go_of_all(me->round);
    return duet_ok();
}

/* ---- Those who settle: each of them all, in an order of its own ---- */

static void settle_one(struct party *me, int i)
{
    duet_result r = result_of(i);
    int rc = duet_future_settle(me->round->fs[i], r);
    must(rc == 0 || rc == -EALREADY);
    if (rc == 0)
        must_equal(atomic_fetch_add(&me->round->settled_by[i], 1), 0);
    else if (r.kind == DUET_PTR)
        drop_value(r.as.ptr);
    must(duet_future_settled(me->round->fs[i]));
}

static duet_result settle_all(void *arg)
{
    struct party *me = arg;
    int first = (int)(test_random(&me->random) % FUTURES);
    for (int k = 0; k < FUTURES; k++) {
        switch (test_random(&me->random) % 4) {
        case 0:
            must_equal(duet_sleep(duet_us((int64_t)(test_random(&me->random) % 40))), 0);
            break;
        case 1:
            sched_yield();
            break;
        default:
            for (volatile uint64_t n = test_random(&me->random) % 2000; n > 0; n--)
                ;
        }
        settle_one(me, (first + k * 5) % FUTURES);
    }
    let_go_of_all(me->round);
    return duet_ok();
}

static void play(struct round *round, uint64_t *random)
{
    static const duet_opts opts = {.name = "promise", .drop_result = drop_value},
                           held = {.drop_result = drop_value, .flags = DUET_SETTLER_HOLDS};
    struct party parties[PARTIES];
    for (int i = 0; i < FUTURES; i++)
        must_equal(duet_future_open_with(&round->fs[i], test_random(random) % 4 ? &opts : &held),
                   0);
    for (int i = 0; i < PARTIES; i++) /* all, before any of them begins */
        hold_all(round);
    for (int i = 0; i < PARTIES; i++) {
        struct party *p = &parties[i];
        *p = (struct party){.round = round, .random = test_random(random)};
        if (i < COROUTINES)
            p->work = duet_submit(loops[i % LOOPS], come_and_go, p);
        else if (i < COROUTINES + JOBS)
            p->work = duet_pool_submit(pool, come_and_go, p);
        else if (i < COROUTINES + JOBS + SETTLERS)
            p->work = i % 2 ? duet_pool_submit(pool, settle_all, p)
                            : duet_submit(loops[test_random(random) % LOOPS], settle_all, p);
    }
    must_equal(come_and_go(&parties[PARTIES - 1]).err, 0); /* this thread */
    for (int i = 0; i < PARTIES - 1; i++) {
        duet_result r;
        must_equal(duet_future_wait(parties[i].work, SURELY, &r), 0);
        must_equal(r.err, 0);
        duet_future_unref(parties[i].work);
    }
    for (int i = 0; i < FUTURES; i++)
        must_equal(round->settled_by[i], 1);
    let_go_of_all(round);
}

static void open_all(void)
{
    const duet_pool_config config = {.workers_max = JOBS + SETTLERS};
    must_equal(duet_pool_open(&pool, &config), 0);
    for (int i = 0; i < LOOPS; i++) {
        const duet_loop_config with = {.spin_us = i ? 0 : -1};
        must_equal(duet_loop_start(&loops[i], &with), 0);
    }
    values_made = values_taken = values_dropped = callbacks_added = callbacks_ran = 0;
}

static void close_all(void)
{
    must_equal(duet_pool_close(pool, SURELY), 0);
    for (int i = 0; i < LOOPS; i++) {
        must_equal(duet_call(loops[i], return_ok, NULL, SURELY, NULL), 0);
        must_equal(duet_loop_close(loops[i], SURELY), 0);
    }
}

static void those_who_come_and_go_see_what_was_settled(void **state)
{
    (void)state;
    uint64_t random = test_seed();
    open_all();
    log_capture();
    for (int i = test_rounds(2000); i > 0; i--) {
        struct round round = {.may_take = i % 2};
        play(&round, &random);
    }
    close_all();
    must(!log_has("promise")); /* all failures were looked at */
    log_release();
    must_equal(callbacks_ran, callbacks_added);
    must_equal(values_taken + values_dropped, values_made);
}

/* ---- A handle is let go as the work ends, by several ---- */

static atomic_int let_go;

static duet_result make_value(void *arg)
{
    for (volatile uintptr_t n = (uintptr_t)arg % 500; n > 0; n--)
        ;
    return result_of(2);
}

static duet_result let_go_of_it(void *f)
{
    int rc = duet_future_wait(f, duet_us(10), NULL);
    must(rc == 0 || rc == -ETIME);
    if (rc < 0)
        duet_future_cancel(f);
    duet_future_unref(f);
    atomic_fetch_add(&let_go, 1);
    return duet_ok();
}

static void the_last_of_several_who_let_go_drops_the_value(void **state)
{
    (void)state;
    enum {
        HANDLES = 4
    };
    static const duet_opts opts = {.drop_result = drop_value};
    uint64_t random = test_seed();
    int rounds = test_rounds(8000);
    open_all();
    let_go = 0;
    for (int i = rounds; i > 0; i--) {
        duet_future *others[HANDLES];
        void *pause = (void *)(uintptr_t)test_random(&random);
        duet_future *f = i % 2 ? duet_submit_with(loops[0], make_value, pause, &opts)
                               : duet_pool_submit_with(pool, make_value, pause, &opts);
        for (int k = 0; k < HANDLES; k++) {
            duet_future_ref(f);
            others[k] = k % 2 ? duet_submit(loops[k / 2], let_go_of_it, f)
                              : duet_pool_submit(pool, let_go_of_it, f);
        }
        duet_future_unref(f);
        must_equal(duet_gather(others, HANDLES, SURELY, NULL), 0);
        for (int k = 0; k < HANDLES; k++)
            duet_future_unref(others[k]);
    }
    must_equal(duet_pool_drain(pool, SURELY, NULL), 0);
    close_all();
    must_equal(let_go, rounds * HANDLES);
    must_equal(values_dropped, values_made);
}

/* ---- A promise that is cancelled, settled and let go of at the same time ---- */

static duet_result settle_and_let_go(void *f)
{
    struct value *v = malloc(sizeof *v);
    must(v != NULL);
    v->number = 2;
    atomic_fetch_add(&values_made, 1);
    if (duet_future_settle(f, duet_ptr(v)) < 0)
        drop_value(v);
    duet_future_unref(f);
    return duet_ok();
}

static duet_result cancel_and_let_go(void *f)
{
    duet_future_cancel(f);
    must(duet_future_settled(f));
    duet_future_unref(f);
    return duet_ok();
}

static void a_promise_is_cancelled_or_settled(void **state)
{
    (void)state;
    static const duet_opts opts = {.drop_result = drop_value};
    uint64_t random = test_seed();
    open_all();
    for (int i = test_rounds(8000); i > 0; i--) {
        duet_future *f, *others[2];
        duet_result r;
        must_equal(duet_future_open_with(&f, &opts), 0);
        duet_future_ref(f);
        duet_future_ref(f);
        others[0] = duet_submit(loops[i % LOOPS], settle_and_let_go, f);
        others[1] = i % 3 ? duet_submit(loops[0], cancel_and_let_go, f)
                          : duet_pool_submit(pool, cancel_and_let_go, f);
        int rc = duet_future_wait(f, soon(&random), &r);
        if (rc == -ETIME)
            must_equal(duet_future_wait(f, SURELY, &r), 0);
        if (r.err == 0)
            must_equal(((struct value *)duet_as_ptr(r))->number, 2);
        else
            must_equal(r.err, -ECANCELED);
        duet_future_unref(f);
        must_equal(duet_gather(others, 2, SURELY, NULL), 0);
        duet_future_unref(others[0]);
        duet_future_unref(others[1]);
    }
    close_all();
    must_equal(values_dropped, values_made);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(those_who_come_and_go_see_what_was_settled),
        cmocka_unit_test(the_last_of_several_who_let_go_drops_the_value),
        cmocka_unit_test(a_promise_is_cancelled_or_settled),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
