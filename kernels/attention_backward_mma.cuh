// The way back through attention on tensor cores, with P = softmax(q kᵀ / √D) computed again, 64 rows at a time, no L × L matrix anywhere:
//
//   dP = dO vᵀ      dS = P ∘ (dP − rowsum(P ∘ dP)) / √D      dq = dS k      dk = dSᵀ q      dv = Pᵀ dO
//
// Two kernels, because each sum then has one owner and one order, and no atomics are needed:
//
//   attention_backward_queries   a warp has 16 queries and goes through the keys twice: first for each row's largest score, sum and mean of dP,
//                                which it leaves in `rows` for the other kernel, then for dq
//   attention_backward_keys      a warp has 16 keys and goes through the queries once, for dk and dv; P and dS are made transposed
//
//   q, k, v, d_out   T, row r of a head at tensor + r · stride + head · D         d_q, d_k, d_v   T, the same of their own strides
//   tiles            u32 pairs (sequence, first query or key of the tile within it), one a block.x; block.y is the head
//   starts           u32 [B + 1]          rows   f32 [rows of q, H, 4]: largest score × log₂ e / √D, 1 / sum, mean of dP, 0
//
// With F the factors of a dropout, P ∘ F stands for P in dv, and F ∘ dP for dP. A row's bits depend on its own sequence alone. Bound by the tensor cores: 18 · L · D operations a query and head.
#pragma once
#include "attention_tile.cuh"
#include "port_blocks.cuh"

// What both kernels are given.
template <class T>
struct Attended {
    View<T> q, k, v, d_out;
    float* rows;
    const unsigned* tiles;
    const unsigned* starts;
    int first_only, heads, width;

    DEVICE float* row(int query, int head) const { return rows + (size_t(query) * heads + head) * 4; }
};

// Of one query: its softmax, and the mean of dP under it.
struct Row {
    float largest, sum, moment;

    DEVICE void begin() { largest = -INFINITY, sum = moment = 0.0f; }
    DEVICE void end() { sum = 1.0f / sum, moment *= sum; }
};

// Takes one tile of scores (already × log₂ e / √D, −∞ for keys that are not there) and dP into the rows.
DEVICE void collect(Row (&rows)[2], const float (&scores)[TILE / 8][4], const float (&slopes)[TILE / 8][4]) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        Row& row = rows[half];
        float highest = -INFINITY;
#pragma unroll
        for (int j = 0; j < TILE / 8; ++j) highest = fmaxf(highest, fmaxf(scores[j][2 * half], scores[j][2 * half + 1]));
        const float next = fmaxf(row.largest, quad_max(highest));  // finite: every tile has a key
        const float shrink = exp2_fast(row.largest - next);        // 0 before the first tile
        float sum = 0.0f, moment = 0.0f;
#pragma unroll
        for (int j = 0; j < TILE / 8; ++j)
#pragma unroll
            for (int e = 0; e < 2; ++e) {
                const float weight = exp2_fast(scores[j][2 * half + e] - next);
                sum += weight;
                moment = fmaf(weight, slopes[j][2 * half + e], moment);
            }
        row.largest = next;
        row.sum = fmaf(row.sum, shrink, quad_sum(sum));
        row.moment = fmaf(row.moment, shrink, quad_sum(moment));
    }
}

template <class T, int WIDTH, class Kept>
DEVICE void attention_backward_queries(T* d_q, int d_q_stride, const Attended<T>& of, const Kept& kept) {
    SHARED(T, shared);
    const int queries = int(blockDim.x) / WARP * ROWS, width = of.width;
    T* const d_out = shared + queries * WIDTH;   // [queries, WIDTH]
    T* const keys = d_out + queries * WIDTH;     // [2][TILE, WIDTH]
    T* const values = keys + 2 * TILE * WIDTH;   // [2][TILE, WIDTH]
    const int sequence = of.tiles[2 * blockIdx.x], first = of.tiles[2 * blockIdx.x + 1], head = blockIdx.y;
    const int start = of.starts[sequence], length = int(of.starts[sequence + 1]) - start;
    const int first_row = of.first_only ? sequence : start + first;
    const int asking = of.first_only ? 1 : min(queries, length - first);
    const bool busy = warp_id() * ROWS < asking;  // whether a query is the warp's
    const int mine = warp_id() * ROWS * WIDTH;
    const float scale = 1.0f / sqrtf(float(width));

    // The keys are gone through twice; where both tiles have room they stay, and of one tile the products too.
    const int tiles = (length + TILE - 1) / TILE, steps = tiles == 1 ? 1 : 2 * tiles;
    const bool stay = tiles <= 2;
    const auto place = [&](int step) { return (stay ? step % tiles : step) % 2 * TILE * WIDTH; };
    const auto fetch_tile = [&](int step) {
        if (step >= (stay ? tiles : 2 * tiles)) return;
        const int tile = step % tiles * TILE, present = min(TILE, length - tile);
        fetch<WIDTH>(keys + place(step), of.k, start + tile, present, TILE, head, width);
        fetch<WIDTH>(values + place(step), of.v, start + tile, present, TILE, head, width);
    };
    fetch<WIDTH>(shared, of.q, first_row, asking, queries, head, width);
    fetch<WIDTH>(d_out, of.d_out, first_row, asking, queries, head, width);
    fetch_tile(0);
    copy_commit();

    Row rows[2];
    rows[0].begin(), rows[1].begin();
    float sums[WIDTH / 8][4];
    clear(sums);
    for (int step = 0; step < steps; ++step) {
        fetch_tile(step + 1);
        copy_commit();
        copy_wait<1>();
        sync_block();  // this tile has landed for all
        if (busy) {
            float scores[TILE / 8][4], slopes[TILE / 8][4];
            const int present = length - step % tiles * TILE, t = lane_id() % 4;
            products<WIDTH>(scores, shared + mine, keys + place(step), present);
            products<WIDTH>(slopes, d_out + mine, values + place(step), present);
            const uint32_t drawn = draw_of_queries(kept, sequence, head, first + warp_id() * ROWS, step % tiles * TILE);
#pragma unroll
            for (int j = 0; j < TILE / 8; ++j) drop_of_queries(slopes[j], kept, drawn, j);
#pragma unroll
            for (int j = 0; j < TILE / 8; ++j)
#pragma unroll
                for (int e = 0; e < 4; ++e) scores[j][e] = 8 * j + 2 * t + (e & 1) < present ? scores[j][e] * scale * 1.44269504f : -INFINITY;
            if (step < tiles) {
                collect(rows, scores, slopes);
                if (step + 1 == tiles) rows[0].end(), rows[1].end();
            }
            if (step >= tiles || steps == 1) {
#pragma unroll
                for (int j = 0; j < TILE / 8; ++j)
#pragma unroll
                    for (int e = 0; e < 4; ++e) {
                        const Row& row = rows[e / 2];
                        slopes[j][e] = exp2_fast(scores[j][e] - row.largest) * row.sum * (slopes[j][e] - row.moment) * scale;
                    }
                mix<WIDTH>(sums, slopes, keys + place(step), present);
            }
        }
        sync_block();  // all are done with it: its place may be filled
    }
    copy_wait<0>();

    const int g = lane_id() / 4, row = first_row + warp_id() * ROWS, count = asking - warp_id() * ROWS;
#pragma unroll
    for (int half = 0; half < 2; ++half)
        if (lane_id() % 4 == 0 && g + 8 * half < count)
            store(of.row(row + g + 8 * half, head), make_float4(rows[half].largest, rows[half].sum, rows[half].moment, 0.0f));
    put<WIDTH>(d_q + size_t(row) * d_q_stride + head * width, size_t(d_q_stride), count, shared + mine, sums, width);
}

template <class T, int WIDTH, class Kept>
DEVICE void attention_backward_keys(T* d_k, T* d_v, int d_stride, const Attended<T>& of, const Kept& kept) {
    constexpr int STEP = (WIDTH > 64 ? 32 : 64) / (Kept::DROPS ? 2 : 1);  // queries of a tile: registers for no more
    SHARED(T, shared);
    const int count = int(blockDim.x) / WARP * ROWS, width = of.width;
    T* const values = shared + count * WIDTH;                                       // [count, WIDTH]
    T* const queries = values + count * WIDTH;                                      // [2][STEP, WIDTH]
    T* const d_out = queries + 2 * STEP * WIDTH;                                    // [2][STEP, WIDTH]
    float* const rows = reinterpret_cast<float*>(d_out + 2 * STEP * WIDTH);         // [2][STEP, 4]
    const int sequence = of.tiles[2 * blockIdx.x], first = of.tiles[2 * blockIdx.x + 1], head = blockIdx.y;
    const int start = of.starts[sequence], length = int(of.starts[sequence + 1]) - start;
    const int asking = of.first_only ? 1 : length, first_query = of.first_only ? sequence : start;
    const int mine = warp_id() * ROWS * WIDTH;
    const float scale = 1.0f / sqrtf(float(width));

    const auto fetch_tile = [&](int tile) {
        const int place = tile / STEP % 2, present = min(STEP, asking - tile), query = first_query + tile;
        fetch<WIDTH>(queries + place * STEP * WIDTH, of.q, query, present, STEP, head, width);
        fetch<WIDTH>(d_out + place * STEP * WIDTH, of.d_out, query, present, STEP, head, width);
        for (int i = threadIdx.x; i < STEP; i += blockDim.x)  // zeros for queries that are not there: their weights are 0
            copy_async(rows + (place * STEP + i) * 4, i < present ? of.row(query + i, head) : of.rows, i < present);
    };
    fetch<WIDTH>(shared, of.k, start + first, min(count, length - first), count, head, width);
    fetch<WIDTH>(values, of.v, start + first, min(count, length - first), count, head, width);
    fetch_tile(0);
    copy_commit();

    float d_keys[WIDTH / 8][4], d_values[WIDTH / 8][4];
    clear(d_keys), clear(d_values);
    for (int tile = 0; tile < asking; tile += STEP) {
        if (tile + STEP < asking) fetch_tile(tile + STEP);
        copy_commit();
        copy_wait<1>();
        sync_block();  // this tile has landed for all
        const int place = tile / STEP % 2;
        const uint32_t drawn = draw_of_keys<STEP / 8>(kept, sequence, head, tile, first + warp_id() * ROWS);
        float weights[STEP / 8][4], slopes[STEP / 8][4];
        products<WIDTH>(weights, shared + mine, queries + place * STEP * WIDTH, STEP);
        products<WIDTH>(slopes, values + mine, d_out + place * STEP * WIDTH, STEP);
        const int t = lane_id() % 4;
#pragma unroll
        for (int j = 0; j < STEP / 8; ++j)
#pragma unroll
            for (int e = 0; e < 2; ++e) {
                const float4 row = load<float4>(rows + (place * STEP + 8 * j + 2 * t + e) * 4);
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    float& weight = weights[j][2 * half + e];
                    float& slope = slopes[j][2 * half + e];
                    const float factor = factor_of_key(kept, drawn, j, e, half);
                    weight = exp2_fast(weight * scale * 1.44269504f - row.x) * row.y;
                    slope = weight * (slope * factor - row.z) * scale;
                    weight *= factor;
                }
            }
        mix<WIDTH>(d_values, weights, d_out + place * STEP * WIDTH, STEP);
        mix<WIDTH>(d_keys, slopes, queries + place * STEP * WIDTH, STEP);
        sync_block();  // all are done with it: its place may be filled
    }
    copy_wait<0>();

    const int here = first + warp_id() * ROWS;
    const size_t at = size_t(start + here) * d_stride + head * width;
    put<WIDTH>(d_k + at, size_t(d_stride), length - here, shared + mine, d_keys, width);
    put<WIDTH>(d_v + at, size_t(d_stride), length - here, values + mine, d_values, width);
}

#define ATTENDED_PARAMETERS(T)                                                                                                                 \
    const T *q, int q_stride, const T *k, int k_stride, const T *v, int v_stride, const T *d_out, float *rows, const unsigned *tiles,          \
        const unsigned *starts, int first_only, int heads, int width
#define ATTENDED(T)                                                                                                                            \
    Attended<T>{View<T>{q, q_stride}, View<T>{k, k_stride}, View<T>{v, v_stride}, View<T>{d_out, heads * width}, rows, tiles, starts,          \
                first_only, heads, width}

// By the largest D: 32, 64, 128. Three blocks side by side, of the widest two: the compiler comes to that by itself but for queries.
#define ATTENTION_BACKWARD(T, WIDTH)                                                                                                           \
    KERNEL_BLOCKS(attention_backward_queries_##T##_##WIDTH, 128, WIDTH > 64 ? 2 : 3, T* d_q, int d_q_stride, ATTENDED_PARAMETERS(T)) {         \
        await_kernels();                                                                                                                       \
        attention_backward_queries<T, WIDTH>(d_q, d_q_stride, ATTENDED(T), Whole{});                                                           \
    }                                                                                                                                          \
    KERNEL(attention_backward_keys_##T##_##WIDTH, 128, T* d_k, T* d_v, int d_stride, ATTENDED_PARAMETERS(T)) {                                 \
        await_kernels();                                                                                                                       \
        attention_backward_keys<T, WIDTH>(d_k, d_v, d_stride, ATTENDED(T), Whole{});                                                           \
    }
#define ATTENTION_BACKWARD_DROPOUT(T, WIDTH)                                                                                                   \
    KERNEL_BLOCKS(attention_backward_queries_dropout_##T##_##WIDTH, 128, WIDTH > 64 ? 2 : 3, T* d_q, int d_q_stride, ATTENDED_PARAMETERS(T),   \
                  DROPOUT_PARAMETERS) {                                                                                                        \
        await_kernels();                                                                                                                       \
        attention_backward_queries<T, WIDTH>(d_q, d_q_stride, ATTENDED(T), DROPOUT);                                                           \
    }                                                                                                                                          \
    KERNEL(attention_backward_keys_dropout_##T##_##WIDTH, 128, T* d_k, T* d_v, int d_stride, ATTENDED_PARAMETERS(T), DROPOUT_PARAMETERS) {     \
        await_kernels();                                                                                                                       \
        attention_backward_keys<T, WIDTH>(d_k, d_v, d_stride, ATTENDED(T), DROPOUT);                                                           \
    }
