/* Reading, writing, and what else is done to files. */
#include "alloc.h"
#include "check.h"
#include "io.h"
#include "loop_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <unistd.h>

enum {
    AT_ITS_PLACE = -1, /* of the file */
    SENDFILE_PIECE = 65536,
};

/* ---- Reading and writing ---- */

/* The arguments of one operation. */
struct transfer {
    int fd;
    void *to;
    const void *from;
    size_t n;
    off_t at; /* AT_ITS_PLACE */
    bool poll_first; /* of a receive */
};

static unsigned piece(size_t n)
{
    return n < INT_MAX ? (unsigned)n : INT_MAX; /* what one entry can say */
}

static void prepare_read(struct io_uring_sqe *sqe, const void *arg)
{
    const struct transfer *t = arg;
    io_uring_prep_read(sqe, t->fd, t->to, piece(t->n), (uint64_t)t->at);
}

static void prepare_write(struct io_uring_sqe *sqe, const void *arg)
{
    const struct transfer *t = arg;
    io_uring_prep_write(sqe, t->fd, t->from, piece(t->n), (uint64_t)t->at);
}

static void prepare_send(struct io_uring_sqe *sqe, const void *arg)
{
    const struct transfer *t = arg;
    io_uring_prep_send(sqe, t->fd, t->from, piece(t->n), MSG_NOSIGNAL);
}

static void prepare_recv(struct io_uring_sqe *sqe, const void *arg)
{
    const struct transfer *t = arg;
    io_uring_prep_recv(sqe, t->fd, t->to, piece(t->n), 0);
    if (t->poll_first)
        sqe->ioprio |= IORING_RECVSEND_POLL_FIRST;
}

/* A peer answers later than at once: the kernel need not look for its answer before it waits for it.
 * But then a deadline may end that wait before anybody has looked; and of a socket set to O_NONBLOCK
 * the kernel may neither look nor wait, but say -EAGAIN. */
static ssize_t recv_later(struct duet__task *task, struct transfer t, duet_deadline by)
{
    int errno_before = errno;
    t.poll_first = true;
    ssize_t n = duet__io_run(task, t.fd, prepare_recv, &t, by);
    if (n == -ETIME && (n = recv(t.fd, t.to, t.n, MSG_DONTWAIT)) < 0) {
        errno = errno_before;
        return -ETIME;
    }
    return n;
}

ssize_t duet__io_recv(struct duet__task *task, int fd, void *buf, size_t n, duet_deadline by)
{
    const struct transfer t = {.fd = fd, .to = buf, .n = n};
    uint8_t *guess = duet__io_guess(task, fd);
    bool later = (*guess & DUET__IO_EMPTIED) && by.ns > 0 && task->loop->ring.can_poll_first;
    ssize_t got = later ? recv_later(task, t, by) : -EAGAIN;
    if (got == -EAGAIN)
        got = duet__io_run_when_ready(task, fd, POLLIN, prepare_recv, &t, by);
    if (got == -ENOTSOCK)
        *guess = 0;
    else if (got >= 0)
        *guess = DUET__IO_SOCKET | (got > 0 && (size_t)got < n ? DUET__IO_EMPTIED : 0);
    return got;
}

static bool is_file(int fd)
{
    struct stat st;
    return fstat(fd, &st) == 0 && (S_ISREG(st.st_mode) || S_ISBLK(st.st_mode));
}

/* On a thread, of what is no file: as much as there is, or EAGAIN; for what was ready may have
 * gone to another reader. What cannot say so is asked only when poll has said that it is ready. */
static ssize_t read_now(const struct transfer *t, bool is_ready)
{
    const struct iovec part = {t->to, t->n};
    ssize_t n = recv(t->fd, t->to, t->n, MSG_DONTWAIT);
    if (n < 0 && errno == ENOTSOCK)
        n = preadv2(t->fd, &part, 1, -1, RWF_NOWAIT);
    if (n < 0 && (errno == EOPNOTSUPP || errno == ENOSYS || errno == EINVAL)) {
        errno = EAGAIN;
        return is_ready ? read(t->fd, t->to, t->n) : -1;
    }
    return n;
}

/* Between two tries on a thread: until it is ready; 0. */
static int await_ready(int fd, short events, int tries, duet_deadline by)
{
    int rc = tries > 1 ? duet__io_pause(by) : 0; /* it only looked ready */
    return rc < 0 ? rc : duet__io_block(fd, events, by, NULL);
}

static ssize_t read_on_thread(const struct transfer *t, duet_deadline by)
{
    int errno_before = errno;
    bool at_once = t->at != AT_ITS_PLACE || is_file(t->fd);
    for (int tries = 0;; tries++) {
        int rc = tries > 0 || at_once ? await_ready(at_once ? -1 : t->fd, POLLIN, tries, by)
                                      : duet__io_may_begin();
        if (rc < 0) {
            errno = errno_before;
            return rc;
        }
        ssize_t n = t->at != AT_ITS_PLACE ? pread(t->fd, t->to, t->n, t->at)
                    : at_once             ? read(t->fd, t->to, t->n)
                                          : read_now(t, tries > 0);
        if (n >= 0 || (errno != EINTR && errno != EAGAIN))
            return duet__io_plain(n, errno_before);
    }
}

/* The ring would read a pipe wherever that is asked for. */
static int check_places(int fd)
{
    int errno_before = errno;
    return lseek(fd, 0, SEEK_CUR) < 0 ? (int)duet__io_plain(-1, errno_before) : 0;
}

static ssize_t read_on_ring(struct duet__task *task, const struct transfer *t, duet_deadline by)
{
    /* Of a socket, to receive is cheaper; but it may wait to receive nothing. */
    if ((*duet__io_guess(task, t->fd) & DUET__IO_SOCKET) && t->at == AT_ITS_PLACE && t->n > 0) {
        ssize_t n = duet__io_recv(task, t->fd, t->to, t->n, by);
        if (n != -ENOTSOCK)
            return n;
    }
    return duet__io_run_when_ready(task, t->fd, POLLIN, prepare_read, t, by);
}

static ssize_t read_some(const char *function, const struct transfer *t, duet_deadline by)
{
    struct duet__task *task = duet__task_here();
    if (!t->to && t->n > 0)
        return duet__bad_argument(function, "buf is NULL");
    if (t->at != AT_ITS_PLACE) {
        int rc = check_places(t->fd);
        if (rc < 0)
            return rc;
        by = DUET_NEVER; /* of files */
    }
    return duet__told_io(task ? read_on_ring(task, t, by) : read_on_thread(t, by));
}

ssize_t duet_read(int fd, void *buf, size_t n, duet_deadline by)
{
    const struct transfer t = {.fd = fd, .to = buf, .n = n, .at = AT_ITS_PLACE};
    return read_some(__func__, &t, by);
}

ssize_t duet_pread(int fd, void *buf, size_t n, off_t at, duet_deadline by)
{
    const struct transfer t = {.fd = fd, .to = buf, .n = n, .at = at};
    if (at < 0)
        return duet__bad_argument(__func__, "at is negative");
    return read_some(__func__, &t, by);
}

/* As much as there is room for, without the ring; -EAGAIN: none, or the ring is better. */
static ssize_t send_alone(struct duet__task *task, const struct transfer *t)
{
    if (!duet__io_is_alone(task))
        return -EAGAIN;
    int rc = duet__io_may_go_on(task, t->fd), errno_before = errno;
    if (rc < 0)
        return rc;
    ssize_t n = send(t->fd, t->from, t->n, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n >= 0)
        duet__wait_unparked(&task->work.parker);
    n = duet__io_plain(n, errno_before);
    return n == -EINTR ? -EAGAIN : n;
}

/* A socket's peer that is gone is to be an error, not a signal; only send can say so. */
static ssize_t send_on_ring(struct duet__task *task, const struct transfer *t, duet_deadline by)
{
    ssize_t n = send_alone(task, t);
    if (n == -EAGAIN)
        n = duet__io_run_when_ready(task, t->fd, POLLOUT, prepare_send, t, by);
    if (n >= 0)
        *duet__io_guess(task, t->fd) |= DUET__IO_SOCKET;
    return n;
}

static ssize_t write_on_ring(struct duet__task *task, const struct transfer *t, bool *is_socket,
                             duet_deadline by)
{
    if (*is_socket) {
        ssize_t rc = send_on_ring(task, t, by);
        if (rc != -ENOTSOCK)
            return rc;
        *is_socket = false;
    }
    return duet__io_run_when_ready(task, t->fd, POLLOUT, prepare_write, t, by);
}

/* On a thread: a pipe that is ready takes so many bytes without blocking, and no more is promised. */
static ssize_t write_now(const struct transfer *t, bool file, bool *is_socket)
{
    if (*is_socket) {
        ssize_t n = send(t->fd, t->from, t->n, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n >= 0 || errno != ENOTSOCK)
            return n;
        *is_socket = false;
    }
    if (t->at != AT_ITS_PLACE)
        return pwrite(t->fd, t->from, t->n, t->at);
    return write(t->fd, t->from, file || t->n < PIPE_BUF ? t->n : PIPE_BUF);
}

static ssize_t write_on_thread(const struct transfer *t, bool *is_socket, duet_deadline by)
{
    int errno_before = errno;
    bool at_once = t->at != AT_ITS_PLACE || is_file(t->fd);
    if ((fcntl(t->fd, F_GETFL) & O_ACCMODE) == O_RDONLY) /* it would never become ready */
        return -EBADF;
    for (int tries = 0;; tries++) {
        int rc = await_ready(at_once ? -1 : t->fd, POLLOUT, tries, by);
        if (rc < 0) {
            errno = errno_before;
            return rc;
        }
        ssize_t n = write_now(t, at_once, is_socket);
        if (n >= 0 || (errno != EINTR && errno != EAGAIN))
            return duet__io_plain(n, errno_before);
    }
}

/* All of it; or what went before an error. */
static ssize_t write_all(const char *function, struct transfer t, duet_deadline by)
{
    struct duet__task *task = duet__task_here();
    bool is_socket = t.at == AT_ITS_PLACE;
    size_t done = 0, all = t.n;
    if (t.at != AT_ITS_PLACE) {
        int rc = check_places(t.fd);
        if (rc < 0)
            return rc;
        by = DUET_NEVER; /* of files */
    }
    if (!t.from && t.n > 0)
        return duet__bad_argument(function, "buf is NULL");
    do {
        ssize_t n =
            task ? write_on_ring(task, &t, &is_socket, by) : write_on_thread(&t, &is_socket, by);
        if (n < 0 && done == 0)
            return duet__told_io(n);
        if (n <= 0)
            break;
        done += (size_t)n;
        t.from = (const char *)t.from + n;
        t.n -= (size_t)n;
        t.at += t.at == AT_ITS_PLACE ? 0 : n;
    } while (done < all);
    return (ssize_t)done;
}

ssize_t duet_write(int fd, const void *buf, size_t n, duet_deadline by)
{
    return write_all(__func__, (struct transfer){.fd = fd, .from = buf, .n = n, .at = AT_ITS_PLACE},
                     by);
}

ssize_t duet_pwrite(int fd, const void *buf, size_t n, off_t at, duet_deadline by)
{
    if (at < 0)
        return duet__bad_argument(__func__, "at is negative");
    return write_all(__func__, (struct transfer){.fd = fd, .from = buf, .n = n, .at = at}, by);
}

/* ---- From a file into a socket ---- */

/* Piece by piece: what the kernel has for this, splice(2) through a pipe, blocks a thread of its
 * own for each, cannot try, and may raise SIGPIPE. */
static ssize_t send_pieces(char *buf, int to, int from, off_t at, size_t n, duet_deadline by,
                           size_t *ret_done)
{
    while (*ret_done < n) {
        size_t left = n - *ret_done;
        ssize_t got = duet_pread(from, buf, left < SENDFILE_PIECE ? left : SENDFILE_PIECE,
                                 at + (off_t)*ret_done, by);
        if (got <= 0)
            return got;
        ssize_t sent = duet_write(to, buf, (size_t)got, by);
        if (sent < 0)
            return sent;
        *ret_done += (size_t)sent;
        if (sent < got)
            return 0; /* the next call tells why */
    }
    return 0;
}

ssize_t duet_sendfile(int to, int from, off_t *at, size_t n, duet_deadline by)
{
    size_t done = 0;
    if (!at || *at < 0)
        return duet__bad_argument(__func__, at ? "*at is negative" : "at is NULL");
    char *buf = duet__alloc(n < SENDFILE_PIECE ? n + 1 : SENDFILE_PIECE);
    if (!buf)
        return -ENOMEM;
    ssize_t rc = send_pieces(buf, to, from, *at, n, by, &done);
    duet__free(buf);
    *at += (off_t)done;
    return done > 0 ? (ssize_t)done : rc;
}

/* ---- Names ---- */

/* What a plain call would get, and what it is to be on the ring. */
struct names {
    int dir, to_dir;
    const char *path, *to;
    int flags;
    mode_t mode;
    struct statx *statx;
};

static void prepare_open(struct io_uring_sqe *sqe, const void *arg)
{
    const struct names *names = arg;
    io_uring_prep_openat(sqe, names->dir, names->path, names->flags, names->mode);
}

static void prepare_statx(struct io_uring_sqe *sqe, const void *arg)
{
    const struct names *names = arg;
    io_uring_prep_statx(sqe, names->dir, names->path, 0, STATX_BASIC_STATS, names->statx);
}

static void prepare_unlink(struct io_uring_sqe *sqe, const void *arg)
{
    const struct names *names = arg;
    io_uring_prep_unlinkat(sqe, names->dir, names->path, names->flags);
}

static void prepare_rename(struct io_uring_sqe *sqe, const void *arg)
{
    const struct names *names = arg;
    io_uring_prep_renameat(sqe, names->dir, names->path, names->to_dir, names->to,
                           (unsigned)names->flags);
}

static void prepare_mkdir(struct io_uring_sqe *sqe, const void *arg)
{
    const struct names *names = arg;
    io_uring_prep_mkdirat(sqe, names->dir, names->path, names->mode);
}

static int plain_open(const struct names *names)
{
    return openat(names->dir, names->path, names->flags, names->mode);
}

static int plain_statx(const struct names *names)
{
    return statx(names->dir, names->path, 0, STATX_BASIC_STATS, names->statx);
}

static int plain_unlink(const struct names *names)
{
    return unlinkat(names->dir, names->path, names->flags);
}

static int plain_rename(const struct names *names)
{
    return renameat2(names->dir, names->path, names->to_dir, names->to, (unsigned)names->flags);
}

static int plain_mkdir(const struct names *names)
{
    return mkdirat(names->dir, names->path, names->mode);
}

static int plainly(int (*plain)(const struct names *names), const struct names *names)
{
    int errno_before = errno, rc, ends = 0;
    do
        rc = plain(names);
    while (rc < 0 && errno == EINTR && (ends = duet__io_may_begin()) == 0);
    rc = (int)duet__io_plain(rc, errno_before);
    return ends < 0 ? ends : rc;
}

static int on_thread(int (*plain)(const struct names *names), const struct names *names)
{
    int rc = duet__io_block(-1, 0, DUET_NEVER, NULL);
    return rc < 0 ? rc : plainly(plain, names);
}

/* A ring that does not know the operation yet says -EINVAL; then it is done in place. */
static int on_ring(struct duet__task *task, duet__io_prepare *prepare,
                   int (*plain)(const struct names *names), const struct names *names)
{
    int rc = duet__io_run(task, -1, prepare, names, DUET_NEVER);
    return rc == -EINVAL ? plainly(plain, names) : rc;
}

static int by_name(const char *function, duet__io_prepare *prepare,
                   int (*plain)(const struct names *names), const struct names *names)
{
    struct duet__task *task = duet__task_here();
    if (!names->path)
        return duet__bad_argument(function, "a path is NULL");
    return duet__told(task ? on_ring(task, prepare, plain, names) : on_thread(plain, names));
}

int duet_openat(int dir, const char *path, int flags, mode_t mode, duet_deadline by)
{
    (void)by; /* of files; see the header */
    const struct names names = {.dir = dir, .path = path, .flags = flags | O_CLOEXEC, .mode = mode};
    return duet__io_fd_taken(by_name(__func__, prepare_open, plain_open, &names));
}

static void from_statx(const struct statx *from, struct stat *to)
{
    *to = (struct stat){
        .st_dev = makedev(from->stx_dev_major, from->stx_dev_minor),
        .st_ino = from->stx_ino,
        .st_mode = from->stx_mode,
        .st_nlink = from->stx_nlink,
        .st_uid = from->stx_uid,
        .st_gid = from->stx_gid,
        .st_rdev = makedev(from->stx_rdev_major, from->stx_rdev_minor),
        .st_size = (off_t)from->stx_size,
        .st_blksize = (blksize_t)from->stx_blksize,
        .st_blocks = (blkcnt_t)from->stx_blocks,
        .st_atim = {from->stx_atime.tv_sec, from->stx_atime.tv_nsec},
        .st_mtim = {from->stx_mtime.tv_sec, from->stx_mtime.tv_nsec},
        .st_ctim = {from->stx_ctime.tv_sec, from->stx_ctime.tv_nsec},
    };
}

int duet_stat(const char *path, struct stat *ret, duet_deadline by)
{
    (void)by; /* of files; see the header */
    struct statx statx;
    const struct names names = {.dir = AT_FDCWD, .path = path, .statx = &statx};
    if (!ret)
        return duet__bad_argument(__func__, "ret is NULL");
    int rc = by_name(__func__, prepare_statx, plain_statx, &names);
    if (rc == 0)
        from_statx(&statx, ret);
    return rc;
}

int duet_unlinkat(int dir, const char *path, int flags, duet_deadline by)
{
    (void)by; /* of files; see the header */
    const struct names names = {.dir = dir, .path = path, .flags = flags};
    return by_name(__func__, prepare_unlink, plain_unlink, &names);
}

int duet_renameat(int from_dir, const char *from, int to_dir, const char *to, unsigned flags,
                  duet_deadline by)
{
    (void)by; /* of files; see the header */
    const struct names names = {
        .dir = from_dir, .path = from, .to_dir = to_dir, .to = to, .flags = (int)flags};
    if (!to)
        return duet__bad_argument(__func__, "to is NULL");
    return by_name(__func__, prepare_rename, plain_rename, &names);
}

int duet_mkdirat(int dir, const char *path, mode_t mode, duet_deadline by)
{
    (void)by; /* of files; see the header */
    const struct names names = {.dir = dir, .path = path, .mode = mode};
    return by_name(__func__, prepare_mkdir, plain_mkdir, &names);
}

static void prepare_fsync(struct io_uring_sqe *sqe, const void *arg)
{
    io_uring_prep_fsync(sqe, *(const int *)arg, 0);
}

static int fsync_on_thread(int fd)
{
    int errno_before = errno, rc = duet__io_block(-1, 0, DUET_NEVER, NULL);
    if (rc < 0)
        return rc;
    do
        rc = fsync(fd);
    while (rc < 0 && errno == EINTR);
    return (int)duet__io_plain(rc, errno_before);
}

int duet_fsync(int fd, duet_deadline by)
{
    struct duet__task *task = duet__task_here();
    (void)by; /* of files; see the header */
    return duet__told(task ? duet__io_run(task, fd, prepare_fsync, &fd, DUET_NEVER)
                           : fsync_on_thread(fd));
}
