/* The door of a loop on one thread; what threads do to it is in tests/model and tests/stress. */
#include "duet_test.h"
#include "inbox.h"

#include <signal.h>
#include <unistd.h>

static int ran;

static void note_run(struct duet__node *node, void *consumer)
{
    (void)node;
    (void)consumer;
    ran++;
}

static duet_loop *open_with_places(unsigned places, enum duet_when_full when_full)
{
    const duet_loop_config config = {.inbox_max = places, .when_full = when_full};
    duet_loop *loop;
    must_equal(duet_loop_open(&loop, &config), 0);
    return loop;
}

static void places_are_taken_and_given_back(void **state)
{
    (void)state;
    struct duet__node nodes[3] = {{.run = note_run}, {.run = note_run}, {.run = note_run}};
    duet_loop *loop = open_with_places(2, DUET_FULL_REFUSE);
    for (int i = 0; i < 2; i++) {
        must_equal(duet__inbox_enter(loop, false, DUET_NEVER), 0);
        must_equal(duet__inbox_push(loop, &nodes[i]), 0);
    }
    must_equal(duet__inbox_enter(loop, false, DUET_NEVER), -EAGAIN);
    must(duet__port_take(loop->port) == &nodes[0]);
    must_equal(duet__inbox_enter(loop, false, DUET_NEVER), -EAGAIN); /* taken is not admitted */
    duet__port_admitted(loop->port, 2);
    must_equal(duet__inbox_enter(loop, false, DUET_NEVER), 0);
    must_equal(duet__inbox_push(loop, &nodes[2]), 0);
    must_equal(duet_loop_close(loop, SURELY), 0);
    must_equal(ran, 1); /* what was still queued */
}

static void waiting_for_a_place_ends_at_the_deadline(void **state)
{
    (void)state;
    struct duet__node node = {.run = note_run};
    duet_loop *loop = open_with_places(1, DUET_FULL_WAIT);
    must_equal(duet__inbox_enter(loop, false, DUET_NEVER), 0);
    must_equal(duet__inbox_push(loop, &node), 0);
    duet_deadline by = duet_ms(2);
    must_equal(duet__inbox_enter(loop, false, by), -ETIME);
    must(duet_now_ns() >= by.ns);
    must_equal(duet__inbox_enter(loop, true, DUET_NEVER), -EAGAIN); /* one that may not wait */
    must_equal(duet_loop_close(loop, SURELY), 0);
}

static void a_shut_port_refuses_submissions_but_not_wake_ups(void **state)
{
    (void)state;
    struct duet__node node = {.run = note_run};
    duet_loop *loop = open_with_places(1, DUET_FULL_WAIT);
    must(duet__port_shut(loop->port));
    must(!duet__port_shut(loop->port)); /* only one is the first */
    duet_loop_unref(loop); /* the reference that comes with being first */
    must(duet__port_is_shut(loop->port));
    must_equal(duet__inbox_enter(loop, false, DUET_NEVER), -ESHUTDOWN);
    must(duet__port_post(loop->port, &node));
    must(!duet__port_close(loop->port)); /* something came */
    must(duet__port_take(loop->port) == &node);
    duet_loop_ref(loop);
    must_equal(duet_loop_close(loop, SURELY), 0);
    must(!duet__port_post(loop->port, &node)); /* closed for good */
    duet_loop_unref(loop);
}

static void close_the_eventfd_of_a_sleeping_loop(void *arg)
{
    struct duet__node node = {.run = note_run};
    duet_loop *loop = open_with_places(1, DUET_FULL_WAIT);
    (void)arg;
    must(duet__port_sleep(loop->port, false));
    close(duet__port_fd(loop->port));
    duet__port_post(loop->port, &node);
}

/* 41 */
static void a_wake_up_that_cannot_be_written_is_never_swallowed(void **state)
{
    (void)state;
    expect_death(close_the_eventfd_of_a_sleeping_loop, NULL, SIGABRT,
                 "must not close the descriptors of a loop");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(places_are_taken_and_given_back),
        cmocka_unit_test(waiting_for_a_place_ends_at_the_deadline),
        cmocka_unit_test(a_shut_port_refuses_submissions_but_not_wake_ups),
        cmocka_unit_test(a_wake_up_that_cannot_be_written_is_never_swallowed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
