/* After fork(): what is the parent's answers in the child that its owner is dead, at once; what the
 * child opens is its own and works; and the parent notices nothing. */
#include "duet_test.h"
#include "future_impl.h"
#include "shared.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#if defined(__SANITIZE_THREAD__)
#define TEST_NO_THREADS_IN_CHILD 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define TEST_NO_THREADS_IN_CHILD 1
#endif
#endif

/* ---- The parent ---- */

/* What it has at the moment of the fork: loops and pools of which some wait, and one thing for each
 * call that ends one. */
struct parent {
    duet_loop *loop, *busy, *never, *full, *ended; /* never: nobody runs it; full: nor this */
    duet_pool *pool, *busy_pool, *full_pool, *ended_pool, *ours;
    struct gate gate;
    duet_future *coroutine, *job, *queued, *in_inbox, *filling, *promise, *moment; /* pending */
    duet_future *value, *failure, *box, *other_box, *done; /* settled */
    duet_group group;
    duet_future *in_group;
    duet_future *held, *held_too;
    atomic_int then_calls;
};

static void count_then(void *arg)
{
    atomic_fetch_add((atomic_int *)arg, 1);
}

static duet_future *settled_with(duet_result r)
{
    duet_future *f;
    const duet_opts opts = {.drop_result = free};
    must_equal(duet_future_open_with(&f, &opts), 0);
    must_equal(duet_future_settle(f, r), 0);
    return f;
}

static void *box(void)
{
    char *text = malloc(16);
    must(text != NULL);
    memcpy(text, "boxed", 6);
    return text;
}

static void parent_open(struct parent *p)
{
    const duet_loop_config one = {.inbox_max = 1};
    const duet_pool_config small = {.workers_max = 1, .queue_max = 1};
    memset(p, 0, sizeof *p);
    p->gate = (struct gate)GATE_INIT;
    p->loop = start_loop();
    p->busy = start_loop();
    p->ended = start_loop();
    must_equal(duet_loop_open(&p->never, NULL), 0);
    must_equal(duet_loop_open(&p->full, &one), 0);
    p->pool = open_pool(3);
    p->busy_pool = open_pool(2);
    p->ended_pool = open_pool(1);
    must_equal(duet_pool_open(&p->full_pool, &small), 0);
    p->ours = duet_pool_default();
    must(p->ours != NULL);
    must_equal(finish(duet_pool_submit(p->ours, return_ok, NULL)).err, 0);
    must_equal(finish(duet_pool_submit(p->ended_pool, return_ok, NULL)).err, 0);
    p->held = duet_pool_submit(p->full_pool, gate_pass_job, &p->gate);
    p->held_too = duet_pool_submit(p->busy_pool, gate_pass_job, &p->gate);
    gate_await_arrivals(&p->gate, 2);
    p->queued = duet_pool_submit(p->full_pool, return_ok, NULL);
    p->job = duet_pool_submit(p->busy_pool, sleep_long, NULL);
    p->coroutine = duet_submit(p->busy, sleep_long, NULL);
    p->in_inbox = duet_submit(p->never, return_ok, NULL);
    p->filling = duet_submit(p->full, return_ok, NULL);
    p->moment = duet_call_at(p->busy, DUET_NEVER, count_then, &p->then_calls);
    p->promise = open_promise();
    must_equal(duet_future_then(p->promise, p->busy, count_then, &p->then_calls, NULL), 0);
    p->value = settled_with(duet_i64(41));
    p->failure = settled_with(duet_err(-EIO));
    p->box = settled_with(duet_ptr(box()));
    p->other_box = settled_with(duet_ptr(box()));
    p->done = duet_submit(p->loop, return_arg, p);
    must_equal(error_of(p->done), 0);
    p->in_group = open_promise();
    must(duet_group_add(&p->group, duet_future_ref(p->in_group)) == p->in_group);
    must_equal(duet_group_spawn(&p->group, p->busy, sleep_long, NULL, NULL), 0);
    must_equal(duet_call(p->busy, return_ok, NULL, SURELY, NULL), 0);
}

/* The parent goes on: all that is pending ends as it would have, and all results are there. */
static void parent_close(struct parent *p)
{
    duet_result r;
    must_equal(duet_call(p->loop, return_ok, NULL, SURELY, &r), 0);
    must_equal(r.err, 0);
    must_equal(duet_offload(p->pool, return_ok, NULL, SURELY, &r), 0);
    must_equal(r.err, 0);
    must_equal(duet_offload(NULL, return_ok, NULL, SURELY, &r), 0);
    must_equal(r.err, 0);
    must(duet_pool_default() == p->ours);
    duet_future *pending[] = {p->coroutine, p->job,    p->queued,   p->in_inbox, p->filling,
                              p->promise,   p->moment, p->in_group, p->held,     p->held_too};
    for (size_t i = 0; i < sizeof pending / sizeof pending[0]; i++)
        must(!duet_future_settled(pending[i]));
    gate_open(&p->gate);
    must_equal(finish(p->held).err, 0);
    must_equal(finish(p->held_too).err, 0);
    must_equal(finish(p->queued).err, 0);
    settle(p->promise);
    must_equal(finish(p->promise).err, 0);
    duet_future_cancel(p->moment);
    must_equal(finish(p->moment).err, -ECANCELED);
    must_equal(duet_future_close(p->coroutine, &r), 0);
    must_equal(r.err, -ECANCELED);
    must_equal(duet_future_close(p->job, &r), 0);
    must_equal(r.err, -ECANCELED);
    must_equal(duet_group_wait(&p->group, duet_ms(1), NULL), -ETIME);
    must_equal(duet_group_close(&p->group), 0);
    must_equal(finish(p->in_group).err, -ECANCELED);
    must_equal(duet_as_i64(finish(p->value)), 41);
    must_equal(finish(p->failure).err, -EIO);
    must_equal(duet_future_take(p->box, &r), 0);
    must(strcmp(duet_as_ptr(r), "boxed") == 0);
    free(duet_as_ptr(r));
    duet_future_unref(p->box);
    must(strcmp(duet_as_ptr(duet_future_result(p->other_box)), "boxed") == 0);
    duet_future_unref(p->other_box);
    must(duet_as_ptr(finish(p->done)) == p);
    close_loop(p->loop);
    close_loop(p->busy);
    close_loop(p->never);
    close_loop(p->full);
    close_loop(p->ended);
    must_equal(finish(p->in_inbox).err, -ECANCELED);
    must_equal(finish(p->filling).err, -ECANCELED);
    close_pool(p->pool);
    close_pool(p->busy_pool);
    close_pool(p->full_pool);
    close_pool(p->ended_pool);
    must_equal(atomic_load(&p->then_calls), 1); /* of the promise */
    must_equal(duet_shutdown(SURELY, NULL), 0); /* the default pool, for the next test */
}

/* ---- The child ---- */

static void say_nothing(void *ctx, enum duet_level level, const char *line)
{
    (void)ctx;
    (void)level;
    (void)line;
}

/* Runs body(p) in a child that hangs for a minute at most. */
static pid_t fork_child(void (*body)(struct parent *p), struct parent *p)
{
    fflush(NULL);
    pid_t child = fork();
    must(child >= 0);
    if (child == 0) {
        static const int signals[] = {SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGSYS, SIGALRM};
        sigset_t all;
        sigfillset(&all);
        must_equal(pthread_sigmask(SIG_UNBLOCK, &all, NULL), 0);
        for (size_t i = 0; i < sizeof signals / sizeof signals[0]; i++)
            must(signal(signals[i], SIG_DFL) != SIG_ERR); /* cmocka catches some */
        alarm(60);
        duet_log_set(say_nothing, NULL, DUET_DEBUG); /* it names each mistake that follows */
        body(p);
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

static void must_end_well(pid_t child)
{
    int status = await_child(child);
    if (status != 0)
        fprintf(stderr, "the child's status is %#x\n", (unsigned)status);
    must_equal(status, 0);
}

/* Where the fork happens. */
struct site {
    struct parent *parent;
    void (*body)(struct parent *p);
};

static duet_result fork_here(void *arg)
{
    struct site *site = arg;
    return duet_i64(fork_child(site->body, site->parent));
}

static pid_t fork_in_thread(struct parent *p, void (*body)(struct parent *p))
{
    return fork_child(body, p);
}

static pid_t fork_in_coroutine(struct parent *p, void (*body)(struct parent *p))
{
    struct site site = {p, body};
    const duet_opts opts = {.name = "forker", .stack_size = 1u << 20};
    return (pid_t)duet_as_i64(finish(duet_submit_with(p->loop, fork_here, &site, &opts)));
}

static pid_t fork_in_job(struct parent *p, void (*body)(struct parent *p))
{
    struct site site = {p, body};
    const duet_opts opts = {.name = "forker"};
    return (pid_t)duet_as_i64(finish(duet_pool_submit_with(p->pool, fork_here, &site, &opts)));
}

/* On a loop of duet_run(), which is the main thread's. */
static pid_t fork_in_run(struct parent *p, void (*body)(struct parent *p))
{
    struct site site = {p, body};
    const duet_opts opts = {.name = "forker", .stack_size = 1u << 20};
    duet_result r;
    must_equal(duet_run_with(fork_here, &site, &opts, &r), 0);
    return (pid_t)duet_as_i64(r);
}

typedef pid_t fork_fn(struct parent *p, void (*body)(struct parent *p));
static fork_fn *const everywhere[] = {fork_in_thread, fork_in_coroutine, fork_in_job, fork_in_run};
enum {
    SITES = sizeof everywhere / sizeof everywhere[0]
};

/* Each in a parent of its own, which must go on. */
static void in_children(void (*body)(struct parent *p))
{
    for (int i = 0; i < SITES; i++) {
        static struct parent p;
        parent_open(&p);
        must_end_well(everywhere[i](&p, body));
        parent_close(&p);
    }
}

static const duet_deadline deadlines[] = {{0}, {INT64_MAX}, {INT64_MIN}, {INT64_MAX / 2}};

static duet_result never_runs(void *arg)
{
    (void)arg;
    abort();
}

static void never_called(void *arg)
{
    (void)arg;
    abort();
}

static void must_be_dead(duet_future *f)
{
    must(f != NULL);
    must(duet_future_settled(f));
    must_equal(duet_future_result(f).err, -EOWNERDEAD);
    duet_future_unref(f);
}

/* A call that did not submit: in the one way or the other. */
static void must_have_failed(int rc, duet_result r)
{
    if (rc != 0)
        must_equal(rc, -EOWNERDEAD);
    else
        must_equal(r.err, -EOWNERDEAD);
}

static void try_loop(duet_loop *loop)
{
    atomic_int drops = 0;
    const duet_opts opts = {.name = "late", .drop = count_drop}, refuse = {.flags = DUET_REFUSE};
    duet_result r = duet_ok();
    must_be_dead(duet_submit(loop, never_runs, NULL));
    must_be_dead(duet_submit_with(loop, never_runs, &drops, &opts));
    must_equal(atomic_load(&drops), 1);
    must_be_dead(duet_submit_with(loop, never_runs, NULL, &refuse));
    must_have_failed(duet_call(loop, never_runs, NULL, DUET_NEVER, &r), r);
    r = duet_ok();
    must_have_failed(duet_call_with(loop, never_runs, &drops, &opts, SURELY, &r), r);
    must_equal(atomic_load(&drops), 2);
    must_equal(duet_call_soon(loop, never_called, NULL), -EOWNERDEAD);
    must_equal(duet_call_soon_with(loop, never_called, &drops, count_drop), -EOWNERDEAD);
    must_equal(atomic_load(&drops), 2); /* it is still the caller's */
    must_be_dead(duet_call_at(loop, DUET_NOW, never_called, NULL));
    must_be_dead(duet_call_at(loop, DUET_NEVER, never_called, NULL));
    duet_loop_unref(duet_loop_ref(loop));
}

static void try_pool(duet_pool *pool)
{
    atomic_int drops = 0;
    const duet_opts opts = {.name = "late", .drop = count_drop};
    const duet_opts refuse = {.flags = DUET_REFUSE, .priority = 1};
    duet_pool_stats stats;
    duet_result r = duet_ok();
    must_be_dead(duet_pool_submit(pool, never_runs, NULL));
    must_be_dead(duet_pool_submit_with(pool, never_runs, &drops, &opts));
    must_equal(atomic_load(&drops), 1);
    must_be_dead(duet_pool_submit_with(pool, never_runs, NULL, &refuse));
    must_have_failed(duet_offload(pool, never_runs, NULL, DUET_NEVER, &r), r);
    r = duet_ok();
    must_have_failed(duet_offload_with(pool, never_runs, &drops, &opts, SURELY, &r), r);
    must_equal(atomic_load(&drops), 2);
    duet_pool_stats_get(pool, &stats);
}

static void try_pending(duet_future *f)
{
    duet_result r;
    for (int i = 0; i < 4; i++) {
        duet_future *fs[] = {f, f};
        size_t index;
        must_equal(duet_future_wait(f, deadlines[i], &r), -EOWNERDEAD);
        must_equal(duet_future_wait(f, deadlines[i], NULL), -EOWNERDEAD);
        must_equal(duet_future_wait_many(fs, 1, DUET_UNTIL_ALL, deadlines[i], &index), -EOWNERDEAD);
        must_equal(duet_future_wait_many(fs, 1, DUET_UNTIL_ANY, deadlines[i], NULL), -EOWNERDEAD);
        must_equal(duet_future_wait_many(fs, 1, DUET_UNTIL_FAILURE, deadlines[i], NULL),
                   -EOWNERDEAD);
        must_equal(duet_gather(fs, 1, deadlines[i], &r), -EOWNERDEAD);
    }
    must(!duet_future_settled(f));
    must_equal(duet_future_take(f, &r), -EOWNERDEAD);
    must(!duet_future_forget(f, never_called, NULL));
    /* the last ones, with references that may go or stay: the child ends soon */
    for (int i = 0; i < 4; i++) {
        must_equal(duet_future_end(duet_future_ref(f), deadlines[i], 0, &r), -EOWNERDEAD);
        must_equal(duet_future_end(duet_future_ref(f), deadlines[i], INT64_MAX, NULL), -EOWNERDEAD);
    }
    must_equal(duet_future_close(duet_future_ref(f), &r), -EOWNERDEAD);
    must_equal(duet_future_close(duet_future_ref(f), NULL), -EOWNERDEAD);
    duet_future_cancel(f);
    duet_future_cancel(f);
    duet_future_unref(duet_future_ref(f));
}

static void try_settled(struct parent *p)
{
    duet_future *fs[] = {p->value, p->failure, p->box};
    duet_result r, rs[3];
    size_t index = 77;
    for (int i = 0; i < 4; i++) {
        must_equal(duet_future_wait(p->value, deadlines[i], &r), 0);
        must_equal(duet_as_i64(r), 41);
        must_equal(duet_future_wait_many(fs, 3, DUET_UNTIL_ALL, deadlines[i], &index), 0);
        must_equal(index, 3);
        must_equal(duet_future_wait_many(fs, 3, DUET_UNTIL_ANY, deadlines[i], &index), 0);
        must_equal(duet_future_wait_many(fs, 3, DUET_UNTIL_FAILURE, deadlines[i], &index), 0);
        must_equal(index, 1);
        must_equal(duet_gather(fs, 3, deadlines[i], rs), 0);
        must_equal(duet_as_i64(rs[0]), 41);
        must_equal(rs[1].err, -EIO);
    }
    must(duet_future_settled(p->done));
    must(duet_as_ptr(duet_future_result(p->done)) == p);
    must_equal(duet_future_settle(p->value, duet_ok()), -EALREADY);
    duet_future_cancel(p->value);
    must_equal(duet_as_i64(duet_future_result(p->value)), 41);
    must_equal(duet_future_take(p->box, &r), 0);
    must(strcmp(duet_as_ptr(r), "boxed") == 0);
    free(duet_as_ptr(r));
    must_equal(duet_future_take(p->box, &r), -EALREADY);
    must_equal(duet_future_close(p->other_box, &r), 0);
    free(duet_as_ptr(r));
    must_equal(duet_future_end(p->value, DUET_NOW, 0, &r), DUET_FINISHED);
    must_equal(duet_as_i64(r), 41);
}

static void try_group(struct parent *p)
{
    atomic_int drops = 0;
    const duet_opts opts = {.drop = count_drop};
    duet_group own = DUET_GROUP_INIT;
    duet_result r;
    must_equal(duet_group_spawn(&p->group, p->loop, never_runs, &drops, &opts), -EOWNERDEAD);
    must_equal(atomic_load(&drops), 1);
    for (int i = 0; i < 4; i++)
        must_equal(duet_group_wait(&p->group, deadlines[i], &r), -EOWNERDEAD);
    duet_group_cancel(&p->group);
    must_equal(duet_group_wait(&p->group, DUET_NEVER, NULL), -EOWNERDEAD);
    duet_future *promise = open_promise();
    must(duet_group_add(&p->group, promise) == promise); /* it cannot fail */
    must_equal(duet_group_close(&p->group), -EOWNERDEAD);
    /* a group of the child's with a loop of the parent's */
    must_equal(duet_group_spawn(&own, p->loop, never_runs, &drops, &opts), -EOWNERDEAD);
    must_equal(atomic_load(&drops), 2);
    must_equal(duet_group_wait(&own, DUET_NEVER, &r), 0);
    must_equal(duet_group_close(&own), 0);
}

/* What is no object's works as in any thread. */
static void try_bare(void)
{
    duet_deadline until = duet_ms(2);
    duet_result r;
    must(duet_loop_self() == NULL);
    must(!duet_cancelled());
    must(duet_self_name() != NULL);
    must_equal(duet_sleep(until), 0);
    must(duet_now_ns() >= until.ns);
    duet_shield_begin();
    must_equal(duet_sleep(DUET_NOW), 0);
    duet_shield_end();
    duet_future *promise = open_promise();
    must_equal(duet_future_wait(promise, duet_ms(1), NULL), -ETIME);
    must_equal(duet_future_settle(promise, duet_i64(3)), 0);
    must_equal(duet_future_close(promise, &r), 0);
    must_equal(duet_as_i64(r), 3);
    promise = open_promise();
    must_equal(duet_future_end(promise, DUET_NOW, 0, &r), DUET_CANCELLED);
}

static void try_all_calls(struct parent *p)
{
    duet_loop *own;
    duet_receipt *receipt = NULL;
    unsigned left;
    duet_loop *const loops[] = {p->loop, p->busy, p->never, p->full};
    duet_pool *const pools[] = {p->pool, p->busy_pool, p->full_pool, p->ended_pool, p->ours};
    duet_future *const pending[] = {p->coroutine, p->job,     p->queued, p->in_inbox,
                                    p->filling,   p->promise, p->moment, p->in_group};
    try_bare();
    for (size_t i = 0; i < sizeof loops / sizeof loops[0]; i++)
        try_loop(loops[i]);
    for (size_t i = 0; i < sizeof pools / sizeof pools[0]; i++)
        try_pool(pools[i]);
    must_equal(duet_loop_open(&own, NULL), 0); /* without a thread */
    for (size_t i = 0; i < sizeof pending / sizeof pending[0]; i++) {
        must_equal(duet_future_then(pending[i], own, never_called, NULL, NULL), -EOWNERDEAD);
        try_pending(pending[i]);
    }
    must_equal(duet_future_settle(p->promise, duet_ok()), -EOWNERDEAD);
    must_equal(duet_future_then(p->value, p->loop, never_called, NULL, NULL), -EOWNERDEAD);
    must_equal(duet_loop_close(own, SURELY), 0);
    try_settled(p);
    try_group(p);
    must_equal(duet_loop_run(p->never), -EOWNERDEAD);
    must_equal(duet_loop_run(p->loop), -EOWNERDEAD);
    must_equal(duet_pool_drain(p->pool, DUET_NEVER, &left), -EOWNERDEAD);
    must_equal(duet_pool_drain(p->busy_pool, DUET_NOW, NULL), -EOWNERDEAD);
    for (size_t i = 0; i < sizeof loops / sizeof loops[0]; i++)
        duet_loop_stop(loops[i]);
    must_equal(duet_loop_close(p->loop, DUET_NEVER), -EOWNERDEAD);
    must_equal(duet_loop_close(p->never, DUET_NOW), -EOWNERDEAD);
    must_equal(duet_loop_shutdown(p->busy, DUET_NEVER, &receipt), -EOWNERDEAD);
    must_equal(duet_loop_shutdown(p->full, DUET_NOW, NULL), -EOWNERDEAD);
    must_equal(duet_loop_close(p->ended, SURELY), -EOWNERDEAD);
    must_equal(duet_pool_close(p->pool, DUET_NEVER), -EOWNERDEAD);
    must_equal(duet_pool_close(p->busy_pool, DUET_NOW), -EOWNERDEAD);
    must_equal(duet_pool_shutdown(p->full_pool, DUET_NEVER, &receipt), -EOWNERDEAD);
    must_equal(duet_pool_shutdown(p->ended_pool, SURELY, NULL), -EOWNERDEAD);
    must(receipt == NULL);
}

/* base.h: every call, wherever it was forked, none of which hangs. */
thread_test(in_a_child_every_call_with_what_is_the_parents_is_eownerdead)
{
    in_children(try_all_calls);
}

static void try_shutdown(struct parent *p)
{
    duet_receipt *receipt = NULL;
    (void)p;
    must_equal(duet_shutdown(DUET_NEVER, &receipt), 0); /* nothing here is the child's */
    must(receipt != NULL);
    must_equal(receipt->count + receipt->unlisted, 0);
    duet_receipt_free(receipt);
    must_equal(duet_shutdown(DUET_NOW, NULL), 0);
    try_all_calls(p);
}

/* bridge.h: the loops and pools of the process, which are none. */
thread_test(a_child_shuts_nothing_of_the_parents_down)
{
    in_children(try_shutdown);
}

/* A list of which one is pending. */
static void try_mixed_lists(struct parent *p)
{
    duet_future *fs[] = {p->promise, p->value};
    duet_result rs[2];
    for (int i = 0; i < 4; i++) {
        size_t index = 77;
        must_equal(duet_future_wait_many(fs, 2, DUET_UNTIL_ALL, deadlines[i], NULL), -EOWNERDEAD);
        must_equal(duet_future_wait_many(fs, 2, DUET_UNTIL_FAILURE, deadlines[i], NULL),
                   -EOWNERDEAD);
        must_equal(duet_gather(fs, 2, deadlines[i], rs), -EOWNERDEAD);
        int rc = duet_future_wait_many(fs, 2, DUET_UNTIL_ANY, deadlines[i], &index);
        must(rc == -EOWNERDEAD || (rc == 0 && index == 1)); /* base.h leaves it open */
        must(rc == 0 || index == 77);
    }
}

/* base.h: what never will be is not awaited. */
thread_test(a_child_never_waits_for_a_list_with_a_pending_future_of_the_parents)
{
    in_children(try_mixed_lists);
}

static duet_result fork_when_cancelled(void *arg)
{
    must_equal(duet_sleep(DUET_NEVER), -ECANCELED);
    duet_shield_begin();
    return fork_here(arg);
}

static void try_bare_only(struct parent *p)
{
    (void)p;
    try_bare();
}

static void await_waiting(const duet_pool *pool)
{
    duet_pool_stats stats = {0};
    for (duet_deadline by = SURELY; stats.blocked_in_wait == 0; duet_pool_stats_get(pool, &stats))
        must(duet_now_ns() < by.ns);
}

/* base.h: the child runs there as a plain thread, which nobody cancelled. */
thread_test(a_child_of_cancelled_work_is_not_cancelled)
{
    static struct parent p;
    for (int i = 0; i < 2; i++) {
        struct site site = {&p, try_bare_only};
        parent_open(&p);
        duet_future *f = i ? duet_submit(p.loop, fork_when_cancelled, &site)
                           : duet_pool_submit(p.pool, fork_when_cancelled, &site);
        if (i)
            must_equal(duet_call(p.loop, return_ok, NULL, SURELY, NULL), 0); /* it has begun */
        else
            await_waiting(p.pool);
        duet_future_cancel(f);
        must_end_well((pid_t)duet_as_i64(finish(f)));
        parent_close(&p);
    }
}

/* ---- A runtime of the child's own ---- */

static duet_result add_by_offload(void *arg)
{
    duet_pool *pool = arg;
    duet_result r;
    duet_group group = DUET_GROUP_INIT;
    duet_future *f = duet_spawn(return_ok, NULL);
    must_equal(finish(f).err, 0);
    for (int i = 0; i < 5; i++)
        must_equal(duet_group_spawn(&group, NULL, return_ok, NULL, NULL), 0);
    must_equal(duet_group_wait(&group, SURELY, NULL), 0);
    must_equal(duet_group_close(&group), 0);
    must_equal(duet_offload(pool, return_arg, &group, SURELY, &r), 0);
    must(duet_as_ptr(r) == &group);
    must_equal(duet_offload(NULL, return_arg, &r, SURELY, &r), 0);
    must(duet_as_ptr(r) == &r);
    must_equal(duet_sleep(duet_ms(1)), 0);
    f = duet_pool_submit(pool, sleep_long, NULL);
    must_equal(duet_future_end(f, duet_ms(1), INT64_MAX, &r), DUET_CANCELLED);
    return duet_i64(21);
}

static void use_own_runtime(struct parent *p)
{
    atomic_int calls = 0;
    duet_receipt *receipt = NULL;
    duet_result r;
    for (int i = 0; i < 2; i++) {
        duet_loop *loop = start_loop();
        duet_pool *pool = open_pool(2);
        must_equal(duet_run(add_by_offload, pool, &r), 0);
        must_equal(duet_as_i64(r), 21);
        must_equal(duet_call(loop, add_by_offload, pool, SURELY, &r), 0);
        must_equal(duet_as_i64(r), 21);
        must_equal(finish(duet_call_at(loop, duet_ms(1), count_drop, &calls)).err, 0);
        must_equal(atomic_load(&calls), 2 * i + 1);
        /* a result of the parent's, called back on a loop of the child's */
        must_equal(duet_future_then(p->failure, loop, count_drop, &calls, NULL), 0);
        for (duet_deadline by = SURELY; atomic_load(&calls) < 2 * i + 2; sched_yield())
            must(duet_now_ns() < by.ns);
        duet_pool *ours = duet_pool_default();
        must(ours != NULL);
        must(ours != p->ours);
        must_equal(finish(duet_pool_submit(ours, return_ok, NULL)).err, 0);
        try_loop(p->loop);
        try_pool(p->ours);
        if (i == 0) {
            close_loop(loop);
            close_pool(pool);
        } else {
            must_equal(duet_shutdown(SURELY, &receipt), 0);
            must_equal(receipt->count + receipt->unlisted, 0);
            duet_receipt_free(receipt);
            close_loop(loop);
            close_pool(pool);
        }
    }
}

static void use_after_trying(struct parent *p)
{
    try_mixed_lists(p);
    use_own_runtime(p);
    try_all_calls(p);
}

/* base.h: the child may open loops and pools of its own. */
thread_test(a_child_may_open_a_runtime_of_its_own)
{
#ifdef TEST_NO_THREADS_IN_CHILD
    (void)use_after_trying;
    skip();
#else
    in_children(use_own_runtime);
    in_children(use_after_trying);
#endif
}

static void have_a_child_too(struct parent *p)
{
    static struct parent own;
    parent_open(&own);
    must_end_well(fork_child(try_all_calls, &own)); /* what is its parent's */
    must_end_well(fork_child(try_all_calls, p)); /* and what is its parent's parent's */
    must_end_well(fork_child(use_own_runtime, &own));
    must_end_well(fork_in_coroutine(&own, try_all_calls));
    must_end_well(fork_in_job(&own, use_own_runtime));
    parent_close(&own);
}

thread_test(a_child_may_have_children)
{
#ifdef TEST_NO_THREADS_IN_CHILD
    (void)have_a_child_too;
    skip();
#else
    in_children(have_a_child_too);
#endif
}

#ifndef TEST_SANITIZED
static void leave_by_exit(struct parent *p)
{
    (void)p;
    exit(0);
}

static void leave_by_exit_after_use(struct parent *p)
{
    use_own_runtime(p);
    duet_result r;
    must_equal(duet_offload(NULL, return_ok, NULL, SURELY, &r), 0);
    exit(0);
}

/* bridge.h: at exit it is the child's default pool that is closed, if it has one. */
thread_test(a_child_of_a_thread_may_leave_by_exit)
{
    static struct parent p;
    struct gate gate = GATE_INIT;
    parent_open(&p);
    duet_future *f = duet_pool_submit(p.ours, gate_pass_job, &gate);
    gate_await_arrivals(&gate, 1);
    must_end_well(fork_child(leave_by_exit, &p));
    must_end_well(fork_child(leave_by_exit_after_use, &p));
    gate_open(&gate);
    must_equal(finish(f).err, 0);
    parent_close(&p);
}
#endif

static void become_another(struct parent *p)
{
    (void)p;
    execl("/bin/true", "true", (char *)NULL);
    _exit(9);
}

/* base.h: must end by exec or _exit. */
thread_test(a_child_may_become_another_program)
{
    in_children(become_another);
}

static void leave_at_once(struct parent *p)
{
    (void)p;
}

thread_test(a_child_may_end_at_once)
{
    in_children(leave_at_once);
}

/* ---- The end of the function ---- */

static duet_result return_in_the_child(void *arg)
{
    (void)arg;
    fflush(NULL);
    pid_t child = fork();
    must(child >= 0);
    if (child == 0) {
        const struct rlimit none = {0, 0};
        sigset_t all;
        sigfillset(&all);
        must_equal(setrlimit(RLIMIT_CORE, &none), 0);
        must_equal(pthread_sigmask(SIG_UNBLOCK, &all, NULL), 0);
        must(signal(SIGABRT, SIG_DFL) != SIG_ERR);
        int null = open("/dev/null", O_WRONLY);
        must(null >= 0);
        must(dup2(null, STDERR_FILENO) >= 0);
        alarm(60);
    }
    return duet_i64(child);
}

static void must_abort(duet_result r)
{
    int status = await_child((pid_t)duet_as_i64(r));
    if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGABRT)
        fprintf(stderr, "the child's status is %#x\n", (unsigned)status);
    must(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
}

/* base.h: aborts, rather than run the parent's loop or worker in the child. */
thread_test(a_child_that_returns_from_its_coroutine_or_job_aborts)
{
    static struct parent p;
    duet_result r;
    parent_open(&p);
    must_abort(finish(duet_submit(p.loop, return_in_the_child, NULL)));
    must_abort(finish(duet_pool_submit(p.pool, return_in_the_child, NULL)));
    must_equal(duet_offload(NULL, return_in_the_child, NULL, SURELY, &r), 0);
    must_abort(r);
    must_equal(duet_run(return_in_the_child, NULL, &r), 0);
    must_abort(r);
    parent_close(&p);
}

/* ---- Amid a storm ---- */

#ifndef TEST_SANITIZED /* their allocators do not survive such a fork */

struct storm {
    struct thread thread;
    struct parent *parent;
    atomic_int *stop;
};

static duet_result rest_a_little(void *arg)
{
    (void)arg;
    int rc = duet_sleep(duet_us(20));
    return rc < 0 ? duet_err(rc) : duet_ok();
}

/* Uses everything that has a lock, so that at each fork some are held. */
static void blow(void *arg)
{
    struct storm *storm = arg;
    struct parent *p = storm->parent;
    while (!atomic_load(storm->stop)) {
        atomic_int calls = 0;
        duet_future *fs[] = {
            duet_submit(p->loop, rest_a_little, NULL),
            duet_pool_submit(p->pool, rest_a_little, NULL),
            duet_pool_submit(p->ours, return_ok, NULL),
            open_promise(),
            duet_call_at(p->loop, duet_us(10), count_then, &calls),
        };
        duet_loop *loop = NULL;
        duet_pool *pool = open_pool(1);
        duet_pool_stats stats;
        must_equal(duet_loop_open(&loop, NULL), 0);
        duet_pool_stats_get(p->pool, &stats);
        duet_future_cancel(fs[1]);
        settle(fs[3]);
        (void)finish(duet_pool_submit(pool, return_ok, NULL));
        must_equal(duet_gather(fs, 5, SURELY, NULL), 0);
        for (int i = 0; i < 5; i++)
            duet_future_unref(fs[i]);
        close_loop(loop);
        close_pool(pool);
    }
}

static void try_in_storm(struct parent *p)
{
    use_own_runtime(p);
    try_all_calls(p);
}

/* base.h: whatever the other threads were doing at that moment. */
thread_test(a_child_forked_amid_a_storm_hangs_nowhere)
{
    enum {
        THREADS = 3
    };
    static struct parent p;
    struct storm storms[THREADS];
    atomic_int stop = 0;
    parent_open(&p);
    for (int i = 0; i < THREADS; i++) {
        storms[i].parent = &p;
        storms[i].stop = &stop;
        thread_start(&storms[i].thread, blow, &storms[i]);
    }
    for (int i = test_rounds(60); i > 0; i--)
        must_end_well(everywhere[i % SITES](&p, try_in_storm));
    atomic_store(&stop, 1);
    for (int i = 0; i < THREADS; i++)
        thread_join(&storms[i].thread);
    parent_close(&p);
}
#endif

/* The handle of who gets no memory is everybody's. */
static void add_no_memory(struct parent *p)
{
    duet_group group = DUET_GROUP_INIT;
    duet_result r;
    (void)p;
    must_equal(
        duet_future_result(duet_group_add(&group, duet__future_refused(-ENOMEM, NULL, NULL, NULL)))
            .err,
        -ENOMEM);
    must_equal(duet_group_wait(&group, SURELY, &r), 0);
    must_equal(r.err, -ENOMEM);
    must_equal(duet_group_close(&group), 0);
}

thread_test(in_a_child_a_group_learns_that_there_is_no_memory)
{
    add_no_memory(NULL);
    in_children(add_no_memory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(in_a_child_a_group_learns_that_there_is_no_memory),
        cmocka_unit_test(in_a_child_every_call_with_what_is_the_parents_is_eownerdead),
        cmocka_unit_test(a_child_shuts_nothing_of_the_parents_down),
        cmocka_unit_test(a_child_never_waits_for_a_list_with_a_pending_future_of_the_parents),
        cmocka_unit_test(a_child_of_cancelled_work_is_not_cancelled),
        cmocka_unit_test(a_child_may_open_a_runtime_of_its_own),
        cmocka_unit_test(a_child_may_have_children),
#ifndef TEST_SANITIZED
        cmocka_unit_test(a_child_of_a_thread_may_leave_by_exit),
#endif
        cmocka_unit_test(a_child_may_become_another_program),
        cmocka_unit_test(a_child_may_end_at_once),
        cmocka_unit_test(a_child_that_returns_from_its_coroutine_or_job_aborts),
#ifndef TEST_SANITIZED
        cmocka_unit_test(a_child_forked_amid_a_storm_hangs_nowhere),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
