//! Functions of numbers that several modules need, each in one order of operations.

/// The place of the largest; the first of equal ones, 0 where there are none.
pub(crate) fn argmax<T: PartialOrd>(values: &[T]) -> usize {
    (1..values.len()).fold(0, |best, i| if values[i] > values[best] { i } else { best })
}

/// `softmax(z)` over `z`; gives back `logsumexp(z)`.
pub(crate) fn softmax_in_place(z: &mut [f64]) -> f64 {
    let largest = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let mut total = 0.0;
    for z in z.iter_mut() {
        *z = (*z - largest).exp();
        total += *z;
    }
    for z in z.iter_mut() {
        *z /= total;
    }
    largest + total.ln()
}

/// `softmax(z)`.
pub(crate) fn softmax(z: impl IntoIterator<Item = f64>) -> Vec<f64> {
    let mut p: Vec<f64> = z.into_iter().collect();
    softmax_in_place(&mut p);
    p
}

/// `1 / (1 + e^−z)`, with no overflow on either side.
pub(crate) fn sigmoid(z: f64) -> f64 {
    if z >= 0.0 {
        1.0 / (1.0 + (-z).exp())
    } else {
        let e = z.exp();
        e / (1.0 + e)
    }
}

/// `ln(1 + e^z)`, with no overflow.
pub(crate) fn softplus(z: f64) -> f64 {
    z.max(0.0) + (-z.abs()).exp().ln_1p()
}

/// Ranks from 1, ties sharing the mean of theirs.
pub(crate) fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let mut ranks = vec![0.0; values.len()];
    let mut first = 0;
    while first < order.len() {
        let tied = order[first..].iter().take_while(|&&i| values[i] == values[order[first]]).count().max(1);
        let mean = first as f64 + f64::midpoint(tied as f64, 1.0);
        order[first..first + tied].iter().for_each(|&i| ranks[i] = mean);
        first += tied;
    }
    ranks
}

/// The probability that a positive has a greater score than a negative, ties counting half (the area under the ROC
/// curve); nothing where either is missing.
///
/// # Panics
/// Where there is not a label for each score.
pub fn area_under_roc(scores: &[f64], positive: &[bool]) -> Option<f64> {
    assert_eq!(scores.len(), positive.len(), "a label for each score");
    let count = positive.iter().filter(|&&positive| positive).count() as f64;
    let others = positive.len() as f64 - count;
    let sum: f64 = ranks(scores).iter().zip(positive).filter(|(_, positive)| **positive).map(|(rank, _)| rank).sum();
    (count > 0.0 && others > 0.0).then(|| (sum - count * (count + 1.0) / 2.0) / (count * others))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_is_the_first_of_equals() {
        assert_eq!(argmax(&[1.0, 3.0, 3.0, f64::NAN]), 1);
        assert_eq!(argmax::<f32>(&[]), 0);
    }

    #[test]
    fn ranks_are_shared_by_equals() {
        assert_eq!(ranks(&[3.0, 1.0, 3.0, 2.0]), [3.5, 1.0, 3.5, 2.0]);
    }
}
