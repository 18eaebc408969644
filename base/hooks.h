/* Telling hooks, and what for that is kept of a work.
 *
 * Only works of a loop or pool that has hooks are observed: their parker points to a record in
 * their own block of memory. Everywhere else the pointer is NULL, and each place that would tell
 * costs the branch on it. */
#pragma once
#include "park.h"

#include <duet/hooks.h>

/* Which function of the table. */
enum duet__hook {
    DUET__HOOK_SPAWNED,
    DUET__HOOK_STEP_BEGAN,
    DUET__HOOK_STEP_ENDED,
    DUET__HOOK_PARKED,
    DUET__HOOK_SETTLED,
    DUET__HOOK_JOB_QUEUED,
    DUET__HOOK_JOB_BEGAN,
    DUET__HOOK_JOB_ENDED,
    DUET__HOOKS
};

/* The tables of one loop or pool, and its name. Owned by its references: the loop's or pool's, and
 * one of each work, since a work may be settled by its canceller when its loop has gone. */
struct duet__hooks {
    _Atomic uint32_t refs;
    unsigned count; /* from here on constant */
    char *place;
    duet_hooks tables[];
};

/* Owned by its work, whose block of memory it is in. But for `by…`, only ever touched by who the
 * work is with at that moment: the submitter, then who runs it, then who settles it. */
struct duet__observed {
    struct duet__hooks *hooks; /* a reference */
    const char *name; /* the future's, or number_name */
    uint64_t id, parent;
    int64_t spawned_ns, before_ns; /* the latter: of its latest event */
    size_t queued; /* likewise */
    /* Who made it ready: written by whoever unparks it, just before, read when it runs again. All
     * relaxed: published by the unpark, and only told. Two that unpark it at the same time may
     * mix. */
    _Atomic uint64_t by;
    _Atomic int64_t by_ns;
    _Atomic int32_t by_thread;
    char number_name[32];
    uintptr_t slots[]; /* one for each table */
};

/* Copies the chain of a configuration, NULL for none, and adds what is told of everything; *ret is
 * NULL if there is nothing to tell. 0, -ENOMEM, -EINVAL after a line in the log. */
int duet__hooks_open(struct duet__hooks **ret, const duet_hooks *chain, const char *place,
                     const char *function);
void duet__hooks_unref(struct duet__hooks *hooks); /* NULL is fine */
/* A table that is told of everything in the process, asked for whenever a loop or pool is opened;
 * it may answer NULL. Set before main() runs. */
void duet__hooks_set_always(const duet_hooks *(*table)(void));

/* How many bytes of a work's block the record takes; 0 without hooks. */
size_t duet__observed_size(const struct duet__hooks *hooks);
/* Of a work that nobody else knows yet: sets up its record. */
void duet__observe(struct duet__observed *observed, struct duet__hooks *hooks,
                   struct duet_future *work);

/* Tells that something happens with the work of this parker, which is observed. */
void duet__tell(struct duet__parker *parker, enum duet__hook what, int64_t now_ns, size_t queued);
/* Likewise, that it settles, by who is about to settle it. */
void duet__tell_settled(struct duet__parker *parker, duet_result result);

/* By who is about to make it ready. */
void duet__note_by(struct duet__observed *observed);
/* By its owner: nobody has, from here on. */
void duet__note_nobody(struct duet__observed *observed);
/* The work that acts on this thread at this moment though it does not run there by its own parker:
 * it settles, or is a callback at a moment. Returns which did before; 0: none. */
uint64_t duet__acting_set(uint64_t id);
