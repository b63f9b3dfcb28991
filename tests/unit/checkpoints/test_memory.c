/* One rank: the file's checks, and what is recognised as left by dead runs. */
#include "checkpoints/memory_state.h"
#include "runtime/base/files.h"
#include "tests/unit/checkpoints/suites.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

fixture self;

static char memory[128];
static lks_memory_spec spec;
static lks_memory_identity identity;

static void open_self(void)
{
    lks_checkpoint_info info = fixture_info(1);
    ASSERT_OK(fixture_open(&self, "self", "/tmp"));
    snprintf(memory, sizeof memory, "%s/memory", self.run);
    ASSERT_OK(lks_files_make_directories(memory));
    spec = (lks_memory_spec){.directory = memory,
                             .run_directory = self.run,
                             .run_id = "00112233445566ff",
                             .model_fingerprint = info.model_fingerprint,
                             .dataset_digest = info.dataset_digest,
                             .arithmetic = info.arithmetic,
                             .seed = info.seed,
                             .layout = self.layout,
                             .arrays = self.arrays,
                             .array_count = FIXTURE_GROUPS,
                             .end_block = self.layout->block_count,
                             .comm = self.comm};
    lks_memory_identity_init(&identity, &spec);
}

static void close_self(void)
{
    fixture_close(&self);
}

/* --- The file ------------------------------------------------------------------------ */

static void *sealed(lks_memory_shape *shape)
{
    lks_memory_header header = identity.common;
    header.step = 7;
    header.world_size = 1;
    *shape = lks_memory_shape_of(&identity, 0, self.layout->block_count);
    void *map = calloc(1, shape->bytes);
    ck_assert_ptr_nonnull(map);
    fixture_fill(&self, 7);
    lks_memory_fill(&identity, shape, map, self.arrays);
    lks_memory_seal(&identity, shape, map, &header);
    return map;
}

START_TEST(test_file_holds)
{
    lks_memory_shape shape;
    void *map = sealed(&shape);
    ASSERT_OK(lks_memory_check_header(&identity, map, shape.bytes, "file"));
    ASSERT_OK(lks_memory_check_data(&identity, map, "file"));
    for (int g = 0; g < FIXTURE_GROUPS; ++g)
        ck_assert(lks_memory_data(&shape, map, g)[3] == fixture_value(g, 0, 3, 7));
    free(map);
}
END_TEST

/* Any byte of the header and the table, and one in every block. */
START_TEST(test_file_flips)
{
    lks_memory_shape shape;
    char *map = sealed(&shape);
    size_t table = FIXTURE_GROUPS * self.layout->block_count * 8;
    for (size_t at = 0; at < LKS_MEMORY_PAGE + table; ++at) {
        if (at == sizeof(lks_memory_header))
            at = LKS_MEMORY_PAGE; /* what lies between says nothing */
        map[at] ^= 16;
        ck_assert_int_eq(lks_memory_check_header(&identity, map, shape.bytes, "file"),
                         LKS_ERR_CORRUPT);
        map[at] ^= 16;
    }
    for (uint32_t b = 0; b < self.layout->block_count; ++b) {
        const lks_layout_block *block = &self.layout->blocks[b];
        uint32_t *number =
            (uint32_t *)lks_memory_data(&shape, map, 0) + block->offset + block->elements - 1;
        *number ^= 1;
        ASSERT_FAILS(lks_memory_check_data(&identity, map, "file"), LKS_ERR_CORRUPT,
                     self.layout->tensors[block->tensor].name);
        *number ^= 1;
    }
    ASSERT_OK(lks_memory_check_data(&identity, map, "file"));
    free(map);
}
END_TEST

START_TEST(test_file_torn)
{
    lks_memory_shape shape;
    char *map = sealed(&shape);
    ASSERT_FAILS(lks_memory_check_header(&identity, map, 100, "file"), LKS_ERR_CORRUPT, "torn");
    ASSERT_FAILS(lks_memory_check_header(&identity, map, shape.bytes - 4, "file"), LKS_ERR_CORRUPT,
                 "bytes");
    memset(map, 0, LKS_MEMORY_PAGE);
    ASSERT_FAILS(lks_memory_check_header(&identity, map, shape.bytes, "file"), LKS_ERR_CORRUPT,
                 "torn");
    free(map);
}
END_TEST

START_TEST(test_file_foreign)
{
    lks_memory_shape shape;
    char *map = sealed(&shape);
    lks_memory_spec other = spec;
    lks_memory_identity theirs;
    const struct {
        const char **text, *value, *want;
    } cases[] = {
        {&other.run_id, "00112233445566aa", "another run"},
        {&other.run_directory, "/elsewhere", "another run"},
        {&other.model_fingerprint, "33", "another model"},
        {&other.dataset_digest, "44", "another dataset"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; ++i) {
        const char *before = *cases[i].text;
        *cases[i].text = cases[i].value;
        lks_memory_identity_init(&theirs, &other);
        ASSERT_FAILS(lks_memory_check_header(&theirs, map, shape.bytes, "file"), LKS_ERR_CORRUPT,
                     cases[i].want);
        *cases[i].text = before;
    }
    other.array_count = 2;
    lks_memory_identity_init(&theirs, &other);
    ASSERT_FAILS(lks_memory_check_header(&theirs, map, shape.bytes, "file"), LKS_ERR_CORRUPT,
                 "another optimizer");
    other = spec;
    other.seed = 3;
    lks_memory_identity_init(&theirs, &other);
    ASSERT_FAILS(lks_memory_check_header(&theirs, map, shape.bytes, "file"), LKS_ERR_CORRUPT,
                 "another seed");
    free(map);
}
END_TEST

/* --- What is left ----------------------------------------------------------------------- */

static const char other_prefix[] = "lockstep-0123456789abcdef-fedcba9876543210-";

static void put(const char *directory, const char *prefix, const char *name, const char *text)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s%s", directory, prefix, name);
    ASSERT_OK(lks_files_write_atomically(path, text, strlen(text)));
}

static bool there(const char *name)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s%s", memory, other_prefix, name);
    return lks_files_exists(path);
}

static void start_another_job(void)
{
    lks_memory_copies *copies;
    ASSERT_OK(lks_memory_copies_open(&copies, &spec));
    lks_memory_copies_close(copies);
}

/* Another run's directory beside ours, its newest checkpoint at step 20; its memory holds steps 10 and 30. */
static void leave_other(char run[256], const char *id)
{
    char path[512], json[128];
    snprintf(run, 256, "%s/other", self.run);
    snprintf(path, sizeof path, "%s/checkpoints/step-00000020", run);
    ASSERT_OK(lks_files_make_directories(path));
    snprintf(json, sizeof json, "{\"run_id\": \"%s\"}", id);
    put(run, "", "run.json", json);
    put(memory, other_prefix, "lock", run);
    put(memory, other_prefix, "partial-rank-0-at-0-1", "");
    put(memory, other_prefix, "step-00000010-rank-0-of-1-at-0", "x");
    put(memory, other_prefix, "step-00000030-rank-0-of-1-at-0", "x");
}

START_TEST(test_left_useful)
{
    char run[256];
    leave_other(run, "0123456789abcdef");
    start_another_job();
    ck_assert(!there("partial-rank-0-at-0-1"));
    ck_assert(!there("step-00000010-rank-0-of-1-at-0"));
    ck_assert(there("step-00000030-rank-0-of-1-at-0"));
    ck_assert(there("lock"));
}
END_TEST

START_TEST(test_left_alive)
{
    char run[256], path[512];
    leave_other(run, "0123456789abcdef");
    ASSERT_OK(lks_files_remove_tree(run));
    snprintf(path, sizeof path, "%s/%slock", memory, other_prefix);
    FILE *lock = fopen(path, "re");
    ck_assert_ptr_nonnull(lock);
    ck_assert_int_eq(flock(fileno(lock), LOCK_SH), 0);
    start_another_job();
    ck_assert(there("partial-rank-0-at-0-1") && there("step-00000010-rank-0-of-1-at-0"));
    fclose(lock);
    start_another_job();
    ck_assert(!there("lock") && !there("partial-rank-0-at-0-1"));
    ck_assert(!there("step-00000030-rank-0-of-1-at-0"));
}
END_TEST

START_TEST(test_left_other_run_in_directory)
{
    char run[256];
    leave_other(run, "aaaaaaaaaaaaaaaa");
    start_another_job();
    ck_assert(!there("lock") && !there("step-00000030-rank-0-of-1-at-0"));
}
END_TEST

START_TEST(test_left_without_lock)
{
    put(memory, other_prefix, "step-00000030-rank-0-of-1-at-0", "x");
    put(memory, "lockstep-4711-", "segment", "not ours");
    start_another_job();
    ck_assert(!there("lock") && !there("step-00000030-rank-0-of-1-at-0"));
    char path[256];
    snprintf(path, sizeof path, "%s/lockstep-4711-segment", memory);
    ck_assert(lks_files_exists(path));
}
END_TEST

/* A later checkpoint on disk comes first. */
START_TEST(test_disk_is_newer)
{
    char path[256];
    lks_memory_copies *copies;
    lks_memory_shape shape;
    void *map = sealed(&shape);
    snprintf(path, sizeof path, "lockstep-%s-%016llx-", spec.run_id,
             (unsigned long long)identity.common.run_hash);
    char file[512];
    snprintf(file, sizeof file, "%s/%sstep-00000007-rank-0-of-1-at-0", memory, path);
    ASSERT_OK(lks_files_write_atomically(file, map, shape.bytes));
    free(map);
    for (int step = 7; step <= 8; ++step) {
        char directory[256];
        snprintf(directory, sizeof directory, "%s/checkpoints/step-%08d", self.run, step);
        ASSERT_OK(lks_files_make_directories(directory));
        ASSERT_OK(lks_memory_copies_open(&copies, &spec));
        lks_memory_found found = lks_memory_copies_find(copies);
        ck_assert(found.there && found.step == 7 && found.disk_is_newer == (step == 8));
        lks_memory_copies_close(copies);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("memory");
    TCase *cases = tcase_create("memory");
    tcase_add_checked_fixture(cases, open_self, close_self);
    tcase_set_timeout(cases, 60);
    tcase_add_test(cases, test_file_holds);
    tcase_add_test(cases, test_file_flips);
    tcase_add_test(cases, test_file_torn);
    tcase_add_test(cases, test_file_foreign);
    tcase_add_test(cases, test_left_useful);
    tcase_add_test(cases, test_left_alive);
    tcase_add_test(cases, test_left_other_run_in_directory);
    tcase_add_test(cases, test_left_without_lock);
    tcase_add_test(cases, test_disk_is_newer);
    suite_add_tcase(suite, cases);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
