#include "access.h"

#include "block.h"
#include "devmem.h"
#include "fiber.h"

#include <link.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <string>
#include <sys/mman.h>
#include <vector>

namespace
{

enum : size_t { GRAIN = 2 }; /* bytes that are watched together */

/* Who touched a grain last: a thread's number, or more than one. */
enum : uint16_t {
    OF_WARP = 0x400,  /* several threads of the warp in the low bits */
    OF_BLOCK = 0x800, /* of several warps of the block */
    OF_GRID = 0x1000, /* of several blocks of the launch */
    ATOMIC = 0x2000,  /* and atomically */
};
struct trace {
    uint32_t era;
    uint16_t thread, warp_syncs;
};
struct grain {
    trace write, read;
};

bool active, races;
size_t recent, recent_end; /* the allocation that was touched last */
char *stacks;
size_t stacks_bytes;
uintptr_t image, image_end;
grain *global_grains;
std::vector<grain> shared_grains;

const char *verb(lks_access access)
{
    return access == LKS_ACCESS_READ ? "reads" : access == LKS_ACCESS_WRITE ? "writes" : "changes";
}

int find_image(dl_phdr_info *info, size_t, void *)
{
    for (int i = 0; i < info->dlpi_phnum; ++i) {
        uintptr_t begin = info->dlpi_addr + info->dlpi_phdr[i].p_vaddr;
        uintptr_t end = begin + info->dlpi_phdr[i].p_memsz;
        uintptr_t here = reinterpret_cast<uintptr_t>(&active);
        if (info->dlpi_phdr[i].p_type != PT_LOAD || here < begin || here >= end)
            continue;
        image = info->dlpi_addr + info->dlpi_phdr[0].p_vaddr;
        for (int j = 0; j < info->dlpi_phnum; ++j)
            if (info->dlpi_phdr[j].p_type == PT_LOAD) {
                uintptr_t first = info->dlpi_addr + info->dlpi_phdr[j].p_vaddr;
                image = first < image ? first : image;
                image_end = first + info->dlpi_phdr[j].p_memsz;
            }
        return 1;
    }
    return 0;
}

void set_up()
{
    stacks = lks_fiber_stacks();
    stacks_bytes = lks_fiber_stacks_bytes();
    dl_iterate_phdr(find_image, nullptr);
    void *memory = mmap(nullptr, LKS_DEVMEM_RESERVED / GRAIN * sizeof(grain),
                        PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    global_grains = memory == MAP_FAILED ? nullptr : static_cast<grain *>(memory);
}

/* --- Races --------------------------------------------------------------------- */

bool of_this_launch(const trace &before)
{
    return before.era >= lks_block_era.launch;
}

/* Is what `before` says in order with what thread `number` does now? Blocks run one after the other, so
 * an era of this launch and before this block's is another block's. */
bool in_order(const trace &before, unsigned number)
{
    if (!of_this_launch(before))
        return true;
    if (before.era < lks_block_era.block || before.thread & OF_GRID)
        return false;
    if (before.era != lks_block_era.now || (before.thread & 0xfff) == number)
        return true;
    if (before.thread & OF_BLOCK)
        return false;
    unsigned warp = before.thread & OF_WARP ? before.thread & 31u : (before.thread & 0x3ffu) / 32;
    return warp == number / 32 && before.warp_syncs != lks_emulation_self->warp_syncs;
}

trace trace_of(unsigned number, unsigned flags)
{
    return {lks_block_era.now, (uint16_t)(number | flags), lks_emulation_self->warp_syncs};
}

void remember_read(trace *read, unsigned number)
{
    if (of_this_launch(*read) && (read->era < lks_block_era.block || read->thread & OF_GRID)) {
        read->thread = OF_GRID;
        read->era = lks_block_era.now;
        return;
    }
    if (in_order(*read, number)) {
        *read = trace_of(number, 0);
        return;
    }
    unsigned warp = read->thread & OF_WARP ? read->thread & 31u : read->thread / 32u;
    if (read->thread & OF_BLOCK || warp != number / 32)
        read->thread = OF_BLOCK;
    else
        read->thread = (uint16_t)(OF_WARP | warp);
    read->warp_syncs = lks_emulation_self->warp_syncs;
}

std::string name_of(const trace &who)
{
    if (who.thread & OF_GRID)
        return "threads of several blocks";
    std::string block = who.era < lks_block_era.block ? "another block" : "its block";
    if (who.thread & OF_BLOCK)
        return "threads of several warps of " + block;
    if (who.thread & OF_WARP)
        return "threads of warp " + std::to_string(who.thread & 31) + " of " + block;
    return "thread " + std::to_string(who.thread & 0x3ff) + " of " + block;
}

void report(const void *address, lks_access access, const trace &who, const char *did)
{
    lks_fault_raise("race: %s %p, which %s %s with nothing between that orders the two",
                    verb(access), address, name_of(who).c_str(), did);
}

void watch(grain *g, const void *address, lks_access access, unsigned number)
{
    bool both_atomic = access == LKS_ACCESS_ATOMIC && g->write.thread & ATOMIC;
    if (!both_atomic && !in_order(g->write, number))
        return report(address, access, g->write,
                      g->write.thread & ATOMIC ? "changed atomically" : "wrote");
    if (access == LKS_ACCESS_READ)
        return remember_read(&g->read, number);
    if (!in_order(g->read, number))
        return report(address, access, g->read, "read");
    g->write = trace_of(number, access == LKS_ACCESS_ATOMIC ? ATOMIC : 0);
}

/* A block's shared memory is its own: what another block did there is forgotten. */
void forget_other_blocks(trace *t)
{
    if (t->era < lks_block_era.block)
        t->era = 0;
}

void watch_shared(size_t offset, const void *address, size_t bytes, lks_access access,
                  unsigned number)
{
    if (shared_grains.size() * GRAIN < lks_block_shared_end())
        shared_grains.resize(lks_block_shared_end() / GRAIN + 1);
    for (size_t i = offset / GRAIN; i < (offset + bytes) / GRAIN; ++i) {
        forget_other_blocks(&shared_grains[i].write);
        forget_other_blocks(&shared_grains[i].read);
        watch(&shared_grains[i], address, access, number);
    }
}

void watch_global(size_t offset, const void *address, size_t bytes, lks_access access,
                  unsigned number)
{
    for (size_t i = offset / GRAIN; i < (offset + bytes) / GRAIN; ++i)
        watch(&global_grains[i], address, access, number);
}

/* --- Bounds -------------------------------------------------------------------- */

void check(const void *address, size_t bytes, lks_access access, unsigned number)
{
    const char *at = static_cast<const char *>(address);
    if (lks_devmem_covers(address)) {
        size_t offset = lks_devmem_offset(address);
        if (offset < recent || offset + bytes > recent_end) {
            if (!lks_devmem_find(address, &recent, &recent_end) || offset + bytes > recent_end) {
                recent_end = 0;
                lks_fault_raise("%s %zu bytes at %p, %s", verb(access), bytes, address,
                                lks_devmem_describe(address).c_str());
            }
        }
        if (races && global_grains)
            watch_global(offset, address, bytes, access, number);
        return;
    }
    if (lks_block_owns_shared(at, bytes)) {
        if (races)
            watch_shared(lks_block_shared_offset(at), address, bytes, access, number);
        return;
    }
    uintptr_t place = reinterpret_cast<uintptr_t>(address);
    if ((place >= image && place < image_end) || lks_devmem_pinned(address, bytes))
        return;
    lks_fault_raise("%s %zu bytes at %p, which is neither device memory nor pinned nor this "
                    "block's shared memory",
                    verb(access), bytes, address);
}

inline void look(const void *address, size_t bytes, lks_access access)
{
    if (!active || (size_t)(static_cast<const char *>(address) - stacks) < stacks_bytes)
        return;
    if (address == &lks_emulation_self)
        return;
    check(address, bytes, access, lks_emulation_self->number);
}

} // namespace

void lks_access_check(const void *address, size_t bytes, lks_access access)
{
    look(address, bytes, access);
}

void lks_access_check_for(int lane, const void *address, size_t bytes, lks_access access)
{
    if (active)
        check(address, bytes, access, lks_emulation_self->number / 32 * 32 + (unsigned)lane);
}

void lks_access_begin(bool look_for_races)
{
    if (!stacks)
        set_up();
    recent = recent_end = 0;
    races = look_for_races;
    active = true;
}

void lks_access_end()
{
    active = false;
}

/* --- What the compiler calls before each access (-fsanitize=thread) ------------- */

#define LKS_HOOKS(bytes)                                                                           \
    void __tsan_read##bytes(const void *a)                                                         \
    {                                                                                              \
        look(a, bytes, LKS_ACCESS_READ);                                                           \
    }                                                                                              \
    void __tsan_write##bytes(void *a)                                                              \
    {                                                                                              \
        look(a, bytes, LKS_ACCESS_WRITE);                                                          \
    }                                                                                              \
    void __tsan_unaligned_read##bytes(const void *a)                                               \
    {                                                                                              \
        look(a, bytes, LKS_ACCESS_READ);                                                           \
    }                                                                                              \
    void __tsan_unaligned_write##bytes(void *a)                                                    \
    {                                                                                              \
        look(a, bytes, LKS_ACCESS_WRITE);                                                          \
    }                                                                                              \
    void __tsan_volatile_read##bytes(const void *a)                                                \
    {                                                                                              \
        look(a, bytes, LKS_ACCESS_READ);                                                           \
    }                                                                                              \
    void __tsan_volatile_write##bytes(void *a)                                                     \
    {                                                                                              \
        look(a, bytes, LKS_ACCESS_WRITE);                                                          \
    }

/* What it calls where an address is not aligned as its type wants (-fsanitize=alignment): a device does not read or write
 * there. The compiler's own structure, of which the first and the type's alignment are looked at. */
struct lks_misaligned {
    const char *file;
    uint32_t line, column;
    const void *type;
    unsigned char log_alignment, kind;
};

static void misaligned(const lks_misaligned *what, uintptr_t address)
{
    const char *slash = what->file ? strrchr(what->file, '/') : nullptr;
    if (active)
        lks_fault_raise("%s:%u uses %p, which is not %u-byte aligned", slash ? slash + 1 : "?",
                        what->line, reinterpret_cast<void *>(address), 1u << what->log_alignment);
}

/* Of the host's code in the same files: shared pointers, guards of statics. */
#define LKS_ATOMICS(bits, type)                                                                    \
    type __tsan_atomic##bits##_load(const type *a, int)                                            \
    {                                                                                              \
        return __atomic_load_n(a, 5);                                                              \
    }                                                                                              \
    void __tsan_atomic##bits##_store(type *a, type v, int)                                         \
    {                                                                                              \
        __atomic_store_n(a, v, 5);                                                                 \
    }                                                                                              \
    type __tsan_atomic##bits##_exchange(type *a, type v, int)                                      \
    {                                                                                              \
        return __atomic_exchange_n(a, v, 5);                                                       \
    }                                                                                              \
    type __tsan_atomic##bits##_fetch_add(type *a, type v, int)                                     \
    {                                                                                              \
        return __atomic_fetch_add(a, v, 5);                                                        \
    }                                                                                              \
    type __tsan_atomic##bits##_fetch_sub(type *a, type v, int)                                     \
    {                                                                                              \
        return __atomic_fetch_sub(a, v, 5);                                                        \
    }                                                                                              \
    int __tsan_atomic##bits##_compare_exchange_strong(type *a, type *c, type v, int, int)          \
    {                                                                                              \
        return __atomic_compare_exchange_n(a, c, v, false, 5, 5);                                  \
    }

extern "C" {
void __ubsan_handle_type_mismatch_v1(const lks_misaligned *what, uintptr_t address)
{
    misaligned(what, address);
}
void __tsan_init() {}
void __tsan_atomic_thread_fence(int) {}
void __tsan_atomic_signal_fence(int) {}
void __tsan_func_entry(void *) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void *, void *) {}
void __tsan_vptr_read(void *) {}
void __tsan_read_range(const void *a, size_t bytes)
{
    look(a, bytes, LKS_ACCESS_READ);
}
void __tsan_write_range(void *a, size_t bytes)
{
    look(a, bytes, LKS_ACCESS_WRITE);
}
LKS_HOOKS(1)
LKS_HOOKS(2)
LKS_HOOKS(4)
LKS_HOOKS(8)
LKS_HOOKS(16)
LKS_ATOMICS(8, uint8_t)
LKS_ATOMICS(16, uint16_t)
LKS_ATOMICS(32, uint32_t)
LKS_ATOMICS(64, uint64_t)
}
