/* A piece of work: a function with its argument, its future, and the parker it sleeps on. Tasks and
 * jobs begin with one. */
#pragma once
#include "future_impl.h"

/* Owned like its future, which comes first; the executor's reference ends in duet__work_end(). */
struct duet__work {
    duet_future future;
    struct duet__parker parker;
    duet_fn *fn;
    void *arg;
    void (*drop)(void *arg);
};

/* 0, or the error of an unusable opts (may be NULL), with *ret_why what is wrong with it. */
int duet__opts_check(const duet_opts *opts, const char **ret_why);
/* Likewise, of a function with its opts. */
int duet__work_check(duet_fn *fn, const duet_opts *opts, const char **ret_why);
/* A block of `size` bytes with room for the name behind it; uninitialised but for the name, which
 * duet__work_init() finds. NULL: no memory. free() it. */
void *duet__work_alloc(size_t size, const duet_opts *opts);
/* With two references: the handle's and the executor's. parker_word as in duet__parker_init(). */
void duet__work_init(struct duet__work *work, size_t size, const struct duet__future_ops *ops,
                     const struct duet__parker_ops *parker_ops, uint32_t parker_word, duet_fn *fn,
                     void *arg, const duet_opts *opts);
/* Runs the function, where it may wait as its parker can. The caller has set duet__here(). */
duet_result duet__work_run(struct duet__work *work);
/* Drops the argument and settles. */
void duet__work_settle(struct duet__work *work, duet_result result);
/* Likewise, and lets go of the executor's reference: the work may be gone then. */
void duet__work_end(struct duet__work *work, duet_result result);
/* Likewise, of work that was never accepted, or (-ECANCELED) never started. */
void duet__work_refuse(struct duet__work *work, int err);
/* The future's way to cancel it. */
void duet__work_cancel(duet_future *f);
