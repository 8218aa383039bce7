//! Pins: what keeps the images of recorded releases from a prune, and says what was deployed when.
//!
//! A pin is a tag in a repository of the target's own, `rollback/<name>:<time>-<id>-<label>`, which `docker image prune`
//! spares, and a container that never starts, `rollback.<name>.<id>`: `docker image prune -a` spares only what a container
//! uses. `docker system prune -a` removes containers that do not run before it looks at images: against that helps what is
//! kept outside of the engine, a registry or an [archive](crate::archive).
//!
//! The time is that of the last deploy that is known of, so an image that is deployed again gets a new tag in place of the old
//! one. Each label that it was ever recorded under stays a tag of its own.

use crate::{connect::Engine, error, image, release::short, settings::Settings};
use bollard::{
    models::{ContainerCreateBody, HealthConfig, HostConfig},
    query_parameters::{
        CreateContainerOptions, InspectContainerOptions, RemoveContainerOptions, RemoveImageOptions, TagImageOptions,
    },
};
use rollback_core::{Result, Timestamp};
use serde::{Deserialize, Serialize};

/// What pins begin with.
pub(crate) const PINS: &str = "rollback/";
/// What the names of containers begin with that only hold an image.
pub(crate) const HOLDERS: &str = "rollback.";
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

/// Why something is kept. What weighs more comes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum How {
    /// Somebody recorded it at its deploy.
    #[default]
    Recorded,
    /// A rollback left it, or brought it: it ran, though nobody recorded it.
    Ran,
    /// It was fetched or made, and nobody is known to have deployed it.
    Made,
}

impl How {
    /// What the tags of its pins begin with.
    fn prefix(self) -> &'static str {
        match self {
            How::Recorded => "",
            How::Ran => "ran.",
            How::Made => "pulled.",
        }
    }
    pub(crate) fn was_deployed(self) -> bool {
        self != How::Made
    }
}

/// One tag.
#[derive(Clone, Debug, PartialEq)]
struct Pin {
    tag: String,
    image: String,
    at: Timestamp,
    label: Option<String>,
    how: How,
}

/// An image with all of its pins.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Pinned {
    pub(crate) image: String,
    /// When it was deployed last, as far as is known.
    pub(crate) at: Timestamp,
    pub(crate) how: How,
    /// What it was recorded as, the last first.
    pub(crate) labels: Vec<String>,
    pins: Vec<Pin>,
}

/// So many labels of one image are kept.
const LABELS: usize = 5;

/// A tag takes 128 letters, digits, `_`, `.` and `-`.
fn pin_tag(image: &str, how: How, at: Timestamp, label: &str) -> String {
    format!("{}{}-{}-{}", how.prefix(), at.0, short(image), in_a_tag(label))
}

fn in_a_tag(label: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-') { c } else { '_' };
    label.chars().map(plain).take(80).collect()
}

fn read_pin(tag: &str, image: &str) -> Option<Pin> {
    let (_, rest) = tag.rsplit_once(':')?;
    let mut parts = rest.splitn(3, '-');
    let at = parts.next()?;
    let how = [How::Ran, How::Made].into_iter().find(|how| at.starts_with(how.prefix())).unwrap_or(How::Recorded);
    let at = at[how.prefix().len()..].parse().ok().map(Timestamp)?;
    let id = parts.next().filter(|id| *id == short(image))?;
    let label = parts.next().filter(|label| !label.is_empty() && *label != id).map(str::to_owned);
    Some(Pin { tag: tag.to_owned(), image: image.to_owned(), at, label, how })
}

/// What is pinned in a repository, that which was deployed last first.
pub(crate) async fn list(engine: &Engine, repository: &str) -> Result<Vec<Pinned>> {
    let images = image::list(engine, [("reference".to_owned(), vec![repository.to_owned()])].into()).await?;
    let pins = images.iter().flat_map(|image| image.repo_tags.iter().filter_map(|tag| read_pin(tag, &image.id)));
    Ok(by_image(pins.filter(|pin| pin.tag.rsplit_once(':').is_some_and(|(at, _)| at == repository)).collect()))
}

fn by_image(mut pins: Vec<Pin>) -> Vec<Pinned> {
    // Of its tags, the one that says when it was deployed, and of those the newest.
    pins.sort_by(|a, b| (!a.how.was_deployed(), b.at, &b.tag).cmp(&(!b.how.was_deployed(), a.at, &a.tag)));
    let mut all: Vec<Pinned> = vec![];
    for pin in pins {
        let at = match all.iter().position(|pinned| pinned.image == pin.image) {
            Some(at) => at,
            None => {
                let (image, at, how) = (pin.image.clone(), pin.at, pin.how);
                all.push(Pinned { image, at, how, labels: vec![], pins: vec![] });
                all.len() - 1
            }
        };
        let pinned = &mut all[at];
        pinned.how = pinned.how.min(pin.how);
        if let Some(label) = pin.label.as_ref().filter(|label| !pinned.labels.contains(label)) {
            pinned.labels.push(label.clone());
        }
        pinned.pins.push(pin);
    }
    all
}

/// What is to be pinned.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pinning<'a> {
    pub(crate) image: &'a str,
    /// As what; empty to leave that as it is.
    pub(crate) label: &'a str,
    pub(crate) how: How,
    /// When it was deployed.
    pub(crate) at: Timestamp,
    /// What its containers were given, if that is known.
    pub(crate) given: Option<&'a Settings>,
    /// So many stay that are kept for the same reason.
    pub(crate) keep: usize,
    /// Beside it this one stays in any case.
    pub(crate) stays: Option<&'a str>,
}

/// Pins an image as of a deploy, and lets go of those beyond what is kept whose last deploy is the longest ago. Gives when it
/// was deployed last.
pub(crate) async fn pin(engine: &Engine, repository: &str, wanted: Pinning<'_>) -> Result<Timestamp> {
    let there = list(engine, repository).await?;
    let known = there.iter().find(|pinned| pinned.image == wanted.image);
    // What was recorded stays so.
    let how = known.map_or(wanted.how, |known| known.how.min(wanted.how));
    let label = match (wanted.label, known) {
        ("", Some(known)) => known.labels.first().map_or("", String::as_str),
        (label, _) => label,
    };
    let is_so = |known: &&Pinned| {
        let called = label.is_empty() || known.labels.first() == Some(&in_a_tag(label));
        known.at >= wanted.at && known.how == how && called
    };
    let at = match known.filter(is_so) {
        Some(known) => known.at,
        None => {
            let at =
                wanted.at.max(known.filter(|known| known.how.was_deployed()).map_or(Timestamp(0), |known| known.at));
            let tag = pin_tag(wanted.image, how, at, label);
            let made = format!("{repository}:{tag}");
            let options = TagImageOptions { repo: Some(repository.to_owned()), tag: Some(tag) };
            engine.client().tag_image(wanted.image, Some(options)).await.map_err(error::write("pin the image"))?;
            for old in known.into_iter().flat_map(|known| outdated(known, &made)) {
                untag(engine, &old.tag).await?;
            }
            at
        }
    };
    hold(engine, repository, wanted.image, wanted.given).await?;
    let alike = there.iter().filter(|pinned| pinned.how == how && pinned.image != wanted.image);
    let others = alike.skip(wanted.keep.saturating_sub(1)).filter(|pinned| Some(pinned.image.as_str()) != wanted.stays);
    for old in others {
        let_go(engine, repository, &old.image).await?;
        for pin in &old.pins {
            untag(engine, &pin.tag).await?;
        }
    }
    Ok(at)
}

/// The pins that a new one takes the place of: those that say no other label, and what is beyond the labels that are kept.
fn outdated<'a>(known: &'a Pinned, made: &str) -> impl Iterator<Item = &'a Pin> {
    let label = made.rsplit_once(':').and_then(|(_, tag)| tag.splitn(3, '-').nth(2)).unwrap_or_default().to_owned();
    let made = made.to_owned();
    let mut labels = 1;
    known.pins.iter().filter(move |pin| {
        let other = pin.label.as_ref().is_some_and(|other| *other != label);
        labels += usize::from(other);
        pin.tag != made && (!other || labels > LABELS)
    })
}

async fn untag(engine: &Engine, tag: &str) -> Result<()> {
    match engine.client().remove_image(tag, Some(RemoveImageOptions::default()), None).await {
        Ok(_) => Ok(()),
        Err(e) if error::is_gone(&e) => Ok(()),
        Err(e) => Err(error::write(format!("let go of the pin {tag}"))(e)),
    }
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
        let tag = format!("{at}:{}", pin_tag(&id, How::Recorded, Timestamp(17), "2.4.0-rc/1"));
        let pin = read_pin(&tag, &id).unwrap();
        assert_eq!((pin.at, pin.how, pin.label.as_deref()), (Timestamp(17), How::Recorded, Some("2.4.0-rc_1")));
        for how in [How::Ran, How::Made] {
            let tag = format!("{at}:{}", pin_tag(&id, how, Timestamp(17), ""));
            let pin = read_pin(&tag, &id).unwrap();
            assert_eq!((pin.at, pin.how, pin.label), (Timestamp(17), how, None));
        }
        assert_eq!(read_pin("shop:2", &id), None);
        assert_eq!(read_pin(&tag, "sha256:ffffffffffffffff"), None, "a tag that was moved by hand pins nothing");
        assert!(pin_tag(&id, How::Made, Timestamp(u64::MAX), &"x".repeat(500)).len() <= 128);
    }

    #[test]
    fn an_image_is_as_new_as_its_last_deploy_and_keeps_its_labels() {
        let id = |n: char| format!("sha256:{}", n.to_string().repeat(64));
        let pin = |image: char, how, at, label| {
            read_pin(&format!("rollback/shop:{}", pin_tag(&id(image), how, Timestamp(at), label)), &id(image)).unwrap()
        };
        let all = by_image(vec![
            pin('a', How::Recorded, 1, "1.0"),
            pin('b', How::Recorded, 2, "2.0"),
            pin('a', How::Recorded, 3, "1.0.1"),
            pin('c', How::Made, 9, ""),
            pin('d', How::Ran, 1, ""),
            pin('d', How::Made, 8, "x"),
        ]);
        let seen: Vec<_> = all.iter().map(|p| (p.image.clone(), p.at.0, p.how, p.labels.join(" "))).collect();
        let expected = [
            (id('a'), 3, How::Recorded, "1.0.1 1.0"),
            (id('b'), 2, How::Recorded, "2.0"),
            (id('d'), 1, How::Ran, "x"),
            (id('c'), 9, How::Made, ""),
        ];
        assert_eq!(seen, expected.map(|(image, at, how, labels)| (image, at, how, labels.to_owned())));
        let tag = |at, label| format!("rollback/shop:{}", pin_tag(&id('a'), How::Recorded, Timestamp(at), label));
        let old = |at, label| outdated(&all[0], &tag(at, label)).map(|pin| pin.at.0).collect::<Vec<_>>();
        assert_eq!((old(5, "1.0"), old(5, "1.0.1"), old(5, "1.0.2")), (vec![1], vec![3], vec![]));
    }
}
