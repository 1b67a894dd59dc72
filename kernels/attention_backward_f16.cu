// The way back through attention in f16: attention_backward_mma.cuh says how.
#include "attention_backward_mma.cuh"

ATTENTION_BACKWARD(f16, 32)
ATTENTION_BACKWARD(f16, 64)
ATTENTION_BACKWARD(f16, 128)
