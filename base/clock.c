/* Moments: all saturate, so that no arithmetic of the caller's can turn a far deadline into a past
 * one. */
#include "clock.h"

#include <duet/base.h>

static duet_deadline from_now(int64_t n, int64_t unit_ns)
{
    int64_t distance, moment;
    if (__builtin_mul_overflow(n, unit_ns, &distance) ||
        __builtin_add_overflow(duet__clock_ns(), distance, &moment))
        moment = n < 0 ? 0 : DUET__NEVER;
    return (duet_deadline){moment < 0 ? 0 : moment};
}

duet_deadline duet_ns(int64_t n)
{
    return from_now(n, 1);
}

duet_deadline duet_us(int64_t n)
{
    return from_now(n, 1000);
}

duet_deadline duet_ms(int64_t n)
{
    return from_now(n, 1000000);
}

duet_deadline duet_sec(int64_t n)
{
    return from_now(n, 1000000000);
}

int64_t duet_now_ns(void)
{
    return duet__clock_ns();
}
