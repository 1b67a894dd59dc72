//! How far a score of projected gradients may be off: by how much it would be another, had the projection been drawn
//! again.
//!
//! A score is made of projected numbers, which are drawn a row and a column of a layer's table at a time; what it loses
//! without a number, a row or a column is that one's share, and the spread of the shares tells the score's error
//! ([`Draws`]), which is a jackknife where the score is no sum:
//!
//! | score | share of R |
//! |---|---|
//! | `s = φ_q·φ_i` | `Σ_R φ_q,r φ_i,r` |
//! | the same over both lengths (once, or term by term) | that over the lengths, less `½ s Σ_R (φ_q,r²/‖φ_q‖² + φ_i,r²/‖φ_i‖²)` |
//! | `s = u·φ_i`, `u = M⁻¹ φ_q`, M a damped moment of projected gradients | `W_R(u, v)`, `v = M⁻¹ φ_i`, W as [`Deletion`] has it |
//! | the same over `n = √(φ_i·v)` (RelatIF) | that over n, less `½ s W_R(v, v)/n²` |
//!
//! The mean of an ensemble also varies with its members: their variance over their number is added.
//!
//! Of preconditioned scores that errs, if at all, on the side of caution (Efron and Stein 1981, "The jackknife estimate
//! of variance"): the more, the less is damped.
//!
//! What these errors are not of: a preconditioner that would be another where more numbers are kept (a bias, which no
//! spread shows), and the choice of the first among many, whose scores are more often too high than too low.

use rayon::prelude::*;

use super::form::{Form, Prepared, RowNorm};
use super::pair::{Row, sides};
use super::query::{Query, Term};
use super::source::Source;
use crate::error::Result;
use crate::factors::{DampedMoment, Deletion, Draws, Shares, Spread};
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
    deletion: Deletion<'a>,
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
    /// The last place of the list, from 0, whose score cannot be told from this one's, nor any between: its own where
    /// the next one's can.
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

/// What a score is made of.
struct Parts {
    shares: Shares,
    /// Each member's score.
    members: Vec<f64>,
}

impl<'a> ErrorBars<'a> {
    /// Of scores by gradients of these `layers`, of queries preconditioned by `moments`, one a term (none where they
    /// were not, or before they were projected); whether terms are members of an `ensemble`, whose mean is the score.
    ///
    /// # Errors
    /// As [`Draws::new`].
    pub fn new(layers: &[KeptLayer], moments: &'a [DampedMoment<'a>], ensemble: bool) -> Result<Self> {
        let draws = Draws::new(layers)?;
        let of = |moment: &'a DampedMoment<'a>| Moment { moment, deletion: Deletion::new(moment, &draws) };
        let moments = moments.iter().map(of).collect();
        Ok(Self { draws, moments, ensemble, directions: false })
    }

    /// The same where both sides of every term were brought to unit length before they were multiplied, as for
    /// [`super::Rule::Less`].
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
        let parts: Vec<Parts> = scored
            .par_iter()
            .map(|one| self.parts(form, &prepared, &sides(source, form, one.place, one.row, None), *one))
            .collect();
        let bar = |i: usize| {
            let (interval, score) = (self.spread(&parts[i]).interval(), f64::from(scored[i].score));
            let apart = |j: &usize| {
                let interval = self.spread(&parts[i].less(&parts[*j])).interval();
                (score - f64::from(scored[*j].score)).abs() > interval.half
            };
            let tied = (i + 1..scored.len()).take_while(|j| !apart(j)).last().unwrap_or(i);
            let (low, high) = ((score - interval.half) as f32, (score + interval.half) as f32);
            ErrorBar { error: interval.error as f32, low, high, tied }
        };
        (0..scored.len()).into_par_iter().map(bar).collect()
    }

    fn spread(&self, parts: &Parts) -> Spread {
        self.draws.spread(&parts.shares).with(Spread::of_mean(&parts.members))
    }

    fn parts(&self, form: &Form<'_>, query: &Prepared, sides: &[Row], scored: Scored) -> Parts {
        let (mut shares, mut members) = (self.draws.none(), Vec::new());
        let over = Over::new(form, query, sides, scored.row);
        let half = 0.5 * f64::from(scored.score);
        for (number, (pass, term)) in form.passes.iter().zip(&query.terms).enumerate() {
            let side = &sides[pass.set];
            let scale = over.quotient(f64::from(pass.rate * side.weight(&term.weight)));
            let [x, y] = [&*term.features, &*side.features];
            let both = |r: usize| f64::from(x[r]) * f64::from(y[r]);
            match self.moments.get(number) {
                None if self.directions => {
                    let cosine = product(term, side);
                    let square = |x: &[f32], r: usize| f64::from(x[r]).powi(2);
                    let of = |r: usize| both(r) - 0.5 * cosine * (square(x, r) + square(y, r));
                    shares.add(scale, &self.draws.of_sum(of));
                }
                None => shares.add(scale, &self.draws.of_sum(both)),
                Some(Moment { moment, deletion }) => {
                    let solved = moment.solve(&[y]).swap_remove(0);
                    shares.add(scale, &deletion.losses(x, &solved));
                    if let Over::Norm(_) = over {
                        let slope = over.quotient(f64::from(side.delta[0]));
                        shares.add(-half * slope.powi(2), &deletion.losses(&solved, &solved));
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
            let squares = |r: usize| square(asked, r, lengths[0]) + square(own, r, lengths[1]);
            shares.add(-half, &self.draws.of_sum(squares));
        }
        Parts { shares, members }
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

impl Parts {
    /// What the difference to another score is made of.
    fn less(&self, other: &Self) -> Self {
        let mut shares = self.shares.clone();
        shares.add(-1.0, &other.shares);
        let members = self.members.iter().zip(&other.members).map(|(x, y)| x - y).collect();
        Self { shares, members }
    }
}

fn product(term: &Term, side: &Row) -> f64 {
    term.features.iter().zip(&*side.features).map(|(&u, &x)| f64::from(u) * f64::from(x)).sum()
}
