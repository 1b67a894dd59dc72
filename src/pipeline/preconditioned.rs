//! Queries whose gradients of the whole network are preconditioned by its curvature before they are projected as the
//! store's were.
//!
//! A projection keeps inner products in the mean: `E⟨P u, P g_i⟩ = ⟨u, g_i⟩`, so with `u = (F + λI)⁻¹ g_q` what is
//! stored of g_i needs no change.

use faer::Mat;
use rayon::prelude::*;

use super::Settings;
use super::fisher::basis;
use super::runner::Runner;
use crate::error::{Error, Result};
use crate::factors::{self, FisherForm, LayerFisher, Target};
use crate::interrupt;
use crate::model::{GradientsOf, Model, Observer, Outputs, ProjectedLayer, Projection};
use crate::store::Fisher;
use crate::tokens::Encoding;

/// A model forth and back, each layer's gradient preconditioned and projected.
pub(super) struct Preconditioning<'a> {
    model: &'a Model,
    observer: Observer,
    layers: Vec<Layer>,
    width: usize,
    target: &'a (dyn Fn(Option<&Target>, &[f32]) -> Target + Sync),
}

/// `P_out Q_S` and `P_in Q_A`, between which a gradient in the eigenvectors is divided by `Λ + λ`.
struct Layer {
    /// `[k_out, outputs]`
    output: Mat<f64>,
    /// `[inputs, k_in]`
    input: Mat<f64>,
    /// `[outputs, inputs]`
    inverse: Vec<f64>,
    offset: usize,
}

impl<'a> Preconditioning<'a> {
    /// # Errors
    /// [`Error::Mismatch`] where the curvature is of another model; as [`Observer::new`].
    pub(super) fn new(
        model: &'a Model,
        fisher: &Fisher,
        (form, damping): (FisherForm, f64),
        projection: &Projection,
        target: &'a (dyn Fn(Option<&Target>, &[f32]) -> Target + Sync),
    ) -> Result<Self> {
        check_parameters(projection, "--hessian ekfac, kfac")?;
        let (expected, found) = (&fisher.settings.model_fingerprint, model.fingerprint());
        let mut observer = Observer::new(model)?;
        let same = observer.layers().iter().eq(fisher.layers.iter().map(|layer| &layer.layer));
        if expected != found || !same {
            return Err(Error::Mismatch(
                format!("the curvature was fitted to another model: its fingerprint is {expected}, this one's {found}"),
                Some("fit it again: `wherefore curvature`".into()),
            ));
        }
        let sizes: Vec<(usize, usize)> = observer.layers().iter().map(|layer| (layer.inputs, layer.outputs)).collect();
        let projected = projection.layers(&sizes)?;
        let layers: Vec<Layer> = fisher
            .layers
            .par_iter()
            .zip(&projected)
            .map(|(layer, projected)| Layer::new(layer, projected, form, damping))
            .collect();
        observer.set_bases(&fisher.layers.iter().map(basis).collect::<Vec<_>>())?;
        Ok(Self { model, observer, layers, width: projection.width(&sizes)?, target })
    }
}

/// Refuses gradients of more than linear layers.
///
/// # Errors
/// [`Error::Usage`], naming what was `asked`.
pub(super) fn check_parameters(projection: &Projection, asked: &str) -> Result<()> {
    match projection.parameters {
        GradientsOf::Linear => Ok(()),
        GradientsOf::All => {
            Err(Error::usage(format!("{asked}: is of linear layers, and the store's gradients are of all parameters"))
                .with_hint("use --hessian exact, layers or shampoo, or index without --parameters all"))
        }
    }
}

impl Layer {
    fn new(layer: &LayerFisher, projected: &ProjectedLayer, form: FisherForm, damping: f64) -> Self {
        let (inputs, outputs) = (layer.layer.inputs, layer.layer.outputs);
        let output = matrix(&projected.outputs, outputs) * matrix(&layer.output_vectors, outputs).transpose();
        let input = matrix(&layer.input_vectors, inputs) * matrix(&projected.inputs, inputs).transpose();
        Self { output, input, inverse: layer.inverse(form, damping), offset: projected.offset }
    }

    /// Of a gradient `[outputs, inputs]` in the eigenvectors, what goes to the layer's places of a projected one,
    /// `[k_out, k_in]`.
    fn project(&self, gradient: &[f32], out: &mut [f32]) {
        let inputs = self.input.nrows();
        let divided = |j: usize, k: usize| f64::from(gradient[j * inputs + k]) * self.inverse[j * inputs + k];
        let divided = Mat::from_fn(self.output.ncols(), inputs, divided);
        // The narrower product first.
        let projected = &self.output * divided * &self.input;
        let (rows, columns) = (projected.nrows(), projected.ncols());
        for row in 0..rows {
            let out = &mut out[self.offset + row * columns..][..columns];
            out.iter_mut().enumerate().for_each(|(column, out)| *out = projected[(row, column)] as f32);
        }
    }
}

/// Row-major numbers as a matrix of `columns`.
fn matrix(values: &[f32], columns: usize) -> Mat<f64> {
    Mat::from_fn(values.len() / columns, columns, |i, j| f64::from(values[i * columns + j]))
}

impl Runner for Preconditioning<'_> {
    fn model(&self) -> &Model {
        self.model
    }

    fn sizes(&self) -> Vec<(usize, usize)> {
        vec![(self.width, self.model.classes())]
    }

    fn reads_labels(&self) -> bool {
        true
    }

    fn run(&self, window: &[&Encoding], gold: &[Option<&Target>], settings: &Settings) -> Result<Vec<Outputs>> {
        let (problem, width) = (self.model.problem(), self.width);
        let seed = |row: usize, z: &[f32], gradient: &mut [f32]| {
            factors::output_gradient(problem, z, &(self.target)(gold[row], z), gradient);
        };
        let mut features = vec![0.0; window.len() * width];
        let mut take = |layer: usize, places: &[usize], gradients: &[f32]| {
            let layer = &self.layers[layer];
            let project = |gradient: &[f32]| {
                let mut out = vec![0.0; width];
                layer.project(gradient, &mut out);
                out
            };
            let parts: Vec<Vec<f32>> = gradients.par_chunks(layer.inverse.len()).map(project).collect();
            for (place, part) in places.iter().zip(parts) {
                features[place * width..][..width].iter_mut().zip(part).for_each(|(sum, x)| *sum += x);
            }
            Ok(())
        };
        let logits = self.observer.turned(window, settings.batch_tokens, &seed, &|| !interrupt::asked(), &mut take)?;
        Ok(vec![Outputs { features, logits }])
    }
}
