//! Nine platforms as they look through the one [`Target`]: what each can do, what it stores, and one rollback of it, from
//! how it is found to half way through. Written down, not connected: back ends come in crates of their own, and this shows
//! that none of them needs a special case.

pub mod blue_green;
pub mod compose;
pub mod deployment;
pub mod ecs;
pub mod flag;
pub mod lambda;
pub mod prefix;
pub mod schema;
pub mod terraform;

use async_trait::async_trait;
use rollback_core::{
    Applied, Approved, Capabilities, Change, DiffLine, Error, Identity, Kind, Look, Observation, PartId, PartState,
    Payload, Prepared, Release, ReleaseId, Result, Running, Settled, Stored, Target, TargetId, Token, Weight, Work,
};
use std::sync::atomic::{AtomicBool, Ordering};

/// One rollback of one platform.
#[derive(Clone, Debug)]
pub struct Picture {
    /// Of what.
    pub id: TargetId,
    /// What it can do.
    pub capabilities: Capabilities,
    /// As it is found.
    pub found: Observation,
    /// The release to leave.
    pub suspect: ReleaseId,
    /// The release to reach.
    pub wanted: ReleaseId,
    /// The change that a plan comes to.
    pub change: Change,
    /// The change, made ready.
    pub prepared: Prepared,
    /// What the write answers.
    pub applied: Applied,
    /// How it looks half way there.
    pub half: Observation,
}

/// A target that shows a picture: as it was found until the change is made, half way there afterwards.
#[derive(Debug)]
pub struct Shown {
    picture: Picture,
    begun: AtomicBool,
}

impl Shown {
    /// As it was found.
    pub fn new(picture: Picture) -> Self {
        Self { picture, begun: AtomicBool::new(false) }
    }
}

#[async_trait]
impl Target for Shown {
    fn id(&self) -> &TargetId {
        &self.picture.id
    }
    fn capabilities(&self) -> Capabilities {
        self.picture.capabilities.clone()
    }
    async fn observe(&self, _: Look) -> Result<Observation> {
        let begun = self.begun.load(Ordering::SeqCst);
        Ok(if begun { self.picture.half.clone() } else { self.picture.found.clone() })
    }
    async fn history(&self, limit: usize) -> Result<Vec<Release>> {
        let releases = [&self.picture.suspect, &self.picture.wanted];
        Ok(releases.into_iter().take(limit).map(Release::new).collect())
    }
    async fn prepare(&self, change: &Change, _: &Work) -> Result<Prepared> {
        if *change == self.picture.change {
            return Ok(self.picture.prepared.clone());
        }
        Err(Error::new(Kind::Unsupported, "prepare the change").with_message("not in this picture").without_effect())
    }
    async fn apply(&self, approved: &Approved, token: Token, _: &Work) -> Result<Applied> {
        if token != self.picture.found.token || approved.digest() != self.picture.prepared.approved.digest() {
            return Err(Error::new(Kind::Conflict, "make the change").without_effect());
        }
        self.begun.store(true, Ordering::SeqCst);
        Ok(self.picture.applied.clone())
    }
}

/// All of them.
pub fn all() -> Result<Vec<Picture>> {
    Ok(vec![
        deployment::picture()?,
        blue_green::picture()?,
        ecs::picture()?,
        lambda::picture()?,
        prefix::picture()?,
        compose::picture()?,
        terraform::picture()?,
        schema::picture()?,
        flag::picture()?,
    ])
}

/// What back ends store in plans, tokens, handles and checkpoints.
macro_rules! stored {
    ($(#[$doc:meta])* $name:ident, $schema:literal, $version:literal { $($field:ident: $type:ty),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
        pub struct $name { $(#[allow(missing_docs)] pub $field: $type),* }
        impl rollback_core::Stored for $name {
            const NAME: &'static str = $schema;
            const VERSION: u32 = $version;
        }
    };
}
use stored;

fn token<T: Stored>(of: &T) -> Result<Token> {
    Ok(Token(Some(Payload::of(of)?)))
}
fn observed(scope: &str, object: &str, parts: Vec<(&str, PartState)>, token: Token) -> Observation {
    let parts = parts.into_iter().map(|(id, part)| (PartId::from(id), part));
    Observation::new(Identity::new(scope, object), parts, token)
}
fn part(told: &str, running: Running, settled: Settled) -> PartState {
    PartState::new(Some(told.into()), running).with_settled(settled)
}
fn release(id: &str) -> Running {
    Running::Release(id.into())
}
fn mixed(counts: &[(&str, u32)]) -> Running {
    Running::Mixed(counts.iter().map(|(id, n)| ((*id).into(), *n)).collect())
}
fn not_yet(why: &str) -> Settled {
    Settled::NotYet { why: why.into() }
}
fn never(why: &str) -> Settled {
    Settled::Never { why: why.into() }
}
fn diff(what: &str, from: &str, to: &str) -> [DiffLine; 1] {
    [DiffLine::new(what, from, to)]
}
fn to_release(part: &str, id: &str) -> Change {
    Change::release(&part.into(), &id.into())
}
fn share(part: PartState, percent: u16) -> PartState {
    part.with_weight(Weight::percent(percent))
}
