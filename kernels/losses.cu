// Cross-entropies of one among some logits of a buffer (backend::training::CrossEntropy), and the gradient of their sum. A term is of one line of logits
// at equal distances, or of the mean of several.
//
//   cross_entropy          found [terms]: of each term the largest logit, Σ exp(z − largest), the same without the gold, and the gold logit
//   cross_entropy_slopes   dz T [·], on every line: Σ over the terms that read it, in their order, of share · (softmax(z) − [gold])
//
//   z       T [·]                  starts   u32 [·]: the first place of each line of each term
//   lines   { first place, terms from, terms to }: no two cross           readers   u32 [·]: terms
//
// A term, or 1024 places of a line, is a block's; its order of sums is fixed by its own count. Exponentials are f32, their sums f64: slopes then add up to
// nothing, as they should, but for the rounding of each. Bound by the bytes of z, which are read three times, the second and the third time from the caches
// where they fit.
#include "activation.cuh"

constexpr int THREADS = 256;
constexpr int PLACES = 4;  // of a line, that a thread reads at once
constexpr int SPAN = PLACES * THREADS;

// `share` is what its slopes are multiplied by; its lines are starts[first] … starts[first + lines − 1].
struct Term {
    unsigned first, lines, count, gold;
    float share;
    unsigned unused[3];
};

struct Line {
    unsigned start, from, to, count;
};

struct Found {
    float largest, gold;
    double sum, others, inverse;  // 1 / sum
};

// A term's logits from the `begin`th on, THREADS apart; where there are fewer, the last again. They are on their way together.
template <class T>
DEVICE void read(float (&logits)[PLACES], const T* z, const unsigned* starts, const Term& of, unsigned stride, unsigned begin) {
    unsigned places[PLACES];
#pragma unroll
    for (int p = 0; p < PLACES; ++p) places[p] = min(begin + p * THREADS, of.count - 1) * stride, logits[p] = 0.0f;
#pragma unroll 1
    for (unsigned line = 0; line < of.lines; ++line) {
        const T* const own = z + starts[of.first + line];
#pragma unroll
        for (int p = 0; p < PLACES; ++p) logits[p] += widen(own[places[p]]);
    }
    if (of.lines == 1) return;
#pragma unroll
    for (int p = 0; p < PLACES; ++p) logits[p] /= float(of.lines);
}

// Every logit of a term, each thread's in ascending order.
template <class T, class Take>
DEVICE void each(const T* z, const unsigned* starts, const Term& of, unsigned stride, Take take) {
#pragma unroll 1
    for (unsigned begin = threadIdx.x; begin < of.count; begin += SPAN) {
        float logits[PLACES];
        read(logits, z, starts, of, stride, begin);
#pragma unroll
        for (int p = 0; p < PLACES; ++p)
            if (begin + p * THREADS < of.count) take(begin + p * THREADS, logits[p]);
    }
}

// Of what each thread came to, in one tree: all have the result, and are done with `parts` [THREADS].
template <class N, class Combine>
DEVICE N over_block(N mine, N* parts, Combine combine) {
    const int thread = int(threadIdx.x);
    parts[thread] = mine;
#pragma unroll
    for (int half = THREADS / 2; half > 0; half /= 2) {
        sync_block();
        if (thread < half) parts[thread] = combine(parts[thread], parts[thread + half]);
    }
    sync_block();
    const N all = parts[0];
    sync_block();
    return all;
}

template <class T>
DEVICE void cross_entropy(Found* found, const T* z, const Term* terms, const unsigned* starts, unsigned stride) {
    SHARED(double, parts);
    const Term of = load<Term>(terms + blockIdx.x);
    float largest = -INFINITY;
    each(z, starts, of, stride, [&](unsigned, float logit) { largest = fmaxf(largest, logit); });
    largest = over_block(largest, reinterpret_cast<float*>(parts), [](float a, float b) { return fmaxf(a, b); });
    double others = 0.0;  // apart, so that 1 − p keeps its digits where p is nearly 1
    each(z, starts, of, stride, [&](unsigned i, float logit) {
        if (i != of.gold) others += double(Exact::exp(logit - largest));
    });
    others = over_block(others, parts, [](double a, double b) { return a + b; });
    if (threadIdx.x > 0) return;
    float golds[PLACES];
    read(golds, z, starts, of, stride, of.gold);
    const float gold = golds[0];
    const double sum = others + double(Exact::exp(gold - largest));
    store(found + blockIdx.x, Found{largest, gold, sum, others, 1.0 / sum});
}

template <class T>
DEVICE void cross_entropy_slopes(T* dz, const T* z, const Found* found, const Term* terms, const unsigned* starts, const Line* lines,
                                 const unsigned* readers, unsigned stride) {
    const Line line = load<Line>(lines + blockIdx.x);
    const unsigned begin = blockIdx.y * SPAN + threadIdx.x;
    double slopes[PLACES] = {};
    for (unsigned reader = line.from; reader < line.to; ++reader) {
        const Term of = load<Term>(terms + readers[reader]);
        const Found sums = load<Found>(found + readers[reader]);
        float logits[PLACES];
        read(logits, z, starts, of, stride, begin);
#pragma unroll
        for (int p = 0; p < PLACES; ++p) {
            const double above = begin + p * THREADS == of.gold ? 0.0 - sums.others : double(Exact::exp(logits[p] - sums.largest));
            slopes[p] += double(of.share) * above * sums.inverse;
        }
    }
#pragma unroll
    for (int p = 0; p < PLACES; ++p)
        if (begin + p * THREADS < line.count) dz[line.start + size_t(begin + p * THREADS) * stride] = narrow<T>(float(slopes[p]));
}

#define CROSS_ENTROPY(T)                                                                                                                    \
    KERNEL(cross_entropy_##T, THREADS, Found* found, const T* z, const Term* terms, const unsigned* starts, unsigned stride) {              \
        await_kernels();                                                                                                                    \
        cross_entropy(found, z, terms, starts, stride);                                                                                     \
    }                                                                                                                                       \
    KERNEL(cross_entropy_slopes_##T, THREADS, T* dz, const T* z, const Found* found, const Term* terms, const unsigned* starts,             \
           const Line* lines, const unsigned* readers, unsigned stride) {                                                                   \
        await_kernels();                                                                                                                    \
        cross_entropy_slopes(dz, z, found, terms, starts, lines, readers, stride);                                                          \
    }

CROSS_ENTROPY(f32)
CROSS_ENTROPY(bf16)
