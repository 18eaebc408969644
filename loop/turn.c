/* The turn: receive → expire → admit → run → complete or rest. */
#include "block.h"
#include "check.h"
#include "log.h"
#include "loop_impl.h"

#include <errno.h>

enum {
    RUN_BUDGET = 64, /* nodes run in a turn, before timers and I/O are looked at again */
    ADMIT_BUDGET = 64, /* submissions admitted in a turn, so that a flood starves nobody */
    DUE_BATCH = 32, /* timers taken at once */
    CROWD = 16, /* timers within one slack that are worth a wake-up together */
    TAKE_EVERY_NS = 10000,
};

/* It may lie there for long, and leave the cache: the one so many before it tells to fetch it. */
static void arrive(duet_loop *loop, struct duet__node *node)
{
    struct duet__node **last = &loop->last_arrivals[loop->arrivals.pushed % DUET__ARRIVALS_AHEAD];
    if (duet__run_queue_count(&loop->arrivals) >= DUET__ARRIVALS_AHEAD)
        duet__node_set_ahead(*last, node);
    *last = node;
    duet__node_set_ahead(node, NULL);
    duet__run_queue_push(&loop->arrivals, node);
}

/* Is there enough for this turn, and was something taken just now? The more comes at a time, the
 * less do we and the producers take the queue from each other, and the farther it is fetched
 * ahead. */
static bool has_enough(const duet_loop *loop)
{
    return duet__run_queue_count(&loop->arrivals) >= ADMIT_BUDGET &&
           loop->now_ns - loop->taken_ns < TAKE_EVERY_NS;
}

/* Wake-ups run in this turn; submissions wait to be admitted, in their order. */
static void receive(duet_loop *loop)
{
    if (has_enough(loop))
        return;
    loop->taken_ns = loop->now_ns;
    struct duet__node *node = duet__port_take(loop->port);
    while (node) {
        struct duet__node *next = node->next;
        if (node->counted)
            arrive(loop, node);
        else
            duet__run_queue_push(&loop->ready, node);
        node = next;
    }
}

/* The nearest ones, up to `most`: no more than run in a turn, so that what was fetched for them is
 * still in the cache then. */
static void take_due(duet_loop *loop, size_t most)
{
    struct duet__timer *due[DUE_BATCH];
    for (size_t count = DUE_BATCH; most > 0 && count == DUE_BATCH; most -= count) {
        count =
            duet__timers_due(&loop->timers, loop->now_ns, due, most < DUE_BATCH ? most : DUE_BATCH);
        duet__tasks_due(due, count);
        if (count > 0)
            loop->expired_ns = loop->now_ns;
    }
}

static void expire(duet_loop *loop, size_t most)
{
    if (duet__timers_want(&loop->timers, loop->now_ns))
        take_due(loop, most);
    duet__loop_join_waits(loop);
}

static void admit(duet_loop *loop)
{
    unsigned count = 0;
    struct duet__node *node;
    while (count < ADMIT_BUDGET && (node = duet__run_queue_pop(&loop->arrivals)) != NULL) {
        duet__node_fetch_ahead(node);
        duet__task_fetch(node);
        duet__run_queue_push(&loop->ready, node);
        count++;
    }
    if (count > 0)
        duet__port_admitted(loop->port, count);
}

/* In order; what becomes ready meanwhile goes to the end, and counts too: two that yield to each
 * other do not pay for a turn each time. */
static void run_ready(duet_loop *loop)
{
    struct duet__node *node;
    for (loop->budget = RUN_BUDGET;
         loop->budget > 0 && (node = duet__run_queue_pop(&loop->ready)) != NULL;) {
        loop->budget--;
        node->run(node, loop);
    }
}

static void check_ring(duet_loop *loop, int rc)
{
    if (rc < 0)
        duet__log(DUET_ERROR, "loop '%s': io_uring_enter: %s", loop->config.name,
                  duet_strerror(rc));
    duet__check(rc == 0, "the kernel lets a loop's ring go on: no seccomp filter that refuses "
                         "io_uring_enter may be installed while a loop runs");
}

/* Without a wait. */
static void complete(duet_loop *loop)
{
    if (duet__ring_has_work(&loop->ring))
        check_ring(loop, duet__ring_poll(&loop->ring));
}

static bool something_came(void *arg)
{
    duet_loop *loop = arg;
    return duet__port_has_nodes(loop->port) || duet__ring_has_news(&loop->ring);
}

/* Could only other threads give it anything to do? */
static bool only_others_could(const duet_loop *loop)
{
    return loop->live_count == loop->joined && !loop->ready.first && !loop->arrivals.first;
}

/* Odd from after its mark that it sleeps until before it takes anything. Whoever reads it, in a
 * read-modify-write too, and finds it odd, so knows that nothing was taken; acquires and releases
 * so that what was pushed before is seen. */
static void note_rest(duet_loop *loop)
{
    duet__add_acq_rel(&loop->rests, 1);
}

bool duet__loop_rests(duet_loop *loop, struct duet__census *census)
{
    uint32_t rests = duet__add_acq_rel(&loop->rests, 0);
    census->wakes += rests;
    if (duet_loop_self() == loop)
        return loop->looks && only_others_could(loop) && !duet__port_has_nodes(loop->port);
    return (rests & 1) && !duet__port_has_nodes(loop->port);
}

/* Looks at the graph that are due come before it counts as awake: so two that look at the same
 * time do not take each other for awake. */
static void look_while_resting(duet_loop *loop)
{
    if (duet__port_has_nodes(loop->port))
        return;
    loop->now_ns = duet__clock_ns();
    expire(loop, SIZE_MAX);
}

/* What is prepared is submitted by the call that waits: a turn is one system call. */
static void wait_on_ring(duet_loop *loop, int64_t by_ns)
{
    int64_t left_ns = by_ns == DUET__NEVER ? DUET__NEVER : by_ns - duet__clock_ns();
    if (left_ns > 0)
        check_ring(loop, duet__ring_wait(&loop->ring, left_ns));
    else /* timers that are always due keep no operation from its end */
        complete(loop);
}

static void sleep_until(duet_loop *loop, int64_t by_ns)
{
    bool kernel_owes_nothing = duet__ring_is_idle(&loop->ring);
    /* Ended by a post (which signals or wakes, since it reads our mark), by a completion, by the
     * nearest timer; at shutdown by the post of the stop node. */
    if (!duet__port_sleep(loop->port, kernel_owes_nothing)) {
        complete(loop); /* posts that never end keep no operation from its end either */
        return;
    }
    int64_t start_ns = duet__spin_sleeps();
    bool rests = only_others_could(loop);
    if (rests)
        note_rest(loop);
    if (kernel_owes_nothing)
        duet__port_wait(loop->port, by_ns);
    else
        wait_on_ring(loop, by_ns);
    if (rests) {
        look_while_resting(loop);
        note_rest(loop);
    }
    duet__port_awake(loop->port);
    if (duet__port_has_nodes(loop->port))
        duet__spin_slept(&loop->spin, start_ns);
}

/* When it wakes for its timers: a wake-up costs more than a dozen of them. So where they crowd, those
 * that come within the slack after the last ones fire together; one that comes alone is punctual. */
static int64_t timers_ns(duet_loop *loop)
{
    int64_t nearest_ns = duet__timers_nearest_ns(&loop->timers);
    int64_t together_ns = loop->expired_ns + loop->config.timer_slack_us * INT64_C(1000);
    if (nearest_ns >= together_ns || nearest_ns <= loop->now_ns ||
        duet__timers_count_until(&loop->timers, together_ns, CROWD) < CROWD)
        return nearest_ns;
    return together_ns;
}

static int64_t nearest_ns(duet_loop *loop)
{
    return duet__earlier_ns(timers_ns(loop), duet__loop_next_join_ns(loop));
}

int64_t duet__loop_begin_rest(duet_loop *loop)
{
    int64_t by_ns = nearest_ns(loop);
    for (int i = 0; i < DUET__STACK_CLASSES; i++)
        if (loop->stacks[i].warm_count > 0)
            by_ns = duet__earlier_ns(by_ns, duet__stacks_trim(&loop->stacks[i], loop->now_ns));
    return duet__earlier_ns(by_ns, duet__blocks_trim(loop->now_ns));
}

/* Ready, or due: more than a turn takes. */
static bool has_ready(const duet_loop *loop)
{
    return loop->ready.first || loop->arrivals.first ||
           duet__timers_nearest_ns(&loop->timers) <= loop->now_ns;
}

/* Nothing is ready: look a little, then sleep. Who looks has submitted before, so that there is
 * something to look for. */
static void rest(duet_loop *loop)
{
    if (loop->config.spin_us > 0 && duet__cpu_count() > 1)
        loop->spin.budget_ns = loop->spin.limit_ns;
    if (loop->spin.budget_ns > 0)
        complete(loop);
    if (!duet__ring_is_idle(&loop->ring))
        duet__spin_hurry(&loop->spin);
    if (!has_ready(loop) && !duet__spin(&loop->spin, something_came, loop, nearest_ns(loop)))
        sleep_until(loop, duet__loop_begin_rest(loop));
}

bool duet__loop_try_end(duet_loop *loop)
{
    return (loop->stopping || loop->draining) && loop->live_count == 0 &&
           duet__port_close(loop->port);
}

static void turn(duet_loop *loop)
{
    loop->now_ns = duet__clock_ns();
    receive(loop);
    expire(loop, RUN_BUDGET);
    admit(loop);
    run_ready(loop);
}

void duet__loop_turn_until_stopped(duet_loop *loop)
{
    for (;;) {
        turn(loop);
        if (has_ready(loop))
            complete(loop);
        else if (duet__loop_try_end(loop))
            return;
        else
            rest(loop);
    }
}

void duet__loop_turn_once(duet_loop *loop)
{
    complete(loop);
    turn(loop);
    complete(loop);
}

bool duet__loop_has_more(duet_loop *loop)
{
    return has_ready(loop) || something_came(loop);
}

void duet__loop_bury(duet_loop *loop)
{
    loop->stopping = loop->buried = true;
    do {
        receive(loop);
        admit(loop);
        while (loop->ready.first)
            run_ready(loop);
    } while (loop->arrivals.first || !duet__port_close(loop->port));
}
