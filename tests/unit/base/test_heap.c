#include "duet_test.h"
#include "heap.h"

static uint32_t pop(struct duet__heap *heap, const int64_t whens[])
{
    int64_t when = duet__heap_nearest_ns(heap);
    struct duet__heap_entry nearest = heap->entries[1];
    duet__heap_pop(heap);
    must_equal(nearest.when_ns, when);
    must_equal(whens[nearest.number], when);
    must(nearest.what == &whens[nearest.number]);
    return nearest.number;
}

static void comes_out_in_order(void **state)
{
    enum {
        N = 1000
    };
    (void)state;
    uint64_t seed = test_seed();
    struct duet__heap heap = {0};
    int64_t whens[N + 1];
    must_equal(duet__heap_reserve(&heap, N), 0);
    for (uint32_t i = 1; i <= N; i++) {
        whens[i] = (int64_t)(test_random(&seed) % 100);
        duet__heap_add(&heap, i, whens[i], &whens[i]);
    }
    int64_t last = -1;
    for (int i = 0; i < N; i++) {
        int64_t when = whens[pop(&heap, whens)];
        must(when >= last);
        last = when;
    }
    must_equal(heap.count, 0);
    must_equal(duet__heap_nearest_ns(&heap), INT64_MAX);
    duet__heap_fini(&heap);
}

static void a_number_leaves_from_anywhere_also_after_it_has_grown(void **state)
{
    enum {
        N = 500
    };
    (void)state;
    uint64_t seed = test_seed();
    struct duet__heap heap = {0};
    int64_t whens[N + 1];
    bool inside[N + 1] = {false};
    for (uint32_t step = 0; step < 20000; step++) {
        uint32_t room = step / 20 < N ? step / 20 + 1 : N;
        uint32_t i = (uint32_t)(test_random(&seed) % room) + 1;
        must_equal(duet__heap_reserve(&heap, room), 0);
        if (inside[i]) {
            duet__heap_remove(&heap, i);
        } else {
            whens[i] = (int64_t)(test_random(&seed) % 1000);
            duet__heap_add(&heap, i, whens[i], &whens[i]);
        }
        inside[i] = !inside[i];
        int64_t least = INT64_MAX;
        for (int k = 1; k <= N; k++)
            if (inside[k] && whens[k] < least)
                least = whens[k];
        must_equal(duet__heap_nearest_ns(&heap), least);
    }
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
    int64_t whens[N + 1];
    must_equal(duet__heap_count_until(&heap, INT64_MAX, 5), 0);
    must_equal(duet__heap_reserve(&heap, N), 0);
    for (uint32_t n = 1; n <= N; n++) {
        whens[n] = (int64_t)(test_random(&seed) % 100);
        duet__heap_add(&heap, n, whens[n], &whens[n]);
        int64_t by = (int64_t)(test_random(&seed) % 100);
        size_t due = 0;
        for (size_t i = 1; i <= n; i++)
            due += whens[i] <= by;
        for (size_t most = 1; most < 40; most++)
            must_equal(duet__heap_count_until(&heap, by, most), due < most ? due : most);
    }
    duet__heap_fini(&heap);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(comes_out_in_order),
        cmocka_unit_test(a_number_leaves_from_anywhere_also_after_it_has_grown),
        cmocka_unit_test(those_due_by_then_are_counted_up_to_so_many),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
