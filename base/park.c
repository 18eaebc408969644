#include "park.h"
#include "check.h"
#include "clock.h"
#include "fork.h"
#include "graph.h"
#include "hooks.h"
#include "spin.h"

#include <errno.h>
#include <stdio.h>

/* ---- A thread sleeps ---- */

struct look {
    _Atomic uint32_t *word;
    uint32_t seen;
};

static bool changed(void *arg)
{
    struct look *look = arg;
    return duet__load_relaxed(look->word) != look->seen; /* a look; duet__park() acquires */
}

static _Thread_local struct duet__spin thread_spin = {.limit_ns = 30000};
static _Thread_local struct duet__blocking *thread_blocking;

void duet__blocking_set(struct duet__blocking *blocking)
{
    thread_blocking = blocking;
}

void duet__blocking_begins(void)
{
    if (thread_blocking)
        thread_blocking->begins(thread_blocking);
}

void duet__blocking_ended(void)
{
    if (thread_blocking)
        thread_blocking->ended(thread_blocking);
}

/* Sleeps while the word is as we left it, until then; false: it has changed. */
static bool sleep_on_word_until(struct duet__parker *parker, uint32_t asleep, int64_t by_ns)
{
    /* A look; duet__park() acquires. */
    while (duet__load_relaxed(&parker->word) == asleep) {
        if (duet__clock_ns() >= by_ns)
            return true;
        duet__futex_wait(&parker->word, asleep, by_ns);
    }
    return false;
}

/* Likewise, without end, or to its deadline. On the way a wait that lasts joins the graph, and is
 * looked at again as it grows old, and when it sleeps again, of less than before; a job's joins
 * also if it cannot be stuck, so that others may tell what it waits for. */
static void sleep_on_word(struct duet__parker *parker, uint32_t asleep, int64_t by_ns,
                          int64_t start_ns)
{
    struct duet__wait *wait = parker->wait;
    if (wait && wait->joined)
        duet__graph_again(wait);
    else if (wait && (wait->ops->may_end || parker->work) && by_ns > start_ns + DUET__YOUNG_NS) {
        if (!sleep_on_word_until(parker, asleep, start_ns + DUET__YOUNG_NS))
            return;
        wait->since_ns = start_ns;
        duet__graph_join(wait);
    }
    for (int64_t look_ns; wait && wait->joined && (look_ns = duet__wait_look_ns(wait)) < by_ns;) {
        if (!sleep_on_word_until(parker, asleep, look_ns))
            return;
        duet__graph_again(wait);
    }
    duet__futex_wait(&parker->word, asleep, by_ns);
}

void duet__thread_sleep(struct duet__parker *parker, uint32_t seen, uint32_t asleep, int64_t by_ns)
{
    struct look look = {&parker->word, seen};
    if (parker->work) /* a job, that lends its slot when it sleeps */
        duet__spin_hurry(&thread_spin);
    if (duet__spin(&thread_spin, changed, &look, by_ns))
        return;
    /* Either an unpark reads SLEEPING and wakes, or this reads its token and fails: one object's
     * order is enough. Publishes what a canceller reads of the work; pairs with
     * duet__park_cancel(). */
    if (!duet__cas_release(&parker->word, &seen, asleep))
        return;
    int64_t start = duet__clock_ns();
    duet__blocking_begins();
    sleep_on_word(parker, asleep, by_ns, start);
    if (!parker->wait || !parker->wait->joined) /* else when it leaves the graph */
        duet__blocking_ended();
    /* Woken by whoever cleared SLEEPING; at the deadline or a spurious return we clear it
     * ourselves. Acquires nothing here: duet__park() reads the word again. */
    duet__and_acquire(&parker->word, ~(uint32_t)(DUET__PARK_SLEEPING | DUET__PARK_SHIELDED));
    duet__spin_slept(&thread_spin, start);
}

void duet__thread_wake(struct duet__parker *parker)
{
    duet__futex_wake(&parker->word); /* an address; the memory may be gone */
}

void duet__thread_pass(struct duet__parker *parker)
{
    (void)parker; /* a blocked thread keeps nobody else from running */
}

int64_t duet__thread_now(struct duet__parker *parker)
{
    (void)parker;
    return duet__clock_ns();
}

static const struct duet__parker_ops thread_parker_ops = {
    .may_wait = true,
    .may_block = true,
    .sleep = duet__thread_sleep,
    .wake = duet__thread_wake,
    .wake_cancelled = duet__thread_wake,
    .pass = duet__thread_pass,
    .now_ns = duet__thread_now,
};

/* ---- Who runs here ---- */

static const struct duet__parker_ops bare_parker_ops = {
    .may_wait = false,
    .pass = duet__thread_pass,
    .now_ns = duet__thread_now,
};

static _Thread_local struct duet__parker thread_parker = {.ops = &thread_parker_ops};
static _Thread_local struct duet__parker bare_parker = {.ops = &bare_parker_ops};
static _Thread_local struct duet__parker host_parker = {.ops = &bare_parker_ops};
_Thread_local struct duet__parker *duet__here_now;

/* Wherever it forked, the child's one thread is a plain one. */
static void reset(void)
{
    uint32_t held = thread_parker.held;
    struct duet_context *context =
        duet__here_now == &host_parker ? host_parker.context : thread_parker.context;
    duet__here_now = NULL;
    thread_blocking = NULL;
    duet__parker_init(&thread_parker, &thread_parker_ops, NULL, 0);
    thread_parker.held = held;
    thread_parker.context = context;
}
DUET__IN_CHILD(reset)

struct duet__parker *duet__here_thread(void)
{
    return &thread_parker;
}

struct duet__parker *duet__here_bare(void)
{
    return &bare_parker;
}

struct duet__parker *duet__here_host(void)
{
    return &host_parker;
}

/* ---- Park and unpark ---- */

int duet__told(int rc)
{
    struct duet__parker *parker = duet__here();
    if (rc == -ECANCELED && parker->ops->heard)
        parker->ops->heard(parker);
    return rc;
}

static int park(struct duet__parker *parker, duet_deadline by, bool shielded, bool must_come)
{
    for (;;) {
        /* Acquires what the unparker did. Pairs with the release in duet__unpark(). */
        uint32_t word = duet__load_acquire(&parker->word);
        if (word >= DUET__PARK_TOKEN) {
            if (duet__is_observed(parker)) /* told by now, if it has slept for it */
                duet__note_nobody(parker->observed);
            duet__sub_acquire(&parker->word, DUET__PARK_TOKEN);
            return 0;
        }
        if ((word & DUET__PARK_CANCEL) && !shielded)
            return -ECANCELED;
        if ((word & DUET__PARK_STUCK) && !must_come)
            return -EDEADLK;
        if (by.ns != DUET__NEVER && parker->ops->now_ns(parker) >= by.ns)
            return -ETIME;
        uint32_t asleep =
            word | DUET__PARK_SLEEPING | (shielded ? (uint32_t)DUET__PARK_SHIELDED : 0);
        parker->streak = 0;
        parker->ops->sleep(parker, word, asleep, by.ns);
    }
}

void duet__unpark(struct duet__parker *parker)
{
    /* Before the change: from the moment the owner has its token, a thread's parker may be gone. */
    const struct duet__parker_ops *ops = parker->ops;
    if (duet__is_observed(parker))
        duet__note_by(parker->observed);
    uint32_t word = duet__load_relaxed(&parker->word), next;
    do {
        next = (word + DUET__PARK_TOKEN) & ~(uint32_t)(DUET__PARK_SLEEPING | DUET__PARK_SHIELDED);
        /* Publishes what was settled or handed over. Pairs with the acquire in duet__park().
         * Acquires, for a coroutine that sleeps, what it wrote before it fell asleep. */
    } while (!duet__cas_acq_rel(&parker->word, &word, next));
    if (word & DUET__PARK_SLEEPING)
        ops->wake(parker);
}

void duet__park_cancel(struct duet__parker *parker)
{
    uint32_t word = duet__load_relaxed(&parker->word), next;
    bool wakes;
    do {
        if (word & DUET__PARK_CANCEL)
            return;
        wakes = (word & DUET__PARK_SLEEPING) && !(word & DUET__PARK_SHIELDED);
        next = word | DUET__PARK_CANCEL;
        if (wakes)
            next &= ~(uint32_t)DUET__PARK_SLEEPING;
        if (wakes && duet__is_observed(parker))
            duet__note_by(parker->observed);
        /* Pairs with the acquire in duet__park(), as in duet__unpark(). */
    } while (!duet__cas_acq_rel(&parker->word, &word, next));
    /* Alive: the caller holds a reference to the work. */
    if (wakes)
        parker->ops->wake_cancelled(parker);
    else if (parker->ops->interrupt)
        parker->ops->interrupt(parker);
}

int duet__park(struct duet__parker *parker, duet_deadline by, bool shielded)
{
    return park(parker, by, shielded, false);
}

void duet__park_token(struct duet__parker *parker)
{
    park(parker, DUET_NEVER, true, true);
}

void duet__park_stuck(struct duet__parker *parker)
{
    uint32_t word = duet__load_relaxed(&parker->word), next;
    do {
        next = (word | DUET__PARK_STUCK) & ~(uint32_t)(DUET__PARK_SLEEPING | DUET__PARK_SHIELDED);
        /* Publishes nothing; acquires, for a coroutine that sleeps, what it wrote before. */
    } while (!duet__cas_acq_rel(&parker->word, &word, next));
    if (word & DUET__PARK_SLEEPING)
        parker->ops->wake(parker); /* alive: it cannot leave the graph before us */
}

/* ---- Waits ---- */

int duet__wait_failed(struct duet__parker *parker, int rc)
{
    parker->ops->pass(parker);
    return rc;
}

static bool fire_unpark(struct duet__waiter *waiter, struct duet_future *settled)
{
    (void)settled;
    duet__unpark(waiter->parker);
    return false;
}

void duet__waiter_init(struct duet__waiter *waiter, struct duet__parker *parker)
{
    waiter->link.next = waiter->link.prev = NULL;
    waiter->fire = fire_unpark;
    waiter->parker = parker;
}

int duet__wait_claimed_after(struct duet__waiter *waiter, struct duet__lock *lock, int rc)
{
    if (rc == 0)
        return 0;
    duet__lock(lock);
    if (duet__list_linked(&waiter->link)) {
        duet__list_remove(&waiter->link);
        return rc;
    }
    duet__unlock(lock);
    duet__park_token(waiter->parker); /* its claimer is between its claim and its unpark */
    return 0;
}

int duet__wait_claimed_locked(struct duet__waiter *waiter, struct duet__lock *lock,
                              duet_deadline by, bool shielded)
{
    int rc = duet__wait_claimed_after(waiter, lock, duet__park(waiter->parker, by, shielded));
    if (rc == 0)
        duet__lock(lock);
    return rc;
}

int duet__wait_claimed(struct duet__waiter *waiter, struct duet__lock *lock, duet_deadline by,
                       bool shielded)
{
    int rc = duet__wait_claimed_after(waiter, lock, duet__park(waiter->parker, by, shielded));
    if (rc < 0)
        duet__unlock(lock);
    return rc;
}

/* ---- What any work may ask for ---- */

static const char *describe_sleep(const struct duet__wait *wait, char *buf, size_t size)
{
    (void)wait;
    snprintf(buf, size, "a moment (duet_sleep)");
    return buf;
}

static const struct duet__wait_ops sleep_ops = {NULL, describe_sleep, false};

int duet_sleep(duet_deadline until)
{
    struct duet__parker *parker = duet__here();
    bool shielded = parker->shields > 0;
    int rc = duet__wait_begin(parker, until, shielded);
    if (rc < 0)
        return rc == -ETIME ? 0 : duet__told(rc);
    struct duet__wait wait;
    duet__wait_enter(&wait, parker, &sleep_ops, NULL, 0, until, duet__wait_kind(shielded));
    rc = duet__park(parker, until, shielded);
    duet__wait_leave(&wait);
    return rc == -ETIME ? 0 : duet__told(rc);
}

bool duet_cancelled(void)
{
    bool is = duet__park_cancelled(duet__here());
    if (is)
        duet__told(-ECANCELED);
    return is;
}

void duet_shield_begin(void)
{
    struct duet__parker *parker = duet__here();
    if (parker->shields++ == 0 && parker->ops->shield)
        parker->ops->shield(parker, true);
}

void duet_shield_end(void)
{
    struct duet__parker *parker = duet__here();
    duet__check(parker->shields > 0, "duet_shield_end() closes a duet_shield_begin() of this work");
    if (--parker->shields == 0 && parker->ops->shield)
        parker->ops->shield(parker, false);
}
