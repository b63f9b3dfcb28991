#include "runtime/datasets/table_rows.h"

#include "runtime/base/memory.h"
#include "runtime/datasets/gather.h"
#include "runtime/datasets/table_rules.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { SPARSE_STRIDE = 1024 };

typedef struct row_place {
    uint64_t offset, line;
} row_place;

typedef struct rows_file {
    uint64_t first, count;   /* rows, over all files */
    const row_place *places; /* of rows 0, stride, 2 stride, ...: in `gathered` */
} rows_file;

struct lks_table_rows {
    const lks_format_job *job;
    lks_arena *arena; /* of the header */
    char delimiter;
    uint64_t stride, count;
    lks_csv_row header;
    rows_file *files;
    void *gathered;
    lks_csv *csv; /* of `open_file`, about to read row `next` */
    size_t open_file;
    uint64_t next;
};

/* What one rank found of one file; `place_count` places follow. */
typedef struct scan_head {
    uint64_t file, rows, place_count;
} scan_head;

typedef struct scan_result {
    unsigned char *data;
    size_t length, capacity;
} scan_result;

static lks_status check_header(const lks_csv *csv, const lks_csv_row *header)
{
    const char *path = lks_csv_path(csv);
    for (size_t i = 0; i < header->count; ++i) {
        json_t *name = json_string(header->fields[i]);
        if (!name)
            return LKS_FAIL(LKS_ERR_CORRUPT,
                            "%s:1: the name of column %zu is not UTF-8: convert "
                            "the file",
                            path, i + 1);
        json_decref(name);
        for (size_t j = 0; j < i; ++j) {
            if (strcmp(header->fields[i], header->fields[j]) == 0)
                return LKS_FAIL(LKS_ERR_CORRUPT, "%s:1: columns %zu and %zu are both named \"%s\"",
                                path, j + 1, i + 1, header->fields[i]);
        }
    }
    return LKS_OK;
}

lks_status lks_table_read_header(lks_csv *csv, lks_csv_row *header)
{
    bool end;
    LKS_TRY(lks_csv_next(csv, header, &end));
    if (end)
        return LKS_FAIL(LKS_ERR_CORRUPT, "%s: has no header", lks_csv_path(csv));
    return check_header(csv, header);
}

static lks_status keep_header(lks_table_rows *rows, const lks_csv_row *header)
{
    const char **names = lks_arena_allocate(rows->arena, header->count * sizeof *names);
    for (size_t i = 0; names && i < header->count; ++i) {
        names[i] = lks_arena_copy(rows->arena, header->fields[i]);
        if (!names[i])
            names = NULL;
    }
    if (!names)
        return LKS_FAIL(LKS_ERR_INTERNAL, "no memory for a header");
    rows->header = (lks_csv_row){.fields = names, .count = header->count, .line = 1};
    return LKS_OK;
}

static lks_status compare_header(const lks_table_rows *rows, const char *path,
                                 const lks_csv_row *header)
{
    const lks_csv_row *first = &rows->header;
    const char *first_path = rows->job->inputs->files[0].path;
    if (header->count != first->count)
        return LKS_FAIL(LKS_ERR_CORRUPT, "%s: its header has %zu columns, that of %s has %zu", path,
                        header->count, first_path, first->count);
    for (size_t i = 0; i < header->count; ++i) {
        if (strcmp(header->fields[i], first->fields[i]) != 0)
            return LKS_FAIL(LKS_ERR_CORRUPT, "%s: column %zu is \"%s\", in %s it is \"%s\"", path,
                            i + 1, header->fields[i], first_path, first->fields[i]);
    }
    return LKS_OK;
}

static lks_status read_headers(lks_table_rows *rows)
{
    for (size_t i = 0; i < rows->job->inputs->count; ++i) {
        const char *path = rows->job->inputs->files[i].path;
        lks_csv *csv;
        lks_csv_row header;
        LKS_TRY(lks_csv_open(&csv, path, rows->delimiter));
        lks_status status = lks_table_read_header(csv, &header);
        if (status == LKS_OK)
            status = i == 0 ? keep_header(rows, &header) : compare_header(rows, path, &header);
        lks_csv_close(csv);
        LKS_TRY(status);
    }
    return LKS_OK;
}

static lks_status scan_append(scan_result *result, const void *data, size_t bytes)
{
    LKS_TRY(LKS_GROW(&result->data, &result->capacity, result->length + bytes));
    memcpy(result->data + result->length, data, bytes);
    result->length += bytes;
    return LKS_OK;
}

static lks_status scan_rows(const lks_table_rows *rows, lks_csv *csv, scan_head *head,
                            scan_result *result)
{
    lks_csv_row row;
    bool end;
    LKS_TRY(lks_csv_next(csv, &row, &end));
    for (;;) {
        LKS_TRY(lks_csv_next(csv, &row, &end));
        if (end)
            return LKS_OK;
        LKS_TRY(lks_table_check_width(lks_csv_path(csv), &row, rows->header.count));
        if (head->rows++ % rows->stride == 0) {
            row_place place = {row.offset, row.line};
            LKS_TRY(scan_append(result, &place, sizeof place));
            head->place_count++;
        }
    }
}

static lks_status scan_file(const lks_table_rows *rows, size_t file, scan_result *result)
{
    scan_head head = {.file = file};
    size_t at = result->length;
    LKS_TRY(scan_append(result, &head, sizeof head));
    lks_csv *csv;
    LKS_TRY(lks_csv_open(&csv, rows->job->inputs->files[file].path, rows->delimiter));
    lks_status status = scan_rows(rows, csv, &head, result);
    lks_csv_close(csv);
    memcpy(result->data + at, &head, sizeof head);
    return status;
}

static lks_status scan_share(const lks_table_rows *rows, scan_result *result)
{
    const lks_parallel *parallel = rows->job->parallel;
    for (size_t i = (size_t)parallel->rank; i < rows->job->inputs->count;
         i += (size_t)parallel->size)
        LKS_TRY(scan_file(rows, i, result));
    return LKS_OK;
}

/* All members have 8 bytes, so that what the ranks sent stays aligned end to end. */
static void place_files(lks_table_rows *rows, size_t bytes)
{
    unsigned char *at = rows->gathered, *end = at + bytes;
    while (at < end) {
        const scan_head *head = (const scan_head *)(const void *)at;
        at += sizeof *head;
        rows->files[head->file].count = head->rows;
        rows->files[head->file].places = (const row_place *)(const void *)at;
        at += head->place_count * sizeof(row_place);
    }
    for (size_t i = 0; i < rows->job->inputs->count; ++i) {
        rows->files[i].first = rows->count;
        rows->count += rows->files[i].count;
    }
}

static lks_status rows_scan(lks_table_rows *rows)
{
    scan_result mine = {0};
    lks_status status = scan_share(rows, &mine);
    size_t bytes;
    status = lks_gather_bytes(rows->job->parallel, status, mine.data, mine.length, &rows->gathered,
                              &bytes);
    lks_memory_free(mine.data);
    LKS_TRY(status);
    place_files(rows, bytes);
    if (rows->count == 0)
        return LKS_FAIL(LKS_ERR_CORRUPT, "%s: has a header and no rows",
                        rows->job->inputs->files[0].path);
    return LKS_OK;
}

static lks_status rows_start(lks_table_rows **out, const lks_format_job *job, char delimiter)
{
    lks_table_rows *rows;
    LKS_TRY(LKS_NEW(&rows));
    *out = rows;
    rows->job = job;
    rows->delimiter = delimiter;
    rows->stride = job->shuffled ? 1 : SPARSE_STRIDE;
    LKS_TRY(lks_arena_create(&rows->arena));
    LKS_TRY(LKS_NEW_ARRAY(&rows->files, job->inputs->count));
    return read_headers(rows);
}

lks_status lks_table_rows_open(lks_table_rows **out, const lks_format_job *job, char delimiter)
{
    const lks_parallel *parallel = job->parallel;
    lks_table_rows *rows = NULL;
    lks_status status = parallel->agree(parallel->user, rows_start(&rows, job, delimiter));
    if (status == LKS_OK)
        status = parallel->agree(parallel->user, rows_scan(rows));
    if (status != LKS_OK)
        lks_table_rows_close(rows);
    else
        *out = rows;
    return status;
}

void lks_table_rows_close(lks_table_rows *rows)
{
    if (!rows)
        return;
    lks_csv_close(rows->csv);
    lks_arena_destroy(rows->arena);
    lks_memory_free(rows->files);
    free(rows->gathered);
    lks_memory_free(rows);
}

uint64_t lks_table_rows_count(const lks_table_rows *rows)
{
    return rows->count;
}

const lks_csv_row *lks_table_rows_header(const lks_table_rows *rows)
{
    return &rows->header;
}

static lks_status use_file(lks_table_rows *rows, size_t file)
{
    if (rows->csv && rows->open_file == file)
        return LKS_OK;
    lks_csv_close(rows->csv);
    rows->csv = NULL;
    rows->open_file = file;
    rows->next = UINT64_MAX;
    return lks_csv_open(&rows->csv, rows->job->inputs->files[file].path, rows->delimiter);
}

static lks_status next_row(lks_table_rows *rows, lks_csv_row *row)
{
    bool end;
    LKS_TRY(lks_csv_next(rows->csv, row, &end));
    if (end)
        return LKS_FAIL(LKS_ERR_CORRUPT, "%s: has fewer rows than a moment ago: it was changed",
                        lks_csv_path(rows->csv));
    rows->next++;
    return lks_table_check_width(lks_csv_path(rows->csv), row, rows->header.count);
}

lks_status lks_table_rows_read(lks_table_rows *rows, uint64_t number, lks_csv_row *row,
                               const char **path)
{
    size_t file = rows->job->inputs->count - 1;
    while (rows->files[file].first > number)
        --file;
    LKS_TRY(use_file(rows, file));
    uint64_t wanted = number - rows->files[file].first;
    if (rows->next != wanted) {
        const row_place *place = &rows->files[file].places[wanted / rows->stride];
        lks_csv_seek(rows->csv, place->offset, place->line);
        rows->next = wanted - wanted % rows->stride;
    }
    do
        LKS_TRY(next_row(rows, row));
    while (rows->next <= wanted);
    *path = lks_csv_path(rows->csv);
    return LKS_OK;
}
