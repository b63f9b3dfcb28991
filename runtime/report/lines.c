#include "runtime/report/lines.h"

#include "runtime/base/files.h"
#include "runtime/base/text.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

lks_status report_lines_open(report_lines *out, const char *run_directory, const char *name)
{
    *out = (report_lines){.name = strdup(name), .file = -1};
    if (!out->name || asprintf(&out->path, "%s/%s.jsonl", run_directory, name) < 0) {
        free(out->name);
        return LKS_FAIL(LKS_ERR_INTERNAL, "%s.jsonl: no memory", name);
    }
    out->file = open(out->path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0666);
    if (out->file >= 0)
        return LKS_OK;
    lks_status status = LKS_FAIL(LKS_ERR_IO, "%s: open: %s", out->path, strerror(errno));
    report_lines_close(out);
    return status;
}

void report_lines_close(report_lines *lines)
{
    if (lines->file >= 0)
        close(lines->file);
    free(lines->name);
    free(lines->path);
    *lines = (report_lines){.file = -1};
}

static ssize_t lines_write(int file, const char *data, size_t bytes)
{
    ssize_t written;
    do
        written = write(file, data, bytes);
    while (written < 0 && errno == EINTR);
    return written;
}

lks_status report_lines_append(const report_lines *lines, const char *text)
{
    lks_text line = {0};
    lks_text_append_bytes(&line, text, strlen(text));
    lks_text_append_bytes(&line, "\n", 1);
    if (line.failed) {
        lks_text_release(&line);
        return LKS_FAIL(LKS_ERR_INTERNAL, "%s: no memory", lines->path);
    }
    struct stat before;
    bool known = fstat(lines->file, &before) == 0;
    ssize_t written = lines_write(lines->file, line.data, line.length);
    lks_status status = LKS_OK;
    if (written != (ssize_t)line.length) {
        const char *reason = written < 0 ? strerror(errno) : strerror(ENOSPC);
        status = LKS_FAIL(LKS_ERR_IO, "%s: write: %s", lines->path, reason);
        if (written > 0 && known && ftruncate(lines->file, before.st_size) != 0)
            status =
                LKS_FAIL(LKS_ERR_IO, "%s: write: %s, and a torn line stays", lines->path, reason);
    }
    lks_text_release(&line);
    return status;
}
