/* Mutex, condition, semaphore, event, channel and select, as shipped (bridge/sync): each excludes or
 * hands over, loses nothing at a deadline, and does not touch what whoever was let in has freed. */
#include "chan.h"
#include "kernel.h"
#include "model.h"
#include "model_atomic.h"

#include <duet/sync.h>
#include <errno.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/* A broken variant: who claims one that selects does not ask whether it has been chosen. */
static bool does_not_ask;

static bool choose(struct duet__choice *choice, uint32_t index)
{
    if (!does_not_ask)
        return duet__choose(choice, index);
    duet__store_relaxed(&choice->chosen, index + 1);
    return true;
}

/* The sources themselves, so that broken variants can be written with their insides. */
#define duet__choose choose
#define describe describe_select
#define may_end may_end_select
#define wait_ops wait_ops_select
#include "../../bridge/sync/chan.c"
#include "../../bridge/sync/select.c"
#undef describe
#undef may_end
#undef wait_ops
#define take take_permit
#define take_or_mark take_or_mark_permit
#define wait_in_queue wait_for_permit
#define unmark_if_empty unmark_sem
#define hand_over hand_over_permit
#define describe describe_sem
#define wait_ops wait_ops_sem
#define WAITED_FOR SEM_WAITED_FOR
#include "../../bridge/sync/sem.c"
#undef take
#undef take_or_mark
#undef wait_in_queue
#undef unmark_if_empty
#undef hand_over
#undef describe
#undef wait_ops
#undef WAITED_FOR

static struct duet__parker parkers[3];
static int outcome[3];
static uint64_t data[2];

static void reset(void)
{
    duet__here_set(NULL);
    model_kernel_reset();
    memset(data, 0, sizeof data);
    dice_state = 1; /* each execution begins alike */
    for (int i = 0; i < 3; i++) {
        duet__parker_init(&parkers[i], duet__here()->ops, NULL, 0);
        outcome[i] = 1;
    }
}

static int me(void)
{
    return (int)(duet__here() - parkers);
}

/* Whoever returns from a wait has no token left, and is in no queue. */
static void check_parker(void)
{
    struct duet__parker *parker = duet__here();
    model_assert(model_newest(&parker->word, sizeof parker->word) == 0);
    model_assert(!parker->wait && !parker->joined && parker->held == 0);
}

static void spawn(int i, void (*fn)(void *arg), void *arg)
{
    model_spawn(fn, arg, &parkers[i]);
}

static duet_deadline never = {INT64_MAX}, soon = {1000};

/* ---- Mutex ---- */

static duet_mutex mutex;
static bool last_frees;

static void mutex_thread(void *by)
{
    outcome[me()] = duet_mutex_lock(&mutex, *(duet_deadline *)by);
    if (outcome[me()] == 0) {
        uint64_t seen = duet__plain_read(&data[0]) + 1;
        duet__plain_write(&data[0], seen);
        model_assert(duet_mutex_unlock(&mutex) == 0);
        if (seen == 2 && last_frees)
            model_free(&mutex, sizeof mutex);
    }
    check_parker();
}

static void setup_mutex(void)
{
    reset();
    mutex = (duet_mutex)DUET_MUTEX_INIT;
    last_frees = false;
    for (int i = 0; i < 3; i++)
        spawn(i, mutex_thread, i == 1 ? &soon : &never);
}

static void finally_mutex(void)
{
    uint64_t locked = 0;
    for (int i = 0; i < 3; i++) {
        model_assert(outcome[i] == 0 || (i == 1 && outcome[i] == -ETIME));
        locked += outcome[i] == 0;
    }
    model_assert(data[0] == locked);
    model_assert(model_newest(&mutex._private[3], sizeof(uintptr_t)) == 0);
}

static void setup_mutex_freed(void)
{
    reset();
    mutex = (duet_mutex)DUET_MUTEX_INIT;
    last_frees = true;
    spawn(0, mutex_thread, &never);
    spawn(1, mutex_thread, &never);
}

static void finally_nothing(void)
{
}

/* ---- Condition ---- */

static duet_cond cond;
static bool unlocks_first;

/* A broken variant: between the unlock and the queue a signal is lost. */
static int careless_cond_wait(duet_deadline by)
{
    static duet_mutex unused = DUET_MUTEX_INIT;
    duet_mutex_unlock(&mutex);
    duet_mutex_lock(&unused, never);
    int rc = duet_cond_wait(&cond, &unused, by);
    duet_mutex_unlock(&unused);
    duet_mutex_lock(&mutex, never);
    return rc;
}

/* Waits until there is one, and takes it. */
static void cond_wait_thread(void *arg)
{
    duet_deadline by = *(duet_deadline *)arg;
    int rc = duet_mutex_lock(&mutex, never);
    while (rc == 0 && duet__plain_read(&data[0]) == 0)
        rc = unlocks_first ? careless_cond_wait(by) : duet_cond_wait(&cond, &mutex, by);
    if (duet__plain_read(&data[0]) > 0) {
        duet__plain_write(&data[0], duet__plain_read(&data[0]) - 1);
        rc = 0;
    }
    model_assert(duet_mutex_unlock(&mutex) == 0);
    outcome[me()] = rc;
    check_parker();
}

static void signal_thread(void *arg)
{
    for (int i = *(int *)arg; i > 0; i--) {
        model_assert(duet_mutex_lock(&mutex, never) == 0);
        duet__plain_write(&data[0], duet__plain_read(&data[0]) + 1);
        duet_cond_signal(&cond);
        model_assert(duet_mutex_unlock(&mutex) == 0);
    }
    check_parker();
}

static int once = 1, twice = 2;

static void setup_cond(void)
{
    reset();
    mutex = (duet_mutex)DUET_MUTEX_INIT;
    cond = (duet_cond)DUET_COND_INIT;
    spawn(0, cond_wait_thread, &never);
    spawn(1, cond_wait_thread, &soon);
    spawn(2, signal_thread, &twice);
}

static void finally_cond(void)
{
    model_assert(outcome[0] == 0);
    model_assert(outcome[1] == 0 || outcome[1] == -ETIME);
    model_assert(data[0] == (outcome[1] == 0 ? 0 : 1));
}

static void setup_cond_pair(void)
{
    reset();
    mutex = (duet_mutex)DUET_MUTEX_INIT;
    cond = (duet_cond)DUET_COND_INIT;
    outcome[1] = 0;
    spawn(0, cond_wait_thread, &never);
    spawn(2, signal_thread, &once);
}

/* ---- Semaphore ---- */

static duet_sem sem;
static bool tells_first;

/* A broken variant: tells under the lock, which it releases when the object may be gone. */
static void careless_post(void)
{
    struct sem *inside = sem_of(&sem);
    if (!(duet__load_relaxed(&inside->word) & SEM_WAITED_FOR)) {
        duet_sem_post(&sem);
        return;
    }
    duet__queue_lock(&inside->queue);
    struct duet__waiter *first = duet__waiter_pop(&inside->queue.waiters);
    if (first)
        unmark_sem(inside);
    duet__waiter_tell(first);
    duet__queue_unlock(&inside->queue);
    if (!first)
        duet_sem_post(&sem);
}

static void sem_wait_thread(void *by)
{
    outcome[me()] = duet_sem_wait(&sem, *(duet_deadline *)by);
    if (outcome[me()] == 0)
        model_assert(duet__plain_read(&data[0]) == 42);
    if (last_frees)
        model_free(&sem, sizeof sem);
    check_parker();
}

static void post_thread(void *arg)
{
    (void)arg;
    duet__plain_write(&data[0], 42);
    if (tells_first)
        careless_post();
    else
        model_assert(duet_sem_post(&sem) == 0);
}

static void setup_sem(void)
{
    reset();
    duet_sem_init(&sem, 0);
    last_frees = false;
    spawn(0, sem_wait_thread, &soon);
    spawn(1, sem_wait_thread, &soon);
    spawn(2, post_thread, NULL);
}

static void finally_sem(void)
{
    uintptr_t taken = (uintptr_t)(outcome[0] == 0) + (uintptr_t)(outcome[1] == 0);
    model_assert(taken + model_newest(&sem._private[3], sizeof(uintptr_t)) / PERMIT == 1);
    model_assert(model_newest(&sem._private[3], sizeof(uintptr_t)) % PERMIT == 0);
}

static void setup_sem_freed(void)
{
    reset();
    duet_sem_init(&sem, 0);
    last_frees = true;
    spawn(0, sem_wait_thread, &never);
    spawn(2, post_thread, NULL);
}

/* ---- Event ---- */

static duet_event event;

static void event_wait_thread(void *by)
{
    outcome[me()] = duet_event_wait(&event, *(duet_deadline *)by);
    if (outcome[me()] == 0)
        model_assert(duet__plain_read(&data[0]) == 42);
    if (last_frees)
        model_free(&event, sizeof event);
    check_parker();
}

static void set_thread(void *arg)
{
    (void)arg;
    duet__plain_write(&data[0], 42);
    duet_event_set(&event);
}

static void setup_event(void)
{
    reset();
    event = (duet_event)DUET_EVENT_INIT;
    last_frees = false;
    spawn(0, event_wait_thread, &never);
    spawn(1, event_wait_thread, &soon);
    spawn(2, set_thread, NULL);
}

static void finally_event(void)
{
    model_assert(outcome[0] == 0);
    model_assert(outcome[1] == 0 || outcome[1] == -ETIME);
    model_assert(duet_event_is_set(&event));
}

static void setup_event_freed(void)
{
    reset();
    event = (duet_event)DUET_EVENT_INIT;
    last_frees = true;
    spawn(0, event_wait_thread, &never);
    spawn(2, set_thread, NULL);
}

static void setup_event_twice(void)
{
    setup_event_freed();
    last_frees = false;
    spawn(1, set_thread, NULL);
}

static void finally_event_set(void)
{
    model_assert(outcome[0] == 0);
}

/* ---- Channel and select ---- */

static duet_chan *chans[2];
static int received[2];

/* Is the first thread favoured by the channels' locks? */
static bool favoured;

static duet_chan *open_chan(size_t capacity)
{
    duet_chan *c;
    if (duet_chan_open(&c, sizeof(int), capacity) < 0)
        abort();
    if (favoured)
        c->lock.favoured = (uint32_t)(uintptr_t)&parkers[0];
    return c;
}

/* The first is locked before the second, in each execution. */
static void open_chans(size_t capacity)
{
    for (int i = 0; i < 2; i++)
        if (chans[i])
            duet_chan_unref(chans[i]);
    duet_chan *a = open_chan(capacity), *b = open_chan(capacity);
    chans[0] = a < b ? a : b;
    chans[1] = a < b ? b : a;
    received[0] = received[1] = 0;
}

static void send_thread(void *by)
{
    int item = 5;
    outcome[me()] = duet_chan_send(chans[0], &item, *(duet_deadline *)by);
    item = 0; /* the caller's again */
    check_parker();
}

static void recv_thread(void *by)
{
    outcome[me()] = duet_chan_recv(chans[0], &received[0], *(duet_deadline *)by);
    check_parker();
}

static void setup_rendezvous(void)
{
    reset();
    open_chans(0);
    spawn(0, send_thread, &soon);
    spawn(1, recv_thread, &soon);
}

static void setup_room(void)
{
    reset();
    open_chans(1);
    spawn(0, send_thread, &soon);
    spawn(1, recv_thread, &soon);
}

static void finally_room(void)
{
    model_assert(outcome[0] == 0);
    model_assert(received[0] == (outcome[1] == 0 ? 5 : 0));
    model_assert(chans[0]->count == (outcome[1] == 0 ? 0U : 1U));
}

static void finally_rendezvous(void)
{
    model_assert(outcome[0] == outcome[1]);
    model_assert(received[0] == (outcome[0] == 0 ? 5 : 0));
}

/* The one would send on the first or receive on the second; the other the other way round. */
static void select_thread(void *by)
{
    int item = 7 + me();
    duet_case cases[] = {
        me() == 0 ? duet_case_send(chans[0], &item) : duet_case_recv(chans[0], &received[0]),
        me() == 0 ? duet_case_recv(chans[1], &received[1]) : duet_case_send(chans[1], &item),
    };
    outcome[me()] = duet_select(cases, 2, *(duet_deadline *)by);
    check_parker();
}

static void setup_selects(void)
{
    reset();
    open_chans(0);
    spawn(0, select_thread, &soon);
    spawn(1, select_thread, &soon);
}

static void finally_selects(void)
{
    model_assert(outcome[0] == outcome[1]);
    model_assert(received[0] == (outcome[0] == 0 ? 7 : 0));
    model_assert(received[1] == (outcome[0] == 1 ? 8 : 0));
}

static void send_second_thread(void *arg)
{
    int item = 6;
    (void)arg;
    outcome[me()] = duet_chan_send(chans[1], &item, soon);
    check_parker();
}

/* One that would receive on either; two that send, on one each. */
static void select_recv_thread(void *by)
{
    duet_case cases[] = {duet_case_recv(chans[0], &received[0]),
                         duet_case_recv(chans[1], &received[1])};
    outcome[me()] = duet_select(cases, 2, *(duet_deadline *)by);
    check_parker();
}

static void setup_select_recv(void)
{
    reset();
    open_chans(0);
    spawn(1, select_recv_thread, &soon);
    spawn(0, send_thread, &soon);
    spawn(2, send_second_thread, NULL);
}

static void finally_select_recv(void)
{
    model_assert(outcome[1] == 0 || outcome[1] == 1 || outcome[1] == -ETIME);
    model_assert((outcome[0] == 0) == (outcome[1] == 0));
    model_assert((outcome[2] == 0) == (outcome[1] == 1));
    model_assert(received[0] == (outcome[1] == 0 ? 5 : 0));
    model_assert(received[1] == (outcome[1] == 1 ? 6 : 0));
}

static void select_event_thread(void *by)
{
    duet_case cases[] = {duet_case_recv(chans[0], &received[0]), duet_case_event(&event)};
    outcome[me()] = duet_select(cases, 2, *(duet_deadline *)by);
    if (outcome[me()] == 1)
        model_assert(duet__plain_read(&data[0]) == 42);
    check_parker();
}

static void setup_select_event(void)
{
    reset();
    open_chans(0);
    event = (duet_event)DUET_EVENT_INIT;
    spawn(0, send_thread, &soon);
    spawn(1, select_event_thread, &never);
    spawn(2, set_thread, NULL);
}

static void finally_select_event(void)
{
    model_assert(outcome[1] == (outcome[0] == 0 ? 0 : 1));
    model_assert(received[0] == (outcome[0] == 0 ? 5 : 0));
    model_assert(model_newest(&event._private[3], sizeof(uintptr_t)) == DUET__EVENT_SET);
}

static void on_switch(void *parker)
{
    duet__here_set(parker);
}

/* Deadlines pass; but a wait that any thread could end is looked at again for ever. */
static bool pass_a_little_time(void)
{
    return model_kernel.now_ns < 16 * DUET__YOUNG_NS && model_kernel_pass_time();
}

/* In a process of its own: what an execution that fails leaves in the graph of waits is gone. */
static int check(const char *name, int bound, void (*setup)(void), void (*finally)(void),
                 enum model_expectation expectation)
{
    int status = 1;
    fflush(stdout);
    pid_t child = fork();
    if (child == 0)
        exit(model_check(name, bound, setup, finally, expectation));
    if (child < 0 || waitpid(child, &status, 0) != child || status != 0)
        return 1;
    return 0;
}

int main(void)
{
    int wrong = 0;
    model_on_switch = on_switch;
    model_on_idle = pass_a_little_time;
    wrong += check("mutex: excludes, and leaves nothing behind at a deadline", 3, setup_mutex,
                   finally_mutex, MODEL_HOLDS);
    wrong += check("mutex: whoever was let in may free it", 4, setup_mutex_freed, finally_nothing,
                   MODEL_HOLDS);
    model_weak.cas_release = true;
    wrong += check("mutex: unlock does not release", 3, setup_mutex, finally_mutex, MODEL_FAILS);
    model_weak.cas_release = false;
    model_weak.cas_acq_rel = true;
    wrong += check("mutex: lock does not acquire", 3, setup_mutex, finally_mutex, MODEL_FAILS);
    model_weak.cas_acq_rel = false;

    wrong += check("condition: a signal is not lost at a deadline", 2, setup_cond, finally_cond,
                   MODEL_HOLDS);
    wrong += check("condition: one waits, one signals", 3, setup_cond_pair, finally_nothing,
                   MODEL_HOLDS);
    unlocks_first = true;
    wrong += check("condition: unlocks before it stands in the queue", 3, setup_cond_pair,
                   finally_nothing, MODEL_FAILS);
    unlocks_first = false;

    wrong += check("semaphore: a permit is not lost at a deadline", 3, setup_sem, finally_sem,
                   MODEL_HOLDS);
    wrong += check("semaphore: whoever was let in may free it", 4, setup_sem_freed, finally_nothing,
                   MODEL_HOLDS);
    tells_first = true;
    wrong += check("semaphore: tells before it lets go of the lock", 4, setup_sem_freed,
                   finally_nothing, MODEL_FAILS);
    tells_first = false;
    model_weak.cas_release = true;
    wrong += check("semaphore: post does not release", 3, setup_sem, finally_sem, MODEL_FAILS);
    model_weak.cas_release = false;

    wrong += check("event: wakes all, or is seen", 3, setup_event, finally_event, MODEL_HOLDS);
    wrong += check("event: whoever was woken may free it", 4, setup_event_freed, finally_nothing,
                   MODEL_HOLDS);
    wrong += check("event: set by two", 3, setup_event_twice, finally_event_set, MODEL_HOLDS);
    model_weak.load_acquire = true;
    wrong += check("event: who sees it set does not acquire", 3, setup_event_freed, finally_nothing,
                   MODEL_FAILS);
    model_weak.load_acquire = false;

    for (int i = 0; i < 2; i++) {
        favoured = i == 1; /* its lock ends that as the other thread comes: test_bias.c */
        wrong += check("channel: both meet, or neither, at a deadline", 4, setup_rendezvous,
                       finally_rendezvous, MODEL_HOLDS);
        wrong += check("channel: what was sent is received or inside", 4, setup_room, finally_room,
                       MODEL_HOLDS);
        wrong += check("select: against select, both ways", 3, setup_selects, finally_selects,
                       MODEL_HOLDS);
        wrong += check("select: one of two who send", 3 - i, setup_select_recv, finally_select_recv,
                       MODEL_HOLDS);
        wrong += check("select: a sender against an event", 3 - i, setup_select_event,
                       finally_select_event, MODEL_HOLDS);
    }
    favoured = false;
    does_not_ask = true;
    wrong += check("select: who claims does not ask whether it was chosen", 3, setup_select_recv,
                   finally_select_recv, MODEL_FAILS);
    does_not_ask = false;
    return wrong;
}
