//! What the tests of rollback share.

pub mod golden;
