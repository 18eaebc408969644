/* Threads that run jobs, one after the other. */
#include "pool_impl.h"
#include "thread.h"

#include <stdio.h>
#include <string.h>

/* ---- One job ---- */

void duet__job_run(struct duet__job *job)
{
    duet_pool *pool = job->pool;
    struct duet__parker *before = duet__here_set(&job->work.parker);
    job->work.parker.outer = before; /* whoever called us stands still until we have run */
    duet_result result = duet__work_run(&job->work);
    duet__here_set(before); /* the job may be gone when it has settled */
    duet__lock(&pool->lock);
    duet__list_remove(&job->link);
    pool->stats.completed++;
    pool->stats.busy--;
    duet__unlock(&pool->lock);
    duet__work_end(&job->work, result);
    duet__lock(&pool->lock);
    duet__pool_job_ended(pool); /* last: who closes the pool may free it once we unlock */
    duet__unlock(&pool->lock);
}

/* ---- A worker ---- */

/* Under the lock: the oldest job that nobody cancels at this moment, now ours; NULL. */
static struct duet__job *next_job(duet_pool *pool)
{
    duet__list_for_each(link, &pool->queue)
    {
        struct duet__job *job = duet__container(link, struct duet__job, link);
        if (!duet__park_claim(&job->work.parker))
            continue; /* its canceller waits for the lock, to remove it */
        job->started = true;
        duet__list_remove(&job->link);
        duet__list_append(&pool->running, &job->link);
        pool->stats.queued--;
        pool->stats.busy++;
        return job;
    }
    return NULL;
}

/* Under the lock: stands idle until a submitter or the closer claims us; the lock is held again. */
static void stand_idle(duet_pool *pool)
{
    struct duet__waiter waiter;
    duet__waiter_init(&waiter, duet__here());
    duet__list_append(&pool->idle, &waiter.link);
    duet__unlock(&pool->lock);
    duet__wait_claimed(&waiter, &pool->lock, DUET_NEVER, true);
    duet__lock(&pool->lock);
}

void *duet__worker_main(void *arg)
{
    struct duet__worker *worker = arg;
    duet_pool *pool = worker->pool;
    duet__lock(&pool->lock);
    for (;;) {
        struct duet__job *job = next_job(pool);
        if (job) {
            struct duet__waiter *submitter = duet__pool_promise_place(pool);
            duet__unlock(&pool->lock);
            duet__waiter_tell(submitter);
            duet__job_run(job);
            duet__lock(&pool->lock);
        } else if (pool->leaving) {
            break;
        } else {
            stand_idle(pool);
        }
    }
    duet__unlock(&pool->lock);
    return NULL;
}

/* ---- Starting ---- */

int duet__worker_start(duet_pool *pool, unsigned i)
{
    /* "duet-w/NAME-i" in the 15 characters the kernel keeps: the number survives a long name. */
    char number[12], name[16];
    snprintf(name, sizeof name, "duet-w/%.8s", pool->config.name);
    size_t digits = (size_t)snprintf(number, sizeof number, "-%u", i), end = strlen(name);
    if (end + digits > sizeof name - 1)
        end = sizeof name - 1 - digits;
    memcpy(name + end, number, digits + 1);
    pool->workers[i].pool = pool;
    return duet__thread_start(&pool->workers[i].thread, name, pool->config.stack_size,
                              duet__worker_main, &pool->workers[i]);
}
