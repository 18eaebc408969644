/* The door through which other threads reach a loop. The bridge builds it (bridge/inbox.c), the
 * loop has one from birth; here is all that the loop knows of it. Tests of the loop alone bring a
 * door that nobody comes through. */
#pragma once
#include "mpsc.h"

#include <duet/loop.h>

/* Owned by its loop; counts the references to it, since who is inside the door keeps it alive. */
struct duet__port;

/* 0 or a negative errno. One reference is held. */
int duet__port_open(struct duet__port **ret, const duet_loop_config *config);
void duet__port_free(struct duet__port *port);
void duet__port_ref(struct duet__port *port); /* by who has a reference */
bool duet__port_unref(struct duet__port *port); /* true: that was the last one, free the loop */
/* By who keeps the port from being freed, but has no reference. False: the last one is gone. */
bool duet__port_try_ref(struct duet__port *port);

/* By any thread: queues a node that needs no place in the bounded inbox, and signals a sleeping
 * loop. False: the loop has ended, the node is still the caller's. Touches nothing of the loop
 * afterwards. */
bool duet__port_post(struct duet__port *port, struct duet__node *node);
/* By any thread: from here on submissions are refused, also those that wait for room. True: it is
 * the first, and holds a reference from here on, so that it may still post to a loop that somebody
 * else closes. */
bool duet__port_shut(struct duet__port *port);
bool duet__port_is_shut(struct duet__port *port); /* a look */
size_t duet__port_waiting(struct duet__port *port); /* a look: submissions not admitted yet */

/* By the loop's thread only. */
int duet__port_fd(struct duet__port *port); /* becomes readable when signalled; never read */
bool duet__port_has_nodes(struct duet__port *port); /* a look */
struct duet__node *duet__port_take(struct duet__port *port); /* all, the oldest first */
void duet__port_admitted(struct duet__port *port,
                         unsigned count); /* so many places are free again */
/* False: do not, something came. Else a post signals; or, if it sleeps in duet__port_wait(), wakes it
 * there. */
bool duet__port_sleep(struct duet__port *port, bool in_wait);
/* Until something is posted, or then (DUET__NEVER: without end), or for no reason. */
void duet__port_wait(struct duet__port *port, int64_t by_ns);
void duet__port_awake(struct duet__port *port); /* after a sleep, for whatever reason */
/* False: something came, take it. True: all posts are refused from now on, and every signal that a
 * producer still owed has been received: nobody touches the port but through a reference. */
bool duet__port_close(struct duet__port *port);
