//! What the builders of targets on [`Replicas`](crate::replicas::Replicas) share.

/// Setters and the whole of `Target`, forwarded.
macro_rules! of_replicas {
    ($name:ident) => {
        impl $name {
            /// How long both containers serve side by side before the old one stops, where they can: proxies and clients
            /// need that long to find the new address. Default: 2 s.
            pub fn with_drain(mut self, time: std::time::Duration) -> Self {
                self.0.options.drain = time;
                self
            }
            /// How long a container without a health check has to stay up to count as healthy. Default: 3 s.
            pub fn with_stable_for(mut self, time: std::time::Duration) -> Self {
                self.0.options.stable_for = time;
                self
            }
            /// In which order containers are replaced. Default: start first, where two can run side by side.
            ///
            /// ```no_run
            /// # use std::time::Duration;
            /// # use rollback_docker::{ComposeService, Engine, Order};
            /// # fn database(engine: Engine) {
            /// let db = ComposeService::new(engine, "shop", "db")
            ///     .with_order(Order::StopFirst)
            ///     .with_stable_for(Duration::from_secs(20));
            /// # }
            /// ```
            pub fn with_order(mut self, order: $crate::Order) -> Self {
                self.0.options.order = order;
                self
            }
            /// How many recorded releases are kept: their images pinned, and what their containers were given. Those go first
            /// that were deployed, or gone back to, the longest ago. Beside them as many that were not recorded: that a rollback
            /// left or brought, and that were pulled. Default: 10; at least 1.
            pub fn with_kept_records(mut self, count: usize) -> Self {
                self.0.options.keep = count.max(1);
                self
            }
            /// A directory that keeps recorded images outside of the engine: of those that came from a registry their
            /// digest, any other one whole; and what their containers were given. From there an image that is gone from the
            /// engine comes back while a rollback is prepared, with the credentials of the docker configuration. Default:
            /// none; then a pin holds an image against `docker image prune -a`, and nothing holds it against `docker system
            /// prune -a`.
            ///
            /// ```no_run
            /// # use rollback_docker::{ComposeService, Engine};
            /// # fn kept(engine: Engine) {
            /// let web = ComposeService::new(engine, "shop", "web").with_archive("/var/lib/rollback").with_kept_records(5);
            /// # }
            /// ```
            pub fn with_archive(mut self, dir: impl Into<std::path::PathBuf>) -> Self {
                self.0.options.archive = Some(dir.into());
                self
            }
            /// Fetches an image from its registry by its name with a tag or a digest, and pins it: it is a release of this
            /// target then, and can be gone to by name. Nobody has deployed it, so no choice leads to it. Nothing that runs is touched. It may take up to ten minutes.
            ///
            /// # Errors
            /// Without effect: [`Kind::Denied`](rollback_core::Kind::Denied) if the docker configuration has no credentials
            /// for the registry, or wrong ones; [`Kind::NotFound`](rollback_core::Kind::NotFound) if the registry does not
            /// have it; [`Kind::Unavailable`](rollback_core::Kind::Unavailable) (transient) if it does not answer.
            ///
            /// # Cancel safety
            /// The engine gives the download up when this is dropped.
            ///
            /// ```no_run
            /// # use rollback_core::{Choose, Rollback};
            /// # async fn pull(target: rollback_docker::ComposeService) -> rollback_core::Result<()> {
            /// let good = target.pull("registry.example.org/shop:2.3.9").await?;
            /// let report = Rollback::of(target).to(Choose::exactly(good.id)).run().await?;
            /// # Ok(()) }
            /// ```
            pub async fn pull(&self, name: &str) -> rollback_core::Result<rollback_core::Release> {
                self.0.pull(name).await
            }
            /// Healthy if this program, run in each of its containers, ends with 0. See [`ExecCheck`](crate::ExecCheck).
            ///
            /// # Errors
            /// [`Kind::Invalid`](rollback_core::Kind::Invalid) without a program.
            ///
            /// ```no_run
            /// use rollback_core::{Rollback, minutes, verify::StaysHealthy};
            /// # fn verify(target: rollback_docker::ComposeService) -> rollback_core::Result<()> {
            /// let smoke = target.exec(["/bin/smoke", "--quick"])?;
            /// let rollback = Rollback::of(target).recovered_when(StaysHealthy::for_at_least(minutes(2)).of(smoke));
            /// # Ok(()) }
            /// ```
            pub fn exec(
                &self,
                argv: impl IntoIterator<Item = impl Into<String>>,
            ) -> rollback_core::Result<$crate::ExecCheck> {
                $crate::ExecCheck::new(self.0.clone(), argv.into_iter().map(Into::into).collect())
            }
            /// A verifier that fails if a container of it has logged such a line since the last write of the run.
            ///
            /// ```no_run
            /// # fn verify(target: &rollback_docker::ComposeService) {
            /// let calm = target.log_scan("ERROR").pattern("panic:").allowing(2);
            /// # }
            /// ```
            pub fn log_scan(&self, pattern: impl Into<String>) -> rollback_core::verify::LogScan {
                let replicas = self.0.clone();
                let name = format!("logs of the {}", replicas.object());
                rollback_core::verify::LogScan::with(name, pattern, move |context| {
                    let replicas = replicas.clone();
                    async move { replicas.lines_since(context.since).await }
                })
            }
        }

        #[async_trait::async_trait]
        impl rollback_core::Target for $name {
            fn id(&self) -> &rollback_core::TargetId {
                &self.0.id
            }
            fn capabilities(&self) -> rollback_core::Capabilities {
                rollback_core::Capabilities::new(rollback_core::Fencing::Token)
            }
            async fn observe(&self, look: rollback_core::Look) -> rollback_core::Result<rollback_core::Observation> {
                self.0.look(&look).await
            }
            async fn history(&self, limit: usize) -> rollback_core::Result<Vec<rollback_core::Release>> {
                self.0.releases(limit).await
            }
            async fn prepare(
                &self,
                change: &rollback_core::Change,
                work: &rollback_core::Work,
            ) -> rollback_core::Result<rollback_core::Prepared> {
                self.0.make_ready(change, work).await
            }
            async fn apply(
                &self,
                approved: &rollback_core::Approved,
                token: rollback_core::Token,
                work: &rollback_core::Work,
            ) -> rollback_core::Result<rollback_core::Applied> {
                self.0.replace(approved, token, work).await
            }
            fn recorder(&self) -> Option<std::sync::Arc<dyn rollback_core::Record>> {
                Some(std::sync::Arc::new(self.0.clone()))
            }
            fn evidence(&self) -> Option<std::sync::Arc<dyn rollback_core::EvidenceSource>> {
                Some(std::sync::Arc::new(self.0.clone()))
            }
        }
    };
}
pub(crate) use of_replicas;
