/* Barrier. Whoever comes last, or breaks it, takes all who wait out of the queue at once, so no
 * round meets the next. */
#include "check.h"
#include "queue.h"

#include <duet/sync.h>
#include <errno.h>
#include <stdio.h>

/* The caller's. All but the queue's lock is guarded by that. */
struct barrier {
    struct duet__queue queue;
    uint32_t parties; /* 0: not set up */
    uint32_t arrived; /* how many are in the queue */
    bool broken;
};
_Static_assert(sizeof(struct barrier) <= sizeof(duet_barrier), "a duet_barrier has room for it");

/* One who waits; on its stack. */
struct party {
    struct duet__waiter waiter;
    int rc; /* by who claims it */
};

static struct barrier *barrier_of(duet_barrier *b)
{
    return (struct barrier *)b;
}

int duet_barrier_init(duet_barrier *b, unsigned parties)
{
    if (!b)
        return duet__bad_argument(__func__, "b is NULL");
    if (parties == 0)
        return duet__bad_argument(__func__, "parties is 0: nobody would ever come");
    *barrier_of(b) = (struct barrier){.parties = parties};
    return 0;
}

/* Under the lock: ends the round for all who wait. */
static void end_round(struct barrier *barrier, int rc, struct duet__claimed *claimed)
{
    struct duet__waiter *waiter;
    while ((waiter = duet__waiter_pop(&barrier->queue.waiters)) != NULL) {
        duet__container(waiter, struct party, waiter)->rc = rc;
        duet__claimed_add(claimed, waiter);
    }
    barrier->arrived = 0;
}

static void break_round(struct barrier *barrier, struct duet__claimed *claimed)
{
    barrier->broken = true;
    end_round(barrier, -EPIPE, claimed);
}

static const char *describe(const struct duet__wait *wait, char *buf, size_t size)
{
    (void)wait;
    snprintf(buf, size, "the other parties of a barrier");
    return buf;
}

static const struct duet__wait_ops wait_ops = {duet__any_thread_may_end, describe, false};

enum {
    WAITS = 2
};

/* Under the lock: what a party that comes now gets at once, or WAITS. */
static int arrive(const struct barrier *barrier, struct duet__parker *parker, duet_deadline by)
{
    if (duet__wait_is_cancelled(parker))
        return -ECANCELED;
    if (barrier->broken)
        return -EPIPE;
    if (barrier->arrived + 1 == barrier->parties)
        return 1;
    int rc = duet__wait_check(parker, by, parker->shields > 0);
    return rc < 0 ? rc : WAITS;
}

int duet_barrier_wait(duet_barrier *b, duet_deadline by)
{
    if (!b)
        return duet__bad_argument(__func__, "b is NULL");
    struct barrier *barrier = barrier_of(b);
    if (barrier->parties == 0)
        return duet__bad_argument(__func__, "b was not set up: duet_barrier_init() does");
    struct duet__parker *parker = duet__here();
    struct duet__claimed claimed = {0};
    struct party party = {.rc = 0};
    duet__queue_lock(&barrier->queue);
    int rc = arrive(barrier, parker, by);
    if (rc == WAITS) {
        barrier->arrived++;
        duet__waiter_init(&party.waiter, parker);
        rc = duet__queue_sleep(&barrier->queue.lock, &barrier->queue.waiters, &party.waiter,
                               &wait_ops, barrier, by, duet__wait_kind(parker->shields > 0));
        if (rc == 0)
            return party.rc;
    }
    if (rc == 1)
        end_round(barrier, 0, &claimed);
    else if (rc != -EPIPE)
        break_round(barrier, &claimed);
    duet__queue_unlock(&barrier->queue);
    duet__claimed_tell(&claimed);
    return rc == 1 ? rc : duet__told(duet__wait_failed(parker, rc));
}

void duet_barrier_abort(duet_barrier *b)
{
    if (!b) {
        duet__bad_argument(__func__, "b is NULL");
        return;
    }
    struct barrier *barrier = barrier_of(b);
    struct duet__claimed claimed = {0};
    duet__queue_lock(&barrier->queue);
    break_round(barrier, &claimed);
    duet__queue_unlock(&barrier->queue);
    duet__claimed_tell(&claimed);
}
