// Attention in bf16: attention_mma.cuh says how.
#include "attention_mma.cuh"

ATTENTION(bf16, 32)
ATTENTION(bf16, 64)
ATTENTION(bf16, 128)

ATTENTION_DROPOUT(bf16, 32)
ATTENTION_DROPOUT(bf16, 64)
ATTENTION_DROPOUT(bf16, 128)
