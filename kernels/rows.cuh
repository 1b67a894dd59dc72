// Rows as f32, a warp each, and their normalisation. Lane l owns columns 4l … 4l+3, then every 128th.
//
// Rows of the widths that models mostly have wait in registers, so that all loads of one are on their way at once; others in shared memory, which the
// host makes room in for either. Sums go in the same order, so that bits do not tell.
#pragma once
#include "reduce.cuh"
#include "vector.cuh"

typedef Vector<4> Four;

constexpr int STRIDE = 4 * WARP;  // from one vector of a lane to its next

// Calls `step(column, count)` for this lane's columns of a row of `width`; `count` is 4 but at the row's end.
template <class Step>
DEVICE void each_of_mine(int width, Step step) {
#pragma unroll 1
    for (int column = 4 * lane_id(); column < width; column += STRIDE) step(column, min(4, width - column));
}

// So many vectors a lane.
template <int VECTORS>
class InRegisters {
    Four own[VECTORS];
    static DEVICE int place(int v) { return v * STRIDE + 4 * lane_id(); }

public:
    static constexpr int WIDTH = VECTORS * STRIDE;
    static constexpr bool UNROLLED = true;  // whether what is done to each vector is as many times in the code

    // The `place`th of a block's rows.
    DEVICE InRegisters(float* /*shared*/, int /*place*/, int /*width*/) {}

    // What of a matrix's row is at this lane's columns.
    template <class T>
    static DEVICE Four read(const T* p, int) { return load_vector<4>(p); }
    template <class T>
    static DEVICE void write(T* p, const Four& x, int) { store_vector<4>(p, x); }

    // Calls `step(x, column, count)` for the numbers of this lane.
    template <class Step>
    DEVICE void each(Step step) const {
#pragma unroll
        for (int v = 0; v < VECTORS; ++v) step(own[v], place(v), 4);
    }
    // The same of two rows' numbers.
    template <class Step>
    DEVICE void each(const InRegisters& other, Step step) const {
#pragma unroll
        for (int v = 0; v < VECTORS; ++v) step(own[v], other.own[v], place(v), 4);
    }
    // Puts there what `make(column, count)` returns.
    template <class Make>
    DEVICE void fill(Make make) {
#pragma unroll
        for (int v = 0; v < VECTORS; ++v) own[v] = make(place(v), 4);
    }
    // What `make(x, column, count)` returns in the place of x.
    template <class Make>
    DEVICE void change(Make make) {
#pragma unroll
        for (int v = 0; v < VECTORS; ++v) own[v] = make(own[v], place(v), 4);
    }
    template <class Make>
    DEVICE void change(const InRegisters& other, Make make) {
#pragma unroll
        for (int v = 0; v < VECTORS; ++v) own[v] = make(own[v], other.own[v], place(v), 4);
    }
};

// With zeros after its end.
class InShared {
    float* row;
    int width;

public:
    static constexpr bool UNROLLED = false;

    DEVICE InShared(float* shared, int place, int width) : row(shared + place * ((width + 3) / 4 * 4)), width(width) {}

    template <class T>
    static DEVICE Four read(const T* p, int count) { return load_some<4>(p, count); }
    template <class T>
    static DEVICE void write(T* p, const Four& x, int count) { store_some<4>(p, x, count); }

    template <class Step>
    DEVICE void each(Step step) const {
        each_of_mine(width, [&](int column, int count) { step(load_vector<4>(row + column), column, count); });
    }
    template <class Step>
    DEVICE void each(const InShared& other, Step step) const {
        each_of_mine(width, [&](int column, int count) { step(load_vector<4>(row + column), load_vector<4>(other.row + column), column, count); });
    }
    template <class Make>
    DEVICE void fill(Make make) {
        each_of_mine(width, [&](int column, int count) { store_vector<4>(row + column, make(column, count)); });
    }
    template <class Make>
    DEVICE void change(Make make) {
        each_of_mine(width, [&](int column, int count) { store_vector<4>(row + column, make(load_vector<4>(row + column), column, count)); });
    }
    template <class Make>
    DEVICE void change(const InShared& other, Make make) {
        each_of_mine(width, [&](int column, int count) {
            store_vector<4>(row + column, make(load_vector<4>(row + column), load_vector<4>(other.row + column), column, count));
        });
    }
};

// Names a type.
template <class Row>
struct Kind {
    typedef Row type;
};

// Runs `step` with the kind that rows of this width are of, those of all these matrices.
template <class Step, class... T>
DEVICE void with_kind_of_row(int width, Step step, const T*... matrices) {
    const bool aligned = (is_aligned<4>(matrices) && ...);
    if (aligned && width == InRegisters<3>::WIDTH) step(Kind<InRegisters<3>>());
    else if (aligned && width == InRegisters<6>::WIDTH) step(Kind<InRegisters<6>>());
    else if (aligned && width == InRegisters<8>::WIDTH) step(Kind<InRegisters<8>>());
    else step(Kind<InShared>());
}

// Brings a row from `from`, or writes it to `to`.
template <class Row, class T>
DEVICE void bring(Row& row, const T* from) {
    row.fill([&](int column, int count) { return Row::read(from + column, count); });
}
template <class Row, class T>
DEVICE void leave(const Row& row, T* to) {
    row.each([&](const Four& x, int column, int count) { Row::write(to + column, x, count); });
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

// Two passes, because E[x²] − E[x]² cancels.
template <class Row>
DEVICE Statistics statistics(const Row& row, float epsilon, int width) {
    float sum = 0.0f;
    row.each([&](const Four& x, int /*column*/, int /*count*/) { sum += (x.x[0] + x.x[1]) + (x.x[2] + x.x[3]); });
    const float mean = warp_sum(sum) / float(width);

    float squares = 0.0f;
    row.each([&](const Four& x, int, int count) {
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

// (x − mean) / √(var + ε) · weight + bias, in the place of x.
template <class Row>
DEVICE void normalise(Row& row, Affine affine, int width) {
    const Statistics of_row = statistics(row, affine.epsilon, width);
    row.change([&](Four x, int column, int count) {
        const Four weight = Row::read(affine.weight + column, count), bias = Row::read(affine.bias + column, count);
#pragma unroll
        for (int i = 0; i < 4; ++i) x.x[i] = fmaf(of_row.normalised(x.x[i]), weight.x[i], bias.x[i]);
        return x;
    });
}

// dx = (g − mean(g) − x̂ mean(g x̂)) / √(var + ε) with g = dy · weight, for the row x and its normalised x̂; g waits in `slopes`. `dx` may be `dy`.
template <class Row, class T>
DEVICE void normalise_backward(T* dx, const T* dy, const Row& row, Row& slopes, Affine affine, int width) {
    bring(slopes, dy);
    const Statistics of_row = statistics(row, affine.epsilon, width);
    slopes.change([&](const Four& g, int column, int count) { return g * Row::read(affine.weight + column, count); });
    float sum = 0.0f, moment = 0.0f;
    row.each(slopes, [&](const Four& x, const Four& g, int, int) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {  // g is 0 after the row's end
            sum += g.x[i];
            moment = fmaf(g.x[i], of_row.normalised(x.x[i]), moment);
        }
    });
    const float mean = warp_sum(sum) / float(width), slope = warp_sum(moment) / float(width);
    row.each(slopes, [&](const Four& x, Four g, int column, int count) {
#pragma unroll
        for (int i = 0; i < 4; ++i) g.x[i] = (g.x[i] - mean - of_row.normalised(x.x[i]) * slope) * of_row.scale;
        Row::write(dx + column, g, count);
    });
}

// The row this warp is for.
DEVICE int row_of_warp() { return int(blockIdx.x) * (int(blockDim.x) / WARP) + warp_id(); }
