/* The channel from inside, for select.
 *
 * A WAITER of a channel stands in the list of those who send or of those who receive, with the
 * place that its item is taken from or put into: whoever claims it moves the item there and then,
 * under the channel's lock, and says in rc how it ended. So an item is in one place at any moment,
 * and a claimed waiter's wait has succeeded.
 *
 * ONE THAT SELECTS stands in several lists. It is claimed by whoever first sets `chosen`; another
 * who comes upon it later takes it out, and gives the token that this obliges to, but nothing
 * else. */
#pragma once
#include "bias.h"
#include "fork.h"
#include "queue.h"

#include <duet/sync.h>

/* Of one select; on the stack of who waits. */
struct duet__choice {
    /* 0: none yet; else the index of the case that is done, plus 1. Set once. Relaxed: what comes
     * with it is published by the claimer's token, or by the lock of the channel. */
    _Atomic uint32_t chosen;
};

static inline bool duet__choose(struct duet__choice *choice, uint32_t index)
{
    uint32_t none = 0;
    return duet__cas_relaxed(&choice->chosen, &none, index + 1);
}

/* On the stack of who waits. */
struct duet__chan_waiter {
    struct duet__waiter waiter;
    struct duet__choice *choice; /* NULL: this is all it waits for */
    uint32_t index; /* in the choice */
    int rc; /* by who claims it: 0 or -EPIPE */
    const void *from; /* who sends: its item */
    void *into; /* who receives: where it wants one */
};

/* Owned by its references. */
struct duet_chan {
    struct duet__bias lock; /* guards what is not constant, but for refs */
    uint32_t process; /* constant: in which it lives */
    _Atomic uint32_t refs;
    bool shut;
    bool is_plain; /* not shut, and its items are small: nothing but those has to be looked at */
    size_t item_size, capacity, bytes; /* constant; of an item; how many; of all of them */
    size_t first, end, count; /* where the oldest item is, and the next one will be; how many */
    uint64_t unfinished; /* accepted, neither done nor dropped */
    struct duet__list senders, receivers, joiners;
    void (*drop)(void *item); /* constant; NULL: nothing to do */
    _Alignas(max_align_t) char items[];
};

enum {
    DUET__CHAN_WAITS = 1
};

/* 0, or why this channel and item are of no use to this function: -EINVAL, -EOWNERDEAD. */
int duet__chan_check(const char *function, const duet_chan *c, const void *item);
/* Under the lock: 0, -EPIPE, or DUET__CHAN_WAITS. *ret_other: whom this has claimed, who must be
 * told; NULL. */
int duet__chan_try_send(duet_chan *c, const void *item, struct duet__waiter **ret_other);
int duet__chan_try_recv(duet_chan *c, void *into, struct duet__waiter **ret_other);
/* Takes the lock, and a waiter out of whatever list it is in. False: somebody has claimed it, whose
 * token is to come. */
bool duet__chan_leave(duet_chan *c, struct duet__waiter *waiter);
/* Under the lock: would it not be DUET__CHAN_WAITS? If that rests on one who selects, somebody
 * else may still choose it first. */
bool duet__chan_may_send(duet_chan *c);
bool duet__chan_may_recv(duet_chan *c);
