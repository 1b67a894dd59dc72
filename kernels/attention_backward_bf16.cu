// The way back through attention in bf16: attention_backward_mma.cuh says how.
#include "attention_backward_mma.cuh"

ATTENTION_BACKWARD(bf16, 32)
ATTENTION_BACKWARD(bf16, 64)
ATTENTION_BACKWARD(bf16, 128)

ATTENTION_BACKWARD_DROPOUT(bf16, 32)
ATTENTION_BACKWARD_DROPOUT(bf16, 64)
ATTENTION_BACKWARD_DROPOUT(bf16, 128)
