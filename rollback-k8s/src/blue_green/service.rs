//! The Service, and what its selector has to say of each side. Pure but for the read.

use crate::{
    connect::Cluster,
    kinds::SERVICE,
    marks::Annotations,
    side::{Seen, Written},
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use rollback_core::{Error, Kind, PartId, PartMap, Result};
use serde_json::Value;
use std::collections::BTreeMap;

/// Labels by which a Service finds its pods.
pub(super) type Selector = BTreeMap<String, String>;

/// A Service as it was read.
#[derive(Clone, Debug)]
pub(super) struct Service {
    pub(super) metadata: ObjectMeta,
    pub(super) uid: String,
    pub(super) annotations: Annotations,
    pub(super) selector: Selector,
}

fn unfit(why: impl Into<String>) -> Error {
    Error::new(Kind::Invalid, "read the Service").with_message(why).without_effect()
}

impl Service {
    pub(super) async fn read(cluster: &Cluster, namespace: &str, name: &str) -> Result<Self> {
        let object = cluster.named("read the Service", SERVICE, namespace, name).await?;
        let selector = object.data.pointer("/spec/selector").cloned().unwrap_or(Value::Null);
        let selector: Option<Selector> =
            serde_json::from_value(selector).map_err(|e| unfit("its selector cannot be read").with_source(e))?;
        let selector = selector.filter(|selector| !selector.is_empty());
        Ok(Self {
            uid: object.metadata.uid.clone().unwrap_or_default(),
            annotations: object.metadata.annotations.clone().unwrap_or_default().into_iter().collect(),
            selector: selector.ok_or_else(|| unfit("it has no selector, so nothing can be switched"))?,
            metadata: object.metadata,
        })
    }

    /// The side that it sends to; `None` where it is none of them.
    ///
    /// # Errors
    /// Where it finds pods of two sides at once: that is no switch.
    pub(super) fn serving<'a>(&self, sides: &'a [Seen]) -> Result<Option<&'a Seen>> {
        let found: Vec<&Seen> = sides.iter().filter(|side| finds(&self.selector, &side.written)).collect();
        match found[..] {
            [] => Ok(None),
            [one] => Ok(Some(one)),
            [a, b, ..] => Err(unfit(format!(
                "its selector finds pods of both {} and {}: add a label that tells them apart, or roll back as a canary \
                 pair",
                a.part, b.part
            ))),
        }
    }

    /// The selector that sends to this side: the same keys, with the values that its pods have.
    ///
    /// # Errors
    /// Where its pods lack a label that the selector needs, or the selector would find others too.
    pub(super) fn selecting(&self, part: &PartId, sides: &PartMap<Written>) -> Result<Selector> {
        let side = sides.get(part).ok_or_else(|| unfit(format!("there is no part {part}")))?;
        let labels = side.labels();
        let mut selector = Selector::new();
        for key in self.selector.keys() {
            let value = labels.get(key).ok_or_else(|| {
                unfit(format!("its selector asks for the label {key}, which the pods of {part} do not have"))
            })?;
            selector.insert(key.clone(), value.clone());
        }
        match sides.iter().find(|(other, side)| *other != part && finds(&selector, side)) {
            Some((other, _)) => Err(unfit(format!(
                "the labels of its selector do not tell {part} from {other}: add one that differs to the selector"
            ))),
            None => Ok(selector),
        }
    }
}

fn finds(selector: &Selector, side: &Written) -> bool {
    let labels = side.labels();
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use serde_json::json;

    fn service(selector: &[(&str, &str)]) -> Service {
        let selector = selector.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
        Service { metadata: ObjectMeta::default(), uid: "u".into(), annotations: Annotations::new(), selector }
    }
    fn sides(of: &[(&str, Value)]) -> PartMap<Written> {
        let side = |labels: &Value| Written::sample(json!({"metadata": {"labels": labels}}));
        of.iter().map(|(part, labels)| (PartId::from(*part), side(labels))).collect()
    }

    #[test]
    fn the_selector_of_the_other_side_has_the_same_keys() {
        let two = sides(&[
            ("blue", json!({"app": "shop", "color": "blue", "version": "1"})),
            ("green", json!({"app": "shop", "color": "green", "version": "2"})),
        ]);
        let blue = PartId::from("blue");
        let selecting = |selector: &[(&str, &str)]| service(selector).selecting(&blue, &two);
        let selector = selecting(&[("app", "shop"), ("color", "green")]).unwrap();
        assert_eq!(serde_json::to_value(selector).unwrap(), json!({"app": "shop", "color": "blue"}));
        let selector = selecting(&[("version", "2")]).unwrap();
        assert_eq!(serde_json::to_value(selector).unwrap(), json!({"version": "1"}));
        // Found by a third label, by one that both have, or pointing elsewhere to begin with.
        assert!(selecting(&[("tier", "web")]).unwrap_err().to_string().contains("tier"));
        assert!(selecting(&[("app", "shop")]).unwrap_err().to_string().contains("tell blue from green"));
        assert!(selecting(&[("app", "shop"), ("color", "red")]).is_ok());
    }
}
