//! What is done at each deploy, so that there is something to go back to.

use super::Replicas;
use crate::{
    image,
    member::Member,
    pins, registry,
    release::{of_image, short},
    settings::{Given, Settings},
    spec,
};
use async_trait::async_trait;
use rollback_core::{Error, Kind, Record, Release, Result, Timestamp, minutes};
use std::time::Duration;

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
        let pin = pins::pin(&self.engine, &self.pins_at(), id, label, self.options.keep, Some(&given)).await;
        let pin = pin.map_err(|e| e.with_target(&self.id))?;
        if let Some(archive) = self.archive() {
            let kept = archive.keep(&self.engine, id, label, self.options.keep, &given).await;
            kept.map_err(|e| e.with_target(&self.id))?;
        }
        self.release_of(id, pin.at, label).await
    }
}

impl Replicas {
    async fn release_of(&self, image: &str, at: Timestamp, label: &str) -> Result<Release> {
        let all = self.releases(usize::MAX).await?;
        let found = all.into_iter().find(|release| release.id == of_image(image));
        Ok(found.unwrap_or_else(|| Release::new(of_image(image)).with_made_at(at)).with_label(label))
    }

    /// Fetches an image, and pins it.
    pub(crate) async fn pull(&self, name: &str) -> Result<Release> {
        let fetch = async {
            registry::pull(&self.engine, name, PULL_WITHIN).await?;
            let image = image::find(&self.engine, name).await?.and_then(|image| image.id);
            let gone = || Error::new(Kind::NotFound, format!("find {name}, which was pulled")).without_effect();
            let image = image.ok_or_else(gone)?;
            let pin = pins::pin(&self.engine, &self.pins_at(), &image, "", self.options.keep, None).await?;
            self.release_of(&image, pin.at, name).await
        };
        fetch.await.map_err(|e: Error| e.with_target(&self.id))
    }
}
