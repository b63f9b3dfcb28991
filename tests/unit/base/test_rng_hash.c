#include "runtime/base/clock.h"
#include "runtime/base/files.h"
#include "runtime/base/hash.h"
#include "runtime/base/rng.h"
#include "suites.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static void check_philox(uint64_t key, uint64_t low, uint64_t high, const uint32_t want[4])
{
    lks_rng_block block = lks_rng_philox(key, low, high);
    for (int i = 0; i < 4; ++i)
        ck_assert_uint_eq(block.word[i], want[i]);
}

/* The known answers that are published with Random123, philox4x32-10. */
START_TEST(philox_gives_the_published_words)
{
    check_philox(0, 0, 0, (uint32_t[]){0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
    check_philox(UINT64_MAX, UINT64_MAX, UINT64_MAX,
                 (uint32_t[]){0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
    check_philox(0x299f31d0a4093822, 0x85a308d3243f6a88, 0x0370734413198a2e,
                 (uint32_t[]){0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});
}
END_TEST

/* The first output of SplitMix64 of seed s is its finaliser at s + gamma. */
START_TEST(keys_are_splitmix)
{
    uint64_t gamma = 0x9E3779B97F4A7C15u;
    uint64_t index = ((uint64_t)LKS_RNG_INIT << 32 | 5) + 1;
    uint64_t seed = 0 - gamma * index + gamma;
    ck_assert_uint_eq(lks_rng_key(seed, LKS_RNG_INIT, 5), 0xe220a8397b1dcdafu);
    ck_assert_uint_ne(lks_rng_key(1, LKS_RNG_INIT, 0), lks_rng_key(1, LKS_RNG_DROPOUT, 0));
    ck_assert_uint_ne(lks_rng_key(1, LKS_RNG_INIT, 0), lks_rng_key(1, LKS_RNG_INIT, 1));
    ck_assert_uint_ne(lks_rng_key(1, LKS_RNG_INIT, 0), lks_rng_key(2, LKS_RNG_INIT, 0));
}
END_TEST

/* Whatever piece is asked for, element i is the same. */
static void check_pieces(void (*fill)(uint64_t, uint64_t, uint64_t, float *))
{
    float whole[64], piece[64];
    fill(7, 1000, 64, whole);
    for (uint64_t first = 0; first < 64; ++first) {
        for (uint64_t count = 0; first + count <= 64; ++count) {
            memset(piece, 0, sizeof piece);
            fill(7, 1000 + first, count, piece);
            ck_assert_mem_eq(piece, whole + first, count * sizeof *piece);
        }
    }
}

START_TEST(elements_do_not_depend_on_the_piece)
{
    check_pieces(lks_rng_normal);
    check_pieces(lks_rng_uniform_fill);
}
END_TEST

START_TEST(normal_numbers_are_normal)
{
    enum { COUNT = 400000 };
    float *values = malloc(COUNT * sizeof *values);
    lks_rng_normal(lks_rng_key(3, LKS_RNG_TEST, 0), 0, COUNT, values);
    double moment[5] = {0}, neighbours = 0;
    for (int i = 0; i < COUNT; ++i) {
        ck_assert(isfinite(values[i]));
        for (int k = 1; k <= 4; ++k)
            moment[k] += pow(values[i], k) / COUNT;
        if (i)
            neighbours += (double)values[i] * values[i - 1] / COUNT;
    }
    /* Five standard errors: sqrt(1, 2, 15, 96 / COUNT). */
    ck_assert_double_eq_tol(moment[1], 0, 5 * sqrt(1.0 / COUNT));
    ck_assert_double_eq_tol(moment[2], 1, 5 * sqrt(2.0 / COUNT));
    ck_assert_double_eq_tol(moment[3], 0, 5 * sqrt(15.0 / COUNT));
    ck_assert_double_eq_tol(moment[4], 3, 5 * sqrt(96.0 / COUNT));
    ck_assert_double_eq_tol(neighbours, 0, 5 * sqrt(1.0 / COUNT));
    free(values);
}
END_TEST

START_TEST(uniform_numbers_stay_below_one)
{
    ck_assert(lks_rng_uniform(UINT32_MAX) < 1.0f);
    ck_assert(lks_rng_uniform(0) == 0.0f);
    ck_assert(lks_rng_uniform(0x80000000u) == 0.5f);
}
END_TEST

static const char abc_sha256[] = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

START_TEST(sha256_knows_abc)
{
    char hex[LKS_SHA256_HEX];
    ASSERT_OK(lks_hash_sha256("abc", 3, hex));
    ck_assert_str_eq(hex, abc_sha256);
    ASSERT_OK(lks_hash_sha256("", 0, hex));
    ck_assert_str_eq(hex, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    lks_sha256 *hash;
    ASSERT_OK(lks_sha256_create(&hash));
    for (const char *c = "abc"; *c; ++c)
        lks_sha256_update(hash, c, 1);
    lks_sha256_update(hash, NULL, 0);
    lks_sha256_finish(hash, hex);
    ck_assert_str_eq(hex, abc_sha256);
    lks_sha256_destroy(NULL);
}
END_TEST

START_TEST(sha256_of_a_file)
{
    char path[] = "/tmp/lks-base-XXXXXX", hex[LKS_SHA256_HEX];
    int file = mkstemp(path);
    ck_assert_int_eq(write(file, "abc", 3), 3);
    close(file);
    ASSERT_OK(lks_hash_sha256_file(path, hex));
    ck_assert_str_eq(hex, abc_sha256);
    unlink(path);
    ASSERT_FAILS(lks_hash_sha256_file(path, hex), LKS_ERR_IO, path);
    ASSERT_FAILS(lks_hash_sha256_file("/tmp", hex), LKS_ERR_IO, "/tmp");
}
END_TEST

START_TEST(xxh3_is_the_published_one)
{
    ck_assert_uint_eq(lks_hash_xxh3("", 0),
                      0x2d06800538d394c2u); /* seed 0, from xxHash's own tests */
    ck_assert_uint_ne(lks_hash_xxh3("a", 1), lks_hash_xxh3("b", 1));
}
END_TEST

START_TEST(clocks_run_forward)
{
    uint64_t start = lks_clock_process_start_ns(), now = lks_clock_ns();
    ck_assert_uint_gt(start, 0);
    /* The start is known to a tick of 10 ms, and this process is young. */
    ck_assert_uint_le(start, now + 20000000);
    ck_assert_uint_lt(now - start, 600000000000u);
    ck_assert(lks_clock_seconds_since(now) >= 0);
    char wall[32], small[5];
    ck_assert_uint_eq(strlen(lks_clock_wall(wall, sizeof wall)), 20);
    int year, month, day, hour, minute, second;
    ck_assert_int_eq(
        sscanf(wall, "%4d-%2d-%2dT%2d:%2d:%2dZ", &year, &month, &day, &hour, &minute, &second), 6);
    ck_assert_int_ge(year, 2024);
    ck_assert_str_eq(lks_clock_wall(small, sizeof small), "");
}
END_TEST

TCase *case_rng_hash(void)
{
    TCase *tcase = tcase_create("rng, hash, clock");
    tcase_add_test(tcase, philox_gives_the_published_words);
    tcase_add_test(tcase, keys_are_splitmix);
    tcase_add_test(tcase, elements_do_not_depend_on_the_piece);
    tcase_add_test(tcase, normal_numbers_are_normal);
    tcase_add_test(tcase, uniform_numbers_stay_below_one);
    tcase_add_test(tcase, sha256_knows_abc);
    tcase_add_test(tcase, sha256_of_a_file);
    tcase_add_test(tcase, xxh3_is_the_published_one);
    tcase_add_test(tcase, clocks_run_forward);
    return tcase;
}
