/* The client of bench-loops, in its process. */
#pragma once
#include <stdint.h>
#include <time.h>

/* Connections to one server, each of which has had one answer already. */
struct echo_client;

struct echo_client *echo_connect(int port, unsigned connections);
void echo_disconnect(struct echo_client *client);

struct echo_round {
    double requests, s;
    double cpu_us; /* of the server, for each request */
    double p50_us, p99_us; /* from before the sending to after the answer */
};

/* One request outstanding on each connection, for this long after a warm-up; all have been answered
 * when it returns. cpu: the server's clock. */
struct echo_round echo_ask(struct echo_client *client, clockid_t cpu, int64_t warm_ns, int64_t ns);
