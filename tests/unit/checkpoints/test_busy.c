/* A save that is due while the one before is still being written; a save that must not be committed. */
#include "runtime/base/files.h"
#include "tests/unit/checkpoints/faults.h"
#include "tests/unit/checkpoints/suites.h"

#include <math.h>

static void save(lks_checkpoints *checkpoints, int step, lks_checkpoint_when_busy busy)
{
    double stall;
    lks_checkpoint_info info = fixture_info((uint64_t)step);
    fixture_fill(&self, step);
    ASSERT_OK(lks_checkpoints_save(checkpoints, self.arrays, &info, busy, &stall));
}

static void save_and_hold(lks_checkpoints **checkpoints, int buffers)
{
    self.spec.keep = 9;
    self.spec.buffers = buffers;
    ASSERT_OK(lks_checkpoints_open(checkpoints, &self.spec));
    fault_hold();
    save(*checkpoints, 1, LKS_CHECKPOINT_SKIP); /* nothing under way yet */
    fault_await_held();
}

/* These are there, each with the state of its own step, and no other. */
static void check_kept(const int *steps, size_t count)
{
    for (size_t i = 0; i < count; ++i) {
        lks_checkpoint *checkpoint;
        char name[32], have[65], want[65];
        snprintf(name, sizeof name, "step-%08d", steps[i]);
        ASSERT_OK(lks_checkpoint_open(&checkpoint, fixture_path(&self, name, NULL), LKS_CHECK_ALL));
        ASSERT_OK(lks_checkpoint_digest(checkpoint, have));
        fixture_digest(&self, steps[i], want);
        ck_assert_str_eq(have, want);
        lks_checkpoint_close(checkpoint);
    }
    ck_assert_uint_eq(fixture_count(&self, "step-"), count);
}

static void finish(lks_checkpoints *checkpoints, uint64_t saved_want, uint64_t skipped_want)
{
    bool saved;
    ASSERT_OK(lks_checkpoints_finish(checkpoints, &saved));
    ck_assert(saved);
    lks_checkpoints_stats stats = lks_checkpoints_get_stats(checkpoints);
    ck_assert_uint_eq(stats.saved, saved_want);
    ck_assert_uint_eq(stats.skipped, skipped_want);
    ck_assert_uint_eq(stats.failed, 0);
    lks_checkpoints_close(checkpoints);
}

START_TEST(test_one_waits_while_busy)
{
    static const int kept[] = {1, 2, 6, 7};
    lks_checkpoints *checkpoints;
    save_and_hold(&checkpoints, 2);
    uint64_t staging = lks_checkpoints_get_stats(checkpoints).staging_bytes;
    for (int step = 2; step <= 5; ++step)
        save(checkpoints, step, LKS_CHECKPOINT_SKIP); /* 2 into the second buffer */
    lks_checkpoints_stats stats = lks_checkpoints_get_stats(checkpoints);
    ck_assert_uint_eq(stats.skipped, 3);
    ck_assert_uint_eq(stats.saved + stats.failed, 0);
    ck_assert_uint_eq(stats.staging_bytes, staging);
    ck_assert_uint_eq(fixture_count(&self, ".partial"), 1);
    fault_let_go();
    save(checkpoints, 6, LKS_CHECKPOINT_WAIT);
    save(checkpoints, 7, LKS_CHECKPOINT_WAIT);
    finish(checkpoints, 4, 3);
    check_kept(kept, sizeof kept / sizeof *kept);
}
END_TEST

START_TEST(test_one_buffer)
{
    static const int kept[] = {1, 6};
    lks_checkpoints *checkpoints;
    save_and_hold(&checkpoints, 1);
    for (int step = 2; step <= 5; ++step)
        save(checkpoints, step, LKS_CHECKPOINT_SKIP);
    ck_assert_uint_eq(lks_checkpoints_get_stats(checkpoints).skipped, 4);
    fault_let_go();
    save(checkpoints, 6, LKS_CHECKPOINT_REPLACE); /* nothing waits: waits itself */
    finish(checkpoints, 2, 4);
    check_kept(kept, sizeof kept / sizeof *kept);
}
END_TEST

START_TEST(test_memory_of_the_buffers)
{
    uint64_t bytes[2];
    for (int i = 0; i < 2; ++i) {
        lks_checkpoints *checkpoints;
        self.spec.buffers = 1 + i;
        ASSERT_OK(lks_checkpoints_open(&checkpoints, &self.spec));
        lks_checkpoints_stats stats = lks_checkpoints_get_stats(checkpoints);
        ck_assert_int_eq(stats.buffers, 1 + i);
        bytes[i] = stats.staging_bytes;
        lks_checkpoints_close(checkpoints);
    }
    ck_assert_uint_ge(bytes[0], self.layout->elements * sizeof(float) * FIXTURE_GROUPS);
    ck_assert_uint_eq(bytes[1], 2 * bytes[0]);
}
END_TEST

/* As after a notice: what only waits gives way. */
START_TEST(test_replaced)
{
    static const int kept[] = {1, 4};
    lks_checkpoints *checkpoints;
    save_and_hold(&checkpoints, 2);
    save(checkpoints, 2, LKS_CHECKPOINT_REPLACE); /* a buffer is free: nothing is replaced */
    save(checkpoints, 3, LKS_CHECKPOINT_REPLACE);
    save(checkpoints, 4, LKS_CHECKPOINT_REPLACE);
    fault_let_go();
    finish(checkpoints, 2, 2);
    check_kept(kept, sizeof kept / sizeof *kept);
}
END_TEST

/* The texts of a save that waits are its own. */
START_TEST(test_caller_may_forget)
{
    lks_checkpoints *checkpoints;
    lks_checkpoint *checkpoint;
    char run_id[] = "the second", yaml[] = "model: {}\n";
    double stall;
    save_and_hold(&checkpoints, 2);
    lks_checkpoint_info info = fixture_info(2);
    json_t *config = json_pack("{s:{s:i}}", "train.steps", "value", 7);
    info.run_id = run_id;
    info.config_yaml = yaml;
    info.config_json = config;
    ASSERT_OK(lks_checkpoints_save(checkpoints, self.arrays, &info, LKS_CHECKPOINT_SKIP, &stall));
    memset(run_id, 'x', sizeof run_id - 1);
    memset(yaml, 'y', sizeof yaml - 1);
    json_object_clear(config);
    json_decref(config);
    fault_let_go();
    finish(checkpoints, 2, 0);
    ASSERT_OK(lks_checkpoint_open(&checkpoint, fixture_path(&self, "step-00000002", NULL),
                                  LKS_CHECK_ALL));
    const json_t *manifest = lks_checkpoint_manifest(checkpoint);
    ck_assert_str_eq(json_string_value(json_object_get(manifest, "run_id")), "the second");
    ck_assert_str_eq(json_string_value(json_object_get(manifest, "config_yaml")), "model: {}\n");
    ck_assert_uint_eq(json_object_size(json_object_get(manifest, "config")), 1);
    lks_checkpoint_close(checkpoint);
}
END_TEST

static lks_status ask_lines(const void *user)
{
    return *(const bool *)user ? LKS_OK : LKS_FAIL(LKS_ERR_IO, "the lines are not there");
}

/* What is written between a save and the next progress is there when the commit asks. */
START_TEST(test_lines_come_first)
{
    lks_checkpoints *checkpoints;
    bool lines = false;
    self.spec.may_commit = ask_lines;
    self.spec.user = &lines;
    ASSERT_OK(lks_checkpoints_open(&checkpoints, &self.spec));
    save(checkpoints, 1, LKS_CHECKPOINT_SKIP);
    while (fixture_count(&self, ".partial") == 0)
        ;
    lines = true;
    finish(checkpoints, 1, 0);
}
END_TEST

START_TEST(test_not_skipped_when_idle)
{
    lks_checkpoints *checkpoints;
    bool saved;
    ASSERT_OK(lks_checkpoints_open(&checkpoints, &self.spec));
    for (int step = 1; step <= 3; ++step) {
        save(checkpoints, step, LKS_CHECKPOINT_SKIP);
        ASSERT_OK(lks_checkpoints_finish(checkpoints, &saved));
        ck_assert(saved);
    }
    ck_assert_uint_eq(lks_checkpoints_get_stats(checkpoints).skipped, 0);
    lks_checkpoints_close(checkpoints);
}
END_TEST

static lks_status refuse(const void *user)
{
    return *(const bool *)user ? LKS_FAIL(LKS_ERR_USAGE, "fenced") : LKS_OK;
}

START_TEST(test_may_not_commit)
{
    lks_checkpoints *checkpoints;
    bool saved, refused = true;
    self.spec.may_commit = refuse;
    self.spec.user = &refused;
    ASSERT_OK(lks_checkpoints_open(&checkpoints, &self.spec));
    save(checkpoints, 1, LKS_CHECKPOINT_WAIT);
    ASSERT_OK(lks_checkpoints_finish(checkpoints, &saved));
    ck_assert(!saved);
    ck_assert_uint_eq(fixture_count(&self, ""), 0); /* no LATEST either */
    refused = false;
    save(checkpoints, 2, LKS_CHECKPOINT_WAIT);
    ASSERT_OK(lks_checkpoints_finish(checkpoints, &saved));
    ck_assert(saved);
    lks_checkpoints_close(checkpoints);
}
END_TEST

/* --- Ledger and epoch --------------------------------------------------------------- */

#define CHAIN(digit) digit digit digit digit digit digit digit digit
#define LEDGER(digit)                                                                              \
    CHAIN(digit)                                                                                   \
    CHAIN(digit) CHAIN(digit) CHAIN(digit) CHAIN(digit) CHAIN(digit) CHAIN(digit) CHAIN(digit)

static void check_member(const char *name, const char *key, const char *want)
{
    lks_checkpoint *checkpoint;
    ASSERT_OK(lks_checkpoint_open(&checkpoint, fixture_path(&self, name, NULL), LKS_CHECK_ALL));
    const json_t *member = json_object_get(lks_checkpoint_manifest(checkpoint), key);
    if (want == NULL)
        ck_assert_ptr_null(member);
    else
        ck_assert_str_eq(json_string_value(member), want);
    lks_checkpoint_close(checkpoint);
}

START_TEST(test_ledger_changes)
{
    static const char *const ledgers[] = {NULL, LEDGER("a"), LEDGER("b"), NULL};
    lks_checkpoints *checkpoints;
    self.spec.keep = 9;
    ASSERT_OK(lks_checkpoints_open(&checkpoints, &self.spec));
    for (int step = 0; step < 4; ++step) {
        double stall;
        lks_checkpoint_info info = fixture_info((uint64_t)step);
        info.ledger = ledgers[step];
        info.epoch = (uint64_t)step;
        ASSERT_OK(
            lks_checkpoints_save(checkpoints, self.arrays, &info, LKS_CHECKPOINT_WAIT, &stall));
    }
    lks_checkpoints_close(checkpoints);
    for (int step = 0; step < 4; ++step) {
        char name[32];
        snprintf(name, sizeof name, "step-%08d", step);
        check_member(name, "ledger", ledgers[step]);
    }
    lks_checkpoint *checkpoint;
    ASSERT_OK(lks_checkpoint_open(&checkpoint, fixture_path(&self, "step-00000003", NULL),
                                  LKS_CHECK_MANIFEST));
    const json_t *epoch = json_object_get(lks_checkpoint_manifest(checkpoint), "epoch");
    ck_assert_int_eq(json_integer_value(epoch), 3);
    lks_checkpoint_close(checkpoint);
}
END_TEST

TCase *case_busy(void)
{
    TCase *c = tcase_create("busy");
    tcase_add_test(c, test_one_waits_while_busy);
    tcase_add_test(c, test_one_buffer);
    tcase_add_test(c, test_memory_of_the_buffers);
    tcase_add_test(c, test_replaced);
    tcase_add_test(c, test_caller_may_forget);
    tcase_add_test(c, test_lines_come_first);
    tcase_add_test(c, test_not_skipped_when_idle);
    tcase_add_test(c, test_may_not_commit);
    tcase_add_test(c, test_ledger_changes);
    return c;
}
