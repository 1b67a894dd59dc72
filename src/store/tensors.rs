//! Safetensors files of a store: written so that every tensor can be used where it is mapped, and read with every claim
//! checked.

use std::borrow::Cow;
use std::fmt::Display;
use std::io::{self, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use bytemuck::{AnyBitPattern, NoUninit, pod_collect_to_vec, try_cast_slice};
use safetensors::tensor::{Metadata, TensorInfo};
use safetensors::{Dtype, SafeTensors};

use super::map::FileMap;
use crate::error::{Error, Result};

const _: () =
    assert!(cfg!(target_endian = "little"), "safetensors are little-endian, and are used where they are mapped");

/// Bytes of the header's length, which stands before the header.
const LENGTH: usize = size_of::<u64>();
/// Where the data begin is a multiple of this: a cache line.
const ALIGNMENT: usize = 64;

/// A tensor to be written.
pub(super) struct TensorSource<'a> {
    pub(super) name: String,
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
    pub(super) data: Cow<'a, [u8]>,
}

impl TensorSource<'_> {
    /// With data of its own.
    pub(super) fn into_owned(self) -> TensorSource<'static> {
        TensorSource { data: Cow::Owned(self.data.into_owned()), name: self.name, dtype: self.dtype, shape: self.shape }
    }
}

/// Writes a safetensors file, wide types first: with the data's beginning aligned, every tensor is aligned to its type.
pub(super) fn write_tensors(output: &mut impl Write, mut tensors: Vec<TensorSource<'_>>) -> io::Result<()> {
    tensors.sort_by_key(|tensor| std::cmp::Reverse(tensor.dtype.bitsize()));
    let header = header(&tensors)?;
    output.write_all(&(header.len() as u64).to_le_bytes())?;
    output.write_all(&header)?;
    tensors.iter().try_for_each(|tensor| output.write_all(&tensor.data))
}

/// The header, padded with spaces as the format has it.
fn header(tensors: &[TensorSource<'_>]) -> io::Result<Vec<u8>> {
    let mut end = 0;
    let infos = tensors.iter().map(|tensor| {
        let start = end;
        end += tensor.data.len();
        let info = TensorInfo { dtype: tensor.dtype, shape: tensor.shape.clone(), data_offsets: (start, end) };
        (tensor.name.clone(), info)
    });
    let metadata = Metadata::new(None, infos.collect()).map_err(io::Error::other)?;
    let mut header = serde_json::to_vec(&metadata)?;
    let padded = (LENGTH + header.len()).next_multiple_of(ALIGNMENT) - LENGTH;
    header.resize(padded, b' ');
    Ok(header)
}

/// A mapped safetensors file whose header has been checked: offsets lie inside the file, cover it, and fit shapes and
/// types.
#[derive(Debug)]
pub(super) struct TensorFile {
    path: PathBuf,
    map: FileMap,
    metadata: Metadata,
    /// Where the data begin.
    data: usize,
}

/// One tensor of a [`TensorFile`], checked to be of its type and shape.
#[derive(Debug)]
pub(super) enum Column<T> {
    /// These bytes of the file, aligned for `T`.
    Mapped(Range<usize>),
    /// A copy, for files made elsewhere whose tensors are not aligned.
    Copied(Vec<T>),
}

impl TensorFile {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let map = FileMap::open(path)?;
        let (header, metadata) = SafeTensors::read_metadata(map.bytes())
            .map_err(|error| Error::format(path, format!("not a whole safetensors file: {}", one_line(&error))))?;
        Ok(Self { path: path.to_owned(), map, metadata, data: LENGTH + header })
    }

    /// The tensor `name`, which must have this type and shape.
    pub(super) fn column<T>(&self, name: &str, dtype: Dtype, shape: &[usize]) -> Result<Column<T>>
    where
        T: AnyBitPattern + NoUninit,
    {
        debug_assert_eq!(dtype.bitsize(), 8 * size_of::<T>(), "the type asked for is the type read");
        let info = self.metadata.info(name).ok_or_else(|| self.refuse(format!("tensor `{name}` is missing")))?;
        if info.dtype != dtype || info.shape != shape {
            let (found, found_shape) = (info.dtype, &info.shape);
            let reason = format!("tensor `{name}`: expected {dtype} {shape:?}, found {found} {found_shape:?}");
            return Err(self.refuse(reason));
        }
        let range = self.data + info.data_offsets.0..self.data + info.data_offsets.1;
        let bytes = &self.map.bytes()[range.clone()];
        Ok(match try_cast_slice::<u8, T>(bytes) {
            Ok(_) => Column::Mapped(range),
            Err(_) => Column::Copied(pod_collect_to_vec(bytes)),
        })
    }

    /// The first length of the tensor `name`.
    pub(super) fn rows(&self, name: &str) -> Result<usize> {
        let info = self.metadata.info(name).ok_or_else(|| self.refuse(format!("tensor `{name}` is missing")))?;
        Ok(info.shape.first().copied().unwrap_or_default())
    }

    /// A column's numbers.
    pub(super) fn values<'a, T>(&'a self, column: &'a Column<T>) -> &'a [T]
    where
        T: AnyBitPattern + NoUninit,
    {
        match column {
            Column::Mapped(range) if range.is_empty() => &[],
            Column::Mapped(range) => bytemuck::cast_slice(&self.map.bytes()[range.clone()]),
            Column::Copied(values) => values,
        }
    }

    /// See [`FileMap::prefetch`].
    pub(super) fn prefetch(&self) {
        self.map.prefetch();
    }

    /// See [`FileMap::release`].
    pub(super) fn release(&self) {
        self.map.release();
    }

    pub(super) fn refuse(&self, reason: impl Into<String>) -> Error {
        Error::format(&self.path, reason)
    }
}

/// A library's message, made to fit an error's one line.
fn one_line(error: &impl Display) -> String {
    error.to_string().replace('\n', " ")
}
