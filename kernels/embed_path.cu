// The embedding stage at points of paths (src/backend/path.rs): the point itself, the gradient past the stage's normalisation, and what is
// made of a token's gradient. With x the token's embedding, x' its baseline's and n noise, a path runs from x' to x + σn.
//
//   embed_path      out [T, E] at (1 − α) x' + α (x + σn): where words move, place added and normalised after
//   embed_backward  gradient [T, E] in place, past that normalisation; launched where words move
//   fold            out f32: kind 0, g · (x + σn − x') [T]; 1, ‖g‖ [T]; 2, g itself [T, E]; each over the scale the record's gradient was seeded with
//
//   tables, ids, positions, types   as embed.cu         baseline   u32 [T], all ones for zeros         sequence_of   u32 [T]
//   starts   u32 [B + 1]            alpha, sigma, scales   f32 [B]         draws   u32 [B, 2]: sample and record of the noise
//
// One warp a token, both ends of its path in shared memory: no point ever reaches global memory. Bound by memory, as embed.cu.
#include "embed.cuh"
#include "random.cuh"

constexpr unsigned ZERO = 0xffffffffu;  // the baseline id of a vector of zeros

struct Paths {
    const unsigned* baseline;
    const unsigned* sequence_of;
    const unsigned* starts;
    const float* alpha;
    const float* sigma;
    const unsigned* draws;
    uint2 key;    // of the noise
    bool output;  // whether the stage's output moves, rather than words
};

// A token's path, in two rows of shared memory.
struct Ends {
    float* start;
    float* end;
};

struct Stage {
    Tables tables;
    Affine affine;
    Tokens tokens;
    Paths paths;
    int width;

    // The embedding of `id` in a token's place, where the path moves it.
    DEVICE void fill(float* row, unsigned id, int token) const {
        const float* const word = tables.word + size_t(id == ZERO ? 0 : id) * width;
        each_of_mine(width, [&](int column, int count) {
            Four x = id == ZERO ? filled<4>(0.0f) : load_some<4>(word + column, count);
            if (paths.output && id != ZERO) x = with_place(x, tables, tokens, token, column, count, width);
            store_vector<4>(row + column, x);
        });
        if (paths.output && id != ZERO) normalise(row, row, affine, width);
    }

    // Adds σn; a lane draws for its own four columns.
    DEVICE void add_noise(float* row, int token, unsigned sequence) const {
        const float sigma = paths.sigma[sequence];
        if (sigma == 0.0f) return;
        const unsigned place = unsigned(token) - paths.starts[sequence];
        const unsigned sample = paths.draws[2 * sequence], record = paths.draws[2 * sequence + 1];
        each_of_mine(width, [&](int column, int count) {
            const uint4 words = philox(make_uint4(unsigned(column) / 4, place, sample, record), paths.key);
            const unsigned word[4] = {words.x, words.y, words.z, words.w};
            Four x = load_vector<4>(row + column);
#pragma unroll
            for (int i = 0; i < 4; ++i) x.x[i] += i < count ? sigma * normal(word[i]) : 0.0f;
            store_vector<4>(row + column, x);
        });
    }

    DEVICE Ends ends(float* shared, int token) const {
        const int stride = (width + 3) / 4 * 4;
        const Ends ends{shared + 2 * warp_id() * stride, shared + (2 * warp_id() + 1) * stride};
        fill(ends.start, paths.baseline[token], token);
        fill(ends.end, tokens.ids[token], token);
        add_noise(ends.end, token, paths.sequence_of[token]);
        return ends;
    }

    // The point, in the place of the start; what is to be normalised where words move.
    DEVICE float* point(float* shared, int token) const {
        const Ends both = ends(shared, token);
        const float alpha = paths.alpha[paths.sequence_of[token]], rest = 1.0f - alpha;
        each_of_mine(width, [&](int column, int count) {
            const Four start = load_vector<4>(both.start + column), end = load_vector<4>(both.end + column);
            Four x;
#pragma unroll
            for (int i = 0; i < 4; ++i) x.x[i] = fmaf(end.x[i], alpha, start.x[i] * rest);
            store_vector<4>(both.start + column, paths.output ? x : with_place(x, tables, tokens, token, column, count, width));
        });
        return both.start;
    }
};

template <class T>
DEVICE void embed_path(T* out, const Stage& stage, int tokens) {
    SHARED(float, shared);
    const int token = row_of_warp(), width = stage.width;
    if (token >= tokens) return;
    const float* const point = stage.point(shared, token);
    T* const row = out + size_t(token) * width;
    if (!stage.paths.output) return normalise(row, point, stage.affine, width);
    each_of_mine(width, [&](int column, int count) { store_some<4>(row + column, load_vector<4>(point + column), count); });
}

template <class T>
DEVICE void embed_backward(T* gradient, const Stage& stage, int tokens) {
    SHARED(float, shared);
    const int token = row_of_warp();
    if (token >= tokens) return;
    T* const row = gradient + size_t(token) * stage.width;
    normalise_backward(row, row, stage.point(shared, token), stage.affine, stage.width);
}

// Σ a b of what this lane has of it.
template <class A, class B>
DEVICE float inner_product(int width, A a, B b) {
    float sum = 0.0f;
    each_of_mine(width, [&](int column, int count) {
        const Four x = a(column, count), y = b(column, count);
#pragma unroll
        for (int i = 0; i < 4; ++i) sum = fmaf(x.x[i], y.x[i], sum);
    });
    return warp_sum(sum);
}

template <class T>
DEVICE void fold(float* out, const T* gradient, const float* scales, int kind, const Stage& stage, int tokens) {
    SHARED(float, shared);
    const int token = row_of_warp(), width = stage.width;
    if (token >= tokens) return;
    const float unscale = 1.0f / scales[stage.paths.sequence_of[token]];  // a power of two: exact
    const T* const row = gradient + size_t(token) * width;
    const auto slope = [&](int column, int count) { return load_some<4>(row + column, count); };
    if (kind == 2) {
        each_of_mine(width, [&](int column, int count) {
            store_some<4>(out + size_t(token) * width + column, slope(column, count) * filled<4>(unscale), count);
        });
        return;
    }
    float result;
    if (kind == 0) {
        const Ends ends = stage.ends(shared, token);
        result = inner_product(width, slope, [&](int column, int) {
            return load_vector<4>(ends.end + column) + load_vector<4>(ends.start + column) * filled<4>(-1.0f);
        });
    } else {
        result = sqrtf(inner_product(width, slope, slope));
    }
    if (lane_id() == 0) out[token] = result * unscale;
}

#define STAGE_PARAMETERS                                                                                                                       \
    const float *word, const float *position, const float *token_type, const float *task, const float *weight, const float *bias,               \
        float epsilon, const unsigned *ids, const unsigned *positions, const unsigned *types, const unsigned *baseline,                        \
        const unsigned *sequence_of, const unsigned *starts, const float *alpha, const float *sigma, const unsigned *draws, int key_low,       \
        int key_high, int output, int tokens, int width
#define STAGE                                                                                                                                  \
    Stage{Tables{word, position, token_type, task}, Affine{weight, bias, epsilon}, Tokens{ids, positions, types},                              \
          Paths{baseline, sequence_of, starts, alpha, sigma, draws, make_uint2(unsigned(key_low), unsigned(key_high)), output != 0}, width}

#define PATH(T)                                                                                                                                \
    KERNEL(embed_path_##T, 128, T* out, STAGE_PARAMETERS) { embed_path(out, STAGE, tokens); }                                                  \
    KERNEL(embed_backward_##T, 128, T* gradient, STAGE_PARAMETERS) { embed_backward(gradient, STAGE, tokens); }                                \
    KERNEL(fold_##T, 128, float* out, const T* gradient, const float* scales, int kind, STAGE_PARAMETERS) {                                    \
        fold(out, gradient, scales, kind, STAGE, tokens);                                                                                      \
    }

PATH(f32)
PATH(f16)
PATH(bf16)
