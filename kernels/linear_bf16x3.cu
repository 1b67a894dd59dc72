// Linear layers in bf16x3, of and to f32: linear_mma.cuh says how.
#include "linear_mma.cuh"

LINEAR(bf16x3, Split, float, Exact, 128, 64, 32, 32, 3)
LINEAR(bf16x3, Split, float, Exact, 64, 64, 32, 32, 2)
