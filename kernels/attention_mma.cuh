// Attention on tensor cores: out = softmax(q kᵀ / √D) v in each sequence and head, 64 keys at a time, no L × L matrix anywhere.
//
//   q, k, v    T, row r of a head at tensor + r · stride + head · D         out   T [rows, H · D]
//   tiles      u32 pairs (sequence, first query of the tile within it), one a block.x; block.y is the head
//   starts     u32 [B + 1], where sequences begin among the tokens
//
// A warp takes 16 queries, a block as many warps as it is launched with; head widths are padded to WIDTH with zeros. Scores, softmax and sums
// are f32 in registers: with m the largest score so far, s = Σ exp(score − m) and y = Σ exp(score − m) v are scaled by exp(m − m') when a tile
// brings a larger m'. The weights go from the sums of the first product to the operand of the second without leaving their lane. A query's
// bits depend on its own sequence alone. attention_dropout: the weights are dropped as training asks, after the softmax. Up to length 128 bound by memory: 4 · E · sizeof(T) bytes a token; beyond by the tensor cores.
#pragma once
#include "attention_tile.cuh"

// A warp's 16 queries on their way.
template <class T, int WIDTH>
struct Queries {
    uint32_t q[WIDTH / 16][4];
    float mixed[WIDTH / 8][4];
    float largest[2], sum[2];
    float scale;  // log₂ e / √D: powers of two are what the hardware has

    DEVICE void begin(const T* rows, int width) {
#pragma unroll
        for (int k = 0; k < WIDTH / 16; ++k) left_operand<WIDTH>(q[k], rows, k);
        clear(mixed);
        largest[0] = largest[1] = -INFINITY;
        sum[0] = sum[1] = 0.0f;
        scale = 1.44269504f / sqrtf(float(width));
    }

    // scores = q kᵀ
    DEVICE void score(float (&scores)[TILE / 8][4], const T* keys, int present) const {
        clear(scores);
#pragma unroll
        for (int k = 0; k < WIDTH / 16; ++k) add_scores<WIDTH>(scores, q[k], keys, k, present);
    }

    // Scores become weights, and what there is already is scaled to the new largest score.
    DEVICE void soften(float (&scores)[TILE / 8][4], int present) {
        const int t = lane_id() % 4;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            float highest = -INFINITY;
#pragma unroll
            for (int j = 0; j < TILE / 8; ++j)
#pragma unroll
                for (int e = 0; e < 2; ++e) {
                    float& score = scores[j][2 * half + e];
                    score = 8 * j + 2 * t + e < present ? score * scale : -INFINITY;
                    highest = fmaxf(highest, score);
                }
            const float next = fmaxf(largest[half], quad_max(highest));  // finite: every tile has a key
            const float shrink = exp2_fast(largest[half] - next);        // 0 before the first tile
            largest[half] = next;
            float part = 0.0f;
#pragma unroll
            for (int j = 0; j < TILE / 8; ++j)
#pragma unroll
                for (int e = 0; e < 2; ++e) {
                    float& score = scores[j][2 * half + e];
                    score = exp2_fast(score - next);
                    part += score;
                }
            sum[half] = fmaf(sum[half], shrink, quad_sum(part));
#pragma unroll
            for (int j = 0; j < WIDTH / 8; ++j) mixed[j][2 * half] *= shrink, mixed[j][2 * half + 1] *= shrink;
        }
    }

    // The weights' mean of values.
    DEVICE void divide() {
#pragma unroll
        for (int j = 0; j < WIDTH / 8; ++j)
#pragma unroll
            for (int e = 0; e < 4; ++e) mixed[j][e] /= sum[e / 2];
    }
};

template <class T, int WIDTH, class Kept>
DEVICE void attention(T* out, View<T> q, View<T> k, View<T> v, const unsigned* tiles, const unsigned* starts, int first_only, int heads, int width,
                      const Kept& kept) {
    SHARED(T, shared);
    const int queries = int(blockDim.x) / WARP * ROWS;
    T* const keys = shared + queries * WIDTH;      // [2][TILE, WIDTH]
    T* const values = keys + 2 * TILE * WIDTH;     // [2][TILE, WIDTH]
    const int sequence = tiles[2 * blockIdx.x], first = tiles[2 * blockIdx.x + 1], head = blockIdx.y;
    const int start = starts[sequence], length = int(starts[sequence + 1]) - start;
    const int first_row = first_only ? sequence : start + first;
    const int asking = first_only ? 1 : min(queries, length - first);
    const bool busy = warp_id() * ROWS < asking;  // whether a query is the warp's
    T* const mine = shared + warp_id() * ROWS * WIDTH;

    const auto fetch_tile = [&](int tile) {
        const int place = tile / TILE % 2 * TILE * WIDTH, present = min(TILE, length - tile);
        fetch<WIDTH>(keys + place, k, start + tile, present, TILE, head, width);
        fetch<WIDTH>(values + place, v, start + tile, present, TILE, head, width);
    };
    fetch<WIDTH>(shared, q, first_row, asking, queries, head, width);
    fetch_tile(0);
    copy_commit();

    Queries<T, WIDTH> state;
    for (int tile = 0; tile < length; tile += TILE) {
        if (tile + TILE < length) fetch_tile(tile + TILE);
        copy_commit();
        copy_wait<1>();
        sync_block();  // this tile has landed for all
        if (tile == 0) state.begin(mine, width);
        if (busy) {
            const int place = tile / TILE % 2 * TILE * WIDTH, present = Kept::DROPS ? TILE : length - tile;  // registers for no tests beside draws
            float scores[TILE / 8][4];
            state.score(scores, keys + place, present);
            state.soften(scores, length - tile);
            const uint32_t drawn = draw_of_queries(kept, sequence, head, first + warp_id() * ROWS, tile);
#pragma unroll
            for (int j = 0; j < TILE / 8; ++j) drop_of_queries(scores[j], kept, drawn, j);
            mix<WIDTH>(state.mixed, scores, values + place, present);
        }
        sync_block();  // all are done with it: its place may be filled
    }
    copy_wait<0>();
    const int row = first_row + warp_id() * ROWS;
    state.divide();
    put<WIDTH>(out + (size_t(row) * heads + head) * width, size_t(heads) * width, asking - warp_id() * ROWS, mine, state.mixed, width);
}

// By the largest D: 32, 64, 128.
#define ATTENTION(T, WIDTH)                                                                                                                       \
    KERNEL(attention_##T##_##WIDTH, 128, T* out, const T* q, int q_stride, const T* k, int k_stride, const T* v, int v_stride,                     \
           const unsigned* tiles, const unsigned* starts, int first_only, int heads, int width) {                                                 \
        await_kernels();                                                                                                                          \
        attention<T, WIDTH>(out, View<T>{q, q_stride}, View<T>{k, k_stride}, View<T>{v, v_stride}, tiles, starts, first_only, heads, width,        \
                            Whole{});                                                                                                             \
    }
#define ATTENTION_DROPOUT(T, WIDTH)                                                                                                               \
    KERNEL(attention_dropout_##T##_##WIDTH, 128, T* out, const T* q, int q_stride, const T* k, int k_stride, const T* v, int v_stride,             \
           const unsigned* tiles, const unsigned* starts, int first_only, int heads, int width, DROPOUT_PARAMETERS) {                             \
        await_kernels();                                                                                                                          \
        attention<T, WIDTH>(out, View<T>{q, q_stride}, View<T>{k, k_stride}, View<T>{v, v_stride}, tiles, starts, first_only, heads, width,        \
                            DROPOUT);                                                                                                             \
    }
