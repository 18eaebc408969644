#include "duet_test.h"
#include "heap.h"

struct item {
    struct duet__timer timer;
    int64_t when;
};

static int64_t pop(struct duet__heap *heap)
{
    int64_t when = duet__heap_nearest_ns(heap);
    struct duet__timer *timer = duet__heap_due(heap, INT64_MAX);
    must(timer != NULL);
    must_equal(timer->place, 0);
    must_equal(((struct item *)(void *)timer)->when, when);
    return when;
}

static void comes_out_in_order(void **state)
{
    enum {
        N = 1000
    };
    (void)state;
    uint64_t seed = test_seed();
    struct duet__heap heap = {0};
    struct item items[N];
    must_equal(duet__heap_reserve(&heap, N), 0);
    for (int i = 0; i < N; i++) {
        items[i] = (struct item){.when = (int64_t)(test_random(&seed) % 100)};
        duet__heap_add(&heap, &items[i].timer, items[i].when);
    }
    int64_t last = -1;
    for (int i = 0; i < N; i++) {
        int64_t when = pop(&heap);
        must(when >= last);
        last = when;
    }
    must_equal(heap.count, 0);
    duet__heap_fini(&heap);
}

static void a_timer_leaves_from_anywhere(void **state)
{
    enum {
        N = 500
    };
    (void)state;
    uint64_t seed = test_seed();
    struct duet__heap heap = {0};
    struct item items[N] = {0};
    bool inside[N] = {false};
    must_equal(duet__heap_reserve(&heap, N), 0);
    for (int step = 0; step < 20000; step++) {
        int i = (int)(test_random(&seed) % N);
        if (inside[i]) {
            duet__heap_remove(&heap, &items[i].timer);
            must_equal(items[i].timer.place, 0);
        } else {
            items[i].when = (int64_t)(test_random(&seed) % 1000);
            duet__heap_add(&heap, &items[i].timer, items[i].when);
        }
        inside[i] = !inside[i];
        int64_t least = INT64_MAX;
        for (int k = 0; k < N; k++)
            if (inside[k] && items[k].when < least)
                least = items[k].when;
        must_equal(duet__heap_nearest_ns(&heap), least);
    }
    duet__heap_fini(&heap);
}

static void only_what_is_due_comes_out(void **state)
{
    (void)state;
    struct duet__heap heap = {0};
    struct item early = {.when = 10}, late = {.when = 20};
    must(duet__heap_due(&heap, INT64_MAX) == NULL);
    must_equal(duet__heap_reserve(&heap, 2), 0);
    duet__heap_add(&heap, &late.timer, 20);
    duet__heap_add(&heap, &early.timer, 10);
    must(duet__heap_due(&heap, 9) == NULL);
    must(duet__heap_due(&heap, 10) == &early.timer);
    must(duet__heap_due(&heap, 19) == NULL);
    must(duet__heap_due(&heap, 20) == &late.timer);
    duet__heap_fini(&heap);
}

static void those_due_by_then_are_counted_up_to_so_many(void **state)
{
    enum {
        N = 200
    };
    (void)state;
    uint64_t seed = test_seed();
    struct duet__heap heap = {0};
    struct item items[N];
    must_equal(duet__heap_count_until(&heap, INT64_MAX, 5), 0);
    must_equal(duet__heap_reserve(&heap, N), 0);
    for (size_t n = 1; n <= N; n++) {
        struct item *item = &items[n - 1];
        *item = (struct item){.when = (int64_t)(test_random(&seed) % 100)};
        duet__heap_add(&heap, &item->timer, item->when);
        int64_t by = (int64_t)(test_random(&seed) % 100);
        size_t due = 0;
        for (size_t i = 0; i < n; i++)
            due += items[i].when <= by;
        for (size_t most = 1; most < 40; most++)
            must_equal(duet__heap_count_until(&heap, by, most), due < most ? due : most);
    }
    duet__heap_fini(&heap);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(comes_out_in_order),
        cmocka_unit_test(a_timer_leaves_from_anywhere),
        cmocka_unit_test(only_what_is_due_comes_out),
        cmocka_unit_test(those_due_by_then_are_counted_up_to_so_many),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
