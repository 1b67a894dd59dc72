// Linear layers in exact f32: out [rows, N] = activation(x [rows, K] · weight [K, N] + bias) + residual; and, with the transposed weight, the way
// back: out = (x · weight) ∘ slope + residual.
//
//   out, slope, x, residual   f32, row-major          weight   f32 [K, N rounded up to 4], zeros after N          bias   f32 [N rounded up to 32]
//
// A block's tile is BM × BN, a warp's of it 4 IM × 32 JN. Lane (r, c) has rows r, r + 4 … and columns 4 c, 4 (c + 8) … and the three next of each.
// Neighbouring lanes differ in r, so that a load of 16 bytes, which takes a half of the warp at a time, finds each address in pairs and all of them on
// different banks. Each element is one chain of fused multiply-adds by ascending k: its bits are the CPU's, for any tile and any batch.
// Bound by arithmetic: 2 · rows · N · K operations.
#include "epilogue.cuh"

constexpr int BK = 16;            // inputs a step
constexpr int X_STRIDE = BK + 4;  // of a row of x in shared memory: 16-byte aligned, rows on different banks
constexpr int STAGES = 2;

// Where a thread's own sums are in the block's tile: IM rows of them, JN times four columns.
template <int BM, int BN, int IM, int JN>
struct Place {
    static constexpr int ACROSS = BN / (32 * JN), THREADS = BM / (4 * IM) * ACROSS * WARP;

    static DEVICE int row(int i) { return warp_id() / ACROSS * 4 * IM + 4 * i + ((lane_id() & 1) | (lane_id() >> 3 & 2)); }
    static DEVICE int column(int j) { return warp_id() % ACROSS * 32 * JN + 32 * j + (lane_id() >> 1 & 7) * 4; }
};

template <int BM, int BN>
struct Stage {
    float x[BM * X_STRIDE];
    float weight[BK * BN];
};

struct Operands {
    const float* x;
    const float* weight;
    int rows, inputs, padded_outputs;
};

// Begins the copy of step `k` of both operands; rows, columns and inputs beyond the matrices become zeros.
template <int BM, int BN, int THREADS>
DEVICE void fetch(Stage<BM, BN>& stage, const Operands& of, int row, int column, int k) {
    constexpr int X_FOURS = BK / 4, X_ROWS = THREADS / X_FOURS;
    const int xr = threadIdx.x / X_FOURS, xc = threadIdx.x % X_FOURS * 4, count = of.inputs - (k + xc);
    const float* x = of.x + size_t(row + xr) * of.inputs + k + xc;
    float* const x_to = stage.x + xr * X_STRIDE + xc;
    if (of.inputs % 4 == 0) {
#pragma unroll
        for (int i = 0; i < BM; i += X_ROWS, x += size_t(X_ROWS) * of.inputs)
            copy_async(x_to + i * X_STRIDE, x, row + xr + i < of.rows && count > 0);
    } else {
        for (int i = 0; i < BM; i += X_ROWS, x += size_t(X_ROWS) * of.inputs)
            store_vector<4>(x_to + i * X_STRIDE, load_some<4>(x, row + xr + i < of.rows ? count : 0));
    }

    constexpr int FOURS = BN / 4, ROWS = THREADS / FOURS;
    const int r = threadIdx.x / FOURS, c = threadIdx.x % FOURS * 4;
    const float* weight = of.weight + size_t(k + r) * of.padded_outputs + column + c;
#pragma unroll
    for (int i = 0; i < BK; i += ROWS, weight += size_t(ROWS) * of.padded_outputs)
        copy_async(stage.weight + (r + i) * BN + c, weight, k + r + i < of.inputs && column + c < of.padded_outputs);
}

// sums += x · weight over one step.
template <int BM, int BN, int IM, int JN>
DEVICE void multiply(Vector<4> (&sums)[IM][JN], const Stage<BM, BN>& stage) {
    typedef Place<BM, BN, IM, JN> My;
#pragma unroll
    for (int k = 0; k < BK; k += 4) {
        Vector<4> x[IM];
#pragma unroll
        for (int i = 0; i < IM; ++i) x[i] = load_vector<4>(stage.x + My::row(i) * X_STRIDE + k);
#pragma unroll
        for (int step = 0; step < 4; ++step)
#pragma unroll
            for (int j = 0; j < JN; ++j) {
                const Vector<4> weight = load_vector<4>(stage.weight + (k + step) * BN + My::column(j));
#pragma unroll
                for (int i = 0; i < IM; ++i)
#pragma unroll
                    for (int c = 0; c < 4; ++c) sums[i][j].x[c] = fmaf(x[i].x[step], weight.x[c], sums[i][j].x[c]);
            }
    }
}

template <int BM, int BN, int IM, int JN, class Finish>
DEVICE void linear(const Operands& of, const Finish& epilogue) {
    typedef Stage<BM, BN> Tile;
    typedef Place<BM, BN, IM, JN> My;
    SHARED(Tile, stages);
    const int row = blockIdx.x * BM, column = blockIdx.y * BN;
    const int steps = (of.inputs + BK - 1) / BK;
    Vector<4> sums[IM][JN];
#pragma unroll
    for (int i = 0; i < IM; ++i)
#pragma unroll
        for (int j = 0; j < JN; ++j) sums[i][j] = filled<4>(0.0f);

    for (int step = 0; step < STAGES - 1; ++step) {
        if (step < steps) fetch<BM, BN, My::THREADS>(stages[step], of, row, column, step * BK);
        copy_commit();
    }
    for (int step = 0; step < steps; ++step) {
        copy_wait<STAGES - 2>();
        sync_block();  // this step has landed for all, and all are done with the one whose place is next to be filled
        const int next = step + STAGES - 1;
        if (next < steps) fetch<BM, BN, My::THREADS>(stages[next % STAGES], of, row, column, next * BK);
        copy_commit();
        multiply<BM, BN>(sums, stages[step % STAGES]);
    }
    copy_wait<0>();

#pragma unroll
    for (int i = 0; i < IM; ++i)
#pragma unroll
        for (int j = 0; j < JN; ++j) epilogue.finish(row + My::row(i), column + My::column(j), sums[i][j]);
}

#define LINEAR(BM, BN, IM, JN)                                                                                                                 \
    KERNEL(linear_f32_##BM##x##BN, (Place<BM, BN, IM, JN>::THREADS), float* out, float* slope, const float* x, const float* weight,            \
           const float* bias, const float* residual, int activation, int rows, int inputs, int outputs) {                                      \
        await_kernels();                                                                                                                       \
        linear<BM, BN, IM, JN>(Operands{x, weight, rows, inputs, (outputs + 3) / 4 * 4},                                                       \
                               Forward<float, Exact>{out, slope, bias, residual, activation, {rows, outputs}});                                \
    }                                                                                                                                          \
    KERNEL(linear_backward_f32_##BM##x##BN, (Place<BM, BN, IM, JN>::THREADS), float* out, const float* x, const float* weight,                 \
           const float* slope, const float* residual, int rows, int inputs, int outputs) {                                                     \
        await_kernels();                                                                                                                       \
        linear<BM, BN, IM, JN>(Operands{x, weight, rows, inputs, (outputs + 3) / 4 * 4},                                                       \
                               Backward<float>{out, slope, residual, {rows, outputs}});                                                        \
    }

LINEAR(128, 64, 8, 2)
LINEAR(64, 64, 4, 1)
