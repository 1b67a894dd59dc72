// Sums down the columns of rows, each one chain by ascending row that goes on from what is in the gradient:
//
//   norm_gradient   dw [E] += Σ dy ∘ x̂, db [E] += Σ dy, x̂ the normalised rows of x; after row_statistics has left their means and scales
//   row_gradient    to the row of a table that a run is for, the rows of dy that order[begin] … order[end − 1] name; for runs of few rows, one warp a
//                   run and 128 columns
//   row_chain       the same for runs of many
//
//   dy, x   T [T, E]          dw, db, tables   f32          statistics   f32 [T, 2]          order   u32 [·]
//   runs    u32 [S, 3]: a row's number, its table in the upper two bits; begin; end
//
// Of many rows, a block has 16 columns, to have many blocks. Six warps bring a chunk of 16 bytes a thread of every tile of rows, tiles under way by
// asynchronous copies, and leave them as f32, a column's side by side; one warp adds up the tile before. Bound by the chain: a multiply-add waits
// for the one before it, four cycles a row, which takes longer than the bytes. So the warp that adds up has a quarter of the multiprocessor to itself.
#include "port_blocks.cuh"
#include "rows.cuh"

constexpr int COLUMNS = 16;
constexpr int WARPS = 8;          // of which the first adds up, the fifth, its neighbour, does nothing, and the others bring
constexpr int BRINGING = 6 * WARP;
constexpr int STAGES = 4;
constexpr int STRIPE = 4 * WARP;  // columns of a warp
constexpr int AHEAD = 8;          // rows it has under way

template <class Row, class T>
DEVICE void row_statistics(float* out, const T* x, float epsilon, int rows, int width) {
    SHARED(float, shared);
    const int number = row_of_warp();
    if (number >= rows) return;
    Row row(shared, warp_id(), width);
    bring(row, x + size_t(number) * width);
    const Statistics of_row = statistics(row, epsilon, width);
    if (lane_id() == 0) store(out + 2 * size_t(number), make_float2(of_row.mean, of_row.scale));
}

// What a block holds of so many operands: chunks as they come, each read by the thread that asked for it, and two tiles to add up.
template <class T, int OPERANDS>
struct Tiles {
    static constexpr int CHUNK = 16 / sizeof(T), ACROSS = COLUMNS / CHUNK, ROWS = BRINGING / ACROSS;
    T chunks[STAGES][OPERANDS][BRINGING * CHUNK];
    float columns[2][OPERANDS][COLUMNS][ROWS + 4];  // four more, so that columns begin on other banks
    // Where a column has a row: what a warp writes at once, chunks of some rows, falls on all banks.
    static DEVICE int place(int column, int row) { return row ^ column / 8 * (WARP / ACROSS); }
};

// Some rows: those that `order` names, or the first.
struct Some {
    const unsigned* order;
    int count;
    DEVICE unsigned row(int i) const { return i >= count ? 0 : order ? order[i] : unsigned(i); }
};

// Begins the copy of a chunk of a row; what is beyond the matrix becomes zeros.
template <int CHUNK, class T>
DEVICE void fetch(T* to, const T* from, unsigned row, int column, int width, bool present) {
    const int left = present ? width - column : 0;
    const T* const at = from + size_t(row) * width + column;
    if (width % CHUNK == 0) copy_async(to, left > 0 ? at : from, left > 0);
    else store_vector<CHUNK>(to, load_some<CHUNK>(at, left));
}

// What a block's first warp comes to that goes on from `sum` down `some` rows of dy, from column `first` on: a lane of its lower half has a column, and
// adds up dy, times the normalised x where there are `statistics` of rows; then the upper half adds up dy alone.
template <bool NORMALISED, class T>
DEVICE float chain(float sum, const T* dy, const T* x, const float* statistics, Some some, int first, int width) {
    typedef Tiles<T, NORMALISED ? 2 : 1> Shared;
    constexpr int CHUNK = Shared::CHUNK, ROWS = Shared::ROWS;
    SHARED(Shared, shared);
    const int tiles = (some.count + ROWS - 1) / ROWS;
    const bool brings = warp_id() > 0;
    const int thread = int(threadIdx.x) - WARP * (1 + warp_id() / 5), chunk = thread * CHUNK;  // among those that bring
    const int own = thread / Shared::ACROSS, part = chunk % COLUMNS;                           // a tile's row, and its columns
    // What is looked up is asked for a tile before it is needed.
    unsigned row = brings ? some.row(own) : 0;
    const auto statistics_of = [&](int i) {
        const float2 of_row = NORMALISED && brings && i < some.count ? load<float2>(statistics + 2 * size_t(some.row(i))) : make_float2(0.0f, 0.0f);
        return Statistics{of_row.x, of_row.y};
    };
    Statistics of_row = statistics_of(own);
    const auto fetch_tile = [&](int tile) {
        const int i = tile * ROWS + own;
        auto& chunks = shared->chunks[tile % STAGES];
        fetch<CHUNK>(chunks[0] + chunk, dy, row, first + part, width, i < some.count);
        if constexpr (NORMALISED) fetch<CHUNK>(chunks[1] + chunk, x, row, first + part, width, i < some.count);
        row = some.row(i + ROWS);
        copy_commit();
    };
    for (int tile = 0; brings && tile < STAGES - 1; ++tile) fetch_tile(tile);
    for (int tile = 0; tile <= tiles; ++tile) {
        if (brings && tile < tiles) {
            copy_wait<STAGES - 2>();
            const int i = tile * ROWS + own;
            const auto& chunks = shared->chunks[tile % STAGES];
            auto& columns = shared->columns[tile % 2];
            // Rows that are not there are zeros, also when they are normalised, and leave every sum as it is.
            const Vector<CHUNK> slopes = load_vector<CHUNK>(chunks[0] + chunk);
#pragma unroll
            for (int c = 0; c < CHUNK; ++c) columns[0][part + c][Shared::place(part + c, own)] = slopes.x[c];
            if constexpr (NORMALISED) {
                const Vector<CHUNK> values = load_vector<CHUNK>(chunks[1] + chunk);
#pragma unroll
                for (int c = 0; c < CHUNK; ++c) columns[1][part + c][Shared::place(part + c, own)] = of_row.normalised(values.x[c]);
                of_row = statistics_of(i + ROWS);
            }
            fetch_tile(tile + STAGES - 1);
        }
        if (!brings && tile > 0) {
            const auto& columns = shared->columns[(tile - 1) % 2];
            const int mine = lane_id() % COLUMNS;
#pragma unroll
            for (int r = 0; r < ROWS; r += 4) {
                const Vector<4> slopes = load_vector<4>(columns[0][mine] + Shared::place(mine, r));
                if constexpr (NORMALISED) {
                    const Vector<4> values = load_vector<4>(columns[1][mine] + Shared::place(mine, r));
#pragma unroll
                    for (int k = 0; k < 4; ++k) sum = fmaf(slopes.x[k], lane_id() < COLUMNS ? values.x[k] : 1.0f, sum);
                } else {
#pragma unroll
                    for (int k = 0; k < 4; ++k) sum += slopes.x[k];
                }
            }
        }
        sync_block();  // the next tile is there, and the last is done with
    }
    copy_wait<0>();
    return sum;
}

template <class T>
DEVICE void norm_gradient(float* dw, float* db, const T* dy, const T* x, const float* statistics, int rows, int width) {
    const int first = int(blockIdx.x) * COLUMNS, column = first + lane_id() % COLUMNS;
    float* const to = (lane_id() < COLUMNS ? dw : db) + column;
    if (warp_id() == WARPS / 2) return;
    const bool mine = warp_id() == 0 && column < width;
    const float sum = chain<true>(mine ? *to : 0.0f, dy, x, statistics, Some{nullptr, rows}, first, width);
    if (mine) *to = sum;
}

// Gradients of the embedding's tables, each null or f32 [·, E].
struct Tables {
    float *word, *position, *token_type, *task;
    DEVICE float* row(unsigned named, int width) const {
        const unsigned table = named >> 30;
        return (table == 0 ? word : table == 1 ? position : table == 2 ? token_type : task) + size_t(named & 0x3fffffff) * width;
    }
};

template <class T>
DEVICE void row_chain(Tables tables, const T* dy, const unsigned* order, const unsigned* runs, int width) {
    const unsigned* const run = runs + 3 * blockIdx.x;
    const int first = int(blockIdx.y) * COLUMNS, column = first + lane_id();
    float* const to = tables.row(run[0], width) + column;
    if (warp_id() == WARPS / 2) return;
    const bool mine = warp_id() == 0 && lane_id() < COLUMNS && column < width;
    const Some some{order + run[1], int(run[2] - run[1])};
    const float sum = chain<false>(mine ? *to : 0.0f, dy, static_cast<const T*>(nullptr), nullptr, some, first, width);
    if (mine) *to = sum;
}

// Goes on from `sum` with four columns of dy, `count` of them there, of the rows named.
template <bool WHOLE, class T>
DEVICE Vector<4> add_rows(Vector<4> sum, const T* dy, const unsigned* order, int rows, int count, int width) {
    for (int first = 0; first < rows; first += WARP) {
        const uint32_t named = order[min(first + lane_id(), rows - 1)];
        for (int next = first; next < min(first + WARP, rows); next += AHEAD) {
            Vector<4> some[AHEAD];
#pragma unroll
            for (int i = 0; i < AHEAD; ++i) {
                const T* const row = dy + size_t(shuffle(named, next - first + i)) * width;
                some[i] = filled<4>(-0.0f);  // which leaves every sum as it is
                if (next + i < rows) some[i] = WHOLE ? load_vector<4>(row) : load_some<4>(row, count);
            }
#pragma unroll
            for (int i = 0; i < AHEAD; ++i) sum = sum + some[i];
        }
    }
    return sum;
}

template <class T>
DEVICE void row_gradient(Tables tables, const T* dy, const unsigned* order, const unsigned* runs, int count, int width) {
    const int stripes = (width + STRIPE - 1) / STRIPE, number = row_of_warp() / stripes;
    if (number >= count) return;
    const unsigned* const run = runs + 3 * size_t(number);
    const int column = row_of_warp() % stripes * STRIPE + 4 * lane_id(), present = max(0, width - column);
    float* const to = tables.row(run[0], width) + column;
    const Vector<4> sum = load_some<4>(to, present);
    order += run[1];
    const int rows = int(run[2] - run[1]);
    // Lanes beyond whole rows read what the last one does.
    const Vector<4> added = width % 4 == 0 ? add_rows<true>(sum, dy + min(column, width - 4), order, rows, 4, width)
                                           : add_rows<false>(sum, dy + column, order, rows, present, width);
    store_some<4>(to, added, present);
}

#define ROW_STATISTICS(T)                                                                                                                         \
    KERNEL(row_statistics_##T, 128, float* out, const T* x, float epsilon, int rows, int width) {                                                  \
        await_kernels();                                                                                                                           \
        with_kind_of_row(width, [&](auto kind) { row_statistics<typename decltype(kind)::type>(out, x, epsilon, rows, width); }, x);               \
    }
#define COLUMN_SUMS(T)                                                                                                                            \
    ROW_STATISTICS(T)                                                                                                                             \
    KERNEL_BLOCKS(norm_gradient_##T, WARPS* WARP, 1, float* dw, float* db, const T* dy, const T* x, const float* statistics, int rows, int width) {      \
        await_kernels();                                                                                                                                 \
        norm_gradient(dw, db, dy, x, statistics, rows, width);                                                                                    \
    }                                                                                                                                             \
    KERNEL_BLOCKS(row_gradient_##T, 128, 6, float* word, float* position, float* token_type, float* task, const T* dy, const unsigned* order,                \
           const unsigned* runs, int count, int width) {                                                                                          \
        await_kernels();                                                                                                                          \
        row_gradient(Tables{word, position, token_type, task}, dy, order, runs, count, width);                                                     \
    }                                                                                                                                             \
    KERNEL_BLOCKS(row_chain_##T, WARPS* WARP, 1, float* word, float* position, float* token_type, float* task, const T* dy, const unsigned* order,       \
           const unsigned* runs, int width) {                                                                                                     \
        await_kernels();                                                                                                                          \
        row_chain(Tables{word, position, token_type, task}, dy, order, runs, width);                                                               \
    }

COLUMN_SUMS(f32)
COLUMN_SUMS(bf16)
ROW_STATISTICS(f16)  // for norm_products (projected.cu)
