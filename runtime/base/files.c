#include "runtime/base/files.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static lks_status files_fail(const char *path, const char *operation)
{
    return LKS_FAIL(LKS_ERR_IO, "%s: cannot %s: %s", path, operation, strerror(errno));
}

static lks_status files_no_memory(const char *path)
{
    return LKS_FAIL(LKS_ERR_INTERNAL, "%s: no memory", path);
}

/* --- Whole files ---------------------------------------------------------- */

static lks_status files_read_all(int file, const char *path, size_t limit, char **data,
                                 size_t *bytes)
{
    struct stat info;
    size_t length = 0, capacity = 4096;
    if (fstat(file, &info) == 0 && S_ISREG(info.st_mode) && info.st_size > 0)
        capacity = (uint64_t)info.st_size < limit ? (size_t)info.st_size + 2 : limit + 2;
    char *buffer = malloc(capacity);
    while (buffer) {
        ssize_t got = read(file, buffer + length, capacity - 1 - length);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0) {
            free(buffer);
            return files_fail(path, "read");
        }
        length += (size_t)got;
        if (length > limit) {
            free(buffer);
            return LKS_FAIL(LKS_ERR_CORRUPT, "%s: more than %zu bytes", path, limit);
        }
        if (got == 0) {
            buffer[length] = '\0';
            *data = buffer;
            *bytes = length;
            return LKS_OK;
        }
        if (capacity - 1 == length) {
            char *larger = realloc(buffer, capacity *= 2);
            if (!larger)
                free(buffer);
            buffer = larger;
        }
    }
    return files_no_memory(path);
}

enum { FILES_PIPE_WAIT_MS = 2000 };

/* Opening a pipe would wait for its writer for ever. One that has none by then reads as empty. */
static int files_open(const char *path)
{
    struct stat info;
    int file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (file < 0)
        return file;
    if (fstat(file, &info) == 0 && S_ISFIFO(info.st_mode))
        poll(&(struct pollfd){.fd = file, .events = POLLIN}, 1, FILES_PIPE_WAIT_MS);
    fcntl(file, F_SETFL, fcntl(file, F_GETFL) & ~O_NONBLOCK);
    return file;
}

lks_status lks_files_read(const char *path, size_t limit, char **data, size_t *bytes)
{
    int file = files_open(path);
    if (file < 0 && (errno == ENOENT || errno == ENOTDIR))
        return LKS_FAIL(LKS_ERR_USAGE, "%s: %s", path, strerror(errno));
    if (file < 0)
        return files_fail(path, "open");
    if (lks_files_is_directory(path)) {
        close(file);
        return LKS_FAIL(LKS_ERR_USAGE, "%s is a directory, want a file", path);
    }
    lks_status status = files_read_all(file, path, limit, data, bytes);
    close(file);
    return status;
}

static lks_status files_write_new(const char *temporary, const void *data, size_t bytes)
{
    int file = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (file < 0)
        return files_fail(temporary, "create");
    lks_status status = lks_files_pwrite(file, temporary, data, bytes, 0);
    if (status == LKS_OK && fsync(file) != 0)
        status = files_fail(temporary, "fsync");
    if (close(file) != 0 && status == LKS_OK)
        status = files_fail(temporary, "close");
    return status;
}

/* The directory that holds `path`, "." when none is named; free(). */
static char *files_parent(const char *path)
{
    const char *slash = strrchr(path, '/');
    if (!slash)
        return strdup(".");
    return strndup(path, slash == path ? 1 : (size_t)(slash - path));
}

static lks_status files_sync_parent(const char *path)
{
    char *parent = files_parent(path);
    if (!parent)
        return files_no_memory(path);
    lks_status status = lks_files_sync_directory(parent);
    free(parent);
    return status;
}

lks_status lks_files_write_atomically(const char *path, const void *data, size_t bytes)
{
    char *temporary;
    if (asprintf(&temporary, "%s.tmp-%ld", path, (long)getpid()) < 0)
        return files_no_memory(path);
    lks_status status = files_write_new(temporary, data, bytes);
    if (status == LKS_OK && rename(temporary, path) != 0)
        status = files_fail(path, "rename");
    if (status != LKS_OK)
        unlink(temporary);
    free(temporary);
    return status == LKS_OK ? files_sync_parent(path) : status;
}

/* --- Parts of files ------------------------------------------------------- */

lks_status lks_files_pread(int file, const char *path, void *data, size_t bytes, uint64_t offset)
{
    char *at = data;
    while (bytes > 0) {
        ssize_t got = pread(file, at, bytes, (off_t)offset);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return files_fail(path, "read");
        if (got == 0)
            return LKS_FAIL(LKS_ERR_CORRUPT, "%s: ends at byte %llu, %zu bytes too early", path,
                            (unsigned long long)offset, bytes);
        at += got;
        offset += (uint64_t)got;
        bytes -= (size_t)got;
    }
    return LKS_OK;
}

lks_status lks_files_pwrite(int file, const char *path, const void *data, size_t bytes,
                            uint64_t offset)
{
    const char *at = data;
    while (bytes > 0) {
        ssize_t put = pwrite(file, at, bytes, (off_t)offset);
        if (put < 0 && errno == EINTR)
            continue;
        if (put <= 0) {
            if (put == 0)
                errno = EIO;
            return files_fail(path, "write");
        }
        at += put;
        offset += (uint64_t)put;
        bytes -= (size_t)put;
    }
    return LKS_OK;
}

/* --- Directories ---------------------------------------------------------- */

static lks_status files_make_directory(const char *path)
{
    if (mkdir(path, 0777) == 0)
        return LKS_OK;
    int reason = errno;
    if (lks_files_is_directory(path)) /* also when mkdir says EROFS or EACCES */
        return LKS_OK;
    errno = reason == EEXIST ? ENOTDIR : reason;
    return files_fail(path, "make the directory");
}

lks_status lks_files_make_directories(const char *path)
{
    if (path[0] == '\0')
        return LKS_FAIL(LKS_ERR_USAGE, "the name of a directory is empty");
    char *prefix = strdup(path);
    if (!prefix)
        return files_no_memory(path);
    lks_status status = LKS_OK;
    for (char *slash = strchr(prefix + 1, '/'); slash && status == LKS_OK;
         slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        status = files_make_directory(prefix);
        *slash = '/';
    }
    if (status == LKS_OK)
        status = files_make_directory(prefix);
    free(prefix);
    return status;
}

lks_status lks_files_sync_directory(const char *path)
{
    int directory = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (directory < 0)
        return files_fail(path, "open");
    lks_status status = LKS_OK;
    if (fsync(directory) != 0 && errno != EINVAL) /* EINVAL: this file system has no such thing */
        status = files_fail(path, "fsync");
    close(directory);
    return status;
}

static bool files_is_dots(const char *name)
{
    return strcmp(name, ".") == 0 || strcmp(name, "..") == 0;
}

static lks_status files_remove_children(const char *path)
{
    lks_file_list list;
    LKS_TRY(lks_files_list(path, &list));
    lks_status status = LKS_OK;
    for (size_t i = 0; i < list.count && status == LKS_OK; ++i) {
        char *child = lks_files_join(path, list.names[i]);
        status = child ? lks_files_remove_tree(child) : files_no_memory(path);
        free(child);
    }
    lks_file_list_release(&list);
    return status;
}

lks_status lks_files_remove_tree(const char *path)
{
    struct stat info;
    if (lstat(path, &info) != 0)
        return errno == ENOENT ? LKS_OK : files_fail(path, "stat");
    if (!S_ISDIR(info.st_mode))
        return unlink(path) == 0 || errno == ENOENT ? LKS_OK : files_fail(path, "unlink");
    LKS_TRY(files_remove_children(path));
    return rmdir(path) == 0 || errno == ENOENT ? LKS_OK : files_fail(path, "rmdir");
}

bool lks_files_exists(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0;
}

bool lks_files_is_directory(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

static int files_compare_names(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static bool files_list_add(lks_file_list *list, size_t *capacity, const char *name)
{
    if (list->count == *capacity) {
        size_t wanted = *capacity ? *capacity * 2 : 16;
        char **names = realloc(list->names, wanted * sizeof *names);
        if (!names)
            return false;
        list->names = names;
        *capacity = wanted;
    }
    list->names[list->count] = strdup(name);
    return list->names[list->count] != NULL && ++list->count > 0;
}

lks_status lks_files_list(const char *path, lks_file_list *out)
{
    *out = (lks_file_list){0};
    DIR *directory = opendir(path);
    if (!directory)
        return files_fail(path, "open");
    size_t capacity = 0;
    lks_status status = LKS_OK;
    while (status == LKS_OK) {
        errno = 0;
        struct dirent *entry = readdir(directory);
        if (!entry) {
            if (errno != 0)
                status = files_fail(path, "read");
            break;
        }
        if (!files_is_dots(entry->d_name) && !files_list_add(out, &capacity, entry->d_name))
            status = files_no_memory(path);
    }
    closedir(directory);
    if (status != LKS_OK)
        lks_file_list_release(out);
    else if (out->count > 1)
        qsort(out->names, out->count, sizeof *out->names, files_compare_names);
    return status;
}

void lks_file_list_release(lks_file_list *list)
{
    for (size_t i = 0; i < list->count; ++i)
        free(list->names[i]);
    free(list->names);
    *list = (lks_file_list){0};
}

char *lks_files_join(const char *directory, const char *name)
{
    size_t length = strlen(directory);
    const char *between = length == 0 || directory[length - 1] == '/' ? "" : "/";
    char *joined;
    return asprintf(&joined, "%s%s%s", directory, between, name) < 0 ? NULL : joined;
}
