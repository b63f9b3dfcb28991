#include "runtime/base/layout.h"
#include "suites.h"

#include <stdio.h>

static lks_layout *layout_of(const int64_t *sizes, int count)
{
    lks_layout *layout;
    ASSERT_OK(lks_layout_create(&layout));
    for (int i = 0; i < count; ++i) {
        char name[32];
        uint32_t index;
        snprintf(name, sizeof name, "tensor%d", i);
        ASSERT_OK(
            lks_layout_add(layout, name, LKS_SHAPE(sizes[i]), LKS_ROLE_PARAMETER, true, &index));
        ck_assert_uint_eq(index, (uint32_t)i);
    }
    return layout;
}

static const int64_t sizes[] = {1, 15, 16, 17, 65535, 65536, 65537, 131072, 300001, 2, 1000000};
enum { SIZES = sizeof sizes / sizeof *sizes };

START_TEST(blocks_tile_the_tensors)
{
    lks_layout *layout = layout_of(sizes, SIZES);
    uint32_t block = 0;
    uint64_t elements = 0, end = 0;
    for (uint32_t t = 0; t < layout->tensor_count; ++t) {
        const lks_layout_tensor *tensor = &layout->tensors[t];
        ck_assert_uint_eq(tensor->offset % 16, 0);
        ck_assert_uint_ge(tensor->offset, end);
        ck_assert_uint_lt(tensor->offset, end + 16);
        ck_assert_uint_eq(tensor->elements, (uint64_t)sizes[t]);
        ck_assert_uint_eq(tensor->first_block, block);
        uint64_t at = tensor->offset;
        for (uint32_t b = 0; b < tensor->block_count; ++b, ++block) {
            ck_assert_uint_eq(layout->blocks[block].tensor, t);
            ck_assert_uint_eq(layout->blocks[block].offset, at);
            bool last = b + 1 == tensor->block_count;
            if (!last)
                ck_assert_uint_eq(layout->blocks[block].elements, LKS_BLOCK_ELEMENTS);
            at += layout->blocks[block].elements;
        }
        end = tensor->offset + tensor->elements;
        ck_assert_uint_eq(at, end);
        elements += tensor->elements;
    }
    ck_assert_uint_eq(layout->block_count, block);
    ck_assert_uint_eq(layout->elements, elements);
    ck_assert_uint_eq(layout->flat_elements,
                      lks_shape_elements(&LKS_SHAPE((int64_t)(end + 15) / 16 * 16)));
    lks_layout_destroy(layout);
}
END_TEST

static void check_ownership(const lks_layout *layout, int world_size)
{
    uint32_t next = 0;
    double ideal = (double)layout->elements / world_size;
    for (int rank = 0; rank < world_size; ++rank) {
        uint32_t first, end;
        lks_layout_owned(layout, rank, world_size, &first, &end);
        ck_assert_uint_eq(first, next);
        ck_assert_uint_ge(end, first);
        double owned = 0;
        for (uint32_t block = first; block < end; ++block) {
            ck_assert_int_eq(lks_layout_owner(layout, block, world_size), rank);
            owned += layout->blocks[block].elements;
        }
        ck_assert_double_le(owned, ideal + LKS_BLOCK_ELEMENTS);
        ck_assert_double_ge(owned, ideal - LKS_BLOCK_ELEMENTS);
        next = end;
    }
    ck_assert_uint_eq(next, layout->block_count);
}

START_TEST(every_block_has_one_owner)
{
    for (int count = 1; count <= SIZES; ++count) {
        lks_layout *layout = layout_of(sizes, count);
        for (int world_size = 1; world_size <= 70; ++world_size)
            check_ownership(layout, world_size);
        lks_layout_destroy(layout);
    }
}
END_TEST

START_TEST(an_empty_layout_has_no_blocks)
{
    lks_layout *layout = layout_of(sizes, 0);
    uint32_t first = 9, end = 9;
    lks_layout_owned(layout, 1, 3, &first, &end);
    ck_assert_uint_eq(first, 0);
    ck_assert_uint_eq(end, 0);
    lks_layout_destroy(layout);
    lks_layout_destroy(NULL);
}
END_TEST

START_TEST(names_are_unique)
{
    lks_layout *layout = layout_of(sizes, 3);
    uint32_t index;
    ASSERT_FAILS(lks_layout_add(layout, "tensor1", LKS_SHAPE(4), LKS_ROLE_BUFFER, false, &index),
                 LKS_ERR_USAGE, "two tensors are named tensor1");
    ck_assert_uint_eq(layout->tensor_count, 3);
    lks_layout_destroy(layout);
}
END_TEST

START_TEST(bad_shapes_are_refused)
{
    lks_layout *layout = layout_of(sizes, 0);
    lks_shape nine = {9, {1, 1, 1, 1, 1, 1, 1, 1}};
    const lks_shape wrong[] = {LKS_SHAPE(0), LKS_SHAPE(4, -1), nine,
                               LKS_SHAPE(INT64_MAX, INT64_MAX, 4), LKS_SHAPE(1 << 20, 1 << 21)};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; ++i)
        ASSERT_FAILS(lks_layout_add(layout, "t", wrong[i], LKS_ROLE_PARAMETER, true, NULL),
                     LKS_ERR_USAGE, "tensor t has shape");
    ASSERT_OK(lks_layout_add(layout, "t", LKS_SCALAR, LKS_ROLE_PARAMETER, true, NULL));
    ck_assert_uint_eq(layout->elements, 1);
    ck_assert_uint_eq(layout->flat_elements, 16);
    lks_layout_destroy(layout);
}
END_TEST

/* All of them together are too many, and that is known before their blocks are made. */
START_TEST(a_model_that_no_node_holds_is_refused)
{
    lks_layout *layout = layout_of(sizes, 0);
    ASSERT_OK(
        lks_layout_add(layout, "a", LKS_SHAPE(1 << 10, 1 << 20), LKS_ROLE_PARAMETER, true, NULL));
    ASSERT_FAILS(
        lks_layout_add(layout, "b", LKS_SHAPE(1024, 1 << 30), LKS_ROLE_PARAMETER, true, NULL),
        LKS_ERR_USAGE,
        "tensor b has shape 1024x1073741824, and a model has at most 2^40 parameters");
    ck_assert_uint_eq(layout->block_count, 1 << 14);
    lks_layout_destroy(layout);
}
END_TEST

START_TEST(many_tensors_are_quick)
{
    lks_layout *layout = layout_of(sizes, 0);
    for (int i = 0; i < 200000; ++i) {
        char name[32];
        snprintf(name, sizeof name, "layer.%d.weight", i);
        ASSERT_OK(lks_layout_add(layout, name, LKS_SHAPE(2, 3), LKS_ROLE_PARAMETER, true, NULL));
    }
    ck_assert_uint_eq(layout->tensor_count, 200000);
    ck_assert_str_eq(layout->tensors[123456].name, "layer.123456.weight");
    lks_layout_destroy(layout);
}
END_TEST

static void fingerprint(const char *name, lks_shape shape, lks_tensor_role role, char hex[65])
{
    lks_layout *layout;
    ASSERT_OK(lks_layout_create(&layout));
    ASSERT_OK(lks_layout_add(layout, "first", LKS_SHAPE(3), LKS_ROLE_PARAMETER, true, NULL));
    ASSERT_OK(lks_layout_add(layout, name, shape, role, true, NULL));
    ASSERT_OK(lks_layout_fingerprint(layout, hex));
    lks_layout_destroy(layout);
}

START_TEST(fingerprints_tell_layouts_apart)
{
    char hex[5][65];
    fingerprint("w", LKS_SHAPE(2, 3), LKS_ROLE_PARAMETER, hex[0]);
    fingerprint("w", LKS_SHAPE(2, 3), LKS_ROLE_PARAMETER, hex[1]);
    fingerprint("w", LKS_SHAPE(3, 2), LKS_ROLE_PARAMETER, hex[2]);
    fingerprint("v", LKS_SHAPE(2, 3), LKS_ROLE_PARAMETER, hex[3]);
    fingerprint("w", LKS_SHAPE(2, 3), LKS_ROLE_BUFFER, hex[4]);
    ck_assert_str_eq(hex[0], hex[1]);
    for (int i = 1; i < 5; ++i)
        for (int j = i + 1; j < 5; ++j)
            ck_assert_str_ne(hex[i], hex[j]);
}
END_TEST

START_TEST(types_have_names_and_sizes)
{
    static const lks_dtype all[] = {LKS_F32, LKS_BF16, LKS_F64, LKS_U8, LKS_U16,
                                    LKS_I32, LKS_U32,  LKS_I64, LKS_U64};
    static const size_t bytes[] = {4, 2, 8, 1, 2, 4, 4, 8, 8};
    for (int i = 0; i < 9; ++i) {
        lks_dtype back = LKS_NONE;
        ck_assert_uint_eq(lks_dtype_bytes(all[i]), bytes[i]);
        ck_assert(lks_dtype_parse(lks_dtype_name(all[i]), &back));
        ck_assert_int_eq(back, all[i]);
    }
    lks_dtype none;
    ck_assert(!lks_dtype_parse("f16", &none));
    ck_assert(!lks_dtype_parse("none", &none));
    ck_assert_uint_eq(lks_dtype_bytes(LKS_NONE), 0);
    char text[64], small[4];
    ck_assert_str_eq(lks_shape_text(&LKS_SHAPE(2, 3, 4), text, sizeof text), "2x3x4");
    ck_assert_str_eq(lks_shape_text(&LKS_SCALAR, text, sizeof text), "scalar");
    ck_assert_str_eq(lks_shape_text(&LKS_SHAPE(12, 34, 5), small, sizeof small), "12x");
    ck_assert(lks_shape_equal(&LKS_SHAPE(2, 3), &LKS_SHAPE(2, 3)));
    ck_assert(!lks_shape_equal(&LKS_SHAPE(2, 3), &LKS_SHAPE(3, 2)));
    ck_assert(!lks_shape_equal(&LKS_SHAPE(2), &LKS_SHAPE(2, 1)));
    ck_assert_uint_eq(lks_shape_elements(&LKS_SHAPE(2, 3, 4)), 24);
    ck_assert_uint_eq(lks_shape_elements(&LKS_SCALAR), 1);
}
END_TEST

TCase *case_layout(void)
{
    TCase *tcase = tcase_create("layout, tensor");
    tcase_add_test(tcase, blocks_tile_the_tensors);
    tcase_add_test(tcase, every_block_has_one_owner);
    tcase_add_test(tcase, an_empty_layout_has_no_blocks);
    tcase_add_test(tcase, names_are_unique);
    tcase_add_test(tcase, bad_shapes_are_refused);
    tcase_add_test(tcase, a_model_that_no_node_holds_is_refused);
    tcase_add_test(tcase, many_tensors_are_quick);
    tcase_add_test(tcase, fingerprints_tell_layouts_apart);
    tcase_add_test(tcase, types_have_names_and_sizes);
    return tcase;
}
