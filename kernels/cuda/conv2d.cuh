/* The three products of a convolution, as matrices that are never written out: what element (row, k) of the left and
 * (k, column) of the right factor is, and where a result goes.
 *
 * A `place` is what of an element's address does not depend on k. A factor lies along k when consecutive k are
 * neighbours in memory, else consecutive rows or columns are.
 */
#ifndef LKS_KERNELS_CUDA_CONV2D_CUH
#define LKS_KERNELS_CUDA_CONV2D_CUH

#include "kernels/cuda/cuda.cuh"

typedef struct conv_view {
    int height, width, out_height, out_width;
    int inputs, outputs;             /* channels */
    int group_inputs, group_outputs; /* channels of one group */
    int filter_h, filter_w, stride, padding, groups;
} conv_view;

/* Of one group's product. Splits are stretches of split_length k's. */
typedef struct conv_sizes {
    int rows, columns, depth;
    int splits, split_length;
} conv_sizes;

typedef struct conv_place {
    int64_t base; /* elements */
    int row, column;
    bool valid;
} conv_place;

/* rows: pixels of y; columns: output channels; k: filter row, filter column, input channel. */
template <typename T> struct conv_forward {
    static constexpr bool left_along_k = true, right_along_k = true;
    conv_view v;
    conv_sizes size;
    const T *x, *w, *b;
    T *y;

    __device__ __forceinline__ const T *left_memory() const { return x; }
    __device__ __forceinline__ const T *right_memory() const { return w; }
    __device__ __forceinline__ conv_place left_place(int, int pixel) const
    {
        const int row = pixel / v.out_width % v.out_height, column = pixel % v.out_width;
        const int64_t sample = pixel / v.out_width / v.out_height;
        return {sample * v.height * v.width, row * v.stride - v.padding,
                column * v.stride - v.padding, pixel < size.rows};
    }
    __device__ __forceinline__ const T *left(const conv_place &p, int group, int k) const
    {
        const int filter = k / v.group_inputs;
        const int row = p.row + filter / v.filter_w, column = p.column + filter % v.filter_w;
        if (row < 0 || row >= v.height || column < 0 || column >= v.width)
            return NULL;
        return x + (p.base + row * (int64_t)v.width + column) * v.inputs + group * v.group_inputs +
               k % v.group_inputs;
    }
    __device__ __forceinline__ conv_place right_place(int group, int channel) const
    {
        return {((int64_t)group * v.group_outputs + channel) * size.depth, 0, 0,
                channel < size.columns};
    }
    __device__ __forceinline__ const T *right(const conv_place &p, int, int k) const
    {
        return w + p.base + k;
    }
    __device__ __forceinline__ void store(int group, int, int pixel, int column, float sum) const
    {
        const int channel = group * v.group_outputs + column;
        lks_store(y, (int64_t)pixel * v.outputs + channel, b ? sum + lks_load(b, channel) : sum);
    }
};

/* rows: pixels of x; columns: input channels; k: filter row, filter column, output channel. */
template <typename T> struct conv_input {
    static constexpr bool left_along_k = true, right_along_k = false;
    conv_view v;
    conv_sizes size;
    const T *dy, *w;
    T *dx;
    bool add;

    __device__ __forceinline__ const T *left_memory() const { return dy; }
    __device__ __forceinline__ const T *right_memory() const { return w; }
    __device__ __forceinline__ conv_place left_place(int, int pixel) const
    {
        const int row = pixel / v.width % v.height, column = pixel % v.width;
        const int64_t sample = pixel / v.width / v.height;
        return {sample * v.out_height * v.out_width, row + v.padding, column + v.padding,
                pixel < size.rows};
    }
    __device__ __forceinline__ const T *left(const conv_place &p, int group, int k) const
    {
        const int filter = k / v.group_outputs;
        const int down = p.row - filter / v.filter_w, across = p.column - filter % v.filter_w;
        if (down < 0 || across < 0 || down % v.stride || across % v.stride)
            return NULL;
        const int row = down / v.stride, column = across / v.stride;
        if (row >= v.out_height || column >= v.out_width)
            return NULL;
        return dy + (p.base + row * (int64_t)v.out_width + column) * v.outputs +
               group * v.group_outputs + k % v.group_outputs;
    }
    __device__ __forceinline__ conv_place right_place(int, int channel) const
    {
        return {channel, 0, 0, channel < size.columns};
    }
    __device__ __forceinline__ const T *right(const conv_place &p, int group, int k) const
    {
        const int64_t output = (int64_t)group * v.group_outputs + k % v.group_outputs;
        const int64_t filter = k / v.group_outputs;
        return w + (output * v.filter_h * v.filter_w + filter) * v.group_inputs + p.base;
    }
    __device__ __forceinline__ void store(int group, int, int pixel, int column, float sum) const
    {
        const int64_t at = (int64_t)pixel * v.inputs + group * v.group_inputs + column;
        lks_store(dx, at, add ? lks_load(dx, at) + sum : sum);
    }
};

/* rows: output channels; columns: filter row, filter column, input channel; k: pixels of y. */
template <typename T> struct conv_weight {
    static constexpr bool left_along_k = false, right_along_k = false;
    conv_view v;
    conv_sizes size;
    const T *dy, *x;
    float *dw; /* or the sums of the splits, one dw after the other */
    bool add;

    __device__ __forceinline__ const T *left_memory() const { return dy; }
    __device__ __forceinline__ const T *right_memory() const { return x; }
    __device__ __forceinline__ conv_place left_place(int group, int channel) const
    {
        return {(int64_t)group * v.group_outputs + channel, 0, 0, channel < size.rows};
    }
    __device__ __forceinline__ const T *left(const conv_place &p, int, int pixel) const
    {
        return dy + (int64_t)pixel * v.outputs + p.base;
    }
    __device__ __forceinline__ conv_place right_place(int group, int column) const
    {
        const int filter = column / v.group_inputs;
        return {(int64_t)group * v.group_inputs + column % v.group_inputs,
                filter / v.filter_w - v.padding, filter % v.filter_w - v.padding,
                column < size.columns};
    }
    __device__ __forceinline__ const T *right(const conv_place &p, int, int pixel) const
    {
        const int row = p.row + pixel / v.out_width % v.out_height * v.stride;
        const int column = p.column + pixel % v.out_width * v.stride;
        const int64_t sample = pixel / v.out_width / v.out_height;
        if (row < 0 || row >= v.height || column < 0 || column >= v.width)
            return NULL;
        return x + ((sample * v.height + row) * v.width + column) * v.inputs + p.base;
    }
    __device__ __forceinline__ void store(int group, int split, int row, int column,
                                          float sum) const
    {
        const int64_t channel = (int64_t)split * v.outputs + group * v.group_outputs + row;
        const int64_t at = channel * size.columns + column;
        dw[at] = add ? dw[at] + sum : sum;
    }
};

#endif
