//! The writes.

use super::{CanaryPair, Instructions, Read, route::How};
use crate::{side, side::having_written};
use rollback_core::{Applied, Approved, Change, Kind, Result, Work};

impl CanaryPair {
    pub(super) async fn carry_out(&self, approved: &Approved, read: &Read, work: &Work) -> Result<Applied> {
        let instructions: Instructions = approved.read()?;
        let Change::Reach(shape) = &approved.change else {
            return Err(self.refused(Kind::Unsupported, "make the change", "not a change of this target"));
        };
        let Some(shares) = self.shares(shape)? else {
            let traffic = if self.routes.is_empty() { side::Traffic::ByReplicas } else { side::Traffic::Elsewhere };
            side::apply(&self.sides, shape, &instructions.releases, traffic, &read.sides, &self.id, work).await?;
            return Ok(Applied::submitted());
        };
        if read.routes.len() != self.routes.len() {
            let text = "the token is of another set of routing objects";
            return Err(self.refused(Kind::Invalid, "read the token", text));
        }
        // Traffic goes to what was looked at, and leaves what is still bad.
        side::unchanged(&self.sides, &read.sides).await?;
        let mut wrote = false;
        for (route, seen) in self.routes.iter().zip(&read.routes) {
            let written = route.write(&self.cluster, &self.namespace, seen, &shares, How::Really(work)).await;
            wrote |= written.map_err(|e| if wrote { having_written(e) } else { e })?;
        }
        Ok(Applied::submitted())
    }
}
