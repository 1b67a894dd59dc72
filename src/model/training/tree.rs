//! The shape of a model's parameters, with something at every leaf: a name, a value, a gradient, a moment.

use crate::backend::training::{Pair, Tables};
use crate::error::Result;

/// One thing for each parameter.
#[derive(Clone, Debug)]
pub(super) struct Tree<T> {
    pub(super) tables: Tables<T>,
    pub(super) embedding_norm: Pair<T>,
    /// From the embeddings' width to E.
    pub(super) embedding_projection: Option<Pair<T>>,
    /// Every distinct layer.
    pub(super) layers: Vec<Layer<T>>,
    pub(super) head: Head<T>,
}

/// One layer's.
#[derive(Clone, Debug)]
pub(super) struct Layer<T> {
    /// Queries, keys and values, one below the other.
    pub(super) projection: Pair<T>,
    pub(super) attention_out: Pair<T>,
    pub(super) attention_norm: Pair<T>,
    pub(super) inner: Pair<T>,
    pub(super) outer: Pair<T>,
    pub(super) outer_norm: Pair<T>,
}

/// The head's.
#[derive(Clone, Debug)]
pub(super) struct Head<T> {
    /// What stands before the last layer: in heads on records and on masks.
    pub(super) dense: Option<Pair<T>>,
    /// Between the two, in heads on masks.
    pub(super) norm: Option<Pair<T>>,
    /// The last layer, where its weight is its own.
    pub(super) last: Option<Pair<T>>,
    /// Its bias, where its weight is the word embeddings.
    pub(super) bias: Option<T>,
}

impl<T> Tree<T> {
    /// What `f` makes of each leaf, in the tree's order.
    pub(super) fn map<U>(&self, mut f: impl FnMut(&T) -> Result<U>) -> Result<Tree<U>> {
        let f = &mut f;
        let tables = Tables {
            word: f(&self.tables.word)?,
            position: f(&self.tables.position)?,
            token_type: self.tables.token_type.as_ref().map(&mut *f).transpose()?,
            task: self.tables.task.as_ref().map(&mut *f).transpose()?,
        };
        let mut pair = |p: &Pair<T>| -> Result<Pair<U>> { Ok(Pair { weight: f(&p.weight)?, bias: f(&p.bias)? }) };
        let embedding_norm = pair(&self.embedding_norm)?;
        let embedding_projection = self.embedding_projection.as_ref().map(&mut pair).transpose()?;
        let layers = self.layers.iter().map(|layer| layer.map_pairs(&mut pair)).collect::<Result<_>>()?;
        let Head { dense, norm, last, bias } = &self.head;
        let [dense, norm, last] = [dense, norm, last].map(|of| of.as_ref().map(&mut pair).transpose());
        let (dense, norm, last) = (dense?, norm?, last?);
        let head = Head { dense, norm, last, bias: bias.as_ref().map(f).transpose()? };
        Ok(Tree { tables, embedding_norm, embedding_projection, layers, head })
    }

    /// Every leaf, in the tree's order.
    pub(super) fn leaves(&self) -> Vec<&T> {
        let Tables { word, position, token_type, task } = &self.tables;
        let mut leaves = vec![word, position];
        leaves.extend(token_type.iter().chain(task));
        let pairs = std::iter::once(&self.embedding_norm)
            .chain(&self.embedding_projection)
            .chain(self.layers.iter().flat_map(Layer::pairs))
            .chain([&self.head.dense, &self.head.norm, &self.head.last].into_iter().flatten());
        leaves.extend(pairs.flat_map(|pair| [&pair.weight, &pair.bias]));
        leaves.extend(&self.head.bias);
        leaves
    }

    /// The same, to be changed.
    pub(super) fn leaves_mut(&mut self) -> Vec<&mut T> {
        let Tables { word, position, token_type, task } = &mut self.tables;
        let mut leaves = vec![word, position];
        leaves.extend(token_type.iter_mut().chain(task));
        let pairs = std::iter::once(&mut self.embedding_norm)
            .chain(&mut self.embedding_projection)
            .chain(self.layers.iter_mut().flat_map(Layer::pairs_mut))
            .chain([&mut self.head.dense, &mut self.head.norm, &mut self.head.last].into_iter().flatten());
        leaves.extend(pairs.flat_map(|pair| [&mut pair.weight, &mut pair.bias]));
        leaves.extend(&mut self.head.bias);
        leaves
    }
}

impl<T> Layer<T> {
    /// What `f` makes of each leaf, in the tree's order.
    pub(super) fn map<U>(&self, mut f: impl FnMut(&T) -> Result<U>) -> Result<Layer<U>> {
        self.map_pairs(&mut |p: &Pair<T>| Ok(Pair { weight: f(&p.weight)?, bias: f(&p.bias)? }))
    }

    fn map_pairs<U>(&self, pair: &mut impl FnMut(&Pair<T>) -> Result<Pair<U>>) -> Result<Layer<U>> {
        Ok(Layer {
            projection: pair(&self.projection)?,
            attention_out: pair(&self.attention_out)?,
            attention_norm: pair(&self.attention_norm)?,
            inner: pair(&self.inner)?,
            outer: pair(&self.outer)?,
            outer_norm: pair(&self.outer_norm)?,
        })
    }

    /// Every leaf, in the tree's order.
    pub(super) fn leaves(&self) -> Vec<&T> {
        self.pairs().into_iter().flat_map(|pair| [&pair.weight, &pair.bias]).collect()
    }

    /// The same, to be changed.
    pub(super) fn leaves_mut(&mut self) -> Vec<&mut T> {
        self.pairs_mut().into_iter().flat_map(|pair| [&mut pair.weight, &mut pair.bias]).collect()
    }

    fn pairs(&self) -> [&Pair<T>; 6] {
        let Self { projection, attention_out, attention_norm, inner, outer, outer_norm } = self;
        [projection, attention_out, attention_norm, inner, outer, outer_norm]
    }

    fn pairs_mut(&mut self) -> [&mut Pair<T>; 6] {
        let Self { projection, attention_out, attention_norm, inner, outer, outer_norm } = self;
        [projection, attention_out, attention_norm, inner, outer, outer_norm]
    }
}

/// Both of a pair.
pub(super) fn as_ref<T>(pair: &Pair<T>) -> Pair<&T> {
    Pair { weight: &pair.weight, bias: &pair.bias }
}

/// Both, to be changed.
pub(super) fn as_mut<T>(pair: &mut Pair<T>) -> Pair<&mut T> {
    Pair { weight: &mut pair.weight, bias: &mut pair.bias }
}

/// Every table.
pub(super) fn tables_ref<T>(tables: &Tables<T>) -> Tables<&T> {
    let Tables { word, position, token_type, task } = tables;
    Tables { word, position, token_type: token_type.as_ref(), task: task.as_ref() }
}

/// Every table, to be changed.
pub(super) fn tables_mut<T>(tables: &mut Tables<T>) -> Tables<&mut T> {
    let Tables { word, position, token_type, task } = tables;
    Tables { word, position, token_type: token_type.as_mut(), task: task.as_mut() }
}
