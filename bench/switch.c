/* The bare context switch, in nanoseconds: the one benchmark that looks inside, since no public
 * call is only a switch. */
#include "co.h"
#include "measure.h"

enum {
    SWITCHES = 5000000,
    ROUNDS = 9,
    STACK = 64 * 1024
};

static struct duet__co here, there;
static _Alignas(64) char stack[STACK];

static void bounce(void *arg)
{
    (void)arg;
    for (;;)
        duet__co_switch(&there, &here);
}

static double switch_round(void *arg)
{
    (void)arg;
    int64_t start = measure_now_ns();
    for (int i = 0; i < SWITCHES; i++)
        duet__co_switch(&here, &there);
    return (double)(measure_now_ns() - start) / (2.0 * SWITCHES);
}

int main(void)
{
    duet__co_adopt(&here);
    duet__co_init(&there, stack, stack + STACK, bounce, NULL);
    report("switch: from stack to stack", "ns", ROUNDS, switch_round, NULL);
    return 0;
}
