// The way back through attention in bf16: attention_backward_mma.cuh and attention_backward_short.cuh say how.
#include "attention_backward_mma.cuh"
#include "attention_backward_short.cuh"

ATTENTION_BACKWARD(bf16, 32)
ATTENTION_BACKWARD(bf16, 64)
ATTENTION_BACKWARD(bf16, 128)

ATTENTION_BACKWARD_DROPOUT(bf16, 32)
ATTENTION_BACKWARD_DROPOUT(bf16, 64)
ATTENTION_BACKWARD_DROPOUT(bf16, 128)

ATTENTION_BACKWARD_SHORT(bf16, 32)
ATTENTION_BACKWARD_SHORT(bf16, 64)

ATTENTION_BACKWARD_SHORT_DROPOUT(bf16, 32)
ATTENTION_BACKWARD_SHORT_DROPOUT(bf16, 64)
