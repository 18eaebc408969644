#include "stack.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#ifdef DUET__ASAN
#include <sanitizer/lsan_interface.h>
#endif

#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#endif

enum {
    GUARD_SIZE = 64 * 1024,
    SLAB_LEAST = 16,
    SLAB_MOST = 1024,
    /* Warm reserve: so many free stacks keep their pages whatever happens; above the high-water
     * mark of twice that, and above half of the peak in use, idle time gives pages back down to the
     * reserve. */
    WARM_RESERVE = 256,
    TRIM_BATCH = 64,
    /* Neighbouring stacks begin at different cache lines of the top page: else the tops, a
     * multiple of the page apart, all fall into the same few lines of the first-level cache. */
    COLOUR_STEP = 64,
    COLOURS = 32,
    CANARY_WORDS = 8,
};
static const uint64_t canary = UINT64_C(0x5afe57ac4d0e7d17);

/* A run of equal slots in one mapping: [guard | usable stack and one page]. Owned by its stacks.
 * The odd page makes the slots' distance an odd number of pages, which spreads them over the
 * second-level cache too. */
struct duet__slab {
    struct duet__slab *next;
    char *base;
    size_t slot, count, fresh; /* stacks[fresh…] were never used */
    struct duet__stack stacks[];
};

enum duet__guard duet__guard_first = DUET__GUARD_MADVISE;

static size_t page_size(void)
{
    return (size_t)sysconf(_SC_PAGESIZE);
}

void duet__stacks_init(struct duet__stacks *stacks, size_t size, void (*entry)(void *stack),
                       const struct duet__stacks_ops *ops, void *ctx)
{
    memset(stacks, 0, sizeof *stacks);
    stacks->size = (size + page_size() - 1) & ~(page_size() - 1);
    stacks->entry = entry;
    stacks->ops = ops;
    stacks->ctx = ctx;
    stacks->guard = duet__guard_first;
}

/* ---- Guards ---- */

/* How many mprotect guards this process has, against its budget; a number, publishes nothing. */
static atomic_long mprotect_guards;

static long mprotect_budget(void)
{
    static atomic_long budget;
    long found = atomic_load_explicit(&budget, memory_order_relaxed);
    if (found == 0) {
        long maps = 65530; /* the kernel's default */
        FILE *file = fopen("/proc/sys/vm/max_map_count", "re");
        if (file) {
            if (fscanf(file, "%ld", &maps) != 1)
                maps = 65530;
            fclose(file);
        }
        found = maps / 8 > 0 ? maps / 8 : 1; /* two mappings a guard, a quarter of them all */
        atomic_store_explicit(&budget, found, memory_order_relaxed);
    }
    return found;
}

static bool guard_madvise(char *guard)
{
    return madvise(guard, GUARD_SIZE, MADV_GUARD_INSTALL) == 0;
}

static bool guard_mprotect(char *guard)
{
    if (atomic_fetch_add_explicit(&mprotect_guards, 1, memory_order_relaxed) < mprotect_budget() &&
        mprotect(guard, GUARD_SIZE, PROT_NONE) == 0)
        return true;
    atomic_fetch_sub_explicit(&mprotect_guards, 1, memory_order_relaxed);
    return false;
}

static void warn_unguarded(struct duet__stacks *stacks)
{
    static atomic_flag warned = ATOMIC_FLAG_INIT; /* once a process */
    char line[256];
    if (atomic_flag_test_and_set_explicit(&warned, memory_order_relaxed))
        return;
    snprintf(
        line, sizeof line,
        "further coroutine stacks have no guard pages, only a canary: %ld are guarded by mprotect, "
        "a quarter of vm.max_map_count. Raise it (sysctl vm.max_map_count=N), or use Linux 6.13 or "
        "later, which needs no mapping for a guard",
        mprotect_budget());
    stacks->ops->warn(stacks->ctx, line);
}

static void guard_canary(struct duet__stack *stack)
{
    uint64_t *words = (uint64_t *)(void *)stack->co.low;
    for (int i = 0; i < CANARY_WORDS; i++)
        words[i] = canary;
}

/* The best guard that this kernel, this process's limits and locked memory allow. */
static void guard_stack(struct duet__stacks *stacks, struct duet__stack *stack, char *guard)
{
    if (stacks->guard == DUET__GUARD_MADVISE && !guard_madvise(guard))
        stacks->guard = DUET__GUARD_MPROTECT;
    if (stacks->guard == DUET__GUARD_MPROTECT && !guard_mprotect(guard)) {
        stacks->guard = DUET__GUARD_CANARY;
        warn_unguarded(stacks);
    }
    stack->guard = stacks->guard;
}

bool duet__stack_canary_intact(const struct duet__stack *stack)
{
    const uint64_t *words = (const uint64_t *)(const void *)stack->co.low;
    uint64_t changed = 0;
    for (int i = 0; i < CANARY_WORDS; i++)
        changed |= words[i] ^ canary;
    return changed == 0;
}

/* ---- Slabs ---- */

static struct duet__slab *slab_map(struct duet__stacks *stacks, size_t count)
{
    struct duet__slab *slab = stacks->ops->alloc(1, sizeof *slab + count * sizeof slab->stacks[0]);
    if (!slab)
        return NULL;
    slab->slot = GUARD_SIZE + stacks->size + page_size();
    slab->count = count;
    slab->base = mmap(NULL, slab->slot * count, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
    if (slab->base == MAP_FAILED) {
        stacks->ops->free(slab);
        return NULL;
    }
    /* A huge page under a stack would make a small coroutine 2 MiB; refusal costs memory only. */
    madvise(slab->base, slab->slot * count, MADV_NOHUGEPAGE);
    slab->next = stacks->slabs;
    stacks->slabs = slab;
    return slab;
}

/* A slab with a fresh stack: each as large as all before it, smaller where memory is scarce. */
static struct duet__slab *slab_with_fresh(struct duet__stacks *stacks)
{
    struct duet__slab *slab = stacks->slabs;
    if (slab && slab->fresh < slab->count)
        return slab;
    size_t count = slab ? slab->count * 2 : SLAB_LEAST;
    for (count = count < SLAB_MOST ? count : SLAB_MOST; count > 0; count /= 2)
        if ((slab = slab_map(stacks, count)) != NULL)
            return slab;
    return NULL;
}

static void stack_prepare(struct duet__stack *stack, char *low, char *high, char *guard)
{
    duet__co_init(&stack->co, low, high, stack->home->entry, stack);
    stack->co.size = stack->home->size;
    stack->co.guard = stack->guard == DUET__GUARD_CANARY ? NULL : guard;
    if (stack->guard == DUET__GUARD_CANARY)
        guard_canary(stack);
}

static struct duet__stack *fresh_stack(struct duet__stacks *stacks)
{
    struct duet__slab *slab = slab_with_fresh(stacks);
    if (!slab)
        return NULL;
    size_t i = slab->fresh++;
    struct duet__stack *stack = &slab->stacks[i];
    char *guard = slab->base + i * slab->slot;
    char *high = guard + slab->slot - i % COLOURS * COLOUR_STEP;
    stack->home = stacks;
    guard_stack(stacks, stack, guard);
    stack_prepare(stack, guard + GUARD_SIZE, high, guard);
#ifdef DUET__ASAN
    /* What only a suspended coroutine's stack points to is no leak. */
    __lsan_register_root_region(stack->co.low, (size_t)(high - stack->co.low));
#endif
    return stack;
}

/* ---- Reuse ---- */

static struct duet__stack *pop_warm(struct duet__stacks *stacks)
{
    struct duet__stack *stack = stacks->warm_newest;
    if (!stack)
        return NULL;
    stacks->warm_newest = stack->older;
    if (stack->older)
        stack->older->newer = NULL;
    else
        stacks->warm_oldest = NULL;
    stacks->warm_count--;
    return stack;
}

static struct duet__stack *pop_cold(struct duet__stacks *stacks)
{
    struct duet__stack *stack = stacks->cold;
    if (!stack)
        return NULL;
    stacks->cold = stack->older;
    char *low = stack->co.low, *high = stack->co.high;
    stack_prepare(stack, low, high, low - GUARD_SIZE);
    return stack;
}

struct duet__stack *duet__stacks_get(struct duet__stacks *stacks)
{
    struct duet__stack *stack = pop_warm(stacks);
    if (!stack)
        stack = pop_cold(stacks);
    if (!stack)
        stack = fresh_stack(stacks);
    if (stack && ++stacks->used_count > stacks->used_peak)
        stacks->used_peak = stacks->used_count;
    return stack;
}

void duet__stacks_put(struct duet__stack *stack)
{
    struct duet__stacks *stacks = stack->home;
    stack->newer = NULL;
    stack->older = stacks->warm_newest;
    if (stack->older)
        stack->older->newer = stack;
    else
        stacks->warm_oldest = stack;
    stacks->warm_newest = stack;
    stacks->warm_count++;
    stacks->used_count--;
}

static void cool_oldest(struct duet__stacks *stacks)
{
    struct duet__stack *stack = stacks->warm_oldest;
    stacks->warm_oldest = stack->newer;
    if (stack->newer)
        stack->newer->older = NULL;
    else
        stacks->warm_newest = NULL;
    stacks->warm_count--;
    duet__co_fini(&stack->co);
    char *end = (char *)(((uintptr_t)stack->co.high + page_size() - 1) & ~(page_size() - 1));
    madvise(stack->co.low, (size_t)(end - stack->co.low), MADV_DONTNEED); /* guards stay */
    stack->older = stacks->cold;
    stacks->cold = stack;
}

bool duet__stacks_trim(struct duet__stacks *stacks)
{
    if (stacks->warm_count <= 2 * WARM_RESERVE)
        return false;
    /* The peak fades, so that a burst's stacks are kept for the next burst but not for ever. */
    stacks->used_peak -= stacks->used_peak / 8;
    if (stacks->used_peak < stacks->used_count)
        stacks->used_peak = stacks->used_count;
    if (stacks->used_count + stacks->warm_count <= stacks->used_peak)
        return true;
    for (int i = 0; i < TRIM_BATCH && stacks->warm_count > WARM_RESERVE; i++)
        cool_oldest(stacks);
    return stacks->warm_count > 2 * WARM_RESERVE;
}

void duet__stacks_fini(struct duet__stacks *stacks)
{
    for (struct duet__stack *stack = stacks->warm_newest; stack; stack = stack->older)
        duet__co_fini(&stack->co);
    while (stacks->slabs) {
        struct duet__slab *slab = stacks->slabs;
        stacks->slabs = slab->next;
        for (size_t i = 0; i < slab->fresh; i++) {
            struct duet__stack *stack = &slab->stacks[i];
            if (stack->guard == DUET__GUARD_MPROTECT)
                atomic_fetch_sub_explicit(&mprotect_guards, 1, memory_order_relaxed);
#ifdef DUET__ASAN
            __lsan_unregister_root_region(stack->co.low, (size_t)(stack->co.high - stack->co.low));
#endif
        }
        munmap(slab->base, slab->slot * slab->count);
        stacks->ops->free(slab);
    }
}
