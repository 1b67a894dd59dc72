//! Conjugate gradients for `(H + λI) x = g`, several right-hand sides in step, so that one pass over the training
//! factors serves them all.
//!
//! Hestenes and Stiefel 1952, preconditioned by the Kronecker form. Each right-hand side runs as if it were alone: its
//! own step lengths, its own last iteration.

use faer::Mat;

use super::block::Blocks;
use super::dense::{add_scaled, inner, norm, step};
use super::kronecker::Kronecker;
use super::objective::{Point, hessian_products};
use crate::error::Result;

/// When a solution is good enough.
#[derive(Clone, Copy)]
pub(super) struct Stop {
    /// `‖g − (H + λI) x‖ ≤ residual · ‖g‖`
    pub(super) residual: f64,
    pub(super) iterations: usize,
}

/// The damped Hessian and something like its inverse.
pub(super) struct System<'a> {
    pub(super) blocks: &'a Blocks<'a>,
    pub(super) point: Point<'a>,
    pub(super) damping: f64,
    pub(super) preconditioner: &'a Kronecker,
}

/// A right-hand side on its way.
struct Track {
    x: Mat<f64>,
    residual: Mat<f64>,
    direction: Mat<f64>,
    /// `rᵀ M⁻¹ r`
    energy: f64,
    goal: f64,
}

/// Solves for each of `gradients [E + 1, K]`; beside each solution, whether it was reached.
pub(super) fn solve(system: &System<'_>, gradients: Vec<Mat<f64>>, stop: Stop) -> Result<Vec<(Mat<f64>, bool)>> {
    let mut tracks: Vec<Track> =
        gradients.into_iter().map(|gradient| Track::new(system.preconditioner, gradient, stop.residual)).collect();
    for _ in 0..stop.iterations {
        let mut active: Vec<&mut Track> = tracks.iter_mut().filter(|track| !track.done()).collect();
        if active.is_empty() {
            break;
        }
        let directions: Vec<&Mat<f64>> = active.iter().map(|track| &track.direction).collect();
        let images = hessian_products(system.blocks, system.point, system.damping, &directions)?;
        active.iter_mut().zip(&images).for_each(|(track, image)| track.advance(system.preconditioner, image));
    }
    Ok(tracks.into_iter().map(|track| (track.done(), track.x)).map(|(done, x)| (x, done)).collect())
}

impl Track {
    fn new(preconditioner: &Kronecker, gradient: Mat<f64>, residual: f64) -> Self {
        let direction = preconditioner.solve(&gradient);
        Self {
            x: Mat::zeros(gradient.nrows(), gradient.ncols()),
            energy: inner(&gradient, &direction),
            goal: residual * norm(&gradient),
            residual: gradient,
            direction,
        }
    }

    fn done(&self) -> bool {
        norm(&self.residual) <= self.goal
    }

    /// One step, `image = (H + λI) direction`.
    fn advance(&mut self, preconditioner: &Kronecker, image: &Mat<f64>) {
        let length = self.energy / inner(&self.direction, image);
        add_scaled(&mut self.x, length, &self.direction);
        add_scaled(&mut self.residual, -length, image);
        let solved = preconditioner.solve(&self.residual);
        let energy = inner(&self.residual, &solved);
        self.direction = step(&solved, energy / self.energy, &self.direction);
        self.energy = energy;
    }
}
