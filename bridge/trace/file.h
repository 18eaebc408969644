/* The file of a trace, and the buffers that threads fill for it.
 *
 * THE FILE IS STRICTLY VALID JSON AT ANY MOMENT, whatever ends the process, also between two system
 * calls or within one: a write that stays within a page is done or not done, but one that crosses
 * pages may be cut off between them by SIGKILL. So the file grows by pages. The closing bracket
 * stands at the end of the last one, behind spaces, and events are written over the spaces, whole
 * ones and within the page. When it is full, the bracket moves on in three steps: a page of spaces
 * is appended (behind the bracket: that is allowed); one store of eight bytes, through a mapping,
 * takes the bracket across to that page's beginning; one write within the page takes it to the
 * page's end.
 *
 * What a thread has recorded is written when its buffer is full or old, when the thread ends, when
 * the process ends, and when it dies by a signal of its own making (SIGSEGV, SIGABRT, …), whose
 * handler writes what all threads have finished. What dies without a word (SIGKILL) loses what is
 * in the buffers. */
#pragma once
#include "text.h"

enum {
    DUET__TRACE_EVENT_MOST = 1024, /* bytes of one event */
};

/* Owned by its thread; the crash of another may read what it has finished. */
struct duet__trace_buffer;

/* True: the file is open, and begins with who we are. Else the log says why. */
bool duet__trace_file_open(const char *path);
/* Is it written to in this process? A look. */
bool duet__trace_file_is_open(void);

/* This thread's buffer, with room for an event, which begins with a comma; NULL: there is none. */
struct duet__trace_buffer *duet__trace_begin(struct duet__text *text);
/* The event is complete. now_ns says how old the buffer is. */
void duet__trace_end(struct duet__trace_buffer *buffer, const struct duet__text *text,
                     int64_t now_ns);

/* Numbers of the kernel. */
int32_t duet__trace_thread(void);
int32_t duet__trace_process(void);

/* What this thread was last called; for who names it. Owned by the thread; NULL: nothing is traced. */
struct duet__trace_lane {
    const void *loop; /* whose lane it is; NULL: none's */
    bool named;
    uint64_t counted; /* what the counter of this lane last said, plus one; 0: nothing yet */
};
struct duet__trace_lane *duet__trace_lane(void);
