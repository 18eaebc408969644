/* How jobs come in while all slots are taken: past the pool's lock, which the workers need.
 *
 * THE INTAKE has a lock of its own, after the pool's. It is open, by so many places as the queue
 * has left, only while each slot is taken by a job that runs, or a worker is on its way to look for
 * one: then nobody has to be summoned, and a normal job is appended and that is all. What is
 * promised to who waits for a place is not among those places.
 *
 * WHO HAS BOTH LOCKS sees all: taking the second receives what has come, and letting it go says
 * anew whether the intake is open. Everybody takes both but workers, and who only counts. A worker
 * with the pool's lock alone ends its job and takes the next of the lane, so as many slots as
 * before are taken; if there is none, or an urgent one is queued, it takes the other lock too, as
 * does one that has come. So a job is never left in the intake while a slot is free and nobody
 * comes. */
#include "pool_impl.h"

static void receive(duet_pool *pool)
{
    struct duet__intake *intake = &pool->intake;
    uint32_t count = duet__load_relaxed(&intake->count);
    if (count == 0)
        return;
    duet__list_append_all(&pool->lanes[DUET__NORMAL], &intake->jobs);
    pool->jobs += count;
    pool->queued += count;
    pool->stats.submitted += count;
    duet__store_relaxed(&intake->count, 0);
}

void duet__intake_lock(duet_pool *pool)
{
    duet__lock(&pool->intake.lock);
    receive(pool);
}

void duet__intake_unlock(duet_pool *pool)
{
    unsigned taken = pool->queued + pool->promised; /* each 2^30 at most, and one a thread */
    bool open = !pool->closing && duet__needs_no_summons(pool) && taken < pool->config.queue_max;
    pool->intake.places = open ? pool->config.queue_max - taken : 0;
    duet__unlock(&pool->intake.lock);
}

bool duet__intake_enter(duet_pool *pool, struct duet__job *job)
{
    struct duet__intake *intake = &pool->intake;
    duet__lock(&intake->lock);
    bool enters = intake->places > 0;
    if (enters) {
        intake->places--;
        duet__store_relaxed(&intake->count, duet__load_relaxed(&intake->count) + 1);
        duet__list_append(&intake->jobs, &job->link);
    }
    duet__unlock(&intake->lock);
    return enters;
}

void duet__pool_lock(duet_pool *pool)
{
    duet__lock(&pool->lock);
    duet__intake_lock(pool);
}

void duet__pool_unlock(duet_pool *pool)
{
    duet__intake_unlock(pool);
    duet__unlock(&pool->lock);
}
