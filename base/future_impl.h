/* The future from inside: what executors, groups and callbacks build on. */
#pragma once
#include "block.h"
#include "fork.h"
#include "futex.h"
#include "graph.h"
#include "list.h"
#include "lock.h"
#include "park.h"

#include <duet/future.h>

/* THE WORD of a future holds its state, counts its references, and is the lock of its waiters: so a
 * work which nobody waits for settles and lets go of itself in one step, and one that somebody waits
 * for in two. Settling makes the one transition that matters; LOOKED and TAKEN are only ever added to
 * a settled future. Every change is a read-modify-write, but by who has the only reference.
 *
 * WATCHED says that who settles it has somebody to tell, and so needs the lock. It is set in the step
 * that takes the lock and finds the future pending: so either the settler sees it, or who sets it
 * sees SETTLED.
 *
 * THE LOCK is base/lock.h's, in two bits: LOCKED, and SLEEPERS if somebody may sleep on the half of
 * the word in which they are. Whoever has it has a reference, or is lent one meanwhile. */
enum duet__future_state {
    DUET__FUTURE_PENDING = 0,
    DUET__FUTURE_SETTLED = 1, /* result is constant from here on */
    DUET__FUTURE_LOOKED = 2, /* somebody saw the result: no report */
    DUET__FUTURE_TAKEN = 4, /* somebody took the value: no drop_result */
    DUET__FUTURE_REFUSED = 8, /* settled at birth: the work was never accepted */
    DUET__FUTURE_WATCHED = 16, /* it has waiters or a group, or had them */
    DUET__FUTURE_CALLS = 32, /* … a callback among them, or had one */
    DUET__FUTURE_LOCKED = 64, /* somebody has the lock */
    DUET__FUTURE_SLEEPERS = 128, /* … and others may sleep for it */
    DUET__FUTURE_REFERENCE = 256, /* the unit; the bits from here on count */
};

/* What tells kinds of work apart. */
struct duet__future_ops {
    const char *kind; /* "coroutine", "job", … for reports */
    bool is_work; /* of a struct duet__work */
    void (*cancel)(duet_future *f); /* ask a pending one; the caller holds a reference */
    void (*release)(duet_future *f); /* the last reference is gone: free the memory */
    /* Of a pending one, under the graph's lock: may it still settle? NULL: always. */
    bool (*may_settle)(const duet_future *f, struct duet__look *look);
    /* Its pool, " (pool db)", or NULL; into buf, which is returned. */
    const char *(*place)(const duet_future *f, char *buf, size_t size);
    /* When it started, on the monotonic clock, roughly; 0: not yet. NULL: it does not. */
    int64_t (*since)(const duet_future *f);
    /* It is left behind by who waited for it, while it was pending. NULL: nothing. */
    void (*abandoned)(duet_future *f);
};

/* The link by which a future is in a group; guarded by the group's own lock, but `settled` and
 * writing `group` by the future's. */
struct duet__member {
    struct duet__list link;
    _Atomic(void *) group; /* NULL: in none; relaxed: others only compare it */
    void (*settled)(duet_future *f, void *group); /* once, after the waiters, under no lock */
    bool asked; /* the group has cancelled it */
    bool kept; /* borrowed by the user until the group is closed */
};

/* Owned by its references: each handle, and the work itself until it has settled. */
struct duet_future {
    _Atomic uint64_t word; /* see THE WORD */
    uint32_t process; /* in which it lives: duet__process */
    bool settler_holds; /* a promise: DUET_SETTLER_HOLDS */
    uint8_t
        shelf; /* where its block of memory goes (block.h); of one that has a block of its own */
    duet_result result; /* written once, before SETTLED */
    const struct duet__future_ops *ops;
    void (*drop_result)(void *ptr);
    const char *name; /* in the same block of memory; NULL: unnamed */
    struct duet__list waiters; /* this, and member.group: guarded by the lock in the word */
    struct duet__member member;
    _Atomic uint64_t id; /* 0 until somebody asks for it, or for the name of an unnamed one */
};

static inline void duet__future_init(duet_future *f, const struct duet__future_ops *ops,
                                     const duet_opts *opts, uint32_t refs)
{
    /* Nobody else can see it yet. */
    duet__store_relaxed(&f->word, DUET__FUTURE_REFERENCE * (uint64_t)refs);
    f->process = duet__process;
    f->result = duet_ok();
    f->ops = ops;
    f->drop_result = opts ? opts->drop_result : NULL;
    f->name = NULL;
    duet__list_init(&f->waiters);
    f->member.link.next = NULL;
    duet__store_relaxed(&f->member.group, NULL);
    duet__store_relaxed(&f->id, 0);
    f->settler_holds = false;
}
/* True: this call settled it. Fires its waiters in order, then its group. The caller holds a
 * reference. */
bool duet__future_settle(duet_future *f, duet_result result, uint32_t also_state);
/* Likewise, of one that nobody else settles; and lets go of so many of the caller's references, 0
 * or 1. */
void duet__future_finish(duet_future *f, duet_result result, uint32_t also_state, unsigned refs);
/* Likewise, by who has made it and run it, and has not given the handle away. */
void duet__future_finish_unseen(duet_future *f, duet_result result);
uint64_t duet__future_lock_slowly(duet_future *f, uint64_t also);
/* By who has a reference, or is lent one: takes the lock, and sets also these marks: the word as it
 * was before. With WATCHED: unless it had SETTLED, who settles it from here on takes the lock. */
static inline uint64_t duet__future_lock(duet_future *f, uint64_t also)
{
    uint64_t word = duet__load_relaxed(&f->word);
    uint64_t next = word | DUET__FUTURE_LOCKED | also;
    if (word & DUET__FUTURE_LOCKED)
        return duet__future_lock_slowly(f, also);
    /* Acquires what the last holder wrote, and the result; pairs with the release in
     * duet__future_unlock(). Releases the result if it settles. */
    bool locked = also & DUET__FUTURE_SETTLED ? duet__cas_acq_rel(&f->word, &word, next)
                                              : duet__cas_acquire(&f->word, &word, next);
    return locked ? word : duet__future_lock_slowly(f, also);
}
/* The half of the word that has the marks: a futex. An address only. */
static inline _Atomic uint32_t *duet__future_half(duet_future *f)
{
    _Atomic uint32_t *halves = (void *)&f->word;
    return &halves[__BYTE_ORDER__ == __ORDER_BIG_ENDIAN__];
}
static inline void duet__future_unlock(duet_future *f)
{
    /* Publishes what was written under the lock. Pairs with the acquire in duet__future_lock(). */
    uint64_t before =
        duet__and_release(&f->word, ~(uint64_t)(DUET__FUTURE_LOCKED | DUET__FUTURE_SLEEPERS));
    if (before & DUET__FUTURE_SLEEPERS)
        duet__futex_wake(duet__future_half(f));
}
/* Appends the waiter; false: it has settled, and is in no queue. */
bool duet__future_enqueue(duet_future *f, struct duet__waiter *waiter);
/* Takes it out again; false: it is in no queue, since somebody has claimed it. */
bool duet__future_leave(duet_future *f, struct duet__waiter *waiter);
duet_future *duet__future_alloc_named(size_t size, const char *name);
/* A future, or a work that begins with one, in a block of its own of `size` bytes, with so many
 * more behind it for its name: uninitialised, but for `shelf` and the name. NULL: no memory. */
static inline duet_future *duet__future_alloc(size_t size, const duet_opts *opts)
{
    if (__builtin_expect(opts && opts->name, 0))
        return duet__future_alloc_named(size, opts->name);
    unsigned shelf = duet__shelf_for(size);
    duet_future *f = duet__block_get(shelf, size);
    if (f)
        f->shelf = (uint8_t)shelf;
    return f;
}
/* Its memory, once the last reference is gone. */
static inline void duet__future_free(duet_future *f)
{
    duet__block_put(f->shelf, f);
}
/* Like duet_future_wait(), but has not looked at the result. */
int duet__future_wait(duet_future *f, duet_deadline by, enum duet__wait_kind kind);
/* Likewise, within a wait that has been entered. */
int duet__future_wait_in(duet_future *f, struct duet__parker *parker, duet_deadline by,
                         bool shielded);
/* Waits for one future, whose kind knows whether it may settle. */
extern const struct duet__wait_ops duet__future_wait_ops;
bool duet__future_may_settle(const duet_future *f, struct duet__look *look);
/* A handle settled at birth, with arg dropped; never NULL. The log says `why`, if given. */
duet_future *duet__future_refused(int err, const char *why, void *arg, const duet_opts *opts);
/* The one handle that all who got no memory share: settled, and in no group. */
bool duet__future_is_immortal(const duet_future *f);
/* "coroutine 'fetch'": into buf, which is returned. */
const char *duet__future_describe(const duet_future *f, char *buf, size_t size);
/* Under the graph's lock: likewise, with its pool: "job 'report' (pool db)". */
const char *duet__future_describe_place(const duet_future *f, char *buf, size_t size);
/* The name alone, or kind-id; into buf if it has to be made. */
const char *duet__future_name(const duet_future *f, char *buf, size_t size);
/* From 1, given once in a process. */
uint64_t duet__future_id(const duet_future *f);

/* Of a future just got: was the work never accepted? */
static inline bool duet__future_was_refused(const duet_future *f)
{
    /* Stored together with SETTLED: by this thread, or by the loop, which can refuse it later. */
    return duet__load_relaxed((_Atomic uint64_t *)&f->word) & DUET__FUTURE_REFUSED;
}

/* By who has a reference: is it the only one? Only who has one makes another, so it stays so. */
static inline bool duet__future_is_only_ours(duet_future *f)
{
    /* Acquires what all others did before they let go. Pairs with the release in
     * duet_future_unref() and duet__future_finish(), whose changes are one sequence. */
    uint64_t word = duet__load_acquire(&f->word);
    return word / DUET__FUTURE_REFERENCE == 1;
}

/* By who has made it, with two references, and has not given the handle away: does nobody else know
 * it, be it a group that it is in or a closer that names it? Then that stays so. */
static inline bool duet__future_is_unseen(duet_future *f)
{
    /* Acquires what a closer did that had a reference for a moment. Pairs with
     * duet_future_unref(). */
    return duet__load_acquire(&f->word) == 2 * (uint64_t)DUET__FUTURE_REFERENCE;
}

static inline bool duet__future_is_settled(const duet_future *f)
{
    /* Acquires the result. Pairs with the release in duet__future_settle() and _finish(). */
    return duet__load_acquire((_Atomic uint64_t *)&f->word) & DUET__FUTURE_SETTLED;
}

void duet__future_mark_looked(const duet_future *f);
/* Of a settled one: somebody saw its result. Only a failure would be reported, so only that needs a
 * mark. */
static inline void duet__future_looked(const duet_future *f)
{
    if (__builtin_expect(f->result.err < 0, 0))
        duet__future_mark_looked(f);
}
