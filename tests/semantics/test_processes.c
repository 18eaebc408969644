/* What io.h says of the ends of children and of signals. The waits are those of coroutines, jobs
 * and plain threads. */
#include "duet_test.h"
#include "parties.h"
#include "shared.h"

#include <duet/io.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>

/* ---- What the tests of this file share ---- */

static struct scene scene;
static int fds_before;

static int open_scene(void **state)
{
    (void)state;
    fds_before = count_fds();
    scene_open(&scene);
    return 0;
}

/* Every test leaves as many descriptors as it found, and no child. */
static int close_scene(void **state)
{
    (void)state;
    scene_close(&scene);
    must_equal(count_fds(), fds_before);
    must_equal(waitpid(-1, NULL, WNOHANG), -1);
    must_equal(errno, ECHILD);
    return 0;
}

/* Runs a body once as each kind of party. */
static void as_each_kind(void (*body)(struct party *p), void *arg)
{
    for (enum kind k = 0; k < KINDS; k++) {
        struct party p;
        party_begin(&p, &scene, k, body, arg, SURELY);
        (void)party_end(&p);
    }
}

/* Everybody who hears of a cancellation while asleep: the kinds of coroutines, then a job with
 * DUET_INTERRUPT. */
static void begin_cancellable(struct party *p, enum kind k, void (*body)(struct party *p),
                              void *arg)
{
    const duet_opts opts = {.flags = DUET_INTERRUPT};
    if (k < IN_POOL) {
        party_begin(p, &scene, k, body, arg, SURELY);
        return;
    }
    *p = (struct party){.scene = &scene, .kind = IN_POOL, .body = body, .arg = arg, .by = SURELY};
    p->arrived = (struct gate)GATE_INIT;
    p->f = duet_pool_submit_with(scene.pool, party_run, p, &opts);
}

/* ---- Children ---- */

/* A child that lives until it is told to end, by a byte or by the end of all who could write it. */
struct child {
    pid_t pid;
    int tell;
    int status, rc;
};

static void child_start(struct child *c)
{
    int fds[2];
    must_equal(pipe2(fds, O_CLOEXEC), 0);
    *c = (struct child){.tell = fds[1], .status = 77, .rc = 77};
    c->pid = fork();
    must(c->pid >= 0);
    if (c->pid == 0) {
        unsigned char code = 0;
        (void)close(fds[1]);
        _exit(read(fds[0], &code, 1) == 1 ? code : 99);
    }
    must_equal(close(fds[0]), 0);
}

static void child_tell(struct child *c, unsigned char code)
{
    must_equal(write(c->tell, &code, 1), 1);
    must_equal(close(c->tell), 0);
}

/* Until it has ended; it is still there to be waited for. */
static void child_await(pid_t pid)
{
    siginfo_t info;
    must_equal(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT), 0);
}

static void wait_for_child(struct party *p)
{
    struct child *c = p->arg;
    arrive(p);
    c->rc = duet_waitpid(c->pid, &c->status, p->by);
}

thread_test(a_wait_for_a_child_sleeps_until_it_has_ended_and_gives_its_status)
{
    for (enum kind k = 0; k < KINDS; k++) {
        struct child c;
        struct party p;
        child_start(&c);
        party_begin(&p, &scene, k, wait_for_child, &c, DUET_NEVER);
        await_asleep(&p);
        must_sleep_on(&p);
        child_tell(&c, (unsigned char)(7 + k));
        (void)party_end(&p);
        must_equal(c.rc, 0);
        must(WIFEXITED(c.status));
        must_equal(WEXITSTATUS(c.status), 7 + k);
        must_equal(waitpid(c.pid, NULL, WNOHANG), -1); /* it is waited for */
    }
}

static void wait_for_the_ended(struct party *p)
{
    struct child c;
    (void)p;
    child_start(&c);
    must_equal(duet_waitpid(c.pid, &c.status, DUET_NOW), -ETIME);
    must_equal(c.status, 77);
    child_tell(&c, 3);
    child_await(c.pid);
    must_equal(duet_waitpid(c.pid, &c.status, DUET_NOW), 0);
    must_equal(c.status, 3 << 8);
    must_equal(duet_waitpid(c.pid, &c.status, DUET_NOW), -ECHILD);
    must_equal(duet_waitpid(c.pid, &c.status, SURELY), -ECHILD);
    must_equal(c.status, 3 << 8);

    child_start(&c);
    must_equal(kill(c.pid, SIGKILL), 0);
    must_equal(duet_waitpid(c.pid, &c.status, SURELY), 0);
    must(WIFSIGNALED(c.status));
    must_equal(WTERMSIG(c.status), SIGKILL);
    must_equal(close(c.tell), 0);

    child_start(&c);
    child_tell(&c, 1);
    must_equal(duet_waitpid(c.pid, NULL, SURELY), 0);
}

thread_test(a_child_that_has_ended_already_or_was_killed_is_told_and_the_status_may_be_left_out)
{
    as_each_kind(wait_for_the_ended, NULL);
}

static void wait_for_no_child(struct party *p)
{
    int status = 77, fds[2], news[2];
    struct child c;
    pid_t grandchild = 0;
    (void)p;
    must_equal(duet_waitpid(0, &status, SURELY), -EINVAL);
    must_equal(duet_waitpid(-1, &status, SURELY), -EINVAL);
    must_equal(duet_waitpid(-7, &status, DUET_NOW), -EINVAL);
    must_equal(duet_waitpid(getpid(), &status, SURELY), -ECHILD);
    must_equal(duet_waitpid(getppid(), &status, SURELY), -ECHILD);
    must_equal(duet_waitpid(1, &status, DUET_NOW), -ECHILD);
    must_equal(duet_waitpid(0x7ffffffe, &status, SURELY), -ECHILD); /* there is no such number */

    must_equal(pipe2(fds, O_CLOEXEC), 0);
    must_equal(pipe2(news, O_CLOEXEC), 0);
    child_start(&c);
    pid_t between = fork();
    must(between >= 0);
    if (between == 0) {
        pid_t pid = fork();
        if (pid == 0) { /* lives as long as the pipe */
            (void)close(fds[1]);
            _exit(read(fds[0], &pid, sizeof pid) >= 0 ? 0 : 1);
        }
        _exit(write(news[1], &pid, sizeof pid) == sizeof pid ? 0 : 1);
    }
    must_equal(duet_waitpid(between, &status, SURELY), 0);
    must_equal(status, 0);
    must_equal(read(news[0], &grandchild, sizeof grandchild), sizeof grandchild);
    status = 77;
    must_equal(duet_waitpid(grandchild, &status, SURELY), -ECHILD);
    must_equal(duet_waitpid(grandchild, &status, DUET_NOW), -ECHILD);
    must_equal(status, 77);
    must_equal(close(fds[0]), 0);
    must_equal(close(fds[1]), 0);
    must_equal(close(news[0]), 0);
    must_equal(close(news[1]), 0);
    child_tell(&c, 0);
    must_equal(duet_waitpid(c.pid, NULL, SURELY), 0);
}

thread_test(what_is_no_child_of_this_process_is_echild)
{
    as_each_kind(wait_for_no_child, NULL);
}

static void wait_too_briefly(struct party *p)
{
    struct child *c = p->arg;
    duet_deadline by = duet_ms(3);
    must_equal(duet_waitpid(c->pid, &c->status, by), -ETIME);
    must(duet_now_ns() >= by.ns);
    must_equal(c->status, 77);
    child_tell(c, 5);
    must_equal(duet_waitpid(c->pid, &c->status, SURELY), 0);
    must_equal(c->status, 5 << 8);
}

thread_test(after_a_deadline_a_child_can_still_be_waited_for)
{
    for (enum kind k = 0; k < KINDS; k++) {
        struct child c;
        struct party p;
        child_start(&c);
        party_begin(&p, &scene, k, wait_too_briefly, &c, SURELY);
        (void)party_end(&p);
    }
}

thread_test(after_a_cancellation_a_child_can_still_be_waited_for)
{
    for (enum kind k = 0; k <= IN_POOL; k++) {
        struct child c;
        struct party p;
        child_start(&c);
        begin_cancellable(&p, k, wait_for_child, &c);
        await_asleep(&p);
        duet_future_cancel(p.f);
        (void)party_end(&p);
        must_equal(c.rc, -ECANCELED);
        must_equal(c.status, 77);
        child_tell(&c, 5);
        must_equal(waitpid(c.pid, &c.status, 0), c.pid);
        must_equal(c.status, 5 << 8);
    }
}

static void wait_when_cancelled(struct party *p)
{
    struct child *c = p->arg;
    await_cancellation(p);
    must_equal(duet_waitpid(c->pid, &c->status, SURELY), -ECANCELED);
    must_equal(duet_waitpid(c->pid, &c->status, DUET_NOW), -ECANCELED);
    child_tell(c, 5);
    child_await(c->pid);
    must_equal(duet_waitpid(c->pid, &c->status, SURELY), -ECANCELED);
    must_equal(duet_waitpid(c->pid, &c->status, DUET_NOW), -ECANCELED);
    must_equal(c->status, 77);
    duet_shield_begin();
    must_equal(duet_waitpid(c->pid, &c->status, SURELY), 0);
    must_equal(c->status, 5 << 8);
    duet_shield_end();
}

thread_test(who_was_cancelled_before_waits_for_no_child_but_under_a_shield)
{
    for (enum kind k = 0; k <= IN_POOL; k++) {
        struct child c;
        struct party p;
        child_start(&c);
        party_begin(&p, &scene, k, wait_when_cancelled, &c, SURELY);
        await_arrival(&p);
        duet_future_cancel(p.f);
        (void)party_end(&p);
    }
}

static void wait_shielded(struct party *p)
{
    duet_shield_begin();
    wait_for_child(p);
    must(duet_cancelled());
    duet_shield_end();
}

thread_test(under_a_shield_a_wait_for_a_child_outlasts_its_cancellation)
{
    for (enum kind k = 0; k <= IN_POOL; k++) {
        struct child c;
        struct party p;
        child_start(&c);
        begin_cancellable(&p, k, wait_shielded, &c);
        await_asleep(&p);
        duet_future_cancel(p.f);
        must_sleep_on(&p);
        child_tell(&c, 5);
        (void)party_end(&p);
        must_equal(c.rc, 0);
        must_equal(c.status, 5 << 8);
    }
}

thread_test(of_two_who_wait_for_a_child_one_gets_it)
{
    for (int round = 0; round < KINDS * KINDS; round++) {
        struct child c;
        child_start(&c);
        struct child one = c, two = c;
        struct party p, q;
        party_begin(&p, &scene, (enum kind)(round % KINDS), wait_for_child, &one, SURELY);
        party_begin(&q, &scene, (enum kind)(round / KINDS), wait_for_child, &two, SURELY);
        await_asleep(&p);
        await_asleep(&q);
        child_tell(&c, 5);
        (void)party_end(&p);
        (void)party_end(&q);
        must_equal(one.rc + two.rc, -ECHILD);
        must(one.rc == 0 || two.rc == 0);
        must_equal(one.status + two.status, (5 << 8) + 77);
    }
}

thread_test(a_child_that_somebody_else_waits_for_is_echild)
{
    for (enum kind k = 0; k < KINDS; k++) {
        struct sigaction ignore = {.sa_handler = SIG_IGN}, old; /* the system waits for it then */
        struct child c;
        struct party p;
        must_equal(sigaction(SIGCHLD, &ignore, &old), 0);
        child_start(&c);
        party_begin(&p, &scene, k, wait_for_child, &c, SURELY);
        await_asleep(&p);
        child_tell(&c, 5);
        (void)party_end(&p);
        must_equal(sigaction(SIGCHLD, &old, NULL), 0);
        must_equal(c.rc, -ECHILD);
        must_equal(c.status, 77);
    }
}

thread_test(a_child_that_is_stopped_or_goes_on_has_not_ended)
{
    for (enum kind k = 0; k < KINDS; k++) {
        struct child c;
        struct party p;
        siginfo_t info;
        child_start(&c);
        party_begin(&p, &scene, k, wait_for_child, &c, SURELY);
        await_asleep(&p);
        must_equal(kill(c.pid, SIGSTOP), 0);
        must_equal(waitid(P_PID, (id_t)c.pid, &info, WSTOPPED), 0);
        must_sleep_on(&p);
        must_equal(kill(c.pid, SIGCONT), 0);
        must_equal(waitid(P_PID, (id_t)c.pid, &info, WCONTINUED), 0);
        must_sleep_on(&p);
        child_tell(&c, 5);
        (void)party_end(&p);
        must_equal(c.rc, 0);
        must_equal(c.status, 5 << 8);
    }
}

enum {
    CHILDREN = 40
};

thread_test(many_children_end_in_any_order_and_each_waiter_gets_its_own)
{
    static struct child c[CHILDREN];
    static struct party p[CHILDREN];
    for (int i = 0; i < CHILDREN; i++) {
        child_start(&c[i]);
        /* few jobs: each keeps a worker */
        enum kind k = i % 8 < KINDS ? (enum kind)(i % 8) : (enum kind)(i % 2);
        party_begin(&p[i], &scene, k, wait_for_child, &c[i], SURELY);
    }
    for (int i = 0; i < CHILDREN; i++) {
        int which = i * 7 % CHILDREN;
        if (i % 5 == 0)
            must_equal(kill(c[which].pid, SIGKILL), 0);
        else
            child_tell(&c[which], (unsigned char)which);
    }
    for (int i = 0; i < CHILDREN; i++) {
        int which = i * 7 % CHILDREN;
        (void)party_end(&p[which]);
        must_equal(c[which].rc, 0);
        must_equal(c[which].status, i % 5 == 0 ? SIGKILL : which << 8);
        if (i % 5 == 0)
            must_equal(close(c[which].tell), 0);
    }
}

thread_test(an_end_that_races_a_cancellation_or_a_deadline_is_told_once)
{
    uint64_t random = test_seed();
    int told = 0, rounds = test_rounds(150);
    for (int round = 0; round < rounds; round++) {
        struct child c;
        struct party p;
        enum kind k = (enum kind)(round % KINDS);
        bool by_deadline = k == IN_THREAD || round / KINDS % 2;
        child_start(&c);
        if (by_deadline)
            party_begin(&p, &scene, k, wait_for_child, &c,
                        duet_us((int64_t)(test_random(&random) % 600)));
        else
            begin_cancellable(&p, k, wait_for_child, &c);
        await_arrival(&p);
        child_tell(&c, 5);
        for (volatile uint64_t i = test_random(&random) % 200000; i > 0; i--)
            ;
        if (!by_deadline)
            duet_future_cancel(p.f);
        (void)party_end(&p);
        if (c.rc == 0) {
            told++;
            must_equal(c.status, 5 << 8);
            must_equal(waitpid(c.pid, NULL, 0), -1);
        } else {
            must_equal(c.rc, by_deadline ? -ETIME : -ECANCELED);
            must_equal(c.status, 77);
            must_equal(waitpid(c.pid, &c.status, 0), c.pid);
            must_equal(c.status, 5 << 8);
        }
    }
    printf("told in %d of %d rounds\n", told, rounds);
}

static void wait_for_child_bare(void *arg)
{
    struct child *c = arg;
    must_equal(duet_waitpid(c->pid, &c->status, SURELY), -EDEADLK);
    must_equal(c->status, 77);
    child_tell(c, 5);
    child_await(c->pid);
    must_equal(duet_waitpid(c->pid, &c->status, SURELY), 0);
    must_equal(c->status, 5 << 8);
}

thread_test(a_bare_callback_gets_a_child_that_has_ended_and_must_not_wait)
{
    struct child c;
    child_start(&c);
    run_bare(scene.loop[0], wait_for_child_bare, &c);
}

static void keep_errno_with_children(struct party *p)
{
    struct child c;
    (void)p;
    child_start(&c);
    errno = 77;
    must_equal(duet_waitpid(c.pid, NULL, DUET_NOW), -ETIME);
    must_equal(errno, 77);
    must_equal(duet_waitpid(c.pid, NULL, duet_ms(1)), -ETIME);
    must_equal(errno, 77);
    child_tell(&c, 0);
    errno = 77;
    must_equal(duet_waitpid(c.pid, NULL, SURELY), 0);
    must_equal(errno, 77);
    must_equal(duet_waitpid(c.pid, NULL, SURELY), -ECHILD);
    must_equal(errno, 77);
}

thread_test(a_wait_for_a_child_leaves_errno_alone)
{
    as_each_kind(keep_errno_with_children, NULL);
}

thread_test(a_loop_that_is_closed_ends_the_waits_for_children)
{
    duet_loop *loops[2] = {scene.loop[0], start_loop()};
    struct scene own = {{loops[1], loops[1]}, scene.pool};
    struct child c[8];
    struct party p[8];
    for (int i = 0; i < 8; i++) {
        child_start(&c[i]);
        party_begin(&p[i], &own, ON_LOOP, wait_for_child, &c[i], SURELY);
    }
    for (int i = 0; i < 8; i++)
        await_asleep(&p[i]);
    close_loop(loops[1]);
    for (int i = 0; i < 8; i++) {
        (void)party_end(&p[i]);
        must_equal(c[i].rc, -ECANCELED);
        child_tell(&c[i], 0);
        must_equal(waitpid(c[i].pid, NULL, 0), c[i].pid);
    }
}

/* ---- Signals ---- */

static duet_signals *open_signals(int a, int b, int c)
{
    int signos[3] = {a, b, c};
    duet_signals *s = NULL;
    must_equal(duet_signals_open(&s, signos, c ? 3 : b ? 2 : 1), 0);
    must(s != NULL);
    return s;
}

static int try_signal(duet_signals *s)
{
    return duet_signals_wait(s, DUET_NOW);
}

static void wait_for_signal(struct party *p)
{
    arrive(p);
    p->rc = duet_signals_wait(p->arg, p->by);
}

thread_test(a_wait_for_signals_sleeps_until_one_comes)
{
    for (enum kind k = 0; k < KINDS; k++)
        for (int i = 0; i < 3; i++) {
            int signo = i == 0 ? SIGUSR1 : i == 1 ? SIGTERM : SIGRTMIN + 3;
            duet_signals *s = open_signals(SIGUSR1, SIGTERM, SIGRTMIN + 3);
            struct party p;
            party_begin(&p, &scene, k, wait_for_signal, s, DUET_NEVER);
            await_asleep(&p);
            must_sleep_on(&p);
            must_equal(kill(getpid(), signo), 0);
            must_equal(party_end(&p), signo);
            must_equal(try_signal(s), -ETIME);
            duet_signals_close(s);
        }
}

/* A wait by a party of that kind. */
static int take(enum kind k, duet_signals *s, duet_deadline by)
{
    struct party p;
    party_begin(&p, &scene, k, wait_for_signal, s, by);
    return party_end(&p);
}

/* This thread blocks no signal, so that what it raises has come when raise() returns. */
thread_test(signals_are_coalesced_and_the_lowest_comes_first)
{
    for (enum kind k = 0; k < KINDS; k++) {
        duet_signals *s = open_signals(SIGUSR2, SIGHUP, SIGUSR1);
        must(SIGHUP < SIGUSR1 && SIGUSR1 < SIGUSR2);
        for (int i = 0; i < 3; i++) {
            must_equal(raise(SIGUSR2), 0);
            must_equal(raise(SIGUSR1), 0);
            must_equal(raise(SIGHUP), 0);
        }
        must_equal(take(k, s, SURELY), SIGHUP);
        must_equal(take(k, s, DUET_NOW), SIGUSR1);
        must_equal(raise(SIGHUP), 0); /* it passes those that came before */
        must_equal(take(k, s, DUET_NOW), SIGHUP);
        must_equal(take(k, s, SURELY), SIGUSR2);
        must_equal(take(k, s, DUET_NOW), -ETIME);
        must_equal(take(k, s, duet_ms(2)), -ETIME);
        must_equal(raise(SIGUSR2), 0);
        must_equal(take(k, s, DUET_NOW), SIGUSR2);
        must_equal(raise(SIGUSR1), 0); /* this one nobody takes */
        duet_signals_close(s);
    }
}

static atomic_int handled;

static void count_signal(int signo)
{
    (void)signo;
    handled++;
}

thread_test(what_was_set_before_is_set_again)
{
    struct sigaction before = {.sa_handler = count_signal, .sa_flags = SA_RESTART | SA_NODEFER};
    struct sigaction saved[4], now;
    const int signos[] = {SIGUSR1, SIGUSR2, SIGHUP, SIGTERM};
    sigset_t mask, mask_now;
    must_equal(sigemptyset(&before.sa_mask), 0);
    must_equal(sigaddset(&before.sa_mask, SIGALRM), 0);
    must_equal(sigaction(SIGUSR1, &before, &saved[0]), 0);
    must_equal(sigaction(SIGUSR2, &(struct sigaction){.sa_handler = SIG_IGN}, &saved[1]), 0);
    must_equal(sigaction(SIGHUP, NULL, &saved[2]), 0);
    must_equal(sigaction(SIGTERM, NULL, &saved[3]), 0);
    must_equal(pthread_sigmask(SIG_BLOCK, NULL, &mask), 0);
    atomic_store(&handled, 0);
    for (int round = 0; round < 3; round++) {
        duet_signals *s = NULL;
        must_equal(duet_signals_open(&s, signos, 4), 0);
        for (int i = 0; i < 4; i++)
            must_equal(raise(signos[i]), 0);
        for (int i = 0; i < 4 - round; i++) /* and some are left over */
            must(duet_signals_wait(s, SURELY) > 0);
        duet_signals_close(s);
        must_equal(atomic_load(&handled), 0);
        for (int i = 0; i < 4; i++) {
            must_equal(sigaction(signos[i], NULL, &now), 0);
            must(now.sa_handler == (i == 0   ? count_signal
                                    : i == 1 ? SIG_IGN
                                             : saved[i].sa_handler));
            if (i == 0) {
                must_equal(now.sa_flags & (SA_RESTART | SA_NODEFER), SA_RESTART | SA_NODEFER);
                must_equal(sigismember(&now.sa_mask, SIGALRM), 1);
                must_equal(sigismember(&now.sa_mask, SIGUSR2), 0);
            }
        }
        must_equal(pthread_sigmask(SIG_BLOCK, NULL, &mask_now), 0);
        for (int i = 1; i < NSIG; i++)
            must_equal(sigismember(&mask, i), sigismember(&mask_now, i));
    }
    must_equal(raise(SIGUSR1), 0);
    must_equal(atomic_load(&handled), 1);
    must_equal(sigaction(SIGUSR1, &saved[0], NULL), 0);
    must_equal(sigaction(SIGUSR2, &saved[1], NULL), 0);
}

thread_test(a_signal_is_caught_by_one_at_a_time_and_a_refusal_changes_nothing)
{
    struct sigaction ignore = {.sa_handler = SIG_IGN}, saved, now;
    const int other[] = {SIGUSR2, SIGUSR1};
    duet_signals *s = open_signals(SIGUSR1, SIGHUP, 0), *t = NULL, *u;
    must_equal(sigaction(SIGUSR2, &ignore, &saved), 0);
    must_equal(duet_signals_open(&t, other, 2), -EBUSY);
    must_equal(duet_signals_open(&t, other + 1, 1), -EBUSY);
    must_equal(sigaction(SIGUSR2, NULL, &now), 0);
    must(now.sa_handler == SIG_IGN);
    u = open_signals(SIGUSR2, SIGTERM, 0); /* which the refused one does not hold */
    must_equal(raise(SIGUSR1), 0);
    must_equal(raise(SIGTERM), 0);
    must_equal(duet_signals_wait(s, SURELY), SIGUSR1);
    must_equal(duet_signals_wait(u, SURELY), SIGTERM); /* each gets its own */
    must_equal(try_signal(s), -ETIME);
    must_equal(try_signal(u), -ETIME);
    duet_signals_close(s);
    must_equal(duet_signals_open(&t, other, 2), -EBUSY);
    duet_signals_close(u);
    must_equal(duet_signals_open(&t, other, 2), 0);
    must_equal(try_signal(t), -ETIME);
    duet_signals_close(t);
    must_equal(sigaction(SIGUSR2, NULL, &now), 0);
    must(now.sa_handler == SIG_IGN);
    must_equal(sigaction(SIGUSR2, &saved, NULL), 0);
    duet_signals_close(NULL);
}

thread_test(bad_arguments_are_refused)
{
    const int good = SIGUSR1, bad[] = {0, -1, NSIG, 1000, SIGKILL, SIGSTOP};
    int rc, before = count_fds();
    duet_signals *s = NULL;
    log_capture();
    must_equal(duet_signals_open(NULL, &good, 1), -EINVAL);
    must_equal(duet_signals_open(&s, NULL, 1), -EINVAL);
    must_equal(duet_signals_open(&s, &good, 0), -EINVAL);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        const int mixed[] = {SIGUSR1, bad[i]};
        must_equal(duet_signals_open(&s, &bad[i], 1), -EINVAL);
        must_equal(duet_signals_open(&s, mixed, 2), -EINVAL);
    }
    must_equal(duet_signals_wait(NULL, DUET_NOW), -EINVAL);
    log_release();
    must_equal(count_fds(), before);
    rc = duet_signals_open(&s, &good, 1); /* nothing of all that holds it */
    must_equal(rc, 0);
    duet_signals_close(s);
}

thread_test(a_deadline_or_a_cancellation_takes_no_signal_away)
{
    for (enum kind k = 0; k < KINDS; k++) {
        duet_signals *s = open_signals(SIGUSR1, SIGUSR2, 0);
        duet_deadline by = duet_ms(3);
        struct party p;
        party_begin(&p, &scene, k, wait_for_signal, s, by);
        must_equal(party_end(&p), -ETIME);
        must(duet_now_ns() >= by.ns);
        if (k <= IN_POOL) {
            begin_cancellable(&p, k, wait_for_signal, s);
            await_asleep(&p);
            duet_future_cancel(p.f);
            must_equal(party_end(&p), -ECANCELED);
        }
        must_equal(kill(getpid(), SIGUSR2), 0);
        party_begin(&p, &scene, k, wait_for_signal, s, SURELY);
        must_equal(party_end(&p), SIGUSR2);
        duet_signals_close(s);
    }
}

static void wait_for_signal_when_cancelled(struct party *p)
{
    duet_signals *s = p->arg;
    await_cancellation(p);
    must_equal(duet_signals_wait(s, SURELY), -ECANCELED);
    must_equal(kill(getpid(), SIGUSR1), 0);
    must_equal(duet_signals_wait(s, SURELY), -ECANCELED);
    must_equal(duet_signals_wait(s, DUET_NOW), -ECANCELED);
    duet_shield_begin();
    must_equal(duet_signals_wait(s, SURELY), SIGUSR1);
    must_equal(duet_signals_wait(s, DUET_NOW), -ETIME);
    duet_shield_end();
}

thread_test(who_was_cancelled_before_takes_no_signal_but_under_a_shield)
{
    for (enum kind k = 0; k <= IN_POOL; k++) {
        duet_signals *s = open_signals(SIGUSR1, 0, 0);
        struct party p;
        party_begin(&p, &scene, k, wait_for_signal_when_cancelled, s, SURELY);
        await_arrival(&p);
        duet_future_cancel(p.f);
        (void)party_end(&p);
        duet_signals_close(s);
    }
}

static void wait_for_signal_bare(void *arg)
{
    duet_signals *s = arg;
    must_equal(duet_signals_wait(s, SURELY), -EDEADLK);
    must_equal(kill(getpid(), SIGUSR1), 0);
    while (try_signal(s) != SIGUSR1) /* another thread may take it in its own time */
        ;
    must_equal(duet_signals_wait(s, SURELY), -EDEADLK);
}

thread_test(a_bare_callback_gets_a_signal_that_has_come_and_must_not_wait)
{
    duet_signals *s = open_signals(SIGUSR1, 0, 0);
    run_bare(scene.loop[0], wait_for_signal_bare, s);
    duet_signals_close(s);
}

static void keep_errno_with_signals(struct party *p)
{
    (void)p;
    errno = 77;
    duet_signals *s = open_signals(SIGUSR1, 0, 0);
    must_equal(errno, 77);
    must_equal(duet_signals_wait(s, DUET_NOW), -ETIME);
    must_equal(errno, 77);
    must_equal(duet_signals_wait(s, duet_ms(1)), -ETIME);
    must_equal(errno, 77);
    must_equal(kill(getpid(), SIGUSR1), 0);
    must_equal(duet_signals_wait(s, SURELY), SIGUSR1);
    must_equal(errno, 77);
    duet_signals *t = NULL;
    const int signo = SIGUSR1;
    must_equal(duet_signals_open(&t, &signo, 1), -EBUSY);
    must_equal(errno, 77);
    duet_signals_close(s);
    must_equal(errno, 77);
}

thread_test(signals_leave_errno_alone)
{
    as_each_kind(keep_errno_with_signals, NULL);
}

/* One signal at a time: none is lost, none is made up. */
static void take_signals(struct party *p)
{
    duet_signals *s = p->arg;
    uint64_t random = 1 + p->kind;
    for (int i = 0; i < test_rounds(200); i++) {
        int rc, signo = i % 2 ? SIGUSR1 : SIGRTMIN + 1;
        must_equal(kill(getpid(), signo), 0);
        while ((rc = duet_signals_wait(s, duet_us((int64_t)(test_random(&random) % 30)))) == -ETIME)
            ;
        must_equal(rc, signo);
        must_equal(duet_signals_wait(s, DUET_NOW), -ETIME);
    }
}

thread_test(under_deadlines_of_microseconds_every_signal_comes_once)
{
    duet_signals *s = open_signals(SIGUSR1, SIGRTMIN + 1, 0);
    as_each_kind(take_signals, s);
    duet_signals_close(s);
}

thread_test(a_signal_that_races_a_cancellation_is_taken_once)
{
    uint64_t random = test_seed();
    int taken = 0, rounds = test_rounds(300);
    duet_signals *s = open_signals(SIGUSR1, 0, 0);
    for (int round = 0; round < rounds; round++) {
        struct party p;
        begin_cancellable(&p, (enum kind)(round % (IN_POOL + 1)), wait_for_signal, s);
        await_arrival(&p);
        if (round % 2)
            must_equal(raise(SIGUSR1), 0);
        for (volatile uint64_t i = test_random(&random) % 5000; i > 0; i--)
            ;
        duet_future_cancel(p.f);
        if (round % 2 == 0)
            must_equal(raise(SIGUSR1), 0);
        int rc = party_end(&p);
        if (rc == SIGUSR1) {
            taken++;
        } else {
            must_equal(rc, -ECANCELED);
            must_equal(duet_signals_wait(s, SURELY), SIGUSR1);
        }
        must_equal(try_signal(s), -ETIME);
    }
    duet_signals_close(s);
    printf("taken in %d of %d rounds\n", taken, rounds);
}

static void wait_for_children_by_signal(struct party *p)
{
    duet_signals *s = open_signals(SIGCHLD, 0, 0);
    struct child c;
    (void)p;
    child_start(&c);
    child_tell(&c, 4);
    must_equal(duet_signals_wait(s, SURELY), SIGCHLD);
    must_equal(duet_waitpid(c.pid, &c.status, SURELY), 0);
    must_equal(c.status, 4 << 8);
    duet_signals_close(s);
}

thread_test(the_end_of_a_child_may_be_heard_of_by_its_signal_too)
{
    as_each_kind(wait_for_children_by_signal, NULL);
}

thread_test(a_loop_that_is_closed_ends_the_wait_for_a_signal)
{
    duet_loop *loop = start_loop();
    struct scene own = {{loop, loop}, scene.pool};
    duet_signals *s = open_signals(SIGUSR1, 0, 0);
    struct party p;
    party_begin(&p, &own, ON_LOOP, wait_for_signal, s, SURELY);
    await_asleep(&p);
    close_loop(loop);
    must_equal(party_end(&p), -ECANCELED);
    must_equal(kill(getpid(), SIGUSR1), 0);
    must_equal(duet_signals_wait(s, SURELY), SIGUSR1);
    duet_signals_close(s);
}

/* ---- Signals that are not waited for ---- */

static duet_result wait_under_signals(void *unused)
{
    struct child c;
    (void)unused;
    child_start(&c);
    must_equal(duet_waitpid(c.pid, NULL, duet_ms(5)), -ETIME);
    int before = atomic_load(&handled);
    duet_signals *s = open_signals(SIGUSR2, 0, 0);
    must_equal(duet_signals_wait(s, duet_ms(5)), -ETIME);
    while (atomic_load(&handled) < before + 3)
        must_equal(duet_signals_wait(s, duet_ms(5)), -ETIME);
    duet_signals_close(s);
    child_tell(&c, 5);
    must_equal(duet_waitpid(c.pid, &c.status, SURELY), 0);
    must_equal(c.status, 5 << 8);
    return duet_ok();
}

static void wait_in_thread(void *arg)
{
    (void)wait_under_signals(arg);
}

static void wait_in_run(void *arg)
{
    must_equal(duet_run(wait_under_signals, arg, NULL), 0);
}

thread_test(a_signal_handler_without_restart_is_not_noticed)
{
    struct sigaction action = {.sa_handler = count_signal}, old;
    must_equal(sigaction(SIGUSR1, &action, &old), 0);
    for (int on_loop = 0; on_loop < 2; on_loop++) {
        struct thread user;
        thread_start(&user, on_loop ? wait_in_run : wait_in_thread, NULL);
        while (!duet_future_settled(user.ended)) { /* its id is good until it is joined */
            must_equal(pthread_kill(user.id, SIGUSR1), 0);
            nap(1);
        }
        thread_join(&user);
    }
    must_equal(sigaction(SIGUSR1, &old, NULL), 0);
}

#define in_scene(test) cmocka_unit_test_setup_teardown(test, open_scene, close_scene)

int main(void)
{
    const struct CMUnitTest tests[] = {
        in_scene(a_wait_for_a_child_sleeps_until_it_has_ended_and_gives_its_status),
        in_scene(
            a_child_that_has_ended_already_or_was_killed_is_told_and_the_status_may_be_left_out),
        in_scene(what_is_no_child_of_this_process_is_echild),
        in_scene(after_a_deadline_a_child_can_still_be_waited_for),
        in_scene(after_a_cancellation_a_child_can_still_be_waited_for),
        in_scene(who_was_cancelled_before_waits_for_no_child_but_under_a_shield),
        in_scene(under_a_shield_a_wait_for_a_child_outlasts_its_cancellation),
        in_scene(of_two_who_wait_for_a_child_one_gets_it),
        in_scene(a_child_that_somebody_else_waits_for_is_echild),
        in_scene(a_child_that_is_stopped_or_goes_on_has_not_ended),
        in_scene(many_children_end_in_any_order_and_each_waiter_gets_its_own),
        in_scene(an_end_that_races_a_cancellation_or_a_deadline_is_told_once),
        in_scene(a_bare_callback_gets_a_child_that_has_ended_and_must_not_wait),
        in_scene(a_wait_for_a_child_leaves_errno_alone),
        in_scene(a_loop_that_is_closed_ends_the_waits_for_children),
        in_scene(a_wait_for_signals_sleeps_until_one_comes),
        in_scene(signals_are_coalesced_and_the_lowest_comes_first),
        in_scene(what_was_set_before_is_set_again),
        in_scene(a_signal_is_caught_by_one_at_a_time_and_a_refusal_changes_nothing),
        in_scene(bad_arguments_are_refused),
        in_scene(a_deadline_or_a_cancellation_takes_no_signal_away),
        in_scene(who_was_cancelled_before_takes_no_signal_but_under_a_shield),
        in_scene(a_bare_callback_gets_a_signal_that_has_come_and_must_not_wait),
        in_scene(signals_leave_errno_alone),
        in_scene(under_deadlines_of_microseconds_every_signal_comes_once),
        in_scene(a_signal_that_races_a_cancellation_is_taken_once),
        in_scene(the_end_of_a_child_may_be_heard_of_by_its_signal_too),
        in_scene(a_loop_that_is_closed_ends_the_wait_for_a_signal),
        in_scene(a_signal_handler_without_restart_is_not_noticed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
