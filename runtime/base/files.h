/* Files: whole reads, atomic writes, the loops around pread and pwrite.
 *
 * Errors are LKS_ERR_IO with path, operation and strerror, but for
 * lks_files_read, whose missing file is LKS_ERR_USAGE (a user named it).
 */
#ifndef LKS_BASE_FILES_H
#define LKS_BASE_FILES_H

#include "runtime/base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Reads a whole file of at most `limit` bytes; `*data` ends in an extra NUL and
 * is freed with free(). */
lks_status lks_files_read(const char *path, size_t limit, char **data,
                          size_t *bytes) LKS_MUST_CHECK;

/* Writes path.tmp-<pid>, fsyncs, renames over `path`, fsyncs the directory. On
 * failure nothing is left behind and `path` is as it was. */
lks_status lks_files_write_atomically(const char *path, const void *data,
                                      size_t bytes) LKS_MUST_CHECK;

/* All of `bytes` at `offset`, through EINTR and short counts. A file that ends
 * early is LKS_ERR_CORRUPT. `path` is for the message. */
lks_status lks_files_pread(int file, const char *path, void *data, size_t bytes,
                           uint64_t offset) LKS_MUST_CHECK;
lks_status lks_files_pwrite(int file, const char *path, const void *data, size_t bytes,
                            uint64_t offset) LKS_MUST_CHECK;

lks_status lks_files_make_directories(const char *path) LKS_MUST_CHECK; /* like mkdir -p */
lks_status lks_files_sync_directory(const char *path) LKS_MUST_CHECK;
lks_status lks_files_remove_tree(const char *path) LKS_MUST_CHECK; /* missing is fine */
bool lks_files_exists(const char *path);
bool lks_files_is_directory(const char *path);

/* The names in a directory, without . and .., sorted bytewise. */
typedef struct lks_file_list {
    char **names;
    size_t count;
} lks_file_list;
lks_status lks_files_list(const char *path, lks_file_list *out) LKS_MUST_CHECK;
void lks_file_list_release(lks_file_list *list);

/* "a/b" from "a" and "b"; free(). NULL only without memory. */
char *lks_files_join(const char *directory, const char *name);

#endif
