// What compute capability 9.0a adds: barriers in shared memory that count arrivals and bytes, tiles brought by the copy engine, products of whole
// warpgroups. Stricter than a device where a device leaves it open:
//
// * a tile lands when its barrier is waited for and not before; until then its place holds NaN
// * who waits for a barrier goes on as soon as it may (not where the order is reverse): what it then overwrites nobody else may still want
// * products are computed when they are waited for, of what then lies in shared memory; until then their sums hold NaN
// * what a thread copied itself is fenced (fence_async) before a product begins, whoever begins it
// * a product reads its operands as its descriptors say, swizzle included, and sums its sixteen products before it adds them to what was there: mma
//   adds one after another, so that who computes a row by both finds other bits
//
// Layouts are those of the PTX manual, "wgmma.mma_async": thread t of the warpgroup holds rows 16 (t / 32) + (t mod 32) / 4 and 8 further down, of every
// eight columns 2 (t mod 4) and the next.
#pragma once
#include "warp.hpp"

namespace emulator {

// Where something lies in the block's shared memory.
UNCHECKED inline uint32_t shared_offset(const void* p) { return uint32_t(static_cast<const unsigned char*>(p) - current->block->shared); }

// ---- barriers

UNCHECKED inline unsigned counter_at(const void* at, const char* what, Place place) {
    const Block& block = *current->block;
    for (unsigned i = 0; i < block.counter_count; ++i)
        if (block.counters[i].at == at) return i;
    fail(std::string(what) + " at " + place.text() + ": a barrier that was not begun");
}

UNCHECKED inline void begin_barrier(const void* at, int arrivals, Place place) {
    Block& block = *current->block;
    check_shared(at, 8, 8, "barrier_begin", place);
    if (arrivals < 1 || arrivals >= 1 << 20) fail("barrier_begin at " + place.text() + ": no number of arrivals");
    for (unsigned i = 0; i < block.counter_count; ++i)
        if (block.counters[i].at == at) fail("barrier_begin at " + place.text() + ": a barrier begun twice");
    if (block.counter_count == sizeof block.counters / sizeof *block.counters) fail("barrier_begin at " + place.text() + ": too many barriers");
    Counter& counter = block.counters[block.counter_count++];
    counter.at = at;
    counter.arrivals = counter.missing = arrivals;
    counter.bytes = 0;
    counter.phase = 0;
    counter.fenced = false;
}

UNCHECKED inline void fence_barriers() {
    for (unsigned i = 0; i < current->block->counter_count; ++i) current->block->counters[i].fenced = true;
}

// Lets go on who waits for a barrier; the first of them, if there are any.
UNCHECKED inline Thread* wake(Block& block, unsigned number) {
    Thread* first = nullptr;
    for (Warp& warp : block.warps)
        for (unsigned lane = 0; lane < LANES; ++lane) {
            Thread& thread = warp.threads[lane];
            if (!(warp.alive >> lane & 1) || thread.waits_for != Meeting::BARRIER || thread.waits_on != number) continue;
            warp.runnable |= 1u << lane;
            if (!first) first = &thread;
        }
    return first;
}

// Ends a phase that lacks nothing.
UNCHECKED inline Thread* end_phase(Block& block, unsigned number) {
    Counter& counter = block.counters[number];
    if (counter.missing || counter.bytes) return nullptr;
    ++counter.phase;
    counter.missing = counter.arrivals;
    return wake(block, number);
}

UNCHECKED inline void arrive(const void* at, int bytes, Place place) {
    Block& block = *current->block;
    check_awaited("barrier_arrive", place);
    const unsigned number = counter_at(at, "barrier_arrive", place);
    Counter& counter = block.counters[number];
    if (counter.missing == 0) fail("barrier_arrive at " + place.text() + ": more arrivals than the barrier counts");
    release(&counter.edges[counter.phase & 1]);
    counter.bytes += bytes;
    --counter.missing;
    Thread* const woken = end_phase(block, number);
    if (woken && block.schedule.order != Schedule::REVERSE) go_to(*woken);
}

// The oldest tile on its way to a barrier lands; whether there was one.
UNCHECKED inline bool land(Block& block, unsigned number) {
    unsigned oldest = 0;
    while (oldest < block.tile_count && block.tiles[oldest].counter != number) ++oldest;
    if (oldest == block.tile_count) return false;
    const TileCopy tile = block.tiles[oldest];
    for (unsigned i = oldest; i + 1 < block.tile_count; ++i) block.tiles[i] = block.tiles[i + 1];
    --block.tile_count;
    const TensorMapContent& map = tile.map;
    const uint32_t row_bytes = map.box[0] * map.element_bytes, of_chunk = 16 / map.element_bytes;
    const uint32_t start = uint32_t(tile.to - block.shared);
    for (uint32_t r = 0; r < map.box[1]; ++r)
        for (uint32_t c = 0; c < row_bytes / 16; ++c) {
            unsigned char chunk[16] = {};
            const int64_t row = tile.row + r;
            for (uint32_t e = 0; e < of_chunk; ++e) {
                const int64_t column = tile.column + int64_t(c * of_chunk + e);
                if (row < 0 || row >= int64_t(map.dimensions[1]) || column < 0 || column >= int64_t(map.dimensions[0])) continue;
                const auto* from = reinterpret_cast<const unsigned char*>(map.address) + row * map.stride + column * map.element_bytes;
                for (uint32_t byte = 0; byte < map.element_bytes; ++byte) chunk[e * map.element_bytes + byte] = from[byte];
            }
            memcpy(block.shared + swizzled(start + r * row_bytes + c * 16, map.swizzle_bytes), chunk, 16);
        }
    block.counters[number].bytes -= int64_t(row_bytes) * map.box[1];
    end_phase(block, number);
    return true;
}

// Until the phase of this parity is over.
UNCHECKED inline void wait(const void* at, uint32_t parity, Place place) {
    Block& block = *current->block;
    check_awaited("barrier_wait", place);
    const unsigned number = counter_at(at, "barrier_wait", place);
    Counter& counter = block.counters[number];
    while ((counter.phase & 1) == (parity & 1)) {
        if (land(block, number)) continue;
        current->waits_on = number;
        park(Meeting::BARRIER, place);
    }
    acquire(&counter.edges[parity & 1]);
}

// ---- tiles

// A parameter that says what a matrix is. Nothing is read of that.
UNCHECKED inline TensorMapContent check_map(const void* map, const char* what, Place place) {
    TensorMapContent content;
    memcpy(&content, map, sizeof content);
    if (reinterpret_cast<uintptr_t>(map) % 64 || content.magic != TENSOR_MAP_MAGIC) fail(std::string(what) + " at " + place.text() + ": no tensor map");
    return content;
}

// The map's box at (row, column), to be waited for at `landed`.
UNCHECKED inline void begin_tile(void* to, const void* map, const void* landed, int row, int column, Place place) {
    Block& block = *current->block;
    TileCopy tile{};
    check_awaited("copy_tile", place);
    tile.map = check_map(map, "copy_tile", place);
    const size_t bytes = size_t(tile.map.box[0]) * tile.map.element_bytes * tile.map.box[1];
    check_shared(to, bytes, 128, "copy_tile", place);
    tile.row = row;
    tile.column = column;
    tile.to = static_cast<unsigned char*>(to);
    tile.counter = counter_at(landed, "copy_tile", place);
    if (!block.counters[tile.counter].fenced) fail("copy_tile at " + place.text() + ": a barrier the copy engine need not know of");
    for (size_t i = 0; i < bytes; i += 16) memset(tile.to + i, 0xff, 16);
    if (block.tile_count == sizeof block.tiles / sizeof *block.tiles) fail("copy_tile at " + place.text() + ": too many tiles on their way");
    block.tiles[block.tile_count++] = tile;
    if (!block.schedule.late_copies) land(block, tile.counter);
    wake(block, tile.counter);
}

// ---- products

UNCHECKED inline void fence_copies() { current->unfenced_copies = false; }
UNCHECKED inline void fence_products() { current->products_fenced = true; }
UNCHECKED inline void commit_products() { ++current->product_groups; }

// The 16-bit number k of row r of an operand, as its descriptor says; of one that is turned, row k lies there, in panels of the swizzle's span.
template <bool TURNED>
UNCHECKED inline uint32_t operand_bits(const Block& block, uint64_t descriptor, unsigned r, unsigned k, Place place) {
    static const uint32_t spans[] = {0, 128, 64, 32};
    const uint32_t start = uint32_t(descriptor & 0x3fff) << 4, stride = uint32_t(descriptor >> 32 & 0x3fff) << 4, span = spans[descriptor >> 62];
    if (!span) fail("wgmma at " + place.text() + ": a layout that is not emulated");
    if (descriptor >> 46 & 0xffff) fail("wgmma at " + place.text() + ": a descriptor with other bits than address, strides and layout");
    if (start % (8 * span) >= span) fail("wgmma at " + place.text() + ": an operand that does not begin where its swizzle does");
    const uint32_t panels = uint32_t(descriptor >> 16 & 0x3fff) << 4, across = span / 2;
    const uint32_t plain = TURNED ? r / across * panels + k / 8 * stride + k % 8 * span + 2 * (r % across) : r / 8 * stride + r % 8 * span + 2 * k;
    const uint32_t at = swizzled(start + plain, span);
    if (at + 2 > block.shared_bytes) fail("wgmma at " + place.text() + ": an operand outside the block's shared memory");
    uint16_t bits;
    memcpy(&bits, block.shared + at, 2);
    return bits;
}

// A warpgroup's product: m64nNk16.
template <class T, unsigned N, bool TURNED>
UNCHECKED void compute_product(Thread* warpgroup, unsigned number) {
    static thread_local float left[64][16], right[16][N];
    const Product& product = warpgroup->products[number];
    const Block& block = *warpgroup->block;
    for (unsigned k = 0; k < 16; ++k) {
        for (unsigned i = 0; i < 64; ++i) left[i][k] = widen(T{}, operand_bits<TURNED>(block, product.a, i, k, product.place));
        for (unsigned j = 0; j < N; ++j) right[k][j] = widen(T{}, operand_bits<TURNED>(block, product.b, j, k, product.place));
    }
    for (unsigned i = 0; i < 64; ++i) {
        float sums[N] = {};
        for (unsigned k = 0; k < 16; ++k)
            for (unsigned j = 0; j < N; ++j) sums[j] += left[i][k] * right[k][j];
        // Four threads of one warp hold row i, in the places of its upper or lower eight rows.
        Thread* const quad = warpgroup + i / 16 * LANES + i % 8 * 4;
        for (unsigned j = 0; j < N; ++j) {
            Sums& held = quad[j % 8 / 2].sums[product.sums];
            float& sum = held.values[j / 8 * 4 + i % 16 / 8 * 2 + j % 2];
            sum = product.accumulate ? sum + sums[j] : sums[j];
        }
    }
    static const bool wrong = getenv("EMULATOR_PRODUCTS") && !strcmp(getenv("EMULATOR_PRODUCTS"), "wrong");
    if (wrong) warpgroup->sums[product.sums].values[0] += 1.0f;
}

// sums [64×N] = a · bᵀ + (`accumulate` ? sums : 0), when it is waited for.
template <class T, unsigned N, bool TURNED>
UNCHECKED inline void begin_product(float* sums, uint64_t a, uint64_t b, bool accumulate, Place place) {
    Thread& thread = *current;
    for (const Thread& other : thread.block->threads)
        if (thread.number % WARPGROUP_THREADS == 0 && other.unfenced_copies) fail("wgmma at " + place.text() + ": operands that were copied by threads, and no fence_async after that");
    unsigned mine = 0;
    while (mine < 2 && !(thread.sums[mine].under_way && thread.sums[mine].at == sums)) ++mine;
    if (mine == 2) {
        if (!thread.products_fenced) fail("wgmma at " + place.text() + ": sums that were touched since the last products_begin");
        mine = thread.sums[0].under_way;
        Sums& held = thread.sums[mine];
        if (held.under_way) fail("wgmma at " + place.text() + ": more sums under way than are emulated");
        held.at = sums;
        held.count = N / 2;
        held.under_way = true;
        for (unsigned i = 0; i < N / 2; ++i) {
            held.values[i] = sums[i];
            sums[i] = __uint_as_float(0x7fffffffu);
        }
    }
    thread.sums[mine].group = thread.product_groups;
    if (thread.product_count == sizeof thread.products / sizeof *thread.products) fail("wgmma at " + place.text() + ": too many products under way");
    thread.products[thread.product_count++] = {a, b, accumulate, mine, thread.product_groups, &compute_product<T, N, TURNED>, place};
}

// All but the `newest` committed groups, by all threads of the warpgroup.
UNCHECKED inline void await_products(unsigned newest, Place place) {
    Block& block = *current->block;
    const unsigned number = current->number / WARPGROUP_THREADS;
    if (block.threads.size() < (number + 1) * WARPGROUP_THREADS) fail("products_wait at " + place.text() + ": no whole warpgroup");
    Warpgroup& meeting = block.warpgroups[number];
    Thread* const threads = &block.threads[number * WARPGROUP_THREADS];
    if (meeting.arrived == 0) {
        meeting.place = place;
        meeting.newest = newest;
    }
    if (!(meeting.place == place) || meeting.newest != newest)
        fail("divergent warpgroup: products_wait at " + place.text() + " meets products_wait at " + meeting.place.text());
    if (++meeting.arrived < WARPGROUP_THREADS) {
        park(Meeting::PRODUCTS, place);
        return;
    }
    meeting.arrived = 0;
    const unsigned groups = threads->product_groups > newest ? threads->product_groups - newest : 0;
    unsigned done = 0;
    for (; done < threads->product_count && threads->products[done].group < groups; ++done) {
        const Product& first = threads->products[done];
        for (unsigned t = 1; t < WARPGROUP_THREADS; ++t) {
            const Product& other = threads[t].products[done];
            const bool alike = done < threads[t].product_count && other.a == first.a && other.b == first.b && other.accumulate == first.accumulate && other.compute == first.compute;
            if (!alike) fail("wgmma at " + first.place.text() + ": the warpgroup's threads ask for other products");
        }
        first.compute(threads, done);
    }
    for (unsigned t = 0; t < WARPGROUP_THREADS; ++t) {
        Thread& thread = threads[t];
        for (unsigned i = done; i < thread.product_count; ++i) thread.products[i - done] = thread.products[i];
        thread.product_count -= done;
        for (Sums& held : thread.sums) {
            if (!held.under_way || held.group >= groups) continue;
            held.under_way = false;
            thread.products_fenced = false;
            for (unsigned i = 0; i < held.count; ++i) held.at[i] = held.values[i];
        }
        thread.warp->runnable |= 1u << thread.lane;
    }
}

}  // namespace emulator
