//! Pins: what keeps the images of recorded releases from a prune.
//!
//! A pin is a tag in a repository of the target's own, `rollback/<name>:<time>-<id>-<label>`, which `docker image prune`
//! spares, and a container that never starts, `rollback.<name>.<id>`: `docker image prune -a` spares only what a container
//! uses. `docker system prune -a` removes containers that do not run before it looks at images: against that helps what is
//! kept outside of the engine, a registry or an [archive](crate::archive).

use crate::{connect::Engine, error, image, release::short, settings::Settings};
use bollard::{
    models::{ContainerCreateBody, HealthConfig, HostConfig},
    query_parameters::{
        CreateContainerOptions, InspectContainerOptions, RemoveContainerOptions, RemoveImageOptions, TagImageOptions,
    },
};
use rollback_core::{Result, Timestamp};

/// What pins begin with.
pub(crate) const PINS: &str = "rollback/";
/// On a container that only holds its image: whose.
const HOLDS: &str = "rollback.holds";
/// What Compose finds its containers by.
const COMPOSE: [&str; 3] =
    ["com.docker.compose.project", "com.docker.compose.service", "com.docker.compose.config-hash"];

/// Where the pins of a target lie: a name that every engine takes.
pub(crate) fn pins_of(target: &str) -> String {
    let mut name = String::new();
    for c in target.chars() {
        match c.to_ascii_lowercase() {
            c @ ('a'..='z' | '0'..='9') => name.push(c),
            _ if name.ends_with(['.', '-']) || name.is_empty() => {}
            '/' => name.push('.'),
            _ => name.push('-'),
        }
    }
    format!("{PINS}{}", name.trim_end_matches(['.', '-']))
}

/// One pin.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Pin {
    pub(crate) tag: String,
    pub(crate) image: String,
    pub(crate) at: Timestamp,
    pub(crate) label: Option<String>,
}

/// A tag takes 128 letters, digits, `_`, `.` and `-`.
fn pin_tag(image: &str, at: Timestamp, label: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-') { c } else { '_' };
    let label: String = label.chars().map(plain).take(80).collect();
    format!("{}-{}-{label}", at.0, short(image))
}

fn read_pin(tag: &str, image: &str) -> Option<Pin> {
    let (_, rest) = tag.rsplit_once(':')?;
    let mut parts = rest.splitn(3, '-');
    let at = parts.next()?.parse().ok().map(Timestamp)?;
    let id = parts.next().filter(|id| *id == short(image))?;
    let label = parts.next().filter(|label| !label.is_empty() && *label != id).map(str::to_owned);
    Some(Pin { tag: tag.to_owned(), image: image.to_owned(), at, label })
}

/// The pins in a repository, newest first.
pub(crate) async fn list(engine: &Engine, repository: &str) -> Result<Vec<Pin>> {
    let images = image::list(engine, [("reference".to_owned(), vec![repository.to_owned()])].into()).await?;
    let mut pins: Vec<Pin> = images
        .iter()
        .flat_map(|image| image.repo_tags.iter().filter_map(|tag| read_pin(tag, &image.id)))
        .filter(|pin| pin.tag.rsplit_once(':').is_some_and(|(at, _)| at == repository))
        .collect();
    pins.sort_by(|a, b| (b.at, &b.tag).cmp(&(a.at, &a.tag)));
    Ok(pins)
}

/// Pins an image, unless it is pinned, with what its containers were given, if that is known, and lets go of the oldest pins
/// beyond `keep`.
pub(crate) async fn pin(
    engine: &Engine,
    repository: &str,
    image: &str,
    label: &str,
    keep: usize,
    given: Option<&Settings>,
) -> Result<Pin> {
    let there = list(engine, repository).await?;
    let made = match there.iter().find(|pin| pin.image == image) {
        Some(pin) => pin.clone(),
        None => {
            let tag = pin_tag(image, Timestamp::now(), label);
            let options = TagImageOptions { repo: Some(repository.to_owned()), tag: Some(tag.clone()) };
            engine.client().tag_image(image, Some(options)).await.map_err(error::write("pin the image"))?;
            let tag = format!("{repository}:{tag}");
            read_pin(&tag, image).unwrap_or(Pin { tag, image: image.to_owned(), at: Timestamp::now(), label: None })
        }
    };
    hold(engine, repository, image, given).await?;
    let others = there.into_iter().filter(|pin| pin.image != image);
    for old in others.skip(keep.saturating_sub(1)) {
        let_go(engine, repository, &old.image).await?;
        let options = RemoveImageOptions::default();
        match engine.client().remove_image(&old.tag, Some(options), None).await {
            Ok(_) => {}
            Err(e) if error::is_gone(&e) => {}
            Err(e) => return Err(error::write(format!("let go of the pin {}", old.tag))(e)),
        }
    }
    Ok(made)
}

/// The container that holds an image of a target.
fn holder(repository: &str, image: &str) -> String {
    format!("{}.{}", repository.replace('/', "."), short(image))
}

/// What the containers of an image were given when it was pinned, if that was known.
pub(crate) async fn settings(engine: &Engine, repository: &str, image: &str) -> Result<Option<Settings>> {
    let holder = holder(repository, image);
    match engine.client().inspect_container(&holder, None::<InspectContainerOptions>).await {
        Ok(seen) => {
            let env = seen.config.and_then(|config| config.env).unwrap_or_default();
            Ok(Settings::in_environment(&env))
        }
        Err(e) if error::is_gone(&e) => Ok(None),
        Err(e) => Err(error::read("look at what holds the image")(e)),
    }
}

/// Makes a container of it that never starts, unless there is one; and again where that one holds other settings.
async fn hold(engine: &Engine, repository: &str, image: &str, given: Option<&Settings>) -> Result<()> {
    if given.is_some() && settings(engine, repository, image).await?.as_ref() != given {
        let_go(engine, repository, image).await?;
    }
    // Images that Compose built carry its labels, and a container with those would be taken for one of the project.
    let labels = COMPOSE.iter().map(|label| ((*label).to_owned(), String::new()));
    let body = ContainerCreateBody {
        image: Some(image.to_owned()),
        cmd: Some(vec!["rollback".into()]),
        env: given.and_then(Settings::to_variable).map(|variable| vec![variable]),
        labels: Some(labels.chain([(HOLDS.to_owned(), repository.to_owned())]).collect()),
        healthcheck: Some(HealthConfig { test: Some(vec!["NONE".into()]), ..HealthConfig::default() }),
        host_config: Some(HostConfig { network_mode: Some("none".into()), ..HostConfig::default() }),
        ..ContainerCreateBody::default()
    };
    let name = Some(holder(repository, image));
    let made = engine
        .client()
        .create_container(Some(CreateContainerOptions { name, ..CreateContainerOptions::default() }), body);
    match made.await {
        Ok(_) => Ok(()),
        Err(e) if error::status(&e) == Some(409) => Ok(()),
        Err(e) => Err(error::write("hold the image by a container")(e)),
    }
}

async fn let_go(engine: &Engine, repository: &str, image: &str) -> Result<()> {
    // With the volumes that it got from its image: nothing was ever written to them.
    let options = RemoveContainerOptions { v: true, ..RemoveContainerOptions::default() };
    match engine.client().remove_container(&holder(repository, image), Some(options)).await {
        Ok(()) => Ok(()),
        Err(e) if error::is_gone(&e) => Ok(()),
        Err(e) => Err(error::write("let go of an image")(e)),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_says_what_when_and_under_which_label() {
        let id = format!("sha256:{}", "0123456789ab".repeat(5));
        let at = pins_of("My_Project/web.1");
        assert_eq!(at, "rollback/my-project.web-1");
        let tag = format!("{at}:{}", pin_tag(&id, Timestamp(17), "2.4.0-rc/1"));
        let pin = read_pin(&tag, &id).unwrap();
        assert_eq!((pin.at, pin.label.as_deref()), (Timestamp(17), Some("2.4.0-rc_1")));
        assert_eq!(read_pin("shop:2", &id), None);
        assert_eq!(read_pin(&tag, "sha256:ffffffffffffffff"), None, "a tag that was moved by hand pins nothing");
        assert!(pin_tag(&id, Timestamp(u64::MAX), &"x".repeat(500)).len() <= 128);
    }
}
