/* What one thread has in hand, for another to glance at: the owner shows and hides things millions of
 * times a second, somebody looks hardly ever. So all that it costs falls on the looker: hiding is a
 * store and a load, and no barrier; whoever looks makes up for it by having the kernel send one
 * through all threads of the process (membarrier.h).
 *
 * PROOF that what is glanced at stays. The looker sets `looking`, then has the barrier sent, then
 * reads the thing. The owner hides the thing, then reads `looking`. If the barrier came before the
 * owner hid it, the owner reads `looking` after it, finds it set, and waits for the lock. Else the
 * looker reads after the barrier what the owner wrote before it: that the thing is hidden, or shown
 * anew, and then it has not been hidden yet. Where the kernel has no such barrier, `looking` is set
 * for good, and the owner takes the lock each time. */
#pragma once
#include "atomic.h"
#include "lock.h"

#include <stddef.h>

/* Owned by who shows things in it. */
struct duet__glance {
    _Atomic(void *) thing; /* written by the owner: release, acquired by who looks */
    _Atomic uint32_t looking; /* relaxed, but for the barrier */
    struct duet__lock lock; /* of those who look */
};

void duet__glance_init(struct duet__glance *glance);
/* By anybody who keeps the owner's memory: what it has in hand; NULL: nothing. It is not let go of
 * before _end(). */
void *duet__glance_begin(struct duet__glance *glance);
void duet__glance_end(struct duet__glance *glance);

/* By the owner. */
static inline void duet__glance_show(struct duet__glance *glance, void *thing)
{
    duet__store_release(&glance->thing, thing);
}

/* By the owner: its own. */
static inline void *duet__glance_own(struct duet__glance *glance)
{
    return duet__load_relaxed(&glance->thing);
}

/* By the owner: nobody sees it any more. */
static inline void duet__glance_hide(struct duet__glance *glance)
{
    duet__store_relaxed(&glance->thing, NULL);
    duet__light_barrier(); /* pairs with the heavy one in duet__glance_begin() */
    if (__builtin_expect(duet__load_relaxed(&glance->looking), 0)) {
        duet__lock(&glance->lock);
        duet__unlock(&glance->lock);
    }
}
