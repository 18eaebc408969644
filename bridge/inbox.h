/* The bounded way into a loop: what submitting builds on. The port itself is in loop/port.h. */
#pragma once
#include "loop_impl.h"

/* By any thread: a place in the loop's inbox, which keeps the loop alive until duet__inbox_push(),
 * and is given back when the loop admits the node. Waits for a place until `by` where the loop's
 * configuration, `refuse` and the caller allow it. 0; -EAGAIN, -ESHUTDOWN; -ETIME, -ECANCELED,
 * -EDEADLK of the wait. */
int duet__inbox_enter(duet_loop *loop, bool refuse, duet_deadline by);
/* Hands the node over. 0, or -ESHUTDOWN: the loop has ended meanwhile, the node is still the
 * caller's. */
int duet__inbox_push(duet_loop *loop, struct duet__node *node);
