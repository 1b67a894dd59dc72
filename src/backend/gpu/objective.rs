//! Launches `kernels/objective.cu`.

use super::batch::{Batch, Part};
use super::convert::stored_as;
use super::device::{Argument, Device, Shape};
use super::tensor::{Number, Tensor};
use crate::backend::Objective;
use crate::error::Result;

pub(super) const NAMES: [&str; 3] = ["objective_f32", "objective_f16", "objective_bf16"];

/// Sequences of a block, one a warp.
const SEQUENCES: usize = 4;
/// What f16 gradients begin at, the largest of each record's: 2¹⁰ below overflow, and 2³⁰ above what f16 cannot tell
/// from 0.
const SEED: f32 = 64.0;

/// `dz [B, classes]` of each sequence's objective at `z [B, classes]`, and the scale it was multiplied by to the batch.
pub(super) fn gradient(
    device: &Device,
    dz: &mut Tensor,
    z: &Tensor,
    objectives: &[Objective],
    batch: &Batch,
    classes: usize,
) -> Result<()> {
    let sequences = objectives.len();
    assert!(sequences * classes <= dz.len.min(z.len), "a buffer of fewer rows");
    assert_eq!(sequences, batch.host.sequences(), "an objective for each sequence");
    if sequences * classes == 0 {
        return Ok(());
    }
    let z = stored_as(device, z, dz.number)?;
    let words: Vec<u32> = objectives.iter().flat_map(|objective| words(objective, classes)).collect();
    let words = device.upload(Number::F32, bytemuck::cast_slice(&words))?;
    let seed = if dz.number == Number::F16 { SEED } else { 0.0 };
    let arguments = [
        device.address(dz, 0),
        device.address(&z, 0),
        device.address(&words, 0),
        batch.part(device, Part::Scales),
        Argument::Float(seed),
        sequences.into(),
        classes.into(),
    ];
    let shape = Shape { grid: [sequences.div_ceil(SEQUENCES), 1], threads: SEQUENCES * 32, shared_bytes: 0 };
    device.launch(dz.number.pick(NAMES), shape, &arguments)
}

/// Kind, class and the class it is compared with, as the kernel counts them.
fn words(objective: &Objective, classes: usize) -> [u32; 3] {
    let (kind, target, against) = match *objective {
        Objective::Softmax(c) => (0, c, c),
        Objective::Sigmoid(c) => (1, c, c),
        Objective::Logit(c) => (2, c, c),
        Objective::Difference(c, a) => (3, c, a),
        Objective::Sum(_) => unreachable!("sums are of heads whose gradients start on the host"),
    };
    assert!(target < classes && against < classes, "a class the model does not have");
    [kind, target as u32, against as u32]
}
