/* A loop inside a foreign event loop, its host: a descriptor to wait for, and one turn at a time.
 *
 * THE DESCRIPTOR is an epoll descriptor over an eventfd and a timer. The ring writes the eventfd
 * whenever something has completed (it is opened without DEFER_TASKRUN for that, see ring.c);
 * others' posts reach it through the ring's watch of the port; what becomes ready between two
 * turns, on our own thread, and what a turn has left over, we write ourselves. The timer is for
 * the nearest deadline. Both are watched edge-triggered and never read: a turn takes the events
 * from the epoll descriptor, which so falls silent, and only then looks whether there is something
 * to do. So what comes after the look makes it readable again, and what came before is seen by the
 * look. */
#include "check.h"
#include "context.h"
#include "log.h"
#include "loop_impl.h"

#include <errno.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <unistd.h>

/* ---- Descriptors ---- */

void duet__guest_init(struct duet__guest *guest)
{
    guest->epoll_fd = guest->event_fd = guest->timer_fd = -1;
    guest->armed_ns = DUET__NEVER;
}

void duet__guest_close(struct duet__guest *guest)
{
    const int fds[] = {guest->epoll_fd, guest->event_fd, guest->timer_fd};
    for (size_t i = 0; i < sizeof fds / sizeof fds[0]; i++)
        if (fds[i] >= 0)
            close(fds[i]);
    duet__guest_init(guest);
}

static int watch(const struct duet__guest *guest, int fd)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLET};
    return epoll_ctl(guest->epoll_fd, EPOLL_CTL_ADD, fd, &event);
}

static int open_descriptors(struct duet__guest *guest, const char *loop_name)
{
    guest->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    guest->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    guest->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    if (guest->epoll_fd >= 0 && guest->event_fd >= 0 && guest->timer_fd >= 0 &&
        watch(guest, guest->event_fd) == 0 && watch(guest, guest->timer_fd) == 0)
        return 0;
    int rc = -errno;
    duet__guest_close(guest);
    duet__log(DUET_ERROR, "loop '%s' cannot be attached: its descriptors: %s%s", loop_name,
              duet_strerror(rc), rc == -EMFILE ? " (raise RLIMIT_NOFILE, ulimit -n)" : "");
    return rc;
}

static void signal_host(struct duet__guest *guest)
{
    uint64_t one = 1;
    int saved_errno = errno;
    long n = syscall(SYS_write, guest->event_fd, &one, sizeof one); /* write() can be cancelled */
    duet__check(n == (long)sizeof one, "the program must not close the descriptors of a loop");
    errno = saved_errno;
}

void duet__guest_rouse(duet_loop *loop)
{
    loop->guest.state = DUET__GUEST_ROUSED; /* once is enough */
    signal_host(&loop->guest);
}

/* The descriptor is silent from here on, until something comes. */
static void take_events(struct duet__guest *guest)
{
    struct epoll_event events[2];
    syscall(SYS_epoll_pwait, guest->epoll_fd, events, 2, 0, NULL, 0); /* epoll_wait() likewise */
}

/* After the events have been taken. One that is set to an earlier moment stays: a turn too many is
 * cheaper than a call each turn. */
static void arm_timer(struct duet__guest *guest, int64_t by_ns)
{
    if (guest->armed_ns <= duet__clock_ns())
        guest->armed_ns = DUET__NEVER; /* it has gone off, and its event was perhaps taken */
    if (by_ns >= guest->armed_ns)
        return;
    if (by_ns <= 0)
        by_ns = 1;
    struct itimerspec at = {.it_value = {by_ns / 1000000000, by_ns % 1000000000}};
    timerfd_settime(guest->timer_fd, TFD_TIMER_ABSTIME, &at, NULL);
    guest->armed_ns = by_ns;
}

/* ---- Attaching ---- */

/* Between the turns, what runs on this thread is like a bare callback, in the thread's context. */
static void host_becomes_bare(void)
{
    duet_context *context = duet_context_ref_here();
    duet__here_set(duet__here_host());
    duet_context_unref(duet_context_swap(context));
}

static void host_becomes_free(void)
{
    duet_context *context = duet_context_swap(NULL);
    duet__here_set(NULL);
    duet_context_unref(duet_context_swap(context));
}

static int begin(duet_loop *loop)
{
    struct duet__guest *guest = &loop->guest;
    int rc = open_descriptors(guest, loop->config.name);
    if (rc < 0)
        return rc;
    rc = duet__loop_begin(loop, guest->event_fd);
    if (rc < 0)
        duet__guest_close(guest);
    return rc;
}

int duet_loop_attach(duet_loop *loop, int *ret_fd)
{
    const struct duet__parker *here = duet__here();
    if (!ret_fd)
        return duet__bad_argument(__func__, "ret_fd is NULL");
    if (here->work || !here->ops->may_wait)
        return -EDEADLK;
    int rc = duet__loop_take(loop, __func__);
    if (rc < 0)
        return rc;
    rc = begin(loop);
    if (rc < 0) {
        duet__loop_cannot_begin(loop, rc);
        duet__loop_end(loop, rc);
        return rc;
    }
    loop->guest.state = DUET__GUEST_AWAKE;
    host_becomes_bare();
    duet__loop_started(loop, DUET__TURNS_IN_HOST);
    signal_host(&loop->guest); /* for the first turn, which submits the watch */
    *ret_fd = loop->guest.epoll_fd;
    return 0;
}

/* ---- A turn ---- */

/* The descriptor stays, since the host may still watch it; but the kernel takes the ring apart
 * later, which writes the eventfd, and the timer may still go off. */
static void silence(const struct duet__guest *guest)
{
    epoll_ctl(guest->epoll_fd, EPOLL_CTL_DEL, guest->event_fd, NULL);
    epoll_ctl(guest->epoll_fd, EPOLL_CTL_DEL, guest->timer_fd, NULL);
}

static int detach(duet_loop *loop)
{
    duet__loop_finish(loop);
    silence(&loop->guest);
    loop->guest.state = DUET__GUEST_NOT;
    host_becomes_free();
    duet__loop_end(loop, 0);
    return -ESHUTDOWN;
}

static void wake(duet_loop *loop)
{
    if (loop->guest.state != DUET__GUEST_AWAKE)
        duet__port_awake(loop->port);
    loop->guest.state = DUET__GUEST_TURNS;
}

/* False: there is something to do after all. */
static bool rest(duet_loop *loop)
{
    int64_t by_ns = duet__loop_begin_rest(loop);
    take_events(&loop->guest);
    if (duet__loop_has_more(loop) || !duet__port_sleep(loop->port, false))
        return false;
    loop->guest.state = DUET__GUEST_ASLEEP;
    arm_timer(&loop->guest, by_ns);
    return true;
}

static int turn(duet_loop *loop)
{
    duet__here_set(duet__here_bare());
    wake(loop);
    duet__loop_turn_once(loop);
    duet__here_set(duet__here_host());
    bool more = duet__loop_has_more(loop) || duet__ring_owes(&loop->ring);
    if (!more && duet__loop_try_end(loop))
        return detach(loop);
    if (!more && rest(loop))
        return 0;
    loop->guest.state = DUET__GUEST_AWAKE;
    signal_host(&loop->guest);
    return 1;
}

int duet_loop_turn(duet_loop *loop)
{
    if (loop && duet__is_foreign(loop->process))
        return -EOWNERDEAD;
    duet__check(loop && duet_loop_self() == loop && loop->guest.state != DUET__GUEST_NOT,
                "duet_loop_turn() runs on the thread that this loop is attached to");
    if (duet__here() != duet__here_host()) /* within a turn, or a callback between two */
        return -EDEADLK;
    int saved_errno = errno;
    int rc = turn(loop);
    errno = saved_errno;
    return rc;
}
