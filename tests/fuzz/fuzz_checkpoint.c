/* A checkpoint whose manifest (with a seal that fits, and without) or whose state file is not what
 * was written.
 *   fuzz_checkpoint manifest|state [--seed N] [--rounds N] */
#include "mutate.h"

#include "checkpoints/checkpoint.h"
#include "runtime/base/files.h"
#include "runtime/base/hash.h"
#include "runtime/base/memory.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { STATE_ELEMENTS = 64, STATE_GROUPS = 2, SEAL_BYTES = 10 + 64 + 4 };

/* The target has no argument of its own. */
static struct {
    char run[64], checkpoint[128], manifest[192], state[192];
    char *sample; /* what was written */
    size_t sample_bytes;
} place;

static const char *const tokens[] = {
    "{",        "}",          "[",          "]",
    ",",        ":",          "\"",         "0",
    "-1",       "65536",      "1e999",      "9223372036854775807",
    "null",     "true",       "\"shape\":", "\"offset\": 18446744073709551615",
    "\"name\"", "\"blocks\"", "[]",         "0123456789abcdef",
    "\n",       "\xff",       "\\u0000",    "../",
    "\x1b[2J",  "\"groups\"", "\"bytes\":", "\"format_version\": 2",
};

static bool fuzz_complain(const char *what)
{
    fprintf(stderr, "%s (last message: %s)\n", what, lks_status_message());
    return false;
}

/* --- The checkpoint ----------------------------------------------------------------- */

static lks_status fuzz_make_layout(lks_layout **layout)
{
    LKS_TRY(lks_layout_create(layout));
    LKS_TRY(lks_layout_add(*layout, "weight", LKS_SHAPE(3, 5), LKS_ROLE_PARAMETER, true, NULL));
    LKS_TRY(lks_layout_add(*layout, "bias", LKS_SHAPE(3), LKS_ROLE_PARAMETER, false, NULL));
    return lks_layout_add(*layout, "mean", LKS_SHAPE(1), LKS_ROLE_BUFFER, false, NULL);
}

static lks_status fuzz_save(lks_comm *comm, const lks_layout *layout)
{
    float data[STATE_ELEMENTS] = {1, 2, 3, -4, 5.5f};
    lks_state_array arrays[STATE_GROUPS] = {{"model", data, false, 0},
                                            {"optimizer/m", data, true, 0}};
    lks_checkpoints_spec spec = {.run_directory = place.run,
                                 .layout = layout,
                                 .arrays = arrays,
                                 .array_count = STATE_GROUPS,
                                 .end_block = layout->block_count,
                                 .keep = 1,
                                 .comm = comm};
    lks_checkpoint_info info = {
        .step = 7,
        .run_id = "fuzz",
        .config_yaml = "train: {steps: 7}\n",
        .model_fingerprint = "1111111111111111111111111111111111111111111111111111111111111111",
        .dataset_digest = "2222222222222222222222222222222222222222222222222222222222222222",
        .arithmetic = "cpu",
        .validation_loss = NAN};
    lks_checkpoints *checkpoints;
    double stall;
    bool saved = false;
    LKS_TRY(lks_checkpoints_open(&checkpoints, &spec));
    lks_status status = lks_checkpoints_save(checkpoints, arrays, &info, LKS_CHECKPOINT_WAIT, &stall);
    if (status == LKS_OK)
        status = lks_checkpoints_finish(checkpoints, &saved);
    lks_checkpoints_close(checkpoints);
    if (status == LKS_OK && !saved)
        status = LKS_FAIL(LKS_ERR_IO, "nothing was saved");
    return status;
}

static lks_status fuzz_make_checkpoint(void)
{
    lks_comm *comm;
    lks_layout *layout;
    LKS_TRY(lks_comm_open(&comm, "self"));
    lks_status status = fuzz_make_layout(&layout);
    if (status == LKS_OK && layout->flat_elements > STATE_ELEMENTS)
        status = LKS_FAIL(LKS_ERR_INTERNAL, "the arrays are too small for the layout");
    if (status == LKS_OK)
        status = fuzz_save(comm, layout);
    lks_layout_destroy(layout);
    lks_comm_close(comm);
    return status;
}

/* --- What must hold ----------------------------------------------------------------- */

static bool fuzz_refused_well(lks_status status)
{
    const char *message = lks_status_message();
    bool known = status == LKS_ERR_CORRUPT || status == LKS_ERR_USAGE || status == LKS_ERR_IO;
    return (known && message[0] && !strpbrk(message, "\n\r\x1b")) || fuzz_complain("refused badly");
}

/* Either it is refused, or all of it can be read. */
static bool fuzz_open(bool *whole)
{
    lks_checkpoint *checkpoint;
    char digest[65];
    *whole = false;
    lks_status_set_message("");
    lks_status status = lks_checkpoint_open(&checkpoint, place.checkpoint, LKS_CHECK_ALL);
    if (status != LKS_OK)
        return fuzz_refused_well(status);
    *whole = true;
    bool right = lks_checkpoint_digest(checkpoint, digest) == LKS_OK ||
                 fuzz_complain("opened, and cannot be read");
    lks_checkpoint_close(checkpoint);
    return right;
}

static bool fuzz_report(bool whole)
{
    json_t *report;
    lks_status status = lks_checkpoint_check_report(place.checkpoint, NULL, &report);
    if (status == LKS_ERR_USAGE && !whole) /* it is not a checkpoint at all */
        return true;
    if (status != LKS_OK)
        return fuzz_complain("no report");
    bool right = json_is_true(json_object_get(report, "valid")) == whole ||
                 fuzz_complain("the report says otherwise");
    json_decref(report);
    return right;
}

static bool fuzz_write(const char *path, const void *data, size_t bytes)
{
    FILE *file = fopen(path, "wb");
    bool right = file && (bytes == 0 || fwrite(data, 1, bytes, file) == bytes);
    if (file)
        right = fclose(file) == 0 && right;
    return right || fuzz_complain("cannot write");
}

static bool fuzz_is_sample(const char *data, size_t bytes)
{
    return bytes == place.sample_bytes && memcmp(data, place.sample, bytes) == 0;
}

/* Any other byte is noticed. */
static bool fuzz_state(const char *data, size_t bytes)
{
    bool whole;
    if (!fuzz_write(place.state, data, bytes) || !fuzz_open(&whole) || !fuzz_report(whole))
        return false;
    return whole == fuzz_is_sample(data, bytes) || fuzz_complain("taken for what it is not");
}

/* With the seal that the lines above it ask for, so that the checks behind it are reached. */
static bool fuzz_write_sealed(const char *data, size_t bytes)
{
    char seal[LKS_SHA256_HEX];
    lks_text sealed = {0};
    size_t covered = bytes < SEAL_BYTES ? bytes : bytes - SEAL_BYTES;
    lks_text_append_bytes(&sealed, data, covered);
    bool right = lks_hash_sha256(data, covered, seal) == LKS_OK;
    lks_text_append(&sealed, " \"seal\": \"%s\"\n}\n", seal);
    right = right && fuzz_write(place.manifest, sealed.data, sealed.length);
    lks_text_release(&sealed);
    return right;
}

static bool fuzz_manifest(const char *data, size_t bytes)
{
    bool whole;
    if (!fuzz_write(place.manifest, data, bytes) || !fuzz_open(&whole))
        return false;
    if (whole != fuzz_is_sample(data, bytes))
        return fuzz_complain("taken for what it is not");
    return fuzz_write_sealed(data, bytes) && fuzz_open(&whole) && fuzz_report(whole);
}

/* --- Main --------------------------------------------------------------------------- */

static lks_status fuzz_prepare(bool manifest)
{
    snprintf(place.run, sizeof place.run, "/tmp/lockstep-fuzz-XXXXXX");
    if (!mkdtemp(place.run))
        return LKS_FAIL(LKS_ERR_IO, "cannot make %s", place.run);
    snprintf(place.checkpoint, sizeof place.checkpoint, "%s/checkpoints/step-00000007", place.run);
    snprintf(place.manifest, sizeof place.manifest, "%s/manifest.json", place.checkpoint);
    snprintf(place.state, sizeof place.state, "%s/state.h5", place.checkpoint);
    LKS_TRY(fuzz_make_checkpoint());
    return lks_files_read(manifest ? place.manifest : place.state, 1 << 20, &place.sample,
                          &place.sample_bytes);
}

int main(int argc, char **argv)
{
    bool manifest = argc > 1 && strcmp(argv[1], "manifest") == 0;
    if (argc < 2 || (!manifest && strcmp(argv[1], "state") != 0))
        return EXIT_FAILURE;
    int result = EXIT_FAILURE;
    if (fuzz_prepare(manifest) == LKS_OK) {
        const char *const samples[] = {place.sample};
        const fuzz_corpus corpus = {samples, 1, tokens, sizeof tokens / sizeof *tokens,
                                    &place.sample_bytes};
        result = fuzz_main(argc - 1, argv + 1, &corpus, manifest ? 3000 : 300,
                           manifest ? fuzz_manifest : fuzz_state);
    } else
        fprintf(stderr, "%s\n", lks_status_message());
    free(place.sample);
    if (lks_files_remove_tree(place.run) != LKS_OK)
        result = EXIT_FAILURE;
    return result;
}
