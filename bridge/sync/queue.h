/* What the primitives share: a queue of those who wait, in the order in which they came, and how
 * they sleep there and are told.
 *
 * THE LAST TOUCH. Whoever is let in or woken may free the object at once. So what lets others go
 * on, a change of a word that they look at or the unlock of the queue, is the last that a call
 * does to the object; the claimed are told after that, and they stay until they are. */
#pragma once
#include "graph.h"
#include "list.h"
#include "lock.h"
#include "park.h"

/* Owned by the object that embeds it; all zero, nobody waits. */
struct duet__queue {
    struct duet__lock lock;
    struct duet__list waiters;
};

static inline void duet__queue_lock(struct duet__queue *queue)
{
    duet__lock(&queue->lock);
    if (!queue->waiters.next)
        duet__list_init(&queue->waiters);
}

static inline void duet__queue_unlock(struct duet__queue *queue)
{
    duet__unlock(&queue->lock);
}

/* Under the lock, which it releases: appends the waiter to `list`, which the lock guards, and
 * sleeps until somebody claims it. 0: claimed, and the lock is not held. <0: as duet__park(); the
 * waiter is in no list, and the lock is held. `of` is what ops look at. */
int duet__queue_sleep(struct duet__lock *lock, struct duet__list *list, struct duet__waiter *waiter,
                      const struct duet__wait_ops *ops, const void *of, duet_deadline by,
                      enum duet__wait_kind kind);

/* Claimed under the lock, told without it, in their order. All zero: nobody. */
struct duet__claimed {
    struct duet__waiter *first, *last; /* they hang together by their links' prev */
};
/* Of one that was taken out of its list. */
void duet__claimed_add(struct duet__claimed *claimed, struct duet__waiter *waiter);
void duet__claimed_add_all(struct duet__claimed *claimed, struct duet__list *list);
/* The first, who is told by the caller; NULL: none is left. */
struct duet__waiter *duet__claimed_pop(struct duet__claimed *claimed);
void duet__claimed_tell(struct duet__claimed *claimed);
