/* W5's memory with duet: coroutines that sleep for an hour, each with a timer; the end of the loop
 * cancels them. */
#include "bench.h"

#include <duet/duet.h>

static long asleep, cancelled;

static duet_result sleeper(void *arg)
{
    (void)arg;
    asleep++;
    cancelled += duet_sleep(duet_sec(3600)) < 0;
    return duet_ok();
}

static duet_result measure(void *arg)
{
    long sleepers = *(const long *)arg;
    struct bench_memory before = bench_memory();
    for (long i = 0; i < sleepers; i++)
        duet_future_unref(duet_spawn(sleeper, NULL));
    while (asleep < sleepers)
        need(duet_yield() == 0, "duet_yield");
    bench_say_memory(before, sleepers);
    return duet_ok();
}

int main(int argc, char **argv)
{
    long sleepers = bench_long(argc, argv, "sleepers", 100000);
    need(sleepers > 0, "arguments");
    need(duet_run(measure, &sleepers, NULL) == 0, "duet_run");
    need(cancelled == sleepers, "all slept");
    return 0;
}
