//! The laws hold on each target, on a real engine.

use async_trait::async_trait;
use rollback_core::{
    Change, Result, Target, seconds,
    testing::laws::{
        Ruling,
        target::{Bench, each},
    },
};
use rollback_docker::{ComposeService, Container, Order};
use rollback_tests::bed::docker::{Bed, Project};
use std::{
    fmt::Debug,
    sync::{Arc, Mutex},
    time::Duration,
};

const QUICK: Duration = Duration::from_millis(100);

/// How a world is made, deployed to and taken away.
trait World: Debug + Send + Sync {
    fn deploy(&self, project: &Project, image: &str);
    fn target(&self, engine: rollback_docker::Engine, project: &Project) -> Arc<dyn Target>;
    fn vanish(&self, project: &Project);
}

#[derive(Debug)]
struct Service {
    /// More of the service in the Compose file.
    more: &'static str,
    order: Order,
}

impl World for Service {
    fn deploy(&self, project: &Project, image: &str) {
        project.file(&format!("services:\n  shop:\n    image: {image}\n{}", self.more));
        project.compose(&["up", "-d"]);
    }
    fn target(&self, engine: rollback_docker::Engine, project: &Project) -> Arc<dyn Target> {
        let service = ComposeService::new(engine, &project.name, "shop");
        Arc::new(service.with_drain(QUICK).with_stable_for(QUICK).with_order(self.order))
    }
    fn vanish(&self, project: &Project) {
        project.down();
    }
}

#[derive(Debug)]
struct Plain;

impl World for Plain {
    fn deploy(&self, project: &Project, image: &str) {
        let name = format!("{}-till", project.name);
        let _ = project.bed.try_docker(&["rm", "-f", &name]);
        project.bed.docker(&["run", "-d", "--name", &name, "-e", "MODE=till", image]);
    }
    fn target(&self, engine: rollback_docker::Engine, project: &Project) -> Arc<dyn Target> {
        let till = Container::new(engine, format!("{}-till", project.name));
        Arc::new(till.with_drain(QUICK).with_stable_for(QUICK))
    }
    fn vanish(&self, project: &Project) {
        project.bed.docker(&["rm", "-f", &format!("{}-till", project.name)]);
    }
}

#[derive(Debug)]
struct Worlds<W> {
    bed: Bed,
    world: W,
    /// The same images for each world: a release has the same id in all of them.
    images: Project,
    good: String,
    bad: String,
    now: Mutex<Option<Fresh>>,
}

#[derive(Debug)]
struct Fresh {
    project: Project,
    since: String,
}

impl<W: World> Worlds<W> {
    fn new(world: W) -> Self {
        let bed = Bed::here();
        let images = bed.project("laws-images");
        let (good, bad) = (images.image("v1", ""), images.image("v2", ""));
        images.image("v3", "");
        Self { bed, world, images, good, bad, now: Mutex::new(None) }
    }
    fn with<T>(&self, f: impl FnOnce(&Fresh) -> T) -> T {
        f(self.now.lock().unwrap().as_ref().unwrap())
    }
}

#[async_trait]
impl<W: World> Bench for Worlds<W> {
    async fn fresh(&self) -> Result<Arc<dyn Target>> {
        *self.now.lock().unwrap() = None;
        let project = self.bed.project("laws");
        self.world.deploy(&project, &self.images.tag("v2"));
        let target = self.world.target(self.bed.engine().await, &project);
        let since = self.bed.docker(&["info", "-f", "{{.SystemTime}}"]);
        *self.now.lock().unwrap() = Some(Fresh { project, since });
        Ok(target)
    }
    fn change(&self) -> Change {
        Change::release(&"all".into(), &self.good.as_str().into())
    }
    fn change_after(&self) -> Option<Change> {
        Some(Change::release(&"all".into(), &self.bad.as_str().into()))
    }
    async fn someone_deploys(&self) -> Option<Result<()>> {
        self.with(|now| self.world.deploy(&now.project, &self.images.tag("v3")));
        Some(Ok(()))
    }
    async fn vanish(&self) -> Option<Result<()>> {
        self.with(|now| self.world.vanish(&now.project));
        Some(Ok(()))
    }
    /// Containers that were made, as the engine's events tell.
    fn effects(&self) -> Option<usize> {
        self.with(|now| {
            let until = self.bed.docker(&["info", "-f", "{{.SystemTime}}"]);
            let said = self.bed.docker(&[
                "events",
                "--since",
                &now.since,
                "--until",
                &until,
                "-f",
                "event=create",
                "-f",
                "type=container",
                "--format",
                "{{.Actor.Attributes.name}}",
            ]);
            Some(said.lines().filter(|name| name.starts_with(&now.project.name)).count())
        })
    }
    fn patience(&self) -> Duration {
        seconds(60)
    }
}

async fn hold<W: World>(world: W, not_tried: &[&str]) {
    let ruled = each(&Worlds::new(world)).await;
    for (law, ruling) in &ruled {
        match ruling {
            Ok(Ruling::Kept) => assert!(!not_tried.contains(law), "{law} was said not to apply"),
            Ok(Ruling::DoesNotApply(why)) => assert!(not_tried.contains(law), "{law} was not tried: {why}"),
            Err(violation) => panic!("{violation:?}"),
        }
    }
    println!("measured: {} laws kept, {} do not apply", ruled.len() - not_tried.len(), not_tried.len());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Docker bed"]
async fn a_compose_service() {
    hold(Service { more: "", order: Order::Auto }, &["lower_epoch_is_refused"]).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Docker bed"]
async fn a_compose_service_with_two_replicas() {
    hold(Service { more: "    scale: 2\n", order: Order::Auto }, &["lower_epoch_is_refused"]).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Docker bed"]
async fn a_compose_service_that_stops_first() {
    hold(Service { more: "", order: Order::StopFirst }, &["lower_epoch_is_refused"]).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Docker bed"]
async fn a_plain_container() {
    hold(Plain, &["lower_epoch_is_refused"]).await;
}
