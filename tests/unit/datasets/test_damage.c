#include "fixture.h"
#include "suites.h"

#include <hdf5.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void assert_open_fails(lks_status wanted, const char *message)
{
    lks_dataset *dataset = NULL;
    assert_status(lks_dataset_open(&dataset, fixture_directory, 4), wanted);
    assert_message(message);
    ck_assert_ptr_null(dataset);
}

static void make_text(void)
{
    fixture_layout layout = FIXTURE_LAYOUT(16, 50, 51);
    fixture_text(LKS_U8, &layout);
}

/* Sets a member, seals the manifest and saves it. */
static void change(const char *outer, const char *key, json_t *value)
{
    json_t *manifest = fixture_load_manifest();
    json_t *object = outer != NULL ? json_object_get(manifest, outer) : manifest;
    json_object_set_new(object, key, value);
    fixture_save_manifest(manifest, true);
    json_decref(manifest);
}

static void change_shard(size_t index, const char *key, json_t *value)
{
    json_t *manifest = fixture_load_manifest();
    json_object_set_new(json_array_get(json_object_get(manifest, "shards"), index), key, value);
    fixture_save_manifest(manifest, true);
    json_decref(manifest);
}

static void change_column(size_t shard, size_t column, const char *key, json_t *value)
{
    json_t *manifest = fixture_load_manifest();
    json_t *entry = json_array_get(json_object_get(manifest, "shards"), shard);
    json_object_set_new(json_array_get(json_object_get(entry, "datasets"), column), key, value);
    fixture_save_manifest(manifest, true);
    json_decref(manifest);
}

START_TEST(missing_directory_and_manifest)
{
    assert_open_fails(LKS_ERR_USAGE, "no manifest.json in it");
    lks_dataset *dataset;
    assert_status(lks_dataset_open(&dataset, fixture_path("nowhere"), 4), LKS_ERR_USAGE);
    assert_message("nowhere: no such directory");
    ck_assert_int_eq(mkdir(fixture_path("train"), 0700), 0);
    FILE *file = fopen(fixture_path("train/manifest.json"), "w");
    fclose(file);
    assert_open_fails(LKS_ERR_USAGE, "/train: name that one");
}
END_TEST

START_TEST(newer_version)
{
    make_text();
    change(NULL, "version", json_integer(2));
    assert_open_fails(LKS_ERR_CORRUPT,
                      "/manifest.json: made by a newer lockstep, as version 2, this one reads 1: use that one");
    assert_status(lks_dataset_verify(fixture_directory, NULL, NULL), LKS_ERR_CORRUPT);
}
END_TEST

START_TEST(digest_mismatch)
{
    make_text();
    json_t *manifest = fixture_load_manifest();
    json_object_set_new(json_object_get(manifest, "schema"), "vocabulary", json_integer(300));
    fixture_save_manifest(manifest, false);
    json_decref(manifest);
    assert_open_fails(LKS_ERR_CORRUPT, "manifest.json: states digest ");
}
END_TEST

START_TEST(torn_manifest)
{
    make_text();
    ck_assert_int_eq(truncate(fixture_path("manifest.json"), 200), 0);
    assert_open_fails(LKS_ERR_CORRUPT, "manifest.json");
    ck_assert_int_eq(truncate(fixture_path("manifest.json"), 0), 0);
    assert_open_fails(LKS_ERR_CORRUPT, "manifest.json");
}
END_TEST

START_TEST(untrue_manifests)
{
    make_text();
    json_t *manifest = fixture_load_manifest();
    char *original = json_dumps(manifest, 0);
    json_decref(manifest);
#define CASE(mutation, message)                                                                    \
    do {                                                                                           \
        mutation;                                                                                  \
        assert_open_fails(LKS_ERR_CORRUPT, message);                                               \
        json_t *restored_ = json_loads(original, 0, NULL);                                         \
        fixture_save_manifest(restored_, true);                                                    \
        json_decref(restored_);                                                                    \
    } while (0)
    CASE(change(NULL, "format", json_string("zip")), "its format is \"zip\"");
    CASE(change(NULL, "kind", json_string("sound")), "its kind is \"sound\"");
    CASE(change(NULL, "records", json_integer(100)), "hold 101 records, it states 100");
    CASE(change(NULL, "records", json_integer(-1)), "records");
    CASE(change(NULL, "records", json_integer(1)), "holds 1 token");
    CASE(change(NULL, "shards", json_array()), "hold 0 records");
    CASE(change("schema", "vocabulary", json_integer(0)), "schema.vocabulary");
    CASE(change_shard(1, "file", json_string("../shard-00001.h5")), "shards[1]");
    CASE(change_shard(1, "file", json_string("shard-00000.h5")), "expected \"shard-00001.h5\"");
    CASE(change_shard(0, "bytes", json_integer(5)), "the manifest says 5");
    CASE(change_shard(0, "sha256", json_string("00")), "sha256 is not 64 hex digits");
    CASE(change_shard(0, "records", json_integer(INT64_MAX)), "its shape is not");
    CASE(change_shard(0, "datasets", json_array()), "has 0 datasets, text have 1");
    CASE(change_column(1, 0, "name", json_string("bytes")), "expected \"tokens\"");
    CASE(change_column(1, 0, "dtype", json_string("f64")), "its dtype is \"f64\"");
    CASE(change_column(1, 0, "dtype", json_string("u16")), "xpected");
    CASE(change_column(1, 0, "shape", json_pack("[i,i]", 51, 1)), "its shape is not 51");
    CASE(change_column(1, 0, "block_bytes", json_integer(0)), "block_bytes");
    CASE(change_column(1, 0, "block_bytes", json_integer(1 << 30)), "block_bytes");
    CASE(change_column(1, 0, "block_bytes", json_integer(8)), "4 block hashes, expected 7");
    CASE(change_column(1, 0, "xxh3", json_pack("[s,s,s,s]", "0", "1", "2", "3")),
         "xxh3[0] is not 16 hex digits");
#undef CASE
    lks_dataset *dataset;
    assert_ok(lks_dataset_open(&dataset, fixture_directory, 4));
    lks_dataset_close(dataset);
    free(original);
}
END_TEST

START_TEST(untrue_image_manifests)
{
    fixture_layout layout = FIXTURE_LAYOUT(64, 10);
    fixture_images(&layout);
    change("schema", "width", json_integer(4));
    assert_open_fails(LKS_ERR_CORRUPT, "its shape is not 10x4x4x2");
    change("schema", "width", json_integer(3));
    change("statistics", "channel_mean", json_pack("[i]", 1));
    assert_open_fails(LKS_ERR_CORRUPT, "channel_mean has 1 numbers, expected one per channel: 2");
    change("statistics", "channel_mean", json_pack("[i,i]", 1, 300));
    assert_open_fails(LKS_ERR_CORRUPT, "channel_mean[1] is not a number from 0 to 255");
}
END_TEST

START_TEST(flipped_byte)
{
    make_text();
    fixture_flip_byte("shard-00001.h5", fixture_offset("shard-00001.h5", "tokens") + 33);
    lks_dataset *dataset;
    assert_ok(lks_dataset_open(&dataset, fixture_directory, 10));
    int32_t tokens[10], targets[10];
    void *fields[] = {tokens, targets};
    /* block 2 of shard 1 holds tokens 82 to 97: samples 8 and 9, and the end of 7's targets not */
    for (uint64_t sample = 0; sample < 10; ++sample) {
        lks_status wanted = sample == 8 || sample == 9 ? LKS_ERR_CORRUPT : LKS_OK;
        assert_status(lks_dataset_read(dataset, &sample, 1, fields), wanted);
        assert_status(lks_dataset_read(dataset, &sample, 1, fields), wanted);
    }
    assert_message("/shard-00001.h5: dataset tokens, block 2: expected xxh3 ");
    assert_message(", found ");
    assert_message(": prepare the dataset again or restore the file");
    lks_dataset_close(dataset);
}
END_TEST

START_TEST(truncated_and_missing_shards)
{
    make_text();
    struct stat info;
    ck_assert_int_eq(stat(fixture_path("shard-00001.h5"), &info), 0);
    ck_assert_int_eq(truncate(fixture_path("shard-00001.h5"), info.st_size - 1), 0);
    assert_open_fails(LKS_ERR_CORRUPT, "/shard-00001.h5: has ");
    ck_assert_int_eq(unlink(fixture_path("shard-00001.h5")), 0);
    assert_open_fails(LKS_ERR_CORRUPT, "/shard-00001.h5: No such file");
}
END_TEST

START_TEST(shard_truncated_while_in_use)
{
    make_text();
    lks_dataset *dataset;
    assert_ok(lks_dataset_open(&dataset, fixture_directory, 10));
    ck_assert_int_eq(truncate(fixture_path("shard-00000.h5"), 10), 0);
    int32_t tokens[10], targets[10];
    assert_status(lks_dataset_read(dataset, (uint64_t[]){0}, 1, (void *[]){tokens, targets}),
                  LKS_ERR_CORRUPT);
    assert_message("shard-00000.h5");
    lks_dataset_close(dataset);
}
END_TEST

START_TEST(shard_that_is_no_hdf5)
{
    make_text();
    FILE *file = fopen(fixture_path("shard-00000.h5"), "r+b");
    for (int i = 0; i < 64; ++i)
        fputc(0, file);
    fclose(file);
    assert_open_fails(LKS_ERR_CORRUPT, "/shard-00000.h5: HDF5 cannot open it");
}
END_TEST

/* A shard of `records` u8 values, chunked when `chunk` > 0. */
static void replace_shard(const char *dataset_name, hid_t type, hsize_t records, hsize_t chunk)
{
    const char *path = fixture_path("shard-00000.h5");
    hid_t list = H5Pcreate(H5P_DATASET_CREATE), space = H5Screate_simple(1, &records, NULL);
    H5Pset_alloc_time(list, H5D_ALLOC_TIME_EARLY);
    if (chunk > 0)
        H5Pset_chunk(list, 1, &chunk);
    hid_t file = H5Fcreate(path, H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
    hid_t dataset = H5Dcreate2(file, dataset_name, type, space, H5P_DEFAULT, list, H5P_DEFAULT);
    ck_assert_int_ge(dataset, 0);
    H5Dclose(dataset);
    H5Fclose(file);
    H5Sclose(space);
    H5Pclose(list);
    struct stat info;
    ck_assert_int_eq(stat(path, &info), 0);
    change_shard(0, "bytes", json_integer(info.st_size));
}

START_TEST(shard_headers_that_disagree)
{
    make_text();
    replace_shard("letters", H5T_STD_U8LE, 50, 0);
    assert_open_fails(LKS_ERR_CORRUPT, "/shard-00000.h5: has no dataset tokens");
    replace_shard("tokens", H5T_STD_I8LE, 50, 0);
    assert_open_fails(LKS_ERR_CORRUPT, "dataset tokens is not u8 50");
    replace_shard("tokens", H5T_STD_U8LE, 49, 0);
    assert_open_fails(LKS_ERR_CORRUPT, "dataset tokens is not u8 50");
    replace_shard("tokens", H5T_STD_U8LE, 50, 10);
    assert_open_fails(LKS_ERR_CORRUPT, "dataset tokens is not stored contiguously");
    replace_shard("tokens", H5T_STD_U8LE, 50, 0);
    lks_dataset *dataset;
    assert_ok(lks_dataset_open(&dataset, fixture_directory, 4));
    lks_dataset_close(dataset);
}
END_TEST

/* Hashes hold, but the values are not what the schema says. */
START_TEST(values_out_of_range)
{
    make_text();
    change("schema", "vocabulary", json_integer(20));
    lks_dataset *dataset;
    assert_ok(lks_dataset_open(&dataset, fixture_directory, 101));
    int32_t tokens[101], targets[101];
    assert_status(lks_dataset_read(dataset, (uint64_t[]){0}, 1, (void *[]){tokens, targets}),
                  LKS_ERR_CORRUPT);
    assert_message("all are below 20");
    lks_dataset_close(dataset);
}
END_TEST

START_TEST(label_out_of_range)
{
    fixture_layout layout = FIXTURE_LAYOUT(64, 10);
    fixture_images(&layout);
    change("schema", "classes", json_integer(4));
    lks_dataset *dataset;
    assert_ok(lks_dataset_open(&dataset, fixture_directory, 0));
    uint8_t image[FIXTURE_PIXELS];
    int32_t label;
    void *fields[] = {image, &label};
    assert_ok(lks_dataset_read(dataset, (uint64_t[]){8}, 1, fields));
    assert_status(lks_dataset_read(dataset, (uint64_t[]){9}, 1, fields), LKS_ERR_CORRUPT);
    assert_message("labels[9] is 4, expected a class below 4");
    lks_dataset_close(dataset);
}
END_TEST

typedef struct problems {
    int count;
    char text[4096];
} problems;

static void collect(void *user, const char *problem)
{
    problems *found = user;
    ++found->count;
    strncat(found->text, problem, sizeof found->text - strlen(found->text) - 2);
    strcat(found->text, "\n");
}

START_TEST(verify_names_every_problem)
{
    uint64_t records[] = {50, 51, 52, 53};
    fixture_layout layout = {records, 4, 16};
    fixture_text(LKS_U8, &layout);
    problems none = {0}, found = {0};
    assert_ok(lks_dataset_verify(fixture_directory, collect, &none));
    ck_assert_int_eq(none.count, 0);
    uint64_t offset = fixture_offset("shard-00001.h5", "tokens");
    fixture_flip_byte("shard-00001.h5", offset);
    fixture_flip_byte("shard-00001.h5", offset + 50);
    ck_assert_int_eq(unlink(fixture_path("shard-00002.h5")), 0);
    ck_assert_int_eq(truncate(fixture_path("shard-00003.h5"), 100), 0);
    fclose(fopen(fixture_path("shard-00004.h5"), "w"));
    json_t *manifest = fixture_load_manifest();
    json_object_set_new(manifest, "note", json_string("added by hand"));
    fixture_save_manifest(manifest, false);
    json_decref(manifest);
    assert_status(lks_dataset_verify(fixture_directory, collect, &found), LKS_ERR_CORRUPT);
    assert_message(": 8 problems found");
    const char *wanted[] = {"manifest.json: states digest",
                            "shard-00001.h5: expected sha256",
                            "shard-00001.h5: dataset tokens, block 0:",
                            "shard-00001.h5: dataset tokens, block 3:",
                            "shard-00002.h5: No such file",
                            "shard-00003.h5: has 100 bytes",
                            "shard-00003.h5: expected sha256",
                            "shard-00004.h5: the manifest does not name this shard"};
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; ++i)
        ck_assert_msg(strstr(found.text, wanted[i]) != NULL, "\"%s\" not in:\n%s", wanted[i],
                      found.text);
    ck_assert_int_eq(found.count, 8);
    assert_status(lks_dataset_verify(fixture_path("nowhere"), NULL, NULL), LKS_ERR_USAGE);
}
END_TEST

/* The byte before the tokens is padding of HDF5's: damage that no block covers. */
START_TEST(verify_sees_a_changed_header)
{
    make_text();
    problems found = {0};
    fixture_flip_byte("shard-00000.h5", fixture_offset("shard-00000.h5", "tokens") - 1);
    assert_status(lks_dataset_verify(fixture_directory, collect, &found), LKS_ERR_CORRUPT);
    ck_assert_ptr_nonnull(strstr(found.text, "shard-00000.h5: expected sha256"));
    ck_assert_int_eq(found.count, 1);
}
END_TEST

Suite *damage_suite(void)
{
    Suite *suite = suite_create("damage");
    TCase *group = tcase_create("damage");
    tcase_set_timeout(group, 30);
    tcase_add_checked_fixture(group, fixture_setup, fixture_teardown);
    tcase_add_test(group, missing_directory_and_manifest);
    tcase_add_test(group, newer_version);
    tcase_add_test(group, digest_mismatch);
    tcase_add_test(group, torn_manifest);
    tcase_add_test(group, untrue_manifests);
    tcase_add_test(group, untrue_image_manifests);
    tcase_add_test(group, flipped_byte);
    tcase_add_test(group, truncated_and_missing_shards);
    tcase_add_test(group, shard_truncated_while_in_use);
    tcase_add_test(group, shard_that_is_no_hdf5);
    tcase_add_test(group, shard_headers_that_disagree);
    tcase_add_test(group, values_out_of_range);
    tcase_add_test(group, label_out_of_range);
    tcase_add_test(group, verify_names_every_problem);
    tcase_add_test(group, verify_sees_a_changed_header);
    suite_add_tcase(suite, group);
    return suite;
}
