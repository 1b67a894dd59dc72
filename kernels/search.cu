// Exact search: every pair of a query and a chunk's rows scored as src/search/pair.rs defines it, bit for bit, and both ends of each query's
// ranking kept while scores stream past: no score reaches global memory but those that might be kept.
//
//   score = finish( Σ_t rate_t · weight_t · (h_q,t · h_i,t + s_t),  norm_q · norm_i ),  or −‖h_q − h_i‖
//
//   features   T [sets, rows, E]       deltas   f32 [sets, rows, K] or null       norms   f32 [rows] or null       indices   u64 [rows]
//   asked      f32 [passes, Q, E]      biases   f32 [passes, Q]                   own_norms   f32 [Q]
//   weights    f32 [passes, Q, K], or null; then classes i32 [passes, Q], or null: 1             pass_sets i32, rates f32 [passes]
//   kept       entries [Q, 2, capacity]: the highest, then the lowest             counts   i32 [Q, 2]       limits   f32 [Q, 2]
//
// search_scan   A dot product is sixteen chains, one a lane of half a warp, and a tree over them. Half a warp takes 8 rows × 4 queries, a block 64 × 8.
//               A score that reaches a limit is put behind those kept already; where there is no room it is only counted.
// search_select One block sorts one end of one query, cuts it to the k best and notes the last one's score as the limit to reach.
//
// Bound by arithmetic from some 20 queries on, below by memory: rows are read once for each 8 queries, through the second-level cache.
#include "vector.cuh"

constexpr int LANES = 16;           // chains of a dot product
constexpr int HALF_ROWS = 8;        // of half a warp
constexpr int WARP_QUERIES = 4;
constexpr int ROW_WARPS = 4;        // warps of a block over rows
constexpr int BLOCK_ROWS = 2 * HALF_ROWS * ROW_WARPS;
constexpr int BLOCK_QUERIES = 2 * WARP_QUERIES;
constexpr int PAIRS = HALF_ROWS * WARP_QUERIES;

// A record that may be kept: 16 bytes.
struct Entry {
    float score;
    unsigned row;
    unsigned index_low, index_high;

    DEVICE uint64_t index() const { return uint64_t(index_high) << 32 | index_low; }
};
DEVICE Entry load_entry(const uint4* at) {
    const uint4 words = load<uint4>(at);
    return Entry{__uint_as_float(words.x), words.y, words.z, words.w};
}
DEVICE void store_entry(uint4* at, Entry entry) { store(at, make_uint4(__float_as_uint(entry.score), entry.row, entry.index_low, entry.index_high)); }

struct Rows {
    const void* features;
    const float* deltas;
    const float* norms;
    const unsigned* indices;  // u64, as pairs
    int count, first;         // rows to score, and the number of the first over all chunks
    int stride;               // rows from one set to the next
};

struct Queries {
    const float* features;
    const float* biases;
    const float* weights;
    const int* classes_of;
    const float* norms;
    const int* pass_sets;
    const float* rates;
    int count, passes;
};

struct Found {
    uint4* kept;
    int* counts;
    const float* limits;
    int capacity;
};

// Half a warp's products of 8 rows and 4 queries: each lane is left with those of pairs `lane` and `lane + 16`, pair p being row p % 8 and query p / 8.
template <class T, bool DISTANCE>
DEVICE void products(float (&own)[2], const T* const (&rows)[HALF_ROWS], const float* const (&queries)[WARP_QUERIES], int width) {
    const int lane = lane_id() % LANES;
    float sums[PAIRS];
#pragma unroll
    for (int p = 0; p < PAIRS; ++p) sums[p] = 0.0f;
    for (int step = 0; step < width; step += LANES) {
        const int at = step + lane;
        float row[HALF_ROWS], query[WARP_QUERIES];
#pragma unroll
        for (int r = 0; r < HALF_ROWS; ++r) row[r] = at < width ? widen(rows[r][at]) : 0.0f;
#pragma unroll
        for (int q = 0; q < WARP_QUERIES; ++q) query[q] = at < width ? queries[q][at] : 0.0f;
#pragma unroll
        for (int p = 0; p < PAIRS; ++p) {
            const float a = query[p / HALF_ROWS], b = row[p % HALF_ROWS], difference = a - b;
            sums[p] = DISTANCE ? fmaf(difference, difference, sums[p]) : fmaf(a, b, sums[p]);
        }
    }
#pragma unroll
    for (int p = 0; p < PAIRS; ++p) {
#pragma unroll
        for (int mask = LANES / 2; mask > 0; mask /= 2) sums[p] += shuffle_xor(sums[p], mask);
        if (p % LANES == lane) own[p / LANES] = sums[p];
    }
}

// What a record weighs for a query in one pass: 1, δ_i[c], or δ_q · δ_i as one chain.
DEVICE float weight_of(const Queries& queries, const float* deltas, int pass, int query, int classes) {
    const int at = pass * queries.count + query;
    if (queries.classes_of) return deltas[queries.classes_of[at]];
    if (!queries.weights) return 1.0f;
    const float* const own = queries.weights + size_t(at) * classes;
    float sum = 0.0f;
    for (int k = 0; k < classes; ++k) sum = fmaf(own[k], deltas[k], sum);
    return sum;
}

// Over the norms, 0 where their product is 0; and neither NaN nor −0.
DEVICE float finished(float sum, const float* norms, float own_norm, int row) {
    if (norms) {
        const float divisor = own_norm * norms[row];
        sum = divisor == 0.0f ? 0.0f : sum / divisor;
    }
    return sum != sum ? 0.0f : sum + 0.0f;
}

DEVICE void offer(const Found& found, int end_of_query, bool reached, const Entry& entry) {
    if (!reached) return;
    const int place = atomic_increment(found.counts + end_of_query);
    if (place < found.capacity) store_entry(found.kept + size_t(end_of_query) * found.capacity + place, entry);
}

template <class T, bool DISTANCE>
DEVICE void scan(const Rows& rows, const Queries& queries, const Found& found, int width, int classes) {
    const int lane = lane_id() % LANES, half = lane_id() / LANES;
    const int first_row = int(blockIdx.x) * BLOCK_ROWS + (warp_id() % ROW_WARPS * 2 + half) * HALF_ROWS;
    const int first_query = int(blockIdx.y) * BLOCK_QUERIES + warp_id() / ROW_WARPS * WARP_QUERIES;
    const int row = first_row + lane % HALF_ROWS;
    float sums[2] = {0.0f, 0.0f};
    for (int pass = 0; pass < queries.passes; ++pass) {
        const size_t set = size_t(queries.pass_sets[pass]) * rows.stride;
        const T* row_data[HALF_ROWS];
        const float* query_data[WARP_QUERIES];
#pragma unroll
        for (int r = 0; r < HALF_ROWS; ++r)
            row_data[r] = static_cast<const T*>(rows.features) + (set + min(first_row + r, rows.count - 1)) * width;
#pragma unroll
        for (int q = 0; q < WARP_QUERIES; ++q)
            query_data[q] = queries.features + (size_t(pass) * queries.count + min(first_query + q, queries.count - 1)) * width;
        float own[2];
        products<T, DISTANCE>(own, row_data, query_data, width);
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const int query = first_query + lane / HALF_ROWS + 2 * i;
            if (row >= rows.count || query >= queries.count) continue;
            if (DISTANCE) {
                sums[i] = 0.0f - sqrtf(own[i]);
                continue;
            }
            const float weight = weight_of(queries, rows.deltas + (set + row) * classes, pass, query, classes);
            sums[i] = fmaf(queries.rates[pass], weight * (own[i] + queries.biases[pass * queries.count + query]), sums[i]);
        }
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        const int query = first_query + lane / HALF_ROWS + 2 * i;
        if (row >= rows.count || query >= queries.count) continue;
        const Entry entry{finished(sums[i], rows.norms, queries.norms[query], row), unsigned(rows.first + row), rows.indices[2 * row], rows.indices[2 * row + 1]};
        offer(found, 2 * query, entry.score >= found.limits[2 * query], entry);
        offer(found, 2 * query + 1, entry.score <= found.limits[2 * query + 1], entry);
    }
}

// Whether a comes before b at this end: by score, then by ascending index, then by row.
DEVICE bool before(const Entry& a, const Entry& b, bool lowest) {
    if (a.score != b.score) return lowest ? a.score < b.score : a.score > b.score;
    if (a.index() != b.index()) return a.index() < b.index();
    return a.row < b.row;
}

// A bitonic sort of `size` (a power of two) entries in shared memory.
DEVICE void sort(uint4* entries, int size, bool lowest) {
    for (int run = 2; run <= size; run *= 2)
        for (int stride = run / 2; stride > 0; stride /= 2) {
            sync_block();
            for (int i = threadIdx.x; i < size; i += blockDim.x) {
                const int other = i ^ stride;
                if (other < i) continue;
                const Entry a = load_entry(entries + i), b = load_entry(entries + other);
                const bool wrong = (i & run) == 0 ? before(b, a, lowest) : before(a, b, lowest);
                if (wrong) store_entry(entries + i, b), store_entry(entries + other, a);
            }
        }
    sync_block();
}

KERNEL(search_select, 512, uint4* kept, int* counts, float* limits, int k, int capacity) {
    SHARED(uint4, entries);
    const int end_of_query = 2 * int(blockIdx.x) + int(blockIdx.y);
    const bool lowest = blockIdx.y == 1;
    uint4* const own = kept + size_t(end_of_query) * capacity;
    const int count = min(counts[end_of_query], capacity);
    int size = 1;
    while (size < count) size *= 2;
    const Entry last{lowest ? INFINITY : -INFINITY, 0xffffffffu, 0xffffffffu, 0xffffffffu};
    for (int i = threadIdx.x; i < size; i += blockDim.x) store_entry(entries + i, i < count ? load_entry(own + i) : last);
    sort(entries, size, lowest);
    const int left = min(count, k);
    for (int i = threadIdx.x; i < left; i += blockDim.x) store_entry(own + i, load_entry(entries + i));
    if (threadIdx.x == 0) {
        counts[end_of_query] = left;
        if (left == k) limits[end_of_query] = load_entry(entries + k - 1).score;
    }
}

#define SEARCH(T)                                                                                                                              \
    KERNEL(search_scan_##T, 256, const void* features, const float* deltas, const float* norms, const unsigned* indices, int first, int rows,  \
           int stride, \
           const float* asked, const float* biases, const float* weights, const int* classes_of, const float* own_norms, const int* pass_sets, \
           const float* rates, int queries, int passes, uint4* kept, int* counts, const float* limits, int capacity, int width, int classes,   \
           int distance) {                                                                                                                     \
        const Rows of_rows{features, deltas, norms, indices, rows, first, stride};                                                                     \
        const Queries of_queries{asked, biases, weights, classes_of, own_norms, pass_sets, rates, queries, passes};                            \
        const Found found{kept, counts, limits, capacity};                                                                                     \
        if (distance) scan<T, true>(of_rows, of_queries, found, width, classes);                                                               \
        else scan<T, false>(of_rows, of_queries, found, width, classes);                                                                       \
    }

SEARCH(f32)
SEARCH(f16)
SEARCH(bf16)
