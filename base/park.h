/* The one place to sleep. Whoever waits, a thread or a coroutine, sleeps on its parker; whoever
 * completes what it waits for unparks it. Futures, groups, queues for room, locks and channels see
 * a parker and nothing else.
 *
 * THE WORD of a parker holds
 *   SLEEPING   the owner sleeps, or is about to. Who clears this bit owns the wake-up and must
 *              deliver it; so a sleep is ended once, be it by an unpark, a cancellation, a deadline
 *   CANCEL     the work was asked to end: a level, never cleared
 *   SHIELDED   this sleep does not end for CANCEL
 *   STUCK      what the owner waits for can never come (base/graph.h); set by a search, cleared when
 *              that wait leaves the graph: until then each sleep within it ends with -EDEADLK
 *   tokens     how many unparks the owner has not consumed yet, in the bits above
 * Every change of it is a read-modify-write, so what one releases reaches every later acquire.
 *
 * THE WAITER is a place in the queue of what is waited for, on the stack of who waits, guarded by
 * the queue's lock. Taking it out of the queue (claiming it) under that lock obliges to unpark it
 * once; the waiter returns only when it has taken itself out, or when it has consumed the token of
 * whoever claimed it. So no unpark is ever in flight to a waiter that has gone, tokens never pile
 * up, and what was handed over with a claim is never lost: a claimed waiter's wait has succeeded,
 * even if its deadline passed or its work was cancelled in the same moment.
 *
 * After an unpark's change of the word, it touches the parker's memory only if the owner is a
 * coroutine, and then the owner cannot run before the wake-up has reached its loop. A thread is
 * woken by the word's address alone. */
#pragma once
#include "atomic.h"
#include "check.h"
#include "clock.h"
#include "list.h"
#include "lock.h"

#include <duet/base.h>
#include <errno.h>

struct duet_context;
struct duet_future;
struct duet__observed;
struct duet__parker;
struct duet__wait;

enum {
    DUET__PARK_SLEEPING = 1,
    DUET__PARK_CANCEL = 2,
    DUET__PARK_SHIELDED = 4,
    DUET__PARK_STUCK = 8,
    DUET__PARK_TOKEN = 16, /* the unit; the bits from here on count */
};

/* What tells kinds of owners apart. Constant for a parker's life. */
struct duet__parker_ops {
    bool may_wait; /* false: a bare callback; every wait that cannot be answered is -EDEADLK */
    bool
        may_block; /* true: the thread is its own; keeping it busy keeps nobody else from running */
    /* By the owner: sleep from the word as `seen` to `asleep` (which has SLEEPING), not at all if
     * it changed meanwhile; returns with SLEEPING cleared, for any reason. */
    void (*sleep)(struct duet__parker *parker, uint32_t seen, uint32_t asleep, int64_t by_ns);
    /* By who cleared SLEEPING, to give a token: deliver. */
    void (*wake)(struct duet__parker *parker);
    /* By who cleared SLEEPING, to cancel: deliver; it holds a reference to the work. */
    void (*wake_cancelled)(struct duet__parker *parker);
    /* By the owner: let others live before a wait returns that never parked. */
    void (*pass)(struct duet__parker *parker);
    /* By the owner: what time it is. */
    int64_t (*now_ns)(struct duet__parker *parker);
    /* By who cancelled it and had no sleep to end, with a reference to the work; NULL: nothing. */
    void (*interrupt)(struct duet__parker *parker);
    /* By the owner: its function has been told of its cancellation; or its outermost shield begins
     * or ends. NULL: nothing. */
    void (*heard)(struct duet__parker *parker);
    void (*shield)(struct duet__parker *parker, bool begins);
};

/* Owned by the thread, coroutine or job that sleeps on it. */
struct duet__parker {
    const struct duet__parker_ops *ops;
    struct duet_future *work; /* whose parker it is; NULL: a thread's own */
    /* Who called it and stands still beneath it on this thread (a job run in its submitter's
     * thread, a loop run by a job); NULL: nobody. */
    const struct duet__parker *outer;
    struct duet__wait *wait; /* the owner's: what it waits for now; NULL: nothing */
    struct duet__wait *joined; /* the graph's: likewise, of those that are in it */
    struct duet_context *context; /* the owner's: a reference; NULL: the empty one */
    struct duet__observed *observed; /* NULL: no hook is told of it. Constant once others know it */
    uint32_t shields; /* the owner's: how many duet_shield_begin() are open */
    uint32_t streak; /* the owner's: waits in a row that did not park */
    uint32_t held; /* the owner's: mutexes that it has locked */
    _Atomic uint32_t word; /* last: what a job has after it is looked at together with it */
};

/* Is a hook told of it? Rarely. */
static inline bool duet__is_observed(const struct duet__parker *parker)
{
    return __builtin_expect(parker->observed != NULL, 0);
}

/* Sets up a parker in `word`: 0, or SLEEPING for work that is born asleep (queued, or a callback at
 * a moment). */
static inline void duet__parker_init(struct duet__parker *parker,
                                     const struct duet__parker_ops *ops, struct duet_future *work,
                                     uint32_t word)
{
    /* Published by whatever hands the work over. */
    *parker = (struct duet__parker){.word = word, .ops = ops, .work = work};
}

/* By the owner, when a function has returned: it holds as many mutexes as before, else the program
 * aborts. */
static inline void duet__parker_rests(const struct duet__parker *parker, uint32_t held)
{
    duet__check(parker->held == held, "whoever locks a mutex unlocks it before it ends");
}

/* What a thread does when it blocks in a wait, and when that is over; a worker lends its slot.
 * Owned by the thread that set it. A wait that has joined the graph is over when it leaves that, so
 * that whoever searches finds the slot lent all the while; it may begin several times before. */
struct duet__blocking {
    void (*begins)(struct duet__blocking *blocking);
    void (*ended)(struct duet__blocking *blocking);
};
void duet__blocking_set(struct duet__blocking *blocking);
void duet__blocking_begins(void);
void duet__blocking_ended(void);

/* How a thread sleeps: a short adaptive look, then a futex. Jobs borrow it from their worker. */
void duet__thread_sleep(struct duet__parker *parker, uint32_t seen, uint32_t asleep, int64_t by_ns);
void duet__thread_wake(struct duet__parker *parker);
void duet__thread_pass(struct duet__parker *parker);
int64_t duet__thread_now(struct duet__parker *parker);

/* Who runs here; NULL: the thread itself. */
extern _Thread_local struct duet__parker *duet__here_now;
struct duet__parker *duet__here_thread(void);

/* Who runs here: a coroutine's or job's parker while one runs, a bare callback's in between on a
 * loop's thread, else the thread's own. */
static inline struct duet__parker *duet__here(void)
{
    struct duet__parker *parker = duet__here_now;
    return parker ? parker : duet__here_thread();
}

/* Changes who runs here, for loops and workers; returns who did. NULL is the thread itself. */
static inline struct duet__parker *duet__here_set(struct duet__parker *parker)
{
    struct duet__parker *before = duet__here_now;
    duet__here_now = parker;
    return before;
}

/* The parker of this thread under which nothing may wait. */
struct duet__parker *duet__here_bare(void);
/* Another such one, of the host of a guest loop, between the turns. */
struct duet__parker *duet__here_host(void);
/* Does this work run here, or stand still beneath what runs here? To wait for it would be to wait
 * for oneself. */
static inline bool duet__runs_here(const struct duet_future *work)
{
    for (const struct duet__parker *at = duet__here(); at; at = at->outer)
        if (at->work == work)
            return true;
    return false;
}

/* By the owner: consume one token, or say why not: -ECANCELED (never if shielded), -EDEADLK,
 * -ETIME. Cancellation goes before the deadline. */
int duet__park(struct duet__parker *parker, duet_deadline by, bool shielded);
/* By the owner, of whom somebody has claimed a waiter: consume the token, which comes in a moment. */
void duet__park_token(struct duet__parker *parker);
/* By a search, under the graph's lock: its wait can never end. */
void duet__park_stuck(struct duet__parker *parker);
/* By any thread that has claimed a waiter of this parker: give one token. */
void duet__unpark(struct duet__parker *parker);
/* By any thread that holds a reference to the parker's work: ask it to end. */
void duet__park_cancel(struct duet__parker *parker);
/* By any thread that may end this sleep for a reason of its own (an expired deadline, a worker that
 * starts a queued job): true: the wake-up is the caller's now. */
static inline bool duet__park_claim(struct duet__parker *parker)
{
    uint32_t word = duet__load_relaxed(&parker->word), next;
    do {
        if (!(word & DUET__PARK_SLEEPING))
            return false;
        next = word & ~(uint32_t)(DUET__PARK_SLEEPING | DUET__PARK_SHIELDED);
        /* Acquires what the sleeper wrote. Pairs with the release that made it sleep. */
    } while (!duet__cas_acq_rel(&parker->word, &word, next));
    return true;
}

/* How a call that the user sees ends: passes rc on, and if that is -ECANCELED, whoever runs here
 * has heard of its cancellation. */
int duet__told(int rc);

static inline bool duet__park_cancelled(const struct duet__parker *parker)
{
    /* A level that publishes nothing by itself; relaxed. */
    return duet__load_relaxed(&parker->word) & DUET__PARK_CANCEL;
}

/* Does every wait that it begins now fail, though it could be answered? */
static inline bool duet__wait_is_cancelled(const struct duet__parker *parker)
{
    return parker->shields == 0 && duet__park_cancelled(parker);
}

/* How every wait begins, before it has any effect: 0, or why it ends here: -ECANCELED, -ETIME,
 * -EDEADLK. Then others have lived meanwhile, but for _check(), which a lock may be held over. */
static inline int duet__wait_check(struct duet__parker *parker, duet_deadline by, bool shielded)
{
    if (!shielded && duet__park_cancelled(parker))
        return -ECANCELED;
    if (by.ns != DUET__NEVER && parker->ops->now_ns(parker) >= by.ns)
        return -ETIME;
    return parker->ops->may_wait ? 0 : -EDEADLK;
}
/* How a wait ends that failed without parking: lets others live, returns rc. */
int duet__wait_failed(struct duet__parker *parker, int rc);
static inline int duet__wait_begin(struct duet__parker *parker, duet_deadline by, bool shielded)
{
    int rc = duet__wait_check(parker, by, shielded);
    return __builtin_expect(rc < 0, 0) ? duet__wait_failed(parker, rc) : 0;
}
/* How a wait ends that was answered without parking: each so many in a row let others live. */
enum {
    DUET__STREAK_MAX = 64,
};
static inline void duet__wait_unparked(struct duet__parker *parker)
{
    if (__builtin_expect(++parker->streak < DUET__STREAK_MAX, 1))
        return;
    parker->streak = 0;
    parker->ops->pass(parker);
}

struct duet__waiter {
    struct duet__list link; /* unlinked: claimed */
    /* By who claimed it, with or without the queue's lock: tell it. What a future's queue fires
     * gets the future; after a parker's, the waiter may be gone. True: fire it
     * once more, with NULL, when the lock is released. */
    bool (*fire)(struct duet__waiter *waiter, struct duet_future *settled);
    struct duet__parker *parker;
};

/* Under the queue's lock: the first waiter, claimed, who must be fired; NULL: nobody waits. */
static inline struct duet__waiter *duet__waiter_pop(struct duet__list *queue)
{
    struct duet__list *link = duet__list_pop(queue);
    return link ? duet__container(link, struct duet__waiter, link) : NULL;
}

/* Fires a claimed waiter that is no future's; NULL is fine. */
static inline void duet__waiter_tell(struct duet__waiter *waiter)
{
    if (waiter)
        waiter->fire(waiter, NULL);
}

/* The waiter of somebody who sleeps on `parker`. */
void duet__waiter_init(struct duet__waiter *waiter, struct duet__parker *parker);

/* After the caller has appended `waiter` to a queue under `lock` and released it: sleep until
 * claimed, or take it out again. 0: claimed, and the token consumed; else -ETIME, -ECANCELED or
 * -EDEADLK, and the waiter is in no queue. */
int duet__wait_claimed(struct duet__waiter *waiter, struct duet__lock *lock, duet_deadline by,
                       bool shielded);
/* Likewise after a sleep that ended with rc. If it returns an error the lock is held: from the
 * moment at which the waiter is in no queue. */
int duet__wait_claimed_after(struct duet__waiter *waiter, struct duet__lock *lock, int rc);
/* Likewise, and the lock is held whatever it returns. */
int duet__wait_claimed_locked(struct duet__waiter *waiter, struct duet__lock *lock,
                              duet_deadline by, bool shielded);
