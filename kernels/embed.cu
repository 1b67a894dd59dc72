// The embedding stage: out [T, E] = LN(word[id] + position[pos] + token_type[type] + task).
//
//   out           T [tokens, E]                          ids, positions, types   u32 [tokens]
//   word, position, token_type   f32 tables [·, E]; the last two and task f32 [E] may be absent (null)
//
// One warp a token; the sum waits in shared memory. Sums go in the order of the formula. The host has checked every index.
#include "embed.cuh"

template <class T>
DEVICE void embed(T* out, const Tables& tables, Affine affine, const Tokens& of, int tokens, int width) {
    SHARED(float, shared);
    const int token = row_of_warp();
    if (token >= tokens) return;
    float* const mine = my_row(shared, width);
    const float* const word = tables.word + size_t(of.ids[token]) * width;
    each_of_mine(width, [&](int column, int count) {
        store_vector<4>(mine + column, with_place(load_some<4>(word + column, count), tables, of, token, column, count, width));
    });
    normalise(out + size_t(token) * width, mine, affine, width);
}

#define EMBED(T)                                                                                                                       \
    KERNEL(embed_##T, 128, T* out, const float* word, const float* position, const float* token_type, const float* task,                \
           const float* weight, const float* bias, float epsilon, const unsigned* ids, const unsigned* positions,                       \
           const unsigned* types, int tokens, int width) {                                                                              \
        embed(out, Tables{word, position, token_type, task}, Affine{weight, bias, epsilon}, Tokens{ids, positions, types}, tokens, width); \
    }

EMBED(f32)
EMBED(f16)
EMBED(bf16)
