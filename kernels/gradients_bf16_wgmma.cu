// The gradients of a linear layer's parameters on the tensor cores of compute capability 9.0a: what gradients_mma.cuh computes of bf16, by products of whole
// warpgroups.
//
//   dw, db   f32, added to          dy   bf16 [rows, outputs]          x   bf16 [rows, inputs], both widths multiples of 8
//   pieces   u32 [count]: first row × 32 + rows (at most 16), none across the end of a sequence
//
// A product is over the 16 rows of a piece, and what there is after its last is zero: an element is one chain over the pieces in their order, that goes on
// from what is in the gradient. The bias adds up a piece's rows by themselves, and pieces in their order. Bits are the same for any tile, and however sequences
// are cut into batches; what order the sixteen are summed in is the device's, and need not be that of mma.sync.
//
// A block makes a tile of BM outputs × BN inputs, a warpgroup 64 × BN of it. Steps of four pieces travel to shared memory as rows, in panels of 64 columns, by
// asynchronous copies that leave out what is not there; the products turn both operands. STAGES steps are on the ring: one being multiplied, the one before,
// whose place is free when all have waited for it, and the others under way. Bound by the tensor cores: 2 · rows · outputs · inputs operations.
#include "port_sm90a.cuh"

constexpr int PIECE = 16;        // rows of a product
constexpr int ROWS = 4 * PIECE;  // of a step
constexpr int CHUNK = 8;         // numbers in 16 bytes
constexpr int PANEL = SWIZZLE_BYTES / 2;
constexpr int WARPGROUP_OUTPUTS = 64;

template <int BM, int BN>
struct Stage {
    bf16 dy[BM / PANEL][ROWS * PANEL];
    bf16 x[BN / PANEL][ROWS * PANEL];
};

struct Operands {
    const bf16* dy;
    const bf16* x;
    const unsigned* pieces;
    int count, inputs, outputs;
};

// Where a number of a panel lies.
DEVICE int swizzled(int row, int column) { return row * PANEL + (column / CHUNK ^ row % 8) * CHUNK + column % CHUNK; }

// Rows of a step that a thread copies a chunk of in each panel: one of each of so many pieces, or every so manieth of them.
template <int THREADS>
struct Own {
    static constexpr int APART = THREADS / (PANEL / CHUNK), PASSES = ROWS / APART;
    unsigned pieces[PASSES];  // those of the step to be fetched next, 0 beyond the last
    DEVICE void look_up(const Operands& of, int step) {
#pragma unroll
        for (int pass = 0; pass < PASSES; ++pass) {
            const int number = step * (ROWS / PIECE) + (pass * APART + int(threadIdx.x) / (PANEL / CHUNK)) / PIECE;
            pieces[pass] = number < of.count ? of.pieces[number] : 0;
        }
    }
};

// Begins the copies of a step, and looks up the pieces of the one after it.
template <int BM, int BN, int THREADS>
DEVICE void fetch(Stage<BM, BN>& stage, Own<THREADS>& own, const Operands& of, int output, int input, int step) {
    const int chunk = int(threadIdx.x) % (PANEL / CHUNK) * CHUNK;
#pragma unroll
    for (int pass = 0; pass < Own<THREADS>::PASSES; ++pass) {
        const int place = pass * Own<THREADS>::APART + int(threadIdx.x) / (PANEL / CHUNK), r = place % PIECE, to = swizzled(place, chunk);
        const size_t row = (own.pieces[pass] >> 5) + r;
        const bool present = r < int(own.pieces[pass] & 31);
        const bf16* const dy = of.dy + row * of.outputs + output + chunk;
        const bf16* const x = of.x + row * of.inputs + input + chunk;
#pragma unroll
        for (int panel = 0; panel < BM / PANEL; ++panel) {
            const bool valid = present && output + chunk + panel * PANEL < of.outputs;
            copy_async(stage.dy[panel] + to, valid ? dy + panel * PANEL : of.dy, valid);
        }
#pragma unroll
        for (int panel = 0; panel < BN / PANEL; ++panel) {
            const bool valid = present && input + chunk + panel * PANEL < of.inputs;
            copy_async(stage.x[panel] + to, valid ? x + panel * PANEL : of.x, valid);
        }
    }
    own.look_up(of, step + 1);
}

// Sixteen rows of a column: four chains, and their sum.
DEVICE float sum_of_piece(const bf16* panel, int first, int column) {
    float sums[4] = {};
#pragma unroll
    for (int r = 0; r < PIECE; ++r) sums[r % 4] += widen(panel[swizzled(first + r, column)]);
    return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

template <int BM, int BN, int STAGES>
DEVICE void weight_gradient(float* dw, float* db, const Operands& of) {
    constexpr int THREADS = BM / WARPGROUP_OUTPUTS * WARPGROUP;
    typedef Stage<BM, BN> Tile;
    SHARED_SM90A(Tile, stages);
    const int output = int(blockIdx.x) * BM, input = int(blockIdx.y) * BN, warpgroup = int(threadIdx.x) / WARPGROUP;
    const int steps = (of.count * PIECE + ROWS - 1) / ROWS;
    Own<THREADS> own;
    own.look_up(of, 0);
#pragma unroll
    for (int step = 0; step < STAGES - 2; ++step) {
        fetch(stages[step], own, of, output, input, step);
        copy_commit();
    }

    // The sums of this lane: rows g and g + 8 of its warp's 16 outputs, columns 2 t and the next of each 8 inputs.
    const int row = output + warp_id() * 16 + lane_id() / 4, column = input + lane_id() % 4 * 2;
    float sums[BN / 2];
#pragma unroll
    for (int i = 0; i < BN / 4; ++i) {
        const int o = row + i % 2 * 8, c = column + i / 2 * 8;
        const float2 two = o < of.outputs && c < of.inputs ? load<float2>(dw + size_t(o) * of.inputs + c) : make_float2(0.0f, 0.0f);
        sums[2 * i] = two.x, sums[2 * i + 1] = two.y;
    }
    // Two lanes of a warp, half of it apart, share a column of the bias: each adds up two pieces of a step.
    const int mine = int(threadIdx.x) / WARP * 16 + lane_id() % 16, upper = lane_id() / 16;
    const bool has_bias = input == 0;  // for whole blocks
    float bias = has_bias && output + mine < of.outputs ? db[output + mine] : 0.0f;

    for (int step = 0; step < steps; ++step) {
        copy_wait<STAGES - 3>();
        fence_async();
        sync_block();  // this step has landed for all, and all have waited for the products of the last but one, whose place is filled next
        const Tile& stage = stages[step % STAGES];
        products_begin(sums);
#pragma unroll
        for (int piece = 0; piece < ROWS; piece += PIECE)
            wgmma_turned(bf16(), sums, operand_turned(stage.dy[warpgroup] + piece * PANEL, sizeof stage.dy[0]), operand_turned(stage.x[0] + piece * PANEL, sizeof stage.x[0]), true);
        products_commit();
        const int next = step + STAGES - 2;
        fetch(stages[next % STAGES], own, of, output, input, next);
        copy_commit();
        if (has_bias) {
            const float first = sum_of_piece(stage.dy[mine / PANEL], 2 * upper * PIECE, mine % PANEL);
            const float second = sum_of_piece(stage.dy[mine / PANEL], (2 * upper + 1) * PIECE, mine % PANEL);
            const float third = shuffle_xor(first, 16), fourth = shuffle_xor(second, 16);
            bias = (((bias + first) + second) + third) + fourth;  // of the lower half, which is what is kept
        }
        products_wait<1>(sums);
    }
    products_wait<0>(sums);
    copy_wait<0>();

#pragma unroll
    for (int i = 0; i < BN / 4; ++i) {
        const int o = row + i % 2 * 8, c = column + i / 2 * 8;
        if (o < of.outputs && c < of.inputs) store(dw + size_t(o) * of.inputs + c, make_float2(sums[2 * i], sums[2 * i + 1]));
    }
    if (has_bias && upper == 0 && output + mine < of.outputs) db[output + mine] = bias;
}

#define WEIGHT_GRADIENT(BM, BN, STAGES)                                                                                                         \
    KERNEL_SM90A(weight_gradient_bf16_wgmma_##BM##x##BN, BM / WARPGROUP_OUTPUTS * WARPGROUP, 1, float* dw, float* db, const bf16* dy,            \
                 const bf16* x, const unsigned* pieces, int count, int inputs, int outputs) {                                                   \
        await_kernels();                                                                                                                        \
        weight_gradient<BM, BN, STAGES>(dw, db, Operands{dy, x, pieces, count, inputs, outputs});                                                \
    }

WEIGHT_GRADIENT(128, 256, 4)
WEIGHT_GRADIENT(128, 128, 6)
WEIGHT_GRADIENT(64, 128, 8)
