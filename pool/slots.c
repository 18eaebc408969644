/* Who may start: lanes, slots, and the threads to fill them.
 *
 * A SLOT is the right to run; there are workers_max. A job holds one from its start to its end, but
 * for the time that it blocks in a wait of duet: then it lends it, and takes it back at once when
 * the wait is over, even if by then more than workers_max run; nothing new starts until there are
 * fewer again.
 *
 * A THREAD is needed for each job that has started, also for those that wait: workers_max, and
 * spares_max more for those that wait. They are started when there is a job, a free slot, and no
 * idle thread for it. `coming` counts those that were woken or started for that and have not looked
 * for it yet. While one comes, nobody else is summoned: it sees all that has come meanwhile, and if
 * there is more than it takes, summons the next before it begins. So whoever submits many jobs pays
 * for one wake-up, and no job waits for another's end while a slot is free. */
#include "check.h"
#include "log.h"
#include "pool_impl.h"

#include <errno.h>

enum {
    URGENT_IN_ROW = 7, /* urgent jobs, then a normal one */
};

/* ---- Lanes ---- */

static unsigned active(const duet_pool *pool)
{
    return pool->active[DUET__NORMAL] + pool->active[DUET__URGENT];
}

bool duet__needs_no_summons(const duet_pool *pool)
{
    return pool->coming > pool->late || active(pool) >= pool->config.workers_max;
}

/* How many normal jobs may run at once. */
static unsigned normal_max(const duet_pool *pool)
{
    return pool->config.workers_max - pool->config.workers_reserved;
}

static bool has_slot(const duet_pool *pool, unsigned lane)
{
    return active(pool) < pool->config.workers_max &&
           (lane == DUET__URGENT || pool->active[DUET__NORMAL] < normal_max(pool));
}

static bool is_ready(const duet_pool *pool, unsigned lane)
{
    return !duet__list_empty(&pool->lanes[lane]) && has_slot(pool, lane);
}

/* Of this lane: the oldest job that nobody cancels at this moment, now ours; NULL. */
static struct duet__job *take(duet_pool *pool, unsigned lane)
{
    duet__list_for_each(link, &pool->lanes[lane])
    {
        struct duet__job *job = duet__container(link, struct duet__job, link);
        if (duet__park_claim(&job->work.parker))
            return job; /* else its canceller waits for the lock, to remove it */
    }
    return NULL;
}

static struct duet__job *take_next(duet_pool *pool)
{
    bool normal = is_ready(pool, DUET__NORMAL), urgent = is_ready(pool, DUET__URGENT);
    struct duet__job *job = NULL;
    if (urgent && !(normal && pool->urgent_in_row >= URGENT_IN_ROW))
        job = take(pool, DUET__URGENT);
    if (job) {
        pool->urgent_in_row = normal ? pool->urgent_in_row + 1 : 0;
        return job;
    }
    if (normal)
        job = take(pool, DUET__NORMAL);
    if (job)
        pool->urgent_in_row = 0;
    else if (urgent)
        job = take(pool, DUET__URGENT);
    return job;
}

static struct duet__job *take_slot(duet_pool *pool)
{
    struct duet__job *job = take_next(pool);
    if (!job)
        return NULL;
    duet__job_remove(job);
    pool->active[job->lane]++;
    return job;
}

static struct duet__job *take_or_receive(duet_pool *pool)
{
    struct duet__job *job = NULL;
    if (duet__list_empty(&pool->lanes[DUET__URGENT])) /* else a normal one may have its turn */
        job = take_slot(pool);
    if (!job) {
        duet__intake_lock(pool);
        job = take_slot(pool);
        duet__intake_unlock(pool);
    }
    return job;
}

struct duet__job *duet__slot_take_at_hand(duet_pool *pool)
{
    bool empty = duet__list_empty(&pool->lanes[DUET__NORMAL]) &&
                 duet__list_empty(&pool->lanes[DUET__URGENT]);
    return empty && duet__intake_is_empty(pool) ? NULL : take_or_receive(pool);
}

void duet__slot_give(struct duet__job *job)
{
    job->pool->active[job->lane]--;
}

/* ---- Threads ---- */

static bool may_have_thread(const duet_pool *pool)
{
    unsigned spares = pool->lent < pool->config.spares_max ? pool->lent : pool->config.spares_max;
    return pool->threads < pool->config.workers_max + spares;
}

struct duet__summons duet__summon(duet_pool *pool)
{
    struct duet__summons summons = {NULL, false, NULL};
    if (duet__needs_no_summons(pool))
        return summons;
    if (!is_ready(pool, DUET__NORMAL) && !is_ready(pool, DUET__URGENT))
        return summons;
    if (!duet__list_empty(&pool->idle)) { /* who went idle last, whose caches are warm */
        struct duet__list *link = pool->idle.prev;
        duet__list_remove(link);
        summons.idle = duet__container(link, struct duet__waiter, link);
        pool->coming++;
    } else if (may_have_thread(pool)) {
        summons.start = true;
        pool->threads++;
        pool->coming++;
    }
    return summons;
}

struct duet__job *duet__slot_take_first(duet_pool *pool, struct duet__summons *ret_summons)
{
    duet__intake_lock(pool);
    struct duet__job *job = take_slot(pool);
    *ret_summons = job ? duet__summon(pool) : (struct duet__summons){.start = false};
    duet__intake_unlock(pool);
    return job;
}

/* One that runs already may be counted by itself before its starter has; and the other way round. */
unsigned duet__note_workers(duet_pool *pool)
{
    unsigned started = pool->begun > pool->started ? pool->begun : pool->started;
    pool->stats.threads_started = started;
    if (pool->stats.workers_peak < started - pool->left_count)
        pool->stats.workers_peak = started - pool->left_count;
    return started - pool->left_count;
}

static void note_started_thread(duet_pool *pool)
{
    duet__lock(&pool->lock);
    pool->cannot_start = false;
    pool->started++;
    duet__note_workers(pool);
    duet__unlock(&pool->lock);
}

/* In one step, so that no search finds those in the queue to whom nobody would come. */
static void note_refused_thread(duet_pool *pool, const struct duet__job *job, int rc)
{
    struct duet__list hopeless;
    duet__list_init(&hopeless);
    duet__pool_lock(pool);
    bool first = !pool->cannot_start;
    pool->cannot_start = true;
    pool->threads--;
    pool->coming--;
    pool->stats.threads_refused++;
    duet__jobs_claim_hopeless(pool, job, &hopeless);
    duet__pool_promise_all(pool);
    /* Who went idle meanwhile counted on it too. It is woken: no other start is tried here. */
    bool wakes = !duet__list_empty(&pool->idle);
    struct duet__summons summons =
        wakes ? duet__summon(pool) : (struct duet__summons){.start = false};
    duet__pool_less(pool);
    duet__pool_unlock(pool);
    duet__waiter_tell(summons.idle);
    if (first)
        duet__log(
            DUET_WARNING,
            "pool '%s': a thread for a worker could not be started: %s (see RLIMIT_NPROC, ulimit "
            "-u, the cgroup's pids.max, and memory)",
            pool->config.name, duet_strerror(rc));
    duet__jobs_refuse(pool, &hopeless);
    duet__graph_changed(NULL); /* somebody may have counted on it */
}

int duet__summon_now(duet_pool *pool, struct duet__summons summons)
{
    duet__waiter_tell(summons.idle);
    if (!summons.start)
        return 0;
    int rc = duet__worker_start(pool);
    if (rc < 0)
        note_refused_thread(pool, summons.job, rc);
    else
        note_started_thread(pool);
    return rc;
}

/* ---- Lending ---- */

static bool lends(const struct duet__worker *worker)
{
    return worker->seat.job && !(worker->seat.job->flags & DUET_KEEP_SLOT);
}

void duet__slot_lend(struct duet__blocking *blocking)
{
    struct duet__worker *worker = duet__container(blocking, struct duet__worker, blocking);
    duet_pool *pool = worker->pool;
    if (!worker->seat.job || worker->seat.lent)
        return;
    duet__pool_lock(pool);
    duet__pool_promise_all(pool); /* it waits perhaps for one of those who wait for room */
    if (!lends(worker)) {
        duet__pool_unlock(pool);
        return;
    }
    worker->seat.lent = true;
    pool->lent++;
    pool->active[worker->seat.job->lane]--;
    struct duet__summons summons = duet__summon(pool);
    duet__pool_unlock(pool);
    duet__summon_now(pool, summons); /* refused: what is queued waits for one that waits */
}

void duet__slot_back(struct duet__blocking *blocking)
{
    struct duet__worker *worker = duet__container(blocking, struct duet__worker, blocking);
    duet_pool *pool = worker->pool;
    if (!lends(worker) || !worker->seat.lent)
        return;
    duet__lock(&pool->lock);
    worker->seat.lent = false;
    pool->lent--;
    pool->active[worker->seat.job->lane]++;
    duet__unlock(&pool->lock);
}

/* ---- In the graph of waits ---- */

/* So many too many of them are there, for one more to start. */
static unsigned excess(unsigned in_use, unsigned most)
{
    return in_use < most ? 0 : in_use - most + 1;
}

bool duet__slot_may_come(const duet_pool *pool, unsigned lane, struct duet__look *look)
{
    bool slot = has_slot(pool, lane);
    if (slot && (pool->coming > 0 || !duet__list_empty(&pool->idle) ||
                 (may_have_thread(pool) && !pool->cannot_start)))
        return true;
    /* Which of those that run may end, and give a thread; or a slot, if they have not lent it. */
    unsigned threads = 0, slots[DUET__LANES] = {0};
    duet__list_for_each(link, &pool->seats)
    {
        const struct duet__seat *seat = duet__container(link, struct duet__seat, link);
        if (!seat->job || seat->in_place ||
            !duet__look_at(look, &seat->job->work.parker, DUET__VIA_QUEUE))
            continue;
        threads++;
        slots[seat->job->lane] += !seat->lent;
    }
    if (slot)
        return threads > 0;
    return slots[DUET__NORMAL] + slots[DUET__URGENT] >=
               excess(active(pool), pool->config.workers_max) &&
           (lane == DUET__URGENT ||
            slots[DUET__NORMAL] >= excess(pool->active[DUET__NORMAL], normal_max(pool)));
}
