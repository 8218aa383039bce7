//! What the world did.

use super::Judge;
use crate::{
    RunId, Support,
    testing::fake::{Happened, Landed, Scene},
};
use std::time::Duration;

impl Judge<'_> {
    pub(super) fn happened(&mut self, happened: &Happened) {
        match happened {
            Happened::Wrote { run, key, epoch, landed, before, after } => {
                self.scene = Some(after.clone());
                if *landed == Landed::Changed {
                    self.effect(run, key, *epoch, before, after);
                } else {
                    self.run(run).effects.entry(key.clone()).or_default();
                }
            }
            Happened::Refused { .. } => {}
            Happened::Else(action, after) => {
                self.scene = Some(after.clone());
                self.others.push((self.now, action.clone()));
            }
        }
    }

    pub(super) fn effect(&mut self, id: &RunId, key: &str, epoch: u64, before: &Scene, after: &Scene) {
        let now = self.now;
        self.last_effect = now;
        let tokens = self.tokens();
        let waived = {
            let run = self.run(id);
            run.policy.journal == Support::IfThere && run.journal_lost
        };
        if !waived && !self.run(id).doing.contains_key(key) {
            self.broke(1, format!("{key} had an effect without a durable intent"));
        }
        if epoch > 0 && epoch < self.highest_effect && tokens && !waived {
            let highest = self.highest_effect;
            self.broke(2, format!("{key} had an effect under epoch {epoch}, after one under {highest}"));
        }
        self.highest_effect = self.highest_effect.max(epoch);
        if tokens {
            let run = self.run(id);
            // Without a journal a process identifies anew.
            if !waived && !run.identities.is_empty() && !run.identities.contains(&before.identity) {
                let (is, was) = (before.identity.clone(), run.identities.clone());
                self.broke(4, format!("{key} changed {is}, and the run is about {was:?}"));
            }
            if let Some(stranger) = self.stranger(id, &before.parts) {
                self.broke(6, format!("{key} changed what shows {stranger}"));
            }
        }
        let run = self.run(id);
        if !run.identities.is_empty() && before.identity != after.identity {
            run.identities.push(after.identity.clone());
        }
        run.last_effect = now;
        let times = run.effects.entry(key.to_owned()).or_default();
        *times += 1;
        let times = *times;
        let first = run.sent.get(key).and_then(|s| s.first()).map_or(Duration::ZERO, |s| s.at);
        // What somebody else, or another run, has undone meanwhile may be done again.
        let disturbed = self.others.iter().any(|(at, _)| *at >= first)
            || self.runs.iter().any(|(other, run)| other != id && !run.effects.is_empty() && run.last_effect >= first);
        if times > 1 && !self.scenario.pieces && !disturbed && !waived && (tokens || self.scenario.knows_keys) {
            self.broke(8, format!("{key} had {times} effects"));
        }
    }
}
