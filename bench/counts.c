/* What the main paths cost in instructions: one of them, so many times, for callgrind to count.
 * tools/counts.py runs it twice and divides the difference, so that what a start costs is not in it.
 * All on one thread: what threads do to each other differs from run to run. */
#include "measure.h"

#include <duet/duet.h>

#include <string.h>

static long rounds;

static duet_result nothing(void *arg)
{
    (void)arg;
    return duet_ok();
}

static void spawn_and_wait(void)
{
    duet_future *f = duet_spawn(nothing, NULL);
    need(duet_future_wait(f, DUET_NEVER, NULL) == 0, "wait");
    duet_future_unref(f);
}

static void spawn_at_once(void)
{
    const duet_opts opts = {.flags = DUET_AT_ONCE};
    duet_future *f = duet_spawn_with(nothing, NULL, &opts);
    need(duet_future_wait(f, DUET_NEVER, NULL) == 0, "wait");
    duet_future_unref(f);
}

static void spawn_by_name(void)
{
    const duet_opts opts = {.name = "a name"};
    duet_future *f = duet_spawn_with(nothing, NULL, &opts);
    need(duet_future_wait(f, DUET_NEVER, NULL) == 0, "wait");
    duet_future_unref(f);
}

static void call_own_loop(void)
{
    duet_result r;
    need(duet_call(duet_loop_self(), nothing, NULL, DUET_NEVER, &r) == 0, "call");
}

static void promise(void)
{
    duet_future *f;
    need(duet_future_open(&f) == 0, "open");
    need(duet_future_settle(f, duet_ok()) == 0, "settle");
    need(duet_future_wait(f, DUET_NEVER, NULL) == 0, "wait");
    duet_future_unref(f);
}

static void group(void)
{
    duet_group g = {0};
    for (int i = 0; i < 4; i++)
        need(duet_group_spawn(&g, NULL, nothing, NULL, NULL) == 0, "spawn");
    need(duet_group_wait(&g, DUET_NEVER, NULL) == 0, "wait");
    need(duet_group_close(&g) == 0, "close");
}

static void yield(void)
{
    need(duet_yield() == 0, "yield");
}

static void mutex(void)
{
    static duet_mutex m = DUET_MUTEX_INIT;
    need(duet_mutex_lock(&m, DUET_NEVER) == 0, "lock");
    duet_mutex_unlock(&m);
}

static void channel(void)
{
    static duet_chan *c;
    int item = 1;
    if (!c)
        need(duet_chan_open(&c, sizeof item, 4) == 0, "open");
    need(duet_chan_send(c, &item, DUET_NEVER) == 0, "send");
    need(duet_chan_recv(c, &item, DUET_NEVER) == 0, "recv");
}

static void context(void)
{
    static const duet_key key = {.name = "key"};
    static int values[2], i;
    need(duet_context_set(&key, &values[i ^= 1]) == 0, "set");
    need(duet_context_get(&key) == &values[i], "get");
}

static void call_soon_nothing(void *arg)
{
    (void)arg;
}

static void call_soon(void)
{
    need(duet_call_soon(duet_loop_self(), call_soon_nothing, NULL) == 0, "call_soon");
    need(duet_yield() == 0, "yield");
}

static void sleep_that_is_cancelled(void)
{
    duet_future *f = duet_call_at(duet_loop_self(), duet_sec(100), call_soon_nothing, NULL);
    need(duet_yield() == 0, "yield");
    duet_future_cancel(f);
    need(duet_yield() == 0, "yield");
    duet_future_unref(f);
}

static const struct {
    const char *name;
    void (*once)(void);
} paths[] = {
    {"spawn", spawn_and_wait},
    {"spawn-at-once", spawn_at_once},
    {"spawn-named", spawn_by_name},
    {"call", call_own_loop},
    {"promise", promise},
    {"group", group},
    {"yield", yield},
    {"mutex", mutex},
    {"channel", channel},
    {"context", context},
    {"call_soon", call_soon},
    {"call_at", sleep_that_is_cancelled},
};

static duet_result run_path(void *once)
{
    void (*path)(void) = *(void (**)(void))once;
    for (long i = 0; i < rounds; i++)
        path();
    return duet_ok();
}

static void list_paths(void)
{
    for (size_t i = 0; i < sizeof paths / sizeof paths[0]; i++)
        puts(paths[i].name);
}

int main(int argc, char **argv)
{
    if (argc != 3) {
        list_paths();
        return argc != 1;
    }
    rounds = strtol(argv[2], NULL, 10);
    for (size_t i = 0; i < sizeof paths / sizeof paths[0]; i++) {
        void (*once)(void) = paths[i].once;
        if (strcmp(paths[i].name, argv[1]) == 0)
            return duet_run(run_path, &once, NULL) < 0;
    }
    fprintf(stderr, "no such path: %s\n", argv[1]);
    return 1;
}
