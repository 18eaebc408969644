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

static bool is_usable(const duet_opts *opts)
{
    const uintptr_t *reserved = opts->reserved;
    return !(opts->flags & ~(uint32_t)FLAGS_KNOWN) && opts->priority <= PRIORITY_MOST &&
           opts->stack_size <= STACK_SIZE_MAX &&
           (reserved[0] | reserved[1] | reserved[2] | reserved[3]) == 0;
}

static const char *why_unusable(const duet_opts *opts)
{
    if (opts->flags & ~(uint32_t)FLAGS_KNOWN)
        return "duet_opts.flags has an unknown flag";
    if (opts->priority > PRIORITY_MOST)
        return "duet_opts.priority is 0 (normal) or 1 (urgent)";
    if (opts->stack_size > STACK_SIZE_MAX)
        return "duet_opts.stack_size is above 1 GiB";
    return "duet_opts.reserved is not zero: was the structure initialised?";
}

int duet__opts_check(const duet_opts *opts, const char **ret_why)
{
    if (!opts || is_usable(opts))
        return 0;
    *ret_why = why_unusable(opts);
    return -EINVAL;
}

int duet__work_check_closely(duet_fn *fn, const duet_opts *opts, const char **ret_why)
{
    if (fn)
        return duet__opts_check(opts, ret_why);
    *ret_why = "fn is NULL: there is nothing to run";
    return -EINVAL;
}

/* What few works have: a context, hooks, a name. The block: the work, what hooks need, the name. */
void duet__work_init_rarely(struct duet__work *work, size_t size, struct duet__hooks *hooks,
                            const duet_opts *opts)
{
    char *behind = (char *)work + size;
    work->parker.context = duet__context_inherit();
    work->began_in = duet__context_inherit();
    if (opts && opts->name)
        work->future.name = behind + duet__observed_size(hooks);
    if (hooks) {
        duet__observe((void *)behind, hooks, &work->future);
        work->parker.observed = (void *)behind;
    }
}

void duet__work_fini_rarely(struct duet__work *work)
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
