// What follows a matrix product while its sums are in registers.
#pragma once
#include "activation.cuh"
#include "vector.cuh"

// Where a product's results go: [rows, columns], N neighbouring columns of a row at a time, the first a multiple of N.
struct Extent {
    int rows, columns;
    DEVICE bool has(int row, int column) const { return row < rows && column < columns; }
    DEVICE size_t at(int row, int column) const { return size_t(row) * columns + column; }
};

// out = activation(sums + bias) + residual; where it is wanted, slope = activation'(sums + bias).
template <class T, class Math>
struct Forward {
    T* out;
    T* slope;           // or null
    const float* bias;  // [columns, rounded up to 32]
    const T* residual;  // or null
    int activation;
    Extent extent;

    // Whether there is much to compute, and what is left where there is not.
    DEVICE bool activates() const { return slope || activation; }
    DEVICE Forward without_activation() const { return Forward{out, nullptr, bias, residual, 0, extent}; }

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
    T* out;
    const T* slope;     // or null
    const T* residual;  // or null
    Extent extent;

    DEVICE bool activates() const { return false; }
    DEVICE Backward without_activation() const { return *this; }

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
