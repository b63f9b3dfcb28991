"""lockstep's random numbers (runtime/base/rng.h) and initial parameters in numpy."""

import numpy as np

INIT = 1  # LKS_RNG_INIT
MASK32, MASK64 = 2**32 - 1, 2**64 - 1


def key_of(seed, purpose, instance):
    z = (seed + 0x9E3779B97F4A7C15 * ((purpose << 32 | instance) + 1)) & MASK64
    z = ((z ^ z >> 30) * 0xBF58476D1CE4E5B9) & MASK64
    z = ((z ^ z >> 27) * 0x94D049BB133111EB) & MASK64
    return z ^ z >> 31


def philox(key, low, high):
    """Philox 4x32-10 of the 128-bit counter (low, high); low is an array."""
    low = np.asarray(low, np.uint64)
    c = [low & MASK32, low >> np.uint64(32)]
    c += [np.full_like(low, high & MASK32), np.full_like(low, high >> 32)]
    c = [x.astype(np.uint64) for x in c]
    k0, k1 = key & MASK32, key >> 32
    for _ in range(10):
        p0 = np.uint64(0xD2511F53) * c[0]
        p1 = np.uint64(0xCD9E8D57) * c[2]
        c = [
            (p1 >> np.uint64(32)) ^ c[1] ^ np.uint64(k0),
            p1 & np.uint64(MASK32),
            (p0 >> np.uint64(32)) ^ c[3] ^ np.uint64(k1),
            p0 & np.uint64(MASK32),
        ]
        k0, k1 = (k0 + 0x9E3779B9) & MASK32, (k1 + 0xBB67AE85) & MASK32
    return np.stack(c, axis=-1)


def words(key, count, position=0):
    blocks = philox(key, np.arange((count + 3) // 4), position)
    return blocks.reshape(-1)[:count]


def uniform(key, count, position=0):
    return (words(key, count, position) >> np.uint64(8)).astype(np.float64) * 2.0**-24


def normal(key, count):
    """Box-Muller in f64, rounded to f32."""
    w = (words(key, (count + 3) // 4 * 4).astype(np.float64) + 0.5) * 2.0**-32
    u, v = w[0::2], w[1::2]
    radius = np.sqrt(-2 * np.log(u))
    pairs = np.stack([radius * np.cos(2 * np.pi * v), radius * np.sin(2 * np.pi * v)], axis=-1)
    return pairs.reshape(-1)[:count].astype(np.float32)


def initial(kind, number, seed, index, shape):
    """The tensor declared as number `index`, as f64 of values that f32 holds."""
    count = int(np.prod(shape))
    key = key_of(seed, INIT, index)
    if kind == "constant":
        values = np.full(count, number)
    elif kind == "normal":
        values = number * normal(key, count).astype(np.float64)
    else:
        values = number * (2 * uniform(key, count) - 1)
    return values.astype(np.float32).astype(np.float64).reshape(shape)
