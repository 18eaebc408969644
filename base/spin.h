/* How long to look before sleeping, learnt from how long the sleeps were: a sleep that ended within
 * about the cost of a wake-up would have been cheaper as a look, a look that ended in a sleep was
 * in vain. Owned by its one thread. Costs nothing once a thread is idle: two vain looks and it
 * stops. */
#pragma once
#include "clock.h"
#include "cpu.h"

#include <stdbool.h>

struct duet__spin {
    int32_t budget_ns; /* how long the next look is; 0: sleep at once */
    int32_t limit_ns; /* how long it may become; 0: never look */
};

enum {
    DUET__SHORT_SLEEP_NS = 20000, /* about one wake-up across processors, measured 14 to 18 µs */
    DUET__SPIN_LEAST_NS = 2500,
    DUET__SPIN_BATCH = 16, /* looks between two readings of the clock */
};

/* Looks until ready(arg) or the budget or by_ns is over; returns what ready() said last. */
static inline bool duet__spin(struct duet__spin *spin, bool (*ready)(void *arg), void *arg,
                              int64_t by_ns)
{
    if (spin->budget_ns == 0)
        return false;
    int64_t end = duet__clock_ns() + spin->budget_ns;
    if (by_ns < end)
        end = by_ns;
    do {
        for (int i = 0; i < DUET__SPIN_BATCH; i++) {
            if (ready(arg))
                return true;
            duet__cpu_relax();
        }
    } while (duet__clock_ns() < end);
    spin->budget_ns = spin->budget_ns / 2 < DUET__SPIN_LEAST_NS ? 0 : spin->budget_ns / 2;
    return ready(arg);
}

static inline void duet__spin_slept(struct duet__spin *spin, int64_t slept_ns)
{
    if (slept_ns < DUET__SHORT_SLEEP_NS && duet__cpu_count() > 1)
        spin->budget_ns = spin->limit_ns;
}
