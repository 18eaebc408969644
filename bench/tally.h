/* Counting what ran on several threads, without a word that all of them write: that would cost more
 * than the jobs. Each thread counts in a line of its own. */
#pragma once
#include "bench.h"

enum {
    TALLY_THREADS_MOST = 256
};

struct tally_line {
    long count;
} __attribute__((aligned(64)));

static struct tally_line tally_lines[TALLY_THREADS_MOST];
static unsigned tally_threads;
static __thread struct tally_line *tally_mine;

static inline void tally_begin(void)
{
    unsigned number = __atomic_fetch_add(&tally_threads, 1, __ATOMIC_RELAXED);
    need(number < TALLY_THREADS_MOST, "at most 256 threads count");
    tally_mine = &tally_lines[number];
}

/* One more has run here. */
static inline void tally_count(void)
{
    if (!tally_mine)
        tally_begin();
    __atomic_store_n(&tally_mine->count, tally_mine->count + 1, __ATOMIC_RELAXED);
}

static inline long tally_sum(void)
{
    long sum = 0;
    for (int i = 0; i < TALLY_THREADS_MOST; i++)
        sum += __atomic_load_n(&tally_lines[i].count, __ATOMIC_RELAXED);
    return sum;
}

/* Waits until so many have run in all: when that was, within a fifth of a millisecond. */
static inline int64_t tally_wait(long count)
{
    const struct timespec moment = {0, 200000};
    while (tally_sum() < count)
        nanosleep(&moment, NULL);
    need(tally_sum() == count, "each job ran once");
    return bench_now_ns();
}
