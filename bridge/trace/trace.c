/* DUET_TRACE=file.json: what loops and pools do, as the events that Chrome's tracing and Perfetto
 * show ("Trace Event Format", Google, 2016). It is a table of hooks that is told of everything.
 *
 *   X  a step; a job, around its steps and waits; where an arrow begins
 *   b e  the life of a coroutine, and within it its waits
 *   s f  arrows: from who made it ready to the step that followed
 *   C  how much is queued     M  names of lanes */
#include "alloc.h"
#include "atomic.h"
#include "buffer.h"
#include "hooks.h"
#include "log.h"
#include "thread.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* What is kept of a work, in the slot of our table. Freed when it has settled. */
struct record {
    int64_t began_ns; /* a job */
    bool waits;
    char waits_for[DUET__TEXT_NAME_MOST];
};

/* Constant once the trace is open: to ask for it is a system call. */
static uint64_t process;

static struct record *record_of(const duet_work_event *event)
{
    return (struct record *)*event->slot;
}

static bool is_job(const duet_work_event *event)
{
    return event->kind[0] == 'j'; /* not a coroutine, nor a callback */
}

/* ---- Events ---- */

/* ,{"ph":"X","pid":1,"tid":2,"ts":3.000 */
static struct duet__trace_buffer *begin_on(struct duet__text *text, char phase, int32_t thread,
                                           int64_t at_ns)
{
    struct duet__trace_buffer *buffer = duet__trace_begin(text);
    if (!buffer)
        return NULL;
    duet__text_add(text, ",\n{\"ph\":\"");
    duet__text_raw(text, &phase, 1);
    duet__text_add(text, "\",\"pid\":");
    duet__text_number(text, process);
    duet__text_add(text, ",\"tid\":");
    duet__text_number(text, (uint64_t)thread);
    duet__text_add(text, ",\"ts\":");
    duet__text_us(text, at_ns);
    return buffer;
}

static struct duet__trace_buffer *begin(struct duet__text *text, char phase, int64_t at_ns)
{
    return begin_on(text, phase, duet__thread_number(), at_ns);
}

/* ,"args":{"id":7,"kind":"job","place":"db"} */
static void add_work(struct duet__text *text, const duet_work_event *event)
{
    duet__text_add(text, ",\"args\":{\"id\":");
    duet__text_number(text, event->id);
    duet__text_add(text, ",\"kind\":\"");
    duet__text_name(text, event->kind);
    duet__text_add(text, "\",\"place\":\"");
    duet__text_name(text, event->place);
    duet__text_add(text, "\"}");
}

static void add_async_id(struct duet__text *text, const duet_work_event *event)
{
    duet__text_add(text, ",\"id\":\"w");
    duet__text_number(text, event->id);
    duet__text_add(text, "\"");
}

/* ,"args":{"err":-5} */
static void add_error(struct duet__text *text, const duet_work_event *event)
{
    duet__text_add(text, ",\"args\":{\"err\":");
    if (event->result.err < 0)
        duet__text_add(text, "-");
    duet__text_number(text, (uint64_t)(event->result.err < 0 ? -(int64_t)event->result.err : 0));
    duet__text_add(text, "}");
}

static void end(struct duet__trace_buffer *buffer, struct duet__text *text,
                const duet_work_event *event)
{
    duet__text_add(text, "}");
    duet__trace_end(buffer, text, event->now_ns);
}

/* So long on the lane of `thread`. */
static void slice(const duet_work_event *event, const char *category, int32_t thread,
                  int64_t since_ns, int64_t ns, const char *prefix, const char *name)
{
    struct duet__text text;
    struct duet__trace_buffer *buffer = begin_on(&text, 'X', thread, since_ns);
    if (!buffer)
        return;
    duet__text_add(&text, ",\"dur\":");
    duet__text_us(&text, ns);
    duet__text_add(&text, ",\"cat\":\"");
    duet__text_name(&text, category);
    duet__text_add(&text, "\",\"name\":\"");
    duet__text_name(&text, prefix);
    duet__text_name(&text, name);
    duet__text_add(&text, "\"");
    add_work(&text, event);
    end(buffer, &text, event);
}

/* On this thread's, from then to now, and long enough for an arrow to end in it. */
static void slice_here(const duet_work_event *event, const char *category, int64_t since_ns,
                       const char *prefix, const char *name)
{
    int64_t ns = event->now_ns - since_ns;
    slice(event, category, duet__thread_number(), since_ns, ns > 0 ? ns : 1, prefix, name);
}

/* The life of a coroutine ('b' begins, 'e' ends it), or a wait within it. */
static void life(char phase, const duet_work_event *event, const char *prefix, const char *name)
{
    struct duet__text text;
    struct duet__trace_buffer *buffer = begin(&text, phase, event->now_ns);
    if (!buffer)
        return;
    duet__text_add(&text, ",\"cat\":\"work\",\"name\":\"");
    duet__text_name(&text, prefix);
    duet__text_name(&text, name);
    duet__text_add(&text, "\"");
    add_async_id(&text, event);
    if (phase == 'b')
        add_work(&text, event);
    else
        add_error(&text, event);
    end(buffer, &text, event);
}

/* ---- Lanes ---- */

enum lane_order {
    LANE_LOOP = 1,
    LANE_WORKER,
    LANE_OTHER,
};

static _Thread_local struct {
    bool named;
    bool is_loop;
    char loop[DUET__TEXT_NAME_MOST]; /* as far as it reaches: whose lane it is now */
    uint64_t counted; /* what the counter of the loop last said, plus one; 0: nothing yet */
} lane;

static void name_lane(const duet_work_event *event, const char *prefix, const char *name,
                      enum lane_order order)
{
    struct duet__text text;
    struct duet__trace_buffer *buffer = begin(&text, 'M', 0);
    if (!buffer)
        return;
    duet__text_add(&text, ",\"name\":\"thread_name\",\"args\":{\"name\":\"");
    duet__text_name(&text, prefix);
    duet__text_name(&text, name);
    duet__text_add(&text, "\"}");
    end(buffer, &text, event);
    buffer = begin(&text, 'M', 0);
    if (!buffer)
        return;
    duet__text_add(&text, ",\"name\":\"thread_sort_index\",\"args\":{\"sort_index\":");
    duet__text_number(&text, order);
    duet__text_add(&text, "}");
    end(buffer, &text, event);
}

/* By its own name, before the first event on it. */
static void see_thread(const duet_work_event *event, enum lane_order order)
{
    char name[32] = "";
    if (lane.named)
        return;
    lane.named = true;
    pthread_getname_np(pthread_self(), name, sizeof name);
    name_lane(event, "", name, order);
}

/* A loop's lane has the name of the loop, whatever its thread was before. */
static void see_loop(const duet_work_event *event)
{
    if (lane.is_loop && strncmp(lane.loop, event->place, sizeof lane.loop - 1) == 0)
        return;
    lane.named = lane.is_loop = true;
    lane.counted = 0;
    snprintf(lane.loop, sizeof lane.loop, "%s", event->place);
    name_lane(event, "loop ", event->place, LANE_LOOP);
}

/* ---- Counters ---- */

static void count_queue(const duet_work_event *event)
{
    struct duet__text text;
    struct duet__trace_buffer *buffer = begin(&text, 'C', event->now_ns);
    if (!buffer)
        return;
    duet__text_add(&text, ",\"name\":\"");
    duet__text_name(&text, is_job(event) ? "pool " : "loop ");
    duet__text_name(&text, event->place);
    duet__text_add(&text, "\",\"args\":{\"queued\":");
    duet__text_number(&text, event->queued);
    duet__text_add(&text, "}");
    end(buffer, &text, event);
}

/* By the loop, where it has changed. */
static void count_ready(const duet_work_event *event)
{
    if (lane.counted == event->queued + 1)
        return;
    lane.counted = event->queued + 1;
    count_queue(event);
}

/* ---- Arrows ---- */

static void arrow_end(char phase, int32_t thread, int64_t at_ns, uint64_t number,
                      const duet_work_event *event)
{
    struct duet__text text;
    struct duet__trace_buffer *buffer = begin_on(&text, phase, thread, at_ns);
    if (!buffer)
        return;
    duet__text_add(&text, ",\"cat\":\"ready\",\"name\":\"ready\",\"id\":");
    duet__text_number(&text, number);
    if (phase == 'f')
        duet__text_add(&text, ",\"bp\":\"e\"");
    end(buffer, &text, event);
}

/* An arrow is drawn from the end of the slice that it begins in, and to the beginning of the one
 * that it ends in. So it begins in a slice of its own, without a length. */
static void mark_origin(const duet_work_event *event)
{
    bool first = event->by_ns == event->spawned_ns; /* who wakes it comes later */
    slice(event, "submit", event->by_thread, event->by_ns, 0, first ? "starts " : "wakes ",
          event->name);
}

static void arrow(const duet_work_event *event)
{
    static _Atomic uint64_t last; /* relaxed: a number */
    if (event->by_ns == 0 || event->by == event->id)
        return;
    mark_origin(event);
    uint64_t number = duet__add_relaxed(&last, 1) + 1;
    arrow_end('s', event->by_thread, event->by_ns, number, event);
    arrow_end('f', duet__thread_number(), event->now_ns + 1, number, event); /* within its slice */
}

/* ---- The hooks ---- */

static void begin_record(const duet_work_event *event)
{
    struct record *record = duet__alloc_zeroed(1, sizeof *record);
    *event->slot = (uintptr_t)record; /* none: its waits are not shown */
}

static void on_spawned(void *ctx, const duet_work_event *event)
{
    (void)ctx;
    see_thread(event, LANE_OTHER);
    begin_record(event);
    life('b', event, "", event->name);
}

static void on_queued(void *ctx, const duet_work_event *event)
{
    (void)ctx;
    see_thread(event, LANE_OTHER);
    begin_record(event);
    count_queue(event);
}

static void show_wait(const duet_work_event *event, struct record *record)
{
    if (is_job(event))
        slice_here(event, "wait", event->since_ns, "waits for ", record->waits_for);
    else
        life('e', event, "waits for ", record->waits_for);
    record->waits = false;
}

static void on_step_began(void *ctx, const duet_work_event *event)
{
    struct record *record = record_of(event);
    (void)ctx;
    if (!is_job(event)) {
        see_loop(event);
        count_ready(event);
    }
    if (record && record->waits)
        show_wait(event, record);
    arrow(event);
}

static void on_step_ended(void *ctx, const duet_work_event *event)
{
    (void)ctx;
    slice_here(event, "step", event->since_ns, "", event->name);
}

static void on_parked(void *ctx, const duet_work_event *event)
{
    struct record *record = record_of(event);
    (void)ctx;
    if (!record)
        return;
    record->waits = true;
    duet_work_event_waits_for(event, record->waits_for, sizeof record->waits_for);
    if (!is_job(event))
        life('b', event, "waits for ", record->waits_for);
}

static void on_job_began(void *ctx, const duet_work_event *event)
{
    struct record *record = record_of(event);
    (void)ctx;
    see_thread(event, LANE_WORKER);
    count_queue(event);
    if (record)
        record->began_ns = event->now_ns;
}

static void on_job_ended(void *ctx, const duet_work_event *event)
{
    struct record *record = record_of(event);
    (void)ctx;
    if (record)
        slice_here(event, "job", record->began_ns, "", event->name);
}

static void on_settled(void *ctx, const duet_work_event *event)
{
    (void)ctx;
    if (!is_job(event))
        life('e', event, "", event->name);
    duet__free(record_of(event));
}

static const duet_hooks table = {
    .spawned = on_spawned,
    .step_began = on_step_began,
    .step_ended = on_step_ended,
    .parked = on_parked,
    .settled = on_settled,
    .job_queued = on_queued,
    .job_began = on_job_began,
    .job_ended = on_job_ended,
};

/* ---- Switching it on ---- */

/* The path, with %p as the number of the process; into buf. False: it is too long. */
static bool expand(const char *pattern, char *buf, size_t size)
{
    size_t length = 0;
    for (const char *s = pattern; *s; s++) {
        char number[16] = {*s};
        if (s[0] == '%' && s[1] == 'p') {
            snprintf(number, sizeof number, "%d", (int)process);
            s++;
        }
        size_t n = strlen(number);
        if (length + n + 1 > size)
            return false;
        memcpy(buf + length, number, n);
        length += n;
    }
    buf[length] = '\0';
    return length > 0;
}

static char path[4096];
static int rc; /* of opening it; constant after the once */

static void switch_on(void)
{
    const char *pattern = secure_getenv("DUET_TRACE");
    process = (uint64_t)getpid();
    if (pattern && expand(pattern, path, sizeof path))
        rc = duet__trace_open(path);
}

static void report(void)
{
    static _Atomic uint32_t reported; /* relaxed: who is first */
    uint32_t never = 0;
    if (duet__cas_relaxed(&reported, &never, 1))
        duet__log(DUET_WARNING, "DUET_TRACE: nothing is traced: %s: %s", path,
                  rc == -EWOULDBLOCK ? "another process writes to it (%p in the name is the number "
                                       "of the process)"
                                     : duet_strerror(rc));
}

/* Asked for whenever a loop or pool is opened, be it by what the log calls. */
static const duet_hooks *table_if_on(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, switch_on);
    if (rc < 0)
        report();
    return duet__trace_is_open() ? &table : NULL;
}

/* By its name a program that is linked with libduet.a asks for this file (duet.pc), which nothing
 * else does. */
void duet__trace_offer(void);
__attribute__((constructor)) void duet__trace_offer(void)
{
    duet__hooks_set_always(table_if_on);
}
