/* duet/pool.h: worker threads for work that blocks. */
#pragma once
#include <duet/future.h>
#include <duet/receipt.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct duet_pool duet_pool;

/* Zero means default. */
typedef struct duet_pool_config {
    /* Copied; worker i is the thread "duet-w/NAME-i". */
    const char *name;
    /* Threads come with work, up to workers_max (default: processors + 4, at most 1,024), and
     * leave when they have had none for idle_ns, down to workers_min (default: none), which are
     * started with the pool. workers_max is also how many jobs run at once, those not counted that
     * wait. A pool of one worker is no lock: while a job waits in duet, the next one runs. Where
     * it must not, give all jobs of that pool DUET_KEEP_SLOT, or better use a lock. */
    unsigned workers_min, workers_max;
    /* Jobs waiting: 16,384. */
    unsigned queue_max;
    /* Wait for room, settle with -EAGAIN, or run in the calling thread (never on a loop's). Who
     * waits gets a place in turn; others who come meanwhile may get theirs before. */
    enum duet_when_full when_full;
    /* Workers more, beside those whose jobs wait in duet calls: 64; at most 1,024. A job that
     * waits does not count: a further one starts in its place while fewer than workers_max run. */
    unsigned spares_max;
    /* How long a worker above workers_min stays without work: 10 s; < 0: for ever. */
    int64_t idle_ns;
    /* Bytes, of a worker's thread: the system's default; at most 1 GiB. */
    size_t stack_size;
    /* Copied; see duet/hooks.h. NULL: none. */
    const struct duet_hooks *hooks;
    /* Of workers_max, so many only ever run urgent jobs (duet_opts.priority 1); less than
     * workers_max. */
    unsigned workers_reserved;
    uintptr_t reserved[6]; /* zero */
} duet_pool_config;

typedef struct duet_pool_stats {
    /* Now: threads; jobs that have started and not ended; of those, waiting in a duet call with
     * their slot lent; of those, left behind by duet_future_end(). */
    unsigned workers, busy, blocked_in_wait, abandoned;
    /* Now: jobs not started. Since it was opened: jobs accepted; ended, having run; cancelled
     * before they ran; refused. */
    uint64_t queued, submitted, completed, cancelled, refused;
    /* Now: of the queued ones, the urgent. Since it was opened: the most threads at one time,
     * threads started, and threads that the system refused. */
    uint64_t urgent, workers_peak, threads_started, threads_refused;
    uintptr_t reserved[4];
} duet_pool_stats;

/* [any] config, copied, may be NULL. 0; -ENOMEM; -EAGAIN one of the workers_min threads could not
 * be started (the log names the limit); -EINVAL, -ENOTSUP with a line in the log that names the
 * field. Its threads block all signals but the synchronous ones and SIGPROF. Ends with
 * duet_pool_close(). */
DUET_API int duet_pool_open(duet_pool **ret, const duet_pool_config *config);
/* [any, waits] Run fn on a worker, first in first out; urgent jobs pass normal ones, but no more
 * than seven in a row while a normal one could start. Waits for room only if the pool is full and
 * when_full says so. The handle settles at once with -EAGAIN (full; or no thread can be started
 * and there is no worker that could come to it), -ESHUTDOWN (draining or closing), -ECANCELED
 * (cancelled while waiting for room), -EDEADLK (so would that wait never end), -ENOMEM or -EINVAL.
 * Cancelling a queued job removes it: it never runs. Cancelling a running one makes its waits
 * fail, and, with DUET_INTERRUPT, a system call that it blocks in. */
DUET_API duet_future *duet_pool_submit(duet_pool *pool, duet_fn *fn, void *arg);
/* [any, waits] Likewise. opts, copied, may be NULL. */
DUET_API duet_future *duet_pool_submit_with(duet_pool *pool, duet_fn *fn, void *arg,
                                            const duet_opts *opts);
DUET_API void duet_pool_stats_get(const duet_pool *pool, duet_pool_stats *ret); /* [any] */
/* [any] The signal of DUET_INTERRUPT, for the whole process: a real-time one, by default SIGRTMAX
 * - 5. 0; -EINVAL not a real-time signal; -EBUSY the program has a handler for it, or another one
 * is in use already. Call it before the first such job. */
DUET_API int duet_interrupt_signal_set(int signo);
/* [any, waits] Refuse new jobs, run the queued ones, and return when all have ended: 0. At the
 * deadline cancel what is left and return -ETIME; *ret_left, if given, is how many jobs still run,
 * each named in the log. -ECANCELED: the caller was cancelled, the jobs are not. -EDEADLK from one
 * of its own jobs or a bare callback. */
DUET_API int duet_pool_drain(duet_pool *pool, duet_deadline by, unsigned *ret_left);
/* [any, waits] Refuse new jobs, cancel the queued, ask the running, wait for them, join the
 * workers, free. 0; -ETIME: what is left is named in the log and the pool lives on, closing: close
 * again; -EDEADLK from one of its own jobs or a bare callback, or in a circle of waits: then it
 * lives on likewise. */
DUET_API int duet_pool_close(duet_pool *pool, duet_deadline by);
/* [any, waits] The end of a pool, whatever its jobs do. Refuses new jobs; lets the accepted ones
 * end for half of the time; then cancels the queued and the running, interrupting those that asked
 * for it; at the deadline leaves behind what still runs. Always lets go of the pool, but for the
 * errors named last. 0: nothing is left. -ETIME: *ret lists what is, and so does the log; the pool
 * frees itself when the last of it has ended. ret may be NULL; else *ret is written on 0 and
 * -ETIME, and is the caller's to free. It may be NULL for want of memory. -EDEADLK from one of its
 * own jobs or a bare callback, -EINVAL: nothing was done. */
DUET_API int duet_pool_shutdown(duet_pool *pool, duet_deadline by, duet_receipt **ret);

#ifdef __cplusplus
}
#endif
