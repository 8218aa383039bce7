//! Lines for a terminal.

use super::{Observer, printable};
use crate::{At, Entry, Event, EventKind, Evidence, Extent, Line, Plan, RunId, Timestamp, release::Called};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{self, Write as _},
    io::Write,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// Writes a line for each thing that happens, with the time since the run began: the decision, each step, losses loudly,
/// samples only when they change, and the end. A writer that fails is ignored: an observer cannot fail a rollback.
///
/// ```
/// use rollback_core::observe::Progress;
/// let progress = Progress::stderr();
/// let into_a_file = Progress::to(std::io::sink());
/// ```
pub struct Progress {
    state: Mutex<State>,
}

struct State {
    out: Box<dyn Write + Send>,
    runs: BTreeMap<RunId, Seen>,
}

/// What one run has shown already.
#[derive(Default)]
struct Seen {
    began: Timestamp,
    plan: Option<Arc<Plan>>,
    samples: BTreeMap<String, String>,
    lost: BTreeSet<(String, String)>,
    waiting: String,
    tenths: u64,
    called: Called,
}

impl Progress {
    /// To the standard error output.
    pub fn stderr() -> Self {
        Self::to(std::io::stderr())
    }
    /// To any writer; it should not block for long.
    pub fn to(out: impl Write + Send + 'static) -> Self {
        Self { state: Mutex::new(State { out: Box::new(out), runs: BTreeMap::new() }) }
    }
}

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Progress")
    }
}

impl Observer for Progress {
    fn on_event(&self, event: &Event) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let several = state.runs.len() > 1;
        let seen = state.runs.entry(event.run.clone()).or_insert_with(|| Seen { began: event.at, ..Seen::default() });
        let mut text = String::new();
        let since = clock(event.at.since(seen.began));
        for line in seen.lines(&event.kind) {
            // Where several runs write into one terminal, each says which it is.
            let whose = if several { format!("{}: ", event.target) } else { String::new() };
            for (n, line) in printable(&seen.called.told(&line)).lines().enumerate() {
                let _ = match n {
                    0 => writeln!(text, "{since}  {whose}{line}"),
                    _ => writeln!(text, "{:width$}  {line}", "", width = since.len()),
                };
            }
        }
        if matches!(event.kind, EventKind::Ended(_)) {
            state.runs.remove(&event.run);
        }
        let _ = state.out.write_all(text.as_bytes());
        let _ = state.out.flush();
    }
}

/// `00:07`, `1:02:03`.
fn clock(time: Duration) -> String {
    let s = time.as_secs();
    match s / 3600 {
        0 => format!("{:02}:{:02}", s / 60, s % 60),
        h => format!("{h}:{:02}:{:02}", s / 60 % 60, s % 60),
    }
}

fn seen_of(evidence: &[Evidence]) -> String {
    evidence.iter().map(|e| format!("\n  {}: {}", e.what, e.seen)).collect()
}

impl Seen {
    fn lines(&mut self, kind: &EventKind) -> Vec<String> {
        match kind {
            EventKind::Began { intent, adopted } => {
                let mut line = format!("rollback of {} ({}): {}", intent.target, intent.run, intent.why);
                if let Some(lines) = adopted {
                    let _ = write!(line, "\ngoing on where it stopped: {lines} lines are in the journal");
                }
                vec![line]
            }
            EventKind::Journalled(line) => self.entry(line),
            EventKind::Lost { what, why } => self.lost(what, why),
            EventKind::Waiting { why } if *why == self.waiting => vec![],
            EventKind::Waiting { why } => {
                self.waiting.clone_from(why);
                vec![format!("waiting: {why}")]
            }
            EventKind::Sample { of, says, .. } if self.samples.get(of) == Some(says) => vec![],
            EventKind::Sample { of, says, evidence } => {
                self.samples.insert(of.clone(), says.clone());
                vec![format!("{of}: {says}{}", seen_of(evidence))]
            }
            EventKind::Progress { done, of } => {
                // Every tenth is enough for people.
                let tenths = done.saturating_mul(10).checked_div(*of).unwrap_or(10);
                if tenths == self.tenths {
                    return vec![];
                }
                self.tenths = tenths;
                vec![format!("  {done} of {of}")]
            }
            EventKind::Ended(outcome) => {
                let mut line = format!("{} {outcome}", if outcome.is_good() { "=>" } else { "!!" });
                if let crate::Outcome::Stuck { parts, .. } = outcome {
                    for (part, how) in parts {
                        let _ = write!(line, "\n  {part}: {how}");
                    }
                }
                vec![line]
            }
        }
    }

    /// Once, although a loss may be heard twice: as it happens, and when it stands in the journal.
    fn lost(&mut self, what: &str, why: &str) -> Vec<String> {
        if !self.lost.insert((what.into(), why.into())) {
            return vec![];
        }
        vec![format!("!! LOST {what}: {why}")]
    }

    fn step(&self, at: At) -> String {
        let step = self.plan.as_ref().and_then(|plan| plan.rungs.get(at.rung)?.steps.get(at.step));
        let name = step.map_or("", |step| step.name.as_str());
        format!("step {}.{} {name}", at.rung + 1, at.step + 1).trim_end().to_string()
    }

    fn entry(&mut self, line: &Line) -> Vec<String> {
        let line = match &line.entry {
            Entry::Identified(identity) => format!("it is {identity}"),
            Entry::Chose(chosen) => {
                self.called = Called::of(chosen);
                let warn =
                    if chosen.unverified { "\n!! nobody is known to have verified this release healthy" } else { "" };
                let (from, to) = (chosen.leaves().label, &chosen.wanted.label);
                format!("back from {from} to {to} ({}){warn}", chosen.why)
            }
            Entry::Overridden { release, why } => format!("!! {release} is known bad and gone to all the same: {why}"),
            Entry::Planned(plan) => {
                self.plan = Some(plan.clone());
                format!("plan {plan}")
            }
            Entry::Prepared { approved, findings, .. } => {
                let mut line = match approved.len() {
                    1 => "1 change is ready".to_string(),
                    n => format!("{n} changes are ready"),
                };
                for diff in approved.iter().flat_map(|a| &a.diff) {
                    let _ = write!(line, "\n  {diff}");
                }
                for finding in findings {
                    let _ = write!(line, "\n  {finding}");
                }
                line
            }
            Entry::Approved { by, .. } => format!("approved by {by}"),
            Entry::Freezing { name, .. } => format!("freezing {name}"),
            Entry::FreezeUnclear { name, fault } => format!("!! whether {name} is frozen is not known: {fault}"),
            Entry::Froze { name, was: None, .. } => format!("!! {name} is not frozen: it may deploy again"),
            Entry::Froze { name, until: Some(until), .. } => format!("{name} is frozen until {until}"),
            Entry::Froze { name, until: None, .. } => format!("{name} is frozen until it is lifted"),
            Entry::Tried { by, evidence } => format!("tried elsewhere by {by}, and it works{}", seen_of(evidence)),
            Entry::EvidenceKept(artifacts) => match artifacts.len() {
                1 => "evidence kept: 1 artifact".to_string(),
                n => format!("evidence kept: {n} artifacts"),
            },
            Entry::Doing { at, .. } => {
                self.tenths = 0;
                format!("{} ...", self.step(*at))
            }
            Entry::Did { at, applied } => {
                let how = match &applied.extent {
                    Extent::Done => format!("{}: written", self.step(*at)),
                    Extent::Submitted => format!("{}: accepted, the platform carries it out", self.step(*at)),
                    Extent::Partial { done, of, .. } => format!("{}: {done} of {of}", self.step(*at)),
                    Extent::NotStarted { why } => format!("!! {}: not started: {why}", self.step(*at)),
                };
                applied.notes.iter().fold(how, |how, note| format!("{how}\n  {note}"))
            }
            Entry::Unclear { at, fault } => format!("!! {}: {fault}; looking whether it happened", self.step(*at)),
            Entry::NotDone { at, fault } => format!("{}: not done: {fault}", self.step(*at)),
            Entry::AlreadySo { at } => format!("{}: already so", self.step(*at)),
            Entry::Landed { on, .. } => {
                let on: Vec<_> = on.iter().map(|(part, release)| format!("{release} ({part})")).collect();
                format!("the platform landed on {}", on.join(", "))
            }
            Entry::StepDone { at } => format!("{}: done", self.step(*at)),
            Entry::Reached { .. } => "the release is reached; is it better?".into(),
            Entry::Held { evidence, .. } => format!("held{}", seen_of(evidence)),
            Entry::RungFailed { rung, why } => format!("!! rung {} failed: {why}", rung + 1),
            Entry::Residue(lines) if lines.is_empty() => return vec![],
            Entry::Residue(lines) => {
                let mut text = "!! not as planned:".to_string();
                for diff in lines {
                    let side = |side: &Option<String>| side.clone().unwrap_or_else(|| "nothing".into());
                    let _ = write!(text, "\n  {}: {} instead of {}", diff.what, side(&diff.to), side(&diff.from));
                }
                text
            }
            Entry::Marked(entry) => {
                // Epochs are counted from 1: what no journal took has none.
                let known = if line.epoch == 0 { "would be known, if a journal took it down," } else { "is now known" };
                format!("{} {known} as {}: {}", entry.release.id, standing(entry.standing), entry.why)
            }
            Entry::Lost { what, why } => return self.lost(what, why),
            // Said by an event of its own.
            Entry::Unhealthy { .. } | Entry::Ended(_) => return vec![],
        };
        vec![line]
    }
}

fn standing(standing: crate::Standing) -> &'static str {
    match standing {
        crate::Standing::Verified => "verified",
        crate::Standing::Failed => "failed",
        crate::Standing::Seen => "seen",
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{
        Applied, Capabilities, Change, Chosen, Fencing, Identity, Intent, LedgerEntry, Observation, Outcome, PartState,
        Release, Rung, Situation, Standing, Step, Token, Weight, minutes,
    };

    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);
    impl Write for Page {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    fn written(kinds: Vec<(u64, EventKind)>) -> String {
        let page = Page::default();
        let progress = Progress::to(page.clone());
        for (at, kind) in kinds {
            progress.on_event(&Event::new("r1".into(), "dir:/srv/shop".into(), Timestamp(at * 1000), kind));
        }
        let bytes = page.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }
    fn journalled(entry: Entry) -> EventKind {
        EventKind::Journalled(Box::new(Line::new(0, 1, Timestamp(0), Duration::ZERO, Duration::ZERO, entry)))
    }

    #[test]
    fn a_run_as_people_read_it() {
        let now = Observation::of_one(Identity::new("host", "7"), PartState::of("2"), Token::none());
        let situation =
            Situation::new("dir:/srv/shop".into(), Capabilities::new(Fencing::Token), now, "2", Release::new("1"));
        let step = Step::new("all to 1", Change::release(&"all".into(), &"1".into()), minutes(1));
        let plan = Plan::new(&situation, Rung::new("direct", Weight::NONE, vec![step]));
        let intent = Intent::new("r1".into(), "dir:/srv/shop".into(), "me", "500s since 2");
        let sample = |says: &str, seen: &str| EventKind::Sample {
            of: "GET /health".into(),
            says: says.into(),
            evidence: vec![Evidence::new("status", seen)],
        };
        let at = At { rung: 0, step: 0 };
        let chose = Entry::Chose(Arc::new(Chosen::new("2", Release::new("1"), "previous, unverified")));
        let verified = LedgerEntry::new(Release::new("1"), Standing::Verified, Timestamp(0), "held for 2 min");
        let text = written(vec![
            (100, EventKind::Began { intent: Arc::new(intent), adopted: None }),
            (100, journalled(chose)),
            (101, journalled(Entry::Planned(Arc::new(plan)))),
            (101, EventKind::Lost { what: "journal".into(), why: "disk full".into() }),
            (101, journalled(Entry::Lost { what: "journal".into(), why: "disk full".into() })),
            (102, journalled(Entry::Doing { at, approved: "sha256:0".into() })),
            (102, EventKind::Progress { done: 10, of: 100 }),
            (102, EventKind::Progress { done: 11, of: 100 }),
            (103, journalled(Entry::Did { at, applied: Box::new(Applied::done()) })),
            (104, sample("unhealthy", "503")),
            (106, sample("unhealthy", "503")),
            (108, sample("healthy", "200")),
            (3800, journalled(Entry::Marked(Box::new(verified)))),
            (3800, EventKind::Ended(Outcome::Recovered)),
        ]);
        let want = "\
00:00  rollback of dir:/srv/shop (r1): 500s since 2
00:00  back from 2 to 1 (previous, unverified)
       !! nobody is known to have verified this release healthy
00:01  plan dir:/srv/shop: 2 → 1
         rung 1: direct (at least 0% of the capacity serves)
           1.1 all to 1
         last: dir:/srv/shop was to be taken from 2 to 1: mend what the first line names, and the same order goes on; as long as that stands in the way it ends in the same way, so otherwise name another release to go to
00:01  !! LOST journal: disk full
00:02  step 1.1 all to 1 ...
00:02    10 of 100
00:03  step 1.1 all to 1: written
00:04  GET /health: unhealthy
         status: 503
00:08  GET /health: healthy
         status: 200
1:01:40  1 is now known as verified: held for 2 min
1:01:40  => recovered
";
        assert_eq!(text, want);
    }

    #[test]
    fn what_a_service_says_cannot_steer_the_terminal() {
        let text = written(vec![(0, EventKind::Waiting { why: "a\u{1b}[2Jb\rc".into() })]);
        assert_eq!(text, "00:00  waiting: a·[2Jb·c\n");
    }

    #[test]
    fn a_writer_that_fails_is_ignored() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
                Err(std::io::ErrorKind::StorageFull.into())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Err(std::io::ErrorKind::StorageFull.into())
            }
        }
        let waits = EventKind::Waiting { why: "blue".into() };
        Progress::to(Full).on_event(&Event::new("r".into(), "t".into(), Timestamp(0), waits));
    }
}
