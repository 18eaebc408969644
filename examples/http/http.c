/* HTTP/1.1 on a connection: one request after another is read, with llhttp, and answered.
 *
 * A client has so long for a whole request (--request-timeout, from its first byte on), so long to take
 * each piece of an answer (--send-timeout), and so long for nothing (--idle-timeout). What it sends is
 * bounded in every part. So whatever it does, or does not do, it costs a bounded amount of memory for a
 * bounded time. */
#include "http.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <time.h>

/* ---- Parsing ---- */

struct reader {
    struct connection *connection;
    struct request *request;
    llhttp_t parser;
    int refused; /* the status of the answer */
    bool head_done, done; /* all fields are read; the body, too */
    bool expects; /* a 100 before it sends the body */
    unsigned fields, hosts;
    size_t fields_size;
    char name[24], value[24]; /* of the field that is read; longer ones are none of ours */
    size_t name_size, value_size;
};

/* To be returned by a callback. */
static int refuse(struct reader *reader, int status)
{
    reader->refused = status;
    return -1;
}

static int on_url(llhttp_t *parser, const char *at, size_t n)
{
    struct reader *reader = parser->data;
    struct request *r = reader->request;
    if (r->target_size + n > URI_MAX)
        return refuse(reader, 414);
    memcpy(r->target + r->target_size, at, n);
    r->target_size += n;
    r->target[r->target_size] = '\0';
    return 0;
}

static int count_field_bytes(llhttp_t *parser, const char *at, size_t n)
{
    struct reader *reader = parser->data;
    (void)at;
    reader->fields_size += n;
    return reader->fields_size > FIELDS_SIZE_MAX ? refuse(reader, 431) : 0;
}

/* Appends to a short text; one that is too long becomes too long to be equal to anything. */
static void append(char *text, size_t room, size_t *size, const char *at, size_t n)
{
    size_t fits = n < room - 1 - *size ? n : room - 1 - *size;
    memcpy(text + *size, at, fits);
    *size += fits;
    text[*size] = '\0';
}

static int on_field(llhttp_t *parser, const char *at, size_t n)
{
    struct reader *reader = parser->data;
    append(reader->name, sizeof reader->name, &reader->name_size, at, n);
    return count_field_bytes(parser, at, n);
}

static int on_value(llhttp_t *parser, const char *at, size_t n)
{
    struct reader *reader = parser->data;
    append(reader->value, sizeof reader->value, &reader->value_size, at, n);
    return count_field_bytes(parser, at, n);
}

static int on_value_complete(llhttp_t *parser)
{
    struct reader *reader = parser->data;
    int rc = 0;
    if (++reader->fields > FIELDS_MAX)
        return refuse(reader, 431);
    if (reader->name_size == 0)
        rc = refuse(reader, 400); /* llhttp lets a field without a name pass */
    else if (reader->head_done)
        ; /* a trailer: none of them means anything here */
    else if (strcasecmp(reader->name, "host") == 0)
        reader->hosts++;
    else if (strcasecmp(reader->name, "expect") == 0 &&
             !(reader->expects = strcasecmp(reader->value, "100-continue") == 0))
        rc = refuse(reader, 417);
    else if (strcasecmp(reader->name, "transfer-encoding") == 0 &&
             strcasecmp(reader->value, "chunked") != 0)
        rc = refuse(reader, 501);
    reader->name_size = reader->value_size = 0;
    reader->name[0] = reader->value[0] = '\0';
    return rc;
}

static int on_headers_complete(llhttp_t *parser)
{
    struct reader *reader = parser->data;
    struct request *r = reader->request;
    reader->head_done = true;
    r->method = parser->method;
    r->major = parser->http_major;
    r->minor = parser->http_minor;
    /* What comes after CONNECT would be another protocol. */
    r->keep_alive = llhttp_should_keep_alive(parser) && r->method != HTTP_CONNECT;
    if (r->major != 1)
        return refuse(reader, 505);
    if (r->minor == 0 && (parser->flags & F_TRANSFER_ENCODING))
        return refuse(reader, 400); /* HTTP/1.0 knows of none: who sends it means something else */
    if (reader->hosts > 1 || (reader->hosts == 0 && r->minor > 0))
        return refuse(reader, 400);
    if ((parser->flags & F_CONTENT_LENGTH) &&
        parser->content_length > reader->connection->server->options.body)
        return refuse(reader, 413);
    return 0;
}

static int on_body(llhttp_t *parser, const char *at, size_t n)
{
    struct reader *reader = parser->data;
    struct request *r = reader->request;
    size_t limit = reader->connection->server->options.body;
    if (n > limit - r->body_size)
        return refuse(reader, 413);
    /* Grows by what has come, not by what was announced: that costs the client nothing. */
    char *body = realloc(r->body, r->body_size + n);
    if (!body)
        return refuse(reader, 503);
    memcpy(body + r->body_size, at, n);
    r->body = body;
    r->body_size += n;
    return 0;
}

static int on_message_complete(llhttp_t *parser)
{
    struct reader *reader = parser->data;
    reader->done = true;
    return HPE_PAUSED; /* what follows is the next request */
}

static const llhttp_settings_t SETTINGS = {
    .on_url = on_url,
    .on_header_field = on_field,
    .on_header_value = on_value,
    .on_header_value_complete = on_value_complete,
    .on_headers_complete = on_headers_complete,
    .on_chunk_extension_name = count_field_bytes,
    .on_chunk_extension_value = count_field_bytes,
    .on_body = on_body,
    .on_message_complete = on_message_complete,
};

static int status_of(const llhttp_t *parser)
{
    bool known_version = parser->http_major == 1 && parser->http_minor <= 1;
    switch (llhttp_get_errno(parser)) {
    case HPE_INVALID_VERSION:
        return known_version ? 400 : 505; /* 400: something follows it */
    case HPE_PAUSED_H2_UPGRADE:
        return 505;
    case HPE_INVALID_TRANSFER_ENCODING:
        return 501;
    default:
        return 400;
    }
}

/* ---- Reading and writing ---- */

/* What was read and not parsed: the beginning of the next request. */
struct input {
    char bytes[INPUT_SIZE];
    size_t start, end;
};

static ssize_t read_more(struct connection *c, struct input *in, duet_deadline by)
{
    ssize_t n = duet_read(c->fd, in->bytes, sizeof in->bytes, by);
    in->start = 0;
    in->end = n > 0 ? (size_t)n : 0;
    c->server->metrics.received += in->end;
    return n;
}

/* All of it, piece by piece: a client that takes nothing is given up, and one that is slow is not. */
static int write_all(struct connection *c, const char *from, size_t n)
{
    while (n > 0) {
        duet_deadline by = in_seconds(c->server->options.send_timeout);
        size_t piece = n < PIECE ? n : PIECE;
        n -= piece;
        while (piece > 0) {
            ssize_t sent = duet_write(c->fd, from, piece, by);
            if (sent < 0)
                return (int)sent;
            c->server->metrics.sent += (size_t)sent;
            from += sent;
            piece -= (size_t)sent;
        }
    }
    return 0;
}

static int send_file(struct connection *c, int file, size_t n)
{
    off_t at = 0;
    while ((size_t)at < n) {
        duet_deadline by = in_seconds(c->server->options.send_timeout);
        size_t left = n - (size_t)at, end = (size_t)at + (left < PIECE ? left : PIECE);
        while ((size_t)at < end) {
            ssize_t sent = duet_sendfile(c->fd, file, &at, end - (size_t)at, by);
            if (sent <= 0)
                return sent < 0 ? (int)sent : -EIO; /* the file has become shorter */
            c->server->metrics.sent += (size_t)sent;
        }
    }
    return 0;
}

/* The client waits for a word before it sends the body. */
static int invite_body(struct reader *reader)
{
    static const char word[] = "HTTP/1.1 100 Continue\r\n\r\n";
    if (!reader->head_done || !reader->expects || reader->request->minor == 0)
        return 0;
    reader->expects = false;
    return write_all(reader->connection, word, sizeof word - 1);
}

/* 0: it is whole, or a status says why it is refused; <0: the connection has ended. */
static int read_request(struct connection *c, struct input *in, struct request *r)
{
    struct reader reader = {.connection = c, .request = r};
    duet_deadline by = in_seconds(c->server->options.request_timeout);
    llhttp_init(&reader.parser, HTTP_REQUEST, &SETTINGS);
    reader.parser.data = &reader;
    for (;;) {
        llhttp_errno_t error =
            llhttp_execute(&reader.parser, in->bytes + in->start, in->end - in->start);
        if (reader.refused)
            return reader.refused;
        if (reader.done) {
            in->start = (size_t)(llhttp_get_error_pos(&reader.parser) - in->bytes);
            return 0;
        }
        if (error != HPE_OK)
            return status_of(&reader.parser);
        int rc = invite_body(&reader);
        if (rc < 0)
            return rc;
        ssize_t n = read_more(c, in, by);
        if (n == -ETIME)
            return 408;
        if (n < 0)
            return (int)n;
        if (n == 0) /* half a request: perhaps it still reads */
            return 400;
    }
}

/* ---- Answering ---- */

const char *status_text(int status)
{
    switch (status) {
    case 200:
        return "OK";
    case 201:
        return "Created";
    case 204:
        return "No Content";
    case 400:
        return "Bad Request";
    case 404:
        return "Not Found";
    case 405:
        return "Method Not Allowed";
    case 408:
        return "Request Timeout";
    case 413:
        return "Content Too Large";
    case 414:
        return "URI Too Long";
    case 417:
        return "Expectation Failed";
    case 431:
        return "Request Header Fields Too Large";
    case 500:
        return "Internal Server Error";
    case 501:
        return "Not Implemented";
    case 503:
        return "Service Unavailable";
    case 505:
        return "HTTP Version Not Supported";
    case 507:
        return "Insufficient Storage";
    default:
        return "Unknown";
    }
}

/* The head of an answer; how long it is. Every text in it is our own, and short. */
static size_t format_head(char *to, size_t room, const struct request *r,
                          const struct response *response)
{
    char date[40], length[40] = "", type[80] = "", allow[60] = "";
    time_t now = time(NULL);
    struct tm tm;
    strftime(date, sizeof date, "%a, %d %b %Y %H:%M:%S GMT", gmtime_r(&now, &tm));
    if (response->status != 204)
        snprintf(length, sizeof length, "Content-Length: %zu\r\n", response->size);
    if (response->type)
        snprintf(type, sizeof type, "Content-Type: %s\r\n", response->type);
    if (response->allow)
        snprintf(allow, sizeof allow, "Allow: %s\r\n", response->allow);
    int n = snprintf(to, room, "HTTP/1.1 %d %s\r\nDate: %s\r\n%s%s%sConnection: %s\r\n\r\n",
                     response->status, status_text(response->status), date, type, length, allow,
                     r->keep_alive ? "keep-alive" : "close");
    return (size_t)n;
}

/* Head and body in one write, but for a file. */
static int send_response(struct connection *c, const struct request *r,
                         const struct response *response)
{
    enum {
        HEAD_MAX = 512
    };
    size_t body_size = r->method == HTTP_HEAD || response->file >= 0 ? 0 : response->size;
    char *all = malloc(HEAD_MAX + body_size);
    if (!all)
        return -ENOMEM;
    size_t n = format_head(all, HEAD_MAX, r, response);
    if (body_size > 0)
        memcpy(all + n, response->body, body_size);
    int rc = write_all(c, all, n + body_size);
    free(all);
    if (rc == 0 && response->file >= 0 && r->method != HTTP_HEAD)
        rc = send_file(c, response->file, response->size);
    return rc;
}

/* What a client has sent, for a line of the log: it must not look like a line of its own. */
static void sanitize(char *to, size_t room, const char *from)
{
    size_t n = 0;
    for (; *from && n < room - 1; from++)
        to[n++] = *from > ' ' && *from < 0x7f && *from != '"' && *from != '\\' ? *from : '?';
    to[n] = '\0';
}

static void note_in_log(struct connection *c, const struct request *r,
                        const struct response *response, double seconds, int rc)
{
    char *line, date[40], request[250] = "-", target[200];
    time_t now = time(NULL);
    struct tm tm;
    strftime(date, sizeof date, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &tm));
    sanitize(target, sizeof target, r->target);
    if (r->major > 0) /* else its head was not read */
        snprintf(request, sizeof request, "%s %s HTTP/%u.%u", llhttp_method_name(r->method), target,
                 r->major, r->minor);
    if (asprintf(&line, "%s client %llu \"%s\" %d %zu %.1f ms%s%s\n", date,
                 (unsigned long long)c->id, request, response->status, response->size,
                 1e3 * seconds, rc < 0 ? " not sent: " : "", rc < 0 ? duet_strerror(rc) : "") < 0)
        return;
    c->server->metrics.log_lines_lost += !log_line(c->server->log, line);
}

/* The client does not take its answer: what the kernel still holds of that goes with the connection. */
static void give_up(struct connection *c)
{
    const struct linger at_once = {.l_onoff = 1, .l_linger = 0};
    setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
}

/* The answer was the last. What the client still sends is read for a moment: to close a socket with
 * unread bytes resets the connection, which could take the answer from the client before it has read
 * it. */
static void linger(struct connection *c, struct input *in)
{
    duet_deadline by = duet_ms(LINGER_MS);
    shutdown(c->fd, SHUT_WR);
    while (read_more(c, in, by) > 0)
        ;
}

/* ---- A connection ---- */

/* False: there is none. Whoever stops the server, or needs room, ends this wait. It is a wait alone,
 * and no read: as long as a request is not read, one can see that it is there. */
static bool await_request(struct connection *c, struct input *in)
{
    struct server *server = c->server;
    if (in->start < in->end)
        return true;
    if (server->stopping)
        return false;
    TAILQ_INSERT_TAIL(&server->idle, c, idle_link);
    c->is_idle = true;
    int rc = duet_poll(c->fd, POLLIN, in_seconds(server->options.idle_timeout));
    if (c->is_idle) /* else somebody has ended it */
        TAILQ_REMOVE(&server->idle, c, idle_link);
    c->is_idle = false;
    return rc > 0 && read_more(c, in, in_seconds(server->options.request_timeout)) > 0;
}

static void answer(struct connection *c, struct request *r, int refused, struct response *response)
{
    *response = (struct response){.file = -1};
    if (refused) {
        r->keep_alive = false; /* where the next request begins is unknown */
        say_status(response, refused);
    } else {
        route(c, r, response);
    }
    if (c->server->stopping || c->server->crowded)
        r->keep_alive = false;
}

/* False: the connection has ended, or is to end. */
static bool serve_request(struct connection *c, struct input *in)
{
    struct request r;
    struct response response;
    int64_t start = duet_now_ns();
    memset(&r, 0, offsetof(struct request, target) + 1); /* not all of the target: it is large */
    memset(&r.target_size, 0, sizeof r - offsetof(struct request, target_size));
    int rc = read_request(c, in, &r);
    if (rc >= 0) {
        answer(c, &r, rc, &response);
        rc = send_response(c, &r, &response);
        double seconds = (double)(duet_now_ns() - start) / 1e9;
        metrics_count(&c->server->metrics, response.status, seconds);
        if (c->server->log)
            note_in_log(c, &r, &response, seconds, rc);
        file_release(c->server, &response);
        free(response.body);
        if (rc < 0)
            give_up(c);
        else if (!r.keep_alive)
            linger(c, in);
    }
    free(r.body);
    return rc == 0 && r.keep_alive;
}

duet_result http_serve(void *arg)
{
    struct connection *c = arg;
    struct input in;
    in.start = in.end = 0;
    while (await_request(c, &in) && serve_request(c, &in))
        ;
    return duet_ok();
}
