//! What metrics were like before a deployment, taken once and kept, so that a rule or a verifier can compare with it later,
//! from another process.
//!
//! Not here: comparing, which rules and verifiers do.

use super::{Ask, Level, MetricSource, Reading, Samples, millis};
use crate::{Clock, Journal, Payload, ReleaseId, Result, Stored, SystemClock, TargetId, Timestamp, minutes, seconds};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};
use tokio::time::{Instant, sleep_until};

/// So many baselines of one target are kept.
const KEPT: usize = 20;

/// What metrics came to over a while, by name. Data.
///
/// ```
/// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> rollback_core::Result<()> {
/// use rollback_core::{journal::MemoryJournal, metric::{Baseline, Metric}, minutes, verify::MetricBack, watch::{Rule, Threshold}};
/// let journal = MemoryJournal::new();
/// let target = "dir:/srv/checkout".into();
/// let p95 = || Metric::with("p95", || async { Ok(0.180) });
///
/// // At the deploy, while 2.3.9 still runs.
/// let baseline = Baseline::of("p95", p95()).over(minutes(1)).take().await;
/// baseline.keep(&journal, &target, &"2.3.9".into()).await?;
/// let rule = Rule::above("p95", Threshold::TimesBaseline(2.0)).with_baseline_of(&baseline);
///
/// // In the rollback to 2.3.9, whenever that is.
/// let back = MetricBack::within_kept("p95", 0.10, journal.clone(), p95());
/// assert_eq!(Baseline::kept(&journal, &target, &"2.3.9".into()).await?, Some(baseline));
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Baseline {
    /// When it was taken, on the wall clock of whoever did.
    pub at: Timestamp,
    /// Over how long.
    pub over: Duration,
    /// What each metric came to.
    pub levels: BTreeMap<String, Level>,
    /// What came to nothing, and why.
    pub missing: BTreeMap<String, String>,
}

/// All that is kept of a target, newest first.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
struct Shelved(Vec<(ReleaseId, Baseline)>);

impl Stored for Shelved {
    const NAME: &'static str = "rollback-core/baselines";
    const VERSION: u32 = 1;
}

fn key(target: &TargetId) -> String {
    // Two slashes: no run's checkpoint, which go with their run.
    format!("rollback/baseline/{target}")
}

impl Baseline {
    /// Begins with this metric, under the name that rules and verifiers will ask for.
    pub fn of(name: impl Into<String>, source: impl MetricSource) -> TakeBaseline {
        let take =
            TakeBaseline { sources: vec![], over: minutes(5), every: seconds(10), clock: Arc::new(SystemClock::new()) };
        take.and(name, source)
    }
    /// What a metric came to.
    pub fn level(&self, name: &str) -> Option<Level> {
        self.levels.get(name).copied()
    }
    /// Keeps it with the journal, as what this release was like; an older one of the same release is replaced. Twenty
    /// releases are kept for each target. For one deploy at a time: of two at once, one may be lost.
    ///
    /// # Errors
    /// As the journal's shelf.
    pub async fn keep(&self, journal: &dyn Journal, target: &TargetId, release: &ReleaseId) -> Result<()> {
        let shelf = journal.shelf();
        let Shelved(mut all) = load(journal, target).await?;
        all.retain(|(known, _)| known != release);
        all.insert(0, (release.clone(), self.clone()));
        all.truncate(KEPT);
        shelf.save(&key(target), 0, Payload::of(&Shelved(all))?).await
    }
    /// What was kept of this release, if anything was.
    ///
    /// # Errors
    /// As the journal's shelf.
    pub async fn kept(journal: &dyn Journal, target: &TargetId, release: &ReleaseId) -> Result<Option<Self>> {
        let Shelved(all) = load(journal, target).await?;
        Ok(all.into_iter().find(|(known, _)| known == release).map(|(_, baseline)| baseline))
    }
}

async fn load(journal: &dyn Journal, target: &TargetId) -> Result<Shelved> {
    let shelved = journal.shelf().load(&key(target)).await?;
    Ok(shelved.map(|payload| payload.read()).transpose()?.unwrap_or_default())
}

/// As people read it.
impl fmt::Display for Baseline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "as of {} over {:?}", self.at, self.over)?;
        for (name, level) in &self.levels {
            write!(f, "; {name} {} of {} observations", level.value, level.of)?;
        }
        for (name, why) in &self.missing {
            write!(f, "; {name} not known: {why}")?;
        }
        Ok(())
    }
}

/// A baseline that is about to be taken.
#[derive(Debug)]
#[must_use = "nothing happens before take"]
pub struct TakeBaseline {
    sources: Vec<(String, Arc<dyn MetricSource>)>,
    over: Duration,
    every: Duration,
    clock: Arc<dyn Clock>,
}

impl TakeBaseline {
    /// And this metric.
    pub fn and(mut self, name: impl Into<String>, source: impl MetricSource) -> Self {
        self.sources.push((name.into(), Arc::new(source)));
        self
    }
    /// Over how long, which is how long taking it lasts. Default: 5 min. Counters need it; of what stands by itself the
    /// last value counts, so a server should work it out over about as long.
    pub fn over(mut self, over: Duration) -> Self {
        self.over = over;
        self
    }
    /// Time between two readings. Default: 10 s. Each may take as long, 10 s at the most.
    pub fn every(mut self, every: Duration) -> Self {
        self.every = every.max(Duration::from_millis(1));
        self
    }
    /// Where the time is read. Waiting is tokio's.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }
    /// Reads until the time is over. Never fails: what cannot be read is missing, and the deploy decides what that means.
    ///
    /// # Cancel safety
    /// It only reads.
    pub async fn take(self) -> Baseline {
        let began = Instant::now();
        let mut samples: Vec<Samples> = self.sources.iter().map(|_| Samples::default()).collect();
        let mut why: Vec<String> = self.sources.iter().map(|_| String::new()).collect();
        let mut at = began;
        loop {
            for (i, (_, source)) in self.sources.iter().enumerate() {
                let asked = self.clock.now().mono;
                let ask = Ask::over(self.over).with_within(self.every.min(seconds(10)));
                let reading = Reading::ask(&**source, ask, asked).await;
                why[i] = samples[i].take(millis(asked), &reading).err().unwrap_or_default();
            }
            if at >= began + self.over {
                break;
            }
            at = (at + self.every).max(Instant::now()).min(began + self.over);
            sleep_until(at).await;
            at = at.max(Instant::now());
        }
        let now = self.clock.now();
        // A reading or two may fail; what is older than that is not what it was like.
        let gap = self.every.saturating_mul(3).max(seconds(1));
        let (mut levels, mut missing) = (BTreeMap::new(), BTreeMap::new());
        for (i, (name, _)) in self.sources.into_iter().enumerate() {
            match samples[i].level(millis(now.mono), self.over + gap, gap) {
                Ok(level) => drop(levels.insert(name, level)),
                Err(no) if why[i].is_empty() => drop(missing.insert(name, no)),
                Err(_) => drop(missing.insert(name, std::mem::take(&mut why[i]))),
            }
        }
        Baseline { at: now.wall, over: self.over, levels, missing }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{
        Error, Kind,
        journal::MemoryJournal,
        metric::{Measure, Metric},
    };
    use std::sync::atomic::{AtomicU32, Ordering};

    #[tokio::test(start_paused = true)]
    async fn counters_come_to_what_they_grew_by_and_gaps_are_named() {
        let n = Arc::new(AtomicU32::new(1000));
        let counts = Metric::with("errors", move || {
            let n = n.fetch_add(100, Ordering::Relaxed);
            async move { Ok(Measure::counts(n / 50, n)) }
        });
        let p95 = Metric::with("p95", || async { Ok(0.2) });
        let down = Metric::with("down", || async { Err::<f64, _>(Error::new(Kind::Unavailable, "ask it")) });
        let hangs = Metric::with("hangs", std::future::pending::<Result<f64>>);
        let take = Baseline::of("errors", counts).and("p95", p95).and("down", down).and("hangs", hangs);
        let baseline = take.over(minutes(2)).every(seconds(10)).take().await;
        let errors = baseline.level("errors").unwrap();
        assert!((errors.value - 0.02).abs() < 1e-9 && errors.of >= 500.0, "{errors:?}");
        assert_eq!(baseline.level("p95").map(|level| level.value), Some(0.2));
        assert_eq!((baseline.levels.len(), baseline.missing.len()), (2, 2));
        assert!(baseline.missing["down"].contains("could not ask it"), "{baseline}");
        assert!(baseline.missing["hangs"].contains("no answer within"), "{baseline}");
        let json = serde_json::to_string(&baseline).unwrap();
        assert_eq!(serde_json::from_str::<Baseline>(&json).unwrap(), baseline);
    }

    #[tokio::test]
    async fn the_latest_of_each_release_is_kept_and_the_oldest_go() {
        let journal = MemoryJournal::new();
        let target = TargetId::from("dir:/srv/shop");
        let of = |value| Baseline {
            at: Timestamp(1),
            over: minutes(1),
            levels: [("p95".into(), Level::new(value, 9.0))].into(),
            missing: BTreeMap::new(),
        };
        let kept = async |release: &str| {
            Baseline::kept(&journal, &target, &release.into()).await.unwrap().map(|b| b.levels["p95"].value)
        };
        assert_eq!(kept("1").await, None);
        for (release, value) in [("1", 1.0), ("2", 2.0), ("1", 3.0)] {
            of(value).keep(&journal, &target, &release.into()).await.unwrap();
        }
        assert_eq!((kept("1").await, kept("2").await), (Some(3.0), Some(2.0)));
        assert_eq!(Baseline::kept(&journal, &"dir:/other".into(), &"1".into()).await.unwrap(), None);
        for n in 0..KEPT - 1 {
            of(0.0).keep(&journal, &target, &format!("new {n}").into()).await.unwrap();
        }
        assert_eq!((kept("1").await, kept("2").await), (Some(3.0), None));
    }
}
