//! What a rollback leaves on the containers it makes: which run made them, in place of what, and the trace that the next
//! one reads.
//!
//! Labels of a container cannot be changed, so all of it is written when the container is made. That is enough: the
//! newest container of ours tells, and what somebody else deploys has no such labels, so the trace goes with it.

use rollback_core::{Trace, Work};
use std::collections::HashMap;

/// The key of the write that made the container.
pub(crate) const KEY: &str = "rollback.key";
/// The name it takes over: the container of that name is the one it replaces.
pub(crate) const FOR: &str = "rollback.for";
/// The image by the name that it had before the first rollback, for whoever compares with the Compose file.
pub(crate) const IMAGE_NAME: &str = "rollback.image-name";
/// What break-glass reads.
pub(crate) const TRACE: &str = "rollback.trace";
/// What all of them begin with.
const OURS: &str = "rollback.";

type Labels = HashMap<String, String>;

/// What our labels say.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Marks {
    pub(crate) key: Option<String>,
    pub(crate) replaces: Option<String>,
    pub(crate) image_name: Option<String>,
    pub(crate) trace: Option<Trace>,
}

impl Marks {
    /// Reads them. What cannot be read counts as not there: somebody wrote it by hand.
    pub(crate) fn read(labels: &Labels) -> Self {
        let text = |name: &str| labels.get(name).cloned();
        let trace = labels.get(TRACE).and_then(|json| serde_json::from_str(json).ok());
        Self { key: text(KEY), replaces: text(FOR), image_name: text(IMAGE_NAME), trace }
    }

    /// The marks of a write.
    pub(crate) fn of(work: &Work, replaces: &str, image_name: &str) -> Self {
        Self {
            key: Some(work.key()),
            replaces: Some(replaces.into()),
            image_name: Some(image_name.into()),
            trace: work.trace().cloned(),
        }
    }

    /// Puts them onto labels, in place of those of an earlier rollback.
    pub(crate) fn put(&self, labels: &mut Labels) {
        remove(labels);
        let trace = self.trace.as_ref().and_then(|trace| serde_json::to_string(trace).ok());
        for (name, value) in [
            (KEY, self.key.clone()),
            (FOR, self.replaces.clone()),
            (IMAGE_NAME, self.image_name.clone()),
            (TRACE, trace),
        ] {
            if let Some(value) = value {
                labels.insert(name.into(), value);
            }
        }
    }
}

/// Removes all of ours.
pub(crate) fn remove(labels: &mut Labels) {
    labels.retain(|name, _| !name.starts_with(OURS));
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use rollback_core::{RunId, Timestamp};

    #[test]
    fn what_is_put_is_read_and_nothing_older_stays() {
        let trace = Trace { run: RunId::from("r"), left: "2".into(), reached: "1".into(), at: Timestamp(5) };
        let marks = Marks {
            key: Some("r/1".into()),
            replaces: Some("shop-1".into()),
            image_name: Some("shop:2".into()),
            trace: Some(trace),
        };
        let mut labels: Labels = [("team".to_string(), "till".to_string()), ("rollback.old".into(), "x".into())].into();
        marks.put(&mut labels);
        assert_eq!(Marks::read(&labels), marks);
        assert!(!labels.contains_key("rollback.old"));
        labels.insert(TRACE.into(), "{".into());
        assert_eq!(Marks::read(&labels).trace, None);
        remove(&mut labels);
        assert_eq!(labels.len(), 1);
    }
}
