//! Another engine answers where the one that was meant did: it is refused with both named, and nothing is done on it.

use crate::{
    connect::contexts,
    project::{commit, deployed, flow, open, slow, version, work, yaml},
    shop::{CHECK, Shop},
};
use rollback_core::{Change, Effect, Error, Kind, Look, Outcome, Report, Target, journal::MemoryJournal};
use rollback_docker::{ComposeProject, ComposeService, ConnectOptions, Engine, ProjectOptions, SwarmService};
use rollback_tests::bed::{
    docker::{Bed, Beside, Project, wait_until},
    proxy::Proxy,
};
use std::{fs, time::Duration};

/// Two engines, and a project that each of them has under the same name.
struct Two {
    beside: Beside,
    theirs: Project,
    proxy: Proxy,
    ids: [String; 2],
}

impl Two {
    fn new(ours: &Project) -> Self {
        let beside = ours.bed.beside(512);
        let dir = ours.dir.join("theirs");
        fs::create_dir_all(&dir).unwrap();
        let theirs = Project { bed: beside.0.clone(), name: ours.name.clone(), dir };
        let id = |bed: &Bed| bed.docker(&["info", "-f", "{{.ID}}"]);
        let ids = [id(&ours.bed), id(&beside.0)];
        assert_ne!(ids[0], ids[1]);
        Self { theirs, proxy: Proxy::new(ours), ids, beside }
    }
    async fn engine(&self) -> Engine {
        Engine::connect(ConnectOptions::new().with_host(&self.proxy.host)).await.unwrap()
    }
    /// From now on the other one answers. Gives all that it has.
    fn switch(&self) -> String {
        let before = self.beside.0.everything();
        self.proxy.lead_to(self.beside.0.socket());
        before
    }
    #[track_caller]
    fn names_both(&self, said: &str) {
        let [meant, now] = &self.ids;
        assert!(said.contains(&format!("({now}) now")) && said.contains(&format!("({meant}) was meant")), "{said}");
    }
    #[track_caller]
    fn refuses(&self, e: &Error) {
        assert_eq!((e.kind(), e.effect(), e.is_transient()), (Kind::Invalid, Effect::None, false), "{e}");
        self.names_both(&e.to_string());
    }
    /// Whatever is asked.
    async fn refuses_all(&self, target: &impl Target, change: &Change) {
        self.refuses(&target.observe(Look::full()).await.unwrap_err());
        self.refuses(&target.prepare(change, &work()).await.unwrap_err());
        self.refuses(&target.recorder().unwrap().record("x").await.unwrap_err());
    }
    #[track_caller]
    fn is_stuck(&self, report: &Report) {
        assert!(matches!(report.outcome(), Outcome::Stuck { .. }), "{report}");
        self.names_both(&report.to_string());
    }
}

/// The worst case: neither has a container, both have the same record, so that what is seen is the same.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Docker bed"]
async fn what_was_prepared_on_one_engine_is_not_applied_on_another() {
    let shop = Shop::new("two", "", "    stop_grace_period: 1s\n");
    let ours = &shop.project;
    let two = Two::new(ours);
    shop.deploy("v1");
    ours.bed.copy_image(&ours.tag("v1"), &two.beside.0);
    fs::copy(ours.dir.join("compose.yaml"), two.theirs.dir.join("compose.yaml")).unwrap();
    two.theirs.compose(&["up", "-d"]);
    for project in [ours, &two.theirs] {
        let service = ComposeService::new(project.bed.engine().await, &project.name, "shop");
        service.recorder().unwrap().record("1.0").await.unwrap();
        project.bed.docker(&["rm", "-f", &format!("{}-shop-1", project.name)]);
    }
    let target = ComposeService::new(two.engine().await, &ours.name, "shop");
    let target = target.with_stable_for(Duration::from_millis(300));
    let change = Change::release(&"all".into(), &shop.good.as_str().into());
    let approved = target.prepare(&change, &work()).await.unwrap().approved;
    let token = target.observe(Look::full()).await.unwrap().token;
    let before = two.switch();
    two.refuses(&target.apply(&approved, token.clone(), &work()).await.unwrap_err());
    two.refuses_all(&target, &change).await;
    two.refuses(&target.history(5).await.unwrap_err());
    assert_eq!(two.beside.0.everything(), before);
    // And back.
    two.proxy.lead_to(ours.bed.socket());
    target.apply(&approved, token, &work()).await.unwrap();
    shop.serves("v1");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Docker bed"]
async fn a_project_that_is_down_on_both_is_not_brought_up_on_the_other() {
    let project = Bed::here().project("two-down");
    for (n, tag) in [(1, "v1"), (2, "v2")] {
        project.image(tag, "");
        project.file(&yaml(tag, ""));
        commit(&project, n, tag);
    }
    let two = Two::new(&project);
    project.bed.copy_image(&project.tag("v1"), &two.beside.0);
    let options = ProjectOptions::new().with_git().with_name(&project.name);
    let target = ComposeProject::open(two.engine().await, &project.dir, options).await.unwrap();
    let good = target.history(5).await.unwrap()[1].id.clone();
    let change = Change::release(&"project".into(), &good);
    let approved = target.prepare(&change, &work()).await.unwrap().approved;
    let token = target.observe(Look::full()).await.unwrap().token;
    let (before, file) = (two.switch(), fs::read(project.dir.join("compose.yaml")).unwrap());
    two.refuses(&target.apply(&approved, token, &work()).await.unwrap_err());
    two.refuses_all(&target, &change).await;
    assert_eq!((two.beside.0.everything(), fs::read(project.dir.join("compose.yaml")).unwrap()), (before, file));
}

/// The other one is no manager of a swarm: that is not what is said.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Docker bed"]
async fn a_swarm_service_is_not_looked_for_on_another_engine() {
    let web = crate::swarm::Web::new("two-swarm", "v1", &[]);
    let two = Two::new(&web.project);
    let target = SwarmService::new(two.engine().await, &web.project.name);
    let good = target.history(5).await.unwrap()[0].id.clone();
    let change = Change::release(&"all".into(), &good);
    let approved = target.prepare(&change, &work()).await.unwrap().approved;
    let token = target.observe(Look::full()).await.unwrap().token;
    two.switch();
    two.refuses(&target.apply(&approved, token, &work()).await.unwrap_err());
    two.refuses_all(&target, &change).await;
}

/// The candidate warms up when the address begins to lead elsewhere: it stays as it is, the old one serves, and a rollback on
/// the right engine ends it.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Docker bed"]
async fn in_the_middle_of_a_service_it_stops_and_goes_on_only_on_the_right_one() {
    let shop = Shop::new("two-midway", &format!("{CHECK}\nENV WARM_UP=5s"), "");
    let ours = &shop.project;
    let two = Two::new(ours);
    ours.bed.copy_image(&ours.tag("v2"), &two.beside.0);
    fs::copy(ours.dir.join("compose.yaml"), two.theirs.dir.join("compose.yaml")).unwrap();
    two.theirs.compose(&["up", "-d"]);
    let target = ComposeService::new(two.engine().await, &ours.name, "shop");
    let run = shop.rollback(target).await;
    let run = tokio::spawn(async move { run.run().await.unwrap() });
    let candidate = format!("{}-shop-1-rollback", ours.name);
    let state = ["inspect", "-f", "{{.State.Running}}", &candidate];
    wait_until("the candidate runs", || ours.bed.try_docker(&state).as_deref() == Ok("true"));
    let before = two.switch();
    let report = run.await.unwrap();
    two.is_stuck(&report);
    assert_eq!(two.beside.0.everything(), before);
    let old = ours.all_containers().into_iter().find(|c| c["Name"] == format!("/{}-shop-1", ours.name)).unwrap();
    assert_eq!(ours.get(&old, "/version").as_deref(), Ok("v2"), "it serves as before");
    let again = shop.rollback(shop.target().await).await.blaming(shop.bad.as_str());
    let report = again.run().await.unwrap();
    assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
    shop.serves("v1");
    shop.accepted();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Docker bed"]
async fn in_the_middle_of_a_project_it_stops_and_goes_on_only_on_the_right_one() {
    let project = Bed::here().project("two-project");
    for tag in ["v1", "v2"] {
        project.image(tag, "");
    }
    let grace = "    stop_grace_period: 1s\n";
    deployed(&project, [&slow("v1", "5s", grace), &slow("v2", "5s", grace)]);
    let two = Two::new(&project);
    let db = project.containers("db")[0]["Id"].as_str().unwrap().to_owned();
    let options = ProjectOptions::new().with_git().with_name(&project.name);
    let target = ComposeProject::open(two.engine().await, &project.dir, options).await.unwrap();
    let run = flow(&target, &MemoryJournal::new());
    let run = tokio::spawn(async move { run.run().await.unwrap() });
    let databases = format!("name=^/{}-db-1$", project.name);
    let databases = ["ps", "--no-trunc", "--format", "{{.ID}}", "-f", &databases];
    wait_until("the database is made again", || {
        let now = project.bed.docker(&databases);
        !now.is_empty() && now != db
    });
    let before = two.switch();
    let report = run.await.unwrap();
    two.is_stuck(&report);
    assert_eq!(two.beside.0.everything(), before);
    // Without the address that moved.
    let target = open(&project, ProjectOptions::new().with_git()).await;
    let report = flow(&target, &MemoryJournal::new()).run().await.unwrap();
    assert!(report.outcome().is_good(), "{report}");
    assert_eq!(version(&project), "v1");
    assert_eq!(project.all_containers().len(), 2, "no leftovers");
}

/// `docker context update` while a target is open: its two halves, the API and the docker command line, stay at the engine that
/// it was opened on. Who connects anew and says which engine is meant is refused.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Docker bed"]
async fn a_context_that_is_made_to_lead_elsewhere_moves_no_target_that_is_open() {
    let project = Bed::here().project("two-contexts");
    for tag in ["v1", "v2"] {
        project.image(tag, "");
    }
    let grace = "    stop_grace_period: 1s\n";
    deployed(&project, [&yaml("v1", grace), &yaml("v2", grace)]);
    let two = Two::new(&project);
    let dir = tempfile::tempdir().unwrap();
    contexts(&project.bed, dir.path(), &[("prod", &format!("host={}", project.bed.host()))]);
    let options = || ConnectOptions::new().with_config_dir(dir.path()).with_context("prod");
    let engine = Engine::connect(options()).await.unwrap();
    let with = ProjectOptions::new().with_git().with_name(&project.name);
    let target = ComposeProject::open(engine.clone(), &project.dir, with).await.unwrap();
    let (config, elsewhere) = (dir.path().display().to_string(), format!("host={}", two.beside.0.host()));
    project.bed.docker(&["--config", &config, "context", "update", "prod", "--docker", &elsewhere]);
    let before = two.beside.0.everything();
    let report = flow(&target, &MemoryJournal::new()).run().await.unwrap();
    assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
    assert_eq!(version(&project), "v1");
    assert_eq!(two.beside.0.everything(), before);
    let e = Engine::connect(options().expecting(engine.id())).await.unwrap_err();
    assert_eq!((e.kind(), e.effect(), e.is_transient()), (Kind::Invalid, Effect::None, false), "{e}");
    assert!(two.ids.iter().all(|id| e.to_string().contains(id)), "{e}");
}
