//! Makes a change of a service ready.

use super::{
    SwarmService, Way,
    observe::{Known, Read},
    template,
};
use crate::diff;
use bollard::models::{
    ServiceSpecRollbackConfigOrderEnum as RollbackOrder, ServiceSpecUpdateConfigFailureActionEnum as OnFailure,
    ServiceSpecUpdateConfigOrderEnum as UpdateOrder,
};
use rollback_core::{Change, DiffLine, Error, Finding, Kind, Payload, Prepared, ReleaseId, Result, Severity, Stored};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeSet;

/// What apply is given.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct To {
    pub(super) way: Way,
}
impl Stored for To {
    const NAME: &'static str = "rollback-docker/swarm-to";
    const VERSION: u32 = 1;
}

fn short(id: &ReleaseId) -> &str {
    crate::release::short(id.as_str())
}

impl SwarmService {
    pub(super) async fn find(&self, id: &ReleaseId, read: &Read) -> Result<Known> {
        let known = self.known(read).await?;
        if let Some(found) = known.iter().find(|known| known.release.id == *id) {
            return Ok(found.clone());
        }
        let labels: Vec<&str> = known.iter().take(5).map(|known| known.release.label.as_str()).collect();
        Err(Error::new(Kind::NotFound, "find the release")
            .with_message(format!(
                "neither Swarm nor what was recorded has {}; known are {}: record the service at each deploy",
                short(id),
                labels.join(", ")
            ))
            .without_effect())
    }

    pub(super) async fn make_ready(&self, change: &Change) -> Result<Prepared> {
        let wanted = change.only_release()?;
        let read = self.read().await?;
        let found = self.find(wanted, &read).await?;
        let way = self.inner.way;
        if way == Way::Previous && read.told != *wanted {
            let previous = read.previous.as_ref().and_then(|previous| previous.task_template.as_ref());
            if previous.map(template::release).as_ref() != Some(wanted) {
                let which = previous.map_or_else(|| "none".to_owned(), template::image);
                return Err(Error::new(Kind::NotFound, "prepare the release")
                    .with_message(format!(
                        "Swarm remembers one spec, and it is not this one ({which}): order the rollback by a spec that is given, not by the one that Swarm remembers"
                    ))
                    .without_effect());
            }
        }
        let (from, to) = (template::canonical(&read.template), template::canonical(&found.spec));
        let mut lines =
            vec![DiffLine::new("release", short(&read.told), format!("{} ({})", short(wanted), found.release.label))];
        lines.extend(diff::of(&from, &to, true).into_iter().map(|(path, line)| match path.as_str() {
            // All in one value, of which any may be a secret.
            "ContainerSpec.Env" => env(&from, &to),
            _ => line,
        }));
        let mut prepared = Prepared::new(change).with_diff(diff::bounded(lines));
        for finding in findings(&read, &found, way) {
            prepared = prepared.with_finding(finding);
        }
        Ok(prepared.with_instructions(Payload::of(&To { way })?))
    }
}

/// The names of the variables that differ.
fn env(from: &Value, to: &Value) -> DiffLine {
    let list = |value: &Value| -> Vec<String> {
        let all = value["ContainerSpec"]["Env"].as_array().cloned().unwrap_or_default();
        all.iter().filter_map(|line| line.as_str().map(str::to_owned)).collect()
    };
    let names = |of: &[String], but: &[String]| {
        let differs = of.iter().filter(|line| !but.contains(line));
        let names: Vec<&str> =
            differs.map(|line| line.split_once('=').map_or(line.as_str(), |(name, _)| name)).collect();
        if names.is_empty() { "nothing".to_owned() } else { format!("{} (not shown)", names.join(", ")) }
    };
    let (from, to) = (list(from), list(to));
    DiffLine::new("environment", names(&from, &to), names(&to, &from))
}

fn findings(read: &Read, found: &Known, way: Way) -> Vec<Finding> {
    let mut findings = vec![];
    let mut find = |severity, code: &str, text: &str| findings.push(Finding::new(severity, code, text));
    let spec = &read.spec;
    find(
        Severity::Note,
        "nodes-unknown",
        "whether the nodes have the image, or can pull it, and room for it cannot be seen from a manager: a task that fails for \
         that is named",
    );
    let on_failure = spec.update_config.as_ref().and_then(|config| config.failure_action);
    let update_order = spec.update_config.as_ref().and_then(|config| config.order);
    let rollback_order = spec.rollback_config.as_ref().and_then(|config| config.order);
    match way {
        Way::Previous => {
            find(
                Severity::Note,
                "previous",
                "Swarm's own rollback also takes back replicas, networks and labels of the spec that it remembers",
            );
            if rollback_order == Some(RollbackOrder::START_FIRST) {
                find(
                    Severity::Blocks,
                    "start-first",
                    "Swarm's own rollback in the order start-first stops healthy old tasks before the new ones are up \
                     (moby#34111, moby#43081): order the rollback by a spec that is given, or set the rollback order to stop-first",
                );
            } else {
                find(Severity::Warning, "stop-first", "each task is stopped before the one in its place is started");
            }
        }
        Way::Given => {
            if update_order != Some(UpdateOrder::START_FIRST) {
                find(
                    Severity::Warning,
                    "stop-first",
                    "each task is stopped before the one in its place is started: with the update order start-first it \
                     would serve until then",
                );
            }
            match on_failure {
                Some(OnFailure::ROLLBACK) => find(
                    Severity::Warning,
                    "failure-action",
                    "if the release does not come up, Swarm goes back to the one that is left now, by itself",
                ),
                Some(OnFailure::CONTINUE) => find(
                    Severity::Warning,
                    "failure-action",
                    "if the release does not come up, Swarm replaces the healthy tasks all the same: set the failure \
                     action to pause, and it stops at the first",
                ),
                _ => {}
            }
        }
    }
    let lost: BTreeSet<&str> = read.lost.iter().chain(&found.lost).map(String::as_str).collect();
    if way == Way::Given && !lost.is_empty() {
        let names = lost.into_iter().collect::<Vec<_>>().join(", ");
        let text = format!(
            "the service uses settings that this version of the library does not know and would lose ({names}): have Swarm go \
             back by itself, or use a newer version"
        );
        find(Severity::Blocks, "newer-engine", &text);
    }
    findings
}
