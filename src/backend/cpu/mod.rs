//! The CPU: single-threaded arithmetic on vectors of sixteen f32, one micro-batch a worker.
