/* W5's limit: fibers on warm stacks, taken last in first out, whose tops do not share the same sets
 * of the caches. */
#include "fiber.h"

#if defined(__x86_64__)
static struct fiber **handles;
static long running;

static void child(struct fiber *self)
{
    self->value++;
    if (--running == 0)
        fiber_ready(&fiber_main);
}

static long spawn_batch(long batch)
{
    long sum = 0;
    running = batch;
    for (long i = 0; i < batch; i++)
        handles[i] = fiber_spawn(child, 0);
    fiber_wait();
    for (long i = 0; i < batch; i++) {
        need(handles[i]->ended, "it has ended");
        sum += handles[i]->value;
        fiber_let_go(handles[i]);
    }
    return sum;
}

static void spawn_all(long spawns, long batch)
{
    long ran = 0;
    for (long left = spawns; left > 0; left -= batch)
        ran += spawn_batch(left < batch ? left : batch);
    need(ran == spawns, "each ran once");
}

int main(int argc, char **argv)
{
    long spawns = bench_long(argc, argv, "spawns", 1000000);
    long batch = bench_long(argc, argv, "batch", 1000);
    need(spawns > 0 && batch > 0, "arguments");
    handles = calloc((size_t)batch, sizeof(struct fiber *));
    need(handles != NULL, "calloc");
    fiber_slab_make(batch);
    spawn_all(bench_warm_up(spawns), batch);
    int64_t start_ns = bench_now_ns();
    spawn_all(spawns, batch);
    bench_say("spawn_ns", (double)(bench_now_ns() - start_ns) / (double)spawns);
    free(handles);
    return 0;
}
#else
int main(void)
{
    return BENCH_SKIP;
}
#endif
