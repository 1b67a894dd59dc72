//! Tests of projected gradients of the whole model, and of the rules over them.

mod command;
mod curvature;
mod device;
mod exact;
mod moments;
mod projected;
mod traker;
