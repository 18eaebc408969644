/* The servers without a library: the least that epoll, or io_uring, needs for the same. */
#include "measure.h"
#include "net.h"

#include <errno.h>
#include <liburing.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    BACKLOG = 1024,
    EVENTS = 256,
    RING = 256, /* as duet's */
    COMPLETIONS_PER_ENTRY = 8,
};

void net_tell_port(int port_fd, int port)
{
    need(write(port_fd, &port, sizeof port) == sizeof port, "tell the port");
    close(port_fd);
}

int net_listen(int port_fd)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t len = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    need(fd >= 0, "socket");
    need(bind(fd, (struct sockaddr *)&address, len) == 0, "bind");
    need(listen(fd, BACKLOG) == 0, "listen");
    need(getsockname(fd, (struct sockaddr *)&address, &len) == 0, "getsockname");
    net_tell_port(port_fd, ntohs(address.sin_port));
    return fd;
}

struct connection {
    int fd;
    bool sends; /* io_uring: what is in flight; else it receives */
    struct net_input in;
};

/* Since duet's streams are so, all are: no server waits to fill a segment. */
static struct connection *connection_new(int fd)
{
    const int on = 1;
    struct connection *c = malloc(sizeof *c);
    need(c != NULL, "malloc");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    c->fd = fd;
    c->in.count = 0;
    return c;
}

static void connection_end(struct connection *c)
{
    close(c->fd);
    free(c);
}

/* ---- epoll ---- */

static void accept_all(int epoll_fd, int listen_fd)
{
    int fd;
    while ((fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK)) >= 0) {
        struct epoll_event event = {EPOLLIN | EPOLLRDHUP | EPOLLET, {.ptr = connection_new(fd)}};
        need(epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event) == 0, "epoll_ctl");
    }
    need(errno == EAGAIN, "accept4");
}

/* Until nothing is left, which a receive that does not fill its buffer tells: epoll(7). False: the
 * peer has gone. */
static bool converse(enum net_work work, struct connection *c)
{
    ssize_t n;
    size_t room;
    do {
        room = sizeof c->in.bytes - c->in.count;
        n = recv(c->fd, c->in.bytes + c->in.count, room, 0);
        if (n <= 0)
            return n < 0 && errno == EAGAIN;
        c->in.count += (size_t)n;
        struct net_text answer = net_answer(work, &c->in);
        if (answer.count > 0)
            need(send(c->fd, answer.bytes, answer.count, MSG_NOSIGNAL) == (ssize_t)answer.count,
                 "send");
    } while ((size_t)n == room);
    return true;
}

void net_serve_epoll(enum net_work work, int port_fd)
{
    int epoll_fd = epoll_create1(EPOLL_CLOEXEC), listen_fd = net_listen(port_fd);
    struct epoll_event events[EVENTS], accepts = {EPOLLIN, {.ptr = NULL}};
    int on = 1;
    need(ioctl(listen_fd, FIONBIO, &on) == 0, "FIONBIO");
    need(epoll_ctl(epoll_fd, EPOLL_CTL_ADD, listen_fd, &accepts) == 0, "epoll_ctl");
    for (;;) {
        int n = epoll_wait(epoll_fd, events, EVENTS, -1);
        for (int i = 0; i < n; i++) {
            struct connection *c = events[i].data.ptr;
            if (!c)
                accept_all(epoll_fd, listen_fd);
            else if (!converse(work, c))
                connection_end(c);
        }
    }
}

/* ---- io_uring ---- */

static struct io_uring ring;

static void open_ring(void)
{
    struct io_uring_params params = {.flags = IORING_SETUP_CLAMP | IORING_SETUP_CQSIZE |
                                              IORING_SETUP_SUBMIT_ALL | IORING_SETUP_SINGLE_ISSUER |
                                              IORING_SETUP_DEFER_TASKRUN |
                                              IORING_SETUP_TASKRUN_FLAG,
                                     .cq_entries = RING * COMPLETIONS_PER_ENTRY};
    need(io_uring_queue_init_params(RING, &ring, &params) == 0, "io_uring (it needs Linux 6.1)");
}

static struct io_uring_sqe *entry(void)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&ring);
    if (!sqe) {
        io_uring_submit(&ring);
        sqe = io_uring_get_sqe(&ring);
    }
    need(sqe != NULL, "an entry of the ring");
    return sqe;
}

static void begin_accept(int listen_fd)
{
    struct io_uring_sqe *sqe = entry();
    io_uring_prep_accept(sqe, listen_fd, NULL, NULL, SOCK_CLOEXEC);
    sqe->user_data = 0;
}

static void begin_receive(struct connection *c)
{
    struct io_uring_sqe *sqe = entry();
    io_uring_prep_recv(sqe, c->fd, c->in.bytes + c->in.count, sizeof c->in.bytes - c->in.count, 0);
    sqe->user_data = (uint64_t)(uintptr_t)c;
    c->sends = false;
}

static void begin_send(struct connection *c, struct net_text answer)
{
    struct io_uring_sqe *sqe = entry();
    io_uring_prep_send(sqe, c->fd, answer.bytes, answer.count, MSG_NOSIGNAL);
    sqe->user_data = (uint64_t)(uintptr_t)c;
    c->sends = true;
}

static void go_on(enum net_work work, struct connection *c, int result)
{
    struct net_text answer = {NULL, 0};
    if (result <= 0) {
        connection_end(c);
        return;
    }
    if (!c->sends) {
        c->in.count += (size_t)result;
        answer = net_answer(work, &c->in);
    }
    if (answer.count > 0)
        begin_send(c, answer);
    else
        begin_receive(c);
}

void net_serve_uring(enum net_work work, int port_fd)
{
    int listen_fd = net_listen(port_fd);
    open_ring();
    begin_accept(listen_fd);
    for (;;) {
        struct io_uring_cqe *cqe;
        unsigned head, count = 0;
        io_uring_submit_and_wait(&ring, 1);
        io_uring_for_each_cqe(&ring, head, cqe)
        {
            count++;
            if (cqe->user_data) {
                go_on(work, (struct connection *)(uintptr_t)cqe->user_data, cqe->res);
            } else {
                need(cqe->res >= 0, "accept");
                begin_receive(connection_new(cqe->res));
                begin_accept(listen_fd);
            }
        }
        io_uring_cq_advance(&ring, count);
    }
}
