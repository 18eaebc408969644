/* W7's limit: three fibers, and two rings of a power of two without a lock; each runs until its
 * ring is full or empty. */
#include "fiber.h"

#if defined(__x86_64__)
enum {
    ROOM_MOST = 65536
};

struct ring {
    int64_t items[ROOM_MOST];
    uint64_t sent, received, room;
    bool shut;
};

static struct ring first, second;
static int64_t sum, arrived;

static void send(struct ring *ring, int64_t item)
{
    while (ring->sent - ring->received == ring->room)
        fiber_yield();
    ring->items[ring->sent++ % ROOM_MOST] = item;
}

/* False: it is shut, and nothing is left. */
static bool receive(struct ring *ring, int64_t *item)
{
    while (ring->sent == ring->received) {
        if (ring->shut)
            return false;
        fiber_yield();
    }
    *item = ring->items[ring->received++ % ROOM_MOST];
    return true;
}

static void produce(struct fiber *self)
{
    for (int64_t i = 0; i < self->value; i++)
        send(&first, i);
    first.shut = true;
}

static void process(struct fiber *self)
{
    int64_t item;
    (void)self;
    while (receive(&first, &item))
        send(&second, item + 1);
    second.shut = true;
}

static void consume(struct fiber *self)
{
    int64_t item;
    while (receive(&second, &item)) {
        sum += item;
        arrived++;
    }
    (void)self;
    fiber_ready(&fiber_main);
}

static void run_pipeline(long items, uint64_t room)
{
    first = second = (struct ring){.room = room};
    sum = arrived = 0;
    struct fiber *stages[] = {fiber_spawn(produce, items), fiber_spawn(process, 0),
                              fiber_spawn(consume, 0)};
    fiber_wait();
    for (int i = 0; i < 3; i++) {
        need(stages[i]->ended, "each stage has ended");
        fiber_let_go(stages[i]);
    }
    need(arrived == items && sum == (int64_t)items * (items + 1) / 2, "the sum of the items");
}

int main(int argc, char **argv)
{
    long items = bench_long(argc, argv, "items", 1000000),
         room = bench_long(argc, argv, "room", 100);
    need(items > 0 && room > 0 && room <= ROOM_MOST, "arguments");
    fiber_slab_make(3);
    run_pipeline(bench_warm_up(items), (uint64_t)room);
    int64_t start_ns = bench_now_ns();
    run_pipeline(items, (uint64_t)room);
    bench_say("mps", (double)items / (double)(bench_now_ns() - start_ns) * 1000);
    return 0;
}
#else
int main(void)
{
    return BENCH_SKIP;
}
#endif
