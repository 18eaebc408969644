/* What is served where. */
#include "http.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    JSON_DEPTH = 32 /* json-c recurses, and a coroutine's stack is small */
};

static const char JSON[] = "application/json";
static const char OPENMETRICS[] = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/* ---- Answers ---- */

void say_text(struct response *response, int status, const char *type, char *text)
{
    response->status = text ? status : 500;
    response->type = text ? type : NULL;
    response->body = text;
    response->size = text ? strlen(text) : 0;
}

char *json_text(struct json_object *json)
{
    const char *text = json_object_to_json_string_ext(json, JSON_C_TO_STRING_SPACED |
                                                                JSON_C_TO_STRING_NOSLASHESCAPE);
    char *copy = text ? strdup(text) : NULL;
    json_object_put(json);
    return copy;
}

void say_status(struct response *response, int status)
{
    struct json_object *json = json_object_new_object();
    json_object_object_add(json, "error", json_object_new_string(status_text(status)));
    say_text(response, status, JSON, json_text(json));
}

/* ---- Routes ---- */

struct call {
    struct connection *connection;
    struct request *request;
    const char *rest; /* of the path, behind the route's */
    const char *query; /* behind the question mark; or "" */
    struct response *response;
};

/* The answer of the original. */
static void get_root(struct call *call)
{
    const struct request *r = call->request;
    struct json_object *json = json_object_new_object();
    struct timespec now;
    struct tm tm;
    char date[40], timestamp[60], line[URI_MAX + 40], message[60];
    unsigned long long id = call->connection->id;
    clock_gettime(CLOCK_REALTIME, &now);
    strftime(date, sizeof date, "%Y-%m-%dT%H:%M:%S", gmtime_r(&now.tv_sec, &tm));
    snprintf(timestamp, sizeof timestamp, "%s.%03dZ", date, (int)(now.tv_nsec / 1000000));
    snprintf(line, sizeof line, "%s %s HTTP/%u.%u", llhttp_method_name(r->method), r->target,
             r->major, r->minor);
    snprintf(message, sizeof message, "Hello, client %llu", id);
    json_object_object_add(json, "timestamp", json_object_new_string(timestamp));
    json_object_object_add(json, "client_id", json_object_new_uint64(id));
    json_object_object_add(json, "message", json_object_new_string(message));
    json_object_object_add(json, "request", json_object_new_string(line));
    say_text(call->response, 200, JSON, json_text(json));
}

static void get_metrics(struct call *call)
{
    const struct server *server = call->connection->server;
    say_text(call->response, 200, OPENMETRICS, metrics_text(&server->metrics, server->count));
}

static void get_file(struct call *call)
{
    file_get(call->connection->server, call->rest, call->response);
}

/* ---- Notes ---- */

static void say_notes(struct call *call, int rc, int status, struct note_query *query)
{
    if (rc == 0 && status == 204)
        call->response->status = status;
    else if (rc == 0)
        say_text(call->response, status, JSON, query->json);
    else
        say_status(call->response, rc == -ENOENT                      ? 404
                                   : rc == -ENOSPC                    ? 507
                                   : rc == -EBUSY || rc == -ECANCELED ? 503
                                                                      : 500);
}

/* A whole decimal number, of a note; -1: it is none. */
static int64_t note_id(const char *text)
{
    char *end;
    errno = 0;
    long long id = strtoll(text, &end, 10);
    return *text >= '0' && *text <= '9' && *end == '\0' && errno == 0 ? id : -1;
}

static void list_notes(struct call *call)
{
    struct note_query query = {.notes = call->connection->server->notes};
    if (strncmp(call->query, "after=", 6) == 0)
        query.id = note_id(call->query + 6);
    if (query.id < 0)
        say_status(call->response, 400);
    else
        say_notes(call, notes_list(&query), 200, &query);
}

/* The JSON of the body; NULL: it is none. */
static struct json_object *parse_body(const struct request *r)
{
    struct json_tokener *tokener = json_tokener_new_ex(JSON_DEPTH);
    struct json_object *json = NULL;
    if (!tokener)
        return NULL;
    json_tokener_set_flags(tokener, JSON_TOKENER_STRICT | JSON_TOKENER_VALIDATE_UTF8);
    /* A zero would be the end of the text for json-c. */
    if (r->body_size > 0 && !memchr(r->body, '\0', r->body_size)) {
        json = json_tokener_parse_ex(tokener, r->body, (int)r->body_size);
        if (json_tokener_get_error(tokener) != json_tokener_success) {
            json_object_put(json);
            json = NULL;
        }
    }
    json_tokener_free(tokener);
    return json;
}

static void add_note(struct call *call)
{
    struct json_object *json = parse_body(call->request), *text = NULL;
    struct note_query query = {.notes = call->connection->server->notes};
    if (json_object_is_type(json, json_type_object))
        json_object_object_get_ex(json, "text", &text);
    if (json_object_is_type(text, json_type_string)) {
        query.text = json_object_get_string(text);
        query.size = (size_t)json_object_get_string_len(text);
    }
    if (!query.text)
        say_status(call->response, 400);
    else if (query.size > NOTE_SIZE_MAX)
        say_status(call->response, 413);
    else
        say_notes(call, notes_add(&query), 201, &query);
    json_object_put(json);
}

static void get_note(struct call *call)
{
    struct note_query query = {.notes = call->connection->server->notes, .id = note_id(call->rest)};
    say_notes(call, query.id < 0 ? -ENOENT : notes_get(&query), 200, &query);
}

static void delete_note(struct call *call)
{
    struct note_query query = {.notes = call->connection->server->notes, .id = note_id(call->rest)};
    say_notes(call, query.id < 0 ? -ENOENT : notes_delete(&query), 204, &query);
}

/* ---- Which route it is ---- */

typedef void handler(struct call *call);

static const struct {
    const char *path; /* one that ends in a slash stands for all below */
    const char *allow;
    handler *get, *post, *del;
} ROUTES[] = {
    {"/", "GET, HEAD", get_root, NULL, NULL},
    {"/metrics", "GET, HEAD", get_metrics, NULL, NULL},
    {"/notes", "GET, HEAD, POST", list_notes, add_note, NULL},
    {"/notes/", "GET, HEAD, DELETE", get_note, NULL, delete_note},
    {"/files/", "GET, HEAD", get_file, NULL, NULL},
};

static bool leads_to(const char *route, const char *path)
{
    size_t n = strlen(route);
    if (n > 1 && route[n - 1] == '/')
        return strncmp(route, path, n) == 0;
    return strcmp(route, path) == 0;
}

static handler *handler_of(size_t i, llhttp_method_t method)
{
    switch (method) {
    case HTTP_GET:
    case HTTP_HEAD:
        return ROUTES[i].get;
    case HTTP_POST:
        return ROUTES[i].post;
    case HTTP_DELETE:
        return ROUTES[i].del;
    default:
        return NULL;
    }
}

/* A request to a proxy names the host, too; and a server has to understand it. */
static const char *path_in(const char *target)
{
    if (strncmp(target, "http://", 7) != 0)
        return target;
    const char *path = strchr(target + 7, '/');
    return path ? path : "/";
}

void route(struct connection *c, struct request *r, struct response *response)
{
    char path[URI_MAX + 1];
    strcpy(path, path_in(r->target));
    char *query = path + strcspn(path, "?#");
    struct call call = {c, r, NULL, *query ? query + 1 : "", response};
    *query = '\0';
    for (size_t i = 0; i < sizeof ROUTES / sizeof *ROUTES; i++)
        if (leads_to(ROUTES[i].path, path)) {
            handler *handle = handler_of(i, r->method);
            call.rest = path + strlen(ROUTES[i].path);
            if (handle) {
                handle(&call);
            } else {
                say_status(response, 405);
                response->allow = ROUTES[i].allow;
            }
            return;
        }
    say_status(response, 404);
}
