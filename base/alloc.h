/* Where memory comes from: the C library, or what the program has put in its place. All of duet's
 * own memory that is not mapped comes from here; loop/co, which knows nobody, is given these. */
#pragma once
#include <stdbool.h>
#include <stddef.h>

/* Has the program set them? Constant from the first allocation on. */
bool duet__alloc_is_users(void);
/* As malloc(); from the beginning of a line of the cache, if it is the C library's memory. */
void *duet__alloc_lines(size_t size);
/* As malloc(), calloc(), realloc(), strdup(), free(). */
void *duet__alloc(size_t size);
void *duet__alloc_zeroed(size_t count, size_t size);
void *duet__alloc_resize(void *block, size_t size);
char *duet__alloc_string(const char *text);
void duet__free(void *block);
