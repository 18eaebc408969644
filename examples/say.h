/* What the examples share: a line with the time since the start, the thread, and who speaks. */
#pragma once
#include <duet/duet.h>

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

static int64_t say_start_ns;

static inline double seconds_since_start(void)
{
    return (double)(duet_now_ns() - say_start_ns) / 1e9;
}

__attribute__((format(printf, 1, 2))) static inline void say(const char *format, ...)
{
    char thread[16] = "", text[256];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    pthread_getname_np(pthread_self(), thread, sizeof thread);
    printf("%6.3f s  %-15s %-12s %s\n", seconds_since_start(), thread, duet_self_name(), text);
}

/* For what must not fail in an example: says what did, and ends. */
static inline void need(int rc, const char *what)
{
    if (rc >= 0)
        return;
    fprintf(stderr, "%s: %s\n", what, duet_strerror(rc));
    exit(1);
}

/* At the beginning of main(). */
static inline void say_begin(void)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    say_start_ns = duet_now_ns();
}
