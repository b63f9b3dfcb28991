/* A save that is due while the one before is still being written; a save that must not be committed. */
#include "runtime/base/files.h"
#include "tests/unit/checkpoints/faults.h"
#include "tests/unit/checkpoints/suites.h"

#include <math.h>

static void save(lks_checkpoints *checkpoints, int step, bool may_skip)
{
    double stall;
    lks_checkpoint_info info = fixture_info((uint64_t)step);
    fixture_fill(&self, step);
    ASSERT_OK(lks_checkpoints_save(checkpoints, self.arrays, &info, may_skip, &stall));
}

START_TEST(test_skipped_while_busy)
{
    lks_checkpoints *checkpoints;
    bool saved;
    ASSERT_OK(lks_checkpoints_open(&checkpoints, &self.spec));
    uint64_t staging = lks_checkpoints_get_stats(checkpoints).staging_bytes;
    fault_hold();
    save(checkpoints, 1, true); /* nothing under way yet */
    fault_await_held();
    for (int step = 2; step <= 5; ++step)
        save(checkpoints, step, true);
    lks_checkpoints_stats stats = lks_checkpoints_get_stats(checkpoints);
    ck_assert_uint_eq(stats.skipped, 4);
    ck_assert_uint_eq(stats.saved + stats.failed, 0);
    ck_assert_uint_eq(stats.staging_bytes, staging);
    ck_assert_uint_eq(fixture_count(&self, ".partial"), 1);
    fault_let_go();
    save(checkpoints, 6, false); /* waits for the first */
    save(checkpoints, 7, false);
    ASSERT_OK(lks_checkpoints_finish(checkpoints, &saved));
    ck_assert(saved);
    stats = lks_checkpoints_get_stats(checkpoints);
    ck_assert_uint_eq(stats.saved, 3);
    ck_assert_uint_eq(stats.last_step, 7);
    lks_checkpoints_close(checkpoints);
    static const int kept[] = {1, 6, 7};
    for (size_t i = 0; i < sizeof kept / sizeof *kept; ++i) {
        lks_checkpoint *checkpoint;
        char name[32], have[65], want[65];
        snprintf(name, sizeof name, "step-%08d", kept[i]);
        ASSERT_OK(lks_checkpoint_open(&checkpoint, fixture_path(&self, name, NULL), LKS_CHECK_ALL));
        ASSERT_OK(lks_checkpoint_digest(checkpoint, have));
        fixture_digest(&self, kept[i], want);
        ck_assert_str_eq(have, want);
        lks_checkpoint_close(checkpoint);
    }
    ck_assert_uint_eq(fixture_count(&self, "step-"), 3);
}
END_TEST

START_TEST(test_not_skipped_when_idle)
{
    lks_checkpoints *checkpoints;
    bool saved;
    ASSERT_OK(lks_checkpoints_open(&checkpoints, &self.spec));
    for (int step = 1; step <= 3; ++step) {
        save(checkpoints, step, true);
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
    save(checkpoints, 1, false);
    ASSERT_OK(lks_checkpoints_finish(checkpoints, &saved));
    ck_assert(!saved);
    ck_assert_uint_eq(fixture_count(&self, ""), 0); /* no LATEST either */
    refused = false;
    save(checkpoints, 2, false);
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
        ASSERT_OK(lks_checkpoints_save(checkpoints, self.arrays, &info, false, &stall));
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
    tcase_add_test(c, test_skipped_while_busy);
    tcase_add_test(c, test_not_skipped_when_idle);
    tcase_add_test(c, test_may_not_commit);
    tcase_add_test(c, test_ledger_changes);
    return c;
}
