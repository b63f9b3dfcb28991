/* The chain's bytes, as README.md of runtime/train has them, spelled out here. */
#include "runtime/base/hash.h"
#include "runtime/train/ledger.h"
#include "tests/unit/train/suites.h"

#include <stdint.h>
#include <string.h>

static void bytes_of(const char *hex, unsigned char out[32])
{
    for (int i = 0; i < 32; ++i) {
        unsigned value;
        ck_assert_int_eq(sscanf(hex + 2 * i, "%2x", &value), 1);
        out[i] = (unsigned char)value;
    }
}

static void put_number(unsigned char *out, uint64_t number)
{
    for (int i = 0; i < 8; ++i)
        out[i] = (unsigned char)(number >> 8 * i);
}

START_TEST(test_bytes)
{
    const uint64_t ids[2][3] = {{1, 2, 0x1122334455667788}, {7, 0, 3}};
    unsigned char text[32 + 8 + 2 * 32] = {0}, lane[24];
    char hex[65], have[65];
    lks_ledger_hash hashes[2];
    put_number(text + 32, 258);
    for (int l = 0; l < 2; ++l) {
        for (int i = 0; i < 3; ++i)
            put_number(lane + 8 * i, ids[l][i]);
        ASSERT_OK(lks_hash_sha256(lane, sizeof lane, hex));
        bytes_of(hex, text + 40 + 32 * l);
        ASSERT_OK(lks_ledger_hash_ids(ids[l], 3, &hashes[l]));
        ck_assert_mem_eq(hashes[l].words, text + 40 + 32 * l, 32);
    }
    ASSERT_OK(lks_hash_sha256(text, sizeof text, hex));
    lks_ledger ledger = lks_ledger_start();
    ck_assert(ledger.known);
    ASSERT_OK(lks_ledger_advance(&ledger, 258, hashes, 2));
    ck_assert_str_eq(lks_ledger_hex(&ledger, have), hex);
}
END_TEST

START_TEST(test_resume)
{
    lks_ledger_hash lanes[3] = {{{1, 2, 3, 4}}, {{5}}, {{0}}};
    char hex[65], straight[65], resumed[65];
    lks_ledger a = lks_ledger_start();
    for (uint64_t step = 1; step <= 3; ++step)
        ASSERT_OK(lks_ledger_advance(&a, step, lanes, 3));
    lks_ledger b = lks_ledger_resume(lks_ledger_hex(&a, hex));
    ck_assert(b.known);
    ASSERT_OK(lks_ledger_advance(&a, 4, lanes, 3));
    ASSERT_OK(lks_ledger_advance(&b, 4, lanes, 3));
    ck_assert_str_eq(lks_ledger_hex(&a, straight), lks_ledger_hex(&b, resumed));
    ck_assert(!lks_ledger_resume(NULL).known);
}
END_TEST

/* Another step, another lane, another order of lanes: another chain. */
START_TEST(test_sensitive)
{
    lks_ledger_hash lanes[2] = {{{1}}, {{2}}}, turned[2] = {{{2}}, {{1}}},
                    changed[2] = {{{1}}, {{2, 0, 0, 1}}};
    const struct {
        uint64_t step;
        const lks_ledger_hash *lanes;
        int count;
    } cases[] = {{1, lanes, 2}, {2, lanes, 2}, {1, turned, 2}, {1, changed, 2}, {1, lanes, 1}};
    char hex[5][65];
    for (int i = 0; i < 5; ++i) {
        lks_ledger ledger = lks_ledger_start();
        ASSERT_OK(lks_ledger_advance(&ledger, cases[i].step, cases[i].lanes, cases[i].count));
        lks_ledger_hex(&ledger, hex[i]);
        for (int j = 0; j < i; ++j)
            ck_assert_str_ne(hex[i], hex[j]);
    }
}
END_TEST

TCase *case_ledger(void)
{
    TCase *c = tcase_create("ledger");
    tcase_add_test(c, test_bytes);
    tcase_add_test(c, test_resume);
    tcase_add_test(c, test_sensitive);
    return c;
}
