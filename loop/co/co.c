/* How stacks come and go: the sanitizers and valgrind are told of them. */
#include "co.h"

#ifdef DUET__ASAN
#include <pthread.h>
#include <sanitizer/asan_interface.h>
#endif
#ifdef DUET__HAVE_VALGRIND
#include <valgrind/valgrind.h>
#endif
#include <string.h>

_Thread_local struct duet__co *duet__co_running;

#ifdef DUET__ASAN
/* The first switch to a stack ends here, not behind duet__switch(). */
static void first_entry(void *arg)
{
    struct duet__co *co = arg;
    __sanitizer_finish_switch_fiber(NULL, NULL, NULL);
    co->entry(co->arg);
}
#endif

void duet__co_init(struct duet__co *co, char *low, char *high, void (*entry)(void *arg), void *arg)
{
    memset(co, 0, sizeof *co);
    co->low = low;
#ifdef DUET__ASAN
    co->high = high;
    /* Frames that were here before may have left their red zones. */
    ASAN_UNPOISON_MEMORY_REGION(low, (size_t)(high - low));
    co->entry = entry;
    co->arg = arg;
    entry = first_entry;
    arg = co;
#endif
#ifdef DUET__TSAN
    co->fiber = __tsan_create_fiber(0);
#endif
#ifdef DUET__HAVE_VALGRIND
    co->valgrind_id = VALGRIND_STACK_REGISTER(low, high);
#endif
    co->at = duet__switch_prepare(low, high, entry, arg);
}

void duet__co_adopt(struct duet__co *co)
{
    memset(co, 0, sizeof *co);
#ifdef DUET__ASAN
    pthread_attr_t attr;
    void *low;
    size_t size;
    if (pthread_getattr_np(pthread_self(), &attr) == 0) {
        pthread_attr_getstack(&attr, &low, &size);
        pthread_attr_destroy(&attr);
        co->low = low;
        co->high = co->low + size;
    }
#endif
#ifdef DUET__TSAN
    co->fiber = __tsan_get_current_fiber();
#endif
}

void duet__co_release(void)
{
    duet__co_running = NULL;
}

void duet__co_fini(struct duet__co *co)
{
#ifdef DUET__TSAN
    __tsan_destroy_fiber(co->fiber);
#endif
#ifdef DUET__HAVE_VALGRIND
    VALGRIND_STACK_DEREGISTER(co->valgrind_id);
#endif
    (void)co;
}
