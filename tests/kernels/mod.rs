//! Every operation of the backends against the reference, over odd shapes and extreme values.
//!
//! Two kinds of test. *Error*: against f64, at most twice the error of plain f32 loops, and rounding's floor. *Bits*:
//! the same for every instruction set of this machine, every batch, every tile.

mod activation;
mod attention;
mod backward;
mod dot;
mod embed;
mod follow;
mod gpu;
mod gpu_backward;
mod layer_norm;
mod linear;
mod outer;
mod pool;
mod reference;
pub(crate) mod support;
