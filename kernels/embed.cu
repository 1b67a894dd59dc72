// The embedding stage: out [T, E] = LN(word[id] + position[pos] + token_type[type] + task).
//
//   out           T [tokens, E]                          ids, positions, types   u32 [tokens]
//   word, position, token_type   f32 tables [·, E]; the last two and task f32 [E] may be absent (null)
//
// embed_masked: ids, positions and types are those of a few texts, each of B sequences is one of them with `stand_in` in some places:
//
//   starts   u32 [B + 1], among the T tokens     texts   u32 [B]: where each sequence's text begins     words   u32 [B]: where its bits do
//   bits     u32, a bit a token, the first the lowest
//
// One warp a token, its sum where rows.cuh has it. Sums go in the order of the formula. The host has checked every index.
#include "embed.cuh"

struct Masks {
    const unsigned* starts;
    const unsigned* texts;
    const unsigned* words;
    const unsigned* bits;
    int sequences;
    unsigned stand_in;

    // The sequence a token is in: the last that begins no later. All lanes read the same.
    DEVICE int sequence_of(unsigned token) const {
        int low = 0, high = sequences;
        while (high - low > 1) {
            const int middle = low + (high - low) / 2;
            if (starts[middle] <= token) low = middle;
            else high = middle;
        }
        return low;
    }
};

// The embedding of `id` in the place of token `from`.
template <class Row, class T>
DEVICE void embed(T* out, const Tables& tables, Affine affine, const Tokens& of, unsigned id, int from, int token, int width) {
    SHARED(float, shared);
    Row row(shared, warp_id(), width);
    bring(row, tables.word + size_t(id) * width);
    add_place(row, tables, of, from, width);
    normalise(row, affine, width);
    leave(row, out + size_t(token) * width);
}

template <class Row, class T>
DEVICE void embed_plain(T* out, const Tables& tables, Affine affine, const Tokens& of, int tokens, int width) {
    const int token = row_of_warp();
    if (token < tokens) embed<Row>(out, tables, affine, of, of.ids[token], token, token, width);
}

template <class Row, class T>
DEVICE void embed_masked(T* out, const Tables& tables, Affine affine, const Tokens& of, const Masks& masks, int tokens, int width) {
    const int token = row_of_warp();
    if (token >= tokens) return;
    const int sequence = masks.sequence_of(unsigned(token));
    const unsigned place = unsigned(token) - masks.starts[sequence], from = masks.texts[sequence] + place;
    const bool replaced = masks.bits[masks.words[sequence] + place / 32] >> place % 32 & 1;
    embed<Row>(out, tables, affine, of, replaced ? masks.stand_in : of.ids[from], int(from), token, width);
}

#define EMBED(T)                                                                                                                       \
    KERNEL(embed_##T, 128, T* out, const float* word, const float* position, const float* token_type, const float* task,                \
           const float* weight, const float* bias, float epsilon, const unsigned* ids, const unsigned* positions,                       \
           const unsigned* types, int tokens, int width) {                                                                              \
        await_kernels();                                                                                                                \
        with_kind_of_row(width, [&](auto kind) {                                                                                        \
            embed_plain<typename decltype(kind)::type>(out, Tables{word, position, token_type, task}, Affine{weight, bias, epsilon},    \
                                                       Tokens{ids, positions, types}, tokens, width);                                  \
        }, out, word, position, token_type, task, weight, bias);                                                                       \
    }                                                                                                                                  \
    KERNEL(embed_masked_##T, 128, T* out, const float* word, const float* position, const float* token_type, const float* task,         \
           const float* weight, const float* bias, float epsilon, const unsigned* ids, const unsigned* positions,                       \
           const unsigned* types, const unsigned* starts, const unsigned* texts, const unsigned* words, const unsigned* bits,           \
           int sequences, int stand_in, int tokens, int width) {                                                                        \
        await_kernels();                                                                                                                \
        const Masks masks{starts, texts, words, bits, sequences, unsigned(stand_in)};                                                   \
        with_kind_of_row(width, [&](auto kind) {                                                                                        \
            embed_masked<typename decltype(kind)::type>(out, Tables{word, position, token_type, task}, Affine{weight, bias, epsilon},   \
                                                        Tokens{ids, positions, types}, masks, tokens, width);                          \
        }, out, word, position, token_type, task, weight, bias);                                                                       \
    }

EMBED(f32)
EMBED(f16)
EMBED(bf16)
