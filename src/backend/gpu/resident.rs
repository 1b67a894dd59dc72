//! What of training factors stays on the device between searches: as much as there is room for beside a model at work.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use super::tensor::Tensor;
use crate::sync::lock;

/// A buffer's contents, named: equal only where they are.
pub(crate) type Key = [u8; 32];

/// The name of what is made of a buffer's contents to find bounds by.
pub(super) fn rounded(key: &Key) -> Key {
    key.map(|byte| !byte)
}

/// Buffers by what is in them.
#[derive(Default)]
pub(super) struct Resident(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    buffers: HashMap<Key, Buffer>,
    /// Searches so far.
    searches: u64,
}

struct Buffer {
    tensor: Arc<Tensor>,
    /// The search that read it last.
    read_by: u64,
}

impl Resident {
    /// Another search begins: what it does not read may go.
    pub(super) fn begin(&self) {
        self.kept().searches += 1;
    }

    pub(super) fn get(&self, key: &Key) -> Option<Arc<Tensor>> {
        let mut kept = self.kept();
        let search = kept.searches;
        let buffer = kept.buffers.get_mut(key)?;
        buffer.read_by = search;
        Some(Arc::clone(&buffer.tensor))
    }

    pub(super) fn keep(&self, key: Key, tensor: &Arc<Tensor>) {
        let mut kept = self.kept();
        let read_by = kept.searches;
        kept.buffers.insert(key, Buffer { tensor: Arc::clone(tensor), read_by });
    }

    /// Lets go of what earlier searches left and this one has not read; whether there was any.
    pub(super) fn forget_unread(&self) -> bool {
        let mut kept = self.kept();
        let (search, before) = (kept.searches, kept.buffers.len());
        kept.buffers.retain(|_, buffer| buffer.read_by == search);
        kept.buffers.len() < before
    }

    /// Lets go of these, and of what was made of them.
    pub(super) fn forget_those<'a>(&self, keys: impl IntoIterator<Item = &'a Key>) {
        let mut kept = self.kept();
        for key in keys {
            kept.buffers.remove(key);
            kept.buffers.remove(&rounded(key));
        }
    }

    /// Lets go of everything; whether there was anything.
    pub(super) fn forget(&self) -> bool {
        let buffers = std::mem::take(&mut self.kept().buffers);
        !buffers.is_empty()
    }

    /// What the lock guards is whole at every instant.
    fn kept(&self) -> MutexGuard<'_, Kept> {
        lock(&self.0)
    }
}
