/* base.h: a circle of nothing but waits that end ownership aborts the process, with the chain. A
 * program of its own: its parent process has no threads. */
#include "duet_test.h"
#include "shared.h"

#include <signal.h>
#include <sys/wait.h>

enum closer_kind {
    CLOSE_FUTURE,
    CLOSE_LOOP,
    CLOSE_POOL,
    CLOSE_GROUP,
    CALL
};

/* Work that ends something, be it the handle of another closer. All have the same name, so that the
 * chain reads the same from wherever it starts. */
struct closer {
    enum closer_kind kind;
    duet_loop *loop; /* where it runs, or */
    duet_pool *pool;
    struct closer *other; /* whose handle it closes, or whom it calls, or starts in its group */
    duet_loop *its_loop; /* what it closes else */
    duet_pool *its_pool;
    duet_future *go, *f;
};

/* None of these returns in a circle of nothing else: 42 is no death. */
static duet_result close_it(void *arg)
{
    struct closer *closer = arg;
    duet_group group = DUET_GROUP_INIT;
    const duet_opts opts = {.name = "twin"};
    int rc;
    if (closer->go)
        must_equal(duet_future_wait(closer->go, DUET_NEVER, NULL), 0);
    switch (closer->kind) {
    case CLOSE_FUTURE:
        rc = duet_future_close(closer->other->f, NULL);
        break;
    case CLOSE_LOOP:
        rc = duet_loop_close(closer->its_loop, duet_sec(300));
        break;
    case CLOSE_POOL:
        rc = duet_pool_close(closer->its_pool, duet_sec(300));
        break;
    case CLOSE_GROUP:
        duet_group_add(&group, closer->other->f);
        rc = duet_group_close(&group);
        break;
    default:
        if (closer->its_loop)
            rc = duet_call_with(closer->its_loop, close_it, closer->other, &opts, DUET_NEVER, NULL);
        else
            rc = duet_offload_with(closer->its_pool, close_it, closer->other, &opts, DUET_NEVER,
                                   NULL);
    }
    fprintf(stderr, "came back with %d\n", rc);
    _exit(42);
}

static void start(struct closer *closer)
{
    const duet_opts opts = {.name = "twin"};
    closer->f = closer->loop ? duet_submit_with(closer->loop, close_it, closer, &opts)
                             : duet_pool_submit_with(closer->pool, close_it, closer, &opts);
}

/* Starts them all before any closes anything: who has not started would never. Does not return. */
static void close_in_a_circle(struct closer *closers, size_t n)
{
    duet_future *go = open_promise();
    alarm(60);
    for (size_t i = 0; i < n; i++) {
        closers[i].go = go;
        start(&closers[i]);
        if (closers[i].loop)
            must_equal(duet_call(closers[i].loop, return_ok, NULL, SURELY, NULL), 0);
        else
            for (duet_pool_stats stats = {0}; stats.busy == 0 || stats.queued > 0;)
                duet_pool_stats_get(closers[i].pool, &stats);
    }
    settle(go);
    for (;;)
        sched_yield();
}

static void two_coroutines(void *unused)
{
    duet_loop *loop = start_loop();
    struct closer c[2] = {{.loop = loop, .other = &c[1]}, {.loop = loop, .other = &c[0]}};
    (void)unused;
    close_in_a_circle(c, 2);
}

static const char twins[] = "coroutine 'twin' waits for coroutine 'twin', which waits for "
                            "coroutine 'twin'";

thread_test(two_coroutines_that_close_each_other_abort)
{
    expect_death(two_coroutines, NULL, SIGABRT, twins);
}

static duet_result spawn_two(void *unused)
{
    static struct closer c[2];
    duet_future *go = open_promise();
    (void)unused;
    for (int i = 0; i < 2; i++) {
        c[i] = (struct closer){.other = &c[1 - i], .go = go};
        c[i].f = duet_spawn_with(close_it, &c[i], &(duet_opts){.name = "twin"});
    }
    must_equal(duet_yield(), 0);
    must_equal(duet_yield(), 0);
    settle(go);
    must_equal(duet_sleep(DUET_NEVER), 0);
    return duet_ok();
}

static void in_the_main_thread(void *unused)
{
    (void)unused;
    alarm(60);
    run_in_coroutine(spawn_two, NULL);
}

thread_test(two_coroutines_of_the_main_thread_that_close_each_other_abort)
{
    expect_death(in_the_main_thread, NULL, SIGABRT, twins);
}

static void three_at_three_places(void *unused)
{
    struct closer c[3] = {{.loop = start_loop(), .other = &c[1]},
                          {.pool = open_pool(1), .other = &c[2]},
                          {.loop = start_loop(), .other = &c[0]}};
    (void)unused;
    close_in_a_circle(c, 3);
}

thread_test(a_circle_of_three_closes_through_loops_and_a_pool_aborts)
{
    expect_death(three_at_three_places, NULL, SIGABRT,
                 "waits for coroutine 'twin', which waits for ");
    expect_death(three_at_three_places, NULL, SIGABRT, "job 'twin'");
}

static void two_jobs(void *unused)
{
    duet_pool *pool = open_pool(2);
    struct closer c[2] = {{.pool = pool, .other = &c[1]}, {.pool = pool, .other = &c[0]}};
    (void)unused;
    close_in_a_circle(c, 2);
}

thread_test(two_jobs_that_close_each_other_abort)
{
    expect_death(two_jobs, NULL, SIGABRT, "job 'twin'");
    expect_death(two_jobs, NULL, SIGABRT, "waits for job 'twin'");
}

/* The coroutine ends the pool of a job that ends the coroutine. */
static void pool_and_coroutine(void *unused)
{
    duet_pool *pool = open_pool(1);
    struct closer c[2] = {{.kind = CLOSE_POOL, .loop = start_loop(), .its_pool = pool},
                          {.pool = pool, .other = &c[0]}};
    (void)unused;
    close_in_a_circle(c, 2);
}

/* The close of a loop or pool can fail, and then that lives on; so there it is the one that is
 * told. */
static void must_come_back(void (*body)(void *arg))
{
    int status;
    fflush(NULL);
    pid_t child = fork();
    must(child >= 0);
    if (child == 0)
        body(NULL);
    must(waitpid(child, &status, 0) == child);
    must(WIFEXITED(status) && WEXITSTATUS(status) == 42);
}

thread_test(the_close_of_a_pool_in_a_circle_of_closes_is_told)
{
    must_come_back(pool_and_coroutine);
}

static void loop_and_job(void *unused)
{
    duet_loop *loop = start_loop();
    struct closer c[2] = {{.kind = CLOSE_LOOP, .pool = open_pool(1), .its_loop = loop},
                          {.loop = loop, .other = &c[0]}};
    (void)unused;
    close_in_a_circle(c, 2);
}

thread_test(the_close_of_a_loop_in_a_circle_of_closes_is_told)
{
    must_come_back(loop_and_job);
}

static void group_and_child(void *unused)
{
    duet_loop *loop = start_loop();
    struct closer c[2] = {{.kind = CLOSE_GROUP, .loop = loop, .other = &c[1]},
                          {.loop = loop, .other = &c[0]}};
    (void)unused;
    close_in_a_circle(c, 2);
}

thread_test(a_parent_that_closes_the_group_of_the_child_that_closes_it_aborts)
{
    expect_death(group_and_child, NULL, SIGABRT, "coroutine 'twin'");
    expect_death(group_and_child, NULL, SIGABRT, "waits for");
}

/* The callee cancels its caller, who then waits for the callee's end. */
static void call_and_callee(void *on_pool)
{
    duet_loop *loop = start_loop();
    struct closer callee, caller = {.kind = CALL, .loop = loop, .other = &callee};
    if (on_pool)
        caller.its_pool = open_pool(1);
    else
        caller.its_loop = loop;
    callee = (struct closer){.other = &caller};
    close_in_a_circle(&caller, 1);
}

thread_test(a_callee_that_closes_its_caller_aborts)
{
    expect_death(call_and_callee, NULL, SIGABRT, twins);
}

thread_test(an_offloaded_job_that_closes_its_caller_aborts)
{
    expect_death(call_and_callee, "", SIGABRT, "job 'twin'");
    expect_death(call_and_callee, "", SIGABRT, "waits for");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(two_coroutines_that_close_each_other_abort),
        cmocka_unit_test(two_coroutines_of_the_main_thread_that_close_each_other_abort),
        cmocka_unit_test(a_circle_of_three_closes_through_loops_and_a_pool_aborts),
        cmocka_unit_test(two_jobs_that_close_each_other_abort),
        cmocka_unit_test(the_close_of_a_pool_in_a_circle_of_closes_is_told),
        cmocka_unit_test(the_close_of_a_loop_in_a_circle_of_closes_is_told),
        cmocka_unit_test(a_parent_that_closes_the_group_of_the_child_that_closes_it_aborts),
        cmocka_unit_test(a_callee_that_closes_its_caller_aborts),
        cmocka_unit_test(an_offloaded_job_that_closes_its_caller_aborts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
