/* What is counted, in the OpenMetrics text format. */
#include "http.h"

#include <stdio.h>

static const double LIMITS[BUCKETS - 1] = {0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 1, 10};

void metrics_count(struct metrics *metrics, int status, double seconds)
{
    size_t bucket = 0;
    while (bucket < BUCKETS - 1 && seconds > LIMITS[bucket])
        bucket++;
    metrics->by_status[status]++;
    metrics->durations[bucket]++;
    metrics->duration_count++;
    metrics->duration_sum += seconds;
}

static void describe(FILE *to, const char *name, const char *type, const char *help)
{
    fprintf(to, "# TYPE %s %s\n# HELP %s %s\n", name, type, name, help);
}

static void counter(FILE *to, const char *name, const char *help, uint64_t value)
{
    describe(to, name, "counter", help);
    fprintf(to, "%s_total %llu\n", name, (unsigned long long)value);
}

static void durations(FILE *to, const struct metrics *metrics)
{
    static const char name[] = "http_request_duration_seconds";
    unsigned long long below = 0;
    describe(to, name, "histogram", "From the first byte of a request to the last of its answer.");
    for (size_t i = 0; i < BUCKETS; i++) {
        below += metrics->durations[i];
        if (i < BUCKETS - 1)
            fprintf(to, "%s_bucket{le=\"%g\"} %llu\n", name, LIMITS[i], below);
        else
            fprintf(to, "%s_bucket{le=\"+Inf\"} %llu\n", name, below);
    }
    fprintf(to, "%s_sum %.6f\n%s_count %llu\n", name, metrics->duration_sum, name,
            (unsigned long long)metrics->duration_count);
}

char *metrics_text(const struct metrics *metrics, unsigned connections)
{
    char *text = NULL;
    size_t size;
    FILE *to = open_memstream(&text, &size);
    if (!to)
        return NULL;
    describe(to, "http_requests", "counter", "Answers, by their status.");
    for (int status = 0; status < 600; status++)
        if (metrics->by_status[status] > 0)
            fprintf(to, "http_requests_total{code=\"%d\"} %llu\n", status,
                    (unsigned long long)metrics->by_status[status]);
    describe(to, "http_connections", "gauge", "Connections now.");
    fprintf(to, "http_connections %u\n", connections);
    counter(to, "http_connections_accepted", "Connections so far.", metrics->accepted);
    counter(to, "http_received_bytes", "Bytes received.", metrics->received);
    counter(to, "http_sent_bytes", "Bytes sent.", metrics->sent);
    counter(to, "http_log_lines_lost", "Lines that the access log had no room for.",
            metrics->log_lines_lost);
    durations(to, metrics);
    fprintf(to, "# EOF\n");
    return fclose(to) == 0 ? text : NULL;
}
