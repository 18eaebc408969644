/* The pool from inside: pool.c is its life, worker.c its threads. */
#pragma once
#include "future_impl.h"
#include "lock.h"
#include "work.h"

#include <duet/pool.h>
#include <pthread.h>

/* Owned like its work: by the pool until it ends, by handles until they let go.
 *
 * A queued job is born asleep: its parker's SLEEPING says "in the queue, nobody's yet". Who clears
 * that bit has the job: a worker to run it, or a canceller to remove and settle it. So it is never
 * both, and whoever cancels may still use the pool: the pool cannot end before the job has. */
struct duet__job {
    struct duet__work work; /* first */
    duet_pool *pool;
    struct duet__list link; /* in the pool's queue, then in its list of running ones; its lock */
    bool started; /* written by who has the job */
};

struct duet__worker {
    pthread_t thread;
    duet_pool *pool;
};

/* Owned by who opened it, until duet_pool_close(). The lock guards all that is not constant. */
struct duet_pool {
    struct duet__lock lock;
    struct duet__list queue; /* jobs, the oldest first */
    struct duet__list running; /* jobs */
    struct duet__list idle; /* waiters of workers without a job, the latest last */
    struct duet__list room; /* waiters of submitters, the oldest first */
    unsigned jobs; /* accepted and not ended */
    unsigned promised; /* places freed for submitters who were woken and are on their way */
    bool closing; /* no more jobs: → true once */
    bool leaving; /* workers without a job go: → true once */
    bool permanent; /* not the user's to end; constant once others know the pool */
    duet_future empty; /* settles when closing and no job is left */
    duet_pool_stats stats;
    duet_pool_config config; /* constant; name is a copy */
    unsigned worker_count; /* constant once opened */
    struct duet__worker workers[];
};

/* Like duet_pool_submit_with(), but waits for room until `by` at most. *ret_wait: 0, or how that
 * wait failed (-ETIME, -ECANCELED): then the handle is settled with -ECANCELED. */
duet_future *duet__pool_submit_by(duet_pool *pool, duet_fn *fn, void *arg, const duet_opts *opts,
                                  duet_deadline by, int *ret_wait);
/* Under the lock: a place is free in the queue; promises it to who waited longest for one, who is
 * to be fired when the lock is released. NULL: nobody waits. */
struct duet__waiter *duet__pool_promise_place(duet_pool *pool);
/* Not the user's to drain or close: the default pool, before anybody else knows it. */
void duet__pool_set_permanent(duet_pool *pool);
/* Like duet_pool_close(), but the memory stays: jobs are refused for ever. */
int duet__pool_end(duet_pool *pool, duet_deadline by);
/* The function of every worker's thread. */
void *duet__worker_main(void *worker);
/* Starts worker i. 0 or a negative errno. */
int duet__worker_start(duet_pool *pool, unsigned i);
/* Runs a job on this thread, whose caller has it and holds no lock; the job may be gone then. */
void duet__job_run(struct duet__job *job);
/* Under the lock: one job fewer. */
void duet__pool_job_ended(duet_pool *pool);
