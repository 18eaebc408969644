/* What all servers in C share: where they listen, and what a conversation is. Which conversation,
 * the echo or HTTP, the program includes before. */
#pragma once
#include "bench.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    SERVER_BACKLOG = 4096,
    SERVER_CONNECTIONS_MOST = 100000,
};

static inline void server_say_port(int port)
{
    printf("port %d\n", port);
    fflush(stdout);
}

/* A descriptor a connection. */
static inline void server_raise_limit(void)
{
    struct rlimit limit;
    need(getrlimit(RLIMIT_NOFILE, &limit) == 0, "getrlimit");
    limit.rlim_cur = limit.rlim_max;
    need(setrlimit(RLIMIT_NOFILE, &limit) == 0, "setrlimit");
}

/* A socket that listens, whose port it has said. flags: of its type. */
static inline int server_listen(int flags)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t len = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | flags, 0);
    need(fd >= 0, "socket");
    need(bind(fd, (struct sockaddr *)&address, len) == 0, "bind");
    need(listen(fd, SERVER_BACKLOG) == 0, "listen");
    need(getsockname(fd, (struct sockaddr *)&address, &len) == 0, "getsockname");
    server_raise_limit();
    server_say_port(ntohs(address.sin_port));
    return fd;
}

static inline void server_no_delay(int fd)
{
    const int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}
