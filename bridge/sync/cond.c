/* Condition. Who is told is not woken: it is moved to the queue of its mutex, as if it had come to
 * lock that, and wakes when it has it. So a broadcast wakes one at a time, each when it can go on.
 */
#include "check.h"
#include "mutex.h"

#include <errno.h>
#include <stdio.h>

/* The caller's. */
struct cond {
    struct duet__queue queue;
};
_Static_assert(sizeof(struct cond) <= sizeof(duet_cond), "a duet_cond has room for it");

/* One who waits; on its stack. */
struct sleeper {
    struct duet__waiter waiter;
    struct duet__wait wait;
    struct duet__mutex *mutex;
    /* Set under the condition's lock: from then on it waits for the mutex, and leaves the
     * condition alone. Publishes its kind; acquired by who looks. */
    _Atomic bool told;
};

static struct cond *cond_of(duet_cond *c)
{
    return (struct cond *)c;
}

static struct sleeper *sleeper_of(struct duet__waiter *waiter)
{
    return duet__container(waiter, struct sleeper, waiter);
}

/* ---- In the graph of waits ---- */

static bool was_told(const struct duet__wait *wait)
{
    return duet__load_acquire(&duet__container(wait, struct sleeper, wait)->told);
}

static bool may_end(const struct duet__wait *wait, struct duet__look *look)
{
    struct duet__mutex *mutex = duet__container(wait, struct sleeper, wait)->mutex;
    return was_told(wait) ? duet__mutex_may_come(mutex, wait->parker, look)
                          : duet__look_at_threads(look);
}

static const char *describe(const struct duet__wait *wait, char *buf, size_t size)
{
    if (was_told(wait))
        return duet__mutex_describe(duet__container(wait, struct sleeper, wait)->mutex, buf, size);
    snprintf(buf, size, "a condition");
    return buf;
}

static const struct duet__wait_ops wait_ops = {may_end, describe, false};

/* ---- Waiting ---- */

/* Unless it has been told. */
static bool gives_up(struct cond *cond, struct sleeper *sleeper)
{
    if (was_told(&sleeper->wait))
        return false;
    duet__queue_lock(&cond->queue);
    bool told = was_told(&sleeper->wait);
    if (!told)
        duet__list_remove(&sleeper->waiter.link);
    duet__queue_unlock(&cond->queue);
    return !told;
}

/* Gives up, or waits on for its mutex. */
static int after(struct cond *cond, struct sleeper *sleeper, int rc)
{
    if (gives_up(cond, sleeper))
        return duet__wait_failed(sleeper->waiter.parker, rc);
    duet__mutex_await(sleeper->mutex, &sleeper->waiter);
    return 0;
}

static int sleep_without(struct cond *cond, struct duet__mutex *mutex, struct duet__parker *parker,
                         duet_deadline by)
{
    struct sleeper sleeper = {.mutex = mutex};
    bool shielded = parker->shields > 0;
    int rc = duet__wait_check(parker, by, shielded);
    if (rc < 0) { /* others get their turn all the same */
        duet__mutex_unlock(mutex, parker);
        duet__wait_failed(parker, rc);
        duet__mutex_lock_surely(mutex, parker);
        return rc;
    }
    duet__waiter_init(&sleeper.waiter, parker);
    duet__wait_enter(&sleeper.wait, parker, &wait_ops, cond, 1, by, duet__wait_kind(shielded));
    duet__queue_lock(&cond->queue);
    duet__list_append(&cond->queue.waiters, &sleeper.waiter.link);
    duet__queue_unlock(&cond->queue);
    duet__mutex_unlock(mutex, parker);
    rc = duet__park(parker, by, shielded);
    duet__wait_leave(&sleeper.wait);
    if (rc < 0)
        rc = after(cond, &sleeper, rc);
    if (rc == 0)
        duet__mutex_got(parker);
    else
        duet__mutex_lock_surely(mutex, parker);
    return rc;
}

int duet_cond_wait(duet_cond *c, duet_mutex *m, duet_deadline by)
{
    if (!c || !m)
        return duet__bad_argument(__func__, c ? "m is NULL" : "c is NULL");
    struct duet__parker *parker = duet__here();
    struct duet__mutex *mutex = duet__mutex_of(m);
    if (!duet__mutex_is_held_by(mutex, parker))
        return -EPERM;
    if (!parker->ops->may_wait)
        return duet__wait_failed(parker, -EDEADLK);
    return duet__told(sleep_without(cond_of(c), mutex, parker, by));
}

/* ---- Telling ---- */

/* Under the lock: the first, who waits for its mutex from now on, whatever happens; NULL. */
static struct duet__waiter *tell_first(struct cond *cond)
{
    struct duet__waiter *first = duet__waiter_pop(&cond->queue.waiters);
    if (first) {
        duet__store_relaxed(&sleeper_of(first)->wait.kind, DUET__WAIT_ENDS);
        duet__store_release(&sleeper_of(first)->told, true);
    }
    return first;
}

void duet_cond_signal(duet_cond *c)
{
    if (!c) {
        duet__bad_argument(__func__, "c is NULL");
        return;
    }
    duet__queue_lock(&cond_of(c)->queue);
    struct duet__waiter *first = tell_first(cond_of(c));
    duet__queue_unlock(&cond_of(c)->queue);
    if (first)
        duet__mutex_queue(sleeper_of(first)->mutex, first);
}

void duet_cond_broadcast(duet_cond *c)
{
    if (!c) {
        duet__bad_argument(__func__, "c is NULL");
        return;
    }
    struct duet__claimed claimed = {0};
    struct duet__waiter *waiter;
    duet__queue_lock(&cond_of(c)->queue);
    while ((waiter = tell_first(cond_of(c))) != NULL)
        duet__claimed_add(&claimed, waiter);
    duet__queue_unlock(&cond_of(c)->queue);
    while ((waiter = duet__claimed_pop(&claimed)) != NULL)
        duet__mutex_queue(sleeper_of(waiter)->mutex, waiter);
}
