/* What net.h says of servers, of dialling and of names. Host names are those of this file, by its
 * own getaddrinfo(3). */
#include "duet_test.h"
#include "shared.h"

#include <arpa/inet.h>
#include <dlfcn.h>
#include <duet/io.h>
#include <duet/net.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

/* ---- Names ---- */

static struct gate *name_gate; /* of "blocked.test" */
static atomic_int names_blocked;
static struct {
    char host[64], port[8];
} listed[8]; /* of "listed.test" */
static int listed_count;
static pthread_mutex_t list_mutex = PTHREAD_MUTEX_INITIALIZER; /* a look-up may be left behind */

typedef int getaddrinfo_fn(const char *, const char *, const struct addrinfo *, struct addrinfo **);

static int real_getaddrinfo(const char *host, const char *port, const struct addrinfo *hints,
                            struct addrinfo **ret)
{
    static getaddrinfo_fn *_Atomic real;
    static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
    getaddrinfo_fn *fn = atomic_load(&real);
    if (fn == NULL) {
        void *found = dlsym(RTLD_NEXT, "getaddrinfo");
        must(found != NULL);
        memcpy(&fn, &found, sizeof fn);
        atomic_store(&real, fn);
    }
    /* One at a time: its cache of interfaces has a lock that the thread sanitizer does not see. */
    pthread_mutex_lock(&mutex);
    int rc = fn(host, port, hints, ret);
    pthread_mutex_unlock(&mutex);
    return rc;
}

/* In the place of the C library's: no test asks a name server. */
int getaddrinfo(const char *host, const char *port, const struct addrinfo *hints,
                struct addrinfo **ret)
{
    if (host == NULL || strstr(host, ".test") == NULL)
        return real_getaddrinfo(host, port, hints, ret);
    if (hints != NULL && (hints->ai_flags & AI_NUMERICHOST))
        return EAI_NONAME;
    if (strcmp(host, "again.test") == 0)
        return EAI_AGAIN;
    if (strcmp(host, "failing.test") == 0)
        return EAI_FAIL;
    if (strcmp(host, "blocked.test") == 0) {
        atomic_fetch_add(&names_blocked, 1);
        gate_pass(name_gate);
        int rc = real_getaddrinfo("127.0.0.1", port, hints, ret);
        atomic_fetch_sub(&names_blocked, 1);
        return rc;
    }
    if (strcmp(host, "listed.test") == 0) {
        struct addrinfo **last = ret;
        *ret = NULL;
        pthread_mutex_lock(&list_mutex);
        for (int i = 0; i < listed_count; i++) {
            int rc = real_getaddrinfo(listed[i].host, listed[i].port, hints, last);
            must_equal(rc, 0);
            while (*last != NULL)
                last = &(*last)->ai_next;
        }
        pthread_mutex_unlock(&list_mutex);
        return *ret == NULL ? EAI_NONAME : 0;
    }
    return EAI_NONAME;
}

static void list_clear(void)
{
    pthread_mutex_lock(&list_mutex);
    listed_count = 0;
    pthread_mutex_unlock(&list_mutex);
}

static uint16_t port_of(const struct sockaddr_storage *addr)
{
    return ntohs(addr->ss_family == AF_INET6 ? ((const struct sockaddr_in6 *)addr)->sin6_port
                                             : ((const struct sockaddr_in *)addr)->sin_port);
}

static void list_add(const struct sockaddr_storage *addr)
{
    pthread_mutex_lock(&list_mutex);
    int i = listed_count++;
    must(i < (int)COUNT(listed));
    if (addr->ss_family == AF_INET)
        inet_ntop(AF_INET, &((const struct sockaddr_in *)addr)->sin_addr, listed[i].host,
                  sizeof listed[i].host);
    else
        inet_ntop(AF_INET6, &((const struct sockaddr_in6 *)addr)->sin6_addr, listed[i].host,
                  sizeof listed[i].host);
    snprintf(listed[i].port, sizeof listed[i].port, "%u", port_of(addr));
    pthread_mutex_unlock(&list_mutex);
}

/* ---- What the tests of this file share ---- */

/* Until it is true, which only a hang would prevent. */
#define until(condition)                                                                           \
    do {                                                                                           \
        int64_t until_by = SURELY.ns;                                                              \
        while (!(condition)) {                                                                     \
            must(duet_now_ns() < until_by);                                                        \
            must_equal(duet_sleep(duet_us(200)), 0);                                               \
        }                                                                                          \
    } while (0)

/* Some turns of the loop: the time in which what should not happen would. */
static void let_run(void)
{
    for (int i = 0; i < 20; i++)
        must_equal(duet_yield(), 0);
    must_equal(duet_sleep(duet_ms(2)), 0);
}

static struct sockaddr_storage address_of(const char *host, uint16_t port)
{
    struct sockaddr_storage addr = {0};
    struct sockaddr_in *in = (struct sockaddr_in *)&addr;
    struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)&addr;
    if (inet_pton(AF_INET, host, &in->sin_addr) == 1) {
        in->sin_family = AF_INET;
        in->sin_port = htons(port);
    } else {
        must(inet_pton(AF_INET6, host, &in6->sin6_addr) == 1);
        in6->sin6_family = AF_INET6;
        in6->sin6_port = htons(port);
    }
    return addr;
}

static struct sockaddr_storage unix_address(const char *path)
{
    struct sockaddr_storage addr = {.ss_family = AF_UNIX};
    struct sockaddr_un *un = (struct sockaddr_un *)&addr;
    must(strlen(path) < sizeof un->sun_path);
    strcpy(un->sun_path, path);
    return addr;
}

static socklen_t length_of(const struct sockaddr_storage *addr)
{
    return addr->ss_family == AF_INET    ? sizeof(struct sockaddr_in)
           : addr->ss_family == AF_INET6 ? sizeof(struct sockaddr_in6)
                                         : sizeof(struct sockaddr_un);
}

static bool has_ipv6(void)
{
    struct sockaddr_storage addr = address_of("::1", 0);
    int fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool has = fd >= 0 && bind(fd, (struct sockaddr *)&addr, length_of(&addr)) == 0;
    if (fd >= 0)
        close(fd);
    return has;
}

/* A plain listening socket of the test's own. */
static int listen_plainly(const char *host, int backlog, struct sockaddr_storage *ret)
{
    socklen_t len = sizeof *ret;
    *ret = address_of(host, 0);
    int fd = socket(ret->ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    must(fd >= 0);
    must(bind(fd, (struct sockaddr *)ret, length_of(ret)) == 0);
    must(listen(fd, backlog) == 0);
    must(getsockname(fd, (struct sockaddr *)ret, &len) == 0);
    return fd;
}

/* An address at which a connection neither succeeds nor fails: the backlog is full. */
struct full {
    int listener, fillers[4];
    struct sockaddr_storage addr;
};

static void full_open(struct full *full)
{
    full->listener = listen_plainly("127.0.0.1", 0, &full->addr);
    for (size_t i = 0; i < COUNT(full->fillers); i++) {
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        must(fd >= 0);
        must(connect(fd, (struct sockaddr *)&full->addr, length_of(&full->addr)) < 0);
        full->fillers[i] = fd;
    }
    struct pollfd last = {.fd = full->fillers[COUNT(full->fillers) - 1], .events = POLLOUT};
    must(poll(&last, 1, 20) == 0);
}

static void full_close(struct full *full)
{
    for (size_t i = 0; i < COUNT(full->fillers); i++)
        close(full->fillers[i]);
    close(full->listener);
}

/* An address at which nobody listens. */
static struct sockaddr_storage nobody_at(const char *host)
{
    struct sockaddr_storage addr;
    close(listen_plainly(host, 1, &addr));
    return addr;
}

static int connect_to(const struct sockaddr_storage *addr)
{
    int fd = socket(addr->ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    must(fd >= 0);
    must_equal(duet_connect(fd, (const struct sockaddr *)addr, length_of(addr), SURELY), 0);
    return fd;
}

static void says(int fd, const char *text)
{
    must_equal(duet_write(fd, text, strlen(text), SURELY), strlen(text));
}

static void hears(int fd, const char *text)
{
    char buf[64] = "";
    size_t n = strlen(text);
    for (size_t got = 0; got < n;) {
        ssize_t rc = duet_read(fd, buf + got, n - got, SURELY);
        must(rc > 0);
        got += (size_t)rc;
    }
    must(memcmp(buf, text, n) == 0);
}

static void hears_the_end(int fd)
{
    char c;
    must_equal(duet_read(fd, &c, 1, SURELY), 0);
}

static bool hears_nothing(int fd)
{
    char c;
    return duet_read(fd, &c, 1, duet_ms(3)) == -ETIME;
}

static void resets(int fd)
{
    struct linger linger = {.l_onoff = 1};
    must(setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger) == 0);
    must(close(fd) == 0);
}

/* Asks and is answered: somebody serves it. */
static void is_served(int fd)
{
    says(fd, "hello\n");
    hears(fd, "hello\n");
}

/* ---- Handlers ---- */

/* Says every line back, until the end. */
static duet_result echo(duet_stream *stream, void *arg)
{
    const char *line;
    ssize_t n;
    atomic_int *ended = arg;
    while ((n = duet_stream_read_line(stream, &line, SURELY)) > 0) {
        int rc = duet_stream_write(stream, line, (size_t)n, SURELY);
        if (rc < 0)
            n = rc;
        if (rc < 0)
            break;
    }
    if (ended != NULL)
        atomic_fetch_add(ended, 1);
    return n < 0 ? duet_err((int)n) : duet_ok();
}

static duet_result fail_eproto(duet_stream *stream, void *arg)
{
    (void)stream;
    (void)arg;
    return duet_err(-EPROTO);
}

/* Until it is cancelled. */
static duet_result hang(duet_stream *stream, void *arg)
{
    (void)stream;
    duet_result r = sleep_long(NULL);
    if (arg != NULL)
        atomic_fetch_add((atomic_int *)arg, 1);
    return r;
}

/* ---- A server and the coroutine that serves ---- */

struct serving {
    duet_server *server;
    duet_deadline by;
    struct sockaddr_storage addr;
    duet_future *f;
    int rc;
    bool returned;
};

static duet_result serve_run(void *arg)
{
    struct serving *s = arg;
    s->rc = duet_server_serve(s->server, s->by);
    s->returned = true;
    return duet_ok();
}

static void serve_start(struct serving *s)
{
    s->by = SURELY;
    s->returned = false;
    s->f = duet_spawn(serve_run, s);
    must_equal(duet_yield(), 0);
}

static void serving_open(struct serving *s, const duet_server_config *config)
{
    *s = (struct serving){0};
    must_equal(duet_server_open(&s->server, config), 0);
    must(s->server != NULL);
    must_equal(duet_server_address(s->server, &s->addr), 0);
    serve_start(s);
}

static int serve_end(struct serving *s)
{
    must_equal(finish(s->f).err, 0);
    return s->rc;
}

static void serving_close(struct serving *s)
{
    must_equal(duet_server_close(s->server, SURELY), 0);
    must(s->returned);
    must_equal(serve_end(s), 0);
}

static duet_server_stats stats_of(const struct serving *s)
{
    duet_server_stats stats;
    memset(&stats, 0xff, sizeof stats);
    duet_server_stats_get(s->server, &stats);
    return stats;
}

/* After each test as many descriptors are open as before; a look-up that was left behind may still
 * have some for a while. */
static int fds_before;

static int before_each(void **state)
{
    (void)state;
    fds_before = count_fds();
    return 0;
}

static int after_each(void **state)
{
    (void)state;
    for (duet_deadline by = duet_sec(20); count_fds() != fds_before && duet_now_ns() < by.ns;)
        duet_sleep(duet_ms(1));
    assert_int_equal(count_fds(), fds_before);
    return 0;
}

#define server_test(name) cmocka_unit_test_setup_teardown(name, before_each, after_each)

static char folder[64];

static int open_folder(void **state)
{
    (void)state;
    strcpy(folder, "/tmp/duet-servers-XXXXXX");
    return mkdtemp(folder) == NULL;
}

static int close_folder(void **state)
{
    (void)state;
    return rmdir(folder); /* it is empty: each socket was unlinked */
}

static const char *path_in_folder(const char *name)
{
    static char path[100];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

static const char *unix_host(const char *name)
{
    static char host[110];
    snprintf(host, sizeof host, "unix:%s", path_in_folder(name));
    return host;
}

/* ---- Out of descriptors: first, since the children are forked before there are threads ---- */

struct starving {
    int report[2], room;
    duet_server_config config;
};

static duet_result starve(void *arg)
{
    struct starving *st = arg;
    struct serving s;
    struct rlimit limit;
    log_capture();
    s = (struct serving){0};
    must_equal(duet_server_open(&s.server, &st->config), 0);
    must_equal(duet_server_address(s.server, &s.addr), 0);
    int lowest = dup(st->report[1]);
    must(lowest >= 0);
    close(lowest);
    must(getrlimit(RLIMIT_NOFILE, &limit) == 0);
    limit.rlim_cur = (rlim_t)(lowest + st->room);
    must(setrlimit(RLIMIT_NOFILE, &limit) == 0);
    serve_start(&s);
    must(write(st->report[1], &s.addr, sizeof s.addr) == sizeof s.addr);
    until(stats_of(&s).accepted == 9 && stats_of(&s).connections == 0);
    must(!s.returned);
    serving_close(&s);
    log_release();
    /* Once: not for each connection, nor for each attempt. */
    must_equal(log_count(duet_strerror(-EMFILE)), 1);
    return duet_ok();
}

static int connect_blocking(const struct sockaddr_storage *addr)
{
    int fd = socket(addr->ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct timeval patience = {.tv_sec = 60};
    must(fd >= 0);
    must(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience) == 0);
    must(connect(fd, (const struct sockaddr *)addr, length_of(addr)) == 0);
    must(send(fd, "hi\n", 3, MSG_NOSIGNAL) == 3);
    return fd;
}

static bool readable_within(int fd, int ms)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    return poll(&p, 1, ms) == 1;
}

thread_test(a_server_without_descriptors_says_so_once_and_goes_on_when_there_are_some)
{
    for (int room = 1; room <= 3; room += 2) {
        struct starving st = {.room = room, .config = {.handler = echo}};
        struct sockaddr_storage addr;
        int clients[9], status;
        char buf[3];
        must(pipe2(st.report, O_CLOEXEC) == 0);
        fflush(NULL);
        pid_t child = fork();
        must(child >= 0);
        if (child == 0) {
            alarm(50);
            close(st.report[0]);
            _exit(duet_run(starve, &st, NULL) == 0 ? 0 : 1);
        }
        close(st.report[1]);
        must(read(st.report[0], &addr, sizeof addr) == sizeof addr);
        for (int i = 0; i < 9; i++)
            clients[i] = connect_blocking(&addr); /* the backlog takes all */
        for (int i = 0; i < 9; i++) {
            /* They are served in order: this one, and there is no room for the one after. */
            must(recv(clients[i], buf, 3, MSG_WAITALL) == 3);
            must(memcmp(buf, "hi\n", 3) == 0);
            if (i + room < 9)
                must(!readable_within(clients[i + room], 20));
            must(close(clients[i]) == 0); /* its descriptor comes back */
        }
        must(waitpid(child, &status, 0) == child);
        must_equal(status, 0);
        close(st.report[0]);
    }
}

/* The descriptors come back without the end of a connection: there is none. */
struct hoarding {
    int hoard[64], count;
};

static duet_result hoard_all(void *arg)
{
    (void)arg;
    struct serving s;
    struct rlimit limit;
    struct hoarding h = {.count = 0};
    duet_server_config config = {.handler = echo};
    int client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    must(client >= 0);
    must(getrlimit(RLIMIT_NOFILE, &limit) == 0);
    limit.rlim_cur = (rlim_t)client + 20; /* before anything is in flight, which keeps its limit */
    must(setrlimit(RLIMIT_NOFILE, &limit) == 0);
    log_capture();
    serving_open(&s, &config);
    let_run();
    while (h.count < (int)COUNT(h.hoard) && (h.hoard[h.count] = dup(client)) >= 0)
        h.count++;
    must(h.count > 0 && h.count < (int)COUNT(h.hoard));
    must_equal(duet_connect(client, (struct sockaddr *)&s.addr, length_of(&s.addr), SURELY), 0);
    says(client, "hello\n");
    must(hears_nothing(client));
    must(hears_nothing(client));
    must(!s.returned);
    must_equal(stats_of(&s).accepted, 0);
    while (h.count > 0)
        close(h.hoard[--h.count]);
    hears(client, "hello\n");
    must_equal(log_count(duet_strerror(-EMFILE)), 1);
    must_equal(stats_of(&s).accepted, 1);
    close(client);
    serving_close(&s);
    log_release();
    return duet_ok();
}

thread_test(a_server_without_descriptors_and_connections_tries_again)
{
    int status;
    fflush(NULL);
    pid_t child = fork();
    must(child >= 0);
    if (child == 0) {
        alarm(50);
        _exit(duet_run(hoard_all, NULL, NULL) == 0 ? 0 : 1);
    }
    must(waitpid(child, &status, 0) == child);
    must_equal(status, 0);
}

/* ---- A look-up at the end: forks too ---- */

static int resolve_error(const char *host, const char *port, duet_deadline by)
{
    struct addrinfo *list = NULL;
    int rc = duet_resolve(host, port, &list, by);
    if (rc == 0)
        freeaddrinfo(list);
    return rc;
}

static void exit_with_a_look_up(void *unused)
{
    static struct gate gate = GATE_INIT;
    (void)unused;
    name_gate = &gate;
    alarm(50);
    must_equal(resolve_error("blocked.test", "80", duet_ms(20)), -ETIME);
    fprintf(stderr, "left behind\n");
    exit(0);
}

thread_test(a_program_ends_though_a_look_up_does_not)
{
    int status;
    fflush(NULL);
    pid_t child = fork();
    must(child >= 0);
    if (child == 0)
        exit_with_a_look_up(NULL);
    must(waitpid(child, &status, 0) == child);
    must_equal(status, 0);
}

/* ---- Rules ---- */

static duet_server *lost;

static duet_result open_lost(void *unused)
{
    (void)unused;
    duet_server_config config = {.handler = echo};
    must_equal(duet_server_open(&lost, &config), 0);
    return duet_ok();
}

static void each_call_on_a_thread(void *which)
{
    duet_loop *loop = start_loop();
    struct sockaddr_storage addr;
    duet_server_stats stats;
    duet_stream *stream;
    must_equal(duet_call(loop, open_lost, NULL, SURELY, NULL), 0);
    switch (*(int *)which) {
    case 0:
        open_lost(NULL);
        break;
    case 1:
        duet_server_serve(lost, DUET_NOW);
        break;
    case 2:
        duet_server_close(lost, DUET_NOW);
        break;
    case 3:
        duet_dial(&stream, "127.0.0.1", "1", SURELY);
        break;
    case 4:
        duet_server_address(lost, &addr);
        break;
    default:
        duet_server_stats_get(lost, &stats);
    }
}

thread_test(a_server_that_is_used_off_its_loop_ends_the_program)
{
    for (int which = 0; which < 4; which++)
        expect_death(each_call_on_a_thread, &which, SIGABRT, "broken rule");
}

thread_test(a_server_that_is_asked_off_its_loop_ends_the_program)
{
    for (int which = 4; which < 6; which++)
        expect_death(each_call_on_a_thread, &which, SIGABRT, "broken rule");
}

static duet_result serve_lost(void *unused)
{
    (void)unused;
    duet_server_serve(lost, SURELY);
    return duet_ok();
}

static void serve_on_another_loop(void *unused)
{
    (void)unused;
    duet_loop *loop = start_loop(), *other = start_loop();
    must_equal(duet_call(loop, open_lost, NULL, SURELY, NULL), 0);
    duet_call(other, serve_lost, NULL, SURELY, NULL);
}

thread_test(a_server_that_is_served_on_another_loop_ends_the_program)
{
    expect_death(serve_on_another_loop, NULL, SIGABRT, "broken rule");
}

/* ---- Opening ---- */

coroutine_test(bad_arguments_are_refused)
{
    duet_server *server = NULL;
    duet_server_config good = {.handler = echo}, bad;
    must_equal(duet_server_open(&server, NULL), -EINVAL);
    must_equal(duet_server_open(NULL, &good), -EINVAL);
    bad = (duet_server_config){.host = "127.0.0.1"};
    must_equal(duet_server_open(&server, &bad), -EINVAL);
    for (size_t i = 0; i < COUNT(good.reserved); i++) {
        bad = good;
        bad.reserved[i] = 1;
        must_equal(duet_server_open(&server, &bad), -EINVAL);
    }
    for (size_t i = 0; i < COUNT(good.stream.reserved); i++) {
        bad = good;
        bad.stream.reserved[i] = 1;
        must_equal(duet_server_open(&server, &bad), -EINVAL);
    }
    static const char *const hosts[] = {"localhost", "nonsense", "", "::g", "256.0.0.1"};
    for (size_t i = 0; i < COUNT(hosts); i++) {
        bad = good;
        bad.host = hosts[i];
        int rc = duet_server_open(&server, &bad);
        if (rc != -EINVAL)
            fprintf(stderr, "host '%s'\n", hosts[i]);
        must_equal(rc, -EINVAL);
    }
    static const char *const ports[] = {"http", "80x"};
    for (size_t i = 0; i < COUNT(ports); i++) {
        bad = good;
        bad.port = ports[i];
        int rc = duet_server_open(&server, &bad);
        if (rc != -EINVAL)
            fprintf(stderr, "port '%s'\n", ports[i]);
        must_equal(rc, -EINVAL);
    }
    must(server == NULL);
    return duet_ok();
}

coroutine_test(what_bind_says_is_the_error)
{
    duet_server *server = NULL;
    duet_server_config config = {.host = "192.0.2.1", .handler = echo}; /* not of this machine */
    must_equal(duet_server_open(&server, &config), -EADDRNOTAVAIL);
    struct sockaddr_storage addr;
    int fd = listen_plainly("127.0.0.1", 1, &addr);
    char port[8];
    snprintf(port, sizeof port, "%u", port_of(&addr));
    config = (duet_server_config){.port = port, .handler = echo};
    must_equal(duet_server_open(&server, &config), -EADDRINUSE);
    config.host = "unix:/nowhere/at/all";
    must_equal(duet_server_open(&server, &config), -ENOENT);
    close(fd);
    return duet_ok();
}

coroutine_test(by_default_it_listens_on_loopback_at_a_port_of_the_kernels_choice)
{
    static const char *const ports[] = {NULL, "0"};
    for (size_t i = 0; i < COUNT(ports); i++) {
        struct serving s;
        duet_server_config config = {.port = ports[i], .handler = echo};
        serving_open(&s, &config);
        must_equal(s.addr.ss_family, AF_INET);
        must(((struct sockaddr_in *)&s.addr)->sin_addr.s_addr == htonl(INADDR_LOOPBACK));
        must(port_of(&s.addr) != 0);
        int fd = connect_to(&s.addr);
        is_served(fd);
        close(fd);
        serving_close(&s);
    }
    return duet_ok();
}

coroutine_test(it_listens_at_the_port_it_is_told)
{
    struct serving s;
    char port[8];
    struct sockaddr_storage addr = nobody_at("127.0.0.1");
    snprintf(port, sizeof port, "%u", port_of(&addr));
    for (int again = 0; again < 3; again++) { /* also where connections were just now */
        duet_server_config config = {.port = port, .handler = echo};
        serving_open(&s, &config);
        must(memcmp(&s.addr, &addr, length_of(&addr)) == 0);
        int fd = connect_to(&addr);
        is_served(fd);
        must_equal(duet_server_close(s.server, duet_ms(1)), -ETIME); /* the server ends it first */
        must_equal(serve_end(&s), 0);
        close(fd);
    }
    return duet_ok();
}

coroutine_test(it_listens_on_all_addresses_of_one_or_both_families)
{
    struct serving s;
    duet_server_config config = {.host = "0.0.0.0", .handler = echo};
    serving_open(&s, &config);
    struct sockaddr_storage v4 = address_of("127.0.0.1", port_of(&s.addr)), v6;
    int fd = connect_to(&v4), other;
    is_served(fd);
    close(fd);
    serving_close(&s);
    if (!has_ipv6())
        return duet_ok();
    config.host = "::1";
    serving_open(&s, &config);
    must_equal(s.addr.ss_family, AF_INET6);
    fd = connect_to(&s.addr);
    is_served(fd);
    close(fd);
    serving_close(&s);
    config.host = "::";
    serving_open(&s, &config);
    v4 = address_of("127.0.0.1", port_of(&s.addr));
    v6 = address_of("::1", port_of(&s.addr));
    fd = connect_to(&v4);
    other = connect_to(&v6);
    is_served(other);
    is_served(fd);
    close(fd);
    close(other);
    serving_close(&s);
    return duet_ok();
}

coroutine_test(the_configuration_is_copied_with_its_strings)
{
    struct serving s;
    char host[110];
    duet_server_config *config = calloc(1, sizeof *config);
    strcpy(host, unix_host("copied"));
    config->host = host;
    config->handler = echo;
    config->stream.read_limit = 4;
    must_equal(duet_server_open(&s.server, config), 0);
    memset(config, 0xff, sizeof *config);
    memset(host, 'x', sizeof host);
    free(config);
    serve_start(&s);
    struct sockaddr_storage addr = unix_address(path_in_folder("copied"));
    int fd = connect_to(&addr);
    says(fd, "abc\n");
    hears(fd, "abc\n");
    log_capture();
    says(fd, "abcdef\n"); /* more than the limit: the handler fails */
    until(stats_of(&s).failed == 1);
    log_release();
    close(fd);
    serving_close(&s);
    must(access(path_in_folder("copied"), F_OK) < 0);
    return duet_ok();
}

coroutine_test(a_unix_socket_is_made_at_the_path_and_unlinked_at_the_close)
{
    struct serving s;
    duet_server_config config = {.host = unix_host("plain"), .handler = echo};
    serving_open(&s, &config);
    must_equal(s.addr.ss_family, AF_UNIX);
    must(strcmp(((struct sockaddr_un *)&s.addr)->sun_path, path_in_folder("plain")) == 0);
    must(access(path_in_folder("plain"), F_OK) == 0);
    int fd = connect_to(&s.addr), other = connect_to(&s.addr);
    is_served(fd);
    is_served(other);
    close(fd);
    close(other);
    serving_close(&s);
    must(access(path_in_folder("plain"), F_OK) < 0 && errno == ENOENT);
    return duet_ok();
}

coroutine_test(a_unix_socket_that_was_left_over_is_replaced)
{
    struct serving s;
    struct sockaddr_storage addr = unix_address(path_in_folder("stale"));
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    must(bind(fd, (struct sockaddr *)&addr, length_of(&addr)) == 0);
    must(listen(fd, 1) == 0);
    close(fd);
    must(access(path_in_folder("stale"), F_OK) == 0);
    duet_server_config config = {.host = unix_host("stale"), .handler = echo};
    serving_open(&s, &config);
    fd = connect_to(&addr);
    is_served(fd);
    close(fd);
    serving_close(&s);
    must(access(path_in_folder("stale"), F_OK) < 0);
    return duet_ok();
}

coroutine_test(a_unix_socket_that_somebody_listens_to_is_left_alone)
{
    struct serving s;
    duet_server *other = NULL;
    duet_server_config config = {.host = unix_host("live"), .handler = echo};
    serving_open(&s, &config);
    must_equal(duet_server_open(&other, &config), -EADDRINUSE);
    int fd = connect_to(&s.addr);
    is_served(fd);
    close(fd);
    serving_close(&s);
    return duet_ok();
}

coroutine_test(a_port_that_is_too_large_is_refused)
{
    static const char *const ports[] = {"65536", "99999", "99999999999", "-1"};
    for (size_t i = 0; i < COUNT(ports); i++) {
        duet_server *server = NULL;
        duet_server_config config = {.port = ports[i], .handler = echo};
        must_equal(duet_server_open(&server, &config), -EINVAL);
    }
    return duet_ok();
}

coroutine_test(a_unix_socket_needs_a_path)
{
    duet_server *server = NULL;
    duet_server_config config = {.host = "unix:", .handler = echo};
    must_equal(duet_server_open(&server, &config), -EINVAL);
    return duet_ok();
}

coroutine_test(what_is_no_socket_at_the_path_is_left_alone)
{
    duet_server *server = NULL;
    duet_server_config config = {.host = unix_host("file"), .handler = echo};
    int fd = open(path_in_folder("file"), O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    must(fd >= 0);
    must(write(fd, "precious", 8) == 8);
    close(fd);
    must_equal(duet_server_open(&server, &config), -EADDRINUSE);
    must(unlink(path_in_folder("file")) == 0);
    return duet_ok();
}

coroutine_test(a_path_that_is_too_long_is_refused)
{
    char host[300] = "unix:/";
    duet_server *server = NULL;
    duet_stream *stream = NULL;
    duet_server_config config = {.host = host, .handler = echo};
    memset(host + 6, 'x', sizeof host - 7);
    int rc = duet_server_open(&server, &config);
    must(rc == -EINVAL || rc == -ENAMETOOLONG);
    rc = duet_dial(&stream, host, NULL, SURELY);
    must(rc == -EINVAL || rc == -ENAMETOOLONG);
    return duet_ok();
}

coroutine_test(connections_wait_until_they_are_served)
{
    struct serving s = {0};
    duet_server_config config = {.handler = echo};
    must_equal(duet_server_open(&s.server, &config), 0);
    must_equal(duet_server_address(s.server, &s.addr), 0);
    int fd = connect_to(&s.addr);
    says(fd, "early\n");
    must(hears_nothing(fd));
    must_equal(stats_of(&s).accepted, 0);
    serve_start(&s);
    hears(fd, "early\n");
    close(fd);
    serving_close(&s);
    return duet_ok();
}

coroutine_test(a_server_that_never_served_closes)
{
    duet_server *server;
    struct sockaddr_storage addr;
    duet_server_config config = {.handler = echo};
    must_equal(duet_server_open(&server, &config), 0);
    must_equal(duet_server_address(server, &addr), 0);
    int fd = connect_to(&addr);
    must_equal(duet_server_close(server, DUET_NOW), 0);
    char c;
    must(duet_read(fd, &c, 1, SURELY) <= 0);
    close(fd);
    return duet_ok();
}

/* ---- Several sockets at one port ---- */

static duet_result serve_elsewhere(void *arg)
{
    struct serving *s = arg;
    s->rc = duet_server_serve(s->server, SURELY);
    return duet_ok();
}

struct elsewhere {
    struct serving serving;
    duet_server_config config;
    duet_server_stats stats;
};

static duet_result open_elsewhere(void *arg)
{
    struct elsewhere *e = arg;
    must_equal(duet_server_open(&e->serving.server, &e->config), 0);
    must_equal(duet_server_address(e->serving.server, &e->serving.addr), 0);
    return duet_ok();
}

static duet_result close_elsewhere(void *arg)
{
    struct elsewhere *e = arg;
    duet_server_stats_get(e->serving.server, &e->stats);
    must_equal(duet_server_close(e->serving.server, SURELY), 0);
    return duet_ok();
}

coroutine_test(two_loops_may_share_a_port)
{
    enum {
        CLIENTS = 60
    };
    int clients[CLIENTS];
    char port[8];
    struct serving s;
    duet_server *third = NULL;
    duet_loop *loop = start_loop();
    duet_server_config config = {.handler = echo, .reuse_port = true};
    serving_open(&s, &config);
    snprintf(port, sizeof port, "%u", port_of(&s.addr));
    config.port = port;
    struct elsewhere e = {.config = config};
    must_equal(duet_call(loop, open_elsewhere, &e, SURELY, NULL), 0);
    duet_future *f = duet_submit(loop, serve_elsewhere, &e.serving);
    config.reuse_port = false;
    must_equal(duet_server_open(&third, &config), -EADDRINUSE);
    for (int i = 0; i < CLIENTS; i++)
        clients[i] = connect_to(&s.addr);
    for (int i = 0; i < CLIENTS; i++)
        is_served(clients[i]);
    for (int i = 0; i < CLIENTS; i++)
        close(clients[i]);
    must_equal(duet_call(loop, close_elsewhere, &e, SURELY, NULL), 0);
    must_equal(finish(f).err, 0);
    must_equal(e.serving.rc, 0);
    must_equal(stats_of(&s).accepted + e.stats.accepted, CLIENTS);
    must(e.stats.accepted > 0 && stats_of(&s).accepted > 0); /* but for 1 in 2^59 */
    serving_close(&s);
    close_loop(loop);
    return duet_ok();
}

/* ---- How many ---- */

coroutine_test(no_more_than_so_many_are_served_at_once_and_the_others_wait)
{
    enum {
        CLIENTS = 7
    };
    int clients[CLIENTS];
    struct serving s;
    duet_server_config config = {.handler = echo, .connections_max = 2};
    serving_open(&s, &config);
    for (int i = 0; i < CLIENTS; i++) {
        clients[i] = connect_to(&s.addr);
        says(clients[i], "hi\n");
    }
    for (int i = 0; i < CLIENTS; i++) {
        hears(clients[i], "hi\n");
        if (i + 2 < CLIENTS)
            must(hears_nothing(clients[i + 2]));
        must(stats_of(&s).connections <= 2);
        must(stats_of(&s).accepted <= (uint64_t)i + 2);
        close(clients[i]);
    }
    until(stats_of(&s).connections == 0);
    must_equal(stats_of(&s).accepted, CLIENTS);
    must_equal(stats_of(&s).failed, 0);
    serving_close(&s);
    return duet_ok();
}

struct client {
    const struct sockaddr_storage *addr;
    uint64_t random;
    int rounds;
};

static duet_result talk(void *arg)
{
    struct client *c = arg;
    char line[3000], reply[3000];
    int fd = connect_to(c->addr);
    for (int i = 0; i < c->rounds; i++) {
        size_t n = 1 + test_random(&c->random) % (sizeof line - 1);
        memset(line, (int)('a' + test_random(&c->random) % 26), n);
        line[n - 1] = '\n';
        must_equal(duet_write(fd, line, n, SURELY), n);
        for (size_t got = 0; got < n;) {
            ssize_t rc = duet_read(fd, reply + got, n - got, SURELY);
            must(rc > 0);
            got += (size_t)rc;
        }
        must(memcmp(line, reply, n) == 0);
    }
    must(shutdown(fd, SHUT_WR) == 0);
    hears_the_end(fd);
    close(fd);
    return duet_ok();
}

static void many_talk(unsigned connections_max)
{
    enum {
        CLIENTS = 100
    };
    uint64_t random = test_seed();
    struct client clients[CLIENTS];
    duet_future *fs[CLIENTS];
    struct serving s;
    duet_server_config config = {.handler = echo, .connections_max = connections_max};
    serving_open(&s, &config);
    for (int i = 0; i < CLIENTS; i++) {
        clients[i] = (struct client){&s.addr, test_random(&random), 1 + i % 7};
        fs[i] = duet_spawn(talk, &clients[i]);
    }
    for (int i = 0; i < CLIENTS; i++)
        must_equal(finish(fs[i]).err, 0);
    until(stats_of(&s).connections == 0);
    must_equal(stats_of(&s).accepted, CLIENTS);
    must_equal(stats_of(&s).failed, 0);
    serving_close(&s);
}

coroutine_test(a_hundred_clients_are_served_at_once)
{
    many_talk(0);
    return duet_ok();
}

coroutine_test(a_hundred_clients_are_served_in_little_room)
{
    many_talk(3);
    return duet_ok();
}

coroutine_test(clients_that_connect_and_reset_do_no_harm)
{
    struct serving s;
    duet_server_config config = {.handler = echo, .connections_max = 5};
    log_capture();
    serving_open(&s, &config);
    for (int i = 0; i < 60; i++) {
        int fd = connect_to(&s.addr);
        if (i % 3 == 0)
            says(fd, "never answered\nnor this");
        resets(fd);
        if (i % 4 == 0)
            must_equal(duet_yield(), 0);
    }
    int fd = connect_to(&s.addr);
    is_served(fd);
    close(fd);
    until(stats_of(&s).connections == 0);
    must(!s.returned);
    serving_close(&s);
    log_release();
    return duet_ok();
}

/* ---- Handlers ---- */

static duet_result say_plenty(duet_stream *stream, void *arg)
{
    static char plenty[1 << 20];
    (void)arg;
    must_equal(duet_stream_write(stream, plenty, sizeof plenty, SURELY), 0);
    return duet_ok();
}

coroutine_test(the_connection_is_closed_when_its_handler_returns_and_all_is_sent_first)
{
    struct serving s;
    duet_server_config config = {.handler = say_plenty, .close_ns = SURELY.ns};
    static char buf[65536];
    serving_open(&s, &config);
    int fd = connect_to(&s.addr);
    size_t sum = 0;
    ssize_t n;
    while ((n = duet_read(fd, buf, sizeof buf, SURELY)) > 0)
        sum += (size_t)n;
    must_equal(n, 0);
    must_equal(sum, 1 << 20);
    until(stats_of(&s).connections == 0);
    must_equal(stats_of(&s).failed, 0);
    close(fd);
    serving_close(&s);
    return duet_ok();
}

static duet_result say_endlessly(duet_stream *stream, void *arg)
{
    static char plenty[16 << 20];
    (void)arg;
    must_equal(duet_stream_write(stream, plenty, sizeof plenty, SURELY), 0);
    return duet_ok();
}

coroutine_test(a_connection_whose_peer_does_not_read_is_closed_in_the_end)
{
    struct serving s;
    duet_server_config config = {.handler = say_endlessly, .close_ns = 2000000};
    log_capture();
    serving_open(&s, &config);
    int fd = connect_to(&s.addr);
    until(stats_of(&s).accepted == 1 && stats_of(&s).connections == 0);
    close(fd);
    serving_close(&s);
    log_release();
    return duet_ok();
}

coroutine_test(the_failure_of_a_handler_is_reported_once_with_the_peers_address)
{
    struct serving s;
    duet_server_config config = {.handler = fail_eproto};
    for (int v6 = 0; v6 < (has_ipv6() ? 2 : 1); v6++) {
        char place[32];
        struct sockaddr_storage own;
        socklen_t len = sizeof own;
        config.host = v6 ? "::1" : NULL;
        log_capture();
        serving_open(&s, &config);
        int fd = connect_to(&s.addr);
        must(getsockname(fd, (struct sockaddr *)&own, &len) == 0);
        hears_the_end(fd);
        until(stats_of(&s).failed == 1);
        until(stats_of(&s).connections == 0);
        must_equal(stats_of(&s).accepted, 1);
        snprintf(place, sizeof place, v6 ? "::1" : "127.0.0.1");
        must_equal(log_count(place), 1);
        snprintf(place, sizeof place, ":%u", port_of(&own));
        must_equal(log_count(place), 1);
        must_equal(log_count(duet_strerror(-EPROTO)), 1);
        close(fd);
        serving_close(&s);
        must_equal(log_count(duet_strerror(-EPROTO)), 1);
        log_release();
    }
    return duet_ok();
}

coroutine_test(a_failure_stops_neither_the_server_nor_other_connections)
{
    struct serving s;
    duet_server_config config = {.handler = echo, .stream = {.read_limit = 10}};
    log_capture();
    serving_open(&s, &config);
    int good = connect_to(&s.addr);
    is_served(good);
    for (uint64_t i = 1; i <= 5; i++) {
        int bad = connect_to(&s.addr);
        says(bad, "much too long a line\n");
        until(stats_of(&s).failed == i);
        close(bad);
        is_served(good);
    }
    int other = connect_to(&s.addr);
    is_served(other);
    close(good);
    close(other);
    until(stats_of(&s).connections == 0);
    must_equal(stats_of(&s).accepted, 7);
    must_equal(stats_of(&s).failed, 5);
    serving_close(&s);
    must_equal(log_count(duet_strerror(-EMSGSIZE)), 5);
    log_release();
    return duet_ok();
}

static duet_result end_as_if_cancelled(duet_stream *stream, void *arg)
{
    (void)stream;
    (void)arg;
    return duet_err(-ECANCELED);
}

coroutine_test(a_cancellation_is_not_reported)
{
    struct serving s;
    duet_server_config config = {.handler = hang};
    log_capture();
    serving_open(&s, &config);
    int fd = connect_to(&s.addr);
    until(stats_of(&s).connections == 1);
    must_equal(duet_server_close(s.server, DUET_NOW), -ETIME);
    must_equal(serve_end(&s), 0);
    hears_the_end(fd);
    close(fd);
    config.handler = end_as_if_cancelled;
    serving_open(&s, &config);
    fd = connect_to(&s.addr);
    hears_the_end(fd);
    close(fd);
    serving_close(&s);
    must(!log_has("127.0.0.1"));
    must(!log_has(duet_strerror(-ECANCELED)));
    log_release();
    return duet_ok();
}

static duet_result see_own_peer(duet_stream *stream, void *arg)
{
    must_equal(duet_stream_peer(stream, arg), 0);
    return duet_ok();
}

coroutine_test(a_handler_knows_its_peer_and_its_argument)
{
    struct serving s;
    struct sockaddr_storage seen, own;
    socklen_t len = sizeof own;
    duet_server_config config = {.handler = see_own_peer, .arg = &seen};
    serving_open(&s, &config);
    int fd = connect_to(&s.addr);
    must(getsockname(fd, (struct sockaddr *)&own, &len) == 0);
    hears_the_end(fd);
    must(memcmp(&own, &seen, len) == 0);
    close(fd);
    serving_close(&s);
    return duet_ok();
}

static duet_result hand_over(duet_stream *stream, void *arg)
{
    duet_stream_detach(stream);
    *(duet_stream **)arg = stream;
    return duet_ok();
}

static duet_result hand_over_and_fail(duet_stream *stream, void *arg)
{
    hand_over(stream, arg);
    return duet_err(-EPROTO);
}

coroutine_test(a_stream_that_was_detached_outlives_its_handler_and_its_server)
{
    for (int fails = 0; fails < 2; fails++) {
        struct serving s;
        duet_stream *stream = NULL;
        const char *line;
        duet_server_config config = {.handler = fails ? hand_over_and_fail : hand_over,
                                     .arg = &stream};
        log_capture();
        serving_open(&s, &config);
        int fd = connect_to(&s.addr);
        until(stream != NULL);
        let_run();
        must_equal(duet_stream_write(stream, "still here\n", 11, SURELY), 0);
        hears(fd, "still here\n");
        serving_close(&s);
        must_equal(log_count(duet_strerror(-EPROTO)), fails);
        log_release();
        says(fd, "so am I\n");
        must_equal(duet_stream_read_line(stream, &line, SURELY), 8);
        must_equal(duet_stream_close(stream, SURELY), 0);
        hears_the_end(fd);
        close(fd);
    }
    return duet_ok();
}

static duet_result detach_and_close(duet_stream *stream, void *arg)
{
    (void)arg;
    duet_stream_detach(stream);
    must_equal(duet_stream_write(stream, "bye", 3, SURELY), 0);
    must_equal(duet_stream_close(stream, SURELY), 0);
    return duet_ok();
}

coroutine_test(a_handler_may_close_a_stream_that_it_detached)
{
    struct serving s;
    duet_server_config config = {.handler = detach_and_close};
    serving_open(&s, &config);
    int fd = connect_to(&s.addr);
    hears(fd, "bye");
    hears_the_end(fd);
    close(fd);
    serving_close(&s);
    return duet_ok();
}

/* ---- Serving and its end ---- */

/* A server that waits for a connection, or for room, and one connection that goes on. */
static int open_busy(struct serving *s, bool no_room, int *waiting)
{
    duet_server_config config = {.handler = echo, .connections_max = no_room ? 1 : 0};
    serving_open(s, &config);
    int fd = connect_to(&s->addr);
    is_served(fd);
    *waiting = -1;
    if (no_room) {
        *waiting = connect_to(&s->addr);
        let_run();
    }
    must(!s->returned);
    return fd;
}

static void close_busy(struct serving *s, int fd, int waiting)
{
    is_served(fd); /* the connections go on */
    close(fd);
    if (waiting >= 0)
        close(waiting);
    must_equal(duet_server_close(s->server, SURELY), 0);
}

coroutine_test(serving_ends_at_its_deadline_and_can_be_taken_up_again)
{
    for (int no_room = 0; no_room < 2; no_room++) {
        struct serving s;
        int waiting, fd = open_busy(&s, no_room, &waiting);
        duet_future_cancel(s.f);
        must_equal(serve_end(&s), -ECANCELED);
        must_equal(duet_server_serve(s.server, duet_ms(2)), -ETIME);
        must_equal(duet_server_serve(s.server, DUET_NOW), -ETIME);
        is_served(fd);
        serve_start(&s);
        if (waiting >= 0) {
            says(waiting, "now me\n");
            must(hears_nothing(waiting));
            close(fd);
            hears(waiting, "now me\n");
            fd = waiting;
            waiting = -1;
        } else {
            int other = connect_to(&s.addr);
            is_served(other);
            close(other);
        }
        is_served(fd);
        close(fd);
        serving_close(&s);
    }
    return duet_ok();
}

coroutine_test(serving_ends_when_its_coroutine_is_cancelled_and_the_connections_go_on)
{
    for (int no_room = 0; no_room < 2; no_room++) {
        struct serving s;
        int waiting, fd = open_busy(&s, no_room, &waiting);
        duet_future_cancel(s.f);
        must_equal(serve_end(&s), -ECANCELED);
        close_busy(&s, fd, waiting);
    }
    return duet_ok();
}

static void shut_on_thread(void *server)
{
    duet_server_shut(server);
    duet_server_shut(server);
}

static duet_result shut_in_job(void *server)
{
    duet_server_shut(server);
    return duet_ok();
}

coroutine_test(serving_ends_when_the_server_is_shut_from_anywhere)
{
    for (int no_room = 0; no_room < 2; no_room++)
        for (int where = 0; where < 4; where++) {
            struct serving s;
            struct thread thread;
            int waiting, fd = open_busy(&s, no_room, &waiting);
            switch (where) {
            case 0:
                duet_server_shut(s.server);
                duet_server_shut(s.server);
                break;
            case 1:
                thread_start(&thread, shut_on_thread, s.server);
                thread_join(&thread);
                break;
            case 2:
                must_equal(duet_offload(NULL, shut_in_job, s.server, SURELY, NULL), 0);
                break;
            default:
                finish(duet_call_at(duet_loop_self(), DUET_NOW, shut_on_thread, s.server));
            }
            must_equal(serve_end(&s), 0);
            must_equal(duet_server_serve(s.server, SURELY), 0); /* it stays shut */
            must_equal(duet_server_serve(s.server, DUET_NOW), 0);
            is_served(fd);
            must_equal(stats_of(&s).accepted, 1);
            close_busy(&s, fd, waiting);
        }
    return duet_ok();
}

coroutine_test(a_server_may_be_shut_before_it_serves)
{
    struct serving s;
    duet_server_config config = {.handler = echo};
    must_equal(duet_server_open(&s.server, &config), 0);
    duet_server_shut(s.server);
    must_equal(duet_server_serve(s.server, SURELY), 0);
    must_equal(stats_of(&s).accepted, 0);
    must_equal(duet_server_close(s.server, SURELY), 0);
    return duet_ok();
}

/* A thread that shuts it at any moment. */
coroutine_test(a_shut_at_any_moment_ends_the_serving)
{
    uint64_t random = test_seed();
    for (int i = test_rounds(30); i >= 0; i--) {
        struct serving s;
        struct thread thread;
        duet_server_config config = {.handler = echo, .connections_max = (unsigned)(i % 3)};
        serving_open(&s, &config);
        int fd = connect_to(&s.addr), other = connect_to(&s.addr);
        thread_start(&thread, shut_on_thread, s.server);
        must_equal(duet_sleep(duet_us((int64_t)(test_random(&random) % 100))), 0);
        must_equal(serve_end(&s), 0);
        thread_join(&thread);
        close(fd);
        close(other);
        must_equal(duet_server_close(s.server, SURELY), 0);
    }
    return duet_ok();
}

coroutine_test(what_is_served_is_counted)
{
    struct serving s;
    duet_server_config config = {.handler = echo};
    serving_open(&s, &config);
    must_equal(stats_of(&s).accepted, 0);
    must_equal(stats_of(&s).failed, 0);
    must_equal(stats_of(&s).connections, 0);
    int fds[3];
    for (unsigned i = 0; i < 3; i++) {
        fds[i] = connect_to(&s.addr);
        is_served(fds[i]);
        must_equal(stats_of(&s).accepted, i + 1);
        must_equal(stats_of(&s).connections, i + 1);
    }
    for (unsigned i = 0; i < 3; i++) {
        close(fds[i]);
        until(stats_of(&s).connections == 2 - i);
        must_equal(stats_of(&s).accepted, 3);
    }
    must_equal(stats_of(&s).failed, 0);
    serving_close(&s);
    return duet_ok();
}

/* ---- Closing ---- */

struct closing {
    duet_server *server;
    duet_deadline by;
    int rc;
    bool returned;
    duet_future *f;
};

static duet_result close_run(void *arg)
{
    struct closing *c = arg;
    c->rc = duet_server_close(c->server, c->by);
    c->returned = true;
    return duet_ok();
}

static void close_start(struct closing *c, duet_server *server, duet_deadline by)
{
    *c = (struct closing){.server = server, .by = by};
    c->f = duet_spawn(close_run, c);
    let_run();
}

coroutine_test(a_close_lets_the_handlers_end)
{
    struct serving s;
    struct closing c;
    atomic_int ended = 0;
    duet_server_config config = {.handler = echo, .arg = &ended};
    serving_open(&s, &config);
    int fd = connect_to(&s.addr), other = connect_to(&s.addr);
    is_served(fd);
    is_served(other);
    close_start(&c, s.server, SURELY);
    must(s.returned && !c.returned);
    must_equal(serve_end(&s), 0);
    is_served(fd);
    is_served(other);
    close(fd);
    let_run();
    must(!c.returned);
    close(other);
    must_equal(finish(c.f).err, 0);
    must_equal(c.rc, 0);
    must_equal(ended, 2);
    int late = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    must_equal(duet_connect(late, (struct sockaddr *)&s.addr, length_of(&s.addr), SURELY),
               -ECONNREFUSED);
    close(late);
    return duet_ok();
}

coroutine_test(at_its_deadline_a_close_cancels_the_handlers_and_waits_for_their_end)
{
    for (int now = 0; now < 2; now++) {
        struct serving s;
        atomic_int ended = 0;
        duet_server_config config = {.handler = hang, .arg = &ended};
        serving_open(&s, &config);
        int fds[3];
        for (int i = 0; i < 3; i++)
            fds[i] = connect_to(&s.addr);
        until(stats_of(&s).connections == 3);
        let_run();
        must_equal(duet_server_close(s.server, now ? DUET_NOW : duet_ms(3)), -ETIME);
        must(s.returned);
        must_equal(ended, 3);
        must_equal(serve_end(&s), 0);
        for (int i = 0; i < 3; i++) {
            hears_the_end(fds[i]);
            close(fds[i]);
        }
    }
    return duet_ok();
}

static duet_future *released;

static duet_result hang_under_a_shield(duet_stream *stream, void *arg)
{
    (void)stream;
    duet_shield_begin();
    must_equal(duet_future_wait(released, SURELY, NULL), 0);
    duet_shield_end();
    atomic_fetch_add((atomic_int *)arg, 1);
    return duet_ok();
}

coroutine_test(a_handler_that_takes_its_time_is_waited_for)
{
    struct serving s;
    atomic_int ended = 0;
    released = open_promise();
    duet_server_config config = {.handler = hang_under_a_shield, .arg = &ended};
    serving_open(&s, &config);
    int fd = connect_to(&s.addr);
    until(stats_of(&s).connections == 1);
    let_run();
    struct closing c;
    close_start(&c, s.server, DUET_NOW);
    must(!c.returned);
    settle(released);
    must_equal(finish(c.f).err, 0);
    must_equal(c.rc, -ETIME);
    must_equal(ended, 1);
    duet_future_unref(released);
    must_equal(serve_end(&s), 0);
    close(fd);
    return duet_ok();
}

coroutine_test(a_cancelled_closer_cancels_the_handlers_at_once)
{
    for (int before = 0; before < 2; before++) {
        struct serving s;
        struct closing c;
        atomic_int ended = 0;
        duet_server_config config = {.handler = hang, .arg = &ended};
        serving_open(&s, &config);
        int fd = connect_to(&s.addr);
        until(stats_of(&s).connections == 1);
        let_run();
        if (before) {
            c = (struct closing){.server = s.server, .by = SURELY};
            c.f = duet_spawn(close_run, &c);
            duet_future_cancel(c.f);
            finish(c.f);
            if (!c.returned) { /* it never started */
                must_equal(duet_server_close(s.server, DUET_NOW), -ETIME);
                c.rc = -ECANCELED;
            }
        } else {
            close_start(&c, s.server, SURELY);
            must(!c.returned);
            duet_future_cancel(c.f);
            finish(c.f);
            must(c.returned);
        }
        must_equal(c.rc, -ECANCELED);
        must_equal(ended, 1);
        must_equal(serve_end(&s), 0);
        hears_the_end(fd);
        close(fd);
    }
    return duet_ok();
}

static duet_result close_own_server(duet_stream *stream, void *arg)
{
    struct serving *s = arg;
    const char *line;
    must_equal(duet_server_close(s->server, SURELY), -EDEADLK);
    must_equal(duet_server_close(s->server, DUET_NOW), -EDEADLK);
    must_equal(duet_stream_read_line(stream, &line, SURELY), 6);
    must_equal(duet_stream_write(stream, line, 6, SURELY), 0);
    return duet_ok();
}

static struct mutual {
    duet_future *closer;
    duet_server *server;
    bool inside;
    int rc;
} mutual;

static duet_result wait_for_the_closer(duet_stream *stream, void *arg)
{
    (void)stream;
    (void)arg;
    mutual.inside = true;
    duet_shield_begin(); /* so that its cancellation does not end it */
    mutual.rc = duet_future_wait(mutual.closer, DUET_NEVER, NULL);
    duet_shield_end();
    return duet_ok();
}

static duet_result close_after_all(void *arg)
{
    (void)arg;
    while (!mutual.inside)
        must_equal(duet_yield(), 0);
    return duet_err(duet_server_close(mutual.server, duet_ms(20)));
}

/* The close cannot give up, so it is the handler that is told. */
coroutine_test(a_handler_that_waits_for_who_closes_its_server_is_told)
{
    struct serving s;
    duet_server_config config = {.handler = wait_for_the_closer};
    mutual = (struct mutual){0};
    serving_open(&s, &config);
    mutual.server = s.server;
    log_capture();
    mutual.closer = duet_spawn(close_after_all, NULL);
    int fd = connect_to(&s.addr);
    must_equal(error_of(mutual.closer), -ETIME);
    must_equal(mutual.rc, -EDEADLK);
    log_release();
    duet_future_unref(mutual.closer);
    close(fd);
    must_equal(finish(s.f).err, 0);
    return duet_ok();
}

coroutine_test(a_handler_that_closes_its_server_is_refused_and_nothing_was_done)
{
    struct serving s;
    duet_server_config config = {.handler = close_own_server, .arg = &s};
    serving_open(&s, &config);
    for (int i = 0; i < 3; i++) {
        int fd = connect_to(&s.addr);
        is_served(fd);
        hears_the_end(fd);
        close(fd);
        must(!s.returned);
    }
    serving_close(&s);
    return duet_ok();
}

static duet_result serve_until_the_loop_ends(void *arg)
{
    struct elsewhere *e = arg;
    must_equal(duet_server_serve(e->serving.server, SURELY), -ECANCELED);
    /* Its loop has cancelled the handler too, which may have ended by itself. */
    int rc = duet_server_close(e->serving.server, SURELY);
    must(rc == 0 || rc == -ECANCELED);
    return duet_ok();
}

coroutine_test(a_server_ends_with_its_loop)
{
    duet_loop *loop = start_loop();
    atomic_int ended = 0;
    struct elsewhere e = {.config = {.handler = hang, .arg = &ended}};
    must_equal(duet_call(loop, open_elsewhere, &e, SURELY, NULL), 0);
    duet_future *f = duet_submit(loop, serve_until_the_loop_ends, &e);
    int fd = connect_to(&e.serving.addr);
    must_equal(duet_call(loop, return_ok, NULL, SURELY, NULL), 0);
    duet_sleep(duet_ms(5));
    close_loop(loop);
    int rc = finish(f).err;
    must_equal(rc, 0);
    close(fd);
    return duet_ok();
}

/* Connections come and go while the server is closed at any moment. */
static duet_result talk_to_a_dying_server(void *arg)
{
    const struct sockaddr_storage *addr = arg;
    for (;;) {
        char buf[8];
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        must(fd >= 0);
        int rc = duet_connect(fd, (const struct sockaddr *)addr, length_of(addr), SURELY);
        if (rc == 0 && duet_write(fd, "hello\n", 6, SURELY) == 6)
            rc = duet_read(fd, buf, 6, SURELY) > 0 ? 0 : -1;
        close(fd);
        if (rc < 0)
            return duet_ok();
    }
}

coroutine_test(a_close_at_any_moment_leaves_nothing)
{
    uint64_t random = test_seed();
    log_capture();
    for (int i = test_rounds(40); i >= 0; i--) {
        struct serving s;
        duet_future *fs[4];
        duet_server_config config = {.handler = echo, .connections_max = (unsigned)(i % 4)};
        serving_open(&s, &config);
        for (size_t k = 0; k < COUNT(fs); k++)
            fs[k] = duet_spawn(talk_to_a_dying_server, &s.addr);
        must_equal(duet_sleep(duet_us((int64_t)(test_random(&random) % 1000))), 0);
        int rc = duet_server_close(s.server, duet_us((int64_t)(test_random(&random) % 300)));
        must(rc == 0 || rc == -ETIME);
        must_equal(serve_end(&s), 0);
        for (size_t k = 0; k < COUNT(fs); k++)
            must_equal(finish(fs[k]).err, 0);
    }
    log_release();
    return duet_ok();
}

/* ---- Dialling ---- */

static duet_stream *dial(const char *host, uint16_t port)
{
    char text[8];
    duet_stream *stream = NULL;
    snprintf(text, sizeof text, "%u", port);
    must_equal(duet_dial(&stream, host, text, SURELY), 0);
    must(stream != NULL);
    return stream;
}

static int dial_error(const char *host, uint16_t port, duet_deadline by)
{
    char text[8];
    duet_stream *stream = NULL;
    snprintf(text, sizeof text, "%u", port);
    int rc = duet_dial(&stream, host, text, by);
    must(stream == NULL || rc == 0);
    if (rc == 0)
        must_equal(duet_stream_close(stream, SURELY), 0);
    return rc;
}

static void talks(duet_stream *stream)
{
    const char *line;
    must_equal(duet_stream_write(stream, "hello\n", 6, SURELY), 0);
    must_equal(duet_stream_read_line(stream, &line, SURELY), 6);
    must(memcmp(line, "hello\n", 6) == 0);
    must_equal(duet_stream_close(stream, SURELY), 0);
}

coroutine_test(one_dials_numbers_names_and_paths)
{
    struct serving s;
    struct sockaddr_storage peer;
    duet_server_config config = {.handler = echo};
    serving_open(&s, &config);
    talks(dial("127.0.0.1", port_of(&s.addr)));
    talks(dial("localhost", port_of(&s.addr)));
    duet_stream *stream = dial("127.0.0.1", port_of(&s.addr));
    must_equal(duet_stream_peer(stream, &peer), 0);
    must(memcmp(&peer, &s.addr, length_of(&s.addr)) == 0);
    talks(stream);
    serving_close(&s);
    config.host = unix_host("dialled");
    serving_open(&s, &config);
    for (int with_port = 0; with_port < 2; with_port++) {
        must_equal(duet_dial(&stream, unix_host("dialled"), with_port ? "1" : NULL, SURELY), 0);
        must_equal(duet_stream_peer(stream, &peer), 0);
        must_equal(peer.ss_family, AF_UNIX);
        talks(stream);
    }
    serving_close(&s);
    if (has_ipv6()) {
        config.host = "::1";
        serving_open(&s, &config);
        talks(dial("::1", port_of(&s.addr)));
        serving_close(&s);
    }
    return duet_ok();
}

coroutine_test(a_refusal_is_the_error)
{
    struct sockaddr_storage addr = nobody_at("127.0.0.1");
    duet_stream *stream = NULL;
    must_equal(dial_error("127.0.0.1", port_of(&addr), SURELY), -ECONNREFUSED);
    must_equal(dial_error("localhost", port_of(&addr), SURELY), -ECONNREFUSED);
    if (has_ipv6()) {
        addr = nobody_at("::1");
        must_equal(dial_error("::1", port_of(&addr), SURELY), -ECONNREFUSED);
    }
    must_equal(duet_dial(&stream, "unix:/nowhere/at/all", NULL, SURELY), -ENOENT);
    addr = unix_address(path_in_folder("deserted"));
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    must(bind(fd, (struct sockaddr *)&addr, length_of(&addr)) == 0);
    must_equal(duet_dial(&stream, unix_host("deserted"), NULL, SURELY), -ECONNREFUSED);
    close(fd);
    unlink(path_in_folder("deserted"));
    return duet_ok();
}

coroutine_test(the_errors_of_names_are_those_of_the_dialling)
{
    log_capture();
    must_equal(dial_error("unknown.test", 1, SURELY), -ENOENT);
    must_equal(dial_error("again.test", 1, SURELY), -EAGAIN);
    must_equal(dial_error("failing.test", 1, SURELY), -EIO);
    log_release();
    return duet_ok();
}

struct dialling {
    char host[128];
    uint16_t port;
    int rc;
    duet_future *f;
};

static duet_result dial_run(void *arg)
{
    struct dialling *d = arg;
    d->rc = dial_error(d->host, d->port, SURELY);
    return duet_ok();
}

static void dial_start(struct dialling *d, const char *host, uint16_t port)
{
    snprintf(d->host, sizeof d->host, "%s", host);
    d->port = port;
    d->f = duet_spawn(dial_run, d);
}

coroutine_test(a_dialling_ends_at_its_deadline_or_cancellation)
{
    struct full full;
    struct dialling d;
    full_open(&full);
    must_equal(dial_error("127.0.0.1", port_of(&full.addr), duet_ms(5)), -ETIME);
    must_equal(dial_error("127.0.0.1", port_of(&full.addr), DUET_NOW), -ETIME);
    must_equal(dial_error("127.0.0.1", port_of(&full.addr), duet_ms(-1)), -ETIME);
    dial_start(&d, "127.0.0.1", port_of(&full.addr));
    let_run();
    must(!duet_future_settled(d.f));
    duet_future_cancel(d.f);
    must_equal(finish(d.f).err, 0);
    must_equal(d.rc, -ECANCELED);
    full_close(&full);
    return duet_ok();
}

coroutine_test(a_dialling_whose_name_does_not_come_ends_at_its_deadline_or_cancellation)
{
    struct gate gate = GATE_INIT;
    struct dialling d;
    name_gate = &gate;
    must_equal(dial_error("blocked.test", 1, duet_ms(5)), -ETIME);
    dial_start(&d, "blocked.test", 1);
    let_run();
    duet_future_cancel(d.f);
    must_equal(finish(d.f).err, 0);
    must_equal(d.rc, -ECANCELED);
    gate_open(&gate);
    until(atomic_load(&names_blocked) == 0);
    return duet_ok();
}

coroutine_test(the_next_address_is_tried_as_soon_as_one_has_failed)
{
    struct serving s;
    duet_server_config config = {.handler = echo};
    struct sockaddr_storage nobody = nobody_at("127.0.0.1");
    serving_open(&s, &config);
    list_clear();
    list_add(&nobody);
    list_add(&nobody);
    list_add(&s.addr);
    talks(dial("listed.test", 1));
    list_clear();
    list_add(&nobody);
    list_add(&nobody);
    must_equal(dial_error("listed.test", 1, SURELY), -ECONNREFUSED);
    serving_close(&s);
    return duet_ok();
}

coroutine_test(the_next_address_is_tried_while_one_hangs)
{
    struct serving s;
    struct full full;
    duet_server_config config = {.handler = echo};
    struct sockaddr_storage nobody = nobody_at("127.0.0.1"), peer;
    full_open(&full);
    serving_open(&s, &config);
    list_clear();
    list_add(&full.addr);
    list_add(&s.addr);
    duet_stream *stream = dial("listed.test", 1);
    must_equal(duet_stream_peer(stream, &peer), 0);
    must_equal(port_of(&peer), port_of(&s.addr));
    talks(stream);
    list_clear();
    list_add(&full.addr);
    list_add(&nobody);
    list_add(&full.addr);
    list_add(&s.addr);
    talks(dial("listed.test", 1));
    must_equal(stats_of(&s).accepted, 2);
    list_clear();
    list_add(&full.addr);
    list_add(&nobody);
    must_equal(dial_error("listed.test", 1, duet_ms(400)), -ETIME);
    serving_close(&s);
    full_close(&full);
    return duet_ok();
}

/* The first that hung answers after the second has been tried. */
coroutine_test(the_first_address_that_answers_is_taken)
{
    struct full full, other;
    struct dialling d;
    full_open(&full);
    full_open(&other);
    list_clear();
    list_add(&other.addr);
    list_add(&full.addr);
    dial_start(&d, "listed.test", 1);
    must_equal(duet_sleep(duet_ms(300)), 0);
    must(!duet_future_settled(d.f));
    for (size_t i = 0; i < COUNT(full.fillers); i++)
        close(full.fillers[i]); /* its backlog gets room: it answers when it is asked again */
    for (int fd; !duet_future_settled(d.f); duet_sleep(duet_ms(1)))
        if ((fd = duet_accept(full.listener, NULL, NULL, DUET_NOW)) >= 0)
            close(fd);
    must_equal(finish(d.f).err, 0);
    must_equal(d.rc, 0);
    close(full.listener);
    full_close(&other);
    return duet_ok();
}

coroutine_test(a_cancellation_at_any_moment_leaks_no_descriptor)
{
    uint64_t random = test_seed();
    struct full full;
    struct sockaddr_storage addr, nobody = nobody_at("127.0.0.1");
    int listener = listen_plainly("127.0.0.1", 4096, &addr), before;
    full_open(&full);
    must_equal(dial_error("localhost", port_of(&addr), SURELY), 0);
    before = count_fds();
    for (int i = test_rounds(300); i >= 0; i--) {
        struct dialling d[3];
        list_clear();
        if (i % 2)
            list_add(&nobody);
        if (i % 3)
            list_add(&full.addr);
        list_add(&addr);
        for (size_t k = 0; k < COUNT(d); k++)
            dial_start(&d[k], (i + (int)k) % 2 ? "listed.test" : "127.0.0.1", port_of(&addr));
        if (test_random(&random) % 2)
            must_equal(duet_sleep(duet_us((int64_t)(test_random(&random) % 700))), 0);
        else
            for (uint64_t k = test_random(&random) % 12; k > 0; k--)
                must_equal(duet_yield(), 0);
        for (size_t k = 0; k < COUNT(d); k++) {
            d[k].rc = -ECANCELED; /* it may never start */
            duet_future_cancel(d[k].f);
        }
        for (size_t k = 0; k < COUNT(d); k++) {
            finish(d[k].f);
            must(d[k].rc == 0 || d[k].rc == -ECANCELED);
        }
        for (int fd; (fd = duet_accept(listener, NULL, NULL, DUET_NOW)) >= 0;)
            close(fd);
    }
    until(count_fds() == before); /* a look-up that was left behind ends */
    close(listener);
    full_close(&full);
    return duet_ok();
}

coroutine_test(a_deadline_at_any_moment_leaks_no_descriptor)
{
    uint64_t random = test_seed();
    struct sockaddr_storage addr;
    int listener = listen_plainly("127.0.0.1", 4096, &addr), before = count_fds();
    for (int i = test_rounds(300); i >= 0; i--) {
        duet_deadline by = duet_us((int64_t)(test_random(&random) % 300));
        int rc = dial_error(i % 2 ? "127.0.0.1" : "localhost", port_of(&addr), by);
        must(rc == 0 || rc == -ETIME);
        for (int fd; (fd = duet_accept(listener, NULL, NULL, DUET_NOW)) >= 0;)
            close(fd);
    }
    until(count_fds() == before); /* a look-up that was left behind ends */
    close(listener);
    return duet_ok();
}

/* ---- Resolving ---- */

/* All are stream addresses with this port; how many. */
static int addresses(struct addrinfo *list, uint16_t port)
{
    int n = 0;
    for (struct addrinfo *a = list; a != NULL; a = a->ai_next, n++) {
        struct sockaddr_storage addr = {0};
        must_equal(a->ai_socktype, SOCK_STREAM);
        memcpy(&addr, a->ai_addr, a->ai_addrlen);
        must(addr.ss_family == AF_INET || addr.ss_family == AF_INET6);
        must_equal(port_of(&addr), port);
    }
    freeaddrinfo(list);
    return n;
}

/* The same wherever it runs. */
static duet_result resolve_all(void *unused)
{
    (void)unused;
    struct addrinfo *list = NULL;
    must_equal(duet_resolve("127.0.0.1", "80", &list, SURELY), 0);
    must_equal(list->ai_family, AF_INET);
    must(((struct sockaddr_in *)list->ai_addr)->sin_addr.s_addr == htonl(INADDR_LOOPBACK));
    must_equal(addresses(list, 80), 1);
    must_equal(duet_resolve("::1", "81", &list, SURELY), 0);
    must_equal(list->ai_family, AF_INET6);
    must_equal(addresses(list, 81), 1);
    must_equal(duet_resolve("localhost", "82", &list, SURELY), 0);
    must(addresses(list, 82) >= 1);
    must_equal(duet_resolve(NULL, "83", &list, SURELY), 0);
    if (list->ai_family == AF_INET)
        must(((struct sockaddr_in *)list->ai_addr)->sin_addr.s_addr == htonl(INADDR_LOOPBACK));
    else
        must(IN6_IS_ADDR_LOOPBACK(&((struct sockaddr_in6 *)list->ai_addr)->sin6_addr));
    must(addresses(list, 83) >= 1);
    must_equal(duet_resolve("127.0.0.1", NULL, &list, SURELY), 0);
    must_equal(addresses(list, 0), 1);
    must_equal(resolve_error("unknown.test", "80", SURELY), -ENOENT);
    must_equal(resolve_error("127.0.0.1", "no-such-service", SURELY), -ENOENT);
    must_equal(resolve_error("again.test", "80", SURELY), -EAGAIN);
    return duet_ok();
}

static void resolve_on_thread(void *unused)
{
    must_equal(resolve_all(unused).err, 0);
}

thread_test(names_are_resolved_on_threads_in_jobs_and_in_coroutines)
{
    struct thread thread;
    resolve_all(NULL);
    thread_start(&thread, resolve_on_thread, NULL);
    thread_join(&thread);
    must_equal(duet_run(resolve_all, NULL, NULL), 0);
    must_equal(duet_offload(NULL, resolve_all, NULL, SURELY, NULL), 0);
    duet_loop *loop = start_loop();
    must_equal(duet_call(loop, resolve_all, NULL, SURELY, NULL), 0);
    close_loop(loop);
}

thread_test(another_failure_is_said_in_the_log)
{
    log_capture();
    must_equal(resolve_error("again.test", "80", SURELY), -EAGAIN);
    must_equal(resolve_error("unknown.test", "80", SURELY), -ENOENT);
    must_equal(log_count(gai_strerror(EAI_AGAIN)), 0);
    must_equal(resolve_error("failing.test", "80", SURELY), -EIO);
    must_equal(log_count(gai_strerror(EAI_FAIL)), 1);
    log_release();
}

thread_test(a_place_for_the_result_is_needed)
{
    must_equal(duet_resolve("127.0.0.1", "80", NULL, SURELY), -EINVAL);
}

static duet_result resolve_in_vain(void *unused)
{
    (void)unused;
    must_equal(resolve_error("blocked.test", "80", DUET_NOW), -ETIME);
    must_equal(resolve_error("blocked.test", "80", duet_ms(-5)), -ETIME);
    must_equal(resolve_error("blocked.test", "80", duet_ms(3)), -ETIME);
    return duet_ok();
}

static duet_result resolve_blocked(void *unused)
{
    (void)unused;
    int rc = resolve_error("blocked.test", "80", SURELY);
    return rc < 0 ? duet_err(rc) : duet_ok();
}

thread_test(a_look_up_that_was_left_behind_keeps_nobody_waiting)
{
    struct gate gate = GATE_INIT;
    duet_loop *loop = start_loop();
    name_gate = &gate;
    resolve_in_vain(NULL);
    must_equal(duet_call(loop, resolve_in_vain, NULL, SURELY, NULL), 0);
    must_equal(duet_offload(NULL, resolve_in_vain, NULL, SURELY, NULL), 0);
    for (int i = 0; i < 6; i++) {
        duet_future *f = duet_submit(loop, resolve_blocked, NULL);
        duet_sleep(duet_us(300));
        duet_future_cancel(f);
        must_equal(finish(f).err, -ECANCELED);
    }
    must_equal(resolve_error("127.0.0.1", "80", SURELY), 0);
    must_equal(duet_call(loop, resolve_all, NULL, SURELY, NULL), 0);
    must_equal(duet_run(resolve_all, NULL, NULL), 0);
    close_loop(loop);
    gate_open(&gate);
    while (atomic_load(&names_blocked) > 0)
        duet_sleep(duet_ms(1));
    must_equal(resolve_error("blocked.test", "80", SURELY), 0);
}

static duet_result resolve_localhost(void *arg)
{
    struct addrinfo *list = NULL;
    int rc = duet_resolve((uintptr_t)arg % 3 ? "localhost" : "127.0.0.1", "80", &list, SURELY);
    must_equal(rc, 0);
    must(addresses(list, 80) >= 1);
    return duet_ok();
}

coroutine_test(many_names_are_resolved_at_once)
{
    enum {
        MANY = 200
    };
    duet_future *fs[MANY];
    for (uintptr_t i = 0; i < MANY; i++)
        fs[i] = duet_spawn(resolve_localhost, (void *)i);
    for (int i = 0; i < MANY; i++)
        must_equal(finish(fs[i]).err, 0);
    return duet_ok();
}

static duet_result resolve_when_cancelled(void *unused)
{
    (void)unused;
    while (!duet_cancelled())
        duet_yield();
    must_equal(resolve_error("127.0.0.1", "80", SURELY), -ECANCELED);
    must_equal(resolve_error("localhost", "80", SURELY), -ECANCELED);
    must_equal(dial_error("127.0.0.1", 1, SURELY), -ECANCELED);
    return duet_ok();
}

coroutine_test(who_is_cancelled_before_it_comes_neither_resolves_nor_dials)
{
    duet_future *f = duet_spawn(resolve_when_cancelled, NULL);
    must_equal(duet_yield(), 0);
    duet_future_cancel(f);
    must_equal(finish(f).err, 0);
    return duet_ok();
}

static void resolve_bare(void *rc)
{
    *(int *)rc = resolve_error("blocked.test", "80", SURELY);
}

coroutine_test(a_bare_callback_must_not_wait_for_a_name)
{
    struct gate gate = GATE_INIT;
    int rc = 0;
    name_gate = &gate;
    finish(duet_call_at(duet_loop_self(), DUET_NOW, resolve_bare, &rc));
    must_equal(rc, -EDEADLK);
    gate_open(&gate);
    until(atomic_load(&names_blocked) == 0);
    return duet_ok();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        server_test(a_server_without_descriptors_says_so_once_and_goes_on_when_there_are_some),
        server_test(a_server_without_descriptors_and_connections_tries_again),
        server_test(a_program_ends_though_a_look_up_does_not),
        server_test(a_server_that_is_used_off_its_loop_ends_the_program),
        server_test(a_server_that_is_asked_off_its_loop_ends_the_program),
        server_test(a_server_that_is_served_on_another_loop_ends_the_program),
        server_test(bad_arguments_are_refused),
        server_test(what_bind_says_is_the_error),
        server_test(by_default_it_listens_on_loopback_at_a_port_of_the_kernels_choice),
        server_test(it_listens_at_the_port_it_is_told),
        server_test(it_listens_on_all_addresses_of_one_or_both_families),
        server_test(the_configuration_is_copied_with_its_strings),
        server_test(a_unix_socket_is_made_at_the_path_and_unlinked_at_the_close),
        server_test(a_unix_socket_that_was_left_over_is_replaced),
        server_test(a_unix_socket_that_somebody_listens_to_is_left_alone),
        server_test(a_port_that_is_too_large_is_refused),
        server_test(a_unix_socket_needs_a_path),
        server_test(what_is_no_socket_at_the_path_is_left_alone),
        server_test(a_path_that_is_too_long_is_refused),
        server_test(connections_wait_until_they_are_served),
        server_test(a_server_that_never_served_closes),
        server_test(two_loops_may_share_a_port),
        server_test(no_more_than_so_many_are_served_at_once_and_the_others_wait),
        server_test(a_hundred_clients_are_served_at_once),
        server_test(a_hundred_clients_are_served_in_little_room),
        server_test(clients_that_connect_and_reset_do_no_harm),
        server_test(the_connection_is_closed_when_its_handler_returns_and_all_is_sent_first),
        server_test(a_connection_whose_peer_does_not_read_is_closed_in_the_end),
        server_test(the_failure_of_a_handler_is_reported_once_with_the_peers_address),
        server_test(a_failure_stops_neither_the_server_nor_other_connections),
        server_test(a_cancellation_is_not_reported),
        server_test(a_handler_knows_its_peer_and_its_argument),
        server_test(a_stream_that_was_detached_outlives_its_handler_and_its_server),
        server_test(a_handler_may_close_a_stream_that_it_detached),
        server_test(serving_ends_at_its_deadline_and_can_be_taken_up_again),
        server_test(serving_ends_when_its_coroutine_is_cancelled_and_the_connections_go_on),
        server_test(serving_ends_when_the_server_is_shut_from_anywhere),
        server_test(a_server_may_be_shut_before_it_serves),
        server_test(a_shut_at_any_moment_ends_the_serving),
        server_test(what_is_served_is_counted),
        server_test(a_close_lets_the_handlers_end),
        server_test(at_its_deadline_a_close_cancels_the_handlers_and_waits_for_their_end),
        server_test(a_handler_that_takes_its_time_is_waited_for),
        server_test(a_cancelled_closer_cancels_the_handlers_at_once),
        server_test(a_handler_that_closes_its_server_is_refused_and_nothing_was_done),
        server_test(a_handler_that_waits_for_who_closes_its_server_is_told),
        server_test(a_server_ends_with_its_loop),
        server_test(a_close_at_any_moment_leaves_nothing),
        server_test(one_dials_numbers_names_and_paths),
        server_test(a_refusal_is_the_error),
        server_test(the_errors_of_names_are_those_of_the_dialling),
        server_test(a_dialling_ends_at_its_deadline_or_cancellation),
        server_test(a_dialling_whose_name_does_not_come_ends_at_its_deadline_or_cancellation),
        server_test(the_next_address_is_tried_as_soon_as_one_has_failed),
        server_test(the_next_address_is_tried_while_one_hangs),
        server_test(the_first_address_that_answers_is_taken),
        server_test(a_cancellation_at_any_moment_leaks_no_descriptor),
        server_test(a_deadline_at_any_moment_leaks_no_descriptor),
        server_test(names_are_resolved_on_threads_in_jobs_and_in_coroutines),
        server_test(another_failure_is_said_in_the_log),
        server_test(a_place_for_the_result_is_needed),
        server_test(a_look_up_that_was_left_behind_keeps_nobody_waiting),
        server_test(many_names_are_resolved_at_once),
        server_test(who_is_cancelled_before_it_comes_neither_resolves_nor_dials),
        server_test(a_bare_callback_must_not_wait_for_a_name),
    };
    return cmocka_run_group_tests(tests, open_folder, close_folder);
}
