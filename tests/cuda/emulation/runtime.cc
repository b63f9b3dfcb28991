/* The CUDA runtime's calls that lockstep makes, for the emulated device. Prototypes are the toolkit's. */
#include "block.h"
#include "devmem.h"
#include "queue.h"

#include <map>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <string>
#include <unistd.h>
#include <vector>

#define LKS_CALL std::lock_guard<std::recursive_mutex> guard(lks_queue_lock())
#define LKS_RESULT(error) return lks_queue_result(error)

/* Per thread, but not thread_local: see block.cc. */
static int &current_device()
{
    static auto *const all_threads = new std::map<pthread_t, int>;
    return (*all_threads)[pthread_self()];
}

/* Physical numbers of the devices that CUDA_VISIBLE_DEVICES leaves: a list that ends at the first entry that is none. */
static std::vector<int> visible_devices()
{
    std::vector<int> out;
    int count = lks_emulation_get_settings().devices;
    const char *list = getenv("CUDA_VISIBLE_DEVICES");
    if (!list) {
        for (int i = 0; i < count; ++i)
            out.push_back(i);
        return out;
    }
    for (char *end; *list; list = *end == ',' ? end + 1 : end) {
        long number = strtol(list, &end, 10);
        if (end == list || number < 0 || number >= count)
            break;
        out.push_back((int)number);
    }
    return out;
}

/* Devices of hosts with different names are different ones. */
static uint32_t host_number()
{
    char name[256] = "";
    uint32_t hash = 2166136261u;
    (void)gethostname(name, sizeof name - 1);
    for (const char *c = name; *c; ++c)
        hash = (hash ^ (unsigned char)*c) * 16777619u;
    return hash;
}

extern "C" {

/* --- The device ---------------------------------------------------------------- */

cudaError_t cudaGetDeviceCount(int *count)
{
    *count = (int)visible_devices().size();
    LKS_RESULT(*count ? cudaSuccess : cudaErrorNoDevice);
}

cudaError_t cudaSetDevice(int device)
{
    if (device < 0 || device >= (int)visible_devices().size())
        LKS_RESULT(cudaErrorInvalidDevice);
    LKS_CALL;
    current_device() = device;
    LKS_RESULT(cudaSuccess);
}

cudaError_t cudaGetDevice(int *device)
{
    LKS_CALL;
    *device = current_device();
    LKS_RESULT(cudaSuccess);
}

cudaError_t cudaDriverGetVersion(int *version)
{
    *version = CUDART_VERSION;
    LKS_RESULT(cudaSuccess);
}

cudaError_t cudaRuntimeGetVersion(int *version)
{
    *version = CUDART_VERSION;
    LKS_RESULT(cudaSuccess);
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp *out, int device)
{
    std::vector<int> devices = visible_devices();
    if (device < 0 || device >= (int)devices.size())
        LKS_RESULT(cudaErrorInvalidDevice);
    memset(out, 0, sizeof *out);
    snprintf(out->name, sizeof out->name, "emulated-on-cpu");
    memset(&out->uuid, 0, sizeof out->uuid);
    memcpy(&out->uuid, "lks-emulated", 11);
    uint32_t host = host_number();
    memcpy(&out->uuid.bytes[11], &host, sizeof host);
    out->uuid.bytes[15] = (char)devices[(size_t)device];
    size_t available = 0;
    lks_devmem_free_bytes(&available, &out->totalGlobalMem);
    out->sharedMemPerBlock = 48 << 10;
    out->sharedMemPerBlockOptin = (size_t)lks_emulation_shared_bytes();
    out->sharedMemPerMultiprocessor = out->sharedMemPerBlockOptin + 1024;
    out->reservedSharedMemPerBlock = 1024;
    out->regsPerBlock = out->regsPerMultiprocessor = 65536;
    out->warpSize = 32;
    out->maxThreadsPerBlock = 1024;
    out->maxThreadsPerMultiProcessor = 2048;
    out->maxBlocksPerMultiProcessor = 32;
    out->maxThreadsDim[0] = out->maxThreadsDim[1] = 1024;
    out->maxThreadsDim[2] = 64;
    out->maxGridSize[0] = 0x7fffffff;
    out->maxGridSize[1] = out->maxGridSize[2] = 65535;
    out->major = lks_emulation_get_settings().capability;
    out->multiProcessorCount = lks_emulation_get_settings().multiprocessors;
    out->unifiedAddressing = out->canMapHostMemory = out->asyncEngineCount = 1;
    out->pciBusID = devices[(size_t)device] + 1;
    out->l2CacheSize = 50 << 20;
    LKS_RESULT(cudaSuccess);
}

cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int device)
{
    cudaDeviceProp p;
    cudaError_t error = cudaGetDeviceProperties(&p, device);
    if (error != cudaSuccess)
        return error;
    const std::map<cudaDeviceAttr, int> known = {
        {cudaDevAttrMaxThreadsPerBlock, p.maxThreadsPerBlock},
        {cudaDevAttrMaxSharedMemoryPerBlock, (int)p.sharedMemPerBlock},
        {cudaDevAttrMaxSharedMemoryPerBlockOptin, (int)p.sharedMemPerBlockOptin},
        {cudaDevAttrMaxSharedMemoryPerMultiprocessor, (int)p.sharedMemPerMultiprocessor},
        {cudaDevAttrMultiProcessorCount, p.multiProcessorCount},
        {cudaDevAttrWarpSize, p.warpSize},
        {cudaDevAttrComputeCapabilityMajor, p.major},
        {cudaDevAttrComputeCapabilityMinor, p.minor},
        {cudaDevAttrUnifiedAddressing, 1},
        {cudaDevAttrCanMapHostMemory, 1},
        {cudaDevAttrIpcEventSupport, 1},
        {cudaDevAttrL2CacheSize, p.l2CacheSize},
        {cudaDevAttrMaxThreadsPerMultiProcessor, p.maxThreadsPerMultiProcessor},
    };
    auto found = known.find(attribute);
    if (found == known.end())
        fprintf(stderr, "emulation: cudaDeviceGetAttribute: attribute %d is not known here\n",
                (int)attribute);
    else
        *value = found->second;
    LKS_RESULT(found == known.end() ? cudaErrorInvalidValue : cudaSuccess);
}

cudaError_t cudaDeviceGetPCIBusId(char *out, int length, int device)
{
    snprintf(out, (size_t)length, "0000:%02x:00.0", device + 1);
    LKS_RESULT(cudaSuccess);
}

cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest)
{
    *least = 0;
    *greatest = -5;
    LKS_RESULT(cudaSuccess);
}

cudaError_t cudaDeviceCanAccessPeer(int *can, int, int)
{
    *can = 1;
    LKS_RESULT(cudaSuccess);
}

cudaError_t cudaMemGetInfo(size_t *available, size_t *total)
{
    LKS_CALL;
    lks_devmem_free_bytes(available, total);
    LKS_RESULT(cudaSuccess);
}

/* --- Memory -------------------------------------------------------------------- */

cudaError_t cudaMalloc(void **out, size_t bytes)
{
    LKS_CALL;
    *out = nullptr;
    if (!bytes)
        LKS_RESULT(cudaSuccess);
    if (lks_queue_unsafe() != cudaSuccess)
        LKS_RESULT(cudaErrorStreamCaptureUnsupported);
    ++lks_emulation_count().allocations;
    *out = lks_devmem_take(bytes);
    LKS_RESULT(*out ? cudaSuccess : cudaErrorMemoryAllocation);
}

cudaError_t cudaFree(void *memory)
{
    LKS_CALL;
    if (!memory)
        LKS_RESULT(cudaSuccess);
    if (lks_queue_unsafe() != cudaSuccess)
        LKS_RESULT(cudaErrorStreamCaptureUnsupported);
    if (!lks_queue_recording_any())
        (void)lks_queue_finish_all();
    LKS_RESULT(lks_devmem_give(memory) ? cudaSuccess : cudaErrorInvalidValue);
}

cudaError_t cudaHostAlloc(void **out, size_t bytes, unsigned)
{
    LKS_CALL;
    if (lks_queue_unsafe() != cudaSuccess)
        LKS_RESULT(cudaErrorStreamCaptureUnsupported);
    ++lks_emulation_count().allocations;
    *out = aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
    if (*out)
        lks_devmem_pin(*out, bytes);
    LKS_RESULT(*out ? cudaSuccess : cudaErrorMemoryAllocation);
}

cudaError_t cudaMallocHost(void **out, size_t bytes)
{
    return cudaHostAlloc(out, bytes, cudaHostAllocDefault);
}

cudaError_t cudaFreeHost(void *memory)
{
    LKS_CALL;
    if (!memory)
        LKS_RESULT(cudaSuccess);
    (void)lks_queue_finish_all();
    if (!lks_devmem_unpin(memory))
        LKS_RESULT(cudaErrorInvalidValue);
    free(memory);
    LKS_RESULT(cudaSuccess);
}

cudaError_t cudaHostRegister(void *host, size_t bytes, unsigned)
{
    LKS_CALL;
    LKS_RESULT(lks_devmem_pin(host, bytes) ? cudaSuccess : cudaErrorHostMemoryAlreadyRegistered);
}

cudaError_t cudaHostUnregister(void *host)
{
    LKS_CALL;
    LKS_RESULT(lks_devmem_unpin(host) ? cudaSuccess : cudaErrorHostMemoryNotRegistered);
}

cudaError_t cudaHostGetDevicePointer(void **out, void *host, unsigned)
{
    LKS_CALL;
    *out = host;
    LKS_RESULT(lks_devmem_pinned(host, 1) ? cudaSuccess : cudaErrorInvalidValue);
}

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes *out, const void *address)
{
    LKS_CALL;
    memset(out, 0, sizeof *out);
    out->type = lks_devmem_covers(address)      ? cudaMemoryTypeDevice
                : lks_devmem_pinned(address, 1) ? cudaMemoryTypeHost
                                                : cudaMemoryTypeUnregistered;
    if (out->type == cudaMemoryTypeDevice)
        out->devicePointer = const_cast<void *>(address);
    LKS_RESULT(cudaSuccess);
}

/* --- Copies -------------------------------------------------------------------- */

static cudaError_t check_side(const char *what, const void *address, size_t bytes, bool device)
{
    if (lks_devmem_covers(address) != device) {
        fprintf(stderr, "emulation: a copy %s %p, which is %s memory, the other was said\n", what,
                address, device ? "host" : "device");
        return cudaErrorInvalidValue;
    }
    if (!device || lks_devmem_holds(address, bytes))
        return cudaSuccess;
    fprintf(stderr, "emulation: a copy of %zu bytes %s %p, %s\n", bytes, what, address,
            lks_devmem_describe(address).c_str());
    return cudaErrorInvalidValue;
}

static cudaError_t check_copy(const void *to, const void *from, size_t bytes, cudaMemcpyKind kind)
{
    bool to_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
    bool from_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
    if (kind == cudaMemcpyDefault) {
        to_device = lks_devmem_covers(to);
        from_device = lks_devmem_covers(from);
    }
    cudaError_t error = check_side("to", to, bytes, to_device);
    return error == cudaSuccess ? check_side("from", from, bytes, from_device) : error;
}

/* Pageable host memory is read before the call returns, and written before it returns. */
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream)
{
    LKS_CALL;
    cudaError_t error = check_copy(to, from, bytes, kind);
    if (error != cudaSuccess || !bytes)
        LKS_RESULT(error);
    bool recorded = lks_queue_recording(stream);
    if (!lks_devmem_covers(from) && !lks_devmem_pinned(from, bytes) && !recorded) {
        std::string kept(static_cast<const char *>(from), bytes);
        LKS_RESULT(lks_queue_push(stream,
                                  [=, kept = std::move(kept)] { memcpy(to, kept.data(), bytes); }));
    }
    error = lks_queue_push(stream, [=] { memmove(to, from, bytes); });
    if (!lks_devmem_covers(to) && !lks_devmem_pinned(to, bytes) && !recorded)
        error = lks_queue_finish(stream);
    LKS_RESULT(error);
}

cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, cudaMemcpyKind kind)
{
    LKS_CALL;
    if (lks_queue_recording_any())
        LKS_RESULT(cudaErrorStreamCaptureImplicit);
    ++lks_emulation_count().waits;
    return cudaMemcpyAsync(to, from, bytes, kind, nullptr);
}

cudaError_t cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch,
                              size_t width, size_t height, cudaMemcpyKind kind, cudaStream_t stream)
{
    cudaError_t error = cudaSuccess;
    for (size_t row = 0; row < height && error == cudaSuccess; ++row)
        error = cudaMemcpyAsync(static_cast<char *>(to) + row * to_pitch,
                                static_cast<const char *>(from) + row * from_pitch, width, kind,
                                stream);
    return error;
}

cudaError_t cudaMemcpyPeerAsync(void *to, int, const void *from, int, size_t bytes,
                                cudaStream_t stream)
{
    return cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream);
}

cudaError_t cudaMemsetAsync(void *to, int value, size_t bytes, cudaStream_t stream)
{
    LKS_CALL;
    cudaError_t error = bytes ? check_side("to", to, bytes, true) : cudaSuccess;
    if (error != cudaSuccess || !bytes)
        LKS_RESULT(error);
    LKS_RESULT(lks_queue_push(stream, [=] { memset(to, value, bytes); }));
}

cudaError_t cudaMemset(void *to, int value, size_t bytes)
{
    return cudaMemsetAsync(to, value, bytes, nullptr);
}

/* --- Between processes --------------------------------------------------------- */

cudaError_t cudaIpcGetMemHandle(cudaIpcMemHandle_t *out, void *memory)
{
    LKS_CALL;
    lks_devmem_handle handle;
    static_assert(sizeof handle <= sizeof out->reserved);
    if (!lks_devmem_export(memory, &handle))
        LKS_RESULT(cudaErrorInvalidValue);
    /* The driver's handle is for a whole piece of its own, where what is smaller may lie somewhere. */
    if (handle.bytes % ((size_t)2 << 20)) {
        fprintf(stderr, "emulation: a handle for memory that is no multiple of 2 MiB\n");
        LKS_RESULT(cudaErrorInvalidValue);
    }
    memset(out, 0, sizeof *out);
    memcpy(out->reserved, &handle, sizeof handle);
    LKS_RESULT(cudaSuccess);
}

cudaError_t cudaIpcOpenMemHandle(void **out, cudaIpcMemHandle_t given, unsigned flags)
{
    LKS_CALL;
    lks_devmem_handle handle;
    memcpy(&handle, given.reserved, sizeof handle);
    *out = nullptr;
    if (handle.process == getpid() || flags != cudaIpcMemLazyEnablePeerAccess)
        LKS_RESULT(cudaErrorInvalidValue);
    *out = lks_devmem_import(handle);
    LKS_RESULT(*out ? cudaSuccess : cudaErrorMapBufferObjectFailed);
}

cudaError_t cudaIpcCloseMemHandle(void *imported)
{
    LKS_CALL;
    (void)lks_queue_finish_all();
    LKS_RESULT(lks_devmem_drop(imported) ? cudaSuccess : cudaErrorInvalidValue);
}

/* --- Words --------------------------------------------------------------------- */

const char *cudaGetErrorName(cudaError_t error)
{
    switch (error) {
    case cudaSuccess:
        return "cudaSuccess";
    case cudaErrorInvalidValue:
        return "cudaErrorInvalidValue";
    case cudaErrorMemoryAllocation:
        return "cudaErrorMemoryAllocation";
    case cudaErrorInvalidConfiguration:
        return "cudaErrorInvalidConfiguration";
    case cudaErrorNoDevice:
        return "cudaErrorNoDevice";
    case cudaErrorInvalidDevice:
        return "cudaErrorInvalidDevice";
    case cudaErrorNotReady:
        return "cudaErrorNotReady";
    case cudaErrorLaunchFailure:
        return "cudaErrorLaunchFailure";
    case cudaErrorStreamCaptureUnsupported:
        return "cudaErrorStreamCaptureUnsupported";
    case cudaErrorStreamCaptureInvalidated:
        return "cudaErrorStreamCaptureInvalidated";
    case cudaErrorCapturedEvent:
        return "cudaErrorCapturedEvent";
    case cudaErrorHostMemoryAlreadyRegistered:
        return "cudaErrorHostMemoryAlreadyRegistered";
    case cudaErrorStreamCaptureUnjoined:
        return "cudaErrorStreamCaptureUnjoined";
    case cudaErrorStreamCaptureIsolation:
        return "cudaErrorStreamCaptureIsolation";
    case cudaErrorStreamCaptureImplicit:
        return "cudaErrorStreamCaptureImplicit";
    default:
        return "a CUDA error that the emulator has no name for";
    }
}

const char *cudaGetErrorString(cudaError_t error)
{
    if (error == cudaErrorLaunchFailure && *lks_fault_text())
        return lks_fault_text();
    return cudaGetErrorName(error);
}

} // extern "C"
