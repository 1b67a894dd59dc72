// Rows that a warp holds in shared memory as f32, and their normalisation. One warp, one row; lane l owns columns 4l … 4l+3, then every 128th.
#pragma once
#include "reduce.cuh"
#include "vector.cuh"

typedef Vector<4> Four;

// Calls `step(column, count)` for this lane's columns of a row of `width`; `count` is 4 but at the row's end.
template <class Step>
DEVICE void each_of_mine(int width, Step step) {
    for (int column = 4 * lane_id(); column < width; column += 4 * WARP) step(column, min(4, width - column));
}

// What a layer normalisation multiplies and adds.
struct Affine {
    const float* weight;  // [width]
    const float* bias;    // [width]
    float epsilon;
};

// A row's mean, and 1 / √(var + ε).
struct Statistics {
    float mean, scale;
    DEVICE float normalised(float x) const { return (x - mean) * scale; }
};

// Of a row this warp holds in shared memory with zeros after its end. Two passes, because E[x²] − E[x]² cancels.
DEVICE Statistics statistics(const float* row, float epsilon, int width) {
    float sum = 0.0f;
    each_of_mine(width, [&](int column, int) {
        const Four x = load_vector<4>(row + column);
        sum += (x.x[0] + x.x[1]) + (x.x[2] + x.x[3]);
    });
    const float mean = warp_sum(sum) / float(width);

    float squares = 0.0f;
    each_of_mine(width, [&](int column, int count) {
        const Four x = load_vector<4>(row + column);
        float part = 0.0f;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const float difference = i < count ? x.x[i] - mean : 0.0f;
            part = fmaf(difference, difference, part);
        }
        squares += part;
    });
    return Statistics{mean, 1.0f / sqrtf(warp_sum(squares) / float(width) + epsilon)};
}

// out = (row − mean) / √(var + ε) · weight + bias, of a row this warp holds in shared memory with zeros after its end. `out` may be the row.
template <class T>
DEVICE void normalise(T* out, const float* row, Affine affine, int width) {
    const Statistics of_row = statistics(row, affine.epsilon, width);
    each_of_mine(width, [&](int column, int count) {
        Four x = load_vector<4>(row + column);
        const Four weight = load_some<4>(affine.weight + column, count), bias = load_some<4>(affine.bias + column, count);
#pragma unroll
        for (int i = 0; i < 4; ++i) x.x[i] = fmaf(of_row.normalised(x.x[i]), weight.x[i], bias.x[i]);
        store_some<4>(out + column, x, count);
    });
}

// dx = (g − mean(g) − x̂ mean(g x̂)) / √(var + ε) with g = dy · weight, for the row x in shared memory and its normalised x̂. `dx` may be `dy`:
// a lane reads what it will write before it does.
template <class T>
DEVICE void normalise_backward(T* dx, const T* dy, const float* row, Affine affine, int width) {
    const Statistics of_row = statistics(row, affine.epsilon, width);
    float sum = 0.0f, moment = 0.0f;
    each_of_mine(width, [&](int column, int count) {
        const Four x = load_vector<4>(row + column), g = load_some<4>(dy + column, count) * load_some<4>(affine.weight + column, count);
#pragma unroll
        for (int i = 0; i < 4; ++i) {  // g is 0 after the row's end
            sum += g.x[i];
            moment = fmaf(g.x[i], of_row.normalised(x.x[i]), moment);
        }
    });
    const float mean = warp_sum(sum) / float(width), slope = warp_sum(moment) / float(width);
    each_of_mine(width, [&](int column, int count) {
        const Four x = load_vector<4>(row + column);
        Four g = load_some<4>(dy + column, count) * load_some<4>(affine.weight + column, count);
#pragma unroll
        for (int i = 0; i < 4; ++i) g.x[i] = (g.x[i] - mean - of_row.normalised(x.x[i]) * slope) * of_row.scale;
        store_some<4>(dx + column, g, count);
    });
}

// This warp's row of shared memory: its width is rounded up to whole lanes.
DEVICE float* my_row(float* shared, int width) { return shared + warp_id() * ((width + 3) / 4 * 4); }

// The row this warp is for.
DEVICE int row_of_warp() { return int(blockIdx.x) * (int(blockDim.x) / WARP) + warp_id(); }
