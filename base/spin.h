/* How long to look before sleeping, learnt from how long the sleeps were: a sleep that ended within
 * about the cost of a wake-up would have been cheaper as a look, a look that ended in a sleep was
 * in vain. Owned by its one thread. Costs nothing once a thread is idle: two vain looks and it
 * stops.
 *
 * A look in vain, and then a short sleep: whoever was looked for could run once we slept, perhaps
 * because we had kept it from the processor. Then some short sleeps are let pass before the next
 * look, twice as many each time until a look is answered. */
#pragma once
#include "clock.h"
#include "cpu.h"

#include <stdbool.h>

struct duet__spin {
    int32_t budget_ns; /* how long the next look is; 0: sleep at once */
    int32_t limit_ns; /* how long it may become; 0: never look */
    bool in_vain; /* the latest look was, and a sleep follows */
    uint16_t passes; /* short sleeps to let pass before the next look */
    uint16_t passes_next; /* … after another look that was in the way; 0: one */
};

enum {
    /* Two wake-ups across processors: those measured are 14 to 25 µs, one there and one back. */
    DUET__SHORT_SLEEP_NS = 60000,
    DUET__SPIN_LEAST_NS = 2500,
    DUET__SPIN_BATCH = 16, /* looks between two readings of the clock */
    DUET__PASSES_MOST = 1024,
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
            if (ready(arg)) {
                spin->passes_next = 0;
                return true;
            }
            duet__cpu_relax();
        }
    } while (duet__clock_ns() < end);
    spin->in_vain = true;
    spin->budget_ns = spin->budget_ns / 2 < DUET__SPIN_LEAST_NS ? 0 : spin->budget_ns / 2;
    return ready(arg);
}

static inline void duet__spin_slept(struct duet__spin *spin, int64_t slept_ns)
{
    bool was_in_vain = spin->in_vain;
    spin->in_vain = false;
    if (slept_ns >= DUET__SHORT_SLEEP_NS || duet__cpu_count() == 1)
        return;
    if (was_in_vain) {
        spin->budget_ns = 0;
        spin->passes = spin->passes_next ? spin->passes_next : 1;
        spin->passes_next = spin->passes < DUET__PASSES_MOST ? spin->passes * 2 : spin->passes;
    } else if (spin->passes > 0) {
        spin->passes--;
    } else {
        spin->budget_ns = spin->limit_ns;
    }
}
