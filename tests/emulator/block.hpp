// A block on one OS thread: its threads are fibres that run until they wait for one another.
//
// A collective (barrier, shuffle, matrix product …) is a meeting: whoever comes early is parked and the next fibre runs, the last to come does
// the work for all. Nothing hangs: when no fibre can run and some are not done, every place they wait at is named.
#pragma once
#include <cstring>
#include <string>
#include <vector>

#include "fibre.hpp"
#include "numbers.hpp"
#include "tensor_map.hpp"

namespace emulator {

constexpr unsigned LANES = 32;

// A place in a kernel's source.
struct Place {
    const char* file = "?";
    int line = 0;
    Place() = default;
    Place(const char* file, int line) : file(file), line(line) {}
    bool operator==(const Place& other) const { return line == other.line && !strcmp(file, other.file); }
    std::string text() const {
        const char* slash = strrchr(file, '/');
        return std::string(slash ? slash + 1 : file) + ":" + std::to_string(line);
    }
};
// As a default argument: the place of the call. (In braces it would be that of the declaration.)
#define HERE ::emulator::Place(__builtin_FILE(), __builtin_LINE())

// What a fibre waits for.
enum class Meeting : uint8_t { NONE, BLOCK, WARP, SHUFFLE, VOTE, LDMATRIX, MMA, PRODUCTS, BARRIER, EXIT };
inline const char* name(Meeting meeting) {
    static const char* const names[] = {"nothing", "sync_threads", "sync_warp", "shuffle", "vote", "ldmatrix", "mma", "products_wait", "barrier_wait", "exit"};
    return names[int(meeting)];
}

struct Block;
struct Warp;

// A copy that was begun and is not waited for. Without a source it writes zeros.
struct Copy { void* to; const void* from; };

// What warpgroup.hpp plays: barriers that count, tiles on their way, products under way. All of fixed room, because the scheduler's own accesses must
// be plain ones for the thread sanitizer to leave out.

// A barrier in shared memory.
struct Counter {
    const void* at = nullptr;
    int arrivals = 0;      // of a phase
    int missing = 0;       // of this one
    int64_t bytes = 0;     // that it waits for beside them
    unsigned phase = 0;
    bool fenced = false;   // known to the copy engine
    char edges[2] = {};
};

// A tile that was asked for and has not landed.
struct TileCopy {
    TensorMapContent map;
    int64_t row, column;
    unsigned char* to;
    unsigned counter;
};

// Sums that products go to, kept from the thread until it waits for them.
struct Sums {
    float* at = nullptr;
    unsigned count = 0, group = 0;
    bool under_way = false;
    float values[128];
};

struct Thread;
struct Product {
    uint64_t a, b;  // descriptors
    bool accumulate;
    unsigned sums, group;
    void (*compute)(Thread* warpgroup, unsigned product);
    Place place;
};

struct Thread : Fibre {
    uint3 index{};
    unsigned number = 0;
    unsigned lane = 0;
    Warp* warp = nullptr;
    Block* block = nullptr;
    Meeting waits_for = Meeting::NONE;
    Place waits_at;
    bool awaited = false;  // the kernels before this one
    std::vector<Copy> open_copies;
    std::vector<std::vector<Copy>> committed_copies;  // oldest first
    unsigned waits_on = 0;  // which counter, where it is one
    Product products[16];
    unsigned product_count = 0, product_groups = 0;
    Sums sums[2];
    bool products_fenced = false;
    bool unfenced_copies = false;  // that have landed
};

struct Warp {
    Thread* threads = nullptr;
    uint32_t alive = 0;
    uint32_t runnable = 0;
    // The meeting under way.
    Meeting meeting = Meeting::NONE;
    Place place;
    uint32_t arrived = 0;
    void* arguments[LANES] = {};
    char edge = 0;
};

// Four warps that wait for their products.
constexpr unsigned WARPGROUP_THREADS = 128;
struct Warpgroup {
    unsigned arrived = 0;
    unsigned newest = 0;
    Place place;
};

// In which order fibres and blocks run, and when asynchronous copies land: `EMULATOR_SCHEDULE` = forward | reverse | random:SEED,
// `EMULATOR_COPIES` = late | early.
struct Schedule {
    enum Order { FORWARD, REVERSE, RANDOM } order = FORWARD;
    uint64_t seed = 1;
    bool late_copies = true;

    static Schedule from_environment() {
        Schedule schedule;
        const char* order = getenv("EMULATOR_SCHEDULE");
        if (order && !strcmp(order, "reverse")) schedule.order = REVERSE;
        if (order && !strncmp(order, "random", 6)) {
            schedule.order = RANDOM;
            if (const char* colon = strchr(order, ':')) schedule.seed = strtoull(colon + 1, nullptr, 10);
        }
        const char* copies = getenv("EMULATOR_COPIES");
        schedule.late_copies = !copies || strcmp(copies, "early");
        return schedule;
    }
};

// xorshift64
UNCHECKED inline uint64_t draw(uint64_t& state) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

struct Block {
    uint3 index{};
    dim3 size, grid;
    std::vector<Thread> threads;
    std::vector<Warp> warps;
    Warpgroup warpgroups[8];
    Counter counters[32];
    unsigned counter_count = 0;
    TileCopy tiles[64];  // oldest first
    unsigned tile_count = 0;
    Stacks stacks;
    Fibre scheduler;
    unsigned alive = 0;
    // The block's barrier.
    unsigned arrived = 0;
    Place barrier;
    unsigned generation = 0;
    char edges[2] = {};
    char start_edge = 0, end_edge = 0;
    unsigned char* shared = nullptr;
    size_t shared_bytes = 0;
    void (*kernel)(void**) = nullptr;
    void** arguments = nullptr;
    Schedule schedule;
    uint64_t random = 1;
    std::string error;
#if defined(__SANITIZE_THREAD__)
    // The sanitizer has room for some thousand fibres, and every launch begins threads with blocks of their own.
    ~Block() {
        for (Thread& thread : threads) __tsan_destroy_fiber(thread.shadow);
    }
#endif
};

inline thread_local Thread* current = nullptr;

// One of the lanes in `lanes`, the one after `after` where the order is forward.
UNCHECKED inline unsigned choose_lane(Block& block, uint32_t lanes, unsigned after) {
    switch (block.schedule.order) {
        case Schedule::FORWARD: {
            const uint32_t later = after >= 31 ? 0 : lanes & ~((2u << after) - 1);
            return unsigned(__builtin_ctz(later ? later : lanes));
        }
        case Schedule::REVERSE: return 31u - unsigned(__builtin_clz(lanes));
        default: {
            for (unsigned skip = unsigned(draw(block.random) % unsigned(__builtin_popcount(lanes))); skip > 0; --skip) lanes &= lanes - 1;
            return unsigned(__builtin_ctz(lanes));
        }
    }
}

// The next fibre to run; the scheduler where there is none.
UNCHECKED inline Fibre& next_fibre(Block& block, Thread& now) {
    const unsigned warps = unsigned(block.warps.size());
    const unsigned here = unsigned(now.warp - block.warps.data());
    const bool random = block.schedule.order == Schedule::RANDOM;
    const unsigned first = random ? unsigned(draw(block.random) % warps) : here;
    for (unsigned step = 0; step < warps; ++step) {
        const unsigned forward = (first + step) % warps, backward = (first + warps - step) % warps;
        Warp& warp = block.warps[block.schedule.order == Schedule::REVERSE ? backward : forward];
        if (warp.runnable) return warp.threads[choose_lane(block, warp.runnable, &warp == now.warp ? now.lane : 31)];
    }
    return block.scheduler;
}

UNCHECKED inline void go_to(Fibre& to, bool last = false) {
    Thread& from = *current;
    current = &to == &from.block->scheduler ? current : static_cast<Thread*>(&to);
    switch_fibre(from, to, last);
}

// Ends the block: what was wrong, by whom. Its other fibres are abandoned where they are.
[[noreturn]] UNCHECKED inline void fail(const std::string& what) {
    Thread& thread = *current;
    Block& block = *thread.block;
    if (block.error.empty()) {
        const auto triple = [](uint3 i) { return "(" + std::to_string(i.x) + "," + std::to_string(i.y) + "," + std::to_string(i.z) + ")"; };
        block.error = "block " + triple(block.index) + " thread " + triple(thread.index) + ": " + what;
    }
    release(&block.end_edge);
    for (;;) go_to(block.scheduler, true);
}

// Whoever does this has waited for the kernels before, whose blocks may be at work until then.
UNCHECKED inline void check_awaited(const char* what, Place place) {
    if (!current->awaited) fail(std::string(what) + " at " + place.text() + ": before the kernels launched before this one are waited for");
}

// Waits until somebody makes this thread runnable again.
UNCHECKED inline void park(Meeting meeting, Place place) {
    Thread& thread = *current;
    thread.waits_for = meeting;
    thread.waits_at = place;
    thread.warp->runnable &= ~(1u << thread.lane);
    go_to(next_fibre(*thread.block, thread));
    thread.waits_for = Meeting::NONE;
}

UNCHECKED inline void open_barrier(Block& block) {
    block.arrived = 0;
    ++block.generation;
    for (Warp& warp : block.warps)
        for (unsigned lane = 0; lane < LANES; ++lane)
            if ((warp.alive >> lane & 1) && warp.threads[lane].waits_for == Meeting::BLOCK) warp.runnable |= 1u << lane;
}

// Every thread of the block that has not returned must come, and all to the same line.
UNCHECKED inline void sync_block(Place place) {
    Block& block = *current->block;
    check_awaited("sync_threads", place);
    if (block.arrived == 0) block.barrier = place;
    if (!(block.barrier == place)) fail("divergent barriers: sync_threads at " + place.text() + " meets sync_threads at " + block.barrier.text());
    void* edge = &block.edges[block.generation & 1];
    release(edge);
    if (++block.arrived == block.alive) open_barrier(block);
    else park(Meeting::BLOCK, place);
    acquire(edge);
}

// All 32 lanes come with an argument; the last does `work` on all of them.
template <class Work>
UNCHECKED inline void meet(Meeting meeting, void* argument, Place place, Work&& work) {
    Thread& thread = *current;
    Warp& warp = *thread.warp;
    check_awaited(name(meeting), place);
    if (warp.alive != 0xffffffffu) fail(std::string(name(meeting)) + " at " + place.text() + ": a lane of the warp has returned");
    if (warp.arrived == 0) {
        warp.meeting = meeting;
        warp.place = place;
    }
    if (warp.meeting != meeting || !(warp.place == place))
        fail(std::string("divergent warp: ") + name(meeting) + " at " + place.text() + " meets " + name(warp.meeting) + " at " + warp.place.text());
    warp.arguments[thread.lane] = argument;
    warp.arrived |= 1u << thread.lane;
    if (meeting == Meeting::WARP) release(&warp.edge);
    if (warp.arrived == 0xffffffffu) {
        warp.arrived = 0;
        work(warp.arguments);
        warp.runnable = 0xffffffffu;
    } else {
        park(meeting, place);
    }
    if (meeting == Meeting::WARP) acquire(&warp.edge);
}

// A kernel that is begun early and does not wait for those before it reads what they have yet to write.
UNCHECKED inline void await_kernels() { current->awaited = true; }

// A fibre's whole life.
UNCHECKED inline void live() {
    entered();
    acquire(&current->block->start_edge);
    current->block->kernel(current->block->arguments);
    Thread& thread = *current;
    Block& block = *thread.block;
    Warp& warp = *thread.warp;
    if (!thread.awaited) fail("the kernel never waited for those launched before it");
    for (const auto& group : thread.committed_copies)
        if (!group.empty()) fail("the kernel returned with asynchronous copies it never waited for");
    if (!thread.open_copies.empty()) fail("the kernel returned with asynchronous copies it never committed");
    if (thread.product_count) fail("the kernel returned with products it never waited for, begun at " + thread.products[0].place.text());
    if (warp.arrived) fail(std::string("a lane returned while its warp waits in ") + name(warp.meeting) + " at " + warp.place.text());
    warp.alive &= ~(1u << thread.lane);
    warp.runnable &= ~(1u << thread.lane);
    --block.alive;
    if (block.alive && block.arrived == block.alive) open_barrier(block);  // those that have returned are not waited for
    if (!block.alive && block.tile_count) fail("the kernel returned with tiles on their way that nobody waited for");
    thread.waits_for = Meeting::EXIT;
    release(&block.end_edge);
    for (;;) go_to(next_fibre(block, thread), true);
}

// Where the threads wait that are not done, each place once.
inline std::string deadlock(const Block& block) {
    std::string text = "block (" + std::to_string(block.index.x) + "," + std::to_string(block.index.y) + "," + std::to_string(block.index.z) + "): deadlock:";
    const Thread* last = nullptr;
    for (const Thread& thread : block.threads) {
        if (!(thread.warp->alive >> thread.lane & 1)) continue;
        if (last && last->waits_for == thread.waits_for && last->waits_at == thread.waits_at) continue;
        text += " [from thread " + std::to_string(thread.number) + ": " + name(thread.waits_for) + " at " + thread.waits_at.text();
        const Counter& counter = block.counters[thread.waits_on];
        if (thread.waits_for == Meeting::BARRIER)
            text += ": phase " + std::to_string(counter.phase) + " lacks " + std::to_string(counter.missing) + " arrivals and " + std::to_string(counter.bytes) + " bytes";
        text += "]";
        last = &thread;
    }
    return text;
}

inline void set_up(Block& block) {
    const unsigned count = block.size.x * block.size.y * block.size.z;
    if (block.threads.size() != count) {
#if defined(__SANITIZE_THREAD__)
        for (Thread& thread : block.threads) __tsan_destroy_fiber(thread.shadow);
#endif
        block.threads = std::vector<Thread>(count);
        block.warps = std::vector<Warp>(count / LANES);
        block.stacks.reserve(count);
#if defined(__SANITIZE_THREAD__)
        for (Thread& thread : block.threads) thread.shadow = __tsan_create_fiber(0);
#endif
    }
    block.alive = count;
    block.arrived = 0;
    block.error.clear();
    block.counter_count = block.tile_count = 0;
    for (Warpgroup& warpgroup : block.warpgroups) warpgroup.arrived = 0;
    for (unsigned w = 0; w < block.warps.size(); ++w) {
        Warp& warp = block.warps[w];
        warp.threads = &block.threads[w * LANES];
        warp.alive = warp.runnable = 0xffffffffu;
        warp.arrived = 0;
    }
    for (unsigned i = 0; i < count; ++i) {
        Thread& thread = block.threads[i];
        thread.number = i;
        thread.lane = i % LANES;
        thread.warp = &block.warps[i / LANES];
        thread.block = &block;
        thread.index = {i % block.size.x, i / block.size.x % block.size.y, i / (block.size.x * block.size.y)};
        thread.waits_for = Meeting::NONE;
        thread.awaited = false;
        thread.open_copies.clear();
        thread.committed_copies.clear();
        thread.product_count = thread.product_groups = 0;
        thread.products_fenced = thread.unfenced_copies = false;
        for (Sums& sums : thread.sums) sums.under_way = false;
        block.stacks.give(i, thread);
        prepare(thread, live);
    }
}

// Runs a block whose index, sizes, kernel and shared memory are set. Leaves what went wrong in `error`.
UNCHECKED inline void run(Block& block) {
    set_up(block);
#if defined(__SANITIZE_THREAD__)
    block.scheduler.shadow = __tsan_get_current_fiber();
#endif
    release(&block.start_edge);
    Thread* const outer = current;
    Thread& first = block.schedule.order == Schedule::REVERSE ? block.threads.back() : block.threads.front();
    current = &first;
    switch_fibre(block.scheduler, first, false);
    acquire(&block.end_edge);
    if (block.error.empty() && block.alive) block.error = deadlock(block);
    current = outer;
}

}  // namespace emulator
