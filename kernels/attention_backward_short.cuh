// The way back through attention on tensor cores where a sequence has at most 128 tokens and all of them ask: a block has all of a sequence's head in
// shared memory, so that P and dP are made once, and of what is not there (rows beyond the length, by sixteens) nothing is.
//
//   dP = dO vᵀ      dS = P ∘ (dP − rowsum(P ∘ dP)) / √D      dq = dS k      dk = dSᵀ q      dv = Pᵀ dO
//
//   1  a warp has 16 queries: P, which it puts where all warps see it; dS, which stays with it in 16 bits; dq
//   2  a warp has 16 keys: dv, from all warps' P
//   3  dS takes the place of P: dk
//
//   q, k, v, d_out   T, row r of a head at tensor + r · stride + head · D         d_q, d_k, d_v   T, the same of one stride
//   sequences        u32, one a block.x; block.y is the head                      starts          u32 [B + 1]
//
// A block has as many warps as the longest of its launch has sixteens of tokens. P is rounded before dS is made of it, as it is for dv. With F the
// factors of a dropout, P ∘ F stands for P in dv, and F ∘ dP for dP. A row's bits depend on its own sequence alone. Bound by bytes: 14 · E a token, in 16 bits.
#pragma once
#include "attention_tile.cuh"
#include "port_blocks.cuh"

constexpr int MOST = 128;  // tokens

template <class T>
struct Short {
    View<T> q, k, v, d_out;
    T *d_q, *d_k, *d_v;
    int d_stride;
    const unsigned *sequences, *starts;
    int width;
};

// sums [16, WIDTH] += weightsᵀ · tile, for a warp's 16 columns of weights, of rows of `stride` numbers.
template <int WIDTH, class T>
DEVICE void mix_transposed(float (&sums)[WIDTH / 8][4], const T* weights, int stride, const T* tile, int present) {
    const int lane = lane_id();
#pragma unroll
    for (int k = 0; k < MOST / 16; ++k) {
        if (16 * k >= present) continue;
        uint32_t a[4];
        ldmatrix_transposed(a, weights + (16 * k + lane / 16 * 8 + lane % 8) * stride + lane / 8 % 2 * 8);
        add_mixed<WIDTH>(sums, a, tile, k);
    }
}

template <class T, int WIDTH, class Kept>
DEVICE void attention_backward_short(const Short<T>& of, const Kept& kept) {
    SHARED(T, shared);
    const int most = int(blockDim.x) / WARP * ROWS;  // tokens that there is room for
    const int stride = most + CHUNK;                 // of a row of weights: eight rows of one chunk column fall on all 32 banks
    T* const queries = shared;                       // [most, WIDTH]
    T* const d_out = queries + most * WIDTH;         // [most, WIDTH]
    T* const keys = d_out + most * WIDTH;            // [most, WIDTH], and then a warp's own of results
    T* const values = keys + most * WIDTH;           // [most, WIDTH], and then a warp's own of results
    T* const weights = values + most * WIDTH;        // [most, stride]: P or F ∘ P, and then dS, by query
    const int width = of.width, sequence = of.sequences[blockIdx.x], head = blockIdx.y;
    const int start = of.starts[sequence], length = int(of.starts[sequence + 1]) - start, whole = (length + ROWS - 1) / ROWS * ROWS;
    const int first = warp_id() * ROWS, mine = first * WIDTH;
    const bool busy = first < length;  // whether a token is the warp's
    const int g = lane_id() / 4, t = lane_id() % 4;
    const float scale = 1.0f / sqrtf(float(width));
    const auto place = [&](int half, int j) { return weights + (first + g + 8 * half) * stride + 8 * j + 2 * t; };

    fetch<WIDTH>(queries, of.q, start, length, whole, head, width);
    fetch<WIDTH>(keys, of.k, start, length, whole, head, width);
    copy_commit();
    fetch<WIDTH>(d_out, of.d_out, start, length, whole, head, width);
    fetch<WIDTH>(values, of.v, start, length, whole, head, width);
    copy_commit();
    copy_wait<1>();
    sync_block();  // queries and keys have landed for all
    if (busy) {
        float scores[MOST / 8][4];
        products<WIDTH>(scores, queries + mine, keys, length);
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            float largest = -INFINITY, sum = 0.0f;
#pragma unroll
            for (int j = 0; j < MOST / 8; ++j)
#pragma unroll
                for (int e = 0; e < 2; ++e) {
                    float& score = scores[j][2 * half + e];
                    score = 8 * j + 2 * t + e < length ? score * scale * 1.44269504f : -INFINITY;
                    largest = fmaxf(largest, score);
                }
            largest = quad_max(largest);
#pragma unroll
            for (int j = 0; j < MOST / 8; ++j)
#pragma unroll
                for (int e = 0; e < 2; ++e) {
                    float& score = scores[j][2 * half + e];
                    score = exp2_fast(score - largest);
                    sum += score;
                }
            sum = 1.0f / quad_sum(sum);
#pragma unroll
            for (int j = 0; j < MOST / 8; ++j)
                if (8 * j < whole) store(place(half, j), pack<T>(scores[j][2 * half] * sum, scores[j][2 * half + 1] * sum));
        }
    }
    copy_wait<0>();
    sync_block();  // the others have landed for all

    uint32_t slopes[MOST / 8][2];  // dS of the lane's two rows
    float sums[WIDTH / 8][4];
    if (busy) {
        float d_weights[MOST / 8][4];
        products<WIDTH>(d_weights, d_out + mine, values, length);
        const uint32_t drawn[2] = {draw_of_queries(kept, sequence, head, first, 0), draw_of_queries(kept, sequence, head, first, 64)};
        float moments[2] = {0.0f, 0.0f};
#pragma unroll
        for (int j = 0; j < MOST / 8; ++j) {
            if (8 * j >= whole) continue;
            drop_of_queries(d_weights[j], kept, drawn[j / 8], j % 8);
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const float2 weight = unpack<T>(load<uint32_t>(place(half, j)));
                moments[half] = fmaf(weight.y, d_weights[j][2 * half + 1], fmaf(weight.x, d_weights[j][2 * half], moments[half]));
            }
        }
        moments[0] = quad_sum(moments[0]), moments[1] = quad_sum(moments[1]);
#pragma unroll
        for (int j = 0; j < MOST / 8; ++j) {
            if (8 * j >= whole) continue;
            float dropped[4];
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const float2 weight = unpack<T>(load<uint32_t>(place(half, j)));
                dropped[2 * half] = weight.x, dropped[2 * half + 1] = weight.y;
                slopes[j][half] = pack<T>(weight.x * (d_weights[j][2 * half] - moments[half]) * scale,
                                          weight.y * (d_weights[j][2 * half + 1] - moments[half]) * scale);
            }
            if constexpr (Kept::DROPS) {
                drop_of_queries(dropped, kept, drawn[j / 8], j % 8);
                store(place(0, j), pack<T>(dropped[0], dropped[1])), store(place(1, j), pack<T>(dropped[2], dropped[3]));
            }
        }
        clear(sums);
#pragma unroll
        for (int k = 0; k < MOST / 16; ++k) {
            if (16 * k >= length) continue;
            const uint32_t a[4] = {slopes[2 * k][0], slopes[2 * k][1], slopes[2 * k + 1][0], slopes[2 * k + 1][1]};
            add_mixed<WIDTH>(sums, a, keys, k);
        }
    }
    sync_block();  // all have put P, and are done with keys and values

    const size_t at = size_t(start + first) * of.d_stride + head * width;
    if (busy) {
        put<WIDTH>(of.d_q + at, size_t(of.d_stride), length - first, keys + mine, sums, width);
        clear(sums);
        mix_transposed<WIDTH>(sums, weights + first, stride, d_out, length);
        put<WIDTH>(of.d_v + at, size_t(of.d_stride), length - first, values + mine, sums, width);
    }
    sync_block();  // all are done with P
    if (busy) {
#pragma unroll
        for (int j = 0; j < MOST / 8; ++j)
            if (8 * j < whole) store(place(0, j), slopes[j][0]), store(place(1, j), slopes[j][1]);
    }
    sync_block();  // all have put dS
    if (busy) {
        clear(sums);
        mix_transposed<WIDTH>(sums, weights + first, stride, queries, length);
        put<WIDTH>(of.d_k + at, size_t(of.d_stride), length - first, keys + mine, sums, width);
    }
}

#define SHORT_PARAMETERS(T)                                                                                                                    \
    T *d_q, T *d_k, T *d_v, int d_stride, const T *q, int q_stride, const T *k, int k_stride, const T *v, int v_stride, const T *d_out,        \
        const unsigned *sequences, const unsigned *starts, int heads, int width
#define SHORT(T)                                                                                                                               \
    Short<T>{View<T>{q, q_stride}, View<T>{k, k_stride}, View<T>{v, v_stride}, View<T>{d_out, heads * width}, d_q, d_k, d_v, d_stride,         \
             sequences, starts, width}

// By the largest D: 32, 64. Two blocks of eight warps side by side.
#define ATTENTION_BACKWARD_SHORT(T, WIDTH)                                                                                                     \
    KERNEL_BLOCKS(attention_backward_short_##T##_##WIDTH, 256, 2, SHORT_PARAMETERS(T)) {                                                       \
        await_kernels();                                                                                                                       \
        attention_backward_short<T, WIDTH>(SHORT(T), Whole{});                                                                                 \
    }
#define ATTENTION_BACKWARD_SHORT_DROPOUT(T, WIDTH)                                                                                             \
    KERNEL_BLOCKS(attention_backward_short_dropout_##T##_##WIDTH, 256, 2, SHORT_PARAMETERS(T), DROPOUT_PARAMETERS) {                           \
        await_kernels();                                                                                                                       \
        attention_backward_short<T, WIDTH>(SHORT(T), DROPOUT);                                                                                 \
    }
