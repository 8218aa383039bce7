//! For tests: an in-memory platform with scripted faults, the conformance laws, the simulator.
//!
//! Not here: mocks of single traits; those are the feature `mock`.

mod fake;
pub mod laws;
pub mod simulator;

pub use fake::{
    Bad, Effects, FakeEffect, FakeHealth, FakeParts, FakePlatform, Good, Moment,
    Moment::{After, AfterStep, BeforeRead, BeforeStep},
    Quality,
};
