/* How jobs come: admission, the queue, and what is cancelled before it runs. */
#include "check.h"
#include "clock.h"
#include "pool_impl.h"

#include <errno.h>
#include <stdio.h>

/* ---- A job as a future ---- */

static void job_release(duet_future *f)
{
    duet__work_fini(&duet__job_of(f)->work);
    duet__future_free(f);
}

static const char *job_place(const duet_future *f, char *buf, size_t size)
{
    snprintf(buf, size, " (pool %s)", duet__job_of(f)->pool->config.name);
    return buf;
}

/* A queued one waits for a slot; a running one settles when its function returns. */
static bool job_may_settle(const duet_future *f, struct duet__look *look)
{
    struct duet__job *job = duet__job_of(f);
    duet__pool_lock(job->pool);
    bool queued = !job->started, may = true;
    if (queued && (duet__load_relaxed(&job->work.parker.word) & DUET__PARK_SLEEPING))
        may = duet__slot_may_come(job->pool, job->lane, look); /* else it is cancelled just now */
    duet__pool_unlock(job->pool);
    return queued ? may : duet__look_at(look, &job->work.parker, DUET__VIA_ITSELF);
}

static int64_t job_since(const duet_future *f)
{
    return duet__load_relaxed(&duet__job_of(f)->since_ns); /* an age, nothing else */
}

static void job_abandoned(duet_future *f)
{
    struct duet__job *job = duet__job_of(f);
    duet_pool *pool = job->pool;
    duet__lock(&pool->lock);
    if (job->runs && !job->abandoned) {
        job->abandoned = true;
        pool->stats.abandoned++;
    }
    duet__unlock(&pool->lock);
}

const struct duet__future_ops duet__job_ops = {.kind = "job",
                                               .is_work = true,
                                               .cancel = duet__work_cancel,
                                               .release = job_release,
                                               .may_settle = job_may_settle,
                                               .place = job_place,
                                               .since = job_since,
                                               .abandoned = job_abandoned};

void duet__job_tell(struct duet__job *job, enum duet__hook what)
{
    duet__pool_lock(job->pool);
    size_t queued = job->pool->queued;
    duet__pool_unlock(job->pool);
    bool is_first = what == DUET__HOOK_JOB_QUEUED;
    int64_t now_ns = is_first ? job->work.parker.observed->spawned_ns : duet__clock_ns();
    duet__tell(&job->work.parker, what, now_ns, queued);
}

/* Without the lock: one has settled; the pool may be gone then. */
static void less_one(duet_pool *pool)
{
    duet__lock(&pool->lock);
    pool->jobs--;
    duet__pool_less(pool);
    duet__pool_unlock_last(pool);
}

/* ---- A job that never runs ---- */

void duet__job_remove(struct duet__job *job)
{
    duet__list_remove(&job->link);
    job->pool->queued--;
    if (job->lane == DUET__URGENT)
        job->pool->stats.urgent--;
}

void duet__job_end_unrun(struct duet__job *job, int err)
{
    duet_pool *pool = job->pool;
    if (err == -ECANCELED)
        duet__work_end(&job->work, duet_err(err));
    else
        duet__work_refuse(&job->work, err);
    less_one(pool);
}

void duet__jobs_claim_hopeless(duet_pool *pool, const struct duet__job *job, struct duet__list *ret)
{
    for (unsigned lane = 0; lane < DUET__LANES; lane++) {
        bool trusted = pool->threads == 0; /* those from here on counted on that thread */
        for (struct duet__list *link = pool->lanes[lane].next, *next; link != &pool->lanes[lane];
             link = next) {
            struct duet__job *queued = duet__container(link, struct duet__job, link);
            next = link->next;
            trusted = trusted || (queued == job && pool->threads == pool->lent);
            if (!trusted || !duet__park_claim(&queued->work.parker))
                continue;
            duet__job_remove(queued);
            pool->stats.submitted--;
            pool->stats.refused++;
            duet__list_append(ret, &queued->link);
        }
    }
}

void duet__jobs_refuse(duet_pool *pool, struct duet__list *jobs)
{
    for (struct duet__list *link; (link = duet__list_pop(jobs)) != NULL;) {
        duet__pool_lock(pool);
        struct duet__waiter *submitter = duet__pool_promise_place(pool);
        duet__pool_unlock(pool);
        duet__waiter_tell(submitter);
        duet__job_end_unrun(duet__container(link, struct duet__job, link), -EAGAIN);
    }
}

/* ---- A job as who waits ---- */

/* Whoever cancelled it holds a reference. A queued job is its canceller's to remove; the worker of
 * a running one sleeps in a wait of the job's, on the job's own parker. */
static void job_wake_cancelled(struct duet__parker *parker)
{
    struct duet__job *job = duet__container(parker, struct duet__job, work.parker);
    if (job->started) {
        duet__thread_wake(parker);
        if (job->flags & DUET_INTERRUPT) /* what it waited for may have come in the same moment */
            duet__interrupt_send(&job->interrupt);
        return;
    }
    duet_pool *pool = job->pool;
    duet__pool_lock(pool);
    duet__job_remove(job);
    pool->stats.cancelled++;
    struct duet__waiter *submitter = duet__pool_promise_place(pool);
    duet__pool_unlock(pool);
    duet__waiter_tell(submitter);
    duet__job_end_unrun(job, -ECANCELED);
}

static struct duet__job *interruptible(struct duet__parker *parker)
{
    struct duet__job *job = duet__container(parker, struct duet__job, work.parker);
    return job->flags & DUET_INTERRUPT ? job : NULL;
}

static void job_interrupt(struct duet__parker *parker)
{
    struct duet__job *job = interruptible(parker);
    if (job)
        duet__interrupt_send(&job->interrupt);
}

static void job_heard(struct duet__parker *parker)
{
    struct duet__job *job = interruptible(parker);
    if (job)
        duet__interrupt_heard(&job->interrupt);
}

static void job_shield(struct duet__parker *parker, bool begins)
{
    struct duet__job *job = interruptible(parker);
    if (job)
        duet__interrupt_shield(&job->interrupt, begins, duet__park_cancelled(parker));
}

/* Its steps end where it waits. */
static void job_sleep(struct duet__parker *parker, uint32_t seen, uint32_t asleep, int64_t by_ns)
{
    struct duet__job *job = duet__container(parker, struct duet__job, work.parker);
    if (duet__is_observed(parker)) {
        duet__job_tell(job, DUET__HOOK_STEP_ENDED);
        duet__job_tell(job, DUET__HOOK_PARKED);
    }
    duet__thread_sleep(parker, seen, asleep, by_ns);
    if (duet__is_observed(parker))
        duet__job_tell(job, DUET__HOOK_STEP_BEGAN);
}

static const struct duet__parker_ops job_parker_ops = {
    .may_wait = true,
    .may_block = true,
    .sleep = job_sleep,
    .wake = duet__thread_wake,
    .wake_cancelled = job_wake_cancelled,
    .pass = duet__thread_pass,
    .now_ns = duet__thread_now,
    .interrupt = job_interrupt,
    .heard = job_heard,
    .shield = job_shield,
};

static struct duet__job *job_new(duet_pool *pool, duet_fn *fn, void *arg, const duet_opts *opts)
{
    struct duet__job *job = duet__work_alloc(sizeof *job, pool->hooks, opts);
    if (!job)
        return NULL;
    duet__work_init(&job->work, sizeof *job, pool->hooks, &duet__job_ops, &job_parker_ops, fn, arg,
                    opts);
    job->pool = pool;
    job->flags = opts ? opts->flags : 0;
    job->lane = opts && opts->priority ? DUET__URGENT : DUET__NORMAL;
    job->started = job->runs = job->abandoned = false;
    duet__store_relaxed(&job->since_ns, 0);
    job->link.next = NULL;
    job->interrupt = (struct duet__interrupt){.open = false};
    return job;
}

/* ---- Room ---- */

/* Somebody who waits for room; on its stack. */
struct room_wait {
    struct duet__waiter waiter;
    struct duet__wait wait;
    duet_pool *pool;
};

/* Is one being cancelled at this moment, which will leave the queue? */
static bool one_is_cancelled(const struct duet__list *lane)
{
    duet__list_for_each(link, lane)
    {
        struct duet__job *job = duet__container(link, struct duet__job, link);
        if (!(duet__load_relaxed(&job->work.parker.word) & DUET__PARK_SLEEPING))
            return true;
    }
    return false;
}

/* A place comes when any queued job starts. */
static bool room_may_come(const struct duet__wait *wait, struct duet__look *look)
{
    const struct room_wait *room = duet__container(wait, const struct room_wait, wait);
    duet_pool *pool = room->pool;
    duet__pool_lock(pool);
    /* It was promised one just now, or somebody else was, who may start. */
    bool may = !duet__list_linked(&room->waiter.link) || pool->promised > 0 || pool->closing;
    for (unsigned lane = 0; lane < DUET__LANES; lane++)
        if (!duet__list_empty(&pool->lanes[lane]) && duet__slot_may_come(pool, lane, look))
            may = true;
    for (unsigned lane = 0; lane < DUET__LANES && !may; lane++)
        may = one_is_cancelled(&pool->lanes[lane]);
    duet__pool_unlock(pool);
    return may;
}

static const char *describe_room(const struct duet__wait *wait, char *buf, size_t size)
{
    const duet_pool *pool = wait->of;
    snprintf(buf, size, "room in the queue of pool '%s'", pool->config.name);
    return buf;
}

static const struct duet__wait_ops room_wait_ops = {room_may_come, describe_room, false};

struct duet__waiter *duet__pool_dismiss_submitter(duet_pool *pool)
{
    struct duet__waiter *submitter = duet__waiter_pop(&pool->room);
    if (submitter)
        pool->promised++;
    return submitter;
}

static bool half_is_free(const duet_pool *pool)
{
    return pool->queued <= pool->config.queue_max / 2;
}

/* Is somebody on the way to whom a place is promised, who is enough? Not if a job waits, perhaps for
 * another of them. */
static bool enough_come(const duet_pool *pool)
{
    return pool->promised > 0 && !half_is_free(pool) && pool->lent == 0;
}

/* NULL: nobody waits, or no place is free. */
static struct duet__waiter *promise_one(duet_pool *pool)
{
    bool is_free = pool->queued + pool->promised < pool->config.queue_max;
    return is_free ? duet__pool_dismiss_submitter(pool) : NULL;
}

void duet__pool_promise_all(duet_pool *pool)
{
    for (struct duet__waiter *submitter; (submitter = promise_one(pool)) != NULL;)
        duet__waiter_tell(submitter);
}

struct duet__waiter *duet__pool_promise_place(duet_pool *pool)
{
    struct duet__waiter *first = enough_come(pool) ? NULL : promise_one(pool);
    if (first && half_is_free(pool))
        duet__pool_promise_all(pool);
    return first;
}

struct duet__waiter *duet__pool_offer_place(duet_pool *pool)
{
    if (duet__list_empty(&pool->room) || enough_come(pool))
        return NULL;
    duet__intake_lock(pool); /* whose places are free ones, too */
    struct duet__waiter *submitter = duet__pool_promise_place(pool);
    duet__intake_unlock(pool);
    return submitter;
}

/* Under the lock: waits for a promised place. 0: the lock is held again, and the pool is held,
 * until place_taken(). -ETIME, -ECANCELED, -EDEADLK: neither, and the pool may be gone. */
static int wait_for_place(duet_pool *pool, struct duet__parker *here, duet_deadline by)
{
    struct room_wait room = {.pool = pool};
    bool shielded = here->shields > 0;
    duet__waiter_init(&room.waiter, here);
    duet__list_append(&pool->room, &room.waiter.link);
    pool->owners++; /* while we are in the graph, a search may look at it */
    duet__pool_unlock(pool);
    duet__wait_enter(&room.wait, here, &room_wait_ops, pool, 1, by, duet__wait_kind(shielded));
    int rc = duet__wait_claimed(&room.waiter, &pool->lock, by, shielded);
    duet__wait_leave(&room.wait);
    if (rc < 0) {
        duet__pool_release(pool);
        return duet__wait_failed(here, rc); /* it may not have parked at all */
    }
    duet__pool_lock(pool);
    pool->promised--;
    duet__pool_less(pool);
    return 0;
}

/* Without the lock, when it has been: those who still wait counted on us, perhaps. */
static void place_taken(duet_pool *pool)
{
    duet__graph_changed(pool);
    duet__pool_release(pool);
}

/* ---- Submitting ---- */

enum admission {
    QUEUE,
    RUN_HERE,
    WAIT,
    REFUSED_FULL,
    REFUSED_CLOSING
};

/* Under the lock: what becomes of a job that somebody submits now. */
static enum admission admission(duet_pool *pool, const struct duet__parker *here, bool refuse)
{
    if (pool->closing)
        return REFUSED_CLOSING;
    if (pool->queued + pool->promised < pool->config.queue_max)
        return QUEUE;
    if (refuse || pool->config.when_full == DUET_FULL_REFUSE || !here->ops->may_wait)
        return REFUSED_FULL;
    if (pool->config.when_full == DUET_FULL_RUN_HERE && here->ops->may_block)
        return RUN_HERE;
    return WAIT;
}

/* Under the lock, which it releases. */
static void enqueue(duet_pool *pool, struct duet__job *job)
{
    duet__list_append(&pool->lanes[job->lane], &job->link);
    pool->jobs++;
    pool->queued++;
    pool->stats.urgent += job->lane == DUET__URGENT;
    pool->stats.submitted++;
    struct duet__waiter *submitter = duet__pool_promise_place(pool);
    struct duet__summons summons = duet__summon(pool);
    summons.job = job;
    pool->owners += summons.start; /* the pool stays until we have seen whether it succeeds */
    duet__pool_unlock(pool);
    duet__waiter_tell(submitter);
    duet__summon_now(pool, summons);
    if (summons.start)
        duet__pool_release(pool);
}

/* Under the lock, which it releases. */
static void run_here(duet_pool *pool, struct duet__job *job, struct duet__parker *here)
{
    struct duet__wait stand;
    struct duet__seat seat = {.in_place = true};
    duet__park_claim(&job->work.parker);
    duet__list_append(&pool->seats, &seat.link);
    pool->jobs++;
    pool->stats.submitted++;
    duet__job_started(job, &seat);
    duet__pool_unlock(pool);
    duet__graph_stand(&stand, here, &job->work.future);
    bool shields = here->ops->shield && here->shields == 0; /* its signals are not this job's */
    if (shields)
        here->ops->shield(here, true);
    duet_result result = duet__job_call(job);
    duet__lock(&pool->lock);
    duet__job_ended(job, &seat);
    duet__seat_left(pool, &seat);
    duet__unlock(&pool->lock);
    duet__work_end(&job->work, result);
    less_one(pool);
    if (shields)
        here->ops->shield(here, false);
    duet__wait_leave(&stand);
}

static duet_future *refuse_job(struct duet__job *job, int err)
{
    duet__work_refuse(&job->work, err);
    return &job->work.future;
}

/* Under the lock, which it releases. */
static void refuse(duet_pool *pool, struct duet__job *job, int err)
{
    pool->stats.refused++;
    duet__pool_unlock(pool);
    refuse_job(job, err);
}

/* 0, or why a job cannot even be made; *ret_why: what the log should say, NULL: nothing more. */
static int check_job(const duet_pool *pool, duet_fn *fn, const duet_opts *opts,
                     const char **ret_why)
{
    *ret_why = NULL;
    int rc = duet__work_check(fn, opts, ret_why);
    if (rc == 0 && duet__is_foreign(pool->process)) {
        *ret_why = "a pool of the process that forked this one: open a pool here";
        rc = -EOWNERDEAD;
    }
    if (rc == 0 && opts && (opts->flags & DUET_INTERRUPT))
        rc = duet__interrupt_prepare();
    return rc;
}

duet_future *duet__pool_submit_by(duet_pool *pool, duet_fn *fn, void *arg, const duet_opts *opts,
                                  duet_deadline by, int *ret_wait)
{
    const char *why;
    struct duet__parker *here = duet__here();
    *ret_wait = 0;
    duet__fetch_to_write(&pool->intake); /* while the job is made */
    int rc = check_job(pool, fn, opts, &why);
    struct duet__job *job = rc == 0 ? job_new(pool, fn, arg, opts) : NULL;
    if (!job)
        return duet__future_refused(rc < 0 ? rc : -ENOMEM, why, arg, opts);
    duet_future *f = &job->work.future;
    if (duet__is_observed(&job->work.parker))
        duet__job_tell(job, DUET__HOOK_JOB_QUEUED);
    if (job->lane == DUET__NORMAL && duet__intake_enter(pool, job))
        return f;
    duet__pool_lock(pool);
    enum admission what = admission(pool, here, opts && (opts->flags & DUET_REFUSE));
    bool waits = what == WAIT;
    if (waits) {
        *ret_wait = wait_for_place(pool, here, by);
        if (*ret_wait < 0)
            return refuse_job(job, *ret_wait == -EDEADLK ? -EDEADLK : -ECANCELED);
        what = pool->closing ? REFUSED_CLOSING : QUEUE;
    }
    if (what == RUN_HERE)
        run_here(pool, job, here);
    else if (what == QUEUE)
        enqueue(pool, job);
    else
        refuse(pool, job, what == REFUSED_FULL ? -EAGAIN : -ESHUTDOWN);
    if (waits)
        place_taken(pool);
    return f;
}

duet_future *duet_pool_submit_with(duet_pool *pool, duet_fn *fn, void *arg, const duet_opts *opts)
{
    int waited;
    if (!pool)
        return duet__future_refused(-EINVAL, "duet_pool_submit: pool is NULL", arg, opts);
    return duet__pool_submit_by(pool, fn, arg, opts, DUET_NEVER, &waited);
}

duet_future *duet_pool_submit(duet_pool *pool, duet_fn *fn, void *arg)
{
    return duet_pool_submit_with(pool, fn, arg, NULL);
}
