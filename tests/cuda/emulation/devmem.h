/* The emulated device's memory: one range of addresses that the host may touch only while a kernel or a copy
 * runs, and what the host has pinned. */
#ifndef LKS_TESTS_CUDA_DEVMEM_H
#define LKS_TESTS_CUDA_DEVMEM_H

#include <stddef.h>
#include <stdint.h>
#include <string>
#include <sys/types.h>

/* 256-byte aligned, filled with NaN, a red zone on either side. NULL: no memory. */
void *lks_devmem_take(size_t bytes);
bool lks_devmem_give(void *memory); /* false: no such allocation */
void lks_devmem_free_bytes(size_t *available, size_t *total);

constexpr size_t LKS_DEVMEM_RESERVED = (size_t)16 << 30;
extern char *lks_devmem_base; /* of the range */
/* In the range at all; within one allocation. */
static inline size_t lks_devmem_offset(const void *address)
{
    return (size_t)(static_cast<const char *>(address) - lks_devmem_base);
}
static inline bool lks_devmem_covers(const void *address)
{
    return lks_devmem_base && lks_devmem_offset(address) < LKS_DEVMEM_RESERVED;
}
bool lks_devmem_holds(const void *address, size_t bytes);
/* The allocation that holds an address, as offsets; false: none does. */
bool lks_devmem_find(const void *address, size_t *first, size_t *end);
/* "4 bytes after the end of an allocation of 256 bytes". */
std::string lks_devmem_describe(const void *address);
/* "": all red zones are whole; else what was written where. They are mended. */
std::string lks_devmem_check();

/* Nested: open until as many closes. */
void lks_devmem_open();
void lks_devmem_close();

bool lks_devmem_pin(void *host, size_t bytes);
bool lks_devmem_unpin(void *host);
bool lks_devmem_pinned(const void *address, size_t bytes);

/* Memory of another process: /proc/<process>/fd/<file>. */
struct lks_devmem_handle {
    pid_t process;
    int file;
    size_t offset, bytes;
};
bool lks_devmem_export(void *memory, lks_devmem_handle *out);
void *lks_devmem_import(const lks_devmem_handle &handle);
bool lks_devmem_drop(void *imported);

#endif
