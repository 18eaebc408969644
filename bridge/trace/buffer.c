#include "buffer.h"
#include "atomic.h"
#include "fork.h"
#include "lock.h"
#include "pages.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <unistd.h>

enum {
    BUFFER_SIZE = 64 * 1024,
    OLD_NS = 250000000, /* then it is written, though not full */
    CRASH_TRIES = 10000, /* how often a crashing thread looks for the lock, before it gives up */
};

/* Mapped, so that it is in nobody's way, and there for as long as the process: in the list of all,
 * or, when its thread has ended, free for the next one besides. */
struct duet__trace_buffer {
    struct duet__trace_buffer *next; /* constant once it is in the list */
    struct duet__trace_buffer *next_free; /* guarded by the lock */
    /* How much is finished. Written by its thread, with the lock when it becomes less. Release:
     * publishes the bytes before it; whoever writes for the end of the process acquires them. */
    _Atomic size_t used;
    int64_t oldest_ns; /* its thread's: when the first of them came */
    char text[BUFFER_SIZE];
};

static struct duet__lock lock; /* guards these two */
static struct duet__pages pages = {.fd = -1};
static struct duet__trace_buffer *free_buffers;
/* Push only. Release: publishes the buffer; the end of the process acquires it. */
static _Atomic(struct duet__trace_buffer *) buffers;
/* 1 while the file takes events; relaxed: a look. */
static _Atomic uint32_t is_open;

static _Thread_local struct duet__trace_buffer *mine;
static pthread_key_t thread_end; /* gives `mine` back */

/* The file is the parent's; to the child it is closed. */
static void reset(void)
{
    duet__store_relaxed(&lock.word, 0);
    duet__store_relaxed(&is_open, 0);
    mine = NULL;
    duet__pages_close(&pages);
}
DUET__IN_CHILD(reset)

bool duet__trace_is_open(void)
{
    return duet__load_relaxed(&is_open);
}

/* ---- Writing ---- */

/* By the buffer's thread. */
static void flush(struct duet__trace_buffer *buffer)
{
    duet__lock(&lock);
    if (duet__trace_is_open())
        duet__pages_write(&pages, buffer->text, duet__load_relaxed(&buffer->used)); /* our own */
    if (pages.fd < 0)
        duet__store_relaxed(&is_open, 0);
    duet__store_release(&buffer->used, 0);
    duet__unlock(&lock);
}

/* Under the lock, for the end of the process: what all threads have finished, and no more. */
static void write_all(void)
{
    if (duet__trace_is_open())
        for (struct duet__trace_buffer *buffer = duet__load_acquire(&buffers); buffer;
             buffer = buffer->next)
            duet__pages_write(&pages, buffer->text, duet__load_acquire(&buffer->used));
    duet__store_relaxed(&is_open, 0);
}

static void at_exit(void)
{
    duet__lock(&lock);
    write_all();
    duet__pages_close(&pages);
    duet__unlock(&lock);
}

/* ---- Dying ---- */

static const int deadly[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGTRAP, SIGSYS};
enum {
    DEADLY = sizeof deadly / sizeof deadly[0],
};
static struct sigaction before[DEADLY];

static bool try_lock(void)
{
    for (int i = 0; i < CRASH_TRIES; i++) {
        uint32_t is_free = 0;
        if (duet__cas_acquire(&lock.word, &is_free, 1)) /* as duet__lock() */
            return true;
        sched_yield(); /* who holds it may not run just now */
    }
    return false;
}

/* Leaves the rest to whoever was there before: a fault happens again when we return, but a trap
 * does not; that, and a signal that was sent, is sent again. */
static void on_death(int signo, siginfo_t *info, void *context)
{
    int saved_errno = errno;
    (void)context;
    if (try_lock()) {
        write_all();
        duet__unlock(&lock);
    }
    for (int i = 0; i < DEADLY; i++)
        if (deadly[i] == signo)
            sigaction(signo, &before[i], NULL);
    if (info->si_code <= 0 || signo == SIGTRAP || signo == SIGSYS)
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

static void give_back(void *arg)
{
    struct duet__trace_buffer *buffer = arg;
    flush(buffer);
    mine = NULL;
    duet__lock(&lock);
    buffer->next_free = free_buffers;
    free_buffers = buffer;
    duet__unlock(&lock);
}

/* An empty file that no other process writes to, or a negative errno. */
static int open_alone(const char *path)
{
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (fd < 0)
        return -errno;
    /* Not emptied before we know that nobody else has it: a child that runs the same program with
     * the same environment, say. */
    if (flock(fd, LOCK_EX | LOCK_NB) < 0 || ftruncate(fd, 0) < 0) {
        int rc = -errno;
        close(fd);
        return rc;
    }
    return fd;
}

/* 0, or a negative errno. */
static int begin_pages(int fd)
{
    char event[512];
    struct duet__text text = {event};
    duet__text_add(&text, "{\"ph\":\"M\",\"name\":\"process_name\",\"ts\":0,\"pid\":");
    duet__text_number(&text, (uint64_t)getpid());
    duet__text_add(&text, ",\"tid\":");
    duet__text_number(&text, (uint64_t)getpid());
    duet__text_add(&text, ",\"args\":{\"name\":\"");
    duet__text_name(&text, program_invocation_short_name);
    duet__text_add(&text, "\"}}");
    return duet__pages_open(&pages, fd, event, (size_t)(text.at - event)) ? 0 : -EIO;
}

int duet__trace_open(const char *path)
{
    int fd = open_alone(path);
    if (fd < 0)
        return fd;
    int rc = -pthread_key_create(&thread_end, give_back);
    if (rc == 0)
        rc = begin_pages(fd);
    if (rc < 0) {
        close(fd);
        return rc;
    }
    duet__store_relaxed(&is_open, 1);
    watch_death();
    atexit(at_exit);
    return 0;
}

/* ---- Recording ---- */

static struct duet__trace_buffer *buffer_new(void)
{
    struct duet__trace_buffer *buffer =
        mmap(NULL, sizeof *buffer, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (buffer == MAP_FAILED)
        return NULL;
    struct duet__trace_buffer *first = duet__load_relaxed(&buffers);
    do
        buffer->next = first;
    while (!duet__cas_release(&buffers, &first, buffer));
    return buffer;
}

static struct duet__trace_buffer *buffer_of_thread(void)
{
    if (mine)
        return mine;
    duet__lock(&lock);
    struct duet__trace_buffer *buffer = free_buffers;
    if (buffer)
        free_buffers = buffer->next_free;
    duet__unlock(&lock);
    if (!buffer)
        buffer = buffer_new();
    if (buffer)
        pthread_setspecific(thread_end, buffer);
    return mine = buffer;
}

struct duet__trace_buffer *duet__trace_begin(struct duet__text *text)
{
    struct duet__trace_buffer *buffer = duet__trace_is_open() ? buffer_of_thread() : NULL;
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
