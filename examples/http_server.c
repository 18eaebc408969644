/* An HTTP/1.1 server: the JSON server of the articles about asyncio, grown up.
 *
 *   http_server [OPTION…]
 *
 *   GET /                      a greeting, as JSON
 *   GET, POST /notes           notes in an SQLite database: at most 100 are listed (?after=ID: of later
 *                              ones); {"text": …} adds one
 *   GET, DELETE /notes/ID      one of them
 *   GET /files/…               what is below --root
 *   GET /metrics               what it has done, for Prometheus
 *
 * One loop, a coroutine for each connection; what blocks (disk, database, log) is done by jobs. It goes
 * on sockets themselves (duet/io.h), not on a duet_server with its streams: so a file goes into a socket
 * by duet_sendfile(), and an idle connection can be told from one with a request.
 *
 * SIGTERM and SIGINT stop it: no more connections, idle ones are closed, requests in flight are answered
 * by --grace, and what is left is cut. A second signal ends it at once. */
#include "http/http.h"

#include <argp.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <unistd.h>

enum {
    BACKLOG = 4096, /* the system may have a lower limit */
    SHORT_OF_MS = 100, /* how long to wait for what the system is short of */
    RESERVED = 3 * DOWNLOADS_MAX + 64 /* descriptors that are not for connections */
};

/* ---- Connections ---- */

/* After the coroutine, or instead of it. */
static void connection_ended(void *arg)
{
    struct connection *c = arg;
    struct server *server = c->server;
    close(c->fd);
    free(c);
    server->count--;
    duet_event_set(&server->room);
}

static void start_connection(struct server *server, int fd)
{
    const duet_opts opts = {.name = "connection", .drop = connection_ended};
    const int on = 1;
    struct connection *c = calloc(1, sizeof *c);
    if (!c) {
        close(fd);
        return;
    }
    c->server = server;
    c->fd = fd;
    c->id = ++server->clients;
    server->count++;
    server->metrics.accepted++;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on); /* an answer is written whole */
    duet_group_spawn(&server->connections, NULL, http_serve, c, &opts);
}

/* Its read ends, as if the client had sent no more; but not if a request has come meanwhile. */
static void end_longest_idle(struct server *server)
{
    struct connection *c = TAILQ_FIRST(&server->idle);
    int unread = 0;
    if (!c)
        return;
    TAILQ_REMOVE(&server->idle, c, idle_link);
    c->is_idle = false;
    if (ioctl(c->fd, FIONREAD, &unread) < 0 || unread == 0)
        shutdown(c->fd, SHUT_RD);
}

/* There are as many as may be. When another one comes, the longest idle one has to go; or else the
 * first that has its answer. */
static int make_room(struct server *server, int listener)
{
    int rc = duet_poll(listener, POLLIN, DUET_NEVER);
    server->crowded = true;
    end_longest_idle(server);
    while (rc >= 0 && server->count >= server->options.connections) {
        duet_event_clear(&server->room);
        rc = duet_event_wait(&server->room, DUET_NEVER);
    }
    server->crowded = false;
    return rc < 0 ? rc : 0;
}

/* Something is missing, descriptors or memory perhaps: it may come back when a connection ends. */
static int wait_for_room(struct server *server)
{
    duet_event_clear(&server->room);
    end_longest_idle(server);
    return duet_event_wait(&server->room, duet_ms(SHORT_OF_MS));
}

struct accepting {
    struct server *server;
    int listener;
};

/* A coroutine, until it is cancelled. */
static duet_result accept_all(void *arg)
{
    struct accepting *accepting = arg;
    struct server *server = accepting->server;
    int rc = 0;
    while (rc != -ECANCELED) {
        if (server->count >= server->options.connections) {
            rc = make_room(server, accepting->listener);
            continue;
        }
        rc = duet_accept(accepting->listener, NULL, NULL, DUET_NEVER);
        if (rc >= 0)
            start_connection(server, rc);
        else if (rc != -ECANCELED && rc != -ECONNABORTED) /* that one was gone before it came */
            rc = wait_for_room(server);
    }
    return duet_ok();
}

/* ---- Beginning and end ---- */

static int listen_at(const char *host, const char *port, int *ret)
{
    const struct addrinfo hints = {.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV | AI_PASSIVE,
                                   .ai_socktype = SOCK_STREAM};
    const int on = 1;
    struct addrinfo *address;
    if (getaddrinfo(host, port, &hints, &address) != 0)
        return -EINVAL;
    int rc = 0, fd = socket(address->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) < 0 ||
        bind(fd, address->ai_addr, address->ai_addrlen) < 0 || listen(fd, BACKLOG) < 0)
        rc = -errno;
    freeaddrinfo(address);
    if (rc < 0 && fd >= 0)
        close(fd);
    *ret = fd;
    return rc;
}

static void say_where(int listener)
{
    struct sockaddr_storage address;
    socklen_t len = sizeof address;
    char host[64] = "?", port[16] = "?";
    getsockname(listener, (struct sockaddr *)&address, &len);
    getnameinfo((struct sockaddr *)&address, len, host, sizeof host, port, sizeof port,
                NI_NUMERICHOST | NI_NUMERICSERV);
    bool v6 = address.ss_family == AF_INET6;
    printf("listening on %s%s%s:%s\n", v6 ? "[" : "", host, v6 ? "]" : "", port);
    fflush(stdout);
}

static void stop(struct server *server)
{
    server->stopping = true;
    while (!TAILQ_EMPTY(&server->idle))
        end_longest_idle(server);
    if (duet_group_wait(&server->connections, in_seconds(server->options.grace), NULL) == -ETIME)
        fprintf(stderr, "http_server: cuts %u connections\n", server->count);
    duet_group_close(&server->connections);
}

/* The main coroutine. */
static duet_result serve(void *arg)
{
    static const int signos[] = {SIGTERM, SIGINT};
    struct server *server = arg;
    struct accepting accepting = {.server = server};
    duet_signals *signals;
    int rc = duet_signals_open(&signals, signos, 2);
    if (rc < 0)
        return duet_err(rc);
    rc = listen_at(server->options.host, server->options.port, &accepting.listener);
    if (rc < 0) {
        fprintf(stderr, "http_server: cannot listen at %s, port %s\n", server->options.host,
                server->options.port);
    } else {
        duet_future *acceptor = duet_spawn(accept_all, &accepting);
        say_where(accepting.listener);
        rc = duet_signals_wait(signals, DUET_NEVER);
        duet_future_close(acceptor, NULL);
        duet_close(accepting.listener);
    }
    duet_signals_close(signals); /* from here on, a signal does what it does everywhere */
    stop(server);
    return duet_err(rc < 0 ? rc : 0);
}

/* As many descriptors as this process may have: each connection needs one, and some are for files. */
static void raise_descriptor_limit(struct options *options)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
        return;
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    rlim_t most = limit.rlim_max > 2 * RESERVED ? limit.rlim_max - RESERVED : limit.rlim_max / 2;
    if (options->connections > most) {
        options->connections = (unsigned)most;
        fprintf(stderr, "http_server: takes %u connections only: RLIMIT_NOFILE\n",
                options->connections);
    }
}

/* ---- Options ---- */

static const char ABOUT[] = "An HTTP/1.1 server that no client can stop.";
static const struct argp_option OPTIONS[] = {
    {"port", 'p', "N", 0, "Listen there (8080); 0: the kernel chooses", 0},
    {"host", 'h', "ADDRESS", 0, "Listen on this numeric address (127.0.0.1)", 0},
    {"root", 'r', "DIRECTORY", 0, "Serve the files below it as /files/… (none)", 0},
    {"database", 'd', "FILE", 0, "Keep the notes there (in memory)", 0},
    {"connections", 'c', "N", 0, "At once (10,000); more wait", 0},
    {"body", 'b', "BYTES", 0, "Of a request, at most (65,536)", 0},
    {"request-timeout", 't', "SECONDS", 0, "For a whole request, from its first byte on (10)", 0},
    {"send-timeout", 's', "SECONDS", 0, "For each 128 KiB of an answer (10)", 0},
    {"idle-timeout", 'i', "SECONDS", 0, "Between two requests (60)", 0},
    {"grace", 'g', "SECONDS", 0, "For the requests in flight, when it is stopped (10)", 0},
    {"quiet", 'q', NULL, 0, "No access log on standard error", 0},
    {0}};

static double number(const char *text, bool whole, double low, double high,
                     struct argp_state *state)
{
    char *end;
    double n = strtod(text, &end);
    if (end == text || *end || !(n >= low && n <= high) || (whole && n != (double)(int64_t)n))
        argp_error(state, "'%s' is not a %snumber from %g to %g", text, whole ? "whole " : "", low,
                   high);
    return n;
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct options *options = state->input;
    if (key == 'p') {
        number(arg, true, 0, 65535, state);
        options->port = arg;
    } else if (key == 'h')
        options->host = arg;
    else if (key == 'r')
        options->root = arg;
    else if (key == 'd')
        options->database = arg;
    else if (key == 'c')
        options->connections = (unsigned)number(arg, true, 1, 1e6, state);
    else if (key == 'b')
        options->body = (size_t)number(arg, true, 0, 1e9, state);
    else if (key == 't')
        options->request_timeout = number(arg, false, 0.01, 1e6, state);
    else if (key == 's')
        options->send_timeout = number(arg, false, 0.01, 1e6, state);
    else if (key == 'i')
        options->idle_timeout = number(arg, false, 0.01, 1e6, state);
    else if (key == 'g')
        options->grace = number(arg, false, 0, 1e6, state);
    else if (key == 'q')
        options->quiet = true;
    else
        return ARGP_ERR_UNKNOWN;
    return 0;
}

static int open_root(const char *path)
{
    if (!path)
        return -1;
    int root = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (root < 0) {
        fprintf(stderr, "http_server: %s: %s\n", path, strerror(errno));
        exit(1);
    }
    return root;
}

int main(int argc, char **argv)
{
    const struct argp argp = {.options = OPTIONS, .parser = parse, .doc = ABOUT};
    const duet_opts opts = {.name = "main"};
    duet_result r = duet_ok();
    struct server server = {.options = {.host = "127.0.0.1",
                                        .port = "8080",
                                        .database = ":memory:",
                                        .request_timeout = 10,
                                        .send_timeout = 10,
                                        .idle_timeout = 60,
                                        .grace = 10,
                                        .connections = 10000,
                                        .body = 65536}};
    argp_err_exit_status = 2;
    argp_parse(&argp, argc, argv, 0, NULL, &server.options);
    signal(SIGPIPE, SIG_IGN); /* of standard error */
    raise_descriptor_limit(&server.options);
    TAILQ_INIT(&server.idle);
    duet_sem_init(&server.downloads, DOWNLOADS_MAX);
    server.root = open_root(server.options.root);
    int rc = notes_open(&server.notes, server.options.database);
    if (rc == 0 && !server.options.quiet)
        rc = log_open(&server.log);
    if (rc == 0)
        rc = duet_run_with(serve, &server, &opts, &r);
    if (server.log)
        log_close(server.log);
    if (server.notes)
        notes_close(server.notes);
    if (server.root >= 0)
        close(server.root);
    rc = rc < 0 ? rc : r.err;
    if (rc < 0)
        fprintf(stderr, "http_server: %s\n", duet_strerror(rc));
    return rc < 0;
}
