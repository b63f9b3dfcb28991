#include "kernels/spec.h"

#include "runtime/base/text.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

static void append_tensors(lks_text *text, const char *title, const lks_kernel_tensor *tensors,
                           int count)
{
    while (count && !lks_spec_present(&tensors[count - 1]))
        --count;
    lks_text_append(text, "; %s:", title);
    for (int i = 0; i < count; ++i) {
        char shape[128];
        if (lks_spec_present(&tensors[i]))
            lks_text_append(text, " %s %s%s", lks_dtype_name(tensors[i].dtype),
                            lks_shape_text(&tensors[i].shape, shape, sizeof shape),
                            i + 1 < count ? "," : "");
        else
            lks_text_append(text, " none,");
    }
}

lks_status lks_spec_refuse(const lks_kernel_spec *spec, const char *format, ...)
{
    char reason[256];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(reason, sizeof reason, format, arguments);
    va_end(arguments);
    lks_text text = {0};
    append_tensors(&text, "in", spec->inputs, spec->input_count);
    append_tensors(&text, "out", spec->outputs, spec->output_count);
    lks_status status = LKS_FAIL(LKS_ERR_INTERNAL, "kernel %s: %s%s", spec->kernel, reason,
                                 text.data ? text.data : "");
    lks_text_release(&text);
    return status;
}

/* *compute is LKS_NONE until the first t was seen. */
static bool type_matches(char letter, lks_dtype dtype, lks_dtype *compute)
{
    switch (tolower((unsigned char)letter)) {
    case 't':
        if (*compute == LKS_NONE && (dtype == LKS_F32 || dtype == LKS_BF16))
            *compute = dtype;
        return dtype == *compute;
    case 'g':
        return dtype == LKS_F32 || dtype == *compute;
    case 'f':
        return dtype == LKS_F32;
    case 'd':
        return dtype == LKS_F64;
    case 'i':
        return dtype == LKS_I32;
    case 'u':
        return dtype == LKS_U8;
    default:
        return true;
    }
}

static lks_status expect_side(const lks_kernel_spec *spec, const char *side, const char *letters,
                              const lks_kernel_tensor *tensors, int count, lks_dtype *compute)
{
    int wanted = (int)strlen(letters);
    if (count < wanted)
        return lks_spec_refuse(spec, "%d %ss given, %d wanted", count, side, wanted);
    for (int i = 0; i < count; ++i) {
        if (!lks_spec_present(&tensors[i])) {
            if (i < wanted && islower((unsigned char)letters[i]))
                return lks_spec_refuse(spec, "%s %d is absent", side, i);
            continue;
        }
        if (i >= wanted)
            return lks_spec_refuse(spec, "%s %d is one too many", side, i);
        if (!type_matches(letters[i], tensors[i].dtype, compute))
            return lks_spec_refuse(spec, "%s %d cannot be %s", side, i,
                                   lks_dtype_name(tensors[i].dtype));
        if (lks_spec_elements(&tensors[i]) < 1)
            return lks_spec_refuse(spec, "%s %d has no elements", side, i);
    }
    return LKS_OK;
}

lks_status lks_spec_expect_types(const lks_kernel_spec *spec, const char *inputs,
                                 const char *outputs, lks_dtype *compute)
{
    lks_dtype found = LKS_NONE;
    LKS_TRY(expect_side(spec, "input", inputs, spec->inputs, spec->input_count, &found));
    LKS_TRY(expect_side(spec, "output", outputs, spec->outputs, spec->output_count, &found));
    if (compute)
        *compute = found;
    return LKS_OK;
}

lks_status lks_spec_expect_elements(const lks_kernel_spec *spec, const char *name,
                                    const lks_kernel_tensor *tensor, int64_t elements)
{
    if (lks_spec_present(tensor) && lks_spec_elements(tensor) != elements)
        return lks_spec_refuse(spec, "%s has %lld elements, %lld wanted", name,
                               (long long)lks_spec_elements(tensor), (long long)elements);
    return LKS_OK;
}

lks_status lks_spec_expect_shape(const lks_kernel_spec *spec, const char *name,
                                 const lks_kernel_tensor *tensor, const lks_shape *shape)
{
    char found[128], wanted[128];
    if (lks_spec_present(tensor) && !lks_shape_equal(&tensor->shape, shape))
        return lks_spec_refuse(spec, "%s is %s, %s wanted", name,
                               lks_shape_text(&tensor->shape, found, sizeof found),
                               lks_shape_text(shape, wanted, sizeof wanted));
    return LKS_OK;
}

lks_status lks_spec_expect_attributes(const lks_kernel_spec *spec)
{
    return spec->attributes ? LKS_OK : lks_spec_refuse(spec, "attributes are missing");
}
