/* What breaks a rule of the program aborts by the rule's name; a bad argument is -EINVAL and a line
 * in the log. The parent process never starts a thread nor a loop: everything happens in children.
 */
#include "duet_test.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- What the tests of this file share ---- */

/* Waits for the end and lets go. */
static duet_result finish(duet_future *f)
{
    duet_result r;
    must_equal(duet_future_wait(f, SURELY, &r), 0);
    duet_future_unref(f);
    return r;
}

/* In each child: a loop, a pool with one worker, and a promise that is pending. */
static duet_loop *loop;
static duet_pool *pool;
static duet_future *promise;
static atomic_int ran, dropped;

static void open_all(void)
{
    duet_pool_config config = {.workers_max = 1};
    must_equal(duet_loop_start(&loop, NULL), 0);
    must_equal(duet_pool_open(&pool, &config), 0);
    must_equal(duet_future_open(&promise), 0);
}

static void close_all(void)
{
    duet_future_unref(promise);
    must_equal(duet_pool_close(pool, SURELY), 0);
    must_equal(duet_loop_close(loop, SURELY), 0);
}

static duet_result count_run(void *arg)
{
    (void)arg;
    atomic_fetch_add(&ran, 1);
    return duet_ok();
}

static void call_run(void *arg)
{
    (void)count_run(arg);
}

static void drop_arg(void *arg)
{
    (void)arg;
    atomic_fetch_add(&dropped, 1);
}

static const duet_opts drop_opts = {.drop = drop_arg};

/* The error of a handle that must be settled by now. */
static int settled_err(duet_future *f)
{
    must(f != NULL);
    must(duet_future_settled(f));
    return finish(f).err;
}

/* Runs body in a child process and gives its exit status; a child that hangs is ended. */
static int in_child(int (*body)(const void *arg), const void *arg)
{
    int status;
    fflush(NULL);
    pid_t child = fork();
    must(child >= 0);
    if (child == 0) {
        alarm(60);
        exit(body(arg));
    }
    must(waitpid(child, &status, 0) == child);
    return status;
}

static int run_body(const void *arg)
{
    void (*const *body)(void) = arg;
    open_all();
    (*body)();
    close_all();
    return 0;
}

/* A test whose body, with its asserts, runs in a child that has a loop and a pool. */
static void must_pass_in_child(void (*body)(void))
{
    assert_int_equal(in_child(run_body, &body), 0);
}

/* ---- Broken rules ---- */

static void spawn_off_a_loop(void *arg)
{
    (void)arg;
    duet_future_unref(duet_spawn(return_ok, NULL));
}

static duet_result spawn_in_job(void *arg)
{
    duet_future_unref(duet_spawn_with(return_ok, arg, NULL));
    return duet_ok();
}

static void in_a_job(void *fn)
{
    open_all();
    (void)finish(duet_pool_submit(pool, *(duet_fn **)fn, NULL));
}

static void in_a_coroutine(void *fn)
{
    (void)duet_run(*(duet_fn **)fn, NULL, NULL);
}

static void in_a_callback(void *fn)
{
    open_all();
    (void)finish(duet_call_at(loop, DUET_NOW, *(duet_callback **)fn, NULL));
}

static void spawning_off_a_loop_aborts(void **state)
{
    (void)state;
    duet_fn *job = spawn_in_job;
    expect_death(spawn_off_a_loop, NULL, SIGABRT, "duet_spawn");
    expect_death(in_a_job, &job, SIGABRT, "duet_spawn");
}

static void yield_here(void *arg)
{
    (void)arg;
    (void)duet_yield();
}

static duet_result yield_in_job(void *arg)
{
    yield_here(arg);
    return duet_ok();
}

static void yielding_off_a_coroutine_aborts(void **state)
{
    (void)state;
    duet_fn *job = yield_in_job;
    duet_callback *callback = yield_here;
    expect_death(yield_here, NULL, SIGABRT, "duet_yield");
    expect_death(in_a_job, &job, SIGABRT, "duet_yield");
    expect_death(in_a_callback, &callback, SIGABRT, "duet_yield");
}

static void take_for_i64(void *r)
{
    (void)duet_as_i64(*(duet_result *)r);
}

static void take_for_f64(void *r)
{
    (void)duet_as_f64(*(duet_result *)r);
}

static void take_for_ptr(void *r)
{
    (void)duet_as_ptr(*(duet_result *)r);
}

/* base.h: a value of another kind, no value, and an error are none of that kind. */
static void taking_a_result_for_another_kind_aborts(void **state)
{
    (void)state;
    duet_result integer = duet_i64(1), real = duet_f64(1), pointer = duet_ptr(NULL);
    duet_result nothing = duet_ok(), error = duet_err(-EIO);
    expect_death(take_for_i64, &real, SIGABRT, "duet_as_i64");
    expect_death(take_for_i64, &pointer, SIGABRT, "duet_as_i64");
    expect_death(take_for_i64, &nothing, SIGABRT, "duet_as_i64");
    expect_death(take_for_i64, &error, SIGABRT, "duet_as_i64");
    expect_death(take_for_f64, &integer, SIGABRT, "duet_as_f64");
    expect_death(take_for_f64, &error, SIGABRT, "duet_as_f64");
    expect_death(take_for_ptr, &integer, SIGABRT, "duet_as_ptr");
    expect_death(take_for_ptr, &nothing, SIGABRT, "duet_as_ptr");
}

static void shield_end_here(void *arg)
{
    (void)arg;
    duet_shield_end();
}

static duet_result shield_end_once_too_often(void *arg)
{
    (void)arg;
    duet_shield_begin();
    duet_shield_end();
    duet_shield_end();
    return duet_ok();
}

static void ending_a_shield_that_was_not_begun_aborts(void **state)
{
    (void)state;
    duet_fn *fn = shield_end_once_too_often;
    expect_death(shield_end_here, NULL, SIGABRT, "duet_shield_end");
    expect_death(in_a_coroutine, &fn, SIGABRT, "duet_shield_end");
    expect_death(in_a_job, &fn, SIGABRT, "duet_shield_end");
}

static void look_at_a_pending_result(void *arg)
{
    (void)arg;
    must_equal(duet_future_open(&promise), 0);
    (void)duet_future_result(promise);
}

static void looking_at_a_pending_result_aborts(void **state)
{
    (void)state;
    expect_death(look_at_a_pending_result, NULL, SIGABRT, "duet_future_result");
}

static duet_result return_positive_err(void *arg)
{
    (void)arg;
    return (duet_result){.err = EIO};
}

static void submit_positive_err(void *arg)
{
    (void)arg;
    open_all();
    (void)finish(duet_submit(loop, return_positive_err, NULL));
}

static void submit_positive_err_job(void *arg)
{
    (void)arg;
    open_all();
    (void)finish(duet_pool_submit(pool, return_positive_err, NULL));
}

/* base.h: err is 0 or a negative errno. */
static void work_that_returns_a_positive_err_aborts(void **state)
{
    (void)state;
    duet_fn *fn = return_positive_err;
    expect_death(in_a_coroutine, &fn, SIGABRT, "negative errno");
    expect_death(submit_positive_err, NULL, SIGABRT, "negative errno");
    expect_death(submit_positive_err_job, NULL, SIGABRT, "negative errno");
}

static void add_to_two_groups(void *arg)
{
    (void)arg;
    duet_group one = DUET_GROUP_INIT, two = DUET_GROUP_INIT;
    must_equal(duet_future_open(&promise), 0);
    (void)duet_group_add(&one, duet_future_ref(promise));
    (void)duet_group_add(&two, promise);
}

/* group.h */
static void adding_a_future_to_a_second_group_aborts(void **state)
{
    (void)state;
    expect_death(add_to_two_groups, NULL, SIGABRT, "group");
}

/* ---- Bad arguments ---- */

struct bad {
    const char *what;
    int (*call)(void);
    int drops; /* how often the argument is dropped */
};

enum {
    RIGHT,
    WRONG_ERROR,
    NO_LINE,
    WRONG_DROPS
};

static int try_bad(const void *arg)
{
    const struct bad *bad = arg;
    open_all();
    log_capture();
    int err = bad->call();
    int lines = log_count("");
    log_release();
    close_all();
    if (err != -EINVAL)
        fprintf(stderr, "%s: %d instead of -EINVAL\n", bad->what, err);
    if (atomic_load(&ran) != 0 || atomic_load(&dropped) != bad->drops)
        fprintf(stderr, "%s: ran %d times, dropped %d times\n", bad->what, atomic_load(&ran),
                atomic_load(&dropped));
    if (lines != 1)
        fprintf(stderr, "%s: %d lines in the log\n", bad->what, lines);
    return err != -EINVAL                                                  ? WRONG_ERROR
           : atomic_load(&ran) != 0 || atomic_load(&dropped) != bad->drops ? WRONG_DROPS
           : lines != 1                                                    ? NO_LINE
                                                                           : RIGHT;
}

/* Each in a child of its own, so that one that crashes does not hide the others. */
static void must_be_einval(const struct bad *bad, size_t n)
{
    int failed = 0;
    for (size_t i = 0; i < n; i++) {
        int status = in_child(try_bad, &bad[i]);
        if (status != 0) {
            fprintf(stderr, "failed: %s (status %#x)\n", bad[i].what, (unsigned)status);
            failed++;
        }
    }
    assert_int_equal(failed, 0);
}

#define BAD(cases) must_be_einval(cases, sizeof(cases) / sizeof *(cases))

/* Starting work. */

static int submit_null_fn(void)
{
    return settled_err(duet_submit_with(loop, NULL, NULL, &drop_opts));
}

static int submit_null_loop(void)
{
    return settled_err(duet_submit_with(NULL, count_run, NULL, &drop_opts));
}

static int submit_plain_null_fn(void)
{
    return settled_err(duet_submit(loop, NULL, NULL));
}

static int pool_submit_null_fn(void)
{
    return settled_err(duet_pool_submit_with(pool, NULL, NULL, &drop_opts));
}

static int pool_submit_null_pool(void)
{
    return settled_err(duet_pool_submit_with(NULL, count_run, NULL, &drop_opts));
}

static duet_result spawn_null(void *arg)
{
    (void)arg;
    return duet_err(settled_err(duet_spawn_with(NULL, NULL, &drop_opts)));
}

static int spawn_null_fn(void)
{
    return finish(duet_submit(loop, spawn_null, NULL)).err;
}

static int call_null_fn(void)
{
    duet_result r = duet_i64(1);
    must_equal(duet_call_with(loop, NULL, NULL, &drop_opts, SURELY, &r), 0);
    return r.err;
}

static int call_null_loop(void)
{
    duet_result r = duet_i64(1);
    must_equal(duet_call_with(NULL, count_run, NULL, &drop_opts, SURELY, &r), 0);
    return r.err;
}

static int offload_null_fn(void)
{
    duet_result r = duet_i64(1);
    must_equal(duet_offload_with(pool, NULL, NULL, &drop_opts, SURELY, &r), 0);
    return r.err;
}

static int call_soon_null_fn(void)
{
    return duet_call_soon_with(loop, NULL, NULL, drop_arg);
}

static int call_soon_null_loop(void)
{
    return duet_call_soon_with(NULL, call_run, NULL, drop_arg);
}

static int call_at_null_fn(void)
{
    return settled_err(duet_call_at(loop, DUET_NOW, NULL, NULL));
}

static int call_at_null_loop(void)
{
    return settled_err(duet_call_at(NULL, DUET_NOW, call_run, NULL));
}

static int run_null_fn(void)
{
    duet_result r;
    return duet_run(NULL, NULL, &r);
}

static int group_spawn_null_fn(void)
{
    duet_group group = DUET_GROUP_INIT;
    int rc = duet_group_spawn(&group, loop, NULL, NULL, &drop_opts);
    must_equal(duet_group_close(&group), 0);
    return rc;
}

static int group_spawn_null_group(void)
{
    return duet_group_spawn(NULL, loop, count_run, NULL, &drop_opts);
}

/* 38: refused, dropped once, said once. */
static void starting_work_with_a_null_is_einval(void **state)
{
    (void)state;
    static const struct bad cases[] = {
        {"duet_submit_with without fn", submit_null_fn, 1},
        {"duet_submit_with without loop", submit_null_loop, 1},
        {"duet_submit without fn", submit_plain_null_fn, 0},
        {"duet_pool_submit_with without fn", pool_submit_null_fn, 1},
        {"duet_pool_submit_with without pool", pool_submit_null_pool, 1},
        {"duet_spawn_with without fn", spawn_null_fn, 1},
        {"duet_call_with without fn", call_null_fn, 1},
        {"duet_call_with without loop", call_null_loop, 1},
        {"duet_offload_with without fn", offload_null_fn, 1},
        {"duet_call_soon_with without fn", call_soon_null_fn, 0},
        {"duet_call_soon_with without loop", call_soon_null_loop, 0},
        {"duet_call_at without fn", call_at_null_fn, 0},
        {"duet_call_at without loop", call_at_null_loop, 0},
        {"duet_run without fn", run_null_fn, 0},
        {"duet_group_spawn without fn", group_spawn_null_fn, 1},
        {"duet_group_spawn without group", group_spawn_null_group, 1},
    };
    BAD(cases);
}

/* Options. */

static const duet_opts *bad_opts;

static int submit_bad_opts(void)
{
    return settled_err(duet_submit_with(loop, count_run, NULL, bad_opts));
}

static int pool_submit_bad_opts(void)
{
    return settled_err(duet_pool_submit_with(pool, count_run, NULL, bad_opts));
}

static duet_result spawn_bad(void *arg)
{
    (void)arg;
    return duet_err(settled_err(duet_spawn_with(count_run, NULL, bad_opts)));
}

static int spawn_bad_opts(void)
{
    return finish(duet_submit(loop, spawn_bad, NULL)).err;
}

static int call_bad_opts(void)
{
    duet_result r = duet_i64(1);
    must_equal(duet_call_with(loop, count_run, NULL, bad_opts, SURELY, &r), 0);
    return r.err;
}

static int offload_bad_opts(void)
{
    duet_result r = duet_i64(1);
    must_equal(duet_offload_with(pool, count_run, NULL, bad_opts, SURELY, &r), 0);
    return r.err;
}

static int group_spawn_bad_opts(void)
{
    duet_group group = DUET_GROUP_INIT;
    int rc = duet_group_spawn(&group, loop, count_run, NULL, bad_opts);
    must_equal(duet_group_close(&group), 0);
    return rc;
}

/* base.h: an unknown flag, a priority, something in reserved; wherever options are given. */
static void bad_options_are_einval_wherever_they_are_given(void **state)
{
    (void)state;
    static const duet_opts all[] = {
        {.drop = drop_arg, .flags = 1u << 31},   {.drop = drop_arg, .flags = 1u << 6},
        {.drop = drop_arg, .flags = UINT32_MAX}, {.drop = drop_arg, .priority = 2},
        {.drop = drop_arg, .reserved = {1}},     {.drop = drop_arg, .reserved = {0, 0, 0, 1}},
    };
    static const struct bad cases[] = {
        {"duet_submit_with", submit_bad_opts, 1},
        {"duet_pool_submit_with", pool_submit_bad_opts, 1},
        {"duet_spawn_with", spawn_bad_opts, 1},
        {"duet_call_with", call_bad_opts, 1},
        {"duet_offload_with", offload_bad_opts, 1},
        {"duet_group_spawn", group_spawn_bad_opts, 1},
    };
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        bad_opts = &all[i];
        BAD(cases);
    }
}

/* base.h: a coroutine's stack of absurd size; no address space would hold it. */
static void an_absurd_stack_for_a_coroutine_is_einval(void **state)
{
    (void)state;
    static const duet_opts all[] = {
        {.drop = drop_arg, .stack_size = SIZE_MAX},
        {.drop = drop_arg, .stack_size = SIZE_MAX / 2 + 2},
        {.drop = drop_arg, .stack_size = (size_t)1 << 62},
        {.drop = drop_arg, .stack_size = (size_t)1 << 47},
    };
    static const struct bad cases[] = {
        {"duet_submit_with", submit_bad_opts, 1},
        {"duet_spawn_with", spawn_bad_opts, 1},
        {"duet_call_with", call_bad_opts, 1},
    };
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        bad_opts = &all[i];
        BAD(cases);
    }
}

/* Futures. */

static int wait_null(void)
{
    return duet_future_wait(NULL, SURELY, NULL);
}

static int wait_many_null(void)
{
    return duet_future_wait_many(NULL, 2, DUET_UNTIL_ALL, SURELY, NULL);
}

static int wait_many_holding_null(void)
{
    duet_future *fs[] = {promise, NULL};
    return duet_future_wait_many(fs, 2, DUET_UNTIL_ANY, SURELY, NULL);
}

static int wait_many_until_when(void)
{
    return duet_future_wait_many(&promise, 1, (enum duet_until)3, SURELY, NULL);
}

static int wait_many_until_whenever(void)
{
    return duet_future_wait_many(&promise, 1, (enum duet_until) - 1, SURELY, NULL);
}

static int wait_many_any_of_none(void)
{
    return duet_future_wait_many(NULL, 0, DUET_UNTIL_ANY, SURELY, NULL);
}

static int gather_null(void)
{
    return duet_gather(NULL, 1, SURELY, NULL);
}

static int gather_holding_null(void)
{
    duet_future *fs[] = {NULL, promise};
    return duet_gather(fs, 2, SURELY, NULL);
}

static int take_null(void)
{
    duet_result r;
    return duet_future_take(NULL, &r);
}

static int close_null(void)
{
    duet_result r;
    return duet_future_close(NULL, &r);
}

static int open_null(void)
{
    return duet_future_open(NULL);
}

static int open_with_null(void)
{
    return duet_future_open_with(NULL, &(duet_opts){.name = "name"});
}

static int open_with_reserved(void)
{
    duet_future *f;
    return duet_future_open_with(&f, &(duet_opts){.reserved = {0, 1}});
}

static int open_with_unknown_flag(void)
{
    duet_future *f;
    return duet_future_open_with(&f, &(duet_opts){.flags = 1u << 20});
}

static int settle_null(void)
{
    return duet_future_settle(NULL, duet_ok());
}

static int settle_positive(void)
{
    return duet_future_settle(promise, (duet_result){.err = 5});
}

static int then_null_future(void)
{
    return duet_future_then(NULL, loop, call_run, NULL, drop_arg);
}

static int then_null_loop(void)
{
    return duet_future_then(promise, NULL, call_run, NULL, drop_arg);
}

static int then_null_fn(void)
{
    return duet_future_then(promise, loop, NULL, NULL, drop_arg);
}

static int settle_coroutines_future(void)
{
    duet_future *f = duet_submit(loop, sleep_long, NULL);
    int rc = duet_future_settle(f, duet_ok());
    must_equal(duet_future_close(f, NULL), 0);
    return rc;
}

static int settle_jobs_future(void)
{
    duet_future *f = duet_pool_submit(pool, sleep_long, NULL);
    int rc = duet_future_settle(f, duet_ok());
    must_equal(duet_future_close(f, NULL), 0);
    return rc;
}

static int settle_callbacks_future(void)
{
    duet_future *f = duet_call_at(loop, duet_sec(3600), call_run, NULL);
    int rc = duet_future_settle(f, duet_ok());
    must_equal(duet_future_close(f, NULL), 0);
    return rc;
}

static void bad_arguments_of_futures_are_einval(void **state)
{
    (void)state;
    static const struct bad cases[] = {
        {"duet_future_wait of NULL", wait_null, 0},
        {"duet_future_wait_many of NULL", wait_many_null, 0},
        {"duet_future_wait_many with a NULL", wait_many_holding_null, 0},
        {"duet_future_wait_many until 3", wait_many_until_when, 0},
        {"duet_future_wait_many until -1", wait_many_until_whenever, 0},
        {"duet_future_wait_many until any of none", wait_many_any_of_none, 0},
        {"duet_gather of NULL", gather_null, 0},
        {"duet_gather with a NULL", gather_holding_null, 0},
        {"duet_future_take of NULL", take_null, 0},
        {"duet_future_close of NULL", close_null, 0},
        {"duet_future_open to NULL", open_null, 0},
        {"duet_future_open_with to NULL", open_with_null, 0},
        {"duet_future_open_with reserved set", open_with_reserved, 0},
        {"duet_future_open_with an unknown flag", open_with_unknown_flag, 0},
        {"duet_future_settle of NULL", settle_null, 0},
        {"duet_future_settle with a positive err", settle_positive, 0},
        {"duet_future_settle of a coroutine's future", settle_coroutines_future, 0},
        {"duet_future_settle of a job's future", settle_jobs_future, 0},
        {"duet_future_settle of a callback's future", settle_callbacks_future, 0},
        {"duet_future_then of NULL", then_null_future, 0},
        {"duet_future_then without loop", then_null_loop, 0},
        {"duet_future_then without fn", then_null_fn, 0},
    };
    BAD(cases);
}

static void drop_result(void *ptr)
{
    count_drop(ptr);
}

static void settle_badly_then_well(void)
{
    atomic_int drops = 0;
    duet_future *f;
    duet_result r = {.err = 5, .kind = DUET_PTR, .as = {.ptr = &drops}};
    must_equal(duet_future_open_with(&f, &(duet_opts){.drop_result = drop_result}), 0);
    log_capture();
    must_equal(duet_future_settle(f, r), -EINVAL);
    log_release();
    must(!duet_future_settled(f));
    must_equal(atomic_load(&drops), 0); /* still the caller's */
    must_equal(duet_future_settle(f, duet_ptr(&drops)), 0);
    must_equal(duet_future_settle(f, duet_ptr(&drops)), -EALREADY);
    must_equal(atomic_load(&drops), 0);
    must_equal(duet_future_wait(f, DUET_NOW, &r), 0);
    must(duet_as_ptr(r) == &drops);
    duet_future_unref(f);
    must_equal(atomic_load(&drops), 1);
    duet_future_unref(NULL); /* fine */
}

/* 1: an error changes nothing, and the value stays the caller's. */
static void a_refused_settle_leaves_the_promise_as_it_was(void **state)
{
    (void)state;
    must_pass_in_child(settle_badly_then_well);
}

static duet_result settle_oneself(void *arg)
{
    must_equal(duet_future_wait(arg, SURELY, NULL), 0);
    duet_future *self = duet_as_ptr(duet_future_result(arg));
    must_equal(duet_future_settle(self, duet_i64(1)), -EINVAL);
    must(!duet_future_settled(self));
    return duet_i64(2);
}

static void settle_works_own_future(void)
{
    log_capture();
    duet_future *f = duet_submit(loop, settle_oneself, promise);
    must_equal(duet_future_settle(promise, duet_ptr(f)), 0);
    must_equal(duet_as_i64(finish(f)), 2);
    log_release();
}

/* future.h: only the work itself settles its future, by returning. */
static void a_works_own_future_takes_its_result_from_the_work_alone(void **state)
{
    (void)state;
    must_pass_in_child(settle_works_own_future);
}

static void forget_nothing(void)
{
    must(!duet_future_forget(NULL, call_run, NULL));
    must(!duet_future_forget(promise, NULL, NULL));
    must(!duet_future_forget(promise, call_run, NULL));
}

static void forgetting_what_is_not_there_is_false(void **state)
{
    (void)state;
    must_pass_in_child(forget_nothing);
}

/* Loops, pools and groups. */

static int loop_open_null(void)
{
    return duet_loop_open(NULL, NULL);
}

static int loop_start_null(void)
{
    return duet_loop_start(NULL, NULL);
}

static int loop_run_null(void)
{
    return duet_loop_run(NULL);
}

static int loop_close_null(void)
{
    return duet_loop_close(NULL, SURELY);
}

static int pool_open_null(void)
{
    return duet_pool_open(NULL, NULL);
}

static int pool_drain_null(void)
{
    return duet_pool_drain(NULL, SURELY, NULL);
}

static int pool_close_null(void)
{
    return duet_pool_close(NULL, SURELY);
}

static int group_wait_null(void)
{
    return duet_group_wait(NULL, SURELY, NULL);
}

static int group_close_null(void)
{
    return duet_group_close(NULL);
}

static void null_for_a_loop_a_pool_or_a_group_is_einval(void **state)
{
    (void)state;
    static const struct bad cases[] = {
        {"duet_loop_open to NULL", loop_open_null, 0},
        {"duet_loop_start to NULL", loop_start_null, 0},
        {"duet_loop_run of NULL", loop_run_null, 0},
        {"duet_loop_close of NULL", loop_close_null, 0},
        {"duet_pool_open to NULL", pool_open_null, 0},
        {"duet_pool_drain of NULL", pool_drain_null, 0},
        {"duet_pool_close of NULL", pool_close_null, 0},
        {"duet_group_wait of NULL", group_wait_null, 0},
        {"duet_group_close of NULL", group_close_null, 0},
    };
    BAD(cases);
}

/* Configurations. */

struct bad_loop {
    duet_loop_config config;
    int err;
    const char *field;
};

static int try_bad_loop(const void *arg)
{
    const struct bad_loop *bad = arg;
    int failed = 0, fds = count_fds(), threads = count_threads();
    for (int i = 0; i < 2; i++) {
        duet_loop *opened = NULL;
        log_capture();
        int rc = (i == 0 ? duet_loop_open : duet_loop_start)(&opened, &bad->config);
        int lines = log_count(bad->field);
        log_release();
        if (rc != bad->err || lines != 1) {
            fprintf(stderr, "%s of a bad %s: %d, %d lines\n",
                    i == 0 ? "duet_loop_open" : "duet_loop_start", bad->field, rc, lines);
            failed++;
        }
        if (rc == 0)
            must_equal(duet_loop_close(opened, SURELY), 0);
    }
    must_equal(count_fds(), fds);
    must_equal(count_threads(), threads);
    return failed;
}

static const duet_hooks odd_hooks = {.reserved = {0, 0, 0, 1}};
static const duet_hooks round_hooks = {.next = &round_hooks};

/* loop.h: the log names the field; nothing is opened. */
static void a_bad_configuration_of_a_loop_is_refused_by_the_name_of_its_field(void **state)
{
    (void)state;
    static const struct bad_loop bad[] = {
        {{.stack_size = ((size_t)1 << 30) + 1}, -EINVAL, "stack_size"},
        {{.stack_size = SIZE_MAX}, -EINVAL, "stack_size"},
        {{.when_full = DUET_FULL_RUN_HERE}, -EINVAL, "when_full"},
        {{.when_full = (enum duet_when_full)77}, -EINVAL, "when_full"},
        {{.ring_entries = 32769}, -EINVAL, "ring_entries"},
        {{.ring_entries = UINT32_MAX}, -EINVAL, "ring_entries"},
        {{.timer_slack_us = 1000001}, -EINVAL, "timer_slack_us"},
        {{.backend = DUET_BACKEND_EPOLL}, -ENOTSUP, "backend"},
        {{.backend = (enum duet_backend)3}, -EINVAL, "backend"},
        {{.backend = (enum duet_backend) - 1}, -EINVAL, "backend"},
        {{.hooks = &odd_hooks}, -EINVAL, "hooks"},
        {{.hooks = &round_hooks}, -EINVAL, "hooks"},
        {{.reserved = {1}}, -EINVAL, "reserved"},
        {{.reserved = {0, 0, 0, 0, 1}}, -EINVAL, "reserved"},
    };
    int failed = 0;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        failed += in_child(try_bad_loop, &bad[i]) != 0;
    assert_int_equal(failed, 0);
}

static int try_odd_loop(const void *arg)
{
    duet_loop *opened;
    must_equal(duet_loop_start(&opened, arg), 0);
    must_equal(finish(duet_submit(opened, return_ok, NULL)).err, 0);
    must_equal(duet_loop_close(opened, SURELY), 0);
    return 0;
}

/* loop.h: the ends of what is allowed, and sizes that are rounded up. */
static void an_odd_configuration_of_a_loop_is_accepted(void **state)
{
    (void)state;
    static const duet_loop_config odd[] = {
        {.stack_size = 1}, /* at least 16 KiB: so it gets them */
        {.stack_size = 16 * 1024},
        {.stack_size = 100001},
        {.stack_size = (size_t)1 << 30},
        {.ring_entries = 1},
        {.ring_entries = 100},
        {.inbox_max = 1},
        {.coroutines_max = 1},
        {.spin_us = -5},
        {.spin_us = 50},
        {.timer_slack_us = -5},
        {.timer_slack_us = 1000000},
        {.backend = DUET_BACKEND_URING},
        {.name = "a name that is much longer than the name of a thread may be"},
        {.name = ""},
        {0},
    };
    int failed = 0;
    for (size_t i = 0; i < sizeof odd / sizeof odd[0]; i++) {
        int status = in_child(try_odd_loop, &odd[i]);
        if (status)
            fprintf(stderr, "configuration %zu: status %#x\n", i, (unsigned)status);
        failed += status != 0;
    }
    failed += in_child(try_odd_loop, NULL) != 0;
    assert_int_equal(failed, 0);
}

/* base.h: every errno that duet gives has a text. */
static void every_error_has_a_text(void **state)
{
    (void)state;
    static const int errors[] = {-ETIME,  -ECANCELED, -EDEADLK, -ESHUTDOWN, -EAGAIN,
                                 -EINVAL, -EALREADY,  -ENOTSUP, -ENOMEM,    -EPERM,
                                 -ENOSYS, -EMFILE,    -ENFILE,  -EIO,       0};
    for (size_t i = 0; i < sizeof errors / sizeof errors[0]; i++) {
        const char *text = duet_strerror(errors[i]);
        assert_non_null(text);
        assert_true(text[0] != '\0');
        for (size_t k = 0; k < i; k++)
            assert_string_not_equal(text, duet_strerror(errors[k]));
    }
    assert_non_null(duet_strerror(-100000));
    assert_non_null(duet_strerror(INT32_MIN));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(spawning_off_a_loop_aborts),
        cmocka_unit_test(yielding_off_a_coroutine_aborts),
        cmocka_unit_test(taking_a_result_for_another_kind_aborts),
        cmocka_unit_test(ending_a_shield_that_was_not_begun_aborts),
        cmocka_unit_test(looking_at_a_pending_result_aborts),
        cmocka_unit_test(work_that_returns_a_positive_err_aborts),
        cmocka_unit_test(adding_a_future_to_a_second_group_aborts),
        cmocka_unit_test(starting_work_with_a_null_is_einval),
        cmocka_unit_test(bad_options_are_einval_wherever_they_are_given),
        cmocka_unit_test(an_absurd_stack_for_a_coroutine_is_einval),
        cmocka_unit_test(bad_arguments_of_futures_are_einval),
        cmocka_unit_test(a_refused_settle_leaves_the_promise_as_it_was),
        cmocka_unit_test(a_works_own_future_takes_its_result_from_the_work_alone),
        cmocka_unit_test(forgetting_what_is_not_there_is_false),
        cmocka_unit_test(null_for_a_loop_a_pool_or_a_group_is_einval),
        cmocka_unit_test(a_bad_configuration_of_a_loop_is_refused_by_the_name_of_its_field),
        cmocka_unit_test(an_odd_configuration_of_a_loop_is_accepted),
        cmocka_unit_test(every_error_has_a_text),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
