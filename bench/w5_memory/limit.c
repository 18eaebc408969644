/* W5's memory, the limit: a page for each fiber, with its stack and all that is known of it. */
#include "fiber.h"

#if defined(__x86_64__)
static long asleep;

static void sleeper(struct fiber *self)
{
    (void)self;
    asleep++;
    fiber_wait(); /* nobody makes it ready again */
}

int main(int argc, char **argv)
{
    long sleepers = bench_long(argc, argv, "sleepers", 100000);
    need(sleepers > 0, "arguments");
    fiber_slab_make(sleepers);
    struct bench_memory before = bench_memory();
    for (long i = 0; i < sleepers; i++)
        fiber_spawn(sleeper, 0);
    fiber_yield();
    need(asleep == sleepers, "all sleep");
    bench_say_memory(before, sleepers);
    return 0;
}
#else
int main(void)
{
    return BENCH_SKIP;
}
#endif
