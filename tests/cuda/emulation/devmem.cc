#include "devmem.h"

#include <errno.h>
#include <fcntl.h>
#include <iterator>
#include <map>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

char *lks_devmem_base;

namespace
{

enum : size_t { ALIGNMENT = 256, ZONE = 256, PAGE = 4096 };
enum : size_t { RESERVED = LKS_DEVMEM_RESERVED, CAPACITY = (size_t)4 << 30 };
enum : unsigned char { FRESH = 0xff, RED = 0xa5 };

struct allocation {
    size_t bytes;
    bool imported;
};

struct arena {
    int file;
    char *base;
    size_t used = 0, taken = 0; /* up to the last allocation's end; sum of all */
    int opens = 0;
    std::map<size_t, allocation> allocations; /* by offset */

    arena()
    {
        file = memfd_create("lks-emulated-device", MFD_CLOEXEC);
        void *memory = MAP_FAILED;
        if (file >= 0 && !ftruncate(file, (off_t)RESERVED))
            memory = mmap(nullptr, RESERVED, PROT_NONE, MAP_SHARED | MAP_NORESERVE, file, 0);
        if (memory == MAP_FAILED) {
            perror("emulation: no address range for the device's memory");
            abort();
        }
        lks_devmem_base = base = static_cast<char *>(memory);
    }
    void protect(size_t from, size_t to, int protection)
    {
        if (to > from && mprotect(base + from, to - from, protection)) {
            perror("emulation: mprotect");
            abort();
        }
    }
};

arena &the_arena()
{
    static arena *const one = new arena; /* outlives every other static object */
    return *one;
}

std::map<char *, size_t> &pins()
{
    static auto *const one = new std::map<char *, size_t>;
    return *one;
}

size_t round_up(size_t value, size_t multiple)
{
    return (value + multiple - 1) / multiple * multiple;
}

/* Where `bytes` with their red zones fit first; a new user of old pages. */
size_t find_gap(const arena &a, size_t bytes, size_t alignment)
{
    size_t at = round_up(ZONE, alignment);
    for (const auto &[offset, one] : a.allocations) {
        size_t first = offset, end = offset + one.bytes;
        if (one.imported) { /* the rest of its pages is another process's too */
            first = first / PAGE * PAGE;
            end = round_up(end, PAGE);
        }
        if (at + bytes + ZONE <= first - ZONE)
            return at;
        at = round_up(end + 2 * ZONE, alignment);
    }
    return at;
}

void extend(arena &a, size_t end)
{
    end = round_up(end, PAGE);
    if (end <= a.used)
        return;
    if (a.opens)
        a.protect(a.used, end, PROT_READ | PROT_WRITE);
    a.used = end;
}

const std::pair<const size_t, allocation> *allocation_before(size_t offset)
{
    auto next = the_arena().allocations.upper_bound(offset);
    return next == the_arena().allocations.begin() ? nullptr : &*std::prev(next);
}

} // namespace

void *lks_devmem_take(size_t bytes)
{
    arena &a = the_arena();
    size_t at = find_gap(a, bytes, ALIGNMENT);
    if (a.taken + bytes > CAPACITY || at + bytes + ZONE > RESERVED)
        return nullptr;
    extend(a, at + bytes + ZONE);
    a.allocations[at] = {bytes, false};
    a.taken += bytes;
    lks_devmem_open();
    memset(a.base + at - ZONE, RED, ZONE);
    memset(a.base + at, FRESH, bytes);
    memset(a.base + at + bytes, RED, ZONE);
    lks_devmem_close();
    return a.base + at;
}

bool lks_devmem_give(void *memory)
{
    arena &a = the_arena();
    auto found = a.allocations.find(lks_devmem_offset(memory));
    if (found == a.allocations.end() || found->second.imported)
        return false;
    size_t first = round_up(found->first, PAGE);
    size_t last = (found->first + found->second.bytes) / PAGE * PAGE;
    if (last > first)
        fallocate(a.file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)first,
                  (off_t)(last - first));
    a.taken -= found->second.bytes;
    a.allocations.erase(found);
    return true;
}

void lks_devmem_free_bytes(size_t *available, size_t *total)
{
    *total = CAPACITY;
    *available = CAPACITY - the_arena().taken;
}

bool lks_devmem_find(const void *address, size_t *first, size_t *end)
{
    const auto *found =
        lks_devmem_covers(address) ? allocation_before(lks_devmem_offset(address)) : nullptr;
    if (!found || lks_devmem_offset(address) >= found->first + found->second.bytes)
        return false;
    *first = found->first;
    *end = found->first + found->second.bytes;
    return true;
}

bool lks_devmem_holds(const void *address, size_t bytes)
{
    size_t first, end;
    return lks_devmem_find(address, &first, &end) && lks_devmem_offset(address) + bytes <= end;
}

std::string lks_devmem_describe(const void *address)
{
    size_t offset = lks_devmem_offset(address);
    const auto *found = allocation_before(offset);
    if (!found)
        return "in device memory that was never allocated";
    size_t end = found->first + found->second.bytes;
    return (offset < end ? std::to_string(end - offset) + " bytes before the end"
                         : std::to_string(offset - end) + " bytes after the end") +
           " of an allocation of " + std::to_string(found->second.bytes) + " bytes";
}

/* Offset of the first byte that is not the pattern, or ZONE; writes the pattern again. */
static size_t mend(char *zone)
{
    size_t bad = 0;
    while (bad < ZONE && (unsigned char)zone[bad] == RED)
        ++bad;
    if (bad < ZONE)
        memset(zone, RED, ZONE);
    return bad;
}

std::string lks_devmem_check()
{
    std::string found;
    lks_devmem_open();
    for (const auto &[offset, one] : the_arena().allocations) {
        if (one.imported)
            continue;
        char *memory = the_arena().base + offset;
        std::string size = std::to_string(one.bytes) + " bytes";
        size_t before = mend(memory - ZONE), after = mend(memory + one.bytes);
        if (after < ZONE)
            found = std::to_string(after) + " bytes after the end of an allocation of " + size;
        if (before < ZONE)
            found = std::to_string(ZONE - before) + " bytes before an allocation of " + size;
    }
    lks_devmem_close();
    return found;
}

void lks_devmem_open()
{
    arena &a = the_arena();
    if (a.opens++ == 0)
        a.protect(0, a.used, PROT_READ | PROT_WRITE);
}

void lks_devmem_close()
{
    arena &a = the_arena();
    if (--a.opens == 0)
        a.protect(0, a.used, PROT_NONE);
}

/* --- Pinned host memory -------------------------------------------------------- */

bool lks_devmem_pin(void *host, size_t bytes)
{
    return bytes && pins().emplace(static_cast<char *>(host), bytes).second;
}

bool lks_devmem_unpin(void *host)
{
    return pins().erase(static_cast<char *>(host)) == 1;
}

bool lks_devmem_pinned(const void *address, size_t bytes)
{
    char *at = static_cast<char *>(const_cast<void *>(address));
    auto next = pins().upper_bound(at);
    if (next == pins().begin())
        return false;
    --next;
    return at + bytes <= next->first + next->second;
}

/* --- Between processes --------------------------------------------------------- */

bool lks_devmem_export(void *memory, lks_devmem_handle *out)
{
    arena &a = the_arena();
    auto found = a.allocations.find(lks_devmem_offset(memory));
    if (found == a.allocations.end() || found->second.imported)
        return false;
    *out = {getpid(), a.file, found->first, found->second.bytes};
    return true;
}

void *lks_devmem_import(const lks_devmem_handle &handle)
{
    arena &a = the_arena();
    char path[64];
    snprintf(path, sizeof path, "/proc/%ld/fd/%d", (long)handle.process, handle.file);
    int file = open(path, O_RDWR | O_CLOEXEC);
    if (file < 0)
        return nullptr;
    size_t inside = handle.offset % PAGE, bytes = round_up(inside + handle.bytes, PAGE);
    size_t at = find_gap(a, bytes + 2 * PAGE, PAGE);
    void *mapped = MAP_FAILED;
    if (at + bytes + 2 * PAGE <= RESERVED) {
        extend(a, at + bytes + PAGE);
        int protection = a.opens ? PROT_READ | PROT_WRITE : PROT_NONE;
        mapped = mmap(a.base + at, bytes, protection, MAP_SHARED | MAP_FIXED, file,
                      (off_t)(handle.offset - inside));
    }
    close(file);
    if (mapped == MAP_FAILED)
        return nullptr;
    a.allocations[at + inside] = {handle.bytes, true};
    return a.base + at + inside;
}

bool lks_devmem_drop(void *imported)
{
    arena &a = the_arena();
    auto found = a.allocations.find(lks_devmem_offset(imported));
    if (found == a.allocations.end() || !found->second.imported)
        return false;
    size_t at = found->first / PAGE * PAGE;
    size_t bytes = round_up(found->first - at + found->second.bytes, PAGE);
    a.allocations.erase(found);
    /* The pages are this process's own again. */
    return mmap(a.base + at, bytes, a.opens ? PROT_READ | PROT_WRITE : PROT_NONE,
                MAP_SHARED | MAP_NORESERVE | MAP_FIXED, a.file, (off_t)at) != MAP_FAILED;
}
