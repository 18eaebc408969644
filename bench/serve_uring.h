/* A server without a library, on io_uring: one receive or send in flight for each connection, one
 * system call a turn, and the flags of duet's ring. */
#pragma once
#include "server.h"

#include <liburing.h>

enum {
    RING = 256,
    COMPLETIONS_PER_ENTRY = 8,
};

struct connection {
    int fd;
    bool sends; /* what is in flight; else it receives */
    bool last;
    struct talk talk;
    char in[TALK_INPUT];
};

static struct io_uring ring;
static struct connection acceptor, input; /* stand for these in a completion */
static char input_bytes[64];

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

static void begin_accept(void)
{
    struct io_uring_sqe *sqe = entry();
    io_uring_prep_accept(sqe, acceptor.fd, NULL, NULL, SOCK_CLOEXEC);
    io_uring_sqe_set_data(sqe, &acceptor);
}

static void begin_input(void)
{
    struct io_uring_sqe *sqe = entry();
    io_uring_prep_read(sqe, STDIN_FILENO, input_bytes, sizeof input_bytes, 0);
    io_uring_sqe_set_data(sqe, &input);
}

static void begin_receive(struct connection *c)
{
    struct io_uring_sqe *sqe = entry();
    io_uring_prep_recv(sqe, c->fd, c->in, sizeof c->in, 0);
    io_uring_sqe_set_data(sqe, c);
    c->sends = false;
}

static void begin_send(struct connection *c, struct answer answer)
{
    struct io_uring_sqe *sqe = entry();
    io_uring_prep_send(sqe, c->fd, answer.bytes, answer.count, MSG_NOSIGNAL | MSG_WAITALL);
    io_uring_sqe_set_data(sqe, c);
    c->sends = true;
}

static void connection_begin(int fd)
{
    struct connection *c = malloc(sizeof *c);
    need(fd >= 0, "accept");
    need(c != NULL, "malloc");
    server_no_delay(fd);
    c->fd = fd;
    c->last = false;
    talk_begin(&c->talk);
    begin_receive(c);
}

static void connection_end(struct connection *c)
{
    close(c->fd);
    free(c);
}

static void hear(struct connection *c, size_t count)
{
    struct answer answer = talk_hear(&c->talk, c->in, count);
    c->last = answer.last;
    if (answer.count > 0)
        begin_send(c, answer);
    else if (answer.last)
        connection_end(c);
    else
        begin_receive(c);
}

static void go_on(struct connection *c, int result)
{
    if (result <= 0 || (c->sends && c->last))
        connection_end(c);
    else if (c->sends)
        begin_receive(c);
    else
        hear(c, (size_t)result);
}

/* False: standard input has ended. */
static bool completed(struct connection *c, int result)
{
    if (c == &input) {
        if (result > 0)
            begin_input();
        return result > 0;
    }
    if (c == &acceptor) {
        connection_begin(result);
        begin_accept();
    } else {
        go_on(c, result);
    }
    return true;
}

static int serve_uring(void)
{
    bool goes_on = true;
    acceptor.fd = server_listen(0);
    open_ring();
    begin_accept();
    begin_input();
    while (goes_on) {
        struct io_uring_cqe *cqe;
        unsigned head, count = 0;
        io_uring_submit_and_wait(&ring, 1);
        io_uring_for_each_cqe(&ring, head, cqe)
        {
            count++;
            goes_on = completed(io_uring_cqe_get_data(cqe), cqe->res) && goes_on;
        }
        io_uring_cq_advance(&ring, count);
    }
    return 0;
}
