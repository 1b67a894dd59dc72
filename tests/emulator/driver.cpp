// The part of the CUDA driver API that cudarc uses, as a `libcuda.so` whose device is the emulator.
//
// Stricter than a device, so that what works here by luck works there by right:
// * streams are lazy: work is done when something waits for it, so a missing wait reads what was there before; page-locked memory is read
//   and written at that moment, other memory when the call is made (as the driver's documentation allows); who only asks whether it is done hears no
// * device memory is NaN when it is allocated and freed, each allocation stands between walls whose damage fails the launch that did it
// * a device reads and writes its own memory alone: a copy or a launch on a stream of another is refused
// * an error of a launch is sticky, as on a device: every later call of its context says so
//
// Environment: EMULATOR_DEVICES (2), EMULATOR_CAPABILITY (90; one for each device, as in 90,80), EMULATOR_DRIVER (13000), EMULATOR_MEMORY (bytes, 8 GiB),
// EMULATOR_PTX (what kernels are compiled for, if not for the device's own capability: 80 where the driver compiled the PTX for 8.0),
// EMULATOR_FAULT=FUNCTION:N (the N-th call of a function fails; cuMemAllocAsync and cuMemHostAlloc for lack of memory, others as a lost device would), EMULATOR_LOG.
#include <chrono>
#include <cstdarg>
#include <deque>
#include <functional>
#include <memory>
#include <thread>

#include "emulator.hpp"

#define API extern "C" __attribute__((visibility("default"))) int
#define ENTER                                                  \
    std::lock_guard<std::recursive_mutex> guard(mutex);         \
    if (const int fault = injected(__func__)) return fault;

using namespace emulator;

namespace {

typedef unsigned long long Pointer;

enum Status {
    SUCCESS = 0,
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    NO_DEVICE = 100,
    INVALID_DEVICE = 101,
    INVALID_IMAGE = 200,
    NOT_FOUND = 500,
    NOT_READY = 600,
    LAUNCH_FAILED = 719,
    DEVICE_UNAVAILABLE = 46,
};

struct Stream;
struct Event { Stream* stream = nullptr; uint64_t number = 0; double time = 0; };
struct Task { std::function<std::string()> work; Stream* after = nullptr; uint64_t after_number = 0; Event* event = nullptr; };
struct Stream { std::deque<Task> tasks; uint64_t issued = 0, done = 0; bool busy = false; int device = 0, number = 0; };
struct Function { const Kernel* kernel; size_t shared_asked = SHARED_BYTES_UNASKED; };
struct Module { std::map<std::string, Function> functions; };
struct Context { int device; int references = 0; };
struct Allocation { char* walls; size_t bytes; int device; };

constexpr size_t WALL = 256;

constexpr long PATIENCE = 1000;  // how often one may ask whether something is done before it is done for being asked

long unready = 0;
std::recursive_mutex mutex;
std::map<Pointer, Allocation> allocations;
std::map<uintptr_t, size_t> page_locked;
std::map<int, size_t> used;
Stream null_stream;
std::vector<Stream*> streams;
std::string failure;  // what made the context fail, and stays
Status failure_code = SUCCESS;
thread_local Context* bound = nullptr;

long setting(const char* name, long otherwise) {
    const char* text = getenv(name);
    return text ? atol(text) : otherwise;
}

int device_count() { return int(setting("EMULATOR_DEVICES", 2)); }
size_t capacity() { return size_t(setting("EMULATOR_MEMORY", 8L << 30)); }

// That of the device's place in the list, the last for those beyond it.
int capability_of(int device) {
    const char* text = getenv("EMULATOR_CAPABILITY");
    if (!text) return 90;
    for (; device > 0 && strchr(text, ','); --device) text = strchr(text, ',') + 1;
    return atoi(text);
}

Context& context(int device) {
    static struct Contexts {
        Context of[16];
        Contexts() {
            for (int device = 0; device < 16; ++device) of[device].device = device;
        }
    } contexts;
    return contexts.of[device];
}

// To who reads along.
__attribute__((format(printf, 1, 2))) void say(const char* format, ...) {
    if (!getenv("EMULATOR_LOG")) return;
    char line[256];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    fprintf(stderr, "[emulator] %s\n", line);
}

// Whether this call is the one to fail.
int injected(const char* function) {
    if (getenv("EMULATOR_LOG")) fprintf(stderr, "[emulator] %s\n", function);
    const char* fault = getenv("EMULATOR_FAULT");
    const char* colon = fault ? strchr(fault, ':') : nullptr;
    if (!colon || std::string(fault, colon) != function) return SUCCESS;
    static std::map<std::string, long> calls;
    if (++calls[function] != atol(colon + 1)) return SUCCESS;
    if (!strcmp(function, "cuMemAllocAsync") || !strcmp(function, "cuMemHostAlloc")) return OUT_OF_MEMORY;
    failure = "injected fault";
    return failure_code = LAUNCH_FAILED;
}

Stream& stream_of(void* handle) { return handle > reinterpret_cast<void*>(2) ? *static_cast<Stream*>(handle) : null_stream; }

double now() { return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

void run_to(Stream& stream, uint64_t number) {
    while (stream.done < number && !stream.busy && !stream.tasks.empty()) {
        Task task = std::move(stream.tasks.front());
        stream.tasks.pop_front();
        stream.busy = true;
        if (task.after) run_to(*task.after, task.after_number);
        if (task.work && failure_code == SUCCESS) {
            failure = task.work();
            if (!failure.empty()) {
                failure_code = LAUNCH_FAILED;
                fprintf(stderr, "[emulator] %s\n", failure.c_str());
            }
        }
        if (task.event) task.event->time = now();
        stream.busy = false;
        ++stream.done;
    }
}

void run_all() {
    run_to(null_stream, null_stream.issued);
    for (Stream* stream : streams) run_to(*stream, stream->issued);
}

void issue(Stream& stream, Task task) {
    stream.tasks.push_back(std::move(task));
    ++stream.issued;
}
void issue(Stream& stream, std::function<std::string()> work) {
    Task task;
    task.work = std::move(work);
    issue(stream, std::move(task));
}

// The allocation an address lies in.
const Allocation* allocation_of(Pointer at, size_t bytes) {
    auto after = allocations.upper_bound(at);
    if (after == allocations.begin()) return nullptr;
    --after;
    return at + bytes <= after->first + after->second.bytes ? &after->second : nullptr;
}

// Whether memory is the stream's own device's.
bool on_device(Pointer at, size_t bytes, const Stream& stream) {
    const Allocation* allocation = allocation_of(at, bytes);
    return bytes == 0 || (allocation && allocation->device == stream.device);
}

bool is_page_locked(const void* at, size_t bytes) {
    auto after = page_locked.upper_bound(reinterpret_cast<uintptr_t>(at));
    if (after == page_locked.begin()) return false;
    --after;
    return reinterpret_cast<uintptr_t>(at) + bytes <= after->first + after->second;
}

size_t rounded(size_t bytes) { return (bytes + 255) / 256 * 256; }

// The walls before and after an allocation, the tail of its last 256 bytes included.
void build_walls(const Allocation& allocation) {
    memset(allocation.walls, 0xff, WALL + rounded(allocation.bytes) + WALL);
#if defined(__SANITIZE_ADDRESS__)
    __asan_poison_memory_region(allocation.walls, WALL);
    __asan_poison_memory_region(allocation.walls + WALL + allocation.bytes, rounded(allocation.bytes) - allocation.bytes + WALL);
#endif
}

bool walls_stand([[maybe_unused]] const Allocation& allocation) {
#if !defined(__SANITIZE_ADDRESS__)  // which watches them itself
    const auto whole = [](const char* from, const char* to) { return std::all_of(from, to, [](char c) { return c == char(0xff); }); };
    const char* end = allocation.walls + WALL + allocation.bytes;
    return whole(allocation.walls, allocation.walls + WALL) && whole(end, allocation.walls + WALL + rounded(allocation.bytes) + WALL);
#else
    return true;
#endif
}

int allocate(Pointer* pointer, size_t bytes) {
    if (failure_code) return failure_code;
    if (!bound) return INVALID_VALUE;
    if (used[bound->device] + bytes > capacity()) return OUT_OF_MEMORY;
    Allocation allocation{static_cast<char*>(aligned_alloc(256, WALL + rounded(bytes) + WALL)), bytes, bound->device};
    if (!allocation.walls) return OUT_OF_MEMORY;
    build_walls(allocation);
    *pointer = reinterpret_cast<Pointer>(allocation.walls + WALL);
    allocations[*pointer] = allocation;
    used[bound->device] += bytes;
    return SUCCESS;
}

void release_memory(Pointer pointer) {
    const Allocation allocation = allocations.at(pointer);
#if defined(__SANITIZE_ADDRESS__)
    __asan_unpoison_memory_region(allocation.walls, WALL + rounded(allocation.bytes) + WALL);
#endif
    memset(allocation.walls, 0xff, WALL + rounded(allocation.bytes) + WALL);
    used[allocation.device] -= allocation.bytes;
    allocations.erase(pointer);
    free(allocation.walls);
}

// What is wrong with an argument that is an address or a tensor map; empty where nothing is.
std::string foreign(const void* argument, size_t bytes, const Stream& stream) {
    TensorMapContent map{};
    Pointer pointer;
    if (bytes == sizeof pointer) {
        memcpy(&pointer, argument, sizeof pointer);
        const Allocation* allocation = allocation_of(pointer, 1);
        return allocation && allocation->device != stream.device ? "memory of another device" : "";
    }
    if (bytes != 128) return "";
    memcpy(&map, argument, sizeof map);
    if (map.magic != TENSOR_MAP_MAGIC) return "no tensor map";
    const Allocation* allocation = allocation_of(map.address, map.bytes());
    if (!allocation) return "a tensor map that reaches beyond its buffer";
    return allocation->device != stream.device ? "a tensor map of another device's memory" : "";
}

// Runs a grid and looks whether it wrote where it must not.
std::string run_grid(const Kernel& kernel, dim3 grid, dim3 block, size_t shared_bytes, void** arguments) {
    std::string error = launch(kernel, grid, block, shared_bytes, arguments);
    for (const auto& [pointer, allocation] : allocations)
        if (error.empty() && !walls_stand(allocation)) error = std::string(kernel.name) + ": wrote outside a buffer of " + std::to_string(allocation.bytes) + " bytes";
    return error;
}

}  // namespace

// ---- the driver, its devices and contexts

API cuInit(unsigned) {
    ENTER
    return device_count() ? SUCCESS : NO_DEVICE;
}
API cuDriverGetVersion(int* version) {
    *version = int(setting("EMULATOR_DRIVER", 13000));
    return SUCCESS;
}
API cuDeviceGetCount(int* count) {
    *count = device_count();
    return SUCCESS;
}
API cuDeviceGet(int* device, int ordinal) {
    *device = ordinal;
    return ordinal >= 0 && ordinal < device_count() ? SUCCESS : INVALID_DEVICE;
}
API cuDeviceGetName(char* name, int room, int) {
    snprintf(name, size_t(room), "emulated device");
    return SUCCESS;
}
API cuDeviceTotalMem_v2(size_t* bytes, int) {
    *bytes = capacity();
    return SUCCESS;
}
API cuDeviceGetAttribute(int* value, int attribute, int device) {
    const int capability = capability_of(device);
    const std::map<int, int> fixed = {
        {1, 1024},                     // MAX_THREADS_PER_BLOCK
        {8, 48 * 1024},                // MAX_SHARED_MEMORY_PER_BLOCK
        {10, 32},                      // WARP_SIZE
        {16, 4},                       // MULTIPROCESSOR_COUNT
        {39, 2048},                    // MAX_THREADS_PER_MULTIPROCESSOR
        {97, int(capability == 90 ? SHARED_BYTES_LIMIT_90 : SHARED_BYTES_LIMIT)}, // MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
        {115, 1},                      // MEMORY_POOLS_SUPPORTED
    };
    const auto known = fixed.find(attribute);
    *value = attribute == 75 ? capability / 10 : attribute == 76 ? capability % 10 : known == fixed.end() ? 0 : known->second;
    return SUCCESS;
}
API cuDevicePrimaryCtxRetain(void** handle, int device) {
    ENTER
    *handle = &context(device);
    ++context(device).references;
    return SUCCESS;
}
API cuDevicePrimaryCtxRelease_v2(int device) {
    ENTER
    --context(device).references;
    return SUCCESS;
}
API cuCtxSetCurrent(void* handle) {
    bound = static_cast<Context*>(handle);
    return SUCCESS;
}
API cuCtxGetCurrent(void** handle) {
    *handle = bound;
    return SUCCESS;
}
API cuCtxSynchronize() {
    ENTER
    run_all();
    return failure_code;
}
API cuGetErrorName(int status, const char** name) {
    static const std::map<int, const char*> names = {
        {SUCCESS, "CUDA_SUCCESS"},           {INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE"}, {OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY"},
        {NO_DEVICE, "CUDA_ERROR_NO_DEVICE"}, {INVALID_IMAGE, "CUDA_ERROR_INVALID_IMAGE"}, {INVALID_DEVICE, "CUDA_ERROR_INVALID_DEVICE"},
        {NOT_FOUND, "CUDA_ERROR_NOT_FOUND"}, {NOT_READY, "CUDA_ERROR_NOT_READY"},         {LAUNCH_FAILED, "CUDA_ERROR_LAUNCH_FAILED"},
    };
    const auto known = names.find(status);
    *name = known == names.end() ? "CUDA_ERROR_UNKNOWN" : known->second;
    return SUCCESS;
}
API cuGetErrorString(int status, const char** text) {
    const std::lock_guard<std::recursive_mutex> guard(mutex);
    if (status == LAUNCH_FAILED) *text = failure.c_str();
    else cuGetErrorName(status, text);
    return SUCCESS;
}

// ---- memory

API cuMemAlloc_v2(Pointer* pointer, size_t bytes) {
    ENTER
    return bytes ? allocate(pointer, bytes) : INVALID_VALUE;
}
API cuMemAllocAsync(Pointer* pointer, size_t bytes, void*) {
    ENTER
    return bytes ? allocate(pointer, bytes) : INVALID_VALUE;
}
API cuMemFree_v2(Pointer pointer) {
    ENTER
    run_all();
    if (!allocations.count(pointer)) return INVALID_VALUE;
    release_memory(pointer);
    return SUCCESS;
}
API cuMemFreeAsync(Pointer pointer, void* stream) {
    ENTER
    if (!allocations.count(pointer)) return INVALID_VALUE;
    issue(stream_of(stream), [pointer] {
        release_memory(pointer);
        return std::string();
    });
    return SUCCESS;
}
API cuMemGetInfo_v2(size_t* free, size_t* total) {
    ENTER
    *total = capacity();
    *free = capacity() - used[bound ? bound->device : 0];
    return SUCCESS;
}
// One pool a device. What is freed is free at once, so nothing is kept of it.
API cuDeviceGetDefaultMemPool(void** handle, int device) {
    *handle = &context(device);
    return SUCCESS;
}
API cuMemPoolSetAttribute(void*, int, void*) { return SUCCESS; }
API cuMemPoolGetAttribute(void* handle, int attribute, void* value) {
    ENTER
    if (attribute < 5 || attribute > 8) return INVALID_VALUE;  // reserved and used, now and at most
    const uint64_t bytes = used[static_cast<Context*>(handle)->device];
    memcpy(value, &bytes, sizeof bytes);
    return SUCCESS;
}
API cuMemHostAlloc(void** pointer, size_t bytes, unsigned) {
    ENTER
    *pointer = aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
    page_locked[reinterpret_cast<uintptr_t>(*pointer)] = bytes;
    return *pointer ? SUCCESS : OUT_OF_MEMORY;
}
API cuMemFreeHost(void* pointer) {
    ENTER
    run_all();
    if (!page_locked.erase(reinterpret_cast<uintptr_t>(pointer))) return INVALID_VALUE;
    free(pointer);
    return SUCCESS;
}
API cuMemsetD8Async(Pointer to, unsigned char value, size_t bytes, void* stream) {
    ENTER
    if (failure_code) return failure_code;
    if (!on_device(to, bytes, stream_of(stream))) return INVALID_VALUE;
    issue(stream_of(stream), [=] {
        memset(reinterpret_cast<void*>(to), value, bytes);
        return std::string();
    });
    return SUCCESS;
}
API cuMemcpyHtoDAsync_v2(Pointer to, const void* from, size_t bytes, void* stream) {
    ENTER
    say("sent %zu bytes down stream %d", bytes, stream_of(stream).number);
    if (failure_code) return failure_code;
    if (!on_device(to, bytes, stream_of(stream))) return INVALID_VALUE;
    std::shared_ptr<std::vector<char>> taken;
    if (!is_page_locked(from, bytes)) taken = std::make_shared<std::vector<char>>(static_cast<const char*>(from), static_cast<const char*>(from) + bytes);
    issue(stream_of(stream), [=] {
        memcpy(reinterpret_cast<void*>(to), taken ? taken->data() : from, bytes);
        return std::string();
    });
    return SUCCESS;
}
API cuMemcpyDtoHAsync_v2(void* to, Pointer from, size_t bytes, void* stream) {
    ENTER
    if (failure_code) return failure_code;
    if (!on_device(from, bytes, stream_of(stream))) return INVALID_VALUE;
    issue(stream_of(stream), [=] {
        memcpy(to, reinterpret_cast<void*>(from), bytes);
        return std::string();
    });
    if (!is_page_locked(to, bytes)) run_to(stream_of(stream), stream_of(stream).issued);
    return failure_code;
}
API cuMemcpyDtoDAsync_v2(Pointer to, Pointer from, size_t bytes, void* stream) {
    ENTER
    if (failure_code) return failure_code;
    if (!on_device(to, bytes, stream_of(stream)) || !on_device(from, bytes, stream_of(stream))) return INVALID_VALUE;
    issue(stream_of(stream), [=] {
        memmove(reinterpret_cast<void*>(to), reinterpret_cast<void*>(from), bytes);
        return std::string();
    });
    return SUCCESS;
}

// ---- streams and events

API cuStreamCreate(void** handle, unsigned) {
    ENTER
    if (!bound) return INVALID_VALUE;
    streams.push_back(new Stream);
    streams.back()->device = bound->device;
    streams.back()->number = int(streams.size());
    *handle = streams.back();
    return SUCCESS;
}
API cuStreamDestroy_v2(void* handle) {
    ENTER
    run_to(stream_of(handle), stream_of(handle).issued);
    return SUCCESS;
}
API cuStreamSynchronize(void* handle) {
    ENTER
    run_to(stream_of(handle), stream_of(handle).issued);
    return failure_code;
}
API cuStreamWaitEvent(void* handle, void* event, unsigned) {
    ENTER
    const auto* recorded = static_cast<Event*>(event);
    if (!recorded->stream || recorded->stream == &stream_of(handle)) return SUCCESS;
    Task task;
    task.after = recorded->stream;
    task.after_number = recorded->number;
    issue(stream_of(handle), std::move(task));
    return SUCCESS;
}
API cuEventCreate(void** handle, unsigned) {
    ENTER
    *handle = new Event;
    return SUCCESS;
}
API cuEventDestroy_v2(void*) { return SUCCESS; }  // kept: tasks under way may name it
API cuEventRecord(void* handle, void* stream) {
    ENTER
    auto* event = static_cast<Event*>(handle);
    Task task;
    task.event = event;
    issue(stream_of(stream), std::move(task));
    event->stream = &stream_of(stream);
    event->number = event->stream->issued;
    return SUCCESS;
}
API cuEventQuery(void* handle) {
    ENTER
    const auto* event = static_cast<Event*>(handle);
    if (!event->stream || event->stream->done >= event->number) return SUCCESS;
    if (++unready % PATIENCE == 0) run_to(*event->stream, event->number);  // for those who ask until it is
    return NOT_READY;
}
API cuEventSynchronize(void* handle) {
    ENTER
    const auto* event = static_cast<Event*>(handle);
    if (event->stream) run_to(*event->stream, event->number);
    return failure_code;
}
API cuEventElapsedTime_v2(float* milliseconds, void* from, void* to) {
    ENTER
    *milliseconds = float(static_cast<Event*>(to)->time - static_cast<Event*>(from)->time);
    return SUCCESS;
}
API cuEventElapsedTime(float* milliseconds, void* from, void* to) { return cuEventElapsedTime_v2(milliseconds, from, to); }

// ---- modules and launches

// Takes a fatbin, a cubin or the tests' own placeholder, and knows every kernel of this library whichever it was.
API cuModuleLoadData(void** handle, const void* image) {
    ENTER
    if (failure_code) return failure_code;
    uint32_t magic;
    memcpy(&magic, image, 4);
    if (magic != 0xBA55ED50u && magic != 0x464c457fu && magic != 0x554c4d45u) return INVALID_IMAGE;  // fatbin, ELF, "EMLU"
    auto* module = new Module;
    for (const auto& [name, kernel] : kernels()) module->functions[name].kernel = &kernel;
    *handle = module;
    return SUCCESS;
}
API cuModuleUnload(void* handle) {
    ENTER
    run_all();
    delete static_cast<Module*>(handle);
    return SUCCESS;
}
API cuModuleGetFunction(void** handle, void* module, const char* name) {
    ENTER
    auto& functions = static_cast<Module*>(module)->functions;
    const auto found = functions.find(name);
    if (found == functions.end()) return NOT_FOUND;
    const int capability = found->second.kernel->capability;
    if (capability && (!bound || capability != capability_of(bound->device))) return NOT_FOUND;
    *handle = &found->second;
    return SUCCESS;
}
// Takes its time, in which other threads come to launch what has not been granted yet.
API cuFuncSetAttribute(void* handle, int attribute, int value) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    ENTER
    if (attribute != 8) return INVALID_VALUE;  // MAX_DYNAMIC_SHARED_SIZE_BYTES
    auto* function = static_cast<Function*>(handle);
    if (value < 0 || size_t(value) > function->kernel->shared_limit()) return INVALID_VALUE;
    function->shared_asked = size_t(value);
    return SUCCESS;
}
// The virtual architecture a kernel is compiled for. Those below 9.0 have no instruction to wait for the kernels before them.
int ptx_version() { return int(setting("EMULATOR_PTX", bound ? capability_of(bound->device) : 0)); }
API cuFuncGetAttribute(int* value, int attribute, void* handle) {
    const auto* function = static_cast<Function*>(handle);
    *value = attribute == 0 ? int(function->kernel->most_threads) : attribute == 5 ? ptx_version() : attribute == 8 ? int(function->shared_asked) : 0;
    return SUCCESS;
}
API cuFuncGetParamInfo(void* handle, size_t index, size_t* offset, size_t* bytes) {
    const Kernel& kernel = *static_cast<Function*>(handle)->kernel;
    const auto &sizes = kernel.argument_bytes, &alignments = kernel.argument_alignments;
    if (index >= sizes.size()) return INVALID_VALUE;
    size_t at = 0;
    for (size_t i = 0; i <= index; ++i) {
        at = (at + alignments[i] - 1) / alignments[i] * alignments[i];
        if (i < index) at += sizes[i];
    }
    *offset = at;
    if (bytes) *bytes = sizes[index];
    return SUCCESS;
}
// As the driver's header has them.
struct LaunchAttribute {
    int id;
    char pad[4];
    union { char room[64]; int allowed; } value;
};
struct LaunchConfig {
    unsigned gx, gy, gz, bx, by, bz, shared_bytes;
    void* stream;
    const LaunchAttribute* attributes;
    unsigned attribute_count;
};
constexpr int PROGRAMMATIC_STREAM_SERIALIZATION = 6;

// Arguments are copied when the call is made, as the driver does.
API cuLaunchKernelEx(const LaunchConfig* config, void* handle, void** arguments, void**) {
    ENTER
    if (failure_code) return failure_code;
    const auto* function = static_cast<Function*>(handle);
    const Kernel* kernel = function->kernel;
    const dim3 grid{config->gx, config->gy, config->gz}, block{config->bx, config->by, config->bz};
    const unsigned shared_bytes = config->shared_bytes;
    void* const stream = config->stream;
    bool early = false;
    for (unsigned i = 0; i < config->attribute_count; ++i) {
        const LaunchAttribute& attribute = config->attributes[i];
        if (attribute.id != PROGRAMMATIC_STREAM_SERIALIZATION) return INVALID_VALUE;
        early = attribute.value.allowed != 0;
    }
    say("launched %s down stream %d%s", kernel->name, stream_of(stream).number, early ? " early" : "");
    if (early && (!bound || capability_of(bound->device) < 90 || ptx_version() < 90)) {
        fprintf(stderr, "[emulator] %s: begun early, and compiled for what cannot wait\n", kernel->name);
        return INVALID_VALUE;
    }
    const std::string wrong = misfit(*kernel, grid, block, shared_bytes, function->shared_asked);
    if (!wrong.empty()) {
        fprintf(stderr, "[emulator] %s: %s\n", kernel->name, wrong.c_str());
        return INVALID_VALUE;
    }
    for (size_t i = 0; i < kernel->argument_bytes.size(); ++i) {
        const std::string wrong = foreign(arguments[i], kernel->argument_bytes[i], stream_of(stream));
        if (wrong.empty()) continue;
        fprintf(stderr, "[emulator] %s: argument %zu is %s\n", kernel->name, i, wrong.c_str());
        return INVALID_VALUE;
    }
    struct alignas(128) Copied { char bytes[128]; };
    auto copies = std::make_shared<std::vector<Copied>>(kernel->argument_bytes.size());
    for (size_t i = 0; i < copies->size(); ++i) memcpy((*copies)[i].bytes, arguments[i], kernel->argument_bytes[i]);
    issue(stream_of(stream), [=] {
        std::vector<void*> addresses;
        for (auto& copy : *copies) addresses.push_back(copy.bytes);
        return run_grid(*kernel, grid, block, shared_bytes, addresses.data());
    });
    return SUCCESS;
}

// ---- tensor maps

// As strict as the driver's manual has it. Matrices of 16-bit and 32-bit numbers, filled up with zeros: what no kernel uses is not played.
API cuTensorMapEncodeTiled(void* map, int type, unsigned rank, void* address, const uint64_t* dimensions, const uint64_t* strides, const uint32_t* box,
                           const uint32_t* element_strides, int interleave, int swizzle, int promotion, int fill) {
    ENTER
    static const std::map<int, uint32_t> element_bytes = {{1, 2}, {2, 4}, {6, 2}, {7, 4}, {9, 2}};
    const auto wrong = [&]() -> const char* {
        if (reinterpret_cast<uintptr_t>(map) % 64) return "a map at no multiple of 64 bytes";
        if (rank != 2 || interleave != 0 || fill != 0 || !element_bytes.count(type)) return "a kind of map that is not emulated";
        if (reinterpret_cast<uintptr_t>(address) % 16) return "a matrix at no multiple of 16 bytes";
        if (swizzle < 0 || swizzle > 3 || promotion < 0 || promotion > 3) return "no swizzle or promotion";
        for (unsigned i = 0; i < 2; ++i) {
            if (dimensions[i] == 0 || dimensions[i] > 1ull << 32) return "a dimension of 0 or beyond 2^32";
            if (box[i] == 0 || box[i] > 256) return "a box of 0 or beyond 256 numbers";
            if (element_strides[i] == 0 || element_strides[i] > 8) return "an element stride of 0 or beyond 8";
            if (element_strides[i] != 1) return "an element stride that is not emulated";
        }
        const uint32_t bytes = element_bytes.at(type);
        if (strides[0] % 16 || strides[0] >= 1ull << 40) return "rows at no multiples of 16 bytes";
        if (strides[0] < dimensions[0] * bytes) return "rows that overlap";
        if (box[0] * bytes % 16) return "a box's row of no multiple of 16 bytes";
        if (swizzle && box[0] * bytes > 16u << swizzle) return "a box's row beyond the swizzle's span";
        return nullptr;
    }();
    if (wrong) {
        fprintf(stderr, "[emulator] cuTensorMapEncodeTiled: %s\n", wrong);
        return INVALID_VALUE;
    }
    const TensorMapContent content{TENSOR_MAP_MAGIC,   reinterpret_cast<Pointer>(address), {dimensions[0], dimensions[1]}, strides[0],
                                   {box[0], box[1]}, element_bytes.at(type),             swizzle ? 16u << swizzle : 0};
    memset(map, 0, 128);
    memcpy(map, &content, sizeof content);
    return SUCCESS;
}
