//! Layer normalisation, also of rows far from zero, of constant rows, and of tiny ones.

use super::support::{Numbers, assert_accurate, bits, cpus};
use wherefore::backend::cpu::Cpu;
use wherefore::backend::reference::Reference;
use wherefore::backend::{Backend, Norm};

pub(super) const WIDTHS: [usize; 12] = [1, 2, 7, 16, 17, 33, 48, 384, 768, 1000, 1024, 9000];

pub(super) struct Case {
    x: Vec<f32>,
    weight: Vec<f32>,
    bias: Vec<f32>,
    width: usize,
    rows: usize,
}

impl Case {
    /// Rows around `offset`, spread over `scale`.
    pub(super) fn new(rows: usize, width: usize, offset: f32, scale: f32) -> Self {
        let mut numbers = Numbers::new(width as u64);
        let x = numbers.vector(rows * width, scale).iter().map(|x| x + offset).collect();
        Self { x, weight: numbers.vector(width, 2.0), bias: numbers.vector(width, 1.0), width, rows }
    }

    pub(super) fn run<B: Backend>(&self, backend: &B) -> B::Tensor {
        let norm = Norm {
            weight: backend.upload(&self.weight).unwrap(),
            bias: backend.upload(&self.bias).unwrap(),
            epsilon: 1e-12,
            width: self.width,
        };
        let mut out = backend.tensor(self.x.len()).unwrap();
        backend.layer_norm(&mut out, &backend.upload(&self.x).unwrap(), &norm, self.rows).unwrap();
        out
    }

    pub(super) fn plain(&self) -> Vec<f32> {
        self.x.chunks(self.width).flat_map(|row| self.plain_row(row)).collect()
    }

    fn plain_row(&self, row: &[f32]) -> Vec<f32> {
        let n = self.width as f32;
        let mean = row.iter().sum::<f32>() / n;
        let variance = row.iter().map(|x| (x - mean) * (x - mean)).sum::<f32>() / n;
        let scale = 1.0 / (variance + 1e-12).sqrt();
        (0..self.width).map(|i| (row[i] - mean) * scale * self.weight[i] + self.bias[i]).collect()
    }
}

#[test]
fn error_over_widths_offsets_and_scales() {
    for width in WIDTHS {
        for (offset, scale) in [(0.0, 1.0), (0.0, 1e-7), (0.0, 1e10), (100.0, 1.0), (-5.0, 20.0)] {
            let case = Case::new(11, width, offset, scale);
            let what = format!("width {width}, {offset} ± {scale}");
            // One wide: x − mean is exactly zero in any arithmetic but sixteenths of a sum; more: the rule.
            assert_accurate(&what, &case.run(&Cpu::new()), &case.plain(), &case.run(&Reference));
        }
    }
}

#[test]
fn a_constant_row_becomes_the_bias() {
    for width in WIDTHS {
        let mut case = Case::new(3, width, 0.0, 1.0);
        case.x.fill(0.75);
        let out = case.run(&Cpu::new());
        assert!(out.chunks(width).all(|row| row == case.bias), "width {width}");
    }
}

#[test]
fn bits_depend_on_the_row_alone() {
    for width in WIDTHS {
        let case = Case::new(9, width, 0.3, 1.0);
        let whole = case.run(&Cpu::new());
        for cpu in cpus() {
            assert_eq!(bits(&case.run(&cpu)), bits(&whole), "width {width}, {}", cpu.isa().name());
        }
        for row in 0..9 {
            let part = Case {
                x: case.x[row * width..][..width].to_vec(),
                weight: case.weight.clone(),
                bias: case.bias.clone(),
                width,
                rows: 1,
            };
            assert_eq!(bits(&part.run(&Cpu::new())), bits(&whole[row * width..][..width]), "width {width}, row {row}");
        }
    }
}
