/* Submitting with a deadline for the wait for room, for duet_call(). */
#pragma once
#include "task.h"

#include <duet/bridge.h>

/* Like duet_submit_with(), but waits for room until `by` at most. *ret_wait: 0, or how that wait
 * failed (-ETIME, -ECANCELED): then the handle is settled with -ECANCELED. */
duet_future *duet__loop_submit_by(duet_loop *loop, duet_fn *fn, void *arg, const duet_opts *opts,
                                  duet_deadline by, int *ret_wait);
/* The last step of it alone: hands the node of a new task or callback over to its loop, from
 * wherever we are. 0, -EAGAIN, -ESHUTDOWN; -ETIME, -ECANCELED of the wait for room: then it is
 * still the caller's. */
int duet__hand_over(duet_loop *loop, struct duet__node *node, bool refuse, duet_deadline by);
