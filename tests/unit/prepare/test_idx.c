#include "support.h"

#include "runtime/datasets/idx.h"

#include <stdlib.h>
#include <string.h>

static lks_status read_idx(const char *path, uint8_t *out, size_t size)
{
    lks_idx *idx;
    lks_status status = lks_idx_open(&idx, path);
    if (status != LKS_OK)
        return status;
    const lks_idx_header *header = lks_idx_header_of(idx);
    uint64_t left = header->file_bytes - header->header_bytes;
    while (status == LKS_OK && left > 0) {
        uint64_t now = left < size ? left : size;
        status = lks_idx_read(idx, out, now);
        left -= now;
    }
    if (status == LKS_OK)
        status = lks_idx_check_end(idx);
    lks_idx_close(idx);
    return status;
}

static void check_bad(const void *bytes, size_t count, const char *message)
{
    uint8_t out[64];
    write_bytes("bad.idx", bytes, count);
    check_refused(read_idx("bad.idx", out, sizeof out), LKS_ERR_CORRUPT, message);
}

START_TEST(reads_plain_and_gzip)
{
    uint8_t data[24], out[24];
    for (int i = 0; i < 24; ++i)
        data[i] = (uint8_t)(i * 11);
    for (int gzip = 0; gzip < 2; ++gzip) {
        write_idx("x", gzip, 4, (uint32_t[]){2, 2, 2, 3}, data);
        lks_idx *idx;
        ck_assert_int_eq(lks_idx_open(&idx, "x"), LKS_OK);
        const lks_idx_header *header = lks_idx_header_of(idx);
        ck_assert_int_eq(header->axes, 4);
        ck_assert_uint_eq(header->records, 2);
        ck_assert_int_eq(header->channels, 3);
        ck_assert_uint_eq(header->record_bytes, 12);
        ck_assert_uint_eq(header->file_bytes, 44);
        ck_assert_int_eq(lks_idx_is_compressed(idx), gzip);
        lks_idx_close(idx);
        memset(out, 0, sizeof out);
        ck_assert_int_eq(read_idx("x", out, sizeof out), LKS_OK);
        ck_assert_mem_eq(out, data, sizeof data);
    }
}
END_TEST

START_TEST(refuses_headers)
{
    check_bad("\0\0\10\2\0\0\0\1\0\0\0\1x", 13, "not an IDX file: begins with 00000802");
    check_bad("GIF8", 4, "not an IDX file");
    check_bad("\0\0", 2, "not an IDX file");
    check_bad("\0\0\15\3", 4, "element type 0d");
    check_bad("\0\0\10\3\0\0\0\1\0\0", 10, "cut short: found 10 bytes, its header says 16");
    check_bad("\0\0\10\1\0\0\0\0", 8, "says 0 for axis 0");
    check_bad("\0\0\10\3\0\0\0\1\xFF\xFF\xFF\xFF\0\0\0\1x", 17, "for axis 1");
    check_bad("\0\0\10\4\xFF\xFF\xFF\xFF\0\20\0\0\0\20\0\0\0\20\0\0", 20,
              "more bytes than a file can hold");
    lks_idx *idx;
    check_refused(lks_idx_open(&idx, "none"), LKS_ERR_USAGE, "none");
}
END_TEST

START_TEST(refuses_other_lengths)
{
    uint8_t out[64];
    check_bad("\0\0\10\1\0\0\0\4abc", 11, "cut short: found 11 bytes, its header says 12");
    check_bad("\0\0\10\1\0\0\0\4abcde", 13, "has more than the 12 bytes");
    write_gzip("short.gz", "\0\0\10\1\0\0\0\4abc", 11);
    check_refused(read_idx("short.gz", out, sizeof out), LKS_ERR_CORRUPT,
                  "cut short: found 11 bytes uncompressed, its header says 12");
    write_gzip("long.gz", "\0\0\10\1\0\0\0\4abcde", 13);
    check_refused(read_idx("long.gz", out, sizeof out), LKS_ERR_CORRUPT, "has more than");
}
END_TEST

/* Every way to cut or change a gzip file is noticed, unless it changes nothing (padding bits). */
START_TEST(refuses_damaged_gzip)
{
    uint8_t data[200], out[200];
    for (int i = 0; i < 200; ++i)
        data[i] = (uint8_t)random_word(1, (uint64_t)i);
    write_idx("x.gz", true, 1, (uint32_t[]){200}, data);
    FILE *file = fopen("x.gz", "rb");
    uint8_t bytes[512];
    size_t count = fread(bytes, 1, sizeof bytes, file);
    fclose(file);
    for (size_t cut = 1; cut < count; ++cut) {
        write_bytes("cut.gz", bytes, cut);
        ck_assert_int_eq(read_idx("cut.gz", out, sizeof out), LKS_ERR_CORRUPT);
    }
    for (size_t i = 10; i < count; ++i) {
        bytes[i] ^= 0x10;
        write_bytes("flip.gz", bytes, count);
        lks_status status = read_idx("flip.gz", out, sizeof out);
        ck_assert(status == LKS_ERR_CORRUPT || (status == LKS_OK && memcmp(out, data, 200) == 0));
        bytes[i] ^= 0x10;
    }
}
END_TEST

START_TEST(fuzz_anything)
{
    for (uint32_t round = 0; round < 4000; ++round) {
        uint8_t bytes[48] = {0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0, 3};
        uint8_t out[64];
        size_t count = 24 + random_word(5, round) % 8;
        for (uint32_t change = random_word(6, round) % 4; change > 0; --change) {
            uint32_t word = random_word(100 + round, change);
            bytes[word % 20] = (uint8_t)(word >> 8 & (word & 0x10000 ? 0x83 : 0x0F));
        }
        write_bytes("f", bytes, count);
        lks_status status = read_idx("f", out, sizeof out);
        ck_assert_msg(status == LKS_OK || status == LKS_ERR_CORRUPT, "%s", lks_status_message());
    }
}
END_TEST

TCase *idx_tests(void)
{
    TCase *tcase = tcase_create("idx");
    tcase_add_test(tcase, reads_plain_and_gzip);
    tcase_add_test(tcase, refuses_headers);
    tcase_add_test(tcase, refuses_other_lengths);
    tcase_add_test(tcase, refuses_damaged_gzip);
    tcase_add_test(tcase, fuzz_anything);
    return tcase;
}
