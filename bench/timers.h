/* W6's measuring: timers of random length, and how late each was. The contestant says how to start
 * one, and tells when one fires. */
#pragma once
#include "bench.h"

struct timers {
    long count, fired, early;
    double *late_us;
    int64_t start_cpu_ns, end_cpu_ns;
    uint64_t random;
    long span_ms;
};

static struct timers timers;

static inline void timers_begin(long count, long span_ms)
{
    need(count > 0 && span_ms > 0, "arguments");
    double *late_us = calloc((size_t)count, sizeof *late_us);
    need(late_us != NULL, "calloc");
    memset(late_us, 0, (size_t)count * sizeof *late_us);
    timers = (struct timers){.count = count,
                             .late_us = late_us,
                             .random = UINT64_C(88172645463325252),
                             .span_ms = span_ms};
    timers.start_cpu_ns = bench_cpu_ns();
}

static inline long timers_next_ms(void)
{
    return bench_timer_ms(&timers.random, timers.span_ms);
}

/* One that was due then fires now. True: it was the last. */
static inline bool timers_fired(int64_t due_ns)
{
    int64_t late_ns = bench_now_ns() - due_ns;
    need(timers.fired < timers.count, "each fires once");
    timers.early += late_ns < 0;
    timers.late_us[timers.fired++] = (double)late_ns / 1000;
    if (timers.fired < timers.count)
        return false;
    timers.end_cpu_ns = bench_cpu_ns();
    return true;
}

static inline void timers_end(bool say)
{
    need(timers.fired == timers.count, "all fired");
    if (say) {
        bench_say("cpu_ms", (double)(timers.end_cpu_ns - timers.start_cpu_ns) / 1e6);
        bench_say("early", (double)timers.early);
        bench_say_quantiles("late_", timers.late_us, (size_t)timers.count);
    }
    free(timers.late_us);
}
