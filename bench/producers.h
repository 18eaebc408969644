/* Threads that submit, as many as asked for, beginning together. */
#pragma once
#include "bench.h"

#include <pthread.h>

enum {
    PRODUCERS_MOST = 64
};

/* Submits so many, as the producer of that number. */
typedef void producers_fn(int producer, long count);

struct producer {
    pthread_t thread;
    pthread_barrier_t *gate;
    producers_fn *produce;
    int number;
    long count;
    int64_t start_ns;
};

static inline void *producer_thread(void *arg)
{
    struct producer *producer = arg;
    pthread_barrier_wait(producer->gate);
    producer->start_ns = bench_now_ns();
    producer->produce(producer->number, producer->count);
    return NULL;
}

/* Shares the work among them, returns when all have submitted theirs: when the first began. */
static inline int64_t producers_run(int producers, long work, producers_fn *produce)
{
    static struct producer all[PRODUCERS_MOST];
    pthread_barrier_t gate;
    int64_t first_ns = INT64_MAX;
    need(producers > 0 && producers <= PRODUCERS_MOST && work >= 0, "1 to 64 producers");
    pthread_barrier_init(&gate, NULL, (unsigned)producers);
    for (int i = 0; i < producers; i++) {
        long count = work * (i + 1) / producers - work * i / producers;
        all[i] = (struct producer){.gate = &gate, .produce = produce, .number = i, .count = count};
        need(pthread_create(&all[i].thread, NULL, producer_thread, &all[i]) == 0, "pthread_create");
    }
    for (int i = 0; i < producers; i++) {
        pthread_join(all[i].thread, NULL);
        if (all[i].start_ns < first_ns)
            first_ns = all[i].start_ns;
    }
    pthread_barrier_destroy(&gate);
    return first_ns;
}
