/* What sync.h says of the condition, beside what test_sync.c has for all waits. */
#include "duet_test.h"
#include "parties.h"
#include "shared.h"

static struct scene s;

/* ---- The mutex ---- */

struct room {
    duet_mutex mutex, other;
    duet_cond cond;
    duet_event go;
    atomic_int turn;
};

static void wait_and_keep_the_mutex(struct party *p)
{
    struct room *r = p->arg;
    must_equal(duet_mutex_lock(&r->mutex, DUET_NEVER), 0);
    arrive(p);
    p->rc = duet_cond_wait(&r->cond, &r->mutex, p->by);
    duet_shield_begin();
    arrive(p);
    must_equal(duet_event_wait(&r->go, SURELY), 0);
    duet_shield_end();
    must_equal(duet_mutex_unlock(&r->mutex), 0);
}

/* sync.h: holds m again whatever it returns; and while it sleeps it does not. */
thread_test(who_waited_holds_the_mutex_again_whatever_came_of_the_wait)
{
    static const int outcomes[] = {0, -ETIME, -ECANCELED};
    scene_open(&s);
    for (size_t i = 0; i < 3; i++)
        for (enum kind kind = 0; kind < (outcomes[i] == -ECANCELED ? CANCELLABLE : KINDS); kind++) {
            struct room r = {.cond = DUET_COND_INIT};
            struct party p;
            party_begin(&p, &s, kind, wait_and_keep_the_mutex, &r,
                        outcomes[i] == -ETIME ? duet_ms(20) : DUET_NEVER);
            await_arrival(&p);
            if (outcomes[i] != -ETIME) {
                must_equal(duet_mutex_lock(&r.mutex, SURELY), 0);
                must_equal(duet_mutex_unlock(&r.mutex), 0);
            }
            if (outcomes[i] == 0)
                duet_cond_signal(&r.cond);
            if (outcomes[i] == -ECANCELED)
                duet_future_cancel(p.f);
            await_arrival(&p);
            must_equal(duet_mutex_lock(&r.mutex, DUET_NOW), -ETIME);
            must_equal(duet_mutex_unlock(&r.mutex), -EPERM);
            duet_event_set(&r.go);
            must_equal(party_end(&p), outcomes[i]);
            must_equal(duet_mutex_lock(&r.mutex, DUET_NOW), 0);
            must_equal(duet_mutex_unlock(&r.mutex), 0);
        }
    scene_close(&s);
}

static void wait_without_the_mutex(struct party *p)
{
    struct room *r = p->arg;
    const duet_deadline by[] = {DUET_NEVER, SURELY, DUET_NOW};
    for (size_t i = 0; i < sizeof by / sizeof by[0]; i++)
        must_equal(duet_cond_wait(&r->cond, &r->mutex, by[i]), -EPERM);
}

/* sync.h: -EPERM: the caller does not hold m. */
thread_test(who_does_not_hold_the_mutex_cannot_wait)
{
    scene_open(&s);
    for (enum kind kind = 0; kind < KINDS; kind++)
        for (int held = 0; held < 2; held++) {
            struct room r = {.cond = DUET_COND_INIT};
            struct party p;
            if (held)
                must_equal(duet_mutex_lock(&r.mutex, DUET_NOW), 0);
            party_begin(&p, &s, kind, wait_without_the_mutex, &r, DUET_NEVER);
            watch_end(&p);
            (void)party_end(&p);
            must_equal(duet_mutex_unlock(&r.mutex), held ? 0 : -EPERM);
        }
    scene_close(&s);
}

static void wait_with_two_mutexes(struct party *p)
{
    struct room *r = p->arg;
    must_equal(duet_mutex_lock(&r->other, DUET_NEVER), 0);
    must_equal(duet_mutex_lock(&r->mutex, DUET_NEVER), 0);
    arrive(p);
    p->rc = duet_cond_wait(&r->cond, &r->mutex, DUET_NEVER);
    must_equal(duet_mutex_unlock(&r->other), 0);
    must_equal(duet_mutex_unlock(&r->mutex), 0);
}

thread_test(a_wait_unlocks_its_mutex_and_no_other)
{
    scene_open(&s);
    for (enum kind kind = 0; kind < KINDS; kind++) {
        struct room r = {.cond = DUET_COND_INIT};
        struct party p;
        party_begin(&p, &s, kind, wait_with_two_mutexes, &r, DUET_NEVER);
        await_asleep(&p);
        must_equal(duet_mutex_lock(&r.other, DUET_NOW), -ETIME);
        must_equal(duet_mutex_lock(&r.mutex, DUET_NOW), 0);
        must_equal(duet_mutex_unlock(&r.mutex), 0);
        duet_cond_signal(&r.cond);
        must_equal(party_end(&p), 0);
    }
    scene_close(&s);
}

static void wait_when_told(struct party *p)
{
    struct room *r = p->arg;
    must_equal(duet_mutex_lock(&r->mutex, DUET_NEVER), 0);
    arrive(p);
    must_equal(duet_event_wait(&r->go, SURELY), 0);
    p->rc = duet_cond_wait(&r->cond, &r->mutex, p->by);
    p->number = atomic_fetch_add(&r->turn, 1);
    must_equal(duet_mutex_unlock(&r->mutex), 0);
}

static void lock_in_turn(struct party *p)
{
    struct room *r = p->arg;
    arrive(p);
    must_equal(duet_mutex_lock(&r->mutex, DUET_NEVER), 0);
    p->number = atomic_fetch_add(&r->turn, 1);
    must_equal(duet_mutex_unlock(&r->mutex), 0);
}

/* Even a try unlocks the mutex, and queues for it like everybody. */
thread_test(who_waits_with_a_deadline_that_has_passed_lets_the_others_have_the_mutex_first)
{
    scene_open(&s);
    for (int pair = 0; pair < KINDS * KINDS; pair++) {
        struct room r = {.cond = DUET_COND_INIT};
        struct party a, b;
        party_begin(&a, &s, (enum kind)(pair / KINDS), wait_when_told, &r,
                    pair % 2 ? DUET_NOW : duet_ms(-1));
        await_asleep(&a);
        party_begin(&b, &s, (enum kind)(pair % KINDS), lock_in_turn, &r, DUET_NEVER);
        await_asleep(&b);
        duet_event_set(&r.go);
        must_equal(party_end(&a), -ETIME);
        (void)party_end(&b);
        must_equal(b.number, 0);
        must_equal(a.number, 1);
    }
    scene_close(&s);
}

static void wait_in_room(struct party *p)
{
    struct room *r = p->arg;
    must_equal(duet_mutex_lock(&r->mutex, DUET_NEVER), 0);
    arrive(p);
    p->rc = duet_cond_wait(&r->cond, &r->mutex, p->by);
    p->number = atomic_fetch_add(&r->turn, 1);
    must_equal(duet_mutex_unlock(&r->mutex), 0);
    must(p->rc == -ECANCELED || !duet_cancelled() || duet_sleep(DUET_NOW) == -ECANCELED);
}

/* sync.h: who was told sleeps on until it has its mutex, past the deadline and cancelled; that it
 * was told counts. */
thread_test(who_was_told_waits_for_the_mutex_past_its_deadline_and_cancelled)
{
    scene_open(&s);
    for (enum kind kind = 0; kind < KINDS; kind++)
        for (int late = 1, ms = 50; late; ms *= 2) { /* until this thread was quick enough */
            struct room r = {.cond = DUET_COND_INIT};
            struct party p;
            party_begin(&p, &s, kind, wait_in_room, &r, duet_ms(ms));
            await_arrival(&p);
            must_equal(duet_mutex_lock(&r.mutex, SURELY), 0);
            duet_cond_signal(&r.cond);
            late = duet_now_ns() >= p.by.ns;
            if (kind < CANCELLABLE)
                duet_future_cancel(p.f);
            while (duet_now_ns() < p.by.ns)
                nap(1);
            if (!late)
                must_sleep_on(&p);
            must_equal(duet_mutex_unlock(&r.mutex), 0);
            int rc = party_end(&p);
            must(rc == 0 || (late && rc == -ETIME));
        }
    scene_close(&s);
}

/* sync.h: holds m again whatever it returns, and waits for it as long as that takes. */
thread_test(who_was_not_told_in_time_waits_for_the_mutex_all_the_same)
{
    scene_open(&s);
    for (int cancel = 0; cancel < 2; cancel++)
        for (enum kind kind = 0; kind < (cancel ? CANCELLABLE : KINDS); kind++)
            for (int late = 1, ms = 20; late; ms *= 2) { /* until this thread was quick enough */
                struct room r = {.cond = DUET_COND_INIT};
                struct party p;
                party_begin(&p, &s, kind, wait_in_room, &r, cancel ? DUET_NEVER : duet_ms(ms));
                await_arrival(&p);
                must_equal(duet_mutex_lock(&r.mutex, SURELY), 0);
                late = duet_now_ns() >= p.by.ns;
                if (cancel)
                    duet_future_cancel(p.f);
                while (!cancel && duet_now_ns() < p.by.ns)
                    nap(1);
                if (!late)
                    must_sleep_on(&p);
                must_equal(duet_mutex_unlock(&r.mutex), 0);
                must_equal(party_end(&p), cancel ? -ECANCELED : -ETIME);
            }
    scene_close(&s);
}

static void wait_with_the_other_mutex(struct party *p)
{
    struct room *r = p->arg;
    must_equal(duet_mutex_lock(&r->other, DUET_NEVER), 0);
    arrive(p);
    p->rc = duet_cond_wait(&r->cond, &r->other, DUET_NEVER);
    p->number = atomic_fetch_add(&r->turn, 1);
    must_equal(duet_mutex_unlock(&r->other), 0);
}

/* sync.h: different waits may use different mutexes. */
thread_test(waits_for_one_condition_may_use_different_mutexes)
{
    scene_open(&s);
    for (int pair = 0; pair < KINDS * KINDS; pair++) {
        struct room r = {.cond = DUET_COND_INIT};
        struct party p[3];
        for (int i = 0; i < 3; i++) {
            party_begin(&p[i], &s, (enum kind)(i == 1 ? pair / KINDS : pair % KINDS),
                        i == 1 ? wait_with_the_other_mutex : wait_in_room, &r, DUET_NEVER);
            await_asleep(&p[i]);
        }
        must_equal(duet_mutex_lock(&r.mutex, DUET_NOW), 0);
        duet_cond_broadcast(&r.cond);
        watch_end(&p[1]); /* the others lack theirs */
        must_equal(party_end(&p[1]), 0);
        must_equal(p[1].number, 0);
        must(!duet_future_settled(p[0].f) && !duet_future_settled(p[2].f));
        must_equal(duet_mutex_unlock(&r.mutex), 0);
        must_equal(party_end(&p[0]), 0);
        must_equal(party_end(&p[2]), 0);
        must_equal(p[0].number, 1);
        must_equal(p[2].number, 2);
    }
    scene_close(&s);
}

/* ---- Telling ---- */

/* sync.h: nobody: nothing. It is not kept for who comes later. */
thread_test(what_is_told_to_nobody_is_gone)
{
    scene_open(&s);
    for (enum kind kind = 0; kind < KINDS; kind++) {
        struct room r = {.cond = DUET_COND_INIT};
        struct party p;
        duet_cond_signal(&r.cond);
        duet_cond_broadcast(&r.cond);
        party_begin(&p, &s, kind, wait_in_room, &r, duet_ms(5));
        must_equal(party_end(&p), -ETIME);
    }
    scene_close(&s);
}

/* sync.h: tells all who wait now, in their order. */
thread_test(a_broadcast_tells_all_who_wait_in_their_order_and_nobody_who_comes_later)
{
    scene_open(&s);
    for (int held = 0; held < 2; held++) {
        struct room r = {.cond = DUET_COND_INIT};
        struct party p[QUEUE], late;
        for (int i = 0; i < QUEUE; i++) {
            party_begin(&p[i], &s, (enum kind)((i * 7) % KINDS), wait_in_room, &r, DUET_NEVER);
            await_asleep(&p[i]);
        }
        if (held)
            must_equal(duet_mutex_lock(&r.mutex, DUET_NOW), 0);
        duet_cond_broadcast(&r.cond);
        if (held)
            must_equal(duet_mutex_unlock(&r.mutex), 0);
        party_begin(&late, &s, (enum kind)held, wait_in_room, &r, DUET_NEVER);
        for (int i = 0; i < QUEUE; i++) {
            must_equal(party_end(&p[i]), 0);
            must_equal(p[i].number, i);
        }
        await_asleep(&late);
        must_sleep_on(&late);
        duet_cond_broadcast(&r.cond);
        must_equal(party_end(&late), 0);
    }
    scene_close(&s);
}

/* sync.h: who was told is queued for its mutex at once: among others who want it, in the order of
 * what they did. */
thread_test(who_was_told_is_queued_for_the_mutex_at_once)
{
    enum {
        LOCKERS = 3
    };
    scene_open(&s);
    for (int shift = 0; shift < KINDS; shift++) {
        struct room r = {.cond = DUET_COND_INIT};
        struct party waiters[QUEUE], lockers[LOCKERS];
        for (int i = 0; i < QUEUE; i++) {
            party_begin(&waiters[i], &s, (enum kind)((i + shift) % KINDS), wait_in_room, &r,
                        DUET_NEVER);
            await_asleep(&waiters[i]);
        }
        must_equal(duet_mutex_lock(&r.mutex, DUET_NOW), 0);
        for (int i = 0; i < LOCKERS; i++) {
            party_begin(&lockers[i], &s, (enum kind)((i + 2 * shift) % KINDS), lock_in_turn, &r,
                        DUET_NEVER);
            await_asleep(&lockers[i]);
            if (i + 1 < LOCKERS)
                duet_cond_signal(&r.cond);
        }
        duet_cond_broadcast(&r.cond);
        must_equal(duet_mutex_unlock(&r.mutex), 0);
        for (int i = 0; i < QUEUE; i++)
            must_equal(party_end(&waiters[i]), 0);
        for (int i = 0; i < LOCKERS; i++) {
            (void)party_end(&lockers[i]);
            must_equal(lockers[i].number, 2 * i);
        }
        for (int i = 0; i < QUEUE; i++)
            must_equal(waiters[i].number, i < LOCKERS - 1 ? 2 * i + 1 : i + LOCKERS);
    }
    scene_close(&s);
}

/* sync.h: 0: it was told by a signal or broadcast (never without). */
thread_test(as_many_as_are_told_end_their_wait_and_no_more)
{
    scene_open(&s);
    for (int told = 0; told <= QUEUE; told += 3) {
        struct room r = {.cond = DUET_COND_INIT};
        struct party p[QUEUE];
        for (int i = 0; i < QUEUE; i++)
            party_begin(&p[i], &s, (enum kind)(i % KINDS), wait_in_room, &r, DUET_NEVER);
        for (int i = 0; i < QUEUE; i++)
            await_arrival(&p[i]);
        must_equal(duet_mutex_lock(&r.mutex, SURELY), 0); /* now all of them wait */
        for (int i = 0; i < told; i++)
            duet_cond_signal(&r.cond);
        must_equal(duet_mutex_unlock(&r.mutex), 0);
        for (duet_deadline by = SURELY; atomic_load(&r.turn) < told; sched_yield())
            must(duet_now_ns() < by.ns);
        nap(10);
        must_equal(atomic_load(&r.turn), told);
        duet_cond_broadcast(&r.cond);
        for (int i = 0; i < QUEUE; i++)
            must_equal(party_end(&p[i]), 0);
    }
    scene_close(&s);
}

/* Like what_is_given_as_one_is_cancelled_is_neither_lost_nor_doubled in test_sync.c, but he who
 * tells holds the mutex, so that those who give up wait for that. */
static void tell_as_one_gives_up(enum kind kind, bool cancel, uint64_t *seed)
{
    struct room r = {.cond = DUET_COND_INIT};
    struct party a, b;
    unsigned chance = (unsigned)(test_random(seed) >> 33);
    party_begin(&a, &s, kind, wait_in_room, &r,
                cancel ? DUET_NEVER : duet_us((int64_t)(chance % 400)));
    await_arrival(&a);
    party_begin(&b, &s, (enum kind)(chance % KINDS), wait_in_room, &r, DUET_NEVER);
    await_arrival(&b);
    must_equal(duet_mutex_lock(&r.mutex, SURELY), 0);
    if (cancel)
        duet_future_cancel(a.f);
    for (volatile unsigned i = chance / KINDS % 3000; i > 0; i = i - 1)
        ;
    duet_cond_signal(&r.cond);
    must_equal(duet_mutex_unlock(&r.mutex), 0);
    int rc = party_end(&a);
    must(rc == 0 || rc == (cancel ? -ECANCELED : -ETIME));
    if (rc == 0) {
        must(!duet_future_settled(b.f));
        duet_cond_signal(&r.cond);
    }
    must_equal(party_end(&b), 0);
}

thread_test(what_is_told_as_one_gives_up_goes_to_another)
{
    uint64_t seed = test_seed();
    scene_open(&s);
    for (int cancel = 0; cancel < 2; cancel++)
        for (enum kind kind = 0; kind < (cancel ? CANCELLABLE : KINDS); kind++)
            for (int i = test_rounds(500); i > 0; i--)
                tell_as_one_gives_up(kind, cancel, &seed);
    scene_close(&s);
}

enum {
    SHELF = 3
};

struct shop {
    duet_mutex mutex;
    duet_cond more, less;
    int shelf[SHELF], used, rounds; /* guarded */
    atomic_llong sum;
};

/* Half of them bring, half of them fetch, with and without deadlines. */
static void trade(struct party *p)
{
    struct shop *shop = p->arg;
    bool brings = p->number >= CROWD / 2;
    for (int i = 1; i <= shop->rounds; i++) {
        must_equal(duet_mutex_lock(&shop->mutex, DUET_NEVER), 0);
        while (shop->used == (brings ? SHELF : 0)) {
            int rc = duet_cond_wait(brings ? &shop->less : &shop->more, &shop->mutex,
                                    i % 3 ? DUET_NEVER : duet_us(i % 100));
            must(rc == 0 || (rc == -ETIME && i % 3 == 0));
        }
        if (brings)
            shop->shelf[shop->used++] = i;
        else
            atomic_fetch_add(&shop->sum, shop->shelf[--shop->used]);
        if (i % 2) /* before or after the unlock */
            duet_cond_signal(brings ? &shop->more : &shop->less);
        must_equal(duet_mutex_unlock(&shop->mutex), 0);
        if (i % 2 == 0)
            duet_cond_signal(brings ? &shop->more : &shop->less);
    }
}

/* Each wakes one, and that is enough: no signal is lost. */
thread_test(those_who_bring_and_those_who_fetch_never_miss_each_other)
{
    struct shop shop = {.rounds = test_rounds(1500)};
    long long each = (long long)shop.rounds * (shop.rounds + 1) / 2;
    run_crowd(trade, &shop);
    must_equal(shop.used, 0);
    must_equal(atomic_load(&shop.sum), CROWD / 2 * each);
}

struct assembly {
    duet_mutex mutex;
    duet_cond cond;
    int here, generation, rounds;
};

static void assemble(struct party *p)
{
    struct assembly *a = p->arg;
    for (int i = 0; i < a->rounds; i++) {
        must_equal(duet_mutex_lock(&a->mutex, DUET_NEVER), 0);
        must_equal(a->generation, i);
        if (++a->here == CROWD) {
            a->here = 0;
            a->generation++;
            duet_cond_broadcast(&a->cond);
        } else { /* told once, by who came last: there is no need to look again */
            must_equal(duet_cond_wait(&a->cond, &a->mutex, DUET_NEVER), 0);
            must_equal(a->generation, i + 1);
        }
        must_equal(duet_mutex_unlock(&a->mutex), 0);
    }
}

thread_test(all_of_a_crowd_are_told_by_the_last_to_come_again_and_again)
{
    struct assembly a = {.rounds = test_rounds(1000)};
    run_crowd(assemble, &a);
    must_equal(a.generation, a.rounds);
}

/* ---- The end of a condition ---- */

static struct one_waiter {
    duet_mutex mutex;
    duet_cond *cond;
} one;

static void wait_until_told(void *arg)
{
    struct one_waiter *w = arg;
    must_equal(duet_mutex_lock(&w->mutex, DUET_NEVER), 0);
    must_equal(duet_cond_wait(w->cond, &w->mutex, DUET_NEVER), 0);
    must_equal(duet_mutex_unlock(&w->mutex), 0);
}

/* Who was told waits for its mutex alone, and others look at that wait. */
thread_test(a_condition_may_go_when_all_who_waited_have_been_told)
{
    struct thread thread;
    one.cond = calloc(1, sizeof *one.cond);
    must(one.cond != NULL);
    thread_start(&thread, wait_until_told, &one);
    thread_await_blocked(&thread);
    must_equal(duet_mutex_lock(&one.mutex, DUET_NEVER), 0);
    duet_cond_broadcast(one.cond);
    free(one.cond);
    must_equal(duet_sleep(duet_ms(20)), 0); /* several looks at what is waited for */
    must_equal(duet_mutex_unlock(&one.mutex), 0);
    thread_join(&thread);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(who_waited_holds_the_mutex_again_whatever_came_of_the_wait),
        cmocka_unit_test(who_does_not_hold_the_mutex_cannot_wait),
        cmocka_unit_test(a_wait_unlocks_its_mutex_and_no_other),
        cmocka_unit_test(
            who_waits_with_a_deadline_that_has_passed_lets_the_others_have_the_mutex_first),
        cmocka_unit_test(who_was_told_waits_for_the_mutex_past_its_deadline_and_cancelled),
        cmocka_unit_test(who_was_not_told_in_time_waits_for_the_mutex_all_the_same),
        cmocka_unit_test(waits_for_one_condition_may_use_different_mutexes),
        cmocka_unit_test(what_is_told_to_nobody_is_gone),
        cmocka_unit_test(a_broadcast_tells_all_who_wait_in_their_order_and_nobody_who_comes_later),
        cmocka_unit_test(who_was_told_is_queued_for_the_mutex_at_once),
        cmocka_unit_test(as_many_as_are_told_end_their_wait_and_no_more),
        cmocka_unit_test(what_is_told_as_one_gives_up_goes_to_another),
        cmocka_unit_test(those_who_bring_and_those_who_fetch_never_miss_each_other),
        cmocka_unit_test(all_of_a_crowd_are_told_by_the_last_to_come_again_and_again),
        cmocka_unit_test(a_condition_may_go_when_all_who_waited_have_been_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
