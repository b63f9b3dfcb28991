/* Flat memory on the cuda device, element for element: the bits of the cpu device's updates, whatever the
 * alignment; sums over several blocks with partial sums that begin elsewhere; and a norm that does not
 * depend on how many partial sums there were. And what becomes of pinned memory in a child. */
#include "kernels/device.h"

#include "runtime/base/memory.h"
#include "runtime/base/rng.h"

#include <check.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { ELEMENTS = 5003, ARRAYS = 4, LANES = 24, FLAT = 70000 };

static lks_device *open_device(const char *name)
{
    lks_device *device = NULL;
    ck_assert_msg(lks_device_open(&device, name, 0) == LKS_OK, "%s", lks_status_message());
    return device;
}

static void hold(lks_status status)
{
    ck_assert_msg(status == LKS_OK, "%s", lks_status_message());
}

static float *to_device(lks_device *device, const float *host, size_t count)
{
    void *memory = NULL;
    hold(lks_device_allocate(device, count * sizeof *host, &memory));
    hold(lks_device_copy_in(device, memory, host, count * sizeof *host));
    return memory;
}

static void fill(float *out, size_t count, uint32_t number)
{
    lks_rng_normal(lks_rng_key(3, LKS_RNG_TEST, number), 0, count, out);
}

/* --- Updates -------------------------------------------------------------------- */

static const lks_update updates[] = {
    {.rule = LKS_UPDATE_SGD, .gradient_scale = 0.3f, .lr = 0.01f, .weight_decay = 0.1f},
    {.rule = LKS_UPDATE_SGD,
     .gradient_scale = 0.3f,
     .lr = 0.01f,
     .momentum = 0.9f,
     .first_step = true},
    {.rule = LKS_UPDATE_SGD,
     .gradient_scale = 1.7f,
     .lr = 0.01f,
     .weight_decay = 0.1f,
     .momentum = 0.9f,
     .nesterov = true},
    {.rule = LKS_UPDATE_ADAM,
     .gradient_scale = 0.3f,
     .lr = 0.01f,
     .weight_decay = 0.1f,
     .beta1 = 0.9,
     .beta2 = 0.95,
     .epsilon = 1e-8f,
     .correction1 = 0.1f,
     .correction2 = 0.05f,
     .decoupled = true},
    {.rule = LKS_UPDATE_ADAM,
     .gradient_scale = 0.3f,
     .lr = 0.01f,
     .weight_decay = 0.1f,
     .beta1 = 0.9,
     .beta2 = 0.999,
     .epsilon = 1e-6f,
     .correction1 = 0.5f,
     .correction2 = 0.7f},
    {.rule = LKS_UPDATE_AVERAGE, .gradient_scale = 0.25f, .momentum = 0.1f},
};
enum { UPDATES = sizeof updates / sizeof *updates };

/* Arrays: gradient, parameter, state0, state1 (not negative); all begin `shift` elements into their memory. */
static void update_on(const char *name, const lks_update *update, uint32_t shift,
                      float (*out)[ELEMENTS])
{
    lks_device *device = open_device(name);
    float *memory[ARRAYS];
    for (uint32_t i = 0; i < ARRAYS; ++i) {
        fill(out[i], ELEMENTS, i);
        for (int j = 0; i == 3 && j < ELEMENTS; ++j)
            out[i][j] *= out[i][j];
        memory[i] = to_device(device, out[i], ELEMENTS);
    }
    /* Two blocks of the flat arrays; states begin where the first does. */
    const lks_layout_block cut[] = {{0, shift, 1000},
                                    {1, shift + 1008, ELEMENTS - 1008 - (uint32_t)shift}};
    lks_layout_block *listed = NULL;
    hold(lks_device_allocate(device, sizeof cut, (void **)&listed));
    hold(lks_device_copy_in(device, listed, cut, sizeof cut));
    const lks_update_blocks what = {
        listed, cut, 2, memory[0], memory[1], {memory[2] + shift, memory[3] + shift}, shift};
    hold(lks_device_update(device, update, &what));
    hold(lks_device_synchronize(device));
    lks_device_free(device, listed, sizeof cut);
    for (int i = 0; i < ARRAYS; ++i) {
        hold(lks_device_copy_out(device, out[i], memory[i], sizeof out[i]));
        lks_device_free(device, memory[i], sizeof out[i]);
    }
    lks_device_close(device);
}

static float on_cpu[ARRAYS][ELEMENTS], on_cuda[ARRAYS][ELEMENTS];

START_TEST(test_update_bits)
{
    const lks_update *update = &updates[_i / 2];
    uint32_t shift = (uint32_t)(_i % 2); /* whole 16 bytes, and not */
    update_on("cpu", update, shift, on_cpu);
    update_on("cuda", update, shift, on_cuda);
    for (int i = 0; i < ARRAYS; ++i)
        for (int j = 0; j < ELEMENTS; ++j)
            if (memcmp(&on_cpu[i][j], &on_cuda[i][j], sizeof(float)) != 0)
                ck_abort_msg("rule %d, shift %u: array %d[%d] is %a on the cpu, %a on cuda",
                             (int)update->rule, shift, i, j, (double)on_cpu[i][j],
                             (double)on_cuda[i][j]);
}
END_TEST

/* --- Sums ----------------------------------------------------------------------- */

static const lks_layout_block blocks[] = {
    {0, 0, 65536}, {0, 65536, 400}, {1, 65952, 17}, {2, 66000, 3001}};
enum { BLOCKS = sizeof blocks / sizeof *blocks };

typedef struct sum_result {
    float out[FLAT];
    double squares[BLOCKS];
} sum_result;

/* Leaves of one lane each for `lanes` lanes; leaf i begins at element i of the flat array where `early`, at
 * block 0 otherwise. */
static void sum_on(lks_device *device, int lanes, bool early, sum_result *result)
{
    static float host[LANES][FLAT];
    float *memory[LANES], *out = to_device(device, result->out, FLAT);
    double *squares = NULL;
    lks_layout_block *listed = NULL;
    lks_partial partials[LANES];
    for (int i = 0; i < lanes; ++i) {
        fill(host[i], FLAT, (uint32_t)(10 + i));
        memory[i] = to_device(device, host[i], FLAT);
        uint64_t origin = early ? 65952 : 0;
        partials[i] = (lks_partial){i, i + 1, memory[i] + origin, origin};
    }
    hold(lks_device_allocate(device, sizeof result->squares, (void **)&squares));
    hold(lks_device_allocate(device, sizeof blocks, (void **)&listed));
    hold(lks_device_copy_in(device, listed, blocks, sizeof blocks));
    const lks_sum sum = {listed, blocks, BLOCKS, partials, lanes, lanes, out, squares};
    hold(lks_device_sum_blocks(device, &sum));
    hold(lks_device_copy_out(device, result->out, out, sizeof result->out));
    hold(lks_device_copy_out(device, result->squares, squares, sizeof result->squares));
    for (int i = 0; i < lanes; ++i)
        lks_device_free(device, memory[i], sizeof host[i]);
    lks_device_free(device, out, sizeof result->out);
    lks_device_free(device, squares, sizeof result->squares);
    lks_device_free(device, listed, sizeof blocks);
}

static sum_result summed[2], again;

START_TEST(test_sum_bits)
{
    static const int lanes[] = {1, 2, 3, 5, 8, 16, 17, 24};
    lks_device *cpu = open_device("cpu"), *cuda = open_device("cuda");
    sum_on(cpu, lanes[_i], _i % 2, &summed[0]);
    sum_on(cuda, lanes[_i], _i % 2, &summed[1]);
    ck_assert_msg(!memcmp(summed[0].out, summed[1].out, sizeof summed[0].out), "%d lanes",
                  lanes[_i]);
    for (int i = 0; i < BLOCKS; ++i)
        ck_assert_double_eq_tol(summed[0].squares[i], summed[1].squares[i],
                                1e-12 * summed[0].squares[i]);
    lks_device_close(cpu);
    lks_device_close(cuda);
}
END_TEST

/* The norm of one and the same array, given as one partial sum and as the sum of it and of zeros. */
START_TEST(test_norm_bits)
{
    lks_device *device = open_device("cuda");
    static float host[FLAT], zeros[FLAT];
    fill(host, FLAT, 99);
    for (int lanes = 1; lanes <= LANES; lanes += 23) {
        float *out = to_device(device, zeros, FLAT), *data = to_device(device, host, FLAT);
        float *nothing = to_device(device, zeros, FLAT);
        double *squares = NULL;
        lks_layout_block *listed = NULL;
        lks_partial partials[LANES];
        for (int i = 0; i < lanes; ++i)
            partials[i] = (lks_partial){i, i + 1, i ? nothing : data, 0};
        hold(lks_device_allocate(device, sizeof again.squares, (void **)&squares));
        hold(lks_device_allocate(device, sizeof blocks, (void **)&listed));
        hold(lks_device_copy_in(device, listed, blocks, sizeof blocks));
        const lks_sum sum = {listed, blocks, BLOCKS, partials, lanes, lanes, out, squares};
        hold(lks_device_sum_blocks(device, &sum));
        hold(lks_device_copy_out(device, again.squares, squares, sizeof again.squares));
        if (lanes == 1)
            memcpy(summed[0].squares, again.squares, sizeof again.squares);
        ck_assert(!memcmp(summed[0].squares, again.squares, sizeof again.squares));
        lks_device_free(device, out, sizeof zeros);
        lks_device_free(device, data, sizeof host);
        lks_device_free(device, nothing, sizeof zeros);
        lks_device_free(device, squares, sizeof again.squares);
        lks_device_free(device, listed, sizeof blocks);
    }
    lks_device_close(device);
}
END_TEST

/* How a child ends that reads a byte there: 0 when it could, or its signal. */
static int read_in_child(const volatile char *memory)
{
    int status = 0;
    pid_t child = fork();
    ck_assert_int_ge(child, 0);
    if (child == 0) {
        signal(SIGSEGV, SIG_DFL);
        (void)*memory;
        _exit(0);
    }
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    return WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status);
}

START_TEST(test_pinned_memory_stays)
{
    enum { BYTES = 5000 };
    lks_device *device = open_device("cuda");
    void *memory = NULL;
    hold(lks_memory_map(&memory, BYTES));
    hold(lks_device_pin(device, memory, BYTES));
    ck_assert_int_eq(read_in_child(memory), SIGSEGV);
    lks_device_unpin(device, memory, BYTES);
    ck_assert_int_eq(read_in_child(memory), 0);
    lks_memory_unmap(memory, BYTES);
    lks_device_close(device);
}
END_TEST

static bool cpu_fuses(void)
{
    lks_device *cpu = NULL;
    if (lks_device_open(&cpu, "cpu", 0) != LKS_OK)
        return true; /* the tests will say why */
    bool fuses = !strstr(lks_device_arithmetic(cpu), "baseline");
    lks_device_close(cpu);
    return fuses;
}

int main(void)
{
    Suite *suite = suite_create("flat bits");
    TCase *all = tcase_create("flat bits");
    tcase_set_timeout(all, 120);
    if (cpu_fuses()) /* a processor without fused multiply-add has other bits */
        tcase_add_loop_test(all, test_update_bits, 0, 2 * UPDATES);
    tcase_add_loop_test(all, test_sum_bits, 0, 8);
    tcase_add_test(all, test_norm_bits);
    tcase_add_test(all, test_pinned_memory_stays);
    suite_add_tcase(suite, all);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
