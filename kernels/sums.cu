// Sums in f64 of f32 numbers that stay on the device: what a curvature is the mean of.
//
//   add_squares        sums f64 [n] += Σ x², x f32 [rows, n], row after row. One thread a number: its chain is the CPU's
//   weighted_squares   out f64 [rows, blocks]: Σ w x² over each 4096 numbers of a row, x f32 [rows, n], w f64 [n]; 16 chains a thread and one tree
//
// Squares of f32 are exact in f64. Bound by the bytes of x.
#include "port.cuh"

constexpr int THREADS = 256;
constexpr int SPAN = 4096;

KERNEL(add_squares, THREADS, double* sums, const float* x, int rows, int n) {
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

KERNEL(weighted_squares, THREADS, double* out, const double* weights, const float* x, int blocks, int n) {
    SHARED(double, parts);
    const int row = int(blockIdx.x) / blocks, block = int(blockIdx.x) % blocks, first = block * SPAN + int(threadIdx.x);
    double sum = 0.0;
#pragma unroll 4
    for (int step = 0; step < SPAN / THREADS; ++step) {
        const int i = first + step * THREADS;
        if (i < n) {
            const double value = double(x[size_t(row) * n + i]);
            sum += weights[i] * value * value;
        }
    }
    parts[threadIdx.x] = sum;
#pragma unroll
    for (int half = THREADS / 2; half > 0; half /= 2) {
        sync_block();
        if (int(threadIdx.x) < half) parts[threadIdx.x] += parts[int(threadIdx.x) + half];
    }
    if (threadIdx.x == 0) out[blockIdx.x] = parts[0];
}
