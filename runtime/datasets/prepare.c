#include "runtime/datasets/prepare.h"

#include "runtime/base/files.h"
#include "runtime/base/memory.h"
#include "runtime/base/rng.h"
#include "runtime/base/text.h"
#include "runtime/datasets/format_driver.h"
#include "runtime/datasets/gather.h"
#include "runtime/datasets/manifest_writer.h"
#include "runtime/datasets/output.h"
#include "runtime/datasets/provenance.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { READ_BYTES = 1 << 20, PARTS_MAX = 2 };

static const char scratch_name[] = "scratch";

/* One dataset that comes out: the whole, or one side of the split. */
typedef struct prepare_part {
    const char *name; /* "" or the directory below the output */
    char *directory;
    lks_format_part records;
    uint64_t shard_records, shard_count;
    uint64_t first_shard; /* over all parts: shard i is made by rank i mod size */
} prepare_part;

typedef struct prepare_job {
    const lks_prepare_spec *spec;
    const lks_parallel *parallel;
    const lks_format_driver *driver;
    lks_inputs inputs;
    lks_output output;
    char *scratch;
    lks_format_job format;
    void *source;
    lks_order order;
    prepare_part parts[PARTS_MAX];
    int part_count;
    json_t *schema, *statistics, *provenance; /* shared by the parts */
} prepare_job;

static lks_status agree(const prepare_job *job, lks_status mine)
{
    return job->parallel->agree(job->parallel->user, mine);
}

static const lks_format_driver *find_driver(const char *format)
{
    for (int i = 0; lks_format_drivers[i]; ++i) {
        if (strcmp(lks_format_drivers[i]->name, format) == 0)
            return lks_format_drivers[i];
    }
    return NULL;
}

static lks_status check_spec(prepare_job *job)
{
    const lks_prepare_spec *spec = job->spec;
    job->driver = find_driver(spec->format);
    if (!job->driver)
        return LKS_FAIL(LKS_ERR_USAGE, "no format %s: text, images and table can be prepared",
                        spec->format);
    if (spec->shuffle && job->driver->no_shuffle)
        return LKS_FAIL(LKS_ERR_USAGE, "%s cannot be shuffled: %s: leave --shuffle out",
                        spec->format, job->driver->no_shuffle);
    if (!(spec->validation_fraction >= 0 && spec->validation_fraction < 1))
        return LKS_FAIL(LKS_ERR_USAGE, "--split validation=%g: give a fraction between 0 and 1",
                        spec->validation_fraction);
    if (spec->shard_bytes < 0)
        return LKS_FAIL(LKS_ERR_USAGE, "shards of %" PRId64 " bytes: give a positive size",
                        spec->shard_bytes);
    return LKS_OK;
}

static lks_status make_scratch(prepare_job *job)
{
    job->scratch = lks_files_join(job->output.partial, scratch_name);
    if (!job->scratch)
        return LKS_FAIL(LKS_ERR_INTERNAL, "no memory for a path");
    if (job->output.root && mkdir(job->scratch, 0777) != 0)
        return LKS_FAIL(LKS_ERR_IO, "%s: mkdir: %s", job->scratch, strerror(errno));
    return LKS_OK;
}

static lks_status open_source(prepare_job *job)
{
    LKS_TRY(agree(job, make_scratch(job)));
    job->format = (lks_format_job){.inputs = &job->inputs,
                                   .options = job->spec->format_options,
                                   .parallel = job->parallel,
                                   .scratch = job->scratch,
                                   .shuffled = job->spec->shuffle};
    return job->driver->open(&job->source, &job->format);
}

static void set_part(prepare_job *job, const char *name, uint64_t first, uint64_t count)
{
    job->parts[job->part_count++] = (prepare_part){
        .name = name,
        .records = {
            .first = first, .count = count, .order = job->spec->shuffle ? &job->order : NULL}};
}

/* Where the records go; the same on every rank. */
static lks_status cut_parts(prepare_job *job)
{
    char text[32];
    uint64_t records = job->driver->records(job->source), least = job->driver->least_records;
    double fraction = job->spec->validation_fraction;
    job->order = (lks_order){.samples = records,
                             .seed = lks_rng_key(job->spec->shuffle_seed, LKS_RNG_SPLIT, 0),
                             .run_samples = 1,
                             .window_runs = 1};
    if (fraction == 0) {
        if (records < least)
            return LKS_FAIL(LKS_ERR_CORRUPT, "the input has %s, a dataset needs %" PRIu64,
                            lks_text_count(text, sizeof text, records, "record"), least);
        set_part(job, "", 0, records);
        return LKS_OK;
    }
    uint64_t validation = (uint64_t)floor(fraction * (double)records);
    if (validation < least || records - validation < least)
        return LKS_FAIL(LKS_ERR_USAGE,
                        "--split validation=%g of %" PRIu64 " records leaves %" PRIu64
                        " to train and %" PRIu64 " to validate with, each needs %" PRIu64
                        ": give another fraction, or more data",
                        fraction, records, records - validation, validation, least);
    set_part(job, "train", 0, records - validation);
    set_part(job, "validation", records - validation, validation);
    return LKS_OK;
}

static uint64_t record_bytes(const prepare_job *job)
{
    int count;
    const lks_shard_array *arrays = job->driver->arrays(job->source, &count);
    uint64_t bytes = 0;
    for (int i = 0; i < count; ++i)
        bytes += lks_shard_array_bytes(&arrays[i]);
    return bytes;
}

static lks_status make_part(prepare_job *job, prepare_part *part)
{
    part->directory = part->name[0] ? lks_files_join(job->output.partial, part->name)
                                    : strdup(job->output.partial);
    if (!part->directory)
        return LKS_FAIL(LKS_ERR_INTERNAL, "no memory for a path");
    if (part->name[0] && job->output.root && mkdir(part->directory, 0777) != 0)
        return LKS_FAIL(LKS_ERR_IO, "%s: mkdir: %s", part->directory, strerror(errno));
    return LKS_OK;
}

static lks_status cut_shards(prepare_job *job)
{
    uint64_t per_shard = (uint64_t)lks_prepare_shard_bytes(job->spec) / record_bytes(job),
             first = 0;
    for (int i = 0; i < job->part_count; ++i) {
        prepare_part *part = &job->parts[i];
        part->shard_records = per_shard > 0 ? per_shard : 1;
        part->shard_count = (part->records.count - 1) / part->shard_records + 1;
        part->first_shard = first;
        first += part->shard_count;
        LKS_TRY(make_part(job, part));
    }
    return LKS_OK;
}

/* Room for `records` of each array; data[count]. */
static lks_status make_buffers(const lks_shard_array *arrays, int count, uint64_t records,
                               void **data)
{
    for (int i = 0; i < count; ++i)
        LKS_TRY(lks_memory_allocate(&data[i], (size_t)records, lks_shard_array_bytes(&arrays[i])));
    return LKS_OK;
}

static void free_buffers(void **data, int count)
{
    for (int i = 0; data && i < count; ++i)
        lks_memory_free(data[i]);
    lks_memory_free(data);
}

static lks_status fill_shard(prepare_job *job, lks_shard_writer *writer,
                             const lks_format_part *records)
{
    int count;
    const lks_shard_array *arrays = job->driver->arrays(job->source, &count);
    uint64_t at_once = READ_BYTES / record_bytes(job) + 1;
    if (at_once > records->count)
        at_once = records->count;
    void **data = NULL;
    lks_status status = LKS_NEW_ARRAY(&data, (size_t)count);
    if (status == LKS_OK)
        status = make_buffers(arrays, count, at_once, data);
    for (uint64_t done = 0; status == LKS_OK && done < records->count; done += at_once) {
        uint64_t left = records->count - done, now = left < at_once ? left : at_once;
        status = job->driver->read(job->source, records, done, now, data);
        if (status == LKS_OK)
            status = lks_shard_append(writer, (const void *const *)data, now);
    }
    free_buffers(data, count);
    return status;
}

static lks_status write_shard_file(prepare_job *job, const char *path,
                                   const lks_format_part *records, json_t **out)
{
    int count;
    const lks_shard_array *arrays = job->driver->arrays(job->source, &count);
    lks_shard_writer *writer;
    LKS_TRY(lks_shard_create(&writer, path, arrays, count, records->count));
    lks_status status = fill_shard(job, writer, records);
    if (status == LKS_OK)
        return lks_shard_finish(writer, out);
    lks_shard_abandon(writer);
    return status;
}

static lks_status write_shard(prepare_job *job, const prepare_part *part, uint64_t shard,
                              json_t *entries)
{
    lks_format_part records = part->records;
    uint64_t skipped = shard * part->shard_records, left = part->records.count - skipped;
    records.first += skipped;
    records.count = left < part->shard_records ? left : part->shard_records;
    char *path, key[24];
    if (asprintf(&path, "%s/shard-%05" PRIu64 ".h5", part->directory, shard) < 0)
        return LKS_FAIL(LKS_ERR_INTERNAL, "no memory for a path");
    json_t *entry;
    lks_status status = write_shard_file(job, path, &records, &entry);
    free(path);
    LKS_TRY(status);
    snprintf(key, sizeof key, "%" PRIu64, part->first_shard + shard);
    if (json_object_set_new(entries, key, entry) != 0)
        return LKS_FAIL(LKS_ERR_INTERNAL, "no memory for the entries of the shards");
    return LKS_OK;
}

/* This rank's shards; entries: number over all parts -> manifest entry. */
static lks_status write_own_shards(prepare_job *job, json_t *entries)
{
    for (int i = 0; i < job->part_count; ++i) {
        const prepare_part *part = &job->parts[i];
        for (uint64_t shard = 0; shard < part->shard_count; ++shard) {
            if (lks_gather_is_mine(job->parallel, part->first_shard + shard))
                LKS_TRY(write_shard(job, part, shard, entries));
        }
    }
    return LKS_OK;
}

static json_t *list_shards(const prepare_part *part, const json_t *by_rank)
{
    json_t *list = json_array();
    for (uint64_t shard = 0; shard < part->shard_count; ++shard) {
        uint64_t number = part->first_shard + shard;
        char key[24];
        snprintf(key, sizeof key, "%" PRIu64, number);
        const json_t *entries = json_array_get(by_rank, number % json_array_size(by_rank));
        json_array_append(list, json_object_get(entries, key));
    }
    return list;
}

static lks_status write_manifest(const prepare_job *job, const prepare_part *part,
                                 const json_t *by_rank)
{
    json_t *shards = list_shards(part, by_rank);
    lks_manifest_parts manifest = {.kind = job->driver->name,
                                   .records = part->records.count,
                                   .schema = job->schema,
                                   .shards = shards,
                                   .statistics = job->statistics,
                                   .provenance = job->provenance};
    lks_status status = lks_manifest_write(part->directory, &manifest);
    json_decref(shards);
    return status;
}

static lks_status write_manifests(prepare_job *job, const json_t *by_rank)
{
    if (!job->output.root)
        return LKS_OK;
    for (int i = 0; i < job->part_count; ++i)
        LKS_TRY(write_manifest(job, &job->parts[i], by_rank));
    return LKS_OK;
}

static lks_status describe(prepare_job *job)
{
    json_t *inputs;
    LKS_TRY(lks_inputs_describe(&job->inputs, job->parallel, &inputs));
    job->provenance = lks_provenance(job->spec, job->driver, inputs);
    json_decref(inputs);
    lks_status status = job->driver->describe(job->source, &job->schema, &job->statistics);
    if (status == LKS_OK && !job->provenance)
        status = LKS_FAIL(LKS_ERR_INTERNAL, "no memory for the provenance");
    return agree(job, status);
}

static lks_status write_shards(prepare_job *job)
{
    json_t *mine = json_object(), *by_rank = NULL;
    lks_status status = write_own_shards(job, mine);
    status = lks_gather_json(job->parallel, status, mine, &by_rank);
    json_decref(mine);
    LKS_TRY(status);
    status = agree(job, write_manifests(job, by_rank));
    json_decref(by_rank);
    return status;
}

/* All ranks return the same status: each step is agreed on. */
static lks_status build(prepare_job *job)
{
    LKS_TRY(agree(job, check_spec(job)));
    const lks_prepare_spec *spec = job->spec;
    LKS_TRY(agree(job, lks_inputs_resolve(&job->inputs, spec->inputs, spec->input_count)));
    LKS_TRY(lks_output_begin(&job->output, spec->output, spec->force, job->parallel));
    LKS_TRY(open_source(job));
    LKS_TRY(agree(job, cut_parts(job)));
    LKS_TRY(job->driver->learn(job->source, &job->parts[0].records));
    LKS_TRY(agree(job, cut_shards(job)));
    LKS_TRY(describe(job));
    return write_shards(job);
}

static void release(prepare_job *job)
{
    lks_inputs_release(&job->inputs);
    lks_output_release(&job->output);
    free(job->scratch);
    for (int i = 0; i < job->part_count; ++i)
        free(job->parts[i].directory);
    json_decref(job->schema);
    json_decref(job->statistics);
    json_decref(job->provenance);
}

static lks_status commit(prepare_job *job)
{
    if (!job->output.root)
        return LKS_OK;
    LKS_TRY(lks_files_remove_tree(job->scratch));
    return lks_output_commit(&job->output);
}

lks_status lks_prepare(const lks_prepare_spec *spec, const lks_parallel *parallel)
{
    prepare_job job = {.spec = spec, .parallel = parallel};
    lks_status status = build(&job);
    if (job.source)
        job.driver->close(job.source);
    if (status == LKS_OK)
        status = agree(&job, commit(&job));
    if (status != LKS_OK)
        lks_output_discard(&job.output);
    release(&job);
    return status;
}

const lks_option *lks_prepare_options(const char *format)
{
    const lks_format_driver *driver = find_driver(format);
    return driver ? driver->options : NULL;
}

size_t lks_prepare_options_bytes(const char *format)
{
    const lks_format_driver *driver = find_driver(format);
    return driver ? driver->options_bytes : 0;
}

const char *lks_prepare_about(const char *format)
{
    const lks_format_driver *driver = find_driver(format);
    return driver ? driver->about : NULL;
}

const char *const *lks_prepare_formats(void)
{
    return lks_format_names;
}
