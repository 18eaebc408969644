/* Signals: a handler notes them in a word and signals an eventfd, which can be waited for like any
 * descriptor. */
#include "alloc.h"
#include "atomic.h"
#include "check.h"
#include "fork.h"
#include "io.h"
#include "lock.h"

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* Owned by whoever opened it. */
struct duet_signals {
    _Atomic uint64_t pending; /* a bit for each signal that has come */
    int event_fd;
    uint64_t caught;
    struct sigaction before[_NSIG];
};

static struct duet__lock lock; /* guards opening and closing */
/* Who catches it; NULL: nobody. Read by the handler: acquires what is in it. */
static _Atomic(struct duet_signals *) catchers[_NSIG];
/* How many handlers are inside: a catcher is freed when there is none. */
static _Atomic uint32_t inside;

/* The parent's other threads, in a handler perhaps, are not the child's. */
static void reset(void)
{
    duet__store_relaxed(&lock.word, 0);
    duet__store_relaxed(&inside, 0);
}
DUET__IN_CHILD(reset)

static uint64_t bit(int signo)
{
    return UINT64_C(1) << (signo - 1);
}

static void on_signal(int signo)
{
    const uint64_t one = 1;
    int saved_errno = errno;
    /* Before the look at the catcher, in one order with the close's look at this. */
    duet__add_acq_rel(&inside, 1);
    struct duet_signals *s = duet__load_acquire(&catchers[signo]);
    if (s) {
        duet__or_acq_rel(&s->pending, bit(signo)); /* publishes to take_lowest() */
        if (write(s->event_fd, &one, sizeof one) < 0)
            errno = saved_errno; /* it is full: then it is readable, too */
    }
    duet__sub_acq_rel(&inside, 1);
    errno = saved_errno;
}

/* Under the lock. */
static void release(struct duet_signals *s)
{
    for (int signo = 1; signo < _NSIG; signo++)
        if (s->caught & bit(signo)) {
            sigaction(signo, &s->before[signo], NULL);
            duet__exchange_acq_rel(&catchers[signo], NULL);
        }
    /* A handler that looked before is inside until it has finished. */
    while (duet__add_acq_rel(&inside, 0) > 0)
        sched_yield();
}

/* Under the lock. */
static int catch_one(struct duet_signals *s, int signo)
{
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    if (duet__load_relaxed(&catchers[signo]))
        return -EBUSY;
    sigemptyset(&action.sa_mask);
    duet__store_release(&catchers[signo], s); /* pairs with the handler's acquire */
    if (sigaction(signo, &action, &s->before[signo]) < 0) {
        int error = errno;
        duet__store_relaxed(&catchers[signo], NULL);
        return -error;
    }
    s->caught |= bit(signo);
    return 0;
}

static int catch_all(struct duet_signals *s, const int *signos, size_t n)
{
    int rc = 0;
    duet__lock(&lock);
    for (size_t i = 0; i < n && rc == 0; i++)
        if (!(s->caught & bit(signos[i])))
            rc = catch_one(s, signos[i]);
    if (rc < 0)
        release(s);
    duet__unlock(&lock);
    return rc;
}

static void destroy(struct duet_signals *s)
{
    if (s->event_fd >= 0)
        close(s->event_fd);
    duet__free(s);
}

int duet_signals_open(duet_signals **ret, const int *signos, size_t n)
{
    if (!ret || !signos || n == 0)
        return duet__bad_argument(__func__, "ret or signos is NULL, or n is 0");
    for (size_t i = 0; i < n; i++)
        if (signos[i] <= 0 || signos[i] >= _NSIG)
            return duet__bad_argument(__func__, "one of signos is no signal");
    duet_signals *s = duet__alloc_zeroed(1, sizeof *s);
    if (!s)
        return -ENOMEM;
    s->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    int rc = s->event_fd < 0 ? -errno : catch_all(s, signos, n);
    if (rc < 0)
        destroy(s);
    else
        *ret = s;
    return rc;
}

/* 0: none has come. */
static int take_lowest(struct duet_signals *s)
{
    uint64_t pending = duet__or_acq_rel(&s->pending, 0);
    if (!pending)
        return 0;
    int lowest = __builtin_ctzll(pending) + 1;
    duet__and_acquire(&s->pending, ~bit(lowest));
    return lowest;
}

int duet_signals_wait(duet_signals *s, duet_deadline by)
{
    uint64_t count;
    int signo, rc = 0, errno_before = errno;
    if (!s)
        return duet__bad_argument(__func__, "s is NULL");
    if (duet__wait_is_cancelled(duet__here()))
        return duet__told(-ECANCELED);
    while (rc >= 0 && (signo = take_lowest(s)) == 0) {
        rc = duet_poll(s->event_fd, POLLIN, by);
        if (rc >= 0 && read(s->event_fd, &count, sizeof count) < 0 && errno != EAGAIN)
            rc = -errno;
    }
    errno = errno_before;
    duet__wait_unparked(duet__here());
    return rc < 0 ? rc : signo;
}

void duet_signals_close(duet_signals *s)
{
    if (!s)
        return;
    duet__lock(&lock);
    release(s);
    duet__unlock(&lock);
    destroy(s);
}
