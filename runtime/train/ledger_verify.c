/* The proof of a ledger: what the job should have read, step by step, against what was recorded. */
#include "checkpoints/checkpoint.h"
#include "runtime/base/files.h"
#include "runtime/base/json.h"
#include "runtime/base/memory.h"
#include "runtime/datasets/order.h"
#include "runtime/train/ledger.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A checkpoint's chain. */
typedef struct verify_mark {
    uint64_t step;
    char chain[65], *path;
} verify_mark;

typedef struct verifier {
    const char *run;
    lks_order order;
    uint64_t global_batch, lanes;
    uint64_t *ids;           /* [global batch] of the last step, as they should be */
    lks_ledger_hash *lane;   /* [lanes] */
    uint64_t *seen;          /* [samples] bits: used in this epoch */
    uint64_t step, in_epoch; /* steps done; samples used in this epoch */
    lks_ledger ledger;
    verify_mark *marks; /* ascending */
    size_t mark_count, next_mark;
    lks_ledger_proof *proof;
} verifier;

/* --- What should be -------------------------------------------------------------- */

/* The order must be what it claims: a permutation in each epoch. */
static lks_status use_sample(verifier *v, uint64_t sample)
{
    uint64_t *word = &v->seen[sample / 64], bit = 1ull << sample % 64;
    if (sample >= v->order.samples || *word & bit)
        return LKS_FAIL(LKS_ERR_INTERNAL,
                        "the order gives sample %llu twice in epoch %llu, at step %llu",
                        (unsigned long long)sample, (unsigned long long)v->proof->epochs,
                        (unsigned long long)v->step);
    *word |= bit;
    if (++v->in_epoch < v->order.samples)
        return LKS_OK;
    v->in_epoch = 0;
    ++v->proof->epochs;
    memset(v->seen, 0, (v->order.samples / 64 + 1) * sizeof *v->seen);
    return LKS_OK;
}

static lks_status check_mark(verifier *v)
{
    char hex[65];
    for (; v->next_mark < v->mark_count && v->marks[v->next_mark].step == v->step; ++v->next_mark) {
        const verify_mark *mark = &v->marks[v->next_mark];
        if (strcmp(mark->chain, lks_ledger_hex(&v->ledger, hex)))
            return LKS_FAIL(LKS_ERR_CORRUPT,
                            "%s: its ledger is %.16s..., step %llu of the job's order gives "
                            "%.16s...: the samples up to it were not each used once",
                            mark->path, mark->chain, (unsigned long long)v->step, hex);
        ++v->proof->checkpoints;
    }
    return LKS_OK;
}

static lks_status advance(verifier *v)
{
    uint64_t share = v->global_batch / v->lanes, first = v->step * v->global_batch;
    ++v->step;
    for (uint64_t i = 0; i < v->global_batch; ++i) {
        v->ids[i] = lks_order_sample(&v->order, first + i);
        LKS_TRY(use_sample(v, v->ids[i]));
    }
    for (uint64_t l = 0; l < v->lanes; ++l)
        LKS_TRY(lks_ledger_hash_ids(v->ids + l * share, share, &v->lane[l]));
    LKS_TRY(lks_ledger_advance(&v->ledger, v->step, v->lane, (int)v->lanes));
    return check_mark(v);
}

/* --- What was recorded ------------------------------------------------------------ */

static lks_status check_ids(const verifier *v, const json_t *ids, const char *where)
{
    unsigned long long step = v->step;
    if (json_array_size(ids) != v->global_batch)
        return LKS_FAIL(LKS_ERR_CORRUPT, "%s: step %llu has %zu samples, want %llu", where, step,
                        json_array_size(ids), (unsigned long long)v->global_batch);
    for (uint64_t i = 0; i < v->global_batch; ++i) {
        const json_t *id = json_array_get(ids, i);
        if (!json_is_integer(id) || (uint64_t)json_integer_value(id) != v->ids[i])
            return LKS_FAIL(LKS_ERR_CORRUPT,
                            "%s: step %llu is the first that differs: sample %llu of its batch is "
                            "%lld, the job's order has %llu there",
                            where, step, (unsigned long long)i, (long long)json_integer_value(id),
                            (unsigned long long)v->ids[i]);
    }
    return LKS_OK;
}

static lks_status check_line(verifier *v, const json_t *line, const char *where)
{
    const char *chain;
    char hex[65];
    int64_t step;
    LKS_TRY(lks_json_get_integer(line, where, "step", 1, INT64_MAX, &step));
    LKS_TRY(lks_json_get_string(line, where, "chain", &chain));
    if ((uint64_t)step <= v->step)
        return LKS_FAIL(LKS_ERR_CORRUPT,
                        "%s: step %lld comes after step %llu: a step stands there "
                        "twice",
                        where, (long long)step, (unsigned long long)v->step);
    while (v->step < (uint64_t)step)
        LKS_TRY(advance(v));
    const json_t *ids = json_object_get(line, "samples");
    if (ids)
        LKS_TRY(check_ids(v, ids, where));
    if (strcmp(chain, lks_ledger_hex(&v->ledger, hex)))
        return LKS_FAIL(LKS_ERR_CORRUPT,
                        "%s: step %lld is the first that differs: its chain is %.16s..., the job's "
                        "order gives %.16s...",
                        where, (long long)step, chain, hex);
    ++v->proof->lines;
    return LKS_OK;
}

static lks_status check_text(verifier *v, const char *text, size_t bytes, const char *path,
                             unsigned long number)
{
    char *where;
    json_t *json;
    if (asprintf(&where, "%s:%lu", path, number) < 0)
        return LKS_FAIL(LKS_ERR_INTERNAL, "no memory");
    lks_status status = lks_json_parse(text, bytes, where, &json);
    if (status == LKS_OK) {
        status = check_line(v, json, where);
        json_decref(json);
    }
    free(where);
    return status;
}

static lks_status check_lines(verifier *v, FILE *file, const char *path)
{
    char *text = NULL;
    size_t capacity = 0;
    ssize_t bytes;
    lks_status status = LKS_OK;
    for (unsigned long number = 1;
         status == LKS_OK && (bytes = getline(&text, &capacity, file)) > 0; ++number) {
        if (text[bytes - 1] != '\n') /* torn by a kill: the next start cuts it off */
            break;
        status = check_text(v, text, (size_t)bytes, path, number);
    }
    if (status == LKS_OK && ferror(file))
        status = LKS_FAIL(LKS_ERR_IO, "%s: read: %s", path, strerror(errno));
    free(text);
    return status;
}

static lks_status check_file(verifier *v)
{
    char *path = lks_files_join(v->run, "ledger.jsonl");
    if (!path)
        return LKS_FAIL(LKS_ERR_INTERNAL, "no memory");
    FILE *file = fopen(path, "re");
    lks_status status = LKS_OK;
    if (file) {
        status = check_lines(v, file, path);
        fclose(file);
    } else if (errno != ENOENT) {
        status = LKS_FAIL(LKS_ERR_IO, "%s: open: %s", path, strerror(errno));
    }
    free(path);
    return status;
}

/* --- Opening ----------------------------------------------------------------------- */

static lks_status add_mark(verifier *v, const lks_checkpoint_entry *entry)
{
    lks_checkpoint *checkpoint;
    LKS_TRY(lks_checkpoint_open(&checkpoint, entry->path, LKS_CHECK_MANIFEST));
    const json_t *chain = json_object_get(lks_checkpoint_manifest(checkpoint), "ledger");
    verify_mark *mark = &v->marks[v->mark_count];
    if (chain && entry->step > 0) {
        mark->step = entry->step;
        mark->path = strdup(entry->path);
        snprintf(mark->chain, sizeof mark->chain, "%s", json_string_value(chain));
        v->mark_count += mark->path != NULL;
    }
    lks_checkpoint_close(checkpoint);
    return LKS_OK;
}

static lks_status find_marks(verifier *v)
{
    lks_checkpoint_entry *entries;
    size_t count;
    LKS_TRY(lks_checkpoint_list(v->run, &entries, &count));
    lks_status status = LKS_NEW_ARRAY(&v->marks, count + 1);
    for (size_t i = 0; i < count && status == LKS_OK; ++i)
        if (entries[i].valid)
            status = add_mark(v, &entries[i]);
    lks_checkpoint_list_free(entries, count);
    return status;
}

static lks_status read_number(const json_t *json, const char *path, const char *key, int64_t most,
                              uint64_t *out)
{
    int64_t value;
    LKS_TRY(lks_json_get_integer(json, path, key, 1, most, &value));
    *out = (uint64_t)value;
    return LKS_OK;
}

static lks_status read_job(verifier *v, const json_t *json, const char *path)
{
    int64_t seed;
    if (!json_object_get(json, "order"))
        return LKS_FAIL(LKS_ERR_USAGE,
                        "%s: was written before there were ledgers: start the job once more", path);
    LKS_TRY(read_number(json, path, "order.samples", INT64_MAX / 2, &v->order.samples));
    LKS_TRY(read_number(json, path, "order.run_samples", INT64_MAX, &v->order.run_samples));
    LKS_TRY(read_number(json, path, "order.window_runs", INT64_MAX, &v->order.window_runs));
    LKS_TRY(lks_json_get_integer(json, path, "order.seed", INT64_MIN, INT64_MAX, &seed));
    LKS_TRY(read_number(json, path, "global_batch", 1000000000, &v->global_batch));
    LKS_TRY(read_number(json, path, "lanes", 65536, &v->lanes));
    v->order.seed = (uint64_t)seed;
    v->proof->samples = v->order.samples;
    v->proof->starts = json_array_size(json_object_get(json, "starts"));
    if (v->global_batch % v->lanes)
        return LKS_FAIL(LKS_ERR_CORRUPT, "%s: %llu lanes do not divide the batch %llu", path,
                        (unsigned long long)v->lanes, (unsigned long long)v->global_batch);
    return LKS_OK;
}

static lks_status open_job(verifier *v)
{
    json_t *json = NULL;
    char *path = lks_files_join(v->run, "run.json");
    if (!path)
        return LKS_FAIL(LKS_ERR_INTERNAL, "no memory");
    lks_status status =
        lks_files_exists(path)
            ? lks_json_load(path, &json)
            : LKS_FAIL(LKS_ERR_USAGE, "%s has no run.json: give a run directory", v->run);
    if (status == LKS_OK)
        status = read_job(v, json, path);
    json_decref(json);
    free(path);
    LKS_TRY(status);
    LKS_TRY(LKS_NEW_ARRAY(&v->ids, v->global_batch));
    LKS_TRY(LKS_NEW_ARRAY(&v->lane, v->lanes));
    LKS_TRY(LKS_NEW_ARRAY(&v->seen, v->order.samples / 64 + 1));
    return find_marks(v);
}

static lks_status verify(verifier *v)
{
    LKS_TRY(open_job(v));
    LKS_TRY(check_file(v));
    uint64_t last = v->mark_count ? v->marks[v->mark_count - 1].step : 0;
    while (v->step < last) /* lines that a crash of the machine has lost */
        LKS_TRY(advance(v));
    if (!v->proof->lines && !v->proof->checkpoints)
        return LKS_FAIL(LKS_ERR_USAGE,
                        "%s has no ledger: neither ledger.jsonl nor a checkpoint has a chain",
                        v->run);
    v->proof->steps = v->step;
    v->proof->rest = v->in_epoch;
    lks_ledger_hex(&v->ledger, v->proof->chain);
    return LKS_OK;
}

lks_status lks_ledger_verify(const char *run_directory, lks_ledger_proof *out)
{
    *out = (lks_ledger_proof){0};
    verifier v = {.run = run_directory, .ledger = lks_ledger_start(), .proof = out};
    lks_status status = verify(&v);
    for (size_t i = 0; i < v.mark_count; ++i)
        free(v.marks[i].path);
    lks_memory_free(v.marks);
    lks_memory_free(v.ids);
    lks_memory_free(v.lane);
    lks_memory_free(v.seen);
    return status;
}
