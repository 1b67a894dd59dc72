//! The gradient of what is asked about a sequence, at its logits: K numbers, computed in f64.

use crate::backend::Objective;

/// `dz [B, classes]` from `z [B, classes]`.
pub(super) fn gradient(dz: &mut [f32], z: &[f32], objectives: &[Objective], classes: usize) {
    let rows = dz.chunks_exact_mut(classes.max(1)).zip(z.chunks_exact(classes.max(1)));
    for ((dz, z), objective) in rows.zip(objectives) {
        let z: Vec<f64> = z.iter().map(|&z| f64::from(z)).collect();
        for (dz, slope) in dz.iter_mut().zip(objective.gradient(&z)) {
            *dz = slope as f32;
        }
    }
}
