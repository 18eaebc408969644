/* How many processors this process may use, by affinity (taskset) and a container's quota.
 * Spinning, say, is only of use where the other side can run meanwhile. */
#include "cpu.h"
#include "atomic.h"

#include <duet/base.h>

#include <sched.h>
#include <stdio.h>
#include <string.h>

static _Atomic int cpu_count; /* 0: not read yet; a plain number, nothing is published by it */

static int affinity_count(void)
{
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) < 0)
        return 1024; /* more processors than the set holds: surely more than one */
    return CPU_COUNT(&set);
}

/* The version 2 quota of one cgroup, in whole processors, rounded up; 0: none. */
static int quota_of(const char *cgroup)
{
    char path[512];
    if (snprintf(path, sizeof path, "/sys/fs/cgroup%s/cpu.max", cgroup) >= (int)sizeof path)
        return 0;
    FILE *file = fopen(path, "re");
    if (!file)
        return 0;
    long quota_us = 0, period_us = 0;
    int fields = fscanf(file, "%ld %ld", &quota_us, &period_us); /* "max 100000" matches nothing */
    fclose(file);
    if (fields != 2 || quota_us <= 0 || period_us <= 0)
        return 0;
    return (int)((quota_us + period_us - 1) / period_us);
}

static int cgroup_count(void)
{
    char line[400], *cgroup = NULL;
    FILE *file = fopen("/proc/self/cgroup", "re");
    while (file && !cgroup && fgets(line, sizeof line, file))
        if (strncmp(line, "0::", 3) == 0)
            cgroup = line + 3;
    if (file)
        fclose(file);
    if (!cgroup)
        return 0;
    cgroup[strcspn(cgroup, "\n")] = '\0';
    int least = 0;
    for (;;) { /* a quota anywhere above counts too */
        int quota = quota_of(strcmp(cgroup, "/") == 0 ? "" : cgroup);
        if (quota && (!least || quota < least))
            least = quota;
        char *slash = strrchr(cgroup, '/');
        if (!slash || cgroup[0] == '\0')
            return least;
        *slash = '\0';
    }
}

void duet__cpu_refresh(void)
{
    int count = affinity_count(), quota = cgroup_count();
    if (quota && quota < count)
        count = quota;
    duet__store_relaxed(&cpu_count, count > 0 ? count : 1);
}

unsigned duet_cpu_count(void)
{
    duet__cpu_refresh();
    return (unsigned)duet__cpu_count();
}

int duet__cpu_count(void)
{
    int count = duet__load_relaxed(&cpu_count);
    if (count == 0) {
        duet__cpu_refresh();
        count = duet__load_relaxed(&cpu_count);
    }
    return count;
}
