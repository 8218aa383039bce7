//! A service of a Compose project, to an earlier image.
//!
//! Not here: a whole project by its file.

use crate::{
    connect::Engine,
    replicas::{Members, Replicas},
    target::of_replicas,
};

/// One service of a Compose project. Its release is the image that its containers run; it goes back to an earlier image,
/// and every other setting of the containers stays as it is.
///
/// - **Without a published port** the container of the good image is started beside the old one, under the same alias. When
///   its health check has passed, and after the drain time, the old one is stopped within its own grace. Nobody is cut
///   off who tries each address of the name, or again.
/// - **With one** two cannot run side by side: the old one is stopped, and kept until the good one is healthy. If that does
///   not come up it is removed, and the old one started again.
/// - Several replicas are replaced one at a time. If the second fails, the first stays on the good image, and the report
///   says so.
/// - What the *bad image* brought along (environment, command, labels, health check …) does not come with the settings.
/// - Compose takes the result for its own: `docker compose ps` shows it, `up -d` leaves it, also after a `pull` that brings
///   nothing new. What *does* bring the bad release back is `up --force-recreate`, `down` and `up`, or a change of the
///   service in the file while the file names the bad image: correct the file, or ask for a
///   [pin file](ComposeService::with_pin_file).
/// - A container is found again by its name and labels, so a rollback that was killed goes on where it was.
///
/// The read is compared before the first write, and the names of containers guard against two that write at once; what
/// slips in between steps is noticed at the next one.
///
/// ```no_run
/// use rollback_core::{Rollback, Choose};
/// use rollback_docker::{ComposeService, ConnectOptions, Engine};
/// # async fn roll_back() -> rollback_core::Result<()> {
/// let engine = Engine::connect(ConnectOptions::new().expecting("prod-7")).await?;
/// let web = ComposeService::new(engine, "shop", "web");
/// let report = Rollback::of(web).because("500s since 2.4.0").to(Choose::verified().or_previous()).run().await?;
/// println!("{report}");
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct ComposeService(pub(crate) Replicas);

impl ComposeService {
    /// The service of this name in the project of that name (`docker compose ls` shows projects). No I/O.
    pub fn new(engine: Engine, project: impl Into<String>, service: impl Into<String>) -> Self {
        Self(Replicas::new(engine, Members::Compose { project: project.into(), service: service.into() }))
    }
    /// A Compose file on this host, written when a rollback is through: it says that the service has the good image, so
    /// that `docker compose pull`, `down` and `up` do not bring the bad one back. Compose reads `compose.override.yaml`
    /// beside its file by itself; one of another name takes a `-f` of its own. The first `up` with it makes the containers
    /// anew, of the good image. Default: none, and preparing says what brings the bad image back.
    ///
    /// It outlasts the next deploy, which has to remove it. A file that no rollback wrote is never replaced: then preparing
    /// is refused.
    ///
    /// ```no_run
    /// # use rollback_docker::{ComposeService, Engine};
    /// # fn pinned(engine: Engine) {
    /// let web = ComposeService::new(engine, "shop", "web").with_pin_file("/srv/shop/compose.override.yaml");
    /// # }
    /// ```
    pub fn with_pin_file(mut self, path: impl Into<std::path::PathBuf>) -> Self {
        self.0.options.pin_file = Some(path.into());
        self
    }
}

of_replicas!(ComposeService);
