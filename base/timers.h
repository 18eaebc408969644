/* Deadlines: far ones in a wheel, whose every step is a few instructions however many there are; near
 * ones, of the tick that has come, in a heap, which knows their order to the nanosecond.
 *
 * The wheel is hierarchical (G. Varghese, A. Lauck, "Hashed and Hierarchical Timing Wheels", SOSP
 * 1987): a digit of six bits a level. A timer is on the level of the highest digit in which its tick
 * differs from the wheel's, in that digit's slot. So all of a level come before those of the next
 * level, and in the order of their slots. When the wheel comes to where a slot begins, the slot's
 * timers go on to lower levels, those of the lowest to the heap.
 *
 * Nothing ticks: the wheel moves when somebody asks what is due, past empty slots for nothing, and
 * each slot knows when its nearest timer is due. (If that one has left it is too early; then a
 * wake-up was in vain, which spreads the slot.)
 *
 * All this is in a table of entries; a timer itself is touched only when it comes and goes, never
 * for others. */
#pragma once
#include "heap.h"

struct duet__timer {
    uint32_t place; /* its entry's number; 0: it is not armed */
};

enum {
    DUET__TICK_BITS = 20, /* a tick is 2^20 ns, about a millisecond */
    DUET__WHEEL_BITS = 6,
    DUET__WHEEL_SLOTS = 1 << DUET__WHEEL_BITS,
    DUET__WHEEL_LEVELS = 8, /* of 63 bits, 43 are ticks */
    DUET__WHEEL_LANES = 8, /* lists of a slot, by number: so many are fetched at once */
};

/* Owned by its timers; free ones are chained by `next`. */
struct duet__timer_entry {
    int64_t when_ns;
    struct duet__timer *timer;
    uint32_t next, prev; /* numbers, in its lane; 0: none */
};

/* Owned by one loop, used by its thread alone. Room is reserved beforehand, where a failure can
 * still be reported; adding cannot fail. All zero: empty. */
struct duet__timers {
    struct duet__timer_entry *entries; /* entries[1…used] */
    uint32_t used, room;
    uint32_t free; /* the first free entry; 0: none */
    struct duet__heap near; /* those whose tick is not after the wheel's */
    int64_t tick; /* the wheel's */
    unsigned levels; /* a bit for each that has timers */
    uint64_t slots[DUET__WHEEL_LEVELS]; /* likewise */
    struct duet__wheel_slot {
        uint32_t first[DUET__WHEEL_LANES]; /* entries; 0: none */
        int64_t least_ns; /* none of them is due before */
    } wheel[DUET__WHEEL_LEVELS][DUET__WHEEL_SLOTS];
};

/* Room for `count` timers at once. 0 or -ENOMEM. */
int duet__timers_reserve(struct duet__timers *timers, size_t count);
void duet__timers_add(struct duet__timers *timers, struct duet__timer *timer, int64_t when_ns);
void duet__timers_remove(struct duet__timers *timers, struct duet__timer *timer);
/* Removes those that are due, the nearest first, up to `most` of them; returns how many. */
size_t duet__timers_due(struct duet__timers *timers, int64_t now_ns, struct duet__timer *due[],
                        size_t most);
/* How many are due by then, up to `most`. Soon, since all that come before draw near. */
size_t duet__timers_count_until(struct duet__timers *timers, int64_t when_ns, size_t most);
void duet__timers_fini(struct duet__timers *timers);

static inline int64_t duet__timers_nearest_ns(const struct duet__timers *timers)
{
    if (timers->near.count > 0 || timers->levels == 0)
        return duet__heap_nearest_ns(&timers->near);
    int level = __builtin_ctz(timers->levels);
    return timers->wheel[level][__builtin_ctzll(timers->slots[level])].least_ns;
}

/* Is it worth asking what is due? Something may be, or the wheel is far behind, so that it would sort
 * new timers coarsely. */
static inline bool duet__timers_want(const struct duet__timers *timers, int64_t now_ns)
{
    return duet__timers_nearest_ns(timers) <= now_ns ||
           (now_ns >> DUET__TICK_BITS) - timers->tick >= DUET__WHEEL_SLOTS;
}
