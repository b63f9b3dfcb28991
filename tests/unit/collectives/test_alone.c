/* What needs no second rank: the lane tree, and how a comm is chosen. */
#include "collectives/comm.h"
#include "collectives/lane_tree.h"
#include "collectives/reducer.h"
#include "runtime/base/rng.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

enum { ELEMENTS = 7, LANES_MAX = 17 };

/* Magnitudes far apart, so that the order of a sum shows in its bits. */
static void lane_values(int lanes, int lane, float out[ELEMENTS])
{
    uint64_t key = lks_rng_key((uint64_t)lanes, LKS_RNG_TEST, 1);
    for (int i = 0; i < ELEMENTS; ++i) {
        lks_rng_block words = lks_rng_words(key, (uint64_t)lane, (uint64_t)i);
        float scale = (float)(1 << words.word[1] % 20);
        out[i] = (lks_rng_uniform(words.word[0]) - 0.5f) * scale;
    }
}

static int largest_power_below(int length)
{
    int power = 1;
    for (int next = 1; next < length; next *= 2)
        power = next;
    return power;
}

static void tree_by_definition(int lanes, int a, int b, float out[ELEMENTS])
{
    if (b - a == 1) {
        lane_values(lanes, a, out);
        return;
    }
    int m = a + largest_power_below(b - a);
    float left[ELEMENTS], right[ELEMENTS];
    tree_by_definition(lanes, a, m, left);
    tree_by_definition(lanes, m, b, right);
    for (int i = 0; i < ELEMENTS; ++i)
        out[i] = left[i] + right[i];
}

static bool node_by_definition(int a, int b, int first, int end)
{
    if (a == first && b == end)
        return true;
    if (b - a <= 1)
        return false;
    int m = a + largest_power_below(b - a);
    return node_by_definition(a, m, first, end) || node_by_definition(m, b, first, end);
}

START_TEST(test_nodes)
{
    for (int lanes = 1; lanes <= 40; ++lanes)
        for (int first = 0; first < lanes; ++first)
            for (int end = first + 1; end <= lanes; ++end)
                ck_assert_msg(lks_lane_is_node(lanes, first, end) ==
                                  node_by_definition(0, lanes, first, end),
                              "lanes %d span [%d, %d)", lanes, first, end);
}
END_TEST

/* One rank's work as the reducer does it; returns its partials, at most LANES_MAX. */
static int run_rank(lks_device *device, int lanes, int first, int end,
                    float arrays[LANES_MAX][ELEMENTS], lks_partial *partials)
{
    int levels = lks_lane_levels(lanes, first, end);
    lks_lane_stack stack = {0}, expected;
    for (int lane = first; lane < end; ++lane) {
        ck_assert_int_lt(stack.count, levels);
        lane_values(lanes, lane, arrays[stack.count]);
        lks_lane_push(&stack, lane);
        while (lane + 1 < end && lks_lane_fold(&stack, lanes))
            ck_assert_int_eq(
                lks_device_add(device, ELEMENTS, arrays[stack.count], arrays[stack.count - 1]),
                LKS_OK);
    }
    lks_lane_partials(lanes, first, end, &expected);
    ck_assert_int_eq(stack.count, expected.count);
    for (int i = 0; i < stack.count; ++i) {
        lks_lane_span span = stack.spans[i];
        ck_assert_int_eq(span.first, expected.spans[i].first);
        ck_assert_int_eq(span.end, expected.spans[i].end);
        ck_assert(node_by_definition(0, lanes, span.first, span.end));
        partials[i] = (lks_partial){span.first, span.end, arrays[i], 0};
    }
    return stack.count;
}

static void check_world(lks_device *device, int lanes, int size)
{
    static _Thread_local float arrays[LANES_MAX][LANES_MAX][ELEMENTS];
    lks_partial partials[LANES_MAX];
    int count = 0;
    for (int r = 0; r < size; ++r) {
        int first = 0, end = 0;
        lks_lanes_of(lanes, r, size, &first, &end);
        ck_assert_int_lt(first, end);
        ck_assert_int_eq(first, count ? partials[count - 1].end_lane : 0);
        count += run_rank(device, lanes, first, end, arrays[r], partials + count);
        ck_assert_int_eq(partials[count - 1].end_lane, end);
    }
    float sum[ELEMENTS], wanted[ELEMENTS];
    const lks_layout_block whole = {.elements = ELEMENTS};
    const lks_sum call = {&whole, &whole, 1, partials, count, lanes, sum, NULL};
    ck_assert_int_eq(lks_device_sum_blocks(device, &call), LKS_OK);
    tree_by_definition(lanes, 0, lanes, wanted);
    ck_assert_msg(memcmp(sum, wanted, sizeof sum) == 0, "lanes %d, ranks %d", lanes, size);
}

START_TEST(test_tree_is_the_same_for_any_world)
{
    lks_device *device = NULL;
    ck_assert_int_eq(lks_device_open(&device, "cpu", 0), LKS_OK);
    for (int lanes = 1; lanes <= LANES_MAX; ++lanes)
        for (int size = 1; size <= lanes; ++size)
            check_world(device, lanes, size);
    lks_device_close(device);
}
END_TEST

/* The values do tell one order from another, or the test above would prove nothing. */
START_TEST(test_order_shows)
{
    int differing = 0;
    for (int lanes = 3; lanes <= LANES_MAX; ++lanes) {
        float tree[ELEMENTS], line[ELEMENTS], lane_value[ELEMENTS];
        tree_by_definition(lanes, 0, lanes, tree);
        lane_values(lanes, 0, line);
        for (int lane = 1; lane < lanes; ++lane) {
            lane_values(lanes, lane, lane_value);
            for (int i = 0; i < ELEMENTS; ++i)
                line[i] += lane_value[i];
        }
        differing += memcmp(tree, line, sizeof tree) != 0;
    }
    ck_assert_int_gt(differing, 10);
}
END_TEST

START_TEST(test_levels)
{
    ck_assert_int_eq(lks_lane_levels(8, 0, 8), 4); /* 0-3, 4-5, 6, 7 */
    ck_assert_int_eq(lks_lane_levels(8, 3, 4), 1);
    ck_assert_int_eq(lks_lane_levels(9, 0, 9), 4); /* at lane 7; ends as 0-7, 8 */
    lks_lane_stack stack;
    lks_lane_partials(9, 0, 9, &stack);
    ck_assert_int_eq(stack.count, 2);
    for (int lanes = 1; lanes < 3000; lanes += 7)
        ck_assert_int_lt(lks_lane_levels(lanes, lanes / 3, lanes), LKS_LANE_SPANS_MAX);
}
END_TEST

static void forget_launchers(void)
{
    static const char *const names[] = {"OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_RANK",
                                        "SLURM_PROCID", "SLURM_STEP_NUM_TASKS"};
    for (size_t i = 0; i < sizeof names / sizeof *names; ++i)
        unsetenv(names[i]);
}

START_TEST(test_alone_is_self)
{
    forget_launchers();
    setenv("SLURM_PROCID", "0", 1); /* as in a batch script: no srun */
    lks_comm *comm = NULL;
    ck_assert_int_eq(lks_comm_open(&comm, "auto"), LKS_OK);
    ck_assert_str_eq(lks_comm_about(comm), "self");
    ck_assert_int_eq(lks_comm_rank(comm), 0);
    ck_assert_int_eq(lks_comm_size(comm), 1);
    ck_assert_int_eq(lks_comm_node_count(comm), 1);
    ck_assert_int_eq(lks_comm_local_size(comm), 1);
    ck_assert_int_gt((int)strlen(lks_comm_host(comm, 0)), 0);
    int value = 3, copy = 0;
    size_t counts[] = {sizeof value};
    ck_assert_int_eq(lks_comm_all_gather(comm, &value, &copy, counts), LKS_OK);
    ck_assert_int_eq(copy, 3);
    ck_assert_int_eq(lks_comm_agree(comm, LKS_ERR_IO), LKS_ERR_IO);
    lks_comm_request *request = NULL;
    int64_t max = 0;
    ck_assert_int_eq(lks_comm_max_start(comm, -5, &request), LKS_OK);
    ck_assert_int_eq(lks_comm_wait(comm, &request, &max), LKS_OK);
    ck_assert_int_eq(max, -5);
    ck_assert_ptr_null(request);
    ck_assert_int_eq(lks_comm_send(comm, 0, 1, &value, sizeof value, &request), LKS_ERR_INTERNAL);
    lks_comm_close(comm);
}
END_TEST

START_TEST(test_self_shares_with_itself)
{
    forget_launchers();
    lks_comm *comm = NULL;
    unsigned char *memory = NULL;
    size_t bytes = 100000;
    ck_assert_int_eq(lks_comm_open(&comm, "self"), LKS_OK);
    ck_assert_int_eq(lks_comm_share(comm, bytes, (void **)&memory), LKS_OK);
    for (size_t i = 0; i < bytes; ++i)
        ck_assert_int_eq(memory[i]++, 0);
    lks_comm_unshare(comm, memory, bytes);
    lks_comm_close(comm);
}
END_TEST

START_TEST(test_srun_without_pmix_is_refused)
{
    forget_launchers();
    setenv("SLURM_STEP_NUM_TASKS", "4", 1);
    setenv("SLURM_PROCID", "0", 1);
    lks_comm *comm = NULL;
    ck_assert_int_eq(lks_comm_open(&comm, "auto"), LKS_ERR_USAGE);
    ck_assert_ptr_nonnull(strstr(lks_status_message(), "srun started 4 tasks"));
    ck_assert_ptr_nonnull(strstr(lks_status_message(), "srun --mpi=pmix"));
    setenv("SLURM_PROCID", "2", 1); /* one line is enough */
    ck_assert_int_eq(lks_comm_open(&comm, "auto"), LKS_ERR_USAGE);
    ck_assert_str_eq(lks_status_message(), "");
    forget_launchers();
}
END_TEST

START_TEST(test_unknown_comm)
{
    lks_comm *comm = NULL;
    ck_assert_int_eq(lks_comm_open(&comm, "gloo"), LKS_ERR_USAGE);
    ck_assert_ptr_nonnull(strstr(lks_status_message(), "auto, mpi, self"));
}
END_TEST

int main(void)
{
    TCase *tree = tcase_create("lane tree"), *choice = tcase_create("comm");
    tcase_add_test(tree, test_nodes);
    tcase_add_test(tree, test_tree_is_the_same_for_any_world);
    tcase_add_test(tree, test_order_shows);
    tcase_add_test(tree, test_levels);
    tcase_add_test(choice, test_alone_is_self);
    tcase_add_test(choice, test_self_shares_with_itself);
    tcase_add_test(choice, test_srun_without_pmix_is_refused);
    tcase_add_test(choice, test_unknown_comm);
    Suite *suite = suite_create("collectives");
    suite_add_tcase(suite, tree);
    suite_add_tcase(suite, choice);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
