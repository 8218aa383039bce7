//! One read of a project: what its files say, what its containers are, and what became of a change of ours.

use super::{
    ComposeProject, PART,
    archive::{About, Begun, Image, Phase},
    containers::{self, Container},
    files::{FileSet, Live},
    model::Model,
    source::{self, All},
};
use rollback_core::{
    Digest, Error, Identity, Kind, Look, Observation, Ours, PartState, Payload, ReleaseId, Result, Running, Settled,
    Stored, Token, Trace,
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// How many releases of the history are tried for containers that neither the files nor what was kept explain.
const TRIED: usize = 5;

/// What compare-and-set needs: the files, and which containers there are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Seen {
    pub(super) files: Digest,
    pub(super) containers: BTreeMap<String, String>,
}
impl Stored for Seen {
    const NAME: &'static str = "rollback-docker/compose-project-seen";
    const VERSION: u32 = 1;
}

/// A release, as far as containers can be told to be of it.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) id: ReleaseId,
    pub(super) hashes: BTreeMap<String, String>,
    pub(super) images: BTreeMap<String, Image>,
}

impl Known {
    fn of(about: About) -> Self {
        Self { id: about.id, hashes: about.hashes, images: about.images }
    }
    fn explains(&self, container: &Container) -> bool {
        self.hashes.get(&container.service) == Some(&container.hash)
            && self.images.get(&container.service).is_none_or(|image| image.id == container.image)
    }
}

/// What was read.
#[derive(Clone, Debug)]
pub(super) struct Read {
    pub(super) live: Live,
    pub(super) set: Option<FileSet>,
    pub(super) told: Option<ReleaseId>,
    pub(super) model: std::result::Result<Model, String>,
    pub(super) containers: Vec<Container>,
    pub(super) known: Vec<Known>,
    pub(super) begun: Option<Begun>,
    pub(super) trace: Option<Trace>,
    pub(super) seen: Seen,
}

impl std::fmt::Debug for Live {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let sizes: Vec<Option<usize>> = self.0.iter().map(|bytes| bytes.as_ref().map(Vec::len)).collect();
        f.debug_tuple("Live").field(&sizes).finish()
    }
}

impl ComposeProject {
    /// # Errors
    /// [`Kind::NotFound`] if its directory is gone; [`Kind::Invalid`] if another engine answers by now; otherwise as the engine
    /// and the file system.
    pub(super) async fn read(&self) -> Result<Read> {
        let here = &self.inner;
        self.check_dir()?;
        let live = Live::read(&here.compose.slots)?;
        let set = live.set();
        let env = std::fs::read(here.compose.dir.join(".env")).ok();
        let files = live.digest(env.as_deref());
        let begun = here.archive.begun()?;
        let list = here.engine.reading(containers::list(&here.engine, &here.name));
        let (model, listed) = futures::join!(here.compose.model(None), list);
        let places: Vec<_> = here.compose.slots.iter().map(|slot| slot.path.as_path()).collect();
        // Other files may make containers of a project by the same name: a monitoring beside the shop.
        let containers: Vec<Container> = listed?.into_iter().filter(|c| c.is_of(&places)).collect();
        let model = match model {
            Ok(model) => Ok(model),
            Err(e) if e.is_transient() => return Err(e),
            Err(e) => Err(e.to_string()),
        };
        let told = match (&set, &begun) {
            // Stopped while the files were replaced, one after the other: they are of no release.
            (Some(set), Some(begun)) if begun.phase == Phase::Files => {
                let told = set.release(&here.compose.slots);
                let side = |id: &ReleaseId| here.archive.files(id, &here.compose.slots);
                let from = begun.from.as_ref();
                let is_one = Some(&told) == from || told == begun.to;
                let mixed = || from.and_then(side).zip(side(&begun.to)).is_some_and(|(a, b)| live.is_between(&a, &b));
                (is_one || !mixed()).then_some(told)
            }
            (Some(set), _) => Some(set.release(&here.compose.slots)),
            (None, _) => None,
        };
        let seen = Seen { files, containers: containers.iter().map(|c| (c.name.clone(), c.id.clone())).collect() };
        let mut read =
            Read { trace: here.archive.trace()?, known: vec![], live, set, told, model, containers, begun, seen };
        read.known = self.known(&read).await?;
        Ok(read)
    }

    /// The releases that containers may be of, what they were told first.
    async fn known(&self, read: &Read) -> Result<Vec<Known>> {
        let here = &self.inner;
        let mut known = vec![];
        if let (Some(told), Ok(model)) = (&read.told, &read.model) {
            let hashes = model.services.iter().map(|(name, service)| (name.clone(), service.hash.clone())).collect();
            let images = here.archive.about(told).map(|about| about.images).unwrap_or_default();
            known.push(Known { id: told.clone(), hashes, images });
        }
        let mut kept: Vec<Known> = here.archive.kept().into_iter().map(Known::of).collect();
        if let Some(begun) = &read.begun {
            kept.sort_by_key(|k| Some(&k.id) != begun.from.as_ref() && k.id != begun.to);
        }
        known.extend(kept);
        let explained = |known: &[Known]| read.containers.iter().all(|c| known.iter().any(|k| k.explains(c)));
        if explained(&known) {
            return Ok(known);
        }
        let history = self.releases(read.set.as_ref()).await?;
        for found in history.found.iter().take(TRIED) {
            if known.iter().any(|k| k.id == found.release.id && !k.hashes.is_empty()) {
                continue;
            }
            // One that Compose does not take made no container.
            if let Ok(hashes) = self.hashes(&found.release.id, &found.set).await {
                known.push(Known { id: found.release.id.clone(), hashes, images: BTreeMap::new() });
            }
            if explained(&known) {
                break;
            }
        }
        Ok(known)
    }

    pub(super) async fn releases(&self, live: Option<&FileSet>) -> Result<All> {
        let here = &self.inner;
        source::all(&here.sources, &here.archive, &here.compose.slots, &here.compose.dir, live).await
    }

    pub(super) fn check_dir(&self) -> Result<()> {
        let dir = &self.inner.compose.dir;
        let there = dir.is_dir() && self.inner.compose.slots.iter().any(|slot| slot.path.exists());
        if there {
            return Ok(());
        }
        Err(Error::new(Kind::NotFound, "read the project")
            .with_message(format!("neither of its files is in {} any more", dir.display()))
            .without_effect())
    }

    fn identity(&self) -> Identity {
        let here = &self.inner;
        let object = format!("project {} in {}", here.name, here.compose.dir.display());
        Identity::new(here.engine.scope(), object)
    }

    pub(super) async fn look(&self, look: Look) -> Result<Observation> {
        let (identity, read) = (self.identity(), self.read().await?);
        let running = read.running();
        let settled = read.settled(&running);
        let ready = read.containers.iter().filter(|c| c.ready).count();
        let addresses: BTreeSet<String> = read.containers.iter().flat_map(|c| c.addresses.clone()).collect();
        let mut part = PartState::new(read.told.clone(), running).with_settled(settled).with_addresses(addresses);
        // How many containers there are to be is for the release to say: another has more services, or fewer.
        part.ready = Some(u32::try_from(ready).unwrap_or(u32::MAX));
        let ours = read.ours(&look);
        let token = Token(Some(Payload::of(&read.seen)?));
        // It goes with the files that it speaks of: what somebody else deploys is a new beginning.
        let trace = read.trace.filter(|trace| read.told.as_ref() == Some(&trace.reached));
        Ok(Observation::new(identity, [(PART.into(), part)], token).with_ours(ours).with_trace(trace))
    }
}

impl Read {
    /// A change of ours that was begun, and of which the files or the containers show that it is not over.
    pub(super) fn pending(&self) -> Option<&Begun> {
        self.begun.as_ref().filter(|begun| {
            begun.phase != Phase::Done
                && (self.told.is_none() || self.told == begun.from || self.told.as_ref() == Some(&begun.to))
        })
    }

    pub(super) fn running(&self) -> Running {
        running(self.told.as_ref(), &self.known, &self.containers, self.pending())
    }

    pub(super) fn settled(&self, running: &Running) -> Settled {
        let not_yet = |why: String| Settled::NotYet { why };
        let Some(told) = &self.told else {
            return not_yet("the files of the project are not all there, or of two releases".into());
        };
        let model = match &self.model {
            Ok(model) => model,
            Err(why) => return not_yet(format!("Compose does not take the files as they are: {why}")),
        };
        if !matches!(running, Running::Release(release) if release == told) {
            return not_yet(format!("the files are {}, and what runs is {running}", short(told)));
        }
        // What will never come right is said before what may.
        let of = |never: bool| {
            let is = |c: &&Container| match &c.settled {
                Settled::Never { .. } => never,
                Settled::NotYet { .. } => !never,
                Settled::Yes => false,
            };
            self.containers.iter().find(is).map(|c| c.settled.clone())
        };
        if let Some(never) = of(true) {
            return never;
        }
        for (name, service) in &model.services {
            let has = self.containers.iter().filter(|c| c.service == *name).count();
            if has < service.replicas as usize {
                return not_yet(format!("{name} has {has} of {} containers", service.replicas));
            }
        }
        of(false).unwrap_or(Settled::Yes)
    }

    fn ours(&self, look: &Look) -> Ours {
        let Some(mark) = &look.mark else { return Ours::NotAsked };
        let Some(begun) = self.begun.as_ref().filter(|begun| begun.key == mark.key) else { return Ours::CannotTell };
        match &self.told {
            Some(told) if *told == begun.to && begun.phase == Phase::Done => Ours::Complete,
            Some(told) if *told == begun.to => Ours::Current,
            None => Ours::Current,
            // It is noted before the files are replaced.
            Some(_) if self.told == begun.from && begun.phase == Phase::Files => Ours::CannotTell,
            Some(told) => Ours::Replaced { by: short(told).to_owned() },
        }
    }
}

pub(super) fn short(id: &ReleaseId) -> &str {
    crate::release::short(id.as_str())
}

/// What the containers are of. `known` begins with what the files say now.
fn running(told: Option<&ReleaseId>, known: &[Known], containers: &[Container], pending: Option<&Begun>) -> Running {
    let explain = |c: &Container| -> Vec<&ReleaseId> {
        let mut ids: Vec<&ReleaseId> = known.iter().filter(|k| k.explains(c)).map(|k| &k.id).collect();
        ids.dedup();
        ids
    };
    let each: Vec<(&Container, Vec<&ReleaseId>)> = containers.iter().map(|c| (c, explain(c))).collect();
    let strange: Vec<&Container> = each.iter().filter(|(_, ids)| ids.is_empty()).map(|(c, _)| *c).collect();
    if !strange.is_empty() {
        let all: Vec<String> = strange.iter().map(|c| format!("{} {} {}", c.name, c.hash, c.image)).collect();
        let names: Vec<&str> = strange.iter().map(|c| c.name.as_str()).collect();
        return Running::Unknown {
            fingerprint: Digest::of(all.join("\n").as_bytes()).to_string(),
            named: Some(format!("made from no release that is known: {}", names.join(", "))),
        };
    }
    let all_of = |id: &ReleaseId| each.iter().all(|(_, ids)| ids.contains(&id));
    let half = |begun: &Begun, state: String| {
        let from = begun.from.clone().unwrap_or_else(|| begun.to.clone());
        Running::Between { from, to: begun.to.clone(), state }
    };
    if each.is_empty() {
        return match pending {
            Some(begun) => half(begun, "its containers are removed, and not made again yet".into()),
            None => Running::Nothing,
        };
    }
    if let Some(told) = told.filter(|told| all_of(told)) {
        // Compose makes all containers anew before it starts the first that others wait for.
        let waiting: Vec<&str> = each.iter().filter(|(c, _)| c.unstarted).map(|(c, _)| c.service.as_str()).collect();
        return match pending.filter(|begun| begun.to == *told && !waiting.is_empty()) {
            Some(begun) => half(begun, format!("its containers are made, and not started yet: {}", waiting.join(", "))),
            None => Running::Release(told.clone()),
        };
    }
    if let Some(begun) = pending {
        let new: Vec<&str> =
            each.iter().filter(|(_, ids)| ids.contains(&&begun.to)).map(|(c, _)| c.service.as_str()).collect();
        let files = match told {
            Some(told) if *told == begun.to => "the files are replaced",
            Some(_) => "the files are not replaced yet",
            None => "some of the files are replaced",
        };
        let state = format!("{files}, and of {} containers {} are as they are to be", each.len(), new.len());
        // Nothing is touched yet.
        if told == begun.from.as_ref() && begun.from.as_ref().is_some_and(all_of) {
            return Running::Release(begun.from.clone().unwrap_or_else(|| begun.to.clone()));
        }
        return half(begun, state);
    }
    if let Some(one) = each[0].1.iter().find(|id| all_of(id)) {
        return Running::Release((*one).clone());
    }
    let mut counts = BTreeMap::new();
    for (_, ids) in &each {
        let id = told.filter(|told| ids.contains(told)).unwrap_or(ids[0]);
        *counts.entry(id.clone()).or_insert(0) += 1;
    }
    Running::Mixed(counts)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use rollback_core::{RunId, Timestamp};

    fn known(id: &str, hashes: &[(&str, &str)]) -> Known {
        let hashes = hashes.iter().map(|(a, b)| (a.to_string(), b.to_string())).collect();
        Known { id: id.into(), hashes, images: BTreeMap::new() }
    }
    fn container(service: &str, hash: &str) -> Container {
        Container {
            id: format!("{service}{hash}"),
            name: format!("shop-{service}-1"),
            service: service.into(),
            hash: hash.into(),
            image: "sha256:i".into(),
            working_dir: String::new(),
            config_files: vec![],
            settled: Settled::Yes,
            ready: true,
            unstarted: false,
            addresses: vec![],
        }
    }
    fn begun(phase: Phase) -> Begun {
        Begun {
            key: "r/1".into(),
            run: RunId::from("r"),
            epoch: 1,
            from: Some("2".into()),
            to: "1".into(),
            phase,
            at: Timestamp(1),
        }
    }

    #[test]
    fn what_runs_is_told_from_the_containers() {
        let one = || known("1", &[("web", "w1"), ("db", "d")]);
        let two = || known("2", &[("web", "w2"), ("db", "d")]);
        let (web, db) = (|h: &str| container("web", h), || container("db", "d"));
        let (r1, r2): (ReleaseId, ReleaseId) = ("1".into(), "2".into());
        let is = |told: &ReleaseId, known: Vec<Known>, containers: Vec<Container>, begun: Option<Begun>| {
            running(Some(told), &known, &containers, begun.as_ref())
        };
        assert_eq!(is(&r2, vec![two(), one()], vec![web("w2"), db()], None), Running::Release(r2.clone()));
        // The files were edited, and nobody ran up.
        assert_eq!(is(&r1, vec![one(), two()], vec![web("w2"), db()], None), Running::Release(r2.clone()));
        let three = known("3", &[("web", "w3"), ("db", "d3")]);
        assert_eq!(
            is(&r1, vec![one(), three.clone()], vec![web("w3"), db()], None),
            Running::Mixed([(r1.clone(), 1), ("3".into(), 1)].into())
        );
        assert!(matches!(is(&r1, vec![one()], vec![web("w9"), db()], None), Running::Unknown { .. }));
        assert_eq!(is(&r1, vec![one()], vec![], None), Running::Nothing);
        // Ours, half done.
        for (told, containers) in [(&r1, vec![web("w2"), db()]), (&r1, vec![]), (&r1, vec![web("w1"), web("w2"), db()])]
        {
            let seen = is(told, vec![one(), two()], containers, Some(begun(Phase::Up)));
            assert!(matches!(&seen, Running::Between { from, to, .. } if *from == r2 && *to == r1), "{seen:?}");
        }
        let unstarted = Container { unstarted: true, ..web("w1") };
        let seen = is(&r1, vec![one(), two()], vec![unstarted, db()], Some(begun(Phase::Up)));
        assert!(matches!(&seen, Running::Between { state, .. } if state.contains("web")), "{seen:?}");
        let seen = is(&r2, vec![two(), one()], vec![web("w2"), db()], Some(begun(Phase::Files)));
        assert_eq!(seen, Running::Release(r2.clone()), "nothing is touched yet");
        let seen = is(&r1, vec![one(), two()], vec![web("w1"), db()], Some(begun(Phase::Up)));
        assert_eq!(seen, Running::Release(r1.clone()), "it is there, though it was not noted");
    }

    #[test]
    fn the_same_settings_with_another_image_than_was_recorded_are_not_the_release() {
        let mut one = known("1", &[("web", "w1")]);
        one.images.insert("web".into(), Image { name: "shop:latest".into(), id: "sha256:other".into(), pull: None });
        let seen = running(Some(&"1".into()), &[one], &[container("web", "w1")], None);
        assert!(matches!(seen, Running::Unknown { .. }), "{seen:?}");
    }
}
