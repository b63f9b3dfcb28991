/* The cuda device: one GPU, one stream for kernels and copies, one for uploads beside them. */
#include "kernels/cuda/cuda.cuh"
#include "kernels/cuda/flat.h"
#include "kernels/cuda/products.h"

#include <nvtx3/nvToolsExt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

extern "C" {
#include "kernels/cuda_stream.h"
#include "runtime/base/text.h"
/* NULL-terminated; written by Meson. */
extern const lks_kernel_driver *const lks_cuda_kernels[];
}

#define CUDA_VERSION_TEXT(version) (version) / 1000, (version) % 1000 / 10

/* --- What is missing -------------------------------------------------------- */

static lks_status cuda_missing_driver(int driver)
{
    if (!driver)
        return LKS_FAIL(LKS_ERR_USAGE,
                        "device cuda: this machine has no NVIDIA driver (libcuda.so.1); install "
                        "one for CUDA %d.%d or newer, or set device.name to cpu",
                        CUDA_VERSION_TEXT(CUDART_VERSION));
    return LKS_FAIL(LKS_ERR_USAGE,
                    "device cuda: this machine's NVIDIA driver is for CUDA %d.%d, and this build "
                    "needs one for %d.%d; update the driver, or set device.name to cpu",
                    CUDA_VERSION_TEXT(driver), CUDA_VERSION_TEXT(CUDART_VERSION));
}

static lks_status cuda_missing_device(void)
{
    const char *visible = getenv("CUDA_VISIBLE_DEVICES");
    if (visible)
        return LKS_FAIL(LKS_ERR_USAGE,
                        "device cuda: CUDA_VISIBLE_DEVICES=%s leaves no device visible; unset it, "
                        "or set device.name to cpu",
                        visible);
    return LKS_FAIL(LKS_ERR_USAGE, "device cuda: the NVIDIA driver finds no device on this "
                                   "machine; set device.name to cpu");
}

static lks_status cuda_count(int *count)
{
    int driver = 0;
    cudaError_t error = cudaGetDeviceCount(count);
    if (error == cudaSuccess && *count > 0)
        return LKS_OK;
    (void)cudaGetLastError();
    if (cudaDriverGetVersion(&driver) != cudaSuccess)
        driver = 0;
    if (!driver || error == cudaErrorInsufficientDriver)
        return cuda_missing_driver(driver);
    if (error == cudaSuccess || error == cudaErrorNoDevice)
        return cuda_missing_device();
    return LKS_FAIL(LKS_ERR_USAGE,
                    "device cuda: the NVIDIA driver does not answer: %s (%s); see what nvidia-smi "
                    "says, or set device.name to cpu",
                    cudaGetErrorString(error), cudaGetErrorName(error));
}

static lks_status cuda_available(void)
{
    int count = 0;
    return cuda_count(&count);
}

/* --- For links ------------------------------------------------------------- */

void *lks_cuda_stream(const lks_device *device)
{
    return lks_cuda_of(device)->stream;
}

void *lks_cuda_use_stream(lks_device *device, void *stream)
{
    lks_cuda_device *cuda = lks_cuda_of(device);
    void *before = cuda->stream;
    cuda->stream = static_cast<cudaStream_t>(stream);
    return before;
}

const char *lks_cuda_uuid(const lks_device *device)
{
    return lks_cuda_of(device)->uuid;
}

/* --- Opening ---------------------------------------------------------------- */

static void cuda_write_uuid(char *out, size_t size, const cudaUUID_t *uuid)
{
    size_t at = (size_t)snprintf(out, size, "GPU-");
    for (size_t i = 0; i < sizeof uuid->bytes; ++i)
        at += (size_t)snprintf(out + at, size - at, "%s%02x",
                               i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "",
                               (unsigned char)uuid->bytes[i]);
}

/* The kernels of a device of major version 8 or 9 are in this build; those of later ones are made
 * by the driver, whose version then belongs to the arithmetic. */
static lks_status cuda_describe(lks_cuda_device *cuda, const cudaDeviceProp *properties)
{
    int driver = 0;
    char products[64];
    lks_text text = {};
    LKS_CUDA(cudaDriverGetVersion(&driver));
    lks_text_append(&text, "cuda sm_%d%d %s %s", properties->major, properties->minor,
                    properties->name, lks_products_version(products, sizeof products));
    if (properties->major > 9)
        lks_text_append(&text, " driver %d.%d", CUDA_VERSION_TEXT(driver));
    if (cuda->tf32)
        lks_text_append(&text, " tf32");
    if (text.failed) {
        lks_text_release(&text);
        return LKS_FAIL(LKS_ERR_INTERNAL, "no memory for the device's description");
    }
    cuda->arithmetic = text.data;
    return LKS_OK;
}

static lks_status cuda_taken(int ordinal)
{
    (void)cudaGetLastError();
    return LKS_FAIL(LKS_ERR_USAGE,
                    "device cuda: device %d takes no more processes: another one, or another rank, "
                    "has it for itself (compute mode exclusive or prohibited); end that one, start "
                    "nvidia-cuda-mps-control -d, or set the mode by nvidia-smi -i %d -c 0",
                    ordinal, ordinal);
}

static lks_status cuda_choose(lks_cuda_device *cuda, const char *variant, int local_rank)
{
    int count = 0;
    if (variant && strcmp(variant, "tf32") != 0)
        return LKS_FAIL(LKS_ERR_USAGE, "device cuda:%s: unknown; there are cuda and cuda:tf32",
                        variant);
    LKS_TRY(cuda_count(&count));
    cuda->tf32 = variant != NULL;
    cuda->ordinal = local_rank % count;
    cudaError_t error = cudaSetDevice(cuda->ordinal);
    if (error == cudaErrorDevicesUnavailable)
        return cuda_taken(cuda->ordinal);
    LKS_CUDA(error);
    return LKS_OK;
}

static lks_status cuda_examine(lks_cuda_device *cuda)
{
    cudaDeviceProp properties;
    LKS_CUDA(cudaGetDeviceProperties(&properties, cuda->ordinal));
    if (properties.major < 8)
        return LKS_FAIL(LKS_ERR_USAGE,
                        "device cuda: %s is of compute capability %d.%d, and 8.0 is the least that "
                        "this build runs on; set device.name to cpu",
                        properties.name, properties.major, properties.minor);
    cuda->multiprocessors = properties.multiProcessorCount;
    cuda->capability = properties.major;
    cuda->shared_bytes = properties.sharedMemPerBlockOptin;
    cuda_write_uuid(cuda->uuid, sizeof cuda->uuid, &properties.uuid);
    return cuda_describe(cuda, &properties);
}

static lks_status cuda_make_event(cudaEvent_t *out)
{
    LKS_CUDA(cudaEventCreateWithFlags(out, cudaEventDisableTiming));
    return LKS_OK;
}

static lks_status cuda_make_order(lks_cuda_device *cuda)
{
    LKS_CUDA(cudaStreamCreateWithFlags(&cuda->own, cudaStreamNonBlocking));
    cuda->stream = cuda->own;
    LKS_CUDA(cudaStreamCreateWithFlags(&cuda->uploads, cudaStreamNonBlocking));
    for (int i = 0; i < LKS_UPLOAD_SLOTS; ++i) {
        LKS_TRY(cuda_make_event(&cuda->ready[i]));
        LKS_TRY(cuda_make_event(&cuda->released[i]));
    }
    for (int i = 0; i < LKS_CUDA_STAGES; ++i)
        LKS_TRY(cuda_make_event(&cuda->staged[i]));
    return LKS_OK;
}

static lks_status cuda_set_up(lks_cuda_device *cuda, const char *variant, int local_rank)
{
    LKS_TRY(cuda_choose(cuda, variant, local_rank));
    LKS_TRY(cuda_examine(cuda));
    LKS_TRY(cuda_make_order(cuda));
    LKS_CUDA(cudaHostAlloc((void **)&cuda->stages, (size_t)LKS_CUDA_STAGES * LKS_CUDA_STAGE_BYTES,
                           cudaHostAllocPortable));
    LKS_CUDA(cudaHostAlloc((void **)&cuda->fault, sizeof *cuda->fault,
                           cudaHostAllocPortable | cudaHostAllocMapped));
    memset(cuda->fault, 0, sizeof *cuda->fault);
    return lks_products_open(&cuda->products, cuda);
}

static void cuda_destroy_event(cudaEvent_t event)
{
    if (event)
        (void)cudaEventDestroy(event);
}

static void cuda_close(void *instance)
{
    lks_cuda_device *cuda = (lks_cuda_device *)instance;
    lks_products_close(cuda->products);
    for (int i = 0; i < LKS_UPLOAD_SLOTS; ++i) {
        cuda_destroy_event(cuda->ready[i]);
        cuda_destroy_event(cuda->released[i]);
    }
    for (int i = 0; i < LKS_CUDA_STAGES; ++i)
        cuda_destroy_event(cuda->staged[i]);
    if (cuda->uploads)
        (void)cudaStreamDestroy(cuda->uploads);
    if (cuda->own)
        (void)cudaStreamDestroy(cuda->own);
    if (cuda->stages)
        (void)cudaFreeHost(cuda->stages);
    if (cuda->fault)
        (void)cudaFreeHost(cuda->fault);
    lks_text description = {};
    description.data = cuda->arithmetic;
    lks_text_release(&description);
    lks_memory_free(cuda);
}

static lks_status cuda_open(void **instance, const char *variant, int local_rank)
{
    lks_cuda_device *cuda = NULL;
    *instance = NULL;
    LKS_TRY(LKS_NEW(&cuda));
    lks_status status = cuda_set_up(cuda, variant, local_rank);
    if (status != LKS_OK) {
        cuda_close(cuda);
        return status;
    }
    *instance = cuda;
    return LKS_OK;
}

static const char *cuda_arithmetic(void *instance)
{
    return ((lks_cuda_device *)instance)->arithmetic;
}

/* --- Memory and copies -------------------------------------------------------- */

static lks_status cuda_allocate(void *instance, size_t bytes, void **out)
{
    lks_cuda_device *cuda = (lks_cuda_device *)instance;
    char size[32], what[64];
    *out = NULL;
    if (!bytes)
        bytes = 1; /* a pointer that may be given and freed */
    snprintf(what, sizeof what, "%s of device memory", lks_text_bytes(size, sizeof size, bytes));
    LKS_CUDA(cudaSetDevice(cuda->ordinal));
    cudaError_t error = cudaMalloc(out, bytes);
    if (error != cudaSuccess) {
        *out = NULL;
        return lks_cuda_fail(error, what);
    }
    LKS_CUDA(cudaMemsetAsync(*out, 0, bytes, cuda->stream));
    LKS_CUDA(cudaStreamSynchronize(cuda->stream)); /* uploads and links have streams of their own */
    return LKS_OK;
}

static void cuda_free(void *instance, void *memory, size_t bytes)
{
    (void)bytes;
    (void)cudaSetDevice(((lks_cuda_device *)instance)->ordinal);
    (void)cudaFree(memory);
}

/* Waits for the copy that last used the next stage of the ring. */
static lks_status cuda_take_stage(lks_cuda_device *cuda, int *stage)
{
    *stage = cuda->next_stage;
    cuda->next_stage = (*stage + 1) % LKS_CUDA_STAGES;
    LKS_CUDA(cudaEventSynchronize(cuda->staged[*stage]));
    return LKS_OK;
}

static lks_status cuda_copy_in(void *instance, void *to_device, const void *from_host, size_t bytes)
{
    lks_cuda_device *cuda = (lks_cuda_device *)instance;
    const size_t most = LKS_CUDA_STAGE_BYTES;
    int stage = 0;
    for (size_t done = 0, part; done < bytes; done += part) {
        part = bytes - done < most ? bytes - done : most;
        LKS_TRY(cuda_take_stage(cuda, &stage));
        char *host = cuda->stages + (size_t)stage * most;
        memcpy(host, (const char *)from_host + done, part);
        LKS_CUDA(cudaMemcpyAsync((char *)to_device + done, host, part, cudaMemcpyHostToDevice,
                                 cuda->stream));
        LKS_CUDA(cudaEventRecord(cuda->staged[stage], cuda->stream));
    }
    return LKS_OK;
}

/* What kernels found wrong since the last wait, in the words of the cpu device's kernels. */
static lks_status cuda_take_fault(lks_cuda_device *cuda)
{
    const lks_cuda_fault fault = *cuda->fault;
    cuda->fault->kind = LKS_CUDA_FAULT_NONE;
    switch (fault.kind) {
    case LKS_CUDA_FAULT_NONE:
        return LKS_OK;
    case LKS_CUDA_FAULT_ID:
        return LKS_FAIL(
            LKS_ERR_CORRUPT,
            "token id %d at row %lld of the micro-batch is outside the vocabulary of %lld",
            (int)fault.value, fault.row, fault.bound);
    case LKS_CUDA_FAULT_TARGET:
        return LKS_FAIL(LKS_ERR_CORRUPT,
                        "target %d at row %lld of the micro-batch is outside the %lld classes",
                        (int)fault.value, fault.row, fault.bound);
    }
    return LKS_FAIL(LKS_ERR_INTERNAL, "cuda: a kernel reported fault %d", fault.kind);
}

static lks_status cuda_wait(lks_cuda_device *cuda)
{
    ++cuda->waits;
    LKS_CUDA(cudaStreamSynchronize(cuda->stream));
    return cuda_take_fault(cuda);
}

static lks_status cuda_copy_out(void *instance, void *to_host, const void *from_device,
                                size_t bytes)
{
    lks_cuda_device *cuda = (lks_cuda_device *)instance;
    if (bytes)
        LKS_CUDA(
            cudaMemcpyAsync(to_host, from_device, bytes, cudaMemcpyDeviceToHost, cuda->stream));
    return cuda_wait(cuda);
}

static lks_status cuda_copy(void *instance, void *to, const void *from, size_t bytes)
{
    lks_cuda_device *cuda = (lks_cuda_device *)instance;
    if (bytes)
        LKS_CUDA(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, cuda->stream));
    return LKS_OK;
}

static lks_status cuda_synchronize(void *instance)
{
    lks_cuda_device *cuda = (lks_cuda_device *)instance;
    LKS_CUDA(cudaStreamSynchronize(cuda->uploads));
    return cuda_wait(cuda);
}

static uint64_t cuda_waits(void *instance)
{
    return ((lks_cuda_device *)instance)->waits;
}

/* --- Uploads ------------------------------------------------------------------ */

/* A child does not inherit it: where the kernel's copy on write goes by counts of references, the parent's next write would
 * leave the page that the device reads (a child examines files, see lks_shards_examine). */
static lks_status cuda_pin(void *instance, void *host, size_t bytes)
{
    LKS_CUDA(cudaSetDevice(((lks_cuda_device *)instance)->ordinal));
    LKS_CUDA(cudaHostRegister(host, bytes, cudaHostRegisterPortable));
    (void)madvise(host, bytes, MADV_DONTFORK);
    return LKS_OK;
}

static void cuda_unpin(void *instance, void *host, size_t bytes)
{
    (void)instance;
    (void)cudaHostUnregister(host);
    (void)madvise(host, bytes, MADV_DOFORK);
}

static lks_status cuda_upload_begin(void *instance, int slot)
{
    lks_cuda_device *cuda = (lks_cuda_device *)instance;
    LKS_CUDA(cudaStreamWaitEvent(cuda->uploads, cuda->released[slot], 0));
    return LKS_OK;
}

static lks_status cuda_upload(void *instance, void *to_device, const void *from_host, size_t bytes)
{
    lks_cuda_device *cuda = (lks_cuda_device *)instance;
    LKS_CUDA(cudaMemcpyAsync(to_device, from_host, bytes, cudaMemcpyHostToDevice, cuda->uploads));
    return LKS_OK;
}

static lks_status cuda_upload_end(void *instance, int slot)
{
    lks_cuda_device *cuda = (lks_cuda_device *)instance;
    LKS_CUDA(cudaEventRecord(cuda->ready[slot], cuda->uploads));
    LKS_CUDA(cudaStreamWaitEvent(cuda->stream, cuda->ready[slot], 0));
    return LKS_OK;
}

static lks_status cuda_upload_release(void *instance, int slot)
{
    lks_cuda_device *cuda = (lks_cuda_device *)instance;
    LKS_CUDA(cudaEventRecord(cuda->released[slot], cuda->stream));
    return LKS_OK;
}

static lks_status cuda_upload_wait(void *instance, int slot)
{
    LKS_CUDA(cudaEventSynchronize(((lks_cuda_device *)instance)->ready[slot]));
    return LKS_OK;
}

/* --- Recordings: CUDA graphs ---------------------------------------------------- */

/* Relaxed: kernels that did not run before (others than those of the first run, where there is something to add to) are
 * loaded when they are first given, which the other modes forbid meanwhile. */
static lks_status cuda_record_begin(void *instance)
{
    lks_cuda_device *cuda = (lks_cuda_device *)instance;
    LKS_CUDA(cudaStreamBeginCapture(cuda->stream, cudaStreamCaptureModeRelaxed));
    return LKS_OK;
}

static lks_status cuda_record_end(void *instance, lks_recording **out)
{
    lks_cuda_device *cuda = (lks_cuda_device *)instance;
    cudaGraph_t graph = NULL;
    cudaGraphExec_t program = NULL;
    *out = NULL;
    LKS_CUDA(cudaStreamEndCapture(cuda->stream, &graph));
    cudaError_t error = cudaGraphInstantiate(&program, graph, 0);
    (void)cudaGraphDestroy(graph);
    if (error != cudaSuccess)
        return lks_cuda_fail(error, "cudaGraphInstantiate");
    *out = (lks_recording *)program;
    LKS_CUDA(cudaGraphUpload(program, cuda->stream));
    return LKS_OK;
}

static lks_status cuda_record_launch(void *instance, lks_recording *recording)
{
    lks_cuda_device *cuda = (lks_cuda_device *)instance;
    LKS_CUDA(cudaGraphLaunch((cudaGraphExec_t)recording, cuda->stream));
    return LKS_OK;
}

static void cuda_record_free(void *instance, lks_recording *recording)
{
    (void)instance;
    if (recording)
        (void)cudaGraphExecDestroy((cudaGraphExec_t)recording);
}

/* --- Marks ------------------------------------------------------------------------ */

static lks_status cuda_mark_open(void *instance, void **out)
{
    cudaEvent_t event = NULL;
    (void)instance;
    *out = NULL;
    LKS_CUDA(cudaEventCreate(&event));
    *out = event;
    return LKS_OK;
}

static void cuda_mark_close(void *instance, void *mark)
{
    (void)instance;
    cuda_destroy_event((cudaEvent_t)mark);
}

static bool cuda_can_mark(void *instance)
{
    const lks_cuda_device *cuda = (const lks_cuda_device *)instance;
    return cuda->stream == cuda->own;
}

static lks_status cuda_mark(void *instance, void *mark)
{
    LKS_CUDA(cudaEventRecord((cudaEvent_t)mark, ((lks_cuda_device *)instance)->stream));
    return LKS_OK;
}

static lks_status cuda_mark_span(void *instance, void *from, void *to, uint64_t *ns)
{
    float milliseconds = 0;
    (void)instance;
    LKS_CUDA(cudaEventSynchronize((cudaEvent_t)to));
    LKS_CUDA(cudaEventElapsedTime(&milliseconds, (cudaEvent_t)from, (cudaEvent_t)to));
    *ns = (uint64_t)((double)milliseconds * 1e6);
    return LKS_OK;
}

static void cuda_range_begin(void *instance, const char *name)
{
    (void)instance;
    nvtxRangePushA(name);
}

static void cuda_range_end(void *instance)
{
    (void)instance;
    nvtxRangePop();
}

static const lks_kernel_driver *const *cuda_kernels(void *instance)
{
    (void)instance;
    return lks_cuda_kernels;
}

extern "C" const lks_device_driver lks_cuda_device_driver;
const lks_device_driver lks_cuda_device_driver = {
    .name = "cuda",
    .about = "one NVIDIA GPU: cuBLASLt's products and own kernels",
    .is_host = false,
    .available = cuda_available,
    .open = cuda_open,
    .close = cuda_close,
    .arithmetic = cuda_arithmetic,
    .allocate = cuda_allocate,
    .free = cuda_free,
    .copy_in = cuda_copy_in,
    .copy_out = cuda_copy_out,
    .copy = cuda_copy,
    .synchronize = cuda_synchronize,
    .waits = cuda_waits,
    .pin = cuda_pin,
    .unpin = cuda_unpin,
    .upload_begin = cuda_upload_begin,
    .upload = cuda_upload,
    .upload_end = cuda_upload_end,
    .upload_release = cuda_upload_release,
    .upload_wait = cuda_upload_wait,
    .record_begin = cuda_record_begin,
    .record_end = cuda_record_end,
    .record_launch = cuda_record_launch,
    .record_free = cuda_record_free,
    .mark_open = cuda_mark_open,
    .mark_close = cuda_mark_close,
    .can_mark = cuda_can_mark,
    .mark = cuda_mark,
    .mark_span = cuda_mark_span,
    .range_begin = cuda_range_begin,
    .range_end = cuda_range_end,
    .sum_blocks = lks_cuda_sum_blocks,
    .add = lks_cuda_add,
    .round = lks_cuda_round,
    .sum_stats = lks_cuda_sum_stats,
    .total = lks_cuda_total,
    .update = lks_cuda_update,
    .kernels = cuda_kernels,
    .bf16 = NULL,
};
