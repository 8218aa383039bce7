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
    time::{Instant, sleep_until, timeout},
};

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
    /// state, or several releases of which none was named; otherwise as [`Target::observe`]. What goes wrong later is an
    /// outcome.
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
        let found = self.observe(Look::full(), seconds(30)).await?;
        let serving: Vec<_> = found.serving().map(|(_, part)| &part.running).collect();
        let release = match (&self.release, &serving[..]) {
            (Some(named), all) if all.iter().any(|running| running.mentions().contains(&named)) => named.clone(),
            (Some(named), _) => return Err(self.invalid(format!("{named} does not serve there now"))),
            (None, [Running::Release(one), rest @ ..]) if rest.iter().all(|r| *r == serving[0]) => one.clone(),
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
