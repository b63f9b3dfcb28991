#include "runtime/report/lines.h"

#include "runtime/base/files.h"
#include "runtime/base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { REPORT_WAITING_BYTES = 64 << 20 };

/* All that waits, or nothing: a part is taken back. False: with errno. */
static bool lines_flush(report_lines *lines)
{
    struct stat before;
    bool known = fstat(lines->file, &before) == 0;
    const lks_text *waiting = &lines->waiting;
    for (size_t done = 0; done < waiting->length;) {
        ssize_t written = write(lines->file, waiting->data + done, waiting->length - done);
        if (written < 0 && errno == EINTR)
            continue;
        if (written <= 0) {
            int reason = written < 0 ? errno : EIO;
            if (done > 0 && known && ftruncate(lines->file, before.st_size) != 0)
                lks_log_warn("%s: a line is torn", lines->path);
            errno = reason;
            return false;
        }
        done += (size_t)written;
    }
    lks_text_clear(&lines->waiting);
    return true;
}

lks_status report_lines_open(report_lines *out, const char *run_directory, const char *name)
{
    *out = (report_lines){.name = strdup(name), .file = -1};
    if (!out->name || asprintf(&out->path, "%s/%s.jsonl", run_directory, name) < 0) {
        free(out->name);
        return LKS_FAIL(LKS_ERR_INTERNAL, "%s.jsonl: no memory", name);
    }
    out->file = open(out->path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0666);
    lks_status status = out->file >= 0
                            ? lks_files_sync_directory(run_directory)
                            : LKS_FAIL(LKS_ERR_IO, "%s: open: %s", out->path, strerror(errno));
    if (status != LKS_OK)
        report_lines_close(out);
    return status;
}

void report_lines_close(report_lines *lines)
{
    if (lines->waiting.length > 0 && !lines_flush(lines))
        lks_log_warn("%s: %zu bytes of its last lines are lost: %s", lines->path,
                     lines->waiting.length, strerror(errno));
    if (lines->file >= 0)
        close(lines->file);
    lks_text_release(&lines->waiting);
    free(lines->name);
    free(lines->path);
    *lines = (report_lines){.file = -1};
}

lks_status report_lines_flush(report_lines *lines)
{
    if (lines_flush(lines))
        return LKS_OK;
    return LKS_FAIL(LKS_ERR_IO, "%s: write: %s", lines->path, strerror(errno));
}

lks_status report_lines_append(report_lines *lines, const char *text)
{
    lks_text_append(&lines->waiting, "%s\n", text);
    if (lines->waiting.failed)
        return LKS_FAIL(LKS_ERR_INTERNAL, "%s: no memory", lines->path);
    bool written = lines_flush(lines);
    if (!written && !lines->failing)
        lks_log_warn("%s: write: %s; training goes on, and its lines wait in memory: free space or "
                     "mend the directory",
                     lines->path, strerror(errno));
    if (written && lines->failing)
        lks_log_warn("%s: can be written again; no line is missing", lines->path);
    lines->failing = !written;
    if (lines->waiting.length > REPORT_WAITING_BYTES)
        return LKS_FAIL(LKS_ERR_IO, "%s: write: %s; %zu bytes wait to be written, and no more can",
                        lines->path, strerror(errno), lines->waiting.length);
    return LKS_OK;
}
