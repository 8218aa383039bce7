//! A service of a Swarm, rolled back by Swarm itself, on a real engine.

use async_trait::async_trait;
use rollback_core::{
    Change, Effect, Look, Work,
    journal::{MemoryJournal, MemoryShelf},
    prelude::*,
    testing::laws::{
        Ruling,
        target::{Bench, each},
    },
};
use rollback_docker::{SwarmService, Way};
use rollback_tests::bed::docker::{Bed, Project, wait_until};
use serde_json::Value;
use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

/// A service, which goes when it is dropped.
#[derive(Debug)]
pub(crate) struct Web {
    pub(crate) project: Project,
    /// Whose images it runs.
    images: String,
}

impl Web {
    pub(crate) fn new(name: &str, tag: &str, more: &[&str]) -> Self {
        let project = Bed::here().project(name);
        project.image(tag, "");
        let images = project.name.clone();
        Self::of(project, images, tag, more)
    }
    fn of(project: Project, images: String, tag: &str, more: &[&str]) -> Self {
        let bed = project.bed.clone();
        // One engine is asked once.
        static ONE: Mutex<()> = Mutex::new(());
        let first = ONE.lock();
        if bed.docker(&["info", "-f", "{{.Swarm.LocalNodeState}}"]) != "active" {
            bed.docker(&["swarm", "init", "--advertise-addr", "127.0.0.1"]);
        }
        drop(first);
        let web = Self { project, images };
        let quick = "service create --detach --no-resolve-image --replicas 2 --update-monitor 300ms --update-delay 0s \
                     --rollback-monitor 300ms --restart-delay 100ms --stop-grace-period 2s";
        let mut create: Vec<&str> = quick.split_whitespace().collect();
        create.extend(["--name", web.name()]);
        create.extend(more);
        let image = web.tag(tag);
        create.push(&image);
        bed.docker(&create);
        web.wait();
        web
    }
    fn name(&self) -> &str {
        &self.project.name
    }
    fn tag(&self, tag: &str) -> String {
        format!("{}/shop:{tag}", self.images)
    }
    fn deploy(&self, tag: &str) {
        if self.images == self.project.name {
            self.project.image(tag, "");
        }
        let image = self.tag(tag);
        self.docker(&["service", "update", "--detach", "--no-resolve-image", "--image", &image, self.name()]);
        self.wait();
    }
    fn docker(&self, arguments: &[&str]) -> String {
        self.project.bed.docker(arguments)
    }
    fn inspect(&self) -> Value {
        serde_json::from_str::<Value>(&self.docker(&["service", "inspect", self.name()])).unwrap()[0].clone()
    }
    fn image(&self) -> String {
        self.inspect()["Spec"]["TaskTemplate"]["ContainerSpec"]["Image"].as_str().unwrap().to_owned()
    }
    /// The images of the tasks that run.
    fn runs(&self) -> Vec<String> {
        let filter = format!("label=com.docker.swarm.service.name={}", self.name());
        let mut all: Vec<String> =
            self.docker(&["ps", "-f", &filter, "--format", "{{.Image}}"]).lines().map(str::to_owned).collect();
        all.sort();
        all
    }
    /// Until Swarm is done.
    fn wait(&self) {
        wait_until("Swarm is done", || {
            let (image, service) = (self.image(), self.inspect());
            let state = service["UpdateStatus"]["State"].as_str().unwrap_or("completed").to_owned();
            let up =
                self.docker(&["service", "ls", "-f", &format!("name={}", self.name()), "--format", "{{.Replicas}}"]);
            state.ends_with("completed") && up == "2/2" && self.runs() == [image.clone(), image]
        });
    }
    async fn target(&self) -> SwarmService {
        SwarmService::new(self.project.bed.engine().await, self.name())
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        let bed = &self.project.bed;
        let configs = bed
            .try_docker(&["service", "inspect", "-f", "{{.ID}}", self.name()])
            .and_then(|id| bed.try_docker(&["config", "ls", "-q", "-f", &format!("label=rollback.service={id}")]));
        for config in configs.iter().flat_map(|configs| configs.lines()) {
            let _ = bed.try_docker(&["config", "rm", config]);
        }
        let _ = bed.try_docker(&["service", "rm", self.name()]);
    }
}

fn work() -> Work {
    Work::new("test".into(), 1, "1", seconds(60), Arc::new(MemoryShelf::new()))
}
fn flow(target: &SwarmService) -> Rollback {
    Rollback::of(target.clone())
        .because("500s")
        .to(Choose::verified().or_previous())
        .using(Direct::default().with_settle_within(seconds(60)))
        .recovered_when(Runs::wanted())
        .journal(MemoryJournal::new())
        .policy(Policy::default().with_poll(Duration::from_millis(100)))
}

/// Its second half: images that are the same in every world, because a release names them.
#[derive(Debug)]
struct Services(Mutex<Option<(Web, ReleaseId)>>, Project);

impl Services {
    fn new() -> Self {
        let images = Bed::here().project("swarm-images");
        for tag in ["v1", "v2", "v3"] {
            images.image(tag, "");
        }
        Self(Mutex::new(None), images)
    }
    fn with<T>(&self, f: impl FnOnce(&Web, &ReleaseId) -> T) -> T {
        let now = self.0.lock().unwrap();
        let (web, good) = now.as_ref().unwrap();
        f(web, good)
    }
}

#[async_trait]
impl Bench for Services {
    async fn fresh(&self) -> Result<Arc<dyn Target>> {
        *self.0.lock().unwrap() = None;
        let (project, images) = (Bed::here().project("swarm-laws"), self.1.name.clone());
        let web = Web::of(project, images, "v1", &["--update-order", "start-first"]);
        let target = web.target().await;
        let good = target.history(1).await?[0].id.clone();
        web.deploy("v2");
        *self.0.lock().unwrap() = Some((web, good));
        Ok(Arc::new(target))
    }
    fn change(&self) -> Change {
        self.with(|_, good| Change::release(&"all".into(), good))
    }
    async fn someone_deploys(&self) -> Option<Result<()>> {
        self.with(|web, _| web.deploy("v3"));
        Some(Ok(()))
    }
    async fn vanish(&self) -> Option<Result<()>> {
        self.with(|web, _| web.docker(&["service", "rm", web.name()]));
        Some(Ok(()))
    }
    fn patience(&self) -> Duration {
        seconds(60)
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Docker bed"]
async fn the_laws_hold() {
    let ruled = each(&Services::new()).await;
    for (law, ruling) in &ruled {
        match ruling {
            Ok(Ruling::Kept) => {}
            Ok(Ruling::DoesNotApply(why)) => assert_eq!(*law, "lower_epoch_is_refused", "{law} was not tried: {why}"),
            Err(violation) => panic!("{violation:?}"),
        }
    }
    println!("measured: swarm service: {} laws kept, 1 does not apply", ruled.len() - 1);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Docker bed"]
async fn back_to_the_release_before_and_the_scale_stays() {
    let web = Web::new("swarm-given", "v1", &["--update-order", "start-first", "--env", "DB_PASSWORD=hunter2"]);
    web.deploy("v2");
    web.docker(&["service", "update", "--detach", "--no-resolve-image", "--label-add", "team=till", web.name()]);
    let target = web.target().await;
    let report = flow(&target).run().await.unwrap();
    assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
    assert_eq!(web.runs(), [web.project.tag("v1"), web.project.tag("v1")]);
    let text = report.to_string();
    assert!(text.contains("docker-tasks/1") && text.contains("docker-logs/1"), "evidence of the bad one: {text}");
    assert_eq!(web.inspect()["Spec"]["Labels"]["team"], "till");
    assert_eq!(web.inspect()["UpdateStatus"]["State"], "completed");
    assert!(!format!("{report:?}").contains("hunter2"));
    // Twice does not walk on, nor back.
    let again = Rollback::break_glass_on(&target, "again").await;
    assert_eq!(again.writes(), 0, "{again}");
    assert_eq!(web.image(), web.project.tag("v1"));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Docker bed"]
async fn by_swarm_s_own_rollback_and_twice_does_not_go_forward_again() {
    let web = Web::new("swarm-previous", "v1", &[]);
    web.deploy("v2");
    let target = web.target().await.with_way(Way::Previous);
    let report = flow(&target).run().await.unwrap();
    assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
    assert_eq!(web.inspect()["UpdateStatus"]["State"], "rollback_completed");
    assert_eq!(web.runs(), [web.project.tag("v1"), web.project.tag("v1")]);
    let again = Rollback::break_glass_on(&target, "again").await;
    assert_eq!(again.writes(), 0, "{again}");
    assert_eq!(web.image(), web.project.tag("v1"));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Docker bed"]
async fn an_undo_of_the_rollback_is_somebody_elses_word() {
    let web = Web::new("swarm-undo", "v1", &[]);
    web.deploy("v2");
    // It is under way for long enough to be undone.
    web.docker(&["service", "update", "--detach", "--no-resolve-image", "--update-delay", "20s", web.name()]);
    web.wait();
    let target = web.target().await;
    let run = tokio::spawn(async move { flow(&target).run().await });
    wait_until("it has written", || web.image() == web.project.tag("v1"));
    web.docker(&["service", "rollback", "--detach", web.name()]);
    let report = run.await.unwrap().unwrap();
    let Outcome::Superseded { by } = report.outcome() else { panic!("{report}") };
    assert!(by.contains("docker service rollback"), "{report}");
    assert_eq!(web.image(), web.project.tag("v2"));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Docker bed"]
async fn swarm_remembers_one_and_records_remember_more() {
    let web = Web::new("swarm-recorded", "v1", &["--update-order", "start-first"]);
    let target = web.target().await;
    let first = target.recorder().unwrap().record("2.3.8").await.unwrap();
    assert_eq!(target.recorder().unwrap().record("2.3.8").await.unwrap().id, first.id);
    web.deploy("v2");
    web.deploy("v3");
    let change = Change::release(&"all".into(), &first.id);
    let e = target.clone().with_way(Way::Previous).prepare(&change, &work()).await.unwrap_err();
    assert_eq!((e.kind(), e.effect()), (Kind::NotFound, Effect::None), "{e}");
    let report = flow(&target).to(Choose::exactly(first.id.clone())).run().await.unwrap();
    assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
    assert_eq!(web.runs(), [web.project.tag("v1"), web.project.tag("v1")]);
    let labels: Vec<String> = target.history(10).await.unwrap().into_iter().map(|release| release.label).collect();
    assert!(labels.contains(&"2.3.8".to_string()), "{labels:?}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Docker bed"]
async fn a_release_that_does_not_come_up_is_named_and_the_old_tasks_go_on() {
    // Without a health check a task that has just started counts as up, and the next one is replaced. The delay gives the
    // first one the time to crash.
    let pause = ["--update-failure-action", "pause", "--update-monitor", "3s", "--update-delay", "10s"];
    let web = Web::new("swarm-paused", "v1", &[&["--update-order", "start-first"], &pause[..]].concat());
    let target = web.target().await;
    let first = target.history(1).await.unwrap()[0].id.clone();
    web.deploy("v2");
    // Since then its image crashes: the tag was moved.
    web.project.image("v1", "ENV CRASH_AFTER=50ms");
    let report = flow(&target).to(Choose::exactly(first)).run().await.unwrap();
    let Outcome::Stuck { at, .. } = report.outcome() else { panic!("{report}") };
    assert!(at.contains("paused") || at.contains("failed"), "{report}");
    let good = web.project.tag("v2");
    assert!(web.runs().contains(&good), "the old tasks go on: {:?}", web.runs());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Docker bed"]
async fn swarm_s_own_rollback_that_would_kill_healthy_tasks_is_refused() {
    let web = Web::new("swarm-start-first", "v1", &["--rollback-order", "start-first"]);
    web.deploy("v2");
    let before = web.inspect()["Version"].clone();
    let report = flow(&web.target().await.with_way(Way::Previous)).run().await.unwrap();
    let Outcome::Refused { why, lift } = report.outcome() else { panic!("{report}") };
    assert!(format!("{why} {lift}").contains("start-first"), "{report}");
    assert_eq!(web.inspect()["Version"], before);
    let seen = web.target().await.observe(Look::full()).await.unwrap();
    assert!(seen.in_flight.is_none());
}

/// moby#34111, moby#43081: the release before has become one that does not come up. Swarm's own rollback, start-first, takes
/// healthy tasks away for it, one after the other; what is left of them is printed. The way of this library pauses at the
/// first. Without a health check Swarm takes a task that has just started for one that is up, so one may be gone by then.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Docker bed"]
async fn a_rollback_to_what_does_not_come_up_stops_at_the_first_healthy_task() {
    let orders = ["--update-order", "start-first", "--rollback-order", "start-first"];
    let pause = ["--update-failure-action", "pause", "--rollback-failure-action", "continue", "--update-monitor", "3s"];
    let replay = |name: &'static str| {
        let web = Web::new(name, "v1", &[&orders[..], &pause].concat());
        web.deploy("v2");
        // Its tag leads to an image that ends at once.
        web.project.image("v1", "ENV CRASH_AFTER=50ms");
        web
    };
    let healthy = |web: &Web| web.runs().iter().filter(|image| **image == web.project.tag("v2")).count();

    let web = replay("swarm-replay-own");
    web.docker(&["service", "rollback", "--detach", web.name()]);
    let mut least = healthy(&web);
    wait_until("Swarm is through", || {
        least = least.min(healthy(&web));
        let state = web.inspect()["UpdateStatus"]["State"].to_string();
        state.contains("rollback_completed") || state.contains("rollback_paused") || least == 0
    });
    println!("measured: Swarm's own rollback, start-first, to what does not come up: {least} of 2 healthy tasks left");
    drop(web);

    let web = replay("swarm-replay-ours");
    let target = web.target().await;
    let first = target.history(10).await.unwrap().into_iter().find(|release| release.label == web.project.tag("v1"));
    let report = flow(&target).to(Choose::exactly(first.unwrap().id)).run().await.unwrap();
    assert!(matches!(report.outcome(), Outcome::Stuck { .. }), "{report}");
    let left = healthy(&web);
    println!("measured: this library, to what does not come up: {left} of 2 healthy tasks left");
    assert!(left >= 1, "{report}");
}

/// As the command line and stacks make services: with defaults that the engine does not say, and with everything else. Nothing
/// of it is lost on the way back, the health check least of all.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Docker bed"]
async fn services_as_the_command_line_makes_them_go_back_with_all_of_their_settings() {
    let bed = Bed::here();
    let web = Web::new("swarm-plain", "v1", &[]);
    let (project, name) = (&web.project, web.name());
    let file = project.dir.join("settings");
    std::fs::write(&file, "on").unwrap();
    let config = format!("{name}-settings");
    bed.docker(&["config", "create", &config, &file.display().to_string()]);
    let check = "--health-cmd;/bin/shop health;--health-interval;1s;--health-retries;5;--health-start-period;20s";
    let mount =
        format!("--mount;type=volume,source={name}-data,target=/data;--mount;type=tmpfs,target=/t,tmpfs-size=1000000");
    let limits = "--limit-memory;128m;--reserve-cpu;0.01;--ulimit;nofile=100:200;--cap-add;NET_ADMIN;--init;--log-driver;json-file;\
                  --update-max-failure-ratio;0.2;--restart-max-attempts;9;--label;team=till;--container-label;a=b;--hostname;till";
    let configs = format!("--config;source={config},target=/settings");
    for (what, flags) in [
        ("bare", String::new()),
        ("ports", "--publish;8080;--env;A=1;--replicas;2".into()),
        ("health", check.into()),
        ("mounts", mount),
        ("limits", limits.into()),
        ("configs", configs),
    ] {
        let service = format!("{name}-{what}");
        let flags: Vec<&str> = flags.split(';').filter(|flag| !flag.is_empty()).collect();
        let create = ["service", "create", "--detach", "--no-resolve-image", "--name", &service];
        bed.docker(&[&create[..], &flags, &[&project.tag("v1")]].concat());
        goes_back(project, &service).await;
        bed.docker(&["service", "rm", &service]);
    }
    let stack = format!("{name}-stack");
    let yaml = format!(
        "services:\n  web:\n    image: {}\n    environment: {{A: \"1\"}}\n    ports: [\"8080\"]\n    volumes: [\"data:/data\"]\n    \
         healthcheck: {{test: [CMD, /bin/shop, health], interval: 1s, retries: 5}}\n    configs: [c]\n    \
         deploy: {{replicas: 2, update_config: {{order: start-first}}}}\nconfigs: {{c: {{file: {}}}}}\nvolumes: {{data: {{}}}}\n",
        project.tag("v1"),
        file.display()
    );
    let compose = project.dir.join("stack.yaml");
    std::fs::write(&compose, yaml).unwrap();
    bed.docker(&[
        "stack",
        "deploy",
        "--detach=true",
        "--resolve-image",
        "never",
        "-c",
        &compose.display().to_string(),
        &stack,
    ]);
    goes_back(project, &format!("{stack}_web")).await;
    bed.docker(&["stack", "rm", &stack]);
    wait_until("the stack is gone", || {
        bed.docker(&["stack", "ls", "--format", "{{.Name}}"]).lines().all(|s| s != stack)
    });
    wait_until("the config is free", || bed.try_docker(&["config", "rm", &config]).is_ok());
}

/// From v2 to v1 in the default way, with all that it was given at first.
async fn goes_back(project: &Project, service: &str) {
    let bed = &project.bed;
    project.image("v2", "");
    let spec = || {
        let json = bed.docker(&["service", "inspect", service]);
        let mut spec = serde_json::from_str::<Value>(&json).unwrap()[0]["Spec"].take();
        let labels = spec["Labels"].as_object_mut().unwrap();
        labels.retain(|name, _| !name.starts_with("rollback."));
        spec["TaskTemplate"]["ForceUpdate"] = 0.into();
        spec
    };
    let runs = |tag: &str| {
        let all =
            bed.docker(&["service", "ls", "-f", &format!("name={service}"), "--format", "{{.Replicas}} {{.Image}}"]);
        let up = all.lines().any(|line| {
            line.split_once('/').is_some_and(|(up, rest)| rest.starts_with(&format!("{up} ")))
                && line.ends_with(&project.tag(tag))
        });
        let state =
            bed.docker(&["service", "inspect", "-f", "{{if .UpdateStatus}}{{.UpdateStatus.State}}{{end}}", service]);
        up && matches!(state.as_str(), "" | "completed")
    };
    wait_until("it is up", || runs("v1"));
    let before = spec();
    bed.docker(&["service", "update", "--detach", "--no-resolve-image", "--image", &project.tag("v2"), service]);
    wait_until("it is deployed", || runs("v2"));
    let target = SwarmService::new(bed.engine().await, service);
    let report = flow(&target).run().await.unwrap();
    assert_eq!(report.outcome(), &Outcome::Recovered, "{service}: {report}");
    assert_eq!(spec(), before, "{service}: {report}");
    let id = bed.docker(&["service", "inspect", "-f", "{{.ID}}", service]);
    let kept = bed.docker(&["config", "ls", "-q", "-f", &format!("label=rollback.service={id}")]);
    for config in kept.lines() {
        bed.docker(&["config", "rm", config]);
    }
}

/// A, B, A again, C: before C there was A; and what every rollback goes back to is never let go of.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Docker bed"]
async fn a_service_goes_back_to_what_was_deployed_last_before() {
    let web = Web::new("swarm-order", "v1", &["--update-order", "start-first"]);
    let target = web.target().await.with_kept_records(1);
    let record = async |label: &str| target.recorder().unwrap().record(label).await.unwrap();
    let first = record("A").await;
    web.deploy("v2");
    web.docker(&["service", "update", "--detach", "--no-resolve-image", "--image", &web.tag("v1"), web.name()]);
    web.wait();
    let again = record("A2").await;
    assert_eq!((&again.id, again.label.as_str(), &again.names[..]), (&first.id, "A2", &["A".to_owned()][..]));
    for tag in ["v3", "v4"] {
        web.deploy(tag);
        let report = flow(&target).run().await.unwrap();
        assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
        assert_eq!(report.chosen().unwrap().wanted.label, "A2", "{report}");
        assert_eq!(web.image(), web.tag("v1"));
    }
}
