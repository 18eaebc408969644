/* duet/bridge.h: where loop and pool meet, and any thread enters. */
#pragma once
#include <duet/loop.h>
#include <duet/pool.h>

#ifdef __cplusplus
extern "C" {
#endif

/* [any, waits] A loop on this thread until fn, its main coroutine, has ended; then what is left on
 * it is cancelled and waited for. 0 and *ret (may be NULL) is fn's result; the errors of
 * duet_loop_open() and duet_loop_run(): then fn did not run. -EDEADLK: a loop runs on this thread
 * already. */
DUET_API int duet_run(duet_fn *fn, void *arg, duet_result *ret);
/* [any, waits] Likewise. opts, copied, may be NULL: name, drop, stack_size, and DUET_SIGINT: the
 * first SIGINT cancels fn, the second ends the process as if nothing had caught it; what SIGINT
 * did before is restored at the end, and left alone where it was ignored. -EBUSY: the program has
 * its own handler for SIGINT, or another such run goes on; then fn did not run. */
DUET_API int duet_run_with(duet_fn *fn, void *arg, const duet_opts *opts, duet_result *ret);
/* [any] A loop on a thread of its own, which blocks all signals but the synchronous ones; returns
 * when it turns. config, copied, may be NULL. 0; the errors of duet_loop_open() and
 * duet_loop_run(); -EAGAIN no thread; -ESHUTDOWN duet_shutdown() was faster. Ends with
 * duet_loop_close(). */
DUET_API int duet_loop_start(duet_loop **ret, const duet_loop_config *config);

/* [any, waits] Run fn as a coroutine on loop; what one thread submits starts in that order. Waits
 * only for room in a full inbox whose when_full says so; on the loop's own thread never. The handle
 * settles at once with -EAGAIN (full), -ESHUTDOWN (stopping or stopped), -ECANCELED (cancelled
 * while waiting for room), -EDEADLK (so full, and nobody is left to run the loop), -ENOMEM or
 * -EINVAL. */
DUET_API duet_future *duet_submit(duet_loop *loop, duet_fn *fn, void *arg);
/* [any, waits] Likewise. opts, copied, may be NULL. */
DUET_API duet_future *duet_submit_with(duet_loop *loop, duet_fn *fn, void *arg,
                                       const duet_opts *opts);

/* [any, waits] Submit, wait, take. At the deadline, or when the caller is cancelled, it cancels fn
 * and returns only after fn has ended, so that arg may live on the caller's stack: -ETIME or
 * -ECANCELED if fn then ended with -ECANCELED, else 0 and its result. With a deadline in the past
 * fn never starts. A refused submission is 0 with ret->err = -ESHUTDOWN, -EAGAIN, -ENOMEM or
 * -EINVAL. -EDEADLK in a bare callback, or in a circle of waits: then fn was cancelled and has
 * ended, as at the deadline. *ret is always written, if given; a DUET_PTR in it is the caller's.
 * Who ignores its cancellation makes it late; where that must not be, submit with drop, wait, and
 * unref. */
DUET_API int duet_call(duet_loop *loop, duet_fn *fn, void *arg, duet_deadline by, duet_result *ret);
/* [any, waits] Likewise. opts, copied, may be NULL. */
DUET_API int duet_call_with(duet_loop *loop, duet_fn *fn, void *arg, const duet_opts *opts,
                            duet_deadline by, duet_result *ret);
/* [any, waits] The same towards a pool; pool NULL is the process's default pool. */
DUET_API int duet_offload(duet_pool *pool, duet_fn *fn, void *arg, duet_deadline by,
                          duet_result *ret);
/* [any, waits] Likewise. opts, copied, may be NULL. */
DUET_API int duet_offload_with(duet_pool *pool, duet_fn *fn, void *arg, const duet_opts *opts,
                               duet_deadline by, duet_result *ret);

/* [any] fn(arg) in the loop's next turn, FIFO per thread. 0, -EAGAIN inbox full, -ESHUTDOWN,
 * -ENOMEM, -EINVAL; never waits. After an error arg is still the caller's. */
DUET_API int duet_call_soon(duet_loop *loop, duet_callback *fn, void *arg);
/* [any] Likewise; runs drop(arg), on the thread that ends the loop, instead of fn if the loop ends
 * first. */
DUET_API int duet_call_soon_with(duet_loop *loop, duet_callback *fn, void *arg,
                                 duet_callback *drop);
/* [any] fn(arg) at a moment, never early. The future settles when it has run; cancelling it before
 * then means it never does. Never waits: settles at once with -EAGAIN inbox full, -ESHUTDOWN,
 * -ENOMEM, -EINVAL. */
DUET_API duet_future *duet_call_at(duet_loop *loop, duet_deadline at, duet_callback *fn, void *arg);
/* [any] The process's own pool: opened at first use, closed at exit, when its queued jobs are
 * cancelled and the running ones get two seconds to end. NULL: it could not be opened; the log says
 * why. Not the caller's to close. */
DUET_API duet_pool *duet_pool_default(void);

/* [any, waits] The end of all loops and pools of the process, whatever runs there, the default pool
 * included: refuses, lets what was accepted end for half of the time, the loops' work first, then
 * cancels, and at the deadline leaves the rest behind. The handles of loops and pools stay their
 * owners', who close them as ever; the default pool is opened anew when it is needed again. 0, or
 * -ETIME and *ret lists what is left, as in duet_pool_shutdown(). -EDEADLK from a coroutine, a job
 * or a bare callback: nothing was done. */
DUET_API int duet_shutdown(duet_deadline by, duet_receipt **ret);

/* [any] fn(arg) runs once on loop's thread, in a later turn, after f has settled; also if it has
 * settled already; drop(arg), if given, runs instead if the loop ends first, on the thread that
 * settles f. Callbacks of one future on one loop run in the order in which they were added. 0,
 * -ENOMEM, -ESHUTDOWN, -EINVAL: after an error arg is still the caller's. A callback that still
 * waits for its future keeps the loop's memory, not the loop. */
DUET_API int duet_future_then(duet_future *f, duet_loop *loop, duet_callback *fn, void *arg,
                              duet_callback *drop);
/* [any] Takes a callback back: the first with this fn and arg. True: it will not run, nor its drop.
 * False: f has settled (it runs, or has run), or there is no such callback. */
DUET_API bool duet_future_forget(duet_future *f, duet_callback *fn, void *arg);

#ifdef __cplusplus
}
#endif
