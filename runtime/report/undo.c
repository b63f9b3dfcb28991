/* The rule for resumed steps: lines of steps that are undone leave the file.
 *
 * Steps grow from line to line, because each start applies the rule; so what is to go is
 * the end of the file, found backwards without reading the rest.
 */
#include "runtime/report/lines.h"
#include "runtime/report/report.h"

#include "runtime/base/files.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct undo_cut {
    size_t kept;     /* bytes that stay */
    size_t undone;   /* bytes up to here move; what follows is torn */
    bool unfinished; /* the last line lacks only its newline */
} undo_cut;

/* The member "step" of a line; false when the line is not such an object. */
static bool undo_line_step(const char *line, size_t bytes, uint64_t *step)
{
    json_t *json = json_loadb(line, bytes, 0, NULL);
    const json_t *member = json_object_get(json, "step");
    bool found = json_is_integer(member) && json_integer_value(member) >= 0;
    if (found)
        *step = (uint64_t)json_integer_value(member);
    json_decref(json);
    return found;
}

/* Where the line begins that ends, without its newline, at `end`. */
static size_t undo_line_start(const char *data, size_t end)
{
    while (end > 0 && data[end - 1] != '\n')
        --end;
    return end;
}

static undo_cut undo_find(const char *data, size_t bytes, uint64_t resume_step)
{
    undo_cut cut = {bytes, bytes, data[bytes - 1] != '\n'};
    uint64_t step;
    if (cut.unfinished) {
        size_t start = undo_line_start(data, bytes);
        if (!undo_line_step(data + start, bytes - start, &step)) {
            bytes = start;
            cut = (undo_cut){start, start, false};
        }
    }
    while (bytes > 0) {
        size_t start = undo_line_start(data, bytes - 1);
        bool found = undo_line_step(data + start, bytes - start, &step);
        if (found && step <= resume_step)
            break;
        if (found)
            cut.kept = start;
        bytes = start;
    }
    return cut;
}

/* Writes the bytes to the first undone/<name>-<n>.jsonl that is free. */
static lks_status undo_keep(const char *run_directory, const char *name, const char *data,
                            size_t bytes)
{
    char *directory = lks_files_join(run_directory, "undone");
    if (!directory)
        return LKS_FAIL(LKS_ERR_INTERNAL, "%s: no memory", run_directory);
    lks_status status = lks_files_make_directories(directory);
    int stem = (int)(strlen(name) - strlen(".jsonl"));
    for (unsigned long n = 1; status == LKS_OK; ++n) {
        char *path;
        if (asprintf(&path, "%s/%.*s-%lu.jsonl", directory, stem, name, n) < 0) {
            status = LKS_FAIL(LKS_ERR_INTERNAL, "%s: no memory", directory);
            break;
        }
        bool taken = lks_files_exists(path);
        if (!taken)
            status = lks_files_write_atomically(path, data, bytes);
        free(path);
        if (!taken)
            break;
    }
    free(directory);
    return status;
}

static lks_status undo_apply(int file, const char *path, const undo_cut *cut, size_t bytes)
{
    bool finish = cut->unfinished && cut->kept == bytes;
    if (cut->kept < bytes && ftruncate(file, (off_t)cut->kept) != 0)
        return LKS_FAIL(LKS_ERR_IO, "%s: truncate: %s", path, strerror(errno));
    if (finish)
        LKS_TRY(lks_files_pwrite(file, path, "\n", 1, bytes));
    if (fsync(file) != 0)
        return LKS_FAIL(LKS_ERR_IO, "%s: fsync: %s", path, strerror(errno));
    return LKS_OK;
}

/* One file of lines, mapped; data is "" where there are none. */
typedef struct undo_lines {
    const char *run_directory, *name, *path, *data;
    size_t bytes;
    int file;
    uint64_t resume_step;
} undo_lines;

typedef lks_status undo_visit(const undo_lines *lines);

static lks_status undo_take_back(const undo_lines *l)
{
    if (!l->bytes)
        return LKS_OK;
    undo_cut cut = undo_find(l->data, l->bytes, l->resume_step);
    if (cut.kept == l->bytes && !cut.unfinished)
        return LKS_OK;
    if (cut.undone > cut.kept)
        LKS_TRY(undo_keep(l->run_directory, l->name, l->data + cut.kept, cut.undone - cut.kept));
    return undo_apply(l->file, l->path, &cut, l->bytes);
}

static lks_status undo_replace(const undo_lines *l)
{
    return lks_files_write_atomically(l->path, l->data, l->bytes);
}

static lks_status undo_file(undo_visit *visit, undo_lines *l)
{
    l->file = open(l->path, O_RDWR | O_CLOEXEC);
    if (l->file < 0)
        return LKS_FAIL(LKS_ERR_IO, "%s: open: %s", l->path, strerror(errno));
    struct stat info;
    lks_status status = LKS_OK;
    if (fstat(l->file, &info) == 0 && S_ISREG(info.st_mode)) {
        l->bytes = (size_t)info.st_size;
        void *data =
            l->bytes ? mmap(NULL, l->bytes, PROT_READ, MAP_SHARED, l->file, 0) : (void *)"";
        l->data = data;
        status = data == MAP_FAILED ? LKS_FAIL(LKS_ERR_IO, "%s: map: %s", l->path, strerror(errno))
                                    : visit(l);
        if (l->bytes && data != MAP_FAILED)
            munmap(data, l->bytes);
    }
    close(l->file);
    return status;
}

static bool undo_is_lines(const char *name)
{
    size_t length = strlen(name), ending = strlen(".jsonl");
    return length > ending && strcmp(name + length - ending, ".jsonl") == 0;
}

static lks_status undo_each(const char *run_directory, undo_visit *visit, uint64_t resume_step)
{
    lks_file_list list;
    LKS_TRY(lks_files_list(run_directory, &list));
    lks_status status = LKS_OK;
    for (size_t i = 0; i < list.count && status == LKS_OK; ++i) {
        if (!undo_is_lines(list.names[i]))
            continue;
        char *path = lks_files_join(run_directory, list.names[i]);
        undo_lines lines = {run_directory, list.names[i], path, NULL, 0, -1, resume_step};
        status = path ? undo_file(visit, &lines)
                      : LKS_FAIL(LKS_ERR_INTERNAL, "%s: no memory", run_directory);
        free(path);
    }
    lks_file_list_release(&list);
    return status;
}

lks_status report_undo(const char *run_directory, uint64_t resume_step)
{
    return undo_each(run_directory, undo_take_back, resume_step);
}

lks_status lks_report_fence(const char *run_directory)
{
    return undo_each(run_directory, undo_replace, 0);
}
