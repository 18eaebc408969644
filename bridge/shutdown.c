/* The end of the whole runtime: all loops and pools of the process, by one deadline. */
#include "alloc.h"
#include "check.h"
#include "loop_impl.h"
#include "pool_impl.h"
#include "receipt.h"
#include "runtime.h"

#include <duet/bridge.h>

#include <errno.h>

/* All that there was when the shutdown began, held. */
struct runtime {
    duet_loop **loops;
    duet_pool **pools;
    struct duet__listing **asked; /* for each loop: what is left there; NULL: it is not asked */
    size_t loop_count, pool_count;
};

static int runtime_hold(struct runtime *runtime)
{
    runtime->loops = duet__loop_ref_all(&runtime->loop_count);
    runtime->pools = duet__pool_hold_all(&runtime->pool_count);
    runtime->asked = duet__alloc_zeroed(runtime->loop_count + 1, sizeof *runtime->asked);
    bool failed = (!runtime->loops && runtime->loop_count > 0) ||
                  (!runtime->pools && runtime->pool_count > 0) || !runtime->asked;
    if (!runtime->loops)
        runtime->loop_count = 0;
    if (!runtime->pools)
        runtime->pool_count = 0;
    return failed ? -ENOMEM : 0;
}

static void runtime_release(struct runtime *runtime)
{
    for (size_t i = 0; i < runtime->loop_count; i++)
        duet_loop_unref(runtime->loops[i]);
    for (size_t i = 0; i < runtime->pool_count; i++)
        duet__pool_release(runtime->pools[i]);
    duet__free(runtime->asked);
    duet__free(runtime->loops);
    duet__free(runtime->pools);
}

/* What was accepted may end by itself: the loops' work first, which may still use the pools. */
static void drain(struct runtime *runtime, duet_deadline by)
{
    for (size_t i = 0; i < runtime->loop_count; i++)
        duet__loop_drain(runtime->loops[i]);
    for (size_t i = 0; i < runtime->loop_count; i++)
        duet__loop_await_end(runtime->loops[i], by);
    for (size_t i = 0; i < runtime->pool_count; i++)
        duet__pool_refuse(runtime->pools[i]);
    for (size_t i = 0; i < runtime->pool_count; i++)
        duet__pool_await_empty(runtime->pools[i], by);
}

static void cancel(struct runtime *runtime)
{
    for (size_t i = 0; i < runtime->loop_count; i++)
        duet_loop_stop(runtime->loops[i]);
    for (size_t i = 0; i < runtime->pool_count; i++)
        duet__pool_cancel(runtime->pools[i]);
}

/* All of them are asked before the first is waited for: so many that are held up take no longer than
 * one. -ETIME: some is left, and listed. */
static int await_loops(struct runtime *runtime, duet_deadline by, duet_receipt *left)
{
    int rc = 0;
    for (size_t i = 0; i < runtime->loop_count; i++)
        if (duet__loop_await_end(runtime->loops[i], by) < 0)
            runtime->asked[i] = duet__loop_ask_left(runtime->loops[i]);
    duet_deadline report = duet_ms(DUET__REPORT_WAIT_MS);
    for (size_t i = 0; i < runtime->loop_count; i++) {
        bool has_ended = !runtime->asked[i] && duet__future_is_settled(&runtime->loops[i]->end);
        if (!has_ended &&
            duet__loop_list_left(runtime->loops[i], runtime->asked[i], report, left) < 0)
            rc = -ETIME;
    }
    return rc;
}

/* Likewise. */
static int await_pools(struct runtime *runtime, duet_deadline by, duet_receipt *left)
{
    int rc = 0;
    for (size_t i = 0; i < runtime->pool_count; i++) {
        duet__own_pool_forget(runtime->pools[i]);
        if (duet__pool_await_empty(runtime->pools[i], by) < 0 &&
            duet__pool_list_left(runtime->pools[i], left) < 0) {
            duet__pool_dismiss(runtime->pools[i]);
            rc = -ETIME;
        } else {
            duet__pool_leave(runtime->pools[i]);
        }
    }
    return rc;
}

static int await_end(struct runtime *runtime, duet_deadline by, duet_receipt *left)
{
    int rc = await_loops(runtime, by, left);
    int pools_rc = await_pools(runtime, by, left);
    return rc < 0 ? rc : pools_rc;
}

int duet_shutdown(duet_deadline by, duet_receipt **ret)
{
    struct duet__parker *here = duet__here();
    struct runtime runtime;
    duet_receipt left = {0};
    if (here->work || here->outer || !here->ops->may_wait)
        return -EDEADLK;
    int rc = runtime_hold(&runtime);
    if (rc == 0) {
        drain(&runtime, duet__half_way(by));
        cancel(&runtime);
        rc = await_end(&runtime, by, &left);
        rc = duet__receipt_end(&left, rc, ret);
    }
    runtime_release(&runtime);
    return rc;
}
