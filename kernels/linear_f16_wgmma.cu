// Linear layers in f16 for compute capability 9.0a: linear_wgmma.cuh says how.
#include "linear_wgmma.cuh"

LINEAR(f16, f16, f16, Fast, 1, 128, 256, 4, 1)
LINEAR(f16, f16, f16, Fast, 1, 64, 128, 4, 2)
