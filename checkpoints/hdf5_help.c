#include "checkpoints/hdf5_help.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Tensors of at least ALIGN_FROM bytes start at a multiple of ALIGN_TO, so that ranks write whole pages. */
enum { ALIGN_FROM = 65536, ALIGN_TO = 4096 };

static herr_t guard_take(unsigned n, const H5E_error2_t *error, void *user)
{
    lks_hdf5_guard *guard = user;
    if (n == 0)
        snprintf(guard->cause, sizeof guard->cause, "%s", error->desc);
    return 0;
}

static herr_t guard_notice(hid_t stack, void *user)
{
    const lks_hdf5_guard *guard = user;
    return guard->cause[0] != '\0' ? 0 : H5Ewalk2(stack, H5E_WALK_UPWARD, guard_take, user);
}

void lks_hdf5_guard_begin(lks_hdf5_guard *guard)
{
    guard->cause[0] = '\0';
    H5Eget_auto2(H5E_DEFAULT, &guard->former_function, &guard->former_data);
    H5Eset_auto2(H5E_DEFAULT, guard_notice, guard);
}

void lks_hdf5_guard_end(const lks_hdf5_guard *guard)
{
    H5Eset_auto2(H5E_DEFAULT, guard->former_function, guard->former_data);
}

static hid_t file_access(void)
{
    hid_t access = H5Pcreate(H5P_FILE_ACCESS);
    H5Pset_file_locking(access, false, true);
    H5Pset_alignment(access, ALIGN_FROM, ALIGN_TO);
    H5Pset_fclose_degree(access, H5F_CLOSE_STRONG);
    return access;
}

/* HDF5's default driver wants a path whose links lead to a name. */
static hid_t image_access(void)
{
    hid_t access = file_access();
    H5Pset_fapl_stdio(access);
    return access;
}

hid_t lks_hdf5_create_image(const char *path)
{
    hid_t access = image_access(), creation = H5Pcreate(H5P_FILE_CREATE);
    H5Pset_obj_track_times(creation, false);
    hid_t file = H5Fcreate(path, H5F_ACC_TRUNC, creation, access);
    H5Pclose(creation);
    H5Pclose(access);
    return file;
}

static hid_t open_file(const char *path, unsigned flags, hid_t access)
{
    hid_t file = H5Fopen(path, flags, access);
    H5Pclose(access);
    return file;
}

hid_t lks_hdf5_open_image(const char *path)
{
    return open_file(path, H5F_ACC_RDWR, image_access());
}

hid_t lks_hdf5_open(const char *path)
{
    return open_file(path, H5F_ACC_RDONLY, file_access());
}

bool lks_hdf5_make_group(hid_t parent, const char *name, hid_t *group)
{
    hid_t creation = H5Pcreate(H5P_GROUP_CREATE);
    H5Pset_obj_track_times(creation, false);
    *group = H5Gcreate2(parent, name, H5P_DEFAULT, creation, H5P_DEFAULT);
    H5Pclose(creation);
    return *group >= 0;
}

static hid_t make_dataset(hid_t group, const char *name, hid_t type, hid_t space)
{
    hid_t creation = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_layout(creation, H5D_CONTIGUOUS);
    H5Pset_alloc_time(creation, H5D_ALLOC_TIME_EARLY);
    H5Pset_fill_time(creation, H5D_FILL_TIME_NEVER);
    H5Pset_obj_track_times(creation, false);
    hid_t dataset = H5Dcreate2(group, name, type, space, H5P_DEFAULT, creation, H5P_DEFAULT);
    H5Pclose(creation);
    return dataset;
}

static hid_t make_space(const lks_shape *shape)
{
    hsize_t size[LKS_AXES_MAX];
    for (int i = 0; i < shape->axes; ++i)
        size[i] = (hsize_t)shape->size[i];
    return shape->axes == 0 ? H5Screate(H5S_SCALAR) : H5Screate_simple(shape->axes, size, NULL);
}

bool lks_hdf5_make_tensor(hid_t group, const char *name, const lks_shape *shape, uint64_t *offset)
{
    hid_t space = make_space(shape);
    hid_t dataset = make_dataset(group, name, H5T_IEEE_F32LE, space);
    H5Sclose(space);
    if (dataset < 0)
        return false;
    haddr_t address = H5Dget_offset(dataset);
    *offset = address;
    return H5Dclose(dataset) >= 0 && address != HADDR_UNDEF;
}

/* HDF5 has no strings of length 0. */
static size_t text_size(const char *text)
{
    return *text == '\0' ? 1 : strlen(text);
}

static hid_t text_type(size_t size)
{
    hid_t type = H5Tcopy(H5T_C_S1);
    H5Tset_size(type, size);
    H5Tset_strpad(type, H5T_STR_NULLPAD);
    H5Tset_cset(type, H5T_CSET_UTF8);
    return type;
}

bool lks_hdf5_make_text(hid_t group, const char *name, const char *text)
{
    hid_t type = text_type(text_size(text)), space = H5Screate(H5S_SCALAR);
    hid_t dataset = make_dataset(group, name, type, space);
    bool good = dataset >= 0 && H5Dwrite(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, text) >= 0;
    if (dataset >= 0)
        good = H5Dclose(dataset) >= 0 && good;
    H5Sclose(space);
    H5Tclose(type);
    return good;
}

static bool set_attribute(hid_t object, const char *name, hid_t file_type, hid_t memory_type,
                          const void *value)
{
    hid_t space = H5Screate(H5S_SCALAR);
    hid_t attribute = H5Acreate2(object, name, file_type, space, H5P_DEFAULT, H5P_DEFAULT);
    H5Sclose(space);
    if (attribute < 0)
        return false;
    bool good = H5Awrite(attribute, memory_type, value) >= 0;
    return H5Aclose(attribute) >= 0 && good;
}

bool lks_hdf5_set_text(hid_t object, const char *name, const char *text)
{
    hid_t type = text_type(text_size(text));
    bool good = set_attribute(object, name, type, type, text);
    H5Tclose(type);
    return good;
}

bool lks_hdf5_set_number(hid_t object, const char *name, uint64_t value)
{
    return set_attribute(object, name, H5T_STD_U64LE, H5T_NATIVE_UINT64, &value);
}

bool lks_hdf5_change_number(hid_t object, const char *name, uint64_t value)
{
    hid_t attribute = H5Aopen(object, name, H5P_DEFAULT);
    if (attribute < 0)
        return false;
    bool good = H5Awrite(attribute, H5T_NATIVE_UINT64, &value) >= 0;
    return H5Aclose(attribute) >= 0 && good;
}

bool lks_hdf5_change_text(hid_t object, const char *name, const char *text)
{
    hid_t attribute = H5Aopen(object, name, H5P_DEFAULT);
    if (attribute < 0)
        return false;
    hid_t type = text_type(text_size(text));
    bool good = H5Awrite(attribute, type, text) >= 0;
    H5Tclose(type);
    return H5Aclose(attribute) >= 0 && good;
}

static hid_t open_attribute(hid_t object, const char *name, H5T_class_t class, size_t *bytes)
{
    if (H5Aexists(object, name) <= 0)
        return -1;
    hid_t attribute = H5Aopen(object, name, H5P_DEFAULT);
    if (attribute < 0)
        return -1;
    hid_t type = H5Aget_type(attribute), space = H5Aget_space(attribute);
    bool good = type >= 0 && space >= 0 && H5Tget_class(type) == class &&
                H5Sget_simple_extent_npoints(space) == 1 &&
                (class != H5T_STRING || H5Tis_variable_str(type) == 0);
    *bytes = type >= 0 ? H5Tget_size(type) : 0;
    if (space >= 0)
        H5Sclose(space);
    if (type >= 0)
        H5Tclose(type);
    if (good)
        return attribute;
    H5Aclose(attribute);
    return -1;
}

bool lks_hdf5_get_number(hid_t object, const char *name, uint64_t *value)
{
    size_t bytes;
    hid_t attribute = open_attribute(object, name, H5T_INTEGER, &bytes);
    if (attribute < 0)
        return false;
    bool good = H5Aread(attribute, H5T_NATIVE_UINT64, value) >= 0;
    H5Aclose(attribute);
    return good;
}

bool lks_hdf5_text_equals(hid_t object, const char *name, const char *text)
{
    size_t bytes;
    hid_t attribute = open_attribute(object, name, H5T_STRING, &bytes);
    if (attribute < 0)
        return false;
    bool good = bytes == text_size(text);
    if (good) {
        char *found = calloc(1, bytes + 1);
        hid_t type = text_type(bytes);
        good = found != NULL && H5Aread(attribute, type, found) >= 0 && strcmp(found, text) == 0;
        H5Tclose(type);
        free(found);
    }
    H5Aclose(attribute);
    return good;
}
