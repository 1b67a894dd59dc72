// What a record's gradient goes through on its way to a few numbers, beside products of matrices:
//
//   sketch          out [rows, outputs] = S x + shift, x [rows, inputs], of a sparse S: `entries` of place p are starts[p] … starts[p + 1] − 1, each a
//                   coordinate of x, and −1 instead of 1 in the uppermost bit
//   norm_products   out [B, 2, E] = Σ dy ∘ x̂ and Σ dy over each sequence's own rows of dy and x [rows, E], x̂ normalised by row_statistics (columns.cu);
//                   where `first_only`, sequence b has row b alone
//   look_up         out [T, width] = the row of a table [·, width] that each token names; the first where `named` is null
//   adapt           out [rows, n] = (drift + rest1 g) / √(floor + rest2 g²), g = unscale[row] · x[row], of x [rows, n]: AdamW's step by one record's gradient
//                   (Xia et al. 2024, LESS), with β₁ m and β₂ v + ε, f32 [n]
//
//   out, dy, x of the first and the third   T, row-major     everything else   f32; adapt's out is T
//
// All bound by memory. A number is one chain in the order of its entries, or of its record's rows, four of them side by side.
#include "port_blocks.cuh"
#include "products.cuh"
#include "vector.cuh"

constexpr int THREADS = 256;
constexpr int TOGETHER = 4;       // rows that an entry is read for
constexpr int WARPS = 4;          // rows of a sequence side by side
constexpr int STRIPE = 4 * WARP;  // columns of a block
constexpr int STEPS = 8;          // rows that moments are read for

// A thread has one place of some rows; its neighbours have the places beside it, which mostly read coordinates beside each other.
template <class T>
DEVICE void sketch(T* out, const T* x, const unsigned* starts, const unsigned* entries, const float* shift, int rows, int inputs, int outputs) {
    const int i = int(blockIdx.x) * THREADS + int(threadIdx.x), place = i % outputs, first = i / outputs * TOGETHER;
    if (first >= rows) return;
    const int count = min(TOGETHER, rows - first);
    const T* const from = x + size_t(first) * inputs;
    float sums[TOGETHER] = {};
    const unsigned end = starts[place + 1];
#pragma unroll 4
    for (unsigned e = starts[place]; e < end; ++e) {
        const unsigned entry = entries[e], coordinate = entry & 0x7fffffffu;
        const float sign = entry >> 31 ? -1.0f : 1.0f;
#pragma unroll
        for (int r = 0; r < TOGETHER; ++r)
            if (r < count) sums[r] = fmaf(widen(from[size_t(r) * inputs + coordinate]), sign, sums[r]);
    }
#pragma unroll
    for (int r = 0; r < TOGETHER; ++r)
        if (r < count) out[size_t(first + r) * outputs + place] = narrow<T>(sums[r] + shift[place]);
}

// A block has a sequence and 128 columns; each warp every fourth row.
template <class T>
DEVICE void norm_products(float* out, const T* dy, const T* x, const float* statistics, const unsigned* starts, int first_only, int width) {
    SHARED(float, parts);  // [WARPS, 2, STRIPE]
    const int sequence = int(blockIdx.x), first = int(blockIdx.y) * STRIPE, column = first + 4 * lane_id(), count = width - column;
    const OwnRows own(starts, sequence, first_only);
    Vector<4> scales = filled<4>(0.0f), shifts = filled<4>(0.0f);
#pragma unroll 2
    for (unsigned r = unsigned(warp_id()); r < own.count; r += WARPS) {
        const size_t row = own.begin + r, at = row * width + column;
        const float2 of_row = load<float2>(statistics + 2 * row);  // its mean, and what it is scaled by
        const Vector<4> slopes = load_some<4>(dy + at, count), values = load_some<4>(x + at, count);
#pragma unroll
        for (int c = 0; c < 4; ++c) {
            scales.x[c] = fmaf(slopes.x[c], (values.x[c] - of_row.x) * of_row.y, scales.x[c]);
            shifts.x[c] += slopes.x[c];
        }
    }
    float* const mine = parts + warp_id() * 2 * STRIPE + 4 * lane_id();
    store_vector<4>(mine, scales);
    store_vector<4>(mine + STRIPE, shifts);
    sync_block();
    for (int i = int(threadIdx.x); i < 2 * STRIPE; i += WARPS * WARP) {
        float sum = parts[i];
#pragma unroll
        for (int warp = 1; warp < WARPS; ++warp) sum += parts[warp * 2 * STRIPE + i];
        const int which = i / STRIPE, own_column = first + i % STRIPE;
        if (own_column < width) out[(2 * size_t(sequence) + which) * width + own_column] = sum;
    }
}

template <class T>
DEVICE void look_up(T* out, const float* table, const unsigned* named, int tokens, int width) {
    const int i = int(blockIdx.x) * THREADS + int(threadIdx.x), token = i / width;
    if (token >= tokens) return;
    const size_t row = named ? named[token] : 0;
    out[i] = narrow<T>(table[row * width + i % width]);
}

// A thread has one number of some rows, so that moments, of which there are as many bytes as of two rows, are read once for them.
template <class T>
DEVICE void adapt(T* out, const float* x, const float* drift, const float* floor, const float* unscale, float rest1, float rest2, int rows, int n) {
    const int i = int(blockIdx.x) * THREADS + int(threadIdx.x), first = int(blockIdx.y) * STEPS;
    if (i >= n) return;
    const int count = min(STEPS, rows - first);
    const float moved = drift[i], least = floor[i];
    float g[STEPS];
#pragma unroll
    for (int r = 0; r < STEPS; ++r) g[r] = r < count ? x[size_t(first + r) * n + i] : 0.0f;
#pragma unroll
    for (int r = 0; r < STEPS; ++r) {
        if (r >= count) break;
        const float own = g[r] * unscale[first + r];
        out[size_t(first + r) * n + i] = narrow<T>(fmaf(own, rest1, moved) / sqrtf(fmaf(own * rest2, own, least)));
    }
}

#define PROJECTED(T)                                                                                                                               \
    KERNEL(sketch_##T, THREADS, T* out, const T* x, const unsigned* starts, const unsigned* entries, const float* shift, int rows, int inputs,     \
           int outputs) {                                                                                                                          \
        await_kernels();                                                                                                                           \
        sketch(out, x, starts, entries, shift, rows, inputs, outputs);                                                                             \
    }                                                                                                                                              \
    KERNEL_BLOCKS(norm_products_##T, WARPS* WARP, 8, float* out, const T* dy, const T* x, const float* statistics, const unsigned* starts, int first_only, \
           int width) {                                                                                                                            \
        await_kernels();                                                                                                                           \
        norm_products(out, dy, x, statistics, starts, first_only, width);                                                                          \
    }                                                                                                                                              \
    KERNEL(look_up_##T, THREADS, T* out, const float* table, const unsigned* named, int tokens, int width) {                                       \
        await_kernels();                                                                                                                           \
        look_up(out, table, named, tokens, width);                                                                                                 \
    }                                                                                                                                              \
    KERNEL(adapt_##T, THREADS, T* out, const float* x, const float* drift, const float* floor, const float* unscale, float rest1, float rest2,     \
           int rows, int n) {                                                                                                                      \
        await_kernels();                                                                                                                           \
        adapt(out, x, drift, floor, unscale, rest1, rest2, rows, n);                                                                               \
    }

PROJECTED(f32)
PROJECTED(f16)
PROJECTED(bf16)
