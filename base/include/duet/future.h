/* duet/future.h: the result of one piece of work, wherever it runs.
 *
 * A handle has one owner, who closes or unrefs it once; the work holds a reference of its own.
 * Whoever starts work always gets a handle, never NULL: where it could not start, the handle is
 * settled already with -ENOMEM, -EAGAIN, -ESHUTDOWN or -EINVAL, and the argument was dropped. The
 * return value of a wait speaks of the wait; the duet_result speaks of the work. The future owns a
 * DUET_PTR result until the last unref, unless one caller takes it: any number may look, one may
 * take. A failure that nobody looked at (by a wait that returned 0, result, take, gather or a
 * group's wait) is reported once, by name; a cancellation never is. */
#pragma once
#include <duet/base.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct duet_future duet_future;

/* [any, waits] 0: settled and *ret is the work's result. <0 speaks of this wait only: -ETIME the
 * deadline passed (the work goes on), -ECANCELED the waiter was cancelled, -EDEADLK this wait
 * could never end (for oneself, in a circle of waits, or in a bare callback). ret may be NULL. A
 * settled future gives its result whatever the deadline and whoever was cancelled. */
DUET_API int duet_future_wait(duet_future *f, duet_deadline by, duet_result *ret);

enum duet_until {
    DUET_UNTIL_ALL,
    DUET_UNTIL_ANY,
    DUET_UNTIL_FAILURE
};
/* [any, waits] Wait for several. 0, or as above; -ENOMEM for a very long list. *ret_index (may be
 * NULL): the first that settled (ANY) or failed (FAILURE); n if none. n = 0: 0 for ALL and FAILURE,
 * -EINVAL for ANY. For ALL it is n; after an error it is not written. A cancelled work counts as
 * failed. */
DUET_API int duet_future_wait_many(duet_future *const *fs, size_t n, enum duet_until until,
                                   duet_deadline by, size_t *ret_index);
/* [any, waits] Wait for all; results in the order of fs (results may be NULL; written only on 0).
 * 0, or as above. Cancelling the gathering coroutine leaves the work alone. */
DUET_API int duet_gather(duet_future *const *fs, size_t n, duet_deadline by, duet_result *results);

DUET_API bool duet_future_settled(const duet_future *f); /* [any] true: the result is visible */
DUET_API duet_result duet_future_result(const duet_future *f); /* [any] a look; aborts if pending */
/* [any] 0 once: the value is the caller's now. -EALREADY somebody else took it; -EAGAIN pending. */
DUET_API int duet_future_take(duet_future *f, duet_result *ret);
/* [any] Ask the work to end; idempotent, does not wait. What has not started never will. A promise
 * settles with -ECANCELED. No effect on a settled future. */
DUET_API void duet_future_cancel(duet_future *f);
/* [any, waits] Cancel, wait for the end, take, let go. 0 and *ret is the result; with ret NULL a
 * DUET_PTR goes to drop_result. -EALREADY: somebody else has taken the value, *ret is a look at it;
 * let go all the same. -EDEADLK from the work itself or a bare callback while it is pending: the
 * handle stays the caller's. */
DUET_API int duet_future_close(duet_future *f, duet_result *ret);

enum duet_ended {
    DUET_FINISHED, /* it ended with a result, be it a failure; also if it was asked to end before */
    DUET_CANCELLED, /* it was asked to end, has run its clean-up, and settled with -ECANCELED */
    DUET_ABANDONED, /* it did not end in time and was left behind: it goes on */
};
/* [any, waits] Wait until `by`, then cancel and wait for up to grace_ns nanoseconds more (0 or
 * less: no time), then leave; lets go of the handle, and says which of these happened (enum
 * duet_ended): *ret is the result, taken (with ret NULL a DUET_PTR goes to drop_result; if
 * somebody else has taken it, a look), or -ETIME if it was abandoned. Cancelling the caller ends
 * the first wait early. An abandoned job is named in the log, counted in its pool's statistics and
 * keeps its worker until it really ends; its late result goes to drop_result. Since the work may
 * outlive this call, its argument must too: give it a drop. <0: the handle stays the caller's:
 * -EDEADLK from the work itself or a bare callback while it is pending; -EINVAL f is NULL. */
DUET_API int duet_future_end(duet_future *f, duet_deadline by, int64_t grace_ns, duet_result *ret);
DUET_API duet_future *duet_future_ref(duet_future *f); /* [any] one more owner */
DUET_API void duet_future_unref(duet_future *f); /* [any] let go; the work goes on; NULL is fine */

/* A future settled by hand: a promise. One that all let go while it is pending settles with
 * -ECANCELED. Waiting for one is a deadlock only if nobody can settle it any more: when all threads
 * of the process rest or sleep in waits of duet without a deadline that only each other could end,
 * or as DUET_SETTLER_HOLDS says. */
DUET_API int duet_future_open(duet_future **ret); /* [any] 0 or -ENOMEM */
/* [any] 0, -ENOMEM, -EINVAL. Of opts (may be NULL), name, drop_result and DUET_SETTLER_HOLDS
 * count. */
DUET_API int duet_future_open_with(duet_future **ret, const duet_opts *opts);
/* [any] 0; -EALREADY settled before; -EINVAL for a work's own future or a positive result.err.
 * After an error a DUET_PTR in result is still the caller's. Wakes all who wait; callbacks run
 * later, each on its loop. */
DUET_API int duet_future_settle(duet_future *f, duet_result result);

#ifdef __cplusplus
}
#endif
