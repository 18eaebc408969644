/* Submit, wait, take: towards a loop and towards a pool, the same. */
#include "check.h"
#include "context.h"
#include "future_impl.h"
#include "pool_impl.h"
#include "submit.h"

#include <errno.h>

/* How both begin: 0, or why fn never starts; then its argument is dropped. ret may be NULL, here
 * and below. */
static int call_begin(void *arg, const duet_opts *opts, duet_deadline by, duet_result *ret)
{
    struct duet__parker *here = duet__here();
    int rc = duet__wait_begin(here, by, here->shields > 0);
    if (rc == 0)
        return 0;
    duet__told(rc);
    if (ret)
        *ret = duet_err(rc == -EDEADLK ? rc : -ECANCELED);
    if (opts && opts->drop)
        duet__call_bare(opts->drop, arg);
    return rc;
}

/* How both end: with the work's result, or with -ECANCELED after it was cancelled and has ended. */
static int call_finish(duet_future *f, int rc, duet_deadline by, duet_result *ret)
{
    if (rc == 0)
        rc = duet_future_wait(f, by, NULL);
    if (rc < 0) {
        duet_future_cancel(f);
        duet__future_wait(f, DUET_NEVER,
                          DUET__WAIT_ENDS); /* ends ownership: arg is the caller's again */
    }
    duet_result result = duet_future_result(f);
    if (ret) /* else a DUET_PTR stays, and is dropped with the future */
        duet_future_take(f, ret);
    duet_future_unref(f);
    bool never = rc == -EDEADLK && result.err == rc; /* so would the wait for room have been */
    return result.err == -ECANCELED || never ? duet__told(rc) : 0;
}

int duet_call_with(duet_loop *loop, duet_fn *fn, void *arg, const duet_opts *opts, duet_deadline by,
                   duet_result *ret)
{
    int rc = call_begin(arg, opts, by, ret);
    if (rc < 0)
        return rc;
    duet_future *f = loop ? duet__loop_submit_by(loop, fn, arg, opts, by, &rc)
                          : duet__future_refused(-EINVAL, "duet_call: loop is NULL", arg, opts);
    return call_finish(f, rc, by, ret);
}

int duet_call(duet_loop *loop, duet_fn *fn, void *arg, duet_deadline by, duet_result *ret)
{
    return duet_call_with(loop, fn, arg, NULL, by, ret);
}

int duet_offload_with(duet_pool *pool, duet_fn *fn, void *arg, const duet_opts *opts,
                      duet_deadline by, duet_result *ret)
{
    int rc = call_begin(arg, opts, by, ret);
    if (rc < 0)
        return rc;
    pool = pool ? pool : duet_pool_default();
    duet_future *f = pool ? duet__pool_submit_by(pool, fn, arg, opts, by, &rc)
                          : duet__future_refused(-EAGAIN, NULL, arg, opts);
    return call_finish(f, rc, by, ret);
}

int duet_offload(duet_pool *pool, duet_fn *fn, void *arg, duet_deadline by, duet_result *ret)
{
    return duet_offload_with(pool, fn, arg, NULL, by, ret);
}
