//! Groups of records that are alike, and what sets each apart: spherical k-means (Dhillon & Modha 2001) over features,
//! described by the words that a group has and the others have not.

use std::collections::HashMap;

use crate::explain::Segmentation;
use crate::numeric::argmax;

/// Rounds at most; few sets need more than ten.
const ROUNDS: usize = 50;
/// Words that describe a group.
const WORDS: usize = 8;
/// The share of a group's records that a describing word must be in, and how many of them.
const LEAST_SHARE: f64 = 0.15;
const LEAST_COUNT: u64 = 2;

/// Each row's group, by the cosine of `features [n, width]` to the groups' means. Groups are numbered by falling size.
///
/// Starts from rows far apart (the first, then always the one least like those taken), so that nothing is drawn.
pub fn clusters(features: &[f32], width: usize, count: usize) -> Vec<usize> {
    let rows: Vec<Vec<f64>> = features.chunks_exact(width.max(1)).map(unit).collect();
    if rows.is_empty() {
        return Vec::new();
    }
    let count = count.clamp(1, rows.len());
    let mut centres: Vec<Vec<f64>> = rows.first().cloned().into_iter().collect();
    while centres.len() < count {
        let nearest = |row: &Vec<f64>| centres.iter().map(|centre| dot(row, centre)).fold(-1.0, f64::max);
        let farthest = rows
            .iter()
            .map(nearest)
            .enumerate()
            .fold((0, f64::INFINITY), |least, this| if this.1 < least.1 { this } else { least });
        centres.push(rows[farthest.0].clone());
    }
    let mut groups = vec![usize::MAX; rows.len()];
    for _ in 0..ROUNDS {
        let found: Vec<usize> = rows.iter().map(|row| most_alike(row, &centres)).collect();
        if found == groups {
            break;
        }
        groups = found;
        for (group, centre) in centres.iter_mut().enumerate() {
            let members = rows.iter().zip(&groups).filter(|(_, of)| **of == group);
            let mut sum = vec![0.0; width];
            members.for_each(|(row, _)| sum.iter_mut().zip(row).for_each(|(sum, x)| *sum += x));
            // A group that lost its last member stays where it was.
            if sum.iter().any(|x| *x != 0.0) {
                let norm = dot(&sum, &sum).sqrt();
                *centre = sum.iter().map(|x| x / norm).collect();
            }
        }
    }
    by_size(&groups, count)
}

fn unit(row: &[f32]) -> Vec<f64> {
    let row: Vec<f64> = row.iter().map(|&x| f64::from(x)).collect();
    let norm = dot(&row, &row).sqrt();
    if norm > 0.0 { row.iter().map(|x| x / norm).collect() } else { row }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn most_alike(row: &[f64], centres: &[Vec<f64>]) -> usize {
    let likeness: Vec<f64> = centres.iter().map(|centre| dot(row, centre)).collect();
    argmax(&likeness)
}

fn by_size(groups: &[usize], count: usize) -> Vec<usize> {
    let mut sizes = vec![0; count];
    for &group in groups {
        sizes[group] += 1;
    }
    let mut order: Vec<usize> = (0..count).collect();
    order.sort_by_key(|&group| (std::cmp::Reverse(sizes[group]), group));
    let mut number = vec![0; count];
    order.iter().enumerate().for_each(|(new, &old)| number[old] = new);
    groups.iter().map(|&group| number[group]).collect()
}

/// The words of each group: those whose share of the group's records is most above their share of the others', by the
/// logarithm of the odds, of the words that several of its records share; where there are none (a group of one), of all
/// that they have. Of equals, the longer is the rarer one (Zipf).
pub fn describe(texts: &[(String, Option<String>)], groups: &[usize], words: Segmentation) -> Vec<Vec<String>> {
    let count = groups.iter().max().map_or(0, |most| most + 1);
    let mut sizes = vec![0_u64; count];
    let mut found: HashMap<String, Vec<u64>> = HashMap::new();
    for ((text, pair), &group) in texts.iter().zip(groups) {
        sizes[group] += 1;
        for word in super::bias::distinct_words(text, pair.as_deref(), words) {
            found.entry(word).or_insert_with(|| vec![0; count])[group] += 1;
        }
    }
    let all = texts.len() as u64;
    let describe = |group: usize, least: u64| -> Vec<String> {
        let (size, others) = (sizes[group], all - sizes[group]);
        let mut scored: Vec<(f64, &str)> = found
            .iter()
            .filter(|(_, by_group)| by_group[group] >= least)
            .map(|(word, by_group)| {
                let (here, there) = (by_group[group], by_group.iter().sum::<u64>() - by_group[group]);
                // Half a record more and less: no odds are infinite.
                let odds = |with: u64, of: u64| ((with as f64 + 0.5) / ((of - with) as f64 + 0.5)).ln();
                (odds(here, size) - odds(there, others), word.as_str())
            })
            .filter(|(score, _)| *score > 0.0)
            .collect();
        let length = |word: &str| word.chars().count();
        scored.sort_by(|a, b| b.0.total_cmp(&a.0).then(length(b.1).cmp(&length(a.1))).then(a.1.cmp(b.1)));
        scored.into_iter().take(WORDS).map(|(_, word)| word.to_owned()).collect()
    };
    let least = |group: usize| LEAST_COUNT.max((LEAST_SHARE * sizes[group] as f64).ceil() as u64);
    let of_any = |group: usize| {
        let shared = describe(group, least(group));
        if shared.is_empty() { describe(group, 1) } else { shared }
    };
    (0..count).map(of_any).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directions_make_groups_whatever_their_length() {
        let features = [1.0, 0.1, 9.0, 0.2, 0.5, 0.0, 0.1, 3.0, 0.0, 0.2];
        assert_eq!(clusters(&features, 2, 2), [0, 0, 0, 1, 1]);
        assert_eq!(clusters(&features, 2, 1), [0; 5]);
        assert_eq!(clusters(&features, 2, 9).iter().collect::<std::collections::HashSet<_>>().len(), 5);
        assert_eq!(clusters(&[], 2, 3), [0_usize; 0]);
    }

    #[test]
    fn a_group_is_told_by_its_own_words() {
        let texts: Vec<(String, Option<String>)> =
            ["a hotel room", "the hotel staff", "a laptop screen", "the laptop fan"]
                .into_iter()
                .map(|text| (text.to_owned(), None))
                .collect();
        let words = describe(&texts, &[0, 0, 1, 1], Segmentation::Segmenter);
        assert_eq!((words[0][0].as_str(), words[1][0].as_str()), ("hotel", "laptop"));
    }

    #[test]
    fn a_group_that_shares_no_word_is_told_by_those_of_its_records() {
        let texts = ["the hotel room", "the hotel bar", "zebras and apples", "the laptop fan"];
        let texts: Vec<_> = texts.into_iter().map(|text| (text.to_owned(), None)).collect();
        let words = describe(&texts, &[0, 0, 1, 2], Segmentation::Segmenter);
        assert_eq!(words, [vec!["hotel", "the"], vec!["apples", "zebras", "and"], vec!["laptop", "fan", "the"]]);
    }
}
