//! A closure hears.

use super::Observer;
use crate::Event;
use std::{fmt, sync::Arc};

/// An observer made of a closure.
///
/// ```
/// use rollback_core::{Event, EventKind, observe::Observe};
/// let ends = Observe::with(|event: &Event| {
///     if let EventKind::Ended(outcome) = &event.kind {
///         println!("{}: {outcome}", event.target);
///     }
/// });
/// ```
#[derive(Clone)]
pub struct Observe {
    hear: Arc<dyn Fn(&Event) + Send + Sync>,
}

impl Observe {
    /// Called with every event, in order, on the task that drives the run: it must return quickly.
    pub fn with(hear: impl Fn(&Event) + Send + Sync + 'static) -> Self {
        Self { hear: Arc::new(hear) }
    }
}

impl fmt::Debug for Observe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Observe")
    }
}

impl Observer for Observe {
    fn on_event(&self, event: &Event) {
        (self.hear)(event);
    }
}
