/* duet/sync.h: between threads, between coroutines, and across. Every wait parks whoever calls it:
 * a coroutine is suspended and its loop goes on, a thread or a job is blocked.
 *
 * EVERY WAIT here ends with 0, or with what its own comment adds, or with
 *   -ETIME      the deadline passed. DUET_NOW makes it a try: what is there at once is taken; this
 *               also in a bare callback
 *   -ECANCELED  whoever waits was cancelled; also, as for every wait, if it was so before it came:
 *               then nothing was taken, though it was there (unless it shields)
 *   -EDEADLK    it can never end: it is in a circle of waits (through locked mutexes, or a select's
 *               futures), or all threads rest or wait too; or it is in a bare callback
 *   -EINVAL     an argument is bad; the log says which
 * A wait that fails has had no effect, but for a barrier's, which breaks it.
 *
 * FIRST COME, FIRST SERVED. What is let go of is handed to who has waited longest, in that moment:
 * nobody who comes later gets ahead. What is handed over counts as received, even if the deadline
 * passes or the work is cancelled in the same moment: that wait returns 0 (and the next one
 * -ECANCELED). So nothing is lost between two, and nobody is passed over.
 *
 * OWNERSHIP. Mutex, condition, semaphore, event and barrier belong to whoever declares them, need
 * no close, and may go when every call that waits for them has returned, or, of a condition, has
 * been told: what a signal, a post, a set, an unlock lets in may free the object at once, for those
 * do not touch it any more. They must not be moved or copied while in use. In the child of a
 * fork(), set up anew what others may have used; a mutex that the forking thread held, it holds. */
#pragma once
#include <duet/base.h>
#include <duet/future.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A zeroed mutex, condition or event is ready to use, and a zeroed semaphore holds nothing. */
typedef struct duet_mutex {
    uintptr_t _private[4];
} duet_mutex;
typedef struct duet_cond {
    uintptr_t _private[4];
} duet_cond;
typedef struct duet_sem {
    uintptr_t _private[4];
} duet_sem;
typedef struct duet_event {
    uintptr_t _private[4];
} duet_event;
typedef struct duet_barrier {
    uintptr_t _private[6];
} duet_barrier;
/* clang-format off */
#define DUET_MUTEX_INIT { { 0 } }
#define DUET_COND_INIT { { 0 } }
#define DUET_EVENT_INIT { { 0 } }
/* clang-format on */

/* ---- Mutex: one holder, who may wait for anything while it holds it. The holder is the coroutine,
 * job or thread that locked it; it unlocks before it ends, else the program aborts. ---- */

/* [any, waits] 0: the caller holds m. -EDEADLK also: it does so already. */
DUET_API int duet_mutex_lock(duet_mutex *m, duet_deadline by);
/* [any] Hands m to who has waited longest. 0; -EPERM: the caller does not hold it (somebody else
 * does, or nobody), and nothing was done. */
DUET_API int duet_mutex_unlock(duet_mutex *m);

/* ---- Condition: to sleep until something that m guards has changed. ---- */

/* [any, waits] Unlocks m and sleeps in one step, until told; holds m again whatever it returns,
 * and waits for it as long as that takes, past the deadline and cancelled. 0: it was told by a
 * signal or broadcast (never without); what was waited for may have changed again: look, and wait
 * again. -EPERM: the caller does not hold m. -EDEADLK while only m is missing never comes: if that
 * can never come, the program aborts with the chain. Different waits may use different mutexes. */
DUET_API int duet_cond_wait(duet_cond *c, duet_mutex *m, duet_deadline by);
/* [any] Tells who has waited longest; nobody: nothing. Who was told is queued for its mutex at
 * once, and sleeps on until it has that. The caller need not hold it. */
DUET_API void duet_cond_signal(duet_cond *c);
/* [any] Tells all who wait now, in their order. */
DUET_API void duet_cond_broadcast(duet_cond *c);

/* ---- Semaphore: a number of permits. ---- */

/* [any] Begins with `count` permits; never fails. Nobody may wait for it at that time. */
DUET_API void duet_sem_init(duet_sem *s, unsigned count);
/* [any, waits] Takes one permit. */
DUET_API int duet_sem_wait(duet_sem *s, duet_deadline by);
/* [any] Gives one permit, to who has waited longest. 0; -EOVERFLOW: it has UINT_MAX already. */
DUET_API int duet_sem_post(duet_sem *s);

/* ---- Event: something has happened. ---- */

/* [any, waits] 0: it is set, or was set while the caller waited, even if it has been cleared
 * since. What was written before duet_event_set() is seen. */
DUET_API int duet_event_wait(duet_event *e, duet_deadline by);
DUET_API void duet_event_set(duet_event *e); /* [any] wakes all who wait now; idempotent */
DUET_API void duet_event_clear(duet_event *e); /* [any] from now on it is waited for again */
/* [any] true: what was written before it was set is seen. */
DUET_API bool duet_event_is_set(const duet_event *e);

/* ---- Barrier: so many parties meet, again and again. ---- */

/* [any] 0; -EINVAL: parties is 0. Nobody may wait for it at that time. Also mends one that is
 * broken. */
DUET_API int duet_barrier_init(duet_barrier *b, unsigned parties);
/* [any, waits] Until all parties have come; then the next round begins. 1 for one of them (the
 * last to come), 0 for the rest. -EPIPE: the barrier is broken. A party that gives up, for
 * whatever reason (-ETIME, -ECANCELED, -EDEADLK), breaks it, so that the others do not wait for
 * it. -EINVAL: it was not set up. */
DUET_API int duet_barrier_wait(duet_barrier *b, duet_deadline by);
/* [any] Breaks it: all who wait, and all who come later, get -EPIPE. */
DUET_API void duet_barrier_abort(duet_barrier *b);

/* ---- Channel: a bounded queue of items of one size, copied in and out. Reference counted: each
 * handle has one owner, who unrefs it once. In the child of a fork every call with a channel of
 * the parent fails with -EOWNERDEAD, or does nothing. While the coroutines of one loop, or another
 * thread, have a channel for themselves, an item costs no locked instruction; the first other
 * thread that comes ends that, for good, by one membarrier(2). ---- */
typedef struct duet_chan duet_chan;

/* [any] A channel with room for `capacity` items of item_size bytes. With capacity 0, a sender
 * meets a receiver: the send returns when the item has been received. item_size may be 0: the
 * items are mere signals, and may be NULL. 0 and *ret is the caller's; -ENOMEM; -EINVAL: more than
 * memory can hold. */
DUET_API int duet_chan_open(duet_chan **ret, size_t item_size, size_t capacity);
/* [any] Likewise. drop(item) is called once for each item that was accepted and that nobody
 * received, when the channel is shut at once, or freed; it must not wait, and must not use this
 * channel. An item whose send failed is still the sender's: it is not dropped. */
DUET_API int duet_chan_open_with(duet_chan **ret, size_t item_size, size_t capacity,
                                 void (*drop)(void *item));
/* [any, waits] 0: the item was copied, and will be received or dropped, once. -EPIPE: the channel
 * is shut, or was while the caller waited. After an error nothing was sent. */
DUET_API int duet_chan_send(duet_chan *c, const void *item, duet_deadline by);
/* [any, waits] 0: *item is the oldest item, and the caller's. -EPIPE: the channel is shut and
 * nothing is left. After an error nothing was received, and *item is as it was. */
DUET_API int duet_chan_recv(duet_chan *c, void *item, duet_deadline by);
/* [any] How many items are inside now: at most the capacity. */
DUET_API size_t duet_chan_count(const duet_chan *c);
/* [any] No more sends: those that wait fail with -EPIPE. What was accepted is delivered; who waits
 * to receive gets -EPIPE. Idempotent. */
DUET_API void duet_chan_shut(duet_chan *c);
/* [any] Likewise, and what is inside is dropped, here, before this returns. */
DUET_API void duet_chan_shut_now(duet_chan *c);
/* [any] Of an item that was received, the work is done. 0; -ERANGE: all that were accepted are done
 * or dropped already. Who uses duet_chan_join() calls this once for each item received. */
DUET_API int duet_chan_done(duet_chan *c);
/* [any, waits] Until every item that was ever accepted is done (duet_chan_done()) or dropped. At
 * once if there is none. */
DUET_API int duet_chan_join(duet_chan *c, duet_deadline by);
DUET_API duet_chan *duet_chan_ref(duet_chan *c); /* [any] one more owner; returns c */
/* [any] Let go; the last one drops what is inside, and frees. NULL is fine. */
DUET_API void duet_chan_unref(duet_chan *c);

/* ---- Select: the first of several. ---- */

enum duet_case_kind {
    DUET_CASE_NONE, /* never ready: a case that is switched off */
    DUET_CASE_SEND,
    DUET_CASE_RECV,
    DUET_CASE_FUTURE,
    DUET_CASE_EVENT
};
/* Owned by the caller, with what it points to, until the call returns. Made by duet_case_*(). */
typedef struct duet_case {
    enum duet_case_kind kind;
    int rc; /* out, of the case that was chosen: 0, or -EPIPE from a channel */
    void *on; /* the channel, future or event */
    const void *item; /* what to send */
    void *into; /* where to put what is received */
} duet_case;

static inline duet_case duet_case_send(duet_chan *c, const void *item);
static inline duet_case duet_case_recv(duet_chan *c, void *into);
static inline duet_case duet_case_future(duet_future *f);
static inline duet_case duet_case_event(duet_event *e);

/* [any, waits] Waits until one of the cases is ready, and does that one alone: its index, and
 * cases[index].rc is what duet_chan_send() or duet_chan_recv() would have returned (0 for a
 * future, of which the result is not looked at, and for an event). If several are ready, any of
 * them, each as likely as the other. A shut channel is ready, with -EPIPE: switch that case off to
 * wait for the others. The same channel may stand in several cases. <0: none was done: as every
 * wait, and -ENOMEM for a very long list; -EINVAL for n = 0 or a bad case; -EOWNERDEAD. */
DUET_API int duet_select(duet_case *cases, size_t n, duet_deadline by);

static inline duet_case duet_case_send(duet_chan *c, const void *item)
{
    duet_case r = {DUET_CASE_SEND, 0, c, item, 0};
    return r;
}
static inline duet_case duet_case_recv(duet_chan *c, void *into)
{
    duet_case r = {DUET_CASE_RECV, 0, c, 0, into};
    return r;
}
static inline duet_case duet_case_future(duet_future *f)
{
    duet_case r = {DUET_CASE_FUTURE, 0, f, 0, 0};
    return r;
}
static inline duet_case duet_case_event(duet_event *e)
{
    duet_case r = {DUET_CASE_EVENT, 0, e, 0, 0};
    return r;
}

#ifdef __cplusplus
}
#endif
