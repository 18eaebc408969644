/* What net.h says of streams: reading and its limits, writing and its high-water mark, the ends,
 * and that neither a deadline nor a cancellation loses a byte. */
#include "duet_test.h"
#include "shared.h"

#include <arpa/inet.h>
#include <duet/io.h>
#include <duet/net.h>
#include <fcntl.h>
#include <malloc.h>
#include <netinet/in.h>
#include <pty.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/un.h>
#include <termios.h>
#include <time.h>

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

/* ---- What the tests of this file share ---- */

/* What a stream may be of. Of the pipes, the stream has one end and the peer the other. */
enum link {
    PAIR,
    TCP4,
    TCP6,
    PIPE_IN,
    PIPE_OUT,
    LINKS
};
static const enum link sockets[] = {PAIR, TCP4, TCP6};
static const enum link readable[] = {PAIR, TCP4, TCP6, PIPE_IN};
static const enum link writable[] = {PAIR, TCP4, TCP6, PIPE_OUT};

static bool has_ipv6(void)
{
    struct sockaddr_in6 addr = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    int fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool has = fd >= 0 && bind(fd, (struct sockaddr *)&addr, sizeof addr) == 0;
    if (fd >= 0)
        close(fd);
    return has;
}

static void tcp_pair(int family, int fds[2])
{
    struct sockaddr_storage addr = {.ss_family = (sa_family_t)family};
    socklen_t len = sizeof addr;
    if (family == AF_INET)
        ((struct sockaddr_in *)&addr)->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    else
        ((struct sockaddr_in6 *)&addr)->sin6_addr = in6addr_loopback;
    int listener = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    must(listener >= 0);
    must(bind(listener, (struct sockaddr *)&addr,
              family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6)) == 0);
    must(listen(listener, 1) == 0);
    must(getsockname(listener, (struct sockaddr *)&addr, &len) == 0);
    fds[1] = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    must(fds[1] >= 0);
    must(connect(fds[1], (struct sockaddr *)&addr, len) == 0);
    fds[0] = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    must(fds[0] >= 0);
    close(listener);
}

/* fds[0] is for the stream, fds[1] is the peer's. */
static void open_link(enum link link, int fds[2])
{
    if (link == TCP6 && !has_ipv6())
        link = TCP4;
    if (link == PAIR) {
        must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0);
    } else if (link == TCP4 || link == TCP6) {
        tcp_pair(link == TCP4 ? AF_INET : AF_INET6, fds);
    } else {
        int ends[2];
        must(pipe2(ends, O_CLOEXEC) == 0);
        fds[0] = ends[link == PIPE_OUT];
        fds[1] = ends[link == PIPE_IN];
    }
}

/* Little, so that there is soon no room: but a window of TCP that is smaller than a segment makes
 * it wait for its timers. */
static void make_narrow(enum link link, int fd)
{
    int send = link == PAIR ? 2048 : 16384, receive = 65536;
    if (link <= TCP6)
        must(setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &send, sizeof send) == 0);
    if (link == TCP4 || link == TCP6)
        must(setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &receive, sizeof receive) == 0);
    if (link > TCP6)
        must(fcntl(fd, F_SETPIPE_SZ, 4096) >= 0);
}

static duet_stream *open_stream(enum link link, const duet_stream_config *config, int *peer)
{
    duet_stream *s = NULL;
    int fds[2];
    open_link(link, fds);
    make_narrow(link, fds[0]);
    make_narrow(link, fds[1]);
    must_equal(duet_stream_open(&s, fds[0], config), 0);
    must(s != NULL);
    *peer = fds[1];
    return s;
}

static void close_both(duet_stream *s, int peer)
{
    must_equal(duet_stream_close(s, SURELY), 0);
    must(close(peer) == 0);
}

/* As many bytes as the links of this file never hold. */
enum {
    PLENTY = 3 << 20
};
static char plenty[PLENTY];

/* By the peer, which sends at once what fits, for tests whose pieces are small. */
static void peer_says(int peer, const char *text)
{
    must_equal(duet_write(peer, text, strlen(text), SURELY), strlen(text));
}

static void peer_hears(int peer, void *buf, size_t n)
{
    for (size_t got = 0; got < n;) {
        ssize_t rc = duet_read(peer, (char *)buf + got, n - got, SURELY);
        must(rc > 0);
        got += (size_t)rc;
    }
}

static void peer_hears_text(int peer, const char *text)
{
    char buf[256] = "";
    must(strlen(text) < sizeof buf);
    peer_hears(peer, buf, strlen(text));
    must(memcmp(buf, text, strlen(text)) == 0);
}

static void peer_hears_the_end(int peer)
{
    char c;
    must_equal(duet_read(peer, &c, 1, SURELY), 0);
}

/* Reads until the end or an error; how much it was. */
static size_t peer_hears_all(int peer)
{
    static char buf[65536];
    size_t sum = 0;
    ssize_t n;
    while ((n = duet_read(peer, buf, sizeof buf, SURELY)) > 0)
        sum += (size_t)n;
    return sum;
}

/* Reads n bytes and looks at none of them. */
static void peer_swallows(int peer, size_t n)
{
    static char buf[65536];
    while (n > 0) {
        ssize_t rc = duet_read(peer, buf, n < sizeof buf ? n : sizeof buf, SURELY);
        must(rc > 0);
        n -= (size_t)rc;
    }
}

static void peer_resets(int peer)
{
    struct linger linger = {.l_onoff = 1};
    must(setsockopt(peer, SOL_SOCKET, SO_LINGER, &linger, sizeof linger) == 0);
    must(close(peer) == 0);
}

static bool is_of_a_dead_peer(ssize_t rc)
{
    return rc == -EPIPE || rc == -ECONNRESET;
}

/* Some turns of the loop: the time in which what should not happen would. */
static void let_run(void)
{
    for (int i = 0; i < 20; i++)
        must_equal(duet_yield(), 0);
    must_equal(duet_sleep(duet_ms(2)), 0);
}

enum call {
    READ,
    EXACTLY,
    UNTIL,
    LINE,
    READS,
    WRITE = READS,
    DRAIN,
    FINISH,
    CLOSE
};

/* One call in a coroutine of its own. */
struct op {
    enum call call;
    duet_stream *s;
    void *buf;
    size_t n;
    char delimiter;
    duet_deadline by;
    ssize_t rc;
    const char *text;
    bool returned;
    int turn; /* which of them returned first */
    duet_future *f;
};
static int turns;

static ssize_t op_call(struct op *op)
{
    switch (op->call) {
    case READ:
        return duet_stream_read(op->s, op->buf, op->n, op->by);
    case EXACTLY:
        return duet_stream_read_exactly(op->s, op->buf, op->n, op->by);
    case UNTIL:
        return duet_stream_read_until(op->s, op->delimiter, &op->text, op->by);
    case LINE:
        return duet_stream_read_line(op->s, &op->text, op->by);
    case WRITE:
        return duet_stream_write(op->s, op->buf, op->n, op->by);
    case DRAIN:
        return duet_stream_drain(op->s, op->by);
    case FINISH:
        return duet_stream_finish(op->s, op->by);
    case CLOSE:
        return duet_stream_close(op->s, op->by);
    }
    abort();
}

static duet_result op_run(void *arg)
{
    struct op *op = arg;
    op->rc = op_call(op);
    op->turn = turns++;
    op->returned = true;
    return duet_ok();
}

static void op_start(struct op *op)
{
    if (op->by.ns == 0)
        op->by = SURELY;
    op->returned = false;
    op->f = duet_spawn(op_run, op);
    must_equal(duet_yield(), 0);
}

/* Starts it, and it must wait. */
static void op_start_asleep(struct op *op)
{
    op_start(op);
    let_run();
    must(!op->returned);
}

static ssize_t op_end(struct op *op)
{
    must_equal(finish(op->f).err, 0);
    must(op->returned);
    return op->rc;
}

static ssize_t op_cancel(struct op *op)
{
    duet_future_cancel(op->f);
    return op_end(op);
}

static struct op a_read(duet_stream *s, enum call call, char *buf, size_t n)
{
    return (struct op){.call = call, .s = s, .buf = buf, .n = n, .delimiter = '\n'};
}

static struct op a_write(duet_stream *s, void *buf, size_t n)
{
    return (struct op){.call = WRITE, .s = s, .buf = buf, .n = n};
}

static struct op a_call(duet_stream *s, enum call call)
{
    return (struct op){.call = call, .s = s};
}

/* Unsent bytes, when the kernel takes no more. */
static size_t unsent_at_rest(duet_stream *s)
{
    size_t before;
    do {
        before = duet_stream_unsent(s);
        let_run();
    } while (duet_stream_unsent(s) != before);
    return before;
}

static void line_is(duet_stream *s, const char *text)
{
    const char *line = NULL;
    must_equal(duet_stream_read_line(s, &line, SURELY), strlen(text));
    must(memcmp(line, text, strlen(text)) == 0);
}

static void exactly_is(duet_stream *s, const char *text)
{
    char buf[256];
    must_equal(duet_stream_read_exactly(s, buf, strlen(text), SURELY), strlen(text));
    must(memcmp(buf, text, strlen(text)) == 0);
}

static void is_at_its_end(duet_stream *s)
{
    char c;
    const char *line = NULL;
    must_equal(duet_stream_read(s, &c, 1, SURELY), 0);
    must_equal(duet_stream_read_exactly(s, &c, 1, SURELY), 0);
    must_equal(duet_stream_read_line(s, &line, SURELY), 0);
    must_equal(duet_stream_read_until(s, 'x', &line, SURELY), 0);
    must_equal(duet_stream_read(s, &c, 1, DUET_NOW), 0);
}

/* After each test as many descriptors are open as before. */
static int fds_before;

static int before_each(void **state)
{
    (void)state;
    fds_before = count_fds();
    return 0;
}

static int after_each(void **state)
{
    (void)state;
    assert_int_equal(count_fds(), fds_before);
    return 0;
}

#define stream_test(name) cmocka_unit_test_setup_teardown(name, before_each, after_each)

/* ---- Opening ---- */

coroutine_test(bad_arguments_are_refused_and_the_descriptor_stays_the_callers)
{
    int fds[2];
    duet_stream *s = NULL;
    open_link(PAIR, fds);
    for (size_t i = 0; i < COUNT(((duet_stream_config *)0)->reserved); i++) {
        duet_stream_config config = {0};
        config.reserved[i] = 1;
        must_equal(duet_stream_open(&s, fds[0], &config), -EINVAL);
    }
    must_equal(duet_stream_open(NULL, fds[0], NULL), -EINVAL);
    must_equal(duet_stream_open(&s, -1, NULL), -EBADF);
    must(fcntl(fds[0], F_GETFD) >= 0);
    must_equal(duet_stream_open(&s, fds[0], NULL), 0);
    peer_says(fds[1], "a line\n");
    line_is(s, "a line\n");
    close_both(s, fds[1]);
    return duet_ok();
}

coroutine_test(a_descriptor_that_is_not_open_is_refused)
{
    int closed = dup(0);
    duet_stream *s = NULL;
    must(closed >= 0);
    close(closed);
    must_equal(duet_stream_open(&s, closed, NULL), -EBADF);
    return duet_ok();
}

coroutine_test(the_configuration_is_copied)
{
    duet_stream_config *config = calloc(1, sizeof *config);
    int peer;
    const char *line;
    config->read_limit = 4;
    duet_stream *s = open_stream(PAIR, config, &peer);
    memset(config, 0xff, sizeof *config);
    free(config);
    peer_says(peer, "12345\n");
    must_equal(duet_stream_read_line(s, &line, SURELY), -EMSGSIZE);
    close_both(s, peer);
    return duet_ok();
}

coroutine_test(a_stream_owns_its_descriptor_until_it_is_closed)
{
    int fds[2];
    duet_stream *s;
    for (enum link link = 0; link < LINKS; link++) {
        open_link(link, fds);
        must_equal(duet_stream_open(&s, fds[0], NULL), 0);
        must(fcntl(fds[0], F_GETFD) >= 0);
        must_equal(duet_stream_close(s, SURELY), 0);
        must(fcntl(fds[0], F_GETFD) < 0 && errno == EBADF);
        close(fds[1]);
    }
    return duet_ok();
}

coroutine_test(a_stream_may_be_of_a_terminal)
{
    int terminal, screen;
    struct termios raw;
    duet_stream *s;
    must(openpty(&terminal, &screen, NULL, NULL, NULL) == 0);
    must(tcgetattr(screen, &raw) == 0);
    cfmakeraw(&raw);
    must(tcsetattr(screen, TCSANOW, &raw) == 0);
    must_equal(duet_stream_open(&s, screen, NULL), 0);
    peer_says(terminal, "typed\n");
    line_is(s, "typed\n");
    must_equal(duet_stream_write(s, "shown", 5, SURELY), 0);
    must_equal(duet_stream_drain(s, SURELY), 0);
    peer_hears_text(terminal, "shown");
    struct sockaddr_storage addr;
    must_equal(duet_stream_peer(s, &addr), -ENOTCONN);
    close_both(s, terminal);
    return duet_ok();
}

/* ---- Reading ---- */

coroutine_test(a_read_returns_what_there_is_as_soon_as_there_is_any)
{
    for (size_t i = 0; i < COUNT(readable); i++) {
        int peer;
        char buf[16] = "";
        duet_stream *s = open_stream(readable[i], NULL, &peer);
        struct op op = a_read(s, READ, buf, sizeof buf);
        op_start_asleep(&op);
        peer_says(peer, "abc");
        must_equal(op_end(&op), 3);
        must(memcmp(buf, "abc", 3) == 0);
        peer_says(peer, "defgh");
        must_equal(duet_stream_read(s, buf, 2, SURELY), 2);
        must(memcmp(buf, "de", 2) == 0);
        exactly_is(s, "fgh");
        must_equal(duet_stream_read(s, buf, 1, DUET_NOW), -ETIME);
        close_both(s, peer);
    }
    return duet_ok();
}

coroutine_test(a_read_of_nothing_is_zero_at_once)
{
    int peer;
    char c = 'x';
    duet_stream *s = open_stream(PAIR, NULL, &peer);
    must_equal(duet_stream_read(s, &c, 0, DUET_NEVER), 0);
    must_equal(duet_stream_read_exactly(s, &c, 0, DUET_NEVER), 0);
    peer_says(peer, "y");
    must_equal(duet_stream_read(s, &c, 0, DUET_NEVER), 0);
    must(c == 'x');
    exactly_is(s, "y");
    close_both(s, peer);
    return duet_ok();
}

coroutine_test(to_read_exactly_waits_for_all_and_takes_no_more)
{
    for (size_t i = 0; i < COUNT(readable); i++) {
        int peer;
        char buf[16] = "";
        duet_stream *s = open_stream(readable[i], NULL, &peer);
        struct op op = a_read(s, EXACTLY, buf, 6);
        op_start_asleep(&op);
        for (int piece = 0; piece < 5; piece++) {
            peer_says(peer, (char[]){(char)('a' + piece), '\0'});
            let_run();
            must(!op.returned);
        }
        peer_says(peer, "fgh");
        must_equal(op_end(&op), 6);
        must(memcmp(buf, "abcdef", 6) == 0);
        exactly_is(s, "gh");
        close_both(s, peer);
    }
    return duet_ok();
}

static duet_result say_plenty(void *arg)
{
    int *peer = arg;
    must_equal(duet_write(*peer, plenty, sizeof plenty, SURELY), sizeof plenty);
    return duet_ok();
}

static void fill_plenty(uint64_t random)
{
    for (size_t i = 0; i < sizeof plenty; i++)
        plenty[i] = (char)(test_random(&random) >> 40);
}

coroutine_test(to_read_exactly_is_not_bound_by_the_limit)
{
    static char copy[PLENTY];
    duet_stream_config config = {.read_limit = 100};
    int peer;
    duet_stream *s = open_stream(PAIR, &config, &peer);
    fill_plenty(1);
    memset(copy, 0, sizeof copy);
    duet_future *f = duet_spawn(say_plenty, &peer);
    must_equal(duet_stream_read_exactly(s, copy, sizeof copy, SURELY), sizeof copy);
    must(memcmp(copy, plenty, sizeof copy) == 0);
    must_equal(finish(f).err, 0);
    close_both(s, peer);
    return duet_ok();
}

coroutine_test(at_the_end_fewer_bytes_are_read_and_then_none)
{
    for (size_t i = 0; i < COUNT(readable); i++) {
        int peer;
        char buf[16] = "";
        duet_stream *s = open_stream(readable[i], NULL, &peer);
        struct op op = a_read(s, EXACTLY, buf, 6);
        peer_says(peer, "abcd");
        op_start_asleep(&op);
        must(close(peer) == 0);
        must_equal(op_end(&op), 4);
        must(memcmp(buf, "abcd", 4) == 0);
        is_at_its_end(s);
        must_equal(duet_stream_close(s, SURELY), 0);
    }
    return duet_ok();
}

coroutine_test(each_read_hears_of_the_end_while_it_waits)
{
    for (size_t i = 0; i < COUNT(readable); i++)
        for (enum call call = 0; call < READS; call++) {
            int peer;
            char buf[16] = "";
            duet_stream *s = open_stream(readable[i], NULL, &peer);
            struct op op = a_read(s, call, buf, 6);
            op_start_asleep(&op);
            must(close(peer) == 0);
            must_equal(op_end(&op), 0);
            is_at_its_end(s);
            must_equal(duet_stream_close(s, SURELY), 0);
        }
    return duet_ok();
}

coroutine_test(a_record_comes_with_its_delimiter_and_across_pieces)
{
    for (size_t i = 0; i < COUNT(readable); i++) {
        int peer;
        duet_stream *s = open_stream(readable[i], NULL, &peer);
        struct op op = a_read(s, UNTIL, NULL, 0);
        op.delimiter = ';';
        op_start_asleep(&op);
        peer_says(peer, "one\ntwo");
        let_run();
        must(!op.returned);
        peer_says(peer, ";three;;four\nfive");
        must_equal(op_end(&op), 8);
        must(memcmp(op.text, "one\ntwo;", 8) == 0);
        must_equal(duet_stream_read_until(s, ';', &op.text, SURELY), 6);
        must(memcmp(op.text, "three;", 6) == 0);
        must_equal(duet_stream_read_until(s, ';', &op.text, SURELY), 1);
        must(op.text[0] == ';');
        line_is(s, "four\n"); /* another delimiter, in what is buffered */
        must_equal(duet_stream_read_until(s, 'v', &op.text, SURELY), 3);
        must(memcmp(op.text, "fiv", 3) == 0);
        exactly_is(s, "e");
        close_both(s, peer);
    }
    return duet_ok();
}

coroutine_test(a_delimiter_may_be_any_byte)
{
    int peer;
    const char *text;
    duet_stream *s = open_stream(PAIR, NULL, &peer);
    must_equal(duet_write(peer, "a\0b\xff\0c\x80", 7, SURELY), 7);
    must_equal(duet_stream_read_until(s, '\0', &text, SURELY), 2);
    must(memcmp(text, "a", 2) == 0);
    must_equal(duet_stream_read_until(s, '\xff', &text, SURELY), 2);
    must(memcmp(text, "b\xff", 2) == 0);
    must_equal(duet_stream_read_until(s, '\x80', &text, SURELY), 3);
    must(memcmp(text, "\0c\x80", 3) == 0);
    close_both(s, peer);
    return duet_ok();
}

/* A search that failed for one delimiter must not be taken for one for another. */
coroutine_test(the_delimiter_may_change_after_a_record_that_did_not_come)
{
    int peer;
    const char *text;
    duet_stream *s = open_stream(PAIR, NULL, &peer);
    peer_says(peer, "a;b,c");
    must_equal(duet_stream_read_line(s, &text, duet_ms(1)), -ETIME);
    must_equal(duet_stream_read_until(s, ';', &text, DUET_NOW), 2);
    must(memcmp(text, "a;", 2) == 0);
    must_equal(duet_stream_read_line(s, &text, duet_ms(1)), -ETIME);
    must_equal(duet_stream_read_until(s, ',', &text, DUET_NOW), 2);
    must(memcmp(text, "b,", 2) == 0);
    must_equal(duet_stream_read_until(s, ';', &text, DUET_NOW), -ETIME);
    peer_says(peer, "\n;");
    line_is(s, "c\n");
    must_equal(duet_stream_read_until(s, ';', &text, SURELY), 1);
    close_both(s, peer);
    return duet_ok();
}

coroutine_test(at_the_end_the_rest_comes_without_a_delimiter_and_then_nothing)
{
    for (size_t i = 0; i < COUNT(readable); i++)
        for (enum call call = UNTIL; call <= LINE; call++) {
            int peer;
            duet_stream *s = open_stream(readable[i], NULL, &peer);
            struct op op = a_read(s, call, NULL, 0);
            peer_says(peer, "a line\nthe rest");
            line_is(s, "a line\n");
            op_start_asleep(&op);
            must(close(peer) == 0);
            must_equal(op_end(&op), 8);
            must(memcmp(op.text, "the rest", 8) == 0);
            is_at_its_end(s);
            must_equal(duet_stream_close(s, SURELY), 0);
        }
    return duet_ok();
}

coroutine_test(a_line_is_there_until_the_next_read)
{
    static char reply[100000];
    int peer;
    const char *line;
    duet_stream *s = open_stream(PAIR, NULL, &peer);
    peer_says(peer, "to be kept\nnext\n");
    must_equal(duet_stream_read_line(s, &line, SURELY), 11);
    struct op op = a_write(s, reply, sizeof reply);
    op_start(&op);
    must_equal(op_end(&op), 0);
    for (int i = 0; i < 3; i++) {
        peer_says(peer, "more that comes meanwhile\n");
        let_run();
        must(memcmp(line, "to be kept\n", 11) == 0);
    }
    must_equal(duet_stream_drain(s, duet_ms(1)), -ETIME);
    must(memcmp(line, "to be kept\n", 11) == 0);
    peer_swallows(peer, sizeof reply);
    must_equal(duet_stream_drain(s, SURELY), 0);
    must_equal(duet_stream_finish(s, SURELY), 0);
    must(memcmp(line, "to be kept\n", 11) == 0);
    line_is(s, "next\n");
    close_both(s, peer);
    return duet_ok();
}

/* ---- The limit ---- */

coroutine_test(a_record_as_long_as_the_limit_is_read_and_a_longer_one_is_an_error)
{
    duet_stream_config config = {.read_limit = 8};
    for (size_t i = 0; i < COUNT(readable); i++) {
        int peer;
        const char *text = NULL;
        duet_stream *s = open_stream(readable[i], &config, &peer);
        peer_says(peer, "1234567\n12345678\n");
        line_is(s, "1234567\n");
        for (int again = 0; again < 3; again++)
            must_equal(duet_stream_read_line(s, &text, SURELY), -EMSGSIZE);
        must_equal(duet_stream_read_until(s, 'x', &text, SURELY), -EMSGSIZE);
        exactly_is(s, "12345678\n");
        must_equal(duet_stream_read_line(s, &text, DUET_NOW), -ETIME);
        close_both(s, peer);
    }
    return duet_ok();
}

/* It is an error as soon as that many have come, not only when more do. */
coroutine_test(the_limit_is_an_error_while_the_peer_says_no_more)
{
    duet_stream_config config = {.read_limit = 8};
    int peer;
    duet_stream *s = open_stream(PAIR, &config, &peer);
    struct op op = a_read(s, LINE, NULL, 0);
    peer_says(peer, "1234567");
    op_start_asleep(&op);
    peer_says(peer, "8");
    must_equal(op_end(&op), -EMSGSIZE);
    close_both(s, peer);
    return duet_ok();
}

coroutine_test(what_was_too_long_can_be_read_on_by_other_calls)
{
    duet_stream_config config = {.read_limit = 8};
    for (enum call call = 0; call < READS; call++) {
        int peer;
        char buf[64] = "";
        duet_stream *s = open_stream(PAIR, &config, &peer);
        struct op op = a_read(s, call, buf, 5);
        op.delimiter = '5';
        peer_says(peer, "1234567890\nnext\n");
        must_equal(duet_stream_read_line(s, &op.text, SURELY), -EMSGSIZE);
        op_start(&op);
        if (call == LINE) {
            must_equal(op_end(&op), -EMSGSIZE);
            exactly_is(s, "12345");
        } else {
            must_equal(op_end(&op), 5);
            must(memcmp(call == UNTIL ? op.text : buf, "12345", 5) == 0);
        }
        line_is(s, "67890\n"); /* the limit is for each record */
        line_is(s, "next\n");
        close_both(s, peer);
    }
    return duet_ok();
}

coroutine_test(the_limit_is_64_kib_by_default)
{
    static char copy[70000];
    int peer;
    const char *line;
    duet_stream_config zero = {0};
    for (int with_config = 0; with_config < 2; with_config++) {
        duet_stream *s = open_stream(TCP4, with_config ? &zero : NULL, &peer);
        memset(plenty, 'x', sizeof plenty);
        plenty[65535] = '\n';
        duet_future *f = duet_spawn(say_plenty, &peer);
        must_equal(duet_stream_read_line(s, &line, SURELY), 65536);
        must(memcmp(line, plenty, 65536) == 0);
        must_equal(duet_stream_read_line(s, &line, SURELY), -EMSGSIZE);
        must_equal(duet_stream_read_exactly(s, copy, sizeof copy, SURELY), sizeof copy);
        must(memcmp(copy, plenty + 65536, sizeof copy) == 0);
        must_equal(duet_stream_read_line(s, &line, SURELY), -EMSGSIZE);
        must_equal(duet_stream_read_exactly(s, plenty, sizeof plenty - 65536 - sizeof copy, SURELY),
                   sizeof plenty - 65536 - sizeof copy);
        must_equal(finish(f).err, 0);
        close_both(s, peer);
    }
    return duet_ok();
}

/* ---- Who waits for bytes ---- */

coroutine_test(each_read_gives_up_at_its_deadline_and_what_came_stays)
{
    for (size_t i = 0; i < COUNT(readable); i++)
        for (enum call call = 0; call < READS; call++) {
            int peer;
            char buf[16] = "";
            duet_stream *s = open_stream(readable[i], NULL, &peer);
            struct op op = a_read(s, call, buf, 6);
            op.by = duet_ms(1);
            op_start(&op);
            must_equal(op_end(&op), -ETIME);
            op.by = duet_ms(-1);
            op_start(&op);
            must_equal(op_end(&op), -ETIME);
            if (call != READ) {
                peer_says(peer, "abc");
                op.by = duet_ms(3);
                op_start(&op);
                must_equal(op_end(&op), -ETIME);
                peer_says(peer, "de\n");
            } else {
                peer_says(peer, "abcde\n");
            }
            op.by = SURELY;
            op_start(&op);
            must_equal(op_end(&op), 6);
            must(memcmp(call >= UNTIL ? op.text : buf, "abcde\n", 6) == 0);
            close_both(s, peer);
        }
    return duet_ok();
}

coroutine_test(a_try_gets_what_is_there)
{
    for (size_t i = 0; i < COUNT(readable); i++)
        for (enum call call = 0; call < READS; call++) {
            int peer;
            char buf[16] = "";
            duet_stream *s = open_stream(readable[i], NULL, &peer);
            struct op op = a_read(s, call, buf, 3);
            peer_says(peer, "ab\ncd\n");
            op.by = DUET_NOW;
            must_equal(op_call(&op), 3); /* from the kernel */
            must(memcmp(call >= UNTIL ? op.text : buf, "ab\n", 3) == 0);
            must_equal(op_call(&op), 3); /* from the buffer, if it is there */
            must(memcmp(call >= UNTIL ? op.text : buf, "cd\n", 3) == 0);
            must_equal(op_call(&op), -ETIME);
            close_both(s, peer);
        }
    return duet_ok();
}

coroutine_test(each_read_ends_when_its_coroutine_is_cancelled_and_what_came_stays)
{
    for (size_t i = 0; i < COUNT(readable); i++)
        for (enum call call = 0; call < READS; call++) {
            int peer;
            char buf[16] = "";
            duet_stream *s = open_stream(readable[i], NULL, &peer);
            struct op op = a_read(s, call, buf, 6);
            op_start_asleep(&op);
            must_equal(op_cancel(&op), -ECANCELED);
            if (call != READ) {
                peer_says(peer, "abc");
                op_start_asleep(&op);
                must_equal(op_cancel(&op), -ECANCELED);
            } else {
                peer_says(peer, "abc");
            }
            peer_says(peer, "de\n");
            exactly_is(s, "abcde\n");
            close_both(s, peer);
        }
    return duet_ok();
}

static duet_result call_when_cancelled(void *arg)
{
    struct op *op = arg;
    while (!duet_cancelled())
        duet_yield();
    op->rc = op_call(op);
    op->returned = true;
    return duet_ok();
}

static ssize_t op_when_cancelled(struct op *op)
{
    op->by = SURELY;
    op->f = duet_spawn(call_when_cancelled, op);
    must_equal(duet_yield(), 0);
    must_equal(duet_yield(), 0);
    return op_cancel(op);
}

coroutine_test(who_is_cancelled_before_it_comes_has_no_effect)
{
    for (enum call call = 0; call < READS; call++) {
        int peer;
        char buf[16] = "";
        const char *line;
        duet_stream *s = open_stream(PAIR, NULL, &peer);
        struct op op = a_read(s, call, buf, 3);
        peer_says(peer, "abc\ndef\n");
        must_equal(op_when_cancelled(&op), -ECANCELED); /* what there is is in the kernel … */
        must_equal(duet_stream_read_line(s, &line, SURELY), 4);
        must_equal(op_when_cancelled(&op), -ECANCELED); /* … and now in the buffer */
        exactly_is(s, "def\n");
        close_both(s, peer);
    }
    int peer;
    duet_stream *s = open_stream(PAIR, NULL, &peer);
    struct op op = a_write(s, "abc", 3);
    must_equal(op_when_cancelled(&op), -ECANCELED);
    must_equal(duet_stream_unsent(s), 0);
    must_equal(duet_stream_write(s, "d", 1, SURELY), 0);
    must_equal(duet_stream_drain(s, SURELY), 0);
    peer_hears_text(peer, "d");
    close_both(s, peer);
    return duet_ok();
}

static duet_result shielded_line(void *arg)
{
    struct op *op = arg;
    duet_shield_begin();
    op->rc = op_call(op);
    duet_shield_end();
    op->returned = true;
    return duet_ok();
}

coroutine_test(under_a_shield_a_read_outlasts_its_cancellation)
{
    int peer;
    duet_stream *s = open_stream(PAIR, NULL, &peer);
    struct op op = a_read(s, LINE, NULL, 0);
    op.by = SURELY;
    op.f = duet_spawn(shielded_line, &op);
    let_run();
    duet_future_cancel(op.f);
    let_run();
    must(!op.returned);
    peer_says(peer, "said\n");
    must_equal(op_end(&op), 5);
    close_both(s, peer);
    return duet_ok();
}

coroutine_test(a_second_reader_is_refused_and_the_first_reads_on)
{
    for (enum call first = 0; first < READS; first++)
        for (enum call second = 0; second < READS; second++) {
            int peer;
            char buf[16] = "", other[16] = "";
            duet_stream *s = open_stream(PAIR, NULL, &peer);
            struct op reader = a_read(s, first, buf, 4), refused = a_read(s, second, other, 4);
            op_start_asleep(&reader);
            op_start(&refused);
            must_equal(op_end(&refused), -EBUSY);
            refused.by = DUET_NOW;
            must_equal(op_call(&refused), -EBUSY);
            must(!reader.returned);
            peer_says(peer, "abc\n");
            must_equal(op_end(&reader), 4);
            peer_says(peer, "def\n"); /* and then another may */
            refused.by = SURELY;
            op_start(&refused);
            must_equal(op_end(&refused), 4);
            close_both(s, peer);
        }
    return duet_ok();
}

coroutine_test(after_a_reader_gave_up_another_may_read)
{
    int peer;
    duet_stream *s = open_stream(PAIR, NULL, &peer);
    struct op op = a_read(s, LINE, NULL, 0);
    for (int i = 0; i < 3; i++) {
        op_start_asleep(&op);
        must_equal(op_cancel(&op), -ECANCELED);
        op.by = duet_ms(1);
        op_start(&op);
        must_equal(op_end(&op), -ETIME);
        op.by = SURELY;
    }
    peer_says(peer, "a\n");
    line_is(s, "a\n");
    close_both(s, peer);
    return duet_ok();
}

coroutine_test(a_reset_is_an_error_and_what_was_read_stays)
{
    for (enum call call = EXACTLY; call < READS; call++) {
        int peer;
        char buf[16] = "";
        duet_stream *s = open_stream(TCP4, NULL, &peer);
        struct op op = a_read(s, call, buf, 9);
        peer_says(peer, "a line\npart");
        line_is(s, "a line\n");
        must_equal(duet_stream_read_line(s, &op.text, duet_ms(1)), -ETIME);
        op_start_asleep(&op);
        peer_resets(peer);
        must_equal(op_end(&op), -ECONNRESET);
        exactly_is(s, "part");
        ssize_t rc = duet_stream_read(s, buf, 1, SURELY);
        must(rc == -ECONNRESET || rc == 0);
        must_equal(duet_stream_close(s, SURELY), 0);
    }
    return duet_ok();
}

/* ---- Pieces at random ---- */

struct feed {
    int fd;
    const char *data;
    size_t n;
    uint64_t random;
};

/* Sends the data in pieces, and then the end. */
static duet_result feed_run(void *arg)
{
    struct feed *feed = arg;
    for (size_t at = 0; at < feed->n;) {
        size_t piece =
            1 + test_random(&feed->random) % (test_random(&feed->random) % 8 ? 50 : 5000);
        if (piece > feed->n - at)
            piece = feed->n - at;
        must_equal(duet_write(feed->fd, feed->data + at, piece, SURELY), piece);
        at += piece;
        if (test_random(&feed->random) % 4 == 0)
            duet_yield();
        if (test_random(&feed->random) % 16 == 0)
            duet_sleep(duet_us((int64_t)(test_random(&feed->random) % 100)));
    }
    must(close(feed->fd) == 0);
    return duet_ok();
}

static size_t min_size(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* Reads by calls at random and compares with what was sent. */
struct reader {
    duet_stream *s;
    const char *data;
    size_t n, at, limit;
    uint64_t random;
    bool impatient, at_end;
};

/* One call. False: it was cancelled. */
static bool reader_step(struct reader *r)
{
    static const char delimiters[] = "\n;\0";
    static char buf[4096];
    size_t left = r->n - r->at;
    struct op op = {.call = (enum call)(test_random(&r->random) % READS),
                    .s = r->s,
                    .buf = buf,
                    .n = 1 + test_random(&r->random) % (test_random(&r->random) % 2 ? 20 : 1000),
                    .delimiter = delimiters[test_random(&r->random) % 3],
                    .by = SURELY};
    unsigned patience = (unsigned)(test_random(&r->random) % 4);
    if (r->impatient && patience == 0)
        op.by = DUET_NOW;
    if (r->impatient && patience == 1)
        op.by = duet_us((int64_t)(test_random(&r->random) % 60));
    if (op.call == LINE)
        op.delimiter = '\n';
    memset(buf, 0x55, op.n);
    ssize_t rc = op_call(&op);
    if (rc == -ECANCELED)
        return false;
    if (rc == -ETIME) {
        must(r->impatient);
        return true;
    }
    const char *found = memchr(r->data + r->at, op.delimiter, left);
    size_t whole = found == NULL ? left : (size_t)(found - r->data) - r->at + 1;
    switch (op.call) {
    case READ:
        must(left == 0 ? rc == 0 : rc > 0 && (size_t)rc <= min_size(op.n, left));
        break;
    case EXACTLY:
        must_equal(rc, min_size(op.n, left));
        break;
    default:
        if (found == NULL ? left >= r->limit : whole > r->limit) {
            must_equal(rc, -EMSGSIZE);
            return true;
        }
        must_equal(rc, whole);
    }
    if (rc > 0)
        must(memcmp(op.call >= UNTIL ? op.text : buf, r->data + r->at, (size_t)rc) == 0);
    r->at += (size_t)rc;
    r->at_end = rc == 0;
    return true;
}

static char *random_records(uint64_t *random, size_t n)
{
    char *data = malloc(n);
    must(data != NULL);
    for (size_t i = 0; i < n; i++) {
        unsigned r = (unsigned)(test_random(random) % 200);
        data[i] = (char)(r == 0 ? '\n' : r == 1 ? ';' : r == 2 ? '\0' : 'a' + r % 26);
    }
    return data;
}

static void read_pieces(enum link link, bool impatient, uint64_t *random)
{
    size_t n = test_random(random) % 40000;
    char *data = random_records(random, n);
    duet_stream_config config = {.read_limit = 50 + test_random(random) % 300};
    struct feed feed = {.data = data, .n = n, .random = test_random(random)};
    struct reader reader = {.data = data,
                            .n = n,
                            .limit = config.read_limit,
                            .random = test_random(random),
                            .impatient = impatient};
    reader.s = open_stream(link, &config, &feed.fd);
    duet_future *f = duet_spawn(feed_run, &feed);
    while (!reader.at_end)
        must(reader_step(&reader));
    must_equal(reader.at, n);
    must_equal(finish(f).err, 0);
    must_equal(duet_stream_close(reader.s, SURELY), 0);
    free(data);
}

coroutine_test(what_comes_in_pieces_is_read_in_order_by_any_calls)
{
    uint64_t random = test_seed();
    for (int i = test_rounds(20); i >= 0; i--)
        read_pieces(readable[(size_t)i % COUNT(readable)], false, &random);
    return duet_ok();
}

coroutine_test(deadlines_lose_no_bytes)
{
    uint64_t random = test_seed();
    for (int i = test_rounds(20); i >= 0; i--)
        read_pieces(readable[(size_t)i % COUNT(readable)], true, &random);
    return duet_ok();
}

static duet_result read_until_cancelled(void *arg)
{
    struct reader *reader = arg;
    while (!reader->at_end)
        if (!reader_step(reader))
            return duet_err(-ECANCELED);
    return duet_ok();
}

static void wait_a_little(uint64_t *random)
{
    switch (test_random(random) % 3) {
    case 0:
        for (uint64_t i = test_random(random) % 10; i > 0; i--)
            must_equal(duet_yield(), 0);
        break;
    case 1:
        must_equal(duet_sleep(duet_us((int64_t)(test_random(random) % 200))), 0);
        break;
    default:
        for (volatile uint64_t i = test_random(random) % 2000; i > 0; i--)
            ;
    }
}

coroutine_test(cancellations_lose_no_bytes)
{
    uint64_t random = test_seed();
    for (int i = test_rounds(20); i >= 0; i--) {
        size_t n = test_random(&random) % 20000;
        char *data = random_records(&random, n);
        duet_stream_config config = {.read_limit = 1000};
        struct feed feed = {.data = data, .n = n, .random = test_random(&random)};
        struct reader reader = {.data = data,
                                .n = n,
                                .limit = config.read_limit,
                                .random = test_random(&random),
                                .impatient = i % 2};
        reader.s = open_stream(readable[(size_t)i % COUNT(readable)], &config, &feed.fd);
        duet_future *f = duet_spawn(feed_run, &feed);
        while (!reader.at_end) {
            duet_future *r = duet_spawn(read_until_cancelled, &reader);
            wait_a_little(&random);
            duet_future_cancel(r);
            finish(r);
        }
        must_equal(reader.at, n);
        must_equal(finish(f).err, 0);
        must_equal(duet_stream_close(reader.s, SURELY), 0);
        free(data);
    }
    return duet_ok();
}

/* ---- Writing ---- */

coroutine_test(what_is_written_is_sent_in_order_and_the_buffer_is_the_callers_again)
{
    for (size_t i = 0; i < COUNT(writable); i++) {
        int peer;
        char buf[16];
        duet_stream *s = open_stream(writable[i], NULL, &peer);
        for (int k = 0; k < 20; k++) {
            snprintf(buf, sizeof buf, "<%02d>", k);
            must_equal(duet_stream_write(s, buf, 4, SURELY), 0);
            memset(buf, '?', sizeof buf);
        }
        must_equal(duet_stream_write(s, "!", 0, SURELY), 0);
        must_equal(duet_stream_write(s, NULL, 0, SURELY), 0);
        for (int k = 0; k < 20; k++) { /* nobody drains: they are sent from then on */
            snprintf(buf, sizeof buf, "<%02d>", k);
            peer_hears_text(peer, buf);
        }
        must_equal(duet_stream_drain(s, SURELY), 0);
        must_equal(duet_stream_unsent(s), 0);
        close_both(s, peer);
    }
    return duet_ok();
}

coroutine_test(a_large_write_is_accepted_at_once_and_arrives_whole)
{
    static char copy[PLENTY];
    fill_plenty(2);
    for (size_t i = 0; i < COUNT(writable); i++) {
        int peer;
        duet_stream *s = open_stream(writable[i], NULL, &peer);
        must_equal(duet_stream_write(s, plenty, sizeof plenty, DUET_NOW), 0);
        size_t unsent = duet_stream_unsent(s);
        must(unsent > 0 && unsent <= sizeof plenty);
        struct op drain = a_call(s, DRAIN);
        op_start_asleep(&drain);
        peer_hears(peer, copy, sizeof copy);
        must(memcmp(copy, plenty, sizeof copy) == 0);
        must_equal(op_end(&drain), 0);
        must_equal(duet_stream_unsent(s), 0);
        close_both(s, peer);
    }
    return duet_ok();
}

/* Records of several writers. */
enum {
    WRITERS = 5,
    RECORD_MAX = 9000
};
struct record {
    uint32_t writer, number, size, check;
};
struct writer {
    duet_stream *s;
    uint32_t id, records, accepted, next;
    uint64_t random;
    bool impatient;
    uint32_t cancelled; /* how often */
    bool *sent; /* of each number: it was accepted */
    duet_future *f;
};

static duet_result write_records(void *arg)
{
    struct writer *w = arg;
    static char bufs[WRITERS][sizeof(struct record) + RECORD_MAX];
    char *buf = bufs[w->id];
    while (w->next < w->records) {
        struct record head = {w->id, w->next, (uint32_t)(test_random(&w->random) % RECORD_MAX), 77};
        memcpy(buf, &head, sizeof head);
        memset(buf + sizeof head, (int)('a' + (w->id + w->next) % 26), head.size);
        duet_deadline by = SURELY;
        if (w->impatient && test_random(&w->random) % 2)
            by = duet_us((int64_t)(test_random(&w->random) % 100));
        int rc = duet_stream_write(w->s, buf, sizeof head + head.size, by);
        must(rc == 0 || rc == -ECANCELED || (w->impatient && rc == -ETIME));
        w->sent[w->next++] = rc == 0;
        w->accepted += rc == 0;
        memset(buf, '?', sizeof head + head.size);
        if (rc == -ECANCELED) {
            w->cancelled++;
            return duet_err(rc);
        }
        if (test_random(&w->random) % 4 == 0 && duet_yield() < 0)
            return duet_err(-ECANCELED);
    }
    return duet_ok();
}

struct records_read {
    int peer;
    uint32_t next[WRITERS], count;
    struct writer *writers;
    uint64_t random;
};

/* The peer: each record is whole, those of a writer come in order, and only accepted ones do. */
static duet_result check_records(void *arg)
{
    struct records_read *r = arg;
    static char body[RECORD_MAX];
    struct record head;
    ssize_t n;
    while ((n = duet_read(r->peer, &head, 1, SURELY)) == 1) {
        peer_hears(r->peer, (char *)&head + 1, sizeof head - 1);
        must(head.writer < WRITERS && head.check == 77 && head.size < RECORD_MAX);
        must(head.number >= r->next[head.writer]);
        r->next[head.writer] = head.number + 1;
        peer_hears(r->peer, body, head.size);
        for (uint32_t i = 0; i < head.size; i++)
            must_equal(body[i], 'a' + (head.writer + head.number) % 26);
        r->writers[head.writer].sent[head.number] ^= true; /* checked at the end */
        r->count++;
        if (test_random(&r->random) % 8 == 0)
            duet_sleep(duet_us((int64_t)(test_random(&r->random) % 100)));
    }
    must_equal(n, 0);
    return duet_ok();
}

static void several_write(enum link link, uint64_t *random, uint32_t records, bool impatient,
                          bool cancel)
{
    struct writer w[WRITERS] = {0};
    struct records_read reader = {.writers = w, .random = test_random(random)};
    duet_stream_config config = {.write_high = 1 + test_random(random) % 20000};
    duet_stream *s = open_stream(link, &config, &reader.peer);
    uint32_t accepted = 0;
    for (uint32_t i = 0; i < WRITERS; i++) {
        w[i] = (struct writer){.s = s, .id = i, .records = records, .random = test_random(random)};
        w[i].impatient = impatient;
        w[i].sent = calloc(records, sizeof *w[i].sent);
        must(w[i].sent != NULL);
        w[i].f = duet_spawn(write_records, &w[i]);
    }
    duet_future *f = duet_spawn(check_records, &reader);
    for (bool going = cancel; going;) { /* cancels one, and starts it anew */
        going = false;
        for (uint32_t i = 0; i < WRITERS; i++)
            if (w[i].next < records) {
                going = true;
                wait_a_little(random);
                duet_future_cancel(w[i].f);
                finish(w[i].f);
                w[i].f = duet_spawn(write_records, &w[i]);
            }
    }
    for (uint32_t i = 0; i < WRITERS; i++) {
        finish(w[i].f);
        must_equal(w[i].next, records);
        accepted += w[i].accepted;
    }
    must_equal(duet_stream_close(s, SURELY), 0); /* drains */
    must_equal(finish(f).err, 0);
    close(reader.peer);
    must_equal(reader.count, accepted);
    for (uint32_t i = 0; i < WRITERS; i++) {
        for (uint32_t k = 0; k < records; k++)
            must(!w[i].sent[k]);
        free(w[i].sent);
    }
}

coroutine_test(each_write_is_whole_when_several_write)
{
    uint64_t random = test_seed();
    for (size_t i = 0; i < COUNT(writable); i++)
        several_write(writable[i], &random, (uint32_t)test_rounds(100) + 1, false, false);
    return duet_ok();
}

coroutine_test(a_write_whose_deadline_passes_has_sent_nothing_or_all)
{
    uint64_t random = test_seed();
    for (size_t i = 0; i < COUNT(writable); i++)
        several_write(writable[i], &random, (uint32_t)test_rounds(100) + 1, true, false);
    return duet_ok();
}

coroutine_test(a_write_that_is_cancelled_has_sent_nothing_or_all)
{
    uint64_t random = test_seed();
    for (size_t i = 0; i < COUNT(writable); i++)
        several_write(writable[i], &random, (uint32_t)test_rounds(100) + 1, i % 2, true);
    return duet_ok();
}

/* ---- The high-water mark ---- */

/* Until a write would have to wait. How much is unsent then. */
static size_t fill(duet_stream *s, size_t piece)
{
    int rc;
    do {
        rc = duet_stream_write(s, plenty, piece, DUET_NOW);
        if (rc == 0)
            unsent_at_rest(s);
    } while (rc == 0);
    must_equal(rc, -ETIME);
    return duet_stream_unsent(s);
}

coroutine_test(a_write_waits_only_while_more_than_the_high_water_mark_is_unsent)
{
    static const size_t marks[] = {0, 1, 1000, 200000};
    for (size_t i = 0; i < COUNT(writable); i++)
        for (size_t k = 0; k < COUNT(marks); k++) {
            duet_stream_config config = {.write_high = marks[k]};
            size_t mark = marks[k] == 0 ? 65536 : marks[k], piece = mark / 4 + 1000;
            int peer;
            duet_stream *s = open_stream(writable[i], &config, &peer);
            size_t unsent;
            int rc;
            do { /* the kernel may yet have taken some more */
                unsent = fill(s, piece);
                must(unsent > mark && unsent <= mark + piece);
                rc = duet_stream_write(s, "x", 1, duet_ms(1));
            } while (rc == 0);
            must_equal(rc, -ETIME);
            must(duet_stream_unsent(s) <= unsent);
            must_equal(duet_stream_close(s, DUET_NOW), -ETIME);
            close(peer);
        }
    return duet_ok();
}

coroutine_test(who_waits_to_write_wakes_when_enough_is_sent)
{
    for (size_t i = 0; i < COUNT(writable); i++) {
        duet_stream_config config = {.write_high = 1000};
        int peer;
        duet_stream *s = open_stream(writable[i], &config, &peer);
        must_equal(duet_stream_write(s, plenty, sizeof plenty, DUET_NOW), 0);
        struct op writers[6];
        size_t read = 0, sum = sizeof plenty + (COUNT(writers) - 1) * 500;
        for (size_t k = 0; k < COUNT(writers); k++) {
            writers[k] = a_write(s, plenty, 500);
            op_start(&writers[k]);
        }
        let_run();
        for (size_t k = 0; k < COUNT(writers); k++)
            must(!writers[k].returned);
        must_equal(op_cancel(&writers[2]), -ECANCELED);
        for (; !writers[0].returned; read += 1000) {
            must(read < sizeof plenty); /* it wakes before all is read */
            peer_swallows(peer, 1000);
            duet_yield();
        }
        peer_swallows(peer, sum - read);
        for (size_t k = 0; k < COUNT(writers); k++)
            if (k != 2)
                must_equal(op_end(&writers[k]), 0);
        must_equal(duet_stream_drain(s, SURELY), 0);
        close_both(s, peer);
    }
    return duet_ok();
}

coroutine_test(all_who_wait_to_write_are_served)
{
    for (size_t i = 0; i < COUNT(writable); i++) {
        duet_stream_config config = {.write_high = 1};
        int peer;
        duet_stream *s = open_stream(writable[i], &config, &peer);
        struct op writers[20];
        char letters[20];
        must_equal(duet_stream_write(s, plenty, sizeof plenty, DUET_NOW), 0);
        for (size_t k = 0; k < COUNT(writers); k++) {
            letters[k] = (char)('a' + k);
            writers[k] = a_write(s, &letters[k], 1);
            op_start(&writers[k]);
        }
        let_run();
        peer_swallows(peer, sizeof plenty);
        char heard[21] = "";
        peer_hears(peer, heard, 20);
        for (size_t k = 0; k < COUNT(writers); k++) {
            must_equal(op_end(&writers[k]), 0);
            must(strchr(heard, letters[k]) != NULL);
        }
        close_both(s, peer);
    }
    return duet_ok();
}

coroutine_test(a_peer_that_never_reads_holds_up_a_writer_until_its_deadline_or_cancellation)
{
    for (size_t i = 0; i < COUNT(writable); i++) {
        duet_stream_config config = {.write_high = 10};
        int peer;
        duet_stream *s = open_stream(writable[i], &config, &peer);
        must_equal(duet_stream_write(s, plenty, sizeof plenty, DUET_NOW), 0);
        size_t unsent = unsent_at_rest(s);
        struct op op = a_write(s, plenty, 100);
        op.by = duet_ms(2);
        op_start(&op);
        must_equal(op_end(&op), -ETIME);
        op.by = SURELY;
        op_start_asleep(&op);
        must_equal(op_cancel(&op), -ECANCELED);
        for (enum call call = DRAIN; call <= FINISH; call++) {
            op = a_call(s, call);
            op.by = duet_ms(2);
            op_start(&op);
            must_equal(op_end(&op), -ETIME);
            op.by = SURELY;
            op_start_asleep(&op);
            must_equal(op_cancel(&op), -ECANCELED);
        }
        must(duet_stream_unsent(s) <= unsent); /* none of it was accepted */
        must_equal(duet_stream_close(s, duet_ms(2)), -ETIME);
        close(peer);
    }
    return duet_ok();
}

/* ---- Draining and the end of writing ---- */

coroutine_test(a_drain_with_nothing_unsent_returns_at_once)
{
    for (size_t i = 0; i < COUNT(writable); i++) {
        int peer;
        duet_stream *s = open_stream(writable[i], NULL, &peer);
        must_equal(duet_stream_drain(s, DUET_NOW), 0);
        must_equal(duet_stream_write(s, "abc", 3, SURELY), 0);
        must_equal(duet_stream_drain(s, SURELY), 0);
        must_equal(duet_stream_unsent(s), 0);
        must_equal(duet_stream_drain(s, DUET_NOW), 0);
        peer_hears_text(peer, "abc");
        close_both(s, peer);
    }
    return duet_ok();
}

coroutine_test(several_may_drain_and_one_that_gives_up_leaves_the_others)
{
    for (size_t i = 0; i < COUNT(writable); i++) {
        int peer;
        duet_stream *s = open_stream(writable[i], NULL, &peer);
        must_equal(duet_stream_write(s, plenty, sizeof plenty, DUET_NOW), 0);
        struct op drains[5];
        for (size_t k = 0; k < COUNT(drains); k++) {
            drains[k] = a_call(s, DRAIN);
            if (k == 1)
                drains[k].by = duet_ms(1);
            op_start(&drains[k]);
        }
        must_equal(duet_stream_drain(s, DUET_NOW), -ETIME);
        must_equal(op_end(&drains[1]), -ETIME);
        must_equal(op_cancel(&drains[2]), -ECANCELED);
        peer_swallows(peer, sizeof plenty / 2);
        let_run();
        must(!drains[0].returned && !drains[3].returned && !drains[4].returned);
        peer_swallows(peer, sizeof plenty - sizeof plenty / 2);
        must_equal(op_end(&drains[0]), 0);
        must_equal(op_end(&drains[3]), 0);
        must_equal(op_end(&drains[4]), 0);
        close_both(s, peer);
    }
    return duet_ok();
}

coroutine_test(after_finish_the_peer_reads_the_end_and_can_still_send)
{
    for (size_t i = 0; i < COUNT(sockets); i++) {
        int peer;
        duet_stream *s = open_stream(sockets[i], NULL, &peer);
        must_equal(duet_stream_write(s, "the last", 8, SURELY), 0);
        must_equal(duet_stream_finish(s, SURELY), 0);
        peer_hears_text(peer, "the last");
        peer_hears_the_end(peer);
        peer_says(peer, "an answer\n");
        line_is(s, "an answer\n");
        must_equal(duet_stream_write(s, "x", 1, SURELY), -EPIPE);
        must_equal(duet_stream_write(s, "x", 1, DUET_NOW), -EPIPE);
        must_equal(duet_stream_drain(s, SURELY), 0);
        must_equal(duet_stream_finish(s, SURELY), 0);
        must_equal(duet_stream_unsent(s), 0);
        close_both(s, peer);
    }
    return duet_ok();
}

coroutine_test(a_pipe_is_finished_by_draining_it)
{
    int peer;
    duet_stream *s = open_stream(PIPE_OUT, NULL, &peer);
    must_equal(duet_stream_write(s, "the last", 8, SURELY), 0);
    must_equal(duet_stream_finish(s, SURELY), 0);
    must_equal(duet_stream_write(s, "x", 1, SURELY), -EPIPE);
    peer_hears_text(peer, "the last");
    must_equal(duet_stream_close(s, SURELY), 0);
    peer_hears_the_end(peer);
    close(peer);
    return duet_ok();
}

coroutine_test(finish_drains_first_and_refuses_writes_from_the_call_on)
{
    for (size_t i = 0; i < COUNT(sockets); i++) {
        duet_stream_config config = {.write_high = 1000};
        int peer;
        duet_stream *s = open_stream(sockets[i], &config, &peer);
        must_equal(duet_stream_write(s, plenty, sizeof plenty, DUET_NOW), 0);
        struct op writer = a_write(s, "x", 1), finisher = a_call(s, FINISH);
        op_start_asleep(&writer); /* it has not been accepted when the call comes */
        op_start_asleep(&finisher);
        must_equal(duet_stream_write(s, "x", 1, SURELY), -EPIPE);
        must_equal(op_end(&writer), -EPIPE);
        peer_swallows(peer, sizeof plenty);
        must_equal(op_end(&finisher), 0);
        peer_hears_the_end(peer);
        close_both(s, peer);
    }
    return duet_ok();
}

coroutine_test(a_finish_that_gave_up_can_be_called_again)
{
    for (size_t i = 0; i < COUNT(sockets); i++) {
        int peer;
        duet_stream *s = open_stream(sockets[i], NULL, &peer);
        must_equal(duet_stream_write(s, plenty, sizeof plenty, DUET_NOW), 0);
        must_equal(duet_stream_finish(s, duet_ms(1)), -ETIME);
        must_equal(duet_stream_write(s, "x", 1, SURELY), -EPIPE);
        struct op finisher = a_call(s, FINISH);
        op_start_asleep(&finisher);
        must_equal(op_cancel(&finisher), -ECANCELED);
        finisher = a_call(s, FINISH);
        op_start_asleep(&finisher);
        must_equal(peer_hears_all(peer), sizeof plenty);
        must_equal(op_end(&finisher), 0);
        close_both(s, peer);
    }
    return duet_ok();
}

/* ---- Files ---- */

/* A file without a name that has these bytes. */
static int file_of(const char *data, size_t n)
{
    char name[] = "/tmp/duet-streams-XXXXXX";
    int fd = mkstemp(name);
    must(fd >= 0);
    must(unlink(name) == 0);
    must(write(fd, data, n) == (ssize_t)n);
    return fd;
}

coroutine_test(a_file_is_sent_after_what_was_written_before)
{
    for (size_t i = 0; i < COUNT(writable); i++) {
        int peer, file = file_of("0123456789", 10);
        off_t at = 2;
        duet_stream *s = open_stream(writable[i], NULL, &peer);
        if (writable[i] == PIPE_OUT) /* each piece takes a page */
            must(fcntl(peer, F_SETPIPE_SZ, 65536) >= 0);
        must_equal(duet_stream_write(s, "first ", 6, SURELY), 0);
        must_equal(duet_stream_sendfile(s, file, &at, 3, SURELY), 3);
        must_equal(at, 5);
        must_equal(duet_stream_write(s, " then ", 6, SURELY), 0);
        must_equal(duet_stream_sendfile(s, file, &at, 100, SURELY), 5); /* its end */
        must_equal(at, 10);
        must_equal(duet_stream_sendfile(s, file, &at, 100, SURELY), 0);
        must_equal(duet_stream_unsent(s), 0);
        peer_hears_text(peer, "first 234 then 56789");
        must_equal(duet_stream_finish(s, SURELY), 0);
        must_equal(duet_stream_sendfile(s, file, &at, 1, SURELY), -EPIPE);
        close_both(s, peer);
        close(file);
    }
    return duet_ok();
}

struct sending {
    duet_stream *s;
    int file;
    off_t at;
    ssize_t rc;
    duet_deadline by;
};

static duet_result send_file(void *arg)
{
    struct sending *sending = arg;
    sending->rc =
        duet_stream_sendfile(sending->s, sending->file, &sending->at, PLENTY, sending->by);
    return duet_ok();
}

coroutine_test(nobody_else_writes_while_a_file_is_sent)
{
    static char copy[PLENTY];
    fill_plenty(4);
    for (size_t i = 0; i < COUNT(writable); i++) {
        int peer;
        struct sending sending = {.file = file_of(plenty, sizeof plenty), .by = SURELY};
        duet_stream *s = sending.s = open_stream(writable[i], NULL, &peer);
        duet_future *f = duet_spawn(send_file, &sending);
        let_run();
        must(!duet_future_settled(f));
        must_equal(duet_stream_write(s, "x", 1, SURELY), -EBUSY);
        off_t at = 0;
        must_equal(duet_stream_sendfile(s, sending.file, &at, 1, SURELY), -EBUSY);
        peer_hears(peer, copy, sizeof copy);
        must(memcmp(copy, plenty, sizeof copy) == 0);
        must_equal(finish(f).err, 0);
        must_equal(sending.rc, sizeof copy);
        must_equal(sending.at, sizeof copy);
        must_equal(duet_stream_write(s, "x", 1, SURELY), 0);
        peer_hears_text(peer, "x");
        close_both(s, peer);
        close(sending.file);
    }
    return duet_ok();
}

coroutine_test(a_file_that_is_not_sent_in_time_says_how_much_was)
{
    for (size_t i = 0; i < COUNT(writable); i++)
        for (int cancel = 0; cancel < 2; cancel++) {
            int peer;
            struct sending sending = {.file = file_of(plenty, sizeof plenty), .by = duet_ms(3)};
            if (cancel)
                sending.by = SURELY;
            sending.s = open_stream(writable[i], NULL, &peer);
            duet_future *f = duet_spawn(send_file, &sending);
            let_run();
            if (cancel)
                duet_future_cancel(f);
            must_equal(finish(f).err, 0);
            if (!cancel && sending.rc == -ETIME) /* none was, before the deadline */
                sending.rc = 0;
            must(sending.rc >= 0 && sending.rc < PLENTY);
            must_equal(sending.at, sending.rc);
            must_equal(duet_stream_close(sending.s, SURELY), 0);
            must_equal(peer_hears_all(peer), sending.rc);
            close(peer);
            close(sending.file);
        }
    return duet_ok();
}

/* ---- A dead peer ---- */

coroutine_test(a_dead_peer_makes_writes_fail_from_then_on_always)
{
    for (size_t i = 0; i < COUNT(writable); i++) {
        int peer, rc;
        if (writable[i] == PIPE_OUT)
            signal(SIGPIPE, SIG_IGN);
        duet_stream *s = open_stream(writable[i], NULL, &peer);
        must(close(peer) == 0);
        do /* the first bytes may be accepted, or be in flight, before it is known */
            rc = duet_stream_write(s, "abc", 3, SURELY);
        while (rc == 0 && duet_yield() == 0);
        must(is_of_a_dead_peer(rc));
        for (int k = 0; k < 5; k++) {
            must_equal(duet_stream_write(s, "abc", 3, SURELY), rc);
            must_equal(duet_stream_write(s, "abc", 3, DUET_NOW), rc);
            must_equal(duet_stream_drain(s, SURELY), rc);
        }
        must_equal(duet_stream_finish(s, SURELY), rc);
        must_equal(duet_stream_close(s, SURELY), rc);
        signal(SIGPIPE, SIG_DFL);
    }
    return duet_ok();
}

coroutine_test(who_waits_in_a_write_or_drain_hears_that_the_peer_dies)
{
    for (size_t i = 0; i < COUNT(writable); i++)
        for (int reset = 0; reset < 2; reset++) {
            duet_stream_config config = {.write_high = 1000};
            int peer;
            if (writable[i] == PIPE_OUT)
                signal(SIGPIPE, SIG_IGN);
            duet_stream *s = open_stream(writable[i], &config, &peer);
            must_equal(duet_stream_write(s, plenty, sizeof plenty, DUET_NOW), 0);
            struct op ops[] = {a_write(s, "x", 1), a_write(s, "y", 1), a_call(s, DRAIN),
                               a_call(s, DRAIN), a_call(s, FINISH)};
            size_t count = reset ? COUNT(ops) - 1 : 4;
            for (size_t k = 0; k < count; k++)
                op_start_asleep(&ops[k]);
            if (reset && writable[i] != PIPE_OUT)
                peer_resets(peer);
            else
                must(close(peer) == 0);
            for (size_t k = 0; k < count; k++)
                must(is_of_a_dead_peer(op_end(&ops[k])));
            must(is_of_a_dead_peer(duet_stream_close(s, SURELY)));
            signal(SIGPIPE, SIG_DFL);
        }
    return duet_ok();
}

coroutine_test(who_waits_in_finish_or_close_hears_that_the_peer_dies)
{
    for (size_t i = 0; i < COUNT(sockets); i++)
        for (enum call call = FINISH; call <= CLOSE; call++) {
            int peer;
            duet_stream *s = open_stream(sockets[i], NULL, &peer);
            must_equal(duet_stream_write(s, plenty, sizeof plenty, DUET_NOW), 0);
            struct op op = a_call(s, call);
            op_start_asleep(&op);
            must(close(peer) == 0);
            must(is_of_a_dead_peer(op_end(&op)));
            if (call == FINISH)
                must(is_of_a_dead_peer(duet_stream_close(s, SURELY)));
        }
    return duet_ok();
}

coroutine_test(what_a_dead_peer_has_said_can_still_be_read)
{
    int peer, rc;
    duet_stream *s = open_stream(PAIR, NULL, &peer);
    peer_says(peer, "a last word\nand half");
    must(close(peer) == 0);
    do
        rc = duet_stream_write(s, "abc", 3, SURELY);
    while (rc == 0 && duet_yield() == 0);
    must(is_of_a_dead_peer(rc));
    line_is(s, "a last word\n");
    exactly_is(s, "and half");
    is_at_its_end(s);
    must_equal(duet_stream_close(s, SURELY), rc);
    return duet_ok();
}

/* ---- Both directions ---- */

struct echo {
    duet_stream *s;
    const char *data;
    size_t n;
};

static duet_result say_all(void *arg)
{
    struct echo *echo = arg;
    for (size_t at = 0; at < echo->n;) {
        size_t piece = min_size(7001, echo->n - at);
        must_equal(duet_stream_write(echo->s, echo->data + at, piece, SURELY), 0);
        at += piece;
    }
    must_equal(duet_stream_finish(echo->s, SURELY), 0);
    return duet_ok();
}

static duet_result echo_all(void *arg)
{
    struct echo *echo = arg;
    char buf[5000];
    ssize_t n;
    while ((n = duet_stream_read(echo->s, buf, sizeof buf, SURELY)) > 0)
        must_equal(duet_stream_write(echo->s, buf, (size_t)n, SURELY), 0);
    must_equal(n, 0);
    must_equal(duet_stream_finish(echo->s, SURELY), 0);
    return duet_ok();
}

coroutine_test(one_reads_while_another_writes)
{
    static char copy[PLENTY];
    fill_plenty(3);
    for (size_t i = 0; i < COUNT(sockets); i++) {
        int peer;
        char c;
        struct echo near = {.data = plenty, .n = sizeof plenty}, far = {0};
        near.s = open_stream(sockets[i], NULL, &peer);
        must_equal(duet_stream_open(&far.s, peer, NULL), 0);
        duet_future *writer = duet_spawn(say_all, &near), *echo = duet_spawn(echo_all, &far);
        must_equal(duet_stream_read_exactly(near.s, copy, sizeof copy, SURELY), sizeof copy);
        must(memcmp(copy, plenty, sizeof copy) == 0);
        must_equal(duet_stream_read(near.s, &c, 1, SURELY), 0);
        must_equal(finish(writer).err, 0);
        must_equal(finish(echo).err, 0);
        must_equal(duet_stream_close(near.s, SURELY), 0);
        must_equal(duet_stream_close(far.s, SURELY), 0);
    }
    return duet_ok();
}

/* ---- The peer's address ---- */

coroutine_test(the_peers_address_is_known_even_after_it_is_gone)
{
    for (size_t i = 0; i < COUNT(sockets); i++)
        for (int reset = 0; reset < 2; reset++) {
            int peer;
            char buf[8];
            struct sockaddr_storage own, seen;
            socklen_t len = sizeof own;
            duet_stream *s = open_stream(sockets[i], NULL, &peer);
            memset(&own, 0, sizeof own);
            must(getsockname(peer, (struct sockaddr *)&own, &len) == 0);
            for (int gone = 0; gone < 3; gone++) {
                memset(&seen, 0xff, sizeof seen);
                must_equal(duet_stream_peer(s, &seen), 0);
                must_equal(seen.ss_family, own.ss_family);
                if (own.ss_family != AF_UNIX)
                    must(memcmp(&seen, &own, len) == 0);
                if (gone == 0 && reset)
                    peer_resets(peer);
                else if (gone == 0)
                    must(close(peer) == 0);
                if (gone == 1)
                    must(duet_stream_read(s, buf, sizeof buf, SURELY) <= 0);
            }
            must_equal(duet_stream_close(s, SURELY), 0);
        }
    return duet_ok();
}

/* The peer was gone before anybody asked, or opened the stream. */
coroutine_test(the_peers_address_is_known_if_it_went_before_the_stream_was_opened)
{
    int fds[2];
    duet_stream *s;
    struct sockaddr_storage own = {0}, seen = {0};
    socklen_t len = sizeof own;
    tcp_pair(AF_INET, fds);
    must(getsockname(fds[1], (struct sockaddr *)&own, &len) == 0);
    must(close(fds[1]) == 0);
    must_equal(duet_stream_open(&s, fds[0], NULL), 0);
    must_equal(duet_stream_peer(s, &seen), 0);
    must(memcmp(&seen, &own, len) == 0);
    is_at_its_end(s);
    must_equal(duet_stream_peer(s, &seen), 0);
    must_equal(duet_stream_close(s, SURELY), 0);
    return duet_ok();
}

coroutine_test(a_pipe_has_no_peer_address)
{
    for (enum link link = PIPE_IN; link <= PIPE_OUT; link++) {
        int peer;
        struct sockaddr_storage seen;
        duet_stream *s = open_stream(link, NULL, &peer);
        must_equal(duet_stream_peer(s, &seen), -ENOTCONN);
        close_both(s, peer);
    }
    return duet_ok();
}

/* ---- Closing ---- */

coroutine_test(to_close_nothing_is_fine)
{
    must_equal(duet_stream_close(NULL, DUET_NEVER), 0);
    must_equal(duet_stream_close(NULL, DUET_NOW), 0);
    return duet_ok();
}

coroutine_test(a_close_sends_what_was_accepted)
{
    for (size_t i = 0; i < COUNT(writable); i++) {
        int peer;
        duet_stream *s = open_stream(writable[i], NULL, &peer);
        must_equal(duet_stream_write(s, plenty, sizeof plenty, DUET_NOW), 0);
        struct op closer = a_call(s, CLOSE);
        op_start_asleep(&closer);
        must_equal(peer_hears_all(peer), sizeof plenty);
        must_equal(op_end(&closer), 0);
        close(peer);
    }
    return duet_ok();
}

coroutine_test(a_close_with_nothing_unsent_needs_no_time)
{
    for (enum link link = 0; link < LINKS; link++) {
        int peer;
        duet_stream *s = open_stream(link, NULL, &peer);
        must_equal(duet_stream_close(s, DUET_NOW), 0);
        close(peer);
    }
    return duet_ok();
}

coroutine_test(a_close_gives_up_at_its_deadline_and_closes_all_the_same)
{
    for (size_t i = 0; i < COUNT(writable); i++)
        for (int now = 0; now < 2; now++) {
            int peer;
            duet_stream *s = open_stream(writable[i], NULL, &peer);
            must_equal(duet_stream_write(s, plenty, sizeof plenty, DUET_NOW), 0);
            must_equal(duet_stream_close(s, now ? DUET_NOW : duet_ms(2)), -ETIME);
            must(peer_hears_all(peer) < sizeof plenty); /* it ends */
            close(peer);
        }
    return duet_ok();
}

coroutine_test(a_cancelled_closer_does_not_drain)
{
    for (size_t i = 0; i < COUNT(writable); i++)
        for (int before = 0; before < 2; before++) {
            int peer;
            duet_stream *s = open_stream(writable[i], NULL, &peer);
            must_equal(duet_stream_write(s, plenty, sizeof plenty, DUET_NOW), 0);
            struct op closer = a_call(s, CLOSE);
            if (before) {
                must_equal(op_when_cancelled(&closer), -ECANCELED);
            } else {
                op_start_asleep(&closer);
                must_equal(op_cancel(&closer), -ECANCELED);
            }
            must(peer_hears_all(peer) < sizeof plenty);
            close(peer);
            s = open_stream(writable[i], NULL, &peer); /* nothing is unsent: all was sent */
            closer = a_call(s, CLOSE);
            must_equal(op_when_cancelled(&closer), 0);
            close(peer);
        }
    return duet_ok();
}

coroutine_test(under_a_shield_a_cancelled_closer_drains)
{
    int peer;
    duet_stream *s = open_stream(PAIR, NULL, &peer);
    must_equal(duet_stream_write(s, plenty, sizeof plenty, DUET_NOW), 0);
    struct op op = a_call(s, CLOSE);
    op.by = SURELY;
    op.f = duet_spawn(shielded_line, &op);
    let_run();
    duet_future_cancel(op.f);
    let_run();
    must(!op.returned);
    must_equal(peer_hears_all(peer), sizeof plenty);
    must_equal(op_end(&op), 0);
    close(peer);
    return duet_ok();
}

coroutine_test(a_reader_inside_returns_before_the_close_does)
{
    for (size_t i = 0; i < COUNT(readable); i++)
        for (enum call call = 0; call < READS; call++) {
            int peer;
            char buf[8];
            duet_stream *s = open_stream(readable[i], NULL, &peer);
            struct op reader = a_read(s, call, buf, sizeof buf);
            if (call != READ)
                peer_says(peer, "part");
            op_start_asleep(&reader);
            must_equal(duet_stream_close(s, SURELY), 0);
            must(reader.returned);
            must_equal(op_end(&reader), -EBADF);
            close(peer);
        }
    return duet_ok();
}

coroutine_test(all_who_are_inside_return_before_a_close_that_gives_up_does)
{
    for (size_t i = 0; i < COUNT(sockets); i++)
        for (int how = 0; how < 3; how++) {
            duet_stream_config config = {.write_high = 1000};
            int peer;
            char buf[8];
            duet_stream *s = open_stream(sockets[i], &config, &peer);
            must_equal(duet_stream_write(s, plenty, sizeof plenty, DUET_NOW), 0);
            struct op ops[] = {a_read(s, EXACTLY, buf, sizeof buf), a_write(s, "x", 1),
                               a_write(s, "y", 1), a_call(s, DRAIN), a_call(s, DRAIN)};
            struct op closer = a_call(s, CLOSE);
            for (size_t k = 0; k < COUNT(ops); k++)
                op_start_asleep(&ops[k]);
            if (how == 0) {
                must_equal(duet_stream_close(s, DUET_NOW), -ETIME);
            } else if (how == 1) {
                must_equal(duet_stream_close(s, duet_ms(2)), -ETIME);
            } else {
                must_equal(op_when_cancelled(&closer), -ECANCELED);
                closer.turn = turns;
            }
            for (size_t k = 0; k < COUNT(ops); k++)
                must(ops[k].returned);
            for (size_t k = 0; k < COUNT(ops); k++)
                must_equal(op_end(&ops[k]), -EBADF);
            close(peer);
        }
    return duet_ok();
}

coroutine_test(a_finisher_inside_returns_before_a_close_that_gives_up_does)
{
    int peer;
    duet_stream *s = open_stream(PAIR, NULL, &peer);
    must_equal(duet_stream_write(s, plenty, sizeof plenty, DUET_NOW), 0);
    struct op finisher = a_call(s, FINISH);
    op_start_asleep(&finisher);
    must_equal(duet_stream_close(s, duet_ms(2)), -ETIME);
    must(finisher.returned);
    must_equal(op_end(&finisher), -EBADF);
    close(peer);
    return duet_ok();
}

coroutine_test(while_a_close_drains_all_other_calls_are_refused)
{
    for (size_t i = 0; i < COUNT(sockets); i++) {
        int peer;
        char buf[8];
        const char *line;
        duet_stream *s = open_stream(sockets[i], NULL, &peer);
        peer_says(peer, "unread\n");
        must_equal(duet_stream_write(s, plenty, sizeof plenty, DUET_NOW), 0);
        struct op closer = a_call(s, CLOSE);
        op_start_asleep(&closer);
        must_equal(duet_stream_read(s, buf, sizeof buf, SURELY), -EBADF);
        must_equal(duet_stream_read_exactly(s, buf, sizeof buf, SURELY), -EBADF);
        must_equal(duet_stream_read_line(s, &line, SURELY), -EBADF);
        must_equal(duet_stream_write(s, "x", 1, SURELY), -EBADF);
        must_equal(duet_stream_drain(s, SURELY), -EBADF);
        must_equal(duet_stream_finish(s, SURELY), -EBADF);
        must(!closer.returned);
        peer_swallows(peer, sizeof plenty);
        must_equal(op_end(&closer), 0);
        close(peer);
    }
    return duet_ok();
}

/* A close at any moment of those inside: all return first, and memory is freed once. */
struct inside {
    duet_stream *s;
    uint64_t random;
    int *left;
    enum call call;
    const bool *closing; /* nobody comes any more */
};

static duet_result use_until_closed(void *arg)
{
    struct inside *me = arg;
    char buf[64];
    ssize_t rc;
    do {
        struct op op = {
            .call = me->call, .s = me->s, .buf = buf, .n = sizeof buf, .delimiter = 'x'};
        if (me->call == WRITE) {
            op.buf = plenty;
            op.n = test_random(&me->random) % 3000;
        }
        op.by = test_random(&me->random) % 3 ? SURELY
                                             : duet_us((int64_t)(test_random(&me->random) % 50));
        rc = op_call(&op);
        if (rc < 0 && rc != -ETIME && rc != -EMSGSIZE)
            must_equal(rc, -EBADF);
        if (rc == -EMSGSIZE)
            me->call = EXACTLY;
    } while (rc != -EBADF && duet_yield() == 0 && !*me->closing);
    --*me->left;
    return duet_ok();
}

static duet_result talk_until_closed(void *arg)
{
    int *peer = arg;
    static char buf[3000];
    for (;;) {
        ssize_t n = duet_read(*peer, buf, sizeof buf, duet_us(20));
        if (n == 0 || (n < 0 && n != -ETIME))
            return duet_ok();
        n = duet_sendto(*peer, "abcdefgx", 8, 0, NULL, 0, duet_us(20));
        if (n < 0 && n != -ETIME)
            return duet_ok();
    }
}

coroutine_test(a_close_at_any_moment_waits_for_those_inside)
{
    uint64_t random = test_seed();
    for (int i = test_rounds(100); i >= 0; i--) {
        duet_stream_config config = {.write_high = 2000, .read_limit = 100};
        enum call calls[] = {(enum call)(test_random(&random) % READS), WRITE, WRITE, DRAIN, DRAIN};
        struct inside users[COUNT(calls)];
        duet_future *fs[COUNT(calls)];
        int peer, left = COUNT(calls);
        bool closing = false;
        duet_stream *s = open_stream(sockets[(size_t)i % COUNT(sockets)], &config, &peer);
        duet_future *talk = duet_spawn(talk_until_closed, &peer);
        for (size_t k = 0; k < COUNT(calls); k++) {
            users[k] = (struct inside){s, test_random(&random), &left, calls[k], &closing};
            fs[k] = duet_spawn(use_until_closed, &users[k]);
        }
        must_equal(duet_yield(), 0);
        wait_a_little(&random);
        closing = true;
        int rc = duet_stream_close(s, duet_us((int64_t)(test_random(&random) % 300)));
        must(rc == 0 || rc == -ETIME);
        for (size_t k = 0; k < COUNT(calls); k++)
            must_equal(finish(fs[k]).err, 0);
        must_equal(left, 0);
        must_equal(finish(talk).err, 0);
        close(peer);
    }
    return duet_ok();
}

/* ---- Memory ---- */

#ifndef TEST_SANITIZED
static size_t in_use(void)
{
    struct mallinfo2 info = mallinfo2();
    return info.uordblks + info.hblkhd;
}

coroutine_test(an_idle_stream_has_no_buffers)
{
    enum {
        MANY = 1500
    };
    static duet_stream *streams[MANY];
    static int peers[MANY];
    static char line[10000], buf[10000];
    const char *text;
    struct rlimit limit;
    must(getrlimit(RLIMIT_NOFILE, &limit) == 0);
    limit.rlim_cur = limit.rlim_max;
    must(setrlimit(RLIMIT_NOFILE, &limit) == 0);
    int many = limit.rlim_max > 2 * MANY + 100 ? MANY : ((int)limit.rlim_max - 100) / 2;
    memset(line, 'x', sizeof line);
    line[sizeof line - 1] = '\n';
    size_t before = in_use();
    for (int i = 0; i < many; i++) {
        int fds[2];
        open_link(PAIR, fds);
        must_equal(duet_stream_open(&streams[i], fds[0], NULL), 0);
        peers[i] = fds[1];
    }
    size_t fresh = in_use();
    must((fresh - before) / (size_t)many < 1024);
    for (int i = 0; i < many; i++) {
        must_equal(duet_write(peers[i], line, sizeof line, SURELY), sizeof line);
        must_equal(duet_stream_read_line(streams[i], &text, SURELY), sizeof line);
        must_equal(duet_stream_write(streams[i], line, sizeof line, SURELY), 0);
        must_equal(duet_stream_drain(streams[i], SURELY), 0);
        peer_hears(peers[i], buf, sizeof buf);
        must_equal(duet_stream_read_line(streams[i], &text, DUET_NOW),
                   -ETIME); /* lets go of text */
    }
    size_t used = in_use();
    must((used - before) / (size_t)many < 1024);
    for (int i = 0; i < many; i++) {
        must_equal(duet_stream_read(streams[i], buf, 1, DUET_NOW), -ETIME);
        must_equal(duet_stream_read_line(streams[i], &text, duet_us(1)), -ETIME);
    }
    must((in_use() - before) / (size_t)many < 1024);
    for (int i = 0; i < many; i++)
        close_both(streams[i], peers[i]);
    return duet_ok();
}

/* Nor has one whose reader waits, or has read a line in full by bytes. */
coroutine_test(a_stream_whose_reader_waits_has_no_buffer)
{
    enum {
        MANY = 300
    };
    static duet_stream *streams[MANY];
    static struct op readers[MANY];
    static int peers[MANY];
    static char bufs[MANY][4];
    size_t before = in_use();
    for (int i = 0; i < MANY; i++) {
        streams[i] = open_stream(PAIR, NULL, &peers[i]);
        readers[i] = a_read(streams[i], (enum call)(i % READS), bufs[i], 3);
        op_start(&readers[i]);
    }
    let_run();
    must((in_use() - before) / MANY < 4096); /* with the coroutine's own */
    for (int i = 0; i < MANY; i++) {
        must(!readers[i].returned);
        peer_says(peers[i], "ab\n");
        must_equal(op_end(&readers[i]), 3);
        close_both(streams[i], peers[i]);
    }
    return duet_ok();
}
#endif

/* ---- On other loops ---- */

static duet_result streams_of_a_loop(void *arg)
{
    (void)arg;
    uint64_t random = test_seed();
    read_pieces(TCP4, true, &random);
    several_write(PAIR, &random, 5, true, true);
    return duet_ok();
}

thread_test(streams_work_on_any_loop)
{
    duet_loop *loop = start_loop();
    must_equal(duet_call(loop, streams_of_a_loop, NULL, SURELY, NULL), 0);
    close_loop(loop);
}

/* A coroutine that is left in a read when its loop ends. */
static duet_result read_and_close(void *arg)
{
    duet_future *started = arg;
    int peer;
    const char *line;
    duet_stream *s = open_stream(PAIR, NULL, &peer);
    must_equal(duet_stream_write(s, plenty, sizeof plenty, DUET_NOW), 0);
    settle(started);
    must_equal(duet_stream_read_line(s, &line, SURELY), -ECANCELED);
    must_equal(duet_stream_close(s, SURELY), -ECANCELED);
    close(peer);
    return duet_ok();
}

thread_test(the_end_of_a_loop_ends_its_reads)
{
    duet_loop *loop = start_loop();
    duet_future *started = open_promise();
    duet_future *f = duet_submit(loop, read_and_close, started);
    must_equal(error_of(started), 0);
    close_loop(loop);
    must_equal(finish(f).err, 0);
    duet_future_unref(started);
}

/* ---- Rules ---- */

static duet_stream *lost;
static int lost_peer;

static void use_lost(void *unused)
{
    (void)unused;
    char c;
    duet_stream_read(lost, &c, 1, DUET_NOW);
}

static duet_result use_lost_in_coroutine(void *unused)
{
    use_lost(unused);
    return duet_ok();
}

static duet_result open_lost(void *unused)
{
    (void)unused;
    lost = open_stream(PAIR, NULL, &lost_peer);
    return duet_ok();
}

static void read_on_a_thread(void *unused)
{
    (void)unused;
    duet_loop *loop = start_loop();
    must_equal(duet_call(loop, open_lost, NULL, SURELY, NULL), 0);
    use_lost(NULL);
}

static void read_on_another_loop(void *unused)
{
    (void)unused;
    duet_loop *loop = start_loop(), *other = start_loop();
    must_equal(duet_call(loop, open_lost, NULL, SURELY, NULL), 0);
    duet_call(other, use_lost_in_coroutine, NULL, SURELY, NULL);
}

static void read_in_a_job(void *unused)
{
    (void)unused;
    duet_loop *loop = start_loop();
    must_equal(duet_call(loop, open_lost, NULL, SURELY, NULL), 0);
    duet_offload(NULL, use_lost_in_coroutine, NULL, SURELY, NULL);
}

static void open_on_a_thread(void *unused)
{
    (void)unused;
    int fds[2];
    open_link(PAIR, fds);
    duet_stream_open(&lost, fds[0], NULL);
}

static void each_call_on_a_thread(void *which)
{
    duet_loop *loop = start_loop();
    must_equal(duet_call(loop, open_lost, NULL, SURELY, NULL), 0);
    struct sockaddr_storage addr;
    char buf[8];
    enum call call = *(enum call *)which;
    struct op op = {.call = call, .s = lost, .buf = buf, .n = 1};
    if (call <= CLOSE)
        op_call(&op);
    else if (call == CLOSE + 1)
        duet_stream_unsent(lost);
    else
        duet_stream_peer(lost, &addr);
}

static void read_bare(void *arg)
{
    struct op *op = arg;
    op->rc = op_call(op);
}

coroutine_test(a_bare_callback_must_not_wait_for_a_stream)
{
    int peer;
    char buf[8];
    duet_stream *s = open_stream(PAIR, NULL, &peer);
    must_equal(duet_stream_write(s, plenty, sizeof plenty, DUET_NOW), 0);
    for (enum call call = 0; call <= DRAIN; call++) {
        struct op op = {.call = call, .s = s, .buf = buf, .n = 1, .by = SURELY};
        finish(duet_call_at(duet_loop_self(), DUET_NOW, read_bare, &op));
        must_equal(op.rc, -EDEADLK);
    }
    must_equal(duet_stream_close(s, DUET_NOW), -ETIME);
    close(peer);
    return duet_ok();
}

thread_test(a_stream_that_is_opened_outside_a_coroutine_ends_the_program)
{
    expect_death(open_on_a_thread, NULL, SIGABRT, "broken rule");
}

thread_test(a_stream_that_is_used_off_its_loop_ends_the_program)
{
    static const char rule[] = "a stream is used on the loop that opened it";
    expect_death(read_on_a_thread, NULL, SIGABRT, rule);
    expect_death(read_on_another_loop, NULL, SIGABRT, rule);
    expect_death(read_in_a_job, NULL, SIGABRT, rule);
    for (enum call call = 0; call <= CLOSE; call++)
        expect_death(each_call_on_a_thread, &call, SIGABRT, "broken rule");
}

thread_test(a_stream_that_is_asked_off_its_loop_ends_the_program)
{
    for (enum call call = CLOSE + 1; call <= CLOSE + 2; call++)
        expect_death(each_call_on_a_thread, &call, SIGABRT, "broken rule");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        stream_test(bad_arguments_are_refused_and_the_descriptor_stays_the_callers),
        stream_test(a_descriptor_that_is_not_open_is_refused),
        stream_test(the_configuration_is_copied),
        stream_test(a_stream_owns_its_descriptor_until_it_is_closed),
        stream_test(a_stream_may_be_of_a_terminal),
        stream_test(a_read_returns_what_there_is_as_soon_as_there_is_any),
        stream_test(a_read_of_nothing_is_zero_at_once),
        stream_test(to_read_exactly_waits_for_all_and_takes_no_more),
        stream_test(to_read_exactly_is_not_bound_by_the_limit),
        stream_test(at_the_end_fewer_bytes_are_read_and_then_none),
        stream_test(each_read_hears_of_the_end_while_it_waits),
        stream_test(a_record_comes_with_its_delimiter_and_across_pieces),
        stream_test(a_delimiter_may_be_any_byte),
        stream_test(the_delimiter_may_change_after_a_record_that_did_not_come),
        stream_test(at_the_end_the_rest_comes_without_a_delimiter_and_then_nothing),
        stream_test(a_line_is_there_until_the_next_read),
        stream_test(a_record_as_long_as_the_limit_is_read_and_a_longer_one_is_an_error),
        stream_test(the_limit_is_an_error_while_the_peer_says_no_more),
        stream_test(what_was_too_long_can_be_read_on_by_other_calls),
        stream_test(the_limit_is_64_kib_by_default),
        stream_test(each_read_gives_up_at_its_deadline_and_what_came_stays),
        stream_test(a_try_gets_what_is_there),
        stream_test(each_read_ends_when_its_coroutine_is_cancelled_and_what_came_stays),
        stream_test(who_is_cancelled_before_it_comes_has_no_effect),
        stream_test(under_a_shield_a_read_outlasts_its_cancellation),
        stream_test(a_second_reader_is_refused_and_the_first_reads_on),
        stream_test(after_a_reader_gave_up_another_may_read),
        stream_test(a_reset_is_an_error_and_what_was_read_stays),
        stream_test(what_comes_in_pieces_is_read_in_order_by_any_calls),
        stream_test(deadlines_lose_no_bytes),
        stream_test(cancellations_lose_no_bytes),
        stream_test(what_is_written_is_sent_in_order_and_the_buffer_is_the_callers_again),
        stream_test(a_large_write_is_accepted_at_once_and_arrives_whole),
        stream_test(each_write_is_whole_when_several_write),
        stream_test(a_write_whose_deadline_passes_has_sent_nothing_or_all),
        stream_test(a_write_that_is_cancelled_has_sent_nothing_or_all),
        stream_test(a_write_waits_only_while_more_than_the_high_water_mark_is_unsent),
        stream_test(who_waits_to_write_wakes_when_enough_is_sent),
        stream_test(all_who_wait_to_write_are_served),
        stream_test(a_peer_that_never_reads_holds_up_a_writer_until_its_deadline_or_cancellation),
        stream_test(a_drain_with_nothing_unsent_returns_at_once),
        stream_test(several_may_drain_and_one_that_gives_up_leaves_the_others),
        stream_test(after_finish_the_peer_reads_the_end_and_can_still_send),
        stream_test(a_pipe_is_finished_by_draining_it),
        stream_test(finish_drains_first_and_refuses_writes_from_the_call_on),
        stream_test(a_finish_that_gave_up_can_be_called_again),
        stream_test(a_file_is_sent_after_what_was_written_before),
        stream_test(nobody_else_writes_while_a_file_is_sent),
        stream_test(a_file_that_is_not_sent_in_time_says_how_much_was),
        stream_test(a_dead_peer_makes_writes_fail_from_then_on_always),
        stream_test(who_waits_in_a_write_or_drain_hears_that_the_peer_dies),
        stream_test(who_waits_in_finish_or_close_hears_that_the_peer_dies),
        stream_test(what_a_dead_peer_has_said_can_still_be_read),
        stream_test(one_reads_while_another_writes),
        stream_test(the_peers_address_is_known_even_after_it_is_gone),
        stream_test(the_peers_address_is_known_if_it_went_before_the_stream_was_opened),
        stream_test(a_pipe_has_no_peer_address),
        stream_test(to_close_nothing_is_fine),
        stream_test(a_close_sends_what_was_accepted),
        stream_test(a_close_with_nothing_unsent_needs_no_time),
        stream_test(a_close_gives_up_at_its_deadline_and_closes_all_the_same),
        stream_test(a_cancelled_closer_does_not_drain),
        stream_test(under_a_shield_a_cancelled_closer_drains),
        stream_test(a_reader_inside_returns_before_the_close_does),
        stream_test(all_who_are_inside_return_before_a_close_that_gives_up_does),
        stream_test(a_finisher_inside_returns_before_a_close_that_gives_up_does),
        stream_test(while_a_close_drains_all_other_calls_are_refused),
        stream_test(a_close_at_any_moment_waits_for_those_inside),
#ifndef TEST_SANITIZED
        stream_test(an_idle_stream_has_no_buffers),
        stream_test(a_stream_whose_reader_waits_has_no_buffer),
#endif
        stream_test(streams_work_on_any_loop),
        stream_test(the_end_of_a_loop_ends_its_reads),
        stream_test(a_bare_callback_must_not_wait_for_a_stream),
        stream_test(a_stream_that_is_opened_outside_a_coroutine_ends_the_program),
        stream_test(a_stream_that_is_used_off_its_loop_ends_the_program),
        stream_test(a_stream_that_is_asked_off_its_loop_ends_the_program),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
