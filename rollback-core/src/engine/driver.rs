//! The driver: carries out what the machine asks for. It borrows everything and spawns nothing, so dropping its future at
//! any await leaves a run that can be resumed.

use super::{
    Spool,
    ask::{Answer, Ask, LEDGER},
    bug::Bug,
    machine::State,
};
use crate::{
    ApprovalRequest, Approved, Approver, At, Begun, Bounds, Clock, Context, Digest, Error, Event, EventKind, Fault,
    Finding, Freeze, Health, HealthCheck, Intent, Journal, Kind, Lease, Line, Nudges, Observer, Outcome, Past, Policy,
    Result, RunQuery, RunSummary, Severity, Standing, Strategy, Support, Target, Token, Trace, Verifier, Verifiers,
    Work, verify::Runs,
};
use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex},
    time::Duration,
};

/// What a run is driven with.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    /// `None`: the target's own.
    pub(crate) strategy: Option<Arc<dyn Strategy>>,
    pub(crate) health: Option<Arc<dyn HealthCheck>>,
    pub(crate) verifiers: Verifiers,
    pub(crate) trial: Option<Arc<dyn Verifier>>,
    pub(crate) journal: Arc<dyn Journal>,
    pub(crate) approver: Option<Arc<dyn Approver>>,
    pub(crate) freezes: Vec<Arc<dyn Freeze>>,
    pub(crate) observers: Vec<Arc<dyn Observer>>,
    pub(crate) clock: Option<Arc<dyn Clock>>,
    pub(crate) spool: Option<Spool>,
    pub(crate) bug: Option<Bug>,
}

impl Setup {
    /// What holds if nothing is said.
    pub(crate) fn new() -> Self {
        Self {
            strategy: None,
            health: None,
            verifiers: Runs::wanted().into(),
            trial: None,
            journal: Arc::new(crate::journal::MemoryJournal::new()),
            approver: None,
            freezes: vec![],
            observers: vec![],
            clock: None,
            spool: None,
            bug: None,
        }
    }

    /// The caller's; where it named none, the target's own.
    pub(crate) fn strategy_of(&self, target: &dyn Target) -> Arc<dyn Strategy> {
        let own = self.strategy.clone().or_else(|| target.strategy());
        own.unwrap_or_else(|| Arc::new(crate::strategy::Direct::default()))
    }

    /// Where nothing else was said. A run on a clock of its own is simulated, and leaves the user's folders alone.
    pub(crate) fn default_spool(&self) -> Option<Spool> {
        self.clock.is_none().then(|| Spool::new(Spool::default_dir()))
    }
}

/// What is left of a run.
#[derive(Debug)]
pub(crate) struct Driven {
    pub(crate) intent: Intent,
    pub(crate) adopted: bool,
    pub(crate) lines: Vec<Line>,
    pub(crate) outcome: Outcome,
    pub(crate) spooled: Option<std::path::PathBuf>,
}

/// Lets go of the lease when the driver's future is dropped.
struct Holding {
    journal: Arc<dyn Journal>,
    lease: Option<Lease>,
}
impl Drop for Holding {
    fn drop(&mut self) {
        if let Some(lease) = &self.lease {
            self.journal.let_go(lease);
        }
    }
}

struct Driver<'a> {
    target: &'a dyn Target,
    setup: &'a Setup,
    clock: Arc<dyn Clock>,
    intent: Arc<Intent>,
    /// Set when a renewal found that the lease is lost.
    fenced: Option<Box<Fault>>,
    holding: Holding,
    /// When the journal last said that the lease is ours.
    kept_at: tokio::time::Instant,
    lines: Vec<Line>,
    adopted: bool,
    spooled: Option<std::path::PathBuf>,
    spool_lost: bool,
    /// How many lines are in the spool.
    in_spool: usize,
    /// The run that was taken over.
    replaced: Option<crate::RunId>,
    /// The journal once did not answer in time.
    silent: bool,
    nudges: Option<Nudges>,
}

/// Ten thousand of these futures must fit into memory: what is large in them lies on the heap once, for an `async fn` keeps
/// an argument a second time when it is moved, and room for the largest of its branches.
pub(crate) async fn drive(target: &dyn Target, setup: &Setup, intent: Arc<Intent>) -> Driven {
    let clock = setup.clock.clone().unwrap_or_else(|| Arc::new(crate::SystemClock::new()));
    let mut state = Box::new(State::new(target.capabilities()));
    #[cfg(feature = "planted-bugs")]
    state.plant(setup.bug);
    let _ = setup.bug;
    let mut driver = Driver {
        target,
        setup,
        clock,
        intent: intent.clone(),
        fenced: None,
        holding: Holding { journal: setup.journal.clone(), lease: None },
        kept_at: tokio::time::Instant::now(),
        lines: vec![],
        adopted: false,
        spooled: None,
        spool_lost: false,
        in_spool: 0,
        replaced: None,
        silent: false,
        nudges: target.nudges(),
    };
    let mut ask = driver.turn(&mut state, Answer::Start(intent));
    loop {
        if let Ask::Finish(outcome) = &*ask {
            return driver.end(&state, outcome.clone());
        }
        let answer = driver.answer(ask, &state).await;
        let answer = match driver.fenced.take() {
            None => answer,
            Some(fault) => {
                // It is not ours to keep: what is still to be asked at the end must be answered.
                driver.holding.lease = None;
                Answer::Fenced(*fault)
            }
        };
        ask = driver.turn(&mut state, answer);
    }
}

/// A lease that the journal confirmed so recently is not asked for again before a write.
const STILL_OURS: Duration = Duration::from_secs(1);

fn fault<T>(result: Result<T>) -> Result<T, Fault> {
    result.map_err(Error::into_fault)
}

type Answering<'a> = Pin<Box<dyn Future<Output = Answer> + Send + 'a>>;
type Call<'a, T> = Pin<Box<dyn Future<Output = Result<T, Fault>> + Send + 'a>>;

/// Bounded in time. What it was doing may have had its effect.
fn within<'a, T: Send + 'a>(
    time: Duration,
    doing: &'a str,
    call: impl Future<Output = Result<T>> + Send + 'a,
) -> Call<'a, T> {
    Box::pin(async move {
        match tokio::time::timeout(time, call).await {
            Ok(result) => fault(result),
            Err(_) => Err(no_answer(time, doing)),
        }
    })
}

fn no_answer(time: Duration, doing: &str) -> Fault {
    Error::new(Kind::Unavailable, doing).with_message(format!("no answer within {time:?}")).into_fault()
}

impl Driver<'_> {
    /// One step of the machine, told to the observers: what is to be done next. In a box, so that while it is being done
    /// nothing is kept for it.
    fn turn(&mut self, state: &mut State, answer: Answer) -> Box<Ask> {
        let effects = state.step(answer, self.clock.now());
        self.hear(effects.events, state);
        Box::new(effects.ask)
    }

    fn end(&mut self, state: &State, outcome: Outcome) -> Driven {
        // The end freed the lock; where it could not be written, whoever comes next may adopt the run at once.
        if !state.is_unjournalled() {
            self.holding.lease = None;
        }
        self.tell(EventKind::Ended(outcome.clone()));
        let lines = std::mem::take(&mut self.lines);
        let intent = (*self.intent).clone();
        Driven { intent, adopted: self.adopted, lines, outcome, spooled: self.spooled.take() }
    }

    /// Gives back what was told.
    fn tell(&self, kind: EventKind) -> EventKind {
        if self.setup.observers.is_empty() {
            return kind;
        }
        let event = Event::new(self.intent.run.clone(), self.intent.target.clone(), self.clock.now().wall, kind);
        announce(&self.setup.observers, &event);
        event.kind
    }

    fn hear(&mut self, events: Vec<EventKind>, state: &State) {
        let mut unjournalled = false;
        for kind in events {
            if let EventKind::Began { intent, adopted } = &kind {
                self.intent = intent.clone();
                self.adopted = adopted.is_some();
            }
            if let EventKind::Journalled(line) = self.tell(kind) {
                unjournalled |= state.is_unjournalled();
                // By little, not by doubling: ten thousand runs hold their lines at once.
                if self.lines.len() == self.lines.capacity() {
                    self.lines.reserve_exact((self.lines.len() / 8).max(2));
                }
                self.lines.push(*line);
            }
        }
        // A dry run has nothing to keep.
        if unjournalled && !self.intent.policy.dry_run {
            // What the journal took before it was lost belongs to the record too.
            let new: Vec<Line> = self.lines[self.in_spool..].to_vec();
            self.in_spool = self.lines.len();
            let intent = self.intent.clone();
            self.spool(|spool, _| spool.append(&intent, &new.iter().collect::<Vec<_>>()).map(|()| true));
        }
    }

    fn spool(&mut self, write: impl FnOnce(&Spool, &crate::RunId) -> Result<bool>) {
        let Some(spool) = &self.setup.spool else { return };
        match write(spool, &self.intent.run) {
            Ok(true) => self.spooled = Some(spool.file_of(&self.intent.run)),
            // The trace alone is no record.
            Ok(false) => {}
            Err(e) if !self.spool_lost => {
                self.spool_lost = true;
                let why = e.to_string();
                self.tell(EventKind::Lost { what: "spool".into(), why: why.clone() });
                // In memory only; the machine need not know, because it decides nothing by it.
                let last = self.lines.last();
                let (seq, elapsed, acted) =
                    last.map_or((0, Duration::ZERO, Duration::ZERO), |l| (l.seq + 1, l.elapsed, l.acted));
                let entry = crate::Entry::Lost { what: "spool".into(), why };
                self.lines.push(Line::new(seq, 0, self.clock.now().wall, elapsed, acted, entry));
            }
            Err(_) => {}
        }
    }

    /// Without a journal the shelf may end with this process: what lies on it goes beside the record.
    async fn spool_evidence(&self, kept: &[crate::Artifact], work: &Work) -> Result<()> {
        let Some(spool) = &self.setup.spool else { return Ok(()) };
        for artifact in kept {
            let mut reader = work.open(artifact).await?;
            let mut bytes = vec![];
            while let Some(chunk) = reader.next().await? {
                bytes.extend(chunk);
            }
            spool.keep(&self.intent.run, artifact, &bytes)?;
        }
        Ok(())
    }

    fn work(&self, at: Option<crate::At>, time: Duration, state: &State) -> Work {
        let epoch = state.lease().map_or(0, |l| l.epoch);
        let step = at.map_or_else(|| "run".to_owned(), |at| at.to_string());
        let work = Work::new(self.intent.run.clone(), epoch, step, time, self.setup.journal.shelf());
        work.with_why(self.intent.why.clone())
    }

    fn context(&self, state: &State, since: Duration, time: Duration) -> Option<Box<Context>> {
        let (goal, seen) = (state.goal()?, state.seen()?.clone());
        let wanted = state.bringing().unwrap_or(&goal.wanted.id).clone();
        let context = Context::new(self.intent.target.clone(), goal.suspect.clone(), wanted, seen);
        Some(Box::new(context.with_since(since).with_within(time).with_health(self.setup.health.clone())))
    }

    /// Keeps the lease alive while something else is waited for. When it is lost, a write is told to stop where it can go on
    /// later; the machine hears of it instead of the answer.
    async fn keeping<T>(
        &mut self,
        work: Option<&Work>,
        mut call: Pin<Box<impl Future<Output = T> + ?Sized>>,
    ) -> Option<T> {
        let Some(lease) = self.holding.lease.clone() else { return Some(call.await) };
        let third = self.intent.policy.lease / 3;
        let journal = self.setup.journal.clone();
        // From when it was last kept, not from when this call began: many short calls must not let it run out.
        let mut due = self.kept_at + third;
        loop {
            tokio::select! {
                biased;
                out = &mut call => return Some(out),
                () = tokio::time::sleep_until(due) => {}
            }
            let asked = tokio::time::Instant::now();
            due = asked + third;
            let mut renew = within(third, "renew the lease", journal.renew(&lease));
            let renewed = tokio::select! {
                biased;
                out = &mut call => return Some(out),
                renewed = &mut renew => renewed,
            };
            match renewed {
                Ok(()) => self.kept_at = asked,
                Err(fault) if fault.kind == Kind::Conflict => {
                    self.fenced = Some(Box::new(fault));
                    let work = work?;
                    work.cancel();
                    return Some(call.await);
                }
                Err(_) => {}
            }
        }
    }

    /// Carries out what is asked. Each answer is a future of its own, so that one that waits for the journal takes no room
    /// for all the others; and the box of the question is gone while it is waited for.
    #[allow(
        clippy::boxed_local,
        reason = "who moves out of a box keeps it until its own end, which is after the answer"
    )]
    fn answer<'b>(&'b mut self, ask: Box<Ask>, state: &'b State) -> Answering<'b> {
        let (target, setup) = (self.target, self.setup);
        match *ask {
            Ask::Identify { within: time } => Box::pin(async move {
                let look = within(time, "identify the target", target.observe(crate::Look::quick())).await;
                Answer::Identified(look.map(|seen| seen.identity))
            }),
            Ask::Begin { intent, within } => Box::pin(self.begin(intent, within)),
            Ask::Append { lease, lines, within } => self.append(lease, lines, within),
            Ask::Observe { look, within: time } => {
                // What a plan, a write or the end rests on. Where the target keeps no trace, the spool may.
                let beside = !look.quick && !state.capabilities().keeps_trace;
                let call = within(time, "observe the target", target.observe(look));
                Box::pin(async move {
                    let mut answer = self.kept(None, call, Answer::Observed).await;
                    if let Answer::Observed(Ok(seen)) = &mut answer
                        && beside
                        && seen.trace.is_none()
                    {
                        seen.trace = self.trace_beside(Some(&seen.identity)).and_then(Result::ok).flatten();
                    }
                    answer
                })
            }
            Ask::Past { within } => Box::pin(self.past(within, state)),
            Ask::Plan(situation) => {
                Box::pin(async move { Answer::Planned(setup.strategy_of(target).plan(&situation)) })
            }
            Ask::Prepare { at, change, within: time } => Box::pin(async move {
                let work = self.work(Some(at), time, state);
                let policy = self.intent.policy.clone();
                // Once, before anything is touched.
                let first =
                    (at == At { rung: 0, step: 0 }).then(|| self.context(state, Duration::ZERO, time)).flatten();
                let call = within(time, "prepare the change", async {
                    let mut prepared = target.prepare(&change, &work).await?;
                    if let (Some(health), Some(context)) = (&setup.health, first) {
                        prepared.findings.extend(preflight(health, &context, &policy).await);
                    }
                    Ok(prepared)
                });
                self.kept(Some(&work), call, Answer::Prepared).await
            }),
            Ask::Approve { digest, of, within } => Box::pin(self.approve(digest, of, within)),
            Ask::Freeze { name, hold, within: time } => Box::pin(async move {
                let Some(freeze) = setup.freezes.iter().find(|f| f.name() == name) else {
                    return Answer::Froze(Err(no_such_freeze()));
                };
                if let Some(instead) = self.not_ours(state).await {
                    return instead;
                }
                self.kept(None, within(time, "freeze", freeze.freeze(&hold)), Answer::Froze).await
            }),
            Ask::Held { name, within: time } => Box::pin(async move {
                let Some(freeze) = setup.freezes.iter().find(|f| f.name() == name) else {
                    return Answer::Held(Err(no_such_freeze()));
                };
                self.kept(None, within(time, "ask who holds the freeze", freeze.held()), Answer::Held).await
            }),
            Ask::Try { since, within: time } => Box::pin(async move {
                let context = self.context(state, since, time);
                let (Some(trial), Some(context)) = (&setup.trial, context) else {
                    let missing = Error::new(Kind::NotFound, "try the release elsewhere");
                    return Answer::Tried(Err(missing.with_message("this program has no such trial").into_fault()));
                };
                let call = within(time, "try the release elsewhere", trial.verify(&context));
                self.kept(None, call, Answer::Tried).await
            }),
            Ask::Evidence { within, bytes } => Box::pin(self.evidence(within, bytes, state)),
            Ask::Apply { at, approved, token, trace, within } => {
                Box::pin(self.apply(at, approved, token, trace, within, state))
            }
            Ask::Check { part, since, within: time } => Box::pin(async move {
                let context = self.context(state, since, time);
                let (Some(health), Some(mut context)) = (&setup.health, context) else {
                    return Answer::Checked(Ok(Health::Unknown(vec![])));
                };
                context.part = Some(part);
                self.kept(None, within(time, "check the health", health.check(&context)), Answer::Checked).await
            }),
            Ask::Verify { nth, since, within: time } => Box::pin(async move {
                let context = self.context(state, since, time);
                let (Some(verifier), Some(context)) = (setup.verifiers.0.get(nth), context) else {
                    let missing =
                        Error::new(Kind::NotFound, "verify").with_message("this program has no such verifier");
                    return Answer::Verified(Err(missing.into_fault()));
                };
                self.kept(None, within(time, "verify", verifier.verify(&context)), Answer::Verified).await
            }),
            Ask::Sleep(time) => Box::pin(async move {
                self.keeping(None, Box::pin(tokio::time::sleep(time))).await;
                Answer::Woke
            }),
            Ask::Await(time) => Box::pin(self.waiting(time)),
            Ask::Finish(_) => Box::pin(async { Answer::Woke }),
        }
    }

    /// The answer of a call during which the lease is kept.
    async fn kept<T: Send>(
        &mut self,
        work: Option<&Work>,
        call: Call<'_, T>,
        answer: fn(Result<T, Fault>) -> Answer,
    ) -> Answer {
        self.keeping(work, call).await.map_or(Answer::Woke, answer)
    }

    async fn begin(&mut self, intent: Arc<Intent>, time: Duration) -> Answer {
        // Counted from the question: between the journal's answer and now the process may have stood still.
        self.kept_at = tokio::time::Instant::now();
        let begun = within(time, "begin a run in the journal", self.setup.journal.begin(&intent)).await;
        match &begun {
            Ok(Begun::Fresh { lease, replaced }) => {
                self.holding.lease = Some(lease.clone());
                self.replaced.clone_from(replaced);
            }
            Ok(Begun::Adopted { lease, lines, .. }) => {
                self.holding.lease = Some(lease.clone());
                self.lines = lines.clone();
            }
            Ok(Begun::Over { lines, .. }) => self.lines = lines.clone(),
            _ => {}
        }
        Answer::Begun(begun)
    }

    /// Until a look may show something new; but not without a pause, because what changes once often goes on changing.
    async fn waiting(&mut self, time: Duration) -> Answer {
        let mut nudges = self.nudges.take();
        let pause = nudges.as_ref().map_or(time, |_| time / 20);
        let wait = async {
            tokio::time::sleep(pause).await;
            if let Some(nudges) = &mut nudges {
                let _ = tokio::time::timeout(time.saturating_sub(pause), nudges.next()).await;
            }
        };
        self.keeping(None, Box::pin(wait)).await;
        self.nudges = nudges;
        Answer::Woke
    }

    /// What most of many runs wait in at any moment: one future, with nothing in it twice.
    fn append(&mut self, lease: Lease, lines: Arc<Vec<Line>>, time: Duration) -> Answering<'_> {
        Box::pin(async move {
            let began = tokio::time::Instant::now();
            let appended = match tokio::time::timeout(time, (*self.setup.journal).append(&lease, &lines)).await {
                Ok(appended) => fault(appended),
                Err(_) => Err(no_answer(time, "append to the journal")),
            };
            self.silent = appended.is_err() && began.elapsed() >= time;
            if appended.is_ok() {
                self.kept_at = began;
            }
            Answer::Appended(appended)
        })
    }

    async fn approve(&mut self, digest: Digest, of: Vec<String>, time: Duration) -> Answer {
        let Some(approver) = &self.setup.approver else {
            let nobody = Error::new(Kind::Invalid, "ask for approval")
                .with_message(format!("it takes an approval, and this program has nobody to ask: {}", of.join("; ")));
            return Answer::Approval(Err(nobody.into_fault()));
        };
        let request = ApprovalRequest::new(self.intent.run.clone(), self.intent.target.clone(), digest, of);
        let call = within(time, "ask for approval", approver.ask(&request));
        let Some(asked) = self.keeping(None, call).await else { return Answer::Woke };
        // Nobody said yes in all that time: asking once more would wait as long again.
        Answer::Approval(asked.map_err(|mut f| {
            f.transient = false;
            f
        }))
    }

    async fn evidence(&mut self, time: Duration, bytes: u64, state: &State) -> Answer {
        let target = self.target;
        let Some(source) = target.evidence() else { return Answer::Evidence(vec![], None) };
        let work = self.work(None, time, state);
        let call = source.collect(Bounds { time, bytes }, &work);
        let call = within(time, "collect evidence", call);
        let Some(kept) = self.keeping(Some(&work), call).await else { return Answer::Woke };
        // What was sealed before the time was over, or before it failed, is kept.
        let (kept, mut lost) = match kept {
            Ok(kept) => (kept, None),
            Err(fault) => (work.sealed(), Some(fault)),
        };
        if state.is_unjournalled()
            && let Err(fault) = within(time, "spool the evidence", self.spool_evidence(&kept, &work)).await
        {
            lost.get_or_insert(fault);
        }
        Answer::Evidence(kept, lost)
    }

    /// Before a write: the process may have stood still since the read that guards it, and another one may have taken over
    /// and be done. The journal says so. Where it must be there and says nothing, nobody knows whose the lease is, however long
    /// it would still last, because breaking the glass does not wait for its end: the write waits for the journal, as an
    /// append would. What is to be answered instead, if it must not be sent.
    async fn not_ours(&mut self, state: &State) -> Option<Answer> {
        let lease = self.holding.lease.clone().filter(|_| !state.is_unjournalled());
        let lease = lease.filter(|_| self.kept_at.elapsed() >= STILL_OURS)?;
        let (reply, asked) = (self.intent.policy.reply_within, tokio::time::Instant::now());
        match within(reply, "renew the lease", self.setup.journal.renew(&lease)).await {
            Ok(()) => self.kept_at = asked,
            Err(fault) if fault.kind == Kind::Conflict => {
                self.fenced = Some(Box::new(fault));
                return Some(Answer::Woke);
            }
            Err(fault) if self.intent.policy.journal == Support::Must => return Some(Answer::Appended(Err(fault))),
            Err(_) => {}
        }
        None
    }

    async fn apply(
        &mut self,
        at: At,
        approved: Arc<Approved>,
        token: Token,
        trace: Box<Trace>,
        time: Duration,
        state: &State,
    ) -> Answer {
        let (target, setup) = (self.target, self.setup);
        if let Some(instead) = self.not_ours(state).await {
            return instead;
        }
        if state.is_unjournalled() || self.intent.policy.take_over {
            let target = approved_target(state);
            self.spool(|spool, _| spool.leave(&target, state.identity(), &trace).map(|()| false));
        }
        let told = Arc::new(Mutex::new(None));
        let hear = told.clone();
        let work = self.work(Some(at), time, state).with_trace(Some(*trace)).with_progress(move |done, of| {
            if let Ok(mut progress) = hear.lock() {
                *progress = Some((done, of));
            }
        });
        let call = within(time, "make the change", target.apply(&approved, token, &work));
        let call = match setup.observers.is_empty() {
            true => call,
            false => Box::pin(self.telling(told).beside(call)),
        };
        self.keeping(Some(&work), call).await.map_or(Answer::Woke, Answer::Applied)
    }

    async fn past(&mut self, time: Duration, state: &State) -> Answer {
        const HISTORY: usize = 200;
        let target = self.target;
        let call = within(time, "read the history", target.history(HISTORY));
        let Some(history) = self.keeping(None, call).await else { return Answer::Woke };
        let history = match history {
            Ok(history) => history,
            Err(fault) => return Answer::Past(Err(fault), vec![]),
        };
        let mut past = Past { history, ..Past::default() };
        let mut lost = vec![];
        // Where the journal is known to be lost, asking it again would only cost time. A full disk can still be read.
        if self.silent {
            let why = "the journal did not answer before, and was not asked again";
            let silent = Error::new(Kind::Unavailable, "read the ledger").with_message(why).with_transient(false);
            lost.push((LEDGER.to_owned(), silent.into_fault()));
        } else if self.holding.lease.is_some() || self.intent.policy.dry_run {
            match within(time, "read the ledger", self.setup.journal.ledger(&self.intent.target)).await {
                Ok(ledger) => past.ledger = ledger,
                Err(fault) => lost.push((LEDGER.to_owned(), fault)),
            }
            // A dry run takes no lock, so it must look who has it.
            if self.intent.policy.dry_run {
                let mut query = RunQuery::of_target(&self.intent.target).with_limit(1);
                query.unfinished = true;
                match within(time, "read the unfinished runs", self.setup.journal.runs(&query)).await {
                    Ok(runs) => past.unfinished = runs.into_iter().next().map(Box::new),
                    Err(fault) => lost.push(("unfinished runs".to_owned(), fault)),
                }
            }
            // Where a suspect is named, it does not matter where another run was going. Without a lock, the one that has not
            // ended is what the order would go on with.
            let before = self.replaced.as_ref().or(past.unfinished.as_ref().map(|run| &run.run));
            if let Some(run) = before.filter(|_| self.intent.suspect.is_none()) {
                match within(time, "read the run that was taken over", self.setup.journal.read(run)).await {
                    Ok((_, lines)) => past.taken_over = goal(run, &lines),
                    Err(fault) => lost.push(("the run that was taken over".to_owned(), fault)),
                }
            }
            // What a budget is counted from; a person has none.
            let budget = self.intent.policy.ordered_by == crate::OrderedBy::Machine;
            // Where nothing was ever blamed, nobody got stuck on the way from it.
            let blamed = past.ledger.iter().any(|entry| entry.standing == Standing::Failed);
            let goes_on = self.intent.suspect.is_none() && blamed;
            if budget || goes_on {
                let query = RunQuery::of_target(&self.intent.target).with_limit(100);
                let recent = within(time, "read the recent runs", self.setup.journal.runs(&query)).await;
                let recent = recent.unwrap_or_else(|fault| {
                    lost.push(("recent runs".to_owned(), fault));
                    vec![]
                });
                let others = || recent.iter().filter(|run| run.run != self.intent.run);
                if budget {
                    past.recent = others().filter_map(|run| run.wrote).collect();
                }
                if let Some(run) = last_stuck(others()).filter(|_| goes_on) {
                    match within(time, "read the run that got stuck", self.setup.journal.read(run)).await {
                        Ok((_, lines)) => past.stuck = goal(run, &lines),
                        Err(fault) => lost.push(("the run that got stuck".to_owned(), fault)),
                    }
                }
            }
        }
        match self.trace_beside(state.identity()) {
            Some(Ok(trace)) => past.trace = trace,
            Some(Err(e)) if self.setup.spool.is_some() => lost.push(("trace in the spool".to_owned(), e.into_fault())),
            Some(Err(_)) | None => {}
        }
        Answer::Past(Ok(past), lost)
    }

    /// What broke the glass without a journal left its trace in the spool, and whoever comes next may have one.
    fn trace_beside(&self, object: Option<&crate::Identity>) -> Option<Result<Option<Trace>>> {
        let spool = self.setup.spool.clone().or_else(|| self.setup.default_spool())?;
        Some(spool.trace(&self.intent.target, object))
    }

    fn telling(&self, progress: Arc<Mutex<Option<(u64, u64)>>>) -> Telling {
        Telling {
            progress,
            observers: self.setup.observers.clone(),
            event: Event::new(
                self.intent.run.clone(),
                self.intent.target.clone(),
                self.clock.now().wall,
                EventKind::Progress { done: 0, of: 0 },
            ),
            clock: self.clock.clone(),
        }
    }
}

/// What keeps the health check from telling anything. At the glass nobody waits for it to be mended.
async fn preflight(health: &Arc<dyn HealthCheck>, context: &Context, policy: &Policy) -> Vec<Finding> {
    let mut found = match tokio::time::timeout(policy.check_within, health.preflight(context)).await {
        Ok(Ok(found)) => found,
        Ok(Err(e)) => vec![unknown_of(health, &e.to_string())],
        Err(_) => vec![unknown_of(health, &format!("no answer within {:?}", policy.check_within))],
    };
    if policy.take_over {
        for finding in &mut found {
            finding.severity = finding.severity.min(Severity::Warning);
        }
    }
    found
}

fn unknown_of(health: &Arc<dyn HealthCheck>, why: &str) -> Finding {
    let text = format!("whether {} can tell anything is not known yet: {why}", health.name());
    Finding::new(Severity::Note, "health-check", text)
}

fn no_such_freeze() -> Fault {
    let missing = Error::new(Kind::NotFound, "freeze").with_message("this program knows no such freeze");
    missing.without_effect().into_fault()
}

fn approved_target(state: &State) -> crate::TargetId {
    state.intent().map_or_else(|| crate::TargetId::new(""), |i| i.target.clone())
}

/// The last of these that began to write, if it got stuck, and none has reached its release since.
fn last_stuck<'a>(newest_first: impl Iterator<Item = &'a RunSummary>) -> Option<&'a crate::RunId> {
    const LATER: usize = 20;
    let reached = |run: &RunSummary| matches!(run.outcome, Some(Outcome::Recovered | Outcome::NotRecovered { .. }));
    let last = newest_first.take(LATER).find(|run| run.wrote.is_some() || reached(run));
    last.filter(|run| matches!(run.outcome, Some(Outcome::Stuck { .. }))).map(|run| &run.run)
}

/// Where a run was going, if it had begun to write.
fn goal(run: &crate::RunId, lines: &[Line]) -> Option<crate::Trace> {
    let at = lines.iter().find(|line| matches!(line.entry, crate::Entry::Doing { .. }))?.at;
    lines.iter().rev().find_map(|line| match &line.entry {
        crate::Entry::Chose(chosen) => {
            let (left, reached) = (chosen.suspect.clone(), chosen.wanted.id.clone());
            Some(crate::Trace { run: run.clone(), left, reached, at })
        }
        _ => None,
    })
}

/// An observer cannot fail a rollback, not even by panicking.
fn announce(observers: &[Arc<dyn Observer>], event: &Event) {
    for observer in observers {
        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| observer.on_event(event)));
    }
}

/// Passes the progress of a long write on to the observers, four times a second at the most.
struct Telling {
    progress: Arc<Mutex<Option<(u64, u64)>>>,
    observers: Vec<Arc<dyn Observer>>,
    event: Event,
    clock: Arc<dyn Clock>,
}
impl Telling {
    async fn beside<T>(mut self, mut call: Call<'_, T>) -> Result<T, Fault> {
        loop {
            tokio::select! {
                biased;
                out = &mut call => {
                    self.pass_on();
                    return out;
                }
                () = tokio::time::sleep(Duration::from_millis(250)) => self.pass_on(),
            }
        }
    }
    fn pass_on(&mut self) {
        let news = self.progress.lock().ok().and_then(|mut p| p.take());
        let Some((done, of)) = news else { return };
        self.event.at = self.clock.now().wall;
        self.event.kind = EventKind::Progress { done, of };
        announce(&self.observers, &self.event);
    }
}
