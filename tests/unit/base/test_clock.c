/* Moments saturate; results carry what was put in; errors have words; the log goes where it is
 * told. */
#include "cpu.h"
#include "duet_test.h"
#include "log.h"

static void moments_saturate(void **state)
{
    (void)state;
    must_equal(duet_ns(INT64_MAX).ns, DUET_NEVER.ns);
    must_equal(duet_us(INT64_MAX).ns, DUET_NEVER.ns);
    must_equal(duet_sec(INT64_MAX / 2).ns, DUET_NEVER.ns);
    must_equal(duet_sec(INT64_MIN).ns, 0);
    must_equal(duet_ns(INT64_MIN).ns, 0);
    int64_t now = duet_now_ns();
    must(duet_ms(5).ns >= now + 5000000);
    must(duet_sec(-1).ns < now);
    must(duet_sec(-1).ns >= 0);
}

static void results_are_two_words_and_keep_their_value(void **state)
{
    (void)state;
    int x;
    must_equal(sizeof(duet_result), 16);
    must_equal(duet_as_i64(duet_i64(INT64_MIN)), INT64_MIN);
    must(duet_as_f64(duet_f64(0.5)) == 0.5);
    must(duet_as_ptr(duet_ptr(&x)) == &x);
    must_equal(duet_err(-EIO).err, -EIO);
    must_equal(duet_ok().err, 0);
    must_equal(duet_ok().kind, DUET_VOID);
}

static void every_error_has_words(void **state)
{
    (void)state;
    static const int errors[] = {0,         -ETIME,  -ECANCELED, -EDEADLK, -ESHUTDOWN, -EAGAIN,
                                 -EALREADY, -ENOMEM, -EINVAL,    -ENOTSUP, -EIO,       -99999};
    for (size_t i = 0; i < sizeof errors / sizeof errors[0]; i++) {
        must(duet_strerror(errors[i]) != NULL);
        must(strlen(duet_strerror(errors[i])) > 3);
        must(duet_strerror(errors[i]) == duet_strerror(-errors[i]));
    }
    must(strcmp(duet_strerror(-ETIME), duet_strerror(-ECANCELED)) != 0);
}

static void the_log_goes_where_it_is_told(void **state)
{
    (void)state;
    log_capture();
    duet__log(DUET_INFO, "a line with %d", 42);
    must_equal(log_count("a line with 42"), 1);
    log_release();
    duet__log(DUET_INFO, "below the level, and nobody listens: 43");
    must(!log_has("43"));
}

static void log_again(void *ctx, enum duet_level level, const char *line)
{
    (void)level;
    ++*(int *)ctx;
    if (strcmp(line, "first") == 0)
        duet__log(DUET_WARNING, "(a line that the log function caused: this is part of a test)");
    must_equal(duet_sleep(duet_sec(1)), -EDEADLK); /* it must not wait */
}

static void a_log_function_may_cause_a_line_itself(void **state)
{
    (void)state;
    int calls = 0;
    duet_log_set(log_again, &calls, DUET_DEBUG);
    errno = ERANGE;
    duet__log(DUET_ERROR, "first");
    must_equal(errno, ERANGE);
    duet_log_set(NULL, NULL, DUET_WARNING);
    must_equal(calls, 1);
}

static void a_thread_has_its_own_name(void **state)
{
    (void)state;
    char name[16];
    must_equal(pthread_getname_np(pthread_self(), name, sizeof name), 0);
    must(strcmp(duet_self_name(), name) == 0);
}

static void there_is_a_processor(void **state)
{
    (void)state;
    duet__cpu_refresh();
    must(duet__cpu_count() >= 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(moments_saturate),
        cmocka_unit_test(results_are_two_words_and_keep_their_value),
        cmocka_unit_test(every_error_has_words),
        cmocka_unit_test(the_log_goes_where_it_is_told),
        cmocka_unit_test(a_log_function_may_cause_a_line_itself),
        cmocka_unit_test(a_thread_has_its_own_name),
        cmocka_unit_test(there_is_a_processor),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
