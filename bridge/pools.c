/* The process's own pools: the default one, and that of names. Each is opened when it is first
 * needed, and anew when it is needed after duet_shutdown(). */
#include "check.h"
#include "fork.h"
#include "lock.h"
#include "park.h"
#include "pool_impl.h"
#include "runtime.h"

#include <duet/bridge.h>
#include <stdlib.h>

enum {
    LOOKUPS_MOST = 32, /* each may hang for as long as the resolver does, and nobody can end it */
};

static const duet_pool_config configs[DUET__OWN_POOLS] = {
    [DUET__POOL_DEFAULT] = {.name = "default"},
    [DUET__POOL_RESOLVE] = {.name = "resolve", .workers_max = LOOKUPS_MOST},
};
/* How long the end of the process waits for what they run. */
static const int exit_wait_ms[DUET__OWN_POOLS] = {
    [DUET__POOL_DEFAULT] = 2000,
    [DUET__POOL_RESOLVE] = 100,
};
static struct duet__lock lock; /* guards these two */
static duet_pool *pools[DUET__OWN_POOLS]; /* once set, for ever or until duet_shutdown() */
static bool ends_at_exit;

/* The parent's pools are not the child's. */
static void reset(void)
{
    duet__store_relaxed(&lock.word, 0);
    for (int i = 0; i < DUET__OWN_POOLS; i++)
        pools[i] = NULL;
}
DUET__IN_CHILD(reset)

static void close_here(duet_pool *pool)
{
    struct duet__parker *before = duet__here_set(NULL); /* also from a bare callback */
    duet_pool_close(pool, DUET_NEVER);
    duet__here_set(before);
}

static duet_pool *get(enum duet__own_pool which)
{
    duet__lock(&lock);
    duet_pool *pool = pools[which];
    duet__unlock(&lock);
    return pool;
}

static void end_own_pools(void)
{
    for (int i = 0; i < DUET__OWN_POOLS; i++) {
        duet_pool *pool = get((enum duet__own_pool)i);
        if (pool)
            duet__pool_end(pool, duet_ms(exit_wait_ms[i]));
    }
}

void duet__own_pool_forget(const duet_pool *pool)
{
    duet__lock(&lock);
    for (int i = 0; i < DUET__OWN_POOLS; i++)
        if (pools[i] == pool)
            pools[i] = NULL; /* its memory stays: who still submits to it is refused */
    duet__unlock(&lock);
}

duet_pool *duet__own_pool(enum duet__own_pool which)
{
    duet_pool *pool = get(which), *ours = NULL;
    if (pool || duet__policy_make_pool(&ours, &configs[which]) < 0) /* not under the lock */
        return pool;
    duet__lock(&lock);
    bool first = !pools[which];
    bool registers = first && !ends_at_exit;
    if (first) {
        duet__pool_set_permanent(ours);
        pools[which] = ours;
        ends_at_exit = true;
    }
    pool = pools[which];
    duet__unlock(&lock);
    if (registers)
        atexit(end_own_pools);
    if (!first) /* somebody else was faster; ours has no jobs, so closing it waits for nobody */
        close_here(ours);
    return pool;
}

duet_pool *duet_pool_default(void)
{
    return duet__own_pool(DUET__POOL_DEFAULT);
}
