/* What sync.h says of channels: order, hand-over, the end, and what becomes of every item, with
 * coroutines, jobs and plain threads on either side. */
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

/* Somebody who uses a channel: a coroutine, a job or a plain thread. */
struct user {
    enum kind kind;
    void (*body)(struct user *me);
    duet_chan *c;
    long value; /* the item: to send, or received */
    duet_deadline by;
    int rc;
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

static void join_one(struct user *me)
{
    me->rc = duet_chan_join(me->c, me->by);
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

static duet_chan *open_chan(size_t item_size, size_t capacity)
{
    duet_chan *c = NULL;
    must_equal(duet_chan_open(&c, item_size, capacity), 0);
    must(c != NULL);
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

/* After an error *item is as it was. */
static int try_get(duet_chan *c)
{
    long value = -77;
    int rc = duet_chan_recv(c, &value, DUET_NOW);
    must(rc == 0 || value == -77);
    return rc;
}

static void must_be_full(duet_chan *c, size_t capacity)
{
    must_equal(duet_chan_count(c), capacity);
    must_equal(try_put(c, 0), -ETIME);
}

static void must_be_empty(duet_chan *c)
{
    must_equal(duet_chan_count(c), 0);
    must_equal(try_get(c), -ETIME);
}

static void fill(duet_chan *c, long first, size_t capacity)
{
    for (size_t i = 0; i < capacity; i++)
        put(c, first + (long)i);
    must_be_full(c, capacity);
}

/* Runs fn(arg) as a bare callback of the loop, and waits until it has. */
static void run_bare(duet_loop *on, duet_callback *fn, void *arg)
{
    must_equal(finish(duet_call_at(on, DUET_NOW, fn, arg)).err, 0);
}

static void block_loop(void *gate)
{
    gate_pass(gate);
}

static const size_t capacities[] = {0, 1, 100};
static const size_t sizes[] = {0, 1, 8, 200};
#define COUNT(array) (sizeof(array) / sizeof(array)[0])

/* ---- What becomes of every item ---- */

enum {
    LEDGER_MAX = 4000000,
    ACCEPTED = 1,
    GONE = 16
};

/* Each item has a number: its send succeeded once and it came out once (received or dropped), or
 * neither. */
static struct ledger {
    atomic_int next, received, dropped, alive;
    atomic_uchar state[LEDGER_MAX];
} ledger;

static void ledger_open(void)
{
    int used = atomic_load(&ledger.next);
    for (int i = 0; i < used; i++)
        atomic_store(&ledger.state[i], 0);
    atomic_store(&ledger.next, 0);
    atomic_store(&ledger.received, 0);
    atomic_store(&ledger.dropped, 0);
    atomic_store(&ledger.alive, 0);
}

static int ledger_number(void)
{
    int id = atomic_fetch_add(&ledger.next, 1);
    must(id < LEDGER_MAX);
    return id;
}

static void ledger_accepted(int id)
{
    must_equal(atomic_fetch_add(&ledger.state[id], ACCEPTED) & ACCEPTED, 0);
}

static void ledger_gone(int id, atomic_int *how)
{
    must(id >= 0 && id < atomic_load(&ledger.next));
    must(atomic_fetch_add(&ledger.state[id], GONE) < GONE);
    atomic_fetch_add(how, 1);
}

static int ledger_close(void)
{
    int accepted = 0, n = atomic_load(&ledger.next);
    for (int i = 0; i < n; i++) {
        int state = atomic_load(&ledger.state[i]);
        must(state == 0 || state == ACCEPTED + GONE);
        accepted += state != 0;
    }
    must_equal(accepted, atomic_load(&ledger.received) + atomic_load(&ledger.dropped));
    must_equal(atomic_load(&ledger.alive), 0);
    return accepted;
}

enum {
    PRODUCERS_MAX = 16
};

/* An item that shows whether it is whole. */
struct parcel {
    int id, producer;
    uint64_t body[24];
};

static void parcel_fill(struct parcel *p, int id, int producer)
{
    p->id = id;
    p->producer = producer;
    for (size_t i = 0; i < COUNT(p->body); i++)
        p->body[i] = (uint64_t)id * UINT64_C(0x9e3779b97f4a7c15) + i;
}

static void parcel_check(const struct parcel *p)
{
    must(p->producer >= 0 && p->producer < PRODUCERS_MAX);
    for (size_t i = 0; i < COUNT(p->body); i++)
        must(p->body[i] == (uint64_t)p->id * UINT64_C(0x9e3779b97f4a7c15) + i);
}

/* The same on the heap: the item is a pointer to it. */
static struct parcel *parcel_new(int producer)
{
    struct parcel *p = malloc(sizeof *p);
    must(p != NULL);
    parcel_fill(p, ledger_number(), producer);
    atomic_fetch_add(&ledger.alive, 1);
    return p;
}

static void parcel_free(struct parcel *p)
{
    parcel_check(p);
    memset(p, 0xee, sizeof *p);
    free(p);
    atomic_fetch_sub(&ledger.alive, 1);
}

/* The destructor of a channel of pointers. */
static void parcel_drop(void *item)
{
    struct parcel *p = *(struct parcel **)item;
    ledger_gone(p->id, &ledger.dropped);
    parcel_free(p);
}

static duet_chan *open_parcels(size_t capacity)
{
    duet_chan *c = NULL;
    must_equal(duet_chan_open_with(&c, sizeof(struct parcel *), capacity, parcel_drop), 0);
    return c;
}

static int parcel_send(duet_chan *c, int producer, duet_deadline by)
{
    struct parcel *p = parcel_new(producer);
    int id = p->id, rc = duet_chan_send(c, &p, by);
    if (rc == 0)
        ledger_accepted(id);
    else
        parcel_free(p); /* it is still the sender's */
    return rc;
}

/* last: the numbers that this receiver has had last of each producer, which increase. */
static int parcel_recv(duet_chan *c, int *last, duet_deadline by)
{
    struct parcel *const mark = (struct parcel *)&ledger, *p = mark;
    int rc = duet_chan_recv(c, &p, by);
    if (rc < 0) {
        must(p == mark);
        return rc;
    }
    parcel_check(p);
    must(p->id > last[p->producer]);
    last[p->producer] = p->id;
    ledger_gone(p->id, &ledger.received);
    parcel_free(p);
    return rc;
}

static void forget_last(int *last)
{
    for (int i = 0; i < PRODUCERS_MAX; i++)
        last[i] = -1;
}

/* Lets the others run, from wherever: what a loop of tries needs. */
static void give_way(void)
{
    if (duet_loop_self())
        (void)duet_yield();
    else
        sched_yield();
}

/* ---- Items ---- */

/* Writes a pattern, between fences that nobody may touch. */
struct fenced {
    unsigned char before[8], bytes[200], after[8];
};

static void pattern(struct fenced *f, size_t size, unsigned n)
{
    memset(f, 0x5a, sizeof *f);
    for (size_t i = 0; i < size; i++)
        f->bytes[i] = (unsigned char)(n * 7 + i);
}

static void items_in_order(struct user *me)
{
    (void)me;
    const duet_deadline by[] = {DUET_NOW, DUET_NEVER, duet_ms(-5)}; /* it is there at once */
    for (size_t s = 0; s < COUNT(sizes); s++)
        for (size_t k = 1; k < COUNT(capacities); k++) {
            size_t capacity = capacities[k];
            duet_chan *c = open_chan(sizes[s], capacity);
            struct fenced sent, got, expected;
            unsigned in = 0, out = 0;
            for (int round = 0; round < 3; round++) { /* past the end of the ring of slots */
                for (; in - out < capacity; in++) {
                    must_equal(duet_chan_count(c), in - out);
                    pattern(&sent, sizes[s], in);
                    must_equal(duet_chan_send(c, sent.bytes, by[in % 3]), 0);
                    memset(&sent, 0, sizeof sent); /* it was copied */
                }
                must_equal(duet_chan_send(c, sent.bytes, DUET_NOW), -ETIME);
                must_equal(duet_chan_send(c, sent.bytes, duet_us(10)), -ETIME);
                must_equal(duet_chan_count(c), capacity);
                while (in - out > (round == 2 ? 0 : capacity / 2)) {
                    pattern(&got, 0, 0);
                    pattern(&expected, sizes[s], out);
                    must_equal(duet_chan_recv(c, got.bytes, by[out % 3]), 0);
                    must(memcmp(&got, &expected, sizeof got) == 0);
                    out++;
                    must_equal(duet_chan_count(c), in - out);
                }
            }
            pattern(&expected, 0, 0);
            pattern(&got, 0, 0);
            must_equal(duet_chan_recv(c, got.bytes, DUET_NOW), -ETIME);
            must_equal(duet_chan_recv(c, got.bytes, duet_us(10)), -ETIME);
            must(memcmp(&got, &expected, sizeof got) == 0);
            duet_chan_unref(c);
        }
}

thread_test(items_of_any_size_come_out_whole_and_in_the_order_in_which_they_went_in)
{
    as_each_kind(items_in_order, NULL);
}

/* sync.h: item_size may be 0: the items are mere signals, and may be NULL. */
thread_test(items_of_no_size_may_be_null)
{
    duet_chan *c = open_chan(0, 3);
    for (int i = 0; i < 3; i++)
        must_equal(duet_chan_send(c, NULL, DUET_NOW), 0);
    must_equal(duet_chan_send(c, NULL, DUET_NOW), -ETIME);
    must_equal(duet_chan_count(c), 3);
    for (int i = 0; i < 3; i++)
        must_equal(duet_chan_recv(c, NULL, DUET_NOW), 0);
    must_equal(duet_chan_recv(c, NULL, DUET_NOW), -ETIME);
    duet_chan_unref(c);
}

static void recv_signal(struct user *me)
{
    me->rc = duet_chan_recv(me->c, NULL, me->by);
}

static void send_signal(struct user *me)
{
    me->rc = duet_chan_send(me->c, NULL, me->by);
}

thread_test(items_of_no_size_meet_those_who_wait)
{
    for (int i = 0; i < 2 * KINDS; i++) {
        duet_chan *c = open_chan(0, 0);
        struct user u = {.kind = (enum kind)(i % KINDS), .c = c, .by = DUET_NEVER, .rc = 1};
        u.body = i < KINDS ? recv_signal : send_signal;
        user_start_asleep(&u);
        must_equal(
            i < KINDS ? duet_chan_send(c, NULL, DUET_NOW) : duet_chan_recv(c, NULL, DUET_NOW), 0);
        user_end(&u);
        must_equal(u.rc, 0);
        duet_chan_unref(c);
    }
}

static void errno_stays(struct user *me)
{
    duet_chan *c = open_chan(sizeof(long), 1);
    long value = 3;
    me->rc = 0;
    errno = 77;
    must_equal(duet_chan_send(c, &value, DUET_NOW), 0);
    must_equal(duet_chan_send(c, &value, duet_ms(2)), -ETIME);
    must_equal(duet_chan_recv(c, &value, DUET_NOW), 0);
    must_equal(duet_chan_recv(c, &value, duet_ms(2)), -ETIME);
    must_equal(duet_chan_join(c, duet_ms(2)), -ETIME);
    must_equal(duet_chan_done(c), 0);
    must_equal(duet_chan_join(c, DUET_NEVER), 0);
    duet_chan_shut(c);
    must_equal(duet_chan_send(c, &value, DUET_NEVER), -EPIPE);
    must_equal(duet_chan_recv(c, &value, DUET_NEVER), -EPIPE);
    must_equal(errno, 77);
    duet_chan_unref(c);
}

/* base.h */
thread_test(errno_is_left_alone)
{
    as_each_kind(errno_stays, NULL);
}

/* ---- Meeting ---- */

static void alone_at_a_rendezvous(struct user *me)
{
    (void)me;
    duet_chan *c = open_chan(sizeof(long), 0);
    long value = 5;
    for (int i = 0; i < 3; i++) {
        must_equal(try_put(c, 1), -ETIME);
        must_equal(try_get(c), -ETIME);
        must_equal(duet_chan_send(c, &value, duet_ms(1)), -ETIME);
        must_equal(duet_chan_recv(c, &value, duet_ms(1)), -ETIME);
        must_equal(value, 5);
        must_equal(duet_chan_count(c), 0);
    }
    duet_chan_unref(c);
}

/* sync.h: DUET_NOW makes it a try. */
thread_test(without_a_counterpart_nothing_is_sent_or_received_at_a_rendezvous)
{
    as_each_kind(alone_at_a_rendezvous, NULL);
}

/* sync.h: with capacity 0, the send returns when the item has been received. */
thread_test(a_send_at_a_rendezvous_returns_when_its_item_was_received)
{
    for (enum kind k = 0; k < KINDS; k++) {
        struct user u = {.kind = k, .body = send_one, .value = 42, .by = DUET_NEVER, .rc = 1};
        u.c = open_chan(sizeof(long), 0);
        user_start_asleep(&u);
        nap(5);
        must(!user_ended(&u));
        must_equal(duet_chan_count(u.c), 0); /* at most the capacity */
        must_equal(get(u.c), 42);
        must_equal(try_get(u.c), -ETIME);
        user_end(&u);
        must_equal(u.rc, 0);
        duet_chan_unref(u.c);
    }
}

thread_test(a_try_to_send_meets_a_receiver_that_waits)
{
    for (enum kind k = 0; k < KINDS; k++)
        for (size_t i = 0; i < COUNT(capacities); i++) {
            struct user u = {.kind = k, .body = recv_one, .by = DUET_NEVER, .rc = 1};
            u.c = open_chan(sizeof(long), capacities[i]);
            user_start_asleep(&u);
            put(u.c, 43);
            must_equal(duet_chan_count(u.c), 0); /* it was handed over, in that moment */
            must_equal(try_get(u.c), -ETIME);
            user_end(&u);
            must_equal(u.rc, 0);
            must_equal(u.value, 43);
            duet_chan_unref(u.c);
        }
}

enum {
    EXCHANGED = 1000
};

struct exchange {
    int n;
    size_t size;
};

static void send_many(struct user *me)
{
    const struct exchange *e = me->more;
    struct parcel p;
    memset(&p, 0, sizeof p);
    for (int i = 0; i < e->n; i++) {
        parcel_fill(&p, i, me->id);
        must_equal(duet_chan_send(me->c, &p, DUET_NEVER), 0);
        memset(&p, 0, sizeof p);
    }
}

static void recv_many(struct user *me)
{
    const struct exchange *e = me->more;
    for (int i = 0; i < e->n; i++) {
        struct parcel p, expected;
        memset(&p, 0x5a, sizeof p);
        memcpy(&expected, &p, sizeof p);
        struct parcel whole;
        parcel_fill(&whole, i, 0);
        memcpy(&expected, &whole, e->size);
        must_equal(duet_chan_recv(me->c, &p, DUET_NEVER), 0);
        must(memcmp(&p, &expected, sizeof p) == 0);
    }
}

thread_test(a_sender_and_a_receiver_of_any_kind_exchange_items_in_order)
{
    static const size_t exchanged[] = {0, 8, 200};
    struct exchange e = {.n = test_rounds(EXCHANGED)};
    for (int i = 0; i < KINDS * KINDS; i++)
        for (size_t k = 0; k < COUNT(capacities); k++)
            for (size_t s = 0; s < COUNT(exchanged); s++) {
                e.size = exchanged[s];
                duet_chan *c = open_chan(e.size, capacities[k]);
                struct user u[2] = {{.kind = (enum kind)(i / KINDS), .body = send_many},
                                    {.kind = (enum kind)(i % KINDS), .body = recv_many}};
                for (int n = 0; n < 2; n++) {
                    u[n].c = c;
                    u[n].more = &e;
                    user_start(&u[n]);
                }
                users_end(u, 2);
                must_equal(duet_chan_count(c), 0);
                duet_chan_unref(c);
            }
}

/* ---- First come, first served ---- */

enum {
    QUEUE = 9
};

static void queue_prepare(struct user *u, duet_chan *c, void (*body)(struct user *me))
{
    for (int i = 0; i < QUEUE; i++)
        u[i] = (struct user){.kind = (enum kind)(i % KINDS),
                             .body = body,
                             .c = c,
                             .value = 100 + i,
                             .by = DUET_NEVER,
                             .rc = 1};
}

static void queue_start(struct user *u, duet_chan *c, void (*body)(struct user *me))
{
    queue_prepare(u, c, body);
    for (int i = 0; i < QUEUE; i++)
        user_start_asleep(&u[i]);
}

thread_test(receivers_of_all_kinds_are_served_in_the_order_in_which_they_came)
{
    for (size_t i = 0; i < COUNT(capacities); i++) {
        struct user u[QUEUE];
        duet_chan *c = open_chan(sizeof(long), capacities[i]);
        queue_start(u, c, recv_one);
        for (int k = 0; k < QUEUE; k++) {
            put(c, k);
            must_equal(duet_chan_count(c), 0);
        }
        users_end(u, QUEUE);
        for (int k = 0; k < QUEUE; k++) {
            must_equal(u[k].rc, 0);
            must_equal(u[k].value, k);
        }
        must_be_empty(c);
        duet_chan_unref(c);
    }
}

/* sync.h: what is let go of is handed to who has waited longest, in that moment; nobody who comes
 * later gets ahead. */
thread_test(a_freed_slot_goes_to_the_sender_that_has_waited_longest)
{
    static const size_t rooms[] = {0, 1, 3, 100};
    for (size_t i = 0; i < COUNT(rooms); i++) {
        struct user u[QUEUE];
        size_t room = rooms[i];
        duet_chan *c = open_chan(sizeof(long), room);
        fill(c, 100 - (long)room, room);
        queue_start(u, c, send_one);
        for (long k = 0; k < (long)room + QUEUE; k++) {
            must_equal(get(c), 100 - (long)room + k);
            if (k < QUEUE) { /* it is full again */
                must_be_full(c, room);
                user_end(&u[k]);
                must_equal(u[k].rc, 0);
            }
        }
        must_be_empty(c);
        duet_chan_unref(c);
    }
}

thread_test(those_behind_one_that_gave_up_keep_their_order)
{
    for (int sending = 0; sending < 2; sending++) {
        struct user u[QUEUE];
        duet_chan *c = open_chan(sizeof(long), 0);
        queue_prepare(u, c, sending ? send_one : recv_one);
        for (int i = 0; i < QUEUE; i++) {
            if (u[i].kind == THREAD && i < QUEUE - 1) /* the last stays */
                u[i].by = duet_ms(1000);
            user_start_asleep(&u[i]);
        }
        duet_future_cancel(u[0].f); /* the first, a coroutine */
        duet_future_cancel(u[4].f); /* a job among the others */
        for (int i = 0; i < QUEUE; i++)
            if (i == 0 || i == 2 || i == 4 || i == 5) {
                user_end(&u[i]);
                must_equal(u[i].rc, u[i].kind == THREAD ? -ETIME : -ECANCELED);
                must_equal(u[i].value, 100 + i);
            }
        static const int left[] = {1, 3, 6, 7, 8};
        for (size_t i = 0; i < COUNT(left); i++) {
            struct user *next = &u[left[i]];
            if (sending)
                must_equal(get(c), next->value);
            else
                put(c, (long)i);
            user_end(next);
            must_equal(next->rc, 0);
            must(sending || next->value == (long)i);
        }
        must_equal(try_put(c, 1), -ETIME);
        must_equal(try_get(c), -ETIME);
        duet_chan_unref(c);
    }
}

/* ---- Handing over ---- */

/* Receives, and then waits again. */
static void recv_and_wait(struct user *me)
{
    recv_one(me);
    me->id = duet_sleep(DUET_NEVER);
}

static void send_and_wait(struct user *me)
{
    send_one(me);
    me->id = duet_sleep(DUET_NEVER);
}

/* sync.h: what is handed over counts as received, even if the work is cancelled in the same moment:
 * that wait returns 0, and the next one -ECANCELED. */
thread_test(what_was_handed_to_who_is_cancelled_then_is_received)
{
    for (enum kind k = COROUTINE; k <= JOB; k++)
        for (int sending = 0; sending < 2; sending++)
            for (int shut = 0; shut < 2; shut++) {
                struct user u = {.kind = k, .value = 8, .by = DUET_NEVER, .rc = 1, .id = 1};
                u.body = sending ? send_and_wait : recv_and_wait;
                u.c = open_chan(sizeof(long), 0);
                user_start_asleep(&u);
                if (sending)
                    must_equal(get(u.c), 8);
                else
                    put(u.c, 9);
                duet_future_cancel(u.f);
                if (shut)
                    duet_chan_shut_now(u.c);
                must_equal(duet_future_wait(u.f, SURELY, NULL), 0);
                must_equal(u.rc, 0);
                must_equal(u.value, sending ? 8 : 9);
                must_equal(u.id, -ECANCELED);
                duet_future_unref(u.f);
                duet_chan_unref(u.c);
            }
}

struct pair {
    duet_chan *c;
    bool sending, cancel_first;
    int rc, next;
    long value;
};

static duet_result first_of_pair(void *arg)
{
    struct pair *p = arg;
    p->rc = p->sending ? duet_chan_send(p->c, &p->value, DUET_NEVER)
                       : duet_chan_recv(p->c, &p->value, DUET_NEVER);
    p->next = duet_yield();
    return duet_ok();
}

/* Within one loop nothing happens between the two calls. */
coroutine_test(what_was_handed_over_and_who_was_cancelled_first_agree_within_a_loop)
{
    for (int i = 0; i < 4; i++) {
        struct pair p = {
            .c = open_chan(sizeof(long), 0), .sending = i % 2, .cancel_first = i / 2, .value = 3};
        duet_future *f = duet_spawn(first_of_pair, &p);
        must_equal(duet_yield(), 0);
        must_equal(duet_yield(), 0);
        if (p.cancel_first)
            duet_future_cancel(f);
        int rc = p.sending ? try_get(p.c) : try_put(p.c, 4);
        if (!p.cancel_first) {
            must_equal(rc, 0);
            duet_future_cancel(f);
        }
        must_equal(finish(f).err, 0);
        must(rc == 0 || rc == -ETIME);
        must_equal(p.rc, rc == 0 ? 0 : -ECANCELED);
        must_equal(p.value, p.sending || rc < 0 ? 3 : 4);
        must_equal(p.next, -ECANCELED);
        duet_chan_unref(p.c);
    }
    return duet_ok();
}

/* Its loop stands still from before the deadline until after it. */
thread_test(what_was_handed_to_who_could_not_look_before_its_deadline_is_received)
{
    for (int sending = 0; sending < 2; sending++) {
        struct gate gate = GATE_INIT;
        struct user u = {.body = sending ? send_one : recv_one, .value = 5, .rc = 1};
        u.c = open_chan(sizeof(long), 0);
        u.by = duet_ms(100);
        user_start_asleep(&u);
        must_equal(duet_call_soon(u.at, block_loop, &gate), 0);
        gate_await_arrivals(&gate, 1);
        int rc = sending ? try_get(u.c) : try_put(u.c, 6); /* unless this thread is too slow */
        while (duet_now_ns() <= u.by.ns)
            nap(1);
        gate_open(&gate);
        user_end(&u);
        must(rc == 0 || rc == -ETIME);
        must_equal(u.rc, rc);
        must_equal(u.value, rc == 0 && !sending ? 6 : 5);
        duet_chan_unref(u.c);
    }
}

/* ---- Waits that fail ---- */

/* sync.h: after an error nothing was received, and *item is as it was. */
thread_test(a_receive_that_fails_consumes_nothing_and_leaves_the_item)
{
    for (enum kind k = 0; k < KINDS; k++)
        for (size_t i = 0; i < COUNT(capacities); i++) {
            duet_chan *c = open_chan(sizeof(long), capacities[i]);
            struct user late = {.kind = k, .body = recv_one, .c = c, .value = -5, .rc = 1};
            late.by = duet_ms(2);
            user_start(&late);
            user_end(&late);
            must_equal(late.rc, -ETIME);
            must(duet_now_ns() >= late.by.ns);
            must_equal(late.value, -5);
            if (k != THREAD) {
                struct user u = {
                    .kind = k, .body = recv_one, .c = c, .value = -6, .by = DUET_NEVER, .rc = 1};
                user_start_asleep(&u);
                duet_future_cancel(u.f);
                user_end(&u);
                must_equal(u.rc, -ECANCELED);
                must_equal(u.value, -6);
            }
            struct user next = {.kind = k, .body = recv_one, .c = c, .by = DUET_NEVER, .rc = 1};
            user_start_asleep(&next);
            put(c, 12); /* for nobody but who waits now */
            user_end(&next);
            must_equal(next.rc, 0);
            must_equal(next.value, 12);
            must_be_empty(c);
            duet_chan_unref(c);
        }
}

/* sync.h: after an error nothing was sent. */
thread_test(a_send_that_fails_inserts_nothing)
{
    for (enum kind k = 0; k < KINDS; k++)
        for (size_t i = 0; i < COUNT(capacities); i++) {
            duet_chan *c = open_chan(sizeof(long), capacities[i]);
            fill(c, 0, capacities[i]);
            struct user late = {.kind = k, .body = send_one, .c = c, .value = -5, .rc = 1};
            late.by = duet_ms(2);
            user_start(&late);
            user_end(&late);
            must_equal(late.rc, -ETIME);
            must(duet_now_ns() >= late.by.ns);
            if (k != THREAD) {
                struct user u = {
                    .kind = k, .body = send_one, .c = c, .value = -6, .by = DUET_NEVER, .rc = 1};
                user_start_asleep(&u);
                duet_future_cancel(u.f);
                user_end(&u);
                must_equal(u.rc, -ECANCELED);
            }
            for (size_t n = 0; n < capacities[i]; n++)
                must_equal(get(c), n);
            must_be_empty(c);
            duet_chan_unref(c);
        }
}

struct cancelled {
    duet_chan *c, *full, *empty, *meeting;
};

static void use_while_cancelled(struct user *me)
{
    struct cancelled *all = me->more;
    long value = 7;
    must_equal(duet_sleep(DUET_NEVER), -ECANCELED);
    for (int i = 0; i < 2; i++) {
        duet_deadline by = i ? DUET_NEVER : DUET_NOW;
        must_equal(duet_chan_send(all->c, &value, by), -ECANCELED); /* there is room */
        must_equal(duet_chan_recv(all->c, &value, by), -ECANCELED); /* there are items */
        must_equal(duet_chan_send(all->full, &value, by), -ECANCELED);
        must_equal(duet_chan_recv(all->empty, &value, by), -ECANCELED);
        must_equal(duet_chan_recv(all->meeting, &value, by), -ECANCELED); /* a sender waits */
        must_equal(duet_chan_join(all->empty, by), -ECANCELED);
        must_equal(value, 7);
    }
    duet_shield_begin();
    must_equal(duet_chan_recv(all->c, &value, DUET_NEVER), 0);
    must_equal(value, 1);
    value = 3;
    must_equal(duet_chan_send(all->c, &value, DUET_NEVER), 0);
    must_equal(duet_chan_join(all->empty, DUET_NEVER), 0);
    must_equal(duet_chan_send(all->full, &value, duet_ms(1)), -ETIME);
    must_equal(duet_chan_recv(all->meeting, &value, DUET_NOW), 0);
    must_equal(value, 11);
    duet_shield_end();
    must_equal(duet_chan_recv(all->c, &value, DUET_NOW), -ECANCELED);
    must_equal(value, 11);
}

/* sync.h: also if it was so before it came: then nothing was taken, though it was there, unless it
 * shields. */
thread_test(who_was_cancelled_before_it_came_neither_sends_nor_receives_but_under_a_shield)
{
    for (enum kind k = COROUTINE; k <= JOB; k++) {
        struct cancelled all = {open_chan(sizeof(long), 3), open_chan(sizeof(long), 1),
                                open_chan(sizeof(long), 1), open_chan(sizeof(long), 0)};
        struct user u = {.kind = k, .body = use_while_cancelled, .more = &all};
        struct user sender = {
            .kind = THREAD, .body = send_one, .c = all.meeting, .value = 11, .by = DUET_NEVER};
        fill(all.full, 5, 1);
        put(all.c, 1);
        put(all.c, 2);
        user_start_asleep(&sender);
        user_start(&u);
        duet_future_wait(u.f, duet_ms(2), NULL);
        duet_future_cancel(u.f);
        duet_result r;
        must_equal(duet_future_wait(u.f, SURELY, &r), 0);
        duet_future_unref(u.f);
        if (r.err == -ECANCELED) { /* it had not started: no test */
            (void)get(all.meeting);
        } else {
            must_equal(duet_chan_count(all.c), 2);
            must_equal(get(all.c), 2);
            must_equal(get(all.c), 3);
        }
        user_end(&sender);
        must_equal(sender.rc, 0);
        must_equal(get(all.full), 5);
        must_be_empty(all.empty);
        duet_chan_unref(all.c);
        duet_chan_unref(all.full);
        duet_chan_unref(all.empty);
        duet_chan_unref(all.meeting);
    }
}

static void recv_shielded(struct user *me)
{
    duet_shield_begin();
    recv_one(me);
    duet_shield_end();
}

static void send_shielded(struct user *me)
{
    duet_shield_begin();
    send_one(me);
    duet_shield_end();
}

thread_test(under_a_shield_a_wait_outlasts_its_cancellation)
{
    for (enum kind k = COROUTINE; k <= JOB; k++)
        for (int sending = 0; sending < 2; sending++) {
            struct user u = {.kind = k, .value = 2, .by = DUET_NEVER, .rc = 1};
            u.c = open_chan(sizeof(long), 0);
            u.body = sending ? send_shielded : recv_shielded;
            user_start_asleep(&u);
            duet_future_cancel(u.f);
            nap(5);
            must(!user_ended(&u));
            if (sending)
                must_equal(get(u.c), 2);
            else
                put(u.c, 4);
            user_end(&u);
            must_equal(u.rc, 0);
            must_equal(u.value, sending ? 2 : 4);
            duet_chan_unref(u.c);
        }
}

/* ---- The end of a channel ---- */

static void must_be_shut(duet_chan *c)
{
    long value = 9;
    static const duet_deadline by[] = {{0}, {INT64_MAX}};
    for (size_t i = 0; i < COUNT(by); i++) {
        must_equal(duet_chan_send(c, &value, by[i]), -EPIPE);
        must_equal(duet_chan_recv(c, &value, by[i]), -EPIPE);
        must_equal(value, 9);
    }
    must_equal(duet_chan_count(c), 0);
}

static void shut(duet_chan *c, bool now)
{
    if (now)
        duet_chan_shut_now(c);
    else
        duet_chan_shut(c);
}

thread_test(those_who_wait_to_receive_wake_when_the_channel_is_shut)
{
    for (int now = 0; now < 2; now++)
        for (size_t i = 0; i < COUNT(capacities); i++) {
            struct user u[QUEUE];
            duet_chan *c = open_chan(sizeof(long), capacities[i]);
            queue_start(u, c, recv_one);
            shut(c, now);
            must_be_shut(c);
            users_end(u, QUEUE);
            for (int k = 0; k < QUEUE; k++) {
                must_equal(u[k].rc, -EPIPE);
                must_equal(u[k].value, 100 + k);
            }
            for (int again = 0; again < 4; again++) { /* idempotent */
                shut(c, again % 2);
                must_be_shut(c);
            }
            duet_chan_unref(c);
        }
}

thread_test(those_who_wait_to_send_wake_and_what_was_accepted_is_delivered_first)
{
    for (int now = 0; now < 2; now++)
        for (size_t i = 0; i < COUNT(capacities); i++) {
            struct user u[QUEUE];
            size_t room = capacities[i];
            duet_chan *c = open_chan(sizeof(long), room);
            fill(c, 0, room);
            queue_start(u, c, send_one);
            shut(c, now);
            must_equal(try_put(c, 5), -EPIPE);
            users_end(u, QUEUE);
            for (int k = 0; k < QUEUE; k++)
                must_equal(u[k].rc, -EPIPE);
            must_equal(duet_chan_count(c), now ? 0 : room);
            for (size_t k = 0; k < room && !now; k++) {
                duet_chan_shut(c);
                must_equal(duet_chan_count(c), room - k);
                must_equal(try_put(c, 5), -EPIPE);
                must_equal(get(c), k);
            }
            must_be_shut(c);
            duet_chan_unref(c);
        }
}

struct drops {
    int count, sum;
    bool elsewhere;
    pthread_t here;
};
static struct drops drops;

static void drops_begin(void)
{
    drops = (struct drops){.here = pthread_self()};
}

/* Plain variables: it runs on the thread that shuts or lets go, before that returns. */
static void note_drop(void *item)
{
    drops.count++;
    drops.sum += (int)*(long *)item;
    drops.elsewhere = drops.elsewhere || !pthread_equal(pthread_self(), drops.here);
}

static void must_have_dropped(int count, int sum)
{
    must(!drops.elsewhere);
    must_equal(drops.count, count);
    must_equal(drops.sum, sum);
}

static duet_chan *open_noted(size_t capacity)
{
    duet_chan *c = NULL;
    must_equal(duet_chan_open_with(&c, sizeof(long), capacity, note_drop), 0);
    return c;
}

static void shut_now_drops(struct user *me)
{
    (void)me;
    drops_begin();
    duet_chan *c = open_noted(4);
    for (long i = 1; i <= 4; i++)
        put(c, i);
    must_equal(try_put(c, 100), -ETIME); /* not dropped */
    must_equal(get(c), 1); /* neither */
    must_have_dropped(0, 0);
    duet_chan_shut_now(c);
    must_have_dropped(3, 2 + 3 + 4);
    must_be_shut(c); /* nor those */
    duet_chan_shut_now(c);
    duet_chan_shut(c);
    duet_chan_unref(c);
    must_have_dropped(3, 2 + 3 + 4);
}

thread_test(to_shut_at_once_drops_what_is_inside_once_before_it_returns)
{
    as_each_kind(shut_now_drops, NULL);
}

static void shut_then_drop(struct user *me)
{
    (void)me;
    for (int now = 0; now < 2; now++) {
        drops_begin();
        duet_chan *c = open_noted(4);
        for (long i = 1; i <= 4; i++)
            put(c, i);
        duet_chan_shut(c);
        must_have_dropped(0, 0);
        must_equal(get(c), 1);
        if (now) {
            duet_chan_shut_now(c);
            must_have_dropped(3, 9);
        }
        duet_chan_unref(c);
        must_have_dropped(3, 9);
    }
}

thread_test(what_is_left_in_a_shut_channel_is_dropped_when_it_is_shut_at_once_or_freed)
{
    as_each_kind(shut_then_drop, NULL);
}

static void last_unref_drops(struct user *me)
{
    (void)me;
    drops_begin();
    duet_chan *c = open_noted(5);
    for (long i = 1; i <= 5; i++)
        put(c, i);
    must(duet_chan_ref(c) == c);
    must(duet_chan_ref(c) == c);
    must_equal(get(c), 1);
    duet_chan_unref(c);
    duet_chan_unref(c);
    must_have_dropped(0, 0);
    must_equal(get(c), 2);
    duet_chan_unref(c);
    must_have_dropped(3, 3 + 4 + 5);
    duet_chan_unref(NULL);
}

thread_test(the_last_owner_drops_what_is_inside)
{
    as_each_kind(last_unref_drops, NULL);
}

/* sync.h: an item whose send failed is still the sender's. */
thread_test(what_was_received_or_never_accepted_is_not_dropped)
{
    for (size_t i = 0; i < 2; i++) {
        drops_begin();
        duet_chan *c = open_noted(i);
        struct user u[QUEUE];
        if (i)
            put(c, 1000);
        queue_start(u, c, send_one);
        duet_future_cancel(u[0].f);
        duet_future_cancel(u[1].f);
        user_end(&u[0]);
        user_end(&u[1]);
        must_equal(u[0].rc, -ECANCELED);
        must_equal(u[1].rc, -ECANCELED);
        must_equal(try_put(c, 2000), -ETIME);
        must_equal(get(c), i ? 1000 : 102);
        user_end(&u[2]);
        must_equal(u[2].rc, 0);
        duet_chan_shut_now(c);
        must_have_dropped((int)i, i ? 102 : 0);
        users_end(&u[3], QUEUE - 3);
        for (int k = 3; k < QUEUE; k++)
            must_equal(u[k].rc, -EPIPE);
        must_equal(try_put(c, 3000), -EPIPE);
        duet_chan_unref(c);
        must_have_dropped((int)i, i ? 102 : 0);
    }
}

static int parcels_dropped;

static void check_parcel(void *item)
{
    parcel_check(item);
    parcels_dropped++;
    must_equal(duet_sleep(SURELY), -EDEADLK); /* a bare callback */
}

/* base.h: a drop function must not wait. */
thread_test(the_destructor_gets_the_whole_item_and_must_not_wait)
{
    parcels_dropped = 0;
    for (int i = 0; i < 2; i++) {
        duet_chan *c;
        must_equal(duet_chan_open_with(&c, sizeof(struct parcel), 3, check_parcel), 0);
        for (int k = 0; k < 3; k++) {
            struct parcel p;
            parcel_fill(&p, k, k);
            must_equal(duet_chan_send(c, &p, DUET_NOW), 0);
        }
        if (i)
            duet_chan_shut_now(c);
        duet_chan_unref(c);
    }
    must_equal(parcels_dropped, 6);
    must_equal(duet_sleep(duet_us(10)), 0);
}

static void drop_for_other(void *item)
{
    duet_chan *other = *(duet_chan **)item;
    put(other, 7);
    duet_chan_unref(other);
}

thread_test(the_destructor_may_use_another_channel)
{
    duet_chan *c, *other = open_chan(sizeof(long), 2);
    must_equal(duet_chan_open_with(&c, sizeof(duet_chan *), 2, drop_for_other), 0);
    for (int i = 0; i < 2; i++) {
        duet_chan *ref = duet_chan_ref(other);
        must_equal(duet_chan_send(c, &ref, DUET_NOW), 0);
    }
    duet_chan_shut_now(c);
    must_equal(get(other), 7);
    must_equal(get(other), 7);
    duet_chan_unref(c);
    duet_chan_unref(other);
}

thread_test(without_a_destructor_what_is_inside_just_goes)
{
    for (int i = 0; i < 3; i++) {
        duet_chan *c = NULL;
        must_equal(duet_chan_open_with(&c, sizeof(struct parcel), 3, NULL), 0);
        struct parcel p;
        parcel_fill(&p, 1, 1);
        must_equal(duet_chan_send(c, &p, DUET_NOW), 0);
        if (i)
            shut(c, i == 2);
        duet_chan_unref(c);
    }
}

/* ---- Done and join ---- */

static void join_alone(struct user *me)
{
    (void)me;
    duet_chan *c = open_chan(sizeof(long), 3);
    must_equal(duet_chan_join(c, DUET_NOW), 0); /* there is none */
    must_equal(duet_chan_join(c, DUET_NEVER), 0);
    for (long i = 0; i < 3; i++)
        put(c, i);
    must_equal(try_put(c, 3), -ETIME); /* this one does not count */
    must_equal(duet_chan_join(c, DUET_NOW), -ETIME);
    for (long i = 0; i < 3; i++)
        must_equal(get(c), i);
    must_equal(duet_chan_join(c, DUET_NOW), -ETIME); /* received, not done */
    must_equal(duet_chan_done(c), 0);
    must_equal(duet_chan_done(c), 0);
    must_equal(duet_chan_join(c, duet_ms(2)), -ETIME);
    must_equal(duet_chan_done(c), 0);
    must_equal(duet_chan_join(c, DUET_NOW), 0);
    must_equal(duet_chan_join(c, DUET_NEVER), 0);
    put(c, 4); /* and again */
    must_equal(get(c), 4);
    must_equal(duet_chan_join(c, DUET_NOW), -ETIME);
    duet_chan_shut(c);
    must_equal(duet_chan_join(c, DUET_NOW), -ETIME); /* shut or not */
    must_equal(duet_chan_done(c), 0);
    must_equal(duet_chan_join(c, DUET_NOW), 0);
    duet_chan_unref(c);
}

thread_test(a_join_returns_when_all_that_was_accepted_is_done)
{
    as_each_kind(join_alone, NULL);
}

/* sync.h: more were done than accepted. */
thread_test(what_is_done_more_often_than_accepted_is_refused_and_changes_nothing)
{
    duet_chan *c = open_chan(sizeof(long), 2);
    must_equal(duet_chan_done(c), -ERANGE);
    must_equal(duet_chan_done(c), -ERANGE);
    must_equal(duet_chan_join(c, DUET_NOW), 0);
    put(c, 1);
    must_equal(get(c), 1);
    must_equal(duet_chan_join(c, DUET_NOW), -ETIME); /* the two before do not count */
    must_equal(duet_chan_done(c), 0);
    must_equal(duet_chan_done(c), -ERANGE);
    must_equal(duet_chan_join(c, DUET_NOW), 0);
    put(c, 2);
    must_equal(duet_chan_join(c, DUET_NOW), -ETIME);
    duet_chan_unref(c);
}

thread_test(all_who_join_wake_with_the_last_item_and_not_before)
{
    struct user u[QUEUE];
    duet_chan *c = open_chan(sizeof(long), 4);
    for (long i = 0; i < 3; i++)
        put(c, i);
    queue_start(u, c, join_one);
    must_equal(get(c), 0);
    must_equal(duet_chan_done(c), 0);
    put(c, 3); /* accepted while they wait */
    for (long i = 1; i < 4; i++)
        must_equal(get(c), i);
    must_equal(duet_chan_done(c), 0);
    must_equal(duet_chan_done(c), 0);
    nap(10);
    for (int i = 0; i < QUEUE; i++)
        must(!user_ended(&u[i]));
    must_equal(duet_chan_done(c), 0);
    users_end(u, QUEUE);
    for (int i = 0; i < QUEUE; i++)
        must_equal(u[i].rc, 0);
    duet_chan_unref(c);
}

thread_test(who_joins_may_give_up_or_be_cancelled_and_the_others_wait_on)
{
    struct user u[QUEUE];
    duet_chan *c = open_chan(sizeof(long), 1);
    put(c, 1);
    queue_prepare(u, c, join_one);
    for (int i = 0; i < QUEUE; i++) {
        if (i < KINDS)
            u[i].by = duet_ms(1000);
        user_start_asleep(&u[i]);
    }
    duet_future_cancel(u[3].f);
    duet_future_cancel(u[4].f);
    users_end(u, 5);
    for (int i = 0; i < 5; i++)
        must_equal(u[i].rc, i < KINDS ? -ETIME : -ECANCELED);
    must_equal(get(c), 1);
    for (int i = 5; i < QUEUE; i++)
        must(!user_ended(&u[i]));
    must_equal(duet_chan_done(c), 0);
    users_end(&u[5], QUEUE - 5);
    for (int i = 5; i < QUEUE; i++)
        must_equal(u[i].rc, 0);
    duet_chan_unref(c);
}

thread_test(what_was_dropped_counts_as_done)
{
    for (int received = 0; received < 2; received++) {
        struct user u[QUEUE];
        drops_begin();
        duet_chan *c = open_noted(3);
        for (long i = 1; i <= 3; i++)
            put(c, i);
        if (received)
            must_equal(get(c), 1);
        queue_start(u, c, join_one);
        duet_chan_shut(c);
        nap(5);
        for (int i = 0; i < QUEUE; i++)
            must(!user_ended(&u[i])); /* it is still to be delivered */
        duet_chan_shut_now(c);
        if (received) {
            must_have_dropped(2, 2 + 3);
            must_equal(duet_chan_join(c, DUET_NOW), -ETIME);
            must_equal(duet_chan_done(c), 0);
        }
        must_equal(duet_chan_join(c, DUET_NOW), 0);
        users_end(u, QUEUE);
        for (int i = 0; i < QUEUE; i++)
            must_equal(u[i].rc, 0);
        duet_chan_unref(c);
    }
}

/* What a sender holds that waits was not accepted yet. */
thread_test(an_item_at_a_rendezvous_counts_once_it_was_received)
{
    for (enum kind k = 0; k < KINDS; k++) {
        struct user u = {.kind = k, .body = send_one, .value = 1, .by = DUET_NEVER, .rc = 1};
        u.c = open_chan(sizeof(long), 0);
        user_start_asleep(&u);
        must_equal(duet_chan_join(u.c, DUET_NOW), 0);
        must_equal(get(u.c), 1);
        must_equal(duet_chan_join(u.c, DUET_NOW), -ETIME);
        must_equal(duet_chan_done(u.c), 0);
        must_equal(duet_chan_join(u.c, DUET_NOW), 0);
        must_equal(duet_chan_done(u.c), -ERANGE);
        user_end(&u);
        must_equal(u.rc, 0);
        duet_chan_unref(u.c);
    }
}

struct works {
    atomic_int done, joined;
    int n;
};

static void work_off(struct user *me)
{
    struct works *w = me->more;
    long value;
    while (duet_chan_recv(me->c, &value, DUET_NEVER) == 0) {
        atomic_fetch_add(&w->done, 1);
        must_equal(duet_chan_done(me->c), 0);
    }
}

static void feed_and_join(struct user *me)
{
    struct works *w = me->more;
    for (long i = 0; i < w->n; i++)
        must_equal(duet_chan_send(me->c, &i, DUET_NEVER), 0);
    must_equal(duet_chan_join(me->c, DUET_NEVER), 0);
    must(atomic_load(&w->done) >= w->n); /* what this one sent, at least, was done */
    atomic_fetch_add(&w->joined, 1);
}

thread_test(who_feeds_workers_of_all_kinds_and_joins_finds_all_done)
{
    struct works w = {.n = test_rounds(3000)};
    duet_chan *c = open_chan(sizeof(long), 10);
    struct user worker[KINDS], feeder[KINDS];
    for (int i = 0; i < KINDS; i++) {
        worker[i] = (struct user){.kind = (enum kind)i, .body = work_off, .c = c, .more = &w};
        feeder[i] = (struct user){.kind = (enum kind)i, .body = feed_and_join, .c = c, .more = &w};
    }
    for (int i = 0; i < KINDS; i++)
        user_start(&worker[i]);
    for (int i = 0; i < KINDS; i++) {
        user_start(&feeder[i]);
        user_end(&feeder[i]);
        must_equal(atomic_load(&w.done), (i + 1) * w.n);
    }
    atomic_store(&w.done, 0);
    for (int i = 0; i < KINDS; i++)
        user_start(&feeder[i]);
    users_end(feeder, KINDS);
    must_equal(atomic_load(&w.done), KINDS * w.n);
    must_equal(atomic_load(&w.joined), 2 * KINDS);
    duet_chan_shut(c);
    users_end(worker, KINDS);
    must_equal(duet_chan_done(c), -ERANGE);
    duet_chan_unref(c);
}

/* ---- Arguments ---- */

thread_test(bad_arguments_are_refused_and_the_log_says_which)
{
    duet_chan *c = open_chan(8, 1);
    long value = 4;
    log_capture();
#define must_be_refused(call)                                                                      \
    do {                                                                                           \
        log_capture();                                                                             \
        must_equal(call, -EINVAL);                                                                 \
        must_equal(log_count("duet_chan"), 1);                                                     \
    } while (0)
    must_be_refused(duet_chan_open(NULL, 8, 1));
    must_be_refused(duet_chan_open_with(NULL, 8, 1, note_drop));
    must_be_refused(duet_chan_send(NULL, &value, DUET_NOW));
    must_be_refused(duet_chan_recv(NULL, &value, DUET_NOW));
    must_be_refused(duet_chan_send(c, NULL, DUET_NOW));
    must_be_refused(duet_chan_recv(c, NULL, DUET_NOW));
    must_be_refused(duet_chan_done(NULL));
    must_be_refused(duet_chan_join(NULL, DUET_NOW));
    must_be_refused(duet_chan_send(c, NULL, DUET_NEVER));
    must_be_refused(duet_chan_recv(c, NULL, DUET_NEVER));
    log_release();
    must_be_empty(c);
    put(c, 5);
    log_capture();
    must_be_refused(duet_chan_recv(c, NULL, DUET_NEVER));
    log_release();
    must_equal(get(c), 5);
    duet_chan_unref(c);
}

thread_test(a_channel_of_more_than_memory_can_hold_is_refused)
{
    static const struct {
        size_t size, capacity;
    } huge[] = {{SIZE_MAX, SIZE_MAX},  {SIZE_MAX, 2},          {SIZE_MAX, 1},
                {2, SIZE_MAX},         {1, SIZE_MAX},          {SIZE_MAX / 2, 2},
                {SIZE_MAX / 2 + 1, 2}, {1ul << 32, 1ul << 32}, {1ul << 62, 4},
                {1ul << 63, 2},        {SIZE_MAX / 8, 8}};
    for (size_t i = 0; i < COUNT(huge); i++) {
        duet_chan *c = NULL;
        log_capture();
        int rc = duet_chan_open(&c, huge[i].size, huge[i].capacity);
        must(rc == -EINVAL || rc == -ENOMEM);
        must_equal(log_count("duet_chan"), rc == -EINVAL); /* it says which argument */
        must(c == NULL);
        log_release();
    }
#ifndef TEST_SANITIZED /* their allocators would rather end the process */
    duet_chan *c = NULL;
    must_equal(duet_chan_open(&c, 1ul << 40, 1ul << 14), -ENOMEM);
#endif
}

thread_test(a_large_channel_holds_what_it_says)
{
    enum {
        LARGE = 100000
    };
    duet_chan *c = open_chan(sizeof(long), LARGE);
    fill(c, 0, LARGE);
    for (long i = 0; i < LARGE; i++)
        must_equal(get(c), i);
    must_be_empty(c);
    duet_chan_unref(c);
}

/* ---- Bare callbacks ---- */

static void use_barely(void *arg)
{
    duet_chan *c = arg, *meeting = open_chan(sizeof(long), 0);
    long value = 1;
    must_equal(duet_chan_recv(c, &value, SURELY), -EDEADLK);
    must_equal(duet_chan_recv(c, &value, DUET_NEVER), -EDEADLK);
    must_equal(value, 1);
    must_equal(duet_chan_send(c, &value, DUET_NEVER), 0); /* had at once */
    must_equal(duet_chan_send(c, &value, SURELY), -EDEADLK);
    must_equal(duet_chan_send(c, &value, DUET_NEVER), -EDEADLK);
    must_equal(duet_chan_join(c, DUET_NEVER), -EDEADLK);
    must_equal(duet_chan_count(c), 1);
    value = 2;
    must_equal(duet_chan_recv(c, &value, DUET_NEVER), 0);
    must_equal(value, 1);
    must_equal(duet_chan_done(c), 0);
    must_equal(duet_chan_join(c, DUET_NEVER), 0);
    must_equal(duet_chan_send(meeting, &value, SURELY), -EDEADLK);
    must_equal(duet_chan_recv(meeting, &value, SURELY), -EDEADLK);
    must_equal(value, 1);
    int rc = try_get(c);
    must(rc == -ETIME || rc == -EDEADLK);
    must_equal(try_put(c, 3), 0);
    rc = try_put(c, 4);
    must(rc == -ETIME || rc == -EDEADLK);
    must_equal(duet_chan_count(c), 1);
    must_equal(get(c), 3);
    must_equal(duet_chan_done(c), 0);
    duet_chan_unref(meeting);
}

thread_test(a_bare_callback_gets_what_is_there_and_must_not_wait)
{
    duet_chan *c = open_chan(sizeof(long), 1);
    run_bare(loop, use_barely, c);
    duet_chan_unref(c);
}

static void send_barely(void *arg)
{
    put(arg, 31);
}

static void recv_barely(void *arg)
{
    must_equal(get(arg), 32);
}

static void shut_barely(void *arg)
{
    duet_chan_shut(arg);
}

thread_test(a_bare_callback_serves_those_who_wait)
{
    for (enum kind k = 0; k < KINDS; k++) {
        duet_chan *c = open_chan(sizeof(long), 0);
        struct user u[] = {{.kind = k, .body = recv_one, .c = c, .by = DUET_NEVER, .rc = 1},
                           {.kind = k, .body = send_one, .c = c, .by = DUET_NEVER, .rc = 1},
                           {.kind = k, .body = recv_one, .c = c, .by = DUET_NEVER, .rc = 1}};
        duet_callback *const callbacks[] = {send_barely, recv_barely, shut_barely};
        static const int rcs[] = {0, 0, -EPIPE};
        u[1].value = 32;
        for (size_t i = 0; i < COUNT(u); i++) {
            user_start_asleep(&u[i]);
            run_bare(u[i].at, callbacks[i], c);
            user_end(&u[i]);
            must_equal(u[i].rc, rcs[i]);
        }
        must_equal(u[0].value, 31);
        duet_chan_unref(c);
    }
}

/* ---- After a fork ---- */

static void in_child(duet_chan *c)
{
    long value = 66;
    static const duet_deadline by[] = {{0}, {INT64_MAX}};
    for (size_t i = 0; i < COUNT(by); i++) {
        must_equal(duet_chan_send(c, &value, by[i]), -EOWNERDEAD);
        must_equal(duet_chan_recv(c, &value, by[i]), -EOWNERDEAD);
        must_equal(duet_chan_join(c, by[i]), -EOWNERDEAD);
    }
    must_equal(value, 66);
    must_equal(duet_chan_done(c), -EOWNERDEAD);
    duet_chan_shut(c);
    duet_chan_shut_now(c);
    (void)duet_chan_count(c);
    must(duet_chan_ref(c) == c);
    duet_chan_unref(c);
    must_equal(duet_chan_send(c, &value, DUET_NOW), -EOWNERDEAD);
    duet_chan_unref(c);
    must_have_dropped(0, 0);
    duet_chan *own = open_noted(1);
    put(own, 3);
    must_equal(get(own), 3);
    put(own, 4);
    duet_chan_unref(own);
    must_have_dropped(1, 4);
}

thread_test(a_channel_of_the_parent_is_dead_in_the_child_of_a_fork)
{
    for (size_t i = 0; i < 3; i++) {
        struct user u[QUEUE];
        int status;
        drops_begin();
        duet_chan *c = open_noted(i);
        for (size_t k = 0; k < i; k++)
            put(c, (long)k);
        queue_start(u, c, send_one);
        pid_t child = fork();
        must(child >= 0);
        if (child == 0) {
            in_child(c);
            _exit(0);
        }
        must_equal(waitpid(child, &status, 0), child);
        must(WIFEXITED(status) && WEXITSTATUS(status) == 0);
        for (size_t k = 0; k < i; k++) /* the parent notices nothing */
            must_equal(get(c), k);
        for (int k = 0; k < QUEUE; k++) {
            must_equal(get(c), 100 + k);
            user_end(&u[k]);
            must_equal(u[k].rc, 0);
        }
        duet_chan_unref(c);
        must_have_dropped(0, 0);
    }
}

/* ---- Races ---- */

enum haste {
    PATIENT, /* waits until it is served */
    HASTY, /* tries, and deadlines of a microsecond */
    MIXED
};

struct traffic {
    duet_chan *c;
    int n; /* for each producer */
    enum haste haste;
    atomic_int producing;
};

static duet_deadline hurry(uint64_t *random, enum haste haste)
{
    uint64_t r = test_random(random) >> 8;
    if (haste == PATIENT || (haste == MIXED && r % 5 == 0))
        return DUET_NEVER;
    if (haste == MIXED && r % 5 == 1)
        return duet_us((int64_t)(r >> 4) % 50);
    return r % 2 ? DUET_NOW : duet_us(1);
}

/* The same item until it is accepted: if a send that failed had sent it, it would come twice. */
static void produce(struct user *me)
{
    struct traffic *t = me->more;
    for (int i = 0; i < t->n; i++) {
        struct parcel p;
        int rc;
        parcel_fill(&p, ledger_number(), me->id);
        while ((rc = duet_chan_send(t->c, &p, hurry(&me->random, t->haste))) < 0) {
            must_equal(rc, -ETIME);
            give_way();
        }
        ledger_accepted(p.id);
    }
    if (atomic_fetch_sub(&t->producing, 1) == 1)
        duet_chan_shut(t->c);
}

static void consume(struct user *me)
{
    struct traffic *t = me->more;
    int last[PRODUCERS_MAX], rc;
    forget_last(last);
    do {
        struct parcel p, before;
        memset(&p, 0x5a, sizeof p);
        memcpy(&before, &p, sizeof p);
        rc = duet_chan_recv(t->c, &p, hurry(&me->random, t->haste));
        if (rc == 0) {
            parcel_check(&p);
            must(p.id > last[p.producer]); /* in order, of each producer */
            last[p.producer] = p.id;
            ledger_gone(p.id, &ledger.received);
        } else {
            must(rc == -ETIME || rc == -EPIPE);
            must(memcmp(&p, &before, sizeof p) == 0);
            give_way();
        }
    } while (rc != -EPIPE);
}

static void traffic_run(size_t capacity, int producers, int consumers, enum haste haste, int n,
                        uint64_t *random, const enum kind *kinds)
{
    struct traffic t = {.c = open_chan(sizeof(struct parcel), capacity), .n = n, .haste = haste};
    struct user u[2 * PRODUCERS_MAX] = {{0}};
    atomic_init(&t.producing, producers);
    ledger_open();
    for (int i = 0; i < producers + consumers; i++) {
        u[i] = (struct user){.kind = kinds ? kinds[i >= producers] : (enum kind)(i % KINDS),
                             .body = i < producers ? produce : consume,
                             .id = i,
                             .more = &t,
                             .random = test_random(random) | 1};
        user_start(&u[i]);
    }
    users_end(u, producers + consumers);
    must_equal(ledger_close(), producers * n);
    must_equal(duet_chan_count(t.c), 0);
    duet_chan_unref(t.c);
}

thread_test(every_item_of_many_patient_producers_is_received_once_and_in_order)
{
    uint64_t random = test_seed();
    for (size_t i = 0; i < COUNT(capacities); i++) {
        traffic_run(capacities[i], 6, 6, PATIENT, test_rounds(20000), &random, NULL);
        traffic_run(capacities[i], 9, 1, PATIENT, test_rounds(10000), &random, NULL);
        traffic_run(capacities[i], 1, 9, PATIENT, test_rounds(30000), &random, NULL);
        for (int k = 0; k < KINDS * KINDS; k++) {
            const enum kind kinds[] = {(enum kind)(k / KINDS), (enum kind)(k % KINDS)};
            traffic_run(capacities[i], 2, 2, PATIENT, test_rounds(1000), &random, kinds);
        }
    }
}

thread_test(every_item_is_received_once_though_deadlines_of_a_microsecond_race_the_counterparts)
{
    uint64_t random = test_seed();
    for (enum haste haste = HASTY; haste <= MIXED; haste++)
        for (size_t i = 0; i < COUNT(capacities); i++) {
            if (capacities[i] == 0 && haste == HASTY)
                continue; /* those who only try may never meet */
            traffic_run(capacities[i], 6, 6, haste, test_rounds(5000), &random, NULL);
            for (int k = 0; k < KINDS * KINDS; k++) {
                const enum kind kinds[] = {(enum kind)(k / KINDS), (enum kind)(k % KINDS)};
                traffic_run(capacities[i], 1, 1, haste, test_rounds(2000), &random, kinds);
            }
        }
}

/* Sends or receives parcels until it is cancelled, or the channel is shut. */
static void busy_until_told(struct user *me)
{
    int last[PRODUCERS_MAX];
    forget_last(last);
    do {
        duet_deadline by = hurry(&me->random, MIXED);
        me->rc =
            me->id < PRODUCERS_MAX ? parcel_send(me->c, me->id, by) : parcel_recv(me->c, last, by);
        if (me->rc == -ETIME)
            give_way();
    } while (me->rc == 0 || me->rc == -ETIME);
    must(me->rc == -ECANCELED || me->rc == -EPIPE);
    must(me->rc == -EPIPE || duet_cancelled());
}

/* A user that was cancelled before it started has no say. */
static void busy_end(struct user *u)
{
    if (u->kind == THREAD) {
        thread_join(&u->thread);
        return;
    }
    int err = finish(u->f).err;
    must(err == 0 || err == -ECANCELED);
}

thread_test(pointers_are_neither_lost_nor_doubled_under_cancellation_at_any_moment)
{
    uint64_t random = test_seed();
    enum {
        VICTIMS = 8
    };
    for (size_t i = 0; i < COUNT(capacities); i++)
        for (int left = test_rounds(2000); left > 0;) {
            duet_chan *c = open_parcels(capacities[i]);
            struct user u[VICTIMS] = {{0}};
            ledger_open();
            for (; left > 0 && atomic_load(&ledger.next) < LEDGER_MAX / 8; left--) {
                struct user *v = &u[test_random(&random) % VICTIMS];
                int n = (int)(v - u);
                if (v->f) {
                    spin_a_little(&random, 3000);
                    duet_future_cancel(v->f);
                    busy_end(v);
                }
                /* half of them send, and half of those of each kind */
                *v = (struct user){.kind = n / 2 % 2 ? JOB : COROUTINE,
                                   .body = busy_until_told,
                                   .c = c,
                                   .id = n % 2 ? n : PRODUCERS_MAX + n,
                                   .random = test_random(&random) | 1};
                user_start(v);
            }
            for (int n = 0; n < VICTIMS; n++)
                if (u[n].f) {
                    duet_future_cancel(u[n].f);
                    busy_end(&u[n]);
                }
            duet_chan_unref(c); /* drops what is left */
            (void)ledger_close();
        }
}

/* One wait each, cancelled or out of time in the moment in which it is served. */
thread_test(a_cancellation_or_a_deadline_that_races_the_counterpart_loses_nothing)
{
    uint64_t random = test_seed();
    for (enum kind k = 0; k < KINDS; k++)
        for (int sending = 0; sending < 2; sending++)
            for (int i = test_rounds(3000); i > 0; i--) {
                struct user u = {.kind = k, .value = 1, .by = DUET_NEVER};
                u.rc = -ECANCELED; /* if it does not start */
                u.body = sending ? send_one : recv_one;
                u.c = open_chan(sizeof(long), 0);
                if (k == THREAD || i % 3 == 0)
                    u.by = duet_us((int64_t)(test_random(&random) >> 20) % 150);
                user_start(&u);
                spin_a_little(&random, 1000 << i % 8);
                if (k != THREAD && i % 2)
                    duet_future_cancel(u.f);
                int rc = sending ? try_get(u.c) : try_put(u.c, 2);
                if (k != THREAD)
                    duet_future_cancel(u.f);
                busy_end(&u);
                must(rc == 0 || rc == -ETIME);
                must(rc == 0 ? u.rc == 0 : u.rc == -ECANCELED || u.rc == -ETIME);
                must_equal(u.value, rc == 0 && !sending ? 2 : 1);
                duet_chan_unref(u.c);
            }
}

/* Until the end of a channel that is shut at any moment. */
thread_test(a_shut_that_races_senders_and_receivers_loses_nothing)
{
    uint64_t random = test_seed();
    enum {
        USERS = 6
    };
    for (int round = test_rounds(2000); round > 0; round--) {
        bool now = test_random(&random) >> 20 & 1;
        duet_chan *c = open_parcels(capacities[(unsigned)round % COUNT(capacities)]);
        struct user u[USERS] = {{0}};
        ledger_open();
        for (int i = 0; i < USERS; i++) {
            u[i] = (struct user){.kind = (enum kind)(i % KINDS),
                                 .body = busy_until_told,
                                 .c = duet_chan_ref(c),
                                 .id = i < USERS / 2 ? i : PRODUCERS_MAX + i,
                                 .random = test_random(&random) | 1};
            user_start(&u[i]);
        }
        spin_a_little(&random, 1000 << round % 11);
        shut(c, now);
        must_equal(try_put(c, 0), -EPIPE);
        int dropped = atomic_load(&ledger.dropped);
        must(now || dropped == 0);
        users_end(u, USERS);
        must_equal(atomic_load(&ledger.dropped), dropped); /* all of it before it returned */
        for (int i = 0; i < USERS; i++) {
            must_equal(u[i].rc, -EPIPE);
            duet_chan_unref(c);
        }
        must_be_shut(c);
        (void)ledger_close();
        duet_chan_unref(c);
    }
}

static void shut_after_spin(struct user *me)
{
    spin_a_little(&me->random, 20000);
    shut(me->c, me->id);
}

thread_test(several_who_shut_at_once_drop_everything_once)
{
    uint64_t random = test_seed();
    for (int round = test_rounds(400); round > 0; round--) {
        duet_chan *c = open_parcels(50);
        struct user u[2 * KINDS];
        ledger_open();
        for (int i = 0; i < 50; i++)
            must_equal(parcel_send(c, 0, DUET_NOW), 0);
        for (int i = 0; i < 2 * KINDS; i++) {
            u[i] = (struct user){.kind = (enum kind)(i % KINDS),
                                 .body = shut_after_spin,
                                 .c = c,
                                 .id = i % 2 == 0,
                                 .random = test_random(&random) | 1};
            user_start(&u[i]);
        }
        users_end(u, 2 * KINDS);
        must_be_shut(c);
        must_equal(ledger_close(), 50);
        must_equal(atomic_load(&ledger.dropped), 50);
        duet_chan_unref(c);
        must_equal(atomic_load(&ledger.dropped), 50);
    }
}

static void use_and_let_go(struct user *me)
{
    int last[PRODUCERS_MAX];
    forget_last(last);
    for (int i = 0; i < 3; i++)
        me->rc = me->id < PRODUCERS_MAX ? parcel_send(me->c, me->id, DUET_NEVER)
                                        : parcel_recv(me->c, last, DUET_NEVER);
    duet_chan_unref(me->c);
}

/* Each has a handle: whoever is last frees the channel, while the others have just been served. */
thread_test(a_channel_may_be_freed_by_whoever_was_served_last)
{
    uint64_t random = test_seed();
    for (int round = test_rounds(3000); round > 0; round--) {
        enum {
            USERS = 4
        };
        duet_chan *c = open_parcels(capacities[test_random(&random) % 3]);
        struct user u[USERS];
        ledger_open();
        unsigned kinds = (unsigned)(test_random(&random) >> 16);
        for (int i = 0; i < USERS; i++) {
            u[i] = (struct user){.kind = (enum kind)((kinds >> (4 * i)) % KINDS),
                                 .body = use_and_let_go,
                                 .c = duet_chan_ref(c),
                                 .id = i % 2 ? i : PRODUCERS_MAX + i};
        }
        duet_chan_unref(c);
        for (int i = 0; i < USERS; i++)
            user_start(&u[i]);
        users_end(u, USERS);
        for (int i = 0; i < USERS; i++)
            must_equal(u[i].rc, 0);
        must_equal(ledger_close(), 6);
        must_equal(atomic_load(&ledger.received), 6);
    }
}

struct watch {
    duet_chan *c;
    size_t capacity;
    atomic_bool end;
    long looks;
};

static void watch_count(void *arg)
{
    struct watch *w = arg;
    while (!atomic_load(&w->end)) {
        must(duet_chan_count(w->c) <= w->capacity);
        w->looks++;
        sched_yield();
    }
}

thread_test(there_are_never_more_items_inside_than_the_capacity)
{
    static const size_t rooms[] = {0, 1, 3};
    for (size_t i = 0; i < COUNT(rooms); i++) {
        struct exchange e = {.n = test_rounds(3000), .size = 200};
        struct watch w = {.c = open_chan(e.size, rooms[i]), .capacity = rooms[i]};
        struct thread watcher;
        struct user u[2] = {{.kind = COROUTINE, .body = send_many, .c = w.c, .more = &e},
                            {.kind = THREAD, .body = recv_many, .c = w.c, .more = &e}};
        thread_start(&watcher, watch_count, &w);
        user_start(&u[0]);
        user_start(&u[1]);
        users_end(u, 2);
        atomic_store(&w.end, true);
        thread_join(&watcher);
        duet_chan_unref(w.c);
    }
}

/* ---- How often the coroutines of a loop take turns ---- */

struct turns {
    duet_chan *c;
    int items;
    const void *last; /* who ran */
    int alternations;
};

static void my_turn(struct turns *t, const void *me)
{
    t->alternations += t->last != me;
    t->last = me;
}

static duet_result produce_in_turn(void *arg)
{
    struct turns *t = arg;
    for (long i = 0; i < t->items; i++) {
        must_equal(duet_chan_send(t->c, &i, DUET_NEVER), 0);
        my_turn(t, (const char *)arg + 1);
    }
    duet_chan_shut(t->c);
    return duet_ok();
}

static duet_result consume_in_turn(void *arg)
{
    struct turns *t = arg;
    long value, next = 0;
    while (duet_chan_recv(t->c, &value, DUET_NEVER) == 0) {
        must_equal(value, next++);
        my_turn(t, arg);
    }
    must_equal(next, t->items);
    return duet_ok();
}

/* Two for each time that it is full or empty, not two for each item. */
coroutine_test(a_producer_and_a_consumer_of_a_loop_take_turns_by_the_buffer)
{
    for (int consumer_first = 0; consumer_first < 2; consumer_first++) {
        struct turns t = {.c = open_chan(sizeof(long), 100), .items = 20000};
        duet_future *f[2];
        for (int i = 0; i < 2; i++)
            f[i] = duet_spawn(i == consumer_first ? produce_in_turn : consume_in_turn, &t);
        must_equal(finish(f[0]).err, 0);
        must_equal(finish(f[1]).err, 0);
        must(t.alternations <= t.items / 100 * 6 + 20);
        duet_chan_unref(t.c);
    }
    return duet_ok();
}

static void count_call(void *arg)
{
    atomic_fetch_add((atomic_int *)arg, 1);
}

/* sync.h: a coroutine is suspended and its loop goes on. */
thread_test(the_loop_of_a_coroutine_that_waits_goes_on)
{
    for (int sending = 0; sending < 2; sending++) {
        atomic_int calls = 0;
        struct user u = {.body = sending ? send_one : recv_one, .value = 1, .by = DUET_NEVER};
        u.c = open_chan(sizeof(long), 0);
        user_start_asleep(&u);
        for (int i = 0; i < 10; i++)
            run_bare(u.at, count_call, &calls);
        must_equal(atomic_load(&calls), 10);
        must(!user_ended(&u));
        duet_chan_shut(u.c);
        user_end(&u);
        must_equal(u.rc, -EPIPE);
        duet_chan_unref(u.c);
    }
}

static duet_result send_from_job(void *arg)
{
    struct user *me = arg;
    must_equal(duet_chan_send(me->c, &me->value, DUET_NEVER), 0);
    return duet_ok();
}

static duet_result recv_in_job(void *arg)
{
    struct user *me = arg;
    me->rc = duet_chan_recv(me->c, &me->value, DUET_NEVER);
    return duet_ok();
}

/* pool.h: a job that waits does not count: a further one starts in its place. */
thread_test(a_job_that_waits_lends_its_slot_to_the_job_that_serves_it)
{
    duet_pool *small = open_pool(1);
    struct user to = {.rc = 1}, from = {.value = 6};
    duet_pool_stats stats;
    to.c = from.c = open_chan(sizeof(long), 0);
    duet_future *receiver = duet_pool_submit(small, recv_in_job, &to);
    do { /* until it waits */
        duet_pool_stats_get(small, &stats);
        sched_yield();
    } while (stats.blocked_in_wait != 1);
    duet_future *sender = duet_pool_submit(small, send_from_job, &from);
    must_equal(finish(sender).err, 0);
    must_equal(finish(receiver).err, 0);
    must_equal(to.rc, 0);
    must_equal(to.value, 6);
    duet_chan_unref(to.c);
    close_pool(small);
}

/* loop.h, pool.h: a close cancels what is there. */
thread_test(those_who_wait_are_cancelled_when_their_loop_or_pool_is_closed)
{
    for (int i = 0; i < 2; i++) {
        struct user u = {.rc = 1, .value = 4};
        duet_loop *own = start_loop();
        duet_pool *small = open_pool(1);
        u.c = open_chan(sizeof(long), 0);
        duet_future *f =
            i ? duet_submit(own, recv_in_job, &u) : duet_pool_submit(small, recv_in_job, &u);
        nap(2);
        close_loop(own);
        close_pool(small);
        int err = finish(f).err;
        must(err == -ECANCELED || (err == 0 && u.rc == -ECANCELED)); /* or it had not started */
        must_equal(u.value, 4);
        must_equal(try_put(u.c, 1), -ETIME);
        duet_chan_unref(u.c);
    }
}

/* ---- Nobody is left ---- */

#ifndef TEST_TSAN /* it has a thread of its own, which might do anything */

/* Every wait of a channel that can never end, and the same once more with a deadline. */
static void wait_in_vain(void)
{
    duet_chan *empty = open_chan(sizeof(long), 2), *full = open_chan(sizeof(long), 1);
    duet_chan *meeting = open_chan(sizeof(long), 0);
    long value = 8;
    put(full, 1);
    for (int i = 0; i < 2; i++) {
        must_equal(duet_chan_recv(empty, &value, DUET_NEVER), -EDEADLK);
        must_equal(duet_chan_recv(empty, &value, duet_ms(5)), -ETIME);
        must_equal(duet_chan_send(full, &value, DUET_NEVER), -EDEADLK);
        must_equal(duet_chan_send(full, &value, duet_ms(5)), -ETIME);
        must_equal(duet_chan_recv(meeting, &value, DUET_NEVER), -EDEADLK);
        must_equal(duet_chan_send(meeting, &value, DUET_NEVER), -EDEADLK);
        must_equal(duet_chan_join(full, DUET_NEVER), -EDEADLK);
        must_equal(duet_chan_join(full, duet_ms(5)), -ETIME);
        must_equal(value, 8);
    }
    must_be_empty(empty);
    must_be_full(full, 1);
    must_equal(get(full), 1);
    must_be_empty(full);
    duet_chan_unref(empty);
    duet_chan_unref(full);
    duet_chan_unref(meeting);
}

/* sync.h: all threads rest or wait too. */
thread_test(a_thread_that_waits_for_a_channel_while_everything_rests_is_told)
{
    log_capture();
    wait_in_vain();
    log_release();
}

coroutine_test(a_coroutine_that_waits_for_a_channel_while_everything_rests_is_told)
{
    log_capture();
    wait_in_vain();
    log_release();
    return duet_ok();
}

/* This thread waits for the user, without a deadline: either may be told, and then helps. */
thread_test(a_user_of_any_kind_that_waits_for_a_channel_while_everything_rests_is_told)
{
    log_capture();
    for (int i = 0; i < 2 * KINDS; i++) {
        struct user u = {.kind = (enum kind)(i % KINDS), .value = 3, .by = DUET_NEVER, .rc = 1};
        u.body = i < KINDS ? recv_one : send_one;
        u.c = open_chan(sizeof(long), 0);
        user_start(&u);
        int rc = duet_future_wait(u.f, DUET_NEVER, NULL);
        if (rc == -EDEADLK)
            duet_chan_shut(u.c);
        else
            must_equal(rc, 0);
        user_end(&u);
        must_equal(u.rc, rc == 0 ? -EDEADLK : -EPIPE);
        must_equal(u.value, 3);
        duet_chan_unref(u.c);
    }
    log_release();
}

#endif

/* base.h: as long as there is one left to do it. */
thread_test(while_a_thread_is_left_that_might_send_nobody_is_told)
{
    for (enum kind k = 0; k < KINDS; k++) {
        struct user u = {.kind = k, .body = recv_one, .by = DUET_NEVER, .rc = 1};
        u.c = open_chan(sizeof(long), 0);
        user_start_asleep(&u);
        nap(60); /* this thread rests, but not in duet */
        must_equal(duet_sleep(duet_ms(60)), 0); /* and here with a deadline */
        must(!user_ended(&u));
        put(u.c, 2);
        user_end(&u);
        must_equal(u.rc, 0);
        must_equal(u.value, 2);
        duet_chan_unref(u.c);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(items_of_any_size_come_out_whole_and_in_the_order_in_which_they_went_in),
        cmocka_unit_test(items_of_no_size_may_be_null),
        cmocka_unit_test(items_of_no_size_meet_those_who_wait),
        cmocka_unit_test(errno_is_left_alone),
        cmocka_unit_test(without_a_counterpart_nothing_is_sent_or_received_at_a_rendezvous),
        cmocka_unit_test(a_send_at_a_rendezvous_returns_when_its_item_was_received),
        cmocka_unit_test(a_try_to_send_meets_a_receiver_that_waits),
        cmocka_unit_test(a_sender_and_a_receiver_of_any_kind_exchange_items_in_order),
        cmocka_unit_test(receivers_of_all_kinds_are_served_in_the_order_in_which_they_came),
        cmocka_unit_test(a_freed_slot_goes_to_the_sender_that_has_waited_longest),
        cmocka_unit_test(those_behind_one_that_gave_up_keep_their_order),
        cmocka_unit_test(what_was_handed_to_who_is_cancelled_then_is_received),
        cmocka_unit_test(what_was_handed_over_and_who_was_cancelled_first_agree_within_a_loop),
        cmocka_unit_test(what_was_handed_to_who_could_not_look_before_its_deadline_is_received),
        cmocka_unit_test(a_receive_that_fails_consumes_nothing_and_leaves_the_item),
        cmocka_unit_test(a_send_that_fails_inserts_nothing),
        cmocka_unit_test(
            who_was_cancelled_before_it_came_neither_sends_nor_receives_but_under_a_shield),
        cmocka_unit_test(under_a_shield_a_wait_outlasts_its_cancellation),
        cmocka_unit_test(those_who_wait_to_receive_wake_when_the_channel_is_shut),
        cmocka_unit_test(those_who_wait_to_send_wake_and_what_was_accepted_is_delivered_first),
        cmocka_unit_test(to_shut_at_once_drops_what_is_inside_once_before_it_returns),
        cmocka_unit_test(
            what_is_left_in_a_shut_channel_is_dropped_when_it_is_shut_at_once_or_freed),
        cmocka_unit_test(the_last_owner_drops_what_is_inside),
        cmocka_unit_test(what_was_received_or_never_accepted_is_not_dropped),
        cmocka_unit_test(the_destructor_gets_the_whole_item_and_must_not_wait),
        cmocka_unit_test(the_destructor_may_use_another_channel),
        cmocka_unit_test(without_a_destructor_what_is_inside_just_goes),
        cmocka_unit_test(a_join_returns_when_all_that_was_accepted_is_done),
        cmocka_unit_test(what_is_done_more_often_than_accepted_is_refused_and_changes_nothing),
        cmocka_unit_test(all_who_join_wake_with_the_last_item_and_not_before),
        cmocka_unit_test(who_joins_may_give_up_or_be_cancelled_and_the_others_wait_on),
        cmocka_unit_test(what_was_dropped_counts_as_done),
        cmocka_unit_test(an_item_at_a_rendezvous_counts_once_it_was_received),
        cmocka_unit_test(who_feeds_workers_of_all_kinds_and_joins_finds_all_done),
        cmocka_unit_test(bad_arguments_are_refused_and_the_log_says_which),
        cmocka_unit_test(a_channel_of_more_than_memory_can_hold_is_refused),
        cmocka_unit_test(a_large_channel_holds_what_it_says),
        cmocka_unit_test(a_bare_callback_gets_what_is_there_and_must_not_wait),
        cmocka_unit_test(a_bare_callback_serves_those_who_wait),
        cmocka_unit_test(a_channel_of_the_parent_is_dead_in_the_child_of_a_fork),
        cmocka_unit_test(every_item_of_many_patient_producers_is_received_once_and_in_order),
        cmocka_unit_test(
            every_item_is_received_once_though_deadlines_of_a_microsecond_race_the_counterparts),
        cmocka_unit_test(pointers_are_neither_lost_nor_doubled_under_cancellation_at_any_moment),
        cmocka_unit_test(a_cancellation_or_a_deadline_that_races_the_counterpart_loses_nothing),
        cmocka_unit_test(a_shut_that_races_senders_and_receivers_loses_nothing),
        cmocka_unit_test(several_who_shut_at_once_drop_everything_once),
        cmocka_unit_test(a_channel_may_be_freed_by_whoever_was_served_last),
        cmocka_unit_test(there_are_never_more_items_inside_than_the_capacity),
        cmocka_unit_test(a_producer_and_a_consumer_of_a_loop_take_turns_by_the_buffer),
        cmocka_unit_test(the_loop_of_a_coroutine_that_waits_goes_on),
        cmocka_unit_test(a_job_that_waits_lends_its_slot_to_the_job_that_serves_it),
        cmocka_unit_test(those_who_wait_are_cancelled_when_their_loop_or_pool_is_closed),
#ifndef TEST_TSAN
        cmocka_unit_test(a_thread_that_waits_for_a_channel_while_everything_rests_is_told),
        cmocka_unit_test(a_coroutine_that_waits_for_a_channel_while_everything_rests_is_told),
        cmocka_unit_test(
            a_user_of_any_kind_that_waits_for_a_channel_while_everything_rests_is_told),
#endif
        cmocka_unit_test(while_a_thread_is_left_that_might_send_nobody_is_told),
    };
    return cmocka_run_group_tests(tests, open_places, close_places);
}
