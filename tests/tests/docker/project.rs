//! A whole Compose project, rolled back by its files, on a real engine and with the real Compose.

use async_trait::async_trait;
use rollback_core::{
    Change, Effect, Look, Running, Severity, Work,
    journal::{MemoryJournal, MemoryShelf},
    prelude::*,
    testing::laws::{
        Ruling,
        target::{Bench, each},
    },
};
use rollback_docker::{ComposeProject, ConnectOptions, Engine, Mode, ProjectOptions};
use rollback_tests::bed::{
    docker::{Bed, Project, wait_until},
    proxy::Proxy,
};
use std::{
    fs,
    path::Path,
    process::Command,
    sync::{Arc, Mutex},
    time::Duration,
};

/// A shop with a database that has a volume. `more` goes into the shop's environment.
pub(crate) fn yaml(tag: &str, more: &str) -> String {
    format!(
        "services:\n  web:\n    image: IMAGE:{tag}\n    depends_on: [db]\n    environment:\n      RELEASE: {tag}\n{more}\
         \x20 db:\n    image: bed/shop:base\n    volumes: [data:/data]\nvolumes: {{data: {{}}}}\n"
    )
}
/// The same, whose database comes up only after a while, and the shop waits for it: that is the middle. `more` goes into both
/// services.
pub(crate) fn slow(tag: &str, warm_up: &str, more: &str) -> String {
    let db = format!(
        "    volumes: [data:/data]\n{more}    environment: {{RELEASE: {tag}, WARM_UP: {warm_up}}}\n    healthcheck:\n      \
         test: [CMD, /bin/shop, health]\n      interval: 200ms\n      retries: 100\n"
    );
    yaml(tag, more)
        .replace("depends_on: [db]", "depends_on: {db: {condition: service_healthy}}")
        .replace("    volumes: [data:/data]\n", &db)
}
fn git(dir: &Path, arguments: &[&str]) {
    let who = ["-c", "user.name=t", "-c", "user.email=t@example.org"];
    let done = Command::new("git").arg("-C").arg(dir).args(who).args(arguments).output().unwrap();
    assert!(done.status.success(), "{done:?}");
}
/// Commits the file as of a second of its own.
pub(crate) fn commit(project: &Project, second: u32, why: &str) {
    if !project.dir.join(".git").exists() {
        git(&project.dir, &["init", "-q"]);
    }
    git(&project.dir, &["add", "compose.yaml"]);
    let date = format!("2026-01-01T00:00:{second:02}Z");
    let done = Command::new("git")
        .arg("-C")
        .arg(&project.dir)
        .args(["-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-q", "-m", why])
        .envs([("GIT_COMMITTER_DATE", &date), ("GIT_AUTHOR_DATE", &date)])
        .output()
        .unwrap();
    assert!(done.status.success(), "{done:?}");
}
/// One file and then the other, each committed; what came last runs.
pub(crate) fn deployed(project: &Project, [first, second]: [&str; 2]) {
    project.file(first);
    commit(project, 1, "shop 1");
    project.file(second);
    commit(project, 2, "shop 2");
    project.compose(&["up", "-d"]);
}
fn backup(project: &Project, label: &str, files: &[&str]) {
    let to = project.dir.join("backups").join(label);
    fs::create_dir_all(&to).unwrap();
    for file in files {
        fs::copy(project.dir.join(file), to.join(file)).unwrap();
    }
}
pub(crate) async fn open(project: &Project, options: ProjectOptions) -> ComposeProject {
    let options = options.with_name(&project.name);
    ComposeProject::open(project.bed.engine().await, &project.dir, options).await.unwrap()
}
pub(crate) fn flow(target: &ComposeProject, journal: &MemoryJournal) -> Rollback {
    Rollback::of(target.clone())
        .because("500s")
        .to(Choose::verified().or_previous())
        .using(Direct::default().with_settle_within(seconds(60)))
        .recovered_when(Runs::wanted())
        .journal(journal.clone())
        .policy(Policy::default().with_poll(Duration::from_millis(100)))
}
fn ids(project: &Project) -> Vec<String> {
    let all = project.bed.docker(&[
        "ps",
        "-aq",
        "--no-trunc",
        "-f",
        &format!("label=com.docker.compose.project={}", project.name),
    ]);
    let mut ids: Vec<String> = all.lines().map(str::to_owned).collect();
    ids.sort();
    ids
}
pub(crate) fn version(project: &Project) -> String {
    let web = project.containers("web");
    assert_eq!(web.len(), 1, "{web:?}");
    let mut said = String::new();
    wait_until("the service answers", || project.get(&web[0], "/version").is_ok());
    said.push_str(&project.get(&web[0], "/version").unwrap());
    said
}
fn live(project: &Project) -> String {
    fs::read_to_string(project.dir.join("compose.yaml")).unwrap()
}
/// Everything below `.rollback`, as text.
fn kept(project: &Project) -> Vec<(String, String)> {
    let mut all = vec![];
    let mut dirs = vec![project.dir.join(".rollback")];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap().flatten() {
            if entry.path().is_dir() {
                dirs.push(entry.path());
            } else {
                let text = fs::read_to_string(entry.path()).unwrap();
                all.push((entry.path().display().to_string(), text));
            }
        }
    }
    all
}
pub(crate) fn work() -> Work {
    Work::new("test".into(), 1, "1", seconds(60), Arc::new(MemoryShelf::new()))
}
async fn release(target: &ComposeProject, label: &str) -> ReleaseId {
    let history = target.history(50).await.unwrap();
    history.iter().find(|release| release.label == label).unwrap_or_else(|| panic!("{history:?}")).id.clone()
}
/// Puts something into the volume, and gives what is in it.
fn volume(project: &Project, write: Option<&str>) -> String {
    let db = project.containers("db")[0]["Id"].as_str().unwrap().to_owned();
    if let Some(text) = write {
        project.bed.docker(&["exec", &db, "sh", "-c", &format!("echo {text} > /data/orders")]);
    }
    project.bed.docker(&["exec", &db, "busybox", "cat", "/data/orders"])
}

// The laws.

#[derive(Debug)]
struct Files {
    bed: Bed,
    mode: Mode,
    /// Images that are the same in every world: a release is the content of a file, and that names them.
    images: Project,
    now: Mutex<Option<(Project, ReleaseId)>>,
}

impl Files {
    fn new(mode: Mode) -> Self {
        let bed = Bed::here();
        let images = bed.project("project-images");
        for tag in ["v1", "v2", "v3"] {
            images.image(tag, "");
        }
        Self { bed, mode, images, now: Mutex::new(None) }
    }
    fn file(&self, project: &Project, tag: &str) {
        project.file(&yaml(tag, "").replace("IMAGE:", &format!("{}/shop:", self.images.name)));
    }
    fn with<T>(&self, f: impl FnOnce(&Project, &ReleaseId) -> T) -> T {
        let now = self.now.lock().unwrap();
        let (project, good) = now.as_ref().unwrap();
        f(project, good)
    }
}

#[async_trait]
impl Bench for Files {
    async fn fresh(&self) -> Result<Arc<dyn Target>> {
        *self.now.lock().unwrap() = None;
        let project = self.bed.project("project-laws");
        self.file(&project, "v1");
        backup(&project, "good", &["compose.yaml"]);
        self.file(&project, "v2");
        project.compose(&["up", "-d"]);
        let target = open(&project, ProjectOptions::new().with_backups("backups").with_mode(self.mode)).await;
        let good = release(&target, "good").await;
        *self.now.lock().unwrap() = Some((project, good));
        Ok(Arc::new(target))
    }
    fn change(&self) -> Change {
        self.with(|_, good| Change::release(&"project".into(), good))
    }
    async fn someone_deploys(&self) -> Option<Result<()>> {
        self.with(|project, _| {
            self.file(project, "v3");
            project.compose(&["up", "-d"]);
        });
        Some(Ok(()))
    }
    async fn vanish(&self) -> Option<Result<()>> {
        self.with(|project, _| {
            project.down();
            fs::remove_dir_all(&project.dir).unwrap();
        });
        Some(Ok(()))
    }
    fn patience(&self) -> Duration {
        seconds(60)
    }
}

async fn hold(mode: Mode) {
    let ruled = each(&Files::new(mode)).await;
    for (law, ruling) in &ruled {
        match ruling {
            Ok(Ruling::Kept) => {}
            Ok(Ruling::DoesNotApply(why)) => assert_eq!(*law, "lower_epoch_is_refused", "{law} was not tried: {why}"),
            Err(violation) => panic!("{violation:?}"),
        }
    }
    println!("measured: compose project, {mode:?}: {} laws kept, 1 does not apply", ruled.len() - 1);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Docker bed"]
async fn the_laws_hold_with_up() {
    hold(Mode::Up).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Docker bed"]
async fn the_laws_hold_with_down_and_up() {
    hold(Mode::DownUp).await;
}

// End to end.

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Docker bed"]
async fn back_to_the_commit_before() {
    let project = Bed::here().project("commit");
    project.image("v1", "");
    project.image("v2", "ENV FAIL_PERCENT=100");
    deployed(&project, [&yaml("v1", ""), &yaml("v2", "")]);
    assert_eq!(version(&project), "v2");
    assert_eq!(volume(&project, Some("kept")), "kept");
    let db = project.containers("db")[0]["Id"].clone();
    let bad = live(&project);

    let target = open(&project, ProjectOptions::new().with_git()).await;
    let history = target.history(10).await.unwrap();
    let whys: Vec<_> = history.iter().filter_map(|release| release.why.as_deref()).collect();
    assert_eq!(whys, ["shop 2", "shop 1"]);
    let report = flow(&target, &MemoryJournal::new()).run().await.unwrap();
    assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
    let text = report.to_string();
    assert!(text.contains("docker-logs/1") && text.contains("docker-events/1"), "evidence of the bad one: {text}");

    assert_eq!(version(&project), "v1");
    assert_eq!(volume(&project, None), "kept");
    assert_eq!(project.containers("db")[0]["Id"], db, "what does not differ is not made again");
    // The replaced file is kept, with what differs.
    let kept = kept(&project);
    assert!(kept.iter().any(|(_, text)| *text == bad), "{kept:?}");
    let diff = &kept.iter().find(|(path, _)| path.ends_with("left.diff")).unwrap().1;
    assert!(diff.contains("image of web") && diff.contains(":v2") && diff.contains(":v1"), "{diff}");
    // Compose takes the result as its own.
    let before = ids(&project);
    project.compose(&["up", "-d"]);
    assert_eq!(ids(&project), before);
    // Nothing is left to do, and nothing is done.
    let seen = target.observe(Look::full()).await.unwrap();
    assert_eq!(seen.parts.values().next().unwrap().running, Running::Release(history[1].id.clone()));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Docker bed"]
async fn back_to_a_backup_with_its_environment_file_and_no_secret_is_shown() {
    let project = Bed::here().project("backup");
    let more = "      DB_PASSWORD: ${DB_PASSWORD}\n      LEVEL: ${LEVEL}\n    profiles: [shop]\n";
    let env = |tag: &str, secret: &str| {
        project.image(tag, "");
        project.file(&yaml("${TAG}", more).replace("RELEASE: ${TAG}", "RELEASE: one"));
        fs::write(project.dir.join("prod.env"), format!("TAG={tag}\nDB_PASSWORD={secret}\nLEVEL=info\n")).unwrap();
    };
    env("v1", "hunter1-good");
    backup(&project, "2026-01-01", &["compose.yaml", "prod.env"]);
    env("v2", "hunter2-bad");
    project.compose(&["--env-file", "prod.env", "--profile", "shop", "up", "-d"]);
    assert_eq!(version(&project), "v2");
    assert_eq!(volume(&project, Some("kept")), "kept");

    let options = ProjectOptions::new()
        .with_files(["compose.yaml"])
        .with_env_files(["prod.env"])
        .with_profiles(["shop"])
        .with_backups("backups")
        .with_mode(Mode::DownUp);
    let target = open(&project, options).await;
    let good = release(&target, "2026-01-01").await;
    let prepared = target.prepare(&Change::release(&"project".into(), &good), &work()).await.unwrap();
    let shown = format!("{prepared:?} {target:?}");
    assert!(shown.contains("prod.env DB_PASSWORD") && shown.contains("shop:v1"), "{shown}");
    assert!(!shown.contains("hunter"), "{shown}");
    let report = flow(&target, &MemoryJournal::new()).run().await.unwrap();
    assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
    assert!(!format!("{report} {report:?}").contains("hunter"));
    assert_eq!(version(&project), "v1");
    assert_eq!(volume(&project, None), "kept");
    assert!(fs::read_to_string(project.dir.join("prod.env")).unwrap().contains("hunter1-good"));
    let env = &project.containers("web")[0]["Config"]["Env"];
    assert!(env.to_string().contains("hunter1-good"), "{env}");
    for (path, text) in kept(&project) {
        assert!(!text.contains("hunter") || path.ends_with('0') || path.ends_with('1'), "{path}: {text}");
    }
}

/// `down` fails for a network that the engine does not let go of (moby#43286). Nobody serves by then, so it is looked at again
/// and gone on.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Docker bed"]
async fn down_and_up_goes_on_where_the_network_stays() {
    let project = Bed::here().project("network");
    project.image("v1", "");
    project.image("v2", "");
    deployed(&project, [&yaml("v1", ""), &yaml("v2", "")]);
    let proxy = Proxy::keeping_networks(&project);
    let engine = Engine::connect(ConnectOptions::new().with_host(&proxy.host)).await.unwrap();
    let options = ProjectOptions::new().with_git().with_name(&project.name).with_mode(Mode::DownUp);
    let target = ComposeProject::open(engine, &project.dir, options).await.unwrap();
    let report = flow(&target, &MemoryJournal::new()).run().await.unwrap();
    assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
    assert_eq!(version(&project), "v1");
    assert!(proxy.asked().iter().any(|asked| asked.starts_with("DELETE") && asked.contains("/networks/")));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Docker bed"]
async fn back_to_another_image_and_a_service_that_was_not_there_goes() {
    let project = Bed::here().project("images");
    project.image("v1", "");
    project.image("v2", "");
    project.file(&yaml("v2", ""));
    project.compose(&["up", "-d"]);
    // Another file makes a container of the same project.
    fs::write(project.dir.join("monitoring.yaml"), "services:\n  probe:\n    image: bed/shop:base\n").unwrap();
    project.compose(&["-f", "monitoring.yaml", "up", "-d"]);
    let probe = project.containers("probe")[0]["Id"].clone();

    let target = open(&project, ProjectOptions::new()).await;
    let e = target.edit_images(&[("nobody", "x")]).await.unwrap_err();
    assert_eq!((e.kind(), e.effect()), (Kind::Invalid, Effect::None));
    let edited = target.edit_images(&[("web", &project.tag("v1"))]).await.unwrap();
    // The bad release has a service more.
    let more = format!(
        "{}  worker:\n    image: bed/shop:base\nvolumes:",
        live(&project).split("volumes: {data").next().unwrap()
    );
    fs::write(project.dir.join("compose.yaml"), format!("{more} {{data: {{}}}}\n")).unwrap();
    project.compose(&["up", "-d"]);
    assert_eq!(project.containers("worker").len(), 1);

    let rollback = flow(&target, &MemoryJournal::new()).to(Choose::exactly(edited.id.clone()));
    let report = rollback.run().await.unwrap();
    assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
    assert_eq!(version(&project), "v1");
    assert_eq!(project.containers("worker").len(), 0, "it is not in the release");
    assert_eq!(project.containers("probe")[0]["Id"], probe, "it is another file's");
}

/// Two files, a service of a profile, and one that is built here: its image goes back by what it was when the release was
/// recorded, without a build.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Docker bed"]
async fn several_files_a_profile_and_a_service_that_is_built_here() {
    let project = Bed::here().project("several");
    let deploy = |release: &str| {
        fs::write(
            project.dir.join("base.yaml"),
            format!(
                "services:\n  web:\n    build: .\n    environment: {{RELEASE: {release}}}\n  worker:\n    image: bed/shop:base\n    \
                 profiles: [work]\n    environment: {{RELEASE: {release}}}\n"
            ),
        )
        .unwrap();
        let prod = format!("services: {{web: {{labels: {{release: {release}}}}}}}\n");
        fs::write(project.dir.join("prod.yaml"), prod).unwrap();
        let file = format!("FROM bed/shop:base\nLABEL bed.project={}\nENV VERSION={release}\n", project.name);
        fs::write(project.dir.join("Dockerfile"), file).unwrap();
        let up = ["-f", "base.yaml", "-f", "prod.yaml", "--profile", "work", "up", "-d", "--build"];
        let up = project.compose_command(&up).env("DOCKER_BUILDKIT", "0").output().unwrap();
        assert!(up.status.success(), "{up:?}");
        wait_until("it serves", || project.get(&project.containers("web")[0], "/version").as_deref() == Ok(release));
    };
    deploy("v1");
    let options = || ProjectOptions::new().with_files(["base.yaml", "prod.yaml"]).with_profiles(["work"]);
    let target = open(&project, options()).await;
    let good = target.recorder().unwrap().record("1.0").await.unwrap();
    let image = project.containers("web")[0]["Image"].clone();
    deploy("v2");
    assert_ne!(project.containers("web")[0]["Image"], image);
    let report = flow(&target, &MemoryJournal::new()).to(Choose::exactly(good.id)).run().await.unwrap();
    assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
    assert_eq!(version(&project), "v1");
    let (web, worker) = (&project.containers("web")[0], &project.containers("worker")[0]);
    assert_eq!((&web["Image"], &web["Config"]["Labels"]["release"]), (&image, &"v1".into()));
    assert!(worker["Config"]["Env"].to_string().contains("RELEASE=v1"), "the service of the profile went back too");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Docker bed"]
async fn killed_in_the_middle_it_is_between_and_the_same_call_finishes_it() {
    let project = Bed::here().project("killed");
    for tag in ["v1", "v2"] {
        project.image(tag, "");
    }
    deployed(&project, [&slow("v1", "4s", ""), &slow("v2", "4s", "")]);
    let web = project.containers("web")[0]["Id"].clone();
    let db = project.containers("db")[0]["Id"].as_str().unwrap().to_owned();
    let target = open(&project, ProjectOptions::new().with_git()).await;
    let journal = MemoryJournal::new();
    let (good, bad) = {
        let history = target.history(10).await.unwrap();
        (history[1].id.clone(), history[0].id.clone())
    };

    let run = flow(&target, &journal);
    let running = tokio::spawn(async move { run.run().await });
    // By `ps` alone: between that and an inspect containers go.
    let databases = [
        "ps",
        "--no-trunc",
        "--format",
        "{{.ID}}",
        "-f",
        &format!("label=com.docker.compose.project={}", project.name),
        "-f",
        "label=com.docker.compose.service=db",
    ];
    let started = || project.bed.docker(&databases).lines().any(|id| id != db);
    wait_until("the database is made again", started);
    running.abort();
    assert!(running.await.unwrap_err().is_cancelled());
    let compose = format!("-p {}", project.name);
    wait_until("compose is killed with it", || {
        let found = Command::new("pgrep").args(["-f", "--", &format!("compose.*{compose} ")]).output().unwrap();
        !found.status.success()
    });
    let seen = target.observe(Look::full()).await.unwrap();
    let part = seen.parts.values().next().unwrap();
    let Running::Between { from, to, state } = &part.running else { panic!("{}", part.running) };
    assert_eq!((from, to), (&bad, &good));
    println!("measured: half applied is named: {state}");

    let report = flow(&target, &journal).run().await.unwrap();
    assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
    assert_eq!(version(&project), "v1");
    assert_ne!(project.containers("web")[0]["Id"], web);
    assert_eq!(ids(&project).len(), 2, "no leftovers: {:?}", project.all_containers());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Docker bed"]
async fn somebody_else_deploys_in_the_middle_and_is_left_alone() {
    let project = Bed::here().project("superseded");
    for tag in ["v1", "v2", "v3"] {
        project.image(tag, "");
    }
    let slow = |tag: &str, warm: &str| {
        let check = "      WARM_UP: WARM\n    healthcheck:\n      test: [CMD, /bin/shop, health]\n      interval: 200ms\n      retries: 100\n";
        yaml(tag, &check.replace("WARM\n", &format!("{warm}\n")))
    };
    deployed(&project, [&slow("v1", "5s"), &slow("v2", "0s")]);
    let target = open(&project, ProjectOptions::new().with_git()).await;
    let run = flow(&target, &MemoryJournal::new());
    let running = tokio::spawn(async move { run.run().await });
    // It is told, and warms up.
    let images = ["ps", "--format", "{{.Image}}"];
    wait_until("the good release starts", || {
        project.bed.docker(&images).lines().any(|image| image == project.tag("v1"))
    });
    project.file(&slow("v3", "0s"));
    project.compose(&["up", "-d"]);
    let report = running.await.unwrap().unwrap();
    assert!(matches!(report.outcome(), Outcome::Superseded { .. }), "{report}");
    assert_eq!(version(&project), "v3");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Docker bed"]
async fn break_glass_needs_nothing_and_pressed_twice_does_not_walk_on() {
    let project = Bed::here().project("glass");
    for (n, tag) in [(1, "v1"), (2, "v2"), (3, "v3")] {
        project.image(tag, "");
        project.file(&yaml(tag, ""));
        commit(&project, n, tag);
    }
    project.compose(&["up", "-d"]);
    let target = open(&project, ProjectOptions::new().with_git()).await;
    let report = Rollback::break_glass_on(&target, "down").await;
    assert!(report.outcome().is_good(), "{report}");
    assert_eq!(version(&project), "v2");
    let again = Rollback::break_glass_on(&target, "down").await;
    assert_eq!(version(&project), "v2", "{again}");
    assert_eq!(again.writes(), 0, "{again}");
}

// Refused before anything is touched.

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Docker bed"]
async fn what_compose_does_not_take_is_refused_before_anything_is_touched() {
    let project = Bed::here().project("refused");
    project.image("v1", "");
    project.image("v2", "");
    for (label, text) in [
        ("no-yaml", "services: [\n".to_owned()),
        ("no-compose", "services:\n  web:\n    imagee: x\n".to_owned()),
        ("unset", yaml("${NOBODY_SETS_THIS}", "")),
        ("gone", yaml("v0", "").replace("    depends_on", "    build: .\n    depends_on")),
    ] {
        project.file(&text);
        backup(&project, label, &["compose.yaml"]);
    }
    project.file(&yaml("v2", ""));
    project.compose(&["up", "-d"]);
    let (before, file) = (ids(&project), live(&project));
    let target = open(&project, ProjectOptions::new().with_backups("backups")).await;
    for (label, why) in [("no-yaml", "Compose does not take"), ("no-compose", "imagee"), ("unset", "NOBODY_SETS_THIS")]
    {
        let change = Change::release(&"project".into(), &release(&target, label).await);
        let e = target.prepare(&change, &work()).await.unwrap_err();
        assert_eq!((e.kind(), e.effect()), (Kind::Invalid, Effect::None), "{label}: {e}");
        assert!(e.to_string().contains(why), "{label}: {e}");
    }
    // An image that was built here and is gone is found out, and blocks.
    let gone = release(&target, "gone").await;
    let prepared = target.prepare(&Change::release(&"project".into(), &gone), &work()).await.unwrap();
    let blocks = |f: &rollback_core::Finding| f.severity == Severity::Blocks && f.code == "image";
    assert!(prepared.findings.iter().any(blocks), "{prepared:?}");
    let report = flow(&target, &MemoryJournal::new()).to(Choose::exactly(gone)).run().await.unwrap();
    assert!(matches!(report.outcome(), Outcome::Refused { .. }), "{report}");
    assert_eq!((ids(&project), live(&project)), (before, file));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Docker bed"]
async fn an_image_that_is_not_to_be_had_is_found_out_before_anything_is_stopped() {
    let project = Bed::here().project("pull");
    project.image("v2", "");
    project.file(&yaml("v1", "").replace("IMAGE:", "127.0.0.1:1/shop:"));
    backup(&project, "good", &["compose.yaml"]);
    project.file(&yaml("v2", ""));
    project.compose(&["up", "-d"]);
    let (before, file) = (ids(&project), live(&project));
    let target = open(&project, ProjectOptions::new().with_backups("backups")).await;
    let change = Change::release(&"project".into(), &release(&target, "good").await);
    let e = target.prepare(&change, &work()).await.unwrap_err();
    assert_eq!((e.kind(), e.effect()), (Kind::Unavailable, Effect::None), "{e}");
    assert!(e.to_string().contains("registry does not answer"), "{e}");
    assert_eq!((ids(&project), live(&project)), (before, file));
    assert_eq!(version(&project), "v2");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Docker bed"]
async fn a_file_that_was_broken_by_hand_is_rolled_back_all_the_same() {
    let project = Bed::here().project("broken");
    project.image("v1", "");
    project.file(&yaml("v1", ""));
    commit(&project, 1, "shop 1");
    project.compose(&["up", "-d"]);
    let before = ids(&project);
    let target = open(&project, ProjectOptions::new().with_git()).await;
    let good = target.history(1).await.unwrap()[0].id.clone();
    fs::write(project.dir.join("compose.yaml"), "services: [\n").unwrap();
    let seen = target.observe(Look::full()).await.unwrap();
    let part = seen.parts.values().next().unwrap();
    assert_eq!(part.running, Running::Release(good.clone()), "what runs is not the file");
    let broken = part.wanted.clone().unwrap();
    let rollback = flow(&target, &MemoryJournal::new()).blaming(broken).to(Choose::exactly(good));
    let report = rollback.run().await.unwrap();
    assert!(report.outcome().is_good(), "{report}");
    assert_eq!(ids(&project), before, "the containers were right already");
    project.compose(&["config", "-q"]);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Docker bed"]
async fn an_engine_that_is_down_is_a_clear_error_and_nothing_is_touched() {
    let project = Bed::here().project("down");
    project.image("v1", "");
    project.image("v2", "");
    deployed(&project, [&yaml("v1", ""), &yaml("v2", "")]);
    let (before, file) = (ids(&project), live(&project));
    let proxy = Proxy::new(&project);
    let engine = Engine::connect(ConnectOptions::new().with_host(&proxy.host)).await.unwrap();
    let options = ProjectOptions::new().with_git().with_name(&project.name);
    let target = ComposeProject::open(engine, &project.dir, options).await.unwrap();
    let good = target.history(10).await.unwrap()[1].id.clone();
    let change = Change::release(&"project".into(), &good);
    let approved = target.prepare(&change, &work()).await.unwrap().approved;
    let token = target.observe(Look::full()).await.unwrap().token;
    proxy.down().await;
    for e in [
        target.observe(Look::full()).await.unwrap_err(),
        target.prepare(&change, &work()).await.unwrap_err(),
        target.apply(&approved, token, &work()).await.unwrap_err(),
    ] {
        assert_eq!((e.kind(), e.is_transient(), e.effect()), (Kind::Unavailable, true, Effect::None), "{e}");
        assert!(e.to_string().contains("engine"), "{e}");
    }
    assert_eq!((ids(&project), live(&project)), (before, file));
}
