// What an optimiser does number by number, its operations in the order of the formula: the bits are the CPU's.
//
//   adam_step       AdamW (Loshchilov & Hutter 2019, algorithm 2) as src/backend/training.rs has it; gradients are zeros then
//   squared_sums    out [blocks]: the sum of the squares of each 4096 numbers, 16 chains a lane and one tree
//   add_numbers     sum [n] += x [n], the sum f32 or bf16            copy_numbers   out [n] = x [n]
//
// A model has hundreds of tensors, most of them small: the first two go through all of them in one launch, by a list. Bound by memory.
#include "reduce.cuh"

constexpr int SPAN = 4096;  // numbers of a block
constexpr int THREADS = 256;

// A tensor of a list, f32 [count]; blocks from `span` on are its own. `kept` is 1 − ηλ.
struct Listed {
    float *parameter, *first, *second, *gradient;
    unsigned span, count;
    float kept;
    unsigned unused;
};

// The tensor that a block is of.
DEVICE Listed listed(const Listed* tensors, int count) {
    int low = 0, high = count;
    while (high - low > 1) {
        const int middle = (low + high) / 2;
        if (tensors[middle].span <= blockIdx.x) low = middle;
        else high = middle;
    }
    return load<Listed>(tensors + low);
}

KERNEL(adam_step, THREADS, const Listed* tensors, int count, float rate, float beta1, float beta2, float rest1, float rest2, float deviation,
       float epsilon, float scale) {
    await_kernels();
    constexpr int TOGETHER = 4;  // loads under way
    const Listed of = listed(tensors, count);
    const unsigned begin = (blockIdx.x - of.span) * SPAN + threadIdx.x;
    for (unsigned step = begin; step < begin + SPAN; step += TOGETHER * THREADS) {
        float p[TOGETHER], m[TOGETHER], v[TOGETHER], g[TOGETHER];
#pragma unroll
        for (int i = 0; i < TOGETHER; ++i) {
            const unsigned at = step + i * THREADS;
            const bool inside = at < of.count;
            p[i] = inside ? of.parameter[at] : 0.0f, m[i] = inside ? of.first[at] : 0.0f;
            v[i] = inside ? of.second[at] : 0.0f, g[i] = inside ? of.gradient[at] : 0.0f;
        }
#pragma unroll
        for (int i = 0; i < TOGETHER; ++i) {
            const unsigned at = step + i * THREADS;
            if (at >= of.count) continue;
            const float slope = g[i] * scale;
            const float mean = beta1 * m[i] + rest1 * slope, square = beta2 * v[i] + rest2 * slope * slope;
            of.first[at] = mean, of.second[at] = square, of.gradient[at] = 0.0f;
            of.parameter[at] = p[i] * of.kept - rate * (mean / (sqrtf(square) / deviation + epsilon));
        }
    }
}

KERNEL(squared_sums, THREADS, float* out, const Listed* tensors, int count) {
    await_kernels();
    SHARED(float, sums);
    const Listed of = listed(tensors, count);
    const unsigned first = (blockIdx.x - of.span) * SPAN + threadIdx.x;
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < SPAN / THREADS; ++i) {
        const unsigned at = first + i * THREADS;
        const float value = at < of.count ? of.gradient[at] : 0.0f;
        sum = fmaf(value, value, sum);
    }
    sum = warp_sum(sum);
    if (lane_id() == 0) sums[warp_id()] = sum;
    sync_block();
    if (warp_id() > 0) return;
    sum = warp_sum(lane_id() < THREADS / WARP ? sums[lane_id()] : 0.0f);
    if (lane_id() == 0) out[blockIdx.x] = sum;
}

template <class T>
DEVICE void add_numbers(T* sum, const float* x, int n) {
    const int i = int(blockIdx.x) * int(blockDim.x) + int(threadIdx.x);
    if (i < n) sum[i] = narrow<T>(widen(sum[i]) + x[i]);
}

KERNEL(add_numbers_f32, 256, float* sum, const float* x, int n) { await_kernels(); add_numbers(sum, x, n); }
KERNEL(add_numbers_bf16, 256, bf16* sum, const float* x, int n) { await_kernels(); add_numbers(sum, x, n); }

KERNEL(copy_numbers, 256, float* out, const float* x, int n) {
    await_kernels();
    const int i = int(blockIdx.x) * int(blockDim.x) + int(threadIdx.x);
    if (i < n) out[i] = x[i];
}
