//! The emergency ladder: what people do by hand when the rollback did not help, one way after the other.
//!
//! Not here: how a way is carried out. Each rung is a strategy of the core, or a verb that the target declares.

use crate::{BlueGreenService, CanaryPair, DaemonSet, Deployment, StatefulSet, deployment::DELETE_BAD_PODS};
use rollback_core::{
    Plan, Release, Situation, Strategy, Unplannable, Weight, minutes,
    strategy::{BlueGreen, Direct, Ladder, Restart, Verb},
};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// The verb of the last rung that is not a person.
const FAIL_OVER: &str = "fail-over";

/// A rung of an [`EmergencyLadder`], in its order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum EmergencyRung {
    /// The bad workload back to the wanted release, where it is.
    Undo,
    /// The wanted release with other images: [`Deployment::with_image`].
    Image,
    /// The side that has the wanted release up, all of the traffic to it, the bad side down to nothing.
    Stable,
    /// The pods of the bad release are deleted; on a node that is lost, out of the API.
    DeletePods,
    /// All pods gone, and as many started as there were.
    Restart,
    /// A command of yours: [`WithVerb`](rollback_core::wrap::WithVerb) with the verb `fail-over`.
    FailOver,
}

use EmergencyRung::{DeletePods, FailOver, Image, Restart as Anew, Stable, Undo};

impl EmergencyRung {
    /// Its name in plans and reports.
    pub fn name(self) -> &'static str {
        match self {
            Undo => "undo",
            Image => "explicit image",
            Stable => "all to stable",
            DeletePods => DELETE_BAD_PODS,
            Anew => "restart",
            FailOver => FAIL_OVER,
        }
    }
    /// What goes on serving if nothing else is said: the more is broken already, the less there is to keep.
    fn floor(self) -> Weight {
        match self {
            Undo => Weight::percent(80),
            Image | Stable => Weight::percent(50),
            DeletePods | Anew | FailOver => Weight::NONE,
        }
    }
}

/// A target of this crate that an [`EmergencyLadder`] knows its way about.
pub trait Emergency: sealed::Sealed {
    /// The workload whose images may be set.
    #[doc(hidden)]
    fn with_images(&self) -> Option<Deployment> {
        None
    }
}
mod sealed {
    pub trait Sealed {}
}
macro_rules! emergencies {
    ($($target:ty),*) => { $(
        impl sealed::Sealed for $target {}
        impl Emergency for $target {}
    )* };
}
emergencies!(BlueGreenService, CanaryPair, DaemonSet, StatefulSet);
impl sealed::Sealed for Deployment {}
impl Emergency for Deployment {
    fn with_images(&self) -> Option<Deployment> {
        Some(self.clone())
    }
}

/// The way back for when the rollback itself does not help: one rung after the other, each verified before it counts, until
/// one recovers; after the last a person is paged.
///
/// | rung | what it does | of which targets | what goes on serving |
/// |---|---|---|---|
/// | [`Undo`](EmergencyRung::Undo) | the bad workload back to the wanted release, where it is | all | 80 % |
/// | [`Image`](EmergencyRung::Image) | the wanted release with the images of [`Deployment::with_image`] | `Deployment` | 50 % |
/// | [`Stable`](EmergencyRung::Stable) | the good side up, the traffic to it, the bad side to nothing | `BlueGreenService`, `CanaryPair` | 50 % |
/// | [`DeletePods`](EmergencyRung::DeletePods) | pods of the bad release are deleted, those on a lost node too | `Deployment` | nothing |
/// | [`Restart`](EmergencyRung::Restart) | to no replicas, and back to as many as there were | `Deployment`, `BlueGreenService`, `CanaryPair` | nothing |
/// | [`FailOver`](EmergencyRung::FailOver) | a command of yours | what [`WithVerb`](rollback_core::wrap::WithVerb) wraps | nothing |
///
/// A StatefulSet is not restarted: under `OrderedReady` its controller does not scale down past a second broken pod, and where
/// `persistentVolumeClaimRetentionPolicy.whenScaled` is `Delete` its data would go. A DaemonSet has no replicas to take away.
///
/// A rung that this target has no way for is left out, and the plan says why. The next one begins when a rung settled
/// without helping (a verifier's window is over), when it will not settle (a pod that cannot start says so at once), or when
/// its time is over. It is a [`Ladder`] of the core, so all else holds: journalled, resumable, shown before.
///
/// A `fail-over` takes users elsewhere; the target here may be as broken as before, and then the run ends as not recovered
/// and pages: somebody has to mend it.
///
/// # Permissions
/// Those that the target names: of a [`Deployment`](crate::Deployment) also those for its verb `delete-bad-pods`. Where one is missing
/// before anything was changed, the whole run is refused, and names it; later on, such a rung has failed, and the next one
/// begins.
///
/// ```no_run
/// use rollback_core::{prelude::*, wrap::WithVerb};
/// use rollback_k8s::{Cluster, EmergencyLadder, EmergencyRung};
/// # async fn emergency(cluster: Cluster) -> Result<()> {
/// let checkout = cluster.deployment("shop", "checkout").with_image("app", "registry.shop/checkout:2.3.9");
/// let ladder = EmergencyLadder::of(&checkout)
///     .with_floor(EmergencyRung::Undo, Weight::percent(50))
///     .with_settle_within(minutes(2))
///     .then_page("page payments on call: all of checkout is down, and nothing brought it back");
/// let health = checkout.checks().through_api(rollback_core::health::Http::at_each_part("/health")?);
/// let checkout = WithVerb::new(checkout, "fail-over", ["/usr/local/bin/fail-over", "checkout", "eu-2"]);
/// let report = Rollback::of(checkout)
///     .using(ladder)
///     .healthy_when(health)
///     .journal(SqliteJournal::open("/var/lib/rollback.db"))
///     .break_glass("paged: checkout answers nobody")
///     .await;
/// println!("{report}");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct EmergencyLadder {
    images: Option<Deployment>,
    floors: BTreeMap<EmergencyRung, Weight>,
    settle_within: Duration,
    page: Option<String>,
}

impl EmergencyLadder {
    /// For this target: give [`Rollback::of`](rollback_core::Rollback::of) the very same, or a clone of it.
    pub fn of(target: &impl Emergency) -> Self {
        let rungs = [Undo, Image, Stable, DeletePods, Anew, FailOver];
        Self {
            images: target.with_images(),
            floors: rungs.map(|rung| (rung, rung.floor())).into(),
            settle_within: minutes(3),
            page: None,
        }
    }
    /// The share of the capacity found at the start that goes on serving while a rung is carried out. Default: see the table.
    pub fn with_floor(mut self, rung: EmergencyRung, floor: Weight) -> Self {
        self.floors.insert(rung, floor);
        self
    }
    /// Without this rung.
    pub fn without(mut self, rung: EmergencyRung) -> Self {
        self.floors.remove(&rung);
        self
    }
    /// How long each step of each rung may take to settle, and its gates to open, before the next rung. Default: 3 min.
    pub fn with_settle_within(mut self, time: Duration) -> Self {
        self.settle_within = time;
        self
    }
    /// Whom to page when nothing helped, and what to tell them.
    pub fn then_page(mut self, page: impl Into<String>) -> Self {
        self.page = Some(page.into());
        self
    }

    /// The same as a [`Ladder`] of the core, to add rungs of your own to.
    pub fn ladder(&self) -> Ladder {
        let ladder = self.floors.iter().fold(Ladder::new(), |ladder, (rung, floor)| {
            ladder.rung(Named { name: rung.name(), strategy: self.strategy(*rung) }, *floor)
        });
        match &self.page {
            Some(page) => ladder.then_page(page),
            None => ladder,
        }
    }

    fn strategy(&self, rung: EmergencyRung) -> Arc<dyn Strategy> {
        let within = self.settle_within;
        match rung {
            Undo => Arc::new(Direct::default().with_in_place(true).with_settle_within(within)),
            Image => Arc::new(SetImages { of: self.images.clone(), settle_within: within }),
            Stable => Arc::new(
                BlueGreen::default()
                    .with_hold(Duration::ZERO)
                    .with_drain(Duration::ZERO)
                    .with_empty_bad(true)
                    .with_settle_within(within),
            ),
            DeletePods => Arc::new(Verb::named(DELETE_BAD_PODS).with_settle_within(within)),
            Anew => Arc::new(Restart::default().with_settle_within(within)),
            FailOver => Arc::new(Verb::named(FAIL_OVER).with_settle_within(within).with_gated(false)),
        }
    }
}

impl Strategy for EmergencyLadder {
    fn name(&self) -> String {
        let names: Vec<_> = self.floors.keys().map(|rung| rung.name()).collect();
        format!("emergency ladder({})", names.join(", "))
    }
    fn plan(&self, situation: &Situation) -> Result<Plan, Unplannable> {
        self.ladder().plan(situation)
    }
}

/// A strategy under the name that people call it by here.
#[derive(Debug)]
struct Named {
    name: &'static str,
    strategy: Arc<dyn Strategy>,
}

impl Strategy for Named {
    fn name(&self) -> String {
        self.name.into()
    }
    fn plan(&self, situation: &Situation) -> Result<Plan, Unplannable> {
        let named = |no: Unplannable| Unplannable { strategy: self.name.into(), ..no };
        let mut plan = self.strategy.plan(situation).map_err(named)?;
        plan.rungs.iter_mut().for_each(|rung| rung.name = self.name.into());
        Ok(plan)
    }
}

/// The wanted release with other images. Which release that is follows from its template alone, which never changes: the
/// same situation gives the same plan, once the template was seen.
#[derive(Debug)]
struct SetImages {
    of: Option<Deployment>,
    settle_within: Duration,
}

impl Strategy for SetImages {
    fn name(&self) -> String {
        Image.name().into()
    }
    fn plan(&self, situation: &Situation) -> Result<Plan, Unplannable> {
        let no = |why: String| Unplannable { strategy: self.name(), why };
        let of = self.of.as_ref().ok_or_else(|| no("only a Deployment's images can be set".into()))?;
        let made = of.with_named_images(&situation.wanted.id).map_err(no)?;
        let mut other = situation.clone();
        other.wanted = Release::new(made).with_label(format!("{} with other images", situation.wanted.label));
        let direct = Direct::default().with_in_place(true).with_settle_within(self.settle_within);
        let mut plan = direct.plan(&other)?;
        // The run goes where it was told to go; this is a way to get something that works.
        plan.wanted.clone_from(&situation.wanted.id);
        Ok(plan)
    }
}

#[cfg(test)]
mod tests;
