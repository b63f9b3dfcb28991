/* The emulator finds what it says it finds: sound kernels run, and each planted fault is named. */
#include <lks_target.cuh>
#include <signal.h>
#include <stdlib.h>
#include <string>

#include "block.h"

#include <check.h> /* after the C++ library: it defines `fail` */

namespace
{

/* --- Kernels --------------------------------------------------------------------- */

enum { FAULT_NONE, FAULT_BARRIER, FAULT_WARP };

/* y[block] = sum of x[block * threads + thread], by shuffles and then through shared memory. */
template <int Fault> __global__ void sum_block(const int *x, int *y)
{
    __shared__ int parts[32];
    LKS_DYNAMIC_SHARED(int, all);
    int thread = (int)threadIdx.x, sum = 0;
    all[thread] = x[blockIdx.x * blockDim.x + threadIdx.x];
    if (Fault != FAULT_WARP)
        __syncwarp();
    sum = all[thread ^ 1] + all[thread];
    for (int offset = 2; offset < 32; offset *= 2)
        sum += __shfl_xor_sync(0xffffffffu, sum, offset);
    if (thread % 32 == 0)
        parts[thread / 32] = sum;
    if (Fault != FAULT_BARRIER)
        __syncthreads();
    if (thread == 0) {
        int total = 0;
        for (int i = 0; i < (int)blockDim.x / 32; ++i)
            total += parts[i];
        y[blockIdx.x] = total;
    }
}

__global__ void write_at(float *y, int64_t at)
{
    if (threadIdx.x == 7)
        y[at] = 1;
}

__global__ void read_at(const float *x, int64_t at, float *y)
{
    y[threadIdx.x] = x[at];
}

__global__ void read_four_at(const float *x, int64_t at, float *y)
{
    float4 four = *reinterpret_cast<const float4 *>(x + at);
    y[threadIdx.x] = four.x + four.y + four.z + four.w;
}

__global__ void stay_away(int *y)
{
    if (threadIdx.x % 64 < 40)
        __syncthreads();
    y[threadIdx.x] = 1;
}

__global__ void leave_early(int *y)
{
    if (threadIdx.x == 5)
        return;
    __syncthreads();
    y[threadIdx.x] = 1;
}

__global__ void shuffle_apart(int *y)
{
    int value = (int)threadIdx.x;
    if (threadIdx.x != 9)
        value = __shfl_down_sync(0xffffffffu, value, 1);
    else
        __syncwarp();
    y[threadIdx.x] = value;
}

__global__ void ask_outsider(int *y)
{
    if (threadIdx.x < 8)
        y[threadIdx.x] = __shfl_sync(0xffu, (int)threadIdx.x, 8);
}

/* Blocks that add to one number one after the other: the result is their order's. */
__global__ void add_floats(float *sum)
{
    if (threadIdx.x == 0)
        *sum = *sum + 1.0f / (float)(blockIdx.x + 1);
}

__global__ void count_all(unsigned *count)
{
    atomicAdd(count, 1u);
}

__global__ void write_past_shared(int *y, int count)
{
    LKS_DYNAMIC_SHARED(int, all);
    all[count] = 1;
    __syncthreads();
    y[threadIdx.x] = all[0];
}

/* Two stages: what was copied is used after its wait. */
template <bool Waits> __global__ void copy_around(const uint32_t *x, uint32_t *y)
{
    LKS_DYNAMIC_SHARED(uint32_t, all);
    int thread = (int)threadIdx.x;
    lks_copy16(all + 4 * thread, x + 4 * thread, thread != 3);
    lks_copy_commit();
    if (Waits)
        lks_copy_wait<0>();
    for (int i = 0; i < 4; ++i)
        y[4 * thread + i] = all[4 * thread + i];
}

uint16_t half_of(float x)
{
    return (uint16_t)(lks_pack_bf16(x, 0) & 0xffff);
}

/* c = a b of 16 x 16 and 16 x 8, by way of shared memory; `b` is n x k or, transposed, k x n, 16 x 16. */
__global__ void multiply_tiles(const uint16_t *a, const uint16_t *b, float *c, bool transposed)
{
    __shared__ __align__(16) uint16_t left[16][16];
    __shared__ __align__(16) uint16_t right[16][16];
    int lane = (int)threadIdx.x;
    for (int i = lane; i < 256; i += 32) {
        left[i / 16][i % 16] = a[i];
        right[i / 16][i % 16] = b[i];
    }
    __syncwarp();
    uint32_t x[4], y[4];
    float d[4] = {0, 0, 0, 0};
    lks_load_matrices(x, &left[lane % 16][lane / 16 * 8]);
    if (transposed) /* `right` is k x n: matrices 0 and 1 are the two halves of k */
        lks_load_matrices_transposed(y, &right[lane % 16][lane / 16 * 8]);
    else /* `right` is n x k */
        lks_load_matrices(y, &right[lane % 8 + lane / 16 * 8][lane / 8 % 2 * 8]);
    lks_mma_bf16(d, x, y);
    for (int i = 0; i < 4; ++i)
        c[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = d[i];
}

/* --- What the tests share --------------------------------------------------------- */

template <typename T> T *device_array(size_t count)
{
    void *memory = nullptr;
    ck_assert_int_eq(cudaMalloc(&memory, count * sizeof(T)), cudaSuccess);
    return static_cast<T *>(memory);
}

template <typename T> void upload(T *to, const T *from, size_t count)
{
    ck_assert_int_eq(cudaMemcpy(to, from, count * sizeof(T), cudaMemcpyHostToDevice), cudaSuccess);
}

template <typename T> void download(T *to, const T *from, size_t count)
{
    cudaError_t error = cudaMemcpy(to, from, count * sizeof(T), cudaMemcpyDeviceToHost);
    ck_assert_msg(error == cudaSuccess, "%s", cudaGetErrorString(error));
}

/* The device has failed, and says all of `words`. */
void expect_fault(std::initializer_list<const char *> words)
{
    ck_assert_int_eq(cudaDeviceSynchronize(), cudaErrorLaunchFailure);
    std::string text = cudaGetErrorString(cudaErrorLaunchFailure);
    for (const char *word : words)
        ck_assert_msg(text.find(word) != std::string::npos, "\"%s\" does not say \"%s\"",
                      text.c_str(), word);
    ck_assert_int_eq(cudaGetLastError(), cudaErrorLaunchFailure);
    ck_assert_int_eq(cudaGetLastError(), cudaErrorLaunchFailure); /* it stays */
}

void expect_sound()
{
    cudaError_t error = cudaDeviceSynchronize();
    ck_assert_msg(error == cudaSuccess, "%s", cudaGetErrorString(error));
}

template <int Fault> void run_sum(int *found)
{
    int numbers[512];
    int *x = device_array<int>(512), *y = device_array<int>(4);
    for (int i = 0; i < 512; ++i)
        numbers[i] = i * i;
    upload(x, numbers, 512);
    LKS_LAUNCH(sum_block<Fault>, 4, 128, 128 * sizeof(int), nullptr, x, y);
    if (Fault == FAULT_NONE)
        download(found, y, 4);
}

} // namespace

/* --- Tests -------------------------------------------------------------------------- */

START_TEST(test_sound)
{
    int found[4];
    run_sum<FAULT_NONE>(found);
    for (int block = 0; block < 4; ++block) {
        int wanted = 0;
        for (int i = 0; i < 128; ++i)
            wanted += (128 * block + i) * (128 * block + i);
        ck_assert_int_eq(found[block], wanted);
    }
    unsigned *count = device_array<unsigned>(1), all = 0;
    upload(count, &all, 1);
    LKS_LAUNCH(count_all, 5, 96, 0, nullptr, count);
    download(&all, count, 1);
    ck_assert_uint_eq(all, 480);
}
END_TEST

START_TEST(test_missing_barrier)
{
    run_sum<FAULT_BARRIER>(nullptr);
    expect_fault({"sum_block<Fault>", "self_test.cu", "race"});
}
END_TEST

START_TEST(test_missing_syncwarp)
{
    run_sum<FAULT_WARP>(nullptr);
    expect_fault({"sum_block<Fault>", "race"});
}
END_TEST

START_TEST(test_out_of_bounds)
{
    float *y = device_array<float>(100), *z = device_array<float>(100);
    switch (_i) {
    case 0:
        LKS_LAUNCH(write_at, 1, 32, 0, nullptr, y, (int64_t)100);
        return expect_fault({"write_at", "thread (7, 0, 0)", "writes 4 bytes", "0 bytes after"});
    case 1:
        LKS_LAUNCH(write_at, 1, 32, 0, nullptr, y, (int64_t)-1);
        return expect_fault({"write_at", "writes 4 bytes"});
    case 2:
        LKS_LAUNCH(read_at, 1, 32, 0, nullptr, y, (int64_t)103, z);
        return expect_fault({"read_at", "reads 4 bytes", "12 bytes after the end"});
    case 3:
        cudaFree(y);
        LKS_LAUNCH(write_at, 1, 32, 0, nullptr, y, (int64_t)0);
        return expect_fault({"write_at", "writes 4 bytes"});
    default:
        float *host = static_cast<float *>(malloc(sizeof *host));
        LKS_LAUNCH(write_at, 1, 32, 0, nullptr, host, (int64_t)0);
        expect_fault({"write_at", "neither device memory nor pinned"});
        free(host);
    }
}
END_TEST

START_TEST(test_misaligned)
{
    float *x = device_array<float>(16), *y = device_array<float>(32);
    float zeros[16] = {};
    upload(x, zeros, 16);
    LKS_LAUNCH(read_four_at, 1, 32, 0, nullptr, x, (int64_t)4, y);
    expect_sound();
    LKS_LAUNCH(read_four_at, 1, 32, 0, nullptr, x, (int64_t)2, y);
    expect_fault({"read_four_at", "self_test.cu", "not 16-byte aligned"});
}
END_TEST

START_TEST(test_standstill)
{
    int *y = device_array<int>(128);
    if (_i == 0) {
        LKS_LAUNCH(stay_away, 1, 128, 0, nullptr, y);
        expect_fault({"stay_away", "waits at __syncthreads for thread (", "which has ended"});
    } else {
        LKS_LAUNCH(leave_early, 1, 128, 0, nullptr, y);
        expect_fault({"leave_early", "for thread (5, 0, 0), which has ended"});
    }
}
END_TEST

START_TEST(test_divergent_shuffle)
{
    int *y = device_array<int>(32);
    if (_i == 0) {
        LKS_LAUNCH(shuffle_apart, 1, 32, 0, nullptr, y);
        expect_fault({"shuffle_apart", "__shfl_down_sync", "__syncwarp"});
    } else {
        LKS_LAUNCH(ask_outsider, 1, 32, 0, nullptr, y);
        expect_fault({"ask_outsider", "does not take part"});
    }
}
END_TEST

START_TEST(test_float_race)
{
    float *sum = device_array<float>(1), zero = 0;
    upload(sum, &zero, 1);
    LKS_LAUNCH(add_floats, 7, 32, 0, nullptr, sum);
    expect_fault({"add_floats", "race", "another block"});
}
END_TEST

START_TEST(test_shared_limits)
{
    int *y = device_array<int>(32);
    LKS_LAUNCH(write_past_shared, 1, 32, 49156, nullptr, y, 0);
    ck_assert_int_eq(cudaGetLastError(), cudaErrorInvalidConfiguration);
    const void *kernel = reinterpret_cast<const void *>(write_past_shared);
    ck_assert_int_eq(
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, 300 << 10),
        cudaErrorInvalidValue);
    (void)cudaGetLastError();
    LKS_LAUNCH(write_past_shared, 1, 1056, 4, nullptr, y, 0);
    ck_assert_int_eq(cudaGetLastError(), cudaErrorInvalidConfiguration);
    LKS_LAUNCH(write_past_shared, 1, 1, 48, nullptr, y, 12);
    expect_fault({"write_past_shared"});
}
END_TEST

START_TEST(test_background_copies)
{
    uint32_t numbers[128], found[128];
    uint32_t *x = device_array<uint32_t>(128), *y = device_array<uint32_t>(128);
    for (uint32_t i = 0; i < 128; ++i)
        numbers[i] = i + 1;
    upload(x, numbers, 128);
    LKS_LAUNCH(copy_around<true>, 1, 32, 512, nullptr, x, y);
    download(found, y, 128);
    for (uint32_t i = 0; i < 128; ++i)
        ck_assert_uint_eq(found[i], i / 4 == 3 ? 0 : i + 1);
    LKS_LAUNCH(copy_around<false>, 1, 32, 512, nullptr, x, y);
    download(found, y, 128);
    for (uint32_t i = 0; i < 128; ++i)
        ck_assert_uint_eq(found[i], UINT32_MAX); /* nothing has come yet */
}
END_TEST

START_TEST(test_tensor_cores)
{
    uint16_t a[256], b[256];
    float found[128];
    for (int i = 0; i < 256; ++i) {
        a[i] = half_of((float)(i % 7 - 3));
        b[i] = half_of((float)(i % 5 - 2));
    }
    uint16_t *x = device_array<uint16_t>(256), *y = device_array<uint16_t>(256);
    float *z = device_array<float>(128);
    upload(x, a, 256);
    upload(y, b, 256);
    bool transposed = _i;
    LKS_LAUNCH(multiply_tiles, 1, 32, 0, nullptr, x, y, z, transposed);
    download(found, z, 128);
    for (int row = 0; row < 16; ++row)
        for (int column = 0; column < 8; ++column) {
            int wanted = 0;
            for (int k = 0; k < 16; ++k) {
                int other = transposed ? 16 * k + column : 16 * column + k;
                wanted += ((16 * row + k) % 7 - 3) * (other % 5 - 2);
            }
            ck_assert_msg((int)found[8 * row + column] == wanted, "%d, %d: found %g, wanted %d",
                          row, column, (double)found[8 * row + column], wanted);
        }
}
END_TEST

/* Without the event the copy out may come first; with it, never. */
START_TEST(test_streams)
{
    cudaStream_t one, other;
    cudaEvent_t written;
    int *count = device_array<int>(1), *pinned = nullptr;
    cudaStreamCreateWithFlags(&one, cudaStreamNonBlocking);
    cudaStreamCreateWithFlags(&other, cudaStreamNonBlocking);
    cudaEventCreateWithFlags(&written, cudaEventDisableTiming);
    cudaHostAlloc(reinterpret_cast<void **>(&pinned), sizeof *pinned, 0);
    int early = 0;
    for (int attempt = 0; attempt < 64; ++attempt) {
        bool ordered = attempt % 2;
        cudaMemset(count, 0, sizeof *count);
        cudaMemsetAsync(count, 1, sizeof *count, one);
        cudaEventRecord(written, one);
        if (ordered)
            cudaStreamWaitEvent(other, written, 0);
        cudaMemcpyAsync(pinned, count, sizeof *pinned, cudaMemcpyDeviceToHost, other);
        expect_sound();
        ck_assert(!ordered || *pinned == 0x01010101);
        early += *pinned == 0;
    }
    ck_assert_int_gt(early, 0);
}
END_TEST

START_TEST(test_graph)
{
    cudaStream_t stream;
    cudaGraph_t graph;
    cudaGraphExec_t program;
    unsigned *count = device_array<unsigned>(1), all = 0;
    upload(count, &all, 1);
    cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
    cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal);
    LKS_LAUNCH(count_all, 2, 32, 0, stream, count);
    LKS_LAUNCH(count_all, 1, 32, 0, stream, count);
    ck_assert_int_eq(cudaStreamEndCapture(stream, &graph), cudaSuccess);
    ck_assert_int_eq(cudaGraphInstantiate(&program, graph, 0), cudaSuccess);
    cudaGraphDestroy(graph);
    for (int i = 0; i < 3; ++i)
        ck_assert_int_eq(cudaGraphLaunch(program, stream), cudaSuccess);
    cudaGraphExecDestroy(program);
    cudaStreamSynchronize(stream);
    download(&all, count, 1);
    ck_assert_uint_eq(all, 3 * 96);
}
END_TEST

/* What a capture does not allow: it comes to nothing. */
START_TEST(test_refused_captures)
{
    cudaStream_t stream;
    cudaEvent_t before, during;
    cudaGraph_t graph;
    void *memory = nullptr;
    cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
    cudaEventCreateWithFlags(&before, cudaEventDisableTiming);
    cudaEventCreateWithFlags(&during, cudaEventDisableTiming);
    cudaEventRecord(before, stream);
    bool relaxed = _i == 4;
    cudaStreamBeginCapture(stream, relaxed ? cudaStreamCaptureModeRelaxed
                                           : cudaStreamCaptureModeThreadLocal);
    switch (_i) {
    case 0:
        ck_assert_int_eq(cudaStreamSynchronize(stream), cudaErrorStreamCaptureUnsupported);
        break;
    case 1:
        ck_assert_int_eq(cudaStreamWaitEvent(stream, before, 0), cudaErrorStreamCaptureIsolation);
        break;
    case 2:
        cudaEventRecord(during, stream);
        ck_assert_int_eq(cudaEventQuery(during), cudaErrorCapturedEvent);
        break;
    case 3:
        ck_assert_int_eq(cudaMalloc(&memory, 8), cudaErrorStreamCaptureUnsupported);
        break;
    default:
        ck_assert_int_eq(cudaMalloc(&memory, 8), cudaSuccess);
    }
    ck_assert_int_eq(cudaStreamEndCapture(stream, &graph),
                     relaxed ? cudaSuccess : cudaErrorStreamCaptureInvalidated);
    ck_assert(relaxed == (graph != nullptr));
    if (graph != nullptr)
        cudaGraphDestroy(graph);
    cudaEventDestroy(before);
    cudaEventDestroy(during);
    cudaStreamDestroy(stream);
}
END_TEST

/* The host cannot touch device memory. */
START_TEST(test_out_of_reach)
{
    volatile float *y = device_array<float>(4);
    signal(SIGSEGV, SIG_DFL); /* a sanitizer has a handler of its own */
    y[1] = 2;
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("emulation");
    TCase *all = tcase_create("emulation");
    tcase_set_timeout(all, 60);
    tcase_add_test(all, test_sound);
    tcase_add_test(all, test_missing_barrier);
    tcase_add_test(all, test_missing_syncwarp);
    tcase_add_loop_test(all, test_out_of_bounds, 0, 5);
    tcase_add_test(all, test_misaligned);
    tcase_add_loop_test(all, test_standstill, 0, 2);
    tcase_add_loop_test(all, test_divergent_shuffle, 0, 2);
    tcase_add_test(all, test_float_race);
    tcase_add_test(all, test_shared_limits);
    tcase_add_test(all, test_background_copies);
    tcase_add_loop_test(all, test_tensor_cores, 0, 2);
    tcase_add_test(all, test_streams);
    tcase_add_test(all, test_graph);
    tcase_add_loop_test(all, test_refused_captures, 0, 5);
    tcase_add_test_raise_signal(all, test_out_of_reach, SIGSEGV);
    suite_add_tcase(suite, all);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
