//! How the gradients of linear layers become short: both sides projected, by matrices that are functions of the seed
//! alone.
//!
//! The gradient of a linear layer's `[W b]` is `Σ_t δ_t [a_t; 1]ᵀ` over a record's tokens; what is kept of it is
//!
//! ```text
//! G = Σ_t (P_out δ_t)(P_in [a_t; 1])ᵀ        [k_out, k_in]
//! ```
//!
//! with P_out `[k_out, outputs]` and P_in `[k_in, inputs + 1]` of independent entries of mean 0 and variance 1/k, so
//! that E⟨G, G'⟩ is the product of the whole gradients (Choe et al. 2024, LoGra); or sparse ones, one entry a column
//! ([`Sketch`]), whose products vary no more and cost a k-th. A side that has no more dimensions than it is given is
//! kept as it is. What is no linear layer has such a form too, and is projected where that is asked for
//! ([`GradientsOf::All`]). Nothing is stored: an entry is a draw whose counter is its place (Philox), made when a model
//! is got ready.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::backend::cpu::dot;
use crate::backend::training::Sketch;
use crate::error::{Error, Result};
use crate::random::{Purpose, Stream, below, normal};

/// What a projection's entries are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProjectionKind {
    /// ±1/√k, each as likely.
    #[default]
    Rademacher,
    /// Normal, of variance 1/k.
    Gaussian,
    /// A sparse one: each coordinate goes to one of the k, with a sign ([`Sketch`]).
    Sjlt,
    /// None at all: the gradients themselves, for small models.
    Identity,
}

/// Which parameters' gradients are taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GradientsOf {
    /// The weights and biases of linear layers.
    #[default]
    Linear,
    /// Those, the normalisations' and the embedding tables'.
    All,
}

impl GradientsOf {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "what serde hands over")]
    fn is_linear(&self) -> bool {
        *self == Self::Linear
    }
}

/// How a model's gradients are projected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Projection {
    /// What entries are.
    pub kind: ProjectionKind,
    /// Numbers kept of a record, over all layers; not read by [`ProjectionKind::Identity`].
    pub dimension: usize,
    /// Whether they are of each layer, and not over all.
    #[serde(default, skip_serializing_if = "is_false")]
    pub per_layer: bool,
    /// Of every draw.
    pub seed: u64,
    /// Whose gradients.
    #[serde(default, skip_serializing_if = "GradientsOf::is_linear")]
    pub parameters: GradientsOf,
}

/// Numbers kept of a record where the user has not said.
pub const DEFAULT_DIMENSION: usize = 4096;

impl Default for Projection {
    fn default() -> Self {
        Self {
            kind: ProjectionKind::default(),
            dimension: DEFAULT_DIMENSION,
            per_layer: false,
            seed: 0,
            parameters: GradientsOf::default(),
        }
    }
}

/// Both projections of a linear layer, as matrices, and the first place of what they leave among a record's numbers.
#[derive(Clone, Debug)]
pub struct ProjectedLayer {
    /// P_in `[k_in, inputs]`, the bias's 1 among the inputs.
    pub inputs: Vec<f32>,
    /// P_out `[k_out, outputs]`
    pub outputs: Vec<f32>,
    /// The place of the first of `[k_out, k_in]`.
    pub offset: usize,
}

/// What a projected gradient keeps of one layer: a matrix of so many rows and columns, row-major, one layer's after the
/// other's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeptLayer {
    /// Its weight's name in a checkpoint, without `.weight`; of queries, keys and values, the first's.
    pub name: String,
    /// Rows: of what the layer puts out.
    pub outputs: usize,
    /// Columns: of what it reads, the bias's 1 included.
    pub inputs: usize,
    /// Whether those rows are what the layer puts out itself, with no projection.
    #[serde(default, skip_serializing_if = "is_false")]
    pub outputs_whole: bool,
    /// The same of the columns.
    #[serde(default, skip_serializing_if = "is_false")]
    pub inputs_whole: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "what serde hands over")]
fn is_false(said: &bool) -> bool {
    !said
}

impl KeptLayer {
    /// How many numbers those are.
    #[expect(clippy::len_without_is_empty, reason = "no layer is left without a number")]
    pub fn len(&self) -> usize {
        self.outputs * self.inputs
    }
}

/// One layer's part of a projected gradient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot {
    /// The layer's number: what its draws are keyed by.
    pub(super) number: u32,
    pub(super) inputs: Side,
    pub(super) outputs: Side,
    /// Its first place in the record's numbers.
    pub(super) offset: usize,
}

/// A side's projection.
#[derive(Clone, Debug)]
pub(super) enum Matrix<'a> {
    /// `[kept, whole]` row-major.
    Dense(Cow<'a, [f32]>),
    Sparse(Sketch),
}

impl Matrix<'_> {
    /// Numbers kept, of `whole`.
    pub(super) fn kept(&self, whole: usize) -> usize {
        match self {
            Self::Dense(matrix) => matrix.len() / whole,
            Self::Sparse(sketch) => sketch.outputs(),
        }
    }

    /// `[kept, whole]` row-major.
    fn into_dense(self) -> Vec<f32> {
        match self {
            Self::Dense(matrix) => matrix.into_owned(),
            Self::Sparse(sketch) => sketch.to_matrix(),
        }
    }

    /// `out [rows, kept] = P x` of the first `whole` numbers of rows of `x [rows, stride]`.
    pub(super) fn apply(&self, out: &mut [f32], x: &[f32], (whole, stride): (usize, usize)) {
        match self {
            Self::Dense(matrix) => {
                let kept = matrix.len() / whole;
                for (out, x) in out.chunks_exact_mut(kept).zip(x.chunks(stride)) {
                    let rows = matrix.chunks_exact(whole);
                    out.iter_mut().zip(rows).for_each(|(out, row)| *out = dot(row, &x[..whole]));
                }
            }
            Self::Sparse(sketch) => sketch.apply(out, x, stride),
        }
    }

    /// Its transpose `[whole, kept]`, row-major.
    pub(super) fn turned(&self, whole: usize) -> Vec<f32> {
        let kept = self.kept(whole);
        let mut turned = vec![0.0; whole * kept];
        for (i, row) in turned.chunks_exact_mut(kept).enumerate() {
            self.column(i, whole, |place, entry| row[place] = entry);
        }
        turned
    }

    /// Tells `each` the places of column `i` that are not zero, of `whole` columns, and what is there.
    pub(super) fn column(&self, i: usize, whole: usize, mut each: impl FnMut(usize, f32)) {
        match self {
            Self::Dense(matrix) => {
                matrix.iter().skip(i).step_by(whole).enumerate().for_each(|(place, &entry)| each(place, entry));
            }
            Self::Sparse(sketch) => {
                let (place, sign) = sketch.entry(i);
                each(place, sign);
            }
        }
    }
}

/// One side of a layer, from `whole` dimensions (the bias's 1 included) to `kept`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Side {
    pub(super) whole: usize,
    pub(super) kept: usize,
    which: u32,
}

impl Slot {
    pub(super) fn len(&self) -> usize {
        self.inputs.kept * self.outputs.kept
    }

    /// What is kept of the layer of this `name`.
    pub(super) fn kept(&self, name: String) -> KeptLayer {
        let Self { inputs, outputs, .. } = self;
        let whole = |side: &Side| side.kept == side.whole;
        KeptLayer {
            name,
            outputs: outputs.kept,
            inputs: inputs.kept,
            outputs_whole: whole(outputs),
            inputs_whole: whole(inputs),
        }
    }
}

impl Projection {
    /// A slot for each of the layers of so many inputs (the bias's 1 included) and outputs, and how many numbers a
    /// record has in all: the dimension asked for, or all there are where that is less; where it is each layer's, what
    /// those come to.
    pub(super) fn slots(&self, layers: &[(usize, usize)]) -> Result<(Vec<Slot>, usize)> {
        let whole: usize = layers.iter().map(|(inputs, outputs)| inputs * outputs).sum();
        let is_whole = self.kind == ProjectionKind::Identity;
        let width = if is_whole || self.per_layer { whole } else { self.dimension.min(whole) };
        if width < layers.len() {
            return Err(Error::usage(format!(
                "projection: expected at least a dimension for each of the {} layers, found {width}",
                layers.len()
            )));
        }
        let side = |whole, kept, which| Side { whole, kept, which };
        let mut slots: Vec<Slot> = (0..)
            .zip(layers)
            .map(|(number, &(inputs, outputs))| Slot {
                number,
                inputs: side(inputs, inputs, 0),
                outputs: side(outputs, outputs, 1),
                offset: 0,
            })
            .collect();
        if self.per_layer {
            let each = if is_whole { usize::MAX } else { self.dimension };
            for slot in &mut slots {
                slot.fit(each);
            }
        } else {
            // From the smallest on: what a layer has no use for is left to the larger ones.
            let mut order: Vec<usize> = (0..slots.len()).collect();
            order.sort_by_key(|&layer| slots[layer].len());
            let mut left = width;
            for (done, &layer) in order.iter().enumerate() {
                slots[layer].fit(left / (layers.len() - done));
                left -= slots[layer].len();
            }
        }
        let mut offset = 0;
        for slot in &mut slots {
            slot.offset = offset;
            offset += slot.len();
        }
        // What is each layer's is all used; of what is shared out the rest is padding.
        Ok((slots, if self.per_layer { offset } else { width }))
    }

    /// The matrices of layers of so many inputs (the bias's 1 included) and outputs.
    ///
    /// # Errors
    /// [`Error::Usage`] where the projection leaves a layer nothing.
    pub fn layers(&self, layers: &[(usize, usize)]) -> Result<Vec<ProjectedLayer>> {
        let matrices = |Slot { number, inputs, outputs, offset }| ProjectedLayer {
            inputs: self.matrix(number, inputs).into_dense(),
            outputs: self.matrix(number, outputs).into_dense(),
            offset,
        };
        Ok(self.slots(layers)?.0.into_iter().map(matrices).collect())
    }

    /// Numbers kept of a record of such layers.
    ///
    /// # Errors
    /// As [`Projection::layers`].
    pub fn width(&self, layers: &[(usize, usize)]) -> Result<usize> {
        Ok(self.slots(layers)?.1)
    }

    /// The projection of one side: the identity where all is kept.
    pub(super) fn matrix(&self, number: u32, side: Side) -> Matrix<'static> {
        match self.kind {
            ProjectionKind::Sjlt => self.on_host(number, side),
            ProjectionKind::Gaussian => self.dense(number, side, normal),
            ProjectionKind::Rademacher | ProjectionKind::Identity => {
                self.dense(number, side, |word| if word >> 31 == 0 { 1.0 } else { -1.0 })
            }
        }
    }

    /// The same, but that a side of which all is kept costs nothing on the host.
    pub(super) fn on_host(&self, number: u32, side: Side) -> Matrix<'static> {
        let Side { whole, kept, which } = side;
        if whole == kept {
            return Matrix::Sparse(Sketch::identity(whole));
        }
        if self.kind != ProjectionKind::Sjlt {
            return self.matrix(number, side);
        }
        let stream = Stream::new(self.seed, Purpose::Projection);
        Matrix::Sparse(Sketch::new(whole, kept, |run| {
            let [place, signs, ..] = stream.block([run as u32, 0, number, which]);
            (below(place, kept as u32) as usize, signs)
        }))
    }

    /// `[kept, whole]`, of draws over √kept.
    fn dense(&self, number: u32, side: Side, draw: impl Fn(u32) -> f32) -> Matrix<'static> {
        let Side { whole, kept, which } = side;
        let mut matrix = vec![0.0; whole * kept];
        if whole == kept {
            (0..whole).for_each(|i| matrix[i * whole + i] = 1.0);
            return Matrix::Dense(matrix.into());
        }
        let (stream, scale) = (Stream::new(self.seed, Purpose::Projection), 1.0 / (kept as f32).sqrt());
        for (row, entries) in matrix.chunks_exact_mut(whole).enumerate() {
            for (block, four) in entries.chunks_mut(4).enumerate() {
                let words = stream.block([block as u32, row as u32, number, which]);
                four.iter_mut().zip(words).for_each(|(entry, word)| *entry = scale * draw(word));
            }
        }
        Matrix::Dense(matrix.into())
    }
}

impl Slot {
    /// Keeps at most `budget` numbers, both sides as even as they go.
    fn fit(&mut self, budget: usize) {
        let (inputs, outputs) = (self.inputs.whole, self.outputs.whole);
        let even = budget.isqrt().max(1);
        self.outputs.kept = even.min(outputs);
        self.inputs.kept = (budget / self.outputs.kept).clamp(1, inputs);
        self.outputs.kept = (budget / self.inputs.kept).clamp(1, outputs);
    }
}

impl FromStr for GradientsOf {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "linear" => Ok(Self::Linear),
            "all" => Ok(Self::All),
            _ => Err(format!("expected linear or all, found {text:?}")),
        }
    }
}

impl fmt::Display for GradientsOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Linear => "linear",
            Self::All => "all",
        })
    }
}

impl FromStr for ProjectionKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "rademacher" => Ok(Self::Rademacher),
            "gaussian" => Ok(Self::Gaussian),
            "sjlt" => Ok(Self::Sjlt),
            "identity" => Ok(Self::Identity),
            _ => Err(format!("expected rademacher, gaussian, sjlt or identity, found {text:?}")),
        }
    }
}

impl fmt::Display for ProjectionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Rademacher => "rademacher",
            Self::Gaussian => "gaussian",
            Self::Sjlt => "sjlt",
            Self::Identity => "identity",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_layer_has_a_part_and_none_is_larger_than_its_gradient() {
        let layers = [(129, 384), (129, 128), (129, 512), (513, 128), (129, 128), (129, 2)];
        for dimension in [6, 7, 100, 1024, 4096, 1 << 20] {
            let projection = Projection { dimension, ..Projection::default() };
            let (slots, width) = projection.slots(&layers).unwrap();
            let used: usize = slots.iter().map(Slot::len).sum();
            assert!(used <= width && width <= dimension, "{dimension}: {used} of {width}");
            assert!(dimension < 100 || used * 10 >= width * 9, "{dimension}: only {used} of {width} are used");
            for (slot, &(inputs, outputs)) in slots.iter().zip(&layers) {
                assert!((1..=inputs).contains(&slot.inputs.kept) && (1..=outputs).contains(&slot.outputs.kept));
            }
        }
        assert!(Projection { dimension: 5, ..Projection::default() }.slots(&layers).is_err());
    }

    #[test]
    fn each_layer_has_what_it_is_given_where_it_is_each_layers() {
        let layers = [(129, 384), (513, 128), (9, 2)];
        let of = |dimension, kind| {
            let projection = Projection { kind, dimension, per_layer: true, ..Projection::default() };
            let (slots, width) = projection.slots(&layers).unwrap();
            assert_eq!(width, slots.iter().map(Slot::len).sum::<usize>());
            slots.iter().map(|slot| (slot.outputs.kept, slot.inputs.kept)).collect::<Vec<_>>()
        };
        assert_eq!(of(256, ProjectionKind::Rademacher), [(16, 16), (16, 16), (2, 9)]);
        assert_eq!(of(1, ProjectionKind::Sjlt), [(1, 1); 3]);
        let whole = layers.map(|(inputs, outputs)| (outputs, inputs));
        assert_eq!(of(1, ProjectionKind::Identity), whole);
        assert_eq!(of(1 << 30, ProjectionKind::Gaussian), whole);
    }

    #[test]
    fn nothing_is_projected_where_all_fits() {
        for kind in [ProjectionKind::Rademacher, ProjectionKind::Sjlt] {
            let projection = Projection { kind, dimension: 100, ..Projection::default() };
            let (slots, width) = projection.slots(&[(4, 5), (6, 2)]).unwrap();
            assert_eq!(width, 32);
            for slot in slots {
                for side in [slot.inputs, slot.outputs] {
                    let matrix = projection.matrix(slot.number, side).into_dense();
                    let entry = |at| f32::from(u8::from(at % (side.whole + 1) == 0));
                    assert_eq!(matrix, (0..side.whole * side.whole).map(entry).collect::<Vec<_>>());
                }
            }
        }
    }
}
