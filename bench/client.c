/* The client of W9: one thread, epoll, and one request of 64 bytes outstanding on each connection.
 * It writes `begin` when the warm-up is over and `end` when the measured time is, for who reads the
 * server's clock from outside; then the figures. */
#include "bench.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    REQUEST = 64,
    EVENTS = 256,
    LATENCIES_MOST = 1 << 22, /* more are left out */
    HANGS_MS = 10000,
    DESCRIPTORS_BESIDE = 64,
};

struct peer {
    int fd;
    size_t got; /* of the answer */
    int64_t sent_ns;
};

static struct sockaddr_in address;
static int epoll_fd;
static bool counts; /* the warm-up is over */
static size_t answered; /* since it counts */
static int64_t last_ns; /* when an answer came */
static double latencies_us[LATENCIES_MOST];
static char request[REQUEST];

/* ---- Connecting ---- */

static void raise_limit(rlim_t descriptors)
{
    struct rlimit limit;
    need(getrlimit(RLIMIT_NOFILE, &limit) == 0, "getrlimit");
    if (limit.rlim_cur >= descriptors)
        return;
    limit.rlim_cur = descriptors;
    if (limit.rlim_max < descriptors)
        limit.rlim_max = descriptors;
    need(setrlimit(RLIMIT_NOFILE, &limit) == 0, "RLIMIT_NOFILE allows that many connections");
}

static void connect_one(struct peer *peer)
{
    const struct linger at_once = {1, 0}; /* leaves nothing in TIME_WAIT */
    const int on = 1;
    struct epoll_event event = {EPOLLIN | EPOLLET, {.ptr = peer}};
    peer->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    need(peer->fd >= 0, "socket");
    setsockopt(peer->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(peer->fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    need(connect(peer->fd, (const struct sockaddr *)&address, sizeof address) == 0, "connect");
    need(epoll_ctl(epoll_fd, EPOLL_CTL_ADD, peer->fd, &event) == 0, "epoll_ctl");
}

static void ask(struct peer *peer, int64_t now_ns)
{
    peer->sent_ns = now_ns;
    peer->got = 0;
    need(send(peer->fd, request, REQUEST, MSG_NOSIGNAL | MSG_DONTWAIT) == REQUEST, "send");
}

/* All are connected before the first asks. */
static void begin(struct peer *peers, long connections, long active)
{
    for (long i = 0; i < connections; i++)
        connect_one(&peers[i]);
    for (long i = 0; i < active; i++)
        ask(&peers[i], bench_now_ns());
}

/* ---- Asking ---- */

static void note(const struct peer *peer)
{
    if (counts && answered < LATENCIES_MOST)
        latencies_us[answered] = (double)(last_ns - peer->sent_ns) / 1000;
    answered += counts;
}

static void hear(struct peer *peer)
{
    char bytes[2 * REQUEST];
    ssize_t n = recv(peer->fd, bytes, sizeof bytes, MSG_DONTWAIT);
    if (n < 0 && errno == EAGAIN)
        return;
    need(n > 0 && peer->got + (size_t)n <= REQUEST, "the server stays, and says no more");
    need(memcmp(bytes, request + peer->got, (size_t)n) == 0, "the echo");
    peer->got += (size_t)n;
    if (peer->got < REQUEST)
        return;
    last_ns = bench_now_ns();
    note(peer);
    ask(peer, last_ns);
}

/* At least one turn. */
static void turn_until(int64_t ns)
{
    do {
        struct epoll_event events[EVENTS];
        int n = epoll_wait(epoll_fd, events, EVENTS, HANGS_MS);
        need(n > 0, "the server answers");
        for (int i = 0; i < n; i++)
            hear(events[i].data.ptr);
    } while (last_ns < ns);
}

static void say_line(const char *line)
{
    puts(line);
    fflush(stdout);
}

/* The requests a second. */
static double measure(double seconds)
{
    turn_until(bench_now_ns() + 300000000);
    say_line("begin");
    int64_t start_ns = bench_now_ns();
    counts = true;
    turn_until(start_ns + (int64_t)(seconds * 1e9));
    double s = (double)(bench_now_ns() - start_ns) / 1e9;
    say_line("end");
    return (double)answered / s;
}

int main(int argc, char **argv)
{
    long port = bench_long(argc, argv, "port", 0);
    long connections = bench_long(argc, argv, "connections", 1);
    long active = bench_long(argc, argv, "active", connections); /* the others stay idle */
    double seconds = strtod(bench_text(argc, argv, "seconds", "1"), NULL);
    need(port > 0 && port < 65536 && active > 0 && active <= connections && seconds > 0,
         "arguments: port=N connections=C active=A seconds=S");
    struct peer *peers = calloc((size_t)connections, sizeof *peers);
    need(peers != NULL, "calloc");
    address = (struct sockaddr_in){.sin_family = AF_INET,
                                   .sin_addr = {htonl(INADDR_LOOPBACK)},
                                   .sin_port = htons((uint16_t)port)};
    memset(request, 'a', sizeof request);
    memset(latencies_us, 0, sizeof latencies_us); /* so that no page is new while it measures */
    raise_limit((rlim_t)connections + DESCRIPTORS_BESIDE);
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    begin(peers, connections, active);
    double rps = measure(seconds);
    bench_say("krps", rps / 1000);
    bench_say_quantiles("", latencies_us, answered < LATENCIES_MOST ? answered : LATENCIES_MOST);
    printf("requests %zu\n", answered);
    free(peers);
    return 0;
}
