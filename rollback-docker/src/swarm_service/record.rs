//! Task templates that are kept, so that there is more to go back to than the one that Swarm remembers.
//!
//! They lie in the swarm itself, as configs: every manager has them, and who may read them may read the service too.

use super::{SwarmService, template};
use crate::error;
use bollard::{
    models::{Config, ConfigSpec, TaskSpec},
    query_parameters::ListConfigsOptions,
};
use rollback_core::{Error, Kind, ReleaseId, Result, Timestamp};
use std::collections::HashMap;

/// Which service a record is of.
const SERVICE: &str = "rollback.service";
const RELEASE: &str = "rollback.release";
const LABEL: &str = "rollback.label";
/// The template. In a label, because that is text, and the content of a config is for containers.
const TEMPLATE: &str = "rollback.template";
/// "rollback": a config must have a content.
const CONTENT: &str = "cm9sbGJhY2s=";

/// A template that was recorded.
#[derive(Clone, Debug)]
pub(super) struct Recorded {
    config: String,
    pub(super) release: ReleaseId,
    pub(super) label: String,
    pub(super) at: Option<Timestamp>,
    pub(super) spec: TaskSpec,
}

pub(super) fn timestamp(at: Option<&String>) -> Option<Timestamp> {
    let at = at?.parse::<jiff::Timestamp>().ok()?;
    u64::try_from(at.as_millisecond()).ok().map(Timestamp)
}

impl Recorded {
    fn read(config: Config) -> Option<Self> {
        let labels = config.spec?.labels?;
        let spec: TaskSpec = serde_json::from_str(labels.get(TEMPLATE)?).ok()?;
        let release = template::release(&spec);
        // One that was changed by hand, or by an engine with other defaults, is another release.
        (labels.get(RELEASE).map(String::as_str) == Some(release.as_str())).then_some(())?;
        Some(Self {
            config: config.id?,
            release,
            label: labels.get(LABEL).cloned().unwrap_or_default(),
            at: timestamp(config.created_at.as_ref()),
            spec,
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

    /// Keeps a template, and lets go of the oldest beyond what is kept.
    pub(super) async fn keep(&self, service: &str, spec: &TaskSpec, label: &str) -> Result<Recorded> {
        let release = template::release(spec);
        let there = self.recorded(service).await?;
        if let Some(known) = there.iter().find(|recorded| recorded.release == release) {
            return Ok(known.clone());
        }
        let client = self.inner.engine.client();
        let failed =
            |e: serde_json::Error| Error::new(Kind::Unexpected, "record the service").with_source(e).without_effect();
        let text = serde_json::to_string(spec).map_err(failed)?;
        let short = crate::release::short(release.as_str());
        let made = ConfigSpec {
            name: Some(format!("rollback-{}-{short}", service.get(..12).unwrap_or(service))),
            labels: Some(
                [(SERVICE, service), (RELEASE, release.as_str()), (LABEL, label), (TEMPLATE, &text)]
                    .map(|(name, value)| (name.to_owned(), value.to_owned()))
                    .into(),
            ),
            data: Some(CONTENT.into()),
            templating: None,
        };
        let made = client.create_config(made).await.map_err(error::write("record the service"))?;
        for old in there.into_iter().skip(self.inner.keep.saturating_sub(1)) {
            match client.delete_config(&old.config).await {
                Ok(()) => {}
                Err(e) if error::is_gone(&e) => {}
                Err(e) => return Err(error::write("let go of an old record")(e)),
            }
        }
        Ok(Recorded {
            config: made.id,
            release,
            label: label.to_owned(),
            at: Some(Timestamp::now()),
            spec: spec.clone(),
        })
    }
}
