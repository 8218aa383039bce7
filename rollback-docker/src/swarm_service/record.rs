//! Task templates that are kept, so that there is more to go back to than the one that Swarm remembers.
//!
//! They lie in the swarm itself, as configs: every manager has them, and who may read them may read the service too.

use super::{SwarmService, template};
use crate::{error, pins::How};
use bollard::{
    models::{Config, ConfigSpec, TaskSpec},
    query_parameters::{ListConfigsOptions, UpdateConfigOptionsBuilder},
};
use rollback_core::{Error, Kind, ReleaseId, Result, Timestamp};
use std::collections::HashMap;

/// Which service a record is of.
const SERVICE: &str = "rollback.service";
const RELEASE: &str = "rollback.release";
const LABEL: &str = "rollback.label";
/// What it was recorded as before, one a line.
const NAMES: &str = "rollback.names";
/// Why it is kept, and when it was deployed last, in milliseconds: a config itself cannot be written again, its labels can.
const HOW: &str = "rollback.how";
const AT: &str = "rollback.at";
/// As [`HOW`] has it.
const RAN: &str = "ran";
/// The template. In a label, because that is text, and the content of a config is for containers.
const TEMPLATE: &str = "rollback.template";
/// "rollback": a config must have a content.
const CONTENT: &str = "cm9sbGJhY2s=";

/// A template that was recorded.
#[derive(Clone, Debug)]
pub(super) struct Recorded {
    config: String,
    version: u64,
    written: ConfigSpec,
    how: How,
    pub(super) release: ReleaseId,
    pub(super) label: String,
    pub(super) names: Vec<String>,
    pub(super) at: Option<Timestamp>,
    pub(super) spec: TaskSpec,
}

pub(super) fn timestamp(at: Option<&String>) -> Option<Timestamp> {
    let at = at?.parse::<jiff::Timestamp>().ok()?;
    u64::try_from(at.as_millisecond()).ok().map(Timestamp)
}

impl Recorded {
    fn read(config: Config) -> Option<Self> {
        let written = config.spec?;
        let labels = written.labels.clone()?;
        let spec: TaskSpec = serde_json::from_str(labels.get(TEMPLATE)?).ok()?;
        let release = template::release(&spec);
        // One that was changed by hand, or by an engine with other defaults, is another release.
        (labels.get(RELEASE).map(String::as_str) == Some(release.as_str())).then_some(())?;
        let at = labels.get(AT).and_then(|at| at.parse().ok()).map(Timestamp);
        let how = labels.get(HOW).map_or(How::Recorded, |how| if how == RAN { How::Ran } else { How::Recorded });
        Some(Self {
            config: config.id?,
            version: config.version?.index?,
            how,
            release,
            label: labels.get(LABEL).cloned().unwrap_or_default(),
            names: labels.get(NAMES).map(|names| names.lines().map(str::to_owned).collect()).unwrap_or_default(),
            at: at.or_else(|| timestamp(config.created_at.as_ref())),
            spec,
            written,
        })
    }
}

impl SwarmService {
    /// Newest first.
    pub(super) async fn recorded(&self, service: &str) -> Result<Vec<Recorded>> {
        let filters = HashMap::from([("label".to_owned(), vec![format!("{SERVICE}={service}")])]);
        let options = ListConfigsOptions { filters: Some(filters) };
        let all = self.inner.engine.client().list_configs(Some(options)).await;
        let all = all.map_err(error::read("list what was recorded of the service"))?;
        let mut all: Vec<Recorded> = all.into_iter().filter_map(Recorded::read).collect();
        all.sort_by(|a, b| (b.at, &b.config).cmp(&(a.at, &a.config)));
        Ok(all)
    }

    /// Keeps a template as of a deploy: without a label as what it was, or under the name of its image. Of those that are kept
    /// for the same reason, lets go of the ones beyond that were deployed the longest ago, but for `stays`.
    pub(super) async fn keep(&self, service: &str, spec: &TaskSpec, wanted: Keep<'_>) -> Result<Recorded> {
        let release = template::release(spec);
        let there = self.recorded(service).await?;
        let client = self.inner.engine.client();
        let known = there.iter().find(|recorded| recorded.release == release);
        let how = known.map_or(wanted.how, |known| known.how.min(wanted.how));
        let kept = match known {
            Some(known) => {
                let label = wanted.label.unwrap_or(&known.label).to_owned();
                let mut names = known.names.clone();
                names.retain(|name| *name != label);
                if known.label != label && !known.label.is_empty() {
                    names.push(known.label.clone());
                }
                let at = known.at.max(Some(wanted.at));
                let kept = Recorded { how, label, names, at, ..known.clone() };
                let mut made = kept.written.clone();
                made.labels.get_or_insert_default().extend(kept.labels());
                let version = i64::try_from(kept.version).unwrap_or_default();
                let options = UpdateConfigOptionsBuilder::new().version(version).build();
                // Whoever wrote it in between has recorded it, too.
                match client.update_config(&kept.config, made, options).await {
                    Err(e) if e.to_string().contains("out of sequence") => {}
                    other => other.map_err(error::write("record the service"))?,
                }
                kept
            }
            None => {
                let failed = |e: serde_json::Error| {
                    Error::new(Kind::Unexpected, "record the service").with_source(e).without_effect()
                };
                let text = serde_json::to_string(spec).map_err(failed)?;
                let short = crate::release::short(release.as_str()).to_owned();
                let mut kept = Recorded {
                    config: String::new(),
                    version: 0,
                    written: ConfigSpec::default(),
                    how,
                    label: wanted.label.map_or_else(|| template::image(spec), str::to_owned),
                    names: vec![],
                    at: Some(wanted.at),
                    spec: spec.clone(),
                    release,
                };
                let own = [(SERVICE, service), (RELEASE, kept.release.as_str()), (TEMPLATE, &text)];
                let own = own.map(|(name, value)| (name.to_owned(), value.to_owned()));
                let made = ConfigSpec {
                    name: Some(format!("rollback-{}-{short}", service.get(..12).unwrap_or(service))),
                    labels: Some(own.into_iter().chain(kept.labels()).collect()),
                    data: Some(CONTENT.into()),
                    templating: None,
                };
                kept.config = client.create_config(made).await.map_err(error::write("record the service"))?.id;
                kept
            }
        };
        let alike = there.iter().filter(|other| other.how == how && other.release != kept.release);
        let old = alike.skip(self.inner.keep.saturating_sub(1)).filter(|old| Some(&old.release) != wanted.stays);
        for old in old {
            match client.delete_config(&old.config).await {
                Ok(()) => {}
                Err(e) if error::is_gone(&e) => {}
                Err(e) => return Err(error::write("let go of an old record")(e)),
            }
        }
        Ok(kept)
    }
}

/// As what a template is kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct Keep<'a> {
    pub(super) label: Option<&'a str>,
    pub(super) how: How,
    pub(super) at: Timestamp,
    pub(super) stays: Option<&'a ReleaseId>,
}

impl Recorded {
    /// The labels that change with each deploy.
    fn labels(&self) -> HashMap<String, String> {
        let how = if self.how == How::Recorded { "recorded" } else { RAN };
        let at = self.at.unwrap_or(Timestamp(0)).0.to_string();
        [(LABEL, self.label.clone()), (NAMES, self.names.join("\n")), (HOW, how.to_owned()), (AT, at)]
            .map(|(name, value)| (name.to_owned(), value))
            .into()
    }
}
