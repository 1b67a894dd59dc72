// Attention maps on request: for each sequence of L tokens [L, L] numbers ([1, L] where first tokens alone ask), over all heads.
//
//   out       f32, a sequence's numbers at offsets[sequence]
//   kind      0, mean softmax weights; 1, summed scaled scores; 2, mean of max(P ∘ dP, 0), with dP = dO vᵀ over the record's seed scale
//   q, k, v, d_out   T, row r of a head at tensor + r · stride + head · D; d_out null but for kind 2
//   tiles     u32 pairs (sequence, first of some queries within it), one a block.x; block.y is which 32 of those        starts   u32 [B + 1]
//   scales    f32 [B]
//
// A block takes 32 queries, four threads each, and alone adds to their rows of `out`, head by head: a sum's order is the heads'. Asked for
// rarely, and no larger than its answer: exact f32 arithmetic whatever T.
#include "activation.cuh"
#include "port_blocks.cuh"
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

// Numbers from row to row in shared memory: an odd number of four, so that neighbouring rows' are in different banks.
DEVICE int row_stride(int width) { return ((width + 3) & ~3) | 4; }

// Rows of a head to shared memory as f32, zeros where there is no row: four neighbouring threads have one.
template <class T>
DEVICE void gather(float* to, View<T> view, int first, int present, int head, int width) {
    constexpr int N = 8;
    const int r = threadIdx.x / PARTS, part = threadIdx.x % PARTS;
    const T* const from = view.data + size_t(first + min(r, present - 1)) * view.stride + head * width;
    to += r * row_stride(width);
    if (width % N == 0 && is_aligned<N>(from)) {
#pragma unroll 2
        for (int c = N * part; c < width; c += N * PARTS) {
            const Vector<N> some = load_vector<N>(from + c);
            store_vector(to + c, r < present ? some : filled<N>(0.0f));
        }
    } else {
        for (int c = part; c < width; c += PARTS) to[c] = r < present ? widen(from[c]) : 0.0f;
    }
}

// A row's products with this part's keys, each one chain by ascending columns.
DEVICE void products(float (&sums)[KEYS], const float* row, const float* tile, int part, int width) {
    const int stride = row_stride(width), whole = width & ~3;
#pragma unroll
    for (int j = 0; j < KEYS; ++j) sums[j] = 0.0f;
#pragma unroll 1
    for (int c = 0; c < whole; c += 4) {
        const Vector<4> own = load_vector<4>(row + c);
#pragma unroll
        for (int j = 0; j < KEYS; ++j) {
            const Vector<4> other = load_vector<4>(tile + (part + PARTS * j) * stride + c);
#pragma unroll
            for (int i = 0; i < 4; ++i) sums[j] = fmaf(own.x[i], other.x[i], sums[j]);
        }
    }
#pragma unroll 1
    for (int c = whole; c < width; ++c)
#pragma unroll
        for (int j = 0; j < KEYS; ++j) sums[j] = fmaf(row[c], tile[(part + PARTS * j) * stride + c], sums[j]);
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
DEVICE void attention_map(float* out, const unsigned* offsets, Map<T> map, const float* scales, const unsigned* tiles, const unsigned* starts, int first_only) {
    SHARED(float, shared);
    const int sequence = tiles[2 * blockIdx.x], first = tiles[2 * blockIdx.x + 1] + TILE * blockIdx.y;
    map.shared = shared;
    map.start = starts[sequence], map.length = int(starts[sequence + 1]) - map.start;
    map.share = map.kind == 1 ? 1.0f : 1.0f / float(map.heads);
    if (map.kind == 2) map.share /= scales[sequence];  // a power of two: exact
    map.first_row = first_only ? sequence : map.start + first;
    map.asking = first_only ? 1 : min(TILE, map.length - first);
    if (map.asking <= 0) return;
    for (int head = 0; head < map.heads; ++head) map.add(out + offsets[sequence] + size_t(first) * map.length, head);
}

#define ATTENTION_MAP(T)                                                                                                                       \
    KERNEL_BLOCKS(attention_map_##T, TILE* PARTS, 3, float* out, const unsigned* offsets, int kind, const T* q, int q_stride, const T* k,      \
                  int k_stride, const T* v, int v_stride, const T* d_out, const float* scales, const unsigned* tiles, const unsigned* starts,  \
                  int first_only, int heads, int width) {                                                                                      \
        await_kernels();                                                                                                                       \
        const Map<T> map{kind, View<T>{q, q_stride}, View<T>{k, k_stride}, View<T>{v, v_stride}, View<T>{d_out, heads * width}, 0, 0, 0, 0,    \
                         heads, width, 0.0f, nullptr};                                                                                         \
        attention_map(out, offsets, map, scales, tiles, starts, first_only);                                                                   \
    }

ATTENTION_MAP(f32)
ATTENTION_MAP(f16)
ATTENTION_MAP(bf16)
