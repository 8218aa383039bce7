//! Makes a change of a project ready: everything that can be found out before anything is touched. Images that are not there
//! are fetched: that touches nothing that runs.

use super::{
    ComposeProject, Mode,
    archive::Image,
    model::{Model, diff_of_files},
    observe::{Read, short},
    source::Found,
};
use crate::{disk, image, registry};
use rollback_core::{
    Change, DiffLine, Error, Finding, Kind, Payload, Prepared, ReleaseId, Result, Severity, Stored, Work,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What apply is given.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Up {
    pub(super) from: Option<ReleaseId>,
    pub(super) to: ReleaseId,
    pub(super) mode: Mode,
    /// What the names of images meant when the release was recorded, by service.
    pub(super) images: BTreeMap<String, Image>,
    /// Services that the release does not have any more.
    pub(super) remove: Vec<String>,
}
impl Stored for Up {
    const NAME: &'static str = "rollback-docker/compose-project-up";
    const VERSION: u32 = 1;
}

impl ComposeProject {
    /// The release and its files.
    ///
    /// # Errors
    /// [`Kind::NotFound`], without effect, with what is there and why not more.
    pub(super) async fn find(&self, id: &ReleaseId, read: &Read) -> Result<Found> {
        let all = self.releases(read.set.as_ref()).await?;
        if let Some(found) = all.get(id) {
            return Ok(found.clone());
        }
        let newest: Vec<&str> = all.found.iter().take(5).map(|found| found.release.label.as_str()).collect();
        let mut message = format!("there is no {}; the newest are {}", short(id), newest.join(", "));
        for why in all.lacking.iter().take(3) {
            message += &format!("; {why}");
        }
        Err(Error::new(Kind::NotFound, "find the release").with_message(message).without_effect())
    }

    pub(super) async fn make_ready(&self, change: &Change, work: &Work) -> Result<Prepared> {
        let wanted = change.only_release()?;
        let here = &self.inner;
        let read = self.read().await?;
        let found = self.find(wanted, &read).await?;
        let staged = self.stage(&found.set)?;
        let to = here.compose.model(Some(&staged)).await?;
        if !to.unset.is_empty() {
            let names: Vec<&str> = to.unset.iter().map(String::as_str).collect();
            return Err(Error::new(Kind::Invalid, "prepare the release")
                .with_message(format!(
                    "nobody sets {}, which would be empty: set it in the environment file, or in this process's \
                     environment as the deploy does",
                    names.join(", ")
                ))
                .without_effect());
        }
        let recorded = here.archive.about(wanted).map(|about| about.images).unwrap_or_default();
        let mut prepared = Prepared::new(change);
        let (images, pull) = self.images(&to, &recorded, work, &mut prepared).await?;
        if !pull.is_empty() {
            // By Compose: it knows for which platform. Nothing that runs is touched.
            let mut arguments = vec!["pull", "--quiet"];
            arguments.extend(pull.iter().map(String::as_str));
            here.compose.run(Some(&staged), &arguments, work.within()).await.map_err(Error::without_effect)?;
        }
        for finding in self.findings(&read, &to).into_iter().chain(disk::finding(&here.engine).await?) {
            prepared = prepared.with_finding(finding);
        }
        let remove = read.model.as_ref().map_or(vec![], |from| {
            from.services.keys().filter(|name| !to.services.contains_key(*name)).cloned().collect()
        });
        let from = match read.running() {
            rollback_core::Running::Release(release) => Some(release),
            _ => read.told.clone(),
        };
        let mut diff = vec![DiffLine::new(
            "release",
            from.as_ref().map_or_else(|| "unknown".to_owned(), |from| short(from).to_owned()),
            format!("{} ({})", short(wanted), found.release.label),
        )];
        diff.extend(self.diff(&read, &found, &to));
        let up = Up { from, to: wanted.clone(), mode: here.mode, images, remove };
        Ok(prepared.with_diff(diff).with_instructions(Payload::of(&up)?))
    }

    pub(super) fn diff(&self, read: &Read, found: &Found, to: &Model) -> Vec<DiffLine> {
        let mut diff = match &read.model {
            Ok(from) => from.diff(to),
            Err(_) => vec![DiffLine::new("the Compose files", "not readable", "readable")],
        };
        diff.extend(diff_of_files(&self.inner.compose.slots, &read.live.0, &found.set));
        diff
    }

    /// Every image is here, or can be had, before anything is stopped. Gives the names that are to mean again what they meant
    /// then, and whose images are to be pulled.
    async fn images(
        &self,
        to: &Model,
        recorded: &BTreeMap<String, Image>,
        work: &Work,
        prepared: &mut Prepared,
    ) -> Result<(BTreeMap<String, Image>, Vec<String>)> {
        let (mut back, mut pull) = (BTreeMap::new(), vec![]);
        for (name, service) in to.services.iter().filter(|(_, service)| service.replicas > 0) {
            let now = image::find(&self.inner.engine, &service.image).await?.and_then(|image| image.id);
            let then = recorded.get(name).filter(|image| image.name == service.image);
            let mut find =
                |severity, code: &str, text: String| prepared.findings.push(Finding::new(severity, code, text));
            match (&now, then) {
                (Some(now), Some(then)) if *now == then.id => {}
                (_, Some(then)) if self.is_back(then, work).await? => {
                    find(
                        Severity::Warning,
                        "mutable-tag",
                        format!(
                            "{} was {} when the release was recorded, and will be again; the next pull or build may undo \
                             it: name images by their digest, or give each a tag of its own",
                            then.name,
                            crate::release::short(&then.id)
                        ),
                    );
                    back.insert(name.clone(), then.clone());
                }
                (_, Some(then)) => find(
                    Severity::Blocks,
                    "image",
                    format!(
                        "{name} ran {} ({}), which is gone: pull or load it, or choose another release",
                        crate::release::short(&then.id),
                        then.name
                    ),
                ),
                (Some(_), None) => {}
                (None, None) if service.build => find(
                    Severity::Blocks,
                    "image",
                    format!(
                        "{name} was built here, and its image {} is gone: a rollback does not build; build and tag it, or \
                         choose another release",
                        service.image
                    ),
                ),
                (None, None) => {
                    pull.push(name.clone());
                    let what = format!("{} was not on this engine: it was pulled", service.image);
                    find(Severity::Note, "image-back", what);
                }
            }
        }
        Ok((back, pull))
    }

    /// The image that was recorded is there, or was to be had where it came from.
    async fn is_back(&self, then: &Image, work: &Work) -> Result<bool> {
        let engine = &self.inner.engine;
        if let (None, Some(name)) = (image::find(engine, &then.id).await?, &then.pull) {
            registry::pull(engine, name, work.within()).await?;
        }
        Ok(image::find(engine, &then.id).await?.is_some())
    }

    fn findings(&self, read: &Read, to: &Model) -> Vec<Finding> {
        let here = &self.inner;
        let mut findings = vec![];
        if let Some(other) = read
            .containers
            .iter()
            .find(|c| !c.working_dir.is_empty() && std::path::Path::new(&c.working_dir) != here.compose.dir)
        {
            findings.push(Finding::new(
                Severity::Blocks,
                "directory",
                format!("{} was made from {}: that directory is the project's", other.name, other.working_dir),
            ));
        }
        let places: Vec<_> = here.compose.slots.iter().map(|slot| slot.path.display().to_string()).collect();
        let more = read.containers.iter().flat_map(|c| &c.config_files).find(|file| !places.contains(file));
        if let Some(more) = more {
            findings.push(Finding::new(
                Severity::Blocks,
                "files",
                format!(
                    "the containers were made from {more} too, which this target does not know: name it among its files"
                ),
            ));
        }
        for file in &to.reads {
            if !places.contains(file) {
                findings.push(Finding::new(
                    Severity::Note,
                    "not-covered",
                    format!("{file} stays as it is: a release does not cover it, unless it is named among its files"),
                ));
            }
        }
        if here.sources.iter().any(|source| matches!(source, super::source::Source::Git(_))) {
            findings.push(Finding::new(
                Severity::Note,
                "git",
                "the files will differ from what is checked out: commit them, or the next checkout undoes the rollback",
            ));
        }
        findings
    }
}
