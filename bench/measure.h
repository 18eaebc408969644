/* What the benchmarks share: rounds, medians, one line a result. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum {
    ROUNDS_MAX = 101
};

static inline int64_t measure_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

static inline int64_t measure_cpu_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

static inline int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static inline void need(bool condition, const char *what)
{
    if (!condition) {
        fprintf(stderr, "bench: failed: %s\n", what);
        exit(1);
    }
}

/* Sorts the values. */
static inline double quantile(double *values, size_t n, double q)
{
    qsort(values, n, sizeof *values, compare_doubles);
    size_t i = (size_t)((double)n * q);
    return values[i < n ? i : n - 1];
}

/* Runs one round so many times and prints the median of what it returns, with the spread. */
static inline double report(const char *name, const char *unit, int rounds,
                            double (*round)(void *arg), void *arg)
{
    double values[ROUNDS_MAX];
    for (int i = 0; i < rounds; i++)
        values[i] = round(arg);
    double median = quantile(values, (size_t)rounds, 0.5);
    printf("%-44s %10.3f %-8s (%.3f to %.3f, %d rounds)\n", name, median, unit, values[0],
           values[rounds - 1], rounds);
    fflush(stdout);
    return median;
}
