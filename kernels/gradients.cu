// Sums of outer products in exact f32: the gradients of a linear layer's parameters, dw [outputs, inputs] += dyᵀ x and db [outputs] += Σ dy, over all
// rows in their order; and each sequence's own, out [B, stride] += dyᵀ x at `offset`, over its own rows.
//
//   dw, db, out   f32, added to          dy   f32 [rows, outputs]          x   f32 [rows, inputs], all row-major
//   starts        u32 [B + 1]: the sequences' rows; where `first_only`, sequence b has row b alone
//
// A block of 16 × 16 threads makes a tile of BM outputs × BN inputs; a thread owns outputs 2 ty + 32 i and the next, and inputs 4 tx + 64 j … + 3; a warp is
// 4 × 8 of them, so that what it reads of a row meets no bank twice. An element goes on from what is in the gradient, as one chain of fused multiply-adds by
// ascending row: its bits are the CPU's, for any tile, and however rows are cut into batches. Rows therefore cannot be shared out among blocks, and the tile is
// picked to leave few multiprocessors without one. The blocks of the first inputs add up the bias. Bound by arithmetic: 2 · rows · outputs · inputs operations;
// of sequences' own sums, where they are short, by the bytes of `out`, which is read and written.
#include "port_blocks.cuh"
#include "products.cuh"
#include "vector.cuh"

constexpr int ROWS = 16;  // rows a step
constexpr int THREADS = 256;
constexpr int STAGES = 3;

template <int BM, int BN>
struct Stage {
    float dy[ROWS * BM];
    float x[ROWS * BN];
};

struct Operands {
    const float* dy;
    const float* x;
    int rows, inputs, outputs;
};

// Begins the copy of some rows of `width` numbers, from column `first` on; what is beyond the matrix becomes zeros.
template <int COLUMNS>
DEVICE void fetch(float* to, const float* from, int row, int rows, int first, int width) {
    constexpr int CHUNKS = COLUMNS / 4;
#pragma unroll
    for (int chunk = threadIdx.x; chunk < ROWS * CHUNKS; chunk += THREADS) {
        const int r = chunk / CHUNKS, c = chunk % CHUNKS * 4;
        const int count = row + r < rows ? width - (first + c) : 0;
        const float* const at = from + size_t(row + r) * width + first + c;
        if (width % 4 == 0) copy_async(to + r * COLUMNS + c, count > 0 ? at : from, count > 0);
        else store_vector<4>(to + r * COLUMNS + c, load_some<4>(at, count));
    }
}

template <int BM, int BN>
DEVICE void fetch(Stage<BM, BN>& stage, const Operands& of, int output, int input, int row) {
    fetch<BM>(stage.dy, of.dy, row, of.rows, output, of.outputs);
    fetch<BN>(stage.x, of.x, row, of.rows, input, of.inputs);
}

// A thread's numbers of one row.
template <int BM, int BN>
struct Row {
    float dy[BM / 16];
    Vector<4> x[BN / 64];
    DEVICE void read(const Stage<BM, BN>& stage, int r, int tx, int ty) {
#pragma unroll
        for (int i = 0; i < BM / 32; ++i) {
            const float2 two = load<float2>(stage.dy + r * BM + 32 * i + 2 * ty);
            dy[2 * i] = two.x, dy[2 * i + 1] = two.y;
        }
#pragma unroll
        for (int j = 0; j < BN / 64; ++j) x[j] = load_vector<4>(stage.x + r * BN + 64 * j + 4 * tx);
    }
    DEVICE void multiply(Vector<4> (&sums)[BM / 16][BN / 64]) const {
#pragma unroll
        for (int i = 0; i < BM / 16; ++i)
#pragma unroll
            for (int j = 0; j < BN / 64; ++j)
#pragma unroll
                for (int c = 0; c < 4; ++c) sums[i][j].x[c] = fmaf(dy[i], x[j].x[c], sums[i][j].x[c]);
    }
};

// The tile from `output` and `input` on. `db` may be null. A whole step is written out, for reads of a row to go before the products of the last.
template <int BM, int BN>
DEVICE void add_products(float* dw, float* db, const Operands& of, int output, int input) {
    typedef Stage<BM, BN> Tile;
    SHARED(Tile, stages);
    const int tx = warp_id() % 2 * 8 + lane_id() % 8, ty = warp_id() / 2 * 4 + lane_id() / 8;
    const int steps = (of.rows + ROWS - 1) / ROWS, own = output + int(threadIdx.x);
    const bool has_bias = db && input == 0 && int(threadIdx.x) < BM && own < of.outputs;
    float bias = has_bias ? db[own] : 0.0f;
    const auto output_of = [&](int i) { return output + 32 * (i / 2) + 2 * ty + i % 2; };
    const auto input_of = [&](int j) { return input + 64 * j + 4 * tx; };
    Vector<4> sums[BM / 16][BN / 64];
#pragma unroll
    for (int i = 0; i < BM / 16; ++i)
#pragma unroll
        for (int j = 0; j < BN / 64; ++j)
            sums[i][j] = load_some<4>(dw + size_t(output_of(i)) * of.inputs + input_of(j), output_of(i) < of.outputs ? of.inputs - input_of(j) : 0);

#pragma unroll 1
    for (int step = 0; step < STAGES - 1; ++step) {
        if (step < steps) fetch(stages[step], of, output, input, step * ROWS);
        copy_commit();
    }
    for (int step = 0; step < steps; ++step) {
        copy_wait<STAGES - 2>();
        sync_block();  // this step has landed for all, and all are done with the one whose place is next to be filled
        const int next = step + STAGES - 1;
        if (next < steps) fetch(stages[next % STAGES], of, output, input, next * ROWS);
        copy_commit();
        const Tile& stage = stages[step % STAGES];
        const int present = min(ROWS, of.rows - step * ROWS);
        Row<BM, BN> row;
        if (present == ROWS) {
#pragma unroll
            for (int r = 0; r < ROWS; ++r) {
                row.read(stage, r, tx, ty);
                row.multiply(sums);
            }
        } else {
#pragma unroll 1
            for (int r = 0; r < present; ++r) {
                row.read(stage, r, tx, ty);
                row.multiply(sums);
            }
        }
        if (has_bias)
            for (int r = 0; r < present; ++r) bias += stage.dy[r * BM + int(threadIdx.x)];
    }
    copy_wait<0>();

    if (has_bias) db[own] = bias;
#pragma unroll
    for (int i = 0; i < BM / 16; ++i)
#pragma unroll
        for (int j = 0; j < BN / 64; ++j)
            if (output_of(i) < of.outputs) store_some<4>(dw + size_t(output_of(i)) * of.inputs + input_of(j), sums[i][j], of.inputs - input_of(j));
}

#define WEIGHT_GRADIENT(BM, BN)                                                                                                             \
    KERNEL_BLOCKS(weight_gradient_f32_##BM##x##BN, THREADS, 1, float* dw, float* db, const float* dy, const float* x, int rows,            \
                  int inputs, int outputs) {                                                                                                \
        await_kernels();                                                                                                                    \
        add_products<BM, BN>(dw, db, Operands{dy, x, rows, inputs, outputs}, int(blockIdx.x) * BM, int(blockIdx.y) * BN);                   \
    }
#define OUTER_PRODUCTS(BM, BN)                                                                                                              \
    KERNEL_BLOCKS(outer_products_f32_##BM##x##BN, THREADS, 1, float* out, const float* dy, const float* x, const unsigned* starts,         \
                  int first_only, int inputs, int outputs, int stride, int offset) {                                                        \
        await_kernels();                                                                                                                    \
        const OwnTile<BM, BN> own(inputs, outputs);                                                                                         \
        const OwnRows rows(starts, own.sequence, first_only);                                                                               \
        const Operands of{dy + size_t(rows.begin) * outputs, x + size_t(rows.begin) * inputs, int(rows.count), inputs, outputs};            \
        add_products<BM, BN>(out + size_t(own.sequence) * stride + offset, nullptr, of, own.output, own.input);                             \
    }

WEIGHT_GRADIENT(96, 192)
WEIGHT_GRADIENT(128, 128)
WEIGHT_GRADIENT(96, 64)
WEIGHT_GRADIENT(64, 64)
OUTER_PRODUCTS(128, 128)
OUTER_PRODUCTS(64, 64)
