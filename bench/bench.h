/* What the programs in C and C++ share: arguments, clocks, quantiles, random numbers, a line a figure. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    BENCH_SKIP = 77 /* exit status: it has no such case */
};

/* ends the program with a sentence if the condition does not hold */
static inline void need(bool condition, const char *what)
{
    if (!condition) {
        fprintf(stderr, "bench: failed: %s\n", what);
        exit(1);
    }
}

/* the text of `key=…` among the arguments; else the default */
static inline const char *bench_text(int argc, char **argv, const char *key, const char *otherwise)
{
    size_t length = strlen(key);
    for (int i = 1; i < argc; i++)
        if (strncmp(argv[i], key, length) == 0 && argv[i][length] == '=')
            return argv[i] + length + 1;
    return otherwise;
}

static inline long bench_long(int argc, char **argv, const char *key, long otherwise)
{
    const char *text = bench_text(argc, argv, key, NULL);
    return text ? strtol(text, NULL, 10) : otherwise;
}

static inline int64_t bench_clock_ns(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

static inline int64_t bench_now_ns(void)
{
    return bench_clock_ns(CLOCK_MONOTONIC);
}

static inline int64_t bench_cpu_ns(void)
{
    return bench_clock_ns(CLOCK_PROCESS_CPUTIME_ID);
}

static inline void bench_say(const char *figure, double value)
{
    printf("%s %.6g\n", figure, value);
    fflush(stdout);
}

static inline int bench_compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* says p50, p99 and p999 of the values, which it sorts: "p50_us 1.2", with a prefix */
static inline void bench_say_quantiles(const char *prefix, double *us, size_t n)
{
    static const struct {
        const char *name;
        double q;
    } quantiles[] = {{"p50_us", 0.5}, {"p99_us", 0.99}, {"p999_us", 0.999}};
    qsort(us, n, sizeof *us, bench_compare);
    for (size_t i = 0; i < sizeof quantiles / sizeof quantiles[0]; i++) {
        size_t at = (size_t)((double)n * quantiles[i].q);
        printf("%s%s %.6g\n", prefix, quantiles[i].name, us[at < n ? at : n - 1]);
    }
    fflush(stdout);
}

/* xorshift64* (S. Vigna, 2016); the same in every language: x ^= x>>12; x ^= x<<25; x ^= x>>27;
 * the number is x * 2685821657736338717 >> 32. Begin with 88172645463325252. */
static inline uint32_t bench_random(uint64_t *state)
{
    uint64_t x = *state;
    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    *state = x;
    return (uint32_t)(x * UINT64_C(2685821657736338717) >> 32);
}

/* How much of the work is done once before it is measured. */
static inline long bench_warm_up(long work)
{
    return work / 20 > 0 ? work / 20 : 1;
}

/* How long a timer of W6 is: whole milliseconds, since some peers know nothing finer. */
static inline long bench_timer_ms(uint64_t *state, long span_ms)
{
    return 1 + (long)(bench_random(state) % (uint64_t)span_ms);
}

/* VmRSS and VmPTE of this process: its pages, and the tables of them. */
struct bench_memory {
    double bytes, tables_bytes;
};

static inline struct bench_memory bench_memory(void)
{
    struct bench_memory memory = {0, 0};
    char line[256];
    FILE *file = fopen("/proc/self/status", "re");
    need(file != NULL, "/proc/self/status");
    while (fgets(line, sizeof line, file))
        if (strncmp(line, "VmRSS:", 6) == 0)
            memory.bytes = strtod(line + 6, NULL) * 1024;
        else if (strncmp(line, "VmPTE:", 6) == 0)
            memory.tables_bytes = strtod(line + 6, NULL) * 1024;
    fclose(file);
    return memory;
}

/* What has come since then, for each of so many. */
static inline void bench_say_memory(struct bench_memory before, long count)
{
    struct bench_memory now = bench_memory();
    bench_say("bytes", (now.bytes - before.bytes) / (double)count);
    bench_say("tables_bytes", (now.tables_bytes - before.tables_bytes) / (double)count);
}
