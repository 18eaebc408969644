/* What sync.h and base.h say of deadlock through mutexes and the other things of sync.h. The
 * deadlines in a circle are later than those of the test's own waits, by which an answer that does
 * not come is noticed. */
#include "duet_test.h"
#include "parties.h"
#include "shared.h"

#include <unistd.h>

static struct scene s;

static bool a_chain_is_in_the_log(void)
{
    return log_has("waits for");
}

/* ---- Circles ---- */

enum {
    RING_MAX = 5
};

/* Each locks its own mutex, and when it is told, that of the next one. */
struct ring {
    duet_mutex mutex[RING_MAX];
    int n;
    duet_event go[RING_MAX];
    struct party party[RING_MAX];
};

static void lock_own_and_next(struct party *p)
{
    struct ring *r = p->arg;
    duet_mutex *own = &r->mutex[p->number], *next = &r->mutex[(p->number + 1) % r->n];
    must_equal(duet_mutex_lock(own, DUET_NEVER), 0);
    arrive(p);
    must_equal(duet_event_wait(&r->go[p->number], SURELY), 0);
    arrive(p);
    p->rc = duet_mutex_lock(next, p->by);
    if (p->rc == 0)
        must_equal(duet_mutex_unlock(next), 0);
    must_equal(duet_mutex_unlock(own), 0);
}

static void ring_start(struct ring *r, int n, int kinds, const duet_deadline *by)
{
    static const char *const names[] = {"anna", "bert", "carl", "dora", "emil"};
    *r = (struct ring){.n = n};
    for (int i = 0; i < n; i++, kinds /= KINDS) {
        struct party *p = &r->party[i];
        *p = (struct party){.scene = &s, .kind = (enum kind)(kinds % KINDS), .arg = r};
        p->body = lock_own_and_next;
        p->number = i;
        p->by = by[i];
        snprintf(p->name, sizeof p->name, "%s", names[i]);
        party_start(p);
        await_asleep(p);
    }
}

/* All have theirs; each wants the next one's, one after the other. All but the victim end well, and
 * the log names it and the one that held what it wanted. */
static void ring_run(struct ring *r, int victim)
{
    log_capture();
    for (int i = 0; i < r->n; i++) {
        duet_event_set(&r->go[i]);
        if (i + 1 < r->n)
            await_asleep(&r->party[i]);
    }
    for (int i = 0; i < r->n; i++)
        must_equal(party_end(&r->party[i]), i == victim ? -EDEADLK : 0);
    must(a_chain_is_in_the_log());
    for (int i = 0; i < r->n; i++)
        must(log_has(r->party[i].name));
    must_equal(log_count("which waits for"), 1);
    log_release();
}

static const duet_deadline nevers[RING_MAX] = {
    {INT64_MAX}, {INT64_MAX}, {INT64_MAX}, {INT64_MAX}, {INT64_MAX}};

/* base.h: between equals it is the one that closed it. When it backs off, the other has its mutex.
 */
thread_test(of_two_that_lock_two_mutexes_in_opposite_orders_who_closed_the_circle_is_told)
{
    struct ring r;
    scene_open(&s);
    for (int kinds = 0; kinds < KINDS * KINDS; kinds++) {
        ring_start(&r, 2, kinds, nevers);
        ring_run(&r, 1);
    }
    scene_close(&s);
}

/* base.h: the one of them whose deadline is the earliest, wherever it sleeps. */
thread_test(of_two_that_lock_two_mutexes_in_opposite_orders_the_earliest_deadline_is_told)
{
    struct ring r;
    scene_open(&s);
    for (int kinds = 0; kinds < KINDS * KINDS; kinds++)
        for (int victim = 0; victim < 2; victim++) {
            duet_deadline by[] = {duet_sec(200), duet_sec(200)};
            by[victim] = duet_sec(100);
            if (kinds % 2)
                by[!victim] = DUET_NEVER;
            ring_start(&r, 2, kinds, by);
            ring_run(&r, victim);
        }
    scene_close(&s);
}

thread_test(of_several_that_lock_their_mutexes_in_a_ring_one_is_told)
{
    static const int mixes[] = {0, 0x55, 0xaa, 0xff, 0x1b, 0xe4, 0x127, 0x39c};
    struct ring r;
    scene_open(&s);
    for (size_t i = 0; i < sizeof mixes / sizeof mixes[0]; i++)
        for (int n = 3; n <= RING_MAX; n++) {
            duet_deadline by[RING_MAX];
            for (int k = 0; k < n; k++)
                by[k] = k == (int)i % n ? duet_sec(100) : duet_sec(200 + k);
            ring_start(&r, n, mixes[i], by);
            ring_run(&r, (int)i % n);
            ring_start(&r, n, mixes[i], nevers);
            ring_run(&r, n - 1);
        }
    scene_close(&s);
}

struct clash {
    duet_mutex mutex[2];
    int rounds, sum[2];
    atomic_int told;
};

/* Takes two in an order of its own; told, it backs off, and tries again. */
static void clash(struct party *p)
{
    struct clash *c = p->arg;
    int first = p->number % 2;
    for (int i = 0; i < c->rounds;) {
        must_equal(duet_mutex_lock(&c->mutex[first], DUET_NEVER), 0);
        if (i % 4 == 0)
            pause_party(p);
        int rc = duet_mutex_lock(&c->mutex[!first], DUET_NEVER);
        if (rc == 0) {
            c->sum[0]++;
            c->sum[1]++;
            must_equal(duet_mutex_unlock(&c->mutex[!first]), 0);
            i++;
        } else {
            must_equal(rc, -EDEADLK);
            atomic_fetch_add(&c->told, 1);
        }
        must_equal(duet_mutex_unlock(&c->mutex[first]), 0);
    }
}

/* However they clash: always somebody is told, and all come to an end. */
thread_test(those_who_back_off_when_they_are_told_get_through)
{
    struct clash c = {.rounds = test_rounds(20)};
    log_capture();
    run_crowd(clash, &c);
    log_release();
    must_equal(c.sum[0], CROWD * c.rounds);
    must_equal(c.sum[1], CROWD * c.rounds);
}

struct passers {
    duet_mutex mutex;
    int sum; /* guarded */
};

/* Holds it for so long that others look who holds it, and is gone the moment it lets go. */
static void hold_and_be_gone(struct party *p)
{
    struct passers *q = p->arg;
    must_equal(duet_mutex_lock(&q->mutex, DUET_NEVER), 0);
    struct timespec rest = {.tv_nsec = p->number * 300000L};
    if (p->number % 2)
        (void)nanosleep(&rest, NULL);
    else
        must_equal(duet_sleep(duet_ns(rest.tv_nsec)), 0);
    q->sum++;
    must_equal(duet_mutex_unlock(&q->mutex), 0);
}

/* Whoever looks for circles must not look at those who were holders, and have ended. More threads
 * end at once than the C library keeps stacks of. */
thread_test(holders_that_are_gone_once_they_have_unlocked_are_not_looked_at)
{
    enum {
        PASSERS = 14
    };
    scene_open(&s);
    log_capture();
    for (int i = test_rounds(50); i > 0; i--) {
        struct passers q = {.sum = 0};
        struct party p[PASSERS];
        for (int k = 0; k < PASSERS; k++) {
            p[k] = (struct party){.scene = &s, .body = hold_and_be_gone, .arg = &q};
            p[k].kind = k % 2 ? IN_THREAD : (enum kind)(k / 2 % KINDS);
            p[k].number = (k + i) % 5;
            party_start(&p[k]);
        }
        for (int k = 0; k < PASSERS; k++)
            (void)party_end(&p[k]);
        must_equal(q.sum, PASSERS);
    }
    must(!a_chain_is_in_the_log());
    log_release();
    scene_close(&s);
}

struct errand {
    duet_mutex mutex, other;
    duet_cond cond;
    duet_event go;
    duet_future *wanted; /* by who holds the mutex */
    duet_deadline by;
};

static void hold_and_wait_for_work(struct party *p)
{
    struct errand *e = p->arg;
    must_equal(duet_mutex_lock(&e->mutex, DUET_NEVER), 0);
    arrive(p);
    must_equal(duet_event_wait(&e->go, SURELY), 0);
    arrive(p);
    p->rc = duet_future_wait(e->wanted, p->by, NULL);
    must_equal(duet_mutex_unlock(&e->mutex), 0);
}

static void lock_it(struct party *p)
{
    struct errand *e = p->arg;
    arrive(p);
    p->rc = duet_mutex_lock(&e->mutex, p->by);
    if (p->rc == 0)
        must_equal(duet_mutex_unlock(&e->mutex), 0);
}

/* A circle of a mutex and a future. */
thread_test(of_a_holder_that_waits_for_work_that_waits_for_its_mutex_the_earliest_is_told)
{
    scene_open(&s);
    for (int pair = 0; pair < KINDS * CANCELLABLE; pair++)
        for (int victim = 0; victim < 2; victim++) {
            struct errand e = {.wanted = NULL};
            struct party holder = {.scene = &s, .body = hold_and_wait_for_work, .arg = &e};
            struct party worker = {.scene = &s, .body = lock_it, .arg = &e};
            snprintf(holder.name, sizeof holder.name, "%s", "holder");
            snprintf(worker.name, sizeof worker.name, "%s", "worker");
            holder.kind = (enum kind)(pair / CANCELLABLE);
            worker.kind = (enum kind)(pair % CANCELLABLE);
            holder.by = victim == 0 ? duet_sec(100) : DUET_NEVER;
            worker.by = victim == 1 ? duet_sec(100) : DUET_NEVER;
            log_capture();
            party_start(&holder);
            await_asleep(&holder);
            party_start(&worker);
            await_asleep(&worker);
            e.wanted = worker.f;
            duet_event_set(&e.go);
            must_equal(party_end(&holder), victim == 0 ? -EDEADLK : 0);
            must_equal(party_end(&worker), victim == 1 ? -EDEADLK : 0);
            must(a_chain_is_in_the_log());
            must(log_has("holder") && log_has("worker"));
            log_release();
        }
    scene_close(&s);
}

static duet_result lock_held_beneath(void *arg)
{
    return duet_err(duet_mutex_lock(arg, duet_sec(100)));
}

/* The holder is this thread, whose call has the later deadline. */
thread_test(who_wants_the_mutex_of_its_own_caller_is_told)
{
    duet_mutex mutex = DUET_MUTEX_INIT;
    duet_result r;
    scene_open(&s);
    log_capture();
    must_equal(duet_mutex_lock(&mutex, DUET_NEVER), 0);
    must_equal(duet_call(s.loop[0], lock_held_beneath, &mutex, DUET_NEVER, &r), 0);
    must_equal(r.err, -EDEADLK);
    must_equal(duet_offload(s.pool, lock_held_beneath, &mutex, DUET_NEVER, &r), 0);
    must_equal(r.err, -EDEADLK);
    must(a_chain_is_in_the_log());
    must_equal(duet_mutex_unlock(&mutex), 0);
    log_release();
    scene_close(&s);
}

static void lock_two_in_turn(struct party *p)
{
    struct errand *e = p->arg;
    arrive(p);
    must_equal(duet_mutex_lock(&e->mutex, DUET_NEVER), 0);
    p->rc = duet_mutex_lock(&e->other, p->by);
    if (p->rc == 0)
        must_equal(duet_mutex_unlock(&e->other), 0);
    must_equal(duet_mutex_unlock(&e->mutex), 0);
}

static void hold_the_other_and_lock(struct party *p)
{
    struct errand *e = p->arg;
    must_equal(duet_mutex_lock(&e->other, DUET_NEVER), 0);
    arrive(p);
    p->rc = duet_mutex_lock(&e->mutex, p->by);
    if (p->rc == 0)
        must_equal(duet_mutex_unlock(&e->mutex), 0);
    must_equal(duet_mutex_unlock(&e->other), 0);
}

/* Who waits for a mutex waits for whoever holds it now, not for who held it when the wait began.
 * The one that is handed it closes the circle. */
thread_test(a_circle_through_who_was_handed_the_mutex_later_is_answered)
{
    scene_open(&s);
    for (int pair = 0; pair < KINDS * KINDS; pair++) {
        struct errand e = {.wanted = NULL};
        struct party a, b;
        log_capture();
        must_equal(duet_mutex_lock(&e.mutex, DUET_NEVER), 0);
        party_begin(&a, &s, (enum kind)(pair / KINDS), lock_two_in_turn, &e,
                    pair % 3 ? DUET_NEVER : duet_sec(100));
        await_asleep(&a);
        party_begin(&b, &s, (enum kind)(pair % KINDS), hold_the_other_and_lock, &e, DUET_NEVER);
        await_asleep(&b);
        must(!a_chain_is_in_the_log());
        must_equal(duet_mutex_unlock(&e.mutex), 0);
        must_equal(party_end(&a), -EDEADLK);
        must_equal(party_end(&b), 0);
        must(a_chain_is_in_the_log());
        log_release();
    }
    scene_close(&s);
}

static void wait_in_condition(struct party *p)
{
    struct errand *e = p->arg;
    must_equal(duet_mutex_lock(&e->mutex, DUET_NEVER), 0);
    arrive(p);
    p->rc = duet_cond_wait(&e->cond, &e->mutex, p->by);
    must_equal(duet_mutex_unlock(&e->mutex), 0);
}

enum why {
    TOLD,
    LATE,
    CANCELLED
};

/* False if this thread was too slow, and the waiter's deadline passed too early. */
static bool holder_is_told(enum why why, enum kind waiter_kind, enum kind holder_kind, int ms)
{
    static const int outcomes[] = {0, -ETIME, -ECANCELED};
    struct errand e = {.cond = DUET_COND_INIT};
    struct party waiter, holder;
    log_capture();
    party_begin(&waiter, &s, waiter_kind, wait_in_condition, &e,
                why == LATE ? duet_ms(ms) : duet_sec(100));
    await_arrival(&waiter);
    party_begin(&holder, &s, holder_kind, hold_and_wait_for_work, &e, DUET_NEVER);
    await_asleep(&holder); /* it has the mutex, so that the waiter waits */
    bool late = duet_now_ns() >= waiter.by.ns;
    if (why == TOLD)
        duet_cond_signal(&e.cond);
    if (why == CANCELLED)
        duet_future_cancel(waiter.f);
    e.wanted = waiter.f;
    duet_event_set(&e.go);
    int rc = party_end(&holder);
    must_equal(party_end(&waiter), outcomes[why]);
    must(rc == -EDEADLK || (late && rc == 0));
    must(rc == 0 || a_chain_is_in_the_log());
    log_release();
    return !late;
}

/* sync.h: -EDEADLK while only m is missing never comes: the other one in the circle is told, though
 * its deadline is the later one. */
thread_test(who_lacks_only_the_mutex_of_its_condition_is_never_told)
{
    scene_open(&s);
    for (enum why why = TOLD; why <= CANCELLED; why++)
        for (int pair = 0; pair < KINDS * CANCELLABLE; pair++)
            for (int ms = 30; !holder_is_told(why, (enum kind)(pair % CANCELLABLE),
                                              (enum kind)(pair / CANCELLABLE), ms);)
                ms *= 2;
    scene_close(&s);
}

/* ---- False alarms ---- */

enum nap_kind {
    SLEEPS, /* in duet, with a deadline */
    NAPS, /* in the kernel, where duet does not see it */
    READS,
    WAITS_IN_VAIN, /* in duet, for what does not come before its deadline */
    NAPS_COUNT
};

struct nap {
    duet_mutex mutex;
    duet_sem never;
    enum nap_kind how;
    int pipe[2];
};

static void hold_and_nap(struct party *p)
{
    struct nap *n = p->arg;
    char byte;
    must_equal(duet_mutex_lock(&n->mutex, DUET_NEVER), 0);
    arrive(p);
    switch (n->how) {
    case SLEEPS:
        must_equal(duet_sleep(duet_ms(50)), 0);
        break;
    case NAPS:
        nap(50);
        break;
    case READS:
        must_equal(read(n->pipe[0], &byte, 1), 1);
        break;
    default:
        must_equal(duet_sem_wait(&n->never, duet_ms(50)), -ETIME);
    }
    must_equal(duet_mutex_unlock(&n->mutex), 0);
}

static void lock_in_the_meantime(struct party *p)
{
    struct nap *n = p->arg;
    p->rc = duet_mutex_lock(&n->mutex, DUET_NEVER);
    must_equal(duet_mutex_unlock(&n->mutex), 0);
}

/* base.h: what any thread may still do is no deadlock. */
thread_test(a_holder_that_sleeps_or_blocks_is_no_deadlock_however_many_wait)
{
    scene_open(&s);
    log_capture();
    for (enum nap_kind how = 0; how < NAPS_COUNT; how++)
        for (enum kind kind = 0; kind < KINDS; kind++) {
            struct nap n = {.how = how};
            struct party holder, p[KINDS];
            must_equal(pipe(n.pipe), 0);
            party_begin(&holder, &s, kind, hold_and_nap, &n, DUET_NEVER);
            await_arrival(&holder);
            for (enum kind k = 0; k < KINDS; k++)
                party_begin(&p[k], &s, k, lock_in_the_meantime, &n, DUET_NEVER);
            if (how == READS) {
                nap(50);
                must_equal(write(n.pipe[1], "x", 1), 1);
            } else { /* this thread waits without a limit, too */
                must_equal(duet_mutex_lock(&n.mutex, DUET_NEVER), 0);
                must_equal(duet_mutex_unlock(&n.mutex), 0);
            }
            (void)party_end(&holder);
            for (enum kind k = 0; k < KINDS; k++)
                must_equal(party_end(&p[k]), 0);
            close(n.pipe[0]);
            close(n.pipe[1]);
        }
    must(!a_chain_is_in_the_log());
    log_release();
    scene_close(&s);
}

/* This thread waits without a limit for what comes from elsewhere, 50 ms later. It has entered, and
 * so a condition's mutex is free only when it waits. */
static void begin_to_wait(struct thing *t, enum what what)
{
    thing_shut(t, what);
    thing_enter(t);
}

static void must_get(struct thing *t)
{
    must_equal(thing_wait(t, DUET_NEVER), 0);
    thing_leave(t, 0);
}

static void give_when_it_waits(void *arg)
{
    struct thing *t = arg;
    if (t->what == COND) { /* when the other one waits */
        while (duet_mutex_lock(&t->mutex, DUET_NOW) != 0)
            sched_yield();
        must_equal(duet_mutex_unlock(&t->mutex), 0);
    }
    thing_give(t);
}

static duet_result give_later(void *arg)
{
    must_equal(duet_sleep(duet_ms(50)), 0);
    give_when_it_waits(arg);
    return duet_ok();
}

static void give_after_a_nap(struct party *p)
{
    nap(50);
    give_when_it_waits(p->arg);
}

static void open_gate(void *gate)
{
    gate_open(gate);
}

thread_test(what_a_callback_a_sleeper_or_queued_work_gives_later_is_no_deadlock)
{
    scene_open(&s);
    log_capture();
    for (enum what what = SEM; what < BARRIER; what++) {
        struct thing t;
        struct gate gate = GATE_INIT;
        struct party p;
        duet_future *f;
        begin_to_wait(&t, what); /* a callback at a moment */
        f = duet_call_at(s.loop[0], duet_ms(50), give_when_it_waits, &t);
        must_get(&t);
        must_equal(finish(f).err, 0);
        for (int job = 0; job < 2; job++) { /* a sleeper */
            begin_to_wait(&t, what);
            f = job ? duet_pool_submit(s.pool, give_later, &t)
                    : duet_submit(s.loop[0], give_later, &t);
            must_get(&t);
            must_equal(finish(f).err, 0);
        }
        for (enum kind kind = 0; kind < KINDS; kind++) { /* one that blocks unseen */
            begin_to_wait(&t, what);
            party_begin(&p, &s, kind, give_after_a_nap, &t, DUET_NEVER);
            must_get(&t);
            (void)party_end(&p);
        }
        begin_to_wait(&t, what); /* a coroutine behind one that blocks the loop */
        duet_future *blocks = duet_submit(s.loop[0], gate_pass_job, &gate);
        gate_await_arrivals(&gate, 1);
        f = duet_submit(s.loop[0], give_later, &t);
        duet_future *opens = duet_call_at(s.loop[1], duet_ms(30), open_gate, &gate);
        must_get(&t);
        must_equal(finish(blocks).err, 0);
        must_equal(finish(opens).err, 0);
        must_equal(finish(f).err, 0);
    }
    must(!a_chain_is_in_the_log());
    log_release();
    scene_close(&s);
}

/* Two in opposite orders, but one of them only tries, or waits by a deadline that passes first:
 * that is its own answer, and the other one gets both. */
thread_test(who_only_tries_the_second_mutex_is_in_no_circle)
{
    struct ring r;
    scene_open(&s);
    for (int kinds = 0; kinds < KINDS * KINDS; kinds++) {
        const duet_deadline by[] = {DUET_NEVER, DUET_NOW};
        log_capture();
        ring_start(&r, 2, kinds, by);
        duet_event_set(&r.go[0]);
        await_asleep(&r.party[0]);
        duet_event_set(&r.go[1]);
        must_equal(party_end(&r.party[1]), -ETIME);
        must_equal(party_end(&r.party[0]), 0);
        must(!a_chain_is_in_the_log());
        log_release();
    }
    scene_close(&s);
}

/* ---- Nobody is left ---- */

#ifndef TEST_TSAN /* it has a thread of its own, which might give anything */

/* Nobody else can give it. The mutex is held by this thread itself: that is another matter. */
static void wait_in_vain(enum what what)
{
    struct thing t;
    thing_shut(&t, what);
    thing_enter(&t);
    must_equal(thing_wait(&t, DUET_NEVER), -EDEADLK);
    if (what == BARRIER) { /* and so it was broken */
        must_equal(thing_wait(&t, DUET_NEVER), -EPIPE);
        must_equal(duet_barrier_init(&t.barrier, 2), 0);
    }
    must_equal(thing_wait(&t, DUET_NEVER), -EDEADLK); /* again */
    thing_leave(&t, -EDEADLK);
    must(a_chain_is_in_the_log());
    if (what == SEM || what == EVENT) {
        thing_give(&t);
        must_equal(thing_wait(&t, DUET_NEVER), 0);
    }
}

thread_test(what_the_only_thread_waits_for_is_a_deadlock)
{
    for (enum what what = SEM; what < THINGS; what++) {
        log_capture();
        wait_in_vain(what);
        log_release();
    }
}

thread_test(what_a_thread_waits_for_beside_idle_loops_and_pools_is_a_deadlock)
{
    scene_open(&s);
    for (int worked = 0; worked < 2; worked++) {
        for (enum what what = SEM; what < THINGS; what++) {
            log_capture();
            wait_in_vain(what);
            log_release();
        }
        must_equal(duet_call(s.loop[0], return_ok, NULL, SURELY, NULL), 0);
        must_equal(finish(duet_pool_submit(s.pool, return_ok, NULL)).err, 0);
    }
    scene_close(&s);
}

coroutine_test(what_the_only_coroutine_waits_for_is_a_deadlock)
{
    for (enum what what = SEM; what < THINGS; what++) {
        log_capture();
        wait_in_vain(what);
        log_release();
    }
    return duet_ok();
}

/* This thread waits for the end of one that waits in vain: exactly one of the two is told. */
thread_test(of_a_party_that_waits_in_vain_and_who_waits_for_its_end_one_is_told)
{
    scene_open(&s);
    for (enum what what = SEM; what < THINGS; what++)
        for (enum kind kind = 0; kind < KINDS; kind++) {
            struct thing t;
            struct party p;
            log_capture();
            thing_shut(&t, what);
            party_begin(&p, &s, kind, wait_once, &t, DUET_NEVER);
            must_equal(duet_future_wait(p.f, duet_ms(20), NULL), -ETIME); /* I am still there */
            must(!a_chain_is_in_the_log());
            int rc = duet_future_wait(p.f, DUET_NEVER, NULL);
            if (rc == -EDEADLK)
                thing_give(&t);
            else
                must_equal(rc, 0);
            must_equal(party_end(&p), rc == 0 ? -EDEADLK : 0);
            must(a_chain_is_in_the_log());
            log_release();
        }
    scene_close(&s);
}

static void hold_and_meet(struct party *p)
{
    struct thing *t = p->arg;
    must_equal(duet_mutex_lock(&t->mutex, DUET_NEVER), 0);
    arrive(p);
    p->rc = duet_barrier_wait(&t->barrier, DUET_NEVER);
    must_equal(duet_mutex_unlock(&t->mutex), 0);
}

/* The other party wants the mutex first: exactly one is told. */
thread_test(a_holder_at_a_barrier_that_waits_for_who_wants_its_mutex_is_a_deadlock)
{
    scene_open(&s);
    for (enum kind kind = 0; kind < KINDS; kind++) {
        struct thing t;
        struct party p;
        log_capture();
        thing_shut(&t, BARRIER);
        party_begin(&p, &s, kind, hold_and_meet, &t, DUET_NEVER);
        await_asleep(&p);
        int rc = duet_mutex_lock(&t.mutex, DUET_NEVER);
        if (rc == 0) {
            must_equal(party_end(&p), -EDEADLK);
            must_equal(duet_mutex_unlock(&t.mutex), 0);
        } else {
            must_equal(rc, -EDEADLK);
            must_equal(duet_barrier_wait(&t.barrier, DUET_NEVER), 1);
            must_equal(party_end(&p), 0);
        }
        must(a_chain_is_in_the_log());
        log_release();
    }
    scene_close(&s);
}

/* ---- What races have shown ---- */

static duet_mutex held_by_runner = DUET_MUTEX_INIT;
static duet_loop *run_here;

static duet_result want_the_runners_mutex(void *arg)
{
    (void)arg;
    int rc = duet_mutex_lock(&held_by_runner, DUET_NEVER);
    duet_loop_stop(run_here);
    return duet_err(rc);
}

/* Who runs a loop could go on if somebody stopped that; here there is nobody. */
thread_test(a_coroutine_that_wants_the_mutex_of_who_runs_its_loop_is_told)
{
    log_capture();
    must_equal(duet_mutex_lock(&held_by_runner, DUET_NEVER), 0);
    must_equal(duet_loop_open(&run_here, NULL), 0);
    duet_future *f = duet_submit(run_here, want_the_runners_mutex, NULL);
    must_equal(duet_loop_run(run_here), 0);
    must_equal(finish(f).err, -EDEADLK);
    must(a_chain_is_in_the_log());
    log_release();
    must_equal(duet_mutex_unlock(&held_by_runner), 0);
    close_loop(run_here);
}

enum {
    SPIN_LEAST_NS = 940000, /* about when a wait joins those that are looked at */
    SPIN_MOST_NS = 1100000,
};

static struct pass_on {
    duet_sem there, back;
    int rounds;
} pass_on;

static void pass_permits_on(void *arg)
{
    struct pass_on *p = arg;
    for (int i = 0; i < p->rounds; i++) {
        must_equal(duet_sem_wait(&p->there, DUET_NEVER), 0);
        must_equal(duet_sem_post(&p->back), 0);
    }
}

static duet_result spin_and_post(void *ns)
{
    int64_t until = duet_now_ns() + *(int64_t *)ns;
    while (duet_now_ns() < until)
        ;
    return duet_err(duet_sem_post(&pass_on.there));
}

/* Between its token and its return a thread looks asleep, while everybody else rests. */
thread_test(a_thread_that_was_just_woken_does_not_count_as_one_that_waits)
{
    struct thread thread;
    duet_pool *pool = open_pool(1);
    unsigned seed = (unsigned)test_seed();
    duet_sem_init(&pass_on.there, 0);
    duet_sem_init(&pass_on.back, 0);
    pass_on.rounds = test_rounds(1500);
    thread_start(&thread, pass_permits_on, &pass_on);
    for (int i = 0; i < pass_on.rounds; i++) {
        int64_t ns = SPIN_LEAST_NS + rand_r(&seed) % (SPIN_MOST_NS - SPIN_LEAST_NS);
        duet_future *f = duet_pool_submit(pool, spin_and_post, &ns);
        must_equal(duet_sem_wait(&pass_on.back, DUET_NEVER), 0);
        must_equal(finish(f).err, 0);
    }
    thread_join(&thread);
    close_pool(pool);
}

#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
#ifndef TEST_TSAN /* this one first: there is no other thread yet */
        cmocka_unit_test(what_the_only_thread_waits_for_is_a_deadlock),
#endif
        cmocka_unit_test(
            of_two_that_lock_two_mutexes_in_opposite_orders_who_closed_the_circle_is_told),
        cmocka_unit_test(
            of_two_that_lock_two_mutexes_in_opposite_orders_the_earliest_deadline_is_told),
        cmocka_unit_test(of_several_that_lock_their_mutexes_in_a_ring_one_is_told),
        cmocka_unit_test(those_who_back_off_when_they_are_told_get_through),
        cmocka_unit_test(holders_that_are_gone_once_they_have_unlocked_are_not_looked_at),
        cmocka_unit_test(
            of_a_holder_that_waits_for_work_that_waits_for_its_mutex_the_earliest_is_told),
        cmocka_unit_test(who_wants_the_mutex_of_its_own_caller_is_told),
        cmocka_unit_test(a_circle_through_who_was_handed_the_mutex_later_is_answered),
        cmocka_unit_test(who_lacks_only_the_mutex_of_its_condition_is_never_told),
        cmocka_unit_test(a_holder_that_sleeps_or_blocks_is_no_deadlock_however_many_wait),
        cmocka_unit_test(what_a_callback_a_sleeper_or_queued_work_gives_later_is_no_deadlock),
        cmocka_unit_test(who_only_tries_the_second_mutex_is_in_no_circle),
#ifndef TEST_TSAN
        cmocka_unit_test(what_a_thread_waits_for_beside_idle_loops_and_pools_is_a_deadlock),
        cmocka_unit_test(what_the_only_coroutine_waits_for_is_a_deadlock),
        cmocka_unit_test(of_a_party_that_waits_in_vain_and_who_waits_for_its_end_one_is_told),
        cmocka_unit_test(a_holder_at_a_barrier_that_waits_for_who_wants_its_mutex_is_a_deadlock),
        cmocka_unit_test(a_coroutine_that_wants_the_mutex_of_who_runs_its_loop_is_told),
        cmocka_unit_test(a_thread_that_was_just_woken_does_not_count_as_one_that_waits),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
