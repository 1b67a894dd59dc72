// Sums of outer products in bf16: gradients_mma.cuh says how.
#include "gradients_mma.cuh"

WEIGHT_GRADIENT(bf16, 128, 128, 64, 32, 3)
WEIGHT_GRADIENT(bf16, 64, 64, 32, 32, 4)
OUTER_PRODUCTS(bf16, 128, 128, 64, 32, 3)
OUTER_PRODUCTS(bf16, 64, 64, 32, 32, 4)
