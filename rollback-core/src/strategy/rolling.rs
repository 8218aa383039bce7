//! A few places at a time.

use super::{
    Strategy, Unplannable,
    view::{Opening, View, meant_to_serve},
};
use crate::{Pacing, PartId, PartState, Parts, Plan, Running, Situation, minutes, seconds};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, time::Duration};

/// How many places.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Batch {
    /// So many.
    Count(u32),
    /// So many per cent of those that are meant to serve: rounded down, but at least one.
    Percent(u16),
}

impl Batch {
    /// So many of `places`.
    ///
    /// ```
    /// use rollback_core::strategy::Batch;
    /// assert_eq!(Batch::Percent(25).of(10), 2);
    /// assert_eq!(Batch::Percent(25).of(2), 1);
    /// ```
    pub fn of(self, places: usize) -> usize {
        match self {
            Batch::Count(n) => n as usize,
            Batch::Percent(percent) => (places * usize::from(percent.min(100)) / 100).max(1),
        }
    }
}

/// The wanted release onto the bad places a few at a time, in batches that leave enough of them serving; places that serve
/// nobody come first, because they cost nothing. A platform that paces itself is told once, and paces.
///
/// While a place is set back, it counts as not serving. Refused where even one place would be too many.
///
/// ```
/// use rollback_core::{
///     Capabilities, Fencing, Identity, Observation, PartState, Parts, Release, Situation, Strategy, Token, Weights,
///     strategy::{Batch, Rolling},
/// };
/// let hosts = ["a", "b", "c", "d"].map(|host| (host.into(), PartState::of("2.4.0")));
/// let now = Observation::new(Identity::new("rack", "7"), hosts, Token::none());
/// let capabilities = Capabilities::new(Fencing::Token).with_parts(Parts::Places, Weights::None);
/// let situation = Situation::new("hosts:shop".into(), capabilities, now, "2.4.0", Release::new("2.3.9"));
/// let rolling = Rolling::default().with_batch(Batch::Count(2)).with_max_unavailable(Batch::Percent(50));
/// let names: Vec<_> = rolling.plan(&situation)?.rungs[0].steps.iter().map(|step| step.name.clone()).collect();
/// assert_eq!(names, ["a, b back to 2.3.9", "c, d back to 2.3.9"]);
/// # Ok::<(), rollback_core::Unplannable>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Rolling {
    /// How many places are set back at once. Default: 25 %.
    pub batch: Batch,
    /// How many places may be out at once, those that are out already counted. Default: 25 %.
    pub max_unavailable: Batch,
    /// How long each batch may take to settle. Default: 10 min.
    pub settle_within: Duration,
    /// How long every place of a batch must be healthy before the next. Default: 10 s.
    pub hold: Duration,
    /// How long to wait after that, before the next. Default: not at all.
    pub pause: Duration,
}

impl Default for Rolling {
    fn default() -> Self {
        Self {
            batch: Batch::Percent(25),
            max_unavailable: Batch::Percent(25),
            settle_within: minutes(10),
            hold: seconds(10),
            pause: Duration::ZERO,
        }
    }
}

impl Rolling {
    /// How many places are set back at once.
    pub fn with_batch(mut self, batch: Batch) -> Self {
        self.batch = batch;
        self
    }
    /// How many places may be out at once.
    pub fn with_max_unavailable(mut self, max_unavailable: Batch) -> Self {
        self.max_unavailable = max_unavailable;
        self
    }
    /// How long each batch may take to settle.
    pub fn with_settle_within(mut self, time: Duration) -> Self {
        self.settle_within = time;
        self
    }
    /// How long every place of a batch must be healthy before the next.
    pub fn with_hold(mut self, hold: Duration) -> Self {
        self.hold = hold;
        self
    }
    /// How long to wait before the next batch.
    pub fn with_pause(mut self, pause: Duration) -> Self {
        self.pause = pause;
        self
    }

    fn batches<'a>(&self, view: &View<'a>) -> Result<Vec<Vec<&'a PartId>>, Unplannable> {
        let mut places = Places::of(view);
        let (batch, most_out) = (self.batch.of(places.up.len()), self.max_unavailable.of(places.up.len()));
        let mut left = view.bad.clone();
        // Stable: the same order in every plan.
        left.sort_by_key(|id| places.up.get(id) != Some(&0));
        let mut batches = vec![];
        while !left.is_empty() {
            let fits = places.take(&mut left, batch, most_out);
            if fits.is_empty() {
                return view.refuse(format!(
                    "setting back one place at a time would already be too much: {} of {} places are out, at most \
                     {most_out} may be, in batches of {batch}; and {} of {} must go on serving",
                    places.out(),
                    places.up.len(),
                    places.floor,
                    places.all,
                ));
            }
            for id in &fits {
                places.set_back(id);
            }
            batches.push(fits);
        }
        Ok(batches)
    }
}

/// The places that are meant to serve, with how much each does: in instances, or one each where those are not known.
struct Places<'a> {
    up: BTreeMap<&'a PartId, u32>,
    full: BTreeMap<&'a PartId, u32>,
    all: u32,
    floor: u32,
}

impl<'a> Places<'a> {
    fn of(view: &View<'a>) -> Self {
        let parts = || view.situation.now.parts.iter().filter(|(_, part)| meant_to_serve(part));
        let counted = parts().all(|(_, part)| part.capacity.is_some());
        let full = |part: &PartState| part.capacity.filter(|_| counted).unwrap_or(1);
        let up = |part: &PartState| match (&part.running, part.ready) {
            (Running::Nothing, _) | (_, Some(0)) => 0,
            (_, Some(ready)) if counted => ready,
            _ => full(part),
        };
        let all = parts().map(|(_, part)| full(part)).sum();
        Self {
            up: parts().map(|(id, part)| (id, up(part))).collect(),
            full: parts().map(|(id, part)| (id, full(part))).collect(),
            all,
            floor: view.situation.floor.of(all),
        }
    }

    fn out(&self) -> usize {
        self.up.values().filter(|up| **up == 0).count()
    }

    /// Takes as many from the front of `left` as may be out at once.
    fn take(&self, left: &mut Vec<&'a PartId>, batch: usize, most_out: usize) -> Vec<&'a PartId> {
        let (mut serving, mut out, mut taken) = (self.up.values().sum::<u32>(), self.out(), vec![]);
        left.retain(|id| {
            let up = self.up.get(id).copied().unwrap_or(0);
            let fits = taken.len() < batch && (up == 0 || (out < most_out && serving - up >= self.floor));
            if fits {
                serving -= up;
                out += usize::from(up > 0);
                taken.push(*id);
            }
            !fits
        });
        taken
    }

    fn set_back(&mut self, id: &'a PartId) {
        if let Some(full) = self.full.get(id) {
            self.up.insert(id, *full);
        }
    }
}

impl Strategy for Rolling {
    fn name(&self) -> String {
        "rolling".into()
    }

    fn plan(&self, situation: &Situation) -> Result<Plan, Unplannable> {
        let view = View::of(situation, "rolling", self.settle_within, self.hold)?;
        let mut steps = match view.opening()? {
            Opening::Whole(plan) => return Ok(plan),
            Opening::First(steps) => steps,
        };
        let capabilities = &situation.capabilities;
        match (capabilities.pacing, capabilities.parts) {
            (_, Parts::PerRelease) => return view.refuse("every release is a part here: only traffic can be moved"),
            (Pacing::Platform, _) => steps.extend(view.each_in_place()?),
            (Pacing::Us, Parts::Places) => {
                let batches = self.batches(&view)?;
                let last = batches.len();
                for (i, batch) in batches.into_iter().enumerate() {
                    let mut step = [view.in_place(&batch)?];
                    if i + 1 < last {
                        view.pause_after(&mut step, self.pause);
                    }
                    steps.extend(step);
                }
            }
            (Pacing::Us, Parts::One | Parts::Made) => {
                return view
                    .refuse("there are no places to go through one by one, and the platform does not pace itself");
            }
        }
        view.plan(steps)
    }
}
