/* duet/net.h: buffered streams, servers, names. All but duet_resolve() and duet_server_shut() is
 * for coroutines: a stream or server belongs to the loop on which it was opened, and is used there
 * alone (else the program aborts).
 *
 * Errors are as in duet/io.h: what the network says (-ECONNRESET, -EPIPE, -ETIMEDOUT, …), -ETIME
 * for the deadline given here, -ECANCELED, -EBADF after a close. A wait that fails loses no bytes:
 * what was read stays buffered, what was not accepted is the caller's. */
#pragma once
#include <duet/base.h>
#include <sys/socket.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Streams ---- */

/* Owned by whoever opened it, until duet_stream_close() has returned. One coroutine at a time reads
 * (another gets -EBUSY); any number write and drain, each write whole. Memory for what is read or
 * unsent is there only while there is some: an idle stream has none. */
typedef struct duet_stream duet_stream;

/* Zero means default. */
typedef struct duet_stream_config {
    /* Bytes: a longer line or delimited record is -EMSGSIZE; what was read stays buffered. 64 KiB. */
    size_t read_limit;
    /* Bytes: duet_stream_write() waits while more than this is unsent. 64 KiB. */
    size_t write_high;
    uintptr_t reserved[4]; /* zero */
} duet_stream_config;

/* [co] Of a connected socket, a pipe or a terminal. Owns fd from here on, unless it fails: -ENOMEM,
 * -EINVAL, -EBADF. config, copied, may be NULL. */
DUET_API int duet_stream_open(duet_stream **ret, int fd, const duet_stream_config *config);
/* [co, waits] 1…n bytes, as soon as there are any; 0 is the end (or n is 0). */
DUET_API ssize_t duet_stream_read(duet_stream *s, void *buf, size_t n, duet_deadline by);
/* [co, waits] n bytes, or fewer at the end. After an error what came stays buffered. */
DUET_API ssize_t duet_stream_read_exactly(duet_stream *s, void *buf, size_t n, duet_deadline by);
/* [co, waits] Up to and with the delimiter: how many bytes; *ret points at them in the stream's
 * buffer, until its next read or close. At the end what is left, without a delimiter; 0: nothing.
 * -EMSGSIZE: there are read_limit bytes without one; they stay buffered. */
DUET_API ssize_t duet_stream_read_until(duet_stream *s, char delimiter, const char **ret,
                                        duet_deadline by);
/* [co, waits] Likewise, up to and with a line feed. */
DUET_API ssize_t duet_stream_read_line(duet_stream *s, const char **ret, duet_deadline by);
/* [co, waits] Accepts all n bytes, which are sent from then on: waits first while more than
 * write_high is unsent. 0; an error of an earlier sending (-EPIPE, -ECONNRESET, …), from then on
 * always; -EPIPE also after duet_stream_finish(). After an error none were accepted. */
DUET_API int duet_stream_write(duet_stream *s, const void *buf, size_t n, duet_deadline by);
/* [co, waits] Drains, and then sends n bytes of a file, from *at on, as duet_sendfile(): fewer at
 * the end of the file, or if an error came after some. No other may write meanwhile (-EBUSY). */
DUET_API ssize_t duet_stream_sendfile(duet_stream *s, int from, off_t *at, size_t n,
                                      duet_deadline by);
/* [co, waits] Until all that was accepted is sent. Several may. */
DUET_API int duet_stream_drain(duet_stream *s, duet_deadline by);
/* [co, waits] Drains, and then the peer reads the end (sockets). No more writing from the call on. */
DUET_API int duet_stream_finish(duet_stream *s, duet_deadline by);
/* [co] Bytes accepted and not sent yet. */
DUET_API size_t duet_stream_unsent(const duet_stream *s);
/* [co] Who the peer is, or was: also after it is gone. 0; -ENOTCONN: not a connected socket. */
DUET_API int duet_stream_peer(const duet_stream *s, struct sockaddr_storage *ret);
/* [co, waits] Drains by the deadline, then closes and frees, whatever happens: whoever still reads
 * or drains gets -EBADF, and has returned before this does. Cancelled, it does not drain. 0, or
 * why not all was sent: -ETIME, -ECANCELED, -EPIPE, … NULL is fine. */
DUET_API int duet_stream_close(duet_stream *s, duet_deadline by);

/* ---- Servers: a coroutine for each connection ---- */

/* Owned by whoever opened it, until duet_server_close() has returned. */
typedef struct duet_server duet_server;
/* Runs as a coroutine for each connection. A failure that it returns is reported in the log, with
 * the peer's address; but a cancellation is not. The server closes the stream when it returns, … */
typedef duet_result duet_handler(duet_stream *stream, void *arg);
/* [co] … unless the handler has called this: then the stream is the handler's to close. */
DUET_API void duet_stream_detach(duet_stream *s);

/* Zero means default. */
typedef struct duet_server_config {
    /* Numeric; NULL: 127.0.0.1; "0.0.0.0"; "::" both families; "unix:/path" (the socket is
     * unlinked at the close; one that is left over, and that nobody listens to, is replaced). */
    const char *host;
    const char *port; /* numeric; NULL or "0": the kernel chooses */
    duet_handler *handler; /* needed */
    void *arg; /* for the handler */
    unsigned connections_max; /* at once; others wait in the backlog. 10,000 */
    int backlog; /* 1,024; the system may have a lower limit */
    bool reuse_port; /* several sockets, on several loops say, share the port */
    /* How long closing a connection may wait for a peer that does not read: 5 s. */
    int64_t close_ns;
    duet_stream_config stream; /* of each connection */
    uintptr_t reserved[4]; /* zero */
} duet_server_config;

typedef struct duet_server_stats {
    uint64_t accepted, failed; /* connections so far; of those, whose handler failed */
    unsigned connections; /* now */
} duet_server_stats;

/* [co, waits] Listens from here on; connections wait until duet_server_serve(). config, copied
 * with its strings. 0; -EADDRINUSE, -EACCES, … of bind(2) and listen(2); -EINVAL; -ENOMEM. */
DUET_API int duet_server_open(duet_server **ret, const duet_server_config *config);
/* [co] Where it listens. */
DUET_API int duet_server_address(const duet_server *s, struct sockaddr_storage *ret);
/* [co, waits] Accepts, until the deadline (-ETIME), until cancelled (-ECANCELED), or until shut:
 * 0. The connections go on. Out of descriptors or memory it says so once a minute in the log,
 * waits for a connection to end, or a moment, and goes on. */
DUET_API int duet_server_serve(duet_server *s, duet_deadline by);
/* [any] Accept no more. Idempotent; does not wait. */
DUET_API void duet_server_shut(duet_server *s);
/* [co] How many there are, and were. */
DUET_API void duet_server_stats_get(const duet_server *s, duet_server_stats *ret);
/* [co, waits] Shut, let serve return and the handlers end; at the deadline cancel them and wait
 * for their end; free. 0; -ETIME: some had to be cancelled (-ECANCELED: at once, since the caller
 * was). Frees whatever it returns, but for -EDEADLK: from one of its handlers, nothing was done. */
DUET_API int duet_server_close(duet_server *s, duet_deadline by);

/* ---- Clients and names ---- */

/* [co, waits] A stream to this host: resolves its name, tries its addresses, each a quarter of a
 * second after the one before, or as soon as that has failed; the first that answers is taken
 * (after RFC 8305). "unix:/path" too, without a port. 0; the last error of the addresses; the
 * errors of duet_resolve(). */
DUET_API int duet_dial(duet_stream **ret, const char *host, const char *port, duet_deadline by);
struct addrinfo;
/* [any, waits] Names to stream addresses, by getaddrinfo(3), on a small pool of its own: it ends
 * on time, though that cannot be interrupted, and a look-up that was left behind keeps nobody
 * waiting. host NULL: loopback. 0: *ret is the caller's, to free with freeaddrinfo(3). -ENOENT: no
 * such host or service; -EAGAIN: the name server does not answer, or too many look-ups hang; -EIO:
 * another failure, said in the log. */
DUET_API int duet_resolve(const char *host, const char *port, struct addrinfo **ret,
                          duet_deadline by);

#ifdef __cplusplus
}
#endif
