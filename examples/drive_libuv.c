/* The other way round: a duet loop drives the event loop of another, here libuv's, which can be polled
 * by one descriptor: a coroutine turns it, and sleeps until that descriptor or libuv's next timer.
 *
 * So code that is written for libuv, here an echo server and a timer, goes on beside coroutines, on
 * their thread. Its callbacks run in that coroutine: they may use duet, but must not wait, since libuv
 * does not turn meanwhile. The glue is drive(). */
#include "say.h"

#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <string.h>
#include <uv.h>

enum {
    TICK_MS = 60,
    TICKS = 4,
    LINES = 3
};

struct foreign {
    uv_loop_t loop;
    uv_tcp_t server;
    uv_timer_t timer;
    uv_async_t end;
    int ticks;
    unsigned turns;
    duet_event ticked; /* as often as it should */
};

/* ---- The glue ---- */

/* Until libuv has nothing left to do: 0. What its callbacks began is only known to the descriptor when
 * uv_run() has been called, so that comes before each wait. */
static int drive(struct foreign *uv)
{
    for (;;) {
        uv->turns++;
        if (uv_run(&uv->loop, UV_RUN_NOWAIT) == 0)
            return 0;
        uv_update_time(&uv->loop); /* the callbacks took some */
        int ms = uv_backend_timeout(&uv->loop); /* -1: it has no timer; 0: there is more to do */
        int rc = ms == 0 ? duet_yield()
                         : duet_poll(uv_backend_fd(&uv->loop), POLLIN,
                                     ms < 0 ? DUET_NEVER : duet_ms(ms));
        if (rc < 0 && rc != -ETIME)
            return rc;
    }
}

/* ---- libuv's: an echo server and a timer ---- */

static void allocate(uv_handle_t *handle, size_t size, uv_buf_t *ret)
{
    (void)handle;
    *ret = uv_buf_init(malloc(size), (unsigned)size);
}

static void free_stream(uv_handle_t *stream)
{
    free(stream);
}

struct echo {
    uv_write_t request;
    uv_buf_t buf;
};

static void on_written(uv_write_t *request, int status)
{
    struct echo *echo = (struct echo *)request;
    (void)status; /* if it failed, reading will, too */
    free(echo->buf.base);
    free(echo);
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
    struct echo *echo = n > 0 ? malloc(sizeof *echo) : NULL;
    if (echo) {
        say("libuv reads, and writes back, %zd bytes", n);
        echo->buf = uv_buf_init(buf->base, (unsigned)n);
        need(uv_write(&echo->request, stream, &echo->buf, 1, on_written), "uv_write");
        return;
    }
    free(buf->base);
    if (n == 0)
        return;
    say("libuv reads the end, and closes");
    uv_close((uv_handle_t *)stream, free_stream);
}

static void on_connection(uv_stream_t *server, int status)
{
    uv_tcp_t *stream = malloc(sizeof *stream);
    need(stream ? status : -ENOMEM, "connection");
    need(uv_tcp_init(server->loop, stream), "uv_tcp_init");
    need(uv_accept(server, (uv_stream_t *)stream), "uv_accept");
    need(uv_read_start((uv_stream_t *)stream, allocate, on_read), "uv_read_start");
    say("libuv accepts a connection");
}

static void on_timer(uv_timer_t *timer)
{
    struct foreign *uv = timer->data;
    say("libuv's timer, %d of %d", ++uv->ticks, TICKS);
    if (uv->ticks < TICKS)
        return;
    uv_timer_stop(timer);
    duet_event_set(&uv->ticked); /* a coroutine waits for it */
}

static void close_one(uv_handle_t *handle, void *arg)
{
    (void)arg;
    if (!uv_is_closing(handle))
        uv_close(handle, NULL);
}

static void on_end(uv_async_t *end)
{
    say("libuv closes what it has");
    uv_walk(end->loop, close_one, NULL);
}

static void foreign_open(struct foreign *uv)
{
    struct sockaddr_in any = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    need(uv_loop_init(&uv->loop), "uv_loop_init");
    need(uv_async_init(&uv->loop, &uv->end, on_end), "uv_async_init");
    need(uv_timer_init(&uv->loop, &uv->timer), "uv_timer_init");
    uv->timer.data = uv;
    need(uv_timer_start(&uv->timer, on_timer, TICK_MS, TICK_MS), "uv_timer_start");
    need(uv_tcp_init(&uv->loop, &uv->server), "uv_tcp_init");
    need(uv_tcp_bind(&uv->server, (struct sockaddr *)&any, 0), "uv_tcp_bind");
    need(uv_listen((uv_stream_t *)&uv->server, 8, on_connection), "uv_listen");
}

/* ---- Coroutines ---- */

static duet_result run_libuv(void *arg)
{
    struct foreign *uv = arg;
    int rc = drive(uv);
    say("libuv has nothing left to do");
    return duet_err(rc);
}

/* Talks to libuv's server as to any other. */
static duet_result talk(void *arg)
{
    struct foreign *uv = arg;
    struct sockaddr_in addr;
    int size = sizeof addr;
    char port[8];
    duet_stream *stream;
    need(uv_tcp_getsockname(&uv->server, (struct sockaddr *)&addr, &size), "uv_tcp_getsockname");
    snprintf(port, sizeof port, "%u", ntohs(addr.sin_port));
    need(duet_dial(&stream, "127.0.0.1", port, DUET_NEVER), "duet_dial");
    for (int i = 1; i <= LINES; i++) {
        char text[32];
        const char *line;
        int n = snprintf(text, sizeof text, "line %d\n", i);
        say("writes line %d", i);
        need(duet_stream_write(stream, text, (size_t)n, DUET_NEVER), "duet_stream_write");
        ssize_t got = duet_stream_read_line(stream, &line, DUET_NEVER);
        say("reads '%.*s'", got > 0 ? (int)got - 1 : 0, got > 0 ? line : "");
        duet_sleep(duet_ms(50));
    }
    need(duet_stream_finish(stream, DUET_NEVER), "duet_stream_finish");
    if (duet_stream_read(stream, port, sizeof port, DUET_NEVER) == 0)
        say("reads the end");
    return duet_err(duet_stream_close(stream, DUET_NEVER));
}

static duet_result tick(void *arg)
{
    (void)arg;
    int rc = 0;
    for (int i = 1; rc == 0 && i <= TICKS; i++) {
        rc = duet_sleep(duet_ms(50));
        say("tick %d of duet's own", i);
    }
    return duet_err(rc);
}

static duet_result demonstrate(void *arg)
{
    struct foreign *uv = arg;
    const duet_opts driver = {.name = "libuv"}, client = {.name = "client"}, own = {.name = "tick"};
    duet_result r;
    duet_future *driving = duet_spawn_with(run_libuv, uv, &driver);
    duet_future *work[] = {duet_spawn_with(talk, uv, &client), duet_spawn_with(tick, NULL, &own)};
    need(duet_gather(work, 2, DUET_NEVER, NULL), "duet_gather");
    duet_future_unref(work[0]);
    duet_future_unref(work[1]);
    need(duet_event_wait(&uv->ticked, DUET_NEVER), "duet_event_wait");
    /* From outside its callbacks this is how to reach libuv: its descriptor shows it. */
    need(uv_async_send(&uv->end), "uv_async_send");
    need(duet_future_wait(driving, DUET_NEVER, &r), "duet_future_wait");
    duet_future_unref(driving);
    return r;
}

int main(void)
{
    static struct foreign uv = {.ticked = DUET_EVENT_INIT};
    duet_result r;
    say_begin();
    foreign_open(&uv);
    need(duet_run(demonstrate, &uv, &r), "duet_run");
    need(r.err, "driving libuv");
    need(uv_loop_close(&uv.loop), "uv_loop_close");
    say("libuv was turned %u times", uv.turns);
    return 0;
}
