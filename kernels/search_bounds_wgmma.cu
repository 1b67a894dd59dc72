// Search by bounds (search_bounds.cuh has them, and the arrays) for compute capability 9.0a, of queries of one term: products by linear_wgmma.cuh.
//
// search_bound_wgmma_128x256   A block makes tiles of 128 rows × 256 queries, those of the same rows one after another.
#include "linear_wgmma.cuh"
#include "search_screen.cuh"

// There is nothing to read beside the sums but screens, and of those that pass much to compute, in one way.
struct OneTerm {
    Screened screened;
    Extent extent;

    static constexpr int WAYS = 0;
    static constexpr bool BIASED = false, HELD = false, SCREENED = true;
    DEVICE int way() const { return ANY_WAY; }
    DEVICE const f16* beside() const { return nullptr; }

    DEVICE float4 of_row(int row) const { return screened.of_row(row); }
    DEVICE bool any_passes(const Vector<8>& sums, float4 row, int column) const { return screened.any_passes(sums, row, column); }

    template <int N>
    DEVICE void finish(int row, int column, const Vector<N>& sums) const {
        screened.bounds.finish_one(row, column, sums);
    }
};

KERNEL_SM90A(search_bound_wgmma_128x256, 384, 1, ROWS_AND_QUERIES, uint4* kept, int* counts, const float* limits, int capacity, const float4* row_screens,
             const float4* column_screens, TENSOR_MAP(halves), const float4* sides, TENSOR_MAP(own_halves), const float4* own_sides, int columns, int width,
             int classes, int distance) {
    prepare<f16, 128, 256, 4>(halves, own_halves);
    await_kernels();
    const Found found{kept, counts, limits, capacity, 1, nullptr, nullptr};
    const Bounds bounds{OF_ROWS, OF_QUERIES, found, sides, own_sides, width, classes, 1, distance != 0};
    linear<f16, 128, 256, 4>(halves, own_halves, rows, width, columns, OneTerm{{bounds, row_screens, column_screens}, {rows, columns}});
}
