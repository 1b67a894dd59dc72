// port.cuh for kernels whose blocks are a multiprocessor's only ones: entries are KERNEL_WIDE, as KERNEL. Left to itself the compiler may save registers for
// blocks beside them that will never be there.
#pragma once
#include "port.cuh"

#ifdef __CUDACC__
#define KERNEL_WIDE(name, most_threads, ...) extern "C" __global__ void __launch_bounds__(most_threads, 1) name(__VA_ARGS__)
#else
#define KERNEL_WIDE KERNEL
#endif
