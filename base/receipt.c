#include "receipt.h"
#include "alloc.h"
#include "clock.h"
#include "log.h"
#include "work.h"

#include <errno.h>
#include <string.h>

duet_deadline duet__half_way(duet_deadline by)
{
    int64_t now = duet__clock_ns();
    if (by.ns != DUET__NEVER && by.ns > now)
        by.ns = now + (by.ns - now) / 2;
    return by;
}

/* Copies s to *at, which goes on behind it. */
static const char *put(char **at, const char *s)
{
    char *start = *at;
    size_t size = strlen(s) + 1;
    memcpy(start, s, size);
    *at += size;
    return start;
}

void duet__receipt_add_named(duet_receipt *receipt, const char *kind, const char *name,
                             int64_t since_ns, const char *place, const char *waits_for,
                             duet_context *context)
{
    char shown[128];
    duet__context_show(context, shown, sizeof shown);
    size_t size =
        strlen(kind) + strlen(name) + strlen(place) + strlen(waits_for) + strlen(shown) + 5;
    duet_left *grown = duet__alloc_resize((duet_left *)receipt->left,
                                          (receipt->count + 1) * sizeof *receipt->left);
    char *words = grown ? duet__alloc(size) : NULL;
    if (grown)
        receipt->left = grown;
    if (!words) {
        receipt->unlisted++;
        return;
    }
    duet_left *left = &grown[receipt->count++];
    int64_t age_ns = since_ns == 0 ? 0 : duet__clock_ns() - since_ns;
    left->kind = put(&words, kind); /* the first word is also the block */
    left->name = put(&words, name);
    left->place = put(&words, place);
    left->waits_for = put(&words, waits_for);
    left->context = put(&words, shown);
    left->age_ns = age_ns < 0 ? 0 : age_ns;
}

void duet__receipt_add(duet_receipt *receipt, const duet_future *work, const char *place,
                       const char *waits_for)
{
    char name[64];
    duet__receipt_add_named(receipt, work->ops->kind, duet__future_name(work, name, sizeof name),
                            work->ops->since ? work->ops->since(work) : 0, place, waits_for,
                            duet__work_context(work));
}

void duet__receipt_log(const duet_receipt *receipt, const char *how)
{
    for (size_t i = 0; i < receipt->count; i++) {
        const duet_left *left = &receipt->left[i];
        bool shows = left->context[0] != '\0';
        duet__log_in(NULL, DUET_WARNING,
                     "%s %s: %s '%s' is left after %.3f s; it waits for %s%s%s%s", left->place, how,
                     left->kind, left->name, (double)left->age_ns / 1e9, left->waits_for,
                     shows ? " [" : "", left->context, shows ? "]" : "");
    }
    if (receipt->unlisted > 0)
        duet__log(DUET_WARNING, "%s: %zu more are left that could not be listed", how,
                  receipt->unlisted);
}

void duet__receipt_move(duet_receipt *receipt, duet_receipt *from)
{
    size_t n = receipt->count + from->count;
    duet_left *grown =
        from->count ? duet__alloc_resize((duet_left *)receipt->left, n * sizeof *receipt->left)
                    : NULL;
    if (grown) {
        memcpy(grown + receipt->count, from->left, from->count * sizeof *from->left);
        receipt->left = grown;
        receipt->count = n;
        duet__free((duet_left *)from->left);
        from->left = NULL;
        from->count = 0;
    }
    receipt->unlisted += from->unlisted + from->count;
    duet__receipt_clear(from);
}

void duet__receipt_clear(duet_receipt *receipt)
{
    for (size_t i = 0; i < receipt->count; i++)
        duet__free((char *)receipt->left[i].kind);
    duet__free((duet_left *)receipt->left);
    *receipt = (duet_receipt){0};
}

int duet__receipt_end(duet_receipt *left, int rc, duet_receipt **ret)
{
    if (rc < 0)
        duet__receipt_log(left, "is left behind at its deadline");
    if (ret)
        *ret = duet__alloc(sizeof **ret);
    if (ret && *ret)
        **ret = *left;
    else
        duet__receipt_clear(left);
    return rc < 0 ? -ETIME : 0;
}

void duet_receipt_free(duet_receipt *receipt)
{
    if (receipt)
        duet__receipt_clear(receipt);
    duet__free(receipt);
}
