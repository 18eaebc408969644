/* A door that nobody comes through: lets the loop be tested alone, on one thread, without the
 * bridge. What a test posts before the loop runs is taken in the first turn. */
#include "futex.h"
#include "port.h"

#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

struct duet__port {
    struct duet__node *first, **end;
    unsigned refs, admitted;
    int fd;
    bool shut;
};

int duet__port_open(struct duet__port **ret, const duet_loop_config *config)
{
    struct duet__port *port = calloc(1, sizeof *port);
    (void)config;
    if (!port)
        return -1;
    port->end = &port->first;
    port->refs = 1;
    port->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    *ret = port;
    return 0;
}

void duet__port_free(struct duet__port *port)
{
    close(port->fd);
    free(port);
}

void duet__port_ref(struct duet__port *port)
{
    port->refs++;
}

bool duet__port_try_ref(struct duet__port *port)
{
    port->refs++;
    return true;
}

bool duet__port_unref(struct duet__port *port)
{
    return --port->refs == 0;
}

bool duet__port_post(struct duet__port *port, struct duet__node *node)
{
    node->next = NULL;
    *port->end = node;
    port->end = &node->next;
    return true;
}

bool duet__port_shut(struct duet__port *port)
{
    bool first = !port->shut;
    port->refs += first;
    port->shut = true;
    return first;
}

bool duet__port_is_shut(struct duet__port *port)
{
    return port->shut;
}

size_t duet__port_waiting(struct duet__port *port)
{
    (void)port;
    return 0;
}

int duet__port_fd(struct duet__port *port)
{
    return port->fd;
}

bool duet__port_has_nodes(struct duet__port *port)
{
    return port->first != NULL;
}

struct duet__node *duet__port_take(struct duet__port *port)
{
    struct duet__node *first = port->first;
    port->first = NULL;
    port->end = &port->first;
    return first;
}

void duet__port_admitted(struct duet__port *port, unsigned count)
{
    port->admitted += count;
}

bool duet__port_sleep(struct duet__port *port, bool in_wait)
{
    (void)in_wait;
    return port->first == NULL;
}

void duet__port_wait(struct duet__port *port, int64_t by_ns)
{
    (void)port; /* nobody comes through this door: only time passes */
    _Atomic uint32_t nothing = 0;
    duet__futex_wait(&nothing, 0, by_ns);
}

void duet__port_awake(struct duet__port *port)
{
    (void)port;
}

bool duet__port_close(struct duet__port *port)
{
    return port->first == NULL;
}
