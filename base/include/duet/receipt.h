/* duet/receipt.h: what a shutdown left behind. */
#pragma once
#include <duet/base.h>

#ifdef __cplusplus
extern "C" {
#endif

/* One piece of work that had not ended by the deadline. */
typedef struct duet_left {
    const char *kind; /* "coroutine", "job" or "callback" */
    const char *name;
    const char *place; /* "loop 'main'" or "pool 'db'" */
    const char *waits_for; /* "coroutine 'fetch'", "a moment", …; or that it runs on */
    const char *context; /* the shown values it was started with, "request=42"; "": none */
    int64_t age_ns; /* since it started, give or take a few milliseconds */
} duet_left;

/* Owned by whoever called the shutdown, with all that is in it. */
typedef struct duet_receipt {
    size_t count;
    const duet_left *left;
    size_t
        unlisted; /* further ones, for which there was no memory, or whose loop does not answer */
} duet_receipt;

DUET_API void duet_receipt_free(duet_receipt *receipt); /* [any] NULL is fine */

#ifdef __cplusplus
}
#endif
