/* What sync.h says of duet_select(): the first of several, and of the others nothing, for
 * coroutines, jobs and plain threads. */
#include "duet_test.h"
#include "shared.h"

#include <duet/sync.h>
#include <sys/wait.h>
#include <time.h>

#if defined(__SANITIZE_THREAD__)
#define TEST_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define TEST_TSAN 1
#endif
#endif

/* ---- What the tests of this file share ---- */

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

static duet_loop *loop, *other_loop;
static duet_pool *pool;

static int open_places(void **state)
{
    (void)state;
    loop = start_loop();
    other_loop = start_loop();
    pool = open_pool(4);
    return 0;
}

static int close_places(void **state)
{
    (void)state;
    close_loop(loop);
    close_loop(other_loop);
    close_pool(pool);
    return 0;
}

/* A thread of the test sleeps outside of duet: the time in which a false wake-up would come. */
static void nap(int ms)
{
    struct timespec rest = {.tv_nsec = ms * 1000000L};
    while (nanosleep(&rest, &rest) < 0)
        ;
}

static void spin_a_little(uint64_t *random, int most)
{
    for (volatile uint64_t i = test_random(random) % (uint64_t)most; i > 0; i--)
        ;
}

enum kind {
    COROUTINE,
    JOB,
    THREAD,
    KINDS
};

enum {
    CASES_MAX = 16
};

/* Somebody who selects, or uses a channel: a coroutine, a job or a plain thread. */
struct user {
    enum kind kind;
    void (*body)(struct user *me);
    duet_chan *c;
    long value; /* the item: to send, or received */
    duet_deadline by;
    int rc; /* of duet_select() the index */
    duet_case cases[CASES_MAX];
    size_t n;
    long in[CASES_MAX], out[CASES_MAX]; /* what its cases may point to */
    uint64_t random;
    int id;
    void *more;
    duet_loop *at; /* of a coroutine */
    duet_future *f; /* its end */
    struct thread thread; /* of all three kinds, for thread_await_blocked() */
};

static void user_main(void *user)
{
    struct user *me = user;
    me->body(me);
}

static duet_result user_run(void *user)
{
    struct user *me = user;
    atomic_store(&me->thread.tid, gettid());
    me->body(me);
    return duet_ok();
}

static void user_start(struct user *u)
{
    static uint64_t random = 1;
    u->at = test_random(&random) >> 40 & 1 ? loop : other_loop;
    if (u->kind == THREAD) {
        thread_start(&u->thread, user_main, u);
        u->f = u->thread.ended;
        return;
    }
    u->f = u->kind == COROUTINE ? duet_submit(u->at, user_run, u)
                                : duet_pool_submit(pool, user_run, u);
    u->thread.ended = u->f;
}

/* Until a user that this thread started sleeps in its first wait. */
static void user_await_asleep(struct user *u)
{
    if (u->kind == COROUTINE) { /* it started before this one, and ran until it slept */
        must_equal(duet_call(u->at, return_ok, NULL, SURELY, NULL), 0);
        return;
    }
    thread_await_blocked(&u->thread);
    nap(1); /* it might have been at a lock on its way */
    thread_await_blocked(&u->thread);
}

static void user_start_asleep(struct user *u)
{
    user_start(u);
    user_await_asleep(u);
}

static bool user_ended(struct user *u)
{
    return duet_future_settled(u->f);
}

/* Waits for its end: what it wrote can be read. */
static void user_end(struct user *u)
{
    if (u->kind == THREAD)
        thread_join(&u->thread);
    else
        must_equal(finish(u->f).err, 0);
}

static void users_end(struct user *u, int n)
{
    for (int i = 0; i < n; i++)
        user_end(&u[i]);
}

static void send_one(struct user *me)
{
    me->rc = duet_chan_send(me->c, &me->value, me->by);
}

static void recv_one(struct user *me)
{
    me->rc = duet_chan_recv(me->c, &me->value, me->by);
}

static void select_one(struct user *me)
{
    me->rc = duet_select(me->cases, me->n, me->by);
}

/* Runs a body once as each kind of user. */
static void as_each_kind(void (*body)(struct user *me), void *more)
{
    for (enum kind k = 0; k < KINDS; k++) {
        struct user u = {.kind = k, .body = body, .more = more};
        user_start(&u);
        user_end(&u);
    }
}

static duet_chan *open_chan(size_t capacity)
{
    duet_chan *c = NULL;
    must_equal(duet_chan_open(&c, sizeof(long), capacity), 0);
    return c;
}

static void put(duet_chan *c, long value)
{
    must_equal(duet_chan_send(c, &value, DUET_NOW), 0);
}

static long get(duet_chan *c)
{
    long value = -1;
    must_equal(duet_chan_recv(c, &value, DUET_NOW), 0);
    return value;
}

static int try_put(duet_chan *c, long value)
{
    return duet_chan_send(c, &value, DUET_NOW);
}

static int try_get(duet_chan *c)
{
    long value;
    return duet_chan_recv(c, &value, DUET_NOW);
}

static duet_case none(void)
{
    return (duet_case){.kind = DUET_CASE_NONE};
}

/* Adds a case to the user's list, and says where. Received is what stands in in[index] then. */
static int add_case(struct user *u, duet_case one)
{
    must(u->n < CASES_MAX);
    u->cases[u->n] = one;
    return (int)u->n++;
}

static int add_recv(struct user *u, duet_chan *c)
{
    u->in[u->n] = -1;
    return add_case(u, duet_case_recv(c, &u->in[u->n]));
}

static int add_send(struct user *u, duet_chan *c, long value)
{
    u->out[u->n] = value;
    return add_case(u, duet_case_send(c, &u->out[u->n]));
}

static void must_have_chosen(struct user *u, int index, int rc)
{
    must_equal(u->rc, index);
    must_equal(u->cases[index].rc, rc);
}

/* Nothing was received by any other case, nor by this one unless it was to be. */
static void must_have_received_only(struct user *u, int index, long value)
{
    for (int i = 0; i < (int)u->n; i++)
        if (u->cases[i].kind == DUET_CASE_RECV)
            must_equal(u->in[i], i == index ? value : -1);
}

/* Runs fn(arg) as a bare callback of the loop, and waits until it has. */
static void run_bare(duet_loop *on, duet_callback *fn, void *arg)
{
    must_equal(finish(duet_call_at(on, DUET_NOW, fn, arg)).err, 0);
}

/* ---- Cases that are not ready, and one that is or will be ---- */

/* One of each that is not ready. */
struct scene {
    duet_chan *empty, *full, *meeting;
    duet_future *pending;
    duet_event unset;
};

enum {
    FULL_ITEM = 50,
    UNREADY = 7
};

static void scene_open(struct scene *s)
{
    *s = (struct scene){open_chan(2), open_chan(1), open_chan(0), open_promise(), DUET_EVENT_INIT};
    put(s->full, FULL_ITEM);
}

static void add_unready(struct user *u, struct scene *s, int i)
{
    switch (i % UNREADY) {
    case 0:
        add_case(u, none());
        break;
    case 1:
        add_recv(u, s->empty);
        break;
    case 2:
        add_send(u, s->full, 90);
        break;
    case 3:
        add_case(u, duet_case_future(s->pending));
        break;
    case 4:
        add_case(u, duet_case_event(&s->unset));
        break;
    case 5:
        add_send(u, s->meeting, 91);
        break;
    default:
        add_recv(u, s->meeting);
        break;
    }
}

/* Nothing has happened to them, and nobody is in their queues any more. */
static void scene_must_be_untouched(struct scene *s)
{
    must_equal(try_put(s->meeting, 1), -ETIME);
    must_equal(try_get(s->meeting), -ETIME);
    must_equal(duet_chan_count(s->full), 1);
    must_equal(try_put(s->full, 1), -ETIME);
    must_equal(get(s->full), FULL_ITEM);
    must_equal(try_get(s->full), -ETIME);
    put(s->full, FULL_ITEM);
    must_equal(duet_chan_count(s->empty), 0);
    must_equal(try_get(s->empty), -ETIME);
    put(s->empty, 1);
    must_equal(get(s->empty), 1);
    must(!duet_future_settled(s->pending));
    must(!duet_event_is_set(&s->unset));
}

static void scene_close(struct scene *s)
{
    scene_must_be_untouched(s);
    settle(s->pending);
    duet_event_set(&s->unset);
    duet_chan_unref(s->empty);
    duet_chan_unref(s->full);
    duet_chan_unref(s->meeting);
    duet_future_unref(s->pending);
}

enum what {
    SEND_BUFFERED,
    SEND_MEETING,
    RECV_BUFFERED,
    RECV_MEETING,
    FUTURE_OK,
    FUTURE_FAILED,
    FUTURE_CANCELLED,
    EVENT,
    SEND_SHUT,
    RECV_SHUT,
    MEETING_SHUT,
    WHATS
};

/* What becomes ready. */
struct target {
    enum what what;
    duet_chan *c;
    duet_future *f;
    duet_event e;
    struct user helper;
    int rc; /* of its case */
};

enum {
    OLD = 70,
    OUT = 71,
    IN = 72
};

static void target_open(struct target *t, enum what what)
{
    memset(t, 0, sizeof *t);
    t->what = what;
    t->f = open_promise();
    t->c = open_chan(what == SEND_MEETING || what == RECV_MEETING || what == MEETING_SHUT ? 0 : 1);
    t->rc = what >= SEND_SHUT ? -EPIPE : 0;
    if (what == SEND_BUFFERED || what == SEND_SHUT)
        put(t->c, OLD);
}

static int add_target(struct user *u, struct target *t)
{
    switch (t->what) {
    case SEND_BUFFERED:
    case SEND_MEETING:
    case SEND_SHUT:
    case MEETING_SHUT:
        return add_send(u, t->c, OUT);
    case RECV_BUFFERED:
    case RECV_MEETING:
    case RECV_SHUT:
        return add_recv(u, t->c);
    case EVENT:
        return add_case(u, duet_case_event(&t->e));
    default:
        return add_case(u, duet_case_future(t->f));
    }
}

/* Makes it ready. At a rendezvous it meets who selects, or is there already. */
static void target_trigger(struct target *t, bool somebody_waits)
{
    t->helper = (struct user){.kind = THREAD, .c = t->c, .value = IN, .by = DUET_NEVER};
    switch (t->what) {
    case SEND_BUFFERED:
        must_equal(get(t->c), OLD);
        break;
    case RECV_BUFFERED:
        put(t->c, IN);
        break;
    case SEND_MEETING:
    case RECV_MEETING:
        if (somebody_waits && t->what == SEND_MEETING) {
            must_equal(get(t->c), OUT);
        } else if (somebody_waits) {
            put(t->c, IN);
        } else {
            t->helper.body = t->what == SEND_MEETING ? recv_one : send_one;
            user_start_asleep(&t->helper);
        }
        break;
    case FUTURE_OK:
        settle(t->f);
        break;
    case FUTURE_FAILED:
        must_equal(duet_future_settle(t->f, duet_err(-EIO)), 0);
        break;
    case FUTURE_CANCELLED:
        duet_future_cancel(t->f);
        break;
    case EVENT:
        duet_event_set(&t->e);
        break;
    default:
        duet_chan_shut(t->c);
        break;
    }
}

/* It was done, once. */
static void target_must_be_done(struct target *t, struct user *u, int index)
{
    bool received = t->what == RECV_BUFFERED || t->what == RECV_MEETING;
    must_have_chosen(u, index, t->rc);
    must_have_received_only(u, received ? index : -1, IN);
    if (t->helper.body) {
        user_end(&t->helper);
        must_equal(t->helper.rc, 0);
        must(t->what == RECV_MEETING || t->helper.value == OUT);
    }
    if (t->what == SEND_BUFFERED)
        must_equal(get(t->c), OUT);
    if (t->what == SEND_SHUT)
        must_equal(get(t->c), OLD);
    must_equal(duet_chan_count(t->c), 0);
    must_equal(try_get(t->c), t->rc ? -EPIPE : -ETIME);
}

static void target_close(struct target *t)
{
    if (t->what == FUTURE_FAILED) /* it has been looked at */
        must_equal(duet_future_wait(t->f, DUET_NOW, NULL), 0);
    duet_future_unref(t->f);
    duet_chan_unref(t->c);
}

/* A list of all that is not ready, with the target among them. */
static int list_with_target(struct user *u, struct scene *s, struct target *t, int at)
{
    int index = -1;
    u->n = 0;
    for (int i = 0; i <= UNREADY; i++)
        if (i == at)
            index = add_target(u, t);
        else
            add_unready(u, s, i > at ? i - 1 : i);
    must_equal(index, at);
    return index;
}

thread_test(a_case_of_any_kind_that_is_ready_is_done_at_once_and_no_other)
{
    struct scene s;
    const duet_deadline by[] = {DUET_NOW, DUET_NEVER, duet_ms(-5), duet_sec(60)};
    scene_open(&s);
    for (enum kind k = 0; k < KINDS; k++)
        for (enum what what = 0; what < WHATS; what++)
            for (int at = 0; at <= UNREADY; at += (int)(what % 2) + 2) {
                struct target t;
                struct user u = {.kind = k, .body = select_one, .rc = -1};
                target_open(&t, what);
                target_trigger(&t, false);
                list_with_target(&u, &s, &t, at);
                u.by = by[(at + (int)what) % 4];
                user_start(&u);
                user_end(&u);
                target_must_be_done(&t, &u, at);
                scene_must_be_untouched(&s);
                target_close(&t);
            }
    scene_close(&s);
}

thread_test(a_case_of_any_kind_that_becomes_ready_wakes_who_waits_and_no_other_is_done)
{
    struct scene s;
    scene_open(&s);
    for (enum kind k = 0; k < KINDS; k++)
        for (enum what what = 0; what < WHATS; what++)
            for (int at = 0; at <= UNREADY; at += (int)(what % 2) + 3) {
                struct target t;
                struct user u = {.kind = k, .body = select_one, .by = DUET_NEVER, .rc = -1};
                target_open(&t, what);
                list_with_target(&u, &s, &t, at);
                user_start_asleep(&u);
                must(!user_ended(&u));
                target_trigger(&t, true);
                user_end(&u);
                target_must_be_done(&t, &u, at);
                scene_must_be_untouched(&s);
                target_close(&t);
            }
    scene_close(&s);
}

thread_test(a_list_of_one_is_that_one)
{
    for (enum kind k = 0; k < KINDS; k++)
        for (enum what what = 0; what < WHATS; what++)
            for (int later = 0; later < 2; later++) {
                struct target t;
                struct user u = {.kind = k, .body = select_one, .by = DUET_NEVER, .rc = -1};
                target_open(&t, what);
                add_target(&u, &t);
                if (later) {
                    user_start_asleep(&u);
                    target_trigger(&t, true);
                } else {
                    target_trigger(&t, false);
                    user_start(&u);
                }
                user_end(&u);
                target_must_be_done(&t, &u, 0);
                target_close(&t);
            }
}

/* ---- Selects that end without any ---- */

static void list_unready(struct user *u, struct scene *s)
{
    u->n = 0;
    for (int i = 0; i < UNREADY; i++)
        add_unready(u, s, i);
}

thread_test(when_none_is_ready_a_try_or_a_deadline_ends_it_and_nothing_was_done)
{
    struct scene s;
    scene_open(&s);
    for (enum kind k = 0; k < KINDS; k++)
        for (int i = 0; i < 4; i++) {
            struct user u = {.kind = k, .body = select_one, .rc = 1};
            list_unready(&u, &s);
            u.by = i == 0 ? DUET_NOW : i == 1 ? duet_ms(-1) : i == 2 ? duet_us(1) : duet_ms(3);
            user_start(&u);
            user_end(&u);
            must_equal(u.rc, -ETIME);
            must(duet_now_ns() >= u.by.ns);
            must_have_received_only(&u, -1, 0);
            scene_must_be_untouched(&s);
        }
    scene_close(&s);
}

thread_test(who_is_cancelled_while_it_waits_has_done_nothing)
{
    struct scene s;
    scene_open(&s);
    for (enum kind k = COROUTINE; k <= JOB; k++) {
        struct user u = {.kind = k, .body = select_one, .by = DUET_NEVER, .rc = 1};
        list_unready(&u, &s);
        user_start_asleep(&u);
        duet_future_cancel(u.f);
        user_end(&u);
        must_equal(u.rc, -ECANCELED);
        must_have_received_only(&u, -1, 0);
        scene_must_be_untouched(&s);
    }
    scene_close(&s);
}

struct ready {
    duet_chan *full, *room;
    duet_future *settled;
    duet_event set;
};

static void ready_open(struct ready *r)
{
    *r = (struct ready){open_chan(1), open_chan(1), open_promise(), DUET_EVENT_INIT};
    put(r->full, IN);
    settle(r->settled);
    duet_event_set(&r->set);
}

static void add_ready(struct user *u, struct ready *r, int i)
{
    if (i == 0)
        add_recv(u, r->full);
    else if (i == 1)
        add_send(u, r->room, OUT);
    else if (i == 2)
        add_case(u, duet_case_future(r->settled));
    else
        add_case(u, duet_case_event(&r->set));
}

static void select_while_cancelled(struct user *me)
{
    struct ready *r = me->more;
    must_equal(duet_sleep(DUET_NEVER), -ECANCELED);
    for (int i = 0; i < 4; i++) {
        me->n = 0;
        add_ready(me, r, i);
        must_equal(duet_select(me->cases, 1, DUET_NOW), -ECANCELED);
        must_equal(duet_select(me->cases, 1, DUET_NEVER), -ECANCELED);
    }
    me->n = 0;
    add_case(me, none());
    must_equal(duet_select(me->cases, 1, DUET_NEVER), -ECANCELED);
    must_equal(duet_chan_count(r->full), 1);
    must_equal(duet_chan_count(r->room), 0);
    duet_shield_begin();
    for (int i = 0; i < 4; i++) {
        me->n = 0;
        add_ready(me, r, i);
        must_equal(duet_select(me->cases, 1, DUET_NEVER), 0);
        must_equal(me->cases[0].rc, 0);
        must(i || me->in[0] == IN);
    }
    me->n = 0;
    add_recv(me, r->full);
    must_equal(duet_select(me->cases, 1, duet_ms(2)), -ETIME);
    duet_shield_end();
    must_equal(duet_select(me->cases, 1, DUET_NOW), -ECANCELED);
    me->rc = 1;
}

/* sync.h: also if it was so before it came: then nothing was taken, though it was there. */
thread_test(who_was_cancelled_before_it_came_does_none_of_them_but_under_a_shield)
{
    for (enum kind k = COROUTINE; k <= JOB; k++) {
        struct ready r;
        struct user u = {.kind = k, .body = select_while_cancelled, .more = &r, .rc = 0};
        ready_open(&r);
        user_start_asleep(&u);
        duet_future_cancel(u.f);
        user_end(&u);
        must_equal(u.rc, 1);
        must_equal(duet_chan_count(r.full), 0);
        must_equal(get(r.room), OUT);
        duet_chan_unref(r.full);
        duet_chan_unref(r.room);
        duet_future_unref(r.settled);
    }
}

static void select_shielded(struct user *me)
{
    duet_shield_begin();
    select_one(me);
    duet_shield_end();
}

thread_test(under_a_shield_a_select_outlasts_its_cancellation)
{
    for (enum kind k = COROUTINE; k <= JOB; k++)
        for (enum what what = 0; what < WHATS; what++) {
            struct target t;
            struct user u = {.kind = k, .body = select_shielded, .by = DUET_NEVER, .rc = -1};
            target_open(&t, what);
            add_case(&u, none());
            add_target(&u, &t);
            user_start_asleep(&u);
            duet_future_cancel(u.f);
            nap(2);
            must(!user_ended(&u));
            target_trigger(&t, true);
            user_end(&u);
            target_must_be_done(&t, &u, 1);
            target_close(&t);
        }
}

/* sync.h: a case that is switched off is never ready: its deadline ends such a select, or who waits
 * is cancelled; without a deadline it can never end, whoever else lives. */
thread_test(a_select_of_nothing_but_cases_switched_off_ends_with_its_deadline_or_is_told)
{
    static const int rcs[] = {-ETIME, -ETIME, -EDEADLK, -ECANCELED};
    log_capture();
    for (enum kind k = 0; k < KINDS; k++)
        for (int i = 0; i < (k == THREAD ? 3 : 4); i++) {
            struct user u = {.kind = k, .body = select_one, .rc = 1};
            for (int n = 0; n < 1 + i * 3; n++)
                add_case(&u, none());
            u.by = i == 0 ? DUET_NOW : i == 1 ? duet_ms(30) : i == 2 ? DUET_NEVER : duet_sec(100);
            if (i == 3) {
                user_start_asleep(&u);
                nap(10);
                must(!user_ended(&u));
                duet_future_cancel(u.f);
            } else {
                user_start(&u);
            }
            user_end(&u);
            must_equal(u.rc, rcs[i]);
            must(i > 1 || duet_now_ns() >= u.by.ns);
        }
    log_release();
}

/* What else stands in such a case does not count. */
thread_test(a_case_switched_off_does_not_count_whatever_it_points_to)
{
    duet_chan *c = open_chan(1);
    long in = -1, out = 5;
    put(c, 3);
    duet_case cases[] = {duet_case_recv(c, &in), duet_case_send(NULL, &out),
                         duet_case_recv(c, NULL), duet_case_future(NULL)};
    for (size_t i = 0; i < COUNT(cases); i++)
        cases[i].kind = DUET_CASE_NONE;
    must_equal(duet_select(cases, COUNT(cases), DUET_NOW), -ETIME);
    must_equal(in, -1);
    cases[0].kind = DUET_CASE_RECV;
    must_equal(duet_select(cases, COUNT(cases), DUET_NOW), 0);
    must_equal(in, 3);
    duet_chan_unref(c);
}

/* ---- Arguments ---- */

static void must_be_refused(duet_case *cases, size_t n)
{
    for (int i = 0; i < 2; i++) {
        log_capture();
        must_equal(duet_select(cases, n, i ? DUET_NEVER : DUET_NOW), -EINVAL);
        must_equal(log_count("duet_select"), 1); /* it says which */
        log_release();
    }
}

thread_test(bad_cases_are_refused_and_nothing_is_done)
{
    duet_chan *c = open_chan(2), *signals;
    must_equal(duet_chan_open(&signals, 0, 1), 0);
    long in = -1, out = 5;
    put(c, 1);
    duet_case good[] = {duet_case_recv(c, &in), duet_case_send(c, &out)};
    must_be_refused(good, 0);
    must_be_refused(NULL, 0);
    must_be_refused(NULL, 2);
    const duet_case bad[] = {duet_case_recv(NULL, &in),
                             duet_case_send(NULL, &out),
                             duet_case_recv(c, NULL),
                             duet_case_send(c, NULL),
                             duet_case_future(NULL),
                             duet_case_event(NULL),
                             {.kind = (enum duet_case_kind)5, .on = c, .item = &out, .into = &in},
                             {.kind = (enum duet_case_kind)77, .on = c}};
    for (size_t i = 0; i < COUNT(bad); i++)
        for (int at = 0; at < 3; at++) { /* among others that are ready */
            duet_case cases[] = {good[0], good[1], good[0]};
            cases[at] = bad[i];
            must_be_refused(cases, 3);
            must_equal(in, -1);
            must_equal(duet_chan_count(c), 1);
        }
    duet_case both[] = {duet_case_send(signals, NULL)}; /* an item of no size may be NULL */
    must_equal(duet_select(both, 1, DUET_NOW), 0);
    both[0] = duet_case_recv(signals, NULL);
    must_equal(duet_select(both, 1, DUET_NOW), 0);
    must_equal(duet_select(both, 1, DUET_NOW), -ETIME);
    must_equal(get(c), 1);
    duet_chan_unref(c);
    duet_chan_unref(signals);
}

/* ---- Shut channels ---- */

/* sync.h: a shut channel is ready, with -EPIPE; cases[index].rc is what the call would have
 * returned. */
thread_test(of_a_shut_channel_what_is_left_is_received_first)
{
    for (int now = 0; now < 2; now++) {
        duet_chan *c = open_chan(3);
        long in = -1, out = 9;
        for (long i = 0; i < 3; i++)
            put(c, i);
        if (now)
            duet_chan_shut_now(c);
        else
            duet_chan_shut(c);
        for (long i = 0; i < 5; i++) {
            duet_case one = duet_case_recv(c, &in), other = duet_case_send(c, &out);
            bool left = i < 3 && !now;
            in = -1;
            must_equal(duet_select(&one, 1, DUET_NEVER), 0);
            must_equal(one.rc, left ? 0 : -EPIPE);
            must_equal(in, left ? i : -1);
            must_equal(duet_select(&other, 1, i % 2 ? DUET_NOW : DUET_NEVER), 0);
            must_equal(other.rc, -EPIPE);
        }
        duet_chan_unref(c);
    }
}

struct merge {
    duet_chan *c[3];
    int n;
};

static void feed(struct user *me)
{
    struct merge *m = me->more;
    for (long i = 0; i < m->n; i++)
        must_equal(duet_chan_send(m->c[me->id], &i, DUET_NEVER), 0);
    duet_chan_shut(m->c[me->id]);
}

/* sync.h: switch that case off to wait for the others. */
static void merge_all(struct user *me)
{
    struct merge *m = me->more;
    long next[3] = {0};
    me->n = 0;
    for (int i = 0; i < 3; i++)
        add_recv(me, m->c[i]);
    for (int open = 3; open > 0;) {
        for (int i = 0; i < 3; i++)
            me->in[i] = -1;
        int i = duet_select(me->cases, 3, DUET_NEVER);
        must(i >= 0 && i < 3);
        must_have_received_only(me, i, me->cases[i].rc ? -1 : next[i]);
        if (me->cases[i].rc == 0) {
            next[i]++;
        } else {
            must_equal(me->cases[i].rc, -EPIPE);
            must_equal(next[i], m->n);
            me->cases[i].kind = DUET_CASE_NONE;
            open--;
        }
    }
    must_equal(duet_select(me->cases, 3, DUET_NOW), -ETIME);
}

thread_test(several_channels_are_merged_until_each_is_shut)
{
    static const size_t capacities[] = {0, 1, 100};
    for (enum kind k = 0; k < KINDS; k++)
        for (int shift = 0; shift < 3; shift++) {
            struct merge m = {.n = test_rounds(1000)};
            struct user u[4];
            for (int i = 0; i < 3; i++)
                m.c[i] = open_chan(capacities[(i + shift) % 3]);
            for (int i = 0; i < 4; i++) {
                u[i] = (struct user){.kind = i < 3 ? (enum kind)i : k,
                                     .body = i < 3 ? feed : merge_all,
                                     .id = i,
                                     .more = &m};
                user_start(&u[i]);
            }
            users_end(u, 4);
            for (int i = 0; i < 3; i++)
                duet_chan_unref(m.c[i]);
        }
}

/* ---- Exactly one ---- */

/* They are served one after the other, before who selects can have run. */
thread_test(of_two_counterparts_that_come_while_it_waits_it_meets_one)
{
    for (enum kind k = 0; k < KINDS; k++)
        for (int sending = 0; sending < 2; sending++) {
            duet_chan *a = open_chan(0), *b = open_chan(0);
            struct user u = {.kind = k, .body = select_one, .by = DUET_NEVER, .rc = -1};
            if (sending) {
                add_send(&u, a, 1);
                add_send(&u, b, 2);
            } else {
                add_recv(&u, a);
                add_recv(&u, b);
            }
            user_start_asleep(&u);
            if (sending) {
                must_equal(get(b), 2);
                must_equal(try_get(a), -ETIME);
                must_equal(try_get(b), -ETIME);
            } else {
                put(b, 4);
                must_equal(try_put(a, 3), -ETIME);
                must_equal(try_put(b, 5), -ETIME);
            }
            user_end(&u);
            must_have_chosen(&u, 1, 0);
            must_have_received_only(&u, sending ? -1 : 1, 4);
            duet_chan_unref(a);
            duet_chan_unref(b);
        }
}

/* Several of its cases become ready in the same moment: which one is done agrees with what the
 * others have seen. */
thread_test(of_several_cases_that_become_ready_while_it_waits_one_is_done)
{
    for (enum kind k = 0; k < KINDS; k++)
        for (int order = 0; order < 24; order++) {
            duet_chan *in = open_chan(1), *out = open_chan(1);
            duet_future *f = open_promise();
            duet_event e = DUET_EVENT_INIT;
            struct user u = {.kind = k, .body = select_one, .by = DUET_NEVER, .rc = -1};
            put(out, 1);
            add_recv(&u, in);
            add_send(&u, out, 2);
            add_case(&u, duet_case_future(f));
            add_case(&u, duet_case_event(&e));
            user_start_asleep(&u);
            for (int i = 0, left = order, todo[] = {0, 1, 2, 3}; i < 4; i++) {
                int pick = left % (4 - i), what = todo[pick];
                left /= 4 - i;
                memmove(&todo[pick], &todo[pick + 1], sizeof(int) * (size_t)(3 - pick));
                if (what == 0)
                    put(in, 7);
                else if (what == 1)
                    must_equal(get(out), 1);
                else if (what == 2)
                    settle(f);
                else
                    duet_event_set(&e);
            }
            user_end(&u);
            must(u.rc >= 0 && u.rc < 4);
            must_equal(u.cases[u.rc].rc, 0);
            must_equal(duet_chan_count(in), u.rc != 0);
            must_equal(duet_chan_count(out), u.rc == 1);
            must_have_received_only(&u, u.rc == 0 ? 0 : -1, 7);
            if (u.rc == 1)
                must_equal(get(out), 2);
            duet_chan_unref(in);
            duet_chan_unref(out);
            duet_future_unref(f);
        }
}

static void list_both(struct user *u, duet_chan *c, long value)
{
    u->n = 0;
    if (value % 2) {
        add_send(u, c, value);
        add_recv(u, c);
    } else {
        add_recv(u, c);
        add_send(u, c, value);
    }
}

/* It must not meet itself. */
thread_test(a_select_that_sends_and_receives_at_one_rendezvous_waits_for_somebody_else)
{
    for (enum kind k = 0; k < KINDS; k++)
        for (int i = 0; i < 6; i++) {
            duet_chan *c = open_chan(0);
            struct user u = {.kind = k, .body = select_one, .rc = -1};
            list_both(&u, c, 10 + i);
            int send_at = i % 2 ? 0 : 1;
            if (i < 2) {
                u.by = i ? DUET_NOW : duet_ms(3);
                user_start(&u);
                user_end(&u);
                must_equal(u.rc, -ETIME);
            } else {
                u.by = DUET_NEVER;
                user_start_asleep(&u);
                if (i < 4)
                    put(c, 20);
                else
                    must_equal(get(c), 10 + i);
                user_end(&u);
                must_have_chosen(&u, i < 4 ? 1 - send_at : send_at, 0);
            }
            must_have_received_only(&u, i == 2 || i == 3 ? 1 - send_at : -1, 20);
            must_equal(try_put(c, 1), -ETIME);
            must_equal(try_get(c), -ETIME);
            duet_chan_unref(c);
        }
}

thread_test(two_selects_that_send_and_receive_at_one_rendezvous_meet_each_other)
{
    for (int i = 0; i < KINDS * KINDS; i++)
        for (int order = 0; order < 4; order++) {
            duet_chan *c = open_chan(0);
            struct user u[2] = {{.kind = (enum kind)(i / KINDS)}, {.kind = (enum kind)(i % KINDS)}};
            for (int k = 0; k < 2; k++) {
                u[k].body = select_one;
                u[k].by = DUET_NEVER;
                u[k].rc = -1;
                list_both(&u[k], c, 10 + 2 * k + (order >> k & 1));
                user_start(&u[k]);
            }
            users_end(u, 2);
            int sender = u[0].cases[u[0].rc].kind == DUET_CASE_SEND ? 0 : 1;
            struct user *from = &u[sender], *to = &u[!sender];
            must(from->cases[from->rc].kind == DUET_CASE_SEND);
            must(to->cases[to->rc].kind == DUET_CASE_RECV);
            must_have_received_only(from, -1, 0);
            must_have_received_only(to, to->rc, from->out[from->rc]);
            duet_chan_unref(c);
        }
}

/* sync.h: the same channel may stand in several cases. */
thread_test(of_several_cases_on_one_channel_one_is_done)
{
    for (enum kind k = 0; k < KINDS; k++)
        for (int sending = 0; sending < 2; sending++)
            for (int later = 0; later < 2; later++) {
                duet_chan *c = open_chan(3);
                struct user u = {.kind = k, .body = select_one, .by = DUET_NEVER, .rc = -1};
                for (long i = 0; i < (sending ? 2 + later : 0); i++)
                    put(c, i);
                for (long i = 0; i < 5; i++)
                    if (sending)
                        add_send(&u, c, 10 + i);
                    else
                        add_recv(&u, c);
                if (later)
                    user_start_asleep(&u);
                if (!sending)
                    put(c, 5);
                else if (later)
                    must_equal(get(c), 0);
                if (!later)
                    user_start(&u);
                user_end(&u);
                must(u.rc >= 0 && u.rc < 5);
                must_equal(u.cases[u.rc].rc, 0);
                must_have_received_only(&u, sending ? -1 : u.rc, 5);
                must_equal(duet_chan_count(c), sending ? 3 : 0);
                for (long i = later; sending && i < 2 + later; i++)
                    must_equal(get(c), i);
                if (sending)
                    must_equal(get(c), 10 + u.rc);
                must_equal(try_get(c), -ETIME);
                duet_chan_unref(c);
            }
}

/* ---- Long lists ---- */

enum {
    LONG = 1000
};

struct list {
    duet_chan *c[LONG];
    duet_case cases[LONG];
    long in[LONG];
    int n;
};
static struct list list;

static void list_open(int n)
{
    list.n = n;
    for (int i = 0; i < n; i++) {
        list.c[i] = open_chan(1);
        list.in[i] = -1;
        list.cases[i] = duet_case_recv(list.c[i], &list.in[i]);
    }
}

static void list_close(void)
{
    for (int i = 0; i < list.n; i++) {
        must_equal(try_get(list.c[i]), -ETIME);
        duet_chan_unref(list.c[i]);
    }
}

static void select_list(struct user *me)
{
    me->rc = duet_select(list.cases, (size_t)list.n, me->by);
}

thread_test(of_a_long_list_each_is_found)
{
    static const int lengths[] = {15, 16, 17, 33, 100, LONG};
    for (size_t l = 0; l < COUNT(lengths); l++) {
        list_open(lengths[l]);
        for (int i = 0; i < list.n; i += 1 + list.n / 50) {
            struct user u = {.kind = (enum kind)(i % KINDS), .body = select_list, .rc = -1};
            u.by = DUET_NEVER;
            if (i % 2) {
                put(list.c[i], i);
                user_start(&u);
            } else {
                user_start_asleep(&u);
                put(list.c[i], i);
            }
            user_end(&u);
            must_equal(u.rc, i);
            must_equal(list.cases[i].rc, 0);
            must_equal(list.in[i], i);
            list.in[i] = -1;
            for (int n = 0; n < list.n; n++)
                must_equal(list.in[n], -1);
        }
        must_equal(duet_select(list.cases, (size_t)list.n, DUET_NOW), -ETIME);
        must_equal(duet_select(list.cases, (size_t)list.n, duet_ms(1)), -ETIME);
        list_close();
    }
}

static void drain_list(struct user *me)
{
    bool seen[LONG] = {false};
    for (int left = list.n; left > 0; left--) {
        int i = duet_select(list.cases, (size_t)list.n, left % 2 ? DUET_NEVER : DUET_NOW);
        must(i >= 0 && i < list.n);
        must_equal(list.cases[i].rc, 0);
        must_equal(list.in[i], i);
        must(!seen[i]);
        seen[i] = true;
    }
    me->rc = duet_select(list.cases, (size_t)list.n, DUET_NOW);
}

thread_test(of_a_long_list_that_is_ready_all_over_each_is_done_once)
{
    for (enum kind k = 0; k < KINDS; k++) {
        struct user u = {.kind = k, .body = drain_list, .rc = 1};
        list_open(100);
        for (int i = 0; i < list.n; i++)
            put(list.c[i], i);
        user_start(&u);
        user_end(&u);
        must_equal(u.rc, -ETIME);
        list_close();
    }
}

/* ---- Fairness ---- */

enum {
    DRAWS = 30000
};

/* Three that are ready in every round: where they stand, and how often each was chosen. */
static void draw(const int *at, int n_ready, int n, int *chosen)
{
    struct ready r;
    struct scene s;
    ready_open(&r);
    scene_open(&s);
    memset(chosen, 0, sizeof(int) * (size_t)n_ready);
    for (int round = 0; round < DRAWS; round++) {
        struct user u = {.n = 0};
        for (int i = 0, k = 0; i < n; i++)
            if (k < n_ready && at[k] == i)
                add_ready(&u, &r, k++);
            else
                add_unready(&u, &s, i);
        int i = duet_select(u.cases, u.n, round % 2 ? DUET_NOW : DUET_NEVER);
        int k = 0;
        while (k < n_ready && at[k] != i)
            k++;
        must(k < n_ready);
        chosen[k]++;
        if (k == 0)
            put(r.full, IN);
        else if (k == 1)
            must_equal(get(r.room), OUT);
    }
    scene_close(&s);
    duet_chan_unref(r.full);
    duet_chan_unref(r.room);
    duet_future_unref(r.settled);
}

static void draw_of_three(struct user *me)
{
    (void)me;
    static const int at[][3] = {{0, 1, 2}, {0, 1, 9}, {3, 4, 5}, {0, 8, 9}};
    static const int lengths[] = {3, 10, 15, 10};
    for (size_t i = 0; i < COUNT(at); i++) {
        int chosen[3];
        draw(at[i], 3, lengths[i], chosen);
        for (int k = 0; k < 3; k++)
            must(chosen[k] > DRAWS / 100 * 25 && chosen[k] < DRAWS / 100 * 42);
    }
}

/* sync.h: each as likely as the other. */
thread_test(of_three_that_are_always_ready_each_is_chosen_as_often)
{
    as_each_kind(draw_of_three, NULL);
}

thread_test(of_two_that_stand_side_by_side_in_a_list_each_is_chosen_as_often)
{
    static const int at[][2] = {{0, 1}, {4, 5}, {8, 9}, {0, 9}};
    for (size_t i = 0; i < COUNT(at); i++) {
        int chosen[2];
        draw(at[i], 2, 10, chosen);
        for (int k = 0; k < 2; k++)
            must(chosen[k] > DRAWS / 100 * 42 && chosen[k] < DRAWS / 100 * 58);
    }
}

/* Shut channels are as ready as others. */
thread_test(a_shut_channel_is_chosen_as_often_as_what_else_is_ready)
{
    duet_chan *c = open_chan(1);
    duet_event set = DUET_EVENT_INIT;
    int chosen[3] = {0};
    long in = -1, out = 1;
    duet_chan_shut(c);
    duet_event_set(&set);
    for (int round = 0; round < DRAWS; round++) {
        duet_case cases[] = {duet_case_recv(c, &in), duet_case_event(&set),
                             duet_case_send(c, &out)};
        int i = duet_select(cases, 3, DUET_NEVER);
        must(i >= 0 && i < 3);
        must_equal(cases[i].rc, i == 1 ? 0 : -EPIPE);
        chosen[i]++;
    }
    for (int k = 0; k < 3; k++)
        must(chosen[k] > DRAWS / 100 * 25 && chosen[k] < DRAWS / 100 * 42);
    duet_chan_unref(c);
}

/* ---- Queues ---- */

enum {
    QUEUE = 9
};

/* sync.h: first come, first served: who selects stands in the queue like the others. */
thread_test(who_selects_is_served_in_its_turn_among_those_who_receive_or_send)
{
    static const size_t rooms[] = {0, 1, 3};
    for (int sending = 0; sending < 2; sending++)
        for (size_t room = 0; room < COUNT(rooms); room++)
            for (int shift = 0; shift < 2; shift++) {
                struct user u[QUEUE];
                duet_chan *c = open_chan(rooms[room]);
                duet_chan *other = open_chan(0), *another = open_chan(0);
                for (size_t i = 0; sending && i < rooms[room]; i++)
                    put(c, 50);
                for (int i = 0; i < QUEUE; i++) {
                    u[i] = (struct user){.kind = (enum kind)(i % KINDS),
                                         .c = c,
                                         .value = 100 + i,
                                         .by = DUET_NEVER,
                                         .rc = -1,
                                         .id = (i + shift) % 2};
                    if (u[i].id) {
                        u[i].body = select_one;
                        add_recv(&u[i], other);
                        if (sending)
                            add_send(&u[i], c, 100 + i);
                        else
                            add_recv(&u[i], c);
                        add_send(&u[i], another, 1);
                        if (i % 2) { /* twice is no better than once */
                            if (sending)
                                add_send(&u[i], c, 100 + i);
                            else
                                add_recv(&u[i], c);
                        }
                    } else {
                        u[i].body = sending ? send_one : recv_one;
                    }
                    user_start_asleep(&u[i]);
                }
                for (size_t i = 0; sending && i < rooms[room]; i++)
                    must_equal(get(c), 50);
                for (long i = 0; i < QUEUE; i++)
                    if (sending)
                        must_equal(get(c), 100 + i);
                    else
                        put(c, 200 + i);
                must_equal(try_get(c), -ETIME);
                for (int i = 0; i < QUEUE; i++) {
                    user_end(&u[i]);
                    if (u[i].id) {
                        must(u[i].rc == 1 || u[i].rc == 3);
                        must_equal(u[i].cases[u[i].rc].rc, 0);
                        must_have_received_only(&u[i], sending ? -1 : u[i].rc, 200 + i);
                    } else {
                        must_equal(u[i].rc, 0);
                        must_equal(u[i].value, sending ? 100 + i : 200 + i);
                    }
                }
                must_equal(try_put(other, 1), -ETIME);
                must_equal(try_get(another), -ETIME);
                duet_chan_unref(another);
                duet_chan_unref(c);
                duet_chan_unref(other);
            }
}

/* Those that were served by another channel, gave up or were cancelled are not in the way. */
thread_test(who_has_left_by_another_case_is_passed_over)
{
    struct user u[4];
    duet_chan *c = open_chan(0), *other = open_chan(0);
    for (int i = 0; i < 4; i++) {
        u[i] = (struct user){.kind = i == 3 ? THREAD : (enum kind)(i % 2),
                             .body = select_one,
                             .by = DUET_NEVER,
                             .rc = -1};
        add_recv(&u[i], c);
        if (i == 0)
            add_recv(&u[i], other);
        if (i == 2)
            u[i].by = duet_ms(1000);
        user_start_asleep(&u[i]);
    }
    put(other, 5);
    duet_future_cancel(u[1].f);
    users_end(u, 3);
    must_have_chosen(&u[0], 1, 0);
    must_equal(u[1].rc, -ECANCELED);
    must_equal(u[2].rc, -ETIME);
    put(c, 6);
    must_equal(try_put(c, 7), -ETIME);
    user_end(&u[3]);
    must_have_chosen(&u[3], 0, 0);
    must_equal(u[3].in[0], 6);
    duet_chan_unref(c);
    duet_chan_unref(other);
}

/* ---- Futures and events ---- */

thread_test(many_wait_for_one_future_and_one_event)
{
    for (int event = 0; event < 2; event++) {
        struct user u[QUEUE];
        duet_future *f = open_promise();
        duet_event e = DUET_EVENT_INIT;
        duet_chan *c = open_chan(0);
        for (int i = 0; i < QUEUE; i++) {
            u[i] = (struct user){.kind = (enum kind)(i % KINDS), .body = select_one, .rc = -1};
            u[i].by = DUET_NEVER;
            add_recv(&u[i], c);
            add_case(&u[i], duet_case_future(f));
            add_case(&u[i], duet_case_event(&e));
            user_start_asleep(&u[i]);
        }
        if (event)
            duet_event_set(&e);
        else
            settle(f);
        users_end(u, QUEUE);
        for (int i = 0; i < QUEUE; i++)
            must_have_chosen(&u[i], 1 + event, 0);
        must_equal(try_put(c, 1), -ETIME);
        duet_future_unref(f);
        duet_chan_unref(c);
    }
}

struct brief {
    duet_event e;
    bool clear;
};

static void set_and_clear(void *arg)
{
    struct brief *b = arg;
    duet_event_set(&b->e);
    duet_event_clear(&b->e);
}

/* sync.h: it was set while the caller waited, even if it has been cleared since. */
thread_test(an_event_that_was_set_and_cleared_has_woken_who_waits)
{
    for (enum kind k = 0; k < KINDS; k++)
        for (int bare = 0; bare < 2; bare++) { /* on the loop the coroutine cannot run between */
            struct brief b = {.e = DUET_EVENT_INIT};
            struct user u = {.kind = k, .body = select_one, .by = DUET_NEVER, .rc = -1};
            add_case(&u, none());
            add_case(&u, duet_case_event(&b.e));
            user_start_asleep(&u);
            if (bare)
                run_bare(u.at, set_and_clear, &b);
            else
                set_and_clear(&b);
            user_end(&u);
            must_have_chosen(&u, 1, 0);
            must(!duet_event_is_set(&b.e));
            must_equal(duet_select(u.cases, 2, DUET_NOW), -ETIME); /* and that was that */
        }
}

/* sync.h: of a future the result is not looked at; future.h: what nobody looked at is reported. */
thread_test(a_failure_that_was_only_selected_is_reported_and_its_result_may_be_taken)
{
    log_capture();
    for (int later = 0; later < 2; later++) {
        duet_future *f;
        struct user u = {.kind = THREAD, .body = select_one, .by = DUET_NEVER, .rc = -1};
        must_equal(duet_future_open_with(&f, &(duet_opts){.name = later ? "zweite" : "erste"}), 0);
        add_case(&u, duet_case_future(f));
        if (later)
            user_start_asleep(&u);
        must_equal(duet_future_settle(f, duet_err(-EIO)), 0);
        if (!later)
            user_start(&u);
        user_end(&u);
        must_have_chosen(&u, 0, 0);
        duet_future_unref(f);
    }
    must_equal(log_count("erste"), 1);
    must_equal(log_count("zweite"), 1);
    log_release();
    duet_future *f = open_promise();
    duet_case one = duet_case_future(f);
    duet_result r;
    long value;
    must_equal(duet_future_settle(f, duet_ptr(&value)), 0);
    must_equal(duet_select(&one, 1, DUET_NOW), 0);
    must_equal(duet_future_take(f, &r), 0);
    must(duet_as_ptr(r) == &value);
    duet_future_unref(f);
}

static duet_result sleep_a_little(void *arg)
{
    (void)arg;
    must_equal(duet_sleep(duet_ms(20)), 0);
    return duet_ok();
}

static void ignore(void *arg)
{
    (void)arg;
}

/* A future of work, and of a moment; and while one of these lives, it is no deadlock. */
thread_test(work_that_ends_and_a_moment_that_comes_wake_who_selects)
{
    for (enum kind k = 0; k < KINDS; k++)
        for (int i = 0; i < 3; i++) {
            duet_chan *c = open_chan(1);
            duet_future *f = i == 0   ? duet_submit(loop, sleep_a_little, NULL)
                             : i == 1 ? duet_pool_submit(pool, sleep_a_little, NULL)
                                      : duet_call_at(loop, duet_ms(20), ignore, NULL);
            struct user u = {.kind = k, .body = select_one, .by = DUET_NEVER, .rc = -1};
            add_recv(&u, c);
            add_case(&u, duet_case_future(f));
            user_start(&u);
            int rc = duet_future_wait(u.f, DUET_NEVER, NULL);
            must_equal(rc, 0);
            user_end(&u);
            must_have_chosen(&u, 1, 0);
            must(duet_future_settled(f));
            duet_future_unref(f);
            duet_chan_unref(c);
        }
}

struct own_event {
    _Atomic(duet_event *) e;
    int rounds;
};

static void set_each(void *arg)
{
    struct own_event *own = arg;
    for (int i = 0; i < own->rounds; i++) {
        duet_event *e;
        while (!(e = atomic_exchange(&own->e, NULL)))
            sched_yield();
        duet_event_set(e);
    }
}

static void select_own(struct user *me)
{
    struct own_event *own = me->more;
    for (int i = 0; i < own->rounds; i++) {
        duet_event *e = calloc(1, sizeof *e);
        duet_chan *c = open_chan(0);
        long in = -1;
        must(e != NULL);
        duet_case cases[] = {duet_case_recv(c, &in), duet_case_event(e)};
        atomic_store(&own->e, e);
        must_equal(duet_select(cases, 2, DUET_NEVER), 1);
        memset(e, 0xee, sizeof *e);
        free(e);
        duet_chan_unref(c);
    }
}

/* sync.h: whoever was woken by a call may free the object at once. */
thread_test(who_was_woken_by_an_event_may_free_it_at_once)
{
    for (enum kind k = 0; k < KINDS; k++) {
        struct own_event own = {.rounds = test_rounds(20000)};
        struct thread setter;
        struct user u = {.kind = k, .body = select_own, .more = &own};
        thread_start(&setter, set_each, &own);
        user_start(&u);
        user_end(&u);
        thread_join(&setter);
    }
}

/* The same one in several cases. */
thread_test(of_several_cases_on_one_future_or_event_one_is_chosen)
{
    for (enum kind k = 0; k < KINDS; k++)
        for (int i = 0; i < 4; i++) {
            duet_future *f = open_promise();
            duet_event e = DUET_EVENT_INIT;
            struct user u = {.kind = k, .body = select_one, .by = DUET_NEVER, .rc = -1};
            for (int n = 0; n < 6; n++)
                add_case(&u, n % 2 ? duet_case_event(&e) : duet_case_future(f));
            if (i < 2)
                user_start_asleep(&u);
            if (i % 2)
                duet_event_set(&e);
            else
                settle(f);
            if (i >= 2)
                user_start(&u);
            user_end(&u);
            must(u.rc >= 0 && u.rc < 6);
            must_equal(u.rc % 2, i % 2);
            must_equal(u.cases[u.rc].rc, 0);
            duet_future_unref(f);
        }
}

/* ---- Circles ---- */

/* Selects for the future that it is given, and lets go of it. */
static void select_given(struct user *me)
{
    duet_future *f;
    duet_result r;
    must_equal(duet_future_wait(me->more, SURELY, &r), 0);
    f = duet_as_ptr(r);
    add_case(me, duet_case_future(f));
    if (me->c)
        add_recv(me, me->c);
    select_one(me);
    duet_future_unref(f);
}

static void wait_for_given(struct user *me)
{
    me->rc = duet_future_wait(me->more, me->by, NULL);
}

/* base.h: a circle out of which nothing can come is answered; but not while another case may. */
thread_test(a_select_in_a_circle_is_told_unless_another_case_may_become_ready)
{
    log_capture();
    for (int i = 0; i < 8; i++) {
        bool oneself = i % 2, by_channel = i / 2 % 2;
        duet_future *given = open_promise();
        duet_chan *c = open_chan(0);
        struct user u = {.kind = i / 4 ? JOB : COROUTINE, .body = select_given, .rc = -1};
        struct user other = {.kind = JOB, .body = wait_for_given, .by = DUET_NEVER, .rc = -1};
        u.more = given;
        u.c = by_channel ? c : NULL;
        u.by = duet_sec(100);
        user_start(&u);
        if (!oneself) {
            other.more = u.f;
            user_start_asleep(&other);
        }
        duet_future *f = duet_future_ref(oneself ? u.f : other.f);
        must_equal(duet_future_settle(given, duet_ptr(f)), 0);
        if (by_channel) {
            nap(20);
            must(!user_ended(&u));
            while (try_put(c, 5) < 0)
                sched_yield();
        }
        must_equal(duet_future_wait(u.f, SURELY, NULL), 0);
        must_equal(u.rc, by_channel ? 1 : -EDEADLK);
        if (!oneself) {
            user_end(&other);
            must_equal(other.rc, 0);
        }
        user_end(&u);
        duet_future_unref(given);
        duet_chan_unref(c);
    }
    log_release();
}

/* base.h: DUET_SETTLER_HOLDS. */
thread_test(a_select_for_a_promise_that_only_waiters_hold_is_told)
{
    log_capture();
    for (enum kind k = 0; k < KINDS; k++)
        for (int by_channel = 0; by_channel < 2; by_channel++) {
            duet_future *given = open_promise(), *promise;
            const duet_opts holds = {.flags = DUET_SETTLER_HOLDS};
            struct user u = {.kind = k, .body = select_given, .more = given, .rc = -1};
            duet_chan *c = open_chan(0);
            must_equal(duet_future_open_with(&promise, &holds), 0);
            u.c = by_channel ? c : NULL;
            u.by = duet_sec(100);
            must_equal(duet_future_settle(given, duet_ptr(duet_future_ref(promise))), 0);
            user_start_asleep(&u);
            nap(5);
            must(!user_ended(&u));
            duet_future_unref(promise); /* the settler lets go */
            if (by_channel) {
                nap(20);
                must(!user_ended(&u));
                put(c, 6);
            }
            user_end(&u);
            must_equal(u.rc, by_channel ? 1 : -EDEADLK);
            duet_future_unref(given);
            duet_chan_unref(c);
        }
    log_release();
}

/* ---- Threads against coroutines ---- */

struct rally {
    duet_chan *there, *back;
    duet_event over;
    int rounds;
};

/* The first serves; each sends back what it got, plus one, whichever comes first. */
static void play(struct user *me)
{
    struct rally *r = me->more;
    duet_chan *out = me->id ? r->back : r->there, *in = me->id ? r->there : r->back;
    long ball = 0, next = me->id ? 0 : 1; /* what comes back */
    bool mine = me->id == 0;
    for (;;) {
        me->n = 0;
        add_case(me, none());
        int send_at = mine ? add_send(me, out, ball) : -1, recv_at = add_recv(me, in);
        int over_at = add_case(me, duet_case_event(&r->over)), i;
        must((i = duet_select(me->cases, me->n, DUET_NEVER)) > 0);
        must_equal(me->cases[i].rc, 0);
        if (i == over_at)
            break;
        if (i == send_at) {
            mine = false;
            if (ball >= r->rounds)
                duet_event_set(&r->over);
        } else {
            must_equal(i, recv_at);
            must(!mine);
            must_equal(me->in[i], next);
            ball = me->in[i] + 1;
            next = ball + 1;
            mine = true;
        }
    }
    me->value = ball;
}

thread_test(users_of_any_kinds_play_back_and_forth)
{
    for (int i = 0; i < KINDS * KINDS; i++)
        for (size_t capacity = 0; capacity < 2; capacity++) {
            struct rally r = {open_chan(capacity), open_chan(capacity), DUET_EVENT_INIT, 0};
            struct user u[2] = {{.kind = (enum kind)(i / KINDS)}, {.kind = (enum kind)(i % KINDS)}};
            r.rounds = test_rounds(1000);
            for (int k = 0; k < 2; k++) {
                u[k].body = play;
                u[k].id = k;
                u[k].more = &r;
                user_start(&u[k]);
            }
            users_end(u, 2);
            must(u[0].value >= r.rounds || u[1].value >= r.rounds);
            duet_chan_unref(r.there);
            duet_chan_unref(r.back);
        }
}

/* ---- Races ---- */

enum {
    LEDGER_MAX = 4000000,
    ACCEPTED = 1,
    GONE = 16,
    TRADERS_MAX = 16
};

/* Each item has a number: it was accepted once and came out once, or neither. */
static struct ledger {
    atomic_int next, accepted, gone;
    atomic_uchar state[LEDGER_MAX];
} ledger;

static void ledger_open(void)
{
    int used = atomic_load(&ledger.next);
    for (int i = 0; i < used; i++)
        atomic_store(&ledger.state[i], 0);
    atomic_store(&ledger.next, 0);
    atomic_store(&ledger.accepted, 0);
    atomic_store(&ledger.gone, 0);
}

/* The item carries its number and who sends it. */
static long item_new(int trader)
{
    int id = atomic_fetch_add(&ledger.next, 1);
    must(id < LEDGER_MAX);
    return (long)id * TRADERS_MAX + trader;
}

static int item_accepted(long item)
{
    must_equal(atomic_fetch_add(&ledger.state[item / TRADERS_MAX], ACCEPTED) & ACCEPTED, 0);
    return atomic_fetch_add(&ledger.accepted, 1) + 1;
}

static void item_gone(long item)
{
    must(item >= 0 && item / TRADERS_MAX < atomic_load(&ledger.next));
    must(atomic_fetch_add(&ledger.state[item / TRADERS_MAX], GONE) < GONE);
    atomic_fetch_add(&ledger.gone, 1);
}

static void ledger_close(void)
{
    int n = atomic_load(&ledger.next);
    for (int i = 0; i < n; i++) {
        int state = atomic_load(&ledger.state[i]);
        must(state == 0 || state == ACCEPTED + GONE);
    }
    must_equal(atomic_load(&ledger.accepted), atomic_load(&ledger.gone));
}

enum {
    STALLS = 2
};

struct market {
    duet_chan *c[STALLS];
    duet_event closed;
    duet_future *closing;
    int until; /* so many items have been accepted */
    bool hasty;
    size_t capacity[STALLS];
};

static void market_open(struct market *m, size_t first, size_t second, int until, bool hasty)
{
    *m = (struct market){.c = {open_chan(first), open_chan(second)},
                         .closing = open_promise(),
                         .until = until,
                         .hasty = hasty,
                         .capacity = {first, second}};
    ledger_open();
}

/* What is left is found in the channels. */
static void market_close(struct market *m)
{
    for (int i = 0; i < STALLS; i++) {
        long item;
        while (duet_chan_recv(m->c[i], &item, DUET_NOW) == 0)
            item_gone(item);
        duet_chan_unref(m->c[i]);
    }
    ledger_close();
    (void)duet_future_settle(m->closing, duet_ok());
    duet_future_unref(m->closing);
}

static void accepted(struct market *m, long item)
{
    if (item_accepted(item) == m->until) {
        duet_event_set(&m->closed);
        must_equal(duet_future_settle(m->closing, duet_ok()), 0);
    }
}

/* Lets the others run, from wherever: what a loop of tries needs. */
static void give_way(void)
{
    if (duet_loop_self())
        (void)duet_yield();
    else
        sched_yield();
}

static duet_deadline hurry(struct user *me, const struct market *m)
{
    uint64_t r = test_random(&me->random) >> 8;
    return !m->hasty || r % 4 == 0 ? DUET_NEVER
           : r % 4 == 1            ? DUET_NOW
           : r % 4 == 2            ? duet_us(1)
                                   : duet_us((int64_t)(r >> 8) % 60);
}

/* Sends or receives at either stall, whichever is first, until the market is closed or it is
 * cancelled. What it holds and did not send it offers again: if it had been sent all the same, it
 * would come twice. */
static void trade(struct user *me)
{
    struct market *m = me->more;
    long offer[STALLS], last[STALLS][TRADERS_MAX];
    memset(last, -1, sizeof last);
    for (int i = 0; i < STALLS; i++)
        offer[i] = item_new(me->id);
    for (;;) {
        int stall[CASES_MAX] = {0};
        me->n = 0;
        for (unsigned i = 0, turn = (unsigned)(test_random(&me->random) >> 20); i < 6; i++) {
            unsigned what = (i + turn) % 6; /* no case is always the first */
            stall[me->n] = (int)what % 2;
            if (what < 2)
                add_send(me, m->c[what], offer[what]);
            else if (what < 4)
                add_recv(me, m->c[what % 2]);
            else if (what == 4)
                add_case(me, duet_case_event(&m->closed));
            else
                add_case(me, duet_case_future(m->closing));
        }
        int i = duet_select(me->cases, me->n, hurry(me, m));
        if (i == -ECANCELED) {
            must(duet_cancelled());
            must_have_received_only(me, -1, 0);
            break;
        }
        if (i == -ETIME) {
            must_have_received_only(me, -1, 0);
            give_way();
            continue;
        }
        must(i >= 0 && i < (int)me->n);
        must_equal(me->cases[i].rc, 0);
        int at = stall[i];
        if (me->cases[i].kind == DUET_CASE_SEND) {
            must_have_received_only(me, -1, 0);
            accepted(m, offer[at]);
            offer[at] = item_new(me->id);
        } else if (me->cases[i].kind == DUET_CASE_RECV) {
            long item = me->in[i];
            must_have_received_only(me, i, item);
            item_gone(item);
            must(item % TRADERS_MAX != me->id || m->capacity[at] > 0); /* it met itself */
            must(item > last[at][item % TRADERS_MAX]); /* in order, of each sender */
            last[at][item % TRADERS_MAX] = item;
        } else {
            break;
        }
    }
}

/* Likewise, without select. */
static void trade_plainly(struct user *me)
{
    struct market *m = me->more;
    long offer = item_new(me->id);
    while (!duet_event_is_set(&m->closed)) {
        duet_chan *c = m->c[test_random(&me->random) >> 20 & 1];
        duet_deadline by = duet_us((int64_t)(test_random(&me->random) >> 20) % 300);
        long item = -1;
        if (test_random(&me->random) >> 20 & 1) {
            int rc = duet_chan_send(c, &offer, by);
            must(rc == 0 || rc == -ETIME);
            if (rc == 0) {
                accepted(m, offer);
                offer = item_new(me->id);
            }
        } else {
            int rc = duet_chan_recv(c, &item, by);
            must(rc == 0 || (rc == -ETIME && item == -1));
            if (rc == 0)
                item_gone(item);
        }
        give_way();
    }
}

static const size_t markets[][STALLS] = {{0, 0}, {0, 1}, {1, 3}};

static void market_day(bool hasty, bool plain, const enum kind *kinds, int traders, int until,
                       uint64_t *random)
{
    for (size_t i = 0; i < COUNT(markets); i++) {
        struct market m;
        struct user u[TRADERS_MAX] = {{0}};
        market_open(&m, markets[i][0], markets[i][1], until, hasty);
        for (int k = 0; k < traders; k++) {
            u[k] = (struct user){.kind = kinds ? kinds[k] : (enum kind)(k % KINDS),
                                 .body = plain && k % 4 == 3 ? trade_plainly : trade,
                                 .id = k,
                                 .more = &m,
                                 .random = test_random(random) | 1};
            user_start(&u[k]);
        }
        users_end(u, traders);
        must(atomic_load(&ledger.accepted) >= until);
        market_close(&m);
    }
}

thread_test(many_selects_meet_many_selects_and_each_item_is_received_once)
{
    uint64_t random = test_seed();
    market_day(false, false, NULL, 9, test_rounds(60000), &random);
}

thread_test(selects_and_plain_users_meet_and_each_item_is_received_once)
{
    uint64_t random = test_seed();
    market_day(false, true, NULL, 12, test_rounds(40000), &random);
    market_day(true, true, NULL, 12, test_rounds(20000), &random);
}

thread_test(deadlines_of_a_microsecond_race_the_counterparts_and_each_item_is_received_once)
{
    uint64_t random = test_seed();
    market_day(true, false, NULL, 9, test_rounds(40000), &random);
}

thread_test(selects_of_any_two_kinds_meet_and_each_item_is_received_once)
{
    uint64_t random = test_seed();
    for (int i = 0; i < KINDS * KINDS; i++) {
        const enum kind kinds[] = {(enum kind)(i / KINDS), (enum kind)(i % KINDS)};
        market_day(i % 2, false, kinds, 2, test_rounds(4000), &random);
    }
}

/* A user that was cancelled before it started has no say. */
static void trader_end(struct user *u)
{
    if (u->kind == THREAD) {
        thread_join(&u->thread);
        return;
    }
    int err = finish(u->f).err;
    must(err == 0 || err == -ECANCELED);
}

thread_test(traders_cancelled_at_any_moment_lose_nothing_and_double_nothing)
{
    uint64_t random = test_seed();
    for (size_t i = 0; i < COUNT(markets); i++)
        for (int left = test_rounds(2000); left > 0;) {
            enum {
                VICTIMS = 7
            };
            struct market m;
            struct user u[VICTIMS] = {{0}};
            market_open(&m, markets[i][0], markets[i][1], INT32_MAX, true);
            for (; left > 0 && atomic_load(&ledger.next) < LEDGER_MAX / 8; left--) {
                struct user *v = &u[test_random(&random) % VICTIMS];
                if (v->f) {
                    spin_a_little(&random, 3000);
                    duet_future_cancel(v->f);
                    trader_end(v);
                }
                *v = (struct user){.kind = (v - u) % 2 ? JOB : COROUTINE,
                                   .body = trade,
                                   .id = (int)(v - u),
                                   .more = &m,
                                   .random = test_random(&random) | 1};
                user_start(v);
            }
            for (int k = 0; k < VICTIMS; k++)
                if (u[k].f) {
                    duet_future_cancel(u[k].f);
                    trader_end(&u[k]);
                }
            market_close(&m);
        }
}

/* Everything happens at once to one select: who won is who was told so. */
thread_test(one_select_that_is_served_cancelled_and_timed_out_at_once_has_one_answer)
{
    uint64_t random = test_seed();
    for (int i = test_rounds(20000); i > 0; i--) {
        duet_chan *a = open_chan(0), *b = open_chan(0);
        duet_event e = DUET_EVENT_INIT;
        struct user u = {.kind = (enum kind)(i % KINDS), .body = select_one, .rc = -ECANCELED};
        uint64_t r = test_random(&random) >> 8;
        bool cancel = u.kind != THREAD && r % 5 == 0, set = r % 7 == 0;
        int put_a = -ETIME, got_b = -ETIME;
        u.by = u.kind != THREAD && r % 3 ? DUET_NEVER : duet_us((int64_t)(r >> 8) % 150);
        add_recv(&u, a);
        add_send(&u, b, 5);
        add_case(&u, duet_case_event(&e));
        user_start(&u);
        spin_a_little(&random, 1000 << i % 8);
        if (cancel)
            duet_future_cancel(u.f);
        if (set)
            duet_event_set(&e);
        for (int k = 0; k < 2; k++)
            if ((r >> 20 & 1) == (uint64_t)k)
                put_a = try_put(a, 6);
            else
                got_b = try_get(b);
        must((put_a == 0) + (got_b == 0) <= 1);
        must(put_a == 0 || put_a == -ETIME);
        must(got_b == 0 || got_b == -ETIME);
        if (u.kind != THREAD)
            duet_future_cancel(u.f);
        trader_end(&u);
        if (put_a == 0)
            must_have_chosen(&u, 0, 0);
        else if (got_b == 0)
            must_have_chosen(&u, 1, 0);
        else
            must(u.rc == -ECANCELED || u.rc == -ETIME || (u.rc == 2 && set));
        must_have_received_only(&u, put_a == 0 ? 0 : -1, 6);
        duet_chan_unref(a);
        duet_chan_unref(b);
    }
}

static void select_until_shut(struct user *me)
{
    struct market *m = me->more;
    long offer[STALLS];
    bool open[STALLS] = {true, true};
    for (int i = 0; i < STALLS; i++)
        offer[i] = item_new(me->id);
    while (open[0] || open[1]) {
        me->n = 0;
        for (int i = 0; i < STALLS; i++) {
            if (open[i] && me->id % 2)
                add_send(me, m->c[i], offer[i]);
            else if (open[i])
                add_recv(me, m->c[i]);
            else
                add_case(me, none());
        }
        int i = duet_select(me->cases, me->n, DUET_NEVER);
        must(i >= 0 && i < STALLS);
        if (me->cases[i].rc < 0) {
            must_equal(me->cases[i].rc, -EPIPE);
            must_have_received_only(me, -1, 0);
            open[i] = false;
        } else if (me->id % 2) {
            (void)item_accepted(offer[i]);
            offer[i] = item_new(me->id);
        } else {
            must_have_received_only(me, i, me->in[i]);
            item_gone(me->in[i]);
        }
    }
}

static void drop_item(void *item)
{
    item_gone(*(long *)item);
}

thread_test(a_shut_that_races_selects_wakes_all_and_loses_nothing)
{
    uint64_t random = test_seed();
    for (int round = test_rounds(2000); round > 0; round--) {
        struct market m = {.until = 0};
        struct user u[2 * KINDS];
        ledger_open();
        for (int i = 0; i < STALLS; i++)
            must_equal(
                duet_chan_open_with(&m.c[i], sizeof(long), (size_t)(round + i) % 3, drop_item), 0);
        for (int i = 0; i < 2 * KINDS; i++) {
            u[i] = (struct user){.kind = (enum kind)(i % KINDS), /* of each a sender */
                                 .body = select_until_shut,
                                 .id = i,
                                 .more = &m};
            user_start(&u[i]);
        }
        for (int i = 0; i < STALLS; i++) {
            spin_a_little(&random, 1000 << round % 10);
            if (test_random(&random) >> 20 & 1)
                duet_chan_shut_now(m.c[i]);
            else
                duet_chan_shut(m.c[i]);
        }
        users_end(u, 2 * KINDS);
        ledger_close();
        for (int i = 0; i < STALLS; i++) {
            must_equal(try_get(m.c[i]), -EPIPE);
            duet_chan_unref(m.c[i]);
        }
    }
}

/* ---- Bare callbacks and children ---- */

static void select_barely(void *arg)
{
    struct scene *s = arg;
    struct ready r;
    struct user u = {.rc = -1};
    list_unready(&u, s);
    must_equal(duet_select(u.cases, u.n, DUET_NEVER), -EDEADLK);
    must_equal(duet_select(u.cases, u.n, SURELY), -EDEADLK);
    int rc = duet_select(u.cases, u.n, DUET_NOW);
    must(rc == -ETIME || rc == -EDEADLK);
    must_have_received_only(&u, -1, 0);
    u.cases[0] = none();
    must_equal(duet_select(u.cases, 1, SURELY), -EDEADLK);
    ready_open(&r);
    for (int i = 0; i < 4; i++) {
        list_unready(&u, s);
        add_ready(&u, &r, i);
        u.rc = duet_select(u.cases, u.n, i % 2 ? DUET_NOW : DUET_NEVER);
        must_have_chosen(&u, UNREADY, 0);
        must_have_received_only(&u, i ? -1 : UNREADY, IN);
    }
    must_equal(get(r.room), OUT);
    duet_chan_unref(r.full);
    duet_chan_unref(r.room);
    duet_future_unref(r.settled);
}

thread_test(a_bare_callback_selects_what_is_ready_and_must_not_wait)
{
    struct scene s;
    scene_open(&s);
    run_bare(loop, select_barely, &s);
    scene_close(&s);
}

static void in_child(struct scene *s)
{
    long in = -1, out = 3;
    duet_event set = DUET_EVENT_INIT;
    duet_event_set(&set);
    duet_chan *own = open_chan(1);
    for (int i = 0; i < 2; i++) {
        duet_deadline by = i ? DUET_NEVER : DUET_NOW;
        duet_case dead[] = {duet_case_recv(s->empty, &in), duet_case_send(s->empty, &out),
                            duet_case_recv(s->full, &in), duet_case_send(s->meeting, &out),
                            duet_case_future(s->pending)};
        for (size_t k = 0; k < COUNT(dead); k++)
            must_equal(duet_select(&dead[k], 1, by), -EOWNERDEAD);
    }
    must_equal(in, -1);
    duet_case cases[] = {duet_case_recv(own, &in), duet_case_event(&set)};
    must_equal(duet_select(cases, 2, DUET_NEVER), 1);
    put(own, 4);
    must_equal(duet_select(cases, 1, DUET_NEVER), 0);
    must_equal(in, 4);
    duet_chan_unref(own);
}

thread_test(what_is_the_parents_is_dead_in_the_child_of_a_fork)
{
    struct scene s;
    struct user u = {.kind = THREAD, .body = select_one, .by = DUET_NEVER, .rc = -1};
    int status;
    scene_open(&s);
    list_unready(&u, &s);
    user_start_asleep(&u);
    pid_t child = fork();
    must(child >= 0);
    if (child == 0) {
        in_child(&s);
        _exit(0);
    }
    must_equal(waitpid(child, &status, 0), child);
    must(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    must(!user_ended(&u));
    put(s.empty, 8); /* the parent notices nothing */
    user_end(&u);
    must_have_chosen(&u, 1, 0);
    must_equal(u.in[1], 8);
    scene_close(&s);
}

/* ---- Nobody is left ---- */

#ifndef TEST_TSAN /* it has a thread of its own, which might do anything */

static void select_in_vain(void)
{
    struct scene s;
    struct user u = {.rc = -1};
    scene_open(&s);
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < UNREADY; i++) {
            u.n = 0;
            add_unready(&u, &s, i);
            must_equal(duet_select(u.cases, u.n, DUET_NEVER), -EDEADLK);
            must_equal(duet_select(u.cases, u.n, duet_ms(3)), -ETIME);
            must_have_received_only(&u, -1, 0);
        }
        list_unready(&u, &s);
        must_equal(duet_select(u.cases, u.n, DUET_NEVER), -EDEADLK);
        must_have_received_only(&u, -1, 0);
        list_both(&u, s.meeting, 4 + round);
        must_equal(duet_select(u.cases, u.n, DUET_NEVER), -EDEADLK); /* nor by itself */
        scene_must_be_untouched(&s);
    }
    scene_close(&s);
}

/* sync.h: all threads rest or wait too. */
thread_test(a_thread_that_selects_in_vain_while_everything_rests_is_told)
{
    log_capture();
    select_in_vain();
    log_release();
}

coroutine_test(a_coroutine_that_selects_in_vain_while_everything_rests_is_told)
{
    log_capture();
    select_in_vain();
    log_release();
    return duet_ok();
}

/* This thread waits for the user, without a deadline: either may be told, and then helps. */
thread_test(a_user_of_any_kind_that_selects_in_vain_while_everything_rests_is_told)
{
    log_capture();
    for (enum kind k = 0; k < KINDS; k++)
        for (int i = 0; i < 2; i++) {
            struct scene s;
            duet_event help = DUET_EVENT_INIT;
            struct user u = {.kind = k, .body = select_one, .by = DUET_NEVER, .rc = -1};
            scene_open(&s);
            if (i)
                list_unready(&u, &s);
            int help_at = add_case(&u, duet_case_event(&help));
            user_start(&u);
            int rc = duet_future_wait(u.f, DUET_NEVER, NULL);
            if (rc == -EDEADLK)
                duet_event_set(&help);
            else
                must_equal(rc, 0);
            user_end(&u);
            must_equal(u.rc, rc == 0 ? -EDEADLK : help_at);
            must_have_received_only(&u, -1, 0);
            scene_close(&s);
        }
    log_release();
}

#endif

/* base.h: as long as there is one left to do it. */
thread_test(while_a_thread_is_left_that_might_serve_it_no_select_is_told)
{
    struct scene s;
    scene_open(&s);
    for (enum kind k = 0; k < KINDS; k++) {
        struct user u = {.kind = k, .body = select_one, .by = DUET_NEVER, .rc = -1};
        list_unready(&u, &s);
        user_start_asleep(&u);
        nap(60); /* this thread rests, but not in duet */
        must_equal(duet_sleep(duet_ms(60)), 0); /* and here with a deadline */
        must(!user_ended(&u));
        put(s.empty, 2);
        user_end(&u);
        must_have_chosen(&u, 1, 0);
        must_have_received_only(&u, 1, 2);
        scene_must_be_untouched(&s);
    }
    scene_close(&s);
}

static void errno_stays(struct user *me)
{
    struct scene s;
    scene_open(&s);
    errno = 78;
    list_unready(me, &s);
    must_equal(duet_select(me->cases, me->n, duet_ms(1)), -ETIME);
    duet_event_set(&s.unset);
    must_equal(duet_select(me->cases, me->n, DUET_NEVER), 4);
    must_equal(errno, 78);
    duet_event_clear(&s.unset);
    scene_close(&s);
}

/* base.h */
thread_test(errno_is_left_alone)
{
    as_each_kind(errno_stays, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_case_of_any_kind_that_is_ready_is_done_at_once_and_no_other),
        cmocka_unit_test(
            a_case_of_any_kind_that_becomes_ready_wakes_who_waits_and_no_other_is_done),
        cmocka_unit_test(a_list_of_one_is_that_one),
        cmocka_unit_test(when_none_is_ready_a_try_or_a_deadline_ends_it_and_nothing_was_done),
        cmocka_unit_test(who_is_cancelled_while_it_waits_has_done_nothing),
        cmocka_unit_test(who_was_cancelled_before_it_came_does_none_of_them_but_under_a_shield),
        cmocka_unit_test(under_a_shield_a_select_outlasts_its_cancellation),
        cmocka_unit_test(
            a_select_of_nothing_but_cases_switched_off_ends_with_its_deadline_or_is_told),
        cmocka_unit_test(a_case_switched_off_does_not_count_whatever_it_points_to),
        cmocka_unit_test(bad_cases_are_refused_and_nothing_is_done),
        cmocka_unit_test(of_a_shut_channel_what_is_left_is_received_first),
        cmocka_unit_test(several_channels_are_merged_until_each_is_shut),
        cmocka_unit_test(of_two_counterparts_that_come_while_it_waits_it_meets_one),
        cmocka_unit_test(of_several_cases_that_become_ready_while_it_waits_one_is_done),
        cmocka_unit_test(
            a_select_that_sends_and_receives_at_one_rendezvous_waits_for_somebody_else),
        cmocka_unit_test(two_selects_that_send_and_receive_at_one_rendezvous_meet_each_other),
        cmocka_unit_test(of_several_cases_on_one_channel_one_is_done),
        cmocka_unit_test(of_a_long_list_each_is_found),
        cmocka_unit_test(of_a_long_list_that_is_ready_all_over_each_is_done_once),
        cmocka_unit_test(of_three_that_are_always_ready_each_is_chosen_as_often),
        cmocka_unit_test(of_two_that_stand_side_by_side_in_a_list_each_is_chosen_as_often),
        cmocka_unit_test(a_shut_channel_is_chosen_as_often_as_what_else_is_ready),
        cmocka_unit_test(who_selects_is_served_in_its_turn_among_those_who_receive_or_send),
        cmocka_unit_test(who_has_left_by_another_case_is_passed_over),
        cmocka_unit_test(many_wait_for_one_future_and_one_event),
        cmocka_unit_test(an_event_that_was_set_and_cleared_has_woken_who_waits),
        cmocka_unit_test(a_failure_that_was_only_selected_is_reported_and_its_result_may_be_taken),
        cmocka_unit_test(work_that_ends_and_a_moment_that_comes_wake_who_selects),
        cmocka_unit_test(who_was_woken_by_an_event_may_free_it_at_once),
        cmocka_unit_test(of_several_cases_on_one_future_or_event_one_is_chosen),
        cmocka_unit_test(a_select_in_a_circle_is_told_unless_another_case_may_become_ready),
        cmocka_unit_test(a_select_for_a_promise_that_only_waiters_hold_is_told),
        cmocka_unit_test(users_of_any_kinds_play_back_and_forth),
        cmocka_unit_test(many_selects_meet_many_selects_and_each_item_is_received_once),
        cmocka_unit_test(selects_and_plain_users_meet_and_each_item_is_received_once),
        cmocka_unit_test(
            deadlines_of_a_microsecond_race_the_counterparts_and_each_item_is_received_once),
        cmocka_unit_test(selects_of_any_two_kinds_meet_and_each_item_is_received_once),
        cmocka_unit_test(traders_cancelled_at_any_moment_lose_nothing_and_double_nothing),
        cmocka_unit_test(one_select_that_is_served_cancelled_and_timed_out_at_once_has_one_answer),
        cmocka_unit_test(a_shut_that_races_selects_wakes_all_and_loses_nothing),
        cmocka_unit_test(a_bare_callback_selects_what_is_ready_and_must_not_wait),
        cmocka_unit_test(what_is_the_parents_is_dead_in_the_child_of_a_fork),
#ifndef TEST_TSAN
        cmocka_unit_test(a_thread_that_selects_in_vain_while_everything_rests_is_told),
        cmocka_unit_test(a_coroutine_that_selects_in_vain_while_everything_rests_is_told),
        cmocka_unit_test(a_user_of_any_kind_that_selects_in_vain_while_everything_rests_is_told),
#endif
        cmocka_unit_test(while_a_thread_is_left_that_might_serve_it_no_select_is_told),
        cmocka_unit_test(errno_is_left_alone),
    };
    return cmocka_run_group_tests(tests, open_places, close_places);
}
