//! Arrays of numbers in `.safetensors` and `.npy` files, read a row at a time.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use safetensors::Dtype;
use safetensors::tensor::Metadata;

use crate::error::{Error, Result};

/// A matrix, or a vector as a matrix of one column, whose rows are read one after another.
pub(super) struct Array {
    path: PathBuf,
    name: String,
    pub(super) rows: usize,
    number: Number,
    data: BufReader<File>,
    bytes: Vec<u8>,
}

/// How a number is written, little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Number {
    F64,
    F32,
    F16,
    Bf16,
    I64,
    I32,
    U8,
}

impl Number {
    fn bytes(self) -> usize {
        match self {
            Self::F64 | Self::I64 => 8,
            Self::F32 | Self::I32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::U8 => 1,
        }
    }

    /// The number, rounded to nearest where f64 cannot hold it (integers above 2⁵³).
    fn read(self, bytes: &[u8]) -> f64 {
        match self {
            Self::F64 => f64::from_le_bytes(of(bytes)),
            Self::F32 => f32::from_le_bytes(of(bytes)).into(),
            Self::F16 => f16::from_le_bytes(of(bytes)).into(),
            Self::Bf16 => bf16::from_le_bytes(of(bytes)).into(),
            Self::I64 => i64::from_le_bytes(of(bytes)) as f64,
            Self::I32 => i32::from_le_bytes(of(bytes)).into(),
            Self::U8 => bytes[0].into(),
        }
    }

    fn of_safetensors(dtype: Dtype) -> Option<Self> {
        Some(match dtype {
            Dtype::F64 => Self::F64,
            Dtype::F32 => Self::F32,
            Dtype::F16 => Self::F16,
            Dtype::BF16 => Self::Bf16,
            Dtype::I64 => Self::I64,
            Dtype::I32 => Self::I32,
            Dtype::U8 | Dtype::BOOL => Self::U8,
            _ => return None,
        })
    }

    /// NumPy's name of a type (`|` where the byte order makes no difference).
    fn of_npy(name: &str) -> Option<Self> {
        Some(match name {
            "<f8" => Self::F64,
            "<f4" => Self::F32,
            "<f2" => Self::F16,
            "<i8" => Self::I64,
            "<i4" => Self::I32,
            "|u1" | "|b1" => Self::U8,
            _ => return None,
        })
    }
}

fn of<const N: usize>(bytes: &[u8]) -> [u8; N] {
    std::array::from_fn(|i| bytes[i])
}

impl Array {
    /// The tensor `name` of a safetensors file; `None` where the file has none of that name.
    pub(super) fn of_safetensors(path: &Path, name: &str) -> Result<Option<Self>> {
        /// The format's own limit.
        const LARGEST_HEADER: u64 = 100_000_000;
        let mut file = File::open(path).map_err(Error::io(path))?;
        let refuse = |reason: String| Error::format(path, format!("not a whole safetensors file: {reason}"));
        let mut header = vec![0; 8];
        file.read_exact(&mut header).map_err(|error| refuse(error.to_string()))?;
        let length = u64::from_le_bytes(of(&header));
        if length > LARGEST_HEADER {
            return Err(refuse(format!("a header of {length} bytes")));
        }
        header.resize(8 + length as usize, 0);
        file.read_exact(&mut header[8..]).map_err(|error| refuse(error.to_string()))?;
        let metadata: Metadata =
            serde_json::from_slice(&header[8..]).map_err(|error| refuse(error.to_string().replace('\n', " ")))?;
        let Some(info) = metadata.info(name) else { return Ok(None) };
        let number = Number::of_safetensors(info.dtype).ok_or_else(|| {
            Error::format(path, format!("tensor `{name}`: numbers of type {} are not read", info.dtype))
        })?;
        let (begin, end) = info.data_offsets;
        let expected = info.shape.iter().try_fold(number.bytes(), |bytes, &size| bytes.checked_mul(size));
        if expected.is_none() || end.checked_sub(begin) != expected {
            return Err(refuse(format!("tensor `{name}` is not of its shape")));
        }
        let start = (8 + length).saturating_add(begin as u64);
        Self::new(path, name, file, start, &info.shape, number).map(Some)
    }

    /// The array of a `.npy` file: format 1, 2 or 3, in C order.
    pub(super) fn of_npy(path: &Path, name: &str) -> Result<Self> {
        let mut file = File::open(path).map_err(Error::io(path))?;
        let refuse = |reason: &str| Error::format(path, format!("not a .npy file that can be read: {reason}"));
        let mut start = [0; 12];
        file.read_exact(&mut start[..10]).map_err(|_| refuse("it is too short"))?;
        if start[..6] != *b"\x93NUMPY" {
            return Err(refuse("it does not begin as one"));
        }
        // Version 1 has a header length of two bytes, later ones of four.
        let (begin, length) = if start[6] == 1 {
            (10, usize::from(u16::from_le_bytes(of(&start[8..]))))
        } else {
            file.read_exact(&mut start[10..]).map_err(|_| refuse("it is too short"))?;
            (12, u32::from_le_bytes(of(&start[8..])) as usize)
        };
        let mut header = Vec::new();
        (&mut file).take(length as u64).read_to_end(&mut header).map_err(Error::io(path))?;
        let header = String::from_utf8(header).ok().filter(|header| header.len() == length);
        let header = header.ok_or_else(|| refuse("its header is cut short"))?;
        let (number, shape) = npy_header(&header).map_err(|reason| refuse(&reason))?;
        Self::new(path, name, file, (begin + length) as u64, &shape, number)
    }

    fn new(path: &Path, name: &str, mut file: File, start: u64, shape: &[usize], number: Number) -> Result<Self> {
        let refuse = |reason: String| Error::format(path, format!("`{name}`: {reason}"));
        let (rows, columns) = match *shape {
            [rows] => (rows, 1),
            [rows, columns] if columns > 0 => (rows, columns),
            _ => return Err(refuse(format!("expected a vector or a matrix, found shape {shape:?}"))),
        };
        let expected = rows.checked_mul(columns).and_then(|n| n.checked_mul(number.bytes())).map(|n| n as u64);
        let there = file.metadata().map_err(Error::io(path))?.len().saturating_sub(start);
        if expected.is_none_or(|expected| expected > there) {
            return Err(refuse(format!("the file ends before shape {shape:?} does")));
        }
        file.seek(SeekFrom::Start(start)).map_err(Error::io(path))?;
        let bytes = vec![0; columns * number.bytes()];
        let data = BufReader::with_capacity(1 << 20, file);
        Ok(Self { path: path.to_owned(), name: name.to_owned(), rows, number, data, bytes })
    }

    /// The next row.
    pub(super) fn next_row(&mut self) -> Result<Vec<f64>> {
        self.read_row()?;
        Ok(self.bytes.chunks_exact(self.number.bytes()).map(|bytes| self.number.read(bytes)).collect())
    }

    /// The next row, rounded to f32.
    pub(super) fn next_floats(&mut self) -> Result<Vec<f32>> {
        self.read_row()?;
        let numbers = self.bytes.chunks_exact(self.number.bytes());
        Ok(match self.number {
            Number::F32 => numbers.map(|bytes| f32::from_le_bytes(of(bytes))).collect(),
            number => numbers.map(|bytes| number.read(bytes) as f32).collect(),
        })
    }

    fn read_row(&mut self) -> Result<()> {
        self.data.read_exact(&mut self.bytes).map_err(Error::io(&self.path))
    }

    pub(super) fn columns(&self) -> usize {
        self.bytes.len() / self.number.bytes()
    }

    pub(super) fn check_rows(&self, expected: usize) -> Result<()> {
        if self.rows == expected {
            return Ok(());
        }
        let reason =
            format!("`{}`: expected {expected} rows, one for each of features, found {}", self.name, self.rows);
        Err(Error::format(&self.path, reason))
    }
}

/// The type and shape of a header such as `{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }`.
fn npy_header(header: &str) -> Result<(Number, Vec<usize>), String> {
    let after =
        |key: &str| header.split_once(key).map(|(_, rest)| rest.trim_start().trim_start_matches(':').trim_start());
    let missing = |key: &str| format!("its header has no {key}");
    let descr = after("'descr'").ok_or_else(|| missing("descr"))?;
    let name = descr.split('\'').nth(1).unwrap_or(descr);
    let number = Number::of_npy(name).ok_or_else(|| format!("numbers of type {name} are not read"))?;
    if !after("'fortran_order'").ok_or_else(|| missing("fortran_order"))?.starts_with("False") {
        return Err("it is in Fortran order (save np.ascontiguousarray of it)".to_owned());
    }
    let shape = after("'shape'").and_then(|rest| rest.strip_prefix('(')?.split_once(')'));
    let (shape, _) = shape.ok_or_else(|| missing("shape"))?;
    let sizes = shape.split(',').map(str::trim).filter(|size| !size.is_empty());
    let sizes =
        sizes.map(|size| size.parse().map_err(|_| format!("shape ({shape}) is none"))).collect::<Result<_, _>>()?;
    Ok((number, sizes))
}
