// Linear layers in f16: linear_mma.cuh says how.
#include "linear_mma.cuh"

LINEAR(f16, Plain<f16>, f16, Fast, 128, 128, 64, 32, 3)
LINEAR(f16, Plain<f16>, f16, Fast, 64, 64, 32, 32, 4)
