//! Targets on this host: a release directory, a directory tree, a feature flag, any command.
//!
//! Not here: platforms that are reached over a network; each has a crate of its own.

pub mod command;
mod directory_sync;
mod flag;
mod hook;
mod host;
#[cfg(test)]
mod no_shelf;
mod own;
mod release_dir;

pub use command::{CommandOptions, CommandTarget, Tool, ToolAnswer, ToolEvidence, ToolOutput, ToolPrepared, ToolState};
pub use directory_sync::DirectorySync;
pub use flag::*;
pub use hook::Signal;
pub use release_dir::{ReleaseDir, RunningSource};
