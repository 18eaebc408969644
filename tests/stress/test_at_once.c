/* Random trees of coroutines, started at once and as usual, that wait, yield, cancel and fail, from
 * a seed, against a model that counts: who was started at once by a coroutine of its loop has run
 * when the call returns, and nobody else has in between; each runs at most once, is dropped once,
 * and has the result that it returned. */
#include "duet_test.h"

#include <duet/sync.h>
#include <sched.h>

enum {
    LOOPS = 2,
    THREADS = 2,
    BATCH = 8, /* trees that a thread has growing at the same time */
    CHILDREN = 4,
    DEPTH = 5,
    MOST = 400 /* nodes of a tree, about */
};

/* What the coroutines of one loop, which are never at the same time, share. */
struct place {
    duet_loop *loop;
    int starting; /* calls that start one at once, which have not returned */
    duet_mutex mutex;
    int inside; /* of the mutex */
};

static struct place places[LOOPS];
static duet_pool *pool;

struct tree;

/* One coroutine. The memory is the tree's, and there until the tree is felled. */
struct node {
    struct node *next; /* of the tree */
    struct tree *tree;
    struct place *place;
    struct node *parent;
    uint64_t random;
    int depth;
    char name[24];
    bool at_once; /* started with the flag, by a coroutine of the same loop */
    duet_future *promise; /* what others may settle */
    int returned; /* its error */
    bool made_result;
    atomic_int runs, drops, results, results_dropped;
};

struct tree {
    _Atomic(struct node *) nodes;
    atomic_int count;
};

static const duet_key whose; /* the node that a work belongs to */

static struct node *node_new(struct tree *tree, struct node *parent, struct place *place,
                             uint64_t *random)
{
    struct node *node = calloc(1, sizeof *node);
    must(node != NULL);
    node->tree = tree;
    node->parent = parent;
    node->place = place;
    node->random = test_random(random);
    node->depth = parent ? parent->depth + 1 : 0;
    snprintf(node->name, sizeof node->name, "node-%d", atomic_fetch_add(&tree->count, 1));
    must_equal(duet_future_open(&node->promise), 0);
    node->next = atomic_load(&tree->nodes);
    while (!atomic_compare_exchange_weak(&tree->nodes, &node->next, node))
        ;
    return node;
}

static bool chance(struct node *node, unsigned percent)
{
    return test_random(&node->random) % 100 < percent;
}

/* ---- What holds for each, whenever it runs ---- */

static void must_be_me(struct node *node)
{
    must_equal(atomic_load(&node->runs), 1);
    must_equal(atomic_load(&node->drops), 0);
    must(duet_loop_self() == node->place->loop);
    must(strcmp(duet_self_name(), node->name) == 0);
    must(duet_context_get(&whose) == node);
    must_equal(errno, node->depth + 1);
}

/* … and when the loop has run it: nobody stands aside for one that it starts. */
static void must_be_run_by_the_loop(struct node *node)
{
    must_be_me(node);
    must_equal(node->place->starting, 0);
}

static void drop_node(void *arg)
{
    struct node *node = arg;
    must_equal(atomic_fetch_add(&node->drops, 1), 0);
    must(duet_loop_self() != node->place->loop || atomic_load(&node->runs) == 0 ||
         duet_context_get(&whose) == node);
}

static void drop_result(void *arg)
{
    struct node *node = arg;
    must_equal(atomic_fetch_add(&node->results_dropped, 1), 0);
}

/* ---- Waits ---- */

static bool may_be_cancelled(int rc)
{
    must(rc == 0 || rc == -ECANCELED);
    must(rc == 0 || duet_cancelled());
    return rc == 0;
}

static void lock_and_wait(struct node *node)
{
    if (!may_be_cancelled(duet_mutex_lock(&node->place->mutex, SURELY)))
        return;
    must_equal(node->place->inside++, 0);
    if (chance(node, 50))
        (void)may_be_cancelled(duet_yield());
    must_equal(--node->place->inside, 0);
    must_equal(duet_mutex_unlock(&node->place->mutex), 0);
}

static void wait_somehow(struct node *node)
{
    int rc;
    duet_result r;
    switch (test_random(&node->random) % 8) {
    case 0:
    case 1:
        if (duet_yield() == 0)
            must_be_run_by_the_loop(node);
        break;
    case 2:
        (void)may_be_cancelled(duet_sleep(duet_us((int64_t)(test_random(&node->random) % 100))));
        break;
    case 3:
        rc = duet_future_wait(node->promise, duet_us(50), NULL);
        must(rc == 0 || rc == -ETIME || rc == -ECANCELED);
        break;
    case 4:
        lock_and_wait(node);
        break;
    case 5:
        rc = duet_offload(pool, return_ok, NULL, SURELY, &r);
        must(rc == 0 ? r.err == 0 : rc == -ECANCELED);
        break;
    case 6:
        duet_shield_begin();
        must_equal(duet_yield(), 0);
        must_be_run_by_the_loop(node);
        duet_shield_end();
        break;
    default:
        rc = duet_future_wait(node->promise, DUET_NOW, NULL);
        must(rc == 0 || rc == -ETIME || rc == -ECANCELED);
    }
    must_be_me(node);
}

/* Somebody else in its tree: those above it, which are there still. */
static void disturb_somebody(struct node *node)
{
    struct node *other = node;
    for (uint64_t up = test_random(&node->random) % DEPTH; up > 0 && other->parent; up--)
        other = other->parent;
    int rc = duet_future_settle(other->promise, duet_ok());
    must(rc == 0 || rc == -EALREADY);
}

/* ---- Children ---- */

static duet_result grow(void *arg);

struct child {
    struct node *node;
    duet_future *f; /* NULL: it is in the group */
};

static void must_have_begun(struct node *parent, struct node *child, int before)
{
    must_equal(parent->place->starting, before);
    must_equal(atomic_load(&child->runs), child->at_once ? 1 : 0);
    must_be_me(parent);
}

/* By a loop that stops. */
static bool was_refused(const struct child *child)
{
    if (!duet_future_settled(child->f) || duet_future_result(child->f).err != -ESHUTDOWN)
        return false;
    must_equal(atomic_load(&child->node->runs), 0);
    must_equal(atomic_load(&child->node->drops), 1);
    return true;
}

/* As one of a group, in which another loop's child fails in this very moment. */
static bool was_cancelled(const struct child *child, duet_group *group)
{
    if (atomic_load(&child->node->runs) == 1 || atomic_load(&child->node->drops) == 0)
        return false;
    must(duet_group_spawn(group, NULL, return_ok, NULL, NULL) < 0);
    return true;
}

static void start_child(struct node *node, struct child *child, duet_group *group)
{
    struct place *place =
        chance(node, 80) ? node->place : &places[test_random(&node->random) % LOOPS];
    const bool flag = chance(node, 70), here = place == node->place;
    const int before = node->place->starting;
    *child = (struct child){.node = node_new(node->tree, node, place, &node->random)};
    child->node->at_once = flag && here;
    const duet_opts opts = {.name = child->node->name,
                            .drop = drop_node,
                            .drop_result = drop_result,
                            .stack_size = chance(node, 10) ? 1 << 19 : 0,
                            .flags = flag ? DUET_AT_ONCE : 0};
    errno = node->depth + 1;
    node->place->starting += child->node->at_once;
    switch (test_random(&node->random) % 3) {
    case 0:
        if (duet_group_spawn(group, here && chance(node, 50) ? NULL : place->loop, grow,
                             child->node, &opts) < 0) {
            child->node->at_once = false; /* the group is cancelled, or one in it failed */
            must_equal(atomic_load(&child->node->runs), 0);
            must_equal(atomic_load(&child->node->drops), 1);
            node->place->starting = before;
            return;
        }
        break;
    case 1:
        child->f = here ? duet_spawn_with(grow, child->node, &opts)
                        : duet_submit_with(place->loop, grow, child->node, &opts);
        break;
    default:
        child->f = duet_submit_with(place->loop, grow, child->node, &opts);
    }
    node->place->starting = before;
    if (child->node->at_once && (child->f ? was_refused(child) : was_cancelled(child, group)))
        child->node->at_once = false;
    if (here)
        must_have_begun(node, child->node, before);
    else
        must_be_me(node);
}

/* What it came to is what it returned; or it was cancelled before it ran, or refused. */
static void check_result(struct node *child, duet_result r)
{
    must_equal(atomic_load(&child->drops), 1);
    if (atomic_load(&child->runs) == 0) {
        must(r.err == -ECANCELED || r.err == -ESHUTDOWN);
        must(!child->at_once);
        return;
    }
    must_equal(r.err, child->returned);
    must_equal(r.kind == DUET_PTR, child->made_result);
}

static void end_child(struct node *node, struct child *child)
{
    duet_result r;
    if (!child->f)
        return;
    switch (test_random(&node->random) % 4) {
    case 0:
        duet_future_unref(child->f); /* it goes on alone */
        return;
    case 1:
        must_equal(duet_future_close(child->f, &r), 0);
        check_result(child->node, r);
        if (r.kind == DUET_PTR)
            drop_result(duet_as_ptr(r));
        return;
    case 2:
        duet_future_cancel(child->f);
        break;
    default:
        break;
    }
    duet_shield_begin();
    must_equal(duet_future_wait(child->f, SURELY, &r), 0);
    duet_shield_end();
    check_result(child->node, r);
    duet_future_unref(child->f);
}

static void grow_children(struct node *node)
{
    struct child children[CHILDREN];
    duet_group group = DUET_GROUP_INIT;
    int n = (int)(test_random(&node->random) % (CHILDREN + 1));
    for (int i = 0; i < n; i++) {
        start_child(node, &children[i], &group);
        if (chance(node, 30))
            wait_somehow(node);
        if (i > 0 && children[i - 1].f && chance(node, 10))
            duet_future_cancel(children[i - 1].f);
    }
    for (int i = n - 1; i >= 0; i--)
        end_child(node, &children[i]);
    if (chance(node, 20))
        duet_group_cancel(&group);
    if (chance(node, 50)) {
        int rc = duet_group_wait(&group, SURELY, NULL);
        must(rc == 0 || rc == -ECANCELED);
    }
    must_equal(duet_group_close(&group), 0);
    must_be_me(node);
}

static duet_result grow(void *arg)
{
    struct node *node = arg;
    must_equal(atomic_fetch_add(&node->runs, 1), 0);
    if (node->at_once)
        must(node->place->starting > 0);
    else
        must_equal(node->place->starting, 0);
    must(duet_context_get(&whose) == node->parent); /* as it was when it was started */
    must_equal(duet_context_set(&whose, node), 0);
    errno = node->depth + 1;
    must_be_me(node);
    if (chance(node, 40))
        wait_somehow(node);
    if (node->depth < DEPTH && atomic_load(&node->tree->count) < MOST)
        grow_children(node);
    if (chance(node, 30))
        disturb_somebody(node);
    if (chance(node, 30))
        wait_somehow(node);
    must_be_me(node);
    if (chance(node, 20)) {
        node->returned = chance(node, 50) ? -EIO : -ECANCELED;
        return duet_err(node->returned);
    }
    if (chance(node, 60))
        return duet_ok();
    node->made_result = true;
    atomic_store(&node->results, 1);
    return duet_ptr(node);
}

/* ---- Trees ---- */

static void fell(struct tree *tree)
{
    struct node *node = atomic_load(&tree->nodes);
    int count = 0;
    while (node) {
        struct node *next = node->next;
        must(atomic_load(&node->runs) <= 1);
        must(atomic_load(&node->runs) == 1 || !node->at_once);
        must_equal(atomic_load(&node->drops), 1);
        must_equal(atomic_load(&node->results), atomic_load(&node->results_dropped));
        duet_future_unref(node->promise);
        free(node);
        node = next;
        count++;
    }
    must_equal(count, atomic_load(&tree->count));
    free(tree);
}

struct planter {
    pthread_t thread;
    uint64_t random;
    struct tree *trees[BATCH];
};

static void *plant(void *arg)
{
    struct planter *p = arg;
    duet_future *f[BATCH];
    struct node *roots[BATCH];
    for (int i = 0; i < BATCH; i++) {
        p->trees[i] = calloc(1, sizeof *p->trees[i]);
        must(p->trees[i] != NULL);
        struct place *place = &places[test_random(&p->random) % LOOPS];
        roots[i] = node_new(p->trees[i], NULL, place, &p->random);
        const duet_opts opts = {.name = roots[i]->name,
                                .drop = drop_node,
                                .drop_result = drop_result,
                                .flags = test_random(&p->random) % 2 ? DUET_AT_ONCE : 0};
        f[i] = duet_submit_with(place->loop, grow, roots[i], &opts);
    }
    for (int i = 0; i < BATCH; i++) {
        duet_result r;
        if (test_random(&p->random) % 4 == 0)
            duet_future_cancel(f[i]);
        if (test_random(&p->random) % 4 == 0)
            continue;
        must_equal(duet_future_wait(f[i], SURELY, &r), 0);
        check_result(roots[i], r);
    }
    for (int i = 0; i < BATCH; i++)
        duet_future_unref(f[i]);
    return NULL;
}

/* Counts what hooks are told, on one of the two loops. */
static atomic_long spawned, began, ended, settled;

static void count_event(void *counter, const duet_work_event *e)
{
    (void)e;
    atomic_fetch_add((atomic_long *)counter, 1);
}

#define counter_hook(event)                                                                        \
    static void on_##event(void *ctx, const duet_work_event *e)                                    \
    {                                                                                              \
        (void)ctx;                                                                                 \
        count_event(&event, e);                                                                    \
    }
counter_hook(spawned) counter_hook(began) counter_hook(ended) counter_hook(settled)

    static const duet_hooks hooks = {.spawned = on_spawned,
                                     .step_began = on_began,
                                     .step_ended = on_ended,
                                     .settled = on_settled};

static void open_places(int round)
{
    for (int i = 0; i < LOOPS; i++) {
        const duet_loop_config config = {.hooks = i == round % LOOPS ? &hooks : NULL};
        places[i] = (struct place){.loop = NULL};
        must_equal(duet_loop_start(&places[i].loop, &config), 0);
        (void)duet_loop_ref(places[i].loop);
    }
}

static void close_places(void)
{
    for (int i = 0; i < LOOPS; i++)
        must_equal(duet_loop_close(places[i].loop, SURELY), 0);
    for (int i = 0; i < LOOPS; i++) {
        must_equal(places[i].starting, 0);
        must_equal(places[i].inside, 0);
        duet_loop_unref(places[i].loop);
    }
}

static void quiet(void *ctx, enum duet_level level, const char *line)
{
    (void)ctx;
    (void)level;
    (void)line; /* of failures that nobody looked at there are many */
}

/* Half of the rounds end while the trees still grow. */
static void trees_of_coroutines_keep_their_order_and_add_up(void **state)
{
    (void)state;
    uint64_t random = test_seed();
    const duet_pool_config config = {.workers_max = 2};
    must_equal(duet_pool_open(&pool, &config), 0);
    duet_log_set(quiet, NULL, DUET_WARNING);
    for (int round = test_rounds(600); round > 0; round--) {
        static struct planter planters[THREADS];
        open_places(round);
        for (int i = 0; i < THREADS; i++) {
            planters[i].random = test_random(&random);
            must_equal(pthread_create(&planters[i].thread, NULL, plant, &planters[i]), 0);
        }
        for (int i = 0; i < THREADS; i++)
            must_equal(pthread_join(planters[i].thread, NULL), 0);
        close_places();
        for (int i = 0; i < THREADS; i++)
            for (int k = 0; k < BATCH; k++)
                fell(planters[i].trees[k]);
        must_equal(atomic_load(&spawned), atomic_load(&settled));
        must_equal(atomic_load(&began), atomic_load(&ended));
    }
    duet_log_set(NULL, NULL, DUET_WARNING);
    must(atomic_load(&spawned) > 0);
    must_equal(duet_pool_close(pool, SURELY), 0);
}

/* ---- Cancelled by a thread while it runs at once, in its group or by the end of its loop ---- */

static atomic_int racers_ran, racers_dropped;

static void drop_racer(void *unused)
{
    (void)unused;
    atomic_fetch_add(&racers_dropped, 1);
}

static const duet_opts racing = {.name = "racer", .drop = drop_racer, .flags = DUET_AT_ONCE};

static void spin_a_little(uint64_t *random)
{
    for (volatile uint64_t i = test_random(random) % 500; i > 0; i--)
        ;
}

/* Ends by itself, or waits for what only its cancellation ends. */
static duet_result race(void *arg)
{
    uint64_t *random = arg;
    atomic_fetch_add(&racers_ran, 1);
    spin_a_little(random);
    switch (test_random(random) % 4) {
    case 0:
        return duet_ok();
    case 1:
        (void)may_be_cancelled(duet_yield());
        return duet_cancelled() ? duet_err(-ECANCELED) : duet_ok();
    default:
        must_equal(duet_sleep(SURELY), -ECANCELED);
        must(duet_cancelled());
        return duet_err(-ECANCELED);
    }
}

struct group_race {
    uint64_t random, random_of_thread;
    duet_group group;
    atomic_int round, cancelled; /* the last that began, and the last that was cancelled */
    int rounds;
};

static void *cancel_each_group(void *arg)
{
    struct group_race *g = arg;
    for (int round = 1; round <= g->rounds; round++) {
        while (atomic_load(&g->round) < round)
            sched_yield();
        spin_a_little(&g->random_of_thread);
        duet_group_cancel(&g->group);
        atomic_store(&g->cancelled, round);
    }
    return NULL;
}

static duet_result start_in_groups(void *arg)
{
    struct group_race *g = arg;
    for (int round = 1; round <= g->rounds; round++) {
        duet_result failure;
        int started = 0, before = atomic_load(&racers_ran);
        atomic_store(&g->round, round);
        for (int i = 0; i < 20; i++) {
            int rc = duet_group_spawn(&g->group, NULL, race, &g->random, &racing);
            must(rc == 0 || rc == -ECANCELED);
            started += rc == 0;
        }
        must(atomic_load(&racers_ran) - before <= started);
        while (atomic_load(&g->cancelled) < round)
            must_equal(duet_yield(), 0);
        must_equal(duet_group_wait(&g->group, SURELY, &failure), 0);
        must_equal(failure.err, 0);
        must_equal(duet_group_close(&g->group), 0);
        must_equal(atomic_load(&racers_dropped), round * 20);
    }
    return duet_ok();
}

static void a_thread_that_cancels_a_group_reaches_those_that_run_at_once(void **state)
{
    (void)state;
    uint64_t random = test_seed();
    for (int with = 0; with < 2; with++) {
        const duet_loop_config config = {.hooks = with ? &hooks : NULL};
        struct group_race g = {.random = test_random(&random),
                               .random_of_thread = test_random(&random),
                               .rounds = test_rounds(2000)};
        pthread_t thread;
        duet_loop *loop;
        duet_result r;
        racers_ran = racers_dropped = 0;
        must_equal(duet_loop_start(&loop, &config), 0);
        must_equal(pthread_create(&thread, NULL, cancel_each_group, &g), 0);
        must_equal(duet_call(loop, start_in_groups, &g, SURELY, &r), 0);
        must_equal(r.err, 0);
        pthread_join(thread, NULL);
        must_equal(duet_loop_close(loop, SURELY), 0);
    }
    must_equal(atomic_load(&spawned), atomic_load(&settled));
}

/* Starts one after the other, and lets go of each at once. */
static duet_result start_until_the_stop(void *arg)
{
    uint64_t *random = arg;
    int started = 0;
    for (bool open = true; open; started++) {
        duet_future *f = duet_spawn_with(race, random, &racing);
        open = !duet_future_settled(f) || duet_future_result(f).err != -ESHUTDOWN;
        duet_future_unref(f);
        if (test_random(random) % 8 == 0)
            (void)may_be_cancelled(duet_yield());
    }
    return duet_i64(started);
}

static void a_stop_reaches_those_that_run_at_once(void **state)
{
    (void)state;
    uint64_t random = test_seed();
    for (int round = test_rounds(300); round > 0; round--) {
        const duet_loop_config config = {.hooks = round % 2 ? &hooks : NULL};
        uint64_t seed = test_random(&random);
        duet_loop *loop;
        racers_ran = racers_dropped = 0;
        must_equal(duet_loop_start(&loop, &config), 0);
        duet_future *f = duet_submit(loop, start_until_the_stop, &seed);
        must_equal(duet_future_wait(f, duet_us((int64_t)(test_random(&random) % 200)), NULL),
                   -ETIME);
        must_equal(duet_loop_close(loop, SURELY), 0);
        duet_result r = duet_future_result(f);
        if (r.err == 0) /* else the stop came before it had begun */
            must_equal(racers_dropped, duet_as_i64(r));
        else
            must_equal(r.err, -ECANCELED);
        must(racers_ran <= racers_dropped);
        duet_future_unref(f);
    }
    must_equal(atomic_load(&spawned), atomic_load(&settled));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(trees_of_coroutines_keep_their_order_and_add_up),
        cmocka_unit_test(a_thread_that_cancels_a_group_reaches_those_that_run_at_once),
        cmocka_unit_test(a_stop_reaches_those_that_run_at_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
