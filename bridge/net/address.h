/* Addresses as text. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <sys/socket.h>

/* Is it no number, or one that fits? getaddrinfo(3) takes any, and cuts it off. */
bool duet__port_fits(const char *port);
/* The path of "unix:/path"; NULL: it is none. */
const char *duet__unix_path(const char *host);
/* 0; -ENAMETOOLONG; -EINVAL: it is empty. */
int duet__unix_address(const char *path, struct sockaddr_storage *ret, socklen_t *ret_len);
/* "127.0.0.1:80", "[::1]:80", "unix:/path"; into buf, which is returned. */
const char *duet__address_text(const struct sockaddr_storage *address, char *buf, size_t size);
