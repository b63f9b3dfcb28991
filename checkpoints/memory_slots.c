/* The files that a start writes its copies to. */
#include "checkpoints/memory_state.h"
#include "runtime/base/files.h"
#include "runtime/base/node_memory.h"
#include "runtime/base/text.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/statvfs.h>
#include <unistd.h>

void lks_memory_slot_name(const lks_memory_copies *c, int rank, int slot, char out[LKS_MEMORY_NAME])
{
    snprintf(out, LKS_MEMORY_NAME, "%spartial-rank-%d-at-%d-%d", c->prefix, rank,
             lks_comm_rank(c->comm), slot);
}

static lks_status join(const lks_memory_copies *c, const char *name, char **path)
{
    *path = lks_files_join(c->directory, name);
    return *path != NULL ? LKS_OK : LKS_FAIL(LKS_ERR_INTERNAL, "no memory for a path");
}

/* --- Room ----------------------------------------------------------------------- */

lks_status lks_memory_check_room(const lks_memory_copies *c, uint64_t node_bytes)
{
    struct statvfs disk;
    char has[32], needs[32];
    if (statvfs(c->directory, &disk) != 0)
        return LKS_FAIL(LKS_ERR_IO, "cannot look at %s: %s; set checkpoint.memory_directory",
                        c->directory, strerror(errno));
    uint64_t room = disk.f_bavail * disk.f_frsize, memory = lks_node_memory_available("") / 10 * 8;
    const char *what = c->directory;
    if (memory < room) {
        what = "the memory";
        room = memory;
    }
    if (node_bytes <= room)
        return LKS_OK;
    return LKS_FAIL(LKS_ERR_IO,
                    "%s of %s has room for %s, the copies need %s: make room, or set "
                    "checkpoint.memory_every_steps=0",
                    what, lks_comm_host(c->comm, lks_comm_rank(c->comm)),
                    lks_text_bytes(has, sizeof has, room),
                    lks_text_bytes(needs, sizeof needs, node_bytes));
}

/* --- Making ----------------------------------------------------------------------- */

static lks_status make_slot(lks_memory_slot *slot, const char *path)
{
    unlink(path);
    int file = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (file < 0)
        return LKS_FAIL(LKS_ERR_IO, "cannot create %s: %s", path, strerror(errno));
    void *map = MAP_FAILED;
    if (ftruncate(file, (off_t)slot->bytes) == 0)
        map = mmap(NULL, slot->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    int error = errno;
    close(file);
    if (map == MAP_FAILED)
        return LKS_FAIL(LKS_ERR_IO, "%s: cannot map %zu bytes: %s", path, slot->bytes,
                        strerror(error));
    slot->map = map;
    return LKS_OK;
}

lks_status lks_memory_slots_make(lks_memory_copies *c, int slot)
{
    for (int i = 0; i < c->series_count; ++i) {
        lks_memory_series *series = &c->series[i];
        lks_memory_slot *s = &series->slots[slot];
        char *path;
        lks_memory_slot_name(c, series->rank, slot, s->partial);
        memcpy(s->name, s->partial, sizeof s->name);
        s->bytes = series->shape.bytes;
        LKS_TRY(join(c, s->partial, &path));
        lks_status status = make_slot(s, path);
        free(path);
        LKS_TRY(status);
        c->stats.bytes += s->bytes;
    }
    return LKS_OK;
}

/* Reserved first, so that a full file system is an error and not SIGBUS; then touched, so that the first
 * copy does not wait for pages. */
static lks_status warm_slot(const lks_memory_copies *c, const lks_memory_slot *slot)
{
    char *path;
    int code = 0;
    LKS_TRY(join(c, slot->name, &path));
    int file = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (file < 0)
        code = errno;
    while (file >= 0 && (code = posix_fallocate(file, 0, (off_t)slot->bytes)) == EINTR)
        ;
    if (file >= 0)
        close(file);
    lks_status status = LKS_OK;
    if (code != 0)
        status = LKS_FAIL(LKS_ERR_IO, "%s: cannot reserve %zu bytes: %s", path, slot->bytes,
                          strerror(code));
    free(path);
    volatile char *bytes = slot->map;
    for (size_t at = 0; status == LKS_OK && at < slot->bytes; at += LKS_MEMORY_PAGE)
        bytes[at] = 0;
    return status;
}

lks_status lks_memory_slots_warm(void *user)
{
    lks_memory_copies *c = user;
    for (int i = 0; i < c->series_count; ++i)
        for (int s = 0; s < LKS_MEMORY_SLOTS; ++s)
            if (c->series[i].slots[s].map != NULL && s != c->whole)
                LKS_TRY(warm_slot(c, &c->series[i].slots[s]));
    return LKS_OK;
}

/* --- Renaming --------------------------------------------------------------------- */

static lks_status rename_slot(const lks_memory_copies *c, lks_memory_slot *slot, const char *name)
{
    char *from, *to = lks_files_join(c->directory, name);
    lks_status status = join(c, slot->name, &from);
    if (status == LKS_OK && (to == NULL || rename(from, to) != 0))
        status = LKS_FAIL(LKS_ERR_IO, "cannot rename %s to %s: %s", from, name, strerror(errno));
    if (status == LKS_OK)
        snprintf(slot->name, sizeof slot->name, "%s", name);
    free(from);
    free(to);
    return status;
}

lks_status lks_memory_slot_withdraw(const lks_memory_copies *c, lks_memory_slot *slot)
{
    if (strcmp(slot->name, slot->partial) != 0)
        LKS_TRY(rename_slot(c, slot, slot->partial));
    memset(slot->map, 0, LKS_MEMORY_PAGE);
    return LKS_OK;
}

lks_status lks_memory_slot_publish(const lks_memory_copies *c, lks_memory_slot *slot,
                                   const char *name)
{
    return rename_slot(c, slot, name);
}

void lks_memory_slots_close(lks_memory_copies *c)
{
    for (int i = 0; i < c->series_count; ++i) {
        for (int s = 0; s < LKS_MEMORY_SLOTS; ++s) {
            lks_memory_slot *slot = &c->series[i].slots[s];
            if (slot->map == NULL)
                continue;
            char *path = lks_files_join(c->directory, slot->partial);
            if (path != NULL)
                unlink(path);
            free(path);
            munmap(slot->map, slot->bytes);
            slot->map = NULL;
        }
    }
    c->stats.bytes = 0;
}
