/* The event from inside, for those who wait for one of several. */
#pragma once
#include "queue.h"

#include <duet/sync.h>

enum {
    DUET__EVENT_SET = 1,
    DUET__EVENT_WAITED_FOR = 2, /* set and cleared under the lock, with the queue; never with SET */
};

/* The caller's. */
struct duet__event {
    struct duet__queue queue;
    _Atomic uintptr_t word;
};

static inline bool duet__event_is_set(const struct duet__event *event)
{
    /* Acquires what was written before it was set. Pairs with the release in duet_event_set(). */
    return duet__load_acquire(&event->word) & DUET__EVENT_SET;
}

/* Under the queue's lock: is it set? Else marks that somebody waits. */
bool duet__event_is_set_or_mark(struct duet__event *event);
/* Under the queue's lock: one who waited has given up, and is in the queue no more. */
void duet__event_left(struct duet__event *event);
