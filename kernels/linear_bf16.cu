// Linear layers in bf16: linear_mma.cuh says how.
#include "linear_mma.cuh"

LINEAR(bf16, Plain<bf16>, bf16, Fast, 128, 128, 64, 32, 3)
LINEAR(bf16, Plain<bf16>, bf16, Fast, 64, 64, 32, 32, 4)
