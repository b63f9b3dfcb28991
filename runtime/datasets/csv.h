/* Reading CSV, row by row, from anywhere in a file.
 *
 * RFC 4180: fields may be quoted, "" within quotes is a quote, quoted fields may hold delimiters
 * and line ends. Rows end in LF, CRLF or the file. Besides: blanks around a field are dropped
 * unless quoted; a quote that does not begin a field is an ordinary character; a UTF-8 mark at the
 * start is skipped; empty lines are skipped (one field per row cannot tell them from an
 * empty field, so a file whose rows have one field has no empty rows).
 */
#ifndef LKS_DATASETS_CSV_H
#define LKS_DATASETS_CSV_H

#include "runtime/base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { LKS_CSV_ROW_BYTES_MAX = 64 << 20 };

typedef struct lks_csv lks_csv;

/* Valid until the next call. */
typedef struct lks_csv_row {
    const char *const *fields; /* [count], each ends in NUL and holds none */
    size_t count;
    uint64_t offset, line; /* where the row begins; the first line is 1 */
} lks_csv_row;

lks_status lks_csv_open(lks_csv **out, const char *path, char delimiter) LKS_MUST_CHECK;
void lks_csv_close(lks_csv *csv); /* NULL is fine */
const char *lks_csv_path(const lks_csv *csv);

/* The next row; *end when there is none. A quote that is never closed, text after a closing quote,
 * a NUL byte or a row over LKS_CSV_ROW_BYTES_MAX is LKS_ERR_CORRUPT with file and line. */
lks_status lks_csv_next(lks_csv *csv, lks_csv_row *row, bool *end) LKS_MUST_CHECK;

/* Goes on at a row whose offset and line an earlier row gave. */
void lks_csv_seek(lks_csv *csv, uint64_t offset, uint64_t line);

#endif
