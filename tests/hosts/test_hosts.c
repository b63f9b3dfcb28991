/* What launch reads: hostfiles, SLURM's lists, mpirun's report. */
#include "launcher/launch_hosts.h"
#include "launcher/launch_look.h"
#include "launcher/launch_pace.h"
#include "launcher/launch_report.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void check_host(const lks_hosts *hosts, size_t i, const char *name, int slots)
{
    ck_assert_uint_lt(i, hosts->count);
    ck_assert_str_eq(hosts->items[i].name, name);
    ck_assert_int_eq(hosts->items[i].slots, slots);
}

static lks_status read_text(lks_hosts *hosts, const char *text)
{
    char folder[] = "/tmp/lockstep-test-hosts.XXXXXX", path[64];
    ck_assert_ptr_nonnull(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/hostfile", folder);
    FILE *file = fopen(path, "w");
    ck_assert_ptr_nonnull(file);
    fputs(text, file);
    fclose(file);
    *hosts = (lks_hosts){0};
    lks_status status = lks_hosts_read(hosts, path);
    unlink(path);
    rmdir(folder);
    return status;
}

START_TEST(test_hostfile)
{
    lks_hosts hosts;
    ck_assert_int_eq(read_text(&hosts, "# workers\n\nw-0.job.ns.svc slots=4\n w1:2 # two\r\nw2\nw1 "
                                       "slots=3 max_slots=9\nw3 slots=1"),
                     LKS_OK);
    ck_assert_uint_eq(hosts.count, 4);
    check_host(&hosts, 0, "w-0.job.ns.svc", 4);
    check_host(&hosts, 1, "w1", 5);
    check_host(&hosts, 2, "w2", 1);
    check_host(&hosts, 3, "w3", 1);
    ck_assert_ptr_eq(lks_hosts_named(&hosts, "w-0"), &hosts.items[0]);
    ck_assert_ptr_null(lks_hosts_named(&hosts, "w-0.other.svc"));
    ck_assert_ptr_null(lks_hosts_named(&hosts, "w"));
    lks_hosts_release(&hosts);
}
END_TEST

START_TEST(test_hostfile_bad)
{
    static const char *const bad[] = {
        "",    "# none\n", "a slots=0",           "a slots=-1",       "a slots=x", "a:b",
        "a 4", "a slots=", "a slots=99999999999", "-oProxyCommand=x", "a;b",       "\xff"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; ++i) {
        lks_hosts hosts;
        ck_assert_msg(read_text(&hosts, bad[i]) == LKS_ERR_USAGE, "accepted: %s", bad[i]);
        lks_hosts_release(&hosts);
    }
}
END_TEST

START_TEST(test_slurm)
{
    lks_hosts hosts = {0};
    ck_assert_int_eq(lks_hosts_expand_slurm(&hosts, "n[1-2,08-10]x,gpu,m[7]", "4(x2),2,1(x3),8"),
                     LKS_OK);
    ck_assert_uint_eq(hosts.count, 7);
    check_host(&hosts, 0, "n1x", 4);
    check_host(&hosts, 1, "n2x", 4);
    check_host(&hosts, 2, "n08x", 2);
    check_host(&hosts, 3, "n09x", 1);
    check_host(&hosts, 4, "n10x", 1);
    check_host(&hosts, 5, "gpu", 1);
    check_host(&hosts, 6, "m7", 8);
    lks_hosts_release(&hosts);
    ck_assert_int_eq(lks_hosts_expand_slurm(&hosts, "solo", NULL), LKS_OK);
    check_host(&hosts, 0, "solo", 1);
    lks_hosts_release(&hosts);
}
END_TEST

START_TEST(test_slurm_bad)
{
    static const char *const bad[] = {"",      "n[1",      "n[3-1]", "n[a]",
                                      "n[1-]", "n[1]m[2]", ",n",     "n[1;2]"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; ++i) {
        lks_hosts hosts = {0};
        ck_assert_msg(lks_hosts_expand_slurm(&hosts, bad[i], "1") == LKS_ERR_USAGE, "accepted: %s",
                      bad[i]);
        lks_hosts_release(&hosts);
    }
}
END_TEST

static const char rule[] =
    "--------------------------------------------------------------------------\n";

/* In pieces of `step` bytes, as a pipe may give them. */
static void feed(lks_launch_report *report, const char *text, size_t step)
{
    lks_text all = {0};
    lks_text_append(&all, "%s%s%s", rule, text, rule);
    for (size_t at = 0; at < all.length; at += step)
        lks_launch_report_feed(report, all.data + at,
                               all.length - at < step ? all.length - at : step);
    lks_launch_report_end(report);
    lks_text_release(&all);
}

START_TEST(test_report)
{
    static const struct {
        const char *text, *cause;
        bool lost, host_lost;
    } cases[] = {
        {"mpirun noticed that process rank 3 with PID 0 on node host2 exited on signal 9 "
         "(Killed).\n",
         "rank 3 on host2 was killed by signal 9 (Killed)", true, false},
        {"ORTE has lost communication with a remote daemon.\n\n  HNP daemon   : [[5713,0],0] on "
         "node "
         "launcher\n  Remote daemon: [[5713,0],2] on node host2\n",
         "host host2 was lost with its ranks", true, true},
        {"mpirun detected that one or more processes exited with non-zero status\n\n  Process "
         "name: "
         "[[21443,1],4]\n  Exit code:    75\n",
         "rank 4 ended with status 75", false, false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; ++i)
        for (size_t step = 1; step < 200; step += 66) {
            lks_hosts hosts = {0};
            lks_launch_report report = {0};
            ck_assert_int_eq(lks_hosts_expand_slurm(&hosts, "host[1-3]", NULL), LKS_OK);
            lks_launch_report_reset(&report, &hosts);
            feed(&report, cases[i].text, step);
            ck_assert_str_eq(report.cause.data, cases[i].cause);
            ck_assert_int_eq(report.lost, cases[i].lost);
            ck_assert_int_eq(report.host_lost, cases[i].host_lost);
            ck_assert_int_eq(hosts.items[1].suspect, cases[i].host_lost);
            lks_launch_report_release(&report);
            lks_hosts_release(&hosts);
        }
}
END_TEST

/* Two slots a host: ranks 0 and 1 on host1, 2 and 3 on host2, 4 on host3. */
START_TEST(test_look)
{
    static const struct {
        const char *said[3]; /* NULL: no answer */
        int silent, frozen, rank, missing;
        const char *on;
        bool gone;
    } cases[] = {
        {{"-1 7 S\n0 8 R\n1 9 S\n", "2 8 R\n3 9 R\n", "4 5 S\n"}, -1, -1, -1, 0, "", false},
        {{"0 8 R\n1 9 S\n", "2 8 R\n3 9 T\n", "4 5 S\n"}, -1, 1, -1, 0, "", false},
        {{"0 8 R\n1 9 S\n", "", "4 5 S\n"}, -1, -1, 2, 2, "host2", true},
        {{"0 8 R\n1 9 S\n", "2 7 R\n2 8 R\n", "4 5 S\n"}, -1, -1, 3, 1, "host2", true},
        {{"0 8 R\n3 9 S\n", "1 7 R\n2 8 R\n", ""}, -1, -1, 4, 1, "", true}, /* in another order */
        {{"1 9 S\n", "2 7 R\n3 8 R\n", ""}, -1, -1, 0, 2, "host1, host3", true},
        {{"0 8 R\n1 9 S\n", NULL, "4 5 S\n"}, 1, -1, -1, 0, "", false},
        {{"0 8 R\n", NULL, "4 5 S\n"}, 1, -1, -1, 0, "", true}, /* two at most are on host2 */
    };
    const bool usable[] = {true, true, true};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; ++i) {
        lks_hosts hosts = {0};
        lks_look look;
        ck_assert_int_eq(lks_hosts_expand_slurm(&hosts, "host[1-3]", "2(x2),1"), LKS_OK);
        for (int h = 0; h < 3; ++h) {
            hosts.items[h].answers = cases[i].said[h] != NULL;
            hosts.items[h].said = strdup(cases[i].said[h] ? cases[i].said[h] : "0 1 R\n");
            hosts.items[h].frozen = lks_look_frozen(cases[i].said[h]);
        }
        ck_assert_int_eq(lks_look_read(&look, &hosts, usable, 1, 5), LKS_OK);
        ck_assert_msg(look.gone == cases[i].gone, "case %zu", i);
        ck_assert_int_eq(look.rank, cases[i].rank);
        ck_assert_int_eq(look.missing, cases[i].missing);
        ck_assert_str_eq(look.on.length ? look.on.data : "", cases[i].on);
        ck_assert_ptr_eq(look.silent, cases[i].silent < 0 ? NULL : &hosts.items[cases[i].silent]);
        ck_assert_ptr_eq(look.frozen, cases[i].frozen < 0 ? NULL : &hosts.items[cases[i].frozen]);
        lks_text_release(&look.on);
        lks_hosts_release(&hosts);
    }
}
END_TEST

/* One slow step does not make the steps slow. */
START_TEST(test_pace)
{
    lks_pace pace = {0};
    ck_assert(lks_pace_usual(&pace) == 0);
    lks_pace_add(&pace, 40);
    lks_pace_add(&pace, 0.5);
    ck_assert(lks_pace_usual(&pace) <= 0.5);
    for (int i = 0; i < 100; ++i) {
        lks_pace_add(&pace, i % 4 == 3 ? 9 : 1);
        ck_assert(lks_pace_usual(&pace) <= 1);
    }
    ck_assert(pace.longest > 1 && pace.longest < 40);
    for (int i = 0; i < LKS_PACE_RECENT; ++i)
        lks_pace_add(&pace, 60);
    ck_assert(lks_pace_usual(&pace) >= 60 && pace.longest >= 60);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("launch");
    TCase *tests = tcase_create("read");
    tcase_add_test(tests, test_hostfile);
    tcase_add_test(tests, test_hostfile_bad);
    tcase_add_test(tests, test_slurm);
    tcase_add_test(tests, test_slurm_bad);
    tcase_add_test(tests, test_report);
    tcase_add_test(tests, test_look);
    tcase_add_test(tests, test_pace);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
