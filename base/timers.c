#include "timers.h"
#include "alloc.h"

#include <errno.h>
#include <string.h>

enum {
    ROOM_LEAST = 64,
    ROOM_MOST = 1 << 30,
};

static int64_t tick_of(int64_t when_ns)
{
    return when_ns >> DUET__TICK_BITS;
}

/* ---- Slots ---- */

struct place {
    int level, number;
};

/* Of a tick after the wheel's. */
static struct place place_of(const struct duet__timers *timers, int64_t tick)
{
    int highest = 63 - __builtin_clzll((unsigned long long)(tick ^ timers->tick));
    int level = highest / DUET__WHEEL_BITS;
    return (struct place){level, (int)(tick >> level * DUET__WHEEL_BITS) & (DUET__WHEEL_SLOTS - 1)};
}

static bool is_empty(const struct duet__wheel_slot *slot)
{
    uint32_t any = 0;
    for (int lane = 0; lane < DUET__WHEEL_LANES; lane++)
        any |= slot->first[lane];
    return any == 0;
}

static void push(struct duet__timers *timers, struct place place, uint32_t number)
{
    struct duet__timer_entry *entry = &timers->entries[number];
    struct duet__wheel_slot *slot = &timers->wheel[place.level][place.number];
    uint32_t *first = &slot->first[number % DUET__WHEEL_LANES];
    uint64_t bit = UINT64_C(1) << place.number;
    entry->prev = 0;
    entry->next = *first;
    if (*first)
        timers->entries[*first].prev = number;
    *first = number;
    if (!(timers->slots[place.level] & bit) || entry->when_ns < slot->least_ns)
        slot->least_ns = entry->when_ns;
    timers->levels |= 1u << place.level;
    timers->slots[place.level] |= bit;
}

static void note_empty(struct duet__timers *timers, struct place place)
{
    timers->slots[place.level] &= ~(UINT64_C(1) << place.number);
    if (timers->slots[place.level] == 0)
        timers->levels &= ~(1u << place.level);
}

static void pull(struct duet__timers *timers, struct place place, uint32_t number)
{
    const struct duet__timer_entry *entry = &timers->entries[number];
    struct duet__wheel_slot *slot = &timers->wheel[place.level][place.number];
    if (entry->next)
        timers->entries[entry->next].prev = entry->prev;
    if (entry->prev)
        timers->entries[entry->prev].next = entry->next;
    else
        slot->first[number % DUET__WHEEL_LANES] = entry->next;
    if (is_empty(slot))
        note_empty(timers, place);
}

static void put(struct duet__timers *timers, uint32_t number)
{
    const struct duet__timer_entry *entry = &timers->entries[number];
    int64_t when_ns = entry->when_ns;
    if (tick_of(when_ns) <= timers->tick)
        duet__heap_add(&timers->near, number, when_ns, entry->timer);
    else
        push(timers, place_of(timers, tick_of(when_ns)), number);
}

/* ---- The wheel moves ---- */

static int64_t begin_of(const struct duet__timers *timers, struct place place)
{
    int bits = place.level * DUET__WHEEL_BITS;
    int64_t above = timers->tick >> (bits + DUET__WHEEL_BITS) << (bits + DUET__WHEEL_BITS);
    return above | (int64_t)place.number << bits;
}

/* An entry may lie in two cache lines. */
static void fetch(const struct duet__timer_entry *entry)
{
    __builtin_prefetch(entry, 1);
    __builtin_prefetch((const char *)(entry + 1) - 1, 1);
}

/* All timers of a slot that is empty now go on. A step in each lane in turn: meanwhile the next
 * entries of the others come into the cache. */
static void spread(struct duet__timers *timers, struct duet__wheel_slot slot)
{
    while (!is_empty(&slot)) {
        for (int lane = 0; lane < DUET__WHEEL_LANES; lane++) {
            uint32_t number = slot.first[lane];
            if (number == 0)
                continue;
            slot.first[lane] = timers->entries[number].next;
            fetch(&timers->entries[slot.first[lane]]);
            put(timers, number);
        }
    }
}

/* To where the first slot begins, which is spread, if that is not after `tick`; else to `tick`, and
 * false: no slot begins by then. In neither case is any other slot passed, so the others stay as
 * they are. */
static bool move(struct duet__timers *timers, int64_t tick)
{
    struct place place = {0, 0};
    int64_t begin = INT64_MAX;
    if (timers->levels) {
        place.level = __builtin_ctz(timers->levels);
        place.number = __builtin_ctzll(timers->slots[place.level]);
        begin = begin_of(timers, place);
    }
    if (begin > tick) {
        timers->tick = tick > timers->tick ? tick : timers->tick;
        return false;
    }
    struct duet__wheel_slot *slot = &timers->wheel[place.level][place.number], full = *slot;
    memset(slot->first, 0, sizeof slot->first);
    note_empty(timers, place);
    timers->tick = begin;
    spread(timers, full);
    return true;
}

/* ---- Timers come and go ---- */

int duet__timers_reserve(struct duet__timers *timers, size_t count)
{
    if (count <= timers->room)
        return 0;
    if (count > ROOM_MOST)
        return -ENOMEM;
    uint32_t room = timers->room ? timers->room * 2 : ROOM_LEAST;
    while (room < count)
        room *= 2;
    if (duet__heap_reserve(&timers->near, room) < 0)
        return -ENOMEM;
    struct duet__timer_entry *entries =
        duet__alloc_resize(timers->entries, ((size_t)room + 1) * sizeof *entries);
    if (!entries)
        return -ENOMEM;
    timers->entries = entries;
    timers->room = room;
    return 0;
}

void duet__timers_add(struct duet__timers *timers, struct duet__timer *timer, int64_t when_ns)
{
    uint32_t number = timers->free;
    if (number)
        timers->free = timers->entries[number].next;
    else
        number = ++timers->used;
    timers->entries[number].when_ns = when_ns;
    timers->entries[number].timer = timer;
    timer->place = number;
    put(timers, number);
}

static void set_free(struct duet__timers *timers, uint32_t number)
{
    timers->entries[number].next = timers->free;
    timers->free = number;
}

void duet__timers_remove(struct duet__timers *timers, struct duet__timer *timer)
{
    uint32_t number = timer->place;
    int64_t tick = tick_of(timers->entries[number].when_ns);
    if (tick <= timers->tick)
        duet__heap_remove(&timers->near, number);
    else
        pull(timers, place_of(timers, tick), number);
    set_free(timers, number);
    timer->place = 0;
}

static bool one_is_due(struct duet__timers *timers, int64_t now_ns)
{
    while (timers->near.count == 0)
        if (!move(timers, tick_of(now_ns)))
            return false;
    return duet__heap_nearest_ns(&timers->near) <= now_ns;
}

size_t duet__timers_due(struct duet__timers *timers, int64_t now_ns, struct duet__timer *due[],
                        size_t most)
{
    size_t count = 0;
    while (count < most && one_is_due(timers, now_ns)) {
        due[count++] = timers->near.entries[1].what;
        set_free(timers, timers->near.entries[1].number);
        duet__heap_pop(&timers->near);
    }
    for (size_t i = 0; i < count; i++) /* by itself, so that they come into the cache together */
        due[i]->place = 0;
    return count;
}

size_t duet__timers_count_until(struct duet__timers *timers, int64_t when_ns, size_t most)
{
    size_t count;
    do
        count = duet__heap_count_until(&timers->near, when_ns, most);
    while (count < most && move(timers, tick_of(when_ns)));
    return count;
}

void duet__timers_fini(struct duet__timers *timers)
{
    duet__heap_fini(&timers->near);
    duet__free(timers->entries);
    *timers = (struct duet__timers){.entries = NULL};
}
