/* Random waits through all of duet/sync.h, from a seed: coroutines, jobs and threads, with random
 * deadlines, cancelled at random, each scenario against a sequential model. */
#include "duet_test.h"

#include <duet/sync.h>

/* ---- The crew: works of a random kind, of which some may be cancelled ---- */

enum place {
    LOOP_0,
    LOOP_1,
    POOL,
    THREAD,
    PLACES
};

enum {
    LOOPS = 2,
    WORKERS_MAX = 16
};

struct worker {
    uint64_t random;
    void (*body)(struct worker *me);
    int index;
    enum place place;
    bool mortal; /* it may be cancelled */
    bool shielded; /* its wait; between begin_wait() and judge() */
    bool cancelled; /* it was asked to end; the main thread only */
    bool ran; /* the rest: to be read when it has ended */
    duet_deadline by;
    int rc;
    int got;
    duet_future *end;
    pthread_t thread;
};

static duet_loop *loops[LOOPS];
static duet_pool *pool;
static struct worker crew[WORKERS_MAX];
static int crew_size;

static int below(uint64_t *random, int n)
{
    return (int)(test_random(random) % (uint64_t)n);
}

static bool one_in(uint64_t *random, int n)
{
    return below(random, n) == 0;
}

/* `comes`: what is waited for comes in any case, so that no deadline is needed. */
static duet_deadline some_deadline(uint64_t *random, bool comes)
{
    switch (below(random, 8)) {
    case 0:
        return DUET_NOW;
    case 1:
    case 2:
        return duet_us(below(random, 100));
    case 3:
        return duet_us(below(random, 500));
    case 4:
        return duet_ms(1);
    default:
        return comes ? DUET_NEVER : duet_us(below(random, 300));
    }
}

static void a_little(uint64_t *random)
{
    switch (below(random, 8)) {
    case 0:
        duet_sleep(duet_us(below(random, 50)));
        break;
    case 1:
    case 2:
        if (duet_loop_self())
            duet_yield();
        break;
    case 3:
        for (volatile int i = below(random, 2000); i > 0; i--)
            ;
        break;
    default:
        break;
    }
}

static bool never(duet_deadline by)
{
    return by.ns == DUET_NEVER.ns;
}

/* Some waits are shielded. Returns whether this one must fail, because it was cancelled before. */
static bool begin_wait(struct worker *me)
{
    me->shielded = me->mortal && one_in(&me->random, 6);
    if (me->shielded)
        duet_shield_begin();
    return !me->shielded && duet_cancelled();
}

/* What a wait may return, besides `also`. was_cancelled: before it began. */
static void judge(struct worker *me, bool was_cancelled, duet_deadline by, int rc, int also)
{
    if (was_cancelled)
        must_equal(rc, -ECANCELED);
    if (rc == -ECANCELED) {
        must(me->mortal && !me->shielded && duet_cancelled());
    } else if (rc == -ETIME) {
        must(!never(by));
        must(by.ns <= duet_now_ns());
    } else if (rc < 0) {
        must_equal(rc, also);
    }
    if (me->shielded)
        duet_shield_end();
    me->shielded = false;
}

static duet_result work(void *arg)
{
    struct worker *me = arg;
    me->ran = true;
    me->body(me);
    return duet_cancelled() ? duet_err(-ECANCELED) : duet_ok();
}

static void *work_in_thread(void *arg)
{
    struct worker *me = arg;
    duet_result r = work(arg);
    must_equal(duet_future_settle(me->end, r), 0);
    return NULL;
}

static enum place some_place(uint64_t *random)
{
    return (enum place)below(random, PLACES);
}

static struct worker *hire(uint64_t *random, enum place place, bool may_die,
                           void (*body)(struct worker *me))
{
    must(crew_size < WORKERS_MAX);
    struct worker *w = &crew[crew_size];
    *w = (struct worker){.random = test_random(random) | 1,
                         .body = body,
                         .index = crew_size++,
                         .place = place,
                         .rc = -ECANCELED,
                         .got = -1};
    w->mortal = may_die && place != THREAD && one_in(random, 2);
    w->by = some_deadline(random, true);
    if (place == THREAD) {
        must_equal(duet_future_open(&w->end), 0);
        must_equal(pthread_create(&w->thread, NULL, work_in_thread, w), 0);
    } else if (place == POOL) {
        w->end = duet_pool_submit(pool, work, w);
    } else {
        w->end = duet_submit(loops[place], work, w);
    }
    return w;
}

/* Returns when it waits, or has ended: all that one thread submits to a loop starts in that order,
 * so it is where it sleeps first before a later one runs. Body: it does not sleep before that. */
static struct worker *line_up(uint64_t *random, bool may_die, void (*body)(struct worker *me))
{
    enum place place = (enum place)below(random, LOOPS);
    struct worker *w = hire(random, place, may_die, body);
    must_equal(duet_call(loops[place], return_ok, NULL, SURELY, NULL), 0);
    return w;
}

/* Whoever lined up without a deadline, and is not cancelled, is served. */
static bool must_be_served(const struct worker *w)
{
    return never(w->by) && !w->cancelled;
}

static void cancel_one(uint64_t *random)
{
    struct worker *w = &crew[below(random, crew_size)];
    if (w->mortal) {
        w->cancelled = true;
        duet_future_cancel(w->end);
    }
}

static void cancel_some(uint64_t *random)
{
    for (int i = below(random, 2 * crew_size); i > 0; i--) {
        if (one_in(random, 3)) /* not for its end: it might wait for a mutex that is held here */
            duet_sleep(duet_us(below(random, 100)));
        else
            a_little(random);
        cancel_one(random);
    }
}

/* In the moment in which something is let go of. */
static void cancel_at_once(uint64_t *random)
{
    for (int i = below(random, 3); i > 0; i--)
        cancel_one(random);
}

static void await(const struct worker *w)
{
    must_equal(duet_future_wait(w->end, SURELY, NULL), 0);
}

static void dismiss_all(void)
{
    for (int i = 0; i < crew_size; i++) {
        await(&crew[i]);
        if (crew[i].place == THREAD)
            must_equal(pthread_join(crew[i].thread, NULL), 0);
        duet_future_unref(crew[i].end);
        must(crew[i].ran || crew[i].cancelled);
    }
    crew_size = 0;
}

static uint64_t open_all(void)
{
    const duet_pool_config config = {.workers_max = 2};
    for (int i = 0; i < LOOPS; i++)
        must_equal(duet_loop_start(&loops[i], NULL), 0);
    must_equal(duet_pool_open(&pool, &config), 0);
    return test_seed();
}

static void close_all(void)
{
    for (int i = 0; i < LOOPS; i++)
        must_equal(duet_loop_close(loops[i], SURELY), 0);
    must_equal(duet_pool_close(pool, SURELY), 0);
}

#ifdef TEST_SANITIZED
#define MORE 5 /* test_rounds() makes it too few */
#else
#define MORE 1
#endif

/* A test is a number of rounds, each with one seed. */
#define stress_test(name, rounds)                                                                  \
    static void name##_round(uint64_t *random);                                                    \
    static void name(void **state)                                                                 \
    {                                                                                              \
        (void)state;                                                                               \
        uint64_t random = open_all();                                                              \
        for (int i = test_rounds(MORE * (rounds)); i > 0; i--) {                                   \
            uint64_t seed = test_random(&random) | 1;                                              \
            name##_round(&seed);                                                                   \
        }                                                                                          \
        close_all();                                                                               \
    }                                                                                              \
    static void name##_round(uint64_t *random)

/* ---- Mutexes, taken in order ---- */

enum {
    LOCKS = 3
};

static struct lock {
    duet_mutex mutex;
    const struct worker *holder; /* this and the next: under the mutex */
    long data;
    atomic_long locked;
} locks[LOCKS];

static unsigned take_locks(struct worker *me, unsigned wanted)
{
    unsigned held = 0;
    for (unsigned i = 0; i < LOCKS; i++) {
        if (!(wanted & 1u << i))
            continue;
        bool was_cancelled = begin_wait(me);
        duet_deadline by = some_deadline(&me->random, true);
        int rc = duet_mutex_lock(&locks[i].mutex, by);
        judge(me, was_cancelled, by, rc, 0);
        if (rc < 0)
            continue;
        must(locks[i].holder == NULL);
        locks[i].holder = me;
        locks[i].data++;
        atomic_fetch_add(&locks[i].locked, 1);
        held |= 1u << i;
        a_little(&me->random);
    }
    return held;
}

static void let_go(struct worker *me, unsigned held, unsigned i)
{
    if (!(held & 1u << i)) {
        if (one_in(&me->random, 8))
            must_equal(duet_mutex_unlock(&locks[i].mutex), -EPERM);
        return;
    }
    must(locks[i].holder == me);
    locks[i].holder = NULL;
    must_equal(duet_mutex_unlock(&locks[i].mutex), 0);
}

static void lock_and_unlock(struct worker *me)
{
    for (int op = 12; op > 0 && !duet_cancelled(); op--) {
        unsigned held = take_locks(me, (unsigned)below(&me->random, 1 << LOCKS));
        bool up = one_in(&me->random, 2);
        for (unsigned i = 0; i < LOCKS; i++)
            let_go(me, held, up ? i : LOCKS - 1 - i);
    }
}

stress_test(a_mutex_has_one_holder, 450)
{
    memset(locks, 0, sizeof locks);
    for (int i = 2 + below(random, 6); i > 0; i--)
        hire(random, some_place(random), true, lock_and_unlock);
    cancel_some(random);
    dismiss_all();
    for (int i = 0; i < LOCKS; i++) {
        must(locks[i].holder == NULL);
        must_equal(locks[i].data, locks[i].locked);
        must_equal(duet_mutex_lock(&locks[i].mutex, DUET_NOW), 0);
        must_equal(duet_mutex_unlock(&locks[i].mutex), 0);
    }
}

/* ---- Mutexes, taken in any order: every circle is broken, and only circles are ---- */

enum {
    FORKS = 4
};

static struct fork {
    duet_mutex mutex;
    long uses; /* under it */
    atomic_int holder;
} forks[FORKS];
static atomic_int wanted_fork[WORKERS_MAX];
static atomic_long fork_uses;
static bool all_patient; /* no deadline, no cancellation: who is in a circle stays there */

static int take_fork(struct worker *me, int i, int also)
{
    bool was_cancelled = begin_wait(me);
    duet_deadline by = all_patient ? DUET_NEVER : some_deadline(&me->random, true);
    wanted_fork[me->index] = i;
    int rc = duet_mutex_lock(&forks[i].mutex, by);
    judge(me, was_cancelled, by, rc, also);
    if (rc < 0)
        return rc;
    wanted_fork[me->index] = -1;
    must_equal(forks[i].holder, -1);
    forks[i].holder = me->index;
    forks[i].uses++;
    atomic_fetch_add(&fork_uses, 1);
    return 0;
}

static void lay_fork(int i)
{
    forks[i].holder = -1;
    must_equal(duet_mutex_unlock(&forks[i].mutex), 0);
}

/* Who was told of a circle finds it as it was, because nobody else in it can move. */
static void check_circle(const struct worker *me, int fork)
{
    for (int steps = 0;; steps++) {
        must(steps <= FORKS);
        int holder = forks[fork].holder;
        must(holder >= 0);
        if (holder == me->index)
            return;
        fork = wanted_fork[holder];
        must(fork >= 0);
    }
}

static void dine(struct worker *me)
{
    for (int meals = 5; meals > 0 && !duet_cancelled();) {
        int first = below(&me->random, FORKS);
        int second = (first + 1 + below(&me->random, FORKS - 1)) % FORKS;
        if (take_fork(me, first, 0) < 0)
            continue;
        if (one_in(&me->random, 2) && duet_loop_self())
            duet_yield();
        else
            a_little(&me->random);
        int rc = take_fork(me, second, -EDEADLK);
        if (rc == 0) {
            meals--;
            lay_fork(second);
        } else if (rc == -EDEADLK && all_patient) {
            check_circle(me, second);
        }
        lay_fork(first);
    }
}

stress_test(every_circle_of_mutexes_is_broken, 250)
{
    log_capture(); /* it speaks of each circle */
    memset(forks, 0, sizeof forks);
    fork_uses = 0;
    all_patient = one_in(random, 2);
    for (int i = 0; i < FORKS; i++)
        forks[i].holder = -1;
    for (int i = 3 + below(random, 4); i > 0; i--)
        hire(random, some_place(random), !all_patient, dine);
    cancel_some(random);
    dismiss_all();
    long uses = 0;
    for (int i = 0; i < FORKS; i++) {
        must_equal(duet_mutex_lock(&forks[i].mutex, DUET_NOW), 0);
        uses += forks[i].uses;
        must_equal(duet_mutex_unlock(&forks[i].mutex), 0);
    }
    must_equal(uses, fork_uses);
    log_release();
}

/* ---- Semaphores ---- */

static duet_sem sem;
static int permits; /* at the start */
static atomic_int inside;
static atomic_long posts_begun, taken;

static void enter_and_leave(struct worker *me)
{
    for (int op = 15; op > 0 && !duet_cancelled(); op--) {
        bool was_cancelled = begin_wait(me);
        duet_deadline by = some_deadline(&me->random, true);
        int rc = duet_sem_wait(&sem, by);
        judge(me, was_cancelled, by, rc, 0);
        if (rc < 0)
            continue;
        must(atomic_fetch_add(&inside, 1) < permits);
        a_little(&me->random);
        atomic_fetch_sub(&inside, 1);
        must_equal(duet_sem_post(&sem), 0);
    }
}

static void post_or_take(struct worker *me)
{
    for (int op = 15; op > 0 && !duet_cancelled(); op--) {
        if (one_in(&me->random, 2)) {
            atomic_fetch_add(&posts_begun, 1);
            must_equal(duet_sem_post(&sem), 0);
            continue;
        }
        bool was_cancelled = begin_wait(me);
        duet_deadline by = some_deadline(&me->random, true);
        int rc = duet_sem_wait(&sem, by);
        judge(me, was_cancelled, by, rc, 0);
        if (rc == 0) {
            long now = atomic_fetch_add(&taken, 1) + 1;
            must(now <= permits + atomic_load(&posts_begun));
        }
        a_little(&me->random);
    }
}

static void check_permits(long n)
{
    for (long i = 0; i < n; i++)
        must_equal(duet_sem_wait(&sem, DUET_NOW), 0);
    must_equal(duet_sem_wait(&sem, DUET_NOW), -ETIME);
}

stress_test(a_semaphore_lets_in_as_many_as_it_has_permits, 450)
{
    inside = 0;
    permits = 1 + below(random, 3);
    duet_sem_init(&sem, (unsigned)permits);
    for (int i = 2 + below(random, 7); i > 0; i--)
        hire(random, some_place(random), true, enter_and_leave);
    cancel_some(random);
    dismiss_all();
    check_permits(permits);
}

stress_test(a_semaphore_loses_no_permit, 450)
{
    posts_begun = taken = 0;
    permits = below(random, 3);
    duet_sem_init(&sem, (unsigned)permits);
    for (int i = 2 + below(random, 7); i > 0; i--)
        hire(random, some_place(random), true, post_or_take);
    cancel_some(random);
    for (int i = 15 * crew_size; i > 0; i--) { /* so that everybody comes to the end */
        atomic_fetch_add(&posts_begun, 1);
        must_equal(duet_sem_post(&sem), 0);
    }
    dismiss_all();
    check_permits(permits + posts_begun - taken);
}

/* ---- Events ---- */

enum {
    PULSES = 24
};

static duet_event event;
static atomic_int pulses_begun, pulses_over;
static int payload[PULSES + 2]; /* written once, before the pulse of that number */

/* A wait that returns 0 has seen a pulse that was not over when it began. */
static void see_pulses(struct worker *me)
{
    for (int op = 10; op > 0 && !duet_cancelled(); op--) {
        int over = atomic_load_explicit(&pulses_over, memory_order_acquire);
        bool was_cancelled = begin_wait(me);
        duet_deadline by = some_deadline(&me->random, true);
        int rc = duet_event_wait(&event, by);
        judge(me, was_cancelled, by, rc, 0);
        if (rc == 0) {
            must(atomic_load_explicit(&pulses_begun, memory_order_relaxed) > over);
            must_equal(payload[over + 1], over + 1);
        }
        a_little(&me->random);
    }
}

static void begin_pulse(int n)
{
    payload[n] = n;
    atomic_store_explicit(&pulses_begun, n, memory_order_relaxed);
    duet_event_set(&event);
    must(duet_event_is_set(&event));
}

stress_test(an_event_wakes_by_being_set_alone, 450)
{
    duet_event_clear(&event);
    memset(payload, 0, sizeof payload);
    pulses_begun = pulses_over = 0;
    for (int i = 2 + below(random, 7); i > 0; i--)
        hire(random, some_place(random), true, see_pulses);
    int n = 1;
    for (int i = below(random, PULSES); i > 0; i--, n++) {
        a_little(random);
        begin_pulse(n);
        a_little(random);
        duet_event_clear(&event);
        must(!duet_event_is_set(&event));
        atomic_store_explicit(&pulses_over, n, memory_order_release);
    }
    cancel_some(random);
    begin_pulse(n); /* and it stays */
    dismiss_all();
}

static void wait_for_event(struct worker *me)
{
    duet_deadline by = me->by;
    if (one_in(&me->random, 2)) {
        me->rc = duet_event_wait(&event, by);
    } else {
        duet_case cases[] = {{.kind = DUET_CASE_NONE}, duet_case_event(&event)};
        me->rc = duet_select(cases, 2, by);
        must(me->rc != 0);
        me->rc = me->rc == 1 ? cases[1].rc : me->rc;
    }
    judge(me, false, by, me->rc, 0);
}

static void pulse(struct worker *me)
{
    (void)me;
    duet_event_set(&event);
    duet_event_clear(&event);
}

stress_test(who_waits_misses_no_set, 500)
{
    struct worker *waiters[8];
    int n = 1 + below(random, 8);
    duet_event_clear(&event);
    for (int i = 0; i < n; i++)
        waiters[i] = line_up(random, true, wait_for_event);
    cancel_some(random);
    for (int i = 0; i < n; i++)
        must(!must_be_served(waiters[i]) || !duet_future_settled(waiters[i]->end));
    if (one_in(random, 2))
        pulse(NULL);
    else
        hire(random, some_place(random), false, pulse);
    cancel_at_once(random);
    for (int i = 0; i < n; i++) {
        await(waiters[i]);
        must(!must_be_served(waiters[i]) || waiters[i]->rc == 0);
    }
    dismiss_all();
    must_equal(duet_event_wait(&event, DUET_NOW), -ETIME);
}

/* ---- Barriers ---- */

enum {
    MEETINGS = 10
};

static duet_barrier barrier;
static int parties;
static bool barrier_troubled;
static atomic_bool barrier_aborted;
static struct meeting {
    atomic_int came, first, rest, gave_up, broken;
} meetings[MEETINGS];

static void meet(struct worker *me)
{
    for (int i = 0; i < MEETINGS; i++) {
        struct meeting *meeting = &meetings[i];
        bool was_cancelled = duet_cancelled(); /* not shielded: it must end when cancelled */
        bool rarely = barrier_troubled && one_in(&me->random, 6);
        duet_deadline by = rarely ? some_deadline(&me->random, true) : DUET_NEVER;
        atomic_fetch_add(&meeting->came, 1);
        int rc = duet_barrier_wait(&barrier, by);
        judge(me, was_cancelled, by, rc, -EPIPE);
        if (rc < 0) {
            atomic_fetch_add(rc == -EPIPE ? &meeting->broken : &meeting->gave_up, 1);
            return;
        }
        must_equal(atomic_load(&meeting->came), parties);
        must(rc <= 1);
        atomic_fetch_add(rc == 1 ? &meeting->first : &meeting->rest, 1);
        a_little(&me->random);
    }
}

static void trouble_barrier(uint64_t *random)
{
    cancel_some(random);
    if (one_in(random, 3)) {
        barrier_aborted = true;
        duet_barrier_abort(&barrier);
    }
    for (int i = 0; i < crew_size; i++)
        if (crew[i].cancelled) {
            await(&crew[i]);
            if (!crew[i].ran) { /* it will not come, and nobody has said so yet */
                barrier_aborted = true;
                duet_barrier_abort(&barrier);
            }
        }
}

stress_test(at_a_barrier_all_meet_or_all_part, 450)
{
    bool broken = false;
    memset(meetings, 0, sizeof meetings);
    parties = 1 + below(random, 6);
    barrier_troubled = one_in(random, 2);
    barrier_aborted = false;
    must_equal(duet_barrier_init(&barrier, (unsigned)parties), 0);
    for (int i = 0; i < parties; i++)
        hire(random, some_place(random), barrier_troubled, meet);
    if (barrier_troubled)
        trouble_barrier(random);
    dismiss_all();
    for (int i = 0; i < MEETINGS; i++) {
        const struct meeting *meeting = &meetings[i];
        if (broken) {
            must_equal(meeting->came, 0);
        } else if (meeting->first + meeting->rest > 0) {
            must_equal(meeting->first, 1);
            must_equal(meeting->rest, parties - 1);
            must_equal(meeting->broken + meeting->gave_up, 0);
        } else {
            must(barrier_troubled && (meeting->gave_up > 0 || barrier_aborted));
            must_equal(meeting->broken + meeting->gave_up, meeting->came);
            broken = true;
        }
    }
    if (broken)
        must_equal(duet_barrier_wait(&barrier, DUET_NOW), -EPIPE);
}

static void meet_once(struct worker *me)
{
    me->rc = duet_barrier_wait(&barrier, DUET_NEVER);
}

stress_test(the_last_to_come_is_the_one, 200)
{
    int n = 2 + below(random, 6);
    must_equal(duet_barrier_init(&barrier, (unsigned)n), 0);
    for (int round = 3; round > 0; round--) {
        for (int i = 0; i < n - 1; i++)
            must(!duet_future_settled(line_up(random, false, meet_once)->end));
        hire(random, some_place(random), false, meet_once);
        for (int i = 0; i < n; i++) {
            await(&crew[i]);
            must_equal(crew[i].rc, i == n - 1);
        }
        dismiss_all();
    }
}

/* ---- Channels: what the tests of them share ---- */

enum {
    LANES_MAX = 4,
    ITEMS = 256 /* of one producer */
};

struct item {
    int lane, producer, number;
};
/* Some channels carry the pointer alone. */
struct message {
    struct item *item;
    struct item copy;
    signed char padding[20];
};

static struct lane {
    duet_chan *chan;
    size_t capacity;
    bool whole; /* it carries whole messages */
    atomic_bool shut_begun, shut_over, shut_now_over;
    atomic_int accepted, received, dropped, done;
} lanes[LANES_MAX];
static int lane_count;

static atomic_int fates[WORKERS_MAX][ITEMS]; /* how often it was received or dropped */
static bool sent[WORKERS_MAX][ITEMS];
static int made[WORKERS_MAX];
static int last_seen[WORKERS_MAX][LANES_MAX][WORKERS_MAX]; /* by whom, where, from whom */

static struct message new_message(const struct worker *me, int lane)
{
    struct message m = {.item = malloc(sizeof *m.item)};
    must(m.item != NULL);
    must(made[me->index] < ITEMS);
    *m.item = m.copy = (struct item){lane, me->index, made[me->index]++};
    memset(m.padding, m.copy.number & 0x7f, sizeof m.padding);
    return m;
}

static void meet_fate(struct item *item)
{
    must_equal(atomic_fetch_add(&fates[item->producer][item->number], 1), 0);
    free(item);
}

static void drop_item(void *item)
{
    struct item *i = *(struct item **)item;
    atomic_fetch_add(&lanes[i->lane].dropped, 1);
    meet_fate(i);
}

/* The sender's: rc is what the send has returned. */
static void after_send(const struct message *m, int rc)
{
    if (rc < 0) {
        free(m->item); /* still the sender's */
        return;
    }
    sent[m->copy.producer][m->copy.number] = true;
    atomic_fetch_add(&lanes[m->copy.lane].accepted, 1);
}

static void after_recv(const struct worker *me, int lane, const struct message *m)
{
    const struct item item = *m->item;
    int *last = &last_seen[me->index][lane][item.producer];
    must_equal(item.lane, lane);
    must(item.number > *last);
    *last = item.number;
    if (lanes[lane].whole) {
        must(memcmp(&item, &m->copy, sizeof item) == 0);
        for (size_t i = 0; i < sizeof m->padding; i++)
            must_equal(m->padding[i], item.number & 0x7f);
    } else {
        must_equal(m->padding[0], -1); /* not a byte too many */
        must_equal(m->copy.lane, -1);
    }
    meet_fate(m->item);
    atomic_fetch_add(&lanes[lane].received, 1);
}

static struct message nothing(void)
{
    struct message m;
    memset(&m, 0xff, sizeof m);
    m.item = NULL;
    return m;
}

static void check_untouched(const struct message *m)
{
    struct message untouched = nothing();
    must(m->item == NULL);
    must(memcmp((const char *)m + sizeof m->item, (const char *)&untouched + sizeof m->item,
                sizeof *m - sizeof m->item) == 0);
}

static void open_lanes(uint64_t *random, int n)
{
    memset(lanes, 0, sizeof lanes);
    memset(fates, 0, sizeof fates);
    memset(sent, 0, sizeof sent);
    memset(made, 0, sizeof made);
    memset(last_seen, 0xff, sizeof last_seen);
    lane_count = n;
    for (int i = 0; i < n; i++) {
        lanes[i].capacity = (size_t)below(random, 4);
        lanes[i].whole = one_in(random, 2);
        size_t size = lanes[i].whole ? sizeof(struct message) : sizeof(struct item *);
        must_equal(duet_chan_open_with(&lanes[i].chan, size, lanes[i].capacity, drop_item), 0);
    }
}

static void shut_lane(struct lane *lane, bool now)
{
    lane->shut_begun = true;
    if (now)
        duet_chan_shut_now(lane->chan);
    else
        duet_chan_shut(lane->chan);
    if (now)
        lane->shut_now_over = true;
    lane->shut_over = true;
}

/* When the whole crew has ended. */
static void close_lanes(void)
{
    for (int i = 0; i < lane_count; i++) {
        struct lane *lane = &lanes[i];
        int left = lane->accepted - lane->received - lane->dropped;
        must_equal(duet_chan_count(lane->chan), left);
        must(left <= (int)lane->capacity);
        if (lane->capacity == 0)
            must_equal(lane->dropped, 0); /* a send returned when it had been received */
        duet_chan_unref(lane->chan);
        must_equal(lane->accepted, lane->received + lane->dropped);
    }
    for (int i = 0; i < WORKERS_MAX; i++)
        for (int k = 0; k < made[i]; k++)
            must_equal(fates[i][k], sent[i][k]);
}

static int send_one(struct worker *me, int lane, bool comes)
{
    struct lane *l = &lanes[lane];
    struct message m = new_message(me, lane);
    bool shut = l->shut_over, was_cancelled = begin_wait(me);
    duet_deadline by = some_deadline(&me->random, comes);
    int rc = duet_chan_send(l->chan, l->whole ? (void *)&m : (void *)&m.item, by);
    judge(me, was_cancelled, by, rc, -EPIPE);
    must(rc != -EPIPE || l->shut_begun);
    must(!shut || rc == -EPIPE || rc == -ECANCELED);
    after_send(&m, rc);
    return rc;
}

static int recv_one(struct worker *me, int lane, bool comes)
{
    struct lane *l = &lanes[lane];
    struct message m = nothing();
    bool shut = l->shut_over, shut_now = l->shut_now_over, was_cancelled = begin_wait(me);
    duet_deadline by = some_deadline(&me->random, comes);
    int rc = duet_chan_recv(l->chan, &m, by);
    judge(me, was_cancelled, by, rc, -EPIPE);
    must(rc != -EPIPE || l->shut_begun);
    must(!shut || rc != -ETIME);
    must(!shut_now || rc < 0);
    if (rc == 0)
        after_recv(me, lane, &m);
    else
        check_untouched(&m);
    return rc;
}

/* ---- Channels: producers, consumers, and who waits until all is done ---- */

enum ending {
    PRODUCERS_END, /* and then it is shut */
    SHUT,
    SHUT_NOW,
    CONSUMERS_LEAVE,
    ENDINGS
};
static enum ending ending;
static atomic_bool leaving;

static void produce(struct worker *me)
{
    for (int i = 20; i > 0 && !leaving; i--) {
        int rc = send_one(me, 0, ending != CONSUMERS_LEAVE);
        must(duet_chan_count(lanes[0].chan) <= lanes[0].capacity);
        if (rc == -EPIPE || rc == -ECANCELED)
            return;
        a_little(&me->random);
    }
}

static void consume(struct worker *me)
{
    while (!leaving) {
        int rc = recv_one(me, 0, ending != CONSUMERS_LEAVE);
        if (rc == 0) {
            a_little(&me->random);
            atomic_fetch_add(&lanes[0].done, 1);
            must_equal(duet_chan_done(lanes[0].chan), 0);
        } else if (rc != -ETIME) {
            return;
        }
    }
}

static void join_often(struct worker *me)
{
    while (!leaving && !lanes[0].shut_over) {
        int accepted = lanes[0].accepted;
        bool was_cancelled = begin_wait(me);
        duet_deadline by = some_deadline(&me->random, ending != CONSUMERS_LEAVE);
        int rc = duet_chan_join(lanes[0].chan, by);
        judge(me, was_cancelled, by, rc, 0);
        if (rc == 0)
            must(lanes[0].done + lanes[0].dropped >= accepted);
        else if (rc == -ECANCELED)
            return;
        duet_sleep(duet_us(below(&me->random, 50)));
    }
}

stress_test(what_a_channel_accepts_is_received_or_dropped_once, 450)
{
    struct lane *lane = &lanes[0];
    open_lanes(random, 1);
    ending = (enum ending)below(random, ENDINGS);
    leaving = false;
    int producers = 1 + below(random, 4), consumers = below(random, 4);
    for (int i = 0; i < producers; i++)
        hire(random, some_place(random), true, produce);
    hire(random, some_place(random), false, consume); /* one there is in any case */
    for (int i = 0; i < consumers; i++)
        hire(random, some_place(random), true, consume);
    if (one_in(random, 2))
        hire(random, some_place(random), true, join_often);
    cancel_some(random);
    if (ending == PRODUCERS_END)
        for (int i = 0; i < producers; i++)
            await(&crew[i]);
    if (ending == CONSUMERS_LEAVE)
        leaving = true;
    else
        shut_lane(lane, ending == SHUT_NOW);
    if (ending == PRODUCERS_END || one_in(random, 2)) {
        for (int i = 0; i < producers; i++)
            await(&crew[i]);
        if (ending != CONSUMERS_LEAVE) {
            must_equal(duet_chan_join(lane->chan, SURELY), 0);
            must_equal(lane->done + lane->dropped, lane->accepted);
        }
    }
    dismiss_all();
    if (ending == PRODUCERS_END || ending == SHUT)
        must_equal(lane->accepted, lane->received);
    bool all_done = lane->done + lane->dropped == lane->accepted;
    must_equal(duet_chan_join(lane->chan, DUET_NOW), all_done ? 0 : -ETIME);
    if (all_done && lane->dropped == 0)
        must_equal(duet_chan_done(lane->chan), -ERANGE);
    close_lanes();
}

/* ---- A channel that one thread has had for itself ---- */

static duet_chan *own_chan;
static duet_event others_come;
static int come_after; /* so many rounds of the first */
static int64_t came_out[WORKERS_MAX]; /* less what went in */

static void use_own_chan(struct worker *me, int rounds)
{
    for (int i = 1, item; i <= rounds; i++) {
        if (duet_chan_send(own_chan, &i, DUET_NOW) == 0)
            came_out[me->index] -= i;
        if (i % 7 == 0)
            must(duet_chan_count(own_chan) <= 4);
        if (duet_chan_recv(own_chan, &item, DUET_NOW) == 0)
            came_out[me->index] += item;
        if (i == come_after && me->index == 0)
            duet_event_set(&others_come);
    }
}

static void have_it_alone(struct worker *me)
{
    use_own_chan(me, 400);
}

static void come_to_it(struct worker *me)
{
    must_equal(duet_event_wait(&others_come, SURELY), 0);
    a_little(&me->random);
    use_own_chan(me, 1 + below(&me->random, 40));
}

stress_test(others_come_to_a_channel_that_one_had_alone, 450)
{
    int64_t all = 0;
    int item, others = 1 + below(random, 3);
    must_equal(duet_chan_open(&own_chan, sizeof(int), 4), 0);
    duet_event_clear(&others_come);
    memset(came_out, 0, sizeof came_out);
    come_after = 1 + below(random, 400);
    hire(random, some_place(random), false, have_it_alone);
    for (int i = 0; i < others; i++)
        hire(random, i == 0 ? THREAD : some_place(random), false, come_to_it);
    dismiss_all();
    while (duet_chan_recv(own_chan, &item, DUET_NOW) == 0)
        all += item;
    for (int i = 0; i < WORKERS_MAX; i++)
        all += came_out[i];
    must_equal(all, 0);
    duet_chan_unref(own_chan);
}

/* ---- Select ---- */

enum {
    CASES_MAX = 5
};

static duet_event stop_event;
static duet_future *stop_promise;
static atomic_bool stop_begun;

struct choice {
    duet_case cases[CASES_MAX];
    int lanes[CASES_MAX];
    struct message messages[CASES_MAX];
    int n;
    bool comes; /* one of them will be ready; else all are switched off */
    bool ready; /* one of them is */
};

static void make_choice(struct worker *me, struct choice *choice)
{
    choice->n = 1 + below(&me->random, CASES_MAX);
    choice->comes = choice->ready = false;
    for (int i = 0; i < choice->n; i++) {
        int lane = below(&me->random, lane_count), kind = below(&me->random, 12);
        struct message *m = &choice->messages[i];
        struct lane *l = &lanes[lane];
        choice->lanes[i] = lane;
        *m = kind < 5 ? new_message(me, lane) : nothing();
        if (kind < 5)
            choice->cases[i] =
                duet_case_send(l->chan, l->whole ? (const void *)m : (const void *)&m->item);
        else if (kind < 10)
            choice->cases[i] = duet_case_recv(l->chan, m);
        else if (kind == 10)
            choice->cases[i] = one_in(&me->random, 2) ? duet_case_event(&stop_event)
                                                      : duet_case_future(stop_promise);
        else
            choice->cases[i] = (duet_case){.kind = DUET_CASE_NONE};
        choice->comes = choice->comes || kind < 11;
        choice->ready = choice->ready || (kind < 10 && l->shut_over);
    }
}

static void after_choice(struct worker *me, struct choice *choice, int chosen)
{
    must(chosen < choice->n);
    for (int i = 0; i < choice->n; i++) {
        const duet_case *c = &choice->cases[i];
        const struct message *m = &choice->messages[i];
        int rc = i == chosen ? c->rc : -ETIME;
        if (i == chosen) {
            must(c->kind != DUET_CASE_NONE);
            must(c->rc == 0 || (c->rc == -EPIPE && lanes[choice->lanes[i]].shut_begun));
        }
        if (c->kind == DUET_CASE_SEND)
            after_send(m, rc);
        else if (c->kind == DUET_CASE_RECV && rc == 0)
            after_recv(me, choice->lanes[i], m);
        else
            check_untouched(m);
        if (c->kind == DUET_CASE_EVENT || c->kind == DUET_CASE_FUTURE)
            must(i != chosen || (stop_begun && c->rc == 0));
    }
}

static int select_one(struct worker *me)
{
    struct choice choice;
    make_choice(me, &choice);
    bool was_cancelled = begin_wait(me);
    duet_deadline by = some_deadline(&me->random, choice.comes);
    int rc = duet_select(choice.cases, (size_t)choice.n, by);
    judge(me, was_cancelled, by, rc, choice.comes ? 0 : -EDEADLK);
    must(!choice.ready || rc != -ETIME);
    after_choice(me, &choice, rc);
    return rc;
}

static void trade(struct worker *me)
{
    for (int op = 25; op > 0 && !duet_cancelled(); op--) {
        int lane = below(&me->random, lane_count);
        switch (below(&me->random, 6)) {
        case 0:
            send_one(me, lane, true);
            break;
        case 1:
            recv_one(me, lane, true);
            break;
        default:
            select_one(me);
        }
        must(duet_chan_count(lanes[lane].chan) <= lanes[lane].capacity);
    }
}

stress_test(select_does_one_of_its_cases, 400)
{
    open_lanes(random, 1 + below(random, LANES_MAX));
    duet_event_clear(&stop_event);
    stop_begun = false;
    must_equal(duet_future_open(&stop_promise), 0);
    for (int i = 2 + below(random, 7); i > 0; i--)
        hire(random, some_place(random), true, trade);
    for (int i = below(random, 4); i > 0; i--)
        duet_future_wait(crew[0].end, duet_us(below(random, 500)), NULL);
    cancel_some(random);
    bool stop_first = one_in(random, 2);
    for (int pass = 0; pass < 2; pass++)
        if ((pass == 0) == stop_first) {
            stop_begun = true;
            duet_event_set(&stop_event);
            must_equal(duet_future_settle(stop_promise, duet_ok()), 0);
        } else {
            for (int i = 0; i < lane_count; i++)
                shut_lane(&lanes[i], one_in(random, 2));
        }
    dismiss_all();
    close_lanes();
    duet_future_unref(stop_promise);
}

/* ---- Conditions: the classic bounded buffer ---- */

enum {
    SLOTS = 3
};

static struct buffer {
    duet_mutex mutex;
    duet_cond not_full, not_empty;
    const struct worker *holder; /* from here on: under the mutex */
    int size, count, head, slots[SLOTS];
    bool closed;
    long put, put_sum, taken, taken_sum;
} buffer;

static int enter_buffer(struct worker *me)
{
    bool was_cancelled = begin_wait(me);
    duet_deadline by = some_deadline(&me->random, true);
    int rc = duet_mutex_lock(&buffer.mutex, by);
    judge(me, was_cancelled, by, rc, 0);
    if (rc == 0) {
        must(buffer.holder == NULL);
        buffer.holder = me;
    }
    return rc;
}

/* `tell` (may be NULL) is signalled before or after the mutex is let go. */
static void leave_buffer(struct worker *me, duet_cond *tell)
{
    bool early = one_in(&me->random, 2);
    must(buffer.holder == me);
    buffer.holder = NULL;
    if (tell && early)
        duet_cond_signal(tell);
    must_equal(duet_mutex_unlock(&buffer.mutex), 0);
    if (tell && !early)
        duet_cond_signal(tell);
}

static int sleep_in_buffer(struct worker *me, duet_cond *cond)
{
    bool was_cancelled = begin_wait(me);
    duet_deadline by = some_deadline(&me->random, true);
    buffer.holder = NULL;
    int rc = duet_cond_wait(cond, &buffer.mutex, by);
    must(buffer.holder == NULL); /* it holds the mutex again */
    buffer.holder = me;
    judge(me, was_cancelled, by, rc, 0);
    return rc;
}

/* Who was told and finds nothing has lost it to somebody who came first; who was told and finds
 * something uses it, even when cancelled: so no signal is lost. */
static bool put_one(struct worker *me, int value)
{
    int rc = enter_buffer(me);
    if (rc < 0)
        return false;
    while (rc == 0 && buffer.count == buffer.size)
        rc = sleep_in_buffer(me, &buffer.not_full);
    if (buffer.count == buffer.size || (rc < 0 && one_in(&me->random, 2))) {
        leave_buffer(me, NULL);
        return false;
    }
    buffer.slots[(buffer.head + buffer.count++) % buffer.size] = value;
    buffer.put++;
    buffer.put_sum += value;
    leave_buffer(me, &buffer.not_empty);
    return true;
}

static bool take_one(struct worker *me)
{
    int rc = enter_buffer(me);
    if (rc < 0)
        return true;
    while (rc == 0 && buffer.count == 0 && !buffer.closed)
        rc = sleep_in_buffer(me, &buffer.not_empty);
    bool closed = buffer.closed;
    if (buffer.count == 0 || (rc < 0 && one_in(&me->random, 2))) {
        bool go_on = !closed || buffer.count > 0;
        leave_buffer(me, NULL);
        return go_on;
    }
    buffer.taken++;
    buffer.taken_sum += buffer.slots[buffer.head];
    buffer.head = (buffer.head + 1) % buffer.size;
    buffer.count--;
    leave_buffer(me, &buffer.not_full);
    return true;
}

static void fill_buffer(struct worker *me)
{
    for (int i = 15; i > 0 && !duet_cancelled();)
        if (put_one(me, below(&me->random, 1000)))
            i--;
}

static void empty_buffer(struct worker *me)
{
    while (take_one(me) && !duet_cancelled())
        if (one_in(&me->random, 4))
            a_little(&me->random);
}

stress_test(a_bounded_buffer_of_two_conditions_comes_to_its_end, 350)
{
    memset(&buffer, 0, sizeof buffer);
    buffer.size = 1 + below(random, SLOTS);
    int producers = 1 + below(random, 4), consumers = below(random, 4);
    for (int i = 0; i < producers; i++)
        hire(random, some_place(random), true, fill_buffer);
    hire(random, some_place(random), false, empty_buffer); /* one there is in any case */
    for (int i = 0; i < consumers; i++)
        hire(random, some_place(random), true, empty_buffer);
    cancel_some(random);
    for (int i = 0; i < producers; i++)
        await(&crew[i]);
    must_equal(duet_mutex_lock(&buffer.mutex, SURELY), 0);
    buffer.closed = true;
    duet_cond_broadcast(&buffer.not_empty);
    must_equal(duet_mutex_unlock(&buffer.mutex), 0);
    dismiss_all();
    must_equal(buffer.count, 0);
    must_equal(buffer.put, buffer.taken);
    must_equal(buffer.put_sum, buffer.taken_sum);
}

/* ---- First come, first served ----
 *
 * The first come one by one, on either loop, each when the one before it waits already. Then others
 * come, from anywhere. Some of all give up, at a deadline or cancelled. */

enum {
    FIRST_MAX = 8
};

static int first_n, served_n, served[WORKERS_MAX]; /* who was served, in that order */

static void come(uint64_t *random, void (*body)(struct worker *me))
{
    first_n = 2 + below(random, FIRST_MAX - 1);
    served_n = 0;
    for (int i = 0; i < first_n; i++)
        line_up(random, true, body);
    for (int i = below(random, 5); i > 0; i--)
        hire(random, some_place(random), true, body);
    cancel_some(random);
}

/* Of the first, in the order of their coming, and before all others. */
static void check_served(void)
{
    int last = -1;
    for (int i = 0; i < served_n; i++) {
        if (served[i] < first_n)
            must(last < first_n && last < served[i]);
        last = served[i];
    }
    for (int i = 0; i < WORKERS_MAX; i++) {
        int times = 0;
        for (int k = 0; k < served_n; k++)
            times += served[k] == i;
        must(times <= 1);
    }
}

/* Those of the first who could not give up. */
static void check_first_were_served(void)
{
    for (int i = 0; i < first_n; i++) {
        await(&crew[i]);
        must(!must_be_served(&crew[i]) || crew[i].rc == 0);
    }
}

static duet_mutex queue_mutex;

static void queue_for_mutex(struct worker *me)
{
    me->rc = duet_mutex_lock(&queue_mutex, me->by);
    judge(me, false, me->by, me->rc, 0);
    if (me->rc < 0)
        return;
    served[served_n++] = me->index;
    a_little(&me->random);
    must_equal(duet_mutex_unlock(&queue_mutex), 0);
}

stress_test(a_mutex_is_handed_on_in_order, 350)
{
    must_equal(duet_mutex_lock(&queue_mutex, DUET_NOW), 0);
    come(random, queue_for_mutex);
    must_equal(served_n, 0);
    cancel_at_once(random);
    must_equal(duet_mutex_unlock(&queue_mutex), 0);
    cancel_at_once(random);
    check_first_were_served();
    dismiss_all();
    check_served();
}

static duet_sem queue_sem;

static void queue_for_sem(struct worker *me)
{
    me->rc = duet_sem_wait(&queue_sem, me->by);
    judge(me, false, me->by, me->rc, 0);
    if (me->rc < 0)
        return;
    served[served_n++] = me->index;
    a_little(&me->random);
    must_equal(duet_sem_post(&queue_sem), 0);
}

stress_test(a_permit_is_handed_on_in_order, 350)
{
    duet_sem_init(&queue_sem, 0);
    come(random, queue_for_sem);
    must_equal(served_n, 0);
    cancel_at_once(random);
    must_equal(duet_sem_post(&queue_sem), 0); /* one: it goes from hand to hand */
    cancel_at_once(random);
    check_first_were_served();
    dismiss_all();
    check_served();
    must_equal(duet_sem_wait(&queue_sem, DUET_NOW), 0);
    must_equal(duet_sem_wait(&queue_sem, DUET_NOW), -ETIME);
}

static duet_chan *queue_chan;
static duet_event never_set;

/* Alone, or among cases that are never ready. */
static int queue_once(struct worker *me, duet_case what)
{
    duet_case none = {.kind = DUET_CASE_NONE};
    duet_case cases[3] = {what, duet_case_event(&never_set), none};
    int at = below(&me->random, 3);
    if (one_in(&me->random, 2)) {
        if (what.kind == DUET_CASE_SEND)
            return duet_chan_send(what.on, what.item, me->by);
        return duet_chan_recv(what.on, what.into, me->by);
    }
    cases[0] = cases[at];
    cases[at] = what;
    int rc = duet_select(cases, 3, me->by);
    must(rc < 0 || rc == at);
    return rc < 0 ? rc : cases[at].rc;
}

static void queue_to_recv(struct worker *me)
{
    me->rc = queue_once(me, duet_case_recv(queue_chan, &me->got));
    judge(me, false, me->by, me->rc, -EPIPE);
    must_equal(me->rc == 0, me->got >= 0);
}

stress_test(items_are_handed_out_in_order, 350)
{
    int items = 0, next = 0, others_first = WORKERS_MAX;
    must_equal(duet_chan_open(&queue_chan, sizeof(int), (size_t)below(random, 4)), 0);
    come(random, queue_to_recv);
    for (; items < crew_size && duet_chan_send(queue_chan, &items, DUET_NOW) == 0; items++)
        if (one_in(random, 4))
            cancel_one(random);
    check_first_were_served();
    duet_chan_shut(queue_chan);
    for (int i = 0; i < crew_size; i++) {
        await(&crew[i]);
        if (crew[i].rc < 0)
            continue;
        must(crew[i].got < items);
        if (i < first_n)
            must_equal(crew[i].got, next++);
        else if (crew[i].got < others_first)
            others_first = crew[i].got;
        served[served_n++] = crew[i].got;
    }
    dismiss_all();
    must(next <= others_first);
    for (int item; duet_chan_recv(queue_chan, &item, DUET_NOW) == 0;)
        served[served_n++] = item;
    must_equal(served_n, items);
    for (int i = 0; i < items; i++) { /* each item once */
        int times = 0;
        for (int k = 0; k < items; k++)
            times += served[k] == i;
        must_equal(times, 1);
    }
    duet_chan_unref(queue_chan);
}

static void queue_to_send(struct worker *me)
{
    me->rc = queue_once(me, duet_case_send(queue_chan, &me->index));
    judge(me, false, me->by, me->rc, 0);
}

static bool all_ended(void)
{
    for (int i = 0; i < crew_size; i++)
        if (!duet_future_settled(crew[i].end))
            return false;
    return true;
}

stress_test(items_are_taken_in_order, 350)
{
    int accepted = 0;
    must_equal(duet_chan_open(&queue_chan, sizeof(int), (size_t)below(random, 4)), 0);
    come(random, queue_to_send);
    for (bool last = false; !last;) {
        last = all_ended();
        int rc = 0;
        while (rc == 0) {
            rc = duet_chan_recv(queue_chan, &served[served_n], last ? DUET_NOW : duet_us(50));
            must(rc == 0 || rc == -ETIME);
            served_n += rc == 0;
            if (one_in(random, 4))
                cancel_one(random);
        }
    }
    check_first_were_served();
    for (int i = 0; i < crew_size; i++) {
        bool received = false;
        await(&crew[i]);
        for (int k = 0; k < served_n; k++)
            received = received || served[k] == i;
        must_equal(received, crew[i].rc == 0);
        accepted += crew[i].rc == 0;
    }
    must_equal(accepted, served_n);
    dismiss_all();
    check_served();
    duet_chan_unref(queue_chan);
}

/* ---- A condition tells in order: of the numbers drawn before the sleep, under the mutex ---- */

static struct dormitory {
    duet_mutex mutex;
    duet_cond cond;
    bool exact; /* nobody gives up */
    bool closed; /* from here on: under the mutex */
    int numbers, last_told;
    int told, sleeping; /* if exact: who sleeps and was not told */
} dormitory;

static void sleep_and_tell(struct worker *me)
{
    struct dormitory *d = &dormitory;
    for (int op = 8; op > 0; op--) {
        bool was_cancelled = begin_wait(me);
        int rc = duet_mutex_lock(&d->mutex, DUET_NEVER);
        judge(me, was_cancelled, DUET_NEVER, rc, 0);
        if (rc < 0)
            return;
        if (!d->closed) {
            int number = ++d->numbers;
            duet_deadline by = d->exact ? DUET_NEVER : some_deadline(&me->random, true);
            was_cancelled = begin_wait(me);
            d->sleeping++;
            rc = duet_cond_wait(&d->cond, &d->mutex, by);
            judge(me, was_cancelled, by, rc, 0);
            if (rc == 0) {
                must(number > d->last_told);
                d->last_told = number;
                d->told++;
            }
        }
        must_equal(duet_mutex_unlock(&d->mutex), 0);
    }
}

static int tell_some(uint64_t *random)
{
    struct dormitory *d = &dormitory;
    int told = 0;
    for (int i = below(random, 4); i > 0; i--) {
        int n = one_in(random, 4) ? d->sleeping : d->sleeping > 0;
        if (n == d->sleeping && one_in(random, 2)) {
            duet_cond_broadcast(&d->cond);
        } else {
            for (int k = 0; k < n; k++)
                duet_cond_signal(&d->cond);
        }
        told += n;
        d->sleeping -= n;
    }
    return told;
}

stress_test(a_condition_tells_in_order, 350)
{
    struct dormitory *d = &dormitory;
    int told = 0;
    memset(d, 0, sizeof *d);
    d->exact = one_in(random, 2);
    for (int i = 1 + below(random, 7); i > 0; i--)
        hire(random, some_place(random), !d->exact, sleep_and_tell);
    for (int i = 12; i > 0; i--) {
        must_equal(duet_mutex_lock(&d->mutex, SURELY), 0);
        if (d->exact)
            must_equal(d->told, told); /* they were in the queue for the mutex before */
        told += tell_some(random);
        must_equal(duet_mutex_unlock(&d->mutex), 0);
        if (one_in(random, 2))
            a_little(random);
    }
    cancel_some(random);
    must_equal(duet_mutex_lock(&d->mutex, SURELY), 0);
    if (d->exact)
        must_equal(d->told, told);
    d->closed = true;
    duet_cond_broadcast(&d->cond);
    must_equal(duet_mutex_unlock(&d->mutex), 0);
    dismiss_all();
    if (d->exact)
        must_equal(d->told, d->numbers);
}

/* ---- Who is let in or woken frees the object at once ---- */

enum object_kind {
    MUTEX,
    COND,
    SEM,
    EVENT,
    BARRIER,
    OBJECT_KINDS
};

struct object {
    duet_mutex mutex;
    duet_cond cond;
    duet_sem sem;
    duet_event event;
    duet_barrier barrier;
};
static struct object *object;
static enum object_kind object_kind;
static duet_event object_ready; /* who wakes may come now */

static void free_when_woken(struct worker *me)
{
    switch (object_kind) {
    case MUTEX:
        must_equal(duet_event_wait(&object_ready, SURELY), 0);
        must_equal(duet_mutex_lock(&object->mutex, SURELY), 0);
        must_equal(duet_mutex_unlock(&object->mutex), 0);
        break;
    case COND:
        must_equal(duet_mutex_lock(&object->mutex, SURELY), 0);
        duet_event_set(&object_ready);
        must_equal(duet_cond_wait(&object->cond, &object->mutex, SURELY), 0);
        must_equal(duet_mutex_unlock(&object->mutex), 0);
        break;
    case SEM:
        must_equal(duet_sem_wait(&object->sem, SURELY), 0);
        break;
    case EVENT:
        must_equal(duet_event_wait(&object->event, SURELY), 0);
        break;
    default:
        me->rc = duet_barrier_wait(&object->barrier, SURELY);
        must(me->rc == 0 || me->rc == 1);
        if (me->rc == 1)
            return;
    }
    memset(object, 0xff, sizeof *object);
    free(object);
}

static void wake(struct worker *me)
{
    a_little(&me->random);
    switch (object_kind) {
    case MUTEX:
        must_equal(duet_mutex_lock(&object->mutex, DUET_NOW), 0);
        duet_event_set(&object_ready);
        a_little(&me->random);
        must_equal(duet_mutex_unlock(&object->mutex), 0);
        break;
    case COND:
        must_equal(duet_event_wait(&object_ready, SURELY), 0);
        must_equal(duet_mutex_lock(&object->mutex, SURELY), 0);
        duet_cond_signal(&object->cond);
        must_equal(duet_mutex_unlock(&object->mutex), 0);
        break;
    case SEM:
        must_equal(duet_sem_post(&object->sem), 0);
        break;
    case EVENT:
        duet_event_set(&object->event);
        break;
    default:
        free_when_woken(me);
    }
}

stress_test(who_is_woken_frees_the_object_at_once, 2500)
{
    object = calloc(1, sizeof *object);
    must(object != NULL);
    object_kind = (enum object_kind)below(random, OBJECT_KINDS);
    duet_event_clear(&object_ready);
    must_equal(duet_barrier_init(&object->barrier, 2), 0);
    hire(random, some_place(random), false, free_when_woken);
    hire(random, some_place(random), false, wake);
    dismiss_all();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_mutex_has_one_holder),
        cmocka_unit_test(every_circle_of_mutexes_is_broken),
        cmocka_unit_test(a_semaphore_lets_in_as_many_as_it_has_permits),
        cmocka_unit_test(a_semaphore_loses_no_permit),
        cmocka_unit_test(an_event_wakes_by_being_set_alone),
        cmocka_unit_test(who_waits_misses_no_set),
        cmocka_unit_test(at_a_barrier_all_meet_or_all_part),
        cmocka_unit_test(the_last_to_come_is_the_one),
        cmocka_unit_test(what_a_channel_accepts_is_received_or_dropped_once),
        cmocka_unit_test(others_come_to_a_channel_that_one_had_alone),
        cmocka_unit_test(select_does_one_of_its_cases),
        cmocka_unit_test(a_bounded_buffer_of_two_conditions_comes_to_its_end),
        cmocka_unit_test(a_mutex_is_handed_on_in_order),
        cmocka_unit_test(a_permit_is_handed_on_in_order),
        cmocka_unit_test(items_are_handed_out_in_order),
        cmocka_unit_test(items_are_taken_in_order),
        cmocka_unit_test(a_condition_tells_in_order),
        cmocka_unit_test(who_is_woken_frees_the_object_at_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
