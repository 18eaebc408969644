/* Plain threads that know nothing of coroutines call them, like functions that have a deadline.
 *
 * A deadline met; a deadline missed, where the call has ended the coroutine before it returns; and
 * a deadline of the wait alone, where the work goes on and its late result is still there. */
#include "say.h"

#include <errno.h>

static duet_loop *loop;

static duet_result answer_after(void *ms)
{
    say("works for %d ms", *(int *)ms);
    int rc = duet_sleep(duet_ms(*(int *)ms));
    if (rc < 0) {
        say("is cancelled, and cleans up");
        return duet_err(rc);
    }
    return duet_i64(*(int *)ms);
}

static void *meets_its_deadline(void *arg)
{
    int ms = 200;
    duet_result r;
    const duet_opts named = {.name = "quick"};
    int rc = duet_call_with(loop, answer_after, &ms, &named, duet_sec(1), &r);
    say("met: %s, %lld", duet_strerror(rc), (long long)duet_as_i64(r));
    return arg;
}

static void *misses_its_deadline(void *arg)
{
    int ms = 5000; /* may live here: the call returns only after the coroutine has ended */
    duet_result r;
    const duet_opts named = {.name = "slow"};
    int rc = duet_call_with(loop, answer_after, &ms, &named, duet_ms(300), &r);
    say("missed: %s", duet_strerror(rc));
    return rc == -ETIME ? arg : NULL;
}

static void *comes_back_later(void *arg)
{
    static int ms = 700; /* must outlive the wait, which leaves the work alone */
    duet_result r;
    const duet_opts named = {.name = "late"};
    duet_future *f = duet_submit_with(loop, answer_after, &ms, &named);
    int rc = duet_future_wait(f, duet_ms(400), &r);
    say("waited 400 ms: %s; does something else", duet_strerror(rc));
    need(duet_future_wait(f, duet_sec(5), &r), "wait");
    say("came back: the late result is there, %lld", (long long)duet_as_i64(r));
    duet_future_unref(f);
    return rc == -ETIME ? arg : NULL;
}

int main(void)
{
    static const struct {
        const char *name;
        void *(*fn)(void *arg);
    } legacy[] = {{"legacy-1", meets_its_deadline},
                  {"legacy-2", misses_its_deadline},
                  {"legacy-3", comes_back_later}};
    enum {
        THREADS = sizeof legacy / sizeof legacy[0]
    };
    pthread_t threads[THREADS];
    int failed = 0;
    say_begin();
    need(duet_loop_start(&loop, NULL), "duet_loop_start");
    for (int i = 0; i < THREADS; i++) {
        need(-pthread_create(&threads[i], NULL, legacy[i].fn, &failed), "pthread_create");
        pthread_setname_np(threads[i], legacy[i].name);
    }
    for (int i = 0; i < THREADS; i++) {
        void *as_expected;
        pthread_join(threads[i], &as_expected);
        failed += as_expected == NULL;
    }
    need(duet_loop_close(loop, duet_sec(1)), "duet_loop_close");
    return failed;
}
