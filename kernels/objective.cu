// The gradient that starts a backward pass: dz [B, K] of each sequence's objective at its logits z [B, K].
//
//   dz, z        T, row-major          objectives   i32 [B, 3]: kind, c and a of backend::Objective
//   scales       f32 [B], written: the power of two each record's dz was multiplied by; what comes out at the other end is divided by it
//
// kind: 0 softmax(z)_c, 1 σ(z_c), 2 z_c, 3 z_c − z_a. One warp a sequence, all in f32. Where dz is stored in f16 (`seed` > 0) its largest number
// is brought to [seed, 2 seed): gradients of a certain model are far below what f16 holds, and a backward pass is linear in its seed.
#include "activation.cuh"
#include "reduce.cuh"

struct Objective {
    int kind, target, against;
};

// 1 / (1 + exp(−x))
DEVICE float sigmoid(float x) { return 1.0f / (1.0f + Exact::exp(0.0f - x)); }

// The power of two that brings `size` to [seed, 2 seed), seed a power of two; 1 where there is nothing to scale.
DEVICE float scale_for(float size, float seed) {
    if (!(seed > 0.0f && size > 0.0f && size < INFINITY)) return 1.0f;
    const int exponent = int(__float_as_uint(size) >> 23), wanted = int(__float_as_uint(seed) >> 23);
    return Exact::two_to(max(-100, min(100, wanted - exponent)));
}

template <class T>
DEVICE void objective_gradient(T* dz, const T* z, Objective of, float* scale, float seed, int classes) {
    const int c = of.target;
    float largest = -INFINITY, sum = 0.0f, others = 0.0f, own = 0.0f, size = 1.0f;
    if (of.kind == 0) {
        for (int k = lane_id(); k < classes; k += WARP) largest = fmaxf(largest, widen(z[k]));
        largest = warp_max(largest);
        for (int k = lane_id(); k < classes; k += WARP) {
            const float weight = Exact::exp(widen(z[k]) - largest);
            sum += weight;
            others += k == c ? 0.0f : weight;  // 1 − p_c as the sum of the others keeps its digits where p_c is nearly 1
        }
        sum = warp_sum(sum), others = warp_sum(others);
        own = Exact::exp(widen(z[c]) - largest) / sum;
        size = own * (others / sum);
    } else if (of.kind == 1) {
        size = sigmoid(widen(z[c])) * sigmoid(0.0f - widen(z[c]));
    }
    const float factor = scale_for(size, seed);
    for (int k = lane_id(); k < classes; k += WARP) {
        float slope = k == c ? size : 0.0f;
        if (of.kind == 0 && k != c) slope = 0.0f - own * (Exact::exp(widen(z[k]) - largest) / sum);
        if (of.kind == 3 && k == of.against) slope -= 1.0f;
        dz[k] = narrow<T>(slope * factor);
    }
    if (lane_id() == 0) *scale = factor;
}

template <class T>
DEVICE void objective_gradients(T* dz, const T* z, const int* objectives, float* scales, float seed, int sequences, int classes) {
    const int sequence = int(blockIdx.x) * (int(blockDim.x) / WARP) + warp_id();
    if (sequence >= sequences) return;
    const int* const of = objectives + 3 * sequence;
    const size_t start = size_t(sequence) * classes;
    objective_gradient(dz + start, z + start, Objective{of[0], of[1], of[2]}, scales + sequence, seed, classes);
}

#define OBJECTIVE(T)                                                                                                                           \
    KERNEL(objective_##T, 128, T* dz, const T* z, const int* objectives, float* scales, float seed, int sequences, int classes) {              \
        await_kernels();                                                                                                                       \
        objective_gradients(dz, z, objectives, scales, seed, sequences, classes);                                                              \
    }

OBJECTIVE(f32)
OBJECTIVE(f16)
OBJECTIVE(bf16)
