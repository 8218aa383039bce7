//! Containers that are alike and do the same work: what a Compose service and a plain container have in common. One part,
//! whose release is the image that they run.
//!
//! Not here: which containers belong together, which [`Members`] says.

mod apply;
mod evidence;
mod observe;
mod pin_file;
mod place;
mod prepare;
mod record;

use crate::{
    archive::Archive,
    connect::Engine,
    error,
    member::{self, Member, candidate_name},
    pins,
    settings::Settings,
};
use bollard::{models::ContainerSummary, query_parameters::ListContainersOptions};
use rollback_core::{Error, Kind, Result, TargetId, seconds};
use std::{collections::BTreeSet, path::PathBuf, time::Duration};

/// Compose's labels.
pub(crate) const PROJECT: &str = "com.docker.compose.project";
pub(crate) const SERVICE: &str = "com.docker.compose.service";
const ONE_OFF: &str = "com.docker.compose.oneoff";
/// The id that the service's image had when Compose made the container. Compose makes it anew where that differs.
const COMPOSE_IMAGE: &str = "com.docker.compose.image";

/// In which order a container is replaced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Order {
    /// Start first, unless two cannot run side by side: a published port, the host's network, a fixed address.
    #[default]
    Auto,
    /// Stop the old one before the new one starts, and keep it until that one is healthy: for a service that must not run
    /// twice, a database on a volume.
    StopFirst,
}

/// Which containers belong to a target.
#[derive(Clone, Debug)]
pub(crate) enum Members {
    Compose { project: String, service: String },
    Named(String),
}

/// How they are replaced.
#[derive(Clone, Debug)]
pub(crate) struct ReplaceOptions {
    pub(crate) order: Order,
    pub(crate) drain: Duration,
    pub(crate) stable_for: Duration,
    pub(crate) keep: usize,
    pub(crate) archive: Option<PathBuf>,
    pub(crate) pin_file: Option<PathBuf>,
}

impl Default for ReplaceOptions {
    fn default() -> Self {
        Self { order: Order::Auto, drain: seconds(2), stable_for: seconds(3), keep: 10, archive: None, pin_file: None }
    }
}

/// Containers that are alike.
#[derive(Clone, Debug)]
pub(crate) struct Replicas {
    pub(crate) engine: Engine,
    pub(crate) id: TargetId,
    pub(crate) members: Members,
    pub(crate) options: ReplaceOptions,
}

impl Replicas {
    pub(crate) fn new(engine: Engine, members: Members) -> Self {
        let id = match &members {
            Members::Compose { project, service } => format!("compose:{}/{project}/{service}", engine.id()),
            Members::Named(name) => format!("container:{}/{name}", engine.id()),
        };
        Self { engine, id: TargetId::new(id), members, options: ReplaceOptions::default() }
    }
    /// What tells it from another one on the same engine.
    pub(crate) fn object(&self) -> String {
        match &self.members {
            Members::Compose { project, service } => format!("compose service {project}/{service}"),
            Members::Named(name) => format!("container {name}"),
        }
    }
    /// Where its pins lie.
    fn pins_at(&self) -> String {
        let name = match &self.members {
            Members::Compose { project, service } => format!("{project}/{service}"),
            Members::Named(name) => name.clone(),
        };
        pins::pins_of(&name)
    }
    /// Where its images are kept outside of the engine.
    fn archive(&self) -> Option<Archive> {
        self.options.archive.as_deref().map(|dir| Archive::of(dir, &self.pins_at()))
    }
    /// Its containers, running or not, oldest first.
    ///
    /// # Errors
    /// [`Kind::Invalid`] if another engine answers by now.
    async fn list(&self) -> Result<Vec<Member>> {
        self.engine.reading(self.ask()).await
    }
    async fn ask(&self) -> Result<Vec<Member>> {
        match &self.members {
            Members::Compose { project, service } => {
                let labels =
                    [format!("{PROJECT}={project}"), format!("{SERVICE}={service}"), format!("{ONE_OFF}=False")];
                member::list(&self.engine, "label", &labels).await
            }
            Members::Named(name) => {
                let names = [format!("^/{name}$"), format!("^/{}$", candidate_name(name))];
                let all = member::list(&self.engine, "name", &names).await?;
                // A container that only happens to have such a name is none of it.
                Ok(all.into_iter().filter(|m| m.place() == *name).collect())
            }
        }
    }
    /// Its containers; none only where a record says how they are made again, and otherwise an error.
    pub(crate) async fn present(&self) -> Result<Vec<Member>> {
        let all = self.list().await?;
        if all.is_empty() && !self.is_recorded().await? { self.members().await } else { Ok(all) }
    }
    /// Does any record say what its containers were given?
    async fn is_recorded(&self) -> Result<bool> {
        for pin in pins::list(&self.engine, &self.pins_at()).await? {
            if self.recorded(&pin.image).await?.is_some() {
                return Ok(true);
            }
        }
        let Some(archive) = self.archive() else { return Ok(false) };
        Ok(archive.notes()?.iter().any(|note| archive.settings(&note.image).is_some()))
    }
    /// What the containers of an image were given when it was recorded, if that is known.
    async fn recorded(&self, image: &str) -> Result<Option<Settings>> {
        let held = pins::settings(&self.engine, &self.pins_at(), image).await?;
        Ok(held.or_else(|| self.archive().and_then(|archive| archive.settings(image))))
    }
    /// Its containers; an error if there are none.
    pub(crate) async fn members(&self) -> Result<Vec<Member>> {
        let all = self.list().await?;
        if all.is_empty() {
            let why = self.who_is_there().await?;
            let e = Error::new(Kind::NotFound, format!("find the {}", self.object()));
            return Err(e.with_message(why).with_target(&self.id).without_effect());
        }
        Ok(all)
    }
    /// There is no container of it: a name may have been mistyped.
    async fn who_is_there(&self) -> Result<String> {
        let options = ListContainersOptions { all: true, ..ListContainersOptions::default() };
        let all = self.engine.client().list_containers(Some(options)).await;
        let all = all.map_err(error::read("list the containers"))?;
        let listed = |names: Vec<String>| match &names.into_iter().collect::<BTreeSet<_>>() {
            none if none.is_empty() => "none".to_owned(),
            names => names.iter().map(String::as_str).collect::<Vec<_>>().join(", "),
        };
        let labels = |label: &str, of: Option<&str>| {
            let of = |c: &&ContainerSummary| of.is_none_or(|of| label_of(c, PROJECT).as_deref() == Some(of));
            // What holds an image has them too, and empty.
            let named = all.iter().filter(of).filter_map(|c| label_of(c, label));
            listed(named.filter(|name| !name.is_empty()).collect())
        };
        Ok(match &self.members {
            Members::Compose { project, service } => match labels(SERVICE, Some(project)).as_str() {
                "none" => format!(
                    "it has no container, nor has any other service of a project {project}; the projects here are {}",
                    labels(PROJECT, None)
                ),
                services => format!(
                    "it has no container; the services of {project} that have one are {services}: if {service} is one of the \
                     project's, docker compose up -d makes its container"
                ),
            },
            Members::Named(_) => {
                let names =
                    all.iter().flat_map(|c| c.names.iter().flatten()).map(|n| n.trim_start_matches('/').to_owned());
                let names = names.filter(|name| !name.starts_with(pins::HOLDERS)).collect();
                format!("there is no container of this name; those that are there: {}", listed(names))
            }
        })
    }
}

fn label_of(container: &ContainerSummary, label: &str) -> Option<String> {
    container.labels.as_ref()?.get(label).cloned()
}
