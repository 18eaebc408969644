/* Promises with callbacks: settled in the background, by success and by failure; a callback that
 * comes late still runs. */
#include "say.h"

#include <errno.h>

struct watch {
    const char *what;
    duet_future *promise;
};

static duet_future *all_called; /* a promise too: settled by the last callback */
static int calls_left = 3;

/* Runs on the loop, a turn after the promise has settled. */
static void on_settled(void *arg)
{
    struct watch *watch = arg;
    duet_result r = duet_future_result(watch->promise);
    if (r.err < 0)
        say("callback for %s: failed: %s", watch->what, duet_strerror(r.err));
    else
        say("callback for %s: succeeded with %lld", watch->what, (long long)duet_as_i64(r));
    if (--calls_left == 0)
        duet_future_settle(all_called, duet_ok());
}

static duet_result succeed_later(void *promise)
{
    duet_sleep(duet_ms(300));
    say("settles the first promise with a value");
    return duet_err(duet_future_settle(promise, duet_i64(42)));
}

static duet_result fail_later(void *promise)
{
    duet_sleep(duet_ms(600));
    say("settles the second promise with a failure");
    return duet_err(duet_future_settle(promise, duet_err(-EHOSTUNREACH)));
}

static duet_result demonstrate(void *arg)
{
    (void)arg;
    struct watch good = {"the first promise", NULL}, bad = {"the second promise", NULL},
                 late = {"the first promise, added late", NULL};
    const duet_opts background = {.name = "background"};
    duet_result r;
    need(duet_future_open(&good.promise), "duet_future_open");
    need(duet_future_open(&bad.promise), "duet_future_open");
    need(duet_future_open(&all_called), "duet_future_open");
    late.promise = good.promise;
    need(duet_future_then(good.promise, duet_loop_self(), on_settled, &good, NULL), "then");
    need(duet_future_then(bad.promise, duet_loop_self(), on_settled, &bad, NULL), "then");
    duet_future_unref(duet_spawn_with(succeed_later, good.promise, &background));
    duet_future_unref(duet_spawn_with(fail_later, bad.promise, &background));

    say("awaits the first promise");
    need(duet_future_wait(good.promise, duet_sec(5), &r), "wait");
    say("has its value, %lld, and adds one more callback to it", (long long)duet_as_i64(r));
    need(duet_future_then(good.promise, duet_loop_self(), on_settled, &late, NULL), "then");
    need(duet_future_wait(bad.promise, duet_sec(5), &r), "wait");
    say("the wait succeeded; what it waited for did not: %s", duet_strerror(r.err));
    need(duet_future_wait(all_called, duet_sec(5), NULL), "wait");
    duet_future_unref(all_called);
    duet_future_unref(good.promise);
    duet_future_unref(bad.promise);
    return duet_ok();
}

int main(void)
{
    say_begin();
    need(duet_run(demonstrate, NULL, NULL), "duet_run");
    return 0;
}
