/* Servers of duet measured beside the same on bare epoll and bare io_uring, over TCP on the
 * loopback: what a request costs the server's processors, and what the client sees. Each server is
 * a process of its own; the client is this one, and the same for all. The servers take turns,
 * round by round, and ratios are of the same round: only they mean anything on a shared machine.
 *
 *   bench-net [--quick] [--pin] [NAME…]   runs the workloads whose names begin so; all by default
 *     --quick   less than half a minute
 *     --pin     the servers on the first processor, the client on the second
 *
 * At one connection a request costs two or three times as much when the scheduler puts the two on
 * two processors, and it changes its mind: `taskset -c 0 bench-net echo-1` is what is steady. */
#include "net.h"
#include "load.h"
#include "measure.h"

#include <linux/perf_event.h>
#include <malloc.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
    EPOLL,
    URING, /* the two that the others are compared with */
    DUET,
    STREAMS,
    SERVERS,
    IDLE = 5000,
    SPARE_DESCRIPTORS = 50,
    SECONDS_MOST = 180, /* against a hang */
};

static const struct {
    const char *name, *process;
    net_server *serve;
} servers[SERVERS] = {
    [EPOLL] = {"bare epoll", "bench-epoll", net_serve_epoll},
    [URING] = {"bare io_uring", "bench-uring", net_serve_uring},
    [DUET] = {"duet_read, duet_write", "bench-duet", net_serve_duet},
    [STREAMS] = {"duet_server, streams", "bench-streams", net_serve_streams},
};

static struct {
    int rounds;
    int64_t warm_ns, ns;
    bool pinned;
} options = {.rounds = 9, .warm_ns = 20000000, .ns = 230000000};

/* ---- The servers' processes ---- */

struct server {
    pid_t pid;
    int port;
    clockid_t cpu;
};

static cpu_set_t allowed; /* to this process when it began */

/* On the i-th of those; pid 0: this process. */
static void pin(pid_t pid, int i)
{
    cpu_set_t one;
    CPU_ZERO(&one);
    for (size_t cpu = 0; cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET(cpu, &allowed) && i-- == 0)
            CPU_SET(cpu, &one);
    need(CPU_COUNT(&one) == 1 && sched_setaffinity(pid, sizeof one, &one) == 0,
         "--pin needs two processors");
}

static void be_server(int which, enum net_work work, int port_fd)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    prctl(PR_SET_NAME, servers[which].process);
    malloc_trim(0); /* what the client has freed is not the server's to reuse */
    need(sched_setaffinity(0, sizeof allowed, &allowed) == 0, "sched_setaffinity");
    servers[which].serve(work, port_fd);
}

static struct server start_server(int which, enum net_work work)
{
    struct server server;
    int fds[2];
    need(pipe(fds) == 0, "pipe");
    fflush(stdout);
    server.pid = fork();
    need(server.pid >= 0, "fork");
    if (server.pid == 0) {
        close(fds[0]);
        be_server(which, work, fds[1]);
    }
    close(fds[1]);
    need(read(fds[0], &server.port, sizeof server.port) == sizeof server.port, "a server starts");
    close(fds[0]);
    if (options.pinned) /* now, so that duet has counted the processors */
        pin(server.pid, 0);
    need(clock_getcpuclockid(server.pid, &server.cpu) == 0, "clock_getcpuclockid");
    return server;
}

/* Killed, so that the client closes nothing that a server would still answer. */
static void stop_server(const struct server *server)
{
    kill(server->pid, SIGKILL);
    waitpid(server->pid, NULL, 0);
}

/* ---- System calls, where this user may count them ---- */

static long number_in(const char *path)
{
    long number = -1;
    FILE *file = fopen(path, "re");
    if (file) {
        if (fscanf(file, "%ld", &number) != 1)
            number = -1;
        fclose(file);
    }
    return number;
}

/* A counter of the process's system calls, switched off; -1: not allowed. */
static int open_call_counter(pid_t pid)
{
    struct perf_event_attr attr = {.type = PERF_TYPE_TRACEPOINT, .size = sizeof attr};
    attr.disabled = 1;
    long id = number_in("/sys/kernel/tracing/events/raw_syscalls/sys_enter/id");
    if (id < 0)
        id = number_in("/sys/kernel/debug/tracing/events/raw_syscalls/sys_enter/id");
    attr.config = (uint64_t)id;
    return id < 0 ? -1 : (int)syscall(SYS_perf_event_open, &attr, pid, -1, -1, 0);
}

/* For each request, in a short round that measures nothing else: counting costs. */
static double calls_per_request(const struct server *server, struct net_client *client)
{
    uint64_t calls = 0;
    int counter = open_call_counter(server->pid);
    if (counter < 0)
        return -1;
    ioctl(counter, PERF_EVENT_IOC_ENABLE, 0);
    struct net_round round = net_ask(client, server->cpu, 0, options.ns / 4);
    ioctl(counter, PERF_EVENT_IOC_DISABLE, 0);
    need(read(counter, &calls, sizeof calls) == sizeof calls, "read a counter");
    close(counter);
    return (double)calls / round.requests;
}

/* ---- Asking ---- */

/* One workload: all servers, round by round. */
struct table {
    const char *name;
    struct net_round of[SERVERS][ROUNDS_MAX];
    double calls[SERVERS];
};

static void fill(struct table *table, enum net_work work, unsigned connections)
{
    struct server running[SERVERS];
    struct net_client *clients[SERVERS];
    for (int i = 0; i < SERVERS; i++) {
        running[i] = start_server(i, work);
        clients[i] = net_connect(work, running[i].port, connections);
    }
    for (int round = 0; round < options.rounds; round++)
        for (int k = 0; k < SERVERS; k++) {
            int i = (round + k) % SERVERS; /* none always comes after the same */
            table->of[i][round] = net_ask(clients[i], running[i].cpu, options.warm_ns, options.ns);
        }
    for (int i = 0; i < SERVERS; i++)
        table->calls[i] = calls_per_request(&running[i], clients[i]);
    for (int i = 0; i < SERVERS; i++) {
        stop_server(&running[i]);
        net_disconnect(clients[i]);
    }
}

static double median_of(const struct net_round *rounds, double (*of)(const struct net_round *))
{
    double values[ROUNDS_MAX];
    for (int i = 0; i < options.rounds; i++)
        values[i] = of(&rounds[i]);
    return quantile(values, (size_t)options.rounds, 0.5);
}

static double cpu_of(const struct net_round *round)
{
    return round->cpu_us;
}

static double rate_of(const struct net_round *round)
{
    return round->requests / round->s / 1000;
}

static double p50_of(const struct net_round *round)
{
    return round->p50_us;
}

static double p99_of(const struct net_round *round)
{
    return round->p99_us;
}

/* As report() prints it; `values` are sorted. The rest of the line is the caller's. */
static void print_line(const char *workload, const char *what, const char *unit, double *values)
{
    char name[64];
    double median = quantile(values, (size_t)options.rounds, 0.5);
    snprintf(name, sizeof name, "%s: %s", workload, what);
    printf("%-44s %10.3f %-8s (%.3f to %.3f, %d rounds)", name, median, unit, values[0],
           values[options.rounds - 1], options.rounds);
}

static void print_server(const struct table *table, int which)
{
    const struct net_round *rounds = table->of[which];
    double cpu[ROUNDS_MAX];
    for (int i = 0; i < options.rounds; i++)
        cpu[i] = cpu_of(&rounds[i]);
    print_line(table->name, servers[which].name, "us CPU", cpu);
    printf("  %6.1f k/s  p50 %6.0f us  p99 %6.0f us", median_of(rounds, rate_of),
           median_of(rounds, p50_of), median_of(rounds, p99_of));
    if (table->calls[which] >= 0)
        printf("  %5.2f calls", table->calls[which]);
    putchar('\n');
}

static void print_ratio(const struct table *table, int which, int of)
{
    char what[64];
    double ratios[ROUNDS_MAX];
    for (int i = 0; i < options.rounds; i++)
        ratios[i] = table->of[which][i].cpu_us / table->of[of][i].cpu_us;
    snprintf(what, sizeof what, "… of %s", servers[of].name);
    print_line(table->name, what, "times", ratios);
    putchar('\n');
}

static void bench_asking(const char *name, enum net_work work, unsigned connections)
{
    static struct table table;
    table.name = name;
    fill(&table, work, connections);
    for (int i = 0; i < SERVERS; i++) {
        print_server(&table, i);
        if (i == DUET || i == STREAMS) {
            print_ratio(&table, i, EPOLL);
            print_ratio(&table, i, URING);
        }
    }
    fflush(stdout);
}

/* ---- Memory of idle connections ---- */

/* From one of the server's files in /proc, in KiB. */
static long kib_of(pid_t pid, const char *file_name, const char *field)
{
    char path[64], line[256];
    long kib = -1;
    snprintf(path, sizeof path, "/proc/%d/%s", (int)pid, file_name);
    FILE *file = fopen(path, "re");
    need(file != NULL, path);
    while (fgets(line, sizeof line, file))
        if (strncmp(line, field, strlen(field)) == 0)
            kib = strtol(line + strlen(field), NULL, 10);
    fclose(file);
    need(kib >= 0, field);
    return kib;
}

/* What the kernel tells in `status` is rounded by processor; this is exact. */
static long resident_kib(pid_t pid)
{
    return kib_of(pid, "smaps_rollup", "Rss:");
}

static unsigned idle_connections(void)
{
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    if (limit.rlim_cur >= IDLE + SPARE_DESCRIPTORS)
        return IDLE;
    printf("idle: RLIMIT_NOFILE is %llu: fewer than %d connections\n",
           (unsigned long long)limit.rlim_cur, IDLE);
    return (unsigned)limit.rlim_cur - SPARE_DESCRIPTORS;
}

static void bench_idle(const char *workload, enum net_work work, unsigned connections)
{
    for (int i = 0; i < SERVERS; i++) {
        char name[64];
        struct server server = start_server(i, work);
        struct net_client *client = net_connect(work, server.port, 1);
        long kib = resident_kib(server.pid), tables = kib_of(server.pid, "status", "VmPTE:");
        net_connect_more(client, connections);
        usleep(100000); /* what a server gives back when it rests, it has given back */
        double bytes = (double)(resident_kib(server.pid) - kib) * 1024 / connections;
        double table_bytes =
            (double)(kib_of(server.pid, "status", "VmPTE:") - tables) * 1024 / connections;
        stop_server(&server);
        net_disconnect(client);
        snprintf(name, sizeof name, "%s: resident, %s", workload, servers[i].name);
        printf("%-44s %10.0f bytes    (and %.0f of page tables; %u connections)\n", name, bytes,
               table_bytes, connections);
        fflush(stdout);
    }
}

static void bench_idle_most(const char *workload, enum net_work work, unsigned connections)
{
    (void)connections;
    bench_idle(workload, work, idle_connections());
}

/* ---- Which ---- */

static const struct {
    const char *name;
    void (*run)(const char *name, enum net_work work, unsigned connections);
    enum net_work work;
    unsigned connections;
} workloads[] = {
    {"echo-1", bench_asking, NET_ECHO, 1},       {"echo-64", bench_asking, NET_ECHO, 64},
    {"echo-1000", bench_asking, NET_ECHO, 1000}, {"http-1", bench_asking, NET_HTTP, 1},
    {"http-64", bench_asking, NET_HTTP, 64},     {"http-1000", bench_asking, NET_HTTP, 1000},
    {"idle", bench_idle_most, NET_ECHO, 0},
};

static bool take_option(const char *text)
{
    if (strcmp(text, "--quick") == 0) {
        options.rounds = 5;
        options.warm_ns = 10000000;
        options.ns = 80000000;
    } else if (strcmp(text, "--pin") == 0) {
        options.pinned = true;
    } else {
        return false;
    }
    return true;
}

static bool wanted(const char *name, int argc, char **argv)
{
    bool any = false;
    for (int i = 1; i < argc; i++) {
        any |= argv[i][0] != '-';
        if (strncmp(name, argv[i], strlen(argv[i])) == 0)
            return true;
    }
    return !any;
}

static void raise_descriptors(void)
{
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
}

int main(int argc, char **argv)
{
    int ran = 0;
    bool known = true;
    for (int i = 1; i < argc; i++)
        known &= argv[i][0] != '-' || take_option(argv[i]);
    raise_descriptors();
    need(sched_getaffinity(0, sizeof allowed, &allowed) == 0, "sched_getaffinity");
    if (options.pinned)
        pin(0, 1);
    alarm(SECONDS_MOST);
    struct load before = load_now();
    for (size_t i = 0; known && i < sizeof workloads / sizeof workloads[0]; i++)
        if (wanted(workloads[i].name, argc, argv)) {
            workloads[i].run(workloads[i].name, workloads[i].work, workloads[i].connections);
            ran++;
        }
    if (ran > 0)
        print_load(&before);
    else
        fprintf(stderr, "bench-net [--quick] [--pin] [NAME…]; there are: echo-1 echo-64 echo-1000 "
                        "http-1 http-64 http-1000 idle\n");
    return ran == 0;
}
