/* duet/pool.h: worker threads for work that blocks. */
#pragma once
#include <duet/future.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct duet_pool duet_pool;

/* Zero means default. */
typedef struct duet_pool_config {
    /* Copied; worker i is the thread "duet-w/NAME-i". */
    const char *name;
    /* In this version all workers_max (default: processors + 4, at most 1,024) start at once and
     * stay; workers_min must not be above it. */
    unsigned workers_min, workers_max;
    /* Jobs waiting: 16,384. */
    unsigned queue_max;
    /* Wait for room, settle with -EAGAIN, or run in the calling thread (never on a loop's). */
    enum duet_when_full when_full;
    /* Not used in this version: a job that waits keeps its worker. */
    unsigned spares_max;
    /* Not used in this version: workers stay. */
    int64_t idle_ns;
    /* Bytes, of a worker's thread: the system's default; at most 1 GiB. */
    size_t stack_size;
    /* Not in this version: -ENOTSUP. */
    const struct duet_hooks *hooks;
    uintptr_t reserved[6]; /* zero */
} duet_pool_config;

/* queued, busy and workers: now; submitted, completed, cancelled and refused: since it was opened.
 * blocked_in_wait and abandoned are 0 in this version. */
typedef struct duet_pool_stats {
    unsigned workers, busy, blocked_in_wait, abandoned;
    uint64_t queued, submitted, completed, cancelled, refused;
    uintptr_t reserved[8];
} duet_pool_stats;

/* [any] config, copied, may be NULL. 0; -ENOMEM; -EAGAIN a thread could not be started (the log
 * names the limit); -EINVAL, -ENOTSUP with a line in the log that names the field. Its threads
 * block all signals but the synchronous ones and SIGPROF. Ends with duet_pool_close(). */
DUET_API int duet_pool_open(duet_pool **ret, const duet_pool_config *config);
/* [any, waits] Run fn on a worker, first in first out. Waits for room only if the pool is full and
 * when_full says so. The handle settles at once with -EAGAIN (full), -ESHUTDOWN (draining or
 * closing), -ECANCELED (cancelled while waiting for room), -ENOMEM or -EINVAL. Cancelling a queued
 * job removes it: it never runs. Cancelling a running one makes its waits fail. */
DUET_API duet_future *duet_pool_submit(duet_pool *pool, duet_fn *fn, void *arg);
/* [any, waits] Likewise. opts, copied, may be NULL. */
DUET_API duet_future *duet_pool_submit_with(duet_pool *pool, duet_fn *fn, void *arg,
                                            const duet_opts *opts);
DUET_API void duet_pool_stats_get(const duet_pool *pool, duet_pool_stats *ret); /* [any] */
/* [any, waits] Refuse new jobs, run the queued ones, and return when all have ended: 0. At the
 * deadline cancel what is left and return -ETIME; *ret_left, if given, is how many jobs still run,
 * each named in the log. -ECANCELED: the caller was cancelled, the jobs are not. -EDEADLK from one
 * of its own jobs or a bare callback. */
DUET_API int duet_pool_drain(duet_pool *pool, duet_deadline by, unsigned *ret_left);
/* [any, waits] Refuse new jobs, cancel the queued, ask the running, wait for them, join the
 * workers, free. 0; -ETIME: what is left is named in the log and the pool lives on, closing: close
 * again; -EDEADLK from one of its own jobs or a bare callback. */
DUET_API int duet_pool_close(duet_pool *pool, duet_deadline by);

#ifdef __cplusplus
}
#endif
