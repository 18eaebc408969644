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
    SLAB_LEAST = 16,
    SLAB_MOST = 1024,
    /* Warm reserve: so many free stacks keep their pages whatever happens; above the high-water
     * mark of twice that, idle time gives pages back down to the reserve, of those that nobody
     * needed for UNNEEDED_NS: so a burst's stacks are kept for the next burst but not for ever. */
    WARM_RESERVE = 256,
    TRIM_BATCH = 64,
    TRIM_EVERY_NS = 10000000,
    UNNEEDED_NS = 1000000000,
    /* Neighbouring stacks begin at different cache lines of the top page: else the tops, a
     * multiple of the page apart, all fall into the same few lines of the first-level cache. */
    COLOUR_STEP = 64,
    COLOURS = 32,
    CANARY_WORDS = 8,
};
static const uint64_t canary = UINT64_C(0x5afe57ac4d0e7d17);

/* A run of equal slots in one mapping: [guard | usable stack | struct duet__stack, colour]; the last
 * two take a page at most. Owned by its stacks. That page makes the slots' distance an odd number of
 * pages, which spreads them over the second-level cache too.
 *
 * A stack whose pages were given back has no struct, only its number here. */
struct duet__slab {
    struct duet__slab *next, *next_cold;
    struct duet__stacks *home;
    char *base;
    size_t slot, count, fresh; /* from number `fresh` on they were never used */
    /* So many have such a guard, and none the others, in this order: the ladder only goes down. */
    size_t by_madvise, by_mprotect;
    size_t cold_count;
    uint16_t cold[]; /* numbers, the latest last */
};

_Static_assert((COLOURS - 1) * COLOUR_STEP + sizeof(struct duet__stack) <= 4096, "in one page");
_Static_assert(SLAB_MOST <= UINT16_MAX, "numbers fit");

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
    return madvise(guard, DUET__GUARD_SIZE, MADV_GUARD_INSTALL) == 0;
}

static bool guard_mprotect(char *guard)
{
    if (atomic_fetch_add_explicit(&mprotect_guards, 1, memory_order_relaxed) < mprotect_budget() &&
        mprotect(guard, DUET__GUARD_SIZE, PROT_NONE) == 0)
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

static void guard_canary(const struct duet__stack *stack)
{
    uint64_t *words = (uint64_t *)(void *)stack->co.low;
    for (int i = 0; i < CANARY_WORDS; i++)
        words[i] = canary;
}

/* Of the next fresh stack: the best guard that this kernel, this process's limits and locked memory
 * allow. */
static void guard_fresh(struct duet__stacks *stacks, struct duet__slab *slab, char *guard)
{
    if (stacks->guard == DUET__GUARD_MADVISE && !guard_madvise(guard))
        stacks->guard = DUET__GUARD_MPROTECT;
    if (stacks->guard == DUET__GUARD_MPROTECT && !guard_mprotect(guard)) {
        stacks->guard = DUET__GUARD_CANARY;
        warn_unguarded(stacks);
    }
    slab->by_madvise += stacks->guard == DUET__GUARD_MADVISE;
    slab->by_mprotect += stacks->guard == DUET__GUARD_MPROTECT;
}

static bool is_guarded(const struct duet__slab *slab, size_t number)
{
    return number < slab->by_madvise + slab->by_mprotect;
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

/* Room in the ring of warm ones for so many stacks. False: no memory. */
static bool make_room(struct duet__stacks *stacks, size_t count)
{
    size_t room = stacks->warm_room ? stacks->warm_room : SLAB_LEAST;
    while (room < count)
        room *= 2;
    if (room == stacks->warm_room)
        return true;
    struct duet__stack **warm = stacks->ops->alloc(room, sizeof(struct duet__stack *));
    if (!warm)
        return false;
    for (size_t i = 0; i < stacks->warm_count; i++)
        warm[i] = *duet__stacks_place(stacks, i);
    stacks->ops->free(stacks->warm);
    stacks->warm = warm;
    stacks->warm_first = 0;
    stacks->warm_room = room;
    return true;
}

static struct duet__slab *slab_map(struct duet__stacks *stacks, size_t count)
{
    if (!make_room(stacks, stacks->count + count))
        return NULL;
    struct duet__slab *slab = stacks->ops->alloc(1, sizeof *slab + count * sizeof slab->cold[0]);
    if (!slab)
        return NULL;
    slab->home = stacks;
    slab->slot = DUET__GUARD_SIZE + stacks->size + page_size();
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
    stacks->count += count;
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

static char *slot_of(const struct duet__slab *slab, size_t number)
{
    return slab->base + number * slab->slot;
}

static size_t number_of(const struct duet__stack *stack)
{
    return (size_t)(stack->co.low - stack->slab->base) / stack->slab->slot;
}

enum duet__guard duet__stack_guard(const struct duet__stack *stack)
{
    size_t number = number_of(stack);
    if (number < stack->slab->by_madvise)
        return DUET__GUARD_MADVISE;
    return is_guarded(stack->slab, number) ? DUET__GUARD_MPROTECT : DUET__GUARD_CANARY;
}

/* Of a stack without pages: this is what touches the first. */
static struct duet__stack *stack_prepare(struct duet__slab *slab, size_t number)
{
    char *low = slot_of(slab, number) + DUET__GUARD_SIZE;
    char *top = slot_of(slab, number + 1) - number % COLOURS * COLOUR_STEP;
    struct duet__stack *stack = (struct duet__stack *)(void *)top - 1;
    duet__co_init(&stack->co, low, (char *)stack, slab->home->entry, stack);
    stack->co.size_kib = (unsigned)(slab->home->size / 1024) & INT32_MAX;
    stack->co.guarded = is_guarded(slab, number);
    if (!stack->co.guarded)
        guard_canary(stack);
    stack->starter = NULL;
    stack->slab = slab;
    stack->home = slab->home;
    return stack;
}

static struct duet__stack *fresh_stack(struct duet__stacks *stacks)
{
    struct duet__slab *slab = slab_with_fresh(stacks);
    if (!slab)
        return NULL;
    size_t number = slab->fresh++;
    guard_fresh(stacks, slab, slot_of(slab, number));
#ifdef DUET__ASAN
    /* What only a suspended coroutine's stack points to is no leak. */
    __lsan_register_root_region(slot_of(slab, number) + DUET__GUARD_SIZE,
                                slab->slot - DUET__GUARD_SIZE);
#endif
    return stack_prepare(slab, number);
}

/* ---- Reuse ---- */

static struct duet__stack *pop_cold(struct duet__stacks *stacks)
{
    struct duet__slab *slab = stacks->cold;
    if (!slab)
        return NULL;
    size_t number = slab->cold[--slab->cold_count];
    if (slab->cold_count == 0)
        stacks->cold = slab->next_cold;
    return stack_prepare(slab, number);
}

static void push_cold(struct duet__stacks *stacks, struct duet__slab *slab, size_t number)
{
    if (slab->cold_count == 0) {
        slab->next_cold = stacks->cold;
        stacks->cold = slab;
    }
    slab->cold[slab->cold_count++] = (uint16_t)number;
}

struct duet__stack *duet__stacks_get_cold(struct duet__stacks *stacks)
{
    struct duet__stack *stack = pop_cold(stacks);
    return stack ? stack : fresh_stack(stacks);
}

static struct duet__stack *pop_oldest(struct duet__stacks *stacks)
{
    struct duet__stack *stack = *duet__stacks_place(stacks, 0);
    stacks->warm_first++;
    if (--stacks->warm_count < stacks->warm_least)
        stacks->warm_least = stacks->warm_count;
    return stack;
}

static void cool_oldest(struct duet__stacks *stacks)
{
    struct duet__stack *stack = pop_oldest(stacks);
    struct duet__slab *slab = stack->slab;
    size_t number = number_of(stack);
    duet__co_fini(&stack->co);
    madvise(stack->co.low, slab->slot - DUET__GUARD_SIZE, MADV_DONTNEED); /* guards stay */
    push_cold(stacks, slab, number);
}

/* Once a second: the oldest of the list were not needed, as many as it never fell below. (As J.
 * Bonwick and J. Adams find the working set of a depot, "Magazines and Vmem", USENIX 2001.) */
static void find_unneeded(struct duet__stacks *stacks, int64_t now_ns)
{
    stacks->unneeded = stacks->warm_least;
    stacks->warm_least = stacks->warm_count;
    stacks->looked_ns = now_ns;
}

int64_t duet__stacks_trim(struct duet__stacks *stacks, int64_t now_ns)
{
    if (stacks->warm_count <= 2 * WARM_RESERVE && stacks->unneeded == 0)
        return INT64_MAX;
    if (now_ns - stacks->looked_ns >= UNNEEDED_NS)
        find_unneeded(stacks, now_ns);
    for (int i = 0; i < TRIM_BATCH && stacks->unneeded > 0; i++) {
        stacks->unneeded--;
        if (stacks->warm_count > WARM_RESERVE)
            cool_oldest(stacks);
    }
    if (stacks->unneeded > 0)
        return now_ns + TRIM_EVERY_NS;
    return stacks->warm_count > 2 * WARM_RESERVE ? stacks->looked_ns + UNNEEDED_NS : INT64_MAX;
}

void duet__stacks_fini(struct duet__stacks *stacks)
{
    for (size_t i = 0; i < stacks->warm_count; i++)
        duet__co_fini(&(*duet__stacks_place(stacks, i))->co);
    stacks->ops->free(stacks->warm);
    while (stacks->slabs) {
        struct duet__slab *slab = stacks->slabs;
        stacks->slabs = slab->next;
        atomic_fetch_sub_explicit(&mprotect_guards, (long)slab->by_mprotect, memory_order_relaxed);
#ifdef DUET__ASAN
        for (size_t i = 0; i < slab->fresh; i++)
            __lsan_unregister_root_region(slot_of(slab, i) + DUET__GUARD_SIZE,
                                          slab->slot - DUET__GUARD_SIZE);
#endif
        munmap(slab->base, slab->slot * slab->count);
        stacks->ops->free(slab);
    }
}
