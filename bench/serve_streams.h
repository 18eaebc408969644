/* A server on duet's streams: duet_server, and a handler for each connection. */
#pragma once
#include "server.h"

#include <duet/duet.h>

static duet_result converse(duet_stream *stream, void *arg)
{
    char in[TALK_INPUT];
    struct talk talk;
    ssize_t n;
    (void)arg;
    talk_begin(&talk);
    while ((n = duet_stream_read(stream, in, sizeof in, DUET_NEVER)) > 0) {
        struct answer answer = talk_hear(&talk, in, (size_t)n);
        if (answer.count > 0 &&
            duet_stream_write(stream, answer.bytes, answer.count, DUET_NEVER) < 0)
            break;
        if (answer.last)
            break;
    }
    return duet_ok();
}

static duet_result serve_all(void *server)
{
    return duet_err(duet_server_serve(server, DUET_NEVER));
}

static duet_result serve_until_input_ends(void *arg)
{
    const duet_server_config config = {
        .handler = converse, .connections_max = SERVER_CONNECTIONS_MOST, .backlog = SERVER_BACKLOG};
    struct sockaddr_storage address;
    duet_server *server;
    char bytes[64];
    (void)arg;
    need(duet_server_open(&server, &config) == 0, "duet_server_open");
    need(duet_server_address(server, &address) == 0, "duet_server_address");
    server_say_port(ntohs(((struct sockaddr_in *)&address)->sin_port));
    duet_future_unref(duet_spawn(serve_all, server));
    while (duet_read(STDIN_FILENO, bytes, sizeof bytes, DUET_NEVER) > 0)
        ;
    duet_server_close(server, DUET_NOW);
    return duet_ok();
}

static int serve_streams(void)
{
    server_raise_limit();
    need(duet_run(serve_until_input_ends, NULL, NULL) == 0, "duet_run");
    return 0;
}
