/* duet/loop.h: one thread, one ring, many coroutines. A coroutine never changes thread. */
#pragma once
#include <duet/future.h>
#include <duet/receipt.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct duet_loop duet_loop;

enum duet_backend {
    DUET_BACKEND_AUTO,
    DUET_BACKEND_URING,
    DUET_BACKEND_EPOLL
};

/* Zero means default. */
typedef struct duet_loop_config {
    /* Copied; a thread of the loop's own carries it too. */
    const char *name;
    /* Virtual bytes of a coroutine's stack: 256 KiB. Rounded up to a power of two, and to 16 KiB
     * at least; more than 1 GiB is -EINVAL. */
    size_t stack_size;
    /* A further one settles with -EAGAIN. Default: memory is the limit. */
    unsigned coroutines_max;
    /* Submissions waiting: 16,384. */
    unsigned inbox_max;
    /* WAIT or REFUSE: a coroutine cannot run in the submitting thread. */
    enum duet_when_full when_full;
    /* 256; at most 32,768. */
    unsigned ring_entries;
    /* How long to look before sleeping; 0: adaptive; < 0: never. */
    int spin_us;
    /* Microseconds by which sleeps, deadlines and callbacks at a moment may be late where more than
     * a dozen of them fall into such a span, to be worth one wake-up of the loop together; a few are
     * punctual, and none is early. 0: 1000; < 0: each has a wake-up of its own. */
    int timer_slack_us;
    /* AUTO or URING; EPOLL is not in this version: -ENOTSUP. */
    enum duet_backend backend;
    /* Copied; see duet/hooks.h. NULL: none. */
    const struct duet_hooks *hooks;
    uintptr_t reserved[5]; /* zero */
} duet_loop_config;

/* [any] A loop that nobody runs yet; it accepts work already, which waits for the run. config,
 * copied, may be NULL. 0; -ENOMEM; -EMFILE, -ENFILE no descriptor for its eventfd; -EINVAL,
 * -ENOTSUP with a line in the log that names the field. Ends with duet_loop_close(). */
DUET_API int duet_loop_open(duet_loop **ret, const duet_loop_config *config);
/* [any] This thread becomes the loop's, once; returns when the loop was stopped and all its work
 * has ended: 0. Or why it cannot start, after a line in the log with the remedy: -EPERM io_uring
 * refused by sysctl or seccomp, -ENOSYS kernel without it, -ENOMEM locked memory, -EMFILE
 * descriptors; then work submitted before settles with -ECANCELED. -EALREADY: it runs or has run.
 * -EDEADLK: a loop runs on this thread. */
DUET_API int duet_loop_run(duet_loop *loop);
/* [any] Refuse new work (-ESHUTDOWN), cancel all, drain, let run return. Idempotent; does
 * not wait. */
DUET_API void duet_loop_stop(duet_loop *loop);
/* [any, waits] Stop, wait for the end, join its thread if it has one, let go. 0; -ETIME: what is
 * left is named in the log, and the loop lives on, still stopping: close again. -EDEADLK from its
 * own thread or a bare callback, or in a circle of waits: then it lives on likewise. Calls that
 * began before end with -ESHUTDOWN; who calls later holds a reference. */
DUET_API int duet_loop_close(duet_loop *loop, duet_deadline by);
/* [any, waits] The end of a loop, whatever its coroutines do. Refuses new submissions; lets what
 * is there end for half of the time (its coroutines may still spawn); then cancels it; at the
 * deadline leaves it behind. Always lets go of the loop, but for the errors named last. 0: nothing
 * is left. -ETIME: *ret lists what is, and so does the log; the loop turns on until that has
 * ended. ret as in duet_pool_shutdown(). -EDEADLK from its own thread or a bare callback, -EINVAL:
 * nothing was done. */
DUET_API int duet_loop_shutdown(duet_loop *loop, duet_deadline by, duet_receipt **ret);
/* [any] One more owner: its calls stay safe after the close, and give -ESHUTDOWN. */
DUET_API duet_loop *duet_loop_ref(duet_loop *loop);
/* [any] Let go of a reference from duet_loop_ref(). NULL is fine. */
DUET_API void duet_loop_unref(duet_loop *loop);
DUET_API duet_loop *duet_loop_self(void); /* [any] the loop that runs on this thread, or NULL */

/* A GUEST is a loop that does not run its thread but lives in a foreign event loop, its host:
 * GLib's, Qt's, libuv's, a bare epoll. The host waits for the loop's descriptor beside its own,
 * and gives the loop a turn when that is readable:
 *
 *     int fd;
 *     rc = duet_loop_attach(loop, &fd);          // this thread is the loop's now
 *     … the host polls fd for POLLIN, level-triggered, and then calls duet_loop_turn(loop) …
 *     duet_loop_stop(loop);                      // from any thread; the host goes on
 *     … until duet_loop_turn() returns -ESHUTDOWN: this thread is free again …
 *     duet_loop_close(loop, DUET_NEVER);
 *
 * Between the turns, what runs on this thread is a bare callback to duet: it may spawn and submit,
 * set and settle, but a wait that cannot be answered at once is -EDEADLK, since it would keep the
 * loop from ever answering it. What it sets in the context stays the thread's. The kernel may
 * interrupt a system call of the host's to complete an operation of the loop's: it then fails with
 * EINTR, as after a signal. The thread must not end before the loop has. */

/* [any] This thread becomes the loop's, as by duet_loop_run(), but the call returns, and the loop
 * turns only in duet_loop_turn(). 0 and *ret_fd, the loop's own, to be polled for POLLIN and never
 * read, written or closed: readable when there is something to do (a turn at the wrong time does no
 * harm). The errors of duet_loop_run(); -EDEADLK also in a coroutine, job or bare callback;
 * -EMFILE, -ENFILE, -ENOMEM: no descriptor for it. */
DUET_API int duet_loop_attach(duet_loop *loop, int *ret_fd);
/* [loop] One turn without waiting: what has come, what is due, what is ready, by the same measure
 * as a turn of duet_loop_run(). 1: there is more to do at once, and the descriptor is readable; 0:
 * there is nothing until it becomes readable; -ESHUTDOWN: it was stopped and all its work has
 * ended, this thread is its no more; the descriptor stays until duet_loop_close(), silent, so that
 * the host can forget it first; -EDEADLK: within a turn. Aborts on a thread that the loop is not
 * attached to. */
DUET_API int duet_loop_turn(duet_loop *loop);

/* [loop] Start a coroutine beside this one, in the loop's next turn. Aborts on any other thread.
 * Never waits. The handle settles with -EAGAIN above coroutines_max, -ESHUTDOWN once the loop
 * stops, -ENOMEM, -EINVAL. */
DUET_API duet_future *duet_spawn(duet_fn *fn, void *arg);
/* [loop] Likewise. opts, copied, may be NULL. */
DUET_API duet_future *duet_spawn_with(duet_fn *fn, void *arg, const duet_opts *opts);

DUET_API int duet_yield(void); /* [co] let the others run; 0 or -ECANCELED */

#ifdef __cplusplus
}
#endif
