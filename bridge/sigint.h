/* SIGINT for the main coroutine of a duet_run_with(). */
#pragma once
#include "loop_impl.h"

/* Owned by that run, on its stack. */
struct duet__sigint {
    struct duet__node node; /* posted by the first signal, from within the handler */
    duet_loop *loop;
    bool ignored; /* SIGINT was: then it is left alone */
};

/* Takes SIGINT over for a loop whose `main` is set before it runs. 0, or -EBUSY: it is not to be
 * had. */
int duet__sigint_begin(struct duet__sigint *sigint, duet_loop *loop);
/* When the loop has ended: what was set before is set again, and no handler touches it any more. */
void duet__sigint_end(struct duet__sigint *sigint);
