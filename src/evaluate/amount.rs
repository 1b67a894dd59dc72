//! How many of the training records: a number, or a share.

use std::fmt;
use std::str::FromStr;

use super::units::count;

/// How many of the training records.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Amount {
    /// So many.
    Records(usize),
    /// So much of them, rounded up.
    Share(f64),
}

impl Amount {
    /// Of `n`.
    pub fn of(self, n: usize) -> usize {
        match self {
            Self::Records(records) => records.min(n),
            Self::Share(share) => count(share, n),
        }
    }
}

impl FromStr for Amount {
    type Err = String;

    /// `20` and `1` are records, `0.05` and `5%` a share.
    fn from_str(text: &str) -> Result<Self, String> {
        let refused = || format!("expected a number of records, or a share such as 0.05 or 5%, found {text:?}");
        let share = |share: f64| if share > 0.0 && share < 1.0 { Ok(Self::Share(share)) } else { Err(refused()) };
        if let Some(percent) = text.strip_suffix('%') {
            return share(percent.trim().parse::<f64>().map_err(|_| refused())? / 100.0);
        }
        match text.parse::<usize>() {
            Ok(0) => Err(refused()),
            Ok(records) => Ok(Self::Records(records)),
            Err(_) => share(text.parse().map_err(|_| refused())?),
        }
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Records(records) => write!(f, "{records}"),
            Self::Share(share) => write!(f, "{}%", 100.0 * share),
        }
    }
}
