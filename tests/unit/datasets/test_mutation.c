/* Mutated manifests and shard headers: opened or refused, read or refused, never worse. The
 * mutations follow from a fixed seed. */
#include "fixture.h"
#include "suites.h"

#include "runtime/base/files.h"
#include "runtime/base/rng.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* HDF5 leaks some of its own when a file is damaged; asked for by the leak sanitizer. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void)
{
    return "leak:libhdf5";
}
const char *__lsan_default_options(void);
const char *__lsan_default_options(void)
{
    return "print_suppressions=0";
}

typedef struct source {
    uint64_t counter;
} source;

static uint32_t draw(source *from, uint32_t below)
{
    uint64_t key = lks_rng_key(2024, LKS_RNG_TEST, 0);
    return lks_rng_words(key, from->counter++, 0).word[0] % below;
}

static void make_kind(int kind)
{
    fixture_layout layout = FIXTURE_LAYOUT(32, 20, 13);
    if (kind == 0)
        fixture_text(LKS_U16, &layout);
    else if (kind == 1)
        fixture_images(&layout);
    else
        fixture_table(kind == 2 ? 0 : FIXTURE_CLASSES, &layout);
}

static void assert_known(lks_status status)
{
    ck_assert_msg(status == LKS_OK || status == LKS_ERR_USAGE || status == LKS_ERR_CORRUPT ||
                      status == LKS_ERR_INTERNAL || status == LKS_ERR_IO,
                  "status %d", (int)status);
    if (status != LKS_OK)
        ck_assert_msg(strlen(lks_status_message()) > 0, "a failure without a message");
}

/* Opens, and when that is allowed reads every sample. Returns whether it was. */
static bool try_dataset(void)
{
    lks_dataset *dataset;
    lks_status status = lks_dataset_open(&dataset, fixture_directory, 5);
    assert_known(status);
    if (status != LKS_OK)
        return false;
    const lks_schema *schema = lks_dataset_schema(dataset);
    void *fields[LKS_SCHEMA_FIELDS];
    for (int i = 0; i < schema->field_count; ++i)
        fields[i] = malloc(lks_field_bytes(&schema->fields[i]));
    for (uint64_t i = 0; i < lks_dataset_samples(dataset); ++i)
        assert_known(lks_dataset_read(dataset, &i, 1, fields));
    for (int i = 0; i < schema->field_count; ++i)
        free(fields[i]);
    lks_dataset_close(dataset);
    return true;
}

static void write_file(const char *name, const char *data, size_t bytes)
{
    FILE *file = fopen(fixture_path(name), "wb");
    ck_assert_ptr_nonnull(file);
    ck_assert_uint_eq(fwrite(data, 1, bytes, file), bytes);
    ck_assert_int_eq(fclose(file), 0);
}

START_TEST(mutated_manifest_bytes)
{
    source from = {(uint64_t)_i << 32};
    char *original, *mutant;
    size_t bytes;
    make_kind(_i);
    assert_ok(lks_files_read(fixture_path("manifest.json"), 1 << 20, &original, &bytes));
    mutant = malloc(bytes);
    for (int round = 0; round < 250; ++round) {
        size_t length = bytes;
        memcpy(mutant, original, bytes);
        for (uint32_t n = 1 + draw(&from, 4); n > 0; --n)
            mutant[draw(&from, (uint32_t)bytes)] =
                draw(&from, 2) ? (char)draw(&from, 256) : "0123456789-\"{}[]:,.e"[draw(&from, 20)];
        if (draw(&from, 8) == 0)
            length = draw(&from, (uint32_t)bytes);
        write_file("manifest.json", mutant, length);
        try_dataset();
    }
    write_file("manifest.json", original, bytes);
    ck_assert(try_dataset());
    free(original);
    free(mutant);
}
END_TEST

static json_t *random_value(source *from, const json_t *old)
{
    json_int_t near = json_is_integer(old) ? json_integer_value(old) : 0;
    switch (draw(from, 14)) {
    case 0:
        return json_null();
    case 1:
        return json_integer(INT64_MAX);
    case 2:
        return json_integer(INT64_MIN);
    case 3:
        return json_integer(0);
    case 4:
        return json_integer((json_int_t)draw(from, 100));
    case 5:
        return json_integer(near < INT64_MAX ? near + 1 : 0);
    case 6:
        return json_integer(near > INT64_MIN ? near - 1 : 0);
    case 7:
        return json_integer((json_int_t)1 << draw(from, 63));
    case 8:
        return json_string("");
    case 9:
        return json_string("0123456789abcdef");
    case 10:
        return json_array();
    case 11:
        return json_object();
    case 12:
        return json_real(1e300);
    default:
        return json_string(draw(from, 2) ? "text" : "table");
    }
}

/* Replaces or removes one value somewhere below. */
static void mutate_value(source *from, json_t *parent)
{
    for (;;) {
        const char *key = NULL;
        json_t *child;
        size_t size = json_is_object(parent) ? json_object_size(parent) : json_array_size(parent);
        if (size == 0)
            return;
        size_t index = draw(from, (uint32_t)size);
        if (json_is_object(parent)) {
            void *walk = json_object_iter(parent);
            while (index-- > 0)
                walk = json_object_iter_next(parent, walk);
            key = json_object_iter_key(walk);
            child = json_object_iter_value(walk);
        } else
            child = json_array_get(parent, index);
        bool inner = json_is_object(child) || json_is_array(child);
        if (inner && draw(from, 8) != 0) {
            parent = child;
            continue;
        }
        bool removal = draw(from, 6) == 0;
        if (key != NULL && removal)
            json_object_del(parent, key);
        else if (key != NULL)
            json_object_set_new(parent, key, random_value(from, child));
        else if (removal)
            json_array_remove(parent, json_array_size(parent) - 1);
        else
            json_array_set_new(parent, draw(from, (uint32_t)json_array_size(parent)),
                               random_value(from, child));
        return;
    }
}

/* The digest is made to fit, so that the checks behind it are reached. */
START_TEST(mutated_manifest_values)
{
    source from = {(uint64_t)(_i + 16) << 32};
    make_kind(_i);
    json_t *original = fixture_load_manifest();
    int refused = 0;
    for (int round = 0; round < 500; ++round) {
        json_t *mutant = json_deep_copy(original);
        for (uint32_t n = 1 + draw(&from, 2); n > 0; --n)
            mutate_value(&from, mutant);
        fixture_save_manifest(mutant, true);
        json_decref(mutant);
        refused += !try_dataset();
    }
    ck_assert_int_gt(refused, 250);
    fixture_save_manifest(original, true);
    ck_assert(try_dataset());
    json_decref(original);
}
END_TEST

START_TEST(mutated_shards)
{
    source from = {(uint64_t)(_i + 32) << 32};
    char *original;
    size_t bytes;
    make_kind(_i);
    assert_ok(lks_files_read(fixture_path("shard-00001.h5"), 1 << 20, &original, &bytes));
    char *mutant = malloc(bytes);
    for (int round = 0; round < 250; ++round) {
        memcpy(mutant, original, bytes);
        for (uint32_t n = 1 + draw(&from, 3); n > 0; --n)
            mutant[draw(&from, (uint32_t)bytes)] ^= (char)(1 << draw(&from, 8));
        write_file("shard-00001.h5", mutant, bytes);
        try_dataset();
    }
    free(mutant);
    free(original);
}
END_TEST

Suite *mutation_suite(void)
{
    Suite *suite = suite_create("mutation");
    TCase *group = tcase_create("mutation");
    tcase_set_timeout(group, 60);
    tcase_add_checked_fixture(group, fixture_setup, fixture_teardown);
    tcase_add_loop_test(group, mutated_manifest_bytes, 0, 4);
    tcase_add_loop_test(group, mutated_manifest_values, 0, 4);
    tcase_add_loop_test(group, mutated_shards, 0, 4);
    suite_add_tcase(suite, group);
    return suite;
}
