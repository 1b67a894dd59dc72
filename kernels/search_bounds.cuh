// Search by bounds: products of numbers rounded to f16, on tensor cores, tell of most records that they belong to neither end of a query's ranking. Those
// of which they do not are put behind those kept already, without a score: `search_rescore` gives them theirs.
//
//   halves     f16 [rows, stride]: x̂ = x 2⁻ˢ rounded, s a row's own, zeros beyond E; of f16 features those themselves, s = 0
//   sides      f32 [rows, 4]: 2ˢ, A, B, ‖x‖          (at least, all but the first)
//   own_halves f16 [columns', E'], as linear_mma.cuh has its weights: q̂ = q 2⁻ˢ rounded; a query's P terms lie side by side, P = 1, 2, 4 or 8, zeros beyond
//   own_sides  f32 [columns', 4]: 2ˢ, ‖q‖, ‖q − q̂ 2ˢ‖ (at least), the bias
//
// What a product is off by. With r ≥ ‖x − x̂ 2ˢ‖, Cauchy-Schwarz has |q·x − q̂·x̂| ≤ ‖q‖ r + ‖q − q̂‖ ‖x̂‖. Tensor cores multiply exactly and add in f32, in an
// order of their own, cutting off rather than rounding, and shift the numbers added together (four at least, with the sum so far) to the greatest
// one's exponent first: each adds less than 2⁻²³ of Σ|q̂ x̂| ≤ ‖q̂‖ ‖x̂‖ (Fasi, Higham, Mikaitis, Pranesh, *Numerical behavior of NVIDIA tensor cores*, 2021).
// With that, and what the f32 product that defines the score loses by rounding, in γ: ε = ‖q‖ A + ‖q − q̂‖ B, A = r + γ (‖x‖ + r), B = (1 + γ)(‖x‖ + r).
// What follows in a score are a few roundings more, which γ has room for. Where a length or a bound is not finite, everything is possible.
#pragma once
#include "reduce.cuh"
#include "search.cuh"

constexpr float UNIT = 0x1p-24f;           // half the distance between 1 and the next f32
constexpr float SPARE = 64.0f * UNIT;      // more than the roundings of a score beside its products, and than those on the way to a bound
constexpr float LEAST = 1e-37f;            // more than what underflow takes from a number
constexpr float LEAST_LENGTH = 1e-18f;     // and from a distance
constexpr float LEAST_SCORE = 0x1p-146f;   // and from a score on its way to a bound
constexpr float WIDEST = 0x1p100f;         // an interval narrower than this has no term that runs over: a term is at most 2¹⁸ times as large

// More than products of this width lose to rounding, over the lengths of their operands: on tensor cores, in a score, and in a length.
DEVICE float gamma_of(int width) { return 1.01f * UNIT * (3.0f * float(width + 32) + float((width + LANES - 1) / LANES) + 128.0f); }

// What follows the products of a row with eight neighbouring columns. Of most pairs nothing does: those that do are marked, and kept afterwards, so that
// the code of all is short enough to stay where instructions are fetched from.
struct Bounds {
    Rows rows;
    Queries queries;
    Found found;
    const float4* sides;
    const float4* own_sides;
    int width, classes, terms;  // terms: P
    bool distance;

    static constexpr bool SCREENED = false;

    // How far from 0 a sum of terms may be, about its centre.
    struct Sum {
        float centre = 0.0f, radius = 0.0f;
    };
    struct Interval {
        float low, high;
    };

    DEVICE bool has(int row) const { return row < rows.count && rows.group(row) >= 0; }

    template <int N>
    DEVICE void finish(int row, int column, const Vector<N>& sums) const {
        static_assert(N == 8, "whole queries");
        if (!has(row)) return;
        const float4 side = load<float4>(sides + row);
        const int shift = terms == 2 ? 1 : terms == 4 ? 2 : 3, first = column >> shift;
        Marks marks;
        Sum sum;
#pragma unroll
        for (int j = 0; j < N; ++j) {
            const int query = first + (j >> shift), pass = j & (terms - 1);
            if (query >= queries.count) break;
            if (pass < queries.passes) add(sum, sums.x[j], load<float4>(own_sides + column + j), row, side, pass, query);
            if (pass + 1 < terms) continue;
            marks.take(j >> shift, limits(query), of_sum(sum, row, query));
            sum = Sum();
        }
        marks.keep(*this, row, first);
    }

    // Where a query has one term, which a distance always has. What is the same for all pairs is asked once for eight.
    DEVICE void finish_one(int row, int column, const Vector<8>& sums) const {
        if (!has(row)) return;
        const float4 side = load<float4>(sides + row);
        if (distance) return each(row, column, [&](int j, int, float4 own) { return of_distance(sums.x[j], own, side); });
        const auto of_weights = [&](int j, int query, float4 own) {
            Sum sum;
            add(sum, sums.x[j], own, row, side, 0, query);
            return of_sum(sum, row, query);
        };
        if (queries.weights || queries.classes_of) return each(row, column, of_weights);
        const auto interval = [&](int j, float4 own) { return interval_of(Sum{product(sums.x[j], own, side) + own.w, radius_of(own, side)}); };
        if (!rows.norms) return each(row, column, [&](int j, int, float4 own) { return interval(j, own); });
        const float norm = rows.norms[row];
        each(row, column, [&](int j, int query, float4 own) { return over_norms(interval(j, own), queries.norms[query] * norm); });
    }

    // Eight neighbouring queries' pairs with a row.
    template <class Score>
    DEVICE void each(int row, int column, Score score) const {
        Marks marks;
#pragma unroll
        for (int j = 0; j < 8; ++j) {
            const int query = column + j;
            if (query >= queries.count) break;
            marks.take(j, limits(query), score(j, query, load<float4>(own_sides + query)));
        }
        marks.keep(*this, row, column);
    }

    DEVICE float2 limits(int query) const { return load<float2>(found.limits + 2 * query); }

    DEVICE static float product(float sum, float4 own, float4 side) { return sum * side.x * own.x; }
    DEVICE float epsilon(float4 own, float4 side) const { return fmaf(own.y, side.y, fmaf(own.z, side.z, LEAST * float(width + 16))); }

    DEVICE float radius_of(float4 own, float4 side) const { return fmaf(SPARE, fabsf(own.w), epsilon(own, side)); }

    DEVICE void add(Sum& to, float sum, float4 own, int row, float4 side, int pass, int query) const {
        const float weight = weight_of(queries, rows.deltas + size_t(row) * classes, pass, query, classes);
        to.centre = fmaf(weight, product(sum, own, side) + own.w, to.centre);
        to.radius = fmaf(fabsf(weight), radius_of(own, side), to.radius);
    }

    DEVICE static Interval interval_of(const Sum& sum) {
        const float radius = fmaf(SPARE, fabsf(sum.centre) + sum.radius, sum.radius) + 10.0f * LEAST;
        const bool bounded = radius < WIDEST;
        return Interval{bounded ? sum.centre - radius : -INFINITY, bounded ? sum.centre + radius : INFINITY};
    }

    DEVICE Interval of_sum(const Sum& sum, int row, int query) const {
        const Interval interval = interval_of(sum);
        return rows.norms ? over_norms(interval, queries.norms[query] * rows.norms[row]) : interval;
    }

    // Times what 1 is over the norms, which is off by less than SPARE has room for, or by what is nearly the least number there is.
    DEVICE static Interval over_norms(Interval sum, float divisor) {
        if (divisor == 0.0f) return Interval{0.0f, 0.0f};
        const float over = 1.0f / divisor, one = sum.low * over, other = sum.high * over;  // the other way round over a norm below zero
        if (!(fmaxf(fabsf(one), fabsf(other)) < INFINITY)) return Interval{-INFINITY, INFINITY};
        return Interval{fminf(one, other) - LEAST_SCORE, fmaxf(one, other) + LEAST_SCORE};
    }

    // −√(‖q‖² + ‖x‖² − 2 q·x)
    DEVICE Interval of_distance(float sum, float4 own, float4 side) const {
        const float norm = side.w, own_norm = own.y;
        const float gamma = gamma_of(width), squares = fmaf(own_norm, own_norm, norm * norm);
        const float square = fmaf(-2.0f, product(sum, own, side), squares);
        const float radius = fmaf(6.0f * gamma, squares, 2.0f * (1.0f + SPARE) * epsilon(own, side));
        // The other one of a maximum is what a NaN gives way to.
        const float least = sqrtf(fmaxf(0.0f, square - radius)) * (1.0f - gamma) - LEAST_LENGTH;
        const float most = sqrtf(fmaxf(0.0f, square + radius)) * (1.0f + gamma) + LEAST_LENGTH;
        const bool bounded = square + radius < INFINITY;
        return Interval{bounded ? -most : -INFINITY, bounded ? fminf(0.0f, -least) : INFINITY};
    }

    // Which of eight neighbouring queries' pairs may belong to which end. What cannot be compared with a limit may.
    struct Marks {
        unsigned highest = 0, lowest = 0;

        DEVICE void take(int j, float2 limits, Interval score) {
            if (!(score.high < limits.x)) highest |= 1u << j;
            if (!(score.low > limits.y)) lowest |= 1u << j;
        }

        // In place of a score: whether it may belong to both ends, or to one of them.
        DEVICE void keep(const Bounds& bounds, int row, int query) const {
#pragma unroll 1
            for (unsigned left = highest | lowest, j = 0; left; left >>= 1, ++j, ++query) {
                const bool high = highest >> j & 1, low = lowest >> j & 1;
                const Entry entry = bounds.rows.entry(row, high && low ? 1.0f : 0.0f);
                if (high) put(bounds.found, 2 * query, entry);
                if (low) put(bounds.found, 2 * query + 1, entry);
            }
        }
    };
};
