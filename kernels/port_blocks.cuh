// port.cuh for kernels that say how many of their blocks are to run side by side on a multiprocessor: entries are KERNEL_BLOCKS(name, most threads, blocks,
// parameters…). Left to itself the compiler may save registers for blocks that will never be there, or take those of blocks that should.
#pragma once
#include "port.cuh"

#ifdef __CUDACC__
#define KERNEL_BLOCKS(name, most_threads, blocks, ...) extern "C" __global__ void __launch_bounds__(most_threads, blocks) name(__VA_ARGS__)
#else
#define KERNEL_BLOCKS(name, most_threads, blocks, ...) KERNEL(name, most_threads, __VA_ARGS__)
#endif
