//! The Docker bed from the inside: images made on the spot, projects that are swept, loads that are counted.

use rollback_docker::{ConnectOptions, Engine};
use serde::Deserialize;
use std::{
    collections::BTreeMap,
    env, fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

/// The bed that this test runs in.
#[derive(Clone, Debug)]
pub struct Bed {
    dir: PathBuf,
    name: String,
}

impl Bed {
    /// The bed around this process.
    ///
    /// # Panics
    /// If there is none: the tests that need it are ignored unless they are asked for.
    pub fn here() -> Self {
        let var = |name: &str| {
            env::var(name).unwrap_or_else(|_| {
                panic!(
                    "this test needs the Docker bed: tests/beds/docker.sh up NAME, then \
                     tests/beds/docker.sh x NAME cargo test -p rollback-tests --test docker -- --ignored"
                )
            })
        };
        Self { dir: PathBuf::from(var("ROLLBACK_DOCKER_BED")), name: var("ROLLBACK_DOCKER_BED_NAME") }
    }
    /// Runs docker and gives what it printed.
    ///
    /// # Panics
    /// If it fails.
    pub fn docker(&self, args: &[&str]) -> String {
        self.try_docker(args).unwrap_or_else(|e| panic!("docker {args:?}: {e}"))
    }
    /// Runs docker and gives what it printed, or what it said went wrong.
    ///
    /// # Errors
    /// What it said.
    pub fn try_docker(&self, args: &[&str]) -> Result<String, String> {
        said(self.command().args(args).stdin(Stdio::null()).output())
    }
    /// Runs a prune: one at a time, because an engine refuses a second one beside it.
    ///
    /// # Panics
    /// If it fails.
    pub fn prune(&self, args: &[&str]) {
        static ONE: Mutex<()> = Mutex::new(());
        let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        self.docker(args);
    }
    /// docker, on its engine.
    fn command(&self) -> Command {
        let mut command = Command::new("docker");
        command.env("DOCKER_HOST", self.host());
        command
    }
    /// Where its engine listens.
    pub fn host(&self) -> String {
        format!("unix://{}", self.socket().display())
    }
    /// The same, as a path.
    pub fn socket(&self) -> PathBuf {
        self.dir.join("docker.sock")
    }
    /// Copies an image to the engine of another bed.
    ///
    /// # Panics
    /// If it fails.
    pub fn copy_image(&self, image: &str, to: &Bed) {
        let mut save =
            self.command().args(["save", image]).stdout(Stdio::piped()).spawn().unwrap_or_else(|e| panic!("{e}"));
        let tar = save.stdout.take().map_or_else(Stdio::null, Stdio::from);
        said(to.command().arg("load").stdin(tar).output()).unwrap_or_else(|e| panic!("docker load: {e}"));
        assert!(save.wait().is_ok_and(|status| status.success()), "docker save {image}");
    }
    /// All containers with their states, and all names of images: what nobody is to change.
    ///
    /// # Panics
    /// If it does not say.
    pub fn everything(&self) -> String {
        let containers = self.docker(&["ps", "-a", "--no-trunc", "--format", "{{.ID}} {{.Names}} {{.State}}"]);
        let images = self.docker(&["images", "--no-trunc", "--format", "{{.ID}} {{.Repository}}:{{.Tag}}"]);
        let mut all: Vec<&str> = containers.lines().chain(images.lines()).collect();
        all.sort_unstable();
        all.join("\n")
    }
    /// The engine, as the library sees it.
    ///
    /// # Panics
    /// If it does not answer.
    pub async fn engine(&self) -> Engine {
        Engine::connect(ConnectOptions::new().with_host(self.host())).await.unwrap_or_else(|e| panic!("{e}"))
    }
    /// `tests/beds/docker.sh COMMAND` of this bed: `restart`, `crash`.
    ///
    /// # Panics
    /// If it fails.
    pub fn script(&self, command: &str) {
        let out = Self::shell().args([command, &self.name]).stdin(Stdio::null()).output();
        said(out).unwrap_or_else(|e| panic!("docker.sh {command}: {e}"));
    }
    /// Podman's service in it, started unless it is there.
    ///
    /// # Panics
    /// If it does not come up.
    pub fn podman(&self) -> Podman {
        let out = Self::shell().args(["with", &self.name, "podman"]).stdin(Stdio::null()).output();
        said(out).unwrap_or_else(|e| panic!("docker.sh with podman: {e}"));
        Podman { socket: self.dir.join("podman.sock"), group: format!("/rollback-bed-docker-{}/podman", self.name) }
    }
    fn shell() -> Command {
        Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("beds/docker.sh"))
    }
    /// A bed beside this one, with a disk of so many megabytes. What runs in it is not reached from here; it goes when it is
    /// dropped.
    ///
    /// # Panics
    /// If it does not come up.
    pub fn beside(&self, megabytes: u32) -> Beside {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("{}-side-{}-{}", self.name, std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let size = format!("{megabytes}m");
        let out = Self::shell().args(["up", &name]).env("BED_DATA_SIZE", size).stdin(Stdio::null()).output();
        let bed = Self { dir: self.dir.with_file_name(format!("docker-{name}")), name };
        let beside = Beside(bed);
        said(out).unwrap_or_else(|e| panic!("docker.sh up: {e}"));
        beside
    }
    /// Its folder on this host: `shop` in it is the program of the image `bed/shop:base`.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
    /// A world of its own for one test.
    pub fn project(&self, name: &str) -> Project {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("{name}-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let dir = self.dir.join("projects").join(&name);
        fs::create_dir_all(&dir).unwrap_or_else(|e| panic!("{e}"));
        Project { bed: self.clone(), name, dir }
    }
}

pub(super) fn said(out: std::io::Result<Output>) -> Result<String, String> {
    let out = out.map_err(|e| e.to_string())?;
    if !out.status.success() {
        return Err(format!("{}: {}", out.status, String::from_utf8_lossy(&out.stderr).trim()));
    }
    Ok(String::from_utf8_lossy(&out.stdout).trim().to_owned())
}

/// Podman's service in a bed. It goes with the bed.
#[derive(Debug)]
pub struct Podman {
    /// Where it listens.
    pub socket: PathBuf,
    group: String,
}

impl Podman {
    /// Its address.
    pub fn host(&self) -> String {
        format!("unix://{}", self.socket.display())
    }
    /// Runs docker on it and gives what it printed.
    ///
    /// # Panics
    /// If it fails.
    pub fn docker(&self, args: &[&str]) -> String {
        let out = Command::new("docker").env("DOCKER_HOST", self.host()).args(args).stdin(Stdio::null()).output();
        said(out).unwrap_or_else(|e| panic!("docker {args:?}: {e}"))
    }
    /// A container that does nothing.
    ///
    /// # Panics
    /// If it does not start.
    pub fn container(&self, name: &str) -> String {
        let run = ["run", "-d", "--name", name, "--network", "none", "--cgroup-parent", &self.group];
        self.docker(&[&run[..], &["bed/shop:base", "/bin/busybox", "sleep", "3600"]].concat())
    }
}

/// A bed that a test brought up for itself.
#[derive(Debug)]
pub struct Beside(pub Bed);

impl Drop for Beside {
    fn drop(&mut self) {
        let _ = Bed::shell().args(["down", &self.0.name]).stdin(Stdio::null()).output();
    }
}

/// A Compose project with images, containers and a folder of its own. All of it goes when it is dropped.
#[derive(Debug)]
pub struct Project {
    /// The bed.
    pub bed: Bed,
    /// The project's name, which everything of it begins with.
    pub name: String,
    /// Its folder.
    pub dir: PathBuf,
}

/// A container, as `docker inspect` has it.
pub type Inspected = serde_json::Value;

impl Project {
    /// Builds the image `NAME/shop:TAG` from these lines of a Dockerfile and gives its id.
    ///
    /// # Panics
    /// If that fails.
    pub fn image(&self, tag: &str, lines: &str) -> String {
        let mut child = self
            .bed
            .command()
            .args(["build", "-q", "-t", &self.tag(tag), "-"])
            // The builder of the engine itself: it needs nothing from anywhere.
            .env("DOCKER_BUILDKIT", "0")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("{e}"));
        let file = format!("FROM bed/shop:base\nLABEL bed.project={}\nENV VERSION={tag}\n{lines}\n", self.name);
        let mut stdin = child.stdin.take().unwrap_or_else(|| panic!("no stdin"));
        stdin.write_all(file.as_bytes()).unwrap_or_else(|e| panic!("{e}"));
        drop(stdin);
        said(child.wait_with_output()).unwrap_or_else(|e| panic!("build {tag}: {e}"))
    }
    /// Removes an image with all its names, whoever pinned it.
    pub fn remove_image(&self, id: &str) {
        let names = self.bed.try_docker(&["inspect", "-f", "{{range .RepoTags}}{{println .}}{{end}}", id]);
        for name in names.iter().flat_map(|names| names.lines()).filter(|name| !name.is_empty()) {
            let _ = self.bed.try_docker(&["rmi", "-f", name]);
        }
        let _ = self.bed.try_docker(&["rmi", "-f", id]);
    }
    /// The full name of one of its images.
    pub fn tag(&self, tag: &str) -> String {
        format!("{}/shop:{tag}", self.name)
    }
    /// Writes its Compose file; `IMAGE:` stands for the repository of its images.
    ///
    /// # Panics
    /// If it cannot be written.
    pub fn file(&self, yaml: &str) {
        let yaml = yaml.replace("IMAGE:", &format!("{}/shop:", self.name));
        fs::write(self.dir.join("compose.yaml"), yaml).unwrap_or_else(|e| panic!("{e}"));
    }
    /// Runs docker compose on it.
    ///
    /// # Panics
    /// If it fails.
    pub fn compose(&self, args: &[&str]) -> String {
        self.try_compose(args).unwrap_or_else(|e| panic!("docker compose {args:?}: {e}"))
    }
    /// Runs docker compose on it.
    ///
    /// # Errors
    /// What it said.
    pub fn try_compose(&self, args: &[&str]) -> Result<String, String> {
        said(self.compose_command(args).output())
    }
    /// Takes it down at once. That its network stays is no fault: the engine sometimes miscounts who is on it (moby#43286).
    ///
    /// # Panics
    /// If anything else fails.
    pub fn down(&self) {
        let down = self.try_compose(&["down", "-t", "0"]);
        if let Err(e) = down {
            assert!(e.contains("has active endpoints") && self.compose(&["ps", "-aq"]).trim().is_empty(), "{e}");
        }
    }
    /// docker compose on it, not started yet.
    pub fn compose_command(&self, args: &[&str]) -> Command {
        let mut command = self.bed.command();
        command.args(["compose", "-p", &self.name]).args(args).current_dir(&self.dir).stdin(Stdio::null());
        command
    }
    /// All containers of a service, running or not, oldest first.
    pub fn containers(&self, service: &str) -> Vec<Inspected> {
        let project = format!("label=com.docker.compose.project={}", self.name);
        let service = format!("label=com.docker.compose.service={service}");
        self.inspect(&["-f", &project, "-f", &service])
    }
    /// All containers whose name begins with the project's.
    pub fn all_containers(&self) -> Vec<Inspected> {
        self.inspect(&["-f", &format!("name=^/{}", self.name)])
    }
    fn inspect(&self, filters: &[&str]) -> Vec<Inspected> {
        let ids = self.bed.docker(&[&["ps", "-aq", "--no-trunc"][..], filters].concat());
        let ids: Vec<&str> = ids.lines().collect();
        if ids.is_empty() {
            return vec![];
        }
        let json = self.bed.docker(&[&["inspect"][..], &ids].concat());
        let mut all: Vec<Inspected> = serde_json::from_str(&json).unwrap_or_else(|e| panic!("{e}"));
        all.sort_by_key(|c| c["Created"].to_string());
        all
    }
    /// What `GET path` of a container says, asked at its own address.
    ///
    /// # Errors
    /// What curl said.
    pub fn get(&self, container: &Inspected, path: &str) -> Result<String, String> {
        let networks = container["NetworkSettings"]["Networks"].as_object().into_iter().flatten();
        let ip = networks.filter_map(|(_, n)| n["IPAddress"].as_str()).find(|ip| !ip.is_empty()).unwrap_or_default();
        said(Command::new("curl").args(["-sf", "-m", "5", &format!("http://{ip}:8080{path}")]).output())
    }
    /// Begins a load from inside the project's network. It needs the service to be up.
    ///
    /// # Panics
    /// If it does not begin.
    pub fn load(&self, name: &str, url: &str, flags: &[&str]) -> Load {
        let (container, network) = (format!("{}-load-{name}", self.name), format!("{}_default", self.name));
        let run = ["run", "-d", "--name", &container, "--network", &network, "bed/shop:base", "/bin/shop", "load", url];
        self.bed.docker(&[&run[..], &["-for", "10m"], flags].concat());
        wait_until("the load begins", || self.bed.docker(&["logs", &container]).contains("begins"));
        Load::Container(self.bed.clone(), container)
    }
    /// Begins a load from the host, for published ports.
    ///
    /// # Panics
    /// If it does not begin.
    pub fn host_load(&self, url: &str, flags: &[&str]) -> Load {
        let child = Command::new(self.bed.dir.join("shop"))
            .args(["load", url, "-for", "10m"])
            .args(flags)
            .stdout(Stdio::piped())
            .spawn();
        Load::Process(child.unwrap_or_else(|e| panic!("{e}")))
    }
}

impl Drop for Project {
    fn drop(&mut self) {
        let labelled = format!("label=com.docker.compose.project={}", self.name);
        let named = format!("name=^/{}", self.name);
        // What holds the images of recorded releases.
        let holders = format!("name=^/rollback.{}", self.name);
        for filter in [&labelled, &named, &holders] {
            if let Ok(ids) = self.bed.try_docker(&["ps", "-aq", "-f", filter]) {
                for id in ids.lines() {
                    let _ = self.bed.try_docker(&["rm", "-f", "-v", id]);
                }
            }
        }
        for kind in ["network", "volume"] {
            if let Ok(ids) = self.bed.try_docker(&[kind, "ls", "-q", "-f", &labelled]) {
                for id in ids.lines() {
                    let _ = self.bed.try_docker(&[kind, "rm", id]);
                }
            }
        }
        if let Ok(ids) = self.bed.try_docker(&["images", "-aq", "-f", &format!("label=bed.project={}", self.name)]) {
            for id in ids.lines() {
                let _ = self.bed.try_docker(&["rmi", "-f", id]);
            }
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// What a container's image was called when it was made.
pub fn tag_of(container: &Inspected) -> String {
    container["Config"]["Image"].as_str().unwrap_or_default().to_owned()
}

/// A load that is running.
#[derive(Debug)]
pub enum Load {
    /// In a container.
    Container(Bed, String),
    /// In the bed's own network.
    Process(Child),
}

/// What a load counted.
#[derive(Clone, Debug, Deserialize)]
pub struct Counted {
    /// Requests sent.
    pub sent: u64,
    /// Those without an answer of 200.
    pub failed: u64,
    /// The longest time between two good answers, in milliseconds.
    pub gap_ms: u64,
    /// Good answers by what they said.
    pub versions: BTreeMap<String, u64>,
    /// What went wrong, with how often.
    pub errors: BTreeMap<String, u64>,
}

impl Load {
    /// Ends it and gives what it counted.
    ///
    /// # Panics
    /// If it did not count.
    pub fn end(self) -> Counted {
        let text = match self {
            Load::Container(bed, name) => {
                bed.docker(&["kill", "-s", "TERM", &name]);
                bed.docker(&["wait", &name]);
                let text = bed.docker(&["logs", &name]);
                bed.docker(&["rm", &name]);
                text
            }
            Load::Process(child) => {
                let pid = child.id().to_string();
                said(Command::new("kill").args(["-TERM", &pid]).output()).unwrap_or_else(|e| panic!("{e}"));
                said(child.wait_with_output()).unwrap_or_else(|e| panic!("{e}"))
            }
        };
        let last = text.lines().last().unwrap_or_default();
        serde_json::from_str(last).unwrap_or_else(|e| panic!("{e}: {text}"))
    }
}

/// Waits for something that is about to be so.
///
/// # Panics
/// If it is not so within five minutes: a machine may be busy with something else.
pub fn wait_until(what: &str, mut so: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(300);
    while !so() {
        assert!(Instant::now() < end, "not within five minutes: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
