// The way back through attention in f16: attention_backward_mma.cuh and attention_backward_short.cuh say how.
#include "attention_backward_mma.cuh"
#include "attention_backward_short.cuh"

ATTENTION_BACKWARD(f16, 32)
ATTENTION_BACKWARD(f16, 64)
ATTENTION_BACKWARD(f16, 128)

ATTENTION_BACKWARD_SHORT(f16, 32)
ATTENTION_BACKWARD_SHORT(f16, 64)
