/* Deadlines in one heap: four children a node, 16-byte entries, so that a level is a cache
 * line or two.
 * Each timer knows its place, so it can leave from anywhere. J. W. J. Williams, "Heapsort" (1964),
 * with the arity of D. B. Johnson's d-ary heaps (1975).
 *
 * Owned by one loop, used by its thread alone. Room is reserved beforehand, where a failure can
 * still be reported; adding cannot fail. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct duet__timer {
    size_t place; /* 1-based; 0: not in the heap */
};

struct duet__heap_entry {
    int64_t when_ns;
    struct duet__timer *timer;
};

struct duet__heap {
    struct duet__heap_entry *entries; /* entries[1…count] */
    size_t count, room;
};

/* Room for `count` timers at once. 0 or -ENOMEM. */
int duet__heap_reserve(struct duet__heap *heap, size_t count);
void duet__heap_add(struct duet__heap *heap, struct duet__timer *timer, int64_t when_ns);
void duet__heap_remove(struct duet__heap *heap, struct duet__timer *timer);
/* How many are due by then, up to `most`; those are looked at, and their neighbours. */
size_t duet__heap_count_until(const struct duet__heap *heap, int64_t when_ns, size_t most);
void duet__heap_fini(struct duet__heap *heap);

static inline int64_t duet__heap_nearest_ns(const struct duet__heap *heap)
{
    return heap->count ? heap->entries[1].when_ns : INT64_MAX;
}

/* The nearest timer, removed, if it is due; else NULL. */
static inline struct duet__timer *duet__heap_due(struct duet__heap *heap, int64_t now_ns)
{
    if (duet__heap_nearest_ns(heap) > now_ns || heap->count == 0)
        return NULL;
    struct duet__timer *timer = heap->entries[1].timer;
    duet__heap_remove(heap, timer);
    return timer;
}
