//! Who would deploy the bad release again: a pipeline that looks every few seconds, unless somebody holds it. And the way to
//! it, as bad as the one to the platform.

use super::{
    fault::{Fault, Stage},
    log::{Life, What},
    sim::Sim,
};
use crate::{Clock, Error, Freeze, Hold, Kind, Payload, Result, RunId, Stored, Timestamp, testing::fake::Action};
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, future::pending, time::Duration};
use tokio::task::yield_now;

/// The pipeline's name, as a freeze.
pub(super) const PIPELINE: &str = "pipeline";
/// How it is set at the start; frozen it is 0.
pub(super) const GOES: u32 = 7;

/// What can be frozen.
#[derive(Clone, Debug)]
pub(super) struct Pipeline {
    pub(super) setting: u32,
    /// By run: until when, and how it was set before the first of all holds.
    pub(super) holds: BTreeMap<RunId, (Option<Timestamp>, u32)>,
}

impl Default for Pipeline {
    fn default() -> Self {
        Self { setting: GOES, holds: BTreeMap::new() }
    }
}

impl Pipeline {
    fn freeze(&mut self, hold: &Hold) -> u32 {
        let before = self.holds.values().next().map_or(self.setting, |(_, was)| *was);
        let held = self.holds.entry(hold.run.clone()).or_insert((hold.until, before));
        held.0 = hold.until;
        self.setting = 0;
        held.1
    }
    fn unfreeze(&mut self, run: &RunId, was: u32) {
        if self.holds.remove(run).is_some() && self.holds.is_empty() {
            self.setting = was;
        }
    }
    fn is_held(&self, now: Timestamp) -> bool {
        self.holds.values().any(|(until, _)| until.is_none_or(|until| until > now))
    }
}

/// How it was set before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Was(pub(super) u32);
impl Stored for Was {
    const NAME: &'static str = "rollback-core/simulated-pipeline";
    const VERSION: u32 = 1;
}

/// One process's way to it.
#[derive(Clone, Debug)]
pub(super) struct SimFreeze {
    pub(super) sim: Sim,
    pub(super) life: Life,
}

impl SimFreeze {
    fn land(sim: &Sim, life: Life, hold: &Hold) -> u32 {
        let was = sim.shared().pipeline.freeze(hold);
        sim.note(life, What::Frozen { run: hold.run.clone(), until: hold.until });
        was
    }
    fn late(&self, hold: &Hold, after: Duration) {
        let (sim, life, hold) = (self.sim.clone(), self.life, hold.clone());
        tokio::spawn(async move {
            tokio::time::sleep(after).await;
            Self::land(&sim, life, &hold);
        });
    }
    async fn send(&self, hold: &Hold) -> Result<u32> {
        let (sim, life, stage) = (&self.sim, self.life, Stage::Freeze);
        let lost = || sim.unavailable("freeze", "the answer was lost");
        sim.way(life, stage, "freeze").await?;
        if sim.hits(life, Fault::LostRequest, stage) {
            return Err(lost());
        }
        if sim.hits(life, Fault::LateEffect, stage) {
            self.late(hold, sim.millis(100..9_000));
            return Err(lost());
        }
        let silent = sim.hits(life, Fault::NoAnswer, stage);
        if silent && sim.chance(2) {
            return pending().await;
        }
        if sim.hits(life, Fault::Duplicate, stage) {
            self.late(hold, sim.millis(1..5_000));
        }
        let was = Self::land(sim, life, hold);
        sim.call(life, stage);
        // Behind the effect and before the answer: a crash here is the one that matters.
        yield_now().await;
        if silent {
            return pending().await;
        }
        if sim.hits(life, Fault::LateAnswer, stage) {
            tokio::time::sleep(sim.millis(1000..20_000)).await;
        }
        if sim.hits(life, Fault::LostAnswer, stage) {
            // Not all that goes wrong behind an effect looks as if waiting would help.
            return Err(match sim.chance(4) {
                true => Error::new(Kind::Unexpected, "freeze").with_message(sim.says("exit 1")),
                false => lost(),
            });
        }
        Ok(was)
    }
}

#[async_trait]
impl Freeze for SimFreeze {
    fn name(&self) -> String {
        PIPELINE.into()
    }
    async fn freeze(&self, hold: &Hold) -> Result<Payload> {
        self.sim.note(self.life, What::Freeze { run: hold.run.clone(), until: hold.until });
        let answer = self.send(hold).await;
        let was = answer.as_ref().ok().copied();
        self.sim.note(self.life, What::FreezeAnswered { run: hold.run.clone(), was });
        Payload::of(&Was(answer?))
    }
    async fn held(&self) -> Result<Vec<Hold>> {
        self.sim.way(self.life, Stage::Freeze, "ask who holds it").await?;
        let holds = self.sim.shared().pipeline.holds.clone();
        let target = crate::Target::id(&self.sim.platform);
        let hold = |(run, (until, _)): (RunId, (Option<Timestamp>, u32))| {
            Hold::new(run, target.clone(), "the simulator", "simulated").with_until(until)
        };
        Ok(holds.into_iter().map(hold).collect())
    }
    async fn unfreeze(&self, hold: &Hold, was: Payload) -> Result<()> {
        let Was(was) = was.read()?;
        self.sim.shared().pipeline.unfreeze(&hold.run, was);
        self.sim.note(self.life, What::Unfrozen { run: hold.run.clone() });
        Ok(())
    }
}

/// Looks every few seconds, and deploys the bad release again wherever it was rolled back, unless it is held.
pub(super) async fn deploy_again(sim: Sim, every: Duration) {
    const TIMES: u32 = 5;
    let mut left = TIMES;
    while left > 0 {
        tokio::time::sleep(every).await;
        let now = Clock::now(&sim).wall;
        let held = sim.shared().pipeline.is_held(now);
        let bad = crate::ReleaseId::from("2");
        let gone = !sim.platform.world().scene().parts.values().any(|part| part.wanted.as_ref() == Some(&bad));
        if gone && !held {
            left -= 1;
            sim.platform.world().act(&Action::Deploy(bad));
            sim.note(Life { controller: 8, nth: 0 }, What::DeployedAgain);
        }
    }
}
