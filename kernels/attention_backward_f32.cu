// The way back through attention in exact f32, with P = softmax(q kᵀ / √D) computed again, 32 rows at a time, no L × L matrix anywhere:
//
//   dP = dO vᵀ      dS = P ∘ (dP − rowsum(P ∘ dP)) / √D      dq = dS k      dk = dSᵀ q      dv = Pᵀ dO
//
// Two kernels, because each sum then has one owner and one order, and no atomics are needed: attention_backward_queries has 32 queries a block and
// goes through the keys twice, first for each row's largest score, sum and mean of dP (which it leaves in `rows`), then for dq;
// attention_backward_keys has 32 keys a block and goes through the queries once, for dk and dv.
//
//   q, k, v, d_out   f32, row r of a head at tensor + r · stride + head · D       d_q, d_k, d_v   f32, the same of their own strides
//   tiles            u32 pairs (sequence, first query or key of the tile within it), one a block.x; block.y is the head
//   starts           u32 [B + 1]          rows   f32 [rows of q, H, 4]: largest score, 1 / sum, mean of dP, 0
//
// Four threads have a row of the block's own and go through a tile of others. Sums go by ascending rows of the sequence: a row's bits depend on
// its own sequence alone. Bound by arithmetic: 18 · L · D operations a query and head.
//
// attention_backward_*_dropout: F the factors that the weights were dropped by, dP = F ∘ (dO vᵀ) and dv = (F ∘ P)ᵀ dO.
#include "activation.cuh"
#include "dropout.cuh"
#include "reduce.cuh"
#include "vector.cuh"

constexpr int TILE = 32;   // rows of a block, and of a tile it goes through
constexpr int PARTS = 4;   // threads of a row
constexpr int OTHERS = TILE / PARTS;

struct View {
    const float* data;
    int stride;
};

struct Attended {
    View q, k, v, d_out;
    float* rows;
    const unsigned* tiles;
    const unsigned* starts;
    int first_only, heads, width;

    DEVICE float* row(int query, int head) const { return rows + (size_t(query) * heads + head) * 4; }
};

// From one row of shared memory to the next: odd, so that rows begin on different banks.
DEVICE int row_stride(int width) { return width | 1; }

// Rows of a head to shared memory, zeros where there is no row.
DEVICE void gather(float* to, View view, int first, int present, int head, int width) {
    for (int i = threadIdx.x; i < TILE * width; i += blockDim.x) {
        const int r = i / width, c = i % width;
        to[r * row_stride(width) + c] = r < present ? view.data[size_t(first + r) * view.stride + head * width + c] : 0.0f;
    }
}

// The products of a row with a thread's own of a tile's.
DEVICE void products(float (&out)[OTHERS], const float* row, const float* tile, int part, int width) {
#pragma unroll
    for (int j = 0; j < OTHERS; ++j) {
        const float* const other = tile + (part + PARTS * j) * row_stride(width);
        float sum = 0.0f;
#pragma unroll 4
        for (int c = 0; c < width; ++c) sum = fmaf(row[c], other[c], sum);
        out[j] = sum;
    }
}

// sums += Σ weights · tile, of a thread's own columns.
template <int COLUMNS>
DEVICE void mix(float (&sums)[COLUMNS], const float* weights, const float* tile, int present, int part, int width) {
    for (int other = 0; other < present; ++other) {
        const float weight = weights[other];
#pragma unroll
        for (int c = 0; c < COLUMNS; ++c)
            if (part + PARTS * c < width) sums[c] = fmaf(weight, tile[other * row_stride(width) + part + PARTS * c], sums[c]);
    }
}

template <int COLUMNS>
DEVICE void put(float* out, const float (&sums)[COLUMNS], int part, int width) {
#pragma unroll
    for (int c = 0; c < COLUMNS; ++c)
        if (part + PARTS * c < width) out[part + PARTS * c] = sums[c];
}

// Of one query: its softmax, and the mean of dP under it.
struct Row {
    float largest, sum, moment;

    // Takes one tile of scores (−∞ for keys that are not there) and dP.
    DEVICE void collect(const float (&scores)[OTHERS], const float (&slopes)[OTHERS], float scale) {
        float highest = -INFINITY;
#pragma unroll
        for (int j = 0; j < OTHERS; ++j) highest = fmaxf(highest, scores[j]);
        const float next = fmaxf(largest, quad_max(highest));       // finite: every tile has a key
        const float shrink = Exact::exp((largest - next) * scale);  // 0 before the first tile
        float part = 0.0f, mean = 0.0f;
#pragma unroll
        for (int j = 0; j < OTHERS; ++j) {
            const float weight = Exact::exp((scores[j] - next) * scale);  // 0 where there is no key
            part += weight;
            mean = fmaf(weight, slopes[j], mean);
        }
        largest = next;
        sum = fmaf(sum, shrink, quad_sum(part));
        moment = fmaf(moment, shrink, quad_sum(mean));
    }
};

template <int COLUMNS, class Kept>
DEVICE void attention_backward_queries(float* d_q, int d_q_stride, const Attended& of, const Kept& kept) {
    SHARED(float, shared);
    const int width = of.width, stride = row_stride(width);
    float* const d_out = shared + TILE * stride;   // [TILE, D]
    float* const keys = d_out + TILE * stride;     // [TILE, D]
    float* const values = keys + TILE * stride;    // [TILE, D]
    float* const slopes = values + TILE * stride;  // [TILE, TILE + 1]: dS
    const int sequence = of.tiles[2 * blockIdx.x], first = of.tiles[2 * blockIdx.x + 1], head = blockIdx.y;
    const int start = of.starts[sequence], length = int(of.starts[sequence + 1]) - start;
    const int first_row = of.first_only ? sequence : start + first;
    const int asking = of.first_only ? 1 : min(TILE, length - first);
    const int query = threadIdx.x / PARTS, part = threadIdx.x % PARTS;
    const float scale = 1.0f / sqrtf(float(width));

    gather(shared, of.q, first_row, asking, head, width);
    gather(d_out, of.d_out, first_row, asking, head, width);
    Row row{-INFINITY, 0.0f, 0.0f};
    float sums[COLUMNS];
#pragma unroll
    for (int c = 0; c < COLUMNS; ++c) sums[c] = 0.0f;

    const int tiles = (length + TILE - 1) / TILE;
    for (int step = 0; step < 2 * tiles; ++step) {
        const int tile = step % tiles * TILE, present = min(TILE, length - tile);
        sync_block();  // all are done with the last tile
        gather(keys, of.k, start + tile, present, head, width);
        gather(values, of.v, start + tile, present, head, width);
        sync_block();
        float scores[OTHERS], d_weights[OTHERS];
        products(scores, shared + query * stride, keys, part, width);
        products(d_weights, d_out + query * stride, values, part, width);
#pragma unroll
        for (int j = 0; j < OTHERS; j += 2) {
            const float2 factors = kept.of_weights(sequence, head, first + query, tile + PARTS * j, part);
            d_weights[j] *= factors.x, d_weights[j + 1] *= factors.y;
        }
#pragma unroll
        for (int j = 0; j < OTHERS; ++j) scores[j] = part + PARTS * j < present ? scores[j] : -INFINITY;
        if (step < tiles) {
            row.collect(scores, d_weights, scale);
            if (step + 1 == tiles) row.sum = 1.0f / row.sum, row.moment *= row.sum;
            continue;
        }
#pragma unroll
        for (int j = 0; j < OTHERS; ++j) {
            const float weight = Exact::exp((scores[j] - row.largest) * scale) * row.sum;
            slopes[query * (TILE + 1) + part + PARTS * j] = weight * (d_weights[j] - row.moment) * scale;
        }
        sync_warp();  // a query's are written and read by the same warp
        mix(sums, slopes + query * (TILE + 1), keys, present, part, width);
        sync_warp();
    }

    if (query >= asking) return;
    if (part == 0) store(of.row(first_row + query, head), make_float4(row.largest, row.sum, row.moment, 0.0f));
    put(d_q + size_t(first_row + query) * d_q_stride + head * width, sums, part, width);
}

template <int COLUMNS, class Kept>
DEVICE void attention_backward_keys(float* d_k, float* d_v, int d_stride, const Attended& of, const Kept& kept) {
    SHARED(float, shared);
    const int width = of.width, stride = row_stride(width);
    float* const values = shared + TILE * stride;            // [TILE, D]
    float* const queries = values + TILE * stride;           // [TILE, D]
    float* const d_out = queries + TILE * stride;            // [TILE, D]
    float* const weights = d_out + TILE * stride;            // [TILE, TILE + 1]: P, by key
    float* const slopes = weights + TILE * (TILE + 1);       // [TILE, TILE + 1]: dS, by key
    const int sequence = of.tiles[2 * blockIdx.x], first = of.tiles[2 * blockIdx.x + 1], head = blockIdx.y;
    const int start = of.starts[sequence], length = int(of.starts[sequence + 1]) - start;
    const int asking = of.first_only ? 1 : length, first_query = of.first_only ? sequence : start;
    const int key = threadIdx.x / PARTS, part = threadIdx.x % PARTS, mine = key * (TILE + 1);
    const float scale = 1.0f / sqrtf(float(width));

    gather(shared, of.k, start + first, min(TILE, length - first), head, width);
    gather(values, of.v, start + first, min(TILE, length - first), head, width);
    float d_keys[COLUMNS], d_values[COLUMNS];
#pragma unroll
    for (int c = 0; c < COLUMNS; ++c) d_keys[c] = d_values[c] = 0.0f;

    for (int tile = 0; tile < asking; tile += TILE) {
        const int present = min(TILE, asking - tile);
        sync_block();  // all are done with the last tile
        gather(queries, of.q, first_query + tile, present, head, width);
        gather(d_out, of.d_out, first_query + tile, present, head, width);
        // A thread draws for one query and eight keys, to where the weights will be.
        kept.fill(weights + 8 * part * (TILE + 1) + key, TILE + 1, sequence, head, tile + key, first + 8 * part);
        sync_block();
        float scores[OTHERS], d_weights[OTHERS];
        products(scores, shared + key * stride, queries, part, width);
        products(d_weights, values + key * stride, d_out, part, width);
#pragma unroll
        for (int j = 0; j < OTHERS; ++j) {
            const int query = part + PARTS * j;
            float weight = 0.0f, slope = 0.0f;
            if (query < present) {
                const float4 row = load<float4>(of.row(first_query + tile + query, head));
                const float factor = Kept::DROPS ? weights[mine + query] : 1.0f;
                weight = Exact::exp((scores[j] - row.x) * scale) * row.y;
                slope = weight * (d_weights[j] * factor - row.z) * scale;
                weight *= factor;
            }
            weights[mine + query] = weight, slopes[mine + query] = slope;
        }
        sync_warp();  // a key's are written and read by the same warp
        mix(d_values, weights + mine, d_out, present, part, width);
        mix(d_keys, slopes + mine, queries, present, part, width);
        sync_warp();
    }

    if (first + key >= length) return;
    const size_t at = size_t(start + first + key) * d_stride + head * width;
    put(d_k + at, d_keys, part, width);
    put(d_v + at, d_values, part, width);
}

#define ATTENDED_PARAMETERS                                                                                                                    \
    const float *q, int q_stride, const float *k, int k_stride, const float *v, int v_stride, const float *d_out, float *rows,                 \
        const unsigned *tiles, const unsigned *starts, int first_only, int heads, int width
#define ATTENDED                                                                                                                               \
    Attended{View{q, q_stride}, View{k, k_stride}, View{v, v_stride}, View{d_out, heads * width}, rows, tiles, starts, first_only, heads, width}

// By the largest D: 32, 64, 128.
#define ATTENTION_BACKWARD(WIDTH)                                                                                                              \
    KERNEL(attention_backward_queries_f32_##WIDTH, TILE* PARTS, float* d_q, int d_q_stride, ATTENDED_PARAMETERS) {                             \
        attention_backward_queries<WIDTH / PARTS>(d_q, d_q_stride, ATTENDED, Whole{});                                                         \
    }                                                                                                                                          \
    KERNEL(attention_backward_queries_dropout_f32_##WIDTH, TILE* PARTS, float* d_q, int d_q_stride, ATTENDED_PARAMETERS, DROPOUT_PARAMETERS) { \
        attention_backward_queries<WIDTH / PARTS>(d_q, d_q_stride, ATTENDED, DROPOUT);                                                         \
    }                                                                                                                                          \
    KERNEL(attention_backward_keys_dropout_f32_##WIDTH, TILE* PARTS, float* d_k, float* d_v, int d_stride, ATTENDED_PARAMETERS,                \
           DROPOUT_PARAMETERS) {                                                                                                               \
        attention_backward_keys<WIDTH / PARTS>(d_k, d_v, d_stride, ATTENDED, DROPOUT);                                                         \
    }                                                                                                                                          \
    KERNEL(attention_backward_keys_f32_##WIDTH, TILE* PARTS, float* d_k, float* d_v, int d_stride, ATTENDED_PARAMETERS) {                      \
        attention_backward_keys<WIDTH / PARTS>(d_k, d_v, d_stride, ATTENDED, Whole{});                                                         \
    }

ATTENTION_BACKWARD(32)
ATTENTION_BACKWARD(64)
ATTENTION_BACKWARD(128)
