// What the kernels of attention in exact f32 share: rows of heads in shared memory, and the products of a block's own 64 with a tile of others.
//
// A warp has OWN · Lanes::ROWS rows of the block's own. Lane (r, c) has rows r, r + Lanes::ROWS … of them, and of a product's columns either others
// c, c + Lanes::COLUMNS … or four neighbours from 4 c, 4 (c + Lanes::COLUMNS) … on: eight by eight sums for sixteen loads of four numbers every four
// steps. Neighbouring lanes differ in r, so that a load of 16 bytes, which takes a half of the warp at a time, finds each address in pairs and all
// of them on different banks. Head widths are padded to WIDTH with zeros. Every sum is one chain of multiply-adds by ascending column or row.
#pragma once
#include "dropout.cuh"
#include "vector.cuh"

constexpr int TILE = 64;  // rows of a block's own
constexpr int OWN = 8;    // of them, a lane's

template <int WIDTH>
struct Lanes {
    static constexpr int ROWS = WIDTH > 64 ? 2 : 4, COLUMNS = WARP / ROWS;
    static constexpr int THREADS = TILE / (OWN * ROWS) * WARP;
    static constexpr int FOURS = WIDTH / (4 * COLUMNS);  // of a lane in a row

    static DEVICE int row() { return (lane_id() & 1) | (ROWS == 4 ? lane_id() >> 3 & 2 : 0); }
    static DEVICE int column() { return lane_id() >> 1 & (COLUMNS - 1); }
    static DEVICE int lane(int row, int column) { return (row & 1) | column << 1 | (row & 2) << 3; }
    // The block's own row that lane (r, …) of this warp has as its i-th.
    static DEVICE int own(int i) { return warp_id() * OWN * ROWS + row() + ROWS * i; }

    // Whether one of the block's first `present` rows is this warp's. Asked of one lane, so that the compiler knows that all go the same way.
    static DEVICE bool busy(int present) { return int(shuffle(warp_id(), 0)) * OWN * ROWS < present; }

    // Over the lanes of a row.
    static DEVICE float largest(float x) {
#pragma unroll
        for (int mask = 2; mask <= COLUMNS; mask *= 2) x = fmaxf(x, shuffle_xor(x, mask));
        return x;
    }
    static DEVICE float sum(float x) {
#pragma unroll
        for (int mask = 2; mask <= COLUMNS; mask *= 2) x += shuffle_xor(x, mask);
        return x;
    }
};

struct View {
    const float* data;
    int stride;
};

// Where four columns of a row lie: eight rows of the same columns fall on all 32 banks.
template <int WIDTH>
DEVICE int swizzled(int row, int four) { return row * WIDTH + (four ^ (row & 7)) * 4; }

// Begins the copy of `COUNT` rows of a head; rows from `present` on and columns from `width` on become zeros.
template <int WIDTH, int COUNT>
DEVICE void fetch(float* to, View view, int first, int present, int head, int width) {
    constexpr int FOURS = WIDTH / 4, STEP = Lanes<WIDTH>::THREADS / FOURS;
    const int four = threadIdx.x % FOURS, own = threadIdx.x / FOURS, there = width - 4 * four;
    const float* from = view.data + head * width + (size_t(first + own) * view.stride + 4 * four);
    if (there >= 4 && view.stride % 4 == 0 && is_aligned<4>(from)) {
#pragma unroll
        for (int r = 0; r < COUNT; r += STEP, from += STEP * view.stride)
            copy_async(to + swizzled<WIDTH>(own + r, four), from, own + r < present);
    } else {
        for (int r = own; r < COUNT; r += STEP, from += STEP * view.stride)
            store_vector<4>(to + swizzled<WIDTH>(r, four), load_some<4>(from, r < present ? there : 0));
    }
}

// sums [own, others] = own · othersᵀ, by `STEPS` times four columns a turn: as many as registers allow.
template <int WIDTH, int STEPS, int N>
DEVICE void multiply(float (&sums)[OWN][N], const float* own, const float* others) {
    typedef Lanes<WIDTH> Of;
    const int column = Of::column();
#pragma unroll
    for (int i = 0; i < OWN; ++i)
#pragma unroll
        for (int j = 0; j < N; ++j) sums[i][j] = 0.0f;
#pragma unroll STEPS
    for (int four = 0; four < WIDTH / 4; ++four) {
        Vector<4> other[N];
#pragma unroll
        for (int j = 0; j < N; ++j) other[j] = load_vector<4>(others + swizzled<WIDTH>(column + Of::COLUMNS * j, four));
#pragma unroll
        for (int i = 0; i < OWN; ++i) {
            const Vector<4> mine = load_vector<4>(own + swizzled<WIDTH>(Of::own(i), four));
#pragma unroll
            for (int step = 0; step < 4; ++step)
#pragma unroll
                for (int j = 0; j < N; ++j) sums[i][j] = fmaf(mine.x[step], other[j].x[step], sums[i][j]);
        }
    }
}

// Where the weights [TILE, COUNT] of the block's own rows for others are: those that a warp's lanes write at once, or read four of, are on
// different banks.
template <int WIDTH, int COUNT>
DEVICE int weight_at(int i, int other) {
    typedef Lanes<WIDTH> Of;
    return Of::own(i) * COUNT + ((other / 4 ^ Of::row() * (Of::COLUMNS / 4) % (COUNT / 4)) * 4 | other % 4);
}

// A lane's weights to where `mix` finds them: a warp's own rows, written and read by it alone.
template <int WIDTH, int N>
DEVICE void put_weights(float* weights, const float (&values)[OWN][N]) {
    typedef Lanes<WIDTH> Of;
    const int column = Of::column();
    sync_warp();  // all are done with the last
#pragma unroll
    for (int i = 0; i < OWN; ++i)
#pragma unroll
        for (int j = 0; j < N; ++j) weights[weight_at<WIDTH, N * Of::COLUMNS>(i, column + Of::COLUMNS * j)] = values[i][j];
    sync_warp();
}

// What the lane itself put there.
template <int WIDTH, int N>
DEVICE void take_weights(float (&values)[OWN][N], const float* weights) {
    typedef Lanes<WIDTH> Of;
    const int column = Of::column();
#pragma unroll
    for (int i = 0; i < OWN; ++i)
#pragma unroll
        for (int j = 0; j < N; ++j) values[i][j] = weights[weight_at<WIDTH, N * Of::COLUMNS>(i, column + Of::COLUMNS * j)];
}

// A lane's sums of its own rows.
template <int WIDTH>
struct Sums {
    typedef Lanes<WIDTH> Of;
    Vector<4> rows[OWN][Of::FOURS];

    DEVICE Sums() {
#pragma unroll
        for (int i = 0; i < OWN; ++i)
#pragma unroll
            for (int j = 0; j < Of::FOURS; ++j) rows[i][j] = filled<4>(0.0f);
    }

    DEVICE void scale(int i, float by) {
#pragma unroll
        for (int j = 0; j < Of::FOURS; ++j) rows[i][j] = rows[i][j] * filled<4>(by);
    }

    // To the first `present` rows of a head from `out` on.
    DEVICE void put(float* out, size_t stride, int present, int width) const {
#pragma unroll
        for (int i = 0; i < OWN; ++i)
#pragma unroll
            for (int j = 0; j < Of::FOURS; ++j) {
                const int column = 4 * (Of::column() + Of::COLUMNS * j);
                if (Of::own(i) < present) store_some<4>(out + Of::own(i) * stride + column, rows[i][j], width - column);
            }
    }
};

// sums [own, WIDTH] += weights [own, COUNT] · others, of which `present` are there.
template <int WIDTH, int COUNT>
DEVICE void mix(Sums<WIDTH>& sums, const float* weights, const float* others, int present) {
    typedef Lanes<WIDTH> Of;
    const int column = Of::column();
    for (int first = 0; first < present; first += 8) {  // zeros up to the next multiple of eight
#pragma unroll
        for (int four = 0; four < 2; ++four) {
            Vector<4> mine[OWN];
#pragma unroll
            for (int i = 0; i < OWN; ++i) mine[i] = load_vector<4>(weights + weight_at<WIDTH, COUNT>(i, first + 4 * four));
#pragma unroll
            for (int step = 0; step < 4; ++step)
#pragma unroll
                for (int j = 0; j < Of::FOURS; ++j) {
                    const int row = 4 * four + step;
                    const Vector<4> other = load_vector<4>(others + first * WIDTH + swizzled<WIDTH>(row, column + Of::COLUMNS * j));
#pragma unroll
                    for (int i = 0; i < OWN; ++i)
#pragma unroll
                        for (int e = 0; e < 4; ++e) sums.rows[i][j].x[e] = fmaf(mine[i].x[step], other.x[e], sums.rows[i][j].x[e]);
                }
        }
    }
}

// Scores of others that are not there, from `present` on.
template <int WIDTH, int N>
DEVICE void hide(float (&scores)[OWN][N], int present) {
    typedef Lanes<WIDTH> Of;
    if (present == N * Of::COLUMNS) return;
#pragma unroll
    for (int j = 0; j < N; ++j)
#pragma unroll
        for (int i = 0; i < OWN; ++i) scores[i][j] = Of::column() + Of::COLUMNS * j < present ? scores[i][j] : -INFINITY;
}

template <int N>
DEVICE float highest(const float (&scores)[N]) {
    float x = scores[0];
#pragma unroll
    for (int j = 1; j < N; ++j) x = fmaxf(x, scores[j]);
    return x;
}

// What a softmax over scores / √D weighs a score by.
struct Softmax {
    float scale, factor, rest, least;  // factor + rest: log₂ e over √D
    explicit DEVICE Softmax(int width)
        : scale(1.0f / sqrtf(float(width))), factor(1.44269504f * scale), rest(fmaf(1.44269504f, scale, -factor) + 1.9259630e-8f * scale), least(-125.0f / factor) {}

    // exp(below / √D) for a score so far below the largest (a negative number or 0), to 1 ulp; 2⁻¹²⁵ where it is less, and NaN of NaN. 2ˣ = 2ⁿ 2ʳ with |r| ≤ ½ and
    // 2ʳ by a polynomial to 2⁻²⁸; adding 1.5 · 2²³ rounds x to n and leaves n in the lowest bits.
    DEVICE float weight(float below) const {
        constexpr float WHOLE = 12582912.0f;
        const float x = least > below ? least : below, rounded = fmaf(x, factor, WHOLE);
        const float r = fmaf(x, rest, fmaf(x, factor, WHOLE - rounded));
        float y = 1.5353362e-4f;
        y = fmaf(y, r, 0.0013398875f);
        y = fmaf(y, r, 0.009618437f);
        y = fmaf(y, r, 0.055503324f);
        y = fmaf(y, r, 0.24022648f);
        y = fmaf(y, r, 0.6931472f);
        y = fmaf(y, r, 1.0f);
        return y * __uint_as_float((__float_as_uint(rounded) << 23) + 0x3F800000u);
    }
};

// The draws for a warp's own queries from `query` on (where `i` is 0 and r) and COUNT keys from `key` on: a lane draws blocks of eight keys, 8 bits each.
template <int WIDTH, int COUNT>
struct DrawsOfQueries {
    typedef Lanes<WIDTH> Of;
    static constexpr int BLOCKS = COUNT / 8, SHARES = Of::COLUMNS / BLOCKS;  // blocks of a row; lanes of a block, each with so many of its rows:
    static constexpr int MINE = OWN / SHARES;
    uint32_t drawn[(MINE + 3) / 4];

    template <class Kept>
    DEVICE DrawsOfQueries(const Kept& kept, int sequence, int head, int query, int key) : drawn() {
        if constexpr (Kept::DROPS) {
            const int block = Of::column() % BLOCKS, first = Of::column() / BLOCKS * MINE;
#pragma unroll
            for (int i = 0; i < MINE; ++i) drawn[i / 4] |= kept.kept(sequence, head, query + Of::own(first + i), key / 8 + block) << 8 * (i % 4);
        }
    }

    // What the weights of the lane's own queries and others are multiplied by.
    template <class Kept, int N>
    DEVICE void drop(const Kept& kept, float (&weights)[OWN][N]) const {
        if constexpr (Kept::DROPS) {
            const int column = Of::column();
#pragma unroll
            for (int j = 0; j < N; ++j)
#pragma unroll
                for (int share = 0; share < SHARES; ++share)
#pragma unroll
                    for (int i = 0; i < MINE; ++i) {
                        const int block = (column + Of::COLUMNS * j) / 8 + BLOCKS * share;
                        const uint32_t bits = shuffle(drawn[i / 4], Of::lane(Of::row(), block));
                        weights[share * MINE + i][j] *= kept.of_bit(bits, 8 * (i % 4) + column % 8);
                    }
        }
    }
};

// The draws for a warp's own keys, of which `key` is the block's first, and N · Lanes::COLUMNS queries from `query` on: of a query a lane draws the
// block of eight keys that its r is the number of.
template <int WIDTH, int N>
struct DrawsOfKeys {
    typedef Lanes<WIDTH> Of;
    static_assert(N <= 4 && OWN == 8, "a word of draws, and of a warp's own keys as many blocks of eight as lanes of a column");
    uint32_t drawn;

    template <class Kept>
    DEVICE DrawsOfKeys(const Kept& kept, int sequence, int head, int query, int key) : drawn(0) {
        if constexpr (Kept::DROPS) {
            const int block = key / 8 + warp_id() * Of::ROWS + Of::row();
#pragma unroll
            for (int j = 0; j < N; ++j) drawn |= kept.kept(sequence, head, query + Of::column() + Of::COLUMNS * j, block) << 8 * j;
        }
    }

    // What the weight of the lane's own key i and query j is multiplied by.
    template <class Kept>
    DEVICE float factor(const Kept& kept, int i, int j) const {
        if constexpr (!Kept::DROPS) return 1.0f;
        else return kept.of_bit(shuffle(drawn, Of::lane(i * Of::ROWS / 8, Of::column())), 8 * j + (Of::row() + Of::ROWS * i) % 8);
    }
};
