//! Tests of projected gradients of the whole model, and of the rules over them.

mod command;
mod curvature;
mod device;
mod error_bars;
mod exact;
mod less;
mod moments;
mod projected;
mod traker;
