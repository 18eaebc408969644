/* What loop.h says of guests: loops that live in a foreign event loop, here a bare poll or epoll. The
 * hosts of these tests give a turn only when the descriptor is readable, so that one which stays
 * silent though there is something to do is noticed: as a hang. */
#include "duet_test.h"
#include "shared.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>

#if defined(__SANITIZE_THREAD__)
#define TEST_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define TEST_TSAN 1
#endif
#endif

/* ---- Hosts ---- */

enum {
    HANG_MS = 20000 /* so long only a hang lasts */
};

/* How a host waits for the loop's descriptor. */
enum way {
    BY_POLL,
    BY_EPOLL,
    BY_NESTED_EPOLL, /* an epoll that is polled by an outer one */
    BY_POLLED_EPOLL, /* … or by poll */
    WAYS
};

struct host {
    duet_loop *loop;
    enum way way;
    int fd; /* the loop's own */
    int epoll[2]; /* the inner and the outer, or -1 */
    long turns;
    bool over; /* a turn has said -ESHUTDOWN */
};

static int epoll_of(int fd)
{
    struct epoll_event event = {.events = EPOLLIN};
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    must(epoll >= 0);
    must_equal(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event), 0);
    return epoll;
}

static void host_attach(struct host *h, duet_loop *loop, enum way way)
{
    *h = (struct host){.loop = loop, .way = way, .fd = -1, .epoll = {-1, -1}};
    must_equal(duet_loop_attach(loop, &h->fd), 0);
    must(h->fd >= 0);
    must(duet_loop_self() == loop);
    if (way != BY_POLL)
        h->epoll[0] = epoll_of(h->fd);
    if (way == BY_NESTED_EPOLL)
        h->epoll[1] = epoll_of(h->epoll[0]);
}

static void host_open_with(struct host *h, enum way way, const duet_loop_config *config)
{
    duet_loop *loop;
    must_equal(duet_loop_open(&loop, config), 0);
    host_attach(h, loop, way);
}

static void host_open(struct host *h)
{
    host_open_with(h, BY_POLL, NULL);
}

static bool poll_one(int fd, int ms)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    int n = poll(&p, 1, ms);
    must(n >= 0 || errno == EINTR);
    must(n <= 0 || p.revents == POLLIN); /* no error, no hang-up */
    return n > 0;
}

static bool epoll_one(int fd, int ms)
{
    struct epoll_event event;
    int n = epoll_wait(fd, &event, 1, ms);
    must(n >= 0 || errno == EINTR);
    must(n <= 0 || event.events == EPOLLIN);
    return n > 0;
}

static bool host_looks(struct host *h, int ms)
{
    switch (h->way) {
    case BY_POLL:
        return poll_one(h->fd, ms);
    case BY_EPOLL:
        return epoll_one(h->epoll[0], ms);
    case BY_NESTED_EPOLL:
        return epoll_one(h->epoll[1], ms);
    default:
        return poll_one(h->epoll[0], ms);
    }
}

/* Waits for so long until the loop wants a turn. The kernel may interrupt it without a signal, when
 * it takes away the ring of a loop that has ended on this thread. */
static bool host_awaits(struct host *h, int ms)
{
    duet_deadline end = duet_ms(ms);
    int64_t left = end.ns - duet_now_ns();
    do {
        if (host_looks(h, ms > 0 ? (int)(left / 1000000) + 1 : 0))
            return true;
        left = end.ns - duet_now_ns();
    } while (left > 0);
    return false;
}

static int host_turn(struct host *h)
{
    int rc = duet_loop_turn(h->loop);
    h->turns++;
    h->over = rc == -ESHUTDOWN;
    must(rc == 0 || rc == 1 || h->over);
    must(rc != 1 || host_awaits(h, 0)); /* there is more to do, and the descriptor says so */
    return rc;
}

static void host_step(struct host *h)
{
    must(host_awaits(h, HANG_MS));
    (void)host_turn(h);
}

static void do_nothing(void *arg)
{
    (void)arg;
}

/* Until it has settled, by whomever: its callback wakes the loop. */
static void host_until(struct host *h, duet_future *f)
{
    must_equal(duet_future_then(f, h->loop, do_nothing, NULL, NULL), 0);
    while (!duet_future_settled(f)) {
        host_step(h);
        must(!h->over);
    }
}

static duet_result host_finish(struct host *h, duet_future *f)
{
    host_until(h, f);
    return finish(f);
}

/* As long as the loop wants turns at once: until all that this thread has started waits. */
static void host_until_quiet(struct host *h)
{
    for (int i = 0; host_awaits(h, 0); i++) {
        must(i < 1000000);
        (void)host_turn(h);
    }
}

static void host_until_count(struct host *h, atomic_int *count, int n)
{
    while (atomic_load(count) < n)
        host_step(h);
}

/* For a while, in which it does nothing else. */
static void host_for(struct host *h, int ms)
{
    duet_deadline end = duet_ms(ms);
    for (int64_t left; (left = end.ns - duet_now_ns()) > 0;)
        if (host_awaits(h, (int)(left / 1000000) + 1))
            (void)host_turn(h);
}

static void host_until_over(struct host *h)
{
    while (!h->over)
        host_step(h);
    must(duet_loop_self() == NULL);
    for (int i = 0; i < 2; i++)
        if (h->epoll[i] >= 0)
            close(h->epoll[i]);
}

static void host_stop(struct host *h)
{
    duet_loop_stop(h->loop);
    host_until_over(h);
}

static void host_close(struct host *h)
{
    host_stop(h);
    close_loop(h->loop);
}

/* A host on a thread of its own, until its loop ends. */
struct hosting {
    duet_loop *loop;
    enum way way;
    struct thread thread;
    long turns;
};

static void host_on_thread(void *arg)
{
    struct hosting *hosting = arg;
    struct host h;
    host_attach(&h, hosting->loop, hosting->way);
    host_until_over(&h);
    hosting->turns = h.turns;
}

static void hosting_start(struct hosting *hosting, enum way way)
{
    hosting->way = way;
    must_equal(duet_loop_open(&hosting->loop, NULL), 0);
    thread_start(&hosting->thread, host_on_thread, hosting);
    must_equal(duet_call(hosting->loop, return_ok, NULL, SURELY, NULL), 0);
}

static void hosting_close(struct hosting *hosting)
{
    close_loop(hosting->loop);
    thread_join(&hosting->thread);
}

static duet_loop *open_loop(void)
{
    duet_loop *loop;
    must_equal(duet_loop_open(&loop, NULL), 0);
    return loop;
}

/* A test within a host, once for each way to wait. */
#define host_test(name)                                                                            \
    static void name##_body(struct host *h);                                                       \
    static void name(void **state)                                                                 \
    {                                                                                              \
        (void)state;                                                                               \
        for (int way = 0; way < WAYS; way++) {                                                     \
            struct host h;                                                                         \
            host_open_with(&h, (enum way)way, NULL);                                               \
            name##_body(&h);                                                                       \
            host_close(&h);                                                                        \
        }                                                                                          \
    }                                                                                              \
    static void name##_body(__attribute__((unused)) struct host *h)

/* ---- Broken rules: first, as long as this process has no threads ---- */

static void turn_here(void *loop)
{
    (void)duet_loop_turn(loop);
}

static void turn_elsewhere(void *arg)
{
    struct host h;
    struct thread thread;
    (void)arg;
    host_open(&h);
    thread_start(&thread, turn_here, h.loop);
    pthread_join(thread.id, NULL); /* a wait of duet's would be -EDEADLK here */
}

static void turn_unattached(void *arg)
{
    (void)arg;
    turn_here(open_loop());
}

static void turn_started(void *arg)
{
    (void)arg;
    turn_here(start_loop());
}

static void turn_ended(void *arg)
{
    struct host h;
    (void)arg;
    host_open(&h);
    host_stop(&h);
    turn_here(h.loop);
}

static void turn_another(void *arg)
{
    struct host h;
    (void)arg;
    host_open(&h);
    turn_here(open_loop());
}

thread_test(a_turn_aborts_where_the_loop_is_not_attached)
{
    expect_death(turn_elsewhere, NULL, SIGABRT, "duet_loop_turn");
    expect_death(turn_unattached, NULL, SIGABRT, "duet_loop_turn");
    expect_death(turn_started, NULL, SIGABRT, "duet_loop_turn");
    expect_death(turn_ended, NULL, SIGABRT, "duet_loop_turn");
    expect_death(turn_another, NULL, SIGABRT, "duet_loop_turn");
}

static void in_child(void (*body)(int n), int n)
{
    int status;
    fflush(NULL);
    pid_t child = fork();
    must(child >= 0);
    if (child == 0) {
        alarm(60);
        body(n);
        exit(0);
    }
    must(waitpid(child, &status, 0) == child);
    must_equal(status, 0);
}

/* ---- To attach ---- */

/* Takes all descriptors but so many, which are the last ones. */
static void leave_descriptors(int n)
{
    struct rlimit limit;
    must_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
    limit.rlim_cur = 64;
    must_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
    int last = 0;
    for (int fd = dup(0); fd >= 0; fd = dup(0))
        last = fd;
    for (; n > 0; n--)
        close(last--);
}

static int in_use(void) /* count_fds() needs a descriptor itself */
{
    int n = 0;
    for (int fd = 0; fd < 64; fd++)
        n += fcntl(fd, F_GETFD) >= 0;
    return n;
}

static void attach_with_few(int left)
{
    atomic_int drops = 0;
    int fd = -7;
    const duet_opts opts = {.drop = count_drop};
    duet_loop *loop = open_loop();
    duet_future *f = duet_submit_with(loop, return_ok, &drops, &opts);
    leave_descriptors(left);
    int before = in_use();
    log_capture();
    int rc = duet_loop_attach(loop, &fd);
    if (rc == 0) { /* enough of them */
        must(left > 0);
        _exit(17);
    }
    must_equal(rc, -EMFILE);
    must(log_has("RLIMIT_NOFILE"));
    log_release();
    must_equal(in_use(), before);
    must(duet_loop_self() == NULL);
    must(duet_future_settled(f));
    must_equal(finish(f).err, -ECANCELED);
    must_equal(drops, 1);
    f = duet_submit_with(loop, return_ok, &drops, &opts);
    must(duet_future_settled(f));
    must_equal(finish(f).err, -ESHUTDOWN);
    must_equal(drops, 2);
    close_loop(loop);
    must_equal(in_use(), before - 1); /* its eventfd's */
}

/* loop.h: as duet_loop_run(), an error, and what was queued settles. */
thread_test(attaching_without_descriptors_fails_and_leaks_nothing)
{
    for (int left = 0, status = 0; !WIFEXITED(status) || WEXITSTATUS(status) != 17; left++) {
        must(left < 10);
        fflush(NULL);
        pid_t child = fork();
        must(child >= 0);
        if (child == 0) {
            alarm(60);
            attach_with_few(left);
            _exit(0); /* a leak checker would need descriptors */
        }
        must(waitpid(child, &status, 0) == child);
        must(WIFEXITED(status));
        must(WEXITSTATUS(status) == 17 || WEXITSTATUS(status) == 0);
    }
}

static void attach_again(void *arg)
{
    int fd = -7;
    must_equal(duet_loop_attach(arg, &fd), -EALREADY);
    must_equal(duet_loop_run(arg), -EALREADY);
    must(duet_loop_self() == NULL);
}

thread_test(a_loop_is_attached_once)
{
    struct host h;
    struct thread thread;
    int fd;
    host_open(&h);
    int rc = duet_loop_attach(h.loop, &fd);
    must(rc == -EALREADY || rc == -EDEADLK); /* here both are true */
    rc = duet_loop_run(h.loop);
    must(rc == -EALREADY || rc == -EDEADLK);
    thread_start(&thread, attach_again, h.loop);
    host_until(&h, thread.ended);
    thread_join(&thread);
    must_equal(host_finish(&h, duet_submit(h.loop, return_ok, NULL)).err, 0); /* it is unharmed */
    host_stop(&h);
    attach_again(h.loop);
    close_loop(h.loop);
}

thread_test(a_loop_that_runs_or_has_run_is_not_attached)
{
    duet_loop *loop = start_loop();
    attach_again(loop);
    must_equal(duet_call(loop, return_ok, NULL, SURELY, NULL), 0);
    duet_loop_ref(loop);
    close_loop(loop);
    attach_again(loop);
    duet_loop_unref(loop);
}

thread_test(on_the_thread_of_a_guest_no_other_loop_runs)
{
    struct host h;
    int fd;
    host_open(&h);
    duet_loop *other = open_loop();
    duet_future *f = duet_submit(other, return_ok, NULL);
    must_equal(duet_loop_attach(other, &fd), -EDEADLK);
    must_equal(duet_loop_run(other), -EDEADLK);
    must_equal(duet_run(return_ok, NULL, NULL), -EDEADLK);
    must(duet_loop_self() == h.loop);
    must(!duet_future_settled(f));
    host_close(&h);
    host_attach(&h, other, BY_POLL); /* nothing has happened to it */
    must_equal(host_finish(&h, f).err, 0);
    host_close(&h);
}

static duet_result attach_in_work(void *loop)
{
    int fd;
    must_equal(duet_loop_attach(loop, &fd), -EDEADLK);
    return duet_ok();
}

static void attach_in_callback(void *loop)
{
    (void)attach_in_work(loop);
}

thread_test(work_cannot_attach_a_loop)
{
    struct host h;
    duet_loop *loop = open_loop(), *started = start_loop();
    duet_pool *pool = open_pool(1);
    must_equal(duet_call(started, attach_in_work, loop, SURELY, NULL), 0);
    must_equal(duet_offload(pool, attach_in_work, loop, SURELY, NULL), 0);
    must_equal(finish(duet_call_at(started, DUET_NOW, attach_in_callback, loop)).err, 0);
    host_open(&h);
    must_equal(host_finish(&h, duet_spawn(attach_in_work, loop)).err, 0);
    must_equal(host_finish(&h, duet_call_at(h.loop, DUET_NOW, attach_in_callback, loop)).err, 0);
    host_close(&h);
    close_loop(started);
    close_pool(pool);
    host_attach(&h, loop, BY_POLL);
    must_equal(host_finish(&h, duet_spawn(return_ok, NULL)).err, 0);
    host_close(&h);
}

thread_test(attaching_null_is_einval)
{
    int fd = -7;
    duet_loop *loop = open_loop();
    log_capture();
    must_equal(duet_loop_attach(NULL, &fd), -EINVAL);
    must_equal(duet_loop_attach(loop, NULL), -EINVAL);
    must_equal(log_count("duet_loop_attach"), 2);
    log_release();
    must(duet_loop_self() == NULL);
    must_equal(duet_loop_attach(loop, &fd), 0); /* it is as it was */
    struct host h = {.loop = loop, .fd = fd, .epoll = {-1, -1}};
    host_close(&h);
}

static atomic_int order;

static duet_result in_order(void *number)
{
    must_equal(atomic_fetch_add(&order, 1), *(int *)number);
    return duet_ok();
}

thread_test(work_that_came_before_the_attach_runs_in_its_order)
{
    enum {
        N = 100
    };
    int number[N];
    duet_future *f[N];
    struct host h;
    duet_loop *loop = open_loop();
    atomic_store(&order, 0);
    for (int i = 0; i < N; i++) {
        number[i] = i;
        f[i] = duet_submit(loop, in_order, &number[i]);
    }
    host_attach(&h, loop, BY_POLL);
    must_equal(atomic_load(&order), 0); /* it runs in turns alone */
    for (int i = 0; i < N; i++)
        must_equal(host_finish(&h, f[i]).err, 0);
    host_close(&h);
}

thread_test(a_loop_stopped_before_it_is_attached_ends_at_once)
{
    struct host h;
    duet_loop *loop = open_loop();
    duet_future *f = duet_submit(loop, return_ok, NULL);
    duet_loop_stop(loop);
    host_attach(&h, loop, BY_POLL);
    host_until_over(&h);
    must_equal(finish(f).err, -ECANCELED);
    close_loop(loop);
}

/* ---- Turns ---- */

static int yields = 50;

static duet_result yield_and_sleep(void *arg)
{
    duet_loop *loop = duet_loop_self();
    must_equal(yield_often(&yields).err, 0);
    duet_deadline until = duet_ms(5);
    must_equal(duet_sleep(until), 0);
    must(duet_now_ns() >= until.ns);
    must(duet_loop_self() == loop);
    return duet_ptr(arg);
}

host_test(a_guest_runs_coroutines_that_yield_and_sleep)
{
    duet_future *f[20];
    for (int i = 0; i < 20; i++)
        f[i] = i % 2 ? duet_spawn(yield_and_sleep, &f[i])
                     : duet_submit(h->loop, yield_and_sleep, &f[i]);
    for (int i = 0; i < 20; i++)
        must(duet_as_ptr(host_finish(h, f[i])) == &f[i]);
}

host_test(a_turn_with_nothing_to_do_does_no_harm)
{
    host_until_quiet(h);
    for (int i = 0; i < 1000; i++) {
        must_equal(duet_loop_turn(h->loop), 0);
        must(!host_awaits(h, 0));
    }
    duet_future *f = duet_spawn(sleep_long, NULL);
    host_until_quiet(h);
    for (int i = 0; i < 1000; i++)
        must_equal(duet_loop_turn(h->loop), 0);
    must(!host_awaits(h, 0));
    duet_future_cancel(f);
    must_equal(host_finish(h, f).err, -ECANCELED);
}

static duet_result count_up(void *counter)
{
    atomic_fetch_add((atomic_int *)counter, 1);
    return duet_ok();
}

/* The descriptor tells; whoever does not look at it and turns on is answered too. */
thread_test(a_host_may_turn_without_looking)
{
    struct host h;
    atomic_int count = 0;
    host_open(&h);
    duet_future *f[100];
    for (int i = 0; i < 100; i++)
        f[i] = duet_spawn(count_up, &count);
    for (duet_deadline by = SURELY; atomic_load(&count) < 100;) {
        must(duet_now_ns() < by.ns);
        must(duet_loop_turn(h.loop) >= 0);
    }
    for (int i = 0; i < 100; i++)
        must_equal(host_finish(&h, f[i]).err, 0);
    host_close(&h);
}

static int64_t processor_ns(void)
{
    struct timespec t;
    must_equal(clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t), 0);
    return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

static duet_result read_silence(void *arg)
{
    char byte;
    return duet_err((int)duet_read(*(int *)arg, &byte, 1, DUET_NEVER));
}

static duet_result wait_for_ever(void *promise)
{
    return duet_err(duet_future_wait(promise, DUET_NEVER, NULL));
}

host_test(an_idle_guest_wants_no_turns_and_no_processor)
{
    int fds[2];
    must_equal(pipe(fds), 0);
    duet_future *promise = open_promise();
    duet_future *f[] = {duet_spawn(sleep_long, NULL), duet_spawn(read_silence, &fds[0]),
                        duet_spawn(wait_for_ever, promise)};
    duet_future *at = duet_call_at(h->loop, duet_sec(3600), do_nothing, NULL);
    host_until_quiet(h);
    long turns = h->turns;
    int64_t used = processor_ns();
    host_for(h, 300);
    must(h->turns - turns < 50);
    must(processor_ns() - used < 150 * INT64_C(1000000));
    duet_future_cancel(at);
    must_equal(host_finish(h, at).err, -ECANCELED);
    for (int i = 0; i < 3; i++) {
        duet_future_cancel(f[i]);
        must_equal(host_finish(h, f[i]).err, -ECANCELED);
    }
    duet_future_unref(promise);
    close(fds[0]);
    close(fds[1]);
}

static duet_result sleep_a_while(void *arg)
{
    (void)arg;
    return duet_err(duet_sleep(duet_ms(200)));
}

host_test(a_guest_that_waits_for_a_moment_wants_few_turns)
{
    must_equal(host_finish(h, duet_spawn(sleep_a_while, NULL)).err, 0);
    must(h->turns < 50);
}

static duet_result turn_in_coroutine(void *loop)
{
    must_equal(duet_loop_turn(loop), -EDEADLK);
    return duet_ok();
}

static atomic_int turned;

static void turn_in_callback(void *loop)
{
    must_equal(duet_loop_turn(loop), -EDEADLK);
    atomic_fetch_add(&turned, 1);
}

thread_test(a_turn_within_a_turn_is_edeadlk)
{
    struct host h;
    host_open(&h);
    const duet_opts opts = {.drop = turn_in_callback};
    must_equal(host_finish(&h, duet_spawn(turn_in_coroutine, h.loop)).err, 0);
    must_equal(host_finish(&h, duet_call_at(h.loop, DUET_NOW, turn_in_callback, h.loop)).err, 0);
    must_equal(duet_call_soon(h.loop, turn_in_callback, h.loop), 0);
    must_equal(host_finish(&h, duet_spawn_with(return_ok, h.loop, &opts)).err, 0);
    duet_future *promise = open_promise();
    must_equal(duet_future_then(promise, h.loop, turn_in_callback, h.loop, NULL), 0);
    settle(promise);
    must_equal(host_finish(&h, promise).err, 0);
    host_until_count(&h, &turned, 4);
    host_close(&h);
}

thread_test(a_turn_leaves_errno_alone)
{
    struct host h;
    host_open(&h);
    duet_future *f = duet_spawn(yield_and_sleep, NULL);
    while (!duet_future_settled(f)) {
        must(host_awaits(&h, HANG_MS));
        errno = 77;
        (void)duet_loop_turn(h.loop);
        must_equal(errno, 77);
    }
    duet_future_unref(f);
    host_close(&h);
}

/* ---- What host code may and may not do between the turns ---- */

/* Waits that nobody but the loop's coroutines could answer. */
thread_test(a_wait_between_the_turns_is_edeadlk)
{
    struct host h;
    duet_result r;
    int fds[2];
    char byte;
    duet_chan *chan;
    duet_sem sem;
    duet_event event = DUET_EVENT_INIT;
    duet_group group = DUET_GROUP_INIT;
    duet_pool *pool = open_pool(1);
    duet_loop *other = start_loop();
    must_equal(pipe(fds), 0);
    must_equal(duet_chan_open(&chan, 1, 1), 0);
    duet_sem_init(&sem, 0);
    host_open(&h);
    duet_future *f = duet_spawn(sleep_long, NULL);
    duet_group_add(&group, duet_future_ref(f));
    duet_case cases[] = {duet_case_future(f)};
    for (int i = 0; i < 2; i++, host_until_quiet(&h)) { /* before a turn, and after it */
        must_equal(duet_sleep(SURELY), -EDEADLK);
        must_equal(duet_future_wait(f, SURELY, &r), -EDEADLK);
        must_equal(duet_gather(&f, 1, SURELY, &r), -EDEADLK);
        must_equal(duet_call(h.loop, return_ok, NULL, SURELY, &r), -EDEADLK);
        must_equal(duet_call(other, return_ok, NULL, SURELY, &r), -EDEADLK);
        must_equal(duet_offload(pool, return_ok, NULL, SURELY, &r), -EDEADLK);
        must_equal(duet_chan_recv(chan, &byte, SURELY), -EDEADLK);
        must_equal(duet_sem_wait(&sem, SURELY), -EDEADLK);
        must_equal(duet_event_wait(&event, SURELY), -EDEADLK);
        must_equal(duet_select(cases, 1, SURELY), -EDEADLK);
        must_equal(duet_read(fds[0], &byte, 1, SURELY), -EDEADLK);
        must_equal(duet_poll(fds[0], POLLIN, SURELY), -EDEADLK);
        must_equal(duet_group_wait(&group, SURELY, &r), -EDEADLK);
        must_equal(duet_loop_close(h.loop, SURELY), -EDEADLK);
        must_equal(duet_loop_close(other, SURELY), -EDEADLK);
        must_equal(duet_loop_shutdown(h.loop, SURELY, NULL), -EDEADLK);
        must_equal(duet_pool_close(pool, SURELY), -EDEADLK);
        must_equal(duet_shutdown(SURELY, NULL), -EDEADLK);
    }
    must(!duet_future_settled(f)); /* none of them has done anything */
    must_equal(duet_group_close(&group), -EDEADLK);
    must_equal(duet_future_end(f, SURELY, 0, &r), -EDEADLK);
    must_equal(duet_future_close(f, &r), -EDEADLK); /* the handle is still ours */
    duet_future_cancel(f);
    must_equal(host_finish(&h, f).err, -ECANCELED);
    must_equal(duet_group_close(&group), 0);
    host_close(&h);
    must_equal(duet_call(other, return_ok, NULL, SURELY, NULL), 0);
    must_equal(duet_offload(pool, return_ok, NULL, SURELY, NULL), 0);
    close_loop(other);
    close_pool(pool);
    duet_chan_unref(chan);
    close(fds[0]);
    close(fds[1]);
}

thread_test(what_is_there_at_once_host_code_may_have)
{
    struct host h;
    int fds[2];
    char byte = 'x';
    duet_chan *chan;
    duet_sem sem;
    duet_mutex mutex = DUET_MUTEX_INIT;
    must_equal(pipe(fds), 0);
    must_equal(duet_chan_open(&chan, 1, 1), 0);
    duet_sem_init(&sem, 1);
    host_open(&h);
    must_equal(duet_sleep(DUET_NOW), 0);
    must_equal(duet_chan_recv(chan, &byte, DUET_NOW), -ETIME);
    must_equal(duet_chan_send(chan, &byte, SURELY), 0);
    must_equal(duet_chan_send(chan, &byte, DUET_NOW), -ETIME);
    must_equal(duet_chan_recv(chan, &byte, SURELY), 0);
    must_equal(duet_sem_wait(&sem, SURELY), 0);
    must_equal(duet_sem_wait(&sem, DUET_NOW), -ETIME);
    must_equal(duet_mutex_lock(&mutex, SURELY), 0);
    must_equal(duet_mutex_unlock(&mutex), 0);
    must_equal(duet_write(fds[1], &byte, 1, SURELY), 1);
    must_equal(duet_read(fds[0], &byte, 1, SURELY), 1);
    duet_future *promise = open_promise();
    settle(promise);
    must_equal(finish(promise).err, 0);
    host_close(&h);
    duet_chan_unref(chan);
    must_equal(duet_close(fds[0]), 0);
    must_equal(duet_close(fds[1]), 0);
}

static void count_call(void *counter)
{
    atomic_fetch_add((atomic_int *)counter, 1);
}

/* Each of them makes the descriptor readable, that of a loop which had nothing to do. */
host_test(what_host_code_starts_makes_the_descriptor_readable)
{
    atomic_int count = 0;
    duet_group group = DUET_GROUP_INIT;
    for (int i = 0; i < 3; i++) {
        atomic_store(&count, 0);
        host_until_quiet(h);
        duet_future *spawned = duet_spawn(count_up, &count);
        host_until_count(h, &count, 1);
        host_until_quiet(h);
        duet_future *submitted = duet_submit(h->loop, count_up, &count);
        host_until_count(h, &count, 2);
        host_until_quiet(h);
        must_equal(duet_call_soon(h->loop, count_call, &count), 0);
        host_until_count(h, &count, 3);
        host_until_quiet(h);
        duet_future *at = duet_call_at(h->loop, duet_ms(2), count_call, &count);
        host_until_count(h, &count, 4);
        host_until_quiet(h);
        must_equal(duet_future_then(at, h->loop, count_call, &count, NULL), 0);
        host_until_count(h, &count, 5);
        host_until_quiet(h);
        must_equal(duet_group_spawn(&group, NULL, count_up, &count, NULL), 0);
        host_until_count(h, &count, 6);
        must_equal(host_finish(h, spawned).err, 0);
        must_equal(host_finish(h, submitted).err, 0);
        must_equal(host_finish(h, at).err, 0);
    }
    host_until_quiet(h);
    must_equal(duet_group_close(&group), 0);
}

/* A coroutine takes a round through things that host code, between the turns, gives it. */
struct given {
    duet_future *promise;
    duet_mutex mutex;
    duet_sem sem;
    duet_event event;
    duet_chan *to, *from;
    int steps;
};

static duet_result take_all(void *arg)
{
    struct given *g = arg;
    int item = 0;
    must_equal(duet_future_wait(g->promise, SURELY, NULL), 0);
    g->steps++;
    must_equal(duet_mutex_lock(&g->mutex, DUET_NOW), -ETIME); /* the host's, not ours */
    must_equal(duet_mutex_lock(&g->mutex, SURELY), 0);
    must_equal(duet_mutex_unlock(&g->mutex), 0);
    g->steps++;
    must_equal(duet_sem_wait(&g->sem, SURELY), 0);
    g->steps++;
    must_equal(duet_event_wait(&g->event, SURELY), 0);
    g->steps++;
    must_equal(duet_chan_recv(g->to, &item, SURELY), 0);
    must_equal(item, 42);
    g->steps++;
    must_equal(duet_chan_send(g->from, &item, SURELY), 0);
    g->steps++;
    return duet_ok();
}

static void host_until_step(struct host *h, const struct given *g, int steps)
{
    while (g->steps < steps)
        host_step(h);
    host_until_quiet(h);
    must_equal(g->steps, steps);
}

host_test(host_code_hands_things_to_a_coroutine)
{
    struct given g = {.promise = open_promise()};
    int item = 42;
    must_equal(duet_chan_open(&g.to, sizeof item, 0), 0);
    must_equal(duet_chan_open(&g.from, sizeof item, 0), 0);
    duet_sem_init(&g.sem, 0);
    must_equal(duet_mutex_lock(&g.mutex, DUET_NOW), 0);
    duet_future *f = duet_spawn(take_all, &g);
    host_until_step(h, &g, 0);
    settle(g.promise);
    host_until_step(h, &g, 1);
    must_equal(duet_mutex_unlock(&g.mutex), 0);
    host_until_step(h, &g, 2);
    must_equal(duet_sem_post(&g.sem), 0);
    host_until_step(h, &g, 3);
    duet_event_set(&g.event);
    host_until_step(h, &g, 4);
    must_equal(duet_chan_send(g.to, &item, DUET_NOW), 0);
    host_until_step(h, &g, 5);
    must_equal(duet_chan_recv(g.from, &item, DUET_NOW), 0);
    must_equal(host_finish(h, f).err, 0);
    duet_chan_unref(g.to);
    duet_chan_unref(g.from);
    duet_future_unref(g.promise);
}

static duet_result hold_until_go(void *arg)
{
    struct given *g = arg;
    must_equal(duet_mutex_lock(&g->mutex, SURELY), 0);
    must_equal(duet_future_wait(g->promise, SURELY, NULL), 0);
    must_equal(duet_mutex_unlock(&g->mutex), 0);
    return duet_ok();
}

thread_test(host_code_gets_a_lock_only_when_the_coroutine_has_let_go)
{
    struct host h;
    struct given g = {.promise = open_promise()};
    host_open(&h);
    duet_future *f = duet_spawn(hold_until_go, &g);
    host_until_quiet(&h);
    must_equal(duet_mutex_lock(&g.mutex, DUET_NOW), -ETIME);
    must_equal(duet_mutex_lock(&g.mutex, SURELY), -EDEADLK);
    must_equal(duet_mutex_unlock(&g.mutex), -EPERM);
    settle(g.promise);
    must_equal(host_finish(&h, f).err, 0);
    must_equal(duet_mutex_lock(&g.mutex, DUET_NOW), 0);
    must_equal(duet_mutex_unlock(&g.mutex), 0);
    duet_future_unref(g.promise);
    host_close(&h);
}

/* The loop was going to sleep for an hour. */
host_test(host_code_makes_the_next_moment_earlier)
{
    atomic_int count = 0;
    duet_future *later = duet_call_at(h->loop, duet_sec(3600), count_call, &count);
    duet_future *sleeper = duet_spawn(sleep_long, NULL);
    host_until_quiet(h);
    duet_deadline soon = duet_ms(30);
    duet_future *at = duet_call_at(h->loop, soon, count_call, &count);
    host_until_count(h, &count, 1);
    must(duet_now_ns() >= soon.ns);
    must_equal(host_finish(h, at).err, 0);
    host_until_quiet(h);
    duet_deadline sooner = duet_ms(20);
    duet_future *second = duet_call_at(h->loop, duet_ms(40), count_call, &count);
    host_until_quiet(h);
    duet_future *first = duet_call_at(h->loop, sooner, count_call, &count);
    must_equal(host_finish(h, first).err, 0);
    must(duet_now_ns() >= sooner.ns);
    must_equal(host_finish(h, second).err, 0);
    duet_future_cancel(later); /* and later */
    duet_future_cancel(sleeper);
    must_equal(host_finish(h, later).err, -ECANCELED);
    must_equal(host_finish(h, sleeper).err, -ECANCELED);
    must_equal(atomic_load(&count), 3);
}

host_test(host_code_cancels)
{
    duet_future *unborn = duet_spawn(sleep_long, NULL);
    duet_future_cancel(unborn);
    must_equal(host_finish(h, unborn).err, -ECANCELED);
    duet_future *sleeper = duet_spawn(sleep_long, NULL);
    host_until_quiet(h);
    duet_future_cancel(sleeper);
    must_equal(host_finish(h, sleeper).err, -ECANCELED);
}

thread_test(host_code_starts_work_in_a_pool_and_on_other_loops)
{
    struct host h;
    atomic_int count = 0;
    duet_pool *pool = open_pool(1);
    duet_loop *other;
    host_open(&h);
    must_equal(duet_loop_start(&other, NULL), 0); /* not a wait */
    duet_future *f[] = {duet_pool_submit(pool, count_up, &count),
                        duet_submit(other, count_up, &count)};
    for (int i = 0; i < 2; i++)
        must_equal(host_finish(&h, f[i]).err, 0);
    must_equal(atomic_load(&count), 2);
    host_close(&h);
    close_loop(other);
    close_pool(pool);
}

/* base.h: for its own loop it needs no room, elsewhere it is refused whatever was chosen. */
thread_test(host_code_never_waits_for_room)
{
    struct host h;
    struct gate gate = GATE_INIT;
    atomic_int count = 0;
    duet_pool *pool;
    duet_loop *other;
    duet_future *f[20];
    host_open_with(&h, BY_POLL, &(duet_loop_config){.inbox_max = 1});
    must_equal(duet_loop_open(&other, &(duet_loop_config){.inbox_max = 1}), 0);
    must_equal(duet_pool_open(&pool, &(duet_pool_config){.workers_max = 1,
                                                         .queue_max = 1,
                                                         .when_full = DUET_FULL_RUN_HERE}),
               0);
    for (int i = 0; i < 20; i++)
        f[i] = duet_submit(h.loop, count_up, &count);
    for (int i = 0; i < 20; i++)
        must_equal(host_finish(&h, f[i]).err, 0);
    must_equal(atomic_load(&count), 20);
    f[0] = duet_submit(other, count_up, &count); /* which nobody runs */
    must_equal(finish(duet_submit(other, count_up, &count)).err, -EAGAIN);
    f[1] = duet_pool_submit(pool, gate_pass_job, &gate);
    gate_await_arrivals(&gate, 1);
    f[2] = duet_pool_submit(pool, count_up, &count);
    must_equal(finish(duet_pool_submit(pool, count_up, &count)).err, -EAGAIN);
    must_equal(atomic_load(&count), 20);
    gate_open(&gate);
    must_equal(host_finish(&h, f[1]).err, 0);
    must_equal(host_finish(&h, f[2]).err, 0);
    host_close(&h);
    close_loop(other);
    must_equal(finish(f[0]).err, -ECANCELED);
    close_pool(pool);
}

/* ---- Input and output ---- */

struct reading {
    int fd;
    char text[16];
    ssize_t n;
};

static duet_result read_once(void *arg)
{
    struct reading *r = arg;
    r->n = duet_read(r->fd, r->text, sizeof r->text, SURELY);
    return duet_ok();
}

host_test(a_coroutine_reads_what_its_host_writes)
{
    struct reading r;
    int fds[2];
    must_equal(pipe(fds), 0);
    for (int i = 0; i < 20; i++) {
        r = (struct reading){.fd = fds[0]};
        duet_future *f = duet_spawn(read_once, &r);
        if (i % 2)
            host_until_quiet(h);
        must_equal(write(fds[1], "hello", 5), 5);
        must_equal(host_finish(h, f).err, 0);
        must_equal(r.n, 5);
    }
    close(fds[0]);
    close(fds[1]);
}

static void write_from_thread(void *arg)
{
    must_equal(write(*(int *)arg, "hello", 5), 5);
}

host_test(a_coroutine_reads_what_another_thread_writes)
{
    int fds[2];
    must_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
    struct reading r = {.fd = fds[0]};
    struct thread thread;
    duet_future *f = duet_spawn(read_once, &r);
    host_until_quiet(h);
    thread_start(&thread, write_from_thread, &fds[1]);
    must_equal(host_finish(h, f).err, 0);
    must_equal(r.n, 5);
    host_until(h, thread.ended);
    thread_join(&thread);
    close(fds[0]);
    close(fds[1]);
}

static duet_result write_much(void *arg)
{
    static char much[300000];
    must_equal(duet_write(*(int *)arg, much, sizeof much, SURELY), (ssize_t)sizeof much);
    return duet_ok();
}

/* The coroutine fills the pipe, again and again; the host empties it between the turns. */
host_test(a_coroutine_writes_what_its_host_reads)
{
    char buf[5000];
    int fds[2];
    size_t got = 0;
    must_equal(pipe2(fds, O_NONBLOCK), 0);
    duet_future *f = duet_spawn(write_much, &fds[1]);
    while (!duet_future_settled(f) || poll_one(fds[0], 0)) {
        struct pollfd p[] = {{.fd = h->fd, .events = POLLIN}, {.fd = fds[0], .events = POLLIN}};
        must(poll(p, 2, HANG_MS) > 0);
        if (p[0].revents)
            (void)host_turn(h);
        ssize_t n = read(fds[0], buf, sizeof buf);
        got += n > 0 ? (size_t)n : 0;
    }
    must_equal(got, 300000);
    must_equal(finish(f).err, 0);
    close(fds[0]);
    close(fds[1]);
}

static int listening(struct sockaddr_in *addr)
{
    socklen_t len = sizeof *addr;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    *addr = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    must(fd >= 0);
    must_equal(bind(fd, (struct sockaddr *)addr, len), 0);
    must_equal(listen(fd, 10), 0);
    must_equal(getsockname(fd, (struct sockaddr *)addr, &len), 0);
    return fd;
}

static duet_result accept_and_greet(void *arg)
{
    int fd = duet_accept(*(int *)arg, NULL, NULL, SURELY);
    must(fd >= 0);
    must_equal(duet_write(fd, "welcome", 7, SURELY), 7);
    must_equal(duet_close(fd), 0);
    return duet_ok();
}

host_test(a_coroutine_accepts_its_hosts_connection)
{
    struct sockaddr_in addr;
    char text[16];
    int server = listening(&addr), client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    duet_future *f = duet_spawn(accept_and_greet, &server);
    host_until_quiet(h);
    must_equal(connect(client, (struct sockaddr *)&addr, sizeof addr), 0);
    must_equal(host_finish(h, f).err, 0);
    must_equal(read(client, text, sizeof text), 7);
    close(client);
    close(server);
}

static duet_result connect_out(void *arg)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    must_equal(duet_connect(fd, arg, sizeof(struct sockaddr_in), SURELY), 0);
    struct reading r = {.fd = fd};
    (void)read_once(&r);
    must_equal(r.n, 7);
    must_equal(duet_close(fd), 0);
    return duet_ok();
}

host_test(two_coroutines_talk_by_a_socket)
{
    struct sockaddr_in addr;
    int server = listening(&addr);
    duet_future *f = duet_spawn(accept_and_greet, &server), *g = duet_spawn(connect_out, &addr);
    must_equal(host_finish(h, f).err, 0);
    must_equal(host_finish(h, g).err, 0);
    close(server);
}

static duet_result use_a_file(void *path)
{
    char text[8];
    struct stat st;
    int fd = duet_openat(AT_FDCWD, path, O_RDWR | O_CREAT | O_EXCL, 0600, SURELY);
    must(fd >= 0);
    must_equal(duet_pwrite(fd, "12345", 5, 0, SURELY), 5);
    must_equal(duet_fsync(fd, SURELY), 0);
    must_equal(duet_pread(fd, text, sizeof text, 2, SURELY), 3);
    must(memcmp(text, "345", 3) == 0);
    must_equal(duet_stat(path, &st, SURELY), 0);
    must_equal(st.st_size, 5);
    must_equal(duet_close(fd), 0);
    must_equal(duet_unlinkat(AT_FDCWD, path, 0, SURELY), 0);
    must_equal(duet_stat(path, &st, SURELY), -ENOENT);
    return duet_ok();
}

host_test(a_coroutine_of_a_guest_uses_files)
{
    char dir[] = "/tmp/duet-guest-XXXXXX", path[64];
    must(mkdtemp(dir) != NULL);
    snprintf(path, sizeof path, "%s/file", dir);
    must_equal(host_finish(h, duet_spawn(use_a_file, path)).err, 0);
    must_equal(rmdir(dir), 0);
}

struct polling {
    int fd;
    bool late;
};

static duet_result poll_for_input(void *arg)
{
    struct polling *p = arg;
    must_equal(duet_poll(p->fd, POLLIN, duet_ms(1)), -ETIME);
    p->late = true;
    must_equal(duet_poll(p->fd, POLLIN, SURELY), POLLIN);
    return duet_ok();
}

host_test(a_coroutine_polls_a_descriptor)
{
    int fds[2];
    must_equal(pipe(fds), 0);
    struct polling p = {.fd = fds[0]};
    duet_future *f = duet_spawn(poll_for_input, &p);
    while (!p.late)
        host_step(h);
    must_equal(write(fds[1], "x", 1), 1);
    must_equal(host_finish(h, f).err, 0);
    close(fds[0]);
    close(fds[1]);
}

static duet_result read_counts(void *arg)
{
    uint64_t count;
    for (int i = 0; i < 5; i++)
        must_equal(duet_read(*(int *)arg, &count, sizeof count, SURELY), (ssize_t)sizeof count);
    return duet_ok();
}

/* As often as somebody writes it. */
host_test(a_coroutine_waits_for_an_eventfd)
{
    uint64_t one = 1;
    int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    must(fd >= 0);
    duet_future *f = duet_spawn(read_counts, &fd);
    for (int i = 0; i < 5; i++) {
        host_until_quiet(h);
        must(!duet_future_settled(f));
        must_equal(write(fd, &one, sizeof one), (ssize_t)sizeof one);
        if (i < 4)
            host_step(h);
    }
    must_equal(host_finish(h, f).err, 0);
    close(fd);
}

static duet_result close_it(void *arg)
{
    must_equal(duet_close(*(int *)arg), 0);
    return duet_ok();
}

host_test(closing_a_descriptor_ends_its_reader)
{
    int fds[2];
    must_equal(pipe(fds), 0);
    struct reading r = {.fd = fds[0]};
    duet_future *reader = duet_spawn(read_once, &r);
    host_until_quiet(h);
    must_equal(host_finish(h, duet_spawn(close_it, &fds[0])).err, 0);
    must_equal(host_finish(h, reader).err, 0);
    must_equal(r.n, -EBADF);
    close(fds[1]);
}

static duet_result await_child(void *pid)
{
    int status = -1;
    must_equal(duet_waitpid(*(pid_t *)pid, &status, SURELY), 0);
    must_equal(status, 0);
    return duet_ok();
}

static duet_result await_signal(void *signals)
{
    must_equal(duet_signals_wait(signals, SURELY), SIGUSR1);
    return duet_ok();
}

thread_test(a_coroutine_of_a_guest_waits_for_signals_and_children)
{
    struct host h;
    pid_t pid;
    duet_signals *signals;
    char *const argv[] = {"true", NULL};
    host_open(&h);
    must_equal(duet_signals_open(&signals, &(int){SIGUSR1}, 1), 0);
    duet_future *f = duet_spawn(await_signal, signals);
    host_until_quiet(&h);
    must_equal(raise(SIGUSR1), 0);
    must_equal(host_finish(&h, f).err, 0);
    duet_signals_close(signals);
    must_equal(posix_spawnp(&pid, "true", NULL, NULL, argv, NULL), 0);
    must_equal(host_finish(&h, duet_spawn(await_child, &pid)).err, 0);
    host_close(&h);
}

static duet_result echo_line(duet_stream *s, void *arg)
{
    const char *line;
    (void)arg;
    ssize_t n = duet_stream_read_line(s, &line, SURELY);
    must(n > 0);
    must_equal(duet_stream_write(s, line, (size_t)n, SURELY), 0);
    return duet_ok();
}

struct service {
    duet_server *server;
    duet_future *open;
};

static duet_result serve(void *arg)
{
    struct service *s = arg;
    struct sockaddr_storage addr;
    const duet_server_config config = {.handler = echo_line};
    must_equal(duet_server_open(&s->server, &config), 0);
    must_equal(duet_server_address(s->server, &addr), 0);
    must_equal(duet_future_settle(s->open, duet_i64(((struct sockaddr_in *)&addr)->sin_port)), 0);
    must_equal(duet_server_serve(s->server, SURELY), 0);
    must_equal(duet_server_close(s->server, SURELY), 0);
    return duet_ok();
}

static duet_result ask(void *port)
{
    duet_stream *s;
    const char *line;
    must_equal(duet_dial(&s, "127.0.0.1", port, SURELY), 0);
    must_equal(duet_stream_write(s, "what\n", 5, SURELY), 0);
    must_equal(duet_stream_read_line(s, &line, SURELY), 5);
    must(memcmp(line, "what\n", 5) == 0);
    must_equal(duet_stream_close(s, SURELY), 0);
    return duet_ok();
}

thread_test(a_guest_serves_clients_of_its_own_and_of_another_loop)
{
    struct host h;
    struct service service = {.open = open_promise()};
    char port[8];
    duet_future *f[20];
    duet_loop *other = start_loop();
    host_open(&h);
    duet_future *serving = duet_spawn(serve, &service);
    int64_t number = duet_as_i64(host_finish(&h, service.open));
    snprintf(port, sizeof port, "%u", ntohs((uint16_t)number));
    for (int i = 0; i < 20; i++)
        f[i] = duet_submit(i % 2 ? other : h.loop, ask, port);
    for (int i = 0; i < 20; i++)
        must_equal(host_finish(&h, f[i]).err, 0);
    duet_server_shut(service.server); /* by host code */
    must_equal(host_finish(&h, serving).err, 0);
    host_close(&h);
    close_loop(other);
}

/* ---- Other threads ---- */

struct caller {
    struct thread thread;
    duet_loop *loop;
    int calls;
};

static duet_result double_it(void *arg)
{
    if (*(int *)arg % 3 == 0)
        must_equal(duet_yield(), 0);
    return duet_i64(2 * *(int *)arg);
}

static void call_often(void *arg)
{
    struct caller *c = arg;
    for (int i = 0; i < c->calls; i++) {
        duet_result r;
        must_equal(duet_call(c->loop, double_it, &i, SURELY, &r), 0);
        must_equal(duet_as_i64(r), 2 * i);
    }
}

static void submit_often(void *arg)
{
    struct caller *c = arg;
    duet_future *f[10];
    for (int i = 0; i < c->calls; i += 10) {
        int number[10];
        for (int k = 0; k < 10; k++) {
            number[k] = i + k;
            f[k] = duet_submit(c->loop, double_it, &number[k]);
        }
        for (int k = 0; k < 10; k++)
            must_equal(duet_as_i64(finish(f[k])), 2 * (i + k));
    }
}

host_test(many_threads_call_and_submit)
{
    struct caller callers[6];
    for (int i = 0; i < 6; i++) {
        callers[i] = (struct caller){.loop = h->loop, .calls = 10 * (1 + test_rounds(20))};
        thread_start(&callers[i].thread, i % 2 ? call_often : submit_often, &callers[i]);
    }
    for (int i = 0; i < 6; i++) {
        host_until(h, callers[i].thread.ended);
        thread_join(&callers[i].thread);
    }
}

struct posting {
    struct thread thread;
    duet_loop *loop;
    duet_future *promise;
    duet_chan *chan;
    atomic_int called;
};

static void post_from_thread(void *arg)
{
    struct posting *p = arg;
    int item = 7;
    must_equal(duet_call_soon(p->loop, count_call, &p->called), 0);
    must_equal(duet_chan_send(p->chan, &item, SURELY), 0);
    settle(p->promise);
    must_equal(finish(duet_call_at(p->loop, duet_ms(5), count_call, &p->called)).err, 0);
}

static duet_result receive_both(void *arg)
{
    struct posting *p = arg;
    int item = 0;
    must_equal(duet_chan_recv(p->chan, &item, SURELY), 0);
    must_equal(item, 7);
    must_equal(duet_future_wait(p->promise, SURELY, NULL), 0);
    return duet_ok();
}

host_test(another_thread_reaches_a_waiting_coroutine)
{
    struct posting p = {.loop = h->loop, .promise = open_promise()};
    must_equal(duet_chan_open(&p.chan, sizeof(int), 0), 0);
    duet_future *f = duet_spawn(receive_both, &p);
    host_until_quiet(h);
    thread_start(&p.thread, post_from_thread, &p);
    must_equal(host_finish(h, f).err, 0);
    host_until(h, p.thread.ended);
    thread_join(&p.thread);
    must_equal(atomic_load(&p.called), 2);
    duet_future_unref(p.promise);
    duet_chan_unref(p.chan);
}

static void cancel_it(void *f)
{
    duet_future_cancel(f);
}

host_test(another_thread_cancels_a_coroutine)
{
    struct thread thread;
    duet_future *f = duet_spawn(sleep_long, NULL);
    host_until_quiet(h);
    thread_start(&thread, cancel_it, f);
    must_equal(host_finish(h, f).err, -ECANCELED);
    host_until(h, thread.ended);
    thread_join(&thread);
}

/* Ended by its own deadline, which asks the coroutine to end. */
static void call_in_vain(void *loop)
{
    duet_result r;
    must_equal(duet_call(loop, sleep_long, NULL, duet_ms(10), &r), -ETIME);
}

host_test(a_call_by_a_deadline_ends_its_coroutine)
{
    struct thread thread;
    thread_start(&thread, call_in_vain, h->loop);
    host_until(h, thread.ended);
    thread_join(&thread);
}

struct round {
    duet_loop *loop;
    duet_pool *pool;
    int n;
};

static duet_result job_calls_back(void *arg)
{
    struct round *round = arg;
    duet_result r;
    must(duet_loop_self() == NULL);
    must_equal(duet_call(round->loop, double_it, &round->n, SURELY, &r), 0);
    return r;
}

static duet_result offload_and_back(void *arg)
{
    struct round *round = arg;
    for (int i = 0; i < 10; i++) {
        duet_result r;
        must_equal(duet_offload(round->pool, job_calls_back, round, SURELY, &r), 0);
        must_equal(duet_as_i64(r), 2 * round->n);
        must(duet_loop_self() == round->loop);
    }
    return duet_ok();
}

thread_test(coroutines_offload_jobs_that_call_coroutines)
{
    struct host h;
    struct round rounds[8];
    duet_future *f[8];
    duet_pool *pool = open_pool(1);
    host_open(&h);
    for (int i = 0; i < 8; i++) {
        rounds[i] = (struct round){h.loop, pool, i};
        f[i] = duet_spawn(offload_and_back, &rounds[i]);
    }
    for (int i = 0; i < 8; i++)
        must_equal(host_finish(&h, f[i]).err, 0);
    host_close(&h);
    close_pool(pool);
}

static duet_result group_of_three(void *arg)
{
    duet_group group = DUET_GROUP_INIT;
    duet_result r;
    must_equal(duet_group_spawn(&group, NULL, yield_and_sleep, arg, NULL), 0);
    must_equal(duet_group_spawn(&group, NULL, return_ok, NULL, NULL), 0);
    must_equal(duet_group_wait(&group, SURELY, &r), 0);
    must_equal(r.err, 0);
    must_equal(duet_group_spawn(&group, NULL, sleep_long, NULL, NULL), 0);
    must_equal(duet_group_spawn(&group, NULL, fail_eio, NULL, NULL), 0);
    must_equal(duet_group_wait(&group, SURELY, &r), 0);
    must_equal(r.err, -EIO);
    must_equal(duet_group_close(&group), 0);
    return duet_ok();
}

host_test(groups_work_in_a_guest)
{
    must_equal(host_finish(h, duet_spawn(group_of_three, NULL)).err, 0);
}

/* ---- Fairness ---- */

static duet_result yield_for_ever(void *counter)
{
    while (duet_yield() == 0)
        atomic_fetch_add((atomic_int *)counter, 1);
    return duet_ok();
}

host_test(coroutines_that_yield_for_ever_do_not_keep_a_turn)
{
    atomic_int count[2] = {0};
    int fds[2];
    must_equal(pipe(fds), 0);
    struct reading r = {.fd = fds[0]};
    duet_future *f[] = {duet_spawn(yield_for_ever, &count[0]),
                        duet_spawn(yield_for_ever, &count[1])};
    for (int i = 0; i < 1000; i++)
        must_equal(host_turn(h), 1);
    must(atomic_load(&count[0]) > 100 && atomic_load(&count[1]) > 100);
    must_equal(write(fds[1], "hello", 5), 5);
    must_equal(host_finish(h, duet_spawn(read_once, &r)).err, 0); /* the kernel's answers come */
    must_equal(host_finish(h, duet_spawn(yield_and_sleep, NULL)).err, 0); /* and moments */
    for (int i = 0; i < 2; i++) {
        duet_future_cancel(f[i]);
        must_equal(host_finish(h, f[i]).err, 0);
    }
    close(fds[0]);
    close(fds[1]);
}

struct endless {
    duet_loop *loop;
    atomic_int count, ended;
    atomic_bool enough;
    struct thread thread;
};

/* Once more? */
static bool go_on(struct endless *e)
{
    atomic_fetch_add(&e->count, 1);
    if (!atomic_load(&e->enough))
        return true;
    atomic_store(&e->ended, 1);
    return false;
}

static void call_me_again(void *arg)
{
    struct endless *e = arg;
    if (go_on(e))
        must_equal(duet_call_soon(e->loop, call_me_again, e), 0);
}

static duet_result spawn_me_again(void *arg)
{
    struct endless *e = arg;
    if (go_on(e))
        duet_future_unref(duet_spawn(spawn_me_again, e));
    return duet_ok();
}

static void at_once_again(void *arg)
{
    struct endless *e = arg;
    if (go_on(e))
        duet_future_unref(duet_call_at(e->loop, DUET_NOW, at_once_again, e));
}

host_test(what_asks_for_itself_again_does_not_keep_a_turn)
{
    struct endless e[3] = {{.loop = h->loop}, {.loop = h->loop}, {.loop = h->loop}};
    call_me_again(&e[0]);
    (void)spawn_me_again(&e[1]);
    at_once_again(&e[2]);
    for (int i = 0; i < 500; i++)
        host_step(h);
    for (int i = 0; i < 3; i++) {
        must(atomic_load(&e[i].count) > 50);
        atomic_store(&e[i].enough, true);
        host_until_count(h, &e[i].ended, 1);
    }
}

static void flood(void *arg)
{
    struct endless *e = arg;
    while (!atomic_load(&e->enough))
        duet_future_unref(duet_submit(e->loop, count_up, &e->count));
    must_equal(finish(duet_submit(e->loop, count_up, &e->count)).err, 0); /* after all of them */
}

host_test(a_flood_of_submissions_does_not_keep_a_turn)
{
    struct endless e[2] = {{.loop = h->loop}, {.loop = h->loop}};
    for (int i = 0; i < 2; i++)
        thread_start(&e[i].thread, flood, &e[i]);
    for (int i = 0; i < 2; i++)
        host_until_count(h, &e[i].count, 1000);
    must_equal(host_finish(h, duet_spawn(yield_and_sleep, NULL)).err, 0);
    for (int i = 0; i < 2; i++) {
        atomic_store(&e[i].enough, true);
        host_until(h, e[i].thread.ended);
        thread_join(&e[i].thread);
    }
}

/* ---- The host's thread ---- */

/* What a signal handler of the host's would find. */
static void see_signal_stack(stack_t *stack)
{
    must_equal(sigaltstack(NULL, stack), 0);
}

static void must_be_same(const stack_t *a, const stack_t *b)
{
    must(a->ss_flags == b->ss_flags);
    must((a->ss_flags & SS_DISABLE) || (a->ss_sp == b->ss_sp && a->ss_size == b->ss_size));
}

static void leave_thread_alone(void)
{
    struct host h;
    char name[2][32];
    sigset_t mask[2];
    stack_t stack[2];
    must_equal(pthread_getname_np(pthread_self(), name[0], sizeof name[0]), 0);
    must_equal(pthread_sigmask(SIG_BLOCK, NULL, &mask[0]), 0);
    see_signal_stack(&stack[0]);
    host_open_with(&h, BY_POLL, &(duet_loop_config){.name = "a guest"});
    must_equal(host_finish(&h, duet_spawn(yield_and_sleep, NULL)).err, 0);
    must_equal(pthread_getname_np(pthread_self(), name[1], sizeof name[1]), 0);
    must(strcmp(name[0], name[1]) == 0);
    must_equal(pthread_sigmask(SIG_BLOCK, NULL, &mask[1]), 0);
    for (int signo = 1; signo < SIGRTMAX; signo++)
        must_equal(sigismember(&mask[0], signo), sigismember(&mask[1], signo));
    host_close(&h);
    see_signal_stack(&stack[1]);
    must_be_same(&stack[0], &stack[1]);
}

thread_test(a_guest_leaves_the_thread_of_its_host_as_it_was)
{
    static char memory[65536];
    stack_t before, own = {.ss_sp = memory, .ss_size = sizeof memory};
    leave_thread_alone();
    see_signal_stack(&before);
    must_equal(sigaltstack(&own, NULL), 0);
    leave_thread_alone();
    must_equal(sigaltstack(&before, NULL), 0);
}

/* ---- The end ---- */

static void stop_it(void *loop)
{
    duet_loop_stop(loop);
}

static duet_result stop_own(void *arg)
{
    (void)arg;
    duet_loop_stop(duet_loop_self());
    return duet_err(duet_sleep(SURELY));
}

static void stop_by_host(struct host *h)
{
    duet_loop_stop(h->loop);
}

static void stop_by_coroutine(struct host *h)
{
    (void)h;
    duet_future_unref(duet_spawn(stop_own, NULL));
}

static void stop_by_callback(struct host *h)
{
    must_equal(duet_call_soon(h->loop, stop_it, h->loop), 0);
}

static struct thread stopper;

static void stop_by_thread(struct host *h)
{
    thread_start(&stopper, stop_it, h->loop);
}

static duet_result clean_up(void *arg)
{
    must_equal(duet_sleep(SURELY), -ECANCELED);
    must_equal(duet_yield(), -ECANCELED);
    duet_shield_begin();
    must_equal(duet_sleep(duet_ms(10)), 0);
    duet_shield_end();
    atomic_fetch_add((atomic_int *)arg, 1);
    return duet_err(-ECANCELED);
}

thread_test(a_guest_ends_by_whomever_it_is_stopped)
{
    void (*const ways[])(struct host *) = {stop_by_host, stop_by_coroutine, stop_by_callback,
                                           stop_by_thread};
    for (int i = 0; i < 4 * WAYS; i++) {
        struct host h;
        atomic_int cleaned = 0;
        int fds = count_fds();
        host_open_with(&h, (enum way)(i / 4), NULL);
        duet_future *f[] = {duet_spawn(clean_up, &cleaned), duet_spawn(sleep_long, NULL)};
        if (i != 3)
            host_until_quiet(&h);
        ways[i % 4](&h);
        host_until_over(&h);
        must(duet_future_settled(f[0]) && duet_future_settled(f[1]));
        must_equal(finish(f[0]).err, -ECANCELED);
        must_equal(finish(f[1]).err, -ECANCELED);
        must(i == 3 || atomic_load(&cleaned) == 1);
        must(fcntl(h.fd, F_GETFD) >= 0); /* until it is closed: the host may still watch it */
        must_equal(finish(duet_submit(h.loop, return_ok, NULL)).err, -ESHUTDOWN);
        must_equal(duet_call_soon(h.loop, do_nothing, NULL), -ESHUTDOWN);
        if (i % 4 == 3)
            thread_join(&stopper);
        close_loop(h.loop);
        must_equal(count_fds(), fds);
    }
}

static duet_result see_own_loop(void *loop)
{
    must(loop == NULL || duet_loop_self() == loop);
    return duet_ok();
}

static duet_result stop_afterwards(void *loop)
{
    must(duet_loop_self() == loop);
    duet_loop_stop(loop);
    return duet_ok();
}

thread_test(after_a_guest_the_thread_is_free_for_other_loops)
{
    for (int i = 0; i < 3; i++) {
        struct host h;
        host_open(&h);
        host_stop(&h); /* closed later, while the others are at work */
        must_equal(duet_run(see_own_loop, NULL, NULL), 0);
        duet_loop *other = open_loop();
        duet_future *f = duet_submit(other, stop_afterwards, other);
        must_equal(duet_loop_run(other), 0);
        must_equal(finish(f).err, 0);
        close_loop(other);
        struct host next;
        host_open(&next);
        must_equal(host_finish(&next, duet_spawn(see_own_loop, next.loop)).err, 0);
        host_close(&next);
        must(duet_loop_self() == NULL);
        must_equal(duet_sleep(duet_ms(1)), 0); /* a plain thread again, which may wait */
        close_loop(h.loop);
    }
}

static duet_result use_many_things(void *arg)
{
    int fds[2];
    (void)arg;
    must_equal(pipe(fds), 0);
    must_equal(duet_poll(fds[0], POLLIN, duet_ms(1)), -ETIME);
    must_equal(duet_write(fds[1], "hello", 5, SURELY), 5);
    struct reading r = {.fd = fds[0]};
    (void)read_once(&r);
    must_equal(r.n, 5);
    must_equal(duet_close(fds[0]), 0);
    must_equal(duet_close(fds[1]), 0);
    return yield_and_sleep(NULL);
}

thread_test(guests_leak_no_descriptor_and_no_thread)
{
    int fds = count_fds(), threads = count_threads();
    for (int i = 0; i < 12; i++) {
        struct host h;
        host_open_with(&h, (enum way)(i % WAYS), NULL);
        must_equal(host_finish(&h, duet_spawn(use_many_things, NULL)).err, 0);
        host_close(&h);
        must_equal(count_fds(), fds);
    }
    await_threads(threads);
}

thread_test(another_thread_closes_a_guest_whose_host_turns)
{
    for (int way = 0; way < WAYS; way++) {
        struct hosting g;
        atomic_int cleaned = 0;
        hosting_start(&g, (enum way)way);
        duet_future *f = duet_submit(g.loop, clean_up, &cleaned);
        must_equal(duet_call(g.loop, return_ok, NULL, SURELY, NULL), 0);
        hosting_close(&g);
        must(duet_future_settled(f));
        must_equal(finish(f).err, -ECANCELED);
        must_equal(atomic_load(&cleaned), 1);
    }
}

struct late_close {
    duet_loop *loop;
    struct gate tried;
};

static void close_twice(void *arg)
{
    struct late_close *c = arg;
    log_capture();
    must_equal(duet_loop_close(c->loop, duet_ms(20)), -ETIME);
    log_release();
    gate_open(&c->tried);
    close_loop(c->loop);
}

/* A host that gives no turns keeps its loop from ending; the close says so, and may be tried again. */
thread_test(closing_a_guest_whose_host_does_not_turn_is_late)
{
    struct host h;
    struct thread thread;
    host_open(&h);
    struct late_close c = {.loop = h.loop, .tried = GATE_INIT};
    duet_future *f = duet_spawn(sleep_long, NULL);
    host_until_quiet(&h);
    thread_start(&thread, close_twice, &c);
    gate_pass(&c.tried);
    host_until_over(&h);
    thread_join(&thread);
    must_equal(finish(f).err, -ECANCELED);
}

static duet_result sleep_briefly(void *arg)
{
    (void)arg;
    return duet_err(duet_sleep(duet_ms(20)));
}

thread_test(a_shutdown_lets_the_work_of_a_guest_end)
{
    struct hosting g;
    duet_receipt *receipt = NULL;
    hosting_start(&g, BY_EPOLL);
    duet_future *f = duet_submit(g.loop, sleep_briefly, NULL);
    must_equal(duet_loop_shutdown(g.loop, SURELY, &receipt), 0);
    must(receipt == NULL || receipt->count == 0);
    duet_receipt_free(receipt);
    must_equal(finish(f).err, 0);
    thread_join(&g.thread);
}

static duet_result wait_shielded(void *promise)
{
    duet_shield_begin();
    must_equal(duet_future_wait(promise, DUET_NEVER, NULL), 0);
    duet_shield_end();
    return duet_ok();
}

thread_test(a_shutdown_cancels_a_guests_work_and_tells_what_is_left)
{
    struct hosting g;
    duet_receipt *receipt = NULL;
    duet_future *promise = open_promise();
    hosting_start(&g, BY_POLL);
    duet_future *sleeper = duet_submit(g.loop, sleep_long, NULL);
    duet_future *deaf =
        duet_submit_with(g.loop, wait_shielded, promise, &(duet_opts){.name = "deaf"});
    must_equal(duet_call(g.loop, return_ok, NULL, SURELY, NULL), 0);
    log_capture();
    must_equal(duet_loop_shutdown(g.loop, duet_ms(400), &receipt), -ETIME);
    must(log_has("deaf"));
    log_release();
    must(receipt != NULL);
    must_equal(receipt->count, 1);
    must(strcmp(receipt->left[0].name, "deaf") == 0);
    duet_receipt_free(receipt);
    must_equal(finish(sleeper).err, -ECANCELED);
    must(!duet_future_settled(deaf));
    settle(promise); /* the host turns on until that has ended */
    must_equal(finish(deaf).err, 0);
    thread_join(&g.thread);
    duet_future_unref(promise);
}

static void shut_down(void *arg)
{
    struct late_close *c = arg;
    duet_receipt *receipt = NULL;
    log_capture();
    must_equal(duet_loop_shutdown(c->loop, duet_ms(50), &receipt), -ETIME);
    must(receipt != NULL);
    must(receipt->count + receipt->unlisted > 0);
    duet_receipt_free(receipt);
    log_release();
    gate_open(&c->tried);
}

/* The shutdown has let go of the loop, which is there all the same until its host has ended it. */
thread_test(a_host_may_end_a_guest_after_a_shutdown_has_given_up)
{
    struct host h;
    struct thread thread;
    host_open(&h);
    struct late_close c = {.loop = h.loop, .tried = GATE_INIT};
    duet_future *f = duet_spawn(sleep_long, NULL);
    host_until_quiet(&h);
    thread_start(&thread, shut_down, &c);
    gate_pass(&c.tried);
    host_until_over(&h);
    thread_join(&thread);
    must_equal(finish(f).err, -ECANCELED);
}

thread_test(the_end_of_all_ends_a_guest)
{
    struct hosting g;
    hosting_start(&g, BY_POLL);
    duet_future *f = duet_submit(g.loop, sleep_briefly, NULL);
    must_equal(duet_shutdown(SURELY, NULL), 0);
    must_equal(finish(f).err, 0);
    thread_join(&g.thread);
    close_loop(g.loop);
}

static void stop_and_start(void *arg)
{
    struct endless *e = arg;
    for (int i = 0; !atomic_load(&e->enough); i++) {
        duet_future *f = duet_submit(e->loop, count_up, &e->count);
        duet_result r = finish(f);
        if (r.err) {
            must(r.err == -ESHUTDOWN || r.err == -ECANCELED);
            return;
        }
        if (i == 20)
            duet_loop_stop(e->loop);
    }
}

/* Accepted work ends once, though the stop comes from the midst of the producers. */
thread_test(a_stop_among_calls_answers_all_callers)
{
    for (int round = test_rounds(30); round > 0; round--) {
        struct host h;
        struct endless e[4];
        host_open_with(&h, (enum way)(round % WAYS), NULL);
        for (int i = 0; i < 4; i++) {
            e[i] = (struct endless){.loop = duet_loop_ref(h.loop)};
            thread_start(&e[i].thread, stop_and_start, &e[i]);
        }
        host_until_over(&h);
        close_loop(h.loop);
        for (int i = 0; i < 4; i++) {
            thread_join(&e[i].thread);
            duet_loop_unref(e[i].loop);
        }
    }
}

/* ---- Several loops ---- */

struct calling {
    duet_loop *there;
    int calls;
};

static duet_result call_there(void *arg)
{
    struct calling *c = arg;
    for (int i = 0; i < c->calls; i++) {
        duet_result r;
        must_equal(duet_call(c->there, double_it, &i, SURELY, &r), 0);
        must_equal(duet_as_i64(r), 2 * i);
    }
    return duet_ok();
}

static void call_each_other(duet_loop *a, duet_loop *b)
{
    struct calling to_a = {a, 10 * test_rounds(20)}, to_b = {b, 10 * test_rounds(20)};
    duet_future *f[8];
    for (int i = 0; i < 8; i++)
        f[i] = i % 2 ? duet_submit(a, call_there, &to_b) : duet_submit(b, call_there, &to_a);
    for (int i = 0; i < 8; i++)
        must_equal(finish(f[i]).err, 0);
}

thread_test(two_guests_on_two_threads_call_each_other)
{
    struct hosting a, b;
    hosting_start(&a, BY_POLL);
    hosting_start(&b, BY_NESTED_EPOLL);
    call_each_other(a.loop, b.loop);
    hosting_close(&a);
    hosting_close(&b);
}

thread_test(a_guest_and_a_started_loop_call_each_other)
{
    struct hosting guest;
    duet_loop *loop = start_loop();
    hosting_start(&guest, BY_EPOLL);
    call_each_other(guest.loop, loop);
    close_loop(loop);
    hosting_close(&guest);
}

/* ---- Deadlock ---- */

struct pair {
    duet_future *other;
    duet_deadline by;
    int rc;
};

static duet_result wait_for_other(void *arg)
{
    struct pair *p = arg;
    duet_shield_begin(); /* it is told before the other: be it by the answer alone */
    p->rc = duet_future_wait(p->other, p->by, NULL);
    duet_shield_end();
    return duet_ok();
}

struct circle {
    duet_future *go;
    struct pair pair[2];
};

static duet_result first_of_circle(void *arg)
{
    struct circle *c = arg;
    must_equal(duet_future_wait(c->go, SURELY, NULL), 0);
    return wait_for_other(&c->pair[0]);
}

/* Two coroutines that wait for each other; the earlier deadline is the first one's. */
static void close_a_circle(struct host *h, duet_loop *a, duet_loop *b)
{
    struct circle c = {open_promise(), {{.by = duet_sec(100)}, {.by = DUET_NEVER}}};
    log_capture();
    duet_future *f = duet_submit_with(a, first_of_circle, &c, &(duet_opts){.name = "Tristan"});
    c.pair[1].other = f;
    duet_future *g =
        duet_submit_with(b, wait_for_other, &c.pair[1], &(duet_opts){.name = "Isolde"});
    c.pair[0].other = g;
    host_until_quiet(h);
    settle(c.go);
    host_until(h, f);
    host_until(h, g);
    duet_future_unref(f);
    duet_future_unref(g);
    must_equal(c.pair[0].rc, -EDEADLK);
    must_equal(c.pair[1].rc, 0);
    must(log_has("Tristan") && log_has("Isolde"));
    log_release();
    duet_future_unref(c.go);
}

host_test(a_circle_of_waits_within_a_guest_is_told)
{
    close_a_circle(h, h->loop, h->loop);
}

thread_test(a_circle_through_a_guest_and_another_loop_is_told)
{
    struct host h;
    duet_loop *other = start_loop();
    host_open(&h);
    close_a_circle(&h, h.loop, other);
    close_a_circle(&h, other, h.loop);
    host_close(&h);
    close_loop(other);
}

static duet_result lock_it(void *mutex)
{
    int rc = duet_mutex_lock(mutex, DUET_NEVER);
    if (rc == 0)
        must_equal(duet_mutex_unlock(mutex), 0);
    return duet_err(rc);
}

static duet_result receive_it(void *chan)
{
    int item;
    return duet_err(duet_chan_recv(chan, &item, DUET_NEVER));
}

static duet_result await_event(void *event)
{
    return duet_err(duet_event_wait(event, DUET_NEVER));
}

static duet_result await_permit(void *sem)
{
    return duet_err(duet_sem_wait(sem, DUET_NEVER));
}

/* All coroutines wait, and no thread but the host could help: which it does, a good while later. */
host_test(who_waits_for_the_host_is_in_no_deadlock)
{
    int item = 1;
    struct given g = {.promise = open_promise()};
    must_equal(duet_chan_open(&g.to, sizeof item, 0), 0);
    duet_sem_init(&g.sem, 0);
    must_equal(duet_mutex_lock(&g.mutex, DUET_NOW), 0);
    log_capture();
    duet_future *f[] = {duet_spawn(wait_for_ever, g.promise), duet_spawn(lock_it, &g.mutex),
                        duet_spawn(receive_it, g.to), duet_spawn(await_event, &g.event),
                        duet_spawn(await_permit, &g.sem)};
    host_for(h, 300);
    must(!log_has("EDEADLK"));
    for (int i = 0; i < 5; i++)
        must(!duet_future_settled(f[i]));
    settle(g.promise);
    must_equal(duet_mutex_unlock(&g.mutex), 0);
    must_equal(duet_chan_send(g.to, &item, DUET_NOW), 0);
    duet_event_set(&g.event);
    must_equal(duet_sem_post(&g.sem), 0);
    for (int i = 0; i < 5; i++)
        must_equal(host_finish(h, f[i]).err, 0);
    log_release();
    duet_chan_unref(g.to);
    duet_future_unref(g.promise);
}

struct patient {
    struct thread thread;
    duet_future *promise;
    int rc;
};

static void wait_patiently(void *arg)
{
    struct patient *p = arg;
    p->rc = duet_future_wait(p->promise, DUET_NEVER, NULL);
}

/* Nor is another thread, whose wait only the host can end. */
thread_test(a_thread_that_waits_for_the_host_is_in_no_deadlock)
{
    struct host h;
    struct patient p = {.promise = open_promise(), .rc = 1};
    host_open(&h);
    thread_start(&p.thread, wait_patiently, &p);
    thread_await_blocked(&p.thread);
    host_for(&h, 300);
    must(!duet_future_settled(p.thread.ended));
    settle(p.promise);
    host_until(&h, p.thread.ended);
    thread_join(&p.thread);
    must_equal(p.rc, 0);
    duet_future_unref(p.promise);
    host_close(&h);
}

#ifndef TEST_TSAN /* it has a thread of its own, which might settle anything */
/* The reverse: what nobody can end any more is told, once the guest and its host are gone. */
thread_test(a_guest_that_has_ended_keeps_nobody_from_being_told)
{
    struct hosting g;
    duet_future *promise = open_promise();
    hosting_start(&g, BY_POLL);
    hosting_close(&g);
    log_capture();
    must_equal(duet_future_wait(promise, DUET_NEVER, NULL), -EDEADLK);
    log_release();
    duet_future_unref(promise);
}
#endif

/* ---- Hooks ---- */

struct told {
    atomic_int spawned, began, ended, parked, settled, wrong;
    pid_t thread;
    duet_loop *loop;
    int last_err;
    uint64_t by;
    int64_t by_ns;
};

static void must_be_of_guest(struct told *t, const duet_work_event *e)
{
    if (strcmp(e->place, "guest") != 0 || e->id == 0)
        atomic_fetch_add(&t->wrong, 1);
}

static void on_spawned(void *ctx, const duet_work_event *e)
{
    struct told *t = ctx;
    must_be_of_guest(t, e);
    atomic_fetch_add(&t->spawned, 1);
}

static void on_step_began(void *ctx, const duet_work_event *e)
{
    struct told *t = ctx;
    must_be_of_guest(t, e);
    must_equal(gettid(), t->thread);
    must_equal(duet_loop_turn(t->loop), -EDEADLK);
    must_equal(duet_sleep(SURELY), -EDEADLK); /* a hook is a bare callback */
    t->by = e->by;
    t->by_ns = e->by_ns;
    atomic_fetch_add(&t->began, 1);
}

static void on_step_ended(void *ctx, const duet_work_event *e)
{
    struct told *t = ctx;
    must_be_of_guest(t, e);
    must_equal(gettid(), t->thread);
    atomic_fetch_add(&t->ended, 1);
}

static void on_parked(void *ctx, const duet_work_event *e)
{
    struct told *t = ctx;
    must_be_of_guest(t, e);
    must_equal(gettid(), t->thread);
    atomic_fetch_add(&t->parked, 1);
}

static void on_settled(void *ctx, const duet_work_event *e)
{
    struct told *t = ctx;
    must_be_of_guest(t, e);
    t->last_err = e->result.err;
    atomic_fetch_add(&t->settled, 1);
}

thread_test(the_hooks_of_a_guest_are_called)
{
    struct host h;
    struct told t = {.thread = gettid()};
    duet_hooks hooks = {.ctx = &t,
                        .spawned = on_spawned,
                        .step_began = on_step_began,
                        .step_ended = on_step_ended,
                        .parked = on_parked,
                        .settled = on_settled};
    duet_loop *loop;
    must_equal(duet_loop_open(&loop, &(duet_loop_config){.name = "guest", .hooks = &hooks}), 0);
    t.loop = loop;
    memset(&hooks, 0, sizeof hooks); /* copied */
    host_attach(&h, loop, BY_POLL);
    duet_future *f = duet_spawn(return_ok, NULL);
    must_equal(t.spawned, 1); /* before the call has returned */
    must_equal(t.began, 0);
    must_equal(host_finish(&h, f).err, 0);
    must(t.by == 0 && t.by_ns != 0); /* by host code, which is no work */
    must(t.began == 1 && t.ended == 1 && t.settled == 1 && t.parked == 0);
    f = duet_spawn(sleep_long, NULL);
    host_until_quiet(&h);
    must(t.spawned == 2 && t.began == 2 && t.ended == 2 && t.parked == 1 && t.settled == 1);
    duet_future_cancel(f);
    must_equal(host_finish(&h, f).err, -ECANCELED);
    must(t.began == 3 && t.ended == 3 && t.settled == 2);
    must_equal(t.last_err, -ECANCELED);
    f = duet_spawn(return_ok, NULL);
    duet_future_cancel(f); /* never starts */
    must_equal(host_finish(&h, f).err, -ECANCELED);
    must(t.spawned == 3 && t.began == 3 && t.settled == 3);
    f = duet_call_at(h.loop, DUET_NOW, do_nothing, NULL);
    must_equal(host_finish(&h, f).err, 0);
    must(t.spawned == 4 && t.began == 4 && t.ended == 4 && t.settled == 4);
    host_close(&h);
    must_equal(t.spawned, t.settled);
    must_equal(t.wrong, 0);
}

/* ---- Contexts ---- */

static const duet_key key = {.name = "guest"};

static duet_result change_value(void *seen)
{
    static int changed;
    *(void **)seen = duet_context_get(&key);
    must_equal(duet_context_set(&key, &changed), 0);
    must_equal(duet_yield(), 0);
    must(duet_context_get(&key) == &changed);
    return duet_ok();
}

static atomic_int values_seen;

static void see_value(void *seen)
{
    *(void **)seen = duet_context_get(&key);
    atomic_fetch_add(&values_seen, 1);
}

/* context.h: what host code starts has the host's values; a turn leaves them as they were. */
thread_test(what_host_code_starts_has_its_context)
{
    static int value;
    struct host h;
    void *seen = NULL, *seen_by_callback = NULL;
    must_equal(duet_context_set(&key, &value), 0);
    host_open(&h);
    duet_future *f = duet_spawn(change_value, &seen);
    must_equal(duet_call_soon(h.loop, see_value, &seen_by_callback), 0);
    must_equal(host_finish(&h, f).err, 0);
    host_until_count(&h, &values_seen, 1);
    must(seen == &value);
    must(seen_by_callback == &value);
    must(duet_context_get(&key) == &value);
    host_close(&h);
    must(duet_context_get(&key) == &value);
    must_equal(duet_context_set(&key, NULL), 0);
}

/* A host is a thread, which has a context of its own: what it sets stays, whatever turns come. */
thread_test(a_value_that_host_code_sets_stays)
{
    static int values[2];
    struct host h;
    void *seen[2] = {NULL, NULL};
    host_open(&h);
    for (int i = 0; i < 2; i++) {
        must_equal(duet_context_set(&key, &values[i]), 0);
        must_equal(host_finish(&h, duet_spawn(change_value, &seen[i])).err, 0);
        host_until_quiet(&h);
        must(duet_context_get(&key) == &values[i]);
        must(seen[i] == &values[i]);
    }
    host_close(&h);
    must(duet_context_get(&key) == &values[1]);
    must_equal(duet_context_set(&key, NULL), 0);
}

/* ---- Forks ---- */

static void be_a_child(struct host *h)
{
    alarm(60);
    int fd;
    must_equal(duet_loop_turn(h->loop), -EOWNERDEAD);
    must_equal(duet_loop_attach(h->loop, &fd), -EOWNERDEAD);
    must(duet_loop_self() == NULL);
    must_equal(duet_run(yield_and_sleep, NULL, NULL), 0);
    struct host own;
    host_open(&own);
    must_equal(host_finish(&own, duet_spawn(yield_and_sleep, NULL)).err, 0);
    host_close(&own);
    _exit(0);
}

/* base.h: the child has neither the guest nor what it waits for; its parent's guest does not notice. */
static void fork_between_turns(int way)
{
    struct host h;
    int status, fds[2];
    must_equal(pipe(fds), 0);
    host_open_with(&h, (enum way)way, NULL);
    struct reading r = {.fd = fds[0]};
    duet_future *f = duet_spawn(read_once, &r), *g = duet_spawn(sleep_long, NULL);
    host_until_quiet(&h);
    pid_t child = fork();
    must(child >= 0);
    if (child == 0)
        be_a_child(&h);
    must(waitpid(child, &status, 0) == child);
    must_equal(status, 0);
    must_equal(write(fds[1], "hello", 5), 5);
    must_equal(host_finish(&h, f).err, 0);
    must_equal(r.n, 5);
    duet_future *at = duet_call_at(h.loop, duet_ms(5), do_nothing, NULL);
    must_equal(host_finish(&h, at).err, 0);
    duet_future_cancel(g);
    must_equal(host_finish(&h, g).err, -ECANCELED);
    host_close(&h);
}

enum {
    MANY = 400, /* far more completions than a ring of 32 entries has room for */
};

static duet_result read_a_number(void *fd)
{
    uint64_t number;
    return duet_i64(duet_read(*(int *)fd, &number, sizeof number, DUET_NEVER));
}

struct outside {
    duet_loop *loop;
    int fds[MANY];
    atomic_bool done;
};

/* And then comes through the loop's door, when there is no room for the news of that either. */
static void *write_to_all(void *arg)
{
    struct outside *outside = arg;
    for (int i = 0; i < MANY; i++)
        must_equal(eventfd_write(outside->fds[i], 1), 0);
    must_equal(duet_call_soon(outside->loop, do_nothing, NULL), 0);
    return NULL;
}

static duet_result sleep_a_little(void *arg)
{
    (void)arg;
    return duet_err(duet_sleep(duet_ms(30)));
}

static void *call_from_outside(void *arg)
{
    struct outside *outside = arg;
    must_equal(duet_call(outside->loop, return_ok, NULL, SURELY, NULL), 0);
    atomic_store(&outside->done, true);
    must_equal(duet_call_soon(outside->loop, do_nothing, NULL), 0); /* the host looks again */
    return NULL;
}

/* Then the kernel ends the watch of the loop's door, which has to be set up anew. */
thread_test(a_guest_whose_completions_overflowed_is_reached_all_the_same)
{
    struct host h;
    struct outside outside = {.done = false};
    duet_future *reads[MANY];
    pthread_t writer, caller;
    host_open_with(&h, BY_POLL, &(duet_loop_config){.ring_entries = 32});
    outside.loop = h.loop;
    for (int i = 0; i < MANY; i++) {
        outside.fds[i] = eventfd(0, EFD_CLOEXEC);
        must(outside.fds[i] >= 0);
        reads[i] = duet_spawn(read_a_number, &outside.fds[i]);
    }
    host_until_quiet(&h);
    must_equal(pthread_create(&writer, NULL, write_to_all, &outside), 0); /* while nobody turns */
    must_equal(pthread_join(writer, NULL), 0);
    host_until_quiet(&h);
    must_equal(pthread_create(&caller, NULL, call_from_outside, &outside), 0);
    while (!atomic_load(&outside.done))
        host_step(&h);
    must_equal(pthread_join(caller, NULL), 0);
    for (int i = 0; i < MANY; i++) {
        must(duet_future_settled(reads[i]));
        must_equal(duet_as_i64(finish(reads[i])), (int64_t)sizeof(uint64_t));
        close(outside.fds[i]);
    }
    host_close(&h);
}

/* The kernel takes the ring apart later, and a timer may still be set. */
thread_test(the_descriptor_is_silent_when_a_guest_has_ended)
{
    for (int i = 0; i < 4; i++) {
        struct host h;
        host_open(&h);
        if (i % 2)
            duet_future_unref(duet_spawn(sleep_a_little, NULL));
        host_until_quiet(&h);
        host_stop(&h);
        must(!poll_one(h.fd, 100));
        close_loop(h.loop);
    }
}

thread_test(a_moment_long_past_comes_at_once)
{
    struct host h;
    atomic_int called = 0;
    host_open(&h);
    duet_future *f =
        duet_call_at(h.loop, (duet_deadline){-5000000000}, count_call, (void *)&called);
    must_equal(host_finish(&h, f).err, 0);
    must_equal(atomic_load(&called), 1);
    host_close(&h);
}

struct nested_turn {
    duet_loop *loop;
    int rc;
};

static void turn_while_logging(void *arg, enum duet_level level, const char *line)
{
    struct nested_turn *nested = arg;
    (void)level;
    (void)line;
    nested->rc = duet_loop_turn(nested->loop);
}

/* Else the end of the callback would leave the thread as the callback found it. */
thread_test(a_turn_within_a_callback_between_the_turns_is_edeadlk)
{
    struct host h;
    host_open(&h);
    struct nested_turn nested = {h.loop, 0};
    duet_log_set(turn_while_logging, &nested, DUET_ERROR);
    must_equal(duet_future_wait(NULL, DUET_NOW, NULL), -EINVAL); /* which is logged */
    duet_log_set(NULL, NULL, DUET_WARNING);
    must_equal(nested.rc, -EDEADLK);
    host_close(&h);
}

thread_test(a_child_has_no_guest_and_the_parents_goes_on)
{
    in_child(fork_between_turns, BY_POLL);
    in_child(fork_between_turns, BY_EPOLL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_turn_aborts_where_the_loop_is_not_attached),
        cmocka_unit_test(attaching_without_descriptors_fails_and_leaks_nothing),
        cmocka_unit_test(a_guest_whose_completions_overflowed_is_reached_all_the_same),
        cmocka_unit_test(the_descriptor_is_silent_when_a_guest_has_ended),
        cmocka_unit_test(a_moment_long_past_comes_at_once),
        cmocka_unit_test(a_turn_within_a_callback_between_the_turns_is_edeadlk),
        cmocka_unit_test(a_child_has_no_guest_and_the_parents_goes_on),
        cmocka_unit_test(a_loop_is_attached_once),
        cmocka_unit_test(a_loop_that_runs_or_has_run_is_not_attached),
        cmocka_unit_test(on_the_thread_of_a_guest_no_other_loop_runs),
        cmocka_unit_test(work_cannot_attach_a_loop),
        cmocka_unit_test(attaching_null_is_einval),
        cmocka_unit_test(work_that_came_before_the_attach_runs_in_its_order),
        cmocka_unit_test(a_loop_stopped_before_it_is_attached_ends_at_once),
        cmocka_unit_test(a_guest_runs_coroutines_that_yield_and_sleep),
        cmocka_unit_test(a_turn_with_nothing_to_do_does_no_harm),
        cmocka_unit_test(a_host_may_turn_without_looking),
        cmocka_unit_test(an_idle_guest_wants_no_turns_and_no_processor),
        cmocka_unit_test(a_guest_that_waits_for_a_moment_wants_few_turns),
        cmocka_unit_test(a_turn_within_a_turn_is_edeadlk),
        cmocka_unit_test(a_turn_leaves_errno_alone),
        cmocka_unit_test(a_wait_between_the_turns_is_edeadlk),
        cmocka_unit_test(what_is_there_at_once_host_code_may_have),
        cmocka_unit_test(what_host_code_starts_makes_the_descriptor_readable),
        cmocka_unit_test(host_code_hands_things_to_a_coroutine),
        cmocka_unit_test(host_code_gets_a_lock_only_when_the_coroutine_has_let_go),
        cmocka_unit_test(host_code_makes_the_next_moment_earlier),
        cmocka_unit_test(host_code_cancels),
        cmocka_unit_test(host_code_starts_work_in_a_pool_and_on_other_loops),
        cmocka_unit_test(host_code_never_waits_for_room),
        cmocka_unit_test(a_coroutine_reads_what_its_host_writes),
        cmocka_unit_test(a_coroutine_reads_what_another_thread_writes),
        cmocka_unit_test(a_coroutine_writes_what_its_host_reads),
        cmocka_unit_test(a_coroutine_accepts_its_hosts_connection),
        cmocka_unit_test(two_coroutines_talk_by_a_socket),
        cmocka_unit_test(a_coroutine_of_a_guest_uses_files),
        cmocka_unit_test(a_coroutine_polls_a_descriptor),
        cmocka_unit_test(a_coroutine_waits_for_an_eventfd),
        cmocka_unit_test(closing_a_descriptor_ends_its_reader),
        cmocka_unit_test(a_coroutine_of_a_guest_waits_for_signals_and_children),
        cmocka_unit_test(a_guest_serves_clients_of_its_own_and_of_another_loop),
        cmocka_unit_test(many_threads_call_and_submit),
        cmocka_unit_test(another_thread_reaches_a_waiting_coroutine),
        cmocka_unit_test(another_thread_cancels_a_coroutine),
        cmocka_unit_test(a_call_by_a_deadline_ends_its_coroutine),
        cmocka_unit_test(coroutines_offload_jobs_that_call_coroutines),
        cmocka_unit_test(groups_work_in_a_guest),
        cmocka_unit_test(coroutines_that_yield_for_ever_do_not_keep_a_turn),
        cmocka_unit_test(what_asks_for_itself_again_does_not_keep_a_turn),
        cmocka_unit_test(a_flood_of_submissions_does_not_keep_a_turn),
        cmocka_unit_test(a_guest_leaves_the_thread_of_its_host_as_it_was),
        cmocka_unit_test(a_guest_ends_by_whomever_it_is_stopped),
        cmocka_unit_test(after_a_guest_the_thread_is_free_for_other_loops),
        cmocka_unit_test(guests_leak_no_descriptor_and_no_thread),
        cmocka_unit_test(another_thread_closes_a_guest_whose_host_turns),
        cmocka_unit_test(closing_a_guest_whose_host_does_not_turn_is_late),
        cmocka_unit_test(a_shutdown_lets_the_work_of_a_guest_end),
        cmocka_unit_test(a_shutdown_cancels_a_guests_work_and_tells_what_is_left),
        cmocka_unit_test(a_host_may_end_a_guest_after_a_shutdown_has_given_up),
        cmocka_unit_test(the_end_of_all_ends_a_guest),
        cmocka_unit_test(a_stop_among_calls_answers_all_callers),
        cmocka_unit_test(two_guests_on_two_threads_call_each_other),
        cmocka_unit_test(a_guest_and_a_started_loop_call_each_other),
        cmocka_unit_test(a_circle_of_waits_within_a_guest_is_told),
        cmocka_unit_test(a_circle_through_a_guest_and_another_loop_is_told),
        cmocka_unit_test(who_waits_for_the_host_is_in_no_deadlock),
        cmocka_unit_test(a_thread_that_waits_for_the_host_is_in_no_deadlock),
#ifndef TEST_TSAN
        cmocka_unit_test(a_guest_that_has_ended_keeps_nobody_from_being_told),
#endif
        cmocka_unit_test(the_hooks_of_a_guest_are_called),
        cmocka_unit_test(what_host_code_starts_has_its_context),
        cmocka_unit_test(a_value_that_host_code_sets_stays),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
