// What port.cuh is to every device, for what compute capability 9.0a alone has: barriers in shared memory that count bytes, tiles copied by the
// copy engine, products of whole warpgroups, registers handed from one warpgroup to another. Files named *_wgmma_*.cu are compiled for nothing else.
//
// * entries are KERNEL_SM90A(name, most threads, blocks side by side, parameters…); a tensor map is a parameter TENSOR_MAP(name)
// * before await_kernels() a kernel may call its `prepare`, which begins barriers and prefetches tensor maps and does nothing else: what it touches is the
//   block's own, or a parameter, and no earlier kernel's
// * shared memory begins at a multiple of 1024 bytes, the period of the swizzle: SHARED_SM90A(type, name)
// * a warpgroup is four warps, the first a multiple of four; its 128 threads meet in every wait for products
// * sums of a product under way may not be read or written until they are waited for
#pragma once
#include "port.cuh"

// A matrix in global memory as the copy engine sees it, made by cuTensorMapEncodeTiled.
struct alignas(128) TensorMap {
    uint64_t words[16];
};

// Counts arrivals and bytes in shared memory. A phase ends when all have come, and the next begins.
struct alignas(8) Barrier {
    uint64_t state;
};

constexpr int WARPGROUP = 128;
constexpr int SWIZZLE_BYTES = 128;              // of a row of a tile: eight chunks of 16
constexpr int SWIZZLE_PERIOD = 8 * SWIZZLE_BYTES;  // eight rows, the chunks of each exchanged in another way

#ifdef __CUDACC__

#define KERNEL_SM90A(name, most_threads, blocks, ...) extern "C" __global__ void __launch_bounds__(most_threads, blocks) name(__VA_ARGS__)
#define TENSOR_MAP(name) const __grid_constant__ TensorMap name
#define SHARED_SM90A(type, name)                                     \
    extern __shared__ __align__(1024) unsigned char shared_memory[]; \
    type* const name = reinterpret_cast<type*>(shared_memory)

// By one thread; then `barriers_begin`, and a barrier of the block, come before their first use.
DEVICE void barrier_begin(Barrier& barrier, int arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(&barrier)), "r"(arrivals) : "memory");
}
DEVICE void barriers_begin() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
DEVICE void barrier_arrive(Barrier& barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(&barrier)) : "memory");
}
// Arrives, and lets the phase wait for so many bytes too.
DEVICE void barrier_expect(Barrier& barrier, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(&barrier)), "r"(bytes) : "memory");
}
// Until the phase of this parity is over; that before the first is of parity 1. What lasts for seconds would last for ever, and is an error.
DEVICE void barrier_wait(Barrier& barrier, uint32_t parity) {
#pragma unroll 1
    for (uint32_t tries = 0; tries < 1u << 27; ++tries) {
        uint32_t over;
        asm volatile(
            "{ .reg .pred over; mbarrier.try_wait.parity.shared::cta.b64 over, [%1], %2; selp.u32 %0, 1, 0, over; }"
            : "=r"(over) : "r"(shared_address(&barrier)), "r"(parity) : "memory");
        if (over) return;
    }
    asm volatile("trap;");
}

// Brings a map to where the copy engine looks it up, which the first copy would wait for.
DEVICE void prefetch_map(const TensorMap& map) { asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory"); }

// Begins the copy of the map's box whose first number is at (row, column) to shared memory; what is beyond the matrix becomes zeros.
DEVICE void copy_tile(void* to, const TensorMap& map, Barrier& landed, int row, int column) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];" ::"r"(
                     shared_address(to)), "l"(&map), "r"(shared_address(&landed)), "r"(column), "r"(row) : "memory");
}

// Brings so many bytes of global memory into the second-level cache, and waits for nothing; both are multiples of 16.
DEVICE void prefetch(const void* from, int bytes) {
    asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(__cvta_generic_to_global(from)), "r"(bytes) : "memory");
}

// What this thread wrote to shared memory itself, products may read after the next barrier of the block.
DEVICE void fence_async() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// Comes before the first product, and before any whose sums were touched since.
template <int N>
DEVICE void products_begin(float (&sums)[N]) {
#pragma unroll
    for (int i = 0; i < N; ++i) asm volatile("" : "+f"(sums[i])::"memory");
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
DEVICE void products_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Waits for the warpgroup's products of all groups but the `NEWEST` last committed.
template <int NEWEST, int N>
DEVICE void products_wait(float (&sums)[N]) {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(NEWEST) : "memory");
#pragma unroll
    for (int i = 0; i < N; ++i) asm volatile("" : "+f"(sums[i])::"memory");
}

// What is made of these from here on is not made before.
DEVICE void held_until_now(uint4& x) { asm volatile("" : "+r"(x.x), "+r"(x.y), "+r"(x.z), "+r"(x.w)); }

template <int N>
DEVICE void registers_give() { asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N)); }
template <int N>
DEVICE void registers_take() { asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N)); }

#define SUMS_8(i) "+f"(sums[i]), "+f"(sums[i + 1]), "+f"(sums[i + 2]), "+f"(sums[i + 3]), "+f"(sums[i + 4]), "+f"(sums[i + 5]), "+f"(sums[i + 6]), "+f"(sums[i + 7])
#define SUMS_64(i) SUMS_8(i), SUMS_8(i + 8), SUMS_8(i + 16), SUMS_8(i + 24), SUMS_8(i + 32), SUMS_8(i + 40), SUMS_8(i + 48), SUMS_8(i + 56)
// sums [64×N] = a [64×16] · b [N×16]ᵀ + (`accumulate` ? sums : 0), in f32, both operands in shared memory; NAME says how they lie there.
#define WGMMA(NAME, TYPE, TURNED)                                                                                                                                \
    DEVICE void NAME(TYPE, float (&sums)[64], uint64_t a, uint64_t b, bool accumulate) {                                                          \
        asm volatile("{ .reg .pred accumulate; setp.ne.b32 accumulate, %66, 0;"                                                                    \
                     "wgmma.mma_async.sync.aligned.m64n128k16.f32." #TYPE "." #TYPE " {"                                                           \
                     "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "                                                          \
                     "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "                                                \
                     "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "                                                \
                     "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"                                                  \
                     "}, %64, %65, accumulate, 1, 1, " TURNED "; }"                                                                                      \
                     : SUMS_64(0) : "l"(a), "l"(b), "r"(int(accumulate)));                                                                         \
    }                                                                                                                                              \
    DEVICE void NAME(TYPE, float (&sums)[128], uint64_t a, uint64_t b, bool accumulate) {                                                         \
        asm volatile("{ .reg .pred accumulate; setp.ne.b32 accumulate, %130, 0;"                                                                   \
                     "wgmma.mma_async.sync.aligned.m64n256k16.f32." #TYPE "." #TYPE " {"                                                           \
                     "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "                                                          \
                     "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "                                                \
                     "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "                                                \
                     "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "                                                \
                     "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "                                                \
                     "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "                                                \
                     "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, "                                    \
                     "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"                                  \
                     "}, %128, %129, accumulate, 1, 1, " TURNED "; }"                                                                                    \
                     : SUMS_64(0), SUMS_64(64) : "l"(a), "l"(b), "r"(int(accumulate)));                                                            \
    }
WGMMA(wgmma, f16, "0, 0")
WGMMA(wgmma, bf16, "0, 0")
WGMMA(wgmma_turned, bf16, "1, 1")
#undef WGMMA

#else

#include "warpgroup.hpp"

#define KERNEL_SM90A(name, most_threads, blocks, ...)                                                                  \
    extern "C" void name(__VA_ARGS__);                                                                                  \
    static const ::emulator::Registration registration_of_##name(::emulator::Thunk<&name>::kernel(#name, most_threads, 90)); \
    extern "C" void name(__VA_ARGS__)
#define TENSOR_MAP(name) const TensorMap& name
#define SHARED_SM90A(type, name) SHARED(type, name)

inline uint32_t shared_address(const void* p) { return emulator::shared_offset(p); }

inline void barrier_begin(Barrier& barrier, int arrivals, emulator::Place place = HERE) { emulator::begin_barrier(&barrier, arrivals, place); }
inline void barriers_begin() { emulator::fence_barriers(); }
inline void barrier_arrive(Barrier& barrier, emulator::Place place = HERE) { emulator::arrive(&barrier, 0, place); }
inline void barrier_expect(Barrier& barrier, int bytes, emulator::Place place = HERE) { emulator::arrive(&barrier, bytes, place); }
inline void barrier_wait(Barrier& barrier, uint32_t parity, emulator::Place place = HERE) { emulator::wait(&barrier, parity, place); }

inline void copy_tile(void* to, const TensorMap& map, Barrier& landed, int row, int column, emulator::Place place = HERE) {
    emulator::begin_tile(to, &map, &landed, row, column, place);
}

inline void prefetch_map(const TensorMap& map, emulator::Place place = HERE) { emulator::check_map(&map, "prefetch_map", place); }

inline void prefetch(const void* from, int bytes, emulator::Place place = HERE) { emulator::check_prefetch(from, bytes, place); }

template <int N>
inline void products_begin(float (&)[N]) { emulator::fence_products(); }
inline void products_commit() { emulator::commit_products(); }
template <int NEWEST, int N>
inline void products_wait(float (&)[N], emulator::Place place = HERE) { emulator::await_products(NEWEST, place); }

inline void held_until_now(uint4&) {}

template <int N>
inline void registers_give() {}
template <int N>
inline void registers_take() {}

inline void fence_async() { emulator::fence_copies(); }

template <class T, int N>
inline void wgmma_turned(T, float (&sums)[N], uint64_t a, uint64_t b, bool accumulate, emulator::Place place = HERE) {
    emulator::begin_product<T, 2 * N, true>(sums, a, b, accumulate, place);
}
template <class T, int N>
inline void wgmma(T, float (&sums)[N], uint64_t a, uint64_t b, bool accumulate, emulator::Place place = HERE) {
    emulator::begin_product<T, 2 * N, false>(sums, a, b, accumulate, place);
}

#endif

// What a product is told of an operand in shared memory: rows of SWIZZLE_BYTES along its sums' inputs, eight rows a period. (PTX manual, "Matrix
// descriptor": address, leading and stride byte offset in units of 16; the first of the two means nothing in this layout, which is number 1.)
DEVICE uint64_t operand(const void* first) {
    const uint64_t address = (shared_address(first) & 0x3ffff) >> 4, stride = SWIZZLE_PERIOD >> 4, layout = 1;
    return address | uint64_t(1) << 16 | stride << 32 | layout << 62;
}

// The same of an operand that is turned: rows of SWIZZLE_BYTES along its columns, that are the sums' inputs, in panels that lie so many bytes apart.
DEVICE uint64_t operand_turned(const void* first, int panel_bytes) {
    return (operand(first) & ~(uint64_t(0x3fff) << 16)) | uint64_t(panel_bytes >> 4) << 16;
}
