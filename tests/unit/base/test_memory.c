#include "runtime/base/memory.h"
#include "suites.h"

#include <stdbool.h>
#include <stdio.h>

static bool is_zero(const void *memory, size_t bytes)
{
    const unsigned char *at = memory;
    for (size_t i = 0; i < bytes; ++i)
        if (at[i])
            return false;
    return true;
}

START_TEST(blocks_are_aligned_and_zero)
{
    for (size_t count = 0; count < 300; count += 7) {
        double *block;
        ASSERT_OK(LKS_NEW_ARRAY(&block, count));
        ck_assert_uint_eq((uintptr_t)block % LKS_ALIGNMENT, 0);
        ck_assert(is_zero(block, count * sizeof *block));
        memset(block, 255, count * sizeof *block);
        lks_memory_free(block);
    }
}
END_TEST

START_TEST(too_much_is_refused)
{
    void *block = &block;
    ASSERT_FAILS(lks_memory_allocate(&block, SIZE_MAX / 2, 8), LKS_ERR_INTERNAL, "no memory");
    ASSERT_FAILS(lks_memory_allocate(&block, SIZE_MAX - 99, 1), LKS_ERR_INTERNAL, "no memory");
    ck_assert_ptr_eq(block, &block);
}
END_TEST

START_TEST(arrays_grow_and_keep)
{
    uint32_t *array = NULL;
    size_t capacity = 0;
    for (uint32_t i = 0; i < 5000; ++i) {
        ASSERT_OK(LKS_GROW(&array, &capacity, (size_t)i + 1));
        ck_assert_uint_eq(array[i], 0);
        array[i] = i;
    }
    for (uint32_t i = 0; i < 5000; ++i)
        ck_assert_uint_eq(array[i], i);
    uint32_t *before = array;
    uint64_t count = lks_memory_allocation_count();
    ASSERT_OK(LKS_GROW(&array, &capacity, capacity));
    ck_assert_ptr_eq(array, before);
    ck_assert_uint_eq(lks_memory_allocation_count(), count);
    lks_memory_free(array);
}
END_TEST

START_TEST(maps_of_all_sizes)
{
    static const size_t sizes[] = {0,      1, 4096, 4097, (2 << 20) - 1, 2 << 20, (2 << 20) + 1,
                                   9 << 20};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; ++i) {
        char *block;
        uint64_t count = lks_memory_allocation_count();
        ASSERT_OK(lks_memory_map((void **)&block, sizes[i]));
        ck_assert_uint_eq(lks_memory_allocation_count(), count + 1);
        ck_assert_uint_eq((uintptr_t)block % (sizes[i] >= 2 << 20 ? 2 << 20 : 4096), 0);
        ck_assert(is_zero(block, sizes[i]));
        memset(block, 1, sizes[i]);
        lks_memory_unmap(block, sizes[i]);
    }
    void *none;
    ASSERT_FAILS(lks_memory_map(&none, SIZE_MAX - 5), LKS_ERR_INTERNAL, "no memory");
}
END_TEST

START_TEST(an_arena_keeps_everything)
{
    enum { COUNT = 4000 };
    static char *texts[COUNT];
    lks_arena *arena;
    ASSERT_OK(lks_arena_create(&arena));
    for (int i = 0; i < COUNT; ++i) {
        size_t bytes = (size_t)(i * 37 % 500);
        char *block = lks_arena_allocate(arena, bytes);
        ck_assert_ptr_nonnull(block);
        ck_assert_uint_eq((uintptr_t)block % 16, 0);
        ck_assert(is_zero(block, bytes));
        memset(block, 255, bytes);
        texts[i] = lks_arena_format(arena, "text %d", i);
    }
    char *large = lks_arena_allocate(arena, 1 << 20);
    ck_assert(is_zero(large, 1 << 20));
    for (int i = 0; i < COUNT; ++i) {
        char want[32];
        snprintf(want, sizeof want, "text %d", i);
        ck_assert_str_eq(texts[i], want);
    }
    char original[] = "abc";
    char *copy = lks_arena_copy(arena, original);
    original[0] = 'x';
    ck_assert_str_eq(copy, "abc");
    ck_assert_ptr_null(lks_arena_allocate(arena, SIZE_MAX));
    lks_arena_destroy(arena);
    lks_arena_destroy(NULL);
}
END_TEST

TCase *case_memory(void)
{
    TCase *tcase = tcase_create("memory");
    tcase_add_test(tcase, blocks_are_aligned_and_zero);
    tcase_add_test(tcase, too_much_is_refused);
    tcase_add_test(tcase, arrays_grow_and_keep);
    tcase_add_test(tcase, maps_of_all_sizes);
    tcase_add_test(tcase, an_arena_keeps_everything);
    return tcase;
}
