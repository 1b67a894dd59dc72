// What the emulated driver puts into a tensor map, and the emulated copy engine reads there. Matrices alone: a rank of two.
#pragma once
#include <cstddef>
#include <cstdint>

namespace emulator {

constexpr uint64_t TENSOR_MAP_MAGIC = 0x70614d736e655465;

struct TensorMapContent {
    uint64_t magic;
    uint64_t address;
    uint64_t dimensions[2];  // numbers in a row, rows
    uint64_t stride;         // bytes from row to row
    uint32_t box[2];         // of one copy: numbers in a row, rows
    uint32_t element_bytes;
    uint32_t swizzle_bytes;  // the span within which chunks of 16 bytes are exchanged; 0 where they are not

    // From its first byte to its last.
    uint64_t bytes() const { return (dimensions[1] - 1) * stride + dimensions[0] * element_bytes; }
};
static_assert(sizeof(TensorMapContent) <= 128, "a CUtensorMap");

// Where a byte of a tile lies: within every span, the number of its 16-byte chunk is XORed with the low bits of its 128-byte line's. Both are of
// addresses in shared memory, whatever the tile begins at.
inline uint32_t swizzled(uint32_t address, uint32_t span_bytes) {
    const uint32_t chunks = span_bytes / 16;
    return chunks ? address ^ (address >> 7 & (chunks - 1)) << 4 : address;
}

}  // namespace emulator
