//! Launches `kernels/losses.cu`.

use std::collections::BTreeMap;

use super::convert::stored_as;
use super::device::{Device, Shape};
use super::tensor::{Number, Tensor};
use crate::backend::training::CrossEntropy;
use crate::error::Result;

pub(super) const NAMES: [&str; 4] = [LOSS[0], LOSS[2], SLOPES[0], SLOPES[2]];
const LOSS: [&str; 3] = ["cross_entropy_f32", "", "cross_entropy_bf16"];
const SLOPES: [&str; 3] = ["cross_entropy_slopes_f32", "", "cross_entropy_slopes_bf16"];

const THREADS: usize = 256;
/// Places of a line that a block goes through.
const SPAN: usize = 4 * THREADS;

/// Words of what is found of a term: two numbers in f32, the largest logit and the gold one, and three in f64, of which
/// the first is the sum.
const FOUND: usize = 8;

/// Terms as the kernels read them, all in words of 32 bits.
pub(super) struct Terms {
    words: Vec<u32>,
    count: usize,
    lines: usize,
    /// Places of the longest line.
    longest: usize,
    stride: usize,
    /// One place beyond the last of any line.
    end: usize,
    /// Places of all lines: each is written.
    written: usize,
}

impl Terms {
    /// Of these; none where their lines are not the same or apart, so that who adds to a place of the gradient would be
    /// chance.
    pub(super) fn of(terms: &[CrossEntropy]) -> Option<Self> {
        let stride = terms.first()?.stride;
        // By where lines run side by side, and where they begin there.
        let mut lines: BTreeMap<(usize, usize), (usize, Vec<u32>)> = BTreeMap::new();
        let (mut starts, mut words) = (Vec::new(), Vec::new());
        for (number, term) in terms.iter().enumerate() {
            let CrossEntropy { starts: of, count, gold, share, .. } = term;
            assert!(gold < count && !of.is_empty(), "a gold logit among those of one line at least");
            if term.stride != stride {
                return None;
            }
            let share = (share / of.len() as f64) as f32;
            words.extend([starts.len(), of.len(), *count, *gold].map(|x| x as u32));
            words.extend([share.to_bits(), 0, 0, 0]);
            starts.extend(of.iter().map(|start| *start as u32));
            for start in of {
                let (own, readers) = lines.entry((start % stride, start / stride)).or_insert((*count, Vec::new()));
                if own != count {
                    return None;
                }
                readers.push(number as u32);
            }
        }
        let crosses = |((a, first), (count, _)): (&(usize, usize), &(usize, Vec<u32>)), next: &(usize, usize)| {
            *a == next.0 && first + count > next.1
        };
        if lines.iter().zip(lines.keys().skip(1)).any(|(line, next)| crosses(line, next)) {
            return None;
        }
        let (mut of_lines, mut readers) = (Vec::<u32>::with_capacity(4 * lines.len()), Vec::<u32>::new());
        let (mut longest, mut end, mut written) = (0, 0, 0);
        for ((beside, first), (count, of)) in &lines {
            let start = first * stride + beside;
            let from = readers.len();
            readers.extend(of);
            of_lines.extend([start, from, readers.len(), *count].map(|x| x as u32));
            (longest, end) = (longest.max(*count), end.max(start + (count - 1) * stride + 1));
            written += count;
        }
        assert!(end < 1 << 32, "logits whose places are beyond 32 bits");
        words.extend(of_lines);
        words.extend(starts);
        words.extend(readers);
        Some(Self { words, count: terms.len(), lines: lines.len(), longest, stride, end, written })
    }

    /// The losses, and their sum's gradient to the first `len` numbers of `dz`.
    pub(super) fn to_gradient(&self, device: &Device, dz: &mut Tensor, z: &Tensor, len: usize) -> Result<Vec<f64>> {
        let &Self { count, lines, longest, stride, end, written, .. } = self;
        assert!(end <= len && len <= dz.len.min(z.len), "a buffer of fewer logits");
        let z = stored_as(device, z, dz.number)?;
        let words = device.upload(Number::F32, bytemuck::cast_slice(&self.words))?;
        let found = device.allocate(Number::F32, FOUND * count)?;
        let at = |word: usize| device.address(&words, word);
        let (starts, stride) = (at(8 * count + 4 * lines), stride.into());
        let arguments = [device.address(&found, 0), device.address(&z, 0), at(0), starts, stride];
        let shape = Shape { grid: [count, 1], threads: THREADS, shared_bytes: 8 * THREADS };
        device.launch(dz.number.pick(LOSS), shape, &arguments)?;
        if written < len {
            device.clear(dz)?;
        }
        let readers = at(8 * count + 4 * lines + self.starts());
        let arguments = [
            device.address(dz, 0),
            device.address(&z, 0),
            device.address(&found, 0),
            at(0),
            starts,
            at(8 * count),
            readers,
            stride,
        ];
        let shape = Shape { grid: [lines, longest.div_ceil(SPAN)], threads: THREADS, shared_bytes: 0 };
        device.launch(dz.number.pick(SLOPES), shape, &arguments)?;
        let mut losses = Vec::with_capacity(count);
        device.download(&found, 4 * FOUND * count, |bytes| {
            let number =
                |found: &[u8], at: usize| f64::from(f32::from_le_bytes(found[at..at + 4].try_into().expect("four")));
            let sum = |found: &[u8]| f64::from_le_bytes(found[8..16].try_into().expect("eight"));
            losses.extend(bytes.chunks_exact(4 * FOUND).map(|of| sum(of).ln() + (number(of, 0) - number(of, 4))));
        })?;
        Ok(losses)
    }

    /// Lines of all terms, those that several read counted as often.
    fn starts(&self) -> usize {
        (self.words.len() - 8 * self.count - 4 * self.lines) / 2
    }
}
