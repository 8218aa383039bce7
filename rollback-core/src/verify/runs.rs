//! What really runs is the wanted release.

use super::{Verdict, Verifier, Window};
use crate::{Context, Evidence, Result, Running};
use async_trait::async_trait;

/// Every part that serves really runs the wanted release and was told nothing else, and none speaks of the suspect.
///
/// A mix, something in between or another release fails; a part whose release the platform cannot name is unknown.
///
/// ```
/// use rollback_core::verify::{Runs, StaysHealthy, VerifierExt};
/// use rollback_core::minutes;
/// let recovered = Runs::wanted().and(StaysHealthy::for_at_least(minutes(2)));
/// ```
#[derive(Clone, Debug)]
pub struct Runs {
    window: Window,
}

impl Runs {
    /// The release that is to be reached.
    pub fn wanted() -> Self {
        Self { window: Window::default() }
    }
    /// When samples are taken. Default: at once, one sample is enough.
    pub fn with_window(mut self, window: Window) -> Self {
        self.window = window;
        self
    }
}

#[async_trait]
impl Verifier for Runs {
    fn name(&self) -> String {
        "the wanted release runs".into()
    }
    fn window(&self) -> Window {
        self.window
    }
    async fn verify(&self, context: &Context) -> Result<Verdict> {
        let (mut evidence, mut wrong, mut unknown) = (vec![], false, false);
        for (id, part) in context.now.serving() {
            let told = part.wanted.as_ref().filter(|told| **told != context.wanted);
            let mut seen = format!("runs {}", part.running);
            if let Some(told) = told {
                seen = format!("{seen}, told to run {told}");
            }
            let suspect = part.wanted.iter().chain(part.running.mentions()).any(|r| *r == context.suspect);
            match part.running {
                Running::Unknown { .. } if told.is_none() => unknown = true,
                _ => wrong |= suspect || !part.runs(&context.wanted),
            }
            evidence.push(Evidence::new(format!("part {id}"), seen));
        }
        if evidence.is_empty() {
            return Ok(Verdict::Fails(vec![Evidence::new("parts", "none serves")]));
        }
        Ok(match (wrong, unknown) {
            (true, _) => Verdict::Fails(evidence),
            (false, true) => Verdict::Unknown(evidence),
            (false, false) => Verdict::Holds(evidence),
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::sample::{of_parts, word};
    use super::*;
    use crate::{PartState, ReleaseId, Weight};

    #[tokio::test]
    async fn told_and_running_must_both_be_the_wanted_one() {
        let told_bad = PartState::new(Some("bad".into()), Running::Release("good".into()));
        let runs_bad = PartState::new(Some("good".into()), Running::Release("bad".into()));
        let mix = [(ReleaseId::from("good"), 2), ("bad".into(), 1)].into();
        let mixed = PartState::new(Some("good".into()), Running::Mixed(mix));
        let between = Running::Between { from: "bad".into(), to: "good".into(), state: "dirty".into() };
        let unknown = Running::Unknown { fingerprint: "f".into(), named: None };
        let hand_edit = PartState::new(None, unknown);
        let idle = PartState::of("bad").with_weight(Weight::NONE);
        for (parts, want) in [
            (vec![PartState::of("good")], "holds"),
            (vec![PartState::of("good"), PartState::of("good")], "holds"),
            (vec![PartState::of("good"), PartState::of("bad")], "fails"),
            (vec![PartState::of("good"), idle.clone()], "holds"),
            (vec![told_bad], "fails"),
            (vec![runs_bad], "fails"),
            (vec![mixed], "fails"),
            (vec![PartState::new(Some("good".into()), between)], "fails"),
            (vec![PartState::of("good"), hand_edit.clone()], "unknown"),
            (vec![PartState::of("bad"), hand_edit], "fails"),
            (vec![PartState::of("other")], "fails"),
            (vec![idle], "fails"),
        ] {
            let verdict = Runs::wanted().verify(&of_parts(parts.clone())).await.unwrap();
            assert_eq!(word(&verdict), want, "{parts:?}");
            assert!(!verdict.evidence().is_empty());
        }
    }

    #[tokio::test]
    async fn where_the_suspect_is_wanted_too_it_still_has_to_go() {
        let mut context = of_parts([PartState::of("good")]);
        context.suspect = "good".into();
        assert_eq!(word(&Runs::wanted().verify(&context).await.unwrap()), "fails");
    }
}
