// A launch: the kernel's registration, the limits the hardware has, and the grid's blocks over the machine's cores.
#pragma once
#include <algorithm>
#include <atomic>
#include <map>
#include <mutex>
#include <numeric>
#include <thread>
#include <type_traits>
#include <utility>

#include "block.hpp"

namespace emulator {

constexpr size_t SHARED_BYTES_UNASKED = 48 * 1024;  // more is to be asked for with cuFuncSetAttribute
constexpr size_t SHARED_BYTES_LIMIT = 99 * 1024;    // of compute capability 8.6 and 8.9: what every device has
constexpr size_t SHARED_BYTES_LIMIT_90 = 227 * 1024;

// A kernel as the driver knows it: by name, its arguments by address.
struct Kernel {
    const char* name;
    unsigned most_threads;  // its launch bounds
    int capability;         // the only one it is compiled for; 0 where it is for all
    void (*call)(void**);
    std::vector<size_t> argument_bytes, argument_alignments;

    size_t shared_limit() const { return capability == 90 ? SHARED_BYTES_LIMIT_90 : SHARED_BYTES_LIMIT; }
};

inline std::map<std::string, Kernel>& kernels() {
    static std::map<std::string, Kernel> all;
    return all;
}

template <auto FUNCTION>
struct Thunk;
template <class... Arguments, void (*FUNCTION)(Arguments...)>
struct Thunk<FUNCTION> {
    template <size_t... I>
    static void unpack(void** arguments, std::index_sequence<I...>) {
        FUNCTION(*static_cast<std::remove_reference_t<Arguments>*>(arguments[I])...);
    }
    static void call(void** arguments) { unpack(arguments, std::index_sequence_for<Arguments...>{}); }
    static Kernel kernel(const char* name, unsigned most_threads, int capability = 0) {
        return {name, most_threads, capability, &call, {sizeof(Arguments)...}, {alignof(Arguments)...}};
    }
};

// Makes a kernel known while the library is loaded.
struct Registration {
    Registration(Kernel kernel) { kernels().emplace(kernel.name, kernel); }
};

// What is wrong with the sizes of a launch; empty where nothing is.
inline std::string misfit(const Kernel& kernel, dim3 grid, dim3 block, size_t shared_bytes, size_t shared_asked) {
    const uint64_t threads = uint64_t(block.x) * block.y * block.z;
    if (!grid.x || !grid.y || !grid.z || grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535) return "a grid no device has";
    if (!threads || threads > 1024 || block.z > 64) return "a block no device has";
    if (threads % LANES) return "a block that is not whole warps";
    if (threads > kernel.most_threads) return "more threads than its launch bounds";
    if (shared_bytes > kernel.shared_limit()) return "more shared memory than a block has";
    if (shared_bytes > shared_asked) return "more than 48 KiB of shared memory without asking for it";
    return "";
}

// Threads a grid's blocks are shared by: a thread for eight blocks at least, because it takes longer to begin than a small block to run.
inline unsigned worker_count(uint64_t blocks) {
    const char* wanted = getenv("EMULATOR_THREADS");
    uint64_t count = wanted ? uint64_t(atoi(wanted)) : std::min<uint64_t>(std::thread::hardware_concurrency(), (blocks + 7) / 8);
#if defined(__SANITIZE_THREAD__)
    count = 3;  // what one thread runs is ordered, and shows no race: neighbours, and blocks a power of two apart, are run by different ones
#endif
    return unsigned(std::min(std::max<uint64_t>(count, 1), blocks));
}

// Shared memory of exactly the size asked for, so that the address sanitizer sees its end; NaN to begin with.
class SharedMemory {
public:
    explicit SharedMemory(size_t bytes) : bytes_(bytes), room_((bytes + 1023) / 1024 * 1024 + 1024) {
        data_ = static_cast<unsigned char*>(aligned_alloc(1024, room_));
#if defined(__SANITIZE_ADDRESS__)
        __asan_poison_memory_region(data_ + bytes_, room_ - bytes_);
#endif
    }
    SharedMemory(const SharedMemory&) = delete;
    ~SharedMemory() {
#if defined(__SANITIZE_ADDRESS__)
        __asan_unpoison_memory_region(data_, room_);
#endif
        free(data_);
    }
    unsigned char* fresh() {
        memset(data_, 0xff, bytes_);
        return data_;
    }

private:
    size_t bytes_, room_;
    unsigned char* data_;
};

// The order blocks are begun in.
inline std::vector<uint64_t> block_order(uint64_t count, const Schedule& schedule) {
    std::vector<uint64_t> order(count);
    std::iota(order.begin(), order.end(), 0);
    if (schedule.order == Schedule::REVERSE) std::reverse(order.begin(), order.end());
    uint64_t state = (schedule.seed * 0x9E3779B97F4A7C15ull) | 1;
    if (schedule.order == Schedule::RANDOM)
        for (uint64_t i = count; i > 1; --i) std::swap(order[i - 1], order[draw(state) % i]);
    return order;
}

// Runs every block of a grid; what the first failing one says, or nothing.
inline std::string launch(const Kernel& kernel, dim3 grid, dim3 size, size_t shared_bytes, void** arguments) {
    const Schedule schedule = Schedule::from_environment();
    const std::vector<uint64_t> order = block_order(uint64_t(grid.x) * grid.y * grid.z, schedule);
    const unsigned workers = worker_count(order.size());
    std::atomic<size_t> next{0};
    std::mutex mutex;
    std::string error;
    // Dealt out beforehand where races are looked for, else first come, first served.
    const auto place = [&]([[maybe_unused]] unsigned worker, [[maybe_unused]] size_t turn) {
#if defined(__SANITIZE_THREAD__)
        return next.load() ? order.size() : worker + turn * workers;
#else
        return next.fetch_add(1);
#endif
    };
    const auto work = [&](unsigned worker) {
        static thread_local Block block;
        SharedMemory shared(shared_bytes);
        block.size = size;
        block.grid = grid;
        block.kernel = kernel.call;
        block.arguments = arguments;
        block.schedule = schedule;
        block.shared_bytes = shared_bytes;
        size_t turn = 0;
        for (size_t i; (i = place(worker, turn++)) < order.size();) {
            const uint64_t number = order[i];
            block.index = {unsigned(number % grid.x), unsigned(number / grid.x % grid.y), unsigned(number / grid.x / grid.y)};
            block.random = ((schedule.seed + 1) * 0x9E3779B97F4A7C15ull + number * 0xD1B54A32D192ED03ull) | 1;
            block.shared = shared.fresh();
            run(block);
            if (block.error.empty()) continue;
            std::lock_guard<std::mutex> guard(mutex);
            if (error.empty()) error = std::string(kernel.name) + ": " + block.error;
            next = order.size();
        }
    };
    std::vector<std::thread> others;
    for (unsigned i = 1; i < workers; ++i) others.emplace_back(work, i);
    work(0);
    for (std::thread& other : others) other.join();
    return error;
}

}  // namespace emulator
