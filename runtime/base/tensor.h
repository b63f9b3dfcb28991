/* What a tensor is made of: element type and shape. Row-major, contiguous. */
#ifndef LKS_BASE_TENSOR_H
#define LKS_BASE_TENSOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum lks_dtype {
    LKS_NONE, /* an absent optional tensor */
    LKS_F32,
    LKS_BF16, /* upper half of an f32, rounded to nearest even */
    LKS_F64,
    LKS_U8,
    LKS_U16,
    LKS_I32,
    LKS_U32,
    LKS_I64,
    LKS_U64,
} lks_dtype;

size_t lks_dtype_bytes(lks_dtype dtype);
const char *lks_dtype_name(lks_dtype dtype); /* "f32" */
bool lks_dtype_parse(const char *name, lks_dtype *out);

enum { LKS_AXES_MAX = 8 };

typedef struct lks_shape {
    int axes; /* 0: a scalar */
    int64_t size[LKS_AXES_MAX];
} lks_shape;

/* LKS_SHAPE(2, 3, 4) */
#define LKS_SHAPE(...)                                                                             \
    ((lks_shape){(int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), {__VA_ARGS__}})
#define LKS_SCALAR ((lks_shape){0, {0}})

size_t lks_shape_elements(const lks_shape *shape); /* 1 for a scalar */
bool lks_shape_equal(const lks_shape *a, const lks_shape *b);
/* "2x3x4", "scalar". Writes at most `size` bytes, returns out. */
const char *lks_shape_text(const lks_shape *shape, char *out, size_t size);

#endif
