//! What the tests of rollback share.

pub mod golden;
pub mod platforms;
