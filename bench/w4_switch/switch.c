/* W4, the bare context switch of duet: the one program that looks inside, since no public call is
 * only a switch. */
#include "bench.h"
#include "co.h"

enum {
    STACK = 64 * 1024
};

static struct duet__co here, there;
static _Alignas(64) char stack[STACK];
static long visits;

static void bounce(void *arg)
{
    (void)arg;
    for (;;) {
        visits++;
        duet__co_switch(&there, &here);
    }
}

static void switch_often(long pairs)
{
    for (; pairs > 0; pairs--)
        duet__co_switch(&here, &there);
}

int main(int argc, char **argv)
{
    long pairs = bench_long(argc, argv, "yields", 2000000) * 5, warm = bench_warm_up(pairs);
    need(pairs > 0, "arguments");
    duet__co_adopt(&here);
    duet__co_init(&there, stack, stack + STACK, bounce, NULL);
    switch_often(warm);
    int64_t start_ns = bench_now_ns();
    switch_often(pairs);
    double ns = (double)(bench_now_ns() - start_ns);
    need(visits == warm + pairs, "it was there each time");
    bench_say("switch_ns", ns / (2 * (double)pairs));
    return 0;
}
