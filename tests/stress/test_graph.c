/* Random graphs of waits, from a seed, against a model of what base.h says of deadlock. */
#include "duet_test.h"

#include <sched.h>
#include <time.h>

/* ---- Graphs ---- */

enum {
    WORKS_MAX = 12,
    PROMISES_MAX = 3,
    NODES = WORKS_MAX + PROMISES_MAX
};

enum wait_kind {
    NOTHING, /* it ends at once */
    ONE,
    GATHER,
    ALL,
    ANY,
    FAILURE,
    KINDS
};
static const char *const kinds[KINDS] = {"nothing", "one", "gather", "all", "any", "failure"};

/* A set of nodes: works are the bits from 0, promises those from WORKS_MAX. */
typedef uint32_t node_set;

static node_set only(int node)
{
    return (node_set)1 << node;
}

struct work {
    enum wait_kind kind;
    int n, on[NODES]; /* for these, in this order, each once, never itself */
    node_set deps; /* the same as a set */
    int seconds; /* until its deadline; NEVER_S: none */
};

enum {
    NEVER_S = 1000
};

struct graph {
    int n_works, n_promises;
    node_set works, promises;
    struct work work[WORKS_MAX];
};

/* ---- The model ----
 *
 * All works return without failure, whatever their wait said. So a wait for any ends with the first
 * of its list, and each other one, that for a failure included, with the last. One for any or for a
 * failure may still end by itself while anything of its list lives; one for all is stuck as soon as
 * one of its list is. */

static bool for_any(const struct work *work)
{
    return work->kind == ANY || work->kind == FAILURE;
}

/* All that ends from here without an answer of -EDEADLK. */
static node_set closure(const struct graph *g, node_set ended)
{
    for (node_set before = ~ended; before != ended;) {
        before = ended;
        for (int i = 0; i < g->n_works; i++) {
            const struct work *work = &g->work[i];
            node_set pending = work->deps & ~ended;
            if (pending == 0 || (work->kind == ANY && pending != work->deps))
                ended |= only(i);
        }
    }
    return ended;
}

/* The largest part of `of` whose members nothing outside of it can help: of the pending ones in the
 * list of a wait for any or for a failure all are in it, of any other's one at least. */
static node_set closed_part(const struct graph *g, node_set ended, node_set of)
{
    of &= ~ended & g->works;
    for (node_set before = ~of; before != of;) {
        before = of;
        for (int i = 0; i < g->n_works; i++) {
            node_set pending = g->work[i].deps & ~ended;
            bool stuck = for_any(&g->work[i]) ? pending && !(pending & ~of) : (pending & of) != 0;
            if (!stuck)
                of &= ~only(i);
        }
    }
    return of;
}

/* Where one gets from `from` by waits within `in`. */
static node_set reach(const struct graph *g, node_set in, node_set from)
{
    for (node_set before = 0; before != from;) {
        before = from;
        for (int i = 0; i < g->n_works; i++)
            if (from & only(i))
                from |= g->work[i].deps & in;
    }
    return from;
}

/* Those of `in` whom v reaches and who reach v. */
static node_set component(const struct graph *g, node_set in, int v)
{
    node_set mutual = 0, reached = reach(g, in, only(v));
    for (int i = 0; i < g->n_works; i++)
        if ((in & reached & only(i)) && (reach(g, in, only(i)) & only(v)))
            mutual |= only(i);
    return mutual;
}

/* Might v be answered with -EDEADLK when these have ended? If there is a knot, a closed part whose
 * members all reach each other, in which no deadline is before v's. Such a knot, out of which
 * nothing can come, may be noticed whatever the rest does, and whether it waits yet. The search is
 * for the largest one with v: within those that are not before it, what is closed, of that the
 * component of v, of that what is closed, and so on; every such knot is a part of each of these. */
static bool may_be_told(const struct graph *g, node_set ended, int v)
{
    node_set knot = 0, before = 0;
    for (int i = 0; i < g->n_works; i++)
        if (g->work[i].seconds >= g->work[v].seconds)
            knot |= only(i);
    while (knot != before && (knot & only(v))) {
        before = knot;
        knot = closed_part(g, ended, knot);
        if (knot & only(v))
            knot = component(g, knot, v);
    }
    return knot & only(v);
}

/* Is there an order in which all these were told, each rightly, after which all ends? */
static bool explained(const struct graph *g, node_set ended, node_set told)
{
    ended = closure(g, ended);
    if (told == 0)
        return !(g->works & ~ended);
    for (int v = 0; v < g->n_works; v++)
        if ((told & ~ended & only(v)) && may_be_told(g, ended, v) &&
            explained(g, ended | only(v), told & ~only(v)))
            return true;
    return false;
}

/* Goes on from *ended as far as it gets, and gives who is told on the way.
 *
 * Where nobody waits for all of several, and no two deadlines are equal, there is but one outcome:
 * in a knot all that its members still wait for is in the knot, so it stays as it is until its
 * earliest is told, whatever happens outside of it and when; two of them share nobody; and what
 * comes of each does not depend on the other. A wait for all of several may be in a knot while
 * another of its list still lives, which later may wait for the knot and so be in it, with an
 * earlier deadline. */
static node_set who_is_told(const struct graph *g, node_set *ended)
{
    node_set told = 0;
    for (;;) {
        *ended = closure(g, *ended);
        node_set stuck = closed_part(g, *ended, g->works), victims = 0;
        for (int v = 0; v < g->n_works; v++) {
            if (!(stuck & only(v)))
                continue;
            node_set knot = component(g, stuck, v);
            bool earliest = reach(g, stuck, only(v)) == knot; /* nothing is beneath it */
            for (int i = 0; i < g->n_works; i++)
                if ((knot & only(i)) && g->work[i].seconds < g->work[v].seconds)
                    earliest = false;
            if (earliest)
                victims |= only(v);
        }
        if (victims == 0)
            return told;
        told |= victims;
        *ended |= victims;
    }
}

/* ---- Making graphs ---- */

static int below(uint64_t *random, int n)
{
    return (int)(test_random(random) % (uint64_t)n);
}

static void choose_deps(struct graph *g, int me, int n, uint64_t *random)
{
    struct work *work = &g->work[me];
    int candidates[NODES], count = 0;
    for (int i = 0; i < g->n_works; i++)
        if (i != me)
            candidates[count++] = i;
    for (int i = 0; i < g->n_promises; i++)
        if (below(random, 3) == 0)
            candidates[count++] = WORKS_MAX + i;
    for (; work->n < n && count > 0; work->n++) {
        int k = below(random, count);
        work->on[work->n] = candidates[k];
        work->deps |= only(candidates[k]);
        candidates[k] = candidates[--count];
    }
}

/* certain: of the kind that has but one outcome. */
static void make_graph(struct graph *g, bool certain, uint64_t *random)
{
    int one_in = 1 + below(random, 8), seconds[WORKS_MAX];
    *g = (struct graph){.n_works = 2 + below(random, WORKS_MAX - 1)};
    g->works = only(g->n_works) - 1;
    g->n_promises = below(random, PROMISES_MAX + 1);
    g->promises = (only(g->n_promises) - 1) << WORKS_MAX;
    for (int i = 0; i < g->n_works; i++)
        seconds[i] = i == 0 ? NEVER_S : 60 + 45 * i;
    for (int i = 0; i < g->n_works; i++) {
        struct work *work = &g->work[i];
        int k = i + below(random, g->n_works - i), some = 1 + below(random, 3);
        work->seconds = seconds[k];
        seconds[k] = seconds[i];
        if (!certain && below(random, 3) == 0)
            work->seconds = NEVER_S;
        if (below(random, one_in + 1) == 0)
            continue;
        work->kind = ONE + (enum wait_kind)below(random, KINDS - ONE);
        if (work->kind == ONE || (certain && !for_any(work)))
            some = 1;
        choose_deps(g, i, some, random);
    }
}

static void print_set(const char *name, node_set set)
{
    fprintf(stderr, "%s:", name);
    for (int i = 0; i < NODES; i++)
        if (set & only(i))
            fprintf(stderr, " %d", i);
    fprintf(stderr, "\n");
}

static void print_graph(const struct graph *g)
{
    fprintf(stderr, "%d works, %d promises (from %d)\n", g->n_works, g->n_promises, WORKS_MAX);
    for (int i = 0; i < g->n_works; i++) {
        fprintf(stderr, "%2d: %s, %d s:", i, kinds[g->work[i].kind], g->work[i].seconds);
        for (int k = 0; k < g->work[i].n; k++)
            fprintf(stderr, " %d", g->work[i].on[k]);
        fprintf(stderr, "\n");
    }
}

/* ---- Running them ---- */

static duet_loop *loops[2];
static duet_pool *pool;

struct run;

struct runner {
    struct run *run;
    const struct work *work;
    int spin; /* before its wait */
    int rc;
};

struct run {
    struct graph graph;
    duet_future *gate, *f[NODES];
    duet_deadline start;
    struct runner runners[WORKS_MAX];
};

static int wait_as_told(struct run *run, const struct work *work)
{
    duet_future *fs[NODES];
    duet_deadline by = {run->start.ns + work->seconds * INT64_C(1000000000)};
    size_t n = (size_t)work->n, index = n + 1;
    int rc = 0;
    if (work->seconds == NEVER_S)
        by = DUET_NEVER;
    for (int i = 0; i < work->n; i++)
        fs[i] = run->f[work->on[i]];
    switch (work->kind) {
    case ONE:
        rc = duet_future_wait(fs[0], by, NULL);
        break;
    case GATHER:
        rc = duet_gather(fs, n, by, NULL);
        break;
    case ALL:
        rc = duet_future_wait_many(fs, n, DUET_UNTIL_ALL, by, &index);
        must_equal(index, rc < 0 ? n + 1 : n);
        break;
    case ANY:
        rc = duet_future_wait_many(fs, n, DUET_UNTIL_ANY, by, &index);
        must(rc < 0 ? index == n + 1 : index < n && duet_future_settled(fs[index]));
        break;
    case FAILURE:
        rc = duet_future_wait_many(fs, n, DUET_UNTIL_FAILURE, by, &index);
        must_equal(index, rc < 0 ? n + 1 : n);
        break;
    default:
        break;
    }
    return rc;
}

static duet_result runner_run(void *arg)
{
    struct runner *runner = arg;
    must_equal(duet_future_wait(runner->run->gate, DUET_NEVER, NULL), 0);
    for (volatile int i = runner->spin; i > 0; i--)
        ;
    runner->rc = wait_as_told(runner->run, runner->work);
    return duet_ok();
}

static void run_start(struct run *run, uint64_t *random)
{
    const struct graph *g = &run->graph;
    int places = 1 + below(random, 4); /* more of one kind, or of all */
    must_equal(duet_future_open(&run->gate), 0);
    run->start.ns = duet_now_ns();
    for (int i = 0; i < g->n_promises; i++)
        must_equal(duet_future_open(&run->f[WORKS_MAX + i]), 0);
    for (int i = 0; i < g->n_works; i++) {
        char name[16];
        int place = below(random, places);
        duet_opts opts = {.name = name};
        snprintf(name, sizeof name, "%d", i);
        run->runners[i] = (struct runner){
            .run = run, .work = &g->work[i], .spin = below(random, 2) ? below(random, 20000) : 0};
        if (below(random, 4) == 0)
            opts.flags = DUET_KEEP_SLOT; /* there are workers enough */
        if (place < 2)
            run->f[i] = duet_submit_with(loops[place], runner_run, &run->runners[i], &opts);
        else
            run->f[i] = duet_pool_submit_with(pool, runner_run, &run->runners[i], &opts);
    }
}

static void settle_promises(struct run *run)
{
    for (int i = 0; i < run->graph.n_promises; i++)
        must_equal(duet_future_settle(run->f[WORKS_MAX + i], duet_ok()), 0);
}

/* Waits for the end of all, and gives who was told. */
static node_set run_end(struct run *run)
{
    node_set told = 0;
    for (int i = 0; i < run->graph.n_works; i++) {
        int rc = duet_future_wait(run->f[i], SURELY, NULL);
        if (rc < 0) {
            fprintf(stderr, "%d does not end: %d\n", i, rc);
            print_graph(&run->graph);
            abort();
        }
    }
    for (int i = 0; i < run->graph.n_works; i++) {
        must(run->runners[i].rc == 0 || run->runners[i].rc == -EDEADLK);
        if (run->runners[i].rc < 0)
            told |= only(i);
        duet_future_unref(run->f[i]);
    }
    for (int i = 0; i < run->graph.n_promises; i++)
        duet_future_unref(run->f[WORKS_MAX + i]);
    duet_future_unref(run->gate);
    return told;
}

/* Until these have ended. This thread never waits in duet, so that it might settle a promise all
 * the time. */
static void await_ended(struct run *run, node_set ended)
{
    const struct timespec rest = {.tv_nsec = 100000};
    duet_deadline by = SURELY;
    for (int i = 0; i < run->graph.n_works; i++)
        while ((ended & only(i)) && !duet_future_settled(run->f[i])) {
            if (duet_now_ns() > by.ns) {
                fprintf(stderr, "%d does not end while the promises are pending\n", i);
                print_graph(&run->graph);
                abort();
            }
            nanosleep(&rest, NULL);
        }
}

static void open_all(void)
{
    const duet_pool_config config = {.workers_max = WORKS_MAX};
    for (int i = 0; i < 2; i++)
        must_equal(duet_loop_start(&loops[i], NULL), 0);
    must_equal(duet_pool_open(&pool, &config), 0);
    log_capture(); /* it would be much */
}

static void close_all(void)
{
    log_release();
    for (int i = 0; i < 2; i++)
        must_equal(duet_loop_close(loops[i], SURELY), 0);
    must_equal(duet_pool_close(pool, SURELY), 0);
}

/* The promises are settled only when all has come to rest. */
static void who_must_be_told_is_told_and_nobody_else(void **state)
{
    (void)state;
    uint64_t random = test_seed();
    int told_ever = 0;
    open_all();
    for (int round = test_rounds(300); round > 0; round--) {
        struct run run;
        node_set first = 0;
        make_graph(&run.graph, true, &random);
        node_set expected = who_is_told(&run.graph, &first), all = first | run.graph.promises;
        expected |= who_is_told(&run.graph, &all);
        must(!(run.graph.works & ~all));
        must(explained(&run.graph, run.graph.promises, expected)); /* the models agree */
        run_start(&run, &random);
        must_equal(duet_future_settle(run.gate, duet_ok()), 0);
        await_ended(&run, first);
        for (int i = 0; i < run.graph.n_works; i++)
            must((first & only(i)) || !duet_future_settled(run.f[i]));
        settle_promises(&run);
        node_set told = run_end(&run);
        if (told != expected) {
            print_graph(&run.graph);
            print_set("told", told);
            print_set("not", expected);
            abort();
        }
        told_ever += told != 0;
    }
    must(told_ever > 0);
    close_all();
}

/* Waits for all of several, and equal deadlines, leave a choice; the promises are settled before or
 * at any time. */
static void whoever_is_told_was_in_a_knot_and_all_ends(void **state)
{
    (void)state;
    uint64_t random = test_seed();
    int told_ever = 0;
    open_all();
    for (int round = test_rounds(300); round > 0; round--) {
        struct run run;
        make_graph(&run.graph, false, &random);
        run_start(&run, &random);
        bool early = below(&random, 2);
        if (early)
            settle_promises(&run);
        must_equal(duet_future_settle(run.gate, duet_ok()), 0);
        for (volatile int i = below(&random, 100000); i > 0; i--)
            ;
        if (!early)
            settle_promises(&run);
        node_set told = run_end(&run);
        if (!explained(&run.graph, run.graph.promises, told)) {
            print_graph(&run.graph);
            print_set("told without reason", told);
            abort();
        }
        told_ever += told != 0;
    }
    must(told_ever > 0);
    close_all();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(who_must_be_told_is_told_and_nobody_else),
        cmocka_unit_test(whoever_is_told_was_in_a_knot_and_all_ends),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
