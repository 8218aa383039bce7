//! The trait every back end implements.

use crate::{
    Applied, Approved, Artifact, Capabilities, Change, Look, Nudges, Observation, Prepared, Release, Result, Strategy,
    TargetId, Token, Work,
};
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use std::{fmt::Debug, sync::Arc, time::Duration};

/// One thing with releases that can be rolled back: a Deployment, an ECS service, a bucket prefix, a release directory.
///
/// # Contract
/// - `observe`, `history` and `prepare` never change the target. They are called often, by several processes at once.
/// - What [`PartState::running`](crate::PartState) says is asked of what runs, not of what it was told.
/// - `apply` writes what was approved and nothing else, only if the target is as it was when the token was read
///   (as far as [`Capabilities::fencing`] promises), carries [`Work::key`], and is idempotent: the same change again,
///   with a fresh token, has no further effect. An error without [`Error::without_effect`](crate::Error::without_effect)
///   means that it may have happened.
/// - A change that [`Capabilities::supports`] denies is refused by `prepare` with
///   [`Kind::Unsupported`](crate::Kind::Unsupported), without effect.
/// - Dropping a future of these calls is safe: the same call again finds out what is left to do.
///
/// The laws in [`testing`](crate#features) check this of any implementation. A complete target of your own takes less
/// than a hundred lines: see `examples/examples/third_party.rs`.
///
/// # Wrappers
/// `Arc` and `Box` forward; [`Retry`](crate::wrap::Retry), [`Timeout`](crate::wrap::Timeout), [`Limit`](crate::wrap::Limit),
/// [`DryRun`](crate::wrap::DryRun) and [`Checked`](crate::wrap::Checked) wrap. A wrapper of your own should forward every method under
/// `#[deny(clippy::missing_trait_methods)]`, or it loses `recorder`, `evidence` and the rest.
#[async_trait]
pub trait Target: Debug + Send + Sync + 'static {
    /// Which target: a URI, the same in every process.
    fn id(&self) -> &TargetId;
    /// What it can do. The same for the life of the value; no I/O.
    fn capabilities(&self) -> Capabilities;
    /// One read.
    ///
    /// # Errors
    /// Transient where the platform did not answer; [`Kind::NotFound`](crate::Kind::NotFound) if the target is gone.
    async fn observe(&self, look: Look) -> Result<Observation>;
    /// Its releases, newest first, at most `limit`. May be empty.
    ///
    /// # Errors
    /// As `observe`.
    async fn history(&self, limit: usize) -> Result<Vec<Release>>;
    /// Makes a change ready, and checks all that can be checked without touching the target.
    ///
    /// # Errors
    /// [`Kind::Unsupported`](crate::Kind::Unsupported) for what the target cannot do,
    /// [`Kind::NotFound`](crate::Kind::NotFound) for a release that is gone,
    /// [`Kind::Conflict`](crate::Kind::Conflict) if the target changed while it was looked at: a run asks again.
    async fn prepare(&self, change: &Change, work: &Work) -> Result<Prepared>;
    /// Makes the change.
    ///
    /// # Errors
    /// [`Kind::Conflict`](crate::Kind::Conflict) without effect if the target is not as the token says;
    /// [`Kind::Stale`](crate::Kind::Stale) without effect if what was prepared is outdated.
    async fn apply(&self, approved: &Approved, token: Token, work: &Work) -> Result<Applied>;
    /// What to call at each deploy, so that there is something to go back to.
    fn recorder(&self) -> Option<Arc<dyn Record>> {
        None
    }
    /// What to save before the first change.
    fn evidence(&self) -> Option<Arc<dyn EvidenceSource>> {
        None
    }
    /// How it is rolled back where the caller names no strategy, at the glass too: the switch of a blue/green pair, say.
    /// `None`: [`Direct`](crate::strategy::Direct).
    fn strategy(&self) -> Option<Arc<dyn Strategy>> {
        None
    }
    /// Where a run that waits hears that another look may show something new, so that it need not wait for its next poll;
    /// asked for once, before its first look. No I/O. `None`: nobody says so, and there are only polls.
    fn nudges(&self) -> Option<Nudges> {
        None
    }
}

#[cfg(feature = "mock")]
mockall::mock! {
    /// A [`Target`] whose calls are scripted: `expect_id`, `expect_capabilities`, `expect_observe`, `expect_history`,
    /// `expect_prepare`, `expect_apply`. What a target may bring besides it does not bring.
    pub Target {}
    #[async_trait]
    impl Target for Target {
        fn id(&self) -> &TargetId;
        fn capabilities(&self) -> Capabilities;
        async fn observe(&self, look: Look) -> Result<Observation>;
        async fn history(&self, limit: usize) -> Result<Vec<Release>>;
        async fn prepare(&self, change: &Change, work: &Work) -> Result<Prepared>;
        async fn apply(&self, approved: &Approved, token: Token, work: &Work) -> Result<Applied>;
    }
}

#[cfg(feature = "mock")]
impl Debug for MockTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MockTarget").finish_non_exhaustive()
    }
}

/// Makes a release findable and keeps it: pins its image, archives its configuration.
#[cfg_attr(feature = "mock", mockall::automock)]
#[async_trait]
pub trait Record: Debug + Send + Sync + 'static {
    /// Records what runs now, under a label for people. Idempotent.
    ///
    /// # Errors
    /// As [`Target::observe`].
    async fn record(&self, label: &str) -> Result<Release>;
}

/// How much evidence there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bounds {
    /// In time. Then the future is dropped, and what was sealed until then through [`Work::keep`] is kept.
    pub time: Duration,
    /// In bytes.
    pub bytes: u64,
}

/// What to save before the first change: logs, events, configuration, with secrets redacted.
#[cfg_attr(feature = "mock", mockall::automock)]
#[async_trait]
pub trait EvidenceSource: Debug + Send + Sync + 'static {
    /// Collects into artifacts.
    ///
    /// # Errors
    /// As [`Target::observe`]. A run goes on without, and says so.
    async fn collect(&self, bounds: Bounds, work: &Work) -> Result<Vec<Artifact>>;
}

/// Opens a target by its id: for controllers and command lines that resume what was left unfinished.
#[cfg_attr(feature = "mock", mockall::automock)]
#[async_trait]
pub trait Targets: Debug + Send + Sync + 'static {
    /// Opens.
    ///
    /// # Errors
    /// [`Kind::NotFound`](crate::Kind::NotFound) for an id that is none of its own.
    async fn open(&self, id: &TargetId) -> Result<Arc<dyn Target>>;
}

macro_rules! forward {
    ($($pointer:ident),*) => { $(
        #[deny(clippy::missing_trait_methods)]
        #[async_trait]
        impl<T: Target + ?Sized> Target for $pointer<T> {
            fn id(&self) -> &TargetId {
                (**self).id()
            }
            fn capabilities(&self) -> Capabilities {
                (**self).capabilities()
            }
            async fn observe(&self, look: Look) -> Result<Observation> {
                (**self).observe(look).await
            }
            async fn history(&self, limit: usize) -> Result<Vec<Release>> {
                (**self).history(limit).await
            }
            async fn prepare(&self, change: &Change, work: &Work) -> Result<Prepared> {
                (**self).prepare(change, work).await
            }
            async fn apply(&self, approved: &Approved, token: Token, work: &Work) -> Result<Applied> {
                (**self).apply(approved, token, work).await
            }
            fn recorder(&self) -> Option<Arc<dyn Record>> {
                (**self).recorder()
            }
            fn evidence(&self) -> Option<Arc<dyn EvidenceSource>> {
                (**self).evidence()
            }
            fn strategy(&self) -> Option<Arc<dyn Strategy>> {
                (**self).strategy()
            }
            fn nudges(&self) -> Option<Nudges> {
                (**self).nudges()
            }
        }
    )* };
}
forward!(Arc, Box);
