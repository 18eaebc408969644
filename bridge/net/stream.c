/* Buffered streams. To read is to wait until there is something and then to take it, so that
 * nobody needs memory for what has not come. To write is to send at once what the kernel takes,
 * and to leave the rest to a coroutine of the stream's own. */
#include "stream.h"
#include "alloc.h"
#include "bytes.h"
#include "check.h"
#include "io.h"
#include "loop_impl.h"
#include "park.h"

#include <duet/io.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    LIMIT_DEFAULT = 65536,
    HIGH_DEFAULT = 65536,
    PIECE = 16384, /* read at once */
};

/* ---- Opening ---- */

static void take_peer(duet_stream *s)
{
    socklen_t len = sizeof s->peer;
    s->has_peer = getpeername(s->fd, (struct sockaddr *)&s->peer, &len) == 0;
}

/* What is written goes at once: the stream has gathered it already. */
static void send_undelayed(const duet_stream *s)
{
    const int on = 1;
    if (s->peer.ss_family == AF_INET || s->peer.ss_family == AF_INET6)
        setsockopt(s->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

/* 1, 0, or -EBADF. */
static int is_socket(int fd)
{
    int type, errno_before = errno;
    socklen_t len = sizeof type;
    int rc = getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) == 0 ? 1
             : errno == EBADF                                      ? -EBADF
                                                                   : 0;
    errno = errno_before;
    return rc;
}

int duet_stream_open(duet_stream **ret, int fd, const duet_stream_config *config)
{
    const duet_stream_config given = config ? *config : (duet_stream_config){0};
    duet__check(duet_loop_self(), "a stream is opened in a coroutine, or a callback, of a loop");
    if (!ret)
        return duet__bad_argument(__func__, "ret is NULL");
    if (!duet__reserved_unused(given.reserved, sizeof given.reserved / sizeof(uintptr_t)))
        return duet__bad_argument(__func__, "config.reserved is not zero: was it initialised?");
    int socket = is_socket(fd);
    if (socket < 0)
        return socket;
    duet_stream *s = duet__alloc_zeroed(1, sizeof *s);
    if (!s)
        return -ENOMEM;
    s->fd = fd;
    s->loop = duet_loop_self();
    s->config = given;
    if (s->config.read_limit == 0)
        s->config.read_limit = LIMIT_DEFAULT;
    if (s->config.write_high == 0)
        s->config.write_high = HIGH_DEFAULT;
    s->is_socket = socket;
    s->drained = true;
    if (s->is_socket) {
        take_peer(s);
        send_undelayed(s);
    }
    duet_event_set(&s->room);
    *ret = s;
    return 0;
}

/* ---- Who is inside ---- */

static void check_loop(const duet_stream *s)
{
    duet__check(s->loop == duet_loop_self(), "a stream is used on the loop that opened it");
}

/* 0, or why a call cannot be. */
static int enter(duet_stream *s, const char *function)
{
    if (!s)
        return duet__bad_argument(function, "s is NULL");
    check_loop(s);
    if (s->parting)
        return -EBADF;
    s->users++;
    return 0;
}

static ssize_t leave(duet_stream *s, ssize_t rc)
{
    duet__wait_unparked(
        duet__here()); /* a peer that is always ready keeps nobody else from running */
    if (--s->users == 0 && s->closing)
        duet_event_set(&s->unused);
    return rc;
}

/* ---- Reading ---- */

static int enter_to_read(duet_stream *s, const char *function, const void *to)
{
    if (!to)
        return duet__bad_argument(function, "the place for what is read is NULL");
    int rc = enter(s, function);
    if (rc == 0 && s->reading)
        rc = (int)leave(s, -EBUSY);
    if (rc == 0)
        s->reading = true;
    return rc;
}

static ssize_t leave_reading(duet_stream *s, ssize_t rc)
{
    rc = leave(s, rc);
    s->reading = false;
    return rc;
}

/* What there is, without waiting: -EAGAIN. */
static ssize_t take(duet_stream *s, void *to, size_t n)
{
    int errno_before = errno;
    ssize_t got;
    do
        got = recv(s->fd, to, n, MSG_DONTWAIT);
    while (got < 0 && errno == EINTR);
    got = duet__io_plain(got, errno_before);
    if (got < 0)
        return got;
    s->drained = (size_t)got < n;
    s->at_end = got == 0;
    return got;
}

/* Something, or the end. Of a socket, `to` is not written while this waits. */
static ssize_t read_some(duet_stream *s, void *to, size_t n, duet_deadline by)
{
    if (!s->is_socket) {
        ssize_t got = duet_read(s->fd, to, n, by);
        s->at_end = got == 0;
        return got;
    }
    ssize_t got = s->drained ? -EAGAIN : take(s, to, n);
    while (got == -EAGAIN) {
        int rc = duet_poll(s->fd, POLLIN, by);
        if (rc < 0)
            return rc;
        got = take(s, to, n);
    }
    return got;
}

/* Waits for something before there is memory for it. */
static int await_some(duet_stream *s, duet_deadline by)
{
    if (!s->is_socket || !s->drained)
        return 0;
    int rc = duet_poll(s->fd, POLLIN, by);
    s->drained = rc < 0;
    return rc < 0 ? rc : 0;
}

/* More into the buffer; 0 at the end. */
static ssize_t fill(duet_stream *s, size_t at_least, duet_deadline by)
{
    if (s->at_end)
        return 0;
    if (duet__bytes_count(&s->in) == 0)
        duet__bytes_free(&s->in);
    int rc = await_some(s, by);
    if (rc == 0)
        rc = duet__bytes_reserve(&s->in, at_least);
    if (rc < 0)
        return rc;
    ssize_t got = read_some(s, s->in.memory + s->in.end, s->in.capacity - s->in.end, by);
    if (got > 0)
        s->in.end += (size_t)got;
    if (duet__bytes_count(&s->in) == 0)
        duet__bytes_free(&s->in);
    return got;
}

static size_t move_out(duet_stream *s, void *to, size_t n)
{
    size_t count = duet__bytes_count(&s->in), moved = n < count ? n : count;
    if (moved > 0)
        memcpy(to, s->in.memory + s->in.start, moved);
    duet__bytes_eat(&s->in, moved);
    s->searched = 0;
    if (moved == count)
        duet__bytes_free(&s->in);
    return moved;
}

/* Into the caller's memory, which is there anyway: by one operation on the ring. */
static ssize_t read_into(duet_stream *s, void *to, size_t n, duet_deadline by)
{
    struct duet__task *task = duet__task_here();
    if (!s->is_socket || !task)
        return read_some(s, to, n, by);
    ssize_t got = duet__told_io(duet__io_recv(task, s->fd, to, n, by));
    s->at_end = got == 0;
    if (got > 0)
        s->drained = (size_t)got < n;
    return got;
}

ssize_t duet_stream_read(duet_stream *s, void *buf, size_t n, duet_deadline by)
{
    int rc = enter_to_read(s, __func__, buf);
    if (rc < 0)
        return rc;
    if (duet__wait_is_cancelled(duet__here()))
        return leave_reading(s, duet__told(-ECANCELED));
    if (n == 0 || duet__bytes_count(&s->in) > 0)
        return leave_reading(s, (ssize_t)move_out(s, buf, n));
    duet__bytes_free(&s->in);
    return leave_reading(s, s->at_end ? 0 : read_into(s, buf, n, by));
}

ssize_t duet_stream_read_exactly(duet_stream *s, void *buf, size_t n, duet_deadline by)
{
    ssize_t got = enter_to_read(s, __func__, buf);
    if (got < 0)
        return got;
    got = duet__wait_is_cancelled(duet__here()) ? duet__told(-ECANCELED) : 1;
    while (got > 0 && duet__bytes_count(&s->in) < n)
        got = fill(s, n - duet__bytes_count(&s->in), by);
    return leave_reading(s, got < 0 ? got : (ssize_t)move_out(s, buf, n));
}

/* Takes so many bytes, which stay where they are until the next read. */
static ssize_t point_at(duet_stream *s, size_t n, const char **ret)
{
    *ret = n > 0 ? s->in.memory + s->in.start : "";
    duet__bytes_eat(&s->in, n);
    s->searched = 0;
    return (ssize_t)n;
}

/* The length of the record, with its delimiter; 0: none is whole. */
static size_t find(duet_stream *s, char delimiter)
{
    if (s->delimiter != delimiter)
        s->searched = 0;
    s->delimiter = delimiter;
    size_t count = duet__bytes_count(&s->in);
    const char *first = s->in.memory + s->in.start, *found = NULL;
    if (count > s->searched)
        found = memchr(first + s->searched, delimiter, count - s->searched);
    s->searched = found ? (size_t)(found - first) : count;
    return found ? s->searched + 1 : 0;
}

static ssize_t read_until(duet_stream *s, char delimiter, const char **ret, duet_deadline by)
{
    for (;;) {
        size_t length = find(s, delimiter);
        if (length > s->config.read_limit ||
            (length == 0 && duet__bytes_count(&s->in) >= s->config.read_limit))
            return -EMSGSIZE;
        if (length > 0)
            return point_at(s, length, ret);
        ssize_t got = fill(s, PIECE, by);
        if (got < 0)
            return got;
        if (got == 0)
            return point_at(s, duet__bytes_count(&s->in), ret);
    }
}

ssize_t duet_stream_read_until(duet_stream *s, char delimiter, const char **ret, duet_deadline by)
{
    int rc = enter_to_read(s, __func__, ret);
    if (rc < 0)
        return rc;
    if (duet__wait_is_cancelled(duet__here()))
        return leave_reading(s, duet__told(-ECANCELED));
    return leave_reading(s, read_until(s, delimiter, ret, by));
}

ssize_t duet_stream_read_line(duet_stream *s, const char **ret, duet_deadline by)
{
    return duet_stream_read_until(s, '\n', ret, by);
}

/* ---- Writing ---- */

static size_t unsent(const duet_stream *s)
{
    return duet__bytes_count(&s->out) + s->sending;
}

static void note_room(duet_stream *s)
{
    if (unsent(s) <= s->config.write_high || s->write_error || s->finished)
        duet_event_set(&s->room);
    else
        duet_event_clear(&s->room);
}

static void fail(duet_stream *s, int error)
{
    if (!s->write_error)
        s->write_error = error;
    duet__bytes_free(&s->out);
    note_room(s);
}

/* All of what was accepted until now; more may be accepted meanwhile. */
static int send_piece(duet_stream *s, const struct duet__bytes *piece)
{
    const char *from = piece->memory + piece->start;
    while (s->sending > 0) {
        ssize_t n = duet_write(s->fd, from, s->sending, DUET_NEVER);
        if (n <= 0)
            return n < 0 ? (int)n : -EIO;
        from += n;
        s->sending -= (size_t)n;
        note_room(s);
    }
    return 0;
}

/* The sender: a coroutine, as long as there is something to send. */
static duet_result send_all(void *arg)
{
    duet_stream *s = arg;
    int rc = 0;
    s->sender_began = true;
    while (rc == 0 && duet__bytes_count(&s->out) > 0) {
        struct duet__bytes piece = s->out;
        s->out = (struct duet__bytes){0};
        s->sending = duet__bytes_count(&piece);
        rc = send_piece(s, &piece);
        s->sending = 0;
        duet__bytes_free(&piece);
    }
    if (rc < 0)
        fail(s, rc);
    return duet_ok();
}

/* It has ended, or never began. From here on it knows the stream no more. */
static void sender_ended(void *arg)
{
    duet_stream *s = arg;
    if (duet__bytes_count(&s->out) > 0) /* no memory for it, or no room; or the loop stops */
        fail(s, s->sender_began || s->loop->stopping ? -ECANCELED : -EAGAIN);
    duet_future *f = s->sender;
    s->sender = NULL;
    duet_future_unref(f);
}

static void start_sender(duet_stream *s)
{
    const duet_opts opts = {.name = "sender", .drop = sender_ended};
    s->sender_began = false;
    duet_future *f = duet_spawn_with(send_all, s, &opts);
    if (duet_future_settled(f)) { /* the loop has no room for it, or stops */
        s->write_error = duet_future_result(f).err;
        duet_future_unref(f);
    } else {
        s->sender = f;
    }
}

/* What the kernel takes at once. */
static ssize_t send_now(duet_stream *s, const void *buf, size_t n)
{
    int errno_before = errno;
    ssize_t sent;
    if (!s->is_socket || s->sender)
        return 0;
    do
        sent = send(s->fd, buf, n, MSG_DONTWAIT | MSG_NOSIGNAL);
    while (sent < 0 && errno == EINTR);
    sent = duet__io_plain(sent, errno_before);
    return sent == -EAGAIN ? 0 : sent;
}

static int accept_bytes(duet_stream *s, const char *buf, size_t n)
{
    ssize_t sent = send_now(s, buf, n);
    int rc = sent < 0 ? (int)sent : 0;
    if (rc == 0 && (size_t)sent < n)
        rc = duet__bytes_append(&s->out, buf + sent, n - (size_t)sent);
    if (rc < 0) {
        if (rc != -ENOMEM || sent > 0) /* half of it was sent: there is no way on */
            fail(s, rc);
        return rc;
    }
    if (duet__bytes_count(&s->out) > 0 && !s->sender)
        start_sender(s);
    note_room(s);
    return 0;
}

static int may_write(const duet_stream *s)
{
    if (s->parting)
        return -EBADF;
    if (s->write_error)
        return s->write_error;
    if (s->sends_file)
        return -EBUSY;
    return s->finished ? -EPIPE : 0;
}

static int write_when_room(duet_stream *s, const void *buf, size_t n, duet_deadline by)
{
    int rc = duet__wait_is_cancelled(duet__here()) ? duet__told(-ECANCELED) : may_write(s);
    while (rc == 0 && unsent(s) > s->config.write_high) {
        rc = duet_event_wait(&s->room, by);
        if (rc == 0)
            rc = may_write(s);
    }
    return rc == 0 && n > 0 ? accept_bytes(s, buf, n) : rc;
}

int duet_stream_write(duet_stream *s, const void *buf, size_t n, duet_deadline by)
{
    if (!buf && n > 0)
        return duet__bad_argument(__func__, "buf is NULL");
    int rc = enter(s, __func__);
    return rc < 0 ? rc : (int)leave(s, write_when_room(s, buf, n, by));
}

static int drain(duet_stream *s, duet_deadline by)
{
    int rc = 0;
    while (rc == 0 && s->sender) {
        duet_future *f = duet_future_ref(s->sender);
        rc = duet_future_wait(f, by, NULL);
        duet_future_unref(f);
    }
    return rc < 0 ? rc : s->write_error;
}

static ssize_t send_file(duet_stream *s, int from, off_t *at, size_t n, duet_deadline by)
{
    ssize_t rc = may_write(s);
    if (rc < 0)
        return rc;
    s->sends_file = true;
    rc = drain(s, by);
    if (rc == 0)
        rc = s->closing ? -EBADF : duet_sendfile(s->fd, from, at, n, by);
    s->sends_file = false;
    return rc;
}

ssize_t duet_stream_sendfile(duet_stream *s, int from, off_t *at, size_t n, duet_deadline by)
{
    int rc = enter(s, __func__);
    return rc < 0 ? rc : leave(s, send_file(s, from, at, n, by));
}

int duet_stream_drain(duet_stream *s, duet_deadline by)
{
    int rc = enter(s, __func__);
    if (rc < 0)
        return rc;
    rc = drain(s, by);
    return (int)leave(s, s->closing ? -EBADF : rc);
}

int duet_stream_finish(duet_stream *s, duet_deadline by)
{
    int rc = enter(s, __func__);
    if (rc < 0)
        return rc;
    s->finished = true;
    note_room(s); /* who waits for it is refused */
    rc = drain(s, by);
    if (s->closing)
        rc = -EBADF;
    else if (rc == 0 && s->is_socket)
        rc = (int)duet__io_plain(shutdown(s->fd, SHUT_WR), errno);
    return (int)leave(s, rc);
}

size_t duet_stream_unsent(const duet_stream *s)
{
    if (!s) {
        duet__bad_argument(__func__, "s is NULL");
        return 0;
    }
    check_loop(s);
    return unsent(s);
}

int duet_stream_peer(const duet_stream *s, struct sockaddr_storage *ret)
{
    if (!s || !ret)
        return duet__bad_argument(__func__, s ? "ret is NULL" : "s is NULL");
    check_loop(s);
    if (!s->has_peer)
        return -ENOTCONN;
    *ret = s->peer;
    return 0;
}

/* ---- The end ---- */

void duet_stream_detach(duet_stream *s)
{
    if (!s) {
        duet__bad_argument(__func__, "s is NULL");
        return;
    }
    check_loop(s);
    if (s->detached)
        *s->detached = true;
    s->detached = NULL;
}

/* Everybody who is inside returns, and then nobody is. */
static void send_home(duet_stream *s)
{
    s->closing = true;
    note_room(s);
    if (s->sender)
        duet_future_cancel(s->sender);
    duet_close(s->fd); /* ends what is in flight on it */
    drain(s, DUET_NEVER);
    while (s->users > 0)
        duet_event_wait(&s->unused, DUET_NEVER);
}

int duet_stream_close(duet_stream *s, duet_deadline by)
{
    if (!s)
        return 0;
    duet__check(duet__task_here() && s->loop == duet_loop_self(),
                "a stream is closed in a coroutine of the loop that opened it");
    duet__check(!s->parting, "a stream is closed once");
    int rc = enter(s, __func__);
    s->parting = s->finished = true;
    note_room(s);
    rc = drain(s, by);
    leave(s, 0);
    duet_shield_begin();
    send_home(s);
    duet_shield_end();
    duet__bytes_free(&s->in);
    duet__bytes_free(&s->out);
    duet__free(s);
    return rc;
}
