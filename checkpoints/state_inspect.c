#include "checkpoints/hdf5_help.h"
#include "checkpoints/state_file.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { INSPECT_SECONDS = 20 };

#define MISMATCH(code, value, ...) (*(code) = (value), LKS_FAIL(LKS_ERR_CORRUPT, __VA_ARGS__))

typedef struct inspection {
    const char *path;
    hid_t file;
    const lks_checkpoint_info *info;
    const lks_state_map *map;
    lks_checkpoint_code *code;
} inspection;

/* A hard link: soft and external ones could lead into other files. */
static bool is_linked(hid_t parent, const char *name)
{
    H5L_info_t link;
    return H5Lexists(parent, name, H5P_DEFAULT) > 0 &&
           H5Lget_info(parent, name, &link, H5P_DEFAULT) >= 0 && link.type == H5L_TYPE_HARD;
}

static bool is_shape(hid_t dataset, const lks_shape *shape)
{
    hid_t space = H5Dget_space(dataset);
    hsize_t size[H5S_MAX_RANK];
    bool good = space >= 0 && H5Sget_simple_extent_ndims(space) == shape->axes &&
                H5Sget_simple_extent_dims(space, size, NULL) >= 0;
    for (int i = 0; good && i < shape->axes; ++i)
        good = size[i] == (hsize_t)shape->size[i];
    if (space >= 0)
        H5Sclose(space);
    return good;
}

static bool is_plain_f32(hid_t dataset)
{
    hid_t type = H5Dget_type(dataset), creation = H5Dget_create_plist(dataset);
    bool good = type >= 0 && creation >= 0 && H5Tequal(type, H5T_IEEE_F32LE) > 0 &&
                H5Pget_layout(creation) == H5D_CONTIGUOUS && H5Pget_external_count(creation) == 0;
    if (creation >= 0)
        H5Pclose(creation);
    if (type >= 0)
        H5Tclose(type);
    return good;
}

static lks_status inspect_tensor(const inspection *in, hid_t group, int g, uint32_t t)
{
    const lks_layout_tensor *tensor = &in->map->layout->tensors[t];
    const char *group_name = in->map->groups[g].name;
    char text[128];
    if (!is_linked(group, tensor->name))
        return MISMATCH(in->code, LKS_CHECKPOINT_MISSING_TENSOR, "%s: tensor /%s/%s is missing",
                        in->path, group_name, tensor->name);
    hid_t dataset = H5Dopen2(group, tensor->name, H5P_DEFAULT);
    if (dataset < 0)
        return MISMATCH(in->code, LKS_CHECKPOINT_UNREADABLE, "%s: /%s/%s is no readable dataset",
                        in->path, group_name, tensor->name);
    bool shape = is_shape(dataset, &tensor->shape), plain = is_plain_f32(dataset);
    uint64_t offset = H5Dget_offset(dataset);
    H5Dclose(dataset);
    if (!shape || !plain)
        return MISMATCH(
            in->code, LKS_CHECKPOINT_MANIFEST_MISMATCH, "%s: /%s/%s is not %s as the manifest says",
            in->path, group_name, tensor->name,
            shape ? "contiguous f32" : lks_shape_text(&tensor->shape, text, sizeof text));
    if (offset != in->map->groups[g].offsets[t])
        return MISMATCH(in->code, LKS_CHECKPOINT_MANIFEST_MISMATCH,
                        "%s: /%s/%s lies at offset %llu, the manifest says %llu", in->path,
                        group_name, tensor->name, (unsigned long long)offset,
                        (unsigned long long)in->map->groups[g].offsets[t]);
    return LKS_OK;
}

/* --- Links that should not be there ---------------------------------------------- */

typedef struct stranger {
    bool (*known)(const inspection *in, int group, const char *name);
    const inspection *in;
    int group;
    char name[256];
} stranger;

static bool known_tensor(const inspection *in, int group, const char *name)
{
    for (uint32_t t = 0; t < in->map->layout->tensor_count; ++t) {
        if (lks_state_map_has(in->map, group, t) &&
            strcmp(in->map->layout->tensors[t].name, name) == 0)
            return true;
    }
    return false;
}

static bool known_state(const inspection *in, int group, const char *name)
{
    (void)group;
    char full[512];
    snprintf(full, sizeof full, "optimizer/%s", name);
    return lks_state_map_find(in->map, full) >= 0;
}

static bool known_at_root(const inspection *in, int group, const char *name)
{
    (void)in, (void)group;
    static const char *const names[] = {"model", "optimizer", "loader",
                                        "rng",   "integrity", "config"};
    for (size_t i = 0; i < sizeof names / sizeof *names; ++i) {
        if (strcmp(names[i], name) == 0)
            return true;
    }
    return false;
}

static herr_t find_stranger(hid_t group, const char *name, const H5L_info_t *link, void *user)
{
    (void)group, (void)link;
    stranger *s = user;
    if (s->known(s->in, s->group, name))
        return 0;
    snprintf(s->name, sizeof s->name, "%s", name);
    return 1;
}

/* All `expected` links are there; one more is an error. */
static lks_status inspect_links(stranger *s, hid_t id, const char *name, uint64_t expected)
{
    H5G_info_t about;
    if (H5Gget_info(id, &about) < 0)
        return MISMATCH(s->in->code, LKS_CHECKPOINT_UNREADABLE, "%s: %s cannot be listed",
                        s->in->path, name);
    if (about.nlinks == expected)
        return LKS_OK;
    if (H5Literate(id, H5_INDEX_NAME, H5_ITER_NATIVE, NULL, find_stranger, s) <= 0)
        return MISMATCH(s->in->code, LKS_CHECKPOINT_UNREADABLE, "%s: %s cannot be listed",
                        s->in->path, name);
    return MISMATCH(s->in->code, LKS_CHECKPOINT_EXTRA_TENSOR,
                    "%s: %s holds %s, which the manifest does not know", s->in->path, name,
                    s->name);
}

/* --- Groups --------------------------------------------------------------------- */

static lks_status open_group(const inspection *in, const char *name, hid_t *group)
{
    *group = is_linked(in->file, name) ? H5Gopen2(in->file, name, H5P_DEFAULT) : -1;
    if (*group < 0)
        return MISMATCH(in->code, LKS_CHECKPOINT_MISSING_TENSOR, "%s: group /%s is missing",
                        in->path, name);
    return LKS_OK;
}

static lks_status inspect_group(const inspection *in, int g)
{
    const char *name = in->map->groups[g].name;
    hid_t group;
    LKS_TRY(open_group(in, name, &group));
    lks_status status = LKS_OK;
    uint64_t expected = 0;
    for (uint32_t t = 0; status == LKS_OK && t < in->map->layout->tensor_count; ++t) {
        if (!lks_state_map_has(in->map, g, t))
            continue;
        ++expected;
        status = inspect_tensor(in, group, g, t);
    }
    if (status == LKS_OK)
        status = inspect_links(&(stranger){known_tensor, in, g, ""}, group, name, expected);
    H5Gclose(group);
    return status;
}

static lks_status inspect_parents(const inspection *in)
{
    uint64_t states = 0;
    for (int g = 0; g < in->map->group_count; ++g)
        states += strcmp(in->map->groups[g].name, "model") != 0;
    hid_t optimizer;
    LKS_TRY(open_group(in, "optimizer", &optimizer));
    lks_status status =
        inspect_links(&(stranger){known_state, in, 0, ""}, optimizer, "optimizer", states);
    H5Gclose(optimizer);
    LKS_TRY(status);
    return inspect_links(&(stranger){known_at_root, in, 0, ""}, in->file, "/", 6);
}

static lks_status inspect_ledger(const inspection *in)
{
    hid_t loader;
    if (in->info->ledger == NULL)
        return LKS_OK;
    LKS_TRY(open_group(in, "loader", &loader));
    bool same = lks_hdf5_text_equals(loader, "ledger", in->info->ledger);
    H5Gclose(loader);
    return same ? LKS_OK
                : MISMATCH(in->code, LKS_CHECKPOINT_MANIFEST_MISMATCH,
                           "%s: attribute ledger of /loader is not \"%s\" as in the manifest",
                           in->path, in->info->ledger);
}

static lks_status inspect_attributes(const inspection *in)
{
    const struct {
        const char *name, *value;
    } texts[] = {{"run_id", in->info->run_id},
                 {"model_fingerprint", in->info->model_fingerprint},
                 {"dataset_digest", in->info->dataset_digest},
                 {"arithmetic", in->info->arithmetic}};
    uint64_t step = 0;
    if (!lks_hdf5_get_number(in->file, "step", &step) || step != in->info->step)
        return MISMATCH(in->code, LKS_CHECKPOINT_MANIFEST_MISMATCH,
                        "%s: it is of step %llu, the manifest of step %llu", in->path,
                        (unsigned long long)step, (unsigned long long)in->info->step);
    for (size_t i = 0; i < sizeof texts / sizeof *texts; ++i) {
        if (!lks_hdf5_text_equals(in->file, texts[i].name, texts[i].value))
            return MISMATCH(in->code, LKS_CHECKPOINT_MANIFEST_MISMATCH,
                            "%s: its attribute %s is not \"%s\" as in the manifest", in->path,
                            texts[i].name, texts[i].value);
    }
    return inspect_ledger(in);
}

static lks_status inspect_all(const inspection *in)
{
    for (int g = 0; g < in->map->group_count; ++g)
        LKS_TRY(inspect_group(in, g));
    LKS_TRY(inspect_parents(in));
    return inspect_attributes(in);
}

lks_status lks_state_file_inspect(const char *path, const lks_checkpoint_info *info,
                                  const lks_state_map *map, lks_checkpoint_code *code)
{
    lks_hdf5_guard guard;
    lks_hdf5_guard_begin(&guard);
    inspection in = {path, lks_hdf5_open(path), info, map, code};
    lks_status status;
    if (in.file < 0) {
        status = MISMATCH(code, LKS_CHECKPOINT_UNREADABLE, "%s: HDF5 cannot open it: %s", path,
                          guard.cause);
    } else {
        status = inspect_all(&in);
        H5Fclose(in.file);
    }
    lks_hdf5_guard_end(&guard);
    return status;
}

/* --- Apart ---------------------------------------------------------------------- */

typedef struct verdict {
    lks_status status;
    lks_checkpoint_code code;
    char message[1024];
} verdict;

static void child_inspect(int pipe_end, const char *path, const lks_checkpoint_info *info,
                          const lks_state_map *map)
{
    sigset_t alarms;
    sigemptyset(&alarms);
    sigaddset(&alarms, SIGALRM);
    sigprocmask(SIG_UNBLOCK, &alarms, NULL);
    signal(SIGALRM, SIG_DFL);
    alarm(INSPECT_SECONDS);
    verdict v = {.code = LKS_CHECKPOINT_OK};
    v.status = lks_state_file_inspect(path, info, map, &v.code);
    if (v.status != LKS_OK)
        snprintf(v.message, sizeof v.message, "%s", lks_status_message());
    ssize_t written = write(pipe_end, &v, sizeof v);
    _exit(written == (ssize_t)sizeof v ? 0 : 1);
}

/* Until the child has spoken or died; its alarm ends it in time. */
static bool read_verdict(int pipe_end, verdict *v)
{
    size_t have = 0;
    while (have < sizeof *v) {
        ssize_t n = read(pipe_end, (char *)v + have, sizeof *v - have);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return false;
        have += (size_t)n;
    }
    return true;
}

lks_status lks_state_file_inspect_apart(const char *path, const lks_checkpoint_info *info,
                                        const lks_state_map *map, lks_checkpoint_code *code)
{
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0)
        return LKS_FAIL(LKS_ERR_IO, "cannot make a pipe: %s", strerror(errno));
    pid_t child = fork();
    if (child == 0)
        child_inspect(ends[1], path, info, map);
    close(ends[1]);
    verdict v;
    bool spoken = child > 0 && read_verdict(ends[0], &v);
    close(ends[0]);
    while (child > 0 && waitpid(child, NULL, 0) < 0 && errno == EINTR)
        continue;
    if (!spoken)
        return MISMATCH(code, LKS_CHECKPOINT_UNREADABLE, "%s: HDF5 did not survive reading it",
                        path);
    *code = v.code;
    if (v.status == LKS_OK)
        return LKS_OK;
    v.message[sizeof v.message - 1] = '\0';
    return LKS_FAIL(v.status, "%s", v.message);
}
