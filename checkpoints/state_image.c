#include "checkpoints/hdf5_help.h"
#include "checkpoints/manifest.h"
#include "checkpoints/state_file.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

/* The group "a" or "a/b" below `file`; parents are there already. */
static bool write_group(hid_t file, lks_state_map *map, int index)
{
    lks_state_group *group = &map->groups[index];
    hid_t id;
    if (!lks_hdf5_make_group(file, group->name, &id))
        return false;
    bool good = true;
    for (uint32_t t = 0; good && t < map->layout->tensor_count; ++t) {
        const lks_layout_tensor *tensor = &map->layout->tensors[t];
        if (lks_state_map_has(map, index, t))
            good = lks_hdf5_make_tensor(id, tensor->name, &tensor->shape, &group->offsets[t]);
    }
    return H5Gclose(id) >= 0 && good;
}

static bool write_groups(hid_t file, lks_state_map *map)
{
    hid_t optimizer;
    if (!lks_hdf5_make_group(file, "optimizer", &optimizer) || H5Gclose(optimizer) < 0)
        return false;
    for (int g = 0; g < map->group_count; ++g) {
        if (!write_group(file, map, g))
            return false;
    }
    return true;
}

static bool write_root(hid_t file, const lks_checkpoint_info *info)
{
    return lks_hdf5_set_number(file, "format_version", LKS_CHECKPOINT_FORMAT) &&
           lks_hdf5_set_text(file, "run_id", info->run_id) &&
           lks_hdf5_set_number(file, "step", info->step) &&
           lks_hdf5_set_text(file, "model_fingerprint", info->model_fingerprint) &&
           lks_hdf5_set_text(file, "dataset_digest", info->dataset_digest) &&
           lks_hdf5_set_text(file, "arithmetic", info->arithmetic) &&
           lks_hdf5_set_number(file, "seed", info->seed) &&
           lks_hdf5_make_text(file, "config", info->config_yaml);
}

static bool write_integrity(hid_t group)
{
    return lks_hdf5_set_number(group, "block_elements", LKS_BLOCK_ELEMENTS) &&
           lks_hdf5_set_text(group, "block_hash", LKS_CHECKPOINT_BLOCK_HASH) &&
           lks_hdf5_set_text(group, "hashes", "manifest.json");
}

static bool write_small_groups(hid_t file, const lks_checkpoint_info *info)
{
    hid_t loader = -1, rng = -1, integrity = -1;
    bool good = lks_hdf5_make_group(file, "loader", &loader) &&
                lks_hdf5_set_number(loader, "position", info->position) &&
                (info->ledger == NULL || lks_hdf5_set_text(loader, "ledger", info->ledger)) &&
                lks_hdf5_make_group(file, "rng", &rng) &&
                lks_hdf5_set_number(rng, "seed", info->seed) &&
                lks_hdf5_make_group(file, "integrity", &integrity) && write_integrity(integrity);
    hid_t groups[] = {loader, rng, integrity};
    for (int i = 0; i < 3; ++i)
        good = (groups[i] < 0 || H5Gclose(groups[i]) >= 0) && good;
    return good;
}

/* HDF5's own write to a full disk is not survivable: when H5Fclose fails it keeps a freed file and
 * crashes at exit. So the file is made in memory, where writes do not fail, and is copied by code that
 * knows what failed. */
static lks_status make_memory_file(int *image)
{
    *image = memfd_create("lockstep-checkpoint", MFD_CLOEXEC);
    if (*image < 0)
        return LKS_FAIL(LKS_ERR_IO, "cannot make a file in memory: %s", strerror(errno));
    return LKS_OK;
}

static const char *image_path(char out[64], int image)
{
    snprintf(out, 64, "/proc/self/fd/%d", image);
    return out;
}

/* More than the file will have. */
static uint64_t bytes_bound(const lks_checkpoint_info *info, const lks_state_map *map)
{
    uint64_t per_tensor = 8192, tensors = (uint64_t)map->group_count * map->layout->tensor_count;
    return map->layout->elements * sizeof(float) * (uint64_t)map->group_count +
           tensors * per_tensor + strlen(info->config_yaml) + (1 << 20);
}

static lks_status check_size_limit(const lks_checkpoint_info *info, const lks_state_map *map)
{
    struct rlimit limit;
    uint64_t bound = bytes_bound(info, map);
    if (getrlimit(RLIMIT_FSIZE, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY ||
        limit.rlim_cur >= bound)
        return LKS_OK;
    return LKS_FAIL(LKS_ERR_IO,
                    "%s may have up to %llu bytes, and this process may write files of %llu; raise "
                    "the limit (ulimit -f)",
                    LKS_STATE_NAME, (unsigned long long)bound, (unsigned long long)limit.rlim_cur);
}

static bool write_file(const char *path, const lks_checkpoint_info *info, lks_state_map *map)
{
    hid_t file = lks_hdf5_create_image(path);
    bool good = file >= 0 && write_root(file, info) && write_groups(file, map) &&
                write_small_groups(file, info);
    return (file < 0 || H5Fclose(file) >= 0) && good;
}

static lks_status fill_image(int image, const lks_checkpoint_info *info, lks_state_map *map)
{
    lks_hdf5_guard guard;
    struct stat about;
    char path[64];
    lks_hdf5_guard_begin(&guard);
    bool good = write_file(image_path(path, image), info, map);
    lks_hdf5_guard_end(&guard);
    if (!good)
        return LKS_FAIL(LKS_ERR_IO, "HDF5 cannot make a state file: %s", guard.cause);
    if (fstat(image, &about) != 0)
        return LKS_FAIL(LKS_ERR_IO, "cannot stat a file in memory: %s", strerror(errno));
    map->file_bytes = (uint64_t)about.st_size;
    return LKS_OK;
}

static lks_status hash_image(int image, lks_state_map *map)
{
    return lks_state_map_hash_metadata(map, image, "the state file's image", map->metadata);
}

lks_status lks_state_image_create(int *image, const lks_checkpoint_info *info, lks_state_map *map)
{
    *image = -1;
    LKS_TRY(check_size_limit(info, map));
    LKS_TRY(make_memory_file(image));
    lks_status status = fill_image(*image, info, map);
    if (status == LKS_OK)
        status = hash_image(*image, map);
    if (status != LKS_OK) {
        close(*image);
        *image = -1;
    }
    return status;
}

static bool write_step(const char *path, const lks_checkpoint_info *info)
{
    hid_t file = lks_hdf5_open_image(path);
    if (file < 0)
        return false;
    hid_t loader = H5Gopen2(file, "loader", H5P_DEFAULT);
    bool good = loader >= 0 && lks_hdf5_change_number(file, "step", info->step) &&
                lks_hdf5_change_number(loader, "position", info->position) &&
                (info->ledger == NULL || lks_hdf5_change_text(loader, "ledger", info->ledger));
    if (loader >= 0)
        H5Gclose(loader);
    return H5Fclose(file) >= 0 && good;
}

lks_status lks_state_image_update(int image, const lks_checkpoint_info *info, lks_state_map *map)
{
    lks_hdf5_guard guard;
    char path[64];
    LKS_TRY(check_size_limit(info, map));
    lks_hdf5_guard_begin(&guard);
    bool good = write_step(image_path(path, image), info);
    lks_hdf5_guard_end(&guard);
    if (!good)
        return LKS_FAIL(LKS_ERR_IO, "HDF5 cannot change a state file: %s", guard.cause);
    return hash_image(image, map);
}
