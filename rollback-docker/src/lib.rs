//! Docker targets for [`rollback_core`]: services and projects of Compose, plain containers,
//! services of a Swarm.
//!
//! | target | release | how it is replaced |
//! |---|---|---|
//! | [`ComposeService`] | the image | one container at a time, start first where two can run side by side |
//! | [`Container`] | the image | likewise |
//! | [`ComposeProject`] | its files | by `docker compose up -d`, or `down` first |
//! | [`SwarmService`] | its task template | by Swarm, a few tasks at a time |
//!
//! Not here: when to roll back and whether it helped, which is the core's business; building images; Kubernetes.
//!
//! # Permissions
//! Who may use the engine's socket may do everything on its host, and a rollback needs it: there are no finer permissions
//! that could be asked for.
//!
//! # Which engine
//! The id of an engine is part of a target's id, which is the key of journal and ledger: `compose:ENGINE/PROJECT/SERVICE`,
//! `compose:ENGINE/PROJECT`, `container:ENGINE/NAME`, `swarm:ENGINE/NAME`. So a rollback that is taken up again through an
//! address that leads to another engine by now finds nothing to take up: name the engine that is meant with
//! [`ConnectOptions::expecting`], and such an address is refused.
//!
//! A target that is open asks after each look, and before Compose is told anything, whether it is still that engine. If another
//! one answers, that is [`Invalid`](rollback_core::Kind::Invalid) and says both. Containers and services are written to by
//! their ids, which no other engine has. An address is looked up once, by [`Engine::connect`]: what is done to a context later
//! moves nothing that is open, neither its API calls nor those of the docker command line.
//!
//! # Room on disk
//! Preparing says how much is left where the engine keeps its data, once images are there: `disk-low` (below 256 MiB) is a
//! warning, `disk-full` (below 1 MiB, or no inode) blocks. It is seen only where that directory is on this host, this user may
//! look into it, and it certainly is this engine's; otherwise `disk-unknown` notes why not. The nodes of a swarm are other
//! hosts: `nodes-unknown`.
//!
//! # What there is to go back to
//! The engine does not remember what was deployed. So a release counts as deployed that was
//! [recorded](rollback_core::record::record) (on the engine, in an archive or in the ledger), that a rollback left or brought, or
//! that runs now; newest is the one whose last deploy was last, however often it was deployed. Only among those
//! `Choose::verified()`, `or_previous()`, `previous()`, `nth()`, `as_of()` and break-glass choose.
//!
//! Other images of the same repository, and one that was [pulled](ComposeService::pull), are in the history as
//! [undeployed](rollback_core::Release::undeployed): they are gone to by name alone (`Choose::exactly` with an id, a tag or a
//! label). Where nothing was recorded yet, the refusal lists them with tag, short id and time, so that one can be named.
//!
//! Of a project the same holds for [edited images](ComposeProject::edit_images); commits and backups count as deployed, because you
//! name them as the source of what is. A Swarm keeps what its service was told, so all that it knows was deployed.
//!
//! # What is recorded at a deploy
//! Of a [`ComposeService`] and a [`Container`]: the image, held against a prune; and what the containers were given (environment,
//! mounts, networks, limits, labels), so that preparing a rollback can name what is other by now. What runs keeps the settings
//! that it has; only names are told, in reports and in the journal.
//!
//! Where no container of the target is left, those of the recorded release are made again with what they were given. Nothing
//! serves then, so the [suspect has to be named](rollback_core::Rollback::blaming). Networks are not made again, and preparing
//! names those that are gone.
//!
//! The values may be secrets. They are kept where those of what runs are, by the engine: in the environment of the container
//! that holds the image, which `docker inspect` shows and no list. In an archive they are in a file that only its owner may
//! read. They go when the record goes, which is after as many more records as are
//! [kept](ComposeService::with_kept_records): a password that must not lie there for longer is better given as a file. What is
//! deployed again, or gone back to, is the newest record again. Of what a rollback leaves or brings and nobody
//! recorded the image is held likewise, without what its containers were given and with a count of its own: as far as the engine
//! takes it, and the report says so where it did not.
//!
//! After each deploy:
//! ```no_run
//! # use rollback_core::{Journal, Result, Timestamp, record::record};
//! # async fn deployed(web: rollback_docker::ComposeService, journal: &dyn Journal) -> Result<()> {
//! record(&web, journal, "2.4.0", Timestamp::now()).await?;
//! # Ok(()) }
//! ```
//!
//! # What is left on the engine
//! On containers that a rollback made, and on Swarm services, the labels `rollback.key`, `rollback.for`,
//! `rollback.image-name` and `rollback.trace`. For each image that was recorded or left a tag below `rollback/`, and a container
//! that never starts: leave both, they hold it against a prune. In a swarm, configs with the task template of each release
//! that was recorded or left, environment included. Beside a Compose project the folder `.rollback`, for its owner only, which
//! git ignores.
//!
//! # Evidence
//! Before the first change: `docker-tasks/1` (Swarm), `docker-ps/1`, `docker-inspect/1` (JSON, without the values of the
//! environment), `docker-events/1` (of the last hour), `docker-logs/1` (the last lines of each container).
//!
//! # Features
//! `tls`: engines over TLS. `ssh`: over SSH. Neither is a default; without it, connecting that way is
//! [`Unsupported`](rollback_core::Kind::Unsupported), and says so.
//!
//! # Podman
//! Its service speaks Docker's API, and is refused by name: [`Engine::connect`] is
//! [`Unsupported`](rollback_core::Kind::Unsupported) before anything but its version was asked. Seen with Podman 4.3:
//!
//! - It gives another id each time it is asked, and the id is how a rollback knows that it is still at the engine that was
//!   looked at, and how two that press the button find out that they mean the same target.
//! - Containers cannot be found by the whole of their name in Docker's way of asking, and the name is what guards against two
//!   that make the same container.
//! - Health checks are run by systemd: where that is not, none ever passes.

mod archive;
mod compose_project;
mod compose_service;
mod connect;
mod container;
mod diff;
mod disk;
mod error;
mod evidence;
mod exec;
mod health;
mod image;
mod marks;
mod member;
mod pins;
mod registry;
mod release;
mod replicas;
mod settings;
mod spec;
mod swarm_service;
mod target;

pub use compose_project::{ComposeProject, Mode, ProjectOptions};
pub use compose_service::ComposeService;
pub use connect::{ConnectOptions, Engine};
pub use container::Container;
pub use exec::ExecCheck;
pub use replicas::Order;
pub use swarm_service::{SwarmService, Way};
