// The embedding stage before its normalisation, as training keeps it: out [T, E] = word[id] + position[pos] + token_type[type] + task.
//
//   out   f32 [tokens, E]; tables and tokens as embed.cu
//
// One warp a token. Bound by memory.
#include "embed.cuh"

KERNEL(embed_sum, 128, float* out, const float* word, const float* position, const float* token_type, const float* task, const unsigned* ids,
       const unsigned* positions, const unsigned* types, int tokens, int width) {
    const int token = row_of_warp();
    if (token >= tokens) return;
    const Tables tables{word, position, token_type, task};
    const Tokens of{ids, positions, types};
    const float* const row = word + size_t(ids[token]) * width;
    each_of_mine(width, [&](int column, int count) {
        store_some<4>(out + size_t(token) * width + column, with_place(load_some<4>(row + column, count), tables, of, token, column, count, width), count);
    });
}
