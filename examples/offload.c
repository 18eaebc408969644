/* Hashes the files given on the command line, with OpenSSL, on the pool; meanwhile a ticker on the
 * loop shows, by its largest delay, that the loop never blocked.
 *
 *   offload FILE…       prints lines as sha256sum does; without files it hashes itself */
#include "say.h"

#include <errno.h>
#include <openssl/evp.h>
#include <string.h>

enum {
    TICK_MS = 5,
    BLOCK = 1 << 20
};

/* Owned by hash_all(); each job writes its own. */
struct file {
    const char *path;
    char hex[2 * EVP_MAX_MD_SIZE + 1];
    long long bytes;
};

static int hash_stream(FILE *stream, EVP_MD_CTX *context, struct file *file)
{
    static _Thread_local char block[BLOCK];
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned size = 0;
    if (!EVP_DigestInit_ex(context, EVP_sha256(), NULL))
        return -EIO;
    for (size_t n; (n = fread(block, 1, sizeof block, stream)) > 0; file->bytes += (long long)n) {
        if (duet_cancelled())
            return -ECANCELED;
        if (!EVP_DigestUpdate(context, block, n))
            return -EIO;
    }
    if (ferror(stream) || !EVP_DigestFinal_ex(context, digest, &size))
        return -EIO;
    for (unsigned i = 0; i < size; i++)
        snprintf(&file->hex[2 * i], 3, "%02x", digest[i]);
    return 0;
}

/* A job: reads and hashes, and so blocks its worker, nobody else. */
static duet_result hash_file(void *arg)
{
    struct file *file = arg;
    FILE *stream = fopen(file->path, "rbe");
    if (!stream)
        return duet_err(-errno);
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    int rc = context ? hash_stream(stream, context, file) : -ENOMEM;
    EVP_MD_CTX_free(context);
    fclose(stream);
    return duet_err(rc);
}

/* How late was the latest of its wake-ups? */
static duet_result ticker(void *arg)
{
    int64_t *worst_ns = arg;
    for (;;) {
        duet_deadline next = duet_ms(TICK_MS);
        if (duet_sleep(next) < 0)
            return duet_ok();
        int64_t late_ns = duet_now_ns() - next.ns;
        *worst_ns = late_ns > *worst_ns ? late_ns : *worst_ns;
    }
}

struct request {
    char **paths;
    size_t count;
};

static duet_result hash_all(void *arg)
{
    struct request *request = arg;
    struct file *files = calloc(request->count, sizeof *files);
    duet_future **jobs = calloc(request->count, sizeof *jobs);
    int64_t worst_ns = 0, failed = 0;
    if (!files || !jobs)
        return duet_err(-ENOMEM);
    const duet_opts tick = {.name = "ticker"};
    duet_future *ticking = duet_spawn_with(ticker, &worst_ns, &tick);
    for (size_t i = 0; i < request->count; i++) {
        files[i].path = request->paths[i];
        const duet_opts opts = {.name = files[i].path};
        jobs[i] = duet_pool_submit_with(duet_pool_default(), hash_file, &files[i], &opts);
    }
    long long bytes = 0;
    for (size_t i = 0; i < request->count; i++) {
        duet_result r = duet_err(-ECANCELED);
        need(duet_future_wait(jobs[i], DUET_NEVER, &r), "wait");
        duet_future_unref(jobs[i]);
        if (r.err < 0)
            fprintf(stderr, "offload: %s: %s\n", files[i].path, strerror(-r.err));
        else
            printf("%s  %s\n", files[i].hex, files[i].path);
        failed += r.err < 0;
        bytes += files[i].bytes;
    }
    duet_future_close(ticking, NULL);
    fprintf(stderr, "offload: %.1f MB in %.3f s; a tick of the loop was at most %.3f ms late\n",
            (double)bytes / 1e6, seconds_since_start(), (double)worst_ns / 1e6);
    free(files);
    free(jobs);
    return duet_i64(failed);
}

int main(int argc, char **argv)
{
    struct request request = {argc > 1 ? argv + 1 : argv, argc > 1 ? (size_t)(argc - 1) : 1};
    duet_result r;
    say_begin();
    need(duet_run(hash_all, &request, &r), "duet_run");
    need(r.err, "hashing");
    return duet_as_i64(r) > 0; /* some file could not be read */
}
