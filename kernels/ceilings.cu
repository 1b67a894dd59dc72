// What a device can do at most, to measure the other kernels against: copying, multiply-adds, and products on tensor cores, from registers alone.
//
//   ceiling_copy   out [n] = x [n], 16 bytes each, as far apart as there are threads          out, x   uint4
//   ceiling_fma    `steps` × 16 chains of multiply-adds a thread: 2 operations each           out      f32, one a thread
//   ceiling_mma    `steps` × 8 products of 16 × 8 × 16 a warp: 4096 operations each           out      f32, one a thread
#include "vector.cuh"

KERNEL(ceiling_copy, 256, uint4* out, const uint4* x, int n) {
    await_kernels();
    for (int i = int(blockIdx.x) * int(blockDim.x) + int(threadIdx.x); i < n; i += int(gridDim.x) * int(blockDim.x)) store(out + i, load<uint4>(x + i));
}

KERNEL(ceiling_fma, 256, float* out, float factor, int steps) {
    await_kernels();
    float chains[16];
#pragma unroll
    for (int i = 0; i < 16; ++i) chains[i] = float(int(threadIdx.x) + i);
    for (int step = 0; step < steps; ++step)
#pragma unroll
        for (int i = 0; i < 16; ++i) chains[i] = fmaf(chains[i], factor, 1.0f);
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < 16; ++i) sum += chains[i];
    out[int(blockIdx.x) * int(blockDim.x) + int(threadIdx.x)] = sum;
}

KERNEL(ceiling_mma, 256, float* out, float factor, int steps) {
    await_kernels();
    const uint32_t both = pack<f16>(factor, factor);
    const uint32_t a[4] = {both, both, both, both}, b[2] = {both, both};
    float sums[8][4];
#pragma unroll
    for (int i = 0; i < 8; ++i)
#pragma unroll
        for (int e = 0; e < 4; ++e) sums[i][e] = float(i);
    for (int step = 0; step < steps; ++step)
#pragma unroll
        for (int i = 0; i < 8; ++i) mma(f16(), sums[i], a, b);
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < 8; ++i)
#pragma unroll
        for (int e = 0; e < 4; ++e) sum += sums[i][e];
    out[int(blockIdx.x) * int(blockDim.x) + int(threadIdx.x)] = sum;
}
