//! Enough instances can serve.

use super::{Verdict, Verifier, Window};
use crate::{Context, Evidence, Result};
use async_trait::async_trait;

/// Instances of the parts that serve are ready: as many as each is told to have, or a number in all.
///
/// Where the platform does not count, it is unknown.
///
/// ```
/// use rollback_core::{verify::InstancesReady, seconds, Window};
/// let all = InstancesReady::all().with_window(Window::default().with_hold(seconds(30)));
/// let enough = InstancesReady::at_least(3);
/// ```
#[derive(Clone, Debug)]
pub struct InstancesReady {
    at_least: Option<u32>,
    window: Window,
}

impl InstancesReady {
    /// In each part as many as it is told to have. A part that is told to have none does not serve.
    pub fn all() -> Self {
        Self { at_least: None, window: Window::default() }
    }
    /// So many, over all parts that serve.
    pub fn at_least(n: u32) -> Self {
        Self { at_least: Some(n), window: Window::default() }
    }
    /// When samples are taken. Default: at once, one sample is enough.
    pub fn with_window(mut self, window: Window) -> Self {
        self.window = window;
        self
    }
}

#[async_trait]
impl Verifier for InstancesReady {
    fn name(&self) -> String {
        match self.at_least {
            Some(n) => format!("at least {n} instances are ready"),
            None => "all instances are ready".into(),
        }
    }
    fn window(&self) -> Window {
        self.window
    }
    async fn verify(&self, context: &Context) -> Result<Verdict> {
        let (mut evidence, mut ready, mut short, mut unknown) = (vec![], 0u32, false, false);
        for (id, part) in context.now.serving() {
            let number = |n: Option<u32>| n.map_or_else(|| "unknown".to_string(), |n| n.to_string());
            let seen = format!("{} ready of {}", number(part.ready), number(part.capacity));
            evidence.push(Evidence::new(format!("part {id}"), seen));
            ready = ready.saturating_add(part.ready.unwrap_or(0));
            match (self.at_least, part.ready, part.capacity) {
                (Some(_), None, _) => unknown = true,
                (None, Some(ready), Some(capacity)) => short |= ready < capacity,
                (None, ..) => unknown = true,
                (Some(_), Some(_), _) => {}
            }
        }
        if evidence.is_empty() {
            return Ok(Verdict::Fails(vec![Evidence::new("parts", "none serves")]));
        }
        let enough = self.at_least.is_some_and(|n| ready >= n);
        let short = short || self.at_least.is_some() && !enough && !unknown;
        Ok(match (enough, short, unknown) {
            (true, ..) => Verdict::Holds(evidence),
            (_, true, _) => Verdict::Fails(evidence),
            (.., true) => Verdict::Unknown(evidence),
            _ => Verdict::Holds(evidence),
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::sample::{of_parts, word};
    use super::*;
    use crate::{PartState, Weight};

    #[tokio::test]
    async fn each_part_or_a_number_in_all() {
        let part = |capacity, ready| PartState::of("good").with_capacity(capacity, ready);
        let uncounted = PartState::of("good");
        let idle = part(3, 0).with_weight(Weight::NONE);
        for (parts, all, three) in [
            (vec![part(3, 3)], "holds", "holds"),
            (vec![part(3, 2)], "fails", "fails"),
            (vec![part(2, 2), part(1, 1)], "holds", "holds"),
            (vec![part(2, 2), part(2, 1)], "fails", "holds"),
            (vec![part(3, 3), idle], "holds", "holds"),
            (vec![part(3, 3), uncounted.clone()], "unknown", "holds"),
            (vec![part(3, 2), uncounted.clone()], "fails", "unknown"),
            (vec![uncounted], "unknown", "unknown"),
            (vec![part(0, 0)], "fails", "fails"),
        ] {
            let context = of_parts(parts.clone());
            assert_eq!(word(&InstancesReady::all().verify(&context).await.unwrap()), all, "{parts:?}");
            assert_eq!(word(&InstancesReady::at_least(3).verify(&context).await.unwrap()), three, "{parts:?}");
        }
    }
}
