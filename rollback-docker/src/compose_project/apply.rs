//! Carries a change of a project out: images first, then the files, then the containers.

use super::{
    ComposeProject, Mode,
    archive::{About, Begun, Image, Phase},
    compose::Staged,
    files,
    observe::{Read, Seen, short},
    prepare::Up,
    source,
};
use crate::{error, pins::How};
use bollard::query_parameters::TagImageOptions;
use rollback_core::{Applied, Approved, Error, Kind, ReleaseId, Result, Running, Settled, Timestamp, Token, Work};
use std::collections::BTreeMap;

impl ComposeProject {
    /// # Errors
    /// [`Kind::Invalid`] if another engine answers by now; with what effect, it says itself.
    pub(super) async fn carry_out(&self, approved: &Approved, token: Token, work: &Work) -> Result<Applied> {
        match self.steps(approved, token, work).await {
            Err(e) => Err(self.inner.engine.explain(e).await),
            done => done,
        }
    }

    async fn steps(&self, approved: &Approved, token: Token, work: &Work) -> Result<Applied> {
        let operation = "roll the project back";
        let wanted = approved.change.only_release()?;
        let (up, seen): (Up, Seen) = (approved.read()?, token.read()?);
        let conflict = |why: String| Error::new(Kind::Conflict, operation).with_message(why).without_effect();
        if work.is_cancelled() {
            return Err(conflict("this run has lost its lease".into()));
        }
        let here = &self.inner;
        self.check_dir()?;
        let lock = here.archive.lock().await?;
        let read = self.read().await?;
        if read.seen != seen {
            let what = if read.seen.files == seen.files { "containers" } else { "files" };
            return Err(conflict(format!("somebody changed the {what} since they were looked at")));
        }
        let running = read.running();
        let runs =
            matches!(&running, Running::Release(release) if release == wanted) && read.told.as_ref() == Some(wanted);
        if runs && read.settled(&running) == Settled::Yes {
            self.finish(&read, wanted)?;
            return Ok(Applied::done());
        }
        let found = self.find(wanted, &read).await?;
        let staged = self.stage(&found.set)?;
        let left = read.set.as_ref().map(|set| self.stage(set)).transpose()?;

        // What can fail without harm comes first.
        for image in up.images.values() {
            self.name_again(image).await?;
        }
        let model = here.compose.model(Some(&staged)).await?;
        let mut begun = Begun {
            key: work.key(),
            run: work.run().clone(),
            epoch: work.epoch(),
            from: match read.pending() {
                Some(pending) if pending.to == *wanted => pending.from.clone(),
                _ => up.from.clone(),
            },
            to: wanted.clone(),
            phase: Phase::Files,
            at: Timestamp::now(),
        };
        let mut notes = vec![];
        if read.told.as_ref() != Some(wanted) {
            notes.extend(self.keep_left(&read).await?);
        }
        let hashes = model.services.iter().map(|(name, service)| (name.clone(), service.hash.clone())).collect();
        let about = About {
            id: wanted.clone(),
            label: found.release.label.clone(),
            names: vec![],
            // Not yet: it may never come up.
            how: How::Made,
            at: found.release.made_at.unwrap_or(begun.at),
            why: found.release.why.clone(),
            hashes,
            images: BTreeMap::new(),
        };
        // The hashes that were recorded are those of containers; these are only what Compose makes of the files today.
        let known = here.archive.about(wanted).is_some_and(|about| !about.hashes.is_empty());
        here.archive
            .keep(&found.set, About { hashes: if known { BTreeMap::new() } else { about.hashes.clone() }, ..about })?;
        here.archive.begin(&begun)?;
        if let Some(trace) = work.trace() {
            here.archive.leave(trace)?;
        }
        if let Some(left) = read.told.as_ref().filter(|left| *left != wanted && read.set.is_some()) {
            here.archive.keep_diff(left, wanted, &self.diff(&read, &found, &model))?;
        }
        files::write(&here.compose.slots, &found.set, &read.live)?;

        let within = work.within();
        begun.phase = Phase::Down;
        here.archive.begin(&begun).map_err(after)?;
        here.engine.is_same().await.map_err(error::with_effect)?;
        if up.mode == Mode::DownUp && !runs && !read.containers.is_empty() {
            // Never with --volumes: what is in them stays.
            here.compose.run(left.as_ref(), &["down"], within).await?;
        } else if !up.remove.is_empty() {
            self.remove(&up.remove, left.as_ref(), work).await?;
        }
        begun.phase = Phase::Up;
        here.archive.begin(&begun).map_err(after)?;
        here.engine.is_same().await.map_err(error::with_effect)?;
        here.compose.run(None, &["up", "--detach", "--no-build"], within).await?;
        begun.phase = Phase::Done;
        here.archive.begin(&begun).map_err(after)?;
        // What nobody has deployed before is deployed once somebody records it, or finds it healthy.
        if let Some(about) = here.archive.about(wanted).filter(|_| !found.release.undeployed) {
            let again = About { how: How::Ran, at: Timestamp::now(), ..about };
            let again = here.archive.keep(&found.set, again).map_err(after)?;
            notes.extend(self.pin(&again).await.err().map(not_pinned));
        }
        let stay: Vec<&ReleaseId> = read.told.iter().chain([wanted]).collect();
        here.archive.prune(&stay);
        drop(lock);
        Ok(Applied::submitted().with_notes(notes))
    }

    /// It is so already: what an interrupted run did not come to note.
    fn finish(&self, read: &Read, wanted: &ReleaseId) -> Result<()> {
        match read.pending() {
            Some(begun) if begun.to == *wanted => {
                self.inner.archive.begin(&Begun { phase: Phase::Done, ..begun.clone() })
            }
            _ => Ok(()),
        }
    }

    /// The files that are replaced, with what their containers were. Gives what could not be kept from a prune: that is no
    /// reason not to roll back.
    async fn keep_left(&self, read: &Read) -> Result<Option<String>> {
        let here = &self.inner;
        let (Some(set), Some(told)) = (&read.set, &read.told) else { return Ok(None) };
        let runs = matches!(read.running(), Running::Release(release) if release == *told);
        let (hashes, images) = if runs { read.as_run() } else { Default::default() };
        let at = here.compose.slots.iter().filter_map(|slot| source::written(&slot.path)).max();
        let known = here.archive.about(told);
        // A rollback that got stuck on it is nobody's deploy.
        let stuck = read.begun.as_ref().is_some_and(|begun| begun.to == *told && begun.phase != Phase::Done);
        let kept = here.archive.keep(
            set,
            About {
                id: told.clone(),
                label: known.map_or_else(|| format!("replaced {}", short(told)), |about| about.label),
                names: vec![],
                how: if stuck { How::Made } else { How::Ran },
                at: at.unwrap_or_else(Timestamp::now),
                why: None,
                hashes,
                images,
            },
        )?;
        Ok(self.pin(&About { label: String::new(), ..kept }).await.err().map(not_pinned))
    }

    /// Lets a name mean an image again.
    async fn name_again(&self, image: &Image) -> Result<()> {
        let (repo, tag) = match image.name.rsplit_once(':') {
            Some((repo, tag)) if !tag.contains('/') => (repo.to_owned(), tag.to_owned()),
            _ => (image.name.clone(), "latest".to_owned()),
        };
        // One that is named by its digest cannot be moved, and need not be.
        if image.name.contains('@') || image.name.starts_with("sha256:") {
            return Ok(());
        }
        let options = TagImageOptions { repo: Some(repo), tag: Some(tag) };
        let named = self.inner.engine.client().tag_image(&image.id, Some(options)).await;
        // A name alone changes nothing that runs.
        named.map_err(|e| error::write(format!("name the image {}", image.name))(e).without_effect())
    }

    /// Services that the release does not have, and no others: another file may make containers of the same project.
    async fn remove(&self, services: &[String], left: Option<&Staged>, work: &Work) -> Result<()> {
        let mut arguments = vec!["rm", "--stop", "--force"];
        arguments.extend(services.iter().map(String::as_str));
        self.inner.compose.run(left, &arguments, work.within()).await.map(|_| ())
    }
}

fn not_pinned(e: Error) -> String {
    format!("its images could not be kept from a prune: {e}")
}

/// The files are replaced already.
fn after(e: Error) -> Error {
    Error::new(e.kind(), "note how far the rollback is").with_source(e)
}

impl Read {
    /// What the containers of each service are labelled with, and run.
    pub(super) fn as_run(&self) -> (BTreeMap<String, String>, BTreeMap<String, Image>) {
        let hashes = self.containers.iter().map(|c| (c.service.clone(), c.hash.clone())).collect();
        let image =
            |service: &str| self.model.as_ref().ok()?.services.get(service).map(|service| service.image.clone());
        let images = self
            .containers
            .iter()
            .filter_map(|c| {
                Some((c.service.clone(), Image { name: image(&c.service)?, id: c.image.clone(), pull: None }))
            })
            .collect();
        (hashes, images)
    }
}
