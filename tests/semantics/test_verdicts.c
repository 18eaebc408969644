/* Verdicts at the edge: what a review for races has found to be told in error, too late, to the
 * wrong one, or not at all. Deadlines in circles are later than SURELY, by which an answer that
 * does not come is noticed. */
#include "duet_test.h"
#include "shared.h"

#include <signal.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#if defined(__SANITIZE_THREAD__)
#define TEST_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define TEST_TSAN 1
#endif
#endif

/* ---- What the tests of this file share ---- */

/* Later than all waits of the tests themselves. */
#define LATER duet_sec(100)

/* Time for what must not come, or for a wait to be noted. Too short a time misses an error; it
 * never makes one. */
static void nap_us(long us)
{
    struct timespec left = {.tv_nsec = us * 1000};
    while (nanosleep(&left, &left) < 0)
        must_equal(errno, EINTR);
}

/* So old that it is seen by who looks for circles. */
static void grow_old(void)
{
    nap_us(3000);
}

/* A job that waits once, and notes what the wait said. */
struct waiter {
    struct gate *go; /* if given, it passes this first */
    duet_future *on[2]; /* borrowed */
    duet_group *group; /* if given, for this instead */
    size_t n; /* 0: for on[0] alone, without a list */
    enum duet_until until;
    duet_deadline by;
    bool owns; /* lets go of on[0] afterwards */
    int rc;
    duet_future *f;
    struct thread seen; /* its thread and its end, for thread_await_blocked() */
};

static duet_result waiter_run(void *arg)
{
    struct waiter *w = arg;
    atomic_store(&w->seen.tid, gettid());
    if (w->go)
        gate_pass(w->go);
    if (w->group)
        w->rc = duet_group_wait(w->group, w->by, NULL);
    else if (w->n == 0)
        w->rc = duet_future_wait(w->on[0], w->by, NULL);
    else
        w->rc = duet_future_wait_many(w->on, w->n, w->until, w->by, NULL);
    if (w->owns)
        duet_future_unref(w->on[0]);
    return duet_ok();
}

static void waiter_start(struct waiter *w, duet_pool *pool)
{
    w->f = w->seen.ended = duet_pool_submit(pool, waiter_run, w);
}

static void waiter_await_old(struct waiter *w)
{
    thread_await_blocked(&w->seen);
    grow_old();
}

/* Both end before either handle is let go, since they wait for each other. */
static void must_end_with(struct waiter *a, int a_rc, struct waiter *b, int b_rc)
{
    must_equal(error_of(a->f), 0);
    must_equal(error_of(b->f), 0);
    must_equal(a->rc, a_rc);
    must_equal(b->rc, b_rc);
    duet_future_unref(a->f);
    duet_future_unref(b->f);
}

static duet_future *open_held_promise(void)
{
    duet_future *promise;
    must_equal(duet_future_open_with(&promise, &(duet_opts){.flags = DUET_SETTLER_HOLDS}), 0);
    return promise;
}

static void pass(void *gate)
{
    gate_pass(gate);
}

static void do_nothing(void *arg)
{
    (void)arg;
}

/* So many callbacks that to settle it takes longer than a wait needs to be noted. */
static void burden(duet_future *promise, duet_loop *loop)
{
    for (int i = 0; i < 40000; i++)
        must_equal(duet_future_then(promise, loop, do_nothing, NULL, NULL), 0);
}

static void open_pipe(int fds[2])
{
    must_equal(pipe(fds), 0);
}

static void close_pipe(const int fds[2])
{
    must_equal(close(fds[0]), 0);
    must_equal(close(fds[1]), 0);
}

/* 0 or the errno. */
static int read_byte(int fd)
{
    char byte;
    ssize_t n = read(fd, &byte, 1);
    return n < 0 ? errno : 0;
}

/* ---- False alarms ---- */

static duet_result offload_once(void *pool)
{
    duet_result r;
    int rc = duet_offload(pool, return_ok, NULL, SURELY, &r);
    return rc < 0 ? duet_err(rc) : r;
}

/* base.h: the room was promised to one whose loop is busy outside of duet, and who may go on. */
thread_test(a_wait_for_room_behind_one_that_was_promised_it_is_no_deadlock)
{
    struct gate first = GATE_INIT, second = GATE_INIT, busy = GATE_INIT;
    duet_pool *pool;
    duet_pool_config config = {.workers_max = 1, .queue_max = 1};
    must_equal(duet_pool_open(&pool, &config), 0);
    duet_loop *loop = start_loop();
    duet_future *runs = duet_pool_submit(pool, gate_pass_job, &first);
    gate_await_arrivals(&first, 1);
    duet_future *queued = duet_pool_submit(pool, gate_pass_job, &second);
    duet_future *promised = duet_submit(loop, offload_once, pool);
    must_equal(duet_call(loop, return_ok, NULL, SURELY, NULL), 0); /* so that one waits for room */
    must_equal(duet_call_soon(loop, pass, &busy), 0);
    gate_await_arrivals(&busy, 1);
    gate_open(&first);
    gate_await_arrivals(&second, 1); /* its place in the queue is free */
    must_equal(duet_offload(pool, return_ok, NULL, duet_ms(20), NULL), -ETIME);
    gate_open(&busy);
    gate_open(&second);
    must_equal(finish(promised).err, 0);
    must_equal(finish(runs).err, 0);
    must_equal(finish(queued).err, 0);
    close_loop(loop);
    close_pool(pool);
}

/* base.h: one of that knot has settled, so something came out of it; who waits for it is not told
 * yet, because many others are told before. */
thread_test(a_wait_for_any_is_no_deadlock_while_one_of_its_list_settles)
{
    duet_loop *loop = start_loop();
    duet_pool *pool = open_pool(2);
    for (int i = test_rounds(5); i > 0; i--) {
        struct gate go = GATE_INIT;
        duet_future *promise = open_promise();
        struct waiter any = {.n = 2, .until = DUET_UNTIL_ANY, .by = DUET_NEVER};
        struct waiter other = {.go = &go, .by = DUET_NEVER};
        burden(promise, loop);
        waiter_start(&other, pool);
        any.on[0] = promise;
        any.on[1] = other.f;
        waiter_start(&any, pool);
        waiter_await_old(&any);
        other.on[0] = any.f;
        gate_open(&go);
        settle(promise);
        must_end_with(&any, 0, &other, 0);
        duet_future_unref(promise);
    }
    close_loop(loop);
    close_pool(pool);
}

/* A job that submits another, which runs in its place. */
struct in_place {
    duet_pool *full;
    int inner[2], outer[2]; /* pipes */
    struct gate *runs;
    int inner_errno, outer_errno;
    bool inner_cancelled;
};

static duet_result run_inner(void *arg)
{
    struct in_place *p = arg;
    gate_open(p->runs);
    p->inner_errno = read_byte(p->inner[0]);
    p->inner_cancelled = duet_cancelled();
    return duet_ok();
}

static duet_result run_outer(void *arg)
{
    struct in_place *p = arg;
    must_equal(finish(duet_pool_submit(p->full, run_inner, p)).err, 0);
    p->outer_errno = read_byte(p->outer[0]);
    return duet_ok();
}

/* base.h: it is not the one that was cancelled; that one is interrupted when it blocks itself. */
thread_test(a_job_in_place_is_not_interrupted_for_the_one_that_submitted_it)
{
    struct gate hold = GATE_INIT, runs = GATE_INIT;
    struct in_place p = {.runs = &runs};
    duet_pool_config config = {.workers_max = 1, .queue_max = 1, .when_full = DUET_FULL_RUN_HERE};
    must_equal(duet_pool_open(&p.full, &config), 0);
    duet_pool *pool = open_pool(1);
    open_pipe(p.inner);
    open_pipe(p.outer);
    duet_future *holds = duet_pool_submit(p.full, gate_pass_job, &hold);
    gate_await_arrivals(&hold, 1);
    duet_future *queued = duet_pool_submit(p.full, return_ok, NULL);
    duet_future *f =
        duet_pool_submit_with(pool, run_outer, &p, &(duet_opts){.flags = DUET_INTERRUPT});
    gate_pass(&runs);
    grow_old();
    duet_future_cancel(f);
    grow_old();
    must_equal(write(p.inner[1], "x", 1), 1);
    must_equal(finish(f).err, 0);
    must_equal(p.inner_errno, 0);
    must(!p.inner_cancelled);
    must_equal(p.outer_errno, EINTR);
    gate_open(&hold);
    must_equal(finish(holds).err, 0);
    must_equal(finish(queued).err, 0);
    close_pipe(p.inner);
    close_pipe(p.outer);
    close_pool(p.full);
    close_pool(pool);
}

/* One coroutine waits for the held promise, another for that or a plain one. */
struct bare {
    duet_future *held, *promise;
    int rc, any_rc;
    size_t index;
};

static duet_result wait_for_held(void *arg)
{
    struct bare *b = arg;
    b->rc = duet_future_wait(b->held, DUET_NEVER, NULL);
    duet_future_unref(b->held);
    return duet_ok();
}

static duet_result wait_for_either(void *arg)
{
    struct bare *b = arg;
    duet_future *either[] = {b->held, b->promise};
    b->any_rc = duet_future_wait_many(either, 2, DUET_UNTIL_ANY, DUET_NEVER, &b->index);
    if (b->any_rc == 0 && b->index == 1)
        settle(b->held);
    duet_future_unref(b->held);
    return duet_ok();
}

static void settle_later(void *arg)
{
    settle(((struct bare *)arg)->promise);
}

static void let_go_first(void *arg)
{
    duet_future_unref(((struct bare *)arg)->held);
    must_equal(duet_call_soon(duet_loop_self(), settle_later, arg), 0);
}

static duet_result begin_when_all_are_old(void *arg)
{
    must_equal(duet_sleep(duet_ms(5)), 0);
    must_equal(duet_call_soon(duet_loop_self(), let_go_first, arg), 0);
    return duet_ok();
}

/* future.h: a callback lets go as the last settler of the one, but this thread, which runs it, is
 * left to settle the other, and who waits for that settles the first. */
coroutine_test(a_promise_that_a_callback_of_the_only_thread_settles_is_no_deadlock)
{
    struct bare b = {.held = open_held_promise(), .promise = open_promise()};
    duet_future_ref(b.held);
    duet_future_ref(b.held);
    duet_future *f[] = {duet_spawn(wait_for_held, &b), duet_spawn(wait_for_either, &b)};
    duet_future_unref(duet_spawn(begin_when_all_are_old, &b));
    must_equal(duet_future_wait(f[0], DUET_NEVER, NULL), 0);
    must_equal(duet_future_wait(f[1], DUET_NEVER, NULL), 0);
    must_equal(b.rc, 0);
    must_equal(b.any_rc, 0);
    must_equal(b.index, 1);
    duet_future_unref(f[0]);
    duet_future_unref(f[1]);
    duet_future_unref(b.promise);
    return duet_ok();
}

/* ---- Answers that got lost ---- */

struct race {
    duet_future *promise;
    int fd;
    struct thread seen;
};

static duet_result wait_and_read(void *arg)
{
    struct race *race = arg;
    atomic_store(&race->seen.tid, gettid());
    int rc = duet_future_wait(race->promise, DUET_NEVER, NULL);
    must(rc == 0 || rc == -ECANCELED);
    if (rc == 0) /* it has not heard of its cancellation */
        must_equal(read_byte(race->fd), EINTR);
    return duet_ok();
}

/* base.h: the signal is sent until the job has heard of its cancellation, and this wait says
 * nothing of it. */
thread_test(a_job_cancelled_in_a_wait_that_succeeds_is_interrupted_when_it_blocks)
{
    duet_pool *pool = open_pool(1);
    int fds[2];
    open_pipe(fds);
    for (int i = test_rounds(50); i > 0; i--) {
        struct race race = {.promise = open_promise(), .fd = fds[0]};
        duet_future *f = duet_pool_submit_with(pool, wait_and_read, &race,
                                               &(duet_opts){.flags = DUET_INTERRUPT});
        race.seen.ended = f;
        thread_await_blocked(&race.seen);
        duet_future_cancel(f);
        settle(race.promise);
        must_equal(finish(f).err, 0);
        duet_future_unref(race.promise);
    }
    close_pipe(fds);
    close_pool(pool);
}

/* base.h: the one that is told hears of it, though what it stands in line for settles just then. */
thread_test(a_wait_for_all_is_told_while_one_of_its_list_settles)
{
    duet_loop *loop = start_loop();
    duet_pool *pool = open_pool(2);
    for (int i = test_rounds(5); i > 0; i--) {
        struct gate go = GATE_INIT;
        duet_future *promise = open_promise();
        struct waiter all = {.go = &go, .n = 2, .until = DUET_UNTIL_ALL, .by = LATER};
        struct waiter other = {.by = DUET_NEVER};
        burden(promise, loop);
        waiter_start(&all, pool);
        other.on[0] = all.f;
        waiter_start(&other, pool);
        waiter_await_old(&other);
        all.on[0] = promise;
        all.on[1] = other.f;
        gate_open(&go);
        nap_us(400);
        settle(promise);
        must_end_with(&all, -EDEADLK, &other, 0);
        duet_future_unref(promise);
    }
    close_loop(loop);
    close_pool(pool);
}

/* base.h: what closes the circle is neither of the waits but the group, when it grows. */
thread_test(who_waits_for_a_group_that_grows_by_who_waits_for_it_is_told)
{
    struct gate gate = GATE_INIT;
    duet_group group = DUET_GROUP_INIT;
    duet_pool *pool = open_pool(3);
    struct waiter parent = {.group = &group, .by = LATER}, child = {.by = DUET_NEVER};
    duet_group_add(&group, duet_pool_submit(pool, gate_pass_job, &gate));
    waiter_start(&parent, pool);
    waiter_await_old(&parent);
    child.on[0] = parent.f;
    waiter_start(&child, pool);
    waiter_await_old(&child);
    duet_group_add(&group, duet_future_ref(child.f));
    gate_open(&gate);
    must_end_with(&parent, -EDEADLK, &child, 0);
    must_equal(duet_group_close(&group), 0);
    close_pool(pool);
}

/* base.h: however it is waited for, only waiters hold it now. */
thread_test(who_waits_for_a_promise_by_a_list_is_told_when_the_last_settler_lets_go)
{
    static const enum duet_until untils[] = {DUET_UNTIL_ALL, DUET_UNTIL_ANY, DUET_UNTIL_FAILURE};
    duet_pool *pool = open_pool(1);
    for (size_t i = 0; i < 4; i++) {
        duet_future *promise = open_held_promise();
        struct waiter w = {.on = {duet_future_ref(promise)}, .by = LATER, .owns = true};
        if (i < 3) { /* the fourth time without a list */
            w.n = 1;
            w.until = untils[i];
        }
        waiter_start(&w, pool);
        waiter_await_old(&w);
        duet_future_unref(promise);
        must_equal(finish(w.f).err, 0);
        must_equal(w.rc, -EDEADLK);
    }
    close_pool(pool);
}

static void start_and_close_loops(void *rounds)
{
    for (int i = *(int *)rounds; i > 0; i--) {
        duet_loop *loop;
        int rc = duet_loop_start(&loop, NULL);
        must(rc == 0 || rc == -ESHUTDOWN);
        if (rc == 0)
            close_loop(loop);
    }
}

/* bridge.h: it ends all loops, also one that is about to start, whose starter is told so. */
thread_test(a_loop_started_amid_a_shutdown_keeps_nobody_waiting)
{
    uint64_t seed = test_seed();
    int rounds = test_rounds(300);
    struct thread thread;
    thread_start(&thread, start_and_close_loops, &rounds);
    for (duet_deadline by = SURELY; !duet_future_settled(thread.ended);) {
        must(duet_now_ns() < by.ns);
        must_equal(duet_shutdown(SURELY, NULL), 0);
        nap_us((long)(test_random(&seed) % 200));
    }
    thread_join(&thread);
}

/* ---- Who is left to settle it? ---- */

#ifndef TEST_TSAN /* it has a thread of its own, which might settle anything */

/* What thread_await_blocked() looks at, of this thread, which waits for the promise. */
static struct thread this_thread(duet_future *promise)
{
    struct thread me = {.ended = promise};
    atomic_store(&me.tid, gettid());
    return me;
}

static void wait_in_vain(duet_future *promise)
{
    must_equal(duet_future_wait(promise, DUET_NEVER, NULL), -EDEADLK);
    duet_future_unref(promise);
}

/* Who is told is so when that has ended, and not before. Lets go. */
static bool ended_well(duet_future *f)
{
    must(duet_future_settled(f));
    return finish(f).err == 0;
}

/* Might have settled it, but ends. */
static void outlast(void *me)
{
    thread_await_blocked(me);
    grow_old();
}

static duet_result outlast_and_stop(void *me)
{
    outlast(me);
    must_equal(duet_sleep(duet_ms(5)), 0);
    duet_loop_stop(duet_loop_self());
    return duet_ok();
}

static duet_result outlast_job(void *me)
{
    outlast(me);
    return duet_ok();
}

/* future.h: the others have ended, and told nobody of it. */
thread_test(a_thread_is_told_when_the_last_other_one_has_ended)
{
    struct thread thread, me = this_thread(open_promise());
    thread_start(&thread, outlast, &me);
    wait_in_vain(me.ended);
    must(duet_future_settled(thread.ended));
    thread_join(&thread);
}

thread_test(a_thread_is_told_when_the_last_loop_has_ended_by_itself)
{
    duet_loop *loop = start_loop();
    struct thread me = this_thread(open_promise());
    duet_future *f = duet_submit(loop, outlast_and_stop, &me);
    wait_in_vain(me.ended);
    must(ended_well(f));
    close_loop(loop);
}

thread_test(a_thread_is_told_when_the_last_worker_has_left_for_want_of_work)
{
    static const int64_t idle_ns[] = {500000, 5000000};
    for (int i = 0; i < 2; i++) {
        struct thread me = this_thread(open_promise());
        duet_pool *pool;
        duet_pool_config config = {.workers_max = 1, .idle_ns = idle_ns[i]};
        must_equal(duet_pool_open(&pool, &config), 0);
        duet_future *f = duet_pool_submit(pool, outlast_job, &me);
        wait_in_vain(me.ended);
        must(ended_well(f));
        close_pool(pool);
    }
}

/* Keeps its thread awake. */
static duet_result spin_until(void *moment)
{
    while (duet_now_ns() < *(int64_t *)moment)
        ;
    return duet_ok();
}

static duet_result wait_for_it(void *promise)
{
    int rc = duet_future_wait(promise, DUET_NEVER, NULL);
    must(rc == 0 || rc == -EDEADLK);
    return duet_ok();
}

static int64_t about(uint64_t *seed, int64_t ns)
{
    return (int64_t)(test_random(seed) % (uint64_t)(2 * ns)) - ns;
}

/* This thread waits, and the others run until about so long afterwards: each time the last that
 * goes to rest must be noticed. Both may be NULL. */
static void rest_together(duet_loop *loop, duet_pool *pool, int64_t after_ns)
{
    uint64_t seed = test_seed();
    for (int i = test_rounds(60); i > 0; i--) {
        int64_t first = duet_now_ns() + after_ns + about(&seed, 200000);
        int64_t second = first + about(&seed, 20000);
        duet_future *f = loop ? duet_submit(loop, spin_until, &first) : NULL;
        duet_future *g = pool ? duet_pool_submit(pool, spin_until, &second) : NULL;
        wait_in_vain(open_promise());
        must(!f || ended_well(f));
        must(!g || ended_well(g));
    }
}

/* Its wait is noted after 5 ms. */
thread_test(a_thread_is_told_though_the_only_loop_goes_to_rest_just_then)
{
    duet_loop *loop = start_loop();
    rest_together(loop, NULL, 5000000);
    close_loop(loop);
}

thread_test(a_thread_is_told_though_the_only_worker_goes_to_rest_just_then)
{
    duet_pool *pool = open_pool(1);
    rest_together(NULL, pool, 5000000);
    close_pool(pool);
}

thread_test(a_thread_is_told_though_a_loop_and_a_worker_go_to_rest_together)
{
    duet_loop *loop = start_loop();
    duet_pool *pool = open_pool(1);
    rest_together(loop, pool, 15000000);
    close_loop(loop);
    close_pool(pool);
}

thread_test(a_thread_and_coroutines_of_two_loops_are_told_though_they_rest_together)
{
    duet_loop *loops[] = {start_loop(), start_loop()};
    for (int i = test_rounds(60); i > 0; i--) {
        duet_future *promise = open_promise();
        duet_future *f = duet_submit(loops[0], wait_for_it, promise);
        duet_future *g = duet_submit(loops[1], wait_for_it, promise);
        wait_in_vain(duet_future_ref(promise));
        settle(promise);
        must_equal(finish(f).err, 0);
        must_equal(finish(g).err, 0);
        duet_future_unref(promise);
    }
    close_loop(loops[0]);
    close_loop(loops[1]);
}

static void on_signal(int signo)
{
    (void)signo;
}

/* A signal breaks its sleep before it is noted, or every 2.5 ms. */
thread_test(a_thread_is_told_though_signals_break_its_sleep)
{
    /* First, and then. */
    static const long us[][2] = {{500, 0}, {2500, 0}, {4500, 0}, {2500, 2500}};
    struct sigaction action = {.sa_handler = on_signal}, before;
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1};
    timer_t timer;
    must_equal(sigaction(SIGUSR1, &action, &before), 0);
    must_equal(timer_create(CLOCK_MONOTONIC, &event, &timer), 0);
    for (int i = 0; i < 4; i++) {
        duet_future *promise = open_promise();
        struct itimerspec times = {.it_value.tv_nsec = us[i][0] * 1000,
                                   .it_interval.tv_nsec = us[i][1] * 1000};
        must_equal(timer_settime(timer, 0, &times, NULL), 0);
        wait_in_vain(promise);
    }
    must_equal(timer_delete(timer), 0);
    must_equal(sigaction(SIGUSR1, &before, NULL), 0);
}

#endif

/* ---- Children ---- */

/* A child that hangs for a minute at most; its status. */
static int run_child(void (*body)(void))
{
    int status;
    fflush(NULL);
    pid_t child = fork();
    must(child >= 0);
    if (child == 0) {
        signal(SIGABRT, SIG_DFL); /* in case cmocka catches it */
        alarm(60);
        body();
        _exit(0);
    }
    must(waitpid(child, &status, 0) == child);
    return status;
}

static const duet_opts with_sigint = {.flags = DUET_SIGINT};

static duet_result interrupt_oneself(void *unused)
{
    (void)unused;
    must_equal(raise(SIGINT), 0);
    return duet_err(duet_sleep(SURELY));
}

static void run_with_sigint(void)
{
    duet_result r;
    must_equal(duet_run_with(interrupt_oneself, NULL, &with_sigint, &r), 0);
    must_equal(r.err, -ECANCELED);
}

static void raise_sigint(void)
{
    must_equal(raise(SIGINT), 0);
}

static duet_result have_children(void *unused)
{
    (void)unused;
    must_equal(run_child(run_with_sigint), 0);
    int status = run_child(raise_sigint);
    must(WIFSIGNALED(status) && WTERMSIG(status) == SIGINT);
    return duet_ok();
}

/* bridge.h, base.h: the run that has taken SIGINT is the parent's; in the child it is as it was. */
thread_test(a_child_of_a_run_that_has_taken_sigint_has_it_back)
{
    struct sigaction by_default = {.sa_handler = SIG_DFL}, before;
    must_equal(sigaction(SIGINT, &by_default, &before), 0);
    must_equal(duet_run_with(have_children, NULL, &with_sigint, NULL), 0);
    must_equal(sigaction(SIGINT, &before, NULL), 0);
}

#ifndef TEST_SANITIZED /* their allocators do not survive such a fork */
static void run_a_loop(void)
{
    must_equal(duet_run(return_ok, NULL, NULL), 0);
}

static void run_loops_until(void *stop)
{
    while (!atomic_load((atomic_int *)stop))
        run_a_loop();
}

/* base.h: the child may open its own, whatever the threads that it has not were about to do. */
thread_test(a_child_forked_while_loops_begin_and_end_runs_its_own)
{
    atomic_int stop = 0;
    struct thread thread;
    thread_start(&thread, run_loops_until, &stop);
    for (int i = test_rounds(300); i > 0; i--)
        must_equal(run_child(run_a_loop), 0);
    atomic_store(&stop, 1);
    thread_join(&thread);
}
#endif

/* They tell of the deadlocks, as they should. */
static int capture_log(void **state)
{
    (void)state;
    log_capture();
    return 0;
}

static int release_log(void **state)
{
    (void)state;
    log_release();
    return 0;
}

/* ---- What closes a circle without a wait ---- */

struct around {
    duet_loop *loop;
    duet_future *running, *behind; /* the job that runs the loop; the job that waits for it */
    struct gate gate, waits; /* the latter: opened as the coroutine begins to wait */
    atomic_int rc;
};

static duet_result run_the_loop(void *arg)
{
    struct around *around = arg;
    gate_pass(&around->gate); /* until its own handle is known */
    return duet_err(duet_loop_run(around->loop));
}

static duet_result wait_for_the_runner(void *arg)
{
    struct around *around = arg;
    return duet_err(duet_future_wait(around->running, DUET_NEVER, NULL));
}

static duet_result wait_shielded_for_the_one_behind(void *arg)
{
    struct around *around = arg;
    duet_shield_begin();
    gate_open(&around->waits);
    atomic_store(&around->rc, duet_future_wait(around->behind, duet_sec(100), NULL));
    duet_shield_end();
    return duet_ok();
}

/* As long as somebody may stop the loop, nobody is stuck; once it is stopped, all are. */
thread_test(who_closes_a_circle_by_stopping_a_loop_has_it_answered)
{
    struct around around = {.gate = GATE_INIT, .waits = GATE_INIT};
    duet_pool *pool = open_pool(4);
    must_equal(duet_loop_open(&around.loop, NULL), 0);
    around.running = duet_pool_submit(pool, run_the_loop, &around);
    around.behind = duet_pool_submit(pool, wait_for_the_runner, &around);
    gate_open(&around.gate);
    duet_future *f = duet_submit(around.loop, wait_shielded_for_the_one_behind, &around);
    gate_pass(&around.waits);
    grow_old();
    must(!duet_future_settled(f));
    log_capture();
    duet_loop_stop(around.loop);
    must_equal(finish(f).err, 0);
    log_release();
    must_equal(atomic_load(&around.rc), -EDEADLK);
    must_equal(finish(around.behind).err, 0); /* it waits by the other's handle */
    must_equal(finish(around.running).err, 0);
    must_equal(duet_loop_close(around.loop, SURELY), 0);
    close_pool(pool);
}

/* ---- A job between two sleeps of one wait ---- */

static duet_result nap_shortly(void *arg)
{
    (void)arg;
    return duet_err(duet_sleep(duet_us(300)));
}

static duet_result gather_of_its_own_pool(void *pool)
{
    enum {
        N = 12
    };
    duet_future *fs[N];
    for (int i = 0; i < N; i++)
        fs[i] = duet_pool_submit(pool, nap_shortly, NULL);
    int rc = duet_gather(fs, N, duet_sec(100), NULL);
    for (int i = 0; i < N; i++)
        duet_future_unref(fs[i]);
    return duet_err(rc);
}

/* Whoever looks meanwhile finds its slot lent all the while, and the jobs it waits for able to
 * start. */
thread_test(a_job_that_gathers_jobs_of_its_own_pool_is_not_told)
{
    const duet_pool_config config = {.workers_max = 1, .spares_max = 1};
    duet_pool *pool;
    must_equal(duet_pool_open(&pool, &config), 0);
    for (int round = test_rounds(100); round > 0; round--) {
        duet_future *f = duet_pool_submit(pool, gather_of_its_own_pool, pool);
        must_equal(duet_future_wait(f, SURELY, NULL), 0);
        must_equal(finish(f).err, 0);
    }
    close_pool(pool);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(who_closes_a_circle_by_stopping_a_loop_has_it_answered),
        cmocka_unit_test(a_job_that_gathers_jobs_of_its_own_pool_is_not_told),
        cmocka_unit_test(a_wait_for_room_behind_one_that_was_promised_it_is_no_deadlock),
        cmocka_unit_test(a_wait_for_any_is_no_deadlock_while_one_of_its_list_settles),
        cmocka_unit_test(a_job_in_place_is_not_interrupted_for_the_one_that_submitted_it),
        cmocka_unit_test(a_promise_that_a_callback_of_the_only_thread_settles_is_no_deadlock),
        cmocka_unit_test(a_job_cancelled_in_a_wait_that_succeeds_is_interrupted_when_it_blocks),
        cmocka_unit_test(a_wait_for_all_is_told_while_one_of_its_list_settles),
        cmocka_unit_test(who_waits_for_a_group_that_grows_by_who_waits_for_it_is_told),
        cmocka_unit_test(who_waits_for_a_promise_by_a_list_is_told_when_the_last_settler_lets_go),
        cmocka_unit_test(a_loop_started_amid_a_shutdown_keeps_nobody_waiting),
#ifndef TEST_TSAN
        cmocka_unit_test(a_thread_is_told_when_the_last_other_one_has_ended),
        cmocka_unit_test(a_thread_is_told_when_the_last_loop_has_ended_by_itself),
        cmocka_unit_test(a_thread_is_told_when_the_last_worker_has_left_for_want_of_work),
        cmocka_unit_test(a_thread_is_told_though_the_only_loop_goes_to_rest_just_then),
        cmocka_unit_test(a_thread_is_told_though_the_only_worker_goes_to_rest_just_then),
        cmocka_unit_test(a_thread_is_told_though_a_loop_and_a_worker_go_to_rest_together),
        cmocka_unit_test(a_thread_and_coroutines_of_two_loops_are_told_though_they_rest_together),
        cmocka_unit_test(a_thread_is_told_though_signals_break_its_sleep),
#endif
        cmocka_unit_test(a_child_of_a_run_that_has_taken_sigint_has_it_back),
#ifndef TEST_SANITIZED
        cmocka_unit_test(a_child_forked_while_loops_begin_and_end_runs_its_own),
#endif
    };
    return cmocka_run_group_tests(tests, capture_log, release_log);
}
