//! What a flag says: on or off, for how many, for whom.

use crate::{Digest, ReleaseId, Weight};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, fmt};

/// The whole rule of a flag. This is what a release of a flag is: the same rule is always the same release.
///
/// ```
/// use rollback_core::{Weight, local::FlagRule};
/// let canary = FlagRule::on().with_share(Weight::percent(5)).with_scope(["country:de"]);
/// assert_eq!(canary.to_string(), "on for 5% of country:de");
/// assert_eq!(canary.release_id(), canary.clone().release_id());
/// // Off is off, whatever else the rule says.
/// assert_eq!(FlagRule::on().with_share(Weight::NONE).release_id(), "off");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct FlagRule {
    /// Does it apply to anybody?
    pub on: bool,
    /// To how many of those in its scope. Stored in basis points: 10 000 is all.
    pub share: Weight,
    /// To whom, in the words of the flag service: `country:de`, `plan:pro`. Empty: to everybody.
    #[serde(default)]
    pub scope: BTreeSet<String>,
}

impl FlagRule {
    /// Off, for everybody.
    pub fn off() -> Self {
        Self { on: false, share: Weight::NONE, scope: BTreeSet::new() }
    }
    /// On, for everybody.
    pub fn on() -> Self {
        Self { on: true, share: Weight::ALL, scope: BTreeSet::new() }
    }
    /// For how many of those in its scope.
    pub fn with_share(mut self, share: Weight) -> Self {
        self.share = share;
        self
    }
    /// For whom. None: for everybody.
    pub fn with_scope(mut self, scope: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.scope = scope.into_iter().map(Into::into).collect();
        self
    }
    /// Nobody gets it: it is off, or its share is nothing.
    pub fn is_off(&self) -> bool {
        !self.on || self.share == Weight::NONE
    }
    /// The release that this rule is: `off`, or `on-` and a digest of the rule. The order of the scope does not count.
    pub fn release_id(&self) -> ReleaseId {
        if self.is_off() {
            return ReleaseId::from("off");
        }
        // Length first, so that no two scopes run into the same text.
        let mut text = format!("{};{}", self.share.points(), self.scope.len());
        for one in &self.scope {
            text.push_str(&format!(";{}:{one}", one.len()));
        }
        let digest = Digest::of(text.as_bytes());
        let hex = digest.as_str().trim_start_matches("sha256:");
        ReleaseId::new(format!("on-{}", hex.get(..12).unwrap_or(hex)))
    }
}

/// `off`, `on for everybody`, `on for 5% of country:de, plan:pro`.
impl fmt::Display for FlagRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_off() {
            return f.write_str("off");
        }
        f.write_str("on for ")?;
        let all = self.share == Weight::ALL;
        if !all {
            write!(f, "{} of ", self.share)?;
        }
        if self.scope.is_empty() {
            return f.write_str(if all { "everybody" } else { "all" });
        }
        for (i, one) in self.scope.iter().enumerate() {
            write!(f, "{}{one}", if i == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_is_the_whole_rule_and_off_is_one_release() {
        let all = [
            FlagRule::on(),
            FlagRule::on().with_share(Weight::percent(50)),
            FlagRule::on().with_scope(["a"]),
            FlagRule::on().with_scope(["a", "b"]),
            FlagRule::on().with_scope(["a;1:b"]),
            FlagRule::off(),
        ];
        for (i, a) in all.iter().enumerate() {
            for (j, b) in all.iter().enumerate() {
                assert_eq!(a.release_id() == b.release_id(), i == j, "{a} and {b}");
            }
        }
        assert_eq!(
            FlagRule::on().with_scope(["b", "a"]).release_id(),
            FlagRule::on().with_scope(["a", "b"]).release_id()
        );
        let off_with_leftovers = FlagRule { on: false, ..FlagRule::on().with_scope(["a"]) };
        assert_eq!(off_with_leftovers.release_id(), FlagRule::off().release_id());
        assert_eq!(off_with_leftovers.to_string(), "off");
    }

    #[test]
    fn the_id_of_a_rule_never_changes() {
        // Journals and ledgers hold these ids: if this fails, releases of flags are no longer found.
        let rule = FlagRule::on().with_share(Weight::percent(25)).with_scope(["country:de", "plan:pro"]);
        assert_eq!(rule.release_id(), "on-7e2c0b2fde3a");
        assert_eq!(rule.to_string(), "on for 25% of country:de, plan:pro");
        assert_eq!(FlagRule::on().to_string(), "on for everybody");
        assert_eq!(FlagRule::on().with_share(Weight::percent(5)).to_string(), "on for 5% of all");
    }
}
