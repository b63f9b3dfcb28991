#include "runtime/base/node_memory.h"

#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

/* The names of one version of control groups. */
typedef struct group_files {
    const char *mount, *controller; /* of its line in /proc/self/cgroup */
    const char *limit, *used, *active, *inactive;
} group_files;

static const group_files versions[] = {
    {"/sys/fs/cgroup", "", "memory.max", "memory.current", "active_file ", "inactive_file "},
    {"/sys/fs/cgroup/memory", "memory", "memory.limit_in_bytes", "memory.usage_in_bytes",
     "total_active_file ", "total_inactive_file "},
};

/* The number behind `key` at a line's start; a text ("max") is none. */
static bool read_number(const char *path, const char *key, uint64_t *out)
{
    char line[256];
    unsigned long long number;
    bool found = false;
    FILE *file = fopen(path, "re");
    while (file != NULL && !found && fgets(line, sizeof line, file) != NULL)
        found = strncmp(line, key, strlen(key)) == 0 &&
                sscanf(line + strlen(key), "%llu", &number) == 1;
    if (file != NULL)
        fclose(file);
    if (found)
        *out = number;
    return found;
}

static bool read_in(const char *directory, const char *name, const char *key, uint64_t *out)
{
    char path[2 * PATH_MAX];
    int length = snprintf(path, sizeof path, "%s/%s", directory, name);
    return (size_t)length < sizeof path && read_number(path, key, out);
}

/* What one group has left. */
static uint64_t group_left(const group_files *files, const char *directory)
{
    uint64_t limit, used, active = 0, inactive = 0;
    if (!read_in(directory, files->limit, "", &limit) ||
        !read_in(directory, files->used, "", &used))
        return UINT64_MAX;
    if (read_in(directory, "memory.stat", files->active, &active) &&
        read_in(directory, "memory.stat", files->inactive, &inactive))
        used -= active + inactive < used ? active + inactive : used;
    return limit > used ? limit - used : 0;
}

/* "3:cpu,memory:/a/b" for "memory", "0::/a/b" for "": "/a/b". */
static bool group_path(const char *root, const char *controller, char path[PATH_MAX])
{
    char name[PATH_MAX], line[PATH_MAX];
    bool found = false;
    snprintf(name, sizeof name, "%s/proc/self/cgroup", root);
    FILE *file = fopen(name, "re");
    while (file != NULL && !found && fgets(line, sizeof line, file) != NULL) {
        char *controllers = strchr(line, ':');
        char *below = controllers == NULL ? NULL : strchr(controllers + 1, ':');
        if (below == NULL)
            continue;
        *below++ = '\0';
        below[strcspn(below, "\n")] = '\0';
        for (char *rest = controllers + 1, *one; !found && (one = strsep(&rest, ",")) != NULL;)
            found = strcmp(one, controller) == 0;
        if (found)
            snprintf(path, PATH_MAX, "%s", strcmp(below, "/") == 0 ? "" : below);
    }
    if (file != NULL)
        fclose(file);
    return found;
}

/* The least of the group and of all that it is in. In a container the path may be one that only the host has. */
static uint64_t groups_left(const char *root, const group_files *files)
{
    char path[PATH_MAX], directory[2 * PATH_MAX];
    uint64_t least = UINT64_MAX;
    if (!group_path(root, files->controller, path))
        return UINT64_MAX;
    for (bool more = true; more;) {
        snprintf(directory, sizeof directory, "%s%s%s", root, files->mount, path);
        uint64_t left = group_left(files, directory);
        if (left < least)
            least = left;
        char *slash = strrchr(path, '/');
        more = slash != NULL;
        if (more)
            *slash = '\0';
    }
    return least;
}

uint64_t lks_node_memory_available(const char *root)
{
    uint64_t kib, least = UINT64_MAX;
    if (read_in(root, "proc/meminfo", "MemAvailable:", &kib))
        least = kib << 10;
    for (size_t i = 0; i < sizeof versions / sizeof *versions; ++i) {
        uint64_t left = groups_left(root, &versions[i]);
        if (left < least)
            least = left;
    }
    return least;
}
