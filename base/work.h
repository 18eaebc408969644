/* A piece of work: a function with its argument, its future, and the parker it sleeps on. Tasks and
 * jobs begin with one. */
#pragma once
#include "check.h"
#include "context.h"
#include "future_impl.h"
#include "hooks.h"

/* Owned like its future, which comes first; the executor's reference ends in duet__work_end(). */
struct duet__work {
    duet_future future;
    union {
        duet_fn *fn;
        duet_callback *callback; /* of a task without a stack, and known to it alone */
    };
    void *arg;
    void (*drop)(void *arg);
    duet_context *began_in; /* constant: so others may show it, while the parker's changes */
    struct duet__parker parker; /* last, as is its word in it */
};

/* 0, or the error of an unusable opts (may be NULL), with *ret_why what is wrong with it. */
int duet__opts_check(const duet_opts *opts, const char **ret_why);
int duet__work_check_closely(duet_fn *fn, const duet_opts *opts, const char **ret_why);
/* Likewise, of a function with its opts. */
static inline int duet__work_check(duet_fn *fn, const duet_opts *opts, const char **ret_why)
{
    return fn && !opts ? 0 : duet__work_check_closely(fn, opts, ret_why);
}
/* A block of `size` bytes with room behind it for what hooks (NULL: none) need, and the name;
 * uninitialised but for the name, which duet__work_init() finds. NULL: no memory.
 * duet__future_free() it. */
static inline void *duet__work_alloc(size_t size, const struct duet__hooks *hooks,
                                     const duet_opts *opts)
{
    size_t observed_size = __builtin_expect(hooks != NULL, 0) ? duet__observed_size(hooks) : 0;
    return duet__future_alloc(size + observed_size, opts);
}
void duet__work_init_rarely(struct duet__work *work, size_t size, struct duet__hooks *hooks,
                            const duet_opts *opts);
/* With two references: the handle's and the executor's; in the context of who runs here, and
 * asleep. */
static inline void duet__work_init(struct duet__work *work, size_t size, struct duet__hooks *hooks,
                                   const struct duet__future_ops *ops,
                                   const struct duet__parker_ops *parker_ops, duet_fn *fn,
                                   void *arg, const duet_opts *opts)
{
    duet__future_init(&work->future, ops, opts, 2);
    duet__parker_init(&work->parker, parker_ops, &work->future, DUET__PARK_SLEEPING);
    work->fn = fn;
    work->arg = arg;
    work->drop = opts ? opts->drop : NULL;
    work->began_in = NULL;
    if (__builtin_expect(hooks || duet__here()->context || (opts && opts->name), 0))
        duet__work_init_rarely(work, size, hooks, opts);
}
/* By who starts it, of one that is asleep, while nobody else has a handle to cancel it by. */
static inline bool duet__work_claim_unseen(struct duet__work *work)
{
    uint32_t word = duet__load_relaxed(&work->parker.word);
    duet__store_relaxed(&work->parker.word, word & ~(uint32_t)DUET__PARK_SLEEPING);
    return word & DUET__PARK_SLEEPING;
}
/* By who starts it, of one that is asleep, unless somebody has cancelled it: true, it is the caller's
 * to run. */
static inline bool duet__work_claim(struct duet__work *work)
{
    return duet__future_is_only_ours(&work->future) ? duet__work_claim_unseen(work)
                                                    : duet__park_claim(&work->parker);
}
/* Likewise, by who has made it and has not given the handle away; it may be in a group already. */
static inline bool duet__work_claim_own(struct duet__work *work)
{
    return duet__future_is_unseen(&work->future) ? duet__work_claim_unseen(work)
                                                 : duet__park_claim(&work->parker);
}
/* By who runs it, as it ends: does it settle, and is it let go of, without code of the user's? (But
 * for a callback that is added just now, to a loop that has ended.) */
static inline bool duet__work_ends_quietly(const struct duet__work *work, duet_result result)
{
    uint64_t word = duet__load_relaxed((_Atomic uint64_t *)&work->future.word); /* a look */
    return result.err == 0 && !work->drop && !work->future.drop_result && !work->began_in &&
           !work->parker.context && !duet__is_observed(&work->parker) &&
           !(word & DUET__FUTURE_CALLS);
}
void duet__work_fini_rarely(struct duet__work *work);
/* Once the last reference is gone: lets go of what it held; its block is to be freed. */
static inline void duet__work_fini(struct duet__work *work)
{
    if (work->began_in || work->parker.context || duet__is_observed(&work->parker))
        duet__work_fini_rarely(work);
}
/* The context in which the work of this future was started, or, if it has settled, which it had
 * last; NULL: the empty one, or it is no work's. */
duet_context *duet__work_context(const duet_future *f);
/* Runs the function, where it may wait as its parker can. The caller has set duet__here(). */
static inline duet_result duet__work_run(struct duet__work *work)
{
    duet_result result = work->fn(work->arg);
    duet__check(result.err <= 0, "a work's result.err is 0 or a negative errno");
    duet__parker_rests(&work->parker, 0);
    return result;
}
/* Drops the argument and settles. */
void duet__work_settle(struct duet__work *work, duet_result result);
/* Likewise, and lets go of the executor's reference: the work may be gone then. */
void duet__work_end(struct duet__work *work, duet_result result);
/* Likewise, of work that was never accepted, or (-ECANCELED) never started. */
void duet__work_refuse(struct duet__work *work, int err);
/* The future's way to cancel it. */
void duet__work_cancel(duet_future *f);
