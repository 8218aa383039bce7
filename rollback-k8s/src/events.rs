//! Events: what the cluster's components said of objects.

use crate::{
    connect::{Cluster, PAGE},
    error::Request,
    kinds::EVENT,
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Event;
use kube::{Api, api::ListParams};
use rollback_core::Result;
use std::time::Duration;

/// Pages that are read: a namespace in trouble can have tens of thousands of events.
const PAGES: usize = 20;

/// The events of a namespace that a field selector finds, and whether there are more than were read.
pub(crate) async fn list(
    cluster: &Cluster,
    namespace: &str,
    fields: &str,
    time: Duration,
) -> Result<(Vec<Event>, bool)> {
    let request = Request { operation: "list events", verb: "list", kind: EVENT, namespace: Some(namespace), name: "" };
    let api: Api<Event> = Api::namespaced(cluster.client().clone(), namespace);
    let mut params = ListParams::default().limit(PAGE).fields(fields);
    let mut all = vec![];
    for _ in 0..PAGES {
        let page = cluster.ask(time, &request, api.list(&params)).await?;
        all.extend(page.items);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Ok((all, false)),
        }
    }
    Ok((all, true))
}

/// When it happened last: there are three generations of fields for that.
pub(crate) fn last_seen(event: &Event) -> Option<Timestamp> {
    let series = event.series.as_ref().and_then(|series| series.last_observed_time.as_ref()).map(|at| at.0);
    let last = event.last_timestamp.as_ref().map(|at| at.0);
    let once = event.event_time.as_ref().map(|at| at.0);
    series.or(last).or(once).or(event.metadata.creation_timestamp.as_ref().map(|at| at.0))
}

pub(crate) fn is_warning(event: &Event) -> bool {
    event.type_.as_deref() == Some("Warning")
}

/// `Unhealthy (Pod checkout-5d4): Readiness probe failed`.
pub(crate) fn told(event: &Event) -> String {
    let about = &event.involved_object;
    let text = |of: &Option<String>| of.clone().unwrap_or_default();
    format!("{} ({} {}): {}", text(&event.reason), text(&about.kind), text(&about.name), text(&event.message).trim())
}
