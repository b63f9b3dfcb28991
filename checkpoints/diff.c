#include "checkpoints/opened.h"

#include "runtime/base/json.h"
#include "runtime/base/memory.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Where the differences go. */
typedef struct diff {
    lks_checkpoint *a, *b;
    lks_text *out;
    json_t *list;
    bool equal;
    bool state_equal; /* tensors alone */
} diff;

/* Takes over `entry`. */
static void diff_add(diff *d, json_t *entry)
{
    d->equal = false;
    json_array_append_new(d->list, entry);
}

/* --- Numbers and texts -------------------------------------------------------------- */

static const char *value_text(const json_t *value, char *out, size_t size)
{
    if (value == NULL || json_is_null(value))
        return "none";
    if (json_is_string(value))
        return json_string_value(value);
    size_t length = json_dumpb(value, out, size - 1, JSON_ENCODE_ANY | JSON_COMPACT);
    out[length < size ? length : 0] = '\0';
    return out;
}

static void diff_values(diff *d, const char *kind, const char *key, json_t *a, json_t *b)
{
    if ((a == NULL && b == NULL) || (a != NULL && b != NULL && json_equal(a, b)))
        return;
    char left[256], right[256];
    lks_text_append(d->out, "%s%s%s: %s | %s\n", kind, *kind == '\0' ? "" : " ", key,
                    value_text(a, left, sizeof left), value_text(b, right, sizeof right));
    diff_add(d, json_pack("{s:s, s:s, s:O?, s:O?}", "kind", *kind == '\0' ? "value" : kind, "key",
                          key, "a", a, "b", b));
}

static void diff_manifests(diff *d)
{
    static const char *const keys[] = {"step",           "position",  "seed", "model_fingerprint",
                                       "dataset_digest", "arithmetic"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; ++i)
        diff_values(d, "", keys[i], json_object_get(d->a->manifest.json, keys[i]),
                    json_object_get(d->b->manifest.json, keys[i]));
}

/* An entry is {"value": ..., "origin": ...}: where a value came from is no difference. */
static json_t *config_value(json_t *config, const char *key)
{
    json_t *entry = json_object_get(config, key);
    json_t *value = json_object_get(entry, "value");
    return value != NULL ? value : entry;
}

static void diff_configs(diff *d)
{
    json_t *a = json_object_get(d->a->manifest.json, "config");
    json_t *b = json_object_get(d->b->manifest.json, "config");
    const char *key;
    json_t *ignored;
    json_object_foreach(a, key, ignored)
        diff_values(d, "config", key, config_value(a, key), config_value(b, key));
    json_object_foreach(b, key, ignored)
    {
        if (json_object_get(a, key) == NULL)
            diff_values(d, "config", key, NULL, config_value(b, key));
    }
}

/* --- Tensors --------------------------------------------------------------------- */

typedef struct tensor_diff {
    uint64_t elements; /* that differ in their bits */
    uint32_t blocks;   /* that hold such */
    json_t *which;     /* their indices within the tensor */
    double largest;    /* |a - b|; infinity where one is NaN and the other is not */
    uint64_t where;    /* element index of it */
    float a, b;        /* its values */
} tensor_diff;

static double difference(float a, float b)
{
    double size = fabs((double)a - (double)b);
    return isnan(size) ? (double)INFINITY : size;
}

static void compare_block(tensor_diff *t, const float *a, const float *b, uint32_t elements,
                          uint32_t block)
{
    uint64_t first = (uint64_t)block * LKS_BLOCK_ELEMENTS;
    if (memcmp(a, b, elements * sizeof *a) == 0)
        return;
    ++t->blocks;
    json_array_append_new(t->which, json_integer(block));
    for (uint32_t i = 0; i < elements; ++i) {
        if (memcmp(&a[i], &b[i], sizeof *a) == 0)
            continue;
        double size = difference(a[i], b[i]);
        if (t->elements == 0 || size > t->largest) {
            t->largest = size;
            t->where = first + i;
            t->a = a[i];
            t->b = b[i];
        }
        ++t->elements;
    }
}

/* Blocks whose recorded hashes are equal are not read. */
static lks_status compare_tensor(diff *d, int ga, int gb, uint32_t ta, uint32_t tb, tensor_diff *t)
{
    const lks_layout_tensor *tensor = &d->a->manifest.layout->tensors[ta];
    uint32_t fa = tensor->first_block, fb = d->b->manifest.layout->tensors[tb].first_block;
    lks_checkpoint_code code;
    for (uint32_t i = 0; i < tensor->block_count; ++i) {
        if (d->a->manifest.map.groups[ga].hashes[fa + i] ==
            d->b->manifest.map.groups[gb].hashes[fb + i])
            continue;
        LKS_TRY(lks_checkpoint_read_block(d->a, ga, fa + i, &code));
        LKS_TRY(lks_checkpoint_read_block(d->b, gb, fb + i, &code));
        compare_block(t, d->a->block, d->b->block, d->a->manifest.layout->blocks[fa + i].elements,
                      i);
    }
    return LKS_OK;
}

/* "[3, 4]" of a row-major shape. */
static json_t *index_of(const lks_shape *shape, uint64_t element, char *text, size_t size)
{
    uint64_t index[LKS_AXES_MAX];
    for (int i = shape->axes - 1; i >= 0; --i) {
        index[i] = element % (uint64_t)shape->size[i];
        element /= (uint64_t)shape->size[i];
    }
    json_t *list = json_array();
    for (int i = 0; i < shape->axes; ++i)
        json_array_append_new(list, json_integer((json_int_t)index[i]));
    size_t length = json_dumpb(list, text, size - 1, 0);
    text[length < size ? length : 0] = '\0';
    return list;
}

/* JSON has no infinity and no NaN: they are texts. */
static json_t *number_to_json(double value)
{
    if (isfinite(value))
        return json_real(value);
    return json_string(isnan(value) ? "nan" : value > 0 ? "inf" : "-inf");
}

/* "0, 2-5" of ascending numbers. */
static void append_ranges(lks_text *out, const json_t *numbers)
{
    size_t count = json_array_size(numbers);
    for (size_t i = 0, end; i < count; i = end) {
        json_int_t first = json_integer_value(json_array_get(numbers, i)), last = first;
        for (end = i + 1; end < count; ++end, ++last)
            if (json_integer_value(json_array_get(numbers, end)) != last + 1)
                break;
        lks_text_append(out, "%s%lld", i > 0 ? ", " : "", (long long)first);
        if (last > first)
            lks_text_append(out, "-%lld", (long long)last);
    }
}

static void report_tensor(diff *d, const char *name, const lks_layout_tensor *tensor,
                          const tensor_diff *t)
{
    char where[256];
    json_t *index = index_of(&tensor->shape, t->where, where, sizeof where);
    lks_text_append(d->out, "%s: %llu of %llu elements differ, in %u of %u blocks (", name,
                    (unsigned long long)t->elements, (unsigned long long)tensor->elements,
                    t->blocks, tensor->block_count);
    append_ranges(d->out, t->which);
    lks_text_append(d->out, "); the largest difference is %.9g at %s (%.9g | %.9g)\n", t->largest,
                    where, (double)t->a, (double)t->b);
    diff_add(d, json_pack("{s:s, s:s, s:I, s:I, s:I, s:I, s:O, s:o, s:o, s:o, s:o}", "kind",
                          "tensor", "key", name, "elements", (json_int_t)t->elements, "of",
                          (json_int_t)tensor->elements, "blocks", (json_int_t)t->blocks,
                          "of_blocks", (json_int_t)tensor->block_count, "which_blocks", t->which,
                          "largest", number_to_json(t->largest), "index", index, "a",
                          number_to_json((double)t->a), "b", number_to_json((double)t->b)));
}

static void report_missing(diff *d, const char *name, bool only_in_a)
{
    d->state_equal = false;
    lks_text_append(d->out, "%s: only in %s\n", name, only_in_a ? d->a->path : d->b->path);
    diff_add(d, json_pack("{s:s, s:s, s:s}", "kind", "missing", "key", name, "only_in",
                          only_in_a ? "a" : "b"));
}

static void report_shapes(diff *d, const char *name, const lks_shape *a, const lks_shape *b)
{
    char x[256], y[256];
    d->state_equal = false;
    lks_shape_text(a, x, sizeof x);
    lks_shape_text(b, y, sizeof y);
    lks_text_append(d->out, "%s: shape %s | %s\n", name, x, y);
    diff_add(d, json_pack("{s:s, s:s, s:s, s:s}", "kind", "shape", "key", name, "a", x, "b", y));
}

/* The tensor of `group` and `name`. */
static bool find_tensor(const lks_state_map *map, const char *group, const char *name, int *g,
                        uint32_t *t)
{
    *g = lks_state_map_find(map, group);
    for (*t = 0; *g >= 0 && *t < map->layout->tensor_count; ++*t) {
        if (strcmp(map->layout->tensors[*t].name, name) == 0)
            return lks_state_map_has(map, *g, *t);
    }
    return false;
}

static lks_status diff_tensor(diff *d, int ga, uint32_t ta, const char *name)
{
    const lks_layout_tensor *a = &d->a->manifest.layout->tensors[ta];
    int gb;
    uint32_t tb;
    if (!find_tensor(&d->b->manifest.map, d->a->manifest.map.groups[ga].name, a->name, &gb, &tb)) {
        report_missing(d, name, true);
        return LKS_OK;
    }
    const lks_layout_tensor *b = &d->b->manifest.layout->tensors[tb];
    if (!lks_shape_equal(&a->shape, &b->shape)) {
        report_shapes(d, name, &a->shape, &b->shape);
        return LKS_OK;
    }
    tensor_diff t = {.which = json_array()};
    lks_status status = compare_tensor(d, ga, gb, ta, tb, &t);
    if (status == LKS_OK && t.elements > 0) {
        d->state_equal = false;
        report_tensor(d, name, a, &t);
    }
    json_decref(t.which);
    return status;
}

static lks_status diff_missing(diff *d, int gb, uint32_t tb, const char *name)
{
    const lks_state_map *map = &d->b->manifest.map;
    int ga;
    uint32_t ta;
    if (!find_tensor(&d->a->manifest.map, map->groups[gb].name, map->layout->tensors[tb].name, &ga,
                     &ta))
        report_missing(d, name, false);
    return LKS_OK;
}

static lks_status each_tensor(diff *d, const lks_state_map *map,
                              lks_status (*visit)(diff *d, int g, uint32_t t, const char *name))
{
    lks_text name = {0};
    lks_status status = LKS_OK;
    for (int g = 0; g < map->group_count; ++g) {
        for (uint32_t t = 0; status == LKS_OK && t < map->layout->tensor_count; ++t) {
            if (!lks_state_map_has(map, g, t))
                continue;
            lks_text_clear(&name);
            lks_text_append(&name, "%s/%s", map->groups[g].name, map->layout->tensors[t].name);
            status = name.failed ? LKS_FAIL(LKS_ERR_INTERNAL, "no memory for a tensor's name")
                                 : visit(d, g, t, name.data);
        }
    }
    lks_text_release(&name);
    return status;
}

lks_status lks_checkpoint_diff(lks_checkpoint *a, lks_checkpoint *b, lks_text *out, json_t **json,
                               bool *equal)
{
    diff d = {a, b, out, json_array(), true, true};
    diff_manifests(&d);
    diff_configs(&d);
    lks_status status = each_tensor(&d, &a->manifest.map, diff_tensor);
    if (status == LKS_OK)
        status = each_tensor(&d, &b->manifest.map, diff_missing);
    *equal = d.equal;
    if (status == LKS_OK && json != NULL)
        *json = json_pack("{s:o, s:o, s:b, s:b, s:O}", "a", lks_json_text(a->path), "b",
                          lks_json_text(b->path), "equal", d.equal, "state_equal", d.state_equal,
                          "differences", d.list);
    json_decref(d.list);
    return status;
}
