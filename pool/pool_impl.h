/* The pool from inside: pool.c is its life, submit.c how jobs come, intake.c how they come fast,
 * slots.c who may start, worker.c its threads, interrupt.c how a blocked job is woken. */
#pragma once
#include "cpu.h"
#include "future_impl.h"
#include "interrupt.h"
#include "lock.h"
#include "work.h"

#include <duet/pool.h>
#include <pthread.h>

enum {
    DUET__NORMAL,
    DUET__URGENT,
    DUET__LANES,
};

/* Owned like its work: by the pool until it ends, by handles until they let go.
 *
 * A queued job is born asleep: its parker's SLEEPING says "in the queue, nobody's yet". Who clears
 * that bit has the job: a worker to run it, or a canceller to remove and settle it. So it is never
 * both, and whoever cancels may still use the pool: the pool cannot end before the job has. */
struct duet__job {
    struct duet__work work; /* first; its last is the parker's word */
    /* These are guarded by the pool's lock, and lie beside that word: whoever takes a job waits,
     * under that lock, for no more lines of the cache than it must. */
    struct duet__list link; /* in the pool's queue */
    bool started; /* written by who has the job */
    bool runs; /* it has started, and not ended */
    bool abandoned;
    uint8_t lane; /* constant, as are these two */
    uint32_t flags; /* of its opts */
    duet_pool *pool;
    _Atomic int64_t since_ns; /* when it started; of the coarse clock; relaxed */
    struct duet__interrupt interrupt;
};
_Static_assert(_Alignof(struct duet__job) <= DUET__BLOCK_ALIGN, "a job fits into any block");

_Static_assert(offsetof(struct duet__job, link) - offsetof(struct duet__job, work.parker.word) <= 8,
               "who takes a job finds its word and its link together");

/* Where jobs run, one after the other: a worker, or a submitter's thread. Owned by that thread, on
 * its stack; guarded by the pool's lock, though that thread may read it without. */
struct duet__seat {
    struct duet__job *job; /* NULL: none runs */
    bool in_place; /* it is a submitter's, and has no slot */
    bool lent; /* the job waits, and its slot is lent */
    uint64_t completed; /* jobs that ran here */
    struct duet__list link; /* in the pool's list */
};

/* Owned by its thread, on its stack. */
struct duet__worker {
    struct duet__blocking blocking; /* first: lends the slot while a job of ours waits */
    duet_pool *pool;
    struct duet__seat seat;
    unsigned settled; /* jobs of ours that have settled and still count in the pool */
    bool comes, late; /* it has no next job at hand, and counts as coming; and as late */
    bool joins; /* `gone` is one that has left before, and is ours to join */
    pthread_t gone;
    int64_t look_ns; /* it had not ended: so long we stay before we look again; 0: none */
};

/* See intake.c. Its lock guards it, and is taken after the pool's. */
struct duet__intake {
    struct duet__lock lock;
    unsigned places; /* how many jobs may enter; 0: it is not open */
    /* Of jobs, that do not count in the pool yet. Relaxed: a look without the lock publishes
     * nothing. */
    _Atomic uint32_t count;
    struct duet__list jobs; /* normal ones */
};

/* Owned by who opened it until it is closed or shut down, then by what is left in it; and by who
 * holds it for a moment. The lock guards all that is not constant. */
struct duet_pool {
    void *block; /* as it was allocated; constant */
    /* What submitters write while all slots are taken, and what workers do as one job follows
     * another: a line of the cache each, so that one comes with the lock and no more. */
    _Alignas(DUET__LINE) struct duet__intake intake;
    _Alignas(DUET__LINE) struct duet__lock lock;
    unsigned jobs; /* accepted and not ended */
    struct duet__list lanes[DUET__LANES]; /* queued jobs, the oldest first */
    unsigned
        active[DUET__LANES]; /* slots in use: jobs on workers, but for those that lent theirs */
    unsigned queued; /* jobs in the lanes */
    unsigned promised; /* places freed for submitters who were woken and are on their way */
    unsigned urgent_in_row; /* jobs started while a normal one could have been */
    bool cannot_start; /* the system refused the last thread */

    _Alignas(DUET__LINE) struct duet__list room; /* waiters of submitters, the oldest first */
    struct duet__list idle; /* waiters of workers without a job, the latest last */
    unsigned coming; /* workers on their way to look for a job */
    unsigned late; /* … of those: who first run code of the user's */
    struct duet__list seats; /* of all workers, and of jobs that run in place */
    duet_pool_stats stats; /* but for what is told by what is above */

    unsigned owners; /* whoever opened it, and who holds it for a moment */
    unsigned lent; /* workers whose job waits, and whose slot is lent */
    unsigned threads; /* workers, from the decision to start one to its exit */
    unsigned started, begun, left_count; /* workers so far: by their starters' count, their own, and
                                            that of those that left */

    bool closing; /* no more jobs: → true once */
    bool leaving; /* workers without a job go: → true once */
    bool permanent; /* not the user's to end; constant once others know the pool */
    bool has_gone; /* `gone` is a thread that has left, and is nobody's to join yet */
    pthread_t gone;

    duet_future empty; /* settles when closing and no job is left */
    duet_future left; /* settles when leaving and no worker is left */
    duet_pool_config config; /* constant; name is a copy */
    struct duet__hooks *hooks; /* constant; NULL: none */
    uint32_t process; /* constant: in which it was opened */
    struct duet__list all; /* in the list of all pools, under its lock */
};

_Static_assert(offsetof(duet_pool, room) - offsetof(duet_pool, lock) == DUET__LINE,
               "what workers write as one job follows another is one line of the cache");

extern const struct duet__future_ops duet__job_ops;

static inline struct duet__job *duet__job_of(const duet_future *f)
{
    return duet__container(f, struct duet__job, work.future);
}

/* Under the lock: it is the pool's no more. */
static inline void duet__seat_left(duet_pool *pool, struct duet__seat *seat)
{
    pool->stats.completed += seat->completed;
    duet__list_remove(&seat->link);
}

/* ---- submit.c ---- */

/* Like duet_pool_submit_with(), but waits for room until `by` at most. *ret_wait: 0, or how that
 * wait failed (-ETIME, -ECANCELED, -EDEADLK): then the handle is settled with -ECANCELED. */
duet_future *duet__pool_submit_by(duet_pool *pool, duet_fn *fn, void *arg, const duet_opts *opts,
                                  duet_deadline by, int *ret_wait);
/* Under the lock, whenever a place may have become free, or somebody has come for one: promises one
 * to who waited longest, who is to be fired when the lock is released. NULL: nobody waits, none is
 * free, or somebody is on the way to whom one is promised, and then looks for the next who waits: so
 * each wake-up is worth many jobs. Where half of the queue is free, all who wait get theirs, as far
 * as there are any, so that none depends on another that perhaps cannot run. */
struct duet__waiter *duet__pool_promise_place(duet_pool *pool);
/* Under the lock: all free ones to who waits, since a job waits now, perhaps for one of them. */
void duet__pool_promise_all(duet_pool *pool);
/* Under the pool's lock alone, when a job has started: likewise, one. */
struct duet__waiter *duet__pool_offer_place(duet_pool *pool);
/* Under the lock: likewise, since the pool is closing. */
struct duet__waiter *duet__pool_dismiss_submitter(duet_pool *pool);
/* Under the lock, by who has cleared SLEEPING of a queued job: out of the queue. */
void duet__job_remove(struct duet__job *job);
/* Without the lock, of a job that was removed: it never ran. */
void duet__job_end_unrun(struct duet__job *job, int err);

/* Under the lock, by who has the job: it starts here. */
void duet__job_started(struct duet__job *job, struct duet__seat *seat);
/* Without the lock: runs its function. */
duet_result duet__job_call(struct duet__job *job);
/* Under the lock: it has run. */
void duet__job_ended(struct duet__job *job, struct duet__seat *seat);

/* Under the lock, when no thread could be started for a job: if there is no other that could come
 * to it, it is claimed and removed; and if there is none at all, so is all that was queued
 * meanwhile in trust of that one. */
void duet__jobs_claim_hopeless(duet_pool *pool, const struct duet__job *job,
                               struct duet__list *ret);
/* Without the lock, of those. */
void duet__jobs_refuse(duet_pool *pool, struct duet__list *jobs);

/* To the hooks of a job's pool, without the lock. */
void duet__job_tell(struct duet__job *job, enum duet__hook what);

/* ---- intake.c ---- */

/* Whoever has the pool's lock so sees all that has come. */
void duet__pool_lock(duet_pool *pool);
void duet__pool_unlock(duet_pool *pool);
/* The second part of both: under the pool's lock. */
void duet__intake_lock(duet_pool *pool);
void duet__intake_unlock(duet_pool *pool);
/* Without a lock: the normal job is queued, and that is all. False: it is not, and may have to wait
 * for room or to summon somebody. */
bool duet__intake_enter(duet_pool *pool, struct duet__job *job);
/* Without its lock, a look: has nothing come? */
static inline bool duet__intake_is_empty(duet_pool *pool)
{
    return duet__load_relaxed(&pool->intake.count) == 0;
}

/* ---- slots.c ---- */

/* What to do when the lock is released. */
struct duet__summons {
    struct duet__waiter *idle; /* a worker to wake; NULL: none */
    bool start; /* a thread to start */
    struct duet__job *job; /* for this one; NULL: for any */
};

/* Under the lock: each slot has a job, or a worker is on its way to look for one. */
bool duet__needs_no_summons(const duet_pool *pool);
/* Under the pool's lock alone, by a worker that has come: the next job, in a slot of ours now; NULL:
 * none, or none is free. And whom we have to summon for the rest. */
struct duet__job *duet__slot_take_first(duet_pool *pool, struct duet__summons *ret_summons);
/* Likewise, by one whose job has just ended, and who comes if there is none. */
struct duet__job *duet__slot_take_at_hand(duet_pool *pool);
/* Under the lock: a job has ended that was on a worker. */
void duet__slot_give(struct duet__job *job);
/* Under the lock: a job has come or a slot has become free: who takes it? */
struct duet__summons duet__summon(duet_pool *pool);
/* Without the lock: does so. 0, or a negative errno: a thread could not be started. */
int duet__summon_now(duet_pool *pool, struct duet__summons summons);
/* Under the lock: how many workers there are; and keeps their statistics. */
unsigned duet__note_workers(duet_pool *pool);
/* By a worker whose job blocks in a wait, and when that is over. */
void duet__slot_lend(struct duet__blocking *worker);
void duet__slot_back(struct duet__blocking *worker);
/* In the graph of waits, under the lock: will a queued job of this lane ever start? */
bool duet__slot_may_come(const duet_pool *pool, unsigned lane, struct duet__look *look);

/* ---- worker.c ---- */

/* Starts a worker that is counted in `threads` already. 0 or a negative errno. */
int duet__worker_start(duet_pool *pool);

/* ---- pool.c ---- */

/* Not the user's to drain or close: the default pool, before anybody else knows it. */
void duet__pool_set_permanent(duet_pool *pool);
/* Like duet_pool_close(), but the memory stays: jobs are refused for ever. */
int duet__pool_end(duet_pool *pool, duet_deadline by);
/* Under the lock: one job fewer, or one promise. */
void duet__pool_less(duet_pool *pool);
/* Releases the lock, and frees the pool if nobody owns it and nothing is in it any more. */
void duet__pool_unlock_last(duet_pool *pool);
/* All pools of this process that are open, held: to be let go of by duet__pool_release(). NULL:
 * there are none, or (*ret_n > 0) no memory. duet__free() it. */
duet_pool **duet__pool_hold_all(size_t *ret_n);
void duet__pool_release(duet_pool *pool);
/* The parts of a shutdown, of a pool that is held. */
void duet__pool_refuse(duet_pool *pool);
int duet__pool_await_empty(duet_pool *pool, duet_deadline by);
void duet__pool_cancel(duet_pool *pool);
void duet__pool_dismiss(duet_pool *pool); /* workers without a job leave */
void duet__pool_leave(duet_pool *pool); /* of a pool without jobs: all have left, and are joined */
/* What of a pool whose queue was cancelled still runs: -ETIME, or 0 since it is empty after all. */
int duet__pool_list_left(duet_pool *pool, duet_receipt *receipt);
/* -EDEADLK: here is a job of this pool, or nothing may wait; -EOWNERDEAD. */
int duet__pool_may_await(const duet_pool *pool);
