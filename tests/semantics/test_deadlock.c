/* What base.h says of deadlock, and future.h of promises: a circle or a knot of waits is answered,
 * and nothing else is taken for one. The deadlines in a circle are later than those of the test's
 * own waits, by which an answer that does not come is noticed. */
#include "duet_test.h"
#include "shared.h"

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

/* A thread of the test sleeps outside of duet: the time in which a false alarm would come. */
static void nap(int ms)
{
    struct timespec rest = {.tv_nsec = ms * 1000000L};
    while (nanosleep(&rest, &rest) < 0)
        ;
}

/* Where work runs: as a coroutine on a loop, or as a job on a pool. */
struct place {
    duet_loop *loop;
    duet_pool *pool;
};

static duet_future *submit_at(const struct place *at, duet_fn *fn, void *arg, const duet_opts *opts)
{
    return at->loop ? duet_submit_with(at->loop, fn, arg, opts)
                    : duet_pool_submit_with(at->pool, fn, arg, opts);
}

enum {
    PLACES = 4
};

/* A loop, a pool, a loop and a pool. */
struct scene {
    struct place at[PLACES];
};

static void scene_open(struct scene *s)
{
    *s = (struct scene){{{.loop = start_loop()},
                         {.pool = open_pool(2)},
                         {.loop = start_loop()},
                         {.pool = open_pool(2)}}};
    log_capture();
}

static void scene_close(struct scene *s)
{
    log_release();
    for (int i = 0; i < PLACES; i++)
        if (s->at[i].loop)
            close_loop(s->at[i].loop);
        else
            close_pool(s->at[i].pool);
}

static bool a_chain_is_in_the_log(void)
{
    return log_has("waits for");
}

enum how {
    ONE,
    GATHER,
    ALL,
    ANY,
    FAILURE
};

/* A coroutine or job that waits once, and notes what the wait said. */
struct member {
    char name[24];
    struct place at;
    uint32_t flags;
    duet_future *go; /* if given, it waits for this first */
    enum how how; /* and then like this */
    duet_future *on[10]; /* for these, borrowed */
    size_t n;
    duet_deadline by;
    bool shielded, owns; /* owns: lets go of the first of them afterwards */
    struct gate *after; /* if given, it passes this afterwards */
    duet_future *f;
    int rc;
    size_t index;
    struct thread seen; /* its thread and its end, for thread_await_blocked() */
};

static int member_wait(struct member *m)
{
    switch (m->how) {
    case ONE:
        return duet_future_wait(m->on[0], m->by, NULL);
    case GATHER:
        return duet_gather(m->on, m->n, m->by, NULL);
    case ALL:
        return duet_future_wait_many(m->on, m->n, DUET_UNTIL_ALL, m->by, &m->index);
    case ANY:
        return duet_future_wait_many(m->on, m->n, DUET_UNTIL_ANY, m->by, &m->index);
    default:
        return duet_future_wait_many(m->on, m->n, DUET_UNTIL_FAILURE, m->by, &m->index);
    }
}

static duet_result member_run(void *arg)
{
    struct member *m = arg;
    atomic_store(&m->seen.tid, gettid());
    if (m->go) {
        int rc = duet_future_wait(m->go, DUET_NEVER, NULL);
        must(rc == 0 || rc == -ECANCELED);
    }
    if (m->shielded)
        duet_shield_begin();
    m->rc = member_wait(m);
    if (m->shielded)
        duet_shield_end();
    if (m->owns)
        duet_future_unref(m->on[0]);
    if (m->after)
        gate_pass(m->after);
    return m->rc == -ECANCELED ? duet_err(-ECANCELED) : duet_ok();
}

static void waits_for(struct member *m, duet_future *f)
{
    m->on[m->n++] = f;
}

static void start(struct member *m)
{
    m->f = submit_at(&m->at, member_run, m, &(duet_opts){.name = m->name, .flags = m->flags});
    m->seen.ended = m->f;
}

/* Until a member that was submitted by this thread sleeps in its first wait. */
static void await_asleep(struct member *m)
{
    if (m->at.loop) { /* it started before this call's coroutine, and ran until it slept */
        must_equal(duet_call(m->at.loop, return_ok, NULL, SURELY, NULL), 0);
        return;
    }
    thread_await_blocked(&m->seen);
    nap(1); /* it might have been at a lock on its way */
    thread_await_blocked(&m->seen);
}

static void start_asleep(struct member *m)
{
    start(m);
    await_asleep(m);
}

static void end_all(struct member *m, size_t n)
{
    for (size_t i = 0; i < n; i++)
        must_equal(duet_future_wait(m[i].f, SURELY, NULL), 0);
    for (size_t i = 0; i < n; i++)
        duet_future_unref(m[i].f);
}

/* All end, and only the victim, of whom the log tells, was answered with -EDEADLK. */
static void end_with_victim(struct member *m, size_t n, size_t victim)
{
    end_all(m, n);
    for (size_t i = 0; i < n; i++)
        must_equal(m[i].rc, i == victim ? -EDEADLK : 0);
    must(a_chain_is_in_the_log());
    must(n > 8 || log_has(m[victim].name)); /* what is kept of a line is not endless */
}

/* Deadlines that make one of several the earliest. */
static void hurry(struct member *m, size_t n, size_t victim)
{
    for (size_t i = 0; i < n; i++)
        m[i].by = i == victim ? duet_sec(100) : i % 2 ? DUET_NEVER : duet_sec(200 + (int64_t)i);
}

/* ---- Circles ---- */

static void ring_prepare(struct member *m, size_t n, const struct place *places, size_t n_places)
{
    for (size_t i = 0; i < n; i++) {
        m[i] = (struct member){.at = places[i % n_places], .by = DUET_NEVER};
        snprintf(m[i].name, sizeof m[i].name, "member-%d", (int)i);
    }
}

/* Each waits for the next and the last for the first, which waits only when the promise that this
 * returns is settled, with all others asleep: it closes the circle. */
static duet_future *ring_start(struct member *m, size_t n)
{
    m[0].go = open_promise();
    start_asleep(&m[0]);
    for (size_t i = n - 1; i > 0; i--) {
        waits_for(&m[i], m[(i + 1) % n].f);
        start_asleep(&m[i]);
    }
    waits_for(&m[0], m[1].f);
    return m[0].go;
}

static void ring_run(struct member *m, size_t n, size_t victim)
{
    log_capture();
    duet_future *go = ring_start(m, n);
    settle(go);
    end_with_victim(m, n, victim);
    duet_future_unref(go);
}

enum {
    RING_MAX = 50
};
static struct member ring[RING_MAX];

/* The earliest deadline at each position in turn. */
static void ring_with_each_victim(size_t n, const struct place *places, size_t n_places)
{
    for (size_t victim = 0; victim < n; victim++) {
        ring_prepare(ring, n, places, n_places);
        hurry(ring, n, victim);
        ring_run(ring, n, victim);
    }
}

/* Equal deadlines. */
static void ring_of_equals(size_t n, const struct place *places, size_t n_places)
{
    duet_deadline same = duet_sec(300);
    for (int finite = 0; finite < 2; finite++) {
        ring_prepare(ring, n, places, n_places);
        for (size_t i = 0; i < n; i++)
            ring[i].by = finite ? same : DUET_NEVER;
        ring_run(ring, n, 0);
    }
}

/* base.h: the one whose deadline is the earliest, wherever it sleeps; the others end normally. */
thread_test(of_two_coroutines_that_wait_for_each_other_the_earliest_deadline_is_told)
{
    struct scene s;
    scene_open(&s);
    ring_with_each_victim(2, s.at, 1);
    scene_close(&s);
}

thread_test(of_three_coroutines_in_a_ring_the_earliest_deadline_is_told)
{
    struct scene s;
    scene_open(&s);
    ring_with_each_victim(3, s.at, 1);
    scene_close(&s);
}

thread_test(of_fifty_coroutines_in_a_ring_the_earliest_deadline_is_told)
{
    struct scene s;
    scene_open(&s);
    ring_with_each_victim(RING_MAX, s.at, 1);
    scene_close(&s);
}

/* base.h: between equals, the one that closed it. */
thread_test(of_equal_deadlines_the_coroutine_that_closed_the_circle_is_told)
{
    struct scene s;
    scene_open(&s);
    ring_of_equals(2, s.at, 1);
    ring_of_equals(3, s.at, 1);
    ring_of_equals(RING_MAX, s.at, 1);
    scene_close(&s);
}

thread_test(of_a_coroutine_and_a_job_the_earliest_deadline_is_told)
{
    struct scene s;
    scene_open(&s);
    ring_with_each_victim(2, s.at, 2); /* the coroutine closes it */
    ring_with_each_victim(2, s.at + 1, 2); /* the job does */
    scene_close(&s);
}

thread_test(of_a_coroutine_and_a_job_with_equal_deadlines_the_closer_is_told)
{
    struct scene s;
    scene_open(&s);
    ring_of_equals(2, s.at, 2);
    ring_of_equals(2, s.at + 1, 2);
    scene_close(&s);
}

/* pool.h: also where only one may run, since a job that waits does not count. */
thread_test(two_jobs_of_one_pool_that_wait_for_each_other_get_an_answer)
{
    for (unsigned workers = 1; workers <= 3; workers++) {
        struct place pool = {.pool = open_pool(workers)};
        ring_with_each_victim(2, &pool, 1);
        ring_of_equals(2, &pool, 1);
        ring_with_each_victim(5, &pool, 1);
        log_release();
        close_pool(pool.pool);
    }
}

thread_test(jobs_of_two_pools_that_wait_for_each_other_get_an_answer)
{
    struct scene s;
    scene_open(&s);
    const struct place pools[] = {s.at[1], s.at[3]};
    ring_with_each_victim(2, pools, 2);
    ring_of_equals(2, pools, 2);
    ring_with_each_victim(6, pools, 2);
    scene_close(&s);
}

thread_test(coroutines_of_two_loops_that_wait_for_each_other_get_an_answer)
{
    struct scene s;
    scene_open(&s);
    const struct place loops[] = {s.at[0], s.at[2]};
    ring_with_each_victim(2, loops, 2);
    ring_of_equals(2, loops, 2);
    ring_with_each_victim(6, loops, 2);
    scene_close(&s);
}

thread_test(a_circle_through_two_loops_and_two_pools_gets_an_answer)
{
    struct scene s;
    scene_open(&s);
    ring_with_each_victim(PLACES * 2, s.at, PLACES);
    for (size_t first = 0; first < PLACES; first++) {
        const struct place turned[PLACES] = {s.at[first], s.at[(first + 1) % PLACES],
                                             s.at[(first + 2) % PLACES],
                                             s.at[(first + 3) % PLACES]};
        ring_of_equals(PLACES, turned, PLACES);
    }
    scene_close(&s);
}

/* The only thread there is becomes the loop's. */
coroutine_test(two_coroutines_of_the_main_thread_get_an_answer)
{
    static struct member two[2];
    memset(two, 0, sizeof two);
    log_capture();
    for (int i = 0; i < 2; i++) {
        snprintf(two[i].name, sizeof two[i].name, "spawned-%d", i);
        two[i].by = DUET_NEVER;
        two[i].f = duet_spawn_with(member_run, &two[i], &(duet_opts){.name = two[i].name});
    }
    waits_for(&two[0], two[1].f);
    waits_for(&two[1], two[0].f);
    end_with_victim(two, 2, 1); /* they start in this order */
    log_release();
    return duet_ok();
}

struct again {
    duet_future *go, *other;
    int told;
};

static duet_result wait_again_and_again(void *arg)
{
    struct again *again = arg;
    must_equal(duet_future_wait(again->go, DUET_NEVER, NULL), 0);
    while (again->told < 3) {
        must_equal(duet_future_wait(again->other, duet_sec(100), NULL), -EDEADLK);
        again->told++;
    }
    return duet_ok();
}

thread_test(who_waits_again_in_the_same_circle_is_told_again)
{
    struct scene s;
    scene_open(&s);
    for (size_t i = 0; i < PLACES; i++) {
        struct again again = {.go = open_promise()};
        struct member other = {.name = "patient", .at = s.at[(i + 1) % PLACES], .by = DUET_NEVER};
        duet_future *f = submit_at(&s.at[i], wait_again_and_again, &again, NULL);
        waits_for(&other, f);
        start_asleep(&other);
        again.other = other.f;
        settle(again.go);
        must_equal(duet_future_wait(f, SURELY, NULL), 0);
        end_all(&other, 1);
        must_equal(other.rc, 0);
        must_equal(again.told, 3);
        duet_future_unref(f);
        duet_future_unref(again.go);
    }
    scene_close(&s);
}

thread_test(two_circles_are_answered_each_for_itself)
{
    struct scene s;
    static struct member other[3];
    scene_open(&s);
    ring_prepare(ring, 3, s.at, PLACES);
    ring_prepare(other, 3, s.at + 1, PLACES - 1);
    hurry(ring, 3, 1);
    hurry(other, 3, 2);
    duet_future *go = ring_start(ring, 3), *other_go = ring_start(other, 3);
    settle(go);
    settle(other_go);
    end_with_victim(ring, 3, 1);
    end_with_victim(other, 3, 2);
    duet_future_unref(go);
    duet_future_unref(other_go);
    scene_close(&s);
}

thread_test(a_circle_that_also_waits_for_another_circle_is_answered_and_so_is_that)
{
    struct scene s;
    static struct member behind[2];
    scene_open(&s);
    ring_prepare(ring, 2, s.at, PLACES);
    ring_prepare(behind, 2, s.at + 2, 2);
    hurry(ring, 2, 0);
    hurry(behind, 2, 1);
    duet_future *go = ring_start(ring, 2), *behind_go = ring_start(behind, 2);
    behind[0].how = ALL;
    waits_for(&behind[0], ring[0].f);
    settle(behind_go);
    settle(go);
    end_with_victim(behind, 2, 1);
    end_with_victim(ring, 2, 0);
    duet_future_unref(go);
    duet_future_unref(behind_go);
    scene_close(&s);
}

/* base.h: the log names the chain. */
thread_test(the_log_names_the_chain)
{
    struct scene s;
    static const char *const chains[] = {
        "job 'report' (pool db) waits for coroutine 'fetch', which waits for job 'report' (pool "
        "db)",
        "coroutine 'fetch' waits for job 'report' (pool db), which waits for coroutine 'fetch'"};
    duet_pool *pool;
    must_equal(duet_pool_open(&pool, &(duet_pool_config){.name = "db", .workers_max = 1}), 0);
    scene_open(&s);
    struct member two[2] = {
        {.name = "report", .at = {.pool = pool}, .by = duet_sec(100)},
        {.name = "fetch", .at = s.at[0], .by = DUET_NEVER},
    };
    ring_run(two, 2, 0);
    must(log_has(chains[0]) || log_has(chains[1]));
    scene_close(&s);
    close_pool(pool);
}

/* ---- Behind a circle ---- */

struct behind {
    duet_future *f;
    duet_deadline by;
    int rc;
};

static void wait_behind(void *arg)
{
    struct behind *behind = arg;
    behind->rc = duet_future_wait(behind->f, behind->by, NULL);
}

/* base.h: only who is in the circle is told, be its deadline the latest. Nobody can wait for a
 * plain thread; so a thread is never in one. */
static void thread_behind_circle(const struct place *places, bool join_raw)
{
    struct behind behind = {.by = duet_sec(60)};
    struct thread thread;
    log_capture();
    ring_prepare(ring, 3, places, 2);
    hurry(ring, 3, 2);
    duet_future *go = ring_start(ring, 3);
    behind.f = ring[1].f;
    thread_start(&thread, wait_behind, &behind);
    thread_await_blocked(&thread);
    settle(go);
    if (join_raw) {
        must_equal(pthread_join(thread.id, NULL), 0);
        duet_future_unref(thread.ended);
    } else { /* its end is a promise: nobody in this process is awake now */
        thread_join(&thread);
    }
    must_equal(behind.rc, 0);
    end_with_victim(ring, 3, 2);
    duet_future_unref(go);
}

thread_test(a_thread_behind_a_circle_gets_its_result)
{
    struct scene s;
    scene_open(&s);
    for (size_t i = 0; i + 1 < PLACES; i++)
        thread_behind_circle(&s.at[i], true);
    scene_close(&s);
}

thread_test(who_waits_for_the_promise_of_a_thread_behind_a_circle_gets_its_result)
{
    struct scene s;
    scene_open(&s);
    for (size_t i = 0; i + 1 < PLACES; i++)
        thread_behind_circle(&s.at[i], false);
    scene_close(&s);
}

thread_test(coroutines_and_jobs_behind_a_circle_get_their_results)
{
    struct scene s;
    static struct member behind[PLACES * 2];
    scene_open(&s);
    ring_prepare(ring, 4, s.at, PLACES);
    hurry(ring, 4, 3);
    duet_future *go = ring_start(ring, 4);
    for (size_t i = 0; i < PLACES * 2; i++) { /* a chain whose end waits for the circle */
        behind[i] = (struct member){.name = "behind", .at = s.at[i % PLACES], .by = duet_sec(70)};
        waits_for(&behind[i], i ? behind[i - 1].f : ring[1].f);
        start_asleep(&behind[i]);
    }
    settle(go);
    end_all(behind, PLACES * 2);
    for (size_t i = 0; i < PLACES * 2; i++)
        must_equal(behind[i].rc, 0);
    end_with_victim(ring, 4, 3);
    duet_future_unref(go);
    scene_close(&s);
}

/* ---- Waits for several ---- */

/* Something that lives until the test opens its gate. */
struct live {
    struct gate gate;
    duet_pool *pool;
    duet_future *f;
};

static duet_result pass_and_fail(void *gate)
{
    gate_pass(gate);
    return duet_err(-EIO);
}

static void live_start(struct live *live, duet_fn *fn)
{
    live->gate = (struct gate)GATE_INIT;
    live->pool = open_pool(1);
    live->f = duet_pool_submit(live->pool, fn, &live->gate);
    gate_await_arrivals(&live->gate, 1);
}

static void live_end(struct live *live)
{
    gate_open(&live->gate);
    must_equal(duet_future_wait(live->f, SURELY, NULL), 0);
}

static void live_close(struct live *live)
{
    duet_future_unref(live->f);
    close_pool(live->pool);
}

/* m[0] waits so for what lives and for m[1], which waits for m[0]. Not closed yet: m[0] waits for
 * the promise that this returns. */
static duet_future *beside_live(struct member *m, const struct place *places, enum how how,
                                duet_future *live, size_t victim)
{
    ring_prepare(m, 2, places, 2);
    hurry(m, 2, victim);
    m[0].how = how;
    waits_for(&m[0], live);
    return ring_start(m, 2);
}

/* base.h: a wait for all is in the circle, whatever the first of the list does. */
static void all_with_a_live_one_first(enum how how)
{
    struct scene s;
    scene_open(&s);
    for (size_t i = 0; i + 1 < PLACES; i++)
        for (size_t victim = 0; victim < 2; victim++) {
            struct live live;
            struct member m[2];
            log_capture();
            live_start(&live, gate_pass_job);
            duet_future *go = beside_live(m, &s.at[i], how, live.f, victim);
            settle(go);
            must_equal(duet_future_wait(m[victim].f, SURELY, NULL), 0);
            must(!duet_future_settled(live.f));
            must_equal(m[victim].rc, -EDEADLK);
            live_end(&live);
            end_with_victim(m, 2, victim);
            live_close(&live);
            duet_future_unref(go);
        }
    scene_close(&s);
}

thread_test(a_gather_closes_a_circle_though_the_first_of_its_list_lives)
{
    all_with_a_live_one_first(GATHER);
}

thread_test(a_wait_for_all_closes_a_circle_though_the_first_of_its_list_lives)
{
    all_with_a_live_one_first(ALL);
}

thread_test(a_wait_for_any_is_no_deadlock_while_one_lives)
{
    struct scene s;
    scene_open(&s);
    for (size_t i = 0; i + 1 < PLACES; i++) {
        struct live live;
        struct member m[2];
        live_start(&live, gate_pass_job);
        duet_future *go = beside_live(m, &s.at[i], ANY, live.f, i % 2);
        settle(go);
        nap(50);
        must(!duet_future_settled(m[0].f) && !duet_future_settled(m[1].f));
        live_end(&live);
        end_all(m, 2);
        must_equal(m[0].rc, 0);
        must_equal(m[0].index, 0);
        must_equal(m[1].rc, 0);
        live_close(&live);
        duet_future_unref(go);
    }
    must(!a_chain_is_in_the_log());
    scene_close(&s);
}

/* future.h: somebody may still settle a promise. */
thread_test(a_wait_for_any_of_a_circle_and_a_promise_is_no_deadlock)
{
    struct scene s;
    duet_future *promise = open_promise();
    struct member m[2];
    scene_open(&s);
    duet_future *go = beside_live(m, s.at, ANY, promise, 0);
    settle(go);
    nap(50);
    must(!duet_future_settled(m[0].f) && !duet_future_settled(m[1].f));
    settle(promise);
    end_all(m, 2);
    must_equal(m[0].rc, 0);
    must_equal(m[0].index, 0);
    must_equal(m[1].rc, 0);
    must(!a_chain_is_in_the_log());
    duet_future_unref(go);
    duet_future_unref(promise);
    scene_close(&s);
}

enum {
    KNOT = 4
};

/* m[0] waits so for all others, each of which waits for it; it is the last to wait. */
static duet_future *knot_start(struct member *m, enum how how)
{
    m[0].how = how;
    m[0].go = open_promise();
    start_asleep(&m[0]);
    for (size_t i = 1; i < KNOT; i++) {
        waits_for(&m[i], m[0].f);
        start_asleep(&m[i]);
        waits_for(&m[0], m[i].f);
    }
    return m[0].go;
}

/* base.h: where a wait is for any of several, a knot. */
thread_test(a_wait_for_any_is_in_a_knot_when_all_are)
{
    struct scene s;
    scene_open(&s);
    for (size_t victim = 0; victim < KNOT; victim++) {
        struct member m[KNOT];
        log_capture();
        ring_prepare(m, KNOT, s.at, PLACES);
        hurry(m, KNOT, victim);
        duet_future *go = knot_start(m, ANY);
        settle(go);
        end_with_victim(m, KNOT, victim);
        if (victim > 0)
            must_equal(m[0].index, victim - 1);
        duet_future_unref(go);
    }
    scene_close(&s);
}

/* Those who are left then still wait for the first and it for them, with the next deadline. */
thread_test(a_wait_until_failure_is_in_a_knot_when_all_are)
{
    struct scene s;
    scene_open(&s);
    for (size_t victim = 0; victim < KNOT; victim++) {
        struct member m[KNOT];
        log_capture();
        ring_prepare(m, KNOT, s.at, PLACES);
        hurry(m, KNOT, victim);
        duet_future *go = knot_start(m, FAILURE);
        settle(go);
        end_all(m, KNOT);
        for (size_t i = 0; i < KNOT; i++)
            must_equal(m[i].rc, i == victim || i == 0 ? -EDEADLK : 0);
        must(a_chain_is_in_the_log());
        duet_future_unref(go);
    }
    scene_close(&s);
}

/* It is in three circles: told in the first of them, or the last of all. */
thread_test(a_wait_for_all_is_in_every_circle_of_its_list)
{
    struct scene s;
    scene_open(&s);
    for (int first = 0; first < 2; first++)
        for (enum how how = GATHER; how <= ALL; how++) {
            struct member m[KNOT];
            log_capture();
            ring_prepare(m, KNOT, s.at, PLACES);
            for (size_t i = 1; i < KNOT; i++)
                m[i].by = duet_sec(100 + (int64_t)i);
            if (first)
                m[0].by = duet_sec(100);
            duet_future *go = knot_start(m, how);
            settle(go);
            end_all(m, KNOT);
            for (size_t i = 0; i < KNOT; i++)
                must_equal(m[i].rc, (i == 0) == first ? -EDEADLK : 0);
            must(a_chain_is_in_the_log());
            duet_future_unref(go);
        }
    scene_close(&s);
}

/* Three wait for each other, each in its way. Nobody but m[1] has the earliest deadline in a knot,
 * since the waits for any and for a failure need all three; when it has ended, m[2] and m[0] still
 * wait for each other, which has to be noticed without a new wait. */
static duet_future *left_start(struct member *m, const struct place *places, size_t first)
{
    ring_prepare(m, 3, places, 2);
    m[0].how = FAILURE;
    m[1].how = ANY;
    m[2].how = ALL;
    m[1].by = duet_sec(105);
    m[2].by = duet_sec(150);
    m[0].go = open_promise();
    for (size_t i = 0; i < 3; i++) {
        m[i].go = m[0].go;
        start_asleep(&m[i]);
    }
    for (size_t i = 0; i < 3; i++) { /* each for both others, in either order */
        waits_for(&m[i], m[(i + first) % 3].f);
        waits_for(&m[i], m[(i + 3 - first) % 3].f);
    }
    return m[0].go;
}

thread_test(what_is_left_of_a_knot_when_one_was_told_is_answered_too)
{
    struct scene s;
    scene_open(&s);
    for (size_t i = 0; i < 30; i++) {
        struct member m[3];
        log_capture();
        duet_future *go = left_start(m, &s.at[i % 3], 1 + i % 2);
        settle(go);
        end_all(m, 3);
        must_equal(m[0].rc, 0);
        must_equal(m[1].rc, -EDEADLK);
        must_equal(m[2].rc, -EDEADLK);
        duet_future_unref(go);
    }
    scene_close(&s);
}

/* Three wait for all of their list: two circles with m[0] in both, which is told in one of them or
 * in the other. Who stands behind is not, be it the first to notice what is left. */
thread_test(who_waits_for_what_is_left_of_several_circles_is_not_told)
{
    struct scene s;
    scene_open(&s);
    for (size_t i = 0; i < 30; i++) {
        struct member m[3], behind[2];
        log_capture();
        ring_prepare(m, 3, &s.at[i % 3], 2);
        m[0].how = m[2].how = ALL;
        m[0].by = duet_sec(150);
        m[2].by = duet_sec(105);
        m[0].go = m[1].go = m[2].go = open_promise();
        for (size_t k = 0; k < 3; k++)
            start_asleep(&m[k]);
        waits_for(&m[0], m[2].f);
        waits_for(&m[0], m[1].f);
        waits_for(&m[1], m[0].f);
        waits_for(&m[2], m[1].f);
        waits_for(&m[2], m[0].f);
        ring_prepare(behind, 2, &s.at[(i + 1) % 3], 2);
        for (size_t k = 0; k < 2; k++) {
            behind[k].by = duet_sec(70);
            waits_for(&behind[k], m[k].f);
        }
        settle(m[0].go);
        for (size_t k = 0; k < 2; k++)
            start(&behind[k]);
        end_all(behind, 2);
        for (size_t k = 0; k < 2; k++)
            must_equal(behind[k].rc, 0);
        end_all(m, 3);
        must_equal(m[0].rc, -EDEADLK);
        must_equal(m[1].rc, 0);
        must(m[2].rc == 0 || m[2].rc == -EDEADLK);
        duet_future_unref(m[0].go);
    }
    scene_close(&s);
}

/* The last that lives comes to wait for the others. */
thread_test(a_wait_for_any_is_in_a_knot_when_the_last_live_one_waits_too)
{
    struct scene s;
    scene_open(&s);
    for (size_t victim = 0; victim < 3; victim++) {
        struct member m[3];
        log_capture();
        ring_prepare(m, 3, s.at, PLACES);
        hurry(m, 3, victim);
        m[0].how = ANY;
        m[0].go = open_promise();
        m[2].go = open_promise();
        start(&m[2]);
        start(&m[0]);
        waits_for(&m[2], m[0].f);
        waits_for(&m[1], m[0].f);
        start_asleep(&m[1]);
        waits_for(&m[0], m[1].f);
        waits_for(&m[0], m[2].f);
        settle(m[0].go);
        nap(20);
        for (size_t i = 0; i < 3; i++)
            must(!duet_future_settled(m[i].f));
        settle(m[2].go);
        end_with_victim(m, 3, victim);
        duet_future_unref(m[0].go);
        duet_future_unref(m[2].go);
    }
    scene_close(&s);
}

/* base.h: two knots, of which one waits for any of both: only out of the other nothing can come. */
thread_test(who_waits_for_any_of_a_circle_is_not_in_it)
{
    struct scene s;
    struct member m[2];
    scene_open(&s);
    ring_prepare(ring, 2, s.at, PLACES);
    hurry(ring, 2, 1);
    duet_future *ring_go = ring_start(ring, 2);
    ring_prepare(m, 2, s.at + 2, 2);
    for (size_t i = 0; i < 2; i++)
        m[i].by = duet_sec(70 + (int64_t)i); /* before all in the ring */
    m[0].how = ANY;
    waits_for(&m[0], ring[0].f);
    duet_future *go = ring_start(m, 2);
    settle(go);
    settle(ring_go);
    end_all(m, 2);
    must_equal(m[0].rc, 0);
    must_equal(m[1].rc, 0);
    end_with_victim(ring, 2, 1);
    duet_future_unref(go);
    duet_future_unref(ring_go);
    scene_close(&s);
}

thread_test(a_wait_until_failure_goes_on_while_one_lives_that_may_fail)
{
    struct scene s;
    scene_open(&s);
    for (size_t i = 0; i + 1 < PLACES; i++) {
        struct live live;
        struct member m[2];
        live_start(&live, pass_and_fail);
        duet_future *go = beside_live(m, &s.at[i], FAILURE, live.f, i % 2);
        settle(go);
        nap(50);
        must(!duet_future_settled(m[0].f) && !duet_future_settled(m[1].f));
        live_end(&live);
        end_all(m, 2);
        must_equal(m[0].rc, 0);
        must_equal(m[0].index, 0);
        must_equal(m[1].rc, 0);
        live_close(&live);
        duet_future_unref(go);
    }
    must(!a_chain_is_in_the_log());
    scene_close(&s);
}

/* Then only the stuck are left. */
thread_test(a_wait_until_failure_is_a_deadlock_when_the_live_one_ends_well)
{
    struct scene s;
    scene_open(&s);
    for (size_t i = 0; i + 1 < PLACES; i++)
        for (size_t victim = 0; victim < 2; victim++) {
            struct live live;
            struct member m[2];
            log_capture();
            live_start(&live, gate_pass_job);
            duet_future *go = beside_live(m, &s.at[i], FAILURE, live.f, victim);
            settle(go);
            nap(20);
            must(!duet_future_settled(m[0].f) && !duet_future_settled(m[1].f));
            live_end(&live);
            end_with_victim(m, 2, victim);
            if (victim == 1)
                must_equal(m[0].index, 2);
            live_close(&live);
            duet_future_unref(go);
        }
    scene_close(&s);
}

/* ---- Waits that are over, but have not come back ---- */

/* A coroutine that keeps its loop's thread at a gate, so that no other one there goes on. */
struct busy {
    struct gate gate;
    duet_future *f;
};

static void busy_start(struct busy *busy, duet_loop *loop)
{
    busy->gate = (struct gate)GATE_INIT;
    busy->f = duet_submit(loop, gate_pass_job, &busy->gate);
    gate_await_arrivals(&busy->gate, 1);
}

static void busy_end(struct busy *busy)
{
    gate_open(&busy->gate);
    must_equal(finish(busy->f).err, 0);
}

enum under_way {
    TOLD, /* the answer has been given, but the one who gets it cannot go on yet */
    RUNS, /* it goes on, but has not ended */
    OVER /* it has ended, but the one who waited for that cannot go on yet */
};

/* base.h: the one that was told goes on, and so will all others. Meanwhile come one who waits so
 * for two of the circle, and two who wait for each other, one of them for any of the other and the
 * circle. */
static void come_while(enum under_way under_way, enum how how, const struct scene *s)
{
    const struct place places[3] = {s->at[1], s->at[2], s->at[3]}; /* 1 is on the busy loop */
    const size_t victim = under_way == TOLD ? 1 : 2;
    struct busy busy;
    struct gate gate = GATE_INIT;
    struct member m[3], late[3];
    ring_prepare(m, 3, places, 3);
    hurry(m, 3, victim);
    m[victim].after = &gate;
    duet_future *go = ring_start(m, 3), *late_go = open_promise();
    for (size_t i = 0; i < 3; i++)
        late[i] =
            (struct member){.name = "late", .at = s->at[i % 2], .by = duet_sec(70 + (int64_t)i)};
    log_capture();
    if (under_way == TOLD)
        busy_start(&busy, s->at[2].loop);
    settle(go);
    if (under_way == TOLD) {
        gate_open(&gate);
        nap(10); /* until it is on its way; without, all the same would have to come */
    } else {
        gate_await_arrivals(&gate, 1);
        busy_start(&busy, s->at[2].loop);
    }
    if (under_way == OVER) {
        gate_open(&gate);
        must_equal(error_of(m[victim].f), 0);
    }
    late[0].how = how;
    waits_for(&late[0], m[1].f);
    waits_for(&late[0], m[0].f);
    start_asleep(&late[0]);
    late[1].go = late_go;
    start(&late[1]);
    waits_for(&late[2], late[1].f);
    start_asleep(&late[2]);
    late[1].how = ANY;
    waits_for(&late[1], m[1].f);
    waits_for(&late[1], late[2].f);
    settle(late_go);
    must_equal(duet_future_wait(m[0].f, duet_ms(10), NULL), -ETIME);
    for (size_t i = 0; i < 3; i++)
        must(!duet_future_settled(late[i].f));
    gate_open(&gate);
    busy_end(&busy);
    for (size_t i = 0; i < 3; i++)
        must_equal(error_of(m[i].f), 0);
    end_all(late, 3);
    for (size_t i = 0; i < 3; i++)
        must_equal(late[i].rc, 0);
    must_equal(late[1].index, 0);
    end_with_victim(m, 3, victim);
    duet_future_unref(go);
    duet_future_unref(late_go);
}

static void come_while_each(enum under_way under_way)
{
    struct scene s;
    scene_open(&s);
    for (enum how how = ONE; how <= FAILURE; how++)
        come_while(under_way, how, &s);
    scene_close(&s);
}

thread_test(who_comes_to_wait_while_the_answer_is_on_its_way_is_not_told)
{
    come_while_each(TOLD);
}

thread_test(who_comes_to_wait_while_the_one_that_was_told_goes_on_is_not_told)
{
    come_while_each(RUNS);
}

thread_test(who_comes_to_wait_while_the_circle_falls_apart_is_not_told)
{
    come_while_each(OVER);
}

/* base.h: wherever it sleeps, as soon as the loops of those in the circle turn. */
thread_test(a_circle_is_answered_once_the_loop_of_another_member_turns)
{
    struct scene s;
    struct busy busy;
    struct member m[3];
    scene_open(&s);
    ring_prepare(m, 3, s.at + 1, 3); /* a job, a coroutine, a job */
    hurry(m, 3, 2);
    duet_future *go = ring_start(m, 3);
    busy_start(&busy, s.at[2].loop);
    settle(go);
    busy_end(&busy);
    must_equal(error_of(m[2].f), 0);
    must_equal(m[2].rc, -EDEADLK);
    end_with_victim(m, 3, 2);
    duet_future_unref(go);
    scene_close(&s);
}

/* The wait for any has its answer, and does not wait for the other one any more. */
thread_test(who_waits_for_one_whose_wait_for_any_has_its_answer_is_not_told)
{
    struct scene s;
    struct live live;
    struct busy busy;
    scene_open(&s);
    struct member first = {.name = "first", .at = s.at[0], .how = ANY, .by = DUET_NEVER};
    struct member other = {
        .name = "other", .at = s.at[1], .go = open_promise(), .by = duet_sec(100)};
    live_start(&live, gate_pass_job);
    start_asleep(&other);
    waits_for(&first, live.f);
    waits_for(&first, other.f);
    start_asleep(&first);
    busy_start(&busy, s.at[0].loop);
    live_end(&live);
    waits_for(&other, first.f);
    settle(other.go);
    nap(20);
    must(!duet_future_settled(other.f));
    busy_end(&busy);
    must_equal(error_of(other.f), 0); /* each borrows the other's handle */
    end_all(&first, 1);
    end_all(&other, 1);
    must_equal(first.rc, 0);
    must_equal(first.index, 0);
    must_equal(other.rc, 0);
    must(!a_chain_is_in_the_log());
    duet_future_unref(other.go);
    live_close(&live);
    scene_close(&s);
}

thread_test(who_waits_for_one_whose_wait_was_cancelled_is_not_told)
{
    struct scene s;
    struct busy busy;
    scene_open(&s);
    struct member first = {.name = "first", .at = s.at[0], .by = DUET_NEVER};
    struct member other = {
        .name = "other", .at = s.at[1], .go = open_promise(), .by = duet_sec(100)};
    start_asleep(&other);
    waits_for(&first, other.f);
    start_asleep(&first);
    busy_start(&busy, s.at[0].loop);
    duet_future_cancel(first.f);
    waits_for(&other, first.f);
    settle(other.go);
    nap(20);
    must(!duet_future_settled(other.f));
    busy_end(&busy);
    must_equal(error_of(other.f), 0); /* each borrows the other's handle */
    end_all(&first, 1);
    end_all(&other, 1);
    must_equal(first.rc, -ECANCELED);
    must_equal(other.rc, 0);
    must(!a_chain_is_in_the_log());
    duet_future_unref(other.go);
    scene_close(&s);
}

/* ---- Groups ---- */

struct family {
    struct place at; /* of the child */
    duet_future *go, *parent, *started;
    duet_deadline parent_by, child_by;
    bool close, shielded;
    int parent_rc, child_rc;
};

static duet_result child_run(void *arg)
{
    struct family *family = arg;
    if (family->shielded)
        duet_shield_begin();
    settle(family->started);
    family->child_rc = duet_future_wait(family->parent, family->child_by, NULL);
    if (family->shielded)
        duet_shield_end();
    return family->child_rc == -ECANCELED ? duet_err(-ECANCELED) : duet_ok();
}

static duet_result parent_run(void *arg)
{
    struct family *family = arg;
    duet_group group = DUET_GROUP_INIT;
    must_equal(duet_future_wait(family->go, DUET_NEVER, NULL), 0);
    if (family->at.loop)
        must_equal(duet_group_spawn(&group, family->at.loop, child_run, family,
                                    &(duet_opts){.name = "child"}),
                   0);
    else
        duet_group_add(&group, duet_pool_submit_with(family->at.pool, child_run, family,
                                                     &(duet_opts){.name = "child"}));
    must_equal(duet_future_wait(family->started, SURELY, NULL), 0); /* else a close keeps it away */
    family->parent_rc =
        family->close ? duet_group_close(&group) : duet_group_wait(&group, family->parent_by, NULL);
    must_equal(duet_group_close(&group), 0);
    return duet_ok();
}

static void family_run(struct family *family, const struct place *parent_at)
{
    log_capture();
    family->go = open_promise();
    family->started = open_promise();
    family->parent = submit_at(parent_at, parent_run, family, &(duet_opts){.name = "parent"});
    settle(family->go);
    must_equal(finish(family->parent).err, 0);
    duet_future_unref(family->go);
    duet_future_unref(family->started);
    must(log_has("'parent'") && log_has("'child'"));
}

thread_test(a_child_that_waits_for_its_parent_is_told_if_its_deadline_is_the_earlier)
{
    struct scene s;
    scene_open(&s);
    for (int i = 0; i < PLACES; i++) {
        struct family family = {.at = s.at[i], .parent_by = DUET_NEVER, .child_by = duet_sec(100)};
        family_run(&family, &s.at[0]);
        must_equal(family.child_rc, -EDEADLK);
        must_equal(family.parent_rc, 0);
    }
    scene_close(&s);
}

/* The group's close then cancels the child. */
thread_test(a_parent_that_waits_for_its_group_is_told_if_its_deadline_is_the_earlier)
{
    struct scene s;
    scene_open(&s);
    for (int i = 0; i < PLACES; i++) {
        struct family family = {.at = s.at[i], .parent_by = duet_sec(100), .child_by = DUET_NEVER};
        family_run(&family, &s.at[0]);
        must_equal(family.parent_rc, -EDEADLK);
        must_equal(family.child_rc, -ECANCELED);
    }
    scene_close(&s);
}

thread_test(a_job_may_be_the_parent_in_the_circle)
{
    struct scene s;
    scene_open(&s);
    for (int i = 0; i < PLACES; i += 2) {
        struct family family = {.at = s.at[i], .parent_by = DUET_NEVER, .child_by = duet_sec(100)};
        family_run(&family, &s.at[1]);
        must_equal(family.child_rc, -EDEADLK);
        must_equal(family.parent_rc, 0);
    }
    scene_close(&s);
}

/* base.h: a close is passed over; and a shield does not hold back this answer. */
thread_test(a_shielded_child_that_waits_for_the_parent_that_closes_its_group_is_told)
{
    struct scene s;
    scene_open(&s);
    for (int i = 0; i < PLACES; i++) {
        struct family family = {
            .at = s.at[i], .child_by = DUET_NEVER, .close = true, .shielded = true};
        family_run(&family, &s.at[0]);
        must_equal(family.child_rc, -EDEADLK);
        must_equal(family.parent_rc, 0);
    }
    scene_close(&s);
}

/* ---- Calls ---- */

struct call {
    struct place callee_at;
    duet_future *go, *caller;
    duet_deadline call_by, callee_by;
    bool shielded;
    int call_rc, callee_rc;
    duet_result result;
    atomic_bool callee_ended;
};

static duet_result callee_run(void *arg)
{
    struct call *call = arg;
    if (call->shielded)
        duet_shield_begin();
    call->callee_rc = duet_future_wait(call->caller, call->callee_by, NULL);
    if (call->shielded)
        duet_shield_end();
    atomic_store(&call->callee_ended, true);
    return duet_cancelled() ? duet_err(-ECANCELED) : duet_i64(7);
}

static duet_result caller_run(void *arg)
{
    struct call *call = arg;
    const duet_opts opts = {.name = "callee"};
    must_equal(duet_future_wait(call->go, DUET_NEVER, NULL), 0);
    if (call->callee_at.loop)
        call->call_rc = duet_call_with(call->callee_at.loop, callee_run, call, &opts, call->call_by,
                                       &call->result);
    else
        call->call_rc = duet_offload_with(call->callee_at.pool, callee_run, call, &opts,
                                          call->call_by, &call->result);
    must(atomic_load(&call->callee_ended));
    return duet_ok();
}

static void call_run(struct call *call, const struct place *caller_at)
{
    log_capture();
    call->go = open_promise();
    call->caller = submit_at(caller_at, caller_run, call, &(duet_opts){.name = "caller"});
    settle(call->go);
    must_equal(finish(call->caller).err, 0);
    duet_future_unref(call->go);
    must(log_has("'caller'") && log_has("'callee'"));
}

/* bridge.h: it cancels what it called, and returns after that has ended. */
thread_test(a_caller_whose_callee_waits_for_it_is_told_after_the_callees_end)
{
    struct scene s;
    scene_open(&s);
    for (int i = 0; i < PLACES * PLACES; i++) {
        struct call call = {.callee_at = s.at[i % PLACES],
                            .call_by = duet_sec(100),
                            .callee_by = i % 2 ? DUET_NEVER : duet_sec(200)};
        call_run(&call, &s.at[i / PLACES]);
        must_equal(call.call_rc, -EDEADLK);
        must_equal(call.callee_rc, -ECANCELED);
    }
    scene_close(&s);
}

thread_test(a_callee_that_waits_for_its_caller_is_told_and_its_result_arrives)
{
    struct scene s;
    scene_open(&s);
    for (int i = 0; i < PLACES * PLACES; i++) {
        struct call call = {.callee_at = s.at[i % PLACES],
                            .call_by = i % 2 ? DUET_NEVER : duet_sec(200),
                            .callee_by = duet_sec(100)};
        call_run(&call, &s.at[i / PLACES]);
        must_equal(call.callee_rc, -EDEADLK);
        must_equal(call.call_rc, 0);
        must_equal(duet_as_i64(call.result), 7);
    }
    scene_close(&s);
}

/* On one loop the caller sleeps before the callee starts. */
thread_test(of_equal_deadlines_the_callee_is_told)
{
    struct scene s;
    scene_open(&s);
    struct call call = {.callee_at = s.at[0], .call_by = DUET_NEVER, .callee_by = DUET_NEVER};
    call_run(&call, &s.at[0]);
    must_equal(call.callee_rc, -EDEADLK);
    must_equal(call.call_rc, 0);
    scene_close(&s);
}

/* The caller is told first; then it waits for the end of what it called, which is passed over. */
thread_test(the_end_of_a_call_is_passed_over_and_the_shielded_callee_told)
{
    struct scene s;
    scene_open(&s);
    for (int i = 0; i < PLACES * PLACES; i++) {
        struct call call = {.callee_at = s.at[i % PLACES],
                            .call_by = duet_sec(100),
                            .callee_by = DUET_NEVER,
                            .shielded = true};
        call_run(&call, &s.at[i / PLACES]);
        must_equal(call.call_rc, -EDEADLK);
        must_equal(call.callee_rc, -EDEADLK);
    }
    scene_close(&s);
}

/* ---- Pools ---- */

enum {
    CHAIN_MAX = 12
};

/* Jobs each of which waits for the next one, which is queued behind it. */
struct chain {
    struct gate gate;
    size_t n;
    duet_future *f[CHAIN_MAX];
    struct link {
        struct chain *chain;
        duet_deadline by;
        int rc;
    } links[CHAIN_MAX];
};

static duet_result link_run(void *arg)
{
    struct link *link = arg;
    struct chain *chain = link->chain;
    size_t next = (size_t)(link - chain->links) + 1;
    gate_pass(&chain->gate);
    if (next < chain->n)
        link->rc = duet_future_wait(chain->f[next], link->by, NULL);
    return duet_ok();
}

/* How many of them were told. */
static int chain_run(duet_pool *pool, size_t n, uint32_t flags, bool equal)
{
    struct chain chain = {.gate = GATE_INIT, .n = n};
    int told = 0;
    for (size_t i = 0; i < n; i++) {
        char name[16];
        snprintf(name, sizeof name, "link-%d", (int)i);
        chain.links[i].chain = &chain;
        chain.links[i].by = equal ? DUET_NEVER : duet_sec(100 + (int64_t)(i * 7 % n));
        chain.f[i] = duet_pool_submit_with(pool, link_run, &chain.links[i],
                                           &(duet_opts){.name = name, .flags = flags});
    }
    gate_open(&chain.gate);
    for (size_t i = 0; i < n; i++)
        must_equal(error_of(chain.f[i]), 0);
    for (size_t i = 0; i < n; i++) {
        must(chain.links[i].rc == 0 || chain.links[i].rc == -EDEADLK);
        told += chain.links[i].rc == -EDEADLK;
        duet_future_unref(chain.f[i]);
    }
    must_equal(chain.links[n - 1].rc, 0);
    return told;
}

/* pool.h: a job that waits lends its slot, but only spares_max threads come for such slots. */
thread_test(jobs_that_wait_for_jobs_behind_them_in_an_exhausted_pool_get_an_answer)
{
    for (unsigned workers = 1; workers <= 3; workers++)
        for (int equal = 0; equal < 2; equal++) {
            duet_pool *pool;
            duet_pool_config config = {.workers_max = workers, .spares_max = 1};
            must_equal(duet_pool_open(&pool, &config), 0);
            log_capture();
            must(chain_run(pool, CHAIN_MAX, 0, equal) > 0);
            must(a_chain_is_in_the_log());
            log_release();
            close_pool(pool);
        }
}

thread_test(jobs_that_wait_for_jobs_behind_them_go_on_while_there_are_spares)
{
    duet_pool *pool;
    duet_pool_config config = {.workers_max = 1, .spares_max = CHAIN_MAX};
    must_equal(duet_pool_open(&pool, &config), 0);
    log_capture();
    must_equal(chain_run(pool, CHAIN_MAX, 0, false), 0);
    must(!a_chain_is_in_the_log());
    log_release();
    close_pool(pool);
}

thread_test(jobs_that_keep_their_slots_and_wait_for_jobs_behind_them_get_an_answer)
{
    for (unsigned workers = 1; workers <= 3; workers++)
        for (int equal = 0; equal < 2; equal++) {
            duet_pool *pool = open_pool(workers);
            log_capture();
            int told = chain_run(pool, CHAIN_MAX, DUET_KEEP_SLOT, equal);
            must(workers == 1 ? told == CHAIN_MAX - 1 : told > 0);
            must(a_chain_is_in_the_log());
            log_release();
            close_pool(pool);
        }
}

/* With both slots kept, the job for which they wait cannot start. */
thread_test(of_two_jobs_that_keep_their_slots_the_earliest_deadline_is_told)
{
    for (size_t victim = 0; victim < 2; victim++) {
        struct place pool = {.pool = open_pool(2)};
        struct member m[3];
        log_capture();
        ring_prepare(m, 3, &pool, 1);
        hurry(m, 2, victim);
        m[0].go = m[1].go = open_promise();
        m[2].how = ALL; /* of none */
        for (size_t i = 0; i < 3; i++)
            m[i].flags = DUET_KEEP_SLOT;
        start_asleep(&m[0]);
        start_asleep(&m[1]);
        start(&m[2]);
        waits_for(&m[0], m[2].f);
        waits_for(&m[1], m[2].f);
        settle(m[0].go);
        end_with_victim(m, 3, victim);
        duet_future_unref(m[0].go);
        log_release();
        close_pool(pool.pool);
    }
}

/* The circle goes through a job that has not started, behind the one that keeps its slot. */
static void offload_behind(bool caller_is_told)
{
    struct scene s;
    struct place pool = {.pool = open_pool(1)};
    scene_open(&s);
    struct call call = {.callee_at = pool,
                        .go = open_promise(),
                        .call_by = caller_is_told ? duet_sec(100) : DUET_NEVER,
                        .callee_by = DUET_NEVER};
    struct member keeper = {.name = "keeper",
                            .at = pool,
                            .flags = DUET_KEEP_SLOT,
                            .by = caller_is_told ? DUET_NEVER : duet_sec(100)};
    atomic_store(&call.callee_ended, true); /* it may never start */
    call.caller = submit_at(&s.at[0], caller_run, &call, &(duet_opts){.name = "caller"});
    waits_for(&keeper, call.caller);
    start_asleep(&keeper);
    call.callee_rc = 1;
    settle(call.go);
    end_all(&keeper, 1);
    must_equal(error_of(call.caller), 0);
    if (caller_is_told) {
        must_equal(keeper.rc, 0);
        must_equal(call.call_rc, -EDEADLK);
        must_equal(call.callee_rc, 1); /* cancelled in the queue: it never ran */
    } else { /* the callee runs then, and waits for its caller itself: another circle */
        must_equal(keeper.rc, -EDEADLK);
        must_equal(call.callee_rc, -EDEADLK);
        must_equal(call.call_rc, 0);
    }
    must(a_chain_is_in_the_log());
    duet_future_unref(call.caller);
    duet_future_unref(call.go);
    scene_close(&s);
    close_pool(pool.pool);
}

thread_test(an_offload_queued_behind_a_job_that_waits_for_the_caller_is_told)
{
    offload_behind(true);
}

thread_test(a_job_before_whose_end_the_offload_it_waits_for_cannot_start_is_told)
{
    offload_behind(false);
}

struct room {
    duet_pool *pool;
    duet_future *go, *queued, *more;
    atomic_int drops;
};

static duet_pool *open_full_soon(void)
{
    duet_pool *pool;
    duet_pool_config config = {.workers_max = 1, .queue_max = 1, .when_full = DUET_FULL_WAIT};
    must_equal(duet_pool_open(&pool, &config), 0);
    return pool;
}

/* Two more than fit. */
static duet_result overfill(void *arg)
{
    struct room *room = arg;
    const duet_opts opts = {.drop = count_drop};
    room->queued = duet_pool_submit(room->pool, return_ok, NULL);
    room->more = duet_pool_submit_with(room->pool, return_ok, &room->drops, &opts);
    return duet_i64(duet_future_settled(room->more));
}

/* pool.h: the handle settles at once with -EDEADLK. */
thread_test(a_job_that_keeps_its_slot_and_waits_for_room_in_its_own_pool_is_told)
{
    struct room room = {.pool = open_full_soon()};
    log_capture();
    duet_future *f = duet_pool_submit_with(room.pool, overfill, &room,
                                           &(duet_opts){.name = "greedy", .flags = DUET_KEEP_SLOT});
    duet_result r = finish(f);
    must_equal(duet_as_i64(r), 1);
    must_equal(duet_future_result(room.more).err, -EDEADLK);
    must_equal(atomic_load(&room.drops), 1);
    must(log_has("'greedy'"));
    must_equal(finish(room.queued).err, 0);
    duet_future_unref(room.more);
    log_release();
    close_pool(room.pool);
}

/* It lends its slot meanwhile. */
thread_test(a_job_that_waits_for_room_in_its_own_pool_gets_it)
{
    struct room room = {.pool = open_full_soon()};
    log_capture();
    must_equal(finish(duet_pool_submit(room.pool, overfill, &room)).err, 0);
    must_equal(finish(room.more).err, 0);
    must_equal(finish(room.queued).err, 0);
    must_equal(atomic_load(&room.drops), 1);
    must(!a_chain_is_in_the_log());
    log_release();
    close_pool(room.pool);
}

static duet_result submit_one_more(void *arg)
{
    struct room *room = arg;
    const duet_opts opts = {.drop = count_drop};
    must_equal(duet_future_wait(room->go, DUET_NEVER, NULL), 0);
    room->more = duet_pool_submit_with(room->pool, return_ok, &room->drops, &opts);
    return duet_ok();
}

/* A coroutine waits for room in a pool whose only job waits for that coroutine. */
static void room_behind(duet_deadline job_by, int job_rc, int more_err)
{
    struct room room = {.pool = open_full_soon(), .go = open_promise()};
    duet_loop *loop = start_loop();
    log_capture();
    struct member keeper = {
        .name = "keeper", .at = {.pool = room.pool}, .flags = DUET_KEEP_SLOT, .by = job_by};
    duet_future *f = duet_submit(loop, submit_one_more, &room);
    waits_for(&keeper, f);
    start_asleep(&keeper);
    room.queued = duet_pool_submit(room.pool, return_ok, NULL);
    settle(room.go);
    end_all(&keeper, 1);
    must_equal(finish(f).err, 0);
    must_equal(keeper.rc, job_rc);
    must_equal(finish(room.more).err, more_err);
    must_equal(finish(room.queued).err, 0);
    must_equal(atomic_load(&room.drops), 1);
    must(a_chain_is_in_the_log());
    duet_future_unref(room.go);
    log_release();
    close_loop(loop);
    close_pool(room.pool);
}

thread_test(a_job_that_waits_for_who_waits_for_room_is_told_if_its_deadline_is_the_earlier)
{
    room_behind(duet_sec(100), -EDEADLK, 0);
}

/* A submission has no deadline: they are equals, and it came last. */
thread_test(a_coroutine_that_waits_for_room_behind_a_job_that_waits_for_it_is_told)
{
    room_behind(DUET_NEVER, 0, -EDEADLK);
}

struct in_place {
    duet_pool *pool;
    struct gate gate;
    struct member *inner;
    duet_future *queued;
};

static duet_result run_another_in_place(void *arg)
{
    struct in_place *in_place = arg;
    gate_pass(&in_place->gate);
    in_place->queued = duet_pool_submit(in_place->pool, return_ok, NULL);
    start(in_place->inner);
    return duet_ok();
}

/* base.h: the job beneath another one keeps that from ending. */
thread_test(a_job_run_in_place_is_in_the_circle_of_the_job_above_it)
{
    struct scene s;
    scene_open(&s);
    for (int inner_first = 0; inner_first < 2; inner_first++) {
        duet_pool_config config = {
            .workers_max = 1, .queue_max = 1, .when_full = DUET_FULL_RUN_HERE};
        struct member inner = {.name = "inner", .by = inner_first ? duet_sec(100) : DUET_NEVER},
                      outside = {.name = "outside",
                                 .at = s.at[0],
                                 .by = inner_first ? DUET_NEVER : duet_sec(100)};
        struct in_place in_place = {.gate = GATE_INIT, .inner = &inner};
        log_capture();
        must_equal(duet_pool_open(&in_place.pool, &config), 0);
        inner.at.pool = in_place.pool;
        duet_future *outer = duet_pool_submit(in_place.pool, run_another_in_place, &in_place);
        waits_for(&outside, outer);
        start_asleep(&outside);
        waits_for(&inner, outside.f);
        gate_open(&in_place.gate);
        must_equal(error_of(outer), 0);
        end_all(&inner, 1);
        end_all(&outside, 1);
        must_equal(inner.rc, inner_first ? -EDEADLK : 0);
        must_equal(outside.rc, inner_first ? 0 : -EDEADLK);
        must(a_chain_is_in_the_log());
        must_equal(finish(in_place.queued).err, 0);
        duet_future_unref(outer);
        close_pool(in_place.pool);
    }
    scene_close(&s);
}

/* ---- Waits that end ownership ---- */

enum ending_kind {
    CLOSE_LOOP,
    CLOSE_POOL,
    CLOSE_FUTURE,
    DRAIN_POOL
};

struct ending {
    enum ending_kind kind;
    struct place what;
    duet_future *go, *f, *started;
    duet_deadline by;
    int rc;
};

static duet_result ending_run(void *arg)
{
    struct ending *e = arg;
    settle(e->started);
    must_equal(duet_future_wait(e->go, DUET_NEVER, NULL), 0);
    switch (e->kind) {
    case CLOSE_LOOP:
        e->rc = duet_loop_close(e->what.loop, e->by);
        break;
    case CLOSE_POOL:
        e->rc = duet_pool_close(e->what.pool, e->by);
        break;
    case CLOSE_FUTURE:
        e->rc = duet_future_close(e->f, NULL);
        break;
    case DRAIN_POOL:
        e->rc = duet_pool_drain(e->what.pool, e->by, NULL);
        break;
    }
    return duet_ok();
}

/* Somebody ends what the other runs on, while that one waits for its end. */
static void end_around(struct ending *e, const struct place *at, struct member *other)
{
    log_capture();
    e->go = open_promise();
    e->started = open_promise();
    duet_future *f = submit_at(at, ending_run, e, &(duet_opts){.name = "ender"});
    waits_for(other, f);
    start_asleep(other);
    if (e->kind == CLOSE_FUTURE)
        e->f = duet_future_ref(other->f);
    settle(e->go);
    end_all(other, 1);
    must_equal(finish(f).err, 0);
    duet_future_unref(e->go);
    duet_future_unref(e->started);
    must(log_has("'ender'") && log_has("'other'"));
}

/* base.h: passed over, though its deadline is the earlier and it closed the circle. */
thread_test(a_coroutine_that_waits_for_who_closes_its_loop_is_told)
{
    struct scene s;
    scene_open(&s);
    for (int i = 0; i < PLACES * 2; i++) {
        struct place loop = {.loop = start_loop()};
        struct ending e = {
            .kind = CLOSE_LOOP, .what = loop, .by = i % 2 ? DUET_NEVER : duet_sec(100)};
        struct member other = {.name = "other", .at = loop, .by = DUET_NEVER, .shielded = true};
        end_around(&e, &s.at[i / 2], &other);
        must_equal(other.rc, -EDEADLK);
        must_equal(e.rc, 0);
    }
    scene_close(&s);
}

thread_test(a_job_that_waits_for_who_closes_its_pool_is_told)
{
    struct scene s;
    scene_open(&s);
    for (int i = 0; i < PLACES * 2; i++) {
        struct place pool = {.pool = open_pool(1)};
        struct ending e = {
            .kind = CLOSE_POOL, .what = pool, .by = i % 2 ? DUET_NEVER : duet_sec(100)};
        struct member other = {.name = "other", .at = pool, .by = DUET_NEVER, .shielded = true};
        end_around(&e, &s.at[i / 2], &other);
        must_equal(other.rc, -EDEADLK);
        must_equal(e.rc, 0);
    }
    scene_close(&s);
}

thread_test(who_waits_for_the_one_that_closes_its_handle_is_told)
{
    struct scene s;
    scene_open(&s);
    for (int i = 0; i < PLACES * PLACES; i++) {
        struct ending e = {.kind = CLOSE_FUTURE};
        struct member other = {
            .name = "other", .at = s.at[i % PLACES], .by = DUET_NEVER, .shielded = true};
        end_around(&e, &s.at[i / PLACES], &other);
        must_equal(other.rc, -EDEADLK);
        must_equal(e.rc, 0);
    }
    scene_close(&s);
}

/* Of two closes and one plain wait in a circle it is the wait, wherever it stands. */
thread_test(of_several_closes_and_one_wait_in_a_circle_the_wait_is_told)
{
    struct scene s;
    scene_open(&s);
    for (size_t i = 0; i < PLACES; i++) {
        struct ending e[2];
        struct member other = {
            .name = "other", .at = s.at[(i + 1) % PLACES], .by = DUET_NEVER, .shielded = true};
        duet_future *f[2];
        for (size_t k = 0; k < 2; k++) {
            e[k] = (struct ending){
                .kind = CLOSE_FUTURE, .go = open_promise(), .started = open_promise()};
            f[k] = submit_at(&s.at[(i + k * 2) % PLACES], ending_run, &e[k], NULL);
            must_equal(duet_future_wait(e[k].started, SURELY, NULL), 0);
        }
        waits_for(&other, f[0]);
        start_asleep(&other);
        e[0].f = duet_future_ref(f[1]);
        e[1].f = duet_future_ref(other.f);
        settle(e[1].go);
        settle(e[0].go);
        end_all(&other, 1);
        must_equal(other.rc, -EDEADLK);
        for (size_t k = 0; k < 2; k++) {
            must_equal(finish(f[k]).err, 0);
            must_equal(e[k].rc, 0);
            duet_future_unref(e[k].go);
            duet_future_unref(e[k].started);
        }
    }
    scene_close(&s);
}

/* pool.h: a drain ends no ownership: it may be told like any wait. */
thread_test(of_a_drain_and_a_job_that_waits_for_it_the_earliest_deadline_is_told)
{
    struct scene s;
    scene_open(&s);
    for (int i = 0; i < PLACES * 2; i++) {
        struct place pool = {.pool = open_pool(1)};
        bool drain_first = i % 2;
        struct ending e = {
            .kind = DRAIN_POOL, .what = pool, .by = drain_first ? duet_sec(100) : DUET_NEVER};
        struct member other = {
            .name = "other", .at = pool, .by = drain_first ? DUET_NEVER : duet_sec(100)};
        end_around(&e, &s.at[i / 2], &other);
        must_equal(other.rc, drain_first ? 0 : -EDEADLK);
        must_equal(e.rc, drain_first ? -EDEADLK : 0);
        close_pool(pool.pool);
    }
    scene_close(&s);
}

/* ---- Cancellation ---- */

/* base.h: every wait of a cancelled work fails with -ECANCELED before it has any effect. */
thread_test(a_member_that_was_cancelled_is_no_deadlock)
{
    struct scene s;
    scene_open(&s);
    for (size_t i = 0; i < PLACES; i++) {
        struct member m[2];
        ring_prepare(m, 2, s.at + i, PLACES - i);
        duet_future *go = ring_start(m, 2);
        duet_future_cancel(m[0].f); /* it would wait for the other now */
        end_all(m, 2);
        must_equal(m[0].rc, -ECANCELED);
        must_equal(m[1].rc, 0);
        duet_future_unref(go);
    }
    must(!a_chain_is_in_the_log());
    scene_close(&s);
}

thread_test(a_cancellation_that_races_the_circle_leaves_one_answer)
{
    struct scene s;
    scene_open(&s);
    for (size_t i = 0; i < 100; i++) {
        struct member m[3];
        ring_prepare(m, 3, s.at + i % PLACES, PLACES - i % PLACES);
        hurry(m, 3, i % 3);
        duet_future *go = ring_start(m, 3);
        settle(go);
        duet_future_cancel(m[i % 3].f);
        end_all(m, 3);
        for (size_t k = 0; k < 3; k++)
            must(k == i % 3 ? m[k].rc == -ECANCELED || m[k].rc == -EDEADLK : m[k].rc == 0);
        duet_future_unref(go);
    }
    scene_close(&s);
}

/* ---- False alarms ---- */

struct settler {
    duet_future *promise, *promise_after;
    struct gate *gate;
    int rest_ms;
};

static void settle_after_a_nap(void *arg)
{
    struct settler *settler = arg;
    nap(settler->rest_ms);
    settle(settler->promise);
}

/* base.h: what somebody outside may still do is never a deadlock. */
thread_test(a_promise_that_a_thread_settles_later_is_no_deadlock)
{
    struct scene s;
    struct member m[PLACES];
    struct thread thread;
    scene_open(&s);
    struct settler settler = {.promise = open_promise(), .rest_ms = 100};
    ring_prepare(m, PLACES, s.at, PLACES);
    for (int i = 0; i < PLACES; i++) {
        waits_for(&m[i], settler.promise);
        start(&m[i]);
    }
    thread_start(&thread, settle_after_a_nap, &settler);
    must_equal(duet_future_wait(settler.promise, SURELY, NULL), 0);
    end_all(m, PLACES);
    for (int i = 0; i < PLACES; i++)
        must_equal(m[i].rc, 0);
    thread_join(&thread);
    must(!a_chain_is_in_the_log());
    duet_future_unref(settler.promise);
    scene_close(&s);
}

/* Eight wait for a promise which this thread holds, while it sleeps where duet does not see it. */
static void many_wait_for_the_gate(uint32_t flags, bool own)
{
    enum {
        N = PLACES * 2
    };
    struct scene s;
    struct member m[N];
    duet_future *promise;
    scene_open(&s);
    must_equal(duet_future_open_with(&promise, &(duet_opts){.flags = flags}), 0);
    ring_prepare(m, N, s.at, PLACES);
    for (int i = 0; i < N; i++) {
        m[i].owns = own;
        m[i].by = duet_sec(100 + i);
        waits_for(&m[i], own ? duet_future_ref(promise) : promise);
        start(&m[i]);
    }
    nap(100);
    for (int i = 0; i < N; i++)
        must(!duet_future_settled(m[i].f));
    settle(promise);
    end_all(m, N);
    for (int i = 0; i < N; i++)
        must_equal(m[i].rc, 0);
    must(!a_chain_is_in_the_log());
    duet_future_unref(promise);
    scene_close(&s);
}

thread_test(a_promise_for_which_many_wait_by_a_borrowed_handle_is_no_deadlock)
{
    many_wait_for_the_gate(0, false);
}

thread_test(a_promise_for_which_many_wait_by_their_own_handles_is_no_deadlock)
{
    many_wait_for_the_gate(0, true);
}

static duet_result sleep_a_little(void *arg)
{
    (void)arg;
    must_equal(duet_sleep(duet_ms(50)), 0);
    return duet_ok();
}

/* Each sleeps, but what the first sleeps for comes by itself. */
thread_test(a_chain_of_waits_behind_one_that_sleeps_is_no_deadlock)
{
    enum {
        N = PLACES * 3
    };
    struct scene s;
    scene_open(&s);
    for (int i = 0; i < PLACES; i++) {
        struct member m[N];
        duet_future *f = submit_at(&s.at[i], sleep_a_little, NULL, NULL);
        ring_prepare(m, N, s.at, PLACES);
        for (int k = 0; k < N; k++) {
            waits_for(&m[k], k ? m[k - 1].f : f);
            start(&m[k]);
        }
        must_equal(duet_future_wait(m[N - 1].f, SURELY, NULL), 0);
        end_all(m, N);
        for (int k = 0; k < N; k++)
            must_equal(m[k].rc, 0);
        must_equal(finish(f).err, 0);
    }
    must(!a_chain_is_in_the_log());
    scene_close(&s);
}

static void do_nothing(void *arg)
{
    (void)arg;
}

thread_test(a_wait_for_any_of_a_circle_and_of_a_moment_is_no_deadlock)
{
    struct scene s;
    scene_open(&s);
    for (size_t i = 0; i + 1 < PLACES; i++) {
        struct member m[2];
        duet_future *moment = duet_call_at(s.at[0].loop, duet_ms(50), do_nothing, NULL);
        duet_future *go = beside_live(m, &s.at[i], ANY, moment, i % 2);
        settle(go);
        end_all(m, 2);
        must_equal(m[0].rc, 0);
        must_equal(m[0].index, 0);
        must_equal(m[1].rc, 0);
        duet_future_unref(moment);
        duet_future_unref(go);
    }
    must(!a_chain_is_in_the_log());
    scene_close(&s);
}

static duet_result spin_a_little(void *arg)
{
    int64_t end = duet_now_ns() + 20000000;
    (void)arg;
    while (duet_now_ns() < end)
        ;
    return duet_ok();
}

/* They have not started, but they will. */
thread_test(waits_for_coroutines_queued_on_a_busy_loop_are_no_deadlock)
{
    enum {
        N = 5
    };
    struct scene s;
    scene_open(&s);
    for (int round = 0; round < 5; round++) {
        duet_future *busy = duet_submit(s.at[0].loop, spin_a_little, NULL), *queued[N];
        struct member m[N * 2];
        ring_prepare(m, N * 2, s.at + 1, PLACES - 1);
        for (int i = 0; i < N; i++)
            queued[i] = duet_submit(s.at[0].loop, return_ok, NULL);
        for (int i = 0; i < N * 2; i++) {
            waits_for(&m[i], i < N ? queued[i] : m[i - N].f);
            start(&m[i]);
        }
        end_all(m, N * 2);
        for (int i = 0; i < N * 2; i++)
            must_equal(m[i].rc, 0);
        for (int i = 0; i < N; i++)
            must_equal(finish(queued[i]).err, 0);
        must_equal(finish(busy).err, 0);
    }
    must(!a_chain_is_in_the_log());
    scene_close(&s);
}

thread_test(waits_for_jobs_queued_behind_a_busy_one_are_no_deadlock)
{
    enum {
        N = 5
    };
    struct scene s;
    struct live live;
    struct member m[N];
    duet_future *queued[N];
    scene_open(&s);
    live_start(&live, gate_pass_job);
    ring_prepare(m, N, s.at, PLACES);
    for (int i = 0; i < N; i++) {
        queued[i] = duet_pool_submit(live.pool, return_ok, NULL);
        waits_for(&m[i], queued[i]);
        start(&m[i]);
    }
    nap(50);
    for (int i = 0; i < N; i++)
        must(!duet_future_settled(m[i].f));
    live_end(&live);
    end_all(m, N);
    for (int i = 0; i < N; i++) {
        must_equal(m[i].rc, 0);
        must_equal(finish(queued[i]).err, 0);
    }
    must(!a_chain_is_in_the_log());
    live_close(&live);
    scene_close(&s);
}

static void run_after_a_nap(void *arg)
{
    nap(50);
    must_equal(duet_loop_run(arg), 0);
}

/* loop.h: it accepts work already, which waits for the run. */
thread_test(a_wait_for_a_coroutine_of_a_loop_that_a_thread_runs_later_is_no_deadlock)
{
    duet_loop *loop;
    struct thread thread;
    must_equal(duet_loop_open(&loop, NULL), 0);
    log_capture();
    duet_future *f = duet_submit(loop, return_ok, NULL);
    thread_start(&thread, run_after_a_nap, loop);
    must_equal(finish(f).err, 0);
    duet_loop_stop(loop);
    thread_join(&thread);
    must(!a_chain_is_in_the_log());
    log_release();
    close_loop(loop);
}

/* In the following all threads of the process sleep in duet, and the promise is settled by what
 * duet itself will run at a moment. */

static void settle_callback(void *promise)
{
    settle(promise);
}

static void must_come(duet_future *promise)
{
    must_equal(duet_future_wait(promise, SURELY, NULL), 0);
    must(!a_chain_is_in_the_log());
}

thread_test(a_promise_that_a_callback_at_a_moment_settles_is_no_deadlock)
{
    struct scene s;
    scene_open(&s);
    duet_future *promise = open_promise();
    duet_future *f = duet_call_at(s.at[0].loop, duet_ms(50), settle_callback, promise);
    must_come(promise);
    must_equal(finish(f).err, 0);
    duet_future_unref(promise);
    scene_close(&s);
}

thread_test(a_promise_that_the_callback_of_a_sleeper_settles_is_no_deadlock)
{
    struct scene s;
    scene_open(&s);
    for (int i = 0; i < PLACES; i++) {
        duet_future *promise = open_promise();
        duet_future *f = submit_at(&s.at[i], sleep_a_little, NULL, NULL);
        must_equal(duet_future_then(f, s.at[2].loop, settle_callback, promise, NULL), 0);
        must_come(promise);
        must_equal(finish(f).err, 0);
        must_equal(duet_call(s.at[2].loop, return_ok, NULL, SURELY, NULL), 0); /* it has run */
        duet_future_unref(promise);
    }
    scene_close(&s);
}

static duet_result sleep_and_settle(void *promise)
{
    must_equal(duet_sleep(duet_ms(50)), 0);
    settle(promise);
    return duet_ok();
}

static void sleep_and_settle_in_thread(void *promise)
{
    sleep_and_settle(promise);
}

thread_test(a_promise_that_a_sleeper_settles_is_no_deadlock)
{
    struct scene s;
    scene_open(&s);
    for (int i = 0; i < PLACES; i++) {
        duet_future *promise = open_promise();
        duet_future *f = submit_at(&s.at[i], sleep_and_settle, promise, NULL);
        must_come(promise);
        must_equal(finish(f).err, 0);
        duet_future_unref(promise);
    }
    scene_close(&s);
}

thread_test(a_promise_that_a_thread_settles_after_a_sleep_in_duet_is_no_deadlock)
{
    struct thread thread;
    duet_future *promise = open_promise();
    log_capture();
    thread_start(&thread, sleep_and_settle_in_thread, promise);
    must_come(promise);
    log_release();
    must_equal(pthread_join(thread.id, NULL), 0);
    duet_future_unref(thread.ended);
    duet_future_unref(promise);
}

/* ---- Promises ---- */

static duet_future *open_held(void)
{
    duet_future *promise;
    const duet_opts opts = {.name = "held", .flags = DUET_SETTLER_HOLDS};
    must_equal(duet_future_open_with(&promise, &opts), 0);
    return promise;
}

/* Without a wait in duet, so that this thread could settle a promise all the time. */
static void await_settled(duet_future *f)
{
    duet_deadline by = SURELY;
    while (!duet_future_settled(f)) {
        must(duet_now_ns() < by.ns);
        nap(1);
    }
}

/* base.h: DUET_SETTLER_HOLDS: a promise to which only waiters hold references. */
thread_test(a_promise_whose_last_settler_let_go_is_a_deadlock)
{
    struct scene s;
    scene_open(&s);
    for (int i = 0; i < PLACES; i++) {
        duet_future *promise = open_held();
        struct member m = {.name = "waiter", .at = s.at[i], .by = DUET_NEVER, .owns = true};
        log_capture();
        waits_for(&m, duet_future_ref(promise));
        start_asleep(&m);
        nap(20);
        must(!duet_future_settled(m.f));
        duet_future_unref(promise);
        await_settled(m.f);
        end_with_victim(&m, 1, 0);
    }
    scene_close(&s);
}

thread_test(a_promise_that_no_settler_holds_is_a_deadlock_from_the_start)
{
    struct scene s;
    scene_open(&s);
    for (int i = 0; i < PLACES; i++) {
        struct member m = {.name = "waiter", .at = s.at[i], .by = duet_sec(100), .owns = true};
        log_capture();
        waits_for(&m, open_held());
        start(&m);
        await_settled(m.f);
        end_with_victim(&m, 1, 0);
    }
    scene_close(&s);
}

static void wait_and_let_go(void *arg)
{
    struct behind *behind = arg;
    wait_behind(behind);
    duet_future_unref(behind->f);
}

thread_test(a_thread_that_waits_for_a_promise_that_no_settler_holds_is_told)
{
    struct behind behind = {.f = open_held(), .by = DUET_NEVER};
    struct thread thread;
    log_capture();
    thread_start(&thread, wait_and_let_go, &behind);
    must_equal(pthread_join(thread.id, NULL), 0);
    must_equal(behind.rc, -EDEADLK);
    duet_future_unref(thread.ended);
    log_release();
}

thread_test(a_promise_that_its_settler_holds_is_no_deadlock)
{
    many_wait_for_the_gate(DUET_SETTLER_HOLDS, true);
}

/* The first that is told lets go, and so the next one is told. */
thread_test(all_who_wait_for_a_promise_without_a_settler_are_told_one_after_the_other)
{
    struct scene s;
    struct member m[PLACES];
    scene_open(&s);
    duet_future *promise = open_held();
    ring_prepare(m, PLACES, s.at, PLACES);
    for (int i = 0; i < PLACES; i++) {
        m[i].by = duet_sec(100 + i);
        m[i].owns = true;
        waits_for(&m[i], duet_future_ref(promise));
        start(&m[i]);
    }
    duet_future_unref(promise);
    for (int i = 0; i < PLACES; i++)
        await_settled(m[i].f);
    end_all(m, PLACES);
    for (int i = 0; i < PLACES; i++)
        must_equal(m[i].rc, -EDEADLK);
    scene_close(&s);
}

static duet_result settle_when_told(void *promise)
{
    must_equal(duet_future_wait(promise, duet_sec(100), NULL), -EDEADLK);
    settle(promise);
    duet_future_unref(promise);
    return duet_ok();
}

/* After its wait it holds a reference and does not wait. */
thread_test(who_is_told_may_settle_the_promise_for_the_others)
{
    struct scene s;
    scene_open(&s);
    for (size_t i = 0; i < PLACES; i++) {
        duet_future *promise = open_held();
        struct member m = {
            .name = "other", .at = s.at[(i + 1) % PLACES], .by = DUET_NEVER, .owns = true};
        waits_for(&m, duet_future_ref(promise));
        start_asleep(&m);
        duet_future *f = submit_at(&s.at[i], settle_when_told, promise, NULL); /* ours goes along */
        await_settled(m.f);
        end_all(&m, 1);
        must_equal(m.rc, 0);
        must_equal(finish(f).err, 0);
    }
    scene_close(&s);
}

thread_test(a_wait_for_any_of_what_lives_and_a_promise_without_a_settler_goes_on)
{
    struct scene s;
    scene_open(&s);
    for (int i = 0; i < PLACES; i++) {
        struct live live;
        struct member m = {
            .name = "waiter", .at = s.at[i], .how = ANY, .by = duet_sec(100), .owns = true};
        live_start(&live, gate_pass_job);
        waits_for(&m, open_held());
        waits_for(&m, live.f);
        start(&m);
        nap(20);
        must(!duet_future_settled(m.f));
        live_end(&live);
        end_all(&m, 1);
        must_equal(m.rc, 0);
        must_equal(m.index, 1);
        live_close(&live);
    }
    must(!a_chain_is_in_the_log());
    scene_close(&s);
}

thread_test(a_wait_for_all_of_what_lives_and_a_promise_without_a_settler_is_a_deadlock)
{
    struct scene s;
    scene_open(&s);
    for (int i = 0; i < PLACES; i++) {
        struct live live;
        struct member m = {
            .name = "waiter", .at = s.at[i], .how = ALL, .by = duet_sec(100), .owns = true};
        log_capture();
        live_start(&live, gate_pass_job);
        waits_for(&m, open_held());
        waits_for(&m, live.f);
        start(&m);
        await_settled(m.f);
        end_with_victim(&m, 1, 0);
        live_end(&live);
        live_close(&live);
    }
    scene_close(&s);
}

#ifndef TEST_TSAN /* it has a thread of its own, which might settle anything */

/* Every wait that ends only with the promise, and has no deadline at which it would end. */
static void wait_in_vain(duet_future *promise)
{
    duet_future *settled = open_promise();
    settle(settled);
    duet_future *both[] = {settled, promise}, *twice[] = {promise, promise};
    size_t index = 7;
    must_equal(duet_future_wait(promise, DUET_NOW, NULL), -ETIME);
    must_equal(duet_future_wait(promise, duet_ms(20), NULL), -ETIME);
    must_equal(duet_future_wait(promise, DUET_NEVER, NULL), -EDEADLK);
    must_equal(duet_future_wait(promise, DUET_NEVER, NULL), -EDEADLK);
    must_equal(duet_gather(both, 2, DUET_NEVER, NULL), -EDEADLK);
    must_equal(duet_future_wait_many(both, 2, DUET_UNTIL_ALL, DUET_NEVER, NULL), -EDEADLK);
    must_equal(duet_future_wait_many(twice, 2, DUET_UNTIL_ANY, DUET_NEVER, &index), -EDEADLK);
    must_equal(duet_future_wait_many(both, 2, DUET_UNTIL_FAILURE, DUET_NEVER, &index), -EDEADLK);
    must_equal(index, 7); /* after an error it is not written */
    must_equal(duet_future_wait_many(both, 2, DUET_UNTIL_ANY, DUET_NEVER, &index), 0);
    must_equal(index, 0);
    must_equal(duet_sleep(duet_ms(20)), 0);
    settle(promise);
    must_equal(duet_future_wait(promise, DUET_NEVER, NULL), 0);
    duet_future_unref(settled);
    duet_future_unref(promise);
}

/* future.h: nobody can settle it any more. */
thread_test(a_promise_for_which_the_only_thread_waits_is_a_deadlock)
{
    duet_future *promise;
    log_capture();
    must_equal(duet_future_open_with(&promise, &(duet_opts){.name = "orphan"}), 0);
    wait_in_vain(promise);
    must(log_has("orphan"));
    log_release();
}

thread_test(a_promise_for_which_a_thread_waits_beside_an_idle_loop_and_pool_is_a_deadlock)
{
    struct scene s;
    scene_open(&s);
    wait_in_vain(open_promise()); /* the pools have no threads yet */
    for (int i = 0; i < PLACES; i++) /* all have worked once */
        must_equal(finish(submit_at(&s.at[i], return_ok, NULL, NULL)).err, 0);
    wait_in_vain(open_promise());
    scene_close(&s);
}

coroutine_test(a_promise_for_which_the_only_coroutine_of_the_only_thread_waits_is_a_deadlock)
{
    wait_in_vain(open_promise());
    return duet_ok();
}

/* Holds it too, begins to wait a little later, and goes: with an answer, or at its deadline. */
struct later {
    duet_future *promise;
    _Atomic int64_t begin_ns;
    duet_deadline by;
    int rc;
};

static void wait_later(void *arg)
{
    struct later *later = arg;
    int64_t begin_ns;
    while ((begin_ns = atomic_load(&later->begin_ns)) == 0 || duet_now_ns() < begin_ns)
        ;
    later->rc = duet_future_wait(later->promise, later->by, NULL);
    duet_future_unref(later->promise);
}

/* base.h: DUET_SETTLER_HOLDS, of which a third reference is lost. Whoever is young as we look, or has
 * a deadline, goes on; nobody tells us when it has ended, so we look again. */
static void wait_with_another(int64_t later_ns, duet_deadline by)
{
    struct later later = {.promise = open_held(), .by = by};
    struct thread thread;
    duet_future_ref(later.promise);
    duet_future_ref(later.promise);
    thread_start(&thread, wait_later, &later);
    int64_t now_ns = duet_now_ns();
    atomic_store(&later.begin_ns, now_ns + later_ns);
    must_equal(duet_future_wait(later.promise, DUET_NEVER, NULL), -EDEADLK);
    settle(later.promise); /* if we were told first */
    thread_join(&thread);
    duet_future_unref(later.promise);
    duet_future_unref(later.promise);
}

thread_test(whoever_waits_for_a_promise_is_told_when_the_last_other_has_gone)
{
    log_capture();
    for (int64_t later_ns = 100000; later_ns < 8000000; later_ns += 700000) {
        wait_with_another(later_ns, DUET_NEVER);
        wait_with_another(later_ns, duet_ns(later_ns + 900000));
        wait_with_another(later_ns, duet_ns(later_ns + 6000000));
    }
    log_release();
}

/* ---- Loops that nobody runs ---- */

static duet_loop *open_unrun(unsigned inbox_max)
{
    duet_loop *loop;
    const duet_loop_config config = {.name = "unrun", .inbox_max = inbox_max};
    must_equal(duet_loop_open(&loop, &config), 0);
    return loop;
}

static void nothing(void *arg)
{
    (void)arg;
}

thread_test(work_of_a_loop_that_nobody_could_run_is_a_deadlock)
{
    duet_loop *loop = open_unrun(0);
    duet_result r;
    log_capture();
    duet_future *coroutine = duet_submit(loop, return_ok, NULL);
    duet_future *moment = duet_call_at(loop, DUET_NOW, nothing, NULL);
    must_equal(duet_future_wait(coroutine, duet_ms(20), NULL), -ETIME);
    must_equal(duet_future_wait(coroutine, DUET_NEVER, NULL), -EDEADLK);
    must_equal(duet_future_wait(moment, DUET_NEVER, NULL), -EDEADLK);
    must_equal(duet_call(loop, return_ok, NULL, DUET_NEVER, &r), -EDEADLK);
    must(log_has("rests, or waits too"));
    close_loop(loop);
    must_equal(finish(coroutine).err, -ECANCELED);
    must_equal(finish(moment).err, -ECANCELED);
    log_release();
}

thread_test(room_in_a_loop_that_nobody_could_run_is_a_deadlock)
{
    duet_loop *loop = open_unrun(1);
    duet_group group = DUET_GROUP_INIT;
    duet_result r;
    log_capture();
    duet_future *first = duet_submit(loop, return_ok, NULL);
    must_equal(finish(duet_submit(loop, return_ok, NULL)).err, -EDEADLK);
    must_equal(duet_call(loop, return_ok, NULL, DUET_NEVER, &r), -EDEADLK);
    must_equal(r.err, -EDEADLK);
    must_equal(duet_call(loop, return_ok, NULL, duet_ms(20), &r), -ETIME);
    must_equal(duet_group_spawn(&group, loop, return_ok, NULL, NULL), -EDEADLK);
    must_equal(duet_group_close(&group), 0);
    must(log_has("room in the inbox of loop 'unrun'"));
    close_loop(loop);
    must_equal(finish(first).err, -ECANCELED);
    log_release();
}

struct host {
    duet_loop *loop;
    struct gate gate;
};

static void run_when_told(void *arg)
{
    struct host *host = arg;
    gate_pass(&host->gate);
    must_equal(duet_loop_run(host->loop), 0);
}

/* One that does something else could run it. */
thread_test(work_of_a_loop_that_a_thread_will_run_is_no_deadlock)
{
    struct host host = {.loop = open_unrun(1), .gate = GATE_INIT};
    struct thread thread;
    duet_result r;
    log_capture();
    thread_start(&thread, run_when_told, &host);
    duet_future *f = duet_submit(host.loop, return_ok, NULL);
    must_equal(duet_future_wait(f, duet_ms(50), NULL), -ETIME);
    must_equal(duet_call(host.loop, return_ok, NULL, duet_ms(50), &r), -ETIME); /* no room */
    gate_open(&host.gate);
    must_equal(duet_call(host.loop, return_ok, NULL, DUET_NEVER, &r), 0);
    must_equal(finish(f).err, 0);
    must_equal(log_count("deadlock"), 0);
    close_loop(host.loop);
    thread_join(&thread);
    log_release();
}

struct feeder {
    duet_loop *loop;
    duet_future *ready, *fed[3];
};

static void feed(void *arg)
{
    struct feeder *feeder = arg;
    for (int i = 0; i < 3; i++)
        feeder->fed[i] = duet_submit(feeder->loop, return_ok, NULL);
    settle(feeder->ready);
}

/* Who waits for room counts as waiting for others, too. */
thread_test(of_two_threads_one_of_which_was_to_run_the_loop_one_is_told)
{
    struct feeder feeder = {.loop = open_unrun(2), .ready = open_promise()};
    struct thread thread;
    log_capture();
    thread_start(&thread, feed, &feeder);
    int rc = duet_future_wait(feeder.ready, DUET_NEVER, NULL);
    must(rc == 0 || rc == -EDEADLK);
    must(log_count("deadlock") > 0);
    duet_loop_stop(feeder.loop); /* if it is we who were told */
    thread_join(&thread);
    close_loop(feeder.loop);
    for (int i = 0; i < 3; i++)
        must(finish(feeder.fed[i]).err < 0);
    duet_future_unref(feeder.ready);
    log_release();
}

struct doomed {
    struct behind behind;
    atomic_bool cancelled;
};

static void wait_when_cancelled(void *arg)
{
    struct doomed *doomed = arg;
    while (!atomic_load(&doomed->cancelled))
        ;
    wait_behind(&doomed->behind);
}

/* A wait is no cancellation point of pthreads', nor is a search within it, which has a lock. */
thread_test(a_thread_with_a_cancellation_pending_does_not_end_within_a_wait)
{
    struct doomed doomed = {.behind = {.f = open_promise(), .by = DUET_NEVER, .rc = 1}};
    struct thread thread;
    log_capture();
    thread_start(&thread, wait_when_cancelled, &doomed);
    must_equal(pthread_cancel(thread.id), 0);
    atomic_store(&doomed.cancelled, true);
    thread_await_blocked(&thread);
    nap(30); /* it has searched, and nobody else is stuck */
    settle(doomed.behind.f);
    must_equal(pthread_join(thread.id, NULL), 0);
    must_equal(doomed.behind.rc, 0);
    wait_in_vain(open_promise()); /* nor is the lock taken for good */
    duet_future_unref(thread.ended);
    duet_future_unref(doomed.behind.f);
    log_release();
}

static void *wait_alone(void *unused)
{
    (void)unused;
    must_equal(duet_future_wait(open_promise(), DUET_NEVER, NULL), -EDEADLK);
    _exit(0);
}

/* main() may end before its threads: it is none that could do anything. */
thread_test(after_main_has_ended_the_last_thread_that_waits_is_told)
{
    int status;
    pid_t pid = fork();
    must(pid >= 0);
    if (pid == 0) {
        pthread_t thread;
        alarm(60);
        must_equal(pthread_create(&thread, NULL, wait_alone, NULL), 0);
        pthread_exit(NULL);
    }
    must_equal(waitpid(pid, &status, 0), pid);
    must(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

struct keeper {
    duet_future *promise;
    int rc;
};

static duet_result child_of_keeper(void *arg)
{
    struct keeper *keeper = arg;
    keeper->rc = duet_future_wait(keeper->promise, DUET_NEVER, NULL);
    return duet_ok();
}

/* They are equals, and the child closes the circle: the parent has its answer, and goes on. */
coroutine_test(a_child_that_waits_for_what_its_parent_would_do_after_the_group_is_a_deadlock)
{
    struct keeper keeper = {.promise = open_promise(), .rc = 1};
    duet_group group = DUET_GROUP_INIT;
    must_equal(duet_group_spawn(&group, NULL, child_of_keeper, &keeper, NULL), 0);
    must_equal(duet_group_wait(&group, DUET_NEVER, NULL), 0);
    must_equal(keeper.rc, -EDEADLK);
    settle(keeper.promise);
    must_equal(duet_group_close(&group), 0);
    duet_future_unref(keeper.promise);
    return duet_ok();
}

struct exchange {
    duet_future *mine, *yours;
    struct thread *after; /* if given, only when this one sleeps */
    int rc;
};

/* Waits for the other's promise before it settles its own. */
static void exchange(void *arg)
{
    struct exchange *e = arg;
    if (e->after)
        thread_await_blocked(e->after);
    e->rc = duet_future_wait(e->yours, DUET_NEVER, NULL);
    int rc = duet_future_settle(e->mine, duet_ok());
    must(rc == 0 || rc == -EALREADY);
}

static duet_result exchange_run(void *arg)
{
    exchange(arg);
    return duet_ok();
}

/* What thread_await_blocked() looks at, of this thread. */
static struct thread this_thread(void)
{
    struct thread me = {.ended = open_promise()};
    atomic_store(&me.tid, gettid());
    return me;
}

/* future.h: all threads sleep in waits that only each other could end; and base.h: equals. */
thread_test(of_threads_that_wait_for_each_others_promises_the_last_to_sleep_is_told)
{
    for (int main_last = 0; main_last < 2; main_last++) {
        struct thread thread, me = this_thread();
        struct exchange a = {.mine = open_promise(), .yours = open_promise()};
        struct exchange b = {.mine = a.yours, .yours = a.mine};
        a.after = main_last ? &thread : NULL;
        b.after = main_last ? NULL : &me;
        log_capture();
        thread_start(&thread, exchange, &b);
        exchange(&a);
        must_equal(pthread_join(thread.id, NULL), 0);
        must_equal(a.rc, main_last ? -EDEADLK : 0);
        must_equal(b.rc, main_last ? 0 : -EDEADLK);
        must(a_chain_is_in_the_log());
        duet_future_unref(thread.ended);
        duet_future_unref(me.ended);
        duet_future_unref(a.mine);
        duet_future_unref(a.yours);
        log_release();
    }
}

/* A thread and work that wait for each other's promises, the thread last. */
thread_test(a_thread_that_waits_for_a_promise_of_work_that_waits_for_its_own_is_told)
{
    struct scene s;
    scene_open(&s);
    for (int i = 0; i < PLACES; i++) {
        struct exchange mine = {.mine = open_promise(), .yours = open_promise()};
        struct member m = {.name = "partner", .at = s.at[i], .by = DUET_NEVER};
        log_capture();
        waits_for(&m, mine.mine);
        start_asleep(&m);
        exchange(&mine);
        end_all(&m, 1);
        must_equal(mine.rc, -EDEADLK);
        must_equal(m.rc, 0);
        must(a_chain_is_in_the_log());
        duet_future_unref(mine.mine);
        duet_future_unref(mine.yours);
    }
    scene_close(&s);
}

/* While this thread waits by a deadline, it will be there to settle; then nobody is left. */
thread_test(of_works_that_wait_for_each_others_promises_one_is_told)
{
    struct scene s;
    scene_open(&s);
    for (int i = 0; i < PLACES * PLACES; i++) {
        struct exchange a = {.mine = open_promise(), .yours = open_promise()};
        struct exchange b = {.mine = a.yours, .yours = a.mine};
        log_capture();
        duet_future *f[] = {submit_at(&s.at[i / PLACES], exchange_run, &a, NULL),
                            submit_at(&s.at[i % PLACES], exchange_run, &b, NULL)};
        must_equal(duet_gather(f, 2, duet_ms(20), NULL), -ETIME);
        must(!a_chain_is_in_the_log());
        int told = 0; /* or it is this thread that closed the circle, and then it settles, too */
        if (duet_gather(f, 2, DUET_NEVER, NULL) == -EDEADLK) {
            told++;
            settle(a.yours);
            must(duet_future_wait(f[0], SURELY, NULL) == 0);
            must(duet_future_wait(f[1], SURELY, NULL) == 0);
        }
        told += (a.rc == -EDEADLK) + (b.rc == -EDEADLK);
        must_equal(told, 1);
        must(a_chain_is_in_the_log());
        for (int k = 0; k < 2; k++)
            duet_future_unref(f[k]);
        duet_future_unref(a.mine);
        duet_future_unref(a.yours);
    }
    scene_close(&s);
}

/* The closer is a plain thread, for which one waits by a promise. */
thread_test(who_waits_for_what_a_thread_would_do_after_the_close_is_told)
{
    for (int loop = 0; loop < 2; loop++) {
        struct member m = {.name = "waiter", .by = DUET_NEVER, .shielded = true};
        duet_future *promise = open_promise();
        log_capture();
        if (loop)
            m.at.loop = start_loop();
        else
            m.at.pool = open_pool(1);
        waits_for(&m, promise);
        start_asleep(&m);
        if (loop)
            must_equal(duet_loop_close(m.at.loop, DUET_NEVER), 0);
        else
            must_equal(duet_pool_close(m.at.pool, DUET_NEVER), 0);
        end_with_victim(&m, 1, 0);
        settle(promise);
        duet_future_unref(promise);
        log_release();
    }
}

#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
#ifndef TEST_TSAN /* this one first: there is no other thread yet */
        cmocka_unit_test(a_promise_for_which_the_only_thread_waits_is_a_deadlock),
#endif
        cmocka_unit_test(of_two_coroutines_that_wait_for_each_other_the_earliest_deadline_is_told),
        cmocka_unit_test(of_three_coroutines_in_a_ring_the_earliest_deadline_is_told),
        cmocka_unit_test(of_fifty_coroutines_in_a_ring_the_earliest_deadline_is_told),
        cmocka_unit_test(of_equal_deadlines_the_coroutine_that_closed_the_circle_is_told),
        cmocka_unit_test(of_a_coroutine_and_a_job_the_earliest_deadline_is_told),
        cmocka_unit_test(of_a_coroutine_and_a_job_with_equal_deadlines_the_closer_is_told),
        cmocka_unit_test(two_jobs_of_one_pool_that_wait_for_each_other_get_an_answer),
        cmocka_unit_test(jobs_of_two_pools_that_wait_for_each_other_get_an_answer),
        cmocka_unit_test(coroutines_of_two_loops_that_wait_for_each_other_get_an_answer),
        cmocka_unit_test(a_circle_through_two_loops_and_two_pools_gets_an_answer),
        cmocka_unit_test(two_coroutines_of_the_main_thread_get_an_answer),
        cmocka_unit_test(who_waits_again_in_the_same_circle_is_told_again),
        cmocka_unit_test(two_circles_are_answered_each_for_itself),
        cmocka_unit_test(a_circle_that_also_waits_for_another_circle_is_answered_and_so_is_that),
        cmocka_unit_test(the_log_names_the_chain),
        cmocka_unit_test(a_thread_behind_a_circle_gets_its_result),
        cmocka_unit_test(who_waits_for_the_promise_of_a_thread_behind_a_circle_gets_its_result),
        cmocka_unit_test(coroutines_and_jobs_behind_a_circle_get_their_results),
        cmocka_unit_test(a_gather_closes_a_circle_though_the_first_of_its_list_lives),
        cmocka_unit_test(a_wait_for_all_closes_a_circle_though_the_first_of_its_list_lives),
        cmocka_unit_test(a_wait_for_any_is_no_deadlock_while_one_lives),
        cmocka_unit_test(a_wait_for_any_of_a_circle_and_a_promise_is_no_deadlock),
        cmocka_unit_test(a_wait_for_any_is_in_a_knot_when_all_are),
        cmocka_unit_test(a_wait_until_failure_is_in_a_knot_when_all_are),
        cmocka_unit_test(a_wait_for_all_is_in_every_circle_of_its_list),
        cmocka_unit_test(what_is_left_of_a_knot_when_one_was_told_is_answered_too),
        cmocka_unit_test(who_waits_for_what_is_left_of_several_circles_is_not_told),
        cmocka_unit_test(a_wait_for_any_is_in_a_knot_when_the_last_live_one_waits_too),
        cmocka_unit_test(who_waits_for_any_of_a_circle_is_not_in_it),
        cmocka_unit_test(a_wait_until_failure_goes_on_while_one_lives_that_may_fail),
        cmocka_unit_test(a_wait_until_failure_is_a_deadlock_when_the_live_one_ends_well),
        cmocka_unit_test(who_comes_to_wait_while_the_answer_is_on_its_way_is_not_told),
        cmocka_unit_test(who_comes_to_wait_while_the_one_that_was_told_goes_on_is_not_told),
        cmocka_unit_test(who_comes_to_wait_while_the_circle_falls_apart_is_not_told),
        cmocka_unit_test(a_circle_is_answered_once_the_loop_of_another_member_turns),
        cmocka_unit_test(who_waits_for_one_whose_wait_for_any_has_its_answer_is_not_told),
        cmocka_unit_test(who_waits_for_one_whose_wait_was_cancelled_is_not_told),
        cmocka_unit_test(a_child_that_waits_for_its_parent_is_told_if_its_deadline_is_the_earlier),
        cmocka_unit_test(a_parent_that_waits_for_its_group_is_told_if_its_deadline_is_the_earlier),
        cmocka_unit_test(a_job_may_be_the_parent_in_the_circle),
        cmocka_unit_test(a_shielded_child_that_waits_for_the_parent_that_closes_its_group_is_told),
        cmocka_unit_test(a_caller_whose_callee_waits_for_it_is_told_after_the_callees_end),
        cmocka_unit_test(a_callee_that_waits_for_its_caller_is_told_and_its_result_arrives),
        cmocka_unit_test(of_equal_deadlines_the_callee_is_told),
        cmocka_unit_test(the_end_of_a_call_is_passed_over_and_the_shielded_callee_told),
        cmocka_unit_test(jobs_that_wait_for_jobs_behind_them_in_an_exhausted_pool_get_an_answer),
        cmocka_unit_test(jobs_that_wait_for_jobs_behind_them_go_on_while_there_are_spares),
        cmocka_unit_test(jobs_that_keep_their_slots_and_wait_for_jobs_behind_them_get_an_answer),
        cmocka_unit_test(of_two_jobs_that_keep_their_slots_the_earliest_deadline_is_told),
        cmocka_unit_test(an_offload_queued_behind_a_job_that_waits_for_the_caller_is_told),
        cmocka_unit_test(a_job_before_whose_end_the_offload_it_waits_for_cannot_start_is_told),
        cmocka_unit_test(a_job_that_keeps_its_slot_and_waits_for_room_in_its_own_pool_is_told),
        cmocka_unit_test(a_job_that_waits_for_room_in_its_own_pool_gets_it),
        cmocka_unit_test(
            a_job_that_waits_for_who_waits_for_room_is_told_if_its_deadline_is_the_earlier),
        cmocka_unit_test(a_coroutine_that_waits_for_room_behind_a_job_that_waits_for_it_is_told),
        cmocka_unit_test(a_job_run_in_place_is_in_the_circle_of_the_job_above_it),
        cmocka_unit_test(a_coroutine_that_waits_for_who_closes_its_loop_is_told),
        cmocka_unit_test(a_job_that_waits_for_who_closes_its_pool_is_told),
        cmocka_unit_test(who_waits_for_the_one_that_closes_its_handle_is_told),
        cmocka_unit_test(of_several_closes_and_one_wait_in_a_circle_the_wait_is_told),
        cmocka_unit_test(of_a_drain_and_a_job_that_waits_for_it_the_earliest_deadline_is_told),
        cmocka_unit_test(a_member_that_was_cancelled_is_no_deadlock),
        cmocka_unit_test(a_cancellation_that_races_the_circle_leaves_one_answer),
        cmocka_unit_test(a_promise_that_a_thread_settles_later_is_no_deadlock),
        cmocka_unit_test(a_promise_for_which_many_wait_by_a_borrowed_handle_is_no_deadlock),
        cmocka_unit_test(a_promise_for_which_many_wait_by_their_own_handles_is_no_deadlock),
        cmocka_unit_test(a_chain_of_waits_behind_one_that_sleeps_is_no_deadlock),
        cmocka_unit_test(a_wait_for_any_of_a_circle_and_of_a_moment_is_no_deadlock),
        cmocka_unit_test(waits_for_coroutines_queued_on_a_busy_loop_are_no_deadlock),
        cmocka_unit_test(waits_for_jobs_queued_behind_a_busy_one_are_no_deadlock),
        cmocka_unit_test(a_wait_for_a_coroutine_of_a_loop_that_a_thread_runs_later_is_no_deadlock),
        cmocka_unit_test(a_promise_that_a_callback_at_a_moment_settles_is_no_deadlock),
        cmocka_unit_test(a_promise_that_the_callback_of_a_sleeper_settles_is_no_deadlock),
        cmocka_unit_test(a_promise_that_a_sleeper_settles_is_no_deadlock),
        cmocka_unit_test(a_promise_that_a_thread_settles_after_a_sleep_in_duet_is_no_deadlock),
        cmocka_unit_test(a_promise_whose_last_settler_let_go_is_a_deadlock),
        cmocka_unit_test(a_promise_that_no_settler_holds_is_a_deadlock_from_the_start),
        cmocka_unit_test(a_thread_that_waits_for_a_promise_that_no_settler_holds_is_told),
        cmocka_unit_test(a_promise_that_its_settler_holds_is_no_deadlock),
        cmocka_unit_test(all_who_wait_for_a_promise_without_a_settler_are_told_one_after_the_other),
        cmocka_unit_test(who_is_told_may_settle_the_promise_for_the_others),
        cmocka_unit_test(a_wait_for_any_of_what_lives_and_a_promise_without_a_settler_goes_on),
        cmocka_unit_test(
            a_wait_for_all_of_what_lives_and_a_promise_without_a_settler_is_a_deadlock),
#ifndef TEST_TSAN
        cmocka_unit_test(
            a_promise_for_which_a_thread_waits_beside_an_idle_loop_and_pool_is_a_deadlock),
        cmocka_unit_test(
            a_promise_for_which_the_only_coroutine_of_the_only_thread_waits_is_a_deadlock),
        cmocka_unit_test(whoever_waits_for_a_promise_is_told_when_the_last_other_has_gone),
        cmocka_unit_test(work_of_a_loop_that_nobody_could_run_is_a_deadlock),
        cmocka_unit_test(room_in_a_loop_that_nobody_could_run_is_a_deadlock),
        cmocka_unit_test(work_of_a_loop_that_a_thread_will_run_is_no_deadlock),
        cmocka_unit_test(of_two_threads_one_of_which_was_to_run_the_loop_one_is_told),
        cmocka_unit_test(a_thread_with_a_cancellation_pending_does_not_end_within_a_wait),
        cmocka_unit_test(after_main_has_ended_the_last_thread_that_waits_is_told),
        cmocka_unit_test(
            a_child_that_waits_for_what_its_parent_would_do_after_the_group_is_a_deadlock),
        cmocka_unit_test(of_threads_that_wait_for_each_others_promises_the_last_to_sleep_is_told),
        cmocka_unit_test(a_thread_that_waits_for_a_promise_of_work_that_waits_for_its_own_is_told),
        cmocka_unit_test(of_works_that_wait_for_each_others_promises_one_is_told),
        cmocka_unit_test(who_waits_for_what_a_thread_would_do_after_the_close_is_told),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
