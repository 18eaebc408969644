/* A memory barrier in all threads of this process at once, at the cost of whoever asks for it. */
#pragma once
#include <stdbool.h>

/* Does the kernel have it? The same all the time. */
bool duet__has_barrier(void);
/* When it returns, each thread of this process has passed through a full barrier since the call, and
 * so has the caller. False: the kernel refuses (a seccomp filter that came later). */
bool duet__barrier_all(void);
