// Linear layers on the tensor cores of compute capability 9.0a: what linear_mma.cuh computes, of the same operands and to the same results, by
// products of whole warpgroups whose operands the copy engine brings.
//
//   out, slope, x, residual   T, row-major, rows of x a multiple of 16 bytes          weight, bias   as linear_mma.cuh has them
//
// A block makes tiles of BM × BN, one after another: a warpgroup of 64 × BN each, one more brings the operands. Steps of 64 inputs go round in a
// ring of STAGES places; `full` says that a step has landed, `empty` that every warp is done with it. One thread of the first warpgroup begins the
// copies, as far ahead as the ring is long, into the next tile too. Tiles are dealt out beforehand, those of the same rows of x side by side.
//
// The second of two warpgroups begins each tile LEAD steps behind the first, so that one finishes its sums while the other multiplies.
//
// An element's products are summed by ascending steps of 16 inputs whatever the tile and the number of rows: its bits depend on its row alone. What
// order the sixteen are summed in is the device's, and need not be that of mma.sync: a layer is computed by one of the two, for any number of rows.
// Bound by the tensor cores: 2 · rows · N · K operations.
#pragma once
#include "epilogue.cuh"
#include "port_sm90a.cuh"

constexpr int BK = SWIZZLE_BYTES / 2;  // inputs a step
constexpr int WARPGROUP_ROWS = 64;     // of a product
constexpr int X_BOX = 64;              // rows of a tile that one copy brings; the maps have boxes of so many × BK
constexpr int WEIGHT_BOX = 128;
constexpr int GROUP = 32;              // columns permuted among themselves
constexpr int LEAD = 3;

template <class T, int BM, int BN>
struct Stage {
    T x[BM * BK];
    T weight[BN * BK];
};

template <class T, int BM, int BN, int STAGES>
struct Ring {
    Stage<T, BM, BN> stages[STAGES];
    Barrier full[STAGES], empty[STAGES];
    Barrier ahead;  // the first warpgroup is LEAD steps into the tile
};

// Where one goes round the ring.
template <int STAGES>
struct Turn {
    int stage = 0;
    uint32_t parity = 0;
    DEVICE void next() {
        if (++stage == STAGES) stage = 0, parity ^= 1;
    }
};

// A product's extent, and this block's tiles of it: of `columns` neighbours in a row of tiles, from blockIdx.x every gridDim.x-th.
struct Tiles {
    int columns, all, steps;
};

template <class T, int BM, int BN, int STAGES>
DEVICE void bring(Ring<T, BM, BN, STAGES>& ring, const TensorMap& x, const TensorMap& weight, Tiles of) {
    Turn<STAGES> turn;
    for (int tile = blockIdx.x; tile < of.all; tile += gridDim.x) {
        const int row = tile / of.columns * BM, column = tile % of.columns * BN;
        for (int step = 0; step < of.steps; ++step, turn.next()) {
            Stage<T, BM, BN>& stage = ring.stages[turn.stage];
            Barrier& full = ring.full[turn.stage];
            barrier_wait(ring.empty[turn.stage], turn.parity ^ 1);
            barrier_expect(full, sizeof stage);
#pragma unroll
            for (int r = 0; r < BM; r += X_BOX) copy_tile(stage.x + r * BK, x, full, row + r, step * BK);
#pragma unroll
            for (int r = 0; r < BN; r += WEIGHT_BOX) copy_tile(stage.weight + r * BK, weight, full, column + r, step * BK);
        }
    }
}

// What a lane is left with of each 16 × 32: rows g and g + 8, eight neighbouring columns from 8 t.
template <class Finish>
DEVICE void finish_group(const float (&sums)[16], int row, int column, const Finish& epilogue) {
    const int g = lane_id() / 4, t = lane_id() % 4;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        Vector<8> eight;
#pragma unroll
        for (int j = 0; j < 4; ++j)
#pragma unroll
            for (int e = 0; e < 2; ++e) eight.x[2 * j + e] = sums[4 * j + 2 * half + e];
        epilogue.template finish<8>(row + g + 8 * half, column + 8 * t, eight);
    }
}

// Sums in registers are not counted by a loop: where little is done with them all groups are written out, else a loop picks one after another.
template <int N, class Finish>
DEVICE void finish(const float (&sums)[N], int row, int column, const Finish& epilogue) {
    constexpr int GROUPS = N / 16;
    float some[16];
    if (!epilogue.activates()) {
#pragma unroll
        for (int group = 0; group < GROUPS; ++group) {
#pragma unroll
            for (int i = 0; i < 16; ++i) some[i] = sums[16 * group + i];
            finish_group(some, row, column + GROUP * group, epilogue.without_activation());
        }
        return;
    }
#pragma unroll 1
    for (int group = 0; group < GROUPS; ++group) {
#pragma unroll
        for (int i = 0; i < 16; ++i) {
            some[i] = sums[i];
#pragma unroll
            for (int other = 1; other < GROUPS; ++other) some[i] = group == other ? sums[16 * other + i] : some[i];
        }
        finish_group(some, row, column + GROUP * group, epilogue);
    }
}

template <class T, int BM, int BN, int STAGES, class Finish>
DEVICE void multiply(Ring<T, BM, BN, STAGES>& ring, int warpgroup, Tiles of, const Finish& epilogue) {
    // A ring that goes round within a tile keeps the warpgroups less than a tile apart, so that a phase's parity tells which it is.
    const bool led = BM > WARPGROUP_ROWS && of.steps >= STAGES;
    Turn<STAGES> turn;
    uint32_t parity = 0;
    float sums[BN / 2];
    for (int tile = blockIdx.x; tile < of.all; tile += gridDim.x, parity ^= 1) {
        if (led && warpgroup == 1) barrier_wait(ring.ahead, parity);
        int before = 0;
        for (int step = 0; step < of.steps; ++step, turn.next()) {
            const Stage<T, BM, BN>& stage = ring.stages[turn.stage];
            barrier_wait(ring.full[turn.stage], turn.parity);
            products_begin(sums);
#pragma unroll
            for (int k = 0; k < BK; k += 16)
                wgmma(T(), sums, operand(stage.x + warpgroup * WARPGROUP_ROWS * BK + k), operand(stage.weight + k), step > 0 || k > 0);
            products_commit();
            products_wait<1>(sums);  // those of the step before: its place may be filled
            if (step > 0 && lane_id() == 0) barrier_arrive(ring.empty[before]);
            if (led && warpgroup == 0 && step == LEAD - 1 && threadIdx.x % WARPGROUP == 0) barrier_arrive(ring.ahead);
            before = turn.stage;
        }
        products_wait<0>(sums);
        if (lane_id() == 0) barrier_arrive(ring.empty[before]);
        const int row = tile / of.columns * BM + warpgroup * WARPGROUP_ROWS + warp_id() % 4 * 16;
        finish(sums, row, tile % of.columns * BN, epilogue);
    }
}

template <class T, int BM, int BN, int STAGES, class Finish>
DEVICE void linear(const TensorMap& x, const TensorMap& weight, int rows, int inputs, int outputs, const Finish& epilogue) {
    typedef Ring<T, BM, BN, STAGES> Shared;
    SHARED_SM90A(Shared, ring);
    constexpr int WARPGROUPS = BM / WARPGROUP_ROWS;
    // Registers of a thread: a block of three warpgroups begins with 168, of which the first needs little.
    constexpr int BRINGING = 40, MULTIPLYING = 232;
    static_assert(BRINGING + 2 * MULTIPLYING <= 3 * 168, "as many as there are");
    const Tiles of{(outputs + BN - 1) / BN, (rows + BM - 1) / BM * ((outputs + BN - 1) / BN), (inputs + BK - 1) / BK};
    if (threadIdx.x == 0) {
        for (int stage = 0; stage < STAGES; ++stage) {
            barrier_begin(ring->full[stage], 1);
            barrier_begin(ring->empty[stage], WARPGROUPS * (WARPGROUP / WARP));
        }
        barrier_begin(ring->ahead, 1);
        barriers_begin();
    }
    sync_block();
    if (threadIdx.x < WARPGROUP) {
        if constexpr (WARPGROUPS == 2) registers_give<BRINGING>();
        if (threadIdx.x == 0) bring(*ring, x, weight, of);
    } else {
        if constexpr (WARPGROUPS == 2) registers_take<MULTIPLYING>();
        multiply(*ring, int(threadIdx.x) / WARPGROUP - 1, of, epilogue);
    }
}

#define LINEAR(T, BM, BN, STAGES, BLOCKS)                                                                                                            \
    KERNEL_SM90A(linear_##T##_wgmma_##BM##x##BN, (BM / WARPGROUP_ROWS + 1) * WARPGROUP, BLOCKS, T* out, T* slope, TENSOR_MAP(x), TENSOR_MAP(weight),  \
                 const float* bias, const T* residual, int activation, int rows, int inputs, int outputs) {                                          \
        linear<T, BM, BN, STAGES>(x, weight, rows, inputs, outputs, Forward<T, Fast>{out, slope, bias, residual, activation, {rows, outputs}});      \
    }                                                                                                                                                \
    KERNEL_SM90A(linear_backward_##T##_wgmma_##BM##x##BN, (BM / WARPGROUP_ROWS + 1) * WARPGROUP, BLOCKS, T* out, TENSOR_MAP(x), TENSOR_MAP(weight),   \
                 const T* slope, const T* residual, int rows, int inputs, int outputs) {                                                             \
        linear<T, BM, BN, STAGES>(x, weight, rows, inputs, outputs, Backward<T>{out, slope, residual, {rows, outputs}});                             \
    }
