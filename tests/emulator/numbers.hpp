// CUDA's 16-bit numbers and vectors, with the conversions and bit patterns of the hardware.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

struct uint3 { unsigned x, y, z; };
struct dim3 { unsigned x = 1, y = 1, z = 1; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

inline unsigned __float_as_uint(float x) { unsigned bits; memcpy(&bits, &x, 4); return bits; }
inline float __uint_as_float(unsigned bits) { float x; memcpy(&x, &bits, 4); return x; }

struct alignas(2) __nv_bfloat16 { uint16_t bits; };
struct alignas(2) __half { uint16_t bits; };

inline float __bfloat162float(__nv_bfloat16 x) { return __uint_as_float(uint32_t(x.bits) << 16); }

// To nearest, ties to even.
inline __nv_bfloat16 __float2bfloat16_rn(float x) {
    const uint32_t bits = __float_as_uint(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return {0x7fff};
    return {uint16_t((bits + 0x7fffu + (bits >> 16 & 1)) >> 16)};
}

inline float __half2float(__half x) {
    const uint32_t sign = uint32_t(x.bits & 0x8000u) << 16, exponent = x.bits >> 10 & 31, fraction = x.bits & 0x3ff;
    if (exponent == 31) return __uint_as_float(sign | 0x7f800000u | fraction << 13);
    if (exponent) return __uint_as_float(sign | (exponent + 112) << 23 | fraction << 13);
    return std::copysign(std::ldexp(float(fraction), -24), __uint_as_float(sign));
}

// To nearest, ties to even; 65520 and more are infinite.
inline __half __float2half_rn(float x) {
    const uint32_t bits = __float_as_uint(x), size = bits & 0x7fffffffu;
    const uint16_t sign = uint16_t(bits >> 16 & 0x8000u);
    if (size > 0x7f800000u) return {0x7fff};
    if (size >= 0x477ff000u) return {uint16_t(sign | 0x7c00)};
    if (size < 0x38800000u) {  // subnormal: adding 0.5 rounds at the right place
        const uint32_t rounded = __float_as_uint(__uint_as_float(size) + 0.5f);
        return {uint16_t(sign | uint16_t(rounded - 0x3f000000u))};
    }
    const uint32_t rebased = size - 0x38000000u;
    return {uint16_t(sign | uint16_t((rebased + 0xfff + (rebased >> 13 & 1)) >> 13))};
}
