/* W1's limit: two threads and two words. An eventfd wakes the one, a futex the other, if it sleeps;
 * with spin=1 each looks a while before. */
#include "baton.h"
#include "calls.h"

#include <limits.h>
#include <pthread.h>
#include <sys/eventfd.h>

static struct baton request, reply;
static long asked, answer, ran; /* whoever has the baton may touch them */

static void *serve(void *arg)
{
    for (;;) {
        baton_take(&request);
        if (asked == LONG_MAX)
            return arg;
        answer = asked;
        ran++;
        baton_give(&reply);
    }
}

static void call(void *arg, long number)
{
    (void)arg;
    asked = number;
    baton_give(&request);
    baton_take(&reply);
    need(answer == number, "the answer");
}

int main(int argc, char **argv)
{
    int looks = baton_looks(bench_long(argc, argv, "spin", 1) != 0);
    pthread_t thread;
    request = reply = baton_make(looks);
    request.event_fd = eventfd(0, EFD_CLOEXEC);
    need(request.event_fd >= 0, "eventfd");
    need(pthread_create(&thread, NULL, serve, NULL) == 0, "pthread_create");
    long calls = calls_measure(argc, argv, call, NULL);
    asked = LONG_MAX;
    baton_give(&request);
    pthread_join(thread, NULL);
    need(ran == calls, "each call ran once");
    return 0;
}
