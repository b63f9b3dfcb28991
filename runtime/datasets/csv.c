#include "runtime/datasets/csv.h"

#include "runtime/base/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* A read after a seek is small, for a row may be all that is wanted there. */
enum { BUFFER_BYTES = 1 << 20, FIRST_READ_BYTES = 2 << 10, END_OF_FILE = -1 };

struct lks_csv {
    char *path;
    int file;
    char delimiter;
    unsigned char *buffer; /* [BUFFER_BYTES] */
    size_t at, fill;
    size_t read_bytes;      /* of the next read */
    uint64_t buffer_offset; /* of buffer[0] in the file */
    uint64_t line;          /* of buffer[at] */
    lks_status status;      /* of reading: a failed read looks like the end to the parser */
    char *text;             /* the row's fields, each with its NUL */
    size_t length, text_capacity;
    size_t *starts; /* of the fields in text */
    size_t count, starts_capacity;
    const char **fields;
    size_t fields_capacity;
};

static lks_status csv_start(lks_csv *csv, const char *path, char delimiter)
{
    csv->file = -1;
    csv->delimiter = delimiter;
    csv->path = strdup(path);
    LKS_TRY(LKS_NEW_ARRAY(&csv->buffer, (size_t)BUFFER_BYTES));
    if (!csv->path)
        return LKS_FAIL(LKS_ERR_INTERNAL, "no memory for a path");
    csv->file = open(path, O_RDONLY | O_CLOEXEC);
    if (csv->file < 0)
        return LKS_FAIL(errno == ENOENT || errno == ENOTDIR ? LKS_ERR_USAGE : LKS_ERR_IO,
                        "%s: cannot be opened: %s", path, strerror(errno));
    lks_csv_seek(csv, 0, 1);
    return LKS_OK;
}

lks_status lks_csv_open(lks_csv **out, const char *path, char delimiter)
{
    lks_csv *csv;
    LKS_TRY(LKS_NEW(&csv));
    lks_status status = csv_start(csv, path, delimiter);
    if (status != LKS_OK)
        lks_csv_close(csv);
    else
        *out = csv;
    return status;
}

void lks_csv_close(lks_csv *csv)
{
    if (!csv)
        return;
    if (csv->file >= 0)
        close(csv->file);
    lks_memory_free(csv->buffer);
    lks_memory_free(csv->text);
    lks_memory_free(csv->starts);
    lks_memory_free(csv->fields);
    free(csv->path);
    lks_memory_free(csv);
}

const char *lks_csv_path(const lks_csv *csv)
{
    return csv->path;
}

void lks_csv_seek(lks_csv *csv, uint64_t offset, uint64_t line)
{
    csv->line = line;
    if (offset >= csv->buffer_offset && offset - csv->buffer_offset < csv->fill) {
        csv->at = (size_t)(offset - csv->buffer_offset);
        return;
    }
    csv->buffer_offset = offset;
    csv->at = csv->fill = 0;
    csv->read_bytes = FIRST_READ_BYTES;
}

/* Keeps what is not parsed yet. */
static bool csv_refill(lks_csv *csv)
{
    csv->fill -= csv->at;
    memmove(csv->buffer, csv->buffer + csv->at, csv->fill);
    csv->buffer_offset += csv->at;
    csv->at = 0;
    size_t room = BUFFER_BYTES - csv->fill,
           wanted = csv->read_bytes < room ? csv->read_bytes : room;
    ssize_t got;
    do
        got = pread(csv->file, csv->buffer + csv->fill, wanted,
                    (off_t)(csv->buffer_offset + csv->fill));
    while (got < 0 && errno == EINTR);
    if (got < 0)
        csv->status = LKS_FAIL(LKS_ERR_IO, "%s: read: %s", csv->path, strerror(errno));
    if (got <= 0)
        return false;
    csv->fill += (size_t)got;
    csv->read_bytes = csv->read_bytes * 4 < BUFFER_BYTES ? csv->read_bytes * 4 : BUFFER_BYTES;
    return true;
}

/* Whether the next bytes are `bytes`. */
static bool csv_sees(lks_csv *csv, const char *bytes, size_t count)
{
    while (csv->fill - csv->at < count) {
        if (!csv_refill(csv))
            return false;
    }
    return memcmp(csv->buffer + csv->at, bytes, count) == 0;
}

static int csv_peek(lks_csv *csv)
{
    if (csv->at == csv->fill && !csv_refill(csv))
        return END_OF_FILE;
    return csv->buffer[csv->at];
}

static lks_status csv_append(lks_csv *csv, const void *bytes, size_t count)
{
    if (csv->length + count > LKS_CSV_ROW_BYTES_MAX)
        return LKS_FAIL(LKS_ERR_CORRUPT,
                        "%s:%" PRIu64 ": the row is longer than %d MiB: is a quote not closed?",
                        csv->path, csv->line, LKS_CSV_ROW_BYTES_MAX >> 20);
    if (count == 0)
        return LKS_OK;
    LKS_TRY(LKS_GROW(&csv->text, &csv->text_capacity, csv->length + count));
    memcpy(csv->text + csv->length, bytes, count);
    csv->length += count;
    return LKS_OK;
}

/* The run of bytes of the buffer that mean themselves; a quoted field stops at quotes only. */
static lks_status csv_take_run(lks_csv *csv, bool quoted)
{
    const unsigned char *start = csv->buffer + csv->at, *end = csv->buffer + csv->fill, *p = start;
    unsigned char delimiter = (unsigned char)csv->delimiter;
    if (quoted) {
        while (p < end && *p != '"' && *p != '\n' && *p != '\0')
            ++p;
    } else {
        while (p < end && *p != delimiter && *p != '\n' && *p != '\r' && *p != '\0')
            ++p;
    }
    csv->at += (size_t)(p - start);
    return csv_append(csv, start, (size_t)(p - start));
}

static lks_status csv_fail_nul(const lks_csv *csv, uint64_t line)
{
    return LKS_FAIL(LKS_ERR_CORRUPT, "%s:%" PRIu64 ": a NUL byte: this is not a text file in UTF-8",
                    csv->path, line);
}

static lks_status csv_take_quoted(lks_csv *csv)
{
    uint64_t first_line = csv->line;
    ++csv->at;
    for (;;) {
        int c = csv_peek(csv);
        if (c == END_OF_FILE)
            return csv->status != LKS_OK
                       ? csv->status
                       : LKS_FAIL(LKS_ERR_CORRUPT, "%s:%" PRIu64 ": a quoted field is never closed",
                                  csv->path, first_line);
        if (c == '\0')
            return csv_fail_nul(csv, csv->line);
        if (c == '\n') {
            ++csv->line;
            ++csv->at;
            LKS_TRY(csv_append(csv, "\n", 1));
        } else if (c == '"') {
            ++csv->at;
            if (csv_peek(csv) != '"')
                return csv->status;
            ++csv->at;
            LKS_TRY(csv_append(csv, "\"", 1));
        }
        LKS_TRY(csv_take_run(csv, true));
    }
}

/* A CR is part of the line end only before LF or at the end of the file. */
static lks_status csv_take_plain(lks_csv *csv)
{
    for (;;) {
        LKS_TRY(csv_take_run(csv, false));
        int c = csv_peek(csv);
        if (c == '\0')
            return csv_fail_nul(csv, csv->line);
        if (c == '\r') {
            ++csv->at;
            int after = csv_peek(csv);
            if (after == '\n' || after == END_OF_FILE)
                return csv->status;
            LKS_TRY(csv_append(csv, "\r", 1));
        } else if (c == END_OF_FILE || c == '\n' || c == (unsigned char)csv->delimiter) {
            return csv->status;
        }
    }
}

static void csv_skip_blanks(lks_csv *csv)
{
    while (csv->delimiter != ' ' && csv_peek(csv) == ' ')
        ++csv->at;
}

static lks_status csv_after_quoted(lks_csv *csv)
{
    csv_skip_blanks(csv);
    if (csv_peek(csv) == '\r')
        ++csv->at;
    int c = csv_peek(csv);
    if (c != END_OF_FILE && c != '\n' && c != (unsigned char)csv->delimiter)
        return LKS_FAIL(LKS_ERR_CORRUPT,
                        "%s:%" PRIu64 ": field %zu has text after its closing quote: write a "
                        "quote within quotes twice",
                        csv->path, csv->line, csv->count);
    return csv->status;
}

static lks_status csv_take_field(lks_csv *csv)
{
    LKS_TRY(LKS_GROW(&csv->starts, &csv->starts_capacity, csv->count + 1));
    size_t start = csv->starts[csv->count++] = csv->length;
    csv_skip_blanks(csv);
    if (csv_peek(csv) == '"') {
        LKS_TRY(csv_take_quoted(csv));
        LKS_TRY(csv_after_quoted(csv));
    } else {
        LKS_TRY(csv_take_plain(csv));
        while (csv->length > start && csv->text[csv->length - 1] == ' ')
            --csv->length;
    }
    return csv_append(csv, "", 1);
}

static lks_status csv_take_fields(lks_csv *csv)
{
    csv->count = csv->length = 0;
    for (;;) {
        LKS_TRY(csv_take_field(csv));
        int c = csv_peek(csv);
        if (c == (unsigned char)csv->delimiter) {
            ++csv->at;
            continue;
        }
        if (c == '\n') {
            ++csv->at;
            ++csv->line;
        }
        return csv->status;
    }
}

static void csv_skip_mark(lks_csv *csv)
{
    if (csv->buffer_offset + csv->at == 0 && csv_sees(csv, "\xEF\xBB\xBF", 3))
        csv->at += 3;
}

static void csv_skip_empty_lines(lks_csv *csv)
{
    for (;;) {
        int c = csv_peek(csv);
        bool pair = c == '\r' && csv_sees(csv, "\r\n", 2);
        if (c != '\n' && !pair)
            return;
        csv->at += pair ? 2 : 1;
        ++csv->line;
    }
}

lks_status lks_csv_next(lks_csv *csv, lks_csv_row *row, bool *end)
{
    csv->status = LKS_OK;
    csv_skip_mark(csv);
    csv_skip_empty_lines(csv);
    *end = csv_peek(csv) == END_OF_FILE;
    if (*end)
        return csv->status;
    row->offset = csv->buffer_offset + csv->at;
    row->line = csv->line;
    LKS_TRY(csv_take_fields(csv));
    LKS_TRY(LKS_GROW(&csv->fields, &csv->fields_capacity, csv->count));
    for (size_t i = 0; i < csv->count; ++i)
        csv->fields[i] = csv->text + csv->starts[i];
    row->fields = csv->fields;
    row->count = csv->count;
    return LKS_OK;
}
