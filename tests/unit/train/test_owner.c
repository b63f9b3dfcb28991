/* The lock and the owner of a run directory. */
#include "runtime/base/files.h"
#include "runtime/base/json.h"
#include "runtime/train/run_owner.h"
#include "tests/unit/train/suites.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static char directory[64], path[96];

static void open_directory(void)
{
    strcpy(directory, "/tmp/lockstep-owner-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(directory));
    snprintf(path, sizeof path, "%s/run.json", directory);
}

static void remove_directory(void)
{
    ASSERT_OK(lks_files_remove_tree(directory));
}

START_TEST(test_lock)
{
    int first, second;
    ASSERT_OK(lks_run_lock(directory, false, &first));
    ASSERT_FAILS(lks_run_lock(directory, false, &second), LKS_ERR_USAGE, "another job is running");
    ck_assert_int_eq(second, -1);
    close(first);
    ASSERT_OK(lks_run_lock(directory, false, &second));
    close(second);
}
END_TEST

START_TEST(test_take_over)
{
    int frozen, taken, third;
    ASSERT_OK(lks_run_lock(directory, false, &frozen));
    ASSERT_OK(lks_run_lock(directory, true, &taken));
    ASSERT_FAILS(lks_run_lock(directory, false, &third), LKS_ERR_USAGE, "another job is running");
    close(frozen); /* has no name any more */
    ASSERT_FAILS(lks_run_lock(directory, false, &third), LKS_ERR_USAGE, "another job is running");
    close(taken);
    ASSERT_OK(lks_run_lock(directory, true, &third)); /* nobody to take it from */
    close(third);
}
END_TEST

/* The lock goes with the process that had it, however it ends. */
START_TEST(test_lock_of_the_dead)
{
    int ready[2], lock;
    char byte;
    ck_assert_int_eq(pipe(ready), 0);
    pid_t child = fork();
    if (child == 0) {
        lks_status status = lks_run_lock(directory, false, &lock);
        if (write(ready[1], &status, 1) == 1)
            pause();
        _exit(1);
    }
    ck_assert_int_eq(read(ready[0], &byte, 1), 1);
    ck_assert_int_eq(byte, LKS_OK);
    ASSERT_FAILS(lks_run_lock(directory, false, &lock), LKS_ERR_USAGE, "another job is running");
    ck_assert_int_eq(kill(child, SIGKILL), 0);
    ck_assert_int_eq(waitpid(child, NULL, 0), child);
    ASSERT_OK(lks_run_lock(directory, false, &lock));
    close(lock);
    close(ready[0]);
    close(ready[1]);
}
END_TEST

START_TEST(test_owner)
{
    struct stat info;
    lks_run_owner owner;
    ck_assert_int_eq(lks_run_owner_read(path, &info, &owner), LKS_ERR_IO);
    static const char text[] =
        "{\"epoch\": 3, \"owner\": {\"start\": \"0123456789abcdef\", \"host\": \"h7\"}}";
    ASSERT_OK(lks_files_write_atomically(path, text, strlen(text)));
    ASSERT_OK(lks_run_owner_read(path, &info, &owner));
    ck_assert_uint_eq(owner.epoch, 3);
    ck_assert_str_eq(owner.start, "0123456789abcdef");
    ASSERT_FAILS(lks_run_owner_fail("runs/a", &owner), LKS_ERR_USAGE,
                 "runs/a: fenced: a newer start (epoch 3, h7) owns this run");
    ASSERT_OK(lks_files_write_atomically(path, "{\"epoch\": -5, \"owner\": 7}", 25));
    ASSERT_OK(lks_run_owner_read(path, &info, &owner));
    ck_assert_uint_eq(owner.epoch, 0);
    ck_assert_str_eq(owner.start, "");
}
END_TEST

START_TEST(test_ids)
{
    char a[LKS_RUN_ID_SIZE], b[LKS_RUN_ID_SIZE];
    lks_run_new_id(a);
    lks_run_new_id(b);
    ck_assert_uint_eq(strspn(a, "0123456789abcdef"), 16);
    ck_assert_str_ne(a, b);
}
END_TEST

TCase *case_owner(void)
{
    TCase *c = tcase_create("owner");
    tcase_add_checked_fixture(c, open_directory, remove_directory);
    tcase_add_test(c, test_lock);
    tcase_add_test(c, test_take_over);
    tcase_add_test(c, test_lock_of_the_dead);
    tcase_add_test(c, test_owner);
    tcase_add_test(c, test_ids);
    return c;
}
