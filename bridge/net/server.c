/* A server: one coroutine accepts, each connection has one of its own, all in one group. */
#include "address.h"
#include "alloc.h"
#include "check.h"
#include "future_impl.h"
#include "log.h"
#include "park.h"
#include "stream.h"
#include "task.h"

#include <duet/io.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    CONNECTIONS_DEFAULT = 10000,
    BACKLOG_DEFAULT = 1024,
    CLOSE_DEFAULT_S = 5,
    TELL_AGAIN_S = 60, /* that something is missing, since the last time it was */
    SHORT_OF_MS = 100, /* how long to wait for what the system is short of */
};

/* Owned by whoever opened it; all but what shutting needs belongs to its loop's thread. */
struct duet_server {
    int fd; /* constant */
    duet_loop *loop; /* where it was opened; only compared */
    duet_server_config config;
    char *path; /* of a socket in the file system: unlinked at the end, if it is still ours; NULL */
    dev_t device;
    ino_t inode;
    struct duet__lock shutting; /* held by who shuts: it is not freed meanwhile */
    _Atomic bool shut; /* by any thread; the listening socket is shut down after it */
    int64_t tell_ns; /* from when on the log says again that descriptors are missing */
    duet_server_stats stats;
    duet_event room; /* set at the end of a connection, and when it is shut */
    duet_event none; /* set while there is no connection */
    struct duet__list connections;
    unsigned serving; /* calls of duet_server_serve() */
    duet_event served; /* set when there is none any more */
};

/* Owned by its coroutine. */
struct connection {
    duet_server *server;
    struct duet__list link; /* among the server's */
    duet_future *work; /* NULL: it is being started */
    int fd; /* -1: its stream has it */
    bool detached; /* then the handler may have closed its stream already */
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
    if (!duet__port_fits(config->port))
        return duet__bad_argument("duet_server_open", "port is above 65535");
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
    struct stat found;
    if (lstat(path, &found) < 0 || !S_ISSOCK(found.st_mode))
        return;
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

static int remember_path(duet_server *s, const char *path)
{
    struct stat bound;
    s->path = duet__alloc_string(path);
    if (!s->path || lstat(path, &bound) < 0) {
        unlink(path);
        return -ENOMEM;
    }
    s->device = bound.st_dev;
    s->inode = bound.st_ino;
    return 0;
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
    rc = path ? remember_path(s, path) : 0;
    if (rc < 0)
        return rc;
    return listen(s->fd, s->config.backlog) < 0 ? -errno : 0;
}

/* Another server may have taken its place meanwhile. */
static void unlink_own(const duet_server *s)
{
    struct stat now;
    if (s->path && lstat(s->path, &now) == 0 && now.st_dev == s->device && now.st_ino == s->inode)
        unlink(s->path);
}

static void destroy(duet_server *s)
{
    unlink_own(s);
    if (s->fd >= 0)
        close(s->fd);
    duet__free(s->path);
    duet__free(s);
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
    duet_server *s = duet__alloc_zeroed(1, sizeof *s);
    if (!s)
        return -ENOMEM;
    s->fd = -1;
    s->loop = duet_loop_self();
    s->config = *config;
    s->config.host = s->config.port = NULL; /* the caller's strings */
    use_defaults(&s->config);
    duet__list_init(&s->connections);
    duet_event_set(&s->none);
    duet_event_set(&s->served);
    rc = listen_at(s, &address, len, path);
    if (rc < 0)
        destroy(s);
    else
        *ret = s;
    return rc;
}

static void check_loop(const duet_server *s)
{
    duet__check(s->loop == duet_loop_self(), "a server is used on the loop that opened it");
}

int duet_server_address(const duet_server *s, struct sockaddr_storage *ret)
{
    socklen_t len = sizeof *ret;
    if (!s || !ret)
        return duet__bad_argument(__func__, s ? "ret is NULL" : "s is NULL");
    check_loop(s);
    memset(ret, 0, sizeof *ret);
    return getsockname(s->fd, (struct sockaddr *)ret, &len) < 0 ? -errno : 0;
}

void duet_server_stats_get(const duet_server *s, duet_server_stats *ret)
{
    if (!s || !ret) {
        duet__bad_argument(__func__, s ? "ret is NULL" : "s is NULL");
        return;
    }
    check_loop(s);
    *ret = s->stats;
}

/* ---- A connection ---- */

static void report_failure(const struct sockaddr_storage *peer, int error)
{
    char text[128];
    const char *name = strerrorname_np(-error);
    duet__log(DUET_WARNING, "the handler of the connection from %s failed with %s (%s)",
              duet__address_text(peer, text, sizeof text), name ? name : "an unknown error",
              duet_strerror(error));
}

static void handle(struct connection *connection, duet_stream *stream)
{
    duet_server *s = connection->server;
    const struct sockaddr_storage peer = stream->peer;
    stream->detached = &connection->detached;
    duet_result r = s->config.handler(stream, s->config.arg);
    if (r.err < 0 && r.err != -ECANCELED) {
        s->stats.failed++;
        report_failure(&peer, r.err);
    }
    if (!connection->detached)
        duet_stream_close(stream, duet_ns(s->config.close_ns));
}

static duet_result connection_main(void *arg)
{
    struct connection *connection = arg;
    duet_stream *stream;
    int rc = duet_stream_open(&stream, connection->fd, &connection->server->config.stream);
    if (rc < 0)
        return duet_ok(); /* no memory: the connection ends */
    connection->fd = -1;
    handle(connection, stream);
    return duet_ok();
}

/* After the coroutine, or instead of it. */
static void connection_ended(void *arg)
{
    struct connection *connection = arg;
    duet_server *s = connection->server;
    if (connection->fd >= 0)
        close(connection->fd);
    duet__list_remove(&connection->link);
    duet_future_unref(connection->work);
    duet__free(connection);
    if (--s->stats.connections == 0)
        duet_event_set(&s->none);
    duet_event_set(&s->room);
}

/* Of a descriptor that was accepted. One that cannot be started is closed; the others go on. */
static void start_connection(duet_server *s, int fd)
{
    const duet_opts opts = {.name = "connection", .drop = connection_ended};
    struct connection *connection = duet__alloc(sizeof *connection);
    if (!connection) {
        close(fd);
        return;
    }
    *connection = (struct connection){.server = s, .fd = fd};
    duet__list_append(&s->connections, &connection->link);
    s->stats.accepted++;
    s->stats.connections++;
    duet_event_clear(&s->none);
    duet_future *f = duet_spawn_with(connection_main, connection, &opts);
    if (duet_future_settled(f)) /* refused: it has been dropped */
        duet_future_unref(f);
    else
        connection->work = f;
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

/* accept(2): errors of a connection that has gone before it was accepted. */
static bool is_of_one_connection(int error)
{
    switch (-error) {
    case ENETDOWN:
    case EPROTO:
    case ENOPROTOOPT:
    case EHOSTDOWN:
    case ENONET:
    case EHOSTUNREACH:
    case ENETUNREACH:
    case EPERM:
        return true;
    default:
        return false;
    }
}

static int wait_for_what_is_missing(duet_server *s, int error, duet_deadline by)
{
    if (duet_now_ns() >= s->tell_ns)
        duet__log(DUET_WARNING,
                  "a server cannot accept, and waits: %s (%u connections; raise RLIMIT_NOFILE, or "
                  "lower connections_max)",
                  duet_strerror(error), s->stats.connections);
    s->tell_ns = duet_sec(TELL_AGAIN_S).ns;
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
        return is_shut(s) || is_of_one_connection(fd) ? 0 : fd;
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
    duet__lock(&s->shutting);
    duet__store_release(&s->shut, true);
    shutdown(s->fd, SHUT_RDWR); /* ends an accept that waits */
    duet_event_set(&s->room); /* and who waits for room */
    duet__unlock(&s->shutting);
}

static bool is_own_handler(const duet_server *s)
{
    duet__list_for_each(link, &s->connections)
    {
        const duet_future *work = duet__container(link, struct connection, link)->work;
        if (work && duet__runs_here(work))
            return true;
    }
    return false;
}

static void cancel_connections(duet_server *s)
{
    struct duet__list *link = s->connections.next, *next;
    for (; link != &s->connections; link = next) {
        next = link->next; /* one that has not begun ends here and now */
        duet_future_cancel(duet__container(link, struct connection, link)->work);
    }
}

/* Of all that were cancelled: each wait is for the work itself, so that a search in the graph of
 * waits sees whom we need, and tells another than us. */
static void await_ends(duet_server *s)
{
    while (!duet__list_empty(&s->connections)) {
        struct connection *first = duet__container(s->connections.next, struct connection, link);
        duet_future *work = duet_future_ref(first->work);
        duet__future_wait(work, DUET_NEVER, DUET__WAIT_ENDS); /* it has left the list before that */
        duet_future_unref(work);
    }
}

/* 0, or why they had to be cancelled. */
static int await_connections(duet_server *s, duet_deadline by)
{
    int rc = 0;
    while (s->serving > 0 && rc == 0) /* it may have just accepted one */
        rc = duet_event_wait(&s->served, by);
    if (rc == 0 && s->stats.connections > 0)
        rc = duet_event_wait(&s->none, by);
    return rc;
}

int duet_server_close(duet_server *s, duet_deadline by)
{
    if (!s)
        return duet__bad_argument(__func__, "s is NULL");
    duet__check(duet__task_here() && s->loop == duet_loop_self(),
                "a server is closed in a coroutine of the loop that opened it");
    if (is_own_handler(s))
        return -EDEADLK;
    duet_server_shut(s);
    int rc = await_connections(s, by);
    duet_shield_begin();
    while (s->serving > 0)
        duet_event_wait(&s->served, DUET_NEVER);
    if (s->stats.connections > 0) {
        rc = rc == -ECANCELED ? rc : -ETIME; /* also if a handler waits for us: -EDEADLK */
        cancel_connections(s);
    }
    await_ends(s);
    duet_shield_end();
    duet__lock(&s->shutting); /* whoever shuts it has finished */
    duet__unlock(&s->shutting);
    destroy(s);
    return rc;
}
