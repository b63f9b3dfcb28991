#include "runtime/base/files.h"
#include "suites.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

static char folder[64];

static void setup(void)
{
    strcpy(folder, "/tmp/lks-base-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(folder));
}

static void teardown(void)
{
    ck_assert_int_eq(lks_files_remove_tree(folder), LKS_OK);
}

static const char *in_folder(const char *name)
{
    static char path[256];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

START_TEST(what_is_written_is_read)
{
    const char *path = in_folder("a");
    char *data;
    size_t bytes;
    ASSERT_OK(lks_files_write_atomically(path, "one\0two", 7));
    ASSERT_OK(lks_files_read(path, 7, &data, &bytes));
    ck_assert_uint_eq(bytes, 7);
    ck_assert_mem_eq(data, "one\0two", 8);
    free(data);
    ASSERT_FAILS(lks_files_read(path, 6, &data, &bytes), LKS_ERR_CORRUPT, "more than 6 bytes");
    ASSERT_OK(lks_files_write_atomically(path, "", 0));
    ASSERT_OK(lks_files_read(path, 0, &data, &bytes));
    ck_assert_uint_eq(bytes, 0);
    ck_assert_str_eq(data, "");
    free(data);
}
END_TEST

START_TEST(pipes_are_read_to_their_end)
{
    const char *path = in_folder("pipe");
    ck_assert_int_eq(mkfifo(path, 0600), 0);
    pid_t child = fork();
    if (child == 0) {
        int file = open(path, O_WRONLY);
        for (int i = 0; i < 3000; ++i)
            if (write(file, "0123456789", 10) != 10)
                _exit(1);
        _exit(0);
    }
    char *data;
    size_t bytes;
    ASSERT_OK(lks_files_read(path, 1 << 20, &data, &bytes));
    ck_assert_uint_eq(bytes, 30000);
    ck_assert_mem_eq(data + 29990, "0123456789", 11);
    free(data);
}
END_TEST

START_TEST(missing_files_are_the_users)
{
    char *data;
    size_t bytes;
    ASSERT_FAILS(lks_files_read(in_folder("no"), 9, &data, &bytes), LKS_ERR_USAGE, "No such file");
    ASSERT_FAILS(lks_files_read(folder, 9, &data, &bytes), LKS_ERR_USAGE, "is a directory");
}
END_TEST

/* A limit on the size of files stands for a full disk. */
START_TEST(a_failed_write_leaves_the_old_file_alone)
{
    const char *path = in_folder("kept");
    ASSERT_OK(lks_files_write_atomically(path, "old", 3));
    struct rlimit limit = {4096, 4096};
    signal(SIGXFSZ, SIG_IGN);
    ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
    static char large[10000];
    ASSERT_FAILS(lks_files_write_atomically(path, large, sizeof large), LKS_ERR_IO, "write");
    char *data;
    size_t bytes;
    ASSERT_OK(lks_files_read(path, 100, &data, &bytes));
    ck_assert_str_eq(data, "old");
    free(data);
    lks_file_list list;
    ASSERT_OK(lks_files_list(folder, &list));
    ck_assert_uint_eq(list.count, 1);
    lks_file_list_release(&list);
}
END_TEST

START_TEST(a_failed_rename_leaves_nothing)
{
    const char *path = in_folder("directory");
    ASSERT_OK(lks_files_make_directories(path));
    ASSERT_FAILS(lks_files_write_atomically(path, "x", 1), LKS_ERR_IO, "rename");
    lks_file_list list;
    ASSERT_OK(lks_files_list(folder, &list));
    ck_assert_uint_eq(list.count, 1);
    ck_assert_str_eq(list.names[0], "directory");
    lks_file_list_release(&list);
    ASSERT_FAILS(lks_files_write_atomically(in_folder("no/such"), "x", 1), LKS_ERR_IO, "create");
}
END_TEST

START_TEST(parts_of_files)
{
    const char *path = in_folder("parts");
    int file = open(path, O_RDWR | O_CREAT, 0600);
    ck_assert_int_ge(file, 0);
    ASSERT_OK(lks_files_pwrite(file, path, "world", 5, 6));
    ASSERT_OK(lks_files_pwrite(file, path, "hello ", 6, 0));
    char data[12] = {0};
    ASSERT_OK(lks_files_pread(file, path, data, 11, 0));
    ck_assert_str_eq(data, "hello world");
    ASSERT_FAILS(lks_files_pread(file, path, data, 6, 6), LKS_ERR_CORRUPT, "ends at byte 11");
    close(file);
    ASSERT_FAILS(lks_files_pread(file, path, data, 1, 0), LKS_ERR_IO, "read");
    ASSERT_FAILS(lks_files_pwrite(file, path, data, 1, 0), LKS_ERR_IO, "write");
}
END_TEST

START_TEST(directories_come_and_go)
{
    ASSERT_OK(lks_files_make_directories(in_folder("a/b//c/")));
    ck_assert(lks_files_is_directory(in_folder("a/b/c")));
    ASSERT_OK(lks_files_make_directories(in_folder("a/b/c")));
    ASSERT_OK(lks_files_make_directories("/tmp"));
    ASSERT_OK(lks_files_write_atomically(in_folder("a/file"), "x", 1));
    ASSERT_FAILS(lks_files_make_directories(in_folder("a/file")), LKS_ERR_IO, "a/file");
    ASSERT_FAILS(lks_files_make_directories(in_folder("a/file/d")), LKS_ERR_IO, "a/file");
    ASSERT_FAILS(lks_files_make_directories(""), LKS_ERR_USAGE, "empty");
    /* A link to outside is removed, not followed. */
    ASSERT_OK(lks_files_make_directories(in_folder("outside")));
    ASSERT_OK(lks_files_write_atomically(in_folder("outside/kept"), "x", 1));
    ck_assert_int_eq(symlink("../outside", in_folder("a/link")), 0);
    ASSERT_OK(lks_files_remove_tree(in_folder("a")));
    ck_assert(!lks_files_exists(in_folder("a")));
    ck_assert(lks_files_exists(in_folder("outside/kept")));
    ASSERT_OK(lks_files_remove_tree(in_folder("a")));
    ASSERT_OK(lks_files_remove_tree(in_folder("outside/kept")));
    ck_assert(lks_files_exists(in_folder("outside")));
}
END_TEST

START_TEST(lists_are_sorted)
{
    static const char *const names[] = {"b", "B", "a10", "a2", "\303\244"};
    for (int i = 0; i < 5; ++i)
        ASSERT_OK(lks_files_write_atomically(in_folder(names[i]), "", 0));
    lks_file_list list;
    ASSERT_OK(lks_files_list(folder, &list));
    ck_assert_uint_eq(list.count, 5);
    static const char *const sorted[] = {"B", "a10", "a2", "b", "\303\244"};
    for (int i = 0; i < 5; ++i)
        ck_assert_str_eq(list.names[i], sorted[i]);
    lks_file_list_release(&list);
    ASSERT_FAILS(lks_files_list(in_folder("none"), &list), LKS_ERR_IO, "none");
    ck_assert_uint_eq(list.count, 0);
}
END_TEST

START_TEST(paths_are_joined)
{
    static const char *const cases[][3] = {
        {"a", "b", "a/b"}, {"a/", "b", "a/b"}, {"", "b", "b"}, {"/", "b", "/b"}};
    for (int i = 0; i < 4; ++i) {
        char *joined = lks_files_join(cases[i][0], cases[i][1]);
        ck_assert_str_eq(joined, cases[i][2]);
        free(joined);
    }
}
END_TEST

TCase *case_files(void)
{
    TCase *tcase = tcase_create("files");
    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_add_test(tcase, what_is_written_is_read);
    tcase_add_test(tcase, pipes_are_read_to_their_end);
    tcase_add_test(tcase, missing_files_are_the_users);
    tcase_add_test(tcase, a_failed_write_leaves_the_old_file_alone);
    tcase_add_test(tcase, a_failed_rename_leaves_nothing);
    tcase_add_test(tcase, parts_of_files);
    tcase_add_test(tcase, directories_come_and_go);
    tcase_add_test(tcase, lists_are_sorted);
    tcase_add_test(tcase, paths_are_joined);
    return tcase;
}
