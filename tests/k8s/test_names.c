/* Names as the Kubernetes API takes them. */
#include "launcher/k8s_names.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>

static char label63[64], label64[65], name253[254], name254[255];

static void fill(void)
{
    for (int i = 0; i < 64; ++i)
        label64[i] = 'a';
    snprintf(label63, sizeof label63, "%.63s", label64);
    for (int i = 0; i < 254; ++i)
        name254[i] = i % 50 == 49 ? '.' : 'a';
    snprintf(name253, sizeof name253, "%.253s", name254);
}

static void takes(bool (*is)(const char *), const char *const *texts, size_t count, bool wanted)
{
    for (size_t i = 0; i < count; ++i)
        ck_assert_msg(is(texts[i]) == wanted, "\"%s\"", texts[i]);
}
#define TAKES(is, ...)                                                                             \
    takes(is, (const char *const[]){__VA_ARGS__},                                                  \
          sizeof((const char *const[]){__VA_ARGS__}) / sizeof(char *), true)
#define REFUSES(is, ...)                                                                           \
    takes(is, (const char *const[]){__VA_ARGS__},                                                  \
          sizeof((const char *const[]){__VA_ARGS__}) / sizeof(char *), false)

START_TEST(test_labels)
{
    TAKES(lks_k8s_is_label, "a", "9", "a-b", "a--b", "1a", label63);
    REFUSES(lks_k8s_is_label, "", "-", "-a", "a-", "A", "a.b", "a_b", "a b", "\xc3\xbc", label64);
}
END_TEST

START_TEST(test_domains)
{
    TAKES(lks_k8s_is_domain, "a", "a.b", "1.2.3", "team-1.data", label63, name253);
    REFUSES(lks_k8s_is_domain, "", ".", "a.", ".a", "a..b", "a.-b", "a/b", "A.b", "a\nb", label64,
            name254);
}
END_TEST

START_TEST(test_keys)
{
    TAKES(lks_k8s_is_key, "gpt.yaml", "A_b-c.1", ".hidden", "a..b");
    REFUSES(lks_k8s_is_key, "", ".", "..", "..a", "a b", "a/b", "a:b", "\xc3\xbc", name254);
}
END_TEST

START_TEST(test_images)
{
    TAKES(lks_k8s_is_image, "lockstep", "lockstep:latest", "host:5000/a/b_c:1.2-3", "a@sha256:0f");
    REFUSES(lks_k8s_is_image, "", ":a", "a:", "a b", "/a", "a/", "a//b", "a\"b", "a\n", "a,b",
            "-a");
}
END_TEST

START_TEST(test_resources)
{
    TAKES(lks_k8s_is_resource, "rdma/hca", "rdma/hca_shared_devices_a", "example.com/A.b-c");
    REFUSES(lks_k8s_is_resource, "", "hca", "/hca", "rdma/", "rdma/a/b", "Rdma/a", "rdma/-a",
            "rdma/a_", "a b/c", "rdma/a: 1");
}
END_TEST

START_TEST(test_quantities)
{
    const struct {
        const char *text;
        int64_t bytes;
    } good[] = {
        {"1", 1},
        {"500M", 500000000},
        {"12k", 12000},
        {"64Gi", (int64_t)64 << 30},
        {"3Ti", (int64_t)3 << 40},
        {"7Ei", (int64_t)7 << 60},
        {"9E", 9000000000000000000},
        {"9223372036854775807", INT64_MAX},
    };
    static const char *const bad[] = {
        "",
        "0",
        "00Gi",
        "Gi",
        "-1",
        "1.5Gi",
        "1 Gi",
        "1GB",
        "1K",
        "1Q",
        "1ki",
        "1i",
        "1Gii",
        "8Ei",
        "99999999999Ti",
        "10E",
        "9223372036854775808",
        "99999999999999999999",
    };
    for (size_t i = 0; i < sizeof good / sizeof good[0]; ++i)
        ck_assert_msg(lks_k8s_quantity_bytes(good[i].text) == good[i].bytes, "\"%s\"",
                      good[i].text);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; ++i)
        ck_assert_msg(lks_k8s_quantity_bytes(bad[i]) == 0, "\"%s\"", bad[i]);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("k8s names");
    TCase *tcase = tcase_create("names");
    fill();
    tcase_add_test(tcase, test_labels);
    tcase_add_test(tcase, test_domains);
    tcase_add_test(tcase, test_keys);
    tcase_add_test(tcase, test_images);
    tcase_add_test(tcase, test_resources);
    tcase_add_test(tcase, test_quantities);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
