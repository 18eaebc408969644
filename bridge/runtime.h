/* What starting and ending share. */
#pragma once
#include <duet/pool.h>

/* This pool has been shut down; if it is the process's own, the next use opens another. */
void duet__default_pool_forget(const duet_pool *pool);
