/* The stream from inside. */
#pragma once
#include <duet/duet.h>
#include <duet/net.h>

/* Bytes in the order in which they came: those from start to end. No memory when there are none. */
struct duet__bytes {
    char *memory;
    size_t capacity, start, end;
};

/* Owned by whoever opened it; all of it belongs to its loop's thread. */
struct duet_stream {
    int fd;
    duet_loop *loop; /* where it was opened; only compared */
    duet_stream_config config;
    bool is_socket;
    bool *detached; /* of the server that made it: set when it is the handler's; NULL */
    bool parting; /* somebody closes it: drains, and then … */
    bool closing; /* … sends everybody home */

    bool reading; /* somebody is in one of the reads */
    bool at_end; /* the peer has said all */
    bool drained; /* the last look left nothing in the kernel: wait before the next */
    struct duet__bytes in;
    size_t searched; /* so many bytes of it have no delimiter … */
    char delimiter; /* … which was this */

    bool finished; /* no more is accepted */
    bool sends_file; /* somebody does, and nobody else may write */
    int write_error; /* of a sending; 0: none */
    struct duet__bytes out; /* accepted, not in anybody's hands yet */
    size_t sending; /* bytes in the hands of the sender */
    duet_future *sender; /* a coroutine while there is something unsent; NULL */
    bool sender_began;
    duet_event room; /* set while no more than write_high is unsent */

    unsigned users; /* calls that wait in here */
    duet_event unused; /* set by the last of them, when it is closing */

    struct sockaddr_storage peer;
    bool has_peer;
};
