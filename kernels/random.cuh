// Random numbers by counter: the draws of src/random.rs, bit for bit. Philox4x32-10 (Salmon et al. 2011), and normal numbers by Giles's
// approximation of the inverse error function (2011), made of correctly rounded operations alone.
#pragma once
#include "port.cuh"

// Four draws of 32 bits.
DEVICE uint4 philox(uint4 x, uint2 key) {
#pragma unroll 1
    for (int round = 0; round < 10; ++round) {
        const uint64_t first = uint64_t(x.x) * 0xD2511F53u, second = uint64_t(x.z) * 0xCD9E8D57u;
        x = make_uint4(unsigned(second >> 32) ^ x.y ^ key.x, unsigned(second), unsigned(first >> 32) ^ x.w ^ key.y, unsigned(first));
        key = make_uint2(key.x + 0x9E3779B9u, key.y + 0xBB67AE85u);
    }
    return x;
}

// The natural logarithm of a positive normal number: x = 2^e m, m within √½ … √2, and ln m = 2 artanh((m − 1)/(m + 1)) by its series.
DEVICE float natural_logarithm(float x) {
    const unsigned bits = __float_as_uint(x), above = (bits & 0x007FFFFFu) > 0x003504F3u;
    const int exponent = int(bits >> 23) - 127 + int(above);
    const float m = __uint_as_float((bits & 0x007FFFFFu) | (127 - above) << 23);
    const float s = (m - 1.0f) / (m + 1.0f), square = s * s;
    float series = 2.0f / 9.0f;
    series = fmaf(series, square, 2.0f / 7.0f);
    series = fmaf(series, square, 2.0f / 5.0f);
    series = fmaf(series, square, 2.0f / 3.0f);
    series = fmaf(series, square, 2.0f);
    return fmaf(float(exponent), 0.693147182f, series * s);
}

// Σ c[i] tⁱ
DEVICE float polynomial(float t, float c0, float c1, float c2, float c3, float c4, float c5, float c6, float c7, float c8) {
    float sum = fmaf(c8, t, c7);
    sum = fmaf(sum, t, c6), sum = fmaf(sum, t, c5), sum = fmaf(sum, t, c4), sum = fmaf(sum, t, c3);
    return fmaf(fmaf(fmaf(sum, t, c2), t, c1), t, c0);
}

// √2 erf⁻¹(2u − 1), u the middle of one of 2²⁴ equal intervals of (0, 1).
DEVICE float normal(unsigned word) {
    const float x = float(int(2 * (word >> 8) + 1) - (1 << 24)) * 5.9604644775390625e-8f;  // 2⁻²⁴
    const float w = -natural_logarithm(fmaf(x, -x, 1.0f));
    const float scale =
        w < 5.0f ? polynomial(w - 2.5f, 1.5014094f, 0.24664072f, -0.0041776816f, -0.001253725f, 2.1858087e-4f, -4.3915065e-6f, -3.5233877e-6f,
                              3.4327394e-7f, 2.8102264e-8f)
                 : polynomial(sqrtf(w) - 3.0f, 2.8329768f, 1.001674f, 0.00943887f, -0.0076224613f, 0.0057395077f, -0.0036734285f, 0.0013493432f,
                              1.0095056e-4f, -2.0021426e-4f);
    return scale * x * 1.41421354f;
}
