/* A server on libuv. Answers are tried at once, as its documentation advises for small ones; what
 * does not go is queued. */
#pragma once
#include "server.h"

#include <signal.h>
#include <uv.h>

struct connection {
    uv_tcp_t tcp;
    struct talk talk;
    char in[TALK_INPUT];
};

struct rest {
    uv_write_t write;
    char bytes[];
};

static void ended(uv_handle_t *handle)
{
    free(handle); /* of a connection it is the first member */
}

static void connection_end(struct connection *c)
{
    if (!uv_is_closing((uv_handle_t *)&c->tcp))
        uv_close((uv_handle_t *)&c->tcp, ended);
}

static void rest_sent(uv_write_t *write, int status)
{
    (void)status; /* a connection that fails ends by its read */
    free(write);
}

static void send_rest(struct connection *c, const char *bytes, size_t count)
{
    struct rest *rest = malloc(sizeof *rest + count);
    uv_buf_t buf;
    need(rest != NULL, "malloc");
    memcpy(rest->bytes, bytes, count);
    buf = uv_buf_init(rest->bytes, (unsigned)count);
    if (uv_write(&rest->write, (uv_stream_t *)&c->tcp, &buf, 1, rest_sent) < 0)
        free(rest);
}

static void say(struct connection *c, struct answer answer)
{
    uv_buf_t buf = {.base = (char *)(uintptr_t)answer.bytes, .len = answer.count};
    int sent = uv_try_write((uv_stream_t *)&c->tcp, &buf, 1);
    size_t done = sent > 0 ? (size_t)sent : 0;
    if (done < answer.count)
        send_rest(c, answer.bytes + done, answer.count - done);
}

static void give_room(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
    struct connection *c = (struct connection *)handle;
    (void)suggested;
    *buf = uv_buf_init(c->in, sizeof c->in);
}

static void have_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
    struct connection *c = (struct connection *)stream;
    if (n < 0) {
        connection_end(c);
    } else if (n > 0) {
        struct answer answer = talk_hear(&c->talk, buf->base, (size_t)n);
        if (answer.count > 0)
            say(c, answer);
        if (answer.last)
            connection_end(c);
    }
}

static void one_comes(uv_stream_t *listener, int status)
{
    struct connection *c = malloc(sizeof *c);
    need(status == 0 && c != NULL, "one comes");
    need(uv_tcp_init(listener->loop, &c->tcp) == 0, "uv_tcp_init");
    need(uv_accept(listener, (uv_stream_t *)&c->tcp) == 0, "uv_accept");
    uv_tcp_nodelay(&c->tcp, 1);
    talk_begin(&c->talk);
    need(uv_read_start((uv_stream_t *)&c->tcp, give_room, have_read) == 0, "uv_read_start");
}

static void listen_on(uv_loop_t *loop, uv_tcp_t *listener)
{
    struct sockaddr_in address;
    struct sockaddr_storage bound;
    int len = sizeof bound;
    need(uv_ip4_addr("127.0.0.1", 0, &address) == 0, "uv_ip4_addr");
    need(uv_tcp_init(loop, listener) == 0, "uv_tcp_init");
    need(uv_tcp_bind(listener, (struct sockaddr *)&address, 0) == 0, "uv_tcp_bind");
    need(uv_listen((uv_stream_t *)listener, SERVER_BACKLOG, one_comes) == 0, "uv_listen");
    need(uv_tcp_getsockname(listener, (struct sockaddr *)&bound, &len) == 0, "uv_tcp_getsockname");
    server_say_port(ntohs(((struct sockaddr_in *)&bound)->sin_port));
}

static void input_comes(uv_poll_t *poll, int status, int events)
{
    char bytes[64];
    (void)status;
    (void)events;
    if (read(STDIN_FILENO, bytes, sizeof bytes) <= 0)
        uv_stop(poll->loop);
}

static int serve_uv(void)
{
    uv_loop_t *loop = uv_default_loop();
    uv_tcp_t listener;
    uv_poll_t input;
    signal(SIGPIPE, SIG_IGN); /* libuv leaves that to the program */
    server_raise_limit();
    listen_on(loop, &listener);
    if (uv_poll_init(loop, &input, STDIN_FILENO) < 0)
        return 0; /* a file, say /dev/null: it has an end already */
    need(uv_poll_start(&input, UV_READABLE, input_comes) == 0, "uv_poll_start");
    uv_run(loop, UV_RUN_DEFAULT);
    return 0;
}
