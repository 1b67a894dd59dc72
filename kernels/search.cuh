// What the kernels of a search share: the rows, the queries, what is kept of them, and the score of a pair as src/search/pair.rs defines it.
//
//   score = finish( Σ_t rate_t · weight_t · (h_q,t · h_i,t + s_t s_i),  norm_q · norm_i ),  or −‖h_q − h_i‖
//
//   features   T [sets, rows, E]       deltas   f32 [sets, rows, K] or null       norms   f32 [rows] or null       indices   u64 [rows]
//   coordinates   f32 [rows], s_i; or null: 1
//   asked      f32 [passes, Q, E]      biases   f32 [passes, Q]                   own_norms   f32 [Q]
//   classes    i32 [passes, Q], the class whose δ_i weighs, or −1; or null         weights   f32 [passes, Q, K], δ_q for the others; or null: 1
//   pass_sets  i32 [passes]            rates    f32 [passes]
//   group_of   i32 [rows], −1 for rows that are not searched; or null: all rows are, in one group
//   kept       entries [Q, G, 2, capacity]: the highest, then the lowest          counts   i32 [Q, G, 2]    limits   f32 [Q, G, 2]
//   after      entries [Q, G, 2] that those kept come after; or null              pending, totals   u64 [Q, G, LIMBS], or null
#pragma once
#include "vector.cuh"

constexpr int LANES = 16;           // chains of a dot product
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
    const float* coordinates;
    const float* norms;
    const unsigned* indices;  // u64, as pairs
    const int* group_of;
    int first, count;         // the number of the first over all chunks, and rows to score
    int stride;               // rows from one set to the next

    DEVICE int group(int row) const { return group_of ? group_of[row] : 0; }
    DEVICE Entry entry(int row, float score) const { return Entry{score, unsigned(first + row), indices[2 * row], indices[2 * row + 1]}; }
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

// Some rows of a matrix, and a lane's place in each: places go on by steps, where an address for each load takes more time than what is done with it.
template <class T, int N>
struct RowsOf {
    const T* places[N];

    // From `first` on; where there are fewer, the last again.
    DEVICE RowsOf(const T* matrix, int first, int count, int width) {
#pragma unroll
        for (int i = 0; i < N; ++i) places[i] = matrix + size_t(min(first + i, count - 1)) * width + lane_id() % LANES;
    }

    DEVICE void move(ptrdiff_t by) {
#pragma unroll
        for (int i = 0; i < N; ++i) places[i] += by;
    }

    DEVICE void read(float (&numbers)[N]) const {
#pragma unroll
        for (int i = 0; i < N; ++i) numbers[i] = widen(*places[i]);
    }
};

// Half a warp's products of R rows and Q queries, pair p being row p % R and query p / R: sixteen chains, one a lane, and a tree over them. Every lane's
// `take(p, product)` is called for each. The loads of all steps that are written out together are on their way before the first of them is multiplied;
// for those of more there are no registers.
template <class T, bool DISTANCE, int R, int Q, class Take>
DEVICE void products(RowsOf<T, R>& rows, RowsOf<float, Q>& queries, int width, Take take) {
    float sums[R * Q], row[R], query[Q];
#pragma unroll
    for (int p = 0; p < R * Q; ++p) sums[p] = 0.0f;
    const auto add = [&] {
#pragma unroll
        for (int p = 0; p < R * Q; ++p) {
            const float a = query[p / R], b = row[p % R], difference = a - b;
            sums[p] = DISTANCE ? fmaf(difference, difference, sums[p]) : fmaf(a, b, sums[p]);
        }
    };
    const int whole = width / LANES, beyond = width % LANES;
#pragma unroll (R * Q <= 8 ? 4 : 2)
    for (int step = 0; step < whole; ++step) {
        rows.read(row), queries.read(query);
        rows.move(LANES), queries.move(LANES);
        add();
    }
    if (beyond > 0) {
#pragma unroll
        for (int r = 0; r < R; ++r) row[r] = 0.0f;
#pragma unroll
        for (int q = 0; q < Q; ++q) query[q] = 0.0f;
        if (lane_id() % LANES < beyond) rows.read(row), queries.read(query);
        add();
    }
    rows.move(-whole * LANES), queries.move(-whole * LANES);
#pragma unroll
    for (int p = 0; p < R * Q; ++p) {
#pragma unroll
        for (int mask = LANES / 2; mask > 0; mask /= 2) sums[p] += shuffle_xor(sums[p], mask);
        take(p, sums[p]);
    }
}

// What a record weighs for a query in one pass: 1, δ_i[c], or δ_q · δ_i as one chain.
DEVICE float weight_of(const Queries& queries, const float* deltas, int pass, int query, int classes) {
    const int at = pass * queries.count + query;
    const int chosen = queries.classes_of ? queries.classes_of[at] : -1;
    if (chosen >= 0) return deltas[chosen];
    if (!queries.weights) return 1.0f;
    const float* const own = queries.weights + size_t(at) * classes;
    float sum = 0.0f;
#pragma unroll 1
    for (int k = 0; k < classes; ++k) sum = fmaf(own[k], deltas[k], sum);
    return sum;
}

// A pair's sum and one more pass of it, of this product; of a distance there is no other.
template <bool DISTANCE>
DEVICE float with_pass(float sum, float product, const Rows& rows, const Queries& queries, int pass, int row, int query, int classes) {
    if (DISTANCE) return 0.0f - sqrtf(product);
    const size_t place = size_t(queries.pass_sets[pass]) * rows.stride + row;
    const float weight = weight_of(queries, rows.deltas + place * classes, pass, query, classes);
    const float bias = queries.biases[pass * queries.count + query] * (rows.coordinates ? rows.coordinates[row] : 1.0f);
    return fmaf(queries.rates[pass], weight * (product + bias), sum);
}

// Over the norms, 0 where their product is 0; and neither NaN nor −0.
DEVICE float finished(float sum, const float* norms, float own_norm, int row) {
    if (norms) {
        const float divisor = own_norm * norms[row];
        sum = divisor == 0.0f ? 0.0f : sum / divisor;
    }
    return sum != sum ? 0.0f : sum + 0.0f;
}

// Puts an entry behind those there are at an end; where there is no room it is only counted.
DEVICE void put(const Found& found, int end, const Entry& entry) {
    const int place = atomic_increment(found.counts + end);
    if (place < found.capacity) store_entry(found.kept + size_t(end) * found.capacity + place, entry);
}

#define ROWS_AND_QUERIES                                                                                                                      \
    const void *features, const float *deltas, const float *coordinates, const float *norms, const unsigned *indices, const int *group_of,  \
        int first, int rows, int stride, const float *asked, const float *biases, const float *weights, const int *classes_of,               \
        const float *own_norms, const int *pass_sets, const float *rates, int queries, int passes
#define OF_ROWS Rows{features, deltas, coordinates, norms, indices, group_of, first, rows, stride}
#define OF_QUERIES Queries{asked, biases, weights, classes_of, own_norms, pass_sets, rates, queries, passes}
