/* The buffers that threads fill, and the file that they are written to: when one is full or old,
 * when its thread ends, when the process ends, and when it dies by a signal of its own making
 * (SIGSEGV, SIGABRT, …), whose handler writes what all threads have finished. What dies without a
 * word (SIGKILL) loses what is in the buffers. */
#pragma once
#include "text.h"

#include <stdbool.h>

enum {
    DUET__TRACE_EVENT_MOST = 2048, /* bytes of one event */
};

/* Owned by its thread; the end of the process may read what it has finished. */
struct duet__trace_buffer;

/* Once. 0, or a negative errno. */
int duet__trace_open(const char *path);
/* Is it written to in this process? A look. */
bool duet__trace_is_open(void);

/* This thread's buffer, with room for an event, which begins with a comma and a line feed; NULL:
 * there is none. */
struct duet__trace_buffer *duet__trace_begin(struct duet__text *text);
/* The event is complete. now_ns says how old the buffer is. */
void duet__trace_end(struct duet__trace_buffer *buffer, const struct duet__text *text,
                     int64_t now_ns);
