//! Tells Swarm.

use super::{SwarmService, Way, observe::Version, prepare::To, record::Keep};
use crate::{error, marks::Marks, pins::How};
use bollard::query_parameters::UpdateServiceOptions;
use rollback_core::{Applied, Approved, Error, Kind, Payload, Result, Timestamp, Token, Work};

impl SwarmService {
    pub(super) async fn carry_out(&self, approved: &Approved, token: Token, work: &Work) -> Result<Applied> {
        let operation = "update the service";
        let wanted = approved.change.only_release()?;
        let (to, version): (To, Version) = (approved.read()?, token.read()?);
        let failed = |kind, why: String| Error::new(kind, operation).with_message(why).without_effect();
        if work.is_cancelled() {
            return Err(failed(Kind::Conflict, "this run has lost its lease".into()));
        }
        let read = self.read().await?;
        if read.service != version.service || read.version != version.index {
            return Err(failed(Kind::Conflict, "the service was written since it was looked at".into()));
        }
        // A paused update to it is begun again: the same template, told anew.
        let paused = read.unsettled().is_some() && read.update.is_some_and(super::observe::is_paused);
        if read.told == *wanted && !paused {
            return Ok(if read.unsettled().is_none() { Applied::done() } else { Applied::submitted() });
        }
        let found = self.find(wanted, &read).await?;
        // What is left must be there to be looked at, and to be gone back to.
        let keep = |at, stays| Keep { label: None, how: How::Ran, at, stays: Some(stays) };
        self.keep(&read.service, &read.template, keep(read.updated.unwrap_or_else(Timestamp::now), wanted)).await?;
        // Of all that is kept it is the newest, and the last that goes.
        self.keep(&read.service, &found.spec, keep(Timestamp::now(), &read.told)).await?;
        let mut spec = read.spec.clone();
        let mut options = UpdateServiceOptions {
            version: i32::try_from(version.index)
                .map_err(|_| failed(Kind::Unsupported, "its version is beyond what the client can send".into()))?,
            // The credentials of the registry go with the spec that had them.
            registry_auth_from: match to.way {
                Way::Given => "spec".into(),
                Way::Previous => "previous-spec".into(),
            },
            rollback: None,
        };
        match to.way {
            Way::Previous => options.rollback = Some("previous".into()),
            Way::Given => {
                let force = read.template.force_update.unwrap_or_default() + u64::from(paused);
                let mut template = found.spec;
                template.force_update = Some(force);
                spec.task_template = Some(template);
                let mut labels = spec.labels.take().unwrap_or_default();
                // Others who update the service leave the labels there: so they say of which release they are.
                let replaces = Some(wanted.to_string());
                Marks { key: Some(work.key()), replaces, trace: work.trace().cloned(), ..Marks::default() }
                    .put(&mut labels);
                spec.labels = Some(labels);
            }
        }
        let handle = Payload::of(&version)?;
        let written = self.inner.engine.client().update_service(&read.service, spec, options, None).await;
        written.map_err(|e| match &e {
            // It says so with a 500: the index is no more the one that was read.
            e2 if e2.to_string().contains("out of sequence") => {
                failed(Kind::Conflict, "the service was written since it was looked at".into()).with_source(e)
            }
            _ => error::write(operation)(e),
        })?;
        Ok(Applied::submitted().with_handle(handle))
    }
}
