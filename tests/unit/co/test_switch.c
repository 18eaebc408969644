/* The switch keeps what the ABI says it keeps, and aligns the stack. Built on its own for other
 * processors too (./dev check runs it under an emulator), so it needs no cmocka and no kernel
 * feature. */
#include "co.h"

#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

enum {
    STACK = 256 * 1024,
    ROUNDS = 100000
};

static struct duet__co main_co, co_a, co_b;
static int steps;

static void must(int condition, const char *what)
{
    if (condition)
        return;
    fprintf(stderr, "not true: %s\n", what);
    abort();
}

/* More live values than there are callee-saved registers, so the compiler keeps some in all of
 * them. */
static uint64_t mix(struct duet__co *from, struct duet__co *to, uint64_t seed)
{
    volatile uint64_t origin = seed;
    uint64_t a = origin, b = a * 3, c = a * 5, d = a * 7, e = a * 11, f = a * 13, g = a * 17,
             h = a * 19, i = a * 23, j = a * 29, k = a * 31, l = a * 37;
    double x = (double)(seed % 1000), y = x * 2, z = x * 3, w = x * 4;
    for (int round = 0; round < ROUNDS; round++) {
        steps++;
        duet__co_switch(from, to);
        a += 1, b += 3, c += 5, d += 7, e += 11, f += 13, g += 17, h += 19, i += 23, j += 29;
        k += 31, l += 37, x += 1, y += 2, z += 3, w += 4;
    }
    must(b == a * 3 && c == a * 5 && d == a * 7 && e == a * 11 && f == a * 13 && g == a * 17 &&
             h == a * 19 && i == a * 23 && j == a * 29 && k == a * 31 && l == a * 37,
         "integer registers survive");
    must(y == x * 2 && z == x * 3 && w == x * 4, "floating-point values survive");
    return a;
}

static void body_a(void *arg)
{
    must(arg == &co_a, "the argument arrives");
    _Alignas(16) volatile char aligned[16] = {0};
    must(((uintptr_t)aligned & 15) == 0, "the stack is aligned");
    printf("%.3f\n", 1.0 / (1 + aligned[0])); /* variadic floats fault on a misaligned stack */
    must(mix(&co_a, &co_b, 12345) == 12345 + ROUNDS, "the value of a");
    duet__co_switch(&co_a, &main_co);
    abort();
}

static void body_b(void *arg)
{
    must(arg == &co_b, "the argument arrives");
    mix(&co_b, &co_a, 99);
    duet__co_switch(&co_b, &co_a);
    abort();
}

int main(void)
{
    char *stacks = malloc(2 * STACK);
    must(stacks != NULL, "memory");
    duet__co_adopt(&main_co);
    duet__co_init(&co_a, stacks, stacks + STACK, body_a, &co_a);
    duet__co_init(&co_b, stacks + STACK, stacks + 2 * STACK, body_b, &co_b);
    duet__co_switch(&main_co, &co_a);
    must(steps == 2 * ROUNDS, "both took turns");
    duet__co_fini(&co_a);
    duet__co_fini(&co_b);
    duet__co_release();
    free(stacks);
    printf("%d switches kept every register\n", steps * 2);
    return 0;
}
