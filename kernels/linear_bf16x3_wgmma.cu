// Linear layers in bf16x3, of and to f32, for compute capability 9.0a: linear_wgmma.cuh says how.
#include "linear_wgmma.cuh"

LINEAR(bf16x3, bf16, float, Exact, 2, 128, 256, 4, 1)
LINEAR(bf16x3, bf16, float, Exact, 2, 64, 128, 4, 2)
