#include <duet/duet.h>
#include <stdio.h>
#include <threads.h>

static duet_result look_up(void *id) /* blocks: a job, on a thread of the pool */
{
    printf("%ld ms, %s: blocks its thread\n", (long)(duet_now_ns() / 1000000), duet_self_name());
    thrd_sleep(&(struct timespec){.tv_nsec = 300000000}, NULL);
    return duet_i64(*(int *)id * 2);
}

static duet_result answer(void *id) /* a coroutine: to wait suspends it, never the loop */
{
    duet_result r;
    int rc = duet_offload(NULL, look_up, id, duet_ms(800), &r);
    return rc < 0 ? duet_err(rc) : r;
}

int main(void) /* a plain thread: to wait blocks it; at the deadline the work is asked to end */
{
    duet_loop *loop;
    duet_result r;
    int id = 21, rc = duet_loop_start(&loop, NULL);
    if (rc == 0)
        rc = duet_call(loop, answer, &id, duet_sec(1), &r);
    long value = rc < 0 ? rc : r.err < 0 ? r.err : (long)duet_as_i64(r); /* of the call, the work */
    printf("%ld ms, %s: has %ld\n", (long)(duet_now_ns() / 1000000), duet_self_name(), value);
    return rc < 0 || duet_loop_close(loop, duet_sec(1)) < 0;
}
