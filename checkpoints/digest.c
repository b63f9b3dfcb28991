#include "checkpoints/opened.h"

#include "runtime/base/memory.h"

#include <stdlib.h>
#include <string.h>

typedef struct digest_entry {
    const char *name; /* "h.0.weight", or "m/h.0.weight" of an optimizer state */
    bool optimizer;
    int group;
    uint32_t tensor;
} digest_entry;

static int entry_compare(const void *a, const void *b)
{
    const digest_entry *x = a, *y = b;
    if (x->optimizer != y->optimizer)
        return x->optimizer ? 1 : -1;
    return strcmp(x->name, y->name); /* bytes compare as unsigned */
}

/* Names live in `names`. */
static lks_status list_entries(const lks_state_map *map, lks_arena *names, digest_entry *entries,
                               size_t *count)
{
    *count = 0;
    for (int g = 0; g < map->group_count; ++g) {
        const char *slash = strchr(map->groups[g].name, '/');
        for (uint32_t t = 0; t < map->layout->tensor_count; ++t) {
            if (!lks_state_map_has(map, g, t))
                continue;
            const char *name = map->layout->tensors[t].name;
            if (slash != NULL)
                name = lks_arena_format(names, "%s/%s", slash + 1, name);
            if (name == NULL)
                return LKS_FAIL(LKS_ERR_INTERNAL, "no memory for a tensor's name");
            entries[(*count)++] = (digest_entry){name, slash != NULL, g, t};
        }
    }
    qsort(entries, *count, sizeof *entries, entry_compare);
    return LKS_OK;
}

static lks_status digest_tensor(lks_sha256 *hash, lks_checkpoint *c, const digest_entry *entry)
{
    const lks_layout *layout = c->manifest.layout;
    const lks_layout_tensor *tensor = &layout->tensors[entry->tensor];
    lks_checkpoint_code code;
    char shape[256];
    lks_shape_text(&tensor->shape, shape, sizeof shape);
    lks_sha256_update(hash, entry->name, strlen(entry->name) + 1);
    lks_sha256_update(hash, "f32", 4);
    lks_sha256_update(hash, shape, strlen(shape) + 1);
    for (uint32_t b = tensor->first_block; b < tensor->first_block + tensor->block_count; ++b) {
        LKS_TRY(lks_checkpoint_read_block(c, entry->group, b, &code));
        lks_sha256_update(hash, c->block, layout->blocks[b].elements * sizeof(float));
    }
    return LKS_OK;
}

static lks_status digest_entries(lks_checkpoint *c, const digest_entry *entries, size_t count,
                                 char hex[LKS_SHA256_HEX])
{
    lks_sha256 *hash;
    LKS_TRY(lks_sha256_create(&hash));
    for (size_t i = 0; i < count; ++i) {
        lks_status status = digest_tensor(hash, c, &entries[i]);
        if (status != LKS_OK) {
            lks_sha256_destroy(hash);
            return status;
        }
    }
    lks_sha256_finish(hash, hex);
    return LKS_OK;
}

lks_status lks_checkpoint_digest(lks_checkpoint *checkpoint, char hex[65])
{
    const lks_state_map *map = &checkpoint->manifest.map;
    digest_entry *entries;
    lks_arena *names = NULL;
    size_t count;
    LKS_TRY(LKS_NEW_ARRAY(&entries, (size_t)map->group_count * map->layout->tensor_count));
    lks_status status = lks_arena_create(&names);
    if (status == LKS_OK)
        status = list_entries(map, names, entries, &count);
    if (status == LKS_OK)
        status = digest_entries(checkpoint, entries, count, hex);
    lks_arena_destroy(names);
    lks_memory_free(entries);
    return status;
}
