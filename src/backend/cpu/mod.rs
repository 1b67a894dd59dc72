//! The CPU: single-threaded arithmetic on vectors of sixteen f32, one micro-batch a worker.

// A kernel generic over vectors must be inlined into the function that has its instruction set switched on, and reads best with
// its indices spelled as in its formula.
#![allow(clippy::inline_always, clippy::needless_range_loop)]

mod dot;
pub mod simd;

pub use dot::{
    Tile, dot, dot_on, dot_tile, dot_tile_on, squared_distance, squared_distance_on, squared_distance_tile,
    squared_distance_tile_on,
};
pub use simd::Isa;
