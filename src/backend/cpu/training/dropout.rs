//! Dropping numbers of rows: the factors of a row are drawn, used and forgotten; the way back draws them again.

use std::ops::Range;

use rayon::prelude::*;

use super::super::share::split;
use crate::backend::Rows;
use crate::backend::cpu::Cpu;
use crate::backend::training::{Dropout, Place};

/// [`crate::backend::training::Training::dropout`]
pub(super) fn dropout(
    cpu: Cpu,
    out: &mut [f32],
    x: &[f32],
    residual: Option<&[f32]>,
    dropout: &Dropout<'_>,
    place: &Place<'_, Cpu>,
) {
    let rows = |sequence: usize| match place.rows {
        Rows::All => place.batch.range(sequence),
        Rows::First => sequence..sequence + 1,
    };
    let width = place.width;
    let shares = cpu.sequence_shares(place.batch);
    let lengths = shares.iter().map(|share| share.clone().map(|sequence| rows(sequence).len()).sum::<usize>() * width);
    let parts = split(out, lengths.collect::<Vec<_>>());
    shares.into_par_iter().zip(parts).for_each(|(share, out): (Range<usize>, _)| {
        let mut factors = vec![0.0; width];
        let mut out = out.chunks_exact_mut(width.max(1));
        for sequence in share {
            for (number, row) in rows(sequence).enumerate() {
                let here = row * width..(row + 1) * width;
                let Some(out) = out.next() else { return };
                dropout.factors(&mut factors, sequence, number as u32);
                match residual {
                    Some(residual) => add_scaled(out, &x[here.clone()], &factors, &residual[here]),
                    None => scale(out, &x[here], &factors),
                }
            }
        }
    });
}

fn scale(out: &mut [f32], x: &[f32], factors: &[f32]) {
    out.iter_mut().zip(x).zip(factors).for_each(|((out, x), factor)| *out = x * factor);
}

fn add_scaled(out: &mut [f32], x: &[f32], factors: &[f32], residual: &[f32]) {
    let terms = x.iter().zip(factors).zip(residual);
    out.iter_mut().zip(terms).for_each(|(out, ((x, factor), residual))| *out = x * factor + residual);
}
