/* How many processors this process may use, and how to wait on one politely. */
#pragma once

enum {
    DUET__LINE = 64, /* bytes of the cache that come and go together */
};

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

/* A line that was last written on another processor takes as long as a hundred instructions: it
 * comes meanwhile, to be written here. Any address will do, also one that is no memory any more.
 * (gcc's own takes a PREFETCHW only if told that the processor knows it; those that do not take it
 * for nothing.) */
static inline void duet__fetch_to_write(const void *address)
{
#if defined(__x86_64__)
    __asm__ volatile("prefetchw (%0)" : : "r"(address));
#else
    __builtin_prefetch(address, 1);
#endif
}
