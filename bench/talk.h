/* What a server says to what it has read. echo.h and http.h each define:
 *
 *     struct talk            what it knows of one connection
 *     TALK_INPUT             how many bytes it reads at a time, at most
 *     talk_begin(talk)       a new connection
 *     talk_hear(talk, bytes, count)   what to say to these; an echo points into them */
#pragma once
#include <stdbool.h>
#include <stddef.h>

struct answer {
    const char *bytes;
    size_t count;
    bool last; /* the connection ends then */
};
