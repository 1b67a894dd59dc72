//! The store: immutable shards of factors beside their texts, and the manifest that says what they are.
//!
//! The data is cut in *blocks* of a fixed number of input records ([`Settings::block_records`]): block b holds the
//! records with numbers `b·R .. (b+1)·R`, less those that were skipped. A finished block is a *shard*, two files that
//! never change again:
//!
//! | file | holds |
//! |---|---|
//! | `shard-00000.safetensors` | `features [n,E]`, `deltas [n,K]`, their norms, `indices`, `labels`, `predictions`, `losses`, `record_offsets [n+1]`, and `checkpoint.{c}.…`; where features are rounded, `feature_residuals [n]`, `nearest_places` and `nearest_scores [≤ 1000,2,10]`; where they are integers, `feature_scales [n]`, `feature_shares [n]` and `feature_center [E]` ([`crate::factors::Int8Rows`]); a coarser copy to scan, `scan.…` |
//! | | where a record has several factors: `features [F,E]`, `deltas [F,K]` and their norms, `factor_offsets [n+1]`, `factor_classes [F]`, `factor_biases [F]` (answers), `gradient_norms [n]`, `mean_features [n,E]`, and no labels or predictions |
//! | `shard-00000.jsonl` | `{"id","text","text_pair"?,"label"?,"columns"?}` a line, and `"said"` of models that say something of tokens; `record_offsets` are the lines' first bytes |
//! | `head.safetensors` | `weight [K,E]`, `bias [K]` of the model's last layer (headless models have none) |
//! | `curvature.json`, `curvature.safetensors` | the whole network's curvature, where it was fitted and told no other place ([`Fisher`]) |
//! | `manifest.json` | what made the store, and every finished shard with sizes and checksums; replaced atomically |
//! | `.lock` | empty; held (by the operating system) while a process writes |
//!
//! Afterwards data can be added ([`StoreWriter::append`]) and records taken out ([`remove`]); numbers never change.
//!
//! Job I of N takes the blocks with `b mod N == I` ([`Part`]), and [`merge`] puts the parts together. Nothing in a
//! store depends on time, host, thread count or the order of the work: equal work gives equal bytes, after a kill and a
//! resume too.
//!
//! **What is checked when.** Opening checks the manifest's seal, every size and every header, and reads no payload: a
//! search starts at once whatever the store's size. Checksums are read by [`verify`], [`merge`] and a resume. A file
//! that shrinks while it is mapped kills the process (`SIGBUS`), as with every memory-mapped file: shards are
//! immutable, don't edit them in place.
//!
//! ```
//! use wherefore::dataset::Record;
//! use wherefore::factors::{Head, LabelUsed, LabelVec};
//! use wherefore::model::Problem;
//! use wherefore::store::{Block, Dtype, Part, Settings, Store, StoreWriter, data_fingerprint};
//!
//! # fn main() -> wherefore::Result<()> {
//! # let directory = tempfile::tempdir().unwrap();
//! # let directory = directory.path().join("store");
//! let settings = Settings {
//!     model: "models/reviews".into(),
//!     model_fingerprint: "5a".into(),
//!     head_fingerprint: "c1".into(),
//!     tokenizer_fingerprint: "77".into(),
//!     max_length: 128,
//!     problem: Problem::SingleLabel,
//!     width: 2,
//!     classes: 2,
//!     label_names: vec!["bad".into(), "good".into()],
//!     target: LabelUsed::Gold,
//!     dtype: Dtype::F32,
//!     block_records: 16_384,
//!     checkpoints: vec![],
//!     scan: None,
//!     gradients: None,
//!     gradient_layers: Vec::new(),
//!     tokens: None,
//!     columns: vec![],
//!     precision: None,
//! };
//! let head = Head { weight: vec![1.0, 0.0, 0.0, 1.0], bias: vec![0.0, 0.0] };
//! let record = Record { index: 0, id: "a".into(), text: "not bad at all".into(), ..Record::default() };
//!
//! let mut writer = StoreWriter::create(&directory, settings, Part::WHOLE, Some(&head), false)?;
//! writer.write(&Block {
//!     number: 0,
//!     indices: vec![0],
//!     features: vec![3.0, 4.0],
//!     deltas: vec![0.5, -0.5],
//!     bundles: None,
//!     labels: LabelVec::Classes(vec![1]),
//!     predictions: LabelVec::Classes(vec![0]),
//!     losses: vec![0.7],
//!     checkpoints: vec![],
//!     stored: Default::default(),
//!     nearest: None,
//!     data_fingerprint: data_fingerprint([&record]),
//!     records: vec![record.into()],
//! })?;
//! writer.finish(1)?;
//!
//! let store = Store::open(&directory)?;
//! assert_eq!(store.record(0)?.text, "not bad at all");
//! assert_eq!(store.shards()[0].factors().feature_norms, [5.0]);
//! # Ok(())
//! # }
//! ```
//!
//! **Limits.** Where a cluster's file system knows no locks, nothing keeps two writers apart: give each job its own
//! directory. A store is little-endian, as safetensors are, and is used where it is mapped: big-endian machines are not
//! served.
//!
//! **What this module refuses to do**: compute factors (that is [`crate::factors`]), or decide what is similar
//! ([`crate::search`]).

mod append;
mod atomic;
mod block;
mod directory;
mod encode;
mod fingerprint;
mod fisher;
mod head;
mod info;
mod manifest;
mod map;
mod merge;
mod nearest;
mod reader;
mod record;
mod remove;
mod replace;
mod settings;
mod shard;
mod tensors;
mod verify;
mod writer;

pub use block::{Block, Bundles, Stored};
pub use fingerprint::data_fingerprint;
pub use fisher::{Fisher, FisherSettings, SelfInfluence};
pub use info::{Info, info};
pub use merge::merge;
pub(crate) use nearest::Near;
pub use nearest::{Nearest, Recall};
pub use reader::{Store, find_path};
pub use record::{FactorPart, Said, StoredRecord, line_bytes};
pub use remove::{Removal, Removed, remove};
pub use settings::{Checkpoint, DEFAULT_BLOCK_RECORDS, Dtype, Part, Settings, TokenSettings};
pub use shard::Shard;
pub use verify::{Verification, verify};
pub use writer::StoreWriter;
