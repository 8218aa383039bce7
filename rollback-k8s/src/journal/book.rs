//! What one ConfigMap of the journal holds, and how it changes. No requests here.
//!
//! A *book* is the one object of a target: the run that is unfinished (or was the last one), the ledger, and the epoch. All
//! that an append does, it does to this object, so that one request with its version makes it whole or not at all. A run that
//! has ended moves to an object of its own when the next one begins. Lines beyond [`SPILL`] move to objects of their own
//! while a run goes on.

use super::{
    names,
    sealed::{damaged, open, seal},
};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::PartialObjectMeta;
use rollback_core::{
    Error, HeldFreeze, Intent, Kind, Lease, LedgerEntry, Line, Outcome, Payload, Result, RunId, RunSummary, Standing,
    TargetId, Timestamp,
    journal::rules::{self, APPEND, BEGIN, Effect},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::{collections::BTreeMap, time::Duration};

/// The form of what is stored. Counted up when it changes.
pub(super) const FORMAT: u32 = 1;
const FORMAT_KEY: &str = "format";
const TARGET: &str = "target";
const STATE: &str = "state";
const INTENT: &str = "intent";
/// Lines of more bytes than this move to an object of their own: what is written at each append stays small.
pub(super) const SPILL: usize = 128 << 10;
/// An object may have 1 MiB.
pub(super) const MOST: usize = 900 << 10;
/// A ledger beyond it forgets.
const LEDGER: usize = 200 << 10;

pub(super) type Data = BTreeMap<String, String>;

/// What is counted over all runs of a target.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Counters {
    /// Of the last lease.
    epoch: u64,
    runs: u64,
    marks: u64,
}

/// A run in short.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Head {
    /// Of the runs of its target, from 1.
    pub(super) number: u64,
    /// Of its last lease.
    pub(super) epoch: u64,
    lease_ms: u64,
    summary: RunSummary,
    pub(super) who: String,
    pub(super) since: Timestamp,
    ended: Option<Timestamp>,
    /// Of its last line.
    times: (Duration, Duration),
    /// Where its earlier lines are.
    spilled: Vec<Spilled>,
    artifacts: Vec<String>,
}

/// Lines that lie in another object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Spilled {
    pub(super) name: String,
    first: u64,
    end: u64,
}

impl Head {
    pub(super) fn id(&self) -> &RunId {
        &self.summary.run
    }
    pub(super) fn target(&self) -> &TargetId {
        &self.summary.target
    }
    pub(super) fn outcome(&self) -> Option<&Outcome> {
        self.summary.outcome.as_ref()
    }
    pub(super) fn ended(&self) -> Option<Timestamp> {
        self.ended
    }
    pub(super) fn summary(&self) -> &RunSummary {
        &self.summary
    }
    pub(super) fn lease(&self) -> Duration {
        Duration::from_millis(self.lease_ms)
    }
    pub(super) fn spilled(&self) -> &[Spilled] {
        &self.spilled
    }
    pub(super) fn artifacts(&self) -> &[String] {
        &self.artifacts
    }
    /// From the metadata of a book or of a run that has ended. `None`: a book without a run.
    pub(super) fn of(operation: &str, object: &PartialObjectMeta<ConfigMap>) -> Result<Option<Self>> {
        head(operation, &object.metadata)
    }
}

fn head(operation: &str, meta: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta) -> Result<Option<Head>> {
    let sealed = meta.annotations.as_ref().and_then(|all| all.get(names::HEAD));
    let name = meta.name.as_deref().unwrap_or_default();
    sealed.map(|text| open(operation, &["the head of", name], text)).transpose()
}

/// A book, or a run that has ended: an object with the lines of one run.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Book {
    pub(super) name: String,
    /// Its `resourceVersion`; `None` before it is made.
    pub(super) version: Option<String>,
    target: TargetId,
    counters: Counters,
    head: Option<Head>,
    data: Data,
}

fn line_key(seq: u64) -> String {
    format!("line.{seq:08}")
}
fn place_of_line(run: &RunId, seq: u64) -> [String; 2] {
    [format!("run {run}"), format!("line {seq}")]
}
fn as_strs(place: &[String; 2]) -> [&str; 2] {
    [&place[0], &place[1]]
}

impl Book {
    pub(super) fn new(target: &TargetId) -> Self {
        Self {
            name: names::of_target(target),
            version: None,
            target: target.clone(),
            counters: Counters::default(),
            head: None,
            data: Data::new(),
        }
    }
    /// What was read.
    pub(super) fn read(operation: &str, object: ConfigMap) -> Result<Self> {
        let name = object.metadata.name.clone().unwrap_or_default();
        let mut data = object.data.unwrap_or_default();
        check_format(operation, &name, &data)?;
        let target =
            data.remove(TARGET).ok_or_else(|| damaged(operation, format!("ConfigMap {name} has no target")))?;
        let counters = match data.remove(STATE) {
            Some(sealed) => open(operation, &["the state of", &name], &sealed)?,
            None => Counters::default(),
        };
        data.remove(FORMAT_KEY);
        let head = head(operation, &object.metadata)?;
        if head.is_none() && data.contains_key(INTENT) {
            return Err(damaged(operation, format!("ConfigMap {name} has lost the annotation {}", names::HEAD)));
        }
        Ok(Self {
            version: object.metadata.resource_version,
            name,
            target: TargetId::new(target),
            counters,
            head,
            data,
        })
    }
    pub(super) fn target(&self) -> &TargetId {
        &self.target
    }
    pub(super) fn head(&self) -> Option<&Head> {
        self.head.as_ref()
    }
    pub(super) fn epoch(&self) -> u64 {
        self.counters.epoch
    }
    pub(super) fn unfinished(&self) -> Option<&Head> {
        self.head.as_ref().filter(|head| head.outcome().is_none())
    }
    pub(super) fn is_of(&self, run: &RunId) -> bool {
        self.head.as_ref().is_some_and(|head| head.id() == run)
    }

    /// What it is as an object.
    fn entries(&self, operation: &str) -> Result<Data> {
        let mut data = self.data.clone();
        data.insert(FORMAT_KEY.into(), FORMAT.to_string());
        data.insert(TARGET.into(), self.target.to_string());
        if self.name == names::of_target(&self.target) {
            data.insert(STATE.into(), seal(operation, &["the state of", &self.name], &self.counters)?);
        }
        let bytes: usize = data.iter().map(|(key, value)| key.len() + value.len()).sum();
        if bytes > MOST {
            return Err(Error::new(Kind::Unavailable, operation)
                .with_message(format!(
                    "ConfigMap {} would have {bytes} bytes, of which a ConfigMap may not have more than 1 MiB",
                    self.name
                ))
                .with_transient(false)
                .without_effect());
        }
        Ok(data)
    }
    fn labels(&self) -> BTreeMap<&'static str, String> {
        let is_book = self.name == names::of_target(&self.target);
        let mut labels: BTreeMap<&'static str, String> = [
            (names::WHAT, if is_book { names::BOOK } else { names::RUN }.to_owned()),
            (names::OF_TARGET, names::hash(self.target.as_str())),
        ]
        .into();
        if let Some(head) = &self.head {
            labels.insert(names::OF_RUN, names::hash(head.id().as_str()));
            let group = head.summary.parent.as_ref().map_or(String::new(), |group| names::hash(group.as_str()));
            labels.insert(names::OF_GROUP, group);
            labels.insert(names::STATE, if head.outcome().is_some() { "ended" } else { "unfinished" }.into());
            let holds = self.data.keys().any(|key| key.starts_with("hold."));
            labels.insert(names::HOLDS, if holds { "yes" } else { "no" }.into());
        }
        labels
    }
    fn sealed_head(&self, operation: &str) -> Result<Option<String>> {
        self.head.as_ref().map(|head| seal(operation, &["the head of", &self.name], head)).transpose()
    }
    /// All of it, to be made.
    pub(super) fn object(&self, operation: &str) -> Result<ConfigMap> {
        let mut object = ConfigMap { data: Some(self.entries(operation)?), ..ConfigMap::default() };
        object.metadata.name = Some(self.name.clone());
        object.metadata.labels = Some(self.labels().into_iter().map(|(key, value)| (key.to_owned(), value)).collect());
        let head = self.sealed_head(operation)?;
        // There must be a map for a patch to add to.
        let target = (names::TARGET.to_owned(), self.target.to_string());
        let annotations = head.map(|sealed| (names::HEAD.to_owned(), sealed)).into_iter().chain([target]);
        object.metadata.annotations = Some(annotations.collect());
        Ok(object)
    }
    /// The patch from `before`, which was read, to this. It holds for that version alone.
    pub(super) fn patch(&self, operation: &str, before: &Book) -> Result<Vec<Value>> {
        let (old, new) = (before.entries(operation).unwrap_or_else(|_| before.data.clone()), self.entries(operation)?);
        let mut patch = vec![json!({"op": "replace", "path": "/metadata/resourceVersion", "value": before.version})];
        for (key, value) in &new {
            if old.get(key) != Some(value) {
                patch.push(json!({"op": "add", "path": format!("/data/{key}"), "value": value}));
            }
        }
        for key in old.keys().filter(|key| !new.contains_key(*key)) {
            patch.push(json!({"op": "remove", "path": format!("/data/{key}")}));
        }
        let had = before.labels();
        for (key, value) in self.labels() {
            if had.get(key) != Some(&value) {
                let path = format!("/metadata/labels/{}", key.replace('/', "~1"));
                patch.push(json!({"op": "add", "path": path, "value": value}));
            }
        }
        if let Some(sealed) = self.sealed_head(operation)?
            && self.head != before.head
        {
            let path = format!("/metadata/annotations/{}", names::HEAD.replace('/', "~1"));
            patch.push(json!({"op": "add", "path": path, "value": sealed}));
        }
        Ok(patch)
    }

    /// A new run in place of the last one, which has ended and lies elsewhere.
    pub(super) fn begin(&mut self, intent: &Intent, epoch: u64, who: &str) -> Result<()> {
        self.data.retain(|key, _| key.starts_with("mark."));
        self.data.insert(INTENT.into(), seal(BEGIN, &["the intent of", intent.run.as_str()], intent)?);
        self.counters.runs += 1;
        self.counters.epoch = epoch;
        self.head = Some(Head {
            number: self.counters.runs,
            epoch,
            lease_ms: u64::try_from(intent.policy.lease.as_millis()).unwrap_or(u64::MAX),
            summary: RunSummary::new(intent, intent.at),
            who: who.to_owned(),
            since: intent.at,
            ended: None,
            times: Default::default(),
            spilled: vec![],
            artifacts: vec![],
        });
        Ok(())
    }
    /// The unfinished run goes on under a new lease.
    pub(super) fn adopt(&mut self, epoch: u64, who: &str, since: Timestamp) {
        self.counters.epoch = epoch;
        if let Some(head) = &mut self.head {
            (head.epoch, head.who, head.since) = (epoch, who.to_owned(), since);
        }
    }
    /// Ends the unfinished run from outside.
    pub(super) fn end(&mut self, epoch: u64, at: Timestamp, outcome: Outcome) -> Result<()> {
        self.counters.epoch = epoch;
        let Some(head) = &mut self.head else { return Ok(()) };
        head.epoch = epoch;
        let line = rules::last_line(head.summary.lines, epoch, at, head.times, outcome);
        self.push(&line)
    }
    /// Says whether there was anything new. After an error it is as it was before, except for being of no use.
    pub(super) fn append(&mut self, lease: &Lease, lines: &[Line]) -> Result<bool> {
        let Some(head) = self.head.as_ref().filter(|head| *head.id() == lease.run) else {
            return Err(rules::unknown(APPEND, &lease.run));
        };
        if head.epoch != lease.epoch {
            return Err(rules::fenced(APPEND, lease, head.epoch));
        }
        let first = lines.first().map_or(0, |line| line.seq);
        let there = rules::overlap(lease, head.summary.lines, first, lines.len())?;
        let over = head.outcome().is_some();
        for line in &lines[..there] {
            // Who asks again asks soon: what lies elsewhere was acknowledged long ago.
            if let Some(theirs) = self.line(APPEND, line.seq)?
                && theirs != *line
            {
                return Err(rules::other_line(lease, line.seq));
            }
        }
        if there == lines.len() {
            return Ok(false);
        }
        if over {
            return Err(rules::ended(APPEND, &lease.run));
        }
        for line in &lines[there..] {
            self.push(line)?;
        }
        Ok(true)
    }
    fn line(&self, operation: &str, seq: u64) -> Result<Option<Line>> {
        let Some(head) = &self.head else { return Ok(None) };
        let Some(sealed) = self.data.get(&line_key(seq)) else { return Ok(None) };
        Ok(Some(open(operation, &as_strs(&place_of_line(head.id(), seq)), sealed)?))
    }
    fn push(&mut self, line: &Line) -> Result<()> {
        let Some(run) = self.head.as_ref().map(|head| head.id().clone()) else { return Ok(()) };
        let sealed = seal(APPEND, &as_strs(&place_of_line(&run, line.seq)), line)?;
        self.data.insert(line_key(line.seq), sealed);
        match rules::effect_of(line) {
            Effect::Marks(entry) => self.mark(APPEND, entry)?,
            Effect::MayHold { name, until } if !self.data.contains_key(&hold_key(name)) => {
                self.hold(&run, name, None, until)?;
            }
            Effect::Holds { name, was, until } => self.hold(&run, name, Some(was), until)?,
            Effect::HoldsNot { name } => {
                self.forget_hold(name);
            }
            _ => {}
        }
        let Some(head) = &mut self.head else { return Ok(()) };
        match rules::effect_of(line) {
            Effect::Writes => head.summary.wrote = head.summary.wrote.or(Some(line.at)),
            Effect::Ends(outcome) => {
                head.summary.outcome = Some(outcome.clone());
                head.ended = Some(line.at);
            }
            _ => {}
        }
        head.artifacts.extend(rules::artifacts_of(line).into_iter().map(|a| a.digest.to_string()));
        head.artifacts.sort();
        head.artifacts.dedup();
        head.summary.lines += 1;
        head.times = (line.elapsed, line.acted);
        Ok(())
    }

    /// Moves the lines that are here to an object of their own, where they are many. It must be made before this is written.
    pub(super) fn spill(&mut self, operation: &str) -> Result<Option<ConfigMap>> {
        let here = |key: &&String| key.starts_with("line.");
        let bytes: usize = self.data.iter().filter(|(key, _)| here(key)).map(|(_, line)| line.len()).sum();
        let Some(head) = &mut self.head else { return Ok(None) };
        if bytes < SPILL {
            return Ok(None);
        }
        let first = head.spilled.last().map_or(0, |spilled| spilled.end);
        let end = head.summary.lines;
        let name = names::of_lines(head.id(), head.epoch, first, end);
        let keys: Vec<String> = self.data.keys().filter(here).cloned().collect();
        let mut data: Data = keys.iter().filter_map(|key| self.data.remove_entry(key)).collect();
        if data.len() as u64 != end - first {
            return Err(damaged(operation, format!("run {} has lost lines", head.id())));
        }
        data.insert(FORMAT_KEY.into(), FORMAT.to_string());
        data.insert(TARGET.into(), self.target.to_string());
        head.spilled.push(Spilled { name: name.clone(), first, end });
        let mut object = ConfigMap { data: Some(data), ..ConfigMap::default() };
        object.metadata.name = Some(name);
        let labels = [
            (names::WHAT, names::LINES.to_owned()),
            (names::OF_TARGET, names::hash(self.target.as_str())),
            (names::OF_RUN, names::hash(head.id().as_str())),
        ];
        object.metadata.labels = Some(labels.into_iter().map(|(key, value)| (key.to_owned(), value)).collect());
        Ok(Some(object))
    }
    /// The run that has ended, as an object of its own.
    pub(super) fn archived(&self) -> Option<Self> {
        let head = self.head.as_ref()?;
        let mut data = self.data.clone();
        data.retain(|key, _| !key.starts_with("mark."));
        let counters = Counters::default();
        Some(Self {
            name: names::of_run(head.id()),
            version: None,
            target: self.target.clone(),
            counters,
            head: self.head.clone(),
            data,
        })
    }
    /// What is held is as there.
    pub(super) fn hold_as(&mut self, other: &Self) {
        self.data.retain(|key, _| !key.starts_with("hold.") || other.data.contains_key(key));
    }

    pub(super) fn intent(&self, operation: &str) -> Result<Intent> {
        let run = self.head.as_ref().map_or_else(String::new, |head| head.id().to_string());
        let sealed =
            self.data.get(INTENT).ok_or_else(|| damaged(operation, format!("the intent of run {run} is missing")))?;
        open(operation, &["the intent of", &run], sealed)
    }
    /// All lines of its run, with what the other objects hold, in their order.
    pub(super) fn lines(&self, operation: &str, elsewhere: Vec<ConfigMap>) -> Result<Vec<Line>> {
        let Some(head) = &self.head else { return Ok(vec![]) };
        let mut pages = vec![];
        for (object, spilled) in elsewhere.into_iter().zip(&head.spilled) {
            let data = object.data.unwrap_or_default();
            check_format(operation, &spilled.name, &data)?;
            pages.push(data);
        }
        let mut lines = Vec::with_capacity(usize::try_from(head.summary.lines).unwrap_or(0));
        for seq in 0..head.summary.lines {
            let page = head.spilled.iter().position(|spilled| (spilled.first..spilled.end).contains(&seq));
            let page = page.map_or(Some(&self.data), |nth| pages.get(nth));
            let sealed = page.and_then(|page| page.get(&line_key(seq)));
            let sealed =
                sealed.ok_or_else(|| damaged(operation, format!("line {seq} of run {} is missing", head.id())))?;
            let line: Line = open(operation, &as_strs(&place_of_line(head.id(), seq)), sealed)?;
            lines.push(line);
        }
        Ok(lines)
    }

    /// The ledger says so now. What is over its bound goes, releases that were merely seen first, the oldest first.
    pub(super) fn mark(&mut self, operation: &str, entry: &LedgerEntry) -> Result<()> {
        let release = entry.release.id.as_str();
        self.counters.marks += 1;
        let sealed = seal(operation, &["the mark of", self.target.as_str(), release], &(self.counters.marks, entry))?;
        self.data.insert(mark_key(release), sealed);
        loop {
            let bytes: usize =
                self.data.iter().filter(|(key, _)| key.starts_with("mark.")).map(|(_, mark)| mark.len()).sum();
            if bytes <= LEDGER {
                return Ok(());
            }
            let mut marks = self.marks(operation)?;
            marks.sort_by_key(|(nth, entry)| (entry.standing != Standing::Seen, *nth));
            let Some((_, oldest)) = marks.first().filter(|_| marks.len() > 1) else { return Ok(()) };
            self.data.remove(&mark_key(oldest.release.id.as_str()));
        }
    }
    fn marks(&self, operation: &str) -> Result<Vec<(u64, LedgerEntry)>> {
        let mut marks = vec![];
        for (key, sealed) in self.data.iter().filter(|(key, _)| key.starts_with("mark.")) {
            // The seal's place needs the release, which stands inside: read it first, then check.
            let json = sealed.split_once(' ').map_or("", |(_, json)| json);
            let bad = || damaged(operation, format!("{key} of {} cannot be read", self.target));
            let (_, entry): (u64, LedgerEntry) = serde_json::from_str(json).map_err(|_| bad())?;
            let place = ["the mark of", self.target.as_str(), entry.release.id.as_str()];
            marks.push(open(operation, &place, sealed)?);
        }
        Ok(marks)
    }
    /// Newest mark first.
    pub(super) fn ledger(&self, operation: &str) -> Result<Vec<LedgerEntry>> {
        let mut marks = self.marks(operation)?;
        marks.sort_by_key(|(nth, _)| std::cmp::Reverse(*nth));
        Ok(marks.into_iter().map(|(_, entry)| entry).collect())
    }
    pub(super) fn holds(&self, operation: &str) -> Result<Vec<HeldFreeze>> {
        let mut holds = vec![];
        let Some(head) = &self.head else { return Ok(holds) };
        for (key, sealed) in self.data.iter().filter(|(key, _)| key.starts_with("hold.")) {
            let json = sealed.split_once(' ').map_or("", |(_, json)| json);
            let bad = || damaged(operation, format!("{key} of run {} cannot be read", head.id()));
            let held: HeldFreeze = serde_json::from_str(json).map_err(|_| bad())?;
            holds.push(open(operation, &["the hold of", head.id().as_str(), &held.name], sealed)?);
        }
        Ok(holds)
    }
    fn hold(&mut self, run: &RunId, name: &str, was: Option<&Payload>, until: Option<Timestamp>) -> Result<()> {
        let held = rules::held(&self.intent(APPEND)?, name, was, until);
        let sealed = seal(APPEND, &["the hold of", run.as_str(), name], &held)?;
        self.data.insert(hold_key(name), sealed);
        Ok(())
    }
    /// Says whether it was held.
    pub(super) fn forget_hold(&mut self, name: &str) -> bool {
        self.data.remove(&hold_key(name)).is_some()
    }
}

fn hold_key(name: &str) -> String {
    format!("hold.{}", names::hash(name))
}
fn mark_key(release: &str) -> String {
    format!("mark.{}", names::hash(release))
}

/// What this release of the library can read.
pub(super) fn check_format(operation: &str, name: &str, data: &Data) -> Result<()> {
    let format = data.get(FORMAT_KEY).and_then(|text| text.parse::<u32>().ok());
    match format {
        Some(FORMAT) => Ok(()),
        Some(newer) if newer > FORMAT => Err(Error::new(Kind::Unsupported, operation)
            .with_message(format!(
                "ConfigMap {name} is of format {newer}, written by a newer release of this library, which reads up to \
                 {FORMAT}: use that one"
            ))
            .without_effect()),
        _ => Err(damaged(operation, format!("ConfigMap {name} has no format that ever was"))),
    }
}
/// A small object of the journal, of this format.
pub(super) fn small(name: String, labels: &[(&str, String)], mut data: Data) -> ConfigMap {
    data.insert(FORMAT_KEY.into(), FORMAT.to_string());
    let mut object = ConfigMap { data: Some(data), ..ConfigMap::default() };
    object.metadata.name = Some(name);
    object.metadata.labels = Some(labels.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect());
    object
}
