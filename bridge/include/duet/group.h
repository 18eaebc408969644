/* duet/group.h: structured concurrency: nothing outlives its group. */
#pragma once
#include <duet/loop.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Owned by whoever declared it, until duet_group_close() has returned. A zeroed one is ready. */
typedef struct duet_group {
    void *_private[8];
} duet_group;
/* clang-format off */
#define DUET_GROUP_INIT { { 0 } }
/* clang-format on */

/* [any, waits] Start fn as a coroutine on loop (NULL: the caller's) inside the group; its result is
 * only looked at for failure, and what has ended is let go at once, so a group may live as long as
 * a server. 0; -ECANCELED once the group was cancelled or a child failed; the errors with which
 * duet_submit() can settle at once. After an error arg was dropped, and the group is as before. */
DUET_API int duet_group_spawn(duet_group *group, duet_loop *loop, duet_fn *fn, void *arg,
                              const duet_opts *opts);
/* [any] The group owns f from here on; returns it, borrowed until the group is closed. Into a
 * cancelled group: f is cancelled at once. A future is in one group at most: else it aborts. Cannot
 * fail. */
DUET_API duet_future *duet_group_add(duet_group *group, duet_future *f);
/* [any] Cancel what is in it and what comes; no failure by itself; idempotent. */
DUET_API void duet_group_cancel(duet_group *group);
/* [any, waits] 0: all have settled and *ret_failure (may be NULL) is the first failure, or
 * duet_ok(). A failure cancels the rest; a child that was cancelled alone is no failure. <0 speaks
 * of this wait: -ETIME, -ECANCELED, -EDEADLK from a child or a bare callback. */
DUET_API int duet_group_wait(duet_group *group, duet_deadline by, duet_result *ret_failure);
/* [any, waits] By the owner, when nobody else waits for the group or adds to it any more: cancel,
 * wait for all, release; it may be used anew. 0; -EDEADLK from a child or a bare callback. A
 * failure that no wait has returned is reported in the log. */
DUET_API int duet_group_close(duet_group *group);

#ifdef __cplusplus
}
#endif
