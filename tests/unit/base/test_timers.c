/* Timers against a naive model: a list that is searched. */
#include "duet_test.h"
#include "timers.h"

enum {
    N = 300
};
static const int64_t tick = INT64_C(1) << DUET__TICK_BITS;

struct item {
    struct duet__timer timer;
    int64_t when;
    bool armed;
};

static struct duet__timers timers;
static struct item items[N];
static uint64_t seed;

static int begin(void **state)
{
    (void)state;
    seed = test_seed();
    memset(&timers, 0, sizeof timers);
    memset(items, 0, sizeof items);
    must_equal(duet__timers_reserve(&timers, N), 0);
    return 0;
}

static int end(void **state)
{
    (void)state;
    duet__timers_fini(&timers);
    return 0;
}

static void arm(struct item *item, int64_t when)
{
    must(!item->armed);
    item->when = when;
    item->armed = true;
    duet__timers_add(&timers, &item->timer, when);
    must(item->timer.place != 0);
}

static void disarm(struct item *item)
{
    must(item->armed);
    item->armed = false;
    duet__timers_remove(&timers, &item->timer);
    must_equal(item->timer.place, 0);
}

static int64_t least(void)
{
    int64_t when = INT64_MAX;
    for (int i = 0; i < N; i++)
        if (items[i].armed && items[i].when < when)
            when = items[i].when;
    return when;
}

static size_t count_until(int64_t by)
{
    size_t count = 0;
    for (int i = 0; i < N; i++)
        count += items[i].armed && items[i].when <= by;
    return count;
}

/* All that is due comes, the nearest first, and nothing else. */
static size_t take_due(int64_t now, size_t batch)
{
    struct duet__timer *due[N];
    size_t all = 0, count;
    do {
        count = duet__timers_due(&timers, now, due, batch);
        must(count <= batch);
        for (size_t i = 0; i < count; i++) {
            struct item *item = (struct item *)(void *)due[i];
            must(item->armed);
            must(item->when <= now);
            must_equal(item->when, least());
            must_equal(item->timer.place, 0);
            item->armed = false;
        }
        all += count;
    } while (count == batch);
    must(least() > now || count_until(now) == 0);
    return all;
}

/* The next wake-up: never too late, and if it is too early it is in vain only a few times. Returns
 * how often. */
static int wake_for_next(int64_t *now)
{
    int vain = 0;
    for (;; vain++) {
        int64_t nearest = duet__timers_nearest_ns(&timers);
        must(nearest <= least());
        if (nearest == INT64_MAX)
            return vain;
        if (nearest > *now)
            *now = nearest;
        if (take_due(*now, 7) > 0)
            return vain;
        must(vain < DUET__WHEEL_LEVELS);
    }
}

/* From a nanosecond to centuries. */
static int64_t some_time(void)
{
    return (int64_t)(test_random(&seed) >> (test_random(&seed) % 63 + 1));
}

static int64_t later(int64_t now, int64_t by)
{
    return by < INT64_MAX - now ? now + by : INT64_MAX;
}

static void only_what_is_due_comes_out(void **state)
{
    (void)state;
    must_equal(duet__timers_nearest_ns(&timers), INT64_MAX);
    must_equal(take_due(INT64_MAX, 1), 0);
    timers.tick = 0;
    arm(&items[0], 20);
    arm(&items[1], 10);
    must_equal(duet__timers_nearest_ns(&timers), 10);
    must(!duet__timers_want(&timers, 9));
    must_equal(take_due(9, 1), 0);
    must(duet__timers_want(&timers, 10));
    must_equal(take_due(10, 2), 1);
    must_equal(take_due(19, 1), 0);
    must_equal(take_due(20, 1), 1);
    must_equal(duet__timers_nearest_ns(&timers), INT64_MAX);
}

static void the_nearest_is_known_to_the_nanosecond_without_a_wake_up_before(void **state)
{
    (void)state;
    int64_t now = 12345;
    for (int level = 0; level < 62; level++) {
        must_equal(take_due(now, 1), 0);
        const int64_t when = later(now, (INT64_C(1) << level) + level);
        arm(&items[0], when);
        arm(&items[1], later(when, 1));
        must_equal(duet__timers_nearest_ns(&timers), when);
        must_equal(take_due(when - 1, 1), 0);
        must_equal(duet__timers_nearest_ns(&timers), when);
        must_equal(take_due(when, 4), 1);
        must_equal(duet__timers_nearest_ns(&timers), when + 1);
        disarm(&items[1]);
        must_equal(duet__timers_nearest_ns(&timers), INT64_MAX);
        now = level < 55 ? when : now;
    }
}

static void moments_that_are_past_or_never_come_work(void **state)
{
    (void)state;
    must_equal(take_due(1000 * tick, 1), 0);
    arm(&items[0], INT64_MIN);
    arm(&items[1], -1);
    arm(&items[2], 0);
    arm(&items[3], 1000 * tick);
    arm(&items[4], INT64_MAX);
    arm(&items[5], INT64_MAX - 1);
    must_equal(duet__timers_nearest_ns(&timers), INT64_MIN);
    must_equal(take_due(1000 * tick, 2), 4);
    must_equal(duet__timers_nearest_ns(&timers), INT64_MAX - 1);
    must_equal(take_due(INT64_MAX - 1, 2), 1);
    disarm(&items[4]);
    must_equal(duet__timers_nearest_ns(&timers), INT64_MAX);
    arm(&items[0], 5); /* the wheel is at the end of time */
    must_equal(duet__timers_nearest_ns(&timers), 5);
    must_equal(take_due(5, 2), 1);
}

/* Arms, disarms, and lets time pass. */
static void any_order_of_operations_is_as_in_the_model(void **state)
{
    (void)state;
    for (int round = 0; round < 20; round++) {
        int64_t now = some_time() >> 8;
        (void)take_due(now, 1);
        for (int step = 0; step < 3000; step++) {
            struct item *item = &items[test_random(&seed) % N];
            switch (test_random(&seed) % 8) {
            case 0:
                (void)wake_for_next(&now);
                break;
            case 1:
                now = later(now, some_time() >> 24);
                (void)take_due(now, 1 + test_random(&seed) % 64);
                break;
            case 2: {
                const int64_t by = later(now, some_time() % (3 * tick));
                const size_t most = 1 + test_random(&seed) % 30, count = count_until(by);
                must_equal(duet__timers_count_until(&timers, by, most),
                           count < most ? count : most);
                break;
            }
            default:
                if (item->armed)
                    disarm(item);
                else
                    arm(item, later(now, some_time() - tick));
            }
        }
        while (least() != INT64_MAX)
            must(wake_for_next(&now) <= DUET__WHEEL_LEVELS);
        for (int i = 0; i < N; i++)
            if (items[i].armed)
                disarm(&items[i]);
        must_equal(timers.levels, 0);
        must_equal(timers.near.count, 0);
        must_equal(timers.tick >= 0, true);
        timers.tick = 0;
    }
}

/* A crowd within a second, as it comes: nobody is woken in vain but for a slot that spreads. */
static void without_a_removal_no_wake_up_is_in_vain(void **state)
{
    (void)state;
    int64_t now = INT64_C(1234567890123);
    (void)take_due(now, 1);
    for (int i = 0; i < N; i++)
        arm(&items[i], now + some_time() % (3000 * tick));
    while (least() != INT64_MAX)
        must_equal(wake_for_next(&now), 0);
}

static void a_wheel_far_behind_is_brought_up_before_timers_come(void **state)
{
    (void)state;
    const int64_t now = 1000000 * tick;
    must(!duet__timers_want(&timers, 10 * tick));
    must(duet__timers_want(&timers, now));
    must_equal(take_due(now, 1), 0);
    must(!duet__timers_want(&timers, now));
    arm(&items[0], now + tick);
    must_equal(timers.levels, 1);
    must_equal(take_due(now + tick, 2), 1);
}

static void it_grows_with_all_that_is_armed(void **state)
{
    enum {
        MANY = 20000
    };
    (void)state;
    static struct item many[MANY];
    struct duet__timer *due[1];
    for (size_t i = 0; i < MANY; i++) {
        must_equal(duet__timers_reserve(&timers, i + 1), 0);
        arm(&many[i], some_time() % (100 * tick));
        if (i % 1000 == 0)
            (void)duet__timers_count_until(&timers, tick, MANY); /* some are near */
    }
    int64_t last = INT64_MIN;
    for (size_t i = 0; i < MANY; i++) {
        must_equal(duet__timers_due(&timers, INT64_MAX - 1, due, 1), 1);
        must(((struct item *)(void *)due[0])->when >= last);
        last = ((struct item *)(void *)due[0])->when;
    }
    must_equal(duet__timers_due(&timers, INT64_MAX - 1, due, 1), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(only_what_is_due_comes_out, begin, end),
        cmocka_unit_test_setup_teardown(
            the_nearest_is_known_to_the_nanosecond_without_a_wake_up_before, begin, end),
        cmocka_unit_test_setup_teardown(moments_that_are_past_or_never_come_work, begin, end),
        cmocka_unit_test_setup_teardown(any_order_of_operations_is_as_in_the_model, begin, end),
        cmocka_unit_test_setup_teardown(without_a_removal_no_wake_up_is_in_vain, begin, end),
        cmocka_unit_test_setup_teardown(a_wheel_far_behind_is_brought_up_before_timers_come, begin,
                                        end),
        cmocka_unit_test_setup_teardown(it_grows_with_all_that_is_armed, begin, end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
