//! Targets on this host: a release directory, a directory tree, a feature flag, any command.
//!
//! Not here: platforms that are reached over a network; each has a crate of its own.

mod directory_sync;
mod host;
mod own;
mod release_dir;

pub use directory_sync::DirectorySync;
pub use release_dir::{ReleaseDir, RunningSource, Signal};
