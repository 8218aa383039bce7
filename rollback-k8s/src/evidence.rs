//! What is saved before the first change: what containers logged before they died and since, what the cluster said, and
//! how workload, revisions, pods and what sends traffic to them were. The most telling first, each piece sealed by itself, so that what there is when
//! the time is over is kept.
//!
//! Not here: what Secrets hold, which is never read, and what ConfigMaps hold, which may be a secret too: their keys, and
//! what of their short values changed and does not look like a secret.

mod found;
mod redact;

pub(crate) use found::{Saving, What};

use crate::{
    connect::Cluster,
    events,
    kinds::ObjectKind,
    logs::{self, LogOf},
    owner,
    pods::{PodState, Trouble},
    prepare::references,
};
use async_trait::async_trait;
use futures::{StreamExt as _, stream};
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::api::DynamicObject;
use rollback_core::{Artifact, Bounds, Error, EvidenceSource, Kind, Result, TargetId, Work};
use serde_json::json;
use std::{collections::BTreeSet, sync::Arc, time::Duration};

/// Lines of a log.
const LINES: i64 = 1000;
/// Logs of so many containers, before their restart and since: those of a thousand healthy pods are all alike.
const CONTAINERS: usize = 20;
/// Logs that are read at the same time.
const AT_ONCE: usize = 4;

/// What is saved of a target: its workloads with their pods and revisions, and other objects. What comes out of it, and the
/// rights that it needs, stand in the crate's docs.
#[derive(Clone, Debug)]
pub(crate) struct Saved {
    cluster: Cluster,
    target: TargetId,
    namespace: String,
    what: What,
    told: Option<Arc<dyn Saving>>,
}

impl Saved {
    pub(crate) fn of(cluster: &Cluster, target: &TargetId, namespace: &str) -> Self {
        Self {
            cluster: cluster.clone(),
            target: target.clone(),
            namespace: namespace.into(),
            what: What::default(),
            told: None,
        }
    }
    /// With what this target tells of when it is asked.
    pub(crate) fn told_by(mut self, told: impl Saving) -> Self {
        self.told = Some(Arc::new(told));
        self
    }
    /// A workload: with the pods that its selector finds, its ReplicaSets or ControllerRevisions, and events of all.
    pub(crate) fn with_workload(mut self, kind: ObjectKind, name: impl Into<String>) -> Self {
        self.what = self.what.with_workload(kind, name);
        self
    }
    /// Any other object, with its events: a Service, a route. Not a Secret, not a ConfigMap.
    pub(crate) fn with_object(mut self, kind: ObjectKind, name: impl Into<String>) -> Self {
        self.what = self.what.with_object(kind, name);
        self
    }
}

#[async_trait]
impl EvidenceSource for Saved {
    async fn collect(&self, bounds: Bounds, work: &Work) -> Result<Vec<Artifact>> {
        // One hanging request must not take the time of all others.
        let share = bounds.time / 4;
        let mut bundle = Bundle { work, left: bounds.bytes, kept: vec![] };
        let mut found = self.find(share).await;
        if found.workloads.is_empty() && found.pods.is_empty() && found.objects.is_empty() {
            let why = found.missing.into_iter().next();
            return Err(why
                .unwrap_or_else(|| Error::new(Kind::NotFound, "collect evidence"))
                .with_target(&self.target));
        }
        let mut missing = std::mem::take(&mut found.missing);
        let pods = telling(&found.pods);
        let restarted: Vec<_> = containers(&pods).into_iter().filter(|(_, restarts)| *restarts > 0).collect();
        let most = bundle.left * 2 / 5;
        missing.extend(self.logs(&mut bundle, "k8s-previous-log/1", &restarted, true, most, share).await?);

        match events::list(&self.cluster, &self.namespace, "", share).await {
            Ok((events, _)) => {
                let lines = event_lines(events.into_iter().filter(|event| found.is_of(event)).collect());
                bundle.lines("k8s-events/1", lines, bundle.left / 4).await?;
            }
            Err(e) => missing.push(e),
        }
        bundle.lines("k8s-pods/1", pods.iter().map(|(_, pod)| json_of(pod)), bundle.left / 4).await?;
        bundle.lines("k8s-workload/1", found.workloads.iter().map(json_of), bundle.left / 4).await?;
        let objects = found.said.iter().map(json_of).chain(found.objects.iter().map(json_of));
        bundle.lines("k8s-objects/1", objects, bundle.left / 4).await?;
        bundle.lines("k8s-config/1", found.config.iter().map(json_of), bundle.left / 4).await?;
        bundle.lines("k8s-metrics/1", found.metrics.iter().map(json_of), bundle.left / 8).await?;
        let most = bundle.left / 2;
        let all: Vec<_> = containers(&pods).into_iter().take(CONTAINERS).collect();
        missing.extend(self.logs(&mut bundle, "k8s-log/1", &all, false, most, share).await?);
        bundle.lines("k8s-revisions/1", found.revisions.iter().map(json_of), bundle.left * 3 / 4).await?;
        let mut names: BTreeSet<_> = found.workloads.iter().chain(&found.revisions).flat_map(referred_to).collect();
        let owners = found.workloads.iter().flat_map(|workload| owner::owners(&workload.metadata));
        names.extend(owners.map(|owner| json!({"owner": owner}).to_string()));
        bundle.lines("k8s-references/1", names.into_iter(), bundle.left / 2).await?;
        let missing = missing.iter().map(|e| json!({"missing": redact::text(&e.to_string())}).to_string());
        bundle.lines("k8s-missing/1", missing, bundle.left).await?;
        Ok(bundle.kept)
    }
}

impl Saved {
    /// The logs of these containers, each an artifact; what could not be read is given back.
    async fn logs(
        &self,
        bundle: &mut Bundle<'_>,
        kind: &str,
        containers: &[(Place, i32)],
        previous: bool,
        most: u64,
        time: Duration,
    ) -> Result<Vec<Error>> {
        let containers = &containers[..containers.len().min(CONTAINERS)];
        let bytes = usize::try_from(most / containers.len().max(1) as u64).unwrap_or(usize::MAX);
        let deadline = tokio::time::Instant::now() + time;
        let read = containers.iter().map(|(place, restarts)| async move {
            let of = LogOf {
                namespace: &self.namespace,
                pod: &place.pod,
                container: &place.container,
                previous,
                since: None,
                lines: Some(LINES),
                bytes,
                time: deadline.saturating_duration_since(tokio::time::Instant::now()).max(Duration::from_millis(50)),
            };
            (place, *restarts, logs::read(&self.cluster, of).await)
        });
        let mut read = stream::iter(read.collect::<Vec<_>>()).buffered(AT_ONCE);
        let mut missing = vec![];
        while let Some((place, restarts, log)) = read.next().await {
            let log = match log {
                Ok(log) => log,
                Err(e) => {
                    missing.push(e);
                    continue;
                }
            };
            let run = if previous { "before its last restart" } else { "now" };
            let mut text =
                format!("== pod {}, container {}, {run}, {restarts} restarts ==\n", place.pod, place.container);
            if let Some(why) = &place.trouble {
                text.push_str(&format!("== {} ==\n", redact::text(why)));
            }
            let cut = if log.cut { Some("what came before is left out") } else { None };
            for said in cut.into_iter().chain(log.broken.as_deref()) {
                text.push_str(&format!("== {said} ==\n"));
            }
            let room = bytes.saturating_sub(text.len());
            text.push_str(last_lines(&redact::text(&log.text), room));
            bundle.keep(kind, text).await?;
        }
        Ok(missing)
    }
}

/// A container, and why its pod is not ready.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    pod: String,
    container: String,
    trouble: Option<String>,
}

/// Pods, the most telling first: those that will not get well, those that restarted, those that are not ready; of alike
/// ones the newest, which are of the release that was deployed last.
fn telling(pods: &[Pod]) -> Vec<(PodState, &Pod)> {
    let mut pods: Vec<_> = pods.iter().map(|pod| (PodState::of(pod), pod)).collect();
    pods.sort_by_key(|(state, pod)| {
        let terminal = matches!(state.trouble, Some(Trouble::Terminal(_)));
        let created = pod.metadata.creation_timestamp.as_ref().map(|at| at.0);
        std::cmp::Reverse((terminal, state.restarts > 0, !state.ready, created))
    });
    pods
}

/// Their containers and how often each restarted, in the same order; of a pod, the ones that restarted most first.
fn containers(pods: &[(PodState, &Pod)]) -> Vec<(Place, i32)> {
    let mut all = vec![];
    for (state, pod) in pods {
        let status = pod.status.as_ref();
        let init = status.iter().flat_map(|status| status.init_container_statuses.iter().flatten());
        let own = status.iter().flat_map(|status| status.container_statuses.iter().flatten());
        // An init container that ended well has nothing more to say.
        let init = init.filter(|container| !container.ready || container.restart_count > 0);
        let mut of_pod: Vec<_> = own
            .chain(init)
            // One that was never started has no log.
            .filter(|container| container.container_id.is_some() || container.restart_count > 0)
            .map(|container| {
                let trouble = state.trouble.as_ref().map(|trouble| trouble.text().to_owned());
                let place = Place { pod: state.name.clone(), container: container.name.clone(), trouble };
                (place, container.restart_count)
            })
            .collect();
        of_pod.sort_by_key(|(_, restarts)| std::cmp::Reverse(*restarts));
        all.extend(of_pod);
    }
    all
}

/// Warnings first, the newest first.
fn event_lines(mut events: Vec<Event>) -> impl Iterator<Item = String> {
    events.sort_by_key(|event| std::cmp::Reverse((events::is_warning(event), events::last_seen(event))));
    events.into_iter().map(|event| {
        let line = json!({
            "at": events::last_seen(&event).map(|at| at.to_string()),
            "type": event.type_,
            "count": event.series.as_ref().and_then(|series| series.count).or(event.count),
            "about": event.involved_object.uid,
            "said": redact::text(&events::told(&event)),
        });
        line.to_string()
    })
}

fn json_of(object: &impl serde::Serialize) -> String {
    let mut value = serde_json::to_value(object).unwrap_or_default();
    redact::object(&mut value);
    value.to_string()
}

/// What its pods need: names, and nothing of what they hold.
fn referred_to(object: &DynamicObject) -> Vec<String> {
    let template = object.data.pointer("/spec/template").or_else(|| object.data.pointer("/data/spec/template"));
    let named = template.map(references).unwrap_or_default();
    let kind = |secret| if secret { "Secret" } else { "ConfigMap" };
    named.into_iter().map(|one| json!({"kind": kind(one.secret), "name": one.name}).to_string()).collect()
}

/// The last whole lines, so many bytes of them at most.
fn last_lines(text: &str, most: usize) -> &str {
    let mut from = text.len();
    for line in text.split_inclusive('\n').rev() {
        if text.len() - (from - line.len()) > most {
            break;
        }
        from -= line.len();
    }
    &text[from..]
}

/// What is kept, and how much more may be.
struct Bundle<'a> {
    work: &'a Work,
    left: u64,
    kept: Vec<Artifact>,
}

impl Bundle<'_> {
    /// Whole lines, as many as fit; how many were left out is the last one.
    async fn lines(&mut self, kind: &str, lines: impl Iterator<Item = String>, most: u64) -> Result<()> {
        let (mut text, mut left_out) = (String::new(), 0);
        for line in lines {
            // Room for the line that says what is left out.
            if (text.len() + line.len() + 40) as u64 > most {
                left_out += 1;
                continue;
            }
            text.push_str(&line);
            text.push('\n');
        }
        if left_out > 0 {
            text.push_str(&format!("{}\n", json!({"left_out": left_out})));
        }
        self.keep(kind, text).await
    }
    async fn keep(&mut self, kind: &str, text: String) -> Result<()> {
        let bytes = text.len() as u64;
        if text.is_empty() || bytes > self.left {
            return Ok(());
        }
        let mut writer = self.work.keep(kind).await?;
        writer.push(text.as_bytes()).await?;
        self.kept.push(writer.seal().await?);
        self.left -= bytes;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::{found::Found, *};
    use serde_json::Value;

    fn pod(name: &str, created: &str, status: Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": name, "uid": name, "creationTimestamp": created},
            "spec": {"containers": [{"name": "app"}]},
            "status": status,
        }))
        .unwrap()
    }
    fn container(name: &str, ready: bool, restarts: i32, waits: Option<&str>) -> Value {
        let state = waits.map_or(json!({"running": {}}), |reason| json!({"waiting": {"reason": reason}}));
        json!({"name": name, "image": "i", "imageID": "", "containerID": "c", "ready": ready, "restartCount": restarts,
            "state": state})
    }
    fn status(ready: bool, containers: &[Value]) -> Value {
        let word = if ready { "True" } else { "False" };
        json!({"phase": "Running", "conditions": [{"type": "Ready", "status": word}], "containerStatuses": containers})
    }

    #[test]
    fn crashing_pods_come_first_and_of_a_pod_the_container_that_crashes() {
        let (old, new) = ("2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z");
        let all = [
            pod("good-old", old, status(true, &[container("app", true, 0, None)])),
            pod("starting", new, status(false, &[container("app", false, 0, None)])),
            pod("good-new", new, status(true, &[container("app", true, 0, None)])),
            pod(
                "crashing",
                old,
                status(
                    false,
                    &[container("side", true, 1, None), container("app", false, 7, Some("CrashLoopBackOff"))],
                ),
            ),
        ];
        let pods = telling(&all);
        let order: Vec<_> =
            containers(&pods).into_iter().map(|(p, n)| format!("{}/{}/{n}", p.pod, p.container)).collect();
        assert_eq!(order, ["crashing/app/7", "crashing/side/1", "starting/app/0", "good-new/app/0", "good-old/app/0"]);
    }

    #[test]
    fn events_of_its_own_only_and_warnings_first() {
        let event = |kind: &str, about: &str, uid: &str, at: &str| -> Event {
            serde_json::from_value(json!({"metadata": {}, "type": kind, "reason": "R", "message": "password=hunter2",
                "lastTimestamp": at, "involvedObject": {"kind": "Pod", "name": about, "uid": uid}}))
            .unwrap()
        };
        let workload: DynamicObject = serde_json::from_value(json!({"apiVersion": "apps/v1", "kind": "Deployment",
                "metadata": {"name": "shop", "uid": "d"}}))
        .unwrap();
        let found = Found { workloads: vec![workload], ..Found::default() };
        for (event, own) in [
            (event("Normal", "shop", "d", "2026-01-01T00:00:00Z"), true),
            (event("Normal", "shop-7c9-x1", "gone", "2026-01-01T00:00:00Z"), true),
            (event("Normal", "shopping-7c9-x1", "other", "2026-01-01T00:00:00Z"), false),
        ] {
            assert_eq!(found.is_of(&event), own, "{event:?}");
        }
        let lines: Vec<_> = event_lines(vec![
            event("Normal", "n", "1", "2026-01-03T00:00:00Z"),
            event("Warning", "old", "2", "2026-01-01T00:00:00Z"),
            event("Warning", "new", "3", "2026-01-02T00:00:00Z"),
        ])
        .collect();
        let order: Vec<_> =
            lines.iter().map(|line| serde_json::from_str::<Value>(line).unwrap()["about"].clone()).collect();
        assert_eq!(order, ["3", "2", "1"]);
        assert!(lines.iter().all(|line| !line.contains("hunter2")), "{lines:?}");
    }

    #[test]
    fn the_last_lines_are_whole() {
        for (most, end) in [(100, "one\ntwo\nthree\n"), (10, "two\nthree\n"), (9, "three\n"), (3, "")] {
            assert_eq!(last_lines("one\ntwo\nthree\n", most), end, "{most}");
        }
    }

    #[tokio::test]
    async fn what_does_not_fit_is_counted() {
        let shelf = std::sync::Arc::new(rollback_core::journal::MemoryShelf::new());
        let work = Work::new("run".into(), 1, "evidence", Duration::from_secs(1), shelf);
        let mut bundle = Bundle { work: &work, left: 100, kept: vec![] };
        let long = json!({"long": "x".repeat(200)}).to_string();
        bundle.lines("a/1", [long, json!({"short": 1}).to_string()].into_iter(), 100).await.unwrap();
        bundle.keep("b/1", "x".repeat(200)).await.unwrap();
        assert_eq!(bundle.kept.len(), 1);
        let mut text = String::new();
        let mut reader = work.open(&bundle.kept[0]).await.unwrap();
        while let Some(chunk) = reader.next().await.unwrap() {
            text.push_str(&String::from_utf8(chunk).unwrap());
        }
        assert_eq!(text, "{\"short\":1}\n{\"left_out\":1}\n");
    }
}
