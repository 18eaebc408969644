/* Moments without number, from microseconds to years, equal and mixed: each comes once, never
 * early, in the order of the moments, and none that was cancelled before it came. */
#include "duet_test.h"

#include <sched.h>

enum {
    MANY = 4000
};

static duet_loop *loop;

/* One callback at a moment. ran: how often; the loop's thread writes it. */
struct moment {
    duet_deadline at;
    duet_future *f;
    atomic_int ran;
    bool cancelled;
};

static struct moment moments[MANY];
static int64_t last_ns; /* the moment of the one that came last; the loop's thread only */

static void start_loop_with_slack(int slack_us)
{
    const duet_loop_config config = {.timer_slack_us = slack_us};
    must_equal(duet_loop_start(&loop, &config), 0);
}

static void come(void *arg)
{
    struct moment *m = arg;
    must(duet_now_ns() >= m->at.ns);
    atomic_fetch_add(&m->ran, 1);
}

/* What was cancelled on the loop's own thread before it ran never runs. */
static void come_or_never(void *arg)
{
    struct moment *m = arg;
    must(!m->cancelled);
    come(m);
}

static void come_in_order(void *arg)
{
    struct moment *m = arg;
    must(m->at.ns >= last_ns);
    last_ns = m->at.ns;
    come(m);
}

/* Settled, one way or the other: then it has run, or never will. */
static void must_have_ended(struct moment *m)
{
    duet_result r;
    must_equal(duet_future_wait(m->f, SURELY, &r), 0);
    must(r.err == 0 || r.err == -ECANCELED);
    must_equal(atomic_load(&m->ran), r.err == 0);
    must(r.err == 0 || m->cancelled);
    duet_future_unref(m->f);
}

/* ---- From the loop's own thread ---- */

/* How far away a moment is: so that many meet, and many are apart. */
static int64_t random_distance_ns(uint64_t *random)
{
    int64_t n = (int64_t)(test_random(random) % 1000);
    switch (test_random(random) % 6) {
    case 0:
        return n;
    case 1:
        return n * 1000;
    case 2:
        return n / 100 * 1000 * 1000;
    case 3:
        return n * 30 * 1000;
    default:
        return 5000000;
    }
}

static bool is_far(const struct moment *m, int64_t now)
{
    return m->at.ns - now > INT64_C(100000000000);
}

static int64_t far_distance_ns(uint64_t *random)
{
    int64_t second = 1000000000, n = (int64_t)(1 + test_random(random) % 1000);
    switch (test_random(random) % 4) {
    case 0:
        return second * 1000 + n;
    case 1:
        return second * 86400 * n;
    case 2:
        return second * 86400 * 365 * (n % 200 + 1);
    default:
        return second * (1000 + n);
    }
}

/* All in one step of a coroutine, so that none comes before the last is there. */
static void arm_all(uint64_t *random, int64_t base, duet_callback *fn)
{
    for (int i = 0; i < MANY; i++) {
        struct moment *m = &moments[i];
        int64_t d = test_random(random) % 4 ? random_distance_ns(random) : far_distance_ns(random);
        *m = (struct moment){.at = {base + d}};
        m->f = duet_call_at(loop, m->at, fn, m);
    }
}

static void cancel_one(struct moment *m)
{
    m->cancelled = true;
    duet_future_cancel(m->f);
}

static duet_result arm_and_cancel(void *arg)
{
    uint64_t random = *(uint64_t *)arg;
    last_ns = 0;
    int64_t base = duet_now_ns() + 1000000;
    arm_all(&random, base, come_in_order);
    for (int i = 0; i < MANY; i++) {
        if (test_random(&random) % 3 == 0 || is_far(&moments[i], base))
            cancel_one(&moments[i]);
        if (test_random(&random) % 64 == 0)
            must_equal(duet_sleep(duet_us((int64_t)(test_random(&random) % 300))), 0);
    }
    for (int i = 0; i < MANY; i++)
        must_have_ended(&moments[i]);
    return duet_ok();
}

static void thousands_come_in_order_and_never_early(void **state)
{
    (void)state;
    uint64_t seed = test_seed();
    static const int slacks[] = {-1, 0, 50, 20000};
    for (int i = 0; i < 4; i++) {
        start_loop_with_slack(slacks[i]);
        for (int round = test_rounds(8); round > 0; round--) {
            duet_result r;
            uint64_t random = test_random(&seed);
            must_equal(duet_call(loop, arm_and_cancel, &random, SURELY, &r), 0);
            must_equal(r.err, 0);
        }
        must_equal(duet_loop_close(loop, SURELY), 0);
    }
}

/* All at the same moment, some cancelled by one of them. */
static duet_future *those_of_one_moment[MANY];
static atomic_int came_at_it;

static void cancel_half(void *unused)
{
    (void)unused;
    if (atomic_fetch_add(&came_at_it, 1) == 0)
        for (int i = 0; i < MANY; i += 2)
            duet_future_cancel(those_of_one_moment[i]);
}

static duet_result meet_at_one_moment(void *arg)
{
    (void)arg;
    int ran = 0;
    duet_deadline at = duet_ms(3);
    came_at_it = 0;
    for (int i = 0; i < MANY; i++)
        those_of_one_moment[i] = duet_call_at(loop, at, cancel_half, NULL);
    must_equal(duet_sleep(at), 0);
    for (int i = 0; i < MANY; i++) {
        duet_result r;
        must_equal(duet_future_wait(those_of_one_moment[i], SURELY, &r), 0);
        must(r.err == 0 || (r.err == -ECANCELED && i % 2 == 0));
        ran += r.err == 0;
        duet_future_unref(those_of_one_moment[i]);
    }
    must_equal(came_at_it, ran);
    return duet_ok();
}

static void many_at_one_moment_may_cancel_each_other(void **state)
{
    (void)state;
    start_loop_with_slack(0);
    for (int round = test_rounds(20); round > 0; round--) {
        duet_result r;
        must_equal(duet_call(loop, meet_at_one_moment, NULL, SURELY, &r), 0);
        must_equal(r.err, 0);
    }
    must_equal(duet_loop_close(loop, SURELY), 0);
}

/* ---- From threads, against the loop ---- */

struct armer {
    pthread_t thread;
    uint64_t random;
};

static void *arm_from_outside(void *arg)
{
    enum {
        AT_ONCE = 64
    };
    struct armer *me = arg;
    struct moment *mine = calloc(AT_ONCE, sizeof *mine);
    must(mine != NULL);
    for (int round = test_rounds(100); round > 0; round--) {
        for (int i = 0; i < AT_ONCE; i++) {
            bool far = test_random(&me->random) % 8 == 0;
            mine[i] = (struct moment){
                .at = far ? duet_ns(far_distance_ns(&me->random))
                          : duet_ns((int64_t)(test_random(&me->random) % 300000) - 10000)};
            mine[i].cancelled = far;
            mine[i].f = duet_call_at(loop, mine[i].at, come, &mine[i]);
        }
        for (int i = 0; i < AT_ONCE; i++)
            if (mine[i].cancelled || test_random(&me->random) % 2)
                cancel_one(&mine[(i * 7) % AT_ONCE]);
        for (int i = 0; i < AT_ONCE; i++) {
            if (is_far(&mine[i], duet_now_ns()))
                cancel_one(&mine[i]);
            must_have_ended(&mine[i]);
        }
    }
    free(mine);
    return NULL;
}

static void threads_arm_and_cancel_against_the_loop(void **state)
{
    (void)state;
    uint64_t seed = test_seed();
    struct armer armers[3];
    start_loop_with_slack(0);
    for (int i = 0; i < 3; i++) {
        armers[i].random = test_random(&seed);
        must_equal(pthread_create(&armers[i].thread, NULL, arm_from_outside, &armers[i]), 0);
    }
    for (int i = 0; i < 3; i++)
        pthread_join(armers[i].thread, NULL);
    must_equal(duet_loop_close(loop, SURELY), 0);
}

/* ---- Cancelled about the moment ---- */

static void spin_until(int64_t ns)
{
    while (duet_now_ns() < ns)
        ;
}

static void end_about_its_moment(struct moment *m, uint64_t *random)
{
    int64_t when = m->at.ns + (int64_t)(test_random(random) % 20000) - 10000;
    switch (test_random(random) % 4) {
    case 0: /* in the step that armed it: it can not have come */
        spin_until(when);
        must_equal(atomic_load(&m->ran), 0);
        cancel_one(m);
        break;
    case 1:
        must_equal(duet_sleep((duet_deadline){when}), 0);
        cancel_one(m);
        break;
    case 2:
        while (duet_now_ns() < when)
            must_equal(duet_yield(), 0);
        cancel_one(m);
        break;
    default:
        if (duet_future_wait(m->f, (duet_deadline){when}, NULL) == -ETIME)
            cancel_one(m);
    }
}

static duet_result cancel_about_the_moment(void *arg)
{
    uint64_t random = *(uint64_t *)arg;
    for (int i = test_rounds(4000); i > 0; i--) {
        struct moment m = {.at = duet_ns((int64_t)(test_random(&random) % 30000))};
        m.f = duet_call_at(loop, m.at, come_or_never, &m);
        must_equal(atomic_load(&m.ran), 0);
        end_about_its_moment(&m, &random);
        int ran = atomic_load(&m.ran);
        bool settled = duet_future_settled(m.f);
        must(!ran || settled);
        must_have_ended(&m);
        if (settled)
            must_equal(atomic_load(&m.ran), ran);
    }
    return duet_ok();
}

static void who_cancels_about_the_moment_gets_one_answer(void **state)
{
    (void)state;
    uint64_t seed = test_seed(), seeds[3];
    duet_future *fs[3];
    start_loop_with_slack(-1);
    for (int i = 0; i < 3; i++) { /* one by itself first */
        seeds[i] = test_random(&seed);
        fs[i] = duet_submit(loop, cancel_about_the_moment, &seeds[i]);
        if (i == 0)
            must_equal(duet_future_wait(fs[i], SURELY, NULL), 0);
    }
    for (int i = 0; i < 3; i++) {
        duet_result r;
        must_equal(duet_future_wait(fs[i], SURELY, &r), 0);
        must_equal(r.err, 0);
        duet_future_unref(fs[i]);
    }
    must_equal(duet_loop_close(loop, SURELY), 0);
}

/* ---- From callbacks: each arms the next, and cancels another ---- */

struct chain {
    uint64_t random;
    int n, length;
    duet_deadline now;
    struct moment *others; /* one for each link; the next link cancels it */
    duet_future *end;
};

static void go_on(void *chain);

static void arm_the_next(struct chain *c)
{
    struct moment *m = &c->others[c->n++];
    m->at = duet_ns((int64_t)(test_random(&c->random) % 20000));
    m->f = duet_call_at(loop, m->at, come_or_never, m);
    must_equal(atomic_load(&m->ran), 0); /* not inside the call */
    if (test_random(&c->random) % 8) {
        c->now = duet_ns((int64_t)(test_random(&c->random) % 20000) - 2000);
        duet_future_unref(duet_call_at(loop, c->now, go_on, c));
    } else {
        c->now = DUET_NOW;
        must_equal(duet_call_soon(loop, go_on, c), 0);
    }
}

static void go_on(void *arg)
{
    struct chain *c = arg;
    must(duet_now_ns() >= c->now.ns);
    if (c->n > 0)
        cancel_one(&c->others[c->n - 1]);
    if (c->n < c->length)
        arm_the_next(c);
    else
        must_equal(duet_future_settle(c->end, duet_ok()), 0);
}

static void callbacks_arm_the_next_and_cancel_others(void **state)
{
    (void)state;
    enum {
        N = 10
    };
    uint64_t seed = test_seed();
    struct chain chains[N];
    start_loop_with_slack(0);
    for (int i = 0; i < N; i++) {
        struct chain *c = &chains[i];
        *c = (struct chain){.random = test_random(&seed), .length = test_rounds(1500)};
        c->others = calloc((size_t)c->length, sizeof *c->others);
        must(c->others != NULL);
        must_equal(duet_future_open(&c->end), 0);
        must_equal(duet_call_soon(loop, go_on, c), 0);
    }
    for (int i = 0; i < N; i++) {
        struct chain *c = &chains[i];
        must_equal(duet_future_wait(c->end, SURELY, NULL), 0);
        for (int k = 0; k < c->length; k++)
            must_have_ended(&c->others[k]);
        duet_future_unref(c->end);
        free(c->others);
    }
    must_equal(duet_loop_close(loop, SURELY), 0);
}

/* ---- On a loop that is being stopped ---- */

static atomic_bool closed;

static void come_before_the_close(void *ran)
{
    must(!atomic_load(&closed));
    atomic_fetch_add((atomic_int *)ran, 1);
}

struct last {
    atomic_int ran, answered;
};

static void must_be_answered(struct last *l, duet_future *f)
{
    duet_result r;
    int before = atomic_load(&l->ran);
    must_equal(duet_future_wait(f, SURELY, &r), 0);
    must(r.err == 0 || r.err == -ECANCELED || r.err == -ESHUTDOWN);
    must(r.err == 0 || atomic_load(&l->ran) == before);
    atomic_fetch_add(&l->answered, r.err == 0);
    duet_future_unref(f);
}

/* Arms until it is cancelled by the stop, and once more in its clean-up. */
static duet_result arm_until_the_stop(void *arg)
{
    struct last *l = arg;
    int rc = 0;
    while (rc == 0) {
        duet_future *f = duet_call_at(loop, duet_us(5), come_before_the_close, &l->ran);
        rc = duet_sleep(duet_us(10));
        duet_shield_begin();
        must_be_answered(l, f);
        duet_shield_end();
    }
    must_equal(rc, -ECANCELED);
    duet_shield_begin();
    for (int64_t us = -5; us < 20; us += 5)
        must_be_answered(l, duet_call_at(loop, duet_us(us), come_before_the_close, &l->ran));
    must_be_answered(l, duet_call_at(loop, duet_sec(86400), come_before_the_close, &l->ran));
    duet_shield_end();
    return duet_err(rc);
}

static void come_never(void *unused)
{
    (void)unused;
    must(false); /* long before its moment */
}

static void a_stop_answers_all_who_arm(void **state)
{
    (void)state;
    uint64_t random = test_seed();
    enum {
        N = 4,
        FAR = 50
    };
    for (int round = test_rounds(300); round > 0; round--) {
        struct last lasts[N] = {0};
        duet_future *fs[N], *far[FAR];
        closed = false;
        start_loop_with_slack(round % 2 ? -1 : 0);
        for (int i = 0; i < N; i++)
            fs[i] = duet_submit(loop, arm_until_the_stop, &lasts[i]);
        for (int i = 0; i < FAR; i++)
            far[i] = duet_call_at(loop, duet_ns(far_distance_ns(&random)), come_never, NULL);
        must_equal(duet_sleep(duet_us((int64_t)(test_random(&random) % 200))), 0);
        if (round % 3 == 0)
            duet_loop_stop(loop);
        must_equal(duet_loop_close(loop, SURELY), 0);
        closed = true;
        for (int i = 0; i < N; i++) {
            must(duet_future_settled(fs[i]));
            must_equal(duet_future_result(fs[i]).err, -ECANCELED);
            must_equal(lasts[i].ran, lasts[i].answered);
            duet_future_unref(fs[i]);
        }
        for (int i = 0; i < FAR; i++) {
            must(duet_future_settled(far[i]));
            must_equal(duet_future_result(far[i]).err, -ECANCELED);
            duet_future_unref(far[i]);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(thousands_come_in_order_and_never_early),
        cmocka_unit_test(many_at_one_moment_may_cancel_each_other),
        cmocka_unit_test(threads_arm_and_cancel_against_the_loop),
        cmocka_unit_test(who_cancels_about_the_moment_gets_one_answer),
        cmocka_unit_test(callbacks_arm_the_next_and_cancel_others),
        cmocka_unit_test(a_stop_answers_all_who_arm),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
