/* A server on duet's calls on descriptors: a coroutine for each connection. */
#pragma once
#include "server.h"

#include <duet/duet.h>

static void converse(int fd)
{
    char in[TALK_INPUT];
    struct talk talk;
    ssize_t n;
    talk_begin(&talk);
    while ((n = duet_read(fd, in, sizeof in, DUET_NEVER)) > 0) {
        struct answer answer = talk_hear(&talk, in, (size_t)n);
        if (answer.count > 0 &&
            duet_write(fd, answer.bytes, answer.count, DUET_NEVER) < (ssize_t)answer.count)
            break;
        if (answer.last)
            break;
    }
}

static duet_result connection(void *arg)
{
    int fd = (int)(intptr_t)arg;
    converse(fd);
    duet_close(fd);
    return duet_ok();
}

static duet_result accept_all(void *arg)
{
    int fd;
    while ((fd = duet_accept((int)(intptr_t)arg, NULL, NULL, DUET_NEVER)) >= 0) {
        server_no_delay(fd);
        duet_future_unref(duet_spawn(connection, (void *)(intptr_t)fd));
    }
    return duet_err(fd);
}

/* What still runs when this returns is cancelled. */
static duet_result serve_until_input_ends(void *arg)
{
    char bytes[64];
    (void)arg;
    duet_future_unref(duet_spawn(accept_all, (void *)(intptr_t)server_listen(0)));
    while (duet_read(STDIN_FILENO, bytes, sizeof bytes, DUET_NEVER) > 0)
        ;
    return duet_ok();
}

static int serve_duet(void)
{
    need(duet_run(serve_until_input_ends, NULL, NULL) == 0, "duet_run");
    return 0;
}
