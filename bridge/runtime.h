/* What starting and ending share. */
#pragma once
#include <duet/loop.h>
#include <duet/pool.h>

/* Asks the process's policy; not under a lock. */
int duet__policy_make_loop(duet_loop **ret, const duet_loop_config *config);
int duet__policy_make_pool(duet_pool **ret, const duet_pool_config *config);

/* The process's own pools. */
enum duet__own_pool {
    DUET__POOL_DEFAULT, /* duet_pool_default() */
    DUET__POOL_RESOLVE, /* duet_resolve() */
    DUET__OWN_POOLS,
};

/* NULL: no memory. It need not be closed. */
duet_pool *duet__own_pool(enum duet__own_pool which);
/* This pool has been shut down; if it is one of the process's own, the next use opens another. */
void duet__own_pool_forget(const duet_pool *pool);
