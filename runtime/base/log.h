/* Log lines on stderr: `lockstep: host rank N: text`.
 *
 * The log knows its rank: lks_log_root prints on rank 0 only, the others on
 * every rank. Each line is one write(2), so lines of several ranks never mix.
 */
#ifndef LKS_BASE_LOG_H
#define LKS_BASE_LOG_H

#include "runtime/base/status.h"

#include <stdbool.h>

typedef enum lks_log_level { LKS_LOG_QUIET, LKS_LOG_NORMAL, LKS_LOG_VERBOSE } lks_log_level;

/* Names this process; before it, rank 0 of an unnamed host. world_size 1 leaves
 * host and rank out of the prefix. */
void lks_log_identify(const char *host, int rank, int world_size);
void lks_log_set_level(lks_log_level level);
lks_log_level lks_log_get_level(void);

void lks_log_root(const char *format, ...) LKS_PRINTF(1, 2);    /* rank 0; hidden when quiet */
void lks_log_warn(const char *format, ...) LKS_PRINTF(1, 2);    /* this rank, "warning: " */
void lks_log_error(const char *format, ...) LKS_PRINTF(1, 2);   /* this rank, always */
void lks_log_verbose(const char *format, ...) LKS_PRINTF(1, 2); /* this rank, with --verbose */

/* Prints lks_status_message() as an error line; nothing when it is "" or
 * the status is LKS_OK or LKS_STOPPED. */
void lks_log_failure(lks_status status);

/* Called before each line is written, so that a progress bar can wipe itself;
 * it must not log. NULL removes it. */
void lks_log_set_before_line(void (*wipe)(void *user), void *user);

#endif
