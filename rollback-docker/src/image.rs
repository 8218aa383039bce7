//! Images: which one a name means now, and which ones there are to go back to.

use crate::{
    connect::Engine,
    error,
    pins::{self, PINS},
    release::{of_image, short},
};
use bollard::{
    models::{ImageConfig, ImageInspect, ImageSummary},
    query_parameters::ListImagesOptions,
};
use rollback_core::{Digest, Release, Result, Timestamp};
use std::collections::{BTreeMap, HashMap};

/// The image with this id or name, if the engine has it.
pub(crate) async fn find(engine: &Engine, name: &str) -> Result<Option<ImageInspect>> {
    match engine.client().inspect_image(name).await {
        Ok(image) => Ok(Some(image)),
        Err(e) if error::is_gone(&e) => Ok(None),
        Err(e) => Err(error::read(format!("look at the image {name}"))(e)),
    }
}

/// By which name, with its digest, a registry has it, if it came from one.
pub(crate) fn digest_name(image: &ImageInspect) -> Option<String> {
    image.repo_digests.iter().flatten().find(|name| name.contains('@') && !name.starts_with('<')).cloned()
}

/// What containers made from it start with; empty if it is gone.
pub(crate) async fn defaults(engine: &Engine, id: &str) -> Result<ImageConfig> {
    Ok(find(engine, id).await?.and_then(|image| image.config).unwrap_or_default())
}

/// The repository of a name: without tag and digest. `None` for an id.
pub(crate) fn repository(name: &str) -> Option<&str> {
    if name.starts_with("sha256:") || name.is_empty() {
        return None;
    }
    let name = name.split_once('@').map_or(name, |(name, _)| name);
    // A colon before the last slash is a registry's port.
    let from = name.rfind('/').map_or(0, |slash| slash + 1);
    Some(name[from..].find(':').map_or(name, |colon| &name[..from + colon]))
}

pub(crate) async fn list(engine: &Engine, filters: HashMap<String, Vec<String>>) -> Result<Vec<ImageSummary>> {
    let options = ListImagesOptions { filters: Some(filters), ..ListImagesOptions::default() };
    engine.client().list_images(Some(options)).await.map_err(error::read("list the images"))
}

/// What runs, and since when.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Runs {
    pub(crate) image: String,
    pub(crate) since: Timestamp,
    /// A rollback made its container. Then its pin says when it was deployed, once the rollback is through.
    pub(crate) by_rollback: bool,
}

/// Everything on the engine that a target could go back to: first what was deployed, newest first, which is what is pinned and
/// what runs; behind it other tags of the same repositories and images that Compose built for it, which nobody is known to have
/// deployed, as of when the image was made.
pub(crate) async fn releases(
    engine: &Engine,
    pins_at: &str,
    names: &[String],
    built_for: &[String],
    running: &[Runs],
) -> Result<Vec<Release>> {
    let mut found: BTreeMap<String, (Timestamp, Release)> = BTreeMap::new();
    let mut filters: Vec<HashMap<String, Vec<String>>> = vec![];
    let mut repositories: Vec<String> = names.iter().filter_map(|name| repository(name)).map(str::to_owned).collect();
    // A container that was started by the id of an image names no repository; its image has one all the same.
    for Runs { image, .. } in running {
        let tags = find(engine, image).await?.and_then(|image| image.repo_tags).unwrap_or_default();
        repositories
            .extend(tags.iter().filter(|tag| !tag.starts_with(PINS)).filter_map(|t| repository(t)).map(str::to_owned));
    }
    repositories.sort();
    repositories.dedup();
    if !repositories.is_empty() {
        filters.push([("reference".to_owned(), repositories)].into());
    }
    if !built_for.is_empty() {
        filters.push([("label".to_owned(), built_for.to_vec())].into());
    }
    for filter in filters {
        for image in list(engine, filter).await? {
            let made = Timestamp(u64::try_from(image.created).unwrap_or_default() * 1000);
            found.insert(image.id.clone(), (made, release(&image.id, &image.repo_tags, &image.repo_digests)));
        }
    }
    let pinned = pins::list(engine, pins_at).await?;
    for id in running.iter().map(|runs| &runs.image).chain(pinned.iter().map(|pin| &pin.image)) {
        if found.contains_key(id) {
            continue;
        }
        let (made, made_of) = match find(engine, id).await? {
            Some(image) => {
                let made = image.created.as_deref().and_then(|at| at.parse::<jiff::Timestamp>().ok());
                let made = made.and_then(|at| u64::try_from(at.as_millisecond()).ok()).unwrap_or_default();
                let (tags, digests) = (image.repo_tags.unwrap_or_default(), image.repo_digests.unwrap_or_default());
                (Timestamp(made), release(id, &tags, &digests))
            }
            // It runs, and was removed by force: there is no way back to it.
            None => (Timestamp(0), Release::new(of_image(id)).with_label(short(id)).unavailable()),
        };
        found.insert(id.clone(), (made, made_of.undeployed()));
    }
    for pin in &pinned {
        if let Some((at, release)) = found.get_mut(&pin.image) {
            if pin.how.was_deployed() {
                (*at, release.undeployed) = (pin.at, false);
            }
            for label in pin.labels.iter().rev() {
                call(release, label);
            }
        }
    }
    // Whoever deployed what runs came after all others, whatever any clock says.
    let last = pinned.iter().filter(|pin| pin.how.was_deployed()).map(|pin| pin.at).max();
    for Runs { image, since, by_rollback } in running {
        let Some((at, release)) = found.get_mut(image) else { continue };
        let known = !release.undeployed;
        release.undeployed = false;
        *at = match last {
            _ if *by_rollback => {
                if known {
                    *at
                } else {
                    *since
                }
            }
            Some(last) if known && *at == last => last,
            Some(last) => Timestamp(last.0 + 1).max(*since),
            None => *since,
        };
    }
    Ok(sorted(found.into_values().map(|(at, release)| release.with_made_at(at)).collect()))
}

/// What was deployed first, and newest first.
pub(crate) fn sorted(mut all: Vec<Release>) -> Vec<Release> {
    all.sort_by(|a, b| (a.undeployed, b.made_at, &b.id).cmp(&(b.undeployed, a.made_at, &a.id)));
    all
}

/// Gives it another label. What it was called until then still leads to it, unless that was its id.
pub(crate) fn call(release: &mut Release, label: &str) {
    if release.label == label {
        return;
    }
    let before = std::mem::replace(&mut release.label, label.to_owned());
    release.names.retain(|name| name != label);
    if before != release.id.short() && !release.names.contains(&before) {
        release.names.push(before);
    }
}

fn release(id: &str, tags: &[String], digests: &[String]) -> Release {
    let mut tags = tags.iter().filter(|tag| !tag.starts_with(PINS) && !tag.contains("<none>"));
    let digests = digests.iter().filter_map(|d| d.rsplit_once('@')).map(|(_, digest)| Digest::new(digest));
    let mut release = Release::new(of_image(id)).with_label(short(id)).with_artifacts(digests).undeployed();
    if let Some(tag) = tags.next() {
        release.label.clone_from(tag);
        // By the tag alone, too: there is mostly one repository.
        for tag in std::iter::once(tag).chain(tags) {
            let version = repository(tag).and_then(|repository| tag.strip_prefix(repository)?.strip_prefix(':'));
            release.names.extend(version.map(str::to_owned));
            release.names.extend((*tag != release.label).then(|| tag.clone()));
        }
    }
    release
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_repository_of_a_name() {
        for (name, repo) in [
            ("shop", Some("shop")),
            ("shop:2", Some("shop")),
            ("registry:5000/team/shop:2", Some("registry:5000/team/shop")),
            ("registry:5000/shop", Some("registry:5000/shop")),
            ("shop@sha256:ab", Some("shop")),
            ("sha256:ab", None),
            ("", None),
        ] {
            assert_eq!(repository(name), repo, "{name}");
        }
    }
}
