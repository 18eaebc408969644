/* W2's limit: a bare intrusive queue, linked by exchanges (D. Vyukov's), and a consumer that never
 * sleeps. Each producer has a ring of nodes, and waits when all are under way. */
#include "baton.h"
#include "producers.h"

#include <sched.h>

enum {
    NODES = 16384, /* of all producers: as many as duet's inbox has places */
    LOOKS = 1000,
};

struct node {
    struct node *next;
    void (*fn)(void *arg);
    void *arg;
    struct source *source;
};

struct source {
    _Alignas(64) long ran; /* of its nodes; the consumer counts */
    _Alignas(64) struct node nodes[NODES];
    long sent, known_ran;
};

static struct {
    _Alignas(64) struct node *newest;
    _Alignas(64) struct node *oldest;
    struct node stub;
} queue;
static struct source sources[PRODUCERS_MOST];
static long room; /* of each producer */
static long ran, expected;
static int64_t end_ns;

static void push(struct node *node)
{
    __atomic_store_n(&node->next, NULL, __ATOMIC_RELAXED);
    struct node *before = __atomic_exchange_n(&queue.newest, node, __ATOMIC_ACQ_REL);
    __atomic_store_n(&before->next, node, __ATOMIC_RELEASE);
}

static struct node *next_of(struct node *node)
{
    return __atomic_load_n(&node->next, __ATOMIC_ACQUIRE);
}

/* NULL: there is nothing, or a producer is in the middle of a push. */
static struct node *pop(void)
{
    struct node *oldest = queue.oldest, *next = next_of(oldest);
    if (oldest == &queue.stub) {
        if (!next)
            return NULL;
        queue.oldest = oldest = next;
        next = next_of(oldest);
    }
    if (!next && oldest == __atomic_load_n(&queue.newest, __ATOMIC_ACQUIRE)) {
        push(&queue.stub); /* so that the last node can be taken */
        next = next_of(oldest);
    }
    if (!next)
        return NULL;
    queue.oldest = next;
    return oldest;
}

static void callback(void *arg)
{
    (void)arg;
    if (++ran == expected)
        end_ns = bench_now_ns();
}

static void *consume(void *arg)
{
    int looks = 0;
    while (ran < expected) {
        struct node *node = pop();
        if (node) {
            struct source *source = node->source;
            node->fn(node->arg);
            __atomic_store_n(&source->ran, source->ran + 1, __ATOMIC_RELEASE);
            looks = 0;
        } else if (++looks % LOOKS == 0) {
            sched_yield(); /* the producers may share this processor */
        }
    }
    return arg;
}

static void wait_for_room(struct source *source)
{
    for (int looks = 1; source->sent - source->known_ran >= room; looks++) {
        source->known_ran = __atomic_load_n(&source->ran, __ATOMIC_ACQUIRE);
        if (looks % LOOKS == 0)
            sched_yield();
        else if (source->sent - source->known_ran >= room)
            bench_relax();
    }
}

static void produce(int producer, long count)
{
    struct source *source = &sources[producer];
    for (; count > 0; count--) {
        wait_for_room(source);
        struct node *node = &source->nodes[source->sent++ % room];
        node->fn = callback;
        node->arg = NULL;
        node->source = source;
        push(node);
    }
}

static int64_t submit(int producers, long work)
{
    pthread_t consumer;
    ran = 0;
    expected = work;
    room = NODES / producers;
    need(pthread_create(&consumer, NULL, consume, NULL) == 0, "pthread_create");
    int64_t start_ns = producers_run(producers, work, produce);
    pthread_join(consumer, NULL);
    need(ran == work && pop() == NULL, "each ran once");
    return end_ns - start_ns;
}

int main(int argc, char **argv)
{
    int producers = (int)bench_long(argc, argv, "producers", 1);
    long work = bench_long(argc, argv, "work", 2000000);
    if (strcmp(bench_text(argc, argv, "kind", "callback"), "callback") != 0)
        return BENCH_SKIP;
    need(producers > 0 && producers <= PRODUCERS_MOST && work > 0, "arguments");
    queue.newest = queue.oldest = &queue.stub;
    submit(producers, bench_warm_up(work));
    bench_say("mps", (double)work / (double)submit(producers, work) * 1000);
    return 0;
}
