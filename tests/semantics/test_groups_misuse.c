/* What a program must not do with groups. A program of its own: its parent process has no threads.
 */
#include "duet_test.h"

#include <signal.h>

static void add_to_two_groups(void *arg)
{
    duet_group first = DUET_GROUP_INIT, second = DUET_GROUP_INIT;
    duet_future *f;
    (void)arg;
    must_equal(duet_future_open(&f), 0);
    must(duet_group_add(&first, f) == f);
    duet_group_add(&second, duet_future_ref(f));
}

static void add_settled_to_two_groups(void *arg)
{
    duet_group first = DUET_GROUP_INIT, second = DUET_GROUP_INIT;
    duet_future *f;
    (void)arg;
    must_equal(duet_future_open(&f), 0);
    must_equal(duet_future_settle(duet_future_ref(f), duet_ok()), 0);
    must(duet_group_add(&first, f) == f);
    duet_group_add(&second, duet_future_ref(f));
}

static void add_twice(void *arg)
{
    duet_group group = DUET_GROUP_INIT;
    duet_future *f;
    (void)arg;
    must_equal(duet_future_open(&f), 0);
    must(duet_group_add(&group, f) == f);
    duet_group_add(&group, duet_future_ref(f));
}

/* 23 */
static void a_future_in_two_groups_aborts(void **state)
{
    (void)state;
    expect_death(add_to_two_groups, NULL, SIGABRT, "group");
}

/* 23 */
static void a_settled_future_in_two_groups_aborts(void **state)
{
    (void)state;
    expect_death(add_settled_to_two_groups, NULL, SIGABRT, "group");
}

/* 23 */
static void a_future_twice_in_one_group_aborts(void **state)
{
    (void)state;
    expect_death(add_twice, NULL, SIGABRT, "group");
}

/* 27: after its group was closed it may go into another. */
static void a_future_whose_group_was_closed_may_go_into_another(void **state)
{
    duet_group first = DUET_GROUP_INIT, second = DUET_GROUP_INIT;
    duet_future *f;
    (void)state;
    must_equal(duet_future_open(&f), 0);
    must_equal(duet_future_settle(f, duet_ok()), 0);
    duet_group_add(&first, duet_future_ref(f));
    must_equal(duet_group_close(&first), 0);
    must(duet_group_add(&second, f) == f);
    must_equal(duet_group_wait(&second, SURELY, NULL), 0);
    must_equal(duet_group_close(&second), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_future_in_two_groups_aborts),
        cmocka_unit_test(a_settled_future_in_two_groups_aborts),
        cmocka_unit_test(a_future_twice_in_one_group_aborts),
        cmocka_unit_test(a_future_whose_group_was_closed_may_go_into_another),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
