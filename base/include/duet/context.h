/* duet/context.h: values that travel with the work.
 *
 *     static const duet_key request = {.name = "request", .show = show_number, .drop = free};
 *     rc = duet_context_set(&request, number);     // < 0: number is still ours
 *     rc = duet_offload(NULL, work, arg, by, &r);  // work() has it: duet_context_get(&request)
 *
 * A context is a set of values by key. Each work has one, and each thread; what it starts
 * (duet_spawn(), duet_submit(), duet_call(), duet_offload(), duet_pool_submit(), a group's spawn,
 * duet_call_soon(), duet_call_at(), duet_future_then(), a server's handlers) begins with the same
 * values, on whatever thread it runs. So a value set by a coroutine is there in the job that it
 * offloads, and one set by a job in the coroutine that it calls. A change is seen by who makes it,
 * and by what it starts afterwards; never by who started it, by what it has started already, or by
 * the next job on the same worker.
 *
 * Lines of the log that duet writes about a work (that it failed and nobody looked, is left
 * behind, waits in a circle) end with its values, those that have a show function: "…
 * [request=42]"; while it runs, with those that it was started with. All other lines end with
 * those of the work or thread that they are written in.
 *
 * A work lets go of its values with the last handle to it. Its drop functions see them, as do its
 * hooks. A server's handlers begin with those of who called duet_server_serve(). Between the turns
 * of a guest the thread has its own. A child that was forked in a work begins with those of its
 * thread. */
#pragma once
#include <duet/base.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A key is known by its address. Owned by the program: static, or at least there as long as any
 * context that holds a value of it. */
typedef struct duet_key {
    const char *name; /* for the log; not NULL if there is a show */
    /* Runs once, when no context holds this value any more, on whatever thread that happens; must
     * not wait, and sees no values. NULL: nothing. Not run for what the main thread holds at the
     * process's end. */
    void (*drop)(void *value);
    /* Writes the value as text, at most size bytes with the end (64 in reports); must not wait,
     * and sees no values. NULL: not shown. */
    void (*show)(const void *value, char *buf, size_t size);
    uintptr_t reserved[4]; /* zero */
} duet_key;

/* [any] From here on the value of this key, for the work or thread that runs here and all that it
 * starts. The value is the context's from then on. value NULL: as if the key had none. To set what
 * is set already changes nothing. 0; -ENOMEM (never where it removes the only value), -EINVAL: the
 * value is still the caller's. In a bare callback it holds until that returns. */
DUET_API int duet_context_set(const duet_key *key, void *value);
/* [any] The value of this key here; NULL: none. Valid until the key is set anew here, or the work
 * or thread ends; to have it longer, keep duet_context_ref_here(). */
DUET_API void *duet_context_get(const duet_key *key);

/* [any] The shown values here, "request=42 user=ann"; "" if there are none. Into buf, which is
 * returned; with a size of 0 it is left alone, and "" is returned. */
DUET_API const char *duet_context_describe(char *buf, size_t size);

/* A context as such, for who keeps work in a queue of its own. Owned by its references; NULL is the
 * empty one. */
typedef struct duet_context duet_context;
/* [any] What is here now; to be let go of by duet_context_unref(), or handed to
 * duet_context_swap(). */
DUET_API duet_context *duet_context_ref_here(void);
/* [any] From here on this is the context of the work or thread that runs here, which takes over the
 * caller's reference; returns the one before, which is now the caller's. */
DUET_API duet_context *duet_context_swap(duet_context *context);
DUET_API duet_context *duet_context_ref(duet_context *context); /* [any] one more owner */
DUET_API void duet_context_unref(duet_context *context); /* [any] let go; NULL is fine */
#ifdef __cplusplus
}
#endif
