//! A plain container, to an earlier image.

use crate::{
    connect::Engine,
    replicas::{Members, Replicas},
    target::of_replicas,
};

/// One container, made with `docker run --name`. Its release is its image; it goes back to an earlier image, under the same
/// name and with every other setting, in the way of [`ComposeService`](crate::ComposeService).
///
/// ```no_run
/// use rollback_core::{Rollback, Choose};
/// use rollback_docker::{ConnectOptions, Container, Engine};
/// # async fn roll_back() -> rollback_core::Result<()> {
/// let engine = Engine::connect(ConnectOptions::new()).await?;
/// let till = Container::new(engine, "till");
/// let report = Rollback::of(till).because("cannot print").to(Choose::verified().or_previous()).run().await?;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Container(pub(crate) Replicas);

impl Container {
    /// The container of this name. No I/O.
    pub fn new(engine: Engine, name: impl Into<String>) -> Self {
        Self(Replicas::new(engine, Members::Named(name.into())))
    }
}

of_replicas!(Container);
