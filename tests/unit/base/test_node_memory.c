/* What a node can give, told by files like those of a kernel. */
#include "runtime/base/files.h"
#include "runtime/base/node_memory.h"
#include "suites.h"

#include <stdio.h>
#include <stdlib.h>

static char root[64];

static void setup(void)
{
    strcpy(root, "/tmp/lks-node-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(root));
}

static void teardown(void)
{
    ck_assert_int_eq(lks_files_remove_tree(root), LKS_OK);
}

static void put(const char *path, const char *text)
{
    char whole[256];
    snprintf(whole, sizeof whole, "%s/%s", root, path);
    char *slash = strrchr(whole, '/');
    *slash = '\0';
    ASSERT_OK(lks_files_make_directories(whole));
    *slash = '/';
    FILE *file = fopen(whole, "w");
    ck_assert_ptr_nonnull(file);
    fputs(text, file);
    fclose(file);
}

static void put_meminfo(void)
{
    put("proc/meminfo",
        "MemTotal: 9000 kB\nMemFree: 10 kB\nMemAvailable:    8000 kB\nCached: 1 kB\n");
}

START_TEST(nothing_known_is_no_limit)
{
    ck_assert_uint_eq(lks_node_memory_available(root), UINT64_MAX);
}
END_TEST

START_TEST(the_kernel_says_what_is_available)
{
    put_meminfo();
    ck_assert_uint_eq(lks_node_memory_available(root), 8000 << 10);
    put("proc/self/cgroup", "0::/\n");
    put("sys/fs/cgroup/memory.max", "max\n");
    put("sys/fs/cgroup/memory.current", "1000\n");
    ck_assert_uint_eq(lks_node_memory_available(root), 8000 << 10);
}
END_TEST

START_TEST(a_group_has_less)
{
    put_meminfo();
    put("proc/self/cgroup", "0::/\n");
    put("sys/fs/cgroup/memory.max", "5000000\n");
    put("sys/fs/cgroup/memory.current", "1000000\n");
    ck_assert_uint_eq(lks_node_memory_available(root), 4000000);
    put("sys/fs/cgroup/memory.stat", "anon 1\nactive_file 100000\ninactive_file 200000\n");
    ck_assert_uint_eq(lks_node_memory_available(root), 4300000);
    put("sys/fs/cgroup/memory.current", "9000000\n");
    put("sys/fs/cgroup/memory.stat", "anon 1\n");
    ck_assert_uint_eq(lks_node_memory_available(root), 0);
}
END_TEST

/* As a batch system makes them: the limit stands above the group of the process. */
START_TEST(a_parent_has_less)
{
    put_meminfo();
    put("proc/self/cgroup", "1:name=systemd:/x\n0::/job/step/task\n");
    put("sys/fs/cgroup/job/memory.max", "3000000\n");
    put("sys/fs/cgroup/job/memory.current", "500000\n");
    put("sys/fs/cgroup/job/step/task/memory.max", "max\n");
    put("sys/fs/cgroup/job/step/task/memory.current", "400000\n");
    ck_assert_uint_eq(lks_node_memory_available(root), 2500000);
}
END_TEST

START_TEST(version_1)
{
    put_meminfo();
    put("proc/self/cgroup", "4:cpu,memory:/a/b\n0::/\n");
    put("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "2000000\n");
    put("sys/fs/cgroup/memory/a/memory.usage_in_bytes", "900000\n");
    put("sys/fs/cgroup/memory/a/memory.stat",
        "active_file 1\ntotal_inactive_file 100000\ntotal_active_file 0\n");
    put("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
    put("sys/fs/cgroup/memory/memory.usage_in_bytes", "900000\n");
    ck_assert_uint_eq(lks_node_memory_available(root), 1200000);
}
END_TEST

START_TEST(this_node_has_some)
{
    uint64_t bytes = lks_node_memory_available("");
    ck_assert(bytes > 1 << 20 && bytes < UINT64_MAX);
}
END_TEST

TCase *case_node_memory(void)
{
    TCase *tcase = tcase_create("node memory");
    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_add_test(tcase, nothing_known_is_no_limit);
    tcase_add_test(tcase, the_kernel_says_what_is_available);
    tcase_add_test(tcase, a_group_has_less);
    tcase_add_test(tcase, a_parent_has_less);
    tcase_add_test(tcase, version_1);
    tcase_add_test(tcase, this_node_has_some);
    return tcase;
}
