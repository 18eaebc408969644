/* What the tests of <duet/sync.h> share: coroutines, jobs and plain threads that wait for the same
 * things, and these things under one hat. */
#pragma once
#include "duet_test.h"
#include "shared.h"

#include <duet/sync.h>
#include <limits.h>
#include <time.h>

#if defined(__SANITIZE_THREAD__)
#define TEST_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define TEST_TSAN 1
#endif
#endif

#define shared_fn __attribute__((unused)) static

/* A thread of the test sleeps outside of duet. */
shared_fn void nap(int ms)
{
    struct timespec rest = {.tv_nsec = ms * 1000000L};
    while (nanosleep(&rest, &rest) < 0)
        ;
}

/* ---- Parties ---- */

enum kind {
    ON_LOOP,
    ON_OTHER_LOOP,
    IN_POOL,
    IN_THREAD,
    KINDS,
    CANCELLABLE = IN_THREAD /* kinds below this one */
};

struct scene {
    duet_loop *loop[2];
    duet_pool *pool;
};

shared_fn void scene_open(struct scene *s)
{
    *s = (struct scene){{start_loop(), start_loop()}, open_pool(8)};
}

shared_fn void scene_close(struct scene *s)
{
    close_loop(s->loop[0]);
    close_loop(s->loop[1]);
    close_pool(s->pool);
}

/* A coroutine, job or thread. */
struct party {
    const struct scene *scene;
    enum kind kind;
    char name[16];
    void (*body)(struct party *p);
    void *arg; /* what the body is about */
    duet_deadline by; /* of the body's wait */
    int rc; /* what the body was told */
    int number; /* when it was its turn */
    struct gate arrived; /* for each time that the body was about to wait */
    int awaited;
    duet_future *f; /* its end */
    struct thread thread;
};

/* By the body: what comes next is a wait. */
shared_fn void arrive(struct party *p)
{
    pthread_mutex_lock(&p->arrived.mutex);
    p->arrived.arrived++;
    pthread_cond_signal(&p->arrived.cond);
    pthread_mutex_unlock(&p->arrived.mutex);
}

static duet_result party_run(void *arg)
{
    struct party *p = arg;
    atomic_store(&p->thread.tid, gettid());
    p->body(p);
    return duet_ok();
}

static void party_run_thread(void *arg)
{
    struct party *p = arg;
    must_equal(pthread_setname_np(pthread_self(), p->name), 0);
    p->body(p);
}

shared_fn void party_start(struct party *p)
{
    const duet_opts opts = {.name = p->name};
    if (p->name[0] == '\0')
        snprintf(p->name, sizeof p->name, "%s", "party");
    p->arrived = (struct gate)GATE_INIT;
    atomic_init(&p->thread.tid, 0);
    p->awaited = 0;
    switch (p->kind) {
    case ON_LOOP:
    case ON_OTHER_LOOP:
        p->f = duet_submit_with(p->scene->loop[p->kind == ON_OTHER_LOOP], party_run, p, &opts);
        break;
    case IN_POOL:
        p->f = duet_pool_submit_with(p->scene->pool, party_run, p, &opts);
        break;
    default:
        thread_start(&p->thread, party_run_thread, p);
        p->f = p->thread.ended;
    }
}

/* In place of party_start() where the party needs nothing but a body and its argument. */
shared_fn void party_begin(struct party *p, const struct scene *s, enum kind kind,
                           void (*body)(struct party *p), void *arg, duet_deadline by)
{
    *p = (struct party){.scene = s, .kind = kind, .body = body, .arg = arg, .by = by, .rc = 1};
    party_start(p);
}

/* Until its end, without a wait of duet's: who holds a mutex that the party waits for must not wait
 * for the party. */
shared_fn void watch_end(struct party *p)
{
    for (duet_deadline by = SURELY; !duet_future_settled(p->f); nap(1))
        must(duet_now_ns() < by.ns);
}

/* Waits for its end, and says what its body was told. */
shared_fn int party_end(struct party *p)
{
    if (p->kind == IN_THREAD)
        thread_join(&p->thread);
    else
        must_equal(finish(p->f).err, 0);
    return p->rc;
}

/* Until the party's thread sleeps in the kernel, or has ended. */
static void await_blocked(const struct party *p)
{
    for (int seen = 0; seen < 5 && !duet_future_settled(p->f); sched_yield()) {
        char path[64], text[512], *state;
        snprintf(path, sizeof path, "/proc/self/task/%d/stat", atomic_load(&p->thread.tid));
        FILE *file = fopen(path, "r");
        if (file == NULL)
            continue;
        text[fread(text, 1, sizeof text - 1, file)] = '\0';
        fclose(file);
        state = strrchr(text, ')');
        seen = state && state[2] == 'S' ? seen + 1 : 0;
    }
}

/* Until it has been about to wait once more. */
shared_fn void await_arrival(struct party *p)
{
    gate_await_arrivals(&p->arrived, ++p->awaited);
}

/* Until the party sleeps in the wait that it was about to begin (or its wait has ended already).
 * By the thread of the test alone. */
shared_fn void await_asleep(struct party *p)
{
    await_arrival(p);
    if (p->kind < IN_POOL) { /* it does not leave its loop before it sleeps */
        duet_loop *loop = p->scene->loop[p->kind == ON_OTHER_LOOP];
        must_equal(duet_call(loop, return_ok, NULL, SURELY, NULL), 0);
        return;
    }
    await_blocked(p);
    nap(1); /* it might have been at a lock on its way */
    await_blocked(p);
}

/* A while later it sleeps still. */
shared_fn void must_sleep_on(struct party *p)
{
    nap(10);
    must(!duet_future_settled(p->f));
}

/* Inside a party: let the others do something. */
shared_fn void pause_party(struct party *p)
{
    if (p->kind < IN_POOL)
        must_equal(duet_yield(), 0);
    else
        sched_yield();
}

/* Until this party is cancelled, by somebody who awaited its arrival. */
shared_fn void await_cancellation(struct party *p)
{
    arrive(p);
    must_equal(duet_sleep(SURELY), -ECANCELED);
}

enum {
    QUEUE = 3 * KINDS, /* as many as wait for one thing */
    CROWD = 2 * KINDS /* as many as run at once */
};

/* Parties of all kinds, which have a number each, run at once, until they end. */
shared_fn void run_crowd(void (*body)(struct party *p), void *arg)
{
    struct scene s;
    struct party p[CROWD];
    scene_open(&s);
    for (int i = 0; i < CROWD; i++) {
        p[i] = (struct party){.scene = &s, .kind = (enum kind)(i % KINDS), .body = body};
        p[i].arg = arg;
        p[i].number = i;
        party_start(&p[i]);
    }
    for (int i = 0; i < CROWD; i++)
        (void)party_end(&p[i]);
    scene_close(&s);
}

/* Keeps a loop from turning. */
struct stop {
    struct gate gate;
    duet_future *f;
};

shared_fn void stop_loop(struct stop *stop, duet_loop *loop)
{
    stop->gate = (struct gate)GATE_INIT;
    stop->f = duet_submit(loop, gate_pass_job, &stop->gate);
    gate_await_arrivals(&stop->gate, 1);
}

shared_fn void go_on(struct stop *stop)
{
    gate_open(&stop->gate);
    must_equal(finish(stop->f).err, 0);
}

/* Runs fn(arg) as a bare callback of the loop, and waits until it has. */
shared_fn void run_bare(duet_loop *loop, duet_callback *fn, void *arg)
{
    must_equal(finish(duet_call_at(loop, DUET_NOW, fn, arg)).err, 0);
}

/* ---- Things ---- */

enum what {
    MUTEX,
    SEM,
    COND,
    EVENT,
    BARRIER,
    THINGS,
    ONE_AT_A_TIME = EVENT /* things below this one are given to one party at a time */
};

struct thing {
    enum what what;
    duet_mutex mutex; /* the thing itself, or the one of the condition */
    duet_cond cond;
    duet_sem sem;
    duet_event event;
    duet_barrier barrier;
    int news; /* what is to be seen after the wait */
    atomic_int turn;
};

/* A wait for it sleeps, until the same thread calls thing_give(). */
shared_fn void thing_shut(struct thing *t, enum what what)
{
    *t = (struct thing){.what = what};
    if (what == MUTEX)
        must_equal(duet_mutex_lock(&t->mutex, DUET_NOW), 0);
    if (what == BARRIER)
        must_equal(duet_barrier_init(&t->barrier, 2), 0);
}

/* What one wait needs. */
shared_fn void thing_give(struct thing *t)
{
    switch (t->what) {
    case MUTEX:
        must_equal(duet_mutex_unlock(&t->mutex), 0);
        break;
    case SEM:
        must_equal(duet_sem_post(&t->sem), 0);
        break;
    case COND:
        duet_cond_signal(&t->cond);
        break;
    case EVENT:
        duet_event_set(&t->event);
        break;
    default:
        must_equal(duet_barrier_wait(&t->barrier, SURELY), 1);
    }
}

/* Around a wait, which gives rc. After it, the mutex is held where it must be, and no more. */
shared_fn void thing_enter(struct thing *t)
{
    if (t->what == COND)
        must_equal(duet_mutex_lock(&t->mutex, SURELY), 0);
}

shared_fn int thing_wait(struct thing *t, duet_deadline by)
{
    switch (t->what) {
    case MUTEX:
        return duet_mutex_lock(&t->mutex, by);
    case SEM:
        return duet_sem_wait(&t->sem, by);
    case COND:
        return duet_cond_wait(&t->cond, &t->mutex, by);
    case EVENT:
        return duet_event_wait(&t->event, by);
    default:
        return duet_barrier_wait(&t->barrier, by);
    }
}

shared_fn void thing_leave(struct thing *t, int rc)
{
    if (t->what == COND || (t->what == MUTEX && rc == 0))
        must_equal(duet_mutex_unlock(&t->mutex), 0);
}

/* The body of most parties: one wait for the thing. */
shared_fn void wait_once(struct party *p)
{
    struct thing *t = p->arg;
    thing_enter(t);
    arrive(p);
    p->rc = thing_wait(t, p->by);
    p->number = atomic_fetch_add(&t->turn, 1);
    thing_leave(t, p->rc);
}

/* A wait after which what was written before is seen. */
shared_fn void wait_for_news(struct party *p)
{
    wait_once(p);
    must_equal(((struct thing *)p->arg)->news, 42);
}

/* Nobody holds it any more, nothing is left over, and nobody waits. */
shared_fn void thing_must_be_at_rest(struct thing *t)
{
    if (t->what == MUTEX || t->what == COND) {
        must_equal(duet_mutex_lock(&t->mutex, DUET_NOW), 0);
        must_equal(duet_mutex_unlock(&t->mutex), 0);
    }
    if (t->what == SEM)
        must_equal(duet_sem_wait(&t->sem, DUET_NOW), -ETIME);
}
