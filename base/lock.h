/* A lock for a handful of instructions, on which a thread really sleeps if it must (no yielding
 * spin that a real-time thread could turn into a hang). Held over no wait and over no call into the
 * user's code (but for the log's own, log.c). Ulrich Drepper, "Futexes Are Tricky", mutex 2.
 *
 * Owned by the object that embeds it. Unlocking touches the word once, in the exchange; what
 * follows is at most a wake-up by address. So an object may be freed by whoever locks it after the
 * last other holder. */
#pragma once
#include "atomic.h"
#include "futex.h"

struct duet__lock {
    _Atomic uint32_t word; /* 0 free, 1 held, 2 held and somebody may sleep */
};

void duet__lock_slow(struct duet__lock *lock);

static inline void duet__lock(struct duet__lock *lock)
{
    uint32_t is_free = 0;
    /* Acquires what the last holder wrote. Pairs with the release in duet__unlock(). */
    if (!duet__cas_acquire(&lock->word, &is_free, 1))
        duet__lock_slow(lock);
}

/* For what can do without it. */
static inline bool duet__try_lock(struct duet__lock *lock)
{
    uint32_t is_free = 0;
    /* As in duet__lock(). */
    return duet__cas_acquire(&lock->word, &is_free, 1);
}

static inline void duet__unlock(struct duet__lock *lock)
{
    /* Publishes what was written under the lock. Pairs with the acquires in duet__lock*(). */
    if (duet__exchange_release(&lock->word, 0) == 2)
        duet__futex_wake(&lock->word);
}
