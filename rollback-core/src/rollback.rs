//! The builder: everything a rollback is made of, named for what it does.

#[cfg(feature = "planted-bugs")]
use crate::engine::Bug;
use crate::{
    Approver, Choose, Clock, Error, Freeze, HealthCheck, Intent, Journal, Kind, Observer, OrderedBy, Policy, ReleaseId,
    Result, RunId, Strategy, Support, Target, TargetId, Timestamp, Verifier,
    engine::{
        Spool,
        driver::{Setup, drive},
    },
    report::Report,
    verify::{Runs, Verifiers},
};
use std::{path::PathBuf, sync::Arc};

/// A rollback of one target: a value, cheap to clone. Nothing happens before [`run`](Rollback::run).
///
/// # What holds if you say nothing
/// [`Choose::verified`], the [`Direct`](crate::strategy::Direct) strategy, no health check, [`Runs::wanted`] as the only verifier, a journal in memory
/// (so nothing is left to resume after a crash: give it a [`SqliteJournal`](crate::journal::SqliteJournal)), no freeze,
/// nobody who approves, [`Policy::default`].
///
/// ```
/// # use rollback_core::{prelude::*, testing::FakePlatform, testing::{Good, Bad}};
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<()> {
/// let shop = FakePlatform::new().release("1", Good).release("2", Bad).live("2");
/// let report = Rollback::of(shop.clone())
///     .because("500s since 2")
///     .to(Choose::verified().or_previous())
///     .healthy_when(shop.health())
///     .recovered_when(Runs::wanted().and(StaysHealthy::for_at_least(minutes(2))))
///     .run()
///     .await?;
/// assert_eq!(report.outcome(), &Outcome::Recovered);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use = "nothing happens before run"]
pub struct Rollback {
    target: Arc<dyn Target>,
    setup: Setup,
    order: Order,
}

#[derive(Clone, Debug, Default)]
struct Order {
    run: Option<RunId>,
    parent: Option<RunId>,
    who: Option<String>,
    why: String,
    suspect: Option<ReleaseId>,
    choose: Choose,
    policy: Policy,
}

/// A journal, or the failure to open one: see [`Rollback::journal`].
pub trait IntoJournal {
    /// The journal; or one that answers every call with the failure.
    fn into_journal(self) -> Arc<dyn Journal>;
}
impl<J: Journal> IntoJournal for J {
    fn into_journal(self) -> Arc<dyn Journal> {
        Arc::new(self)
    }
}
impl<J: Journal> IntoJournal for Result<J> {
    fn into_journal(self) -> Arc<dyn Journal> {
        match self {
            Ok(journal) => Arc::new(journal),
            Err(error) => Arc::new(crate::journal::BrokenJournal::new(error.into_fault())),
        }
    }
}

impl Rollback {
    /// Of this target.
    pub fn of(target: impl Target) -> Self {
        let setup = Setup::new();
        Self { target: Arc::new(target), setup, order: Order::default() }
    }
    /// Why: goes into the journal, the report, and onto the platform where it has a place for it. No secrets.
    pub fn because(mut self, why: impl Into<String>) -> Self {
        self.order.why = why.into();
        self
    }
    pub(crate) fn because_if_unsaid(mut self, why: String) -> Self {
        if self.order.why.is_empty() {
            self.order.why = why;
        }
        self
    }
    /// The suspect: the release that must be left. If it is not named, it is the one in flight, else the newest that serves.
    pub fn blaming(mut self, suspect: impl Into<ReleaseId>) -> Self {
        self.order.suspect = Some(suspect.into());
        self
    }
    /// Which release to go to.
    pub fn to(mut self, choose: Choose) -> Self {
        self.order.choose = choose;
        self
    }
    /// How to get there.
    pub fn using(mut self, strategy: impl Strategy) -> Self {
        self.setup.strategy = Arc::new(strategy);
        self
    }
    /// When a part counts as healthy: what gates wait for.
    pub fn healthy_when(mut self, check: impl HealthCheck) -> Self {
        self.setup.health = Some(Arc::new(check));
        self
    }
    /// What must hold before it counts as recovered, one after the other.
    pub fn recovered_when(mut self, verifiers: impl Into<Verifiers>) -> Self {
        self.setup.verifiers = verifiers.into();
        self
    }
    /// Tries the release elsewhere (staging) before anything is touched: its window must hold.
    pub fn tried_first_by(mut self, trial: impl Verifier) -> Self {
        self.setup.trial = Some(Arc::new(trial));
        self
    }
    /// Where the run is journalled and the lock is. Also takes the `Result` of opening one: a run is then refused with that
    /// error, and break-glass goes on without and says so.
    pub fn journal(mut self, journal: impl IntoJournal) -> Self {
        self.setup.journal = journal.into_journal();
        self
    }
    /// Who would deploy again, and is stopped before the first change. Held until [`unfreeze`](crate::freeze::unfreeze).
    pub fn freezing(mut self, freeze: impl Freeze) -> Self {
        self.setup.freezes.push(Arc::new(freeze));
        self
    }
    /// Who says yes to what needs an approval.
    pub fn approved_by(mut self, approver: impl Approver) -> Self {
        self.setup.approver = Some(Arc::new(approver));
        self
    }
    /// Who hears what happens. May be called several times.
    pub fn observer(mut self, observer: impl Observer) -> Self {
        self.setup.observers.push(Arc::new(observer));
        self
    }
    /// What it may do, and how long.
    pub fn policy(mut self, policy: Policy) -> Self {
        self.order.policy = policy;
        self
    }
    /// The id of the run: of an outer system (a workflow, a group), so that the run can be found and its keys repeat. Without
    /// one, a new id is made for each run.
    pub fn run_id(mut self, run: impl Into<RunId>) -> Self {
        self.order.run = Some(run.into());
        self
    }
    /// The group it is part of.
    pub fn part_of(mut self, parent: &RunId) -> Self {
        self.order.parent = Some(parent.clone());
        self
    }
    /// Who orders it, in words. Without it, the user and the host of this process.
    pub fn ordered_by(mut self, who: impl Into<String>) -> Self {
        self.order.who = Some(who.into());
        self
    }
    /// Where the record goes when the journal is lost. Break-glass has one without being told: [`Spool::default_dir`].
    pub fn spool(mut self, dir: impl Into<PathBuf>) -> Self {
        self.setup.spool = Some(Spool::new(dir));
        self
    }
    /// Where the time is read. For tests.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.setup.clock = Some(Arc::new(clock));
        self
    }
    #[cfg(feature = "planted-bugs")]
    #[doc(hidden)]
    pub fn plant(mut self, bug: Bug) -> Self {
        self.setup.bug = Some(bug);
        self
    }
    /// Which target.
    pub fn target_id(&self) -> &TargetId {
        self.target.id()
    }
    /// The journal it was given.
    pub fn journal_in_use(&self) -> &Arc<dyn Journal> {
        &self.setup.journal
    }

    /// Runs it; or goes on with the run of this target that was left unfinished, with *that* run's intent. Every end of a run
    /// is in the report.
    ///
    /// # Cancel safety
    /// Dropping the future at any await leaves a run that the same call goes on with, from any process that has the journal.
    ///
    /// # Errors
    /// [`Kind::Invalid`] for orders that contradict each other, before anything is read.
    ///
    /// # Panics
    /// Only if a target, check or the like of the caller does; an observer's panic is caught. The lease is let go then, and
    /// the same call goes on with the run.
    pub async fn run(&self) -> Result<Report> {
        let (setup, intent) = self.ready()?;
        Ok(Report::new(drive(&*self.target, &setup, Arc::new(intent)).await))
    }

    /// A person who cannot wait, with what is there: ledger, lock and trace are used, and lost loudly. One call, no prompt,
    /// the previous release if none is verified, evidence for 5 s at the most. A held lock is taken over with a fresh plan.
    /// A trial elsewhere ([`tried_first_by`](Rollback::tried_first_by)) is left out, and said to be. Never an error. What is irreversible still needs [`Policy::with_irreversible`].
    ///
    /// Keeps what was set here, but for the supports that [`Policy::break_glass`] makes optional.
    pub async fn break_glass(mut self, why: impl Into<String>) -> Report {
        self.order.why = why.into();
        let (asked, glass) = (std::mem::take(&mut self.order.policy), Policy::break_glass());
        self.order.policy = Policy {
            irreversible: asked.irreversible,
            known_bad: asked.known_bad,
            poll: asked.poll,
            lease: asked.lease,
            dry_run: asked.dry_run,
            // Who waits for less still does.
            reply_within: asked.reply_within.min(glass.reply_within),
            evidence: asked.evidence.min(glass.evidence),
            check_within: asked.check_within.min(glass.check_within),
            ..glass
        };
        self.order.choose = self.order.choose.or_previous();
        let setup = self.order.complete(&self.setup);
        let intent = self.order.intent(&setup, self.target.id());
        if let Err(error) = self.order.check(&setup) {
            return Report::refused(intent, &error);
        }
        Report::new(drive(&*self.target, &setup, Arc::new(intent)).await)
    }

    /// As [`break_glass`](Rollback::break_glass), of a borrowed target, with neither lock nor ledger, and it says so: the only
    /// memory is the trace on the target or in the spool.
    pub async fn break_glass_on(target: &dyn Target, why: impl Into<String>) -> Report {
        let none = Error::new(Kind::NotFound, "use a journal").with_message("none was given: neither lock nor ledger");
        let mut setup = Setup::new();
        setup.journal = Arc::new(crate::journal::BrokenJournal::new(none.into_fault()));
        let order = Order {
            why: why.into(),
            choose: Choose::verified().or_previous(),
            policy: Policy::break_glass(),
            ..Order::default()
        };
        let setup = order.complete(&setup);
        let intent = order.intent(&setup, target.id());
        Report::new(drive(target, &setup, Arc::new(intent)).await)
    }

    fn ready(&self) -> Result<(Setup, Intent)> {
        self.order.check(&self.setup)?;
        let setup = self.order.complete(&self.setup);
        let intent = self.order.intent(&setup, self.target.id());
        Ok((setup, intent))
    }

    /// As a rollback that a machine orders: the budget holds, and what is irreversible is refused.
    pub fn by_machine(mut self) -> Self {
        self.order.policy.ordered_by = OrderedBy::Machine;
        self
    }
}

impl Order {
    /// What was not given.
    fn complete(&self, setup: &Setup) -> Setup {
        let mut setup = setup.clone();
        if setup.verifiers.0.is_empty() {
            setup.verifiers = Runs::wanted().into();
        }
        if setup.spool.is_none() && self.policy.journal == Support::IfThere {
            setup.spool = Some(Spool::new(Spool::default_dir()));
        }
        setup
    }

    fn check(&self, setup: &Setup) -> Result<()> {
        let invalid =
            |message: &str| Err(Error::new(Kind::Invalid, "begin the rollback").with_message(message).without_effect());
        let policy = &self.policy;
        if policy.poll.is_zero() || policy.lease.is_zero() || policy.reply_within.is_zero() {
            return invalid("poll, lease and reply_within must be longer than nothing");
        }
        if matches!(&self.choose, Choose::Exactly(id) if Some(id) == self.suspect.as_ref()) {
            return invalid("the release to go to is the suspect: name another one");
        }
        if matches!(self.choose, Choose::Nth(0)) {
            return invalid("the releases before the suspect are counted from 1");
        }
        let mut names: Vec<String> = setup.freezes.iter().map(|f| f.name()).collect();
        names.sort();
        if names.windows(2).any(|w| w[0] == w[1]) {
            return invalid("two freezes have the same name: a hold could not be told from the other");
        }
        Ok(())
    }

    fn intent(&self, setup: &Setup, target: &TargetId) -> Intent {
        let run = self.run.clone().unwrap_or_else(new_run);
        let who = self.who.clone().unwrap_or_else(who_am_i);
        let mut intent = Intent::new(run, target.clone(), who, self.why.clone());
        intent.parent.clone_from(&self.parent);
        intent.at = setup.clock.as_ref().map_or_else(Timestamp::now, |clock| clock.now().wall);
        intent.suspect.clone_from(&self.suspect);
        intent.choose = self.choose.clone();
        intent.policy = self.policy.clone();
        intent.strategy = setup.strategy.name();
        intent.health = setup.health.as_ref().map(|h| h.name());
        intent.verifiers = setup.verifiers.iter().map(|v| (v.name(), v.window())).collect();
        intent.freezes = setup.freezes.iter().map(|f| f.name()).collect();
        intent.trial = setup.trial.as_ref().map(|t| (t.name(), t.window()));
        intent
    }
}

/// Sorts by time, and does not meet its like.
fn new_run() -> RunId {
    RunId::new(format!("run-{:011x}-{:08x}", Timestamp::now().0, fastrand::u32(..)))
}

fn who_am_i() -> String {
    let user = ["USER", "LOGNAME"].iter().find_map(|name| std::env::var(name).ok()).unwrap_or_else(|| "someone".into());
    let host = rustix::system::uname();
    format!("{user}@{}", host.nodename().to_string_lossy())
}

#[allow(dead_code)]
fn run_is_send(rollback: &Rollback) -> impl Send + '_ {
    rollback.run()
}
