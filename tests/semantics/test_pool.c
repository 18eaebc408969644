/* What pool.h promises: queues, cancellation, drain and close. */
#include "duet_test.h"
#include "shared.h"

#include <sched.h>
#include <signal.h>
#include <unistd.h>

/* ---- What the tests of this file share ---- */

static duet_pool *open_small_pool(unsigned queue_max, enum duet_when_full when_full)
{
    duet_pool *pool;
    duet_pool_config config = {.workers_max = 1, .queue_max = queue_max, .when_full = when_full};
    must_equal(duet_pool_open(&pool, &config), 0);
    return pool;
}

/* Runs fn(arg) as a bare callback of the loop, and waits until it has. */
static void run_bare(duet_loop *loop, duet_callback *fn, void *arg)
{
    must_equal(finish(duet_call_at(loop, DUET_NOW, fn, arg)).err, 0);
}

struct tally {
    atomic_int ran, dropped;
};

static duet_result tally_run(void *arg)
{
    atomic_fetch_add(&((struct tally *)arg)->ran, 1);
    return duet_ok();
}

static void tally_drop(void *arg)
{
    atomic_fetch_add(&((struct tally *)arg)->dropped, 1);
}

static const duet_opts tally_opts = {.drop = tally_drop};

static void must_tally(struct tally *tally, int ran, int dropped)
{
    must_equal(atomic_load(&tally->ran), ran);
    must_equal(atomic_load(&tally->dropped), dropped);
}

/* Keeps `count` workers of the pool at the gate. */
struct holders {
    struct gate gate;
    duet_future *fs[4];
    int count;
};

static void hold(struct holders *h, duet_pool *pool, int count)
{
    h->gate = (struct gate)GATE_INIT;
    h->count = count;
    for (int i = 0; i < count; i++) {
        h->fs[i] = duet_pool_submit(pool, gate_pass_job, &h->gate);
        gate_await_arrivals(&h->gate, i + 1);
    }
}

static void release(struct holders *h)
{
    gate_open(&h->gate);
    for (int i = 0; i < h->count; i++)
        must_equal(finish(h->fs[i]).err, 0);
}

/* ---- Pools and their workers ---- */

struct named {
    struct gate *gate;
    char name[32];
};

static duet_result tell_name(void *arg)
{
    struct named *named = arg;
    must_equal(pthread_getname_np(pthread_self(), named->name, sizeof named->name), 0);
    gate_pass(named->gate); /* so that the next job needs another worker */
    return duet_ok();
}

static void must_be_named(const char *pool_name, int workers, struct named *named)
{
    for (int i = 0; i < workers; i++) {
        char name[32];
        int found = 0;
        snprintf(name, sizeof name, "duet-w/%s-%d", pool_name, i);
        for (int k = 0; k < workers; k++)
            found += strcmp(name, named[k].name) == 0;
        must_equal(found, 1);
    }
}

/* pool.h: each has its own workers, and each of these its name. */
static void several_pools_have_workers_of_their_own_with_names(void **state)
{
    (void)state;
    static const char *const names[] = {"ann", "bob", "carl"};
    struct gate gate = GATE_INIT;
    duet_pool *pools[3];
    struct named named[3][3];
    duet_future *fs[3][3];
    int before = count_threads();
    for (int i = 0; i < 3; i++) {
        char name[8];
        snprintf(name, sizeof name, "%s", names[i]);
        duet_pool_config config = {.name = name, .workers_max = (unsigned)i + 1};
        must_equal(duet_pool_open(&pools[i], &config), 0);
        memset(name, 'x', sizeof name - 1); /* it was copied */
    }
    for (int i = 0; i < 3; i++)
        for (int k = 0; k <= i; k++) {
            named[i][k] = (struct named){.gate = &gate};
            fs[i][k] = duet_pool_submit(pools[i], tell_name, &named[i][k]);
        }
    gate_await_arrivals(&gate, 6);
    must(count_threads() >= before + 6);
    gate_open(&gate);
    for (int i = 0; i < 3; i++) {
        for (int k = 0; k <= i; k++)
            must_equal(finish(fs[i][k]).err, 0);
        must_be_named(names[i], i + 1, named[i]);
        close_pool(pools[i]);
    }
}

static duet_result check_self(void *arg)
{
    must(duet_loop_self() == NULL);
    must(!duet_cancelled());
    must(strcmp(duet_self_name(), arg) == 0);
    return duet_ok();
}

/* 12, 44: the job's name is there from its first step, and is not the next job's. */
static void a_job_has_its_name_and_the_next_one_not_the_same(void **state)
{
    (void)state;
    duet_pool *pool = open_pool(1);
    char name[] = "Figaro";
    duet_future *f =
        duet_pool_submit_with(pool, check_self, (char[]){"Figaro"}, &(duet_opts){.name = name});
    must_equal(finish(f).err, 0);
    f = duet_pool_submit_with(pool, check_self, (char[]){"Susanna"},
                              &(duet_opts){.name = "Susanna"});
    must_equal(finish(f).err, 0);
    close_pool(pool);
}

static duet_result cancel_oneself(void *arg)
{
    duet_future *self;
    must_equal(duet_future_wait(arg, SURELY, NULL), 0);
    self = duet_as_ptr(duet_future_result(arg));
    duet_future_cancel(self);
    must(duet_cancelled());
    must_equal(duet_sleep(DUET_NEVER), -ECANCELED);
    return duet_err(-ECANCELED);
}

/* 44: workers do not inherit the last job's cancellation, nor a shield that it left open. */
static void a_job_does_not_inherit_the_cancellation_of_the_one_before(void **state)
{
    (void)state;
    duet_pool *pool = open_pool(1);
    duet_future *promise = open_promise();
    duet_future *f = duet_pool_submit(pool, cancel_oneself, promise);
    must_equal(duet_future_settle(promise, duet_ptr(f)), 0);
    must_equal(finish(f).err, -ECANCELED);
    f = duet_pool_submit_with(pool, check_self, (char[]){"next"}, &(duet_opts){.name = "next"});
    must_equal(finish(f).err, 0);
    duet_future_unref(promise);
    close_pool(pool);
}

struct mask {
    sigset_t blocked;
};

static duet_result tell_mask(void *arg)
{
    struct mask *mask = arg;
    must_equal(pthread_sigmask(SIG_BLOCK, NULL, &mask->blocked), 0);
    return duet_ok();
}

static void must_block(const sigset_t *set)
{
    static const int blocked[] = {SIGINT,  SIGTERM, SIGHUP,  SIGQUIT, SIGUSR1,
                                  SIGUSR2, SIGALRM, SIGCHLD, SIGPIPE};
    static const int open[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGPROF};
    for (size_t i = 0; i < sizeof blocked / sizeof blocked[0]; i++)
        must(sigismember(set, blocked[i]) == 1);
    for (size_t i = 0; i < sizeof open / sizeof open[0]; i++)
        must(sigismember(set, open[i]) == 0);
}

/* 67: whatever the thread that opens the pool blocks itself, whose mask stays as it was. */
static void workers_block_all_signals_but_the_synchronous_ones_and_sigprof(void **state)
{
    (void)state;
    struct mask mask;
    sigset_t before, after;
    must_equal(pthread_sigmask(SIG_BLOCK, NULL, &before), 0);
    duet_pool *pool = open_pool(1);
    must_equal(finish(duet_pool_submit(pool, tell_mask, &mask)).err, 0);
    must_block(&mask.blocked);
    must_equal(pthread_sigmask(SIG_BLOCK, NULL, &after), 0);
    must(sigismember(&after, SIGTERM) == sigismember(&before, SIGTERM));
    must(sigismember(&after, SIGUSR1) == sigismember(&before, SIGUSR1));
    close_pool(pool);
}

/* 67: a process-wide signal goes to a thread of the program. */
static volatile sig_atomic_t signalled;
static pthread_t signalled_on;

static void note_signal(int signo)
{
    (void)signo;
    signalled_on = pthread_self();
    signalled = 1;
}

static void a_signal_never_interrupts_a_worker(void **state)
{
    (void)state;
    duet_pool *pool = open_pool(4);
    struct sigaction action = {.sa_handler = note_signal}, old;
    must_equal(sigaction(SIGUSR1, &action, &old), 0);
    signalled = 0;
    must_equal(kill(getpid(), SIGUSR1), 0);
    while (!signalled)
        sched_yield();
    must(pthread_equal(signalled_on, pthread_self()));
    must_equal(sigaction(SIGUSR1, &old, NULL), 0);
    close_pool(pool);
}

/* ---- Cancelling ---- */

/* 45: it never runs, and settles though the only worker is busy for as long as it likes. */
static void a_queued_job_that_is_cancelled_never_runs_and_settles_at_once(void **state)
{
    (void)state;
    duet_pool *pool = open_pool(2);
    struct holders holders;
    struct tally tally = {0}, others = {0};
    duet_pool_stats stats;
    hold(&holders, pool, 2);
    duet_future *before = duet_pool_submit_with(pool, tally_run, &others, &tally_opts);
    duet_future *f = duet_pool_submit_with(pool, tally_run, &tally, &tally_opts);
    duet_future *after = duet_pool_submit_with(pool, tally_run, &others, &tally_opts);
    duet_future_cancel(f);
    duet_future_cancel(f);
    must_equal(finish(f).err, -ECANCELED);
    must_tally(&tally, 0, 1);
    duet_pool_stats_get(pool, &stats);
    must_equal(stats.queued, 2);
    release(&holders);
    must_equal(finish(before).err, 0);
    must_equal(finish(after).err, 0);
    close_pool(pool);
    must_tally(&tally, 0, 1);
    must_tally(&others, 2, 2);
}

struct wait_for {
    duet_future *f, *begun;
    int rc;
};

static duet_result wait_for_it(void *arg)
{
    struct wait_for *w = arg;
    duet_result r;
    settle(w->begun);
    w->rc = duet_future_wait(w->f, SURELY, &r);
    return w->rc < 0 ? duet_err(w->rc) : r;
}

/* 45: the loop is woken, though it was the only job. */
static void cancelling_the_only_queued_job_wakes_the_loop_that_waits(void **state)
{
    (void)state;
    duet_pool *pool = open_pool(1);
    duet_loop *loop;
    struct holders holders;
    must_equal(duet_loop_start(&loop, NULL), 0);
    hold(&holders, pool, 1);
    struct wait_for w = {.f = duet_pool_submit(pool, return_ok, NULL), .begun = open_promise()};
    duet_future *waiter = duet_submit(loop, wait_for_it, &w);
    must_equal(finish(w.begun).err, 0);
    duet_future_cancel(w.f);
    must_equal(finish(waiter).err, -ECANCELED);
    must_equal(w.rc, 0);
    duet_future_unref(w.f);
    release(&holders);
    must_equal(duet_loop_close(loop, SURELY), 0);
    close_pool(pool);
}

/* 38, 45: it ran or it did not, and was dropped once. */
struct canceller {
    struct thread thread;
    duet_pool *pool;
};

static void submit_and_cancel(void *arg)
{
    struct canceller *c = arg;
    for (int i = test_rounds(2000); i > 0; i--) {
        struct tally tally = {0};
        duet_future *f = duet_pool_submit_with(c->pool, tally_run, &tally, &tally_opts);
        if (i % 3 == 0)
            sched_yield();
        duet_future_cancel(f);
        duet_result r = finish(f);
        must(r.err == 0 || r.err == -ECANCELED);
        must_tally(&tally, r.err == 0, 1);
    }
}

static void a_cancel_that_races_the_start_leaves_one_outcome(void **state)
{
    (void)state;
    struct canceller cancellers[4];
    duet_pool *pool = open_pool(2);
    for (int i = 0; i < 4; i++) {
        cancellers[i].pool = pool;
        thread_start(&cancellers[i].thread, submit_and_cancel, &cancellers[i]);
    }
    for (int i = 0; i < 4; i++)
        thread_join(&cancellers[i].thread);
    close_pool(pool);
}

struct cancelled_job {
    duet_future *begun, *pending, *settled;
};

static duet_result feel_cancellation(void *arg)
{
    struct cancelled_job *job = arg;
    duet_future *both[] = {job->settled, job->pending};
    size_t index;
    duet_result r;
    must(!duet_cancelled());
    settle(job->begun);
    must_equal(duet_future_wait(job->pending, SURELY, NULL), -ECANCELED);
    must(duet_cancelled());
    /* a level: again and again */
    for (int i = 0; i < 3; i++) {
        must_equal(duet_sleep(duet_sec(3600)), -ECANCELED);
        must_equal(duet_sleep(DUET_NOW), -ECANCELED);
        must_equal(duet_future_wait(job->pending, DUET_NEVER, NULL), -ECANCELED);
        must_equal(duet_future_wait(job->pending, DUET_NOW, NULL), -ECANCELED);
        must_equal(duet_future_wait_many(both, 2, DUET_UNTIL_ALL, SURELY, NULL), -ECANCELED);
        must_equal(duet_gather(both, 2, SURELY, NULL), -ECANCELED);
    }
    /* a settled future gives its result, always */
    must_equal(duet_future_wait(job->settled, DUET_NOW, &r), 0);
    must_equal(duet_as_i64(r), 3);
    must_equal(duet_future_wait_many(both, 2, DUET_UNTIL_ANY, SURELY, &index), 0);
    must_equal(index, 0);
    /* and a shield holds it back; they nest */
    duet_shield_begin();
    duet_shield_begin();
    duet_deadline until = duet_ms(2);
    must_equal(duet_sleep(until), 0);
    must(duet_now_ns() >= until.ns);
    duet_shield_end();
    must_equal(duet_sleep(DUET_NOW), 0);
    must_equal(duet_future_wait(job->pending, DUET_NOW, NULL), -ETIME);
    duet_shield_end();
    must_equal(duet_sleep(DUET_NOW), -ECANCELED);
    return duet_i64(8); /* a result all the same */
}

/* 14, 16, 19, 48: cancelling a running job makes its waits fail. */
static void a_running_job_that_is_cancelled_finds_its_waits_failing(void **state)
{
    (void)state;
    duet_pool *pool = open_pool(1);
    struct cancelled_job job = {open_promise(), open_promise(), open_promise()};
    must_equal(duet_future_settle(job.settled, duet_i64(3)), 0);
    duet_future *f = duet_pool_submit(pool, feel_cancellation, &job);
    must_equal(finish(job.begun).err, 0);
    duet_future_cancel(f);
    must_equal(duet_as_i64(finish(f)), 8);
    duet_future_unref(job.pending);
    duet_future_unref(job.settled);
    close_pool(pool);
}

/* 48: a job that never waits may ask. */
static duet_result poll_cancellation(void *begun)
{
    settle(begun);
    while (!duet_cancelled())
        sched_yield();
    return duet_err(-ECANCELED);
}

static void a_running_job_may_ask_whether_it_is_cancelled(void **state)
{
    (void)state;
    duet_pool *pool = open_pool(1);
    duet_future *begun = open_promise();
    duet_future *f = duet_pool_submit(pool, poll_cancellation, begun);
    duet_result r;
    must_equal(finish(begun).err, 0);
    must_equal(duet_future_close(f, &r), 0);
    must_equal(r.err, -ECANCELED);
    must(!duet_cancelled()); /* this thread is no work at all */
    close_pool(pool);
}

static duet_result wait_for_oneself(void *promise)
{
    duet_future *self;
    must_equal(duet_future_wait(promise, SURELY, NULL), 0);
    self = duet_as_ptr(duet_future_result(promise));
    must_equal(duet_future_wait(self, SURELY, NULL), -EDEADLK);
    must_equal(duet_future_close(self, NULL), -EDEADLK);
    return duet_ok();
}

/* 9: an error, not a hang; and the handle stays whose it was. */
static void a_job_that_waits_for_itself_is_told(void **state)
{
    (void)state;
    duet_pool *pool = open_pool(1);
    duet_future *promise = open_promise();
    duet_future *f = duet_pool_submit(pool, wait_for_oneself, promise);
    must_equal(duet_future_settle(promise, duet_ptr(f)), 0);
    must_equal(finish(f).err, 0);
    duet_future_unref(promise);
    close_pool(pool);
}

/* ---- Order ---- */

struct turn {
    atomic_int *next;
    int number;
};

static duet_result check_turn(void *arg)
{
    struct turn *turn = arg;
    must_equal(atomic_fetch_add(turn->next, 1), turn->number);
    return duet_ok();
}

/* pool.h: first in, first out. */
static void one_worker_runs_jobs_in_the_order_submitted(void **state)
{
    (void)state;
    enum {
        COUNT = 1000
    };
    static struct turn turns[COUNT];
    static duet_future *fs[COUNT];
    duet_pool *pool = open_pool(1);
    struct holders holders;
    atomic_int next = 0;
    hold(&holders, pool, 1);
    for (int i = 0; i < COUNT; i++) {
        turns[i] = (struct turn){&next, i};
        fs[i] = duet_pool_submit(pool, check_turn, &turns[i]);
        if (i == COUNT / 2)
            release(&holders);
    }
    for (int i = 0; i < COUNT; i++)
        must_equal(finish(fs[i]).err, 0);
    must_equal(atomic_load(&next), COUNT);
    close_pool(pool);
}

static duet_result job_that_starts_jobs(void *arg)
{
    struct canceller *c = arg;
    struct tally tally = {0};
    duet_future *fs[10];
    for (int i = 0; i < 10; i++)
        fs[i] = duet_pool_submit_with(c->pool, tally_run, &tally, &tally_opts);
    for (int i = 0; i < 10; i++)
        must_equal(finish(fs[i]).err, 0);
    must_tally(&tally, 10, 10);
    return duet_ok();
}

/* 50: a job may wait for jobs of its own pool while there is another worker. */
static void a_job_may_start_jobs_in_its_own_pool(void **state)
{
    (void)state;
    struct canceller c = {.pool = open_pool(2)};
    must_equal(finish(duet_pool_submit(c.pool, job_that_starts_jobs, &c)).err, 0);
    close_pool(c.pool);
}

/* ---- A full queue ---- */

struct submission {
    struct thread thread;
    duet_pool *pool;
    uint32_t flags;
    struct tally tally;
    atomic_bool may_return;
    bool entered, returned;
    int err;
    pthread_t submitter;
};

static duet_result submit_and_see(void *arg)
{
    struct submission *s = arg;
    duet_opts opts = {.drop = tally_drop, .flags = s->flags};
    s->submitter = pthread_self();
    s->entered = true;
    duet_future *f = duet_pool_submit_with(s->pool, tally_run, &s->tally, &opts);
    must(atomic_load(&s->may_return));
    s->returned = true;
    if (duet_future_settled(f))
        s->err = duet_future_result(f).err;
    else
        s->err = finish(duet_future_ref(f)).err;
    duet_future_unref(f);
    return duet_ok();
}

static void submit_and_see_plainly(void *arg)
{
    (void)submit_and_see(arg);
}

/* 38, 51: exactly queue_max are taken. */
static void a_full_queue_that_refuses_settles_with_eagain(void **state)
{
    (void)state;
    duet_pool *pool = open_small_pool(3, DUET_FULL_REFUSE);
    struct holders holders;
    struct tally taken = {0}, refused = {0};
    duet_future *fs[3];
    hold(&holders, pool, 1);
    for (int i = 0; i < 3; i++) {
        fs[i] = duet_pool_submit_with(pool, tally_run, &taken, &tally_opts);
        must(!duet_future_settled(fs[i]));
    }
    duet_future *f = duet_pool_submit_with(pool, tally_run, &refused, &tally_opts);
    must(duet_future_settled(f));
    must_tally(&refused, 0, 1);
    must_equal(finish(f).err, -EAGAIN);
    duet_future_cancel(fs[1]); /* makes room */
    f = duet_pool_submit_with(pool, tally_run, &taken, &tally_opts);
    must(!duet_future_settled(f));
    release(&holders);
    must_equal(finish(fs[0]).err, 0);
    must_equal(finish(fs[1]).err, -ECANCELED);
    must_equal(finish(fs[2]).err, 0);
    must_equal(finish(f).err, 0);
    close_pool(pool);
    must_tally(&taken, 3, 4);
    must_tally(&refused, 0, 1);
}

/* base.h: the flag speaks for one submission. */
static void one_job_may_refuse_to_wait_for_room(void **state)
{
    (void)state;
    duet_pool *pool = open_small_pool(1, DUET_FULL_WAIT);
    struct holders holders;
    struct submission s = {.pool = pool, .flags = DUET_REFUSE, .may_return = true};
    hold(&holders, pool, 1);
    duet_future *first = duet_pool_submit(pool, return_ok, NULL);
    (void)submit_and_see(&s);
    must_equal(s.err, -EAGAIN);
    must_tally(&s.tally, 0, 1);
    release(&holders);
    must_equal(finish(first).err, 0);
    close_pool(pool);
}

/* 38: a thread goes on only once a job was taken out of the queue. */
static void a_thread_waits_for_room(void **state)
{
    (void)state;
    duet_pool *pool = open_small_pool(1, DUET_FULL_WAIT);
    struct holders holders;
    struct submission s = {.pool = pool};
    hold(&holders, pool, 1);
    duet_future *first = duet_pool_submit(pool, return_ok, NULL);
    thread_start(&s.thread, submit_and_see_plainly, &s);
    thread_await_blocked(&s.thread);
    atomic_store(&s.may_return, true);
    release(&holders);
    thread_join(&s.thread);
    must_equal(s.err, 0);
    must_tally(&s.tally, 1, 1);
    must_equal(finish(first).err, 0);
    close_pool(pool);
}

static duet_result submit_one(void *pool)
{
    duet_future_unref(duet_pool_submit(pool, return_ok, NULL));
    return duet_ok();
}

/* 38, and the promise: who waits for room does not wait for others to whom a place is promised, and
 * whose loop does not turn. */
static void a_free_place_is_not_kept_from_who_can_take_it(void **state)
{
    (void)state;
    duet_pool *pool = open_small_pool(3, DUET_FULL_WAIT);
    duet_loop *loop = start_loop();
    struct holders holders;
    struct gate gate = GATE_INIT;
    struct submission s = {.pool = pool, .may_return = true};
    duet_future *coroutines[3];
    hold(&holders, pool, 1);
    for (int i = 0; i < 3; i++)
        duet_future_unref(duet_pool_submit(pool, return_ok, NULL));
    coroutines[0] = duet_submit(loop, submit_one, pool);
    coroutines[1] = duet_submit(loop, submit_one, pool);
    coroutines[2] = duet_submit(loop, gate_pass_job, &gate); /* when those two wait */
    gate_await_arrivals(&gate, 1);
    thread_start(&s.thread, submit_and_see_plainly, &s);
    thread_await_blocked(&s.thread);
    release(&holders);
    thread_join(&s.thread);
    must_equal(s.err, 0);
    gate_open(&gate);
    for (int i = 0; i < 3; i++)
        must_equal(finish(coroutines[i]).err, 0);
    must_equal(duet_loop_close(loop, SURELY), 0);
    close_pool(pool);
}

/* 45: a cancelled queued job makes room for who waits, though no worker is free. */
static void cancelling_a_queued_job_makes_room_for_who_waits(void **state)
{
    (void)state;
    duet_pool *pool = open_small_pool(1, DUET_FULL_WAIT);
    struct holders holders;
    struct submission s = {.pool = pool};
    duet_pool_stats stats;
    hold(&holders, pool, 1);
    duet_future *first = duet_pool_submit(pool, return_ok, NULL);
    thread_start(&s.thread, submit_and_see_plainly, &s);
    thread_await_blocked(&s.thread);
    atomic_store(&s.may_return, true);
    duet_future_cancel(first);
    must_equal(finish(first).err, -ECANCELED);
    do {
        sched_yield();
        duet_pool_stats_get(pool, &stats);
    } while (stats.queued == 0); /* it got in */
    must_tally(&s.tally, 0, 0);
    release(&holders);
    thread_join(&s.thread);
    must_equal(s.err, 0);
    must_tally(&s.tally, 1, 1);
    close_pool(pool);
}

struct hasty {
    struct thread thread;
    duet_pool *pool;
    uint64_t random;
    struct tally tally;
    int tried;
};

/* Offloads with deadlines that pass now before, now after there is room. */
static void offload_hastily(void *arg)
{
    struct hasty *hasty = arg;
    for (int i = test_rounds(3000); i > 0; i--) {
        duet_deadline by = duet_us((int64_t)(test_random(&hasty->random) % 60));
        duet_result r;
        int rc = duet_offload_with(hasty->pool, tally_run, &hasty->tally, &tally_opts, by, &r);
        must((rc == 0 && r.err == 0) || (rc == -ETIME && r.err == -ECANCELED));
        hasty->tried++;
    }
}

/* 17, 56: who gives up in the very moment in which room is promised passes it on. */
static void giving_up_as_room_comes_loses_no_place(void **state)
{
    (void)state;
    duet_pool *pool = open_small_pool(2, DUET_FULL_WAIT);
    struct hasty hasty[6];
    struct holders holders;
    struct tally tally = {0};
    duet_opts opts = {.drop = tally_drop, .flags = DUET_REFUSE};
    duet_future *fs[3];
    uint64_t random = test_seed();
    for (int i = 0; i < 6; i++) {
        hasty[i] = (struct hasty){.pool = pool, .random = test_random(&random)};
        thread_start(&hasty[i].thread, offload_hastily, &hasty[i]);
    }
    for (int i = 0; i < 6; i++) {
        thread_join(&hasty[i].thread);
        must_equal(atomic_load(&hasty[i].tally.dropped), hasty[i].tried);
    }
    hold(&holders, pool, 1);
    for (int i = 0; i < 3; i++)
        fs[i] = duet_pool_submit_with(pool, tally_run, &tally, &opts);
    must(!duet_future_settled(fs[0]));
    must(!duet_future_settled(fs[1]));
    must(duet_future_settled(fs[2]));
    release(&holders);
    for (int i = 0; i < 3; i++)
        must_equal(finish(fs[i]).err, i < 2 ? 0 : -EAGAIN);
    close_pool(pool);
}

struct beside {
    struct submission submission;
    struct holders holders;
    bool cancel, drain;
};

static duet_result submit_beside(void *arg)
{
    struct beside *b = arg;
    struct submission *s = &b->submission;
    duet_future *f = duet_spawn(submit_and_see, s);
    for (int i = 0; i < 10 || !s->entered; i++)
        must_equal(duet_yield(), 0);
    must(!s->returned);
    must_tally(&s->tally, 0, 0);
    atomic_store(&s->may_return, true);
    if (b->cancel)
        duet_future_cancel(f);
    else if (b->drain)
        must_equal(duet_pool_drain(s->pool, DUET_NOW, NULL), -ETIME);
    else
        release(&b->holders);
    (void)finish(f);
    must(s->returned);
    return duet_ok();
}

static void submit_from_coroutine(struct beside *b, enum duet_when_full when_full, int err, int ran)
{
    b->submission.pool = open_small_pool(1, when_full);
    hold(&b->holders, b->submission.pool, 1);
    duet_future *first = duet_pool_submit(b->submission.pool, return_ok, NULL);
    run_in_coroutine(submit_beside, b);
    if (b->cancel || b->drain)
        release(&b->holders);
    must_equal(finish(first).err, b->drain ? -ECANCELED : 0);
    must_equal(b->submission.err, err);
    must_tally(&b->submission.tally, ran, 1);
    close_pool(b->submission.pool);
    must_tally(&b->submission.tally, ran, 1);
}

/* 38: a coroutine is suspended; its loop goes on. */
static void a_coroutine_waits_for_room(void **state)
{
    (void)state;
    struct beside b = {.cancel = false};
    submit_from_coroutine(&b, DUET_FULL_WAIT, 0, 1);
}

/* base.h: a loop's thread is no place for a job, so it waits like all others. */
static void a_coroutine_waits_for_room_though_the_pool_would_run_here(void **state)
{
    (void)state;
    struct beside b = {.cancel = false};
    submit_from_coroutine(&b, DUET_FULL_RUN_HERE, 0, 1);
}

/* 38, 56: nothing was put in. */
static void a_coroutine_that_is_cancelled_while_it_waits_for_room_is_answered(void **state)
{
    (void)state;
    struct beside b = {.cancel = true};
    submit_from_coroutine(&b, DUET_FULL_WAIT, -ECANCELED, 0);
}

/* 37, 51: the pool drains; who waits for room is refused, not forgotten. */
static void a_coroutine_that_waits_for_room_is_answered_by_the_drain(void **state)
{
    (void)state;
    struct beside b = {.drain = true};
    log_capture();
    submit_from_coroutine(&b, DUET_FULL_WAIT, -ESHUTDOWN, 0);
    log_release();
}

struct drainer {
    struct thread thread;
    duet_pool *pool;
    duet_deadline by;
    bool entered;
    int rc;
    unsigned left;
};

static duet_result drain_it(void *arg)
{
    struct drainer *d = arg;
    d->entered = true;
    d->rc = duet_pool_drain(d->pool, d->by, &d->left);
    return duet_ok();
}

static void drain_plainly(void *arg)
{
    (void)drain_it(arg);
}

/* 37, 51: the same for a thread. */
static void a_thread_that_waits_for_room_is_answered_by_the_drain(void **state)
{
    (void)state;
    duet_pool *pool = open_small_pool(1, DUET_FULL_WAIT);
    struct holders holders;
    struct submission s = {.pool = pool};
    struct drainer d = {.pool = pool, .by = SURELY, .rc = 1};
    hold(&holders, pool, 1);
    duet_future *first = duet_pool_submit(pool, return_ok, NULL);
    thread_start(&s.thread, submit_and_see_plainly, &s);
    thread_await_blocked(&s.thread);
    atomic_store(&s.may_return, true);
    thread_start(&d.thread, drain_plainly, &d);
    thread_join(&s.thread); /* while the drain still waits for the holder */
    must_equal(s.err, -ESHUTDOWN);
    must_tally(&s.tally, 0, 1);
    release(&holders);
    thread_join(&d.thread);
    must_equal(d.rc, 0);
    must_equal(finish(first).err, 0);
    close_pool(pool);
}

struct here {
    pthread_t ran_on;
    struct tally tally;
};

static duet_result note_thread(void *arg)
{
    struct here *here = arg;
    here->ran_on = pthread_self();
    return tally_run(&here->tally);
}

static void drop_here(void *arg)
{
    tally_drop(&((struct here *)arg)->tally);
}

/* pool.h: runs in the calling thread, and has run when the submission returns. */
static void a_full_queue_that_runs_here_runs_in_the_submitting_thread(void **state)
{
    (void)state;
    duet_pool *pool = open_small_pool(1, DUET_FULL_RUN_HERE);
    struct holders holders;
    struct here queued = {0}, here = {0};
    duet_opts opts = {.drop = drop_here};
    hold(&holders, pool, 1);
    duet_future *first = duet_pool_submit_with(pool, note_thread, &queued, &opts);
    must(!duet_future_settled(first));
    duet_future *f = duet_pool_submit_with(pool, note_thread, &here, &opts);
    must(duet_future_settled(f));
    must_tally(&here.tally, 1, 1);
    must(pthread_equal(here.ran_on, pthread_self()));
    must_equal(finish(f).err, 0);
    must_tally(&queued.tally, 0, 0);
    release(&holders);
    must_equal(finish(first).err, 0);
    must(!pthread_equal(queued.ran_on, pthread_self()));
    close_pool(pool);
}

static duet_result fill_own_pool(void *arg)
{
    duet_pool *pool = arg;
    struct here queued = {0}, here = {0};
    duet_opts opts = {.drop = drop_here};
    duet_future *first = duet_pool_submit_with(pool, note_thread, &queued, &opts);
    duet_future *f = duet_pool_submit_with(pool, note_thread, &here, &opts);
    must(duet_future_settled(f));
    must_tally(&here.tally, 1, 1);
    must(pthread_equal(here.ran_on, pthread_self()));
    must_equal(finish(f).err, 0);
    must_equal(duet_future_close(first, NULL), 0); /* the only worker is ours: it never ran */
    must_tally(&queued.tally, 0, 1);
    must(!duet_cancelled()); /* what ran here has left no trace */
    must(strcmp(duet_self_name(), "Basilio") == 0);
    return duet_ok();
}

/* pool.h: a job of the pool itself is a submitting thread, too. */
static void a_job_that_finds_its_own_queue_full_runs_the_next_one_here(void **state)
{
    (void)state;
    duet_pool *pool = open_small_pool(1, DUET_FULL_RUN_HERE);
    duet_opts opts = {.name = "Basilio"};
    must_equal(finish(duet_pool_submit_with(pool, fill_own_pool, pool, &opts)).err, 0);
    close_pool(pool);
}

/* base.h: a bare callback is refused whatever was chosen. */
static void a_bare_callback_never_waits_for_room_and_runs_no_job(void **state)
{
    (void)state;
    static const enum duet_when_full answers[] = {DUET_FULL_WAIT, DUET_FULL_REFUSE,
                                                  DUET_FULL_RUN_HERE};
    duet_loop *loop;
    must_equal(duet_loop_start(&loop, NULL), 0);
    for (int i = 0; i < 3; i++) {
        struct submission s = {.pool = open_small_pool(1, answers[i]), .may_return = true};
        struct holders holders;
        hold(&holders, s.pool, 1);
        duet_future *first = duet_pool_submit(s.pool, return_ok, NULL);
        run_bare(loop, submit_and_see_plainly, &s);
        must_equal(s.err, -EAGAIN);
        must_tally(&s.tally, 0, 1);
        release(&holders);
        must_equal(finish(first).err, 0);
        close_pool(s.pool);
    }
    must_equal(duet_loop_close(loop, SURELY), 0);
}

/* ---- Drain ---- */

/* 51: what was queued runs, what comes is refused, and it returns when all have ended. */
static void drain_runs_what_is_queued_and_refuses_what_comes(void **state)
{
    (void)state;
    duet_pool *pool = open_pool(1);
    struct holders holders;
    struct tally tally = {0}, late = {0};
    struct drainer d = {.pool = pool, .by = SURELY, .rc = 1};
    duet_future *fs[20], *f;
    hold(&holders, pool, 1);
    for (int i = 0; i < 20; i++)
        fs[i] = duet_pool_submit_with(pool, tally_run, &tally, &tally_opts);
    thread_start(&d.thread, drain_plainly, &d);
    /* Until the drain has begun, probes are taken. */
    for (int i = 0;; i++) {
        f = duet_pool_submit_with(pool, tally_run, &late, &tally_opts);
        if (duet_future_settled(f) || i > 10000000)
            break;
        duet_future_cancel(f);
        must_equal(finish(f).err, -ECANCELED);
    }
    must_equal(finish(f).err, -ESHUTDOWN);
    must(!duet_future_settled(d.thread.ended));
    must_tally(&tally, 0, 0);
    release(&holders);
    thread_join(&d.thread);
    must_equal(d.rc, 0);
    for (int i = 0; i < 20; i++) {
        must(duet_future_settled(fs[i]));
        must_equal(finish(fs[i]).err, 0);
    }
    must_tally(&tally, 20, 20);
    must_equal(atomic_load(&late.ran), 0);
    close_pool(pool);
}

/* 51: for good. */
static void after_a_drain_the_pool_takes_no_jobs(void **state)
{
    (void)state;
    duet_pool *pool = open_pool(2);
    struct tally tally = {0};
    duet_result r = duet_i64(1);
    unsigned left = 0;
    must_equal(duet_pool_drain(pool, SURELY, &left), 0);
    must_equal(left, 0);
    duet_future *f = duet_pool_submit_with(pool, tally_run, &tally, &tally_opts);
    must(duet_future_settled(f));
    must_tally(&tally, 0, 1);
    must_equal(finish(f).err, -ESHUTDOWN);
    must_equal(duet_offload_with(pool, tally_run, &tally, &tally_opts, SURELY, &r), 0);
    must_equal(r.err, -ESHUTDOWN);
    must_tally(&tally, 0, 2);
    must_equal(duet_pool_drain(pool, SURELY, NULL), 0); /* again: nothing is left */
    close_pool(pool);
}

/* 65: at the deadline the rest is cancelled, and what still runs is counted and named. */
static void a_drain_that_is_late_cancels_the_rest_and_says_what_is_left(void **state)
{
    (void)state;
    duet_pool *pool = open_pool(2);
    struct gate gate = GATE_INIT;
    struct tally tally = {0};
    unsigned left = 99;
    duet_future *f =
        duet_pool_submit_with(pool, gate_pass_job, &gate, &(duet_opts){.name = "Bartolo"});
    duet_future *g =
        duet_pool_submit_with(pool, gate_pass_job, &gate, &(duet_opts){.name = "Marcellina"});
    gate_await_arrivals(&gate, 2);
    duet_future *queued = duet_pool_submit_with(pool, tally_run, &tally, &tally_opts);
    log_capture();
    duet_deadline by = duet_ms(5);
    must_equal(duet_pool_drain(pool, by, &left), -ETIME);
    must(duet_now_ns() >= by.ns);
    must_equal(left, 2);
    must(log_has("Bartolo"));
    must(log_has("Marcellina"));
    log_release();
    must_equal(finish(queued).err, -ECANCELED);
    must_tally(&tally, 0, 1);
    must(!duet_future_settled(f));
    gate_open(&gate);
    must_equal(finish(f).err, 0);
    must_equal(finish(g).err, 0);
    must_equal(duet_pool_drain(pool, SURELY, NULL), 0);
    close_pool(pool);
}

static duet_result sleep_until_cancelled(void *begun)
{
    settle(begun);
    return sleep_long(NULL);
}

/* 65: the running ones are asked: who listens ends. */
static void a_drain_that_is_late_asks_the_running_jobs_to_end(void **state)
{
    (void)state;
    duet_pool *pool = open_pool(1);
    duet_future *begun = open_promise();
    duet_future *f = duet_pool_submit(pool, sleep_until_cancelled, begun);
    must_equal(finish(begun).err, 0);
    log_capture();
    must_equal(duet_pool_drain(pool, duet_ms(2), NULL), -ETIME);
    log_release();
    must_equal(finish(f).err, -ECANCELED);
    close_pool(pool);
}

static duet_result cancel_the_drainer(void *arg)
{
    struct beside *b = arg;
    struct drainer d = {.pool = b->submission.pool, .by = SURELY, .rc = 1};
    duet_future *queued = duet_pool_submit(d.pool, return_ok, NULL);
    duet_future *f = duet_spawn(drain_it, &d);
    for (int i = 0; i < 10 || !d.entered; i++)
        must_equal(duet_yield(), 0);
    duet_future_cancel(f);
    (void)finish(f);
    must_equal(d.rc, -ECANCELED);
    must(!duet_future_settled(queued));
    release(&b->holders);
    must_equal(finish(queued).err, 0);
    return duet_ok();
}

/* pool.h: the caller was cancelled, nothing else is; and its loop went on all the while. */
static void a_cancelled_drain_cancels_no_job(void **state)
{
    (void)state;
    struct beside b = {.cancel = true};
    b.submission.pool = open_pool(1);
    hold(&b.holders, b.submission.pool, 1);
    run_in_coroutine(cancel_the_drainer, &b);
    close_pool(b.submission.pool);
}

struct flood {
    struct thread thread;
    duet_pool *pool;
    atomic_int *progress;
    struct tally tally;
    int tried, accepted, refused;
};

static void submit_until_refused(void *arg)
{
    struct flood *flood = arg;
    enum {
        CAP = 200
    };
    duet_future *fs[CAP];
    while (flood->tried < CAP) {
        duet_future *f = duet_pool_submit_with(flood->pool, tally_run, &flood->tally, &tally_opts);
        fs[flood->tried++] = f;
        atomic_fetch_add(flood->progress, 1);
    }
    for (int i = 0; i < CAP; i++) {
        int err = finish(fs[i]).err;
        must(err == 0 || err == -ESHUTDOWN);
        must(flood->refused == 0 || err == -ESHUTDOWN); /* no way back */
        flood->accepted += err == 0;
        flood->refused += err == -ESHUTDOWN;
    }
}

/* 38, 51: every job that was taken before the drain runs, all others are refused. */
static void jobs_that_race_the_drain_run_or_are_refused(void **state)
{
    (void)state;
    uint64_t random = test_seed();
    for (int round = test_rounds(100); round > 0; round--) {
        struct flood floods[8];
        atomic_int progress = 0;
        duet_pool *pool = open_pool(2);
        for (int i = 0; i < 8; i++) {
            floods[i] = (struct flood){.pool = pool, .progress = &progress};
            thread_start(&floods[i].thread, submit_until_refused, &floods[i]);
        }
        int enough = (int)(test_random(&random) % 1500);
        while (atomic_load(&progress) < enough)
            sched_yield();
        must_equal(duet_pool_drain(pool, SURELY, NULL), 0);
        for (int i = 0; i < 8; i++) {
            struct flood *flood = &floods[i];
            thread_join(&flood->thread);
            must_equal(flood->accepted + flood->refused, flood->tried);
            must_tally(&flood->tally, flood->accepted, flood->tried);
        }
        close_pool(pool);
    }
}

/* ---- Close ---- */

/* 38, 51: the queued are cancelled, the running asked, all waited for. */
static void close_cancels_the_queued_and_asks_the_running(void **state)
{
    (void)state;
    duet_pool *pool = open_pool(2);
    struct tally tally = {0};
    duet_future *begun[2] = {open_promise(), open_promise()}, *running[2], *queued[20];
    const duet_opts keeps = {.flags = DUET_KEEP_SLOT}; /* else the queued run while one waits */
    for (int i = 0; i < 2; i++) {
        running[i] = duet_pool_submit_with(pool, i == 0 ? sleep_until_cancelled : poll_cancellation,
                                           begun[i], &keeps);
        must_equal(finish(begun[i]).err, 0);
    }
    for (int i = 0; i < 20; i++)
        queued[i] = duet_pool_submit_with(pool, tally_run, &tally, &tally_opts);
    close_pool(pool);
    must_tally(&tally, 0, 20);
    for (int i = 0; i < 2; i++) {
        must(duet_future_settled(running[i]));
        must_equal(finish(running[i]).err, -ECANCELED);
    }
    for (int i = 0; i < 20; i++) {
        must(duet_future_settled(queued[i]));
        must_equal(finish(queued[i]).err, -ECANCELED);
    }
}

/* 65: late: named in the log, lives on, closing; then again. */
static void a_close_that_is_late_may_be_tried_again(void **state)
{
    (void)state;
    duet_pool *pool = open_pool(1);
    struct gate gate = GATE_INIT;
    struct tally tally = {0};
    duet_future *f =
        duet_pool_submit_with(pool, gate_pass_job, &gate, &(duet_opts){.name = "Almaviva"});
    duet_future *queued = duet_pool_submit_with(pool, tally_run, &tally, &tally_opts);
    gate_await_arrivals(&gate, 1);
    log_capture();
    duet_deadline by = duet_ms(5);
    must_equal(duet_pool_close(pool, by), -ETIME);
    must(duet_now_ns() >= by.ns);
    must(log_has("Almaviva"));
    must_equal(duet_pool_close(pool, DUET_NOW), -ETIME);
    log_release();
    must_equal(finish(queued).err, -ECANCELED);
    must_tally(&tally, 0, 1);
    duet_future *late = duet_pool_submit_with(pool, tally_run, &tally, &tally_opts);
    must(duet_future_settled(late));
    must_equal(finish(late).err, -ESHUTDOWN);
    must_tally(&tally, 0, 2);
    must(!duet_future_settled(f));
    gate_open(&gate);
    close_pool(pool);
    must_equal(finish(f).err, 0);
}

struct own_end {
    duet_pool *pool;
    int drain, close;
};

static duet_result end_own_pool(void *arg)
{
    struct own_end *own = arg;
    own->drain = duet_pool_drain(own->pool, SURELY, NULL);
    own->close = duet_pool_close(own->pool, SURELY);
    return duet_ok();
}

static void end_pool_bare(void *arg)
{
    (void)end_own_pool(arg);
}

/* 66: an error, not a hang, from a job of the pool and from a bare callback; and it changes
 * nothing. */
static void a_pool_cannot_be_ended_from_its_own_job_nor_from_a_bare_callback(void **state)
{
    (void)state;
    duet_loop *loop;
    struct own_end own = {.pool = open_pool(2)};
    must_equal(duet_loop_start(&loop, NULL), 0);
    must_equal(finish(duet_pool_submit(own.pool, end_own_pool, &own)).err, 0);
    must_equal(own.drain, -EDEADLK);
    must_equal(own.close, -EDEADLK);
    own.drain = own.close = 0;
    run_bare(loop, end_pool_bare, &own);
    must_equal(own.drain, -EDEADLK);
    must_equal(own.close, -EDEADLK);
    must_equal(finish(duet_pool_submit(own.pool, return_ok, NULL)).err, 0);
    must_equal(duet_loop_close(loop, SURELY), 0);
    close_pool(own.pool);
}

/* 66: a job of another pool may. */
static void a_pool_may_be_ended_from_a_job_of_another(void **state)
{
    (void)state;
    duet_pool *pool = open_pool(1);
    struct own_end own = {.pool = open_pool(1), .drain = 1, .close = 1};
    must_equal(finish(duet_pool_submit(pool, end_own_pool, &own)).err, 0);
    must_equal(own.drain, 0);
    must_equal(own.close, 0);
    close_pool(pool);
}

/* 52: a job that comes as the workers fall asleep is not lost. */
static void no_job_is_lost_when_the_workers_fall_asleep(void **state)
{
    (void)state;
    duet_pool *pool = open_pool(2);
    for (int i = test_rounds(10000); i > 0; i--)
        must_equal(finish(duet_pool_submit(pool, return_ok, NULL)).err, 0);
    close_pool(pool);
}

/* ---- Stats ---- */

/* pool.h: now, and since the pool was opened. */
static void stats_add_up(void **state)
{
    (void)state;
    duet_pool *pool;
    duet_pool_config config = {.workers_max = 2, .queue_max = 4, .when_full = DUET_FULL_REFUSE};
    struct holders holders;
    duet_pool_stats stats;
    duet_future *fs[4];
    must_equal(duet_pool_open(&pool, &config), 0);
    duet_pool_stats_get(pool, &stats);
    must_equal(stats.workers, 0);
    must_equal(stats.busy, 0);
    must_equal(stats.queued + stats.submitted + stats.completed + stats.cancelled + stats.refused,
               0);
    hold(&holders, pool, 2);
    for (int i = 0; i < 4; i++)
        fs[i] = duet_pool_submit(pool, i % 2 ? fail_eio : return_ok, NULL);
    for (int i = 0; i < 3; i++)
        must_equal(finish(duet_pool_submit(pool, return_ok, NULL)).err, -EAGAIN);
    duet_future_cancel(fs[1]);
    must_equal(finish(fs[1]).err, -ECANCELED);
    duet_pool_stats_get(pool, &stats);
    must_equal(stats.workers, 2);
    must_equal(stats.busy, 2);
    must_equal(stats.queued, 3);
    must_equal(stats.completed, 0);
    must_equal(stats.cancelled, 1);
    must_equal(stats.refused, 3);
    must_equal(stats.submitted, stats.busy + stats.queued + stats.completed + stats.cancelled);
    must_equal(stats.blocked_in_wait, 0);
    must_equal(stats.abandoned, 0);
    release(&holders);
    must_equal(duet_pool_drain(pool, SURELY, NULL), 0);
    for (int i = 0; i < 4; i++)
        if (i != 1)
            must_equal(finish(fs[i]).err, i % 2 ? -EIO : 0);
    must_equal(finish(duet_pool_submit(pool, return_ok, NULL)).err, -ESHUTDOWN);
    duet_pool_stats_get(pool, &stats);
    must_equal(stats.busy, 0);
    must_equal(stats.queued, 0);
    must_equal(stats.submitted, 6);
    must_equal(stats.completed, 5);
    must_equal(stats.cancelled, 1);
    close_pool(pool);
}

static const duet_hooks odd_hooks = {.reserved = {0, 0, 0, 1}};
static const duet_hooks round_hooks = {.next = &round_hooks};

/* ---- Configurations ---- */

struct bad {
    duet_pool_config config;
    int err;
    const char *field;
};

/* pool.h: the log names the field; nothing is opened. */
static void a_bad_configuration_is_refused_by_the_name_of_its_field(void **state)
{
    (void)state;
    const struct bad bad[] = {
        {{.workers_min = 3, .workers_max = 2}, -EINVAL, "workers_min"},
        {{.workers_max = 1025}, -EINVAL, "workers_max"},
        {{.workers_max = UINT32_MAX}, -EINVAL, "workers_max"},
        {{.when_full = (enum duet_when_full)3}, -EINVAL, "when_full"},
        {{.when_full = (enum duet_when_full)99}, -EINVAL, "when_full"},
        {{.stack_size = 1}, -EINVAL, "stack_size"},
        {{.stack_size = SIZE_MAX}, -EINVAL, "stack_size"},
        {{.stack_size = SIZE_MAX / 2 + 1}, -EINVAL, "stack_size"},
        {{.reserved = {1}}, -EINVAL, "reserved"},
        {{.reserved = {0, 0, 0, 0, 0, 1}}, -EINVAL, "reserved"},
        {{.hooks = &odd_hooks}, -EINVAL, "hooks"},
        {{.hooks = &round_hooks}, -EINVAL, "hooks"},
    };
    int failed = 0;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        duet_pool *pool = NULL;
        log_capture();
        int rc = duet_pool_open(&pool, &bad[i].config);
        int lines = log_count(bad[i].field);
        log_release();
        if (rc != bad[i].err || lines != 1) {
            print_error("case %zu (%s): %d, %d lines\n", i, bad[i].field, rc, lines);
            failed++;
        }
        if (rc == 0)
            close_pool(pool);
    }
    assert_int_equal(failed, 0);
}

/* pool.h: what this version does not use is accepted; zero and NULL mean default. */
static void an_odd_configuration_is_accepted(void **state)
{
    (void)state;
    const duet_pool_config odd[] = {
        {.workers_min = 2, .workers_max = 2},
        {.workers_max = 1, .spares_max = 17},
        {.workers_max = 1, .idle_ns = 5},
        {.workers_max = 1, .queue_max = 1},
        {.workers_max = 1, .stack_size = 1u << 20},
        {.workers_max = 1, .name = "a name that is much longer than the name of a thread may be"},
        {.workers_max = 1, .name = ""},
        {0},
    };
    for (size_t i = 0; i <= sizeof odd / sizeof odd[0]; i++) {
        duet_pool *pool;
        const duet_pool_config *config = i < sizeof odd / sizeof odd[0] ? &odd[i] : NULL;
        must_equal(duet_pool_open(&pool, config), 0);
        must_equal(finish(duet_pool_submit(pool, return_ok, NULL)).err, 0);
        close_pool(pool);
    }
}

#ifndef TEST_SANITIZED
static duet_result use_stack(void *arg)
{
    volatile char deep[6 << 20];
    for (size_t i = 0; i < sizeof deep; i += 4096)
        deep[i] = (char)i;
    *(char *)arg = deep[4096];
    return duet_ok();
}

/* pool.h: the stack of a worker is as large as was asked for. */
static void a_worker_has_the_stack_that_was_asked_for(void **state)
{
    (void)state;
    duet_pool *pool;
    duet_pool_config config = {.workers_max = 1, .stack_size = 16u << 20};
    char byte = 1;
    must_equal(duet_pool_open(&pool, &config), 0);
    must_equal(finish(duet_pool_submit(pool, use_stack, &byte)).err, 0);
    close_pool(pool);
}
#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(several_pools_have_workers_of_their_own_with_names),
        cmocka_unit_test(a_job_has_its_name_and_the_next_one_not_the_same),
        cmocka_unit_test(a_job_does_not_inherit_the_cancellation_of_the_one_before),
        cmocka_unit_test(workers_block_all_signals_but_the_synchronous_ones_and_sigprof),
        cmocka_unit_test(a_signal_never_interrupts_a_worker),
        cmocka_unit_test(a_queued_job_that_is_cancelled_never_runs_and_settles_at_once),
        cmocka_unit_test(cancelling_the_only_queued_job_wakes_the_loop_that_waits),
        cmocka_unit_test(a_cancel_that_races_the_start_leaves_one_outcome),
        cmocka_unit_test(a_running_job_that_is_cancelled_finds_its_waits_failing),
        cmocka_unit_test(a_running_job_may_ask_whether_it_is_cancelled),
        cmocka_unit_test(a_job_that_waits_for_itself_is_told),
        cmocka_unit_test(one_worker_runs_jobs_in_the_order_submitted),
        cmocka_unit_test(a_job_may_start_jobs_in_its_own_pool),
        cmocka_unit_test(a_full_queue_that_refuses_settles_with_eagain),
        cmocka_unit_test(one_job_may_refuse_to_wait_for_room),
        cmocka_unit_test(a_thread_waits_for_room),
        cmocka_unit_test(a_free_place_is_not_kept_from_who_can_take_it),
        cmocka_unit_test(cancelling_a_queued_job_makes_room_for_who_waits),
        cmocka_unit_test(giving_up_as_room_comes_loses_no_place),
        cmocka_unit_test(a_coroutine_waits_for_room),
        cmocka_unit_test(a_coroutine_waits_for_room_though_the_pool_would_run_here),
        cmocka_unit_test(a_coroutine_that_is_cancelled_while_it_waits_for_room_is_answered),
        cmocka_unit_test(a_coroutine_that_waits_for_room_is_answered_by_the_drain),
        cmocka_unit_test(a_thread_that_waits_for_room_is_answered_by_the_drain),
        cmocka_unit_test(a_full_queue_that_runs_here_runs_in_the_submitting_thread),
        cmocka_unit_test(a_job_that_finds_its_own_queue_full_runs_the_next_one_here),
        cmocka_unit_test(a_bare_callback_never_waits_for_room_and_runs_no_job),
        cmocka_unit_test(drain_runs_what_is_queued_and_refuses_what_comes),
        cmocka_unit_test(after_a_drain_the_pool_takes_no_jobs),
        cmocka_unit_test(a_drain_that_is_late_cancels_the_rest_and_says_what_is_left),
        cmocka_unit_test(a_drain_that_is_late_asks_the_running_jobs_to_end),
        cmocka_unit_test(a_cancelled_drain_cancels_no_job),
        cmocka_unit_test(jobs_that_race_the_drain_run_or_are_refused),
        cmocka_unit_test(close_cancels_the_queued_and_asks_the_running),
        cmocka_unit_test(a_close_that_is_late_may_be_tried_again),
        cmocka_unit_test(a_pool_cannot_be_ended_from_its_own_job_nor_from_a_bare_callback),
        cmocka_unit_test(a_pool_may_be_ended_from_a_job_of_another),
        cmocka_unit_test(no_job_is_lost_when_the_workers_fall_asleep),
        cmocka_unit_test(stats_add_up),
        cmocka_unit_test(a_bad_configuration_is_refused_by_the_name_of_its_field),
        cmocka_unit_test(an_odd_configuration_is_accepted),
#ifndef TEST_SANITIZED
        cmocka_unit_test(a_worker_has_the_stack_that_was_asked_for),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
