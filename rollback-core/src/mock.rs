//! mockall types of the public traits, for unit tests that script each call.
//!
//! Not here: a platform that behaves like one. That is `testing::FakePlatform`, and for most flows the better choice.
//!
//! ```
//! use rollback_core::{Error, Kind, Look, Target, mock::MockTarget};
//! # #[tokio::main(flavor = "current_thread")] async fn main() {
//! let mut target = MockTarget::new();
//! target.expect_observe().returning(|_| Err(Error::new(Kind::Denied, "read the service")));
//! assert_eq!(target.observe(Look::full()).await.unwrap_err().kind(), Kind::Denied);
//! # }
//! ```

#[cfg(feature = "local")]
pub use crate::local::MockFlagStore;
#[cfg(feature = "watch")]
pub use crate::metric::MockMetricSource;
pub use crate::{
    approve::MockApprover,
    freeze::MockFreeze,
    health::MockHealthCheck,
    journal::{MockJournal, MockShelf},
    observe::MockObserver,
    strategy::MockStrategy,
    target::{MockEvidenceSource, MockRecord, MockTarget, MockTargets},
    verify::MockVerifier,
};
