/* A file of events that is strictly valid JSON at any moment, whatever ends the process, also
 * between two system calls or within one.
 *
 * A write that stays within a page is done or not done; one that crosses pages may be cut off
 * between them by SIGKILL. So the file grows by pages. The closing bracket stands at the end of
 * the last one, behind spaces, and events are written over the spaces, whole ones and within the
 * page. When it is full, the bracket moves on in three steps: a page of spaces is appended (behind
 * the bracket: that is allowed); one store of eight bytes, through a mapping, takes the bracket
 * across to that page's beginning; one write within the page takes it to the page's end. */
#pragma once
#include <stdbool.h>
#include <sys/types.h>

enum {
    DUET__PAGE = 4096, /* of the page cache: a divisor of every page size there is */
};

/* Owned by whoever opened it, who also sees to it that no two threads are in it. */
struct duet__pages {
    int fd; /* -1: not open, or what was written has failed */
    off_t end; /* behind the last event */
    off_t page; /* where the last page begins */
    char *window; /* a mapping of the file around its end; NULL: none, then writes have to do */
    off_t window_at;
};

/* Makes the file, of which fd, empty, is the caller's until then, one that holds the first event.
 * False: it cannot be written; fd stays the caller's. */
bool duet__pages_open(struct duet__pages *pages, int fd, const char *first, size_t n);
/* Each event begins with a comma and a line feed, which is nowhere else. What cannot be written
 * ends it, and leaves a file that is valid. May be called in a signal handler. */
void duet__pages_write(struct duet__pages *pages, const char *events, size_t n);
void duet__pages_close(struct duet__pages *pages);
