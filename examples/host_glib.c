/* A duet loop as a guest in GLib's main loop, which a program with a user interface, say, cannot give
 * up: its callbacks start coroutines, and coroutines call GLib, all on one thread.
 *
 * The glue is on_readable() and guest_open(). */
#include "say.h"

#include <errno.h>
#include <glib-unix.h>
#include <sys/socket.h>
#include <threads.h>
#include <time.h>
#include <unistd.h>

enum {
    TICK_MS = 60,
    TICKS = 4, /* of the host, and so many items */
    IDLE_MS = 300
};

struct app {
    GMainLoop *host;
    int ticks;

    duet_loop *guest;
    unsigned turns;
    int ends[2]; /* of a socket: the host writes, a coroutine reads */
    duet_future *fetching;
    duet_event host_is_told, thread_is_done;
};

/* ---- The glue: all that a host needs to know of duet ---- */

static gboolean on_readable(gint fd, GIOCondition condition, gpointer arg)
{
    struct app *app = arg;
    (void)fd;
    (void)condition;
    app->turns++;
    if (duet_loop_turn(app->guest) != -ESHUTDOWN)
        return G_SOURCE_CONTINUE;
    g_main_loop_quit(app->host); /* the guest has left, and so does this program */
    return G_SOURCE_REMOVE;
}

static void guest_open(struct app *app)
{
    int fd;
    need(duet_loop_open(&app->guest, NULL), "duet_loop_open");
    need(duet_loop_attach(app->guest, &fd), "duet_loop_attach");
    g_unix_fd_add(fd, G_IO_IN, on_readable, app);
}

/* ---- The guest's ---- */

/* One item comes with each tick of the host; the end, with its last. */
static duet_result read_items(void *arg)
{
    const struct app *app = arg;
    char item;
    ssize_t n;
    while ((n = duet_read(app->ends[1], &item, 1, DUET_NEVER)) > 0)
        say("reads item %c", item);
    say("reads the end: %s", duet_strerror((int)n));
    return duet_err((int)n);
}

static duet_result blocking_job(void *arg)
{
    (void)arg;
    say("blocks its thread, which is the pool's");
    thrd_sleep(&(struct timespec){.tv_nsec = 50000000}, NULL);
    return duet_i64(7);
}

/* Started by a callback of GLib, which cannot wait for it. */
static duet_result fetch(void *arg)
{
    const duet_opts named = {.name = "job"};
    duet_result r;
    say("is started by a callback of the host");
    duet_sleep(duet_ms(20));
    int rc = duet_offload_with(NULL, blocking_job, arg, &named, DUET_NEVER, &r);
    say("has %lld from the job", (long long)duet_as_i64(r));
    return rc < 0 ? duet_err(rc) : r;
}

static duet_result double_it(void *number)
{
    say("is called by a thread");
    int rc = duet_sleep(duet_ms(40));
    return rc < 0 ? duet_err(rc) : duet_i64(*(int *)number * 2);
}

static double cpu_ms(void)
{
    struct timespec time;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
    return (double)time.tv_sec * 1e3 + (double)time.tv_nsec / 1e6;
}

static void idle(struct app *app)
{
    unsigned turns = app->turns;
    double before_ms = cpu_ms();
    duet_sleep(duet_ms(IDLE_MS));
    double used_ms = cpu_ms() - before_ms;
    say("idle for %d ms: %.2f ms of processor time, %u turns", IDLE_MS, used_ms,
        app->turns - turns);
}

static duet_result conduct(void *arg)
{
    struct app *app = arg;
    const duet_opts named = {.name = "reader"};
    duet_future *reading = duet_spawn_with(read_items, app, &named);
    need(duet_future_wait(reading, DUET_NEVER, NULL), "duet_future_wait");
    duet_future_unref(reading);
    need(duet_event_wait(&app->host_is_told, DUET_NEVER), "duet_event_wait");
    need(duet_event_wait(&app->thread_is_done, DUET_NEVER), "duet_event_wait");
    say("all is done");
    idle(app);
    say("stops its loop");
    duet_loop_stop(app->guest);
    return duet_ok();
}

/* ---- The host's ---- */

/* On the host's thread, when the coroutine has ended. */
static void on_fetched(void *arg)
{
    struct app *app = arg;
    say("the host is told: %lld", (long long)duet_as_i64(duet_future_result(app->fetching)));
    duet_future_unref(app->fetching);
    duet_event_set(&app->host_is_told); /* a coroutine waits for it */
}

static gboolean on_tick(gpointer arg)
{
    struct app *app = arg;
    const duet_opts named = {.name = "fetch"};
    say("tick %d of the host", ++app->ticks);
    const char item = (char)('0' + app->ticks);
    need(write(app->ends[0], &item, 1) < 0 ? -errno : 0, "write");
    if (app->ticks == 1) {
        app->fetching = duet_spawn_with(fetch, NULL, &named);
        need(duet_future_then(app->fetching, app->guest, on_fetched, app, NULL), "then");
    }
    if (app->ticks < TICKS)
        return G_SOURCE_CONTINUE;
    close(app->ends[0]);
    return G_SOURCE_REMOVE;
}

static gpointer call_the_guest(gpointer arg)
{
    struct app *app = arg;
    const duet_opts named = {.name = "double_it"};
    int number = 21;
    duet_result r;
    need(duet_call_with(app->guest, double_it, &number, &named, duet_sec(60), &r), "duet_call");
    say("called a coroutine: %lld", (long long)duet_as_i64(r));
    duet_event_set(&app->thread_is_done);
    return NULL;
}

int main(void)
{
    struct app app = {.host = g_main_loop_new(NULL, FALSE),
                      .host_is_told = DUET_EVENT_INIT,
                      .thread_is_done = DUET_EVENT_INIT};
    const duet_opts named = {.name = "conductor"};
    say_begin();
    need(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, app.ends) < 0 ? -errno : 0, "sockets");
    guest_open(&app);
    duet_future_unref(duet_spawn_with(conduct, &app, &named));
    g_timeout_add(TICK_MS, on_tick, &app);
    GThread *thread = g_thread_new("legacy", call_the_guest, &app);

    g_main_loop_run(app.host);
    g_thread_join(thread);
    need(duet_loop_close(app.guest, DUET_NEVER), "duet_loop_close");
    say("the guest has left after %u turns", app.turns);
    close(app.ends[1]);
    g_main_loop_unref(app.host);
    return 0;
}
