//! How a run ends: as its report says, and as the world is.

use super::super::{log::PartStates, target::STALE_FOR};
use super::{Answer, Judge, Sent};
use crate::{
    Entry, Line, Outcome, RunId, Support,
    testing::fake::{Action, Scene},
};
use std::{collections::BTreeSet, time::Duration};

impl Judge<'_> {
    pub(super) fn ended(&mut self, outcome: &Outcome, lines: &[Line], scene: &Scene) {
        let process = self.process();
        let (read, began, fenced) = (process.last_read.clone(), process.began, process.fenced);
        let (drives, damaged) = (process.drives && !process.journal_failed && process.apart.is_none(), process.damaged);
        let Some(id) = process.run.clone() else { return };
        let report: BTreeSet<String> = lines
            .iter()
            .filter_map(|line| match &line.entry {
                Entry::Doing { at, .. } => Some(format!("{id}/{at}")),
                _ => None,
            })
            .collect();
        // What another process of the run did without a journal, this one cannot know.
        let life = self.life;
        let run = self.run(&id);
        let waived = run.policy.journal == Support::IfThere && run.journal_lost;
        // Nor is what it sent itself its doing, where the answer was that it had no effect.
        let may_have = |s: &Sent| s.life == life && !matches!(s.answer, Some((_, Answer::NoEffect)));
        let mine = |key: &String| run.sent.get(key).is_some_and(|sent| sent.iter().any(may_have));
        let effects: Vec<String> =
            run.effects.keys().filter(|key| (drives && !waived && !fenced) || mine(key)).cloned().collect();
        for key in &effects {
            if !report.contains(key) && !damaged {
                self.broke(20, format!("{key} had an effect, and the report of {id} does not know it"));
            }
        }
        let untouched = matches!(outcome, Outcome::Refused { .. } | Outcome::NothingToDo | Outcome::Rehearsed);
        // Of a damaged journal it can only be said that nothing more was touched.
        if untouched && !effects.is_empty() && !damaged {
            self.broke(20, format!("{id} ended as {}, and had {effects:?}", outcome.name()));
        }
        let lost = lines.iter().any(|line| matches!(line.entry, Entry::Lost { .. }));
        if waived
            && !lost
            && self.process().journal_failed
            && effects.iter().any(|key| !self.run(&id).doing.contains_key(key))
        {
            self.broke(20, format!("{id} wrote without a journal, and its report says nothing of it"));
        }
        match outcome {
            // One that had ended before is told once more, as it was then.
            Outcome::Recovered if !self.process().drives && self.run(&id).ended => {}
            Outcome::Recovered => self.recovered(&id, lines, scene, read.as_ref()),
            Outcome::Superseded { by } => {
                let somebody = self.others.iter().any(|(_, a)| !matches!(a, Action::Collect(_) | Action::Ail(..)));
                let fenced = fenced && self.takeovers.iter().any(|at| *at > began);
                let replaced = self.replaced.contains(&id);
                let somebody = somebody || self.runs.iter().any(|(other, run)| *other != id && !run.effects.is_empty());
                // A run that lost its journal may meet its own writes.
                if !somebody && !fenced && !replaced && !waived {
                    self.broke(6, format!("{id} is superseded by {by}, and nobody was there"));
                }
            }
            Outcome::Stuck { parts, .. } => {
                if let Some((_, seen, _)) = read
                    && parts.len() < seen.len()
                    && !parts.is_empty()
                {
                    self.broke(14, format!("{id} is stuck, and tells of {} of {} parts", parts.len(), seen.len()));
                }
            }
            _ => {}
        }
    }

    pub(super) fn recovered(
        &mut self,
        id: &RunId,
        lines: &[Line],
        scene: &Scene,
        read: Option<&(Duration, PartStates, bool)>,
    ) {
        let chosen = lines.iter().rev().find_map(|line| match &line.entry {
            Entry::Chose(chosen) => Some((chosen.suspect.clone(), chosen.wanted.id.clone())),
            _ => None,
        });
        let Some((suspect, wanted)) = chosen else {
            return self.broke(13, format!("{id} recovered without having chosen"));
        };
        let lately = read.map_or(Duration::ZERO, |(at, ..)| at.saturating_sub(STALE_FOR));
        if self.others.iter().any(|(at, _)| *at >= lately) {
            return;
        }
        // Nothing keeps another run out of one that has lost its journal: the last look may be older than what that one did.
        let waived = self.is_waived(id);
        if waived
            && self.runs.iter().any(|(other, run)| other != id && run.last_effect >= lately && !run.effects.is_empty())
        {
            return;
        }
        let serving: Vec<_> = scene.parts.iter().filter(|(_, part)| part.serves()).collect();
        if let Some((part, state)) = serving.iter().find(|(_, part)| part.running.mentions().contains(&&suspect)) {
            self.broke(13, format!("{id} recovered, and {part} still runs {}", state.running));
        }
        if !serving.iter().any(|(_, part)| part.runs(&wanted)) {
            self.broke(13, format!("{id} recovered, and {wanted} serves nowhere"));
        }
    }
}
