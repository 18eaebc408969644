/* How a look before a sleep is learnt. */
#include "duet_test.h"
#include "spin.h"

enum {
    LIMIT_NS = 3000,
    SHORT_NS = 1000,
    LONG_NS = 2 * DUET__SHORT_SLEEP_NS,
};

static int64_t now_ns = 1000000000; /* as the sleeps of a test pass */

static void sleep_for(struct duet__spin *spin, int64_t ns)
{
    now_ns += ns;
    duet__spin_learn(spin, now_ns, ns);
}

static bool never(void *arg)
{
    (void)arg;
    return false;
}

/* True when asked so often. */
static bool countdown(void *arg)
{
    return --*(int *)arg <= 0;
}

static bool look_in_vain(struct duet__spin *spin)
{
    return !duet__spin(spin, never, NULL, DUET__NEVER);
}

/* In time, however long this thread is kept from its processor meanwhile. */
static void look_with_success(struct duet__spin *spin)
{
    int asks = 2;
    spin->limit_ns = INT32_MAX;
    must(duet__spin(spin, countdown, &asks, DUET__NEVER));
    spin->limit_ns = spin->budget_ns = LIMIT_NS;
}

/* Short sleeps until one looks again; how many. */
static int sleep_until_it_looks(struct duet__spin *spin)
{
    int sleeps = 0;
    while (spin->budget_ns == 0) {
        sleep_for(spin, SHORT_NS);
        sleeps++;
    }
    return sleeps;
}

/* One look in vain after another, each of them in the way. */
static void miss(struct duet__spin *spin, int times)
{
    for (; times > 0; times--) {
        sleep_until_it_looks(spin);
        must(look_in_vain(spin));
        sleep_for(spin, SHORT_NS);
    }
}

static bool insists(const struct duet__spin *spin)
{
    return spin->budget_ns > spin->limit_ns;
}

static struct duet__spin fresh(void)
{
    return (struct duet__spin){.limit_ns = LIMIT_NS};
}

static void a_short_sleep_is_followed_by_a_look_and_a_long_one_is_not(void **state)
{
    (void)state;
    struct duet__spin spin = fresh();
    sleep_for(&spin, LONG_NS);
    must_equal(spin.budget_ns, 0);
    sleep_for(&spin, SHORT_NS);
    must_equal(spin.budget_ns, LIMIT_NS);
}

static void who_is_idle_stops_looking(void **state)
{
    (void)state;
    struct duet__spin spin = fresh();
    sleep_for(&spin, SHORT_NS);
    for (int i = 0; i < 2; i++) {
        must(look_in_vain(&spin));
        sleep_for(&spin, LONG_NS);
    }
    must_equal(spin.budget_ns, 0);
}

static void looks_in_the_way_become_rarer_until_one_is_answered(void **state)
{
    (void)state;
    struct duet__spin spin = fresh();
    must_equal(sleep_until_it_looks(&spin), 1);
    for (int passed = 1; passed <= 8; passed *= 2) {
        must(look_in_vain(&spin));
        sleep_for(&spin, SHORT_NS);
        must_equal(sleep_until_it_looks(&spin), passed + 1);
    }
    look_with_success(&spin);
    must(look_in_vain(&spin));
    sleep_for(&spin, SHORT_NS);
    must_equal(sleep_until_it_looks(&spin), 2);
}

static void what_was_there_at_once_answers_no_look(void **state)
{
    (void)state;
    struct duet__spin spin = fresh();
    miss(&spin, 3);
    sleep_until_it_looks(&spin);
    int asks = 1;
    must(duet__spin(&spin, countdown, &asks, DUET__NEVER));
    must_equal(spin.misses, 3);
}

static void after_many_looks_in_the_way_some_insist(void **state)
{
    (void)state;
    struct duet__spin spin = fresh();
    miss(&spin, DUET__INSIST_FIRST);
    sleep_until_it_looks(&spin);
    for (int i = 0; i < DUET__INSIST_TURNS; i++) {
        must(insists(&spin));
        duet__spin_met(&spin, LIMIT_NS + 1); /* late */
    }
    must_equal(spin.budget_ns, LIMIT_NS);
    must_equal(spin.misses, DUET__INSIST_FIRST);
}

static void looks_that_insisted_without_success_insist_again_much_later(void **state)
{
    (void)state;
    struct duet__spin spin = fresh();
    int64_t pause_ns = DUET__INSIST_PAUSE_US * INT64_C(1000);
    miss(&spin, DUET__INSIST_FIRST);
    sleep_until_it_looks(&spin);
    for (int episode = 0; episode < 5; episode++, pause_ns *= 4) {
        must(insists(&spin));
        const int64_t begin_ns = now_ns;
        duet__spin_met(&spin, LIMIT_NS); /* by somebody else: that does not make it sooner */
        while (!insists(&spin)) {
            if (spin.budget_ns > 0)
                must(look_in_vain(&spin));
            sleep_for(&spin, DUET__TURN_US * 500);
        }
        must(now_ns - begin_ns >= pause_ns);
        must(now_ns - begin_ns < 2 * pause_ns);
    }
}

static void after_a_calm_time_it_insists_as_soon_as_at_first(void **state)
{
    (void)state;
    struct duet__spin spin = fresh();
    for (int i = 0; i < 4; i++) {
        miss(&spin, DUET__INSIST_FIRST);
        sleep_until_it_looks(&spin);
        must(insists(&spin));
        duet__spin_met(&spin, LIMIT_NS);
        now_ns += DUET__CALM_US * INT64_C(2000);
    }
}

static void who_has_something_else_to_see_to_does_not_insist(void **state)
{
    (void)state;
    struct duet__spin spin = fresh();
    miss(&spin, DUET__INSIST_FIRST);
    sleep_until_it_looks(&spin);
    must(insists(&spin));
    duet__spin_hurry(&spin);
    must_equal(spin.budget_ns, LIMIT_NS);
}

static void nobody_insists_whose_turns_are_far_apart(void **state)
{
    (void)state;
    struct duet__spin spin = fresh();
    miss(&spin, DUET__INSIST_FIRST);
    while (spin.budget_ns == 0) {
        now_ns += DUET__TURN_US * INT64_C(2000);
        sleep_for(&spin, SHORT_NS);
    }
    must(!insists(&spin));
}

static void a_look_that_is_answered_in_time_ends_the_insisting(void **state)
{
    (void)state;
    struct duet__spin spin = fresh();
    miss(&spin, DUET__INSIST_FIRST);
    sleep_until_it_looks(&spin);
    must(insists(&spin));
    duet__spin_met(&spin, LIMIT_NS);
    must_equal(spin.budget_ns, LIMIT_NS);
    must_equal(spin.misses, 0);
}

static void one_that_insists_in_vain_looks_no_longer_than_the_others_afterwards(void **state)
{
    (void)state;
    struct duet__spin spin = fresh();
    miss(&spin, DUET__INSIST_FIRST);
    sleep_until_it_looks(&spin);
    must(insists(&spin));
    must(look_in_vain(&spin));
    sleep_for(&spin, LONG_NS);
    must(spin.budget_ns <= LIMIT_NS);
}

static void counts_do_not_overflow(void **state)
{
    (void)state;
    struct duet__spin spin = fresh();
    spin.misses = DUET__MISSES_MOST - 1;
    for (int i = 0; i < 3; i++) {
        spin.passes = 0;
        spin.in_vain = true;
        sleep_for(&spin, SHORT_NS);
        must_equal(spin.misses, DUET__MISSES_MOST);
        must_equal(spin.passes, 1 << DUET__PASSES_MOST_LOG2);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_short_sleep_is_followed_by_a_look_and_a_long_one_is_not),
        cmocka_unit_test(who_is_idle_stops_looking),
        cmocka_unit_test(looks_in_the_way_become_rarer_until_one_is_answered),
        cmocka_unit_test(what_was_there_at_once_answers_no_look),
        cmocka_unit_test(after_many_looks_in_the_way_some_insist),
        cmocka_unit_test(looks_that_insisted_without_success_insist_again_much_later),
        cmocka_unit_test(after_a_calm_time_it_insists_as_soon_as_at_first),
        cmocka_unit_test(who_has_something_else_to_see_to_does_not_insist),
        cmocka_unit_test(nobody_insists_whose_turns_are_far_apart),
        cmocka_unit_test(a_look_that_is_answered_in_time_ends_the_insisting),
        cmocka_unit_test(one_that_insists_in_vain_looks_no_longer_than_the_others_afterwards),
        cmocka_unit_test(counts_do_not_overflow),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
