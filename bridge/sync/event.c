/* Event. To set it is to take all who wait out of the queue first, and then to change the word, as
 * long as nobody has come meanwhile: so the word's change is the last touch. */
#include "event.h"
#include "check.h"

#include <errno.h>
#include <stdio.h>

_Static_assert(sizeof(struct duet__event) <= sizeof(duet_event), "a duet_event has room for it");

static struct duet__event *event_of(const duet_event *e)
{
    return (struct duet__event *)e;
}

bool duet__event_is_set_or_mark(struct duet__event *event)
{
    uintptr_t none = 0;
    while (!duet__event_is_set(event)) {
        /* Publishes nothing: who reads it takes the lock. */
        if (duet__cas_relaxed(&event->word, &none, DUET__EVENT_WAITED_FOR) ||
            none == DUET__EVENT_WAITED_FOR)
            return false;
        none = 0;
    }
    return true;
}

void duet__event_left(struct duet__event *event)
{
    /* With the mark, nobody else changes the word. */
    if (duet__list_empty(&event->queue.waiters) &&
        duet__load_relaxed(&event->word) == DUET__EVENT_WAITED_FOR)
        duet__store_relaxed(&event->word, 0);
}

static const char *describe(const struct duet__wait *wait, char *buf, size_t size)
{
    (void)wait;
    snprintf(buf, size, "an event");
    return buf;
}

static const struct duet__wait_ops wait_ops = {duet__any_thread_may_end, describe, false};

static int wait_in_queue(struct duet__event *event, struct duet__parker *parker, duet_deadline by)
{
    struct duet__waiter waiter;
    bool shielded = parker->shields > 0;
    int rc = duet__wait_begin(parker, by, shielded);
    if (rc < 0)
        return rc;
    duet__waiter_init(&waiter, parker);
    duet__queue_lock(&event->queue);
    if (!duet__event_is_set_or_mark(event)) {
        rc = duet__queue_sleep(&event->queue.lock, &event->queue.waiters, &waiter, &wait_ops, event,
                               by, duet__wait_kind(shielded));
        if (rc == 0)
            return 0;
        duet__event_left(event);
    }
    duet__queue_unlock(&event->queue);
    return rc;
}

int duet_event_wait(duet_event *e, duet_deadline by)
{
    if (!e)
        return duet__bad_argument(__func__, "e is NULL");
    struct duet__parker *parker = duet__here();
    if (!duet__wait_is_cancelled(parker) && duet__event_is_set(event_of(e))) {
        duet__wait_unparked(parker);
        return 0;
    }
    return duet__told(wait_in_queue(event_of(e), parker, by));
}

static void claim_all(struct duet__event *event, struct duet__claimed *claimed)
{
    duet__queue_lock(&event->queue);
    duet__claimed_add_all(claimed, &event->queue.waiters);
    duet__event_left(event);
    duet__queue_unlock(&event->queue);
}

void duet_event_set(duet_event *e)
{
    if (!e) {
        duet__bad_argument(__func__, "e is NULL");
        return;
    }
    struct duet__event *event = event_of(e);
    struct duet__claimed claimed = {0};
    for (;;) {
        uintptr_t word = duet__load_relaxed(&event->word);
        if (word & DUET__EVENT_WAITED_FOR)
            claim_all(event, &claimed);
        /* The last touch. Publishes what was written before, also if it was set already; pairs
         * with duet__event_is_set(). */
        else if (duet__cas_release(&event->word, &word, DUET__EVENT_SET))
            break;
    }
    duet__claimed_tell(&claimed);
}

void duet_event_clear(duet_event *e)
{
    if (!e)
        duet__bad_argument(__func__, "e is NULL");
    else
        /* Acquires what was written before it was set, as who waited does. */
        duet__and_acquire(&event_of(e)->word, ~(uintptr_t)DUET__EVENT_SET);
}

bool duet_event_is_set(const duet_event *e)
{
    if (!e) {
        duet__bad_argument(__func__, "e is NULL");
        return false;
    }
    return duet__event_is_set(event_of(e));
}
