// Attention in exact f32: out = softmax(q kᵀ / √D) v in each sequence and head, keys taken a tile at a time, no L × L matrix anywhere.
//
//   q, k, v    f32, row r of a head at tensor + r · stride + offset + head · D          out   f32 [rows, H · D]
//   tiles      u32 pairs (sequence, first query of the tile within it), one a block.x; block.y is the head
//   starts     u32 [B + 1], where sequences begin among the tokens
//
// A block takes 64 queries. The softmax runs on: with m the largest score so far, s = Σ exp(score − m) and y = Σ exp(score − m) v are scaled by
// exp(m − m') when a tile brings a larger m'. A query's bits depend on its own sequence alone: on its keys in their order and not on which queries
// share the tile.
// Bound by arithmetic: 4 · L · D operations a query and head.
//
// attention_dropout: the weights are dropped as training asks, after the softmax.
#include "attention_exact.cuh"

template <int WIDTH, class Kept>
DEVICE void attention(float* out, View q, View k, View v, const unsigned* tiles, const unsigned* starts, int first_only, int heads, int width,
                      const Kept& kept) {
    typedef Lanes<WIDTH> Of;
    constexpr int KEYS = 64;  // of a tile
    SHARED(float, shared);
    float* const queries = shared;                  // [TILE, WIDTH]
    float* const values = queries + TILE * WIDTH;   // [KEYS, WIDTH]
    float* const keys = values + KEYS * WIDTH;      // [KEYS, WIDTH], and then in their place
    float* const weights = keys;                    // [TILE, KEYS]
    const int sequence = tiles[2 * blockIdx.x], first = tiles[2 * blockIdx.x + 1], head = blockIdx.y;
    const int start = starts[sequence], length = int(starts[sequence + 1]) - start;
    const int first_row = first_only ? sequence : start + first;
    const int asking = first_only ? 1 : min(TILE, length - first);
    const bool busy = Of::busy(asking);  // whether a query is the warp's
    const Softmax softmax(width);

    float largest[OWN], sum[OWN];
    Sums<WIDTH> mixed;
#pragma unroll
    for (int i = 0; i < OWN; ++i) largest[i] = -INFINITY, sum[i] = 0.0f;

    fetch<WIDTH, TILE>(queries, q, first_row, asking, head, width);
    for (int tile = 0; tile < length; tile += KEYS) {
        const int present = min(KEYS, length - tile);
        if (tile > 0) sync_block();  // all are done with the last tile
        fetch<WIDTH, KEYS>(keys, k, start + tile, present, head, width);
        copy_commit();
        fetch<WIDTH, KEYS>(values, v, start + tile, present, head, width);
        copy_commit();
        copy_wait<1>();
        sync_block();  // queries and keys have landed for all

        float scores[OWN][KEYS / Of::COLUMNS];
        if (busy) multiply<WIDTH, 1>(scores, queries, keys);
        copy_wait<0>();
        sync_block();  // values have landed for all, and all are done with the keys
        if (!busy) continue;
        hide<WIDTH>(scores, present);
#pragma unroll
        for (int i = 0; i < OWN; ++i) {
            const float next = fmaxf(largest[i], Of::largest(highest(scores[i])));  // finite: every tile has a key
            const float shrink = softmax.weight(largest[i] - next);                 // of nothing, before the first tile
            largest[i] = next;
            sum[i] *= shrink;
            mixed.scale(i, shrink);
#pragma unroll
            for (int j = 0; j < KEYS / Of::COLUMNS; ++j) {
                scores[i][j] = softmax.weight(scores[i][j] - next);
                sum[i] += scores[i][j];
            }
        }
        DrawsOfQueries<WIDTH, KEYS>(kept, sequence, head, first, tile).drop(kept, scores);
        put_weights<WIDTH>(weights, scores);
        mix<WIDTH, KEYS>(mixed, weights, values, present);
    }

    if (!busy) return;
#pragma unroll
    for (int i = 0; i < OWN; ++i) mixed.scale(i, 1.0f / Of::sum(sum[i]));
    mixed.put(out + (size_t(first_row) * heads + head) * width, size_t(heads) * width, asking, width);
}

// By the largest D: 32, 64, 128.
#define ATTENTION(WIDTH)                                                                                                                       \
    KERNEL(attention_f32_##WIDTH, Lanes<WIDTH>::THREADS, float* out, const float* q, int q_stride, const float* k, int k_stride,               \
           const float* v, int v_stride, const unsigned* tiles, const unsigned* starts, int first_only, int heads, int width) {                \
        await_kernels();                                                                                                                       \
        attention<WIDTH>(out, View{q, q_stride}, View{k, k_stride}, View{v, v_stride}, tiles, starts, first_only, heads, width, Whole{});       \
    }                                                                                                                                          \
    KERNEL(attention_dropout_f32_##WIDTH, Lanes<WIDTH>::THREADS, float* out, const float* q, int q_stride, const float* k, int k_stride,       \
           const float* v, int v_stride, const unsigned* tiles, const unsigned* starts, int first_only, int heads, int width,                  \
           DROPOUT_PARAMETERS) {                                                                                                               \
        await_kernels();                                                                                                                       \
        attention<WIDTH>(out, View{q, q_stride}, View{k, k_stride}, View{v, v_stride}, tiles, starts, first_only, heads, width, DROPOUT);       \
    }

ATTENTION(32)
ATTENTION(64)
ATTENTION(128)
