//! Support for live tests: real servers in namespaces of their own, brought up by the scripts in `tests/beds`.
//!
//! Not for tests that a mock serves as well: see `rollback_core::testing`.

#[cfg(feature = "docker")]
pub mod docker;
#[cfg(feature = "kubernetes")]
pub mod faults;
#[cfg(feature = "kubernetes")]
pub mod fleet;
#[cfg(feature = "kubernetes")]
pub mod kubernetes;
#[cfg(feature = "kubernetes")]
pub mod load;
#[cfg(feature = "docker")]
pub mod proxy;
#[cfg(feature = "docker")]
pub mod registry;
#[cfg(feature = "docker")]
pub mod ssh;
