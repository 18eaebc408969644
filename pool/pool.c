/* The pool's life: open → submit … → drain or close. */
#include "check.h"
#include "cpu.h"
#include "log.h"
#include "pool_impl.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

enum {
    WORKERS_MOST = 1024,
    QUEUE_DEFAULT = 16384,
    QUEUE_MOST = 1 << 30,
    STACK_SIZE_MOST = 1 << 30
};

/* ---- Configuration ---- */

static int config_check(const duet_pool_config *config)
{
    static const char function[] = "duet_pool_open";
    if (config->workers_max > WORKERS_MOST)
        return duet__bad_argument(function, "workers_max is above 1024");
    if (config->workers_max && config->workers_min > config->workers_max)
        return duet__bad_argument(function, "workers_min is above workers_max");
    if (config->workers_min > WORKERS_MOST)
        return duet__bad_argument(function, "workers_min is above 1024");
    if (config->queue_max > QUEUE_MOST)
        return duet__bad_argument(function, "queue_max is above 2^30");
    if (config->when_full != DUET_FULL_WAIT && config->when_full != DUET_FULL_REFUSE &&
        config->when_full != DUET_FULL_RUN_HERE)
        return duet__bad_argument(function, "when_full is unknown");
    if (config->stack_size && config->stack_size < (size_t)PTHREAD_STACK_MIN)
        return duet__bad_argument(function, "stack_size is below PTHREAD_STACK_MIN");
    if (config->stack_size > STACK_SIZE_MOST)
        return duet__bad_argument(function, "stack_size is above 1 GiB");
    if (config->hooks)
        return duet__refuse(function, -ENOTSUP, "hooks are not in this version");
    if (!duet__reserved_unused(config->reserved, sizeof config->reserved / sizeof(uintptr_t)))
        return duet__bad_argument(function, "reserved is not zero: was the structure initialised?");
    return 0;
}

static void config_defaults(duet_pool_config *config)
{
    if (!config->name)
        config->name = "pool";
    if (!config->workers_max)
        config->workers_max = (unsigned)duet__cpu_count() + 4;
    if (config->workers_max < config->workers_min)
        config->workers_max = config->workers_min;
    if (!config->queue_max)
        config->queue_max = QUEUE_DEFAULT;
}

/* ---- Opening and freeing ---- */

/* `empty` lives inside the pool: nobody asks it to end, and nothing frees it. */
static void empty_cancel(duet_future *f)
{
    (void)f;
}
static const struct duet__future_ops empty_ops = {"pool", empty_cancel, empty_cancel};

static void leave_and_join(duet_pool *pool)
{
    struct duet__waiter *worker;
    duet__lock(&pool->lock);
    pool->leaving = true; /* from here on nobody stands idle any more */
    while ((worker = duet__waiter_pop(&pool->idle)) != NULL)
        duet__waiter_tell(worker);
    duet__unlock(&pool->lock);
    for (unsigned i = 0; i < pool->worker_count; i++)
        pthread_join(pool->workers[i].thread, NULL);
}

static void pool_free(duet_pool *pool)
{
    free((char *)pool->config.name);
    free(pool);
}

int duet_pool_open(duet_pool **ret, const duet_pool_config *config)
{
    duet_pool_config given = {0};
    if (!ret)
        return duet__bad_argument(__func__, "ret is NULL");
    if (config)
        given = *config;
    int rc = config_check(&given);
    if (rc < 0)
        return rc;
    config_defaults(&given);
    duet_pool *pool = calloc(1, sizeof *pool + given.workers_max * sizeof pool->workers[0]);
    if (!pool)
        return -ENOMEM;
    pool->config = given;
    pool->config.name = strdup(given.name);
    if (!pool->config.name) {
        free(pool);
        return -ENOMEM;
    }
    duet__list_init(&pool->queue);
    duet__list_init(&pool->running);
    duet__list_init(&pool->idle);
    duet__list_init(&pool->room);
    duet__future_init(&pool->empty, &empty_ops, NULL, 1);
    for (; rc == 0 && pool->worker_count < given.workers_max; pool->worker_count += rc == 0)
        rc = duet__worker_start(pool, pool->worker_count);
    if (rc < 0) {
        duet__log(DUET_ERROR,
                  "pool '%s' cannot be opened: only %u of %u threads could be started: %s "
                  "(see RLIMIT_NPROC, ulimit -u, the cgroup's pids.max, and memory)",
                  given.name, pool->worker_count, given.workers_max, strerrordesc_np(-rc));
        leave_and_join(pool);
        pool_free(pool);
        return rc;
    }
    pool->stats.workers = pool->worker_count;
    *ret = pool;
    return 0;
}

/* ---- Jobs ---- */

static struct duet__job *job_of(duet_future *f)
{
    return duet__container(f, struct duet__job, work.future);
}

/* Under the lock, which the closer takes once more before it frees the pool: has the last one gone?
 * A submitter who was promised a place still has to look at the pool; one whose wait for room has
 * failed does not. Lock order: the pool's, then that of `empty`. */
static void settle_if_empty(duet_pool *pool)
{
    if (pool->closing && pool->jobs == 0 && pool->promised == 0)
        duet__future_settle(&pool->empty, duet_ok(), 0);
}

void duet__pool_job_ended(duet_pool *pool)
{
    pool->jobs--;
    settle_if_empty(pool);
}

static void job_release(duet_future *f)
{
    free(job_of(f));
}

static const struct duet__future_ops job_ops = {"job", duet__work_cancel, job_release};

/* Under the lock, by who has cleared SLEEPING of a queued job: out of the queue. */
static void job_remove(struct duet__job *job)
{
    duet__list_remove(&job->link);
    job->pool->stats.queued--;
    job->pool->stats.cancelled++;
}

/* Without the lock: it never ran. */
static void job_end_cancelled(struct duet__job *job)
{
    duet_pool *pool = job->pool;
    duet__work_end(&job->work, duet_err(-ECANCELED));
    duet__lock(&pool->lock);
    duet__pool_job_ended(pool); /* last: who closes the pool may free it once we unlock */
    duet__unlock(&pool->lock);
}

struct duet__waiter *duet__pool_promise_place(duet_pool *pool)
{
    struct duet__waiter *submitter = duet__waiter_pop(&pool->room);
    if (submitter)
        pool->promised++;
    return submitter;
}

/* Whoever cancelled it holds a reference. A queued job is its canceller's to remove; the worker of
 * a running one sleeps in a wait of the job's, on the job's own parker. */
static void job_wake_cancelled(struct duet__parker *parker)
{
    struct duet__job *job = duet__container(parker, struct duet__job, work.parker);
    if (job->started) {
        duet__thread_wake(parker);
        return;
    }
    duet_pool *pool = job->pool;
    duet__lock(&pool->lock);
    job_remove(job);
    struct duet__waiter *submitter = duet__pool_promise_place(pool);
    duet__unlock(&pool->lock);
    duet__waiter_tell(submitter);
    job_end_cancelled(job);
}

static const struct duet__parker_ops job_parker_ops = {
    .may_wait = true,
    .may_block = true,
    .sleep = duet__thread_sleep,
    .wake = duet__thread_wake,
    .wake_cancelled = job_wake_cancelled,
    .pass = duet__thread_pass,
    .now_ns = duet__thread_now,
};

static struct duet__job *job_new(duet_pool *pool, duet_fn *fn, void *arg, const duet_opts *opts)
{
    struct duet__job *job = duet__work_alloc(sizeof *job, opts);
    if (!job)
        return NULL;
    duet__work_init(&job->work, sizeof *job, &job_ops, &job_parker_ops, DUET__PARK_SLEEPING, fn,
                    arg, opts);
    job->pool = pool;
    job->started = false;
    return job;
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
    if (pool->stats.queued + pool->promised < pool->config.queue_max)
        return QUEUE;
    if (refuse || pool->config.when_full == DUET_FULL_REFUSE || !here->ops->may_wait)
        return REFUSED_FULL;
    if (pool->config.when_full == DUET_FULL_RUN_HERE && here->ops->may_block)
        return RUN_HERE;
    return WAIT;
}

/* Under the lock: waits for a promised place. 0: the lock is held again. -ETIME, -ECANCELED: it is
 * not, and the pool may be gone, since nothing of ours is in it any more. */
static int wait_for_place(duet_pool *pool, struct duet__parker *here, duet_deadline by)
{
    struct duet__waiter waiter;
    duet__waiter_init(&waiter, here);
    duet__list_append(&pool->room, &waiter.link);
    duet__unlock(&pool->lock);
    int rc = duet__wait_claimed(&waiter, &pool->lock, by, here->shields > 0);
    if (rc < 0)
        return duet__wait_failed(here, rc); /* it may not have parked at all */
    duet__lock(&pool->lock);
    pool->promised--;
    settle_if_empty(pool);
    return 0;
}

/* Under the lock: the worker that went idle last, whose caches are warm; to be fired when the lock
 * is released. */
static struct duet__waiter *latest_idle(duet_pool *pool)
{
    if (duet__list_empty(&pool->idle))
        return NULL;
    struct duet__list *link = pool->idle.prev;
    duet__list_remove(link);
    return duet__container(link, struct duet__waiter, link);
}

static void enqueue(duet_pool *pool, struct duet__job *job)
{
    duet__list_append(&pool->queue, &job->link);
    pool->jobs++;
    pool->stats.queued++;
    pool->stats.submitted++;
    struct duet__waiter *worker = latest_idle(pool);
    duet__unlock(&pool->lock);
    duet__waiter_tell(worker);
}

static void run_here(duet_pool *pool, struct duet__job *job)
{
    duet__park_claim(&job->work.parker);
    job->started = true;
    duet__list_append(&pool->running, &job->link);
    pool->jobs++;
    pool->stats.submitted++;
    pool->stats.busy++;
    duet__unlock(&pool->lock);
    duet__job_run(job);
}

static duet_future *refuse_job(struct duet__job *job, int err)
{
    duet__work_refuse(&job->work, err);
    return &job->work.future;
}

duet_future *duet__pool_submit_by(duet_pool *pool, duet_fn *fn, void *arg, const duet_opts *opts,
                                  duet_deadline by, int *ret_wait)
{
    const char *why = NULL;
    struct duet__parker *here = duet__here();
    *ret_wait = 0;
    int rc = duet__work_check(fn, opts, &why);
    struct duet__job *job = rc == 0 ? job_new(pool, fn, arg, opts) : NULL;
    if (!job)
        return duet__future_refused(rc < 0 ? rc : -ENOMEM, why, arg, opts);
    duet_future *f = &job->work.future;
    duet__lock(&pool->lock);
    enum admission what = admission(pool, here, opts && (opts->flags & DUET_REFUSE));
    if (what == WAIT) {
        *ret_wait = wait_for_place(pool, here, by);
        if (*ret_wait < 0)
            return refuse_job(job, -ECANCELED);
        what = pool->closing ? REFUSED_CLOSING : QUEUE;
    }
    switch (what) {
    case RUN_HERE:
        run_here(pool, job);
        return f;
    case QUEUE:
        enqueue(pool, job);
        return f;
    default:
        pool->stats.refused++;
        duet__unlock(&pool->lock);
        return refuse_job(job, what == REFUSED_FULL ? -EAGAIN : -ESHUTDOWN);
    }
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

void duet_pool_stats_get(const duet_pool *pool, duet_pool_stats *ret)
{
    if (!pool || !ret) {
        duet__bad_argument(__func__, pool ? "ret is NULL" : "pool is NULL");
        return;
    }
    struct duet__lock *lock = (struct duet__lock *)&pool->lock;
    duet__lock(lock);
    *ret = pool->stats;
    duet__unlock(lock);
}

/* ---- Draining and closing ---- */

/* 0, or -EDEADLK: to wait for this pool here would be to wait for oneself, or stop a loop. */
static int may_await(const duet_pool *pool)
{
    for (const struct duet__parker *at = duet__here(); at; at = at->outer)
        if (at->work && at->work->ops == &job_ops && job_of(at->work)->pool == pool)
            return -EDEADLK;
    return duet__here()->ops->may_wait ? 0 : -EDEADLK;
}

/* From here on jobs are refused, also those of submitters who wait for room. */
static void refuse_new(duet_pool *pool)
{
    duet__lock(&pool->lock);
    if (!pool->closing) {
        pool->closing = true;
        for (struct duet__waiter *submitter; (submitter = duet__pool_promise_place(pool)) != NULL;)
            duet__waiter_tell(submitter);
        settle_if_empty(pool);
    }
    duet__unlock(&pool->lock);
}

/* Cancels the queued jobs and asks the running ones to end. */
static void cancel_all(duet_pool *pool)
{
    struct duet__list ours;
    duet__list_init(&ours);
    duet__lock(&pool->lock);
    for (struct duet__list *link = pool->queue.next, *next; link != &pool->queue; link = next) {
        struct duet__job *job = duet__container(link, struct duet__job, link);
        next = link->next;
        if (duet__park_claim(&job->work.parker)) { /* else its canceller removes it */
            job_remove(job);
            duet__list_append(&ours, link);
        }
    }
    duet__list_for_each(link, &pool->running) /* started, so cancelling does not take our lock */
        duet__park_cancel(&duet__container(link, struct duet__job, link)->work.parker);
    duet__unlock(&pool->lock);
    for (struct duet__list *link; (link = duet__list_pop(&ours)) != NULL;)
        job_end_cancelled(duet__container(link, struct duet__job, link));
}

/* How many jobs run; each is named in the log, which is the user's code, so not under the lock. */
static unsigned report_left(duet_pool *pool)
{
    char text[160];
    duet__lock(&pool->lock);
    unsigned count = pool->stats.busy, named = 0;
    duet_future **left = count ? malloc(count * sizeof(duet_future *)) : NULL;
    for (struct duet__list *link = pool->running.next; left && link != &pool->running;
         link = link->next)
        left[named++] =
            duet_future_ref(&duet__container(link, struct duet__job, link)->work.future);
    duet__unlock(&pool->lock);
    duet__log(DUET_WARNING, "pool '%s' is not empty by the deadline: %u jobs still run",
              pool->config.name, count);
    for (unsigned i = 0; i < named; i++) {
        duet__log(DUET_WARNING, "pool '%s' is not empty by the deadline: %s still runs",
                  pool->config.name, duet__future_describe(left[i], text, sizeof text));
        duet_future_unref(left[i]);
    }
    free(left);
    return count;
}

void duet__pool_set_permanent(duet_pool *pool)
{
    pool->permanent = true;
}

/* 0, or -EINVAL: this pool is not the caller's to end. */
static int may_end(const char *function, const duet_pool *pool)
{
    if (!pool)
        return duet__bad_argument(function, "pool is NULL");
    if (pool->permanent)
        return duet__bad_argument(function, "the default pool ends with the process");
    return 0;
}

int duet_pool_drain(duet_pool *pool, duet_deadline by, unsigned *ret_left)
{
    int rc = may_end(__func__, pool);
    if (rc < 0)
        return rc;
    struct duet__parker *here = duet__here();
    rc = may_await(pool);
    if (rc == 0 && here->shields == 0 && duet__park_cancelled(here))
        rc = -ECANCELED; /* before any effect */
    if (rc < 0)
        return duet__wait_failed(here, rc);
    refuse_new(pool);
    rc = duet_future_wait(&pool->empty, by, NULL);
    unsigned left = 0;
    if (rc == -ETIME) {
        cancel_all(pool);
        left = report_left(pool);
    }
    if (ret_left)
        *ret_left = left;
    return rc;
}

int duet__pool_end(duet_pool *pool, duet_deadline by)
{
    int rc = may_await(pool);
    if (rc < 0)
        return rc;
    refuse_new(pool);
    cancel_all(pool);
    rc = duet__future_wait(&pool->empty, by, true);
    if (rc == -ETIME)
        report_left(pool);
    if (rc < 0)
        return rc;
    leave_and_join(pool); /* they have no job: each has only to return from its function */
    return 0;
}

int duet_pool_close(duet_pool *pool, duet_deadline by)
{
    int rc = may_end(__func__, pool);
    if (rc == 0)
        rc = duet__pool_end(pool, by);
    if (rc == 0)
        pool_free(pool);
    return rc;
}
