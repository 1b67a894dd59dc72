// A screen for pairs of queries of one term: a test of few operations that a pair fails only where its score reaches neither of the query's limits, so
// that bounds (search_bounds.cuh) are computed of those alone that pass. With the sum s of a row's and a column's rounded products:
//
//   m = s · row.x · column.x + row.y · column.y,      it fails where m + row.z < column.z and m + row.w > column.w
//
//   row_screens      f32 [rows, 4]        the scale, what biases are multiplied by, and what is added on the way to the highest and to the lowest score
//   column_screens   f32 [columns', 4]    the scale, the bias, and the limits
//
// With ε ≤ ‖q‖ C, C = A + B max ‖q − q̂‖ / ‖q‖, everything over ‖q‖, and w/n being what a row's products are multiplied by,
//
//   a sum:          m = w/n (q̂·x̂ + b) / ‖q‖, and w/n C is added or taken away; limits are times ‖q‖'s own norm over ‖q‖
//   one of weights: |w| ≤ max |δ_i| · Σ|δ_q|, so that |m| with max |δ_i| for w must come to the nearer one of both limits over Σ|δ_q|
//   a distance d:   m = q̂·x̂ − ‖q‖²/2, and −‖x‖²/2 is added, to be compared with −d²/2; ε ≤ (τ ‖q‖² + C²/τ) / 2 for any τ
//
// m + row.z grows with the sum, as its bound does: what holds at the limit holds below it. Roundings on the way are in SPARE, several times; numbers
// so small, or so large, that they are not in it make a screen that all pass, as do those that cannot be compared.
#pragma once
#include "search_bounds.cuh"

constexpr float NARROW = 0x1p-11f * 1.01f;     // at least ‖q − q̂‖ / ‖q‖ of a query whose largest numbers round to normal ones
constexpr float TAU = 0x1p-10f;
constexpr float SHORTEST = 0x1p-40f;           // of a query
constexpr float SMALLEST_NORM = 0x1p-20f, LARGEST_NORM = 0x1p60f;
constexpr float LEAST_MIDDLE = 0x1p-100f;      // more than what underflow takes from m
constexpr float LEAST_SUM = 0x1p-127f;         // and from a score's sum over the smallest norm

// Screens that no pair passes, or every one.
DEVICE float4 row_without_pairs() { return make_float4(0.0f, 0.0f, -INFINITY, INFINITY); }
DEVICE float4 column_without_pairs() { return make_float4(0.0f, 0.0f, INFINITY, -INFINITY); }
DEVICE float4 column_of_all_pairs() { return make_float4(0.0f, 0.0f, -INFINITY, INFINITY); }

DEVICE bool passes(float sum, float4 row, float4 column) {
    const float middle = fmaf(sum * row.x, column.x, row.y * column.y);
    return !(middle + row.z < column.z && middle + row.w > column.w);
}

// Makes the screens of a row, or of a column, for each lane of a warp: those from `first` on.
struct Screens {
    Bounds bounds;

    DEVICE bool weighs() const { return bounds.queries.weights || bounds.queries.classes_of; }

    // For each of 32 neighbours, its lane's: the largest magnitude, or the sum of magnitudes, of its K numbers; NaN where one is not finite.
    template <bool SUM>
    DEVICE float of_weights(const float* weights, int first, int count) const {
        float own = 0.0f;
        for (int i = 0; i < min(WARP, count - first); ++i) {
            const float* const numbers = weights + size_t(first + i) * bounds.classes;
            float most = 0.0f, sum = 0.0f, none = 0.0f;
            for (int k = lane_id(); k < bounds.classes; k += WARP) {
                const float x = fabsf(numbers[k]);
                most = fmaxf(most, x), sum += x, none = fmaf(0.0f, x, none);
            }
            const float all = (SUM ? warp_sum(sum) : warp_max(most)) + warp_sum(none);
            if (lane_id() == i) own = all;
        }
        return own;
    }

    DEVICE float4 of_row(int first) const {
        const int row = first + lane_id();
        const float weight = weighs() ? of_weights<false>(bounds.rows.deltas, first, bounds.rows.count) : 1.0f;
        if (row >= bounds.rows.count || !bounds.has(row)) return row_without_pairs();
        const float4 side = load<float4>(bounds.sides + row);
        // A bias is at most as long as its sum and ‖q‖ ‖x‖: what it is off by is in the last term.
        const float off = fmaf(NARROW, side.z, fmaf(4.0f * SPARE, side.w, side.y));
        const float reach = fmaf(8.0f * SPARE, off, off) + LEAST * float(bounds.width + 64) / SHORTEST;
        if (bounds.distance) {
            const float square = side.w * side.w, radius = fmaf(4.0f * gamma_of(bounds.width), square, 0.51f / TAU * reach * reach);
            return make_float4(side.x, 1.0f, fmaf(-0.5f, square, radius), fmaf(-0.5f, square, -radius));
        }
        float factor = weight;
        if (bounds.rows.norms) {
            const float norm = bounds.rows.norms[row];
            factor = is_in_range(norm) ? weight / norm : NAN;
        }
        return make_float4(side.x * factor, factor, reach * factor, -reach * factor);
    }

    DEVICE float4 of_column(int first) const {
        const int query = first + lane_id(), count = bounds.queries.count;
        float weight = 1.0f;
        if (bounds.queries.weights) {
            weight = of_weights<true>(bounds.queries.weights, first, count);
            weight *= 1.0f + 2.5f * UNIT * float(bounds.classes + 64);  // roundings of this sum, and of the weight's
        }
        if (query >= count) return column_without_pairs();
        const float4 own = load<float4>(bounds.own_sides + query);
        const float2 limits = bounds.limits(query);
        const float length = own.y;
        if (!(length >= SHORTEST && own.z <= NARROW * length)) return column_of_all_pairs();
        if (bounds.distance) {
            const float gamma = gamma_of(bounds.width);
            const float nearest = (LEAST_LENGTH - limits.x) * (1.0f + 2.0f * gamma);
            const float farthest = fmaxf(0.0f, 0.0f - limits.y - LEAST_LENGTH) * (1.0f - 2.0f * gamma);
            const float square = length * length, slack = fmaf(4.0f * gamma + 0.51f * TAU, square, LEAST);
            return make_float4(own.x, -0.5f * square, fmaf(-0.5f * nearest, nearest, -slack), fmaf(-0.5f * farthest, farthest, slack));
        }
        if (weighs()) {
            const int chosen = bounds.queries.classes_of ? bounds.queries.classes_of[query] : -1;
            if (chosen >= 0) weight = 1.0f;
            else if (!bounds.queries.weights) return column_of_all_pairs();  // 1 is no multiple of a row's
        }
        float norm = 1.0f;
        if (bounds.rows.norms) {
            norm = bounds.queries.norms[query];
            if (!is_in_range(norm)) return column_of_all_pairs();
        }
        const float unit = norm / (length * weight);
        if (!(unit > 0.0f && unit < 1.0f / SHORTEST)) return column_of_all_pairs();
        const float bias = own.w / length;
        const float least = LEAST_MIDDLE + LEAST_SUM / (length * weight);
        const auto limit = [&](float of) { return fmaf(-8.0f * SPARE, fabsf(of * unit) + fabsf(bias), of * unit) - least; };
        const float nearer = fminf(limits.x, -limits.y);
        return make_float4(own.x / length, bias, limit(weighs() ? nearer : limits.x), -limit(weighs() ? nearer : -limits.y));
    }

    DEVICE static bool is_in_range(float norm) { return norm >= SMALLEST_NORM && norm <= LARGEST_NORM; }
};

// Bounds of the pairs that pass.
struct Screened {
    Bounds bounds;
    const float4* row_screens;
    const float4* column_screens;

    DEVICE float4 of_row(int row) const { return row < bounds.rows.count ? load<float4>(row_screens + row) : row_without_pairs(); }

    // Whether one of eight neighbouring columns does.
    DEVICE bool any_passes(const Vector<8>& sums, float4 row, int column) const {
        bool any = false;
#pragma unroll
        for (int j = 0; j < 8; ++j) any |= passes(sums.x[j], row, load<float4>(column_screens + column + j));
        return any;
    }
};
