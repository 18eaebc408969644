/* W4's limit: a switch that the compiler sees through, between two stacks; and a yield by a plain
 * list of who is ready. */
#include "fiber.h"

#if defined(__x86_64__)
static long visits, pairs_each;

static void bounce(struct fiber *self)
{
    for (;;) {
        visits++;
        fiber_switch(&self->place, &fiber_main.place);
    }
}

static void switch_often(struct fiber *other, long pairs)
{
    for (; pairs > 0; pairs--)
        fiber_switch(&fiber_main.place, &other->place);
}

static double switch_ns(long pairs)
{
    struct fiber *other = fiber_spawn(bounce, 0);
    fiber_first = NULL; /* it runs by switches alone */
    fiber_end = &fiber_first;
    switch_often(other, bench_warm_up(pairs));
    visits = 0;
    int64_t start_ns = bench_now_ns();
    switch_often(other, pairs);
    double ns = (double)(bench_now_ns() - start_ns);
    need(visits == pairs, "it was there each time");
    return ns / (2 * (double)pairs);
}

static void yield_often(struct fiber *self)
{
    for (long left = pairs_each; left > 0; left--) {
        fiber_yield();
        self->value++;
    }
}

static int64_t yield_in_pair(long each)
{
    pairs_each = each;
    fiber_main.value = 0;
    struct fiber *other = fiber_spawn(yield_often, 0);
    yield_often(&fiber_main);
    while (!other->ended)
        fiber_yield();
    need(fiber_main.value == each && other->value == each, "both yielded so often");
    fiber_let_go(other);
    return 2 * each;
}

int main(int argc, char **argv)
{
    long yields = bench_long(argc, argv, "yields", 2000000), each = yields / 2;
    need(each > 0, "arguments");
    fiber_slab_make(2);
    bench_say("switch_ns", switch_ns(yields * 5));
    yield_in_pair(bench_warm_up(each));
    int64_t start_ns = bench_now_ns();
    int64_t yielded = yield_in_pair(each);
    bench_say("yield_ns", (double)(bench_now_ns() - start_ns) / (double)yielded);
    return 0;
}
#else
int main(void)
{
    return BENCH_SKIP;
}
#endif
