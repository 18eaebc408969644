/* Notes in an SQLite database. Its calls block, so each is a job; and the pool has one worker, whose
 * jobs keep its slot, so that they come one after another and the connection needs no lock. */
#include "http.h"

#include <errno.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    BUSY_MS = 1000 /* how long to wait for another process that has locked the file */
};

enum statement {
    LIST,
    GET,
    ADD,
    DELETE,
    STATEMENTS
};

static const char *const SQL[STATEMENTS] = {
    [LIST] = "SELECT id, text FROM notes WHERE id > ?1 ORDER BY id LIMIT ?2",
    [GET] = "SELECT id, text FROM notes WHERE id = ?1",
    [ADD] = "INSERT INTO notes (text) SELECT ?1 WHERE (SELECT COUNT(*) FROM notes) < ?2",
    [DELETE] = "DELETE FROM notes WHERE id = ?1",
};

struct notes {
    duet_pool *pool;
    sqlite3 *database;
    sqlite3_stmt *statements[STATEMENTS];
};

static int errno_of(int rc)
{
    switch (rc & 0xff) { /* without what extends it */
    case SQLITE_OK:
    case SQLITE_ROW:
    case SQLITE_DONE:
        return 0;
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
        return -EBUSY;
    case SQLITE_FULL:
        return -ENOSPC;
    case SQLITE_NOMEM:
        return -ENOMEM;
    default:
        return -EIO;
    }
}

/* ---- Jobs ---- */

static struct json_object *note_json(int64_t id, const char *text, size_t size)
{
    struct json_object *json = json_object_new_object();
    json_object_object_add(json, "id", json_object_new_int64(id));
    json_object_object_add(json, "text", json_object_new_string_len(text, (int)size));
    return json;
}

static struct json_object *row_json(sqlite3_stmt *row)
{
    const char *text = (const char *)sqlite3_column_text(row, 1);
    size_t size = (size_t)sqlite3_column_bytes(row, 1);
    return note_json(sqlite3_column_int64(row, 0), text ? text : "", size);
}

static duet_result give_json(struct note_query *query, struct json_object *json)
{
    query->json = json_text(json);
    return duet_err(query->json ? 0 : -ENOMEM);
}

static duet_result list_job(void *arg)
{
    struct note_query *query = arg;
    sqlite3_stmt *statement = query->notes->statements[LIST];
    struct json_object *list = json_object_new_array();
    int rc;
    sqlite3_bind_int64(statement, 1, query->id);
    sqlite3_bind_int(statement, 2, NOTES_PAGE);
    while ((rc = sqlite3_step(statement)) == SQLITE_ROW)
        json_object_array_add(list, row_json(statement));
    sqlite3_reset(statement);
    if (rc == SQLITE_DONE)
        return give_json(query, list);
    json_object_put(list);
    return duet_err(errno_of(rc));
}

static duet_result get_job(void *arg)
{
    struct note_query *query = arg;
    sqlite3_stmt *statement = query->notes->statements[GET];
    sqlite3_bind_int64(statement, 1, query->id);
    int rc = sqlite3_step(statement);
    struct json_object *json = rc == SQLITE_ROW ? row_json(statement) : NULL;
    sqlite3_reset(statement);
    if (json)
        return give_json(query, json);
    return duet_err(rc == SQLITE_DONE ? -ENOENT : errno_of(rc));
}

static duet_result add_job(void *arg)
{
    struct note_query *query = arg;
    struct notes *notes = query->notes;
    sqlite3_stmt *statement = notes->statements[ADD];
    sqlite3_bind_text(statement, 1, query->text, (int)query->size, SQLITE_STATIC);
    sqlite3_bind_int(statement, 2, NOTES_MAX);
    int rc = sqlite3_step(statement), added = sqlite3_changes(notes->database);
    sqlite3_reset(statement);
    sqlite3_clear_bindings(statement); /* the text is the caller's */
    if (rc != SQLITE_DONE)
        return duet_err(errno_of(rc));
    if (added == 0)
        return duet_err(-ENOSPC);
    query->id = sqlite3_last_insert_rowid(notes->database);
    return give_json(query, note_json(query->id, query->text, query->size));
}

static duet_result delete_job(void *arg)
{
    struct note_query *query = arg;
    struct notes *notes = query->notes;
    sqlite3_stmt *statement = notes->statements[DELETE];
    sqlite3_bind_int64(statement, 1, query->id);
    int rc = sqlite3_step(statement), deleted = sqlite3_changes(notes->database);
    sqlite3_reset(statement);
    if (rc != SQLITE_DONE)
        return duet_err(errno_of(rc));
    return duet_err(deleted == 0 ? -ENOENT : 0);
}

/* ---- From a coroutine ---- */

/* Cancelled, it waits for the job all the same: the query is on the caller's stack. */
static int ask(struct note_query *query, duet_fn *job, const char *name)
{
    const duet_opts opts = {.name = name, .flags = DUET_KEEP_SLOT};
    duet_result r;
    int rc = duet_offload_with(query->notes->pool, job, query, &opts, DUET_NEVER, &r);
    return rc < 0 ? rc : r.err;
}

int notes_list(struct note_query *query)
{
    return ask(query, list_job, "list notes");
}

int notes_get(struct note_query *query)
{
    return ask(query, get_job, "get note");
}

int notes_add(struct note_query *query)
{
    return ask(query, add_job, "add note");
}

int notes_delete(struct note_query *query)
{
    return ask(query, delete_job, "delete note");
}

/* ---- Beginning and end ---- */

static int prepare(struct notes *notes, const char *file)
{
    int rc =
        sqlite3_open_v2(file, &notes->database,
                        SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX, NULL);
    if (rc == SQLITE_OK)
        rc = sqlite3_busy_timeout(notes->database, BUSY_MS);
    if (rc == SQLITE_OK)
        rc = sqlite3_exec(notes->database,
                          "CREATE TABLE IF NOT EXISTS notes (id INTEGER PRIMARY KEY AUTOINCREMENT, "
                          "text TEXT NOT NULL)",
                          NULL, NULL, NULL);
    for (int i = 0; i < STATEMENTS && rc == SQLITE_OK; i++)
        rc = sqlite3_prepare_v3(notes->database, SQL[i], -1, SQLITE_PREPARE_PERSISTENT,
                                &notes->statements[i], NULL);
    if (rc != SQLITE_OK)
        fprintf(stderr, "http_server: database %s: %s\n", file, sqlite3_errmsg(notes->database));
    return errno_of(rc);
}

int notes_open(struct notes **ret, const char *file)
{
    const duet_pool_config config = {.name = "database", .workers_min = 1, .workers_max = 1};
    struct notes *notes = calloc(1, sizeof *notes);
    if (!notes)
        return -ENOMEM;
    int rc = prepare(notes, file);
    if (rc == 0)
        rc = duet_pool_open(&notes->pool, &config);
    if (rc < 0)
        notes_close(notes);
    else
        *ret = notes;
    return rc;
}

void notes_close(struct notes *notes)
{
    if (notes->pool)
        duet_pool_close(notes->pool, DUET_NEVER);
    for (int i = 0; i < STATEMENTS; i++)
        sqlite3_finalize(notes->statements[i]);
    sqlite3_close(notes->database);
    free(notes);
}
