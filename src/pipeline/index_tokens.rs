//! `index` of models that say something of tokens: what of its options they have a meaning for, and a chunk as a block
//! of the store.

use super::IndexOptions;
use super::bundles::{Against, BundleChunk};
use crate::error::{Error, Result};
use crate::factors::{LabelUsed, LabelVec};
use crate::model::{Model, Task};
use crate::store::{Block, Bundles, Dtype, Stored, StoredRecord, TokenSettings};

/// The most bytes of δ that a block of records with one mask each may have: it is made in memory.
const BLOCK_BYTES: u64 = 1 << 30;

impl From<LabelUsed> for Against {
    fn from(used: LabelUsed) -> Self {
        match used {
            LabelUsed::Gold => Self::Gold,
            LabelUsed::Predicted => Self::Predicted,
        }
    }
}

/// How such a store is made; `None` for models that say something of a record as a whole.
///
/// # Errors
/// [`Error::Usage`] for options that these models have no meaning for.
pub(super) fn settings(model: &Model, options: &IndexOptions) -> Result<Option<TokenSettings>> {
    let task = model.task();
    if task == Task::Record {
        return Ok(None);
    }
    let refuse = |what: &str, hint: &str| {
        Err(Error::usage(format!(
            "{what}: {} says something of tokens, and a record has several factors",
            model.name()
        ))
        .with_hint(hint))
    };
    if options.gradients.is_some() {
        return refuse("--gradients projected", "leave it out: the factors of the last layer are kept");
    }
    if options.dtype != Dtype::F32 {
        return refuse("--dtype", "leave it out: such factors are kept in f32");
    }
    if options.scan.is_some() {
        return refuse("--scan", "leave it out: there are no bounds on sums over factors");
    }
    let bytes = options.block_records.saturating_mul(4 * model.classes() as u64);
    if task == Task::Masks && bytes > BLOCK_BYTES {
        let (most, pieces) = ((BLOCK_BYTES / (4 * model.classes() as u64)).max(1), model.classes());
        return Err(Error::usage(format!(
            "a block of {} masks, of {pieces} numbers each, takes {} MiB of memory",
            options.block_records,
            bytes >> 20
        ))
        .with_hint(format!("make smaller blocks: --block-records {most} or fewer")));
    }
    // What decides nothing is not told.
    let where_so = |so: bool, value: usize| if so { value } else { 0 };
    Ok(Some(TokenSettings {
        task,
        stride: where_so(task != Task::Masks, options.stride),
        max_answer_tokens: where_so(task == Task::Spans, options.max_answer_tokens),
    }))
}

/// A chunk's records with their factors.
pub(super) fn block(chunk: BundleChunk) -> Block {
    let BundleChunk { number, records, digest } = chunk;
    let mut bundles = Bundles { offsets: vec![0], ..Bundles::default() };
    let checkpoints = records.first().map_or(0, |record| record.bundles.len() - 1);
    let mut block = Block {
        number,
        indices: records.iter().map(|record| record.record.index).collect(),
        features: Vec::new(),
        deltas: Vec::new(),
        bundles: None,
        labels: LabelVec::Rows(Vec::new()),
        predictions: LabelVec::Rows(Vec::new()),
        losses: Vec::new(),
        checkpoints: vec![Default::default(); checkpoints],
        records: Vec::new(),
        stored: Stored::default(),
        nearest: None,
        data_fingerprint: digest.to_string(),
    };
    for one in records {
        let mut own = one.bundles.into_iter();
        if let Some(bundle) = own.next() {
            bundles.offsets.push((bundles.biases.len() + bundle.len()) as u64);
            bundles.classes.extend(bundle.classes.iter().map(|&class| class as i64));
            block.losses.push(bundle.loss as f32);
            block.features.extend(bundle.features);
            block.deltas.extend(bundle.deltas);
            bundles.biases.extend(bundle.biases);
        }
        for ((features, deltas), bundle) in block.checkpoints.iter_mut().zip(own) {
            features.extend(bundle.features);
            deltas.extend(bundle.deltas);
        }
        bundles.means.extend(one.mean);
        block.records.push(StoredRecord { said: Some(one.said), ..one.record.into() });
    }
    block.bundles = Some(bundles);
    block
}
