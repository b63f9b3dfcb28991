#include "queue.h"

#include "access.h"
#include "block.h"
#include "devmem.h"
#include "random.h"

#include <atomic>
#include <deque>
#include <fcntl.h>
#include <map>
#include <pthread.h>
#include <set>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <string>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
#include <utility>
#include <vector>

struct CUevent_st {
    std::atomic<uint64_t> own[2] = {}, &recorded, &done;
    int file = -1; /* of an event between processes: holds the two */
    bool foreign = false;
    CUevent_st() : recorded(own[0]), done(own[1]) {}
    explicit CUevent_st(std::atomic<uint64_t> *shared) : recorded(shared[0]), done(shared[1]) {}
    double seconds = 0;
    CUgraph_st *graph = nullptr; /* recorded while capturing: */
    CUstream_st *captured = nullptr;
    size_t place = 0;
};

struct CUgraph_st {
    std::vector<std::function<void()>> work;
    CUstream_st *origin = nullptr;
    bool relaxed = false; /* the mode */
    bool invalid = false; /* something was done that a capture does not allow: its end says so */
    std::map<CUstream_st *, size_t> given,
        joined; /* per stream: nodes given; of these waited for */
};

struct CUgraphExec_st {
    std::vector<std::function<void()>> work;
};

namespace
{
struct item {
    std::function<void()> run;
    CUevent_st *wait_for = nullptr;
    uint64_t ticket = 0;
    std::function<bool()> ready = nullptr; /* asks other processes */
};
} // namespace

struct CUstream_st {
    bool blocking = true;
    std::deque<item> items;
    CUgraph_st *graph = nullptr; /* capturing into */
};

namespace
{

struct state {
    std::set<CUstream_st *> streams;
    CUstream_st legacy;
    lks_random order{lks_emulation_get_settings().seed};
    uint64_t launches = 0;
    std::map<const void *, int> shared_limits; /* cudaFuncSetAttribute's */
    std::vector<CUevent_st *> dead_events;     /* destroyed, maybe still waited for */
};
state &all()
{
    static state *const one = new state;
    return *one;
}

/* Per thread, but not thread_local: see block.cc. */
cudaError_t &last_error_of_thread()
{
    static auto *const all_threads = new std::map<pthread_t, cudaError_t>;
    return (*all_threads)[pthread_self()];
}

CUstream_st *stream_of(cudaStream_t stream)
{
    return stream == nullptr || stream == cudaStreamLegacy || stream == cudaStreamPerThread
               ? &all().legacy
               : stream;
}

double now_seconds()
{
    timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

bool may_run(const CUstream_st *stream)
{
    if (stream->items.empty())
        return false;
    const item &front = stream->items.front();
    if (front.ready && !front.ready())
        return false;
    return !front.wait_for || front.wait_for->done >= front.ticket;
}

/* Whether a stream waits for what another process does. */
bool waits_for_others()
{
    for (const CUstream_st *stream : all().streams)
        if (!stream->items.empty() &&
            (stream->items.front().ready ||
             (stream->items.front().wait_for && stream->items.front().wait_for->foreign)))
            return true;
    return false;
}

/* Runs one piece of work of a stream drawn by lot; false: none may run. */
bool advance()
{
    std::vector<CUstream_st *> ready;
    for (CUstream_st *stream : all().streams)
        if (may_run(stream))
            ready.push_back(stream);
    if (ready.empty())
        return false;
    CUstream_st *stream = ready[all().order.below(ready.size())];
    item next = std::move(stream->items.front());
    stream->items.pop_front();
    if (next.run)
        next.run();
    return true;
}

/* Asking after work that is being captured, or waiting for it, is an error, and the capture comes to nothing. */
cudaError_t refuse_capture(CUgraph_st *graph, cudaError_t error)
{
    graph->invalid = true;
    return error;
}

/* Whether the graph is still being captured: an event of one that has ended is nothing's. */
bool is_captured(const CUgraph_st *graph)
{
    for (const CUstream_st *stream : all().streams)
        if (stream->graph == graph)
            return true;
    return false;
}

cudaError_t refuse_event(const CUevent_st *event)
{
    return is_captured(event->graph) ? refuse_capture(event->graph, cudaErrorCapturedEvent)
                                     : cudaErrorCapturedEvent;
}

void invalidate_all()
{
    for (CUstream_st *stream : all().streams)
        if (stream->graph)
            stream->graph->invalid = true;
}

template <typename F> void advance_until(F reached)
{
    lks_devmem_open();
    while (!reached())
        if (!advance()) {
            if (!waits_for_others())
                break;
            usleep(50);
        }
    lks_devmem_close();
}

uint64_t number_from(const char *name, uint64_t otherwise)
{
    const char *text = getenv(name);
    return text && *text ? strtoull(text, nullptr, 10) : otherwise;
}

lks_emulation_settings read_settings()
{
    lks_emulation_settings s;
    s.seed = number_from("LKS_EMULATION_SEED", 1);
    s.defer = number_from("LKS_EMULATION_DEFER", 1) != 0;
    s.races = number_from("LKS_EMULATION_RACES", 1) != 0;
    s.epilogues = number_from("LKS_EMULATION_EPILOGUES", 1) != 0;
    s.devices = (int)number_from("LKS_EMULATION_DEVICES", 1);
    s.multiprocessors = (int)number_from("LKS_EMULATION_MULTIPROCESSORS", 6);
    s.capability = (int)number_from("LKS_EMULATION_CAPABILITY", 9);
    return s;
}

} // namespace

std::recursive_mutex &lks_queue_lock()
{
    static auto *const one = new std::recursive_mutex;
    return *one;
}

const lks_emulation_settings &lks_emulation_get_settings()
{
    static const lks_emulation_settings settings = read_settings();
    return settings;
}

lks_emulation_counts &lks_emulation_count()
{
    static lks_emulation_counts counts;
    return counts;
}

__attribute__((destructor)) static void write_counts()
{
    const char *path = getenv("LKS_EMULATION_COUNTS");
    FILE *file = path ? fopen(path, "w") : nullptr;
    if (!file)
        return;
    const lks_emulation_counts &c = lks_emulation_count();
    fprintf(file, "waits %llu\nevent_waits %llu\nallocations %llu\nlaunches %llu\n",
            (unsigned long long)c.waits, (unsigned long long)c.event_waits,
            (unsigned long long)c.allocations, (unsigned long long)c.launches);
    fclose(file);
}

cudaError_t lks_queue_result(cudaError_t error)
{
    std::lock_guard<std::recursive_mutex> guard(lks_queue_lock());
    if (*lks_fault_text())
        error = cudaErrorLaunchFailure;
    if (error != cudaSuccess && error != cudaErrorNotReady)
        last_error_of_thread() = error;
    return error;
}

cudaError_t lks_queue_push(cudaStream_t given, std::function<void()> work)
{
    CUstream_st *stream = stream_of(given);
    if (stream->graph) {
        stream->graph->work.push_back(std::move(work));
        ++stream->graph->given[stream];
        return cudaSuccess;
    }
    if (stream == &all().legacy) { /* waits for all streams that block, and they for it */
        for (CUstream_st *other : all().streams)
            if (other->blocking)
                advance_until([&] { return other->items.empty(); });
        lks_devmem_open();
        work();
        lks_devmem_close();
        return cudaSuccess;
    }
    stream->items.push_back({std::move(work), nullptr, 0});
    if (!lks_emulation_get_settings().defer)
        advance_until([] { return false; });
    return cudaSuccess;
}

void lks_queue_push_when(cudaStream_t given, std::function<bool()> ready,
                         std::function<void()> work)
{
    stream_of(given)->items.push_back({std::move(work), nullptr, 0, std::move(ready)});
}

void lks_queue_try(const std::function<bool()> &reached)
{
    lks_devmem_open();
    while (!reached() && advance())
        ;
    lks_devmem_close();
}

cudaError_t lks_queue_finish(cudaStream_t given)
{
    CUstream_st *stream = stream_of(given);
    lks_emulation_count().waits += !stream->items.empty();
    if (stream->graph)
        return refuse_capture(stream->graph, cudaErrorStreamCaptureUnsupported);
    if (stream == &all().legacy) {
        advance_until([] { return false; });
        return cudaSuccess;
    }
    advance_until([&] { return stream->items.empty(); });
    return cudaSuccess;
}

cudaError_t lks_queue_finish_all()
{
    ++lks_emulation_count().waits;
    if (lks_queue_recording_any()) {
        invalidate_all();
        return cudaErrorStreamCaptureUnsupported;
    }
    advance_until([] { return false; });
    return cudaSuccess;
}

cudaError_t lks_queue_unsafe()
{
    cudaError_t error = cudaSuccess;
    for (CUstream_st *stream : all().streams)
        if (stream->graph && !stream->graph->relaxed)
            error = refuse_capture(stream->graph, cudaErrorStreamCaptureUnsupported);
    return error;
}

bool lks_queue_recording(cudaStream_t stream)
{
    return stream_of(stream)->graph != nullptr;
}

bool lks_queue_recording_any()
{
    for (const CUstream_st *stream : all().streams)
        if (stream->graph)
            return true;
    return false;
}

/* --- Launches ------------------------------------------------------------------ */

static bool refuse(const lks_emulation_kernel &kernel, const std::string &why)
{
    fprintf(stderr, "emulation: kernel %s (%s:%d): %s\n", kernel.name, kernel.file, kernel.line,
            why.c_str());
    return false;
}

int lks_emulation_shared_bytes()
{
    return lks_emulation_get_settings().capability < 9 ? 99 << 10 : (int)LKS_BLOCK_SHARED_BYTES;
}

static bool fits(const lks_emulation_kernel &kernel)
{
    dim3 g = kernel.grid, b = kernel.block;
    uint64_t threads = (uint64_t)b.x * b.y * b.z;
    if (threads < 1 || threads > 1024 || b.z > 64)
        return refuse(kernel, "a block of " + std::to_string(threads) +
                                  " threads, 1 to 1024 "
                                  "(and 64 in z) wanted");
    if (g.x < 1 || g.y < 1 || g.z < 1 || g.x > 0x7fffffffu || g.y > 65535 || g.z > 65535)
        return refuse(kernel, "a grid of " + std::to_string(g.x) + " x " + std::to_string(g.y) +
                                  " x " + std::to_string(g.z) +
                                  " blocks, 1 to 2147483647 x 65535 x 65535 wanted");
    auto limit = all().shared_limits.find(kernel.function);
    size_t allowed = limit == all().shared_limits.end() ? 48 << 10 : (size_t)limit->second;
    if (kernel.shared_bytes > allowed)
        return refuse(kernel, std::to_string(kernel.shared_bytes) +
                                  " bytes of dynamic shared memory, at most " +
                                  std::to_string(allowed) + " without cudaFuncSetAttribute");
    return true;
}

static void run_kernel(const lks_emulation_kernel &kernel)
{
    const lks_emulation_settings &settings = lks_emulation_get_settings();
    if (*lks_fault_text())
        return;
    uint64_t seed = settings.seed ? settings.seed * 0x100000001b3u + ++all().launches : 0;
    ++lks_emulation_count().launches;
    lks_access_begin(settings.races);
    bool done = lks_block_run_grid(kernel, seed);
    lks_access_end();
    std::string damage = lks_devmem_check();
    if (done && !damage.empty())
        lks_fault_raise("kernel %s (%s:%d): wrote %s", kernel.name, kernel.file, kernel.line,
                        damage.c_str());
}

void lks_emulation_launch(lks_emulation_kernel &&kernel, cudaStream_t stream)
{
    std::lock_guard<std::recursive_mutex> guard(lks_queue_lock());
    if (!fits(kernel)) {
        last_error_of_thread() = cudaErrorInvalidConfiguration;
        return;
    }
    cudaError_t error =
        lks_queue_push(stream, [kernel = std::move(kernel)] { run_kernel(kernel); });
    lks_queue_result(error);
}

/* --- The runtime's calls: errors, streams, events, graphs ----------------------- */

#define LKS_CALL std::lock_guard<std::recursive_mutex> guard(lks_queue_lock())

extern "C" {

cudaError_t cudaGetLastError()
{
    LKS_CALL;
    cudaError_t error = lks_queue_result(cudaSuccess);
    if (error == cudaSuccess)
        error = last_error_of_thread();
    last_error_of_thread() = cudaSuccess;
    return error;
}

cudaError_t cudaPeekAtLastError()
{
    LKS_CALL;
    cudaError_t error = lks_queue_result(cudaSuccess);
    return error == cudaSuccess ? last_error_of_thread() : error;
}

cudaError_t cudaFuncSetAttribute(const void *function, cudaFuncAttribute attribute, int value)
{
    LKS_CALL;
    if (attribute == cudaFuncAttributeMaxDynamicSharedMemorySize) {
        if (value < 0 || value > lks_emulation_shared_bytes())
            return lks_queue_result(cudaErrorInvalidValue);
        all().shared_limits[function] = value;
    }
    return lks_queue_result(cudaSuccess);
}

cudaError_t cudaStreamCreateWithPriority(cudaStream_t *out, unsigned flags, int)
{
    LKS_CALL;
    *out = new CUstream_st;
    (*out)->blocking = !(flags & cudaStreamNonBlocking);
    all().streams.insert(*out);
    return lks_queue_result(cudaSuccess);
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *out, unsigned flags)
{
    return cudaStreamCreateWithPriority(out, flags, 0);
}

cudaError_t cudaStreamCreate(cudaStream_t *out)
{
    return cudaStreamCreateWithPriority(out, cudaStreamDefault, 0);
}

cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    LKS_CALL;
    if (!all().streams.count(stream))
        return lks_queue_result(cudaErrorInvalidResourceHandle);
    advance_until([&] { return stream->items.empty(); });
    all().streams.erase(stream);
    delete stream;
    return lks_queue_result(cudaSuccess);
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream)
{
    LKS_CALL;
    return lks_queue_result(lks_queue_finish(stream));
}

cudaError_t cudaStreamQuery(cudaStream_t stream)
{
    LKS_CALL;
    CUstream_st *s = stream_of(stream);
    if (s->graph)
        return lks_queue_result(refuse_capture(s->graph, cudaErrorStreamCaptureUnsupported));
    bool turn = false; /* each look lets a piece of work run, so that who looks in a loop gets on */
    advance_until([&] { return std::exchange(turn, true); });
    return lks_queue_result(s->items.empty() ? cudaSuccess : cudaErrorNotReady);
}

cudaError_t cudaDeviceSynchronize()
{
    LKS_CALL;
    return lks_queue_result(lks_queue_finish_all());
}

cudaError_t cudaStreamWaitEvent(cudaStream_t given, cudaEvent_t event, unsigned)
{
    LKS_CALL;
    CUstream_st *stream = stream_of(given);
    if (event->graph) {
        if (!is_captured(event->graph) || (stream->graph && stream->graph != event->graph))
            return lks_queue_result(cudaErrorStreamCaptureIsolation);
        stream->graph = event->graph;
        size_t &joined = event->graph->joined[event->captured];
        joined = std::max(joined, event->place);
        if (stream != event->graph->origin && !event->graph->given.count(stream))
            event->graph->given[stream] = 1; /* the wait itself */
        return lks_queue_result(cudaSuccess);
    }
    if (stream->graph && event->recorded) /* of work before the capture */
        return lks_queue_result(refuse_capture(stream->graph, cudaErrorStreamCaptureIsolation));
    if (stream->graph)
        return lks_queue_result(cudaSuccess);
    if (event->recorded)
        stream->items.push_back({nullptr, event, event->recorded});
    if (!lks_emulation_get_settings().defer || stream == &all().legacy)
        advance_until([] { return false; });
    return lks_queue_result(cudaSuccess);
}

cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void *user)
{
    LKS_CALL;
    return lks_queue_result(lks_queue_push(stream, [=] { function(user); }));
}

/* What processes know of an event: how often it was recorded, and how far that was done. */
static std::atomic<uint64_t> *map_counters(int file)
{
    void *memory = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    return memory == MAP_FAILED ? nullptr : static_cast<std::atomic<uint64_t> *>(memory);
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *out, unsigned flags)
{
    *out = nullptr;
    if (!(flags & cudaEventInterprocess)) {
        *out = new CUevent_st;
        return cudaSuccess;
    }
    if (!(flags & cudaEventDisableTiming))
        return lks_queue_result(cudaErrorInvalidValue);
    int file = memfd_create("lks-emulated-event", MFD_CLOEXEC);
    auto *counters = file >= 0 && !ftruncate(file, 4096) ? map_counters(file) : nullptr;
    if (!counters)
        return lks_queue_result(cudaErrorMemoryAllocation);
    *out = new CUevent_st(counters);
    (*out)->file = file;
    return cudaSuccess;
}

struct event_place {
    pid_t process;
    int file;
};

cudaError_t cudaIpcGetEventHandle(cudaIpcEventHandle_t *out, cudaEvent_t event)
{
    event_place place = {getpid(), event->file};
    if (event->file < 0)
        return lks_queue_result(cudaErrorInvalidResourceHandle);
    memset(out, 0, sizeof *out);
    memcpy(out->reserved, &place, sizeof place);
    return cudaSuccess;
}

cudaError_t cudaIpcOpenEventHandle(cudaEvent_t *out, cudaIpcEventHandle_t handle)
{
    event_place place;
    memcpy(&place, handle.reserved, sizeof place);
    std::string path =
        "/proc/" + std::to_string(place.process) + "/fd/" + std::to_string(place.file);
    int file = open(path.c_str(), O_RDWR | O_CLOEXEC);
    auto *counters = file >= 0 ? map_counters(file) : nullptr;
    if (file >= 0)
        close(file);
    *out = counters ? new CUevent_st(counters) : nullptr;
    if (!counters)
        return lks_queue_result(cudaErrorMapBufferObjectFailed);
    (*out)->foreign = true;
    return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t *out)
{
    return cudaEventCreateWithFlags(out, 0);
}

cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    LKS_CALL;
    all().dead_events.push_back(event); /* a stream may still wait for it */
    return lks_queue_result(cudaSuccess);
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t given)
{
    LKS_CALL;
    CUstream_st *stream = stream_of(given);
    if (stream->graph) {
        event->graph = stream->graph;
        event->captured = stream;
        event->place = stream->graph->given[stream];
        return lks_queue_result(cudaSuccess);
    }
    event->graph = nullptr;
    uint64_t ticket = ++event->recorded;
    return lks_queue_result(lks_queue_push(given, [=] {
        event->done = ticket;
        event->seconds = now_seconds();
    }));
}

cudaError_t cudaEventSynchronize(cudaEvent_t event)
{
    LKS_CALL;
    if (event->graph)
        return lks_queue_result(refuse_event(event));
    lks_emulation_count().event_waits += event->done < event->recorded;
    advance_until([&] { return event->done >= event->recorded; });
    return lks_queue_result(cudaSuccess);
}

cudaError_t cudaEventQuery(cudaEvent_t event)
{
    LKS_CALL;
    if (event->graph)
        return lks_queue_result(refuse_event(event));
    bool turn = false;
    advance_until([&] { return std::exchange(turn, true); });
    return lks_queue_result(event->done >= event->recorded ? cudaSuccess : cudaErrorNotReady);
}

cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t from, cudaEvent_t to)
{
    LKS_CALL;
    if (from->done < from->recorded || to->done < to->recorded)
        return lks_queue_result(cudaErrorNotReady);
    *milliseconds = (float)(1e3 * (to->seconds - from->seconds));
    return lks_queue_result(cudaSuccess);
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode)
{
    LKS_CALL;
    if (stream_of(stream) == &all().legacy)
        return lks_queue_result(cudaErrorStreamCaptureImplicit);
    if (stream->graph)
        return lks_queue_result(cudaErrorIllegalState);
    stream->graph = new CUgraph_st;
    stream->graph->origin = stream;
    stream->graph->relaxed = mode == cudaStreamCaptureModeRelaxed;
    return lks_queue_result(cudaSuccess);
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *out)
{
    LKS_CALL;
    CUgraph_st *graph = stream_of(stream)->graph;
    *out = nullptr;
    if (!graph || graph->origin != stream)
        return lks_queue_result(cudaErrorIllegalState);
    bool joined = true;
    for (const auto &[other, given] : graph->given)
        joined = joined && (other == stream || graph->joined[other] == given);
    for (CUstream_st *other : all().streams)
        if (other->graph == graph)
            other->graph = nullptr;
    if (!joined || graph->invalid) {
        bool invalid = graph->invalid;
        delete graph;
        return lks_queue_result(invalid ? cudaErrorStreamCaptureInvalidated
                                        : cudaErrorStreamCaptureUnjoined);
    }
    *out = graph;
    return lks_queue_result(cudaSuccess);
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus *out)
{
    LKS_CALL;
    *out =
        lks_queue_recording(stream) ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
    return lks_queue_result(cudaSuccess);
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *out, cudaGraph_t graph, unsigned long long)
{
    LKS_CALL;
    *out = new CUgraphExec_st{graph->work};
    return lks_queue_result(cudaSuccess);
}

cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t *nodes, size_t *count)
{
    if (nodes)
        return lks_queue_result(cudaErrorNotSupported);
    *count = graph->work.size();
    return cudaSuccess;
}

cudaError_t cudaGraphUpload(cudaGraphExec_t, cudaStream_t)
{
    LKS_CALL;
    return lks_queue_result(cudaSuccess);
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t program, cudaStream_t stream)
{
    LKS_CALL;
    return lks_queue_result(lks_queue_push(stream, [work = program->work] {
        for (const auto &one : work)
            one();
    }));
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
    LKS_CALL;
    delete graph;
    return lks_queue_result(cudaSuccess);
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t program)
{
    LKS_CALL;
    delete program;
    return lks_queue_result(cudaSuccess);
}

} // extern "C"
