/* A loop's door: the queue, the eventfd that wakes a sleeping loop, and the gate that bounds
 * submissions. It implements loop/port.h and inbox.h.
 *
 * WAKING. The queue's head says whether the loop sleeps (base/mpsc.h has the proof). The producer
 * that replaces the mark, exactly one a parking, writes the eventfd once; nobody ever reads it
 * while the loop turns, so its count is the number of all signals so far and a poll on it cannot
 * miss one. A loop that waits for nothing from the kernel sleeps on the head itself, a futex: that is
 * one system call a side, and no detour through the ring.
 *
 * ENDING. That producer may be stopped between its push and its write, while the loop wakes for
 * another reason, ends, and is freed. So the loop counts the marks that were replaced
 * (signals_owed), and after closing the queue it reads the eventfd until all of them have come. A
 * producer touches the port only before its push and, if it owes one, in that write; so then nobody
 * is inside but by a reference.
 *
 * THE GATE is one word: how many submissions have a place, how many references there are, and two
 * marks. A place keeps the port alive as a reference does: so a submission is two steps, one to get
 * a place, where SHUT lets nobody in any more, and the push, after which the submitter touches
 * nothing; the place goes with the node, and the loop, which has a reference, gives it back when it
 * admits the submission. Who finds no place announces itself by WAITERS under the lock, in a
 * read-modify-write that also looks whether a place came free meanwhile; who frees places reads that
 * mark in the same step as it frees them. So either the one sees the place or the other sees the
 * waiter.
 *
 * WHO WAITS FOR A PLACE is woken when half of them are free, so that each wake-up is worth many
 * submissions; one is woken before, now and then, so that others who keep the inbox full cannot keep
 * it out for ever. */
#include "inbox.h"
#include "alloc.h"
#include "check.h"
#include "cpu.h"
#include "futex.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PLACE UINT64_C(1) /* bits 0 to 31 count places taken */
#define SHUT (UINT64_C(1) << 32) /* no more submissions: set once */
#define WAITERS (UINT64_C(1) << 33) /* somebody waits for a place */
#define REFERENCE (UINT64_C(1) << 34) /* bits from here on count references */

enum {
    WAKES_WHILE_FULL = 16, /* of those who wait, while as many submissions come as have places */
};

/* Owned by its loop; freed when the last reference is gone. */
struct duet__port {
    void *block; /* as it was allocated; constant */
    /* A submission changes both, one after the other: in one cache line, it fetches one. */
    _Alignas(DUET__LINE) struct duet__mpsc queue;
    _Atomic uint64_t gate;
    /* Constant. */
    _Alignas(DUET__LINE) int event_fd;
    uint32_t places;
    enum duet_when_full when_full;
    /* The loop's thread. */
    _Alignas(DUET__LINE) uint64_t signals_owed;
    uintptr_t mark; /* how it slept last */
    uint32_t admitted; /* since it last woke one who waits for a place */
    /* Guards the waiters, and WAITERS being cleared. */
    struct duet__lock room_lock;
    struct duet__list room;
};

static uint32_t places_taken(uint64_t gate)
{
    return (uint32_t)gate;
}

int duet__port_open(struct duet__port **ret, const duet_loop_config *config)
{
    void *block = duet__alloc_zeroed(1, sizeof(struct duet__port) + DUET__LINE);
    if (!block)
        return -ENOMEM;
    struct duet__port *port =
        (void *)(((uintptr_t)block + DUET__LINE - 1) & ~(uintptr_t)(DUET__LINE - 1));
    port->block = block;
    port->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (port->event_fd < 0) {
        int rc = -errno;
        duet__free(block);
        return rc;
    }
    duet__store_relaxed(&port->gate, REFERENCE); /* nobody else knows it yet */
    port->places = config->inbox_max;
    port->when_full = config->when_full;
    duet__list_init(&port->room);
    *ret = port;
    return 0;
}

void duet__port_free(struct duet__port *port)
{
    close(port->event_fd);
    duet__free(port->block);
}

void duet__port_ref(struct duet__port *port)
{
    duet__add_relaxed(&port->gate, REFERENCE); /* who has one may make another */
}

bool duet__port_try_ref(struct duet__port *port)
{
    uint64_t gate = duet__load_relaxed(&port->gate);
    do {
        if (gate < REFERENCE)
            return false;
    } while (!duet__cas_relaxed(&port->gate, &gate, gate + REFERENCE)); /* publishes nothing */
    return true;
}

/* Gives a reference, or a place that keeps the port alive likewise, back: true, that was the last. */
static bool let_go(struct duet__port *port, uint64_t of)
{
    /* Releases what this owner did; the last one acquires what all did. */
    uint64_t before = duet__sub_acq_rel(&port->gate, of);
    duet__check(before >= REFERENCE || of == PLACE,
                "a loop is unreferenced more often than referenced");
    return ((before - of) & ~(SHUT | WAITERS)) == 0;
}

bool duet__port_unref(struct duet__port *port)
{
    return let_go(port, REFERENCE);
}

/* ---- Posting ---- */

/* Wakes a loop that sleeps in its ring. Between the push that made us owe this and the write
 * nothing may unwind, so it is the raw system call: glibc's write() is a cancellation point. */
static void signal_loop(int event_fd)
{
    uint64_t one = 1;
    int saved_errno = errno;
    long n;
    do
        n = syscall(SYS_write, event_fd, &one, sizeof one);
    while (n < 0 && errno == EINTR);
    /* EAGAIN: the count is at its end, so it is readable all the same. */
    duet__check(n == (long)sizeof one || errno == EAGAIN,
                "the program must not close the descriptors of a loop");
    errno = saved_errno;
}

bool duet__port_post(struct duet__port *port, struct duet__node *node)
{
    int event_fd = port->event_fd; /* before the push: then the port may be gone */
    switch (duet__mpsc_push(&port->queue, node)) {
    case DUET__PUSHED:
        return true;
    case DUET__PUSHED_SIGNAL:
        signal_loop(event_fd);
        return true;
    case DUET__PUSHED_WAKE:
        duet__futex_wake(duet__mpsc_word(&port->queue)); /* an address; the port may be gone */
        return true;
    default:
        return false;
    }
}

/* ---- The loop's side ---- */

int duet__port_fd(struct duet__port *port)
{
    return port->event_fd;
}

bool duet__port_has_nodes(struct duet__port *port)
{
    return duet__mpsc_has_nodes(&port->queue);
}

struct duet__node *duet__port_take(struct duet__port *port)
{
    return duet__mpsc_take(&port->queue);
}

bool duet__port_sleep(struct duet__port *port, bool in_wait)
{
    port->mark = in_wait ? DUET__MPSC_ON_WORD : DUET__MPSC_PARKED;
    return duet__mpsc_park(&port->queue, port->mark);
}

void duet__port_wait(struct duet__port *port, int64_t by_ns)
{
    duet__futex_wait(duet__mpsc_word(&port->queue), DUET__MPSC_ON_WORD, by_ns);
}

void duet__port_awake(struct duet__port *port)
{
    if (!duet__mpsc_wake(&port->queue, port->mark) && port->mark == DUET__MPSC_PARKED)
        port->signals_owed++;
}

bool duet__port_close(struct duet__port *port)
{
    if (!duet__mpsc_close(&port->queue))
        return false;
    while (port->signals_owed > 0) {
        struct pollfd readable = {port->event_fd, POLLIN, 0};
        uint64_t count;
        /* Ended by the producer that owes the signal, which is between its push and its write. */
        poll(&readable, 1, -1);
        if (read(port->event_fd, &count, sizeof count) == (ssize_t)sizeof count)
            port->signals_owed -= count < port->signals_owed ? count : port->signals_owed;
    }
    return true;
}

/* ---- The gate ---- */

/* Lets up to `count` of those who wait try for a place. */
static void wake_waiters(struct duet__port *port, unsigned count)
{
    duet__lock(&port->room_lock);
    struct duet__waiter *waiter;
    for (; count > 0 && (waiter = duet__waiter_pop(&port->room)) != NULL; count--)
        duet__waiter_tell(waiter);
    if (duet__list_empty(&port->room))
        duet__and_acquire(&port->gate, ~WAITERS); /* set again, if at all, under this lock */
    duet__unlock(&port->room_lock);
}

void duet__port_admitted(struct duet__port *port, unsigned count)
{
    /* One object's order decides: see THE GATE. Publishes nothing. */
    uint64_t before = duet__sub_release(&port->gate, PLACE * count);
    if (!(before & WAITERS))
        return;
    port->admitted += count;
    bool half_is_free = places_taken(before) - count <= port->places / 2;
    if (!half_is_free && port->admitted < port->places / WAKES_WHILE_FULL)
        return;
    port->admitted = 0;
    wake_waiters(port, half_is_free ? UINT32_MAX : 1);
}

bool duet__port_shut(struct duet__port *port)
{
    uint64_t gate = duet__load_relaxed(&port->gate);
    do {
        if (gate & SHUT)
            return false;
        /* One object's order decides who is first, and who still gets in. */
    } while (!duet__cas_acq_rel(&port->gate, &gate, (gate | SHUT) + REFERENCE));
    if (gate & WAITERS)
        wake_waiters(port, UINT32_MAX);
    return true;
}

bool duet__port_is_shut(struct duet__port *port)
{
    return duet__load_relaxed(&port->gate) & SHUT; /* a mark, publishes nothing */
}

size_t duet__port_waiting(struct duet__port *port)
{
    return places_taken(duet__load_relaxed(&port->gate)); /* a number to show */
}

/* Takes a place, in exchange for `has`; or, if there is none, `instead`: 0, -EAGAIN. -ESHUTDOWN:
 * nothing is changed. */
static int try_enter(struct duet__port *port, uint64_t has, uint64_t instead)
{
    uint64_t gate = duet__load_relaxed(&port->gate), takes;
    do {
        if (gate & SHUT)
            return -ESHUTDOWN;
        takes = places_taken(gate) < port->places ? PLACE : instead;
        if (takes == has)
            return -EAGAIN;
    } while (!duet__cas_acquire(&port->gate, &gate, gate + takes - has)); /* publishes nothing */
    return takes == PLACE ? 0 : -EAGAIN;
}

/* A place comes as long as the loop turns. The waiter holds a reference. */
static bool place_may_come(const struct duet__wait *wait, struct duet__look *look)
{
    return duet__loop_may_turn(wait->of, look);
}

static const char *describe_place(const struct duet__wait *wait, char *buf, size_t size)
{
    const duet_loop *loop = wait->of;
    snprintf(buf, size, "room in the inbox of loop '%s'", loop->config.name);
    return buf;
}

static const struct duet__wait_ops place_wait_ops = {place_may_come, describe_place, false};

/* With a reference: sleeps until a place may be free. 0, -ETIME, -ECANCELED, -EDEADLK. */
static int wait_for_place(duet_loop *loop, struct duet__parker *here, duet_deadline by)
{
    struct duet__port *port = loop->port;
    struct duet__wait wait;
    struct duet__waiter waiter;
    duet__waiter_init(&waiter, here);
    duet__lock(&port->room_lock);
    uint64_t gate = duet__or_acq_rel(&port->gate, WAITERS);
    bool waits = places_taken(gate) >= port->places && !(gate & SHUT);
    if (waits)
        duet__list_append(&port->room, &waiter.link);
    else if (duet__list_empty(&port->room))
        duet__and_acquire(&port->gate, ~WAITERS);
    duet__unlock(&port->room_lock);
    if (!waits)
        return 0;
    bool shielded = here->shields > 0;
    duet__wait_enter(&wait, here, &place_wait_ops, loop, 1, by, duet__wait_kind(shielded));
    int rc = duet__wait_claimed(&waiter, &port->room_lock, by, shielded);
    duet__wait_leave(&wait);
    return rc;
}

int duet__inbox_enter(duet_loop *loop, bool refuse, duet_deadline by)
{
    struct duet__port *port = loop->port;
    struct duet__parker *here = duet__here();
    bool may_wait = !refuse && port->when_full == DUET_FULL_WAIT && here->ops->may_wait;
    int rc = try_enter(port, 0, may_wait ? REFERENCE : 0);
    if (rc != -EAGAIN || !may_wait)
        return rc;
    while (rc == -EAGAIN) { /* with a reference */
        rc = duet__wait_begin(here, by, here->shields > 0);
        if (rc == 0)
            rc = wait_for_place(loop, here, by);
        if (rc == 0)
            rc = try_enter(port, REFERENCE, REFERENCE);
    }
    if (rc < 0)
        duet_loop_unref(loop);
    return rc;
}

int duet__inbox_push(duet_loop *loop, struct duet__node *node)
{
    struct duet__port *port = loop->port;
    node->counted = true;
    if (duet__port_post(port, node))
        return 0; /* the loop may be gone */
    if (let_go(port, PLACE))
        duet__loop_gone(loop);
    return -ESHUTDOWN;
}
