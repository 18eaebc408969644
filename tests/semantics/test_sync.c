/* What sync.h says of all waits, for each kind of waiter. What it says of each thing alone is in
 * test_locks.c (mutex, semaphore, event), test_conds.c and test_barriers.c; of deadlock in
 * test_sync_deadlock.c; of what aborts in test_sync_misuse.c. */
#include "duet_test.h"
#include "parties.h"
#include "shared.h"

static struct scene s;

/* ---- What is said of all waits ---- */

/* sync.h: every wait parks whoever calls it: a coroutine's loop goes on. What was written before is
 * seen. This thread may still give it: no deadlock. */
thread_test(a_waiter_of_each_kind_sleeps_until_it_is_given_what_it_waits_for)
{
    scene_open(&s);
    for (enum what what = 0; what < THINGS; what++)
        for (enum kind kind = 0; kind < KINDS; kind++) {
            struct thing t;
            struct party p;
            thing_shut(&t, what);
            party_begin(&p, &s, kind, wait_for_news, &t, DUET_NEVER);
            await_asleep(&p);
            must(!duet_future_settled(p.f));
            t.news = 42;
            thing_give(&t);
            must_equal(party_end(&p), 0);
            thing_must_be_at_rest(&t);
        }
    scene_close(&s);
}

static struct scene no_room; /* with a pool of one worker */

/* pool.h: a job that waits does not count: the next one runs. */
thread_test(a_job_that_waits_lends_its_slot)
{
    no_room.pool = open_pool(1);
    for (enum what what = 0; what < THINGS; what++) {
        struct thing t;
        struct party p;
        thing_shut(&t, what);
        party_begin(&p, &no_room, IN_POOL, wait_once, &t, DUET_NEVER);
        await_arrival(&p);
        must_equal(finish(duet_pool_submit(no_room.pool, return_ok, NULL)).err, 0);
        must(!duet_future_settled(p.f));
        thing_give(&t);
        must_equal(party_end(&p), 0);
    }
    close_pool(no_room.pool);
}

static void try_in_vain(struct party *p)
{
    struct thing *t = p->arg;
    const duet_deadline past[] = {DUET_NOW, duet_ms(-5), {INT64_MIN}, {1}};
    for (size_t i = 0; i < sizeof past / sizeof past[0]; i++) {
        if (t->what == BARRIER) /* who gives up breaks it */
            must_equal(duet_barrier_init(&t->barrier, 2), 0);
        thing_enter(t);
        errno = 77;
        must_equal(thing_wait(t, past[i]), -ETIME);
        must_equal(errno, 77);
        thing_leave(t, -ETIME);
    }
}

static void try_well(struct party *p)
{
    struct thing *t = p->arg;
    const duet_deadline past[] = {DUET_NOW, duet_ms(-5), {INT64_MIN}, {1}};
    for (size_t i = 0; i < sizeof past / sizeof past[0]; i++) {
        if (t->what == SEM)
            thing_give(t);
        errno = 77;
        must_equal(thing_wait(t, past[i]), t->what == BARRIER ? 1 : 0);
        must_equal(errno, 77);
        thing_leave(t, 0);
    }
}

/* sync.h: DUET_NOW makes it a try: what is there at once is taken. base.h: errno is left alone. */
thread_test(a_try_takes_what_is_there_and_never_waits)
{
    scene_open(&s);
    for (enum what what = 0; what < THINGS; what++)
        for (enum kind kind = 0; kind < KINDS; kind++) {
            struct thing t;
            struct party p;
            thing_shut(&t, what);
            party_begin(&p, &s, kind, try_in_vain, &t, DUET_NOW);
            (void)party_end(&p);
            if (what == COND) /* nothing is ever there at once */
                continue;
            if (what == BARRIER)
                must_equal(duet_barrier_init(&t.barrier, 1), 0);
            else if (what != SEM)
                thing_give(&t);
            party_begin(&p, &s, kind, try_well, &t, DUET_NOW);
            (void)party_end(&p);
            thing_must_be_at_rest(&t);
        }
    scene_close(&s);
}

static void time_out(struct party *p)
{
    struct thing *t = p->arg;
    thing_enter(t);
    duet_deadline by = duet_ms(p->number);
    p->rc = thing_wait(t, by);
    must(duet_now_ns() >= by.ns);
    thing_leave(t, p->rc);
}

/* sync.h: -ETIME: the deadline passed. */
thread_test(a_wait_for_what_does_not_come_ends_at_its_deadline_and_never_early)
{
    scene_open(&s);
    for (enum what what = 0; what < THINGS; what++) {
        struct thing t[KINDS];
        struct party p[KINDS];
        for (enum kind kind = 0; kind < KINDS; kind++) {
            thing_shut(&t[kind], what);
            p[kind] = (struct party){.scene = &s, .kind = kind, .body = time_out, .arg = &t[kind]};
            p[kind].number = 3 + 4 * (int)kind;
            party_start(&p[kind]);
        }
        for (enum kind kind = 0; kind < KINDS; kind++) {
            watch_end(&p[kind]);
            must_equal(party_end(&p[kind]), -ETIME);
            if (what == MUTEX) /* it had no effect */
                thing_give(&t[kind]);
            thing_must_be_at_rest(&t[kind]);
        }
    }
    scene_close(&s);
}

/* The first of two gives up by itself or is cancelled; what comes then is for the second. */
static void first_of_two_gives_up(enum what what, enum kind first, enum kind second, bool cancel)
{
    struct thing t;
    struct party a, b;
    thing_shut(&t, what);
    party_begin(&a, &s, first, wait_once, &t, cancel ? DUET_NEVER : duet_ms(20));
    await_asleep(&a);
    party_begin(&b, &s, second, wait_once, &t, DUET_NEVER);
    await_asleep(&b);
    if (cancel)
        duet_future_cancel(a.f);
    watch_end(&a);
    must_equal(party_end(&a), cancel ? -ECANCELED : -ETIME);
    must(!duet_future_settled(b.f));
    thing_give(&t);
    must_equal(party_end(&b), 0);
    thing_must_be_at_rest(&t);
}

/* sync.h: so nothing is lost between two, and nobody is passed over. */
thread_test(who_times_out_leaves_the_queue_and_the_next_is_served)
{
    scene_open(&s);
    for (enum what what = 0; what < BARRIER; what++)
        for (int pair = 0; pair < KINDS * KINDS; pair++)
            first_of_two_gives_up(what, (enum kind)(pair / KINDS), (enum kind)(pair % KINDS),
                                  false);
    scene_close(&s);
}

thread_test(who_is_cancelled_leaves_the_queue_and_the_next_is_served)
{
    scene_open(&s);
    for (enum what what = 0; what < BARRIER; what++)
        for (int pair = 0; pair < CANCELLABLE * KINDS; pair++)
            first_of_two_gives_up(what, (enum kind)(pair / KINDS), (enum kind)(pair % KINDS), true);
    scene_close(&s);
}

static void wait_though_cancelled(struct party *p)
{
    struct thing *t = p->arg;
    const duet_deadline by[] = {DUET_NEVER, SURELY, DUET_NOW, duet_ms(-1)};
    if (t->what == COND) /* while it still can */
        must_equal(duet_mutex_lock(&t->mutex, DUET_NEVER), 0);
    await_cancellation(p);
    for (size_t i = 0; i < sizeof by / sizeof by[0]; i++)
        must_equal(thing_wait(t, by[i]), -ECANCELED);
    if (t->what == COND) {
        must_equal(duet_mutex_unlock(&t->mutex), 0);
        return;
    }
    duet_shield_begin();
    must_equal(thing_wait(t, DUET_NEVER), 0); /* it was still there */
    duet_shield_end();
    thing_give(t); /* what does not wait goes on as ever */
    must_equal(thing_wait(t, DUET_NEVER), -ECANCELED);
}

/* sync.h: then nothing was taken, though it was there (unless it shields). */
thread_test(who_is_cancelled_before_it_comes_takes_nothing_though_it_is_there)
{
    scene_open(&s);
    for (enum what what = 0; what < BARRIER; what++)
        for (enum kind kind = 0; kind < CANCELLABLE; kind++) {
            struct thing t;
            struct party p;
            thing_shut(&t, what);
            thing_give(&t);
            party_begin(&p, &s, kind, wait_though_cancelled, &t, DUET_NEVER);
            await_arrival(&p);
            duet_future_cancel(p.f);
            (void)party_end(&p);
            if (what == SEM)
                must_equal(duet_sem_wait(&t.sem, DUET_NOW), 0);
            if (what == EVENT)
                must(duet_event_is_set(&t.event));
            thing_must_be_at_rest(&t);
        }
    scene_close(&s);
}

static void wait_shielded(struct party *p)
{
    duet_shield_begin();
    wait_once(p);
    duet_shield_end();
    must(duet_cancelled());
    must_equal(duet_sleep(DUET_NOW), -ECANCELED);
}

/* sync.h: unless it shields. */
thread_test(under_a_shield_a_cancelled_waiter_waits_on)
{
    scene_open(&s);
    for (enum what what = 0; what < THINGS; what++)
        for (enum kind kind = 0; kind < CANCELLABLE; kind++) {
            struct thing t;
            struct party p;
            thing_shut(&t, what);
            party_begin(&p, &s, kind, wait_shielded, &t, DUET_NEVER);
            await_asleep(&p);
            duet_future_cancel(p.f);
            must_sleep_on(&p);
            thing_give(&t);
            must_equal(party_end(&p), 0);
            thing_must_be_at_rest(&t);
        }
    scene_close(&s);
}

/* ---- First come, first served ---- */

/* Parties of all kinds, each asleep before the next comes. */
static void queue_up(struct party *p, struct thing *t)
{
    for (int i = 0; i < QUEUE; i++) {
        party_begin(&p[i], &s, (enum kind)((i * 7) % KINDS), wait_once, t, DUET_NEVER);
        await_asleep(&p[i]);
    }
}

thread_test(waiters_of_all_kinds_are_served_in_the_order_in_which_they_came)
{
    struct party p[QUEUE];
    scene_open(&s);
    for (enum what what = 0; what < ONE_AT_A_TIME; what++) {
        struct thing t;
        thing_shut(&t, what);
        queue_up(p, &t);
        for (int i = 0; i < QUEUE; i++) {
            if (what != MUTEX || i == 0) /* who had that gives it to the next */
                thing_give(&t);
            must_equal(party_end(&p[i]), 0);
            must_equal(p[i].number, i);
            if (what != MUTEX && i + 1 < QUEUE)
                must(!duet_future_settled(p[i + 1].f));
        }
        thing_must_be_at_rest(&t);
    }
    scene_close(&s);
}

/* Of each three of one kind, the middle one: all kinds give up. */
static bool gives_up(int i)
{
    return i / KINDS == 1 && (i * 7) % KINDS < CANCELLABLE;
}

thread_test(who_gives_up_leaves_the_order_of_the_others_as_it_was)
{
    struct party p[QUEUE];
    scene_open(&s);
    for (enum what what = 0; what < ONE_AT_A_TIME; what++) {
        struct thing t;
        int turn = 0;
        thing_shut(&t, what);
        queue_up(p, &t);
        for (int i = QUEUE - 1; i >= 0; i--)
            if (gives_up(i)) {
                duet_future_cancel(p[i].f);
                must_equal(party_end(&p[i]), -ECANCELED);
                turn++;
            }
        must_equal(turn, CANCELLABLE);
        for (int i = 0; i < QUEUE; i++) {
            if (gives_up(i))
                continue;
            if (what != MUTEX || i == 0)
                thing_give(&t);
            must_equal(party_end(&p[i]), 0);
            must_equal(p[i].number, turn++);
        }
        thing_must_be_at_rest(&t);
    }
    scene_close(&s);
}

struct keeping {
    struct thing t;
    duet_event keep; /* until this one is set */
};

static void wait_and_keep(struct party *p)
{
    struct keeping *k = p->arg;
    thing_enter(&k->t);
    arrive(p);
    p->rc = thing_wait(&k->t, DUET_NEVER);
    must_equal(duet_event_wait(&k->keep, SURELY), 0);
    thing_leave(&k->t, p->rc);
}

/* sync.h: handed to who has waited longest, in that moment: nobody who comes later gets ahead. The
 * waiter has no chance to run before this thread tries. */
thread_test(what_is_let_go_of_is_handed_over_in_that_moment)
{
    scene_open(&s);
    for (enum what what = 0; what < ONE_AT_A_TIME; what++)
        for (enum kind kind = 0; kind < KINDS; kind++) {
            struct keeping k = {.keep = DUET_EVENT_INIT};
            struct party p;
            struct stop stop;
            thing_shut(&k.t, what);
            party_begin(&p, &s, kind, wait_and_keep, &k, DUET_NEVER);
            await_asleep(&p);
            if (kind < IN_POOL)
                stop_loop(&stop, s.loop[kind]);
            thing_give(&k.t);
            if (what == SEM)
                must_equal(duet_sem_wait(&k.t.sem, DUET_NOW), -ETIME);
            else
                must_equal(duet_mutex_lock(&k.t.mutex, DUET_NOW), -ETIME);
            if (kind < IN_POOL)
                go_on(&stop);
            duet_event_set(&k.keep);
            must_equal(party_end(&p), 0);
            thing_must_be_at_rest(&k.t);
        }
    scene_close(&s);
}

static void wait_then_wait_again(struct party *p)
{
    wait_once(p);
    while (!duet_cancelled()) /* it was woken first, and is cancelled at once */
        sched_yield();
    must_equal(duet_sleep(DUET_NOW), -ECANCELED);
}

/* sync.h: that wait returns 0 (and the next one -ECANCELED). */
thread_test(what_was_handed_over_is_received_though_the_waiter_is_cancelled_before_it_runs)
{
    scene_open(&s);
    for (enum what what = 0; what < THINGS; what++)
        for (enum kind kind = 0; kind < CANCELLABLE; kind++) {
            struct thing t;
            struct party p;
            struct stop stop;
            thing_shut(&t, what);
            party_begin(&p, &s, kind, wait_then_wait_again, &t, DUET_NEVER);
            await_asleep(&p);
            if (kind < IN_POOL)
                stop_loop(&stop, s.loop[kind]);
            thing_give(&t);
            duet_future_cancel(p.f);
            if (kind < IN_POOL)
                go_on(&stop);
            must_equal(party_end(&p), 0);
            thing_must_be_at_rest(&t);
        }
    scene_close(&s);
}

/* sync.h: what is handed over counts as received, even if the deadline passes. */
thread_test(what_was_handed_over_is_received_though_the_deadline_passes_before_the_waiter_runs)
{
    scene_open(&s);
    for (enum what what = 0; what < THINGS; what++)
        for (int late = 1, ms = 50; late; ms *= 2) { /* until this thread was quick enough */
            struct thing t;
            struct party p;
            struct stop stop;
            thing_shut(&t, what);
            party_begin(&p, &s, ON_LOOP, wait_once, &t, duet_ms(ms));
            await_asleep(&p);
            stop_loop(&stop, s.loop[0]);
            if (what != BARRIER || duet_now_ns() < p.by.ns)
                thing_give(&t);
            late = duet_now_ns() >= p.by.ns;
            while (duet_now_ns() < p.by.ns)
                nap(1);
            go_on(&stop);
            int rc = party_end(&p);
            must(rc == 0 || (late && rc == -ETIME));
        }
    scene_close(&s);
}

/* ---- Giving and giving up at once ---- */

struct rival {
    atomic_int round, done; /* which round has been called; and which is done */
    atomic_uint delay;
    duet_future *target;
};

static void spin(unsigned n)
{
    for (volatile unsigned i = 0; i < n; i = i + 1)
        ;
}

/* Cancels the target of each round, until there is none. */
static void cancel_in_each_round(void *arg)
{
    struct rival *r = arg;
    for (int round = 1;; round++) {
        while (atomic_load(&r->round) < round)
            sched_yield();
        if (r->target == NULL)
            return;
        spin(atomic_load(&r->delay));
        duet_future_cancel(r->target);
        duet_future_unref(r->target);
        atomic_store(&r->done, round);
    }
}

static void call_round(struct rival *r, duet_future *target)
{
    r->target = target ? duet_future_ref(target) : NULL;
    atomic_fetch_add(&r->round, 1);
}

/* Two wait, and the first gives up in the moment in which one is served: if it is not that one, the
 * other one is. `rival` cancels it, or else its deadline passes. */
static void give_as_one_gives_up(enum what what, enum kind kind, struct rival *rival,
                                 uint64_t *seed)
{
    struct thing t;
    struct party a, b;
    unsigned chance = (unsigned)(test_random(seed) >> 33);
    thing_shut(&t, what);
    party_begin(&a, &s, kind, wait_once, &t, rival ? DUET_NEVER : duet_us((int64_t)(chance % 400)));
    await_arrival(&a);
    party_begin(&b, &s, (enum kind)(chance % KINDS), wait_once, &t, DUET_NEVER);
    await_arrival(&b);
    if (what == COND) { /* now both wait, or have given up */
        must_equal(duet_mutex_lock(&t.mutex, SURELY), 0);
        must_equal(duet_mutex_unlock(&t.mutex), 0);
    }
    if (rival) {
        atomic_store(&rival->delay, chance / KINDS % 2000);
        call_round(rival, a.f);
    }
    spin(chance / KINDS % 3000);
    thing_give(&t);
    int rc = party_end(&a);
    must(rc == 0 || rc == (rival ? -ECANCELED : -ETIME));
    if (rc == 0 && (what == SEM || what == COND)) { /* not doubled: the other one waits still */
        must(what == COND || duet_sem_wait(&t.sem, DUET_NOW) == -ETIME);
        thing_give(&t);
    }
    must_equal(party_end(&b), 0); /* not lost */
    if (what == EVENT)
        must(duet_event_is_set(&t.event));
    thing_must_be_at_rest(&t);
    while (rival && atomic_load(&rival->done) < atomic_load(&rival->round))
        sched_yield();
}

/* sync.h: so nothing is lost between two. */
thread_test(what_is_given_as_one_is_cancelled_is_neither_lost_nor_doubled)
{
    struct rival rival = {.target = NULL};
    struct thread thread;
    uint64_t seed = test_seed();
    scene_open(&s);
    thread_start(&thread, cancel_in_each_round, &rival);
    for (enum what what = 0; what < BARRIER; what++)
        for (enum kind kind = 0; kind < CANCELLABLE; kind++)
            for (int i = test_rounds(600); i > 0; i--)
                give_as_one_gives_up(what, kind, &rival, &seed);
    call_round(&rival, NULL);
    thread_join(&thread);
    scene_close(&s);
}

thread_test(what_is_given_as_a_deadline_passes_is_neither_lost_nor_doubled)
{
    uint64_t seed = test_seed();
    scene_open(&s);
    for (enum what what = 0; what < BARRIER; what++)
        for (enum kind kind = 0; kind < KINDS; kind++)
            for (int i = test_rounds(400); i > 0; i--)
                give_as_one_gives_up(what, kind, NULL, &seed);
    scene_close(&s);
}

/* ---- Who was let in may free it at once ---- */

/* Things go from who waits for them, and frees them, to who gives them. */
struct post {
    struct thing *thing;
    duet_sem sent, locked, done;
    int rounds;
};

static void publish(struct post *post, struct thing *t)
{
    post->thing = t;
    must_equal(duet_sem_post(&post->sent), 0);
    if (t->what == MUTEX)
        must_equal(duet_sem_wait(&post->locked, SURELY), 0);
}

/* Only what the other one holds is not ready. */
static void prepare(struct thing *t, enum what what)
{
    *t = (struct thing){.what = what};
    if (what == BARRIER)
        must_equal(duet_barrier_init(&t->barrier, 2), 0);
    thing_enter(t);
}

__attribute__((noinline)) static void use_the_stack(void)
{
    volatile char frame[2 * sizeof(struct thing)];
    for (size_t i = 0; i < sizeof frame; i++)
        frame[i] = 0x5a;
    for (size_t i = 0; i < sizeof frame; i++)
        must_equal(frame[i], 0x5a);
}

static void wait_and_overwrite(struct party *p, struct thing *t)
{
    struct post *post = p->arg;
    publish(post, t);
    int rc = thing_wait(t, SURELY);
    must(rc == 0 || (t->what == BARRIER && rc == 1));
    thing_leave(t, rc);
    if (rc == 1) /* it was not let in, but let the other one in */
        must_equal(duet_sem_wait(&post->done, SURELY), 0);
    memset((void *)t, 0xa5, sizeof *t); /* and if it is on the heap, it is freed at once */
    p->rc = rc;
}

__attribute__((noinline)) static void wait_on_the_stack(struct party *p)
{
    struct thing t;
    prepare(&t, (enum what)p->number);
    wait_and_overwrite(p, &t);
}

static void wait_on_the_heap(struct party *p)
{
    struct thing *t = malloc(sizeof *t);
    must(t != NULL);
    prepare(t, (enum what)p->number);
    wait_and_overwrite(p, t);
    free(t);
}

static void wait_and_free(struct party *p)
{
    struct post *post = p->arg;
    for (int i = 0; i < post->rounds; i++) {
        if (i % 2)
            wait_on_the_heap(p);
        else
            wait_on_the_stack(p);
        use_the_stack();
        if (p->rc == 0)
            must_equal(duet_sem_wait(&post->done, SURELY), 0);
    }
}

static void give_what_will_be_freed(struct party *p)
{
    struct post *post = p->arg;
    for (int i = 0; i < post->rounds; i++) {
        must_equal(duet_sem_wait(&post->sent, SURELY), 0);
        struct thing *t = post->thing;
        switch (t->what) {
        case MUTEX:
            must_equal(duet_mutex_lock(&t->mutex, DUET_NOW), 0);
            must_equal(duet_sem_post(&post->locked), 0);
            pause_party(p); /* else nobody would ever wait, on the same loop */
            must_equal(duet_mutex_unlock(&t->mutex), 0);
            break;
        case COND: /* it waits when it has let go of the mutex */
            must_equal(duet_mutex_lock(&t->mutex, SURELY), 0);
            must_equal(duet_mutex_unlock(&t->mutex), 0);
            thing_give(t);
            break;
        case BARRIER:
            must(duet_barrier_wait(&t->barrier, SURELY) >= 0);
            break;
        default:
            thing_give(t);
        }
        must_equal(duet_sem_post(&post->done), 0);
    }
}

/* sync.h: whoever was let in or woken by a call may free the object at once: that call does not
 * touch it any more. For the sanitizers, and the one of addresses sees the stack, too. */
thread_test(who_was_let_in_may_free_it_though_the_call_that_did_so_has_not_returned)
{
    scene_open(&s);
    for (enum what what = 0; what < THINGS; what++)
        for (int pair = 0; pair < KINDS * KINDS; pair++) {
            struct post post = {.rounds = test_rounds(200)};
            struct party p[2] = {
                {.kind = (enum kind)(pair / KINDS), .body = wait_and_free, .number = (int)what},
                {.kind = (enum kind)(pair % KINDS), .body = give_what_will_be_freed}};
            for (int i = 0; i < 2; i++) {
                p[i].scene = &s;
                p[i].arg = &post;
                party_start(&p[i]);
            }
            for (int i = 0; i < 2; i++)
                (void)party_end(&p[i]);
        }
    scene_close(&s);
}

/* ---- Bare callbacks ---- */

static void wait_in_vain_bare(void *arg)
{
    struct thing *t = arg;
    const duet_deadline by[] = {DUET_NEVER, SURELY, duet_ms(20)};
    for (size_t i = 0; i < sizeof by / sizeof by[0]; i++) {
        if (t->what == BARRIER)
            must_equal(duet_barrier_init(&t->barrier, 2), 0);
        thing_enter(t);
        must_equal(thing_wait(t, by[i]), -EDEADLK);
        thing_leave(t, -EDEADLK); /* a condition's mutex is held */
    }
    if (t->what == BARRIER)
        must_equal(duet_barrier_init(&t->barrier, 2), 0);
    thing_enter(t);
    int rc = thing_wait(t, DUET_NOW); /* a try that fails, or a wait that must not be */
    must(rc == -ETIME || rc == -EDEADLK);
    thing_leave(t, rc);
}

static void wait_well_bare(void *arg)
{
    struct thing *t = arg;
    const duet_deadline by[] = {DUET_NEVER, DUET_NOW, SURELY};
    for (size_t i = 0; i < sizeof by / sizeof by[0]; i++) {
        if (t->what == SEM)
            thing_give(t);
        must_equal(thing_wait(t, by[i]), t->what == BARRIER ? 1 : 0);
        thing_leave(t, 0);
    }
}

/* sync.h: -EDEADLK: it is in a bare callback, and cannot be had at once. */
thread_test(a_bare_callback_gets_what_is_there_and_edeadlk_for_what_is_not)
{
    scene_open(&s);
    for (enum what what = 0; what < THINGS; what++) {
        struct thing t;
        thing_shut(&t, what);
        run_bare(s.loop[0], wait_in_vain_bare, &t);
        if (what == MUTEX || what == EVENT)
            thing_give(&t);
        if (what == BARRIER)
            must_equal(duet_barrier_init(&t.barrier, 1), 0);
        if (what != COND)
            run_bare(s.loop[0], wait_well_bare, &t);
        thing_must_be_at_rest(&t);
    }
    scene_close(&s);
}

static void give_bare(void *arg)
{
    thing_give(arg);
}

/* sync.h: [any] */
thread_test(a_bare_callback_may_give_what_others_wait_for)
{
    scene_open(&s);
    for (enum what what = SEM; what < THINGS; what++)
        for (enum kind kind = 0; kind < KINDS; kind++) {
            struct thing t;
            struct party p;
            thing_shut(&t, what);
            party_begin(&p, &s, kind, wait_once, &t, DUET_NEVER);
            await_asleep(&p);
            run_bare(s.loop[0], give_bare, &t);
            must_equal(party_end(&p), 0);
        }
    scene_close(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_waiter_of_each_kind_sleeps_until_it_is_given_what_it_waits_for),
        cmocka_unit_test(a_job_that_waits_lends_its_slot),
        cmocka_unit_test(a_try_takes_what_is_there_and_never_waits),
        cmocka_unit_test(a_wait_for_what_does_not_come_ends_at_its_deadline_and_never_early),
        cmocka_unit_test(who_times_out_leaves_the_queue_and_the_next_is_served),
        cmocka_unit_test(who_is_cancelled_leaves_the_queue_and_the_next_is_served),
        cmocka_unit_test(who_is_cancelled_before_it_comes_takes_nothing_though_it_is_there),
        cmocka_unit_test(under_a_shield_a_cancelled_waiter_waits_on),
        cmocka_unit_test(waiters_of_all_kinds_are_served_in_the_order_in_which_they_came),
        cmocka_unit_test(who_gives_up_leaves_the_order_of_the_others_as_it_was),
        cmocka_unit_test(what_is_let_go_of_is_handed_over_in_that_moment),
        cmocka_unit_test(
            what_was_handed_over_is_received_though_the_waiter_is_cancelled_before_it_runs),
        cmocka_unit_test(
            what_was_handed_over_is_received_though_the_deadline_passes_before_the_waiter_runs),
        cmocka_unit_test(what_is_given_as_one_is_cancelled_is_neither_lost_nor_doubled),
        cmocka_unit_test(what_is_given_as_a_deadline_passes_is_neither_lost_nor_doubled),
        cmocka_unit_test(who_was_let_in_may_free_it_though_the_call_that_did_so_has_not_returned),
        cmocka_unit_test(a_bare_callback_gets_what_is_there_and_edeadlk_for_what_is_not),
        cmocka_unit_test(a_bare_callback_may_give_what_others_wait_for),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
