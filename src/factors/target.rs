//! What a record is explained for, or was trained on: the thing its loss is taken against.

/// A label with a meaning: resolved against the model's classes.
#[derive(Clone, Debug, PartialEq)]
pub enum Target {
    /// One class of a single-label model, `0 .. K`.
    Class(usize),
    /// The classes of a multi-label model: 0 or 1 for each of the K.
    Classes(Vec<f32>),
    /// The K values of a regression.
    Values(Vec<f32>),
}
