/* The client of bench-loops: plain epoll, one request outstanding on each connection. */
#include "echo_client.h"
#include "measure.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    EVENTS = 256,
    LATENCIES_MOST = 1 << 20, /* of one round; more are left out */
    ECHOED = 64,
    HANGS_MS = 10000,
};

struct peer {
    int fd;
    size_t got; /* of the answer */
    int64_t sent_ns;
};

struct echo_client {
    int port, epoll_fd;
    unsigned count;
    struct peer *peers;
};

static const char request[] = "0123456789abcdef0123456789ABCDEF0123456789abcdef0123456789ABCDEF";
_Static_assert(sizeof request - 1 == ECHOED, "so many bytes");

/* ---- Connecting ---- */

static void exchange(int fd)
{
    char bytes[ECHOED];
    need(send(fd, request, ECHOED, MSG_NOSIGNAL) == ECHOED, "send");
    need(recv(fd, bytes, ECHOED, MSG_WAITALL) == ECHOED && memcmp(bytes, request, ECHOED) == 0,
         "the first answer is right");
}

static int connect_one(const struct echo_client *client)
{
    const struct sockaddr_in address = {.sin_family = AF_INET,
                                        .sin_addr = {htonl(INADDR_LOOPBACK)},
                                        .sin_port = htons((uint16_t)client->port)};
    const struct linger at_once = {1, 0}; /* leaves nothing in TIME_WAIT */
    const struct timeval patience = {HANGS_MS / 1000, 0};
    const int on = 1;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    need(fd >= 0, "socket");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    need(connect(fd, (const struct sockaddr *)&address, sizeof address) == 0, "connect");
    exchange(fd);
    return fd;
}

struct echo_client *echo_connect(int port, unsigned connections)
{
    struct echo_client *client = calloc(1, sizeof *client);
    need(client != NULL, "calloc");
    *client = (struct echo_client){.port = port,
                                   .epoll_fd = epoll_create1(EPOLL_CLOEXEC),
                                   .count = connections,
                                   .peers = calloc(connections, sizeof *client->peers)};
    need(client->peers != NULL && client->epoll_fd >= 0, "calloc, epoll_create1");
    for (unsigned i = 0; i < connections; i++) {
        struct epoll_event event = {EPOLLIN | EPOLLET, {.ptr = &client->peers[i]}};
        client->peers[i].fd = connect_one(client);
        need(epoll_ctl(client->epoll_fd, EPOLL_CTL_ADD, client->peers[i].fd, &event) == 0,
             "epoll_ctl");
    }
    return client;
}

void echo_disconnect(struct echo_client *client)
{
    for (unsigned i = 0; i < client->count; i++)
        close(client->peers[i].fd);
    close(client->epoll_fd);
    free(client->peers);
    free(client);
}

/* ---- Asking ---- */

/* One round. */
struct asking {
    struct echo_client *client;
    unsigned outstanding;
    bool counts; /* the warm-up is over */
    bool ends; /* no more are sent */
    size_t answered; /* since it counts */
    int64_t last_ns; /* when an answer came */
};

static double latencies_us[LATENCIES_MOST];

static int64_t clock_ns(clockid_t clock)
{
    struct timespec now;
    need(clock_gettime(clock, &now) == 0, "clock_gettime");
    return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

static void ask(struct asking *asking, struct peer *peer, int64_t now_ns)
{
    peer->sent_ns = now_ns;
    peer->got = 0;
    asking->outstanding++;
    need(send(peer->fd, request, ECHOED, MSG_NOSIGNAL | MSG_DONTWAIT) == ECHOED, "send");
}

static void hear(struct asking *asking, struct peer *peer)
{
    char bytes[ECHOED + 1];
    ssize_t n = recv(peer->fd, bytes, sizeof bytes, MSG_DONTWAIT);
    if (n < 0 && errno == EAGAIN)
        return;
    need(n > 0, "the server stays");
    peer->got += (size_t)n;
    if (peer->got < ECHOED)
        return;
    need(peer->got == ECHOED, "an answer ends where it should");
    asking->last_ns = measure_now_ns();
    asking->outstanding--;
    if (asking->counts && asking->answered < LATENCIES_MOST)
        latencies_us[asking->answered] = (double)(asking->last_ns - peer->sent_ns) / 1000;
    asking->answered++;
    if (!asking->ends)
        ask(asking, peer, asking->last_ns);
}

static void turn(struct asking *asking)
{
    struct epoll_event events[EVENTS];
    int n = epoll_wait(asking->client->epoll_fd, events, EVENTS, HANGS_MS);
    need(n > 0, "the server answers");
    for (int i = 0; i < n; i++)
        hear(asking, events[i].data.ptr);
}

static void turn_until(struct asking *asking, int64_t ns)
{
    do
        turn(asking);
    while (asking->last_ns < ns);
}

struct echo_round echo_ask(struct echo_client *client, clockid_t cpu, int64_t warm_ns, int64_t ns)
{
    struct asking asking = {.client = client, .last_ns = measure_now_ns()};
    for (unsigned i = 0; i < client->count; i++)
        ask(&asking, &client->peers[i], measure_now_ns());
    turn_until(&asking, asking.last_ns + warm_ns);

    int64_t start_ns = measure_now_ns(), start_cpu_ns = clock_ns(cpu);
    asking.counts = true;
    asking.answered = 0;
    turn_until(&asking, start_ns + ns);
    double cpu_ns = (double)(clock_ns(cpu) - start_cpu_ns);
    double requests = (double)asking.answered, s = (double)(measure_now_ns() - start_ns) / 1e9;

    need(requests > 0, "there were answers");
    asking.ends = true;
    while (asking.outstanding > 0)
        turn(&asking);
    size_t known = (size_t)requests < LATENCIES_MOST ? (size_t)requests : LATENCIES_MOST;
    return (struct echo_round){.requests = requests,
                               .s = s,
                               .cpu_us = cpu_ns / requests / 1000,
                               .p50_us = quantile(latencies_us, known, 0.5),
                               .p99_us = quantile(latencies_us, known, 0.99)};
}
