/* A small state whose every number is known, and a run directory for it. */
#ifndef LKS_TESTS_CHECKPOINTS_FIXTURE_H
#define LKS_TESTS_CHECKPOINTS_FIXTURE_H

#include "checkpoints/checkpoint.h"

#include <stddef.h>

enum { FIXTURE_GROUPS = 3 };
extern const char *const fixture_groups[FIXTURE_GROUPS]; /* model, optimizer/m, optimizer/v */

typedef struct fixture {
    lks_comm *comm;
    lks_layout *layout;
    char run[64];                /* fresh directory */
    float *data[FIXTURE_GROUPS]; /* whole flat arrays */
    lks_state_array arrays[FIXTURE_GROUPS];
    lks_checkpoints_spec spec; /* blocks owned by this rank; keep 3 */
} fixture;

/* Element i of tensor t; whole eighths, the same in Python. */
float fixture_value(int group, uint32_t tensor, uint64_t i, int salt);

/* Below `directory`, "/tmp" or a quick one. Tensors of no, one, two and three axes, of one block and of several, and buffers. (collective) */
lks_status fixture_open(fixture *f, const char *comm, const char *directory) LKS_MUST_CHECK;
void fixture_close(fixture *f); /* (collective) removes the run directory */

/* Fills all arrays. */
void fixture_fill(fixture *f, int salt);
lks_checkpoint_info fixture_info(uint64_t step);
/* Opens, fills by `step`, saves, finishes, closes. *saved. (collective) */
lks_status fixture_save(fixture *f, uint64_t step, double validation_loss,
                        bool *saved) LKS_MUST_CHECK;

/* The digest of the state that fixture_fill(salt) gives, computed here from the layout alone. */
void fixture_digest(const fixture *f, int salt, char hex[65]);

/* "<run>/checkpoints/<name>", and "/<file>" behind it where it is not NULL; in one of a few buffers that are
 * used in turn. */
const char *fixture_path(const fixture *f, const char *name, const char *file);
/* Entries of the checkpoints directory whose names contain `part`. */
size_t fixture_count(const fixture *f, const char *part);

#endif
