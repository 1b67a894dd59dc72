// The port_*.cuh headers alone know what a kernel is compiled for (here is what all kernels use; port_blocks.cuh, port_fast.cuh and port_sm90a.cuh
// are for some). With nvcc their functions are PTX and built-ins; with a host compiler they are calls to the emulator of tests/emulator, which runs
// the same source on a CPU. Kernels use these names and plain C++, and nothing else:
//
// * entries are KERNEL(name, most threads, parameters…), parameters plain values; blocks are whole warps; await_kernels() is their first statement,
//   but for what port_sm90a.cuh lets come before it
// * pointers are plain: __restrict__ and __ldg read past what await_kernels() orders
// * shared memory is dynamic and 16-byte aligned: SHARED(type, name)
// * warp functions are met by all 32 lanes; a warp returns whole, and before its block's first barrier or after its last
// * vectors go through load and store, which want alignment; multiply-adds that must round once are spelled fmaf (nothing else is fused)
#pragma once

#ifdef __CUDACC__

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>

#define DEVICE __device__ __forceinline__
#define KERNEL(name, most_threads, ...) extern "C" __global__ void __launch_bounds__(most_threads) name(__VA_ARGS__)
#define SHARED(type, name)                                        \
    extern __shared__ __align__(16) unsigned char shared_memory[]; \
    type* const name = reinterpret_cast<type*>(shared_memory)

typedef __half f16;
typedef __nv_bfloat16 bf16;

// Until the kernels launched before this one have run, and what they wrote can be read: a device of 9.0 and later begins a kernel while the last blocks
// of the one before are at work (programmatic dependent launch), and this one lets the next begin so. Nothing touches memory before it.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
DEVICE void await_kernels() { asm volatile("griddepcontrol.wait; griddepcontrol.launch_dependents;" ::: "memory"); }
#else
DEVICE void await_kernels() {}
#endif

DEVICE void sync_block() { __syncthreads(); }
DEVICE void sync_warp() { __syncwarp(); }
DEVICE float shuffle_xor(float x, int mask) { return __shfl_xor_sync(0xffffffffu, x, mask); }
DEVICE uint32_t shuffle(uint32_t x, int lane) { return __shfl_sync(0xffffffffu, x, lane); }

// What was there, before one was added to it. Who comes first is chance.
DEVICE int atomic_increment(int* p) { return atomicAdd(p, 1); }
// Whole numbers, which wrap: their sum has no order.
DEVICE void atomic_add(uint64_t* p, uint64_t x) { atomicAdd(reinterpret_cast<unsigned long long*>(p), static_cast<unsigned long long>(x)); }

// 2^x to 2 ulp, 0 where that is subnormal.
DEVICE float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

template <class V>
DEVICE V load(const void* from) { return *static_cast<const V*>(from); }
template <class V>
DEVICE void store(void* to, V value) { *static_cast<V*>(to) = value; }

DEVICE uint32_t shared_address(const void* p) { return uint32_t(__cvta_generic_to_shared(p)); }

// Begins a copy of 16 bytes from global to shared memory; where not `valid` nothing is read and zeros are written.
DEVICE void copy_async(void* to, const void* from, bool valid) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(valid ? 16 : 0) : "memory");
}
DEVICE void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits for this thread's copies of all groups but the `NEWEST` last committed. Others see them after a barrier.
template <int NEWEST>
DEVICE void copy_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(NEWEST) : "memory"); }

// Four 8×8 matrices of 16-bit numbers, lane 8 m + r pointing at row r of matrix m (16 aligned bytes).
DEVICE void ldmatrix(uint32_t (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(row)) : "memory");
}
DEVICE void ldmatrix_transposed(uint32_t (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(row)) : "memory");
}

// sums [16×8] += a [16×16] · b [16×8], in f32.
DEVICE void mma(f16, float (&sums)[4], const uint32_t (&a)[4], const uint32_t* b) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
DEVICE void mma(bf16, float (&sums)[4], const uint32_t (&a)[4], const uint32_t* b) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

#else

#include "emulator.hpp"

#define DEVICE inline
#define KERNEL(name, most_threads, ...)                                                                            \
    extern "C" void name(__VA_ARGS__);                                                                              \
    static const ::emulator::Registration registration_of_##name(::emulator::Thunk<&name>::kernel(#name, most_threads)); \
    extern "C" void name(__VA_ARGS__)
#define SHARED(type, name) type* const name = reinterpret_cast<type*>(::emulator::current->block->shared)

typedef __half f16;
typedef __nv_bfloat16 bf16;

inline void await_kernels() { emulator::await_kernels(); }

inline void sync_block(emulator::Place place = HERE) { emulator::sync_block(place); }
inline void sync_warp(emulator::Place place = HERE) {
    emulator::meet(emulator::Meeting::WARP, nullptr, place, [](void**) {});
}
inline float shuffle_xor(float x, int mask, emulator::Place place = HERE) {
    return emulator::shuffle(x, emulator::current->lane ^ unsigned(mask), place);
}
inline uint32_t shuffle(uint32_t x, int lane, emulator::Place place = HERE) { return emulator::shuffle(x, unsigned(lane), place); }

inline int atomic_increment(int* p) { return __atomic_fetch_add(p, 1, __ATOMIC_RELAXED); }
inline void atomic_add(uint64_t* p, uint64_t x) { __atomic_fetch_add(p, x, __ATOMIC_RELAXED); }

inline float exp2_fast(float x) { return x < -126.0f ? 0.0f : exp2f(x); }

template <class V>
inline V load(const void* from, emulator::Place place = HERE) {
    emulator::check_aligned(from, alignof(V), "load", place);
    V value;
    memcpy(&value, from, sizeof(V));
    return value;
}
template <class V>
inline void store(void* to, V value, emulator::Place place = HERE) {
    emulator::check_aligned(to, alignof(V), "store", place);
    memcpy(to, &value, sizeof(V));
}

inline void copy_async(void* to, const void* from, bool valid, emulator::Place place = HERE) {
    emulator::begin_copy(to, from, valid, place);
}
inline void copy_commit() { emulator::commit_copies(); }
template <int NEWEST>
inline void copy_wait() { emulator::await_copies(NEWEST); }

inline void ldmatrix(uint32_t (&r)[4], const void* row, emulator::Place place = HERE) { emulator::ldmatrix<false>(r, row, place); }
inline void ldmatrix_transposed(uint32_t (&r)[4], const void* row, emulator::Place place = HERE) { emulator::ldmatrix<true>(r, row, place); }
template <class T>
inline void mma(T, float (&sums)[4], const uint32_t (&a)[4], const uint32_t* b, emulator::Place place = HERE) {
    emulator::mma<T>(sums, a, b, place);
}

#endif

typedef float f32;

constexpr int WARP = 32;

DEVICE int lane_id() { return int(threadIdx.x) % WARP; }
DEVICE int warp_id() { return int(threadIdx.x) / WARP; }

// A stored number as f32, and back with one rounding.
DEVICE float widen(float x) { return x; }
DEVICE float widen(f16 x) { return __half2float(x); }
DEVICE float widen(bf16 x) { return __bfloat162float(x); }
template <class T>
DEVICE T narrow(float x);
template <>
DEVICE float narrow<float>(float x) { return x; }
template <>
DEVICE f16 narrow<f16>(float x) { return __float2half_rn(x); }
template <>
DEVICE bf16 narrow<bf16>(float x) { return __float2bfloat16_rn(x); }

// Two numbers of 16 bits in a register, the first in its low half.
template <class T>
union Pair {
    T numbers[2];
    uint32_t bits;
    DEVICE Pair() : bits(0) {}
};
template <class T>
DEVICE uint32_t pack(float low, float high) {
    Pair<T> pair;
    pair.numbers[0] = narrow<T>(low);
    pair.numbers[1] = narrow<T>(high);
    return pair.bits;
}
template <class T>
DEVICE float2 unpack(uint32_t bits) {
    Pair<T> pair;
    pair.bits = bits;
    return make_float2(widen(pair.numbers[0]), widen(pair.numbers[1]));
}
