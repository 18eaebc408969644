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

static inline bool is_small(size_t size)
{
    return size == 8 || size == 4 || size == 16;
}

/* In line, as memcpy() of an unknown size is not. */
static inline void copy_small(void *to, const void *from, size_t size)
{
    if (size == 8)
        memcpy(to, from, 8);
    else if (size == 4)
        memcpy(to, from, 4);
    else
        memcpy(to, from, 16);
}

static inline void copy(void *to, const void *from, size_t size)
{
    if (is_small(size))
        copy_small(to, from, size);
    else if (size > 0)
        memcpy(to, from, size);
}

static inline size_t after(const duet_chan *c, size_t at)
{
    return at + c->item_size < c->bytes ? at + c->item_size : 0;
}

/* Where the next item is to be written. */
static inline void *next_room(duet_chan *c)
{
    size_t at = c->end;
    c->end = after(c, at);
    c->count++;
    return c->items + at;
}

/* Where the oldest item is to be read. */
static inline const void *next_item(duet_chan *c)
{
    size_t at = c->first;
    c->first = after(c, at);
    c->count--;
    return c->items + at;
}

static inline int try_send(duet_chan *c, const void *item, struct duet__waiter **ret_other)
{
    struct duet__chan_waiter *receiver;
    *ret_other = NULL;
    if (c->shut)
        return -EPIPE;
    if (!duet__list_empty(&c->receivers) && (receiver = claim_first(&c->receivers)) != NULL) {
        copy(receiver->into, item, c->item_size); /* then there is nothing inside */
        *ret_other = &receiver->waiter;
    } else if (c->count < c->capacity) {
        copy(next_room(c), item, c->item_size);
    } else {
        return DUET__CHAN_WAITS;
    }
    c->unfinished++;
    return 0;
}

int duet__chan_try_send(duet_chan *c, const void *item, struct duet__waiter **ret_other)
{
    return try_send(c, item, ret_other);
}

/* From the first who waits to send: into the room that there is now, or else into the receiver's
 * memory. */
static struct duet__waiter *accept_from_sender(duet_chan *c, void *into)
{
    struct duet__chan_waiter *sender = claim_first(&c->senders);
    if (!sender)
        return NULL;
    if (c->capacity > 0)
        copy(next_room(c), sender->from, c->item_size);
    else
        copy(into, sender->from, c->item_size);
    c->unfinished++;
    return &sender->waiter;
}

static inline int try_recv(duet_chan *c, void *into, struct duet__waiter **ret_other)
{
    bool was_inside = c->count > 0;
    if (was_inside)
        copy(into, next_item(c), c->item_size);
    *ret_other = duet__list_empty(&c->senders) ? NULL : accept_from_sender(c, into);
    if (was_inside || *ret_other)
        return 0;
    return c->shut ? -EPIPE : DUET__CHAN_WAITS;
}

int duet__chan_try_recv(duet_chan *c, void *into, struct duet__waiter **ret_other)
{
    return try_recv(c, into, ret_other);
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

/* In the list of whoever will claim it: 0, or why it was not claimed; then it is in no list. */
static int sleep_until_claimed(duet_chan *c, struct duet__waiter *waiter,
                               const struct duet__wait_ops *ops, duet_deadline by, bool shielded)
{
    struct duet__wait wait;
    duet__wait_enter(&wait, waiter->parker, ops, c, 1, by, duet__wait_kind(shielded));
    int rc = duet__park(waiter->parker, by, shielded);
    duet__wait_leave(&wait); /* first: the graph's lock comes before ours */
    if (rc < 0 && !duet__chan_leave(c, waiter)) {
        duet__park_token(waiter->parker); /* its claimer is between its claim and its unpark */
        rc = 0;
    }
    return rc;
}

/* Under the lock, which it releases. */
static DUET__COLD int sleep_in(duet_chan *c, struct duet__list *list,
                               struct duet__chan_waiter *waiter, const struct duet__wait_ops *ops,
                               duet_deadline by)
{
    struct duet__parker *parker = waiter->waiter.parker;
    bool shielded = parker->shields > 0;
    int rc = duet__wait_check(parker, by, shielded);
    if (rc == 0)
        duet__list_append(list, &waiter->waiter.link);
    duet__bias_unlock(&c->lock);
    if (rc < 0)
        return duet__wait_failed(parker, rc);
    rc = sleep_until_claimed(c, &waiter->waiter, ops, by, shielded);
    return rc == 0 ? waiter->rc : rc;
}

bool duet__chan_leave(duet_chan *c, struct duet__waiter *waiter)
{
    duet__bias_lock(&c->lock);
    bool linked = duet__list_linked(&waiter->link);
    if (linked)
        duet__list_remove(&waiter->link);
    duet__bias_unlock(&c->lock);
    return linked;
}

/* How one ends that did not sleep: whom it has claimed is told. */
static inline int end_at_once(struct duet__parker *parker, struct duet__waiter *other, int rc)
{
    if (__builtin_expect(other != NULL, 0))
        duet__waiter_tell(other);
    if (rc < 0)
        return duet__wait_failed(parker, rc);
    duet__wait_unparked(parker);
    return 0;
}

static inline int send_item(duet_chan *c, struct duet__parker *parker, const void *item,
                            duet_deadline by)
{
    struct duet__waiter *other;
    duet__bias_lock(&c->lock);
    int rc = try_send(c, item, &other);
    if (rc == DUET__CHAN_WAITS) {
        struct duet__chan_waiter waiter = {.from = item};
        duet__waiter_init(&waiter.waiter, parker);
        return sleep_in(c, &c->senders, &waiter, &send_ops, by);
    }
    duet__bias_unlock(&c->lock);
    return end_at_once(parker, other, rc);
}

static inline int recv_item(duet_chan *c, struct duet__parker *parker, void *into, duet_deadline by)
{
    struct duet__waiter *other;
    duet__bias_lock(&c->lock);
    int rc = try_recv(c, into, &other);
    if (rc == DUET__CHAN_WAITS) {
        struct duet__chan_waiter waiter = {.into = into};
        duet__waiter_init(&waiter.waiter, parker);
        return sleep_in(c, &c->receivers, &waiter, &recv_ops, by);
    }
    duet__bias_unlock(&c->lock);
    return end_at_once(parker, other, rc);
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

static __attribute__((noinline)) int send_anyhow(duet_chan *c, const void *item, duet_deadline by)
{
    struct duet__parker *parker = duet__here();
    int rc = duet__chan_check("duet_chan_send", c, item);
    if (rc < 0)
        return rc;
    return duet__told(duet__wait_is_cancelled(parker) ? duet__wait_failed(parker, -ECANCELED)
                                                      : send_item(c, parker, item, by));
}

static __attribute__((noinline)) int recv_anyhow(duet_chan *c, void *item, duet_deadline by)
{
    struct duet__parker *parker = duet__here();
    int rc = duet__chan_check("duet_chan_recv", c, item);
    if (rc < 0)
        return rc;
    return duet__told(duet__wait_is_cancelled(parker) ? duet__wait_failed(parker, -ECANCELED)
                                                      : recv_item(c, parker, item, by));
}

/* ---- The usual case: a channel of one thread, and nothing to do but to move an item. What is not
 * so is left to the functions above. ---- */

/* Nothing stands against it so far, and it need not let others live either. */
static inline bool may_be_quick(const duet_chan *c, const void *item,
                                const struct duet__parker *parker)
{
    return c && item && parker && !duet__is_foreign(c->process) && !duet__park_cancelled(parker) &&
           parker->streak < DUET__STREAK_MAX - 1;
}

int duet_chan_send(duet_chan *c, const void *item, duet_deadline by)
{
    struct duet__parker *parker = duet__here_now;
    bool sent = false;
    if (may_be_quick(c, item, parker) && duet__bias_enter(&c->lock)) {
        sent = c->is_plain && c->count < c->capacity && duet__list_empty(&c->receivers);
        if (sent) {
            copy_small(next_room(c), item, c->item_size);
            c->unfinished++;
            parker->streak++;
        }
        duet__bias_leave(&c->lock);
    }
    return __builtin_expect(sent, 1) ? 0 : send_anyhow(c, item, by);
}

int duet_chan_recv(duet_chan *c, void *item, duet_deadline by)
{
    struct duet__parker *parker = duet__here_now;
    bool received = false;
    if (may_be_quick(c, item, parker) && duet__bias_enter(&c->lock)) {
        received = c->is_plain && c->count > 0 && duet__list_empty(&c->senders);
        if (received) {
            copy_small(item, next_item(c), c->item_size);
            parker->streak++;
        }
        duet__bias_leave(&c->lock);
    }
    return __builtin_expect(received, 1) ? 0 : recv_anyhow(c, item, by);
}

size_t duet_chan_count(const duet_chan *c)
{
    if (!c) {
        duet__bad_argument(__func__, "c is NULL");
        return 0;
    }
    struct duet__bias *lock = (struct duet__bias *)&c->lock;
    if (duet__is_foreign(c->process))
        return 0;
    duet__bias_lock(lock);
    size_t count = c->count;
    duet__bias_unlock(lock);
    return count;
}

/* ---- The end of an item ---- */

static int finish(duet_chan *c, size_t n)
{
    struct duet__claimed claimed = {0};
    duet__bias_lock(&c->lock);
    uint64_t were = c->unfinished < n ? c->unfinished : n;
    c->unfinished -= were;
    if (c->unfinished == 0)
        duet__claimed_add_all(&claimed, &c->joiners);
    duet__bias_unlock(&c->lock);
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
    duet__bias_lock(&c->lock);
    if (c->unfinished > 0) {
        struct duet__chan_waiter waiter = {0};
        duet__waiter_init(&waiter.waiter, parker);
        return duet__told(sleep_in(c, &c->joiners, &waiter, &join_ops, by));
    }
    duet__bias_unlock(&c->lock);
    duet__wait_unparked(parker);
    return 0;
}

/* The oldest so many, which nobody else touches any more. */
static void drop_items(duet_chan *c, size_t first, size_t n)
{
    for (; n > 0 && c->drop; n--, first = after(c, first))
        duet__call_bare(c->drop, c->items + first);
}

static void shut(duet_chan *c, bool and_drop)
{
    struct duet__claimed claimed = {0};
    size_t first = 0, n = 0;
    duet__bias_lock(&c->lock);
    c->shut = true;
    c->is_plain = false;
    refuse_all(&c->senders, &claimed);
    refuse_all(&c->receivers, &claimed); /* they wait only if there is nothing inside */
    if (and_drop) {
        first = c->first;
        n = c->count;
        c->count = 0; /* from here on nobody else touches the items */
    }
    duet__bias_unlock(&c->lock);
    duet__claimed_tell(&claimed);
    if (n > 0) {
        drop_items(c, first, n);
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
                     .is_plain = is_small(item_size),
                     .item_size = item_size,
                     .capacity = capacity,
                     .bytes = size,
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
    drop_items(c, c->first, c->count);
    duet__free(c);
}
