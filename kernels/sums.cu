// Sums in f64 of f32 numbers that stay on the device: what a curvature is the mean of.
//
//   add_to_sums        sums f64 [n] += x f32 [n]
//   add_squares        sums f64 [n] += Σ x², x f32 [rows, n], row after row. One thread a number: its chain is the CPU's
//   weighted_squares   out f64 [rows, blocks]: Σ w x² over each 4096 numbers of a row, x f32 [rows, n], w f64 [n]; of a thread's 16 a chain, and one tree.
//                      A block has several rows, so that weights, of which there are twice as many bytes as of a row, are read that much less often
//
// Squares of f32 are exact in f64. Bound by the bytes of x.
#include "port.cuh"

constexpr int THREADS = 256;
constexpr int SPAN = 4096;
constexpr int TOGETHER = 8;  // rows of a block

KERNEL(add_to_sums, THREADS, double* sums, const float* x, int n) {
    await_kernels();
    const int i = int(blockIdx.x) * THREADS + int(threadIdx.x);
    if (i < n) sums[i] += double(x[i]);
}

KERNEL(add_squares, THREADS, double* sums, const float* x, int rows, int n) {
    await_kernels();
    const int i = int(blockIdx.x) * THREADS + int(threadIdx.x);
    if (i >= n) return;
    double sum = sums[i];
#pragma unroll 4
    for (int row = 0; row < rows; ++row) {
        const double value = double(x[size_t(row) * n + i]);
        sum += value * value;
    }
    sums[i] = sum;
}

KERNEL(weighted_squares, THREADS, double* out, const double* weights, const float* x, int rows, int blocks, int n) {
    await_kernels();
    SHARED(double, parts);  // [TOGETHER, THREADS]
    constexpr int STEPS = SPAN / THREADS;
    const int block = int(blockIdx.x) % blocks, row = int(blockIdx.x) / blocks * TOGETHER, first = block * SPAN + int(threadIdx.x);
    const int count = min(TOGETHER, rows - row);
    double mine[STEPS];
#pragma unroll
    for (int step = 0; step < STEPS; ++step) mine[step] = first + step * THREADS < n ? weights[first + step * THREADS] : 0.0;
    for (int r = 0; r < count; ++r) {
        const float* const from = x + size_t(row + r) * n + first;
        float values[STEPS];
#pragma unroll
        for (int step = 0; step < STEPS; ++step) values[step] = first + step * THREADS < n ? from[step * THREADS] : 0.0f;
        double sum = 0.0;
#pragma unroll
        for (int step = 0; step < STEPS; ++step) {
            const double value = double(values[step]);
            sum += mine[step] * value * value;
        }
        parts[r * THREADS + int(threadIdx.x)] = sum;
    }
#pragma unroll
    for (int half = THREADS / 2; half > 0; half /= 2) {
        sync_block();
        for (int r = 0; r < count; ++r)
            if (int(threadIdx.x) < half) parts[r * THREADS + int(threadIdx.x)] += parts[r * THREADS + int(threadIdx.x) + half];
    }
    sync_block();
    if (int(threadIdx.x) < count) out[size_t(row + int(threadIdx.x)) * blocks + block] = parts[int(threadIdx.x) * THREADS];
}
