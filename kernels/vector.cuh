// Neighbouring numbers, as f32 in registers whatever they are stored as.
#pragma once
#include "port.cuh"

template <int N>
struct Vector {
    float x[N];
};

template <int N>
DEVICE Vector<N> filled(float value) {
    Vector<N> v;
#pragma unroll
    for (int i = 0; i < N; ++i) v.x[i] = value;
    return v;
}

template <int N>
DEVICE Vector<N> operator+(Vector<N> a, Vector<N> b) {
#pragma unroll
    for (int i = 0; i < N; ++i) a.x[i] += b.x[i];
    return a;
}

template <int N>
DEVICE Vector<N> operator*(Vector<N> a, Vector<N> b) {
#pragma unroll
    for (int i = 0; i < N; ++i) a.x[i] *= b.x[i];
    return a;
}

// Bytes of one access: a vector's, but at most 16.
template <int N, class T>
DEVICE constexpr int access_bytes() { return int(N * sizeof(T) < 16 ? N * sizeof(T) : 16); }

template <int N>
DEVICE Vector<N> load_vector(const float* p) {
    static_assert(N % 4 == 0, "whole 16 bytes");
    Vector<N> v;
#pragma unroll
    for (int i = 0; i < N; i += 4) {
        const float4 part = load<float4>(p + i);
        v.x[i] = part.x, v.x[i + 1] = part.y, v.x[i + 2] = part.z, v.x[i + 3] = part.w;
    }
    return v;
}
template <int N>
DEVICE void store_vector(float* p, const Vector<N>& v) {
#pragma unroll
    for (int i = 0; i < N; i += 4) store(p + i, make_float4(v.x[i], v.x[i + 1], v.x[i + 2], v.x[i + 3]));
}

// Registers of 16-bit numbers, loaded at once.
template <int N>
struct Words;
template <>
struct Words<4> { typedef uint2 type; };
template <>
struct Words<8> { typedef uint4 type; };

template <int N, class T>
DEVICE Vector<N> load_vector(const T* p) {
    union { typename Words<N>::type loaded; uint32_t words[N / 2]; };
    loaded = load<typename Words<N>::type>(p);
    Vector<N> v;
#pragma unroll
    for (int i = 0; i < N / 2; ++i) {
        const float2 two = unpack<T>(words[i]);
        v.x[2 * i] = two.x, v.x[2 * i + 1] = two.y;
    }
    return v;
}
template <int N, class T>
DEVICE void store_vector(T* p, const Vector<N>& v) {
    union { typename Words<N>::type stored; uint32_t words[N / 2]; };
#pragma unroll
    for (int i = 0; i < N / 2; ++i) words[i] = pack<T>(v.x[2 * i], v.x[2 * i + 1]);
    store(p, stored);
}

// Whether a vector of N may be read at `p` in one go: where it is not, rows have an odd width.
template <int N, class T>
DEVICE bool is_aligned(const T* p) { return reinterpret_cast<uintptr_t>(p) % access_bytes<N, T>() == 0; }

// The first `count` of N numbers, zeros after them; by vector where all are there and `p` allows it.
template <int N, class T>
DEVICE Vector<N> load_some(const T* p, int count) {
    if (count >= N && is_aligned<N>(p)) return load_vector<N>(p);
    Vector<N> v;
#pragma unroll
    for (int i = 0; i < N; ++i) v.x[i] = i < count ? widen(p[i]) : 0.0f;
    return v;
}

template <int N, class T>
DEVICE void store_some(T* p, const Vector<N>& v, int count) {
    if (count >= N && is_aligned<N>(p)) return store_vector<N>(p, v);
#pragma unroll
    for (int i = 0; i < N; ++i)
        if (i < count) p[i] = narrow<T>(v.x[i]);
}
