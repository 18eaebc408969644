/* DUET_SIGINT: the first SIGINT cancels the main coroutine, the second ends the process.
 *
 * Each test runs in a child process. This one never has a thread. */
#include "duet_test.h"
#include "shared.h"

#include <sched.h>
#include <signal.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* ThreadSanitizer keeps a signal until its thread calls the C library again, which a thread that
 * sleeps in the kernel may never do. */
#if defined(__SANITIZE_THREAD__)
#define TEST_SIGNALS_ARE_LATE 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define TEST_SIGNALS_ARE_LATE 1
#endif
#endif
#ifdef TEST_SIGNALS_ARE_LATE
#define SKIP_IF_SIGNALS_ARE_LATE() skip()
#else
#define SKIP_IF_SIGNALS_ARE_LATE() ((void)0)
#endif

/* ---- What the tests of this file share ---- */

static const duet_opts with_sigint = {.name = "main", .flags = DUET_SIGINT};

/* A child as a shell starts it, which hangs for a minute at most. */
static pid_t start_child(void (*body)(void))
{
    fflush(NULL);
    pid_t child = fork();
    must(child >= 0);
    if (child == 0) {
        sigset_t all;
        sigfillset(&all);
        must_equal(sigprocmask(SIG_UNBLOCK, &all, NULL), 0);
        static const int signals[] = {SIGINT, SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGSYS};
        for (size_t i = 0; i < sizeof signals / sizeof signals[0]; i++)
            must(signal(signals[i], SIG_DFL) != SIG_ERR); /* cmocka catches some */
        alarm(60);
        body();
        _exit(0);
    }
    return child;
}

static int await_child(pid_t child)
{
    int status;
    must(waitpid(child, &status, 0) == child);
    return status;
}

static void must_end_well(void (*body)(void))
{
    int status = await_child(start_child(body));
    if (status != 0)
        fprintf(stderr, "the child's status is %#x\n", (unsigned)status);
    must_equal(status, 0);
}

static void must_die_of_sigint(void (*body)(void))
{
    int status = await_child(start_child(body));
    if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGINT)
        fprintf(stderr, "the child's status is %#x\n", (unsigned)status);
    must(WIFSIGNALED(status) && WTERMSIG(status) == SIGINT);
}

static void interrupt_oneself(void)
{
    must_equal(kill(getpid(), SIGINT), 0);
}

/* Again and again, until the process has died: one that comes while another is still pending is
 * none. */
static void interrupt_oneself_to_death(void)
{
    for (duet_deadline by = SURELY; duet_now_ns() < by.ns;) {
        const struct timespec moment = {.tv_nsec = 1000000};
        interrupt_oneself();
        nanosleep(&moment, NULL);
    }
    _exit(3);
}

static void must_be_default(void)
{
    struct sigaction now;
    must_equal(sigaction(SIGINT, NULL, &now), 0);
    must(!(now.sa_flags & SA_SIGINFO));
    must(now.sa_handler == SIG_DFL);
}

static duet_result never_runs(void *arg)
{
    (void)arg;
    abort();
}

/* ---- The first ---- */

static atomic_int cleaned;

static int sleep_and_clean_up(void)
{
    int rc = duet_sleep(SURELY);
    must_equal(rc, -ECANCELED);
    must(duet_cancelled());
    must_equal(duet_sleep(DUET_NEVER), -ECANCELED); /* a level */
    duet_shield_begin();
    must_equal(duet_sleep(duet_ms(5)), 0);
    duet_shield_end();
    atomic_store(&cleaned, 1);
    return rc;
}

static duet_result be_interrupted(void *arg)
{
    (void)arg;
    must(!duet_cancelled());
    must_equal(duet_sleep(duet_ms(1)), 0);
    interrupt_oneself();
    return duet_err(sleep_and_clean_up());
}

static void the_first(void)
{
    duet_result r = duet_ok();
    must_equal(duet_run_with(be_interrupted, NULL, &with_sigint, &r), 0);
    must_equal(r.err, -ECANCELED);
    must_equal(atomic_load(&cleaned), 1);
    must_be_default();
}

/* bridge.h: cancels fn, which cleans up; the run returns. */
thread_test(the_first_sigint_cancels_the_main_coroutine)
{
    must_end_well(the_first);
}

static int to_parent[2];

static duet_result tell_and_sleep(void *arg)
{
    (void)arg;
    must_equal(write(to_parent[1], "b", 1), 1);
    return duet_err(sleep_and_clean_up());
}

static void from_outside(void)
{
    duet_result r = duet_ok();
    must_equal(duet_run_with(tell_and_sleep, NULL, &with_sigint, &r), 0);
    must_equal(r.err, -ECANCELED);
    must_equal(atomic_load(&cleaned), 1);
}

/* base.h: as from a terminal, whatever the loop does: it sleeps in the kernel. */
thread_test(a_sigint_from_outside_wakes_the_loop)
{
    char byte;
    SKIP_IF_SIGNALS_ARE_LATE();
    must_equal(pipe(to_parent), 0);
    pid_t child = start_child(from_outside);
    must_equal(read(to_parent[0], &byte, 1), 1);
    must_equal(kill(child, SIGINT), 0);
    must_equal(await_child(child), 0);
    close(to_parent[0]);
    close(to_parent[1]);
}

static duet_result return_all_the_same(void *arg)
{
    (void)be_interrupted(arg);
    return duet_i64(5);
}

static void a_result(void)
{
    duet_result r;
    must_equal(duet_run_with(return_all_the_same, NULL, &with_sigint, &r), 0);
    must_equal(duet_as_i64(r), 5);
    must_be_default();
}

/* base.h: cancelled work may return a value. */
thread_test(an_interrupted_main_coroutine_may_return_a_result)
{
    must_end_well(a_result);
}

static duet_result be_interrupted_in_a_shield(void *arg)
{
    (void)arg;
    duet_shield_begin();
    interrupt_oneself();
    must_equal(duet_sleep(duet_ms(20)), 0);
    duet_shield_end();
    must_equal(duet_sleep(SURELY), -ECANCELED);
    return duet_i64(6);
}

static void under_a_shield(void)
{
    duet_result r;
    must_equal(duet_run_with(be_interrupted_in_a_shield, NULL, &with_sigint, &r), 0);
    must_equal(duet_as_i64(r), 6);
}

/* base.h: held back until its end. */
thread_test(a_shield_holds_a_sigint_back)
{
    must_end_well(under_a_shield);
}

static duet_result wait_to_be_cancelled(void *arg)
{
    (void)arg;
    interrupt_oneself(); /* here all signals are blocked: it goes to the thread of duet_run() */
    int rc = duet_sleep(SURELY);
    must_equal(rc, -ECANCELED);
    atomic_fetch_add(&cleaned, 1);
    return duet_err(rc);
}

static duet_result wait_for_others(void *arg)
{
    duet_pool *pool = arg;
    duet_result r;
    must_equal(duet_offload(pool, wait_to_be_cancelled, NULL, SURELY, &r), -ECANCELED);
    must_equal(r.err, -ECANCELED);
    must_equal(atomic_load(&cleaned), 1);
    return duet_i64(7);
}

static void amid_threads(void)
{
    duet_loop *loop = start_loop();
    duet_pool *pool = open_pool(2);
    duet_result r;
    must_equal(duet_run_with(wait_for_others, pool, &with_sigint, &r), 0);
    must_equal(duet_as_i64(r), 7);
    must_equal(finish(duet_submit(loop, return_ok, NULL)).err, 0); /* not theirs */
    close_loop(loop);
    close_pool(pool);
    must_be_default();
}

/* base.h: the cancellation goes on to the work for which it waits. */
thread_test(a_sigint_reaches_the_work_that_is_waited_for)
{
    SKIP_IF_SIGNALS_ARE_LATE();
    must_end_well(amid_threads);
}

static duet_result sleep_to_the_end(void *arg)
{
    (void)arg;
    int rc = duet_sleep(SURELY);
    interrupt_oneself();
    duet_shield_begin();
    must_equal(duet_sleep(duet_ms(20)), 0);
    duet_shield_end();
    atomic_store(&cleaned, 1);
    return duet_err(rc);
}

static duet_result leave_a_sleeper_behind(void *arg)
{
    (void)arg;
    duet_future_unref(duet_spawn(sleep_to_the_end, NULL));
    must_equal(duet_yield(), 0);
    return duet_i64(9);
}

static void after_main(void)
{
    duet_result r;
    must_equal(duet_run_with(leave_a_sleeper_behind, NULL, &with_sigint, &r), 0);
    must_equal(duet_as_i64(r), 9);
    must_equal(atomic_load(&cleaned), 1);
    must_be_default();
}

/* bridge.h: the main coroutine has ended, the run has not: the first one still is caught. */
thread_test(a_first_sigint_that_comes_after_the_main_coroutine_does_no_harm)
{
    must_end_well(after_main);
}

/* ---- The second ---- */

static duet_result clean_up_for_ever(void *arg)
{
    (void)arg;
    interrupt_oneself();
    must_equal(duet_sleep(SURELY), -ECANCELED);
    duet_shield_begin();
    interrupt_oneself_to_death();
    duet_shield_end();
    return duet_ok();
}

static void in_the_clean_up(void)
{
    (void)duet_run_with(clean_up_for_ever, NULL, &with_sigint, NULL);
}

/* bridge.h: as if nothing had caught it. */
thread_test(the_second_sigint_ends_the_process)
{
    must_die_of_sigint(in_the_clean_up);
}

static duet_result never_wait(void *arg)
{
    (void)arg;
    interrupt_oneself_to_death();
    return duet_ok();
}

static void without_a_wait(void)
{
    (void)duet_run_with(never_wait, NULL, &with_sigint, NULL);
}

/* bridge.h: also where the loop never turns between the two. */
thread_test(the_second_sigint_needs_no_loop_that_turns)
{
    must_die_of_sigint(without_a_wait);
}

static duet_result ignore_the_first(void *arg)
{
    (void)arg;
    duet_shield_begin();
    must_equal(write(to_parent[1], "b", 1), 1);
    while (!duet_cancelled())
        must_equal(duet_sleep(duet_ms(1)), 0);
    must_equal(write(to_parent[1], "c", 1), 1);
    must_equal(duet_sleep(SURELY), 0);
    duet_shield_end();
    return duet_ok();
}

static void stubborn_main(void)
{
    (void)duet_run_with(ignore_the_first, NULL, &with_sigint, NULL);
}

/* bridge.h: one is not enough, two are. */
thread_test(two_from_outside_end_a_process_that_ignores_the_first)
{
    char byte;
    SKIP_IF_SIGNALS_ARE_LATE();
    must_equal(pipe(to_parent), 0);
    pid_t child = start_child(stubborn_main);
    must_equal(read(to_parent[0], &byte, 1), 1);
    must_equal(kill(child, SIGINT), 0);
    must_equal(read(to_parent[0], &byte, 1), 1);
    must_equal(byte, 'c');
    must_equal(waitpid(child, NULL, WNOHANG), 0);
    must_equal(kill(child, SIGINT), 0);
    int status = await_child(child);
    must(WIFSIGNALED(status) && WTERMSIG(status) == SIGINT);
    close(to_parent[0]);
    close(to_parent[1]);
}

static duet_result block_in_a_job(void *arg)
{
    (void)arg;
    interrupt_oneself_to_death();
    return duet_ok();
}

static duet_result offload_and_wait(void *arg)
{
    (void)duet_offload(arg, block_in_a_job, NULL, SURELY, NULL);
    return duet_ok();
}

static void amid_blocked_threads(void)
{
    (void)duet_run_with(offload_and_wait, open_pool(1), &with_sigint, NULL);
}

/* bridge.h: whatever its other threads do. */
thread_test(the_second_sigint_ends_the_process_though_a_job_goes_on)
{
    must_die_of_sigint(amid_blocked_threads);
}

/* ---- What SIGINT did before ---- */

static duet_result check_that_it_is_caught(void *arg)
{
    struct sigaction now;
    (void)arg;
    must_equal(sigaction(SIGINT, NULL, &now), 0);
    must((now.sa_flags & SA_SIGINFO) || now.sa_handler != SIG_DFL);
    return duet_i64(10);
}

static void restored(void)
{
    struct sigaction before = {.sa_handler = SIG_DFL, .sa_flags = SA_RESTART}, after;
    sigaddset(&before.sa_mask, SIGUSR1);
    must_equal(sigaction(SIGINT, &before, NULL), 0);
    for (int i = 0; i < 3; i++) {
        duet_result r;
        must_equal(duet_run_with(check_that_it_is_caught, NULL, &with_sigint, &r), 0);
        must_equal(duet_as_i64(r), 10);
        must_be_default();
    }
    must_equal(sigaction(SIGINT, NULL, &after), 0);
    must_equal(after.sa_flags & SA_RESTART, SA_RESTART);
    must_equal(sigismember(&after.sa_mask, SIGUSR1), 1);
}

thread_test(what_sigint_did_before_is_restored)
{
    must_end_well(restored);
}

static void killed_afterwards(void)
{
    duet_result r;
    must_equal(duet_run_with(be_interrupted, NULL, &with_sigint, &r), 0);
    must_equal(r.err, -ECANCELED);
    must_equal(write(to_parent[1], "r", 1), 1);
    interrupt_oneself_to_death();
}

/* bridge.h: after the run it is nobody's again. */
thread_test(after_the_run_sigint_ends_the_process_as_ever)
{
    char byte;
    must_equal(pipe(to_parent), 0);
    must_die_of_sigint(killed_afterwards);
    must_equal(read(to_parent[0], &byte, 1), 1); /* it was not the run's */
    close(to_parent[0]);
    close(to_parent[1]);
}

static void several_runs(void)
{
    for (int i = 0; i < 5; i++) {
        duet_result r;
        atomic_store(&cleaned, 0);
        must_equal(duet_run_with(be_interrupted, NULL, &with_sigint, &r), 0);
        must_equal(r.err, -ECANCELED);
        must_equal(atomic_load(&cleaned), 1);
    }
}

/* bridge.h: each run has its own first. */
thread_test(every_run_has_a_first_one)
{
    must_end_well(several_runs);
}

static duet_result be_killed(void *arg)
{
    (void)arg;
    interrupt_oneself_to_death();
    return duet_ok();
}

static void without_the_flag(void)
{
    const duet_opts plain = {.name = "main"};
    (void)duet_run_with(be_killed, NULL, &plain, NULL);
}

static void without_options(void)
{
    (void)duet_run(be_killed, NULL, NULL);
}

/* base.h: only who asks for it. */
thread_test(without_the_flag_sigint_is_left_alone)
{
    must_die_of_sigint(without_the_flag);
    must_die_of_sigint(without_options);
}

static duet_result ignore_sigint(void *arg)
{
    struct sigaction now;
    (void)arg;
    for (int i = 0; i < 10; i++) {
        interrupt_oneself();
        must_equal(duet_sleep(duet_ms(1)), 0);
        must(!duet_cancelled());
    }
    must_equal(sigaction(SIGINT, NULL, &now), 0);
    must(now.sa_handler == SIG_IGN);
    return duet_i64(11);
}

static void ignored(void)
{
    struct sigaction now;
    duet_result r;
    must(signal(SIGINT, SIG_IGN) != SIG_ERR);
    must_equal(duet_run_with(ignore_sigint, NULL, &with_sigint, &r), 0);
    must_equal(duet_as_i64(r), 11);
    must_equal(sigaction(SIGINT, NULL, &now), 0);
    must(now.sa_handler == SIG_IGN);
}

/* bridge.h: left alone, as under nohup. */
thread_test(where_sigint_is_ignored_it_stays_so)
{
    must_end_well(ignored);
}

static volatile sig_atomic_t own_calls;

static void own_handler(int signo)
{
    (void)signo;
    own_calls = own_calls + 1;
}

static void own_action(int signo, siginfo_t *info, void *context)
{
    (void)info;
    (void)context;
    own_handler(signo);
}

static void busy_with(const struct sigaction *action)
{
    const duet_opts opts = {.flags = DUET_SIGINT, .drop = count_drop};
    atomic_int drops = 0;
    duet_result r;
    int fds = count_fds();
    must_equal(sigaction(SIGINT, action, NULL), 0);
    must_equal(duet_run_with(never_runs, &drops, &opts, &r), -EBUSY);
    must_equal(atomic_load(&drops), 1); /* instead of fn */
    must_equal(duet_run_with(never_runs, NULL, &with_sigint, NULL), -EBUSY);
    int calls = own_calls;
    interrupt_oneself();
    must_equal(own_calls, calls + 1); /* it is still there */
    must_equal(count_fds(), fds);
    must_equal(duet_run(return_ok, NULL, &r), 0);
    must_equal(r.err, 0);
}

static void busy(void)
{
    const struct sigaction handler = {.sa_handler = own_handler};
    const struct sigaction action = {.sa_sigaction = own_action, .sa_flags = SA_SIGINFO};
    busy_with(&handler);
    busy_with(&action);
    must(signal(SIGINT, SIG_DFL) != SIG_ERR);
    the_first();
}

/* bridge.h: then fn did not run. */
thread_test(a_handler_of_the_programs_own_is_ebusy)
{
    must_end_well(busy);
}

static void run_a_second(void *arg)
{
    duet_result r;
    (void)arg;
    must_equal(duet_run_with(never_runs, NULL, &with_sigint, NULL), -EBUSY);
    must_equal(duet_run(return_ok, NULL, &r), 0); /* without it there may be any number */
    must_equal(r.err, 0);
}

static duet_result run_beside(void *arg)
{
    struct thread thread;
    (void)arg;
    thread_start(&thread, run_a_second, NULL);
    must_equal(duet_future_wait(thread.ended, SURELY, NULL), 0);
    thread_join(&thread);
    return be_interrupted(NULL);
}

static void two_runs(void)
{
    duet_result r;
    must_equal(duet_run_with(run_beside, NULL, &with_sigint, &r), 0);
    must_equal(r.err, -ECANCELED);
    must_be_default();
    the_first();
}

/* bridge.h: another such run goes on. */
thread_test(two_such_runs_at_once_are_ebusy)
{
    must_end_well(two_runs);
}

static duet_result run_inside(void *arg)
{
    (void)arg;
    must_equal(duet_run_with(never_runs, NULL, &with_sigint, NULL), -EDEADLK);
    return be_interrupted(NULL);
}

static void nested(void)
{
    duet_result r;
    must_equal(duet_run_with(run_inside, NULL, &with_sigint, &r), 0);
    must_equal(r.err, -ECANCELED);
    must_be_default();
}

/* bridge.h: a loop runs on this thread already; the run that goes on keeps its SIGINT. */
thread_test(a_run_inside_a_run_is_edeadlk_and_changes_nothing)
{
    must_end_well(nested);
}

static void in_a_thread_body(void *arg)
{
    (void)arg;
    the_first();
}

static void in_a_thread(void)
{
    struct thread thread;
    thread_start(&thread, in_a_thread_body, NULL);
    thread_join(&thread);
}

/* bridge.h: the run may be any thread's: the signal comes to one of the others. */
thread_test(a_run_on_a_thread_of_its_own_is_interrupted_too)
{
    SKIP_IF_SIGNALS_ARE_LATE();
    must_end_well(in_a_thread);
}

static duet_result sleep_a_moment(void *arg)
{
    (void)arg;
    must_equal(duet_sleep(duet_us(100)), 0);
    return duet_i64(12);
}

static void ignore_a_flood(void)
{
    must(signal(SIGINT, SIG_IGN) != SIG_ERR);
    must_equal(write(to_parent[1], "i", 1), 1);
    for (int i = test_rounds(300); i > 0; i--) {
        duet_result r;
        must_equal(duet_run_with(sleep_a_moment, NULL, &with_sigint, &r), 0);
        must_equal(duet_as_i64(r), 12);
    }
}

/* bridge.h: however many come, and whenever. */
thread_test(where_sigint_is_ignored_no_number_of_them_disturbs_a_run)
{
    char byte;
    int status;
    must_equal(pipe(to_parent), 0);
    pid_t child = start_child(ignore_a_flood);
    must_equal(read(to_parent[0], &byte, 1), 1);
    while (waitpid(child, &status, WNOHANG) == 0)
        must_equal(kill(child, SIGINT), 0);
    must_equal(status, 0);
    close(to_parent[0]);
    close(to_parent[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_first_sigint_cancels_the_main_coroutine),
        cmocka_unit_test(a_sigint_from_outside_wakes_the_loop),
        cmocka_unit_test(an_interrupted_main_coroutine_may_return_a_result),
        cmocka_unit_test(a_shield_holds_a_sigint_back),
        cmocka_unit_test(a_sigint_reaches_the_work_that_is_waited_for),
        cmocka_unit_test(a_first_sigint_that_comes_after_the_main_coroutine_does_no_harm),
        cmocka_unit_test(the_second_sigint_ends_the_process),
        cmocka_unit_test(the_second_sigint_needs_no_loop_that_turns),
        cmocka_unit_test(two_from_outside_end_a_process_that_ignores_the_first),
        cmocka_unit_test(the_second_sigint_ends_the_process_though_a_job_goes_on),
        cmocka_unit_test(what_sigint_did_before_is_restored),
        cmocka_unit_test(after_the_run_sigint_ends_the_process_as_ever),
        cmocka_unit_test(every_run_has_a_first_one),
        cmocka_unit_test(without_the_flag_sigint_is_left_alone),
        cmocka_unit_test(where_sigint_is_ignored_it_stays_so),
        cmocka_unit_test(a_handler_of_the_programs_own_is_ebusy),
        cmocka_unit_test(two_such_runs_at_once_are_ebusy),
        cmocka_unit_test(a_run_inside_a_run_is_edeadlk_and_changes_nothing),
        cmocka_unit_test(a_run_on_a_thread_of_its_own_is_interrupted_too),
        cmocka_unit_test(where_sigint_is_ignored_no_number_of_them_disturbs_a_run),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
