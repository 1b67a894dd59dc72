// What port.cuh is to every device, for what the hardware is quick at and results of 16 bits have room for.
#pragma once
#include "port.cuh"

#ifdef __CUDACC__

// 1 / x to 1 ulp, 0 where that is subnormal.
DEVICE float reciprocal_fast(float x) {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// The larger of two numbers, NaN where one is.
DEVICE float larger(float x, float y) {
    float z;
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(z) : "f"(x), "f"(y));
    return z;
}

#else

inline float reciprocal_fast(float x) { return fabsf(x) > 0x1p126f ? 0.0f : 1.0f / x; }
inline float larger(float x, float y) { return x != x || x > y ? x : y; }

#endif
