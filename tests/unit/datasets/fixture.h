/* Small datasets whose every value is known, written with HDF5 and jansson alone. */
#ifndef LKS_TESTS_DATASETS_FIXTURE_H
#define LKS_TESTS_DATASETS_FIXTURE_H

#include "runtime/base/tensor.h"
#include "runtime/datasets/dataset.h"

#include <check.h>
#include <jansson.h>

/* One column over all records. */
typedef struct fixture_column {
    const char *name;
    lks_dtype dtype;
    lks_shape row;
    const void *data;
} fixture_column;

typedef struct fixture_layout {
    const uint64_t *shard_records;
    size_t shard_count;
    int64_t block_bytes;
} fixture_layout;

#define FIXTURE_LAYOUT(block, ...)                                                                 \
    ((fixture_layout){(const uint64_t[]){__VA_ARGS__},                                             \
                      sizeof((uint64_t[]){__VA_ARGS__}) / sizeof(uint64_t), (block)})

/* The directory of the running test: made by set-up, removed by tear-down. */
extern char fixture_directory[];
void fixture_setup(void);
void fixture_teardown(void);

uint64_t fixture_total(const fixture_layout *layout);
void fixture_write(const char *kind, json_t *schema, json_t *statistics,
                   const fixture_column *columns, int column_count, const fixture_layout *layout);

/* Token i of the texts, class of record i (-1: masked), feature j of row i. */
int32_t fixture_token(uint64_t i);
int32_t fixture_label(uint64_t i, int32_t classes);
float fixture_feature(uint64_t i, uint64_t j);
uint8_t fixture_pixel(uint64_t i, uint64_t j);
enum { FIXTURE_CLASSES = 5, FIXTURE_FEATURES = 3, FIXTURE_PIXELS = 4 * 3 * 2 };

void fixture_text(lks_dtype dtype, const fixture_layout *layout);
void fixture_images(const fixture_layout *layout);
/* classes 0: regression with target i / 2, NaN where i % 7 == 3. */
void fixture_table(int32_t classes, const fixture_layout *layout);

const char *fixture_path(const char *name); /* valid until the next call */
json_t *fixture_load_manifest(void);
/* Gives it the digest of its contents first when `seal`. */
void fixture_save_manifest(json_t *manifest, bool seal);
void fixture_flip_byte(const char *name, uint64_t offset);
/* Where column `column` begins in a shard. */
uint64_t fixture_offset(const char *name, const char *column);

#define assert_status(expression, wanted)                                                          \
    do {                                                                                           \
        lks_status got_ = (expression);                                                            \
        ck_assert_msg(got_ == (wanted), "%s: got %s (%s)", #expression, lks_status_name(got_),     \
                      lks_status_message());                                                       \
    } while (0)
#define assert_ok(expression) assert_status(expression, LKS_OK)
#define assert_message(part)                                                                       \
    ck_assert_msg(strstr(lks_status_message(), (part)) != NULL, "\"%s\" is not in: %s", (part),    \
                  lks_status_message())

#endif
