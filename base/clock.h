/* CLOCK_MONOTONIC in nanoseconds, inside. Outside it is duet_deadline. */
#pragma once
#include <stdint.h>
#include <time.h>

#define DUET__NEVER INT64_MAX

static inline int64_t duet__earlier_ns(int64_t a_ns, int64_t b_ns)
{
    return a_ns < b_ns ? a_ns : b_ns;
}

#ifdef DUET_MODEL
int64_t duet__clock_ns(void); /* the model's own time */
#else
static inline int64_t duet__clock_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

/* A few milliseconds late, and a fraction of the cost: for ages. */
static inline int64_t duet__clock_coarse_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}
#endif
