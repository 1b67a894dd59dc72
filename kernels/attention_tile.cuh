// What the tensor-core kernels of attention share: rows of heads in shared memory, and the products of 16 of them with 64 others.
//
// A warp owns 16 rows. With g = lane / 4 and t = lane % 4, a lane has of a product's sums rows g (half 0) and g + 8 (half 1), columns 8 j + 2 t
// and the next: sums[j][2 * half + e]. Head widths are padded to WIDTH with zeros.
#pragma once
#include "dropout.cuh"
#include "reduce.cuh"
#include "vector.cuh"

constexpr int TILE = 64;  // rows of a tile the warps go through together
constexpr int ROWS = 16;  // rows of a warp
constexpr int CHUNK = 8;  // 16-bit numbers in 16 bytes

template <class T>
struct View {
    const T* data;
    int stride;
};

// Where the 16-byte chunk `chunk` of a row of WIDTH numbers lies: eight rows of one chunk column fall on all 32 banks.
template <int WIDTH>
DEVICE int swizzled(int row, int chunk) {
    return row * WIDTH + (chunk ^ (WIDTH == 32 ? row >> 1 & 3 : row & 7)) * CHUNK;
}

// Begins the copy of `count` rows of a head; rows from `present` on and columns from `width` on become zeros.
template <int WIDTH, class T>
DEVICE void fetch(T* to, View<T> view, int first, int present, int count, int head, int width) {
    for (int i = threadIdx.x; i < count * (WIDTH / CHUNK); i += blockDim.x) {
        const int r = i / (WIDTH / CHUNK), c = i % (WIDTH / CHUNK);
        const int there = r < present ? width - c * CHUNK : 0;
        const T* const from = view.data + size_t(first + r) * view.stride + head * width + c * CHUNK;
        T* const place = to + swizzled<WIDTH>(r, c);
        if (there >= CHUNK && is_aligned<CHUNK>(from)) copy_async(place, from, true);
        else store_vector<CHUNK>(place, load_some<CHUNK>(from, there));
    }
}

template <int N>
DEVICE void clear(float (&sums)[N][4]) {
#pragma unroll
    for (int j = 0; j < N; ++j)
#pragma unroll
        for (int e = 0; e < 4; ++e) sums[j][e] = 0.0f;
}

// The chunk of 16 columns `k` of a warp's 16 rows, as the left operand.
template <int WIDTH, class T>
DEVICE void left_operand(uint32_t (&a)[4], const T* rows, int k) {
    ldmatrix(a, rows + swizzled<WIDTH>(lane_id() % 16, 2 * k + lane_id() / 16));
}

// sums [16, 8 N] += rows' columns 16 k … (as `a`) · tileᵀ, of a tile of which `present` rows are there: others' sums, by sixteens, stay.
template <int WIDTH, class T, int N>
DEVICE void add_scores(float (&sums)[N][4], const uint32_t (&a)[4], const T* tile, int k, int present) {
    const int lane = lane_id();
#pragma unroll
    for (int j = 0; j < N / 2; ++j) {
        if (16 * j >= present) continue;
        uint32_t b[4];
        ldmatrix(b, tile + swizzled<WIDTH>(16 * j + lane / 16 * 8 + lane % 8, 2 * k + lane / 8 % 2));
        mma(T(), sums[2 * j], a, b);
        mma(T(), sums[2 * j + 1], a, b + 2);
    }
}

// sums = rows · tileᵀ, for a warp's 16 rows and a tile's 8 N.
template <int WIDTH, class T, int N>
DEVICE void products(float (&sums)[N][4], const T* rows, const T* tile, int present) {
    clear(sums);
#pragma unroll
    for (int k = 0; k < WIDTH / 16; ++k) {
        uint32_t a[4];
        left_operand<WIDTH>(a, rows, k);
        add_scores<WIDTH>(sums, a, tile, k, present);
    }
}

// sums [16, WIDTH] += a · the tile's rows 16 k …
template <int WIDTH, class T>
DEVICE void add_mixed(float (&sums)[WIDTH / 8][4], const uint32_t (&a)[4], const T* tile, int k) {
    const int lane = lane_id();
#pragma unroll
    for (int j = 0; j < WIDTH / 16; ++j) {
        uint32_t b[4];
        ldmatrix_transposed(b, tile + swizzled<WIDTH>(16 * k + lane / 8 % 2 * 8 + lane % 8, 2 * j + lane / 16));
        mma(T(), sums[2 * j], a, b);
        mma(T(), sums[2 * j + 1], a, b + 2);
    }
}

// sums [16, WIDTH] += weights [16, 8 N] · tile, of which `present` rows are there: the weights go from the sums of one product to the operand of the
// next without leaving their lane.
template <int WIDTH, class T, int N>
DEVICE void mix(float (&sums)[WIDTH / 8][4], const float (&weights)[N][4], const T* tile, int present) {
#pragma unroll
    for (int k = 0; k < N / 2; ++k) {
        if (16 * k >= present) continue;
        const uint32_t a[4] = {pack<T>(weights[2 * k][0], weights[2 * k][1]), pack<T>(weights[2 * k][2], weights[2 * k][3]),
                               pack<T>(weights[2 * k + 1][0], weights[2 * k + 1][1]), pack<T>(weights[2 * k + 1][2], weights[2 * k + 1][3])};
        add_mixed<WIDTH>(sums, a, tile, k);
    }
}

// What a lane draws for its warp's 16 queries from `query` on and the 64 keys from `key` on: of each of its rows, two blocks of eight keys, 8 bits each.
template <class Kept>
DEVICE uint32_t draw_of_queries(const Kept& kept, int sequence, int head, int query, int key) {
    const int g = lane_id() / 4, t = lane_id() % 4;
    uint32_t drawn = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) drawn |= kept.kept(sequence, head, query + g + 8 * (i % 2), key / 8 + t + 4 * (i / 2)) << 8 * i;
    return drawn;
}
// Drops a lane's weights of keys 8 j … of those 64, of queries in rows and keys in columns: the draws of other blocks are the quad's.
template <class Kept>
DEVICE void drop_of_queries(float (&weights)[4], const Kept& kept, uint32_t drawn, int j) {
    if constexpr (Kept::DROPS) {
        const int lane = lane_id();
        const uint32_t bits = shuffle(drawn, (lane & ~3) + j % 4) >> 16 * (j / 4);
#pragma unroll
        for (int e = 0; e < 4; ++e) weights[e] *= kept.of_bit(bits, 8 * (e / 2) + 2 * (lane % 4) + e % 2);
    }
}

// What a lane draws for its warp's 16 keys from `key` on and 8 N queries from `query` on: of every 16 queries one, and of the keys one block of eight.
template <int N, class Kept>
DEVICE uint32_t draw_of_keys(const Kept& kept, int sequence, int head, int query, int key) {
    uint32_t drawn = 0;
#pragma unroll
    for (int i = 0; i < N / 2; ++i) drawn |= kept.kept(sequence, head, query + 16 * i + lane_id() / 2, key / 8 + lane_id() % 2) << 8 * i;
    return drawn;
}
// What the weight of key g + 8 half and query 8 j + 2 t + e is multiplied by.
template <class Kept>
DEVICE float factor_of_key(const Kept& kept, uint32_t drawn, int j, int e, int half) {
    if constexpr (!Kept::DROPS) return 1.0f;
    else return kept.of_bit(shuffle(drawn, 16 * (j % 2) + 4 * (lane_id() % 4) + 2 * e + half), 8 * (j / 2) + lane_id() / 4);
}

// A warp's sums, through its own 16 rows of shared memory, to `count` rows of `out` by whole chunks.
template <int WIDTH, class T>
DEVICE void put(T* out, size_t row_stride, int count, T* rows, const float (&sums)[WIDTH / 8][4], int width) {
    const int lane = lane_id(), g = lane / 4, t = lane % 4;
#pragma unroll
    for (int j = 0; j < WIDTH / 8; ++j)
#pragma unroll
        for (int half = 0; half < 2; ++half)
            store(rows + swizzled<WIDTH>(g + 8 * half, j) + 2 * t, pack<T>(sums[j][2 * half], sums[j][2 * half + 1]));
    sync_warp();
#pragma unroll
    for (int i = lane; i < ROWS * (WIDTH / CHUNK); i += WARP) {
        const int r = i / (WIDTH / CHUNK), c = i % (WIDTH / CHUNK);
        if (r < count && c * CHUNK < width)
            store_some<CHUNK>(out + r * row_stride + c * CHUNK, load_vector<CHUNK>(rows + swizzled<WIDTH>(r, c)), width - c * CHUNK);
    }
}
