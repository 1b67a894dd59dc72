// Exact search: every pair of a query and a chunk's rows scored bit for bit (search.cuh has the definition and the arrays), and both ends of each
// query's ranking kept while scores stream past: no score reaches global memory but those that might be kept.
//
// search_scan     Half a warp takes 8 rows × 4 queries, a block 64 × 8; of one query (search_scan_one) 8 rows, a block 128. A score that reaches a limit is put behind those kept already; where there is
//                 no room it is only counted. Where records have several factors, a row's sum goes to `sums [Q, rows]` in place of that.
// search_add      adds up each record's sums in their order, and keeps the scores in the same way: record r's are those from offsets[r] to the next.
// search_rescore  Half a warp scores one record that search_bounds.cu put there without a score, and counts the query's.
// search_select   One block sorts one end of one query's group, cuts it to the k best and notes the last one's score as the limit to reach; where more
//                 had reached the end than there is room for, what it keeps is not the best: it notes the round in `overflowed [ends]`, the first
//                 such of an end.
// search_gather   What is kept of all ends without the room beyond, uint4 [ends, 1 + k]: how many and `overflowed`, then entries, zeros where there are
//                 fewer. A block takes an end.
//
// A total is the exact sum of all scores of a group, as src/search/sum.rs holds it: whole numbers, so that no order shows in it. A scan adds to
// `pending`, by way of shared memory where all of a block's sums fit; search_select adds that to `totals`, once all that was scanned is kept.
//
// Bound by memory while there are few queries, whose rows are read once for all of them: blocks of the same rows and other queries run side by side. Of many
// by what the first-level cache gives out, 12 loads of a warp beside 32 multiply-adds: some half of the arithmetic there is.
#include "port_blocks.cuh"
#include "reduce.cuh"
#include "search.cuh"

constexpr int HALF_ROWS = 8;        // of half a warp
constexpr int WARPS = 8;            // of a block
constexpr int WARP_QUERIES = 4;     // of a warp, where there are several
constexpr int SELECTING_WARPS = 16; // of a block of search_select
constexpr int BINS = 256;           // that entries fall into there
constexpr int SORTED_AT_ONCE = 128; // entries, which are sorted as soon as looked through

// Queries of a block, of which each warp has Q: one, or two warps' side by side.
template <int Q>
constexpr int BLOCK_QUERIES = Q == 1 ? 1 : 2 * Q;

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
    put(found, end, entry);
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

// Keeps a record's score where it reaches an end, and adds it to its group's total: in `totals`, of the block's `in_block`th query, where there are such.
DEVICE void keep(const Rows& rows, const Found& found, uint64_t* totals, int in_block, int query, int row, float score) {
    const Entry entry = rows.entry(row, score);
    const int group = query * found.groups + rows.group(row);
    offer(found, 2 * group, false, entry);
    offer(found, 2 * group + 1, true, entry);
    if (totals) add_exactly(totals + (in_block * found.groups + rows.group(row)) * LIMBS, score);
    else if (found.pending) add_exactly(found.pending + size_t(group) * LIMBS, score);
}

// Runs `step(totals)` for a block's queries, at most `most` from `first` on; its totals in shared memory, where few enough for that to spare anything,
// and from there to `pending`.
template <class Step>
DEVICE void with_totals(const Found& found, uint64_t* shared, int first, int most, int queries, Step step) {
    uint64_t* const totals = found.pending && found.groups <= SHARED_GROUPS ? shared : nullptr;
    const int sums = min(most, queries - first) * found.groups * LIMBS;
    if (totals) {
        for (int i = threadIdx.x; i < sums; i += blockDim.x) totals[i] = 0;
        sync_block();
    }
    step(totals);
    if (!totals) return;
    sync_block();
    uint64_t* const pending = found.pending + size_t(first) * found.groups * LIMBS;
    for (int i = threadIdx.x; i < sums; i += blockDim.x)
        if (totals[i]) atomic_add(pending + i, totals[i]);
}

// Which rows and queries a block has: blocks of all queries come one after another, so that rows are read from memory once and then from the caches.
template <int Q>
struct Share {
    int rows, first_query;
    DEVICE explicit Share(int queries) {
        const int beside = (queries + BLOCK_QUERIES<Q> - 1) / BLOCK_QUERIES<Q>;
        rows = int(blockIdx.x) / beside, first_query = int(blockIdx.x) % beside * BLOCK_QUERIES<Q>;
    }
};

// One block's rows against its queries, Q a warp.
template <class T, bool DISTANCE, int Q>
DEVICE void scan(Share<Q> share, const Rows& rows, const Queries& queries, const Found& found, uint64_t* totals, float* sums_of_factors, int width,
                 int classes) {
    constexpr int QUERY_WARPS = BLOCK_QUERIES<Q> / Q, ROW_WARPS = WARPS / QUERY_WARPS;
    constexpr int PAIRS = HALF_ROWS * Q, OWN = (PAIRS + LANES - 1) / LANES;  // of half a warp, and of a lane: pairs `lane`, `lane + 16`
    const int lane = lane_id() % LANES, half = lane_id() / LANES;
    const int warp_row = (share.rows * ROW_WARPS + warp_id() % ROW_WARPS) * 2 * HALF_ROWS, first_row = warp_row + half * HALF_ROWS;
    const int own_query = warp_id() / ROW_WARPS * Q, first_query = share.first_query + own_query;
    const int row = first_row + lane % HALF_ROWS;
    if (first_query >= queries.count || are_passed_over(rows, warp_row)) return;
    float sums[OWN] = {};
    RowsOf<T, HALF_ROWS> of_rows(static_cast<const T*>(rows.features), first_row, rows.count, width);
    RowsOf<float, Q> of_queries(queries.features, first_query, queries.count, width);
    for (int pass = 0; pass < queries.passes; ++pass) {
        const int before = pass > 0 ? queries.pass_sets[pass - 1] : 0;
        of_rows.move(ptrdiff_t(queries.pass_sets[pass] - before) * rows.stride * width);
        float own[OWN] = {};
        products<T, DISTANCE, HALF_ROWS, Q>(of_rows, of_queries, width, [&](int p, float product) {
            if (p % LANES == lane) own[p / LANES] = product;
        });
        of_queries.move(ptrdiff_t(queries.count) * width);
#pragma unroll
        for (int i = 0; i < OWN; ++i) {
            const int beside = lane / HALF_ROWS + 2 * i, query = first_query + beside;
            if (beside < Q && row < rows.count && query < queries.count)
                sums[i] = with_pass<DISTANCE>(sums[i], own[i], rows, queries, pass, row, query, classes);
        }
    }
    if (row >= rows.count || rows.group(row) < 0) return;
#pragma unroll
    for (int i = 0; i < OWN; ++i) {
        const int beside = lane / HALF_ROWS + 2 * i, in_block = own_query + beside, query = first_query + beside;
        if (beside >= Q || query >= queries.count) continue;
        if (sums_of_factors) sums_of_factors[size_t(query) * rows.count + row] = sums[i];
        else keep(rows, found, totals, in_block, query, row, finished(sums[i], rows.norms, queries.norms[query], row));
    }
}

// The score of the record that half a warp is for, if it is for one.
template <class T, bool DISTANCE>
DEVICE void rescore(const Rows& rows, const Queries& queries, uint4* kept, const int* counts, const int* scored, int* candidates, int capacity,
                    int width, int classes) {
    const int end = blockIdx.y, query = end / 2;
    const int place = scored[end] + (int(blockIdx.x) * int(blockDim.x) + int(threadIdx.x)) / LANES, count = counts[end];
    uint4* const at = kept + size_t(end) * capacity + max(0, min(place, count - 1));
    Entry entry = load_entry(at);
    const int row = int(entry.row) - rows.first;
    const bool is_here = place < count && row >= 0 && row < rows.count;  // others are of chunks that were scanned beside this one
    if (!warp_or(is_here)) return;  // candidates of a chunk lie side by side
    float sum = 0.0f;
    for (int pass = 0; pass < queries.passes; ++pass) {
        const T* const features = static_cast<const T*>(rows.features) + size_t(queries.pass_sets[pass]) * rows.stride * width;
        RowsOf<T, 1> of_row(features, is_here ? row : 0, rows.count, width);
        RowsOf<float, 1> of_query(queries.features + size_t(pass) * queries.count * width, query, queries.count, width);
        float own = 0.0f;
        products<T, DISTANCE, 1, 1>(of_row, of_query, width, [&](int, float product) { own = product; });
        if (is_here) sum = with_pass<DISTANCE>(sum, own, rows, queries, pass, row, query, classes);
    }
    if (!is_here || lane_id() % LANES) return;
    // One that may belong to both ends is counted at the first.
    if (end % 2 == 0 || entry.score == 0.0f) atomic_increment(candidates + query);
    entry.score = finished(sum, rows.norms, queries.norms[query], row);
    store_entry(at, entry);
}

// A bitonic sort of `size` (a power of two) entries in shared memory. Steps shorter than a warp are each warp's own.
DEVICE void sort(uint4* entries, int size, bool lowest) {
    bool own = false;  // whether the last step was
    for (int run = 2; run <= size; run *= 2)
        for (int stride = run / 2; stride > 0; stride /= 2) {
            if (own && stride < WARP) sync_warp();
            else sync_block();
            own = stride < WARP;
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

// Whole numbers in the order of an end, the best the largest: of the same sign floats are ordered as their bits are.
DEVICE unsigned key_of(float score, bool lowest) {
    const unsigned bits = __float_as_uint(score), ascending = bits >> 31 ? ~bits : bits | 0x80000000u;
    return lowest ? ~ascending : ascending;
}

// What a block's threads find out together in search_select.
struct Cut {
    unsigned most[SELECTING_WARPS], least[SELECTING_WARPS];  // keys
    int bins[BINS];
    int bin;    // the last of those that hold the k best
    int count;  // entries in those
};

// Puts some entries into shared memory, the k best among them, and returns how many. Entries fall into bins by the upper bits of what their keys have
// above the least; bins are taken from the best on, until there are k entries in them.
DEVICE int bring_best(uint4* entries, Cut& cut, const uint4* own, int count, int k, bool lowest) {
    const int thread = int(threadIdx.x), threads = int(blockDim.x), lane = lane_id();
    const auto key = [&](int i) { return key_of(load_entry(own + i).score, lowest); };
    unsigned most = 0, least = ~0u;
    for (int i = thread; i < count; i += threads) most = max(most, key(i)), least = min(least, key(i));
    most = warp_most(most), least = ~warp_most(~least);
    if (lane == 0) cut.most[warp_id()] = most, cut.least[warp_id()] = least;
    for (int i = thread; i < BINS; i += threads) cut.bins[i] = 0;
    if (thread == 0) cut.count = 0;
    sync_block();
    most = warp_most(lane < SELECTING_WARPS ? cut.most[lane] : 0), least = ~warp_most(~(lane < SELECTING_WARPS ? cut.least[lane] : ~0u));
    int shift = 0;
    while ((most - least) >> shift >= BINS) ++shift;
    const auto bin_of = [&](int i) { return int((key(i) - least) >> shift); };
    for (int i = thread; i < count; i += threads) atomic_increment(cut.bins + bin_of(i));
    sync_block();
    if (warp_id() == 0) {
        // A lane has eight bins, the first lane the best.
        constexpr int OWN = BINS / WARP;
        const int last = BINS - 1 - OWN * lane;
        int here = 0;
        for (int i = 0; i < OWN; ++i) here += cut.bins[last - i];
        int until = here;
        for (int step = 1; step < WARP; step *= 2) {
            const int before = int(shuffle(unsigned(until), max(0, lane - step)));
            if (lane >= step) until += before;
        }
        int before = until - here;
        if (before < k && until >= k) {
            int bin = last;
            for (; before + cut.bins[bin] < k; --bin) before += cut.bins[bin];
            cut.bin = bin;
        }
    }
    sync_block();
    for (int i = thread; i < count; i += threads)
        if (bin_of(i) >= cut.bin) store_entry(entries + atomic_increment(&cut.count), load_entry(own + i));
    sync_block();
    return cut.count;
}

KERNEL(search_select, WARP * SELECTING_WARPS, uint4* kept, int* counts, int* overflowed, int* scored, float* limits, uint64_t* pending, uint64_t* totals,
       int k, int capacity, int round) {
    await_kernels();
    SHARED(uint4, entries);
    const int end = 2 * int(blockIdx.x) + int(blockIdx.y);
    const bool lowest = blockIdx.y == 1;
    if (pending && !lowest && threadIdx.x < LIMBS) {
        const size_t limb = size_t(blockIdx.x) * LIMBS + threadIdx.x;
        totals[limb] += pending[limb];
        pending[limb] = 0;
    }
    uint4* const own = kept + size_t(end) * capacity;
    const int count = min(counts[end], capacity), left = min(count, k);
    int some = count;
    if (count > max(2 * k, SORTED_AT_ONCE)) {
        some = bring_best(entries, *reinterpret_cast<Cut*>(entries + capacity), own, count, k, lowest);
    } else {
        for (int i = threadIdx.x; i < count; i += blockDim.x) store_entry(entries + i, load_entry(own + i));
    }
    int size = 1;
    while (size < some) size *= 2;
    const Entry last{lowest ? INFINITY : -INFINITY, 0xffffffffu, 0xffffffffu, 0xffffffffu};
    for (int i = some + int(threadIdx.x); i < size; i += blockDim.x) store_entry(entries + i, last);
    sort(entries, size, lowest);
    for (int i = threadIdx.x; i < left; i += blockDim.x) store_entry(own + i, load_entry(entries + i));
    if (threadIdx.x == 0) {
        if (counts[end] > capacity && overflowed[end] == 0) overflowed[end] = round;
        counts[end] = scored[end] = left;
        if (left == k) limits[end] = load_entry(entries + k - 1).score;
    }
}

KERNEL(search_gather, 128, uint4* gathered, const uint4* kept, const int* counts, const int* overflowed, int k, int capacity) {
    await_kernels();
    const size_t end = blockIdx.x;
    const int count = min(counts[end], k);
    uint4* const own = gathered + end * (1 + k);
    if (threadIdx.x == 0) store(own, make_uint4(unsigned(count), unsigned(overflowed[end]), 0, 0));
    for (int i = threadIdx.x; i < k; i += blockDim.x) store(own + 1 + i, i < count ? load<uint4>(kept + end * capacity + i) : make_uint4(0, 0, 0, 0));
}

KERNEL(search_add, 256, const float* sums, const int* offsets, const float* norms, const unsigned* indices, const int* group_of, int first, int records,
       int factors, const float* own_norms, int queries, uint4* kept, int* counts, const float* limits, int capacity, int groups, const uint4* after,
       uint64_t* pending) {
    await_kernels();
    SHARED(uint64_t, shared);
    const Rows of_rows{nullptr, nullptr, nullptr, norms, indices, group_of, first, records, records};
    const Found found{kept, counts, limits, capacity, groups, after, pending};
    const int query = blockIdx.y, row = int(blockIdx.x) * int(blockDim.x) + int(threadIdx.x);
    with_totals(found, shared, query, 1, queries, [&](uint64_t* totals) {
        if (row >= records || of_rows.group(row) < 0) return;
        const float* const own = sums + size_t(query) * factors - offsets[0];
        float sum = 0.0f;
        for (int factor = offsets[row]; factor < offsets[row + 1]; ++factor) sum += own[factor];
        keep(of_rows, found, totals, 0, query, row, finished(sum, norms, own_norms[query], row));
    });
}

#define SCAN(T, name, Q)                                                                                                                      \
    KERNEL_BLOCKS(name, 32 * WARPS, 2, ROWS_AND_QUERIES, uint4* kept, int* counts, const float* limits, int capacity, int groups,                 \
                  const uint4* after, uint64_t* pending, float* sums, int width, int classes, int distance) {                                 \
        await_kernels();                                                                                                                      \
        SHARED(uint64_t, shared);                                                                                                             \
        const Rows of_rows = OF_ROWS;                                                                                                         \
        const Queries of_queries = OF_QUERIES;                                                                                                \
        const Found found{kept, counts, limits, capacity, groups, after, pending};                                                            \
        const Share<Q> share(queries);                                                                                                        \
        with_totals(found, shared, share.first_query, BLOCK_QUERIES<Q>, queries, [&](uint64_t* totals) {                                      \
            if (distance) scan<T, true, Q>(share, of_rows, of_queries, found, totals, sums, width, classes);                                  \
            else scan<T, false, Q>(share, of_rows, of_queries, found, totals, sums, width, classes);                                          \
        });                                                                                                                                   \
    }

#define SEARCH(T)                                                                                                                             \
    SCAN(T, search_scan_##T, WARP_QUERIES)                                                                                                    \
    SCAN(T, search_scan_one_##T, 1)                                                                                                           \
    KERNEL(search_rescore_##T, 256, ROWS_AND_QUERIES, uint4* kept, const int* counts, const int* scored, int* candidates, int capacity,      \
           int width, int classes, int distance) {                                                                                            \
        await_kernels();                                                                                                                      \
        const Rows of_rows = OF_ROWS;                                                                                                         \
        const Queries of_queries = OF_QUERIES;                                                                                                \
        if (distance) rescore<T, true>(of_rows, of_queries, kept, counts, scored, candidates, capacity, width, classes);                      \
        else rescore<T, false>(of_rows, of_queries, kept, counts, scored, candidates, capacity, width, classes);                              \
    }

SEARCH(f32)
SEARCH(f16)
SEARCH(bf16)
