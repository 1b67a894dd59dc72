// Sums, largest values and bits over the lanes of a warp, or of a quad of it, in one fixed order: every lane has the result, and the same bits of it.
#pragma once
#include "port.cuh"

DEVICE float warp_sum(float x) {
#pragma unroll
    for (int mask = WARP / 2; mask > 0; mask /= 2) x += shuffle_xor(x, mask);
    return x;
}
DEVICE float warp_max(float x) {
#pragma unroll
    for (int mask = WARP / 2; mask > 0; mask /= 2) x = fmaxf(x, shuffle_xor(x, mask));
    return x;
}
DEVICE unsigned warp_most(unsigned x) {
#pragma unroll
    for (int mask = WARP / 2; mask > 0; mask /= 2) x = max(x, shuffle(x, lane_id() ^ mask));
    return x;
}
DEVICE unsigned warp_or(unsigned x) {
#pragma unroll
    for (int mask = WARP / 2; mask > 0; mask /= 2) x |= shuffle(x, lane_id() ^ mask);
    return x;
}

// Over four neighbouring lanes.
DEVICE float quad_max(float x) {
    x = fmaxf(x, shuffle_xor(x, 1));
    return fmaxf(x, shuffle_xor(x, 2));
}
DEVICE float quad_sum(float x) {
    x += shuffle_xor(x, 1);
    return x + shuffle_xor(x, 2);
}
