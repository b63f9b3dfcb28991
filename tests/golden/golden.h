/* Golden files as make_golden.py writes them: NAME.json and NAME.bin (golden_store.py). */
#ifndef LKS_TESTS_GOLDEN_GOLDEN_H
#define LKS_TESTS_GOLDEN_GOLDEN_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

typedef struct golden {
    json_t *index;
    unsigned char *bytes; /* of NAME.bin */
    size_t size;
} golden;

/* `path` is without .json and .bin. A failure is printed and ends the program. */
void golden_open(golden *g, const char *path);
void golden_close(golden *g);

/* A tensor of the index: its elements as they lie in NAME.bin, aligned to 8 bytes. */
typedef struct golden_tensor {
    int axes;
    long size[8];
    size_t elements;
    const char *dtype; /* "f32", "f64", "i32" or "u8" */
    const void *data;
} golden_tensor;
golden_tensor golden_read(const golden *g, const json_t *entry);
/* Element i of a tensor of floating-point numbers. */
double golden_at(const golden_tensor *tensor, size_t i);

/* The unit roundoff of f32. */
#define GOLDEN_UNIT 0x1p-24

/* Prints a line and ends the program with status 2. */
_Noreturn void golden_die(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
