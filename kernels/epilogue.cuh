// What follows a matrix product while its sums are in registers.
//
// Any of it is done by `finish`. What is done most is known when the kernel is compiled too, for rows of whole vectors: `way` is its number, and
// `finish_by` does it to sums that have their biases. Where results are of 16 bits, so may those sums be by then (`HELD`), and what is read of
// another matrix (at `beside`) has been read before.
#pragma once
#include "activation.cuh"
#include "vector.cuh"

// Where a product's results go: [rows, columns], N neighbouring columns of a row at a time, the first a multiple of N.
struct Extent {
    int rows, columns;
    DEVICE bool has(int row, int column) const { return row < rows && column < columns; }
    DEVICE size_t at(int row, int column) const { return size_t(row) * columns + column; }
};

constexpr int ANY_WAY = -1;

// Eight 16-bit numbers as they are stored, and as f32.
typedef Words<8>::type Eight;
template <class T>
DEVICE Vector<8> widened(Eight eight) { return load_vector<8>(reinterpret_cast<const T*>(&eight)); }

template <class T>
DEVICE Eight narrowed(const Vector<8>& v) {
    union { Eight eight; uint32_t words[4]; };
#pragma unroll
    for (int i = 0; i < 4; ++i) words[i] = pack<T>(v.x[2 * i], v.x[2 * i + 1]);
    return eight;
}

// Eight numbers beside the sums: they have been read ahead, or in f32, in which there is no room for them, are read now.
template <class T>
DEVICE Vector<8> eight_beside(const T* p, size_t at, bool is_in, Eight ahead) {
    if constexpr (sizeof(T) == 2) return widened<T>(ahead);
    else return is_in ? load_vector<8>(p + at) : filled<8>(0.0f);
}

// Whether all rows of eights begin at multiples of 16 bytes.
template <class T>
DEVICE bool whole_eights(Extent extent, const T* a, const T* b, const T* c) {
    return extent.columns % 8 == 0 && is_aligned<8>(a) && is_aligned<8>(b) && is_aligned<8>(c);
}

// out = activation(sums + bias) + residual; where it is wanted, slope = activation'(sums + bias).
template <class T, class Math>
struct Forward {
    typedef T Stored;
    T* out;
    T* slope;           // or null
    const float* bias;  // [columns, rounded up to 32]
    const T* residual;  // or null
    int activation;
    Extent extent;

    // Identity, with and without a residual; GELU, with and without its slopes, but for f32's, which is long code.
    static constexpr int WAYS = sizeof(T) == 2 ? 4 : 2;
    static constexpr bool BIASED = true, HELD = sizeof(T) == 2, SCREENED = false;
    DEVICE int way() const {
        if (!whole_eights(extent, out, slope, residual)) return ANY_WAY;
        if (activation == 0 && !slope) return residual ? 1 : 0;
        return WAYS > 2 && activation == 1 && !residual ? slope ? 3 : 2 : ANY_WAY;
    }
    DEVICE const T* beside() const { return residual; }

    template <int WAY>
    DEVICE void finish_by(size_t at, bool is_in, Vector<8> sums, Eight residuals) const {
        if constexpr (WAY == 1) sums = sums + eight_beside(residual, at, is_in, residuals);
        if constexpr (WAY == 2) activate<Math>(1, sums);
        if constexpr (WAY == 3) {
            Vector<8> slopes;
            activate_with_slopes<Math>(1, sums, slopes);
            if (is_in) store_vector(slope + at, slopes);
        }
        if (is_in) store_vector(out + at, sums);
    }

    template <int N>
    DEVICE void finish(int row, int column, Vector<N> sums) const {
        if (!extent.has(row, column)) return;
        const size_t at = extent.at(row, column);
        const int count = extent.columns - column;
        sums = sums + load_vector<N>(bias + column);
        if (slope) {
            Vector<N> slopes;
            activate_with_slopes<Math>(activation, sums, slopes);
            store_some<N>(slope + at, slopes, count);
        } else {
            activate<Math>(activation, sums);
        }
        if (residual) sums = sums + load_some<N>(residual + at, count);
        store_some<N>(out + at, sums, count);
    }
};

// out = sums ∘ slope + residual: the gradient past the activation that made the layer's inputs.
template <class T>
struct Backward {
    typedef T Stored;
    T* out;
    const T* slope;     // or null
    const T* residual;  // or null
    Extent extent;

    // As it is, with slopes, or with a residual.
    static constexpr int WAYS = 3;
    static constexpr bool BIASED = false, HELD = sizeof(T) == 2, SCREENED = false;
    DEVICE int way() const {
        if (!whole_eights(extent, out, slope, residual) || (slope && residual)) return ANY_WAY;
        return slope ? 1 : residual ? 2 : 0;
    }
    DEVICE const T* beside() const { return slope ? slope : residual; }

    template <int WAY>
    DEVICE void finish_by(size_t at, bool is_in, Vector<8> sums, Eight others) const {
        if constexpr (WAY == 1) sums = sums * eight_beside(slope, at, is_in, others);
        if constexpr (WAY == 2) sums = sums + eight_beside(residual, at, is_in, others);
        if (is_in) store_vector(out + at, sums);
    }

    template <int N>
    DEVICE void finish(int row, int column, Vector<N> sums) const {
        if (!extent.has(row, column)) return;
        const size_t at = extent.at(row, column);
        const int count = extent.columns - column;
        if (slope) sums = sums * load_some<N>(slope + at, count);
        if (residual) sums = sums + load_some<N>(residual + at, count);
        store_some<N>(out + at, sums, count);
    }
};
