/* What starting and ending share. */
#pragma once

/* The process's own pool has been shut down: the next use opens another. */
void duet__default_pool_forget(void);
