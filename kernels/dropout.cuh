// The draws of dropout: src/backend/training.rs, bit for bit.
#pragma once
#include "random.cuh"

struct Dropout {
    static constexpr bool DROPS = true;
    const unsigned* records;  // [B]
    uint2 key;
    unsigned site, threshold;
    float scale;

    // The draws of numbers 8 block … 8 block + 7 of a sequence's row.
    DEVICE uint4 words(unsigned block, unsigned row, unsigned sequence) const { return philox(make_uint4(block, row, records[sequence], site), key); }

    // What number i of eight is multiplied by.
    DEVICE float factor(uint4 words, int i) const {
        const unsigned word = i < 2 ? words.x : i < 4 ? words.y : i < 6 ? words.z : words.w;
        return (word >> 16 * (i % 2) & 0xffffu) < threshold ? 0.0f : scale;
    }

    // Which of eight draws are kept, a bit each.
    DEVICE unsigned kept(uint4 words) const {
        unsigned bits = 0;
#pragma unroll
        for (int i = 0; i < 8; ++i) bits |= unsigned(factor(words, i) != 0.0f) << i;
        return bits;
    }
    // Of the eight weights that a query's row has for keys 8 block … 8 block + 7.
    DEVICE unsigned kept(int sequence, int head, int query, int block) const {
        return kept(words(unsigned(block), unsigned(head) << 16 | unsigned(query), unsigned(sequence)));
    }
    DEVICE float of_bit(unsigned bits, int i) const { return bits >> i & 1 ? scale : 0.0f; }

    // Of a query's attention weights in a head: of keys `first + part` and `first + part + 4`, `first` a multiple of 8, part below 4.
    DEVICE float2 of_weights(int sequence, int head, int query, int first, int part) const {
        const uint4 drawn = words(unsigned(first) / 8, unsigned(head) << 16 | unsigned(query), unsigned(sequence));
        return make_float2(factor(drawn, part), factor(drawn, part + 4));
    }
    // Of the eight keys from `first` on, `stride` apart.
    DEVICE void fill(float* to, int stride, int sequence, int head, int query, int first) const {
        const uint4 drawn = words(unsigned(first) / 8, unsigned(head) << 16 | unsigned(query), unsigned(sequence));
#pragma unroll
        for (int i = 0; i < 8; ++i) to[i * stride] = factor(drawn, i);
    }
};

// Where nothing is dropped.
struct Whole {
    static constexpr bool DROPS = false;
    DEVICE float2 of_weights(int, int, int, int, int) const { return make_float2(1.0f, 1.0f); }
    DEVICE void fill(float*, int, int, int, int, int) const {}
    DEVICE unsigned kept(int, int, int, int) const { return 0; }
};

#define DROPOUT_PARAMETERS const unsigned *records, int key_low, int key_high, int site, int threshold, float scale
#define DROPOUT Dropout{records, make_uint2(unsigned(key_low), unsigned(key_high)), unsigned(site), unsigned(threshold), scale}
