//! What there is to say of a project.

use super::{Mode, source::Source};
use std::path::PathBuf;

/// Which files a project has, and where its earlier releases are found. The default: the files that Compose would take, no
/// environment file in a release, and no releases but those that were recorded or replaced.
///
/// Paths are taken from the project's directory.
///
/// ```
/// use rollback_docker::{Mode, ProjectOptions};
/// let options = ProjectOptions::new()
///     .with_files(["docker-compose.yml", "docker-compose.prod.yml"])
///     .with_env_files([".env"])
///     .with_profiles(["worker"])
///     .with_git()
///     .with_backup_suffix(".backup")
///     .with_mode(Mode::DownUp);
/// ```
#[derive(Clone, Debug)]
pub struct ProjectOptions {
    pub(super) files: Vec<PathBuf>,
    pub(super) env_files: Vec<PathBuf>,
    pub(super) more_files: Vec<PathBuf>,
    pub(super) profiles: Vec<String>,
    pub(super) name: Option<String>,
    pub(super) sources: Vec<Source>,
    pub(super) mode: Mode,
    pub(super) keep: usize,
    pub(super) docker: String,
}

impl Default for ProjectOptions {
    fn default() -> Self {
        Self {
            files: vec![],
            env_files: vec![],
            more_files: vec![],
            profiles: vec![],
            name: None,
            sources: vec![],
            mode: Mode::Up,
            keep: 20,
            docker: "docker".into(),
        }
    }
}

impl ProjectOptions {
    /// The default.
    pub fn new() -> Self {
        Self::default()
    }
    /// The Compose files, in the order of `-f`. Without it: what Compose would take, with its override file.
    pub fn with_files<P: Into<PathBuf>>(mut self, files: impl IntoIterator<Item = P>) -> Self {
        self.files.extend(files.into_iter().map(Into::into));
        self
    }
    /// Environment files that belong to a release: they go back with it, and Compose gets them with `--env-file`. Without
    /// it, `.env` stays as it is. A release that lacks one of them cannot be gone to, so leave out what no commit and no
    /// backup has.
    pub fn with_env_files<P: Into<PathBuf>>(mut self, files: impl IntoIterator<Item = P>) -> Self {
        self.env_files.extend(files.into_iter().map(Into::into));
        self
    }
    /// Other files that belong to a release: what its configs, its secrets or its `include` lead to.
    pub fn with_more_files<P: Into<PathBuf>>(mut self, files: impl IntoIterator<Item = P>) -> Self {
        self.more_files.extend(files.into_iter().map(Into::into));
        self
    }
    /// Profiles to enable.
    pub fn with_profiles<S: Into<String>>(mut self, profiles: impl IntoIterator<Item = S>) -> Self {
        self.profiles.extend(profiles.into_iter().map(Into::into));
        self
    }
    /// The project's name, as with `-p`. Without it: what Compose makes of the files and the directory.
    pub fn with_name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }
    /// Releases are the last 50 commits that changed the files, as far as the current one. All of them count as deployed: name a
    /// branch of which each commit is.
    pub fn with_git(self) -> Self {
        self.with_git_from("HEAD")
    }
    /// As [`with_git`](ProjectOptions::with_git), from another name: `origin/main`.
    pub fn with_git_from(mut self, name: impl Into<String>) -> Self {
        self.sources.push(Source::Git(name.into()));
        self
    }
    /// Releases are the directories in this one, each with copies of the files under their names.
    pub fn with_backups(mut self, dir: impl Into<PathBuf>) -> Self {
        self.sources.push(Source::Backups(dir.into()));
        self
    }
    /// A release is a copy beside each file, with this after its name: `.backup`.
    pub fn with_backup_suffix(mut self, suffix: impl Into<String>) -> Self {
        self.sources.push(Source::Suffix(suffix.into()));
        self
    }
    /// How the containers are replaced. Default: [`Mode::Up`].
    pub fn with_mode(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self
    }
    /// How many recorded releases are kept in `.rollback`; beside them as many that were replaced by a rollback, and as many
    /// that were made by editing images. Those go first that were deployed the longest ago; what runs stays in any case.
    /// Default: 20; at least 1.
    pub fn with_kept_records(mut self, count: usize) -> Self {
        self.keep = count.max(1);
        self
    }
    /// The docker command line, by its path. Default: `docker`, looked up in `PATH`.
    pub fn with_docker(mut self, program: impl Into<String>) -> Self {
        self.docker = program.into();
        self
    }
}
