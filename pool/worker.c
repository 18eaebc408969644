/* Threads that run jobs, one after the other. */
#include "block.h"
#include "check.h"
#include "clock.h"
#include "pool_impl.h"
#include "thread.h"

#include <stdio.h>
#include <string.h>

enum {
    LOOK_NS = 1000000, /* after this a thread that has left has mostly ended */
};

/* ---- One job ---- */

static DUET__COLD void tell_began(struct duet__job *job)
{
    duet__job_tell(job, DUET__HOOK_JOB_BEGAN);
    duet__job_tell(job, DUET__HOOK_STEP_BEGAN);
}

static DUET__COLD void tell_ended(struct duet__job *job)
{
    duet__job_tell(job, DUET__HOOK_STEP_ENDED);
    duet__job_tell(job, DUET__HOOK_JOB_ENDED);
}

/* With its parker as who runs here. */
duet_result duet__job_call(struct duet__job *job)
{
    duet__store_relaxed(&job->since_ns, duet__clock_coarse_ns());
    if (duet__is_observed(&job->work.parker))
        tell_began(job);
    struct duet__parker *before = duet__here_set(&job->work.parker);
    job->work.parker.outer = before; /* whoever called us stands still until we have run */
    bool interruptible = job->flags & DUET_INTERRUPT;
    if (interruptible) {
        duet__interrupt_begin(&job->interrupt);
        if (duet__park_cancelled(&job->work.parker)) /* before it could be sent a signal */
            duet__interrupt_send(&job->interrupt);
    }
    duet_result result = duet__work_run(&job->work);
    duet__check(!duet__is_foreign(job->pool->process),
                "a child that was forked in a job ends by exec or _exit");
    if (interruptible)
        duet__interrupt_end(&job->interrupt);
    duet__here_set(before); /* the job may be gone when it has settled */
    if (duet__is_observed(&job->work.parker))
        tell_ended(job);
    return result;
}

void duet__job_started(struct duet__job *job, struct duet__seat *seat)
{
    seat->job = job;
    job->started = job->runs = true;
}

void duet__job_ended(struct duet__job *job, struct duet__seat *seat)
{
    seat->job = NULL;
    job->runs = false;
    seat->completed++;
    if (job->abandoned)
        job->pool->stats.abandoned--;
    job->abandoned = false;
}

/* ---- A worker ---- */

/* Under the lock, which is held again when it returns: stands idle until `by`, or until somebody
 * summons us: then true. */
static bool stand_idle_until(duet_pool *pool, duet_deadline by)
{
    struct duet__waiter waiter;
    duet__waiter_init(&waiter, duet__here());
    duet__list_append(&pool->idle, &waiter.link);
    duet__unlock(&pool->lock);
    /* Ended by duet__summon_now(), by who ends the pool, or by its time. */
    if (duet__wait_claimed_locked(&waiter, &pool->lock, by, true) < 0)
        return false;
    pool->coming--;
    return true;
}

/* Likewise. False: for so long that we may go. */
static bool stand_idle(struct duet__worker *worker)
{
    duet_pool *pool = worker->pool;
    bool may_go = pool->threads > pool->config.workers_min && pool->config.idle_ns >= 0;
    int64_t for_ns = worker->look_ns > 0 ? worker->look_ns : pool->config.idle_ns;
    return stand_idle_until(pool, may_go ? duet_ns(for_ns) : DUET_NEVER);
}

/* Under the lock: has it nothing to stay for? Whoever queues a job after this finds one thread
 * fewer. */
static bool may_leave(const duet_pool *pool, bool idle_for_long)
{
    return pool->leaving || (idle_for_long && pool->threads > pool->config.workers_min);
}

/* Under the lock: is there one that has left, and that is ours to join? */
static bool is_to_join(struct duet__worker *worker)
{
    duet_pool *pool = worker->pool;
    if (!worker->joins && pool->has_gone) {
        worker->joins = true;
        worker->gone = pool->gone;
        pool->has_gone = false;
    }
    return worker->joins;
}

/* Under the lock, of one that may leave: false, who left before us has not ended. We join it, so
 * whoever joins the last has joined all; but it runs code of the user's as it ends, for as long as
 * that takes. While there may be jobs for us we do not wait for that, but stay meanwhile, as one
 * that is idle, and look again after a while that grows. */
static bool join_who_left(struct duet__worker *worker)
{
    duet_pool *pool = worker->pool;
    while (is_to_join(worker)) {
        if (pool->leaving) { /* and closing, and has no job but those that run */
            duet__unlock(&pool->lock);
            pthread_join(worker->gone, NULL);
            duet__lock(&pool->lock);
        } else if (pthread_tryjoin_np(worker->gone, NULL) != 0) {
            worker->look_ns = worker->look_ns > 0 ? 2 * worker->look_ns : LOOK_NS;
            return false;
        }
        worker->joins = false;
    }
    return true;
}

/* Under the lock: here, a job just taken, if there is one. Its place in the queue may be
 * *ret_submitter's, who is to be told. */
static struct duet__job *start(struct duet__worker *worker, struct duet__job *job,
                               struct duet__waiter **ret_submitter)
{
    *ret_submitter = NULL;
    if (!job)
        return NULL;
    duet__job_started(job, &worker->seat);
    *ret_submitter = duet__pool_offer_place(worker->pool);
    return job;
}

/* Under the lock: those of our jobs that have settled do not count any more. */
static void count_settled(struct duet__worker *worker)
{
    worker->pool->jobs -= worker->settled;
    worker->settled = 0;
}

/* Under the lock: we come for the next job, but code of the user's, as the last one settles, comes
 * before; so others are summoned. */
static struct duet__summons come_late(struct duet__worker *worker)
{
    duet_pool *pool = worker->pool;
    duet__intake_lock(pool);
    pool->coming++;
    pool->late++;
    struct duet__summons summons = duet__summon(pool);
    duet__intake_unlock(pool);
    worker->comes = worker->late = true;
    return summons;
}

/* Under the lock: has come. */
static void came(struct duet__worker *worker)
{
    worker->pool->coming -= worker->comes;
    worker->pool->late -= worker->late;
    worker->comes = worker->late = false;
}

/* What else of a job we need comes from who submitted it, while the one before it settles. */
static void fetch(const struct duet__job *job)
{
    duet__fetch_to_write(&job->work.future.word);
    duet__fetch_to_write(&job->work.fn);
}

/* Without the lock. Its end and the start of the next, which it returns, are mostly one step under
 * the lock; it settles after that, and is counted as settled in the step after that. So the next
 * one, which nobody else can take any more, waits for that: for a few instructions of ours. */
static struct duet__job *run(struct duet__worker *worker, struct duet__job *job)
{
    duet_pool *pool = worker->pool;
    struct duet__waiter *submitter = NULL;
    struct duet__summons summons = {.start = false};
    struct duet__job *next = NULL;
    duet_result result = duet__job_call(job);
    bool quiet = duet__work_ends_quietly(&job->work, result);
    duet__lock(&pool->lock);
    count_settled(worker);
    duet__job_ended(job, &worker->seat);
    duet__slot_give(job);
    if (!quiet)
        summons = come_late(worker);
    else if (!pool->cannot_start) /* else we come, and so try once more to summon others */
        next = start(worker, duet__slot_take_at_hand(pool), &submitter);
    if (quiet && !next)
        pool->coming += worker->comes = true;
    duet__unlock(&pool->lock);
    if (next)
        fetch(next);
    if (!quiet)
        duet__summon_now(pool, summons); /* refused: what is queued waits for us */
    duet__work_end(&job->work, result);
    worker->settled = 1;
    duet__waiter_tell(submitter);
    return next;
}

/* Under the lock, which it releases meanwhile. */
static void run_all(struct duet__worker *worker, struct duet__job *job,
                    struct duet__waiter *submitter, struct duet__summons summons)
{
    duet_pool *pool = worker->pool;
    duet__unlock(&pool->lock);
    duet__waiter_tell(submitter);
    duet__summon_now(pool, summons); /* refused: what is queued waits for us */
    while (job)
        job = run(worker, job);
    duet__lock(&pool->lock);
    came(worker);
    count_settled(worker);
    duet__pool_less(pool);
}

static void work(struct duet__worker *worker)
{
    duet_pool *pool = worker->pool;
    bool idle_for_long = false;
    for (;;) {
        struct duet__waiter *submitter;
        struct duet__summons summons;
        struct duet__job *job = start(worker, duet__slot_take_first(pool, &summons), &submitter);
        if (job) {
            run_all(worker, job, submitter, summons);
            idle_for_long = false;
            worker->look_ns = 0;
        } else if (may_leave(pool, idle_for_long) && join_who_left(worker)) {
            return;
        } else {
            idle_for_long = !stand_idle(worker);
        }
    }
}

/* Under the lock, which it releases. */
static void leave(duet_pool *pool)
{
    pool->threads--;
    pool->left_count++;
    pool->has_gone = pool->owners > 0;
    if (pool->has_gone)
        pool->gone = pthread_self();
    else /* nobody is left who would join us */
        pthread_detach(pthread_self());
    duet__pool_less(pool);
    duet__pool_unlock_last(pool);
}

/* "duet-w/NAME-i" in the 15 characters the kernel keeps: the number survives a long name. */
static void name_thread(const duet_pool *pool, unsigned i)
{
    char number[12], name[16];
    snprintf(name, sizeof name, "duet-w/%.8s", pool->config.name);
    size_t digits = (size_t)snprintf(number, sizeof number, "-%u", i), end = strlen(name);
    if (end + digits > sizeof name - 1)
        end = sizeof name - 1 - digits;
    memcpy(name + end, number, digits + 1);
    pthread_setname_np(pthread_self(), name);
}

static void *worker_main(void *arg)
{
    struct duet__worker worker = {.blocking = {duet__slot_lend, duet__slot_back}, .pool = arg};
    duet_pool *pool = worker.pool;
    duet__blocking_set(&worker.blocking);
    duet__lock(&pool->lock);
    unsigned number = pool->begun++;
    duet__note_workers(pool);
    duet__unlock(&pool->lock);
    name_thread(pool, number);
    duet__lock(&pool->lock);
    duet__list_append(&pool->seats, &worker.seat.link);
    pool->coming--;
    work(&worker);
    duet__seat_left(pool, &worker.seat);
    leave(pool);
    duet__blocks_give_back(); /* there was nothing to do for long */
    duet__blocking_set(NULL); /* it ends with this function */
    duet__here_set(duet__here_bare()); /* thread-local destructors follow, and we are joined */
    return NULL;
}

int duet__worker_start(duet_pool *pool)
{
    pthread_t thread; /* joined through pool->gone, or detached by itself */
    return duet__thread_start(&thread, NULL, pool->config.stack_size, worker_main, pool);
}
