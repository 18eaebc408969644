/* What sync.h says of mutex, semaphore and event, beside what test_sync.c has for all waits. */
#include "duet_test.h"
#include "parties.h"
#include "shared.h"

#include <sys/wait.h>

static struct scene s;

/* ---- Mutex ---- */

/* sync.h: a zeroed mutex, condition or event is ready to use, and a zeroed semaphore holds nothing.
 */
thread_test(what_is_zeroed_is_ready)
{
    static struct thing zeroed;
    duet_mutex mutex = DUET_MUTEX_INIT;
    duet_cond cond = DUET_COND_INIT;
    duet_event event = DUET_EVENT_INIT;
    for (int i = 0; i < 2; i++) {
        duet_mutex *m = i ? &mutex : &zeroed.mutex;
        duet_cond *c = i ? &cond : &zeroed.cond;
        duet_event *e = i ? &event : &zeroed.event;
        must_equal(duet_mutex_unlock(m), -EPERM);
        must_equal(duet_mutex_lock(m, DUET_NEVER), 0);
        duet_cond_signal(c);
        duet_cond_broadcast(c);
        must_equal(duet_cond_wait(c, m, DUET_NOW), -ETIME);
        must_equal(duet_mutex_unlock(m), 0);
        must(!duet_event_is_set(e));
        must_equal(duet_event_wait(e, DUET_NOW), -ETIME);
        duet_event_set(e);
        must(duet_event_is_set(e));
        must_equal(duet_event_wait(e, DUET_NEVER), 0);
    }
    must_equal(duet_sem_wait(&zeroed.sem, DUET_NOW), -ETIME);
    must_equal(duet_sem_post(&zeroed.sem), 0);
    must_equal(duet_sem_wait(&zeroed.sem, DUET_NEVER), 0);
    must_equal(duet_sem_wait(&zeroed.sem, DUET_NOW), -ETIME);
}

struct crowd {
    duet_mutex mutex;
    int rounds, count; /* count and holder are guarded */
    struct party *holder;
    atomic_int missed;
};

/* Locks in every way, and waits while it holds the mutex. */
static void crowd_in(struct party *p)
{
    struct crowd *c = p->arg;
    uint64_t seed = (uint64_t)p->number + 1;
    for (int i = 0; i < c->rounds; i++) {
        uint64_t chance = test_random(&seed) >> 40;
        int rc = duet_mutex_lock(&c->mutex, chance % 4 == 0   ? duet_us((int64_t)(chance % 300))
                                            : chance % 4 == 1 ? DUET_NOW
                                                              : DUET_NEVER);
        if (rc != 0) {
            must(rc == -ETIME && chance % 4 < 2);
            atomic_fetch_add(&c->missed, 1);
            continue;
        }
        must(c->holder == NULL);
        c->holder = p;
        c->count++;
        if (chance / 4 % 4 == 0)
            must_equal(duet_sleep(duet_us((int64_t)(chance / 16 % 100))), 0);
        else if (chance / 4 % 4 == 1)
            pause_party(p);
        must(c->holder == p);
        c->holder = NULL;
        must_equal(duet_mutex_unlock(&c->mutex), 0);
    }
}

/* sync.h: one holder, who may wait for anything while it holds it. */
thread_test(a_mutex_has_one_holder_however_many_of_all_kinds_want_it)
{
    struct crowd c = {.rounds = test_rounds(1000)};
    log_capture();
    run_crowd(crowd_in, &c);
    must_equal(c.count + atomic_load(&c.missed), CROWD * c.rounds);
    must(c.count >= CROWD); /* half of the locks waited without limit */
    must(!log_has("waits for"));
    log_release();
}

struct lending {
    duet_mutex mutex;
    duet_sem sem;
    duet_event event;
    duet_future *promise;
};

static void hold_across_waits(struct party *p)
{
    struct lending *l = p->arg;
    must_equal(duet_mutex_lock(&l->mutex, DUET_NEVER), 0);
    must_equal(duet_sleep(duet_ms(1)), 0);
    arrive(p);
    must_equal(duet_event_wait(&l->event, DUET_NEVER), 0);
    arrive(p);
    must_equal(duet_sem_wait(&l->sem, DUET_NEVER), 0);
    arrive(p);
    must_equal(duet_future_wait(l->promise, DUET_NEVER, NULL), 0);
    must_equal(duet_mutex_unlock(&l->mutex), 0);
}

thread_test(a_mutex_is_held_across_all_waits)
{
    scene_open(&s);
    for (enum kind kind = 0; kind < KINDS; kind++) {
        struct lending l = {.promise = open_promise()};
        struct party p;
        party_begin(&p, &s, kind, hold_across_waits, &l, DUET_NEVER);
        for (int i = 0; i < 3; i++) {
            await_asleep(&p);
            must_equal(duet_mutex_lock(&l.mutex, DUET_NOW), -ETIME);
            if (i == 0)
                duet_event_set(&l.event);
            else if (i == 1)
                must_equal(duet_sem_post(&l.sem), 0);
            else
                settle(l.promise);
        }
        (void)party_end(&p);
        must_equal(duet_mutex_lock(&l.mutex, DUET_NOW), 0);
        must_equal(duet_mutex_unlock(&l.mutex), 0);
        duet_future_unref(l.promise);
    }
    scene_close(&s);
}

static void hold_until_told(struct party *p)
{
    struct lending *l = p->arg;
    must_equal(duet_mutex_lock(&l->mutex, DUET_NEVER), 0);
    arrive(p);
    must_equal(duet_event_wait(&l->event, SURELY), 0);
    must_equal(duet_mutex_unlock(&l->mutex), 0);
}

static void meddle(struct party *p)
{
    struct lending *l = p->arg;
    must_equal(duet_mutex_unlock(&l->mutex), -EPERM);
    must_equal(duet_mutex_lock(&l->mutex, DUET_NOW), -ETIME); /* nothing was done */
    must_equal(duet_mutex_unlock(&l->mutex), -EPERM);
}

/* sync.h: -EPERM: the caller does not hold it (somebody else does, or nobody), and nothing was
 * done. Two coroutines share a thread, and are two all the same. */
thread_test(only_the_holder_unlocks_a_mutex)
{
    scene_open(&s);
    for (int pair = 0; pair < KINDS * KINDS; pair++) {
        struct lending l = {.promise = NULL};
        struct party holder, meddler;
        must_equal(duet_mutex_unlock(&l.mutex), -EPERM);
        party_begin(&holder, &s, (enum kind)(pair / KINDS), hold_until_told, &l, DUET_NEVER);
        await_asleep(&holder);
        party_begin(&meddler, &s, (enum kind)(pair % KINDS), meddle, &l, DUET_NEVER);
        (void)party_end(&meddler);
        must_equal(duet_mutex_unlock(&l.mutex), -EPERM);
        duet_event_set(&l.event);
        (void)party_end(&holder);
        must_equal(duet_mutex_unlock(&l.mutex), -EPERM);
    }
    scene_close(&s);
}

static void lock_and_unlock_twice(struct party *p)
{
    struct lending *l = p->arg;
    const duet_deadline by[] = {DUET_NEVER, SURELY, DUET_NOW, duet_ms(1)};
    must_equal(duet_mutex_lock(&l->mutex, DUET_NEVER), 0);
    for (size_t i = 0; i < sizeof by / sizeof by[0]; i++)
        must_equal(duet_mutex_lock(&l->mutex, by[i]), -EDEADLK);
    must_equal(duet_mutex_unlock(&l->mutex), 0); /* it was not locked any deeper */
    must_equal(duet_mutex_unlock(&l->mutex), -EPERM);
    must_equal(duet_mutex_lock(&l->mutex, DUET_NOW), 0);
    must_equal(duet_mutex_unlock(&l->mutex), 0);
}

/* sync.h: -EDEADLK also: it does so already. */
thread_test(the_holder_can_neither_lock_again_nor_unlock_twice)
{
    scene_open(&s);
    for (enum kind kind = 0; kind < KINDS; kind++) {
        struct lending l = {.promise = NULL};
        struct party p;
        party_begin(&p, &s, kind, lock_and_unlock_twice, &l, DUET_NEVER);
        (void)party_end(&p);
    }
    scene_close(&s);
}

static duet_result meddle_here(void *arg)
{
    meddle(&(struct party){.arg = arg});
    return duet_ok();
}

static duet_result meddle_in_place(void *arg)
{
    struct lending *l = arg;
    struct gate gate = GATE_INIT;
    duet_pool *pool;
    duet_pool_config config = {.workers_max = 1, .queue_max = 1, .when_full = DUET_FULL_RUN_HERE};
    must_equal(duet_pool_open(&pool, &config), 0);
    must_equal(duet_mutex_lock(&l->mutex, DUET_NOW), 0);
    duet_future *busy = duet_pool_submit(pool, gate_pass_job, &gate);
    gate_await_arrivals(&gate, 1);
    duet_future *queued = duet_pool_submit(pool, return_ok, NULL);
    duet_future *here = duet_pool_submit(pool, meddle_here, l);
    must(duet_future_settled(here));
    gate_open(&gate);
    must_equal(finish(here).err, 0);
    must_equal(finish(busy).err, 0);
    must_equal(finish(queued).err, 0);
    must_equal(duet_mutex_unlock(&l->mutex), 0);
    close_pool(pool);
    return duet_ok();
}

/* sync.h: the holder is the coroutine, job or thread that locked it: not the one beneath. */
thread_test(what_runs_on_the_holders_thread_is_not_the_holder)
{
    struct lending l = {.promise = NULL};
    must_equal(duet_mutex_lock(&l.mutex, DUET_NEVER), 0);
    must_equal(duet_run(meddle_here, &l, NULL), 0);
    must_equal(duet_mutex_unlock(&l.mutex), 0);
    (void)meddle_in_place(&l); /* beneath a thread */
    scene_open(&s);
    must_equal(finish(duet_pool_submit(s.pool, meddle_in_place, &l)).err, 0); /* beneath a job */
    scene_close(&s);
}

static void meddle_bare(void *arg)
{
    struct lending *l = arg;
    must_equal(duet_mutex_unlock(&l->mutex), -EPERM);
    must_equal(duet_mutex_lock(&l->mutex, DUET_NEVER), -EDEADLK);
    must_equal(duet_mutex_unlock(&l->mutex), -EPERM);
}

/* Nor is a callback between two steps of the coroutine that holds it. */
thread_test(a_bare_callback_on_the_holders_loop_is_not_the_holder)
{
    struct lending l = {.promise = NULL};
    struct party p;
    scene_open(&s);
    party_begin(&p, &s, ON_LOOP, hold_until_told, &l, DUET_NEVER);
    await_asleep(&p);
    run_bare(s.loop[0], meddle_bare, &l);
    must_equal(duet_mutex_lock(&l.mutex, DUET_NOW), -ETIME);
    duet_event_set(&l.event);
    (void)party_end(&p);
    scene_close(&s);
}

static void hold_though_cancelled(struct party *p)
{
    struct lending *l = p->arg;
    must_equal(duet_mutex_lock(&l->mutex, DUET_NEVER), 0);
    await_cancellation(p);
    arrive(p);
    while (!duet_event_is_set(&l->event))
        sched_yield();
    must_equal(duet_mutex_unlock(&l->mutex), 0);
}

thread_test(a_holder_that_is_cancelled_holds_on_and_unlocks)
{
    scene_open(&s);
    for (enum kind kind = 0; kind < CANCELLABLE; kind++) {
        struct lending l = {.promise = NULL};
        struct party p;
        party_begin(&p, &s, kind, hold_though_cancelled, &l, DUET_NEVER);
        await_arrival(&p);
        duet_future_cancel(p.f);
        await_arrival(&p);
        must_equal(duet_mutex_lock(&l.mutex, DUET_NOW), -ETIME);
        duet_event_set(&l.event);
        (void)party_end(&p);
        must_equal(duet_mutex_lock(&l.mutex, DUET_NOW), 0);
        must_equal(duet_mutex_unlock(&l.mutex), 0);
    }
    scene_close(&s);
}

static void hold_several(struct party *p)
{
    duet_mutex m[5] = {DUET_MUTEX_INIT};
    static const int orders[][5] = {{0, 1, 2, 3, 4}, {4, 3, 2, 1, 0}, {2, 0, 4, 1, 3}};
    (void)p;
    for (int order = 0; order < 3; order++) {
        for (int i = 0; i < 5; i++)
            must_equal(duet_mutex_lock(&m[i], DUET_NEVER), 0);
        for (int i = 0; i < 5; i++) {
            must_equal(duet_mutex_lock(&m[orders[order][i]], DUET_NEVER), -EDEADLK);
            must_equal(duet_mutex_unlock(&m[orders[order][i]]), 0);
            must_equal(duet_mutex_unlock(&m[orders[order][i]]), -EPERM);
        }
    }
}

thread_test(several_mutexes_are_held_at_once_and_unlocked_in_any_order)
{
    scene_open(&s);
    for (enum kind kind = 0; kind < KINDS; kind++) {
        struct party p;
        party_begin(&p, &s, kind, hold_several, NULL, DUET_NEVER);
        (void)party_end(&p);
    }
    scene_close(&s);
}

struct relay {
    duet_mutex mutex;
    int turn, finished;
};

static duet_result run_in_turn(void *arg)
{
    struct relay *r = arg;
    for (int i = 0; i < 100; i++) {
        must_equal(duet_mutex_lock(&r->mutex, DUET_NEVER), 0);
        int turn = ++r->turn;
        must_equal(duet_yield(), 0);
        must_equal(r->turn, turn);
        must_equal(duet_mutex_unlock(&r->mutex), 0);
    }
    r->finished++;
    return duet_ok();
}

/* All on one thread, which nobody else can wake. */
coroutine_test(coroutines_of_one_loop_share_a_mutex)
{
    struct relay r = {.turn = 0};
    duet_future *f[10];
    for (int i = 0; i < 10; i++)
        f[i] = duet_spawn(run_in_turn, &r);
    must_equal(duet_gather(f, 10, DUET_NEVER, NULL), 0);
    for (int i = 0; i < 10; i++)
        duet_future_unref(f[i]);
    must_equal(r.turn, 1000);
    must_equal(r.finished, 10);
    return duet_ok();
}

/* ---- Semaphore ---- */

static unsigned count_permits(duet_sem *sem)
{
    unsigned n = 0;
    int rc;
    while ((rc = duet_sem_wait(sem, DUET_NOW)) == 0)
        n++;
    must_equal(rc, -ETIME);
    return n;
}

thread_test(a_semaphore_begins_with_its_count_and_each_post_adds_one)
{
    duet_sem sem;
    memset(&sem, 0xff, sizeof sem); /* init does not look at what was there */
    for (unsigned count = 0; count < 5; count++) {
        duet_sem_init(&sem, count);
        must_equal(count_permits(&sem), count);
        for (unsigned i = 0; i < 3 * count; i++)
            must_equal(duet_sem_post(&sem), 0);
        must_equal(count_permits(&sem), 3 * count);
    }
    duet_sem_init(&sem, 7);
    duet_sem_init(&sem, 2); /* anew */
    must_equal(count_permits(&sem), 2);
}

/* sync.h: -EOVERFLOW: it has UINT_MAX already. */
thread_test(a_semaphore_holds_uint_max_permits_and_no_more)
{
    duet_sem sem;
    duet_sem_init(&sem, UINT_MAX);
    must_equal(duet_sem_post(&sem), -EOVERFLOW);
    must_equal(duet_sem_post(&sem), -EOVERFLOW);
    must_equal(duet_sem_wait(&sem, DUET_NEVER), 0); /* and so UINT_MAX - 1 are left */
    must_equal(duet_sem_post(&sem), 0);
    must_equal(duet_sem_post(&sem), -EOVERFLOW);
    must_equal(duet_sem_wait(&sem, DUET_NOW), 0);
    must_equal(duet_sem_wait(&sem, DUET_NOW), 0);
    must_equal(duet_sem_post(&sem), 0);
    must_equal(duet_sem_post(&sem), 0);
    must_equal(duet_sem_post(&sem), -EOVERFLOW);
}

struct limit {
    duet_sem sem;
    int rounds;
    atomic_int inside;
    atomic_llong taken, given;
};

enum {
    LIMIT = 3
};

static void stay_within_limit(struct party *p)
{
    struct limit *l = p->arg;
    uint64_t seed = (uint64_t)p->number + 1;
    for (int i = 0; i < l->rounds; i++) {
        uint64_t chance = test_random(&seed) >> 40;
        int rc = duet_sem_wait(&l->sem, chance % 2 ? DUET_NEVER : duet_us((int64_t)(chance % 100)));
        if (rc != 0) {
            must_equal(rc, -ETIME);
            continue;
        }
        must(atomic_fetch_add(&l->inside, 1) < LIMIT);
        if (chance % 8 < 3)
            must_equal(duet_sleep(duet_us(20)), 0);
        else
            pause_party(p);
        atomic_fetch_sub(&l->inside, 1);
        must_equal(duet_sem_post(&l->sem), 0);
    }
}

thread_test(never_more_than_the_permits_are_inside)
{
    struct limit l = {.rounds = test_rounds(1000)};
    duet_sem_init(&l.sem, LIMIT);
    run_crowd(stay_within_limit, &l);
    must_equal(count_permits(&l.sem), LIMIT);
}

/* Half of them give what the other half take; whoever gives need not have taken. */
static void give_or_take(struct party *p)
{
    struct limit *l = p->arg;
    for (int i = 0; i < l->rounds; i++) {
        if (p->number < CROWD / 2) {
            must_equal(duet_sem_post(&l->sem), 0);
            atomic_fetch_add(&l->given, 1);
            continue;
        }
        int rc = duet_sem_wait(&l->sem, i % 2 ? DUET_NEVER : duet_us(i % 50));
        must(rc == 0 || rc == -ETIME);
        if (rc == 0)
            atomic_fetch_add(&l->taken, 1);
    }
}

thread_test(no_permit_is_lost_between_those_who_give_and_those_who_take)
{
    struct limit l = {.rounds = test_rounds(2000)};
    run_crowd(give_or_take, &l);
    must_equal(atomic_load(&l.taken) + count_permits(&l.sem), atomic_load(&l.given));
}

/* ---- Event ---- */

/* sync.h: wakes all who wait now; idempotent; true: what was written before it was set is seen. */
thread_test(an_event_wakes_all_who_wait_and_stays_set)
{
    struct party p[QUEUE], late;
    struct thing t;
    scene_open(&s);
    thing_shut(&t, EVENT);
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < QUEUE; i++)
            party_begin(&p[i], &s, (enum kind)(i % KINDS), wait_for_news, &t, DUET_NEVER);
        for (int i = 0; i < QUEUE; i++)
            await_asleep(&p[i]);
        t.news = 42;
        duet_event_set(&t.event);
        duet_event_set(&t.event);
        for (int i = 0; i < QUEUE; i++)
            must_equal(party_end(&p[i]), 0);
        for (enum kind kind = 0; kind < KINDS; kind++) {
            party_begin(&late, &s, kind, wait_for_news, &t, DUET_NEVER);
            must_equal(party_end(&late), 0);
        }
        must(duet_event_is_set(&t.event));
        duet_event_clear(&t.event); /* from now on it is waited for again */
        duet_event_clear(&t.event);
        t.news = 0;
        must(!duet_event_is_set(&t.event));
        must_equal(duet_event_wait(&t.event, DUET_NOW), -ETIME);
    }
    scene_close(&s);
}

/* sync.h: or was set while the caller waited, even if it has been cleared since. */
thread_test(who_waited_when_an_event_was_set_has_it_though_it_was_cleared_at_once)
{
    struct party p[QUEUE], late;
    struct stop stop[2];
    struct thing t;
    scene_open(&s);
    thing_shut(&t, EVENT);
    for (int i = 0; i < QUEUE; i++) {
        party_begin(&p[i], &s, (enum kind)(i % KINDS), wait_once, &t, DUET_NEVER);
        await_asleep(&p[i]);
    }
    for (int i = 0; i < 2; i++)
        stop_loop(&stop[i], s.loop[i]);
    duet_event_set(&t.event);
    duet_event_clear(&t.event);
    must(!duet_event_is_set(&t.event));
    for (int i = 0; i < 2; i++)
        go_on(&stop[i]);
    for (int i = 0; i < QUEUE; i++)
        must_equal(party_end(&p[i]), 0);
    for (enum kind kind = 0; kind < KINDS; kind++) { /* these did not */
        party_begin(&late, &s, kind, wait_once, &t, duet_ms(5));
        must_equal(party_end(&late), -ETIME);
    }
    scene_close(&s);
}

struct tennis {
    duet_event to[2];
    int ball, rounds;
};

static void play(struct party *p)
{
    struct tennis *game = p->arg;
    for (int i = 0; i < game->rounds; i++) {
        must_equal(duet_event_wait(&game->to[p->number], DUET_NEVER), 0);
        duet_event_clear(&game->to[p->number]);
        must_equal(game->ball, 2 * i + p->number);
        game->ball++;
        duet_event_set(&game->to[!p->number]);
    }
}

/* What was written before the set is seen, both ways; and no set is lost. */
thread_test(two_of_any_kinds_hand_something_to_and_fro_by_events)
{
    scene_open(&s);
    for (int pair = 0; pair < KINDS * KINDS; pair++) {
        struct tennis game = {.rounds = test_rounds(300)};
        struct party p[2];
        for (int i = 0; i < 2; i++) {
            p[i] = (struct party){.scene = &s, .body = play, .arg = &game, .number = i};
            p[i].kind = (enum kind)(i ? pair / KINDS : pair % KINDS);
            party_start(&p[i]);
        }
        duet_event_set(&game.to[0]);
        for (int i = 0; i < 2; i++)
            (void)party_end(&p[i]);
        must_equal(game.ball, 2 * game.rounds);
    }
    scene_close(&s);
}

static void look_for_news(struct party *p)
{
    struct thing *t = p->arg;
    arrive(p);
    while (!duet_event_is_set(&t->event))
        pause_party(p);
    must_equal(t->news, 42);
}

thread_test(who_sees_that_an_event_is_set_sees_what_was_written_before)
{
    scene_open(&s);
    for (enum kind kind = 0; kind < KINDS; kind++) {
        struct thing t;
        struct party p;
        thing_shut(&t, EVENT);
        party_begin(&p, &s, kind, look_for_news, &t, DUET_NEVER);
        await_arrival(&p);
        t.news = 42;
        duet_event_set(&t.event);
        (void)party_end(&p);
    }
    scene_close(&s);
}

#ifndef TEST_SANITIZED /* their threads do not survive such a fork */

struct shared {
    duet_mutex mutex;
    duet_sem sem;
    duet_event event;
};

static void use_anew(struct shared *x)
{
    memset((void *)x, 0, sizeof *x);
    must_equal(duet_mutex_lock(&x->mutex, DUET_NEVER), 0);
    must_equal(duet_mutex_unlock(&x->mutex), 0);
    duet_sem_init(&x->sem, 1);
    must_equal(duet_sem_wait(&x->sem, DUET_NEVER), 0);
    must_equal(duet_sem_wait(&x->sem, duet_ms(1)), -ETIME);
    must_equal(duet_event_wait(&x->event, duet_ms(1)), -ETIME);
    duet_event_set(&x->event);
    must_equal(duet_event_wait(&x->event, DUET_NEVER), 0);
}

/* sync.h: in the child of a fork(), set up anew what others may have used. */
thread_test(in_a_child_what_is_set_up_anew_is_of_use)
{
    struct lending l = {.promise = NULL};
    struct party p;
    int status;
    scene_open(&s);
    party_begin(&p, &s, IN_THREAD, hold_until_told, &l, DUET_NEVER);
    await_asleep(&p);
    pid_t child = fork();
    must(child >= 0);
    if (child == 0) {
        struct shared *x = malloc(sizeof *x);
        alarm(60);
        must(x != NULL);
        use_anew(x);
        memset((void *)&l, 0, sizeof l); /* and this one was held, and waited for */
        must_equal(duet_mutex_lock(&l.mutex, DUET_NEVER), 0);
        must_equal(duet_mutex_unlock(&l.mutex), 0);
        must_equal(duet_event_wait(&l.event, duet_ms(1)), -ETIME);
        duet_event_set(&l.event);
        must_equal(duet_event_wait(&l.event, DUET_NEVER), 0);
        _exit(0);
    }
    must(waitpid(child, &status, 0) == child);
    must_equal(status, 0);
    must(!duet_future_settled(p.f));
    duet_event_set(&l.event);
    (void)party_end(&p);
    scene_close(&s);
}

#endif

thread_test(who_holds_a_mutex_may_close_a_loop_that_never_ran)
{
    duet_mutex mutex = DUET_MUTEX_INIT;
    duet_loop *loop;
    must_equal(duet_mutex_lock(&mutex, DUET_NEVER), 0);
    must_equal(duet_loop_open(&loop, NULL), 0);
    must_equal(duet_loop_close(loop, SURELY), 0);
    must_equal(duet_mutex_unlock(&mutex), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_zeroed_is_ready),
        cmocka_unit_test(a_mutex_has_one_holder_however_many_of_all_kinds_want_it),
        cmocka_unit_test(a_mutex_is_held_across_all_waits),
        cmocka_unit_test(only_the_holder_unlocks_a_mutex),
        cmocka_unit_test(the_holder_can_neither_lock_again_nor_unlock_twice),
        cmocka_unit_test(what_runs_on_the_holders_thread_is_not_the_holder),
        cmocka_unit_test(a_bare_callback_on_the_holders_loop_is_not_the_holder),
        cmocka_unit_test(a_holder_that_is_cancelled_holds_on_and_unlocks),
        cmocka_unit_test(several_mutexes_are_held_at_once_and_unlocked_in_any_order),
        cmocka_unit_test(coroutines_of_one_loop_share_a_mutex),
        cmocka_unit_test(a_semaphore_begins_with_its_count_and_each_post_adds_one),
        cmocka_unit_test(a_semaphore_holds_uint_max_permits_and_no_more),
        cmocka_unit_test(never_more_than_the_permits_are_inside),
        cmocka_unit_test(no_permit_is_lost_between_those_who_give_and_those_who_take),
        cmocka_unit_test(an_event_wakes_all_who_wait_and_stays_set),
        cmocka_unit_test(who_waited_when_an_event_was_set_has_it_though_it_was_cleared_at_once),
        cmocka_unit_test(two_of_any_kinds_hand_something_to_and_fro_by_events),
        cmocka_unit_test(who_sees_that_an_event_is_set_sees_what_was_written_before),
        cmocka_unit_test(who_holds_a_mutex_may_close_a_loop_that_never_ran),
#ifndef TEST_SANITIZED
        cmocka_unit_test(in_a_child_what_is_set_up_anew_is_of_use),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
