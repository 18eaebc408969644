/* Dialling: the addresses of a name are tried one after the other, each a little after the one
 * before, and the first that answers is taken. D. Schinazi, T. Pauly, "Happy Eyeballs Version 2",
 * RFC 8305. */
#include "address.h"
#include "check.h"
#include "park.h"
#include "task.h"

#include <duet/duet.h>
#include <duet/io.h>
#include <duet/net.h>
#include <errno.h>
#include <netdb.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    NEXT_AFTER_MS = 250,
};

/* One dialling; on the stack of who dials. */
struct dialling {
    duet_group attempts;
    duet_deadline by;
    duet_chan *outcomes; /* of each attempt: a descriptor, or an error; room for all */
};

/* Owned by its coroutine; room for the address. */
struct attempt {
    struct dialling *dialling;
    const struct sockaddr *address;
    socklen_t len;
};

static int connect_to(const struct sockaddr *address, socklen_t len, duet_deadline by)
{
    int fd = socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    int rc = duet_connect(fd, address, len, by);
    if (rc < 0)
        close(fd);
    return rc < 0 ? rc : fd;
}

static duet_result attempt_main(void *arg)
{
    const struct attempt *attempt = arg;
    int fd = connect_to(attempt->address, attempt->len, attempt->dialling->by);
    duet_shield_begin(); /* a connection that was made is not lost */
    duet_chan_send(attempt->dialling->outcomes, &fd, DUET_NEVER); /* there is room */
    duet_shield_end();
    return duet_ok();
}

/* By then, or when one has ended: its descriptor or error. -ETIME: none has yet. */
static int await_outcome(struct dialling *d, duet_deadline by)
{
    int fd, rc = duet_chan_recv(d->outcomes, &fd, by);
    return rc < 0 ? rc : fd;
}

static int start(struct dialling *d, struct attempt *attempt, const struct sockaddr *address,
                 socklen_t len)
{
    const duet_opts opts = {.name = "dial"};
    *attempt = (struct attempt){d, address, len};
    return duet_group_spawn(&d->attempts, NULL, attempt_main, attempt, &opts);
}

/* The first that answers, or the last error. */
static int race(struct dialling *d, struct attempt *attempts, const struct addrinfo *next, size_t n)
{
    size_t begun = 0, ended = 0;
    int last = -ENOENT;
    while (ended < n) {
        if (begun < n) {
            int rc = start(d, &attempts[begun], next->ai_addr, next->ai_addrlen);
            if (rc < 0)
                return rc;
            begun++;
            next = next->ai_next;
        }
        duet_deadline soon = begun < n ? duet_ms(NEXT_AFTER_MS) : d->by;
        int fd = await_outcome(d, soon.ns < d->by.ns ? soon : d->by);
        if (fd >= 0 || fd == -ECANCELED)
            return fd;
        if (fd == -ETIME && duet_now_ns() >= d->by.ns)
            return fd;
        if (fd != -ETIME) {
            ended++;
            last = fd;
        }
    }
    return last;
}

static void close_the_rest(struct dialling *d)
{
    int fd;
    duet_shield_begin();
    duet_group_close(&d->attempts); /* cancels, waits */
    while (duet_chan_recv(d->outcomes, &fd, DUET_NOW) == 0)
        if (fd >= 0)
            close(fd);
    duet_shield_end();
}

static int dial_any(const struct addrinfo *addresses, duet_deadline by)
{
    struct dialling d = {.attempts = DUET_GROUP_INIT, .by = by};
    size_t n = 0;
    for (const struct addrinfo *a = addresses; a; a = a->ai_next)
        n++;
    struct attempt *attempts = calloc(n, sizeof *attempts);
    if (!attempts)
        return -ENOMEM;
    int fd = duet_chan_open(&d.outcomes, sizeof(int), n);
    if (fd == 0) {
        fd = race(&d, attempts, addresses, n);
        close_the_rest(&d);
        duet_chan_unref(d.outcomes);
    }
    free(attempts);
    return fd;
}

static int dial_name(const char *host, const char *port, duet_deadline by)
{
    struct addrinfo *addresses;
    int rc = duet_resolve(host, port, &addresses, by);
    if (rc < 0)
        return rc;
    rc = addresses->ai_next ? dial_any(addresses, by)
                            : connect_to(addresses->ai_addr, addresses->ai_addrlen, by);
    freeaddrinfo(addresses);
    return rc;
}

static int dial_path(const char *path, duet_deadline by)
{
    struct sockaddr_storage address;
    socklen_t len;
    int rc = duet__unix_address(path, &address, &len);
    return rc < 0 ? rc : connect_to((const struct sockaddr *)&address, len, by);
}

int duet_dial(duet_stream **ret, const char *host, const char *port, duet_deadline by)
{
    if (!ret)
        return duet__bad_argument(__func__, "ret is NULL");
    duet__check(duet__task_here(), "duet_dial() is called in a coroutine");
    const char *path = duet__unix_path(host);
    int fd = path ? dial_path(path, by) : dial_name(host, port, by);
    if (fd < 0)
        return fd;
    int rc = duet_stream_open(ret, fd, NULL);
    if (rc < 0)
        close(fd);
    return rc;
}
