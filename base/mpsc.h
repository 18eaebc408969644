/* A lock-free queue with many producers and one consumer, in one word that also says whether the
 * consumer sleeps and whether it is gone. R. K. Treiber's stack (IBM RJ 5118, 1986), where the
 * consumer takes all at once and reverses, so that what each producer pushed comes out in order.
 *
 * Nodes are intrusive: nothing allocates, nothing can fail. A pushed node is the consumer's.
 *
 *   the head   who may change it so               what it means
 *   EMPTY      consumer: take, wake               nothing is queued, the consumer is awake
 *   a node     any producer: push                 a chain, the newest first
 *   PARKED     consumer: park, from EMPTY only    it sleeps; the first push owes it a signal
 *   ON_WORD    likewise                           it sleeps on the head itself; the first push owes
 *                                                 it a wake-up by that address
 *   CLOSED     consumer: close, from EMPTY only   it is gone for good; pushes are refused
 *
 *              push   take   park   wake   close
 *   push       safe   safe   safe   safe   safe   from any number of threads
 *   the rest   safe   the consumer's own thread only
 *
 * PROOF. Every change of the head is an atomic read-modify-write of this one object, and the
 * changes of one object have one order that all threads agree on.
 *  1. No wake-up is lost. Parking succeeds only if it reads EMPTY, so everything pushed before it
 *     in that order was already taken. The next change after it is either the consumer's own wake,
 *     and then it is awake; or a push that read PARKED, and that producer, exactly one per parking,
 *     is told to signal. The signal (an eventfd) keeps its count, so it does not matter whether it
 *     comes before or after the consumer really sleeps; and who sleeps on the head does not fall
 *     asleep once the mark is replaced. "Node queued, consumer asleep, nobody will
 *     signal" cannot be reached. No fence is needed: there is no second object whose order would
 *     matter.
 *  2. No accepted node is left behind. Closing succeeds only if it reads EMPTY, so all that was
 *     accepted before was taken; every later push reads CLOSED, which nothing changes, and is
 *     refused.
 *  3. First in, first out for each producer: its second push comes later in the order than its
 *     first, hence nearer to the head of the same chain, or in a later one; taking reverses it.
 *  4. The node's contents are seen: push releases, take acquires, and a chain of pushes is a
 *     release sequence (read-modify-writes), so acquiring the newest acquires all.
 *  ABA does no harm: producers only push and the consumer only takes all, so a head that went from
 *  a node to EMPTY and back to the same node leads to the same next. A producer that read PARKED
 *  and meets it again after a wake and another parking signals a consumer that really is parked.
 *
 * FETCHING AHEAD. The consumer goes through a chain from the newest node to the oldest, and each
 * lies where another processor has written it last: one after the other would be as slow as that
 * is. So each node says where its producer's sixteenth before it lies, and that comes meanwhile. It
 * is a guess, of an address that is never followed: the proof does not know it. */
#pragma once
#include "atomic.h"
#include "cpu.h"

#include <stddef.h>

enum {
    DUET__MPSC_AHEAD = 16, /* a power of two: so many nodes are on their way */
};

struct duet__node {
    struct duet__node *next;
    /* What the consumer does with it; may free it. */
    void (*run)(struct duet__node *node, void *consumer);
    uint64_t counted : 1; /* it has a place in a bounded queue, to be given back when admitted */
    /* Half the address of a node that the consumer will need a little later than this one. It is
     * only ever fetched: that node may be gone. */
    uint64_t ahead : 63;
};

struct duet__mpsc {
    _Atomic uintptr_t head;
};

enum {
    DUET__MPSC_EMPTY = 0,
    DUET__MPSC_PARKED = 1,
    DUET__MPSC_ON_WORD = 2,
    DUET__MPSC_CLOSED = 3
};

enum duet__pushed {
    DUET__PUSHED, /* it will be taken by a consumer that is awake */
    DUET__PUSHED_SIGNAL, /* likewise, and the caller must signal, exactly once, whatever happens */
    DUET__PUSHED_WAKE, /* likewise, and the caller must wake who sleeps on duet__mpsc_word() */
    DUET__PUSH_REFUSED, /* closed: the node is still the caller's */
};

/* The last nodes that a thread has pushed to one queue, since it was empty. Owned by its thread; its
 * pointers lead to what may be gone, and are never followed. */
struct duet__trail {
    const struct duet__mpsc *queue;
    const struct duet__node *nodes[DUET__MPSC_AHEAD];
    unsigned length;
};

extern _Thread_local struct duet__trail duet__trail;

/* NULL: none. */
static inline void duet__node_set_ahead(struct duet__node *node, const struct duet__node *ahead)
{
    node->ahead = ((uintptr_t)ahead / 2) & INT64_MAX;
}

static inline void duet__trail_begin(struct duet__trail *trail, const struct duet__mpsc *queue)
{
    trail->queue = queue;
    trail->length = 0;
}

/* The one so many before the next one. */
static inline const struct duet__node *duet__trail_back(const struct duet__trail *trail)
{
    return trail->length < DUET__MPSC_AHEAD ? NULL : trail->nodes[trail->length % DUET__MPSC_AHEAD];
}

static inline void duet__trail_add(struct duet__trail *trail, const struct duet__node *node)
{
    trail->nodes[trail->length++ % DUET__MPSC_AHEAD] = node;
}

static inline void duet__node_fetch_ahead(const struct duet__node *node)
{
    if (node->ahead)
        duet__fetch_to_write((const void *)(uintptr_t)(node->ahead * 2));
}

static inline bool duet__mpsc_is_node(uintptr_t head)
{
    return head > DUET__MPSC_CLOSED;
}

static inline enum duet__pushed duet__mpsc_push(struct duet__mpsc *queue, struct duet__node *node)
{
    uintptr_t head = duet__load_relaxed(&queue->head);
    do {
        if (head == DUET__MPSC_CLOSED)
            return DUET__PUSH_REFUSED;
        struct duet__node *next = duet__mpsc_is_node(head) ? (struct duet__node *)head : NULL;
        duet__plain_write(&node->next, next);
        if (!next || duet__trail.queue != queue)
            duet__trail_begin(&duet__trail, queue);
        duet__node_set_ahead(node, duet__trail_back(&duet__trail));
        /* Publishes the node. Pairs with the acquire in duet__mpsc_take(). */
    } while (!duet__cas_release(&queue->head, &head, (uintptr_t)node));
    duet__trail_add(&duet__trail, node); /* its address: it is the consumer's */
    if (__builtin_expect(duet__mpsc_is_node(head) || head == DUET__MPSC_EMPTY, 1))
        return DUET__PUSHED;
    return head == DUET__MPSC_PARKED ? DUET__PUSHED_SIGNAL : DUET__PUSHED_WAKE;
}

/* The half of the head that holds the marks: a futex. Nodes are aligned, so it tells them from a
 * mark. An address only; the queue may be gone. */
static inline _Atomic uint32_t *duet__mpsc_word(struct duet__mpsc *queue)
{
    _Atomic uint32_t *halves = (void *)&queue->head;
    return &halves[__BYTE_ORDER__ == __ORDER_BIG_ENDIAN__ && sizeof queue->head > sizeof *halves];
}

/* Consumer: is something queued? A look, for spinning and for skipping the exchange. */
static inline bool duet__mpsc_has_nodes(struct duet__mpsc *queue)
{
    return duet__mpsc_is_node(duet__load_relaxed(&queue->head));
}

/* Consumer, awake: all that is queued, the oldest first, or NULL. */
static inline struct duet__node *duet__mpsc_take(struct duet__mpsc *queue)
{
    if (!duet__mpsc_has_nodes(queue))
        return NULL;
    /* Acquires the nodes' contents. Pairs with the release in duet__mpsc_push(). Only the consumer
     * takes nodes away, so the head still is one. */
    struct duet__node *newest =
        (struct duet__node *)duet__exchange_acquire(&queue->head, DUET__MPSC_EMPTY);
    struct duet__node *oldest = NULL;
    while (newest) {
        struct duet__node *next = duet__plain_read(&newest->next);
        duet__node_fetch_ahead(newest);
        duet__plain_write(&newest->next, oldest);
        oldest = newest;
        newest = next;
    }
    return oldest;
}

/* Consumer: I am about to sleep, as the mark says: PARKED or ON_WORD. False: something is queued, do
 * not. */
static inline bool duet__mpsc_park(struct duet__mpsc *queue, uintptr_t mark)
{
    uintptr_t expected = DUET__MPSC_EMPTY;
    /* Publishes nothing; proof 1 needs only the one object's order. */
    return duet__cas_relaxed(&queue->head, &expected, mark);
}

/* Consumer: I am awake, for whatever reason. False: a producer replaced the mark, so one signal or
 * wake-up has been or will be sent for this parking. */
static inline bool duet__mpsc_wake(struct duet__mpsc *queue, uintptr_t mark)
{
    uintptr_t expected = mark;
    return duet__cas_relaxed(&queue->head, &expected, DUET__MPSC_EMPTY); /* publishes nothing */
}

/* Consumer: I am gone for good. False: something is queued, take it first. */
static inline bool duet__mpsc_close(struct duet__mpsc *queue)
{
    uintptr_t expected = DUET__MPSC_EMPTY;
    return duet__cas_relaxed(&queue->head, &expected, DUET__MPSC_CLOSED); /* publishes nothing */
}
