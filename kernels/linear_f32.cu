// Linear layers in exact f32: out [rows, N] = activation(x [rows, K] · weight [K, N] + bias) + residual; and, with the transposed weight, the way
// back: out = (x · weight) ∘ slope + residual.
//
//   out, slope, x, residual   f32, row-major          weight   f32 [K, N rounded up to 4], zeros after N          bias   f32 [N rounded up to 32]
//
// A block of 16 × 16 threads makes a tile of BM × BN; a thread owns rows ty + 16 i and columns 4 tx + 64 j … + 3, so that a warp's reads of shared
// memory never collide. Each element is one chain of fused multiply-adds by ascending k: its bits are the CPU's, for any tile and any batch.
// Bound by arithmetic: 2 · rows · N · K operations.
#include "epilogue.cuh"

constexpr int BK = 16;            // inputs a step
constexpr int X_STRIDE = BK + 4;  // of a row of x in shared memory: 16-byte aligned, rows on different banks
constexpr int THREADS = 256;
constexpr int STAGES = 2;

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
template <int BM, int BN>
DEVICE void fetch(Stage<BM, BN>& stage, const Operands& of, int row, int column, int k) {
    constexpr int X_CHUNKS = BK / 4, WEIGHT_CHUNKS = BN / 4;
#pragma unroll
    for (int chunk = threadIdx.x; chunk < BM * X_CHUNKS; chunk += THREADS) {
        const int r = chunk / X_CHUNKS, c = chunk % X_CHUNKS * 4;
        const int count = row + r < of.rows ? of.inputs - (k + c) : 0;
        const float* const from = of.x + size_t(row + r) * of.inputs + k + c;
        float* const to = stage.x + r * X_STRIDE + c;
        if (of.inputs % 4 == 0) copy_async(to, count > 0 ? from : of.x, count > 0);
        else store_vector<4>(to, load_some<4>(from, count));
    }
#pragma unroll
    for (int chunk = threadIdx.x; chunk < BK * WEIGHT_CHUNKS; chunk += THREADS) {
        const int r = chunk / WEIGHT_CHUNKS, c = chunk % WEIGHT_CHUNKS * 4;
        const bool inside = k + r < of.inputs && column + c < of.padded_outputs;
        copy_async(stage.weight + r * BN + c, inside ? of.weight + size_t(k + r) * of.padded_outputs + column + c : of.weight, inside);
    }
}

// sums += x · weight over one step.
template <int BM, int BN>
DEVICE void multiply(Vector<4> (&sums)[BM / 16][BN / 64], const Stage<BM, BN>& stage) {
    const int tx = threadIdx.x % 16, ty = threadIdx.x / 16;
#pragma unroll
    for (int k = 0; k < BK; k += 4) {
        Vector<4> x[BM / 16];
#pragma unroll
        for (int i = 0; i < BM / 16; ++i) x[i] = load_vector<4>(stage.x + (ty + 16 * i) * X_STRIDE + k);
#pragma unroll
        for (int step = 0; step < 4; ++step)
#pragma unroll
            for (int j = 0; j < BN / 64; ++j) {
                const Vector<4> weight = load_vector<4>(stage.weight + (k + step) * BN + 64 * j + 4 * tx);
#pragma unroll
                for (int i = 0; i < BM / 16; ++i)
#pragma unroll
                    for (int c = 0; c < 4; ++c) sums[i][j].x[c] = fmaf(x[i].x[step], weight.x[c], sums[i][j].x[c]);
            }
    }
}

template <int BM, int BN, class Finish>
DEVICE void linear(const Operands& of, const Finish& epilogue) {
    typedef Stage<BM, BN> Tile;
    SHARED(Tile, stages);
    const int row = blockIdx.x * BM, column = blockIdx.y * BN;
    const int steps = (of.inputs + BK - 1) / BK;
    Vector<4> sums[BM / 16][BN / 64];
#pragma unroll
    for (int i = 0; i < BM / 16; ++i)
#pragma unroll
        for (int j = 0; j < BN / 64; ++j) sums[i][j] = filled<4>(0.0f);

    for (int step = 0; step < STAGES - 1; ++step) {
        if (step < steps) fetch(stages[step], of, row, column, step * BK);
        copy_commit();
    }
    for (int step = 0; step < steps; ++step) {
        copy_wait<STAGES - 2>();
        sync_block();  // this step has landed for all, and all are done with the one whose place is next to be filled
        const int next = step + STAGES - 1;
        if (next < steps) fetch(stages[next % STAGES], of, row, column, next * BK);
        copy_commit();
        multiply(sums, stages[step % STAGES]);
    }
    copy_wait<0>();

    const int tx = threadIdx.x % 16, ty = threadIdx.x / 16;
#pragma unroll
    for (int i = 0; i < BM / 16; ++i)
#pragma unroll
        for (int j = 0; j < BN / 64; ++j) epilogue.finish(row + ty + 16 * i, column + 64 * j + 4 * tx, sums[i][j]);
}

#define LINEAR(BM, BN)                                                                                                                     \
    KERNEL(linear_f32_##BM##x##BN, THREADS, float* out, float* slope, const float* x, const float* weight, const float* bias,              \
           const float* residual, int activation, int rows, int inputs, int outputs) {                                                     \
        linear<BM, BN>(Operands{x, weight, rows, inputs, (outputs + 3) / 4 * 4},                                                           \
                       Forward<float, Exact>{out, slope, bias, residual, activation, {rows, outputs}});                                    \
    }                                                                                                                                      \
    KERNEL(linear_backward_f32_##BM##x##BN, THREADS, float* out, const float* x, const float* weight, const float* slope,                  \
           const float* residual, int rows, int inputs, int outputs) {                                                                     \
        linear<BM, BN>(Operands{x, weight, rows, inputs, (outputs + 3) / 4 * 4}, Backward<float>{out, slope, residual, {rows, outputs}});  \
    }

LINEAR(128, 128)
LINEAR(64, 64)
