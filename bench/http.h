/* H: HTTP/1.1 with keep-alive, read by llhttp; a greeting for each GET. */
#pragma once
#include "bench.h"
#include "talk.h"

#include <llhttp.h>

enum {
    TALK_INPUT = 1024,
    HTTP_SHORTEST = sizeof "GET / HTTP/1.1\r\n\r\n" - 1,
    HTTP_AT_ONCE = TALK_INPUT / HTTP_SHORTEST + 1, /* requests that can end within one read */
};

#define HTTP_ANSWER                                                                                \
    "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 13\r\n\r\nHello, world!"

struct talk {
    llhttp_t parser;
    unsigned unanswered;
    bool last;
};

/* So many answers in a row, for who sends requests without waiting. */
static char http_answers[HTTP_AT_ONCE * (sizeof HTTP_ANSWER - 1)];

static inline int http_complete(llhttp_t *parser)
{
    struct talk *talk = parser->data;
    if (parser->method != HTTP_GET)
        return -1;
    talk->unanswered++;
    talk->last = !llhttp_should_keep_alive(parser);
    return 0;
}

static inline const llhttp_settings_t *http_settings(void)
{
    static llhttp_settings_t settings;
    if (settings.on_message_complete)
        return &settings;
    llhttp_settings_init(&settings);
    settings.on_message_complete = http_complete;
    for (size_t i = 0; i < HTTP_AT_ONCE; i++)
        memcpy(http_answers + i * (sizeof HTTP_ANSWER - 1), HTTP_ANSWER, sizeof HTTP_ANSWER - 1);
    return &settings;
}

static inline void talk_begin(struct talk *talk)
{
    llhttp_init(&talk->parser, HTTP_REQUEST, http_settings());
    talk->parser.data = talk;
    talk->unanswered = 0;
    talk->last = false;
}

static inline struct answer talk_hear(struct talk *talk, const char *bytes, size_t count)
{
    bool fails = llhttp_execute(&talk->parser, bytes, count) != HPE_OK;
    size_t answers = talk->unanswered;
    need(answers <= HTTP_AT_ONCE, "no read ends more requests");
    talk->unanswered = 0;
    return (struct answer){http_answers, answers * (sizeof HTTP_ANSWER - 1), fails || talk->last};
}
