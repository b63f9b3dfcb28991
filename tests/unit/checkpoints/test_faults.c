/* A save that is killed, or whose calls fail, at any point. */
#include "runtime/base/files.h"
#include "runtime/base/log.h"
#include "tests/unit/checkpoints/faults.h"
#include "tests/unit/checkpoints/suites.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

/* The newest checkpoint that verifies is of this step and has its digest. */
static uint64_t newest(void)
{
    lks_checkpoint *checkpoint;
    char have[65], want[65];
    ASSERT_OK(lks_checkpoint_find(&checkpoint, self.run, LKS_CHECK_ALL, false, false));
    if (checkpoint == NULL)
        return 0;
    uint64_t step = lks_checkpoint_step(checkpoint);
    ASSERT_OK(lks_checkpoint_digest(checkpoint, have));
    fixture_digest(&self, (int)step, want);
    ck_assert_str_eq(have, want);
    lks_checkpoint_close(checkpoint);
    return step;
}

static void open_and_close(void)
{
    lks_checkpoints *checkpoints;
    ASSERT_OK(lks_checkpoints_open(&checkpoints, &self.spec));
    lks_checkpoints_close(checkpoints);
}

/* Small enough to be saved hundreds of times. */
static void use_small_layout(void)
{
    lks_layout_destroy(self.layout);
    ASSERT_OK(lks_layout_create(&self.layout));
    ASSERT_OK(lks_layout_add(self.layout, "a", LKS_SHAPE(1), LKS_ROLE_PARAMETER, true, NULL));
    ASSERT_OK(
        lks_layout_add(self.layout, "wte", LKS_SHAPE(300, 500), LKS_ROLE_PARAMETER, true, NULL));
    self.spec.layout = self.layout;
    lks_layout_owned(self.layout, 0, 1, &self.spec.first_block, &self.spec.end_block);
}

/* Every name in the directory is a checkpoint's or LATEST, and all checkpoints hold. */
static void check_clean(void)
{
    lks_checkpoint_entry *entries;
    size_t count;
    ck_assert_uint_eq(fixture_count(&self, ".partial"), 0);
    ck_assert_uint_eq(fixture_count(&self, ".tmp"), 0);
    ASSERT_OK(lks_checkpoint_list(self.run, &entries, &count));
    for (size_t i = 0; i < count; ++i)
        ck_assert_msg(entries[i].valid, "%s", entries[i].problem);
    ck_assert_uint_eq(fixture_count(&self, ""), count + (fixture_count(&self, "LATEST") > 0));
    lks_checkpoint_list_free(entries, count);
}

/* In a child that dies at its k-th call. True: it came to the end. */
static bool child_saves(int k, uint64_t step)
{
    pid_t child = fork();
    if (child == 0) {
        bool saved = false;
        fault_set(FAULT_KILL, k, 0);
        lks_status status = fixture_save(&self, step, NAN, &saved);
        _exit(status == LKS_OK && saved ? 0 : 1);
    }
    int status;
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert(WIFEXITED(status));
    ck_assert_msg(WEXITSTATUS(status) == 0 || WEXITSTATUS(status) == FAULT_STATUS, "status %d",
                  WEXITSTATUS(status));
    return WEXITSTATUS(status) == 0;
}

START_TEST(test_killed_anywhere)
{
    bool saved, ended = false, committed = false;
    int k;
    use_small_layout();
    self.spec.keep = 1;
    ASSERT_OK(fixture_save(&self, 100, NAN, &saved));
    for (k = 1; !ended; ++k) {
        ended = child_saves(k, 200);
        uint64_t step = newest();
        ck_assert_msg(step == 200 || (step == 100 && !committed && !ended), "call %d: step %llu", k,
                      (unsigned long long)step);
        committed = step == 200;
        open_and_close();
        check_clean();
        ck_assert_uint_eq(newest(), step);
        if (committed && !ended) { /* back to where the child began */
            ASSERT_OK(lks_files_remove_tree(fixture_path(&self, "step-00000200", NULL)));
            ASSERT_OK(fixture_save(&self, 100, NAN, &saved));
            committed = false;
        }
    }
    ck_assert_int_gt(k, 20);
}
END_TEST

START_TEST(test_first_save_killed)
{
    int k = 1;
    use_small_layout();
    for (bool ended = false; !ended; k += 3) {
        ended = child_saves(k, 7);
        uint64_t step = newest();
        ck_assert(step == 7 || (step == 0 && !ended));
        if (lks_files_exists(fixture_path(&self, "", NULL)))
            open_and_close();
        check_clean();
        ASSERT_OK(lks_files_remove_tree(fixture_path(&self, "", NULL)));
    }
}
END_TEST

/* --- Failing calls -------------------------------------------------------------------- */

/* Saves with the k-th call after open failing, and then again without. *struck: there was such a call. */
static void save_with_failure(int k, int error, bool *struck, uint64_t step)
{
    lks_checkpoints *checkpoints;
    double stall;
    bool saved;
    ASSERT_OK(lks_checkpoints_open(&checkpoints, &self.spec));
    fixture_fill(&self, (int)step);
    lks_checkpoint_info info = fixture_info(step);
    fault_set(FAULT_FAIL, k, error);
    ASSERT_OK(lks_checkpoints_save(checkpoints, self.arrays, &info, LKS_CHECKPOINT_WAIT, &stall));
    ASSERT_OK(lks_checkpoints_finish(checkpoints, &saved));
    *struck = fault_victim() != NULL;
    const char *victim = *struck ? fault_victim() : "none";
    fault_set(FAULT_NONE, 0, 0);
    ck_assert_msg(newest() == (saved ? step : step - 1), "%s, call %d", victim, k);
    ck_assert(saved || *struck);
    fixture_fill(&self, (int)step + 1);
    info = fixture_info(step + 1);
    ASSERT_OK(lks_checkpoints_save(checkpoints, self.arrays, &info, LKS_CHECKPOINT_WAIT, &stall));
    ASSERT_OK(lks_checkpoints_finish(checkpoints, &saved));
    ck_assert_msg(saved, "after %s, call %d", victim, k);
    lks_checkpoints_stats stats = lks_checkpoints_get_stats(checkpoints);
    ck_assert_uint_eq(stats.saved + stats.failed, 2);
    lks_checkpoints_close(checkpoints);
    ck_assert_uint_eq(newest(), step + 1);
}

static void fail_everywhere(int error)
{
    bool saved, struck = true;
    int k;
    use_small_layout();
    self.spec.keep = 1;
    ASSERT_OK(fixture_save(&self, 1, NAN, &saved));
    for (k = 1; struck; ++k)
        save_with_failure(k, error, &struck, (uint64_t)k * 2);
    ck_assert_int_gt(k, 15);
    open_and_close();
    check_clean();
}

START_TEST(test_no_space)
{
    fail_everywhere(ENOSPC);
}
END_TEST

START_TEST(test_io_error)
{
    fail_everywhere(EIO);
}
END_TEST

START_TEST(test_short_and_interrupted)
{
    bool saved;
    fault_set(FAULT_SHORT, 1, 0);
    ASSERT_OK(fixture_save(&self, 1, NAN, &saved));
    ck_assert(saved);
    ck_assert_uint_eq(newest(), 1);
    fault_set(FAULT_INTERRUPT, 12, 0);
    ASSERT_OK(fixture_save(&self, 2, NAN, &saved));
    ck_assert(saved);
    fault_set(FAULT_NONE, 0, 0);
    ck_assert_uint_eq(newest(), 2);
}
END_TEST

/* Stderr of the calls between begin and end. */
static int stderr_begin(char *path)
{
    strcpy(path, "/tmp/lockstep-stderr-XXXXXX");
    int file = mkstemp(path), old = dup(STDERR_FILENO);
    dup2(file, STDERR_FILENO);
    close(file);
    return old;
}

static char *stderr_end(int old, const char *path)
{
    char *text;
    size_t bytes;
    dup2(old, STDERR_FILENO);
    close(old);
    ASSERT_OK(lks_files_read(path, 1 << 16, &text, &bytes));
    unlink(path);
    return text;
}

START_TEST(test_warned_once)
{
    lks_checkpoints *checkpoints;
    double stall;
    bool saved;
    char path[64];
    ASSERT_OK(lks_checkpoints_open(&checkpoints, &self.spec));
    fixture_fill(&self, 1);
    lks_checkpoint_info info = fixture_info(1);
    int old = stderr_begin(path);
    struct rlimit former, limit;
    getrlimit(RLIMIT_FSIZE, &former);
    limit = (struct rlimit){100000, former.rlim_max};
    setrlimit(RLIMIT_FSIZE, &limit);
    lks_status status = lks_checkpoints_save(checkpoints, self.arrays, &info, LKS_CHECKPOINT_WAIT, &stall);
    lks_status finished = lks_checkpoints_finish(checkpoints, &saved);
    setrlimit(RLIMIT_FSIZE, &former);
    char *text = stderr_end(old, path);
    ck_assert_int_eq(status, LKS_OK);
    ck_assert_int_eq(finished, LKS_OK);
    ck_assert(!saved);
    ck_assert_ptr_nonnull(strstr(text, "warning: the checkpoint of step 1 is given up: "));
    ck_assert_msg(strstr(text, "state.h5") != NULL && strstr(text, "ulimit -f") != NULL, "%s",
                  text);
    ck_assert_ptr_nonnull(strstr(text, lks_comm_host(self.comm, 0)));
    ck_assert_ptr_eq(strchr(text, '\n'), text + strlen(text) - 1);
    free(text);
    ck_assert_uint_eq(fixture_count(&self, "step-"), 0);
    ASSERT_OK(lks_checkpoints_save(checkpoints, self.arrays, &info, LKS_CHECKPOINT_WAIT, &stall));
    lks_checkpoints_close(checkpoints); /* waits for it */
    ck_assert_uint_eq(newest(), 1);
}
END_TEST

START_TEST(test_directory_gone)
{
    lks_checkpoints *checkpoints;
    double stall;
    bool saved;
    ASSERT_OK(lks_checkpoints_open(&checkpoints, &self.spec));
    ASSERT_OK(lks_files_remove_tree(fixture_path(&self, "", NULL)));
    lks_checkpoint_info info = fixture_info(1);
    ASSERT_OK(lks_checkpoints_save(checkpoints, self.arrays, &info, LKS_CHECKPOINT_WAIT, &stall));
    ASSERT_OK(lks_checkpoints_finish(checkpoints, &saved));
    ck_assert(!saved);
    ck_assert_uint_eq(lks_checkpoints_get_stats(checkpoints).failed, 1);
    lks_checkpoints_close(checkpoints);
}
END_TEST

TCase *case_faults(void)
{
    TCase *c = tcase_create("faults");
    tcase_add_test(c, test_killed_anywhere);
    tcase_add_test(c, test_first_save_killed);
    tcase_add_test(c, test_no_space);
    tcase_add_test(c, test_io_error);
    tcase_add_test(c, test_short_and_interrupted);
    tcase_add_test(c, test_warned_once);
    tcase_add_test(c, test_directory_gone);
    return c;
}
