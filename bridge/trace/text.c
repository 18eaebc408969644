#include "text.h"

#include <stdbool.h>

void duet__text_number(struct duet__text *text, uint64_t value)
{
    char digits[20];
    size_t n = 0;
    do
        digits[sizeof digits - ++n] = (char)('0' + value % 10);
    while ((value /= 10) > 0);
    duet__text_raw(text, digits + sizeof digits - n, n);
}

void duet__text_us(struct duet__text *text, int64_t ns)
{
    uint64_t value = ns > 0 ? (uint64_t)ns : 0;
    duet__text_number(text, value / 1000);
    char rest[4] = {'.', (char)('0' + value / 100 % 10), (char)('0' + value / 10 % 10),
                    (char)('0' + value % 10)};
    duet__text_raw(text, rest, sizeof rest);
}

/* How many bytes of s are one well-formed character of UTF-8 (RFC 3629); 0: none. */
static size_t character(const unsigned char *s)
{
    size_t n = s[0] < 0x80                    ? 1
               : s[0] >= 0xc2 && s[0] <= 0xdf ? 2
               : s[0] >= 0xe0 && s[0] <= 0xef ? 3
               : s[0] >= 0xf0 && s[0] <= 0xf4 ? 4
                                              : 0;
    for (size_t i = 1; i < n; i++)
        if ((s[i] & 0xc0) != 0x80) /* also the end of the string */
            return 0;
    bool is_long = (s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xf0 && s[1] < 0x90);
    bool is_none = (s[0] == 0xed && s[1] > 0x9f) || (s[0] == 0xf4 && s[1] > 0x8f);
    return is_long || is_none ? 0 : n;
}

void duet__text_name(struct duet__text *text, const char *name)
{
    const unsigned char *s = (const unsigned char *)name;
    for (size_t left = DUET__TEXT_NAME_MOST; *s && left > 0; left--) {
        size_t n = character(s);
        if (n == 0 || *s < 0x20 || *s == 0x7f)
            duet__text_add(text, "?");
        else if (*s == '"' || *s == '\\')
            duet__text_raw(text, (char[]){'\\', (char)*s}, 2);
        else
            duet__text_raw(text, (const char *)s, n);
        s += n ? n : 1;
    }
}
