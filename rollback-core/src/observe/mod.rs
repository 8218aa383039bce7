//! Who hears what happens: progress bars, notifications, metrics. An observer cannot fail a rollback.
//!
//! Not here: the report, which is made of the journal's lines and does not depend on anybody having listened.

mod closure;
mod collect;
mod progress;

pub use closure::Observe;
pub use collect::Collect;
pub use progress::Progress;

use crate::Event;
use std::{fmt::Debug, sync::Arc};

/// Hears every event, in order, on the task that drives the run: return quickly.
#[cfg_attr(feature = "mock", mockall::automock)]
pub trait Observer: Debug + Send + Sync + 'static {
    /// Something happened.
    fn on_event(&self, event: &Event);
}

macro_rules! forward {
    ($($pointer:ident),*) => { $(
        #[deny(clippy::missing_trait_methods)]
        impl<T: Observer + ?Sized> Observer for $pointer<T> {
            fn on_event(&self, event: &Event) {
                (**self).on_event(event);
            }
        }
    )* };
}
forward!(Arc, Box);

/// A text from elsewhere, safe for a terminal: without control characters, but for the ends of lines.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { '·' } else { c }).collect()
}
