/* A barrier of which one side is free. Each of two threads stores, passes its barrier, and loads
 * what the other stores: then one of them at least sees the other's value. The light one only keeps
 * the compiler from moving anything across it; the heavy one has the kernel execute a full barrier
 * on every thread of this process that runs (those that do not run have passed one), which costs
 * some microseconds. */
#pragma once
#include <stdbool.h>

/* Does this kernel, or a filter of system calls, let us? Does not change. */
bool duet__heavy_barrier_works(void);
void duet__heavy_barrier(void);
