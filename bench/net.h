/* What the parts of bench-net share: what is asked and answered, the servers, and the client. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <time.h>

/* ---- What is asked and answered (net_work.c) ---- */

enum net_work {
    NET_ECHO, /* 64 bytes come back */
    NET_HTTP, /* a request of fixed text; its end is the blank line; the answer is JSON */
};

struct net_text {
    const char *bytes;
    size_t count;
};

extern const struct net_text net_requests[], net_answers[]; /* by enum net_work */

enum {
    NET_INPUT_MOST = 256, /* more than any request */
};

/* What has come on a connection and was not answered. Ready with a count of 0. */
struct net_input {
    size_t count;
    char bytes[NET_INPUT_MOST];
};

/* What to answer to it; a count of 0: the request is not whole yet. Takes the request away: its
 * bytes, which an echo points at, stay readable until more is read. */
struct net_text net_answer(enum net_work work, struct net_input *in);

/* ---- The servers (net_bare.c, net_duet.c): each never returns ---- */

/* Says through port_fd where it listens, as an int in host order. */
typedef void net_server(enum net_work work, int port_fd);

net_server net_serve_epoll; /* edge-triggered, no library */
net_server net_serve_uring; /* single-shot receive and send, the flags of duet's ring */
net_server net_serve_duet; /* duet_read() and duet_write(), a coroutine for each connection */
net_server net_serve_streams; /* duet_server, and the calls on streams */

/* A socket that listens on the loopback, whose port it has told. */
int net_listen(int port_fd);
void net_tell_port(int port_fd, int port);

/* ---- The client (net_client.c): the same for all, in this process ---- */

/* Connections to one server, each of which has had one answer already. */
struct net_client;

struct net_client *net_connect(enum net_work work, int port, unsigned connections);
/* `more` connections, which stay idle after that answer. */
void net_connect_more(struct net_client *client, unsigned more);
void net_disconnect(struct net_client *client);

struct net_round {
    double requests, s;
    double cpu_us; /* of the server, for each request */
    double p50_us, p99_us; /* from before the sending to after the answer */
};

/* One request outstanding on each connection, for this long after a warm-up; all have been answered
 * when it returns. cpu: the server's clock. */
struct net_round net_ask(struct net_client *client, clockid_t cpu, int64_t warm_ns, int64_t ns);
