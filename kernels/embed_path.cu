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
// One warp a token, both ends of its path where rows.cuh has them: no point ever reaches global memory. Draws, and ends that are normalised each, are too
// long to have in the code for each vector: such paths are in shared memory. Bound by memory, as embed.cu.
#include "embed.cuh"
#include "port_blocks.cuh"
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

struct Stage {
    Tables tables;
    Affine affine;
    Tokens tokens;
    Paths paths;
    int width;

    // The embedding of `id` in a token's place, where the path moves it.
    template <class Row>
    DEVICE void fill(Row& row, unsigned id, int token) const {
        if (id == ZERO) return row.fill([](int, int) { return filled<4>(0.0f); });
        bring(row, tables.word + size_t(id) * width);
        if (Row::UNROLLED || !paths.output) return;
        add_place(row, tables, tokens, token, width);
        normalise(row, affine, width);
    }

    // Adds σn; a lane draws for its own four columns.
    DEVICE void add_noise(InShared& row, int token, unsigned sequence) const {
        const float sigma = paths.sigma[sequence];
        if (sigma == 0.0f) return;
        const unsigned place = unsigned(token) - paths.starts[sequence];
        const unsigned sample = paths.draws[2 * sequence], record = paths.draws[2 * sequence + 1];
        row.change([&](Four x, int column, int count) {
            const uint4 words = philox(make_uint4(unsigned(column) / 4, place, sample, record), paths.key);
            const unsigned word[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
            for (int i = 0; i < 4; ++i) x.x[i] += i < count ? sigma * normal(word[i]) : 0.0f;
            return x;
        });
    }

    // Both ends of a token's path.
    template <class Row>
    DEVICE void fill_ends(Row& start, Row& end, int token) const {
        fill(start, paths.baseline[token], token);
        fill(end, tokens.ids[token], token);
        if constexpr (!Row::UNROLLED) add_noise(end, token, paths.sequence_of[token]);
    }

    // The point, in the place of the start; what is to be normalised where words move.
    template <class Row>
    DEVICE void fill_point(Row& start, Row& end, int token) const {
        fill_ends(start, end, token);
        const float alpha = paths.alpha[paths.sequence_of[token]], rest = 1.0f - alpha;
        start.change(end, [&](const Four& from, const Four& to, int, int) {
            Four x;
#pragma unroll
            for (int i = 0; i < 4; ++i) x.x[i] = fmaf(to.x[i], alpha, from.x[i] * rest);
            return x;
        });
        if (Row::UNROLLED || !paths.output) add_place(start, tables, tokens, token, width);
    }

    // Runs `step(token)` with the kind of row for the token that this warp is for, if it is for one.
    template <class Step, class... T>
    DEVICE void with_token(int count, Step step, const T*... rows) const {
        const int token = row_of_warp();
        if (token >= count) return;
        const auto own = [&](auto kind) { step(kind, token); };
        if (paths.output || paths.sigma[paths.sequence_of[token]] != 0.0f) own(Kind<InShared>());
        else with_kind_of_row(width, own, rows..., tables.word, tables.position, tables.token_type, tables.task, affine.weight, affine.bias);
    }
};

template <class Row, class T>
DEVICE void embed_path(T* out, const Stage& stage, int token) {
    SHARED(float, shared);
    const int width = stage.width;
    Row point(shared, 2 * warp_id(), width), end(shared, 2 * warp_id() + 1, width);
    stage.fill_point(point, end, token);
    if (Row::UNROLLED || !stage.paths.output) normalise(point, stage.affine, width);
    leave(point, out + size_t(token) * width);
}

template <class Row, class T>
DEVICE void embed_backward(T* gradient, const Stage& stage, int token) {
    SHARED(float, shared);
    const int width = stage.width;
    Row point(shared, 2 * warp_id(), width), slopes(shared, 2 * warp_id() + 1, width);
    stage.fill_point(point, slopes, token);
    T* const own = gradient + size_t(token) * width;
    normalise_backward(own, own, point, slopes, stage.affine, width);
}

// Σ a b.
template <class Row>
DEVICE float inner_product(const Row& a, const Row& b) {
    float sum = 0.0f;
    a.each(b, [&](const Four& x, const Four& y, int, int) {
#pragma unroll
        for (int i = 0; i < 4; ++i) sum = fmaf(x.x[i], y.x[i], sum);
    });
    return warp_sum(sum);
}

template <class Row, class T>
DEVICE void fold(float* out, const T* gradient, const float* scales, int kind, const Stage& stage, int token) {
    SHARED(float, shared);
    const int width = stage.width;
    const float unscale = 1.0f / scales[stage.paths.sequence_of[token]];  // a power of two: exact
    const T* const own = gradient + size_t(token) * width;
    if (kind == 2) {
        each_of_mine(width, [&](int column, int count) {
            store_some<4>(out + size_t(token) * width + column, load_some<4>(own + column, count) * filled<4>(unscale), count);
        });
        return;
    }
    const int first = (kind == 0 ? 3 : 1) * warp_id();
    Row slopes(shared, first, width);
    bring(slopes, own);
    float result;
    if (kind == 0) {
        Row start(shared, first + 1, width), end(shared, first + 2, width);
        stage.fill_ends(start, end, token);
        end.change(start, [](const Four& to, const Four& from, int, int) { return to + from * filled<4>(-1.0f); });
        result = inner_product(slopes, end);
    } else {
        result = sqrtf(inner_product(slopes, slopes));
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
    KERNEL(embed_path_##T, 128, T* out, STAGE_PARAMETERS) {                                                                                    \
        await_kernels();                                                                                                                       \
        const Stage stage = STAGE;                                                                                                             \
        stage.with_token(tokens, [&](auto kind, int token) { embed_path<typename decltype(kind)::type>(out, stage, token); }, out);            \
    }                                                                                                                                          \
    KERNEL_BLOCKS(embed_backward_##T, 128, 3, T* gradient, STAGE_PARAMETERS) {                                                                 \
        await_kernels();                                                                                                                       \
        const Stage stage = STAGE;                                                                                                             \
        stage.with_token(tokens, [&](auto kind, int token) { embed_backward<typename decltype(kind)::type>(gradient, stage, token); }, gradient); \
    }                                                                                                                                          \
    KERNEL(fold_##T, 128, float* out, const T* gradient, const float* scales, int kind, STAGE_PARAMETERS) {                                    \
        await_kernels();                                                                                                                       \
        const Stage stage = STAGE;                                                                                                             \
        stage.with_token(tokens, [&](auto row, int token) { fold<typename decltype(row)::type>(out, gradient, scales, kind, stage, token); },   \
                         gradient);                                                                                                            \
    }

PATH(f32)
PATH(f16)
PATH(bf16)
