//! What is done at each deploy, so that there is something to go back to.

use super::{Replicas, observe::since};
use crate::{
    image,
    member::Member,
    pins::{self, How, Pinning},
    registry,
    release::{of_image, short},
    settings::{Given, Settings},
    spec,
};
use async_trait::async_trait;
use rollback_core::{Error, Kind, Record, Release, Result, Timestamp, minutes};
use std::{collections::BTreeMap, time::Duration};

/// How long an image may take to come.
const PULL_WITHIN: Duration = minutes(10);

#[async_trait]
impl Record for Replicas {
    /// Pins the image that runs, with what its containers were given, and puts both into the archive, if there is one.
    async fn record(&self, label: &str) -> Result<Release> {
        let running: Vec<Member> = self.members().await?.into_iter().filter(Member::runs).collect();
        let mut images: Vec<String> = running.iter().map(|m| m.image.clone()).collect();
        images.sort();
        images.dedup();
        let [id] = &images[..] else {
            let seen: Vec<&str> = images.iter().map(|id| short(id)).collect();
            let seen = if seen.is_empty() { "nothing".into() } else { seen.join(", ") };
            let e = Error::new(Kind::Conflict, "record the release that runs").with_target(&self.id).without_effect();
            return Err(e.with_message(format!("not just one image runs, but {seen}: record when the deploy is over")));
        };
        let defaults = image::defaults(&self.engine, id).await.map_err(|e| e.with_target(&self.id))?;
        let given = Settings::new(running.iter().map(|m| {
            let given = Given { image_name: m.image_name(), spec: spec::given(&m.seen, &defaults) };
            (m.place().to_owned(), given)
        }));
        let pinning = Pinning { label, given: Some(&given), ..self.pinning(id, How::Recorded) };
        let pinned = pins::pin(&self.engine, &self.pins_at(), pinning).await;
        let at = pinned.map_err(|e| e.with_target(&self.id))?;
        if let Some(archive) = self.archive() {
            let kept = archive.keep(&self.engine, id, label, self.options.keep, &given).await;
            kept.map_err(|e| e.with_target(&self.id))?;
        }
        self.release_of(id, at, label).await
    }
}

impl Replicas {
    async fn release_of(&self, image: &str, at: Timestamp, label: &str) -> Result<Release> {
        let all = self.releases(usize::MAX).await?;
        let found = all.into_iter().find(|release| release.id == of_image(image));
        let mut release = found.unwrap_or_else(|| Release::new(of_image(image)).with_made_at(at));
        // As it was given: a pin cannot have every letter.
        release.names.retain(|name| *name != label);
        Ok(release.with_label(label))
    }

    /// An image of its own is to be pinned, as of now.
    pub(super) fn pinning<'a>(&self, image: &'a str, how: How) -> Pinning<'a> {
        Pinning { image, label: "", how, at: Timestamp::now(), given: None, keep: self.options.keep, stays: None }
    }

    /// Before the first write: the images that are left did run, so they belong into the history, and no prune is to take
    /// them. Gives what could not be pinned: that is no reason not to roll back.
    pub(super) async fn pin_left(&self, members: &[Member], good: &str) -> Vec<String> {
        let mut left: BTreeMap<&str, Vec<&Member>> = BTreeMap::new();
        for member in members.iter().filter(|m| m.candidate_for().is_none() && m.image != good) {
            left.entry(&member.image).or_default().push(member);
        }
        let mut lost = vec![];
        for (image, members) in left {
            let at = members.iter().map(|m| since(m)).max().unwrap_or_else(Timestamp::now);
            // Without what they were given, which may be secrets: nobody asked for those to be kept.
            let pinning = Pinning { at, stays: Some(good), ..self.pinning(image, How::Ran) };
            match pins::pin(&self.engine, &self.pins_at(), pinning).await {
                Ok(_) => {}
                // Somebody removed it by force.
                Err(e) if e.kind() == Kind::NotFound => {}
                Err(e) => lost.push(format!("{}, which is left, could not be kept from a prune: {e}", short(image))),
            }
        }
        lost
    }

    /// It is deployed again: of all that is kept it is the newest.
    pub(super) async fn pin_reached(&self, good: &str) -> Vec<String> {
        let pin = async {
            pins::pin(&self.engine, &self.pins_at(), self.pinning(good, How::Ran)).await?;
            match self.archive() {
                Some(archive) => archive.deployed_again(good).await,
                None => Ok(()),
            }
        };
        let lost = |e| format!("{}, which was gone back to, could not be kept from a prune: {e}", short(good));
        pin.await.err().map(lost).into_iter().collect()
    }

    /// Fetches an image, and pins it.
    pub(crate) async fn pull(&self, name: &str) -> Result<Release> {
        let fetch = async {
            registry::pull(&self.engine, name, PULL_WITHIN).await?;
            let image = image::find(&self.engine, name).await?.and_then(|image| image.id);
            let gone = || Error::new(Kind::NotFound, format!("find {name}, which was pulled")).without_effect();
            let image = image.ok_or_else(gone)?;
            let at = pins::pin(&self.engine, &self.pins_at(), self.pinning(&image, How::Made)).await?;
            self.release_of(&image, at, name).await
        };
        fetch.await.map_err(|e: Error| e.with_target(&self.id))
    }
}
