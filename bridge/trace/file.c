#include "file.h"
#include "atomic.h"
#include "fork.h"
#include "lock.h"
#include "log.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

enum {
    PAGE = 4096, /* of the page cache: a divisor of every page size there is */
    WINDOW = 256 * PAGE,
    BUFFER_SIZE = 64 * 1024,
    OLD_NS = 250000000, /* then it is written, though not full */
    CRASH_TRIES = 1000000, /* how often a crashing thread looks for the lock, before it gives up */
};

/* Mapped, so that it is in nobody's way, and there for as long as the process: in the list of all, or,
 * when its thread has ended, free for the next one besides. */
struct duet__trace_buffer {
    struct duet__trace_buffer *next; /* constant once it is in the list */
    struct duet__trace_buffer *next_free; /* guarded by the file's lock */
    /* How much is finished. Written by its thread, with the file's lock when it becomes less. Release:
     * publishes the bytes before it; whoever writes for a crash acquires them. */
    _Atomic size_t used;
    int64_t oldest_ns; /* its thread's: when the first of them came */
    struct duet__trace_lane lane; /* its thread's */
    char text[BUFFER_SIZE];
};

/* How each page ends that is the last one, and how it ends when it no longer is. */
static const char tail[] = "  ]\n", no_tail[] = "    ";
enum {
    TAIL = sizeof tail - 1,
};
static char spaces[PAGE]; /* constant once the file is open */

static struct {
    struct duet__lock lock; /* guards all but `all` and fd */
    off_t end; /* behind the last event */
    off_t page; /* where the last page begins */
    char *window; /* a mapping of the file around its end; NULL: none, then writes have to do */
    off_t window_at;
    struct duet__trace_buffer *free;
    /* Push only. Release: publishes the buffer; the crash acquires it. */
    _Atomic(struct duet__trace_buffer *) all;
    _Atomic int
        fd; /* -1: not open, or not any more. Relaxed: a look, set before hooks are given out */
} file = {.fd = -1};

static _Thread_local struct duet__trace_buffer *mine;
static pthread_key_t thread_end; /* gives `mine` back */

/* The file is the parent's; to the child it is closed. */
static void reset(void)
{
    int fd = duet__load_relaxed(&file.fd);
    duet__store_relaxed(&file.lock.word, 0);
    duet__store_relaxed(&file.fd, -1);
    mine = NULL;
    if (fd >= 0)
        close(fd);
}
DUET__IN_CHILD(reset)

bool duet__trace_file_is_open(void)
{
    return duet__load_relaxed(&file.fd) >= 0;
}

/* ---- Writing ---- */

static bool write_at(const char *text, size_t n, off_t at)
{
    return pwrite(duet__load_relaxed(&file.fd), text, n, at) == (ssize_t)n;
}

/* Maps the pages on both sides of a boundary. */
static void move_window(off_t boundary)
{
    if (file.window && boundary - PAGE >= file.window_at &&
        boundary + PAGE <= file.window_at + WINDOW)
        return;
    if (file.window)
        munmap(file.window, WINDOW);
    file.window_at = (boundary - PAGE) / WINDOW * WINDOW;
    if (boundary + PAGE > file.window_at + WINDOW)
        file.window_at = (boundary - PAGE) / (64 * 1024) * (64 * 1024); /* of the largest pages */
    file.window = mmap(NULL, WINDOW, PROT_READ | PROT_WRITE, MAP_SHARED,
                       duet__load_relaxed(&file.fd), file.window_at);
    if (file.window == MAP_FAILED)
        file.window = NULL;
}

/* The bracket, from before the boundary to behind it. */
static bool carry_across(off_t boundary)
{
    char both[2 * TAIL];
    uint64_t word;
    memcpy(both, no_tail, TAIL);
    memcpy(both + TAIL, tail, TAIL);
    move_window(boundary);
    if (!file.window)
        return write_at(both, sizeof both, boundary - TAIL);
    memcpy(&word, both, sizeof word);
    struct unaligned {
        uint64_t word;
    } __attribute__((packed, may_alias)) *at =
        (void *)(file.window + (boundary - TAIL - file.window_at));
    at->word = word; /* one instruction */
    return true;
}

static bool next_page(void)
{
    off_t boundary = file.page + PAGE;
    if (!write_at(spaces, PAGE, boundary) || !carry_across(boundary))
        return false;
    char page[PAGE];
    memcpy(page, spaces, PAGE - TAIL);
    memcpy(page + PAGE - TAIL, tail, TAIL);
    if (!write_at(page, PAGE, boundary))
        return false;
    file.page = file.end = boundary;
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

/* Under the lock. What cannot be written ends the trace, and leaves a file that is valid. */
static void write_events(const char *text, size_t n)
{
    bool written = true;
    if (duet__load_relaxed(&file.fd) < 0)
        return;
    while (n > 0 && written) {
        size_t piece = whole_events(text, n, (size_t)(file.page + PAGE - TAIL - file.end));
        written = piece > 0 ? write_at(text, piece, file.end) : next_page();
        file.end += (off_t)piece;
        text += piece;
        n -= piece;
    }
    if (!written)
        duet__store_relaxed(&file.fd, -1);
}

/* By the buffer's thread. */
static void flush(struct duet__trace_buffer *buffer)
{
    duet__lock(&file.lock);
    write_events(buffer->text, duet__load_relaxed(&buffer->used)); /* our own */
    duet__store_release(&buffer->used, 0);
    duet__unlock(&file.lock);
}

/* By anybody: what is there stays, and is skipped by its thread. So only when the process ends. */
static void write_all(void)
{
    for (struct duet__trace_buffer *buffer = duet__load_acquire(&file.all); buffer;
         buffer = buffer->next)
        write_events(buffer->text, duet__load_acquire(&buffer->used));
}

static void at_exit(void)
{
    duet__lock(&file.lock);
    write_all();
    int fd = duet__load_relaxed(&file.fd);
    duet__store_relaxed(&file.fd, -1); /* what comes now is not recorded any more */
    duet__unlock(&file.lock);
    if (fd >= 0)
        close(fd);
}

/* ---- Dying ---- */

static const int deadly[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGTRAP, SIGSYS};
enum {
    DEADLY = sizeof deadly / sizeof deadly[0],
};
static struct sigaction before[DEADLY];

/* Writes what all threads have finished, and leaves the rest to whoever was there before: a fault
 * happens again when we return, a signal that was sent is sent again. */
static void on_death(int signo, siginfo_t *info, void *context)
{
    int saved_errno = errno;
    bool locked = false;
    (void)context;
    for (int i = 0; i < CRASH_TRIES && !locked; i++) {
        uint32_t is_free = 0;
        locked = duet__cas_acquire(&file.lock.word, &is_free, 1);
    }
    if (locked) {
        write_all();
        duet__store_relaxed(&file.fd, -1);
        duet__unlock(&file.lock);
    }
    for (int i = 0; i < DEADLY; i++)
        if (deadly[i] == signo)
            sigaction(signo, &before[i], NULL);
    if (info->si_code <= 0)
        raise(signo);
    errno = saved_errno;
}

static void watch_death(void)
{
    struct sigaction ours = {.sa_sigaction = on_death, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    sigemptyset(&ours.sa_mask);
    for (int i = 0; i < DEADLY; i++) {
        sigaction(deadly[i], NULL, &before[i]);
        if ((before[i].sa_flags & SA_SIGINFO) || before[i].sa_handler != SIG_IGN)
            sigaction(deadly[i], &ours, NULL);
    }
}

/* ---- Opening ---- */

static void buffer_give_back(void *buffer_of_thread)
{
    struct duet__trace_buffer *buffer = buffer_of_thread;
    flush(buffer);
    mine = NULL;
    duet__lock(&file.lock);
    buffer->next_free = file.free;
    file.free = buffer;
    duet__unlock(&file.lock);
}

/* 0 and the lock of the file, which is ours alone then, or a negative errno. */
static int open_alone(const char *path)
{
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (fd < 0)
        return -errno;
    /* Not before we know that no other process writes to it: a child that runs the same program
     * with the same environment, say. */
    if (flock(fd, LOCK_EX | LOCK_NB) < 0 || ftruncate(fd, 0) < 0) {
        int rc = -errno;
        close(fd);
        return rc;
    }
    return fd;
}

/* The first page. */
static bool write_head(int fd)
{
    char page[PAGE], name[64] = "?";
    struct duet__text text = {page};
    int comm = open("/proc/self/comm", O_RDONLY | O_CLOEXEC);
    ssize_t n = comm < 0 ? 0 : read(comm, name, sizeof name - 1);
    if (comm >= 0)
        close(comm);
    if (n > 0)
        name[n - 1] = '\0'; /* instead of the line feed */
    memset(spaces, ' ', sizeof spaces);
    memcpy(page, spaces, PAGE);
    duet__text_add(&text, "[\n{\"ph\":\"M\",\"name\":\"process_name\",\"ts\":0,\"pid\":");
    duet__text_number(&text, (uint64_t)duet__trace_process());
    duet__text_add(&text, ",\"tid\":");
    duet__text_number(&text, (uint64_t)duet__trace_process());
    duet__text_add(&text, ",\"args\":{\"name\":\"");
    duet__text_name(&text, name);
    duet__text_add(&text, "\"}}");
    memcpy(page + PAGE - TAIL, tail, TAIL);
    file.page = 0;
    file.end = text.at - page;
    duet__store_relaxed(&file.fd, fd);
    return write_at(page, PAGE, 0);
}

bool duet__trace_file_open(const char *path)
{
    int fd = open_alone(path);
    if (fd < 0) {
        duet__log(DUET_WARNING, "DUET_TRACE: nothing is traced: %s: %s", path,
                  fd == -EWOULDBLOCK ? "another process writes to it (%p in the name is the number "
                                       "of the process)"
                                     : duet_strerror(fd));
        return false;
    }
    if (pthread_key_create(&thread_end, buffer_give_back) != 0) {
        close(fd);
        return false;
    }
    duet__lock(&file.lock);
    bool begun = write_head(fd);
    duet__unlock(&file.lock);
    if (!begun) {
        duet__log(DUET_WARNING, "DUET_TRACE: nothing is traced: %s cannot be written", path);
        duet__store_relaxed(&file.fd, -1);
        close(fd);
        return false;
    }
    watch_death();
    atexit(at_exit);
    return true;
}

/* ---- Recording ---- */

int32_t duet__trace_thread(void)
{
    static _Thread_local int32_t number;
    if (!number)
        number = (int32_t)syscall(SYS_gettid);
    return number;
}

int32_t duet__trace_process(void)
{
    return (int32_t)getpid();
}

static struct duet__trace_buffer *buffer_new(void)
{
    struct duet__trace_buffer *buffer =
        mmap(NULL, sizeof *buffer, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (buffer == MAP_FAILED)
        return NULL;
    struct duet__trace_buffer *first = duet__load_relaxed(&file.all);
    do
        buffer->next = first;
    while (!duet__cas_release(&file.all, &first, buffer));
    return buffer;
}

static struct duet__trace_buffer *buffer_of_thread(void)
{
    if (mine)
        return mine;
    duet__lock(&file.lock);
    struct duet__trace_buffer *buffer = file.free;
    if (buffer)
        file.free = buffer->next_free;
    duet__unlock(&file.lock);
    if (!buffer)
        buffer = buffer_new();
    if (!buffer)
        return NULL;
    buffer->lane = (struct duet__trace_lane){0};
    pthread_setspecific(thread_end, buffer);
    return mine = buffer;
}

struct duet__trace_lane *duet__trace_lane(void)
{
    struct duet__trace_buffer *buffer = duet__trace_file_is_open() ? buffer_of_thread() : NULL;
    return buffer ? &buffer->lane : NULL;
}

struct duet__trace_buffer *duet__trace_begin(struct duet__text *text)
{
    struct duet__trace_buffer *buffer = duet__trace_file_is_open() ? buffer_of_thread() : NULL;
    if (!buffer)
        return NULL;
    if (duet__load_relaxed(&buffer->used) + DUET__TRACE_EVENT_MOST > sizeof buffer->text)
        flush(buffer);
    text->at = buffer->text + duet__load_relaxed(&buffer->used); /* our own */
    return buffer;
}

void duet__trace_end(struct duet__trace_buffer *buffer, const struct duet__text *text,
                     int64_t now_ns)
{
    if (duet__load_relaxed(&buffer->used) == 0)
        buffer->oldest_ns = now_ns;
    duet__store_release(&buffer->used, (size_t)(text->at - buffer->text));
    if (now_ns - buffer->oldest_ns > OLD_NS)
        flush(buffer);
}
