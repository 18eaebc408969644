/* Numbered deadlines in one heap: four children a node, so that a level is a cache line or two.
 * Where each number is, is in a table of its own, so it can leave from anywhere. J. W. J. Williams,
 * "Heapsort" (1964), with the arity of D. B. Johnson's d-ary heaps (1975).
 *
 * Owned by one loop's timers, used by its thread alone. Room is reserved beforehand, where a failure
 * can still be reported; adding cannot fail. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct duet__heap_entry {
    int64_t when_ns;
    void *what; /* the user's: nothing else has to be looked at when it comes */
    uint32_t number;
};

struct duet__heap {
    struct duet__heap_entry *entries; /* entries[1…count] */
    uint32_t *places; /* by number: of those that are in it */
    uint32_t count, room;
};

/* Room for the numbers 1…count. 0 or -ENOMEM. */
int duet__heap_reserve(struct duet__heap *heap, uint32_t count);
void duet__heap_add(struct duet__heap *heap, uint32_t number, int64_t when_ns, void *what);
void duet__heap_remove(struct duet__heap *heap, uint32_t number);
/* Removes the nearest one, entries[1]; it is not empty. */
void duet__heap_pop(struct duet__heap *heap);
/* How many are due by then, up to `most`; those are looked at, and their neighbours. */
size_t duet__heap_count_until(const struct duet__heap *heap, int64_t when_ns, size_t most);
void duet__heap_fini(struct duet__heap *heap);

static inline int64_t duet__heap_nearest_ns(const struct duet__heap *heap)
{
    return heap->count ? heap->entries[1].when_ns : INT64_MAX;
}
