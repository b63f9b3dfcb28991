/* Libraries whose versions differ between ranks. */
#include "launcher/doctor/check.h"
#include "runtime/base/json.h"

#include <dlfcn.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

typedef union version_function {
    void *address;
    int (*mpi)(char *, int *);                       /* MPI_Get_library_version */
    int (*hdf5)(unsigned *, unsigned *, unsigned *); /* H5get_libversion */
    const struct {
        int major, minor, patch;
        const char *hash;
    } * (*onednn)(void);  /* dnnl_version */
    int (*number)(int *); /* ncclGetVersion, cuDriverGetVersion */
} version_function;

typedef struct library {
    const char *name, *file, *function, *package;
    lks_severity severity; /* when ranks differ */
    void (*read)(version_function function, char *out, size_t size);
} library;

static void read_mpi(version_function function, char *out, size_t size)
{
    char text[4096] =
        ""; /* MPI_MAX_LIBRARY_VERSION_STRING is 256 in Open MPI, 8192 at most elsewhere */
    int length = 0;
    function.mpi(text, &length);
    const char *version = strncmp(text, "Open MPI v", 10) ? text : text + 10;
    snprintf(out, size, "%.*s", (int)strcspn(version, ",\n"), version);
}

static void read_hdf5(version_function function, char *out, size_t size)
{
    unsigned major = 0, minor = 0, patch = 0;
    if (function.hdf5(&major, &minor, &patch) >= 0)
        snprintf(out, size, "%u.%u.%u", major, minor, patch);
}

static void read_onednn(version_function function, char *out, size_t size)
{
    snprintf(out, size, "%d.%d.%d", function.onednn()->major, function.onednn()->minor,
             function.onednn()->patch);
}

/* 21805 is 2.18.5; before 2.9 it was 2804. */
static void read_nccl(version_function function, char *out, size_t size)
{
    int v = 0;
    if (function.number(&v) == 0 && v >= 10000)
        snprintf(out, size, "%d.%d.%d", v / 10000, v / 100 % 100, v % 100);
    else if (v)
        snprintf(out, size, "%d.%d.%d", v / 1000, v / 100 % 10, v % 100);
}

static void read_cuda(version_function function, char *out, size_t size)
{
    int v = 0;
    if (function.number(&v) == 0 && v)
        snprintf(out, size, "%d.%d", v / 1000, v / 10 % 100);
}

/* `file` NULL: linked in. */
static const library libraries[] = {
    {"Open MPI", NULL, "MPI_Get_library_version", "libopenmpi3", LKS_DOCTOR_FAIL, read_mpi},
    {"oneDNN", NULL, "dnnl_version", "libdnnl2", LKS_DOCTOR_FAIL, read_onednn},
    {"HDF5", NULL, "H5get_libversion", "libhdf5-103-1", LKS_DOCTOR_WARN, read_hdf5},
    {"NCCL", "libnccl.so.2", "ncclGetVersion", "libnccl2", LKS_DOCTOR_FAIL, read_nccl},
    {"CUDA driver", "libcuda.so.1", "cuDriverGetVersion", "cuda-drivers", LKS_DOCTOR_FAIL,
     read_cuda},
};
enum { LIBRARIES = sizeof libraries / sizeof libraries[0] };

static void look_at(const library *it, json_t *facts)
{
    Dl_info place = {0};
    char version[256] = "", path[PATH_MAX] = "";
    void *handle = it->file ? dlopen(it->file, RTLD_NOW | RTLD_LOCAL) : RTLD_DEFAULT;
    version_function function = {.address = NULL};
    if (it->file && !handle)
        return;
    function.address = dlsym(handle, it->function);
    if (!function.address)
        return;
    it->read(function, version, sizeof version);
    if (dladdr(function.address, &place) && place.dli_fname && !realpath(place.dli_fname, path))
        snprintf(path, sizeof path, "%s", place.dli_fname);
    json_object_set_new(
        facts, it->name,
        json_pack("{s:o, s:o}", "version", lks_json_text(version), "path", lks_json_text(path)));
}

static lks_status versions_look(lks_doctor *d, json_t *facts)
{
    (void)d;
    for (int i = 0; i < LIBRARIES; ++i)
        look_at(&libraries[i], facts);
    json_object_set_new(facts, "lockstep",
                        json_pack("{s:s, s:s}", "version", LKS_VERSION, "path", ""));
    const char *preload = getenv("LD_PRELOAD"), *path = getenv("LD_LIBRARY_PATH");
    json_object_set_new(facts, "preload", lks_json_text(preload ? preload : ""));
    json_object_set_new(facts, "library_path", lks_json_text(path ? path : ""));
    return LKS_OK;
}

static const char *fact(const lks_doctor *d, int rank, const char *library_name, const char *key)
{
    const json_t *of_rank = lks_doctor_facts(d, "versions", rank);
    const char *text =
        json_string_value(json_object_get(json_object_get(of_rank, library_name), key));
    return text ? text : "";
}

/* What most ranks have; of those that as many have, the first rank's. */
static int usual_rank(const lks_doctor *d, const char *name)
{
    int best = 0, best_count = 0;
    for (int r = 0; r < d->size; ++r) {
        int count = 0;
        for (int s = 0; s < d->size; ++s)
            count += !strcmp(fact(d, r, name, "version"), fact(d, s, name, "version"));
        if (count > best_count) {
            best = r;
            best_count = count;
        }
    }
    return best;
}

/* LD_LIBRARY_PATH without the directory of `path`; NULL when it is not in there. */
static const char *path_without(const lks_doctor *d, const char *list, const char *path)
{
    const char *slash = strrchr(path, '/');
    size_t length = slash ? (size_t)(slash - path) : 0;
    lks_text rest = {0};
    bool found = false;
    for (const char *at = list; *at;) {
        size_t part = strcspn(at, ":");
        if (part == length && !strncmp(at, path, length))
            found = true;
        else if (part)
            lks_text_append(&rest, "%s%.*s", rest.length ? ":" : "", (int)part, at);
        at += part;
        at += *at == ':';
    }
    const char *copy = found ? lks_doctor_say(d, "%s", rest.data ? rest.data : "") : NULL;
    lks_text_release(&rest);
    return copy;
}

static const char *mend_line(const lks_doctor *d, int rank, const char *name, const char *package)
{
    const char *path = fact(d, rank, name, "path");
    if (*path &&
        strstr(lks_doctor_text(d, rank, "preload"), strrchr(path, '/') ? strrchr(path, '/') : path))
        return "unset LD_PRELOAD";
    const char *rest = path_without(d, lks_doctor_text(d, rank, "library_path"), path);
    if (rest)
        return *rest ? lks_doctor_say(d, "export LD_LIBRARY_PATH=%s", rest)
                     : "unset LD_LIBRARY_PATH";
    return lks_doctor_on(d, rank, lks_doctor_say(d, "apt-get install --only-upgrade %s", package));
}

static void judge_library(lks_doctor *d, const char *name, const char *package,
                          lks_severity severity)
{
    int usual = usual_rank(d, name);
    const char *wanted = fact(d, usual, name, "version");
    for (int r = 0; r < d->size; ++r) {
        const char *version = fact(d, r, name, "version"), *path = fact(d, r, name, "path");
        if (strcmp(version, wanted) != 0)
            lks_doctor_row(d, NULL, severity, r, mend_line(d, r, name, package),
                           "%s is %s%s%s%s, %s on rank %d of %s", name,
                           *version ? version : "missing", *path ? " (" : "", path,
                           *path ? ")" : "", *wanted ? wanted : "missing", usual,
                           lks_doctor_host(d, usual));
    }
}

static void versions_judge(lks_doctor *d)
{
    lks_text all = {0};
    for (int i = 0; i < LIBRARIES; ++i)
        judge_library(d, libraries[i].name, libraries[i].package, libraries[i].severity);
    judge_library(d, "lockstep", "lockstep", LKS_DOCTOR_FAIL);
    for (int i = 0; i < LIBRARIES; ++i)
        if (*fact(d, 0, libraries[i].name, "version"))
            lks_text_append(&all, ", %s %s", libraries[i].name,
                            fact(d, 0, libraries[i].name, "version"));
    if (!lks_doctor_has_trouble(d))
        lks_doctor_row(d, NULL, LKS_DOCTOR_OK, LKS_DOCTOR_ALL, NULL, "lockstep " LKS_VERSION "%s%s",
                       all.data ? all.data : "", d->size > 1 ? ", the same on all ranks" : "");
    lks_text_release(&all);
}

const lks_doctor_check lks_doctor_check_versions = {
    .name = "versions",
    .about = "libraries that differ between ranks: Open MPI, oneDNN, HDF5, NCCL, CUDA, lockstep",
    .look = versions_look,
    .judge = versions_judge,
};
