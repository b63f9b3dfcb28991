#include "checkpoints/save.h"

#include <string.h>

static void copy_to_staging(const lks_checkpoints *c, char *staging, const lks_state_array *arrays)
{
    for (int g = 0; g < c->map.group_count; ++g) {
        for (uint32_t b = c->first_block; b < c->end_block; ++b) {
            const lks_layout_block *block = &c->layout->blocks[b];
            if (!lks_state_map_has(&c->map, g, block->tensor))
                continue;
            uint64_t within = block->offset - c->layout->blocks[c->first_block].offset;
            memcpy(staging + (uint64_t)g * c->span_bytes + within * sizeof(float),
                   arrays[g].data + (block->offset - arrays[g].base_offset),
                   block->elements * sizeof(float));
        }
    }
}

void lks_save_forget(lks_save_snapshot *snapshot)
{
    json_decref(snapshot->config);
    snapshot->config = NULL;
    lks_arena_destroy(snapshot->texts);
    snapshot->texts = NULL;
}

/* The caller's texts end with its call, the save may begin long after. */
static lks_status copy_info(lks_save_snapshot *snapshot, const lks_checkpoint_info *info)
{
    lks_save_forget(snapshot);
    LKS_TRY(lks_arena_create(&snapshot->texts));
    snapshot->info = *info;
    const char **texts[] = {&snapshot->info.run_id,         &snapshot->info.config_yaml,
                            &snapshot->info.arithmetic,     &snapshot->info.model_fingerprint,
                            &snapshot->info.dataset_digest, &snapshot->info.ledger};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; ++i) {
        if (*texts[i] == NULL)
            continue;
        *texts[i] = lks_arena_copy(snapshot->texts, *texts[i]);
        if (*texts[i] == NULL)
            return LKS_FAIL(LKS_ERR_INTERNAL, "no memory for a checkpoint's texts");
    }
    snapshot->config = json_deep_copy(info->config_json);
    snapshot->info.config_json = snapshot->config;
    return LKS_OK;
}

lks_status lks_save_take(lks_checkpoints *c, lks_save_snapshot *snapshot,
                         const lks_state_array *arrays, const lks_checkpoint_info *info)
{
    snapshot->step = info->step;
    if (c->root)
        LKS_TRY(copy_info(snapshot, info));
    copy_to_staging(c, snapshot->staging, arrays);
    return LKS_OK;
}
