//! What a StatefulSet and a DaemonSet have alike in public.

/// The methods that both have, and [`Target`](rollback_core::Target) and [`Record`](rollback_core::Record), all by their
/// `workload`. The name is that of the method of `Cluster` that makes one.
macro_rules! revisioned {
    ($type:ident, $made:literal) => {
        impl $type {
            /// ConfigMaps that its pods refer to come back with the release, as they were when it was recorded
            /// ([`Target::recorder`](rollback_core::Target::recorder)): first they, then the template, each refused if it is
            /// not as it was looked at; and all pods start once more, because those that run may have read what was there
            /// before. What is overwritten is archived first. Default: they stay, and a finding says which have changed.
            ///
            /// ```no_run
            /// # fn all(cluster: rollback_k8s::Cluster) {
            #[doc = concat!("let target = cluster.", $made, "(\"shop\", \"cart\").restoring_config_maps();")]
            /// # }
            /// ```
            pub fn restoring_config_maps(mut self) -> Self {
                self.workload.options.config.restore = true;
                self
            }
            /// A Secret that its pods refer to is archived, and put back, as ConfigMaps are. Default: none is. A password
            /// that was changed since does not work any more once it is put back.
            pub fn with_secret(mut self, name: impl Into<String>) -> Self {
                self.workload.options.config.secrets.insert(name.into());
                self
            }
            /// How many recorded releases are kept; older ones are deleted when another is recorded. Default: 20.
            pub fn with_kept_records(mut self, count: usize) -> Self {
                self.workload.options.config.keep = Some(count);
                self
            }
            /// Where health checks reach a pod. Default: the first port that a container declares.
            pub fn with_health_port(mut self, port: u16) -> Self {
                self.workload.options.health_port = Some(port);
                self
            }
            /// Verifiers and health checks of its pods that the API server answers.
            ///
            /// ```no_run
            #[doc = concat!("# fn of(cart: rollback_k8s::", stringify!($type), ") {")]
            /// let gone = cart.checks().bad_pods_gone();
            /// # }
            /// ```
            pub fn checks(&self) -> $crate::PodChecks {
                self.workload.checks()
            }
            /// The release of a revision number, as `kubectl rollout history` shows it: for `--to-revision`. Numbers change
            /// with every rollback; the release does not.
            ///
            /// ```no_run
            /// # use rollback_core::prelude::*;
            #[doc = concat!("# async fn to_revision(cart: rollback_k8s::", stringify!($type), ") -> Result<()> {")]
            /// let seven = cart.revision(7).await?;
            /// let report = Rollback::of(cart).because("as asked").to(Choose::Exactly(seven.id)).run().await?;
            /// # Ok(())
            /// # }
            /// ```
            ///
            /// # Errors
            /// [`Kind::NotFound`](rollback_core::Kind::NotFound) for a number that no ControllerRevision has; otherwise as
            /// [`Target::history`](rollback_core::Target::history).
            pub async fn revision(&self, number: i64) -> rollback_core::Result<rollback_core::Release> {
                self.workload.revision(number).await
            }
            /// Its name in its namespace.
            pub fn name(&self) -> &str {
                &self.workload.name
            }
            /// Its namespace.
            pub fn namespace(&self) -> &str {
                &self.workload.namespace
            }
        }

        const _: () = {
            use rollback_core::{
                Applied, Approved, Capabilities, Change, EvidenceSource, Look, Observation, Prepared, Record, Release,
                Result, Target, TargetId, Token, Work,
            };
            use std::sync::Arc;

            #[async_trait::async_trait]
            impl Target for $type {
                fn id(&self) -> &TargetId {
                    &self.workload.id
                }
                fn capabilities(&self) -> Capabilities {
                    self.workload.capabilities()
                }
                async fn observe(&self, look: Look) -> Result<Observation> {
                    self.workload.observe(look).await
                }
                async fn history(&self, limit: usize) -> Result<Vec<Release>> {
                    self.workload.history(limit).await
                }
                async fn prepare(&self, change: &Change, work: &Work) -> Result<Prepared> {
                    self.workload.prepare(change, work).await
                }
                async fn apply(&self, approved: &Approved, token: Token, work: &Work) -> Result<Applied> {
                    self.workload.apply(approved, token, work).await
                }
                fn recorder(&self) -> Option<Arc<dyn Record>> {
                    Some(Arc::new(self.clone()))
                }
                fn evidence(&self) -> Option<Arc<dyn EvidenceSource>> {
                    self.workload.evidence()
                }
            }

            #[async_trait::async_trait]
            impl Record for $type {
                async fn record(&self, label: &str) -> Result<Release> {
                    self.workload.record(label).await
                }
            }
        };
    };
}
pub(crate) use revisioned;
