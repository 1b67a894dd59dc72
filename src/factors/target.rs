//! What a record is explained for, or was trained on: the thing its loss is taken against.

/// A label with a meaning: resolved against the model's classes.
#[derive(Clone, Debug, PartialEq)]
pub enum Target {
    /// One class of a single-label model, `0 .. K`.
    Class(usize),
    /// The classes of a multi-label model: for each of the K 0 or 1, or a share between.
    Classes(Vec<f32>),
    /// The K values of a regression.
    Values(Vec<f32>),
}

impl Target {
    /// The classes it has, ascending: of shares those of more than half; of values none.
    pub fn classes(&self) -> Vec<usize> {
        match self {
            Self::Class(class) => vec![*class],
            Self::Classes(shares) => (0..shares.len()).filter(|&k| shares[k] > 0.5).collect(),
            Self::Values(_) => Vec::new(),
        }
    }

    /// Whether a prediction of `self` is right where the label is `other`: whether they have the same classes, or
    /// values.
    pub fn agrees(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Classes(_), Self::Classes(_)) => self.classes() == other.classes(),
            _ => self == other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_agree_where_they_are_of_the_same_classes() {
        let shares = Target::Classes(vec![0.9, 0.2, 0.5, 0.8]);
        assert_eq!(shares.classes(), [0, 3]);
        assert!(shares.agrees(&Target::Classes(vec![1.0, 0.0, 0.0, 1.0])));
        assert!(!shares.agrees(&Target::Classes(vec![1.0, 0.0, 1.0, 1.0])));
        assert!(!Target::Values(vec![0.9]).agrees(&Target::Values(vec![0.8])));
    }
}
