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

/// Everything on the engine that a target could go back to, newest first: what is pinned, as of its pin; other tags of the
/// same repositories, images that Compose built for it and what runs, as of when the image was made.
pub(crate) async fn releases(
    engine: &Engine,
    pins_at: &str,
    names: &[String],
    built_for: &[String],
    running: &[String],
) -> Result<Vec<Release>> {
    let mut found: BTreeMap<String, (Timestamp, Release)> = BTreeMap::new();
    let mut filters: Vec<HashMap<String, Vec<String>>> = vec![];
    let mut repositories: Vec<String> = names.iter().filter_map(|name| repository(name)).map(str::to_owned).collect();
    // A container that was started by the id of an image names no repository; its image has one all the same.
    for id in running {
        let tags = find(engine, id).await?.and_then(|image| image.repo_tags).unwrap_or_default();
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
    for id in running.iter().chain(pinned.iter().map(|pin| &pin.image)) {
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
        found.insert(id.clone(), (made, made_of));
    }
    for pin in pinned {
        if let Some((at, release)) = found.get_mut(&pin.image) {
            *at = pin.at;
            if let Some(label) = pin.label {
                release.label = label;
            }
        }
    }
    let mut all: Vec<_> = found.into_values().collect();
    all.sort_by(|(a, x), (b, y)| (b, &y.id).cmp(&(a, &x.id)));
    Ok(all.into_iter().map(|(at, release)| release.with_made_at(at)).collect())
}

fn release(id: &str, tags: &[String], digests: &[String]) -> Release {
    let tag = tags.iter().find(|tag| !tag.starts_with(PINS) && !tag.contains("<none>"));
    let label = tag.cloned().unwrap_or_else(|| short(id).to_owned());
    let digests = digests.iter().filter_map(|d| d.rsplit_once('@')).map(|(_, digest)| Digest::new(digest));
    Release::new(of_image(id)).with_label(label).with_artifacts(digests)
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
