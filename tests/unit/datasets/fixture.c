#include "fixture.h"

#include "runtime/base/files.h"
#include "runtime/base/json.h"
#include "runtime/datasets/manifest.h"

#include <hdf5.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

char fixture_directory[256];

void fixture_setup(void)
{
    const char *base = getenv("TMPDIR");
    snprintf(fixture_directory, sizeof fixture_directory, "%s/lockstep-datasets-XXXXXX",
             base != NULL ? base : "/tmp");
    ck_assert_ptr_nonnull(mkdtemp(fixture_directory));
}

void fixture_teardown(void)
{
    assert_ok(lks_files_remove_tree(fixture_directory));
}

const char *fixture_path(const char *name)
{
    static char path[512];
    snprintf(path, sizeof path, "%s/%s", fixture_directory, name);
    return path;
}

uint64_t fixture_total(const fixture_layout *layout)
{
    uint64_t total = 0;
    for (size_t i = 0; i < layout->shard_count; ++i)
        total += layout->shard_records[i];
    return total;
}

static size_t row_bytes(const fixture_column *column)
{
    return lks_shape_elements(&column->row) * lks_dtype_bytes(column->dtype);
}

static hid_t file_type(lks_dtype dtype)
{
    switch (dtype) {
    case LKS_U8:
        return H5T_STD_U8LE;
    case LKS_U16:
        return H5T_STD_U16LE;
    case LKS_I32:
        return H5T_STD_I32LE;
    default:
        return H5T_IEEE_F32LE;
    }
}

static void write_column(hid_t file, const fixture_column *column, const void *data,
                         uint64_t records)
{
    hsize_t size[LKS_AXES_MAX + 1] = {records};
    for (int axis = 0; axis < column->row.axes; ++axis)
        size[axis + 1] = (hsize_t)column->row.size[axis];
    hid_t space = H5Screate_simple(column->row.axes + 1, size, NULL);
    hid_t list = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_alloc_time(list, H5D_ALLOC_TIME_EARLY);
    hid_t type = file_type(column->dtype);
    hid_t dataset = H5Dcreate2(file, column->name, type, space, H5P_DEFAULT, list, H5P_DEFAULT);
    ck_assert_int_ge(H5Dwrite(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, data), 0);
    H5Dclose(dataset);
    H5Pclose(list);
    H5Sclose(space);
}

static json_t *describe_column(const fixture_column *column, const unsigned char *data,
                               uint64_t records, int64_t block_bytes)
{
    json_t *shape = json_pack("[I]", (json_int_t)records), *hashes = json_array();
    for (int axis = 0; axis < column->row.axes; ++axis)
        json_array_append_new(shape, json_integer(column->row.size[axis]));
    size_t bytes = records * row_bytes(column);
    for (size_t at = 0; at < bytes; at += (size_t)block_bytes) {
        size_t left = bytes - at;
        char hex[17];
        snprintf(hex, sizeof hex, "%016" PRIx64,
                 lks_hash_xxh3(data + at, left < (size_t)block_bytes ? left : (size_t)block_bytes));
        json_array_append_new(hashes, json_string(hex));
    }
    return json_pack("{s:s, s:s, s:o, s:I, s:o}", "name", column->name, "dtype",
                     lks_dtype_name(column->dtype), "shape", shape, "block_bytes",
                     (json_int_t)block_bytes, "xxh3", hashes);
}

static json_t *write_shard(const char *name, const fixture_column *columns, int column_count,
                           uint64_t first, uint64_t records, int64_t block_bytes)
{
    const char *path = fixture_path(name);
    hid_t file = H5Fcreate(path, H5F_ACC_EXCL, H5P_DEFAULT, H5P_DEFAULT);
    json_t *datasets = json_array();
    for (int i = 0; i < column_count; ++i) {
        const unsigned char *data =
            (const unsigned char *)columns[i].data + first * row_bytes(&columns[i]);
        write_column(file, &columns[i], data, records);
        json_array_append_new(datasets, describe_column(&columns[i], data, records, block_bytes));
    }
    ck_assert_int_ge(H5Fclose(file), 0);
    struct stat info;
    char hex[LKS_SHA256_HEX];
    ck_assert_int_eq(stat(path, &info), 0);
    assert_ok(lks_hash_sha256_file(path, hex));
    return json_pack("{s:s, s:I, s:I, s:s, s:o}", "file", name, "records", (json_int_t)records,
                     "bytes", (json_int_t)info.st_size, "sha256", hex, "datasets", datasets);
}

void fixture_write(const char *kind, json_t *schema, json_t *statistics,
                   const fixture_column *columns, int column_count, const fixture_layout *layout)
{
    json_t *shards = json_array();
    uint64_t first = 0;
    for (size_t i = 0; i < layout->shard_count; ++i) {
        char name[32];
        snprintf(name, sizeof name, "shard-%05zu.h5", i);
        json_array_append_new(shards, write_shard(name, columns, column_count, first,
                                                  layout->shard_records[i], layout->block_bytes));
        first += layout->shard_records[i];
    }
    json_t *manifest =
        json_pack("{s:s, s:i, s:s, s:I, s:o, s:o, s:o*, s:{s:s}}", "format", "lockstep-dataset",
                  "version", 1, "kind", kind, "records", (json_int_t)first, "schema", schema,
                  "shards", shards, "statistics", statistics, "provenance", "made", "by a test");
    ck_assert_ptr_nonnull(manifest);
    fixture_save_manifest(manifest, true);
    json_decref(manifest);
}

int32_t fixture_token(uint64_t i)
{
    return (int32_t)((i * 2654435761u >> 13) & 255);
}

int32_t fixture_label(uint64_t i, int32_t classes)
{
    return i % 7 == 3 ? -1 : (int32_t)(i % (uint64_t)classes);
}

float fixture_feature(uint64_t i, uint64_t j)
{
    return (float)i - (float)j * 0.125f;
}

uint8_t fixture_pixel(uint64_t i, uint64_t j)
{
    return (uint8_t)(i * 31 + j);
}

void fixture_text(lks_dtype dtype, const fixture_layout *layout)
{
    uint64_t count = fixture_total(layout);
    uint8_t *narrow = calloc(count, 1);
    uint16_t *wide = calloc(count, 2);
    for (uint64_t i = 0; i < count; ++i) {
        narrow[i] = (uint8_t)fixture_token(i);
        wide[i] = (uint16_t)(fixture_token(i) * 100);
    }
    fixture_column column = {"tokens", dtype, LKS_SCALAR,
                             dtype == LKS_U8 ? (void *)narrow : (void *)wide};
    json_t *schema =
        json_pack("{s:i, s:s}", "vocabulary", dtype == LKS_U8 ? 256 : 25501, "tokenizer", "bytes");
    fixture_write("text", schema, NULL, &column, 1, layout);
    free(narrow);
    free(wide);
}

void fixture_images(const fixture_layout *layout)
{
    uint64_t count = fixture_total(layout);
    uint8_t *pixels = calloc(count, FIXTURE_PIXELS);
    int32_t *labels = calloc(count, sizeof *labels);
    for (uint64_t i = 0; i < count; ++i) {
        labels[i] = fixture_label(i, FIXTURE_CLASSES);
        for (uint64_t j = 0; j < FIXTURE_PIXELS; ++j)
            pixels[i * FIXTURE_PIXELS + j] = fixture_pixel(i, j);
    }
    fixture_column columns[] = {{"images", LKS_U8, LKS_SHAPE(4, 3, 2), pixels},
                                {"labels", LKS_I32, LKS_SCALAR, labels}};
    json_t *schema = json_pack("{s:i, s:i, s:i, s:i}", "height", 4, "width", 3, "channels", 2,
                               "classes", FIXTURE_CLASSES);
    json_t *statistics = json_pack("{s:[f,f], s:[f,f]}", "channel_mean", 12.5, 100.25,
                                   "channel_deviation", 3.5, 60.0);
    fixture_write("images", schema, statistics, columns, 2, layout);
    free(pixels);
    free(labels);
}

void fixture_table(int32_t classes, const fixture_layout *layout)
{
    uint64_t count = fixture_total(layout);
    float *features = calloc(count * FIXTURE_FEATURES, sizeof *features);
    int32_t *labels = calloc(count, sizeof *labels);
    float *numbers = calloc(count, sizeof *numbers);
    for (uint64_t i = 0; i < count; ++i) {
        labels[i] = fixture_label(i, classes > 0 ? classes : 1);
        numbers[i] = i % 7 == 3 ? NAN : (float)i * 0.5f;
        for (uint64_t j = 0; j < FIXTURE_FEATURES; ++j)
            features[i * FIXTURE_FEATURES + j] = fixture_feature(i, j);
    }
    fixture_column columns[] = {{"features", LKS_F32, LKS_SHAPE(FIXTURE_FEATURES), features},
                                {"target", classes > 0 ? LKS_I32 : LKS_F32, LKS_SCALAR,
                                 classes > 0 ? (void *)labels : (void *)numbers}};
    json_t *schema = json_pack("{s:i, s:i}", "features", FIXTURE_FEATURES, "classes", classes);
    fixture_write("table", schema, NULL, columns, 2, layout);
    free(features);
    free(labels);
    free(numbers);
}

json_t *fixture_load_manifest(void)
{
    json_t *json;
    assert_ok(lks_json_load(fixture_path("manifest.json"), &json));
    return json;
}

void fixture_save_manifest(json_t *manifest, bool seal)
{
    char hex[LKS_SHA256_HEX];
    if (seal) {
        assert_ok(lks_manifest_digest(manifest, hex));
        json_object_set_new(manifest, "digest", json_string(hex));
    }
    ck_assert_int_eq(json_dump_file(manifest, fixture_path("manifest.json"),
                                    JSON_INDENT(1) | JSON_REAL_PRECISION(17)),
                     0);
}

void fixture_flip_byte(const char *name, uint64_t offset)
{
    FILE *file = fopen(fixture_path(name), "r+b");
    ck_assert_ptr_nonnull(file);
    fseek(file, (long)offset, SEEK_SET);
    int byte = fgetc(file);
    ck_assert_int_ne(byte, EOF);
    fseek(file, (long)offset, SEEK_SET);
    fputc(byte ^ 0x10, file);
    ck_assert_int_eq(fclose(file), 0);
}

uint64_t fixture_offset(const char *name, const char *column)
{
    hid_t file = H5Fopen(fixture_path(name), H5F_ACC_RDONLY, H5P_DEFAULT);
    hid_t dataset = H5Dopen2(file, column, H5P_DEFAULT);
    haddr_t offset = H5Dget_offset(dataset);
    H5Dclose(dataset);
    H5Fclose(file);
    ck_assert(offset != HADDR_UNDEF);
    return offset;
}
