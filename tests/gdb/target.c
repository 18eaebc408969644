/* Suspends a coroutine three calls deep and stops, for a debugger to look at (tests/gdb/walk.gdb).
 */
#include "co.h"

#include <stdlib.h>

enum {
    STACK = 64 * 1024
};

static struct duet__co main_co;
struct duet__co target_co; /* what the debugger looks for */
void look_here(void);

__attribute__((noinline)) static void deepest_function(volatile int *depth)
{
    *depth += 1;
    duet__co_switch(&target_co, &main_co);
    *depth += 1;
}

__attribute__((noinline)) static void middle_function(volatile int *depth)
{
    *depth += 1;
    deepest_function(depth);
    *depth += 1;
}

static void body(void *arg)
{
    volatile int depth = 0;
    (void)arg;
    middle_function(&depth);
    abort();
}

__attribute__((noinline)) void look_here(void)
{
    __asm__ volatile("");
}

int main(void)
{
    char *stack = malloc(STACK);
    if (!stack)
        return 1;
    duet__co_adopt(&main_co);
    duet__co_init(&target_co, stack, stack + STACK, body, NULL);
    duet__co_switch(&main_co, &target_co);
    look_here();
    free(stack);
    return 0;
}
