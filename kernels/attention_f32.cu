// Attention in exact f32: out = softmax(q kᵀ / √D) v in each sequence and head, keys taken a tile at a time, no L × L matrix anywhere.
//
//   q, k, v    f32, row r of a head at tensor + r · stride + offset + head · D          out   f32 [rows, H · D]
//   tiles      u32 pairs (sequence, first query of the tile within it), one a block.x; block.y is the head
//   starts     u32 [B + 1], where sequences begin among the tokens
//
// A block of 128 threads takes 32 queries, four threads each. The softmax runs on: with m the largest score so far, s = Σ exp(score − m) and
// y = Σ exp(score − m) v are scaled by exp(m − m') when a tile brings a larger m'. A query's bits depend on its own sequence alone: on its
// keys in their order and not on which queries share the tile.
// Bound by arithmetic: 4 · L · D operations a query and head.
//
// attention_dropout: the weights are dropped as training asks, after the softmax.
#include "activation.cuh"
#include "dropout.cuh"
#include "reduce.cuh"

constexpr int QUERIES = 32;  // of a block
constexpr int KEYS = 32;     // of a tile
constexpr int PARTS = 4;     // threads of a query

struct View {
    const float* data;
    int stride;
};

// A head's columns of one row.
DEVICE const float* head_of(View view, int row, int head, int width) { return view.data + size_t(row) * view.stride + head * width; }

// From one row of shared memory to the next: odd, so that rows begin on different banks.
DEVICE int row_stride(int width) { return width | 1; }

// Rows of a head to shared memory, zeros where there is no row.
DEVICE void gather(float* to, View view, int first, int present, int count, int head, int width) {
    for (int i = threadIdx.x; i < count * width; i += blockDim.x) {
        const int r = i / width, c = i % width;
        to[r * row_stride(width) + c] = r < present ? head_of(view, first + r, head, width)[c] : 0.0f;
    }
}

// `COLUMNS`: of the output, at most, for each of a query's four threads.
template <int COLUMNS, class Kept>
DEVICE void attention(float* out, View q, View k, View v, const unsigned* tiles, const unsigned* starts, int first_only, int heads, int width,
                      const Kept& kept) {
    SHARED(float, shared);
    const int stride = row_stride(width);
    float* const queries = shared;                   // [QUERIES, D]
    float* const keys = queries + QUERIES * stride;  // [KEYS, D]
    float* const values = keys + KEYS * stride;      // [KEYS, D]
    float* const weights = values + KEYS * stride;   // [QUERIES, KEYS + 1]
    const int sequence = tiles[2 * blockIdx.x], first = tiles[2 * blockIdx.x + 1], head = blockIdx.y;
    const int start = starts[sequence], length = int(starts[sequence + 1]) - start;
    const int first_row = first_only ? sequence : start + first;
    const int asking = first_only ? 1 : min(QUERIES, length - first);
    const int query = threadIdx.x / PARTS, part = threadIdx.x % PARTS;
    const float scale = 1.0f / sqrtf(float(width));

    gather(queries, q, first_row, asking, QUERIES, head, width);
    float largest = -INFINITY, sum = 0.0f, mixed[COLUMNS];
#pragma unroll
    for (int c = 0; c < COLUMNS; ++c) mixed[c] = 0.0f;

    for (int tile = 0; tile < length; tile += KEYS) {
        const int present = min(KEYS, length - tile);
        sync_block();  // all are done with the last tile
        gather(keys, k, start + tile, present, KEYS, head, width);
        gather(values, v, start + tile, present, KEYS, head, width);
        sync_block();

        float scores[KEYS / PARTS];
        float tile_largest = -INFINITY;
#pragma unroll
        for (int j = 0; j < KEYS / PARTS; ++j) {
            const int key = part + PARTS * j;
            float score = 0.0f;
            for (int c = 0; c < width; ++c) score = fmaf(queries[query * stride + c], keys[key * stride + c], score);
            scores[j] = key < present ? score : -INFINITY;
            tile_largest = fmaxf(tile_largest, scores[j]);
        }
        const float next = fmaxf(largest, quad_max(tile_largest));  // finite: every tile has a key
        const float shrink = Exact::exp((largest - next) * scale);  // 0 before the first tile
        largest = next;

        float tile_sum = 0.0f;
        float2 factors = make_float2(1.0f, 1.0f);
#pragma unroll
        for (int j = 0; j < KEYS / PARTS; ++j) {
            const int key = part + PARTS * j;
            const float weight = key < present ? Exact::exp((scores[j] - largest) * scale) : 0.0f;
            if (j % 2 == 0) factors = kept.of_weights(sequence, head, first + query, tile + PARTS * j, part);
            weights[query * (KEYS + 1) + key] = weight * (j % 2 ? factors.y : factors.x);
            tile_sum += weight;
        }
        sum = fmaf(sum, shrink, quad_sum(tile_sum));
        sync_warp();  // a query's weights are written and read by the same warp
#pragma unroll
        for (int c = 0; c < COLUMNS; ++c) mixed[c] *= shrink;
        for (int key = 0; key < present; ++key) {
            const float weight = weights[query * (KEYS + 1) + key];
#pragma unroll
            for (int c = 0; c < COLUMNS; ++c)
                if (part + PARTS * c < width) mixed[c] = fmaf(weight, values[key * stride + part + PARTS * c], mixed[c]);
        }
        sync_warp();
    }

    if (query >= asking) return;
    float* const row = out + (size_t(first_row + query) * heads + head) * width;
#pragma unroll
    for (int c = 0; c < COLUMNS; ++c)
        if (part + PARTS * c < width) row[part + PARTS * c] = mixed[c] / sum;
}

// By the largest D: 32, 64, 128.
#define ATTENTION(WIDTH)                                                                                                                       \
    KERNEL(attention_f32_##WIDTH, QUERIES* PARTS, float* out, const float* q, int q_stride, const float* k, int k_stride, const float* v,       \
           int v_stride, const unsigned* tiles, const unsigned* starts, int first_only, int heads, int width) {                                \
        attention<WIDTH / PARTS>(out, View{q, q_stride}, View{k, k_stride}, View{v, v_stride}, tiles, starts, first_only, heads, width,         \
                                 Whole{});                                                                                                     \
    }                                                                                                                                          \
    KERNEL(attention_dropout_f32_##WIDTH, QUERIES* PARTS, float* out, const float* q, int q_stride, const float* k, int k_stride,              \
           const float* v, int v_stride, const unsigned* tiles, const unsigned* starts, int first_only, int heads, int width,                  \
           DROPOUT_PARAMETERS) {                                                                                                               \
        attention<WIDTH / PARTS>(out, View{q, q_stride}, View{k, k_stride}, View{v, v_stride}, tiles, starts, first_only, heads, width,         \
                                 DROPOUT);                                                                                                     \
    }

ATTENTION(32)
ATTENTION(64)
ATTENTION(128)
