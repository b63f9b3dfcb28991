/* Images: pairs of IDX files; the i-th file of images goes with the i-th of labels. */
#include "runtime/base/files.h"
#include "runtime/base/memory.h"
#include "runtime/datasets/format_driver.h"
#include "runtime/datasets/gather.h"
#include "runtime/datasets/idx.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { STAGE_BYTES = 1 << 20, LEVELS = 256 };

typedef struct images_options {
    int64_t classes, unlabelled;
} images_options;

static const lks_option images_option_table[] = {
    {.name = "classes",
     .type = LKS_OPTION_INTEGER,
     .offset = offsetof(images_options, classes),
     .fallback = "0",
     .minimum = 0,
     .maximum = 256,
     .change = LKS_OPTION_FIXED,
     .about = "number of classes; 0: one more than the largest label"},
    {.name = "unlabelled",
     .type = LKS_OPTION_INTEGER,
     .offset = offsetof(images_options, unlabelled),
     .fallback = "-1",
     .minimum = -1,
     .maximum = 255,
     .change = LKS_OPTION_FIXED,
     .about = "label of images that have none: they are masked; -1: all have one"},
    LKS_OPTIONS_END};

typedef struct images_file {
    const char *path; /* as the user knows it */
    lks_idx_header header;
    int file; /* of the plain bytes */
} images_file;

typedef struct images_pair {
    images_file images, labels;
    uint64_t first; /* record */
} images_pair;

typedef struct images_source {
    const lks_format_job *job;
    images_pair *pairs;
    size_t image_files, label_files; /* equal once opened: the pairs */
    lks_shape shape;
    uint64_t records;
    int64_t classes;
    lks_shard_array arrays[2];
    double *mean, *deviation; /* [channels] */
    unsigned char *labels;    /* a run of labels as read */
    size_t labels_capacity;
} images_source;

static void images_close(void *handle)
{
    images_source *source = handle;
    if (!source)
        return;
    for (size_t i = 0; source->pairs && i < source->job->inputs->count; ++i) {
        if (source->pairs[i].images.file >= 0)
            close(source->pairs[i].images.file);
        if (source->pairs[i].labels.file >= 0)
            close(source->pairs[i].labels.file);
    }
    lks_memory_free(source->pairs);
    lks_memory_free(source->mean);
    lks_memory_free(source->deviation);
    lks_memory_free(source->labels);
    lks_memory_free(source);
}

static lks_status images_copy(lks_idx *idx, int file, const char *path, unsigned char *buffer)
{
    const lks_idx_header *header = lks_idx_header_of(idx);
    for (uint64_t at = header->header_bytes; at < header->file_bytes; at += STAGE_BYTES) {
        uint64_t left = header->file_bytes - at;
        size_t now = left < STAGE_BYTES ? (size_t)left : STAGE_BYTES;
        LKS_TRY(lks_idx_read(idx, buffer, now));
        LKS_TRY(lks_files_pwrite(file, path, buffer, now, at));
    }
    return lks_idx_check_end(idx);
}

/* Decompresses a file, so that records can be read in any order and by any rank. */
static lks_status images_stage(lks_idx *idx, const char *path)
{
    int file = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (file < 0)
        return LKS_FAIL(LKS_ERR_IO, "%s: open: %s", path, strerror(errno));
    unsigned char *buffer = NULL;
    lks_status status = LKS_NEW_ARRAY(&buffer, (size_t)STAGE_BYTES);
    if (status == LKS_OK)
        status = images_copy(idx, file, path, buffer);
    lks_memory_free(buffer);
    if (close(file) != 0 && status == LKS_OK)
        status = LKS_FAIL(LKS_ERR_IO, "%s: close: %s", path, strerror(errno));
    return status;
}

static char *images_staged_path(const images_source *source, size_t input)
{
    char *path;
    return asprintf(&path, "%s/idx-%zu", source->job->scratch, input) < 0 ? NULL : path;
}

/* Checks one input to its end; a compressed one is staged. */
static lks_status images_check_input(const images_source *source, size_t input)
{
    const lks_input *file = &source->job->inputs->files[input];
    lks_idx *idx;
    LKS_TRY(lks_idx_open(&idx, file->path));
    lks_status status;
    if (lks_idx_is_compressed(idx)) {
        char *path = images_staged_path(source, input);
        status =
            path ? images_stage(idx, path) : LKS_FAIL(LKS_ERR_INTERNAL, "no memory for a path");
        free(path);
    } else {
        status = lks_idx_check_size(idx, file->bytes);
    }
    lks_idx_close(idx);
    return status;
}

static lks_status images_check_inputs(const images_source *source)
{
    const lks_parallel *parallel = source->job->parallel;
    for (size_t i = (size_t)parallel->rank; i < source->job->inputs->count;
         i += (size_t)parallel->size)
        LKS_TRY(images_check_input(source, i));
    return LKS_OK;
}

static lks_status images_open_plain(const images_source *source, size_t input, bool compressed,
                                    images_file *out)
{
    char *staged = compressed ? images_staged_path(source, input) : NULL;
    const char *path = compressed ? staged : out->path;
    if (!path)
        return LKS_FAIL(LKS_ERR_INTERNAL, "no memory for a path");
    out->file = open(path, O_RDONLY | O_CLOEXEC);
    lks_status status = LKS_OK;
    if (out->file < 0)
        status = LKS_FAIL(LKS_ERR_IO, "%s: open: %s", path, strerror(errno));
    free(staged);
    return status;
}

static lks_status images_add_input(images_source *source, size_t input)
{
    const char *path = source->job->inputs->files[input].path;
    lks_idx *idx;
    LKS_TRY(lks_idx_open(&idx, path));
    lks_idx_header header = *lks_idx_header_of(idx);
    bool compressed = lks_idx_is_compressed(idx);
    lks_idx_close(idx);
    images_file *file = header.axes == 1 ? &source->pairs[source->label_files++].labels
                                         : &source->pairs[source->image_files++].images;
    file->path = path;
    file->header = header;
    return images_open_plain(source, input, compressed, file);
}

static lks_status images_check_shape(images_source *source, const images_file *file)
{
    const lks_idx_header *h = &file->header;
    lks_shape shape = LKS_SHAPE(h->height, h->width, h->channels);
    if (source->shape.axes == 0)
        source->shape = shape;
    char found[64], wanted[64];
    if (!lks_shape_equal(&shape, &source->shape))
        return LKS_FAIL(LKS_ERR_CORRUPT, "%s: its images are %s, those of %s are %s", file->path,
                        lks_shape_text(&shape, found, sizeof found), source->pairs[0].images.path,
                        lks_shape_text(&source->shape, wanted, sizeof wanted));
    return LKS_OK;
}

static lks_status images_check_pairs(images_source *source)
{
    if (source->image_files != source->label_files)
        return LKS_FAIL(LKS_ERR_USAGE,
                        "%zu files of images and %zu of labels: give one of labels for each of "
                        "images",
                        source->image_files, source->label_files);
    for (size_t i = 0; i < source->image_files; ++i) {
        images_pair *pair = &source->pairs[i];
        if (pair->images.header.records != pair->labels.header.records)
            return LKS_FAIL(LKS_ERR_CORRUPT, "%s has %" PRIu64 " images, %s has %" PRIu64 " labels",
                            pair->images.path, pair->images.header.records, pair->labels.path,
                            pair->labels.header.records);
        LKS_TRY(images_check_shape(source, &pair->images));
        pair->first = source->records;
        source->records += pair->images.header.records;
    }
    return LKS_OK;
}

static lks_status images_pair_up(images_source *source)
{
    for (size_t i = 0; i < source->job->inputs->count; ++i)
        LKS_TRY(images_add_input(source, i));
    LKS_TRY(images_check_pairs(source));
    source->arrays[0] =
        (lks_shard_array){.name = "images", .dtype = LKS_U8, .shape = source->shape};
    source->arrays[1] = (lks_shard_array){.name = "labels", .dtype = LKS_I32, .shape = LKS_SCALAR};
    return LKS_OK;
}

static lks_status images_start(images_source **out, const lks_format_job *job)
{
    images_source *source;
    LKS_TRY(LKS_NEW(&source));
    *out = source;
    source->job = job;
    LKS_TRY(LKS_NEW_ARRAY(&source->pairs, job->inputs->count));
    for (size_t i = 0; i < job->inputs->count; ++i)
        source->pairs[i].images.file = source->pairs[i].labels.file = -1;
    return images_check_inputs(source);
}

static lks_status images_open(void **out, const lks_format_job *job)
{
    const lks_parallel *parallel = job->parallel;
    images_source *source = NULL;
    lks_status status = parallel->agree(parallel->user, images_start(&source, job));
    if (status == LKS_OK)
        status = parallel->agree(parallel->user, images_pair_up(source));
    if (status != LKS_OK)
        images_close(source);
    else
        *out = source;
    return status;
}

static uint64_t images_records(const void *handle)
{
    return ((const images_source *)handle)->records;
}

static const lks_shard_array *images_arrays(const void *handle, int *count)
{
    *count = 2;
    return ((const images_source *)handle)->arrays;
}

static const images_pair *images_find(const images_source *source, uint64_t record)
{
    size_t i = source->image_files - 1;
    while (source->pairs[i].first > record)
        --i;
    return &source->pairs[i];
}

static lks_status images_read_file(const images_file *file, uint64_t record, uint64_t count,
                                   void *out)
{
    const lks_idx_header *header = &file->header;
    return lks_files_pread(file->file, file->path, out, (size_t)(count * header->record_bytes),
                           header->header_bytes + record * header->record_bytes);
}

static lks_status images_read_labels(images_source *source, const images_pair *pair,
                                     uint64_t record, uint64_t count, int32_t *out)
{
    LKS_TRY(LKS_GROW(&source->labels, &source->labels_capacity, (size_t)count));
    LKS_TRY(images_read_file(&pair->labels, record, count, source->labels));
    int64_t classes = source->classes;
    int64_t unlabelled = ((const images_options *)source->job->options)->unlabelled;
    for (uint64_t i = 0; i < count; ++i) {
        out[i] = source->labels[i] == unlabelled ? -1 : source->labels[i];
        if (classes > 0 && out[i] >= classes)
            return LKS_FAIL(LKS_ERR_CORRUPT,
                            "%s: record %" PRIu64 " has label %d, with %" PRId64
                            " classes labels are 0 to %" PRId64,
                            pair->labels.path, record + i, out[i], classes, classes - 1);
    }
    return LKS_OK;
}

/* One of images and labels may be NULL: not wanted. */
static lks_status images_read_some(images_source *source, const lks_format_part *part,
                                   uint64_t index, uint64_t count, unsigned char *images,
                                   int32_t *labels)
{
    uint64_t image_bytes = lks_shard_array_bytes(&source->arrays[0]);
    while (count > 0) {
        uint64_t record = lks_format_record(part, index), run = lks_format_run(part, index, count);
        const images_pair *pair = images_find(source, record);
        uint64_t at = record - pair->first, left = pair->images.header.records - at;
        run = run < left ? run : left;
        if (images) {
            LKS_TRY(images_read_file(&pair->images, at, run, images));
            images += run * image_bytes;
        }
        if (labels) {
            LKS_TRY(images_read_labels(source, pair, at, run, labels));
            labels += run;
        }
        index += run;
        count -= run;
    }
    return LKS_OK;
}

static lks_status images_read(void *handle, const lks_format_part *part, uint64_t index,
                              uint64_t count, void *const *data)
{
    return images_read_some(handle, part, index, count, data[0], data[1]);
}

/* The largest label of this rank's share of all records. */
static lks_status images_largest_label(images_source *source, int64_t *largest)
{
    const lks_parallel *parallel = source->job->parallel;
    lks_format_part all = {.first = 0, .count = source->records};
    int32_t *labels;
    LKS_TRY(LKS_NEW_ARRAY(&labels, (size_t)STAGE_BYTES));
    lks_status status = LKS_OK;
    uint64_t step = STAGE_BYTES, stride = step * (uint64_t)parallel->size;
    *largest = 0;
    for (uint64_t at = step * (uint64_t)parallel->rank; status == LKS_OK && at < source->records;
         at += stride) {
        uint64_t count = source->records - at < step ? source->records - at : step;
        status = images_read_some(source, &all, at, count, NULL, labels);
        for (uint64_t i = 0; status == LKS_OK && i < count; ++i)
            *largest = labels[i] > *largest ? labels[i] : *largest;
    }
    lks_memory_free(labels);
    return status;
}

static lks_status images_learn_classes(images_source *source)
{
    const images_options *options = source->job->options;
    source->classes = options->classes;
    int64_t largest = 0;
    lks_status status = images_largest_label(source, &largest);
    json_t *mine = json_integer(largest), *all = NULL;
    status = lks_gather_json(source->job->parallel, status, mine, &all);
    json_decref(mine);
    LKS_TRY(status);
    for (size_t i = 0; i < json_array_size(all); ++i) {
        int64_t other = json_integer_value(json_array_get(all, i));
        largest = other > largest ? other : largest;
    }
    json_decref(all);
    if (source->classes == 0)
        source->classes = largest + 1 > 2 ? largest + 1 : 2;
    return LKS_OK;
}

/* counts[channel * LEVELS + level] += pixels of `count` images */
static void images_count_levels(const images_source *source, const unsigned char *images,
                                uint64_t count, uint64_t *counts)
{
    uint64_t channels = (uint64_t)source->shape.size[2];
    uint64_t pixels = count * lks_shard_array_bytes(&source->arrays[0]) / channels;
    for (uint64_t p = 0; p < pixels; ++p) {
        for (uint64_t c = 0; c < channels; ++c)
            counts[c * LEVELS + images[p * channels + c]]++;
    }
}

static lks_status images_count_share(images_source *source, const lks_format_part *training,
                                     uint64_t *counts)
{
    const lks_parallel *parallel = source->job->parallel;
    uint64_t image_bytes = lks_shard_array_bytes(&source->arrays[0]);
    uint64_t step = STAGE_BYTES / image_bytes + 1, stride = step * (uint64_t)parallel->size;
    unsigned char *images;
    LKS_TRY(LKS_NEW_ARRAY(&images, (size_t)(step * image_bytes)));
    lks_status status = LKS_OK;
    for (uint64_t at = step * (uint64_t)parallel->rank; status == LKS_OK && at < training->count;
         at += stride) {
        uint64_t count = training->count - at < step ? training->count - at : step;
        status = images_read_some(source, training, at, count, images, NULL);
        if (status == LKS_OK)
            images_count_levels(source, images, count, counts);
    }
    lks_memory_free(images);
    return status;
}

/* From counts, which are the same in whatever order the images were read. */
static void images_set_channel(images_source *source, size_t channel, const uint64_t *counts)
{
    uint64_t pixels = 0, sum = 0;
    for (uint64_t level = 0; level < LEVELS; ++level) {
        pixels += counts[level];
        sum += counts[level] * level;
    }
    double mean = (double)sum / (double)pixels, squares = 0;
    for (uint64_t level = 0; level < LEVELS; ++level) {
        double distance = (double)level - mean;
        squares += (double)counts[level] * distance * distance;
    }
    source->mean[channel] = mean;
    source->deviation[channel] = squares > 0 ? sqrt(squares / (double)pixels) : 1;
}

static lks_status images_learn_channels(images_source *source, const lks_format_part *training)
{
    size_t channels = (size_t)source->shape.size[2], levels = channels * LEVELS, bytes;
    uint64_t *counts = NULL;
    void *all = NULL;
    lks_status status = LKS_NEW_ARRAY(&counts, levels);
    if (status == LKS_OK)
        status = LKS_NEW_ARRAY(&source->mean, channels);
    if (status == LKS_OK)
        status = LKS_NEW_ARRAY(&source->deviation, channels);
    if (status == LKS_OK)
        status = images_count_share(source, training, counts);
    status = lks_gather_bytes(source->job->parallel, status, counts, levels * sizeof *counts, &all,
                              &bytes);
    if (status == LKS_OK) {
        const uint64_t *gathered = all;
        memcpy(counts, gathered, levels * sizeof *counts);
        for (size_t i = levels; i < bytes / sizeof *counts; ++i)
            counts[i % levels] += gathered[i];
        for (size_t c = 0; c < channels; ++c)
            images_set_channel(source, c, counts + c * LEVELS);
    }
    free(all);
    lks_memory_free(counts);
    return status;
}

static lks_status images_learn(void *handle, const lks_format_part *training)
{
    LKS_TRY(images_learn_classes(handle));
    return images_learn_channels(handle, training);
}

static lks_status images_describe(const void *handle, json_t **schema, json_t **statistics)
{
    const images_source *source = handle;
    json_t *mean = json_array(), *deviation = json_array();
    for (int64_t c = 0; c < source->shape.size[2]; ++c) {
        json_array_append_new(mean, json_real(source->mean[c]));
        json_array_append_new(deviation, json_real(source->deviation[c]));
    }
    *schema = json_pack("{s:I, s:I, s:I, s:I}", "height", (json_int_t)source->shape.size[0],
                        "width", (json_int_t)source->shape.size[1], "channels",
                        (json_int_t)source->shape.size[2], "classes", (json_int_t)source->classes);
    *statistics = json_pack("{s:o, s:o}", "channel_mean", mean, "channel_deviation", deviation);
    if (!*schema || !*statistics)
        return LKS_FAIL(LKS_ERR_INTERNAL, "no memory for the schema");
    return LKS_OK;
}

extern const lks_format_driver lks_images_format;
const lks_format_driver lks_images_format = {
    .name = "images",
    .about = "IDX files of images and labels, .gz or not",
    .options = images_option_table,
    .options_bytes = sizeof(images_options),
    .least_records = 1,
    .open = images_open,
    .close = images_close,
    .records = images_records,
    .learn = images_learn,
    .arrays = images_arrays,
    .read = images_read,
    .describe = images_describe,
};
