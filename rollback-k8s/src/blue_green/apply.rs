//! The writes.

use super::{BlueGreenService, Instructions, Read};
use crate::{marks, side};
use rollback_core::{Applied, Approved, Change, Kind, Result, Weight, Work};
use serde_json::json;

impl BlueGreenService {
    pub(super) async fn carry_out(&self, approved: &Approved, read: &Read, work: &Work) -> Result<Applied> {
        let instructions: Instructions = approved.read()?;
        let Change::Reach(shape) = &approved.change else {
            return Err(self.refused(Kind::Unsupported, "make the change", "not a change of this target"));
        };
        if instructions.select.is_some() {
            self.switch(approved, &instructions, read, work).await?;
            return Ok(Applied::submitted());
        }
        let service = self.service().await?;
        if service.uid != read.uid {
            let text = "the Service was deleted and made anew since it was looked at";
            return Err(self.refused(Kind::Conflict, "make the change", text));
        }
        side::apply(&self.sides, shape, &instructions.releases, side::Traffic::Elsewhere, &read.sides, &self.id, work)
            .await?;
        Ok(Applied::submitted())
    }

    async fn switch(&self, approved: &Approved, instructions: &Instructions, read: &Read, work: &Work) -> Result<()> {
        let Change::Reach(shape) = &approved.change else { return Ok(()) };
        let to = shape.0.iter().find(|(_, wish)| wish.weight == Some(Weight::ALL)).map(|(part, _)| part.clone());
        let (Some(to), Some(select)) = (to, &instructions.select) else { return Ok(()) };
        // Neither side may have been overwritten since: what is switched to must be what was looked at, and what is left
        // must still be bad.
        let sides = side::unchanged(&self.sides, &read.sides).await?;
        let service = self.service().await?;
        let Some(side) = sides.get(&to) else { return Ok(()) };
        if service.selecting(&to, &sides)? != *select {
            let text = format!("the labels of {to} are not what they were when this was prepared: prepare again");
            return Err(self.refused(Kind::Stale, "switch the Service", text));
        }
        if service.uid == read.uid && service.selector == *select {
            return Ok(());
        }
        let mut operations = vec![
            json!({"op": "test", "path": "/metadata/uid", "value": read.uid}),
            json!({"op": "test", "path": "/spec/selector", "value": read.selector}),
            json!({"op": "replace", "path": "/spec/selector", "value": select}),
        ];
        marks::annotate(&mut operations, read.annotated, marks::of(work, &side.told()));
        self.patch(operations, false, work.within()).await
    }
}
