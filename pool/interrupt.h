/* Breaking a system call that a cancelled job blocks in (DUET_INTERRUPT), by a signal to the thread
 * that runs it. */
#pragma once
#include "lock.h"

#include <stdbool.h>
#include <sys/types.h>
#include <time.h>

/* Owned by its job; the lock guards it. The signal is only ever sent while `open` is true, and what
 * was sent has been received before it is another job's turn, so it never hits another. */
struct duet__interrupt {
    struct duet__lock lock;
    bool open; /* the job runs, and not under a shield */
    bool heard; /* the job knows of its cancellation */
    bool ticking; /* the timer exists, and sends the signal again and again */
    bool was_blocked; /* the signal, in the thread, before the job */
    pid_t tid;
    timer_t timer;
};

/* Before such a job is accepted: installs the handler. 0; -EBUSY: the program has its own. */
int duet__interrupt_prepare(void);
/* By the thread that runs the job: around its function, and around its shields. `cancelled`: it is
 * so already, and has not heard of it. */
void duet__interrupt_begin(struct duet__interrupt *interrupt);
void duet__interrupt_end(struct duet__interrupt *interrupt);
void duet__interrupt_shield(struct duet__interrupt *interrupt, bool begins, bool cancelled);
/* By that thread: the job has heard of its cancellation. */
void duet__interrupt_heard(struct duet__interrupt *interrupt);
/* By any thread, of a job that was cancelled. */
void duet__interrupt_send(struct duet__interrupt *interrupt);
