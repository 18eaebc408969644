#include "work.h"
#include "check.h"

#include <errno.h>

/* What an opts may hold. */
enum {
    FLAGS_KNOWN = DUET_AT_ONCE | DUET_INTERRUPT | DUET_KEEP_SLOT | DUET_REFUSE |
                  DUET_SETTLER_HOLDS | DUET_SIGINT,
    PRIORITY_MOST = 1,
    STACK_SIZE_MAX = 1 << 30
};

int duet__opts_check(const duet_opts *opts, const char **ret_why)
{
    if (!opts)
        return 0;
    *ret_why = NULL;
    if (opts->flags & ~(uint32_t)FLAGS_KNOWN)
        *ret_why = "duet_opts.flags has an unknown flag";
    else if (opts->priority > PRIORITY_MOST)
        *ret_why = "duet_opts.priority is 0 (normal) or 1 (urgent)";
    else if (opts->stack_size > STACK_SIZE_MAX)
        *ret_why = "duet_opts.stack_size is above 1 GiB";
    else if (!duet__reserved_unused(opts->reserved, sizeof opts->reserved / sizeof(uintptr_t)))
        *ret_why = "duet_opts.reserved is not zero: was the structure initialised?";
    return *ret_why ? -EINVAL : 0;
}

int duet__work_check(duet_fn *fn, const duet_opts *opts, const char **ret_why)
{
    if (fn)
        return duet__opts_check(opts, ret_why);
    *ret_why = "fn is NULL: there is nothing to run";
    return -EINVAL;
}

/* The block: the work, what hooks need, the name. */
void *duet__work_alloc(size_t size, const struct duet__hooks *hooks, const duet_opts *opts)
{
    return duet__future_alloc(size + duet__observed_size(hooks), opts);
}

void duet__work_init(struct duet__work *work, size_t size, struct duet__hooks *hooks,
                     const struct duet__future_ops *ops, const struct duet__parker_ops *parker_ops,
                     duet_fn *fn, void *arg, const duet_opts *opts)
{
    struct duet__observed *observed = hooks ? (void *)((char *)work + size) : NULL;
    duet__future_init(&work->future, ops, opts, 2);
    if (opts && opts->name)
        work->future.name = (const char *)work + size + duet__observed_size(hooks);
    duet__parker_init(&work->parker, parker_ops, &work->future, DUET__PARK_SLEEPING);
    work->parker.context = duet__context_inherit();
    work->began_in = duet__context_inherit();
    if (observed)
        duet__observe(observed, hooks, &work->future);
    work->parker.observed = observed;
    work->fn = fn;
    work->arg = arg;
    work->drop = opts ? opts->drop : NULL;
}

void duet__work_fini(struct duet__work *work)
{
    duet__context_drop(work->parker.context);
    duet__context_drop(work->began_in);
    if (duet__is_observed(&work->parker))
        duet__hooks_unref(work->parker.observed->hooks);
}

duet_context *duet__work_context(const duet_future *f)
{
    if (!f->ops->is_work)
        return NULL;
    const struct duet__work *work = duet__container(f, const struct duet__work, future);
    return duet__future_is_settled(f) ? work->parker.context : work->began_in;
}

duet_result duet__work_run(struct duet__work *work)
{
    duet_result result = work->fn(work->arg);
    duet__check(result.err <= 0, "a work's result.err is 0 or a negative errno");
    duet__parker_rests(&work->parker, 0);
    return result;
}

static DUET__COLD void settle_observed(struct duet__work *work, duet_result result,
                                       uint32_t also_state, unsigned refs)
{
    duet__tell_settled(&work->parker, result);
    uint64_t before = duet__acting_set(work->parker.observed->id);
    duet__future_finish(&work->future, result, also_state, refs);
    duet__acting_set(before);
}

/* Whoever has a work is the only one to settle it. */
static void settle(struct duet__work *work, duet_result result, uint32_t also_state, unsigned refs)
{
    if (work->drop)
        duet__call_bare_in(work->parker.context, work->drop, work->arg);
    if (duet__is_observed(&work->parker))
        settle_observed(work, result, also_state, refs);
    else
        duet__future_finish(&work->future, result, also_state, refs);
}

void duet__work_settle(struct duet__work *work, duet_result result)
{
    settle(work, result, 0, 0);
}

void duet__work_end(struct duet__work *work, duet_result result)
{
    settle(work, result, 0, 1);
}

void duet__work_refuse(struct duet__work *work, int err)
{
    settle(work, duet_err(err), err == -ECANCELED ? 0 : (uint32_t)DUET__FUTURE_REFUSED, 1);
}

void duet__work_cancel(duet_future *f)
{
    duet__park_cancel(&duet__container(f, struct duet__work, future)->parker);
}
