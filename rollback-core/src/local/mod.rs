//! Targets on this host: a release directory, a directory tree, a feature flag, any command.

mod flag;
#[cfg(test)]
mod no_shelf;

pub use flag::*;
