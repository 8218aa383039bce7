//! The builder: everything a rollback is made of, named for what it does.

#[cfg(feature = "planted-bugs")]
use crate::engine::Bug;
use crate::{
    Approver, Choose, Clock, Error, Freeze, HealthCheck, Intent, Journal, Kind, Observer, OrderedBy, Policy, ReleaseId,
    Result, RunId, RunQuery, Status, Strategy, Support, Target, TargetId, Timestamp, Verifier,
    engine::{
        Detection, Spool,
        driver::{Setup, drive},
    },
    report::Report,
    verify::{Runs, Verifiers},
};
use std::{path::PathBuf, sync::Arc};

/// A rollback of one target: a value, cheap to clone. Nothing happens before [`run`](Rollback::run).
///
/// # What holds if you say nothing
/// [`Choose::verified`], the target's own [strategy](Target::strategy) ([`Direct`](crate::strategy::Direct) where it has none), no health check, [`Runs::wanted`] as the only verifier, a journal in memory
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
    // Shared with the run: ten thousand of both must fit into memory.
    setup: Arc<Setup>,
    order: Arc<Order>,
}

#[derive(Clone, Debug, Default)]
struct Order {
    run: Option<RunId>,
    parent: Option<RunId>,
    who: Option<String>,
    why: String,
    suspect: Option<ReleaseId>,
    detected: Option<Box<Detection>>,
    choose: Choose,
    policy: Arc<Policy>,
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
        Self { target: Arc::new(target), setup: Arc::new(Setup::new()), order: Arc::default() }
    }
    /// Why: goes into the journal, the report, and onto the platform where it has a place for it. No secrets.
    pub fn because(mut self, why: impl Into<String>) -> Self {
        self.order_mut().why = why.into();
        self
    }
    #[cfg(feature = "watch")]
    pub(crate) fn because_if_unsaid(mut self, why: String) -> Self {
        if self.order.why.is_empty() {
            self.order_mut().why = why;
        }
        self
    }
    /// What was seen before it was ordered: the beginning of the report's timeline.
    pub fn detected(mut self, detection: Detection) -> Self {
        self.order_mut().detected = Some(Box::new(detection));
        self
    }
    /// The suspect: the release that must be left. If it is not named, it is the one in flight, else the newest that serves.
    pub fn blaming(mut self, suspect: impl Into<ReleaseId>) -> Self {
        self.order_mut().suspect = Some(suspect.into());
        self
    }
    /// Which release to go to.
    pub fn to(mut self, choose: Choose) -> Self {
        self.order_mut().choose = choose;
        self
    }
    /// How to get there.
    pub fn using(mut self, strategy: impl Strategy) -> Self {
        self.setup_mut().strategy = Some(Arc::new(strategy));
        self
    }
    /// When a part counts as healthy: what gates wait for.
    pub fn healthy_when(mut self, check: impl HealthCheck) -> Self {
        self.setup_mut().health = Some(Arc::new(check));
        self
    }
    /// What must hold before it counts as recovered, one after the other.
    pub fn recovered_when(mut self, verifiers: impl Into<Verifiers>) -> Self {
        self.setup_mut().verifiers = verifiers.into();
        self
    }
    /// Tries the release elsewhere (staging) before anything is touched: its window must hold.
    pub fn tried_first_by(mut self, trial: impl Verifier) -> Self {
        self.setup_mut().trial = Some(Arc::new(trial));
        self
    }
    /// Where the run is journalled and the lock is. Also takes the `Result` of opening one: a run is then refused with that
    /// error, and break-glass goes on without and says so.
    pub fn journal(mut self, journal: impl IntoJournal) -> Self {
        self.setup_mut().journal = journal.into_journal();
        self
    }
    /// Who would deploy again, and is stopped before the first change. Held until [`unfreeze`](crate::freeze::unfreeze).
    pub fn freezing(mut self, freeze: impl Freeze) -> Self {
        self.setup_mut().freezes.push(Arc::new(freeze));
        self
    }
    /// Who says yes to what needs an approval.
    pub fn approved_by(mut self, approver: impl Approver) -> Self {
        self.setup_mut().approver = Some(Arc::new(approver));
        self
    }
    /// Who hears what happens. May be called several times.
    pub fn observer(mut self, observer: impl Observer) -> Self {
        self.setup_mut().observers.push(Arc::new(observer));
        self
    }
    /// What it may do, and how long, in place of all that was said of it before; but what a machine orders
    /// ([`by_machine`](Rollback::by_machine)) stays so.
    pub fn policy(mut self, mut policy: Policy) -> Self {
        if self.order.policy.ordered_by == OrderedBy::Machine {
            policy.ordered_by = OrderedBy::Machine;
        }
        self.order_mut().policy = Arc::new(policy);
        self
    }
    /// The id of the run: of an outer system (a workflow, a group), so that the run can be found and its keys repeat. Without
    /// one, a new id is made for each run. **One id is one run**: where the journal has a run of this id that has ended,
    /// nothing is done, and its report is given once more. The next incident needs another one.
    pub fn run_id(mut self, run: impl Into<RunId>) -> Self {
        self.order_mut().run = Some(run.into());
        self
    }
    /// The group it is part of.
    pub fn part_of(mut self, parent: &RunId) -> Self {
        self.order_mut().parent = Some(parent.clone());
        self
    }
    /// Who orders it, in words. Without it, the user and the host of this process.
    pub fn ordered_by(mut self, who: impl Into<String>) -> Self {
        self.order_mut().who = Some(who.into());
        self
    }
    /// Where the record goes when the journal is lost. Break-glass has one without being told: [`Spool::default_dir`].
    pub fn spool(mut self, dir: impl Into<PathBuf>) -> Self {
        self.setup_mut().spool = Some(Spool::new(dir));
        self
    }
    /// Where the time is read. For tests: such a run leaves [`Spool::default_dir`] alone, and has no spool but its own.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.setup_mut().clock = Some(Arc::new(clock));
        self
    }
    #[cfg(feature = "planted-bugs")]
    #[doc(hidden)]
    pub fn plant(mut self, bug: Bug) -> Self {
        self.setup_mut().bug = Some(bug);
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
    /// Ordered once more after a run that got [stuck](crate::Outcome::Stuck), without a suspect named, it goes to where that
    /// one was going, and verifies it. After one that reached its release it is refused: what runs then is left only for a
    /// suspect that is named.
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

    /// Goes on with the run of this target that was left unfinished, with *that* run's intent; `None` if there is none, and
    /// then nothing is begun, also where somebody else ends the run meanwhile (the report is that run's then).
    /// Whatever this value says of why, whereto and how much is allowed counts for nothing; give it the strategy, the
    /// checks and the freezes of the first call.
    ///
    /// ```
    /// # use rollback_core::{prelude::*, testing::{Bad, FakePlatform, Good}};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<()> {
    /// let shop = FakePlatform::new().release("1", Good).release("2", Bad).live("2");
    /// match Rollback::of(shop).journal(MemoryJournal::new()).resume().await? {
    ///     Some(report) => println!("{report}"),
    ///     None => println!("nothing was left unfinished"),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Cancel safety
    /// As [`run`](Rollback::run).
    ///
    /// # Errors
    /// As [`run`](Rollback::run); and as the journal, when it cannot be asked what is unfinished.
    ///
    /// # Panics
    /// As [`run`](Rollback::run).
    pub async fn resume(&self) -> Result<Option<Report>> {
        let query = RunQuery { unfinished: true, ..RunQuery::of_target(self.target.id()) }.with_limit(1);
        let Some(left) = self.setup.journal.runs(&query).await?.into_iter().next() else { return Ok(None) };
        // By its id: one that has ended by now is not begun anew.
        let mut this = self.clone();
        let order = this.order_mut();
        order.run = Some(left.run);
        Arc::make_mut(&mut order.policy).take_over = false;
        this.run().await.map(Some)
    }

    /// How the target stands: what each part is told and really runs, what is in flight, who else writes there, what is
    /// known of its releases, its runs and holds. Takes no lock, changes nothing, and never fails: gaps are named. Each
    /// read may take [`Policy::reply_within`].
    ///
    /// ```
    /// # use rollback_core::{prelude::*, testing::{FakePlatform, Good}};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// let shop = FakePlatform::new().release("1", Good).live("1");
    /// println!("{}", Rollback::of(shop).journal(MemoryJournal::new()).status().await);
    /// # }
    /// ```
    ///
    /// # Cancel safety
    /// It only reads.
    pub async fn status(&self) -> Status {
        let now = self.setup.clock.as_ref().map_or_else(Timestamp::now, |clock| clock.now().wall);
        Status::read(&*self.target, &*self.setup.journal, now, self.order.policy.reply_within).await
    }

    /// A person who cannot wait, with what is there: ledger, lock and trace are used, and lost loudly. One call, no prompt,
    /// the previous release if none is verified, evidence for 5 s at the most. A held lock is taken over with a fresh plan.
    /// A trial elsewhere ([`tried_first_by`](Rollback::tried_first_by)) is left out, and said to be. Never an error. What is irreversible still needs [`Policy::with_irreversible`].
    ///
    /// Keeps what was set here, but for what [`Policy::break_glass`] takes back: supports are optional, nobody is asked for
    /// an approval (what would have taken one is in the report as lost; a release known bad takes one all the same), there is
    /// neither a budget nor a floor of capacity,
    /// and no reply but that to a write is waited for longer than 5 s.
    ///
    /// Without a journal the record goes to the [`spool`](Rollback::spool): by default a folder of the user's state. A test
    /// gives a temporary one.
    pub async fn break_glass(mut self, why: impl Into<String>) -> Report {
        self.order_mut().why = why.into();
        let (asked, glass) = (self.order.policy.clone(), Policy::break_glass());
        self.order_mut().policy = Arc::new(Policy {
            irreversible: asked.irreversible,
            known_bad: asked.known_bad.clone(),
            poll: asked.poll,
            lease: asked.lease,
            dry_run: asked.dry_run,
            deadline: asked.deadline,
            prepare_within: asked.prepare_within,
            look_again_for: asked.look_again_for,
            evidence_bytes: asked.evidence_bytes,
            freeze_for: asked.freeze_for,
            // Who waits for less still does.
            reply_within: asked.reply_within.min(glass.reply_within),
            evidence: asked.evidence.min(glass.evidence),
            check_within: asked.check_within.min(glass.check_within),
            ..glass
        });
        let choose = self.order.choose.clone();
        self.order_mut().choose = choose.or_previous();
        let setup = self.order.complete(&self.setup);
        let intent = self.order.intent(&setup, &*self.target);
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
            policy: Arc::new(Policy::break_glass()),
            ..Order::default()
        };
        let setup = order.complete(&Arc::new(setup));
        let intent = order.intent(&setup, target);
        Report::new(drive(target, &setup, Arc::new(intent)).await)
    }

    /// The run id that was given.
    #[cfg(feature = "group")]
    pub(crate) fn given_run(&self) -> Option<&RunId> {
        self.order.run.as_ref()
    }
    fn setup_mut(&mut self) -> &mut Setup {
        Arc::make_mut(&mut self.setup)
    }
    fn order_mut(&mut self) -> &mut Order {
        Arc::make_mut(&mut self.order)
    }
    fn ready(&self) -> Result<(Arc<Setup>, Intent)> {
        self.order.check(&self.setup)?;
        let setup = self.order.complete(&self.setup);
        let intent = self.order.intent(&setup, &*self.target);
        Ok((setup, intent))
    }

    /// As a rollback that a machine orders: the budget holds, and what is irreversible is refused.
    pub fn by_machine(mut self) -> Self {
        Arc::make_mut(&mut self.order_mut().policy).ordered_by = OrderedBy::Machine;
        self
    }
}

impl Order {
    /// What was not given.
    fn complete(&self, setup: &Arc<Setup>) -> Arc<Setup> {
        let mut setup = setup.clone();
        if setup.verifiers.0.is_empty() {
            Arc::make_mut(&mut setup).verifiers = Runs::wanted().into();
        }
        if setup.spool.is_none() && self.policy.journal == Support::IfThere {
            let spool = setup.default_spool();
            Arc::make_mut(&mut setup).spool = spool;
        }
        setup
    }

    fn check(&self, setup: &Setup) -> Result<()> {
        let invalid =
            |message: &str| Err(Error::new(Kind::Invalid, "begin the rollback").with_message(message).without_effect());
        let policy = &self.policy;
        let times = [policy.poll, policy.lease, policy.reply_within, policy.prepare_within, policy.check_within];
        if policy.deadline.is_zero() || times.iter().any(std::time::Duration::is_zero) {
            return invalid("poll, lease, deadline and the time a call may take must be longer than nothing");
        }
        let to = match &self.choose {
            Choose::Exactly(id) => Some(id),
            _ => None,
        };
        if to.into_iter().chain(&self.suspect).any(|id| id.as_str().trim().is_empty()) {
            return invalid("a release that is named has a name: this one is empty");
        }
        if to.is_some() && to == self.suspect.as_ref() {
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

    fn intent(&self, setup: &Setup, target: &dyn Target) -> Intent {
        let run = self.run.clone().unwrap_or_else(new_run);
        let who = self.who.clone().unwrap_or_else(who_am_i);
        let mut intent = Intent::new(run, target.id().clone(), who, self.why.clone());
        intent.parent.clone_from(&self.parent);
        intent.at = setup.clock.as_ref().map_or_else(Timestamp::now, |clock| clock.now().wall);
        intent.suspect.clone_from(&self.suspect);
        intent.detected.clone_from(&self.detected);
        intent.choose = self.choose.clone();
        intent.policy = self.policy.clone();
        intent.strategy = setup.strategy_of(target).name();
        intent.health = setup.health.as_ref().map(|h| h.name());
        intent.verifiers = setup.verifiers.iter().map(|v| (v.name(), v.window())).collect();
        intent.freezes = setup.freezes.iter().map(|f| f.name()).collect();
        intent.trial = setup.trial.as_ref().map(|t| Box::new((t.name(), t.window())));
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

#[cfg(all(test, feature = "testing"))]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{
        journal::MemoryJournal,
        testing::{Bad, FakePlatform, Good},
    };

    fn shop() -> FakePlatform {
        FakePlatform::new().release("1", Good).release("2", Bad).live("2")
    }
    fn of(shop: &FakePlatform, journal: &MemoryJournal) -> Rollback {
        Rollback::of(shop.clone()).journal(journal.clone()).to(Choose::verified().or_previous())
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_unfinished_begins_nothing() {
        let (shop, journal) = (shop(), MemoryJournal::new());
        assert!(of(&shop, &journal).resume().await.unwrap().is_none());
        assert_eq!(journal.runs(&RunQuery::all()).await.unwrap(), []);
        let _ = of(&shop, &journal).because("500s").run().await.unwrap();
        let writes = shop.effects();
        assert!(of(&shop, &journal).resume().await.unwrap().is_none(), "it has ended");
        assert_eq!((shop.effects(), journal.runs(&RunQuery::all()).await.unwrap().len()), (writes, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_left_is_gone_on_with_by_its_own_intent() {
        let (shop, journal) = (shop(), MemoryJournal::new());
        let first = of(&shop, &journal).because("500s").run_id("r1");
        let intent = first.ready().unwrap().1;
        let crate::Begun::Fresh { lease, .. } = journal.begin(&intent).await.unwrap() else { panic!("not fresh") };
        journal.let_go(&lease);
        let other = of(&shop, &journal).because("something else").run_id("r2").to(Choose::exactly("2"));
        let report = other.resume().await.unwrap().unwrap();
        assert_eq!(report.outcome(), &crate::Outcome::Recovered);
        let runs = journal.runs(&RunQuery::all()).await.unwrap();
        assert_eq!(runs.iter().map(|run| (run.run.as_str(), run.why.as_str())).collect::<Vec<_>>(), [("r1", "500s")]);
        assert!(other.resume().await.unwrap().is_none());
    }

    /// Back to a release of its own choice, whatever was chosen.
    #[derive(Debug)]
    struct To(&'static str);
    impl Strategy for To {
        fn name(&self) -> String {
            format!("to {}", self.0)
        }
        fn plan(&self, situation: &crate::Situation) -> std::result::Result<crate::Plan, crate::Unplannable> {
            let mut other = situation.clone();
            other.wanted = crate::Release::new(self.0);
            let mut plan = crate::strategy::Direct::default().plan(&other)?;
            plan.wanted.clone_from(&situation.wanted.id);
            Ok(plan)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_later_rung_set_is_what_is_verified_and_known_of() {
        use crate::{Standing, Weight, strategy::Ladder};
        let shop = FakePlatform::new().release("0", Good).release("1", Bad).release("2", Bad).live("2");
        let journal = MemoryJournal::new();
        let ladder = Ladder::new().rung(crate::strategy::Direct::default(), Weight::NONE).rung(To("0"), Weight::NONE);
        let rollback = of(&shop, &journal).to(Choose::exactly("1")).healthy_when(shop.health()).using(ladder);
        let report = rollback.clone().recovered_when(Runs::wanted()).run().await.unwrap();
        assert_eq!(report.outcome(), &crate::Outcome::Recovered, "{report}");
        assert!(shop.is_live("0"));
        let ledger = journal.ledger(rollback.target_id()).await.unwrap();
        let standing = |id: &str| ledger.iter().find(|e| e.release.id == *id).map(|e| e.standing);
        assert_eq!(standing("0"), Some(Standing::Verified));
        assert_eq!((standing("1"), standing("2")), (Some(Standing::Seen), Some(Standing::Failed)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_release_that_only_the_ledger_knows_and_is_gone_is_passed_over() {
        for glass in [false, true] {
            let (shop, journal) = (shop(), MemoryJournal::new());
            let known = vec![(crate::Release::new("0.9"), crate::Standing::Verified)];
            crate::record::import(&journal, shop.id(), known, Timestamp::now()).await.unwrap();
            let report = match glass {
                true => of(&shop, &journal).break_glass("500s").await,
                false => of(&shop, &journal).run().await.unwrap(),
            };
            assert_eq!(report.outcome(), &crate::Outcome::Recovered, "{report}");
            assert!(shop.is_live("1") && report.to_string().contains("LOST release 0.9"), "{report}");
            assert_eq!(report.chosen().unwrap().wanted.id, "1");
            assert_eq!(report.plan().unwrap().wanted, "1");
        }
        // Asked for by name, it is that one or none.
        let (shop, journal) = (shop(), MemoryJournal::new());
        let report = of(&shop, &journal).to(Choose::exactly("0.9")).run().await.unwrap();
        assert!(matches!(report.outcome(), crate::Outcome::Refused { .. }) && shop.is_live("2"), "{report}");
    }

    #[tokio::test(start_paused = true)]
    async fn another_order_for_a_run_that_was_left_is_said() {
        let (shop, journal) = (shop(), MemoryJournal::new());
        let intent = of(&shop, &journal).because("500s").run_id("r1").ready().unwrap().1;
        let crate::Begun::Fresh { lease, .. } = journal.begin(&intent).await.unwrap() else { panic!("not fresh") };
        journal.let_go(&lease);
        let report = of(&shop, &journal).to(Choose::exactly("7")).run().await.unwrap();
        assert_eq!((report.outcome(), report.run().as_str()), (&crate::Outcome::Recovered, "r1"));
        assert!(report.losses().iter().any(|(what, why)| what.contains("7") && why.contains("r1")), "{report}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_way_to_what_is_not_there_is_passed_over() {
        use crate::{Weight, strategy::Ladder};
        let shop = FakePlatform::new().release("1", Good).release("2", Bad).live("2");
        let ladder =
            Ladder::new().rung(To("gone"), Weight::NONE).rung(crate::strategy::Direct::default(), Weight::NONE);
        let report = of(&shop, &MemoryJournal::new()).using(ladder).run().await.unwrap();
        assert_eq!(report.outcome(), &crate::Outcome::Recovered, "{report}");
        assert!(shop.is_live("1"));
    }

    /// Says of every change how many were prepared before.
    #[derive(Clone, Debug)]
    struct Counted(FakePlatform, Arc<std::sync::atomic::AtomicU32>);
    #[async_trait::async_trait]
    impl Target for Counted {
        fn id(&self) -> &TargetId {
            self.0.id()
        }
        fn capabilities(&self) -> crate::Capabilities {
            self.0.capabilities()
        }
        async fn observe(&self, look: crate::Look) -> Result<crate::Observation> {
            self.0.observe(look).await
        }
        async fn history(&self, limit: usize) -> Result<Vec<crate::Release>> {
            self.0.history(limit).await
        }
        async fn prepare(&self, change: &crate::Change, work: &crate::Work) -> Result<crate::Prepared> {
            let before = self.1.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let found = crate::Finding::new(crate::Severity::Warning, "count", format!("{before} before"));
            Ok(self.0.prepare(change, work).await?.with_finding(found))
        }
        async fn apply(
            &self,
            approved: &crate::Approved,
            token: crate::Token,
            work: &crate::Work,
        ) -> Result<crate::Applied> {
            self.0.apply(approved, token, work).await
        }
    }

    /// Two steps, and the second one leads to what is not there.
    #[derive(Debug)]
    struct ThenGone;
    impl Strategy for ThenGone {
        fn name(&self) -> String {
            "then gone".into()
        }
        fn plan(&self, situation: &crate::Situation) -> std::result::Result<crate::Plan, crate::Unplannable> {
            let mut plan = crate::strategy::Direct::default().plan(situation)?;
            let gone = To("gone").plan(situation)?;
            plan.rungs[0].steps.extend(gone.rungs.into_iter().flat_map(|rung| rung.steps));
            Ok(plan)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn findings_are_those_of_the_rung_that_is_carried_out() {
        use crate::{Weight, strategy::Ladder};
        let target = Counted(shop(), Arc::default());
        let ladder = Ladder::new().rung(ThenGone, Weight::NONE).rung(crate::strategy::Direct::default(), Weight::NONE);
        let report = Rollback::of(target).to(Choose::previous()).using(ladder).run().await.unwrap();
        assert_eq!(report.outcome(), &crate::Outcome::Recovered, "{report}");
        let found: Vec<_> = report.findings().into_iter().map(|finding| finding.text.as_str()).collect();
        assert_eq!(found, ["2 before"], "{report}");
        let passed = report.lines().iter().find_map(|line| match &line.entry {
            crate::Entry::RungFailed { rung, why } => Some((*rung, why.as_str())),
            _ => None,
        });
        assert!(passed.is_some_and(|(rung, why)| rung == 0 && why.ends_with("; Warning: 0 before")), "{report}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_dry_run_says_what_would_stand_in_the_way() {
        let (shop, journal) = (shop().needs_approval("may lose something"), MemoryJournal::new());
        let intent = of(&shop, &journal).ordered_by("someone").run_id("r1").ready().unwrap().1;
        let crate::Begun::Fresh { lease, .. } = journal.begin(&intent).await.unwrap() else { panic!("not fresh") };
        let dry = of(&shop, &journal).policy(Policy::default().with_dry_run(true));
        let found = async |rollback: Rollback| {
            let report = rollback.run().await.unwrap();
            assert_eq!(report.outcome(), &crate::Outcome::Rehearsed, "{report}");
            report.findings().into_iter().map(|f| (f.code.clone(), f.text.clone())).collect::<Vec<_>>()
        };
        let held = found(dry.clone()).await;
        let [(approval, of_what), (unfinished, who)] = &held[..] else { panic!("{held:?}") };
        assert_eq!((approval.as_str(), unfinished.as_str()), ("approval", "unfinished"));
        assert!(of_what.contains("may lose something"), "{of_what}");
        assert!(who.contains("run r1, which someone ordered") && who.contains("would be refused"), "{who}");
        journal.let_go(&lease);
        assert!(found(dry.clone()).await[1].1.contains("would be gone on with"));
        let glass = dry.policy(Policy::break_glass().with_dry_run(true));
        let over = found(glass).await;
        assert!(over.len() == 1 && over[0].1.contains("would be taken over"), "nobody is asked: {over:?}");
        assert_eq!((shop.effects().len(), journal.runs(&RunQuery::all()).await.unwrap().len()), (0, 1));
    }

    /// Can tell nothing of anything.
    #[derive(Clone, Debug)]
    struct NoPort;
    #[async_trait::async_trait]
    impl HealthCheck for NoPort {
        fn name(&self) -> String {
            "no port".into()
        }
        async fn check(&self, _: &crate::Context) -> Result<crate::Health> {
            Ok(crate::Health::unknown("port", "there is none"))
        }
        async fn preflight(&self, context: &crate::Context) -> Result<Vec<crate::Finding>> {
            let text = format!("{} has no port", context.wanted);
            Ok(vec![crate::Finding::new(crate::Severity::Blocks, "port", text)])
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_check_that_can_tell_nothing_is_refused_before_the_first_write() {
        use crate::health::{HealthCheckExt as _, at_least};
        let refused = |report: &Report| matches!(report.outcome(), crate::Outcome::Refused { why, .. } if why.contains("1 has no port"));
        let (platform, journal) = (shop(), MemoryJournal::new());
        let either = platform.health();
        for (check, is) in [
            (Arc::new(NoPort) as Arc<dyn HealthCheck>, true),
            (Arc::new(NoPort.consecutive(3).with_grace(crate::seconds(1)).and(either.clone())), true),
            (
                Arc::new(at_least(2, [Arc::new(NoPort) as Arc<dyn HealthCheck>, Arc::new(either.clone())]).unwrap()),
                true,
            ),
            (Arc::new(crate::health::Checks::new().required("n", NoPort)), true),
            (Arc::new(crate::health::Checks::new().required("e", either.clone()).optional("n", NoPort)), false),
            (Arc::new(NoPort.or(either)), false),
        ] {
            let name = check.name();
            let dry = of(&platform, &journal).healthy_when(check).policy(Policy::default().with_dry_run(true));
            assert_eq!(refused(&dry.run().await.unwrap()), is, "{name}");
        }
        let report = of(&platform, &journal).healthy_when(NoPort).run().await.unwrap();
        assert!(refused(&report) && platform.effects().is_empty(), "{report}");
        let glass = of(&platform, &journal).healthy_when(NoPort).break_glass("500s").await;
        assert!(platform.is_live("1"), "{glass}");
        assert!(glass.findings().iter().any(|finding| finding.code == "port"), "{glass}");
    }

    #[test]
    fn a_clock_of_its_own_keeps_off_the_users_folders() {
        let (shop, journal) = (shop(), MemoryJournal::new());
        let glass = of(&shop, &journal).policy(Policy::break_glass());
        let spool = |rollback: &Rollback| rollback.ready().unwrap().0.spool.clone().map(|spool| spool.dir().to_owned());
        assert_eq!(spool(&glass), Some(Spool::default_dir()));
        let simulated = glass.clock(crate::SystemClock::new());
        assert_eq!((spool(&simulated), simulated.setup.default_spool().is_none()), (None, true));
        assert_eq!(spool(&simulated.spool("/given")), Some("/given".into()));
    }

    #[tokio::test(start_paused = true)]
    async fn who_cannot_ask_says_so() {
        let broken = Error::new(Kind::Invalid, "open the journal").with_message("it is corrupt");
        let rollback = Rollback::of(shop()).journal(Err::<MemoryJournal, _>(broken));
        assert!(rollback.resume().await.unwrap_err().to_string().contains("it is corrupt"));
    }
}
