// Sums down the columns of rows, each one chain by ascending row that goes on from what is in the gradient:
//
//   norm_gradient   dw [E] += Σ dy ∘ x̂, db [E] += Σ dy, x̂ the normalised rows of x; after row_statistics has left their means and scales
//   row_gradient    table [·, E]: to row rows[s], the rows of dy that order[segments[s]] … order[segments[s + 1] − 1] name
//
//   dy, x   T [T, E]          dw, db, table   f32          statistics   f32 [T, 2]          rows, segments, order   u32 [S], [S + 1], [T]
//
// A block has 32 columns, a lane each; its warps bring 64 rows at a time to shared memory, where one warp (two for a normalisation) adds them
// up in their order. Bound by memory, which is read by whole cache lines.
#include "rows.cuh"

constexpr int COLUMNS = WARP;
constexpr int WARPS = 8;
constexpr int TILE = 64;

template <class T>
DEVICE void row_statistics(float* out, const T* x, float epsilon, int rows, int width) {
    SHARED(float, shared);
    const int row = row_of_warp();
    if (row >= rows) return;
    float* const mine = my_row(shared, width);
    each_of_mine(width, [&](int column, int count) {
        store_vector<4>(mine + column, load_some<4>(x + size_t(row) * width + column, count));
    });
    const Statistics of_row = statistics(mine, epsilon, width);
    if (lane_id() == 0) store(out + 2 * size_t(row), make_float2(of_row.mean, of_row.scale));
}

template <class T>
DEVICE void norm_gradient(float* dw, float* db, const T* dy, const T* x, const float* statistics, int rows, int width) {
    SHARED(float, slopes);                           // [TILE, COLUMNS]
    float* const normalised = slopes + TILE * COLUMNS;  // the same
    const int column = int(blockIdx.x) * COLUMNS + lane_id(), warp = warp_id();
    const bool present = column < width;
    float sum = present && warp < 2 ? (warp ? db : dw)[column] : 0.0f;
    for (int first = 0; first < rows; first += TILE) {
        const int count = min(TILE, rows - first);
        for (int r = warp; r < count; r += WARPS) {
            const size_t at = size_t(first + r) * width + column;
            const float2 of_row = load<float2>(statistics + 2 * size_t(first + r));
            slopes[r * COLUMNS + lane_id()] = present ? widen(dy[at]) : 0.0f;
            normalised[r * COLUMNS + lane_id()] = present ? (widen(x[at]) - of_row.x) * of_row.y : 0.0f;
        }
        sync_block();  // the tile is there
        for (int r = 0; warp < 2 && r < count; ++r) {
            const float slope = slopes[r * COLUMNS + lane_id()];
            sum = warp ? sum + slope : fmaf(slope, normalised[r * COLUMNS + lane_id()], sum);
        }
        sync_block();  // and done with
    }
    if (present && warp < 2) (warp ? db : dw)[column] = sum;
}

template <class T>
DEVICE void row_gradient(float* table, const T* dy, const unsigned* rows, const unsigned* segments, const unsigned* order, int width) {
    SHARED(float, tile);  // [TILE, COLUMNS]
    const int column = int(blockIdx.y) * COLUMNS + lane_id(), warp = warp_id();
    const bool present = column < width;
    const unsigned begin = segments[blockIdx.x], end = segments[blockIdx.x + 1];
    float* const to = table + size_t(rows[blockIdx.x]) * width + column;
    float sum = present && warp == 0 ? *to : 0.0f;
    for (unsigned first = begin; first < end; first += TILE) {
        const int count = int(min(unsigned(TILE), end - first));
        for (int r = warp; r < count; r += WARPS) tile[r * COLUMNS + lane_id()] = present ? widen(dy[size_t(order[first + r]) * width + column]) : 0.0f;
        sync_block();  // the tile is there
        for (int r = 0; warp == 0 && r < count; ++r) sum += tile[r * COLUMNS + lane_id()];
        sync_block();  // and done with
    }
    if (present && warp == 0) *to = sum;
}

#define COLUMN_SUMS(T)                                                                                                                            \
    KERNEL(row_statistics_##T, 128, float* out, const T* x, float epsilon, int rows, int width) { row_statistics(out, x, epsilon, rows, width); }  \
    KERNEL(norm_gradient_##T, COLUMNS* WARPS, float* dw, float* db, const T* dy, const T* x, const float* statistics, int rows, int width) {       \
        norm_gradient(dw, db, dy, x, statistics, rows, width);                                                                                    \
    }                                                                                                                                             \
    KERNEL(row_gradient_##T, COLUMNS* WARPS, float* table, const T* dy, const unsigned* rows, const unsigned* segments, const unsigned* order,     \
           int width) {                                                                                                                           \
        row_gradient(table, dy, rows, segments, order, width);                                                                                    \
    }

COLUMN_SUMS(f32)
COLUMN_SUMS(bf16)
