/* What a host has: numbers of /proc and /sys. */
#ifndef LKS_LAUNCHER_DOCTOR_HOST_H
#define LKS_LAUNCHER_DOCTOR_HOST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The first line of a small file, without its end. False: it cannot be read. */
bool lks_host_read_line(const char *path, char *line, size_t size);
/* The number behind `key` in a file of such lines; `key` "": the file's first. */
bool lks_host_read_number(const char *path, const char *key, uint64_t *out);

/* Memory that can still be had without swapping, by the kernel and this control group; never more than RLIMIT_AS. */
uint64_t lks_host_available_bytes(void);
/* Cores that this control group may use; INFINITY: no limit. */
double lks_host_group_cores(void);

/* Where `path` lies. Texts are cut when too long. */
typedef struct lks_mount {
    char point[1024], type[64], source[1024], options[512], super_options[512];
} lks_mount;
/* False: not known. */
bool lks_host_find_mount(const char *path, lks_mount *out);
/* One that other hosts can mount too: nfs, lustre, ... */
bool lks_mount_is_network(const char *type);

#endif
