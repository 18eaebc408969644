/* Submitting with a deadline for the wait for room, for duet_call(). */
#pragma once
#include "loop_impl.h"

#include <duet/bridge.h>

/* Like duet_submit_with(), but waits for room until `by` at most. *ret_wait: 0, or how that wait
 * failed (-ETIME, -ECANCELED, -EDEADLK): then the handle is settled with -EDEADLK or -ECANCELED. */
duet_future *duet__loop_submit_by(duet_loop *loop, duet_fn *fn, void *arg, const duet_opts *opts,
                                  duet_deadline by, int *ret_wait);
/* The last step of it alone: hands a new task over to its loop, from wherever we are. opts may be
 * NULL. 0, -EAGAIN, -ESHUTDOWN; -ETIME, -ECANCELED, -EDEADLK of the wait for room: then it is still
 * the caller's. */
int duet__hand_over(duet_loop *loop, struct duet__task *task, const duet_opts *opts, bool refuse,
                    duet_deadline by);
