/* The pool's life: open → … → drain, close or shut down. */
#include "alloc.h"
#include "check.h"
#include "clock.h"
#include "cpu.h"
#include "log.h"
#include "pool_impl.h"
#include "receipt.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

enum {
    WORKERS_MOST = 1024,
    SPARES_DEFAULT = 64,
    QUEUE_DEFAULT = 16384,
    QUEUE_MOST = 1 << 30,
    STACK_SIZE_MOST = 1 << 30,
    SETTLING_MS = 100,
};
#define IDLE_DEFAULT_NS INT64_C(10000000000)

/* ---- All pools ---- */

static struct duet__lock all_lock; /* guards the list; before a pool's own */
static struct duet__list all = {&all, &all};

static void reset(void)
{
    duet__store_relaxed(&all_lock.word, 0);
    duet__list_init(&all); /* the parent's are not ours */
}
DUET__IN_CHILD(reset)

/* Under the lock. */
static uint64_t count_completed(const duet_pool *pool)
{
    uint64_t n = pool->stats.completed; /* of those who have left */
    duet__list_for_each(link, &pool->seats) n +=
        duet__container(link, struct duet__seat, link)->completed;
    return n;
}

/* Under the lock: jobs that run. */
static unsigned count_busy(const duet_pool *pool)
{
    unsigned n = 0;
    duet__list_for_each(link, &pool->seats) n +=
        duet__container(link, struct duet__seat, link)->job != NULL;
    return n;
}

/* Workers without a job; those with one have joined the graph, or are awake. */
static bool count_rests(struct duet__census *census)
{
    bool all_rest = true;
    duet__lock(&all_lock);
    duet__list_for_each(link, &all)
    {
        duet_pool *pool = duet__container(link, duet_pool, all);
        duet__pool_lock(pool);
        duet__list_for_each(idle, &pool->idle) census->threads++;
        census->wakes +=
            pool->stats.submitted + count_completed(pool) + pool->stats.threads_started;
        all_rest = all_rest && pool->coming == 0;
        duet__pool_unlock(pool);
    }
    duet__unlock(&all_lock);
    return all_rest;
}

__attribute__((constructor)) static void take_part_in_census(void)
{
    duet__census_add(count_rests);
}

static void list_pool(duet_pool *pool)
{
    duet__lock(&all_lock);
    duet__list_append(&all, &pool->all);
    duet__unlock(&all_lock);
}

static void unlist_pool(duet_pool *pool)
{
    duet__lock(&all_lock);
    if (duet__list_linked(&pool->all))
        duet__list_remove(&pool->all);
    duet__unlock(&all_lock);
}

duet_pool **duet__pool_hold_all(size_t *ret_n)
{
    size_t n = 0;
    duet__lock(&all_lock);
    duet__list_for_each(link, &all) n++;
    duet_pool **pools = n ? duet__alloc(n * sizeof(duet_pool *)) : NULL;
    *ret_n = n;
    n = 0;
    if (pools) {
        duet__list_for_each(link, &all)
        {
            duet_pool *pool = duet__container(link, duet_pool, all);
            duet__lock(&pool->lock);
            if (pool->owners > 0) { /* else it frees itself when the rest has ended */
                pool->owners++;
                pools[n++] = pool;
            }
            duet__unlock(&pool->lock);
        }
        *ret_n = n;
    }
    duet__unlock(&all_lock);
    return pools;
}

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
    if (config->spares_max > WORKERS_MOST)
        return duet__bad_argument(function, "spares_max is above 1024");
    if (config->queue_max > QUEUE_MOST)
        return duet__bad_argument(function, "queue_max is above 2^30");
    if (config->when_full != DUET_FULL_WAIT && config->when_full != DUET_FULL_REFUSE &&
        config->when_full != DUET_FULL_RUN_HERE)
        return duet__bad_argument(function, "when_full is unknown");
    if (config->stack_size && config->stack_size < (size_t)PTHREAD_STACK_MIN)
        return duet__bad_argument(function, "stack_size is below PTHREAD_STACK_MIN");
    if (config->stack_size > STACK_SIZE_MOST)
        return duet__bad_argument(function, "stack_size is above 1 GiB");
    if (!duet__reserved_unused(config->reserved, sizeof config->reserved / sizeof(uintptr_t)))
        return duet__bad_argument(function, "reserved is not zero: was the structure initialised?");
    return 0;
}

static int config_defaults(duet_pool_config *config)
{
    if (!config->name)
        config->name = "pool";
    if (!config->workers_max)
        config->workers_max = (unsigned)duet__cpu_count() + 4;
    if (config->workers_max < config->workers_min)
        config->workers_max = config->workers_min;
    if (config->workers_reserved >= config->workers_max)
        return duet__bad_argument("duet_pool_open",
                                  "workers_reserved leaves no worker for normal jobs");
    if (!config->queue_max)
        config->queue_max = QUEUE_DEFAULT;
    if (!config->spares_max)
        config->spares_max = SPARES_DEFAULT;
    if (!config->idle_ns)
        config->idle_ns = IDLE_DEFAULT_NS;
    return 0;
}

/* ---- Opening and freeing ---- */

/* `empty` and `left` live inside the pool: nobody asks them to end, and nothing frees them. */
static void moment_of_pool_cancel(duet_future *f)
{
    (void)f;
}

/* When it is closing: all that runs and all that is queued has to end. */
static bool empty_may_settle(const duet_future *f, struct duet__look *look)
{
    duet_pool *pool = duet__container(f, duet_pool, empty);
    bool may = true;
    duet__pool_lock(pool);
    for (unsigned lane = 0; lane < DUET__LANES; lane++)
        if (!duet__list_empty(&pool->lanes[lane]) && !duet__slot_may_come(pool, lane, look))
            may = false;
    duet__list_for_each(link, &pool->seats)
    {
        const struct duet__job *job = duet__container(link, struct duet__seat, link)->job;
        if (job && !duet__look_at(look, &job->work.parker, DUET__VIA_MEMBER))
            may = false;
    }
    duet__pool_unlock(pool);
    return may;
}

static const struct duet__future_ops empty_ops = {.kind = "pool",
                                                  .cancel = moment_of_pool_cancel,
                                                  .release = moment_of_pool_cancel,
                                                  .may_settle = empty_may_settle};
static const struct duet__future_ops left_ops = {
    .kind = "pool", .cancel = moment_of_pool_cancel, .release = moment_of_pool_cancel};

static duet_pool *pool_alloc(void)
{
    void *block = duet__alloc_zeroed(1, sizeof(duet_pool) + DUET__LINE);
    if (!block)
        return NULL;
    duet_pool *pool = (void *)(((uintptr_t)block + DUET__LINE - 1) & ~(uintptr_t)(DUET__LINE - 1));
    pool->block = block;
    return pool;
}

static void pool_free_memory(duet_pool *pool)
{
    duet__hooks_unref(pool->hooks);
    duet__free((char *)pool->config.name);
    duet__free(pool->block);
}

static void pool_free(duet_pool *pool)
{
    unlist_pool(pool);
    duet__graph_pass(); /* no search looks at a job of ours any more */
    pool_free_memory(pool);
}

/* Under the lock, which whoever waits takes once more before it goes on: has the last one gone? A
 * submitter who was promised a place still has to look at the pool; one whose wait for room has
 * failed does not. Lock order: the pool's, then that of `empty` and `left`. */
void duet__pool_less(duet_pool *pool)
{
    if (pool->closing && pool->jobs == 0 && pool->promised == 0)
        duet__future_settle(&pool->empty, duet_ok(), 0);
    if (pool->leaving && pool->threads == 0)
        duet__future_settle(&pool->left, duet_ok(), 0);
}

void duet__pool_unlock_last(duet_pool *pool)
{
    bool nobodys =
        pool->owners == 0 && pool->jobs == 0 && pool->promised == 0 && pool->threads == 0;
    duet__unlock(&pool->lock);
    if (nobodys)
        pool_free(pool);
}

void duet__pool_release(duet_pool *pool)
{
    duet__lock(&pool->lock);
    bool joins = --pool->owners == 0 && pool->has_gone;
    pthread_t gone = pool->gone;
    if (joins)
        pool->has_gone = false;
    duet__pool_unlock_last(pool);
    if (joins) /* it has only to return from its function */
        pthread_join(gone, NULL);
}

void duet__pool_dismiss(duet_pool *pool)
{
    struct duet__waiter *worker;
    duet__lock(&pool->lock);
    pool->leaving = true; /* from here on nobody stands idle any more */
    while ((worker = duet__waiter_pop(&pool->idle)) != NULL) {
        pool->coming++;
        duet__waiter_tell(worker);
    }
    duet__pool_less(pool);
    duet__unlock(&pool->lock);
}

/* Of a pool without jobs: its workers have only to leave. */
void duet__pool_leave(duet_pool *pool)
{
    duet__pool_dismiss(pool);
    duet__future_wait(&pool->left, DUET_NEVER, DUET__WAIT_ENDS); /* off the loop, if here is one */
    duet__lock(&pool->lock);
    bool joins = pool->has_gone;
    pool->has_gone = false;
    duet__unlock(&pool->lock);
    if (joins)
        pthread_join(pool->gone, NULL);
}

static int start_least(duet_pool *pool)
{
    int rc = 0;
    for (unsigned i = 0; rc == 0 && i < pool->config.workers_min; i++) {
        duet__lock(&pool->lock);
        pool->threads++;
        pool->coming++;
        duet__unlock(&pool->lock);
        rc = duet__summon_now(pool, (struct duet__summons){.start = true});
    }
    if (rc == 0)
        return 0;
    duet__log(DUET_ERROR, "pool '%s' cannot be opened: not all of its workers_min = %u threads",
              pool->config.name, pool->config.workers_min);
    return rc;
}

/* Blocks, wherever it is called: only for workers that have nothing to do. */
static void undo_open(duet_pool *pool)
{
    struct duet__parker *before = duet__here_set(NULL);
    duet__pool_leave(pool);
    duet__here_set(before);
    duet__pool_release(pool);
}

int duet_pool_open(duet_pool **ret, const duet_pool_config *config)
{
    duet_pool_config given = {0};
    if (!ret)
        return duet__bad_argument(__func__, "ret is NULL");
    if (config)
        given = *config;
    int rc = config_check(&given);
    if (rc == 0)
        rc = config_defaults(&given);
    if (rc < 0)
        return rc;
    duet_pool *pool = pool_alloc();
    if (!pool)
        return -ENOMEM;
    pool->config = given;
    pool->config.name = duet__alloc_string(given.name);
    rc = pool->config.name ? duet__hooks_open(&pool->hooks, given.hooks, given.name, __func__)
                           : -ENOMEM;
    if (rc < 0) {
        pool_free_memory(pool);
        return rc;
    }
    pool->config.hooks = NULL; /* the caller's; ours are copies */
    for (unsigned lane = 0; lane < DUET__LANES; lane++)
        duet__list_init(&pool->lanes[lane]);
    duet__list_init(&pool->intake.jobs);
    duet__list_init(&pool->seats);
    duet__list_init(&pool->idle);
    duet__list_init(&pool->room);
    duet__future_init(&pool->empty, &empty_ops, NULL, 1);
    duet__future_init(&pool->left, &left_ops, NULL, 1);
    pool->empty.name = pool->left.name = pool->config.name;
    pool->owners = 1;
    pool->process = duet__process;
    rc = start_least(pool);
    if (rc < 0) {
        undo_open(pool);
        return rc;
    }
    list_pool(pool);
    *ret = pool;
    return 0;
}

void duet_pool_stats_get(const duet_pool *pool, duet_pool_stats *ret)
{
    if (!pool || !ret) {
        duet__bad_argument(__func__, pool ? "ret is NULL" : "pool is NULL");
        return;
    }
    if (duet__is_foreign(pool->process)) {
        memset(ret, 0, sizeof *ret);
        duet__refuse(__func__, -EOWNERDEAD, duet_strerror(-EOWNERDEAD));
        return;
    }
    duet_pool *locked = (duet_pool *)pool;
    duet__pool_lock(locked);
    unsigned workers = duet__note_workers(locked);
    *ret = pool->stats;
    ret->workers = workers;
    ret->busy = count_busy(locked);
    ret->blocked_in_wait = pool->lent;
    ret->queued = pool->queued;
    ret->completed = count_completed(locked);
    duet__pool_unlock(locked);
}

/* ---- Ending: the parts ---- */

int duet__pool_may_await(const duet_pool *pool)
{
    if (duet__is_foreign(pool->process))
        return -EOWNERDEAD;
    for (const struct duet__parker *at = duet__here(); at; at = at->outer)
        if (at->work && at->work->ops == &duet__job_ops && duet__job_of(at->work)->pool == pool)
            return -EDEADLK;
    return duet__here()->ops->may_wait ? 0 : -EDEADLK;
}

void duet__pool_refuse(duet_pool *pool)
{
    duet__pool_lock(pool);
    if (!pool->closing) {
        pool->closing = true;
        for (struct duet__waiter *submitter;
             (submitter = duet__pool_dismiss_submitter(pool)) != NULL;)
            duet__waiter_tell(submitter);
        duet__pool_less(pool);
    }
    duet__pool_unlock(pool);
}

void duet__pool_cancel(duet_pool *pool)
{
    struct duet__list ours;
    duet__list_init(&ours);
    duet__pool_lock(pool);
    for (unsigned lane = 0; lane < DUET__LANES; lane++) {
        for (struct duet__list *link = pool->lanes[lane].next, *next; link != &pool->lanes[lane];
             link = next) {
            struct duet__job *job = duet__container(link, struct duet__job, link);
            next = link->next;
            if (duet__park_claim(&job->work.parker)) { /* else its canceller removes it */
                duet__job_remove(job);
                pool->stats.cancelled++;
                duet__list_append(&ours, link);
            }
        }
    }
    duet__list_for_each(link, &pool->seats)
    {
        struct duet__job *job = duet__container(link, struct duet__seat, link)->job;
        if (job) /* it has started, so cancelling it does not take our lock */
            duet__park_cancel(&job->work.parker);
    }
    duet__pool_unlock(pool);
    for (struct duet__list *link; (link = duet__list_pop(&ours)) != NULL;)
        duet__job_end_unrun(duet__container(link, struct duet__job, link), -ECANCELED);
}

int duet__pool_await_empty(duet_pool *pool, duet_deadline by)
{
    return duet__future_wait(&pool->empty, by, DUET__WAIT_CLOSES);
}

int duet__pool_list_left(duet_pool *pool, duet_receipt *receipt)
{
    char place[64];
    snprintf(place, sizeof place, "pool '%s'", pool->config.name);
    duet__lock(&pool->lock);
    unsigned count = count_busy(pool), named = 0;
    struct duet__job **left = count ? duet__alloc(count * sizeof(struct duet__job *)) : NULL;
    for (struct duet__list *link = pool->seats.next; left && link != &pool->seats;
         link = link->next) {
        struct duet__job *job = duet__container(link, struct duet__seat, link)->job;
        if (job)
            duet_future_ref(&(left[named++] = job)->work.future);
    }
    duet__unlock(&pool->lock);
    receipt->unlisted += count - named;
    for (unsigned i = 0; i < named; i++) { /* not under the lock: a search takes it the other way */
        char waits_for[160];
        duet__graph_describe(&left[i]->work.parker, waits_for, sizeof waits_for);
        duet__receipt_add(receipt, &left[i]->work.future, place, waits_for);
        duet_future_unref(&left[i]->work.future);
    }
    duet__free(left);
    if (count > 0)
        return -ETIME;
    /* Nothing runs: the last are just settling, or somebody was promised a place and does not
     * come. */
    int rc = duet__pool_await_empty(pool, duet_ms(SETTLING_MS));
    receipt->unlisted += rc < 0;
    return rc < 0 ? -ETIME : 0;
}

/* ---- Ending ---- */

void duet__pool_set_permanent(duet_pool *pool)
{
    pool->permanent = true;
}

/* 0, or why this pool cannot be ended here. */
static int may_end(const char *function, const duet_pool *pool)
{
    if (!pool)
        return duet__bad_argument(function, "pool is NULL");
    if (pool->permanent)
        return duet__bad_argument(function, "the default pool ends with the process");
    return duet__pool_may_await(pool);
}

/* What still runs is named in the log: -ETIME, and how many; or 0, it is empty after all. */
static int report_left(duet_pool *pool, unsigned *ret_count)
{
    duet_receipt left = {0};
    int rc = duet__pool_list_left(pool, &left);
    unsigned count = *ret_count = (unsigned)(left.count + left.unlisted);
    if (rc == 0)
        return 0;
    duet__log(DUET_WARNING, "pool '%s' is not empty by the deadline: %u jobs still run",
              pool->config.name, count);
    duet__receipt_log(&left, "is not empty by the deadline");
    duet__receipt_clear(&left);
    return rc;
}

int duet_pool_drain(duet_pool *pool, duet_deadline by, unsigned *ret_left)
{
    struct duet__parker *here = duet__here();
    int rc = may_end(__func__, pool);
    if (rc == 0 && here->shields == 0 && duet_cancelled())
        rc = -ECANCELED; /* before any effect */
    if (rc < 0)
        return rc == -EINVAL || rc == -EOWNERDEAD ? rc : duet__wait_failed(here, rc);
    duet__pool_refuse(pool);
    rc = duet_future_wait(&pool->empty, by, NULL);
    unsigned left = 0;
    if (rc == -ETIME) {
        duet__pool_cancel(pool);
        report_left(pool, &left);
    }
    if (ret_left)
        *ret_left = left;
    return rc;
}

int duet__pool_end(duet_pool *pool, duet_deadline by)
{
    int rc = duet__pool_may_await(pool);
    if (rc < 0)
        return rc;
    duet__pool_refuse(pool);
    duet__pool_cancel(pool);
    rc = duet__pool_await_empty(pool, by);
    unsigned left;
    if (rc == -ETIME)
        rc = report_left(pool, &left);
    if (rc == 0)
        duet__pool_leave(pool);
    return rc;
}

int duet_pool_close(duet_pool *pool, duet_deadline by)
{
    int rc = may_end(__func__, pool);
    if (rc == 0)
        rc = duet__pool_end(pool, by);
    if (rc == 0)
        duet__pool_release(pool);
    return rc;
}

int duet_pool_shutdown(duet_pool *pool, duet_deadline by, duet_receipt **ret)
{
    duet_receipt left = {0};
    int rc = may_end(__func__, pool);
    if (rc < 0)
        return rc;
    duet__pool_refuse(pool);
    rc = duet__pool_await_empty(pool, duet__half_way(by));
    if (rc < 0) {
        duet__pool_cancel(pool);
        rc = duet__pool_await_empty(pool, by);
    }
    if (rc < 0)
        rc = duet__pool_list_left(pool, &left);
    if (rc < 0)
        duet__pool_dismiss(pool);
    else
        duet__pool_leave(pool);
    duet__pool_release(pool);
    return duet__receipt_end(&left, rc, ret);
}
