/* How long to look before sleeping, learnt from how long the sleeps were: a sleep that ended within
 * about the cost of a wake-up would have been cheaper as a look, a look that ended in a sleep was
 * in vain. Owned by its one thread. Costs nothing once a thread is idle: two vain looks and it
 * stops.
 *
 * A look in vain, and then a short sleep: whoever was looked for could run once we slept, perhaps
 * because we had kept it from the processor. Then some short sleeps are let pass before the next
 * look, twice as many each time until a look is answered.
 *
 * TWO ON ONE PROCESSOR while another is idle take turns, at a wake-up each, and stay there for
 * some ten ticks: each is woken where it ran last, it seems the more so on a virtual machine,
 * where a processor that the hypervisor has put aside does not count as idle. At a tick the kernel
 * looks for one that waits, to take it to the idle processor; but here mostly neither does just
 * then, and who has waited for less than half a millisecond is left, as its cache is warm. So when
 * this has lasted for a millisecond or two, one turn right after another, looks insist: they last
 * until after the next tick, so that there is one that waits. Mostly that is over at the first or
 * second tick, and looks are answered from then on. If it is not, since the other processors are
 * busy, it is tried again 20 ms later, then 80, and so on; at once only after a second without short
 * sleeps. Who has something else to see to meanwhile does not insist: a loop with operations in
 * flight, a job, whose slot is lent only as it sleeps. */
#pragma once
#include "clock.h"
#include "cpu.h"

#include <stdbool.h>

struct duet__spin {
    int32_t budget_ns; /* how long the next look is; 0: sleep at once */
    int32_t limit_ns; /* how long it may become, unless it insists; 0: never look */
    uint32_t slept_us; /* when the latest short sleep ended; wraps around, as does this: */
    uint32_t insist_us; /* not before then again */
    uint32_t in_vain : 1; /* the latest look was, and a sleep follows */
    uint32_t turns : 2; /* how many looks insist, from this one on */
    uint32_t passes : 12; /* short sleeps to let pass before the next look */
    uint32_t misses : 8; /* looks in a row that were in the way */
    uint32_t insisted : 4; /* how often, of late */
};

enum {
    /* Two wake-ups across processors: those measured are 14 to 25 µs, one there and one back. */
    DUET__SHORT_SLEEP_NS = 60000,
    DUET__SPIN_LEAST_NS = 2500,
    DUET__SPIN_BATCH = 16, /* looks between two readings of the clock */
    DUET__PASSES_MOST_LOG2 = 10,
    DUET__MISSES_MOST = 255,
    DUET__INSIST_FIRST = 6, /* after 63 short sleeps, and as many of the other's */
    DUET__INSIST_PAUSE_US = 20000,
    DUET__INSISTED_MOST = 6, /* then 80 s */
    DUET__CALM_US = 1000000,
    DUET__TURN_US = 100, /* from one short sleep to the next, if turns follow each other */
    DUET__INSIST_TURNS = 3, /* at most, of each side: who looks may lose its turn at the tick */
    DUET__INSIST_NS = 5000000, /* a tick of 4 ms, and until the idle processor has come */
};

/* The next look is learnt from a sleep that was so long and has just ended. */
void duet__spin_learn(struct duet__spin *spin, int64_t now_ns, int64_t slept_ns);

/* Before a sleep: the moment, if anything is learnt from it. */
static inline int64_t duet__spin_sleeps(void)
{
    return duet__cpu_count() == 1 ? 0 : duet__clock_ns();
}

/* After a sleep that began then. */
static inline void duet__spin_slept(struct duet__spin *spin, int64_t start_ns)
{
    if (duet__cpu_count() == 1) /* nobody looks */
        return;
    int64_t now_ns = duet__clock_ns();
    duet__spin_learn(spin, now_ns, now_ns - start_ns);
}

/* By who has something else to see to: the next look does not insist. */
static inline void duet__spin_hurry(struct duet__spin *spin)
{
    if (spin->budget_ns > spin->limit_ns)
        spin->budget_ns = spin->limit_ns;
}

/* A look was answered so late, after others that were in the way. */
void duet__spin_met(struct duet__spin *spin, int64_t looked_ns);

/* Looks until ready(arg) or the budget or by_ns is over; returns what ready() said last. */
static inline bool duet__spin(struct duet__spin *spin, bool (*ready)(void *arg), void *arg,
                              int64_t by_ns)
{
    if (spin->budget_ns == 0)
        return false;
    int64_t start = duet__clock_ns(), end = start + spin->budget_ns;
    if (by_ns < end)
        end = by_ns;
    do {
        for (int i = 0; i < DUET__SPIN_BATCH; i++) {
            if (ready(arg)) {
                if (__builtin_expect(spin->misses > 0, 0) && i > 0) /* else it was there before */
                    duet__spin_met(spin, duet__clock_ns() - start);
                return true;
            }
            duet__cpu_relax();
        }
    } while (duet__clock_ns() < end);
    spin->in_vain = true;
    int32_t half_ns = (spin->budget_ns < spin->limit_ns ? spin->budget_ns : spin->limit_ns) / 2;
    spin->budget_ns = half_ns < DUET__SPIN_LEAST_NS ? 0 : half_ns;
    return ready(arg);
}
