//! The fake platform behind a bad network, with everything written down.

use super::{
    fault::{Fault, Stage},
    log::{Life, What},
    sim::{Sim, stage_of},
};
use crate::{
    Applied, Approved, Capabilities, Change, Context, DiffLine, Error, Evidence, EvidenceSource, Extent, Finding,
    Health, HealthCheck, Kind, Look, Observation, Prepared, Record, Release, Result, Settled, Severity, Target,
    TargetId, Token, Verdict, Verifier, Window, Work, seconds, testing::fake::ours_when_stale,
};
use async_trait::async_trait;
use std::{future::pending, sync::Arc, time::Duration};
use tokio::{task::yield_now, time::Instant};

/// How old a stale read may be.
pub(super) const STALE_FOR: Duration = seconds(8);

#[derive(Clone, Debug)]
pub(super) struct SimTarget {
    pub(super) sim: Sim,
    pub(super) life: Life,
}

impl SimTarget {
    async fn write(&self, approved: &Approved, token: Token, work: &Work, stage: Stage) -> Result<Applied> {
        let (sim, life, platform) = (&self.sim, self.life, &self.sim.platform);
        let lost = || sim.unavailable("write", "the answer was lost");
        if sim.hits(life, Fault::Conflict, stage) {
            let conflict = Error::new(Kind::Conflict, "write").with_message(sim.says("409, for no reason"));
            return Err(conflict.without_effect());
        }
        if sim.hits(life, Fault::LostRequest, stage) {
            return Err(lost());
        }
        if sim.hits(life, Fault::LateEffect, stage) {
            let write = platform.write_of(approved, &token, work).await?;
            // Later than this, no platform is looked for: `look_again_for`.
            sim.late(life, write, sim.millis(100..9_000));
            return Err(lost());
        }
        let silent = sim.hits(life, Fault::NoAnswer, stage);
        if silent && sim.chance(2) {
            return pending().await;
        }
        if sim.hits(life, Fault::Duplicate, stage) {
            let write = platform.write_of(approved, &token, work).await?;
            sim.late(life, write, sim.millis(1..5_000));
        }
        let answer = platform.apply(approved, token, work).await;
        sim.call(life, stage);
        if silent {
            return pending().await;
        }
        if sim.hits(life, Fault::LateAnswer, stage) {
            tokio::time::sleep(sim.millis(1000..20_000)).await;
        }
        if answer.is_ok() && sim.hits(life, Fault::LostAnswer, stage) {
            return Err(lost());
        }
        answer
    }

    fn worded(&self, mut applied: Applied) -> Applied {
        if let Extent::Partial { reasons, .. } = &mut applied.extent
            && self.sim.secrets
        {
            *reasons = std::mem::take(reasons).into_iter().map(|(why, n)| (self.sim.says(&why), n)).collect();
        }
        applied
    }

    /// How it was a moment ago, if this read is to be a stale one.
    fn stale(&self, look: &Look, stage: Stage) -> Option<Observation> {
        let now = Instant::now();
        let young: Vec<Observation> = {
            let mut world = self.sim.platform.world();
            world.catch_up();
            let young = world.before.iter().filter(|(until, _)| now.duration_since(*until) < STALE_FOR);
            let ours = if world.fakes.can_tell { ours_when_stale(look) } else { crate::Ours::CannotTell };
            young.map(|(_, seen)| seen.clone().with_ours(ours.clone())).collect()
        };
        if young.is_empty() || !self.sim.hits(self.life, Fault::StaleRead, stage) {
            return None;
        }
        let nth = self.sim.shared().rng.usize(..young.len());
        young.get(nth).cloned()
    }
}

#[async_trait]
impl Target for SimTarget {
    fn id(&self) -> &TargetId {
        self.sim.platform.id()
    }
    fn capabilities(&self) -> Capabilities {
        self.sim.platform.capabilities()
    }
    async fn observe(&self, look: Look) -> Result<Observation> {
        let stage = Stage::Observe;
        self.sim.way(self.life, stage, "observe").await?;
        let (stale, mut seen) = match self.stale(&look, stage) {
            Some(seen) => (true, seen),
            None => (false, self.sim.platform.observe(look.clone()).await?),
        };
        let (parts, identity, ours) = (Arc::new(seen.parts.clone()), seen.identity.clone(), seen.ours.clone());
        self.sim.note(self.life, What::Read { quick: look.quick, stale, parts, identity, ours });
        for (_, part) in &mut seen.parts {
            if let Settled::NotYet { why } | Settled::Never { why } = &mut part.settled {
                *why = self.sim.says(why);
            }
        }
        Ok(seen)
    }
    async fn history(&self, limit: usize) -> Result<Vec<Release>> {
        self.sim.way(self.life, Stage::History, "read the history").await?;
        let mut history = self.sim.platform.history(limit).await?;
        if self.sim.secrets {
            history.iter_mut().for_each(|release| release.why = Some(self.sim.says("deployed")));
        }
        Ok(history)
    }
    async fn prepare(&self, change: &Change, work: &Work) -> Result<Prepared> {
        self.sim.way(self.life, Stage::Prepare, "make the change ready").await?;
        let mut prepared = self.sim.platform.prepare(change, work).await?;
        if self.sim.secrets {
            prepared.findings.push(Finding::new(Severity::Warning, "owner", self.sim.says("somebody's")));
            prepared.approved.diff.push(DiffLine::new("env", self.sim.says("was"), self.sim.says("is")));
        }
        Ok(prepared)
    }
    async fn apply(&self, approved: &Approved, token: Token, work: &Work) -> Result<Applied> {
        let stage = stage_of(&approved.change);
        let (run, key, epoch) = (work.run().clone(), work.key(), work.epoch());
        let change = Box::new(approved.change.clone());
        self.sim.note(self.life, What::Send { run, key: key.clone(), epoch, change });
        let answer = match self.sim.way(self.life, stage, "write").await {
            Ok(()) => self.write(approved, token, work, stage).await,
            Err(error) => Err(error),
        };
        // Behind the effect and before the answer: a crash here is the one that matters.
        yield_now().await;
        let answer = answer.map(|applied| self.worded(applied));
        let noted = answer.as_ref().map(Clone::clone).map_err(|e| (e.kind(), e.effect()));
        self.sim.note(self.life, What::Answered { key, answer: noted });
        answer
    }
    fn recorder(&self) -> Option<Arc<dyn Record>> {
        None
    }
    fn evidence(&self) -> Option<Arc<dyn EvidenceSource>> {
        None
    }
}

/// What clients get, as far as it can be found out.
#[derive(Clone, Debug)]
pub(super) struct SimHealth {
    pub(super) sim: Sim,
    pub(super) life: Life,
}

impl SimHealth {
    async fn ask(&self, context: &Context, stage: Stage) -> Result<Health> {
        let (sim, life) = (&self.sim, self.life);
        sim.call(life, stage);
        yield_now().await;
        if sim.is_out(Fault::MetricsDown, stage) {
            let nth = sim.shared().rng.u8(..3);
            return match nth {
                0 => Err(sim.unavailable("ask for the health", "no metrics")),
                _ => Ok(Health::unknown("metrics", sim.says("no data"))),
            };
        }
        if sim.hits(life, Fault::UnknownHealth, stage) {
            return Ok(Health::unknown("metrics", sim.says("no data")));
        }
        if sim.hits(life, Fault::NoAnswer, stage) {
            return pending().await;
        }
        let mut health = sim.platform.health().check(context).await?;
        let (Health::Healthy(seen) | Health::Unhealthy(seen) | Health::Unknown(seen)) = &mut health;
        seen.iter_mut().for_each(|evidence| evidence.seen = sim.says(&evidence.seen));
        Ok(health)
    }
}

/// What was found out; or, where the future was dropped before, that nothing was.
struct Told<'a> {
    health: &'a SimHealth,
    says: Option<What>,
}
impl Drop for Told<'_> {
    fn drop(&mut self) {
        if let Some(says) = self.says.take() {
            self.health.sim.note(self.health.life, says);
        }
    }
}

#[async_trait]
impl HealthCheck for SimHealth {
    fn name(&self) -> String {
        "clients".into()
    }
    async fn check(&self, context: &Context) -> Result<Health> {
        let part = &context.part;
        let said = |says| What::Health { part: part.clone(), says };
        let mut told = Told { health: self, says: Some(said("unknown")) };
        let answer = self.ask(context, Stage::Check).await;
        told.says = Some(said(match &answer {
            Ok(Health::Healthy(_)) => "healthy",
            Ok(Health::Unhealthy(_)) => "unhealthy",
            _ => "unknown",
        }));
        answer
    }
}

/// Does what runs, or what clients get, say that it helped?
#[derive(Clone, Debug)]
pub(super) struct SimVerifier {
    pub(super) health: SimHealth,
    pub(super) window: Window,
    pub(super) of_health: bool,
}

#[async_trait]
impl Verifier for SimVerifier {
    fn name(&self) -> String {
        if self.of_health { "healthy".into() } else { "runs".into() }
    }
    fn window(&self) -> Window {
        self.window
    }
    async fn verify(&self, context: &Context) -> Result<Verdict> {
        let name = self.name();
        let said = |says| What::Sample { verifier: name.clone(), says };
        let mut told = Told { health: &self.health, says: Some(said("unknown")) };
        let health = if self.of_health {
            self.health.ask(context, Stage::Verify).await
        } else {
            self.health.sim.call(self.health.life, Stage::Verify);
            let saw = || vec![Evidence::new("runs", "as it was read")];
            let all = context.now.serving().all(|(_, part)| part.runs(&context.wanted) && part.settled == Settled::Yes);
            Ok(if all { Health::Healthy(saw()) } else { Health::Unhealthy(saw()) })
        };
        let verdict = health.map(Verdict::from);
        told.says = Some(said(match &verdict {
            Ok(Verdict::Holds(_)) => "holds",
            Ok(Verdict::Fails(_)) => "fails",
            _ => "unknown",
        }));
        verdict
    }
}
