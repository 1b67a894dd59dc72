// Attention maps on request: for each sequence of L tokens [L, L] numbers ([1, L] where first tokens alone ask), over all heads.
//
//   out       f32, a sequence's numbers at offsets[sequence]
//   kind      0, mean softmax weights; 1, summed scaled scores; 2, mean of max(P ∘ dP, 0), with dP = dO vᵀ over the record's seed scale
//   q, k, v, d_out   T, row r of a head at tensor + r · stride + head · D; d_out null but for kind 2
//   tiles     u32 pairs (sequence, first of `span` queries within it), one a block.x       starts   u32 [B + 1]       scales   f32 [B]
//
// A block takes 32 queries, four threads each, and alone adds to their rows of `out`, head by head: a sum's order is the heads'. Asked for
// rarely, and no larger than its answer: exact f32 arithmetic whatever T.
#include "activation.cuh"
#include "reduce.cuh"
#include "vector.cuh"

constexpr int TILE = 32;   // queries of a block, and keys of a tile
constexpr int PARTS = 4;   // threads of a query
constexpr int KEYS = TILE / PARTS;

template <class T>
struct View {
    const T* data;
    int stride;
};

DEVICE int row_stride(int width) { return width | 1; }

// Rows of a head to shared memory as f32, zeros where there is no row.
template <class T>
DEVICE void gather(float* to, View<T> view, int first, int present, int head, int width) {
    for (int i = threadIdx.x; i < TILE * width; i += blockDim.x) {
        const int r = i / width, c = i % width;
        to[r * row_stride(width) + c] = r < present ? widen(view.data[size_t(first + r) * view.stride + head * width + c]) : 0.0f;
    }
}

DEVICE void products(float (&out)[KEYS], const float* row, const float* tile, int part, int width) {
#pragma unroll
    for (int j = 0; j < KEYS; ++j) {
        const float* const other = tile + (part + PARTS * j) * row_stride(width);
        float sum = 0.0f;
#pragma unroll 4
        for (int c = 0; c < width; ++c) sum = fmaf(row[c], other[c], sum);
        out[j] = sum;
    }
}

template <class T>
struct Map {
    int kind;
    View<T> q, k, v, d_out;
    int start, length;  // of the sequence
    int first_row, asking;
    int heads, width;
    float share;  // what the sum over heads is multiplied by
    float* shared;

    DEVICE int stride() const { return row_stride(width); }
    DEVICE float* keys() const { return shared + TILE * stride(); }
    DEVICE float* d_outs() const { return keys() + TILE * stride(); }
    DEVICE float* values() const { return d_outs() + TILE * stride(); }

    // The scores of a tile of keys; −∞ for those that are not there.
    DEVICE void score(float (&scores)[KEYS], int tile, int head) const {
        const int query = threadIdx.x / PARTS, part = threadIdx.x % PARTS, present = min(TILE, length - tile);
        sync_block();  // all are done with the last tile
        gather(keys(), k, start + tile, present, head, width);
        if (kind == 2) gather(values(), v, start + tile, present, head, width);
        sync_block();
        products(scores, shared + query * stride(), keys(), part, width);
#pragma unroll
        for (int j = 0; j < KEYS; ++j) scores[j] = part + PARTS * j < present ? scores[j] : -INFINITY;
    }

    // Adds one head's numbers to the rows of `out` that begin at `rows`.
    DEVICE void add(float* rows, int head) const {
        const int query = threadIdx.x / PARTS, part = threadIdx.x % PARTS;
        const float scale = 1.0f / sqrtf(float(width));
        sync_block();  // all are done with the last head
        gather(shared, q, first_row, asking, head, width);
        if (kind == 2) gather(d_outs(), d_out, first_row, asking, head, width);
        float largest = -INFINITY, sum = 0.0f, scores[KEYS], slopes[KEYS];
        for (int tile = 0; kind != 1 && tile < length; tile += TILE) {
            score(scores, tile, head);
            float highest = -INFINITY, partial = 0.0f;
#pragma unroll
            for (int j = 0; j < KEYS; ++j) highest = fmaxf(highest, scores[j]);
            const float next = fmaxf(largest, quad_max(highest));  // finite: every tile has a key
#pragma unroll
            for (int j = 0; j < KEYS; ++j) partial += Exact::exp((scores[j] - next) * scale);
            sum = fmaf(sum, Exact::exp((largest - next) * scale), quad_sum(partial));
            largest = next;
        }
        for (int tile = 0; tile < length; tile += TILE) {
            score(scores, tile, head);
            if (kind == 2) products(slopes, d_outs() + query * stride(), values(), part, width);
#pragma unroll
            for (int j = 0; j < KEYS; ++j) {
                const int key = tile + part + PARTS * j;
                if (query >= asking || key >= length) continue;
                float value = scores[j] * scale;
                if (kind != 1) value = Exact::exp((scores[j] - largest) * scale) / sum;
                if (kind == 2) value = larger(value * slopes[j], 0.0f);  // NaN passes
                float& cell = rows[query * length + key];  // at most 32 rows: an int holds it
                value = head == 0 ? value : cell + value;
                cell = head == heads - 1 ? value * share : value;
            }
        }
    }
};

template <class T>
DEVICE void attention_map(float* out, const unsigned* offsets, Map<T> map, const float* scales, const unsigned* tiles, const unsigned* starts, int span, int first_only) {
    SHARED(float, shared);
    const int sequence = tiles[2 * blockIdx.x], begin = tiles[2 * blockIdx.x + 1];
    map.shared = shared;
    map.start = starts[sequence], map.length = int(starts[sequence + 1]) - map.start;
    map.share = map.kind == 1 ? 1.0f : 1.0f / float(map.heads);
    if (map.kind == 2) map.share /= scales[sequence];  // a power of two: exact
    const int end = first_only ? 1 : min(begin + span, map.length);
    for (int first = begin; first < end; first += TILE) {
        map.first_row = first_only ? sequence : map.start + first;
        map.asking = min(TILE, end - first);
        for (int head = 0; head < map.heads; ++head) map.add(out + offsets[sequence] + size_t(first) * map.length, head);
    }
}

#define ATTENTION_MAP(T)                                                                                                                       \
    KERNEL(attention_map_##T, TILE* PARTS, float* out, const unsigned* offsets, int kind, const T* q, int q_stride, const T* k, int k_stride,  \
           const T* v, int v_stride, const T* d_out, const float* scales, const unsigned* tiles, const unsigned* starts, int span,             \
           int first_only, int heads, int width) {                                                                                             \
        await_kernels();                                                                                                                       \
        const Map<T> map{kind, View<T>{q, q_stride}, View<T>{k, k_stride}, View<T>{v, v_stride}, View<T>{d_out, heads * width}, 0, 0, 0, 0,    \
                         heads, width, 0.0f, nullptr};                                                                                         \
        attention_map(out, offsets, map, scales, tiles, starts, span, first_only);                                                             \
    }

ATTENTION_MAP(f32)
ATTENTION_MAP(f16)
ATTENTION_MAP(bf16)
