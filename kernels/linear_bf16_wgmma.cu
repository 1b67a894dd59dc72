// Linear layers in bf16 for compute capability 9.0a: linear_wgmma.cuh says how.
#include "linear_wgmma.cuh"

LINEAR(bf16, bf16, bf16, Fast, 1, 128, 256, 4, 1)
LINEAR(bf16, bf16, bf16, Fast, 1, 64, 128, 4, 2)
