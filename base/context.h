/* Contexts from inside. A context is constant once somebody else can see it, so it is shared by
 * reference; a change makes another. The one of a work or thread is in its parker. */
#pragma once
#include <duet/context.h>

/* Owned by its references. */
struct duet_context;

/* Who runs here: a reference of the caller's own to its context; NULL: none. */
duet_context *duet__context_inherit(void);
/* Runs a bare callback in a context, of which the caller keeps its reference. */
void duet__call_bare_in(duet_context *context, void (*fn)(void *arg), void *arg);
/* The shown values, "request=42 user=ann"; "" if there are none. */
void duet__context_show(const duet_context *context, char *buf, size_t size);
/* Likewise, as the end of a line, " [request=42 user=ann]". Into buf, which is returned. */
const char *duet__context_suffix(const duet_context *context, char *buf, size_t size);
