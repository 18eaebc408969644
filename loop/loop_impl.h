/* The loop from inside; for the files of this layer, and the few calls the bridge builds on. */
#pragma once
#include "co/stack.h"
#include "future_impl.h"
#include "glance.h"
#include "port.h"
#include "ring.h"
#include "spin.h"
#include "task.h"
#include "timers.h"

#include <duet/loop.h>
#include <pthread.h>

enum duet__loop_state {
    DUET__LOOP_OPEN, /* nobody runs it; → CLAIMED by who runs it, or by who closes it unrun */
    DUET__LOOP_CLAIMED, /* somebody is its one consumer; → the future `end` settles */
};

enum duet__turns {
    DUET__TURNS_NOT,
    DUET__TURNS_ALONE, /* its thread has nothing else to do */
    DUET__TURNS_IN_HOST, /* a guest: what its thread does besides, nobody knows */
};

enum {
    DUET__STACK_CLASS_LEAST = 14, /* 16 KiB */
    DUET__STACK_CLASS_MOST = 30, /* 1 GiB */
    DUET__STACK_CLASSES = DUET__STACK_CLASS_MOST - DUET__STACK_CLASS_LEAST + 1,
    DUET__ARRIVALS_AHEAD = 16, /* a power of two: so many are on their way into the cache */
    DUET__IO_LISTS = 256,
    DUET__IO_GUESSES = 4096,
};

enum duet__guest_state {
    DUET__GUEST_NOT, /* no host; → AWAKE by attaching */
    DUET__GUEST_TURNS, /* within duet_loop_turn(); → AWAKE, ASLEEP, NOT */
    DUET__GUEST_AWAKE, /* between turns, with more to do, of which the host is told; → TURNS */
    DUET__GUEST_ASLEEP, /* between turns, and so its port; → ROUSED, TURNS */
    DUET__GUEST_ROUSED, /* likewise, and the host is told; → TURNS */
};

/* A loop that lives in a foreign one (guest.c). Owned by its loop, used by its thread alone. */
struct duet__guest {
    enum duet__guest_state state;
    int epoll_fd, event_fd, timer_fd; /* from the attaching on, until the loop is freed; else -1 */
    int64_t armed_ns; /* what the timer is set to; DUET__NEVER: nothing */
};

/* A queue of nodes, first in, first out; the loop's thread alone. Two counters, so that a push does
 * not wait for the pop before it. */
struct duet__run_queue {
    struct duet__node *first, **end;
    size_t pushed, popped;
};

/* Owned by its references, which are counted in the port; the last one frees it. */
struct duet_loop {
    struct duet__port *port; /* constant */
    duet_loop_config config; /* constant; name is a copy */
    struct duet__hooks *hooks; /* constant; NULL: none */
    _Atomic uint32_t state; /* enum duet__loop_state; claimed by compare and swap */
    duet_future started; /* settles when it turns, or with why it cannot */
    duet_future end; /* settles when nothing of it runs any more */
    struct duet__node drain_node; /* posted once, by who shuts the port first */
    struct duet__node stop_node; /* posted once, by who stops it first */
    _Atomic uint32_t stopped; /* … is decided by this; relaxed */
    duet_future *main; /* of duet_run(): when it has settled, the loop is stopped; NULL. Constant
                          once the loop runs */
    uint32_t process; /* constant: in which it was opened */
    struct duet__list all; /* in the list of all loops, under its lock */
    pthread_t thread; /* joined by close; see has_thread */
    bool has_thread; /* set before anybody else knows the loop, cleared by who joins */

    /* The task that runs at this moment, for a closer to name it from outside. */
    struct duet__glance running;

    /* The loop's thread, or whoever claimed it: */
    struct duet__ring ring;
    struct duet__co scheduler; /* the thread's own stack */
    int *errno_here; /* the thread's errno */
    const struct duet__parker
        *outer; /* who runs the loop: it cannot go on before the loop has ended */
    int64_t now_ns; /* the clock at the beginning of this turn */
    unsigned budget; /* how many more nodes run in this turn */
    duet_result result; /* what the coroutine came to that has just ended */
    struct duet__run_queue ready;
    struct duet__run_queue arrivals; /* submissions taken from the port and not yet admitted */
    int64_t taken_ns; /* the turn in which it last looked into the port for some */
    struct duet__node *last_arrivals[DUET__ARRIVALS_AHEAD]; /* if so many are in it, by number */
    struct duet__timers timers;
    int64_t expired_ns; /* the turn in which the last of them were due */
    size_t joined; /* sleeping coroutines whose waits have joined it */
    /* Odd while the loop sleeps and only other threads could give it anything to do: all that
     * lives in it has joined the graph; one more at each change. For the census. */
    _Atomic uint32_t rests;
    _Atomic uint32_t turns; /* enum duet__turns; relaxed: a look */
    struct duet__list young; /* waits of its coroutines, until they join the graph of waits */
    struct duet__list in_flight[DUET__IO_LISTS]; /* operations, by their descriptor */
    uint8_t guesses[DUET__IO_GUESSES]; /* DUET__IO_…, likewise */
    struct duet__list closing; /* descriptors that are being closed */
    struct duet__list live; /* tasks started and not ended */
    size_t live_count, coroutine_count; /* the latter: of those, with a stack */
    bool draining; /* ends when nothing is left, and cancels nothing */
    bool stopping;
    bool told_no_stack;
    bool buried; /* it never ran, and never will: callbacks are dropped */
    bool looks; /* at the graph, and runs nothing else meanwhile */
    struct duet__guest guest;
    struct duet__spin spin;
    struct duet__stacks *usual_stacks; /* of those that do not say otherwise */
    struct duet__stacks stacks[DUET__STACK_CLASSES];
};

/* The loop that runs on this thread; NULL: none. */
extern _Thread_local duet_loop *duet__loop_here;

/* By who has let go of what last kept its port alive: frees it. */
void duet__loop_gone(duet_loop *loop);
/* Turns until the loop has been stopped and everything has ended. */
void duet__loop_turn_until_stopped(duet_loop *loop);
/* One turn, which takes first what the ring has, without a wait at its end. */
void duet__loop_turn_once(duet_loop *loop);
/* Is there more to do at once? */
bool duet__loop_has_more(duet_loop *loop);
/* Has it been stopped, and everything ended? Then nothing can enter it any more. */
bool duet__loop_try_end(duet_loop *loop);
/* Before a rest: gives some memory back; returns when there is something to do at the latest. */
int64_t duet__loop_begin_rest(duet_loop *loop);
/* The parts of running a loop on this thread, in this order. Take: 0 and a reference, or why not.
 * Begin (event_fd as in duet__ring_open()): 0, or then cannot_begin() and end(). Turns: it does
 * from here on. Finish, and end, which lets go of the reference. */
int duet__loop_take(duet_loop *loop, const char *function);
int duet__loop_begin(duet_loop *loop, int event_fd);
void duet__loop_cannot_begin(duet_loop *loop, int rc);
void duet__loop_started(duet_loop *loop, enum duet__turns how);
void duet__loop_finish(duet_loop *loop);
void duet__loop_end(duet_loop *loop, int rc);
void duet__guest_init(struct duet__guest *guest);
/* Of one that is asleep: its descriptor becomes readable. */
void duet__guest_rouse(duet_loop *loop);
void duet__guest_close(struct duet__guest *guest);
/* Instead, if it cannot turn: cancels and drops what it had accepted. */
void duet__loop_bury(duet_loop *loop);
/* In the census: does it rest? */
bool duet__loop_rests(duet_loop *loop, struct duet__census *census);
/* By its thread: waits that have lasted join the graph. */
void duet__loop_join_waits(duet_loop *loop);
/* When the next of them has; DUET__NEVER: there is none. */
int64_t duet__loop_next_join_ns(const duet_loop *loop);
/* All loops of this process, each with a reference. NULL: there are none, or (*ret_n > 0) no
 * memory. duet__free() it. */
duet_loop **duet__loop_ref_all(size_t *ret_n);
/* Within may_end(), of one that cannot be freed meanwhile: does it turn, or could any thread run
 * it? */
bool duet__loop_may_turn(const duet_loop *loop, struct duet__look *look);
/* The parts of a shutdown: refuse submissions and end when nothing is left; wait for that; ask what
 * is left (NULL: no memory), and list it: -ETIME, or 0 since it has ended after all, which takes
 * that long at most. */
enum {
    DUET__REPORT_WAIT_MS = 200,
};
struct duet__listing;
void duet__loop_drain(duet_loop *loop);
int duet__loop_await_end(duet_loop *loop, duet_deadline by);
struct duet__listing *duet__loop_ask_left(duet_loop *loop);
int duet__loop_list_left(duet_loop *loop, struct duet__listing *asked, duet_deadline by,
                         duet_receipt *receipt);
/* The stacks for coroutines of this size. */
struct duet__stacks *duet__loop_stacks(duet_loop *loop, size_t size);

static inline void duet__run_queue_init(struct duet__run_queue *queue)
{
    queue->first = NULL;
    queue->end = &queue->first;
    queue->pushed = queue->popped = 0;
}

static inline size_t duet__run_queue_count(const struct duet__run_queue *queue)
{
    return queue->pushed - queue->popped;
}

static inline void duet__run_queue_push(struct duet__run_queue *queue, struct duet__node *node)
{
    node->next = NULL;
    *queue->end = node;
    queue->end = &node->next;
    queue->pushed++;
}

static inline void duet__run_queue_push_first(struct duet__run_queue *queue,
                                              struct duet__node *node)
{
    node->next = queue->first;
    if (!node->next)
        queue->end = &node->next;
    queue->first = node;
    queue->pushed++;
}

static inline struct duet__node *duet__run_queue_pop(struct duet__run_queue *queue)
{
    struct duet__node *node = queue->first;
    if (!node)
        return NULL;
    queue->first = node->next;
    if (!queue->first)
        queue->end = &queue->first;
    queue->popped++;
    return node;
}

/* By its thread: runs in this turn or the next; rouses a guest that is asleep. */
static inline void duet__loop_ready(duet_loop *loop, struct duet__node *node)
{
    duet__run_queue_push(&loop->ready, node);
    if (__builtin_expect(loop->guest.state == DUET__GUEST_ASLEEP, 0))
        duet__guest_rouse(loop);
}
