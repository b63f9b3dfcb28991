/* Short forms of HDF5 calls. They return false on failure; lks_hdf5_guard has the reason. */
#ifndef LKS_CHECKPOINTS_HDF5_HELP_H
#define LKS_CHECKPOINTS_HDF5_HELP_H

#include "runtime/base/tensor.h"

#include <hdf5.h>
#include <stdbool.h>
#include <stdint.h>

/* Between begin and end HDF5 prints no errors, and the first one's innermost line, which has the errno, is kept. */
typedef struct lks_hdf5_guard {
    char cause[256]; /* "" when nothing failed */
    H5E_auto2_t former_function;
    void *former_data;
} lks_hdf5_guard;
void lks_hdf5_guard_begin(lks_hdf5_guard *guard);
void lks_hdf5_guard_end(const lks_hdf5_guard *guard);

/* Without file locks, which network file systems lack. An image is an anonymous file under /proc/self/fd:
 * create empties it. */
hid_t lks_hdf5_create_image(const char *path);
hid_t lks_hdf5_open_image(const char *path); /* to be changed */
hid_t lks_hdf5_open(const char *path);       /* to be read */

bool lks_hdf5_make_group(hid_t parent, const char *name, hid_t *group);
/* Contiguous f32, allocated at once, never filled; *offset in the file. */
bool lks_hdf5_make_tensor(hid_t group, const char *name, const lks_shape *shape, uint64_t *offset);
/* A fixed-length UTF-8 string. */
bool lks_hdf5_make_text(hid_t group, const char *name, const char *text);
bool lks_hdf5_set_text(hid_t object, const char *name, const char *text);
bool lks_hdf5_set_number(hid_t object, const char *name, uint64_t value);
bool lks_hdf5_change_number(hid_t object, const char *name, uint64_t value);
bool lks_hdf5_change_text(hid_t object, const char *name, const char *text); /* of equal length */

/* False as well when there is none of that name and type. */
bool lks_hdf5_get_number(hid_t object, const char *name, uint64_t *value);
bool lks_hdf5_text_equals(hid_t object, const char *name, const char *text);

#endif
