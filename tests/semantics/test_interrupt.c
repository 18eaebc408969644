/* How far a cancellation reaches: into every wait of a running job, into the system call in which
 * it blocks, and what duet_future_end() says when it reaches nothing. */
#include "duet_test.h"
#include "shared.h"

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* ---- What the tests of this file share ---- */

/* Time for what must not come. Too short a time misses an error; it never makes one. */
static void give_it_time(void)
{
    struct timespec left = {.tv_nsec = 20000000};
    while (nanosleep(&left, &left) < 0)
        must_equal(errno, EINTR);
}

static duet_pool_stats stats_of(const duet_pool *pool)
{
    duet_pool_stats stats;
    duet_pool_stats_get(pool, &stats);
    return stats;
}

static void await_waiting(const duet_pool *pool, unsigned n)
{
    for (duet_deadline by = SURELY; stats_of(pool).blocked_in_wait != n; sched_yield())
        must(duet_now_ns() < by.ns);
}

static void await_abandoned(const duet_pool *pool, unsigned n)
{
    for (duet_deadline by = SURELY; stats_of(pool).abandoned != n; sched_yield())
        must(duet_now_ns() < by.ns);
}

static void await_flag(const atomic_int *flag)
{
    for (duet_deadline by = SURELY; atomic_load(flag) == 0; sched_yield())
        must(duet_now_ns() < by.ns);
}

/* Until that thread sleeps in the kernel. *tid may come later. */
static void await_asleep(const atomic_int *tid)
{
    await_flag(tid);
    duet_deadline by = SURELY;
    for (int seen = 0; seen < 5; sched_yield()) {
        char path[64], text[512], *state;
        must(duet_now_ns() < by.ns);
        snprintf(path, sizeof path, "/proc/self/task/%d/stat", atomic_load(tid));
        FILE *file = fopen(path, "r");
        must(file != NULL);
        text[fread(text, 1, sizeof text - 1, file)] = '\0';
        fclose(file);
        state = strrchr(text, ')');
        must(state != NULL);
        seen = state[2] == 'S' ? seen + 1 : 0;
    }
}

/* The threads of this process while it has none of duet's: what a sanitizer has started by then is
 * among them. */
static int idle_threads;

static void *tell_tid(void *tid)
{
    *(int *)tid = gettid();
    return NULL;
}

static void count_idle_threads(void)
{
    int tid;
    char path[64];
    pthread_t thread;
    must_equal(pthread_create(&thread, NULL, tell_tid, &tid), 0);
    must_equal(pthread_join(thread, NULL), 0);
    snprintf(path, sizeof path, "/proc/self/task/%d", tid);
    while (access(path, F_OK) == 0)
        sched_yield();
    idle_threads = count_threads();
}

/* Runs fn(arg) as a bare callback of the loop, and waits until it has. */
static void run_bare(duet_loop *loop, duet_callback *fn, void *arg)
{
    must_equal(finish(duet_call_at(loop, DUET_NOW, fn, arg)).err, 0);
}

static void spin(uint64_t n)
{
    for (volatile uint64_t i = n; i > 0; i--)
        ;
}

static void close_both(const int fds[2])
{
    must_equal(close(fds[0]), 0);
    must_equal(close(fds[1]), 0);
}

/* 0 or the errno. */
static int read_one(int fd)
{
    char byte;
    ssize_t n = read(fd, &byte, 1);
    if (n < 0)
        return errno;
    must_equal(n, 1);
    return 0;
}

static void write_bytes(int fd, size_t n)
{
    while (n-- > 0)
        must_equal(write(fd, "x", 1), 1);
}

/* A rest of the kernel's, not of duet's: 0 or the errno. */
static int rest(void)
{
    const struct timespec while_ = {.tv_nsec = 20000000};
    return nanosleep(&while_, NULL) < 0 ? errno : 0;
}

static const duet_opts interruptible = {.name = "interruptible", .flags = DUET_INTERRUPT};

static int interrupt_signal(void)
{
    return SIGRTMAX - 5; /* the default */
}

/* Runs a part of this program anew, in a process that has had no job yet. It must end well. */
static void run_role(const char *role)
{
    int status;
    fflush(NULL);
    pid_t child = fork();
    must(child >= 0);
    if (child == 0) {
        execl("/proc/self/exe", "test_interrupt", role, (char *)NULL);
        _exit(127);
    }
    must(waitpid(child, &status, 0) == child);
    if (status != 0)
        fprintf(stderr, "the status of '%s' is %#x\n", role, (unsigned)status);
    must_equal(status, 0);
}

/* ---- The waits of a cancelled job ---- */

/* Everything for which a job may wait, none of which comes by itself. */
struct waits {
    duet_loop *loop;
    duet_pool *other, *full; /* full: one job at the gate, and one in a queue of one */
    duet_future *never, *settled;
    struct gate gate;
    duet_future *held, *queued;
    atomic_int started, cleaned, dropped;
};

static void waits_open(struct waits *w)
{
    const duet_pool_config full = {.workers_max = 1, .queue_max = 1};
    memset(w, 0, sizeof *w);
    w->gate = (struct gate)GATE_INIT;
    w->loop = start_loop();
    w->other = open_pool(2);
    w->never = open_promise();
    w->settled = open_promise();
    settle(w->settled);
    must_equal(duet_pool_open(&w->full, &full), 0);
    w->held = duet_pool_submit(w->full, gate_pass_job, &w->gate);
    gate_await_arrivals(&w->gate, 1);
    w->queued = duet_pool_submit(w->full, return_ok, NULL);
}

static void waits_close(struct waits *w)
{
    gate_open(&w->gate);
    must_equal(finish(w->held).err, 0);
    must_equal(finish(w->queued).err, 0);
    close_pool(w->full);
    close_pool(w->other);
    close_loop(w->loop);
    duet_future_unref(w->never);
    duet_future_unref(w->settled);
}

/* Sleeps until it is cancelled, and cleans up in a shield, which takes some turns. */
static duet_result clean_up_late(void *arg)
{
    struct waits *w = arg;
    atomic_fetch_add(&w->started, 1);
    int rc = duet_sleep(DUET_NEVER);
    must_equal(rc, -ECANCELED);
    duet_shield_begin();
    must_equal(duet_sleep(duet_ms(2)), 0);
    duet_shield_end();
    atomic_fetch_add(&w->cleaned, 1);
    return duet_err(rc);
}

static int wait_asleep(struct waits *w)
{
    (void)w;
    return duet_sleep(DUET_NEVER);
}

static int wait_for_one(struct waits *w)
{
    return duet_future_wait(w->never, DUET_NEVER, NULL);
}

static int wait_until(struct waits *w, enum duet_until until)
{
    duet_future *fs[] = {w->never, w->settled}, *alone[] = {w->never};
    size_t index = 77;
    int rc = until == DUET_UNTIL_ANY ? duet_future_wait_many(alone, 1, until, DUET_NEVER, &index)
                                     : duet_future_wait_many(fs, 2, until, DUET_NEVER, &index);
    must_equal(index, 77);
    return rc;
}

static int wait_for_all(struct waits *w)
{
    return wait_until(w, DUET_UNTIL_ALL);
}

static int wait_for_any(struct waits *w)
{
    return wait_until(w, DUET_UNTIL_ANY);
}

static int wait_for_a_failure(struct waits *w)
{
    return wait_until(w, DUET_UNTIL_FAILURE);
}

static int wait_in_gather(struct waits *w)
{
    duet_future *fs[] = {w->settled, w->never};
    return duet_gather(fs, 2, DUET_NEVER, NULL);
}

static int wait_for_a_group(struct waits *w)
{
    duet_group group = DUET_GROUP_INIT;
    duet_future *promise = open_promise();
    duet_group_add(&group, duet_future_ref(promise));
    int rc = duet_group_wait(&group, DUET_NEVER, NULL);
    must(!duet_future_settled(promise)); /* the wait was cancelled, not the group */
    must_equal(duet_group_close(&group), 0);
    must_equal(duet_future_result(promise).err, -ECANCELED);
    duet_future_unref(promise);
    (void)w;
    return rc;
}

static int wait_in_call(struct waits *w)
{
    const duet_opts opts = {.drop = count_drop};
    duet_result r = duet_ok();
    int rc = duet_call(w->loop, clean_up_late, w, DUET_NEVER, &r);
    must_equal(r.err, -ECANCELED);
    must_equal(atomic_load(&w->cleaned), atomic_load(&w->started)); /* it was waited for */
    /* and the second one never starts: it is cancelled by now */
    must_equal(duet_call_with(w->loop, return_ok, &w->dropped, &opts, DUET_NEVER, NULL),
               -ECANCELED);
    must_equal(atomic_load(&w->dropped), 1);
    return rc;
}

static int wait_in_offload(struct waits *w)
{
    const duet_opts opts = {.drop = count_drop};
    duet_result r = duet_ok();
    int rc = duet_offload(w->other, clean_up_late, w, DUET_NEVER, &r);
    must_equal(r.err, -ECANCELED);
    must_equal(atomic_load(&w->cleaned), atomic_load(&w->started));
    must_equal(duet_offload_with(w->other, return_ok, &w->dropped, &opts, DUET_NEVER, NULL),
               -ECANCELED);
    must_equal(atomic_load(&w->dropped), 1);
    return rc;
}

static int wait_for_room(struct waits *w)
{
    const duet_opts opts = {.drop = count_drop};
    duet_future *f = duet_pool_submit_with(w->full, return_ok, &w->dropped, &opts);
    must(duet_future_settled(f));
    must_equal(atomic_load(&w->dropped), 1);
    return finish(f).err;
}

typedef int wait_fn(struct waits *w);
static wait_fn *const all_waits[] = {
    wait_asleep,    wait_for_one,     wait_for_all, wait_for_any,    wait_for_a_failure,
    wait_in_gather, wait_for_a_group, wait_in_call, wait_in_offload, wait_for_room,
};
enum {
    WAITS = sizeof all_waits / sizeof all_waits[0]
};

struct waiter {
    struct waits waits;
    wait_fn *wait;
    struct gate gate;
};

static duet_result wait_once(void *arg)
{
    struct waiter *waiter = arg;
    must(!duet_cancelled());
    must_equal(waiter->wait(&waiter->waits), -ECANCELED);
    must(duet_cancelled());
    must_equal(duet_sleep(duet_sec(3600)), -ECANCELED); /* a level */
    return duet_i64(5); /* a result all the same */
}

static void cancel_asleep_in(wait_fn *wait, uint32_t flags)
{
    const duet_opts opts = {.name = "sleeper", .flags = flags};
    struct waiter waiter = {.wait = wait};
    duet_pool *pool = open_pool(1);
    waits_open(&waiter.waits);
    duet_future *f = duet_pool_submit_with(pool, wait_once, &waiter, &opts);
    await_waiting(pool, 1);
    duet_future_cancel(f);
    must_equal(duet_as_i64(finish(f)), 5);
    waits_close(&waiter.waits);
    close_pool(pool);
}

/* base.h: whatever it waits for, it is woken. */
thread_test(a_job_asleep_in_any_wait_is_woken_by_its_cancellation)
{
    for (int i = 0; i < WAITS; i++)
        cancel_asleep_in(all_waits[i], 0);
}

/* base.h: the signal is for system calls of its own; in duet's it changes nothing. */
thread_test(so_is_one_whose_system_calls_are_interrupted)
{
    for (int i = 0; i < WAITS; i++)
        cancel_asleep_in(all_waits[i], DUET_INTERRUPT);
}

static duet_result wait_when_cancelled(void *arg)
{
    struct waiter *waiter = arg;
    gate_pass(&waiter->gate);
    must(duet_cancelled());
    must_equal(waiter->wait(&waiter->waits), -ECANCELED);
    must_equal(atomic_load(&waiter->waits.started), 0); /* before it had any effect */
    return duet_i64(6);
}

/* base.h: and one that was cancelled before finds every wait failing. */
thread_test(a_cancelled_job_fails_at_every_wait_before_it_has_an_effect)
{
    for (int i = 0; i < WAITS; i++) {
        struct waiter waiter = {.wait = all_waits[i], .gate = GATE_INIT};
        duet_pool *pool = open_pool(1);
        waits_open(&waiter.waits);
        duet_future *f = duet_pool_submit(pool, wait_when_cancelled, &waiter);
        gate_await_arrivals(&waiter.gate, 1);
        duet_future_cancel(f);
        gate_open(&waiter.gate);
        must_equal(duet_as_i64(finish(f)), 6);
        waits_close(&waiter.waits);
        close_pool(pool);
    }
}

struct closer {
    duet_future *f;
    struct gate gate;
    atomic_int ended;
};

static duet_result end_behind_a_gate(void *arg)
{
    struct closer *closer = arg;
    gate_pass(&closer->gate);
    atomic_store(&closer->ended, 1);
    return duet_i64(9);
}

static duet_result close_the_other(void *arg)
{
    struct closer *closer = arg;
    duet_result r;
    must_equal(duet_future_close(closer->f, &r), 0);
    must_equal(duet_as_i64(r), 9);
    must_equal(atomic_load(&closer->ended), 1);
    must_equal(duet_sleep(DUET_NOW), -ECANCELED);
    return duet_ok();
}

/* base.h: waits that end ownership finish first. */
thread_test(a_job_that_closes_a_handle_is_not_woken_by_its_cancellation)
{
    duet_pool *pool = open_pool(1), *other = open_pool(1);
    struct closer closer = {.gate = GATE_INIT};
    closer.f = duet_pool_submit(other, end_behind_a_gate, &closer);
    gate_await_arrivals(&closer.gate, 1);
    duet_future *f = duet_pool_submit(pool, close_the_other, &closer);
    await_waiting(pool, 1);
    duet_future_cancel(f);
    give_it_time();
    must(!duet_future_settled(f));
    gate_open(&closer.gate);
    must_equal(finish(f).err, 0);
    close_pool(other);
    close_pool(pool);
}

static duet_result wait_in_a_shield(void *arg)
{
    duet_future *promise = arg;
    duet_shield_begin();
    duet_shield_begin();
    must_equal(duet_future_wait(promise, DUET_NEVER, NULL), 0);
    must(duet_cancelled()); /* also under a shield */
    duet_shield_end();
    must_equal(duet_sleep(duet_ms(2)), 0);
    duet_shield_end();
    must_equal(duet_sleep(DUET_NOW), -ECANCELED);
    duet_shield_begin();
    must_equal(duet_sleep(DUET_NOW), 0);
    duet_shield_end();
    return duet_i64(7);
}

static void cancel_in_a_shield(uint32_t flags)
{
    const duet_opts opts = {.flags = flags};
    duet_pool *pool = open_pool(1);
    duet_future *promise = open_promise();
    duet_future *f = duet_pool_submit_with(pool, wait_in_a_shield, promise, &opts);
    await_waiting(pool, 1);
    duet_future_cancel(f);
    give_it_time();
    must(!duet_future_settled(f));
    must_equal(stats_of(pool).blocked_in_wait, 1);
    settle(promise);
    must_equal(duet_as_i64(finish(f)), 7);
    duet_future_unref(promise);
    close_pool(pool);
}

/* base.h: held back until its end. */
thread_test(a_job_asleep_under_a_shield_sleeps_on)
{
    cancel_in_a_shield(0);
    cancel_in_a_shield(DUET_INTERRUPT);
}

/* ---- System calls ---- */

struct blocker {
    int (*block)(struct blocker *b); /* 0 or the errno */
    int empty[2], full[2]; /* pipes */
    int lock[2]; /* of one file, which is locked by way of the second */
    int listener;
    sem_t sem;
    atomic_int tid, steps;
    struct gate gate;
    int rc;
};

static void fill_pipe(int fd)
{
    char page[4096] = {0};
    int flags = fcntl(fd, F_GETFL);
    must_equal(fcntl(fd, F_SETFL, flags | O_NONBLOCK), 0);
    while (write(fd, page, sizeof page) > 0)
        ;
    must_equal(errno, EAGAIN);
    must_equal(fcntl(fd, F_SETFL, flags), 0);
}

static void blocker_open(struct blocker *b, int (*block)(struct blocker *b))
{
    const struct sockaddr any = {.sa_family = AF_UNIX};
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    char path[64];
    memset(b, 0, sizeof *b);
    b->block = block;
    b->gate = (struct gate)GATE_INIT;
    must_equal(pipe(b->empty), 0);
    must_equal(pipe(b->full), 0);
    fill_pipe(b->full[1]);
    b->lock[0] = memfd_create("lock", 0);
    must(b->lock[0] >= 0);
    snprintf(path, sizeof path, "/proc/self/fd/%d", b->lock[0]);
    b->lock[1] = open(path, O_RDWR);
    must(b->lock[1] >= 0);
    must_equal(fcntl(b->lock[1], F_OFD_SETLK, &lock), 0);
    b->listener = socket(AF_UNIX, SOCK_STREAM, 0);
    must(b->listener >= 0);
    must_equal(bind(b->listener, &any, sizeof any.sa_family), 0);
    must_equal(listen(b->listener, 1), 0);
    must_equal(sem_init(&b->sem, 0, 0), 0);
}

static void blocker_close(struct blocker *b)
{
    close_both(b->empty);
    close_both(b->full);
    close_both(b->lock);
    must_equal(close(b->listener), 0);
    must_equal(sem_destroy(&b->sem), 0);
}

static int block_in_read(struct blocker *b)
{
    return read_one(b->empty[0]);
}

static int block_in_write(struct blocker *b)
{
    return write(b->full[1], "x", 1) < 0 ? errno : 0;
}

static int block_in_nanosleep(struct blocker *b)
{
    const struct timespec hour = {.tv_sec = 3600};
    (void)b;
    return nanosleep(&hour, NULL) < 0 ? errno : 0;
}

static int block_in_poll(struct blocker *b)
{
    struct pollfd fds = {.fd = b->empty[0], .events = POLLIN};
    return poll(&fds, 1, -1) < 0 ? errno : 0;
}

static int block_in_sem_wait(struct blocker *b)
{
    return sem_wait(&b->sem) < 0 ? errno : 0;
}

static int block_in_accept(struct blocker *b)
{
    return accept(b->listener, NULL, NULL) < 0 ? errno : 0;
}

static int block_in_lock(struct blocker *b)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    return fcntl(b->lock[0], F_OFD_SETLKW, &lock) < 0 ? errno : 0;
}

static int (*const all_blocks[])(struct blocker *b) = {
    block_in_read,     block_in_write,  block_in_nanosleep, block_in_poll,
    block_in_sem_wait, block_in_accept, block_in_lock,
};
enum {
    BLOCKS = sizeof all_blocks / sizeof all_blocks[0]
};

static duet_result ask_at_the_fourth(void *arg)
{
    struct blocker *b = arg;
    atomic_store(&b->tid, gettid());
    for (int i = 0; i < 3; i++)
        must_equal(b->block(b), EINTR);
    must(duet_cancelled());
    for (int i = 0; i < 3; i++)
        must_equal(rest(), 0); /* no more */
    return duet_err(-ECANCELED);
}

/* base.h: it blocks before it is cancelled. */
thread_test(every_system_call_in_which_an_interruptible_job_blocks_fails_until_it_asks)
{
    for (int i = 0; i < BLOCKS; i++) {
        struct blocker b;
        duet_pool *pool = open_pool(1);
        blocker_open(&b, all_blocks[i]);
        duet_future *f = duet_pool_submit_with(pool, ask_at_the_fourth, &b, &interruptible);
        await_asleep(&b.tid);
        duet_future_cancel(f);
        must_equal(finish(f).err, -ECANCELED);
        blocker_close(&b);
        close_pool(pool);
    }
}

static duet_result block_when_cancelled(void *arg)
{
    struct blocker *b = arg;
    gate_pass(&b->gate);
    return ask_at_the_fourth(b);
}

/* base.h: sent again, so that none is lost that comes before the call. */
thread_test(a_job_that_was_cancelled_before_it_blocks_is_interrupted_too)
{
    for (int i = 0; i < BLOCKS; i++) {
        struct blocker b;
        duet_pool *pool = open_pool(1);
        blocker_open(&b, all_blocks[i]);
        duet_future *f = duet_pool_submit_with(pool, block_when_cancelled, &b, &interruptible);
        gate_await_arrivals(&b.gate, 1);
        duet_future_cancel(f);
        gate_open(&b.gate);
        must_equal(finish(f).err, -ECANCELED);
        blocker_close(&b);
        close_pool(pool);
    }
}

static duet_result hear_it_in_a_wait(void *arg)
{
    struct blocker *b = arg;
    atomic_store(&b->tid, gettid());
    must_equal(b->block(b), EINTR);
    must_equal(duet_sleep(DUET_NOW), -ECANCELED);
    for (int i = 0; i < 3; i++)
        must_equal(rest(), 0);
    return duet_i64(3);
}

/* base.h: duet_cancelled(), or a wait. */
thread_test(a_wait_that_fails_is_hearing_of_it_as_well)
{
    struct blocker b;
    duet_pool *pool = open_pool(1);
    blocker_open(&b, block_in_read);
    duet_future *f = duet_pool_submit_with(pool, hear_it_in_a_wait, &b, &interruptible);
    await_asleep(&b.tid);
    duet_future_cancel(f);
    must_equal(duet_as_i64(finish(f)), 3);
    blocker_close(&b);
    close_pool(pool);
}

static duet_result end_without_asking(void *arg)
{
    struct blocker *b = arg;
    atomic_store(&b->tid, gettid());
    must_equal(b->block(b), EINTR);
    return duet_i64(4);
}

/* base.h: or has ended. */
thread_test(a_job_may_end_by_its_eintr_alone)
{
    struct blocker b;
    duet_pool *pool = open_pool(1);
    blocker_open(&b, block_in_read);
    duet_future *f = duet_pool_submit_with(pool, end_without_asking, &b, &interruptible);
    await_asleep(&b.tid);
    duet_result r;
    must_equal(duet_future_close(f, &r), 0);
    must_equal(duet_as_i64(r), 4);
    blocker_close(&b);
    close_pool(pool);
}

static duet_result read_its_byte(void *arg)
{
    struct blocker *b = arg;
    atomic_store(&b->tid, gettid());
    b->rc = read_one(b->empty[0]);
    return duet_i64(duet_cancelled());
}

/* base.h: of a job that asked for it. */
thread_test(a_job_without_the_flag_is_never_interrupted)
{
    struct blocker b;
    duet_pool *pool = open_pool(1);
    blocker_open(&b, NULL);
    duet_future *f = duet_pool_submit(pool, read_its_byte, &b);
    await_asleep(&b.tid);
    duet_future_cancel(f);
    give_it_time();
    must(!duet_future_settled(f));
    write_bytes(b.empty[1], 1);
    must_equal(duet_as_i64(finish(f)), true);
    must_equal(b.rc, 0);
    blocker_close(&b);
    close_pool(pool);
}

/* base.h: and that was cancelled; a neighbour's cancellation is none. */
thread_test(nothing_is_interrupted_before_its_own_cancellation)
{
    struct blocker b, neighbour;
    duet_pool *pool = open_pool(2);
    blocker_open(&b, NULL);
    blocker_open(&neighbour, block_in_read);
    duet_future *f = duet_pool_submit_with(pool, read_its_byte, &b, &interruptible);
    duet_future *other = duet_pool_submit_with(pool, ask_at_the_fourth, &neighbour, &interruptible);
    await_asleep(&b.tid);
    await_asleep(&neighbour.tid);
    duet_future_cancel(other);
    must_equal(finish(other).err, -ECANCELED);
    give_it_time();
    must(!duet_future_settled(f));
    write_bytes(b.empty[1], 1);
    must_equal(duet_as_i64(finish(f)), false);
    must_equal(b.rc, 0);
    blocker_close(&b);
    blocker_close(&neighbour);
    close_pool(pool);
}

static duet_result block_in_a_shield(void *arg)
{
    struct blocker *b = arg;
    duet_shield_begin();
    duet_shield_begin();
    atomic_store(&b->tid, gettid());
    must_equal(read_one(b->empty[0]), 0);
    duet_shield_end();
    must_equal(rest(), 0);
    duet_shield_end();
    must_equal(read_one(b->empty[0]), EINTR); /* it has come */
    /* it still has not asked, but what begins now is under a shield */
    duet_shield_begin();
    must_equal(rest(), 0);
    must_equal(rest(), 0);
    duet_shield_end();
    must_equal(read_one(b->empty[0]), EINTR);
    must(duet_cancelled());
    must_equal(rest(), 0);
    return duet_ok();
}

/* base.h: held back until the end of the outermost. */
thread_test(nothing_is_interrupted_under_a_shield)
{
    struct blocker b;
    duet_pool *pool = open_pool(1);
    blocker_open(&b, NULL);
    duet_future *f = duet_pool_submit_with(pool, block_in_a_shield, &b, &interruptible);
    await_asleep(&b.tid);
    duet_future_cancel(f);
    give_it_time();
    must(!duet_future_settled(f));
    write_bytes(b.empty[1], 1);
    must_equal(finish(f).err, 0);
    blocker_close(&b);
    close_pool(pool);
}

/* pool.h: whoever cancels it. */
thread_test(closing_and_draining_a_pool_interrupts)
{
    for (int i = 0; i < 2; i++) {
        struct blocker b;
        duet_pool *pool = open_pool(1);
        blocker_open(&b, block_in_read);
        duet_future *f = duet_pool_submit_with(pool, ask_at_the_fourth, &b, &interruptible);
        await_asleep(&b.tid);
        if (i == 0) {
            log_capture();
            must_equal(duet_pool_drain(pool, DUET_NOW, NULL), -ETIME);
            must(log_has("interruptible"));
            log_release();
            must_equal(error_of(f), -ECANCELED);
        }
        close_pool(pool);
        must_equal(finish(f).err, -ECANCELED);
        blocker_close(&b);
    }
}

/* bridge.h: at its deadline it cancels, and returns after the end. */
thread_test(an_offload_that_is_late_interrupts)
{
    struct blocker b;
    duet_pool *pool = open_pool(1);
    duet_result r;
    /* it may be so late that the job never started */
    blocker_open(&b, block_in_read);
    int rc = duet_offload_with(pool, ask_at_the_fourth, &b, &interruptible, duet_ms(50), &r);
    must_equal(rc, -ETIME);
    must_equal(r.err, -ECANCELED);
    blocker_close(&b);
    close_pool(pool);
}

/* base.h: the waits of a coroutine end anyway. */
coroutine_test(the_flag_means_nothing_to_a_coroutine)
{
    duet_future *f = duet_spawn_with(sleep_long, NULL, &interruptible);
    must_equal(duet_yield(), 0);
    must(!duet_future_settled(f));
    duet_future_cancel(f);
    must_equal(finish(f).err, -ECANCELED);
    return duet_ok();
}

/* ---- The signal ---- */

static duet_result tell_mask(void *mask)
{
    must_equal(pthread_sigmask(SIG_BLOCK, NULL, mask), 0);
    return duet_ok();
}

/* pool.h: workers block all signals; this one is let in only while such a job runs. */
thread_test(the_signal_is_blocked_in_every_job_that_did_not_ask_for_it)
{
    duet_pool *pool = open_pool(1);
    for (int i = 0; i < 3; i++) {
        struct blocker b;
        sigset_t mask;
        sigemptyset(&mask);
        must_equal(finish(duet_pool_submit(pool, tell_mask, &mask)).err, 0);
        must_equal(sigismember(&mask, interrupt_signal()), 1);
        must_equal(sigismember(&mask, SIGTERM), 1);
        blocker_open(&b, block_in_read);
        duet_future *f = duet_pool_submit_with(pool, i % 2 ? ask_at_the_fourth : end_without_asking,
                                               &b, &interruptible);
        await_asleep(&b.tid);
        duet_future_cancel(f);
        (void)finish(f);
        blocker_close(&b);
    }
    close_pool(pool);
}

struct here {
    struct thread thread;
    struct blocker blocker;
    duet_pool *pool;
    bool blocked; /* is the signal in the thread's mask? */
};

static void must_be_same_mask(const sigset_t *a, const sigset_t *b)
{
    for (int signo = 1; signo <= SIGRTMAX; signo++)
        must_equal(sigismember(a, signo), sigismember(b, signo));
}

static void submit_here(void *arg)
{
    struct here *here = arg;
    sigset_t set, before, after;
    sigemptyset(&set);
    sigaddset(&set, interrupt_signal());
    sigaddset(&set, SIGUSR2);
    must_equal(pthread_sigmask(here->blocked ? SIG_BLOCK : SIG_UNBLOCK, &set, NULL), 0);
    must_equal(pthread_sigmask(SIG_BLOCK, NULL, &before), 0);
    duet_future *f =
        duet_pool_submit_with(here->pool, ask_at_the_fourth, &here->blocker, &interruptible);
    must_equal(pthread_sigmask(SIG_BLOCK, NULL, &after), 0);
    must_be_same_mask(&before, &after);
    must(duet_future_settled(f));
    must_equal(atomic_load(&here->blocker.tid), gettid());
    must_equal(finish(f).err, -ECANCELED);
    must_equal(rest(), 0);
}

static duet_pool *open_pool_that_runs_here(void)
{
    const duet_pool_config config = {
        .workers_max = 1, .queue_max = 1, .when_full = DUET_FULL_RUN_HERE};
    duet_pool *pool;
    must_equal(duet_pool_open(&pool, &config), 0);
    return pool;
}

/* base.h: such a job is interrupted in the thread in which it runs, whose mask is as before. */
thread_test(a_job_that_runs_in_the_submitting_thread_is_interrupted_there)
{
    for (int i = 0; i < BLOCKS; i++) {
        struct here here = {.pool = open_pool_that_runs_here(), .blocked = i % 2};
        struct gate gate = GATE_INIT;
        duet_future *held = duet_pool_submit(here.pool, gate_pass_job, &gate);
        gate_await_arrivals(&gate, 1);
        duet_future *queued = duet_pool_submit(here.pool, return_ok, NULL);
        blocker_open(&here.blocker, all_blocks[i]);
        thread_start(&here.thread, submit_here, &here);
        await_asleep(&here.blocker.tid);
        log_capture();
        must_equal(duet_pool_drain(here.pool, DUET_NOW, NULL), -ETIME);
        must(log_has("interruptible"));
        log_release();
        thread_join(&here.thread);
        gate_open(&gate);
        must_equal(finish(held).err, 0);
        must_equal(finish(queued).err, -ECANCELED);
        close_pool(here.pool);
        blocker_close(&here.blocker);
    }
}

struct nest {
    duet_pool *pool;
    struct blocker inner, outer;
    struct gate gate;
    duet_future *queued;
    sigset_t mask;
};

static duet_result read_inside(void *arg)
{
    struct nest *nest = arg;
    must_equal(pthread_sigmask(SIG_BLOCK, NULL, &nest->mask), 0);
    must(!duet_cancelled());
    return read_its_byte(&nest->inner);
}

static duet_result run_another_inside(void *arg)
{
    struct nest *nest = arg;
    nest->queued = duet_pool_submit(nest->pool, return_ok, NULL);
    must(!duet_future_settled(nest->queued));
    duet_future *f = duet_pool_submit(nest->pool, read_inside, nest);
    must(duet_future_settled(f));
    must_equal(duet_as_i64(finish(f)), false); /* it was not the one that was cancelled */
    must_equal(nest->inner.rc, 0);
    return ask_at_the_fourth(&nest->outer);
}

/* base.h: it is the cancelled job that is interrupted, not one that runs inside it. */
thread_test(a_job_that_runs_inside_an_interrupted_one_is_not)
{
    struct nest nest = {.pool = open_pool_that_runs_here(), .gate = GATE_INIT};
    blocker_open(&nest.inner, NULL);
    blocker_open(&nest.outer, block_in_read);
    duet_future *f = duet_pool_submit_with(nest.pool, run_another_inside, &nest, &interruptible);
    await_asleep(&nest.inner.tid);
    duet_future_cancel(f);
    give_it_time();
    write_bytes(nest.inner.empty[1], 1);
    must_equal(finish(f).err, -ECANCELED);
    must_equal(sigismember(&nest.mask, interrupt_signal()), 1);
    must_equal(finish(nest.queued).err, 0);
    blocker_close(&nest.inner);
    blocker_close(&nest.outer);
    close_pool(nest.pool);
}

static void own_handler(int signo)
{
    (void)signo;
    abort();
}

static duet_result never_runs(void *arg)
{
    (void)arg;
    abort();
}

static void must_interrupt(duet_pool *pool)
{
    struct blocker b;
    blocker_open(&b, block_in_read);
    duet_future *f = duet_pool_submit_with(pool, ask_at_the_fourth, &b, &interruptible);
    await_asleep(&b.tid);
    duet_future_cancel(f);
    must_equal(finish(f).err, -ECANCELED);
    blocker_close(&b);
}

/* base.h: the program was there before. */
static void role_own_handler(void)
{
    struct sigaction action = {.sa_handler = own_handler}, old, now;
    const duet_opts opts = {.flags = DUET_INTERRUPT, .drop = count_drop};
    atomic_int drops = 0;
    duet_result r;
    duet_pool *pool = open_pool(1);
    must_equal(sigaction(interrupt_signal(), &action, &old), 0);
    must(old.sa_handler == SIG_DFL);
    duet_future *f = duet_pool_submit_with(pool, never_runs, &drops, &opts);
    must(duet_future_settled(f));
    must_equal(atomic_load(&drops), 1);
    must_equal(finish(f).err, -EBUSY);
    must_equal(duet_offload_with(pool, never_runs, &drops, &opts, SURELY, &r), 0);
    must_equal(r.err, -EBUSY);
    must_equal(atomic_load(&drops), 2);
    must_equal(finish(duet_pool_submit(pool, return_ok, NULL)).err, 0); /* others go on */
    must_equal(sigaction(interrupt_signal(), NULL, &now), 0);
    must(now.sa_handler == own_handler);
    /* the signal is free again */
    must_equal(sigaction(interrupt_signal(), &old, NULL), 0);
    must_interrupt(pool);
    must_equal(atomic_load(&drops), 2);
    close_pool(pool);
}

thread_test(an_interruptible_job_is_refused_where_the_program_has_a_handler)
{
    run_role("own handler");
}

/* pool.h: what it refuses changes nothing. */
static void role_other_signal(void)
{
    const int bad[] = {-1, 0, SIGUSR1, SIGINT, SIGKILL, SIGRTMIN - 1, SIGRTMAX + 1, INT32_MAX};
    struct sigaction action = {.sa_handler = own_handler}, now;
    duet_pool *pool = open_pool(1);
    sigset_t mask;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        must_equal(duet_interrupt_signal_set(bad[i]), -EINVAL);
    must_equal(sigaction(SIGRTMIN + 4, &action, NULL), 0);
    must_equal(duet_interrupt_signal_set(SIGRTMIN + 4), -EBUSY);
    must_equal(sigaction(SIGRTMIN + 4, NULL, &now), 0);
    must(now.sa_handler == own_handler);
    must_equal(duet_interrupt_signal_set(SIGRTMIN + 3), 0);
    must_interrupt(pool);
    must_equal(sigaction(SIGRTMIN + 3, NULL, &now), 0);
    must((now.sa_flags & SA_SIGINFO) || now.sa_handler != SIG_DFL);
    must_equal(sigaction(interrupt_signal(), NULL, &now), 0);
    must(now.sa_handler == SIG_DFL); /* the default was never needed */
    must_equal(duet_interrupt_signal_set(SIGRTMIN + 5), -EBUSY);
    must_equal(duet_interrupt_signal_set(SIGUSR1), -EINVAL);
    must_interrupt(pool);
    must_equal(finish(duet_pool_submit(pool, tell_mask, &mask)).err, 0);
    must_equal(sigismember(&mask, SIGRTMIN + 3), 1);
    close_pool(pool);
}

thread_test(another_signal_may_be_chosen_before_the_first_such_job)
{
    run_role("other signal");
}

/* pool.h: another one is in use. */
static void role_too_late(void)
{
    duet_pool *pool = open_pool(1);
    must_interrupt(pool);
    must_equal(duet_interrupt_signal_set(SIGRTMIN + 3), -EBUSY);
    must_interrupt(pool);
    close_pool(pool);
}

thread_test(no_other_signal_may_be_chosen_later)
{
    run_role("too late");
}

/* ---- Never another job ---- */

enum victim_kind {
    VICTIM_ENDS_BY_EINTR,
    VICTIM_ASKS,
    VICTIM_IS_SHORT,
    VICTIM_POLLS,
    VICTIM_SHIELDS,
    VICTIM_WAITS,
    VICTIM_KINDS
};

struct round {
    enum victim_kind kind;
    uint64_t spins;
    int empty, data;
    atomic_int begun;
};

static duet_result be_victim(void *arg)
{
    struct round *round = arg;
    const struct timespec moment = {.tv_nsec = 50000};
    atomic_store(&round->begun, 1);
    switch (round->kind) {
    case VICTIM_ENDS_BY_EINTR:
        must_equal(read_one(round->empty), EINTR);
        break;
    case VICTIM_ASKS:
        must_equal(read_one(round->empty), EINTR);
        must(duet_cancelled());
        must_equal(nanosleep(&moment, NULL), 0);
        break;
    case VICTIM_POLLS:
        while (!duet_cancelled())
            spin(10);
        must_equal(nanosleep(&moment, NULL), 0);
        break;
    case VICTIM_SHIELDS:
        duet_shield_begin();
        must_equal(nanosleep(&moment, NULL), 0);
        duet_shield_end();
        break;
    case VICTIM_WAITS:
        must_equal(duet_sleep(DUET_NEVER), -ECANCELED);
        must_equal(nanosleep(&moment, NULL), 0);
        break;
    default:
        spin(round->spins);
    }
    return duet_i64(1);
}

static duet_result read_the_data(void *arg)
{
    struct round *round = arg;
    must_equal(read_one(round->data), 0);
    must(!duet_cancelled());
    return duet_i64(2);
}

/* base.h: whenever the cancellation comes, it is its own job's or nobody's. */
thread_test(no_job_is_interrupted_in_the_place_of_another)
{
    const duet_opts interrupted = {.flags = DUET_INTERRUPT | DUET_KEEP_SLOT};
    uint64_t random = test_seed();
    duet_pool *pool = open_pool(1);
    int empty[2], data[2];
    must_equal(pipe(empty), 0);
    must_equal(pipe(data), 0);
    for (int i = test_rounds(5000); i > 0; i--) {
        struct round round = {.kind = (enum victim_kind)(test_random(&random) % VICTIM_KINDS),
                              .spins = test_random(&random) % 3000,
                              .empty = empty[0],
                              .data = data[0]};
        duet_future *f = duet_pool_submit_with(pool, be_victim, &round, &interrupted);
        duet_future *plain = duet_pool_submit(pool, read_the_data, &round);
        duet_future *next = duet_pool_submit_with(pool, read_the_data, &round, &interrupted);
        if (test_random(&random) % 4 > 0)
            await_flag(&round.begun);
        spin(test_random(&random) % 6000);
        duet_future_cancel(f);
        spin(test_random(&random) % 6000);
        if (test_random(&random) % 4 == 0)
            (void)error_of(f);
        write_bytes(data[1], 2);
        must_equal(duet_as_i64(finish(plain)), 2);
        must_equal(duet_as_i64(finish(next)), 2);
        duet_result r = finish(f);
        must(r.err == -ECANCELED || duet_as_i64(r) == 1);
    }
    close_pool(pool);
    close_both(empty);
    close_both(data);
}

/* ---- duet_future_end ---- */

static duet_result return_seven(void *arg)
{
    (void)arg;
    return duet_i64(7);
}

/* Runs a test of duet_future_end() with a coroutine and with a job. */
struct place {
    duet_loop *loop;
    duet_pool *pool; /* if no loop */
};

static duet_future *start_in(struct place place, duet_fn *fn, void *arg, const duet_opts *opts)
{
    return place.loop ? duet_submit_with(place.loop, fn, arg, opts)
                      : duet_pool_submit_with(place.pool, fn, arg, opts);
}

static void in_both_places(void (*body)(struct place place))
{
    duet_loop *loop = start_loop();
    duet_pool *pool = open_pool(1);
    body((struct place){.loop = loop});
    body((struct place){.pool = pool});
    close_loop(loop);
    close_pool(pool);
}

static void must_finish(struct place place)
{
    const duet_opts opts = {.drop_result = count_drop};
    atomic_int drops = 0;
    duet_result r;
    must_equal(duet_future_end(start_in(place, return_seven, NULL, NULL), SURELY, 0, &r),
               DUET_FINISHED);
    must_equal(duet_as_i64(r), 7);
    must_equal(duet_future_end(start_in(place, return_seven, NULL, NULL), DUET_NEVER, 0, NULL),
               DUET_FINISHED);
    must_equal(duet_future_end(start_in(place, fail_eio, NULL, NULL), SURELY, 0, &r),
               DUET_FINISHED); /* be it a failure */
    must_equal(r.err, -EIO);
    /* what has settled is had whatever the times */
    duet_future *f = start_in(place, return_arg, &drops, &opts);
    must_equal(error_of(f), 0);
    must_equal(duet_future_end(f, (duet_deadline){INT64_MIN}, 0, &r), DUET_FINISHED);
    must(duet_as_ptr(r) == &drops);
    must_equal(atomic_load(&drops), 0); /* taken */
    f = start_in(place, return_arg, &drops, &opts);
    must_equal(error_of(f), 0);
    must_equal(duet_future_end(f, DUET_NOW, INT64_MAX, NULL), DUET_FINISHED);
    must_equal(atomic_load(&drops), 1);
}

thread_test(what_ends_in_time_has_finished)
{
    in_both_places(must_finish);
}

static void must_be_let_go(struct place place)
{
    const duet_opts opts = {.drop_result = count_drop};
    atomic_int drops = 0;
    duet_result r;
    duet_future *f = start_in(place, return_arg, &drops, &opts), *mine = duet_future_ref(f);
    must_equal(duet_future_end(f, SURELY, 0, &r), DUET_FINISHED);
    must(duet_as_ptr(r) == &drops);
    must(duet_as_ptr(duet_future_result(mine)) == &drops);
    must_equal(duet_future_take(mine, &r), -EALREADY);
    duet_future_unref(mine);
    must_equal(atomic_load(&drops), 0);
    f = start_in(place, return_arg, &drops, &opts);
    mine = duet_future_ref(f);
    must_equal(duet_future_end(f, SURELY, 0, NULL), DUET_FINISHED);
    duet_future_unref(mine);
    must_equal(atomic_load(&drops), 1);
}

/* future.h: lets go of the handle, and takes the result as a close does. */
thread_test(the_result_is_taken_and_the_handle_let_go)
{
    in_both_places(must_be_let_go);
}

struct work {
    struct place place;
    atomic_int begun, cleaned, may_end; /* flags */
    atomic_int args, results; /* dropped */
    struct gate gate;
    duet_future *self;
};

static void work_drop(void *arg)
{
    atomic_fetch_add(&((struct work *)arg)->args, 1);
}

static const duet_opts work_opts = {
    .name = "laggard", .drop = work_drop, .drop_result = count_drop};

static duet_future *begin(struct work *work, duet_fn *fn)
{
    duet_future *f = start_in(work->place, fn, work, &work_opts);
    await_flag(&work->begun);
    return f;
}

static duet_result heed(void *arg)
{
    struct work *work = arg;
    atomic_store(&work->begun, 1);
    int rc = duet_sleep(DUET_NEVER);
    must_equal(rc, -ECANCELED);
    duet_shield_begin();
    must_equal(duet_sleep(duet_ms(5)), 0);
    duet_shield_end();
    atomic_store(&work->cleaned, 1);
    return duet_err(rc);
}

static duet_result heed_with_a_value(void *arg)
{
    struct work *work = arg;
    (void)heed(work);
    return duet_ptr(&work->results);
}

static duet_result heed_with_a_failure(void *arg)
{
    (void)heed(arg);
    return duet_err(-EIO);
}

/* Sleeps again and again in a shield until it may end. */
static duet_result ignore_it(void *arg)
{
    struct work *work = arg;
    duet_shield_begin();
    atomic_store(&work->begun, 1);
    while (!atomic_load(&work->may_end))
        must_equal(duet_sleep(duet_ms(1)), 0);
    duet_shield_end();
    return duet_ptr(&work->results);
}

static void must_finish_late(struct place place)
{
    for (int i = 0; i < 2; i++) {
        duet_deadline by = i ? duet_ms(2) : DUET_NOW;
        struct work work = {.place = place}, other = {.place = place};
        duet_result r;
        must_equal(duet_future_end(begin(&work, heed_with_a_value), by, INT64_MAX, &r),
                   DUET_FINISHED);
        must(duet_as_ptr(r) == &work.results);
        must_equal(atomic_load(&work.results), 0);
        must_equal(atomic_load(&work.args), 1);
        must_equal(duet_future_end(begin(&other, heed_with_a_failure), by, INT64_MAX, &r),
                   DUET_FINISHED);
        must_equal(r.err, -EIO);
        must_equal(atomic_load(&other.args), 1);
    }
}

/* future.h: also if it was asked to end before. */
thread_test(what_returns_a_result_although_it_was_asked_has_finished)
{
    in_both_places(must_finish_late);
}

static void must_be_cancelled(struct place place)
{
    static const int64_t graces[] = {INT64_C(60000000000), INT64_MAX};
    for (int i = 0; i < 4; i++) {
        struct work work = {.place = place};
        duet_result r = duet_ok();
        duet_deadline by = i < 2 ? duet_ms(2) : DUET_NOW;
        duet_future *f = begin(&work, heed);
        must_equal(duet_future_end(f, by, graces[i % 2], i ? &r : NULL), DUET_CANCELLED);
        must_equal(r.err, i ? -ECANCELED : 0);
        must_equal(atomic_load(&work.cleaned), 1);
        must_equal(atomic_load(&work.args), 1);
        must_equal(atomic_load(&work.results), 0);
    }
}

/* future.h: it has run its clean-up. */
thread_test(what_ends_when_it_is_asked_was_cancelled)
{
    in_both_places(must_be_cancelled);
}

static duet_result cancel_oneself(void *arg)
{
    struct work *work = arg;
    atomic_store(&work->begun, 1);
    gate_pass(&work->gate);
    duet_future_cancel(work->self);
    return duet_err(duet_sleep(DUET_NEVER));
}

/* future.h: whoever asked. */
thread_test(what_somebody_else_cancelled_was_cancelled)
{
    struct work work = {.place.pool = open_pool(1), .gate = GATE_INIT};
    work.self = begin(&work, cancel_oneself);
    duet_future *f = duet_future_ref(work.self);
    gate_open(&work.gate);
    must_equal(duet_future_end(f, SURELY, 0, NULL), DUET_CANCELLED);
    duet_future_unref(work.self);
    close_pool(work.place.pool);
}

/* pool.h: what has not started never will. */
thread_test(a_queued_job_that_is_ended_was_cancelled_and_never_runs)
{
    struct gate gate = GATE_INIT;
    struct work work = {.place.pool = open_pool(1)};
    duet_future *held = duet_pool_submit(work.place.pool, gate_pass_job, &gate);
    gate_await_arrivals(&gate, 1);
    for (int i = 1; i <= 2; i++) {
        duet_result r;
        duet_future *f = start_in(work.place, never_runs, &work, &work_opts);
        must_equal(duet_future_end(f, DUET_NOW, i == 1 ? 0 : INT64_MAX, &r), DUET_CANCELLED);
        must_equal(r.err, -ECANCELED);
        must_equal(atomic_load(&work.args), i);
    }
    gate_open(&gate);
    must_equal(finish(held).err, 0);
    close_pool(work.place.pool);
}

static duet_result pass_and_be_late(void *arg)
{
    struct work *work = arg;
    gate_pass(&work->gate);
    return duet_ptr(&work->results);
}

/* future.h: named, counted, and its worker kept; its late result is dropped. */
thread_test(a_job_that_does_not_end_is_abandoned_and_keeps_its_worker)
{
    static const int64_t graces[] = {0, 1, 3000000};
    for (int i = 0; i < 3; i++) {
        struct work work = {.place.pool = open_pool(1), .gate = GATE_INIT};
        duet_result r = duet_ok();
        log_capture();
        duet_future *f = start_in(work.place, pass_and_be_late, &work, &work_opts);
        gate_await_arrivals(&work.gate, 1);
        must(!log_has("laggard"));
        must_equal(stats_of(work.place.pool).abandoned, 0);
        must_equal(duet_future_end(f, i ? duet_ms(2) : DUET_NOW, graces[i], &r), DUET_ABANDONED);
        must_equal(r.err, -ETIME);
        must(log_has("laggard"));
        must_equal(stats_of(work.place.pool).abandoned, 1);
        must_equal(stats_of(work.place.pool).busy, 1);
        duet_future *next = duet_pool_submit(work.place.pool, return_ok, NULL);
        give_it_time();
        must(!duet_future_settled(next));
        must_equal(stats_of(work.place.pool).abandoned, 1);
        must_equal(atomic_load(&work.args), 0);
        must_equal(atomic_load(&work.results), 0);
        gate_open(&work.gate);
        must_equal(finish(next).err, 0);
        await_abandoned(work.place.pool, 0);
        close_pool(work.place.pool);
        must_equal(atomic_load(&work.args), 1);
        must_equal(atomic_load(&work.results), 1);
        log_release();
    }
}

static void must_be_abandoned(struct place place)
{
    for (int i = 0; i < 2; i++) {
        struct work work = {.place = place};
        duet_result r = duet_ok();
        duet_future *f = begin(&work, ignore_it), *mine = duet_future_ref(f);
        must_equal(duet_future_end(f, duet_ms(2), i * 2000000, i ? &r : NULL), DUET_ABANDONED);
        must_equal(r.err, i ? -ETIME : 0);
        must(!duet_future_settled(mine)); /* it goes on */
        atomic_store(&work.may_end, 1);
        must_equal(error_of(mine), 0);
        must(duet_as_ptr(duet_future_result(mine)) == &work.results);
        must_equal(atomic_load(&work.results), 0);
        duet_future_unref(mine);
        for (duet_deadline by = SURELY; atomic_load(&work.results) == 0; sched_yield())
            must(duet_now_ns() < by.ns);
        must_equal(atomic_load(&work.results), 1);
        must_equal(atomic_load(&work.args), 1);
    }
}

/* future.h: it goes on. Another owner still gets its result. */
thread_test(what_ignores_it_in_a_shield_is_abandoned_and_goes_on)
{
    in_both_places(must_be_abandoned);
}

/* future.h: it was asked all the same. */
thread_test(an_abandoned_job_finds_itself_cancelled)
{
    struct work work = {.place.pool = open_pool(1)};
    duet_future *f = begin(&work, ignore_it), *mine = duet_future_ref(f);
    must_equal(duet_future_end(f, DUET_NOW, 0, NULL), DUET_ABANDONED);
    must_equal(duet_future_end(duet_future_ref(mine), DUET_NOW, 0, NULL), DUET_ABANDONED);
    must_equal(stats_of(work.place.pool).abandoned, 1); /* the same one */
    atomic_store(&work.may_end, 1);
    duet_result r;
    must_equal(duet_future_end(mine, SURELY, 0, &r), DUET_FINISHED);
    must(duet_as_ptr(r) == &work.results);
    await_abandoned(work.place.pool, 0);
    close_pool(work.place.pool);
    must_equal(atomic_load(&work.results), 0);
}

static void must_end_somehow(struct place place)
{
    for (int i = test_rounds(300); i > 0; i--) {
        struct work work = {.place = place};
        duet_result r;
        duet_future *f = begin(&work, heed), *mine = duet_future_ref(f);
        int ended = duet_future_end(f, DUET_NOW, 0, &r);
        must(ended == DUET_CANCELLED || ended == DUET_ABANDONED);
        must_equal(r.err, ended == DUET_CANCELLED ? -ECANCELED : -ETIME);
        must_equal(finish(mine).err, -ECANCELED);
        must_equal(atomic_load(&work.cleaned), 1);
        must_equal(atomic_load(&work.args), 1);
    }
}

/* future.h: no grace is no time to clean up, or just enough. */
thread_test(without_grace_the_work_is_asked_all_the_same)
{
    log_capture(); /* it names each that it abandons */
    in_both_places(must_end_somehow);
    log_release();
}

struct caller {
    struct work work;
    atomic_int entered;
    duet_deadline by;
    int64_t grace;
    int ended;
    duet_result result;
};

static duet_result end_the_work(void *arg)
{
    struct caller *caller = arg;
    duet_future *f = caller->work.self;
    atomic_store(&caller->entered, 1);
    caller->ended = duet_future_end(f, caller->by, caller->grace, &caller->result);
    must(duet_cancelled());
    must_equal(duet_sleep(DUET_NOW), -ECANCELED);
    return duet_ok();
}

/* With a caller of each kind, cancelled while it waits for work of each kind. */
static void cancel_the_caller(struct place callers, struct place place)
{
    struct caller caller = {.work.place = place, .by = DUET_NEVER, .grace = INT64_MAX};
    caller.work.self = begin(&caller.work, heed);
    duet_future *f = start_in(callers, end_the_work, &caller, NULL);
    await_flag(&caller.entered);
    give_it_time();
    must(!duet_future_settled(f));
    duet_future_cancel(f);
    must_equal(finish(f).err, 0);
    must_equal(caller.ended, DUET_CANCELLED); /* the second wait was not cut short */
    must_equal(caller.result.err, -ECANCELED);
    must_equal(atomic_load(&caller.work.cleaned), 1);
}

/* future.h: it ends the first wait early, and no more. */
thread_test(cancelling_the_caller_only_ends_the_first_wait)
{
    struct place loops = {.loop = start_loop()}, pools = {.pool = open_pool(1)};
    struct place works[] = {{.loop = start_loop()}, {.pool = open_pool(1)}};
    for (int i = 0; i < 2; i++) {
        cancel_the_caller(loops, works[i]);
        cancel_the_caller(pools, works[i]);
    }
    cancel_the_caller(loops, loops); /* beside it */
    close_loop(loops.loop);
    close_loop(works[0].loop);
    close_pool(pools.pool);
    close_pool(works[1].pool);
}

static duet_result end_when_cancelled(void *arg)
{
    struct caller *caller = arg;
    gate_pass(&caller->work.gate);
    must(duet_cancelled());
    return end_the_work(caller);
}

/* future.h: and so does a cancellation that came before. A stuck work is left after the grace. */
thread_test(a_cancelled_caller_does_not_wait_for_the_moment)
{
    struct place place = {.loop = start_loop()};
    duet_pool *pool = open_pool(1);
    for (int i = 0; i < 2; i++) {
        struct caller caller = {.work.place = place,
                                .work.gate = GATE_INIT,
                                .by = SURELY,
                                .grace = i ? 2000000 : INT64_MAX};
        caller.work.self = begin(&caller.work, i ? ignore_it : heed);
        duet_future *f = duet_pool_submit(pool, end_when_cancelled, &caller);
        gate_await_arrivals(&caller.work.gate, 1);
        duet_future_cancel(f);
        gate_open(&caller.work.gate);
        must_equal(finish(f).err, 0);
        must_equal(caller.ended, i ? DUET_ABANDONED : DUET_CANCELLED);
        must_equal(caller.result.err, i ? -ETIME : -ECANCELED);
        atomic_store(&caller.work.may_end, 1);
        for (duet_deadline by = SURELY; atomic_load(&caller.work.args) == 0; sched_yield())
            must(duet_now_ns() < by.ns);
        if (i)
            for (duet_deadline by = SURELY; atomic_load(&caller.work.results) == 0; sched_yield())
                must(duet_now_ns() < by.ns);
    }
    close_pool(pool);
    close_loop(place.loop);
}

/* future.h: a promise that is cancelled settles. */
thread_test(a_promise_ends_at_once)
{
    duet_result r;
    duet_future *promise = open_promise(), *mine = duet_future_ref(promise);
    must_equal(duet_future_settle(promise, duet_i64(4)), 0);
    must_equal(duet_future_end(promise, DUET_NOW, 0, &r), DUET_FINISHED);
    must_equal(duet_as_i64(r), 4);
    duet_future_unref(mine);
    promise = open_promise();
    mine = duet_future_ref(promise);
    must_equal(duet_future_end(promise, DUET_NOW, 0, &r), DUET_CANCELLED);
    must_equal(r.err, -ECANCELED);
    must_equal(duet_future_settle(mine, duet_i64(5)), -EALREADY);
    must_equal(finish(mine).err, -ECANCELED);
    promise = open_promise();
    must_equal(duet_future_end(promise, duet_ms(2), INT64_MAX, NULL), DUET_CANCELLED);
}

static void never_called(void *arg)
{
    (void)arg;
    abort();
}

/* bridge.h: cancelling a callback before its moment means that it never runs. */
thread_test(a_callback_at_a_moment_can_be_ended)
{
    duet_loop *loop = start_loop();
    atomic_int calls = 0;
    duet_result r;
    duet_future *f = duet_call_at(loop, DUET_NEVER, never_called, NULL);
    must_equal(duet_future_end(f, duet_ms(2), INT64_MAX, &r), DUET_CANCELLED);
    must_equal(r.err, -ECANCELED);
    f = duet_call_at(loop, DUET_NOW, count_drop, &calls);
    must_equal(duet_future_end(f, SURELY, 0, &r), DUET_FINISHED);
    must_equal(atomic_load(&calls), 1);
    close_loop(loop);
}

static duet_result end_oneself(void *arg)
{
    struct work *work = arg;
    atomic_store(&work->begun, 1);
    gate_pass(&work->gate);
    must_equal(duet_future_end(work->self, DUET_NEVER, INT64_MAX, NULL), -EDEADLK);
    must_equal(duet_future_end(work->self, DUET_NOW, 0, NULL), -EDEADLK);
    must(!duet_cancelled());
    return duet_i64(6);
}

static void must_not_end_itself(struct place place)
{
    struct work work = {.place = place, .gate = GATE_INIT};
    work.self = begin(&work, end_oneself);
    gate_open(&work.gate);
    must_equal(duet_as_i64(finish(work.self)), 6); /* the handle has stayed */
}

static void end_in_callback(void *arg)
{
    struct work *work = arg;
    duet_result r;
    must_equal(duet_future_end(work->self, DUET_NOW, 0, NULL), -EDEADLK);
    must_equal(duet_future_end(work->self, duet_ms(1), INT64_MAX, NULL), -EDEADLK);
    must(!duet_future_settled(work->self));
    must_equal(duet_future_settle(work->self, duet_i64(3)), 0);
    must_equal(duet_future_end(work->self, SURELY, INT64_MAX, &r), DUET_FINISHED);
    must_equal(duet_as_i64(r), 3);
}

/* future.h: the handle stays the caller's. */
thread_test(ending_oneself_or_in_a_bare_callback_is_edeadlk)
{
    in_both_places(must_not_end_itself);
    struct work work = {.self = open_promise()};
    duet_loop *loop = start_loop();
    run_bare(loop, end_in_callback, &work);
    close_loop(loop);
}

/* future.h does not say which: it is refused, and nothing was done; or it is none. */
thread_test(a_negative_grace_is_refused_or_none)
{
    const int64_t graces[] = {-1, INT64_MIN};
    for (int i = 0; i < 2; i++) {
        duet_result r = duet_ok();
        duet_future *promise = open_promise(), *mine = duet_future_ref(promise);
        int rc = duet_future_end(promise, i ? duet_ms(1) : DUET_NOW, graces[i], &r);
        must(rc == -EINVAL || rc == DUET_CANCELLED);
        must_equal(duet_future_settled(mine), rc == DUET_CANCELLED);
        must_equal(r.err, rc == DUET_CANCELLED ? -ECANCELED : 0);
        duet_future_unref(mine);
        if (rc == -EINVAL)
            duet_future_unref(promise); /* it has stayed the caller's */
    }
}

/* Results that are made and must be had by somebody, once. */
static atomic_int made, dropped;

static void drop_box(void *box)
{
    atomic_fetch_add(&dropped, 1);
    free(box);
}

struct race {
    uint64_t spins;
    int64_t sleep;
    atomic_int *args;
};

static duet_result make_box(void *arg)
{
    struct race *race = arg;
    spin(race->spins);
    if (race->sleep > 0)
        (void)duet_sleep(duet_ns(race->sleep));
    if (race->sleep % 2) {
        duet_shield_begin();
        must_equal(duet_sleep(duet_ns(race->sleep)), 0);
        duet_shield_end();
    }
    if (race->spins % 5 == 0)
        return duet_cancelled() ? duet_err(-ECANCELED) : duet_err(-EIO);
    atomic_fetch_add(&made, 1);
    return duet_ptr(malloc(16));
}

static void drop_race(void *arg)
{
    struct race *race = arg;
    atomic_fetch_add(race->args, 1);
    free(race);
}

static int64_t time_of_race(uint64_t *random)
{
    return test_random(random) % 3 == 0 ? 0 : (int64_t)(test_random(random) % 150000);
}

/* future.h: whichever comes first, the result is one's or dropped. */
static void race_the_result(struct place place)
{
    const duet_opts opts = {.drop = drop_race, .drop_result = drop_box};
    uint64_t random = test_seed();
    int rounds = test_rounds(4000), taken = 0, seen[3] = {0};
    atomic_int args = 0;
    atomic_store(&made, 0);
    atomic_store(&dropped, 0);
    log_capture(); /* it reports failures that nobody saw */
    for (int i = 0; i < rounds; i++) {
        struct race *race = malloc(sizeof *race);
        must(race != NULL);
        *race = (struct race){test_random(&random) % 3000, time_of_race(&random), &args};
        duet_future *f = start_in(place, make_box, race, &opts);
        duet_result r = duet_ok();
        bool look = test_random(&random) % 4 > 0;
        int ended = duet_future_end(f, duet_ns(time_of_race(&random)), time_of_race(&random),
                                    look ? &r : NULL);
        must(ended >= DUET_FINISHED && ended <= DUET_ABANDONED);
        seen[ended]++;
        if (!look)
            continue;
        if (ended == DUET_CANCELLED)
            must_equal(r.err, -ECANCELED);
        else if (ended == DUET_ABANDONED)
            must_equal(r.err, -ETIME);
        else if (r.err == 0) {
            free(duet_as_ptr(r));
            taken++;
        } else
            must_equal(r.err, -EIO);
    }
    if (place.loop)
        close_loop(place.loop);
    else {
        await_abandoned(place.pool, 0);
        close_pool(place.pool);
    }
    log_release();
    must_equal(atomic_load(&args), rounds);
    must_equal(atomic_load(&made), taken + atomic_load(&dropped));
    print_message("%d finished, %d cancelled, %d abandoned\n", seen[0], seen[1], seen[2]);
}

thread_test(a_coroutines_result_that_races_the_deadline_is_never_lost)
{
    race_the_result((struct place){.loop = start_loop()});
}

thread_test(a_jobs_result_that_races_the_deadline_is_never_lost)
{
    race_the_result((struct place){.pool = open_pool(2)});
}

/* ---- Cancelled at any moment of any wait ---- */

struct world {
    duet_loop *loops[2];
    duet_pool *pool, *small, *helpers;
    duet_future *never, *settled;
    atomic_int drops, settles;
};

struct victim {
    struct world *world;
    uint64_t random;
};

static duet_result rest_a_little(void *arg)
{
    (void)arg;
    int rc = duet_sleep(duet_us(30));
    return rc < 0 ? duet_err(rc) : duet_ok();
}

struct submitter {
    duet_pool *small;
    int rounds;
};

/* Waits for room, and sometimes for the job too. */
static duet_result submit_rests(void *arg)
{
    struct submitter *s = arg;
    for (int i = 0; i < s->rounds; i++) {
        duet_future *f = duet_pool_submit(s->small, rest_a_little, NULL);
        if (i % 3 == 0)
            must_equal(duet_future_wait(f, SURELY, NULL), 0);
        if (duet_future_settled(f))
            must_equal(duet_future_result(f).err, 0);
        duet_future_unref(f);
    }
    return duet_ok();
}

/* base.h: nothing here is cancelled, and nothing waits for what cannot come. */
thread_test(a_wait_for_room_behind_jobs_that_sleep_a_moment_is_no_deadlock)
{
    enum {
        COUNT = 5
    };
    const duet_pool_config small = {.workers_max = 1, .queue_max = 1};
    struct submitter s = {.rounds = test_rounds(2500)};
    duet_loop *loops[] = {start_loop(), start_loop()};
    duet_pool *pool = open_pool(2);
    duet_future *fs[COUNT];
    must_equal(duet_pool_open(&s.small, &small), 0);
    for (int i = 0; i < COUNT; i++)
        fs[i] = i < 3 ? duet_submit(loops[i % 2], submit_rests, &s)
                      : duet_pool_submit(pool, submit_rests, &s);
    for (int i = 0; i < COUNT; i++)
        must_equal(finish(fs[i]).err, 0);
    close_pool(pool);
    close_pool(s.small);
    close_loop(loops[0]);
    close_loop(loops[1]);
}

static duet_result wait_for_it(void *f)
{
    int rc = duet_future_wait(f, DUET_NEVER, NULL);
    return rc < 0 ? duet_err(rc) : duet_ok();
}

static int random_several(struct victim *v)
{
    struct world *w = v->world;
    duet_future *rest = duet_pool_submit(w->helpers, rest_a_little, NULL);
    duet_future *fs[] = {w->settled, w->never, rest};
    duet_deadline by = test_random(&v->random) % 2 ? duet_us(200) : SURELY;
    int rc;
    switch (test_random(&v->random) % 4) {
    case 0:
        rc = duet_future_wait_many(fs, 3, DUET_UNTIL_ALL, by, NULL);
        break;
    case 1:
        rc = duet_future_wait_many(fs + 1, 2, DUET_UNTIL_ANY, by, NULL);
        break;
    case 2:
        rc = duet_future_wait_many(fs, 3, DUET_UNTIL_FAILURE, by, NULL);
        break;
    default:
        rc = duet_gather(fs, 3, by, NULL);
    }
    if (test_random(&v->random) % 2)
        must_equal(duet_future_close(rest, NULL), 0);
    else
        duet_future_unref(rest);
    return rc;
}

static int random_group(struct victim *v)
{
    struct world *w = v->world;
    duet_group group = DUET_GROUP_INIT;
    int rc = 0, children = (int)(test_random(&v->random) % 4);
    for (int i = 0; i < children && rc == 0; i++) {
        bool long_ = test_random(&v->random) % 3 == 0;
        rc = duet_group_spawn(&group, w->loops[i % 2], long_ ? wait_for_it : rest_a_little,
                              w->never, NULL);
    }
    if (rc == 0)
        rc = duet_group_wait(&group, test_random(&v->random) % 2 ? duet_us(100) : SURELY, NULL);
    must_equal(duet_group_close(&group), 0);
    return rc;
}

static int random_call(struct victim *v)
{
    struct world *w = v->world;
    duet_fn *fn = test_random(&v->random) % 3 ? rest_a_little : wait_for_it;
    duet_deadline by = test_random(&v->random) % 2 ? duet_us(100) : SURELY;
    duet_result r;
    int rc = test_random(&v->random) % 2
                 ? duet_call(w->loops[test_random(&v->random) % 2], fn, w->never, by, &r)
                 : duet_offload(w->helpers, fn, w->never, by, &r);
    return rc == 0 ? r.err : rc;
}

static int random_room(struct victim *v)
{
    struct world *w = v->world;
    duet_future *f = duet_pool_submit(w->small, rest_a_little, NULL);
    int rc = 0;
    if (test_random(&v->random) % 2)
        rc = duet_future_wait(f, SURELY, NULL);
    if (duet_future_settled(f))
        rc = duet_future_result(f).err;
    duet_future_unref(f);
    return rc;
}

static int random_end(struct victim *v)
{
    struct world *w = v->world;
    duet_fn *fn = test_random(&v->random) % 2 ? rest_a_little : wait_for_it;
    duet_future *f = test_random(&v->random) % 2
                         ? duet_pool_submit(w->helpers, fn, w->never)
                         : duet_submit(w->loops[test_random(&v->random) % 2], fn, w->never);
    if (test_random(&v->random) % 2) {
        must_equal(duet_future_close(f, NULL), 0);
    } else {
        int64_t grace = test_random(&v->random) % 2 ? 20000 : INT64_MAX;
        must(duet_future_end(f, duet_us(50), grace, NULL) >= 0);
    }
    return 0;
}

static int random_shield(void)
{
    duet_shield_begin();
    must_equal(duet_sleep(duet_us(20)), 0);
    duet_shield_end();
    return 0;
}

static int random_wait(struct victim *v)
{
    switch (test_random(&v->random) % 9) {
    case 0:
        return duet_sleep(test_random(&v->random) % 8 ? duet_us(40) : DUET_NEVER);
    case 1:
        return duet_future_wait(v->world->never, test_random(&v->random) % 4 ? duet_us(40) : SURELY,
                                NULL);
    case 2:
        return random_several(v);
    case 3:
        return random_group(v);
    case 4:
        return random_call(v);
    case 5:
        return random_room(v);
    case 6:
        return random_end(v);
    case 7:
        return random_shield();
    default:
        return duet_loop_self() ? duet_yield() : duet_sleep(DUET_NOW);
    }
}

static duet_result wait_at_random(void *arg)
{
    struct victim *v = arg;
    for (;;) {
        int rc = random_wait(v);
        if (rc == -ECANCELED && duet_cancelled()) {
            must_equal(duet_sleep(SURELY), -ECANCELED); /* a level */
            return duet_err(rc);
        }
        if (rc != -ETIME)
            must_equal(rc, 0);
    }
}

static void drop_victim(void *arg)
{
    struct victim *v = arg;
    atomic_fetch_add(&v->world->drops, 1);
    free(v);
}

static void world_open(struct world *w)
{
    const duet_pool_config small = {.workers_max = 1, .queue_max = 1};
    memset(w, 0, sizeof *w);
    w->loops[0] = start_loop();
    w->loops[1] = start_loop();
    w->pool = open_pool(2);
    w->helpers = open_pool(2);
    must_equal(duet_pool_open(&w->small, &small), 0);
    w->never = open_promise();
    w->settled = open_promise();
    settle(w->settled);
}

static void world_close(struct world *w)
{
    close_pool(w->pool);
    close_pool(w->small);
    close_pool(w->helpers);
    close_loop(w->loops[0]);
    close_loop(w->loops[1]);
    duet_future_unref(w->never);
    duet_future_unref(w->settled);
}

static duet_future *start_victim(struct world *w, uint64_t random)
{
    struct victim *v = malloc(sizeof *v);
    must(v != NULL);
    *v = (struct victim){.world = w, .random = random | 1};
    duet_opts opts = {.name = "victim", .drop = drop_victim};
    duet_future *f;
    if (random % 4 < 2) {
        f = duet_submit_with(w->loops[random % 2], wait_at_random, v, &opts);
    } else {
        opts.flags = random % 4 == 2 ? DUET_INTERRUPT : 0;
        f = duet_pool_submit_with(w->pool, wait_at_random, v, &opts);
    }
    must_equal(duet_future_then(f, w->loops[0], count_drop, &w->settles, count_drop), 0);
    return f;
}

/* base.h: wherever it is, it ends, once, and nothing is left of it. */
thread_test(work_that_is_cancelled_at_any_moment_of_any_wait_ends_once)
{
    enum {
        AT_ONCE = 6
    };
    struct world w;
    uint64_t random = test_seed();
    int fds = count_fds(), rounds = test_rounds(1000);
    world_open(&w);
    for (int i = 0; i < rounds; i++) {
        duet_future *fs[AT_ONCE];
        for (int k = 0; k < AT_ONCE; k++)
            fs[k] = start_victim(&w, test_random(&random));
        if (test_random(&random) % 2)
            must_equal(duet_sleep(duet_us((int64_t)(test_random(&random) % 600))), 0);
        for (int k = 0; k < AT_ONCE; k++) {
            spin(test_random(&random) % 3000);
            duet_future_cancel(fs[k]);
        }
        for (int k = 0; k < AT_ONCE; k++)
            must_equal(finish(fs[k]).err, -ECANCELED);
    }
    must_equal(atomic_load(&w.drops), rounds * AT_ONCE);
    world_close(&w);
    must_equal(atomic_load(&w.settles), rounds * AT_ONCE);
    await_threads(idle_threads);
    must_equal(count_fds(), fds);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_job_asleep_in_any_wait_is_woken_by_its_cancellation),
        cmocka_unit_test(so_is_one_whose_system_calls_are_interrupted),
        cmocka_unit_test(a_cancelled_job_fails_at_every_wait_before_it_has_an_effect),
        cmocka_unit_test(a_job_that_closes_a_handle_is_not_woken_by_its_cancellation),
        cmocka_unit_test(a_job_asleep_under_a_shield_sleeps_on),
        cmocka_unit_test(
            every_system_call_in_which_an_interruptible_job_blocks_fails_until_it_asks),
        cmocka_unit_test(a_job_that_was_cancelled_before_it_blocks_is_interrupted_too),
        cmocka_unit_test(a_wait_that_fails_is_hearing_of_it_as_well),
        cmocka_unit_test(a_job_may_end_by_its_eintr_alone),
        cmocka_unit_test(a_job_without_the_flag_is_never_interrupted),
        cmocka_unit_test(nothing_is_interrupted_before_its_own_cancellation),
        cmocka_unit_test(nothing_is_interrupted_under_a_shield),
        cmocka_unit_test(closing_and_draining_a_pool_interrupts),
        cmocka_unit_test(an_offload_that_is_late_interrupts),
        cmocka_unit_test(the_flag_means_nothing_to_a_coroutine),
        cmocka_unit_test(the_signal_is_blocked_in_every_job_that_did_not_ask_for_it),
        cmocka_unit_test(a_job_that_runs_in_the_submitting_thread_is_interrupted_there),
        cmocka_unit_test(a_job_that_runs_inside_an_interrupted_one_is_not),
        cmocka_unit_test(an_interruptible_job_is_refused_where_the_program_has_a_handler),
        cmocka_unit_test(another_signal_may_be_chosen_before_the_first_such_job),
        cmocka_unit_test(no_other_signal_may_be_chosen_later),
        cmocka_unit_test(no_job_is_interrupted_in_the_place_of_another),
        cmocka_unit_test(what_ends_in_time_has_finished),
        cmocka_unit_test(the_result_is_taken_and_the_handle_let_go),
        cmocka_unit_test(what_returns_a_result_although_it_was_asked_has_finished),
        cmocka_unit_test(what_ends_when_it_is_asked_was_cancelled),
        cmocka_unit_test(what_somebody_else_cancelled_was_cancelled),
        cmocka_unit_test(a_queued_job_that_is_ended_was_cancelled_and_never_runs),
        cmocka_unit_test(a_job_that_does_not_end_is_abandoned_and_keeps_its_worker),
        cmocka_unit_test(what_ignores_it_in_a_shield_is_abandoned_and_goes_on),
        cmocka_unit_test(an_abandoned_job_finds_itself_cancelled),
        cmocka_unit_test(without_grace_the_work_is_asked_all_the_same),
        cmocka_unit_test(cancelling_the_caller_only_ends_the_first_wait),
        cmocka_unit_test(a_cancelled_caller_does_not_wait_for_the_moment),
        cmocka_unit_test(a_promise_ends_at_once),
        cmocka_unit_test(a_callback_at_a_moment_can_be_ended),
        cmocka_unit_test(ending_oneself_or_in_a_bare_callback_is_edeadlk),
        cmocka_unit_test(a_negative_grace_is_refused_or_none),
        cmocka_unit_test(a_coroutines_result_that_races_the_deadline_is_never_lost),
        cmocka_unit_test(a_jobs_result_that_races_the_deadline_is_never_lost),
        cmocka_unit_test(a_wait_for_room_behind_jobs_that_sleep_a_moment_is_no_deadlock),
        cmocka_unit_test(work_that_is_cancelled_at_any_moment_of_any_wait_ends_once),
    };
    static const struct {
        const char *name;
        void (*body)(void);
    } roles[] = {
        {"own handler", role_own_handler},
        {"other signal", role_other_signal},
        {"too late", role_too_late},
    };
    for (size_t i = 0; argc > 1 && i < sizeof roles / sizeof roles[0]; i++) {
        if (strcmp(argv[1], roles[i].name) == 0) {
            roles[i].body();
            return 0;
        }
    }
    count_idle_threads();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
