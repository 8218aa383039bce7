//! A Compose project with one service, `shop`: what most tests here roll back.

use rollback_core::{Choose, Policy, Report, Rollback, Target, seconds};
use rollback_docker::ComposeService;
use rollback_tests::bed::docker::{Bed, Inspected, Project, wait_until};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU16, Ordering},
    time::Duration,
};

pub(crate) struct Shop {
    pub(crate) project: Project,
    pub(crate) good: String,
    pub(crate) bad: String,
    pub(crate) service: String,
}

/// A health check that asks often.
pub(crate) const CHECK: &str =
    "HEALTHCHECK --interval=200ms --timeout=1s --retries=3 --start-period=20s CMD [\"/bin/shop\",\"health\"]";
/// A port of the host that no other test has.
pub(crate) fn port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(18080);
    NEXT.fetch_add(1, Ordering::Relaxed)
}
/// Publishes it.
pub(crate) fn published(port: u16) -> String {
    format!("    ports: [\"{port}:8080\"]\n")
}

/// Removes a journal with all that lies beside it.
pub(crate) fn forget(journal: &Path) {
    let name = journal.file_name().unwrap().to_string_lossy();
    for entry in fs::read_dir(journal.parent().unwrap()).unwrap().map(Result::unwrap) {
        if entry.file_name().to_string_lossy().starts_with(&*name) {
            let path = entry.path();
            let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
            removed.unwrap();
        }
    }
}

impl Shop {
    /// The bad version serves. Lines of a Dockerfile for the good image, of YAML for the service.
    pub(crate) fn new(name: &str, good: &str, service: &str) -> Self {
        Self::on(&Bed::here(), name, good, service)
    }
    /// On another bed.
    pub(crate) fn on(bed: &Bed, name: &str, good: &str, service: &str) -> Self {
        let project = bed.project(name);
        let good = project.image("v1", good);
        let bad = project.image("v2", "ENV FAIL_PERCENT=0");
        let shop = Self { project, good, bad, service: service.into() };
        shop.deploy("v2");
        shop
    }
    pub(crate) fn file(&self, tag: &str) {
        self.project.file(&format!("services:\n  shop:\n    image: IMAGE:{tag}\n{}", self.service));
    }
    pub(crate) fn deploy(&self, tag: &str) {
        self.file(tag);
        self.project.compose(&["up", "-d"]);
    }
    pub(crate) async fn target(&self) -> ComposeService {
        let service = ComposeService::new(self.project.bed.engine().await, &self.project.name, "shop");
        service.with_drain(Duration::from_millis(300)).with_stable_for(Duration::from_millis(300))
    }
    pub(crate) fn journal(&self) -> PathBuf {
        self.project.dir.join("journal.db")
    }
    pub(crate) async fn rollback(&self, target: impl Target) -> Rollback {
        Rollback::of(target)
            .because("a test")
            .to(Choose::exactly(self.good.as_str()))
            .journal(rollback_core::journal::SqliteJournal::open(self.journal()).unwrap())
            .policy(Policy::default().with_poll(Duration::from_millis(200)).with_lease(seconds(2)))
    }
    pub(crate) async fn roll_back(&self) -> Report {
        let target = self.target().await;
        self.rollback(target).await.run().await.unwrap()
    }
    /// The one container of the service, and there is nothing else of the project.
    #[track_caller]
    pub(crate) fn only(&self) -> Inspected {
        let mut all = self.project.all_containers();
        let names: Vec<_> = all.iter().map(|c| c["Name"].to_string()).collect();
        assert_eq!(names, [format!("\"/{}-shop-1\"", self.project.name)], "exactly one container, under its name");
        all.remove(0)
    }
    #[track_caller]
    pub(crate) fn serves(&self, version: &str) {
        let only = self.only();
        assert_eq!(only["State"]["Running"], true);
        // A server without a health check listens a moment after it was started.
        wait_until("it answers", || self.project.get(&only, "/version").is_ok());
        assert_eq!(self.project.get(&only, "/version").unwrap(), version);
        let image = if version == "v1" { &self.good } else { &self.bad };
        assert_eq!(only["Image"].as_str(), Some(image.as_str()), "the image as it runs, not as a tag says");
    }
    /// Both containers of a service that has two run the good image, in all of their networks, and there is nothing else of
    /// the project.
    #[track_caller]
    pub(crate) fn both_are_back(&self) {
        let all = self.project.all_containers();
        let mut names: Vec<_> = all.iter().map(|c| c["Name"].as_str().unwrap()).collect();
        names.sort_unstable();
        assert_eq!(names, [1, 2].map(|n| format!("/{}-shop-{n}", self.project.name)), "both, and nothing else");
        for one in &all {
            assert_eq!(
                (one["Image"].as_str(), &one["State"]["Running"]),
                (Some(self.good.as_str()), &true.into()),
                "{one}"
            );
            let networks = one["NetworkSettings"]["Networks"].as_object().unwrap().len();
            assert_eq!(networks, if self.service.contains("networks:") { 2 } else { 1 }, "{one}");
        }
    }
    /// Compose leaves it as it is.
    #[track_caller]
    pub(crate) fn accepted(&self) {
        let before = self.only()["Id"].clone();
        self.project.compose(&["up", "-d"]);
        assert_eq!(self.only()["Id"], before, "docker compose up -d made it anew");
        assert!(self.project.compose(&["ps"]).contains(&format!("{}-shop-1", self.project.name)));
    }
}
