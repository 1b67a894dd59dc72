// The execution model of CUDA on a CPU: what kernels/port.cuh calls when it is not compiled by nvcc.
#pragma once
#include "launch.hpp"
#include "warp.hpp"

#define threadIdx (::emulator::current->index)
#define blockIdx (::emulator::current->block->index)
#define blockDim (::emulator::current->block->size)
#define gridDim (::emulator::current->block->grid)

namespace emulator {

// A device stops at a misaligned vector; so does this.
inline void check_aligned(const void* address, size_t alignment, const char* what, Place place) {
    check_awaited(what, place);
    if (reinterpret_cast<uintptr_t>(address) % alignment) fail(std::string(what) + " at " + place.text() + ": misaligned address");
}

// Nothing is seen of what it does; but it takes whole chunks.
inline void check_prefetch(const void* from, int bytes, Place place) {
    check_aligned(from, 16, "prefetch", place);
    if (bytes <= 0 || bytes % 16) fail("prefetch at " + place.text() + ": " + std::to_string(bytes) + " bytes");
}

}  // namespace emulator

inline int min(int a, int b) { return a < b ? a : b; }
inline int max(int a, int b) { return a > b ? a : b; }
inline unsigned max(unsigned a, unsigned b) { return a > b ? a : b; }
inline unsigned min(unsigned a, unsigned b) { return a < b ? a : b; }
