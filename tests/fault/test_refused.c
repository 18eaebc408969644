/* The kernel refuses, a limit is reached: each is an error that says which, and leaves nothing
 * behind.
 *
 * Each test runs in a child process, since filters and limits cannot be taken back. */
#include "duet_test.h"
#include "ring.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* Runs body(arg) in a child, which must end well. */
static void in_child(void (*body)(int arg), int arg)
{
    int status;
    fflush(NULL);
    pid_t child = fork();
    must(child >= 0);
    if (child == 0) {
        body(arg);
        _exit(0);
    }
    must(waitpid(child, &status, 0) == child);
    must_equal(status, 0);
}

/* From here on this system call fails with this errno. */
static void refuse_syscall(int number, int err)
{
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)number, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ((unsigned)err & 0xffff)),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof filter / sizeof filter[0], filter};
    must(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    must(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0);
}

static atomic_int drops;

/* A loop that cannot start says so three ways, and settles what it had accepted. */
static void must_refuse_to_start(int err, const char *word)
{
    duet_loop *loop = NULL;
    int fds = count_fds();
    log_capture();
    must_equal(duet_loop_start(&loop, NULL), err);
    must(loop == NULL);
    must(log_has("cannot start"));
    must(log_has(word));
    must_equal(duet_run(return_ok, NULL, NULL), err);
    must_equal(duet_loop_open(&loop, NULL), 0);
    const duet_opts opts = {.drop = count_drop};
    duet_future *f = duet_submit_with(loop, return_ok, &drops, &opts);
    must(!duet_future_settled(f));
    must_equal(duet_loop_run(loop), err);
    must(duet_future_settled(f));
    must_equal(duet_future_result(f).err, -ECANCELED);
    must_equal(drops, 1);
    duet_future_unref(f);
    f = duet_submit_with(loop, return_ok, &drops, &opts);
    must_equal(duet_future_result(f).err, -ESHUTDOWN);
    must_equal(drops, 2);
    duet_future_unref(f);
    must_equal(duet_loop_close(loop, SURELY), 0);
    must_equal(count_fds(), fds);
    log_release();
}

static void refused_setup(int err)
{
    refuse_syscall(SYS_io_uring_setup, err);
    must_refuse_to_start(-err, err == ENOSYS   ? "no io_uring"
                               : err == ENOMEM ? "RLIMIT_MEMLOCK"
                               : err == EMFILE ? "RLIMIT_NOFILE"
                               : err == ENFILE ? "fs.file-max"
                               : err == EINVAL ? "too old"
                                               : "seccomp");
}

static void a_refused_ring_says_what_to_do(void **state)
{
    (void)state;
    static const int errors[] = {EPERM, EACCES, ENOSYS, ENOMEM, EMFILE, ENFILE, EINVAL};
    for (size_t i = 0; i < sizeof errors / sizeof errors[0]; i++)
        in_child(refused_setup, errors[i]);
}

static void refused_enter(int err)
{
    refuse_syscall(SYS_io_uring_enter, err);
    must_refuse_to_start(-err, "io_uring_enter");
}

static void a_filter_that_allows_the_setup_and_refuses_the_rest_is_found_at_the_start(void **state)
{
    (void)state;
    in_child(refused_enter, EPERM);
    in_child(refused_enter, ENOSYS);
}

static void no_descriptors(int left)
{
    struct rlimit limit;
    duet_loop *loop = NULL;
    log_capture();
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = 64;
    must(setrlimit(RLIMIT_NOFILE, &limit) == 0);
    int last = dup(0);
    for (int fd = last; fd >= 0; fd = dup(0)) /* take all there are */
        last = fd;
    for (; left > 0; left--)
        close(last--);
    must_equal(duet_loop_start(&loop, NULL), -EMFILE);
    must(loop == NULL);
    must(log_has("RLIMIT_NOFILE"));
    log_release();
}

static void too_few_descriptors_is_emfile_and_names_the_limit(void **state)
{
    (void)state;
    in_child(no_descriptors, 0); /* none for the eventfd */
    in_child(no_descriptors, 1); /* none for the ring */
}

static void little_locked_memory(int kib)
{
    struct rlimit limit = {(rlim_t)kib * 1024, (rlim_t)kib * 1024};
    must(setrlimit(RLIMIT_MEMLOCK, &limit) == 0);
    must(setresuid(65534, 65534, 65534) == 0); /* root is exempt */
    duet_loop *loop = NULL;
    log_capture();
    int rc = duet_loop_start(&loop, NULL);
    if (kib > 0) { /* a smaller ring was found, or this user's is not charged */
        must_equal(rc, 0);
        must_equal(duet_call(loop, return_ok, NULL, SURELY, NULL), 0);
        must_equal(duet_loop_close(loop, SURELY), 0);
    } else if (rc < 0) { /* kernels before 5.12 and since some later ones */
        must_equal(rc, -ENOMEM);
        must(log_has("RLIMIT_MEMLOCK is 0 KiB"));
    }
    log_release();
}

static void little_locked_memory_makes_a_smaller_ring_none_names_the_limit(void **state)
{
    (void)state;
    if (geteuid() != 0)
        skip();
    in_child(little_locked_memory, 64);
    in_child(little_locked_memory, 0);
}

static void many_in_a_row(int unused)
{
    struct rlimit limit = {256 * 1024, 256 * 1024};
    (void)unused;
    must(setrlimit(RLIMIT_MEMLOCK, &limit) == 0);
    must(setresuid(65531, 65531, 65531) == 0);
    for (int i = 0; i < 50; i++)
        must_equal(duet_run(return_ok, NULL, NULL), 0);
}

/* The kernel gives a closed ring's locked memory back late; its owner must not see that. */
static void loops_in_a_row_need_the_locked_memory_of_few(void **state)
{
    (void)state;
    if (geteuid() != 0)
        skip();
    in_child(many_in_a_row, 0);
}

static void thread_limit(int unused)
{
    struct rlimit limit = {1, 1};
    (void)unused;
    must(setresuid(65533, 65533, 65533) == 0);
    must(setrlimit(RLIMIT_NPROC, &limit) == 0);
    duet_loop *loop = NULL;
    duet_pool *pool = NULL;
    duet_result r;
    log_capture();
    must_equal(duet_loop_start(&loop, NULL), -EAGAIN);
    must(log_has("RLIMIT_NPROC"));
    must_equal(duet_pool_open(&pool, &(duet_pool_config){.workers_min = 1}), -EAGAIN);
    must(loop == NULL && pool == NULL);
    must(log_count("RLIMIT_NPROC") == 2);
    must_equal(duet_offload(NULL, return_ok, NULL, SURELY, &r), 0); /* the default pool */
    must_equal(r.err, -EAGAIN);
    must_equal(duet_run(return_ok, NULL, NULL), 0); /* needs no thread */
    log_release();
}

static void no_thread_is_eagain_and_names_the_limit(void **state)
{
    (void)state;
#ifdef __SANITIZE_THREAD__
    skip(); /* its own thread counts */
#else
    if (geteuid() != 0)
        skip();
    in_child(thread_limit, 0);
#endif
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_refused_ring_says_what_to_do),
        cmocka_unit_test(a_filter_that_allows_the_setup_and_refuses_the_rest_is_found_at_the_start),
        cmocka_unit_test(too_few_descriptors_is_emfile_and_names_the_limit),
        cmocka_unit_test(little_locked_memory_makes_a_smaller_ring_none_names_the_limit),
        cmocka_unit_test(loops_in_a_row_need_the_locked_memory_of_few),
        cmocka_unit_test(no_thread_is_eagain_and_names_the_limit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
