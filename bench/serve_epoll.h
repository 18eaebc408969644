/* A server without a library, on epoll, edge-triggered. */
#pragma once
#include "server.h"

#include <errno.h>
#include <sys/epoll.h>

enum {
    EPOLL_EVENTS = 256
};

struct connection {
    int fd;
    struct talk talk;
    char in[TALK_INPUT];
};

static int epoll_fd, listen_fd;

/* False: it is a file, which cannot be watched. */
static bool watch(int fd, uint32_t events, void *ptr)
{
    struct epoll_event event = {events, {.ptr = ptr}};
    bool watched = epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event) == 0;
    need(watched || errno == EPERM, "epoll_ctl");
    return watched;
}

static void accept_all(void)
{
    int fd;
    while ((fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK)) >= 0) {
        struct connection *c = malloc(sizeof *c);
        need(c != NULL, "malloc");
        server_no_delay(fd);
        c->fd = fd;
        talk_begin(&c->talk);
        watch(fd, EPOLLIN | EPOLLRDHUP | EPOLLET, c);
    }
    need(errno == EAGAIN || errno == ECONNABORTED, "accept4");
}

static bool say(const struct connection *c, struct answer answer)
{
    /* Who does not read what it asked for, so that there is no room, is let go. */
    return answer.count == 0 ||
           send(c->fd, answer.bytes, answer.count, MSG_NOSIGNAL) == (ssize_t)answer.count;
}

/* Until nothing is left, which a receive that does not fill its buffer tells: epoll(7). False: the
 * connection has ended. */
static bool converse(struct connection *c)
{
    ssize_t n;
    do {
        n = recv(c->fd, c->in, sizeof c->in, 0);
        if (n <= 0)
            return n < 0 && errno == EAGAIN;
        struct answer answer = talk_hear(&c->talk, c->in, (size_t)n);
        if (!say(c, answer) || answer.last)
            return false;
    } while ((size_t)n == sizeof c->in);
    return true;
}

static void go_on(struct connection *c)
{
    if (converse(c))
        return;
    close(c->fd);
    free(c);
}

/* False: standard input has ended. */
static bool input_goes_on(void)
{
    char bytes[64];
    return read(STDIN_FILENO, bytes, sizeof bytes) > 0;
}

static int serve_epoll(void)
{
    static char input; /* its address stands for standard input, and NULL for who comes */
    struct epoll_event events[EPOLL_EVENTS];
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    listen_fd = server_listen(SOCK_NONBLOCK);
    watch(listen_fd, EPOLLIN, NULL);
    if (!watch(STDIN_FILENO, EPOLLIN, &input))
        return 0; /* /dev/null, say: it has an end already */
    for (;;) {
        int n = epoll_wait(epoll_fd, events, EPOLL_EVENTS, -1);
        for (int i = 0; i < n; i++) {
            void *ptr = events[i].data.ptr;
            if (!ptr)
                accept_all();
            else if (ptr != &input)
                go_on(ptr);
            else if (!input_goes_on())
                return 0;
        }
    }
}
