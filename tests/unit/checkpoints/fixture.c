#include "tests/unit/checkpoints/fixture.h"

#include "runtime/base/files.h"
#include "runtime/base/hash.h"
#include "runtime/base/memory.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *const fixture_groups[FIXTURE_GROUPS] = {"model", "optimizer/m", "optimizer/v"};

static const struct {
    const char *name;
    lks_shape shape;
    lks_tensor_role role;
} tensors[] = {
    {"wte", {2, {300, 500}}, LKS_ROLE_PARAMETER}, /* 150,000 elements: three blocks */
    {"h.0.ln.gain", {1, {12}}, LKS_ROLE_PARAMETER},
    {"h.0.conv", {3, {2, 3, 5}}, LKS_ROLE_PARAMETER},
    {"scale", {0, {0}}, LKS_ROLE_PARAMETER},
    {"bn.mean", {1, {7}}, LKS_ROLE_BUFFER},
    {"head", {2, {65536, 2}}, LKS_ROLE_PARAMETER}, /* two full blocks */
    {"bn.variance", {1, {1}}, LKS_ROLE_BUFFER},
    {"a", {1, {1}}, LKS_ROLE_PARAMETER},
};

float fixture_value(int group, uint32_t tensor, uint64_t i, int salt)
{
    uint64_t n = ((uint64_t)group * 7 + tensor * 13 + i * 31 + (uint64_t)salt * 101) % 1009;
    return (float)n / 8 - 60;
}

static lks_status make_layout(lks_layout **layout)
{
    LKS_TRY(lks_layout_create(layout));
    for (size_t t = 0; t < sizeof tensors / sizeof *tensors; ++t)
        LKS_TRY(lks_layout_add(*layout, tensors[t].name, tensors[t].shape, tensors[t].role,
                               tensors[t].shape.axes > 1, NULL));
    return LKS_OK;
}

static lks_status make_arrays(fixture *f)
{
    for (int g = 0; g < FIXTURE_GROUPS; ++g) {
        LKS_TRY(LKS_NEW_ARRAY(&f->data[g], f->layout->flat_elements));
        f->arrays[g] = (lks_state_array){fixture_groups[g], f->data[g], g > 0, 0};
    }
    return LKS_OK;
}

lks_status fixture_open(fixture *f, const char *comm, const char *directory)
{
    *f = (fixture){0};
    snprintf(f->run, sizeof f->run, "%s/lockstep-checkpoints-XXXXXX", directory);
    LKS_TRY(lks_comm_open(&f->comm, comm));
    if (lks_comm_rank(f->comm) == 0 && mkdtemp(f->run) == NULL)
        return LKS_FAIL(LKS_ERR_IO, "cannot make %s", f->run);
    LKS_TRY(lks_comm_broadcast(f->comm, 0, f->run, sizeof f->run));
    LKS_TRY(make_layout(&f->layout));
    LKS_TRY(make_arrays(f));
    f->spec = (lks_checkpoints_spec){.run_directory = f->run,
                                     .layout = f->layout,
                                     .arrays = f->arrays,
                                     .array_count = FIXTURE_GROUPS,
                                     .keep = 3,
                                     .comm = f->comm};
    lks_layout_owned(f->layout, lks_comm_rank(f->comm), lks_comm_size(f->comm),
                     &f->spec.first_block, &f->spec.end_block);
    return LKS_OK;
}

void fixture_close(fixture *f)
{
    lks_status status = lks_comm_barrier(f->comm);
    if (status == LKS_OK && lks_comm_rank(f->comm) == 0)
        status = lks_files_remove_tree(f->run);
    if (status != LKS_OK)
        fprintf(stderr, "%s\n", lks_status_message());
    for (int g = 0; g < FIXTURE_GROUPS; ++g)
        lks_memory_free(f->data[g]);
    lks_layout_destroy(f->layout);
    lks_comm_close(f->comm);
}

void fixture_fill(fixture *f, int salt)
{
    for (int g = 0; g < FIXTURE_GROUPS; ++g) {
        for (uint32_t t = 0; t < f->layout->tensor_count; ++t) {
            const lks_layout_tensor *tensor = &f->layout->tensors[t];
            for (uint64_t i = 0; i < tensor->elements; ++i)
                f->data[g][tensor->offset + i] = fixture_value(g, t, i, salt);
        }
    }
}

lks_checkpoint_info fixture_info(uint64_t step)
{
    return (lks_checkpoint_info){
        .step = step,
        .run_id = "run-1",
        .config_yaml = "train:\n  steps: 7 # f\xc3\xbcnf\n",
        .model_fingerprint = "1111111111111111111111111111111111111111111111111111111111111111",
        .dataset_digest = "2222222222222222222222222222222222222222222222222222222222222222",
        .arithmetic = "cpu test",
        .position = step * 64,
        .seed = 18446744073709551615u,
        .validation_loss = NAN};
}

static lks_status save_with(fixture *f, lks_checkpoints *checkpoints,
                            const lks_checkpoint_info *info, bool *saved)
{
    double stall;
    LKS_TRY(lks_checkpoints_save(checkpoints, f->arrays, info, LKS_CHECKPOINT_WAIT, &stall));
    return lks_checkpoints_finish(checkpoints, saved);
}

lks_status fixture_save(fixture *f, uint64_t step, double validation_loss, bool *saved)
{
    lks_checkpoints *checkpoints;
    LKS_TRY(lks_checkpoints_open(&checkpoints, &f->spec));
    fixture_fill(f, (int)step);
    lks_checkpoint_info info = fixture_info(step);
    info.validation_loss = validation_loss;
    lks_status status = save_with(f, checkpoints, &info, saved);
    lks_checkpoints_close(checkpoints);
    return status;
}

/* --- The digest, spelled out --------------------------------------------------------- */

static void digest_tensor(lks_sha256 *hash, const fixture *f, int group, const char *prefix,
                          const char *name, const char *shape, int salt)
{
    for (uint32_t t = 0; t < f->layout->tensor_count; ++t) {
        const lks_layout_tensor *tensor = &f->layout->tensors[t];
        if (strcmp(tensor->name, name) != 0)
            continue;
        lks_sha256_update(hash, prefix, strlen(prefix));
        lks_sha256_update(hash, name, strlen(name) + 1);
        lks_sha256_update(hash, "f32", 4);
        lks_sha256_update(hash, shape, strlen(shape) + 1);
        for (uint64_t i = 0; i < tensor->elements; ++i) {
            float value = fixture_value(group, t, i, salt);
            lks_sha256_update(hash, &value, sizeof value);
        }
    }
}

void fixture_digest(const fixture *f, int salt, char hex[65])
{
    static const struct {
        const char *name, *shape;
        bool buffer;
    } sorted[] = {{"a", "1", false},
                  {"bn.mean", "7", true},
                  {"bn.variance", "1", true},
                  {"h.0.conv", "2x3x5", false},
                  {"h.0.ln.gain", "12", false},
                  {"head", "65536x2", false},
                  {"scale", "scalar", false},
                  {"wte", "300x500", false}};
    static const char *const prefixes[FIXTURE_GROUPS] = {"", "m/", "v/"};
    lks_sha256 *hash;
    hex[0] = '\0';
    if (lks_sha256_create(&hash) != LKS_OK)
        return;
    for (int g = 0; g < FIXTURE_GROUPS; ++g) {
        for (size_t i = 0; i < sizeof sorted / sizeof *sorted; ++i) {
            if (g == 0 || !sorted[i].buffer)
                digest_tensor(hash, f, g, prefixes[g], sorted[i].name, sorted[i].shape, salt);
        }
    }
    lks_sha256_finish(hash, hex);
}

/* --- Paths ---------------------------------------------------------------------------- */

const char *fixture_path(const fixture *f, const char *name, const char *file)
{
    static char paths[4][256];
    static int next;
    char *path = paths[next++ % 4];
    snprintf(path, sizeof paths[0], "%s/checkpoints/%s%s%s", f->run, name, file == NULL ? "" : "/",
             file == NULL ? "" : file);
    return path;
}

size_t fixture_count(const fixture *f, const char *part)
{
    lks_file_list list;
    size_t count = 0;
    char directory[128];
    snprintf(directory, sizeof directory, "%s/checkpoints", f->run);
    if (lks_files_list(directory, &list) != LKS_OK)
        return 0;
    for (size_t i = 0; i < list.count; ++i)
        count += strstr(list.names[i], part) != NULL;
    lks_file_list_release(&list);
    return count;
}
