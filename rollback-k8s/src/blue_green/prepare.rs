//! A change made ready: what it needs is found out, nothing is touched.

use super::{BlueGreenService, ELSEWHERE, Instructions, service::Selector};
use crate::{
    connect::JsonPatch,
    kinds::{ENDPOINT_SLICE, SERVICE},
    owner,
    prepare::{Access, allow, permissions},
    side,
};
use rollback_core::{Change, DiffLine, Kind, PartId, Payload, Prepared, Result, Shape, Weight, Work};
use serde_json::json;

const OPERATION: &str = "prepare the change";

impl BlueGreenService {
    pub(super) async fn make_ready(&self, change: &Change, work: &Work) -> Result<Prepared> {
        let Change::Reach(shape) = change else {
            let text = "a blue/green Service can be switched, and its sides scaled or brought to a release";
            return Err(self.refused(Kind::Unsupported, OPERATION, text));
        };
        if let Some(to) = self.switched_to(shape)? {
            return self.make_switch_ready(change, &to).await;
        }
        let (releases, diff, findings) = side::prepare(&self.sides, shape, &self.id, work).await?;
        let mut prepared = Prepared::new(change).with_diff(diff);
        prepared.findings = findings;
        prepared.findings.extend(permissions(&self.cluster, &self.access()).await);
        Ok(prepared.with_instructions(Payload::of(&Instructions { select: None, releases })?))
    }

    /// The part that a change gives all of the traffic; `None` where it is not about traffic.
    fn switched_to(&self, shape: &Shape) -> Result<Option<PartId>> {
        if shape.0.values().all(|wish| wish.weight.is_none()) {
            return Ok(None);
        }
        let only_traffic = shape.0.values().all(|wish| wish.release.is_none() && wish.capacity.is_none());
        let mut to = shape.0.iter().filter(|(_, wish)| wish.weight != Some(Weight::NONE));
        match (to.next(), to.next()) {
            (Some((part, wish)), None) if only_traffic && wish.weight == Some(Weight::ALL) => {
                for part in shape.0.keys().filter(|part| part.as_str() != ELSEWHERE) {
                    side::find(&self.sides, part, &self.id)?;
                }
                side::find(&self.sides, part, &self.id)?;
                Ok(Some(part.clone()))
            }
            _ => {
                let text = "traffic is switched whole, to one side, in a change of its own";
                Err(self.refused(Kind::Unsupported, OPERATION, text))
            }
        }
    }

    async fn make_switch_ready(&self, change: &Change, to: &PartId) -> Result<Prepared> {
        let service = self.service().await?;
        let select = service.selecting(to, &side::written(&self.sides).await?)?;
        let mut prepared = Prepared::new(change).with_diff(difference(&service.selector, &select));
        prepared.findings = owner::findings(&owner::owners(&service.metadata));
        let missing = permissions(&self.cluster, &self.access()).await;
        if allow(&missing) && select != service.selector {
            // Admission may have its own mind about Services.
            let operations = vec![
                json!({"op": "test", "path": "/metadata/uid", "value": service.uid}),
                json!({"op": "test", "path": "/spec/selector", "value": service.selector}),
                json!({"op": "replace", "path": "/spec/selector", "value": select}),
            ];
            self.patch(operations, true, self.cluster.reply_within()).await?;
        }
        prepared.findings.extend(missing);
        let instructions = Instructions { select: Some(select), ..Instructions::default() };
        Ok(prepared.with_instructions(Payload::of(&instructions)?))
    }

    pub(super) async fn patch(
        &self,
        operations: Vec<serde_json::Value>,
        dry_run: bool,
        within: std::time::Duration,
    ) -> Result<()> {
        let patch = JsonPatch {
            operation: if dry_run { "try the switch" } else { "switch the Service" },
            kind: SERVICE,
            namespace: &self.namespace,
            name: &self.name,
            operations,
            dry_run,
            within,
        };
        self.cluster.patch(patch).await.map(drop)
    }

    fn access(&self) -> Vec<Access> {
        let own = [("get", SERVICE), ("patch", SERVICE), ("list", ENDPOINT_SLICE)];
        let own = own.map(|(verb, kind)| Access::new(verb, kind, &self.namespace));
        // All sides are in one namespace.
        own.into_iter().chain(self.sides.first().map(side::Side::access).into_iter().flatten()).collect()
    }
}

fn difference(from: &Selector, to: &Selector) -> Vec<DiffLine> {
    let changed = to.iter().filter(|(key, value)| from.get(*key) != Some(value));
    changed
        .map(|(key, value)| DiffLine {
            what: format!("selector {key}"),
            from: from.get(key).cloned(),
            to: Some(value.clone()),
        })
        .collect()
}
