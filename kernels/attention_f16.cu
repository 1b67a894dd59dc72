// Attention in f16: attention_mma.cuh says how.
#include "attention_mma.cuh"

ATTENTION(f16, 32)
ATTENTION(f16, 64)
ATTENTION(f16, 128)
