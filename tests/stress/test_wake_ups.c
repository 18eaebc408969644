/* A loop sleeps in one way while nothing is in flight in its ring, and in another while something
 * is; who submits to it meets it in either, or as it changes from one to the other. Nothing that is
 * submitted is lost, no moment is missed, and a stop is heard, in each. The loops never look before
 * they sleep, but where a test says so. */
#include "duet_test.h"

#include <duet/io.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
    CALLERS = 3
};

static duet_loop *loop;
static atomic_bool enough;

static void start_loop_that_spins(int spin_us)
{
    const duet_loop_config config = {.spin_us = spin_us};
    must_equal(duet_loop_start(&loop, &config), 0);
}

static void pause_at_random(uint64_t *random)
{
    switch (test_random(random) % 4) {
    case 0: /* long enough to find the loop asleep, often */
        must_equal(duet_sleep(duet_us((int64_t)(test_random(random) % 150))), 0);
        break;
    case 1:
        sched_yield();
        break;
    default:
        for (volatile uint64_t i = test_random(random) % 1000; i > 0; i--)
            ;
    }
}

/* ---- What keeps the loop from one way of sleeping, or lets it ---- */

static duet_result read_one(int fd, duet_deadline by, char *ret)
{
    ssize_t n = duet_read(fd, ret, 1, by);
    must(n == 1 || n == -ETIME || n == -ECANCELED);
    return n < 0 ? duet_err((int)n) : duet_ok();
}

struct pipe_ends {
    int in, out;
};

static struct pipe_ends open_pipe(void)
{
    int fds[2];
    must_equal(pipe(fds), 0);
    return (struct pipe_ends){fds[0], fds[1]};
}

static void close_pipe(struct pipe_ends p)
{
    close(p.in);
    close(p.out);
}

/* A pool job: what a read waits for comes from outside. */
static duet_result write_one(void *arg)
{
    must_equal(write(*(int *)arg, "x", 1), 1);
    return duet_ok();
}

static void await_child(int64_t lives_us)
{
    int status = -1;
    pid_t child = fork();
    must(child >= 0);
    if (child == 0) {
        usleep((useconds_t)lives_us);
        _exit(7);
    }
    must_equal(duet_waitpid(child, &status, SURELY), 0);
    must(WIFEXITED(status));
    must_equal(WEXITSTATUS(status), 7);
}

static duet_result read_until_it_is_closed(void *fd)
{
    char c;
    must_equal(duet_read(*(int *)fd, &c, 1, SURELY), -EBADF);
    return duet_ok();
}

static void close_under_a_reader(uint64_t *random)
{
    struct pipe_ends p = open_pipe();
    duet_result r;
    const duet_opts opts = {.flags = DUET_AT_ONCE};
    duet_future *f = duet_spawn_with(read_until_it_is_closed, &p.in, &opts);
    if (test_random(random) % 2)
        must_equal(duet_sleep(duet_us((int64_t)(test_random(random) % 100))), 0);
    must(!duet_future_settled(f));
    must_equal(duet_close(p.in), 0);
    must_equal(duet_future_wait(f, SURELY, &r), 0);
    must_equal(r.err, 0);
    duet_future_unref(f);
    close(p.out);
}

static void do_something(uint64_t *random, struct pipe_ends p)
{
    char c = 0;
    duet_result r;
    duet_future *f;
    int64_t us = (int64_t)(test_random(random) % 200);
    switch (test_random(random) % 9) {
    case 0: /* in flight until its deadline */
        must_equal(read_one(p.in, duet_us(us), &c).err, -ETIME);
        break;
    case 1: /* … until the byte comes */
        f = duet_pool_submit(duet_pool_default(), write_one, &p.out);
        must_equal(read_one(p.in, SURELY, &c).err, 0);
        must_equal(c, 'x');
        must_equal(duet_future_close(f, &r), 0);
        break;
    case 2:
        must_equal(duet_poll(p.in, POLLIN, duet_us(us)), -ETIME);
        break;
    case 3: /* answered at once, or nearly */
        must_equal(duet_write(p.out, "y", 1, SURELY), 1);
        must_equal(read_one(p.in, SURELY, &c).err, 0);
        must_equal(c, 'y');
        break;
    case 4:
    case 5: /* nothing in flight */
        must_equal(duet_sleep(duet_us(us)), 0);
        break;
    case 6:
        close_under_a_reader(random);
        break;
    case 7:
        must_equal(duet_offload(NULL, return_ok, NULL, SURELY, &r), 0);
        break;
    default:
        must_equal(duet_yield(), 0);
    }
}

static duet_result be_restless(void *arg)
{
    uint64_t random = *(uint64_t *)arg;
    struct pipe_ends p = open_pipe();
    for (int i = 0; !atomic_load(&enough); i++)
        do_something(&random, p);
    close_pipe(p);
    return duet_ok();
}

static duet_result be_restless_with_children(void *arg)
{
    uint64_t random = *(uint64_t *)arg;
    while (!atomic_load(&enough)) {
        await_child((int64_t)(test_random(&random) % 200));
        must_equal(duet_sleep(duet_us((int64_t)(test_random(&random) % 500))), 0);
    }
    return duet_ok();
}

static duet_result be_restless_with_signals(void *arg)
{
    uint64_t random = *(uint64_t *)arg;
    duet_signals *signals;
    const int usr1 = SIGUSR1;
    must_equal(duet_signals_open(&signals, &usr1, 1), 0);
    while (!atomic_load(&enough)) {
        if (test_random(&random) % 2) {
            int rc = duet_signals_wait(signals, duet_us((int64_t)(test_random(&random) % 100)));
            must(rc == -ETIME || rc == SIGUSR1);
        }
        must_equal(kill(getpid(), SIGUSR1), 0);
        must_equal(duet_signals_wait(signals, SURELY), SIGUSR1);
        must_equal(duet_sleep(duet_us((int64_t)(test_random(&random) % 300))), 0);
    }
    duet_signals_close(signals);
    return duet_ok();
}

/* ---- Who submits ---- */

struct caller {
    pthread_t thread;
    uint64_t random;
};

static void settle_it(void *promise)
{
    must_equal(duet_future_settle(promise, duet_i64(42)), 0);
}

static void call_soon_and_wait(void)
{
    duet_future *promise;
    duet_result r;
    must_equal(duet_future_open(&promise), 0);
    must_equal(duet_call_soon(loop, settle_it, promise), 0);
    must_equal(duet_future_wait(promise, SURELY, &r), 0);
    must_equal(duet_as_i64(r), 42);
    duet_future_unref(promise);
}

static void note_the_moment(void *arg)
{
    *(int64_t *)arg = duet_now_ns();
}

static void call_at_and_wait(int64_t us)
{
    int64_t ran_ns = 0;
    duet_result r;
    duet_deadline at = duet_us(us);
    duet_future *f = duet_call_at(loop, at, note_the_moment, &ran_ns);
    must_equal(duet_future_wait(f, SURELY, &r), 0);
    must_equal(r.err, 0);
    must(ran_ns >= at.ns);
    duet_future_unref(f);
}

static duet_result yield_and_return(void *arg)
{
    int rc = duet_yield();
    return rc < 0 ? duet_err(rc) : duet_ptr(arg);
}

static void submit_once(uint64_t *random)
{
    duet_result r;
    duet_future *f;
    int rc;
    switch (test_random(random) % 6) {
    case 0:
        must_equal(duet_call(loop, return_arg, random, SURELY, &r), 0);
        must(duet_as_ptr(r) == random);
        break;
    case 1:
        must_equal(duet_call(loop, yield_and_return, random, SURELY, &r), 0);
        must(duet_as_ptr(r) == random);
        break;
    case 2:
        f = duet_submit(loop, return_arg, random);
        must_equal(duet_future_wait(f, SURELY, &r), 0);
        must(duet_as_ptr(r) == random);
        duet_future_unref(f);
        break;
    case 3:
        call_soon_and_wait();
        break;
    case 4:
        call_at_and_wait((int64_t)(test_random(random) % 100));
        break;
    default: /* cancelled where it sleeps; or it never began */
        rc = duet_call(loop, sleep_long, NULL, duet_us((int64_t)(test_random(random) % 60)), &r);
        must_equal(rc, -ETIME);
        must_equal(r.err, -ECANCELED);
    }
}

static void *submit_again_and_again(void *arg)
{
    struct caller *me = arg;
    for (int i = test_rounds(1200); i > 0; i--) {
        submit_once(&me->random);
        pause_at_random(&me->random);
    }
    return NULL;
}

/* Callers against those bodies on one loop. */
static void submit_while(duet_fn *const *bodies, int n, int spin_us)
{
    uint64_t seed = test_seed(), seeds[4];
    struct caller callers[CALLERS];
    duet_future *fs[4];
    enough = false;
    start_loop_that_spins(spin_us);
    for (int i = 0; i < n; i++) {
        seeds[i] = test_random(&seed);
        fs[i] = duet_submit(loop, bodies[i], &seeds[i]);
    }
    for (int i = 0; i < CALLERS; i++) {
        callers[i].random = test_random(&seed);
        must_equal(pthread_create(&callers[i].thread, NULL, submit_again_and_again, &callers[i]),
                   0);
    }
    for (int i = 0; i < CALLERS; i++)
        pthread_join(callers[i].thread, NULL);
    enough = true;
    for (int i = 0; i < n; i++) {
        duet_result r;
        must_equal(duet_future_wait(fs[i], SURELY, &r), 0);
        must_equal(r.err, 0);
        duet_future_unref(fs[i]);
    }
    must_equal(duet_loop_close(loop, SURELY), 0);
}

static void nothing_is_lost_while_nothing_is_in_flight(void **state)
{
    (void)state;
    submit_while(NULL, 0, -1);
}

static void nothing_is_lost_while_the_loop_changes_how_it_sleeps(void **state)
{
    (void)state;
    duet_fn *const bodies[] = {be_restless, be_restless};
    submit_while(bodies, 1, -1);
    submit_while(bodies, 2, -1);
    submit_while(bodies, 2, 0); /* and while it looks before it sleeps */
    submit_while(bodies, 2, 50);
}

static void nothing_is_lost_while_children_and_signals_come_and_go(void **state)
{
    (void)state;
    duet_fn *const bodies[] = {be_restless_with_children, be_restless_with_signals};
    submit_while(bodies, 1, -1);
    submit_while(bodies + 1, 1, -1);
    submit_while(bodies, 2, -1);
}

/* ---- One after the other, by one thread: each side of each change ---- */

static duet_result read_until_it_comes(void *arg)
{
    char c;
    return read_one(*(int *)arg, SURELY, &c);
}

static void calls_are_answered_before_during_and_after_a_read(void **state)
{
    (void)state;
    uint64_t random = test_seed();
    struct pipe_ends p = open_pipe();
    start_loop_that_spins(-1);
    for (int i = test_rounds(1200); i > 0; i--) {
        duet_result r;
        pause_at_random(&random);
        must_equal(duet_call(loop, return_ok, NULL, SURELY, NULL), 0);
        duet_future *f = duet_submit(loop, read_until_it_comes, &p.in);
        pause_at_random(&random);
        must_equal(duet_call(loop, return_ok, NULL, SURELY, NULL), 0);
        pause_at_random(&random);
        call_soon_and_wait();
        must_equal(write(p.out, "x", 1), 1);
        if (i % 2)
            must_equal(duet_call(loop, return_ok, NULL, SURELY, NULL), 0);
        must_equal(duet_future_wait(f, SURELY, &r), 0);
        must_equal(r.err, 0);
        duet_future_unref(f);
    }
    must_equal(duet_loop_close(loop, SURELY), 0);
    close_pipe(p);
}

static void a_read_is_cancelled_while_the_loop_sleeps_in_it(void **state)
{
    (void)state;
    uint64_t random = test_seed();
    struct pipe_ends p = open_pipe();
    start_loop_that_spins(-1);
    for (int i = test_rounds(1200); i > 0; i--) {
        duet_result r;
        duet_future *f = duet_submit(loop, read_until_it_comes, &p.in);
        pause_at_random(&random);
        must_equal(duet_future_close(f, &r), 0);
        must_equal(r.err, -ECANCELED);
        pause_at_random(&random);
        must_equal(duet_call(loop, return_ok, NULL, SURELY, NULL), 0);
    }
    must_equal(duet_loop_close(loop, SURELY), 0);
    close_pipe(p);
}

/* ---- Moments on a loop that has nothing else ---- */

static void a_moment_before_the_one_it_sleeps_for_is_not_missed(void **state)
{
    (void)state;
    uint64_t random = test_seed();
    struct pipe_ends p = open_pipe();
    int64_t never = 0;
    for (int reads = 0; reads < 2; reads++) {
        start_loop_that_spins(-1);
        duet_future *hour = duet_submit(loop, sleep_long, NULL);
        duet_future *years = duet_call_at(loop, duet_sec(86400LL * 3650), note_the_moment, &never);
        duet_future *f = reads ? duet_submit(loop, read_until_it_comes, &p.in) : NULL;
        for (int i = test_rounds(1000); i > 0; i--) {
            call_at_and_wait((int64_t)(test_random(&random) % 200));
            pause_at_random(&random);
        }
        must(!duet_future_settled(hour));
        must_equal(duet_loop_close(loop, SURELY), 0);
        must(duet_future_settled(hour) && duet_future_settled(years));
        must_equal(duet_future_result(years).err, -ECANCELED);
        must_equal(never, 0);
        duet_future_unref(hour);
        duet_future_unref(years);
        duet_future_unref(f);
    }
    close_pipe(p);
}

static duet_result sleep_again_and_again(void *arg)
{
    uint64_t random = *(uint64_t *)arg;
    for (int i = 0; i < 200; i++) {
        duet_deadline until = duet_us((int64_t)(test_random(&random) % 100));
        must_equal(duet_sleep(until), 0);
        must(duet_now_ns() >= until.ns);
    }
    return duet_ok();
}

static void sleepers_alone_on_a_loop_wake(void **state)
{
    (void)state;
    enum {
        N = 20
    };
    uint64_t seed = test_seed(), seeds[N];
    duet_future *fs[N];
    start_loop_that_spins(-1);
    for (int i = 0; i < N; i++) {
        seeds[i] = test_random(&seed);
        fs[i] = duet_submit(loop, sleep_again_and_again, &seeds[i]);
    }
    must_equal(duet_gather(fs, N, SURELY, NULL), 0);
    for (int i = 0; i < N; i++)
        duet_future_unref(fs[i]);
    must_equal(duet_loop_close(loop, SURELY), 0);
}

/* ---- Stopped in each state ---- */

static duet_result await_a_child_for_ever(void *arg)
{
    (void)arg;
    pid_t child = fork();
    must(child >= 0);
    if (child == 0)
        for (;;)
            pause();
    int rc = duet_waitpid(child, NULL, SURELY);
    must_equal(kill(child, SIGKILL), 0);
    must_equal(waitpid(child, NULL, 0), child);
    return duet_err(rc);
}

static duet_result await_a_signal_for_ever(void *arg)
{
    (void)arg;
    duet_signals *signals;
    const int usr2 = SIGUSR2;
    must_equal(duet_signals_open(&signals, &usr2, 1), 0);
    int rc = duet_signals_wait(signals, SURELY);
    duet_signals_close(signals);
    return duet_err(rc);
}

static duet_result await_a_promise_for_ever(void *promise)
{
    return duet_err(duet_future_wait(promise, SURELY, NULL));
}

static void *stop_it(void *unused)
{
    (void)unused;
    duet_loop_stop(loop);
    duet_loop_unref(loop);
    return NULL;
}

static void a_stop_is_heard_in_each_state(void **state)
{
    (void)state;
    uint64_t random = test_seed();
    struct pipe_ends p = open_pipe();
    duet_future *promise;
    must_equal(duet_future_open(&promise), 0);
    struct {
        duet_fn *body;
        void *arg;
    } states[] = {{NULL, NULL},
                  {sleep_long, NULL},
                  {await_a_promise_for_ever, promise},
                  {read_until_it_comes, &p.in},
                  {await_a_child_for_ever, NULL},
                  {await_a_signal_for_ever, NULL}};
    for (int round = test_rounds(120); round > 0; round--)
        for (size_t i = 0; i < sizeof states / sizeof states[0]; i++) {
            pthread_t stopper;
            bool stop = test_random(&random) % 2;
            start_loop_that_spins(-1);
            duet_future *f =
                states[i].body ? duet_submit(loop, states[i].body, states[i].arg) : NULL;
            pause_at_random(&random);
            if (stop) {
                duet_loop_ref(loop);
                must_equal(pthread_create(&stopper, NULL, stop_it, NULL), 0);
            }
            if (f && test_random(&random) % 2) { /* without it, the close wakes the loop */
                if (!stop)
                    duet_loop_stop(loop);
                must_equal(duet_future_wait(f, SURELY, NULL), 0);
            }
            must_equal(duet_loop_close(loop, SURELY), 0);
            if (stop)
                pthread_join(stopper, NULL);
            must(!f || duet_future_result(f).err == -ECANCELED);
            duet_future_unref(f);
        }
    duet_future_unref(promise);
    close_pipe(p);
}

/* ---- Stopped while others submit and it changes how it sleeps ---- */

static duet_result read_and_sleep(void *arg)
{
    uint64_t random = *(uint64_t *)arg;
    struct pipe_ends p = open_pipe();
    int rc = 0;
    for (char c; rc == 0 || rc == -ETIME;)
        if (test_random(&random) % 2)
            rc = read_one(p.in, duet_us((int64_t)(test_random(&random) % 50)), &c).err;
        else
            rc = duet_sleep(duet_us((int64_t)(test_random(&random) % 50)));
    close_pipe(p);
    return duet_err(rc);
}

static void *submit_until_refused(void *arg)
{
    struct caller *me = arg;
    for (int err = 0; err != -ESHUTDOWN;) {
        duet_result r;
        if (test_random(&me->random) % 2) {
            must_equal(duet_call(loop, return_ok, NULL, SURELY, &r), 0);
        } else {
            duet_future *f = duet_submit(loop, return_ok, NULL);
            must_equal(duet_future_wait(f, SURELY, &r), 0);
            duet_future_unref(f);
        }
        err = r.err;
        must(err == 0 || err == -ECANCELED || err == -ESHUTDOWN);
        pause_at_random(&me->random);
    }
    duet_loop_unref(loop);
    return NULL;
}

static void a_loop_is_closed_while_it_changes_how_it_sleeps(void **state)
{
    (void)state;
    uint64_t random = test_seed();
    for (int round = test_rounds(400); round > 0; round--) {
        struct caller callers[CALLERS];
        uint64_t seed = test_random(&random);
        start_loop_that_spins(-1);
        duet_future *f = duet_submit(loop, read_and_sleep, &seed);
        for (int i = 0; i < CALLERS; i++) {
            duet_loop_ref(loop);
            callers[i].random = test_random(&random);
            must_equal(pthread_create(&callers[i].thread, NULL, submit_until_refused, &callers[i]),
                       0);
        }
        pause_at_random(&random);
        must_equal(duet_loop_close(loop, SURELY), 0);
        for (int i = 0; i < CALLERS; i++)
            pthread_join(callers[i].thread, NULL);
        must_equal(duet_future_result(f).err, -ECANCELED);
        duet_future_unref(f);
    }
}

/* ---- Before it runs, as it begins to, and after its end ---- */

static void *call_until_its_end(void *arg)
{
    struct caller *me = arg;
    for (int err = 0; err != -ESHUTDOWN;) {
        duet_result r;
        must_equal(duet_call(loop, yield_and_return, me, SURELY, &r), 0);
        err = r.err;
        must(err == -ECANCELED || err == -ESHUTDOWN || duet_as_ptr(r) == me);
        if (test_random(&me->random) % 8 == 0)
            duet_loop_stop(loop);
        pause_at_random(&me->random);
    }
    return NULL;
}

static void who_calls_before_the_run_or_after_its_end_is_answered(void **state)
{
    (void)state;
    uint64_t random = test_seed();
    for (int round = test_rounds(600); round > 0; round--) {
        const duet_loop_config config = {.spin_us = round % 2 ? -1 : 0};
        struct caller callers[CALLERS];
        must_equal(duet_loop_open(&loop, &config), 0);
        (void)duet_loop_ref(loop);
        for (int i = 0; i < CALLERS; i++) {
            callers[i].random = test_random(&random);
            must_equal(pthread_create(&callers[i].thread, NULL, call_until_its_end, &callers[i]),
                       0);
        }
        pause_at_random(&random);
        must_equal(duet_loop_run(loop), 0);
        must_equal(duet_loop_close(loop, SURELY), 0);
        for (int i = 0; i < CALLERS; i++)
            pthread_join(callers[i].thread, NULL);
        duet_loop_unref(loop);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_is_lost_while_nothing_is_in_flight),
        cmocka_unit_test(nothing_is_lost_while_the_loop_changes_how_it_sleeps),
        cmocka_unit_test(nothing_is_lost_while_children_and_signals_come_and_go),
        cmocka_unit_test(calls_are_answered_before_during_and_after_a_read),
        cmocka_unit_test(a_read_is_cancelled_while_the_loop_sleeps_in_it),
        cmocka_unit_test(a_moment_before_the_one_it_sleeps_for_is_not_missed),
        cmocka_unit_test(sleepers_alone_on_a_loop_wake),
        cmocka_unit_test(a_stop_is_heard_in_each_state),
        cmocka_unit_test(a_loop_is_closed_while_it_changes_how_it_sleeps),
        cmocka_unit_test(who_calls_before_the_run_or_after_its_end_is_answered),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
