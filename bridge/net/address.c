#include "address.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

bool duet__port_fits(const char *port)
{
    char *end;
    unsigned long number = port ? strtoul(port, &end, 10) : 0;
    return !port || *end != '\0' || end == port || number <= UINT16_MAX;
}

const char *duet__unix_path(const char *host)
{
    static const char prefix[] = "unix:";
    return host && strncmp(host, prefix, sizeof prefix - 1) == 0 ? host + sizeof prefix - 1 : NULL;
}

int duet__unix_address(const char *path, struct sockaddr_storage *ret, socklen_t *ret_len)
{
    struct sockaddr_un *address = (struct sockaddr_un *)ret;
    size_t length = strlen(path);
    if (length == 0 || length >= sizeof address->sun_path)
        return length == 0 ? -EINVAL : -ENAMETOOLONG;
    memset(ret, 0, sizeof *ret);
    address->sun_family = AF_UNIX;
    memcpy(address->sun_path, path, length + 1);
    *ret_len = sizeof *address;
    return 0;
}

static const char *inet_text(const struct sockaddr_storage *address, char *buf, size_t size)
{
    char host[64], port[16];
    bool is_v6 = address->ss_family == AF_INET6;
    socklen_t len = is_v6 ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in);
    if (getnameinfo((const struct sockaddr *)address, len, host, sizeof host, port, sizeof port,
                    NI_NUMERICHOST | NI_NUMERICSERV) != 0)
        snprintf(buf, size, "?");
    else
        snprintf(buf, size, is_v6 ? "[%s]:%s" : "%s:%s", host, port);
    return buf;
}

const char *duet__address_text(const struct sockaddr_storage *address, char *buf, size_t size)
{
    const struct sockaddr_un *local = (const struct sockaddr_un *)address;
    if (address->ss_family == AF_INET || address->ss_family == AF_INET6)
        return inet_text(address, buf, size);
    snprintf(buf, size, "unix:%.*s", (int)sizeof local->sun_path,
             address->ss_family == AF_UNIX ? local->sun_path : "?");
    return buf;
}
