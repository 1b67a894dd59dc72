// Exact search: every pair of a query and a chunk's rows scored as src/search/pair.rs defines it, bit for bit, and both ends of each query's
// ranking kept while scores stream past: no score reaches global memory but those that might be kept.
//
//   score = finish( Σ_t rate_t · weight_t · (h_q,t · h_i,t + s_t),  norm_q · norm_i ),  or −‖h_q − h_i‖
//
//   features   T [sets, rows, E]       deltas   f32 [sets, rows, K] or null       norms   f32 [rows] or null       indices   u64 [rows]
//   asked      f32 [passes, Q, E]      biases   f32 [passes, Q]                   own_norms   f32 [Q]
//   weights    f32 [passes, Q, K], or null; then classes i32 [passes, Q], or null: 1             pass_sets i32, rates f32 [passes]
//   group_of   i32 [rows], −1 for rows that are not searched; or null: all rows are, in one group
//   kept       entries [Q, G, 2, capacity]: the highest, then the lowest          counts   i32 [Q, G, 2]    limits   f32 [Q, G, 2]
//   after      entries [Q, G, 2] that those kept come after; or null              pending, totals   u64 [Q, G, LIMBS], or null
//
// search_scan   A dot product is sixteen chains, one a lane of half a warp, and a tree over them. Half a warp takes 8 rows × 4 queries, a block 64 × 8.
//               A score that reaches a limit is put behind those kept already; where there is no room it is only counted.
// search_select One block sorts one end of one query's group, cuts it to the k best and notes the last one's score as the limit to reach.
//
// A total is the exact sum of all scores of a group, as src/search/sum.rs holds it: whole numbers, so that no order shows in it. A scan adds to
// `pending`, by way of shared memory where all of a block's sums fit; search_select adds that to `totals`, once all that was scanned is kept.
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
constexpr int LIMBS = 10;           // of an exact sum, 32 bits each and room to carry
constexpr int SHARED_GROUPS = 16;   // whose totals a block adds up in shared memory
constexpr float LARGEST = 0x1.fffffep127f;

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
    const int* group_of;

    DEVICE int group(int row) const { return group_of ? group_of[row] : 0; }
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
    int groups;
    const uint4* after;
    uint64_t* pending;
};

// Some rows of a matrix, by where they begin: offsets take half the registers of pointers.
template <class T, int N>
struct RowsOf {
    const T* matrix;
    int starts[N];

    // From `first` on; where there are fewer, the last again.
    DEVICE RowsOf(const T* matrix, int first, int count, int width) : matrix(matrix) {
#pragma unroll
        for (int i = 0; i < N; ++i) starts[i] = min(first + i, count - 1) * width;
    }
    DEVICE float at(int row, int column) const { return widen(matrix[starts[row] + column]); }
};

// Half a warp's products of 8 rows and 4 queries: each lane is left with those of pairs `lane` and `lane + 16`, pair p being row p % 8 and query p / 8.
template <class T, bool DISTANCE>
DEVICE void products(float (&own)[2], const RowsOf<T, HALF_ROWS>& rows, const RowsOf<float, WARP_QUERIES>& queries, int width) {
    const int lane = lane_id() % LANES;
    float sums[PAIRS];
#pragma unroll
    for (int p = 0; p < PAIRS; ++p) sums[p] = 0.0f;
    for (int step = 0; step < width; step += LANES) {
        const int at = step + lane;
        float row[HALF_ROWS], query[WARP_QUERIES];
#pragma unroll
        for (int r = 0; r < HALF_ROWS; ++r) row[r] = at < width ? rows.at(r, at) : 0.0f;
#pragma unroll
        for (int q = 0; q < WARP_QUERIES; ++q) query[q] = at < width ? queries.at(q, at) : 0.0f;
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

// Whether a comes before b at this end: by score, then by ascending index, then by row.
DEVICE bool before(const Entry& a, const Entry& b, bool lowest) {
    if (a.score != b.score) return lowest ? a.score < b.score : a.score > b.score;
    if (a.index() != b.index()) return a.index() < b.index();
    return a.row < b.row;
}

DEVICE void offer(const Found& found, int end, bool lowest, const Entry& entry) {
    const float limit = found.limits[end];
    if (lowest ? entry.score > limit : entry.score < limit) return;
    if (found.after && !before(load_entry(found.after + end), entry, lowest)) return;
    const int place = atomic_increment(found.counts + end);
    if (place < found.capacity) store_entry(found.kept + size_t(end) * found.capacity + place, entry);
}

// Adds a score, cut to what is finite, in units of 2⁻¹⁴⁹: its significand lies across two limbs at most.
DEVICE void add_exactly(uint64_t* limbs, float score) {
    const unsigned bits = __float_as_uint(fminf(fmaxf(score, -LARGEST), LARGEST));
    const unsigned exponent = bits >> 23 & 0xff, fraction = bits & 0x7fffff;
    const unsigned shift = exponent ? exponent - 1 : 0;
    const uint64_t units = uint64_t(exponent ? fraction | 1u << 23 : fraction) << shift % 32;
    const uint64_t low = units & 0xffffffffu, high = units >> 32;
    const bool negative = bits >> 31;
    if (low) atomic_add(limbs + shift / 32, negative ? 0 - low : low);
    if (high) atomic_add(limbs + shift / 32 + 1, negative ? 0 - high : high);
}

// Whether none of a warp's 16 rows is searched.
DEVICE bool are_passed_over(const Rows& rows, int first_row) {
    if (!rows.group_of) return false;
    bool any = false;
    for (int row = first_row; row < min(first_row + 2 * HALF_ROWS, rows.count); ++row) any |= rows.group_of[row] >= 0;
    return !any;
}

// One block's 64 rows against its 8 queries.
template <class T, bool DISTANCE>
DEVICE void scan(const Rows& rows, const Queries& queries, const Found& found, uint64_t* totals, int width, int classes) {
    const int lane = lane_id() % LANES, half = lane_id() / LANES;
    const int warp_row = int(blockIdx.x) * BLOCK_ROWS + warp_id() % ROW_WARPS * 2 * HALF_ROWS, first_row = warp_row + half * HALF_ROWS;
    const int own_query = warp_id() / ROW_WARPS * WARP_QUERIES, first_query = int(blockIdx.y) * BLOCK_QUERIES + own_query;
    const int row = first_row + lane % HALF_ROWS;
    if (are_passed_over(rows, warp_row)) return;
    float sums[2] = {0.0f, 0.0f};
    for (int pass = 0; pass < queries.passes; ++pass) {
        const size_t set = size_t(queries.pass_sets[pass]) * rows.stride;
        const RowsOf<T, HALF_ROWS> of_rows(static_cast<const T*>(rows.features) + set * width, first_row, rows.count, width);
        const RowsOf<float, WARP_QUERIES> of_queries(queries.features + size_t(pass) * queries.count * width, first_query, queries.count, width);
        float own[2];
        products<T, DISTANCE>(own, of_rows, of_queries, width);
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
    if (row >= rows.count || rows.group(row) < 0) return;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        const int in_block = own_query + lane / HALF_ROWS + 2 * i, query = int(blockIdx.y) * BLOCK_QUERIES + in_block;
        if (query >= queries.count) continue;
        const Entry entry{finished(sums[i], rows.norms, queries.norms[query], row), unsigned(rows.first + row), rows.indices[2 * row], rows.indices[2 * row + 1]};
        const int group = query * found.groups + rows.group(row);
        offer(found, 2 * group, false, entry);
        offer(found, 2 * group + 1, true, entry);
        if (totals) add_exactly(totals + (in_block * found.groups + rows.group(row)) * LIMBS, entry.score);
        else if (found.pending) add_exactly(found.pending + size_t(group) * LIMBS, entry.score);
    }
}

// A block's scan; its totals in shared memory, where few enough for that to spare anything, and from there to `pending`.
template <class T, bool DISTANCE>
DEVICE void scan_block(const Rows& rows, const Queries& queries, const Found& found, uint64_t* shared, int width, int classes) {
    uint64_t* const totals = found.pending && found.groups <= SHARED_GROUPS ? shared : nullptr;
    const int sums = BLOCK_QUERIES * found.groups * LIMBS;
    if (totals) {
        for (int i = threadIdx.x; i < sums; i += blockDim.x) totals[i] = 0;
        sync_block();
    }
    scan<T, DISTANCE>(rows, queries, found, totals, width, classes);
    if (!totals) return;
    sync_block();
    const int there = (queries.count - int(blockIdx.y) * BLOCK_QUERIES) * found.groups * LIMBS;
    uint64_t* const pending = found.pending + size_t(blockIdx.y) * sums;
    for (int i = threadIdx.x; i < min(sums, there); i += blockDim.x)
        if (totals[i]) atomic_add(pending + i, totals[i]);
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

KERNEL(search_select, 512, uint4* kept, int* counts, float* limits, uint64_t* pending, uint64_t* totals, int k, int capacity) {
    SHARED(uint4, entries);
    const int end = 2 * int(blockIdx.x) + int(blockIdx.y);
    const bool lowest = blockIdx.y == 1;
    if (pending && !lowest && threadIdx.x < LIMBS) {
        const size_t limb = size_t(blockIdx.x) * LIMBS + threadIdx.x;
        totals[limb] += pending[limb];
        pending[limb] = 0;
    }
    uint4* const own = kept + size_t(end) * capacity;
    const int count = min(counts[end], capacity);
    int size = 1;
    while (size < count) size *= 2;
    const Entry last{lowest ? INFINITY : -INFINITY, 0xffffffffu, 0xffffffffu, 0xffffffffu};
    for (int i = threadIdx.x; i < size; i += blockDim.x) store_entry(entries + i, i < count ? load_entry(own + i) : last);
    sort(entries, size, lowest);
    const int left = min(count, k);
    for (int i = threadIdx.x; i < left; i += blockDim.x) store_entry(own + i, load_entry(entries + i));
    if (threadIdx.x == 0) {
        counts[end] = left;
        if (left == k) limits[end] = load_entry(entries + k - 1).score;
    }
}

#define SEARCH(T)                                                                                                                              \
    KERNEL(search_scan_##T, 256, const void* features, const float* deltas, const float* norms, const unsigned* indices, const int* group_of,  \
           int first, int rows, int stride,                                                                                                    \
           const float* asked, const float* biases, const float* weights, const int* classes_of, const float* own_norms, const int* pass_sets, \
           const float* rates, int queries, int passes, uint4* kept, int* counts, const float* limits, int capacity, int groups,               \
           const uint4* after, uint64_t* pending, int width, int classes, int distance) {                                                      \
        SHARED(uint64_t, shared);                                                                                                              \
        const Rows of_rows{features, deltas, norms, indices, rows, first, stride, group_of};                                                   \
        const Queries of_queries{asked, biases, weights, classes_of, own_norms, pass_sets, rates, queries, passes};                            \
        const Found found{kept, counts, limits, capacity, groups, after, pending};                                                             \
        if (distance) scan_block<T, true>(of_rows, of_queries, found, shared, width, classes);                                                 \
        else scan_block<T, false>(of_rows, of_queries, found, shared, width, classes);                                                \
    }

SEARCH(f32)
SEARCH(f16)
SEARCH(bf16)
