/* dropout. A thread takes the four elements of a sample that share a block of random words. */
#include "kernels/cuda/cuda.cuh"

namespace
{

enum { THREADS = 256 };
constexpr int64_t GRID_MAX = 1 << 16;

struct dropout_state {
    lks_cuda_device *cuda;
    int64_t samples, elements; /* elements of one sample */
    float rate;
    uint32_t instance;
    lks_dtype type;
};

template <typename T> struct dropout_arguments {
    const T *x, *residual;
    T *y;
    int64_t samples, elements, quads; /* quads of one sample */
    float rate;
    uint64_t key;
    const uint64_t *positions;
    bool accumulate;
};

/* Two or four words, for reading and writing a quad at once. */
template <typename T> struct quad;
template <> struct quad<float> {
    typedef uint4 raw;
};
template <> struct quad<lks_bf16> {
    typedef uint2 raw;
};

/* Elements [at, at + 4), of which `count` are there; all at once where `Whole`. */
template <typename T, bool Whole>
static __device__ __forceinline__ void read(const T *from, int64_t at, int count, float (&x)[4])
{
    union {
        typename quad<T>::raw raw;
        uint16_t bits[sizeof(T) * 2];
    } words;
    if constexpr (!Whole) {
        for (int i = 0; i < 4; ++i)
            x[i] = i < count ? lks_load(from, at + i) : 0;
    } else {
        words.raw = *reinterpret_cast<const typename quad<T>::raw *>(from + at);
        const uint32_t *word = reinterpret_cast<const uint32_t *>(&words.raw);
        for (int i = 0; i < 4; ++i)
            if constexpr (sizeof(T) == 4)
                x[i] = __uint_as_float(word[i]);
            else
                x[i] = __uint_as_float(i % 2 ? word[i / 2] & 0xffff0000u : word[i / 2] << 16);
    }
}

} // namespace
