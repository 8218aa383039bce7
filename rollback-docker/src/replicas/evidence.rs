//! What is saved of them before the first change, and what they log.

use super::Replicas;
use crate::{error, evidence};
use async_trait::async_trait;
use bollard::query_parameters::LogsOptions;
use futures::StreamExt as _;
use rollback_core::{Artifact, Bounds, EvidenceSource, Result, Work};
use std::pin::pin;

#[async_trait]
impl EvidenceSource for Replicas {
    async fn collect(&self, bounds: Bounds, work: &Work) -> Result<Vec<Artifact>> {
        let filter = match &self.members {
            super::Members::Compose { project, service } => {
                ("label", vec![format!("{}={project}", super::PROJECT), format!("{}={service}", super::SERVICE)])
            }
            super::Members::Named(name) => ("container", vec![name.clone()]),
        };
        evidence::of(&self.engine, &self.present().await?, filter, vec![], bounds, work).await
    }
}

impl Replicas {
    /// What its containers logged in the last so long, oldest first for each.
    pub(crate) async fn lines_since(&self, time: std::time::Duration) -> Result<Vec<String>> {
        let now = jiff::Timestamp::now().checked_add(self.clock_ahead().await?).unwrap_or(jiff::Timestamp::MAX);
        let since = now.as_second().saturating_sub(i64::try_from(time.as_secs()).unwrap_or(i64::MAX));
        let mut lines = vec![];
        for member in self.members().await? {
            let options = LogsOptions {
                stdout: true,
                stderr: true,
                since: i32::try_from(since).unwrap_or_default(),
                ..LogsOptions::default()
            };
            let mut logged = pin!(self.engine.client().logs(&member.id, Some(options)));
            while let Some(line) = logged.next().await {
                let line = line.map_err(error::read(format!("read the log of {}", member.name)))?.into_bytes();
                lines.push(String::from_utf8_lossy(&line).trim_end().to_owned());
            }
        }
        Ok(lines)
    }
}
