// The activations of backend::Activation, by number: 0 identity, 1 gelu, 2 gelu-tanh, 3 quick-gelu, 4 relu, 5 silu, 6 tanh.
//
// The polynomials are those of src/backend/cpu/activation.rs, where their errors are stated and tested, and are evaluated in the same order: in
// f32 an activation has the CPU's bits. Where the result is rounded to 16 bits anyway (`Fast`), exponentials and reciprocals are the hardware's,
// and GELU's polynomial is one of fewer terms.
#pragma once
#include "port_fast.cuh"
#include "vector.cuh"

struct Exact {
    // exp(x) to 1.2 ulp: x = n ln 2 + r, |r| ≤ ln 2 / 2; exp(r) = 1 + r + r² q(r); times 2ⁿ in two steps, for subnormal results.
    static DEVICE float exp(float x) {
        x = -104.0f > x ? -104.0f : x;  // in this form NaN passes
        x = 89.0f < x ? 89.0f : x;
        const float n = rintf(x * 1.44269504f);
        const float r = fmaf(n, 1.9046543e-9f, fmaf(n, -0.69314718f, x));
        float q = 0.0013926213f;
        q = fmaf(q, r, 0.008363203f);
        q = fmaf(q, r, 0.041666556f);
        q = fmaf(q, r, 0.16666576f);
        q = fmaf(q, r, 0.5f);
        const float y = fmaf(q * r, r, r) + 1.0f;
        const int power = int(n), half = power >> 1;
        return y * two_to(half) * two_to(power - half);
    }
    static DEVICE float two_to(int n) { return __uint_as_float(unsigned(n + 127) << 23); }
    static DEVICE float divide(float x, float y) { return x / y; }
};

struct Fast {
    static DEVICE float exp(float x) { return exp2_fast(x * 1.44269504f); }
    static DEVICE float divide(float x, float y) { return x * reciprocal_fast(y); }
};

// An activation at one point, and its derivative there.
struct Sloped {
    float value, slope;
};

// x σ(u) = x / (1 + exp(−u))
template <class Math>
DEVICE float gated(float x, float u) { return Math::divide(x, 1.0f + Math::exp(0.0f - u)); }

// The same for u' = `by_x`, and its derivative σ(u) + x σ(u) (1 − σ(u)) u'.
template <class Math>
DEVICE Sloped gated_with_slope(float x, float u, float by_x) {
    const float denominator = 1.0f + Math::exp(0.0f - u), gate = Math::divide(1.0f, denominator);
    return Sloped{Math::divide(x, denominator), gate * (1.0f + x * by_x * (1.0f - gate))};
}

constexpr float COMPLEMENT_END = 5.7f;  // where erfc(x/√2) has become less than half a unit in the last place of 1

// erfc(x/√2) for x from 0 to COMPLEMENT_END, as exp(x p(x)).
template <class Math>
DEVICE float complement(float x) {
    const float square = x * x;
    float even = 7.022845e-7f, odd = -2.5197118e-8f;
    even = fmaf(even, square, 5.6731904e-5f), odd = fmaf(odd, square, -8.484822e-6f);
    even = fmaf(even, square, 9.840155e-6f), odd = fmaf(odd, square, -2.0236777e-4f);
    even = fmaf(even, square, -0.036351033f), odd = fmaf(odd, square, 0.0048111645f);
    even = fmaf(even, square, -0.7978849f), odd = fmaf(odd, square, -0.31830612f);
    return Math::exp(fmaf(odd, x, even) * x);
}

// x Φ(x) as max(x, 0) − |x|/2 erfc(|x|/√2): nothing cancels.
DEVICE float gelu_of(float x, float tail) {
    const float size = fabsf(x), taken = size < COMPLEMENT_END ? size * 0.5f * tail : 0.0f;
    return (0.0f > x ? 0.0f : x) - taken;
}
template <class Math>
DEVICE float gelu(float x) { return gelu_of(x, complement<Math>(fabsf(x))); }

// Φ(−x) for x from 0 to FAST_END, as 2^q(x): to 4e-5 of itself up to 4.5, to 2e-4 up to 5.7, and from there on, where it is below 1e-8, to 1e-12;
// at the end it is all but 0.
constexpr float FAST_END = 14.0f;
DEVICE float fast_tail(float x) {
    float q = 2.3402334e-5f;
    q = fmaf(q, x, -6.186071e-4f);
    q = fmaf(q, x, 7.2448193e-3f);
    q = fmaf(q, x, -0.051328983f);
    q = fmaf(q, x, -0.46108988f);
    q = fmaf(q, x, -1.1502534f);
    q = fmaf(q, x, -1.000061f);
    return exp2_fast(q);
}
template <>
DEVICE float gelu<Fast>(float x) {
    const float size = fminf(fabsf(x), FAST_END);
    return fmaf(-size, fast_tail(size), larger(x, 0.0f));
}

// GELU, and its derivative Φ(x) + x φ(x).
template <class Math>
DEVICE Sloped gelu_with_slope(float x) {
    const float size = fabsf(x), tail = complement<Math>(size);
    const float below = size < COMPLEMENT_END ? 0.5f * tail : 0.0f;
    const float distribution = x < 0.0f ? below : 1.0f - below;
    const float density = Math::exp(x * x * -0.5f) * 0.3989423f;  // φ(0) = 1/√(2π)
    return Sloped{gelu_of(x, tail), fmaf(x, density, distribution)};
}

// The derivative as ½ ± (½ − Φ(−|x|) + |x| φ(x)), by the sign of x.
template <>
DEVICE Sloped gelu_with_slope<Fast>(float x) {
    const float size = fminf(fabsf(x), FAST_END), tail = fast_tail(size);
    const float density = exp2_fast(fmaf(x * x, -0.72134752f, -1.3257481f));  // in powers of two
    const float from_half = fmaf(size, density, 0.5f - tail);
    return Sloped{fmaf(-size, tail, larger(x, 0.0f)), 0.5f + copysignf(from_half, x)};
}

// x/2 (1 + tanh u) = x σ(2u), and 2u = x (c + 0.044715 c x²) with c = 2 √(2/π).
constexpr float TANH_C = 1.595769f;
template <class Math>
DEVICE float gelu_tanh(float x) {
    return gated<Math>(x, x * fmaf(x * x, 0.044715f * TANH_C, TANH_C));
}
template <class Math>
DEVICE Sloped gelu_tanh_with_slope(float x) {
    const float square = x * x;
    return gated_with_slope<Math>(x, x * fmaf(square, 0.044715f * TANH_C, TANH_C), fmaf(square, 3.0f * 0.044715f * TANH_C, TANH_C));
}

// tanh(x) to 2 ulp: a polynomial where 1 − 2 / (exp(2|x|) + 1) would cancel.
template <class Math>
DEVICE float hyperbolic_tangent(float x) {
    const float size = fabsf(x), square = x * x;
    float p = 0.002277155f;
    p = fmaf(p, square, -0.008330077f);
    p = fmaf(p, square, 0.02176465f);
    p = fmaf(p, square, -0.05395873f);
    p = fmaf(p, square, 0.13333301f);
    p = fmaf(p, square, -1.0f / 3.0f);
    const float small = fmaf(p * square, x, x);
    const float large = 1.0f - Math::divide(2.0f, Math::exp(size * 2.0f) + 1.0f);
    return size < 0.625f ? small : x < 0.0f ? 0.0f - large : large;
}

// One function for all of a vector's numbers, so that they are computed side by side.
template <int N, class Each>
DEVICE void change(Vector<N>& v, const Each& each) {
#pragma unroll
    for (int i = 0; i < N; ++i) v.x[i] = each(v.x[i]);
}

template <class Math, int N>
DEVICE void activate(int activation, Vector<N>& v) {
    switch (activation) {
        case 1: return change(v, [](float x) { return gelu<Math>(x); });
        case 2: return change(v, [](float x) { return gelu_tanh<Math>(x); });
        case 3: return change(v, [](float x) { return gated<Math>(x, x * 1.702f); });
        case 4: return change(v, [](float x) { return 0.0f > x ? 0.0f : x; });  // NaN passes
        case 5: return change(v, [](float x) { return gated<Math>(x, x); });
        case 6: return change(v, [](float x) { return hyperbolic_tangent<Math>(x); });
    }
}

// The same, and the derivative at each.
template <int N, class Each>
DEVICE void change(Vector<N>& v, Vector<N>& slopes, const Each& each) {
#pragma unroll
    for (int i = 0; i < N; ++i) {
        const Sloped both = each(v.x[i]);
        v.x[i] = both.value, slopes.x[i] = both.slope;
    }
}

template <class Math, int N>
DEVICE void activate_with_slopes(int activation, Vector<N>& v, Vector<N>& slopes) {
    switch (activation) {
        case 1: return change(v, slopes, [](float x) { return gelu_with_slope<Math>(x); });
        case 2: return change(v, slopes, [](float x) { return gelu_tanh_with_slope<Math>(x); });
        case 3: return change(v, slopes, [](float x) { return gated_with_slope<Math>(x, x * 1.702f, 1.702f); });
        case 4: return change(v, slopes, [](float x) { return Sloped{0.0f > x ? 0.0f : x, 0.0f < x ? 1.0f : 0.0f}; });
        case 5: return change(v, slopes, [](float x) { return gated_with_slope<Math>(x, x, 1.0f); });
        case 6:
            return change(v, slopes, [](float x) {
                const float y = hyperbolic_tangent<Math>(x);
                return Sloped{y, fmaf(0.0f - y, y, 1.0f)};
            });
        default: return change(v, slopes, [](float x) { return Sloped{x, 1.0f}; });
    }
}
