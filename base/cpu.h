/* How many processors this process may use, and how to wait on one politely. */
#pragma once

/* By affinity and by the cgroup's quota, at least 1. Read once; duet__cpu_refresh() reads again. */
int duet__cpu_count(void);
void duet__cpu_refresh(void);

static inline void duet__cpu_relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield" ::: "memory");
#endif
}
