/* One operation on a descriptor: in a coroutine a request on the ring, on a thread a wait with
 * poll(2) and a plain call.
 *
 * THE REQUEST lives on the stack of the coroutine, as does all it points to; so the coroutine goes
 * on only after the operation's own completion, whatever ended its sleep: at a deadline or a
 * cancellation it asks the kernel to cancel, and sleeps on. What the operation did then counts. */
#pragma once
#include "ring.h"
#include "task.h"

#include <duet/io.h>
#include <errno.h>

/* Fills in the entry, but for its user_data. */
typedef void duet__io_prepare(struct io_uring_sqe *sqe, const void *arg);

/* Owned by the coroutine that waits for it, on its stack. */
struct duet__io {
    struct duet__op op;
    struct duet__parker *parker;
    int32_t result;
    struct duet__closing *closing; /* who closes the descriptor meanwhile; NULL: nobody */
    int fd; /* -1: none */
    struct duet__list link; /* in the loop's list of those in flight, by descriptor */
};

/* By a coroutine: the result of the operation, or -ETIME, -ECANCELED, -EBADF (closed). */
int duet__io_run(struct duet__task *task, int fd, duet__io_prepare *prepare, const void *arg,
                 duet_deadline by);
/* Likewise, and again when the descriptor, though set to O_NONBLOCK, is ready for `events`. */
int duet__io_run_when_ready(struct duet__task *task, int fd, short events,
                            duet__io_prepare *prepare, const void *arg, duet_deadline by);
/* By a thread or job: until one of the events has come: 0 and *ret_events (may be NULL), or as
 * every wait. fd < 0: only the checks with which a wait begins. */
int duet__io_block(int fd, short events, duet_deadline by, short *ret_events);
/* By a coroutine, of what the loop guesses to be a socket: what there is, as soon as there is some; 0
 * is the end; -ENOTSOCK. */
ssize_t duet__io_recv(struct duet__task *task, int fd, void *buf, size_t n, duet_deadline by);
/* By a coroutine: ends what its loop has in flight on fd, and closes it. */
int duet__io_close(struct duet__task *task, int fd);
/* By a coroutine that would do at once, without the ring, what may be done so: does nobody else need
 * the kernel? Then a plain call is cheaper; in company the ring is, which takes the operations of all
 * in one call. */
bool duet__io_is_alone(const struct duet__task *task);
/* … and then: 0, or why not, as every operation begins. */
int duet__io_may_go_on(struct duet__task *task, int fd);
/* By a thread or job: -ECANCELED, or 0. */
int duet__io_may_begin(void);
/* By whoever finds again and again that what is ready is not: a moment. 0, or as every wait. */
int duet__io_pause(duet_deadline by);

/* What a loop guesses of a descriptor, by how it was last used there. No more than that, since by now
 * the number may be another's, and more than one share a place: to guess wrong costs time, nothing
 * else. */
enum {
    DUET__IO_SOCKET = 1,
    DUET__IO_EMPTIED = 2, /* the last receive took all that there was */
};
uint8_t *duet__io_guess(struct duet__task *task, int fd);

/* Tell ThreadSanitizer, which does not see what the ring does, that the kernel gives the number of
 * a descriptor out again only after its close. Of what the ring closes; of what it has opened, or
 * the error, which is passed on. */
void duet__io_fd_freed(int fd);
int duet__io_fd_taken(int fd);

static inline ssize_t duet__told_io(ssize_t rc)
{
    return rc < 0 ? duet__told((int)rc) : rc;
}

/* What a plain call returned, as a negative errno if it failed; errno is as it was before. */
static inline ssize_t duet__io_plain(ssize_t rc, int errno_before)
{
    ssize_t result = rc < 0 ? -errno : rc;
    errno = errno_before;
    return result;
}
