#include "chan.h"
#include "alloc.h"
#include "check.h"
#include "context.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static struct duet__chan_waiter *chan_waiter_of(struct duet__waiter *waiter)
{
    return duet__container(waiter, struct duet__chan_waiter, waiter);
}

/* ---- Whom it claims. Under the lock, all of these. ---- */

/* Is its wait still to be ended? Then it is ours to end. */
static bool claim(struct duet__chan_waiter *waiter)
{
    return !waiter->choice || duet__choose(waiter->choice, waiter->index);
}

/* The first who still waits, claimed; NULL: nobody. */
static struct duet__chan_waiter *claim_first(struct duet__list *list)
{
    struct duet__waiter *waiter;
    while ((waiter = duet__waiter_pop(list)) != NULL) {
        if (claim(chan_waiter_of(waiter)))
            return chan_waiter_of(waiter);
        duet__waiter_tell(waiter); /* it is awake: another of its cases was chosen */
    }
    return NULL;
}

/* Is there one who still waits? */
static bool has_waiter(struct duet__list *list)
{
    while (!duet__list_empty(list)) {
        struct duet__waiter *first = duet__container(list->next, struct duet__waiter, link);
        struct duet__choice *choice = chan_waiter_of(first)->choice;
        if (!choice || duet__load_relaxed(&choice->chosen) == 0)
            return true;
        duet__waiter_tell(duet__waiter_pop(list));
    }
    return false;
}

/* To all who still wait. */
static void refuse_all(struct duet__list *list, struct duet__claimed *claimed)
{
    struct duet__chan_waiter *waiter;
    while ((waiter = claim_first(list)) != NULL) {
        waiter->rc = -EPIPE;
        duet__claimed_add(claimed, &waiter->waiter);
    }
}

/* ---- Its items. Under the lock, all of these. ---- */

static void *item_at(duet_chan *c, size_t n)
{
    size_t at = c->first + n; /* below twice the capacity, which does not overflow */
    return c->items + (at < c->capacity ? at : at - c->capacity) * c->item_size;
}

static void copy(duet_chan *c, void *to, const void *from)
{
    if (c->item_size > 0)
        memcpy(to, from, c->item_size);
}

static void put(duet_chan *c, const void *item)
{
    copy(c, item_at(c, c->count), item);
    c->count++;
}

static void take(duet_chan *c, void *into)
{
    copy(c, into, item_at(c, 0));
    c->first = c->first + 1 < c->capacity ? c->first + 1 : 0;
    c->count--;
}

int duet__chan_try_send(duet_chan *c, const void *item, struct duet__waiter **ret_other)
{
    *ret_other = NULL;
    if (c->shut)
        return -EPIPE;
    struct duet__chan_waiter *receiver = claim_first(&c->receivers);
    if (receiver) { /* then there is nothing inside */
        copy(c, receiver->into, item);
        *ret_other = &receiver->waiter;
    } else if (c->count < c->capacity) {
        put(c, item);
    } else {
        return DUET__CHAN_WAITS;
    }
    c->unfinished++;
    return 0;
}

/* From the first who waits to send: into the room that there is now, or else into the receiver's
 * memory. */
static struct duet__waiter *accept_from_sender(duet_chan *c, void *into)
{
    struct duet__chan_waiter *sender = claim_first(&c->senders);
    if (!sender)
        return NULL;
    if (c->capacity > 0)
        put(c, sender->from);
    else
        copy(c, into, sender->from);
    c->unfinished++;
    return &sender->waiter;
}

int duet__chan_try_recv(duet_chan *c, void *into, struct duet__waiter **ret_other)
{
    bool was_inside = c->count > 0;
    if (was_inside)
        take(c, into);
    *ret_other = accept_from_sender(c, into);
    if (was_inside || *ret_other)
        return 0;
    return c->shut ? -EPIPE : DUET__CHAN_WAITS;
}

bool duet__chan_may_send(duet_chan *c)
{
    return c->shut || c->count < c->capacity || has_waiter(&c->receivers);
}

bool duet__chan_may_recv(duet_chan *c)
{
    return c->shut || c->count > 0 || has_waiter(&c->senders);
}

/* ---- In the graph of waits ---- */

static const char *describe_send(const struct duet__wait *wait, char *buf, size_t size)
{
    (void)wait;
    snprintf(buf, size, "room in a channel");
    return buf;
}

static const char *describe_recv(const struct duet__wait *wait, char *buf, size_t size)
{
    (void)wait;
    snprintf(buf, size, "an item of a channel");
    return buf;
}

static const char *describe_join(const struct duet__wait *wait, char *buf, size_t size)
{
    (void)wait;
    snprintf(buf, size, "all items of a channel to be done");
    return buf;
}

static const struct duet__wait_ops send_ops = {duet__any_thread_may_end, describe_send, false};
static const struct duet__wait_ops recv_ops = {duet__any_thread_may_end, describe_recv, false};
static const struct duet__wait_ops join_ops = {duet__any_thread_may_end, describe_join, false};

/* ---- Sending and receiving ---- */

/* Under the lock, which it releases. */
static int sleep_in(duet_chan *c, struct duet__list *list, struct duet__chan_waiter *waiter,
                    const struct duet__wait_ops *ops, duet_deadline by)
{
    struct duet__parker *parker = waiter->waiter.parker;
    bool shielded = parker->shields > 0;
    int rc = duet__wait_check(parker, by, shielded);
    if (rc < 0) {
        duet__unlock(&c->lock);
        return duet__wait_failed(parker, rc);
    }
    rc = duet__queue_sleep(&c->lock, list, &waiter->waiter, ops, c, by, duet__wait_kind(shielded));
    if (rc == 0)
        return waiter->rc;
    duet__unlock(&c->lock);
    return rc;
}

/* One item: from the caller, or else into its memory. */
static int move(duet_chan *c, const void *from, void *into, bool sends, duet_deadline by)
{
    struct duet__parker *parker = duet__here();
    struct duet__waiter *other;
    if (duet__wait_is_cancelled(parker))
        return duet__wait_failed(parker, -ECANCELED);
    duet__lock(&c->lock);
    int rc = sends ? duet__chan_try_send(c, from, &other) : duet__chan_try_recv(c, into, &other);
    if (rc == DUET__CHAN_WAITS) {
        struct duet__chan_waiter waiter = {.from = from, .into = into};
        duet__waiter_init(&waiter.waiter, parker);
        return sleep_in(c, sends ? &c->senders : &c->receivers, &waiter,
                        sends ? &send_ops : &recv_ops, by);
    }
    duet__unlock(&c->lock);
    duet__waiter_tell(other);
    if (rc < 0)
        return duet__wait_failed(parker, rc);
    duet__wait_unparked(parker);
    return 0;
}

/* 0, or why this channel and item are of no use. */
int duet__chan_check(const char *function, const duet_chan *c, const void *item)
{
    if (!c)
        return duet__bad_argument(function, "the channel is NULL");
    if (!item && c->item_size > 0)
        return duet__bad_argument(function, "the item is NULL, though items have a size");
    return duet__is_foreign(c->process) ? -EOWNERDEAD : 0;
}

int duet_chan_send(duet_chan *c, const void *item, duet_deadline by)
{
    int rc = duet__chan_check(__func__, c, item);
    return rc < 0 ? rc : duet__told(move(c, item, NULL, true, by));
}

int duet_chan_recv(duet_chan *c, void *item, duet_deadline by)
{
    int rc = duet__chan_check(__func__, c, item);
    return rc < 0 ? rc : duet__told(move(c, NULL, item, false, by));
}

size_t duet_chan_count(const duet_chan *c)
{
    if (!c) {
        duet__bad_argument(__func__, "c is NULL");
        return 0;
    }
    struct duet__lock *lock = (struct duet__lock *)&c->lock;
    if (duet__is_foreign(c->process))
        return 0;
    duet__lock(lock);
    size_t count = c->count;
    duet__unlock(lock);
    return count;
}

/* ---- The end of an item ---- */

static int finish(duet_chan *c, size_t n)
{
    struct duet__claimed claimed = {0};
    duet__lock(&c->lock);
    uint64_t were = c->unfinished < n ? c->unfinished : n;
    c->unfinished -= were;
    if (c->unfinished == 0)
        duet__claimed_add_all(&claimed, &c->joiners);
    duet__unlock(&c->lock);
    duet__claimed_tell(&claimed);
    return were < n ? -ERANGE : 0;
}

int duet_chan_done(duet_chan *c)
{
    int rc = duet__chan_check(__func__, c, "");
    return rc < 0 ? rc : finish(c, 1);
}

int duet_chan_join(duet_chan *c, duet_deadline by)
{
    int rc = duet__chan_check(__func__, c, "");
    if (rc < 0)
        return rc;
    struct duet__parker *parker = duet__here();
    if (duet__wait_is_cancelled(parker))
        return duet__told(duet__wait_failed(parker, -ECANCELED));
    duet__lock(&c->lock);
    if (c->unfinished > 0) {
        struct duet__chan_waiter waiter = {0};
        duet__waiter_init(&waiter.waiter, parker);
        return duet__told(sleep_in(c, &c->joiners, &waiter, &join_ops, by));
    }
    duet__unlock(&c->lock);
    duet__wait_unparked(parker);
    return 0;
}

static void drop_items(duet_chan *c, size_t n)
{
    for (size_t i = 0; i < n && c->drop; i++)
        duet__call_bare(c->drop, item_at(c, i));
}

static void shut(duet_chan *c, bool and_drop)
{
    struct duet__claimed claimed = {0};
    size_t n = 0;
    duet__lock(&c->lock);
    c->shut = true;
    refuse_all(&c->senders, &claimed);
    refuse_all(&c->receivers, &claimed); /* they wait only if there is nothing inside */
    if (and_drop) {
        n = c->count;
        c->count = 0; /* from here on nobody else touches the items */
    }
    duet__unlock(&c->lock);
    duet__claimed_tell(&claimed);
    if (n > 0) {
        drop_items(c, n);
        finish(c, n);
    }
}

void duet_chan_shut(duet_chan *c)
{
    if (duet__chan_check(__func__, c, "") == 0)
        shut(c, false);
}

void duet_chan_shut_now(duet_chan *c)
{
    if (duet__chan_check(__func__, c, "") == 0)
        shut(c, true);
}

/* ---- Life ---- */

int duet_chan_open_with(duet_chan **ret, size_t item_size, size_t capacity,
                        void (*drop)(void *item))
{
    size_t size;
    if (!ret)
        return duet__bad_argument(__func__, "ret is NULL");
    if (capacity > PTRDIFF_MAX || __builtin_mul_overflow(item_size, capacity, &size) ||
        size > PTRDIFF_MAX - sizeof(duet_chan))
        return duet__bad_argument(__func__,
                                  "capacity times item_size is more than memory can hold");
    duet_chan *c = duet__alloc(sizeof *c + size);
    if (!c)
        return -ENOMEM;
    *c = (duet_chan){.refs = 1,
                     .process = duet__process,
                     .item_size = item_size,
                     .capacity = capacity,
                     .drop = drop};
    duet__list_init(&c->senders);
    duet__list_init(&c->receivers);
    duet__list_init(&c->joiners);
    *ret = c;
    return 0;
}

int duet_chan_open(duet_chan **ret, size_t item_size, size_t capacity)
{
    return duet_chan_open_with(ret, item_size, capacity, NULL);
}

duet_chan *duet_chan_ref(duet_chan *c)
{
    if (!c) {
        duet__bad_argument(__func__, "c is NULL");
        return NULL;
    }
    /* Who has a reference may make another: nothing to acquire or publish. */
    uint32_t before = duet__add_relaxed(&c->refs, 1);
    duet__check(before > 0, "a channel is used after its last unref");
    return c;
}

void duet_chan_unref(duet_chan *c)
{
    if (!c || duet__is_foreign(c->process))
        return;
    /* Releases what this owner did to the channel; the last one acquires what all did. */
    uint32_t before = duet__sub_acq_rel(&c->refs, 1);
    duet__check(before > 0, "a channel is unreferenced more often than referenced");
    if (before > 1)
        return;
    drop_items(c, c->count);
    duet__free(c);
}
