#include "block.h"
#include "alloc.h"
#include "clock.h"
#include "cpu.h"
#include "fork.h"
#include "lock.h"
#include "slab.h"

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
    PLACES = 62, /* of a magazine, so that it is eight lines */
    FETCHED = 16, /* lines of blocks at a time: as many as a processor waits for at once */
    DEPOT_MOST = 1024, /* full magazines of each size: of tasks 20 MiB; and so many empty ones */
    DEPOT_KEPT = 4, /* likewise, whatever nobody needs */
    TRIM_MOST = 4, /* likewise, given back at once */
    TRIM_EVERY_NS = 10000000,
    UNNEEDED_NS = 1000000000,
    LINES_MOST = 32768, /* blocks that begin a line: two full inboxes of callbacks */
    FEW = 8192, /* blocks of a size; what is more comes from slabs */
};

/* Owned by a thread's shelf or by the depot. */
struct duet__magazine {
    struct duet__magazine *next; /* in the depot */
    size_t count; /* of blocks, while it is at nobody's hand */
    void *blocks[PLACES];
};

bool duet__blocks_keep = KEEPS;
_Thread_local struct duet__shelf duet__shelves[DUET__SHELVES + 1];

/* The depot's lock guards it; the atomics are read without it for a look. */
struct pile {
    struct duet__magazine *first;
    _Atomic uint32_t count;
    uint32_t least; /* the least count for a while: so many nobody needed */
    uint32_t unneeded; /* … and go back */
    _Atomic int64_t trim_ns; /* when it is looked at again */
};

/* How many piles hold more than is kept: whoever rests looks at this one, not at all of them. */
static _Atomic uint32_t piles_rich;

/* Magazines of one size, in cache lines of their own. */
static struct depot {
    _Alignas(DUET__LINE) struct duet__lock lock;
    struct pile full; /* or not quite, of threads that have ended */
    struct pile empty;
    struct duet__slabs slabs;
    _Atomic uint32_t single; /* blocks of the C library's that there are; relaxed: a number */
} depots[DUET__SHELVES + 1];

/* ---- Single blocks ---- */

/* Will it perhaps be kept? (At the end of a thread it is not.) */
static bool may_be_kept(unsigned shelf)
{
    return shelf != 0 && duet__blocks_keep && !duet__alloc_is_users();
}

/* What fills a line of the cache. */
static bool fills_a_line(unsigned shelf)
{
    return KEEPS && duet__shelf_size(shelf) + DUET__BLOCK_STEP / 2 == DUET__LINE;
}

/* How many blocks were made to begin a line; relaxed: a number, publishes nothing. */
static _Atomic uint32_t lines_made;

/* What fits into one line of the cache lies in one, and not in two. (Larger ones would be fewer lines
 * too, but the C library leaves a gap between: 110 bytes a task.) Only so many, since what is taken
 * so and given back again and again breaks the C library's memory into pieces that it then looks
 * through. */
static void *block_new(unsigned shelf, size_t size)
{
    if (shelf == 0)
        return duet__alloc(size);
    size = duet__shelf_size(shelf);
    bool lines = fills_a_line(shelf) && duet__load_relaxed(&lines_made) < LINES_MOST;
    void *block = lines ? duet__alloc_lines(size) : duet__alloc(size);
    if (block && lines)
        duet__add_relaxed(&lines_made, 1);
    if (block && may_be_kept(shelf))
        duet__add_relaxed(&depots[shelf].single, 1);
    return block;
}

/* Of those of the C library's, all; the others, which are of slabs, come first then: so many. */
static size_t free_single(struct depot *depot, void *blocks[], size_t count)
{
    size_t of_slabs = 0;
    for (size_t i = 0; i < count; i++) {
        if (duet__is_of_slab(blocks[i])) {
            blocks[of_slabs++] = blocks[i];
        } else {
            duet__free(blocks[i]);
        }
    }
    if (count > of_slabs)
        duet__sub_relaxed(&depot->single, (uint32_t)(count - of_slabs));
    return of_slabs;
}

/* Blocks that may be kept, of one shelf. */
static void free_blocks(struct depot *depot, void *blocks[], size_t count)
{
    count = free_single(depot, blocks, count);
    if (count == 0)
        return;
    duet__lock(&depot->lock);
    struct duet__slab *empty = duet__slabs_give(&depot->slabs, blocks, count);
    duet__unlock(&depot->lock);
    duet__slabs_free(empty);
}

static void free_block(unsigned shelf, void *block)
{
    if (may_be_kept(shelf))
        free_blocks(&depots[shelf], &block, 1);
    else
        duet__free(block);
}

/* Fresh ones of slabs: how many there were. */
static size_t cut_blocks(unsigned shelf, void *blocks[], size_t most)
{
    struct depot *depot = &depots[shelf];
    duet__lock(&depot->lock);
    size_t count = duet__slabs_take(&depot->slabs, blocks, most);
    duet__unlock(&depot->lock);
    if (count > 0)
        return count;
    struct duet__slab *slab = duet__slab_new(duet__shelf_size(shelf));
    if (!slab)
        return 0;
    duet__lock(&depot->lock);
    duet__slabs_add(&depot->slabs, slab);
    count = duet__slabs_take(&depot->slabs, blocks, most);
    duet__unlock(&depot->lock);
    return count;
}

/* ---- Magazines ---- */

static struct duet__magazine *magazine_new(void)
{
    struct duet__magazine *magazine = duet__alloc_lines(sizeof *magazine);
    if (!magazine)
        return NULL;
    magazine->count = 0;
    return magazine;
}

static void magazine_free(struct depot *depot, struct duet__magazine *magazine)
{
    if (!magazine)
        return;
    free_blocks(depot, magazine->blocks, magazine->count);
    duet__free(magazine);
}

/* ---- The depot ---- */

/* Under the lock, which orders the count too. */
static struct duet__magazine *pop(struct pile *pile)
{
    struct duet__magazine *magazine = pile->first;
    if (!magazine)
        return NULL;
    uint32_t left = duet__load_relaxed(&pile->count) - 1;
    pile->first = magazine->next;
    duet__store_relaxed(&pile->count, left);
    if (left == DEPOT_KEPT)
        duet__sub_relaxed(&piles_rich, 1); /* a number to look at; publishes nothing */
    if (left < pile->least)
        pile->least = left;
    return magazine;
}

/* Likewise. The magazine, if there is no room for it or it is NULL. */
static struct duet__magazine *push(struct pile *pile, struct duet__magazine *magazine)
{
    uint32_t count = duet__load_relaxed(&pile->count);
    if (!magazine || count >= DEPOT_MOST)
        return magazine;
    magazine->next = pile->first;
    pile->first = magazine;
    duet__store_relaxed(&pile->count, count + 1);
    if (count == DEPOT_KEPT)
        duet__add_relaxed(&piles_rich, 1); /* as in pop() */
    return NULL;
}

/* Takes a magazine of one pile in exchange for another (NULL: none), which goes to the other pile.
 * NULL: there is none, and nothing is changed. */
static struct duet__magazine *exchange(struct depot *depot, struct pile *from, struct pile *to,
                                       struct duet__magazine *given)
{
    duet__lock(&depot->lock);
    struct duet__magazine *taken = pop(from);
    struct duet__magazine *left = taken ? push(to, given) : NULL;
    duet__unlock(&depot->lock);
    magazine_free(depot, left);
    return taken;
}

static void give(struct depot *depot, struct duet__magazine *magazine)
{
    if (!magazine)
        return;
    duet__lock(&depot->lock);
    struct pile *pile = magazine->count > 0 ? &depot->full : &depot->empty;
    magazine = push(pile, magazine);
    duet__unlock(&depot->lock);
    magazine_free(depot, magazine);
}

/* Under the lock: up to `most`, chained. */
static struct duet__magazine *pop_some(struct pile *pile, uint32_t most)
{
    struct duet__magazine *all = NULL, *magazine;
    for (; most > 0 && duet__load_relaxed(&pile->count) > DEPOT_KEPT; most--) {
        magazine = pop(pile);
        magazine->next = all;
        all = magazine;
    }
    return all;
}

static void free_all(struct depot *depot, struct duet__magazine *magazine)
{
    while (magazine) {
        struct duet__magazine *next = magazine->next;
        magazine_free(depot, magazine);
        magazine = next;
    }
}

/* Under the lock, and it is time: how many go back now. */
static uint32_t trim_now(struct pile *pile, int64_t now_ns)
{
    if (pile->unneeded == 0) { /* a new look */
        pile->unneeded = pile->least > DEPOT_KEPT ? pile->least - DEPOT_KEPT : 0;
        pile->least = duet__load_relaxed(&pile->count);
    }
    uint32_t most = pile->unneeded < TRIM_MOST ? pile->unneeded : TRIM_MOST;
    pile->unneeded -= most;
    duet__store_relaxed(&pile->trim_ns,
                        now_ns + (pile->unneeded > 0 ? TRIM_EVERY_NS : UNNEEDED_NS));
    return most;
}

/* When it is to be trimmed again; INT64_MAX: there is nothing more. */
static int64_t trim(struct depot *depot, struct pile *pile, int64_t now_ns)
{
    struct duet__magazine *unneeded = NULL;
    if (duet__load_relaxed(&pile->count) <= DEPOT_KEPT) /* a look */
        return INT64_MAX;
    if (duet__load_relaxed(&pile->trim_ns) > now_ns) /* likewise */
        return duet__load_relaxed(&pile->trim_ns);
    duet__lock(&depot->lock);
    if (duet__load_relaxed(&pile->trim_ns) <= now_ns)
        unneeded = pop_some(pile, trim_now(pile, now_ns));
    duet__unlock(&depot->lock);
    free_all(depot, unneeded);
    if (duet__load_relaxed(&pile->count) <= DEPOT_KEPT)
        return INT64_MAX;
    return duet__load_relaxed(&pile->trim_ns);
}

int64_t duet__blocks_trim(int64_t now_ns)
{
    int64_t by_ns = INT64_MAX;
    if (duet__load_relaxed(&piles_rich) == 0) /* a look, as at a pile's count */
        return by_ns;
    for (unsigned i = 1; i <= DUET__SHELVES; i++) {
        by_ns = duet__earlier_ns(by_ns, trim(&depots[i], &depots[i].full, now_ns));
        by_ns = duet__earlier_ns(by_ns, trim(&depots[i], &depots[i].empty, now_ns));
    }
    return by_ns;
}

static void give_back(struct depot *depot, struct pile *pile)
{
    duet__lock(&depot->lock);
    struct duet__magazine *all = pop_some(pile, DEPOT_MOST);
    duet__unlock(&depot->lock);
    free_all(depot, all);
}

void duet__blocks_give_back(void)
{
    for (unsigned i = 1; i <= DUET__SHELVES; i++) {
        give_back(&depots[i], &depots[i].full);
        give_back(&depots[i], &depots[i].empty);
    }
}

/* What another thread held there is lost with it, but the lock is free. */
static void reset(void)
{
    for (unsigned i = 1; i <= DUET__SHELVES; i++)
        depots[i] = (struct depot){.single = duet__load_relaxed(&depots[i].single)};
    duet__store_relaxed(&piles_rich, 0); /* of the child's one thread */
}
DUET__IN_CHILD(reset)

/* ---- A thread's shelves ---- */

/* With its upper `warm` blocks ready to be taken. */
static void load(struct duet__shelf *mine, struct duet__magazine *magazine, size_t warm)
{
    mine->at_hand = magazine;
    mine->top = magazine->blocks + magazine->count;
    mine->floor = mine->top - warm;
    mine->end = magazine->blocks + PLACES;
}

/* The magazine at hand, which then is not; NULL: none is. */
static struct duet__magazine *unload(struct duet__shelf *mine)
{
    struct duet__magazine *magazine = mine->at_hand;
    if (magazine)
        magazine->count = (size_t)(mine->top - magazine->blocks);
    mine->at_hand = NULL;
    mine->top = mine->floor = mine->end = NULL;
    return magazine;
}

/* A thread ends: what it has goes to the others. */
static void leave_shelves(void *shelves)
{
    struct duet__shelf *mine = shelves;
    for (unsigned i = 1; i <= DUET__SHELVES; i++) {
        give(&depots[i], unload(&mine[i]));
        give(&depots[i], mine[i].spare);
        mine[i].spare = NULL;
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

/* ---- Getting ---- */

static void fetch_block(const char *block, size_t size)
{
    for (size_t i = 0; i < size; i += DUET__LINE)
        duet__fetch_to_write(block + i);
    duet__fetch_to_write(block + size - 1);
}

/* So many blocks are fetched at a time. */
static size_t step(unsigned shelf)
{
    size_t blocks = FETCHED * DUET__LINE / duet__shelf_size(shelf);
    return blocks > 2 ? blocks : 2;
}

/* Those below the floor, which then are not yet to be taken. */
static void fetch_below(const struct duet__shelf *mine, unsigned shelf)
{
    void **block = mine->floor;
    for (size_t i = step(shelf); i > 0 && block > mine->at_hand->blocks; i--)
        fetch_block(*--block, duet__shelf_size(shelf));
}

/* While those that were fetched last are taken, the next ones come. */
static void lower_floor(struct duet__shelf *mine, unsigned shelf)
{
    size_t below = (size_t)(mine->floor - mine->at_hand->blocks);
    mine->floor -= below < step(shelf) ? below : step(shelf);
    fetch_below(mine, shelf);
}

/* Of the depot's, in exchange for the one at hand, for a thread that will be told of its end. */
static bool load_full(struct duet__shelf *mine, unsigned shelf)
{
    struct depot *depot = &depots[shelf];
    if (duet__load_relaxed(&depot->full.count) == 0 || !keeps()) /* a look */
        return false;
    struct duet__magazine *empty = unload(mine);
    struct duet__magazine *full = exchange(depot, &depot->full, &depot->empty, empty);
    if (full || empty)
        load(mine, full ? full : empty, 0);
    if (!full)
        return false;
    for (size_t i = 0; i < full->count; i += DUET__LINE / sizeof full->blocks[0])
        duet__fetch_to_write(&full->blocks[i]);
    fetch_below(mine, shelf);
    return true;
}

/* A magazine of fresh ones, for a thread that will be told of its end; it has only empty ones. */
static bool load_fresh(struct duet__shelf *mine, unsigned shelf)
{
    bool few = duet__load_relaxed(&depots[shelf].single) < FEW;
    if (shelf == 0 || few || fills_a_line(shelf) || !keeps())
        return false;
    struct duet__magazine *magazine = unload(mine);
    if (!magazine && !(magazine = magazine_new()))
        return false;
    magazine->count = cut_blocks(shelf, magazine->blocks, PLACES);
    load(mine, magazine, magazine->count);
    return magazine->count > 0;
}

void *duet__block_get_slowly(unsigned shelf, size_t size)
{
    struct duet__shelf *mine = &duet__shelves[shelf];
    struct duet__magazine *spare = mine->spare;
    if (mine->at_hand && mine->floor > mine->at_hand->blocks) {
        lower_floor(mine, shelf);
    } else if (spare && spare->count > 0) {
        mine->spare = unload(mine);
        load(mine, spare, spare->count);
    } else if (load_full(mine, shelf)) {
        lower_floor(mine, shelf);
    } else if (!load_fresh(mine, shelf)) {
        return block_new(shelf, size);
    }
    return duet__block_get(shelf, size);
}

/* ---- Putting back ---- */

/* For what comes after the full one at hand, if there is one; NULL: no memory. */
static struct duet__magazine *fetch_empty(unsigned shelf)
{
    struct depot *depot = &depots[shelf];
    struct duet__shelf *mine = &duet__shelves[shelf];
    struct duet__magazine *full = mine->spare;
    struct duet__magazine *empty = exchange(depot, &depot->empty, &depot->full, full);
    if (!empty && (empty = magazine_new()) != NULL)
        give(depot, full);
    if (empty)
        mine->spare = unload(mine);
    return empty;
}

void duet__block_put_slowly(unsigned shelf, void *memory)
{
    struct duet__shelf *mine = &duet__shelves[shelf];
    bool keep = shelf != 0 && keeps();
    struct duet__magazine *empty = keep ? mine->spare : NULL;
    if (empty && empty->count == 0)
        mine->spare = unload(mine);
    else if (keep)
        empty = fetch_empty(shelf);
    if (!empty) {
        free_block(shelf, memory);
        return;
    }
    load(mine, empty, 0);
    duet__block_put(shelf, memory);
}
