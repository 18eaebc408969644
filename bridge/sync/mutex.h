/* The mutex from inside, for the condition. */
#pragma once
#include "queue.h"

#include <duet/sync.h>

struct duet__mutex;

struct duet__mutex *duet__mutex_of(duet_mutex *m);
bool duet__mutex_is_held_by(struct duet__mutex *mutex, const struct duet__parker *parker);
void duet__mutex_unlock(struct duet__mutex *mutex, struct duet__parker *parker);
/* Waits for as long as it takes, also cancelled. */
void duet__mutex_lock_surely(struct duet__mutex *mutex, struct duet__parker *parker);
/* For a waiter that was claimed elsewhere and not told: it gets the mutex, or is queued for it.
 * When it is told, it holds that, and calls duet__mutex_got(). */
void duet__mutex_queue(struct duet__mutex *mutex, struct duet__waiter *waiter);
void duet__mutex_got(struct duet__parker *parker);
/* By the owner of a waiter so queued, whose sleep has ended for another reason. */
void duet__mutex_await(struct duet__mutex *mutex, struct duet__waiter *waiter);
/* Within may_end() and describe() of one that was so queued. */
bool duet__mutex_may_come(struct duet__mutex *mutex, const struct duet__parker *to,
                          struct duet__look *look);
const char *duet__mutex_describe(struct duet__mutex *mutex, char *buf, size_t size);
