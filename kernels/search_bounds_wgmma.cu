// Search by bounds (search_bounds.cuh has them, and the arrays) for compute capability 9.0a, of queries of one term: products by linear_wgmma.cuh.
//
// search_bound_wgmma_128x256   A block makes tiles of 128 rows × 256 queries, those of the same rows one after another.
#include "linear_wgmma.cuh"
#include "search_bounds.cuh"

// There is much to compute of each pair, in one way, and nothing to read beside it.
struct OneTerm {
    Bounds bounds;
    Extent extent;

    static constexpr int WAYS = 0;
    static constexpr bool BIASED = false;
    DEVICE int way() const { return ANY_WAY; }
    DEVICE const f16* beside() const { return nullptr; }

    template <int N>
    DEVICE void finish(int row, int column, const Vector<N>& sums) const {
        bounds.finish_one(row, column, sums);
    }
};

KERNEL_SM90A(search_bound_wgmma_128x256, 384, 1, ROWS_AND_QUERIES, uint4* kept, int* counts, const float* limits, int capacity, TENSOR_MAP(halves),
             const float4* sides, TENSOR_MAP(own_halves), const float4* own_sides, int columns, int width, int classes, int distance) {
    const Found found{kept, counts, limits, capacity, 1, nullptr, nullptr};
    const OneTerm bounds{{OF_ROWS, OF_QUERIES, found, sides, own_sides, width, classes, 1, distance != 0}, {rows, columns}};
    linear<f16, 128, 256, 4>(halves, own_halves, rows, width, columns, bounds);
}
