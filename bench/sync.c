/* The primitives of duet/sync.h measured, beside what pthreads have for the same, in the same run: one line
 * a workload, medians of several rounds.
 *
 *   bench-sync [NAME…]   runs the workloads whose names begin so; all by default */
#include "measure.h"

#include <duet/duet.h>

#include <pthread.h>
#include <semaphore.h>
#include <stdbool.h>
#include <string.h>

enum {
    ROUNDS = 9,
    PAIRS = 1000000,
    ITEMS = 200000,
    CAPACITY = 100,
};

/* ---- Uncontended: take it and give it back ---- */

static double duet_mutex_round(void *m)
{
    int64_t start = measure_now_ns();
    for (int i = 0; i < PAIRS; i++) {
        need(duet_mutex_lock(m, DUET_NEVER) == 0, "duet_mutex_lock");
        duet_mutex_unlock(m);
    }
    return (double)(measure_now_ns() - start) / PAIRS;
}

static double pthread_mutex_round(void *m)
{
    int64_t start = measure_now_ns();
    for (int i = 0; i < PAIRS; i++) {
        need(pthread_mutex_lock(m) == 0, "pthread_mutex_lock");
        pthread_mutex_unlock(m);
    }
    return (double)(measure_now_ns() - start) / PAIRS;
}

static double duet_sem_round(void *s)
{
    int64_t start = measure_now_ns();
    for (int i = 0; i < PAIRS; i++) {
        need(duet_sem_wait(s, DUET_NEVER) == 0, "duet_sem_wait");
        duet_sem_post(s);
    }
    return (double)(measure_now_ns() - start) / PAIRS;
}

static double sem_round(void *s)
{
    int64_t start = measure_now_ns();
    for (int i = 0; i < PAIRS; i++) {
        need(sem_wait(s) == 0, "sem_wait");
        sem_post(s);
    }
    return (double)(measure_now_ns() - start) / PAIRS;
}

static double event_round(void *e)
{
    int64_t start = measure_now_ns();
    for (int i = 0; i < PAIRS; i++)
        need(duet_event_wait(e, DUET_NEVER) == 0, "duet_event_wait");
    return (double)(measure_now_ns() - start) / PAIRS;
}

static double chan_round(void *c)
{
    int64_t start = measure_now_ns();
    for (int i = 0; i < PAIRS; i++) {
        int item = i;
        need(duet_chan_send(c, &item, DUET_NEVER) == 0, "duet_chan_send");
        need(duet_chan_recv(c, &item, DUET_NEVER) == 0, "duet_chan_recv");
    }
    return (double)(measure_now_ns() - start) / PAIRS;
}

static double select_round(void *c)
{
    int64_t start = measure_now_ns();
    for (int i = 0; i < PAIRS; i++) {
        int item = i, got;
        duet_case cases[] = {duet_case_send(c, &item), duet_case_recv(c, &got)};
        need(duet_select(cases, 2, DUET_NEVER) >= 0, "duet_select");
    }
    return (double)(measure_now_ns() - start) / PAIRS;
}

static void bench_uncontended(void)
{
    duet_mutex mutex = DUET_MUTEX_INIT;
    duet_sem semaphore;
    duet_event event = DUET_EVENT_INIT;
    duet_chan *c;
    pthread_mutex_t pthread_mutex = PTHREAD_MUTEX_INITIALIZER;
    sem_t sem;
    duet_sem_init(&semaphore, 1);
    sem_init(&sem, 0, 1);
    duet_event_set(&event);
    need(duet_chan_open(&c, sizeof(int), CAPACITY) == 0, "duet_chan_open");
    report("uncontended: mutex, lock and unlock", "ns", ROUNDS, duet_mutex_round, &mutex);
    report("uncontended: … pthread_mutex_t", "ns", ROUNDS, pthread_mutex_round, &pthread_mutex);
    report("uncontended: semaphore, wait and post", "ns", ROUNDS, duet_sem_round, &semaphore);
    report("uncontended: … sem_t", "ns", ROUNDS, sem_round, &sem);
    report("uncontended: wait for an event that is set", "ns", ROUNDS, event_round, &event);
    report("uncontended: channel, send and receive", "ns", ROUNDS, chan_round, c);
    report("uncontended: select of two, one operation", "ns", ROUNDS, select_round, c);
    duet_chan_unref(c);
    sem_destroy(&sem);
}

/* ---- One producer, one consumer, through a channel ---- */

struct pair {
    duet_chan *c;
    void *last; /* who ran last, of those on the loop */
    uint64_t switches;
};

static void note(struct pair *pair, void *who)
{
    pair->switches += pair->last != who;
    pair->last = who;
}

static duet_result produce(void *arg)
{
    struct pair *pair = arg;
    for (int i = 0; i < ITEMS; i++) {
        need(duet_chan_send(pair->c, &i, DUET_NEVER) == 0, "duet_chan_send");
        note(pair, pair);
    }
    duet_chan_shut(pair->c);
    return duet_ok();
}

static duet_result consume(void *arg)
{
    struct pair *pair = arg;
    int item, count = 0;
    while (duet_chan_recv(pair->c, &item, DUET_NEVER) == 0) {
        need(item == count++, "the order of the items");
        note(pair, &pair->last);
    }
    need(count == ITEMS, "the number of the items");
    return duet_ok();
}

/* As above, without looking who runs: they run on two threads. */
static duet_result produce_beside(void *arg)
{
    struct pair *pair = arg;
    for (int i = 0; i < ITEMS; i++)
        need(duet_chan_send(pair->c, &i, DUET_NEVER) == 0, "duet_chan_send");
    duet_chan_shut(pair->c);
    return duet_ok();
}

static duet_result consume_beside(void *arg)
{
    struct pair *pair = arg;
    int item, count = 0;
    while (duet_chan_recv(pair->c, &item, DUET_NEVER) == 0)
        need(item == count++, "the order of the items");
    need(count == ITEMS, "the number of the items");
    return duet_ok();
}

static void finish(duet_future *f)
{
    duet_result result;
    need(duet_future_wait(f, DUET_NEVER, &result) == 0 && result.err == 0, "a half of the pair");
    duet_future_unref(f);
}

struct chan_bench {
    size_t capacity;
    bool beside; /* the producer is a job */
    double switches; /* per 100 items, of the last round */
    int64_t ns;
};

static duet_result pair_main(void *arg)
{
    struct chan_bench *bench = arg;
    struct pair pair = {0};
    need(duet_chan_open(&pair.c, sizeof(int), bench->capacity) == 0, "duet_chan_open");
    int64_t start = measure_now_ns();
    duet_future *consumer = duet_spawn(bench->beside ? consume_beside : consume, &pair);
    duet_future *producer = bench->beside
                                ? duet_pool_submit(duet_pool_default(), produce_beside, &pair)
                                : duet_spawn(produce, &pair);
    finish(producer);
    finish(consumer);
    bench->ns = measure_now_ns() - start;
    bench->switches = (double)pair.switches * 100 / ITEMS;
    duet_chan_unref(pair.c);
    return duet_ok();
}

static double pair_round(void *arg)
{
    struct chan_bench *bench = arg;
    need(duet_run(pair_main, bench, NULL) == 0, "duet_run");
    return (double)bench->ns / ITEMS;
}

static void bench_channel(void)
{
    struct chan_bench full = {.capacity = CAPACITY}, one = {.capacity = 1}, none = {.capacity = 0};
    report("channel: an item through a channel of 100", "ns", ROUNDS, pair_round, &full);
    printf("%-44s %10.3f switches per 100 items\n", "channel: … of the last round", full.switches);
    report("channel: an item through a channel of 1", "ns", ROUNDS, pair_round, &one);
    report("channel: an item through a rendezvous", "ns", ROUNDS, pair_round, &none);
}

/* ---- Across threads, beside a ring under a pthread mutex with two conditions ---- */

static struct ring {
    pthread_mutex_t mutex;
    pthread_cond_t has_room, has_item;
    int items[CAPACITY];
    int first, count;
} ring = {.mutex = PTHREAD_MUTEX_INITIALIZER,
          .has_room = PTHREAD_COND_INITIALIZER,
          .has_item = PTHREAD_COND_INITIALIZER};

static void *ring_produce(void *arg)
{
    for (int i = 0; i < ITEMS; i++) {
        pthread_mutex_lock(&ring.mutex);
        while (ring.count == CAPACITY)
            pthread_cond_wait(&ring.has_room, &ring.mutex);
        ring.items[(ring.first + ring.count++) % CAPACITY] = i;
        pthread_cond_signal(&ring.has_item);
        pthread_mutex_unlock(&ring.mutex);
    }
    return arg;
}

static void ring_consume(void)
{
    for (int i = 0; i < ITEMS; i++) {
        pthread_mutex_lock(&ring.mutex);
        while (ring.count == 0)
            pthread_cond_wait(&ring.has_item, &ring.mutex);
        need(ring.items[ring.first] == i, "the order of the ring's items");
        ring.first = (ring.first + 1) % CAPACITY;
        ring.count--;
        pthread_cond_signal(&ring.has_room);
        pthread_mutex_unlock(&ring.mutex);
    }
}

static double ring_round(void *arg)
{
    pthread_t thread;
    int64_t start = measure_now_ns();
    need(pthread_create(&thread, NULL, ring_produce, arg) == 0, "pthread_create");
    ring_consume();
    pthread_join(thread, NULL);
    return (double)(measure_now_ns() - start) / ITEMS;
}

static void *thread_produce(void *pair)
{
    produce_beside(pair);
    return NULL;
}

static double threads_round(void *arg)
{
    struct pair *pair = arg;
    pthread_t thread;
    need(duet_chan_open(&pair->c, sizeof(int), CAPACITY) == 0, "duet_chan_open");
    int64_t start = measure_now_ns();
    need(pthread_create(&thread, NULL, thread_produce, pair) == 0, "pthread_create");
    consume_beside(pair);
    pthread_join(thread, NULL);
    double ns = (double)(measure_now_ns() - start) / ITEMS;
    duet_chan_unref(pair->c);
    return ns;
}

static void bench_across(void)
{
    struct pair pair = {0};
    struct chan_bench beside = {.capacity = CAPACITY, .beside = true};
    report("across: an item from thread to thread", "ns", ROUNDS, threads_round, &pair);
    report("across: … through a pthread ring", "ns", ROUNDS, ring_round, NULL);
    report("across: an item from job to coroutine", "ns", ROUNDS, pair_round, &beside);
}

/* ---- Contended: two threads, one mutex, a few instructions under it ---- */

enum {
    CONTENDED = 200000
};

struct contended {
    duet_mutex mutex;
    pthread_mutex_t pthread_mutex;
    bool with_pthread;
    volatile uint64_t counter;
};

static void *contend(void *arg)
{
    struct contended *c = arg;
    for (int i = 0; i < CONTENDED; i++) {
        if (c->with_pthread)
            pthread_mutex_lock(&c->pthread_mutex);
        else
            need(duet_mutex_lock(&c->mutex, DUET_NEVER) == 0, "duet_mutex_lock");
        c->counter++;
        if (c->with_pthread)
            pthread_mutex_unlock(&c->pthread_mutex);
        else
            duet_mutex_unlock(&c->mutex);
    }
    return NULL;
}

static double contended_round(void *arg)
{
    struct contended *c = arg;
    pthread_t thread;
    c->counter = 0;
    int64_t start = measure_now_ns();
    need(pthread_create(&thread, NULL, contend, c) == 0, "pthread_create");
    contend(c);
    pthread_join(thread, NULL);
    need(c->counter == 2 * CONTENDED, "mutual exclusion");
    return (double)(measure_now_ns() - start) / (2 * CONTENDED);
}

static void bench_contended(void)
{
    struct contended duet = {.pthread_mutex = PTHREAD_MUTEX_INITIALIZER}, pthread = duet;
    pthread.with_pthread = true;
    report("contended: mutex, two threads", "ns", ROUNDS, contended_round, &duet);
    report("contended: … pthread_mutex_t", "ns", ROUNDS, contended_round, &pthread);
}

/* ---- Which ---- */

static const struct {
    const char *name;
    void (*run)(void);
} workloads[] = {
    {"uncontended", bench_uncontended},
    {"channel", bench_channel},
    {"across", bench_across},
    {"contended", bench_contended},
};

static bool wanted(const char *name, int argc, char **argv)
{
    for (int i = 1; i < argc; i++)
        if (strncmp(name, argv[i], strlen(argv[i])) == 0)
            return true;
    return argc <= 1;
}

int main(int argc, char **argv)
{
    int ran = 0;
    for (size_t i = 0; i < sizeof workloads / sizeof workloads[0]; i++)
        if (wanted(workloads[i].name, argc, argv)) {
            workloads[i].run();
            ran++;
        }
    if (ran == 0)
        fprintf(stderr,
                "bench-sync: no such workload; there are: uncontended channel across contended\n");
    return ran == 0;
}
