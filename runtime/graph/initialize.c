#include "runtime/base/rng.h"
#include "runtime/graph/executor.h"
#include "runtime/graph/graph_internal.h"

#include <string.h>

/* Elements [first, first + count) of a tensor. */
static void fill(lks_init init, uint64_t key, uint64_t first, uint64_t count, float *values)
{
    switch (init.kind) {
    case LKS_INIT_CONSTANT:
        for (uint64_t i = 0; i < count; ++i)
            values[i] = (float)init.a;
        break;
    case LKS_INIT_NORMAL:
        lks_rng_normal(key, first, count, values);
        for (uint64_t i = 0; i < count; ++i)
            values[i] = (float)(init.a * values[i]);
        break;
    case LKS_INIT_UNIFORM:
        lks_rng_uniform_fill(key, first, count, values);
        for (uint64_t i = 0; i < count; ++i)
            values[i] = (float)(init.a * (2.0 * values[i] - 1.0));
        break;
    }
}

lks_status lks_graph_initialize_blocks(const lks_graph *graph, uint64_t seed, uint32_t first_block,
                                       uint32_t end_block, float *values)
{
    LKS_TRY(lks_graph_status(graph));
    const lks_layout *layout = graph->layout;
    for (uint32_t b = first_block; b < end_block; ++b) {
        const lks_layout_block *block = &layout->blocks[b];
        uint64_t first = block->offset - layout->tensors[block->tensor].offset;
        fill(graph->inits[block->tensor], lks_rng_key(seed, LKS_RNG_INIT, block->tensor), first,
             block->elements, values + block->offset);
    }
    return LKS_OK;
}

lks_status lks_graph_initialize(const lks_graph *graph, uint64_t seed, float *values)
{
    LKS_TRY(lks_graph_status(graph));
    memset(values, 0, graph->layout->flat_elements * sizeof *values);
    return lks_graph_initialize_blocks(graph, seed, 0, graph->layout->block_count, values);
}
