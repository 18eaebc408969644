/* The servers on duet, as one would write them. */
#include "measure.h"
#include "net.h"

#include <duet/duet.h>

#include <netinet/in.h>
#include <netinet/tcp.h>

/* Set before the loop runs. */
static enum net_work work;

/* ---- A coroutine for each connection ---- */

static duet_result converse(void *arg)
{
    int fd = (int)(intptr_t)arg;
    struct net_input in;
    ssize_t n;
    in.count = 0;
    while ((n = duet_read(fd, in.bytes + in.count, sizeof in.bytes - in.count, DUET_NEVER)) > 0) {
        in.count += (size_t)n;
        struct net_text answer = net_answer(work, &in);
        if (answer.count > 0)
            need(duet_write(fd, answer.bytes, answer.count, DUET_NEVER) == (ssize_t)answer.count,
                 "duet_write");
    }
    duet_close(fd);
    return duet_ok();
}

static duet_result accept_all(void *arg)
{
    const int on = 1;
    int listen_fd = net_listen((int)(intptr_t)arg), fd;
    while ((fd = duet_accept(listen_fd, NULL, NULL, DUET_NEVER)) >= 0) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        duet_future_unref(duet_spawn(converse, (void *)(intptr_t)fd));
    }
    return duet_err(fd);
}

void net_serve_duet(enum net_work given_work, int port_fd)
{
    work = given_work;
    duet_run(accept_all, (void *)(intptr_t)port_fd, NULL);
    need(false, "the server on duet_read() goes on");
}

/* ---- Streams ---- */

static duet_result echo(duet_stream *stream, void *arg)
{
    char bytes[NET_INPUT_MOST];
    ssize_t n;
    (void)arg;
    while ((n = duet_stream_read(stream, bytes, sizeof bytes, DUET_NEVER)) > 0)
        need(duet_stream_write(stream, bytes, (size_t)n, DUET_NEVER) == 0, "duet_stream_write");
    return duet_ok();
}

static duet_result http(duet_stream *stream, void *arg)
{
    const struct net_text *answer = &net_answers[NET_HTTP];
    const char *line;
    ssize_t n;
    (void)arg;
    while ((n = duet_stream_read_line(stream, &line, DUET_NEVER)) > 0)
        if (n == sizeof "\r\n" - 1)
            need(duet_stream_write(stream, answer->bytes, answer->count, DUET_NEVER) == 0,
                 "duet_stream_write");
    return duet_ok();
}

static duet_result serve(void *arg)
{
    const duet_server_config config = {.handler = work == NET_ECHO ? echo : http};
    struct sockaddr_storage address;
    duet_server *server;
    need(duet_server_open(&server, &config) == 0, "duet_server_open");
    need(duet_server_address(server, &address) == 0, "duet_server_address");
    net_tell_port((int)(intptr_t)arg, ntohs(((struct sockaddr_in *)&address)->sin_port));
    return duet_err(duet_server_serve(server, DUET_NEVER));
}

void net_serve_streams(enum net_work given_work, int port_fd)
{
    work = given_work;
    duet_run(serve, (void *)(intptr_t)port_fd, NULL);
    need(false, "the server on streams goes on");
}
