/* The loop's way to the kernel: operations are prepared, submitted together, and completed by
 * callbacks.
 *
 * This face is all the loop knows; ring.c stands behind it with io_uring. A backend on epoll can
 * stand behind it with the same meaning: an operation completes once, or each time (watch), through
 * done(). */
#pragma once
#include <duet/loop.h>
#include <liburing.h>

struct duet__ring;

/* One operation in flight. Owned by who started it, until done() was called without `more`. */
struct duet__op {
    void (*done)(struct duet__op *op, int32_t result, bool more);
};

/* Owned by its loop, used by the loop's thread alone, which also opens it: the kernel ties it to
 * the thread. */
struct duet__ring {
    struct io_uring uring;
    struct duet__op watch;
    int watch_fd;
    unsigned in_flight; /* operations prepared and not completed, the watch among them */
    bool watch_armed;
    bool flag_in_vain; /* the last poll or wait completed nothing: the kernel's flag may be stale */
    bool under_valgrind;
    bool can_poll_first; /* constant: the kernel knows IORING_RECVSEND_POLL_FIRST */
};

/* event_fd: an eventfd that is written to whenever there is something for duet__ring_poll() to do,
 * since its thread sleeps elsewhere; -1: none. 0, or a negative errno; then a line in the log has
 * said why, and what to do about it. */
int duet__ring_open(struct duet__ring *ring, unsigned entries, int event_fd, const char *loop_name);
void duet__ring_close(struct duet__ring *ring);
/* From here on every wait also ends when fd becomes readable, or is so already. One fd a ring. */
void duet__ring_watch(struct duet__ring *ring, int fd);
/* A new entry, to be filled in and given an operation as user_data, by the loop's thread;
 * submitted at the next poll or wait. NULL: the kernel takes no more before completions have been
 * collected. */
struct io_uring_sqe *duet__ring_entry(struct duet__ring *ring);
/* Has some been prepared that the kernel has not been told of? */
static inline bool duet__ring_has_entries(const struct duet__ring *ring)
{
    return ring->uring.sq.sqe_head != ring->uring.sq.sqe_tail;
}
/* Submits what is prepared, completes what is done; does not wait. 0 or a negative errno. */
int duet__ring_poll(struct duet__ring *ring);
/* Likewise, but waits until something is done or timeout_ns (INT64_MAX: no limit, never ≤ 0) is
 * over, or for no reason. */
int duet__ring_wait(struct duet__ring *ring, int64_t timeout_ns);
/* Looks without a system call. Is there perhaps something for duet__ring_poll() to do? The kernel's
 * flag for deferred work may be set though there is none: it is raised after the work was queued,
 * and by then that work may have been done. So this may be true for ever, and nothing may wait for
 * it to turn false. */
bool duet__ring_has_work(struct duet__ring *ring);
/* Is there something that only the next poll or wait does, and that nobody wakes us for? */
bool duet__ring_owes(struct duet__ring *ring);
/* Will nothing come but what the watch tells? */
bool duet__ring_is_idle(const struct duet__ring *ring);
/* Has something come since the last poll or wait? For spinning: never true for ever. */
bool duet__ring_has_news(struct duet__ring *ring);
