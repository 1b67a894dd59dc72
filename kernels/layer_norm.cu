// Layer normalisation: out [rows, E] = (x − mean) / √(var + ε) · weight + bias over each row of x [rows, E]; and the gradient at x from dy, that at out.
//
//   out, x, dx, dy   T, row-major            weight, bias   f32 [E]
//
// One warp a row; the row waits in shared memory (f32) between the passes, so global memory is read once (dy twice, the second time from the
// first-level cache). Bound by memory: 2 · E · sizeof(T) bytes a row, 3 on the way back. A row's bits depend on the row alone.
#include "rows.cuh"

// This warp's row of x, in shared memory; null where there is none.
template <class T>
DEVICE float* fetch_row(const T* x, int rows, int width) {
    SHARED(float, shared);
    const int row = row_of_warp();
    if (row >= rows) return nullptr;
    float* const mine = my_row(shared, width);
    const T* const from = x + size_t(row) * width;
    each_of_mine(width, [&](int column, int count) { store_vector<4>(mine + column, load_some<4>(from + column, count)); });
    return mine;
}

template <class T>
DEVICE void layer_norm(T* out, const T* x, Affine affine, int rows, int width) {
    const float* const row = fetch_row(x, rows, width);
    if (row) normalise(out + size_t(row_of_warp()) * width, row, affine, width);
}

template <class T>
DEVICE void layer_norm_backward(T* dx, const T* dy, const T* x, Affine affine, int rows, int width) {
    const float* const row = fetch_row(x, rows, width);
    const size_t start = size_t(row_of_warp()) * width;
    if (row) normalise_backward(dx + start, dy + start, row, affine, width);
}

#define LAYER_NORM(T)                                                                                                           \
    KERNEL(layer_norm_##T, 128, T* out, const T* x, const float* weight, const float* bias, float epsilon, int rows, int width) { \
        layer_norm(out, x, Affine{weight, bias, epsilon}, rows, width);                                                          \
    }                                                                                                                           \
    KERNEL(layer_norm_backward_##T, 128, T* dx, const T* dy, const T* x, const float* weight, float epsilon, int rows, int width) { \
        layer_norm_backward(dx, dy, x, Affine{weight, nullptr, epsilon}, rows, width);                                           \
    }

LAYER_NORM(f32)
LAYER_NORM(f16)
LAYER_NORM(bf16)
