/* Names: getaddrinfo(3) cannot be interrupted, and may take half a minute. So it runs on a pool of
 * its own, and who waits leaves it behind at the deadline; a look-up that nobody waits for ends by
 * itself. */
#include "address.h"
#include "alloc.h"
#include "check.h"
#include "log.h"
#include "park.h"
#include "runtime.h"

#include <duet/duet.h>
#include <duet/net.h>
#include <errno.h>
#include <netdb.h>
#include <string.h>

/* Owned by its job, which frees it. */
struct lookup {
    char *host, *port; /* in the same block of memory; NULL */
};

static int error_of(int rc, int saved_errno)
{
    switch (rc) {
    case EAI_NONAME:
    case EAI_SERVICE:
    case EAI_NODATA:
    case EAI_ADDRFAMILY:
        return -ENOENT;
    case EAI_AGAIN:
        return -EAGAIN;
    case EAI_MEMORY:
        return -ENOMEM;
    case EAI_SYSTEM:
        return saved_errno ? -saved_errno : -EIO;
    default:
        duet__log(DUET_ERROR, "duet_resolve: %s", gai_strerror(rc));
        return -EIO;
    }
}

static int look_up_now(const char *host, const char *port, int flags, struct addrinfo **ret)
{
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = flags};
    int errno_before = errno, rc = getaddrinfo(host, port, &hints, ret);
    rc = rc == 0 ? 0 : error_of(rc, errno);
    errno = errno_before;
    return rc;
}

static void drop_addresses(void *addresses)
{
    freeaddrinfo(addresses);
}

static duet_result look_up(void *arg)
{
    const struct lookup *lookup = arg;
    struct addrinfo *found;
    int rc = look_up_now(lookup->host, lookup->port, AI_ADDRCONFIG, &found);
    return rc < 0 ? duet_err(rc) : duet_ptr(found);
}

static struct lookup *lookup_new(const char *host, const char *port)
{
    size_t host_size = host ? strlen(host) + 1 : 0, port_size = port ? strlen(port) + 1 : 0;
    struct lookup *lookup = duet__alloc_zeroed(1, sizeof *lookup + host_size + port_size);
    if (!lookup)
        return NULL;
    char *memory = (char *)(lookup + 1);
    if (host)
        lookup->host = memcpy(memory, host, host_size);
    if (port)
        lookup->port = memcpy(memory + host_size, port, port_size);
    return lookup;
}

/* On time: what has not ended by then is left to its job. */
static int await(duet_future *f, duet_deadline by, struct addrinfo **ret)
{
    duet_result r;
    int rc = duet_future_wait(f, by, &r);
    if (rc == 0 && r.err == 0) {
        rc = duet_future_take(f, &r);
        *ret = rc == 0 ? duet_as_ptr(r) : NULL;
    } else if (rc == 0) {
        rc = r.err == -ECANCELED ? -ESHUTDOWN : r.err; /* by duet_shutdown(): not who waits */
    } else {
        duet_future_cancel(f); /* if it has not begun, it never will */
    }
    duet_future_unref(f);
    return rc;
}

int duet_resolve(const char *host, const char *port, struct addrinfo **ret, duet_deadline by)
{
    const duet_opts opts = {
        .name = "look-up", .drop = duet__free, .drop_result = drop_addresses, .flags = DUET_REFUSE};
    if (!ret || (!host && !port))
        return duet__bad_argument(__func__, ret ? "host and port are both NULL" : "ret is NULL");
    if (!duet__port_fits(port))
        return duet__bad_argument(__func__, "port is above 65535");
    int rc = duet__wait_begin(duet__here(), DUET_NEVER, duet__here()->shields > 0);
    if (rc < 0)
        return duet__told(rc);
    rc = look_up_now(host, port, AI_NUMERICHOST | AI_NUMERICSERV, ret); /* no names: no waiting */
    if (rc != -ENOENT)
        return rc;
    duet_pool *pool = duet__own_pool(DUET__POOL_RESOLVE);
    struct lookup *lookup = pool ? lookup_new(host, port) : NULL;
    if (!lookup)
        return -ENOMEM;
    return await(duet_pool_submit_with(pool, look_up, lookup, &opts), by, ret);
}
