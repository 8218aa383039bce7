//! What an observation says of a change: pure judgements, which the machine's decisions rest on.

use crate::{
    Capacity, Change, DiffLine, Landing, Observation, PartId, PartMap, PartState, Plan, ReleaseId, Running, Settled,
    Weight, change::Shape,
};
use std::collections::BTreeMap;

/// The change has happened, and what runs is what was wished. Never true of a verb: only its own answer tells.
pub(super) fn satisfied(change: &Change, seen: &Observation) -> bool {
    match change {
        Change::Reach(shape) => shape.0.iter().all(|(id, wish)| match seen.parts.get(id) {
            // A part that is gone serves nothing and has nothing.
            None => {
                wish.release.is_none()
                    && wish.weight.is_none_or(|w| w == Weight::NONE)
                    && wish.capacity.is_none_or(|c| c.count() == 0)
            }
            Some(part) => {
                let gone = wish.capacity == Some(Capacity::Exactly(0)) && wish.release.is_none();
                part.settled == Settled::Yes
                    && wish.release.as_ref().is_none_or(|release| runs(part, release))
                    && wish.weight.is_none_or(|w| part.weight == Some(w))
                    && wish.capacity.is_none_or(|c| match c {
                        Capacity::Exactly(0) if gone => part.capacity == Some(0) && part.ready.is_none_or(|n| n == 0),
                        Capacity::Exactly(n) => part.capacity == Some(n) && part.ready.is_none_or(|ready| ready >= n),
                        Capacity::AtLeast(n) => part.ready.or(part.capacity).is_some_and(|ready| ready >= n),
                    })
            }
        }),
        Change::Halt => seen.in_flight.is_none(),
        Change::Abort { expect, never } => {
            seen.in_flight.is_none()
                && seen.serving().all(|(_, part)| {
                    part.settled == Settled::Yes
                        && match (&part.running, expect) {
                            (Running::Release(release), Landing::On(expected)) => release == expected,
                            (Running::Release(release), Landing::Unsaid) => release != never,
                            _ => false,
                        }
                })
        }
        Change::Verb { .. } => false,
    }
}

/// What every part runs, or would: where an abort landed, once that is satisfied.
pub(super) fn landed(seen: &Observation) -> PartMap<ReleaseId> {
    let on = |part: &PartState| match &part.running {
        Running::Release(release) => Some(release.clone()),
        _ => part.wanted.clone(),
    };
    seen.parts.iter().filter_map(|(id, part)| Some((id.clone(), on(part)?))).collect()
}

/// It runs the release; or, told to have no instance, would.
fn runs(part: &PartState, release: &ReleaseId) -> bool {
    part.runs(release)
        || (part.capacity == Some(0) && part.running == Running::Nothing && part.wanted.as_ref() == Some(release))
}

/// The target was told to, whether or not it is there yet.
pub(super) fn told(change: &Change, seen: &Observation) -> bool {
    match change {
        Change::Reach(shape) => shape.0.iter().all(|(id, wish)| {
            seen.parts.get(id).is_some_and(|part| {
                wish.release.as_ref().is_none_or(|release| part.wanted.as_ref() == Some(release))
                    && wish.weight.is_none_or(|w| part.weight == Some(w))
                    && wish.capacity.is_none_or(|c| match c {
                        Capacity::Exactly(n) => part.capacity == Some(n),
                        Capacity::AtLeast(n) => part.capacity.is_some_and(|has| has >= n),
                    })
            })
        }),
        Change::Halt | Change::Abort { .. } | Change::Verb { .. } => satisfied(change, seen),
    }
}

/// A part of the change that was told to, and will not get there by waiting. What is not told yet may still be the state
/// from before.
pub(super) fn hopeless(change: &Change, seen: &Observation) -> Option<String> {
    let never = |id: &PartId, part: &PartState| match &part.settled {
        Settled::Never { why } => Some(format!("{id}: {why}")),
        _ => None,
    };
    match change {
        Change::Reach(shape) if told(change, seen) => {
            shape.0.keys().find_map(|id| seen.parts.get(id).and_then(|part| never(id, part)))
        }
        Change::Abort { .. } if seen.in_flight.is_none() => seen.serving().find_map(|(id, part)| never(id, part)),
        _ => None,
    }
}

/// How many ready instances would serve after the change; `None` where it cannot be told, or the change takes nothing away.
pub(super) fn left_serving(change: &Change, seen: &Observation) -> Option<u32> {
    let Change::Reach(shape) = change else { return None };
    let takes = shape.0.iter().any(|(id, wish)| {
        seen.parts.get(id).is_some_and(|part| {
            wish.weight.is_some_and(|w| part.weight.is_none_or(|has| w < has))
                || matches!(wish.capacity, Some(Capacity::Exactly(n)) if part.capacity.is_none_or(|has| n < has))
        })
    });
    if !takes {
        return None;
    }
    let mut left = 0;
    for (id, part) in &seen.parts {
        let wish = shape.0.get(id);
        let weight = wish.and_then(|w| w.weight).or(part.weight);
        if weight == Some(Weight::NONE) {
            continue;
        }
        let ready = part.ready.or(part.capacity)?;
        left += match wish.and_then(|w| w.capacity) {
            Some(Capacity::Exactly(n)) => ready.min(n),
            _ => ready,
        };
    }
    Some(left)
}

/// The suspect, where it still gets traffic, or is on its way to.
pub(super) fn still_serves(suspect: &ReleaseId, seen: &Observation) -> Option<String> {
    seen.serving().find_map(|(id, part)| {
        let (runs, told) = (part.running.mentions().contains(&suspect), part.wanted.as_ref() == Some(suspect));
        let why =
            if runs { format!("{id} still runs {}", part.running) } else { format!("{id} is told to run {suspect}") };
        (runs || told).then_some(why)
    })
}

/// The wanted release serves nowhere, and what does serve is not what the last of the `begun` changes brought there: somebody
/// else moved the traffic, between releases that were all there before. Where an abort landed counts as brought, until a
/// change behind it sets a release: from then on that one is due, for what stood after the abort may have been a deploy.
pub(super) fn serves_elsewhere(wanted: &ReleaseId, begun: &[Change], seen: &Observation) -> Option<String> {
    let mut brought: BTreeMap<&PartId, &ReleaseId> = BTreeMap::new();
    let mut landing = None;
    for change in begun {
        match change {
            Change::Reach(shape) => {
                brought.extend(shape.0.iter().filter_map(|(id, wish)| Some((id, wish.release.as_ref()?))));
            }
            Change::Abort { expect, .. } => {
                brought.clear();
                landing = Some(expect);
            }
            Change::Halt | Change::Verb { .. } => {}
        }
    }
    let ours = |id: &PartId, release: &ReleaseId| match (brought.get(id), landing) {
        (Some(last), _) => *last == release,
        (None, Some(Landing::On(landed))) => landed == release,
        (None, Some(Landing::Unsaid)) => true,
        (None, None) => false,
    };
    let mut other = None;
    for (id, part) in seen.serving() {
        let mentions = part.running.mentions();
        let due = |release: &ReleaseId| release == wanted || ours(id, release);
        let told = part.wanted.as_ref().filter(|told| !due(told));
        // What cannot be named is for the verifiers to judge.
        if mentions.is_empty() || (told.is_none() && mentions.into_iter().any(due)) {
            return None;
        }
        let told = told.map(|told| format!(", told to run {told}")).unwrap_or_default();
        other = Some(format!("{wanted} serves nowhere: {id} runs {}{told}", part.running));
    }
    other
}

/// A part that gets traffic, and of which the platform says that it will not come right: its release is gone, for one.
pub(super) fn serves_hopelessly(seen: &Observation) -> Option<String> {
    seen.serving().find_map(|(id, part)| match &part.settled {
        Settled::Never { why } => Some(format!("{id}: {why}")),
        _ => None,
    })
}

/// What is not as the plan said it would be after its rung.
pub(super) fn residue(plan: &Plan, rung: usize, seen: &Observation) -> Vec<DiffLine> {
    let Some(rung) = plan.rungs.get(rung) else { return vec![] };
    let expected = rung.steps.iter().fold(plan.begins_at.clone(), |shape, step| shape.after(&step.change));
    // Where the platform decides, or nothing is said, there is nothing to compare.
    let decided = rung.steps.iter().any(|step| matches!(step.change, Change::Abort { .. } | Change::Halt));
    let is: Shape = seen.shape();
    let mut lines = vec![];
    for (id, wish) in &expected.0 {
        let now = is.0.get(id).cloned().unwrap_or_default();
        let mut differs = |what: &str, from: Option<String>, to: Option<String>| {
            if from.is_some() && from != to {
                lines.push(DiffLine { what: format!("{id} {what}"), from, to });
            }
        };
        // What was to be scaled to nothing, and is, runs no release.
        let nothing = wish.capacity.is_some_and(|c| c.count() == 0) && now.release.is_none();
        if !decided && !nothing {
            differs("release", wish.release.as_ref().map(ToString::to_string), now.release.map(|r| r.to_string()));
        }
        differs("weight", wish.weight.map(|w| w.to_string()), now.weight.map(|w| w.to_string()));
        differs("capacity", wish.capacity.map(|c| c.count().to_string()), now.capacity.map(|c| c.count().to_string()));
    }
    for id in is.0.keys().filter(|id| !expected.0.contains_key(*id)) {
        lines.push(DiffLine {
            what: format!("{id}"),
            from: None,
            to: Some("was not there, and was not planned".into()),
        });
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Capabilities, Capacity, Identity, Release, Situation, Step, Token, Weight, Wish};
    use std::time::Duration;

    fn now(parts: &[(&str, &str)]) -> Observation {
        let runs = |release: &str| PartState::new(Some(release.into()), Running::Release(release.into()));
        let parts = parts.iter().map(|(id, release)| (PartId::from(*id), runs(release)));
        Observation::new(Identity::new("s", "o"), parts, Token::none())
    }
    fn reach(part: &str, release: &str) -> Change {
        Change::reach([(part.into(), Wish { release: Some(release.into()), ..Wish::default() })])
    }
    fn abort(expect: Landing) -> Change {
        Change::Abort { expect, never: "2".into() }
    }
    fn elsewhere(begun: &[Change], parts: &[(&str, &str)]) -> bool {
        serves_elsewhere(&"1".into(), begun, &now(parts)).is_some()
    }

    #[test]
    fn where_an_abort_landed_is_fine_until_a_release_is_set() {
        // The first one as it is before its landing is journalled, the last one as it is afterwards.
        for landing in [abort(Landing::Unsaid), abort(Landing::On("3".into())), reach("all", "3")] {
            assert!(!elsewhere(std::slice::from_ref(&landing), &[("all", "3")]), "{landing:?}");
            let then_set = [landing, reach("all", "1")];
            assert!(elsewhere(&then_set, &[("all", "3")]), "{then_set:?}");
            assert!(!elsewhere(&then_set, &[("all", "1")]), "{then_set:?}");
        }
    }

    /// Somebody else has just told it to, and it has not begun.
    #[test]
    fn what_is_on_its_way_elsewhere_does_not_count_as_there() {
        let told = |release: &str| {
            let part = PartState::new(Some(release.into()), Running::Release("1".into()));
            Observation::new(Identity::new("s", "o"), [("all".into(), part)], Token::none())
        };
        for (release, back, elsewhere) in [("1", false, false), ("2", true, true), ("0", false, true)] {
            assert_eq!(still_serves(&"2".into(), &told(release)).is_some(), back, "{release}");
            assert_eq!(serves_elsewhere(&"1".into(), &[], &told(release)).is_some(), elsewhere, "{release}");
        }
    }

    #[test]
    fn what_was_scaled_to_nothing_as_planned_runs_no_release() {
        let side = |running, instances| {
            let part = PartState::new(Some("2".into()), running).with_capacity(instances, instances);
            Observation::new(Identity::new("s", "o"), [("green".into(), part)], Token::none())
        };
        let (before, after) = (side(Running::Release("2".into()), 3), side(Running::Nothing, 0));
        let capabilities = Capabilities::new(crate::Fencing::Token);
        let situation = Situation::new("t".into(), capabilities, before.clone(), "2", Release::new("1"));
        let drain = Change::capacity(&"green".into(), Capacity::Exactly(0));
        let step = Step::new("green to nothing", drain, Duration::from_secs(1));
        let plan = Plan::new(&situation, crate::Rung::new("blue/green", Weight::NONE, vec![step]));
        assert_eq!(residue(&plan, 0, &after), []);
        let left: Vec<String> = residue(&plan, 0, &before).iter().map(ToString::to_string).collect();
        assert_eq!(left, ["green capacity: 0 → 3"]);
    }

    #[test]
    fn what_was_set_on_one_part_excuses_no_other() {
        let begun = [reach("blue", "0")];
        assert!(elsewhere(&begun, &[("green", "0")]));
        assert!(!elsewhere(&begun, &[("blue", "0")]));
        assert!(elsewhere(&[], &[("green", "0")]));
    }
}
