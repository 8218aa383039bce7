//! A whole Compose project, rolled back by its files as people do it by hand: the file of an earlier release back in its
//! place, then `docker compose up -d`, or `down` before it.
//!
//! Not here: one service alone (that can be done without a gap), and volumes: what is in them stays as it is.

mod apply;
mod archive;
mod compose;
mod containers;
mod edit;
mod files;
mod model;
mod observe;
mod options;
mod prepare;
mod source;

pub use options::ProjectOptions;

use crate::{
    connect::Engine,
    evidence, image, member,
    pins::{self, How, Pinning},
    registry,
    replicas::PROJECT,
};
use archive::{About, Archive};
use async_trait::async_trait;
use compose::{Compose, Staged};
use files::{FileSet, Role, Slot};
use rollback_core::{
    Applied, Approved, Artifact, Bounds, Capabilities, Change, Error, EvidenceSource, Fencing, Kind, Look, Observation,
    Prepared, Record, Release, ReleaseId, Result, Running, Settled, Target, TargetId, Timestamp, Token, Work,
};
use serde::{Deserialize, Serialize};
use source::Source;
use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

/// The only part: the services of a project are not interchangeable.
const PART: &str = "project";
/// What Compose looks for, in its order.
const DEFAULT_FILES: [&str; 4] = ["compose.yaml", "compose.yml", "docker-compose.yml", "docker-compose.yaml"];

/// How the containers are replaced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Mode {
    /// `docker compose up -d`: only what differs is made again, in the order of `depends_on`. The default.
    #[default]
    Up,
    /// `docker compose down`, never with `--volumes`, then `up -d`: everything stops first.
    DownUp,
}

/// A Compose project on one engine.
///
/// - **A release is the content of its files**: the Compose files, and the environment files that were named. Where it comes
///   from (a commit, a backup, what an earlier rollback replaced, an edited image) makes no difference to its id. Commits and
///   backups count as deployed once you name them as a source: name what you deploy from. Edited images do not. A tag that
///   moves is not a release of its own: give each deploy a tag of its own, or [record](Target::recorder) it, and its tags are
///   set back to the images of then.
/// - **What runs is told from the containers**: from what Compose labelled them with, and from their images. A rollback that
///   stopped half way shows as a state between two releases, by name.
/// - **Compare-and-set** is with both, files and containers, under a lock in the project's `.rollback` that every user of
///   this type takes. Whoever runs `docker compose` without that lock can slip in between the comparison and the write.
/// - The real `docker compose` does the work, with arguments and no shell; it is bounded in time and killed with all it
///   started. What it left half done is found and finished by the same call again.
/// - Every file is replaced in one step. The replaced ones are kept in `.rollback`, with a list of what differs. That
///   directory is for its owner only, because environment files hold secrets; their values are never shown.
/// - Services that the release does not have are stopped and removed; containers that other files made for the same
///   project are left alone. Nothing is built, and volumes are never removed.
/// - Preparing fetches images that the engine does not have, and so does a dry run: nothing that runs is touched, disk and
///   network are used.
///
/// It needs the `docker` command line with its Compose plugin on this host, and leave to write the project's directory.
/// Private registries are reached with the credentials of the docker configuration.
///
/// ```no_run
/// use rollback_core::prelude::*;
/// use rollback_docker::{ComposeProject, ConnectOptions, Engine, ProjectOptions};
/// # async fn roll_back() -> Result<()> {
/// let engine = Engine::connect(ConnectOptions::new().expecting("prod-7")).await?;
/// let shop = ComposeProject::open(engine, "/srv/shop", ProjectOptions::new().with_git()).await?;
/// println!("{}", Rollback::break_glass_on(&shop, "every answer is a 500").await);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct ComposeProject {
    inner: Arc<Inner>,
}

struct Inner {
    id: TargetId,
    engine: Engine,
    name: String,
    compose: Compose,
    archive: Archive,
    sources: Vec<Source>,
    mode: Mode,
    keep: usize,
    hashes: Mutex<HashMap<ReleaseId, BTreeMap<String, String>>>,
}

impl fmt::Debug for ComposeProject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ComposeProject").field("id", &self.inner.id).field("dir", &self.inner.compose.dir).finish()
    }
}

impl ComposeProject {
    /// Opens the project in a directory. Reads, changes nothing.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if the directory or a Compose file is not there; [`Kind::Unsupported`] without the docker command
    /// line and its plugin, or for an engine made from a client of the caller's; [`Kind::Invalid`] if the command line
    /// speaks to another engine, or if the project's name cannot be told; [`Kind::Unavailable`] (transient) if an engine does
    /// not answer. All without effect.
    ///
    /// ```no_run
    /// # use rollback_docker::{ComposeProject, Engine, ProjectOptions};
    /// # async fn open(engine: Engine) -> rollback_core::Result<()> {
    /// let options = ProjectOptions::new()
    ///     .with_files(["compose.yaml", "compose.prod.yaml"])
    ///     .with_env_files([".env"])
    ///     .with_backups("/var/backups/shop");
    /// let shop = ComposeProject::open(engine, "/srv/shop", options).await?;
    /// # Ok(()) }
    /// ```
    pub async fn open(engine: Engine, dir: impl AsRef<Path>, options: ProjectOptions) -> Result<Self> {
        let operation = || format!("open the project in {}", dir.as_ref().display());
        let dir_at = dir.as_ref().canonicalize().map_err(|e| Error::from_io(operation(), e).without_effect())?;
        let failed = |kind, why: &str| Error::new(kind, operation()).with_message(why.to_owned()).without_effect();
        let mut files = options.files;
        if files.is_empty() {
            let found = DEFAULT_FILES.iter().find(|name| dir_at.join(name).is_file());
            let found = found
                .ok_or_else(|| failed(Kind::NotFound, "there is no Compose file under a usual name: name the files"))?;
            files.push((*found).into());
            // As Compose does when it is not told.
            let over = found.rsplit_once('.').map(|(stem, end)| format!("{stem}.override.{end}"));
            files.extend(over.filter(|name| dir_at.join(name).is_file()).map(Into::into));
        }
        let slots = files.iter().map(|name| (Role::Compose, name));
        let slots = slots.chain(options.env_files.iter().map(|name| (Role::Env, name)));
        let slots = slots.chain(options.more_files.iter().map(|name| (Role::Other, name)));
        let slots: Vec<Slot> = slots.map(|(role, name)| Slot::new(&dir_at, role, name)).collect();
        let cli = engine.cli().ok_or_else(|| {
            failed(
                Kind::Unsupported,
                "the docker command line cannot use a client of the caller's: connect with Engine::connect",
            )
        })?;
        let cli = [options.docker.as_str()].into_iter().chain(cli.iter().map(String::as_str)).map(str::to_owned);
        let mut compose =
            Compose { cli: cli.collect(), dir: dir_at.clone(), name: options.name, profiles: options.profiles, slots };
        compose.check(&engine).await?;
        let name = match compose.name.clone() {
            Some(name) => name,
            None => match compose.model(None).await {
                Ok(model) => model.name,
                // Files that Compose does not take may be just what is to be rolled back.
                Err(e) => match containers::projects_in(&engine, &dir_at).await?.as_slice() {
                    [one] => one.clone(),
                    _ => {
                        return Err(
                            failed(Kind::Invalid, "what the project is called cannot be told: name it").with_source(e)
                        );
                    }
                },
            },
        };
        compose.name = Some(name.clone());
        let sources = options.sources.into_iter().map(|source| match source {
            Source::Backups(at) => Source::Backups(dir_at.join(at)),
            other => other,
        });
        Ok(Self {
            inner: Arc::new(Inner {
                id: TargetId::new(format!("compose:{}/{name}", engine.id())),
                archive: Archive::new(dir_at.join(".rollback"), options.keep),
                sources: sources.collect(),
                mode: options.mode,
                keep: options.keep,
                engine,
                name,
                compose,
                hashes: Mutex::default(),
            }),
        })
    }

    /// The project's name, as Compose has it.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// Makes a release out of the files as they are, with other images of some services, and keeps it: it can be gone to by
    /// its id or its label then. It was never deployed, so no choice leads to it until it was. Nothing that runs is touched.
    ///
    /// # Errors
    /// All without effect: [`Kind::Invalid`] if a service has no line `image:` in block style in one of the Compose files, or
    /// if, by Compose's reading, more than these images would change; [`Kind::NotFound`] for an image that neither the engine
    /// nor its registry has; [`Kind::Denied`] and [`Kind::Unavailable`] if the registry does not say.
    ///
    /// ```no_run
    /// # use rollback_docker::ComposeProject;
    /// # async fn edit(shop: &ComposeProject) -> rollback_core::Result<()> {
    /// let earlier = shop.edit_images(&[("backend", "vapora/backend:v1.2.0")]).await?;
    /// println!("{}", earlier.id);
    /// # Ok(()) }
    /// ```
    pub async fn edit_images(&self, images: &[(&str, &str)]) -> Result<Release> {
        let here = &self.inner;
        let invalid = |why: String| Error::new(Kind::Invalid, "edit images").with_message(why).without_effect();
        let read = self.read().await?;
        let mut set = read.set.clone().ok_or_else(|| invalid("the project's files are not all there".into()))?;
        let from = read.model.clone().map_err(invalid)?;
        for (service, image) in images {
            if image.is_empty() || image.chars().any(|c| c.is_whitespace() || c.is_control() || c == '#') {
                return Err(invalid(format!("{image:?} is no image's name")));
            }
            // The last file that says it is the one that counts.
            let edited =
                here.compose.slots.iter().enumerate().rev().filter(|(_, slot)| slot.role == Role::Compose).find_map(
                    |(n, _)| {
                        let text = std::str::from_utf8(set.0.get(n)?).ok()?;
                        edit::with_image(text, service, image).map(|text| (n, text))
                    },
                );
            let (n, text) =
                edited.ok_or_else(|| invalid(format!("{service} has no line image: in the Compose files")))?;
            set.0[n] = text.into_bytes();
        }
        let to = here.compose.model(Some(&self.stage(&set)?)).await?;
        let wanted: BTreeMap<&str, &str> = images.iter().copied().collect();
        for line in from.diff(&to) {
            let service = line.what.strip_prefix("image of ").unwrap_or_default();
            if !wanted.contains_key(service) {
                return Err(invalid(format!("more would change than these images: {}", line.what)));
            }
        }
        for (service, image) in &wanted {
            let is = to.services.get(*service).map(|service| service.image.as_str());
            if is != Some(*image) {
                return Err(invalid(format!("{service} would run {}, not {image}", is.unwrap_or("nothing"))));
            }
            if image::find(&here.engine, image).await?.is_none() {
                registry::has(&here.engine, image).await?;
            }
        }
        let _lock = here.archive.lock().await?;
        let label = images.iter().map(|(service, image)| format!("{service}={image}")).collect::<Vec<_>>().join(", ");
        let about = About {
            id: set.release(&here.compose.slots),
            label,
            names: vec![],
            how: How::Made,
            at: Timestamp::now(),
            why: Some("edited images".into()),
            hashes: to.services.iter().map(|(name, service)| (name.clone(), service.hash.clone())).collect(),
            images: BTreeMap::new(),
        };
        let kept = here.archive.keep(&set, about)?;
        here.archive.prune(&[&kept.id]);
        Ok(kept.release())
    }

    /// A tag that moves on leaves its image to the next prune.
    async fn pin(&self, about: &About) -> Result<()> {
        let here = &self.inner;
        for (service, image) in &about.images {
            let pins = pins::pins_of(&format!("{}/{service}", here.name));
            let About { label, how, at, .. } = about;
            let (image, keep) = (image.id.as_str(), here.keep);
            let pinning = Pinning { image, label, how: *how, at: *at, given: None, keep, stays: None };
            pins::pin(&here.engine, &pins, pinning).await?;
        }
        Ok(())
    }

    fn stage(&self, set: &FileSet) -> Result<Staged> {
        Staged::new(&self.inner.compose.slots, set)
    }

    /// What Compose would label the containers of a release with. Reads a release once.
    async fn hashes(&self, id: &ReleaseId, set: &FileSet) -> Result<BTreeMap<String, String>> {
        let known = || self.inner.hashes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(hashes) = known().get(id) {
            return Ok(hashes.clone());
        }
        let model = self.inner.compose.model(Some(&self.stage(set)?)).await?;
        let hashes: BTreeMap<String, String> = model.services.into_iter().map(|(name, s)| (name, s.hash)).collect();
        known().insert(id.clone(), hashes.clone());
        Ok(hashes)
    }

    fn mine(&self, e: Error) -> Error {
        e.with_target(&self.inner.id)
    }
}

#[async_trait]
impl Target for ComposeProject {
    fn id(&self) -> &TargetId {
        &self.inner.id
    }
    fn capabilities(&self) -> Capabilities {
        Capabilities::new(Fencing::Token)
    }
    async fn observe(&self, look: Look) -> Result<Observation> {
        self.look(look).await.map_err(|e| self.mine(e))
    }
    async fn history(&self, limit: usize) -> Result<Vec<Release>> {
        self.check_dir().map_err(|e| self.mine(e))?;
        let live = files::Live::read(&self.inner.compose.slots).map_err(|e| self.mine(e))?;
        let all = self.releases(live.set().as_ref()).await.map_err(|e| self.mine(e))?;
        Ok(all.found.into_iter().take(limit).map(|found| found.release).collect())
    }
    async fn prepare(&self, change: &Change, work: &Work) -> Result<Prepared> {
        self.make_ready(change, work).await.map_err(|e| self.mine(e))
    }
    async fn apply(&self, approved: &Approved, token: Token, work: &Work) -> Result<Applied> {
        self.carry_out(approved, token, work).await.map_err(|e| self.mine(e))
    }
    fn recorder(&self) -> Option<Arc<dyn Record>> {
        Some(Arc::new(self.clone()))
    }
    fn evidence(&self) -> Option<Arc<dyn EvidenceSource>> {
        Some(Arc::new(self.clone()))
    }
}

#[async_trait]
impl EvidenceSource for ComposeProject {
    async fn collect(&self, bounds: Bounds, work: &Work) -> Result<Vec<Artifact>> {
        let label = vec![format!("{PROJECT}={}", self.inner.name)];
        let collect = async {
            let members = member::list(&self.inner.engine, "label", &label).await?;
            evidence::of(&self.inner.engine, &members, ("label", label.clone()), vec![], bounds, work).await
        };
        collect.await.map_err(|e| self.mine(e))
    }
}

#[async_trait]
impl Record for ComposeProject {
    /// Keeps the files as they are, with what their containers are labelled with and which images they run; the images are
    /// pinned by tags of their own, so that a prune spares them. Of more than [`ProjectOptions::with_kept_records`] those go
    /// that were deployed the longest ago.
    ///
    /// To be called once the project is up: after `docker compose up -d --wait`. While a container is starting, or is not as
    /// the files say, it is refused.
    async fn record(&self, label: &str) -> Result<Release> {
        let record = async {
            let here = &self.inner;
            let _lock = here.archive.lock().await?;
            let read = self.read().await?;
            let running = read.as_told();
            let failed =
                |why: String| Error::new(Kind::Conflict, "record what runs").with_message(why).without_effect();
            let (Some(set), Some(told)) = (&read.set, &read.told) else {
                return Err(failed("the files of the project are not all there".into()));
            };
            if let Some(why) = running {
                return Err(failed(format!("{why}: record when the deploy is over")));
            }
            let (hashes, mut images) = read.as_run();
            for image in images.values_mut() {
                let there = image::find(&here.engine, &image.id).await?;
                image.pull = there.and_then(|image| image::digest_name(&image));
            }
            let about = About {
                id: told.clone(),
                label: label.to_owned(),
                names: vec![],
                how: How::Recorded,
                at: Timestamp::now(),
                why: None,
                hashes,
                images,
            };
            self.pin(&about).await?;
            let kept = here.archive.keep(set, about)?;
            here.archive.prune(&[told]);
            Ok(kept.release())
        };
        record.await.map_err(|e: Error| self.mine(e))
    }
}

impl observe::Read {
    /// Why what runs is not just what the files say, if it is not. Images may be others than were recorded before: that is
    /// what a recording is for.
    fn as_told(&self) -> Option<String> {
        let model = match &self.model {
            Ok(model) => model,
            Err(why) => return Some(why.clone()),
        };
        let other = self.containers.iter().find(|c| {
            let told = self.told.as_ref();
            let hash = model.services.get(&c.service).map(|service| &service.hash);
            let recorded = self.known.iter().find(|k| Some(&k.id) == told && k.hashes.get(&c.service) == Some(&c.hash));
            hash != Some(&c.hash) && recorded.is_none()
        });
        if let Some(other) = other {
            return Some(format!("{} is not as the files say", other.name));
        }
        let Some(told) = &self.told else { return Some("the files are of two releases".into()) };
        match self.settled(&Running::Release(told.clone())) {
            Settled::Yes => None,
            Settled::NotYet { why } | Settled::Never { why } => Some(why),
        }
    }
}
