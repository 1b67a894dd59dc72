// What the 32 lanes of a warp do together: shuffles, votes, and the tensor cores' loads and products.
//
// Fragment layouts are those of the PTX manual, "Matrix fragments for mma.m16n8k16" and "ldmatrix". With g = lane / 4, t = lane % 4:
//   A 16×16: register r holds row g + 8 (r & 1), columns 2t + 8 (r >> 1) and the next      B 16×8: register r holds rows 2t + 8 r and the next, column g
//   C 16×8:  element e is row g + 8 (e >> 1), column 2t + (e & 1)
#pragma once
#include "block.hpp"

namespace emulator {

template <class T>
struct ShuffleArgument { T value; unsigned source; T result; };

template <class T>
UNCHECKED inline T shuffle(T value, unsigned source, Place place) {
    ShuffleArgument<T> argument{value, source, value};
    meet(Meeting::SHUFFLE, &argument, place, [](void** lanes) UNCHECKED {
        for (unsigned lane = 0; lane < LANES; ++lane) {
            auto* mine = static_cast<ShuffleArgument<T>*>(lanes[lane]);
            mine->result = static_cast<ShuffleArgument<T>*>(lanes[mine->source % LANES])->value;
        }
    });
    return argument.result;
}

struct VoteArgument { bool predicate; unsigned result; };

UNCHECKED inline unsigned ballot(bool predicate, Place place) {
    VoteArgument argument{predicate, 0};
    meet(Meeting::VOTE, &argument, place, [](void** lanes) UNCHECKED {
        unsigned votes = 0;
        for (unsigned lane = 0; lane < LANES; ++lane) votes |= unsigned(static_cast<VoteArgument*>(lanes[lane])->predicate) << lane;
        for (unsigned lane = 0; lane < LANES; ++lane) static_cast<VoteArgument*>(lanes[lane])->result = votes;
    });
    return argument.result;
}

// `bytes` at `address` must lie in the block's shared memory, aligned.
UNCHECKED inline void check_shared(const void* address, size_t bytes, size_t alignment, const char* what, Place place) {
    const Block& block = *current->block;
    const auto* at = static_cast<const unsigned char*>(address);
    if (reinterpret_cast<uintptr_t>(at) % alignment) fail(std::string(what) + " at " + place.text() + ": misaligned shared memory");
    if (at < block.shared || at + bytes > block.shared + block.shared_bytes) fail(std::string(what) + " at " + place.text() + ": outside the block's shared memory");
}

struct LdmatrixArgument { const unsigned char* row; uint32_t* registers; };

// Four 8×8 matrices of 16-bit numbers; lane 8 m + r points at row r of matrix m.
template <bool TRANSPOSED>
UNCHECKED inline void ldmatrix(uint32_t* registers, const void* row, Place place) {
    check_shared(row, 16, 16, "ldmatrix", place);
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    *static_cast<volatile const uint64_t*>(row), *(static_cast<volatile const uint64_t*>(row) + 1);  // read in this lane's name
#endif
    LdmatrixArgument argument{static_cast<const unsigned char*>(row), registers};
    meet(Meeting::LDMATRIX, &argument, place, [](void** lanes) UNCHECKED {
        const auto element = [&](unsigned matrix, unsigned r, unsigned c) UNCHECKED {
            uint16_t value;
            memcpy(&value, static_cast<LdmatrixArgument*>(lanes[matrix * 8 + r])->row + 2 * c, 2);
            return uint32_t(value);
        };
        for (unsigned lane = 0; lane < LANES; ++lane)
            for (unsigned matrix = 0; matrix < 4; ++matrix) {
                const unsigned g = lane / 4, t = 2 * (lane % 4);
                const uint32_t low = TRANSPOSED ? element(matrix, t, g) : element(matrix, g, t);
                const uint32_t high = TRANSPOSED ? element(matrix, t + 1, g) : element(matrix, g, t + 1);
                static_cast<LdmatrixArgument*>(lanes[lane])->registers[matrix] = low | high << 16;
            }
    });
}

inline float widen(__half, uint32_t bits) { return __half2float({uint16_t(bits)}); }
inline float widen(__nv_bfloat16, uint32_t bits) { return __bfloat162float({uint16_t(bits)}); }

struct MmaArgument { float* sums; const uint32_t* a; const uint32_t* b; };

// C += A · B on one warp: m16n8k16, products exact, sums in f32 by ascending k.
template <class T>
UNCHECKED inline void mma(float* sums, const uint32_t* a, const uint32_t* b, Place place) {
    MmaArgument argument{sums, a, b};
    meet(Meeting::MMA, &argument, place, [](void** lanes) UNCHECKED {
        float left[16][16], right[16][8], sum[16][8];
        for (unsigned lane = 0; lane < LANES; ++lane) {
            const auto* mine = static_cast<MmaArgument*>(lanes[lane]);
            const unsigned g = lane / 4, t = 2 * (lane % 4);
            for (unsigned r = 0; r < 4; ++r)
                for (unsigned half = 0; half < 2; ++half) left[g + 8 * (r & 1)][t + half + 8 * (r >> 1)] = widen(T{}, mine->a[r] >> 16 * half);
            for (unsigned r = 0; r < 2; ++r)
                for (unsigned half = 0; half < 2; ++half) right[t + half + 8 * r][g] = widen(T{}, mine->b[r] >> 16 * half);
            for (unsigned e = 0; e < 4; ++e) sum[g + 8 * (e >> 1)][t + (e & 1)] = mine->sums[e];
        }
        for (unsigned i = 0; i < 16; ++i)
            for (unsigned k = 0; k < 16; ++k)
                for (unsigned j = 0; j < 8; ++j) sum[i][j] += left[i][k] * right[k][j];
        for (unsigned lane = 0; lane < LANES; ++lane) {
            const auto* mine = static_cast<MmaArgument*>(lanes[lane]);
            for (unsigned e = 0; e < 4; ++e) mine->sums[e] = sum[lane / 4 + 8 * (e >> 1)][2 * (lane % 4) + (e & 1)];
        }
    });
}

// 16 bytes from global to shared memory, to be waited for; zeros where not `valid`. Until then the place holds NaN.
UNCHECKED inline void begin_copy(void* to, const void* from, bool valid, Place place) {
    check_awaited("copy_async", place);
    check_shared(to, 16, 16, "copy_async", place);
    if (reinterpret_cast<uintptr_t>(from) % 16) fail("copy_async at " + place.text() + ": misaligned global memory");
    const Copy copy{to, valid ? from : nullptr};
    if (current->block->schedule.late_copies) {
        memset(to, 0xff, 16);
        current->open_copies.push_back(copy);
    } else if (valid) {
        memcpy(to, from, 16);
    } else {
        memset(to, 0, 16);
    }
}

UNCHECKED inline void commit_copies() {
    current->committed_copies.push_back(std::move(current->open_copies));
    current->open_copies.clear();
}

// All but the `newest` committed groups land.
UNCHECKED inline void await_copies(size_t newest) {
    auto& groups = current->committed_copies;
    while (groups.size() > newest) {
        for (const Copy& copy : groups.front()) {
            if (copy.from) memcpy(copy.to, copy.from, 16);
            else memset(copy.to, 0, 16);
        }
        groups.erase(groups.begin());
        current->unfenced_copies = true;
    }
}

}  // namespace emulator
