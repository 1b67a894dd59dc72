// Weight matrices in the layouts that linear layers multiply by (src/backend/gpu/pack.rs has them).
//
//   pack_weight   out [rows, stride] = weight f32, or its transpose, zeros after a row's end: what linear_f32.cu multiplies by; or, rounded to bf16
//                 and rows permuted among each 32, what linear_mma.cuh does
//   turn_weight   a packed matrix the other way round, for the way back: out [rows, stride] of x [its rows, its stride]
//
// A block has 32 × 32 of a matrix, turned in `tile` [32, 33] where it is to be, so that both sides go by whole cache lines. Bound by memory.
#include "vector.cuh"

// Where a row of the packed matrix goes.
template <class T>
DEVICE int packed_row(int row) { return row; }
// The inverse of `packed_output` of src/backend/gpu/pack.rs.
DEVICE int permuted_row(int row) { return row / 32 * 32 + row % 8 / 2 * 8 + row % 32 / 8 * 2 + row % 2; }
template <>
DEVICE int packed_row<bf16>(int row) { return permuted_row(row); }
template <>
DEVICE int packed_row<uint16_t>(int row) { return permuted_row(row); }

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
    await_kernels();
    SHARED(float, tile);
    pack_weight(out, weight, inputs, outputs, stride, turned, tile);
}
KERNEL(pack_weight_bf16, 256, bf16* out, const float* weight, int inputs, int outputs, int stride, int turned) {
    await_kernels();
    SHARED(float, tile);
    pack_weight(out, weight, inputs, outputs, stride, turned, tile);
}

// T is what a number lies in: it is moved, and not looked at.
template <class T>
DEVICE void turn_weight(T* out, const T* x, int rows, int stride, int x_rows, int x_stride, T* tile) {
    const int column = int(blockIdx.x) * WARP, row = int(blockIdx.y) * WARP;  // of out, before rows are permuted
    for (int r = warp_id(); r < WARP; r += 8) {
        const bool inside = column + r < x_rows && row + lane_id() < x_stride;
        tile[r * (WARP + 1) + lane_id()] = inside ? x[size_t(packed_row<T>(column + r)) * x_stride + row + lane_id()] : T(0);
    }
    sync_block();
    for (int r = warp_id(); r < WARP; r += 8)
        if (row + r < rows && column + lane_id() < stride)
            out[size_t(packed_row<T>(row + r)) * stride + column + lane_id()] = tile[lane_id() * (WARP + 1) + r];
}

KERNEL(turn_weight_32, 256, uint32_t* out, const uint32_t* x, int rows, int stride, int x_rows, int x_stride) {
    await_kernels();
    SHARED(uint32_t, tile);
    turn_weight(out, x, rows, stride, x_rows, x_stride, tile);
}
KERNEL(turn_weight_16, 256, uint16_t* out, const uint16_t* x, int rows, int stride, int x_rows, int x_stride) {
    await_kernels();
    SHARED(uint16_t, tile);
    turn_weight(out, x, rows, stride, x_rows, x_stride, tile);
}
