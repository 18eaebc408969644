/* A libuv loop on a thread of its own, and the queue into it that each program on libuv has to
 * write: uv_async_send() says only that something has come. */
#pragma once
#include "bench.h"

#include <uv.h>

struct uv_item {
    void (*fn)(void *arg);
    void *arg;
};

struct uv_inbox {
    uv_loop_t loop;
    uv_async_t async;
    uv_mutex_t mutex;
    uv_thread_t thread;
    struct uv_item *items, *spare; /* the loop takes the one, and gives back the other */
    size_t count, room, spare_room;
};

static inline void uv_inbox_grow(struct uv_inbox *inbox)
{
    inbox->room = inbox->room ? 2 * inbox->room : 1024;
    inbox->items = realloc(inbox->items, inbox->room * sizeof *inbox->items);
    need(inbox->items != NULL, "realloc");
}

/* From any thread; only the first of several has to wake the loop. */
static inline void uv_inbox_post(struct uv_inbox *inbox, void (*fn)(void *arg), void *arg)
{
    uv_mutex_lock(&inbox->mutex);
    if (inbox->count == inbox->room)
        uv_inbox_grow(inbox);
    inbox->items[inbox->count++] = (struct uv_item){fn, arg};
    bool first = inbox->count == 1;
    uv_mutex_unlock(&inbox->mutex);
    if (first)
        uv_async_send(&inbox->async);
}

static inline void uv_inbox_run(uv_async_t *async)
{
    struct uv_inbox *inbox = async->data;
    uv_mutex_lock(&inbox->mutex);
    struct uv_item *items = inbox->items;
    size_t count = inbox->count, room = inbox->room;
    inbox->items = inbox->spare;
    inbox->room = inbox->spare_room;
    inbox->count = 0;
    uv_mutex_unlock(&inbox->mutex);
    for (size_t i = 0; i < count; i++)
        items[i].fn(items[i].arg);
    inbox->spare = items; /* of the loop's thread alone */
    inbox->spare_room = room;
}

static inline void uv_inbox_thread(void *arg)
{
    struct uv_inbox *inbox = arg;
    need(uv_run(&inbox->loop, UV_RUN_DEFAULT) == 0, "uv_run");
}

static inline void uv_inbox_open(struct uv_inbox *inbox)
{
    need(uv_loop_init(&inbox->loop) == 0, "uv_loop_init");
    need(uv_mutex_init(&inbox->mutex) == 0, "uv_mutex_init");
    need(uv_async_init(&inbox->loop, &inbox->async, uv_inbox_run) == 0, "uv_async_init");
    inbox->async.data = inbox;
    need(uv_thread_create(&inbox->thread, uv_inbox_thread, inbox) == 0, "uv_thread_create");
}

static inline void uv_inbox_end(void *arg)
{
    struct uv_inbox *inbox = arg;
    uv_close((uv_handle_t *)&inbox->async, NULL);
}

static inline void uv_inbox_close(struct uv_inbox *inbox)
{
    uv_inbox_post(inbox, uv_inbox_end, inbox);
    uv_thread_join(&inbox->thread);
    need(uv_loop_close(&inbox->loop) == 0, "uv_loop_close");
    uv_mutex_destroy(&inbox->mutex);
    free(inbox->items);
    free(inbox->spare);
}
