/* A server: one coroutine accepts, each connection has one of its own, all in one group. */
#include "address.h"
#include "check.h"
#include "log.h"
#include "park.h"
#include "stream.h"
#include "task.h"

#include <duet/io.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>

enum {
    CONNECTIONS_DEFAULT = 10000,
    BACKLOG_DEFAULT = 1024,
    CLOSE_DEFAULT_S = 5,
    SHORT_OF_MS = 100, /* how long to wait for what the system is short of */
};

/* Owned by whoever opened it; all but `shut` belongs to its loop's thread. */
struct duet_server {
    int fd;
    duet_loop *loop; /* where it was opened; only compared */
    duet_server_config config;
    char *path; /* of a socket in the file system: unlinked at the end; NULL */
    _Atomic bool shut; /* by any thread; the listening socket is shut down after it */
    bool told_short; /* the log has said that descriptors are missing, and none has come since */
    duet_server_stats stats;
    duet_event room; /* set while there are fewer than connections_max, and at each end */
    duet_group connections;
    unsigned serving; /* calls of duet_server_serve() */
    duet_event served; /* set when there is none any more */
};

/* Owned by its coroutine. */
struct connection {
    duet_server *server;
    int fd;
};

/* ---- Opening ---- */

/* The address to bind to; *ret_path: it is one in the file system. */
static int address_of(const duet_server_config *config, struct sockaddr_storage *ret,
                      socklen_t *ret_len, const char **ret_path)
{
    const struct addrinfo hints = {.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV | AI_PASSIVE,
                                   .ai_socktype = SOCK_STREAM};
    struct addrinfo *found;
    *ret_path = duet__unix_path(config->host);
    if (*ret_path)
        return duet__unix_address(*ret_path, ret, ret_len);
    if (getaddrinfo(config->host ? config->host : "127.0.0.1", config->port ? config->port : "0",
                    &hints, &found) != 0)
        return duet__bad_argument("duet_server_open", "host or port is not numeric");
    memcpy(ret, found->ai_addr, found->ai_addrlen);
    *ret_len = found->ai_addrlen;
    freeaddrinfo(found);
    return 0;
}

/* A socket that a server has left in the file system, and that nobody listens to. */
static void remove_if_stale(const char *path, const struct sockaddr_storage *address, socklen_t len)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return;
    if (connect(fd, (const struct sockaddr *)address, len) < 0 && errno == ECONNREFUSED)
        unlink(path);
    close(fd);
}

static int set_options(int fd, const struct sockaddr_storage *address, bool reuse_port)
{
    const int on = 1, off = 0;
    if (address->ss_family == AF_UNIX)
        return 0;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (address->ss_family == AF_INET6)
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
    return reuse_port && setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof on) < 0 ? -errno : 0;
}

static int listen_at(duet_server *s, const struct sockaddr_storage *address, socklen_t len,
                     const char *path)
{
    s->fd = socket(address->ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (s->fd < 0)
        return -errno;
    int rc = set_options(s->fd, address, s->config.reuse_port);
    if (rc < 0)
        return rc;
    if (path)
        remove_if_stale(path, address, len);
    if (bind(s->fd, (const struct sockaddr *)address, len) < 0)
        return -errno;
    if (path && !(s->path = strdup(path))) {
        unlink(path);
        return -ENOMEM;
    }
    return listen(s->fd, s->config.backlog) < 0 ? -errno : 0;
}

static void destroy(duet_server *s)
{
    if (s->fd >= 0)
        close(s->fd);
    if (s->path)
        unlink(s->path);
    free(s->path);
    free(s);
}

static int check_config(const duet_server_config *config)
{
    static const char function[] = "duet_server_open";
    if (!config || !config->handler)
        return duet__bad_argument(function, config ? "config.handler is NULL" : "config is NULL");
    if (!duet__reserved_unused(config->reserved, sizeof config->reserved / sizeof(uintptr_t)) ||
        !duet__reserved_unused(config->stream.reserved,
                               sizeof config->stream.reserved / sizeof(uintptr_t)))
        return duet__bad_argument(function, "config.reserved is not zero: was it initialised?");
    if (config->backlog < 0 || config->close_ns < 0)
        return duet__bad_argument(function, "config.backlog or config.close_ns is negative");
    return 0;
}

static void use_defaults(duet_server_config *config)
{
    if (config->connections_max == 0)
        config->connections_max = CONNECTIONS_DEFAULT;
    if (config->backlog == 0)
        config->backlog = BACKLOG_DEFAULT;
    if (config->close_ns == 0)
        config->close_ns = INT64_C(1000000000) * CLOSE_DEFAULT_S;
}

int duet_server_open(duet_server **ret, const duet_server_config *config)
{
    struct sockaddr_storage address;
    socklen_t len;
    const char *path = NULL;
    duet__check(duet_loop_self(), "a server is opened in a coroutine, or a callback, of a loop");
    int rc = ret ? check_config(config) : duet__bad_argument(__func__, "ret is NULL");
    if (rc == 0)
        rc = address_of(config, &address, &len, &path);
    if (rc < 0)
        return rc;
    duet_server *s = calloc(1, sizeof *s);
    if (!s)
        return -ENOMEM;
    s->fd = -1;
    s->loop = duet_loop_self();
    s->config = *config;
    s->config.host = s->config.port = NULL; /* the caller's strings */
    use_defaults(&s->config);
    duet_event_set(&s->room);
    duet_event_set(&s->served);
    rc = listen_at(s, &address, len, path);
    if (rc < 0)
        destroy(s);
    else
        *ret = s;
    return rc;
}

int duet_server_address(const duet_server *s, struct sockaddr_storage *ret)
{
    socklen_t len = sizeof *ret;
    if (!s || !ret)
        return duet__bad_argument(__func__, s ? "ret is NULL" : "s is NULL");
    memset(ret, 0, sizeof *ret);
    return getsockname(s->fd, (struct sockaddr *)ret, &len) < 0 ? -errno : 0;
}

void duet_server_stats_get(const duet_server *s, duet_server_stats *ret)
{
    if (!s || !ret)
        duet__bad_argument(__func__, s ? "ret is NULL" : "s is NULL");
    else
        *ret = s->stats;
}

/* ---- A connection ---- */

static void report_failure(const duet_stream *stream, int error)
{
    char text[128];
    const char *name = strerrorname_np(-error);
    duet__log(DUET_WARNING, "the handler of the connection from %s failed with %s (%s)",
              stream->has_peer ? duet__address_text(&stream->peer, text, sizeof text) : "somebody",
              name ? name : "an unknown error", duet_strerror(error));
}

static void handle(duet_server *s, duet_stream *stream)
{
    duet_result r = s->config.handler(stream, s->config.arg);
    if (r.err < 0 && r.err != -ECANCELED) {
        s->stats.failed++;
        report_failure(stream, r.err);
    }
    if (!stream->detached)
        duet_stream_close(stream, duet_ns(s->config.close_ns));
}

static duet_result connection_main(void *arg)
{
    struct connection *connection = arg;
    duet_stream *stream;
    int rc = duet_stream_open(&stream, connection->fd, &connection->server->config.stream);
    if (rc == 0) {
        connection->fd = -1;
        handle(connection->server, stream);
    }
    return duet_ok(); /* one that fails leaves the others alone */
}

/* After the coroutine, or instead of it. */
static void connection_ended(void *arg)
{
    struct connection *connection = arg;
    duet_server *s = connection->server;
    if (connection->fd >= 0)
        close(connection->fd);
    free(connection);
    s->stats.connections--;
    duet_event_set(&s->room);
}

/* Of a descriptor that was accepted. */
static void start_connection(duet_server *s, int fd)
{
    const duet_opts opts = {.name = "connection", .drop = connection_ended};
    struct connection *connection = malloc(sizeof *connection);
    if (!connection) {
        close(fd);
        return;
    }
    *connection = (struct connection){s, fd};
    s->stats.accepted++;
    s->stats.connections++;
    duet_group_spawn(&s->connections, NULL, connection_main, connection, &opts);
}

/* ---- Serving ---- */

/* Publishes nothing; who shuts then ends every wait of ours. */
static bool is_shut(duet_server *s)
{
    return duet__load_acquire(&s->shut);
}

/* What is missing may come back when a connection ends; the backlog waits meanwhile. */
static bool is_short_of(int error)
{
    return error == -EMFILE || error == -ENFILE || error == -ENOBUFS || error == -ENOMEM;
}

static int wait_for_what_is_missing(duet_server *s, int error, duet_deadline by)
{
    if (!s->told_short)
        duet__log(DUET_WARNING,
                  "a server cannot accept, and waits: %s (%u connections; raise RLIMIT_NOFILE, or "
                  "lower connections_max)",
                  duet_strerror(error), s->stats.connections);
    s->told_short = true;
    duet_event_clear(&s->room);
    if (is_shut(s)) /* after the clear: shutting sets it */
        return 0;
    duet_deadline soon = duet_ms(SHORT_OF_MS);
    int rc = duet_event_wait(&s->room, soon.ns < by.ns ? soon : by);
    return rc == -ETIME && soon.ns < by.ns ? 0 : rc;
}

static int wait_for_room(duet_server *s, duet_deadline by)
{
    int rc = 0;
    while (rc == 0) {
        duet_event_clear(&s->room);
        if (s->stats.connections < s->config.connections_max || is_shut(s))
            return 0;
        rc = duet_event_wait(&s->room, by);
    }
    return rc;
}

/* 0: go on. */
static int accept_one(duet_server *s, duet_deadline by)
{
    int rc = wait_for_room(s, by);
    if (rc < 0 || is_shut(s))
        return rc;
    int fd = duet_accept(s->fd, NULL, NULL, by);
    if (is_short_of(fd))
        return wait_for_what_is_missing(s, fd, by);
    if (fd < 0)
        return is_shut(s) ? 0 : fd;
    s->told_short = false;
    start_connection(s, fd);
    return 0;
}

int duet_server_serve(duet_server *s, duet_deadline by)
{
    int rc = 0;
    if (!s)
        return duet__bad_argument(__func__, "s is NULL");
    duet__check(duet__task_here() && s->loop == duet_loop_self(),
                "a server serves in a coroutine of the loop that opened it");
    s->serving++;
    duet_event_clear(&s->served);
    while (rc == 0 && !is_shut(s))
        rc = accept_one(s, by);
    if (--s->serving == 0)
        duet_event_set(&s->served);
    return rc;
}

/* ---- The end ---- */

void duet_server_shut(duet_server *s)
{
    if (!s) {
        duet__bad_argument(__func__, "s is NULL");
        return;
    }
    duet__store_release(&s->shut, true);
    shutdown(s->fd, SHUT_RDWR); /* ends an accept that waits */
    duet_event_set(&s->room); /* and one that waits for room */
}

int duet_server_close(duet_server *s, duet_deadline by)
{
    if (!s)
        return duet__bad_argument(__func__, "s is NULL");
    duet__check(duet__task_here() && s->loop == duet_loop_self(),
                "a server is closed in a coroutine of the loop that opened it");
    duet_server_shut(s);
    int rc = duet_group_wait(&s->connections, by, NULL);
    if (rc == -EDEADLK)
        return rc;
    duet_shield_begin();
    while (s->serving > 0)
        duet_event_wait(&s->served, DUET_NEVER);
    duet_group_close(&s->connections); /* cancels, waits */
    duet_shield_end();
    destroy(s);
    return rc;
}
