/* Five coroutines of random length on one thread; gathered in order, as long as the slowest. */
#include "say.h"

#include <time.h>

enum {
    TASKS = 5
};

struct task {
    int number, ms;
};

static duet_result work(void *arg)
{
    struct task *task = arg;
    say("begins: %.1f s of waiting", task->ms / 1000.0);
    int rc = duet_sleep(duet_ms(task->ms));
    say("ends");
    return rc < 0 ? duet_err(rc) : duet_i64(task->number * 100);
}

static duet_result run_all(void *arg)
{
    struct task *tasks = arg;
    duet_future *futures[TASKS];
    duet_result results[TASKS];
    for (int i = 0; i < TASKS; i++) {
        char name[16];
        snprintf(name, sizeof name, "task %d", i);
        const duet_opts opts = {.name = name};
        futures[i] = duet_spawn_with(work, &tasks[i], &opts);
    }
    int rc = duet_gather(futures, TASKS, duet_sec(10), results);
    for (int i = 0; i < TASKS; i++)
        duet_future_unref(futures[i]);
    if (rc < 0)
        return duet_err(rc);
    for (int i = 0; i < TASKS; i++)
        say("result %d: %lld", i, (long long)duet_as_i64(results[i]));
    return duet_ok();
}

int main(void)
{
    struct task tasks[TASKS];
    int slowest = 0, sum = 0;
    duet_result r;
    say_begin();
    srand((unsigned)time(NULL));
    for (int i = 0; i < TASKS; i++) {
        tasks[i] = (struct task){i, 500 + rand() % 1501};
        slowest = tasks[i].ms > slowest ? tasks[i].ms : slowest;
        sum += tasks[i].ms;
    }
    need(duet_run(run_all, tasks, &r), "duet_run");
    need(r.err, "the tasks");
    say("all done: the slowest took %.3f s, all one after the other would take %.3f s",
        slowest / 1000.0, sum / 1000.0);
    return 0;
}
