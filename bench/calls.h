/* W1's measuring: calls, one after the other, each timed; the contestant says what a call is. */
#pragma once
#include "bench.h"

#include <errno.h>

/* Calls with this number, and checks that the answer is the number. */
typedef void calls_fn(void *arg, long number);

static inline void calls_sleep_us(long us)
{
    struct timespec gap = {us / 1000000, us % 1000000 * 1000};
    while (nanosleep(&gap, &gap) < 0 && errno == EINTR)
        ;
}

/* Returns how many calls there were in all, and says the figures. */
static inline long calls_measure(int argc, char **argv, calls_fn *call, void *arg)
{
    long calls = bench_long(argc, argv, "calls", 20000), warm = bench_warm_up(calls);
    long gap_us = bench_long(argc, argv, "gap_us", 0);
    need(calls > 0 && gap_us >= 0, "arguments");
    double *us = malloc((size_t)calls * sizeof *us);
    need(us != NULL, "malloc");
    for (long i = -warm; i < calls; i++) {
        if (gap_us > 0)
            calls_sleep_us(gap_us);
        int64_t start_ns = bench_now_ns();
        call(arg, i);
        if (i >= 0)
            us[i] = (double)(bench_now_ns() - start_ns) / 1000;
    }
    bench_say_quantiles("", us, (size_t)calls);
    free(us);
    return warm + calls;
}
