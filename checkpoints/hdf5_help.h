/* Short forms of HDF5 calls. They return false on failure, and leave HDF5's error stack for
 * lks_hdf5_cause. */
#ifndef LKS_CHECKPOINTS_HDF5_HELP_H
#define LKS_CHECKPOINTS_HDF5_HELP_H

#include "runtime/base/tensor.h"

#include <hdf5.h>
#include <stdbool.h>
#include <stdint.h>

/* HDF5 prints its errors unless told not to; the former handler is put back by loud. */
typedef struct lks_hdf5_handler {
    H5E_auto2_t function;
    void *data;
} lks_hdf5_handler;
lks_hdf5_handler lks_hdf5_quiet(void);
void lks_hdf5_loud(lks_hdf5_handler handler);

/* The innermost line of the error stack, which has the errno. */
const char *lks_hdf5_cause(char *out, size_t size);

/* Access without file locks, which network file systems lack; EXCL and unique names replace them. */
hid_t lks_hdf5_create(const char *path);
hid_t lks_hdf5_open(const char *path);

bool lks_hdf5_make_group(hid_t parent, const char *name, hid_t *group);
/* Contiguous f32, allocated at once, never filled; *offset in the file. */
bool lks_hdf5_make_tensor(hid_t group, const char *name, const lks_shape *shape, uint64_t *offset);
/* A fixed-length UTF-8 string. */
bool lks_hdf5_make_text(hid_t group, const char *name, const char *text);
bool lks_hdf5_set_text(hid_t object, const char *name, const char *text);
bool lks_hdf5_set_number(hid_t object, const char *name, uint64_t value);

/* False as well when there is none of that name and type. */
bool lks_hdf5_get_number(hid_t object, const char *name, uint64_t *value);
bool lks_hdf5_text_equals(hid_t object, const char *name, const char *text);

#endif
