/* Running into a stack's guard is a message that names the coroutine, and then the signal that it
 * is. */
#pragma once

/* This thread switches stacks from now on: gives it an alternate signal stack if it has none, and
 * watches SIGSEGV and SIGBUS for the process. Handlers that were there before are called after
 * ours. 0 or -ENOMEM. */
int duet__overflow_watch(void);
/* It does no more: what was there before is there again. Pairs with a watch on the same thread. */
void duet__overflow_unwatch(void);
