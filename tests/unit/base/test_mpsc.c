/* The queue's states on one thread; what threads do to it is in tests/model and tests/stress. */
#include "duet_test.h"
#include "mpsc.h"

static void what_is_pushed_comes_out_in_order(void **state)
{
    (void)state;
    struct duet__mpsc queue = {0};
    struct duet__node nodes[3];
    must(duet__mpsc_take(&queue) == NULL);
    for (int i = 0; i < 3; i++)
        must_equal(duet__mpsc_push(&queue, &nodes[i]), DUET__PUSHED);
    must(duet__mpsc_has_nodes(&queue));
    struct duet__node *first = duet__mpsc_take(&queue);
    must(first == &nodes[0] && first->next == &nodes[1] && nodes[1].next == &nodes[2]);
    must(nodes[2].next == NULL);
    must(!duet__mpsc_has_nodes(&queue));
}

static void one_push_a_parking_must_signal(void **state)
{
    (void)state;
    struct duet__mpsc queue = {0};
    struct duet__node nodes[3];
    must(duet__mpsc_park(&queue, DUET__MPSC_PARKED));
    must(!duet__mpsc_has_nodes(&queue));
    must_equal(duet__mpsc_push(&queue, &nodes[0]), DUET__PUSHED_SIGNAL);
    must_equal(duet__mpsc_push(&queue, &nodes[1]), DUET__PUSHED);
    must(!duet__mpsc_wake(&queue, DUET__MPSC_PARKED)); /* a signal was owed for this parking */
    must(duet__mpsc_take(&queue) == &nodes[0]);
    must(nodes[0].next == &nodes[1] && nodes[1].next == NULL);
    must(duet__mpsc_park(&queue, DUET__MPSC_PARKED));
    must(duet__mpsc_wake(&queue, DUET__MPSC_PARKED)); /* nobody came: no signal */
    must_equal(duet__mpsc_push(&queue, &nodes[2]), DUET__PUSHED);
}

static void who_sleeps_on_the_head_is_woken_there(void **state)
{
    (void)state;
    struct duet__mpsc queue = {0};
    struct duet__node nodes[2];
    must(duet__mpsc_park(&queue, DUET__MPSC_ON_WORD));
    must(*duet__mpsc_word(&queue) == DUET__MPSC_ON_WORD);
    must(!duet__mpsc_has_nodes(&queue));
    must_equal(duet__mpsc_push(&queue, &nodes[0]), DUET__PUSHED_WAKE);
    must(*duet__mpsc_word(&queue) != DUET__MPSC_ON_WORD);
    must_equal(duet__mpsc_push(&queue, &nodes[1]), DUET__PUSHED);
    must(!duet__mpsc_wake(&queue, DUET__MPSC_ON_WORD));
    must(duet__mpsc_take(&queue) == &nodes[0]);
}

static void a_queue_with_nodes_neither_parks_nor_closes(void **state)
{
    (void)state;
    struct duet__mpsc queue = {0};
    struct duet__node node;
    must_equal(duet__mpsc_push(&queue, &node), DUET__PUSHED);
    must(!duet__mpsc_park(&queue, DUET__MPSC_PARKED));
    must(!duet__mpsc_close(&queue));
    must(duet__mpsc_take(&queue) == &node);
    must(duet__mpsc_close(&queue));
}

static void a_closed_queue_refuses_for_ever(void **state)
{
    (void)state;
    struct duet__mpsc queue = {0};
    struct duet__node node;
    must(duet__mpsc_close(&queue));
    must_equal(duet__mpsc_push(&queue, &node), DUET__PUSH_REFUSED);
    must_equal(duet__mpsc_push(&queue, &node), DUET__PUSH_REFUSED);
    must(!duet__mpsc_has_nodes(&queue));
    must(duet__mpsc_take(&queue) == NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_pushed_comes_out_in_order),
        cmocka_unit_test(one_push_a_parking_must_signal),
        cmocka_unit_test(who_sleeps_on_the_head_is_woken_there),
        cmocka_unit_test(a_queue_with_nodes_neither_parks_nor_closes),
        cmocka_unit_test(a_closed_queue_refuses_for_ever),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
