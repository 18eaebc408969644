/* A duet loop as a guest: it does not run its thread, but lives in the event loop of another, here a
 * bare epoll with a timer and a socket of its own.
 *
 * The host waits for the guest's descriptor beside its own two, and gives the guest a turn when that is
 * readable. So coroutines sleep, read, write, offload, and are called by other threads, between the
 * events of the host and on the host's thread: what both touch needs no lock. Where nothing happens,
 * neither of them runs. */
#include "say.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <threads.h>
#include <time.h>
#include <unistd.h>

enum {
    TICK_MS = 100,
    QUESTIONS = 3, /* one with each tick */
    IDLE_MS = 300
};

enum source {
    GUEST,
    TICKER,
    SOCKET,
    SOURCES
};

struct host {
    int epoll, ticker;
    int ends[2]; /* of a socket, which keeps messages apart: the host's, the answerer's */
    unsigned ticks, answers;
    duet_event all_answered, thread_is_done;

    duet_loop *guest;
    unsigned turns;
    bool guest_is_done; /* set by a coroutine: plain memory, it is the same thread */
    bool guest_has_left;
};

/* ---- The guest's ---- */

/* Is still there when there are no more questions, until its loop is stopped. */
static duet_result answer(void *arg)
{
    const struct host *host = arg;
    char text[64];
    ssize_t n;
    while ((n = duet_read(host->ends[1], text, sizeof text - 1, DUET_NEVER)) > 0) {
        text[n] = '\0';
        say("is asked '%s', and sleeps on it", text);
        duet_sleep(duet_ms(30));
        text[0] = 'A';
        duet_write(host->ends[1], text, (size_t)n, DUET_NEVER);
    }
    say("its read ends: %s", duet_strerror((int)n));
    return duet_err((int)n);
}

static duet_result sleep_thrice(void *arg)
{
    (void)arg;
    int rc = 0;
    for (int i = 1; rc == 0 && i <= 3; i++) {
        rc = duet_sleep(duet_ms(70));
        say("has slept, %d of 3", i);
    }
    return duet_err(rc);
}

static duet_result blocking_job(void *arg)
{
    (void)arg;
    say("blocks its thread, which is the pool's");
    thrd_sleep(&(struct timespec){.tv_nsec = 50000000}, NULL);
    return duet_i64(7);
}

static duet_result offload(void *arg)
{
    const duet_opts named = {.name = "job"};
    duet_result r;
    need(duet_offload_with(NULL, blocking_job, arg, &named, DUET_NEVER, &r), "duet_offload");
    say("has %lld from the job", (long long)duet_as_i64(r));
    return r;
}

static duet_result double_it(void *number)
{
    say("is called by a thread");
    int rc = duet_sleep(duet_ms(40));
    return rc < 0 ? duet_err(rc) : duet_i64(*(int *)number * 2);
}

/* On a thread of its own, which knows nothing of the host. */
static void *call_the_guest(void *arg)
{
    struct host *host = arg;
    const duet_opts named = {.name = "double_it"};
    int number = 21;
    duet_result r;
    pthread_setname_np(pthread_self(), "legacy");
    need(duet_call_with(host->guest, double_it, &number, &named, duet_sec(60), &r), "duet_call");
    say("called a coroutine: %lld", (long long)duet_as_i64(r));
    duet_event_set(&host->thread_is_done);
    return NULL;
}

static duet_result conduct(void *arg)
{
    struct host *host = arg;
    const duet_opts first = {.name = "sleeper"}, second = {.name = "offloader"};
    duet_future *work[] = {duet_spawn_with(sleep_thrice, NULL, &first),
                           duet_spawn_with(offload, NULL, &second)};
    need(duet_gather(work, 2, DUET_NEVER, NULL), "duet_gather");
    duet_future_unref(work[0]);
    duet_future_unref(work[1]);
    need(duet_event_wait(&host->thread_is_done, DUET_NEVER), "duet_event_wait");
    need(duet_event_wait(&host->all_answered, DUET_NEVER), "duet_event_wait");
    say("all is done");
    host->guest_is_done = true;
    return duet_ok();
}

/* ---- The host's ---- */

/* Of a call that says in errno why it failed. */
static int done(int rc, const char *what)
{
    need(rc < 0 ? -errno : 0, what);
    return rc;
}

static void listen_to(struct host *host, int fd, enum source source)
{
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = source};
    done(epoll_ctl(host->epoll, EPOLL_CTL_ADD, fd, &event), "epoll_ctl");
}

static void tick_every(const struct host *host, int ms)
{
    const struct timespec time = {ms / 1000, ms % 1000 * 1000000L};
    const struct itimerspec spec = {time, time};
    done(timerfd_settime(host->ticker, 0, &spec, NULL), "timerfd_settime");
}

static void give_guest_a_turn(struct host *host)
{
    int rc = duet_loop_turn(host->guest);
    host->turns++;
    host->guest_has_left = rc == -ESHUTDOWN;
    if (!host->guest_has_left)
        need(rc, "duet_loop_turn"); /* whether there is more to do, the descriptor will say */
}

static void on_tick(struct host *host)
{
    char question[32];
    uint64_t times;
    if (read(host->ticker, &times, sizeof times) < 0)
        return;
    say("tick %u of the host", ++host->ticks);
    if (host->ticks > QUESTIONS)
        return;
    int n = snprintf(question, sizeof question, "Q %u", host->ticks);
    done((int)send(host->ends[0], question, (size_t)n, 0), "send");
}

static void on_answer(struct host *host)
{
    char text[64];
    int n = done((int)recv(host->ends[0], text, sizeof text, 0), "recv");
    say("the host is answered '%.*s'", n, text);
    if (++host->answers == QUESTIONS)
        duet_event_set(&host->all_answered); /* a coroutine waits for it */
}

static void serve_once(struct host *host)
{
    struct epoll_event events[SOURCES];
    int n = epoll_wait(host->epoll, events, SOURCES, -1);
    if (n < 0 && errno != EINTR) /* the guest's ring may interrupt it, as a signal would */
        done(n, "epoll_wait");
    for (int i = 0; i < n; i++) {
        if (events[i].data.u32 == GUEST)
            give_guest_a_turn(host);
        else if (events[i].data.u32 == TICKER)
            on_tick(host);
        else
            on_answer(host);
    }
}

static double cpu_ms(void)
{
    struct timespec time;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
    return (double)time.tv_sec * 1e3 + (double)time.tv_nsec / 1e6;
}

/* The next tick is late, and until then there is only a coroutine that reads what nobody writes. */
static void idle(struct host *host)
{
    unsigned ticks = host->ticks, turns = host->turns;
    tick_every(host, IDLE_MS);
    double before_ms = cpu_ms();
    while (host->ticks == ticks)
        serve_once(host);
    double used_ms = cpu_ms() - before_ms;
    say("idle for %d ms: %.2f ms of processor time, %u turns", IDLE_MS, used_ms,
        host->turns - turns);
}

static void receive_guest(struct host *host)
{
    const duet_opts first = {.name = "conductor"}, second = {.name = "answerer"};
    int fd;
    need(duet_loop_open(&host->guest, NULL), "duet_loop_open");
    need(duet_loop_attach(host->guest, &fd), "duet_loop_attach");
    listen_to(host, fd, GUEST);
    duet_future_unref(duet_submit_with(host->guest, conduct, host, &first));
    duet_future_unref(duet_submit_with(host->guest, answer, host, &second));
}

static void part_from_guest(struct host *host)
{
    say("asks the guest to leave");
    duet_loop_stop(host->guest);
    while (!host->guest_has_left)
        serve_once(host);
    need(duet_loop_close(host->guest, DUET_NEVER), "duet_loop_close");
    say("the guest has left after %u turns", host->turns);
}

int main(void)
{
    struct host host = {.all_answered = DUET_EVENT_INIT, .thread_is_done = DUET_EVENT_INIT};
    pthread_t thread;
    say_begin();
    host.epoll = done(epoll_create1(EPOLL_CLOEXEC), "epoll_create1");
    host.ticker = done(timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK), "timerfd");
    done(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, host.ends), "socketpair");
    listen_to(&host, host.ticker, TICKER);
    listen_to(&host, host.ends[0], SOCKET);
    receive_guest(&host);
    need(-pthread_create(&thread, NULL, call_the_guest, &host), "pthread_create");

    tick_every(&host, TICK_MS);
    while (!host.guest_is_done)
        serve_once(&host);
    pthread_join(thread, NULL);
    idle(&host);
    part_from_guest(&host);
    for (unsigned ticks = host.ticks; host.ticks == ticks;)
        serve_once(&host);

    close(host.ends[0]);
    close(host.ends[1]);
    close(host.ticker);
    close(host.epoll);
    return 0;
}
