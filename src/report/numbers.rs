//! Numbers as a person reads them: those of one column, or of one list, in one form.

/// How the numbers of a list are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// With so many decimals.
    Decimals(usize),
    /// As powers of ten, with so many decimals: for what is very small or very large.
    Powers(usize),
}

/// Decimals at most.
const DECIMALS: i32 = 7;

/// Magnitudes (powers of ten) from which on a number is too long to be written out.
const LONG: i32 = 6;

impl Form {
    /// One that tells `digits` digits of the largest of the values.
    pub(super) fn of(values: impl Iterator<Item = f64>, digits: usize) -> Self {
        let largest = values.map(f64::abs).filter(|size| size.is_finite()).fold(0.0, f64::max);
        let last = digits.saturating_sub(1);
        if largest == 0.0 {
            return Self::Decimals(last);
        }
        let magnitude = largest.log10().floor() as i32;
        match last as i32 - magnitude {
            _ if magnitude >= LONG => Self::Powers(last),
            decimals if decimals > DECIMALS => Self::Powers(last),
            decimals => Self::Decimals(decimals.max(0) as usize),
        }
    }

    pub(super) fn plain(self, value: f64) -> String {
        zero_without_sign(match self {
            Self::Decimals(decimals) => format!("{value:.decimals$}"),
            Self::Powers(decimals) => format!("{value:.decimals$e}"),
        })
    }

    /// With its sign, `+` included.
    pub(super) fn signed(self, value: f64) -> String {
        zero_without_sign(match self {
            Self::Decimals(decimals) => format!("{value:+.decimals$}"),
            Self::Powers(decimals) => format!("{value:+.decimals$e}"),
        })
    }
}

/// A number as it was written, without a sign where that is of nothing: it was rounded away.
pub(crate) fn zero_without_sign(number: String) -> String {
    let digits = number.split('e').next().unwrap_or_default();
    if digits.contains(|c: char| ('1'..='9').contains(&c)) { number } else { number.replace(['-', '+'], "") }
}

/// A number by itself, with four digits at most.
pub(super) fn short(value: f64) -> String {
    match Form::of(std::iter::once(value), 4) {
        form @ Form::Decimals(1..) => form.plain(value).trim_end_matches('0').trim_end_matches('.').to_owned(),
        form => form.plain(value),
    }
}

/// A word in a list of words: in quotes where it is nothing but punctuation, which would be taken for the list's own.
pub(super) fn listed(word: &str) -> String {
    if word.chars().any(char::is_alphanumeric) { word.to_owned() } else { format!("“{word}”") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_of_a_list_have_one_form_and_powers_of_ten_are_for_what_is_very_small_or_large() {
        let shown = |values: &[f64]| {
            let form = Form::of(values.iter().copied(), 2);
            values.iter().map(|&value| form.signed(value)).collect::<Vec<_>>()
        };
        assert_eq!(shown(&[0.37, -0.0097]), ["+0.37", "-0.01"]);
        assert_eq!(shown(&[123.4, -1.0]), ["+123", "-1"]);
        assert_eq!(shown(&[2.5e-4]), ["+0.00025"]);
        assert_eq!(shown(&[2.5e-9]), ["+2.5e-9"]);
        assert_eq!(shown(&[2.5e7]), ["+2.5e7"]);
        assert_eq!(shown(&[0.0]), ["0.0"]);
        assert_eq!(shown(&[12.0, -0.2, 0.4]), ["+12", "0", "0"], "what is rounded away has no sign");
        assert_eq!(Form::Decimals(3).plain(-0.0001), "0.000");
    }

    #[test]
    fn a_number_by_itself_is_short() {
        let shown = [0.756_156_6, 0.5, 2.0, -123.456, 0.0, 1e-9, 12_345.6].map(short);
        assert_eq!(shown, ["0.7562", "0.5", "2", "-123.5", "0", "1.000e-9", "12346"]);
    }

    #[test]
    fn punctuation_in_a_list_is_quoted() {
        assert_eq!((listed("电影"), listed("a-b"), listed("，")), ("电影".into(), "a-b".into(), "“，”".into()));
    }
}
