/* The first SIGINT posts a node to the loop, which cancels the main coroutine there: pushing to
 * the loop's queue and writing its eventfd are what a handler may do, whatever it interrupts. The
 * second ends the process as if nobody had caught it. */
#include "sigint.h"
#include "check.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <string.h>

/* The run that has taken SIGINT; NULL: none. Set and cleared by that run; taken out by the handler
 * that posts, in an exchange, so that one does. */
static _Atomic(struct duet__sigint *) owner;
static _Atomic uint32_t taken; /* 1 from begin to end: one run at a time */
static _Atomic uint32_t inside; /* handlers that may still touch the run */
static struct sigaction before; /* of the run that has it */

/* The child has the parent's handler, but not its run. */
static void reset(void)
{
    if (duet__load_relaxed(&owner) || duet__load_relaxed(&taken))
        sigaction(SIGINT, &before, NULL);
    duet__store_relaxed(&owner, NULL);
    duet__store_relaxed(&taken, 0);
    duet__store_relaxed(&inside, 0);
}
DUET__IN_CHILD(reset)

static void die_by(int signo)
{
    struct sigaction by_default;
    sigset_t set;
    memset(&by_default, 0, sizeof by_default);
    by_default.sa_handler = SIG_DFL;
    sigaction(signo, &by_default, NULL);
    sigemptyset(&set);
    sigaddset(&set, signo);
    raise(signo);
    pthread_sigmask(SIG_UNBLOCK, &set, NULL); /* it is pending while its handler runs */
}

static void on_sigint(int signo)
{
    int saved_errno = errno;
    /* Either the run's end sees us inside, or we see that it has taken itself out: both are
     * changes of `inside` and `owner` in turn, so each acquires what the other released. */
    duet__add_acquire(&inside, 1);
    struct duet__sigint *sigint = duet__exchange_acq_rel(&owner, NULL);
    if (sigint)
        duet__port_post(sigint->loop->port, &sigint->node); /* refused: it has ended just now */
    else
        die_by(signo);
    duet__sub_release(&inside, 1);
    errno = saved_errno;
}

static void cancel_main(struct duet__node *node, void *consumer)
{
    duet_loop *loop = consumer;
    (void)node;
    if (loop->main) /* else it was refused, and the loop is on its way out */
        duet_future_cancel(loop->main);
}

int duet__sigint_begin(struct duet__sigint *sigint, duet_loop *loop)
{
    static const char function[] = "duet_run_with";
    struct sigaction ours;
    uint32_t nobody = 0;
    if (!duet__cas_acquire(&taken, &nobody, 1)) /* acquires what the last run set again */
        return duet__refuse(function, -EBUSY, "another run has taken SIGINT already");
    sigaction(SIGINT, NULL, &before);
    sigint->ignored = before.sa_handler == SIG_IGN;
    if (!sigint->ignored && before.sa_handler != SIG_DFL) {
        duet__store_release(&taken, 0);
        return duet__refuse(function, -EBUSY, "the program has a handler of its own for SIGINT");
    }
    sigint->node.run = cancel_main;
    sigint->node.counted = false;
    sigint->loop = loop;
    if (sigint->ignored)
        return 0;
    duet__store_release(&owner, sigint); /* publishes the run to the handler's exchange */
    memset(&ours, 0, sizeof ours);
    ours.sa_handler = on_sigint;
    ours.sa_flags = SA_RESTART | SA_ONSTACK;
    sigaction(SIGINT, &ours, NULL);
    return 0;
}

void duet__sigint_end(struct duet__sigint *sigint)
{
    if (!sigint->ignored) {
        sigaction(SIGINT, &before, NULL);
        duet__exchange_acq_rel(&owner, NULL);
        while (duet__load_acquire(&inside) > 0) /* ended by a handler, which never waits */
            sched_yield();
    }
    duet__store_release(&taken, 0); /* publishes that `before` is free. Pairs with begin */
}
