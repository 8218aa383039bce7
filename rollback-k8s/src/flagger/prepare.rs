//! A change of a Canary, made ready.

use super::{FlaggerCanary, Seen, Undo, canary::Phase};
use rollback_core::{
    Change, DiffLine, Error, Finding, Kind, Look, Payload, Prepared, ReleaseId, Result, Settled, Severity, Target as _,
    Work,
};

impl FlaggerCanary {
    pub(super) async fn prepare_abort(&self, change: &Change, never: &ReleaseId) -> Result<Prepared> {
        let seen = self.look(&Look::full()).await?;
        let refused = |why: String| Error::new(Kind::Stale, "end the run").with_message(why).without_effect();
        let primary = seen.primary.as_ref().ok_or_else(|| refused("it has no primary to land on".into()))?;
        let landing = seen.workload.release_of(&primary.told);
        if landing == *never {
            return Err(refused(format!("it would land on {landing}, which is to be left: undo the target instead")));
        }
        let mut lines = vec![
            DiffLine::new("traffic", seen.canary.progress(), format!("all to the primary, {landing}")),
            DiffLine::new("replicas of the target", seen.workload.replicas.to_string(), "0"),
        ];
        if !seen.canary.in_flight() {
            lines.clear();
        }
        let mut findings = self.findings(&seen);
        findings.extend(capacity(&seen));
        let prepared = Prepared::new(change).with_diff(lines);
        Ok(findings.into_iter().fold(prepared, Prepared::with_finding))
    }

    pub(super) async fn prepare_undo(&self, change: &Change, work: &Work) -> Result<Prepared> {
        let seen = self.look(&Look::full()).await?;
        let of_target = self.deployment(&seen.canary).prepare(change, work).await?;
        let mut findings = of_target.findings;
        findings.extend(self.findings(&seen));
        if let Some(release) = change.only_release().ok().filter(|release| {
            seen.primary.as_ref().is_some_and(|primary| seen.workload.release_of(&primary.told) != **release)
        }) {
            findings.push(Finding::new(
                Severity::Note,
                "analysis",
                format!("Flagger brings {release} out by its analysis, as any other release: as long as that takes"),
            ));
        }
        let diff = of_target.approved.diff.clone();
        let prepared =
            Prepared::new(change).with_instructions(Payload::of(&Undo { target: of_target.approved })?).with_diff(diff);
        Ok(findings.into_iter().fold(prepared, Prepared::with_finding))
    }

    fn findings(&self, seen: &Seen) -> Vec<Finding> {
        let canary = &seen.canary;
        let mut findings = vec![];
        if canary.skips_analysis {
            findings.push(Finding::new(
                Severity::Warning,
                "skip-analysis",
                "the Canary has skipAnalysis: Flagger promotes whatever its target is told, unchecked, and asks no rollback \
                 webhook; remove it",
            ));
        }
        if canary.suspended {
            let text = "the Canary is suspended: Flagger carries nothing out until spec.suspend is false";
            findings.push(Finding::new(Severity::Blocks, "suspended", text));
        }
        match canary.phase {
            Phase::Running if !self.can_end(seen) && !canary.skips_analysis && !canary.suspended => {
                let text = if canary.webhooks.is_empty() {
                    "a run is in flight, and the Canary names no rollback webhook: nothing ends the run from outside, and \
                     a reverted template alone would go unnoticed. Add a webhook of type rollback to its analysis \
                     (Flagger's load tester has one), or wait: its own checks end it"
                } else {
                    "a run is in flight, and how its rollback webhook is made to answer 200 is not known: whoever \
                     built this program must give it the gate of that webhook; until then, open the gate by hand, and order it \
                     again once Flagger says Failed"
                };
                findings.push(Finding::new(Severity::Blocks, "rollback-webhook", text));
            }
            Phase::Running if seen.target.parts.values().any(|part| part.ready == Some(0)) => findings.push(Finding::new(
                Severity::Warning,
                "rollback-webhook",
                "no pod of the target is ready, and Flagger asks its rollback webhook only when they are: the run may end \
                 by progressDeadlineSeconds only; the primary serves meanwhile",
            )),
            Phase::Promoting => findings.push(Finding::new(
                Severity::Warning,
                "promoting",
                "it is being promoted, which nothing stops: it is waited for, then it goes back by another analysis",
            )),
            _ => {}
        }
        findings
    }
}

/// All of the traffic is about to come to the primary: it must be there first.
fn capacity(seen: &Seen) -> Option<Finding> {
    let primary = seen.primary.as_ref()?;
    let ready: u32 = primary.seen.parts.values().filter_map(|part| part.ready).sum();
    let state = primary.seen.parts.values().find_map(|part| match &part.settled {
        Settled::NotYet { why } | Settled::Never { why } => Some(why.clone()),
        Settled::Yes => None,
    });
    if primary.replicas > 0 && ready >= primary.replicas {
        return None;
    }
    let why = state.map(|why| format!(" ({why})")).unwrap_or_default();
    let text = format!(
        "the primary has {ready} of {} replicas ready{why}, and all of the traffic would come to it: bring it to its \
         capacity first",
        primary.replicas
    );
    Some(Finding::new(Severity::Blocks, "capacity", text))
}
