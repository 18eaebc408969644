/* Select. All channels of the list are locked at once, in the order of their addresses: so whether
 * one of the cases is ready, and if none is, standing in all their queues, is one step, and two
 * that select on the same channels cannot miss each other. What cannot be locked, a future or an
 * event, stays ready once it is: it is looked at after its queue has been entered. */
#include "alloc.h"
#include "chan.h"
#include "check.h"
#include "clock.h"
#include "event.h"
#include "future_impl.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>

enum {
    ON_STACK = 8
};

/* One case; in the order of the list. */
struct place {
    struct duet__chan_waiter waiter; /* a future's and an event's stand by waiter.waiter alone */
    bool queued;
};

/* One select; on the stack of who waits, like its arrays of n, unless they are too long. */
struct select {
    struct duet__wait wait;
    struct duet__choice choice;
    duet_case *cases;
    struct place *places;
    const void **subjects; /* what the cases are on, for the graph */
    duet_chan **locks; /* the channels, each once, in the order of their addresses */
    size_t n, locks_count;
};

/* ---- What can be done at once. With all channels locked. ---- */

static bool is_ready(const duet_case *one)
{
    switch (one->kind) {
    case DUET_CASE_SEND:
        return duet__chan_may_send(one->on);
    case DUET_CASE_RECV:
        return duet__chan_may_recv(one->on);
    case DUET_CASE_FUTURE:
        return duet__future_is_settled(one->on);
    case DUET_CASE_EVENT:
        return duet__event_is_set(one->on);
    default:
        return false;
    }
}

static _Thread_local uint32_t dice_state = 2463534242;

/* Below n. George Marsaglia, "Xorshift RNGs" (2003); who is served is not worth better dice. */
static uint32_t dice(uint32_t n)
{
    dice_state ^= dice_state << 13;
    dice_state ^= dice_state >> 17;
    dice_state ^= dice_state << 5;
    return dice_state % n;
}

/* One of those that are ready, each as likely as the other; NULL: none is. */
static duet_case *pick(const struct select *select)
{
    duet_case *picked = NULL;
    uint32_t ready = 0;
    for (size_t i = 0; i < select->n; i++)
        if (is_ready(&select->cases[i]) && dice(++ready) == 0)
            picked = &select->cases[i];
    return picked;
}

/* DUET__CHAN_WAITS: somebody else has chosen the one with whom it was to be. */
static int perform(duet_case *one, struct duet__waiter **ret_other)
{
    *ret_other = NULL;
    if (one->kind == DUET_CASE_SEND)
        return duet__chan_try_send(one->on, one->item, ret_other);
    if (one->kind == DUET_CASE_RECV)
        return duet__chan_try_recv(one->on, one->into, ret_other);
    return 0;
}

static bool perform_one(struct select *select, int *ret_index, struct duet__waiter **ret_other)
{
    duet_case *picked;
    while ((picked = pick(select)) != NULL) {
        int rc = perform(picked, ret_other);
        if (rc == DUET__CHAN_WAITS)
            continue;
        picked->rc = rc;
        *ret_index = (int)(picked - select->cases);
        return true;
    }
    return false;
}

/* ---- The locks ---- */

static int by_address(const void *a, const void *b)
{
    uintptr_t x = (uintptr_t) * (duet_chan *const *)a, y = (uintptr_t) * (duet_chan *const *)b;
    return x < y ? -1 : x > y;
}

static bool is_chan(const duet_case *one)
{
    return one->kind == DUET_CASE_SEND || one->kind == DUET_CASE_RECV;
}

static void list_locks(struct select *select)
{
    size_t n = 0, distinct = 0;
    for (size_t i = 0; i < select->n; i++)
        if (is_chan(&select->cases[i]))
            select->locks[n++] = select->cases[i].on;
    qsort(select->locks, n, sizeof select->locks[0], by_address);
    for (size_t i = 0; i < n; i++)
        if (distinct == 0 || select->locks[distinct - 1] != select->locks[i])
            select->locks[distinct++] = select->locks[i];
    select->locks_count = distinct;
}

static void lock_all(const struct select *select)
{
    for (size_t i = 0; i < select->locks_count; i++)
        duet__bias_lock(&select->locks[i]->lock);
}

static void unlock_all(const struct select *select)
{
    for (size_t i = 0; i < select->locks_count; i++)
        duet__bias_unlock(&select->locks[i]->lock);
}

/* ---- The queues ---- */

/* By a future's settling or an event's setting. */
static bool fire(struct duet__waiter *waiter, duet_future *settled)
{
    struct duet__chan_waiter *place = duet__container(waiter, struct duet__chan_waiter, waiter);
    (void)settled;
    duet__choose(place->choice, place->index);
    duet__unpark(waiter->parker);
    return false;
}

static bool enqueue_on_event(struct duet__event *event, struct duet__waiter *waiter)
{
    duet__queue_lock(&event->queue);
    bool is_set = duet__event_is_set_or_mark(event);
    if (!is_set)
        duet__list_append(&event->queue.waiters, &waiter->link);
    duet__queue_unlock(&event->queue);
    return !is_set;
}

/* False: this case is ready now. */
static bool enqueue(const duet_case *one, struct place *place)
{
    struct duet__waiter *waiter = &place->waiter.waiter;
    duet_chan *c = one->on;
    switch (one->kind) {
    case DUET_CASE_SEND:
        duet__list_append(&c->senders, &waiter->link);
        return true;
    case DUET_CASE_RECV:
        duet__list_append(&c->receivers, &waiter->link);
        return true;
    case DUET_CASE_FUTURE:
        waiter->fire = fire;
        return duet__future_enqueue(one->on, waiter);
    case DUET_CASE_EVENT:
        waiter->fire = fire;
        return enqueue_on_event(one->on, waiter);
    default:
        return false;
    }
}

/* With all channels locked. Stands in all queues, unless one turns out to be ready. */
static void enqueue_all(struct select *select, struct duet__parker *parker)
{
    for (size_t i = 0; i < select->n; i++) {
        const duet_case *one = &select->cases[i];
        struct place *place = &select->places[i];
        *place = (struct place){.waiter = {.choice = &select->choice,
                                           .index = (uint32_t)i,
                                           .from = one->item,
                                           .into = one->into}};
        duet__waiter_init(&place->waiter.waiter, parker);
        if (one->kind == DUET_CASE_NONE)
            continue;
        place->queued = enqueue(one, place);
        if (!place->queued)
            duet__choose(&select->choice, (uint32_t)i);
    }
}

static bool leave_event(struct duet__event *event, struct duet__waiter *waiter)
{
    duet__lock(&event->queue.lock);
    bool linked = duet__list_linked(&waiter->link);
    if (linked) {
        duet__list_remove(&waiter->link);
        duet__event_left(event);
    }
    duet__unlock(&event->queue.lock);
    return linked;
}

/* True: somebody has claimed it, whose token is to come. */
static bool leave(const duet_case *one, struct place *place)
{
    struct duet__waiter *waiter = &place->waiter.waiter;
    if (is_chan(one))
        return !duet__chan_leave(one->on, waiter);
    return one->kind == DUET_CASE_FUTURE ? !duet__future_leave(one->on, waiter)
                                         : !leave_event(one->on, waiter);
}

/* From then on nobody else knows of us. */
static void leave_all(struct select *select, struct duet__parker *parker, size_t tokens)
{
    size_t claimed = 0;
    for (size_t i = 0; i < select->n; i++)
        if (select->places[i].queued)
            claimed += leave(&select->cases[i], &select->places[i]);
    for (; tokens < claimed; tokens++)
        duet__park_token(parker);
}

/* ---- In the graph of waits ---- */

static bool may_end(const struct duet__wait *wait, struct duet__look *look)
{
    const struct select *select = duet__container(wait, const struct select, wait);
    bool may = false, is_sleep = true;
    for (size_t i = 0; i < select->n; i++) {
        const duet_case *one = &select->cases[i];
        is_sleep = is_sleep && one->kind == DUET_CASE_NONE;
        if (one->kind == DUET_CASE_FUTURE)
            may = duet__future_may_settle(one->on, look) || may;
        else if (one->kind != DUET_CASE_NONE)
            may = duet__look_at_threads(look) || may;
    }
    return may || (is_sleep && wait->by_ns != DUET__NEVER);
}

static const char *describe(const struct duet__wait *wait, char *buf, size_t size)
{
    snprintf(buf, size, "one of %zu cases of a select", wait->n);
    return buf;
}

static const struct duet__wait_ops wait_ops = {may_end, describe, true};

/* ---- Selecting ---- */

static uint32_t chosen(const struct select *select)
{
    return duet__load_relaxed(&((struct select *)select)->choice.chosen);
}

/* Until one is chosen: its index, or why none is. */
static int sleep_until_chosen(struct select *select, struct duet__parker *parker, duet_deadline by)
{
    bool shielded = parker->shields > 0;
    size_t tokens = 0;
    int rc = 0;
    duet__wait_enter(&select->wait, parker, &wait_ops, select->subjects, select->n, by,
                     duet__wait_kind(shielded));
    while (rc == 0 && chosen(select) == 0) {
        rc = duet__park(parker, by, shielded);
        if (rc == 0)
            tokens++;
    }
    duet__wait_leave(&select->wait);
    leave_all(select, parker, tokens);
    if (chosen(select) == 0)
        return rc;
    int index = (int)(chosen(select) - 1);
    select->cases[index].rc = select->places[index].waiter.rc;
    return index;
}

static int select_with(struct select *select, struct duet__parker *parker, duet_deadline by)
{
    struct duet__waiter *other;
    int rc;
    list_locks(select);
    lock_all(select);
    bool done = perform_one(select, &rc, &other);
    if (!done)
        rc = duet__wait_check(parker, by, parker->shields > 0);
    if (!done && rc == 0)
        enqueue_all(select, parker);
    unlock_all(select);
    if (done) {
        duet__waiter_tell(other);
        duet__wait_unparked(parker);
        return rc;
    }
    return rc < 0 ? duet__wait_failed(parker, rc) : sleep_until_chosen(select, parker, by);
}

/* ---- The list of cases ---- */

static int check_case(const char *function, const duet_case *one)
{
    switch (one->kind) {
    case DUET_CASE_NONE:
        return 0;
    case DUET_CASE_SEND:
        return duet__chan_check(function, one->on, one->item);
    case DUET_CASE_RECV:
        return duet__chan_check(function, one->on, one->into);
    case DUET_CASE_FUTURE:
        if (!one->on)
            return duet__bad_argument(function, "the future of a case is NULL");
        return duet__future_is_settled(one->on) ||
                       !duet__is_foreign(((duet_future *)one->on)->process)
                   ? 0
                   : -EOWNERDEAD;
    case DUET_CASE_EVENT:
        return one->on ? 0 : duet__bad_argument(function, "the event of a case is NULL");
    default:
        return duet__bad_argument(function, "the kind of a case is unknown");
    }
}

static int check_list(const char *function, const duet_case *cases, size_t n)
{
    int rc = 0;
    if (!cases || n == 0)
        return duet__bad_argument(function, "no cases, so none can be the first");
    if (n > INT_MAX)
        return duet__bad_argument(function, "more cases than an index can tell apart");
    for (size_t i = 0; i < n && rc == 0; i++)
        rc = check_case(function, &cases[i]);
    return rc;
}

/* What a select needs for each case. */
struct memory {
    struct place place;
    const void *subject;
    duet_chan *lock;
};

static int select_in(void *memory, duet_case *cases, size_t n, struct duet__parker *parker,
                     duet_deadline by)
{
    struct select select = {.cases = cases, .places = memory, .n = n};
    select.subjects = (const void **)(select.places + n);
    select.locks = (duet_chan **)(select.subjects + n);
    for (size_t i = 0; i < n; i++)
        select.subjects[i] = cases[i].kind == DUET_CASE_NONE ? NULL : cases[i].on;
    return select_with(&select, parker, by);
}

int duet_select(duet_case *cases, size_t n, duet_deadline by)
{
    struct memory on_stack[ON_STACK], *memory = on_stack;
    struct duet__parker *parker = duet__here();
    int rc = check_list(__func__, cases, n);
    if (rc < 0)
        return rc;
    if (duet__wait_is_cancelled(parker))
        return duet__told(duet__wait_failed(parker, -ECANCELED));
    if (n > ON_STACK && !(memory = duet__alloc_zeroed(n, sizeof *memory)))
        return -ENOMEM;
    rc = select_in(memory, cases, n, parker, by);
    if (memory != on_stack)
        duet__free(memory);
    return duet__told(rc);
}
