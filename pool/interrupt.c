#include "interrupt.h"
#include "check.h"
#include "fork.h"
#include "log.h"

#include <duet/pool.h>

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid
#endif

enum {
    AGAIN_EVERY_NS = 5000000, /* a call that the signal came just too early for waits so long */
    BELOW_MOST = 5, /* the default is SIGRTMAX - 5: debuggers and valgrind take the ends */
};

/* ---- The signal ---- */

static struct duet__lock signal_lock; /* guards these two */
static int chosen; /* 0: the default */
static bool installed;

static void reset(void)
{
    duet__store_relaxed(&signal_lock.word, 0);
}
DUET__IN_CHILD(reset)

/* Does nothing: that it was called ends the system call with EINTR. */
static void on_signal(int signo)
{
    (void)signo;
}

static int signo_now(void)
{
    return chosen ? chosen : SIGRTMAX - BELOW_MOST;
}

/* Does the program handle this signal itself? */
static bool is_taken(int signo)
{
    struct sigaction now;
    return sigaction(signo, NULL, &now) < 0 ||
           (now.sa_handler != SIG_DFL && now.sa_handler != SIG_IGN && now.sa_handler != on_signal);
}

int duet__interrupt_prepare(void)
{
    duet__lock(&signal_lock);
    int signo = signo_now();
    bool taken = is_taken(signo);
    if (!taken) {
        struct sigaction ours;
        memset(&ours, 0, sizeof ours);
        ours.sa_handler = on_signal; /* and no SA_RESTART */
        ours.sa_flags = SA_ONSTACK;
        if (!installed)
            sigaction(signo, &ours, NULL);
        installed = true;
    }
    duet__unlock(&signal_lock);
    if (!taken)
        return 0;
    duet__log(
        DUET_ERROR,
        "DUET_INTERRUPT needs signal %d, for which the program has a handler of its own: choose "
        "another one with duet_interrupt_signal_set()",
        signo);
    return -EBUSY;
}

int duet_interrupt_signal_set(int signo)
{
    if (signo < SIGRTMIN || signo > SIGRTMAX)
        return duet__bad_argument(__func__, "signo is not between SIGRTMIN and SIGRTMAX");
    duet__lock(&signal_lock);
    int rc = (installed && signo != signo_now()) || is_taken(signo) ? -EBUSY : 0;
    if (rc == 0 && !installed) /* constant from then on */
        chosen = signo;
    duet__unlock(&signal_lock);
    return rc;
}

/* Blocks or unblocks it in this thread. True: it was blocked before. */
static bool set_blocked(bool blocked)
{
    sigset_t set, before;
    sigemptyset(&set);
    sigaddset(&set, signo_now()); /* constant once installed */
    pthread_sigmask(blocked ? SIG_BLOCK : SIG_UNBLOCK, &set, &before);
    return sigismember(&before, signo_now());
}

/* What was sent and has not been received yet, in a thread that blocks it. */
static void receive_pending(void)
{
    const struct timespec at_once = {0, 0};
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, signo_now());
    while (sigtimedwait(&set, NULL, &at_once) > 0)
        ;
}

/* ---- Sending ---- */

/* Under the lock. */
static void stop(struct duet__interrupt *interrupt)
{
    if (interrupt->ticking)
        timer_delete(interrupt->timer);
    interrupt->ticking = false;
}

/* Under the lock: now, and again until stopped; the kernel's timer does it, so nobody has to run
 * for that, and it does not queue a second one while the first is not received. */
static void start(struct duet__interrupt *interrupt)
{
    const struct itimerspec again = {.it_value = {0, 1}, .it_interval = {0, AGAIN_EVERY_NS}};
    struct sigevent event;
    if (!interrupt->open || interrupt->heard || interrupt->ticking)
        return;
    memset(&event, 0, sizeof event);
    event.sigev_notify = SIGEV_THREAD_ID;
    event.sigev_notify_thread_id = interrupt->tid;
    event.sigev_signo = signo_now();
    interrupt->ticking = timer_create(CLOCK_MONOTONIC, &event, &interrupt->timer) == 0;
    if (interrupt->ticking)
        timer_settime(interrupt->timer, 0, &again, NULL);
    else /* RLIMIT_SIGPENDING: at least once */
        syscall(SYS_tgkill, getpid(), interrupt->tid, signo_now());
}

void duet__interrupt_send(struct duet__interrupt *interrupt)
{
    duet__lock(&interrupt->lock);
    start(interrupt);
    duet__unlock(&interrupt->lock);
}

/* ---- The job's side ---- */

void duet__interrupt_begin(struct duet__interrupt *interrupt)
{
    interrupt->was_blocked = set_blocked(false);
    duet__lock(&interrupt->lock);
    interrupt->tid = gettid();
    interrupt->open = true;
    duet__unlock(&interrupt->lock);
}

void duet__interrupt_end(struct duet__interrupt *interrupt)
{
    duet__lock(&interrupt->lock);
    interrupt->open = false;
    stop(interrupt);
    duet__unlock(&interrupt->lock);
    set_blocked(true);
    receive_pending();
    if (!interrupt->was_blocked)
        set_blocked(false);
}

void duet__interrupt_shield(struct duet__interrupt *interrupt, bool begins, bool cancelled)
{
    duet__lock(&interrupt->lock);
    interrupt->open = !begins;
    if (begins)
        stop(interrupt);
    else if (cancelled)
        start(interrupt);
    duet__unlock(&interrupt->lock);
    if (begins) {
        set_blocked(true);
        receive_pending();
    } else {
        set_blocked(false);
    }
}

void duet__interrupt_heard(struct duet__interrupt *interrupt)
{
    duet__lock(&interrupt->lock);
    interrupt->heard = true;
    stop(interrupt); /* what it sent before has been received when this system call returns */
    duet__unlock(&interrupt->lock);
}
