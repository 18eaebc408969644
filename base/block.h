/* Blocks of memory that works are made of, kept for the next ones. A work is mostly allocated on one
 * thread and let go of on another, for which a general allocator takes locks and gives the memory
 * of a burst back to the kernel each time.
 *
 * Each thread has a shelf for each size, with two magazines at most; whole magazines go to and come
 * from the depot that all threads share, so its lock is taken once in a magazine. (J. Bonwick,
 * J. Adams, "Magazines and Vmem", USENIX 2001.) The depot is bounded, and while loops rest it
 * shrinks by what nobody has needed for a second: the least that was there in that time, as there.
 *
 * A magazine is an array, so that a few blocks of one that comes from the depot can be fetched at
 * once, before they are taken: their last user was perhaps another processor, from which a line
 * takes as long as a hundred instructions.
 *
 * Nothing is kept where somebody wants to see each block: under AddressSanitizer, and with an
 * allocator of the user's. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    /* A size is a multiple of STEP and a half: what the C library hands out, whose steps are the
     * same, so that nothing is lost between. (Its own word is before each block.) */
    DUET__BLOCK_STEP = 16,
    DUET__BLOCK_ALIGN = 8, /* bytes: what a block begins at a multiple of */
    DUET__SHELVES = 32, /* so many sizes */
};

/* Owned by its thread, used by it alone. */
struct duet__shelf {
    void **top; /* of the magazine at hand: after its last block */
    void **floor; /* its first block that may be taken: those below are not fetched yet */
    void **end; /* after its last place */
    struct duet__magazine *at_hand; /* NULL: none, as are the three */
    struct duet__magazine *spare; /* another, full or empty; NULL: none */
};

extern _Thread_local struct duet__shelf duet__shelves[DUET__SHELVES + 1];

/* From which shelf blocks of this size come; 0: from none, since they are too large, or of a few
 * bytes. */
static inline unsigned duet__shelf_for(size_t size)
{
    size_t shelf = (size + DUET__BLOCK_STEP / 2 - 1) / DUET__BLOCK_STEP;
    return shelf <= DUET__SHELVES ? (unsigned)shelf : 0;
}

static inline size_t duet__shelf_size(unsigned shelf)
{
    return shelf * (size_t)DUET__BLOCK_STEP + DUET__BLOCK_STEP / 2;
}

void *duet__block_get_slowly(unsigned shelf, size_t size);
void duet__block_put_slowly(unsigned shelf, void *memory);

/* A block of at least this size, uninitialised. NULL: no memory. duet__block_put() it, on any
 * thread. */
static inline void *duet__block_get(unsigned shelf, size_t size)
{
    void **top = duet__shelves[shelf].top;
    if (top == duet__shelves[shelf].floor)
        return duet__block_get_slowly(shelf, size);
    duet__shelves[shelf].top = --top;
    return *top;
}

static inline void duet__block_put(unsigned shelf, void *memory)
{
    void **top = duet__shelves[shelf].top;
    if (top == duet__shelves[shelf].end) {
        duet__block_put_slowly(shelf, memory);
        return;
    }
    *top = memory;
    duet__shelves[shelf].top = top + 1;
}

/* Tests only: false: none is kept. Set before the first block is put back. */
extern bool duet__blocks_keep;

/* In idle time: gives some magazines of each size back that nobody has needed for a second, where the
 * depot has more than a few. Returns when it is to be called again; INT64_MAX: there is nothing
 * more. */
int64_t duet__blocks_trim(int64_t now_ns);
/* There was nothing to do for long: gives all but a few back. */
void duet__blocks_give_back(void);
