// One layer's step of row vectors down through attention maps: out [T] = own · row + below · (row A) in each sequence, A its map.
//
//   out, row    f32 [T]           maps      f32, a sequence's [L, L] at offsets[sequence] ([1, L] where first tokens alone asked)
//   offsets     u32 [B]           below     f32 [B]           starts    u32 [B + 1]
//
// A block takes 32 columns of a sequence, a lane each, and deals the map's rows out to its eight warps: a column's sum is eight chains by
// ascending row, added up as a tree. Bound by memory: a map is read once, by whole cache lines.
#include "port.cuh"

constexpr int COLUMNS = WARP;
constexpr int PARTS = 8;

KERNEL(follow, COLUMNS* PARTS, float* out, const float* row, const float* maps, const unsigned* offsets, const float* below, const unsigned* starts,
       float own, int first_only) {
    await_kernels();
    SHARED(float, sums);
    const int sequence = int(blockIdx.x), part = warp_id();
    const unsigned start = starts[sequence];
    const int length = int(starts[sequence + 1] - start), rows = first_only ? 1 : length;
    const int column = int(blockIdx.y) * COLUMNS + lane_id();
    if (int(blockIdx.y) * COLUMNS >= length) return;  // the whole block: the grid is for the longest
    const float* const map = maps + offsets[sequence];
    float sum = 0.0f;
    if (column < length)
#pragma unroll 4
        for (int r = part; r < rows; r += PARTS) sum = fmaf(row[start + r], map[size_t(r) * length + column], sum);
    sums[part * COLUMNS + lane_id()] = sum;
#pragma unroll
    for (int half = PARTS / 2; half > 0; half /= 2) {
        sync_block();
        if (part < half) sums[part * COLUMNS + lane_id()] += sums[(part + half) * COLUMNS + lane_id()];
    }
    if (part == 0 && column < length) out[start + column] = own * row[start + column] + below[sequence] * sums[lane_id()];
}
