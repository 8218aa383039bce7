//! Keeps what was heard.

use super::Observer;
use crate::Event;
use std::sync::{Arc, Mutex, PoisonError};

/// Keeps all events, for tests. Clones share them; nothing bounds them.
///
/// ```
/// use rollback_core::{Event, EventKind, Observer, Timestamp, observe::Collect};
/// let events = Collect::new();
/// let waits = EventKind::Waiting { why: "blue".into() };
/// events.clone().on_event(&Event::new("run".into(), "t".into(), Timestamp(0), waits));
/// assert_eq!(events.events().len(), 1);
/// ```
#[derive(Clone, Debug, Default)]
pub struct Collect {
    events: Arc<Mutex<Vec<Event>>>,
}

impl Collect {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }
    /// All that were heard, in order.
    pub fn events(&self) -> Vec<Event> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Observer for Collect {
    fn on_event(&self, event: &Event) {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).push(event.clone());
    }
}
