#include "runtime/base/tensor.h"

#include <stdio.h>
#include <string.h>

static const struct {
    const char *name;
    size_t bytes;
} tensor_dtypes[] = {
    [LKS_NONE] = {"none", 0}, [LKS_F32] = {"f32", 4}, [LKS_BF16] = {"bf16", 2},
    [LKS_F64] = {"f64", 8},   [LKS_U8] = {"u8", 1},   [LKS_U16] = {"u16", 2},
    [LKS_I32] = {"i32", 4},   [LKS_U32] = {"u32", 4}, [LKS_I64] = {"i64", 8},
    [LKS_U64] = {"u64", 8},
};

enum { TENSOR_DTYPES = sizeof tensor_dtypes / sizeof *tensor_dtypes };

size_t lks_dtype_bytes(lks_dtype dtype)
{
    return (size_t)dtype < TENSOR_DTYPES ? tensor_dtypes[dtype].bytes : 0;
}

const char *lks_dtype_name(lks_dtype dtype)
{
    return (size_t)dtype < TENSOR_DTYPES ? tensor_dtypes[dtype].name : "none";
}

bool lks_dtype_parse(const char *name, lks_dtype *out)
{
    for (size_t i = LKS_F32; i < TENSOR_DTYPES; ++i) {
        if (strcmp(name, tensor_dtypes[i].name) == 0) {
            *out = (lks_dtype)i;
            return true;
        }
    }
    return false;
}

size_t lks_shape_elements(const lks_shape *shape)
{
    size_t elements = 1;
    for (int axis = 0; axis < shape->axes; ++axis)
        elements *= (size_t)shape->size[axis];
    return elements;
}

bool lks_shape_equal(const lks_shape *a, const lks_shape *b)
{
    if (a->axes != b->axes)
        return false;
    for (int axis = 0; axis < a->axes; ++axis)
        if (a->size[axis] != b->size[axis])
            return false;
    return true;
}

const char *lks_shape_text(const lks_shape *shape, char *out, size_t size)
{
    if (shape->axes == 0) {
        snprintf(out, size, "scalar");
        return out;
    }
    size_t used = 0;
    for (int axis = 0; axis < shape->axes && used < size; ++axis) {
        int wrote = snprintf(out + used, size - used, "%s%lld", axis ? "x" : "",
                             (long long)shape->size[axis]);
        used += (size_t)wrote;
    }
    return out;
}
