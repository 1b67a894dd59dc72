// Layer normalisation: out [rows, E] = (x − mean) / √(var + ε) · weight + bias over each row of x [rows, E]; and the gradient at x from dy, that at out.
//
//   out, x, dx, dy   T, row-major            weight, bias   f32 [E]
//
// One warp a row, which waits where rows.cuh has it between the passes, so that global memory is read once. Bound by memory: 2 · E · sizeof(T) bytes
// a row, 3 on the way back. A row's bits depend on the row alone.
#include "rows.cuh"

template <class Row, class T>
DEVICE void layer_norm(T* out, const T* x, Affine affine, int rows, int width) {
    SHARED(float, shared);
    const int number = row_of_warp();
    if (number >= rows) return;
    const size_t start = size_t(number) * width;
    Row row(shared, warp_id(), width);
    bring(row, x + start);
    normalise(row, affine, width);
    leave(row, out + start);
}

template <class Row, class T>
DEVICE void layer_norm_backward(T* dx, const T* dy, const T* x, Affine affine, int rows, int width) {
    SHARED(float, shared);
    const int number = row_of_warp();
    if (number >= rows) return;
    const size_t start = size_t(number) * width;
    Row row(shared, 2 * warp_id(), width), slopes(shared, 2 * warp_id() + 1, width);
    bring(row, x + start);
    normalise_backward(dx + start, dy + start, row, slopes, affine, width);
}

#define LAYER_NORM(T)                                                                                                                          \
    KERNEL(layer_norm_##T, 128, T* out, const T* x, const float* weight, const float* bias, float epsilon, int rows, int width) {                \
        await_kernels();                                                                                                                         \
        with_kind_of_row(width, [&](auto kind) {                                                                                                \
            layer_norm<typename decltype(kind)::type>(out, x, Affine{weight, bias, epsilon}, rows, width);                                       \
        }, out, x, weight, bias);                                                                                                              \
    }                                                                                                                                          \
    KERNEL(layer_norm_backward_##T, 128, T* dx, const T* dy, const T* x, const float* weight, float epsilon, int rows, int width) {              \
        await_kernels();                                                                                                                         \
        with_kind_of_row(width, [&](auto kind) {                                                                                                \
            layer_norm_backward<typename decltype(kind)::type>(dx, dy, x, Affine{weight, nullptr, epsilon}, rows, width);                        \
        }, dx, dy, x, weight);                                                                                                                 \
    }

LAYER_NORM(f32)
LAYER_NORM(f16)
LAYER_NORM(bf16)
