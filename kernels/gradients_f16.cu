// Sums of outer products in f16: gradients_mma.cuh says how. Sequences' own alone, as each has a scale of its own.
#include "gradients_mma.cuh"

OUTER_PRODUCTS(f16, 128, 128, 64, 32, 3)
OUTER_PRODUCTS(f16, 64, 64, 32, 32, 4)
