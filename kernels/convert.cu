// Numbers to another type: out [n] = x [n], each rounded once; or to two, out [2, n]: what each rounds to, and what is left of it. One thread eight
// neighbours. Bound by memory.
#include "vector.cuh"

template <class T>
DEVICE void convert(T* out, const float* x, int n) {
    const int first = (int(blockIdx.x) * int(blockDim.x) + int(threadIdx.x)) * 8;
    if (first < n) store_some<8>(out + first, load_some<8>(x + first, n - first), n - first);
}

KERNEL(convert_f16, 256, f16* out, const float* x, int n) { await_kernels(); convert(out, x, n); }
KERNEL(convert_bf16, 256, bf16* out, const float* x, int n) { await_kernels(); convert(out, x, n); }

KERNEL(split_bf16, 256, bf16* out, const float* x, int n) {
    await_kernels();
    const int first = (int(blockIdx.x) * int(blockDim.x) + int(threadIdx.x)) * 8;
    if (first >= n) return;
    const int count = n - first;
    const Vector<8> whole = load_some<8>(x + first, count);
    Vector<8> left;
#pragma unroll
    for (int i = 0; i < 8; ++i) left.x[i] = whole.x[i] - widen(narrow<bf16>(whole.x[i]));
    store_some<8>(out + first, whole, count);
    store_some<8>(out + n + first, left, count);
}
