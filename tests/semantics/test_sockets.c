/* What io.h says of sockets: accept and connect, datagrams, Unix sockets, duet_sendfile(). The
 * waits that they have in common with the rest are tested in test_io.c. */
#include "duet_test.h"
#include "parties.h"
#include "shared.h"

#include <duet/io.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/un.h>

/* ---- What the tests of this file share ---- */

static struct scene scene;
static int fds_before;

static int open_scene(void **state)
{
    (void)state;
    fds_before = count_fds();
    scene_open(&scene);
    return 0;
}

/* Every test leaves as many descriptors as it found. */
static int close_scene(void **state)
{
    (void)state;
    scene_close(&scene);
    must_equal(count_fds(), fds_before);
    return 0;
}

/* Runs a body once as each kind of party. */
static void as_each_kind(void (*body)(struct party *p), void *arg)
{
    for (enum kind k = 0; k < KINDS; k++) {
        struct party p;
        party_begin(&p, &scene, k, body, arg, SURELY);
        (void)party_end(&p);
    }
}

static unsigned char byte_at(size_t place)
{
    return (unsigned char)(place * 2654435761u >> 13);
}

static const int domains[] = {AF_INET, AF_INET6, AF_UNIX};

struct address {
    union {
        struct sockaddr any;
        struct sockaddr_in in;
        struct sockaddr_in6 in6;
        struct sockaddr_un un;
        struct sockaddr_storage storage;
    };
    socklen_t len;
};

/* A socket at an address of its own: a port of the loopback, or an abstract name. */
static int open_bound(int domain, int type, struct address *a)
{
    int fd = socket(domain, type | SOCK_CLOEXEC, 0);
    *a = (struct address){.len = sizeof(sa_family_t)};
    if (fd < 0 && domain == AF_INET6)
        return -1; /* this machine has none */
    must(fd >= 0);
    a->any.sa_family = (sa_family_t)domain;
    if (domain == AF_INET) {
        a->in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        a->len = sizeof a->in;
    } else if (domain == AF_INET6) {
        a->in6.sin6_addr = in6addr_loopback;
        a->len = sizeof a->in6;
    }
    if (bind(fd, &a->any, a->len) < 0) {
        must_equal(domain, AF_INET6);
        must_equal(close(fd), 0);
        return -1;
    }
    a->len = sizeof a->storage;
    must_equal(getsockname(fd, &a->any, &a->len), 0);
    return fd;
}

static int open_listener(int domain, int backlog, struct address *a)
{
    int fd = open_bound(domain, SOCK_STREAM, a);
    must(fd < 0 || listen(fd, backlog) == 0);
    return fd;
}

static int open_socket(int domain, int type, bool blocking)
{
    int fd = socket(domain, type | SOCK_CLOEXEC | (blocking ? 0 : SOCK_NONBLOCK), 0);
    must(fd >= 0);
    return fd;
}

static int connect_raw(const struct address *a)
{
    int fd = open_socket(a->any.sa_family, SOCK_STREAM, true);
    must_equal(connect(fd, &a->any, a->len), 0);
    return fd;
}

static struct address name_of(int fd)
{
    struct address a = {.len = sizeof a.storage};
    must_equal(getsockname(fd, &a.any, &a.len), 0);
    return a;
}

static void must_be_same(const struct address *a, const struct address *b)
{
    must_equal(a->len, b->len);
    must_equal(memcmp(&a->storage, &b->storage, a->len), 0);
}

static void close_two(int a, int b)
{
    must_equal(close(a), 0);
    must_equal(close(b), 0);
}

/* ---- Connections ---- */

/* Connects, accepts, and sends a word each way. */
static void meet(struct party *p)
{
    (void)p;
    for (size_t d = 0; d < sizeof domains / sizeof domains[0]; d++)
        for (int i = 0; i < 4; i++) {
            bool blocking = i % 2, with_address = i / 2;
            struct address a, from = {.len = sizeof from.storage}, name;
            char buf[8];
            int listener = open_listener(domains[d], 4, &a);
            if (listener < 0)
                continue;
            int flags = fcntl(listener, F_GETFL);
            must_equal(fcntl(listener, F_SETFL, blocking ? flags : flags | O_NONBLOCK), 0);
            int client = open_socket(domains[d], SOCK_STREAM, blocking);
            must_equal(duet_connect(client, &a.any, a.len, SURELY), 0);
            int fd = with_address ? duet_accept(listener, &from.any, &from.len, SURELY)
                                  : duet_accept(listener, NULL, NULL, SURELY);
            must(fd >= 0);
            must_equal(fcntl(fd, F_GETFD), FD_CLOEXEC);
            if (with_address) {
                name = name_of(client);
                must_be_same(&from, &name);
            }
            name = (struct address){.len = sizeof name.storage};
            must_equal(getpeername(client, &name.any, &name.len), 0);
            must_be_same(&name, &a);
            must_equal(duet_write(client, "ping", 4, SURELY), 4);
            must_equal(duet_read(fd, buf, sizeof buf, SURELY), 4);
            must_equal(memcmp(buf, "ping", 4), 0);
            must_equal(duet_write(fd, "pong", 4, SURELY), 4);
            must_equal(duet_read(client, buf, sizeof buf, SURELY), 4);
            must_equal(memcmp(buf, "pong", 4), 0);
            must_equal(shutdown(client, SHUT_WR), 0);
            must_equal(duet_read(fd, buf, sizeof buf, SURELY), 0);
            must_equal(duet_close(fd), 0);
            must_equal(duet_read(client, buf, sizeof buf, SURELY), 0);
            must_equal(duet_close(client), 0);
            must_equal(duet_close(listener), 0);
        }
}

thread_test(a_connection_is_made_accepted_and_used_over_tcp_and_unix_sockets)
{
    as_each_kind(meet, NULL);
}

static void connect_to_nobody(struct party *p)
{
    (void)p;
    for (size_t d = 0; d < sizeof domains / sizeof domains[0]; d++)
        for (int blocking = 0; blocking < 2; blocking++) {
            struct address a;
            int fd = open_bound(domains[d], SOCK_STREAM, &a);
            if (fd < 0)
                continue; /* bound, but it does not listen */
            int client = open_socket(domains[d], SOCK_STREAM, blocking);
            must_equal(duet_connect(client, &a.any, a.len, SURELY), -ECONNREFUSED);
            close_two(client, fd);
        }
    struct address a = {.un = {.sun_family = AF_UNIX}, .len = sizeof(struct sockaddr_un)};
    snprintf(a.un.sun_path, sizeof a.un.sun_path, "/there/is/no/such/path");
    int fd = open_socket(AF_UNIX, SOCK_STREAM, true);
    must_equal(duet_connect(fd, &a.any, a.len, SURELY), -ENOENT);
    must_equal(duet_accept(fd, NULL, NULL, SURELY), -EINVAL); /* it does not listen */
    must_equal(close(fd), 0);
    int file = memfd_create("test", MFD_CLOEXEC);
    must_equal(duet_connect(file, &a.any, a.len, SURELY), -ENOTSOCK);
    must_equal(duet_accept(file, NULL, NULL, SURELY), -ENOTSOCK);
    must_equal(duet_recvfrom(file, &a, 1, 0, NULL, NULL, SURELY), -ENOTSOCK);
    must_equal(duet_sendto(file, "x", 1, 0, NULL, 0, SURELY), -ENOTSOCK);
    must_equal(close(file), 0);
}

thread_test(a_refused_connection_and_what_is_no_socket_are_told)
{
    as_each_kind(connect_to_nobody, NULL);
}

struct caller {
    struct address a;
    int fd, rc;
    bool blocking;
};

static void call(struct party *p)
{
    struct caller *c = p->arg;
    arrive(p);
    c->rc = duet_connect(c->fd, &c->a.any, c->a.len, p->by);
    if (c->rc == 0) { /* then it is connected */
        struct address name = {.len = sizeof name.storage};
        must_equal(getpeername(c->fd, &name.any, &name.len), 0);
    }
}

/* Over Unix sockets there is nothing to poll for. */
thread_test(a_connection_to_a_unix_socket_whose_queue_is_full_waits_for_room)
{
    for (int blocking = 0; blocking < 2; blocking++)
        for (enum kind k = 0; k < KINDS; k++) {
            struct caller c = {.blocking = blocking};
            struct party p;
            int listener = open_listener(AF_UNIX, 0, &c.a), first = connect_raw(&c.a);
            c.fd = open_socket(AF_UNIX, SOCK_STREAM, blocking);
            party_begin(&p, &scene, k, call, &c, duet_ms(3));
            (void)party_end(&p);
            must_equal(c.rc, -ETIME);
            must_equal(close(c.fd), 0);
            c.fd = open_socket(AF_UNIX, SOCK_STREAM, blocking);
            party_begin(&p, &scene, k, call, &c, SURELY);
            await_asleep(&p);
            must_sleep_on(&p);
            int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
            must(fd >= 0);
            (void)party_end(&p);
            must_equal(c.rc, 0);
            close_two(fd, first);
            close_two(c.fd, listener);
        }
}

/* Accepts, by each kind, until it is cancelled or there is nobody more. */
struct host {
    int listener;
    int accepted;
    uint64_t random;
};

static void accept_some(struct party *p)
{
    struct host *h = p->arg;
    arrive(p);
    for (int late = 0; late < 20;) {
        int fd =
            duet_accept(h->listener, NULL, NULL, duet_us((int64_t)(test_random(&h->random) % 50)));
        if (fd == -ECANCELED)
            break;
        late += fd == -ETIME;
        if (fd == -ETIME)
            continue;
        must(fd >= 0);
        must_equal(fcntl(fd, F_GETFD), FD_CLOEXEC);
        h->accepted++;
        must_equal(duet_close(fd), 0);
    }
}

thread_test(no_connection_is_lost_by_deadlines_of_microseconds_or_cancellations)
{
    uint64_t random = test_seed();
    for (int round = 0; round < test_rounds(60); round++) {
        struct address a;
        struct host h = {open_listener(AF_UNIX, 20, &a), 0, 1 + random % 1000};
        int client[10], left = 0;
        struct party p;
        enum kind k = (enum kind)(round % KINDS);
        party_begin(&p, &scene, k, accept_some, &h, SURELY);
        await_arrival(&p);
        for (int i = 0; i < 10; i++) {
            client[i] = connect_raw(&a);
            for (volatile uint64_t spin = test_random(&random) % 3000; spin > 0; spin--)
                ;
            if (i == 5 && k < IN_THREAD && round / KINDS % 2)
                duet_future_cancel(p.f);
        }
        (void)party_end(&p);
        must_equal(fcntl(h.listener, F_SETFL, O_NONBLOCK), 0);
        for (int fd; (fd = accept4(h.listener, NULL, NULL, SOCK_CLOEXEC)) >= 0; left++)
            must_equal(close(fd), 0);
        must_equal(h.accepted + left, 10); /* and the count of descriptors is right */
        for (int i = 0; i < 10; i++)
            must_equal(close(client[i]), 0);
        must_equal(close(h.listener), 0);
    }
}

enum {
    CALLS = 25
};

struct server {
    struct address a;
    int listener;
    atomic_int served;
};

static void serve(struct party *p)
{
    struct server *s = p->arg;
    for (int i = 0; i < CALLS; i++) {
        char buf[100];
        ssize_t n;
        int fd = duet_accept(s->listener, NULL, NULL, SURELY);
        must(fd >= 0);
        while ((n = duet_read(fd, buf, sizeof buf, SURELY)) > 0)
            must_equal(duet_write(fd, buf, (size_t)n, SURELY), n);
        must_equal(n, 0);
        must_equal(duet_close(fd), 0);
        atomic_fetch_add(&s->served, 1);
    }
    p->rc = 0;
}

static void ask(struct party *p)
{
    struct server *s = p->arg;
    for (int i = 0; i < CALLS; i++) {
        char buf[300], back[300];
        size_t got = 0;
        int fd = open_socket(s->a.any.sa_family, SOCK_STREAM, i % 2);
        memset(buf, i + p->number, sizeof buf);
        must_equal(duet_connect(fd, &s->a.any, s->a.len, SURELY), 0);
        must_equal(duet_write(fd, buf, sizeof buf, SURELY), sizeof buf);
        while (got < sizeof back) {
            ssize_t n = duet_read(fd, back + got, sizeof back - got, SURELY);
            must(n > 0);
            got += (size_t)n;
        }
        must_equal(memcmp(buf, back, sizeof buf), 0);
        must_equal(duet_close(fd), 0);
    }
    p->rc = 0;
}

thread_test(servers_and_clients_of_all_kinds_serve_each_other)
{
    for (size_t d = 0; d < sizeof domains / sizeof domains[0]; d++) {
        struct server s = {.served = 0};
        struct party server[CROWD], client[CROWD];
        s.listener = open_listener(domains[d], 64, &s.a);
        if (s.listener < 0)
            continue;
        for (int i = 0; i < CROWD; i++)
            party_begin(&server[i], &scene, (enum kind)(i % KINDS), serve, &s, SURELY);
        for (int i = 0; i < CROWD; i++)
            party_begin(&client[i], &scene, (enum kind)(i % KINDS), ask, &s, SURELY);
        for (int i = 0; i < CROWD; i++) {
            must_equal(party_end(&client[i]), 0);
            must_equal(party_end(&server[i]), 0);
        }
        must_equal(atomic_load(&s.served), CROWD * CALLS);
        must_equal(close(s.listener), 0);
    }
}

/* ---- Datagrams ---- */

static void pass_datagrams(struct party *p)
{
    (void)p;
    for (size_t d = 0; d < sizeof domains / sizeof domains[0]; d++)
        for (int blocking = 0; blocking < 2; blocking++) {
            struct address a, b, from = {.len = sizeof from.storage};
            char buf[8] = "";
            int one = open_bound(domains[d], SOCK_DGRAM, &a);
            if (one < 0)
                continue;
            int two = open_bound(domains[d], SOCK_DGRAM, &b);
            must_equal(fcntl(one, F_SETFL, blocking ? 0 : O_NONBLOCK), 0);
            must_equal(fcntl(two, F_SETFL, blocking ? 0 : O_NONBLOCK), 0);
            must_equal(duet_recvfrom(two, buf, 8, 0, NULL, NULL, DUET_NOW), -ETIME);
            must_equal(duet_recvfrom(two, buf, 8, 0, &from.any, &from.len, duet_ms(2)), -ETIME);
            must_equal(duet_sendto(one, "first", 5, 0, &b.any, b.len, SURELY), 5);
            must_equal(duet_sendto(one, "the second", 10, 0, &b.any, b.len, SURELY), 10);
            must_equal(duet_sendto(one, "", 0, 0, &b.any, b.len, SURELY), 0);
            must_equal(duet_sendto(one, "x", 1, 0, &b.any, b.len, DUET_NOW), 1);
            from.len = sizeof from.storage;
            must_equal(duet_recvfrom(two, buf, 8, MSG_PEEK, &from.any, &from.len, SURELY), 5);
            must_be_same(&from, &a);
            from = (struct address){.len = sizeof from.storage};
            must_equal(duet_recvfrom(two, buf, 8, 0, &from.any, &from.len, SURELY), 5);
            must_be_same(&from, &a);
            must_equal(memcmp(buf, "first", 5), 0);
            must_equal(duet_recvfrom(two, buf, 8, MSG_TRUNC, NULL, NULL, SURELY), 10);
            must_equal(memcmp(buf, "the seco", 8), 0);
            must_equal(duet_recvfrom(two, buf, 8, 0, NULL, NULL, SURELY), 0);
            must_equal(duet_recvfrom(two, buf, 8, 0, NULL, NULL, SURELY), 1);
            must_equal(duet_sendto(one, "x", 1, 0, NULL, 0, SURELY),
                       domains[d] == AF_UNIX ? -ENOTCONN : -EDESTADDRREQ);
            if (domains[d] != AF_UNIX) {
                static char huge[70000];
                must_equal(duet_sendto(one, huge, sizeof huge, 0, &b.any, b.len, SURELY),
                           -EMSGSIZE);
            }
            must_equal(duet_connect(one, &b.any, b.len, SURELY), 0); /* to be sent to from now on */
            must_equal(duet_sendto(one, "known", 5, 0, NULL, 0, SURELY), 5);
            must_equal(duet_write(one, "written", 7, SURELY), 7);
            must_equal(duet_recvfrom(two, buf, 8, 0, NULL, NULL, SURELY), 5);
            must_equal(duet_read(two, buf, 8, SURELY), 7);
            must_equal(memcmp(buf, "written", 7), 0);
            must_equal(duet_close(two), 0);
            if (domains[d] == AF_UNIX)
                must_equal(duet_sendto(one, "x", 1, 0, NULL, 0, SURELY), -ECONNREFUSED);
            must_equal(duet_close(one), 0);
        }
}

thread_test(datagrams_are_sent_and_received_one_at_a_time_with_their_addresses)
{
    as_each_kind(pass_datagrams, NULL);
}

struct receiver {
    int fd;
    struct address from;
    char buf[8];
    ssize_t rc;
};

static void receive_one(struct party *p)
{
    struct receiver *r = p->arg;
    arrive(p);
    r->from.len = sizeof r->from.storage;
    r->rc = duet_recvfrom(r->fd, r->buf, sizeof r->buf, 0, &r->from.any, &r->from.len, p->by);
}

thread_test(who_sleeps_gets_a_datagram_and_its_sender)
{
    for (size_t d = 0; d < sizeof domains / sizeof domains[0]; d++)
        for (enum kind k = 0; k < KINDS; k++) {
            struct address a, b;
            struct receiver r = {.fd = open_bound(domains[d], SOCK_DGRAM, &a)};
            struct party p;
            if (r.fd < 0)
                continue;
            int fd = open_bound(domains[d], SOCK_DGRAM, &b);
            party_begin(&p, &scene, k, receive_one, &r, DUET_NEVER);
            await_asleep(&p);
            must_equal(sendto(fd, "hello", 5, 0, &a.any, a.len), 5);
            (void)party_end(&p);
            must_equal(r.rc, 5);
            must_equal(memcmp(r.buf, "hello", 5), 0);
            must_be_same(&r.from, &b);
            close_two(r.fd, fd);
        }
}

static void send_to_the_gone(struct party *p)
{
    int fds[2];
    (void)p;
    must_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    must_equal(close(fds[0]), 0);
    must_equal(duet_sendto(fds[1], "x", 1, 0, NULL, 0, SURELY), -EPIPE);
    must_equal(duet_sendto(fds[1], "x", 1, 0, NULL, 0, DUET_NOW), -EPIPE);
    int file = memfd_create("test", MFD_CLOEXEC);
    must_equal(write(file, "abc", 3), 3);
    off_t at = 1;
    must_equal(duet_sendfile(fds[1], file, &at, 2, SURELY), -EPIPE);
    must_equal(at, 1);
    close_two(file, fds[1]);
}

thread_test(to_send_to_a_peer_that_is_gone_is_epipe_and_never_a_signal)
{
    struct sigaction old, plain = {.sa_handler = SIG_DFL};
    must_equal(sigaction(SIGPIPE, &plain, &old), 0);
    as_each_kind(send_to_the_gone, NULL);
    must_equal(sigaction(SIGPIPE, &old, NULL), 0);
}

/* ---- duet_sendfile() ---- */

static void send_pieces(struct party *p)
{
    (void)p;
    for (int i = 0; i < 2; i++) {
        int fds[2], file = memfd_create("test", MFD_CLOEXEC);
        char buf[16];
        off_t at = 2;
        must_equal(write(file, "0123456789", 10), 10);
        must_equal(lseek(file, 7, SEEK_SET), 7);
        if (i == 0)
            must_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
        else
            must_equal(pipe2(fds, O_CLOEXEC), 0);
        must_equal(duet_sendfile(fds[1], file, &at, 5, SURELY), 5);
        must_equal(at, 7);
        must_equal(duet_sendfile(fds[1], file, &at, 100, SURELY), 3); /* the end of the file */
        must_equal(at, 10);
        must_equal(duet_sendfile(fds[1], file, &at, 100, SURELY), 0);
        at = 1000;
        must_equal(duet_sendfile(fds[1], file, &at, 100, SURELY), 0);
        must_equal(at, 1000);
        at = 0;
        must_equal(duet_sendfile(fds[1], file, &at, 0, SURELY), 0);
        must_equal(lseek(file, 0, SEEK_CUR), 7); /* its own place is left alone */
        must_equal(read(fds[0], buf, sizeof buf), 8);
        must_equal(memcmp(buf, "23456789", 8), 0);
        must_equal(close(file), 0);
        close_two(fds[0], fds[1]);
    }
}

thread_test(a_piece_of_a_file_is_sent_from_its_place_on_and_fewer_at_its_end)
{
    as_each_kind(send_pieces, NULL);
}

struct sending {
    int to, from, file;
    size_t size, received;
    off_t at;
    bool impatient;
    uint64_t random;
};

static void send_file(struct party *p)
{
    struct sending *s = p->arg;
    arrive(p);
    while ((size_t)s->at < s->size) {
        off_t before = s->at;
        duet_deadline by = s->impatient ? duet_us((int64_t)(test_random(&s->random) % 300)) : p->by;
        ssize_t rc = duet_sendfile(s->to, s->file, &s->at, s->size - (size_t)before, by);
        must_equal(s->at, before + (rc > 0 ? rc : 0));
        if (rc == -ECANCELED)
            return;
        must(rc > 0 || (rc == -ETIME && s->impatient));
        must(s->impatient || duet_cancelled() || (size_t)s->at == s->size);
    }
}

static void receive_file(struct party *p)
{
    struct sending *s = p->arg;
    unsigned char buf[20000];
    (void)p;
    for (ssize_t n; (n = duet_read(s->from, buf, sizeof buf, SURELY)) != 0;) {
        must(n > 0);
        for (ssize_t i = 0; i < n; i++, s->received++)
            must_equal(buf[i], byte_at(s->received));
    }
}

static int open_large(size_t size)
{
    unsigned char *bytes = malloc(size);
    int file = memfd_create("test", MFD_CLOEXEC);
    for (size_t i = 0; i < size; i++)
        bytes[i] = byte_at(i);
    must_equal(write(file, bytes, size), (ssize_t)size);
    free(bytes);
    return file;
}

thread_test(a_large_file_arrives_whole_also_under_deadlines_and_cancellations)
{
    enum {
        PATIENT,
        IMPATIENT,
        CANCELLED,
        WAYS
    };
    size_t size = 3 << 20;
    int file = open_large(size);
    for (enum kind k = 0; k < KINDS; k++)
        for (int way = 0; way < WAYS; way++)
            for (int medium = 0; medium < 2; medium++) {
                struct sending s = {.file = file, .size = size, .random = 9};
                struct party sender, receiver;
                int fds[2];
                if (medium == 0)
                    must_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
                else
                    must_equal(pipe2(fds, O_CLOEXEC), 0);
                s.from = fds[0];
                s.to = fds[1];
                s.impatient = way == IMPATIENT;
                party_begin(&receiver, &scene, (k + 1) % KINDS, receive_file, &s, SURELY);
                party_begin(&sender, &scene, k, send_file, &s, SURELY);
                for (int i = 0; way == CANCELLED && k < IN_THREAD && i < 10; i++) {
                    await_arrival(&sender);
                    for (volatile int spin = 0; spin < 10000 * i; spin++)
                        ;
                    duet_future_cancel(sender.f);
                    (void)party_end(&sender);
                    party_begin(&sender, &scene, k, send_file, &s, SURELY);
                }
                (void)party_end(&sender);
                must_equal(s.at, (off_t)size);
                must_equal(close(s.to), 0);
                (void)party_end(&receiver);
                must_equal(s.received, size);
                must_equal(close(s.from), 0);
            }
    must_equal(close(file), 0);
}

static void send_wrongly(struct party *p)
{
    int fds[2], file = memfd_create("test", MFD_CLOEXEC);
    off_t at = 0, negative = -1;
    (void)p;
    must_equal(write(file, "abc", 3), 3);
    must_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    must_equal(duet_sendfile(fds[1], file, NULL, 3, SURELY), -EINVAL);
    must_equal(duet_sendfile(fds[1], file, &negative, 3, SURELY), -EINVAL);
    must_equal(duet_sendfile(-1, file, &at, 3, SURELY), -EBADF);
    must_equal(duet_sendfile(fds[1], -1, &at, 3, SURELY), -EBADF);
    must(duet_sendfile(fds[1], fds[0], &at, 3, SURELY) < 0); /* that is no file */
    must_equal(at, 0);
    must_equal(negative, -1);
    must_equal(close(file), 0);
    close_two(fds[0], fds[1]);
}

thread_test(what_cannot_be_sent_is_told_and_the_place_stays)
{
    as_each_kind(send_wrongly, NULL);
}

/* ---- duet_close() in races ---- */

struct storm {
    struct address a;
    int listener;
    int ended;
};

static duet_result accept_until_closed(void *arg)
{
    struct storm *s = arg;
    for (;;) {
        int fd = duet_accept(s->listener, NULL, NULL, SURELY);
        if (fd < 0) {
            must_equal(fd, -EBADF);
            s->ended++;
            return duet_ok();
        }
        must_equal(duet_close(fd), 0);
    }
}

static duet_result close_listeners(void *unused)
{
    (void)unused;
    for (int round = 0; round < test_rounds(100); round++) {
        struct storm s = {.ended = 0};
        duet_future *f[3];
        int client[3];
        s.listener = open_listener(AF_UNIX, 8, &s.a);
        for (int i = 0; i < 3; i++)
            f[i] = duet_spawn(accept_until_closed, &s);
        must_equal(duet_yield(), 0);
        for (int i = 0; i < 3; i++) {
            client[i] = connect_raw(&s.a);
            if (round % (i + 2) == 0)
                must_equal(duet_yield(), 0);
        }
        must_equal(duet_close(s.listener), 0);
        s.listener = -1; /* the number may be somebody else's from here on */
        for (int i = 0; i < 3; i++)
            must_equal(finish(f[i]).err, 0);
        must_equal(s.ended, 3);
        for (int i = 0; i < 3; i++)
            must_equal(close(client[i]), 0);
    }
    return duet_ok();
}

thread_test(a_listener_may_be_closed_while_connections_come)
{
    must_equal(duet_call(scene.loop[0], close_listeners, NULL, SURELY, NULL), 0);
}

static void pass_nothing(struct party *p)
{
    struct address a;
    socklen_t len = sizeof a.storage;
    char buf[4];
    int listener = open_listener(AF_UNIX, 4, &a), fd = open_socket(AF_UNIX, SOCK_STREAM, true);
    (void)p;
    int client = connect_raw(&a);
    must_equal(duet_accept(listener, &a.any, NULL, SURELY), -EINVAL);
    must_equal(duet_recvfrom(client, buf, 4, 0, &a.any, NULL, SURELY), -EINVAL);
    must_equal(duet_connect(fd, NULL, len, SURELY), -EINVAL);
    int in = duet_accept(listener, NULL, NULL, SURELY); /* it is still there */
    must(in >= 0);
    close_two(in, client);
    close_two(fd, listener);
}

thread_test(an_address_without_its_length_is_einval)
{
    as_each_kind(pass_nothing, NULL);
}

#define in_scene(test) cmocka_unit_test_setup_teardown(test, open_scene, close_scene)

/* ---- What a loop has learnt of a descriptor ---- */

/* So that its loop knows fds[0] for a socket, and for one that was emptied. */
static void talk(const int fds[2])
{
    char bytes[8];
    for (int i = 0; i < 3; i++) {
        must_equal(duet_write(fds[0], "ask", 3, SURELY), 3);
        must_equal(read(fds[1], bytes, sizeof bytes), 3);
        must_equal(write(fds[1], "say", 3), 3);
        must_equal(duet_read(fds[0], bytes, sizeof bytes, SURELY), 3);
    }
}

static void become_a_pipe(struct party *p)
{
    int fds[2], ends[2];
    char bytes[8];
    (void)p;
    must_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    must_equal(pipe2(ends, O_CLOEXEC), 0);
    talk(fds);
    must_equal(dup3(ends[0], fds[0], O_CLOEXEC), fds[0]);
    must_equal(write(ends[1], "pipe", 4), 4);
    must_equal(duet_read(fds[0], bytes, sizeof bytes, SURELY), 4);
    must_equal(memcmp(bytes, "pipe", 4), 0);
    must_equal(dup3(ends[1], fds[0], O_CLOEXEC), fds[0]);
    must_equal(duet_write(fds[0], "write", 5, SURELY), 5);
    must_equal(duet_read(ends[0], bytes, sizeof bytes, SURELY), 5);
    for (int i = 0; i < 2; i++) {
        must_equal(close(fds[i]), 0);
        must_equal(close(ends[i]), 0);
    }
}

thread_test(a_number_that_was_a_socket_may_be_a_pipe)
{
    as_each_kind(become_a_pipe, NULL);
}

static void read_what_is_there(struct party *p)
{
    int fds[2];
    char bytes[8];
    (void)p;
    for (int flags = 0; flags <= SOCK_NONBLOCK; flags += SOCK_NONBLOCK) {
        must_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
        must_equal(fcntl(fds[0], F_SETFL, flags ? O_NONBLOCK : 0), 0);
        for (int i = 0; i < 4; i++) {
            talk(fds);
            must_equal(duet_read(fds[0], bytes, sizeof bytes, DUET_NOW), -ETIME);
            must_equal(write(fds[1], "now", 3), 3);
            must_equal(
                duet_read(fds[0], bytes, sizeof bytes, i % 2 ? DUET_NOW : duet_ns(1 + 10000 * i)),
                3);
        }
        must_equal(close(fds[1]), 0);
        must_equal(duet_read(fds[0], bytes, sizeof bytes, SURELY), 0);
        must_equal(duet_read(fds[0], bytes, 0, SURELY), 0);
        must_equal(duet_close(fds[0]), 0);
    }
}

/* io.h: DUET_NOW makes it a try; and a deadline that passes takes nothing away. */
thread_test(what_is_there_is_read_though_its_socket_was_emptied_and_the_deadline_is_at_once)
{
    as_each_kind(read_what_is_there, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        in_scene(a_connection_is_made_accepted_and_used_over_tcp_and_unix_sockets),
        in_scene(a_refused_connection_and_what_is_no_socket_are_told),
        in_scene(a_connection_to_a_unix_socket_whose_queue_is_full_waits_for_room),
        in_scene(no_connection_is_lost_by_deadlines_of_microseconds_or_cancellations),
        in_scene(servers_and_clients_of_all_kinds_serve_each_other),
        in_scene(datagrams_are_sent_and_received_one_at_a_time_with_their_addresses),
        in_scene(who_sleeps_gets_a_datagram_and_its_sender),
        in_scene(to_send_to_a_peer_that_is_gone_is_epipe_and_never_a_signal),
        in_scene(a_piece_of_a_file_is_sent_from_its_place_on_and_fewer_at_its_end),
        in_scene(a_large_file_arrives_whole_also_under_deadlines_and_cancellations),
        in_scene(what_cannot_be_sent_is_told_and_the_place_stays),
        in_scene(a_listener_may_be_closed_while_connections_come),
        in_scene(an_address_without_its_length_is_einval),
        in_scene(a_number_that_was_a_socket_may_be_a_pipe),
        in_scene(what_is_there_is_read_though_its_socket_was_emptied_and_the_deadline_is_at_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
