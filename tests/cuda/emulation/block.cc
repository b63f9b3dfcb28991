#include "block.h"

#include "access.h"
#include "fiber.h"
#include "random.h"
#include "warp.h"

#include <link.h>
#include <numeric>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <string>
#include <vector>

lks_emulation_thread *lks_emulation_self;
lks_block_eras lks_block_era;

namespace
{

constexpr int WARP = 32, WARPS_MAX = LKS_FIBERS_MAX / WARP, BARRIERS = 16, TAIL_BYTES = 256;
enum class at { ready, block, named, warp, ended };

struct copy {
    char *to;
    const char *from;
    int bytes;
    bool valid;
    unsigned group;
};

struct thread {
    lks_emulation_thread *self;
    at where;
    const char *what; /* it waits at */
    int barrier;
    lks_warp_lane lane;
    unsigned groups; /* committed */
    std::vector<copy> copies;
};

struct warp {
    unsigned arrived; /* lanes that wait for the others */
    unsigned syncs;
};

struct running_block {
    const lks_emulation_kernel *kernel;
    lks_random *random;
    dim3 index;
    unsigned number, thread_count, done;
    thread threads[LKS_FIBERS_MAX];
    warp warps[WARPS_MAX];
    unsigned named_arrived[BARRIERS];
    int arrived, sum, result; /* at the block's barrier */
    bool failed, active;
    char *statics; /* what the module's kernels declare __shared__ */
    size_t statics_bytes;
    std::vector<unsigned> ready;
};
running_block now;
std::string fault_text;
alignas(1024) char dynamic_shared[LKS_BLOCK_SHARED_BYTES + TAIL_BYTES];

thread &self()
{
    return now.threads[lks_emulation_self->number];
}

std::string named(const char *what, unsigned x, unsigned y, unsigned z)
{
    char text[96];
    snprintf(text, sizeof text, "%s (%u, %u, %u)", what, x, y, z);
    return text;
}

std::string thread_name(unsigned number)
{
    dim3 size = now.kernel->block;
    return named("thread", number % size.x, number / size.x % size.y, number / size.x / size.y);
}

void make_ready(unsigned number)
{
    now.threads[number].where = at::ready;
    now.ready.push_back(number);
}

void wait(at where, const char *what)
{
    self().where = where;
    self().what = what;
    lks_fiber_leave();
}

/* --- One thread ---------------------------------------------------------------- */

void run_thread(int number)
{
    dim3 size = now.kernel->block, index = now.index;
    unsigned n = (unsigned)number;
    lks_emulation_thread me = {{n % size.x, n / size.x % size.y, n / size.x / size.y},
                               {index.x, index.y, index.z},
                               size,
                               now.kernel->grid,
                               n,
                               0};
    now.threads[n].self = lks_emulation_self = &me;
    now.kernel->call(now.kernel->arguments.get());
    now.threads[n].where = at::ended;
    ++now.done;
    lks_fiber_leave();
}

void prepare_threads()
{
    now.ready.clear();
    for (unsigned i = 0; i < now.thread_count; ++i) {
        thread &t = now.threads[i];
        t.groups = 0;
        t.copies.clear();
        make_ready(i);
        lks_fiber_prepare((int)i, run_thread);
    }
    memset(now.warps, 0, sizeof now.warps);
    memset(now.named_arrived, 0, sizeof now.named_arrived);
    now.done = 0;
    now.arrived = now.sum = 0;
    lks_block_era.block = ++lks_block_era.now;
}

void poison_shared()
{
    memset(dynamic_shared, 0xff, now.kernel->shared_bytes);
    memset(dynamic_shared + now.kernel->shared_bytes, 0xa5, TAIL_BYTES);
    memset(now.statics, 0xff, now.statics_bytes);
}

void check_tail()
{
    for (int i = 0; i < TAIL_BYTES; ++i)
        if ((unsigned char)dynamic_shared[now.kernel->shared_bytes + (size_t)i] != 0xa5) {
            lks_emulation_self = nullptr;
            return lks_fault_raise("wrote %d bytes after its %zu bytes of dynamic shared memory", i,
                                   now.kernel->shared_bytes);
        }
}

/* Nothing is ready and not all have ended: says who waits for whom. */
void explain_standstill()
{
    unsigned waiting = 0;
    while (now.threads[waiting].where == at::ended)
        ++waiting;
    const thread &t = now.threads[waiting];
    std::string missing = "nobody";
    for (unsigned i = 0; i < now.thread_count; ++i) {
        const thread &other = now.threads[i];
        bool warp_mate = i / WARP == waiting / WARP && (t.lane.mask >> i % WARP & 1);
        bool same = other.where == t.where && !strcmp(other.what, t.what) &&
                    (t.where != at::warp || other.lane.mask == t.lane.mask);
        if (same || (t.where == at::warp && !warp_mate))
            continue;
        missing = thread_name(i);
        missing += other.where == at::ended ? ", which has ended"
                                            : std::string(", which waits at ") + other.what;
        break;
    }
    if (t.where == at::warp && missing == "nobody")
        missing = "a lane of the mask that the block does not have";
    lks_emulation_self = t.self;
    lks_fault_raise("waits at %s for %s", t.what, missing.c_str());
}

bool run_block()
{
    poison_shared();
    prepare_threads();
    while (!now.ready.empty() && !now.failed) {
        size_t at = now.random->below(now.ready.size());
        unsigned number = now.ready[at];
        if (now.random->in_order()) {
            now.ready.erase(now.ready.begin() + (long)at);
        } else {
            now.ready[at] = now.ready.back();
            now.ready.pop_back();
        }
        lks_emulation_self = now.threads[number].self;
        lks_fiber_enter((int)number);
    }
    if (!now.failed && now.done < now.thread_count)
        explain_standstill();
    if (!now.failed)
        check_tail();
    return !now.failed;
}

} // namespace

/* The emulator has no other thread-local variable: all of the module's are written over. */
static thread_local char touched;

static int find_statics(dl_phdr_info *info, size_t, void *)
{
    char *memory = static_cast<char *>(info->dlpi_tls_data);
    for (int i = 0; memory && i < info->dlpi_phnum; ++i) {
        size_t bytes = info->dlpi_phdr[i].p_memsz;
        if (info->dlpi_phdr[i].p_type != PT_TLS || &touched < memory || &touched >= memory + bytes)
            continue;
        now.statics = memory;
        now.statics_bytes = bytes;
        return 1;
    }
    return 0;
}

/* --- The grid ------------------------------------------------------------------ */

bool lks_block_run_grid(const lks_emulation_kernel &kernel, uint64_t seed)
{
    lks_random random(seed);
    unsigned count = kernel.grid.x * kernel.grid.y * kernel.grid.z;
    std::vector<unsigned> order(count);
    std::iota(order.begin(), order.end(), 0u);
    if (!random.in_order())
        for (unsigned i = count; i > 1; --i)
            std::swap(order[i - 1], order[random.below(i)]);
    now.kernel = &kernel;
    now.random = &random;
    now.thread_count = kernel.block.x * kernel.block.y * kernel.block.z;
    now.failed = false;
    touched = 1; /* the system makes them at the first use */
    dl_iterate_phdr(find_statics, nullptr);
    now.active = true;
    lks_block_era.launch = lks_block_era.now + 1;
    for (unsigned number : order) {
        now.number = number;
        now.index = dim3(number % kernel.grid.x, number / kernel.grid.x % kernel.grid.y,
                         number / kernel.grid.x / kernel.grid.y);
        if (!run_block())
            break;
    }
    now.active = false;
    lks_emulation_self = nullptr;
    return !now.failed;
}

bool lks_block_running()
{
    return now.active;
}

bool lks_block_owns_shared(const char *address, size_t bytes)
{
    size_t at = (size_t)(address - dynamic_shared);
    if (at < now.kernel->shared_bytes && at + bytes <= now.kernel->shared_bytes)
        return true;
    return address >= now.statics && address + bytes <= now.statics + now.statics_bytes;
}

size_t lks_block_shared_offset(const char *address)
{
    size_t at = (size_t)(address - dynamic_shared);
    if (at < now.kernel->shared_bytes)
        return at;
    return LKS_BLOCK_SHARED_BYTES + (size_t)(address - now.statics);
}

size_t lks_block_shared_end()
{
    return LKS_BLOCK_SHARED_BYTES + now.statics_bytes;
}

/* --- Faults -------------------------------------------------------------------- */

void lks_fault_raise(const char *format, ...)
{
    char text[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    std::string where;
    if (now.active) {
        const char *slash = strrchr(now.kernel->file, '/');
        where = std::string("kernel ") + now.kernel->name + " (" +
                (slash ? slash + 1 : now.kernel->file) + ":" + std::to_string(now.kernel->line) +
                "), " + named("block", now.index.x, now.index.y, now.index.z) +
                (lks_emulation_self ? ", " + thread_name(lks_emulation_self->number) : "") + ": ";
    }
    if (fault_text.empty()) {
        fault_text = where + text;
        fprintf(stderr, "emulation: %s\n", fault_text.c_str());
    }
    now.failed = true;
    if (now.active && lks_emulation_self && self().where == at::ready)
        lks_fiber_leave();
}

const char *lks_fault_text()
{
    return fault_text.c_str();
}

void lks_fault_clear()
{
    fault_text.clear();
}

void lks_emulation_stop(const char *what)
{
    lks_fault_raise("%s", what);
    __builtin_unreachable();
}

/* --- Waiting for the block ----------------------------------------------------- */

int lks_emulation_block_barrier(const char *what, int value)
{
    now.sum += value;
    if (++now.arrived < (int)now.thread_count) {
        wait(at::block, what);
        return now.result;
    }
    for (unsigned i = 0; i < now.thread_count; ++i)
        if (now.threads[i].where == at::block && strcmp(now.threads[i].what, what))
            lks_fault_raise("is at %s while %s is at %s", what, thread_name(i).c_str(),
                            now.threads[i].what);
    now.result = now.sum;
    now.arrived = now.sum = 0;
    ++lks_block_era.now;
    for (unsigned i = 0; i < now.thread_count; ++i)
        if (now.threads[i].where == at::block)
            make_ready(i);
    make_ready(lks_emulation_self->number);
    lks_fiber_leave();
    return now.result;
}

void lks_emulation_named_barrier(int number, int count)
{
    static const char *const what = "a named barrier";
    if (number < 0 || number >= BARRIERS || count % WARP || count > (int)now.thread_count)
        lks_fault_raise("named barrier %d of %d threads: there are %d, of whole warps", number,
                        count, BARRIERS);
    self().barrier = number;
    if (++now.named_arrived[number] < (unsigned)count)
        return wait(at::named, what);
    now.named_arrived[number] = 0;
    ++lks_block_era.now; /* orders more than it should: that errs on the side of silence */
    for (unsigned i = 0; i < now.thread_count; ++i)
        if (now.threads[i].where == at::named && now.threads[i].barrier == number)
            make_ready(i);
    make_ready(lks_emulation_self->number);
    lks_fiber_leave();
}

void lks_emulation_fence() {} /* threads take turns: each sees all that was written before */

/* --- Waiting for the warp ------------------------------------------------------ */

void lks_emulation_converge(lks_emulation_collective kind, const char *what, unsigned mask,
                            const void *in, size_t in_bytes, void *out, size_t out_bytes)
{
    unsigned number = lks_emulation_self->number, lane = number % WARP, first = number - lane;
    warp &group = now.warps[number / WARP];
    thread &me = self();
    if (!(mask >> lane & 1))
        lks_fault_raise("is at %s with mask %08x, which does not name its lane %u", what, mask,
                        lane);
    me.lane.kind = kind;
    me.lane.mask = mask;
    memcpy(me.lane.in, in, in ? in_bytes : 0);
    group.arrived |= 1u << lane;
    if ((group.arrived & mask) != mask) {
        wait(at::warp, what);
    } else {
        lks_warp_lane *lanes[WARP] = {};
        for (unsigned i = 0; i < WARP; ++i) {
            if (!(mask >> i & 1))
                continue;
            thread &other = now.threads[first + i];
            if (i != lane && (other.lane.mask != mask || strcmp(other.what, what)))
                lks_fault_raise("is at %s with mask %08x while lane %u is at %s with mask %08x",
                                what, mask, i, other.what, other.lane.mask);
            lanes[i] = &other.lane;
        }
        lks_warp_complete(lanes);
        group.arrived &= ~mask;
        if (kind == LKS_COLLECTIVE_SYNC)
            ++group.syncs;
        for (unsigned i = 0; i < WARP; ++i)
            if (lanes[i]) {
                if (kind == LKS_COLLECTIVE_SYNC)
                    now.threads[first + i].self->warp_syncs = (uint16_t)group.syncs;
                make_ready(first + i);
            }
        lks_fiber_leave();
    }
    memcpy(out, me.lane.out, out ? out_bytes : 0);
}

/* --- Copies in the background -------------------------------------------------- */

void *lks_emulation_dynamic_shared()
{
    return dynamic_shared;
}

void lks_emulation_copy(void *shared, const void *global, int bytes, bool valid)
{
    if ((uintptr_t)shared % (unsigned)bytes || (valid && (uintptr_t)global % (unsigned)bytes))
        lks_fault_raise("copies %d bytes in the background from %p to %p, which must be aligned "
                        "to that size",
                        bytes, global, shared);
    if (!lks_block_owns_shared(static_cast<char *>(shared), (size_t)bytes))
        lks_fault_raise("copies in the background to %p, which is not in shared memory", shared);
    lks_access_check(shared, (size_t)bytes, LKS_ACCESS_WRITE);
    if (valid)
        lks_access_check(global, (size_t)bytes, LKS_ACCESS_READ);
    memset(shared, 0xff, (size_t)bytes); /* until the wait */
    self().copies.push_back({static_cast<char *>(shared), static_cast<const char *>(global), bytes,
                             valid, self().groups});
}

void lks_emulation_copy_commit()
{
    ++self().groups;
}

void lks_emulation_copy_wait(int left)
{
    thread &me = self();
    std::vector<copy> later;
    for (const copy &c : me.copies) {
        if ((int)(me.groups - c.group) <= left) {
            later.push_back(c);
            continue;
        }
        lks_access_check(c.to, (size_t)c.bytes, LKS_ACCESS_WRITE);
        if (c.valid)
            memcpy(c.to, c.from, (size_t)c.bytes);
        else
            memset(c.to, 0, (size_t)c.bytes);
    }
    me.copies.swap(later);
}

void lks_emulation_atomic(const void *address, size_t bytes, const char *)
{
    lks_access_check(address, bytes, LKS_ACCESS_ATOMIC);
}
