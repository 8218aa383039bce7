//! No alert fires any more.

use super::{Verdict, Verifier, Window};
use crate::{Context, Evidence, Result, Timestamp};
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeSet,
    fmt::{self, Debug},
    future::Future,
    pin::Pin,
    sync::Arc,
};

/// How many alerts are named in the evidence.
const NAMED: usize = 10;

/// An alert that fires.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Alert {
    /// Its name: `HighErrorRate`.
    pub name: String,
    /// What it says, without secrets.
    pub text: String,
    /// Since when, where that is known.
    pub since: Option<Timestamp>,
}

impl Alert {
    /// An alert that fires.
    pub fn new(name: impl Into<String>, text: impl Into<String>) -> Self {
        Self { name: name.into(), text: text.into(), since: None }
    }
    /// Since when.
    pub fn with_since(mut self, since: Timestamp) -> Self {
        self.since = Some(since);
        self
    }
}

/// Knows which alerts fire: an alert manager, a monitoring service.
#[async_trait]
pub trait AlertSource: Debug + Send + Sync + 'static {
    /// Its name. No secrets.
    fn name(&self) -> String;
    /// The alerts that fire now, of what the run is about.
    ///
    /// # Errors
    /// Count as unknown.
    async fn firing(&self, context: &Context) -> Result<Vec<Alert>>;
}

#[async_trait]
impl<T: AlertSource + ?Sized> AlertSource for Arc<T> {
    fn name(&self) -> String {
        (**self).name()
    }
    async fn firing(&self, context: &Context) -> Result<Vec<Alert>> {
        (**self).firing(context).await
    }
}

/// No alert fires, but for those that are ignored.
///
/// ```
/// use rollback_core::{Context, verify::{Alert, AlertsQuiet}};
/// let quiet = AlertsQuiet::with("pager", |_: Context| async { Ok(vec![Alert::new("Watchdog", "always")]) })
///     .ignoring(["Watchdog"]);
/// ```
#[derive(Clone, Debug)]
pub struct AlertsQuiet {
    source: Arc<dyn AlertSource>,
    ignored: BTreeSet<String>,
    window: Window,
}

impl AlertsQuiet {
    /// As this source knows.
    pub fn of(source: impl AlertSource) -> Self {
        Self { source: Arc::new(source), ignored: BTreeSet::new(), window: Window::default() }
    }
    /// As a closure knows. Its future is dropped after [`Context::within`].
    pub fn with<F>(name: impl Into<String>, firing: impl Fn(Context) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<Vec<Alert>>> + Send + 'static,
    {
        Self::of(Closure { name: name.into(), firing: Box::new(move |context| Box::pin(firing(context))) })
    }
    /// These may fire: a watchdog that always does, an alert about something else.
    pub fn ignoring(mut self, names: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.ignored.extend(names.into_iter().map(Into::into));
        self
    }
    /// When samples are taken. Default: at once, one sample is enough.
    pub fn with_window(mut self, window: Window) -> Self {
        self.window = window;
        self
    }
}

#[async_trait]
impl Verifier for AlertsQuiet {
    fn name(&self) -> String {
        format!("no alert of {}", self.source.name())
    }
    fn window(&self) -> Window {
        self.window
    }
    async fn verify(&self, context: &Context) -> Result<Verdict> {
        let all = self.source.firing(context).await?;
        let what = format!("alerts of {}", self.source.name());
        let (ignored, firing): (Vec<_>, Vec<_>) = all.iter().partition(|alert| self.ignored.contains(&alert.name));
        let beside = if ignored.is_empty() { String::new() } else { format!(" ({} ignored)", ignored.len()) };
        if firing.is_empty() {
            return Ok(Verdict::Holds(vec![Evidence::new(what, format!("none fires{beside}"))]));
        }
        let mut evidence = vec![Evidence::new(what, format!("{} fire{beside}", firing.len()))];
        evidence.extend(firing.iter().take(NAMED).map(|alert| {
            let since = alert.since.map_or_else(String::new, |at| format!(" since {at}"));
            Evidence::new(format!("alert {}", alert.name), format!("{}{since}", super::short(&alert.text)))
        }));
        Ok(Verdict::Fails(evidence))
    }
}

type Firing = Pin<Box<dyn Future<Output = Result<Vec<Alert>>> + Send>>;

struct Closure {
    name: String,
    firing: Box<dyn Fn(Context) -> Firing + Send + Sync>,
}
impl Debug for Closure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Closure").field(&self.name).finish()
    }
}
#[async_trait]
impl AlertSource for Closure {
    fn name(&self) -> String {
        self.name.clone()
    }
    async fn firing(&self, context: &Context) -> Result<Vec<Alert>> {
        (self.firing)(context.clone()).await
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::sample::{of_parts, word};
    use super::*;

    #[tokio::test]
    async fn any_alert_that_is_not_ignored_fails_and_is_named() {
        let quiet = |names: &'static [&'static str]| {
            AlertsQuiet::with("pager", move |_| async move {
                Ok(names.iter().map(|name| Alert::new(*name, "text").with_since(Timestamp(0))).collect())
            })
            .ignoring(["Watchdog"])
        };
        let context = of_parts([]);
        assert_eq!(word(&quiet(&[]).verify(&context).await.unwrap()), "holds");
        let ignored = quiet(&["Watchdog"]).verify(&context).await.unwrap();
        assert_eq!((word(&ignored), ignored.evidence()[0].seen.as_str()), ("holds", "none fires (1 ignored)"));
        let fires = quiet(&["Watchdog", "Errors"]).verify(&context).await.unwrap();
        assert_eq!(word(&fires), "fails");
        assert_eq!(fires.evidence()[1], Evidence::new("alert Errors", "text since 1970-01-01T00:00:00.000Z"));
        assert_eq!(fires.evidence().len(), 2);
    }
}
