//! A share of the traffic, or of the capacity.

use serde::{Deserialize, Serialize};
use std::fmt;

/// A share in basis points: 10 000 is all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Weight(u16);

impl Weight {
    /// Nothing.
    pub const NONE: Weight = Weight(0);
    /// Everything.
    pub const ALL: Weight = Weight(10_000);

    /// So many per cent, 100 at the most.
    pub const fn percent(percent: u16) -> Self {
        if percent >= 100 { Self::ALL } else { Weight(percent * 100) }
    }
    /// So many hundredths of a per cent, 10 000 at the most.
    pub const fn basis_points(points: u16) -> Self {
        if points >= 10_000 { Self::ALL } else { Weight(points) }
    }
    /// `part` of `whole`, rounded down. Nothing of nothing is everything.
    pub fn ratio(part: u64, whole: u64) -> Self {
        if whole == 0 { Self::ALL } else { Weight((u128::from(part.min(whole)) * 10_000 / u128::from(whole)) as u16) }
    }
    /// In basis points.
    pub const fn points(self) -> u16 {
        self.0
    }
    /// What is missing to all.
    pub const fn rest(self) -> Self {
        Weight(10_000 - self.0)
    }
    /// This share of `n`, rounded up.
    ///
    /// ```
    /// # use rollback_core::Weight;
    /// assert_eq!(Weight::percent(50).of(3), 2);
    /// ```
    pub fn of(self, n: u32) -> u32 {
        (u64::from(n) * u64::from(self.0)).div_ceil(10_000) as u32
    }
}

impl fmt::Display for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_multiple_of(100) {
            write!(f, "{}%", self.0 / 100)
        } else {
            write!(f, "{}.{:02}%", self.0 / 100, self.0 % 100)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_bounded_and_round_to_the_safe_side() {
        assert_eq!((Weight::percent(250), Weight::basis_points(60_000)), (Weight::ALL, Weight::ALL));
        assert_eq!((Weight::percent(30).rest(), Weight::ALL.rest()), (Weight::percent(70), Weight::NONE));
        // Instances are rounded up: a floor is kept. Progress is rounded down: not done before it is.
        for (percent, n, expected) in [(80, 3, 3), (80, 5, 4), (1, 1, 1), (0, 9, 0), (100, u32::MAX, u32::MAX)] {
            assert_eq!(Weight::percent(percent).of(n), expected, "{percent}% of {n}");
        }
        assert_eq!(Weight::ratio(999_999, 1_000_000), Weight::basis_points(9_999));
        assert_eq!((Weight::ratio(0, 0), Weight::ratio(9, 3)), (Weight::ALL, Weight::ALL));
        assert_eq!(Weight::ratio(u64::MAX, u64::MAX), Weight::ALL);
        assert_eq!(
            (Weight::percent(7).to_string(), Weight::basis_points(705).to_string()),
            ("7%".into(), "7.05%".into())
        );
    }
}
