/* What the parts of the HTTP server know of each other. All but the jobs of notes.c, files.c and log.c
 * runs on the one loop's thread, so nothing here needs a lock. */
#pragma once
#include <duet/duet.h>

#include <json-c/json.h>
#include <llhttp.h>
#include <sys/queue.h>

/* ---- Limits that are no options ---- */

enum {
    URI_MAX = 4096,
    FIELDS_MAX = 100, /* header fields, and trailers */
    FIELDS_SIZE_MAX = 16384, /* bytes of these, and of chunk extensions */
    INPUT_SIZE = 4096, /* read at once */
    PIECE = 131072, /* of an answer: must be taken within --send-timeout */
    LINGER_MS = 1000, /* how long a connection reads on after its last answer */
    DOWNLOADS_MAX = 256, /* at once: each needs three descriptors */
    NOTES_MAX = 10000,
    NOTE_SIZE_MAX = 4096,
    NOTES_PAGE = 100 /* notes in one list */
};

struct options {
    const char *host, *port, *root, *database;
    double request_timeout, idle_timeout, send_timeout, grace; /* seconds */
    unsigned connections;
    size_t body; /* bytes */
    bool quiet;
};

static inline duet_deadline in_seconds(double seconds)
{
    return duet_ns((int64_t)(1e9 * seconds));
}

/* ---- metrics.c ---- */

enum {
    BUCKETS = 10 /* the last one is without a limit */
};

struct metrics {
    uint64_t by_status[600];
    uint64_t accepted, received, sent, log_lines_lost;
    uint64_t durations[BUCKETS], duration_count;
    double duration_sum;
};

void metrics_count(struct metrics *metrics, int status, double seconds);
/* The OpenMetrics text, to be freed; NULL: no memory. */
char *metrics_text(const struct metrics *metrics, unsigned connections);

/* ---- notes.c: every call is a job on a pool of its own ---- */

struct notes;
int notes_open(struct notes **ret, const char *file); /* by the main thread */
void notes_close(struct notes *notes);

/* In: the id, or the text. Out: JSON, to be freed. */
struct note_query {
    struct notes *notes;
    int64_t id;
    const char *text;
    size_t size;
    char *json;
};
/* 0; -ENOENT: there is none; -ENOSPC: there are NOTES_MAX; -EBUSY: somebody else has locked the
 * file; or another negative errno. */
int notes_list(struct note_query *query); /* at most NOTES_PAGE, with greater ids than this */
int notes_get(struct note_query *query);
int notes_add(struct note_query *query);
int notes_delete(struct note_query *query);

/* ---- log.c: a job writes the access log, for standard error may block ---- */

struct log;
int log_open(struct log **ret);
/* False: it was lost, for the log is behind. Takes the line. */
bool log_line(struct log *log, char *line);
void log_close(struct log *log); /* writes what there is, but does not wait for ever */

/* ---- The server ---- */

struct server {
    struct options options;
    struct metrics metrics;
    struct notes *notes;
    struct log *log; /* NULL: --quiet */
    int root; /* the directory of --root; -1 */
    duet_sem downloads;
    duet_group connections;
    unsigned count; /* of connections */
    uint64_t clients; /* that ever came */
    duet_event room; /* a connection has ended */
    TAILQ_HEAD(, connection) idle; /* those between two requests; the longest idle first */
    bool stopping, crowded; /* no connection is kept alive */
};

/* ---- http.c: the protocol ---- */

/* Owned by the coroutine that serves it. */
struct connection {
    struct server *server;
    int fd;
    uint64_t id;
    TAILQ_ENTRY(connection) idle_link;
    bool is_idle;
};

struct request {
    llhttp_method_t method;
    char target[URI_MAX + 1]; /* as it was sent */
    size_t target_size;
    unsigned major, minor; /* the version */
    char *body;
    size_t body_size;
    bool keep_alive;
};

/* Zero and file = -1 is an empty one. */
struct response {
    int status;
    const char *type; /* of the body */
    const char *allow; /* of a 405 */
    char *body; /* owned; NULL: a file, or none */
    size_t size; /* of body or file */
    int file; /* owned; or -1 */
};

/* The coroutine of a connection; arg is its struct connection. */
duet_result http_serve(void *arg);

/* ---- routes.c and files.c ---- */

void route(struct connection *c, struct request *r, struct response *response);
void file_get(struct server *server, const char *path, struct response *response);
void file_release(struct server *server, struct response *response);
/* An answer without more to say than its status. */
void say_status(struct response *response, int status);
/* Takes the text; NULL is a 500. */
void say_text(struct response *response, int status, const char *type, char *text);
/* The JSON text of an object, to be freed. Takes the object; NULL: no memory. */
char *json_text(struct json_object *json);
const char *status_text(int status);
