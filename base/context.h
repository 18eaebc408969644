/* Contexts from inside. A context is constant once somebody else can see it, so it is shared by
 * reference; a change makes another. The one of a work or thread is in its parker. */
#pragma once
#include "park.h"

#include <duet/context.h>

/* Owned by its references. */
struct duet_context;

/* As duet_context_ref_here() and duet_context_unref(), in line where there is none, as mostly. */
static inline duet_context *duet__context_inherit(void)
{
    duet_context *context = duet__here()->context;
    return context ? duet_context_ref(context) : NULL;
}

static inline void duet__context_drop(duet_context *context)
{
    if (context)
        duet_context_unref(context);
}

/* Runs a function of the user's as a bare callback, in the context of who runs here; or in another,
 * of which the caller keeps its reference. */
void duet__call_bare(void (*fn)(void *arg), void *arg);
void duet__call_bare_in(duet_context *context, void (*fn)(void *arg), void *arg);
/* The shown values, "request=42 user=ann"; "" if there are none. */
void duet__context_show(const duet_context *context, char *buf, size_t size);
/* Likewise, as the end of a line, " [request=42 user=ann]". Into buf, which is returned. */
const char *duet__context_suffix(const duet_context *context, char *buf, size_t size);
