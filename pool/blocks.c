/* Blocks of memory for jobs. One thread allocates a job and mostly another frees it, which is what
 * the general allocator is worst at: it locks, and gives the memory of each burst back to the
 * kernel. So the blocks of plain jobs, which are all alike, are kept for the next ones, for all
 * pools together, as long as there is a worker. Workers bring them back by the handful.
 *
 * Nobody waits for the lock to keep a block or to get one: there is the allocator.
 * AddressSanitizer had better see each. */
#include "alloc.h"
#include "fork.h"
#include "pool_impl.h"

#ifdef __SANITIZE_ADDRESS__
#define BY_ADDRESS_SANITIZER
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define BY_ADDRESS_SANITIZER
#endif
#endif

enum {
    HANDFUL = 32,
#ifdef BY_ADDRESS_SANITIZER
    BLOCKS_MOST = 0,
#else
    BLOCKS_MOST = 4096,
#endif
};

struct duet__block {
    struct duet__block *next;
};

/* A chain of them, with its end, so that it can be put before another. */
struct chain {
    struct duet__block *first, *last;
    unsigned count;
};

/* All but the lock is guarded by it. */
static _Alignas(DUET__LINE) struct {
    struct duet__lock lock;
    unsigned workers; /* of all pools */
    struct chain chain;
} kept;

static _Thread_local bool is_worker;
static _Thread_local struct chain handful; /* of a worker, which brings it back when it rests */

static void reset(void)
{
    duet__store_relaxed(&kept.lock.word, 0);
    kept.workers = 0;
    kept.chain = (struct chain){NULL, NULL, 0}; /* it may have been changing */
}
DUET__IN_CHILD(reset)

static void put(struct chain *chain, struct duet__block *block)
{
    block->next = chain->first;
    if (!chain->first)
        chain->last = block;
    chain->first = block;
    chain->count++;
}

static struct duet__block *get(struct chain *chain)
{
    struct duet__block *block = chain->first;
    if (block) {
        chain->first = block->next;
        chain->count--;
    }
    return block;
}

static void free_all(struct chain *chain)
{
    for (struct duet__block *block; (block = get(chain)) != NULL;)
        duet__free(block);
}

/* Keeps all that is in the chain, or nothing if that is too much. */
static void keep(struct chain *chain)
{
    if (kept.workers == 0 || kept.chain.count + chain->count > BLOCKS_MOST)
        return;
    chain->last->next = kept.chain.first;
    if (!kept.chain.first)
        kept.chain.last = chain->last;
    kept.chain.first = chain->first;
    kept.chain.count += chain->count;
    *chain = (struct chain){NULL, NULL, 0};
}

void duet__blocks_begin(void)
{
    is_worker = BLOCKS_MOST > 0;
    duet__lock(&kept.lock);
    kept.workers++;
    duet__unlock(&kept.lock);
}

void duet__blocks_rest(void)
{
    if (!handful.first)
        return;
    if (duet__try_lock(&kept.lock)) {
        keep(&handful);
        duet__unlock(&kept.lock);
    }
    free_all(&handful);
}

void duet__blocks_end(void)
{
    struct chain rest = {NULL, NULL, 0};
    duet__lock(&kept.lock);
    if (--kept.workers == 0) {
        rest = kept.chain;
        kept.chain = (struct chain){NULL, NULL, 0};
    }
    duet__unlock(&kept.lock);
    free_all(&rest);
    free_all(&handful);
}

void *duet__block_get(void)
{
    struct duet__block *block = get(&handful);
    if (!block && duet__try_lock(&kept.lock)) {
        block = get(&kept.chain);
        duet__unlock(&kept.lock);
    }
    return block ? block : duet__alloc(sizeof(struct duet__job));
}

void duet__block_put(void *block)
{
    struct chain one = {NULL, NULL, 0}, *chain = is_worker ? &handful : &one;
    put(chain, block);
    if (is_worker && chain->count < HANDFUL)
        return;
    if (duet__try_lock(&kept.lock)) {
        keep(chain);
        duet__unlock(&kept.lock);
    }
    free_all(chain);
}
