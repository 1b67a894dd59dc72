// The embedding stage before its normalisation, as training and gradients of records keep it: out [T, E] = word[id] + position[pos] + token_type[type] + task.
//
//   out   T [tokens, E]; tables and tokens as embed.cu
//
// One warp a token. Bound by memory.
#include "embed.cuh"

template <class T>
DEVICE void embed_sum(T* out, const Tables& tables, const Tokens& of, int tokens, int width) {
    const int token = row_of_warp();
    if (token >= tokens) return;
    const float* const row = tables.word + size_t(of.ids[token]) * width;
    each_of_mine(width, [&](int column, int count) {
        store_some<4>(out + size_t(token) * width + column, with_place(load_some<4>(row + column, count), tables, of, token, column, count, width), count);
    });
}

#define EMBED_SUM(T)                                                                                                                              \
    KERNEL(embed_sum_##T, 128, T* out, const float* word, const float* position, const float* token_type, const float* task, const unsigned* ids,   \
           const unsigned* positions, const unsigned* types, int tokens, int width) {                                                              \
        embed_sum(out, Tables{word, position, token_type, task}, Tokens{ids, positions, types}, tokens, width);                                    \
    }

EMBED_SUM(f32)
EMBED_SUM(f16)
EMBED_SUM(bf16)
