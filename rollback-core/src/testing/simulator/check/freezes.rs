//! Freezes: with an intent, before the first write, named in the report, and lifted by nobody but who does so.

use super::super::{
    freeze::{GOES, Was},
    scenario::Order,
};
use super::Judge;
use crate::{Entry, RunId, Support, Timestamp};
use std::collections::BTreeSet;

impl Judge<'_> {
    pub(super) fn freeze_line(&mut self, id: &RunId, entry: &Entry) {
        let freezes = &mut self.run(id).freezes;
        match entry {
            Entry::Freezing { until, .. } => {
                freezes.intents.push(*until);
                (freezes.known, freezes.given_up) = (false, false);
            }
            Entry::Froze { was: Some(was), until, .. } => {
                freezes.known = true;
                let answered = was.read::<Was>().is_ok_and(|Was(was)| freezes.answers.contains(&was));
                let (landed, told) = (!freezes.by.is_empty(), freezes.intents.last() == Some(until));
                if !answered || !landed || !told {
                    let why = format!("answered {answered}, arrived {landed}, until when it was told {told}");
                    self.broke(20, format!("{id} is said to have frozen the pipeline: {why}"));
                }
            }
            Entry::Froze { was: None, .. } => {
                freezes.given_up = true;
                if freezes.landed.is_some() {
                    self.broke(8, format!("{id} is said not to have frozen the pipeline, and it has"));
                }
            }
            _ => {}
        }
    }

    pub(super) fn freeze(&mut self, id: &RunId, until: Option<Timestamp>) {
        let waived = self.is_waived(id);
        let rehearses = self.process().order == Some(Order::Rehearsal);
        let intents = self.run(id).freezes.intents.clone();
        // One that stood still may say what was journalled before another process took over.
        if !waived && !intents.contains(&until) {
            self.broke(
                1,
                format!("{id} freezes the pipeline until {until:?}, and its durable intents are {intents:?}"),
            );
        }
        if rehearses {
            self.broke(18, format!("{id} freezes the pipeline in a rehearsal"));
        }
    }

    /// Its own journal was optional, and was lost.
    pub(super) fn is_waived(&mut self, id: &RunId) -> bool {
        let run = self.run(id);
        run.policy.journal == Support::IfThere && run.journal_lost
    }

    pub(super) fn frozen(&mut self, id: &RunId, until: Option<Timestamp>) {
        let (waived, life, now) = (self.is_waived(id), self.life, self.now);
        let forgot = self.process().journal_failed;
        let run = self.run(id);
        let unjournalled = forgot && run.policy.journal == Support::IfThere;
        let freezes = &mut run.freezes;
        freezes.by.insert(life);
        // What a process did without a journal, no other can know. Until when it holds tells which intent it was sent for;
        // holds without an end all look the same.
        if freezes.intents.contains(&until) && !(unjournalled && until.is_none()) {
            freezes.landed.get_or_insert(now);
        }
        if freezes.given_up && !waived {
            self.broke(8, format!("{id} was said not to have frozen the pipeline, and it was on its way"));
        }
    }

    pub(super) fn unfrozen(&mut self, id: &RunId) {
        let over = self.runs.values().all(|run| run.ended || run.seq == 0);
        if !over {
            self.broke(24, format!("the pipeline was unfrozen for {id}, and not all is over"));
        }
    }

    /// Whoever would deploy again was stopped before anything was written, or it is said that it was not.
    pub(super) fn frozen_before(&mut self, id: &RunId, key: &str) {
        let waived = self.is_waived(id);
        if self.scenario.deploys_again.is_none() || waived {
            return;
        }
        let run = self.run(id);
        let said = run.lost.iter().any(|what| what == "freeze pipeline");
        let frozen = run.freezes.known && run.freezes.landed.is_some();
        let gone_on_without = said && run.policy.freeze == Support::IfThere;
        if !frozen && !gone_on_without {
            self.broke(1, format!("{key} was sent before the pipeline was frozen"));
        }
    }

    /// What the report of a process names.
    pub(super) fn named(&mut self, [frozen, perhaps]: [bool; 2]) {
        let process = self.process();
        let drives = process.drives && !process.damaged && !process.fenced;
        let apart = process.apart;
        let Some(id) = process.run.clone() else { return };
        let life = self.life;
        let freezes = &self.run(&id).freezes;
        let known = freezes.landed.is_some_and(|at| apart.is_none_or(|since| at < since));
        let (anybody, own) = (!freezes.by.is_empty(), freezes.by.contains(&life));
        if frozen && !anybody {
            self.broke(20, format!("the report of {id} says that the pipeline is frozen, and it is not"));
        }
        if (own || (drives && known)) && !frozen && !perhaps {
            self.broke(20, format!("{id} froze the pipeline, and its report says nothing of it"));
        }
    }

    /// A freeze ends by being lifted, and by nothing else; and whatever is held can be.
    pub(super) fn over(&mut self, held: &[BTreeSet<RunId>; 3], left: &[BTreeSet<RunId>; 2], setting: u32) {
        let ([really, known, certain], [still, listed]) = (held, left);
        for id in certain.difference(really) {
            self.broke(24, format!("the freeze of {id} is gone, and nobody lifted it"));
        }
        for id in really.difference(known) {
            // Without a journal, the report must say it, if there was time for one.
            if !self.is_waived(id) {
                self.broke(24, format!("the pipeline is frozen by {id}, and nobody knows"));
            }
        }
        if still.iter().any(|id| known.contains(id)) || !listed.is_empty() {
            self.broke(24, format!("unfrozen, and still held by {still:?}, listed {listed:?}"));
        }
        if still.is_empty() && setting != GOES {
            self.broke(24, format!("unfrozen, and set to {setting} instead of {GOES}"));
        }
    }
}
