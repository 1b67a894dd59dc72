// The way back through attention in exact f32, with P = softmax(q kᵀ / √D) computed again, a tile at a time, no L × L matrix anywhere:
//
//   dP = dO vᵀ      dS = P ∘ (dP − rowsum(P ∘ dP)) / √D      dq = dS k      dk = dSᵀ q      dv = Pᵀ dO
//
// Two kernels, because each sum then has one owner and one order, and no atomics are needed: attention_backward_queries has 64 queries a block and
// goes through the keys twice, first for each row's largest score, sum and mean of dP (which it leaves in `rows`), then for dq;
// attention_backward_keys has 64 keys a block and goes through the queries once, for dk and dv.
//
//   q, k, v, d_out   f32, row r of a head at tensor + r · stride + head · D       d_q, d_k, d_v   f32, the same of their own strides
//   tiles            u32 pairs (sequence, first query or key of the tile within it), one a block.x; block.y is the head
//   starts           u32 [B + 1]          rows   f32 [rows of q, H, 4]: largest score, 1 / sum, mean of dP, 0
//
// Sums go by ascending rows of the sequence: a row's bits depend on its own sequence alone. Bound by arithmetic: 18 · L · D operations a query and head.
//
// attention_backward_*_dropout: F the factors that the weights were dropped by, dP = F ∘ (dO vᵀ) and dv = (F ∘ P)ᵀ dO.
#include "attention_exact.cuh"

struct Attended {
    View q, k, v, d_out;
    float* rows;
    const unsigned* tiles;
    const unsigned* starts;
    int first_only, heads, width;

    DEVICE float* row(int query, int head) const { return rows + (size_t(query) * heads + head) * 4; }
};

template <int WIDTH, class Kept>
DEVICE void attention_backward_queries(float* d_q, int d_q_stride, const Attended& of, const Kept& kept) {
    typedef Lanes<WIDTH> Of;
    constexpr int KEYS = 32, MINE = KEYS / Of::COLUMNS;  // of a tile, and of a lane
    SHARED(float, shared);
    float* const queries = shared;                 // [TILE, WIDTH]
    float* const d_out = queries + TILE * WIDTH;   // [TILE, WIDTH]
    float* const keys = d_out + TILE * WIDTH;      // [KEYS, WIDTH]
    float* const values = keys + KEYS * WIDTH;     // [KEYS, WIDTH], and then in their place
    float* const slopes = values;                  // [TILE, KEYS]: dS
    const int width = of.width;
    const int sequence = of.tiles[2 * blockIdx.x], first = of.tiles[2 * blockIdx.x + 1], head = blockIdx.y;
    const int start = of.starts[sequence], length = int(of.starts[sequence + 1]) - start;
    const int first_row = of.first_only ? sequence : start + first;
    const int asking = of.first_only ? 1 : min(TILE, length - first);
    const bool busy = Of::busy(asking);  // whether a query is the warp's
    const Softmax softmax(width);

    float largest[OWN], sum[OWN], moment[OWN];  // of the softmax, and the mean of dP under it
#pragma unroll
    for (int i = 0; i < OWN; ++i) largest[i] = -INFINITY, sum[i] = moment[i] = 0.0f;
    Sums<WIDTH> sums;

    fetch<WIDTH, TILE>(queries, of.q, first_row, asking, head, width);
    fetch<WIDTH, TILE>(d_out, of.d_out, first_row, asking, head, width);
    const int tiles = (length + KEYS - 1) / KEYS;
    for (int step = 0; step < 2 * tiles; ++step) {
        const int tile = step % tiles * KEYS, present = min(KEYS, length - tile);
        if (step > 0) sync_block();  // all are done with the last tile
        fetch<WIDTH, KEYS>(keys, of.k, start + tile, present, head, width);
        copy_commit();
        fetch<WIDTH, KEYS>(values, of.v, start + tile, present, head, width);
        copy_commit();
        copy_wait<1>();
        sync_block();  // the block's own and the keys have landed for all
        float scores[OWN][MINE], d_weights[OWN][MINE];
        if (busy) multiply<WIDTH, 2>(scores, queries, keys);
        copy_wait<0>();
        sync_block();  // the values have landed for all
        if (busy) multiply<WIDTH, 2>(d_weights, d_out, values);
        if (step >= tiles) sync_block();  // all are done with the values
        if (!busy) continue;

        DrawsOfQueries<WIDTH, KEYS>(kept, sequence, head, first, tile).drop(kept, d_weights);
        hide<WIDTH>(scores, present);
        if (step < tiles) {
#pragma unroll
            for (int i = 0; i < OWN; ++i) {
                const float next = fmaxf(largest[i], Of::largest(highest(scores[i])));  // finite: every tile has a key
                const float shrink = softmax.weight(largest[i] - next);                 // of nothing, before the first tile
                largest[i] = next, sum[i] *= shrink, moment[i] *= shrink;
#pragma unroll
                for (int j = 0; j < MINE; ++j) {
                    const float weight = softmax.weight(scores[i][j] - next);
                    sum[i] += weight;
                    moment[i] = fmaf(weight, d_weights[i][j], moment[i]);
                }
                if (step + 1 == tiles) sum[i] = 1.0f / Of::sum(sum[i]), moment[i] = Of::sum(moment[i]) * sum[i];
            }
            continue;
        }
#pragma unroll
        for (int i = 0; i < OWN; ++i)
#pragma unroll
            for (int j = 0; j < MINE; ++j)
                d_weights[i][j] = softmax.weight(scores[i][j] - largest[i]) * sum[i] * (d_weights[i][j] - moment[i]);
        put_weights<WIDTH>(slopes, d_weights);
        mix<WIDTH, KEYS>(sums, slopes, keys, present);
    }

    if (!busy) return;
#pragma unroll
    for (int i = 0; i < OWN; ++i) {
        if (Of::column() == 0 && Of::own(i) < asking)
            store(of.row(first_row + Of::own(i), head), make_float4(largest[i], sum[i], moment[i], 0.0f));
        sums.scale(i, softmax.scale);
    }
    sums.put(d_q + size_t(first_row) * d_q_stride + head * width, d_q_stride, asking, width);
}

template <int WIDTH, class Kept>
DEVICE void attention_backward_keys(float* d_k, float* d_v, int d_stride, const Attended& of, const Kept& kept) {
    typedef Lanes<WIDTH> Of;
    constexpr int QUERIES = WIDTH > 64 ? 16 : 32, MINE = QUERIES / Of::COLUMNS;  // of a tile, and of a lane
    SHARED(float, shared);
    float* const keys = shared;                       // [TILE, WIDTH]
    float* const values = keys + TILE * WIDTH;        // [TILE, WIDTH]
    float* const queries = values + TILE * WIDTH;     // [QUERIES, WIDTH]
    float* const d_out = queries + QUERIES * WIDTH;   // [QUERIES, WIDTH]
    float* const weights = d_out + QUERIES * WIDTH;   // [TILE, QUERIES]: P, F ∘ P and then dS, by key
    const int width = of.width;
    const int sequence = of.tiles[2 * blockIdx.x], first = of.tiles[2 * blockIdx.x + 1], head = blockIdx.y;
    const int start = of.starts[sequence], length = int(of.starts[sequence + 1]) - start;
    const int asking = of.first_only ? 1 : length, first_query = of.first_only ? sequence : start;
    const int owned = min(TILE, length - first);
    const bool busy = Of::busy(owned);  // whether a key is the warp's
    const Softmax softmax(width);

    Sums<WIDTH> d_keys, d_values;
    fetch<WIDTH, TILE>(keys, of.k, start + first, owned, head, width);
    fetch<WIDTH, TILE>(values, of.v, start + first, owned, head, width);
    for (int tile = 0; tile < asking; tile += QUERIES) {
        const int present = min(QUERIES, asking - tile);
        if (tile > 0) sync_block();  // all are done with the last tile
        fetch<WIDTH, QUERIES>(queries, of.q, first_query + tile, present, head, width);
        fetch<WIDTH, QUERIES>(d_out, of.d_out, first_query + tile, present, head, width);
        copy_commit();
        float4 rows[MINE];  // of queries that are not there: a weight of zero
#pragma unroll
        for (int j = 0; j < MINE; ++j) {
            const int query = Of::column() + Of::COLUMNS * j;
            rows[j] = query < present ? load<float4>(of.row(first_query + tile + query, head)) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        }
        copy_wait<0>();
        sync_block();  // the block's own and the tile have landed for all
        if (!busy) continue;

        const DrawsOfKeys<WIDTH, MINE> draws(kept, sequence, head, tile, first);
        float scores[OWN][MINE], d_weights[OWN][MINE];
        multiply<WIDTH, Kept::DROPS ? 1 : 2>(scores, keys, queries);
#pragma unroll
        for (int i = 0; i < OWN; ++i)
#pragma unroll
            for (int j = 0; j < MINE; ++j) scores[i][j] = softmax.weight(scores[i][j] - rows[j].x) * rows[j].y;
        put_weights<WIDTH>(weights, scores);  // registers are dear
        multiply<WIDTH, Kept::DROPS ? 1 : 2>(d_weights, values, d_out);
        take_weights<WIDTH>(scores, weights);
#pragma unroll
        for (int i = 0; i < OWN; ++i)
#pragma unroll
            for (int j = 0; j < MINE; ++j) {
                const float factor = draws.factor(kept, i, j);
                d_weights[i][j] = scores[i][j] * (d_weights[i][j] * factor - rows[j].z);
                scores[i][j] *= factor;
            }
        put_weights<WIDTH>(weights, scores);
        mix<WIDTH, QUERIES>(d_values, weights, d_out, present);
        put_weights<WIDTH>(weights, d_weights);
        mix<WIDTH, QUERIES>(d_keys, weights, queries, present);
    }

    if (!busy) return;
#pragma unroll
    for (int i = 0; i < OWN; ++i) d_keys.scale(i, softmax.scale);
    const size_t at = size_t(start + first) * d_stride + head * width;
    d_keys.put(d_k + at, d_stride, owned, width);
    d_values.put(d_v + at, d_stride, owned, width);
}

#define ATTENDED_PARAMETERS                                                                                                                    \
    const float *q, int q_stride, const float *k, int k_stride, const float *v, int v_stride, const float *d_out, float *rows,                 \
        const unsigned *tiles, const unsigned *starts, int first_only, int heads, int width
#define ATTENDED                                                                                                                               \
    Attended{View{q, q_stride}, View{k, k_stride}, View{v, v_stride}, View{d_out, heads * width}, rows, tiles, starts, first_only, heads, width}

// By the largest D: 32, 64, 128.
#define ATTENTION_BACKWARD(WIDTH)                                                                                                              \
    KERNEL(attention_backward_queries_f32_##WIDTH, Lanes<WIDTH>::THREADS, float* d_q, int d_q_stride, ATTENDED_PARAMETERS) {                   \
        await_kernels();                                                                                                                       \
        attention_backward_queries<WIDTH>(d_q, d_q_stride, ATTENDED, Whole{});                                                                 \
    }                                                                                                                                          \
    KERNEL(attention_backward_queries_dropout_f32_##WIDTH, Lanes<WIDTH>::THREADS, float* d_q, int d_q_stride, ATTENDED_PARAMETERS,             \
           DROPOUT_PARAMETERS) {                                                                                                               \
        await_kernels();                                                                                                                       \
        attention_backward_queries<WIDTH>(d_q, d_q_stride, ATTENDED, DROPOUT);                                                                 \
    }                                                                                                                                          \
    KERNEL(attention_backward_keys_dropout_f32_##WIDTH, Lanes<WIDTH>::THREADS, float* d_k, float* d_v, int d_stride, ATTENDED_PARAMETERS,      \
           DROPOUT_PARAMETERS) {                                                                                                               \
        await_kernels();                                                                                                                       \
        attention_backward_keys<WIDTH>(d_k, d_v, d_stride, ATTENDED, DROPOUT);                                                                 \
    }                                                                                                                                          \
    KERNEL(attention_backward_keys_f32_##WIDTH, Lanes<WIDTH>::THREADS, float* d_k, float* d_v, int d_stride, ATTENDED_PARAMETERS) {            \
        await_kernels();                                                                                                                       \
        attention_backward_keys<WIDTH>(d_k, d_v, d_stride, ATTENDED, Whole{});                                                                 \
    }

ATTENTION_BACKWARD(32)
ATTENTION_BACKWARD(64)
ATTENTION_BACKWARD(128)
