/* Threads of duet's own. */
#pragma once
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>

/* How many threads this process has, whoever started them; UINT_MAX: cannot be told. */
unsigned duet__thread_count(void);

/* The kernel's number of this thread; remembered, since it is asked for often. */
int32_t duet__thread_number(void);

/* Starts fn(arg) on a new thread called `name` (15 characters are kept; NULL: it names itself)
 * with a stack of so many bytes (0: the system's default), which blocks every signal but those
 * that its own instructions cause and the profiler's, from its first instruction on: the program's
 * signals go to the program's threads. 0 or a negative errno; the caller joins it. */
int duet__thread_start(pthread_t *ret, const char *name, size_t stack_size, void *(*fn)(void *arg),
                       void *arg);
