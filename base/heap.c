#include "heap.h"
#include "alloc.h"

#include <errno.h>
#include <string.h>

enum {
    ARITY = 4,
    IN_CACHE = 65536, /* entries: 1.5 MiB */
};

static size_t parent_of(size_t place)
{
    return (place - 2) / ARITY + 1;
}

static size_t first_child_of(size_t place)
{
    return (place - 1) * ARITY + 2;
}

static inline void put(struct duet__heap *heap, size_t place, const struct duet__heap_entry *entry)
{
    heap->entries[place] = *entry;
    heap->places[entry->number] = (uint32_t)place;
}

static void sift_up(struct duet__heap *heap, size_t place, const struct duet__heap_entry *entry)
{
    while (place > 1 && entry->when_ns < heap->entries[parent_of(place)].when_ns) {
        put(heap, place, &heap->entries[parent_of(place)]);
        place = parent_of(place);
    }
    put(heap, place, entry);
}

/* Without branches, since no processor can guess them: a quarter faster, as long as the cache holds
 * all; from memory a wrong guess is better than none, since it fetches ahead. */
static size_t least_of_four(const struct duet__heap_entry *four)
{
    size_t a = four[1].when_ns < four[0].when_ns;
    size_t b = four[3].when_ns < four[2].when_ns ? 3 : 2;
    return four[b].when_ns < four[a].when_ns ? b : a;
}

static size_t least_child(const struct duet__heap *heap, size_t child)
{
    if (heap->count <= IN_CACHE && child + ARITY <= heap->count + 1)
        return child + least_of_four(&heap->entries[child]);
    size_t least = child;
    for (size_t i = child + 1; i < child + ARITY && i <= heap->count; i++)
        if (heap->entries[i].when_ns < heap->entries[least].when_ns)
            least = i;
    return least;
}

static void sift_down(struct duet__heap *heap, size_t place, const struct duet__heap_entry *entry)
{
    for (size_t child; (child = first_child_of(place)) <= heap->count;) {
        size_t least = least_child(heap, child);
        if (entry->when_ns <= heap->entries[least].when_ns)
            break;
        put(heap, place, &heap->entries[least]);
        place = least;
    }
    put(heap, place, entry);
}

/* Only what is there is copied: of room that was never needed, no page is touched. */
int duet__heap_reserve(struct duet__heap *heap, uint32_t count)
{
    if (count <= heap->room)
        return 0;
    struct duet__heap_entry *entries = duet__alloc(((size_t)count + 1) * sizeof *entries);
    uint32_t *places = duet__alloc(((size_t)count + 1) * sizeof *places);
    if (!entries || !places) {
        duet__free(entries);
        duet__free(places);
        return -ENOMEM;
    }
    if (heap->count > 0)
        memcpy(&entries[1], &heap->entries[1], heap->count * sizeof *entries);
    for (uint32_t i = 1; i <= heap->count; i++)
        places[entries[i].number] = i;
    duet__free(heap->entries);
    duet__free(heap->places);
    heap->entries = entries;
    heap->places = places;
    heap->room = count;
    return 0;
}

void duet__heap_add(struct duet__heap *heap, uint32_t number, int64_t when_ns, void *what)
{
    size_t place = ++heap->count;
    struct duet__heap_entry *entries = heap->entries;
    for (; place > 1 && when_ns < entries[parent_of(place)].when_ns; place = parent_of(place))
        put(heap, place, &entries[parent_of(place)]);
    entries[place].when_ns = when_ns;
    entries[place].what = what;
    entries[place].number = number;
    heap->places[number] = (uint32_t)place;
}

void duet__heap_remove(struct duet__heap *heap, uint32_t number)
{
    size_t place = heap->places[number];
    const struct duet__heap_entry *last = &heap->entries[heap->count--];
    if (last->number == number)
        return;
    if (place > 1 && last->when_ns < heap->entries[parent_of(place)].when_ns)
        sift_up(heap, place, last);
    else
        sift_down(heap, place, last);
}

void duet__heap_pop(struct duet__heap *heap)
{
    const struct duet__heap_entry *last = &heap->entries[heap->count--];
    if (heap->count > 0)
        sift_down(heap, 1, last);
}

static size_t count_below(const struct duet__heap *heap, size_t place, int64_t when_ns, size_t most)
{
    size_t count = 1, child = first_child_of(place);
    if (place > heap->count || heap->entries[place].when_ns > when_ns)
        return 0;
    for (size_t i = child; i < child + ARITY && count < most; i++)
        count += count_below(heap, i, when_ns, most - count);
    return count;
}

size_t duet__heap_count_until(const struct duet__heap *heap, int64_t when_ns, size_t most)
{
    return count_below(heap, 1, when_ns, most);
}

void duet__heap_fini(struct duet__heap *heap)
{
    duet__free(heap->entries);
    duet__free(heap->places);
    *heap = (struct duet__heap){.entries = NULL};
}
