/* NCCL as far as collectives/nccl uses it, between the processes of emulated devices. Prototypes are nccl.h's.
 *
 * A communicator is a file of shared memory that holds a ring of bytes for each pair of ranks. A group of
 * messages is one piece of work of a stream: it may run to its end when all its messages have come and gone.
 * As without blocking, what is begun is "in progress" until it is asked for, and a group reaches its stream only then.
 * A rank's end waits until no other of its host is connected, and an abort reaches ranks of other hosts alone. */
#include "devmem.h"
#include "queue.h"

#include <algorithm>
#include <atomic>
#include <deque>
#include <fcntl.h>
#include <map>
#include <nccl.h>
#include <set>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <string>
#include <sys/mman.h>
#include <sys/random.h>
#include <unistd.h>
#include <utility>
#include <vector>

#define LKS_CALL std::lock_guard<std::recursive_mutex> guard(lks_queue_lock())

namespace
{

enum : size_t { RING_BYTES = (size_t)8 << 20, PAGE = 4096 };

/* --- What the ranks share ------------------------------------------------------ */

struct ring {
    std::atomic<uint64_t> written, read; /* bytes, ever */
};

struct card {
    std::atomic<pid_t> process; /* 0: not connected, or not any more */
    char host[64];
    unsigned char device[sizeof(cudaUUID_t)];
};

struct hall {
    std::atomic<int> arrived, left, aborted; /* ranks; aborted: the first, counted from 1 */
};

/* What goes before a message's bytes: both ends must mean the same. */
struct header {
    uint64_t bytes, kind;
};

enum kind : uint64_t { MESSAGE = 1, BROADCAST, ALL_REDUCE };

struct transfer {
    bool send;
    int peer;
    kind what;
    char *data;
    size_t bytes, done; /* done counts the header too */
    header heading;
};

struct group {
    std::vector<transfer> transfers;
    std::vector<std::function<void()>> at_end;
    cudaStream_t stream = nullptr;
    bool started = false, silent = false;
};

uint64_t number_from(const char *name, uint64_t otherwise)
{
    const char *text = getenv(name);
    return text && *text ? strtoull(text, nullptr, 10) : otherwise;
}

/* Of any communicator, also of one that could not be made. */
std::string &last_said()
{
    static auto *const one = new std::string;
    return *one;
}

struct communicator {
    int rank, size;
    std::string name, said;
    char *memory = nullptr;
    size_t bytes = 0;
    ncclResult_t state = ncclInProgress;
    enum { JOINING, OPEN, LEAVING } phase = JOINING;
    bool dead = false, silent = false;
    uint64_t groups = 0;
    int asked = 0; /* since a group was given */
    std::shared_ptr<group> given;
    std::vector<std::shared_ptr<group>> under_way;

    hall &meeting() { return *reinterpret_cast<hall *>(memory); }
    card &of(int r) { return reinterpret_cast<card *>(memory + PAGE)[r]; }
    size_t rings_at() const
    {
        return PAGE + ((size_t)size * sizeof(card) + PAGE - 1) / PAGE * PAGE;
    }
    size_t data_at() const
    {
        size_t rings = (size_t)size * (size_t)size * sizeof(ring);
        return rings_at() + (rings + PAGE - 1) / PAGE * PAGE;
    }
    ring &between(int from, int to)
    {
        return reinterpret_cast<ring *>(memory + rings_at())[from * size + to];
    }
    char *bytes_between(int from, int to)
    {
        return memory + data_at() + (size_t)(from * size + to) * RING_BYTES;
    }
    ncclResult_t fail(ncclResult_t result, const std::string &text)
    {
        last_said() = said = text;
        return state = result;
    }
    bool is_beside(int r) { return !strcmp(of(r).host, of(rank).host); }
    /* Another rank of this host that is still connected. */
    bool has_company()
    {
        for (int r = 0; r < size; ++r) {
            pid_t process = r == rank ? 0 : of(r).process.load();
            if (process && is_beside(r) && !kill(process, 0))
                return true;
        }
        return false;
    }
    ~communicator()
    {
        if (memory)
            munmap(memory, bytes);
    }
};

} // namespace

struct ncclComm {
    std::shared_ptr<communicator> it;
};

namespace
{

struct grouping {
    int depth = 0;
    std::shared_ptr<communicator> owner;
    std::shared_ptr<group> open;
};
grouping &current()
{
    static auto *const one = new grouping;
    return *one;
}

/* --- Bytes through rings --------------------------------------------------------- */

size_t put(communicator &c, int to, const char *data, size_t bytes)
{
    ring &r = c.between(c.rank, to);
    uint64_t written = r.written.load(std::memory_order_relaxed);
    bytes = std::min<size_t>(bytes, RING_BYTES - (written - r.read.load()));
    for (size_t done = 0, part; done < bytes; done += part) {
        size_t at = (written + done) % RING_BYTES;
        part = std::min<size_t>(bytes - done, RING_BYTES - at);
        memcpy(c.bytes_between(c.rank, to) + at, data + done, part);
    }
    r.written.store(written + bytes);
    return bytes;
}

size_t take(communicator &c, int from, char *data, size_t bytes)
{
    ring &r = c.between(from, c.rank);
    uint64_t read = r.read.load(std::memory_order_relaxed);
    bytes = std::min<size_t>(bytes, r.written.load() - read);
    for (size_t done = 0, part; done < bytes; done += part) {
        size_t at = (read + done) % RING_BYTES;
        part = std::min<size_t>(bytes - done, RING_BYTES - at);
        memcpy(data + done, c.bytes_between(from, c.rank) + at, part);
    }
    r.read.store(read + bytes);
    return bytes;
}

void check_heading(communicator &c, const transfer &t)
{
    if (t.heading.bytes == t.bytes && t.heading.kind == t.what)
        return;
    c.fail(ncclInternalError, "rank " + std::to_string(c.rank) + " waits for " +
                                  std::to_string(t.bytes) + " bytes of kind " +
                                  std::to_string(t.what) + " from rank " + std::to_string(t.peer) +
                                  ", which sends " + std::to_string(t.heading.bytes) + " of kind " +
                                  std::to_string(t.heading.kind));
    fprintf(stderr, "emulation: NCCL: %s\n", c.said.c_str());
}

/* True when something moved. */
bool move(communicator &c, transfer &t)
{
    size_t before = t.done;
    auto pass = [&](char *data, size_t bytes) {
        size_t moved = t.send ? put(c, t.peer, data, bytes) : take(c, t.peer, data, bytes);
        t.done += moved;
        return moved == bytes;
    };
    char *heading = reinterpret_cast<char *>(&t.heading);
    if (t.done < sizeof(header) && pass(heading + t.done, sizeof(header) - t.done) && !t.send)
        check_heading(c, t);
    if (t.done >= sizeof(header) && c.state <= ncclSuccess) {
        size_t at = t.done - sizeof(header);
        pass(t.data + at, t.bytes - at);
    }
    return t.done != before;
}

bool complete(const transfer &t)
{
    return t.done == sizeof(header) + t.bytes;
}

/* Messages of a pair in one direction go one after the other, those of others beside them. */
bool move_all(communicator &c, group &g)
{
    bool moved = false;
    std::set<std::pair<bool, int>> taken;
    for (transfer &t : g.transfers)
        if (!complete(t) && taken.insert({t.send, t.peer}).second) {
            moved = move(c, t) || moved;
            if (complete(t))
                taken.erase({t.send, t.peer});
        }
    return moved;
}

/* Whether a group that its stream has come to is done; lets it get on. */
bool reached_end(communicator &c, group &g)
{
    g.started = true;
    if (c.dead)
        return true;
    if (g.silent || c.state > ncclSuccess)
        return false;
    while (move_all(c, g))
        ;
    return std::all_of(g.transfers.begin(), g.transfers.end(), complete);
}

void end_group(communicator &c, const std::shared_ptr<group> &g)
{
    for (const auto &one : g->at_end)
        if (!c.dead)
            one();
    c.under_way.erase(std::find(c.under_way.begin(), c.under_way.end(), g));
}

/* What a rank has given must reach the others though it does nothing more: it is brought as far as its stream is. */
void give_to_stream(const std::shared_ptr<communicator> &c)
{
    std::shared_ptr<group> g = std::move(c->given);
    c->given = nullptr;
    c->under_way.push_back(g);
    lks_queue_push_when(
        g->stream, [c, g] { return reached_end(*c, *g); }, [c, g] { end_group(*c, g); });
    lks_queue_try([g] { return g->started; });
}

/* --- What is in progress ----------------------------------------------------------- */

void check_devices(communicator &c)
{
    for (int i = 0; i < c.size; ++i)
        for (int j = 0; j < i; ++j)
            if (!memcmp(c.of(i).device, c.of(j).device, sizeof c.of(i).device))
                c.fail(ncclInvalidUsage, "ranks " + std::to_string(j) + " and " +
                                             std::to_string(i) + " have the same device");
}

void join(communicator &c)
{
    if (c.silent || c.meeting().arrived.load() < c.size)
        return;
    (void)shm_unlink(c.name.c_str());
    c.phase = communicator::OPEN;
    c.state = ncclSuccess;
    check_devices(c);
}

void leave(communicator &c)
{
    lks_queue_try([&c] { return c.under_way.empty(); });
    if (c.under_way.empty() && c.meeting().left.load() == c.size)
        c.state = ncclSuccess;
}

void get_on(const std::shared_ptr<communicator> &c)
{
    uint64_t error_after = number_from("LKS_EMULATION_NCCL_ERROR_AFTER", UINT64_MAX);
    if (c->state != ncclSuccess && c->state != ncclInProgress)
        return;
    int aborted = c->meeting().aborted.load();
    if (aborted && !c->is_beside(aborted - 1))
        (void)c->fail(ncclRemoteError,
                      "rank " + std::to_string(aborted - 1) + " has closed its connections");
    else if (c->groups > error_after)
        (void)c->fail(ncclSystemError, "an emulated error");
    else if (c->phase == communicator::JOINING)
        join(*c);
    else if (c->phase == communicator::LEAVING)
        leave(*c);
    else if (c->given && ++c->asked > 1) {
        c->state = ncclSuccess;
        give_to_stream(c);
    }
}

/* --- Calls of a group ---------------------------------------------------------------- */

ncclResult_t refuse(communicator &c, const char *why)
{
    fprintf(stderr, "emulation: NCCL: %s\n", why);
    return c.fail(ncclInvalidUsage, why);
}

/* Of the types that are asked for; 0: another. */
size_t width_of(ncclDataType_t type)
{
    return type == ncclFloat32 ? sizeof(float) : type == ncclUint8 ? 1 : 0;
}

ncclResult_t check_call(ncclComm_t comm, const void *data, size_t count, ncclDataType_t type,
                        int peer)
{
    if (!comm)
        return ncclInvalidArgument;
    communicator &c = *comm->it;
    if (c.groups >= number_from("LKS_EMULATION_NCCL_REFUSE_AFTER", UINT64_MAX))
        return c.fail(ncclSystemError, "an emulated refusal");
    if (c.state != ncclSuccess)
        return refuse(c, "a call before what was begun is done, or after a failure");
    if (!width_of(type) || peer < 0 || peer >= c.size)
        return refuse(c, "a type other than float and bytes, or no such rank");
    if (count && !lks_devmem_holds(data, count * width_of(type)))
        return refuse(c, "data that is not in one allocation of device memory");
    return ncclSuccess;
}

ncclResult_t enlist(ncclComm_t comm, cudaStream_t stream, std::vector<transfer> transfers,
                    std::function<void()> at_end)
{
    grouping &now = current();
    ncclResult_t result = ncclGroupStart();
    if (!now.open) {
        now.open = std::make_shared<group>();
        now.open->stream = stream;
        now.owner = comm->it;
    }
    if (now.owner != comm->it || now.open->stream != stream)
        result = refuse(*comm->it, "the emulator wants one communicator and stream per group");
    else
        for (transfer &t : transfers)
            now.open->transfers.push_back(t);
    if (at_end)
        now.open->at_end.push_back(std::move(at_end));
    ncclResult_t ended = ncclGroupEnd();
    return result == ncclSuccess ? ended : result;
}

transfer part(bool send, int peer, kind what, const void *data, size_t bytes)
{
    char *at = const_cast<char *>(static_cast<const char *>(data));
    return {send, peer, what, at, bytes, 0, {send ? bytes : 0, send ? what : (uint64_t)0}};
}

/* Rank 0's numbers last: another order than any tree's, the same on all ranks. */
void add_up(int size, int rank, const float *own, const std::vector<float> &others, float *out,
            size_t count)
{
    for (size_t i = 0; i < count; ++i) {
        float sum = 0;
        for (int r = size; r-- > 0;)
            sum += r == rank ? own[i] : others[(size_t)r * count + i];
        out[i] = sum;
    }
}

} // namespace

extern "C" {

ncclResult_t ncclGetVersion(int *version)
{
    *version = (int)number_from("LKS_EMULATION_NCCL_VERSION", NCCL_VERSION_CODE);
    return ncclSuccess;
}

const char *ncclGetErrorString(ncclResult_t result)
{
    static const char *const words[] = {"no error",       "unhandled cuda error", "system error",
                                        "internal error", "invalid argument",     "invalid usage",
                                        "remote error",   "in progress"};
    return (unsigned)result < ncclNumResults ? words[result] : "unknown result code";
}

const char *ncclGetLastError(ncclComm_t comm)
{
    return comm ? comm->it->said.c_str() : last_said().c_str();
}

ncclResult_t ncclGetUniqueId(ncclUniqueId *out)
{
    uint64_t random[2];
    memset(out, 0, sizeof *out);
    if (getrandom(random, sizeof random, 0) != (ssize_t)sizeof random)
        return ncclSystemError;
    snprintf(out->internal, sizeof out->internal, "/lks-nccl-%016llx%016llx",
             (unsigned long long)random[0], (unsigned long long)random[1]);
    return ncclSuccess;
}

static bool open_memory(communicator &c)
{
    c.bytes = c.data_at() + (size_t)c.size * (size_t)c.size * RING_BYTES;
    int file = shm_open(c.name.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (file < 0)
        return false;
    void *memory = MAP_FAILED;
    if (!ftruncate(file, (off_t)c.bytes))
        memory = mmap(nullptr, c.bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    c.memory = memory == MAP_FAILED ? nullptr : static_cast<char *>(memory);
    return c.memory != nullptr;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t *out, int size, ncclUniqueId id, int rank,
                                    ncclConfig_t *config)
{
    LKS_CALL;
    cudaDeviceProp properties;
    int device = 0;
    *out = nullptr;
    if (size < 1 || rank < 0 || rank >= size || config->magic != 0xcafebeef || config->blocking)
        return ncclInvalidArgument;
    last_said() = "an emulated network that is not there";
    if (number_from("LKS_EMULATION_NCCL_UNREACHABLE", 0))
        return ncclSystemError;
    auto c = std::make_shared<communicator>();
    c->rank = rank;
    c->size = size;
    c->name = id.internal;
    c->silent = number_from("LKS_EMULATION_NCCL_SILENT_AFTER", UINT64_MAX) == 0;
    if (!open_memory(*c))
        return ncclSystemError;
    if (cudaGetDevice(&device) != cudaSuccess ||
        cudaGetDeviceProperties(&properties, device) != cudaSuccess)
        return ncclUnhandledCudaError;
    memcpy(c->of(rank).device, &properties.uuid, sizeof properties.uuid);
    (void)gethostname(c->of(rank).host, sizeof c->of(rank).host - 1);
    c->of(rank).process = getpid();
    if (!c->silent)
        ++c->meeting().arrived;
    *out = new ncclComm{c};
    return ncclInProgress;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t *state)
{
    LKS_CALL;
    if (!comm)
        return ncclInvalidArgument;
    get_on(comm->it);
    *state = comm->it->state;
    return ncclSuccess;
}

ncclResult_t ncclGroupStart()
{
    LKS_CALL;
    ++current().depth;
    return ncclSuccess;
}

ncclResult_t ncclGroupEnd()
{
    LKS_CALL;
    grouping &now = current();
    if (now.depth < 1)
        return ncclInvalidUsage;
    if (--now.depth || !now.open)
        return ncclSuccess;
    std::shared_ptr<communicator> c = std::move(now.owner);
    std::shared_ptr<group> g = std::move(now.open);
    now.owner = nullptr;
    now.open = nullptr;
    if (c->dead || c->state != ncclSuccess)
        return c->dead ? ncclInvalidUsage : c->state;
    ++c->groups;
    g->silent = c->groups > number_from("LKS_EMULATION_NCCL_SILENT_AFTER", UINT64_MAX);
    c->given = std::move(g);
    c->asked = 0;
    return c->state = ncclInProgress;
}

ncclResult_t ncclSend(const void *data, size_t count, ncclDataType_t type, int peer,
                      ncclComm_t comm, cudaStream_t stream)
{
    LKS_CALL;
    ncclResult_t result = check_call(comm, data, count, type, peer);
    return result == ncclSuccess
               ? enlist(comm, stream, {part(true, peer, MESSAGE, data, count * width_of(type))},
                        nullptr)
               : result;
}

ncclResult_t ncclRecv(void *data, size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream)
{
    LKS_CALL;
    ncclResult_t result = check_call(comm, data, count, type, peer);
    return result == ncclSuccess
               ? enlist(comm, stream, {part(false, peer, MESSAGE, data, count * width_of(type))},
                        nullptr)
               : result;
}

ncclResult_t ncclBroadcast(const void *from, void *to, size_t count, ncclDataType_t type, int root,
                           ncclComm_t comm, cudaStream_t stream)
{
    LKS_CALL;
    ncclResult_t result = check_call(comm, to, count, type, root);
    if (result != ncclSuccess)
        return result;
    communicator &c = *comm->it;
    const size_t bytes = count * width_of(type);
    std::vector<transfer> parts;
    if (root != c.rank)
        return enlist(comm, stream, {part(false, root, BROADCAST, to, bytes)}, nullptr);
    if (!lks_devmem_holds(from, bytes))
        return refuse(c, "data that is not in one allocation of device memory");
    for (int r = 0; r < c.size; ++r)
        if (r != c.rank)
            parts.push_back(part(true, r, BROADCAST, from, bytes));
    return enlist(comm, stream, parts, [=] { memmove(to, from, bytes); });
}

ncclResult_t ncclAllReduce(const void *from, void *to, size_t count, ncclDataType_t type,
                           ncclRedOp_t operation, ncclComm_t comm, cudaStream_t stream)
{
    LKS_CALL;
    ncclResult_t result = check_call(comm, to, count, type, 0);
    if (result != ncclSuccess)
        return result;
    communicator &c = *comm->it;
    if (operation != ncclSum || type != ncclFloat32 ||
        !lks_devmem_holds(from, count * sizeof(float)))
        return refuse(c,
                      "no sum of floats, or data that is not in one allocation of device memory");
    auto others = std::make_shared<std::vector<float>>((size_t)c.size * count);
    std::vector<transfer> parts;
    for (int r = 0; r < c.size; ++r) {
        if (r == c.rank)
            continue;
        parts.push_back(part(true, r, ALL_REDUCE, from, count * sizeof(float)));
        parts.push_back(
            part(false, r, ALL_REDUCE, others->data() + (size_t)r * count, count * sizeof(float)));
    }
    return enlist(comm, stream, parts, [=, size = c.size, rank = c.rank] {
        add_up(size, rank, static_cast<const float *>(from), *others, static_cast<float *>(to),
               count);
    });
}

ncclResult_t ncclCommFinalize(ncclComm_t comm)
{
    LKS_CALL;
    communicator &c = *comm->it;
    if (c.state != ncclSuccess)
        return refuse(c, "the end of a communicator that is in progress or has failed");
    c.phase = communicator::LEAVING;
    ++c.meeting().left;
    return c.state = ncclInProgress;
}

static void forget(ncclComm_t comm)
{
    std::shared_ptr<communicator> c = comm->it;
    {
        LKS_CALL;
        c->dead = true;
        c->of(c->rank).process = 0;
        (void)shm_unlink(c->name.c_str());
        delete comm;
    }
    while (c->has_company())
        usleep(1000);
}

ncclResult_t ncclCommDestroy(ncclComm_t comm)
{
    if (comm->it->phase != communicator::LEAVING || comm->it->state != ncclSuccess)
        fprintf(stderr, "emulation: NCCL: a communicator is destroyed that was not finalized\n");
    forget(comm);
    return ncclSuccess;
}

ncclResult_t ncclCommAbort(ncclComm_t comm)
{
    int none = 0;
    if (current().depth) {
        fprintf(stderr, "emulation: NCCL: an abort within a group, which waits for its end\n");
        return ncclInvalidUsage;
    }
    comm->it->meeting().aborted.compare_exchange_strong(none, comm->it->rank + 1);
    forget(comm);
    return ncclSuccess;
}

} // extern "C"
