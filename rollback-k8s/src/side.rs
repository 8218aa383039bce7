//! One side of a pair: a Deployment that runs one release while another Deployment runs another one.
//!
//! Its release is set as [`Deployment`] sets it; here is what a pair needs besides: how many replicas, and whether it is
//! still what was looked at. Not here: which side gets traffic.

use crate::{
    connect::{Cluster, JsonPatch},
    deployment::Deployment,
    kinds::{AUTOSCALER, DEPLOYMENT, POD, REPLICA_SET},
    marks,
    prepare::Access,
    release::{label, release_id},
};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use rollback_core::{
    Approved, Capacity, Change, DiffLine, Error, Finding, Kind, Look, Observation, Ours, PartId, PartMap, PartState,
    Payload, Prepared, Release, ReleaseId, Result, Severity, Shape, TargetId, Timestamp, Token, Trace, Wish, Work,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// A side, by its Deployment.
#[derive(Clone, Debug)]
pub(crate) struct Side {
    pub(crate) part: PartId,
    pub(crate) deployment: Deployment,
    cluster: Cluster,
}

/// What a write of a side rests on: which object, with which template.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Read {
    uid: String,
    template: Value,
    /// The token of the Deployment itself, for a write that sets its release.
    release: Option<Payload>,
}

/// A side's Deployment as it is written, without its pods.
#[derive(Clone, Debug)]
pub(crate) struct Written {
    uid: String,
    template: Value,
    replicas: u32,
    annotated: bool,
    /// What a restart of the Deployment by itself may have left.
    restarts_to: Option<String>,
}

impl Written {
    /// Labels of its pods.
    pub(crate) fn labels(&self) -> BTreeMap<String, String> {
        let labels = self.template.pointer("/metadata/labels").cloned().unwrap_or_default();
        serde_json::from_value(labels).unwrap_or_default()
    }
    #[cfg(test)]
    pub(crate) fn sample(template: Value) -> Self {
        Self { uid: "u".into(), template, replicas: 1, annotated: false, restarts_to: None }
    }
    pub(crate) fn told(&self) -> ReleaseId {
        release_id(&self.template)
    }
    pub(crate) fn label(&self) -> String {
        label(&self.template, None)
    }
}

/// A side as it was looked at.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) part: PartId,
    pub(crate) written: Written,
    pub(crate) state: PartState,
    pub(crate) read: Read,
    pub(crate) ours: Ours,
    pub(crate) owners: Vec<String>,
    pub(crate) trace: Option<Trace>,
}

impl Seen {
    pub(crate) fn uid(&self) -> &str {
        &self.written.uid
    }
}

/// Where it is decided how much of the traffic a side gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Traffic {
    /// By its replicas.
    ByReplicas,
    /// By another object.
    Elsewhere,
}

/// Sides by what they were when they were looked at.
pub(crate) type Reads = PartMap<Read>;

impl Side {
    pub(crate) fn new(cluster: &Cluster, part: PartId, deployment: Deployment) -> Self {
        Self { part, deployment, cluster: cluster.clone() }
    }

    pub(crate) fn with_health_port(self, port: u16) -> Self {
        Self { deployment: self.deployment.with_health_port(port), ..self }
    }

    /// What a pair needs to be allowed to do with its Deployments.
    pub(crate) fn access(&self) -> [Access; 4] {
        let namespace = self.deployment.namespace();
        [("get", DEPLOYMENT), ("patch", DEPLOYMENT), ("list", REPLICA_SET), ("list", POD)]
            .map(|(verb, kind)| Access::new(verb, kind, namespace))
    }

    pub(crate) async fn written(&self) -> Result<Written> {
        let (namespace, name) = (self.deployment.namespace(), self.deployment.name());
        let object = self.cluster.named("read a side's Deployment", DEPLOYMENT, namespace, name).await?;
        let template = object.data.pointer("/spec/template").cloned().unwrap_or_default();
        let replicas = object.data.pointer("/spec/replicas").and_then(Value::as_u64).unwrap_or(1);
        Ok(Written {
            uid: object.metadata.uid.unwrap_or_default(),
            template,
            replicas: u32::try_from(replicas).unwrap_or(u32::MAX),
            restarts_to: object.metadata.annotations.as_ref().and_then(|all| all.get(marks::REPLICAS)).cloned(),
            annotated: object.metadata.annotations.is_some_and(|annotations| !annotations.is_empty()),
        })
    }

    pub(crate) async fn look(&self, look: &Look) -> Result<Seen> {
        use rollback_core::Target as _;
        // What is judged must not be newer than what a write compares with. A change in between is seen: then once more.
        for _ in 0..3 {
            let written = self.written().await?;
            let seen = self.deployment.observe(look.clone()).await?;
            let Observation { parts, token, ours, owners, trace, identity, .. } = seen;
            let same = identity.object.as_deref() == Some(&written.uid);
            let Some(state) = parts.values().next().filter(|part| same && part.wanted == Some(written.told())) else {
                continue;
            };
            let read = Read { uid: written.uid.clone(), template: written.template.clone(), release: token.0 };
            let state = state.clone();
            return Ok(Seen { part: self.part.clone(), written, state, read, ours, owners, trace });
        }
        let text = format!("the Deployment of {} changes faster than it can be read", self.part);
        Err(Error::new(Kind::Unavailable, "read a side").with_message(text).without_effect())
    }

    /// Whether it is still what was looked at.
    ///
    /// # Errors
    /// A conflict, without effect, if it is not.
    pub(crate) async fn unchanged(&self, reads: &Reads) -> Result<Written> {
        let now = self.written().await?;
        let read = self.read_in(reads)?;
        if now.uid == read.uid && now.template == read.template {
            return Ok(now);
        }
        let text = format!(
            "{} was {} when it was looked at, and is {} now: somebody deployed to it",
            self.part,
            label(&read.template, None),
            now.label()
        );
        Err(Error::new(Kind::Conflict, "make sure of both sides").with_message(text).without_effect())
    }

    fn read_in<'a>(&self, reads: &'a Reads) -> Result<&'a Read> {
        reads.get(&self.part).ok_or_else(|| {
            let text = format!("the token has no part {}", self.part);
            Error::new(Kind::Invalid, "read the token").with_message(text).without_effect()
        })
    }

    /// Makes ready what is wished of this side: release, replicas, both. No weight.
    pub(crate) async fn prepare(&self, wish: &Wish, work: &Work) -> Result<Ready> {
        use rollback_core::Target as _;
        let now = self.written().await?;
        let mut ready = Ready::default();
        if let Some(release) = wish.release.as_ref().filter(|release| **release != now.told()) {
            let seen = self.deployment.observe(Look::quick()).await?;
            let own = own_part(&seen)?;
            let Prepared { approved, findings, .. } =
                self.deployment.prepare(&Change::release(&own, release), work).await.map_err(|e| self.not_here(e))?;
            let named = |line: &DiffLine| DiffLine { what: format!("{} {}", self.part, line.what), ..line.clone() };
            ready.diff.extend(approved.diff.iter().map(named));
            ready.findings = findings;
            ready.release = Some(approved);
        }
        if let Some(capacity) = wish.capacity
            && let Some(to) = wanted_replicas(now.replicas, capacity)
        {
            let at_least = if matches!(capacity, Capacity::AtLeast(_)) { "at least " } else { "" };
            let what = format!("{} replicas", self.part);
            ready.diff.push(DiffLine::new(what, now.replicas.to_string(), format!("{at_least}{to}")));
            ready.findings.extend(
                autoscaler(
                    &self.cluster,
                    self.deployment.namespace(),
                    self.deployment.name(),
                    self.part.as_str(),
                    capacity,
                )
                .await,
            );
        }
        Ok(ready)
    }

    /// A release has the labels of its side in it, so only that side ever ran it.
    fn not_here(&self, e: Error) -> Error {
        if e.kind() != Kind::NotFound {
            return e;
        }
        let text = format!(
            "the Deployment of {} never ran it, or its ReplicaSet was pruned; another side may have it: set that one \
             back in place",
            self.part
        );
        Error::new(Kind::NotFound, "prepare a side").with_message(text).with_source(e).without_effect()
    }

    /// Carries out what was made ready. The guard is the uid and the template that were looked at, and are so `now`.
    async fn apply(
        &self,
        wish: &Wish,
        release: Option<&Approved>,
        traffic: Traffic,
        reads: &Reads,
        mut now: Written,
        work: &Work,
    ) -> Result<()> {
        use rollback_core::Target as _;
        let mut wrote = false;
        if let Some(wanted) = wish.release.as_ref().filter(|wanted| **wanted != now.told()) {
            let approved = release.ok_or_else(|| {
                let text = "the side ran the release when this was prepared, and does not now: prepare again";
                Error::new(Kind::Stale, "set the release of a side").with_message(text).without_effect()
            })?;
            self.deployment.apply(approved, Token(self.read_in(reads)?.release.clone()), work).await?;
            wrote = true;
            now = self.written().await.map_err(having_written)?;
            if now.told() != *wanted {
                let text = format!("{} was set to {wanted}, and is told to run {} now", self.part, now.told());
                return Err(Error::new(Kind::Conflict, "set the release of a side").with_message(text));
            }
        }
        if let Some(to) = wish.capacity.and_then(|capacity| wanted_replicas(now.replicas, capacity)) {
            let scaled = self.scale(&now, to, traffic, work).await;
            scaled.map_err(|e| if wrote { having_written(e) } else { e })?;
        }
        Ok(())
    }

    async fn scale(&self, now: &Written, to: u32, traffic: Traffic, work: &Work) -> Result<()> {
        let mut operations = vec![
            json!({"op": "test", "path": "/metadata/uid", "value": now.uid}),
            json!({"op": "test", "path": "/spec/template", "value": now.template}),
            // An autoscaler may have more by now.
            json!({"op": "test", "path": "/spec/replicas", "value": now.replicas}),
            json!({"op": "replace", "path": "/spec/replicas", "value": to}),
        ];
        let mut annotations = marks::of(work, &now.told());
        // The trace stands where the traffic is decided.
        if traffic == Traffic::Elsewhere {
            annotations.remove(marks::TRACE);
        }
        marks::annotate(&mut operations, now.annotated, annotations);
        if let Some(left) = &now.restarts_to {
            operations.push(json!({"op": "test", "path": marks::path(marks::REPLICAS), "value": left}));
            operations.push(json!({"op": "remove", "path": marks::path(marks::REPLICAS)}));
        }
        self.cluster
            .patch(JsonPatch {
                operation: "scale a side",
                kind: DEPLOYMENT,
                namespace: self.deployment.namespace(),
                name: self.deployment.name(),
                operations,
                dry_run: false,
                within: work.within(),
            })
            .await?;
        Ok(())
    }
}

/// An autoscaler that has its own idea of how many replicas there are.
pub(crate) async fn autoscaler(
    cluster: &Cluster,
    namespace: &str,
    name: &str,
    called: &str,
    capacity: Capacity,
) -> Option<Finding> {
    let all = cluster.list_of::<HorizontalPodAutoscaler>("look for autoscalers", AUTOSCALER, namespace, "");
    let mine = |scaler: &&HorizontalPodAutoscaler| {
        let of = scaler.spec.as_ref().map(|spec| &spec.scale_target_ref);
        of.is_some_and(|of| of.kind == DEPLOYMENT.kind && of.name == name)
    };
    let all = match all.await {
        Ok(all) => all,
        Err(e) => {
            let text = format!("whether an autoscaler scales {called} is not known: {e}");
            return Some(Finding::new(Severity::Note, "autoscaler", text));
        }
    };
    let scaler = all.iter().find(mine)?;
    let scaler_name = scaler.metadata.name.as_deref().unwrap_or_default();
    let (least, most) = scaler.spec.as_ref().map(|s| (s.min_replicas.unwrap_or(1), s.max_replicas))?;
    let n = i32::try_from(capacity.count()).unwrap_or(i32::MAX);
    let text = match capacity {
        // At 0 replicas an autoscaler is off.
        Capacity::Exactly(0) => return None,
        _ if n > most => format!(
            "the autoscaler {scaler_name} of {called} takes {n} replicas back to {most}: raise its maxReplicas first"
        ),
        Capacity::Exactly(_) => {
            format!("the autoscaler {scaler_name} of {called} decides anew how many replicas there are, not this")
        }
        Capacity::AtLeast(_) if n <= least => return None,
        Capacity::AtLeast(_) => format!(
            "the autoscaler {scaler_name} of {called} may go below {n} replicas again (its minReplicas is {least}): raise that, \
             or hold it"
        ),
    };
    let severity = if n > most { Severity::Blocks } else { Severity::Warning };
    Some(Finding::new(severity, "autoscaler", text))
}

/// What a side needs for a change.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ready {
    pub(crate) release: Option<Approved>,
    pub(crate) diff: Vec<DiffLine>,
    pub(crate) findings: Vec<Finding>,
}

/// So many, where there are others now.
pub(crate) fn wanted_replicas(has: u32, capacity: Capacity) -> Option<u32> {
    match capacity {
        Capacity::Exactly(n) => (n != has).then_some(n),
        Capacity::AtLeast(n) => (n > has).then_some(n),
    }
}

/// An earlier write of the same change happened.
pub(crate) fn having_written(e: Error) -> Error {
    let fault = e.fault();
    Error::new(fault.kind, fault.operation.clone())
        .with_transient(fault.transient)
        .with_message(format!("{} (an earlier part of the same change was written)", fault.message))
}

fn own_part(seen: &Observation) -> Result<PartId> {
    seen.parts.keys().next().cloned().ok_or_else(|| {
        Error::new(Kind::Unexpected, "read a side").with_message("its Deployment has no part").without_effect()
    })
}

/// What became of the write that a look asked for, as the sides say.
pub(crate) fn ours(sides: &[Seen]) -> Option<Ours> {
    sides.iter().map(|side| &side.ours).find(|ours| !matches!(ours, Ours::CannotTell | Ours::NotAsked)).cloned()
}

pub(crate) fn owners(sides: &[Seen]) -> BTreeSet<String> {
    sides.iter().flat_map(|side| side.owners.iter().cloned()).collect()
}

pub(crate) fn reads(sides: &[Seen]) -> Reads {
    sides.iter().map(|side| (side.part.clone(), side.read.clone())).collect()
}

/// The trace of the latest rollback among several.
pub(crate) fn latest(traces: impl IntoIterator<Item = Option<Trace>>) -> Option<Trace> {
    traces.into_iter().flatten().max_by_key(|trace| trace.at)
}

/// Looks at all sides at once.
pub(crate) async fn look_at(sides: &[Side], look: &Look) -> Result<Vec<Seen>> {
    futures::future::try_join_all(sides.iter().map(|side| side.look(look))).await
}

/// Reads the Deployments of all sides at once.
pub(crate) async fn written(sides: &[Side]) -> Result<PartMap<Written>> {
    let all = futures::future::try_join_all(sides.iter().map(Side::written)).await?;
    Ok(sides.iter().map(|side| side.part.clone()).zip(all).collect())
}

/// Whether all sides are still what was looked at.
///
/// # Errors
/// A conflict, without effect, if one is not.
pub(crate) async fn unchanged(sides: &[Side], reads: &Reads) -> Result<PartMap<Written>> {
    let all = futures::future::try_join_all(sides.iter().map(|side| side.unchanged(reads))).await?;
    Ok(sides.iter().map(|side| side.part.clone()).zip(all).collect())
}

/// Each release once, newest first, from histories that are that already. The first history is that of the side whose
/// release counts as newer where dates do not tell: they count in seconds, and of a release that came back there is none.
pub(crate) fn merged(histories: Vec<Vec<Release>>, limit: usize) -> Vec<Release> {
    let mut lists: Vec<_> = histories.into_iter().map(|list| list.into_iter().peekable()).collect();
    let (mut known, mut all): (BTreeSet<ReleaseId>, Vec<Release>) = Default::default();
    while all.len() < limit {
        let heads = lists.iter_mut().enumerate().filter_map(|(i, list)| list.peek().map(|head| (i, head.made_at)));
        let heads: Vec<(usize, Option<Timestamp>)> = heads.collect();
        // A date that is not known is in order wherever it stands.
        let undated = heads.iter().find(|(i, at)| at.is_none() && (*i == 0 || !all.is_empty()));
        let newest = heads.iter().filter(|(_, at)| at.is_some()).rev().max_by_key(|(_, at)| *at);
        let Some((i, _)) = undated.or(newest).or(heads.first()) else { break };
        if let Some(release) = lists[*i].next()
            && known.insert(release.id.clone())
        {
            all.push(release);
        }
    }
    all
}

/// Sides differ in their labels, so the same software on two of them is two releases: going from one to the other is no way
/// back. Of what sides are told to run, only the newest of each kind is left to choose.
pub(crate) fn without_copies(sides: &[Side], history: Vec<Release>, told: &[ReleaseId]) -> Vec<Release> {
    copies_gone(history, &templates(sides), told)
}

/// The template of each release of any side that was seen.
pub(crate) fn templates(sides: &[Side]) -> BTreeMap<ReleaseId, Value> {
    sides.iter().flat_map(|side| side.deployment.templates()).collect()
}

/// What a template runs, whatever labels it has.
pub(crate) fn software(template: &Value) -> Option<&Value> {
    template.get("spec")
}

fn copies_gone(mut history: Vec<Release>, templates: &BTreeMap<ReleaseId, Value>, told: &[ReleaseId]) -> Vec<Release> {
    let software = |id: &ReleaseId| templates.get(id).and_then(software);
    let mut kept: Vec<(&Value, ReleaseId)> = vec![];
    for id in history.iter().map(|release| &release.id).filter(|id| told.contains(id)) {
        if let Some(runs) = software(id).filter(|runs| kept.iter().all(|(other, _)| other != runs)) {
            kept.push((runs, id.clone()));
        }
    }
    for release in &mut history {
        let copy = kept.iter().any(|(of, id)| software(&release.id) == Some(of) && release.id != *id);
        release.available &= !copy;
    }
    history
}

/// Makes ready what is wished of several sides; traffic is not looked at.
pub(crate) async fn prepare(
    sides: &[Side],
    shape: &Shape,
    of: &TargetId,
    work: &Work,
) -> Result<(PartMap<Approved>, Vec<DiffLine>, Vec<Finding>)> {
    let (mut releases, mut diff, mut findings) = (PartMap::new(), vec![], vec![]);
    for (part, wish) in shape.0.iter() {
        let ready = find(sides, part, of)?.prepare(wish, work).await?;
        diff.extend(ready.diff);
        findings.extend(ready.findings);
        if let Some(approved) = ready.release {
            releases.insert(part.clone(), approved);
        }
    }
    Ok((releases, diff, findings))
}

/// Carries out what was made ready for sides, one after the other, if all are still what was looked at: none is scaled down
/// while the other one is gone, or became something else.
pub(crate) async fn apply(
    sides: &[Side],
    shape: &Shape,
    releases: &PartMap<Approved>,
    traffic: Traffic,
    reads: &Reads,
    of: &TargetId,
    work: &Work,
) -> Result<()> {
    let mut all = unchanged(sides, reads).await?;
    for (nth, (part, wish)) in shape.0.iter().enumerate() {
        let side = find(sides, part, of)?;
        let Some(now) = all.remove(part) else { continue };
        let written = side.apply(wish, releases.get(part), traffic, reads, now, work).await;
        written.map_err(|e| if nth > 0 { having_written(e) } else { e })?;
    }
    Ok(())
}

/// Refuses a change of a part that is none of the sides.
pub(crate) fn find<'a>(sides: &'a [Side], part: &PartId, of: &TargetId) -> Result<&'a Side> {
    sides.iter().find(|side| side.part == *part).ok_or_else(|| {
        let there: Vec<&str> = sides.iter().map(|side| side.part.as_str()).collect();
        let text = format!("there is no part {part}, only {}", there.join(", "));
        Error::new(Kind::Invalid, "prepare the change").with_target(of).with_message(text).without_effect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histories_of_both_sides_are_one() {
        let at = |id: &str, at: u64| Release::new(id).with_made_at(Timestamp(at));
        let ids = |histories: Vec<Vec<Release>>| -> String {
            let all = merged(histories, 10);
            all.iter().map(|release| release.id.as_str().to_owned()).collect::<Vec<_>>().join(" ")
        };
        let undated = |id: &str| Release::new(id);
        for (what, serving, idle, is) in [
            ("in turn", vec![at("4", 4), at("2", 2)], vec![at("3", 3), at("1", 1)], "4 3 2 1"),
            ("the next one waits on the idle side", vec![at("2", 2)], vec![at("3", 3), at("1", 1)], "3 2 1"),
            ("what serves came back", vec![undated("1"), at("2", 2)], vec![at("3", 3)], "1 3 2"),
            ("the idle one came back", vec![at("3", 3)], vec![undated("1"), at("2", 2)], "3 1 2"),
            ("on both", vec![at("2", 2), at("1", 1)], vec![at("1", 1)], "2 1"),
            ("nothing", vec![], vec![], ""),
        ] {
            assert_eq!(ids(vec![serving, idle]), is, "{what}");
        }
        assert_eq!(merged(vec![vec![at("1", 1)], vec![at("2", 2)]], 1).len(), 1);
        assert_eq!(merged(vec![vec![at("1", 1)]], 0), []);
    }

    #[test]
    fn a_copy_of_what_runs_is_no_way_back() {
        let templates: BTreeMap<ReleaseId, Value> =
            [("stable", "1"), ("stable", "2"), ("canary", "1"), ("canary", "2")]
                .map(|(side, image)| {
                    let template = json!({"metadata": {"labels": {"side": side}}, "spec": {"image": image}});
                    (ReleaseId::from(format!("{side}-{image}").as_str()), template)
                })
                .into();
        let left = |history: &[&str], told: &[&str]| -> String {
            let told: Vec<ReleaseId> = told.iter().map(|id| ReleaseId::from(*id)).collect();
            let all = copies_gone(history.iter().map(|id| Release::new(*id)).collect(), &templates, &told);
            let left = all.iter().filter(|release| release.available);
            left.map(|release| release.id.as_str().to_owned()).collect::<Vec<_>>().join(" ")
        };
        for (what, history, told, is) in [
            ("promoted", &["stable-2", "canary-2", "stable-1"][..], ["stable-2", "canary-2"], "stable-2 stable-1"),
            ("a canary", &["canary-2", "stable-1"][..], ["canary-2", "stable-1"], "canary-2 stable-1"),
            (
                "a canary after another",
                &["canary-2", "canary-1", "stable-1"][..],
                ["canary-2", "stable-1"],
                "canary-2 stable-1",
            ),
            (
                "both are behind",
                &["stable-2", "canary-2", "canary-1", "stable-1"][..],
                ["stable-2", "canary-2"],
                "stable-2 canary-1 stable-1",
            ),
            ("one that is not known", &["stable-3", "stable-2"][..], ["stable-3", "stable-2"], "stable-3 stable-2"),
        ] {
            assert_eq!(left(history, &told), is, "{what}");
        }
    }

    #[test]
    fn replicas_are_written_only_where_others_are_wished() {
        for (has, wish, is) in [
            (3, Capacity::AtLeast(3), None),
            (5, Capacity::AtLeast(3), None),
            (1, Capacity::AtLeast(3), Some(3)),
            (3, Capacity::Exactly(3), None),
            (5, Capacity::Exactly(3), Some(3)),
            (5, Capacity::Exactly(0), Some(0)),
        ] {
            assert_eq!(wanted_replicas(has, wish), is, "{has} and {wish:?}");
        }
    }
}
