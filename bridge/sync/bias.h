/* A lock that is favourable to one thread: as long as nobody else has come, that thread enters and
 * leaves by plain loads and stores. After K. Kawachiya, A. Koseki and T. Onodera, "Lock
 * Reservation" (OOPSLA 2002).
 *
 * WHO IS FAVOURED. A thread that has taken the lock so many times in a row. The first other one
 * that comes ends that, for good: an object that two threads share is theirs by an ordinary lock,
 * and one that a single loop uses costs no locked instruction.
 *
 * WHY IT EXCLUDES. All but the favoured thread hold the lock within, so it is one of them at a time
 * that meets it. The favoured one says that it is inside, and then looks whether it is still
 * favoured; the other says that it is not, and then looks whether it is inside. With a full barrier
 * between, on both sides, one of the two sees the other (T. J. Dekker; E. W. Dijkstra, EWD 123).
 * The barrier of the favoured one, which comes often, is free, because the other, which comes once,
 * has the kernel execute it on every thread of the process (membarrier, P. E. McKenney and
 * M. Desnoyers): before it, then what was stored is seen by who came; or after it, then what he
 * stored is seen. Without that system call nobody is ever favoured.
 *
 * Owned by the object that embeds it; all zero, it is free. To be inside counts as holding the lock
 * in the order of locks; and as with duet__unlock(), to leave touches one word once: the object may
 * be freed by whoever comes after the last other one. */
#pragma once
#include "atomic.h"
#include "lock.h"

#include <stdbool.h>
#include <stdint.h>

struct duet__bias {
    struct duet__lock lock;
    /* The number of the favoured thread, 0: nobody. Set by that thread, cleared by the first other
     * one, under the lock. Relaxed: the barrier orders it. */
    _Atomic uint32_t favoured;
    /* Likewise, while it is inside, else 0. Written by it alone. To be inside is relaxed, as above;
     * to leave releases what was done there, to whoever ends its favour. */
    _Atomic uint32_t inside;
    /* Under the lock: who took it last, and how often in a row; whether two have come since somebody
     * was favoured. */
    uint32_t last, streak;
    bool is_shared;
};

/* The number of this thread, of which no other one that lives has the same; UINT32_MAX: not known
 * yet. */
#ifdef DUET_MODEL
uint32_t duet__bias_me(void);
#else
extern _Thread_local uint32_t duet__bias_number;
static inline uint32_t duet__bias_me(void)
{
    return duet__bias_number;
}
#endif

void duet__bias_lock_slow(struct duet__bias *bias);

/* By the favoured thread: true, and it is inside; false: it, or whoever it was, is to lock. */
static inline bool duet__bias_enter(struct duet__bias *bias)
{
    uint32_t me = duet__bias_me();
    if (__builtin_expect(duet__load_relaxed(&bias->favoured) != me, 0))
        return false;
    duet__store_relaxed(&bias->inside, me);
    duet__light_barrier(); /* pairs with duet__heavy_barrier() in bias.c */
    if (__builtin_expect(duet__load_relaxed(&bias->favoured) == me, 1))
        return true;
    duet__store_release(&bias->inside, 0);
    return false;
}

/* By who has entered so. */
static inline void duet__bias_leave(struct duet__bias *bias)
{
    duet__store_release(&bias->inside, 0); /* pairs with the acquire in bias.c */
}

static inline void duet__bias_lock(struct duet__bias *bias)
{
    if (!duet__bias_enter(bias))
        duet__bias_lock_slow(bias);
}

static inline void duet__bias_unlock(struct duet__bias *bias)
{
    /* Our own, or 0, or another's. */
    if (duet__load_relaxed(&bias->inside) == duet__bias_me())
        duet__bias_leave(bias);
    else
        duet__unlock(&bias->lock);
}
