/* An HTTP/1.1 client of many connections at once, which measures a server.
 *
 * Each connection is a coroutine that sends, reads the answer, and sends again: so a slow server is
 * asked less, and the latencies are those of so many patient clients, not of a fixed load. They are
 * shared out among the loops; the main coroutine only conducts. A connection that the server closes
 * is replaced, and what it had not begun to answer there is asked anew (RFC 9112, 9.3 and 9.6), if
 * it may be. What fails otherwise is not: all that waits on that connection counts as errors.
 *
 * It ends by its duration, after so many requests, or by the first SIGINT: nothing more is asked,
 * and what was asked is waited for, until its timeout. Progress goes to standard error, one JSON
 * object to standard output; the exit status is 0 if all requests were answered, whatever the
 * answer. */
#include "say.h"

#include <argp.h>
#include <errno.h>
#include <json-c/json.h>
#include <llhttp.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

enum {
    DIALS_MAX = 256, /* at once, in all: more would only fill the server's backlog */
    OPENERS = 64, /* of idle connections, in each loop */
    AFTER_REFUSAL_MS = 50, /* how long one waits then */
    READ_SIZE = 8192,
    UNSENT_MAX = 32 << 10, /* less than a stream accepts without waiting */
    LOOPS_MAX = 64,
    FINENESS = 7, /* bits: of each power of two there are 128 buckets */
    BUCKETS = (64 - FINENESS) << FINENESS
};

/* clang-format off */
enum count {
    REQUESTS, OK, FAILED, CONNECT, TIMEOUT, RESET, PROTOCOL, BYTES, CONNECTIONS, RECONNECTS, IDLE,
    COUNTS
};
static const char *const COUNT_NAMES[COUNTS] = {
    "requests", "responses_ok", "responses_failed", "errors_connect", "errors_timeout",
    "errors_reset", "errors_protocol", "bytes", "connections", "reconnects", "idle"
};
/* clang-format on */

/* A loop, and what happened there. */
struct lane {
    struct fetch *fetch;
    duet_loop *loop;
    atomic_ullong counts[COUNTS]; /* atomic: the conductor looks at them meanwhile */
    uint64_t latencies[BUCKETS], latency_max; /* ns; these it reads when the loop has ended */
    duet_stream **idle; /* a stream belongs to its loop */
    unsigned idle_asked, idle_open;
};

struct fetch {
    char *host, *port, *authority, *path; /* lives as long as the process, as do the others */
    const char *method, *body, *unix_path;
    double duration, timeout; /* seconds; 0: no limit by time */
    unsigned connections, depth, idle, loops;
    uint64_t limit; /* of requests; 0: none */
    bool quiet, repeatable; /* the request may be, if nobody knows whether it was heard */

    char *request;
    size_t request_size;
    struct lane *lanes;
    duet_sem dialling;
    atomic_ullong left; /* of limit */
    atomic_bool stop;
    int64_t begin_ns, end_ns; /* of the measuring; the end is where nothing more is asked */
    double elapsed; /* until all was answered; 0: goes on */
    const char *stopped; /* by what */
    atomic_flag told; /* why, of the first error */
    char why[100];
};

/* A connection, and its successors. */
struct client {
    struct lane *lane;
    duet_stream *stream;
    llhttp_t parser;
    bool answered, in_answer,
        ending; /* ever, here; in one now; the server has said that it closes */
    unsigned first, waiting; /* requests that wait for their answers: a ring of … */
    int64_t sent_ns[]; /* … when they were sent */
};

/* ---- Counting ---- */

static void count(struct lane *lane, enum count what, uint64_t n)
{
    lane->counts[what] += n;
}

/* Of all lanes, from one count to another. */
static uint64_t total(const struct fetch *f, enum count from, enum count to)
{
    uint64_t n = 0;
    for (unsigned i = 0; i < f->loops; i++)
        for (enum count what = from; what <= to; what++)
            n += f->lanes[i].counts[what];
    return n;
}

static void fail(struct lane *lane, enum count kind, uint64_t n, const char *why)
{
    struct fetch *f = lane->fetch;
    count(lane, kind, n);
    if (!atomic_flag_test_and_set(&f->told))
        snprintf(f->why, sizeof f->why, "%s: %s", COUNT_NAMES[kind] + strlen("errors_"), why);
}

/* Latencies go into buckets that are all of the same width within a power of two, so every value is
 * known to 1/128: after HdrHistogram by Gil Tene, http://hdrhistogram.org. */
static unsigned bucket_of(uint64_t ns)
{
    unsigned bits = 64 - (unsigned)__builtin_clzll(ns | 1);
    unsigned shift = bits > FINENESS + 1 ? bits - FINENESS - 1 : 0;
    return (shift << FINENESS) + (unsigned)(ns >> shift);
}

/* The greatest value that is in that bucket. */
static uint64_t bucket_end(unsigned bucket)
{
    unsigned shift = bucket >> FINENESS > 1 ? (bucket >> FINENESS) - 1 : 0;
    return ((bucket - (shift << FINENESS) + UINT64_C(1)) << shift) - 1;
}

static void record(struct lane *lane, uint64_t ns)
{
    lane->latencies[bucket_of(ns)]++;
    if (ns > lane->latency_max)
        lane->latency_max = ns;
}

/* The least latency that so many of a thousand did not exceed: of lane 0, to which the others have
 * been added. */
static double percentile_us(const struct lane *lane, uint64_t answers, unsigned per_mille)
{
    uint64_t rank = (answers * per_mille + 999) / 1000, below = 0;
    unsigned i = 0;
    while (i < BUCKETS && (below += lane->latencies[i]) < rank)
        i++;
    uint64_t ns = i < BUCKETS ? bucket_end(i) : lane->latency_max;
    return (double)(ns < lane->latency_max ? ns : lane->latency_max) / 1e3;
}

/* ---- Requests ---- */

/* Is there one more to make? Then it is the caller's. */
static bool claim(struct lane *lane)
{
    struct fetch *f = lane->fetch;
    if (f->stop || duet_now_ns() >= f->end_ns)
        return false;
    unsigned long long left = f->left;
    while (left > 0 && !atomic_compare_exchange_weak(&f->left, &left, left - 1))
        ;
    count(lane, REQUESTS, left > 0);
    return left > 0;
}

/* Those that wait here are to be made anew. Whoever gives back asks again, so none is forgotten. */
static void give_back(struct client *c)
{
    c->lane->fetch->left += c->waiting;
    c->lane->counts[REQUESTS] -= c->waiting;
}

static duet_deadline timeout_from(const struct fetch *f, int64_t sent_ns)
{
    return (duet_deadline){sent_ns + (int64_t)(1e9 * f->timeout)};
}

/* Without waiting, unless nothing is to be read: a server may read only as far as it is read. */
static bool may_send(const struct client *c)
{
    return c->waiting == 0 ||
           (c->waiting < c->lane->fetch->depth && duet_stream_unsent(c->stream) <= UNSENT_MAX);
}

static void send_request(struct client *c)
{
    const struct fetch *f = c->lane->fetch;
    int64_t now = duet_now_ns();
    c->sent_ns[(c->first + c->waiting++) % f->depth] = now;
    /* If that fails, reading tells why, and may find an answer before. */
    (void)duet_stream_write(c->stream, f->request, f->request_size, timeout_from(f, now));
}

static int dial(struct fetch *f, duet_stream **ret)
{
    int rc = duet_sem_wait(&f->dialling, DUET_NEVER);
    if (rc < 0)
        return rc;
    rc = duet_dial(ret, f->host, f->port, timeout_from(f, duet_now_ns()));
    duet_sem_post(&f->dialling);
    return rc;
}

/* ---- Answers, as the parser finds them ---- */

static int on_begin(llhttp_t *parser)
{
    struct client *c = parser->data;
    c->in_answer = c->waiting > 0;
    return c->in_answer ? 0 : -1; /* nobody has asked */
}

/* 1: no body comes, whatever the fields say (RFC 9112, 6.3). */
static int on_head(llhttp_t *parser)
{
    const struct client *c = parser->data;
    int status = llhttp_get_status_code(parser);
    return status < 200 || status == 204 || status == 304 ||
           strcmp(c->lane->fetch->method, "HEAD") == 0;
}

static int on_complete(llhttp_t *parser)
{
    struct client *c = parser->data;
    int status = llhttp_get_status_code(parser);
    c->in_answer = false;
    if (status < 200)
        return 0; /* the answer is still to come */
    record(c->lane, (uint64_t)(duet_now_ns() - c->sent_ns[c->first]));
    count(c->lane, status < 400 ? OK : FAILED, 1);
    c->first = (c->first + 1) % c->lane->fetch->depth;
    c->waiting--;
    c->answered = true;
    c->ending = !llhttp_should_keep_alive(parser);
    return c->ending ? HPE_PAUSED : 0;
}

/* ---- Coroutines on the lanes ---- */

/* n is what reading has returned. False: this connection is over, and all is said of it. */
static bool take(struct client *c, const char *data, ssize_t n)
{
    llhttp_errno_t parsed = HPE_OK;
    count(c->lane, BYTES, n > 0 ? (uint64_t)n : 0);
    if (n >= 0) /* the end of the connection may be that of an answer */
        parsed = n > 0 ? llhttp_execute(&c->parser, data, (size_t)n) : llhttp_finish(&c->parser);
    bool closed = n == 0 || n == -ECONNRESET || n == -EPIPE;
    if (c->ending || (closed && c->answered && !c->in_answer && c->lane->fetch->repeatable))
        give_back(c);
    else if (n > 0 && parsed != HPE_OK)
        fail(c->lane, PROTOCOL, c->waiting ? c->waiting : 1, llhttp_errno_name(parsed));
    else if (n == 0)
        fail(c->lane, RESET, c->waiting, "the server has closed the connection");
    else if (n < 0)
        fail(c->lane, n == -ETIME || n == -ETIMEDOUT ? TIMEOUT : RESET, c->waiting,
             duet_strerror((int)n));
    else
        return true;
    return false;
}

/* One connection, from its first request, which is claimed already, to its end. */
static void converse(struct client *c)
{
    char data[READ_SIZE];
    ssize_t n;
    send_request(c);
    do {
        while (may_send(c) && claim(c->lane))
            send_request(c);
        if (c->waiting == 0)
            return;
        n = duet_stream_read(c->stream, data, sizeof data,
                             timeout_from(c->lane->fetch, c->sent_ns[c->first]));
    } while (take(c, data, n));
}

static duet_result client(void *arg)
{
    struct lane *lane = arg;
    struct client *c = calloc(1, sizeof *c + lane->fetch->depth * sizeof *c->sent_ns);
    llhttp_settings_t settings;
    need(c ? 0 : -ENOMEM, "client");
    llhttp_settings_init(&settings);
    settings.on_message_begin = on_begin;
    settings.on_headers_complete = on_head;
    settings.on_message_complete = on_complete;
    for (bool again = false; claim(lane);) {
        *c = (struct client){.lane = lane};
        int rc = dial(lane->fetch, &c->stream);
        if (rc < 0) {
            fail(lane, CONNECT, 1, duet_strerror(rc));
            duet_sleep(duet_ms(AFTER_REFUSAL_MS));
            continue;
        }
        count(lane, CONNECTIONS, 1);
        count(lane, RECONNECTS, again);
        again = true;
        llhttp_init(&c->parser, HTTP_RESPONSE, &settings);
        c->parser.data = c;
        converse(c);
        duet_stream_close(c->stream, DUET_NOW);
    }
    free(c);
    return duet_ok();
}

/* Opens idle connections. No coroutine stays with them: nothing is left but the stream. */
static duet_result opener(void *arg)
{
    struct lane *lane = arg;
    while (lane->idle_asked > 0 && !lane->fetch->stop) {
        duet_stream *stream;
        lane->idle_asked--;
        int rc = dial(lane->fetch, &stream);
        if (rc < 0) {
            fail(lane, CONNECT, 1, duet_strerror(rc));
            continue;
        }
        lane->idle[lane->idle_open++] = stream;
        count(lane, IDLE, 1);
    }
    return duet_ok();
}

/* Counts those that the server has kept, for from them there is nothing to read, and closes all. */
static duet_result closer(void *arg)
{
    struct lane *lane = arg;
    for (unsigned i = 0; i < lane->idle_open; i++) {
        char byte;
        if (duet_stream_read(lane->idle[i], &byte, 1, DUET_NOW) != -ETIME)
            lane->counts[IDLE]--;
        duet_stream_close(lane->idle[i], DUET_NOW);
    }
    return duet_ok();
}

/* ---- The whole ---- */

/* On a terminal the line is rewritten in its place. */
static void report(const struct fetch *f, bool terminal, bool last)
{
    unsigned long long answered = total(f, OK, FAILED), errors = total(f, CONNECT, PROTOCOL);
    double seconds = f->elapsed;
    if (seconds <= 0 && f->begin_ns > 0)
        seconds = (double)(duet_now_ns() - f->begin_ns) / 1e9;
    if (!f->quiet)
        fprintf(stderr,
                "%s%6.1f s  answered %llu, errors %llu, connections %llu, idle %llu, %.0f/s%s",
                terminal ? "\r\033[K" : "", seconds, answered, errors,
                (unsigned long long)total(f, CONNECTIONS, CONNECTIONS),
                (unsigned long long)total(f, IDLE, IDLE),
                seconds > 0 ? (double)answered / seconds : 0, terminal && !last ? "" : "\n");
}

/* Shares so many coroutines out among the lanes, and waits for their end. The first SIGINT cancels
 * the main coroutine, which is in here: then those end soon by themselves. */
static void run(struct fetch *f, const char *name, duet_fn *fn, unsigned n)
{
    const duet_opts opts = {.name = name};
    bool terminal = isatty(STDERR_FILENO);
    duet_group group = DUET_GROUP_INIT;
    int rc = 0;
    for (unsigned i = 0; i < n && rc == 0; i++)
        rc = duet_group_spawn(&group, f->lanes[i % f->loops].loop, fn, &f->lanes[i % f->loops],
                              &opts);
    need(rc == -ECANCELED ? 0 : rc, name); /* SIGINT may come while there is no room */
    while ((rc = duet_group_wait(&group, duet_ms(terminal ? 100 : 1000), NULL)) == -ETIME)
        report(f, terminal, false);
    if (rc == -ECANCELED) {
        f->stop = true;
        duet_shield_begin();
        rc = duet_group_wait(&group, DUET_NEVER, NULL);
        duet_shield_end();
    }
    need(rc, name);
    duet_group_close(&group);
}

static duet_result conduct(void *arg)
{
    struct fetch *f = arg;
    unsigned openers = f->idle < OPENERS * f->loops ? f->idle : OPENERS * f->loops;
    for (unsigned i = 0; i < f->loops; i++)
        need(duet_loop_start(&f->lanes[i].loop, NULL), "duet_loop_start");
    run(f, "opener", opener, openers);

    f->begin_ns = duet_now_ns();
    f->end_ns = f->duration > 0 ? duet_ns((int64_t)(1e9 * f->duration)).ns : INT64_MAX;
    run(f, "client", client, f->connections);
    f->elapsed = (double)(duet_now_ns() - f->begin_ns) / 1e9;
    f->stopped = f->stop ? "signal" : f->limit && f->left == 0 ? "requests" : "duration";
    duet_shield_begin();
    run(f, "closer", closer, f->loops);
    duet_shield_end();
    report(f, isatty(STDERR_FILENO), true);
    for (unsigned i = 0; i < f->loops; i++)
        need(duet_loop_close(f->lanes[i].loop, DUET_NEVER), "duet_loop_close");
    return duet_ok();
}

/* ---- Options and the answer ---- */

static const char ABOUT[] = "Asks an HTTP/1.1 server over many connections at once, and measures.";
static const struct argp_option OPTIONS[] = {
    {"connections", 'c', "N", 0, "How many at once (64)", 0},
    {"requests", 'n', "N", 0, "Stop after so many in all", 0},
    {"duration", 'd', "SECONDS", 0, "Stop after so long (5; with --requests: no limit)", 0},
    {"pipeline", 'p', "N", 0, "Requests under way on each connection (1)", 0},
    {"method", 'm', "METHOD", 0, "GET, or POST with a body", 0},
    {"body", 'b', "TEXT", 0, "Of each request (none)", 0},
    {"idle", 'i', "N", 0, "Further connections, opened before, on which nothing is asked (0)", 0},
    {"timeout", 't', "SECONDS", 0, "For each answer, and for each connection (5)", 0},
    {"unix", 'u', "PATH", 0, "Connect to this socket instead of the URL's host", 0},
    {"loops", 'l', "N", 0, "Share the connections out among so many loops (1)", 0},
    {"quiet", 'q', NULL, 0, "No progress on standard error", 0},
    {0}};

static double number(const char *text, bool whole, double low, double high,
                     struct argp_state *state)
{
    char *end;
    double n = strtod(text, &end);
    if (end == text || *end || !(n >= low && n <= high) || (whole && n != (double)(int64_t)n))
        argp_error(state, "'%s' is not a %snumber from %g to %g", text, whole ? "whole " : "", low,
                   high);
    return n;
}

/* http://host, http://host:port, http://[address]:port, each with a path, a query, or neither. */
static void parse_url(struct fetch *f, const char *url, struct argp_state *state)
{
    if (strncmp(url, "http://", 7) != 0)
        argp_error(state, "'%s' does not begin with http://", url);
    for (const char *c = url; *c; c++)
        if (*c <= ' ' || *c > '~')
            argp_error(state, "'%s' has a character that must be escaped", url);
    const char *path = url + 7 + strcspn(url + 7, "/?#");
    f->authority = strndup(url + 7, (size_t)(path - url - 7));
    f->host = strdup(f->authority);
    f->port = strrchr(f->host, ':');
    if (f->port && !strchr(f->port, ']')) {
        *f->port++ = 0;
        number(f->port, true, 1, 65535, state);
    } else {
        f->port = "80";
    }
    if (f->host[0] == '[') {
        f->host[strcspn(f->host, "]")] = 0;
        f->host++;
    }
    if (!*f->host)
        argp_error(state, "'%s' has no host", url);
    need(asprintf(&f->path, "%s%.*s", *path == '/' ? "" : "/", (int)strcspn(path, "#"), path),
         "URL");
}

/* What follows from the options taken together. */
static void complete(struct fetch *f, struct argp_state *state)
{
    if (!f->method)
        f->method = f->body ? "POST" : "GET";
    if (!*f->method || f->method[strspn(f->method, "ABCDEFGHIJKLMNOPQRSTUVWXYZ")] ||
        strcmp(f->method, "CONNECT") == 0)
        argp_error(state, "'%s' is not a method that can be measured", f->method);
    f->repeatable = strcmp(f->method, "POST") != 0 && strcmp(f->method, "PATCH") != 0;
    if (f->unix_path)
        need(asprintf(&f->host, "unix:%s", f->unix_path), "--unix");
    if (f->duration == 0 && f->limit == 0)
        f->duration = 5;
    f->left = f->limit ? f->limit : UINT64_MAX;
    char size[40] = "";
    if (f->body)
        snprintf(size, sizeof size, "Content-Length: %zu\r\n", strlen(f->body));
    int n =
        asprintf(&f->request, "%s %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: duet-fetch\r\n%s\r\n%s",
                 f->method, f->path, f->authority, size, f->body ? f->body : "");
    need(n, "request");
    f->request_size = (size_t)n;
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct fetch *f = state->input;
    if (key == 'c')
        f->connections = (unsigned)number(arg, true, 1, 1e6, state);
    else if (key == 'n')
        f->limit = (uint64_t)number(arg, true, 1, 1e15, state);
    else if (key == 'd')
        f->duration = number(arg, false, 1e-3, 1e9, state);
    else if (key == 'p')
        f->depth = (unsigned)number(arg, true, 1, 10000, state);
    else if (key == 'i')
        f->idle = (unsigned)number(arg, true, 0, 1e6, state);
    else if (key == 't')
        f->timeout = number(arg, false, 1e-3, 1e9, state);
    else if (key == 'l')
        f->loops = (unsigned)number(arg, true, 1, LOOPS_MAX, state);
    else if (key == 'm')
        f->method = arg;
    else if (key == 'b')
        f->body = arg;
    else if (key == 'q')
        f->quiet = true;
    else if (key == ARGP_KEY_ARG && state->arg_num == 0)
        parse_url(f, arg, state);
    else if (key == 'u')
        f->unix_path = arg;
    else if (key == ARGP_KEY_NO_ARGS)
        argp_error(state, "no URL");
    else if (key == ARGP_KEY_END)
        complete(f, state);
    else
        return ARGP_ERR_UNKNOWN; /* a second URL, too: argp says so */
    return 0;
}

static void add_number(struct json_object *to, const char *name, double value)
{
    json_object_object_add(to, name, json_object_new_double(value));
}

/* The JSON, and the exit status. */
static int answer(struct fetch *f)
{
    struct lane *all = &f->lanes[0];
    uint64_t answered = total(f, OK, FAILED), errors = total(f, CONNECT, PROTOCOL);
    for (unsigned i = 1; i < f->loops; i++) {
        for (unsigned j = 0; j < BUCKETS; j++)
            all->latencies[j] += f->lanes[i].latencies[j];
        if (f->lanes[i].latency_max > all->latency_max)
            all->latency_max = f->lanes[i].latency_max;
    }
    struct json_object *json = json_object_new_object();
    json_c_set_serialization_double_format("%.3f", JSON_C_OPTION_GLOBAL);
    for (enum count i = 0; i < COUNTS; i++)
        json_object_object_add(json, COUNT_NAMES[i], json_object_new_uint64(total(f, i, i)));
    add_number(json, "elapsed", f->elapsed);
    add_number(json, "rate", f->elapsed > 0 ? (double)answered / f->elapsed : 0);
    add_number(json, "latency_p50_us", percentile_us(all, answered, 500));
    add_number(json, "latency_p90_us", percentile_us(all, answered, 900));
    add_number(json, "latency_p99_us", percentile_us(all, answered, 990));
    add_number(json, "latency_p999_us", percentile_us(all, answered, 999));
    add_number(json, "latency_max_us", (double)all->latency_max / 1e3);
    json_object_object_add(json, "stopped", json_object_new_string(f->stopped));
    bool said = puts(json_object_to_json_string_ext(json, JSON_C_TO_STRING_SPACED)) >= 0 &&
                fflush(stdout) == 0;
    json_object_put(json);
    if (*f->why)
        fprintf(stderr, "fetch: the first error was %s\n", f->why);
    return !(said && errors == 0 && answered > 0 && (answered == f->limit || f->limit == 0));
}

int main(int argc, char **argv)
{
    const struct argp argp = {.options = OPTIONS, .parser = parse, .args_doc = "URL", .doc = ABOUT};
    const duet_opts opts = {.name = "main", .flags = DUET_SIGINT};
    static struct fetch f = {
        .connections = 64, .depth = 1, .loops = 1, .timeout = 5, .told = ATOMIC_FLAG_INIT};
    struct rlimit files;
    say_begin();
    f.stopped = "signal"; /* if that comes before conduct() has begun, it never does */
    argp_err_exit_status = 2;
    argp_parse(&argp, argc, argv, 0, NULL, &f);
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }

    f.lanes = calloc(f.loops, sizeof *f.lanes);
    need(f.lanes ? 0 : -ENOMEM, "memory");
    for (unsigned i = 0; i < f.loops; i++) {
        struct lane *lane = &f.lanes[i];
        lane->fetch = &f;
        lane->idle_asked = f.idle / f.loops + (i < f.idle % f.loops);
        lane->idle = calloc(lane->idle_asked + 1, sizeof *lane->idle);
        need(lane->idle ? 0 : -ENOMEM, "memory");
    }
    duet_sem_init(&f.dialling, DIALS_MAX);
    need(duet_run_with(conduct, &f, &opts, NULL), "duet_run");
    return answer(&f);
}
