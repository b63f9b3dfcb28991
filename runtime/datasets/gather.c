#include "runtime/datasets/gather.h"

#include "runtime/base/memory.h"

#include <stdlib.h>
#include <string.h>

static lks_status gather_counted(const lks_parallel *parallel, lks_status status, const void *mine,
                                 size_t bytes, void **out, size_t **counts)
{
    *counts = NULL;
    if (status == LKS_OK)
        status = LKS_NEW_ARRAY(counts, (size_t)parallel->size);
    status = parallel->agree(parallel->user, status);
    if (status == LKS_OK)
        status = parallel->all_gather(parallel->user, mine, bytes, out, *counts);
    if (status != LKS_OK) {
        lks_memory_free(*counts);
        *counts = NULL;
    }
    return status;
}

lks_status lks_gather_bytes(const lks_parallel *parallel, lks_status status, const void *mine,
                            size_t bytes, void **out, size_t *total)
{
    size_t *counts;
    LKS_TRY(gather_counted(parallel, status, mine, bytes, out, &counts));
    *total = 0;
    for (int r = 0; r < parallel->size; ++r)
        *total += counts[r];
    lks_memory_free(counts);
    return LKS_OK;
}

static lks_status gather_parse(const char *data, const size_t *counts, int size, json_t *array)
{
    for (int r = 0; r < size; data += counts[r], ++r) {
        json_error_t error;
        json_t *entry = json_loadb(data, counts[r], JSON_DECODE_ANY, &error);
        if (!entry || json_array_append_new(array, entry) != 0)
            return LKS_FAIL(LKS_ERR_INTERNAL, "rank %d sent JSON that does not parse: %s", r,
                            error.text);
    }
    return LKS_OK;
}

lks_status lks_gather_json(const lks_parallel *parallel, lks_status status, const json_t *mine,
                           json_t **out)
{
    char *text = NULL;
    if (status == LKS_OK) {
        text = json_dumps(mine, JSON_COMPACT | JSON_ENCODE_ANY | JSON_REAL_PRECISION(17));
        if (!text)
            status = LKS_FAIL(LKS_ERR_INTERNAL, "no memory for what this rank found");
    }
    void *all = NULL;
    size_t *counts;
    status = gather_counted(parallel, status, text, text ? strlen(text) : 0, &all, &counts);
    free(text);
    LKS_TRY(status);

    json_t *array = json_array();
    status = array ? gather_parse(all, counts, parallel->size, array)
                   : LKS_FAIL(LKS_ERR_INTERNAL, "no memory for what the ranks found");
    free(all);
    lks_memory_free(counts);
    status = parallel->agree(parallel->user, status);
    if (status != LKS_OK)
        json_decref(array);
    else
        *out = array;
    return status;
}
