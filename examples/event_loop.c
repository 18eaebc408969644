/* A loop, a coroutine, and two sleeps.
 *
 * duet_run() makes this thread a loop until its main coroutine has ended. Sleeping suspends only
 * the coroutine: the ticks that go on meanwhile come from another one on the same thread. */
#include "say.h"

static duet_result tick(void *arg)
{
    (void)arg;
    for (int i = 1; duet_sleep(duet_ms(400)) == 0; i++)
        say("tick %d: the loop is free while main sleeps", i);
    return duet_ok(); /* cancelled: main has ended, and what is left on its loop goes with it */
}

static duet_result demonstrate(void *arg)
{
    (void)arg;
    const duet_opts named = {.name = "ticker"};
    say("runs on a loop: %s", duet_loop_self() ? "yes" : "no");
    duet_future_unref(duet_spawn_with(tick, NULL, &named));
    say("sleeps for 1 s");
    duet_sleep(duet_sec(1));
    say("sleeps for 0.5 s more");
    duet_sleep(duet_ms(500));
    say("returns a value");
    return duet_i64(42);
}

int main(void)
{
    duet_result r;
    say_begin();
    need(duet_run(demonstrate, NULL, &r), "duet_run");
    say("the coroutine returned %lld", (long long)duet_as_i64(r));
    return 0;
}
