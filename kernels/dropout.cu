// Dropout of rows: out = x ∘ factors + residual, a factor zero or `scale` by a draw of sixteen bits (src/backend/training.rs), eight to a block of Philox.
//
//   out, x, residual   T [rows, width]; the last may be null          records, starts   u32 [B], [B + 1]
//   sequence_of        u32 [T], or null where there is a row a sequence
//
// One thread eight neighbours. Bound by memory.
#include "dropout.cuh"
#include "vector.cuh"

template <class T>
DEVICE void drop(T* out, const T* x, const T* residual, const unsigned* sequence_of, const unsigned* starts, const Dropout& dropout, int rows, int width) {
    const int eights = (width + 7) / 8, at = int(blockIdx.x) * int(blockDim.x) + int(threadIdx.x);
    const int row = at / eights, eight = at % eights;
    if (row >= rows) return;
    const unsigned sequence = sequence_of ? sequence_of[row] : unsigned(row), number = sequence_of ? unsigned(row) - starts[sequence] : 0;
    const uint4 words = dropout.words(unsigned(eight), number, sequence);
    const size_t first = size_t(row) * width + 8 * eight;
    const int count = min(8, width - 8 * eight);
    Vector<8> sum = load_some<8>(x + first, count);
    const Vector<8> beside = residual ? load_some<8>(residual + first, count) : filled<8>(0.0f);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
        sum.x[i] *= dropout.factor(words, i);
        if (residual) sum.x[i] += beside.x[i];
    }
    store_some<8>(out + first, sum, count);
}

#define DROP(T)                                                                                                                            \
    KERNEL(dropout_##T, 256, T* out, const T* x, const T* residual, const unsigned* sequence_of, const unsigned* starts, DROPOUT_PARAMETERS, \
           int rows, int width) {                                                                                                           \
        await_kernels();                                                                                                                    \
        drop<T>(out, x, residual, sequence_of, starts, DROPOUT, rows, width);                                                               \
    }

DROP(f32)
DROP(bf16)
