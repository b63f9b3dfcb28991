#include "checkpoints/state_file.h"

#include "checkpoints/hdf5_help.h"
#include "runtime/base/files.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

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
                lks_hdf5_make_group(file, "rng", &rng) &&
                lks_hdf5_set_number(rng, "seed", info->seed) &&
                lks_hdf5_make_group(file, "integrity", &integrity) && write_integrity(integrity);
    hid_t groups[] = {loader, rng, integrity};
    for (int i = 0; i < 3; ++i)
        good = (groups[i] < 0 || H5Gclose(groups[i]) >= 0) && good;
    return good;
}

/* A write past a file size limit shall fail, not end the process. */
static void hold_size_signal(sigset_t *old)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGXFSZ);
    pthread_sigmask(SIG_BLOCK, &set, old);
}

static void drop_size_signal(const sigset_t *old)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGXFSZ);
    if (!sigismember(old, SIGXFSZ))
        sigtimedwait(&set, NULL, &(struct timespec){0, 0});
    pthread_sigmask(SIG_SETMASK, old, NULL);
}

static bool write_file(const char *path, const lks_checkpoint_info *info, lks_state_map *map,
                       char *cause, size_t size)
{
    hid_t file = lks_hdf5_create(path);
    bool good = file >= 0 && write_root(file, info) && write_groups(file, map) &&
                write_small_groups(file, info);
    if (!good)
        lks_hdf5_cause(cause, size);
    if (file >= 0 && H5Fclose(file) < 0 && good) {
        good = false;
        lks_hdf5_cause(cause, size);
    }
    return good;
}

lks_status lks_state_file_create(const char *path, const lks_checkpoint_info *info,
                                 lks_state_map *map)
{
    char cause[256];
    sigset_t old;
    hold_size_signal(&old);
    lks_hdf5_handler handler = lks_hdf5_quiet();
    bool good = write_file(path, info, map, cause, sizeof cause);
    lks_hdf5_loud(handler);
    drop_size_signal(&old);
    if (!good)
        return LKS_FAIL(LKS_ERR_IO, "cannot create %s: %s", path, cause);
    struct stat about;
    if (stat(path, &about) != 0)
        return LKS_FAIL(LKS_ERR_IO, "cannot stat %s: %s", path, strerror(errno));
    map->file_bytes = (uint64_t)about.st_size;
    return LKS_OK;
}
