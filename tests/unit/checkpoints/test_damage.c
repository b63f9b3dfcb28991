/* Every way in which a checkpoint can be bad has its own code and message. */
#include "runtime/base/files.h"
#include "runtime/base/hash.h"
#include "runtime/base/json.h"
#include "tests/unit/checkpoints/suites.h"

#include <fcntl.h>
#include <hdf5.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static const char name[] = "step-00000100";

static const char *state_path(void)
{
    return fixture_path(&self, name, "state.h5");
}

static const char *manifest_path(void)
{
    return fixture_path(&self, name, "manifest.json");
}

static void save(void)
{
    bool saved = false;
    ASSERT_OK(fixture_save(&self, 100, NAN, &saved));
    ck_assert(saved);
}

/* The checkpoint's report has this code and a message with `part`; opening it agrees. */
static void expect(const char *code, lks_status status, const char *part)
{
    json_t *report;
    lks_checkpoint *checkpoint;
    const char *path = fixture_path(&self, name, NULL), *text;
    ASSERT_OK(lks_checkpoint_check_report(path, NULL, &report));
    ASSERT_OK(lks_json_get_string(report, "report", "code", &text));
    const char *message;
    ASSERT_OK(lks_json_get_string(report, "report", "message", &message));
    ck_assert_msg(strcmp(text, code) == 0 && strstr(message, part) != NULL,
                  "%s: %s; want %s with \"%s\"", text, message, code, part);
    ASSERT_OK(lks_json_get_string(report, "report", "path", &text));
    ck_assert_str_eq(text, path);
    bool valid = strcmp(code, "ok") == 0 || strcmp(code, "not_finite") == 0;
    ck_assert(json_is_true(json_object_get(report, "valid")) == valid);
    json_decref(report);
    ck_assert_int_eq(lks_checkpoint_open(&checkpoint, path, LKS_CHECK_ALL), status);
    lks_checkpoint_close(checkpoint);
}

static uint64_t offset_of(const char *group, const char *tensor)
{
    hid_t file = H5Fopen(state_path(), H5F_ACC_RDONLY, H5P_DEFAULT);
    char path[64];
    snprintf(path, sizeof path, "%s/%s", group, tensor);
    hid_t dataset = H5Dopen2(file, path, H5P_DEFAULT);
    uint64_t offset = H5Dget_offset(dataset);
    H5Dclose(dataset);
    H5Fclose(file);
    return offset;
}

static void flip(uint64_t offset, unsigned char bits)
{
    unsigned char byte;
    int file = open(state_path(), O_RDWR);
    ck_assert_int_eq(pread(file, &byte, 1, (off_t)offset), 1);
    byte ^= bits;
    ck_assert_int_eq(pwrite(file, &byte, 1, (off_t)offset), 1);
    close(file);
}

static void zero(uint64_t offset, size_t bytes)
{
    char *zeros = calloc(1, bytes);
    int file = open(state_path(), O_RDWR);
    ck_assert_int_eq(pwrite(file, zeros, bytes, (off_t)offset), (ssize_t)bytes);
    close(file);
    free(zeros);
}

START_TEST(test_good)
{
    save();
    expect("ok", LKS_OK, "everything holds");
}
END_TEST

START_TEST(test_bit_flip)
{
    save();
    flip(offset_of("optimizer/m", "wte") + 65536 * 4 + 11, 0x10);
    expect("bit_flip", LKS_ERR_CORRUPT, "optimizer/m/wte block 1 of 3: expected hash ");
    flip(offset_of("optimizer/m", "wte") + 65536 * 4 + 11, 0x10);
    expect("ok", LKS_OK, "everything holds");
    flip(offset_of("model", "scale"), 1);
    expect("bit_flip", LKS_ERR_CORRUPT, "model/scale block 0 of 1: expected hash ");
}
END_TEST

START_TEST(test_read_finds_flip)
{
    lks_checkpoint *checkpoint;
    save();
    flip(offset_of("model", "head") + 5, 0x80);
    ASSERT_OK(
        lks_checkpoint_open(&checkpoint, fixture_path(&self, name, NULL), LKS_CHECK_MANIFEST));
    ASSERT_FAILS(
        lks_checkpoint_read(checkpoint, self.layout, &self.arrays[0], 0, self.layout->block_count),
        LKS_ERR_CORRUPT, "model/head block 0 of 2");
    char hex[65];
    ASSERT_FAILS(lks_checkpoint_digest(checkpoint, hex), LKS_ERR_CORRUPT,
                 "model/head block 0 of 2");
    lks_checkpoint_close(checkpoint);
}
END_TEST

/* Each byte outside the tensors counts too, wherever it is. */
START_TEST(test_metadata_flips)
{
    save();
    static const uint64_t offsets[] = {0, 9, 96, 200, 500, 801, 1100, 2000};
    for (size_t i = 0; i < sizeof offsets / sizeof *offsets; ++i) {
        json_t *report;
        flip(offsets[i], 0x04);
        ASSERT_OK(lks_checkpoint_check_report(fixture_path(&self, name, NULL), NULL, &report));
        ck_assert_msg(json_is_false(json_object_get(report, "valid")), "byte %llu",
                      (unsigned long long)offsets[i]);
        json_decref(report);
        flip(offsets[i], 0x04);
    }
    expect("ok", LKS_OK, "everything holds");
    flip(0, 0x04);
    expect("bit_flip", LKS_ERR_CORRUPT, "bytes between the tensors");
}
END_TEST

START_TEST(test_zeros)
{
    save();
    zero(offset_of("model", "wte"), 65536 * 4);
    expect("zero_filled", LKS_ERR_CORRUPT, "model/wte block 0 of 3 is a hole or filled with zeros");
}
END_TEST

START_TEST(test_hole)
{
    save();
    int file = open(state_path(), O_RDWR);
    int punched = fallocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                            (off_t)offset_of("model", "head") + 65536 * 4 + 8192, 16384);
    close(file);
    if (punched == 0)
        expect("zero_filled", LKS_ERR_CORRUPT, "model/head block 1 of 2 is a hole");
}
END_TEST

START_TEST(test_zeroed_file)
{
    struct stat about;
    save();
    ck_assert_int_eq(stat(state_path(), &about), 0);
    zero(0, (size_t)about.st_size);
    expect("zero_filled", LKS_ERR_CORRUPT, "begins with zeros");
}
END_TEST

START_TEST(test_truncated)
{
    struct stat about;
    save();
    ck_assert_int_eq(stat(state_path(), &about), 0);
    ck_assert_int_eq(truncate(state_path(), about.st_size - 1), 0);
    expect("truncated", LKS_ERR_CORRUPT, "cut short");
    ck_assert_int_eq(truncate(state_path(), 10), 0);
    expect("truncated", LKS_ERR_CORRUPT, "has 10 bytes");
    ck_assert_int_eq(truncate(state_path(), 0), 0);
    expect("truncated", LKS_ERR_CORRUPT, "has 0 bytes");
    ck_assert_int_eq(truncate(state_path(), about.st_size), 0);
    expect("zero_filled", LKS_ERR_CORRUPT, "begins with zeros");
}
END_TEST

START_TEST(test_appended)
{
    struct stat about;
    save();
    ck_assert_int_eq(stat(state_path(), &about), 0);
    ck_assert_int_eq(truncate(state_path(), about.st_size + 1), 0);
    expect("manifest_mismatch", LKS_ERR_CORRUPT, "changed after it was saved");
}
END_TEST

START_TEST(test_no_state)
{
    save();
    ck_assert_int_eq(unlink(state_path()), 0);
    expect("unreadable", LKS_ERR_CORRUPT, "cannot open");
}
END_TEST

START_TEST(test_no_manifest)
{
    save();
    ck_assert_int_eq(unlink(manifest_path()), 0);
    expect("no_manifest", LKS_ERR_CORRUPT, "has no manifest.json");
}
END_TEST

START_TEST(test_torn_manifest)
{
    save();
    ck_assert_int_eq(truncate(manifest_path(), 700), 0);
    expect("unreadable", LKS_ERR_CORRUPT, "manifest.json");
    ck_assert_int_eq(truncate(manifest_path(), 0), 0);
    expect("unreadable", LKS_ERR_CORRUPT, "manifest.json");
}
END_TEST

/* --- Edited manifests ---------------------------------------------------------------- */

/* As README.md describes it: the last line but one is the hash of all above. */
static void store_manifest(json_t *manifest, bool seal)
{
    char hex[65];
    json_object_del(manifest, "seal");
    char *text = json_dumps(manifest, JSON_INDENT(1) | JSON_REAL_PRECISION(17));
    size_t length = strlen(text) - 2;
    text = realloc(text, length + 200);
    strcpy(text + length, ",\n");
    ASSERT_OK(lks_hash_sha256(text, length + 2, hex));
    if (!seal)
        hex[7] ^= 1;
    sprintf(text + length + 2, " \"seal\": \"%s\"\n}\n", hex);
    ASSERT_OK(lks_files_write_atomically(manifest_path(), text, strlen(text)));
    free(text);
    json_decref(manifest);
}

static json_t *load_manifest(void)
{
    json_t *manifest;
    ASSERT_OK(lks_json_load(manifest_path(), &manifest));
    return manifest;
}

START_TEST(test_edited_manifest)
{
    save();
    store_manifest(load_manifest(), true);
    expect("ok", LKS_OK, "everything holds");
    store_manifest(load_manifest(), false);
    expect("manifest_mismatch", LKS_ERR_CORRUPT, "was changed after it was written");
}
END_TEST

START_TEST(test_newer_version)
{
    save();
    json_t *manifest = load_manifest();
    json_object_set_new(manifest, "format_version", json_integer(2));
    store_manifest(manifest, false);
    expect("newer_version", LKS_ERR_CORRUPT, "was made by a newer lockstep");
}
END_TEST

START_TEST(test_manifest_of_another)
{
    bool saved;
    char *text;
    size_t bytes;
    save();
    ASSERT_OK(fixture_save(&self, 200, NAN, &saved));
    ASSERT_OK(lks_files_read(fixture_path(&self, "step-00000200", "manifest.json"), 1 << 20, &text,
                             &bytes));
    ASSERT_OK(lks_files_write_atomically(manifest_path(), text, bytes));
    free(text);
    expect("manifest_mismatch", LKS_ERR_CORRUPT, "it is of step 100, the manifest of step 200");
}
END_TEST

START_TEST(test_manifest_of_something_else)
{
    lks_checkpoint *checkpoint;
    json_t *report;
    save();
    ASSERT_OK(
        lks_files_write_atomically(manifest_path(), "{\"format\": \"lockstep-dataset\"}", 30));
    ASSERT_FAILS(
        lks_checkpoint_open(&checkpoint, fixture_path(&self, name, NULL), LKS_CHECK_MANIFEST),
        LKS_ERR_USAGE, "not of a checkpoint");
    ASSERT_FAILS(lks_checkpoint_open(&checkpoint, "/tmp", LKS_CHECK_MANIFEST), LKS_ERR_USAGE,
                 "is not a checkpoint");
    ASSERT_FAILS(lks_checkpoint_check_report("/no/such/place", NULL, &report), LKS_ERR_USAGE,
                 "is not a checkpoint");
}
END_TEST

static json_t *first_group(json_t *manifest)
{
    return json_array_get(json_object_get(manifest, "groups"), 0);
}

START_TEST(test_sealed_untruths)
{
    save();
    json_t *manifest = load_manifest();
    json_t *tensor = json_array_get(json_object_get(first_group(manifest), "tensors"), 0);
    json_array_set_new(json_object_get(tensor, "blocks"), 0, json_string("0123456789abcdef"));
    store_manifest(manifest, true);
    expect("manifest_mismatch", LKS_ERR_CORRUPT, "root is ");

    fixture_close(&self);
    self_open();
    save();
    manifest = load_manifest();
    json_object_set_new(json_array_get(json_object_get(manifest, "layout"), 0), "shape",
                        json_pack("[i, i]", 500, 300));
    store_manifest(manifest, true);
    expect("manifest_mismatch", LKS_ERR_CORRUPT, "/model/wte is not 500x300 as the manifest says");

    fixture_close(&self);
    self_open();
    save();
    manifest = load_manifest();
    json_object_set_new(manifest, "run_id", json_string("run-2"));
    store_manifest(manifest, true);
    expect("manifest_mismatch", LKS_ERR_CORRUPT, "attribute run_id is not \"run-2\"");

    manifest = load_manifest();
    tensor = json_array_get(json_object_get(first_group(manifest), "tensors"), 0);
    json_object_set_new(tensor, "offset", json_integer(1 << 30));
    store_manifest(manifest, true);
    expect("manifest_mismatch", LKS_ERR_CORRUPT, "beyond its end");
}
END_TEST

/* Any single byte of the manifest, changed, is noticed. */
START_TEST(test_every_manifest_byte)
{
    char *text;
    size_t bytes;
    save();
    ASSERT_OK(lks_files_read(manifest_path(), 1 << 20, &text, &bytes));
    int file = open(manifest_path(), O_WRONLY);
    for (size_t i = 0; i < bytes; i += 7) {
        lks_checkpoint *checkpoint;
        char changed = (char)(text[i] ^ 0x01);
        ck_assert_int_eq(pwrite(file, &changed, 1, (off_t)i), 1);
        lks_status status =
            lks_checkpoint_open(&checkpoint, fixture_path(&self, name, NULL), LKS_CHECK_MANIFEST);
        ck_assert_msg(status == LKS_ERR_CORRUPT || status == LKS_ERR_USAGE, "byte %zu: %d", i,
                      status);
        ck_assert_int_eq(pwrite(file, &text[i], 1, (off_t)i), 1);
    }
    close(file);
    free(text);
    expect("ok", LKS_OK, "everything holds");
}
END_TEST

/* --- Of something else ---------------------------------------------------------------- */

static void expect_against(const lks_checkpoint_expectation *expected, const char *code,
                           const char *part)
{
    json_t *report;
    const char *found, *message;
    ASSERT_OK(lks_checkpoint_check_report(fixture_path(&self, name, NULL), expected, &report));
    ASSERT_OK(lks_json_get_string(report, "report", "code", &found));
    ASSERT_OK(lks_json_get_string(report, "report", "message", &message));
    ck_assert_msg(strcmp(found, code) == 0 && strstr(message, part) != NULL,
                  "%s: %s; want %s with \"%s\"", found, message, code, part);
    ck_assert(json_is_true(json_object_get(report, "valid")) == (strcmp(code, "ok") == 0));
    json_decref(report);
}

START_TEST(test_of_something_else)
{
    save();
    lks_checkpoint_info info = fixture_info(100);
    char fingerprint[65], digest[65];
    snprintf(fingerprint, sizeof fingerprint, "%s", info.model_fingerprint);
    snprintf(digest, sizeof digest, "%s", info.dataset_digest);
    lks_checkpoint_expectation expected = {"job.yaml", fingerprint, NULL, digest};
    expect_against(&expected, "ok", "everything holds");
    digest[5] ^= 1;
    expect_against(&expected, "wrong_dataset", "is of other data: its dataset's digest is ");
    fingerprint[5] ^= 1;
    expect_against(&expected, "wrong_model", "that of job.yaml is ");
    expected.layout = self.layout; /* equal: the fingerprints speak */
    expect_against(&expected, "wrong_model", "is of another model: its fingerprint is ");
}
END_TEST

START_TEST(test_of_another_layout)
{
    lks_layout *other;
    save();
    ASSERT_OK(lks_layout_create(&other));
    ASSERT_OK(lks_layout_add(other, "wte", self.layout->tensors[0].shape, LKS_ROLE_PARAMETER, true,
                             NULL));
    lks_checkpoint_expectation expected = {"job.yaml", "no such fingerprint", other, NULL};
    expect_against(&expected, "wrong_model", "is of another model: 8 tensors there and 1 here");
    ASSERT_OK(lks_layout_add(other, "h.0.ln.gain", (lks_shape){1, {13}}, LKS_ROLE_PARAMETER, false,
                             NULL));
    expect_against(&expected, "wrong_model",
                   "tensor 1 is h.0.ln.gain 12 there and h.0.ln.gain 13 here");
    lks_layout_destroy(other);
}
END_TEST

/* --- Edited files -------------------------------------------------------------------- */

START_TEST(test_missing_tensor)
{
    save();
    hid_t file = H5Fopen(state_path(), H5F_ACC_RDWR, H5P_DEFAULT);
    ck_assert_int_ge(H5Ldelete(file, "/optimizer/v/h.0.conv", H5P_DEFAULT), 0);
    H5Fclose(file);
    expect("missing_tensor", LKS_ERR_CORRUPT, "tensor /optimizer/v/h.0.conv is missing");
}
END_TEST

START_TEST(test_missing_group)
{
    save();
    hid_t file = H5Fopen(state_path(), H5F_ACC_RDWR, H5P_DEFAULT);
    ck_assert_int_ge(H5Ldelete(file, "/optimizer/m", H5P_DEFAULT), 0);
    H5Fclose(file);
    expect("missing_tensor", LKS_ERR_CORRUPT, "group /optimizer/m is missing");
}
END_TEST

static void add_dataset(const char *path)
{
    hsize_t size = 4;
    hid_t file = H5Fopen(state_path(), H5F_ACC_RDWR, H5P_DEFAULT);
    hid_t space = H5Screate_simple(1, &size, NULL);
    hid_t dataset =
        H5Dcreate2(file, path, H5T_IEEE_F32LE, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
    ck_assert_int_ge(dataset, 0);
    H5Dclose(dataset);
    H5Sclose(space);
    H5Fclose(file);
}

START_TEST(test_extra_tensor)
{
    save();
    add_dataset("/model/stranger");
    expect("extra_tensor", LKS_ERR_CORRUPT, "model holds stranger");
}
END_TEST

START_TEST(test_extra_at_root)
{
    save();
    add_dataset("/notes");
    expect("extra_tensor", LKS_ERR_CORRUPT, "/ holds notes");
}
END_TEST

START_TEST(test_linked_tensor)
{
    save();
    hid_t file = H5Fopen(state_path(), H5F_ACC_RDWR, H5P_DEFAULT);
    H5Ldelete(file, "/model/wte", H5P_DEFAULT);
    H5Lcreate_external("/tmp/other.h5", "/x", file, "/model/wte", H5P_DEFAULT, H5P_DEFAULT);
    H5Fclose(file);
    expect("missing_tensor", LKS_ERR_CORRUPT, "tensor /model/wte is missing");
}
END_TEST

START_TEST(test_not_finite)
{
    lks_checkpoints *checkpoints;
    double stall;
    ASSERT_OK(lks_checkpoints_open(&checkpoints, &self.spec));
    fixture_fill(&self, 1);
    self.data[2][self.layout->tensors[0].offset + 65536 + 3] = NAN;
    lks_checkpoint_info info = fixture_info(100);
    ASSERT_OK(lks_checkpoints_save(checkpoints, self.arrays, &info, LKS_CHECKPOINT_WAIT, &stall));
    lks_checkpoints_close(checkpoints);
    expect("not_finite", LKS_OK, "optimizer/v/wte block 1 of 3 holds nan at element 65539");
}
END_TEST

TCase *case_damage(void)
{
    TCase *c = tcase_create("damage");
    tcase_add_test(c, test_good);
    tcase_add_test(c, test_bit_flip);
    tcase_add_test(c, test_read_finds_flip);
    tcase_add_test(c, test_metadata_flips);
    tcase_add_test(c, test_zeros);
    tcase_add_test(c, test_hole);
    tcase_add_test(c, test_zeroed_file);
    tcase_add_test(c, test_truncated);
    tcase_add_test(c, test_appended);
    tcase_add_test(c, test_no_state);
    tcase_add_test(c, test_no_manifest);
    tcase_add_test(c, test_torn_manifest);
    tcase_add_test(c, test_edited_manifest);
    tcase_add_test(c, test_newer_version);
    tcase_add_test(c, test_manifest_of_another);
    tcase_add_test(c, test_manifest_of_something_else);
    tcase_add_test(c, test_sealed_untruths);
    tcase_add_test(c, test_every_manifest_byte);
    tcase_add_test(c, test_of_something_else);
    tcase_add_test(c, test_of_another_layout);
    tcase_add_test(c, test_missing_tensor);
    tcase_add_test(c, test_missing_group);
    tcase_add_test(c, test_extra_tensor);
    tcase_add_test(c, test_extra_at_root);
    tcase_add_test(c, test_linked_tensor);
    tcase_add_test(c, test_not_finite);
    return c;
}
