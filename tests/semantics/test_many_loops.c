/* Several loops in one process: each a thread of its own, calling each other, sharing what may be
 * shared, and closed in whatever order. */
#include "duet_test.h"
#include "shared.h"

#include <arpa/inet.h>
#include <netinet/in.h>

enum {
    LOOPS = 4
};

struct loops {
    duet_loop *at[LOOPS];
};

static void loops_start(struct loops *l)
{
    for (int i = 0; i < LOOPS; i++)
        l->at[i] = start_loop();
}

static void loops_close(struct loops *l)
{
    for (int i = 0; i < LOOPS; i++)
        close_loop(l->at[i]);
}

/* A test that has several loops started. */
#define loops_test(name)                                                                           \
    static void name##_body(struct loops *l);                                                      \
    static void name(void **state)                                                                 \
    {                                                                                              \
        struct loops l;                                                                            \
        (void)state;                                                                               \
        loops_start(&l);                                                                           \
        name##_body(&l);                                                                           \
        loops_close(&l);                                                                           \
    }                                                                                              \
    static void name##_body(__attribute__((unused)) struct loops *l)

/* ---- As many as there are processors, and more ---- */

struct place {
    duet_loop *loop;
    pid_t thread;
    int turns;
};

/* Stays on its loop and thread across all kinds of waits. */
static duet_result stay_here(void *arg)
{
    struct place *place = arg;
    place->thread = gettid();
    for (int i = 0; i < place->turns; i++) {
        must_equal(i % 10 ? duet_yield() : duet_sleep(duet_us(100)), 0);
        if (i % 16 == 0)
            must_equal(duet_offload(NULL, return_ok, NULL, SURELY, NULL), 0);
        must(duet_loop_self() == place->loop);
        must_equal(gettid(), place->thread);
    }
    return duet_ok();
}

thread_test(more_loops_than_processors_run_at_once)
{
    unsigned n = duet_cpu_count() + 1;
    must(n > 1 && n <= (unsigned)sysconf(_SC_NPROCESSORS_CONF) + 1);
    struct place *places = calloc(n, sizeof *places);
    duet_future **f = calloc(n, sizeof(duet_future *));
    must(places && f);
    for (unsigned i = 0; i < n; i++)
        places[i] = (struct place){.loop = start_loop(), .turns = 100};
    for (unsigned i = 0; i < n; i++)
        f[i] = duet_submit(places[i].loop, stay_here, &places[i]);
    for (unsigned i = 0; i < n; i++)
        must_equal(finish(f[i]).err, 0);
    for (unsigned i = 0; i < n; i++) {
        for (unsigned k = 0; k < i; k++)
            must(places[i].thread != places[k].thread);
        close_loop(places[i].loop);
    }
    free(places);
    free(f);
}

static void open_and_close(void *arg)
{
    for (int i = 0; i < *(int *)arg; i++) {
        duet_loop *loop = start_loop();
        duet_result r;
        must_equal(duet_call(loop, return_arg, loop, SURELY, &r), 0);
        must(duet_as_ptr(r) == loop);
        close_loop(loop);
    }
}

thread_test(threads_start_and_close_loops_at_the_same_time)
{
    struct thread threads[4];
    int rounds = test_rounds(40), fds = count_fds(), before = count_threads();
    for (int i = 0; i < 4; i++)
        thread_start(&threads[i], open_and_close, &rounds);
    for (int i = 0; i < 4; i++)
        thread_join(&threads[i]);
    must_equal(count_fds(), fds);
    await_threads(before);
}

static duet_result start_another(void *arg)
{
    duet_loop **started = arg;
    must_equal(duet_loop_start(started, NULL), 0);
    must(duet_loop_self() != *started);
    must_equal(duet_call(*started, return_ok, NULL, SURELY, NULL), 0);
    must_equal(duet_loop_close(*started, SURELY), 0);
    return duet_ok();
}

loops_test(coroutines_start_and_close_loops)
{
    duet_loop *started[LOOPS];
    duet_future *f[LOOPS];
    for (int i = 0; i < LOOPS; i++)
        f[i] = duet_submit(l->at[i], start_another, &started[i]);
    for (int i = 0; i < LOOPS; i++)
        must_equal(finish(f[i]).err, 0);
}

/* ---- Calling each other ---- */

struct hop {
    const struct loops *loops;
    int at, left; /* which loop runs it; how many calls deep it goes on */
};

static duet_result hop_on(void *arg)
{
    const struct hop *hop = arg;
    must(duet_loop_self() == hop->loops->at[hop->at]);
    if (hop->left == 0)
        return duet_i64(0);
    struct hop next = {hop->loops, (hop->at + 1) % LOOPS, hop->left - 1};
    duet_result r;
    must_equal(duet_call(hop->loops->at[next.at], hop_on, &next, SURELY, &r), 0);
    must(duet_loop_self() == hop->loops->at[hop->at]);
    return duet_i64(duet_as_i64(r) + 1);
}

/* Round and round: coroutines of a loop wait for ones that wait for coroutines of that loop. */
loops_test(a_ring_of_loops_calls_round)
{
    enum {
        N = 3 * LOOPS
    };
    struct hop hops[N];
    duet_future *f[N];
    for (int round = test_rounds(50); round > 0; round--) {
        for (int i = 0; i < N; i++) {
            hops[i] = (struct hop){l, i % LOOPS, 3 * LOOPS + i};
            f[i] = duet_submit(l->at[i % LOOPS], hop_on, &hops[i]);
        }
        for (int i = 0; i < N; i++)
            must_equal(duet_as_i64(finish(f[i])), 3 * LOOPS + i);
    }
}

struct deep {
    const struct loops *loops;
    duet_pool *pool;
    int left;
};

static duet_result deep_in_loop(void *arg);

static duet_result deep_in_job(void *arg)
{
    const struct deep *d = arg;
    struct deep next = {d->loops, d->pool, d->left - 1};
    duet_result r;
    must(duet_loop_self() == NULL);
    must_equal(duet_call(d->loops->at[d->left % LOOPS], deep_in_loop, &next, SURELY, &r), 0);
    return r;
}

static duet_result deep_in_loop(void *arg)
{
    struct deep *d = arg;
    duet_result r;
    if (d->left <= 0)
        return duet_i64(7);
    must_equal(duet_offload(d->pool, deep_in_job, d, SURELY, &r), 0);
    return r;
}

/* Through one worker, whose jobs wait for loops that wait for its jobs. */
loops_test(loops_share_a_pool_whose_jobs_call_them)
{
    struct deep d = {l, open_pool(1), 9};
    duet_future *f[LOOPS];
    for (int i = 0; i < LOOPS; i++)
        f[i] = duet_submit(l->at[i], deep_in_loop, &d);
    for (int i = 0; i < LOOPS; i++)
        must_equal(duet_as_i64(finish(f[i])), 7);
    close_pool(d.pool);
}

static duet_result wait_and_return(void *f)
{
    duet_result r;
    must_equal(duet_future_wait(f, SURELY, &r), 0);
    return r;
}

loops_test(one_future_is_awaited_on_all_loops_at_once)
{
    enum {
        N = 5 * LOOPS
    };
    duet_future *f[N];
    for (int round = test_rounds(100); round > 0; round--) {
        duet_future *promise = open_promise();
        for (int i = 0; i < N; i++)
            f[i] = duet_submit(l->at[i % LOOPS], wait_and_return, promise);
        if (round % 2) /* else settled while they come */
            for (int i = 0; i < LOOPS; i++)
                must_equal(duet_call(l->at[i], return_ok, NULL, SURELY, NULL), 0);
        must_equal(duet_future_settle(promise, duet_i64(round)), 0);
        for (int i = 0; i < N; i++)
            must_equal(duet_as_i64(finish(f[i])), round);
        duet_future_unref(promise);
    }
}

loops_test(work_of_one_loop_is_awaited_and_cancelled_from_another)
{
    for (int i = 0; i < LOOPS; i++) {
        duet_future *sleeper = duet_submit(l->at[i], sleep_long, NULL);
        duet_future *waiter = duet_submit(l->at[(i + 1) % LOOPS], wait_and_return, sleeper);
        must_equal(duet_call(l->at[(i + 1) % LOOPS], return_ok, NULL, SURELY, NULL), 0);
        duet_future_cancel(sleeper);
        must_equal(finish(waiter).err, -ECANCELED); /* the work's, not the waiter's */
        must_equal(finish(sleeper).err, -ECANCELED);
    }
}

struct then {
    duet_loop *there;
    duet_future *seen;
    atomic_int *count;
};

static void settle_there(void *arg)
{
    struct then *t = arg;
    must(duet_loop_self() == t->there);
    if (t->count)
        must_equal(atomic_load(t->count), 1); /* the future has settled before */
    settle(t->seen);
}

static duet_result count_once(void *count)
{
    must_equal(duet_yield(), 0);
    atomic_fetch_add((atomic_int *)count, 1);
    return duet_ok();
}

loops_test(a_callback_of_a_future_runs_on_the_loop_that_it_names)
{
    for (int i = 0; i < LOOPS * LOOPS; i++) {
        atomic_int count = 0;
        struct then t = {l->at[i / LOOPS], open_promise(), &count};
        duet_future *f = duet_submit(l->at[i % LOOPS], count_once, &count);
        must_equal(duet_future_then(f, t.there, settle_there, &t, NULL), 0);
        must_equal(finish(t.seen).err, 0);
        must_equal(finish(f).err, 0);
    }
}

/* A future's callbacks on four loops: each there, and in order. */
struct in_order {
    duet_loop *loop;
    int next, wrong;
    duet_future *all;
};

struct numbered {
    struct in_order *order;
    int number;
};

enum {
    EACH = 10
};

static void come_in_order(void *arg)
{
    struct numbered *n = arg;
    must(duet_loop_self() == n->order->loop);
    n->order->wrong += n->order->next++ != n->number;
    if (n->order->next == EACH)
        settle(n->order->all);
}

loops_test(a_future_has_callbacks_on_all_loops_in_order)
{
    struct in_order order[LOOPS];
    struct numbered numbered[LOOPS][EACH];
    duet_future *promise = open_promise();
    for (int i = 0; i < LOOPS; i++)
        order[i] = (struct in_order){.loop = l->at[i], .all = open_promise()};
    for (int k = 0; k < EACH; k++)
        for (int i = 0; i < LOOPS; i++) {
            numbered[i][k] = (struct numbered){&order[i], k};
            must_equal(duet_future_then(promise, l->at[i], come_in_order, &numbered[i][k], NULL),
                       0);
        }
    must_equal(finish(duet_submit(l->at[0], return_ok, NULL)).err, 0);
    settle(promise);
    for (int i = 0; i < LOOPS; i++) {
        must_equal(finish(order[i].all).err, 0);
        must_equal(order[i].wrong, 0);
    }
    duet_future_unref(promise);
}

/* ---- Circles ---- */

struct member {
    duet_future *go, *on;
    duet_deadline by;
    int rc;
};

static duet_result wait_for_next(void *arg)
{
    struct member *m = arg;
    must_equal(duet_future_wait(m->go, SURELY, NULL), 0);
    m->rc = duet_future_wait(m->on, m->by, NULL);
    return duet_ok();
}

/* n coroutines, each on a loop of its own, each waiting for the next; one has a deadline. */
static void circle(struct loops *l, int n, int victim)
{
    struct member m[LOOPS];
    duet_future *f[LOOPS], *go = open_promise();
    log_capture();
    for (int i = 0; i < n; i++) {
        m[i] = (struct member){.go = go, .by = i == victim ? duet_sec(100) : DUET_NEVER, .rc = 1};
        f[i] = duet_submit(l->at[i], wait_for_next, &m[i]);
    }
    for (int i = 0; i < n; i++)
        m[i].on = f[(i + 1) % n];
    settle(go);
    for (int i = 0; i < n; i++)
        must_equal(duet_future_wait(f[i], SURELY, NULL), 0);
    for (int i = 0; i < n; i++) {
        must_equal(m[i].rc, i == victim ? -EDEADLK : 0);
        duet_future_unref(f[i]); /* nobody waits for any of them now */
    }
    must(log_has("waits for"));
    log_release();
    duet_future_unref(go);
}

loops_test(a_circle_through_several_loops_is_told)
{
    for (int n = 2; n <= LOOPS; n++)
        for (int victim = 0; victim < n; victim++)
            circle(l, n, victim);
}

struct call_back {
    duet_loop *there;
    duet_future *first; /* the work that the last call waits for */
    duet_future *go;
    int depth, rc;
};

static duet_result call_until_circle(void *arg)
{
    struct call_back *c = arg;
    if (c->go)
        must_equal(duet_future_wait(c->go, SURELY, NULL), 0);
    if (c->depth == 0)
        return duet_err(duet_future_wait(c->first, DUET_NEVER, NULL));
    struct call_back next = {c->there, c->first, NULL, c->depth - 1, 0};
    duet_result r;
    int rc = duet_call(c->there, call_until_circle, &next, DUET_NEVER, &r);
    return duet_err(rc < 0 ? rc : r.err);
}

/* Calls from loop to loop, the last of which waits for the first caller. */
loops_test(calls_that_come_back_to_their_caller_are_told)
{
    for (int depth = 1; depth <= 3; depth++) {
        struct call_back c = {.there = l->at[1], .go = open_promise(), .depth = depth};
        log_capture();
        duet_future *f = duet_submit(l->at[0], call_until_circle, &c);
        c.first = f;
        settle(c.go);
        must_equal(finish(f).err, -EDEADLK);
        log_release();
        duet_future_unref(c.go);
    }
}

struct two_locks {
    duet_mutex *first, *second;
    duet_barrier *both;
    duet_deadline by;
    int rc;
};

static duet_result lock_both(void *arg)
{
    struct two_locks *t = arg;
    must_equal(duet_mutex_lock(t->first, SURELY), 0);
    must(duet_barrier_wait(t->both, SURELY) >= 0);
    t->rc = duet_mutex_lock(t->second, t->by);
    if (t->rc == 0)
        must_equal(duet_mutex_unlock(t->second), 0);
    must_equal(duet_mutex_unlock(t->first), 0);
    return duet_ok();
}

loops_test(two_locks_taken_crosswise_on_two_loops_are_told)
{
    duet_mutex a = DUET_MUTEX_INIT, b = DUET_MUTEX_INIT;
    duet_barrier both;
    must_equal(duet_barrier_init(&both, 2), 0);
    struct two_locks t[] = {{&a, &b, &both, duet_sec(100), 1}, {&b, &a, &both, DUET_NEVER, 1}};
    log_capture();
    duet_future *f[] = {duet_submit(l->at[0], lock_both, &t[0]),
                        duet_submit(l->at[1], lock_both, &t[1])};
    for (int i = 0; i < 2; i++)
        must_equal(finish(f[i]).err, 0);
    must_equal(t[0].rc, -EDEADLK);
    must_equal(t[1].rc, 0);
    log_release();
}

struct closing {
    duet_future *go;
    duet_loop *there;
    int rc;
};

static duet_result close_other(void *arg)
{
    struct closing *c = arg;
    must_equal(duet_future_wait(c->go, SURELY, NULL), 0);
    c->rc = duet_loop_close(c->there, DUET_NEVER);
    return duet_ok();
}

static void loops_close_in_a_ring(int n)
{
    duet_loop *loops[LOOPS];
    struct closing c[LOOPS];
    duet_future *f[LOOPS], *go = open_promise();
    int told = 0;
    for (int i = 0; i < n; i++)
        loops[i] = start_loop();
    for (int i = 0; i < n; i++) {
        c[i] = (struct closing){.go = go, .there = loops[(i + 1) % n], .rc = 1};
        f[i] = duet_submit(loops[i], close_other, &c[i]);
        must_equal(duet_call(loops[i], return_ok, NULL, SURELY, NULL), 0);
    }
    settle(go);
    for (int i = 0; i < n; i++)
        must_equal(finish(f[i]).err, 0);
    for (int i = 0; i < n; i++) {
        must(c[i].rc == 0 || c[i].rc == -EDEADLK);
        if (c[i].rc == 0)
            continue;
        told++;
        close_loop(c[i].there); /* it lives on */
    }
    must(told >= 1);
    duet_future_unref(go);
}

/* Coroutines that close each other's loops: at least one is told. */
thread_test(loops_that_close_each_other_are_told)
{
    log_capture();
    for (int n = 2; n <= LOOPS; n++)
        loops_close_in_a_ring(n);
    log_release();
}

/* ---- Groups ---- */

static duet_result count_up(void *count)
{
    must_equal(duet_yield(), 0);
    atomic_fetch_add((atomic_int *)count, 1);
    return duet_ok();
}

struct crew {
    struct loops *loops;
    duet_group group;
    atomic_int count;
    duet_sem asleep;
};

static duet_result group_counts(void *arg)
{
    struct crew *c = arg;
    duet_result r;
    for (int i = 0; i < 10 * LOOPS; i++)
        must_equal(duet_group_spawn(&c->group, c->loops->at[i % LOOPS], count_up, &c->count, NULL),
                   0);
    must_equal(duet_group_wait(&c->group, SURELY, &r), 0);
    must_equal(r.err, 0);
    must_equal(atomic_load(&c->count), 10 * LOOPS);
    must_equal(duet_group_close(&c->group), 0);
    return duet_ok();
}

loops_test(a_group_waits_for_members_on_several_loops)
{
    for (int i = 0; i < LOOPS; i++) {
        struct crew c = {.loops = l, .group = DUET_GROUP_INIT};
        must_equal(duet_call(l->at[i], group_counts, &c, SURELY, NULL), 0);
    }
    struct crew c = {.loops = l, .group = DUET_GROUP_INIT};
    (void)group_counts(&c); /* by a plain thread */
}

static duet_result sleep_and_count(void *arg)
{
    struct crew *c = arg;
    must_equal(duet_sem_post(&c->asleep), 0);
    int rc = duet_sleep(SURELY);
    atomic_fetch_add(&c->count, 1);
    return duet_err(rc);
}

static void crew_sleeps(struct crew *c)
{
    duet_sem_init(&c->asleep, 0);
    for (int i = 0; i < LOOPS; i++)
        must_equal(duet_group_spawn(&c->group, c->loops->at[i], sleep_and_count, c, NULL), 0);
    for (int i = 0; i < LOOPS; i++)
        must_equal(duet_sem_wait(&c->asleep, SURELY), 0);
}

loops_test(a_failure_cancels_the_members_on_all_loops)
{
    for (int i = 0; i < LOOPS; i++) {
        struct crew c = {.loops = l, .group = DUET_GROUP_INIT};
        duet_result r;
        crew_sleeps(&c);
        must_equal(duet_group_spawn(&c.group, l->at[i], fail_eio, NULL, NULL), 0);
        must_equal(duet_group_wait(&c.group, SURELY, &r), 0);
        must_equal(r.err, -EIO);
        must_equal(atomic_load(&c.count), LOOPS); /* all have run their clean-up */
        must_equal(duet_group_close(&c.group), 0);
    }
}

static duet_result close_group_at_once(void *arg)
{
    struct crew *c = arg;
    crew_sleeps(c);
    must_equal(duet_group_close(&c->group), 0);
    must_equal(atomic_load(&c->count), LOOPS);
    return duet_ok();
}

loops_test(closing_a_group_ends_its_members_on_all_loops)
{
    for (int i = 0; i < LOOPS; i++) {
        struct crew c = {.loops = l, .group = DUET_GROUP_INIT};
        must_equal(duet_call(l->at[i], close_group_at_once, &c, SURELY, NULL), 0);
    }
}

/* ---- What loops share ---- */

struct shared {
    duet_chan *chan, *quit;
    duet_mutex mutex;
    duet_cond cond;
    duet_sem sem;
    duet_event event;
    duet_barrier barrier;
    int items, plain; /* plain: guarded by the mutex */
    atomic_long sum;
    atomic_int inside, most;
};

static duet_result send_items(void *arg)
{
    struct shared *s = arg;
    for (int i = 1; i <= s->items; i++)
        must_equal(duet_chan_send(s->chan, &i, SURELY), 0);
    return duet_ok();
}

static duet_result receive_items(void *arg)
{
    struct shared *s = arg;
    int item, rc;
    while ((rc = duet_chan_recv(s->chan, &item, SURELY)) == 0)
        atomic_fetch_add(&s->sum, item);
    must_equal(rc, -EPIPE);
    return duet_ok();
}

static duet_result select_items(void *arg)
{
    struct shared *s = arg;
    int item;
    for (;;) {
        duet_case cases[] = {duet_case_recv(s->chan, &item), duet_case_recv(s->quit, NULL)};
        int chosen = duet_select(cases, 2, SURELY);
        must(chosen >= 0);
        if (cases[chosen].rc == -EPIPE)
            return duet_ok();
        must_equal(chosen, 0);
        atomic_fetch_add(&s->sum, item);
    }
}

static void items_cross(struct loops *l, size_t capacity, duet_fn *receive)
{
    struct shared s = {.items = test_rounds(500)};
    duet_future *senders[LOOPS], *receivers[LOOPS];
    must_equal(duet_chan_open(&s.chan, sizeof(int), capacity), 0);
    must_equal(duet_chan_open(&s.quit, 0, 1), 0);
    for (int i = 0; i < LOOPS; i++) {
        receivers[i] = duet_submit(l->at[i], receive, &s);
        senders[i] = duet_submit(l->at[i], send_items, &s);
    }
    for (int i = 0; i < LOOPS; i++)
        must_equal(finish(senders[i]).err, 0);
    duet_chan_shut(s.chan);
    for (int i = 0; i < LOOPS; i++)
        must_equal(finish(receivers[i]).err, 0);
    must_equal(atomic_load(&s.sum), (long)LOOPS * s.items * (s.items + 1) / 2);
    duet_chan_unref(s.chan);
    duet_chan_unref(s.quit);
}

loops_test(items_go_through_a_channel_between_loops_once_each)
{
    items_cross(l, 0, receive_items);
    items_cross(l, 1, receive_items);
    items_cross(l, 100, receive_items);
}

loops_test(coroutines_of_several_loops_select_items_once_each)
{
    items_cross(l, 0, select_items);
    items_cross(l, 3, select_items);
}

static duet_result count_under_lock(void *arg)
{
    struct shared *s = arg;
    for (int i = 0; i < s->items; i++) {
        must_equal(duet_mutex_lock(&s->mutex, SURELY), 0);
        int before = s->plain;
        if (i % 8 == 0)
            must_equal(duet_yield(), 0); /* holding it across a wait */
        s->plain = before + 1;
        must_equal(duet_mutex_unlock(&s->mutex), 0);
    }
    return duet_ok();
}

static void on_each_loop(struct loops *l, int each, duet_fn *fn, void *arg)
{
    duet_future *f[64];
    must(each * LOOPS <= 64);
    for (int i = 0; i < each * LOOPS; i++)
        f[i] = duet_submit(l->at[i % LOOPS], fn, arg);
    for (int i = 0; i < each * LOOPS; i++)
        must_equal(finish(f[i]).err, 0);
}

loops_test(a_mutex_excludes_coroutines_of_other_loops)
{
    struct shared s = {.items = test_rounds(300)};
    on_each_loop(l, 2, count_under_lock, &s);
    must_equal(s.plain, 2 * LOOPS * s.items);
}

static duet_result use_a_permit(void *arg)
{
    struct shared *s = arg;
    for (int i = 0; i < s->items; i++) {
        must_equal(duet_sem_wait(&s->sem, SURELY), 0);
        must(atomic_fetch_add(&s->inside, 1) < 3);
        must_equal(duet_yield(), 0);
        atomic_fetch_sub(&s->inside, 1);
        must_equal(duet_sem_post(&s->sem), 0);
    }
    return duet_ok();
}

loops_test(permits_bound_how_many_of_all_loops_are_inside)
{
    struct shared s = {.items = test_rounds(200)};
    duet_sem_init(&s.sem, 3);
    on_each_loop(l, 3, use_a_permit, &s);
    for (int i = 0; i < 3; i++)
        must_equal(duet_sem_wait(&s.sem, DUET_NOW), 0);
    must_equal(duet_sem_wait(&s.sem, DUET_NOW), -ETIME);
}

static duet_result meet_often(void *arg)
{
    struct shared *s = arg;
    for (int i = 0; i < s->items; i++) {
        int rc = duet_barrier_wait(&s->barrier, SURELY);
        must(rc == 0 || rc == 1);
        atomic_fetch_add(&s->sum, rc);
    }
    return duet_ok();
}

loops_test(coroutines_of_all_loops_meet_at_a_barrier)
{
    struct shared s = {.items = test_rounds(200)};
    must_equal(duet_barrier_init(&s.barrier, 2 * LOOPS), 0);
    on_each_loop(l, 2, meet_often, &s);
    must_equal(atomic_load(&s.sum), s.items); /* one of each round is told that it came last */
}

static duet_result take_turns(void *arg)
{
    struct shared *s = arg;
    must_equal(duet_mutex_lock(&s->mutex, SURELY), 0);
    int mine = s->plain++; /* a number each, in the order of their coming */
    while (atomic_load(&s->sum) != mine)
        must_equal(duet_cond_wait(&s->cond, &s->mutex, SURELY), 0);
    atomic_fetch_add(&s->sum, 1);
    duet_cond_broadcast(&s->cond);
    must_equal(duet_mutex_unlock(&s->mutex), 0);
    return duet_ok();
}

static duet_result await_event(void *arg)
{
    struct shared *s = arg;
    must_equal(duet_event_wait(&s->event, SURELY), 0);
    must_equal(s->plain, 42);
    return duet_ok();
}

static duet_result set_event(void *arg)
{
    struct shared *s = arg;
    s->plain = 42;
    duet_event_set(&s->event);
    return duet_ok();
}

loops_test(a_condition_and_an_event_reach_coroutines_of_all_loops)
{
    struct shared s = {.items = 0};
    on_each_loop(l, 8, take_turns, &s);
    must_equal(atomic_load(&s.sum), 8 * LOOPS);
    for (int i = 0; i < LOOPS; i++) {
        struct shared once = {.items = 0};
        duet_future *f[LOOPS];
        for (int k = 0; k < LOOPS; k++)
            f[k] = duet_submit(l->at[k], await_event, &once);
        must_equal(duet_call(l->at[i], set_event, &once, SURELY, NULL), 0);
        for (int k = 0; k < LOOPS; k++)
            must_equal(finish(f[k]).err, 0);
    }
}

struct relay {
    int in, out, rounds;
};

static duet_result relay_bytes(void *arg)
{
    struct relay *r = arg;
    char byte;
    for (int i = 0; i < r->rounds; i++) {
        must_equal(duet_read(r->in, &byte, 1, SURELY), 1);
        must_equal(duet_write(r->out, &byte, 1, SURELY), 1);
    }
    return duet_ok();
}

/* Each loop reads from the one before and writes to the next. */
loops_test(bytes_go_round_through_pipes_from_loop_to_loop)
{
    int fds[LOOPS][2], rounds = test_rounds(300);
    struct relay relays[LOOPS];
    duet_future *f[LOOPS];
    for (int i = 0; i < LOOPS; i++)
        must_equal(pipe(fds[i]), 0);
    for (int i = 0; i < LOOPS; i++) {
        relays[i] = (struct relay){fds[i][0], fds[(i + 1) % LOOPS][1], rounds};
        f[i] = duet_submit(l->at[i], relay_bytes, &relays[i]);
    }
    must_equal(write(fds[0][1], "x", 1), 1);
    for (int i = 0; i < LOOPS; i++)
        must_equal(finish(f[i]).err, 0);
    for (int i = 0; i < LOOPS; i++) {
        close(fds[i][0]);
        close(fds[i][1]);
    }
}

/* ---- Servers that share a port ---- */

static duet_result greet(duet_stream *s, void *arg)
{
    char name = *(char *)arg;
    return duet_err(duet_stream_write(s, &name, 1, SURELY));
}

struct service {
    duet_server_config config;
    char port[8], name;
    duet_server *server;
    duet_server_stats stats;
};

static duet_result open_service(void *arg)
{
    struct service *s = arg;
    struct sockaddr_storage addr;
    must_equal(duet_server_open(&s->server, &s->config), 0);
    must_equal(duet_server_address(s->server, &addr), 0);
    snprintf(s->port, sizeof s->port, "%u", ntohs(((struct sockaddr_in *)&addr)->sin_port));
    return duet_ok();
}

static duet_result serve(void *arg)
{
    struct service *s = arg;
    must_equal(duet_server_serve(s->server, SURELY), 0);
    must_equal(duet_server_close(s->server, SURELY), 0);
    return duet_ok();
}

static duet_result get_stats(void *arg)
{
    struct service *s = arg;
    duet_server_stats_get(s->server, &s->stats);
    return duet_ok();
}

struct clients {
    const char *port;
    atomic_int served[2];
    int each;
};

static duet_result connect_often(void *arg)
{
    struct clients *c = arg;
    for (int i = 0; i < c->each; i++) {
        duet_stream *stream;
        char name = 0;
        must_equal(duet_dial(&stream, "127.0.0.1", c->port, SURELY), 0);
        must_equal(duet_stream_read(stream, &name, 1, SURELY), 1);
        must(name == 'a' || name == 'b');
        atomic_fetch_add(&c->served[name - 'a'], 1);
        must_equal(duet_stream_close(stream, SURELY), 0);
    }
    return duet_ok();
}

loops_test(servers_on_two_loops_share_a_port)
{
    struct service s[2];
    duet_future *f[2];
    for (int i = 0; i < 2; i++) {
        s[i] = (struct service){.name = (char)('a' + i)};
        s[i].config = (duet_server_config){.handler = greet, .reuse_port = true};
        s[i].config.arg = &s[i].name;
        s[i].config.port = i > 0 ? s[0].port : NULL;
        must_equal(duet_call(l->at[i], open_service, &s[i], SURELY, NULL), 0);
        f[i] = duet_submit(l->at[i], serve, &s[i]);
    }
    must(strcmp(s[0].port, s[1].port) == 0);
    struct clients clients = {.port = s[0].port, .each = 8};
    on_each_loop(l, 2, connect_often, &clients); /* from the servers' own loops, too */
    int n = 2 * LOOPS * clients.each;
    must_equal(clients.served[0] + clients.served[1], n);
    must(clients.served[0] > 0 && clients.served[1] > 0); /* but for 1 in 2^63 */
    for (int i = 0; i < 2; i++) {
        must_equal(duet_call(l->at[i], get_stats, &s[i], SURELY, NULL), 0);
        must_equal(s[i].stats.accepted, clients.served[i]);
        must_equal(s[i].stats.failed, 0);
        duet_server_shut(s[i].server);
        must_equal(finish(f[i]).err, 0);
    }
}

/* ---- The end ---- */

/* Coroutines that call the loops, by chance, until none accepts any more. What was accepted ends
 * once: its argument is dropped once, and its caller told once. */
struct traffic {
    duet_loop *at[LOOPS]; /* referenced */
    atomic_int started, dropped, told, ran;
    atomic_bool closing;
};

struct parcel {
    struct traffic *traffic;
    uint64_t chance;
    int depth;
    atomic_int drops;
};

static void drop_parcel(void *arg)
{
    struct parcel *p = arg;
    must_equal(atomic_fetch_add(&p->drops, 1), 0);
    atomic_fetch_add(&p->traffic->dropped, 1);
}

static const duet_opts dropping = {.drop = drop_parcel};

static duet_result carry(void *arg);

/* One call or wait, by chance; its error, or the work's. */
static int send_on(struct parcel *p)
{
    struct traffic *t = p->traffic;
    struct parcel next = {.traffic = t, .chance = test_random(&p->chance), .depth = p->depth - 1};
    duet_loop *there = t->at[next.chance % LOOPS];
    duet_result r = duet_ok();
    atomic_fetch_add(&t->started, 1);
    int rc = duet_call_with(there, carry, &next, &dropping, SURELY, &r);
    must_equal(atomic_load(&next.drops), 1); /* it has ended, whatever was said */
    atomic_fetch_add(&t->told, 1);
    return rc < 0 ? rc : r.err;
}

static duet_result carry(void *arg)
{
    struct parcel *p = arg;
    int rc = 0;
    atomic_fetch_add(&p->traffic->ran, 1);
    for (int i = 0; i < 2 && rc == 0 && p->depth > 0; i++)
        rc = send_on(p);
    must(rc == 0 || rc == -ESHUTDOWN || rc == -ECANCELED);
    return duet_err(rc == 0 ? duet_yield() : rc);
}

static void send_until_shut(void *arg)
{
    struct parcel *p = arg;
    int rc, refused = 0;
    while (refused < 50 * LOOPS) { /* so often by chance: all of them are shut */
        rc = send_on(p);
        must(rc == 0 || rc == -ESHUTDOWN || rc == -ECANCELED);
        refused = rc == 0 ? 0 : atomic_load(&p->traffic->closing) ? refused + 1 : 0;
    }
}

/* All orders of four, by their number. */
static void order_of(int number, int order[LOOPS])
{
    int left[LOOPS] = {0, 1, 2, 3};
    for (int i = 0, n = LOOPS; i < LOOPS; i++, n--) {
        int k = number % n;
        number /= n;
        order[i] = left[k];
        memmove(&left[k], &left[k + 1], (size_t)(n - k - 1) * sizeof left[0]);
    }
}

static void traffic_open(struct traffic *t, struct loops *l)
{
    *t = (struct traffic){.started = 0};
    for (int i = 0; i < LOOPS; i++)
        t->at[i] = duet_loop_ref(l->at[i]);
}

static void traffic_close(struct traffic *t)
{
    must_equal(atomic_load(&t->dropped), atomic_load(&t->started));
    must_equal(atomic_load(&t->told), atomic_load(&t->started));
    must(atomic_load(&t->ran) <= atomic_load(&t->started));
    for (int i = 0; i < LOOPS; i++)
        duet_loop_unref(t->at[i]);
}

thread_test(loops_that_call_each_other_close_in_any_order)
{
    for (int number = 0; number < 24; number += (test_rounds(24) > 23 ? 1 : 5)) {
        struct loops l;
        struct traffic t;
        struct parcel p[3];
        struct thread threads[3];
        int order[LOOPS];
        loops_start(&l);
        traffic_open(&t, &l);
        order_of(number, order);
        for (int i = 0; i < 3; i++) {
            p[i] = (struct parcel){
                .traffic = &t, .chance = (uint64_t)(number * 3 + i + 1), .depth = 4};
            thread_start(&threads[i], send_until_shut, &p[i]);
        }
        while (atomic_load(&t.ran) < 100)
            sched_yield();
        atomic_store(&t.closing, true);
        for (int i = 0; i < LOOPS; i++)
            close_loop(l.at[order[i]]);
        for (int i = 0; i < 3; i++)
            thread_join(&threads[i]);
        traffic_close(&t);
    }
}

static void close_it(void *loop)
{
    close_loop(loop);
}

thread_test(loops_that_call_each_other_close_at_once)
{
    for (int round = test_rounds(20); round > 0; round--) {
        struct loops l;
        struct traffic t;
        struct parcel p = {.traffic = &t, .chance = (uint64_t)round, .depth = 4};
        struct thread sender, closers[LOOPS];
        loops_start(&l);
        traffic_open(&t, &l);
        thread_start(&sender, send_until_shut, &p);
        while (atomic_load(&t.ran) < 50)
            sched_yield();
        atomic_store(&t.closing, true);
        for (int i = 0; i < LOOPS; i++)
            thread_start(&closers[i], close_it, l.at[i]);
        for (int i = 0; i < LOOPS; i++)
            thread_join(&closers[i]);
        thread_join(&sender);
        traffic_close(&t);
    }
}

/* A loop that ends while coroutines of the others wait for its work: each of them is told. */
thread_test(who_waits_for_work_of_a_loop_that_closes_is_answered)
{
    for (int round = test_rounds(50); round > 0; round--) {
        struct loops l;
        duet_future *f[3 * LOOPS];
        loops_start(&l);
        duet_future *sleeper = duet_submit(l.at[0], sleep_long, NULL);
        for (int i = 0; i < 3 * LOOPS; i++)
            f[i] = duet_submit(l.at[1 + i % (LOOPS - 1)], wait_and_return, sleeper);
        close_loop(l.at[0]);
        for (int i = 0; i < 3 * LOOPS; i++)
            must_equal(finish(f[i]).err, -ECANCELED);
        must_equal(finish(sleeper).err, -ECANCELED);
        for (int i = 1; i < LOOPS; i++)
            close_loop(l.at[i]);
    }
}

static duet_result call_and_note(void *arg)
{
    struct hop *hop = arg;
    duet_result r = duet_ok();
    int rc = duet_call(hop->loops->at[1], sleep_long, NULL, SURELY, &r);
    must_equal(rc, -ECANCELED); /* the caller was cancelled, and its call ended with it */
    return duet_err(rc);
}

/* The caller's loop closes first: its call is cancelled there, and the other loop lives on. */
loops_test(closing_the_callers_loop_ends_what_it_called)
{
    for (int i = 0; i < 20; i++) {
        duet_loop *caller = start_loop();
        struct hop hop = {.loops = l};
        duet_future *f = duet_submit(caller, call_and_note, &hop);
        must_equal(duet_call(caller, return_ok, NULL, SURELY, NULL), 0);
        must_equal(duet_call(l->at[1], return_ok, NULL, SURELY, NULL), 0);
        close_loop(caller);
        must_equal(finish(f).err, -ECANCELED);
        must_equal(duet_call(l->at[1], return_ok, NULL, SURELY, NULL), 0);
    }
}

static duet_result sleep_briefly(void *arg)
{
    (void)arg;
    return duet_err(duet_sleep(duet_ms(20)));
}

thread_test(the_end_of_all_lets_the_work_of_all_loops_end)
{
    struct loops l;
    duet_future *f[LOOPS];
    duet_receipt *receipt = NULL;
    loops_start(&l);
    for (int i = 0; i < LOOPS; i++)
        f[i] = duet_submit(l.at[i], sleep_briefly, NULL);
    must_equal(duet_shutdown(SURELY, &receipt), 0);
    must(receipt == NULL || receipt->count == 0);
    duet_receipt_free(receipt);
    for (int i = 0; i < LOOPS; i++)
        must_equal(finish(f[i]).err, 0);
    loops_close(&l);
}

thread_test(many_loops_leak_no_descriptor_and_no_thread)
{
    int fds = count_fds(), threads = count_threads();
    for (int round = 0; round < 5; round++) {
        struct loops l;
        struct shared s = {.items = 10};
        loops_start(&l);
        on_each_loop(&l, 2, count_under_lock, &s);
        loops_close(&l);
        must_equal(count_fds(), fds);
    }
    await_threads(threads);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(more_loops_than_processors_run_at_once),
        cmocka_unit_test(threads_start_and_close_loops_at_the_same_time),
        cmocka_unit_test(coroutines_start_and_close_loops),
        cmocka_unit_test(a_ring_of_loops_calls_round),
        cmocka_unit_test(loops_share_a_pool_whose_jobs_call_them),
        cmocka_unit_test(one_future_is_awaited_on_all_loops_at_once),
        cmocka_unit_test(work_of_one_loop_is_awaited_and_cancelled_from_another),
        cmocka_unit_test(a_callback_of_a_future_runs_on_the_loop_that_it_names),
        cmocka_unit_test(a_future_has_callbacks_on_all_loops_in_order),
        cmocka_unit_test(a_circle_through_several_loops_is_told),
        cmocka_unit_test(calls_that_come_back_to_their_caller_are_told),
        cmocka_unit_test(two_locks_taken_crosswise_on_two_loops_are_told),
        cmocka_unit_test(loops_that_close_each_other_are_told),
        cmocka_unit_test(a_group_waits_for_members_on_several_loops),
        cmocka_unit_test(a_failure_cancels_the_members_on_all_loops),
        cmocka_unit_test(closing_a_group_ends_its_members_on_all_loops),
        cmocka_unit_test(items_go_through_a_channel_between_loops_once_each),
        cmocka_unit_test(coroutines_of_several_loops_select_items_once_each),
        cmocka_unit_test(a_mutex_excludes_coroutines_of_other_loops),
        cmocka_unit_test(permits_bound_how_many_of_all_loops_are_inside),
        cmocka_unit_test(coroutines_of_all_loops_meet_at_a_barrier),
        cmocka_unit_test(a_condition_and_an_event_reach_coroutines_of_all_loops),
        cmocka_unit_test(bytes_go_round_through_pipes_from_loop_to_loop),
        cmocka_unit_test(servers_on_two_loops_share_a_port),
        cmocka_unit_test(loops_that_call_each_other_close_in_any_order),
        cmocka_unit_test(loops_that_call_each_other_close_at_once),
        cmocka_unit_test(who_waits_for_work_of_a_loop_that_closes_is_answered),
        cmocka_unit_test(closing_the_callers_loop_ends_what_it_called),
        cmocka_unit_test(the_end_of_all_lets_the_work_of_all_loops_end),
        cmocka_unit_test(many_loops_leak_no_descriptor_and_no_thread),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
