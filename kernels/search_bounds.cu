// Search by bounds: products of numbers rounded to f16, on tensor cores, tell of most records that they belong to neither end of a query's ranking. Those
// of which they do not are put behind those kept already, without a score: `search_rescore` gives them theirs.
//
//   halves     f16 [rows, stride]: x̂ = x 2⁻ˢ rounded, s a row's own, zeros beyond E; of f16 features those themselves, s = 0
//   sides      f32 [rows, 4]: 2ˢ, A, B, ‖x‖          (at least, all but the first)
//   own_halves f16 [columns', E'], as linear_mma.cuh has its weights: q̂ = q 2⁻ˢ rounded; a query's P terms lie side by side, P = 1, 2, 4 or 8, zeros beyond
//   own_sides  f32 [columns', 4]: 2ˢ, ‖q‖, ‖q − q̂ 2ˢ‖ (at least), the bias
//
// search_round   A warp rounds a row, and takes its sides.
// search_bound   A block multiplies 128 rows with 64 columns (linear_mma.cuh), and bounds each pair's score while its sums are in registers.
//
// What a product is off by. With r ≥ ‖x − x̂ 2ˢ‖, Cauchy-Schwarz has |q·x − q̂·x̂| ≤ ‖q‖ r + ‖q − q̂‖ ‖x̂‖. Tensor cores multiply exactly and add in f32, in an
// order of their own, cutting off rather than rounding, and shift the numbers added together (four at least, with the sum so far) to the greatest
// one's exponent first: each adds less than 2⁻²³ of Σ|q̂ x̂| ≤ ‖q̂‖ ‖x̂‖ (Fasi, Higham, Mikaitis, Pranesh, *Numerical behavior of NVIDIA tensor cores*, 2021).
// With that, and what the f32 product that defines the score loses by rounding, in γ: ε = ‖q‖ A + ‖q − q̂‖ B, A = r + γ (‖x‖ + r), B = (1 + γ)(‖x‖ + r).
// What follows in a score are a few roundings more, which γ has room for. Where a length or a bound is not finite, everything is possible.
//
// Bound by the tensor cores: 2 · rows · Q · P · E operations.
#include "linear_mma.cuh"
#include "reduce.cuh"
#include "search.cuh"

constexpr float UNIT = 0x1p-24f;           // half the distance between 1 and the next f32
constexpr float SPARE = 64.0f * UNIT;      // more than the roundings of a score beside its products, and than those on the way to a bound
constexpr float LEAST = 1e-37f;            // more than what underflow takes from a number
constexpr float LEAST_LENGTH = 1e-18f;     // and from a distance
constexpr float LONGEST = 0x1p62f;         // of two vectors below this no product and no squared distance runs over
constexpr float WIDEST = 0x1p100f;         // an interval narrower than this has no term that runs over: a term is at most 2¹⁸ times as large
constexpr int TOP = 14;                    // the exponent of the largest number of a rounded row
constexpr int LEAST_SCALE = -100, MOST_SCALE = 127 - TOP;

// More than products of this width lose to rounding, over the lengths of their operands: on tensor cores, in a score, and in a length.
DEVICE float gamma_of(int width) { return 1.01f * UNIT * (3.0f * float(width + 32) + float((width + LANES - 1) / LANES) + 128.0f); }

DEVICE float power_of_two(int exponent) { return __uint_as_float(unsigned(exponent + 127) << 23); }

// One row, by one warp.
template <class T>
DEVICE void round_row(f16* halves, float4* side, const T* features, int width, int stride) {
    float most = 0.0f;
    for (int i = lane_id(); i < width; i += WARP) most = fmaxf(most, fabsf(widen(features[i])));
    most = warp_max(most);
    const int scale = halves ? min(max(int(__float_as_uint(most) >> 23) - 127 - TOP, LEAST_SCALE), MOST_SCALE) : 0;
    const float down = power_of_two(-scale);
    float squares = 0.0f, differences = 0.0f;
    for (int i = lane_id(); i < (halves ? stride : width); i += WARP) {
        const float x = i < width ? widen(features[i]) * down : 0.0f;
        squares = fmaf(x, x, squares);
        if (!halves) continue;
        halves[i] = narrow<f16>(x);
        const float difference = x - widen(halves[i]);
        differences = fmaf(difference, difference, differences);
    }
    squares = warp_sum(squares), differences = warp_sum(differences);
    if (lane_id()) return;
    const float gamma = gamma_of(width), up = power_of_two(scale), more = 1.0f + gamma;
    const float norm = sqrtf(squares) * more * up + LEAST, residual = halves ? sqrtf(differences) * more * up + LEAST : 0.0f;
    const float reach = (norm + residual) * more;
    const bool bounded = norm < LONGEST && residual < LONGEST;
    store(side, make_float4(up, bounded ? (residual + gamma * reach) * more : INFINITY, bounded ? reach * more : INFINITY, norm));
}

// What follows the products of a row with eight neighbouring columns.
struct Bounds {
    Rows rows;
    Queries queries;
    Found found;
    const float4* sides;
    const float4* own_sides;
    int width, classes, terms;  // terms: P
    bool distance;

    template <int N>
    DEVICE void finish(int row, int column, Vector<N> sums) const {
        static_assert(N == 8, "whole queries");
        if (row >= rows.count || rows.group(row) < 0) return;
        const float4 side = load<float4>(sides + row);
        if (terms == 1) each<1>(row, column, sums, side);
        else if (terms == 2) each<2>(row, column, sums, side);
        else if (terms == 4) each<4>(row, column, sums, side);
        else each<8>(row, column, sums, side);
    }

    template <int P>
    DEVICE void each(int row, int column, const Vector<8>& sums, float4 side) const {
#pragma unroll
        for (int j = 0; j < 8 / P; ++j) {
            const int query = column / P + j;
            if (query >= queries.count) return;
            float centre = 0.0f, radius = 0.0f;
#pragma unroll
            for (int pass = 0; pass < P; ++pass) {
                if (pass >= queries.passes) break;
                const float4 own = load<float4>(own_sides + query * P + pass);
                const float product = sums.x[j * P + pass] * side.x * own.x;
                const float epsilon = fmaf(own.y, side.y, fmaf(own.z, side.z, LEAST * float(width + 16)));
                if (P == 1 && distance) {
                    bound_distance(row, query, product, epsilon, side.w, own.y);
                    break;
                }
                const float weight = weight_of(queries, rows.deltas + size_t(row) * classes, pass, query, classes);
                centre = fmaf(weight, product + own.w, centre);
                radius = fmaf(fabsf(weight), fmaf(SPARE, fabsf(own.w), epsilon), radius);
            }
            if (P == 1 && distance) continue;
            radius = fmaf(SPARE, fabsf(centre) + radius, radius) + 10.0f * LEAST;
            const bool bounded = radius < WIDEST;
            const float low = finished(bounded ? centre - radius : -INFINITY, rows.norms, queries.norms[query], row);
            const float high = finished(bounded ? centre + radius : INFINITY, rows.norms, queries.norms[query], row);
            offer(row, query, fminf(low, high), fmaxf(low, high));  // the other way round over a norm below zero
        }
    }

    // −√(‖q‖² + ‖x‖² − 2 q·x)
    DEVICE void bound_distance(int row, int query, float product, float epsilon, float norm, float own_norm) const {
        const float gamma = gamma_of(width), squares = fmaf(own_norm, own_norm, norm * norm), square = fmaf(-2.0f, product, squares);
        const float radius = fmaf(6.0f * gamma, squares, 2.0f * (1.0f + SPARE) * epsilon);
        // The other one of a maximum is what a NaN gives way to.
        const float least = sqrtf(fmaxf(0.0f, square - radius)) * (1.0f - gamma) - LEAST_LENGTH;
        const float most = sqrtf(fmaxf(0.0f, square + radius)) * (1.0f + gamma) + LEAST_LENGTH;
        const bool bounded = square + radius < INFINITY;
        offer(row, query, bounded ? -most : -INFINITY, bounded ? fminf(0.0f, -least) : INFINITY);
    }

    // Marked as what may belong to both ends, or to one of them.
    DEVICE void offer(int row, int query, float low, float high) const {
        const float2 limits = load<float2>(found.limits + 2 * query);
        const bool highest = high >= limits.x, lowest = low <= limits.y;
        if (!highest && !lowest) return;
        const Entry entry = rows.entry(row, highest && lowest ? 1.0f : 0.0f);
        if (highest) put(found, 2 * query, entry);
        if (lowest) put(found, 2 * query + 1, entry);
    }
};

#define ROUND(T)                                                                                                             \
    KERNEL(search_round_##T, 256, f16* halves, float4* sides, const void* features, int rows, int width, int stride) {       \
        const int row = int(blockIdx.x) * (int(blockDim.x) / WARP) + warp_id();                                              \
        if (row >= rows) return;                                                                                             \
        round_row<T>(halves ? halves + size_t(row) * stride : nullptr, sides + row, static_cast<const T*>(features) + size_t(row) * width, width, stride); \
    }

ROUND(f32)
ROUND(f16)
ROUND(bf16)

KERNEL(search_bound, 256, ROWS_AND_QUERIES, uint4* kept, int* counts, const float* limits, int capacity, const f16* halves, const float4* sides,
       int stride_of_halves, const f16* own_halves, const float4* own_sides, int columns, int terms, int width, int classes, int distance) {
    const Found found{kept, counts, limits, capacity, 1, nullptr, nullptr};
    const Bounds bounds{OF_ROWS, OF_QUERIES, found, sides, own_sides, width, classes, terms, distance != 0};
    linear<Plain<f16>, 128, 64, 32, 32, 3>(Matrix{halves, rows, stride_of_halves}, Matrix{own_halves, columns, (width + 31) / 32 * 32}, bounds);
}
