// What an optimiser does number by number. One thread a number, its operations in the order of the formula: the bits are the CPU's.
//
//   adam_step       parameter, first, second, gradient   f32 [n]: AdamW (Loshchilov & Hutter 2019, algorithm 2) as src/backend/training.rs has it
//   add_numbers     sum [n] += x [n], the sum f32 or bf16            copy_numbers   out [n] = x [n]
//   squared_sums    out [blocks]: the sum of the squares of each 4096 numbers, 16 chains a lane and one tree
//   pack_weight     out [rows, stride] = weight f32, or its transpose, zeros after a row's end: what linear_f32.cu multiplies by; or, rounded
//                   to bf16 and rows permuted among each 32, what linear_mma.cuh does
//
// Bound by memory.
#include "reduce.cuh"

KERNEL(adam_step, 256, float* parameter, float* first, float* second, const float* gradient, float kept, float rate, float beta1, float beta2,
       float rest1, float rest2, float deviation, float epsilon, float scale, int n) {
    const int i = int(blockIdx.x) * int(blockDim.x) + int(threadIdx.x);
    if (i >= n) return;
    const float g = gradient[i] * scale;
    const float m = beta1 * first[i] + rest1 * g, v = beta2 * second[i] + rest2 * g * g;
    first[i] = m, second[i] = v;
    parameter[i] = parameter[i] * kept - rate * (m / (sqrtf(v) / deviation + epsilon));
}

template <class T>
DEVICE void add_numbers(T* sum, const float* x, int n) {
    const int i = int(blockIdx.x) * int(blockDim.x) + int(threadIdx.x);
    if (i < n) sum[i] = narrow<T>(widen(sum[i]) + x[i]);
}

KERNEL(add_numbers_f32, 256, float* sum, const float* x, int n) { add_numbers(sum, x, n); }
KERNEL(add_numbers_bf16, 256, bf16* sum, const float* x, int n) { add_numbers(sum, x, n); }

KERNEL(copy_numbers, 256, float* out, const float* x, int n) {
    const int i = int(blockIdx.x) * int(blockDim.x) + int(threadIdx.x);
    if (i < n) out[i] = x[i];
}

constexpr int SQUARES = 4096;
constexpr int SQUARING = 256;

KERNEL(squared_sums, SQUARING, float* out, const float* x, int n) {
    SHARED(float, sums);
    const int first = int(blockIdx.x) * SQUARES + int(threadIdx.x);
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < SQUARES / SQUARING; ++i) {
        const int at = first + i * SQUARING;
        const float value = at < n ? x[at] : 0.0f;
        sum = fmaf(value, value, sum);
    }
    sum = warp_sum(sum);
    if (lane_id() == 0) sums[warp_id()] = sum;
    sync_block();
    if (warp_id() > 0) return;
    sum = warp_sum(lane_id() < SQUARING / WARP ? sums[lane_id()] : 0.0f);
    if (lane_id() == 0) out[blockIdx.x] = sum;
}

// Where a row of the packed matrix goes.
template <class T>
DEVICE int packed_row(int row);
template <>
DEVICE int packed_row<f32>(int row) { return row; }
// `packed_row` of src/backend/gpu/pack.rs.
template <>
DEVICE int packed_row<bf16>(int row) { return row / 32 * 32 + row % 8 / 2 * 8 + row % 32 / 8 * 2 + row % 2; }

// A block has 32 × 32 of the matrix, turned in `tile` [32, 33] where it is to be, so that both sides go by whole cache lines.
template <class T>
DEVICE void pack_weight(T* out, const float* weight, int inputs, int outputs, int stride, int turned, float* tile) {
    const int column = int(blockIdx.x) * WARP, row = int(blockIdx.y) * WARP;  // of the weight
    for (int r = warp_id(); r < WARP; r += 8) {
        const bool inside = row + r < outputs && column + lane_id() < inputs;
        tile[r * (WARP + 1) + lane_id()] = inside ? weight[size_t(row + r) * inputs + column + lane_id()] : 0.0f;
    }
    sync_block();
    for (int r = warp_id(); r < WARP; r += 8) {
        if (turned) {
            if (column + r < inputs && row + lane_id() < stride)
                out[size_t(packed_row<T>(column + r)) * stride + row + lane_id()] = narrow<T>(tile[lane_id() * (WARP + 1) + r]);
        } else {
            if (row + r < outputs && column + lane_id() < stride)
                out[size_t(packed_row<T>(row + r)) * stride + column + lane_id()] = narrow<T>(tile[r * (WARP + 1) + lane_id()]);
        }
    }
}

KERNEL(pack_weight_f32, 256, float* out, const float* weight, int inputs, int outputs, int stride, int turned) {
    SHARED(float, tile);
    pack_weight(out, weight, inputs, outputs, stride, turned, tile);
}
KERNEL(pack_weight_bf16, 256, bf16* out, const float* weight, int inputs, int outputs, int stride, int turned) {
    SHARED(float, tile);
    pack_weight(out, weight, inputs, outputs, stride, turned, tile);
}
