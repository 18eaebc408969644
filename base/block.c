#include "block.h"
#include "alloc.h"
#include "fork.h"
#include "lock.h"

#include <pthread.h>

#if defined(__SANITIZE_ADDRESS__) || defined(DUET_MODEL)
#define KEEPS false
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define KEEPS false
#endif
#endif
#ifndef KEEPS
#define KEEPS true
#endif

enum {
    BATCH = 64, /* blocks */
    DEPOT_MOST = 64, /* batches of each size */
    DEPOT_KEPT = 4, /* likewise, while loops rest */
};

bool duet__blocks_keep = KEEPS;
_Thread_local struct duet__shelf duet__shelves[DUET__SHELVES + 1];

/* Whole batches of one size. The lock guards all; `count` is read without it for a look. */
static struct depot {
    struct duet__lock lock;
    struct duet__block *first;
    _Atomic uint32_t count;
} depots[DUET__SHELVES + 1];

/* ---- The depot ---- */

static void free_batch(struct duet__block *block)
{
    while (block) {
        struct duet__block *next = block->next;
        duet__free(block);
        block = next;
    }
}

/* Under the lock, which orders the count too. */
static struct duet__block *pop_batch(struct depot *depot)
{
    struct duet__block *batch = depot->first;
    if (!batch)
        return NULL;
    depot->first = batch->next_batch;
    duet__store_relaxed(&depot->count, duet__load_relaxed(&depot->count) - 1);
    return batch;
}

static struct duet__block *take_batch(struct depot *depot)
{
    if (duet__load_relaxed(&depot->count) == 0) /* a look */
        return NULL;
    duet__lock(&depot->lock);
    struct duet__block *batch = pop_batch(depot);
    duet__unlock(&depot->lock);
    return batch;
}

/* A whole batch, or the rest of one that a thread leaves. */
static void give_batch(struct depot *depot, struct duet__block *batch)
{
    if (!batch)
        return;
    duet__lock(&depot->lock);
    uint32_t count = duet__load_relaxed(&depot->count); /* written under the lock */
    bool fits = count < DEPOT_MOST;
    if (fits) {
        batch->next_batch = depot->first;
        depot->first = batch;
        duet__store_relaxed(&depot->count, count + 1);
    }
    duet__unlock(&depot->lock);
    if (!fits)
        free_batch(batch);
}

bool duet__blocks_trim(void)
{
    bool more = false;
    for (unsigned i = 1; i <= DUET__SHELVES; i++) {
        struct depot *depot = &depots[i];
        if (duet__load_relaxed(&depot->count) <= DEPOT_KEPT) /* a look */
            continue;
        free_batch(take_batch(depot));
        more |= duet__load_relaxed(&depot->count) > DEPOT_KEPT;
    }
    return more;
}

/* What another thread held there is lost with it, but the lock is free. */
static void reset(void)
{
    for (unsigned i = 1; i <= DUET__SHELVES; i++)
        depots[i] = (struct depot){.first = NULL};
}
DUET__IN_CHILD(reset)

/* ---- A thread's shelves ---- */

/* A thread ends: what it has goes to the others. */
static void leave_shelves(void *shelves)
{
    struct duet__shelf *mine = shelves;
    for (unsigned i = 1; i <= DUET__SHELVES; i++) {
        give_batch(&depots[i], mine[i].first);
        give_batch(&depots[i], mine[i].batch);
        mine[i] = (struct duet__shelf){.first = NULL};
    }
}

static pthread_key_t key;
static bool has_key;

__attribute__((constructor)) static void make_key(void)
{
    has_key = pthread_key_create(&key, leave_shelves) == 0;
}

/* May this thread keep blocks? It is remembered by its shelves, to be told of its end. */
static bool keeps(void)
{
    return duet__blocks_keep && has_key && !duet__alloc_is_users() &&
           pthread_setspecific(key, duet__shelves) == 0;
}

/* A batch of the depot's, for a thread that will be told of its end. */
static struct duet__block *fetch_batch(unsigned shelf)
{
    struct depot *depot = &depots[shelf];
    return duet__load_relaxed(&depot->count) > 0 && keeps() ? take_batch(depot) : NULL; /* a look */
}

void *duet__block_get_slowly(unsigned shelf, size_t size)
{
    struct duet__shelf *mine = &duet__shelves[shelf];
    struct duet__block *block = mine->batch ? mine->batch : fetch_batch(shelf);
    if (!block)
        return duet__alloc(shelf ? duet__shelf_size(shelf) : size);
    mine->batch = NULL;
    mine->first = block->next;
    mine->room = 1; /* of the whole batch that is at hand from here on */
    return block;
}

void duet__block_put_slowly(unsigned shelf, void *memory)
{
    struct duet__shelf *mine = &duet__shelves[shelf];
    if (shelf == 0 || !keeps()) {
        duet__free(memory);
        return;
    }
    give_batch(&depots[shelf], mine->batch);
    mine->batch = mine->first;
    mine->first = NULL;
    mine->room = BATCH;
    duet__block_put(shelf, memory);
}
