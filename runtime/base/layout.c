#include "runtime/base/layout.h"

#include "runtime/base/hash.h"
#include "runtime/base/memory.h"

#include <string.h>

enum { LAYOUT_TENSOR_ALIGNMENT = 16 }; /* elements: one cache line of f32 */

/* What callers see, and behind it what serves lookups. */
typedef struct layout_whole {
    lks_layout seen; /* first: a lks_layout * is a layout_whole * */
    lks_arena *names;
    size_t tensor_capacity, block_capacity, before_capacity;
    uint64_t *before; /* per block: elements of all blocks before it */
    uint32_t *slots;  /* hash table of names: tensor index + 1, 0 is free */
    size_t slot_count;
} layout_whole;

lks_status lks_layout_create(lks_layout **out)
{
    layout_whole *whole;
    LKS_TRY(LKS_NEW(&whole));
    lks_status status = lks_arena_create(&whole->names);
    if (status != LKS_OK) {
        lks_memory_free(whole);
        return status;
    }
    *out = &whole->seen;
    return LKS_OK;
}

void lks_layout_destroy(lks_layout *layout)
{
    if (!layout)
        return;
    layout_whole *whole = (layout_whole *)layout;
    lks_arena_destroy(whole->names);
    lks_memory_free(whole->before);
    lks_memory_free(whole->slots);
    lks_memory_free(layout->tensors);
    lks_memory_free(layout->blocks);
    lks_memory_free(whole);
}

/* The slot of a name: its own if it is there, else the free one where it belongs. */
static uint32_t *layout_slot(const layout_whole *whole, const char *name)
{
    size_t mask = whole->slot_count - 1;
    size_t at = (size_t)lks_hash_xxh3(name, strlen(name)) & mask;
    while (whole->slots[at] && strcmp(whole->seen.tensors[whole->slots[at] - 1].name, name) != 0)
        at = (at + 1) & mask;
    return &whole->slots[at];
}

/* Keeps the table at most half full with one more name. */
static lks_status layout_reserve_slot(layout_whole *whole)
{
    uint32_t count = whole->seen.tensor_count;
    if (2 * ((size_t)count + 1) <= whole->slot_count)
        return LKS_OK;
    size_t slot_count = whole->slot_count ? whole->slot_count * 2 : 64;
    uint32_t *slots;
    LKS_TRY(LKS_NEW_ARRAY(&slots, slot_count));
    lks_memory_free(whole->slots);
    whole->slots = slots;
    whole->slot_count = slot_count;
    for (uint32_t i = 0; i < count; ++i)
        *layout_slot(whole, whole->seen.tensors[i].name) = i + 1;
    return LKS_OK;
}

static lks_status layout_count_elements(const lks_layout *layout, const char *name,
                                        const lks_shape *shape, uint64_t *elements)
{
    char text[256];
    uint64_t room = LKS_LAYOUT_ELEMENTS_MAX - layout->elements;
    bool sound = shape->axes >= 0 && shape->axes <= LKS_AXES_MAX, fits = true;
    for (int axis = 0; sound && axis < shape->axes; ++axis)
        sound = shape->size[axis] > 0;
    if (!sound)
        return LKS_FAIL(LKS_ERR_USAGE, "tensor %s has shape %s, want sizes of at least 1", name,
                        shape->axes >= 0 && shape->axes <= LKS_AXES_MAX
                            ? lks_shape_text(shape, text, sizeof text)
                            : "of too many axes");
    *elements = 1;
    for (int axis = 0; fits && axis < shape->axes; ++axis) {
        fits = (uint64_t)shape->size[axis] <= room / *elements;
        *elements *= fits ? (uint64_t)shape->size[axis] : 1;
    }
    if (!fits || *elements > room)
        return LKS_FAIL(LKS_ERR_USAGE,
                        "tensor %s has shape %s, and a model has at most 2^40 parameters in all: "
                        "make it smaller",
                        name, lks_shape_text(shape, text, sizeof text));
    return LKS_OK;
}

static void layout_add_blocks(layout_whole *whole, uint32_t index)
{
    lks_layout *layout = &whole->seen;
    lks_layout_tensor *tensor = &layout->tensors[index];
    for (uint64_t done = 0; done < tensor->elements; done += LKS_BLOCK_ELEMENTS) {
        uint64_t left = tensor->elements - done;
        uint32_t elements = left < LKS_BLOCK_ELEMENTS ? (uint32_t)left : LKS_BLOCK_ELEMENTS;
        whole->before[layout->block_count] = layout->elements + done;
        layout->blocks[layout->block_count++] =
            (lks_layout_block){index, tensor->offset + done, elements};
    }
}

lks_status lks_layout_add(lks_layout *layout, const char *name, lks_shape shape,
                          lks_tensor_role role, bool decay, uint32_t *index)
{
    layout_whole *whole = (layout_whole *)layout;
    uint64_t elements;
    LKS_TRY(layout_count_elements(layout, name, &shape, &elements));
    LKS_TRY(layout_reserve_slot(whole));
    uint32_t *slot = layout_slot(whole, name);
    if (*slot)
        return LKS_FAIL(LKS_ERR_USAGE, "two tensors are named %s, want each name once", name);

    uint64_t blocks = (elements + LKS_BLOCK_ELEMENTS - 1) / LKS_BLOCK_ELEMENTS;
    if (blocks + layout->block_count > UINT32_MAX)
        return LKS_FAIL(LKS_ERR_USAGE, "tensor %s: the model has more than 2^32 blocks", name);
    size_t block_count = layout->block_count + (size_t)blocks;
    LKS_TRY(LKS_GROW(&layout->tensors, &whole->tensor_capacity, layout->tensor_count + 1));
    LKS_TRY(LKS_GROW(&layout->blocks, &whole->block_capacity, block_count));
    LKS_TRY(LKS_GROW(&whole->before, &whole->before_capacity, block_count));
    const char *copy = lks_arena_copy(whole->names, name);
    if (!copy)
        return LKS_FAIL(LKS_ERR_INTERNAL, "no memory for the name of tensor %s", name);

    uint32_t at = layout->tensor_count++;
    layout->tensors[at] = (lks_layout_tensor){.name = copy,
                                              .shape = shape,
                                              .role = role,
                                              .decay = decay,
                                              .elements = elements,
                                              .offset = layout->flat_elements,
                                              .first_block = layout->block_count,
                                              .block_count = (uint32_t)blocks};
    layout_add_blocks(whole, at);
    layout->elements += elements;
    layout->flat_elements += lks_round_up(elements, LAYOUT_TENSOR_ALIGNMENT);
    *slot = at + 1;
    if (index)
        *index = at;
    return LKS_OK;
}

/* --- Ownership ------------------------------------------------------------ */

/* The rank in whose 1/world_size of all elements the middle of the block lies. */
int lks_layout_owner(const lks_layout *layout, uint32_t block, int world_size)
{
    const layout_whole *whole = (const layout_whole *)layout;
    uint64_t twice_middle = 2 * whole->before[block] + layout->blocks[block].elements;
    return (int)(twice_middle * (uint64_t)world_size / (2 * layout->elements));
}

/* The first block whose owner is at least `rank`. */
static uint32_t layout_first_block(const lks_layout *layout, int rank, int world_size)
{
    uint32_t low = 0, high = layout->block_count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (lks_layout_owner(layout, middle, world_size) < rank)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

void lks_layout_owned(const lks_layout *layout, int rank, int world_size, uint32_t *first,
                      uint32_t *end)
{
    *first = layout_first_block(layout, rank, world_size);
    *end = layout_first_block(layout, rank + 1, world_size);
}

lks_status lks_layout_fingerprint(const lks_layout *layout, char hex[65])
{
    lks_sha256 *hash;
    LKS_TRY(lks_sha256_create(&hash));
    for (uint32_t i = 0; i < layout->tensor_count; ++i) {
        const lks_layout_tensor *tensor = &layout->tensors[i];
        char shape[256];
        lks_shape_text(&tensor->shape, shape, sizeof shape);
        const char *role = tensor->role == LKS_ROLE_BUFFER ? "buffer" : "parameter";
        /* Each part ends in its NUL, so that no two lists of parts look alike. */
        lks_sha256_update(hash, tensor->name, strlen(tensor->name) + 1);
        lks_sha256_update(hash, shape, strlen(shape) + 1);
        lks_sha256_update(hash, role, strlen(role) + 1);
    }
    lks_sha256_finish(hash, hex);
    return LKS_OK;
}
