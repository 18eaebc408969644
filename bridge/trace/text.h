/* Pieces of JSON, appended to a buffer in which there is room. No locale, no formats: what is
 * traced should cost little. */
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Owned by who writes. */
struct duet__text {
    char *at;
};

enum {
    DUET__TEXT_NAME_MOST = 64, /* characters of a name that are kept, of up to four bytes each */
};

static inline void duet__text_raw(struct duet__text *text, const char *s, size_t n)
{
    memcpy(text->at, s, n);
    text->at += n;
}

/* Of a literal. */
#define duet__text_add(text, literal) duet__text_raw(text, "" literal "", sizeof(literal) - 1)

void duet__text_number(struct duet__text *text, uint64_t value);
/* Nanoseconds as microseconds with three decimals. */
void duet__text_us(struct duet__text *text, int64_t ns);
/* What a string may hold, without the quotes; what is no text becomes '?'. */
void duet__text_name(struct duet__text *text, const char *name);
