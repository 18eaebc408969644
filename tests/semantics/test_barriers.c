/* What sync.h says of the barrier, beside what test_sync.c has for all waits. */
#include "duet_test.h"
#include "parties.h"
#include "shared.h"

static struct scene s;

static void meet(struct party *p)
{
    arrive(p);
    p->rc = duet_barrier_wait(p->arg, p->by);
}

/* n parties of all kinds are asleep at the barrier. */
static void gather_parties(struct party *p, int n, duet_barrier *b)
{
    for (int i = 0; i < n; i++)
        party_begin(&p[i], &s, (enum kind)(i % KINDS), meet, b, DUET_NEVER);
    for (int i = 0; i < n; i++)
        await_asleep(&p[i]);
}

static void all_must_end_with(struct party *p, int n, int rc)
{
    for (int i = 0; i < n; i++)
        must_equal(party_end(&p[i]), rc);
}

static void must_be_broken_for_each_kind(duet_barrier *b)
{
    const duet_deadline by[] = {DUET_NEVER, DUET_NOW};
    for (int i = 0; i < 2; i++) {
        must_equal(duet_barrier_wait(b, by[i]), -EPIPE);
        for (enum kind kind = 0; kind < KINDS; kind++) {
            struct party p;
            party_begin(&p, &s, kind, meet, b, by[i]);
            must_equal(party_end(&p), -EPIPE);
        }
    }
}

/* It is mended: so many meet, this thread the last of them. */
static void must_meet(duet_barrier *b, int n)
{
    struct party p[QUEUE];
    gather_parties(p, n - 1, b);
    must_equal(duet_barrier_wait(b, DUET_NEVER), 1);
    all_must_end_with(p, n - 1, 0);
}

/* ---- Meeting ---- */

/* sync.h: 1 for one of them (the last to come), 0 for the rest. */
thread_test(the_last_to_come_gets_1_and_the_rest_0)
{
    scene_open(&s);
    for (int n = 2; n <= QUEUE; n += 3)
        for (enum kind kind = 0; kind < KINDS; kind++) {
            duet_barrier b;
            struct party p[QUEUE], last;
            must_equal(duet_barrier_init(&b, (unsigned)n), 0);
            for (int round = 0; round < 2; round++) { /* then the next round begins */
                gather_parties(p, n - 1, &b);
                for (int i = 0; i < n - 1; i++)
                    must(!duet_future_settled(p[i].f));
                party_begin(&last, &s, kind, meet, &b, DUET_NEVER);
                must_equal(party_end(&last), 1);
                all_must_end_with(p, n - 1, 0);
            }
        }
    scene_close(&s);
}

static void meet_alone(struct party *p)
{
    const duet_deadline by[] = {DUET_NEVER, DUET_NOW, duet_ms(-1), SURELY};
    for (size_t i = 0; i < sizeof by / sizeof by[0]; i++)
        must_equal(duet_barrier_wait(p->arg, by[i]), 1);
}

thread_test(a_party_of_one_is_always_the_last)
{
    scene_open(&s);
    for (enum kind kind = 0; kind < KINDS; kind++) {
        duet_barrier b;
        struct party p;
        must_equal(duet_barrier_init(&b, 1), 0);
        party_begin(&p, &s, kind, meet_alone, &b, DUET_NEVER);
        (void)party_end(&p);
    }
    scene_close(&s);
}

enum {
    ROUNDS_MAX = 2000
};

struct march {
    duet_barrier barrier;
    int rounds;
    atomic_int came[ROUNDS_MAX], ones[ROUNDS_MAX];
    int steps[CROWD][ROUNDS_MAX];
};

static void march(struct party *p)
{
    struct march *m = p->arg;
    for (int i = 0; i < m->rounds; i++) {
        m->steps[p->number][i] = i + p->number;
        atomic_fetch_add(&m->came[i], 1);
        int rc = duet_barrier_wait(&m->barrier, i % 3 ? DUET_NEVER : SURELY);
        must(rc == 0 || rc == 1);
        atomic_fetch_add(&m->ones[i], rc);
        must_equal(atomic_load(&m->came[i]), CROWD); /* nobody goes on before all have come */
        for (int k = 0; k < CROWD; k++)
            must_equal(m->steps[k][i], i + k);
        if ((i + p->number) % 7 == 0)
            pause_party(p);
    }
}

/* sync.h: so many parties meet, again and again; 1 for one of them. */
thread_test(in_each_of_many_rounds_all_kinds_meet_and_exactly_one_gets_1)
{
    static struct march m;
    memset((void *)&m, 0, sizeof m);
    m.rounds = test_rounds(ROUNDS_MAX) < ROUNDS_MAX ? test_rounds(ROUNDS_MAX) : ROUNDS_MAX;
    must_equal(duet_barrier_init(&m.barrier, CROWD), 0);
    run_crowd(march, &m);
    for (int i = 0; i < m.rounds; i++)
        must_equal(atomic_load(&m.ones[i]), 1);
}

static duet_result meet_in_turn(void *arg)
{
    int ones = 0;
    for (int i = 0; i < 100; i++) {
        int rc = duet_barrier_wait(arg, DUET_NEVER);
        must(rc == 0 || rc == 1);
        ones += rc;
    }
    return duet_i64(ones);
}

/* On one thread, which nobody else can wake. */
coroutine_test(coroutines_of_one_loop_meet)
{
    duet_barrier b;
    duet_future *f[5];
    duet_result r[5];
    int64_t ones = 0;
    must_equal(duet_barrier_init(&b, 5), 0);
    for (int i = 0; i < 5; i++)
        f[i] = duet_spawn(meet_in_turn, &b);
    must_equal(duet_gather(f, 5, DUET_NEVER, r), 0);
    for (int i = 0; i < 5; i++) {
        ones += duet_as_i64(r[i]);
        duet_future_unref(f[i]);
    }
    must_equal(ones, 100);
    return duet_ok();
}

/* sync.h: what is handed over counts as received: breaking it later does not take it back. */
thread_test(who_was_let_go_on_gets_0_though_the_barrier_breaks_before_it_runs)
{
    scene_open(&s);
    for (enum kind kind = 0; kind < KINDS; kind++) {
        duet_barrier b;
        struct party p;
        struct stop stop;
        must_equal(duet_barrier_init(&b, 2), 0);
        party_begin(&p, &s, kind, meet, &b, DUET_NEVER);
        await_asleep(&p);
        if (kind < IN_POOL)
            stop_loop(&stop, s.loop[kind]);
        must_equal(duet_barrier_wait(&b, DUET_NOW), 1);
        duet_barrier_abort(&b);
        if (kind < IN_POOL)
            go_on(&stop);
        must_equal(party_end(&p), 0);
    }
    scene_close(&s);
}

/* ---- Breaking ---- */

enum {
    OTHERS = KINDS
};

static void come_cancelled(struct party *p)
{
    await_cancellation(p);
    p->rc = duet_barrier_wait(p->arg, DUET_NEVER);
}

enum how {
    TIME_OUT,
    TRY,
    CANCELLED,
    CANCELLED_BEFORE,
    HOWS
};

/* One more than wait comes, not enough, and gives up. */
static void break_it(duet_barrier *b, enum kind kind, enum how how)
{
    struct party p;
    party_begin(&p, &s, kind, how == CANCELLED_BEFORE ? come_cancelled : meet, b,
                how == TIME_OUT ? duet_ms(20)
                : how == TRY    ? DUET_NOW
                                : DUET_NEVER);
    if (how == CANCELLED)
        await_asleep(&p);
    if (how == CANCELLED_BEFORE)
        await_arrival(&p);
    if (how >= CANCELLED)
        duet_future_cancel(p.f);
    must_equal(party_end(&p), how >= CANCELLED ? -ECANCELED : -ETIME);
}

/* sync.h: a party that gives up, for whatever reason, breaks it. Also mends one that is broken. */
thread_test(who_gives_up_breaks_the_barrier_for_all_until_it_is_mended)
{
    scene_open(&s);
    for (enum how how = 0; how < HOWS; how++)
        for (enum kind kind = 0; kind < (how >= CANCELLED ? CANCELLABLE : KINDS); kind++)
            for (int others = 0; others <= OTHERS; others += OTHERS) {
                duet_barrier b;
                struct party p[OTHERS];
                must_equal(duet_barrier_init(&b, OTHERS + 2), 0);
                gather_parties(p, others, &b);
                break_it(&b, kind, how);
                all_must_end_with(p, others, -EPIPE);
                must_be_broken_for_each_kind(&b);
                must_equal(duet_barrier_init(&b, 3), 0);
                must_meet(&b, 3);
            }
    scene_close(&s);
}

/* The last to come, or the only party, is cancelled before it comes: it never came. */
thread_test(who_is_cancelled_before_it_comes_as_the_last_has_not_come)
{
    scene_open(&s);
    for (unsigned n = 1; n < 3; n++)
        for (enum kind kind = 0; kind < CANCELLABLE; kind++) {
            duet_barrier b;
            struct party p;
            must_equal(duet_barrier_init(&b, n), 0);
            gather_parties(&p, (int)n - 1, &b);
            break_it(&b, kind, CANCELLED_BEFORE);
            all_must_end_with(&p, (int)n - 1, -EPIPE);
            must_equal(duet_barrier_wait(&b, DUET_NEVER), -EPIPE);
        }
    scene_close(&s);
}

static void abort_it(struct party *p)
{
    duet_barrier_abort(p->arg);
}

static void abort_it_bare(void *arg)
{
    duet_barrier_abort(arg);
}

/* sync.h: all who wait, and all who come later, get -EPIPE. */
thread_test(an_aborted_barrier_is_broken_for_all_until_it_is_mended)
{
    scene_open(&s);
    for (int by = -1; by <= KINDS; by++)
        for (int others = 0; others <= OTHERS; others += OTHERS) {
            duet_barrier b;
            struct party p[OTHERS], aborter;
            must_equal(duet_barrier_init(&b, OTHERS + 1), 0);
            gather_parties(p, others, &b);
            if (by < 0)
                duet_barrier_abort(&b);
            else if (by == KINDS)
                run_bare(s.loop[0], abort_it_bare, &b);
            else {
                party_begin(&aborter, &s, (enum kind)by, abort_it, &b, DUET_NEVER);
                (void)party_end(&aborter);
            }
            all_must_end_with(p, others, -EPIPE);
            duet_barrier_abort(&b); /* once more: no change */
            must_be_broken_for_each_kind(&b);
            must_equal(duet_barrier_init(&b, OTHERS), 0);
            must_meet(&b, OTHERS);
        }
    scene_close(&s);
}

static void come_bare(void *arg)
{
    must_equal(duet_barrier_wait(arg, DUET_NEVER), -EDEADLK);
}

thread_test(a_bare_callback_that_would_have_to_wait_breaks_it)
{
    duet_barrier b;
    struct party p[OTHERS];
    scene_open(&s);
    must_equal(duet_barrier_init(&b, OTHERS + 2), 0);
    gather_parties(p, OTHERS, &b);
    run_bare(s.loop[1], come_bare, &b);
    all_must_end_with(p, OTHERS, -EPIPE);
    must_be_broken_for_each_kind(&b);
    scene_close(&s);
}

static void come_bare_as_the_last(void *arg)
{
    must_equal(duet_barrier_wait(arg, DUET_NEVER), 1);
}

thread_test(a_bare_callback_may_be_the_last_to_come)
{
    duet_barrier b;
    struct party p[OTHERS];
    scene_open(&s);
    must_equal(duet_barrier_init(&b, OTHERS + 1), 0);
    for (int round = 0; round < 3; round++) {
        gather_parties(p, OTHERS, &b);
        run_bare(s.loop[1], come_bare_as_the_last, &b);
        all_must_end_with(p, OTHERS, 0);
    }
    scene_close(&s);
}

/* One of three gives up in the moment in which the last one comes: all meet, or none does. */
static void break_as_the_last_comes(enum kind kind, bool cancel, uint64_t *seed)
{
    duet_barrier b;
    struct party p[3];
    unsigned chance = (unsigned)(test_random(seed) >> 33);
    int ones = 0, met = 0;
    must_equal(duet_barrier_init(&b, 3), 0);
    party_begin(&p[0], &s, kind, meet, &b, cancel ? DUET_NEVER : duet_us((int64_t)(chance % 400)));
    party_begin(&p[1], &s, (enum kind)(chance % KINDS), meet, &b, DUET_NEVER);
    await_arrival(&p[0]);
    await_arrival(&p[1]);
    party_begin(&p[2], &s, (enum kind)(chance / KINDS % KINDS), meet, &b, DUET_NEVER);
    for (volatile unsigned i = chance / 16 % 20000; i > 0; i = i - 1)
        ;
    if (cancel)
        duet_future_cancel(p[0].f);
    for (int i = 0; i < 3; i++) {
        int rc = party_end(&p[i]);
        met += rc == 0 || rc == 1;
        ones += rc == 1;
        must(rc == 0 || rc == 1 || rc == (i == 0 ? (cancel ? -ECANCELED : -ETIME) : -EPIPE));
    }
    must(met == 0 || (met == 3 && ones == 1));
    must_equal(duet_barrier_wait(&b, DUET_NOW), met ? -ETIME : -EPIPE);
}

thread_test(a_barrier_that_one_leaves_as_the_last_comes_breaks_for_all_or_for_none)
{
    uint64_t seed = test_seed();
    scene_open(&s);
    for (int cancel = 0; cancel < 2; cancel++)
        for (enum kind kind = 0; kind < (cancel ? CANCELLABLE : KINDS); kind++)
            for (int i = test_rounds(400); i > 0; i--)
                break_as_the_last_comes(kind, cancel, &seed);
    scene_close(&s);
}

/* The same with abort. */
thread_test(a_barrier_that_is_aborted_as_the_last_comes_breaks_for_all_or_for_none)
{
    uint64_t seed = test_seed();
    scene_open(&s);
    for (int i = test_rounds(1500); i > 0; i--) {
        duet_barrier b;
        struct party p[3];
        unsigned chance = (unsigned)(test_random(&seed) >> 33);
        int ones = 0, met = 0;
        must_equal(duet_barrier_init(&b, 3), 0);
        for (int k = 0; k < 3; k++, chance /= KINDS)
            party_begin(&p[k], &s, (enum kind)(chance % KINDS), meet, &b, DUET_NEVER);
        for (volatile unsigned k = chance % 20000; k > 0; k = k - 1)
            ;
        duet_barrier_abort(&b);
        for (int k = 0; k < 3; k++) {
            int rc = party_end(&p[k]);
            must(rc == 0 || rc == 1 || rc == -EPIPE);
            met += rc >= 0;
            ones += rc == 1;
        }
        must(met == 0 || (met == 3 && ones == 1));
        must_equal(duet_barrier_wait(&b, DUET_NEVER), -EPIPE);
    }
    scene_close(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_last_to_come_gets_1_and_the_rest_0),
        cmocka_unit_test(a_party_of_one_is_always_the_last),
        cmocka_unit_test(in_each_of_many_rounds_all_kinds_meet_and_exactly_one_gets_1),
        cmocka_unit_test(coroutines_of_one_loop_meet),
        cmocka_unit_test(who_was_let_go_on_gets_0_though_the_barrier_breaks_before_it_runs),
        cmocka_unit_test(who_gives_up_breaks_the_barrier_for_all_until_it_is_mended),
        cmocka_unit_test(who_is_cancelled_before_it_comes_as_the_last_has_not_come),
        cmocka_unit_test(an_aborted_barrier_is_broken_for_all_until_it_is_mended),
        cmocka_unit_test(a_bare_callback_that_would_have_to_wait_breaks_it),
        cmocka_unit_test(a_bare_callback_may_be_the_last_to_come),
        cmocka_unit_test(a_barrier_that_one_leaves_as_the_last_comes_breaks_for_all_or_for_none),
        cmocka_unit_test(a_barrier_that_is_aborted_as_the_last_comes_breaks_for_all_or_for_none),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
