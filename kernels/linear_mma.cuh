// Linear layers on tensor cores: out [rows, N] = activation(x [rows, K] · weightᵀ + bias) + residual, products of 16-bit operands, sums in f32;
// and, with the transposed weight, the way back: out = (x · weightᵀ) ∘ slope + residual.
//
//   f16, bf16     out, slope, x, residual   T, row-major         weight   T [N', K']
//   bf16x3        out, slope, x, residual   f32, row-major       weight   bf16 [2][N', K']: what each weight rounds to, and what is left of it
//   bias   f32 [N']             N' = N rounded up to 32, K' = K rounded up to 32, zeros beyond
//
// Rows of the weight are permuted in groups of 32 so that the sums a lane is left with are eight neighbouring columns, which it finishes and
// writes by whole 16 bytes: packed row 8 j + 2 t + e holds column 8 t + 2 j + e (`packed_row` of backend/gpu/pack.rs).
//
// A block makes a tile of BM × BN, each of its warps WM × WN of it. Steps of 32 inputs travel to shared memory by asynchronous copies, STAGES of
// them under way, chunks of 16 bytes swizzled so that ldmatrix never meets a bank twice. An element's products are summed by ascending steps of
// 16 inputs whatever the tile and the number of rows: its bits depend on its row alone. bf16x3 takes x·w as x₁w₁ + x₁w₂ + x₂w₁, the
// small ones first. Bound by the tensor cores: 2 · rows · N · K operations (three times that for bf16x3).
#pragma once
#include "epilogue.cuh"

constexpr int BK = 32;     // inputs a step
constexpr int CHUNK = 8;   // 16-bit numbers in 16 bytes
constexpr int GROUP = 32;  // columns permuted among themselves

// Where the 16-byte chunk `chunk` of a row of BK 16-bit numbers lies: eight rows of one chunk column fall on all 32 banks.
DEVICE int swizzled(int row, int chunk) { return row * BK + (chunk ^ (row >> 1 & 3)) * CHUNK; }

struct Matrix {
    const void* data;
    int rows, columns;
};

// Operands of 16 bits: x as it is, weights as they are.
template <class T>
struct Plain {
    typedef T Stored;     // of x
    typedef T Operand;    // of the products
    static constexpr int PARTS = 1;
    static constexpr int X_STRIDE = BK;

    // Begins the copy of `chunk` (8 numbers) of a row; numbers beyond `count` become zeros.
    static DEVICE void fetch(T* tile, int row, int chunk, const T* from, int count, bool whole) {
        T* const to = tile + swizzled(row, chunk);
        if (whole) copy_async(to, from, count > 0);
        else store_vector<8>(to, load_some<8>(from, count));
    }
    // The 16 × 16 numbers at (row, k) as a fragment.
    static DEVICE void fragment(uint32_t (&a)[1][4], const T* tile, int row, int k) {
        ldmatrix(a[0], tile + swizzled(row + lane_id() % 16, k / CHUNK + lane_id() / 16));
    }
};

// f32 operands as sums of two bf16, split on their way to the registers.
struct Split {
    typedef float Stored;
    typedef bf16 Operand;
    static constexpr int PARTS = 2;
    static constexpr int X_STRIDE = BK + 8;  // rows of a quarter warp on different banks

    static DEVICE void fetch(float* tile, int row, int chunk, const float* from, int count, bool whole) {
        float* const to = tile + row * X_STRIDE + chunk * CHUNK;
        if (whole) {
            copy_async(to, from, count > 0);
            copy_async(to + 4, from + 4, count > 4);
        } else {
            store_vector<8>(to, load_some<8>(from, count));
        }
    }
    static DEVICE void fragment(uint32_t (&a)[2][4], const float* tile, int row, int k) {
        const int g = lane_id() / 4, t = 2 * (lane_id() % 4);
#pragma unroll
        for (int r = 0; r < 4; ++r) {
            const float2 x = load<float2>(tile + (row + g + 8 * (r & 1)) * X_STRIDE + k + t + 8 * (r >> 1));
            a[0][r] = pack<bf16>(x.x, x.y);
            const float2 near = unpack<bf16>(a[0][r]);
            a[1][r] = pack<bf16>(x.x - near.x, x.y - near.y);
        }
    }
};

template <class Operands, int BM, int BN>
struct Stage {
    typename Operands::Stored x[BM * Operands::X_STRIDE];
    typename Operands::Operand weight[Operands::PARTS][BN * BK];
};

// Begins the copy of one step of both operands.
template <class Operands, int BM, int BN, int THREADS>
DEVICE void fetch(Stage<Operands, BM, BN>& stage, Matrix x, Matrix weight, int row, int column, int k) {
    typedef typename Operands::Stored Stored;
    typedef typename Operands::Operand Operand;
    constexpr int CHUNKS = BK / CHUNK, ROWS = THREADS / CHUNKS;  // of a row; of all threads at once
    const int r = threadIdx.x / CHUNKS, c = threadIdx.x % CHUNKS, input = k + c * CHUNK;
    const Stored* from = static_cast<const Stored*>(x.data) + size_t(row + r) * x.columns + input;
    const bool whole = x.columns * int(sizeof(Stored)) % 16 == 0;  // rows begin at multiples of 16 bytes
#pragma unroll
    for (int i = 0; i < BM; i += ROWS, from += size_t(ROWS) * x.columns)
        Operands::fetch(stage.x, r + i, c, from, row + r + i < x.rows ? x.columns - input : 0, whole);
    const Operand* weights = static_cast<const Operand*>(weight.data) + size_t(column + r) * weight.columns + input;
#pragma unroll
    for (int part = 0; part < Operands::PARTS; ++part, weights += size_t(weight.rows) * weight.columns)
#pragma unroll
        for (int i = 0; i < BN; i += ROWS)
            copy_async(stage.weight[part] + swizzled(r + i, c), weights + size_t(i) * weight.columns, column + r + i < weight.rows);
}

// sums += x · weightᵀ over one step, for the warp's part of the tile at (row, column).
template <class Operands, int BM, int BN, int WM, int WN>
DEVICE void multiply(float (&sums)[WM / 16][WN / 8][4], const Stage<Operands, BM, BN>& stage, int row, int column) {
    constexpr int PARTS = Operands::PARTS;
    typedef typename Operands::Operand Operand;
    const int lane = lane_id();
#pragma unroll
    for (int k = 0; k < BK; k += 16) {
        uint32_t a[WM / 16][PARTS][4], b[PARTS][WN / 16][4];
#pragma unroll
        for (int i = 0; i < WM / 16; ++i) Operands::fragment(a[i], stage.x, row + 16 * i, k);
        // A matrix of ldmatrix is 8 columns × 8 inputs: two of inputs, then two of columns, make two fragments.
#pragma unroll
        for (int part = 0; part < PARTS; ++part)
#pragma unroll
            for (int j = 0; j < WN / 16; ++j)
                ldmatrix(b[part][j], stage.weight[part] + swizzled(column + 16 * j + lane / 16 * 8 + lane % 8, k / CHUNK + lane / 8 % 2));
#pragma unroll
        for (int i = 0; i < WM / 16; ++i)
#pragma unroll
            for (int j = 0; j < WN / 8; ++j) {
                if constexpr (PARTS == 2) {
                    mma(Operand(), sums[i][j], a[i][1], b[0][j / 2] + j % 2 * 2);
                    mma(Operand(), sums[i][j], a[i][0], b[1][j / 2] + j % 2 * 2);
                }
                mma(Operand(), sums[i][j], a[i][0], b[0][j / 2] + j % 2 * 2);
            }
    }
}

// What a lane is left with of each 16 × 32: rows g and g + 8, eight neighbouring columns from 8 t. Part p is of the p / 2 / (WN / GROUP)th 16 rows.
template <int WM, int WN>
struct Parts {
    static constexpr int GROUPS = WN / GROUP, COUNT = WM / 16 * GROUPS * 2;

    DEVICE static int row(int part) { return 16 * (part / 2 / GROUPS) + lane_id() / 4 + 8 * (part % 2); }
    DEVICE static int column(int part) { return GROUP * (part / 2 % GROUPS) + lane_id() % 4 * 8; }
    DEVICE static Vector<8> eight(const float (&sums)[WM / 16][WN / 8][4], int part) {
        Vector<8> eight;
#pragma unroll
        for (int x = 0; x < 8; ++x) eight.x[x] = sums[part / 2 / GROUPS][4 * (part / 2 % GROUPS) + x / 2][2 * (part % 2) + x % 2];
        return eight;
    }
};

template <int WM, int WN, class Finish>
DEVICE void finish(const float (&sums)[WM / 16][WN / 8][4], int row, int column, const Finish& epilogue) {
    typedef Parts<WM, WN> Parts;
    if constexpr (!Finish::SCREENED) {
#pragma unroll
        for (int part = 0; part < Parts::COUNT; ++part)
            epilogue.template finish<8>(row + Parts::row(part), column + Parts::column(part), Parts::eight(sums, part));
    } else {
        unsigned marks = 0;
#pragma unroll
        for (int part = 0; part < Parts::COUNT; ++part)
            marks |= unsigned(epilogue.any_passes(row + Parts::row(part), column + Parts::column(part), Parts::eight(sums, part))) << part;
        // Few are finished, and by long code: once, with sums picked from their registers.
#pragma unroll 1
        for (int part = 0; marks >> part; ++part) {
            if (!(marks >> part & 1)) continue;
            Vector<8> eight = Parts::eight(sums, 0);
#pragma unroll
            for (int other = 1; other < Parts::COUNT; ++other) {
                const Vector<8> others = Parts::eight(sums, other);
#pragma unroll
                for (int x = 0; x < 8; ++x) eight.x[x] = part == other ? others.x[x] : eight.x[x];
            }
            epilogue.template finish<8>(row + Parts::row(part), column + Parts::column(part), eight);
        }
    }
}

template <class Operands, int BM, int BN, int WM, int WN, int STAGES, class Finish>
DEVICE void linear(Matrix x, Matrix weight, const Finish& epilogue) {
    constexpr int THREADS = BM / WM * (BN / WN) * WARP;
    typedef Stage<Operands, BM, BN> Tile;
    SHARED(Tile, stages);
    const int row = blockIdx.x * BM, column = blockIdx.y * BN, steps = weight.columns / BK;
    const int warp_row = warp_id() % (BM / WM) * WM, warp_column = warp_id() / (BM / WM) * WN;
    float sums[WM / 16][WN / 8][4];
#pragma unroll
    for (int i = 0; i < WM / 16; ++i)
#pragma unroll
        for (int j = 0; j < WN / 8; ++j)
#pragma unroll
            for (int e = 0; e < 4; ++e) sums[i][j][e] = 0.0f;

#pragma unroll
    for (int step = 0; step < STAGES - 1; ++step) {
        if (step < steps) fetch<Operands, BM, BN, THREADS>(stages[step], x, weight, row, column, step * BK);
        copy_commit();
    }
    for (int step = 0; step < steps; ++step) {
        copy_wait<STAGES - 2>();
        sync_block();  // this step has landed for all, and all are done with the one whose place is next to be filled
        const int next = step + STAGES - 1;
        if (next < steps) fetch<Operands, BM, BN, THREADS>(stages[next % STAGES], x, weight, row, column, next * BK);
        copy_commit();
        multiply<Operands, BM, BN, WM, WN>(sums, stages[step % STAGES], warp_row, warp_column);
    }
    copy_wait<0>();
    finish<WM, WN>(sums, row + warp_row, column + warp_column, epilogue);
}

#define LINEAR(NAME, OPERANDS, STORED, MATH, BM, BN, WM, WN, STAGES)                                                                             \
    KERNEL(linear_##NAME##_##BM##x##BN, BM / WM*(BN / WN) * WARP, STORED* out, STORED* slope, const STORED* x, const void* weight,                 \
           const float* bias, const STORED* residual, int activation, int rows, int inputs, int outputs) {                                        \
        await_kernels();                                                                                                                          \
        linear<OPERANDS, BM, BN, WM, WN, STAGES>(Matrix{x, rows, inputs}, Matrix{weight, (outputs + 31) / 32 * 32, (inputs + 31) / 32 * 32},       \
                                                 Forward<STORED, MATH>{out, slope, bias, residual, activation, {rows, outputs}});                 \
    }                                                                                                                                             \
    KERNEL(linear_backward_##NAME##_##BM##x##BN, BM / WM*(BN / WN) * WARP, STORED* out, const STORED* x, const void* weight,                       \
           const STORED* slope, const STORED* residual, int rows, int inputs, int outputs) {                                                      \
        await_kernels();                                                                                                                          \
        linear<OPERANDS, BM, BN, WM, WN, STAGES>(Matrix{x, rows, inputs}, Matrix{weight, (outputs + 31) / 32 * 32, (inputs + 31) / 32 * 32},       \
                                                 Backward<STORED>{out, slope, residual, {rows, outputs}});                                        \
    }
