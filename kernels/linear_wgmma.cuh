// Linear layers on the tensor cores of compute capability 9.0a: what linear_mma.cuh computes, of the same operands and to the same results, by
// products of whole warpgroups whose operands the copy engine brings.
//
//   f16, bf16     out, slope, x, residual   T, row-major
//   bf16x3        out, slope, residual   f32          x   bf16 [2][rows, K]: what each number rounds to, and what is left of it
//   weight, bias  as linear_mma.cuh has them          rows of x are a multiple of 16 bytes
//
// A block makes tiles of BM × BN, one after another: a warpgroup of 64 × BN each, one more brings the operands. Steps of 64 inputs go round in a
// ring of STAGES places; `full` says that a step has landed, `empty` that every warp is done with it. One thread of the first warpgroup begins the
// copies, as far ahead as the ring is long, into the next tile too. Tiles are dealt out beforehand, those of the same rows of x side by side.
//
// Where results are of 16 bits, a tile's sums with their biases are rounded to those, and what is left to do with them (activations, slopes, residuals,
// the way to memory) is done beside the first steps of the next tile, a group of columns a step, while the tensor cores are at work. The second of two
// warpgroups begins each tile LEAD steps behind the first, so that one rounds its sums while the other multiplies.
//
// An element's products are summed by ascending steps of 16 inputs whatever the tile and the number of rows: its bits depend on its row alone. What
// order the sixteen are summed in is the device's, and need not be that of mma.sync: a layer is computed by one of the two, for any number of rows.
// Split operands go through all steps three times: x₂w₁, then x₁w₂, then x₁w₁.
// Bound by the tensor cores: 2 · rows · N · K operations (three times that for bf16x3).
#pragma once
#include "epilogue.cuh"
#include "port_sm90a.cuh"
#include "reduce.cuh"

constexpr int BK = SWIZZLE_BYTES / 2;  // inputs a step
constexpr int WARPGROUP_ROWS = 64;     // of a product
constexpr int X_BOX = 64;              // rows of a tile that one copy brings; the maps have boxes of so many × BK
constexpr int WEIGHT_BOX = 128;
constexpr int GROUP = 32;              // columns permuted among themselves
constexpr int LEAD = 3;
constexpr int AHEAD = 3;               // steps before its last that a tile's biases are read

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
    alignas(16) float biases[BM / 16][BN];  // of the columns that a warp finishes
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

// A product's extent, and this block's tiles of it: of `columns` neighbours in a row of tiles, from blockIdx.x every gridDim.x-th. What is left of split
// operands lies so many rows below what they round to.
struct Tiles {
    int columns, all, steps;
    int x_below, weight_below;
};

// Which rows of its operands a step multiplies, and from which input on.
struct Source {
    int x, weight, input;
};
template <int PARTS>
DEVICE Source source_of(Tiles of, int row, int column, int step) {
    if constexpr (PARTS == 1) return {row, column, step * BK};
    const int once = of.steps / 3, pass = step / once;
    return {row + (pass == 0 ? of.x_below : 0), column + (pass == 1 ? of.weight_below : 0), step % once * BK};
}

template <int PARTS, class T, int BM, int BN, int STAGES>
DEVICE void bring(Ring<T, BM, BN, STAGES>& ring, const TensorMap& x, const TensorMap& weight, Tiles of) {
    Turn<STAGES> turn;
    for (int tile = blockIdx.x; tile < of.all; tile += gridDim.x) {
        const int row = tile / of.columns * BM, column = tile % of.columns * BN;
        for (int step = 0; step < of.steps; ++step, turn.next()) {
            Stage<T, BM, BN>& stage = ring.stages[turn.stage];
            Barrier& full = ring.full[turn.stage];
            const Source from = source_of<PARTS>(of, row, column, step);
            barrier_wait(ring.empty[turn.stage], turn.parity ^ 1);
            barrier_expect(full, sizeof stage);
#pragma unroll
            for (int r = 0; r < BM; r += X_BOX) copy_tile(stage.x + r * BK, x, full, from.x + r, from.input);
#pragma unroll
            for (int r = 0; r < BN; r += WEIGHT_BOX) copy_tile(stage.weight + r * BK, weight, full, from.weight + r, from.input);
        }
    }
}

// What will be read beside a tile's sums is brought nearer while the first half of its steps is multiplied, some of its rows with each: by a thread of
// its own, which keeps up with those that multiply as one of them.
template <class T, int BM, int BN, int STAGES, class Finish>
DEVICE void bring_beside(Ring<T, BM, BN, STAGES>& ring, Tiles of, const Finish& epilogue) {
    const auto* const others = Finish::HELD && epilogue.way() != ANY_WAY ? epilogue.beside() : nullptr;
    const int half = (of.steps + 1) / 2;
    Turn<STAGES> turn;
    for (int tile = blockIdx.x; tile < of.all; tile += gridDim.x) {
        const int row = tile / of.columns * BM, column = tile % of.columns * BN;
        for (int step = 0; step < of.steps; ++step, turn.next()) {
            barrier_wait(ring.full[turn.stage], turn.parity);
            barrier_arrive(ring.empty[turn.stage]);
            if (others && step < half)
                for (int r = row + step; r < min(row + BM, epilogue.extent.rows); r += half)
                    prefetch(others + epilogue.extent.at(r, column), int(sizeof *others) * min(BN, epilogue.extent.columns - column));
        }
    }
}

// A lane's places in its warp's 16 rows of a tile: of each 16 × 32 rows g and g + 8, eight neighbouring columns from 8 t.
struct Place {
    int row, column;

    DEVICE Place(int warp_row, int tile_column) : row(warp_row + lane_id() / 4), column(tile_column + lane_id() % 4 * 8) {}
    DEVICE bool is_in(Extent extent, int group, int half) const { return extent.has(row + 8 * half, column + GROUP * group); }
    DEVICE size_t at(Extent extent, int group, int half) const { return extent.at(row + 8 * half, column + GROUP * group); }
};

// A lane's sums of 16 × 32, rows g or g + 8, in order of columns.
template <int N>
DEVICE Vector<8> eight_of(const float (&sums)[N], int group, int half) {
    Vector<8> eight;
#pragma unroll
    for (int i = 0; i < 8; ++i) eight.x[i] = sums[16 * group + 4 * (i / 2) + 2 * half + i % 2];
    return eight;
}

// Columns that a warp's lanes read the biases of together, four each.
constexpr int BIASES = 4 * WARP;

// Puts a tile's biases together, each warp for itself: read while its last products are made, they are there when those are.
template <int BN, class Finish>
DEVICE void put_biases(float (&biases)[BN], int tile_column, const Finish& epilogue) {
    sync_warp();  // those of the tile before have been read
#pragma unroll
    for (int part = 0; part < BN; part += BIASES) {
        const int column = tile_column + part + 4 * lane_id();
        if (column < epilogue.extent.columns) store(biases + part + 4 * lane_id(), load<float4>(epilogue.bias + column));
    }
    sync_warp();
}

// A lane's sums of a group, with their biases, of those that `biases` has of its warp's columns.
template <class Finish, int N>
DEVICE Vector<8> biased(const float (&sums)[N], const float* biases, int group, int half) {
    const Vector<8> eight = eight_of(sums, group, half);
    if constexpr (Finish::BIASED) return eight + load_vector<8>(biases + GROUP * group + lane_id() % 4 * 8);
    else return eight;
}

// A tile whose products are made: its sums, in the 16 bits of the results, wait in registers to be finished a group at a time.
template <class Finish, int BN>
struct Held {
    static constexpr int GROUPS = BN / GROUP;
    const Finish& epilogue;
    Place place;
    Eight sums[GROUPS][2] = {};
    Eight beside[2] = {};  // what is read of another matrix for the group that is next

    // Of no tile.
    DEVICE explicit Held(const Finish& epilogue) : epilogue(epilogue), place(epilogue.extent.rows, 0) {}

    template <int N>
    DEVICE void take(Place of, const float (&made)[N], const float* biases) {
        place = of;
        read_beside(0);
#pragma unroll
        for (int group = 0; group < GROUPS; ++group)
#pragma unroll
            for (int half = 0; half < 2; ++half) sums[group][half] = narrowed<typename Finish::Stored>(biased<Finish>(made, biases, group, half));
    }

    template <int WAY>
    DEVICE void finish(int group) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            held_until_now(sums[group][half]);
            epilogue.template finish_by<WAY>(place.at(epilogue.extent, group, half), place.is_in(epilogue.extent, group, half),
                                             widened<typename Finish::Stored>(sums[group][half]), beside[half]);
        }
        if (group + 1 < GROUPS) read_beside(group + 1);
    }

    DEVICE void read_beside(int group) {
        const auto* const others = epilogue.beside();
        if (!others) return;
#pragma unroll
        for (int half = 0; half < 2; ++half)
            if (place.is_in(epilogue.extent, group, half)) beside[half] = load<Eight>(others + place.at(epilogue.extent, group, half));
    }
};

// Of each group and half of a lane's sums, bit 2 group + half: whether there is anything to finish.
template <int N, class Finish>
DEVICE unsigned to_finish(const float (&sums)[N], Place place, const Finish& epilogue) {
    static_assert(N / 16 * 2 <= 32, "a bit each");
    unsigned marks = 0;
    if constexpr (Finish::SCREENED) {
        const float4 rows[2] = {epilogue.of_row(place.row), epilogue.of_row(place.row + 8)};
#pragma unroll
        for (int group = 0; group < N / 16; ++group)
#pragma unroll
            for (int half = 0; half < 2; ++half)
                if (epilogue.any_passes(eight_of(sums, group, half), rows[half], place.column + GROUP * group)) marks |= 1u << (2 * group + half);
    }
    return Finish::SCREENED ? marks : ~0u;
}

// Sums in registers are not counted by a loop: it picks one group after another.
template <int N, class Finish>
DEVICE void finish_any(const float (&sums)[N], int warp_row, int tile_column, const Finish& epilogue) {
    const Place place(warp_row, tile_column);
    constexpr int GROUPS = N / 16;
    const unsigned own = to_finish(sums, place, epilogue), any = Finish::SCREENED ? warp_or(own) : own;
    if (!any) return;
#pragma unroll 1
    for (int group = 0; group < GROUPS; ++group) {
        if (!(any >> 2 * group & 3)) continue;
        float some[16];
#pragma unroll
        for (int i = 0; i < 16; ++i) {
            some[i] = sums[i];
#pragma unroll
            for (int other = 1; other < GROUPS; ++other) some[i] = group == other ? sums[16 * other + i] : some[i];
        }
#pragma unroll
        for (int half = 0; half < 2; ++half)
            if (own >> (2 * group + half) & 1) epilogue.template finish<8>(place.row + 8 * half, place.column + GROUP * group, eight_of(some, 0, half));
    }
}

// All groups, written out one after another, of sums that are not held.
template <int WAY, int N, class Finish>
DEVICE void finish_by(const float (&sums)[N], const float* biases, Place place, const Finish& epilogue) {
#pragma unroll
    for (int group = 0; group < N / 16; ++group)
#pragma unroll
        for (int half = 0; half < 2; ++half)
            epilogue.template finish_by<WAY>(place.at(epilogue.extent, group, half), place.is_in(epilogue.extent, group, half),
                                             biased<Finish>(sums, biases, group, half), Eight{});
}

// The products of a warpgroup's 64 rows of every tile.
template <int WAY, class T, int BM, int BN, int STAGES, class Finish>
DEVICE void multiply(Ring<T, BM, BN, STAGES>& ring, int warpgroup, Tiles of, const Finish& epilogue) {
    constexpr bool ANY = WAY == Finish::WAYS, HELD = Finish::HELD && !ANY, BIASED = Finish::BIASED && !ANY;
    constexpr int GROUPS = BN / GROUP;
    // A ring that goes round within a tile keeps the warpgroups less than a tile apart, so that a phase's parity tells which it is.
    const bool led = BM > WARPGROUP_ROWS && of.steps >= STAGES;
    // A tile is finished beside the next one's first steps, a group a step.
    const bool beside_next = HELD && of.steps >= GROUPS;
    const int warp_row = warpgroup * WARPGROUP_ROWS + warp_id() % 4 * 16;
    const int look_ahead = max(0, of.steps - AHEAD);
    float(&biases)[BN] = ring.biases[warp_row / 16];
    Turn<STAGES> turn;
    uint32_t parity = 0;
    float sums[BN / 2];
    Held<Finish, BN> held(epilogue);
    for (int tile = blockIdx.x; tile < of.all; tile += gridDim.x, parity ^= 1) {
        if (led && warpgroup == 1) barrier_wait(ring.ahead, parity);
        const int row = tile / of.columns * BM + warp_row, column = tile % of.columns * BN;
        int step = 0, before = 0;
        const auto multiply_step = [&](const auto& meanwhile) {
            const Stage<T, BM, BN>& stage = ring.stages[turn.stage];
            barrier_wait(ring.full[turn.stage], turn.parity);
            products_begin(sums);
#pragma unroll
            for (int k = 0; k < BK; k += 16)
                wgmma(T(), sums, operand(stage.x + warpgroup * WARPGROUP_ROWS * BK + k), operand(stage.weight + k), step > 0 || k > 0);
            products_commit();
            if constexpr (BIASED)
                if (step == look_ahead) put_biases(biases, column, epilogue);
            meanwhile();
            products_wait<1>(sums);  // those of the step before: its place may be filled
            if (step > 0 && lane_id() == 0) barrier_arrive(ring.empty[before]);
            if (led && warpgroup == 0 && step == LEAD - 1 && threadIdx.x % WARPGROUP == 0) barrier_arrive(ring.ahead);
            before = turn.stage;
            turn.next(), ++step;
        };
        if constexpr (HELD) {
            if (beside_next) {
#pragma unroll
                for (int group = 0; group < GROUPS; ++group) multiply_step([&] { held.template finish<WAY>(group); });
            }
        }
        while (step < of.steps) multiply_step([] {});
        products_wait<0>(sums);
        if (lane_id() == 0) barrier_arrive(ring.empty[before]);
        if constexpr (ANY) {
            finish_any(sums, row, column, epilogue);
        } else if constexpr (!HELD) {
            finish_by<WAY>(sums, biases, Place(row, column), epilogue);
        } else {
            held.take(Place(row, column), sums, biases);
            if (beside_next && tile + int(gridDim.x) < of.all) continue;
#pragma unroll
            for (int group = 0; group < GROUPS; ++group) held.template finish<WAY>(group);
        }
    }
}

template <int WAY = 0, class T, int BM, int BN, int STAGES, class Finish>
DEVICE void multiply_by(int way, Ring<T, BM, BN, STAGES>& ring, int warpgroup, Tiles of, const Finish& epilogue) {
    if constexpr (WAY == Finish::WAYS)
        multiply<WAY>(ring, warpgroup, of, epilogue);
    else if (way == WAY)
        multiply<WAY>(ring, warpgroup, of, epilogue);
    else
        multiply_by<WAY + 1>(way, ring, warpgroup, of, epilogue);
}

// What a block can do while the kernel before this one is at work.
template <class T, int BM, int BN, int STAGES>
DEVICE void prepare(const TensorMap& x, const TensorMap& weight) {
    typedef Ring<T, BM, BN, STAGES> Shared;
    SHARED_SM90A(Shared, ring);
    if (threadIdx.x > 0) return;
    prefetch_map(x), prefetch_map(weight);
    for (int stage = 0; stage < STAGES; ++stage) {
        barrier_begin(ring->full[stage], 1);
        barrier_begin(ring->empty[stage], BM / WARPGROUP_ROWS * (WARPGROUP / WARP) + 1);  // all that multiply, and who brings what is beside
    }
    barrier_begin(ring->ahead, 1);
    barriers_begin();
}

template <class T, int BM, int BN, int STAGES, int PARTS = 1, class Finish>
DEVICE void linear(const TensorMap& x, const TensorMap& weight, int rows, int inputs, int outputs, const Finish& epilogue) {
    typedef Ring<T, BM, BN, STAGES> Shared;
    SHARED_SM90A(Shared, ring);
    constexpr int WARPGROUPS = BM / WARPGROUP_ROWS;
    // Registers of a thread: a block of three warpgroups begins with 168, one of two (two side by side) with 128; the first needs little.
    constexpr int BRINGING = WARPGROUPS == 2 ? 24 : 40, MULTIPLYING = WARPGROUPS == 2 ? 240 : 216;
    static_assert(BRINGING + WARPGROUPS * MULTIPLYING <= (WARPGROUPS == 2 ? 3 * 168 : 2 * 128), "as many as there are");
    const int columns = (outputs + BN - 1) / BN;
    const Tiles of{columns, (rows + BM - 1) / BM * columns, (PARTS == 1 ? 1 : 3) * ((inputs + BK - 1) / BK), rows, (outputs + GROUP - 1) / GROUP * GROUP};
    sync_block();
    if (threadIdx.x < WARPGROUP) {
        registers_give<BRINGING>();
        if (threadIdx.x == 0) bring<PARTS>(*ring, x, weight, of);
        if (threadIdx.x == WARP) bring_beside(*ring, of, epilogue);
    } else {
        registers_take<MULTIPLYING>();
        multiply_by(epilogue.way(), *ring, int(threadIdx.x) / WARPGROUP - 1, of, epilogue);
    }
}

#define LINEAR(NAME, T, STORED, MATH, PARTS, BM, BN, STAGES, BLOCKS)                                                                                 \
    KERNEL_SM90A(linear_##NAME##_wgmma_##BM##x##BN, (BM / WARPGROUP_ROWS + 1) * WARPGROUP, BLOCKS, STORED* out, STORED* slope, TENSOR_MAP(x),        \
                 TENSOR_MAP(weight), const float* bias, const STORED* residual, int activation, int rows, int inputs, int outputs) {                 \
        prepare<T, BM, BN, STAGES>(x, weight);                                                                                                       \
        await_kernels();                                                                                                                             \
        linear<T, BM, BN, STAGES, PARTS>(x, weight, rows, inputs, outputs,                                                                           \
                                         Forward<STORED, MATH>{out, slope, bias, residual, activation, {rows, outputs}});                            \
    }                                                                                                                                                \
    KERNEL_SM90A(linear_backward_##NAME##_wgmma_##BM##x##BN, (BM / WARPGROUP_ROWS + 1) * WARPGROUP, BLOCKS, STORED* out, TENSOR_MAP(x),              \
                 TENSOR_MAP(weight), const STORED* slope, const STORED* residual, int rows, int inputs, int outputs) {                               \
        prepare<T, BM, BN, STAGES>(x, weight);                                                                                                       \
        await_kernels();                                                                                                                             \
        linear<T, BM, BN, STAGES, PARTS>(x, weight, rows, inputs, outputs, Backward<STORED>{out, slope, residual, {rows, outputs}});                 \
    }
