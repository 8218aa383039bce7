//! Calls of the real `docker compose`: no shell, bounded in time, killed with all it started when it is given up.

use super::{
    files::{FileSet, Role, Slot, variables},
    model::Model,
};
use crate::connect::Engine;
use rollback_core::{Error, Kind, Result, process::Process, redact::without_secrets, seconds};
use std::{
    path::{Path, PathBuf},
    time::Duration,
};

/// How long a call may take that only reads files.
const READ_WITHIN: Duration = seconds(30);
/// How many characters of what it says are shown.
const SHOWN: usize = 600;

/// How Compose is called for one project.
#[derive(Clone, Debug)]
pub(super) struct Compose {
    pub(super) cli: Vec<String>,
    pub(super) dir: PathBuf,
    pub(super) name: Option<String>,
    pub(super) profiles: Vec<String>,
    pub(super) slots: Vec<Slot>,
}

/// Files that are not in their places yet, in a directory of their own that goes when this is dropped.
#[derive(Debug)]
pub(super) struct Staged(tempfile::TempDir);

impl Staged {
    pub(super) fn new(slots: &[Slot], set: &FileSet) -> Result<Self> {
        let failed = |e| Error::from_io("stage the files of a release", e).without_effect();
        // Only for this user: environment files hold secrets.
        let dir = tempfile::Builder::new().prefix("rollback-compose-").tempdir().map_err(failed)?;
        for (n, (_, bytes)) in slots.iter().zip(&set.0).enumerate() {
            std::fs::write(Self::path(dir.path(), n), bytes).map_err(failed)?;
        }
        Ok(Self(dir))
    }
    fn path(dir: &Path, n: usize) -> PathBuf {
        dir.join(format!("{n}.yaml"))
    }
}

/// What a call wrote.
#[derive(Debug)]
pub(super) struct Said {
    pub(super) out: Vec<u8>,
    pub(super) err: String,
}

impl Compose {
    /// The plugin is there, and speaks to the engine that is meant.
    ///
    /// # Errors
    /// [`Kind::Unsupported`] without the docker command line or its plugin, [`Kind::Invalid`] if it speaks to another engine,
    /// [`Kind::Unavailable`] if to none.
    pub(super) async fn check(&self, engine: &Engine) -> Result<()> {
        let unsupported = |why: &str| {
            Error::new(Kind::Unsupported, "use docker compose").with_message(why.to_owned()).without_effect()
        };
        let run = |arguments: &[&str]| {
            let argv = self.cli.iter().cloned().chain(arguments.iter().map(|a| (*a).to_owned()));
            clean(Process::new(argv)).within(READ_WITHIN)
        };
        let version = run(&["compose", "version", "--short"]).run().await.map_err(|e| match e.kind() {
            Kind::NotFound => unsupported("there is no docker command line on this host: install it, and its plugin"),
            _ => e.without_effect(),
        })?;
        if !version.is_success() {
            return Err(unsupported("the docker command line has no compose plugin: install docker-compose-plugin"));
        }
        let info = run(&["info", "--format", "{{.ID}}"]).run().await.map_err(Error::without_effect)?;
        let refused =
            |kind, why: String| Err(Error::new(kind, "use docker compose").with_message(why).without_effect());
        if !info.is_success() {
            let said = without_secrets(info.stderr.trim());
            return refused(Kind::Unavailable, format!("the docker command line does not reach the engine: {said}"));
        }
        let id = String::from_utf8_lossy(&info.stdout).trim().to_owned();
        if id != engine.id() {
            let why =
                format!("the docker command line speaks to {id}, and {} ({}) was meant", engine.name(), engine.id());
            return refused(Kind::Invalid, why);
        }
        Ok(())
    }

    fn argv(&self, staged: Option<&Staged>, arguments: &[&str]) -> Vec<String> {
        let mut argv = self.cli.clone();
        argv.extend(["compose".into(), "--ansi".into(), "never".into()]);
        argv.extend(["--project-directory".into(), self.dir.display().to_string()]);
        if let Some(name) = &self.name {
            argv.extend(["-p".into(), name.clone()]);
        }
        for (n, slot) in self.slots.iter().enumerate() {
            let option = match slot.role {
                Role::Compose => "-f",
                Role::Env => "--env-file",
                Role::Other => continue,
            };
            let path = staged.map_or_else(|| slot.path.clone(), |staged| Staged::path(staged.0.path(), n));
            argv.extend([option.into(), path.display().to_string()]);
        }
        for profile in &self.profiles {
            argv.extend(["--profile".into(), profile.clone()]);
        }
        argv.extend(arguments.iter().map(|a| (*a).to_owned()));
        argv
    }

    /// Runs it, and says what went wrong. The effect of what failed is unknown.
    pub(super) async fn run(&self, staged: Option<&Staged>, arguments: &[&str], within: Duration) -> Result<Said> {
        let verb = arguments.first().copied().unwrap_or_default();
        let operation = format!("run docker compose {verb}");
        let process = clean(Process::new(self.argv(staged, arguments))).dir(&self.dir).within(within);
        let out = process.stdout_limit(16 << 20).run().await.map_err(|e| {
            let mut fault = e.into_fault();
            fault.operation.clone_from(&operation);
            Error::from(fault)
        })?;
        if out.is_success() {
            return Ok(Said { out: out.stdout, err: out.stderr });
        }
        let said = self.hide(staged, out.stderr.trim());
        let (kind, advice) = meaning(&said);
        let skipped = said.chars().count().saturating_sub(SHOWN);
        let end: String = said.chars().skip(skipped).collect();
        Err(Error::new(kind, operation).with_message(format!("{advice}; {out}, and it said: {end}")))
    }

    /// What the files say, by Compose's own reading of them.
    ///
    /// # Errors
    /// [`Kind::Invalid`] for files that it does not take; without effect.
    pub(super) async fn model(&self, staged: Option<&Staged>) -> Result<Model> {
        let read = |arguments: &'static [&'static str]| self.run(staged, arguments, READ_WITHIN);
        let (resolved, hashes, raw) = futures::join!(
            read(&["config", "--format", "json"]),
            read(&["config", "--hash", "*"]),
            // Not known to older ones: then values are not shown.
            read(&["config", "--no-interpolate", "--no-env-resolution", "--format", "json"]),
        );
        let invalid = |e: Error| {
            let kind = if e.kind() == Kind::Unexpected { Kind::Invalid } else { e.kind() };
            Error::new(kind, "read the Compose files").with_message(e.message().to_owned()).without_effect()
        };
        let (resolved, hashes) = (resolved.map_err(invalid)?, hashes.map_err(invalid)?);
        Model::read(&resolved, &hashes, raw.ok().as_ref())
    }

    /// Without the values of environment files.
    fn hide(&self, staged: Option<&Staged>, text: &str) -> String {
        let mut values: Vec<(String, String)> = vec![];
        let mut take = |path: PathBuf| {
            if let Ok(bytes) = std::fs::read(path) {
                values.extend(variables(&bytes).into_iter().filter(|(_, value)| value.len() >= 4));
            }
        };
        take(self.dir.join(".env"));
        for (n, slot) in self.slots.iter().enumerate().filter(|(_, slot)| slot.role == Role::Env) {
            take(slot.path.clone());
            if let Some(staged) = staged {
                take(Staged::path(staged.0.path(), n));
            }
        }
        // Longest first, so that no rest of a longer one stays.
        values.sort_by_key(|(_, value)| std::cmp::Reverse(value.len()));
        values.iter().fold(text.to_owned(), |text, (name, value)| text.replace(value, &format!("[{name}]")))
    }
}

/// What would lead it elsewhere is not inherited: which engine, which files and which project are said on its command line.
fn clean(process: Process) -> Process {
    ["DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_CONFIG", "COMPOSE_FILE", "COMPOSE_PROJECT_NAME", "COMPOSE_ENV_FILES"]
        .into_iter()
        .chain(["COMPOSE_REMOVE_ORPHANS", "COMPOSE_DISABLE_ENV_FILE"])
        // With these it would speak TLS to any address.
        .chain(["DOCKER_TLS", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH"])
        .fold(process, Process::without_env)
        .env("COMPOSE_MENU", "false")
}

/// What Compose means by what it says: its exit code is 1 for nearly everything.
fn meaning(said: &str) -> (Kind, &'static str) {
    let has = |texts: &[&str]| texts.iter().any(|text| said.contains(text));
    // Asked by the engine, which is there.
    if has(&["/v2/"]) && has(&["connection refused", "no such host", "timeout", "unreachable", "EOF"]) {
        (Kind::Unavailable, "a registry does not answer")
    } else if has(&["Cannot connect to the Docker daemon", "failed to connect to the docker API", "connection refused"])
    {
        (Kind::Unavailable, "the engine does not answer: see that it is up")
    } else if has(&["port is already allocated", "address already in use"]) {
        (Kind::Conflict, "another program has the port: see who listens there")
    } else if has(&["no space left on device"]) {
        (Kind::Unavailable, "the engine's disk is full: make room")
    } else if has(&["pull access denied", "unauthorized", "no basic auth credentials", "authentication required"]) {
        (Kind::Denied, "the registry refuses: log in with docker login, as this user")
    } else if has(&["No such image", "manifest unknown", "manifest for "]) {
        (Kind::NotFound, "an image is not to be had")
    } else if has(&["is unhealthy", "dependency failed to start"]) {
        (Kind::Unexpected, "a service that others depend on does not come up")
    } else if has(&["yaml:", "validating ", "invalid ", "interpolat", "no such service", "undefined service"]) {
        (Kind::Invalid, "Compose does not take the files")
    } else {
        (Kind::Unexpected, "it failed")
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_in_compose_s_order_and_staged_files_take_the_place_of_theirs() {
        let dir = Path::new("/srv/shop");
        let slots: Vec<Slot> = [
            (Role::Compose, "a.yaml"),
            (Role::Compose, "b.yaml"),
            (Role::Env, "prod.env"),
            (Role::Other, "nginx.conf"),
        ]
        .map(|(role, name)| Slot::new(dir, role, Path::new(name)))
        .into();
        let compose = Compose {
            cli: vec!["docker".into(), "--host".into(), "unix:///x".into()],
            dir: dir.into(),
            name: Some("shop".into()),
            profiles: vec!["worker".into()],
            slots: slots.clone(),
        };
        let argv = compose.argv(None, &["up", "-d"]).join(" ");
        assert_eq!(
            argv,
            "docker --host unix:///x compose --ansi never --project-directory /srv/shop -p shop -f /srv/shop/a.yaml \
             -f /srv/shop/b.yaml --env-file /srv/shop/prod.env --profile worker up -d"
        );
        let staged = Staged::new(&slots, &FileSet(vec![vec![]; 4])).unwrap();
        let argv = compose.argv(Some(&staged), &["config"]).join(" ");
        assert!(!argv.contains("/srv/shop/a.yaml") && argv.contains("--project-directory /srv/shop"), "{argv}");
    }

    #[test]
    fn values_of_environment_files_are_not_repeated() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(".env"), "PW=hunter2\nURL=db://u:hunter2@h\nN=1\n").unwrap();
        let compose = Compose { cli: vec![], dir: dir.path().into(), name: None, profiles: vec![], slots: vec![] };
        assert_eq!(compose.hide(None, "at db://u:hunter2@h with hunter2 1"), "at [URL] with [PW] 1");
    }

    #[test]
    fn what_compose_says_has_a_kind() {
        for (said, kind) in [
            ("yaml: line 3: mapping values are not allowed", Kind::Invalid),
            ("Bind for 0.0.0.0:80 failed: port is already allocated", Kind::Conflict),
            ("Cannot connect to the Docker daemon at unix:///x", Kind::Unavailable),
            ("Get \"http://r/v2/\": dial tcp 127.0.0.1:1: connect: connection refused", Kind::Unavailable),
            ("pull access denied for x", Kind::Denied),
            ("oops", Kind::Unexpected),
        ] {
            assert_eq!(meaning(said).0, kind, "{said}");
        }
    }
}
