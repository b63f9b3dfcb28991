/* From the copies found to the ranks of this start, whose blocks are others. */
#include "checkpoints/memory_state.h"
#include "runtime/base/files.h"
#include "runtime/base/log.h"
#include "runtime/base/memory.h"

#include <stdlib.h>
#include <string.h>

/* Each file of the set that this rank reads from. */
typedef struct reading {
    lks_memory_copies *c;
    const lks_state_array *arrays;
    void **maps; /* [found_count], NULL: not needed here */
    size_t *bytes;
    lks_comm_request **requests;
    size_t request_count;
} reading;

static int node_of(const lks_memory_copies *c, int rank)
{
    return lks_comm_node_of(c->comm, rank);
}

/* Whose file gives rank `to` the blocks of old rank `from`: one on its own node, else the first. */
static int supplier(const lks_memory_copies *c, uint32_t from, int to)
{
    int first = -1;
    for (int i = 0; i < c->found_count; ++i) {
        if (c->found[i].rank != from)
            continue;
        if (node_of(c, c->found[i].holder) == node_of(c, to))
            return i;
        first = first < 0 ? i : first;
    }
    return first;
}

/* The blocks of `entry` that rank `to` owns now. */
static bool overlap(const lks_memory_copies *c, const lks_memory_entry *entry, int to,
                    uint32_t *first, uint32_t *end)
{
    uint32_t own = c->first_blocks[to], own_end = c->first_blocks[to + 1];
    *first = entry->first_block > own ? entry->first_block : own;
    *end = entry->end_block < own_end ? entry->end_block : own_end;
    return *first < *end;
}

static bool is_local(const lks_memory_copies *c, const lks_memory_entry *entry, int to)
{
    return node_of(c, entry->holder) == node_of(c, to);
}

/* What one file's blocks mean for one rank. */
typedef struct piece {
    const lks_memory_entry *entry;
    int index, to;
    uint32_t first, end;
} piece;

/* Calls `visit` with every piece, in the same order on every rank. */
static lks_status each_piece(reading *r, lks_status (*visit)(reading *r, const piece *p))
{
    const lks_memory_copies *c = r->c;
    for (uint32_t from = 0; from < c->found->world_size; ++from) {
        for (int to = 0; to < lks_comm_size(c->comm); ++to) {
            piece p = {.index = supplier(c, from, to), .to = to};
            p.entry = &c->found[p.index];
            if (overlap(c, p.entry, to, &p.first, &p.end))
                LKS_TRY(visit(r, &p));
        }
    }
    return LKS_OK;
}

static lks_status map_piece(reading *r, const piece *p)
{
    const lks_memory_copies *c = r->c;
    int me = lks_comm_rank(c->comm);
    bool needed = is_local(c, p->entry, p->to) ? p->to == me : p->entry->holder == me;
    if (!needed || r->maps[p->index] != NULL)
        return LKS_OK;
    char *path = lks_files_join(c->directory, p->entry->name);
    if (path == NULL)
        return LKS_FAIL(LKS_ERR_INTERNAL, "no memory for a path");
    lks_status status = lks_memory_map_file(path, &r->maps[p->index], &r->bytes[p->index]);
    if (status == LKS_OK)
        status = lks_memory_check_header(&c->identity, r->maps[p->index], r->bytes[p->index], path);
    free(path);
    return status;
}

static lks_status move_piece(reading *r, const piece *p)
{
    lks_memory_copies *c = r->c;
    const lks_layout_block *blocks = c->identity.layout->blocks;
    lks_memory_shape shape =
        lks_memory_shape_of(&c->identity, p->entry->first_block, p->entry->end_block);
    uint64_t at = blocks[p->first].offset;
    size_t bytes = (blocks[p->end - 1].offset + blocks[p->end - 1].elements - at) * sizeof(float);
    int me = lks_comm_rank(c->comm);
    bool local = is_local(c, p->entry, p->to);
    for (int g = 0; g < c->identity.group_count; ++g) {
        float *source = r->maps[p->index] == NULL
                            ? NULL
                            : lks_memory_data(&shape, r->maps[p->index], g) + (at - shape.base);
        float *target = r->arrays[g].data + (at - r->arrays[g].base_offset);
        if (local && p->to == me)
            memcpy(target, source, bytes);
        else if (!local && p->entry->holder == me)
            LKS_TRY(lks_comm_send(c->comm, p->to, LKS_MEMORY_TAG + 1, source, bytes,
                                  &r->requests[r->request_count++]));
        else if (!local && p->to == me)
            LKS_TRY(lks_comm_receive(c->comm, p->entry->holder, LKS_MEMORY_TAG + 1, target, bytes,
                                     &r->requests[r->request_count++]));
    }
    return LKS_OK;
}

static lks_status read_pieces(reading *r)
{
    lks_memory_copies *c = r->c;
    size_t count = (size_t)c->found_count;
    size_t messages = (size_t)c->found->world_size * (size_t)lks_comm_size(c->comm) *
                      (size_t)c->identity.group_count;
    lks_status status = LKS_NEW_ARRAY(&r->maps, count);
    if (status == LKS_OK)
        status = LKS_NEW_ARRAY(&r->bytes, count);
    if (status == LKS_OK)
        status = LKS_NEW_ARRAY(&r->requests, messages);
    if (status == LKS_OK)
        status = each_piece(r, map_piece);
    LKS_TRY(lks_comm_agree(c->comm, status));
    LKS_TRY(each_piece(r, move_piece));
    for (size_t i = 0; i < r->request_count; ++i)
        LKS_TRY(lks_comm_wait(c->comm, &r->requests[i], NULL));
    return LKS_OK;
}

lks_status lks_memory_copies_read(lks_memory_copies *copies, const lks_state_array *arrays)
{
    reading r = {.c = copies, .arrays = arrays};
    lks_status status = read_pieces(&r);
    for (int i = 0; i < copies->found_count && r.maps != NULL && r.bytes != NULL; ++i)
        lks_memory_unmap_file(r.maps[i], r.bytes[i]);
    lks_memory_free(r.requests);
    lks_memory_free(r.bytes);
    lks_memory_free(r.maps);
    return status;
}
