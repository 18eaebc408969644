/* Values that travel with the work. */
#include "context.h"
#include "alloc.h"
#include "atomic.h"
#include "check.h"
#include "fork.h"
#include "park.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

/* One value of one key. Owned by the contexts that hold it. */
struct entry {
    _Atomic uint32_t refs;
    const duet_key *key;
    void *value;
};

struct duet_context {
    _Atomic uint32_t refs;
    uint32_t count;
    struct entry *entries[]; /* constant, in the order in which their keys were first set */
};

/* ---- References ---- */

static void entry_unref(struct entry *entry)
{
    /* Releases what this owner did with the value; the last one acquires it. */
    if (duet__sub_acq_rel(&entry->refs, 1) > 1)
        return;
    if (entry->key->drop)
        duet__call_bare_in(NULL, entry->key->drop, entry->value);
    duet__free(entry);
}

duet_context *duet_context_ref(duet_context *context)
{
    if (context)
        duet__add_relaxed(&context->refs, 1); /* who has one may make another */
    return context;
}

void duet_context_unref(duet_context *context)
{
    /* As in entry_unref(). */
    if (!context || duet__sub_acq_rel(&context->refs, 1) > 1)
        return;
    for (uint32_t i = 0; i < context->count; i++)
        entry_unref(context->entries[i]);
    duet__free(context);
}

/* ---- Of who runs here ---- */

/* A thread's own context ends with the thread: a key of the C library's sees to that. Its value
 * is only a mark, so that the destructor is called. */
static pthread_key_t thread_end;
static bool has_thread_end; /* constant after the once */
static pthread_once_t thread_end_once = PTHREAD_ONCE_INIT;

static void drop_of_thread(void *mark)
{
    (void)mark;
    duet_context_unref(duet_context_swap(NULL));
}

static void make_thread_end(void)
{
    has_thread_end = pthread_key_create(&thread_end, drop_of_thread) == 0; /* else it is lost */
}

/* By a thread that is no work of duet's and whose context is not empty. */
static void watch_thread_end(void)
{
    pthread_once(&thread_end_once, make_thread_end);
    if (has_thread_end)
        pthread_setspecific(thread_end, &thread_end);
}

duet_context *duet_context_ref_here(void)
{
    return duet_context_ref(duet__here()->context);
}

duet_context *duet_context_swap(duet_context *context)
{
    struct duet__parker *here = duet__here();
    duet_context *before = here->context;
    here->context = context;
    if (context && !here->work)
        watch_thread_end();
    return before;
}

void duet__call_bare_in(duet_context *context, void (*fn)(void *arg), void *arg)
{
    struct duet__parker *bare = duet__here_bare(), *before = duet__here_set(bare);
    duet_context *beneath = bare->context;
    uint32_t held = bare->held;
    bare->context = context ? duet_context_ref(context) : NULL;
    fn(arg);
    duet__context_drop(bare->context); /* what fn has made of it */
    bare->context = beneath;
    duet__parker_rests(bare, held);
    duet__here_set(before);
}

void duet__call_bare(void (*fn)(void *arg), void *arg)
{
    duet__call_bare_in(duet__here()->context, fn, arg);
}

/* ---- Values ---- */

static struct entry *find(const duet_context *context, const duet_key *key)
{
    for (uint32_t i = 0; context && i < context->count; i++)
        if (context->entries[i]->key == key)
            return context->entries[i];
    return NULL;
}

/* A context with the entries of another but for one key, and room for one more; NULL: no memory. */
static duet_context *copy_without(const duet_context *from, const duet_key *key)
{
    uint32_t count = from ? from->count : 0;
    duet_context *context = duet__alloc(sizeof *context + (count + 1) * sizeof(struct entry *));
    if (!context)
        return NULL;
    duet__store_relaxed(&context->refs, 1); /* nobody else can see it yet */
    context->count = 0;
    for (uint32_t i = 0; i < count; i++) {
        struct entry *entry = from->entries[i];
        if (entry->key == key)
            continue;
        duet__add_relaxed(&entry->refs, 1); /* `from` has one */
        context->entries[context->count++] = entry;
    }
    return context;
}

static struct entry *entry_new(const duet_key *key, void *value)
{
    struct entry *entry = duet__alloc(sizeof *entry);
    if (entry) {
        duet__store_relaxed(&entry->refs, 1);
        entry->key = key;
        entry->value = value;
    }
    return entry;
}

static int check_key(const char *function, const duet_key *key)
{
    if (!key)
        return duet__bad_argument(function, "key is NULL");
    if (key->show && !key->name)
        return duet__bad_argument(function, "a key that is shown has a name");
    if (!duet__reserved_unused(key->reserved, sizeof key->reserved / sizeof(uintptr_t)))
        return duet__bad_argument(function, "reserved is not zero: was the key initialised?");
    return 0;
}

int duet_context_set(const duet_key *key, void *value)
{
    struct duet__parker *here = duet__here();
    int rc = check_key(__func__, key);
    if (rc < 0 || duet_context_get(key) == value)
        return rc;
    if (!value &&
        here->context->count == 1) { /* it was the only one: to empty it needs no memory */
        duet_context_unref(duet_context_swap(NULL));
        return 0;
    }
    struct entry *entry = value ? entry_new(key, value) : NULL;
    duet_context *context = entry || !value ? copy_without(here->context, key) : NULL;
    if (!context) {
        duet__free(entry);
        return -ENOMEM;
    }
    if (entry)
        context->entries[context->count++] = entry;
    duet_context_unref(duet_context_swap(context));
    return 0;
}

void *duet_context_get(const duet_key *key)
{
    struct entry *entry = find(duet__here()->context, key);
    return entry ? entry->value : NULL;
}

/* ---- Showing ---- */

struct showing {
    const duet_context *context;
    char *buf;
    size_t size;
};

static void show_all(void *arg)
{
    struct showing *to = arg;
    size_t length = 0;
    for (uint32_t i = 0; i < to->context->count && length + 1 < to->size; i++) {
        const struct entry *entry = to->context->entries[i];
        char text[64] = "";
        if (!entry->key->show)
            continue;
        entry->key->show(entry->value, text, sizeof text);
        text[sizeof text - 1] = '\0';
        snprintf(to->buf + length, to->size - length, "%s%s=%s", length > 0 ? " " : "",
                 entry->key->name, text);
        length = strlen(to->buf);
    }
}

void duet__context_show(const duet_context *context, char *buf, size_t size)
{
    struct showing to = {context, buf, size};
    buf[0] = '\0';
    if (context)
        duet__call_bare_in(NULL, show_all, &to);
}

const char *duet_context_describe(char *buf, size_t size)
{
    if (!buf || size == 0) {
        duet__bad_argument(__func__, "there is no room for it");
        return "";
    }
    duet__context_show(duet__here()->context, buf, size);
    return buf;
}

const char *duet__context_suffix(const duet_context *context, char *buf, size_t size)
{
    char text[128];
    buf[0] = '\0';
    duet__context_show(context, text, sizeof text);
    if (text[0])
        snprintf(buf, size, " [%s]", text);
    return buf;
}
