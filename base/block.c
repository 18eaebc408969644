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
    DEPOT_MOST = 1024, /* batches of each size: of tasks 20 MiB */
    DEPOT_KEPT = 4, /* likewise, whatever nobody needs */
    TRIM_MOST = 4, /* likewise, given back at once */
    TRIM_EVERY_NS = 10000000,
    UNNEEDED_NS = 1000000000,
};

bool duet__blocks_keep = KEEPS;
_Thread_local struct duet__shelf duet__shelves[DUET__SHELVES + 1];

/* Whole batches of one size. The lock guards all; the atomics are read without it for a look. */
static struct depot {
    struct duet__lock lock;
    struct duet__block *first;
    _Atomic uint32_t count;
    uint32_t least; /* the least count for a while: so many nobody needed */
    uint32_t unneeded; /* … and go back */
    _Atomic int64_t trim_ns; /* when it is looked at again */
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
    uint32_t left = duet__load_relaxed(&depot->count) - 1;
    depot->first = batch->next_batch;
    duet__store_relaxed(&depot->count, left);
    if (left < depot->least)
        depot->least = left;
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

static void free_batches(struct duet__block *batch)
{
    while (batch) {
        struct duet__block *next = batch->next_batch;
        free_batch(batch);
        batch = next;
    }
}

/* Under the lock: up to `most`, chained. */
static struct duet__block *pop_batches(struct depot *depot, uint32_t most)
{
    struct duet__block *all = NULL, *batch;
    for (; most > 0 && duet__load_relaxed(&depot->count) > DEPOT_KEPT; most--) {
        batch = pop_batch(depot);
        batch->next_batch = all;
        all = batch;
    }
    return all;
}

/* Under the lock, and it is time: how many go back now. */
static uint32_t trim_now(struct depot *depot, int64_t now_ns)
{
    if (depot->unneeded == 0) { /* a new look */
        depot->unneeded = depot->least > DEPOT_KEPT ? depot->least - DEPOT_KEPT : 0;
        depot->least = duet__load_relaxed(&depot->count);
    }
    uint32_t most = depot->unneeded < TRIM_MOST ? depot->unneeded : TRIM_MOST;
    depot->unneeded -= most;
    duet__store_relaxed(&depot->trim_ns,
                        now_ns + (depot->unneeded > 0 ? TRIM_EVERY_NS : UNNEEDED_NS));
    return most;
}

static int64_t trim(struct depot *depot, int64_t now_ns)
{
    struct duet__block *batches = NULL;
    if (duet__load_relaxed(&depot->count) <= DEPOT_KEPT) /* a look */
        return INT64_MAX;
    if (duet__load_relaxed(&depot->trim_ns) > now_ns) /* likewise */
        return duet__load_relaxed(&depot->trim_ns);
    duet__lock(&depot->lock);
    if (duet__load_relaxed(&depot->trim_ns) <= now_ns)
        batches = pop_batches(depot, trim_now(depot, now_ns));
    duet__unlock(&depot->lock);
    free_batches(batches);
    if (duet__load_relaxed(&depot->count) <= DEPOT_KEPT)
        return INT64_MAX;
    return duet__load_relaxed(&depot->trim_ns);
}

int64_t duet__blocks_trim(int64_t now_ns)
{
    int64_t by_ns = INT64_MAX;
    for (unsigned i = 1; i <= DUET__SHELVES; i++) {
        int64_t depot_ns = trim(&depots[i], now_ns);
        if (depot_ns < by_ns)
            by_ns = depot_ns;
    }
    return by_ns;
}

void duet__blocks_give_back(void)
{
    for (unsigned i = 1; i <= DUET__SHELVES; i++) {
        struct depot *depot = &depots[i];
        duet__lock(&depot->lock);
        struct duet__block *batches = pop_batches(depot, DEPOT_MOST);
        duet__unlock(&depot->lock);
        free_batches(batches);
    }
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
