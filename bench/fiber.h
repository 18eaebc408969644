/* The least that coroutines need: two words to switch, a stack, a list of who is ready. x86_64
 * only; elsewhere what includes this has no such case. */
#pragma once
#if defined(__GNUC__) && !defined(__clang__)
/* It would keep a static variable in a register over a switch to who changes it: that pass does not
 * see that assembly may go on in any function here. */
#pragma GCC optimize("no-ipa-reference")
#endif
#include "bench.h"

#if defined(__x86_64__)
#include <sys/mman.h>

/* Where a suspended fiber goes on. */
struct fiber_place {
    void *ip, *sp, *bp;
};

/* On top of its stack, so that both are in one page. */
struct fiber {
    struct fiber_place place;
    struct fiber *next; /* in the list of ready ones, or of free stacks */
    void (*fn)(struct fiber *self);
    int64_t value; /* an argument, then a result */
    bool ended;
};

enum {
    FIBER_STACK = 64 * 1024,
    FIBER_BLOCK = 64, /* a line of the cache holds a struct fiber */
    /* Tops at the same place of each page would share a few sets of the caches. All stay in the
     * first page. */
    FIBER_COLOURS = 16,
    FIBER_COLOUR = 192,
};

_Static_assert(sizeof(struct fiber) <= FIBER_BLOCK, "it fits");

static struct fiber fiber_main;
static struct fiber *fiber_here = &fiber_main; /* who runs */
static struct fiber *fiber_first, **fiber_end = &fiber_first; /* who is ready */
static struct fiber *fiber_free;

/* The compiler saves what it needs, as the clobbers say; the first three are here, and what is in
 * the argument registers is the arguments of a fiber that begins. Nothing is written on the stack,
 * where a leaf function may have its red zone. */
static inline __attribute__((always_inline)) void fiber_switch(struct fiber_place *from,
                                                               struct fiber_place *to)
{
    __asm__ volatile("leaq 1f(%%rip), %%rax\n\t"
                     "movq %%rax, 0(%%rdi)\n\t"
                     "movq %%rsp, 8(%%rdi)\n\t"
                     "movq %%rbp, 16(%%rdi)\n\t"
                     "movq 8(%%rsi), %%rsp\n\t"
                     "movq 16(%%rsi), %%rbp\n\t"
                     "jmpq *0(%%rsi)\n"
                     "1:"
                     : "+D"(from), "+S"(to)
                     :
                     : "rax", "rbx", "rcx", "rdx", "r8", "r9", "r10", "r11", "r12", "r13", "r14",
                       "r15", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7",
                       "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15",
                       "memory", "cc");
}

static inline void fiber_go_to(struct fiber *next)
{
    struct fiber *self = fiber_here;
    fiber_here = next;
    fiber_switch(&self->place, &next->place);
}

static inline void fiber_ready(struct fiber *fiber)
{
    fiber->next = NULL;
    *fiber_end = fiber;
    fiber_end = &fiber->next;
}

/* To the first that is ready; there must be one. */
static inline void fiber_wait(void)
{
    struct fiber *next = fiber_first;
    fiber_first = next->next;
    if (!fiber_first)
        fiber_end = &fiber_first;
    fiber_go_to(next);
}

static inline void fiber_yield(void)
{
    if (!fiber_first)
        return;
    fiber_ready(fiber_here);
    fiber_wait();
}

/* Where a fiber begins: with what the switch has in its two registers. */
static inline __attribute__((noreturn)) void fiber_begin(struct fiber_place *from,
                                                         struct fiber_place *place)
{
    struct fiber *self = (struct fiber *)place; /* its first member */
    (void)from;
    self->fn(self);
    self->ended = true;
    fiber_wait();
    __builtin_unreachable();
}

static char *fiber_slab;
static long fiber_fresh; /* stacks of it that were never used, and have no page yet, begin here */

static inline void fiber_slab_make(long stacks)
{
    size_t size = (size_t)stacks * FIBER_STACK;
    fiber_slab = mmap(NULL, size, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    need(fiber_slab != MAP_FAILED, "memory for the stacks");
    madvise(fiber_slab, size, MADV_NOHUGEPAGE);
}

static inline struct fiber *fiber_stack(void)
{
    struct fiber *fiber = fiber_free;
    if (fiber) {
        fiber_free = fiber->next;
        return fiber;
    }
    long number = fiber_fresh++;
    char *top = fiber_slab + fiber_fresh * FIBER_STACK - number % FIBER_COLOURS * FIBER_COLOUR;
    return (struct fiber *)(void *)(top - FIBER_BLOCK);
}

/* Ready to run fn; owned by the caller until it has ended and is let go of. */
static inline struct fiber *fiber_spawn(void (*fn)(struct fiber *self), int64_t value)
{
    struct fiber *fiber = fiber_stack();
    char *sp = (char *)fiber - sizeof(void *); /* as after a call */
    fiber->place = (struct fiber_place){(void *)(uintptr_t)fiber_begin, sp, NULL};
    fiber->fn = fn;
    fiber->value = value;
    fiber->ended = false;
    fiber_ready(fiber);
    return fiber;
}

static inline void fiber_let_go(struct fiber *fiber)
{
    fiber->next = fiber_free;
    fiber_free = fiber;
}
#endif
