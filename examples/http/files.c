/* Files below a directory, and nothing else. */
#include "http.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Does so in place. False: it is none, or has a zero in it, which would be its end for the kernel. */
static bool decode(char *path)
{
    char *to = path;
    for (const char *from = path; *from; to++) {
        char hex[3] = "", *end;
        if (*from != '%') {
            *to = *from++;
            continue;
        }
        strncpy(hex, from + 1, 2);
        long byte = strtol(hex, &end, 16);
        if (end != hex + 2 || hex[0] == '+' || hex[0] == '-' || hex[0] == ' ' || byte == 0)
            return false;
        *to = (char)byte;
        from += 3;
    }
    *to = '\0';
    return true;
}

struct opening {
    int root, file;
    const char *path;
    size_t size;
};

/* A job: a disk may be slow. The kernel sees to it that neither "..", nor a symbolic link, nor an
 * absolute name leads out of the directory (-EXDEV); and that nobody does so between two looks. */
static duet_result open_below(void *arg)
{
    struct opening *opening = arg;
    struct open_how how = {
        .flags = O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK, /* a FIFO must not block it */
        .resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS,
    };
    struct stat stat;
    opening->file = (int)syscall(SYS_openat2, opening->root, opening->path, &how, sizeof how);
    if (opening->file < 0)
        return duet_err(-errno);
    if (fstat(opening->file, &stat) < 0 || !S_ISREG(stat.st_mode)) {
        close(opening->file);
        opening->file = -1;
        return duet_err(-ENOENT);
    }
    opening->size = (size_t)stat.st_size;
    return duet_ok();
}

static const char *type_of(const char *path)
{
    static const struct {
        const char *extension, *type;
    } TYPES[] = {
        {".html", "text/html; charset=utf-8"},
        {".css", "text/css; charset=utf-8"},
        {".js", "text/javascript; charset=utf-8"},
        {".txt", "text/plain; charset=utf-8"},
        {".json", "application/json"},
        {".svg", "image/svg+xml"},
        {".png", "image/png"},
        {".jpg", "image/jpeg"},
        {".pdf", "application/pdf"},
    };
    const char *extension = strrchr(path, '.');
    for (size_t i = 0; extension && i < sizeof TYPES / sizeof *TYPES; i++)
        if (strcasecmp(extension, TYPES[i].extension) == 0)
            return TYPES[i].type;
    return "application/octet-stream";
}

static int status_of(int error)
{
    switch (error) {
    case -EMFILE:
    case -ENFILE:
    case -ENOMEM:
    case -EAGAIN:
    case -ETIME:
    case -ECANCELED:
        return 503;
    case -EIO:
    case -ENOSYS:
        return 500;
    default:
        return 404; /* what is not to be seen is not there */
    }
}

void file_get(struct server *server, const char *path, struct response *response)
{
    char decoded[URI_MAX + 1];
    struct opening opening = {.root = server->root, .file = -1, .path = decoded};
    duet_result r;
    strcpy(decoded, path);
    if (server->root < 0 || !decode(decoded)) {
        say_status(response, 404);
        return;
    }
    int rc = duet_sem_wait(&server->downloads, in_seconds(server->options.send_timeout));
    if (rc == 0) {
        rc = duet_offload(NULL, open_below, &opening, DUET_NEVER, &r);
        rc = rc < 0 ? rc : r.err;
        if (rc < 0)
            duet_sem_post(&server->downloads);
    }
    if (rc < 0) {
        say_status(response, status_of(rc));
        return;
    }
    response->status = 200;
    response->type = type_of(decoded);
    response->file = opening.file;
    response->size = opening.size;
}

void file_release(struct server *server, struct response *response)
{
    if (response->file < 0)
        return;
    close(response->file);
    response->file = -1;
    duet_sem_post(&server->downloads);
}
