// Pooling: out [B, width] from x [T, width], one vector a sequence; and, on the way back, rows [B, width] added to the first token of each.
//
// One thread a column of a sequence, tokens in ascending order; `kind` as backend::Pooling: 0 first, 1 mean, 2 largest, 3 sum over √length.
// Bound by memory: every number of x is read once, by whole cache lines.
#include "port_fast.cuh"

template <class T>
DEVICE void pool(T* out, const T* x, const unsigned* starts, int width, int kind) {
    const int column = int(blockIdx.y) * int(blockDim.x) + int(threadIdx.x);
    const int sequence = int(blockIdx.x);
    if (column >= width) return;
    const unsigned start = starts[sequence], end = kind == 0 ? start + 1 : starts[sequence + 1];
    float value = widen(x[size_t(start) * width + column]);
    for (unsigned token = start + 1; token < end; ++token) {
        const float next = widen(x[size_t(token) * width + column]);
        value = kind == 2 ? larger(value, next) : value + next;
    }
    const float length = float(end - start);
    if (kind == 1) value /= length;
    if (kind == 3) value /= sqrtf(length);
    out[size_t(sequence) * width + column] = narrow<T>(value);
}

template <class T>
DEVICE void add_to_first(T* x, const T* rows, const unsigned* starts, int width) {
    const int column = int(blockIdx.y) * int(blockDim.x) + int(threadIdx.x);
    if (column >= width) return;
    T& sum = x[size_t(starts[blockIdx.x]) * width + column];
    sum = narrow<T>(widen(sum) + widen(rows[size_t(blockIdx.x) * width + column]));
}

#define POOL(T)                                                                                                  \
    KERNEL(pool_##T, 128, T* out, const T* x, const unsigned* starts, int width, int kind) {                      \
        await_kernels();                                                                                          \
        pool(out, x, starts, width, kind);                                                                        \
    }                                                                                                            \
    KERNEL(add_to_first_##T, 128, T* x, const T* rows, const unsigned* starts, int width) {                      \
        await_kernels();                                                                                         \
        add_to_first(x, rows, starts, width);                                                                    \
    }

POOL(f32)
POOL(f16)
POOL(bf16)
