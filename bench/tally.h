/* Counting what ran on several threads: one atomic word, in C as in the other languages, so that
 * its cost is the same for all. */
#pragma once
#include "bench.h"

#include <semaphore.h>

static struct {
    _Alignas(64) long ran;
    _Alignas(64) long expected;
    int64_t end_ns; /* when the last ran */
    sem_t all_ran;
} tally;

/* From here on so many; nothing may run yet. */
static inline void tally_expect(long expected)
{
    need(sem_init(&tally.all_ran, 0, 0) == 0, "sem_init");
    tally.ran = 0;
    tally.expected = expected;
}

/* One more has run here. */
static inline void tally_count(void)
{
    long expected = tally.expected; /* before: when all have run it may change */
    if (__atomic_add_fetch(&tally.ran, 1, __ATOMIC_ACQ_REL) != expected)
        return;
    tally.end_ns = bench_now_ns();
    sem_post(&tally.all_ran);
}

/* Waits for the last, and tells when it ran. */
static inline int64_t tally_wait(void)
{
    while (sem_wait(&tally.all_ran) < 0)
        ;
    return tally.end_ns;
}

/* When nothing can run any more. */
static inline void tally_check(void)
{
    need(__atomic_load_n(&tally.ran, __ATOMIC_ACQUIRE) == tally.expected, "each job ran once");
}
