/* Streams, events and graphs: work that waits until it may run. */
#ifndef LKS_TESTS_CUDA_QUEUE_H
#define LKS_TESTS_CUDA_QUEUE_H

#include "emulation.h"

#include <functional>
#include <mutex>

/* Held through each call of the runtime. */
std::recursive_mutex &lks_queue_lock();
/* Settings from the environment; see README.md. */
struct lks_emulation_settings {
    uint64_t seed;
    bool defer, races, epilogues;
    int devices, multiprocessors, capability;
};
const lks_emulation_settings &lks_emulation_get_settings();
/* Of a block, at most: of capability 8 the least there is (8.6, 8.9). */
int lks_emulation_shared_bytes();

/* What calls return from now on when a kernel failed (sticky), else `error`, which
 * cudaGetLastError then tells. */
cudaError_t lks_queue_result(cudaError_t error);

/* For the file that LKS_EMULATION_COUNTS names, written at the end. */
struct lks_emulation_counts {
    uint64_t waits;       /* of the host for all of a stream or device */
    uint64_t event_waits; /* for an event that was not yet there */
    uint64_t allocations, launches;
};
lks_emulation_counts &lks_emulation_count();

/* Gives work to a stream: runs it at once, or later where the setting says so, or records it. */
cudaError_t lks_queue_push(cudaStream_t stream, std::function<void()> work);
/* It may run when `ready` says so, which is asked whenever it is next in its stream, and depends on other
 * processes: a host that waits, waits for them. */
void lks_queue_push_when(cudaStream_t stream, std::function<bool()> ready,
                         std::function<void()> work);
/* Runs what may run until `reached`; waits for no other process. */
void lks_queue_try(const std::function<bool()> &reached);
/* Until all that the stream (all streams) was given has run. */
cudaError_t lks_queue_finish(cudaStream_t stream);
cudaError_t lks_queue_finish_all();
bool lks_queue_recording(cudaStream_t stream);
bool lks_queue_recording_any();
/* Before calls that only a relaxed capture allows (memory taken and given back): the error where another is under way, which
 * comes to nothing then. */
cudaError_t lks_queue_unsafe();

#endif
