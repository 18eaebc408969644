#include "pages.h"

#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

/* How each page ends that is the last one, and how it ends when it no longer is. */
static const char tail[] = "  ]\n", no_tail[] = "    ";
enum {
    TAIL = sizeof tail - 1,
    WINDOW = 256 * DUET__PAGE,
    LARGEST_PAGE = 64 * 1024, /* what a mapping begins at */
};

static bool write_at(struct duet__pages *pages, const char *text, size_t n, off_t at)
{
    return syscall(SYS_pwrite64, pages->fd, text, n, at) == (long)n;
}

/* Maps the pages on both sides of a boundary. */
static void move_window(struct duet__pages *pages, off_t boundary)
{
    if (pages->window && boundary - DUET__PAGE >= pages->window_at &&
        boundary + DUET__PAGE <= pages->window_at + WINDOW)
        return;
    if (pages->window)
        munmap(pages->window, WINDOW);
    pages->window_at = (boundary - DUET__PAGE) / WINDOW * WINDOW;
    if (boundary + DUET__PAGE > pages->window_at + WINDOW)
        pages->window_at = (boundary - DUET__PAGE) / LARGEST_PAGE * LARGEST_PAGE;
    pages->window =
        mmap(NULL, WINDOW, PROT_READ | PROT_WRITE, MAP_SHARED, pages->fd, pages->window_at);
    if (pages->window == MAP_FAILED)
        pages->window = NULL;
}

/* The bracket, from before the boundary to behind it. */
static bool carry_across(struct duet__pages *pages, off_t boundary)
{
    char both[2 * TAIL];
    uint64_t word;
    memcpy(both, no_tail, TAIL);
    memcpy(both + TAIL, tail, TAIL);
    move_window(pages, boundary);
    if (!pages->window)
        return write_at(pages, both, sizeof both, boundary - TAIL);
    memcpy(&word, both, sizeof word);
    struct unaligned {
        uint64_t word;
    } __attribute__((packed, may_alias)) *at =
        (void *)(pages->window + (boundary - TAIL - pages->window_at));
    at->word = word; /* one instruction */
    return true;
}

static bool next_page(struct duet__pages *pages)
{
    off_t boundary = pages->page + DUET__PAGE;
    static char page[DUET__PAGE]; /* of whoever is in it alone: a signal's stack may be small */
    struct rlimit limit; /* to go beyond it is a signal, not an error */
    if (getrlimit(RLIMIT_FSIZE, &limit) < 0 || (rlim_t)boundary + DUET__PAGE > limit.rlim_cur)
        return false;
    memset(page, ' ', sizeof page);
    if (!write_at(pages, page, sizeof page, boundary) || !carry_across(pages, boundary))
        return false;
    memcpy(page + DUET__PAGE - TAIL, tail, TAIL);
    if (!write_at(pages, page, sizeof page, boundary))
        return false;
    pages->page = pages->end = boundary;
    return true;
}

/* How many bytes of whole events fit into so much room. Each begins with a comma and a line feed,
 * which is nowhere else. */
static size_t whole_events(const char *text, size_t n, size_t room)
{
    if (n <= room)
        return n;
    for (size_t i = room; i > 0; i--)
        if (text[i] == ',' && text[i + 1] == '\n')
            return i;
    return 0;
}

bool duet__pages_open(struct duet__pages *pages, int fd, const char *first, size_t n)
{
    char page[DUET__PAGE];
    memset(page, ' ', sizeof page);
    memcpy(page, "[\n", 2);
    memcpy(page + 2, first, n);
    memcpy(page + DUET__PAGE - TAIL, tail, TAIL);
    *pages = (struct duet__pages){.fd = fd, .end = (off_t)n + 2};
    if (write_at(pages, page, DUET__PAGE, 0))
        return true;
    pages->fd = -1;
    return false;
}

void duet__pages_write(struct duet__pages *pages, const char *events, size_t n)
{
    bool written = true;
    while (n > 0 && written && pages->fd >= 0) {
        size_t room = (size_t)(pages->page + DUET__PAGE - TAIL - pages->end);
        size_t piece = whole_events(events, n, room);
        written = piece > 0 ? write_at(pages, events, piece, pages->end) : next_page(pages);
        pages->end += (off_t)piece;
        events += piece;
        n -= piece;
    }
    if (!written)
        pages->fd = -1;
}

void duet__pages_close(struct duet__pages *pages)
{
    if (pages->fd >= 0)
        close(pages->fd);
    pages->fd = -1;
}
