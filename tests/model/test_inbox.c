/* The door of a loop: waking, ending, and the gate, as shipped (bridge/inbox.c, base/mpsc.h,
 * base/park.c).
 *
 * Each broken variant stands for a fault that somebody made once; the checker must find it. */
#include "kernel.h"
#include "model.h"
#include "model_atomic.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

static long model_signal(int fd, const void *bytes, size_t size);
static int model_poll(struct pollfd *fds, nfds_t count, int timeout);
static ssize_t model_read(int fd, void *bytes, size_t size);
#define syscall(number, fd, bytes, size) model_signal(fd, bytes, size)
#define poll(fds, count, timeout) model_poll(fds, count, timeout)
#define read(fd, bytes, size) model_read(fd, bytes, size)
#define eventfd(count, flags) (99)
#include "inbox.c"
#undef syscall
#undef poll
#undef read

enum {
    NODES = 4
};

static duet_loop loop;
static struct duet__port *port;
static uint64_t payload[NODES];
static struct duet__node nodes[NODES];
static struct duet__parker parkers[3];
static int expected, taken[NODES], taken_count, accepted, refused;
static bool stop_posted;
static struct duet__node stop_node;
static bool ended;

/* How the loop sleeps: in the ring; on the queue's head; now so, now so. */
static bool sleeps_on_the_head, sleeps_in_turn;
/* Broken variants of what surrounds the port. */
static bool sleeps_though_nodes_came, forgets_owed_signals, closes_without_looking, loses_admission;

/* ---- The kernel ---- */

static long model_signal(int fd, const void *bytes, size_t size)
{
    (void)fd, (void)bytes;
    model_kernel_point();
    if (model_kernel.closed)
        model_fail("an eventfd is written after it was closed");
    if (!model_kernel.lose_signal)
        model_kernel.signals++;
    return (long)size;
}

static bool is_readable(void *arg)
{
    (void)arg;
    return model_kernel.signals > 0;
}

static int model_poll(struct pollfd *fds, nfds_t count, int timeout)
{
    (void)fds, (void)count, (void)timeout;
    model_block(is_readable, NULL);
    return 1;
}

static ssize_t model_read(int fd, void *bytes, size_t size)
{
    (void)fd;
    memcpy(bytes, &model_kernel.signals, size);
    model_kernel.signals = 0;
    return (ssize_t)size;
}

/* The ring: waits for a signal not seen yet, or returns for another reason (a timer, I/O). */
static uint64_t seen_signals;

static bool is_signalled(void *arg)
{
    (void)arg;
    return model_kernel.signals > seen_signals;
}

static void ring_wait(void)
{
    if (model_choose(2) == 0)
        model_block(is_signalled, NULL);
    seen_signals = model_kernel.signals;
}

/* ---- What loop.c does around the port ---- */

bool duet__loop_may_turn(const duet_loop *l, struct duet__look *look)
{
    (void)l;
    (void)look;
    return true; /* nobody sleeps for long in a model */
}

void duet__loop_gone(duet_loop *l)
{
    model_kernel.closed = true;
    model_free(l->port, sizeof *l->port);
}

void duet_loop_unref(duet_loop *l)
{
    if (duet__port_unref(l->port))
        duet__loop_gone(l);
}

static void take_all(void)
{
    unsigned admitted = 0;
    for (struct duet__node *node = duet__port_take(port), *next; node; node = next) {
        next = duet__plain_read(&node->next);
        if (node == &stop_node) {
            stop_posted = true;
            continue;
        }
        size_t i = (size_t)(node - nodes);
        model_assert(duet__plain_read(&payload[i]) ==
                     i + 100); /* what the producer wrote is seen */
        model_assert(taken[i]++ == 0); /* once */
        model_assert(i % 2 == 0 || taken[i - 1]); /* in each producer's order */
        taken_count++;
        admitted += node->counted;
    }
    if (admitted > 0 && !loses_admission)
        duet__port_admitted(port, admitted);
}

static bool close_port(void)
{
    if (closes_without_looking) {
        duet__exchange_acquire(&port->queue.head, DUET__MPSC_CLOSED);
        return true;
    }
    if (forgets_owed_signals)
        port->signals_owed = 0;
    return duet__port_close(port);
}

static void loop_thread(void *arg)
{
    (void)arg;
    for (;;) {
        take_all();
        if ((expected ? taken_count == expected : stop_posted) && close_port())
            break;
        bool in_wait = sleeps_in_turn ? model_choose(2) : sleeps_on_the_head;
        if (!duet__port_sleep(port, in_wait) && !sleeps_though_nodes_came)
            continue;
        if (in_wait)
            duet__port_wait(port, model_choose(2) ? 1000 : DUET__NEVER);
        else
            ring_wait();
        duet__port_awake(port);
    }
    ended = true;
    duet_loop_unref(&loop);
}

/* ---- Waking and ending: producers post wake-ups, the loop ends when it has them all ---- */

static void post_two(void *arg)
{
    size_t first = *(size_t *)arg;
    for (size_t i = first; i < first + 2; i++) {
        duet__plain_write(&payload[i], i + 100);
        model_assert(duet__port_post(port, &nodes[i]));
    }
}

static void post_one(void *arg)
{
    size_t i = *(size_t *)arg;
    duet__plain_write(&payload[i], i + 100);
    model_assert(duet__port_post(port, &nodes[i]));
}

static size_t numbers[] = {0, 1, 2, 3};

static void reset(unsigned places)
{
    duet_loop_config config = {.inbox_max = places, .when_full = DUET_FULL_WAIT};
    if (port)
        duet__free(port->block);
    if (duet__port_open(&port, &config) < 0)
        abort();
    model_kernel_reset();
    memset(&loop, 0, sizeof loop);
    memset(nodes, 0, sizeof nodes);
    memset(payload, 0, sizeof payload);
    memset(taken, 0, sizeof taken);
    memset(&stop_node, 0, sizeof stop_node);
    loop.port = port;
    taken_count = accepted = refused = 0;
    seen_signals = 0;
    stop_posted = ended = false;
    for (int i = 0; i < 3; i++)
        duet__parker_init(&parkers[i], duet__here()->ops, NULL, 0);
}

static void setup_wake(void)
{
    duet__here_set(NULL);
    reset(8);
    expected = 3;
    model_spawn(loop_thread, NULL, NULL);
    model_spawn(post_two, &numbers[0], NULL);
    model_spawn(post_one, &numbers[2], NULL);
}

static void finally_wake(void)
{
    model_assert(taken_count == expected && ended);
}

/* ---- The gate: submitters with one place among them, and a stop ---- */

static void submit_one(void *arg)
{
    size_t i = *(size_t *)arg;
    int rc = duet__inbox_enter(&loop, false, DUET_NEVER);
    if (rc == 0) {
        duet__plain_write(&payload[i], i + 100);
        rc = duet__inbox_push(&loop, &nodes[i]);
    }
    model_assert(rc == 0 || rc == -ESHUTDOWN);
    accepted += rc == 0;
    refused += rc < 0;
    duet_loop_unref(&loop); /* the caller's own, by contract */
}

static void stop(void *arg)
{
    (void)arg;
    if (duet__port_shut(port)) {
        duet__port_post(port, &stop_node);
        duet_loop_unref(&loop);
    }
    duet_loop_unref(&loop);
}

static void setup_gate(void)
{
    duet__here_set(NULL);
    reset(1);
    expected = 0;
    for (int i = 0; i < 3; i++)
        duet__port_ref(port);
    model_spawn(loop_thread, NULL, NULL);
    model_spawn(submit_one, &numbers[0], &parkers[0]);
    model_spawn(submit_one, &numbers[2], &parkers[1]);
    model_spawn(stop, NULL, &parkers[2]);
}

/* Without a stop both must get their place, one after the other. */
static void setup_room(void)
{
    duet__here_set(NULL);
    reset(1);
    expected = 2;
    for (int i = 0; i < 2; i++)
        duet__port_ref(port);
    model_spawn(loop_thread, NULL, NULL);
    model_spawn(submit_one, &numbers[0], &parkers[0]);
    model_spawn(submit_one, &numbers[2], &parkers[1]);
}

static void finally_gate(void)
{
    model_assert(accepted == taken_count); /* nothing accepted is left behind */
    model_assert(ended && model_kernel.closed);
}

static void on_switch(void *parker)
{
    duet__here_set(parker);
}

int main(void)
{
    int wrong = 0;
    model_on_switch = on_switch;
    wrong += model_check("inbox: wake and end", 3, setup_wake, finally_wake, MODEL_HOLDS);

    model_weak.cas_release = true;
    wrong += model_check("inbox: push does not release", 3, setup_wake, finally_wake, MODEL_FAILS);
    model_weak.cas_release = false;

    model_weak.exchange_acquire = true;
    wrong += model_check("inbox: take does not acquire", 3, setup_wake, finally_wake, MODEL_FAILS);
    model_weak.exchange_acquire = false;

    sleeps_though_nodes_came = true;
    wrong += model_check("inbox: sleeps though parking failed", 3, setup_wake, finally_wake,
                         MODEL_FAILS);
    sleeps_though_nodes_came = false;

    model_kernel.lose_signal = true;
    wrong += model_check("inbox: a signal is swallowed", 3, setup_wake, finally_wake, MODEL_FAILS);
    model_kernel.lose_signal = false;

    forgets_owed_signals = true;
    wrong += model_check("inbox: ends without the signals still owed", 3, setup_wake, finally_wake,
                         MODEL_FAILS);
    forgets_owed_signals = false;

    sleeps_on_the_head = true;
    wrong += model_check("inbox: sleeps on the head", 3, setup_wake, finally_wake, MODEL_HOLDS);

    model_kernel.lose_futex_wake = true;
    wrong += model_check("inbox: sleeps on the head, and a wake-up is lost", 3, setup_wake,
                         finally_wake, MODEL_FAILS);
    model_kernel.lose_futex_wake = false;

    wrong += model_check("gate: submitters against a stop, the loop on the head", 2, setup_gate,
                         finally_gate, MODEL_HOLDS);
    sleeps_on_the_head = false;

    sleeps_in_turn = true;
    wrong += model_check("inbox: sleeps in the ring and on the head", 2, setup_wake, finally_wake,
                         MODEL_HOLDS);

    forgets_owed_signals = true;
    wrong += model_check("inbox: sleeps in both, and forgets what is owed", 3, setup_wake,
                         finally_wake, MODEL_FAILS);
    forgets_owed_signals = false;
    sleeps_in_turn = false;

    wrong +=
        model_check("gate: two submitters, one place", 3, setup_room, finally_gate, MODEL_HOLDS);

    model_weak.lose_or = true;
    wrong += model_check("gate: a waiter for room does not announce itself", 3, setup_room,
                         finally_gate, MODEL_FAILS);
    model_weak.lose_or = false;

    loses_admission = true;
    wrong +=
        model_check("gate: places are not given back", 3, setup_room, finally_gate, MODEL_FAILS);
    loses_admission = false;

    wrong +=
        model_check("gate: submitters against a stop", 2, setup_gate, finally_gate, MODEL_HOLDS);

    closes_without_looking = true;
    wrong += model_check("gate: closes without looking for the last node", 2, setup_gate,
                         finally_gate, MODEL_FAILS);
    closes_without_looking = false;
    return wrong;
}
