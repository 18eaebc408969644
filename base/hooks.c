#include "hooks.h"
#include "alloc.h"
#include "check.h"
#include "clock.h"
#include "context.h"
#include "future_impl.h"
#include "graph.h"
#include "thread.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

enum {
    TABLES_MOST = 8,
};

/* ---- Tables ---- */

static const duet_hooks *(*always)(void); /* constant when main() runs */

void duet__hooks_set_always(const duet_hooks *(*table)(void))
{
    always = table;
}

/* How many tables follow from here; more than TABLES_MOST also if it goes round in a circle. */
static unsigned chain_length(const duet_hooks *chain)
{
    unsigned count = 0;
    for (; chain && count <= TABLES_MOST; chain = chain->next)
        count++;
    return count;
}

static int check_chain(const char *function, const duet_hooks *chain)
{
    if (chain_length(chain) > TABLES_MOST)
        return duet__bad_argument(function, "hooks: more than 8 tables, or a circle of them");
    for (; chain; chain = chain->next)
        if (!duet__reserved_unused(chain->reserved, sizeof chain->reserved / sizeof(uintptr_t)))
            return duet__bad_argument(function,
                                      "hooks: reserved is not zero: was the table initialised?");
    return 0;
}

int duet__hooks_open(struct duet__hooks **ret, const duet_hooks *chain, const char *place,
                     const char *function)
{
    const duet_hooks *last = always ? always() : NULL;
    unsigned count = chain_length(chain) + (last != NULL);
    *ret = NULL;
    int rc = check_chain(function, chain);
    if (rc < 0 || count == 0)
        return rc;
    struct duet__hooks *hooks = duet__alloc(sizeof *hooks + count * sizeof(duet_hooks));
    char *name = hooks ? duet__alloc_string(place) : NULL;
    if (!name) {
        duet__free(hooks);
        return -ENOMEM;
    }
    duet__store_relaxed(&hooks->refs, 1); /* nobody else can see it yet */
    hooks->count = 0;
    hooks->place = name;
    for (; chain; chain = chain->next)
        hooks->tables[hooks->count++] = *chain;
    if (last)
        hooks->tables[hooks->count++] = *last;
    *ret = hooks;
    return 0;
}

void duet__hooks_unref(struct duet__hooks *hooks)
{
    /* Releases the calls of this owner; the last one acquires them all. */
    if (!hooks || duet__sub_acq_rel(&hooks->refs, 1) > 1)
        return;
    duet__free(hooks->place);
    duet__free(hooks);
}

/* ---- Works ---- */

/* See duet__acting_set(). */
static _Thread_local uint64_t acting;

uint64_t duet__acting_set(uint64_t id)
{
    uint64_t before = acting;
    acting = id;
    return before;
}

/* Who does something here; 0: none, or it is not observed. */
static uint64_t id_here(void)
{
    const struct duet__observed *observed = duet__here()->observed;
    return acting ? acting : observed ? observed->id : 0;
}

size_t duet__observed_size(const struct duet__hooks *hooks)
{
    return hooks ? sizeof(struct duet__observed) + hooks->count * sizeof(uintptr_t) : 0;
}

void duet__observe(struct duet__observed *observed, struct duet__hooks *hooks,
                   struct duet_future *work)
{
    memset(observed, 0, duet__observed_size(hooks));
    duet__add_relaxed(&hooks->refs, 1); /* the submitter keeps the loop or pool, and so has one */
    observed->hooks = hooks;
    observed->id = duet__future_id(work);
    observed->parent = id_here();
    duet__note_by(observed);
    observed->spawned_ns = observed->before_ns = duet__load_relaxed(&observed->by_ns);
    observed->name = duet__future_name(work, observed->number_name, sizeof observed->number_name);
}

void duet__note_by(struct duet__observed *observed)
{
    duet__store_relaxed(&observed->by, id_here());
    duet__store_relaxed(&observed->by_ns, duet__clock_ns());
    duet__store_relaxed(&observed->by_thread, duet__thread_number());
}

void duet__note_nobody(struct duet__observed *observed)
{
    duet__store_relaxed(&observed->by_ns, 0);
}

/* ---- Telling ---- */

struct telling {
    const struct duet__observed *observed;
    enum duet__hook what;
    duet_work_event *event;
};

static duet_hook *function_of(const duet_hooks *table, enum duet__hook what)
{
    duet_hook *const functions[DUET__HOOKS] = {
        [DUET__HOOK_SPAWNED] = table->spawned,       [DUET__HOOK_STEP_BEGAN] = table->step_began,
        [DUET__HOOK_STEP_ENDED] = table->step_ended, [DUET__HOOK_PARKED] = table->parked,
        [DUET__HOOK_SETTLED] = table->settled,       [DUET__HOOK_JOB_QUEUED] = table->job_queued,
        [DUET__HOOK_JOB_BEGAN] = table->job_began,   [DUET__HOOK_JOB_ENDED] = table->job_ended,
    };
    return functions[what];
}

static void call_hooks(void *arg)
{
    struct telling *telling = arg;
    const struct duet__hooks *hooks = telling->observed->hooks;
    for (unsigned i = 0; i < hooks->count; i++) {
        duet_hook *hook = function_of(&hooks->tables[i], telling->what);
        telling->event->slot = (uintptr_t *)&telling->observed->slots[i];
        if (hook)
            hook(hooks->tables[i].ctx, telling->event);
    }
}

static void tell(struct duet__parker *parker, enum duet__hook what, duet_work_event *event)
{
    struct duet__observed *observed = parker->observed;
    struct telling telling = {observed, what, event};
    int saved_errno = errno;
    event->id = observed->id;
    event->kind = parker->work->ops->kind;
    event->name = observed->name;
    event->place = observed->hooks->place;
    event->parent = observed->parent;
    event->spawned_ns = observed->spawned_ns;
    event->since_ns = observed->before_ns;
    observed->before_ns = event->now_ns;
    duet__call_bare_in(parker->context, call_hooks, &telling);
    errno = saved_errno;
}

void duet__tell(struct duet__parker *parker, enum duet__hook what, int64_t now_ns, size_t queued)
{
    struct duet__observed *observed = parker->observed;
    duet_work_event event = {.now_ns = now_ns, .queued = queued};
    observed->queued = queued;
    if (what == DUET__HOOK_PARKED)
        event.wait = parker->wait;
    if (what == DUET__HOOK_STEP_BEGAN) {
        event.by_ns = duet__load_relaxed(&observed->by_ns);
        event.by = event.by_ns ? duet__load_relaxed(&observed->by) : 0;
        event.by_thread = event.by_ns ? duet__load_relaxed(&observed->by_thread) : 0;
        duet__note_nobody(observed); /* it is told once */
    }
    tell(parker, what, &event);
}

void duet__tell_settled(struct duet__parker *parker, duet_result result)
{
    duet_work_event event = {
        .now_ns = duet__clock_ns(), .queued = parker->observed->queued, .result = result};
    tell(parker, DUET__HOOK_SETTLED, &event);
}

const char *duet_work_event_waits_for(const duet_work_event *event, char *buf, size_t size)
{
    if (!event || !buf || size == 0) {
        duet__bad_argument(__func__, event ? "there is no room for it" : "event is NULL");
        return "";
    }
    if (event->wait)
        return duet__wait_describe(event->wait, buf, size);
    snprintf(buf, size, "nothing");
    return buf;
}
