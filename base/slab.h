/* Fresh blocks by the thousand, cut from slabs: next to each other, with no words of an allocator's
 * between them, and in the order of their addresses. When all blocks of a slab are back, its memory
 * goes to the kernel. (J. Bonwick, "The Slab Allocator", USENIX 1994.)
 *
 * All slabs lie in one range of addresses, which is reserved when the first is needed: so an address
 * tells whether it is of a slab, and of which. */
#pragma once
#include <stdbool.h>
#include <stddef.h>

struct duet__slab;

/* Those of one size. Guarded by the lock of who embeds it. All zero: there are none. */
struct duet__slabs {
    struct duet__slab *first; /* of those that have free blocks */
};

/* A slab for blocks of this size, a multiple of 8, all of them free; without a lock, since its memory
 * comes now. NULL: no memory, or no addresses; then duet__alloc() may still have some. It is the
 * caller's until it is added. */
struct duet__slab *duet__slab_new(size_t size);
/* Under the lock. */
void duet__slabs_add(struct duet__slabs *slabs, struct duet__slab *slab);
/* Under the lock: up to `most` blocks, which are aligned to 8 bytes; returns how many there were. */
size_t duet__slabs_take(struct duet__slabs *slabs, void *blocks[], size_t most);
/* By who has a block: is it a slab's? */
bool duet__is_of_slab(const void *block);
/* Under the lock: gives blocks of slabs back. Returns the slabs that are empty now, in a chain, for
 * duet__slabs_free(); NULL: none. */
struct duet__slab *duet__slabs_give(struct duet__slabs *slabs, void *const blocks[], size_t count);
/* Without the lock: their memory goes to the kernel. */
void duet__slabs_free(struct duet__slab *empty);
