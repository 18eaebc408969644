/* The kernel under the models: futexes, time, and one eventfd. Waiting is blocking in the checker;
 * a system call orders nothing but what the kernel itself promises. */
#pragma once
#include <stdbool.h>
#include <stdint.h>

struct model_kernel {
    int64_t now_ns;
    bool lose_futex_wake; /* broken variants */
    bool lose_signal;
    bool lose_barrier;
    bool has_no_barrier;
    /* the eventfd */
    uint64_t signals; /* written and not read */
    bool closed;
};
extern struct model_kernel model_kernel;

void model_kernel_reset(void);
/* When all sleep: the first deadline passes. False: there is none. */
bool model_kernel_pass_time(void);
/* A point at which other threads may run. */
void model_kernel_point(void);
