#include "slab.h"
#include "atomic.h"
#include "fork.h"
#include "lock.h"

#include <errno.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/resource.h>

enum {
    SLAB_SIZE = 256 << 10,
    SLABS_MOST = sizeof(void *) > 4 ? 16384 : 256, /* 4 GiB of addresses: 13 million tasks */
};

/* At the beginning of its own memory. Owned by who made it, then by the slabs that it is added to. */
struct duet__slab {
    struct duet__slab *next, *prev; /* in the list, while it has free blocks */
    void *free; /* blocks that came back, chained by their first word; NULL: none */
    size_t size; /* of a block */
    uint32_t cut, room; /* so many blocks have been cut, of so many */
    uint32_t out; /* blocks that somebody has */
};

/* Its lock guards it, but for a look at `base`. */
static struct {
    struct duet__lock lock;
    _Atomic(char *) base; /* NULL: not reserved yet; constant from then on */
    bool refused; /* it cannot be */
    uint32_t begun; /* slabs that were used at least once: the first ones */
    uint32_t ours_from; /* those before are the parent process's */
    uint32_t free_count;
    uint16_t free[SLABS_MOST]; /* numbers of those that are empty now */
} range;

/* What another thread did to the parent's slabs when it forked is not known: they are left alone. */
static void reset(void)
{
    range.lock = (struct duet__lock){0};
    range.ours_from = range.begun;
    range.free_count = 0;
}
DUET__IN_CHILD(reset)

/* ---- The range ---- */

/* The range would take its addresses from the stacks of coroutines. */
static bool addresses_are_scarce(void)
{
    struct rlimit limit;
    return getrlimit(RLIMIT_AS, &limit) < 0 || limit.rlim_cur != RLIM_INFINITY;
}

/* Under the lock. Addresses alone: no memory is promised, nor counted by the kernel, but for
 * RLIMIT_AS. */
static char *reserve(void)
{
    const size_t size = (size_t)SLABS_MOST * SLAB_SIZE;
    char *base = duet__load_relaxed(&range.base);
    if (base || range.refused)
        return base;
    char *all = MAP_FAILED;
    if (!addresses_are_scarce())
        all = mmap(NULL, size + SLAB_SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                   -1, 0);
    range.refused = all == MAP_FAILED;
    if (range.refused)
        return NULL;
    base = all + (SLAB_SIZE - (uintptr_t)all % SLAB_SIZE) % SLAB_SIZE;
    /* Relaxed: who asks about a block of a slab got it from who saw this. */
    duet__store_relaxed(&range.base, base);
    return base;
}

/* NULL: none is left, or there is no memory. */
static struct duet__slab *take_slab(void)
{
    char *base = reserve();
    if (base && range.free_count > 0)
        return (void *)(base + (size_t)range.free[--range.free_count] * SLAB_SIZE);
    if (!base || range.begun == SLABS_MOST)
        return NULL;
    char *at = base + (size_t)range.begun * SLAB_SIZE;
    if (mprotect(at, SLAB_SIZE, PROT_READ | PROT_WRITE) < 0)
        return NULL;
    range.begun++;
    return (void *)at;
}

bool duet__is_of_slab(const void *block)
{
    /* Relaxed: see reserve(). For any other block both answers are the same. */
    const char *base = duet__load_relaxed(&range.base);
    return base && (uintptr_t)block - (uintptr_t)base < (uintptr_t)SLABS_MOST * SLAB_SIZE;
}

static uint32_t number_of(const struct duet__slab *slab)
{
    return (uint32_t)(((uintptr_t)slab - (uintptr_t)duet__load_relaxed(&range.base)) / SLAB_SIZE);
}

/* ---- A slab ---- */

static struct duet__slab *slab_of(const void *block)
{
    return (void *)((uintptr_t)block & ~((uintptr_t)SLAB_SIZE - 1));
}

/* All pages at once, since they will be needed soon: that is a fifth cheaper than one by one, as they
 * are touched. They come so all the same where the kernel is older than Linux 5.14. */
static void fill_in(struct duet__slab *slab)
{
#ifdef MADV_POPULATE_WRITE
    madvise(slab, SLAB_SIZE, MADV_POPULATE_WRITE);
#else
    (void)slab;
#endif
}

struct duet__slab *duet__slab_new(size_t size)
{
    int saved_errno = errno; /* what is refused here is no failure */
    duet__lock(&range.lock);
    struct duet__slab *slab = take_slab();
    duet__unlock(&range.lock);
    if (slab) {
        fill_in(slab);
        const size_t room = (SLAB_SIZE - sizeof *slab) / size;
        *slab = (struct duet__slab){.size = size, .room = (uint32_t)room};
    }
    errno = saved_errno;
    return slab;
}

void duet__slabs_free(struct duet__slab *empty)
{
    int saved_errno = errno; /* pages that are locked in memory stay */
    while (empty) {
        struct duet__slab *next = empty->next;
        madvise(empty, SLAB_SIZE, MADV_DONTNEED);
        duet__lock(&range.lock);
        range.free[range.free_count++] = (uint16_t)number_of(empty);
        duet__unlock(&range.lock);
        empty = next;
    }
    errno = saved_errno;
}

static bool has_free(const struct duet__slab *slab)
{
    return slab->free || slab->cut < slab->room;
}

/* Those that came back first, since they are warm. */
static void *take_block(struct duet__slab *slab)
{
    void *block = slab->free;
    slab->out++;
    if (block)
        slab->free = *(void **)block;
    else
        block = (char *)(slab + 1) + slab->cut++ * slab->size;
    return block;
}

/* ---- The slabs of a size ---- */

void duet__slabs_add(struct duet__slabs *slabs, struct duet__slab *slab)
{
    slab->prev = NULL;
    slab->next = slabs->first;
    if (slab->next)
        slab->next->prev = slab;
    slabs->first = slab;
}

static void leave(struct duet__slabs *slabs, struct duet__slab *slab)
{
    if (slab->next)
        slab->next->prev = slab->prev;
    if (slab->prev)
        slab->prev->next = slab->next;
    else
        slabs->first = slab->next;
}

size_t duet__slabs_take(struct duet__slabs *slabs, void *blocks[], size_t most)
{
    size_t count = 0;
    while (count < most && slabs->first) {
        struct duet__slab *slab = slabs->first;
        while (count < most && has_free(slab))
            blocks[count++] = take_block(slab);
        if (!has_free(slab))
            leave(slabs, slab);
    }
    return count;
}

/* True: it is empty now, and in no list. */
static bool give_block(struct duet__slabs *slabs, struct duet__slab *slab, void *block)
{
    if (!has_free(slab))
        duet__slabs_add(slabs, slab);
    *(void **)block = slab->free;
    slab->free = block;
    if (--slab->out > 0)
        return false;
    leave(slabs, slab);
    return true;
}

struct duet__slab *duet__slabs_give(struct duet__slabs *slabs, void *const blocks[], size_t count)
{
    struct duet__slab *empty = NULL;
    for (size_t i = 0; i < count; i++) {
        struct duet__slab *slab = slab_of(blocks[i]);
        if (number_of(slab) < range.ours_from)
            continue;
        if (give_block(slabs, slab, blocks[i])) {
            slab->next = empty;
            empty = slab;
        }
    }
    return empty;
}
