#include "futex.h"
#include "clock.h"

#include <errno.h>
#include <linux/futex.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <unistd.h>

void duet__futex_wait(_Atomic uint32_t *word, uint32_t seen, int64_t by_ns)
{
    int saved_errno = errno;
    struct timespec by, *limit = NULL;
    if (by_ns != DUET__NEVER) {
        by.tv_sec = by_ns / 1000000000;
        by.tv_nsec = by_ns % 1000000000;
        limit = &by;
    }
    /* WAIT_BITSET takes an absolute moment on CLOCK_MONOTONIC, so an interrupted sleep does not
     * drift. */
    syscall(SYS_futex, word, FUTEX_WAIT_BITSET | FUTEX_PRIVATE_FLAG, seen, limit, NULL,
            FUTEX_BITSET_MATCH_ANY);
    errno = saved_errno;
}

void duet__futex_wake(_Atomic uint32_t *word)
{
    int saved_errno = errno;
    syscall(SYS_futex, word, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, 1, NULL, NULL, 0);
    errno = saved_errno;
}
