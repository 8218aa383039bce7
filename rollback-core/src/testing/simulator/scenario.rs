//! What one seed is about: the platform, the plan, the policy, who orders what, and what goes wrong.

use super::{
    SimOptions,
    fault::Fault,
    freeze::SimFreeze,
    journal::SimJournal,
    log::{Life, What},
    process::Ear,
    sim::{Event, Sim, Trigger},
    target::{SimHealth, SimTarget, SimVerifier},
};
use crate::{
    Approval, ApprovalRequest, Approver, Budget, Choose, Fencing, Journal, Landing, LedgerEntry, OnUnknown, OrderedBy,
    PartId, Policy, Release, ReleaseId, Result, RunId, Standing, Strategy, Support, Timestamp, Weight, Window, hours,
    minutes,
    rollback::Rollback,
    seconds,
    strategy::{BlueGreen, Canary, Direct, Ladder, Rolling},
    testing::fake::{Action, Bad, FakeParts, FakePlatform, Good, Quality},
};
use async_trait::async_trait;
use std::{sync::Arc, time::Duration};

/// What some seeds are about, so that what is rare by chance is not: drawn apart, so that it changes no other seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Theme {
    /// Whatever comes.
    Any,
    /// A pipeline would deploy again, and is to be frozen.
    Freeze,
    /// An abort that does not say where it lands, with more to do behind it, and somebody who deploys.
    Landing,
    /// Unhealthy, and then nobody can tell.
    Blind,
    /// What is said holds secrets.
    Secrets,
    /// Machines, and more than one order.
    Machines,
    /// The journal is out for longer than a lease, while processes stand still and somebody breaks the glass.
    Outage,
}

impl Theme {
    pub(super) fn of(rng: &mut fastrand::Rng) -> Self {
        match rng.u8(..40) {
            0..=9 => Theme::Freeze,
            10..=11 => Theme::Landing,
            12..=13 => Theme::Blind,
            14..=16 => Theme::Secrets,
            17 => Theme::Machines,
            18 => Theme::Outage,
            _ => Theme::Any,
        }
    }
}

/// Who wants a rollback, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    Person,
    Machine,
    BreakGlass,
    Rehearsal,
}

/// The orders of one controller, one after the other, the first one so late.
#[derive(Clone, Debug)]
pub(super) struct Controller {
    pub(super) begins: Duration,
    pub(super) orders: Vec<Order>,
}

#[derive(Clone, Debug)]
pub(super) enum Says {
    Yes,
    No,
    ToSomethingElse,
}

#[derive(Clone, Debug)]
pub(super) struct Scenario {
    pub(super) parts: FakeParts,
    pub(super) fencing: Fencing,
    pub(super) on_unknown: OnUnknown,
    pub(super) knows_keys: bool,
    pub(super) pieces: bool,
    pub(super) reversible: bool,
    pub(super) strategy: Arc<dyn Strategy>,
    pub(super) policy: Policy,
    choose: Choose,
    suspect: Option<ReleaseId>,
    pub(super) hold: Option<Duration>,
    checks_health: bool,
    approver: Option<Says>,
    pub(super) controllers: Vec<Controller>,
    pub(super) jumps: bool,
    /// What the ledger knows at the start, oldest first.
    known: Vec<(ReleaseId, Standing)>,
    theme: Theme,
    /// How often a pipeline looks that would deploy the bad release again. It is to be frozen.
    pub(super) deploys_again: Option<Duration>,
    /// What is said holds secrets.
    pub(super) secrets: bool,
}

fn pick<T: Clone>(rng: &mut fastrand::Rng, of: &[T]) -> T {
    of[rng.usize(..of.len())].clone()
}
fn one_in(rng: &mut fastrand::Rng, n: u32) -> bool {
    rng.u32(..n) == 0
}

impl Scenario {
    /// Everything that a seed decides.
    pub(super) fn of(rng: &mut fastrand::Rng, theme: Theme, of_theme: &mut fastrand::Rng) -> (Self, FakePlatform) {
        let parts = pick(
            rng,
            &[
                FakeParts::One,
                FakeParts::One,
                FakeParts::One,
                FakeParts::BlueGreen,
                FakeParts::BlueGreen,
                FakeParts::CanaryPair,
                FakeParts::CanaryPair,
                FakeParts::ByCapacity,
                FakeParts::PerRelease,
                FakeParts::Made,
            ],
        );
        let parts = if theme == Theme::Landing { FakeParts::One } else { parts };
        let fencing = pick(rng, &[Fencing::Token, Fencing::Token, Fencing::Enforced, Fencing::BestEffort]);
        let on_unknown = match fencing {
            // Sending again what may still be on its way is only safe behind a token.
            Fencing::BestEffort => pick(rng, &[OnUnknown::FindByKey, OnUnknown::Observe, OnUnknown::AskHuman]),
            _ => pick(rng, &[OnUnknown::Again, OnUnknown::FindByKey, OnUnknown::Observe, OnUnknown::AskHuman]),
        };
        let knows_keys = on_unknown == OnUnknown::FindByKey || rng.bool();
        let can_tell = on_unknown == OnUnknown::FindByKey || !one_in(rng, 3);
        let pieces = parts == FakeParts::One && one_in(rng, 5);
        let reversible = !one_in(rng, 16);
        let needs_approval = one_in(rng, 8);
        let older = if one_in(rng, 8) || theme == Theme::Blind { Bad } else { Good };
        let platform = platform(rng, parts, older, (fencing, knows_keys, can_tell, pieces));
        let platform = if reversible { platform } else { platform.irreversible() };
        let platform = if needs_approval { platform.needs_approval("may lose something") } else { platform };
        let platform = platform.on_unknown(on_unknown);
        let platform = match theme {
            Theme::Landing => platform.in_flight("0", "2", Landing::Unsaid),
            _ => platform,
        };
        let settle = seconds(pick(rng, &[45, 90, 180]));
        let hold = pick(rng, &[Duration::ZERO, seconds(4), seconds(12)]);
        let checks_health = !one_in(rng, 6);
        let policy = Policy::default()
            .with_deadline(minutes(rng.u64(2..9)))
            .with_reply_within(seconds(10))
            .with_check_within(seconds(5))
            .with_prepare_within(seconds(30))
            .with_approval_within(minutes(5))
            .with_budget(Budget { runs: rng.u32(1..3), window: hours(1) })
            .with_irreversible(!one_in(rng, 3))
            .with_floor(pick(rng, &[Weight::NONE, Weight::percent(50), Weight::percent(80), Weight::ALL]));
        let scenario = Self {
            parts,
            fencing,
            on_unknown,
            knows_keys,
            pieces,
            reversible,
            strategy: strategy(rng, parts, settle, hold),
            policy,
            choose: pick(
                rng,
                &[Choose::verified(), Choose::verified().or_previous(), Choose::previous(), Choose::exactly("1")],
            ),
            suspect: rng.bool().then(|| ReleaseId::from("2")),
            hold: (!one_in(rng, 4)).then(|| seconds(rng.u64(10..40))),
            checks_health,
            approver: match rng.u8(..8) {
                0 => Some(Says::No),
                1 => Some(Says::ToSomethingElse),
                2 => None,
                _ => Some(Says::Yes),
            },
            controllers: vec![],
            jumps: false,
            known: {
                let of = [Standing::Verified, Standing::Verified, Standing::Verified, Standing::Failed, Standing::Seen];
                vec![("0".into(), Standing::Verified), (pick(rng, &["0", "1", "1", "1"]).into(), pick(rng, &of))]
            },
            theme,
            deploys_again: None,
            secrets: theme == Theme::Secrets,
        };
        (scenario.themed(of_theme), platform)
    }

    fn themed(mut self, rng: &mut fastrand::Rng) -> Self {
        match self.theme {
            Theme::Freeze => {
                self.deploys_again = Some(seconds(rng.u64(5..30)));
                self.secrets = one_in(rng, 4);
                let freeze_for =
                    pick(rng, &[Some(hours(24)), Some(hours(24)), Some(seconds(60)), Some(seconds(15)), None]);
                let freeze = pick(rng, &[Support::Must, Support::Must, Support::IfThere]);
                self.policy = self.policy.with_freeze_for(freeze_for).with_freeze(freeze);
            }
            Theme::Landing => self.choose = Choose::exactly("1"),
            Theme::Blind => self.checks_health = true,
            Theme::Any | Theme::Secrets | Theme::Machines | Theme::Outage => {}
        }
        self
    }

    /// What goes wrong, and who else is there.
    pub(super) fn trouble(&mut self, sim: &Sim, options: &SimOptions, of_theme: &mut fastrand::Rng) {
        let shared = &mut *sim.shared();
        let rng = &mut shared.rng;
        let first = pick(
            rng,
            &[
                Order::Person,
                Order::Person,
                Order::Person,
                Order::Machine,
                Order::Machine,
                Order::BreakGlass,
                Order::Rehearsal,
            ],
        );
        let mut orders = vec![first];
        while one_in(rng, 3) {
            orders.push(pick(rng, &[Order::Person, Order::Machine, Order::Machine, Order::BreakGlass]));
        }
        match self.theme {
            Theme::Blind => orders[0] = Order::Person,
            Theme::Landing => orders[0] = pick(of_theme, &[Order::Person, Order::Machine]),
            Theme::Machines => orders = vec![Order::Machine; of_theme.usize(2..5)],
            Theme::Any | Theme::Freeze | Theme::Secrets | Theme::Outage => {}
        }
        self.controllers = vec![Controller { begins: Duration::ZERO, orders }];
        if options.without_faults {
            return;
        }
        match self.theme {
            Theme::Landing => {
                // Before what comes behind the abort.
                let deploy = Event::World(Fault::HumanDeploys, Action::Deploy("3".into()));
                shared.events.push((Trigger::Write(2), deploy));
            }
            Theme::Blind => {
                let (from, time) = (of_theme.u64(12..40), seconds(of_theme.u64(60..400)));
                shared.events.push((Trigger::Call(from), Event::Outage(Fault::MetricsDown, time)));
            }
            _ => {}
        }
        let by_chance = [
            (Fault::Crash, 25),
            (Fault::Kill, 15),
            (Fault::Pause, 10),
            (Fault::Transient, 120),
            (Fault::LostRequest, 250),
            (Fault::LostAnswer, 350),
            (Fault::LateEffect, 250),
            (Fault::LateAnswer, 80),
            (Fault::NoAnswer, 40),
            (Fault::Duplicate, 300),
            (Fault::Conflict, 300),
            (Fault::StaleRead, 250),
            (Fault::UnknownHealth, 250),
            (Fault::JournalFails, 80),
            (Fault::JournalLost, 120),
            (Fault::JournalSlow, 40),
            (Fault::JournalDamaged, 400),
        ];
        for _ in 0..rng.u32(3..10) {
            let (fault, rate) = pick(rng, &by_chance);
            shared.rates.insert(fault, rate);
        }
        if self.fencing == Fencing::BestEffort && !self.knows_keys {
            // Nothing on such a platform tells a copy from a new write: promised by nobody.
            shared.rates.remove(&Fault::Duplicate);
        }
        shared.left = rng.u32(4..24);
        for _ in 0..pick(rng, &[0, 0, 1, 1, 2, 3]) {
            let trigger = if rng.bool() { Trigger::Write(rng.u64(1..6)) } else { Trigger::Call(rng.u64(6..90)) };
            for (later, event) in event(rng, self.parts) {
                self.jumps |= matches!(event, Event::Jump(_));
                let trigger = match trigger {
                    Trigger::Call(n) => Trigger::Call(n + later),
                    Trigger::Write(n) => Trigger::Write(n + later / 12),
                };
                shared.events.push((trigger, event));
            }
        }
        if one_in(rng, 3) {
            let orders = vec![pick(rng, &[Order::Person, Order::Machine, Order::BreakGlass, Order::BreakGlass])];
            self.controllers.push(Controller { begins: Duration::from_millis(rng.u64(0..60_000)), orders });
        }
        if self.theme == Theme::Outage {
            let (from, time) = (of_theme.u64(8..50), seconds(of_theme.u64(40..200)));
            shared.events.push((Trigger::Call(from), Event::Outage(Fault::DiskFull, time)));
            shared.rates.extend([(Fault::Pause, 40), (Fault::Kill, 25)]);
            let orders = vec![pick(of_theme, &[Order::BreakGlass, Order::BreakGlass, Order::Person])];
            self.controllers.push(Controller { begins: seconds(of_theme.u64(5..120)), orders });
        }
    }

    /// What the ledger knows at the start.
    pub(super) async fn remember(&self, sim: &Sim) {
        let mut at = Timestamp(1_759_990_000_000);
        for (release, standing) in &self.known {
            let entry = LedgerEntry::new(Release::new(release), *standing, at, "imported");
            let _ = sim.journal.mark(crate::Target::id(&sim.platform), &entry).await;
            at = at.after(hours(1));
        }
    }
    pub(super) fn ledger_at_start(&self) -> Vec<(ReleaseId, Standing)> {
        self.known.clone()
    }

    /// The rollback that one order of one process is.
    pub(super) fn rollback(&self, sim: &Sim, life: Life, order: Order, run: &RunId, options: &SimOptions) -> Rollback {
        let policy = self.policy_of(order);
        sim.note(life, What::Started { run: run.clone(), order, policy: Box::new(policy.clone()) });
        let health = SimHealth { sim: sim.clone(), life };
        let runs = SimVerifier {
            health: health.clone(),
            window: Window::default().with_within(seconds(60)),
            of_health: false,
        };
        let mut verifiers = crate::Verifiers::from(runs);
        if let Some(hold) = self.hold {
            let window = Window::default().with_hold(hold).with_within(seconds(60)).with_every(seconds(5));
            verifiers = verifiers.and(SimVerifier { health: health.clone(), window, of_health: true });
        }
        let mut rollback = Rollback::of(SimTarget { sim: sim.clone(), life })
            .because("simulated")
            .to(self.choose.clone())
            .using(self.strategy.clone())
            .recovered_when(verifiers)
            .journal(SimJournal { sim: sim.clone(), life })
            .run_id(run)
            .ordered_by("the simulator")
            .clock(sim.clone())
            .policy(policy);
        if order == Order::BreakGlass {
            // A spool that takes nothing: what it would keep is lost, and must be said.
            rollback = rollback.spool("/dev/null/rollback");
        }
        if self.deploys_again.is_some() {
            rollback = rollback.freezing(SimFreeze { sim: sim.clone(), life });
        }
        if self.secrets {
            rollback = rollback.observer(Ear { sim: sim.clone(), life });
        }
        if let Some(suspect) = &self.suspect {
            rollback = rollback.blaming(suspect);
        }
        if self.checks_health {
            rollback = rollback.healthy_when(health);
        }
        if let Some(says) = &self.approver {
            rollback = rollback.approved_by(SimApprover { sim: sim.clone(), life, says: says.clone() });
        }
        plant(rollback, options)
    }

    pub(super) fn policy_of(&self, order: Order) -> Policy {
        let policy = self.policy.clone();
        match order {
            Order::Person => policy,
            Order::Machine => policy.with_ordered_by(OrderedBy::Machine),
            Order::Rehearsal => policy.with_dry_run(true),
            Order::BreakGlass => {
                let (lease, freeze_for) = (policy.lease, policy.freeze_for);
                let glass = Policy::break_glass().with_irreversible(policy.irreversible).with_freeze_for(freeze_for);
                glass.with_poll(policy.poll).with_lease(lease)
            }
        }
    }
    pub(super) fn checks_health(&self) -> bool {
        self.checks_health
    }
    pub(super) fn verifiers(&self) -> usize {
        1 + usize::from(self.hold.is_some())
    }
}

#[cfg(feature = "planted-bugs")]
fn plant(rollback: Rollback, options: &SimOptions) -> Rollback {
    match options.bug {
        Some(bug) => rollback.plant(bug),
        None => rollback,
    }
}
#[cfg(not(feature = "planted-bugs"))]
fn plant(rollback: Rollback, _: &SimOptions) -> Rollback {
    rollback
}

fn platform(
    rng: &mut fastrand::Rng,
    parts: FakeParts,
    older: Quality,
    (fencing, knows_keys, can_tell, pieces): (Fencing, bool, bool, bool),
) -> FakePlatform {
    let mut platform = FakePlatform::new()
        .with_object("uid-1")
        .called("fake:sim")
        .parts(parts)
        .fencing(fencing)
        .knows_keys(knows_keys)
        .can_tell(can_tell)
        .holds_trace(!one_in(rng, 4))
        .settles_after(seconds(pick(rng, &[0, 0, 3, 9, 20])))
        .release("0", Good)
        .release("1", older)
        .release("2", Bad)
        .live("2");
    if pieces {
        platform = platform.partial(rng.u64(2..5));
    } else if parts == FakeParts::One && one_in(rng, 8) {
        platform = platform.identity_changes();
    }
    if rng.bool() {
        platform = platform.renumbers();
    }
    if one_in(rng, 3) {
        platform = platform.paces_itself();
    }
    if one_in(rng, 16) {
        platform = platform.never_settles("the image is gone");
    }
    let percent = |n| Some(Weight::percent(n));
    match parts {
        FakeParts::One if rng.bool() => {
            let landing =
                pick(rng, &[Landing::On("1".into()), Landing::On("0".into()), Landing::Unsaid, Landing::Unsaid]);
            platform.in_flight("1", "2", landing)
        }
        FakeParts::One if rng.bool() => platform.on("all", "2", None, Some(3)),
        FakeParts::BlueGreen => match rng.u8(..3) {
            0 => platform,
            1 => platform.on("blue", "1", percent(0), Some(3)),
            _ => platform.on("blue", "0", percent(0), Some(1)),
        },
        FakeParts::CanaryPair => match rng.u8(..3) {
            0 => platform.on("canary", "2", percent(30), Some(2)).on("stable", "1", percent(70), Some(4)),
            1 => platform.on("canary", "1", percent(0), Some(1)),
            _ => platform.on("canary", "0", percent(0), Some(0)),
        },
        FakeParts::ByCapacity => match rng.u8(..3) {
            0 => platform.on("canary", "2", None, Some(2)).on("stable", "1", None, Some(4)),
            1 => platform.on("canary", "1", None, Some(0)),
            _ => platform,
        },
        _ => platform,
    }
}

fn strategy(rng: &mut fastrand::Rng, parts: FakeParts, settle: Duration, hold: Duration) -> Arc<dyn Strategy> {
    let direct = Direct::default().with_settle_within(settle).with_hold(hold);
    let blue_green = BlueGreen::default()
        .with_settle_within(settle)
        .with_hold(hold)
        .with_drain(seconds(5))
        .with_empty_bad(rng.bool());
    let canary = Canary::default().with_settle_within(settle).with_hold(hold).with_pause(seconds(rng.u64(0..10)));
    let rolling = Rolling::default().with_settle_within(settle).with_hold(hold);
    let last = Direct::default().with_settle_within(settle).with_in_place(true);
    let nth = rng.u8(..5);
    if nth == 0 {
        let ladder = Ladder::new().rung(canary, Weight::ALL).rung(blue_green, Weight::percent(80));
        return Arc::new(ladder.rung(direct, Weight::NONE).rung(last, Weight::NONE).then_page("page someone"));
    }
    match (parts, nth) {
        (FakeParts::One, 1) => Arc::new(Ladder::new().rung(rolling, Weight::ALL).rung(direct, Weight::NONE)),
        (FakeParts::BlueGreen | FakeParts::Made, 1 | 2) => Arc::new(blue_green),
        (FakeParts::CanaryPair | FakeParts::ByCapacity | FakeParts::PerRelease, 1 | 2) => Arc::new(canary),
        _ => Arc::new(direct),
    }
}

fn event(rng: &mut fastrand::Rng, parts: FakeParts) -> Vec<(u64, Event)> {
    let outage = |rng: &mut fastrand::Rng, fault| Event::Outage(fault, seconds(rng.u64(5..90)));
    let deploy = |fault, release: &str| Event::World(fault, Action::Deploy(release.into()));
    let event = match rng.u8(..15) {
        0 => deploy(Fault::HumanDeploys, "3"),
        1 => Event::World(Fault::HumanEdits, Action::Edit),
        2 => deploy(Fault::HumanRestores, pick(rng, &["1", "2", "0"])),
        3 => return (0..rng.u64(2..5)).map(|n| (n * 12, deploy(Fault::GitOps, "2"))).collect(),
        4 => Event::World(Fault::Recreated, Action::Recreate),
        5 => Event::World(Fault::Collected, Action::Collect("1".into())),
        6 | 7 => {
            let part = match parts {
                FakeParts::BlueGreen => pick(rng, &["blue", "green"]),
                FakeParts::CanaryPair | FakeParts::ByCapacity => pick(rng, &["stable", "canary"]),
                FakeParts::Made => pick(rng, &["first", "with-1"]),
                _ => "all",
            };
            Event::World(Fault::InstancesDie, Action::Ail(PartId::from(part), rng.u32(..2), seconds(rng.u64(5..60))))
        }
        8 => outage(rng, Fault::PlatformDown),
        9 => outage(rng, Fault::MetricsDown),
        10 | 11 => outage(rng, Fault::DiskFull),
        12 => Event::Outage(Fault::Denied, seconds(rng.u64(2..20))),
        _ => Event::Jump(if rng.bool() { 3_600_000 } else { -3_600_000 }),
    };
    vec![(0, event)]
}

/// Someone who says yes, no, or yes to something else.
#[derive(Clone, Debug)]
struct SimApprover {
    sim: Sim,
    life: Life,
    says: Says,
}

#[async_trait]
impl Approver for SimApprover {
    async fn ask(&self, request: &ApprovalRequest) -> Result<Option<Approval>> {
        tokio::time::sleep(self.sim.millis(100..20_000)).await;
        let yes = |digest: crate::Digest| Some(Approval { digest, by: "someone".into() });
        Ok(match self.says {
            Says::Yes => {
                self.sim.note(self.life, What::Approved { digest: request.digest.clone() });
                yes(request.digest.clone())
            }
            Says::No => None,
            Says::ToSomethingElse => yes("sha256:another".into()),
        })
    }
}
