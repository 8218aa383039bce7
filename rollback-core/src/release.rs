//! Releases, and what is known about them.

use crate::{Chosen, Digest, ReleaseId, RunId, Timestamp, redact::shortened};
use serde::{Deserialize, Serialize};
use std::fmt;

/// An immutable version of a target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Release {
    /// By content, so that it survives a platform that renumbers.
    pub id: ReleaseId,
    /// What people call it: `2.4.0`, `revision 7`.
    pub label: String,
    /// When it was made.
    pub made_at: Option<Timestamp>,
    /// Why: the change cause, the commit's subject.
    pub why: Option<String>,
    /// What it is made of: digests of images, bundles, trees.
    pub artifacts: Vec<Digest>,
    /// Can it still be gone back to, as far as the platform's history knows?
    pub available: bool,
    /// What else it is called: tags, earlier labels. A caller may name it by any of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
    /// It is there, an image that somebody built or pulled, and as far as anybody knows it was never deployed. It may be
    /// named, and is never chosen.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub undeployed: bool,
}

impl Release {
    /// An available release whose label is its id.
    pub fn new(id: impl Into<ReleaseId>) -> Self {
        let id = id.into();
        let label = id.to_string();
        Self {
            id,
            label,
            made_at: None,
            why: None,
            artifacts: vec![],
            available: true,
            names: vec![],
            undeployed: false,
        }
    }
    /// What people call it.
    pub fn with_label(mut self, label: impl Into<String>) -> Self {
        self.label = label.into();
        self
    }
    /// When it was made.
    pub fn with_made_at(mut self, at: Timestamp) -> Self {
        self.made_at = Some(at);
        self
    }
    /// Why it was made.
    pub fn with_why(mut self, why: impl Into<String>) -> Self {
        self.why = Some(why.into());
        self
    }
    /// What it is made of.
    pub fn with_artifacts(mut self, artifacts: impl IntoIterator<Item = Digest>) -> Self {
        self.artifacts = artifacts.into_iter().collect();
        self
    }
    /// Its image, bundle or tree is gone.
    pub fn unavailable(mut self) -> Self {
        self.available = false;
        self
    }
    /// What else it is called.
    pub fn with_names(mut self, names: impl IntoIterator<Item = String>) -> Self {
        self.names = names.into_iter().collect();
        self
    }
    /// What another record of it calls it leads to it, too.
    pub(crate) fn take_names_of(&mut self, other: &Release) {
        for name in [&other.label].into_iter().chain(&other.names) {
            if *name != self.label && *name != self.id.as_str() && !self.names.contains(name) {
                self.names.push(name.clone());
            }
        }
    }
    /// It is there, and nobody is known to have deployed it.
    pub fn undeployed(mut self) -> Self {
        self.undeployed = true;
        self
    }
}

/// As people read it: what it is called, why it was made, and the short id, by which a program takes it too, where that is
/// another word: `revision 7 (shop:2.3), "new prices" [9f2c0d31aa70]`.
impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// Of why it was made: a whole sentence may have been written there.
        const WHY: usize = 100;
        let (id, short) = (self.id.as_str(), self.id.short());
        let unlabelled = self.label == id || self.label == short;
        f.write_str(if unlabelled { short } else { &self.label })?;
        if let Some(why) = self.why.as_ref().filter(|why| !why.trim().is_empty()) {
            write!(f, ", {:?}", shortened(why.trim(), WHY))?;
        }
        if !unlabelled {
            write!(f, " [{short}]")?;
        }
        Ok(())
    }
}

/// Names for ids, in texts that were written before anybody knew the names: of plans, of what parts run, of outcomes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Called(Vec<(ReleaseId, String)>);

impl Called {
    /// Those of a choice.
    pub(crate) fn of(chosen: &Chosen) -> Self {
        Self::each(chosen.left.as_deref().into_iter().chain([&chosen.wanted]))
    }
    /// Those of these, each of which is there once. What several are called is no name: they keep their ids.
    pub(crate) fn each<'a>(releases: impl IntoIterator<Item = &'a Release>) -> Self {
        /// A shorter id may be a word like any other.
        const TELLING: usize = 8;
        let all: Vec<&Release> = releases.into_iter().collect();
        let alike = |name: &str| all.iter().filter(|release| release.label == name).count() > 1;
        let named = all.iter().filter(|release| {
            release.id.as_str().len() >= TELLING && !release.label.is_empty() && !alike(&release.label)
        });
        Self(named.map(|release| (release.id.clone(), release.label.clone())).collect())
    }
    /// With names in place of ids; where an id stands in brackets, its name is before it.
    pub(crate) fn told(&self, text: &str) -> String {
        let part_of_a_word = |c: char| c.is_alphanumeric() || "-_[]/".contains(c);
        let mut told = String::with_capacity(text.len());
        let mut rest = text;
        loop {
            let next = self.0.iter().filter_map(|(id, label)| Some((rest.find(id.as_str())?, id.as_str(), label)));
            let Some((at, id, label)) = next.min_by_key(|(at, ..)| *at) else { break };
            let (before, after) = (&rest[..at], &rest[at + id.len()..]);
            let within = before.ends_with(part_of_a_word) || after.starts_with(part_of_a_word);
            told.push_str(before);
            told.push_str(if within { id } else { label });
            rest = after;
        }
        told.push_str(rest);
        told
    }
}

/// What the ledger says of a release.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Standing {
    /// It served, and was seen healthy for as long as the verifiers' windows ask: where they ask for no time, when it was
    /// looked at.
    Verified,
    /// It was blamed, and rolled back from.
    Failed,
    /// It was there; nothing more is known.
    Seen,
}

/// One line of the ledger: the latest standing of a release of one target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LedgerEntry {
    /// The release, as it was when it was recorded.
    pub release: Release,
    /// What is known of it.
    pub standing: Standing,
    /// Since when.
    pub at: Timestamp,
    /// The run that found it out, if it was one.
    pub run: Option<RunId>,
    /// Why: `healthy for 15 min`, `blamed: 500s since 2.4.0`, `imported`.
    pub why: String,
}

impl LedgerEntry {
    /// A line that no run wrote.
    pub fn new(release: Release, standing: Standing, at: Timestamp, why: impl Into<String>) -> Self {
        Self { release, standing, at, run: None, why: why.into() }
    }
    /// The run that found it out.
    pub fn with_run(mut self, run: &RunId) -> Self {
        self.run = Some(run.clone());
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_read_what_it_is_called() {
        let id = "template:0123456789abcdef0123";
        let seven = Release::new(id).with_label("revision 7 (shop:2.3)");
        assert_eq!(Release::new("2.4.0").to_string(), "2.4.0");
        assert_eq!(seven.to_string(), "revision 7 (shop:2.3) [0123456789ab]");
        assert_eq!(Release::new(id).to_string(), "0123456789ab");
        let why = seven.clone().with_why(format!("new prices{}", " and more".repeat(20)));
        assert!(why.to_string().starts_with("revision 7 (shop:2.3), \"new prices and more"), "{why}");
        assert!(why.to_string().len() < 200 && why.to_string().ends_with("\" [0123456789ab]"), "{why}");

        let six = Release::new("template:ffffffffffffffffffff").with_label("revision 6 (shop:2.2)");
        let chosen = |left: Option<&Release>, wanted: &Release| Chosen {
            left: left.cloned().map(Box::new),
            ..Chosen::new(id, wanted.clone(), "named")
        };
        let called = Called::of(&chosen(Some(&seven), &six));
        assert_eq!(
            called.told(&format!("{} onto blue, not {id}", six.id)),
            "revision 6 (shop:2.2) onto blue, not revision 7 (shop:2.3)"
        );
        for kept in [seven.to_string(), format!("{id}0 is another one"), "nothing".into()] {
            assert_eq!(called.told(&kept), kept);
        }
        let alike = six.clone().with_label(seven.label.clone());
        assert_eq!(Called::of(&chosen(Some(&seven), &alike)).told(id), id);
        assert_eq!(Called::of(&chosen(None, &Release::new("2").with_label("two"))).told("2 of 2"), "2 of 2");
    }
}
