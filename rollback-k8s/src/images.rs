//! Whether the images of a release can be had, and are what they were: told from nodes, from pods and from pull secrets.
//!
//! Not here: asking a registry. Only the nodes have its address, its credentials and its mirrors.

use crate::{
    connect::{Cluster, PAGE},
    error::Request,
    kinds::NODE,
    pods::PodState,
    prepare::{Reference, Told, is_there, told},
    release::images,
};
use k8s_openapi::api::core::v1::Node;
use kube::{Api, api::ListParams};
use rollback_core::{Finding, Kind, Result, Severity};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// A kubelet lists no more than so many images, the largest ones first, unless it is told otherwise.
const LISTED: usize = 50;

/// The images of a node: the names of each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NodeImages {
    name: String,
    images: Vec<Vec<String>>,
}

impl NodeImages {
    fn of(node: Node) -> Self {
        let images = node.status.and_then(|status| status.images).unwrap_or_default();
        Self {
            name: node.metadata.name.unwrap_or_default(),
            images: images.into_iter().filter_map(|image| image.names).collect(),
        }
    }
    fn has(&self, image: &str) -> Option<&Vec<String>> {
        self.images.iter().find(|names| names.iter().any(|name| name == image))
    }
}

impl Cluster {
    /// What images each node has. Remembered for a minute.
    async fn node_images(&self) -> Told<Arc<Vec<NodeImages>>> {
        let known = self.known().nodes.get((), || async { told(self.ask_for_node_images().await) });
        known.await.unwrap_or_else(|e| Err(e.to_string()))
    }
    async fn ask_for_node_images(&self) -> Result<Arc<Vec<NodeImages>>> {
        let request =
            Request { operation: "look for images on nodes", verb: "list", kind: NODE, namespace: None, name: "" };
        let api: Api<Node> = Api::all(self.client().clone());
        let (mut params, mut all) = (ListParams::default().limit(PAGE), vec![]);
        loop {
            let page = self.ask(self.reply_within(), &request, api.list(&params)).await?;
            all.extend(page.items.into_iter().map(NodeImages::of));
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params = params.continue_token(&token),
                None => break,
            }
        }
        Ok(Arc::new(all))
    }
}

/// What can be found out of the images of a template. `pods` are those of the workload, each with whether it is of the
/// wanted release.
pub(crate) async fn findings(
    cluster: &Cluster,
    namespace: &str,
    template: &Value,
    pods: &[(bool, PodState)],
) -> Vec<Finding> {
    let (nodes, mut findings) =
        futures::join!(cluster.node_images(), missing_pull_secrets(cluster, namespace, template));
    let nodes = match nodes {
        Ok(nodes) => nodes,
        Err(e) => {
            let text = format!("whether nodes have the images of the release is not known: {e}");
            findings.push(Finding::new(Severity::Note, "image", text));
            Arc::default()
        }
    };
    findings.extend(of_images(template, pods, &nodes));
    findings
}

/// Pure.
fn of_images(template: &Value, pods: &[(bool, PodState)], nodes: &[NodeImages]) -> Vec<Finding> {
    let nodes: Vec<&NodeImages> = nodes.iter().filter(|node| !node.images.is_empty()).collect();
    let mut findings = vec![];
    let distinct: BTreeMap<&str, &str> = images(template).into_iter().map(|(name, image)| (image, name)).collect();
    for (image, container) in distinct {
        let full = full_name(image);
        let never = pull_policy(template, container) == Some("Never");
        let have = nodes.iter().filter(|node| node.has(&full).is_some()).count();
        if have == 0 && !nodes.is_empty() {
            let all = nodes.iter().any(|node| node.images.len() >= LISTED);
            let listed = if all { " (a kubelet lists its 50 largest only)" } else { "" };
            findings.push(match never {
                true => Finding::new(
                    Severity::Warning,
                    "image",
                    format!("no node lists {image}{listed}, and it is never pulled: put it on the nodes"),
                ),
                false => Finding::new(
                    Severity::Note,
                    "image",
                    format!("no node lists {image}{listed}: it has to be pulled, so its registry must still have it"),
                ),
            });
        }
        if !image.contains('@') {
            findings.extend(moved(image, &full, pods, &nodes));
        }
    }
    findings
}

/// A tag that does not mean one image: pods of the wanted release run another one than other pods of that tag, or than
/// nodes have under it.
fn moved(image: &str, full: &str, pods: &[(bool, PodState)], nodes: &[&NodeImages]) -> Option<Finding> {
    // By the kind of id: that of a registry's manifest, and that of what a node made of it, cannot be compared.
    let mut means: BTreeMap<bool, BTreeMap<&str, BTreeSet<String>>> = BTreeMap::new();
    let mut learn = |id, who: String| {
        if let Some((of_registry, digest)) = digest_of(id) {
            means.entry(of_registry).or_default().entry(digest).or_default().insert(who);
        }
    };
    for (wanted, pod) in pods {
        for (container, id) in &pod.image_ids {
            let told = pod.images.iter().find(|(name, _)| name == container);
            if told.is_some_and(|(_, image)| full_name(image) == full) {
                let whose = if *wanted { "the release that is wanted" } else { "another release" };
                learn(id, format!("pods of {whose}"));
            }
        }
    }
    for node in nodes {
        for name in node.has(full).into_iter().flatten().filter(|name| name.contains('@')) {
            learn(name, format!("node {}", node.name));
        }
    }
    let several = means.into_values().find(|digests| digests.len() > 1)?;
    let said: Vec<String> = several
        .into_iter()
        .map(|(digest, who)| {
            let short: String = digest.chars().take("sha256:".len() + 12).collect();
            let more = if who.len() > 1 { format!(" and {} more", who.len() - 1) } else { String::new() };
            format!("{short} ({}{more})", who.into_iter().next().unwrap_or_default())
        })
        .collect();
    let text = format!(
        "the tag {image} does not mean one image: {}. The release may come back as another one than it was: deploy it by \
         digest",
        said.join(", ")
    );
    Some(Finding::new(Severity::Warning, "mutable-tag", text))
}

/// Whether it is a registry's, and the digest. `docker-pullable://shop@sha256:1` and `shop@sha256:1` are; `sha256:1` is not.
fn digest_of(id: &str) -> Option<(bool, &str)> {
    match id.rsplit_once('@') {
        Some((_, digest)) => Some((true, digest)),
        None => id.starts_with("sha256:").then_some((false, id)),
    }
}

/// As nodes name it: `docker.io/library/shop:latest`.
fn full_name(image: &str) -> String {
    let (name, rest) = match image.split_once('@') {
        Some((name, digest)) => (name, format!("@{digest}")),
        None => (image, String::new()),
    };
    let host = name.split_once('/').map(|(host, _)| host);
    let name = match host {
        Some(host) if host.contains(['.', ':']) || host == "localhost" => name.to_owned(),
        Some(_) => format!("docker.io/{name}"),
        None => format!("docker.io/library/{name}"),
    };
    let tagged = name.rsplit('/').next().is_some_and(|last| last.contains(':'));
    match (rest.is_empty(), tagged) {
        (true, false) => format!("{name}:latest"),
        (true, true) => name,
        // A digest decides, whatever tag stands beside it.
        (false, true) => format!("{}{rest}", name.rsplit_once(':').map_or(name.as_str(), |(bare, _)| bare)),
        (false, false) => format!("{name}{rest}"),
    }
}

fn pull_policy<'a>(template: &'a Value, container: &str) -> Option<&'a str> {
    let list = |at| template.pointer(at).and_then(Value::as_array).into_iter().flatten();
    let mut all = list("/spec/initContainers").chain(list("/spec/containers"));
    all.find(|found| found.get("name").and_then(Value::as_str) == Some(container))?.get("imagePullPolicy")?.as_str()
}

/// A finding for each pull secret that is gone. Whether it is there is all that is read of it.
async fn missing_pull_secrets(cluster: &Cluster, namespace: &str, template: &Value) -> Vec<Finding> {
    let names = template.pointer("/spec/imagePullSecrets").and_then(Value::as_array).into_iter().flatten();
    let names: BTreeSet<&str> = names.filter_map(|one| one.get("name").and_then(Value::as_str)).collect();
    let asked: Vec<_> = names
        .into_iter()
        .map(|name| async move {
            let e = is_there(cluster, namespace, &Reference { secret: true, name: name.into() }).await.err()?;
            Some(match e.kind() {
                Kind::NotFound => Finding::new(
                    Severity::Warning,
                    "pull-secret",
                    format!(
                        "the release pulls its images with the Secret {name}, which is gone: images that are not on a \
                         node already may not be had"
                    ),
                ),
                _ => Finding::new(
                    Severity::Note,
                    "pull-secret",
                    format!("whether the pull secret {name} is there is not known: {e}"),
                ),
            })
        })
        .collect();
    futures::future::join_all(asked).await.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use serde_json::json;

    fn template(image: &str, policy: &str) -> Value {
        json!({"spec": {"containers": [{"name": "app", "image": image, "imagePullPolicy": policy}]}})
    }
    fn pod(wanted: bool, image: &str, id: &str) -> (bool, PodState) {
        let pod = json!({"metadata": {}, "spec": {"containers": [{"name": "app", "image": image}]},
            "status": {"containerStatuses": [{"name": "app", "image": image, "imageID": id, "ready": true,
                "restartCount": 0}]}});
        (wanted, PodState::of(&serde_json::from_value(pod).unwrap()))
    }
    fn node(name: &str, images: &[&[&str]]) -> NodeImages {
        let images = images.iter().map(|names| names.iter().map(ToString::to_string).collect()).collect();
        NodeImages { name: name.into(), images }
    }
    fn found(findings: &[Finding]) -> Vec<(Severity, &str)> {
        findings.iter().map(|finding| (finding.severity, finding.code.as_str())).collect()
    }

    #[test]
    fn names_are_as_nodes_have_them() {
        for (image, full) in [
            ("shop", "docker.io/library/shop:latest"),
            ("team/shop:1", "docker.io/team/shop:1"),
            ("registry:5000/shop", "registry:5000/shop:latest"),
            ("localhost/shop:1", "localhost/shop:1"),
            ("ghcr.io/team/shop:1@sha256:01", "ghcr.io/team/shop@sha256:01"),
            ("shop@sha256:01", "docker.io/library/shop@sha256:01"),
        ] {
            assert_eq!(full_name(image), full);
        }
    }

    #[test]
    fn a_tag_that_was_moved_is_found() {
        let (one, two) = ("docker.io/library/shop@sha256:1", "docker.io/library/shop@sha256:2");
        let has = |digest| node("n1", &[&["docker.io/library/shop:1", digest]]);
        let moved = (Severity::Warning, "mutable-tag");
        for (what, image, pods, nodes, is) in [
            ("one meaning", "shop:1", vec![pod(true, "shop:1", one)], vec![has(one)], vec![]),
            (
                "other pods",
                "shop:1",
                vec![pod(true, "shop:1", one), pod(false, "shop:1", two)],
                vec![has(one)],
                vec![moved],
            ),
            ("a node", "shop:1", vec![pod(true, "shop:1", one)], vec![has(two)], vec![moved]),
            ("two nodes", "shop:1", vec![], vec![has(one), has(two)], vec![moved]),
            ("pods of another tag", "shop:1", vec![pod(false, "shop:2", two)], vec![has(one)], vec![]),
            ("ids of another kind", "shop:1", vec![pod(true, "shop:1", "sha256:3")], vec![has(one)], vec![]),
            ("by digest", "shop@sha256:1", vec![pod(false, "shop:1", two)], vec![has(one), has(two)], vec![]),
        ] {
            let findings = of_images(&template(image, "IfNotPresent"), &pods, &nodes);
            assert_eq!(found(&findings), is, "{what}: {findings:?}");
        }
        let findings = of_images(&template("shop:1", "Always"), &[pod(true, "shop:1", one)], &[has(two)]);
        assert!(findings[0].text.contains("node n1") && findings[0].text.contains("sha256:2"), "{findings:?}");
    }

    #[test]
    fn an_image_that_no_node_lists_has_to_be_pulled() {
        let other = || node("n1", &[&["docker.io/library/other:1"]]);
        let (note, warning) = ((Severity::Note, "image"), (Severity::Warning, "image"));
        for (policy, nodes, is) in [
            ("IfNotPresent", vec![other()], vec![note]),
            ("Never", vec![other()], vec![warning]),
            ("IfNotPresent", vec![other(), node("n2", &[&["docker.io/library/shop:1"]])], vec![]),
            // Nothing is known: nothing is said.
            ("IfNotPresent", vec![], vec![]),
            ("IfNotPresent", vec![node("virtual", &[])], vec![]),
        ] {
            assert_eq!(found(&of_images(&template("shop:1", policy), &[], &nodes)), is, "{policy} {nodes:?}");
        }
    }
}
