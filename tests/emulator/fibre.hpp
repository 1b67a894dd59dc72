// A fibre: a stack of its own and the registers it was left with. One plays one CUDA thread.
//
// The switch is by hand on x86-64 (a fifth of a microsecond less than ucontext's) and by ucontext elsewhere. The sanitizers are told
// of every switch, or they would take one fibre's stack for another's.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <sys/mman.h>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
// The scheduler itself runs on every fibre's stack; its own accesses are no part of the kernel.
#define UNCHECKED __attribute__((no_sanitize("thread")))
#else
#define UNCHECKED
#endif
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace emulator {

struct Fibre {
    void* stack_pointer = nullptr;
    char* stack = nullptr;
    size_t stack_bytes = 0;
#if !defined(__x86_64__)
    ucontext_t context;
#endif
#if defined(__SANITIZE_ADDRESS__)
    void* fake_stack = nullptr;
#endif
#if defined(__SANITIZE_THREAD__)
    void* shadow = nullptr;
#endif
};

#if defined(__x86_64__)
extern "C" void emulator_switch(void** save, void* load);
__asm__(R"(
.text
.weak emulator_switch
.type emulator_switch,@function
.p2align 4
emulator_switch:
  push %rbp
  push %rbx
  push %r12
  push %r13
  push %r14
  push %r15
  mov %rsp,(%rdi)
  mov %rsi,%rsp
  pop %r15
  pop %r14
  pop %r13
  pop %r12
  pop %rbx
  pop %rbp
  ret
.size emulator_switch,.-emulator_switch
)");
#endif

// Makes `fibre` begin with `entry`, which never returns, when it is next switched to.
UNCHECKED inline void prepare(Fibre& fibre, void (*entry)()) {
#if defined(__SANITIZE_ADDRESS__)
    __asan_unpoison_memory_region(fibre.stack, fibre.stack_bytes);
    fibre.fake_stack = nullptr;
#endif
#if defined(__x86_64__)
    void** top = reinterpret_cast<void**>(fibre.stack + fibre.stack_bytes);
    *--top = nullptr;  // the entry sees the stack as after a call
    *--top = reinterpret_cast<void*>(entry);
    for (int saved = 0; saved < 6; ++saved) *--top = nullptr;
    fibre.stack_pointer = top;
#else
    getcontext(&fibre.context);
    fibre.context.uc_stack.ss_sp = fibre.stack;
    fibre.context.uc_stack.ss_size = fibre.stack_bytes;
    fibre.context.uc_link = nullptr;
    makecontext(&fibre.context, entry, 0);
#endif
}

// Leaves `from` where it is and goes on in `to`. `last`: `from` will not be come back to.
UNCHECKED inline void switch_fibre(Fibre& from, Fibre& to, [[maybe_unused]] bool last) {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(last ? nullptr : &from.fake_stack, to.stack, to.stack_bytes);
#endif
#if defined(__SANITIZE_THREAD__)
    __tsan_switch_to_fiber(to.shadow, 1);  // no happens-before by the switch: only what the kernel says synchronises
#endif
#if defined(__x86_64__)
    emulator_switch(&from.stack_pointer, to.stack_pointer);
#else
    swapcontext(&from.context, &to.context);
#endif
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(from.fake_stack, nullptr, nullptr);
#endif
}

// Where a fibre's function begins: the counterpart of the end of `switch_fibre`.
inline void entered() {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr);
#endif
}

// Edges of the happens-before order, for the thread sanitizer.
inline void release(void* at [[maybe_unused]]) {
#if defined(__SANITIZE_THREAD__)
    __tsan_release(at);
#endif
}
inline void acquire(void* at [[maybe_unused]]) {
#if defined(__SANITIZE_THREAD__)
    __tsan_acquire(at);
#endif
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr size_t STACK_BYTES = 256 * 1024;
#else
constexpr size_t STACK_BYTES = 64 * 1024;
#endif
constexpr size_t GUARD_BYTES = 4096;

// Stacks for `count` fibres, each with a page below it that nobody may touch.
class Stacks {
public:
    Stacks() = default;
    Stacks(const Stacks&) = delete;
    ~Stacks() { drop(); }

    void reserve(size_t count) {
        if (count * STRIDE <= bytes_) return;
        drop();
        bytes_ = count * STRIDE;
        const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
        base_ = static_cast<char*>(mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, flags, -1, 0));
        if (base_ == MAP_FAILED) { perror("emulator: no room for stacks"); abort(); }
        for (size_t i = 0; i < count; ++i) mprotect(base_ + i * STRIDE, GUARD_BYTES, PROT_NONE);
    }
    void give(size_t i, Fibre& fibre) const {
        fibre.stack = base_ + i * STRIDE + GUARD_BYTES;
        fibre.stack_bytes = STACK_BYTES;
    }

private:
    static constexpr size_t STRIDE = STACK_BYTES + GUARD_BYTES;
    char* base_ = nullptr;
    size_t bytes_ = 0;

    void drop() {
        if (base_) munmap(base_, bytes_);
        base_ = nullptr;
    }
};

}  // namespace emulator
