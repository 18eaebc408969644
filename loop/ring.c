#include "ring.h"
#include "check.h"
#include "clock.h"
#include "co/co.h"
#include "cpu.h"
#include "log.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#ifdef DUET__HAVE_VALGRIND
#include <valgrind/valgrind.h>
#endif
#ifdef DUET__TSAN
#include <sanitizer/tsan_interface.h>
/* liburing maps and unmaps rings by system calls of its own, which ThreadSanitizer does not see: a
 * ring at the place of an earlier one, on another thread, looks like a race. It is told that one
 * follows the other. */
static char ring_memory;
#endif

/* What the library is built with may be older than what it runs on. */
#ifndef IORING_SETUP_SUBMIT_ALL
#define IORING_SETUP_SUBMIT_ALL (1U << 7)
#endif
#ifndef IORING_SETUP_COOP_TASKRUN
#define IORING_SETUP_COOP_TASKRUN (1U << 8)
#endif
#ifndef IORING_SETUP_TASKRUN_FLAG
#define IORING_SETUP_TASKRUN_FLAG (1U << 9)
#endif
#ifndef IORING_SETUP_SINGLE_ISSUER
#define IORING_SETUP_SINGLE_ISSUER (1U << 12)
#endif
#ifndef IORING_SETUP_DEFER_TASKRUN
#define IORING_SETUP_DEFER_TASKRUN (1U << 13)
#endif
#ifndef IORING_SQ_TASKRUN
#define IORING_SQ_TASKRUN (1U << 2)
#endif

enum {
    ENTRIES_LEAST = 32,
    OPEN_PAUSE_NS = 10000000,
    OPEN_TRIES = 50, /* half a second in all */
    WORKERS_PER_CPU = 4, /* for what ends by itself, on files */
    WORKERS_UNBOUNDED = 64, /* for what may wait for ever */
    CQ_PER_SQ = 8, /* 256 and 2048: 52 KiB of locked memory, within a limit of 64 */
    FEATURES_NEEDED = IORING_FEAT_NODROP | IORING_FEAT_FAST_POLL | IORING_FEAT_EXT_ARG |
                      IORING_FEAT_SUBMIT_STABLE,
    KNOWN_SINCE_5_19 = IORING_SETUP_COOP_TASKRUN | IORING_SETUP_DEFER_TASKRUN,
};

/* ---- Opening: fewer flags until the kernel agrees ---- */

/* The kernel refuses what it does not know, so trying is the probe; version numbers lie where
 * distributions backport. */
static const unsigned ladder[] = {
    IORING_SETUP_SUBMIT_ALL | IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN |
        IORING_SETUP_TASKRUN_FLAG, /* 6.1 */
    IORING_SETUP_SUBMIT_ALL | IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG, /* 5.19 */
    IORING_SETUP_SUBMIT_ALL, /* 5.18 */
    0, /* 5.11 */
};

static int try_open(struct io_uring *uring, unsigned entries, unsigned flags)
{
    struct io_uring_params params = {
        .flags = flags | IORING_SETUP_CLAMP | IORING_SETUP_CQSIZE,
        .cq_entries = entries * CQ_PER_SQ,
    };
    return io_uring_queue_init_params(entries, uring, &params);
}

/* Where the ladder begins for a ring whose thread sleeps elsewhere. With DEFER_TASKRUN the kernel
 * itself writes the ring's eventfd when what is polled becomes ready; and if that is an eventfd
 * too, as our port's is, it does not do that within the other's write, but later, or (Linux 6.18,
 * measured) never. Without it the thread itself does, between two of its system calls, at the
 * price that one of them may end with EINTR. */
enum {
    RUNG_IN_HOST = 1,
};

static int open_any(struct io_uring *uring, unsigned entries, size_t rung)
{
    int rc = -EINVAL;
    for (size_t i = rung; i < sizeof ladder / sizeof ladder[0] && rc == -EINVAL; i++)
        rc = try_open(uring, entries, ladder[i]);
    return rc;
}

/* A ring of a smaller size, where locked memory is short. */
static int open_any_size(struct io_uring *uring, unsigned entries, size_t rung)
{
    int rc = open_any(uring, entries, rung);
    while (rc == -ENOMEM && entries > ENTRIES_LEAST) {
        entries = entries / 2 > ENTRIES_LEAST ? entries / 2 : ENTRIES_LEAST;
        rc = open_any(uring, entries, rung);
    }
    return rc;
}

/* The kernel takes a closed ring apart later, in a worker of its own, and gives its locked memory
 * back only then: a program that opens and closes loops in a row may have to wait for that. */
static int open_patiently(struct io_uring *uring, unsigned entries, size_t rung)
{
    const struct timespec pause = {.tv_nsec = OPEN_PAUSE_NS};
    int rc = open_any_size(uring, entries, rung);
    for (int tries = 0; rc == -ENOMEM && tries < OPEN_TRIES; tries++) {
        nanosleep(&pause, NULL);
        rc = open_any_size(uring, entries, rung);
    }
    return rc;
}

static long sysctl_io_uring_disabled(void)
{
    long value = -1;
    FILE *file = fopen("/proc/sys/kernel/io_uring_disabled", "re");
    if (file) {
        if (fscanf(file, "%ld", &value) != 1)
            value = -1;
        fclose(file);
    }
    return value;
}

static void explain_permission(char *text, size_t size)
{
    long disabled = sysctl_io_uring_disabled();
    if (disabled > 0)
        snprintf(
            text, size,
            "io_uring is switched off by sysctl kernel.io_uring_disabled=%ld; set it to 0 (or, if "
            "it is 1, put the user into the group kernel.io_uring_group)",
            disabled);
    else
        snprintf(
            text, size,
            "io_uring is refused, most likely by a seccomp filter, as Docker's default profile is; "
            "allow io_uring_setup, io_uring_enter and io_uring_register there");
}

static void explain_memory(char *text, size_t size)
{
    struct rlimit limit;
    getrlimit(RLIMIT_MEMLOCK, &limit);
    snprintf(text, size,
             "no memory for a ring even of %d entries; most likely this user's locked memory is "
             "used up: "
             "RLIMIT_MEMLOCK is %llu KiB, raise it (ulimit -l, or LimitMEMLOCK= of the service)",
             ENTRIES_LEAST, (unsigned long long)limit.rlim_cur / 1024);
}

static void explain_descriptors(char *text, size_t size)
{
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    snprintf(
        text, size,
        "no file descriptor is left for the ring: RLIMIT_NOFILE is %llu, raise it (ulimit -n, or "
        "LimitNOFILE= of the service), or close some",
        (unsigned long long)limit.rlim_cur);
}

static void explain(int err, const char *step, const char *loop_name)
{
    char why[320];
    switch (-err) {
    case EPERM:
    case EACCES:
        explain_permission(why, sizeof why);
        break;
    case ENOSYS:
        snprintf(why, sizeof why,
                 "this kernel has no io_uring (Linux 5.11 or later is needed), or a seccomp filter "
                 "hides "
                 "it");
        break;
    case ENOMEM:
        explain_memory(why, sizeof why);
        break;
    case EMFILE:
        explain_descriptors(why, sizeof why);
        break;
    case ENFILE:
        snprintf(why, sizeof why,
                 "the system has no file descriptor left for the ring: raise sysctl fs.file-max");
        break;
    case EINVAL:
        snprintf(why, sizeof why,
                 "this kernel's io_uring is too old: Linux 5.11 or later is needed");
        break;
    default:
        snprintf(why, sizeof why, "%s", duet_strerror(err));
    }
    duet__log(DUET_ERROR, "loop '%s' cannot start: %s: %s (%s)", loop_name, step,
              strerrorname_np(-err) ? strerrorname_np(-err) : "?", why);
}

/* ---- Submitting and waiting ---- */

/* Publishes the prepared entries to the kernel; how many the next enter shall take. liburing's own
 * helpers leave out GETEVENTS where they need not wait: deferred completions stay behind. */
static unsigned publish_prepared(struct io_uring *uring)
{
    struct io_uring_sq *sq = &uring->sq;
    for (; sq->sqe_head != sq->sqe_tail; sq->sqe_head++)
        sq->array[sq->sqe_head & sq->ring_mask] = sq->sqe_head & sq->ring_mask;
    /* Pairs with the kernel's acquire of the tail. */
    io_uring_smp_store_release(sq->ktail, sq->sqe_tail);
    return sq->sqe_tail - io_uring_smp_load_acquire(sq->khead);
}

static int enter(struct io_uring *uring, unsigned wait_count, int64_t timeout_ns)
{
    struct __kernel_timespec timeout = {timeout_ns / 1000000000, timeout_ns % 1000000000};
    struct io_uring_getevents_arg arg = {.ts = (uint64_t)(uintptr_t)&timeout};
    unsigned submit = publish_prepared(uring);
    int rc;
    if (wait_count && timeout_ns != DUET__NEVER)
        rc = io_uring_enter2((unsigned)uring->ring_fd, submit, wait_count,
                             IORING_ENTER_GETEVENTS | IORING_ENTER_EXT_ARG, (sigset_t *)&arg,
                             sizeof arg);
    else
        rc = io_uring_enter2((unsigned)uring->ring_fd, submit, wait_count, IORING_ENTER_GETEVENTS,
                             NULL, _NSIG / 8);
    switch (rc) {
    case -ETIME:
    case -EINTR: /* no reason to do anything: the loop looks at the clock and the completions */
    case -EAGAIN:
    case -EBUSY: /* entries stay prepared; completing makes room */
        return 0;
    default:
        return rc < 0 ? rc : 0;
    }
}

/* All completions are collected before the loop runs anybody, since done() only makes ready. */
static void reap(struct duet__ring *ring)
{
    struct io_uring *uring = &ring->uring;
    unsigned head, count = 0;
    struct io_uring_cqe *cqe;
    io_uring_for_each_cqe(uring, head, cqe)
    {
        struct duet__op *op = (struct duet__op *)(uintptr_t)cqe->user_data;
        count++;
        ring->in_flight -= !(cqe->flags & IORING_CQE_F_MORE);
        op->done(op, cqe->res, cqe->flags & IORING_CQE_F_MORE);
    }
    io_uring_cq_advance(uring, count);
    ring->flag_in_vain = count == 0;
}

static bool flagged(const struct duet__ring *ring, unsigned flags)
{
    return IO_URING_READ_ONCE(*ring->uring.sq.kflags) & flags;
}

/* The kernel ends the watch where the completion queue was full; it leaves entries where it refused
 * one (before 5.18) or had no memory for it; it keeps completions that did not fit. */
bool duet__ring_owes(struct duet__ring *ring)
{
    const struct io_uring_sq *sq = &ring->uring.sq;
    return (!ring->watch_armed && ring->watch_fd >= 0) ||
           sq->sqe_tail != io_uring_smp_load_acquire(sq->khead) ||
           flagged(ring, IORING_SQ_CQ_OVERFLOW);
}

bool duet__ring_has_work(struct duet__ring *ring)
{
    return io_uring_cq_ready(&ring->uring) > 0 || duet__ring_owes(ring) ||
           flagged(ring, IORING_SQ_TASKRUN);
}

bool duet__ring_has_news(struct duet__ring *ring)
{
    return io_uring_cq_ready(&ring->uring) > 0 ||
           (!ring->flag_in_vain && flagged(ring, IORING_SQ_TASKRUN));
}

struct io_uring_sqe *duet__ring_entry(struct duet__ring *ring)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&ring->uring);
    if (!sqe && enter(&ring->uring, 0, 0) == 0) /* full: what is submitted makes room */
        sqe = io_uring_get_sqe(&ring->uring);
    ring->in_flight += sqe != NULL; /* who gets one hands it in */
    return sqe;
}

bool duet__ring_is_idle(const struct duet__ring *ring)
{
    return ring->watch_armed && ring->in_flight == 1;
}

/* ---- The watch: one multishot poll, never read from ---- */

static void arm_watch(struct duet__ring *ring)
{
    struct io_uring_sqe *sqe = duet__ring_entry(ring);
    if (!sqe)
        return; /* armed again at the next turn */
    io_uring_prep_poll_multishot(sqe, ring->watch_fd, POLLIN);
    sqe->user_data = (uint64_t)(uintptr_t)&ring->watch;
    ring->watch_armed = true;
}

/* A poll that the kernel ended, be it for a full completion queue, is armed anew; since nobody
 * reads the descriptor, it then completes at once, so nothing is missed between. */
static void watch_done(struct duet__op *op, int32_t result, bool more)
{
    struct duet__ring *ring =
        (struct duet__ring *)(void *)((char *)op - offsetof(struct duet__ring, watch));
    duet__check(result >= 0 || result == -ECANCELED,
                "the program must not close the descriptors of a loop");
    ring->watch_armed = more;
}

void duet__ring_watch(struct duet__ring *ring, int fd)
{
    ring->watch.done = watch_done;
    ring->watch_fd = fd;
    arm_watch(ring);
}

/* ---- The face ---- */

int duet__ring_poll(struct duet__ring *ring)
{
    if (!ring->watch_armed && ring->watch_fd >= 0)
        arm_watch(ring);
    int rc = enter(&ring->uring, 0, 0);
    reap(ring);
    return rc;
}

/* valgrind 3.19 holds its one big lock while a thread blocks in io_uring_enter, and no other thread
 * could end that wait; it knows how to block in poll. */
static int wait_by_poll(struct duet__ring *ring, int64_t timeout_ns)
{
    struct pollfd readable = {ring->uring.ring_fd, POLLIN, 0};
    int64_t ms = timeout_ns / 1000000 + 1;
    int rc = enter(&ring->uring, 0, 0);
    if (rc == 0 && io_uring_cq_ready(&ring->uring) == 0)
        poll(&readable, 1, ms > 100 ? 100 : (int)ms);
    return rc < 0 ? rc : enter(&ring->uring, 0, 0);
}

int duet__ring_wait(struct duet__ring *ring, int64_t timeout_ns)
{
    if (!ring->watch_armed && ring->watch_fd >= 0)
        arm_watch(ring);
    int rc;
    if (!ring->watch_armed && ring->watch_fd >= 0) /* then nobody could end a wait */
        rc = enter(&ring->uring, 0, 0);
    else if (ring->under_valgrind)
        rc = wait_by_poll(ring, timeout_ns);
    else
        rc = enter(&ring->uring, 1, timeout_ns);
    reap(ring);
    return rc;
}

/* ---- Opening and closing ---- */

static void note_done(struct duet__op *op, int32_t result, bool more)
{
    (void)result;
    (void)more;
    op->done = NULL;
}

/* A filter may allow the set-up and refuse the rest: one round trip shows it. */
static int round_trip(struct duet__ring *ring)
{
    struct duet__op op = {note_done};
    struct io_uring_sqe *sqe = duet__ring_entry(ring);
    io_uring_prep_nop(sqe);
    sqe->user_data = (uint64_t)(uintptr_t)&op;
    for (int tries = 0; op.done && tries < 100; tries++) {
        int rc = enter(&ring->uring, 1, 100000000);
        if (rc < 0)
            return rc;
        reap(ring);
    }
    return op.done ? -EIO : 0;
}

/* What blocks in the kernel, on files or splices, does so on threads of the kernel's, by default as
 * many as the user may have processes. An older kernel does not know better. */
static void limit_workers(struct io_uring *uring)
{
    unsigned most[2] = {WORKERS_PER_CPU * (unsigned)duet__cpu_count(), WORKERS_UNBOUNDED};
    io_uring_register_iowq_max_workers(uring, most);
}

int duet__ring_open(struct duet__ring *ring, unsigned entries, int event_fd, const char *loop_name)
{
    memset(ring, 0, sizeof *ring);
    ring->watch_fd = -1;
#ifdef DUET__HAVE_VALGRIND
    ring->under_valgrind = RUNNING_ON_VALGRIND > 0;
#endif
    int rc = open_patiently(&ring->uring, entries > ENTRIES_LEAST ? entries : ENTRIES_LEAST,
                            event_fd >= 0 ? RUNG_IN_HOST : 0);
#ifdef DUET__TSAN
    __tsan_acquire(&ring_memory);
#endif
    if (rc < 0) {
        explain(rc, "io_uring_setup", loop_name);
        return rc;
    }
    rc = (ring->uring.features & FEATURES_NEEDED) == FEATURES_NEEDED ? 0 : -EINVAL;
    if (rc == 0)
        rc = round_trip(ring);
    if (rc == 0 && event_fd >= 0)
        rc = io_uring_register_eventfd(&ring->uring, event_fd);
    if (rc < 0) {
        explain(rc, "io_uring_enter", loop_name);
        io_uring_queue_exit(&ring->uring);
        return rc;
    }
    ring->can_poll_first = ring->uring.flags & KNOWN_SINCE_5_19;
    limit_workers(&ring->uring);
    return 0;
}

void duet__ring_close(struct duet__ring *ring)
{
#ifdef DUET__TSAN
    __tsan_release(&ring_memory);
#endif
    io_uring_queue_exit(&ring->uring);
}
