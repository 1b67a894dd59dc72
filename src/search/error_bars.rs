//! How far a score of projected gradients may be off: by how much it would be another, had the projection been drawn again.
//!
//! A score is a sum over projected numbers; what it changes by when one of them counts more or less is that number's share, and the spread of the shares
//! tells the score's error ([`Draws`]):
//!
//! | score | share of number r |
//! |---|---|
//! | `s = φ_q·φ_i` | `φ_q,r φ_i,r` |
//! | the same over both lengths (once, or term by term) | that over the lengths, less `½ s (φ_q,r²/‖φ_q‖² + φ_i,r²/‖φ_i‖²)` |
//! | `s = u·φ_i`, `u = M⁻¹ φ_q`, M a damped moment of projected gradients | `w_r u_r v_r`, `v = M⁻¹ φ_i`, w as [`DampedMoment::own`] has it |
//! | the same over `n = √(φ_i·v)` (RelatIF) | that over n, less `½ s w_r v_r²/n²` |
//!
//! The mean of an ensemble also varies with its members: their variance over their number is added.
//!
//! Of preconditioned scores that is a number left out at a time, where draws leave out whole rows and columns: their errors come out somewhat too small, the
//! more so the less is damped and the fewer numbers are kept.
//!
//! What these errors are not of: a preconditioner that would be another where more numbers are kept (a bias, which no spread shows), and the choice of
//! the first among many, whose scores are more often too high than too low.

use rayon::prelude::*;

use super::form::{Form, Prepared, RowNorm};
use super::pair::{Row, sides};
use super::query::{Query, Term};
use super::source::Source;
use crate::error::Result;
use crate::factors::{DampedMoment, Draws, Spread};
use crate::model::KeptLayer;

/// What errors of a rule's scores are made of.
pub struct ErrorBars<'a> {
    draws: Draws,
    moments: Vec<Moment<'a>>,
    ensemble: bool,
    directions: bool,
}

/// What queries were preconditioned by after they were projected.
struct Moment<'a> {
    moment: &'a DampedMoment<'a>,
    own: Vec<f64>,
}

/// Where a score would lie in 95 of 100 cases, and how far down its list others may belong in its place.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ErrorBar {
    /// The standard error.
    pub error: f32,
    /// The interval's lower end.
    pub low: f32,
    /// Its upper end.
    pub high: f32,
    /// The last place of the list, from 0, whose score cannot be told from this one's, nor any between: its own where the next one's can.
    pub tied: usize,
}

/// A scored record.
#[derive(Clone, Copy, Debug)]
pub struct Scored {
    /// Its shard, and its row there.
    pub place: (usize, usize),
    /// Its row in the whole source.
    pub row: usize,
    /// What it scored.
    pub score: f32,
}

/// What a score is made of: each number's share, and each member's score.
struct Shares {
    numbers: Vec<f64>,
    members: Vec<f64>,
}

impl<'a> ErrorBars<'a> {
    /// Of scores by gradients of these `layers`, of queries preconditioned by `moments`, one a term (none where they were not, or before they were
    /// projected); whether terms are members of an `ensemble`, whose mean is the score.
    ///
    /// # Errors
    /// As [`Draws::new`].
    pub fn new(layers: &[KeptLayer], moments: &'a [DampedMoment<'a>], ensemble: bool) -> Result<Self> {
        let of = |moment: &'a DampedMoment<'a>| Moment { moment, own: moment.own() };
        let moments = moments.iter().map(of).collect();
        Ok(Self { draws: Draws::new(layers)?, moments, ensemble, directions: false })
    }

    /// The same where both sides of every term were brought to unit length before they were multiplied, as for [`super::Rule::Less`].
    #[must_use]
    pub fn of_directions(self) -> Self {
        Self { directions: true, ..self }
    }

    /// Of the scores of some records, in the order of their list, for `query`.
    ///
    /// # Panics
    /// Where query, form and source do not belong together.
    pub fn of<S: Source + ?Sized>(
        &self,
        source: &S,
        form: &Form<'_>,
        query: &Query,
        scored: &[Scored],
    ) -> Vec<ErrorBar> {
        let prepared = form.prepare(query);
        let shares: Vec<Shares> = scored
            .par_iter()
            .map(|one| self.shares(form, &prepared, &sides(source, form, one.place, one.row, None), *one))
            .collect();
        let bar = |i: usize| {
            let (interval, score) = (self.spread(&shares[i]).interval(), f64::from(scored[i].score));
            let apart = |j: &usize| {
                let interval = self.spread(&shares[i].less(&shares[*j])).interval();
                (score - f64::from(scored[*j].score)).abs() > interval.half
            };
            let tied = (i + 1..scored.len()).take_while(|j| !apart(j)).last().unwrap_or(i);
            let (low, high) = ((score - interval.half) as f32, (score + interval.half) as f32);
            ErrorBar { error: interval.error as f32, low, high, tied }
        };
        (0..scored.len()).into_par_iter().map(bar).collect()
    }

    fn spread(&self, shares: &Shares) -> Spread {
        self.draws.spread(&shares.numbers).with(Spread::of_mean(&shares.members))
    }

    fn shares(&self, form: &Form<'_>, query: &Prepared, sides: &[Row], scored: Scored) -> Shares {
        let mut numbers = vec![0.0; query.terms[0].features.len()];
        let mut members = Vec::new();
        let over = Over::new(form, query, sides, scored.row);
        for (number, (pass, term)) in form.passes.iter().zip(&query.terms).enumerate() {
            let side = &sides[pass.set];
            let scale = over.quotient(f64::from(pass.rate * side.weight(&term.weight)));
            match self.moments.get(number) {
                None if self.directions => {
                    let (cosine, [x, y]) = (product(term, side), [&*term.features, &*side.features]);
                    let square = |x: &[f32], r: usize| f64::from(x[r]).powi(2);
                    let both = |r: usize| f64::from(x[r]) * f64::from(y[r]);
                    add(&mut numbers, |r| scale * (both(r) - 0.5 * cosine * (square(x, r) + square(y, r))));
                }
                None => add(&mut numbers, |r| scale * f64::from(term.features[r]) * f64::from(side.features[r])),
                Some(moment) => {
                    let solved = moment.moment.solve(&[&side.features]).swap_remove(0);
                    let (v, own) = (|r: usize| f64::from(solved[r]), &moment.own);
                    add(&mut numbers, |r| scale * own[r] * f64::from(term.features[r]) * v(r));
                    if let Over::Norm(_) = over {
                        let half = 0.5 * f64::from(scored.score);
                        let slope = over.quotient(f64::from(side.delta[0]));
                        add(&mut numbers, |r| -half * own[r] * (slope * v(r)).powi(2));
                    }
                }
            }
            if self.ensemble {
                members.push(form.passes.len() as f64 * scale * product(term, side));
            }
        }
        if let Over::Lengths(lengths) = over {
            let [asked, own] = [&*query.terms[0].features, &*sides[0].features];
            let square = |x: &[f32], r: usize, length: f64| (f64::from(x[r]) / length).powi(2);
            let half = 0.5 * f64::from(scored.score);
            add(&mut numbers, |r| -half * (square(asked, r, lengths[0]) + square(own, r, lengths[1])));
        }
        Shares { numbers, members }
    }
}

/// What a score is over.
#[derive(Clone, Copy)]
enum Over {
    One,
    /// Nothing has a direction here: the score is 0, and stays so.
    Nothing,
    Norm(f64),
    Lengths([f64; 2]),
}

impl Over {
    fn new(form: &Form<'_>, query: &Prepared, sides: &[Row], row: usize) -> Self {
        let length = |x: &[f32]| x.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
        let over = match form.norm {
            RowNorm::One | RowNorm::Gradient => Self::One,
            RowNorm::Given(norms) => Self::Norm(f64::from(norms[row])),
            RowNorm::Feature => Self::Lengths([length(&query.terms[0].features), length(&sides[0].features)]),
        };
        if over.divisor() > 0.0 { over } else { Self::Nothing }
    }

    fn divisor(self) -> f64 {
        match self {
            Self::One => 1.0,
            Self::Nothing => 0.0,
            Self::Norm(norm) => norm,
            Self::Lengths([asked, own]) => asked * own,
        }
    }

    fn quotient(self, x: f64) -> f64 {
        if let Self::Nothing = self { 0.0 } else { x / self.divisor() }
    }
}

impl Shares {
    /// What the difference to another score is made of.
    fn less(&self, other: &Self) -> Self {
        let less = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x - y).collect();
        Self { numbers: less(&self.numbers, &other.numbers), members: less(&self.members, &other.members) }
    }
}

fn add(numbers: &mut [f64], share: impl Fn(usize) -> f64) {
    numbers.iter_mut().enumerate().for_each(|(r, sum)| *sum += share(r));
}

fn product(term: &Term, side: &Row) -> f64 {
    term.features.iter().zip(&*side.features).map(|(&u, &x)| f64::from(u) * f64::from(x)).sum()
}
