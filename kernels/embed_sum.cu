// The embedding stage before its normalisation, as training and gradients of records keep it: out [T, E] = word[id] + position[pos] + token_type[type] + task.
//
//   out   T [tokens, E]; tables and tokens as embed.cu
//
// One warp a token. Bound by memory.
#include "embed.cuh"

template <class Row, class T>
DEVICE void embed_sum(T* out, const Tables& tables, const Tokens& of, int tokens, int width) {
    SHARED(float, shared);
    const int token = row_of_warp();
    if (token >= tokens) return;
    Row row(shared, warp_id(), width);
    bring(row, tables.word + size_t(of.ids[token]) * width);
    add_place(row, tables, of, token, width);
    leave(row, out + size_t(token) * width);
}

#define EMBED_SUM(T)                                                                                                                              \
    KERNEL(embed_sum_##T, 128, T* out, const float* word, const float* position, const float* token_type, const float* task, const unsigned* ids,   \
           const unsigned* positions, const unsigned* types, int tokens, int width) {                                                              \
        await_kernels();                                                                                                                           \
        with_kind_of_row(width, [&](auto kind) {                                                                                                   \
            embed_sum<typename decltype(kind)::type>(out, Tables{word, position, token_type, task}, Tokens{ids, positions, types}, tokens, width);  \
        }, out, word, position, token_type, task);                                                                                                \
    }

EMBED_SUM(f32)
EMBED_SUM(f16)
EMBED_SUM(bf16)
