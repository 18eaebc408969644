/* Dialling: the addresses of a name are tried one after the other, each a little after the one
 * before, and the first that answers is taken. D. Schinazi, T. Pauly, "Happy Eyeballs Version 2",
 * RFC 8305. */
#include "address.h"
#include "alloc.h"
#include "check.h"
#include "io.h"
#include "park.h"

#include <duet/duet.h>
#include <duet/io.h>
#include <duet/net.h>
#include <errno.h>
#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    NEXT_AFTER_MS = 250,
};

/* One dialling; on the stack of who dials. */
struct dialling {
    duet_deadline by;
    duet_chan *outcomes; /* one of each attempt: a descriptor, or an error; there is room for all */
    struct attempt *attempts;
    size_t begun;
};

/* One address. */
struct attempt {
    struct dialling *dialling;
    const struct sockaddr *address;
    socklen_t len;
    int outcome; /* sent when the attempt has ended, or could not begin */
    duet_future *work;
};

static int connect_to(const struct sockaddr *address, socklen_t len, duet_deadline by)
{
    int errno_before = errno;
    int fd = (int)duet__io_plain(socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0),
                                 errno_before);
    if (fd < 0)
        return fd;
    int rc = duet_connect(fd, address, len, by);
    if (rc < 0)
        close(fd);
    return rc < 0 ? rc : fd;
}

static duet_result attempt_main(void *arg)
{
    struct attempt *attempt = arg;
    attempt->outcome = connect_to(attempt->address, attempt->len, attempt->dialling->by);
    return duet_ok();
}

static void attempt_ended(void *arg)
{
    struct attempt *attempt = arg;
    duet_chan_send(attempt->dialling->outcomes, &attempt->outcome, DUET_NOW);
}

static void start(struct dialling *d, const struct addrinfo *address)
{
    const duet_opts opts = {.name = "dial", .drop = attempt_ended};
    struct attempt *attempt = &d->attempts[d->begun++];
    *attempt = (struct attempt){
        .dialling = d, .address = address->ai_addr, .len = address->ai_addrlen, .outcome = -EAGAIN};
    attempt->work = duet_spawn_with(attempt_main, attempt, &opts);
}

/* Of n addresses: the first that answers, or the last error. */
static int race(struct dialling *d, const struct addrinfo *next, size_t n)
{
    int outcome = -ENOENT;
    for (size_t ended = 0; ended < n;) {
        if (d->begun < n) {
            start(d, next);
            next = next->ai_next;
        }
        duet_deadline soon = d->begun < n ? duet_ms(NEXT_AFTER_MS) : d->by;
        bool is_last = soon.ns >= d->by.ns;
        int rc = duet_chan_recv(d->outcomes, &outcome, is_last ? d->by : soon);
        if (rc < 0 && (rc != -ETIME || is_last))
            return rc;
        if (rc == 0 && outcome >= 0)
            return outcome;
        ended += rc == 0;
    }
    return outcome;
}

static void close_the_rest(struct dialling *d)
{
    int fd;
    duet_shield_begin();
    for (size_t i = 0; i < d->begun; i++)
        duet_future_close(d->attempts[i].work, NULL); /* cancels, waits */
    while (duet_chan_recv(d->outcomes, &fd, DUET_NOW) == 0)
        if (fd >= 0)
            close(fd);
    duet_shield_end();
}

static int dial_any(const struct addrinfo *addresses, duet_deadline by)
{
    struct dialling d = {.by = by};
    size_t n = 0;
    for (const struct addrinfo *a = addresses; a; a = a->ai_next)
        n++;
    d.attempts = duet__alloc_zeroed(n, sizeof *d.attempts);
    if (!d.attempts)
        return -ENOMEM;
    int fd = duet_chan_open(&d.outcomes, sizeof(int), n);
    if (fd == 0) {
        fd = race(&d, addresses, n);
        close_the_rest(&d);
        duet_chan_unref(d.outcomes);
    }
    duet__free(d.attempts);
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
