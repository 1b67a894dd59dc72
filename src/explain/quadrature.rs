//! Quadrature rules on [0, 1]: where integrated gradients looks, and how much each look counts. Weights always sum to
//! 1.

use std::collections::BTreeMap;
use std::f64::consts::PI;
use std::fmt;
use std::str::FromStr;
use std::sync::Mutex;

use rayon::prelude::*;

use crate::sync::lock;

/// A rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Quadrature {
    /// Gauss-Legendre: exact for polynomials of degree 2N − 1.
    #[default]
    GaussLegendre,
    /// N intervals, N + 1 nodes, the ends counted half.
    Trapezoid,
    /// The middles of N intervals.
    Midpoint,
    /// The left ends of N intervals.
    Left,
    /// The right ends of N intervals.
    Right,
}

/// A place on the path, and its weight.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Node {
    /// α, 0 at the baseline and 1 at the text.
    pub alpha: f64,
    /// The share of the whole.
    pub weight: f64,
}

impl Quadrature {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::GaussLegendre, Self::Trapezoid, Self::Midpoint, Self::Left, Self::Right];

    /// Its nodes for `steps` ≥ 1, ascending.
    pub fn nodes(self, steps: usize) -> Vec<Node> {
        let n = steps as f64;
        let equal = |shift: f64| {
            (0..steps).map(|k| Node { alpha: (k as f64 + shift) / n, weight: 1.0 / n }).collect::<Vec<_>>()
        };
        match self {
            Self::GaussLegendre => roots(steps),
            Self::Midpoint => equal(0.5),
            Self::Left => equal(0.0),
            Self::Right => equal(1.0),
            Self::Trapezoid => {
                let weight = |k: usize| if k == 0 || k == steps { 0.5 / n } else { 1.0 / n };
                (0..=steps).map(|k| Node { alpha: k as f64 / n, weight: weight(k) }).collect()
            }
        }
    }
}

/// Those of Gauss-Legendre, which take steps² operations: made once for all explanations of so many steps.
fn roots(steps: usize) -> Vec<Node> {
    static KNOWN: Mutex<BTreeMap<usize, Vec<Node>>> = Mutex::new(BTreeMap::new());
    if let Some(nodes) = lock(&KNOWN).get(&steps) {
        return nodes.clone();
    }
    let nodes: Vec<Node> = (0..steps).into_par_iter().map(|k| gauss_legendre(steps, steps - 1 - k)).collect();
    let mut known = lock(&KNOWN);
    if known.len() < MOST_KNOWN {
        known.insert(steps, nodes.clone());
    }
    nodes
}

/// Numbers of steps whose nodes are kept: doubling from any to the most there may be takes twenty.
const MOST_KNOWN: usize = 64;

/// The k-th node from the right: a root of the Legendre polynomial, by Newton's method from Tricomi's estimate.
fn gauss_legendre(n: usize, k: usize) -> Node {
    let mut x = (PI * (k as f64 + 0.75) / (n as f64 + 0.5)).cos();
    let mut slope = 1.0;
    for _ in 0..20 {
        let (value, derivative) = legendre(n, x);
        slope = derivative;
        let step = value / slope;
        x -= step;
        if step.abs() < 1e-16 {
            break;
        }
    }
    // On [−1, 1] the weight is 2 / ((1 − x²) P'²); half of that on [0, 1].
    Node { alpha: f64::midpoint(1.0, x), weight: 1.0 / ((1.0 - x * x) * slope * slope) }
}

/// `P_n(x)` and its derivative, by Bonnet's recursion.
fn legendre(n: usize, x: f64) -> (f64, f64) {
    let (mut before, mut value) = (1.0, x);
    for k in 2..=n {
        let k = k as f64;
        (before, value) = (value, ((2.0 * k - 1.0) * x * value - (k - 1.0) * before) / k);
    }
    (value, n as f64 * (x * value - before) / (x * x - 1.0))
}

impl FromStr for Quadrature {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = Self::ALL.into_iter().find(|rule| rule.to_string() == text);
        known.ok_or_else(|| format!("expected gauss-legendre, trapezoid, midpoint, left or right, found {text:?}"))
    }
}

impl fmt::Display for Quadrature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::GaussLegendre => "gauss-legendre",
            Self::Trapezoid => "trapezoid",
            Self::Midpoint => "midpoint",
            Self::Left => "left",
            Self::Right => "right",
        })
    }
}
