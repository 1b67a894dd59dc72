//! Safetensors files taken apart and put together again, so that tests can lie in them.

use std::path::Path;

use serde_json::{Map, Value, json};

/// A file in its parts.
pub(crate) struct Parts {
    pub(crate) header: Map<String, Value>,
    pub(crate) data: Vec<u8>,
}

impl Parts {
    pub(crate) fn read(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap();
        let (length, rest) = bytes.split_first_chunk::<8>().unwrap();
        let (header, data) = rest.split_at(u64::from_le_bytes(*length) as usize);
        Self { header: serde_json::from_slice(header).unwrap(), data: data.to_vec() }
    }

    pub(crate) fn write(&self, path: &Path) {
        let header = serde_json::to_vec(&self.header).unwrap();
        let length = (header.len() as u64).to_le_bytes();
        std::fs::write(path, [&length, header.as_slice(), &self.data].concat()).unwrap();
    }

    /// Where a tensor's bytes are.
    pub(crate) fn range(&self, name: &str) -> std::ops::Range<usize> {
        let offset = |i: usize| self.header[name]["data_offsets"][i].as_u64().unwrap() as usize;
        offset(0)..offset(1)
    }

    /// The same tensors under other names.
    pub(crate) fn rename(&mut self, change: impl Fn(&str) -> String) {
        self.header = std::mem::take(&mut self.header).into_iter().map(|(name, info)| (change(&name), info)).collect();
    }

    /// The first numbers of some tensors, in smaller shapes.
    pub(crate) fn cut(&mut self, smaller: &[(String, Vec<usize>)]) {
        let mut data = Vec::new();
        let names: Vec<String> = self.header.keys().filter(|name| *name != "__metadata__").cloned().collect();
        for name in names {
            let (mut range, start) = (self.range(&name), data.len());
            if let Some((_, shape)) = smaller.iter().find(|(cut, _)| *cut == name) {
                range.end = range.start + 4 * shape.iter().product::<usize>();
                self.header[&name]["shape"] = json!(shape);
            }
            data.extend_from_slice(&self.data[range]);
            self.header[&name]["data_offsets"] = json!([start, data.len()]);
        }
        self.data = data;
    }

    /// Every f16 or bf16 tensor as f32, by `widen`.
    pub(crate) fn widen(&mut self, widen: impl Fn([u8; 2]) -> f32) {
        let mut data = Vec::new();
        let names: Vec<String> = self.header.keys().filter(|name| *name != "__metadata__").cloned().collect();
        for name in names {
            let range = self.range(&name);
            let start = data.len();
            for pair in self.data[range].as_chunks().0 {
                data.extend(widen(*pair).to_le_bytes());
            }
            self.header[&name]["dtype"] = json!("F32");
            self.header[&name]["data_offsets"] = json!([start, data.len()]);
        }
        self.data = data;
    }
}
