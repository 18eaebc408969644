/* What is asked and answered. */
#include "net.h"

#include <string.h>

#define ECHOED "0123456789abcdef0123456789ABCDEF0123456789abcdef0123456789ABCDEF"
#define GET                                                                                        \
    "GET /items/17 HTTP/1.1\r\nHost: localhost:8080\r\nUser-Agent: bench-net\r\n"                  \
    "Accept: application/json\r\n\r\n"
#define HEAD                                                                                       \
    "HTTP/1.1 200 OK\r\nServer: bench-net\r\nContent-Type: application/json\r\n"                   \
    "Content-Length: 97\r\n\r\n"
#define BODY                                                                                       \
    "{\"id\": 17, \"name\": \"a fourth-hand bicycle\", \"price\": 49.50, \"currency\": \"EUR\", "  \
    "\"tags\": [\"red\"]}\r\n"

_Static_assert(sizeof ECHOED - 1 == 64, "64 bytes");
_Static_assert(sizeof BODY - 1 == 97, "as its head says");

const struct net_text net_requests[] = {{ECHOED, sizeof ECHOED - 1}, {GET, sizeof GET - 1}};
const struct net_text net_answers[] = {{ECHOED, sizeof ECHOED - 1},
                                       {HEAD BODY, sizeof HEAD BODY - 1}};

static struct net_text answer_http(struct net_input *in)
{
    static const char blank[] = {'\r', '\n', '\r', '\n'};
    const char *end = memmem(in->bytes, in->count, blank, sizeof blank);
    if (!end)
        return (struct net_text){NULL, 0};
    size_t length = (size_t)(end - in->bytes) + sizeof blank;
    in->count -= length;
    if (in->count > 0)
        memmove(in->bytes, in->bytes + length, in->count);
    return net_answers[NET_HTTP];
}

struct net_text net_answer(enum net_work work, struct net_input *in)
{
    if (work == NET_HTTP)
        return answer_http(in);
    struct net_text echo = {in->bytes, in->count};
    in->count = 0;
    return echo;
}
