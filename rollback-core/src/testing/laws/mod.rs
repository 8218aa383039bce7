//! The conformance laws: what every implementation of a trait must keep, one async function a law.
//!
//! They read what an implementation says of itself, so that they never pretend: a law that does not apply says why.
//!
//! Not here: whether a platform behaves. A law asks for no more than the contract of the trait.

pub mod journal;
pub mod target;

use std::fmt;

/// A law that was kept, or that has nothing to say here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ruling {
    /// It was tried, and kept.
    Kept,
    /// It does not apply, for this reason.
    DoesNotApply(String),
}

/// A law that was broken, or could not be tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which law.
    pub law: &'static str,
    /// What was seen.
    pub why: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.law, self.why)
    }
}
impl std::error::Error for Violation {}
