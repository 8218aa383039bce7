//! Reads the sources, evaluates, waits.

use super::{
    Evaluation, Inputs, Rule, WatchOutcome, WatchReport, WatchState,
    away::SinceBoot,
    soak::{Lasts, Shown},
};
use crate::{
    Clock, Error, Journal, Kind, LedgerEntry, Look, Observation, Release, ReleaseId, Result, Running, Standing,
    SystemClock, Target, Timestamp,
    metric::{Ask, MetricSource, Reading},
    minutes, seconds,
};
use serde::{Deserialize, Serialize};
use std::{fmt, sync::Arc, time::Duration};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout},
};

/// So often a target is asked what runs there before a watch is not begun.
const FIRST_TRIES: u32 = 4;

/// What an observer of a watch hears.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum WatchEvent {
    /// A rule was evaluated.
    Evaluated {
        /// When.
        at: Timestamp,
        /// Which.
        rule: Box<Rule>,
        /// What it says.
        evaluation: Evaluation,
        /// How much of the soak time is over.
        soaked: Duration,
    },
    /// The end.
    Ended(WatchOutcome),
}

#[derive(Clone, Debug)]
struct Source {
    current: Arc<dyn MetricSource>,
    concurrent: Option<Arc<dyn MetricSource>>,
}

type Hear<T> = Arc<dyn Fn(&T) + Send + Sync>;

/// Watches a release that was just deployed: rules, evaluated every 30 s until all of them were clear for 15 min.
///
/// The release is the one that runs when the watch begins ([`release`](Watch::release) names it where several do). If the
/// target shows another one meanwhile, the watch ends superseded and blames nobody. A stable release is marked verified
/// in the journal's ledger, if at the end it runs everywhere on the target.
///
/// The metrics must be of what the rules mean: scope the sources to the release, or to its part, where several serve.
///
/// ```
/// use rollback_core::{Journal, Result, Target, minutes, metric::{PrometheusText, Series}, watch::{Rule, Watch}};
/// # #[cfg(feature = "prometheus")]
/// async fn after_deploy(target: impl Target, journal: impl Journal) -> Result<()> {
///     let requests = Series::named("http_requests_total");
///     let errors = PrometheusText::ratio("http://127.0.0.1:8080/metrics", requests.clone().starting("code", "5"), requests)?;
///     let report = Watch::of(target)
///         .rule(Rule::above("error rate", 0.05).with_hold(minutes(2)).with_min_samples(20), errors)
///         .for_at_least(minutes(15))
///         .journal(journal)
///         .observer(|event| eprintln!("{event:?}"))
///         .run()
///         .await?;
///     println!("{report}");
///     Ok(())
/// }
/// ```
#[derive(Clone)]
pub struct Watch {
    target: Arc<dyn Target>,
    release: Option<ReleaseId>,
    rules: Vec<Rule>,
    sources: Vec<Source>,
    every: Duration,
    soak: Duration,
    at_most: Option<Duration>,
    journal: Option<Arc<dyn Journal>>,
    observer: Option<Hear<WatchEvent>>,
    saving: Option<Hear<WatchState>>,
    clock: Arc<dyn Clock>,
    state: Option<WatchState>,
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { target, release, rules, sources, every, soak, at_most, .. } = self;
        f.debug_struct("Watch")
            .field("target", target.id())
            .field("release", release)
            .field("rules", rules)
            .field("sources", sources)
            .field("every", every)
            .field("soak", soak)
            .field("at_most", at_most)
            .finish_non_exhaustive()
    }
}

impl Watch {
    /// Of this target, every 30 s for 15 min.
    pub fn of(target: impl Target) -> Self {
        Self {
            target: Arc::new(target),
            release: None,
            rules: vec![],
            sources: vec![],
            every: seconds(30),
            soak: minutes(15),
            at_most: None,
            journal: None,
            observer: None,
            saving: None,
            clock: Arc::new(SystemClock::new()),
            state: None,
        }
    }
    /// Which target.
    pub fn target_id(&self) -> &crate::TargetId {
        self.target.id()
    }
    /// With this rule, over this source.
    pub fn rule(self, rule: Rule, source: impl MetricSource) -> Self {
        self.with(rule, Source { current: Arc::new(source), concurrent: None })
    }
    /// With this rule, over this source, and the same metric of what it runs beside: the old release, another region.
    /// Where both breach, the deployment is not blamed; a relative threshold without a frozen baseline is relative to it.
    pub fn rule_against(self, rule: Rule, source: impl MetricSource, concurrent: impl MetricSource) -> Self {
        self.with(rule, Source { current: Arc::new(source), concurrent: Some(Arc::new(concurrent)) })
    }
    fn with(mut self, rule: Rule, source: Source) -> Self {
        self.rules.push(rule);
        self.sources.push(source);
        self
    }
    /// The release that is watched, where several run. Default: the one that runs.
    pub fn release(mut self, release: impl Into<ReleaseId>) -> Self {
        self.release = Some(release.into());
        self
    }
    /// Time between two evaluations. Default: 30 s. Each reading may take half of it, 10 s at the most.
    pub fn every(mut self, every: Duration) -> Self {
        self.every = every;
        self
    }
    /// How long everything must be seen clear. Default: 15 min. Time that a rule was not clear in does not count.
    pub fn for_at_least(mut self, soak: Duration) -> Self {
        self.soak = soak;
        self
    }
    /// When to give up; then it ends blind (or shared). Default: twice the soak time, and the longest window, hold and gap
    /// of its rules.
    pub fn for_at_most(mut self, at_most: Duration) -> Self {
        self.at_most = Some(at_most);
        self
    }
    /// Where a stable release is marked verified. Default: nowhere.
    pub fn journal(mut self, journal: impl Journal) -> Self {
        self.journal = Some(Arc::new(journal));
        self
    }
    /// Hears every evaluation, on the task that watches: return quickly.
    pub fn observer(mut self, observer: impl Fn(&WatchEvent) + Send + Sync + 'static) -> Self {
        self.observer = Some(Arc::new(observer));
        self
    }
    /// Handed the state after every evaluation, to store it for [`resume`](Watch::resume). Return quickly.
    pub fn saving(mut self, save: impl Fn(&WatchState) + Send + Sync + 'static) -> Self {
        self.saving = Some(Arc::new(save));
        self
    }
    /// Where the time is read. Waiting between evaluations is tokio's.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }
    /// Goes on where another process stopped, with the same target and rules. Time in between does not count as soaked.
    /// On the machine that stored it, since its last boot, holds go on where the time in between was at most two
    /// intervals; elsewhere nobody knows how long it was, so they begin anew.
    pub fn resume(mut self, state: WatchState) -> Self {
        self.state = Some(state);
        self
    }

    /// Watches until there is an outcome; bounded by [`for_at_most`](Watch::for_at_most).
    ///
    /// Cancel safe: what [`saving`](Watch::saving) was handed last can be resumed.
    ///
    /// # Errors
    /// When it could not even begin: [`Kind::Invalid`] for no rules, rules that make no sense or do not fit the resumed
    /// state, or several releases of which none was named; otherwise as [`Target::observe`], of which a transient error is
    /// tried again after each of three intervals. What goes wrong later is an outcome.
    pub async fn run(mut self) -> Result<WatchReport> {
        let every = self.every;
        self.rules.iter_mut().for_each(|rule| rule.every = every);
        self.check()?;
        let lasts = Lasts { soak: self.soak, at_most: self.at_most.unwrap_or_else(|| self.default_at_most()) };
        let mut state = match self.state.take() {
            Some(state) => self.resumed(state)?,
            None => self.begun().await?,
        };
        let outcome = loop {
            let began = Instant::now();
            let asked = self.clock.now().mono;
            let (inputs, shown) = self.look(&state, asked).await;
            let now = self.clock.now();
            let (evaluations, outcome) = state.step(&inputs, &shown, lasts, now);
            state.boot = SinceBoot::now();
            for (rule, evaluation) in self.rules.iter().zip(evaluations) {
                let (at, rule, soaked) = (now.wall, Box::new(rule.clone()), state.soaked());
                self.hear(&WatchEvent::Evaluated { at, rule, evaluation, soaked });
            }
            if let Some(save) = &self.saving {
                save(&state);
            }
            if let Some(outcome) = outcome {
                break outcome;
            }
            sleep_until(began + every).await;
        };
        let (outcome, verified, not_verified) = match outcome {
            WatchOutcome::Stable { soaked } => self.verified(&state, soaked).await,
            other => (other, false, None),
        };
        self.hear(&WatchEvent::Ended(outcome.clone()));
        Ok(WatchReport {
            target: self.target.id().clone(),
            release: state.release,
            outcome,
            began: state.began,
            first_breach: state.first_breach,
            decided: self.clock.now().wall,
            watched: state.watched,
            evaluations: state.evaluations,
            lines: state.lines,
            verified,
            not_verified,
        })
    }

    fn hear(&self, event: &WatchEvent) {
        if let Some(observer) = &self.observer {
            observer(event);
        }
    }

    fn check(&self) -> Result<()> {
        let invalid = |why: String| Err(self.invalid(why));
        if self.rules.is_empty() {
            return invalid("it has no rules, so it could see nothing: add one with rule".into());
        }
        for (i, (rule, source)) in self.rules.iter().zip(&self.sources).enumerate() {
            rule.check(source.concurrent.is_some())?;
            if self.rules[..i].iter().any(|other| other.metric == rule.metric) {
                return invalid(format!("two rules are called {:?}: name them apart", rule.metric));
            }
        }
        if self.soak.is_zero() {
            return invalid("its soak time is nothing: silence is not health".into());
        }
        Ok(())
    }

    fn invalid(&self, why: String) -> Error {
        Error::new(Kind::Invalid, "watch the release").with_target(self.target.id()).with_message(why).without_effect()
    }

    fn default_at_most(&self) -> Duration {
        let most = self.rules.iter().map(|rule| rule.window + rule.hold + rule.max_gap).max().unwrap_or_default();
        self.soak.saturating_mul(2) + most + self.every
    }

    async fn begun(&self) -> Result<WatchState> {
        let mut tries = 1;
        let found = loop {
            match self.observe(Look::full(), seconds(30)).await {
                Err(e) if e.is_transient() && tries < FIRST_TRIES => tries += 1,
                answered => break answered?,
            }
            sleep(self.every).await;
        };
        let serving: Vec<_> = found.serving().map(|(_, part)| &part.running).collect();
        let known =
            found.serving().all(|(_, part)| part.running.mentions().iter().all(|r| Some(*r) == part.wanted.as_ref()));
        let told: std::collections::BTreeSet<&ReleaseId> =
            found.serving().filter(|_| known).filter_map(|(_, part)| part.wanted.as_ref()).collect();
        let release = match (&self.release, &serving[..]) {
            (Some(named), all) if all.iter().any(|running| running.mentions().contains(&named)) => named.clone(),
            (Some(named), _) => return Err(self.invalid(format!("{named} does not serve there now"))),
            (None, [Running::Release(one), rest @ ..]) if rest.iter().all(|r| *r == serving[0]) => one.clone(),
            // A sick release may not answer which it is: then it is the one that was told to run.
            (None, _) if told.len() == 1 => told.into_iter().next().cloned().unwrap_or_else(|| ReleaseId::new("")),
            (None, all) => {
                let all: Vec<_> = all.iter().map(|running| running.to_string()).collect();
                return Err(self.invalid(format!("there is not one release: {}; name it with release", all.join(", "))));
            }
        };
        Ok(WatchState::new(self.target.id(), release, &found, &self.rules, self.clock.now().wall))
    }

    fn resumed(&self, mut state: WatchState) -> Result<WatchState> {
        if state.target != *self.target.id() {
            return Err(self.invalid(format!("the state is of {}", state.target)));
        }
        if !state.rules.iter().map(|(rule, _)| rule).eq(&self.rules) {
            return Err(self.invalid("the state is of other rules: begin anew".into()));
        }
        if self.release.as_ref().is_some_and(|named| *named != state.release) {
            return Err(self.invalid(format!("the state is of {}: begin anew", state.release)));
        }
        state.after_restart(SinceBoot::now().zip(state.boot.as_ref()).and_then(|(now, then)| now.since(then)));
        Ok(state)
    }

    async fn observe(&self, look: Look, within: Duration) -> Result<Observation> {
        timeout(within, self.target.observe(look)).await.unwrap_or_else(|_| {
            Err(Error::new(Kind::Unavailable, "read the target")
                .with_target(self.target.id())
                .with_message(format!("no answer within {within:?}"))
                .without_effect())
        })
    }

    /// The target and all sources, at once.
    async fn look(&self, state: &WatchState, asked: Duration) -> (Vec<Inputs>, Shown) {
        let within = (self.every / 2).min(seconds(10));
        let mut asking = JoinSet::new();
        for (i, (rule, source)) in self.rules.iter().zip(&self.sources).enumerate() {
            let ask = Ask::over(rule.window).with_within(within);
            for (concurrent, source) in [(false, Some(&source.current)), (true, source.concurrent.as_ref())] {
                if let Some(source) = source.cloned() {
                    asking.spawn(async move { (i, concurrent, Reading::ask(&*source, ask, asked).await) });
                }
            }
        }
        let shown = match self.observe(Look::quick(), within).await {
            Ok(now) => state.shows(&now),
            Err(_) => Shown::Unread,
        };
        // A source that panics never answers.
        let silent = || Reading::failed(asked, "it broke down");
        let mut inputs: Vec<_> = self
            .sources
            .iter()
            .map(|source| Inputs::new(silent()).with_concurrent(source.concurrent.as_ref().map(|_| silent())))
            .collect();
        while let Some(answer) = asking.join_next().await {
            match answer {
                Ok((i, false, reading)) => inputs[i].current = reading,
                Ok((i, true, reading)) => inputs[i].concurrent = Some(reading),
                Err(_) => {}
            }
        }
        (inputs, shown)
    }

    /// Marks the release verified, if it is what runs, everywhere.
    async fn verified(&self, state: &WatchState, soaked: Duration) -> (WatchOutcome, bool, Option<String>) {
        let stable = WatchOutcome::Stable { soaked };
        let now = match self.observe(Look::full(), seconds(30)).await {
            Ok(now) => now,
            Err(error) => return (stable, false, Some(error.to_string())),
        };
        match state.shows(&now) {
            Shown::Other(by) => return (WatchOutcome::Superseded { by }, false, None),
            Shown::Unread => return (stable, false, Some("nothing serves at the end".into())),
            Shown::Same => {}
        }
        if let Some((part, other)) = now.serving().find(|(_, part)| !part.runs(&state.release)) {
            return (stable, false, Some(format!("it does not run everywhere: {part} runs {}", other.running)));
        }
        let Some(journal) = &self.journal else { return (stable, false, Some("there is no journal".into())) };
        let history = timeout(seconds(30), self.target.history(100)).await;
        let known = history.ok().and_then(Result::ok).unwrap_or_default();
        let release = known.into_iter().find(|r| r.id == state.release);
        let release = release.unwrap_or_else(|| Release::new(state.release.clone()));
        let rules: Vec<_> = state.rules.iter().map(|(rule, _)| format!("not {rule}")).collect();
        let why = format!("healthy for {soaked:?}: {}", rules.join(", "));
        let entry = LedgerEntry::new(release, Standing::Verified, self.clock.now().wall, why);
        match timeout(seconds(30), journal.mark(self.target.id(), &entry)).await {
            Ok(Ok(())) => (stable, true, None),
            Ok(Err(error)) => (stable, false, Some(error.to_string())),
            Err(_) => (stable, false, Some("the journal did not answer within 30s".into())),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{
        Applied, Approved, Capabilities, Change, Identity, Now, PartState, Prepared, TargetId, Token, Work,
        metric::{Measure, Metric},
        watch::{OnNoData, Says},
    };
    use async_trait::async_trait;
    use std::sync::{
        Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    };

    /// Runs what `runs` says after so many quick looks.
    #[derive(Debug, Clone)]
    struct Runs {
        id: TargetId,
        looks: Arc<AtomicU64>,
        runs: fn(u64) -> Vec<(&'static str, &'static str)>,
    }
    impl Runs {
        fn of(runs: fn(u64) -> Vec<(&'static str, &'static str)>) -> Self {
            Self { id: "test:shop".into(), looks: Arc::default(), runs }
        }
        fn always() -> Self {
            Self::of(|_| vec![("all", "2")])
        }
    }
    #[async_trait]
    impl Target for Runs {
        fn id(&self) -> &TargetId {
            &self.id
        }
        fn capabilities(&self) -> Capabilities {
            unreachable!()
        }
        async fn observe(&self, _: Look) -> Result<Observation> {
            let parts = (self.runs)(self.looks.fetch_add(1, Relaxed));
            if parts.is_empty() {
                return Err(Error::new(Kind::Unavailable, "look"));
            }
            let parts = parts.into_iter().map(|(part, release)| (part.into(), PartState::of(release)));
            Ok(Observation::new(Identity::new("here", "shop"), parts, Token::none()))
        }
        async fn history(&self, _: usize) -> Result<Vec<Release>> {
            Ok(vec![Release::new("2").with_label("two")])
        }
        async fn prepare(&self, _: &Change, _: &Work) -> Result<Prepared> {
            unreachable!()
        }
        async fn apply(&self, _: &Approved, _: Token, _: &Work) -> Result<Applied> {
            unreachable!()
        }
        fn recorder(&self) -> Option<Arc<dyn crate::Record>> {
            None
        }
        fn evidence(&self) -> Option<Arc<dyn crate::EvidenceSource>> {
            None
        }
    }

    /// The n-th reading.
    fn gives(value: impl Fn(u64) -> Option<f64> + Send + Sync + 'static) -> Metric {
        let n = AtomicU64::new(0);
        Metric::with("m", move || {
            let value = value(n.fetch_add(1, Relaxed));
            async move { value.ok_or_else(|| Error::new(Kind::Unavailable, "read it")) }
        })
    }
    fn rule() -> Rule {
        Rule::above("errors", 0.05).with_hold(minutes(2))
    }
    fn watch(target: Runs, source: Metric) -> Watch {
        Watch::of(target).rule(rule(), source)
    }

    #[tokio::test(start_paused = true)]
    async fn a_target_that_does_not_answer_at_first_is_asked_again_but_not_for_ever() {
        let late = Runs::of(|look| if look < 3 { vec![] } else { vec![("all", "2")] });
        let report = watch(late, gives(|_| Some(0.01))).run().await.unwrap();
        assert_eq!(report.outcome, WatchOutcome::Stable { soaked: minutes(15) });
        let never = Runs::of(|_| vec![]);
        let looks = never.looks.clone();
        let error = watch(never, gives(|_| Some(0.01))).run().await.unwrap_err();
        assert_eq!((error.kind(), looks.load(Relaxed)), (Kind::Unavailable, 4));
    }

    #[tokio::test(start_paused = true)]
    async fn clear_for_the_whole_soak_is_stable() {
        let began = Instant::now();
        let report = watch(Runs::always(), gives(|_| Some(0.01))).run().await.unwrap();
        assert_eq!(report.outcome, WatchOutcome::Stable { soaked: minutes(15) });
        assert_eq!((report.evaluations, began.elapsed()), (31, minutes(15)));
        assert_eq!((report.verified, report.not_verified.as_deref()), (false, Some("there is no journal")));
        let again: WatchReport = serde_json::from_str(&serde_json::to_string(&report).unwrap()).unwrap();
        assert_eq!(again, report);
    }

    #[tokio::test(start_paused = true)]
    async fn a_breach_names_the_suspect_as_soon_as_it_was_held() {
        let began = Instant::now();
        let report = watch(Runs::always(), gives(|n| Some(if n < 4 { 0.01 } else { 0.15 }))).run().await.unwrap();
        let WatchOutcome::Breached { rule, suspect, evidence } = &report.outcome else { panic!("{report}") };
        assert_eq!((rule.metric.as_str(), suspect.as_str()), ("errors", "2"));
        assert!(evidence[0].seen.starts_with("0.15"), "{evidence:?}");
        assert_eq!(began.elapsed(), minutes(4), "bad from 2 min on, held for 2");
        let says: Vec<_> = report.lines.iter().map(|line| line.says.name()).collect();
        assert_eq!(says, ["clear", "pending", "breached"]);
        assert!(report.first_breach.is_some() && !report.verified);
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_blind_and_never_stable() {
        for source in [gives(|_| None), gives(|n| (n < 20).then_some(0.01)), gives(|_| Some(f64::NAN))] {
            let report = watch(Runs::always(), source).run().await.unwrap();
            assert!(matches!(report.outcome, WatchOutcome::Blind { .. }), "{report}");
        }
        let hangs = Metric::with("m", || async {
            std::future::pending::<()>().await;
            Ok(0.0)
        });
        let panics = Metric::with("m", || async { if true { panic!("on purpose") } else { Ok(0.0) } });
        for source in [hangs, panics] {
            let report = watch(Runs::always(), source).run().await.unwrap();
            assert!(matches!(report.outcome, WatchOutcome::Blind { .. }), "{report}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_waits_for_data_and_what_it_waited_does_not_count() {
        let rule = || rule().with_on_no_data(OnNoData::Pause);
        let gap = gives(|n| (!(10..20).contains(&n)).then_some(0.01));
        let report = Watch::of(Runs::always()).rule(rule(), gap).run().await.unwrap();
        assert_eq!(report.outcome, WatchOutcome::Stable { soaked: minutes(15) });
        assert_eq!(report.watched, minutes(20));
        let began = Instant::now();
        let report =
            Watch::of(Runs::always()).rule(rule(), gives(|_| None)).for_at_most(minutes(40)).run().await.unwrap();
        assert!(matches!(report.outcome, WatchOutcome::Blind { .. }), "{report}");
        assert_eq!(began.elapsed(), minutes(40));
    }

    #[tokio::test(start_paused = true)]
    async fn another_release_meanwhile_is_superseded_and_blames_nobody() {
        // A deploy of 3 begins when 2 has already been bad for a while.
        let target = Runs::of(|n| if n < 4 { vec![("all", "2")] } else { vec![("all", "3")] });
        let report = watch(target, gives(|_| Some(0.9))).run().await.unwrap();
        assert_eq!(report.outcome, WatchOutcome::Superseded { by: "3".into() });
        // Only the very last, full look shows it.
        let target = Runs::of(|n| if n < 32 { vec![("all", "2")] } else { vec![("all", "3")] });
        let report = watch(target, gives(|_| Some(0.01))).run().await.unwrap();
        assert_eq!(report.outcome, WatchOutcome::Superseded { by: "3".into() });
        assert!(!report.verified);
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_be_read_is_not_taken_for_unchanged() {
        let target = Runs::of(|n| if n < 5 { vec![("all", "2")] } else { vec![] });
        let report = watch(target, gives(|_| Some(0.01))).run().await.unwrap();
        let WatchOutcome::Blind { why } = &report.outcome else { panic!("{report}") };
        assert!(why.contains("cannot be read"), "{why}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_breach_that_is_shared_until_the_end_is_not_the_deployments() {
        let watch = Watch::of(Runs::always()).rule_against(rule(), gives(|_| Some(0.9)), gives(|_| Some(0.9)));
        let report = watch.run().await.unwrap();
        assert!(matches!(report.outcome, WatchOutcome::Shared { .. }), "{report}");
        assert!(!report.verified);
    }

    #[tokio::test(start_paused = true)]
    async fn it_does_not_end_stable_on_a_bad_reading() {
        let report = watch(Runs::always(), gives(|n| Some(if n % 3 == 2 { 0.9 } else { 0.01 }))).run().await.unwrap();
        let WatchOutcome::Stable { soaked } = report.outcome else { panic!("{report}") };
        assert!(soaked >= minutes(15) && report.watched > minutes(20), "{report}");
        assert_eq!(report.lines.last().unwrap().says, Says::Clear);
    }

    #[tokio::test(start_paused = true)]
    async fn a_resumed_watch_goes_on_with_its_hold_and_its_soak() {
        let stored = Arc::new(Mutex::new(String::new()));
        let keep = stored.clone();
        let first = watch(Runs::always(), gives(|n| Some(if n < 10 { 0.01 } else { 0.9 })))
            .saving(move |state| *keep.lock().unwrap() = serde_json::to_string(state).unwrap());
        assert!(
            timeout(seconds(30 * 13 - 1), first.run()).await.is_err(),
            "dropped before it was held for long enough"
        );
        let state: WatchState = serde_json::from_str(&stored.lock().unwrap()).unwrap();
        assert_eq!(state.soaked(), seconds(30 * 9));
        let began = Instant::now();
        let report = watch(Runs::always(), gives(|_| Some(0.9))).resume(state.clone()).run().await.unwrap();
        assert!(matches!(report.outcome, WatchOutcome::Breached { .. }), "{report}");
        // 60 s of the hold were over; the time between the processes, next to none by the machine's clock, counts.
        assert!(began.elapsed() >= seconds(60) && began.elapsed() < minutes(2), "{:?}", began.elapsed());

        let other = Watch::of(Runs::always()).rule(rule().with_hold(minutes(9)), gives(|_| None)).resume(state);
        assert_eq!(other.run().await.unwrap_err().kind(), Kind::Invalid);
    }

    #[tokio::test(start_paused = true)]
    async fn bad_input_is_refused_before_anything() {
        let target = Runs::always;
        let split = Runs::of(|_| vec![("stable", "1"), ("canary", "2")]);
        let twice = Watch::of(target()).rule(rule(), gives(|_| None)).rule(rule(), gives(|_| None));
        let relative = Rule::above("p95", crate::watch::Threshold::TimesBaseline(2.0));
        for watch in [
            Watch::of(target()),
            twice,
            Watch::of(target()).rule(relative, gives(|_| None)),
            watch(target(), gives(|_| None)).for_at_least(Duration::ZERO),
            watch(target(), gives(|_| None)).every(Duration::ZERO),
            watch(target(), gives(|_| None)).release("7"),
            watch(split.clone(), gives(|_| None)),
        ] {
            let error = watch.run().await.unwrap_err();
            assert_eq!(error.kind(), Kind::Invalid, "{error}");
        }
        let report = watch(split, gives(|_| Some(0.01))).release("2").run().await.unwrap();
        assert!(matches!(report.outcome, WatchOutcome::Stable { .. }));
        assert!(report.not_verified.unwrap().contains("everywhere"));
    }

    #[derive(Debug)]
    struct Jumps(SystemClock, AtomicU64);
    impl Clock for Jumps {
        fn now(&self) -> Now {
            let n = self.1.fetch_add(1, Relaxed);
            Now { wall: Timestamp([5_000_000, 0, 9_000_000_000][n as usize % 3]), ..self.0.now() }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_wall_clock_that_jumps_changes_nothing() {
        let counts = |n: u64| Measure::counts(n as u32 * if n < 10 { 0 } else { 20 }, n as u32 * 100);
        let n = Arc::new(AtomicU64::new(0));
        let run = |clock: Arc<Jumps>| {
            n.store(0, Relaxed);
            let n = n.clone();
            let source = Metric::with("m", move || {
                let measure = counts(n.fetch_add(1, Relaxed));
                async move { Ok(measure) }
            });
            let watch = watch(Runs::always(), source);
            async move {
                let began = Instant::now();
                let jumping = Jumps(SystemClock::new(), AtomicU64::new(clock.1.load(Relaxed)));
                let watch = if clock.1.load(Relaxed) > 0 { watch.clock(jumping) } else { watch };
                let report = watch.run().await.unwrap();
                let says: Vec<_> = report.lines.iter().map(|line| line.says).collect();
                (report.outcome, says, report.watched, began.elapsed())
            }
        };
        let calm = run(Arc::new(Jumps(SystemClock::new(), AtomicU64::new(0)))).await;
        let jumping = run(Arc::new(Jumps(SystemClock::new(), AtomicU64::new(1)))).await;
        assert_eq!(calm, jumping);
        assert!(matches!(calm.0, WatchOutcome::Breached { .. }));
    }

    #[cfg(feature = "mock")]
    #[tokio::test(start_paused = true)]
    async fn stable_marks_the_release_verified() {
        let mut journal = crate::journal::MockJournal::new();
        journal
            .expect_mark()
            .withf(|target, entry| {
                target == "test:shop" && entry.release.label == "two" && entry.standing == Standing::Verified
            })
            .times(1)
            .returning(|_, _| Ok(()));
        let report = watch(Runs::always(), gives(|_| Some(0.01))).journal(journal).run().await.unwrap();
        assert!(report.verified, "{report}");

        let mut full = crate::journal::MockJournal::new();
        full.expect_mark().returning(|_, _| Err(Error::new(Kind::Unavailable, "write the ledger")));
        let report = watch(Runs::always(), gives(|_| Some(0.01))).journal(full).run().await.unwrap();
        assert!(!report.verified && report.not_verified.unwrap().contains("write the ledger"));
    }
}
