#include "runtime/datasets/shard.h"

#include <errno.h>
#include <hdf5.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>

/* HDF5 prints its errors unless told otherwise, and what a damaged file left in it when the process
 * ends. */
typedef struct h5_silence {
    H5E_auto2_t print;
    void *data;
} h5_silence;

static h5_silence h5_silence_begin(void)
{
    h5_silence before = {NULL, NULL};
    H5dont_atexit();
    H5Eget_auto2(H5E_DEFAULT, &before.print, &before.data);
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
    return before;
}

static void h5_silence_end(h5_silence before)
{
    H5Eclear2(H5E_DEFAULT);
    H5Eset_auto2(H5E_DEFAULT, before.print, before.data);
}

static hid_t h5_type(lks_dtype dtype)
{
    switch (dtype) {
    case LKS_U8:
        return H5T_STD_U8LE;
    case LKS_U16:
        return H5T_STD_U16LE;
    case LKS_I32:
        return H5T_STD_I32LE;
    case LKS_F32:
        return H5T_IEEE_F32LE;
    default:
        return H5I_INVALID_HID;
    }
}

static bool type_matches(hid_t dataset, const lks_column *column)
{
    hid_t type = H5Dget_type(dataset);
    bool equal = type >= 0 && H5Tequal(type, h5_type(column->dtype)) > 0;
    if (type >= 0)
        H5Tclose(type);
    return equal;
}

static bool shape_matches(hid_t dataset, const lks_column *column)
{
    hsize_t size[H5S_MAX_RANK];
    hid_t space = H5Dget_space(dataset);
    bool equal = space >= 0 && H5Sget_simple_extent_ndims(space) == column->shape.axes &&
                 H5Sget_simple_extent_dims(space, size, NULL) == column->shape.axes;
    for (int axis = 0; equal && axis < column->shape.axes; ++axis)
        equal = size[axis] == (hsize_t)column->shape.size[axis];
    if (space >= 0)
        H5Sclose(space);
    return equal;
}

/* Contiguous, and in this file rather than an external one. */
static bool layout_matches(hid_t dataset)
{
    hid_t list = H5Dget_create_plist(dataset);
    bool plain =
        list >= 0 && H5Pget_layout(list) == H5D_CONTIGUOUS && H5Pget_external_count(list) == 0;
    if (list >= 0)
        H5Pclose(list);
    return plain;
}

static lks_status examine_dataset(hid_t dataset, const char *path, const lks_column *column,
                                  uint64_t file_bytes, uint64_t *offset)
{
    char shape[128];
    if (!type_matches(dataset, column) || !shape_matches(dataset, column))
        return LKS_FAIL(LKS_ERR_CORRUPT, "%s: dataset %s is not %s %s, as the manifest says", path,
                        column->name, lks_dtype_name(column->dtype),
                        lks_shape_text(&column->shape, shape, sizeof shape));
    if (!layout_matches(dataset))
        return LKS_FAIL(LKS_ERR_CORRUPT, "%s: dataset %s is not stored contiguously in this file",
                        path, column->name);
    haddr_t found = H5Dget_offset(dataset);
    if (found == HADDR_UNDEF || found > file_bytes || column->bytes > file_bytes - found)
        return LKS_FAIL(LKS_ERR_CORRUPT,
                        "%s: dataset %s does not lie within the file: offset %" PRIu64 ", %" PRIu64
                        " bytes in a file of %" PRIu64,
                        path, column->name, (uint64_t)found, column->bytes, file_bytes);
    *offset = found;
    return LKS_OK;
}

static lks_status examine_column(hid_t file, const char *path, const lks_column *column,
                                 uint64_t file_bytes, uint64_t *offset)
{
    H5L_info_t link;
    hid_t dataset = H5I_INVALID_HID;
    if (H5Lget_info(file, column->name, &link, H5P_DEFAULT) >= 0 && link.type == H5L_TYPE_HARD)
        dataset = H5Dopen2(file, column->name, H5P_DEFAULT);
    if (dataset < 0)
        return LKS_FAIL(LKS_ERR_CORRUPT, "%s: has no dataset %s, or a damaged one", path,
                        column->name);
    lks_status status = examine_dataset(dataset, path, column, file_bytes, offset);
    H5Dclose(dataset);
    return status;
}

/* Read-only, without the lock that some file systems refuse. */
static hid_t h5_open(const char *path)
{
    hid_t access = H5Pcreate(H5P_FILE_ACCESS);
    H5Pset_file_locking(access, 0, 1);
    hid_t file = H5Fopen(path, H5F_ACC_RDONLY, access);
    H5Pclose(access);
    return file;
}

static lks_status examine_header(const char *path, const lks_manifest_shard *shard,
                                 uint64_t offsets[LKS_MANIFEST_COLUMNS])
{
    hid_t file = h5_open(path);
    if (file < 0)
        return LKS_FAIL(LKS_ERR_CORRUPT,
                        "%s: HDF5 cannot open it: prepare the dataset again or restore the file",
                        path);
    lks_status status = LKS_OK;
    for (int i = 0; i < shard->column_count && status == LKS_OK; ++i)
        status = examine_column(file, path, &shard->columns[i], shard->bytes, &offsets[i]);
    H5Fclose(file);
    return status;
}

lks_status lks_shard_examine(const char *path, const lks_manifest_shard *shard,
                             uint64_t offsets[LKS_MANIFEST_COLUMNS])
{
    struct stat info;
    if (stat(path, &info) != 0)
        return LKS_FAIL(errno == ENOENT ? LKS_ERR_CORRUPT : LKS_ERR_IO,
                        "%s: %s, but the manifest names it: prepare the dataset again or restore "
                        "the file",
                        path, strerror(errno));
    if (!S_ISREG(info.st_mode) || (uint64_t)info.st_size != shard->bytes)
        return LKS_FAIL(LKS_ERR_CORRUPT,
                        "%s: has %" PRIu64 " bytes, the manifest says %" PRIu64
                        ": prepare the dataset again or restore the file",
                        path, (uint64_t)info.st_size, shard->bytes);
    h5_silence before = h5_silence_begin();
    lks_status status = examine_header(path, shard, offsets);
    h5_silence_end(before);
    return status;
}
