//! What the tests of rollback share.

pub mod bed;
pub mod between;
pub mod golden;
pub mod place;
pub mod platforms;
