/* Stacks for coroutines: cut from slabs, guarded, reused last in first out.
 *
 * A stack is used by one piece of work after another. Its entry function is a loop that takes the
 * next one each time it is switched to; so nothing is set up anew for a warm stack, and the
 * sanitizers see one long-lived fiber. */
#pragma once
#include "co.h"

#include <stdint.h>

enum duet__guard {
    DUET__GUARD_MADVISE, /* MADV_GUARD_INSTALL, Linux 6.13: no mapping of its own, any number */
    DUET__GUARD_MPROTECT, /* two mappings each: within a quarter of vm.max_map_count */
    DUET__GUARD_CANARY, /* a pattern at the low end, looked at when the coroutine switches away */
};

/* On top of the stack itself, so that a coroutine that sleeps needs no page but one; there while the
 * stack has its pages: in use by one coroutine, or warm on a free list. Owned by its slab. */
struct duet__stack {
    /* First, so that the running co leads here; and all that a switch looks at in one cache line. */
    _Alignas(64) struct duet__co co;
    void *work; /* the user's: what runs on it */
    void *starter; /* the user's: who goes on when that ends; NULL */
    struct duet__slab *slab;
    struct duet__stacks *home; /* constant */
};

struct duet__slab;

/* What whoever uses stacks gives them. */
struct duet__stacks_ops {
    void *(*alloc)(size_t count, size_t size); /* as calloc(), for the books */
    void (*free)(void *block);
    void (*warn)(void *ctx, const char *line); /* once for each loss of protection */
};

/* All stacks of one size. Owned by one loop, used by its thread alone. */
struct duet__stacks {
    size_t size; /* usable bytes, whole pages */
    void (*entry)(void *stack);
    const struct duet__stacks_ops *ops; /* constant */
    void *ctx;
    struct duet__slab *slabs;
    size_t count; /* of stacks, in all slabs */
    struct duet__slab *cold; /* those that have free stacks without pages */
    /* Free, with their pages: the oldest first, in a ring with room for all there are, so that none
     * of them is touched when another comes or goes. */
    struct duet__stack **warm;
    size_t warm_room, warm_first, warm_count; /* the room is a power of two */
    size_t warm_least; /* the least since `looked_ns`: so many nobody needed */
    size_t unneeded; /* of the oldest warm ones: their pages go back */
    int64_t looked_ns;
    enum duet__guard guard; /* the best that still works */
};

/* Allocates nothing yet. size is rounded up to whole pages. */
void duet__stacks_init(struct duet__stacks *stacks, size_t size, void (*entry)(void *stack),
                       const struct duet__stacks_ops *ops, void *ctx);
/* In the ring, the one after so many. */
static inline struct duet__stack **duet__stacks_place(struct duet__stacks *stacks, size_t after)
{
    return &stacks->warm[(stacks->warm_first + after) & (stacks->warm_room - 1)];
}

struct duet__stack *duet__stacks_get_cold(struct duet__stacks *stacks);
/* A stack whose next switch calls or continues entry(stack). NULL: no memory. */
static inline struct duet__stack *duet__stacks_get(struct duet__stacks *stacks)
{
    if (stacks->warm_count == 0)
        return duet__stacks_get_cold(stacks);
    struct duet__stack *stack = *duet__stacks_place(stacks, --stacks->warm_count);
    if (stacks->warm_count < stacks->warm_least)
        stacks->warm_least = stacks->warm_count;
    return stack;
}

/* Back again, by the scheduler: nothing runs on it any more. */
static inline void duet__stacks_put(struct duet__stack *stack)
{
    struct duet__stacks *stacks = stack->home;
    *duet__stacks_place(stacks, stacks->warm_count++) = stack;
}

/* In idle time: gives the pages of some stacks above the warm reserve, which nobody has needed for a
 * second, back to the kernel. Returns when it is to be called again; INT64_MAX: there is nothing
 * more. */
int64_t duet__stacks_trim(struct duet__stacks *stacks, int64_t now_ns);
/* False: the work on it has run over its end. */
bool duet__stack_canary_intact(const struct duet__stack *stack);
static inline bool duet__stack_intact(const struct duet__stack *stack)
{
    return stack->co.guarded || duet__stack_canary_intact(stack);
}
/* All stacks must be back. */
void duet__stacks_fini(struct duet__stacks *stacks);

/* Tests only: where the ladder of guards begins, and which rung a stack is on. */
extern enum duet__guard duet__guard_first;
enum duet__guard duet__stack_guard(const struct duet__stack *stack);
