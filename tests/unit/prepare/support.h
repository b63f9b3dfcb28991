/* What the tests of prepare share: a directory of their own, ranks made by fork, and shards read
 * back through HDF5 alone. */
#ifndef TESTS_PREPARE_SUPPORT_H
#define TESTS_PREPARE_SUPPORT_H

#include "runtime/base/status.h"

#include <check.h>
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Fixture: enters a fresh directory; leaves and removes it. */
void enter_directory(void);
void leave_directory(void);

void write_bytes(const char *path, const void *data, size_t bytes);
void write_text(const char *path, const char *text);
void write_gzip(const char *path, const void *data, size_t bytes);
/* IDX: sizes[axes], then the elements. */
void write_idx(const char *path, bool gzip, int axes, const uint32_t *sizes, const uint8_t *data);

typedef struct prep {
    const char *format, *output;
    const char *inputs[6];
    const char *settings[6]; /* "target=y" */
    double split;
    bool shuffle;
    uint64_t seed;
    bool force;
    int64_t shard_bytes;
    int ranks; /* 0 and 1: this process alone */
} prep;

/* The status and lks_status_message() are those of rank 0; all ranks must agree. */
lks_status run_prepare(const prep *what);
/* PREPARE(format, output, {inputs}, {settings}, .member = value...) */
#define PREPARE(kind, path, ...)                                                                   \
    run_prepare(&(prep){.format = kind, .output = path, .inputs = __VA_ARGS__})

/* Fails unless the status is `wanted` and the message holds `part`. */
void check_refused(lks_status found, lks_status wanted, const char *part);
void check_message(const char *part);
size_t count_entries(const char *directory);

json_t *load_manifest(const char *directory);
/* An array of all shards, end to end; also runs lks_dataset_verify. free() */
void *read_array(const char *directory, const char *name, size_t *bytes);
/* SHA-256 over the names and contents of all files below. */
void digest_tree(const char *directory, char hex[65]);

/* Random words of a test: a function of (stream, i). */
uint32_t random_word(uint32_t stream, uint64_t i);

TCase *csv_tests(void);
TCase *idx_tests(void);
TCase *text_tests(void);
TCase *images_tests(void);
TCase *table_tests(void);
TCase *encode_tests(void);
TCase *output_tests(void);

#endif
