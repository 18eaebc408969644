/* Who else was on the machine while something was measured. */
#pragma once
#include "measure.h"

#include <sys/resource.h>
#include <unistd.h>

struct load {
    double busy_s, stolen_s, all_s, ours_s;
};

static inline double seconds_of(const struct rusage *usage)
{
    return (double)(usage->ru_utime.tv_sec + usage->ru_stime.tv_sec) +
           (double)(usage->ru_utime.tv_usec + usage->ru_stime.tv_usec) / 1e6;
}

/* Ours is what this process took, and the children that it has waited for. */
static inline struct load load_now(void)
{
    double user = 0, nice = 0, system = 0, idle = 0, iowait = 0, irq = 0, softirq = 0, steal = 0;
    double tick_s = 1.0 / (double)sysconf(_SC_CLK_TCK);
    struct rusage self, children;
    FILE *file = fopen("/proc/stat", "re");
    need(file && fscanf(file, "cpu %lf %lf %lf %lf %lf %lf %lf %lf", &user, &nice, &system, &idle,
                        &iowait, &irq, &softirq, &steal) == 8,
         "/proc/stat");
    fclose(file);
    getrusage(RUSAGE_SELF, &self);
    getrusage(RUSAGE_CHILDREN, &children);
    double busy = user + nice + system + irq + softirq;
    return (struct load){.busy_s = busy * tick_s,
                         .stolen_s = steal * tick_s,
                         .all_s = (busy + idle + iowait + steal) * tick_s,
                         .ours_s = seconds_of(&self) + seconds_of(&children)};
}

static inline void print_load(const struct load *before)
{
    struct load now = load_now();
    double all_s = now.all_s - before->all_s;
    double others_s = (now.busy_s - before->busy_s) - (now.ours_s - before->ours_s);
    printf("%-44s %10.1f %%        (and %.1f %% stolen by the hypervisor)\n",
           "machine: taken by others meanwhile", others_s > 0 ? others_s / all_s * 100 : 0,
           (now.stolen_s - before->stolen_s) / all_s * 100);
}
