/* Which checkpoint a run goes on from. */
#include "checkpoints/directory.h"
#include "runtime/base/files.h"
#include "tests/unit/checkpoints/suites.h"

#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

static void save_steps(uint64_t last, const double *losses)
{
    bool saved = false;
    self.spec.keep = 10;
    for (uint64_t step = 1; step <= last; ++step) {
        ASSERT_OK(fixture_save(&self, step, losses == NULL ? NAN : losses[step - 1], &saved));
        ck_assert(saved);
    }
}

/* What find gives for `path`: the step, or 0 when nothing. */
static uint64_t found(const char *path, lks_checkpoint_check check, bool set_aside, bool best)
{
    lks_checkpoint *checkpoint;
    ASSERT_OK(lks_checkpoint_find(&checkpoint, path, check, set_aside, best));
    uint64_t step = checkpoint == NULL ? 0 : lks_checkpoint_step(checkpoint);
    lks_checkpoint_close(checkpoint);
    return step;
}

static void flip_middle(const char *name)
{
    int file = open(fixture_path(&self, name, "state.h5"), O_RDWR);
    char byte;
    ck_assert_int_eq(pread(file, &byte, 1, 700000), 1);
    byte ^= 2;
    ck_assert_int_eq(pwrite(file, &byte, 1, 700000), 1);
    close(file);
}

START_TEST(test_paths)
{
    char checkpoints[128];
    snprintf(checkpoints, sizeof checkpoints, "%s/checkpoints", self.run);
    ck_assert_uint_eq(found(self.run, LKS_CHECK_ALL, true, false), 0);
    ck_assert_uint_eq(found("/no/such/run", LKS_CHECK_ALL, true, false), 0);
    ASSERT_OK(lks_files_make_directories(checkpoints));
    ck_assert_uint_eq(found(checkpoints, LKS_CHECK_ALL, true, false), 0);
    save_steps(2, NULL);
    ck_assert_uint_eq(found(self.run, LKS_CHECK_ALL, true, false), 2);
    ck_assert_uint_eq(found(checkpoints, LKS_CHECK_ALL, true, false), 2);
    ck_assert_uint_eq(found(fixture_path(&self, "step-00000001", NULL), LKS_CHECK_ALL, true, false),
                      1);
    lks_checkpoint *checkpoint;
    ck_assert_int_eq(lks_checkpoint_find(&checkpoint, fixture_path(&self, "LATEST", NULL),
                                         LKS_CHECK_ALL, true, false),
                     LKS_ERR_USAGE);
}
END_TEST

START_TEST(test_past_a_bad_newest)
{
    save_steps(3, NULL);
    flip_middle("step-00000003");
    ck_assert_uint_eq(found(self.run, LKS_CHECK_MANIFEST, true, false), 3); /* not looked at */
    ck_assert_uint_eq(found(self.run, LKS_CHECK_ALL, false, false), 2);
    ck_assert(lks_files_exists(fixture_path(&self, "step-00000003", NULL)));
    ck_assert_uint_eq(found(self.run, LKS_CHECK_ALL, true, false), 2);
    ck_assert(!lks_files_exists(fixture_path(&self, "step-00000003", NULL)));
    ck_assert(lks_files_exists(fixture_path(&self, "step-00000003.bad", "state.h5")));
    save_steps(3, NULL);
    flip_middle("step-00000003");
    ck_assert_uint_eq(found(self.run, LKS_CHECK_ALL, true, false), 2);
    ck_assert(lks_files_exists(fixture_path(&self, "step-00000003.bad-2", "state.h5")));
}
END_TEST

START_TEST(test_all_bad)
{
    lks_checkpoint *checkpoint;
    save_steps(2, NULL);
    flip_middle("step-00000002");
    ck_assert_int_eq(unlink(fixture_path(&self, "step-00000001", "manifest.json")), 0);
    ASSERT_FAILS(lks_checkpoint_find(&checkpoint, self.run, LKS_CHECK_ALL, false, false),
                 LKS_ERR_CORRUPT, "none of the 2 checkpoints");
    ck_assert_ptr_null(checkpoint);
    ASSERT_FAILS(lks_checkpoint_find(&checkpoint, self.run, LKS_CHECK_ALL, true, false),
                 LKS_ERR_CORRUPT, "none of the 2 checkpoints");
    /* Asking again does not help: the run never starts again from nothing. */
    ck_assert_int_eq(lks_checkpoint_find(&checkpoint, self.run, LKS_CHECK_ALL, true, false),
                     LKS_ERR_CORRUPT);
    ck_assert_uint_eq(fixture_count(&self, ".bad"), 0);
}
END_TEST

START_TEST(test_newer_version_stops)
{
    lks_checkpoint *checkpoint;
    save_steps(2, NULL);
    static const char text[] = "{\"format\": \"lockstep-checkpoint\", \"format_version\": 9}";
    ASSERT_OK(lks_files_write_atomically(fixture_path(&self, "step-00000002", "manifest.json"),
                                         text, sizeof text - 1));
    ASSERT_FAILS(lks_checkpoint_find(&checkpoint, self.run, LKS_CHECK_ALL, true, false),
                 LKS_ERR_CORRUPT, "newer lockstep");
    ck_assert(lks_files_exists(fixture_path(&self, "step-00000002", NULL)));
}
END_TEST

START_TEST(test_best)
{
    const double losses[] = {2.0, 1.0, NAN, 1.0, 3.0};
    save_steps(5, losses);
    ck_assert_uint_eq(found(self.run, LKS_CHECK_ALL, false, true), 4);
    flip_middle("step-00000004");
    ck_assert_uint_eq(found(self.run, LKS_CHECK_ALL, false, true), 2);
}
END_TEST

START_TEST(test_best_without_losses)
{
    save_steps(2, NULL);
    ck_assert_uint_eq(found(self.run, LKS_CHECK_ALL, false, true), 2);
}
END_TEST

START_TEST(test_list)
{
    const double losses[] = {2.0, NAN, 0.5};
    lks_checkpoint_entry *entries;
    size_t count;
    struct stat state, manifest;
    ASSERT_OK(lks_checkpoint_list(self.run, &entries, &count));
    ck_assert_uint_eq(count, 0);
    lks_checkpoint_list_free(entries, count);
    save_steps(3, losses);
    ck_assert_int_eq(truncate(fixture_path(&self, "step-00000002", "state.h5"), 5000), 0);
    ASSERT_OK(lks_checkpoint_list(self.run, &entries, &count));
    ck_assert_uint_eq(count, 3);
    for (size_t i = 0; i < 3; ++i) {
        ck_assert_uint_eq(entries[i].step, i + 1);
        ck_assert(entries[i].valid == (i != 1));
    }
    ck_assert_str_eq(entries[0].path, fixture_path(&self, "step-00000001", NULL));
    ck_assert(strstr(entries[1].problem, "cut short") != NULL);
    ck_assert(entries[2].validation_loss == 0.5 && isnan(entries[1].validation_loss));
    ck_assert_int_eq(stat(fixture_path(&self, "step-00000003", "state.h5"), &state), 0);
    ck_assert_int_eq(stat(fixture_path(&self, "step-00000003", "manifest.json"), &manifest), 0);
    ck_assert_uint_eq(entries[2].bytes, (uint64_t)(state.st_size + manifest.st_size));
    lks_checkpoint_list_free(entries, count);
}
END_TEST

START_TEST(test_names)
{
    char name[LKS_STEP_NAME];
    uint64_t step;
    static const uint64_t steps[] = {0, 7, 99999999, 100000000, 123456789012, UINT64_MAX};
    for (size_t i = 0; i < sizeof steps / sizeof *steps; ++i) {
        ck_assert(lks_step_parse(lks_step_name(name, steps[i]), &step));
        ck_assert_uint_eq(step, steps[i]);
        lks_step_partial_name(name, steps[i], UINT64_MAX);
        ck_assert(!lks_step_parse(name, &step));
    }
    static const char *const wrong[] = {"step-1",
                                        "step-000000001",
                                        "step-00000001.bad",
                                        "step- 0000001",
                                        "step--0000001",
                                        "step-",
                                        "step-18446744073709551616",
                                        "LATEST",
                                        ""};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; ++i)
        ck_assert_msg(!lks_step_parse(wrong[i], &step), "%s", wrong[i]);
}
END_TEST

TCase *case_find(void)
{
    TCase *c = tcase_create("find");
    tcase_add_test(c, test_paths);
    tcase_add_test(c, test_past_a_bad_newest);
    tcase_add_test(c, test_all_bad);
    tcase_add_test(c, test_newer_version_stops);
    tcase_add_test(c, test_best);
    tcase_add_test(c, test_best_without_losses);
    tcase_add_test(c, test_list);
    tcase_add_test(c, test_names);
    return c;
}
