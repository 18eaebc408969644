/* The graph of waits: who waits for what, to find the waits that can never end.
 *
 * ONLY WHAT REALLY SLEEPS IS IN IT. A wait that has lasted for five milliseconds joins, and leaves
 * when it ends; shorter ones cost a few stores to their own stack. All joined waits and all
 * searches are under one lock, so a search sees a still picture: whoever has joined cannot go on
 * before it has left, and it cannot leave meanwhile. Who has not joined counts as able to go on.
 * So nothing is a false alarm; and of those that close a circle together, the one that joins last
 * sees it whole.
 *
 * WHAT A WAIT NEEDS is its may_end(): asked with a look, it says whether somebody may still end
 * it, by asking duet__look_at() for the works it depends on: all of them, one of them, or so many
 * as a pool's slots need. That is the AND-OR model of Chandy, Misra and Haas, "Distributed
 * Deadlock Detection" (1983), solved here by the greatest fixed point: take all for stuck, and as
 * long as one of them may end, take it for going on; what remains is the knot.
 *
 * WHO IS TOLD. Before the last wait joined there was no knot, so each now depends on it, and it on
 * each: what it reaches through stuck waits is the circle, and any of its members can open it. The
 * one with the earliest deadline is told by the bit STUCK in its parker's word, and its wait ends
 * with -EDEADLK.
 *
 * Lock order: the graph's, then that of a pool, a group or a future. */
#pragma once
#include "list.h"
#include "park.h"

#include <duet/future.h>

struct duet__look;

enum {
    /* How long a wait sleeps before it joins. It is more than the 4 ms between two ticks of most
     * kernels: a timer that fires before the next tick is a write to the processor's own timer as
     * the sleep begins and another as it ends, and on a virtual one each is the hypervisor's. */
    DUET__YOUNG_NS = 5000000,
    DUET__THREAD_NAME = 16,
};

/* How what is looked at stands to what is waited for; for the words in the log. */
enum duet__via {
    DUET__VIA_ITSELF, /* it is what is waited for */
    DUET__VIA_MEMBER, /* it is one of several, or in the group */
    DUET__VIA_QUEUE, /* what is waited for is queued behind it */
    DUET__VIA_HOLDER, /* it is one of those who alone could settle it */
};

struct duet__wait_ops {
    /* Under the graph's lock: may others still end this wait? NULL: always (a moment). */
    bool (*may_end)(const struct duet__wait *wait, struct duet__look *look);
    /* What is waited for, "coroutine 'fetch'"; into buf, which is returned. */
    const char *(*describe)(const struct duet__wait *wait, char *buf, size_t size);
    bool is_many; /* it is for several; if n > 0, `of` is the address of n futures */
};

enum duet__wait_kind {
    DUET__WAIT_PLAIN, /* may fail, also by cancellation */
    DUET__WAIT_SHIELDED, /* may fail, but not by cancellation */
    DUET__WAIT_CLOSES, /* likewise, but ends ownership: told only if no other can be */
    DUET__WAIT_ENDS, /* ends ownership: never fails */
};

/* Owned by who waits, on its stack. */
struct duet__wait {
    const struct duet__wait_ops *ops; /* these are constant */
    struct duet__parker *parker;
    const void *of; /* what is waited for; ops know it */
    size_t n; /* how many, if it is a list */
    int64_t by_ns;
    /* enum duet__wait_kind. Relaxed: who claims one that sleeps may make it end ownership, when
     * what follows is a condition's wait for its mutex. */
    _Atomic uint32_t kind;

    struct duet__wait *beneath; /* the owner's: which it had entered before; NULL: none */
    bool joined; /* the owner's; written by its loop, on the same thread, or by itself */
    int64_t since_ns; /* likewise; when it fell asleep */
    _Atomic int64_t
        look_ns; /* when the owner, or its loop, looks again; DUET__NEVER. Relaxed: others
                                search from it too, and may put it off */
    struct duet__list link; /* in its loop's list of young ones, then in the graph */

    /* The graph's. */
    bool stands; /* something runs on its thread meanwhile */
    bool told; /* of its deadlock: it is about to end */
    bool live; /* of the latest search that saw it */
    uint64_t search; /* which that was */
    uint64_t gathered, reaches; /* in its circle: by which attempt at one */
    uint64_t knot; /* the latest that it was in, or behind */
    uint64_t number; /* in the order of joining */
    uint64_t counted; /* by the latest look that counted it */
    struct duet__list seen; /* in the list of that search */
    char thread[DUET__THREAD_NAME]; /* whose own wait it is, if it is no work's */
};

static inline enum duet__wait_kind duet__wait_kind(bool shielded)
{
    return shielded ? DUET__WAIT_SHIELDED : DUET__WAIT_PLAIN;
}

/* By the owner of one that has joined, when it ends. */
void duet__graph_leave(struct duet__wait *wait);

/* By who waits, before it sleeps, and after. They nest. */
static inline void duet__wait_enter(struct duet__wait *wait, struct duet__parker *parker,
                                    const struct duet__wait_ops *ops, const void *of, size_t n,
                                    duet_deadline by, enum duet__wait_kind kind)
{
    wait->ops = ops;
    wait->parker = parker;
    wait->of = of;
    wait->n = n;
    wait->by_ns = by.ns;
    duet__store_relaxed(&wait->kind, kind);
    wait->beneath = parker->wait;
    wait->joined = wait->stands = false;
    wait->link.next = NULL;
    parker->wait = wait;
}

/* By the owner of one that has joined, or its loop. */
static inline int64_t duet__wait_look_ns(struct duet__wait *wait)
{
    return duet__load_relaxed(&wait->look_ns); /* a moment, nothing else */
}

static inline bool duet__wait_is(struct duet__wait *wait, enum duet__wait_kind kind)
{
    return duet__load_relaxed(&wait->kind) == (uint32_t)kind;
}

static inline void duet__wait_leave(struct duet__wait *wait)
{
    wait->parker->wait = wait->beneath;
    if (wait->joined)
        duet__graph_leave(wait);
}

/* By the owner, or its loop: it has slept for a while. Looks for a knot, and tells its member. */
void duet__graph_join(struct duet__wait *wait);
/* By the owner of a wait that has joined, or its loop: looks again. */
void duet__graph_again(struct duet__wait *wait);
/* Something has changed about what is waited for, of which the address alone is used: a promise has
 * one holder fewer, a group one member more, a loop is stopped, a pool's free place is taken. Looks
 * again at whoever waits for it; NULL: at all waits, for what is rare. */
void duet__graph_changed(const void *of);
/* WHAT ANY THREAD COULD DO, settle a promise say, is stuck only if there is none left to do it:
 * each thread of the process either sleeps in a joined wait, or rests: a worker without a job, a
 * loop whose coroutines have all joined. Layers that have such threads take part in a census. It
 * is taken twice: what rested both times, and was not woken in between, rested in between, all at
 * once. That the last of them has come to rest, or has ended, nobody is told; so a wait that
 * depends on such a thing is looked at again each time that it has become twice as old. */
struct duet__census {
    unsigned threads; /* that rest */
    uint64_t wakes; /* changes whenever one of them is woken */
};
/* Adds the threads of a layer; false: one of them is awake. Called under the graph's lock, and
 * takes the layer's own. */
typedef bool duet__census_fn(struct duet__census *census);
/* Before main() runs. */
void duet__census_add(duet__census_fn *fn);
/* By a caller on whom something stands until it has ended (a loop it runs, a job it runs in place):
 * joins at once. */
void duet__graph_stand(struct duet__wait *wait, struct duet__parker *parker, const duet_future *on);

/* Within may_end(): may the work of this parker go on? */
bool duet__look_at(struct duet__look *look, const struct duet__parker *parker, enum duet__via via);
/* Within may_end(): does something run on its thread, so that it cannot do anything before that has
 * ended? */
bool duet__look_stands(const struct duet__parker *parker);
/* Within may_end(): may all works go on that have joined and of which belongs() is true? */
bool duet__look_at_all(struct duet__look *look,
                       bool (*belongs)(const duet_future *work, const void *to), const void *to);
/* Within may_end(), to count those who wait, each once, however often it stands in a queue: a
 * number for this count; is this one new in it? True if it has not joined. */
uint64_t duet__look_count(void);
bool duet__look_is_new(const struct duet__parker *parker, uint64_t count);
/* Within may_end(), of something that any thread could do: is there one that could? */
bool duet__look_at_threads(struct duet__look *look);
/* Likewise, of something that only those could do who hold it: threads may have to be asked later,
 * when they have let go of it, even if they need not be now. */
void duet__look_again(struct duet__look *look);
/* The may_end() of a wait for such a thing. */
bool duet__any_thread_may_end(const struct duet__wait *wait, struct duet__look *look);

/* How many waits have joined of works of which belongs() is true? */
size_t duet__graph_count(bool (*belongs)(const duet_future *work, const void *to), const void *to);
/* Returns when every search that goes on has ended: what was pending for it may be freed then. */
void duet__graph_pass(void);
/* Calls fn(f) while f, if it is pending, cannot lose what it belongs to. */
void duet__graph_with_pending(duet_future *f, void (*fn)(duet_future *f));

/* Under the graph's lock, of one that cannot end meanwhile: "job 'report' (pool db)", or a thread
 * by its name; into buf, which is returned. */
const char *duet__parker_describe(const struct duet__parker *parker, char *buf, size_t size);
/* What a wait is for, by its own thread; into buf, which is returned. */
const char *duet__wait_describe(const struct duet__wait *wait, char *buf, size_t size);
/* For a report, by any thread that keeps the work alive: what it waits for, or that it does not;
 * into buf, which is returned. */
const char *duet__graph_describe(const struct duet__parker *parker, char *buf, size_t size);
