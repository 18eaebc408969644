#include "io.h"
#include "check.h"
#include "graph.h"
#include "loop_impl.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>

/* Results of a system call that was to be begun again, which the kernel keeps to itself elsewhere:
 * ERESTARTSYS to ERESTART_RESTARTBLOCK. */
enum {
    RESTART_LEAST = 512,
    RESTART_MOST = 516,
    POLL_MOST_MS = 1000000,
};

#ifdef DUET__TSAN
#include <sanitizer/tsan_interface.h>
static char numbers[1024];

void duet__io_fd_freed(int fd)
{
    __tsan_release(&numbers[(unsigned)fd % sizeof numbers]);
}

int duet__io_fd_taken(int fd)
{
    if (fd >= 0)
        __tsan_acquire(&numbers[(unsigned)fd % sizeof numbers]);
    return fd;
}
#else
void duet__io_fd_freed(int fd)
{
    (void)fd;
}

int duet__io_fd_taken(int fd)
{
    return fd;
}
#endif

static struct duet__list *in_flight(duet_loop *loop, int fd)
{
    return &loop->in_flight[(unsigned)fd % DUET__IO_LISTS];
}

uint8_t *duet__io_guess(struct duet__task *task, int fd)
{
    return &task->loop->guesses[(unsigned)fd % DUET__IO_GUESSES];
}

/* ---- On the ring ---- */

/* Of the parker's own loop, whose thread this is, so the coroutine is made ready. */
static void io_done(struct duet__op *op, int32_t result, bool more)
{
    struct duet__io *io = duet__container(op, struct duet__io, op);
    (void)more;
    struct duet__parker *parker = io->parker;
    io->result = result;
    duet__unpark(parker);
    if (duet__is_observed(parker)) /* it was the kernel */
        duet__note_nobody(parker->observed);
}

static void ignore_done(struct duet__op *op, int32_t result, bool more)
{
    (void)op;
    (void)result;
    (void)more;
}

/* Whether a cancellation finds its operation does not matter: that one's own completion does. */
static struct duet__op ignored = {ignore_done};

/* Waits for as long as the ring is full: the loop turns meanwhile, and so empties it. */
static struct io_uring_sqe *await_entry(struct duet__task *task)
{
    struct io_uring_sqe *sqe;
    while (!(sqe = duet__ring_entry(&task->loop->ring)))
        task->work.parker.ops->pass(&task->work.parker);
    return sqe;
}

static void ask_to_cancel(struct duet__task *task, struct duet__io *io)
{
    struct io_uring_sqe *sqe = await_entry(task);
    io_uring_prep_cancel(sqe, &io->op, 0);
    sqe->user_data = (uint64_t)(uintptr_t)&ignored;
}

static const char *describe(const struct duet__wait *wait, char *buf, size_t size)
{
    const struct duet__io *io = wait->of;
    if (io->fd < 0)
        snprintf(buf, size, "an operation on files");
    else
        snprintf(buf, size, "an operation on descriptor %d", io->fd);
    return buf;
}

/* What comes from outside may always come. */
static const struct duet__wait_ops wait_ops = {NULL, describe, false};

static bool was_cancelled(int32_t result)
{
    return result == -ECANCELED || result == -EINTR ||
           (result <= -RESTART_LEAST && result >= -RESTART_MOST);
}

/* Until its own completion. 0, or why the kernel was asked to cancel it. */
static int await_completion(struct duet__task *task, struct duet__io *io, duet_deadline by,
                            bool shielded)
{
    struct duet__wait wait;
    duet__wait_enter(&wait, io->parker, &wait_ops, io, 1, by, duet__wait_kind(shielded));
    int rc = duet__park(io->parker, by, shielded);
    if (rc < 0) {
        ask_to_cancel(task, io);
        duet__park_token(io->parker);
    }
    duet__wait_leave(&wait);
    return rc;
}

/* One close: from its beginning nothing new is started on that descriptor. On the stack of who
 * closes, in the loop's list. */
struct duet__closing {
    struct duet__parker *parker;
    int fd;
    size_t left; /* in flight, and the closer while it counts */
    struct duet__list link;
};

static bool is_closing(const duet_loop *loop, int fd)
{
    duet__list_for_each(link,
                        &loop->closing) if (duet__container(link, struct duet__closing, link)->fd ==
                                            fd) return true;
    return false;
}

/* By the coroutine of an operation that has completed. */
static void has_ended(struct duet__io *io)
{
    duet__list_remove(&io->link);
    if (io->closing && --io->closing->left == 0)
        duet__unpark(io->closing->parker);
}

/* 0: it is on its way to the kernel, and in the list of those in flight. */
static int start(struct duet__task *task, struct duet__io *io, duet__io_prepare *prepare,
                 const void *arg)
{
    struct io_uring_sqe *sqe = await_entry(task);
    if (is_closing(task->loop, io->fd)) {
        io_uring_prep_nop(sqe);
        sqe->user_data = (uint64_t)(uintptr_t)&ignored;
        return -EBADF;
    }
    prepare(sqe, arg);
    sqe->user_data = (uint64_t)(uintptr_t)&io->op;
    duet__list_append(in_flight(task->loop, io->fd), &io->link);
    return 0;
}

int duet__io_run(struct duet__task *task, int fd, duet__io_prepare *prepare, const void *arg,
                 duet_deadline by)
{
    struct duet__parker *parker = &task->work.parker;
    bool shielded = parker->shields > 0;
    struct duet__io io;
    int rc;
    do {
        if (!shielded && duet__park_cancelled(parker))
            return duet__wait_failed(parker, -ECANCELED);
        io = (struct duet__io){.op = {io_done}, .parker = parker, .fd = fd};
        rc = start(task, &io, prepare, arg);
        if (rc < 0)
            return duet__wait_failed(parker, rc);
        rc = await_completion(task, &io, by, shielded);
        has_ended(&io);
        if (io.closing && was_cancelled(io.result))
            return -EBADF;
    } while (rc == 0 && was_cancelled(io.result)); /* a signal, of no meaning here */
    return was_cancelled(io.result) ? rc : io.result;
}

bool duet__io_is_alone(const struct duet__task *task)
{
    const duet_loop *loop = task->loop;
    return !loop->ready.first && !duet__ring_has_entries(&loop->ring);
}

int duet__io_may_go_on(struct duet__task *task, int fd)
{
    struct duet__parker *parker = &task->work.parker;
    if (duet__wait_is_cancelled(parker))
        return duet__wait_failed(parker, -ECANCELED);
    return is_closing(task->loop, fd) ? duet__wait_failed(parker, -EBADF) : 0;
}

static void prepare_poll(struct io_uring_sqe *sqe, const void *arg)
{
    const struct pollfd *poll = arg;
    io_uring_prep_poll_add(sqe, poll->fd, (unsigned short)poll->events);
}

int duet__io_pause(duet_deadline by)
{
    duet_deadline soon = duet_ms(1);
    if (duet_now_ns() >= by.ns)
        return -ETIME;
    return duet_sleep(soon.ns < by.ns ? soon : by);
}

int duet__io_run_when_ready(struct duet__task *task, int fd, short events,
                            duet__io_prepare *prepare, const void *arg, duet_deadline by)
{
    const struct pollfd ready = {fd, events, 0};
    int rc, polled = 0;
    while ((rc = duet__io_run(task, fd, prepare, arg, by)) == -EAGAIN) {
        rc = polled++ ? duet__io_pause(by) : 0; /* it only looks ready */
        if (rc == 0)
            rc = duet__io_run(task, fd, prepare_poll, &ready, by);
        if (rc < 0)
            return rc;
    }
    return rc;
}

/* ---- Closing ---- */

static struct duet__io *next_to_cancel(duet_loop *loop, struct duet__closing *closing)
{
    duet__list_for_each(link, in_flight(loop, closing->fd))
    {
        struct duet__io *io = duet__container(link, struct duet__io, link);
        if (io->fd == closing->fd && !io->closing) {
            io->closing = closing;
            return io;
        }
    }
    return NULL;
}

/* What is in flight on the descriptor ends, and has ended when this returns. */
static void end_all(struct duet__task *task, struct duet__closing *closing)
{
    struct duet__wait wait;
    struct duet__io io = {.fd = closing->fd}, *one; /* to say what it waits for */
    while ((one = next_to_cancel(task->loop, closing)) != NULL) {
        closing->left++;
        ask_to_cancel(task, one); /* others may run meanwhile, so from the beginning again */
    }
    if (--closing->left == 0)
        return;
    duet__wait_enter(&wait, closing->parker, &wait_ops, &io, 1, DUET_NEVER, DUET__WAIT_ENDS);
    duet__park_token(closing->parker);
    duet__wait_leave(&wait);
}

int duet__io_close(struct duet__task *task, int fd)
{
    struct duet__closing closing = {.parker = &task->work.parker, .fd = fd, .left = 1};
    struct duet__io io = {.op = {io_done}, .parker = &task->work.parker, .fd = -1};
    duet__list_append(&task->loop->closing, &closing.link);
    end_all(task, &closing);
    duet__io_fd_freed(fd);
    struct io_uring_sqe *sqe = await_entry(task);
    io_uring_prep_close(sqe, fd);
    sqe->user_data = (uint64_t)(uintptr_t)&io.op;
    /* Before it is closed, since then the number may be another's. What others begin with it from
     * here on comes after the close. */
    duet__list_remove(&closing.link);
    await_completion(task, &io, DUET_NEVER, true);
    return was_cancelled(io.result) ? 0 : io.result; /* never again: Linux has closed it */
}

/* ---- On a thread ---- */

/* For poll(2): rounded up, and not too long for an int. */
static int ms_until(int64_t by_ns)
{
    if (by_ns == DUET__NEVER)
        return -1;
    int64_t ns = by_ns - duet__clock_ns();
    if (ns <= 0)
        return 0;
    return ns / 1000000 < POLL_MOST_MS ? (int)((ns + 999999) / 1000000) : POLL_MOST_MS;
}

static int poll_lending(struct pollfd *ready, int ms)
{
    if (ms == 0)
        return poll(ready, 1, 0);
    duet__blocking_begins();
    int n = poll(ready, 1, ms), error = errno;
    duet__blocking_ended();
    errno = error;
    return n;
}

/* 0: it is ready. */
static int poll_until(struct pollfd *ready, struct duet__parker *parker, duet_deadline by,
                      bool shielded)
{
    for (;;) {
        if (!shielded && duet__park_cancelled(parker))
            return -ECANCELED;
        int ms = parker->ops->may_wait ? ms_until(by.ns) : 0;
        int n = poll_lending(ready, ms);
        if (n > 0)
            return 0;
        if (n < 0 && errno != EINTR)
            return -errno;
        if (n == 0 && ms == 0)
            return parker->ops->may_wait ? -ETIME : -EDEADLK;
    }
}

int duet__io_may_begin(void)
{
    return duet__wait_is_cancelled(duet__here()) ? -ECANCELED : 0;
}

int duet__io_block(int fd, short events, duet_deadline by, short *ret_events)
{
    struct duet__parker *parker = duet__here();
    bool shielded = parker->shields > 0;
    struct pollfd ready = {fd, events, 0};
    struct duet__io io = {.fd = fd};
    struct duet__wait wait;
    if (!shielded && duet__park_cancelled(parker))
        return -ECANCELED;
    if (fd < 0)
        return 0;
    int errno_before = errno;
    duet__wait_enter(&wait, parker, &wait_ops, &io, 1, by, duet__wait_kind(shielded));
    int rc = poll_until(&ready, parker, by, shielded);
    duet__wait_leave(&wait);
    errno = errno_before;
    if (rc == 0 && ret_events)
        *ret_events = ready.revents;
    return rc == 0 && (ready.revents & POLLNVAL) ? -EBADF : rc;
}
