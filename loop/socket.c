/* Sockets, readiness, and the end of a descriptor. */
#include "check.h"
#include "io.h"
#include "loop_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

/* ---- Accept and connect ---- */

struct peer {
    int fd;
    struct sockaddr *addr; /* where to put it */
    const struct sockaddr *to; /* or whom to reach */
    socklen_t *ret_len;
    socklen_t len;
};

static void prepare_accept(struct io_uring_sqe *sqe, const void *arg)
{
    const struct peer *peer = arg;
    io_uring_prep_accept(sqe, peer->fd, peer->addr, peer->ret_len, SOCK_CLOEXEC);
}

/* What waited may have gone to another who accepts: so the socket is set not to block. */
static int accept_on_thread(const struct peer *peer, duet_deadline by)
{
    int errno_before = errno, flags = fcntl(peer->fd, F_GETFL);
    int rc = duet__io_may_begin();
    if (flags >= 0 && !(flags & O_NONBLOCK))
        fcntl(peer->fd, F_SETFL, flags | O_NONBLOCK);
    while (rc == 0) {
        int fd = accept4(peer->fd, peer->addr, peer->ret_len, SOCK_CLOEXEC);
        if (fd >= 0 || (errno != EINTR && errno != EAGAIN && errno != ECONNABORTED))
            return (int)duet__io_plain(fd, errno_before);
        rc = duet__io_block(peer->fd, POLLIN, by, NULL);
    }
    errno = errno_before;
    return rc;
}

int duet_accept(int fd, struct sockaddr *addr, socklen_t *len, duet_deadline by)
{
    struct duet__task *task = duet__task_here();
    const struct peer peer = {.fd = fd, .addr = addr, .ret_len = len};
    if (!addr != !len)
        return duet__bad_argument(__func__, "addr and len are both given, or both NULL");
    if (!task)
        return duet__told(accept_on_thread(&peer, by));
    int rc;
    do /* a peer that has gone before it was accepted is not of interest */
        rc = duet__io_run_when_ready(task, fd, POLLIN, prepare_accept, &peer, by);
    while (rc == -ECONNABORTED);
    if (rc >= 0)
        *duet__io_guess(task, rc) = DUET__IO_SOCKET;
    return duet__told(duet__io_fd_taken(rc));
}

static void prepare_connect(struct io_uring_sqe *sqe, const void *arg)
{
    const struct peer *peer = arg;
    io_uring_prep_connect(sqe, peer->fd, peer->to, peer->len);
}

/* How a connect that goes on in the background has ended. */
static int outcome(int fd)
{
    int error = 0;
    socklen_t size = sizeof error;
    return getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) < 0 ? -errno : -error;
}

/* Once: 0, -EINPROGRESS, -EAGAIN (a local peer whose backlog is full), or another error. */
static int connect_now(const struct peer *peer)
{
    int errno_before = errno;
    return (int)duet__io_plain(connect(peer->fd, peer->to, peer->len), errno_before);
}

static int connect_on_thread(const struct peer *peer, duet_deadline by)
{
    int rc = duet__io_block(-1, 0, by, NULL), flags = fcntl(peer->fd, F_GETFL);
    if (rc < 0 || flags < 0)
        return rc < 0 ? rc : -EBADF;
    fcntl(peer->fd, F_SETFL, flags | O_NONBLOCK);
    while ((rc = connect_now(peer)) == -EAGAIN && (rc = duet__io_pause(by)) == 0)
        ;
    if (rc == -EINPROGRESS || rc == -EALREADY || rc == -EINTR) {
        rc = duet__io_block(peer->fd, POLLOUT, by, NULL);
        rc = rc < 0 ? rc : outcome(peer->fd);
    }
    fcntl(peer->fd, F_SETFL, flags);
    return rc;
}

static int connect_on_ring(struct duet__task *task, const struct peer *peer, duet_deadline by)
{
    int rc;
    while ((rc = duet__io_run(task, peer->fd, prepare_connect, peer, by)) == -EAGAIN &&
           (rc = duet__io_pause(by)) == 0)
        ;
    if (rc == -EINPROGRESS || rc == -EALREADY) { /* the caller has set it to O_NONBLOCK */
        rc = duet_poll(peer->fd, POLLOUT, by);
        rc = rc < 0 ? rc : outcome(peer->fd);
    }
    return rc;
}

int duet_connect(int fd, const struct sockaddr *addr, socklen_t len, duet_deadline by)
{
    struct duet__task *task = duet__task_here();
    const struct peer peer = {.fd = fd, .to = addr, .len = len};
    if (!addr)
        return duet__bad_argument(__func__, "addr is NULL");
    return duet__told(task ? connect_on_ring(task, &peer, by) : connect_on_thread(&peer, by));
}

/* ---- Datagrams, and streams without buffers ---- */

struct message {
    int fd, flags;
    struct msghdr header;
};

static void prepare_recvmsg(struct io_uring_sqe *sqe, const void *arg)
{
    const struct message *m = arg;
    io_uring_prep_recvmsg(sqe, m->fd, (struct msghdr *)&m->header, (unsigned)m->flags);
}

static void prepare_sendmsg(struct io_uring_sqe *sqe, const void *arg)
{
    const struct message *m = arg;
    io_uring_prep_sendmsg(sqe, m->fd, &m->header, (unsigned)m->flags);
}

static ssize_t message_on_thread(struct message *m, bool sends, duet_deadline by)
{
    int errno_before = errno, polled = 0;
    ssize_t n;
    do {
        int rc = polled++ > 1 ? duet__io_pause(by) : 0; /* it only looks ready */
        if (rc == 0)
            rc = duet__io_block(m->fd, sends ? POLLOUT : POLLIN, by, NULL);
        if (rc < 0) {
            errno = errno_before;
            return rc;
        }
        n = sends ? sendmsg(m->fd, &m->header, m->flags | MSG_DONTWAIT)
                  : recvmsg(m->fd, &m->header, m->flags | MSG_DONTWAIT);
    } while (n < 0 && (errno == EINTR || errno == EAGAIN));
    return duet__io_plain(n, errno_before);
}

ssize_t duet_recvfrom(int fd, void *buf, size_t n, int flags, struct sockaddr *addr, socklen_t *len,
                      duet_deadline by)
{
    struct duet__task *task = duet__task_here();
    struct iovec part = {buf, n};
    struct message m = {fd, flags & ~MSG_DONTWAIT, {.msg_iov = &part, .msg_iovlen = 1}};
    if ((!buf && n > 0) || !addr != !len)
        return duet__bad_argument(__func__, "buf is NULL, or only one of addr and len is");
    m.header.msg_name = addr;
    m.header.msg_namelen = len ? *len : 0;
    ssize_t rc = task ? duet__io_run_when_ready(task, fd, POLLIN, prepare_recvmsg, &m, by)
                      : message_on_thread(&m, false, by);
    if (rc >= 0 && len)
        *len = m.header.msg_namelen;
    return duet__told_io(rc);
}

ssize_t duet_sendto(int fd, const void *buf, size_t n, int flags, const struct sockaddr *addr,
                    socklen_t len, duet_deadline by)
{
    struct duet__task *task = duet__task_here();
    struct iovec part = {(void *)buf, n};
    struct message m = {
        fd, (flags & ~MSG_DONTWAIT) | MSG_NOSIGNAL, {.msg_iov = &part, .msg_iovlen = 1}};
    if (!buf && n > 0)
        return duet__bad_argument(__func__, "buf is NULL");
    m.header.msg_name = (void *)addr;
    m.header.msg_namelen = addr ? len : 0;
    return duet__told_io(task ? duet__io_run_when_ready(task, fd, POLLOUT, prepare_sendmsg, &m, by)
                              : message_on_thread(&m, true, by));
}

/* ---- Readiness ---- */

static void prepare_poll(struct io_uring_sqe *sqe, const void *arg)
{
    const struct pollfd *ready = arg;
    io_uring_prep_poll_add(sqe, ready->fd, (unsigned short)ready->events);
}

int duet_poll(int fd, unsigned events, duet_deadline by)
{
    struct duet__task *task = duet__task_here();
    const struct pollfd ready = {fd, (short)events, 0};
    short came;
    if (fd < 0)
        return -EBADF;
    if (task)
        return duet__told(duet__io_run(task, fd, prepare_poll, &ready, by));
    int rc = duet__io_block(fd, (short)events, by, &came);
    return rc < 0 ? duet__told(rc) : came;
}

/* ---- Closing ---- */

int duet_close(int fd)
{
    struct duet__task *task = duet__task_here();
    if (fd < 0)
        return -EBADF;
    if (task)
        return duet__io_close(task, fd);
    int errno_before = errno, rc = (int)duet__io_plain(close(fd), errno_before);
    return rc == -EINTR ? 0 : rc; /* Linux has closed it */
}
