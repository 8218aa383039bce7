//! The report for terminals.

use super::Report;
use crate::{
    At, Entry, Evidence, Extent, Outcome, PartMap, Plan, ReleaseId, Timestamp, observe::printable, release::Called,
};
use std::fmt;

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What was written before anybody knew what releases are called, their ids in it.
        let called = self.chosen().map(Called::of).unwrap_or_default();
        writeln!(f, "{}: {}", self.target(), called.told(&self.outcome().to_string()))?;
        writeln!(f, "  run        {}{}", self.run(), if self.was_adopted() { ", gone on with" } else { "" })?;
        writeln!(f, "  ordered by {} at {}", self.intent().who, self.intent().at)?;
        if !self.intent().why.is_empty() {
            writeln!(f, "  because    {}", printable(&self.intent().why))?;
        }
        if let Some(choice) = self.chosen() {
            // Only where it came so far: a run that was rehearsed, refused or stuck says where it wanted to go.
            let (from, to) = match self.outcome() {
                Outcome::Recovered | Outcome::NotRecovered { .. } => ("left   ", "reached"),
                _ => ("leaves ", "goes to"),
            };
            let left = choice.leaves().to_string();
            writeln!(f, "  {from}    {}", printable(&left))?;
            writeln!(f, "  {to}    {} ({})", printable(&choice.wanted.to_string()), choice.why)?;
        }
        if !self.lines().is_empty() || self.detected().is_some() {
            writeln!(f, "  timeline")?;
            self.detection(f)?;
            self.timeline(&called, f)?;
        }
        let told = |lines: &mut dyn Iterator<Item = String>| lines.map(|line| called.told(&line)).collect::<Vec<_>>();
        // What was begun, or was to be.
        let changes = if self.has_begun() { "changes" } else { "would change" };
        section(f, changes, told(&mut self.diff().into_iter().map(ToString::to_string)))?;
        section(f, "evidence", self.evidence().iter().map(|a| format!("{} {} ({} bytes)", a.kind, a.digest, a.bytes)))?;
        section(f, "not as planned", told(&mut self.residue().iter().map(ToString::to_string)))?;
        section(f, "LOST", told(&mut self.losses().iter().map(|(what, why)| format!("{what}: {why}"))))?;
        if let Outcome::Stuck { parts, .. } = self.outcome() {
            section(f, "parts", told(&mut parts.iter().map(|(part, state)| format!("{part}: {state}"))))?;
        }
        section(f, "still to do", told(&mut self.to_do().into_iter()))
    }
}

impl Report {
    /// What came before the run, in seconds before it. Read off wall clocks, as everything before a run is.
    fn detection(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(detected) = self.detected() else { return Ok(()) };
        let before = |at: Timestamp| -self.began().since(at).as_secs_f64();
        if let Some(first) = detected.first_seen {
            writeln!(f, "    {:>8.3} s  first seen: {}", before(first), printable(&detected.what))?;
        }
        for Evidence { what, seen } in &detected.evidence {
            writeln!(f, "    {:>8.3} s  {}: {}", before(detected.decided), printable(what), printable(seen))?;
        }
        writeln!(f, "    {:>8.3} s  decided to roll back: {}", before(detected.decided), printable(&detected.what))
    }
    /// What repeats itself is said once, with how often.
    fn timeline(&self, called: &Called, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |nth: usize| self.intent().verifiers.get(nth).map(|(name, _)| format!("{name}: holds"));
        let mut lines = self.lines().iter().filter_map(|line| {
            let text = match &line.entry {
                Entry::Held { nth, .. } => name(*nth).or_else(|| said(&line.entry, self.plan())),
                // All of it stands in the first line of the report.
                Entry::Ended(outcome) => Some(outcome.name().into()),
                entry => said(entry, self.plan()),
            };
            text.map(|text| (line.elapsed.as_secs_f64(), called.told(&text)))
        });
        let mut next = lines.next();
        while let Some((at, text)) = next {
            let (mut times, mut until) = (1, at);
            next = lines.next();
            while let Some((again, _)) = next.as_ref().filter(|(_, other)| *other == text) {
                (times, until) = (times + 1, *again);
                next = lines.next();
            }
            write!(f, "    {at:>8.3} s  {}", printable(&text))?;
            if times > 1 {
                write!(f, " ({times} times until {until:.3} s)")?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

fn section(f: &mut fmt::Formatter<'_>, title: &str, lines: impl IntoIterator<Item = String>) -> fmt::Result {
    for (i, line) in lines.into_iter().enumerate() {
        if i == 0 {
            writeln!(f, "  {title}")?;
        }
        writeln!(f, "    {}", printable(&line))?;
    }
    Ok(())
}

/// What a line of the journal says to a person; `None` for what goes without saying.
fn said(entry: &Entry, plan: Option<&Plan>) -> Option<String> {
    // Counted from 1, as the plan is shown.
    let step = |at: &At| {
        let name = plan.and_then(|p| p.rungs.get(at.rung)?.steps.get(at.step)).map(|s| format!(" ({})", s.name));
        format!("step {}.{}{}", at.rung + 1, at.step + 1, name.unwrap_or_default())
    };
    let text = match entry {
        Entry::Identified(identity) => format!("it is {identity}"),
        Entry::Chose(chosen) => {
            format!("leaves {} for {} ({})", chosen.leaves().label, chosen.wanted.label, chosen.why)
        }
        Entry::Overridden { release, why } => format!("goes to {release} although it is known bad: {why}"),
        Entry::Planned(plan) => {
            let steps: usize = plan.rungs.iter().map(|r| r.steps.len()).sum();
            let rungs = plan.rungs.iter().map(|r| r.name.as_str()).collect::<Vec<_>>().join(", then ");
            format!("planned: {rungs} ({})", count(steps, "step"))
        }
        Entry::Prepared { approved, findings, .. } => {
            let found: Vec<_> = findings.iter().map(|f| format!("; {f}")).collect();
            format!("{} made ready{}", count(approved.len(), "step"), found.concat())
        }
        Entry::Approved { by, .. } => format!("approved by {by}"),
        Entry::Freezing { .. } | Entry::Marked(_) | Entry::Residue(_) => return None,
        Entry::FreezeUnclear { name, fault } => format!("whether {name} is frozen is not known: {fault}"),
        Entry::Froze { name, was: Some(_), .. } => format!("{name} is frozen"),
        Entry::Froze { name, was: None, .. } => format!("{name} is NOT frozen"),
        Entry::Tried { by, .. } => format!("tried elsewhere first by {by}: it works there"),
        Entry::EvidenceKept(kept) if kept.is_empty() => return None,
        Entry::EvidenceKept(kept) => format!("{} of evidence kept", count(kept.len(), "piece")),
        Entry::Doing { at, .. } => format!("{} begins", step(at)),
        Entry::Did { at, applied } => {
            let how = match &applied.extent {
                Extent::Done => format!("{} is written", step(at)),
                Extent::Submitted => format!("{} is under way", step(at)),
                Extent::Partial { done, of, .. } => format!("{}: {done} of {of} done", step(at)),
                Extent::NotStarted { why } => format!("{} was not done: {why}", step(at)),
            };
            applied.notes.iter().fold(how, |how, note| format!("{how}; {note}"))
        }
        Entry::Unclear { at, fault } => format!("{}: whether it happened is not known yet: {fault}", step(at)),
        Entry::NotDone { at, fault } => format!("{} was not done: {fault}", step(at)),
        Entry::AlreadySo { at } => format!("{} needs no write", step(at)),
        Entry::Landed { on, .. } => format!("the platform landed on {}", landed(on)),
        Entry::Unhealthy { at, evidence } => {
            let seen: Vec<_> = evidence.iter().take(3).map(|e| format!("; {}: {}", e.what, e.seen)).collect();
            format!("{} is unhealthy{}", step(at), seen.concat())
        }
        Entry::StepDone { at } => format!("{} stands", step(at)),
        Entry::Reached { rung } => format!("rung {} is through: verifying", rung + 1),
        Entry::Held { nth, .. } => format!("verifier {} held", nth + 1),
        Entry::RungFailed { rung, why } => format!("rung {} failed: {why}", rung + 1),
        Entry::Lost { what, why } => format!("LOST {what}: {why}"),
        Entry::Ended(outcome) => format!("{outcome}"),
    };
    Some(text)
}

fn landed(on: &PartMap<ReleaseId>) -> String {
    on.iter().map(|(part, release)| format!("{release} ({part})")).collect::<Vec<_>>().join(", ")
}

fn count(n: usize, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}
