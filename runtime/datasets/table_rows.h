/* The rows of one or more CSV files with the same header, by number. */
#ifndef LKS_DATASETS_TABLE_ROWS_H
#define LKS_DATASETS_TABLE_ROWS_H

#include "runtime/datasets/csv.h"
#include "runtime/datasets/format_driver.h"

typedef struct lks_table_rows lks_table_rows;

/* Collective. Reads every file once, each by one rank: headers must be equal, names unique, rows
 * as wide as the header; else LKS_ERR_CORRUPT. Keeps the offset of each row when the job is
 * shuffled, of every 1024th otherwise. */
lks_status lks_table_rows_open(lks_table_rows **out, const lks_format_job *job,
                               char delimiter) LKS_MUST_CHECK;
void lks_table_rows_close(lks_table_rows *rows); /* NULL is fine */

uint64_t lks_table_rows_count(const lks_table_rows *rows);
const lks_csv_row *lks_table_rows_header(const lks_table_rows *rows);
/* Row `number`, valid until the next call; *path is its file. Consecutive rows are read in a
 * stream. */
lks_status lks_table_rows_read(lks_table_rows *rows, uint64_t number, lks_csv_row *row,
                               const char **path) LKS_MUST_CHECK;

/* The header of an open file, checked; to be copied by a caller who reads on. */
lks_status lks_table_read_header(lks_csv *csv, lks_csv_row *header) LKS_MUST_CHECK;

#endif
