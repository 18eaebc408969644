/* As many loops as processors. A coroutine stays on its loop; but it calls what runs on another, and
 * waits for it, as if it were its own.
 *
 * Three ways to share work out: a call from loop to loop; a group that spans all of them; and a server
 * on each, which all listen on one port, so that the kernel deals the connections out. */
#include "say.h"

#include <errno.h>
#include <netinet/in.h>

enum {
    RADIUS = 5000,
    CLIENTS = 32
};

/* A loop, and what is done there. Only its own coroutines write here, and are waited for before
 * anybody else reads. */
struct lane {
    duet_loop *loop;
    char name[16];
    long first, points;
    duet_server *server;
    unsigned served;
};

static struct lane *lanes;
static unsigned count;

/* ---- A call from loop to loop ---- */

static duet_result double_it(void *number)
{
    say("doubles %d", *(int *)number);
    return duet_i64(*(int *)number * 2);
}

static void call_another(void)
{
    const duet_opts opts = {.name = "double_it"};
    int number = 21; /* may live here: the call returns when the other has ended */
    duet_result r;
    need(duet_call_with(lanes[1].loop, double_it, &number, &opts, duet_sec(10), &r), "duet_call");
    say("has the answer, %lld", (long long)duet_as_i64(r));
}

/* ---- A group over all loops ---- */

/* Every so many'th column of a quarter of a disc; it holds its loop meanwhile. */
static duet_result measure(void *arg)
{
    struct lane *lane = arg;
    for (long x = lane->first; x < RADIUS; x += count)
        for (long y = 0; y < RADIUS; y++)
            lane->points += x * x + y * y < RADIUS * RADIUS;
    say("has found %ld points", lane->points);
    return duet_ok();
}

static void measure_together(void)
{
    const duet_opts opts = {.name = "measure"};
    duet_group group = DUET_GROUP_INIT;
    long points = 0;
    for (unsigned i = 0; i < count; i++)
        need(duet_group_spawn(&group, lanes[i].loop, measure, &lanes[i], &opts), "spawn");
    need(duet_group_wait(&group, DUET_NEVER, NULL), "wait");
    need(duet_group_close(&group), "close");
    for (unsigned i = 0; i < count; i++)
        points += lanes[i].points;
    say("%ld points in all: pi is about %.3f", points, 4.0 * (double)points / RADIUS / RADIUS);
}

/* ---- A server on each loop, one port ---- */

static char port[8] = "0"; /* the first takes any, the others the same */

static duet_result greet(duet_stream *stream, void *arg)
{
    struct lane *lane = arg;
    lane->served++;
    return duet_err(duet_stream_write(stream, "hello\n", 6, duet_sec(10)));
}

static duet_result listen_here(void *arg)
{
    struct lane *lane = arg;
    const duet_server_config config = {
        .port = port, .handler = greet, .arg = lane, .reuse_port = true};
    struct sockaddr_storage address;
    need(duet_server_open(&lane->server, &config), "duet_server_open");
    need(duet_server_address(lane->server, &address), "duet_server_address");
    snprintf(port, sizeof port, "%d", ntohs(((struct sockaddr_in *)&address)->sin_port));
    return duet_ok();
}

static duet_result serve_here(void *arg)
{
    struct lane *lane = arg;
    need(duet_server_serve(lane->server, DUET_NEVER), "duet_server_serve");
    return duet_err(duet_server_close(lane->server, duet_sec(10)));
}

static duet_result ask(void *arg)
{
    const char *line;
    duet_stream *stream;
    (void)arg;
    need(duet_dial(&stream, "127.0.0.1", port, duet_sec(10)), "duet_dial");
    ssize_t n = duet_stream_read_line(stream, &line, duet_sec(10));
    need(duet_stream_close(stream, duet_sec(10)), "duet_stream_close");
    return duet_err(n == 6 ? 0 : n < 0 ? (int)n : -EPROTO);
}

static void serve_together(void)
{
    duet_group servers = DUET_GROUP_INIT, clients = DUET_GROUP_INIT;
    duet_result failure;
    for (unsigned i = 0; i < count; i++)
        need(duet_call(lanes[i].loop, listen_here, &lanes[i], DUET_NEVER, NULL), "listen");
    for (unsigned i = 0; i < count; i++)
        need(duet_group_spawn(&servers, lanes[i].loop, serve_here, &lanes[i], NULL), "spawn");
    for (unsigned i = 0; i < CLIENTS; i++)
        need(duet_group_spawn(&clients, lanes[i % count].loop, ask, NULL, NULL), "spawn");
    need(duet_group_wait(&clients, DUET_NEVER, &failure), "wait");
    need(failure.err, "a client");
    need(duet_group_close(&clients), "close");
    for (unsigned i = 0; i < count; i++)
        duet_server_shut(lanes[i].server);
    need(duet_group_wait(&servers, DUET_NEVER, &failure), "wait");
    need(failure.err, "a server");
    need(duet_group_close(&servers), "close");
    for (unsigned i = 0; i < count; i++)
        say("%s has served %u of %d", lanes[i].name, lanes[i].served, CLIENTS);
}

/* ---- On the first loop ---- */

static duet_result demonstrate(void *arg)
{
    (void)arg;
    call_another();
    measure_together();
    serve_together();
    return duet_ok();
}

int main(void)
{
    const duet_opts opts = {.name = "demonstrate"};
    say_begin();
    count = duet_cpu_count() > 2 ? duet_cpu_count() : 2;
    lanes = calloc(count, sizeof *lanes);
    need(lanes ? 0 : -ENOMEM, "calloc");
    for (unsigned i = 0; i < count; i++) {
        lanes[i].first = i;
        snprintf(lanes[i].name, sizeof lanes[i].name, "loop-%u", i);
        const duet_loop_config config = {.name = lanes[i].name};
        need(duet_loop_start(&lanes[i].loop, &config), "duet_loop_start");
    }
    say("%u loops, %u processors", count, duet_cpu_count());
    need(duet_call_with(lanes[0].loop, demonstrate, NULL, &opts, DUET_NEVER, NULL), "duet_call");
    for (unsigned i = 0; i < count; i++)
        need(duet_loop_close(lanes[i].loop, duet_sec(10)), "duet_loop_close");
    say("all loops are closed");
    free(lanes);
    return 0;
}
