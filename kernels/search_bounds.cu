// Search by bounds (search_bounds.cuh has them, and the arrays), on every device:
//
// search_round   A warp rounds a row, and takes its sides; search_round_queries a column, and puts it where products find it.
// search_screen  A warp makes the screens of 32 rows, or of 32 columns, by the limits there are (search_screen.cuh).
// search_bound   A block multiplies 128 rows with 64 columns (linear_mma.cuh), and bounds the scores of pairs that pass while their sums are in registers;
//                search_bound_terms those of all pairs, for queries of several terms.
//
// Bound by the tensor cores: 2 · rows · Q · P · E operations.
#include "linear_mma.cuh"
#include "port_blocks.cuh"
#include "search_screen.cuh"

constexpr float LONGEST = 0x1p62f;         // of two vectors below this no product and no squared distance runs over
constexpr int TOP = 14;                    // the exponent of the largest number of a rounded row
constexpr int LEAST_SCALE = -100, MOST_SCALE = 127 - TOP;

DEVICE float power_of_two(int exponent) { return __uint_as_float(unsigned(exponent + 127) << 23); }

// A row brought into the middle of f16: by what power of two, and at least its length and how far rounding takes it; not finite where it is too long
// for bounds.
struct Rounded {
    float up, norm, residual;
};

// By one warp; where there are no `halves` to write, numbers stay what they are.
template <class T>
DEVICE Rounded round_row(f16* halves, const T* features, int width, int stride) {
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
    const float up = power_of_two(scale), more = 1.0f + gamma_of(width);
    const float norm = sqrtf(squares) * more * up + LEAST, residual = halves ? sqrtf(differences) * more * up + LEAST : 0.0f;
    const bool bounded = norm < LONGEST && residual < LONGEST;
    return Rounded{up, bounded ? norm : INFINITY, bounded ? residual : INFINITY};
}

// Where linear_mma.cuh has column 8 t + 2 j + e of 32.
DEVICE int packed_row(int column) { return column / GROUP * GROUP + 8 * (column % 8 / 2) + 2 * (column % GROUP / 8) + column % 2; }

// A column, by one warp; beyond those there are, of zeros.
KERNEL(search_round_queries, 256, f16* own_halves, float4* own_sides, const float* asked, const float* biases, int queries, int passes, int terms, int width) {
    await_kernels();
    const int column = int(blockIdx.x) * (int(blockDim.x) / WARP) + warp_id(), query = column / terms, pass = column % terms;
    const int stride = (width + BK - 1) / BK * BK, at = pass * queries + query;
    const bool is_there = query < queries && pass < passes;
    f16* const halves = own_halves + size_t(packed_row(column)) * stride;
    const Rounded rounded = round_row(halves, is_there ? asked + size_t(at) * width : asked, is_there ? width : 0, stride);
    if (lane_id() == 0) store(own_sides + column, make_float4(rounded.up, rounded.norm, rounded.residual, is_there ? biases[at] : 0.0f));
}

DEVICE float4 side_of(Rounded row, int width) {
    const float gamma = gamma_of(width), more = 1.0f + gamma, reach = (row.norm + row.residual) * more;
    const bool bounded = reach < INFINITY;
    return make_float4(row.up, bounded ? (row.residual + gamma * reach) * more : INFINITY, bounded ? reach * more : INFINITY, row.norm);
}

#define ROUND(T)                                                                                                             \
    KERNEL(search_round_##T, 256, f16* halves, float4* sides, const void* features, int rows, int width, int stride) {       \
        await_kernels();                                                                                                     \
        const int row = int(blockIdx.x) * (int(blockDim.x) / WARP) + warp_id();                                              \
        if (row >= rows) return;                                                                                             \
        const T* const own = static_cast<const T*>(features) + size_t(row) * width;                                          \
        const Rounded rounded = round_row(halves ? halves + size_t(row) * stride : nullptr, own, width, stride);             \
        if (lane_id() == 0) store(sides + row, side_of(rounded, width));                                                     \
    }

ROUND(f32)
ROUND(f16)
ROUND(bf16)

// `columns` of the screens, at least as many as queries.
KERNEL(search_screen, 256, ROWS_AND_QUERIES, float4* row_screens, float4* column_screens, const float* limits, const float4* sides, const float4* own_sides,
       int columns, int width, int classes, int distance) {
    await_kernels();
    const Found found{nullptr, nullptr, limits, 0, 1, nullptr, nullptr};
    const Screens screens{{OF_ROWS, OF_QUERIES, found, sides, own_sides, width, classes, 1, distance != 0}};
    const int warp = int(blockIdx.x) * (int(blockDim.x) / WARP) + warp_id(), of_rows = (rows + WARP - 1) / WARP;
    if (warp < of_rows) {
        const float4 screen = screens.of_row(WARP * warp);
        if (WARP * warp + lane_id() < rows) store(row_screens + WARP * warp + lane_id(), screen);
    } else if (const int first = WARP * (warp - of_rows); first < columns) {
        const float4 screen = screens.of_column(first);
        if (first + lane_id() < columns) store(column_screens + first + lane_id(), screen);
    }
}

// Of queries of one term.
struct OneTerm {
    Screened screened;

    static constexpr bool SCREENED = true;

    DEVICE bool any_passes(int row, int column, const Vector<8>& sums) const { return screened.any_passes(sums, screened.of_row(row), column); }
    template <int N>
    DEVICE void finish(int row, int column, const Vector<N>& sums) const {
        screened.bounds.finish_one(row, column, sums);
    }
};

KERNEL_BLOCKS(search_bound, 256, 2, ROWS_AND_QUERIES, uint4* kept, int* counts, const float* limits, int capacity, const float4* row_screens,
              const float4* column_screens, const f16* halves, const float4* sides, int stride_of_halves, const f16* own_halves, const float4* own_sides,
              int columns, int width, int classes, int distance) {
    await_kernels();
    const Found found{kept, counts, limits, capacity, 1, nullptr, nullptr};
    const Bounds bounds{OF_ROWS, OF_QUERIES, found, sides, own_sides, width, classes, 1, distance != 0};
    linear<Plain<f16>, 128, 64, 32, 32, 3>(Matrix{halves, rows, stride_of_halves}, Matrix{own_halves, columns, (width + 31) / 32 * 32},
                                           OneTerm{{bounds, row_screens, column_screens}});
}

KERNEL_BLOCKS(search_bound_terms, 256, 2, ROWS_AND_QUERIES, uint4* kept, int* counts, const float* limits, int capacity, const f16* halves,
              const float4* sides, int stride_of_halves, const f16* own_halves, const float4* own_sides, int columns, int terms, int width, int classes,
              int distance) {
    await_kernels();
    const Found found{kept, counts, limits, capacity, 1, nullptr, nullptr};
    const Bounds bounds{OF_ROWS, OF_QUERIES, found, sides, own_sides, width, classes, terms, distance != 0};
    linear<Plain<f16>, 128, 64, 32, 32, 3>(Matrix{halves, rows, stride_of_halves}, Matrix{own_halves, columns, (width + 31) / 32 * 32}, bounds);
}
