//! Targets on this host: a release directory, a directory tree, a feature flag, any command.

pub mod command;
mod flag;
#[cfg(test)]
mod no_shelf;

pub use command::{ToolAnswer, CommandOptions, CommandTarget, Tool, ToolOutput, ToolPrepared, ToolState};
pub use flag::*;
