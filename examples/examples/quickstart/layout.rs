//! Where everything lies in the quickstart's folder.

use rollback_core::Timestamp;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

/// What goes wrong in an example is shown and ends it.
pub(crate) type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// The release that works.
pub(crate) const GOOD: &str = "2.3.9";
/// The release that fails.
pub(crate) const BAD: &str = "2.4.0";

/// A release of the service: all of it is this one file, `releases/<version>/service.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ServiceFile {
    /// What `/version` answers.
    pub version: String,
    /// So many of a hundred requests fail.
    pub fails_percent: u64,
    /// How long it takes to start.
    pub starts_in_ms: u64,
}

/// The folder of one quickstart.
#[derive(Clone, Debug)]
pub(crate) struct Layout(PathBuf);

impl Layout {
    pub(crate) fn of(work: &Path) -> Self {
        Self(work.to_path_buf())
    }
    /// Two releases, and `current`, which points at the one that works. What is there already stays.
    pub(crate) fn make(work: &Path, starts_in_ms: u64) -> Result<Self> {
        fs::create_dir_all(work)?;
        let layout = Self(fs::canonicalize(work)?);
        for (version, fails_percent) in [(GOOD, 0), (BAD, 15)] {
            let folder = layout.root().join("releases").join(version);
            fs::create_dir_all(&folder)?;
            let file = ServiceFile { version: version.into(), fails_percent, starts_in_ms };
            fs::write(folder.join("service.json"), serde_json::to_vec_pretty(&file)?)?;
        }
        match symlink(format!("releases/{GOOD}"), layout.root().join("current")) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error.into()),
            _ => Ok(layout),
        }
    }
    /// The release directory.
    pub(crate) fn root(&self) -> PathBuf {
        self.0.join("checkout")
    }
    /// The journal.
    pub(crate) fn journal(&self) -> PathBuf {
        self.0.join("rollback.db")
    }
    /// Where the supervisor listens.
    pub(crate) fn socket(&self) -> PathBuf {
        self.0.join("supervisor.sock")
    }
    /// What happened to the service, as its supervisor saw it.
    pub(crate) fn log(&self) -> PathBuf {
        self.0.join("service.log")
    }
    /// The folder itself.
    pub(crate) fn work(&self) -> &Path {
        &self.0
    }
    /// Where the service answers: the supervisor writes it when it has begun to listen.
    pub(crate) fn address(&self) -> Result<String> {
        Ok(fs::read_to_string(self.0.join("address"))?)
    }
    pub(crate) fn write_address(&self, address: &str) -> Result<()> {
        // Whole or not at all: a reader polls for it.
        let draft = self.0.join("address.new");
        fs::write(&draft, address)?;
        Ok(fs::rename(draft, self.0.join("address"))?)
    }
    /// What `current` points at.
    pub(crate) fn current(&self) -> Result<String> {
        let link = fs::read_link(self.root().join("current"))?;
        Ok(link.file_name().ok_or("current points nowhere")?.to_string_lossy().into_owned())
    }
    /// Reads a file of the release that `current` points at.
    pub(crate) fn read_current<T: DeserializeOwned>(&self, file: &str) -> Result<T> {
        Ok(serde_json::from_slice(&fs::read(self.root().join("current").join(file))?)?)
    }
}

/// One line of the service's own log. Effects are counted in it, whatever becomes of the process that ordered them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LogLine {
    pub at: Timestamp,
    #[serde(flatten)]
    pub what: Happened,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(crate) enum Happened {
    /// `current` was swapped.
    Swapped { to: String },
    /// The restart hook called.
    Hook { order: Order },
    /// A process of the service is ready.
    Started { release: String, pid: u32, key: String },
    /// It is gone.
    Stopped { release: String, pid: u32 },
}

/// What the restart hook hands on: which step of which run wants it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Order {
    /// The same for every attempt of the same step, by whatever process. Empty: nobody's rollback.
    pub key: String,
    pub run: String,
    pub epoch: String,
    pub release: String,
}

/// The lines so far.
pub(crate) fn read_log(path: &Path) -> Result<Vec<LogLine>> {
    let text = match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
        other => other?,
    };
    // A line without its end is still being written.
    text.split_inclusive('\n').filter(|line| line.ends_with('\n')).map(|line| Ok(serde_json::from_str(line)?)).collect()
}
