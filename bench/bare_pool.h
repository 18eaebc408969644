/* A bare pool: jobs in a list under a mutex, which a worker takes in batches. */
#pragma once
#include "bench.h"

#include <pthread.h>

enum {
    BARE_WORKERS_MOST = 64,
    BARE_BATCH = 64,
};

struct bare_job {
    struct bare_job *next;
    void (*fn)(struct bare_job *job);
};

struct bare_pool {
    pthread_mutex_t mutex;
    pthread_cond_t has_jobs;
    struct bare_job *first, **end;
    long count;
    int workers, idle;
    bool closes;
    /* Runs when a worker has run a batch, which is the caller's again; NULL: nothing does. */
    void (*batch_ran)(struct bare_job *first, struct bare_job *last);
    pthread_t threads[BARE_WORKERS_MOST];
};

/* A chain of so many. */
static inline void bare_pool_submit(struct bare_pool *pool, struct bare_job *first,
                                    struct bare_job *last, long count)
{
    last->next = NULL;
    pthread_mutex_lock(&pool->mutex);
    *pool->end = first;
    pool->end = &last->next;
    pool->count += count;
    bool wake = pool->idle > 0;
    pthread_mutex_unlock(&pool->mutex);
    if (wake)
        pthread_cond_signal(&pool->has_jobs);
}

/* A share of what there is; NULL: the pool closes. */
static inline struct bare_job *bare_pool_take(struct bare_pool *pool, struct bare_job **ret_last)
{
    pthread_mutex_lock(&pool->mutex);
    while (!pool->first && !pool->closes) {
        pool->idle++;
        pthread_cond_wait(&pool->has_jobs, &pool->mutex);
        pool->idle--;
    }
    struct bare_job *first = pool->first, *last = first;
    long share = pool->count / pool->workers, taken = first != NULL;
    for (; last && last->next && taken < share && taken < BARE_BATCH; taken++)
        last = last->next;
    pool->count -= taken;
    pool->first = last ? last->next : NULL;
    if (!pool->first)
        pool->end = &pool->first;
    bool wake = pool->first && pool->idle > 0;
    pthread_mutex_unlock(&pool->mutex);
    if (wake)
        pthread_cond_signal(&pool->has_jobs);
    if (last)
        last->next = NULL;
    *ret_last = last;
    return first;
}

static inline void *bare_pool_work(void *arg)
{
    struct bare_pool *pool = arg;
    struct bare_job *first, *last;
    while ((first = bare_pool_take(pool, &last))) {
        for (struct bare_job *job = first, *next; job; job = next) {
            next = job->next;
            job->fn(job);
        }
        if (pool->batch_ran)
            pool->batch_ran(first, last);
    }
    return NULL;
}

static inline void bare_pool_open(struct bare_pool *pool, int workers)
{
    need(workers > 0 && workers <= BARE_WORKERS_MOST, "1 to 64 workers");
    pthread_mutex_init(&pool->mutex, NULL);
    pthread_cond_init(&pool->has_jobs, NULL);
    pool->end = &pool->first;
    pool->workers = workers;
    for (int i = 0; i < workers; i++)
        need(pthread_create(&pool->threads[i], NULL, bare_pool_work, pool) == 0, "pthread_create");
}

static inline void bare_pool_close(struct bare_pool *pool)
{
    pthread_mutex_lock(&pool->mutex);
    pool->closes = true;
    pthread_mutex_unlock(&pool->mutex);
    pthread_cond_broadcast(&pool->has_jobs);
    for (int i = 0; i < pool->workers; i++)
        pthread_join(pool->threads[i], NULL);
}
