#include "graph.h"
#include "check.h"
#include "clock.h"
#include "context.h"
#include "future_impl.h"
#include "log.h"
#include "thread.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

/* Guards all below, and what waits and parkers have of the graph. */
static struct duet__lock lock;
static struct duet__list joined = {&joined, &joined};
static uint64_t joins, searches, gatherings, knots, counts;

enum {
    CENSUS_MOST = 4,
};
static duet__census_fn *census_fns[CENSUS_MOST]; /* constant once main() runs */
static size_t census_count;

enum phase {
    COLLECT, /* whom does it depend on, directly or not? */
    JUDGE, /* who of them may go on? */
    GATHER, /* whom of the rest does it reach? */
    REACH, /* do those reach it? */
    NAME, /* one step along that circle */
};

enum threads {
    NOT_ASKED,
    AWAKE,
    ALL_REST,
};

/* One search. */
struct duet__look {
    enum phase phase;
    uint64_t search; /* its number */
    struct duet__list seen; /* waits, in the order in which they were found */
    struct duet__list members; /* of those, the circle */
    bool reached; /* one that reaches what we look for */
    uint64_t gathering; /* given to its members */
    uint64_t knot; /* given to all that were ever gathered */
    bool again; /* threads may have to be asked later */
    enum threads threads; /* does any other thread run? */
    /* Who could do what any thread could, looked at once after each change of what is asked. */
    uint64_t changes, looked;
    bool agents_may, agents_reach;
    struct duet__wait *next; /* the step, and what it goes through */
    enum duet__via via;
};

enum {
    TEXT = 440,
    STEPS_NAMED = 12,
};

static struct duet__wait *wait_of_seen(struct duet__list *link)
{
    return duet__container(link, struct duet__wait, seen);
}

/* The parent's waits are not the child's. */
static void reset(void)
{
    duet__store_relaxed(&lock.word, 0);
    duet__list_init(&joined);
}
DUET__IN_CHILD(reset)

/* ---- Looking ---- */

/* Is it about to end, whatever it waits for? */
static bool goes_on(struct duet__wait *wait)
{
    if (wait->told || !wait->ops->may_end)
        return true;
    uint32_t word = duet__load_relaxed(&wait->parker->word); /* a look */
    return word >= DUET__PARK_TOKEN ||
           ((word & DUET__PARK_CANCEL) && duet__wait_is(wait, DUET__WAIT_PLAIN));
}

static void collect(struct duet__look *look, struct duet__wait *wait)
{
    wait->search = look->search;
    wait->gathered = wait->reaches = 0;
    wait->live = goes_on(wait);
    duet__list_append(&look->seen, &wait->seen);
}

static void add_member(struct duet__look *look, struct duet__wait *wait)
{
    wait->gathered = look->gathering;
    wait->knot = look->knot;
    duet__list_remove(&wait->seen);
    duet__list_append(&look->members, &wait->seen);
}

bool duet__look_at(struct duet__look *look, const struct duet__parker *parker, enum duet__via via)
{
    struct duet__wait *wait = parker->joined;
    if (!wait)
        return true;
    if (wait->search != look->search) {
        if (look->phase != COLLECT)
            return true;
        collect(look, wait);
    }
    if (look->phase == GATHER && !wait->live && wait->gathered != look->gathering) {
        add_member(look, wait);
    }
    if (look->phase == REACH && wait->gathered == look->gathering &&
        wait->reaches == look->gathering)
        look->reached = true;
    if (look->phase == NAME && wait->gathered == look->gathering && !look->next) {
        look->next = wait;
        look->via = via;
    }
    return wait->live;
}

bool duet__look_stands(const struct duet__parker *parker)
{
    return parker->joined && parker->joined->stands;
}

uint64_t duet__look_count(void)
{
    return ++counts;
}

bool duet__look_is_new(const struct duet__parker *parker, uint64_t count)
{
    struct duet__wait *wait = parker->joined;
    if (wait && wait->counted == count)
        return false;
    if (wait)
        wait->counted = count;
    return true;
}

bool duet__look_at_all(struct duet__look *look,
                       bool (*belongs)(const duet_future *work, const void *to), const void *to)
{
    bool all = true;
    duet__list_for_each(link, &joined)
    {
        const struct duet__wait *wait = duet__container(link, struct duet__wait, link);
        if (wait->parker->work && belongs(wait->parker->work, to) &&
            !duet__look_at(look, wait->parker, DUET__VIA_MEMBER))
            all = false;
    }
    return all;
}

/* ---- The census ---- */

void duet__census_add(duet__census_fn *fn)
{
    duet__check(census_count < CENSUS_MOST, "a census has room for each layer");
    census_fns[census_count++] = fn;
}

static bool take_census(struct duet__census *census)
{
    *census = (struct duet__census){0};
    for (size_t i = 0; i < census_count; i++)
        if (!census_fns[i](census))
            return false;
    return true;
}

/* Of the joined waits: how many are threads that sleep? */
static unsigned count_joined_threads(void)
{
    unsigned n = 0;
    duet__list_for_each(link, &joined)
    {
        const struct duet__wait *wait = duet__container(link, struct duet__wait, link);
        /* Who wakes one clears SLEEPING before it rests itself: with it, nobody has woken it. */
        n += wait->parker->ops->may_block && !wait->stands && wait->parker->joined == wait &&
             (duet__load_relaxed(&wait->parker->word) & DUET__PARK_SLEEPING);
    }
    return n;
}

static bool all_threads_rest(void)
{
    struct duet__census before, after;
    if (!take_census(&before))
        return false;
    unsigned threads = duet__thread_count();
    return take_census(&after) && before.threads == after.threads && before.wakes == after.wakes &&
           threads == before.threads + count_joined_threads();
}

/* What was seen before the census may have been cancelled since, by one who rested then. */
static enum threads ask_threads(struct duet__look *look)
{
    if (!all_threads_rest())
        return AWAKE;
    duet__list_for_each(link, &look->seen)
    {
        struct duet__wait *wait = wait_of_seen(link);
        wait->live = wait->live || goes_on(wait);
    }
    look->changes++;
    return ALL_REST;
}

static bool look_at_agents(struct duet__look *look)
{
    bool may = false;
    duet__list_for_each(link, &joined)
    {
        struct duet__wait *wait = duet__container(link, struct duet__wait, link);
        if (wait->stands ||
            wait->parker->joined != wait) /* goes on only when another of them has */
            continue;
        if (wait->by_ns != DUET__NEVER && !duet__wait_is(wait, DUET__WAIT_ENDS))
            may = true; /* at its deadline it goes on, and may be who does it */
        if (duet__look_at(look, wait->parker, DUET__VIA_HOLDER))
            may = true;
    }
    return may;
}

void duet__look_again(struct duet__look *look)
{
    look->again = true;
}

bool duet__look_at_threads(struct duet__look *look)
{
    if (look->threads == NOT_ASKED)
        look->threads = ask_threads(look);
    if (look->threads == AWAKE)
        return true;
    if (look->phase == NAME) /* nobody in particular */
        return false;
    bool known = look->phase == REACH ? look->agents_reach : look->agents_may;
    if (!known && look->looked != look->changes) { /* else each of n who wait would look at n */
        bool reached = look->reached;
        look->looked = look->changes;
        look->reached = false;
        look->agents_may = look_at_agents(look);
        look->agents_reach = look->reached;
        look->reached = reached;
    }
    look->reached = look->reached || (look->phase == REACH && look->agents_reach);
    return look->agents_may;
}

bool duet__any_thread_may_end(const struct duet__wait *wait, struct duet__look *look)
{
    (void)wait;
    return duet__look_at_threads(look);
}

/* ---- Searching ---- */

static void begin_phase(struct duet__look *look, enum phase phase)
{
    look->phase = phase;
    look->agents_may = look->agents_reach = false;
    look->changes++;
}

/* look->members: all that `from` reaches through stuck waits; itself only if it does. */
static void gather(struct duet__look *look, const struct duet__wait *from)
{
    for (struct duet__list *link; (link = duet__list_pop(&look->members)) != NULL;)
        duet__list_append(&look->seen, link);
    begin_phase(look, GATHER);
    look->gathering = ++gatherings;
    from->ops->may_end(from, look);
    duet__list_for_each(link, &look->members) /* grows meanwhile */
    {
        const struct duet__wait *wait = wait_of_seen(link);
        wait->ops->may_end(wait, look);
    }
}

/* One of the members that does not reach `to`; NULL: all do. */
static struct duet__wait *one_that_does_not_reach(struct duet__look *look, struct duet__wait *to)
{
    bool changed;
    begin_phase(look, REACH);
    to->reaches = look->gathering;
    do {
        changed = false;
        duet__list_for_each(link, &look->members)
        {
            struct duet__wait *wait = wait_of_seen(link);
            if (wait->reaches == look->gathering)
                continue;
            look->reached = false;
            wait->ops->may_end(wait, look);
            if (look->reached) {
                wait->reaches = look->gathering;
                changed = true;
                look->changes++;
            }
        }
    } while (changed);
    duet__list_for_each(link, &look->members)
    {
        struct duet__wait *wait = wait_of_seen(link);
        if (wait->reaches != look->gathering)
            return wait;
    }
    return NULL;
}

/* look->members: a circle that `from` is in, or that it stands behind: those all reach each other,
 * and nothing else; or one that waits for nothing at all. One that does not reach where we began is
 * nearer to it, since it reaches fewer. */
static void gather_circle(struct duet__look *look, struct duet__wait *from)
{
    struct duet__wait *next = from;
    do {
        from = next;
        gather(look, from);
        next = one_that_does_not_reach(look, from);
    } while (next);
    if (duet__list_empty(&look->members))
        add_member(look, from);
}

/* Is there a knot that `from` is in, or behind? Then its members are look->members. */
static bool find_knot(struct duet__look *look, struct duet__wait *from)
{
    uint64_t before;
    begin_phase(look, COLLECT);
    look->threads = NOT_ASKED;
    look->search = ++searches;
    duet__list_init(&look->seen);
    duet__list_init(&look->members);
    collect(look, from);
    duet__list_for_each(link, &look->seen) /* grows meanwhile */
    {
        struct duet__wait *wait = wait_of_seen(link);
        if (!wait->live && wait->ops->may_end(wait, look))
            wait->live = true;
        if (from->live)
            return false;
    }
    begin_phase(look, JUDGE);
    do {
        before = look->changes;
        /* Backwards: what was found last is what the others depend on. */
        for (struct duet__list *link = look->seen.prev; link != &look->seen; link = link->prev) {
            struct duet__wait *wait = wait_of_seen(link);
            if (wait->live || !wait->ops->may_end(wait, look))
                continue;
            wait->live = true;
            look->changes++;
        }
        if (from->live)
            return false;
    } while (look->changes != before);
    gather_circle(look, from);
    return true;
}

/* Is a before b in the order in which they are told? */
static bool is_before(struct duet__wait *a, struct duet__wait *b)
{
    bool a_closes = duet__wait_is(a, DUET__WAIT_CLOSES);
    bool b_closes = duet__wait_is(b, DUET__WAIT_CLOSES);
    if (a_closes != b_closes)
        return b_closes;
    if (a->by_ns != b->by_ns)
        return a->by_ns < b->by_ns;
    if (a->since_ns != b->since_ns)
        return a->since_ns > b->since_ns;
    return a->number > b->number;
}

/* NULL: none of them may fail. */
static struct duet__wait *choose(struct duet__look *look)
{
    struct duet__wait *chosen = NULL;
    duet__list_for_each(link, &look->members)
    {
        struct duet__wait *wait = wait_of_seen(link);
        if (!duet__wait_is(wait, DUET__WAIT_ENDS) && (!chosen || is_before(wait, chosen)))
            chosen = wait;
    }
    return chosen;
}

/* ---- Words ---- */

struct text {
    char line[TEXT];
    size_t length;
    duet_context *context; /* of who is told; a reference */
};

static void add(struct text *text, const char *words)
{
    size_t length = strnlen(words, sizeof text->line - 1 - text->length);
    memcpy(text->line + text->length, words, length);
    text->length += length;
    text->line[text->length] = '\0';
}

const char *duet__parker_describe(const struct duet__parker *parker, char *buf, size_t size)
{
    if (parker->work)
        return duet__future_describe_place(parker->work, buf, size);
    if (parker->joined)
        snprintf(buf, size, "thread '%s'", parker->joined->thread);
    else
        snprintf(buf, size, "a thread");
    return buf;
}

static void add_who(struct text *text, const struct duet__wait *wait)
{
    char buf[128];
    add(text, duet__parker_describe(wait->parker, buf, sizeof buf));
}

/* How we come from what is waited for to who waits next. */
static void add_via(struct text *text, enum duet__via via, const struct duet__wait *to)
{
    static const char *const words[] = {
        [DUET__VIA_ITSELF] = "",
        [DUET__VIA_MEMBER] = ", among them ",
        [DUET__VIA_QUEUE] = ", queued behind ",
        [DUET__VIA_HOLDER] = ", which only those hold who wait, such as ",
    };
    add(text, words[via]);
    if (via != DUET__VIA_ITSELF)
        add_who(text, to);
}

/* "job 'report' (pool db) waits for coroutine 'fetch', which waits for job 'report' (pool db)" */
static void add_chain(struct text *text, struct duet__look *look, struct duet__wait *from)
{
    char buf[128];
    struct duet__wait *at = from;
    begin_phase(look, NAME);
    add_who(text, from);
    for (int steps = 0; steps < STEPS_NAMED; steps++) {
        add(text, steps == 0 ? " waits for " : ", which waits for ");
        add(text, at->ops->describe(at, buf, sizeof buf));
        look->next = NULL;
        at->ops->may_end(at, look);
        if (!look->next) {
            add(text, look->threads == NOT_ASKED
                          ? ", which can never come"
                          : ", and every thread that could see to that rests, or waits too");
            return;
        }
        bool one_of = look->via == DUET__VIA_ITSELF && at->ops->is_many;
        add_via(text, one_of ? DUET__VIA_MEMBER : look->via, look->next);
        if (look->next == from)
            return;
        at = look->next;
    }
    add(text, ", and so on");
}

/* ---- Telling ---- */

/* When to look again at a wait that any thread could end, now or later: when it is twice as old. With
 * a deadline it goes on by itself. */
static int64_t next_look_ns(const struct duet__wait *wait, const struct duet__look *look)
{
    if ((look->threads == NOT_ASKED && !look->again) || wait->by_ns != DUET__NEVER)
        return DUET__NEVER;
    int64_t now_ns = duet__clock_ns(), age_ns = now_ns - wait->since_ns;
    return now_ns + (age_ns > DUET__YOUNG_NS ? age_ns : DUET__YOUNG_NS);
}

/* Under the lock. False: there is nothing to tell; else what to log. */
static bool search(struct duet__wait *from, uint64_t knot, struct text *text)
{
    struct duet__look look = {.knot = knot};
    bool found = find_knot(&look, from);
    duet__store_relaxed(&from->look_ns, next_look_ns(from, &look));
    if (!found)
        return false;
    struct duet__wait *chosen = choose(&look);
    text->length = 0;
    add(text, "deadlock: ");
    add_chain(text, &look, chosen ? chosen : from);
    if (!chosen) {
        duet__abort(text->line,
                    "a circle of waits has one that may fail; all of these end ownership");
        return false;
    }
    add(text, ": -EDEADLK for ");
    add_who(text, chosen);
    text->context = duet_context_ref(chosen->parker->context); /* it sleeps */
    chosen->told = true;
    duet__park_stuck(chosen->parker);
    return true;
}

/* The user's code, so not under the lock. */
static void tell_log(const struct text *text)
{
    duet__log_in(text->context, DUET_ERROR, "%s", text->line);
    duet_context_unref(text->context);
}

/* Under the lock. In what is left of this knot: is there another? */
static bool search_rest(uint64_t knot, struct text *text)
{
    duet__list_for_each(link, &joined)
    {
        struct duet__wait *wait = duet__container(link, struct duet__wait, link);
        if (wait->knot == knot && !wait->told && search(wait, knot, text))
            return true;
    }
    return false;
}

/* Under the lock, which it releases. Whom one verdict does not free waits in several circles: so
 * until there is none left. `from` may be gone after the first, if it is another's. */
static void search_and_unlock(struct duet__wait *from)
{
    struct text text;
    uint64_t knot = ++knots;
    bool found = search(from, knot, &text);
    duet__unlock(&lock);
    while (found) {
        tell_log(&text);
        duet__lock(&lock);
        found = search_rest(knot, &text);
        duet__unlock(&lock);
    }
}

/* Under the lock. */
static void join(struct duet__wait *wait)
{
    wait->joined = true;
    wait->told = false;
    wait->counted = wait->search = wait->knot = 0;
    duet__store_relaxed(&wait->look_ns, DUET__NEVER);
    wait->number = ++joins;
    wait->thread[0] = '\0';
    if (!wait->parker->work)
        pthread_getname_np(pthread_self(), wait->thread, sizeof wait->thread);
    duet__list_append(&joined, &wait->link);
    wait->parker->joined = wait;
}

void duet__graph_join(struct duet__wait *wait)
{
    duet__lock(&lock);
    join(wait);
    if (wait->ops->may_end)
        search_and_unlock(wait);
    else
        duet__unlock(&lock);
}

void duet__graph_again(struct duet__wait *wait)
{
    duet__lock(&lock);
    search_and_unlock(wait);
}

static bool is_for(const struct duet__wait *wait, const void *of)
{
    if (!wait->ops->is_many || wait->n == 0)
        return wait->of == of;
    const void *const *list = wait->of;
    for (size_t i = 0; i < wait->n; i++)
        if (list[i] == of)
            return true;
    return false;
}

void duet__graph_changed(const void *of)
{
    struct text text;
    bool found = true;
    duet__lock(&lock);
    uint64_t knot = ++knots; /* those, and whoever is in a circle with them */
    duet__list_for_each(link, &joined)
    {
        struct duet__wait *wait = duet__container(link, struct duet__wait, link);
        if (wait->ops->may_end && (!of || is_for(wait, of))) /* then `of` is alive */
            wait->knot = knot;
    }
    while (found) {
        found = search_rest(knot, &text);
        duet__unlock(&lock);
        if (!found)
            return;
        tell_log(&text);
        duet__lock(&lock);
    }
}

void duet__graph_stand(struct duet__wait *wait, struct duet__parker *parker, const duet_future *on)
{
    duet__wait_enter(wait, parker, &duet__future_wait_ops, on, 1, DUET_NEVER, DUET__WAIT_ENDS);
    wait->stands = true;
    wait->since_ns = duet__clock_ns();
    duet__graph_join(wait);
}

/* ---- Entering and leaving ---- */

void duet__graph_leave(struct duet__wait *wait)
{
    struct duet__parker *parker = wait->parker;
    duet__lock(&lock);
    parker->joined = wait->beneath && wait->beneath->joined ? wait->beneath : NULL;
    duet__list_remove(&wait->link);
    if (wait->told)
        duet__and_acquire(&parker->word, ~(uint32_t)DUET__PARK_STUCK);
    duet__unlock(&lock);
    if (parker->ops->may_block && !wait->stands)
        duet__blocking_ended();
}

size_t duet__graph_count(bool (*belongs)(const duet_future *work, const void *to), const void *to)
{
    size_t n = 0;
    duet__lock(&lock);
    duet__list_for_each(link, &joined)
    {
        const struct duet_future *work =
            duet__container(link, struct duet__wait, link)->parker->work;
        n += work && belongs(work, to);
    }
    duet__unlock(&lock);
    return n;
}

/* ---- What pending work belongs to ---- */

/* A pool is freed only after its last job has settled and then this lock was taken once. So whoever
 * holds the lock and finds a job pending finds its pool. */
void duet__graph_pass(void)
{
    duet__lock(&lock);
    duet__unlock(&lock);
}

void duet__graph_with_pending(duet_future *f, void (*fn)(duet_future *f))
{
    duet__lock(&lock);
    if (!duet__future_is_settled(f))
        fn(f);
    duet__unlock(&lock);
}

/* ---- Reports ---- */

const char *duet__wait_describe(const struct duet__wait *wait, char *buf, size_t size)
{
    duet__lock(&lock); /* what it is for may be pending, and belong to a pool */
    wait->ops->describe(wait, buf, size);
    duet__unlock(&lock);
    return buf;
}

const char *duet__graph_describe(const struct duet__parker *parker, char *buf, size_t size)
{
    duet__lock(&lock);
    if (parker->joined)
        parker->joined->ops->describe(parker->joined, buf, size);
    else
        snprintf(buf, size, "nothing of duet: it runs, or blocks elsewhere");
    duet__unlock(&lock);
    return buf;
}
