/* What io.h says of every operation, with each of them asleep in coroutines, jobs and threads; and
 * of reading, writing, files, duet_poll() and duet_close(). */
#include "duet_test.h"
#include "parties.h"
#include "shared.h"

#include <duet/io.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/un.h>

/* ---- What the tests of this file share ---- */

static struct scene scene;
static int fds_before;
static char folder[] = "/tmp/duet-test-io-XXXXXX";

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

static int make_folder(void **state)
{
    (void)state;
    must(mkdtemp(folder) != NULL);
    return 0;
}

static int remove_folder(void **state)
{
    (void)state;
    must_equal(rmdir(folder), 0); /* every test leaves it empty */
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

/* A job whose cancellation also breaks the call that it blocks in. */
static void begin_interruptible(struct party *p, void (*body)(struct party *p), void *arg)
{
    const duet_opts opts = {.flags = DUET_INTERRUPT};
    *p = (struct party){.scene = &scene, .kind = IN_POOL, .body = body, .arg = arg, .by = SURELY};
    p->arrived = (struct gate)GATE_INIT;
    p->f = duet_pool_submit_with(scene.pool, party_run, p, &opts);
}

/* Everybody who hears of a cancellation while asleep: the kinds of coroutines, then a job with
 * DUET_INTERRUPT. */
static void begin_cancellable(struct party *p, enum kind k, void (*body)(struct party *p),
                              void *arg)
{
    if (k == IN_POOL)
        begin_interruptible(p, body, arg);
    else
        party_begin(p, &scene, k, body, arg, SURELY);
}

static void set_blocking(int fd, bool blocking)
{
    int flags = fcntl(fd, F_GETFL);
    must(flags >= 0);
    must_equal(fcntl(fd, F_SETFL, blocking ? flags & ~O_NONBLOCK : flags | O_NONBLOCK), 0);
}

static size_t bytes_inside(int fd)
{
    int n;
    must_equal(ioctl(fd, FIONREAD, &n), 0);
    return (size_t)n;
}

/* Writes until no byte more fits; how many did. */
static size_t fill(int fd, size_t most)
{
    static const char zeros[4096];
    int flags = fcntl(fd, F_GETFL);
    size_t sum = 0;
    set_blocking(fd, false);
    for (size_t n = most; n > 0;) {
        ssize_t rc = write(fd, zeros, n);
        must(rc > 0 || errno == EAGAIN);
        if (rc > 0)
            sum += (size_t)rc;
        else
            n = n > 1 ? 1 : 0;
    }
    must_equal(fcntl(fd, F_SETFL, flags), 0);
    return sum;
}

/* Reads what there is, at most so much; fd is O_NONBLOCK. */
static size_t drain(int fd, size_t most)
{
    static char buf[1 << 16];
    size_t sum = 0;
    while (sum < most) {
        size_t rest = most - sum;
        ssize_t rc = read(fd, buf, rest < sizeof buf ? rest : sizeof buf);
        must(rc >= 0 || errno == EAGAIN);
        if (rc <= 0)
            break;
        sum += (size_t)rc;
    }
    return sum;
}

static int open_file(const char *text)
{
    int fd = memfd_create("test", MFD_CLOEXEC);
    must(fd >= 0);
    must_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    return fd;
}

static int open_listener(int domain, struct sockaddr_storage *addr, socklen_t *len, int backlog)
{
    int fd = socket(domain, SOCK_STREAM | SOCK_CLOEXEC, 0);
    must(fd >= 0);
    *addr = (struct sockaddr_storage){.ss_family = (sa_family_t)domain};
    *len = sizeof(sa_family_t); /* for Unix sockets: any abstract address */
    if (domain == AF_INET) {
        ((struct sockaddr_in *)addr)->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        *len = sizeof(struct sockaddr_in);
    }
    must_equal(bind(fd, (struct sockaddr *)addr, *len), 0);
    *len = sizeof *addr;
    must_equal(getsockname(fd, (struct sockaddr *)addr, len), 0);
    must_equal(listen(fd, backlog), 0);
    return fd;
}

static int connect_raw(const struct sockaddr_storage *addr, socklen_t len)
{
    int fd = socket(addr->ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    must(fd >= 0);
    must_equal(connect(fd, (const struct sockaddr *)addr, len), 0);
    return fd;
}

/* Two ends of something that bytes go through. */
enum medium {
    PIPE,
    UNIX_STREAM,
    TCP_STREAM,
    MEDIA
};
struct line {
    int in, out; /* to read from, to write to */
};

static struct line open_line(enum medium medium, bool blocking)
{
    int fds[2];
    if (medium == PIPE) {
        must_equal(pipe2(fds, O_CLOEXEC), 0);
    } else if (medium == UNIX_STREAM) {
        must_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    } else {
        struct sockaddr_storage addr;
        socklen_t len;
        int listener = open_listener(AF_INET, &addr, &len, 1);
        fds[1] = connect_raw(&addr, len);
        fds[0] = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        must(fds[0] >= 0);
        must_equal(close(listener), 0);
    }
    set_blocking(fds[0], blocking);
    set_blocking(fds[1], blocking);
    return (struct line){fds[0], fds[1]};
}

static void close_line(struct line line)
{
    must_equal(close(line.in), 0);
    must_equal(close(line.out), 0);
}

static void send_bytes(int fd, const char *text)
{
    must_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
}

static unsigned char byte_at(size_t place)
{
    return (unsigned char)(place * 2654435761u >> 13);
}

/* ---- Operations that sleep until somebody else does something ---- */

enum op {
    READ_PIPE,
    READ_SOCKET,
    RECVFROM,
    POLL_READ,
    POLL_WRITE,
    ACCEPT,
    WRITE_PIPE,
    WRITE_SOCKET,
    SENDTO,
    SENDTO_DATAGRAM,
    SENDFILE_PIPE,
    SENDFILE_SOCKET,
    CONNECT, /* over TCP: to a listener whose queue is full */
    OPS
};

struct rig {
    enum op op;
    int fd; /* what the operation is on */
    int peer; /* the other end; of an accept or connect, the listener */
    int more; /* a file to send, or the connection in the listener's way */
    off_t at;
    size_t filled;
    struct sockaddr_storage addr;
    socklen_t len;
};

static bool op_writes(enum op op)
{
    return op >= WRITE_PIPE && op <= SENDFILE_SOCKET;
}

/* Whatever it does now sleeps, until rig_satisfy(). */
static struct rig rig_open(enum op op, bool blocking)
{
    struct rig r = {.op = op, .more = -1};
    int domain = op == CONNECT ? AF_INET : AF_UNIX;
    if (op == ACCEPT) {
        r.fd = open_listener(domain, &r.addr, &r.len, 8);
        r.peer = -1;
    } else if (op == CONNECT) {
        r.peer = open_listener(domain, &r.addr, &r.len, 0);
        r.more = connect_raw(&r.addr, r.len);
        r.fd = socket(domain, SOCK_STREAM | SOCK_CLOEXEC, 0);
        must(r.fd >= 0);
    } else if (op == SENDTO_DATAGRAM) {
        int fds[2];
        must_equal(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, fds), 0);
        r.peer = fds[0];
        r.fd = fds[1];
        r.filled = fill(r.fd, 1);
    } else {
        bool pipe = op == READ_PIPE || op == POLL_READ || op == WRITE_PIPE || op == SENDFILE_PIPE;
        bool reads = op == READ_PIPE || op == READ_SOCKET || op == RECVFROM || op == POLL_READ;
        struct line line = open_line(pipe ? PIPE : UNIX_STREAM, true);
        r.fd = reads ? line.in : line.out;
        r.peer = reads ? line.out : line.in;
        if (!reads)
            r.filled = fill(r.fd, 4096);
        if (op == SENDFILE_PIPE || op == SENDFILE_SOCKET) {
            r.more = open_file("xyz");
            r.at = 1;
        }
    }
    set_blocking(r.fd, blocking);
    if (r.peer >= 0 && op != CONNECT)
        set_blocking(r.peer, false);
    return r;
}

static void rig_close(struct rig *r)
{
    if (r->fd >= 0)
        must_equal(close(r->fd), 0);
    if (r->peer >= 0)
        must_equal(close(r->peer), 0);
    if (r->more >= 0)
        must_equal(close(r->more), 0);
}

/* What one operation needs. What went through by now must be what was there before. */
static void rig_satisfy(struct rig *r)
{
    if (r->op == ACCEPT) {
        r->more = connect_raw(&r->addr, r->len);
    } else if (r->op == CONNECT) {
        int fd = accept4(r->peer, NULL, NULL, SOCK_CLOEXEC);
        must(fd >= 0);
        must_equal(close(fd), 0);
    } else if (op_writes(r->op) || r->op == POLL_WRITE) {
        must_equal(drain(r->peer, r->filled), r->filled);
    } else {
        send_bytes(r->peer, "y");
    }
}

static int rig_do(struct rig *r, duet_deadline by)
{
    char buf[8];
    switch (r->op) {
    case READ_PIPE:
    case READ_SOCKET:
        return (int)duet_read(r->fd, buf, sizeof buf, by);
    case RECVFROM:
        return (int)duet_recvfrom(r->fd, buf, sizeof buf, 0, NULL, NULL, by);
    case POLL_READ:
        return duet_poll(r->fd, POLLIN, by);
    case POLL_WRITE:
        return duet_poll(r->fd, POLLOUT, by);
    case ACCEPT:
        return duet_accept(r->fd, NULL, NULL, by);
    case WRITE_PIPE:
    case WRITE_SOCKET:
        return (int)duet_write(r->fd, "y", 1, by);
    case SENDTO:
    case SENDTO_DATAGRAM:
        return (int)duet_sendto(r->fd, "y", 1, 0, NULL, 0, by);
    case SENDFILE_PIPE:
    case SENDFILE_SOCKET:
        return (int)duet_sendfile(r->fd, r->more, &r->at, 1, by);
    default:
        return duet_connect(r->fd, (struct sockaddr *)&r->addr, r->len, by);
    }
}

/* rc is the success of one operation, which has been done once. */
static void rig_must_be_done(struct rig *r, int rc)
{
    switch (r->op) {
    case ACCEPT:
        must(rc >= 0);
        must_equal(close(rc), 0);
        break;
    case CONNECT:
        must_equal(rc, 0);
        rc = accept4(r->peer, NULL, NULL, SOCK_CLOEXEC);
        must(rc >= 0);
        must_equal(close(rc), 0);
        break;
    case POLL_READ:
        must_equal(rc, POLLIN);
        break;
    case POLL_WRITE:
        must_equal(rc, POLLOUT);
        break;
    default:
        must_equal(rc, 1);
        if (op_writes(r->op)) {
            must_equal(drain(r->peer, SIZE_MAX), 1);
        } else {
            must_equal(bytes_inside(r->fd), 0);
        }
        if (r->op == SENDFILE_PIPE || r->op == SENDFILE_SOCKET)
            must_equal(r->at, 2);
    }
}

/* The rest of a rig's test, where the operation failed: it has done nothing. */
static void rig_must_be_undone(struct rig *r)
{
    if (r->op == SENDFILE_PIPE || r->op == SENDFILE_SOCKET)
        must_equal(r->at, 1);
    if (r->op != CONNECT) { /* this one may have used up the socket */
        rig_satisfy(r);
        rig_must_be_done(r, rig_do(r, DUET_NOW));
    }
}

static void do_rig(struct party *p)
{
    arrive(p);
    p->rc = rig_do(p->arg, p->by);
}

/* ---- Every wait ---- */

thread_test(an_operation_sleeps_until_it_can_be_done)
{
    for (int blocking = 0; blocking < 2; blocking++)
        for (enum op op = 0; op < OPS; op++) {
            struct rig r[KINDS];
            struct party p[KINDS];
            for (enum kind k = 0; k < KINDS; k++) {
                r[k] = rig_open(op, blocking);
                party_begin(&p[k], &scene, k, do_rig, &r[k], SURELY);
                await_asleep(&p[k]);
            }
            for (enum kind k = 0; k < KINDS; k++)
                must(!duet_future_settled(p[k].f));
            for (enum kind k = 0; k < KINDS; k++)
                rig_satisfy(&r[k]);
            for (enum kind k = 0; k < KINDS; k++) {
                rig_must_be_done(&r[k], party_end(&p[k]));
                rig_close(&r[k]);
            }
        }
}

static void try_twice(struct party *p)
{
    struct rig *r = p->arg;
    must_equal(rig_do(r, DUET_NOW), -ETIME);
    must_equal(rig_do(r, duet_ms(-5)), -ETIME);
    rig_satisfy(r);
    rig_must_be_done(r, rig_do(r, DUET_NOW));
}

thread_test(a_try_does_what_can_be_done_at_once_and_else_nothing)
{
    for (int blocking = 0; blocking < 2; blocking++)
        for (enum op op = 0; op < CONNECT; op++)
            for (enum kind k = 0; k < KINDS; k++) {
                struct rig r = rig_open(op, blocking);
                struct party p;
                party_begin(&p, &scene, k, try_twice, &r, SURELY);
                (void)party_end(&p);
                rig_close(&r);
            }
}

static void wait_too_briefly(struct party *p)
{
    duet_deadline by = duet_ms(3);
    must_equal(rig_do(p->arg, by), -ETIME);
    must(duet_now_ns() >= by.ns);
}

thread_test(a_deadline_ends_every_wait_never_early_and_leaves_nothing_half_done)
{
    for (int blocking = 0; blocking < 2; blocking++)
        for (enum op op = 0; op < OPS; op++)
            for (enum kind k = 0; k < KINDS; k++) {
                struct rig r = rig_open(op, blocking);
                struct party p;
                party_begin(&p, &scene, k, wait_too_briefly, &r, SURELY);
                (void)party_end(&p);
                rig_must_be_undone(&r);
                rig_close(&r);
            }
}

thread_test(a_cancellation_ends_every_wait_and_leaves_nothing_half_done)
{
    for (int blocking = 0; blocking < 2; blocking++)
        for (enum op op = 0; op < OPS; op++)
            for (enum kind k = 0; k <= IN_POOL; k++) {
                struct rig r = rig_open(op, blocking);
                struct party p;
                begin_cancellable(&p, k, do_rig, &r);
                await_asleep(&p);
                duet_future_cancel(p.f);
                must_equal(party_end(&p), -ECANCELED);
                rig_must_be_undone(&r);
                rig_close(&r);
            }
}

thread_test(a_job_hears_of_its_cancellation_after_its_wait_and_no_effect_is_lost)
{
    for (enum op op = 0; op < CONNECT; op++) {
        struct rig r = rig_open(op, true);
        struct party p;
        party_begin(&p, &scene, IN_POOL, do_rig, &r, SURELY);
        await_asleep(&p);
        duet_future_cancel(p.f);
        must_sleep_on(&p);
        rig_satisfy(&r);
        int rc = party_end(&p);
        if (rc == -ECANCELED)
            rc = rig_do(&r, DUET_NOW);
        rig_must_be_done(&r, rc);
        rig_close(&r);
    }
}

static void do_when_cancelled(struct party *p)
{
    struct rig *r = p->arg;
    await_cancellation(p);
    must_equal(rig_do(r, SURELY), -ECANCELED);
    must_equal(rig_do(r, DUET_NOW), -ECANCELED);
    rig_satisfy(r);
    must_equal(rig_do(r, SURELY), -ECANCELED);
    must_equal(rig_do(r, DUET_NOW), -ECANCELED);
    duet_shield_begin();
    rig_must_be_done(r, rig_do(r, SURELY));
    duet_shield_end();
}

thread_test(who_was_cancelled_before_does_nothing_but_under_a_shield)
{
    for (int blocking = 0; blocking < 2; blocking++)
        for (enum op op = 0; op < OPS; op++)
            for (enum kind k = 0; k <= IN_POOL; k++) {
                struct rig r = rig_open(op, blocking);
                struct party p;
                party_begin(&p, &scene, k, do_when_cancelled, &r, SURELY);
                await_arrival(&p);
                duet_future_cancel(p.f);
                (void)party_end(&p);
                rig_close(&r);
            }
}

static void do_shielded(struct party *p)
{
    duet_shield_begin();
    do_rig(p);
    must(duet_cancelled());
    duet_shield_end();
}

thread_test(under_a_shield_a_wait_outlasts_its_cancellation)
{
    for (enum op op = 0; op < OPS; op++) {
        struct rig r[IN_POOL + 1];
        struct party p[IN_POOL + 1];
        for (enum kind k = 0; k <= IN_POOL; k++) {
            r[k] = rig_open(op, true);
            begin_cancellable(&p[k], k, do_shielded, &r[k]);
            await_asleep(&p[k]);
            duet_future_cancel(p[k].f);
        }
        for (enum kind k = 0; k <= IN_POOL; k++) {
            must_sleep_on(&p[k]);
            rig_satisfy(&r[k]);
        }
        for (enum kind k = 0; k <= IN_POOL; k++) {
            rig_must_be_done(&r[k], party_end(&p[k]));
            rig_close(&r[k]);
        }
    }
}

static void do_bare(void *arg)
{
    struct rig *r = arg;
    must_equal(rig_do(r, SURELY), -EDEADLK);
    must_equal(rig_do(r, DUET_NEVER), -EDEADLK);
    if (r->op == CONNECT) /* a socket on the way */
        return;
    rig_satisfy(r);
    rig_must_be_done(r, rig_do(r, SURELY));
}

thread_test(a_bare_callback_does_what_can_be_done_at_once_and_must_not_wait)
{
    for (int blocking = 0; blocking < 2; blocking++)
        for (enum op op = 0; op < OPS; op++) {
            struct rig r = rig_open(op, blocking);
            run_bare(scene.loop[0], do_bare, &r);
            rig_close(&r);
        }
}

static void keep_errno(struct party *p)
{
    struct rig *r = p->arg;
    errno = 77;
    must_equal(rig_do(r, DUET_NOW), -ETIME);
    must_equal(errno, 77);
    must_equal(rig_do(r, duet_ms(1)), -ETIME);
    must_equal(errno, 77);
    rig_satisfy(r);
    errno = 77;
    int rc = rig_do(r, SURELY);
    must_equal(errno, 77);
    rig_must_be_done(r, rc);
    int fd = r->fd;
    r->fd = -1;
    errno = 77;
    must_equal(rig_do(r, SURELY), -EBADF);
    must_equal(errno, 77);
    must_equal(duet_close(fd), 0);
    must_equal(errno, 77);
    must_equal(duet_close(-1), -EBADF);
    must_equal(errno, 77);
}

thread_test(errno_is_left_alone)
{
    for (int blocking = 0; blocking < 2; blocking++)
        for (enum op op = 0; op < CONNECT; op++)
            for (enum kind k = 0; k < KINDS; k++) {
                struct rig r = rig_open(op, blocking);
                struct party p;
                party_begin(&p, &scene, k, keep_errno, &r, SURELY);
                (void)party_end(&p);
                rig_close(&r);
            }
}

static void use_bad_descriptors(struct party *p)
{
    char buf[4] = "abc";
    int good = open_file("abc"), closed = open_file("abc");
    struct rig r = {.fd = -1, .addr = {.ss_family = AF_INET}, .len = sizeof(struct sockaddr_in)};
    (void)p;
    int moved = fcntl(closed, F_DUPFD_CLOEXEC, 900); /* nobody will be given this number */
    must(moved >= 900);
    must_equal(close(closed), 0);
    must_equal(close(moved), 0);
    closed = moved;
    for (int i = 0; i < 2; i++) {
        duet_deadline by = i == 0 ? SURELY : DUET_NOW;
        r.fd = i == 0 ? -1 : closed;
        for (r.op = 0; r.op < OPS; r.op++) {
            r.more = good;
            r.at = 0;
            must_equal(rig_do(&r, by), -EBADF);
        }
        must_equal(duet_sendfile(good, r.fd, &r.at, 1, by), -EBADF);
        must_equal(duet_pread(r.fd, buf, 3, 0, by), -EBADF);
        must_equal(duet_pwrite(r.fd, buf, 3, 0, by), -EBADF);
        must_equal(duet_fsync(r.fd, SURELY), -EBADF);
        must_equal(duet_close(r.fd), -EBADF);
    }
    int dir = closed;
    must_equal(duet_openat(dir, "x", O_RDONLY, 0, SURELY), -EBADF);
    must_equal(duet_unlinkat(dir, "x", 0, SURELY), -EBADF);
    must_equal(duet_mkdirat(dir, "x", 0700, SURELY), -EBADF);
    must_equal(duet_renameat(dir, "x", dir, "y", 0, SURELY), -EBADF);
    must_equal(close(good), 0);
}

thread_test(a_bad_descriptor_is_told)
{
    as_each_kind(use_bad_descriptors, NULL);
}

/* ---- Signals ---- */

static atomic_int handled;

static void count_signal(int signo)
{
    (void)signo;
    handled++;
}

struct shower {
    pthread_t target;
    atomic_bool end;
};

static void shower_body(void *arg)
{
    struct shower *shower = arg;
    while (!atomic_load(&shower->end)) {
        must_equal(pthread_kill(shower->target, SIGUSR1), 0);
        struct timespec rest = {.tv_nsec = 50000};
        nanosleep(&rest, NULL);
    }
}

struct satisfier {
    struct rig *rig;
    int handled;
};

/* When a few signals more were handled. */
static void satisfy_later(void *arg)
{
    struct satisfier *s = arg;
    while (atomic_load(&handled) < s->handled + 5)
        nap(1);
    rig_satisfy(s->rig);
}

static duet_result do_all_under_signals(void *unused)
{
    (void)unused;
    for (int blocking = 0; blocking < 2; blocking++)
        for (enum op op = 0; op < CONNECT; op++) {
            struct rig r = rig_open(op, blocking);
            struct satisfier s = {&r, atomic_load(&handled)};
            struct thread thread;
            must_equal(rig_do(&r, duet_ms(2)), -ETIME);
            thread_start(&thread, satisfy_later, &s);
            int rc = rig_do(&r, SURELY);
            thread_join(&thread);
            rig_must_be_done(&r, rc);
            rig_close(&r);
        }
    return duet_ok();
}

static void do_all_in_thread(void *arg)
{
    (void)do_all_under_signals(arg);
}

static void run_all(void *arg)
{
    must_equal(duet_run(do_all_under_signals, arg, NULL), 0);
}

thread_test(a_signal_handler_without_restart_is_not_noticed)
{
    struct sigaction action = {.sa_handler = count_signal}, old;
    must_equal(sigaction(SIGUSR1, &action, &old), 0);
    for (int on_loop = 0; on_loop < 2; on_loop++) {
        struct thread user, other;
        struct shower shower = {.end = false};
        thread_start(&user, on_loop ? run_all : do_all_in_thread, NULL);
        shower.target = user.id;
        thread_start(&other, shower_body, &shower);
        must_equal(duet_future_wait(user.ended, SURELY, NULL), 0);
        atomic_store(&shower.end, true); /* before the thread's id is no more */
        thread_join(&other);
        thread_join(&user);
    }
    must_equal(sigaction(SIGUSR1, &old, NULL), 0);
}

/* ---- Reading and writing ---- */

struct exchange {
    struct line line;
    char buf[16];
    size_t n;
    ssize_t rc;
};

static void read_some(struct party *p)
{
    struct exchange *e = p->arg;
    arrive(p);
    e->rc = duet_read(e->line.in, e->buf, e->n, p->by);
}

thread_test(a_read_returns_as_soon_as_there_are_any_and_0_at_the_end)
{
    for (enum medium m = 0; m < MEDIA; m++)
        for (int blocking = 0; blocking < 2; blocking++)
            for (enum kind k = 0; k < KINDS; k++) {
                struct exchange e = {.line = open_line(m, blocking), .n = 16};
                struct party p;
                party_begin(&p, &scene, k, read_some, &e, DUET_NEVER);
                await_asleep(&p);
                send_bytes(e.line.out, "few");
                (void)party_end(&p);
                must_equal(e.rc, 3);
                must_equal(memcmp(e.buf, "few", 4), 0); /* and nothing behind it */
                send_bytes(e.line.out, "many");
                e.n = 3;
                party_begin(&p, &scene, k, read_some, &e, DUET_NEVER);
                (void)party_end(&p);
                must_equal(e.rc, 3);
                must_equal(memcmp(e.buf, "man", 4), 0);
                party_begin(&p, &scene, k, read_some, &e, DUET_NEVER);
                (void)party_end(&p);
                must_equal(e.rc, 1);
                party_begin(&p, &scene, k, read_some, &e, DUET_NEVER);
                await_asleep(&p);
                must_equal(close(e.line.out), 0);
                (void)party_end(&p);
                must_equal(e.rc, 0);
                party_begin(&p, &scene, k, read_some, &e, DUET_NOW);
                (void)party_end(&p);
                must_equal(e.rc, 0);
                must_equal(close(e.line.in), 0);
            }
}

static void read_wrongly(struct party *p)
{
    char buf[4];
    int dir = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    struct line line = open_line(PIPE, true);
    (void)p;
    must(dir >= 0);
    must_equal(duet_read(dir, buf, 4, SURELY), -EISDIR);
    must_equal(duet_pread(dir, buf, 4, 0, SURELY), -EISDIR);
    must_equal(duet_write(dir, "abc", 3, SURELY), -EBADF);
    must_equal(duet_read(line.out, buf, 4, SURELY), -EBADF);
    must_equal(duet_write(line.in, "abc", 3, SURELY), -EBADF);
    must_equal(duet_pread(line.in, buf, 4, 0, SURELY), -ESPIPE);
    must_equal(duet_pwrite(line.out, "abc", 3, 0, SURELY), -ESPIPE);
    must_equal(close(dir), 0);
    close_line(line);
}

thread_test(what_cannot_be_read_or_written_is_told_with_the_system_s_errors)
{
    as_each_kind(read_wrongly, NULL);
}

/* A stream from one party to another. */
struct stream {
    struct line line;
    size_t size, read, written;
    uint64_t random[2];
    size_t reads_most; /* at once */
    bool impatient; /* with deadlines of microseconds */
    bool closed;
};

static duet_deadline some_deadline(const struct stream *s, uint64_t *random)
{
    return s->impatient ? duet_us((int64_t)(test_random(random) % 60) - 5) : SURELY;
}

static void read_stream(struct party *p)
{
    struct stream *s = p->arg;
    unsigned char *buf = malloc(s->reads_most);
    for (;;) {
        size_t n = 1 + test_random(&s->random[0]) % s->reads_most;
        ssize_t rc = duet_read(s->line.in, buf, n, some_deadline(s, &s->random[0]));
        if (rc == -ECANCELED || rc == 0)
            break;
        if (rc < 0) {
            must(s->impatient);
            must_equal(rc, -ETIME);
            continue;
        }
        for (size_t i = 0; i < (size_t)rc; i++, s->read++)
            must_equal(buf[i], byte_at(s->read));
    }
    free(buf);
    p->rc = 0;
}

static void write_stream(struct party *p)
{
    struct stream *s = p->arg;
    unsigned char *bytes = malloc(s->size);
    for (size_t i = 0; i < s->size; i++)
        bytes[i] = byte_at(i);
    while (s->written < s->size) {
        size_t n = s->size - s->written;
        if (s->impatient) {
            size_t most = 1 + test_random(&s->random[1]) % 20000;
            n = n < most ? n : most;
        }
        ssize_t rc =
            duet_write(s->line.out, bytes + s->written, n, some_deadline(s, &s->random[1]));
        must(rc != 0);
        if (rc > 0) {
            must((size_t)rc <= n);
            must(s->impatient || (size_t)rc == n || duet_cancelled());
            s->written += (size_t)rc;
        } else if (rc == -ECANCELED) {
            break;
        } else {
            must(s->impatient);
            must_equal(rc, -ETIME);
        }
    }
    free(bytes);
    p->rc = 0;
    if (s->written == s->size && !s->closed) { /* it might be started once more */
        must_equal(duet_close(s->line.out), 0);
        s->closed = true;
    }
}

static void run_stream(enum medium m, bool blocking, enum kind reader, enum kind writer,
                       struct stream *s)
{
    struct party r, w;
    s->line = open_line(m, blocking);
    s->read = s->written = 0;
    s->random[0] = 1 + reader;
    s->random[1] = 77 + writer;
    party_begin(&r, &scene, reader, read_stream, s, SURELY);
    party_begin(&w, &scene, writer, write_stream, s, SURELY);
    must_equal(party_end(&w), 0);
    must_equal(party_end(&r), 0);
    must_equal(s->read, s->size);
    must_equal(close(s->line.in), 0);
}

thread_test(a_write_of_8_megabytes_is_completed_though_it_is_read_in_small_pieces)
{
    for (enum medium m = 0; m < MEDIA; m++)
        for (enum kind k = 0; k < KINDS; k++) {
            struct stream s = {.size = 8 << 20, .reads_most = 30000};
            run_stream(m, (k + (unsigned)m) % 2, (k + 1) % KINDS, k, &s);
        }
}

thread_test(bytes_pass_in_order_between_any_two_under_deadlines_of_microseconds)
{
    for (enum kind reader = 0; reader < KINDS; reader++)
        for (enum kind writer = 0; writer < KINDS; writer++)
            for (enum medium m = 0; m < MEDIA; m++) {
                struct stream s = {.size = 200000, .reads_most = 3000, .impatient = true};
                run_stream(m, (reader + writer) % 2, reader, writer, &s);
            }
}

thread_test(a_stream_whose_ends_are_cancelled_again_and_again_loses_and_doubles_nothing)
{
    uint64_t random = test_seed();
    for (enum kind k = 0; k <= IN_POOL; k++)
        for (enum medium m = 0; m < MEDIA; m++) {
            struct stream s = {.line = open_line(m, k % 2), .size = 3000000, .reads_most = 5000};
            struct party r, w;
            s.random[0] = 3;
            s.random[1] = 4;
            begin_cancellable(&r, k, read_stream, &s);
            begin_cancellable(&w, k, write_stream, &s);
            for (int rounds = 0; rounds < test_rounds(60) && s.written < s.size; rounds++) {
                for (volatile uint64_t i = test_random(&random) % 20000; i > 0; i--)
                    ;
                bool which = test_random(&random) >> 40 & 1;
                struct party *p = which ? &r : &w;
                duet_future_cancel(p->f);
                /* if it never started, it settles with -ECANCELED, and has read nothing */
                must_equal(duet_future_wait(p->f, SURELY, NULL), 0);
                duet_future_unref(p->f);
                begin_cancellable(p, k, which ? read_stream : write_stream, &s);
            }
            (void)party_end(&w);
            (void)party_end(&r);
            must_equal(s.written, s.size);
            must_equal(s.read, s.size);
            must_equal(close(s.line.in), 0);
        }
}

/* A byte comes as the reader is cancelled, or as its deadline passes. */
thread_test(a_byte_that_races_a_cancellation_or_a_deadline_is_read_or_still_there)
{
    uint64_t random = test_seed();
    int outcomes[2] = {0, 0};
    for (int round = 0; round < test_rounds(600); round++) {
        struct exchange e = {.line = open_line((enum medium)(round % 2), round / 2 % 2), .n = 4};
        struct party p;
        enum kind k = (enum kind)(round % (IN_POOL + 1));
        bool by_deadline = round / 4 % 2;
        if (by_deadline)
            party_begin(&p, &scene, k, read_some, &e,
                        duet_us((int64_t)(test_random(&random) % 200)));
        else
            begin_cancellable(&p, k, read_some, &e);
        await_arrival(&p);
        for (volatile uint64_t i = test_random(&random) % 5000; i > 0; i--)
            ;
        if (test_random(&random) >> 40 & 1) {
            send_bytes(e.line.out, "z");
            if (!by_deadline)
                duet_future_cancel(p.f);
        } else {
            if (!by_deadline)
                duet_future_cancel(p.f);
            send_bytes(e.line.out, "z");
        }
        (void)party_end(&p);
        outcomes[e.rc == 1]++;
        if (e.rc == 1) {
            must_equal(e.buf[0], 'z');
            must_equal(bytes_inside(e.line.in), 0);
        } else {
            must_equal(e.rc, by_deadline ? -ETIME : -ECANCELED);
            must_equal(bytes_inside(e.line.in), 1);
        }
        close_line(e.line);
    }
    printf("read %d times, not read %d times\n", outcomes[1], outcomes[0]);
}

struct long_write {
    struct line line;
    size_t size;
    ssize_t rc, next;
};

static void write_much(struct party *p)
{
    struct long_write *w = p->arg;
    char *bytes = calloc(1, w->size);
    arrive(p);
    w->rc = duet_write(w->line.out, bytes, w->size, p->by);
    w->next = duet_write(w->line.out, bytes, w->size, p->by);
    free(bytes);
}

thread_test(a_write_that_ends_after_some_tells_how_many_and_the_next_call_tells_why)
{
    enum {
        DEADLINE,
        CANCELLATION,
        HANG_UP,
        ENDS
    };
    struct sigaction ignore = {.sa_handler = SIG_IGN}, old;
    for (enum medium m = 0; m < MEDIA; m++)
        for (enum kind k = 0; k < KINDS; k++)
            for (int end = 0; end < ENDS; end++) {
                struct long_write w = {open_line(m, k % 2), 8 << 20, 0, 0};
                struct party p;
                if (end == CANCELLATION) /* of no thread */
                    begin_cancellable(&p, k < IN_THREAD ? k : IN_POOL, write_much, &w);
                else
                    party_begin(&p, &scene, k, write_much, &w,
                                end == DEADLINE ? duet_ms(30) : SURELY);
                if (m == PIPE)
                    must_equal(sigaction(SIGPIPE, &ignore, &old), 0);
                for (duet_deadline by = SURELY; bytes_inside(w.line.in) == 0; nap(1))
                    must(duet_now_ns() < by.ns); /* until some were written */
                if (end == CANCELLATION)
                    duet_future_cancel(p.f);
                else if (end == HANG_UP)
                    must_equal(close(w.line.in), 0);
                (void)party_end(&p);
                if (m == PIPE)
                    must_equal(sigaction(SIGPIPE, &old, NULL), 0);
                must(w.rc > 0);
                must(w.rc < 8 << 20);
                if (end == HANG_UP) {
                    must(w.next == -EPIPE || (m == TCP_STREAM && w.next == -ECONNRESET));
                } else {
                    must_equal(w.next, end == DEADLINE ? -ETIME : -ECANCELED);
                    must_equal(close(w.line.out), 0);
                    w.line.out = open("/dev/null", O_RDONLY | O_CLOEXEC);
                    set_blocking(w.line.in, true);
                    size_t sum = 0;
                    char buf[4096];
                    for (ssize_t n; (n = read(w.line.in, buf, sizeof buf)) != 0;) {
                        must(n > 0);
                        sum += (size_t)n;
                    }
                    must_equal(sum, w.rc);
                    must_equal(close(w.line.in), 0);
                }
                must_equal(close(w.line.out), 0);
            }
}

static void write_to_nobody(struct party *p)
{
    enum medium m = *(enum medium *)p->arg;
    for (int blocking = 0; blocking < 2; blocking++) {
        struct line line = open_line(m, blocking);
        must_equal(close(line.in), 0);
        if (m == TCP_STREAM) { /* the first one provokes the refusal */
            (void)duet_write(line.out, "x", 1, SURELY);
            must(duet_poll(line.out, POLLIN, SURELY) & (POLLIN | POLLHUP | POLLERR));
            (void)duet_write(line.out, "x", 1, SURELY);
        }
        must_equal(duet_write(line.out, "x", 1, SURELY), -EPIPE);
        must_equal(duet_write(line.out, "x", 1, DUET_NOW), -EPIPE);
        must_equal(close(line.out), 0);
    }
}

thread_test(a_socket_whose_peer_is_gone_is_epipe_and_never_a_signal)
{
    struct sigaction old, plain = {.sa_handler = SIG_DFL};
    must_equal(sigaction(SIGPIPE, &plain, &old), 0);
    for (enum medium m = UNIX_STREAM; m < MEDIA; m++)
        as_each_kind(write_to_nobody, &m);
    must_equal(sigaction(SIGPIPE, &old, NULL), 0);
}

thread_test(a_pipe_that_nobody_reads_is_epipe)
{
    struct sigaction old, ignore = {.sa_handler = SIG_IGN};
    enum medium m = PIPE;
    must_equal(sigaction(SIGPIPE, &ignore, &old), 0);
    as_each_kind(write_to_nobody, &m);
    must_equal(sigaction(SIGPIPE, &old, NULL), 0);
}

struct share {
    struct line line;
    atomic_size_t read;
    atomic_ulong sum;
};

static void read_share(struct party *p)
{
    struct share *share = p->arg;
    unsigned char buf[50];
    for (ssize_t n; (n = duet_read(share->line.in, buf, sizeof buf, SURELY)) != 0;) {
        must(n > 0);
        atomic_fetch_add(&share->read, (size_t)n);
        for (ssize_t i = 0; i < n; i++)
            atomic_fetch_add(&share->sum, buf[i]);
    }
    p->rc = 0;
}

thread_test(readers_of_all_kinds_share_what_comes_and_all_see_the_end)
{
    for (enum medium m = 0; m < MEDIA; m++)
        for (int blocking = 0; blocking < 2; blocking++) {
            struct share share = {.line = open_line(m, blocking)};
            struct party p[CROWD];
            unsigned long sum = 0;
            for (int i = 0; i < CROWD; i++)
                party_begin(&p[i], &scene, (enum kind)(i % KINDS), read_share, &share, SURELY);
            for (int i = 0; i < 400; i++) {
                unsigned char bytes[70];
                for (size_t j = 0; j < sizeof bytes; j++)
                    sum += bytes[j] = byte_at((size_t)i + j);
                must_equal(duet_write(share.line.out, bytes, sizeof bytes, SURELY), sizeof bytes);
            }
            must_equal(duet_close(share.line.out), 0);
            for (int i = 0; i < CROWD; i++)
                must_equal(party_end(&p[i]), 0);
            must_equal(atomic_load(&share.read), 400 * 70);
            must_equal(atomic_load(&share.sum), sum);
            must_equal(close(share.line.in), 0);
        }
}

/* ---- Files ---- */

static const char *in_folder(char path[static 64], const char *name)
{
    snprintf(path, 64, "%s/%s", folder, name);
    return path;
}

static void use_places(struct party *p)
{
    char buf[16];
    int fd = open_file("0123456789");
    (void)p;
    must_equal(duet_pread(fd, buf, 4, 3, SURELY), 4);
    must_equal(memcmp(buf, "3456", 4), 0);
    must_equal(duet_pread(fd, buf, 16, 8, SURELY), 2);
    must_equal(duet_pread(fd, buf, 16, 10, SURELY), 0);
    must_equal(duet_pread(fd, buf, 16, 1000, SURELY), 0);
    must_equal(duet_pread(fd, buf, 1, -1, SURELY), -EINVAL);
    must_equal(duet_pwrite(fd, buf, 1, -1, SURELY), -EINVAL);
    must_equal(duet_pwrite(fd, "ab", 2, 4, SURELY), 2);
    must_equal(duet_pwrite(fd, "end", 3, 12, SURELY), 3);
    must_equal(lseek(fd, 0, SEEK_CUR), 10); /* it is left where it was */
    must_equal(duet_pread(fd, buf, 16, 0, SURELY), 15);
    must_equal(memcmp(buf, "0123ab6789\0\0end", 15), 0);
    must_equal(lseek(fd, 2, SEEK_SET), 2);
    must_equal(duet_write(fd, "xyz", 3, SURELY), 3); /* these two go on where they were */
    must_equal(duet_read(fd, buf, 2, SURELY), 2);
    must_equal(memcmp(buf, "b6", 2), 0);
    must_equal(lseek(fd, 0, SEEK_CUR), 7);
    must_equal(duet_fsync(fd, SURELY), 0);
    must_equal(duet_close(fd), 0);
}

thread_test(a_file_is_read_and_written_at_a_place_and_where_it_stands)
{
    as_each_kind(use_places, NULL);
}

static void use_large_file(struct party *p)
{
    char path[64];
    size_t size = 9 << 20, odd = 12345;
    unsigned char *bytes = malloc(size), *back = malloc(size + 1);
    (void)p;
    for (size_t i = 0; i < size; i++)
        bytes[i] = byte_at(i);
    int fd =
        duet_openat(AT_FDCWD, in_folder(path, "large"), O_RDWR | O_CREAT | O_EXCL, 0600, SURELY);
    must(fd >= 0);
    must_equal(duet_pwrite(fd, bytes, size, (off_t)odd, SURELY), (ssize_t)size);
    must_equal(duet_fsync(fd, SURELY), 0);
    size_t sum = 0;
    for (ssize_t n; (n = duet_pread(fd, back + sum, size + 1 - sum, (off_t)(odd + sum), SURELY));) {
        must(n > 0);
        sum += (size_t)n;
    }
    must_equal(sum, size);
    must_equal(memcmp(bytes, back, size), 0);
    must_equal(lseek(fd, 0, SEEK_SET), 0);
    must_equal(duet_write(fd, bytes, size, SURELY), (ssize_t)size);
    must_equal(lseek(fd, 0, SEEK_CUR), (off_t)size);
    must_equal(duet_pread(fd, back, 100, (off_t)size - 50, SURELY), 100);
    must_equal(memcmp(back, bytes + size - 50, 50), 0);
    must_equal(memcmp(back + 50, bytes + size - odd, 50), 0);
    /* beyond 4 GiB */
    off_t far = ((off_t)5 << 30) + 7;
    must_equal(duet_pwrite(fd, "far", 3, far, SURELY), 3);
    must_equal(duet_pread(fd, back, 9, far - 3, SURELY), 6);
    must_equal(memcmp(back, "\0\0\0far", 6), 0);
    must_equal(duet_close(fd), 0);
    must_equal(duet_unlinkat(AT_FDCWD, path, 0, SURELY), 0);
    free(bytes);
    free(back);
}

thread_test(a_large_file_is_written_whole_and_read_back)
{
    as_each_kind(use_large_file, NULL);
}

static void use_folder(struct party *p)
{
    char one[64], two[64];
    struct stat stat;
    (void)p;
    in_folder(one, "one");
    in_folder(two, "two");
    must_equal(duet_openat(AT_FDCWD, one, O_RDONLY, 0, SURELY), -ENOENT);
    must_equal(duet_stat(one, &stat, SURELY), -ENOENT);
    must_equal(duet_unlinkat(AT_FDCWD, one, 0, SURELY), -ENOENT);
    must_equal(duet_renameat(AT_FDCWD, one, AT_FDCWD, two, 0, SURELY), -ENOENT);

    must_equal(duet_mkdirat(AT_FDCWD, one, 0700, SURELY), 0);
    must_equal(duet_mkdirat(AT_FDCWD, one, 0700, SURELY), -EEXIST);
    must_equal(duet_stat(one, &stat, SURELY), 0);
    must(S_ISDIR(stat.st_mode));
    must_equal(stat.st_mode & 0777, 0700);
    int dir = duet_openat(AT_FDCWD, one, O_RDONLY | O_DIRECTORY, 0, SURELY);
    must(dir >= 0);
    must_equal(fcntl(dir, F_GETFD), FD_CLOEXEC);
    must_equal(duet_openat(AT_FDCWD, one, O_WRONLY, 0, SURELY), -EISDIR);

    int fd = duet_openat(dir, "file", O_CREAT | O_EXCL | O_WRONLY, 0640, SURELY);
    must(fd >= 0);
    must_equal(fcntl(fd, F_GETFD), FD_CLOEXEC);
    must_equal(duet_openat(dir, "file", O_CREAT | O_EXCL | O_WRONLY, 0640, SURELY), -EEXIST);
    must_equal(duet_openat(dir, "file", O_RDONLY | O_DIRECTORY, 0, SURELY), -ENOTDIR);
    must_equal(duet_write(fd, "1234567", 7, SURELY), 7);
    must_equal(duet_fsync(fd, SURELY), 0);
    must_equal(duet_close(fd), 0);

    must_equal(duet_mkdirat(dir, "sub", 0700, SURELY), 0);
    must_equal(duet_unlinkat(dir, "sub", 0, SURELY), -EISDIR);
    must_equal(duet_unlinkat(dir, "file", AT_REMOVEDIR, SURELY), -ENOTDIR);
    must_equal(duet_unlinkat(AT_FDCWD, one, AT_REMOVEDIR, SURELY), -ENOTEMPTY);
    must_equal(duet_renameat(dir, "file", dir, "sub", 0, SURELY), -EISDIR);
    must_equal(duet_renameat(dir, "file", dir, "sub/same", 0, SURELY), 0);
    must_equal(duet_mkdirat(dir, "other", 0700, SURELY), 0);
    must_equal(duet_renameat(dir, "other", dir, "sub", RENAME_NOREPLACE, SURELY), -EEXIST);
    must_equal(duet_renameat(dir, "sub", dir, "other", RENAME_EXCHANGE, SURELY), 0);
    must_equal(duet_renameat(dir, "other/same", AT_FDCWD, two, RENAME_NOREPLACE, SURELY), 0);
    must_equal(duet_stat(two, &stat, SURELY), 0);
    must(S_ISREG(stat.st_mode));
    must_equal(stat.st_size, 7);
    struct stat real;
    must_equal(lstat(two, &real), 0);
    must_equal(real.st_ino, stat.st_ino);
    must_equal(real.st_dev, stat.st_dev);
    must_equal(real.st_mode, stat.st_mode);
    must_equal(real.st_nlink, stat.st_nlink);
    must_equal(real.st_uid, stat.st_uid);
    must_equal(real.st_gid, stat.st_gid);
    must_equal(real.st_blocks, stat.st_blocks);
    must_equal(real.st_blksize, stat.st_blksize);
    must_equal(real.st_mtim.tv_sec, stat.st_mtim.tv_sec);
    must_equal(real.st_mtim.tv_nsec, stat.st_mtim.tv_nsec);
    must_equal(real.st_ctim.tv_nsec, stat.st_ctim.tv_nsec);

    must_equal(duet_unlinkat(AT_FDCWD, two, 0, SURELY), 0);
    must_equal(duet_unlinkat(dir, "sub", AT_REMOVEDIR, SURELY), 0);
    must_equal(duet_unlinkat(dir, "other", AT_REMOVEDIR, SURELY), 0);
    must_equal(duet_close(dir), 0);
    must_equal(duet_unlinkat(AT_FDCWD, one, AT_REMOVEDIR, SURELY), 0);
    must_equal(duet_stat(one, &stat, SURELY), -ENOENT);
    must_equal(duet_stat("/dev/null", &stat, SURELY), 0);
    must(S_ISCHR(stat.st_mode));
    must_equal(lstat("/dev/null", &real), 0);
    must_equal(real.st_rdev, stat.st_rdev);
}

thread_test(files_and_folders_are_made_renamed_looked_at_and_removed)
{
    mode_t old = umask(0022);
    as_each_kind(use_folder, NULL);
    (void)umask(old);
}

/* Paths are the caller's again when a call returns. */
static void reuse_path(struct party *p)
{
    char path[64];
    int fds[32];
    (void)p;
    for (int i = 0; i < 32; i++) {
        char name[16];
        snprintf(name, sizeof name, "file%d", i);
        fds[i] =
            duet_openat(AT_FDCWD, in_folder(path, name), O_CREAT | O_EXCL | O_RDWR, 0600, SURELY);
        must(fds[i] >= 0);
        memset(path, '!', sizeof path);
    }
    for (int i = 0; i < 32; i++) {
        char name[16];
        snprintf(name, sizeof name, "file%d", i);
        must_equal(duet_close(fds[i]), 0);
        must_equal(unlink(in_folder(path, name)), 0);
    }
}

thread_test(a_path_is_the_caller_s_again_when_the_call_returns)
{
    as_each_kind(reuse_path, NULL);
}

static void change_nothing_when_cancelled(struct party *p)
{
    char there[64], gone[64], buf[4];
    struct stat stat = {.st_size = 77};
    off_t at = 0;
    int fd = open(in_folder(there, "there"), O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0600);
    int to = open_file("");
    must(fd >= 0);
    send_bytes(fd, "abc");
    in_folder(gone, "gone");
    await_cancellation(p);
    int before = count_fds();
    must_equal(duet_openat(AT_FDCWD, gone, O_CREAT | O_RDWR, 0600, SURELY), -ECANCELED);
    must_equal(duet_openat(AT_FDCWD, gone, O_CREAT | O_RDWR, 0600, DUET_NOW), -ECANCELED);
    must_equal(access(gone, F_OK), -1);
    must_equal(duet_mkdirat(AT_FDCWD, gone, 0700, SURELY), -ECANCELED);
    must_equal(access(gone, F_OK), -1);
    must_equal(duet_renameat(AT_FDCWD, there, AT_FDCWD, gone, 0, SURELY), -ECANCELED);
    must_equal(duet_unlinkat(AT_FDCWD, there, 0, SURELY), -ECANCELED);
    must_equal(access(there, F_OK), 0);
    must_equal(duet_stat(there, &stat, SURELY), -ECANCELED);
    must_equal(duet_fsync(fd, SURELY), -ECANCELED);
    must_equal(duet_pwrite(fd, "x", 1, 0, SURELY), -ECANCELED);
    must_equal(duet_write(fd, "x", 1, SURELY), -ECANCELED);
    must_equal(duet_read(fd, buf, 4, SURELY), -ECANCELED);
    must_equal(duet_pread(fd, buf, 4, 0, SURELY), -ECANCELED);
    must_equal(duet_sendfile(to, fd, &at, 3, SURELY), -ECANCELED);
    must_equal(at, 0);
    must_equal(lseek(to, 0, SEEK_END), 0);
    must_equal(lseek(fd, 0, SEEK_CUR), 3);
    must_equal(count_fds(), before);
    must_equal(duet_close(to), 0); /* this one is not cancelled */
    must_equal(count_fds(), before - 1);
    duet_shield_begin();
    must_equal(duet_pread(fd, buf, 4, 0, SURELY), 3);
    must_equal(memcmp(buf, "abc", 3), 0);
    must_equal(duet_stat(there, &stat, SURELY), 0);
    must_equal(stat.st_size, 3);
    must_equal(duet_renameat(AT_FDCWD, there, AT_FDCWD, gone, 0, SURELY), 0);
    must_equal(duet_unlinkat(AT_FDCWD, gone, 0, SURELY), 0);
    duet_shield_end();
    must_equal(duet_close(fd), 0);
}

thread_test(who_was_cancelled_before_changes_no_file_but_may_close_one)
{
    for (enum kind k = 0; k <= IN_POOL; k++) {
        struct party p;
        party_begin(&p, &scene, k, change_nothing_when_cancelled, NULL, SURELY);
        await_arrival(&p);
        duet_future_cancel(p.f);
        (void)party_end(&p);
    }
}

struct maker {
    int made, ended;
    uint64_t random;
};

static duet_deadline brief(uint64_t *random)
{
    return duet_us((int64_t)(test_random(random) % 40) - 3);
}

/* Whatever an operation says, the files agree. */
static void make_and_agree(struct party *p)
{
    struct maker *m = p->arg;
    char one[64], two[64];
    in_folder(one, "one");
    in_folder(two, "two");
    for (int i = 0; i < test_rounds(200); i++) {
        duet_deadline by = brief(&m->random);
        int fd = duet_openat(AT_FDCWD, one, O_CREAT | O_EXCL | O_RDWR, 0600, by);
        must(fd >= 0 || fd == -ETIME || fd == -ECANCELED);
        must_equal(access(one, F_OK), fd >= 0 ? 0 : -1);
        if (fd >= 0) {
            ssize_t n = duet_pwrite(fd, "abc", 3, 0, brief(&m->random));
            must(n == 3 || n == -ETIME || n == -ECANCELED);
            must_equal(lseek(fd, 0, SEEK_END), n == 3 ? 3 : 0);
            must_equal(duet_close(fd), 0);
            int rc = duet_renameat(AT_FDCWD, one, AT_FDCWD, two, 0, brief(&m->random));
            must(rc == 0 || rc == -ETIME || rc == -ECANCELED);
            must_equal(access(two, F_OK), rc == 0 ? 0 : -1);
            must_equal(access(one, F_OK), rc == 0 ? -1 : 0);
            const char *name = rc == 0 ? two : one;
            rc = duet_unlinkat(AT_FDCWD, name, 0, brief(&m->random));
            must(rc == 0 || rc == -ETIME || rc == -ECANCELED);
            must_equal(access(name, F_OK), rc == 0 ? -1 : 0);
            if (rc < 0)
                must_equal(unlink(name), 0);
            m->made++;
        }
        int rc = duet_mkdirat(AT_FDCWD, one, 0700, brief(&m->random));
        must(rc == 0 || rc == -ETIME || rc == -ECANCELED);
        must_equal(rmdir(one), rc == 0 ? 0 : -1);
        if (fd == -ECANCELED && rc == -ECANCELED)
            break; /* from here on all is */
    }
    m->ended++;
}

thread_test(a_file_operation_that_races_its_deadline_or_a_cancellation_says_what_it_did)
{
    for (enum kind k = 0; k < KINDS; k++) {
        struct maker m = {.random = 5};
        struct party p;
        party_begin(&p, &scene, k, make_and_agree, &m, SURELY);
        (void)party_end(&p);
        must_equal(m.ended, 1);
        if (k >= IN_POOL) /* there it heeds no deadline */
            must_equal(m.made, test_rounds(200));
        printf("%d of %d files were made\n", m.made, test_rounds(200));
    }
    uint64_t random = test_seed();
    struct maker m = {.random = 5};
    for (int i = 0; i < test_rounds(100); i++) {
        struct party p;
        party_begin(&p, &scene, (enum kind)(i % (IN_POOL + 1)), make_and_agree, &m, SURELY);
        for (volatile uint64_t spin = test_random(&random) % 300000; spin > 0; spin--)
            ;
        duet_future_cancel(p.f);
        must_equal(duet_future_wait(p.f, SURELY, NULL), 0);
        duet_future_unref(p.f);
    }
}

static void work_bare_on_files(void *unused)
{
    char path[64], buf[4];
    struct stat stat;
    (void)unused;
    /* each is done at once, or refused and not done */
    int fd = duet_openat(AT_FDCWD, in_folder(path, "bare"), O_CREAT | O_RDWR, 0600, SURELY);
    must(fd >= 0 || fd == -EDEADLK);
    must_equal(access(path, F_OK), fd >= 0 ? 0 : -1);
    if (fd < 0)
        fd = open(path, O_CREAT | O_RDWR | O_CLOEXEC, 0600);
    ssize_t n = duet_pwrite(fd, "abc", 3, 0, SURELY);
    must(n == 3 || n == -EDEADLK);
    must_equal(lseek(fd, 0, SEEK_END), n == 3 ? 3 : 0);
    must_equal(pwrite(fd, "abc", 3, 0), 3);
    n = duet_pread(fd, buf, 4, 0, SURELY);
    must(n == 3 || n == -EDEADLK);
    int rc = duet_stat(path, &stat, SURELY);
    must(rc == 0 || rc == -EDEADLK);
    must_equal(duet_close(fd), 0);
    rc = duet_unlinkat(AT_FDCWD, path, 0, SURELY);
    must(rc == 0 || rc == -EDEADLK);
    if (rc < 0)
        must_equal(unlink(path), 0);
    must_equal(access(path, F_OK), -1);
}

thread_test(in_a_bare_callback_a_file_operation_is_done_or_refused)
{
    run_bare(scene.loop[0], work_bare_on_files, NULL);
}

/* ---- Readiness ---- */

static void poll_this_and_that(struct party *p)
{
    (void)p;
    struct line line = open_line(PIPE, true);
    must_equal(duet_poll(line.out, POLLOUT, SURELY), POLLOUT);
    must_equal(duet_poll(line.out, POLLIN, DUET_NOW), -ETIME);
    must_equal(duet_poll(line.in, POLLIN, DUET_NOW), -ETIME);
    must_equal(duet_poll(line.in, 0, duet_ms(2)), -ETIME);
    send_bytes(line.out, "a");
    must_equal(duet_poll(line.in, POLLIN, SURELY), POLLIN);
    must_equal(duet_poll(line.in, POLLIN | POLLOUT, SURELY), POLLIN);
    must_equal(duet_poll(line.in, POLLIN, DUET_NOW), POLLIN); /* it takes nothing away */
    must_equal(duet_poll(line.in, 0, DUET_NOW), -ETIME);
    must_equal(close(line.out), 0);
    must_equal(duet_poll(line.in, POLLIN, SURELY), POLLIN | POLLHUP);
    must_equal(duet_poll(line.in, 0, SURELY), POLLHUP);
    must_equal(close(line.in), 0);

    line = open_line(PIPE, true);
    must_equal(close(line.in), 0);
    must_equal(duet_poll(line.out, 0, SURELY), POLLERR);
    must_equal(close(line.out), 0);

    line = open_line(UNIX_STREAM, true);
    must_equal(duet_poll(line.in, POLLIN | POLLOUT, SURELY), POLLOUT);
    must_equal(shutdown(line.out, SHUT_WR), 0);
    must_equal(duet_poll(line.in, POLLRDHUP, SURELY), POLLRDHUP);
    must_equal(duet_poll(line.in, POLLIN | POLLRDHUP, DUET_NOW), POLLIN | POLLRDHUP);
    close_line(line);

    int file = open_file("abc");
    must_equal(duet_poll(file, POLLIN, SURELY), POLLIN); /* a file is always ready */
    must_equal(close(file), 0);
}

thread_test(poll_says_which_events_came)
{
    as_each_kind(poll_this_and_that, NULL);
}

struct watch {
    int fd;
    unsigned events;
};

static void poll_once(struct party *p)
{
    struct watch *w = p->arg;
    arrive(p);
    p->rc = duet_poll(w->fd, w->events, p->by);
}

thread_test(all_who_poll_a_descriptor_see_what_comes)
{
    for (int hang_up = 0; hang_up < 2; hang_up++) {
        struct line line = open_line(PIPE, true);
        struct watch w = {line.in, hang_up ? 0 : POLLIN};
        struct party p[CROWD];
        for (int i = 0; i < CROWD; i++)
            party_begin(&p[i], &scene, (enum kind)(i % KINDS), poll_once, &w, SURELY);
        for (int i = 0; i < CROWD; i++)
            await_asleep(&p[i]);
        if (!hang_up)
            send_bytes(line.out, "a");
        else
            must_equal(close(line.out), 0);
        for (int i = 0; i < CROWD; i++)
            must_equal(party_end(&p[i]), hang_up ? POLLHUP : POLLIN);
        must_equal(close(line.in), 0);
        if (!hang_up)
            must_equal(close(line.out), 0);
    }
}

/* ---- duet_close() ---- */

enum {
    SLEEPERS = 3
};

struct closing {
    struct rig *rig;
    int rc[SLEEPERS], ended;
    int next;
};

static duet_result sleep_in_rig(void *arg)
{
    struct closing *c = arg;
    int i = c->next++;
    c->rc[i] = rig_do(c->rig, SURELY);
    c->ended++;
    return duet_ok();
}

/* On the loop of those that sleep. */
static duet_result close_under_them(void *arg)
{
    struct closing *c = arg;
    duet_future *f[SLEEPERS];
    int sleepers = c->rig->op == CONNECT ? 1 : SLEEPERS, fd = c->rig->fd;
    for (int i = 0; i < sleepers; i++)
        f[i] = duet_spawn(sleep_in_rig, c);
    while (c->next < sleepers)
        must_equal(duet_yield(), 0);
    must_equal(duet_sleep(duet_ms(1)), 0);
    must_equal(c->ended, 0);
    must_equal(duet_close(fd), 0);
    must_equal(fcntl(fd, F_GETFD), -1);
    c->rig->fd = -1;
    for (int i = 0; i < sleepers; i++)
        must_equal(finish(f[i]).err, 0);
    for (int i = 0; i < sleepers; i++)
        must_equal(c->rc[i], -EBADF);
    return duet_ok();
}

thread_test(what_waits_for_a_descriptor_on_the_loop_that_closes_it_ends_with_ebadf)
{
    for (int blocking = 0; blocking < 2; blocking++)
        for (enum op op = 0; op < OPS; op++) {
            struct rig r = rig_open(op, blocking);
            struct closing c = {.rig = &r};
            must_equal(duet_call(scene.loop[0], close_under_them, &c, SURELY, NULL), 0);
            rig_close(&r);
        }
}

static duet_result close_though_cancelled(void *arg)
{
    struct closing *c = arg;
    duet_future *f = duet_spawn(sleep_in_rig, c);
    must_equal(duet_sleep(SURELY), -ECANCELED);
    must_equal(duet_close(c->rig->fd), 0);
    must_equal(fcntl(c->rig->fd, F_GETFD), -1);
    c->rig->fd = -1;
    duet_shield_begin();
    must_equal(finish(f).err, 0);
    duet_shield_end();
    must_equal(c->rc[0], -EBADF);
    return duet_ok();
}

thread_test(duet_close_is_not_cancelled)
{
    for (enum op op = 0; op < OPS; op++) {
        struct rig r = rig_open(op, true);
        struct closing c = {.rig = &r};
        duet_future *f = duet_submit(scene.loop[0], close_though_cancelled, &c);
        must_equal(duet_call(scene.loop[0], return_ok, NULL, SURELY, NULL), 0);
        duet_future_cancel(f);
        must_equal(finish(f).err, 0);
        rig_close(&r);
    }
}

static void close_once(struct party *p)
{
    struct watch *w = p->arg;
    must_equal(duet_close(w->fd), 0);
    must_equal(duet_close(w->fd), -EBADF);
}

thread_test(a_descriptor_is_closed_once_by_anybody)
{
    struct watch w;
    for (int i = 0; i < KINDS; i++) {
        struct party p;
        w.fd = open_file("abc");
        party_begin(&p, &scene, (enum kind)i, close_once, &w, SURELY);
        (void)party_end(&p);
    }
}

/* Under a number that is used again at once, the old waits and the new do not mix. */
struct reuse {
    struct line line;
    char buf[4];
    ssize_t rc;
};

static duet_result read_for_reuse(void *arg)
{
    struct reuse *r = arg;
    r->rc = duet_read(r->line.in, r->buf, sizeof r->buf, SURELY);
    return duet_ok();
}

static duet_result poll_for_reuse(void *arg)
{
    struct reuse *r = arg;
    r->rc = duet_poll(r->line.in, POLLIN, SURELY);
    return duet_ok();
}

static duet_result reuse_numbers(void *arg)
{
    uint64_t random = *(uint64_t *)arg;
    for (int round = 0; round < test_rounds(400); round++) {
        enum medium m = (enum medium)(test_random(&random) >> 33) % MEDIA;
        bool poll = test_random(&random) >> 40 & 1, written = test_random(&random) >> 41 & 1;
        struct line line = open_line(m, round % 2);
        struct reuse old[3], new = {.rc = 1};
        duet_future *f[3], *g;
        for (int i = 0; i < 3; i++) {
            old[i] = (struct reuse){.line = line, .rc = 1};
            f[i] = duet_spawn(poll ? poll_for_reuse : read_for_reuse, &old[i]);
        }
        for (uint64_t yields = test_random(&random) >> 33 & 3; yields > 0; yields--)
            must_equal(duet_yield(), 0);
        bool early = test_random(&random) >> 33 & 1;
        if (written && early) /* else nobody might be left to close under */
            send_bytes(line.out, "o");
        if (test_random(&random) >> 33 & 1)
            duet_future_cancel(f[0]);
        must_equal(duet_close(line.in), 0);
        struct line again = open_line(PIPE, true);
        if (m == PIPE)
            must_equal(again.in, line.in);
        new.line = again;
        g = duet_spawn(read_for_reuse, &new);
        if (test_random(&random) >> 33 & 1)
            must_equal(duet_yield(), 0);
        send_bytes(again.out, "new");
        must_equal(finish(g).err, 0);
        must_equal(new.rc, 3);
        must_equal(memcmp(new.buf, "new", 3), 0);
        for (int i = 0; i < 3; i++) {
            duet_result result = finish(f[i]);
            if (result.err < 0) { /* it never started */
                must_equal(result.err, -ECANCELED);
                continue;
            }
            if (poll && old[i].rc >= 0)
                must(written && (old[i].rc & POLLIN));
            else if (old[i].rc == 1)
                must(written && old[i].buf[0] == 'o');
            else
                must(old[i].rc == -EBADF || (i == 0 && old[i].rc == -ECANCELED));
        }
        must_equal(duet_close(again.in), 0);
        must_equal(duet_close(again.out), 0);
        must_equal(duet_close(line.out), 0);
    }
    return duet_ok();
}

/* Nobody else opens descriptors here. */
thread_test(a_number_may_be_used_again_as_soon_as_duet_close_returns)
{
    uint64_t random = test_seed();
    must_equal(duet_call(scene.loop[0], reuse_numbers, &random, SURELY, NULL), 0);
}

static duet_result close_first(void *arg)
{
    return duet_i64(duet_close(*(int *)arg));
}

static duet_result two_close(void *unused)
{
    (void)unused;
    for (enum op op = 0; op < OPS; op++) {
        struct rig r = rig_open(op, true);
        struct closing c = {.rig = &r};
        duet_future *f = duet_spawn(sleep_in_rig, &c);
        must_equal(duet_yield(), 0);
        duet_future *a = duet_spawn(close_first, &r.fd), *b = duet_spawn(close_first, &r.fd);
        int64_t first = duet_as_i64(finish(a)), second = duet_as_i64(finish(b));
        must_equal(first + second, -EBADF); /* one closed it, the other came too late */
        must(first == 0 || second == 0);
        must_equal(finish(f).err, 0);
        must_equal(c.rc[0], -EBADF);
        r.fd = -1;
        rig_close(&r);
    }
    return duet_ok();
}

thread_test(of_two_who_close_a_descriptor_one_does)
{
    must_equal(duet_call(scene.loop[0], two_close, NULL, SURELY, NULL), 0);
}

/* ---- Many at once ---- */

enum {
    PIPES = 20,
    EACH = 100
};

struct crowd {
    int in[PIPES];
    atomic_int next, done, cancelled, waiting;
    bool poll;
};

static duet_result read_in_crowd(void *arg)
{
    struct crowd *c = arg;
    int i = atomic_fetch_add(&c->next, 1);
    char byte;
    atomic_fetch_add(&c->waiting, 1);
    ssize_t rc = c->poll ? duet_poll(c->in[i % PIPES], POLLIN, SURELY)
                         : duet_read(c->in[i % PIPES], &byte, 1, SURELY);
    if (rc == -ECANCELED) {
        atomic_fetch_add(&c->cancelled, 1);
    } else {
        must_equal(rc, c->poll ? POLLIN : 1);
        atomic_fetch_add(&c->done, 1);
    }
    return duet_ok();
}

static void run_many(bool poll, bool cancel)
{
    static char zeros[EACH];
    static duet_future *f[PIPES * EACH];
    struct crowd c = {.poll = poll};
    int out[PIPES];
    duet_loop *loop;
    duet_loop_config config = {.ring_entries = 32, .stack_size = 16384 << 2};
    must_equal(duet_loop_start(&loop, &config), 0);
    for (int i = 0; i < PIPES; i++) {
        struct line line = open_line(PIPE, i % 2);
        c.in[i] = line.in;
        out[i] = line.out;
    }
    for (int i = 0; i < PIPES * EACH; i++)
        f[i] = duet_submit(loop, read_in_crowd, &c);
    must_equal(duet_call(loop, return_ok, NULL, SURELY, NULL), 0);
    must_equal(atomic_load(&c.waiting), PIPES * EACH);
    must_equal(atomic_load(&c.done), 0);
    for (int i = 0; i < PIPES * EACH; i++)
        if (cancel)
            duet_future_cancel(f[i]);
    if (!cancel)
        for (int i = 0; i < PIPES; i++)
            must_equal(write(out[i], zeros, EACH), EACH);
    for (int i = 0; i < PIPES * EACH; i++)
        must_equal(finish(f[i]).err, 0);
    must_equal(atomic_load(&c.done), cancel ? 0 : PIPES * EACH);
    must_equal(atomic_load(&c.cancelled), cancel ? PIPES * EACH : 0);
    for (int i = 0; i < PIPES; i++)
        close_line((struct line){c.in[i], out[i]});
    close_loop(loop);
}

thread_test(two_thousand_wait_on_the_smallest_ring_and_all_are_served)
{
    run_many(false, false);
    run_many(true, false);
}

thread_test(two_thousand_on_the_smallest_ring_are_cancelled_at_once)
{
    run_many(false, true);
    run_many(true, true);
}

static duet_result read_file_in_crowd(void *arg)
{
    struct crowd *c = arg;
    unsigned char buf[64];
    int i = atomic_fetch_add(&c->next, 1);
    must_equal(duet_pread(c->in[0], buf, sizeof buf, i * 64, SURELY), sizeof buf);
    for (size_t j = 0; j < sizeof buf; j++)
        must_equal(buf[j], byte_at((size_t)i * 64 + j));
    must_equal(duet_pwrite(c->in[1], buf, sizeof buf, i * 64, SURELY), sizeof buf);
    return duet_ok();
}

thread_test(a_thousand_copy_pieces_of_a_file_on_the_smallest_ring)
{
    static unsigned char bytes[64000], back[64000];
    static duet_future *f[1000];
    struct crowd c = {.in = {open_file(""), open_file("")}};
    duet_loop *loop;
    duet_loop_config config = {.ring_entries = 32};
    must_equal(duet_loop_start(&loop, &config), 0);
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = byte_at(i);
    must_equal(write(c.in[0], bytes, sizeof bytes), sizeof bytes);
    for (int i = 0; i < 1000; i++)
        f[i] = duet_submit(loop, read_file_in_crowd, &c);
    for (int i = 0; i < 1000; i++)
        must_equal(finish(f[i]).err, 0);
    must_equal(pread(c.in[1], back, sizeof back, 0), sizeof back);
    must_equal(memcmp(bytes, back, sizeof back), 0);
    close_line((struct line){c.in[0], c.in[1]});
    close_loop(loop);
}

/* ---- The end of the loop ---- */

struct in_flight {
    struct rig rig;
    int rc;
};

static duet_result be_in_flight(void *arg)
{
    struct in_flight *in = arg;
    in->rc = rig_do(&in->rig, SURELY);
    return duet_ok();
}

thread_test(a_loop_that_is_closed_ends_what_is_in_flight)
{
    struct in_flight in[2 * OPS];
    duet_future *f[2 * OPS];
    duet_loop *loop = start_loop();
    for (int i = 0; i < 2 * OPS; i++) {
        in[i] = (struct in_flight){.rig = rig_open((enum op)(i / 2), i % 2)};
        f[i] = duet_submit(loop, be_in_flight, &in[i]);
    }
    must_equal(duet_call(loop, return_ok, NULL, SURELY, NULL), 0);
    close_loop(loop);
    for (int i = 0; i < 2 * OPS; i++) {
        must_equal(finish(f[i]).err, 0);
        must_equal(in[i].rc, -ECANCELED);
        rig_must_be_undone(&in[i].rig);
        rig_close(&in[i].rig);
    }
}

thread_test(a_loop_may_be_closed_while_operations_start)
{
    for (int round = 0; round < test_rounds(20); round++) {
        struct in_flight in[OPS];
        duet_future *f[OPS];
        duet_loop *loop = start_loop();
        for (int i = 0; i < OPS; i++) {
            in[i] = (struct in_flight){.rig = rig_open((enum op)i, round % 2), .rc = -ECANCELED};
            f[i] = duet_submit(loop, be_in_flight, &in[i]);
        }
        close_loop(loop);
        for (int i = 0; i < OPS; i++) {
            duet_result result = finish(f[i]);
            must(result.err == 0 || result.err == -ECANCELED);
            must_equal(in[i].rc, -ECANCELED);
            rig_must_be_undone(&in[i].rig);
            rig_close(&in[i].rig);
        }
    }
}

static void pass_nothing(struct party *p)
{
    struct stat stat;
    off_t at = 0;
    int fd = open_file("abc");
    struct line line = open_line(UNIX_STREAM, true);
    (void)p;
    send_bytes(line.out, "abc");
    must_equal(duet_read(line.in, NULL, 3, SURELY), -EINVAL);
    must_equal(duet_write(line.out, NULL, 3, SURELY), -EINVAL);
    must_equal(duet_recvfrom(line.in, NULL, 3, 0, NULL, NULL, SURELY), -EINVAL);
    must_equal(duet_sendto(line.out, NULL, 3, 0, NULL, 0, SURELY), -EINVAL);
    must_equal(duet_pread(fd, NULL, 3, 0, SURELY), -EINVAL);
    must_equal(duet_pwrite(fd, NULL, 3, 0, SURELY), -EINVAL);
    must_equal(duet_sendfile(line.out, fd, NULL, 3, SURELY), -EINVAL);
    must_equal(duet_openat(AT_FDCWD, NULL, O_RDONLY, 0, SURELY), -EINVAL);
    must_equal(duet_stat(NULL, &stat, SURELY), -EINVAL);
    must_equal(duet_stat("/", NULL, SURELY), -EINVAL);
    must_equal(duet_unlinkat(AT_FDCWD, NULL, 0, SURELY), -EINVAL);
    must_equal(duet_renameat(AT_FDCWD, NULL, AT_FDCWD, "x", 0, SURELY), -EINVAL);
    must_equal(duet_renameat(AT_FDCWD, "x", AT_FDCWD, NULL, 0, SURELY), -EINVAL);
    must_equal(duet_mkdirat(AT_FDCWD, NULL, 0700, SURELY), -EINVAL);
    must_equal(duet_connect(line.in, NULL, 16, SURELY), -EINVAL);
    must_equal(bytes_inside(line.in), 3); /* nothing was done */
    must_equal(duet_read(line.in, NULL, 0, SURELY), 0);
    must_equal(duet_write(line.out, NULL, 0, SURELY), 0);
    must_equal(duet_pread(fd, NULL, 0, 0, SURELY), 0);
    must_equal(duet_pwrite(fd, NULL, 0, 0, SURELY), 0);
    must_equal(duet_sendfile(line.out, fd, &at, 0, SURELY), 0);
    must_equal(close(fd), 0);
    close_line(line);
}

thread_test(null_where_something_must_be_is_einval_and_nothing_of_nothing_is_nothing)
{
    as_each_kind(pass_nothing, NULL);
}

#define in_scene(test) cmocka_unit_test_setup_teardown(test, open_scene, close_scene)

int main(void)
{
    const struct CMUnitTest tests[] = {
        in_scene(an_operation_sleeps_until_it_can_be_done),
        in_scene(a_try_does_what_can_be_done_at_once_and_else_nothing),
        in_scene(a_deadline_ends_every_wait_never_early_and_leaves_nothing_half_done),
        in_scene(a_cancellation_ends_every_wait_and_leaves_nothing_half_done),
        in_scene(a_job_hears_of_its_cancellation_after_its_wait_and_no_effect_is_lost),
        in_scene(who_was_cancelled_before_does_nothing_but_under_a_shield),
        in_scene(under_a_shield_a_wait_outlasts_its_cancellation),
        in_scene(a_bare_callback_does_what_can_be_done_at_once_and_must_not_wait),
        in_scene(errno_is_left_alone),
        in_scene(a_bad_descriptor_is_told),
        in_scene(a_signal_handler_without_restart_is_not_noticed),
        in_scene(a_read_returns_as_soon_as_there_are_any_and_0_at_the_end),
        in_scene(what_cannot_be_read_or_written_is_told_with_the_system_s_errors),
        in_scene(a_write_of_8_megabytes_is_completed_though_it_is_read_in_small_pieces),
        in_scene(bytes_pass_in_order_between_any_two_under_deadlines_of_microseconds),
        in_scene(a_stream_whose_ends_are_cancelled_again_and_again_loses_and_doubles_nothing),
        in_scene(a_byte_that_races_a_cancellation_or_a_deadline_is_read_or_still_there),
        in_scene(a_write_that_ends_after_some_tells_how_many_and_the_next_call_tells_why),
        in_scene(a_socket_whose_peer_is_gone_is_epipe_and_never_a_signal),
        in_scene(a_pipe_that_nobody_reads_is_epipe),
        in_scene(readers_of_all_kinds_share_what_comes_and_all_see_the_end),
        in_scene(a_file_is_read_and_written_at_a_place_and_where_it_stands),
        in_scene(a_large_file_is_written_whole_and_read_back),
        in_scene(files_and_folders_are_made_renamed_looked_at_and_removed),
        in_scene(a_path_is_the_caller_s_again_when_the_call_returns),
        in_scene(who_was_cancelled_before_changes_no_file_but_may_close_one),
        in_scene(a_file_operation_that_races_its_deadline_or_a_cancellation_says_what_it_did),
        in_scene(in_a_bare_callback_a_file_operation_is_done_or_refused),
        in_scene(poll_says_which_events_came),
        in_scene(all_who_poll_a_descriptor_see_what_comes),
        in_scene(what_waits_for_a_descriptor_on_the_loop_that_closes_it_ends_with_ebadf),
        in_scene(duet_close_is_not_cancelled),
        in_scene(a_descriptor_is_closed_once_by_anybody),
        in_scene(a_number_may_be_used_again_as_soon_as_duet_close_returns),
        in_scene(of_two_who_close_a_descriptor_one_does),
        in_scene(two_thousand_wait_on_the_smallest_ring_and_all_are_served),
        in_scene(two_thousand_on_the_smallest_ring_are_cancelled_at_once),
        in_scene(a_thousand_copy_pieces_of_a_file_on_the_smallest_ring),
        in_scene(a_loop_that_is_closed_ends_what_is_in_flight),
        in_scene(a_loop_may_be_closed_while_operations_start),
        in_scene(null_where_something_must_be_is_einval_and_nothing_of_nothing_is_nothing),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
