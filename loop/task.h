/* A task: a coroutine, its parker and its future in one. Also, without a stack, a callback at a
 * moment: a task that is born asleep until then. */
#pragma once
#include "co/stack.h"
#include "mpsc.h"
#include "timers.h"
#include "work.h"

#include <duet/loop.h>

/* Owned like its work: by the loop until it ends, by handles until they let go. All but the work
 * belongs to the loop's thread, once the node has been handed over to it. The node is either with
 * the port, or in the run queue, or nowhere: whoever wakes a task has cleared SLEEPING and so is
 * the only one to queue it.
 *
 * A task is born asleep: SLEEPING says "on its way to the loop, nobody's yet". The loop clears it
 * to start the task, a canceller to settle it on the spot; then the loop finds it claimed and only
 * lets go. */
struct duet__task {
    struct duet__work work; /* first */
    struct duet__node node;
    struct duet__timer timer;
    duet_loop *loop;
    struct duet__list live; /* in the loop's list from its start to its end */
    union {
        struct duet__stack *stack; /* from its start to its end */
        int64_t at_ns; /* of a callback: its moment */
    };
    _Atomic int64_t since_ns; /* when it started; relaxed */
    uint32_t stack_size; /* 0: the loop's */
    bool started; /* written by the loop while the task is not asleep */
    bool passes; /* of an observed one: it stands aside, and waits for nothing */
};
_Static_assert(_Alignof(struct duet__task) <= DUET__BLOCK_ALIGN, "a task fits into any block");

/* A task that is not handed over yet, and that the hooks know; its opts are good. NULL: no memory. */
struct duet__task *duet__task_new(duet_loop *loop, duet_fn *fn, void *arg, const duet_opts *opts);
struct duet__task *duet__task_new_moment(duet_loop *loop, int64_t at_ns, duet_callback *fn,
                                         void *arg);
/* Hands a new task over to its loop, which runs here; if its opts (may be NULL) and who runs here
 * say so, it has run already when this returns. 0, or of a callback at a moment: why it cannot. */
int duet__task_ready(struct duet__task *task, const duet_opts *opts);
/* Of a node that will run soon: if it is a task that starts then, the rest of it is fetched. */
void duet__task_fetch(const struct duet__node *node);
/* The coroutine that runs here; NULL: something else does. */
struct duet__task *duet__task_here(void);
/* Is this a coroutine of this loop? */
bool duet__task_is_of_loop(const duet_future *work, const void *loop);
/* These timers of a loop are due. */
void duet__tasks_due(struct duet__timer *const due[], size_t count);
/* The body of every stack: one task after another. */
void duet__task_stack_main(void *stack);
