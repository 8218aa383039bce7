//! A directory that keeps recorded images outside of the engine, so that no prune reaches them: of an image that came from
//! a registry its digest there, and any other one whole, as `docker save` writes it; and what its containers were given.

use crate::{connect::Engine, error, image, registry, release::short, settings::Settings};
use bollard::query_parameters::ImportImageOptions;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use rollback_core::{Digest, Error, Kind, Release, Result, Timestamp, atomic_file};
use serde::{Deserialize, Serialize};
use std::{
    fs, io,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::{
    fs::File,
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::timeout,
};

const MOST: u64 = 1 << 20;
const CHUNK: usize = 64 << 10;

/// What settings are kept as.
const SETTINGS: &str = "settings";

/// Writes a file that only its owner may read: not even while it is being written.
fn private(path: &Path, bytes: &[u8]) -> Result<()> {
    match fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(failed("keep the settings")(e)),
        _ => {}
    }
    // It keeps the mode that the file has.
    atomic_file::write(path, bytes)
}

/// What is known of an image.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Note {
    pub(crate) image: String,
    pub(crate) label: String,
    pub(crate) at: Timestamp,
    /// By which name a registry has it, with its digest. Without it, it is saved whole.
    pub(crate) pull: Option<String>,
    /// What it was recorded as before.
    #[serde(default)]
    pub(crate) names: Vec<String>,
}

impl Note {
    pub(crate) fn release(&self) -> Release {
        let digest = self.pull.as_deref().and_then(|name| name.rsplit_once('@')).map(|(_, digest)| Digest::new(digest));
        let release = Release::new(self.image.as_str()).with_label(self.label.as_str()).with_names(self.names.clone());
        release.with_made_at(self.at).with_artifacts(digest)
    }
}

/// The images of one target.
#[derive(Clone, Debug)]
pub(crate) struct Archive(PathBuf);

fn failed(what: &str) -> impl FnOnce(io::Error) -> Error {
    move |e| Error::from_io(what, e).without_effect()
}

impl Archive {
    /// In a directory, by the name of the target.
    pub(crate) fn of(dir: &Path, repository: &str) -> Self {
        Self(dir.join(repository.trim_start_matches(crate::pins::PINS)))
    }

    fn path(&self, image: &str, what: &str) -> PathBuf {
        let hex: String = image.trim_start_matches("sha256:").chars().filter(char::is_ascii_hexdigit).collect();
        self.0.join(format!("{hex}.{what}"))
    }

    /// Every note, newest first. One that is damaged, or whose image is not beside it, is left out.
    pub(crate) fn notes(&self) -> Result<Vec<Note>> {
        let entries = match fs::read_dir(&self.0) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
            Err(e) => return Err(failed("list the archive of images")(e)),
        };
        let read = |path: &Path| serde_json::from_slice(&atomic_file::read(path, MOST).ok()??).ok();
        let mut notes: Vec<Note> = entries
            .flatten()
            .filter(|entry| entry.path().extension().is_some_and(|e| e == "json"))
            .filter_map(|entry| read(&entry.path()))
            .filter(|note: &Note| note.pull.is_some() || self.path(&note.image, "tar").exists())
            .collect();
        notes.sort_by(|a, b| (b.at, &b.image).cmp(&(a.at, &a.image)));
        Ok(notes)
    }

    /// Keeps an image and what its containers were given, and lets go of the oldest beyond `keep`.
    pub(crate) async fn keep(
        &self,
        engine: &Engine,
        image: &str,
        label: &str,
        keep: usize,
        given: &Settings,
    ) -> Result<()> {
        fs::create_dir_all(&self.0).map_err(failed("make the archive of images"))?;
        let there = self.notes()?;
        let note = match there.iter().find(|note| note.image == image) {
            Some(known) => {
                let mut note = Note { label: label.to_owned(), at: Timestamp::now(), ..known.clone() };
                note.names.retain(|name| name != label);
                if known.label != label {
                    note.names.push(known.label.clone());
                }
                note
            }
            None => {
                let pull = image::find(engine, image).await?.and_then(|image| image::digest_name(&image));
                if pull.is_none() {
                    self.save(engine, image).await?;
                }
                let (image, label) = (image.to_owned(), label.to_owned());
                Note { image, label, at: Timestamp::now(), pull, names: vec![] }
            }
        };
        self.note(&note).await?;
        let (path, text) = (self.path(image, SETTINGS), given.to_text().unwrap_or_default());
        atomic_file::blocking(move || private(&path, text.as_bytes())).await?;
        for old in there.iter().filter(|note| note.image != image).skip(keep.saturating_sub(1)) {
            atomic_file::remove(&self.path(&old.image, "json"))?;
            atomic_file::remove(&self.path(&old.image, "tar"))?;
            atomic_file::remove(&self.path(&old.image, SETTINGS))?;
        }
        Ok(())
    }

    async fn note(&self, note: &Note) -> Result<()> {
        let bytes = serde_json::to_vec_pretty(note)
            .map_err(|e| Error::new(Kind::Unexpected, "note the image").with_source(e).without_effect())?;
        let path = self.path(&note.image, "json");
        atomic_file::blocking(move || atomic_file::write(&path, &bytes)).await
    }

    /// It was deployed again, by a rollback: of what is kept it is the newest, and the last that goes.
    pub(crate) async fn deployed_again(&self, image: &str) -> Result<()> {
        match self.notes()?.into_iter().find(|note| note.image == image) {
            Some(note) => self.note(&Note { at: Timestamp::now(), ..note }).await,
            None => Ok(()),
        }
    }

    /// What the containers of an image were given, if that is kept.
    pub(crate) fn settings(&self, image: &str) -> Option<Settings> {
        let bytes = atomic_file::read(&self.path(image, SETTINGS), MOST).ok()??;
        Settings::read(std::str::from_utf8(&bytes).ok()?)
    }

    async fn save(&self, engine: &Engine, image: &str) -> Result<()> {
        let what = || format!("save the image {}", short(image));
        let io = |e| failed(&what())(e);
        let (part, whole) = (self.path(image, "part"), self.path(image, "tar"));
        let mut file = File::create(&part).await.map_err(io)?;
        let mut bytes = engine.client().export_image(image).boxed();
        while let Some(bytes) = bytes.try_next().await.map_err(error::read(what()))? {
            file.write_all(&bytes).await.map_err(io)?;
        }
        file.sync_all().await.map_err(io)?;
        fs::rename(&part, &whole).map_err(io)?;
        atomic_file::sync_parent(&whole)
    }

    /// Brings an image back onto the engine. Says from where; `None` if it is not kept.
    pub(crate) async fn bring_back(&self, engine: &Engine, image: &str, within: Duration) -> Result<Option<String>> {
        let Some(note) = self.notes()?.into_iter().find(|note| note.image == image) else { return Ok(None) };
        let from = match &note.pull {
            Some(name) => {
                registry::pull(engine, name, within).await?;
                format!("pulled as {name}")
            }
            None => {
                let path = self.path(image, "tar");
                self.load(engine, &path, within).await?;
                format!("loaded from {}", path.display())
            }
        };
        if image::find(engine, image).await?.is_none() {
            let e = Error::new(Kind::NotFound, format!("bring the image {} back", short(image)));
            return Err(e.with_message(format!("it was {from}, and is another one")).without_effect());
        }
        Ok(Some(from))
    }

    async fn load(&self, engine: &Engine, path: &Path, within: Duration) -> Result<()> {
        let what = format!("load the image from {}", path.display());
        let file = File::open(path).await.map_err(failed(&what))?;
        let chunks = stream::try_unfold(file, |mut file| async move {
            let mut bytes = vec![0; CHUNK];
            let read = file.read(&mut bytes).await?;
            bytes.truncate(read);
            Ok::<_, io::Error>((read > 0).then_some((bytes.into(), file)))
        });
        let body = bollard::body_try_stream(chunks);
        let options = ImportImageOptions { quiet: true, platform: None };
        let loaded = engine.client().import_image(options, body, None).try_for_each(|_| async { Ok(()) });
        match timeout(within, loaded).await {
            Ok(loaded) => loaded.map_err(error::read(what)),
            Err(_) => Err(Error::new(Kind::Unavailable, what)
                .with_message(format!("it was not there within {within:?}: docker load it by hand"))
                .without_effect()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn notes_without_their_image_are_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let archive = Archive::of(dir.path(), "rollback/shop.web");
        assert_eq!(archive.notes().unwrap(), []);
        fs::create_dir_all(&archive.0).unwrap();
        let put = |at: u64, pull: Option<&str>| {
            let image = format!("sha256:{}", at.to_string().repeat(64));
            let pull = pull.map(str::to_owned);
            let note = Note { image, label: "x".into(), at: Timestamp(at), pull, names: vec![] };
            fs::write(archive.path(&note.image, "json"), serde_json::to_vec(&note).unwrap()).unwrap();
            note
        };
        let (pulled, saved) = (put(1, Some("r:5000/shop@sha256:ab")), put(2, None));
        put(3, None);
        fs::write(archive.path(&saved.image, "tar"), "").unwrap();
        fs::write(archive.0.join("damaged.json"), "{").unwrap();
        assert_eq!(archive.notes().unwrap(), [saved, pulled.clone()]);
        assert_eq!(pulled.release().artifacts, [Digest::new("sha256:ab")]);
    }
}
