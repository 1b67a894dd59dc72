// Sums of outer products on tensor cores, of numbers T of 16 bits, in f32: the gradients of a linear layer's parameters, dw [outputs, inputs] += dyᵀ x and
// db [outputs] += Σ dy, over all rows; and each sequence's own, out [B, stride] += dyᵀ x at `offset`, over its own rows.
//
//   dw, db, out   f32, added to          dy   T [rows, outputs]          x   T [rows, inputs], all row-major
//   pieces        u32 [count]: first row × 32 + rows (at most 16), none across the end of a sequence
//   starts        u32 [B + 1]: the sequences' rows; where `first_only`, sequence b has row b alone
//
// A product of the tensor cores is over 16 rows, and they belong to one sequence: what there is after its last is zero. So an element is one chain
// over the pieces of the sequences in their order, that goes on from what is in the gradient: its bits are the same for any tile, and however
// sequences are cut into batches. The blocks of the first inputs add up the bias, row by row.
//
// A block makes a tile of BM outputs × BN inputs, each of its warps WM × WN of it. Steps of two pieces travel to shared memory by asynchronous
// copies, STAGES of them under way, as rows; ldmatrix turns both operands on their way to the registers. Chunks of 16 bytes are swizzled so
// that it never meets a bank twice. Bound by the tensor cores: 2 · rows · outputs · inputs operations; sequences' own sums by the bytes of `out`.
#pragma once
#include "products.cuh"
#include "vector.cuh"

constexpr int PIECE = 16;        // rows of a product
constexpr int ROWS = 2 * PIECE;  // of a step
constexpr int CHUNK = 8;         // 16-bit numbers in 16 bytes

// Where the 16-byte chunk `chunk` of a row lies: eight rows of one chunk column fall on all 32 banks.
template <int COLUMNS>
DEVICE int swizzled(int row, int chunk) { return row * COLUMNS + (chunk ^ (row & 7)) * CHUNK; }

template <class T, int BM, int BN>
struct Stage {
    T dy[ROWS * BM];
    T x[ROWS * BN];
};

// Pieces that are listed, first row × 32 + rows each.
struct Listed {
    const unsigned* pieces;
    int count;
    DEVICE unsigned operator[](int number) const { return pieces[number]; }
};

// Those of so many rows of one sequence, from the first of the operands on.
struct OwnPieces {
    int rows, count;
    DEVICE explicit OwnPieces(unsigned own) : rows(int(own)), count((int(own) + PIECE - 1) / PIECE) {}
    DEVICE unsigned operator[](int number) const {
        const int past = number * PIECE;
        return unsigned(past << 5 | min(PIECE, rows - past));
    }
};

template <class T, class Pieces>
struct Operands {
    const T* dy;
    const T* x;
    Pieces pieces;
    int inputs, outputs;
};

// Begins the copy of a chunk of a row of `width` numbers, from `column` on; columns beyond the last become zeros.
template <class T>
DEVICE void fetch(T* to, const T* from, size_t row, int column, int width, bool present) {
    const int left = present ? width - column : 0;
    const T* const at = from + row * width + column;
    if (width % CHUNK == 0) copy_async(to, left > 0 ? at : from, left > 0);  // rows begin at multiples of 16 bytes
    else store_vector<CHUNK>(to, load_some<CHUNK>(at, left));
}

// The same of a step's rows: a thread has one row of each piece, and zeros where the piece has no such row.
template <int THREADS, class T, int BM, int BN, class Pieces>
DEVICE void fetch(Stage<T, BM, BN>& stage, const Operands<T, Pieces>& of, int step, int output, int input) {
    static_assert(BM == BN && THREADS == PIECE * BM / CHUNK, "a thread for each chunk of a piece");
    const int r = threadIdx.x / (BM / CHUNK), c = threadIdx.x % (BM / CHUNK);
#pragma unroll
    for (int place = 0; place < ROWS / PIECE; ++place) {
        const int number = 2 * step + place, to = swizzled<BM>(place * PIECE + r, c);
        const unsigned piece = number < of.pieces.count ? of.pieces[number] : 0;
        const bool present = r < int(piece & 31);
        const size_t row = (piece >> 5) + r;
        fetch(stage.dy + to, of.dy, row, output + c * CHUNK, of.outputs, present);
        fetch(stage.x + to, of.x, row, input + c * CHUNK, of.inputs, present);
    }
}

// Two neighbouring numbers of a row of the gradient; `count` of them are there.
DEVICE float2 load_two(const float* from, int count, bool aligned) {
    if (aligned && count >= 2) return load<float2>(from);
    return make_float2(count > 0 ? from[0] : 0.0f, count > 1 ? from[1] : 0.0f);
}
DEVICE void store_two(float* to, float2 two, int count, bool aligned) {
    if (aligned && count >= 2) return store(to, two);
    if (count > 0) to[0] = two.x;
    if (count > 1) to[1] = two.y;
}

// The tile from `output` and `input` on. `db` may be null.
template <int BM, int BN, int WM, int WN, int STAGES, class T, class Pieces>
DEVICE void add_products(float* dw, float* db, const Operands<T, Pieces>& of, int output, int input) {
    constexpr int THREADS = BM / WM * (BN / WN) * WARP;
    typedef Stage<T, BM, BN> Tile;
    SHARED(Tile, stages);
    const int lane = lane_id(), g = lane / 4, t = lane % 4;
    const int warp_output = warp_id() % (BM / WM) * WM, warp_input = warp_id() / (BM / WM) * WN;
    const int steps = (of.pieces.count + 1) / 2;
    const bool has_bias = db && input == 0 && int(threadIdx.x) < min(BM, of.outputs - output), aligned = of.inputs % 2 == 0 && is_aligned<2>(dw);
    float bias = has_bias ? db[output + int(threadIdx.x)] : 0.0f;

    // The sums of this lane: rows g and g + 8 of each 16 outputs, columns 2 t and the next of each 8 inputs.
    const auto row = [&](int i, int half) { return output + warp_output + 16 * i + 8 * half + g; };
    const auto column = [&](int j) { return input + warp_input + 8 * j + 2 * t; };
    float sums[WM / 16][WN / 8][4];
#pragma unroll
    for (int i = 0; i < WM / 16; ++i)
#pragma unroll
        for (int j = 0; j < WN / 8; ++j)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const int count = row(i, half) < of.outputs ? of.inputs - column(j) : 0;
                const float2 two = load_two(dw + size_t(row(i, half)) * of.inputs + column(j), count, aligned);
                sums[i][j][2 * half] = two.x, sums[i][j][2 * half + 1] = two.y;
            }
#pragma unroll
    for (int step = 0; step < STAGES - 1; ++step) {
        if (step < steps) fetch<THREADS>(stages[step], of, step, output, input);
        copy_commit();
    }
    for (int step = 0; step < steps; ++step) {
        copy_wait<STAGES - 2>();
        sync_block();  // this step has landed for all, and all are done with the one whose place is next to be filled
        const int next = step + STAGES - 1;
        if (next < steps) fetch<THREADS>(stages[next % STAGES], of, next, output, input);
        copy_commit();
        const Tile& stage = stages[step % STAGES];
#pragma unroll
        for (int piece = 0; piece < ROWS; piece += PIECE) {
            uint32_t b[WN / 16][4];
            // A matrix of ldmatrix is 8 rows × 8 columns, turned: two of rows, then two of inputs, make the right operand; the left one is the other way.
#pragma unroll
            for (int j = 0; j < WN / 16; ++j)
                ldmatrix_transposed(b[j], stage.x + swizzled<BN>(piece + lane / 8 % 2 * 8 + lane % 8, (warp_input + 16 * j) / CHUNK + lane / 16));
#pragma unroll
            for (int i = 0; i < WM / 16; ++i) {
                uint32_t a[4];
                ldmatrix_transposed(a, stage.dy + swizzled<BM>(piece + lane / 16 * 8 + lane % 8, (warp_output + 16 * i) / CHUNK + lane / 8 % 2));
#pragma unroll
                for (int j = 0; j < WN / 8; ++j) mma(T(), sums[i][j], a, b[j / 2] + j % 2 * 2);
            }
        }
        if (has_bias)
#pragma unroll 8
            for (int r = 0; r < ROWS; ++r) bias += widen(stage.dy[swizzled<BM>(r, int(threadIdx.x) / CHUNK) + threadIdx.x % CHUNK]);
    }
    copy_wait<0>();

#pragma unroll
    for (int i = 0; i < WM / 16; ++i)
#pragma unroll
        for (int j = 0; j < WN / 8; ++j)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const int count = row(i, half) < of.outputs ? of.inputs - column(j) : 0;
                const float2 two = make_float2(sums[i][j][2 * half], sums[i][j][2 * half + 1]);
                store_two(dw + size_t(row(i, half)) * of.inputs + column(j), two, count, aligned);
            }
    if (has_bias) db[output + int(threadIdx.x)] = bias;
}

#define WEIGHT_GRADIENT(T, BM, BN, WM, WN, STAGES)                                                                                            \
    KERNEL(weight_gradient_##T##_##BM##x##BN, BM / WM*(BN / WN) * WARP, float* dw, float* db, const T* dy, const T* x,                        \
           const unsigned* pieces, int count, int inputs, int outputs) {                                                                     \
        await_kernels();                                                                                                                     \
        const Operands<T, Listed> of{dy, x, Listed{pieces, count}, inputs, outputs};                                                         \
        add_products<BM, BN, WM, WN, STAGES>(dw, db, of, int(blockIdx.x) * BM, int(blockIdx.y) * BN);                                        \
    }

#define OUTER_PRODUCTS(T, BM, BN, WM, WN, STAGES)                                                                                             \
    KERNEL(outer_products_##T##_##BM##x##BN, BM / WM*(BN / WN) * WARP, float* out, const T* dy, const T* x, const unsigned* starts,           \
           int first_only, int inputs, int outputs, int stride, int offset) {                                                                \
        await_kernels();                                                                                                                     \
        const OwnTile<BM, BN> own(inputs, outputs);                                                                                          \
        const OwnRows rows(starts, own.sequence, first_only);                                                                                \
        const Operands<T, OwnPieces> of{dy + size_t(rows.begin) * outputs, x + size_t(rows.begin) * inputs, OwnPieces(rows.count), inputs, outputs}; \
        add_products<BM, BN, WM, WN, STAGES>(out + size_t(own.sequence) * stride + offset, nullptr, of, own.output, own.input);              \
    }
