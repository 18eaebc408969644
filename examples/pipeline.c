/* A data pipeline that loses nothing, however it is stopped.
 *
 *     producers -> channel of 100 -> processors -> channel of 100 -> consumers
 *
 * It ends by its duration, after so many items, with its input, or by SIGINT or SIGTERM, and always
 * in the same order: the producers stop, the first channel is shut, the processors take what is left
 * in it, the second channel is shut, the consumers take what is left in that. "Empty" is no end, for
 * more may come; "shut and empty" is one.
 *
 *   pipeline [OPTION…]             items are made up
 *   pipeline [OPTION…] FILE or -   items are the lines of a file, or of standard input
 *
 * Live statistics go to standard error, one JSON object goes to standard output; the exit status is 0
 * if all that was produced was also processed and consumed. A second SIGINT ends it at once. */
#include "say.h"

#include <argp.h>
#include <ctype.h>
#include <errno.h>
#include <json-c/json.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
    CAPACITY = 100, /* of each channel */
    PRODUCE_MS = 40, /* mean delays at --speed 1 */
    PROCESS_MS = 60,
    CONSUME_MS = 30,
    PATIENCE_MS = 50, /* how long a stage waits for a channel before it looks up */
    WORKERS_MAX = 1000
};

/* Travels by value; who holds it owns the text. */
struct item {
    char *text; /* a line with its line feed, if it had one; may hold zeroes */
    size_t size;
    uint64_t words, checksum; /* by the processors */
};

struct stage {
    duet_group workers;
    atomic_ullong items, timeouts; /* atomic: processors may be jobs, and the reporter is one */
};

struct pipeline {
    double duration, speed;
    unsigned producers, processors, consumers, seed;
    uint64_t limit; /* --items */
    bool on_pool, quiet;
    FILE *input; /* NULL: items are made up */

    struct stage produce, process, consume;
    duet_chan *raw, *ready;
    duet_pool *pool;
    duet_mutex reading; /* one producer at a time reads */
    uint64_t claimed; /* of limit; only producers, so only the loop's thread */
    uint64_t lines, words, bytes, checksum; /* only consumers, likewise */
    atomic_uint dice; /* how many have been thrown in */
    atomic_int failure; /* the first one; a negative errno */
    const char *stopped; /* by what */
};

/* ---- Common to the stages ---- */

/* What must not happen has: the producers stop, and the pipeline ends as it always does. */
static void give_up(struct pipeline *p, int rc)
{
    int none = 0;
    atomic_compare_exchange_strong(&p->failure, &none, rc);
    duet_group_cancel(&p->produce.workers);
}

/* Each worker has dice of its own. */
static unsigned new_dice(struct pipeline *p)
{
    return p->seed + p->dice++;
}

static int64_t delay_ns(const struct pipeline *p, int mean_ms, unsigned *dice)
{
    return (int64_t)(2e6 * mean_ms * rand_r(dice) / RAND_MAX / p->speed);
}

static duet_deadline patience(const struct pipeline *p)
{
    double us = 1e3 * PATIENCE_MS / p->speed;
    return duet_us(us > 1e3 ? (int64_t)us : 1000); /* less would only burn the processor */
}

/* Takes the next item, however long that takes. False: there will be none. */
static bool receive(struct pipeline *p, struct stage *stage, duet_chan *from, struct item *item)
{
    int rc;
    while ((rc = duet_chan_recv(from, item, patience(p))) == -ETIME)
        stage->timeouts++;
    if (rc < 0 && rc != -EPIPE)
        give_up(p, rc);
    return rc == 0;
}

/* Sends an item, however long that takes. False: it was not accepted, does not count, and is gone. */
static bool hand_on(struct pipeline *p, struct stage *stage, duet_chan *to, struct item *item)
{
    int rc;
    while ((rc = duet_chan_send(to, item, patience(p))) == -ETIME)
        stage->timeouts++;
    if (rc == 0) {
        stage->items++;
        return true;
    }
    free(item->text);
    if (rc != -ECANCELED) /* so are producers told to stop */
        give_up(p, rc);
    return false;
}

static void drop_item(void *item)
{
    free(((struct item *)item)->text);
}

/* ---- Producers: coroutines. They are stopped by cancelling them: from then on each of their waits
 * fails before it has any effect, so an item was either accepted and counted, or neither. ---- */

struct reading {
    FILE *input;
    struct item *item;
};

/* A job, for it blocks. Cancelling it breaks the read (DUET_INTERRUPT). At the end size is 0. */
static duet_result read_line(void *arg)
{
    struct reading *reading = arg;
    size_t capacity = 0;
    ssize_t n = getline(&reading->item->text, &capacity, reading->input);
    int error = errno;
    if (duet_cancelled()) /* then it may be half a line */
        return duet_err(-ECANCELED);
    if (ferror(reading->input) || (n < 0 && !feof(reading->input)))
        return duet_err(-error);
    reading->item->size = n < 0 ? 0 : (size_t)n;
    return duet_ok();
}

static int read_item(struct pipeline *p, struct item *item)
{
    const duet_opts opts = {.name = "reader", .flags = DUET_INTERRUPT};
    struct reading reading = {p->input, item};
    duet_result r;
    int rc = duet_mutex_lock(&p->reading, DUET_NEVER);
    if (rc < 0)
        return rc;
    rc = duet_offload_with(p->pool, read_line, &reading, &opts, DUET_NEVER, &r);
    duet_mutex_unlock(&p->reading);
    return rc < 0 ? rc : r.err;
}

static int make_item(uint64_t number, unsigned *dice, struct item *item)
{
    int n = asprintf(&item->text, "item %llu rolls %d and %d\n", (unsigned long long)number,
                     1 + rand_r(dice) % 6, 1 + rand_r(dice) % 6);
    if (n < 0)
        return -ENOMEM;
    item->size = (size_t)n;
    return 0;
}

/* False: no more items, or told to stop. */
static bool next_item(struct pipeline *p, unsigned *dice, struct item *item)
{
    *item = (struct item){0};
    if (p->claimed == p->limit)
        return false;
    p->claimed++;
    int rc = p->input ? read_item(p, item) : make_item(p->claimed, dice, item);
    if (rc == 0 && item->size > 0)
        return true;
    free(item->text); /* getline() allocates also at the end */
    if (rc < 0 && rc != -ECANCELED)
        give_up(p, rc);
    return false;
}

static duet_result producer(void *arg)
{
    struct pipeline *p = arg;
    unsigned dice = new_dice(p);
    struct item item;
    while (duet_sleep(duet_ns(delay_ns(p, PRODUCE_MS, &dice))) == 0 && next_item(p, &dice, &item) &&
           hand_on(p, &p->produce, p->raw, &item))
        ;
    return duet_ok();
}

/* ---- Processors: coroutines, or jobs that block ---- */

/* Words as wc counts them, and the FNV-1a hash. */
static void examine(struct item *item)
{
    bool inside = false;
    item->checksum = 0xcbf29ce484222325;
    for (size_t i = 0; i < item->size; i++) {
        unsigned char c = (unsigned char)item->text[i];
        item->words += !inside && !isspace(c);
        inside = !isspace(c);
        item->checksum = (item->checksum ^ c) * 0x100000001b3;
    }
}

/* Ordinary calls that block: the text goes into a file without a name, and comes back from there. */
static int through_a_file(struct item *item, int64_t ns)
{
    struct timespec pause = {ns / 1000000000, ns % 1000000000};
    FILE *file = tmpfile();
    if (!file)
        return -errno;
    bool ok = fwrite(item->text, 1, item->size, file) == item->size && fflush(file) == 0;
    nanosleep(&pause, NULL);
    memset(item->text, 0, item->size);
    rewind(file);
    ok = ok && fread(item->text, 1, item->size, file) == item->size;
    fclose(file);
    return ok ? 0 : -EIO;
}

static duet_result processor(void *arg)
{
    struct pipeline *p = arg;
    unsigned dice = new_dice(p);
    struct item item;
    while (receive(p, &p->process, p->raw, &item)) {
        int64_t ns = delay_ns(p, PROCESS_MS, &dice);
        int rc = p->on_pool ? through_a_file(&item, ns) : duet_sleep(duet_ns(ns));
        if (rc < 0) {
            give_up(p, rc);
            free(item.text); /* lost; and goes on, so that nobody waits for it */
            continue;
        }
        examine(&item);
        hand_on(p, &p->process, p->ready, &item);
    }
    return duet_ok();
}

/* ---- Consumers: coroutines ---- */

static duet_result consumer(void *arg)
{
    struct pipeline *p = arg;
    unsigned dice = new_dice(p);
    struct item item;
    while (receive(p, &p->consume, p->ready, &item)) {
        duet_sleep(duet_ns(delay_ns(p, CONSUME_MS, &dice)));
        p->lines++;
        p->words += item.words;
        p->bytes += item.size;
        p->checksum += item.checksum; /* a sum, for the items come in any order */
        free(item.text);
        p->consume.items++;
    }
    return duet_ok();
}

/* ---- The whole ---- */

static void report(struct pipeline *p, const char *before, const char *after)
{
    double seconds = seconds_since_start();
    unsigned long long consumed = p->consume.items;
    fprintf(stderr, "%s%6.1f s  produced %llu (%zu) processed %llu (%zu) consumed %llu, %.0f/s%s",
            before, seconds, p->produce.items, duet_chan_count(p->raw), p->process.items,
            duet_chan_count(p->ready), consumed, (double)consumed / seconds, after);
}

/* A job, for standard error may block. On a terminal the line is rewritten in its place. */
static duet_result reporter(void *arg)
{
    bool terminal = isatty(STDERR_FILENO);
    const char *before = terminal ? "\r\033[K" : "", *after = terminal ? "" : "\n";
    do
        report(arg, before, after);
    while (duet_sleep(duet_ms(terminal ? 100 : 1000)) == 0);
    report(arg, before, "\n");
    return duet_ok();
}

/* On the loop, or, if there is one, on a pool. */
static void start(struct pipeline *p, struct stage *stage, duet_pool *pool, const char *name,
                  duet_fn *fn, unsigned count)
{
    const duet_opts opts = {.name = name};
    for (unsigned i = 0; i < count; i++) {
        duet_future *f =
            pool ? duet_pool_submit_with(pool, fn, p, &opts) : duet_spawn_with(fn, p, &opts);
        if (duet_future_settled(f) && duet_future_result(f).err < 0) /* it could not start */
            give_up(p, duet_future_result(f).err);
        duet_group_add(&stage->workers, f);
    }
}

/* The main coroutine. The first SIGINT cancels it, and so ends its wait; the rest it does shielded. */
static duet_result conduct(void *arg)
{
    struct pipeline *p = arg;
    const duet_opts opts = {.name = "reporter"};
    duet_deadline end = duet_ns((int64_t)(1e9 * p->duration));
    duet_future *reporting = p->quiet ? NULL : duet_pool_submit_with(p->pool, reporter, p, &opts);
    start(p, &p->consume, NULL, "consumer", consumer, p->consumers);
    start(p, &p->process, p->on_pool ? p->pool : NULL, "processor", processor, p->processors);
    start(p, &p->produce, NULL, "producer", producer, p->producers);

    int rc = duet_group_wait(&p->produce.workers, end, NULL);
    p->stopped = p->failure                     ? "failure"
                 : rc == -ETIME                 ? "duration"
                 : rc == -ECANCELED             ? "signal"
                 : p->produce.items == p->limit ? "items"
                                                : "input";
    duet_shield_begin();
    duet_group_cancel(&p->produce.workers);
    need(duet_group_wait(&p->produce.workers, DUET_NEVER, NULL), "wait");
    duet_chan_shut(p->raw);
    need(duet_group_wait(&p->process.workers, DUET_NEVER, NULL), "wait");
    duet_chan_shut(p->ready);
    need(duet_group_wait(&p->consume.workers, DUET_NEVER, NULL), "wait");
    duet_group_close(&p->consume.workers);
    duet_group_close(&p->process.workers);
    duet_group_close(&p->produce.workers);
    if (reporting)
        duet_future_close(reporting, NULL);
    duet_shield_end();
    return duet_ok();
}

/* ---- Options and the answer ---- */

static const char ABOUT[] =
    "Producers, processors and consumers, with bounded channels between them: "
    "nothing is lost, however it is stopped.";
static const struct argp_option OPTIONS[] = {
    {"duration", 'd', "SECONDS", 0, "Stop after so long (5)", 0},
    {"items", 'n', "N", 0, "Stop after so many produced in all (no limit)", 0},
    {"producers", 'p', "N", 0, "How many (3)", 0},
    {"processors", 'w', "N", 0, "How many (4)", 0},
    {"consumers", 'c', "N", 0, "How many (2)", 0},
    {"processors-on", 'o', "loop|pool", 0, "As coroutines that sleep, or jobs that block (loop)",
     0},
    {"speed", 's', "X", 0, "Divide all delays by this (1)", 0},
    {"seed", 'r', "N", 0, "Of the delays, and of what is made up (the time)", 0},
    {"quiet", 'q', NULL, 0, "No statistics on standard error", 0},
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

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct pipeline *p = state->input;
    if (key == 'd')
        p->duration = number(arg, false, 0, 1e9, state);
    else if (key == 's')
        p->speed = number(arg, false, 1e-3, 1e9, state);
    else if (key == 'n')
        p->limit = (uint64_t)number(arg, true, 0, 1e15, state);
    else if (key == 'p')
        p->producers = (unsigned)number(arg, true, 1, WORKERS_MAX, state);
    else if (key == 'w')
        p->processors = (unsigned)number(arg, true, 1, WORKERS_MAX, state);
    else if (key == 'c')
        p->consumers = (unsigned)number(arg, true, 1, WORKERS_MAX, state);
    else if (key == 'r')
        p->seed = (unsigned)number(arg, true, 0, UINT_MAX, state);
    else if (key == 'q')
        p->quiet = true;
    else if (key == 'o' && (strcmp(arg, "loop") == 0 || strcmp(arg, "pool") == 0))
        p->on_pool = arg[0] == 'p';
    else if (key == 'o')
        argp_error(state, "'%s' is neither loop nor pool", arg);
    else if (key == ARGP_KEY_ARG && state->arg_num == 0)
        p->input = strcmp(arg, "-") == 0 ? stdin : fopen(arg, "re");
    else
        return ARGP_ERR_UNKNOWN; /* a second file, too: argp says so */
    if (key == ARGP_KEY_ARG && !p->input)
        argp_failure(state, argp_err_exit_status, errno, "%s", arg);
    return 0;
}

static void add_count(struct json_object *to, const char *name, uint64_t count)
{
    json_object_object_add(to, name, json_object_new_uint64(count));
}

/* The JSON, and the exit status. */
static int answer(struct pipeline *p)
{
    uint64_t produced = p->produce.items, processed = p->process.items, consumed = p->consume.items;
    bool conserved = produced == processed && processed == consumed;
    double elapsed = seconds_since_start();
    char checksum[17];
    snprintf(checksum, sizeof checksum, "%016llx", (unsigned long long)p->checksum);
    struct json_object *json = json_object_new_object();
    json_c_set_serialization_double_format("%.3f", JSON_C_OPTION_GLOBAL);
    add_count(json, "produced", produced);
    add_count(json, "processed", processed);
    add_count(json, "consumed", consumed);
    add_count(json, "lost", produced - consumed);
    json_object_object_add(json, "conserved", json_object_new_boolean(conserved));
    json_object_object_add(json, "stopped", json_object_new_string(p->stopped));
    json_object_object_add(json, "elapsed", json_object_new_double(elapsed));
    json_object_object_add(json, "rate", json_object_new_double((double)consumed / elapsed));
    add_count(json, "producer_timeouts", p->produce.timeouts);
    add_count(json, "processor_timeouts", p->process.timeouts);
    add_count(json, "consumer_timeouts", p->consume.timeouts);
    add_count(json, "lines", p->lines);
    add_count(json, "words", p->words);
    add_count(json, "bytes", p->bytes);
    json_object_object_add(json, "checksum", json_object_new_string(checksum));
    add_count(json, "seed", p->seed);
    bool said = puts(json_object_to_json_string_ext(json, JSON_C_TO_STRING_SPACED)) >= 0 &&
                fflush(stdout) == 0;
    json_object_put(json);
    if (p->failure)
        fprintf(stderr, "pipeline: %s\n", duet_strerror(p->failure));
    return !(conserved && said && !p->failure);
}

/* SIGTERM asks for the same as SIGINT; where that is ignored, a program is to end all the same. */
static void pass_on(int signo)
{
    struct sigaction interrupt;
    sigaction(SIGINT, NULL, &interrupt);
    if (interrupt.sa_handler == SIG_IGN)
        _exit(128 + signo);
    kill(getpid(), SIGINT);
}

int main(int argc, char **argv)
{
    const struct argp argp = {
        .options = OPTIONS, .parser = parse, .args_doc = "[FILE|-]", .doc = ABOUT};
    const duet_opts opts = {.name = "main", .flags = DUET_SIGINT};
    struct pipeline p = {
        .duration = 5, .speed = 1, .producers = 3, .processors = 4, .consumers = 2};
    say_begin();
    p.seed = (unsigned)time(NULL);
    p.limit = UINT64_MAX;
    p.stopped = "signal"; /* if that comes before conduct() has begun, it never does */
    argp_err_exit_status = 2;
    argp_parse(&argp, argc, argv, 0, NULL, &p);
    signal(SIGTERM, pass_on);

    const duet_pool_config config = {.name = "pipeline", .workers_max = p.processors + 2};
    need(duet_chan_open_with(&p.raw, sizeof(struct item), CAPACITY, drop_item), "duet_chan_open");
    need(duet_chan_open_with(&p.ready, sizeof(struct item), CAPACITY, drop_item), "duet_chan_open");
    need(duet_pool_open(&p.pool, &config), "duet_pool_open");
    need(duet_run_with(conduct, &p, &opts, NULL), "duet_run");
    need(duet_pool_close(p.pool, DUET_NEVER), "duet_pool_close");
    duet_chan_unref(p.raw);
    duet_chan_unref(p.ready);
    if (p.input)
        fclose(p.input);
    return answer(&p);
}
