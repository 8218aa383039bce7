//! The journal in memory on a bad disk, with everything written down.

use super::{
    fault::{Fault, Stage},
    log::{Life, What},
    sim::Sim,
};
use crate::{
    Begun, HeldFreeze, Intent, Journal, Kind, Lease, LedgerEntry, Line, Result, RunId, RunQuery, RunSummary, Shelf,
    TargetId,
};
use async_trait::async_trait;
use std::sync::Arc;
use tokio::task::yield_now;

#[derive(Clone, Debug)]
pub(super) struct SimJournal {
    pub(super) sim: Sim,
    pub(super) life: Life,
}

impl SimJournal {
    async fn way(&self, stage: Stage, doing: &str) -> Result<()> {
        let (sim, life) = (&self.sim, self.life);
        sim.call(life, stage);
        yield_now().await;
        if sim.is_out(Fault::DiskFull, stage) {
            return Err(sim.unavailable(doing, "the disk is full").without_effect());
        }
        if sim.hits(life, Fault::JournalFails, stage) {
            return Err(sim.unavailable(doing, "it did not answer").without_effect());
        }
        if sim.hits(life, Fault::JournalSlow, stage) {
            tokio::time::sleep(sim.millis(100..25_000)).await;
        }
        Ok(())
    }
    async fn begun(&self, intent: &Intent) -> Result<Begun> {
        let (sim, life) = (&self.sim, self.life);
        self.way(Stage::Begin, "begin the run").await?;
        let mut begun = sim.journal.begin(intent).await?;
        let mut damaged = false;
        if let Begun::Adopted { lines, .. } = &mut begun
            && lines.len() > 1
            && sim.hits(life, Fault::JournalDamaged, Stage::Begin)
        {
            let nth = sim.shared().rng.usize(..lines.len() - 1);
            lines.remove(nth);
            damaged = true;
        }
        let took_over = intent.policy.take_over;
        match &begun {
            Begun::Fresh { lease, replaced } => {
                let (run, intent, replaced) = (lease.run.clone(), Box::new(intent.clone()), replaced.clone());
                sim.note(life, What::Begun { run, epoch: lease.epoch, intent, lines: 0, took_over, replaced, damaged });
            }
            Begun::Adopted { lease, intent, lines } => {
                let (run, intent, lines) = (lease.run.clone(), intent.clone(), lines.len() as u64);
                sim.note(
                    life,
                    What::Begun { run, epoch: lease.epoch, intent, lines, took_over, replaced: None, damaged },
                );
            }
            Begun::Busy { run, .. } => sim.note(life, What::Busy { run: run.clone() }),
            Begun::Over { .. } => {}
        }
        Ok(begun)
    }
}

/// A call whose future may be dropped: then it failed too.
struct Unless<'a> {
    journal: &'a SimJournal,
    failed: Option<What>,
}
impl Drop for Unless<'_> {
    fn drop(&mut self) {
        if let Some(failed) = self.failed.take() {
            self.journal.sim.note(self.journal.life, failed);
        }
    }
}

#[async_trait]
impl Journal for SimJournal {
    async fn begin(&self, intent: &Intent) -> Result<Begun> {
        let mut unless = Unless { journal: self, failed: Some(What::BeginFailed { run: intent.run.clone() }) };
        let begun = self.begun(intent).await?;
        yield_now().await;
        unless.failed = None;
        Ok(begun)
    }
    async fn append(&self, lease: &Lease, lines: &[Line]) -> Result<()> {
        let (sim, life, stage) = (&self.sim, self.life, Stage::Append);
        let failed = What::AppendFailed { run: lease.run.clone(), fenced: false };
        let mut unless = Unless { journal: self, failed: Some(failed) };
        let mut answer = self.way(stage, "append").await;
        if answer.is_ok() {
            let before = sim.journal.read(&lease.run).await?.1.len() as u64;
            answer = sim.journal.append(lease, lines).await;
            if answer.is_ok() {
                let lines = lines.iter().filter(|line| line.seq >= before).cloned().collect();
                sim.note(life, What::Appended { run: lease.run.clone(), epoch: lease.epoch, lines });
                if sim.hits(life, Fault::JournalLost, stage) {
                    answer = Err(sim.unavailable("append", "the answer was lost"));
                }
            }
        }
        // Durable and not known to be: a crash here is the one that matters.
        yield_now().await;
        unless.failed = None;
        if let Err(error) = &answer {
            let fenced = error.kind() == Kind::Conflict;
            sim.note(life, What::AppendFailed { run: lease.run.clone(), fenced });
        }
        answer
    }
    async fn renew(&self, lease: &Lease) -> Result<()> {
        self.way(Stage::Append, "renew the lease").await?;
        let answer = self.sim.journal.renew(lease).await;
        match &answer {
            Ok(()) => self.sim.note(self.life, What::Renewed { run: lease.run.clone() }),
            Err(error) => {
                let fenced = error.kind() == Kind::Conflict;
                self.sim.note(self.life, What::AppendFailed { run: lease.run.clone(), fenced });
            }
        }
        answer
    }
    fn let_go(&self, lease: &Lease) {
        if self.sim.shared().killed.contains(&self.life) {
            return;
        }
        self.sim.journal.let_go(lease);
        self.sim.note(self.life, What::LetGo { run: lease.run.clone(), epoch: lease.epoch });
    }
    async fn runs(&self, query: &RunQuery) -> Result<Vec<RunSummary>> {
        self.way(Stage::History, "read the runs").await?;
        self.sim.journal.runs(query).await
    }
    async fn read(&self, run: &RunId) -> Result<(Intent, Vec<Line>)> {
        self.way(Stage::History, "read the run").await?;
        self.sim.journal.read(run).await
    }
    async fn give_up(&self, run: &RunId, who: &str, why: &str) -> Result<()> {
        self.sim.journal.give_up(run, who, why).await
    }
    async fn mark(&self, target: &TargetId, entry: &LedgerEntry) -> Result<()> {
        self.sim.journal.mark(target, entry).await
    }
    async fn ledger(&self, target: &TargetId) -> Result<Vec<LedgerEntry>> {
        self.way(Stage::History, "read the ledger").await?;
        self.sim.journal.ledger(target).await
    }
    async fn holds(&self) -> Result<Vec<HeldFreeze>> {
        self.sim.journal.holds().await
    }
    async fn forget_hold(&self, run: &RunId, name: &str) -> Result<()> {
        self.sim.journal.forget_hold(run, name).await
    }
    fn shelf(&self) -> Arc<dyn Shelf> {
        self.sim.journal.shelf()
    }
}
