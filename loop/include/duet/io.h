/* duet/io.h: file descriptors. In a coroutine an operation runs on its loop's ring; on a thread or
 * in a job it is the plain system call, which waits with poll(2) for its deadline.
 *
 * EVERY OPERATION returns a count, a descriptor or 0, or a negative errno; also
 *   -ETIME      the deadline given here passed (-ETIMEDOUT is the network's)
 *   -ECANCELED  whoever waits was cancelled; if it was so before it came, nothing was done
 *   -EBADF      also: duet_close() has ended it
 *   -EDEADLK    in a bare callback, where what cannot be done at once is refused (but what concerns
 *               files is done in place)
 * What has happened counts: an operation that was complete as its deadline passed, or as it was
 * cancelled, returns what it did. DUET_NOW makes it a try. EINTR is never seen. On a thread or in a
 * job a cancellation is heard of before and after a wait, and during it with DUET_INTERRUPT.
 *
 * BUFFERS, addresses and paths are the caller's again when the call returns, whatever it returns.
 * Deadlines are for what waits for somebody else: sockets, pipes, terminals, processes. What
 * concerns files alone (positions, names, fsync) heeds none: it ends by itself. */
#pragma once
#include <duet/base.h>
#include <sys/socket.h>
#include <sys/stat.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Reading and writing ---- */

/* [any, waits] At most n bytes, as soon as there are any; 0 is the end. */
DUET_API ssize_t duet_read(int fd, void *buf, size_t n, duet_deadline by);
/* [any, waits] All n bytes. Fewer if an error, the deadline or a cancellation came after some: the
 * next call tells which. A peer that is gone is -EPIPE; of a pipe, also SIGPIPE, as ever. */
DUET_API ssize_t duet_write(int fd, const void *buf, size_t n, duet_deadline by);
/* [any, waits] At a place of the file; at most n bytes; 0 is the end. */
DUET_API ssize_t duet_pread(int fd, void *buf, size_t n, off_t at, duet_deadline by);
/* [any, waits] At a place of the file; all n bytes, or fewer as for duet_write(). */
DUET_API ssize_t duet_pwrite(int fd, const void *buf, size_t n, off_t at, duet_deadline by);
/* [any, waits] n bytes of a file, from *at on, which moves by what was sent, into a socket or pipe,
 * piece by piece. Fewer at the end of the file, or as for duet_write(); then
 * the next call tells: 0 is the end. */
DUET_API ssize_t duet_sendfile(int to, int from, off_t *at, size_t n, duet_deadline by);

/* ---- Files ---- */

/* [any, waits] Close-on-exec. dir may be AT_FDCWD. Of a named pipe: in a coroutine it does not wait
 * for the other side. */
DUET_API int duet_openat(int dir, const char *path, int flags, mode_t mode, duet_deadline by);
DUET_API int duet_fsync(int fd, duet_deadline by); /* [any, waits] until it is on the disk */
DUET_API int duet_stat(const char *path, struct stat *ret, duet_deadline by); /* [any, waits] */
/* [any, waits] flags: 0, or AT_REMOVEDIR. */
DUET_API int duet_unlinkat(int dir, const char *path, int flags, duet_deadline by);
/* [any, waits] flags as renameat2(2)'s: 0, RENAME_NOREPLACE, … */
DUET_API int duet_renameat(int from_dir, const char *from, int to_dir, const char *to,
                           unsigned flags, duet_deadline by);
DUET_API int duet_mkdirat(int dir, const char *path, mode_t mode,
                          duet_deadline by); /* [any, waits] */

/* ---- Sockets ---- */

/* [any, waits] Close-on-exec. addr and len may be NULL. */
DUET_API int duet_accept(int fd, struct sockaddr *addr, socklen_t *len, duet_deadline by);
/* [any, waits] After an error the socket is of no more use: close it. */
DUET_API int duet_connect(int fd, const struct sockaddr *addr, socklen_t len, duet_deadline by);
/* [any, waits] One datagram, or what there is of a stream; from whom, if addr is not NULL. flags:
 * MSG_*. */
DUET_API ssize_t duet_recvfrom(int fd, void *buf, size_t n, int flags, struct sockaddr *addr,
                               socklen_t *len, duet_deadline by);
/* [any, waits] One datagram, or some of a stream; to addr, if that is not NULL. MSG_NOSIGNAL is
 * implied. */
DUET_API ssize_t duet_sendto(int fd, const void *buf, size_t n, int flags,
                             const struct sockaddr *addr, socklen_t len, duet_deadline by);

/* ---- Readiness and ends ---- */

/* [any, waits] Until one of these events (POLLIN, …; POLLERR and POLLHUP always): the events that
 * came. */
DUET_API int duet_poll(int fd, unsigned events, duet_deadline by);
/* [any, waits] Ends with -EBADF what this loop has in flight on fd, then closes it; is not
 * cancelled, and has no deadline. What other loops and threads do with fd is the caller's duty. 0
 * or an error of close(2): fd is closed all the same. */
DUET_API int duet_close(int fd);
/* [any, waits] Until that child has ended; *status (may be NULL) as waitpid(2) has it. pid > 0.
 * -ECHILD: no child of this process, or somebody else has waited for it. 0. */
DUET_API int duet_waitpid(pid_t pid, int *status, duet_deadline by);

/* ---- Signals. Owned by whoever opened it. ---- */
typedef struct duet_signals duet_signals;
/* [any] Catches these signals from here on, coalesced: one that came several times counts once. 0;
 * -EBUSY: one of them is caught by another duet_signals; -EINVAL; -ENOMEM; -EMFILE. */
DUET_API int duet_signals_open(duet_signals **ret, const int *signos, size_t n);
/* [any, waits] The number of a signal that has come; the lowest first. By one waiter at a time. */
DUET_API int duet_signals_wait(duet_signals *s, duet_deadline by);
/* [any] What was set before is set again. NULL is fine. Nobody may wait. */
DUET_API void duet_signals_close(duet_signals *s);

#ifdef __cplusplus
}
#endif
